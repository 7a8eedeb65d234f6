"""The layers of a model; each works on packed rows (see lstmx.functional.context)."""

from lstmx.layers.base import Layer, Run
from lstmx.layers.lstm import LSTM, Trace
from lstmx.layers.simple import Dense, Dropout, Embedding, FinalState, Last, MeanPool, RowGradient

__all__ = [
    "LSTM",
    "Dense",
    "Dropout",
    "Embedding",
    "FinalState",
    "Last",
    "Layer",
    "MeanPool",
    "RowGradient",
    "Run",
    "Trace",
]
