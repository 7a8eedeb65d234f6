"""One step at a time from Python, as a stream sees it."""

import numpy as np

import lstmx
from lstmx.bench import shapes

from .common import THREADS, Benchmark, call_times, layer, limit_threads, once, sizes


class Step(Benchmark):
    """LSTM.step; without N the stream is one sequence (I,)."""

    params = ((*(f"I{s.I} H{s.H}" for s in shapes.STEP), "I16 H64", "I128 H128", "N64 I16 H64"), THREADS)
    param_names = ("shape", "threads")

    def model(self, shape):
        return layer(shape)

    @once
    def setup(self, shape, threads):
        limit_threads(threads)
        shape = sizes(shape)
        self.net = self.model(shape)
        size = (shape["N"], shape["I"]) if "N" in shape else shape["I"]
        self.x_t = np.random.default_rng(0).normal(size=size).astype(np.float32)
        self.state = None
        self.step()

    def step(self):
        _, self.state = self.net.step(self.x_t, self.state)

    def time_100_steps(self, shape, threads):
        for _ in range(100):
            self.step()

    def track_p99(self, shape, threads):
        """The time within which 99 of 100 single steps return."""
        return np.percentile(call_times(self.step), 99)

    track_p99.unit = "seconds"


class SequentialStep(Step):
    """Sequential.step of an LSTM and a Dense layer."""

    params = (("I1 H16", "I16 H64", "N64 I16 H64"), THREADS)

    def model(self, shape):
        return lstmx.Sequential([layer(shape), lstmx.Dense(shape["H"], 1)], random_state=0)
