"""The layers of a model; each works on packed rows (see lstmx.functional.context)."""

from lstmx.layers.activation import Activation
from lstmx.layers.base import Layer, Run
from lstmx.layers.lstm import LSTM, Trace
from lstmx.layers.masking import Masking, Reversed, Unmask
from lstmx.layers.pooling import FinalState, Last, MeanPool
from lstmx.layers.rnn import RNN
from lstmx.layers.simple import Dense, Dropout, Embedding, RowGradient

__all__ = [
    "LSTM",
    "RNN",
    "Activation",
    "Dense",
    "Dropout",
    "Embedding",
    "FinalState",
    "Last",
    "Layer",
    "Masking",
    "MeanPool",
    "Reversed",
    "RowGradient",
    "Run",
    "Trace",
    "Unmask",
]
