"""Training: the loop, its state, and what watches it."""

from lstmx.training.callbacks import Callback, History, get_callbacks
from lstmx.training.monitor import GradientMonitor
from lstmx.training.parameters import Parameters, draw_keys
from lstmx.training.progress import Progress
from lstmx.training.stopping import EarlyStopping, Watcher, get_early_stopping
from lstmx.training.trainer import Trainer, TrainerState
from lstmx.training.truncated import Recomputed, Truncated, read_truncation, refuse

__all__ = [
    "Callback",
    "EarlyStopping",
    "GradientMonitor",
    "History",
    "Parameters",
    "Progress",
    "Recomputed",
    "Trainer",
    "TrainerState",
    "Truncated",
    "Watcher",
    "draw_keys",
    "get_callbacks",
    "get_early_stopping",
    "read_truncation",
    "refuse",
]
