"""A `GraphModel` as a `Sequential`, where it is a chain of its layers.

A probe runs through the graph; from the shapes that it takes, each axis of a value is followed through transposes and
reshapes: an axis is a tuple of atoms, (label, size) each, which were axes of their own once.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lstmx.functional import kernels
from lstmx.functional.cell import INITIAL, suffix
from lstmx.layers import LSTM, Activation, Dense, FinalState, Last, MeanPool, Reversed
from lstmx.model import Sequential
from lstmx.predictors.operators import LARGEST, limited

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lstmx._types import Array
    from lstmx.layers.base import Layer
    from lstmx.predictors.graph import GraphModel


PRIMES = (5, 7, 3, 11)  # lengths of axes that may have any
SLOT = "directions"  # label of the axis that has the directions, or the last states of several LSTMs
FAR = 2**31  # what exporters write for "to the end" is above it
STATIC = None  # a value that depends on shapes alone


class Value(NamedTuple):
    """What is known of a value.

    Attributes
    ----------
    axes : tuple of tuple of (label, size)
    source : int
        Which state of the chain of layers has made it.
    slots : tuple of (int, int) or None
        Of the outputs of LSTMs: (number of the layer, direction) of each part along the axis of directions. None: the
        features are one axis.
    final : bool
        Whether it holds last states, not steps.
    memory : bool
        Whether these are c, which no layer gives.
    merge : str or None
        How the two directions have become one.
    computed : bool
        Whether these are integers made of those of the input, each by itself.
    """

    axes: tuple[Any, ...]
    source: int
    slots: Any = None
    final: bool = False
    memory: bool = False
    merge: Any = None
    computed: bool = False


@np.errstate(all="ignore")  # weights may be anything
def to_sequential(model: GraphModel) -> Sequential:
    """As `GraphModel.to_sequential`."""
    return _Chain(model).sequential()


def _replaced(axes: tuple[Any, ...], k: int, axis: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(axis if j == k else other for j, other in enumerate(axes))


def beginning_at(lstm: LSTM, states: Sequence[Array | None]) -> LSTM:
    """The LSTM, or where a state (D, H) is not None, one that has learned to begin there."""
    if all(state is None for state in states):
        return lstm
    config = lstm.config()
    config["cell"] = config.get("cell", {}) | {"learn_state": True}
    arrays = dict(lstm.parameters())
    for name, state in zip(INITIAL, states, strict=True):
        for d in range(lstm.directions):
            arrays[name + suffix(0, d)] = np.zeros(lstm.hidden_size, lstm.dtype) if state is None else state[d]
    return LSTM.from_state(config, arrays)


class _Chain:
    layers: list[Any]
    gated: Any
    time: Any
    batch: Any
    features: Any
    _node: dict[str, Any]

    def __init__(self, model: GraphModel) -> None:
        self.model, self.layers, self.stage = model, [], 0
        self.gated = None  # a value, and the layers that gave it, where the last of all is its sigmoid
        self.time = self.batch = self.features = None  # labels of axes; the features that the last layer gives
        optional = model.optional
        needed = [value for value in model.inputs if value[0] not in optional]
        if len(needed) != 1:
            raise ValueError(f"to_sequential: the graph takes {', '.join(v[0] for v in needed) or 'nothing'}, a "
                             "Sequential one array; call run")  # fmt: skip
        [(name, dtype, shape)] = needed
        if shape is None or len(shape) > 3:
            raise ValueError(
                f"to_sequential: {name} must be a batch of sequences, of three axes, but has shape {shape}"
            )
        lengths = iter(PRIMES)
        self.fixed = [isinstance(n, int) for n in shape]
        size = [n if isinstance(n, int) else next(lengths) for n in shape]
        limited(LARGEST)(size)
        probe = np.zeros(size, dtype) if dtype != "bool" else np.ones(size, bool)
        self.probe = model.evaluate({name: probe}, keep=True)
        self.values = {other: STATIC for other, *_ in model.inputs} | dict.fromkeys(model.constants, STATIC)
        axes = tuple(((str(k), n),) for k, n in enumerate(size))
        self.values[name] = Value(axes, 0)
        if dtype != "int64":
            self.features = axes[-1]

    def sequential(self) -> Sequential:
        for node, layers in self.model.nodes:
            self._node = node
            given = [self.values[name] if name else STATIC for name in node["inputs"]]
            if node["op"] in ("Shape", "Size") or not any(isinstance(v, Value) for v in given):
                found = (STATIC,) * len(node["outputs"])
            else:
                if node["op"] not in _HANDLERS:
                    raise self._error("there is no such layer")
                found = _HANDLERS[node["op"]](self, layers, *given)
                found = found if type(found) is tuple else (found,)
            self.values.update(zip(node["outputs"], found, strict=False))
        self._node = {"op": "output", "name": self.model.outputs[0][0]}
        self._outputs()
        return Sequential([layer.copy() for layer in self.layers])

    def _error(self, why: str) -> ValueError:
        return ValueError(f"to_sequential: {self._node['op']} {self._node['name']!r:.60}: {why}; predict and run work")

    def _outputs(self) -> None:
        first, *others = (self.values[name] for name, *_ in self.model.outputs)
        if not isinstance(first, Value):
            raise self._error("it does not depend on the input")
        for value in others:
            if not (isinstance(value, Value) and (value.memory or value.final)):
                raise self._error("the graph has more outputs than one and the last states")
        self._settle(first, at_end=True)
        if not self.layers:
            raise self._error("there are no layers")

    # What layers read.

    def _settle(self, value: Value, at_end: bool = False) -> Value:
        """A value that the last layer gives, whose features are one axis; a pooling layer is added if it is one."""
        if not isinstance(value, Value):
            raise self._error("it does not depend on the input")
        if value.memory:
            raise self._error("it reads the memory c of an LSTM, which no layer gives")
        if value.source != self.stage:
            raise self._error("it reads what another layer has read already")
        if value.slots is not None:
            value = self._with_directions(value)
        features = [k for k, axis in enumerate(value.axes) if set(axis) & set(self.features or ())]
        if not features and at_end and math.prod(n for _, n in self.features or ()) == 1:
            return value
        if len(features) != 1 or value.axes[features[0]] != self.features:
            raise self._error("its features are mixed with other axes")
        return value

    def _with_directions(self, value: Value) -> Value:
        lstm, k = self.layers[-1], len(self.layers) - 1
        every = tuple((k, d) for d in range(lstm.directions)) if isinstance(lstm, LSTM) else ()
        if not every or value.slots != every:
            raise self._error("it does not read all directions of the LSTM before it, forward first")
        if value.final:
            backward = lstm.bidirectional or lstm.reverse
            self.layers.append(FinalState(value.merge or "concat") if backward else Last())
        elif value.merge:
            self.layers[-1] = LSTM.from_state(lstm.config() | {"merge": value.merge}, lstm.parameters())
        atoms = tuple(a for a in self.features if value.merge is None or a[0] != SLOT)
        size = math.prod(n for _, n in atoms)
        new = ((f"features {len(self.layers)}", size),)
        axes = tuple(new if axis == atoms else axis for axis in value.axes)
        self.features = new
        return Value(axes, self._next())

    def _next(self) -> int:
        """The state of the chain after a change: what was read before it is not what it gives any more."""
        self.stage += 1
        return self.stage

    def _add(self, layer: Layer, value: Value, size: Any = None) -> Value:
        """The value after a new layer; `size`: of its features, if they are others."""
        self.layers.append(layer)
        axes = value.axes
        if size is not None:
            new = ((f"features {len(self.layers)}", size),)
            axes = tuple(new if axis == self.features else axis for axis in axes)
            self.features = new
        return Value(axes, self._next())

    def _lstm(
        self,
        layers: Sequence[Any],
        x: Value,
        lengths: Value | None = None,
        h: Value | None = None,
        c: Value | None = None,
    ) -> tuple[Value, Value, Value]:
        value = self._settle(x)
        if len(layers) > 1:
            raise self._error("its directions have different activations")
        if isinstance(lengths, Value) or isinstance(h, Value) or isinstance(c, Value):
            raise self._error("its lengths or initial state depend on the input")
        if any(name in self.model.optional and k == 1 for k, name in enumerate(self._node["inputs"])):
            raise self._error("lengths are an input")
        axes = value.axes
        if len(axes) != 3 or axes[2] != self.features:
            raise self._error("its input is no batch of sequences")
        time, batch = axes[:2][:: -1 if self._node["options"]["batch_first"] else 1]
        if len(time) != 1 or len(batch) > 1 or self.time not in (None, time[0][0]):
            raise self._error("it runs along another axis than time")
        if batch and self.batch not in (None, batch[0][0]):
            raise self._error("its batch is another axis")
        self.time, self.batch = time[0][0], batch[0][0] if batch else self.batch
        lstm = beginning_at(layers[0], [self._state(k) for k in (2, 3)])
        self.layers.append(lstm)
        count, hidden = lstm.directions, (f"features {len(self.layers)}", lstm.hidden_size)
        slots = tuple((len(self.layers) - 1, d) for d in range(count))
        directions = ((SLOT, count),)
        self.features = (*directions, hidden) if count > 1 else (hidden,)
        every = [time, directions, batch, (hidden,)]
        last = [directions, batch, (hidden,)]
        if self._node["options"]["batch_first"]:
            every, last = [batch, time, directions, (hidden,)], [batch, directions, (hidden,)]
        y = Value(tuple(every), self._next(), slots)
        h = Value(tuple(last), self.stage, slots, final=True)
        return y, h, h._replace(memory=True)

    def _state(self, k: int) -> Array | None:
        """A state that LSTMs begin with, (D, H), or None for zero."""
        names = self._node["inputs"]
        found = self.probe[names[k]] if k < len(names) and names[k] else None
        if found is None or not found.any():
            return None
        found = found.swapaxes(0, 1) if self._node["options"]["batch_first"] else found
        if not (found == found[:, :1]).all():
            raise self._error("sequences of a batch begin at different states")
        return found[:, 0]

    def _dense(self, layers: Sequence[Any], x: Value) -> Value:
        value = self._settle(x)
        if value.axes[-1] != self.features:
            raise self._error("it reads another axis than the features")
        return self._add(layers[0], value, layers[0].units)

    def _activation(self, layers: Sequence[Any], x: Value) -> Value:
        value = self._settle(x)
        axis, [layer] = self._node["options"]["axis"], layers
        if layer.activation == "softmax" and value.axes[axis] != self.features:
            raise self._error("it is over another axis than the features")
        if layer.activation == "sigmoid":
            self.gated = x, list(self.layers)
        before: Any = self.layers[-1] if self.layers else None
        plain = layer.activation in kernels.ACTIVATIONS and isinstance(before, Dense)
        if not plain or before.activation != "linear":
            return self._add(Activation(layer.activation), value)
        self.layers[-1] = Dense.from_state(before.config() | {"activation": layer.activation}, before.parameters())
        return value._replace(source=self._next())

    def _embedding(self, layers: Sequence[Any], x: Value) -> Value:
        if self.stage or self.features is not None or len(x.axes) > 2:
            raise self._error("its integers are not the input, a batch of sequences")
        if x.computed:
            self._check_tokens(layers[0].num_embeddings)
        self.features = (("features 1", layers[0].features),)
        self.layers.append(layers[0])
        return Value((*x.axes, self.features), self._next())

    def _check_tokens(self, count: int) -> None:
        """What exporters compute of integers, an element at a time, must leave all of them as they are."""
        name = self._node["inputs"][0]
        given = next(v for v in self.model.inputs if v[0] not in self.model.optional)[0]
        shape = self.probe[given].shape
        every = -(-count // math.prod(shape)) * math.prod(shape)
        for tokens in (np.arange(every) % count).reshape(-1, *shape):
            found = self.model.evaluate({given: tokens}, until=self._node["outputs"][0])[name]
            if not np.array_equal(found, tokens):
                raise self._error("it reads other integers than the input")

    def _token_arithmetic(self, layers: Sequence[Any], *given: Value) -> Value:
        values = [v for v in given if isinstance(v, Value)]
        numbers = [self.probe[n] for n, v in zip(self._node["inputs"], given, strict=True) if v is STATIC]
        alike = self.features is None and all(v.axes == values[0].axes for v in values)
        if not alike or any(a.size != 1 for a in numbers):
            raise self._error("there is no such layer")
        return values[0]._replace(computed=True)

    def _cast(self, layers: Sequence[Any], x: Value) -> Value:
        if self.features is None:
            return self._token_arithmetic(layers, x)
        if self._node["options"]["to"] != self.probe[self._node["inputs"][0]].dtype.name:
            raise self._error("the types of values change")
        return x

    def _identity(self, layers: Sequence[Any], x: Value) -> Value:
        return x

    # What moves axes.

    def _transpose(self, layers: Sequence[Any], x: Value) -> Value:
        perm = self._node["options"]["perm"] or range(len(x.axes))[::-1]
        return x._replace(axes=tuple(x.axes[k] for k in perm))

    def _regroup(self, layers: Sequence[Any], x: Value, *_: Any) -> Value:
        """Squeeze, Unsqueeze, Reshape and Flatten, as they did to the probe."""
        shape = self.probe[self._node["outputs"][0]].shape
        atoms, axes = [a for axis in x.axes for a in axis], []
        for n in shape:
            group = [atoms.pop(0)] if n == 1 and atoms and atoms[0][1] == 1 else []
            while math.prod(m for _, m in group) < n and atoms:
                group.append(atoms.pop(0))
            if math.prod(m for _, m in group) != n:
                raise self._error("it cuts an axis into pieces")
            axes.append(tuple(a for a in group if a[1] != 1 or len(group) == 1))
        if any(n != 1 for _, n in atoms):
            raise self._error("it cuts an axis into pieces")
        return x._replace(axes=tuple(axes))

    # What takes parts.

    def _constant(self, k: int, default: Any = None) -> Any:
        """The values of an input that depends on shapes alone, as a list."""
        names = self._node["inputs"]
        return self.probe[names[k]].reshape(-1).tolist() if k < len(names) and names[k] else default

    def _gather(self, layers: Sequence[Any], x: Value, index: Any) -> Value:
        if isinstance(index, Value) or not isinstance(x, Value):
            raise self._error("what is taken depends on the input")
        axis = self._node["options"]["axis"] % len(x.axes)
        found = self._constant(1)
        if len(found) != 1:
            raise self._error("it takes several places")
        keep = self.probe[self._node["inputs"][1]].ndim == 1
        return self._take(x, axis, found[0], keep)

    def _take(self, x: Value, axis: int, place: int, keep: Any) -> Value:
        """One place of an axis: a direction, or the last step."""
        atoms = x.axes[axis]
        if len(atoms) == 1 and atoms[0][0] == SLOT:
            part = ((SLOT, 1),)
            axes = x.axes[:axis] + ((part,) if keep else ()) + x.axes[axis + 1 :]
            return x._replace(axes=axes, slots=(x.slots[place],))
        if not self._is_time(atoms) or x.memory:
            raise self._error("it takes a part of an axis that is neither time nor directions")
        return self._one_step(x, axis, place, keep)

    def _one_step(self, x: Value, axis: int, place: int, keep: Any) -> Value:
        """One step of an axis of time: where the directions that it is taken of end, it is their last state."""
        [(label, length)] = x.axes[axis]
        if self.fixed[int(label)] and place == length - 1:
            place = -1
        kept = ((),) if keep else ()
        axes = x.axes[:axis] + kept + x.axes[axis + 1 :]
        if x.slots is not None and x.merge is None and not x.final:
            ends = {0 if self.layers[k].reversed[d] else -1 for k, d in x.slots}
            if ends == {place}:
                return x._replace(axes=axes, final=True)
        if place != -1:
            raise self._error(f"it takes step {place}, which is neither the last nor where an LSTM ends")
        value = self._settle(x)
        return self._add(Last(), value._replace(axes=value.axes[:axis] + kept + value.axes[axis + 1 :]))

    def _slice(self, layers: Sequence[Any], x: Value, *_: Any) -> Value:
        starts, ends = self._constant(1), self._constant(2)
        axes = self._constant(3, list(range(len(starts))))
        steps = self._constant(4, [1] * len(starts))
        for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
            axis %= len(x.axes)
            length = math.prod(n for _, n in x.axes[axis])
            places = range(length)[start:end:step]
            if len(places) == length and step == 1:
                continue
            atoms = x.axes[axis]
            if len(atoms) == 1 and atoms[0][0] == SLOT:
                part = ((SLOT, len(places)),)
                x = x._replace(axes=_replaced(x.axes, axis, part), slots=tuple(x.slots[k] for k in places))
            elif self._is_time(atoms) and len(places) == step == 1:
                x = self._one_step(x, axis, start, True)
            elif self._is_time(atoms) and step == -1 and start == -1 and end < -FAR:
                x = self._turned(x, axis)
            else:
                raise self._error("it takes a part of an axis that is neither directions nor the last step")
        return x

    def _is_time(self, atoms: tuple[Any, ...]) -> bool:
        """Whether an axis is that of time, or may be, as no LSTM has said so yet."""
        return (
            len(atoms) == 1
            and atoms[0][0].isdecimal()
            and self.time in (None, atoms[0][0])
            and (atoms != self.features)
        )

    def _turned(self, x: Value, axis: int) -> Value:
        self.time = x.axes[axis][0][0]
        return self._add(Reversed(), self._settle(x))

    def _reversesequence(self, layers: Sequence[Any], x: Value, _: Any) -> Value:
        axis = self._node["options"]["time"]
        if set(self._constant(1)) != {math.prod(n for _, n in x.axes[axis])} or not self._is_time(x.axes[axis]):
            raise self._error("it reverses a part of a sequence")
        return self._turned(x, axis)

    def _split(self, layers: Sequence[Any], x: Value, *_: Any) -> tuple[Value, ...]:
        axis = self._node["options"]["axis"] % len(x.axes)
        if x.axes[axis][:1] != ((SLOT, len(x.slots or ())),) or len(x.axes[axis]) != 1:
            raise self._error("it splits an axis that is not directions")
        found, first = [], 0
        for name in self._node["outputs"]:
            count = self.probe[name].shape[axis] if name else 0
            part = ((SLOT, count),)
            axes = _replaced(x.axes, axis, part)
            found.append(x._replace(axes=axes, slots=x.slots[first : first + count]))
            first += count
        return tuple(found)

    def _concat(self, layers: Sequence[Any], *parts: Value) -> Value:
        if not all(isinstance(p, Value) and p.slots is not None and p.merge is None for p in parts):
            raise self._error("it joins what no layer joins")
        first = max(parts, key=lambda p: p.source)
        if any((p.final, p.memory) != (first.final, first.memory) for p in parts):
            raise self._error("it joins what no layer joins")
        axis = self._node["options"]["axis"] % len(first.axes)
        slots = tuple(slot for p in parts for slot in p.slots)
        atoms = first.axes[axis]
        if all(len(p.axes[axis]) == 1 and p.axes[axis][0][0] == SLOT for p in parts):
            joined = ((SLOT, len(slots)),)
        elif all(p.axes == first.axes and len(p.slots) == 1 for p in parts) and self._are_features(atoms):
            joined = ((SLOT, len(slots)), *atoms)
        else:
            raise self._error("it joins what no layer joins")
        axes = _replaced(first.axes, axis, joined)
        return first._replace(axes=axes, slots=slots)

    def _are_features(self, atoms: tuple[Any, ...]) -> bool:
        return len(atoms) == 1 and atoms[0][0].startswith("features")

    def _combined(self, layers: Sequence[Any], a: Value, b: Value) -> Value:
        """Add, Mul and Div: of two directions, a value and its sigmoid, a bias, or integers before an Embedding."""
        op = self._node["op"]
        if self.features is None:
            return self._token_arithmetic(layers, a, b)
        if isinstance(a, Value) and isinstance(b, Value):
            gated = self.gated is not None and self.gated[0] in (a, b) and self.stage in (a.source, b.source)
            return self._silu(a, b) if op == "Mul" and gated and a != b else self._merged(op, a, b)
        value, number = (a, self._number(1)) if b is STATIC else (b, self._number(0))
        if op == "Add":
            return self._biased(value, number)
        half = number.size == 1 and number.item() == {"Mul": 0.5, "Div": 2}[op] and (op == "Mul" or b is STATIC)
        if value.merge == "sum" and half:
            return value._replace(merge="average")
        raise self._error("there is no such layer")

    def _number(self, k: int) -> Array:
        return self.probe[self._node["inputs"][k]]

    def _silu(self, a: Value, b: Value) -> Value:
        """x * sigmoid(x)."""
        before, self.layers = self.gated
        after = b if before == a else a
        if after.source != self.stage or after.axes != before.axes:
            raise self._error("there is no such layer")
        return self._add(Activation("silu"), after)

    def _merged(self, op: str, a: Value, b: Value) -> Value:
        alike = a.slots is not None and b.slots is not None and a._replace(slots=()) == b._replace(slots=())
        if op == "Div" or not alike or a.merge or len(a.slots) != 1 or len(b.slots) != 1 or a.slots == b.slots:
            raise self._error("it joins what no layer joins")
        return a._replace(slots=tuple(sorted(a.slots + b.slots)), merge={"Add": "sum", "Mul": "mul"}[op])

    def _biased(self, x: Value, bias: Array) -> Value:
        """What a product gives, with a bias that comes late."""
        value = self._settle(x)
        dense: Any = self.layers[-1] if self.layers else None
        places = [n for n, axis in zip(bias.shape[::-1], value.axes[::-1], strict=False) if axis != self.features]
        fits = isinstance(dense, Dense) and dense.activation == "linear" and bias.size == dense.units
        if not fits or any(n != 1 for n in places) or bias.ndim > len(value.axes):
            raise self._error("there is no such layer")
        arrays = dict(dense.parameters())
        self.layers[-1] = Dense.from_state(dense.config(), arrays | {"bias": arrays["bias"] + bias.reshape(-1)})
        return value._replace(source=self._next())

    def _reducemean(self, layers: Sequence[Any], x: Value, *_: Any) -> Value:
        axes = self._constant(1, self._node["options"]["axes"]) or []
        if len(axes) != 1 or self.time is None or x.axes[axes[0] % len(x.axes)] != ((self.time, self._steps()),):
            raise self._error("its mean is not over time alone")
        value = self._settle(x)
        axis = axes[0] % len(value.axes)
        kept = ((),) if self._node["options"]["keepdims"] else ()
        return self._add(MeanPool(), value._replace(axes=value.axes[:axis] + kept + value.axes[axis + 1 :]))

    def _steps(self) -> int:
        """T of the probe."""
        name = next(name for name, *_ in self.model.inputs if name not in self.model.optional)
        return self.probe[name].shape[int(self.time)]


_HANDLERS: dict[str, Any] = {
    **dict.fromkeys(
        ("Less", "Greater", "Not", "Where", "Sub", "LessOrEqual", "GreaterOrEqual"), _Chain._token_arithmetic
    ),
    "LSTM": _Chain._lstm,
    "Dense": _Chain._dense,
    "Activation": _Chain._activation,
    "Embedding": _Chain._embedding,
    "Cast": _Chain._cast,
    "Identity": _Chain._identity,
    "Transpose": _Chain._transpose,
    **dict.fromkeys(("Squeeze", "Unsqueeze", "Reshape", "Flatten"), _Chain._regroup),
    "Gather": _Chain._gather,
    "Slice": _Chain._slice,
    "Split": _Chain._split,
    "Concat": _Chain._concat,
    **dict.fromkeys(("Add", "Mul", "Div"), _Chain._combined),
    "ReduceMean": _Chain._reducemean,
    "ReverseSequence": _Chain._reversesequence,
}
