"""What an engine is to the worker: a class that prepares cases; and the data that all engines are given."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lstmx.bench import shapes
from lstmx.bench.cells import CELLS

if TYPE_CHECKING:
    from lstmx._types import Array


@dataclass
class Job:
    """Something that can be timed.

    Parameters
    ----------
    call : callable
        Does the work once.
    outputs : callable
        Gives what is compared between engines: a dict of arrays, sequences first: y (N, T, H or P).
    units : int
        The units of work in one call, such as epochs.
    """

    call: Callable[..., Any]
    outputs: Callable[..., Any]
    units: int = 1


class Case:
    """One task at one shape, with weights and inputs that depend on nothing else.

    Parameters
    ----------
    shape : str
    dtype : {"float32", "float64"}
    quick : bool
    cell : str
        Of `CELLS`.
    """

    def __init__(self, shape: str, dtype: str = "float32", quick: bool = False, cell: str = "plain") -> None:
        self.shape, self.dtype, self.quick = shapes.parse(shape), dtype, quick
        option = CELLS[cell]
        self.cell, self.proj_size = option.cell, option.proj_size(self.shape.H)
        s, limit = self.shape, 1 / math.sqrt(self.shape.H)
        rng = np.random.default_rng(0)

        def uniform(*size: Any) -> Array:
            return rng.uniform(-limit, limit, size=size).astype(dtype)

        self.weights = {name: uniform(*size) + name.endswith("gain") for name, size in option.parameters(s).items()}
        self.head = uniform(1, s.H)  # of the Dense layer in `fit`
        self.lengths = s.lengths

    @property
    def valid(self) -> Array:
        """(N, T): False on padding."""
        s = self.shape
        lengths = np.full(s.N, s.T) if self.lengths is None else self.lengths
        return np.arange(s.T) < lengths[:, None]

    def _batch(self, seed: int, width: int) -> Array:
        s = self.shape
        values = np.random.default_rng(seed).normal(size=(s.N, s.T, width))
        return (values * self.valid[..., None]).astype(self.dtype)

    @functools.cached_property
    def x(self) -> Array:
        """Inputs (N, T, I), 0 on padding."""
        return self._batch(1, self.shape.I)

    @functools.cached_property
    def dy(self) -> Array:
        """Gradients of the outputs (N, T, H or P), 0 on padding."""
        return self._batch(2, self.proj_size or self.shape.H)

    def series(self) -> tuple[Array, Array]:
        """x (count, T, I) and y (count, 1) for `fit`."""
        s = self.shape
        x = np.random.default_rng(3).normal(size=(shapes.series(s, self.quick), s.T, s.I)).astype(self.dtype)
        return x, x.mean(axis=(1, 2))[:, None]


EPOCHS = 2  # of one call of `fit`; the time is that of one
RATE = 1e-3
SAMPLE = 64  # series whose predictions are compared before `fit`
