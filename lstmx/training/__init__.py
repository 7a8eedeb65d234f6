"""Training: the loop, its state, and what watches it."""

from lstmx.training.callbacks import Callback, History, get_callbacks
from lstmx.training.monitor import GradientMonitor
from lstmx.training.parameters import Parameters
from lstmx.training.progress import Progress
from lstmx.training.stopping import EarlyStopping, Watcher, get_early_stopping
from lstmx.training.trainer import Trainer, TrainerState, draw_keys

__all__ = [
    "Callback",
    "EarlyStopping",
    "GradientMonitor",
    "History",
    "Parameters",
    "Progress",
    "Trainer",
    "TrainerState",
    "Watcher",
    "draw_keys",
    "get_callbacks",
    "get_early_stopping",
]
