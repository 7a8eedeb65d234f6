"""Layers made of the parts of a Keras model."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from lstmx.functional.cell import STANDARD, Cell
from lstmx.interop.imported import Part as Found
from lstmx.interop.keras import config as kc
from lstmx.layers import (
    LSTM,
    Activation,
    Dense,
    Dropout,
    Embedding,
    FinalState,
    Last,
    Masking,
    MeanPool,
    Reversed,
    Unmask,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lstmx._types import Array
    from lstmx.functional.cell import Cell
    from lstmx.interop.keras.config import Options, Part
    from lstmx.layers.base import Layer


MERGES = {"concat": "concat", "sum": "sum", "mul": "mul", "ave": "average"}  # Keras's -> ours
SEE_MASKS = *kc.RECURRENT, "GlobalAveragePooling1D", "Softmax"
IN_DENSE = "linear", "relu", "tanh", "sigmoid", "softmax"


class Builder:
    """Makes layers of parts, one after the other.

    Parameters
    ----------
    weights : NamedWeights or GroupWeights
    version : str or None
        Of Keras.
    alone : bool
        Whether there is one part, which is no model.
    """

    def __init__(self, weights: Any, version: str | None, alone: bool) -> None:
        self.weights, self.version, self.alone = weights, version, alone
        self.size: Any = None  # features so far; None: any
        self.masked: Any = None  # the part whose mask Keras hands to the next layer
        self.planned: list[Any] = []  # (class, configuration, arrays)
        self.found: list[Any] = []
        self.notes: list[str] = []
        self.half = False  # whether a part computes in half precision

    def build(self, parts: Sequence[Part]) -> Self:
        """Plan the layers of all parts."""
        skips = [k for k, part in enumerate(parts) if part.kind in (*kc.RECURRENT, "GlobalAveragePooling1D")]
        self.last = skips[-1] if skips else -1  # the last part that sees a mask
        for self.place, part in enumerate(parts):
            if part.kind in SEE_MASKS:
                self._check_mask(part)
            before = len(self.planned)
            shown = getattr(self, f"_{_METHODS.get(part.kind, part.kind.lower())}")(part)
            made = [cls.__name__ for cls, _, _ in self.planned[before:]]
            here = f"{before}: {', '.join(made)}" if made else ""
            self.found.append(Found(part.name, f"{part.kind} {shown or ''}".strip(), here))
            if any(arrays for _, _, arrays in self.planned[before:]):
                self._note_precision(part)
        self.weights.check_used(parts)
        if not any(arrays for _, _, arrays in self.planned):
            raise ValueError("it has no layer with weights")
        return self

    def layers(self) -> list[Layer]:
        """The layers."""
        wide = any(a.dtype == np.float64 for _, _, arrays in self.planned for a in arrays.values())
        dtype = {"dtype": "float64" if wide else "float32"}
        return [
            cls.from_state(config | dtype, arrays) if arrays else cls(**config) for cls, config, arrays in self.planned
        ]

    def _add(self, cls: type[Layer], arrays: Any = None, **config: Any) -> None:
        self.planned.append((cls, config, arrays or {}))

    def _check_mask(self, part: Part) -> None:
        """An error where Keras would show another mask to a layer than these would."""
        if part.mask is not None and part.mask != (self.masked.name if self.masked else ""):
            wanted = self.masked.name if self.masked else "nothing"
            raise ValueError(f"{part.name!r} is called with the mask of {part.mask or 'nothing'!r}, must be called "
                             f"with that of {wanted!r}, which the layers before it hand on")  # fmt: skip
        if self.masked and part.group.rpartition("/")[0] != self.masked.group.rpartition("/")[0]:
            raise ValueError(f"the mask of {self.masked.name!r} would go into or out of a model in the model, which "
                             f"versions of Keras do in different ways; put {part.name!r} beside it")  # fmt: skip

    def _note_precision(self, part: Part) -> None:
        kind = kc.precision(part.options)
        note = f"Keras computes in {kind}, the model here in float32"
        if kind not in ("float32", "float64"):
            self.half = True
            self.notes += [note] if note not in self.notes else []

    # One method for a kind of part: it plans layers, and gives a few words about the part.

    def _nothing(self, part: Part) -> str:
        return ""

    def _masking(self, part: Part) -> str:
        value = part.options.number("mask_value", 0.0)
        if self.last < 0:
            if value:
                raise ValueError(f"{part.name!r} masks the value {value}, but no LSTM sees it; leave it out")
            return "0.0"
        if self.planned:
            raise ValueError(f"{part.name!r} is a Masking behind other layers; here it must be the first one")
        self._add(Masking, value=value)
        self.masked = part
        return str(value)

    def _embedding(self, part: Part) -> str:
        shape = part.options.count("input_dim"), part.options.count("output_dim")
        if self.planned:
            raise ValueError(f"{part.name!r} is an Embedding behind other layers; here it must be the first one")
        (weight,) = self._take(part, [("vars/0", "embeddings", shape)])
        mask = part.options.flag("mask_zero") and self.last >= 0
        padding = {"padding_idx": 0, "mask_padding": True} if mask else {"padding_idx": None}
        self._add(Embedding, {"weight": weight}, num_embeddings=shape[0], size=shape[1], **padding)
        self.masked = part if mask else None
        self.size = shape[1]
        return f"{shape[0]} -> {shape[1]}{', 0 is masked' if mask else ''}"

    def _dropout(self, part: Part) -> str:
        rate = part.options.number("rate", 0.0)
        self._add(Dropout, p=rate)
        return str(rate)

    def _dense(self, part: Part, place: str = "", options: Options | None = None) -> str:
        options = part.options if options is None else options
        units, bias = options.count("units"), options.flag("use_bias", True)
        wanted = [(f"{place}vars/0", "kernel", (self.size, units)), (f"{place}vars/1", "bias", (units,))]
        kernel, *rest = self._take(part, wanted[: 1 + bias])
        arrays = {"weight": kernel.T, "bias": rest[0] if rest else np.zeros(units, kernel.dtype)}
        function = kc.activation_of(options, "activation", self.version)
        own = function if function in IN_DENSE else "linear"
        self._add(Dense, arrays, input_size=len(kernel), output_size=units, activation=own)
        if own != function:
            self._add(Activation, activation=function)
        self.size = units
        return f"{len(kernel)} -> {units}, {function if isinstance(function, str) else function[0]}"

    def _time_distributed(self, part: Part) -> str:
        kind, options = part.options.layer("layer")
        if kind == "Dense":
            return self._dense(part, "layer/", options)
        if kind == "Dropout":
            return self._dropout(kc.Part(kind, part.name, options, part.group, part.top))
        if kind not in kc.FUNCTIONS:
            raise ValueError(
                f"{part.name!r} is a TimeDistributed({kind}); only Dense, Dropout and activations can be read"
            )
        return self._function(kc.Part(kind, part.name, options, part.group, part.top))

    def _function(self, part: Part) -> str:
        function = kc.function_of(part.kind, part.options, self.version)
        if function == "softmax" and part.kind == "Softmax" and self.masked:
            raise ValueError(f"{part.name!r} is a Softmax layer that sees a mask, which it takes for one of features; "
                             'use Activation("softmax")')  # fmt: skip
        if function != "linear":
            self._add(Activation, activation=function)
        return function if isinstance(function, str) else str(function)

    def _pool(self, part: Part) -> str:
        part.options.among("data_format", "channels_last", ("channels_last",), "only channels_last can be read")
        part.options.among("keepdims", False, (False,), "only False can be read")
        self._add(MeanPool)
        self.masked = None
        return ""

    def _recurrent(self, part: Part) -> str:
        both = part.kind == "Bidirectional"
        sides = _sides(part) if both else [("", Recurrent(part.kind, part.options))]
        one = sides[0][1]
        one.check(self.alone)
        if self.alone and not one.sequences and len(one.cells) == 1:
            self.notes.append("the layer gives its last output in Keras; here y has one for every step")
        if self.alone and one.sequences and one.backwards:
            self.notes.append("the layer gives its outputs in reverse order in Keras; here y stands at the time of x")
        if one.options.flag("stateful"):
            self.notes.append(f"{part.name!r} is stateful in Keras; here a call starts anew, and step keeps the state")
        merge = MERGES.get(part.options.values.get("merge_mode", "concat")) if both else "concat"
        if merge is None:
            raise part.options.error("merge_mode", f"it must be one of {list(MERGES)}")
        kinds = {(len(side.cells), side.cells[0][1].count("units"), side.cell(0, self.version)) for _, side in sides}
        if len(kinds) > 1:
            raise ValueError(
                f"the two directions of {part.name!r} have different options or units; here they are one LSTM"
            )
        final = "concat" if both and not one.sequences else merge  # FinalState merges what it takes
        taken = [self._take_cells(part, place, side) for place, side in sides]
        for k, (_, options) in enumerate(one.cells):
            self._plan_lstm(one, k, [arrays[k] for arrays in taken], options, final, both)
        self._plan_outputs(part, one, both, merge)
        self.size = one.cells[-1][1].count("units") * (2 if both and merge == "concat" else 1)
        sizes = " -> ".join(str(options.count("units")) for _, options in one.cells)
        return f"{taken[0][0][0].shape[1]} -> {sizes}"

    def _take_cells(self, part: Part, place: str, side: Any) -> list[Any]:
        """[weight_ih, weight_hh, bias or None] of every cell of one direction."""
        found, size = [], self.size
        for folder, options in side.cells:
            units, bias = options.count("units"), options.flag("use_bias", True) or side.kind == "CuDNNLSTM"
            wanted = [(f"{place}{folder}vars/0", "kernel", (size, 4 * units)),
                      (f"{place}{folder}vars/1", "recurrent_kernel", (units, 4 * units)),
                      (f"{place}{folder}vars/2", "bias", None)]  # fmt: skip
            kernel, recurrent, *rest = self._take(part, wanted[: 2 + bias], biases=((4 * units,), (8 * units,)))
            found.append(_plain(kernel, recurrent, rest[0] if rest else None))
            size = units
        return found

    def _plan_lstm(self, one: Any, k: int, sides: Any, options: Options, merge: Any, both: Any) -> None:
        config = {"input_size": sides[0][0].shape[1], "hidden_size": options.count("units"), "bidirectional": both,
                  "bias": any(side[2] is not None for side in sides)}  # fmt: skip
        arrays: dict[str, Any] = {}
        for side, suffix in zip(sides, ("_l0", "_l0_reverse"), strict=False):
            weight_ih, weight_hh, bias = side
            arrays |= {f"weight_ih{suffix}": weight_ih, f"weight_hh{suffix}": weight_hh}
            if config["bias"]:
                arrays[f"bias{suffix}"] = np.zeros(len(weight_ih), weight_ih.dtype) if bias is None else bias
        cell = one.cell(k, self.version).config()
        config |= {"cell": cell} if cell else {}
        config |= {"merge": merge} if merge != "concat" else {}
        config |= {"reverse": True} if one.backwards and not both else {}
        self._add(LSTM, arrays, num_layers=1, dropout=0.0, **config)

    def _plan_outputs(self, part: Part, one: Any, both: Any, merge: Any) -> None:
        """What stands between an LSTM and the next layer: order of time, masked steps, the end of time."""
        zero = one.options.flag("zero_output_for_mask") and not both
        turned = one.backwards and not both
        ends = self.masked and (self.place == self.last or not one.sequences)  # of the mask
        if turned and one.sequences and self.masked and self.place < self.last:
            raise ValueError(f"{part.name!r} goes backwards and hands its mask on, which Keras does not turn round; "
                             "there is no such layer here")  # fmt: skip
        late_zero = zero and ends and not one.sequences  # Keras gives 0 for a sequence that ends in a masked step
        if turned and (one.sequences or late_zero):
            self._add(Reversed)
        if ends and one.sequences and both and re.match(r"2\.[0-3]\.\d+$", self.version or ""):
            self.notes.append(f"on masked steps {part.name!r} gives 0 here, as in all later versions of Keras; that of "
                              f"Keras {self.version} repeated outputs")  # fmt: skip
        if ends and (one.sequences or late_zero):
            self._add(Unmask, fill="zero" if zero or both else "repeat")
        if not one.sequences:
            if late_zero or not (both or turned):
                self._add(Last)
            else:
                self._add(FinalState, **({"merge": merge} if both and merge != "concat" else {}))
            self.masked = None

    def _take(self, part: Part, wanted: Any, biases: Any = None) -> list[Array]:
        """Arrays of (place, name, shape), checked before they are read; None in a shape is anything."""
        taken = self.weights.take(part, [(place, name) for place, name, _ in wanted])
        for array, (_, name, shape) in zip(taken, wanted, strict=True):
            allowed = [shape] if shape is not None else biases
            if not any(_same(array.shape, one) for one in allowed):
                shown = " or ".join(str(tuple("any" if n is None else n for n in one)) for one in allowed)
                raise ValueError(f"the {name} of {part.name!r} has shape {array.shape}, must be {shown}")
        return [array.read() for array in taken]


_METHODS = dict.fromkeys(kc.NOTHING, "nothing") | dict.fromkeys(kc.FUNCTIONS, "function")
_METHODS |= dict.fromkeys(kc.RECURRENT, "recurrent")
_METHODS |= {"TimeDistributed": "time_distributed", "GlobalAveragePooling1D": "pool"}


def _same(shape: tuple[int, ...], wanted: Any) -> bool:
    return len(shape) == len(wanted) and all(
        n == m or (m is None and n > 0) for n, m in zip(shape, wanted, strict=True)
    )


def _plain(kernel: Array, recurrent: Array, bias: Array | None) -> list[Any]:
    """[weight_ih, weight_hh, bias] of the arrays of a file; those of cuDNN, told by their bias, have another layout."""
    units = len(recurrent)
    if bias is None or len(bias) == 4 * units:
        return [kernel.T, recurrent.T, bias]
    ih = [gate.reshape(units, -1) for gate in np.split(np.ascontiguousarray(kernel), 4, axis=1)]
    both = bias.astype(np.float64)
    return [np.concatenate(ih), np.concatenate(np.split(recurrent, 4, axis=1)),
            (both[: 4 * units] + both[4 * units :]).astype(bias.dtype)]  # fmt: skip


class Recurrent:
    """The options of an LSTM, CuDNNLSTM or RNN.

    Attributes
    ----------
    cells : list of (str, Options)
        Where the arrays of each cell are, and its options.
    sequences, backwards : bool
    """

    def __init__(self, kind: str, options: Options) -> None:
        self.kind, self.options = kind, options
        self.sequences, self.backwards = options.flag("return_sequences"), options.flag("go_backwards")
        if kind == "LSTM":
            self.cells = [("cell/", options)]
        elif kind == "CuDNNLSTM":
            self.cells = [("", options)]
        elif kind == "RNN":
            self.cells = _cells_of(options)
        else:
            raise ValueError(f"{options.name!r} is a Bidirectional({kind}); only LSTM, CuDNNLSTM and RNN can be read")

    def check(self, alone: bool) -> None:
        """An error for what cannot be read."""
        options = self.options
        if options.flag("return_state") and not alone:
            raise options.error("return_state", f"a model here gives no state; layers={options.name!r} reads the layer "
                                "alone, which does")  # fmt: skip
        options.among("time_major", False, (False,), "only False can be read")

    def cell(self, k: int, version: str | None) -> Cell:
        """The `Cell` of a cell."""
        options = self.cells[k][1]
        gates, curve = STANDARD[:2]
        if self.kind != "CuDNNLSTM":
            gates = kc.activation_of(options, "recurrent_activation", version, gates, cell=True)
            curve = kc.activation_of(options, "activation", version, curve, cell=True)
        rates: dict[str, Any] = {"input_dropout": options.number("dropout", 0.0),
                 "recurrent_dropout": options.number("recurrent_dropout", 0.0)}  # fmt: skip
        each = rates["recurrent_dropout"] > 0 or options.values.get("implementation") in (0, 1)
        return Cell(activations=(gates, curve, curve), dropout_per_gate=each and any(rates.values()), **rates)


def _cells_of(options: Options) -> list[tuple[str, Options]]:
    """(place, options) of the cells of an RNN."""
    kind, cell = options.layer("cell")
    if kind == "LSTMCell":
        return [("cell/", cell)]
    inside = cell.values.get("cells")
    if kind != "StackedRNNCells" or not isinstance(inside, list) or not inside:
        raise ValueError(f"{options.name!r} is an RNN of {kind}; only LSTMCell and StackedRNNCells of it can be read")
    found = []
    for k, one in enumerate(inside):
        kind, values = kc.class_of(one, options.name)
        if kind != "LSTMCell":
            raise ValueError(f"{options.name!r} is an RNN of {kind}; only LSTMCells can be read")
        found.append((f"cell/cells/lstm_cell{f'_{k}' if k else ''}/", kc.Options(values, options.name)))
    return found


def _sides(part: Part) -> list[tuple[str, Recurrent]]:
    """(place, `Recurrent`) of the two directions of a Bidirectional."""
    forward = Recurrent(*part.options.layer("layer"))
    backward = forward
    if part.options.values.get("backward_layer") is not None:
        backward = Recurrent(*part.options.layer("backward_layer"))
        if not backward.backwards or backward.sequences != forward.sequences:
            raise ValueError(f"the backward_layer of {part.name!r} does not go backwards as its other layer does not")
    if forward.backwards:
        raise ValueError(f"the first direction of {part.name!r} goes backwards; exchange the two")
    if len(forward.cells) > 1:
        raise ValueError(f"{part.name!r} is a Bidirectional of several cells; only one can be read")
    return [("forward_layer/", forward), ("backward_layer/", backward)]
