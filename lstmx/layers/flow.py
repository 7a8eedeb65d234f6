"""How the gradient of a loss flows back through recurrent layers."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np

from lstmx.functional import allocate, validate
from lstmx.layers.trace import PerStep

if TYPE_CHECKING:
    from typing import Any, Literal

    from lstmx._types import Array, Context
    from lstmx.layers.base import Layer


def room(layer: Any, context: Context) -> dict[tuple[int, int], Any]:
    """Where ``backward_rows(flow=..)`` of a recurrent layer writes dL/dh_t and, of an LSTM, dL/dc_t.

    Returns
    -------
    dict of (layer, direction) to pair of ndarray (S, ..)
        None for c where there is no memory.
    """
    H, cell = layer.hidden_size, getattr(layer, "cell", None)
    widths = (H, None) if cell is None else cell.widths(H, layer.proj_size)
    return {
        (k, direction): tuple(w and allocate.aligned((context.rows, w), layer.dtype, reuse=True) for w in widths)
        for k in range(layer.num_layers)
        for direction in range(layer.directions)
    }


def is_recurrent(layer: Layer) -> bool:
    """Whether it is a layer with a state h: an LSTM or RNN."""
    return hasattr(layer, "hidden_size")


def norms(rows: Array) -> Array:
    """The Euclidean norms (S,) of packed rows, in float64."""
    return np.sqrt(np.square(rows, dtype=np.float64).sum(axis=1))


class GradientFlow:
    """How much of a loss's gradient reaches every step.

    Attributes
    ----------
    dh, dc : mapping of key to array as `Trace` gives them
        dL/dh_t and dL/dc_t, made when they are first asked for. The key is (layer, direction) of one LSTM, (index in
        the model, layer, direction) of a model. dc is that of the memory after the step, through h_t too; an RNN has
        none.
    """

    def __init__(self, flows: dict[tuple[int, ...], tuple[Any, int, tuple[Array, Array | None]]]) -> None:
        """Of a dict of key to (context, H, (dh, dc)), packed rows."""
        self._hidden = {key: H for key, (_, H, _) in flows.items()}
        self.dh, self.dc = (
            PerStep({
                key: (context, functools.partial(_itself, pair[k]))
                for key, (context, _, pair) in flows.items() if pair[k] is not None
            })
            for k in (0, 1)
        )  # fmt: skip

    def norms(
        self, quantity: Literal["c", "h"] | None = None, *, align: Literal["start", "end"] = "start"
    ) -> dict[tuple[int, ...], Array]:
        """The norm of the gradient at every step: Euclidean over the units, then the mean over the sequences.

        Parameters
        ----------
        quantity : {"c", "h"}, optional
            Of dL/dc_t or dL/dh_t; by default c where there is an LSTM, else h. Of an sLSTM c is the memory alone.
        align : {"start", "end"}
            What sequences of different lengths share: their first step, which is entry 0, or their last, which is entry
            -1. The mean is over those that have such a step; masked steps do not count.

        Returns
        -------
        dict of key to ndarray (T,)
            T is the steps of the longest.
        """
        quantity = ("c" if self.dc.keys() else "h") if quantity is None else quantity
        validate.choice("quantity", quantity, ("c", "h"))
        validate.choice("align", align, ("start", "end"))
        values, found = self.dc if quantity == "c" else self.dh, {}
        for key in values:
            context, rows = values.context(key), values.packed(key)
            rows = rows[:, : self._hidden[key]] if quantity == "c" else rows
            sequence, step = context.places
            T = int(context.given.max(initial=0))
            if align == "end":
                step = step + T - context.given[sequence]
            count = np.bincount(step, minlength=T)
            with np.errstate(invalid="ignore"):
                found[key] = np.bincount(step, norms(rows), T) / count
        return found

    def __repr__(self) -> str:
        return f"GradientFlow({list(self.dh)})"


def _itself(rows: Any) -> Array:
    return rows
