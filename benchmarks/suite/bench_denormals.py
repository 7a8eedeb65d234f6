"""A state that decays through the subnormal numbers, where arithmetic can take a hundred times as long."""

import numpy as np

import lstmx

from .common import Benchmark, limit_threads


class Decay(Benchmark):
    """Zero input, all gates at 0.5: the memory halves at every step. Beside it the same layer with a living state."""

    params = (("float32", "float64"), ("decayed", "alive"))
    param_names = ("dtype", "state")

    def setup(self, dtype, state):
        limit_threads(1)
        self.lstm = lstmx.LSTM(4, 64, random_state=0, dtype=dtype)
        if state == "decayed":
            self.lstm.set_parameters({name: np.zeros(p.shape) for name, p in self.lstm.parameters().items()})
        self.x = np.zeros((8, 4000, 4), dtype)
        self.start = np.ones((1, 8, 64), dtype), np.ones((1, 8, 64), dtype)

    def time_inference(self, dtype, state):
        self.lstm(self.x, self.start)

    def time_training(self, dtype, state):
        y, _, tape = self.lstm.forward(self.x[:, :500], self.start)
        self.lstm.backward(tape, y)
