"""The weights of one layer in one direction, and what the tile engine makes of them.

Packed weights are built on first use and never changed: a call holds what it works with, and new parameters mean a new
`Weights`. A fit changes parameters where they lie; it says so by `ParameterStore.changed`, which drops them.
"""

import numpy as np

from lstmx._core import panels as core
from lstmx.functional import allocate
from lstmx.functional.threads import Lock

_lock = Lock()


class Packed:
    """Arrays derived from others, each built once, by name."""

    def __init__(self):
        self._parts = {}

    def get(self, name, build, *arguments):
        """The array of that name, built by ``build(*arguments)`` if it is not there."""
        part = self._parts.get(name)
        if part is None:
            with _lock:
                part = self._parts.get(name)
                if part is None:
                    part = self._parts[name] = build(*arguments)
        return part


def gate_panels(weight):
    """Gate panels of (4H, K)."""
    width = core.gate_width(len(weight) // 4, weight.itemsize)
    panels = allocate.aligned((weight.shape[1] * width,), weight.dtype)
    core.pack_gates(weight, panels)
    return panels


def column_panels(weight, transposed=False):
    """Column panels of B (K, n) = weight, or its transpose."""
    depth, columns = weight.shape[::-1] if transposed else weight.shape
    panels = allocate.aligned((depth * core.column_width(columns, weight.itemsize),), weight.dtype)
    core.pack_columns(weight, panels, transposed)
    return panels


def _bias_panels(weight_ih, bias):
    return gate_panels(np.zeros((len(weight_ih), 1), weight_ih.dtype) if bias is None else bias[:, None])


class Weights(Packed):
    """weight_ih (4H, I), weight_hh (4H, H) and bias (4H,) or None of one layer and direction."""

    def __init__(self, weight_ih, weight_hh, bias):
        super().__init__()
        self.weight_ih, self.weight_hh, self.bias = weight_ih, weight_hh, bias

    def __iter__(self):
        return iter((self.weight_ih, self.weight_hh, self.bias))

    def forward_panels(self):
        """Gate panels of weight_ih, weight_hh and bias."""
        return (
            self.get("ih", gate_panels, self.weight_ih),
            self.get("hh", gate_panels, self.weight_hh),
            self.get("bias", _bias_panels, self.weight_ih, self.bias),
        )

    def backward_panels(self, need_dx):
        """Column panels of weight_ih (None if not `need_dx`) and weight_hh."""
        ih = self.get("ih columns", column_panels, self.weight_ih) if need_dx else None
        return ih, self.get("hh columns", column_panels, self.weight_hh)
