"""Scaling, of sequences and of the columns of tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from lstmx.data import panel
from lstmx.data.series import columns_of
from lstmx.functional import validate
from lstmx.predictors.base import FINITE, POSITIVE, Predictor, Step

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import ArrayLike

    from lstmx._types import Array, ArrayShape, Config


class Scaler(Step):
    """What a SequenceScaler has learnt."""

    fields: ClassVar[tuple[str, ...]] = ("features", "layout", "with_mean", "with_std")

    @property
    def takes(self) -> tuple[int | None, ...]:  # type: ignore[override]
        """(features, None)."""
        return self.config["features"], None

    @classmethod
    def check(cls, config: Config) -> None:
        super().check(config)
        validate.count("features", config["features"])
        validate.choice("layout", config["layout"], panel.LAYOUTS)
        for name in ("with_mean", "with_std"):
            validate.flag(name, config[name])

    @classmethod
    def own_shapes(cls, config: Config) -> Iterable[ArrayShape]:
        if config["with_mean"]:
            yield "mean", (config["features"],), "float64", FINITE
        if config["with_std"]:
            yield "scale", (config["features"],), "float64", POSITIVE

    read = Predictor.read

    def _apply(self, X: ArrayLike, function: Callable[..., Any]) -> Array | Any:
        shift, scale = self.arrays.get("mean", 0.0), self.arrays.get("scale", 1.0)
        data = self.read(X)
        return data.give([function(x, shift, scale).astype(x.dtype) for x in data.each()])

    def transform(self, X: ArrayLike) -> Array | Any:
        """Scaled sequences, in the form of X."""
        return self._apply(X, lambda x, shift, scale: (x - shift) / scale)

    def inverse_transform(self, X: ArrayLike) -> Array | Any:
        """Sequences in the original units, in the form of X."""
        return self._apply(X, lambda x, shift, scale: x * scale + shift)


# What is done to a column, in this order, and what undoes it.
_OPERATIONS = {"subtract": (np.subtract, np.add), "divide": (np.divide, np.multiply),
               "multiply": (np.multiply, np.divide), "add": (np.add, np.subtract)}  # fmt: skip
_KEPT = (np.float64, np.float32, np.float16)  # types that scikit-learn does not convert


class ColumnScaler(Step):
    """What a scaler of scikit-learn has learnt: arithmetic on every column of a table, in the same order and types.

    `config` holds ``columns``; ``names`` of the columns of the frame that it was fitted to, or None; ``operations``, a
    dict of some of "subtract", "divide", "multiply", "add", done in this order, to the type of the array of that name;
    ``rounded``, whether these are rounded to the type of X before they are used; and ``clip``, bounds of the results,
    or None.
    """

    fields: ClassVar[tuple[str, ...]] = ("columns", "names", "operations", "rounded", "clip")

    @property
    def takes(self) -> tuple[int | None, ...]:  # type: ignore[override]
        """Tables: of one feature, and so many columns."""
        return 1, self.config["columns"]

    @classmethod
    def check(cls, config: Config) -> None:
        super().check(config)
        columns, names, operations, clip = (config[k] for k in ("columns", "names", "operations", "clip"))
        validate.count("columns", columns)
        validate.flag("rounded", config["rounded"])
        if names is not None and not (
            isinstance(names, list) and len(names) == columns and all(isinstance(name, str) for name in names)
        ):
            raise ValueError("names: must be a list of the names of the columns, or null")
        if not isinstance(operations, dict) or not operations.keys() <= _OPERATIONS.keys():
            raise ValueError(f"operations: must be a dict of some of {', '.join(_OPERATIONS)} to types")
        for dtype in operations.values():
            validate.dtype(dtype)
        if clip is not None:
            if not isinstance(clip, list) or len(clip) != 2:
                raise ValueError("clip: must be a list of the lowest and the highest value, or null")
            validate.number("clip", clip[1], validate.number("clip", clip[0]), open_low=True)

    @classmethod
    def own_shapes(cls, config: Config) -> Iterable[ArrayShape]:
        for name, dtype in config["operations"].items():
            yield name, (config["columns"],), dtype, POSITIVE if name in ("divide", "multiply") else FINITE

    def read(self, X: ArrayLike) -> Array:
        """A table (n, columns) as an array of its own, in a type that scikit-learn gives."""
        columns, names = self.config["columns"], self.config["names"]
        if names is not None and columns_of(X) not in (None, names):
            raise ValueError(f"X: has the columns {columns_of(X)}, must have those of fit, in order: {names}")
        x = validate.rectangular("X", X)
        if x.ndim != 2 or x.shape[1] != columns:
            raise ValueError(f"X: got shape {x.shape}, must be a table (n, {columns}); one row is X[None]")
        if x.dtype.kind == "O":
            try:
                x = x.astype(np.float64)
            except (TypeError, ValueError) as error:
                raise TypeError(f"X: holds what is no number ({error}); convert it to floats") from None
        x = validate.real_array("X", x)
        x = np.array(x, x.dtype if x.dtype in _KEPT else np.float64)
        if np.isinf(x).any():
            raise ValueError(f"X: contains infinity or a value too large for {x.dtype}; remove it, or clip")
        return x

    def _do(self, x: Array, name: str, undo: bool) -> None:
        if name in self.config["operations"]:
            a = self.arrays[name].astype(x.dtype) if self.config["rounded"] else self.arrays[name]
            _OPERATIONS[name][undo](x, a, out=x, casting="same_kind")

    def transform(self, X: ArrayLike) -> Array:
        """The scaled table (n, columns); NaN stays."""
        x = self.read(X)
        for name in _OPERATIONS:
            self._do(x, name, False)
        return x if self.config["clip"] is None else np.clip(x, *self.config["clip"], out=x)

    def inverse_transform(self, X: ArrayLike) -> Array:
        """The table (n, columns) in the original units; what was clipped stays so."""
        x = self.read(X)
        for name in reversed(_OPERATIONS):
            self._do(x, name, True)
        return x
