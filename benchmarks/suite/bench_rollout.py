"""The closed loop: many steps, each of which reads what the one before gave."""

import numpy as np

import lstmx

from .common import THREADS, Benchmark, layer, limit_threads, once, sizes

STEPS = 1000


class Rollout(Benchmark):
    """`Sequential.rollout` of an LSTM and a Dense layer: N paths of one sequence, with noise."""

    params = (("N1 I1 H32", "N100 I1 H32"), THREADS)
    param_names = ("shape", "threads")

    @once
    def setup(self, shape, threads):
        limit_threads(threads)
        shape = sizes(shape)
        rng = np.random.default_rng(0)
        self.model = lstmx.Sequential([layer(shape), lstmx.Dense(shape["H"], shape["I"])], random_state=0)
        self.x = rng.normal(size=(50, shape["I"])).astype(np.float32)
        self.noise = 0.1 * rng.normal(size=(shape["N"], STEPS, shape["I"]))
        self.time_1000_steps(shape, threads)

    def time_1000_steps(self, shape, threads):
        self.model.rollout(self.x, STEPS, noise=self.noise, paths=len(self.noise))

    def time_1000_windows_of_24(self, shape, threads):
        self.model.rollout(self.x, STEPS, noise=self.noise, paths=len(self.noise), window=24)


class Tokens(Benchmark):
    """`Sequential.rollout` of a model of characters: 100 samples at once."""

    params = (("V64 I32 H128",), THREADS)
    param_names = ("shape", "threads")

    @once
    def setup(self, shape, threads):
        limit_threads(threads)
        self.model = lstmx.Sequential(
            [lstmx.Embedding(64, 32), layer(sizes(shape)), lstmx.Dense(128, 64)], random_state=0
        )
        self.x = np.arange(20)
        self.time_1000_tokens(shape, threads)

    def time_1000_tokens(self, shape, threads):
        self.model.rollout(self.x, STEPS, feedback="sample", paths=100, random_state=0)
