"""What a cell drops in training: masks of dropout and zoneout, by the counter-based generator of `kernels.dropout`.

A mask depends on (key, the caller's row, time, unit) alone, so neither sorting nor threads change it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lstmx._core import allocate, kernels

if TYPE_CHECKING:
    from typing import Any

    from lstmx._types import Array, Arrays, DType, Ints
    from lstmx.functional.cell import Cell
    from lstmx.functional.context import SequenceContext


_APART = 0xD1B54A32D192ED03  # between the keys of masks: odd, so that no two of a few are equal


def draw(
    cell: Cell, key: Any, context: SequenceContext, inputs: int, outputs: int, hidden: int, dtype: DType
) -> Arrays:
    """The masks of one layer and direction, by the names that engines know; empty where the cell drops nothing.

    Parameters
    ----------
    cell : Cell
    key : int
    context : SequenceContext
    inputs, outputs, hidden : I, the width of h, H

    Returns
    -------
    dict of str to ndarray
        drop_x (masks, N, I) and drop_h (masks, N, P): 0, or 1 / (1 - rate). zoneout_h (S, P) and zoneout_c (S, H):
        1 keeps the value of the step before.
    """
    keys = ((key + k * _APART) % 2**64 for k in range(1, 11))
    start = np.zeros(context.batch, np.intp)
    found = {}
    sides = (("drop_x", cell.input_dropout, inputs), ("drop_h", cell.recurrent_dropout, outputs))
    for (name, rate, width), count in zip(sides, cell.masks, strict=True):
        own = [next(keys) for _ in range(4)][:count]
        if own:
            found[name] = np.stack([_mask(k, context.owners, start, rate, width, dtype) for k in own])
    for name, rate, width in zip(("zoneout_h", "zoneout_c"), cell.zoneout, (outputs, hidden), strict=True):
        own = next(keys)
        if rate:
            found[name] = (_mask(own, *context.places, rate, width, dtype) == 0).astype(dtype)
    return found


def _mask(key: Any, row: Ints, time: Ints, rate: float, width: int, dtype: DType) -> Array:
    """0, or 1 / (1 - rate), for every row and unit."""
    ones = np.ones((len(row), width), dtype)
    mask = allocate.empty(ones.shape, dtype)
    kernels.dropout(np.uint64(key), row, time, rate, ones, mask)
    return mask
