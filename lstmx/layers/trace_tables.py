"""Packed rows of many quantities as tables with named axes, of pandas or xarray."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from typing import Any

    from lstmx._types import Context


def to_pandas(rows: Any, context: Context) -> Any:
    """A DataFrame of packed rows (S, W) by quantity: one row a step, in the order of sequences and steps."""
    try:
        import pandas as pd
    except ImportError as error:
        raise ImportError("to_pandas needs pandas: pip install pandas") from error
    sequence, step = context.places
    order = np.lexsort((step, sequence))
    columns = [(name, unit) for name, values in rows.items() for unit in range(values.shape[1])]
    return pd.DataFrame(
        np.concatenate([values[order] for values in rows.values()], axis=1),
        pd.MultiIndex.from_arrays([sequence[order], step[order]], names=["sequence", "step"]),
        pd.MultiIndex.from_tuples(columns, names=["quantity", "unit"]),
    )


def to_xarray(rows: Any, context: Context, hidden_size: int) -> Any:
    """A Dataset of packed rows (S, W) by (layer, direction) and quantity."""
    try:
        import xarray as xr
    except ImportError as error:
        raise ImportError("to_xarray needs xarray: pip install xarray") from error
    layers, directions = (1 + max(places) for places in zip(*rows, strict=True))
    batch, steps = len(context.given), int(context.given.max(initial=0))
    variables = {}
    for name, first in rows[0, 0].items():
        values = np.full((layers, directions, batch, steps, first.shape[1]), np.nan, first.dtype)
        for (layer, direction), found in rows.items():
            values[(layer, direction, *context.places)] = found[name]
        unit = "unit" if first.shape[1] == hidden_size else "output"
        variables[name] = ("layer", "direction", "sequence", "step", unit), values
    sizes = {axis: n for axes, values in variables.values() for axis, n in zip(axes, values.shape, strict=True)}
    return xr.Dataset(variables, {axis: np.arange(n) for axis, n in sizes.items()})
