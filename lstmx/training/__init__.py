"""Training: the loop, its state, and what watches it."""

from lstmx.training.callbacks import Callback, History, get_callbacks
from lstmx.training.monitor import GradientMonitor
from lstmx.training.parameters import Parameters, draw_keys
from lstmx.training.progress import Progress
from lstmx.training.ranks import Alone, Ranks, open_ranks
from lstmx.training.shards import Sharded, ShardSource
from lstmx.training.stopping import EarlyStopping, Watcher, get_early_stopping
from lstmx.training.trainer import Trainer, TrainerState
from lstmx.training.truncated import Recomputed, Truncated, read_truncation, refuse
from lstmx.training.updates import Whole

__all__ = [
    "Alone",
    "Callback",
    "EarlyStopping",
    "GradientMonitor",
    "History",
    "Parameters",
    "Progress",
    "Ranks",
    "Recomputed",
    "ShardSource",
    "Sharded",
    "Trainer",
    "TrainerState",
    "Truncated",
    "Watcher",
    "Whole",
    "draw_keys",
    "get_callbacks",
    "get_early_stopping",
    "open_ranks",
    "read_truncation",
    "refuse",
]
