"""What pictures read from a trace: the arrays of one sequence, and the values of the cell at one step."""

from __future__ import annotations

import contextlib
import operator
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lstmx._types import Array, Arrays


QUANTITIES = ("i", "f", "g", "o", "c", "h")
# Options that change nothing in inference, or only where it starts.
_SILENT = {"input_dropout", "recurrent_dropout", "dropout_per_gate", "weight_dropout", "learn_state"}


class TracedSequence:
    """What one layer and direction did along one sequence, without padding; NaN on masked steps.

    Attributes
    ----------
    values : dict of str to array (T, H)
        i, f, g, o, c, h; c_before and h_before, the state that was met; tanh_c, where the trace has it. h and h_before
        may have another width.
    steps, units : int
    backward : bool
        Whether the sequence was read from its end.
    exponential : bool
        Whether it is an sLSTM. c and c_before are without its n and m.
    plain : dict of {"c", "tanh_c", "h"} to bool
        Whether ``c = f c_before + i g``, whether tanh_c is a tanh of c, and whether ``h = o tanh(c)``.
    left_out : list of str
        The options of the cell that the diagram does not show.
    """

    def __init__(self, trace: Any, layer: int = 0, direction: int = 0, sequence: int | None = None) -> None:
        if not all(hasattr(trace, name) for name in (*QUANTITIES, "mask")):
            raise TypeError(
                f"trace: got {type(trace).__name__}, must be a Trace; for a model plot_trace(model.trace(X)[0])"
            )
        self.values = {name: getattr(trace, name)[layer, direction] for name in (*QUANTITIES, "c_before", "h_before")}
        with contextlib.suppress(ValueError):  # of a cell that shows something else than its memory
            self.values["tanh_c"] = trace.tanh_c[layer, direction]
        there = trace.mask
        whole = self.values["c"]
        batch = isinstance(whole, list) or whole.ndim == 3
        if sequence is not None:
            sequence = _index(sequence, len(trace.lengths))
        if sequence is not None and batch:
            there, self.values = there[sequence], {name: v[sequence] for name, v in self.values.items()}
        if sequence is None and batch:
            raise ValueError("sequence: the trace holds a batch; say which sequence to draw")
        self.padded, self.steps = len(self.values["c"]), int(trace.lengths[sequence or 0])
        if not self.steps:
            raise ValueError("trace: this sequence has no steps to draw")
        self.values = {name: v[: self.steps] for name, v in self.values.items()}
        there = there[: self.steps, None]
        if not there.all():
            self.values = {name: np.where(there, v, np.nan) for name, v in self.values.items()}
        self.units, self.backward = trace.hidden_size, trace.reversed[direction]
        cell, projected = trace.cell, trace.projected
        self.exponential = cell.slstm
        if cell.slstm:  # the normaliser n and the stabiliser m come after c
            self.values |= {name: self.values[name][:, : self.units] for name in ("c", "c_before")}
        shown_as_tanh = not cell.slstm and cell.activations[2] == "tanh"
        self.plain = {
            "c": not cell.zoneout[1] and cell.cell_clip is None and cell.layer_norm != "fastrnn",
            "tanh_c": shown_as_tanh,
            "h": shown_as_tanh and not (projected or any(cell.zoneout) or cell.layer_norm == "haste"),
        }
        self.left_out = [name for name in cell.config() if name not in _SILENT]
        self.left_out += ["projection"] if projected else []

    def read_input(self, x: Any, names: Sequence[str] | None) -> tuple[Array, list[str]]:
        """x as (T, I) without padding, and I names."""
        return read_input(x, names, self.steps, self.padded)

    def of_cell(self) -> Arrays:
        """`values`, with what was kept of the memory, f c_before, and what was added, i g."""
        if self.exponential:
            raise ValueError(
                "trace: an sLSTM has a memory of three values in each unit, and is no cell of the diagram; plot_trace "
                "draws it"
            )
        with np.errstate(all="ignore"):
            kept, added = self.values["f"] * self.values["c_before"], self.values["i"] * self.values["g"]
        return self.values | {"kept": kept, "added": added}

    def at(self, step: int, unit: int | None = None) -> dict[str, tuple[Any, ...]]:
        """(value, low, high) of every quantity: mean and range over the units, or of one unit, then without range."""
        out = {}
        for name, array in self.of_cell().items():
            row = array[step]
            out[name] = _spread(row) if unit is None or len(row) != self.units else (float(row[unit]), None, None)
        return out

    def most_forgetful(self) -> Array:
        """The units by the mean of their forget gates, those that forget most first."""
        return np.argsort(mean_of_steps(self.values["f"]), kind="stable")


def _index(sequence: int, count: int) -> int:
    """The index of a sequence, from 0."""
    try:
        found = operator.index(sequence)
    except TypeError:
        raise TypeError(f"sequence: got {sequence!r}, must be an integer") from None
    if not -count <= found < count:
        there = f"are {count} sequences, from 0" if count > 1 else "is only 0" if count else "are none"
        raise IndexError(f"sequence: got {found}, there {there}")
    return found % count


def read_input(x: Any, names: Sequence[str] | None, steps: int, padded: int | None = None) -> tuple[Array, list[str]]:
    """x as (T, I), and I names; from padded x the padding is cut off."""
    x = np.asarray(x)
    x = x[:steps] if x.ndim and len(x) == padded else x
    x = x[:, None] if x.ndim == 1 else x
    if x.ndim != 2 or len(x) != steps:
        raise ValueError(
            f"x: got shape {x.shape}, must be ({steps},) or ({steps}, I): the sequence that was traced, step by step"
        )
    names = [f"{k}" for k in range(x.shape[1])] if names is None else [str(name) for name in names]
    if len(names) != x.shape[1]:
        raise ValueError(f"feature_names: got {len(names)}, must be {x.shape[1]}, one for each feature of x")
    return x, names


def mean_of_steps(values: Array) -> Array:
    """(H,) the mean over the steps that are not NaN, which masked ones are."""
    there = ~np.isnan(values)
    with np.errstate(all="ignore"):
        return np.where(there, values, 0).sum(axis=0) / there.sum(axis=0)


def _spread(row: Array) -> tuple[float, float | None, float | None]:
    """Mean, least and greatest of a row; of one value that alone."""
    if len(row) == 1:
        return float(row[0]), None, None
    with np.errstate(all="ignore"):
        return float(np.mean(row, dtype=np.float64)), float(np.min(row)), float(np.max(row))
