"""The weights of one layer in one direction, and what the engines make of them.

Packed weights are built on first use and never changed: a call holds what it works with, and new parameters mean new
`Weights`. A fit changes parameters where they lie; it says so by `ParameterStore.changed`, which drops them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lstmx._core import allocate
from lstmx._core import panels as core
from lstmx._core.panels import Panels
from lstmx.functional.threads import Section

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable
    from typing import Any

    from lstmx._types import Array, Arrays
    from lstmx.functional.cell import Cell


_building = Section()


class Derived:
    """What is made of a layer's arrays, each part built once, by name."""

    def __init__(self) -> None:
        self._parts: dict[Hashable, Any] = {}

    def get(self, name: Hashable, build: Callable[..., Any], *arguments: Any) -> Any:
        """The part of that name, built by ``build(*arguments)`` if it is not there."""
        part = self._parts.get(name)
        if part is None:
            with _building.turn:
                part = self._parts.get(name)
                if part is None:
                    part = self._parts[name] = build(*arguments)
        return part


def gate_panels(weight: Array) -> Panels:
    """Gate panels of (4H, K)."""
    panels = allocate.aligned((weight.shape[1] * core.gate_width(weight),), weight.dtype)
    core.pack_gates(weight, panels)
    return Panels(panels)


def column_panels(weight: Array, transposed: bool = False) -> Panels:
    """Column panels of B (K, n) = weight, or its transpose."""
    depth = weight.shape[transposed]
    panels = allocate.aligned((depth * core.column_width(weight, transposed),), weight.dtype)
    core.pack_columns(weight, panels, transposed)
    return Panels(panels)


def matrix(weight: Array, transposed: bool = False) -> Panels:
    """The same as BLAS takes it: where it lies."""
    return Panels(weight, True, transposed)


def bias_panels(weight_ih: Array, bias: Array | None) -> Array | None:
    """Gate panels of a bias (4H,), or of zeros for None."""
    return gate_panels(np.zeros((len(weight_ih), 1), weight_ih.dtype) if bias is None else bias[:, None]).array


class Weights(Derived):
    """The parameters of one layer and direction by the names of the cell's table, without those that it does not have.

    Parameters
    ----------
    cell : Cell
    arrays : dict of str to ndarray
        All of one type, C-contiguous.
    """

    def __init__(self, cell: Cell, arrays: Arrays) -> None:
        super().__init__()
        self.cell, self.arrays = cell, arrays
        rows, self.inputs = arrays["weight_ih"].shape
        self.hidden = rows // cell.gates
        self.widths = cell.widths(self.hidden, len(arrays["weight_hr"]) if "weight_hr" in arrays else 0)  # of h and c
