"""One step at a time from Python, as a stream sees it."""

import time

import numpy as np

import lstmx

from .common import THREADS, Benchmark, layer, limit_threads, once, sizes


class Step(Benchmark):
    """LSTM.step; without N the stream is one sequence (I,)."""

    params = (("I1 H16", "I1 H32", "I16 H64", "I128 H128", "N64 I16 H64"), THREADS)
    param_names = ("shape", "threads")
    steps = 100

    def model(self, shape):
        return layer(shape)

    @once
    def setup(self, shape, threads):
        limit_threads(threads)
        shape = sizes(shape)
        self.net = self.model(shape)
        inputs = (self.steps, shape["N"], shape["I"]) if "N" in shape else (self.steps, shape["I"])
        self.x = list(np.random.default_rng(0).normal(size=inputs).astype(np.float32))
        self.time_100_steps(shape, threads)

    def time_100_steps(self, shape, threads):
        step, state = self.net.step, None
        for x_t in self.x:
            _, state = step(x_t, state)

    def track_p99(self, shape, threads):
        """The time within which 99 of 100 single steps return."""
        state, times = None, []
        for _ in range(10):
            for x_t in self.x:
                start = time.perf_counter()
                _, state = self.net.step(x_t, state)
                times.append(time.perf_counter() - start)
        return np.percentile(times, 99)

    track_p99.unit = "seconds"


class SequentialStep(Step):
    """Sequential.step of an LSTM and a Dense layer."""

    params = (("I1 H16", "I16 H64", "N64 I16 H64"), THREADS)

    def model(self, shape):
        return lstmx.Sequential([layer(shape), lstmx.Dense(shape["H"], 1)], random_state=0)
