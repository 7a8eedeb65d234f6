"""The options of the cell, each on one shape and one thread; "plain" is what they are held against."""

import numpy as np

import lstmx
from lstmx.bench.cells import CELLS

from .common import Benchmark, batch, limit_threads, once, sizes

SHAPE = "T50 N32 I64 H128"


class Option(Benchmark):
    """float32: inference, and a training step (forward and backward with dx)."""

    params = (tuple(CELLS),)
    param_names = ("cell",)

    @once
    def setup(self, cell):
        limit_threads(1)
        shape, option = sizes(SHAPE), CELLS[cell]
        proj_size = option.proj_size(shape["H"])
        self.lstm = lstmx.LSTM(shape["I"], shape["H"], proj_size=proj_size, cell=option.cell, random_state=0)
        self.x = batch(shape)
        self.dy = np.ones_like(self.lstm(self.x)[0])
        self.time_training(cell)

    def time_inference(self, cell):
        self.lstm(self.x)

    def time_training(self, cell):
        _, _, tape = self.lstm.forward(self.x)
        self.lstm.backward(tape, self.dy)
