"""The pointwise kernels, on one thread and on data that stays in the L2 cache."""

import numpy as np

from lstmx._core import kernels
from lstmx.functional import cell

from .common import DTYPES, Benchmark, once


class Function(Benchmark):
    """sigmoid, tanh and exp of 16,384 elements."""

    params = (("sigmoid", "tanh", "exp"), DTYPES)
    param_names = ("function", "dtype")

    @once
    def setup(self, function, dtype):
        self.kernel = getattr(kernels, function)
        self.x = np.random.default_rng(0).normal(size=2**14).astype(dtype)
        self.out = np.empty_like(self.x)
        self.kernel(self.x, self.out)

    def time_kernel(self, function, dtype):
        self.kernel(self.x, self.out)


class Cell(Benchmark):
    """Gates and state of one step for 32 rows; H = 50 does not fill its last vector."""

    params = ((50, 128), DTYPES)
    param_names = ("H", "dtype")

    @once
    def setup(self, hidden, dtype):
        rng = np.random.default_rng(0)
        self.bias = rng.normal(size=4 * hidden).astype(dtype)
        self.activated, self.gates = rng.uniform(size=(2, 32, 4 * hidden)).astype(dtype)
        self.c_prev, self.c, self.h, self.dh, self.dc = rng.normal(size=(5, 32, hidden)).astype(dtype)
        self.cell = cell.Cell()
        self.time_forward(hidden, dtype)
        self.time_backward(hidden, dtype)

    def time_forward(self, hidden, dtype):
        """In place: what goes in is what the last call left, which is as good as any."""
        kernels.cell_forward(self.cell, self.bias, self.gates, self.c, self.h)

    def time_backward(self, hidden, dtype):
        """With a copy of the gates, which the kernel overwrites."""
        self.gates[:] = self.activated
        kernels.cell_backward(self.cell, self.gates, self.c_prev, self.dh, self.dc)
