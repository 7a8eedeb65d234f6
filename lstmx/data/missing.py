"""Missing values: NaN inside sequences, filled from what is there and from what was learnt.

What is padding and what is missing, `lstmx.data.panel` tells (``read(.., gaps=True)``): in an array, NaN at the end in
all features is padding; in a list nothing is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lstmx.data import panel

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from lstmx._types import Array


STRATEGIES = ("forward", "linear", "mean", "constant")
MISSING = ("error", "impute")  # what models do with values that are missing


def fill(x: Array, strategy: str, values: ArrayLike) -> Array:
    """A sequence without NaN: x itself where it has none, else a copy of its type.

    Parameters
    ----------
    x : ndarray of floats (T, F)
    strategy : {"forward", "linear", "mean", "constant"}
        "forward" repeats what was there last; "linear" draws straight lines, and before the first and behind the last
        value that is there repeats it; the other two take `values`, as do those where there is nothing to go by.
    values : float or ndarray (F,)

    Returns
    -------
    ndarray (T, F)
    """
    missing = np.isnan(x)
    if not missing.any():
        return x
    time, feature = np.nonzero(missing)
    found = np.broadcast_to(np.asarray(values, np.float64), x.shape)[missing]
    if strategy in ("forward", "linear"):
        steps, there = np.arange(len(x))[:, None], ~missing
        before = np.maximum.accumulate(np.where(there, steps, -1), axis=0)[missing]
        known = before >= 0
        if strategy == "linear":
            after = np.minimum.accumulate(np.where(there, steps, len(x))[::-1], axis=0)[::-1][missing]
            before, after = np.where(known, before, after), np.where(after < len(x), after, before)
            known = after >= 0
        before, time, feature = before[known], time[known], feature[known]
        first = x[before, feature].astype(np.float64)
        if strategy == "linear":
            after = after[known]
            last = x[after, feature].astype(np.float64)
            part = (time - before) / np.maximum(after - before, 1)
            line = first * (1 - part) + last * part  # so that no difference overflows
            first = np.clip(line, np.minimum(first, last), np.maximum(first, last))
        found[known] = first
    filled = x.copy()
    with np.errstate(over="ignore"):
        filled[missing] = found
    if np.isinf(filled).any():
        raise ValueError(f"X: {found[np.isinf(filled[missing])][0]}, which missing values become, is too large for "
                         f"{x.dtype}; give X in float64")  # fmt: skip
    return filled


def means(data: panel.Panel, name: str = "X") -> Array:
    """The mean (F,) of every feature over all values of a panel that are there, in float64; NaN where none are."""
    total, count = np.zeros(data.features), np.zeros(data.features, np.int64)
    with np.errstate(over="ignore", invalid="ignore"):
        for rows, _ in panel.rows_of(data, np.ones(len(data))):
            there = ~np.isnan(rows)
            total += np.where(there, rows, 0).sum(axis=0)
            count += there.sum(axis=0)
    if not np.isfinite(total).all():
        feature = int(np.flatnonzero(~np.isfinite(total))[0])
        raise ValueError(f"{name}: the values of feature {feature} are too large to average; divide them by a constant")
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def fill_panel(data: panel.Panel, strategy: str, values: ArrayLike) -> panel.Panel:
    """A panel without missing values, whose ``missing`` says where they were.

    Parameters
    ----------
    data : Panel
        Read with ``gaps=True``.
    strategy, values
        As in `fill`; nothing that happens to one sequence depends on another.

    Returns
    -------
    Panel
    """
    if data.ragged:
        x = [fill(a, strategy, values) for a in data.x]
        rows = np.concatenate(x)
        joined = rows, np.cumsum(data.lengths) - data.lengths
        return panel.Panel(x, data.lengths, data.flat, data.layout, joined, [np.isnan(a) for a in data.x])
    missing = np.isnan(data.x)
    x = data.x
    missing[np.arange(x.shape[1]) >= data.lengths[:, None]] = False
    gaps = np.flatnonzero(missing.any(axis=(1, 2)))
    if gaps.size:
        x = x.copy()
        for n in gaps.tolist():
            x[n, : data.lengths[n]] = fill(x[n, : data.lengths[n]], strategy, values)
    return panel.Panel(x, data.lengths, data.flat, data.layout, missing=missing)
