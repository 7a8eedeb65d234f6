"""Training on long sequences in segments of time, beside that of whole ones."""

import numpy as np

import lstmx

from .common import THREADS, Benchmark, batch, layer, limit_threads, once, sizes


class Segments(Benchmark):
    """An epoch of one update, of an LSTM with a Dense layer on each step, whole and in an eighth of the memory."""

    params = (("T2000 N16 I32 H128",), THREADS)
    param_names = ("shape", "threads")

    @once
    def setup(self, shape, threads):
        limit_threads(threads)
        shape = sizes(shape)
        self.net = lstmx.Sequential([layer(shape), lstmx.Dense(shape["H"], 1)], random_state=0)
        self.x = batch(shape)
        self.y = np.random.default_rng(0).normal(size=(*self.x.shape[:2], 1)).astype(np.float32)
        self.eighth = self.net.memory(shape["N"], shape["T"], training=True) // 8
        self.fit()

    def fit(self, **options):
        self.net.fit(self.x, self.y, batch_size=len(self.x), epochs=1, verbose=0, **options)

    def time_whole(self, shape, threads):
        self.fit()

    def time_an_eighth_of_the_memory(self, shape, threads):
        self.fit(memory=self.eighth)


class Truncated(Benchmark):
    """Updates of truncated back-propagation on one series: every k1 steps, k2 steps back."""

    params = (("T2000 N1 I1 H32",), ((200, 200), (50, 200)))
    param_names = ("shape", "tbptt")

    @once
    def setup(self, shape, tbptt):
        limit_threads(1)
        shape = sizes(shape)
        self.net = lstmx.Sequential([layer(shape), lstmx.Dense(shape["H"], 1)], random_state=0)
        self.x = batch(shape)

    def time_epoch(self, shape, tbptt):
        self.net.fit(self.x, self.x, tbptt=tbptt, epochs=1, verbose=0)


class TruncatedMemory(Benchmark):
    """Peak memory of the process, which does not grow with the steps but for the series itself."""

    params = (("T10000 N1 I1 H64", "T1000000 N1 I1 H64"),)
    param_names = ("shape",)

    def setup(self, shape):
        limit_threads(1)
        shape = sizes(shape)
        self.net = lstmx.Sequential([layer(shape), lstmx.Dense(shape["H"], 1)], random_state=0)
        self.x = batch(shape)

    def peakmem_inputs(self, shape):
        pass

    def peakmem_epoch(self, shape):
        self.net.fit(self.x, self.x, tbptt=1000, epochs=1, verbose=0)
