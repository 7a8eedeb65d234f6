"""Whole sequences: inference, and a training step (forward and backward with dx), in time and in GFLOP/s."""

import numpy as np

from .common import THREADS, Benchmark, batch, call_times, layer, limit_threads, once, sizes

SHAPES = (
    "T100 N1 I1 H32",
    "T100 N1 I128 H128",
    "T30 N64 I8 H50",
    "T50 N32 I128 H128",
    "T20 N256 I128 H128",
    "T500 N16 I32 H100",
    "T50 N32 I64 H64 L2 D2",
    "T7..29 N64 I12 H64",
    "T20..200 N32 I16 H128",
    "T1..50 N128 I8 H32",
)


class Sequence(Benchmark):
    """float32; "T7..29" are ragged batches, given as lists; L2 D2 is stacked and bidirectional."""

    params = (SHAPES, THREADS)
    param_names = ("shape", "threads")
    dtype = "float32"

    @once
    def setup(self, shape, threads):
        limit_threads(threads)
        shape = sizes(shape)
        self.lstm, self.x = layer(shape, self.dtype), batch(shape, self.dtype)
        y, _, tape = self.lstm.forward(self.x)
        self.dy = [np.ones_like(a) for a in y] if isinstance(y, list) else np.ones_like(y)
        self.lstm.backward(tape, self.dy)
        steps = shape["N"] * shape["T"] if shape["lengths"] is None else int(shape["lengths"].sum())
        weights = sum(p.size for p in self.lstm.parameters().values() if p.ndim == 2)
        self.gflop = 2e-9 * steps * weights

    def infer(self):
        self.lstm(self.x)

    def train(self):
        _, _, tape = self.lstm.forward(self.x)
        self.lstm.backward(tape, self.dy)

    def time_inference(self, shape, threads):
        self.infer()

    def time_training(self, shape, threads):
        self.train()

    def track_inference_gflops(self, shape, threads):
        """2 T N 4H (I + H) over the best time; padding does not count."""
        return self.gflop / min(call_times(self.infer))

    def track_training_gflops(self, shape, threads):
        """Three times the work of inference."""
        return 3 * self.gflop / min(call_times(self.train))

    track_inference_gflops.unit = track_training_gflops.unit = "GFLOP/s"


class SequenceFloat64(Sequence):
    """float64."""

    params = (("T100 N1 I16 H64", "T50 N32 I128 H128", "T7..29 N64 I12 H64"), THREADS)
    dtype = "float64"
