"""The types that annotations use everywhere. Nothing of this is needed when a program runs."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array: TypeAlias = NDArray[Any]
Ints: TypeAlias = NDArray[np.integer[Any]]
DType: TypeAlias = np.dtype[Any]

# What users give.
Precision: TypeAlias = Literal["float32", "float64"] | np.dtype[Any] | type[np.floating[Any]]
RandomState: TypeAlias = int | np.random.SeedSequence | np.random.Generator | None
PathLike: TypeAlias = str | os.PathLike[str]
PairLike: TypeAlias = tuple[ArrayLike, ArrayLike] | list[Array]  # (h, c)
Memory: TypeAlias = int | str  # bytes, or such as "1.5 GB"
Merge: TypeAlias = Literal["concat", "sum", "mul", "average"]
Initial: TypeAlias = Literal["glorot", "uniform"]
LossName: TypeAlias = Literal["mse", "mae", "huber", "binary_crossentropy", "categorical_crossentropy"]
MetricName: TypeAlias = Literal["accuracy", "mae", "mse"]
Metric: TypeAlias = Callable[[Array, Array], float]

# What is passed along inside.
Pair: TypeAlias = tuple[Array, Array]  # (h, c)
State: TypeAlias = Any  # what a layer remembers: None, an array, or a tuple of states
Context: TypeAlias = Any  # a SequenceContext, or the PooledContext of one row per sequence
Config: TypeAlias = dict[str, Any]  # plain JSON values
Arrays: TypeAlias = dict[str, Array]  # by name
Shape: TypeAlias = tuple[int, ...]
ArrayShape: TypeAlias = tuple[str, Shape, str, str]  # name, shape, dtype, what its numbers must be
