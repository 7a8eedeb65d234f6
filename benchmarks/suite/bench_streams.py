"""Many streams of one model: pushes of a pool, its sessions, and Sequential.stream."""

import itertools

import numpy as np

import lstmx

from .common import THREADS, Benchmark, batch, call_times, layer, limit_threads, once, sizes

SESSIONS = 1000


class Push(Benchmark):
    """A frame each for so many of 1,000 sessions, others each time."""

    params = (("I1 H16", "I128 H128"), (1, 100, SESSIONS), THREADS)
    param_names = ("shape", "pushed", "threads")

    @once
    def setup(self, shape, pushed, threads):
        limit_threads(threads)
        shape, rng = sizes(shape), np.random.default_rng(0)
        self.pool = lstmx.StreamPool(layer(shape), SESSIONS)
        ids = self.pool.open(SESSIONS)
        self.y = np.empty((pushed, shape["H"]), np.float32)
        frames = rng.normal(size=(pushed, shape["I"])).astype(np.float32)
        self.turns = itertools.cycle([(rng.permutation(ids)[:pushed], frames) for _ in range(20)])
        self.push()

    def push(self):
        self.pool.push(*next(self.turns), out=self.y)

    def time_push(self, shape, pushed, threads):
        self.push()

    def track_p99(self, shape, pushed, threads):
        """The time within which 99 of 100 pushes return."""
        return np.percentile(call_times(self.push), 99)

    track_p99.unit = "seconds"


class Sessions(Benchmark):
    """What else a pool does, with 1,000 sessions of a model of two layers and a mean over the steps so far."""

    params = (("L2 I16 H64",),)
    param_names = ("shape",)

    @once
    def setup(self, shape):
        limit_threads(1)
        shape = sizes(shape)
        model = lstmx.Sequential([layer(shape), lstmx.MeanPool(), lstmx.Dense(shape["H"], 1)], random_state=0)
        self.pool = lstmx.StreamPool(model, SESSIONS + 100)
        self.ids = self.pool.open(SESSIONS)
        self.frames = np.ones((SESSIONS, shape["I"]), np.float32)
        self.pool.push(self.ids, self.frames)
        self.snapshot = self.pool.snapshot()

    def time_push(self, shape):
        self.pool.push(self.ids, self.frames)

    def time_open_close_one(self, shape):
        self.pool.close(self.pool.open())

    def time_open_close_100(self, shape):
        self.pool.close(self.pool.open(100))

    def time_reset(self, shape):
        self.pool.reset(self.ids)

    def time_snapshot(self, shape):
        self.pool.snapshot()

    def time_restore(self, shape):
        self.pool.restore(self.snapshot)


class SequentialStream(Benchmark):
    """Blocks of one stream and of 64 through an LSTM and a Dense layer."""

    params = (("T32 N1 I1 H16", "T32 N64 I16 H64"), THREADS)
    param_names = ("shape", "threads")

    @once
    def setup(self, shape, threads):
        limit_threads(threads)
        shape = sizes(shape)
        self.model = lstmx.Sequential([layer(shape), lstmx.Dense(shape["H"], 1)], random_state=0)
        self.x = batch(shape)
        self.y, self.state = self.model.stream(self.x)

    def time_block(self, shape, threads):
        _, self.state = self.model.stream(self.x, self.state)

    def time_block_in_place(self, shape, threads):
        self.model.stream(self.x, self.state, out=(self.y, self.state))
