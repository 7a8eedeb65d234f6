"""Whole sequences: inference, and a training step (forward and backward with dx), in time, in GFLOP/s and per step."""

import numpy as np

from lstmx.bench import shapes

from .common import THREADS, Benchmark, batch, call_times, layer, limit_threads, once, sizes

SHAPES = (*(shape.label for shape in shapes.TRACKED), "T50 N32 I64 H64 L2 D2")


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
        self.gflop, self.steps = 2e-9 * steps * weights, shape["T"]

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

    def track_inference_us_per_step(self, shape, threads):
        """The best time over T, the longest sequence's if they differ."""
        return 1e6 * min(call_times(self.infer)) / self.steps

    def track_training_us_per_step(self, shape, threads):
        """Forward and backward."""
        return 1e6 * min(call_times(self.train)) / self.steps

    track_inference_us_per_step.unit = track_training_us_per_step.unit = "us"
    track_inference_gflops.unit = track_training_gflops.unit = "GFLOP/s"


class SequenceFloat64(Sequence):
    """float64."""

    params = (("T100 N1 I16 H64", "T50 N32 I128 H128", "T7..29 N64 I12 H64"), THREADS)
    dtype = "float64"
