"""Series to forecast, in every form that users have them: one or several, of one variable or of more."""

from __future__ import annotations

from numbers import Real
from typing import TYPE_CHECKING

import numpy as np

from lstmx.data import missing
from lstmx.functional import validate

if TYPE_CHECKING:
    from typing import Any

    from lstmx._types import Array


def are_several(y: Any) -> bool:
    """Whether y is several series, not one."""
    if isinstance(y, np.ndarray) and y.dtype == object and y.ndim == 1:
        y = list(y)
    if isinstance(y, list | tuple):
        return len(y) > 0 and (isinstance(y[0], list | tuple) or np.ndim(y[0]) > 0)
    return getattr(y, "ndim", 0) == 3


def library_of(y: Any) -> str | None:
    """ "pandas" or "polars" for a Series or a DataFrame of theirs, else None."""
    library = type(y).__module__.partition(".")[0]
    return library if library in ("pandas", "polars") and (hasattr(y, "columns") or hasattr(y, "name")) else None


def columns_of(X: Any) -> Any:
    """The names of a frame's columns, or of those of the first of several frames; None if they are not strings."""
    X = X[0] if are_several(X) and len(X) else X
    names = list(getattr(X, "columns", ()))
    return names if names and all(isinstance(name, str) for name in names) else None


def bridged(a: Array, label: Any) -> Array:
    """A series (T, F) whose gaps are straight lines, and repeat what is beside them at its ends."""
    filled = missing.fill(a, "linear", np.nan)
    lost = np.isnan(filled).any(axis=0)
    if lost.any():
        raise ValueError(f"{label}: variable {int(lost.argmax())} has no value in the part from which gaps are filled, "
                         "that of training; leave it out, or begin later")  # fmt: skip
    return filled


_SEVERAL = "several series are a list, from a long frame [g for _, g in frame.set_index(date).groupby(name)[value]]"


def _numbers(label: str, a: Any) -> Array:
    """One series in float64; frames column by column, as they may be of several types."""
    levels = getattr(getattr(a, "index", None), "nlevels", 1)
    if levels > 1:
        raise ValueError(f"{label}: its index has {levels} levels, {list(a.index.names)}, must have one, the steps of "
                         "one series; several series are a list, "
                         f"[g.droplevel(0) for _, g in {label}.groupby(level=0)]")  # fmt: skip
    library = library_of(a)
    if library is not None and hasattr(a, "columns"):
        each = [a.iloc[:, k] if library == "pandas" else a[name] for k, name in enumerate(a.columns)]
        found = [_column(label, name, column, library) for name, column in zip(a.columns, each, strict=True)]
        return np.stack(found, axis=1) if found else np.empty((len(a), 0))
    if library == "pandas":
        a = _plain(a, library)
    if validate.rectangular(label, a).dtype.kind == "O":
        raise TypeError(f"{label}: got {type(a).__name__} of objects, must be numbers; {_SEVERAL}")
    return validate.real_array(label, a, np.float64)


def _column(label: str, name: Any, column: Any, library: str) -> Array:
    """One column of a frame in float64."""
    column = _plain(column, library)
    found = np.asarray(column)
    if found.dtype.kind in "biuf":
        return found.astype(np.float64)
    if found.dtype.kind in "Mm" or getattr(column.dtype, "kind", "") in ("M", "m"):
        frame = label if library == "pandas" else f"{label}.to_pandas()"
        raise TypeError(f"{label}: its column {name!r} holds dates or durations, must be numbers; drop it, or make it "
                        f"the index, {frame}.set_index({name!r}), with which forecasts go on")  # fmt: skip
    if found.dtype.kind == "O" and all(isinstance(value, Real) for value in found):
        return found.astype(np.float64)
    raise TypeError(f"{label}: its column {name!r} holds {column.dtype}, must be numbers; convert it, or leave it out; "
                    f"{_SEVERAL}")  # fmt: skip


def _plain(column: Any, library: str) -> Any:
    """A column of numbers of a library's own type, in which values may be missing, in float64; others as they are."""
    dtype = column.dtype
    if library == "pandas":
        own = not isinstance(dtype, np.dtype) and getattr(dtype, "kind", "O") in ("b", "i", "u", "f")
        return column.astype("Float64").to_numpy(np.float64, na_value=np.nan) if own else column
    return column.cast(float) if dtype.is_numeric() or str(dtype) == "Boolean" else column


def as_series(
    y: Any, name: str, many: Any = None, count: int | None = None, columns: Any = None, gaps: bool = False
) -> Any:
    """A list of (T_i, O) arrays of float64 from one series, (T,) or (T, O), or from several: a list, or (n, T, O).

    Frames must have the `columns` named, if any are. With `gaps` values may be NaN.
    """
    several = are_several(y)
    if many is not None and several != many:
        want = f"a list of {count} arrays, one per series" if many else "one array: the model was fitted to one series"
        raise ValueError(f"{name}: got {type(y).__name__}, must be {want}")
    found = []
    for n, a in enumerate(y if several else [y]):
        label = f"{name}[{n}]" if several else name
        if columns is not None and columns_of(a) not in (None, columns):
            raise ValueError(f"{label}: has the columns {columns_of(a)}, must have those of fit, in order: {columns}")
        a = _numbers(label, a)
        a = a[:, None] if a.ndim == 1 else a
        if a.ndim != 2 or a.shape[1] == 0:
            raise ValueError(f"{label}: got shape {a.shape}, must be (T,) or (T, variables); several series are a list")
        good = ~np.isinf(a) if gaps else np.isfinite(a)
        if not good.all():
            t = int(np.flatnonzero(~good.all(axis=1))[0])
            cure = (
                "remove it, or clip"
                if gaps
                else 'fill it, or set missing="impute", by which gaps become straight lines'
            )
            raise ValueError(f"{label}: contains {'' if gaps else 'NaN or '}infinity at step {t}; {cure}")
        found.append(np.ascontiguousarray(a))  # sums have other bits in another order
    if not found:
        raise ValueError(f"{name}: holds no series")
    if count is not None and len(found) != count:
        raise ValueError(f"{name}: got {len(found)} series, must be {count}")
    return found
