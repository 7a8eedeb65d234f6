"""One epoch of Sequential.fit."""

import numpy as np

import lstmx
from lstmx.bench import shapes

from .common import THREADS, Benchmark, batch, layer, limit_threads, once, sizes


class Regressor(Benchmark):
    """An LSTM and a Dense layer, mean squared error, Adam, batches of 32."""

    params = ((f"T{shapes.FIT[0].T} N512 I{shapes.FIT[0].I} H{shapes.FIT[0].H}",), THREADS)
    param_names = ("shape", "threads")
    outputs = 1, "linear"
    loss = "mse"

    @once
    def setup(self, shape, threads):
        limit_threads(threads)
        shape = sizes(shape)
        dense = lstmx.Dense(shape["H"], *self.outputs)
        self.net = lstmx.Sequential([layer(shape), lstmx.Last(), dense], random_state=0)
        self.x = batch(shape)
        self.y = np.random.default_rng(0).integers(9, size=len(self.x))
        self.fit(self.x[:32], self.y[:32])

    def fit(self, x, y):
        self.net.fit(x, y, loss=self.loss, batch_size=32, epochs=1, verbose=0)

    def time_epoch(self, shape, threads):
        self.fit(self.x, self.y)


class RaggedClassifier(Regressor):
    """A softmax over nine classes, for sequences of different lengths."""

    params = (("T7..29 N270 I12 H64",), THREADS)
    outputs = 9, "softmax"
    loss = "categorical_crossentropy"
