"""GraphModel: a model that is a small graph of layers and operators, as importers read it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from lstmx import storage
from lstmx.functional import validate
from lstmx.functional.cell import Cell
from lstmx.layers import LSTM, Dense, Embedding
from lstmx.layers.activation import Activation
from lstmx.layers.base import Layer, Run
from lstmx.predictors.operators import (
    DTYPES,
    LARGEST,
    MOST_AXES,
    OPERATORS,
    Operator,
    check_option,
    from_the_beginning,
    limited,
    place,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from numpy.typing import ArrayLike

    from lstmx._types import Array, Arrays, ArrayShape, Config
    from lstmx.model import Sequential


MOST_NODES, MOST_VALUES, LONGEST_NAME = 20_000, 200, 2000
X, LENGTHS, STATE_H, STATE_C = range(4)  # the inputs of an LSTM


def _lstm(layers: Sequence[Any], given: Sequence[Any], options: dict[str, Any]) -> tuple[Array, Array, Array]:
    """Y, Y_h and Y_c in the layouts of ONNX."""
    x, lengths, *states = (*given, None, None, None)[:4]
    if x.ndim != 3:
        raise ValueError(f"X: got shape {x.shape}, must have three axes")
    batch_first, directions = options["batch_first"], sum(layer.directions for layer in layers)
    x = x if batch_first else x.swapaxes(0, 1)
    if any(s is not None for s in states):
        shape = directions, len(x), layers[0].hidden_size
        states = [np.zeros(shape, x.dtype) if s is None else s.swapaxes(0, 1) if batch_first else s for s in states]
        if any(s.shape != shape for s in states):
            wanted = "(N, D, H)" if batch_first else "(D, N, H)"
            raise ValueError(f"initial_h, initial_c: got {states[0].shape}, {states[1].shape} as (D, N, H), must be "
                             f"{shape}; the graph takes {wanted}")  # fmt: skip
    if lengths is not None:
        lengths = validate.lengths(lengths, *x.shape[:2], name="sequence_lens")  # type: ignore[misc]
        lengths = None if (lengths == x.shape[1]).all() else lengths
    every, first = [], 0
    for layer in layers:
        own = None if states[0] is None else tuple(s[first : first + layer.directions] for s in states)
        every.append(layer(x, own, lengths=lengths))
        first += layer.directions
    y = every[0][0] if len(every) == 1 else np.concatenate([y for y, _ in every], axis=2)
    h, c = (np.concatenate(parts) if len(parts) > 1 else parts[0] for parts in zip(*(s for _, s in every), strict=True))
    y = y.reshape(*y.shape[:2], directions, -1 if y.size else layers[0].hidden_size)
    if batch_first:
        return y, h.swapaxes(0, 1), c.swapaxes(0, 1)
    return y.transpose(1, 2, 0, 3), h, c


def _given_lstm(
    given: Sequence[Any], options: dict[str, Any], room: Callable[[Iterable[int]], None]
) -> tuple[Array, Array, Array]:
    """An LSTM whose weights are inputs, in our order of gates: x, weight_ih (D, 4H, I), weight_hh, bias, peephole,
    lengths, h, c.
    """
    x, weight_ih, weight_hh, bias, peephole, *rest = (*given, *(None,) * 8)[:8]
    if weight_ih is None or weight_hh is None or weight_ih.ndim != 3 or weight_hh.ndim != 3:
        raise ValueError("W and R: must have three axes")
    layers = []
    for d, (reverse, cell) in enumerate(zip(options["reversed"], options["cells"], strict=True)):
        arrays = {"weight_ih_l0": weight_ih, "weight_hh_l0": weight_hh, "bias_l0": bias, "peephole_l0": peephole}
        arrays = {name: a[d] for name, a in arrays.items() if a is not None}
        sizes = {"input_size": weight_ih.shape[2], "hidden_size": weight_hh.shape[2]}
        sizes |= {"cell": cell | ({"peephole": True} if peephole is not None else {})}
        sizes |= {"bias": bias is not None, "reverse": reverse, "dtype": weight_ih.dtype.name}
        config = LSTM.without_parameters(sizes).config()
        for name, shape, *_ in LSTM.array_shapes(config):
            validate.shaped(name, arrays[name], shape, weight_ih.dtype, "what the other weights ask for")
        layers.append(LSTM.from_state(config, arrays))
    return _lstm(layers, [x, *rest], options)


def _by_rows(layer: Any, x: Array, axis: int = -1) -> Array:
    """A layer that sees rows of features, on the features in that axis."""
    axis = place(axis, x.ndim)
    moved = np.moveaxis(x, axis, -1)
    if layer.input_size not in (None, moved.shape[-1]):
        raise ValueError(f"got {moved.shape[-1]} features, must be {layer.input_size}")
    rows = np.ascontiguousarray(moved.reshape(math.prod(moved.shape[:-1]), moved.shape[-1]))
    rows, *_ = layer.forward_rows(rows, None, None, Run())
    return np.moveaxis(rows.reshape(*moved.shape[:-1], rows.shape[1]), -1, axis)


def _dense(layers: Sequence[Any], given: Sequence[Any], options: dict[str, Any]) -> Array:
    return _by_rows(layers[0], given[0].astype(layers[0].dtype, copy=False))


def _activation(layers: Sequence[Any], given: Sequence[Any], options: dict[str, Any]) -> Array:
    if given[0].dtype.kind != "f":
        raise ValueError(f"got {given[0].dtype}, must be floating-point numbers")
    return (
        _by_rows(layers[0], given[0], options["axis"])
        if given[0].ndim
        else _activation(layers, [given[0].reshape(1)], options).reshape(())
    )


def _embedding(layers: Sequence[Any], given: Sequence[Any], options: dict[str, Any]) -> Array:
    tokens = from_the_beginning(given[0], layers[0].num_embeddings)
    rows, *_ = layers[0].forward_rows(tokens.reshape(-1), None, None, Run())
    return rows.reshape(*tokens.shape, -1 if tokens.size else layers[0].features)


# An operator with layers: its function takes them first; it may have so many, of that class.
LAYERED = {
    "LSTM": (LSTM, (1, 2), Operator(_lstm, (1, 4), {"batch_first": ("flag", False)})),
    "Dense": (Dense, (1, 1), Operator(_dense, (1, 1), {})),
    "Activation": (Activation, (1, 1), Operator(_activation, (1, 1), {"axis": ("int", -1)})),
    "Embedding": (Embedding, (1, 1), Operator(_embedding, (1, 1), {})),
}
GIVEN_LSTM = Operator(
    _given_lstm, (3, 8), {"batch_first": ("flag", False), "reversed": ("flags", None), "cells": ("cells", None)}
)


def _operator(op: str) -> tuple[Operator, Any, tuple[int, int]]:
    """(Operator, class of its layers or None, how many) by name."""
    if op in LAYERED:
        kind, count, found = LAYERED[op]
        return found, kind, count
    if op == "GivenLSTM":
        return GIVEN_LSTM, None, (0, 0)
    return OPERATORS[op], None, (0, 0)


def _check_node(node: dict[str, Any]) -> tuple[Operator, Any, tuple[int, int]]:
    """A node of a configuration, but for its names and layers: its `Operator`, the class and number of layers."""
    validate.keys("a node", node, ("op", "name", "inputs", "outputs", "options", "layers"))
    if not isinstance(node["op"], str) or node["op"] not in {*LAYERED, *OPERATORS, "GivenLSTM"}:
        raise ValueError(f"there is no operator {node['op']!r:.60}; a newer version of lstmx may know it")
    found, kind, count = _operator(node["op"])
    for what in ("inputs", "outputs"):
        if not isinstance(node[what], list) or not all(isinstance(name, str) for name in node[what]):
            raise ValueError(f"{node['op']}: {what} must be a list of names")
    if not found.inputs[0] <= len(node["inputs"]) <= found.inputs[1] or not 1 <= len(node["outputs"]) <= MOST_VALUES:
        raise ValueError(f"{node['op']}: {len(node['inputs'])} inputs and {len(node['outputs'])} outputs")
    if not all(node["inputs"][: found.inputs[0]]):
        raise ValueError(f"{node['op']}: an input that it needs is left out")
    options = validate.keys(f"{node['op']}: options", node["options"], found.options)
    for name, (kind_of, default) in found.options.items():
        if kind_of in ("flags", "cells"):
            value = options[name]
            whole = isinstance(value, list) and 1 <= len(value) <= 2
            if not whole or not all(isinstance(v, bool if kind_of == "flags" else dict) for v in value):
                raise ValueError(f"{node['op']}: {name} must be a list of one or two")
            for cell in value if kind_of == "cells" else ():
                Cell.from_config(cell)
        elif options[name] is not None or default is not None or kind_of == "dtype":
            check_option(f"{node['op']}: {name}", kind_of, options[name])
    return found, kind, count


@storage.register
class GraphModel(storage.Stored):
    """A model that is a small graph of layers and operators: what `lstmx.from_onnx` gives.

    It needs neither ONNX nor anything else to run, and is saved and loaded as other models are. A row's results do not
    depend on what else is in its batch.

    Parameters
    ----------
    config : dict
        Plain JSON values: ``inputs`` and ``outputs``, each a list of {name, dtype, shape}; ``constants``, the same;
        ``nodes``, in an order in which they can run, each {op, name, inputs, outputs, options, layers}.
    arrays : dict of str to ndarray
        Those that `array_shapes` names.

    Attributes
    ----------
    inputs, outputs : tuple of (name, dtype, shape)
        Shapes have None, or a name, for what may have any length; they are None where nothing is known.
    """

    fields = ("inputs", "outputs", "constants", "nodes")

    def __init__(self, config: Config, arrays: Arrays) -> None:
        wanted = set()
        for name, shape, dtype, _ in self.array_shapes(config):  # one at a time: there may be no end of them
            wanted.add(name)
            found = arrays.get(name)
            if found is None or found.shape != tuple(shape) or found.dtype != dtype:
                got = "nothing" if found is None else f"{found.dtype} {found.shape}"
                raise ValueError(f"{name}: got {got}, must be {dtype} {tuple(shape)}")
        validate.keys("arrays", arrays, wanted)
        self.config = config
        self.inputs, self.outputs = (
            tuple((v["name"], v["dtype"], None if v["shape"] is None else tuple(v["shape"])) for v in config[side])
            for side in ("inputs", "outputs")
        )
        self._constants = {}
        for k, constant in enumerate(config["constants"]):
            value = np.array(arrays[f"constant.{k}"]).astype(DTYPES[constant["dtype"]])
            value.flags.writeable = False
            self._constants[constant["name"]] = value
        self._layers = [
            [_build(layer, arrays, f"{k}.{j}.") for j, layer in enumerate(node["layers"])]
            for k, node in enumerate(config["nodes"])
        ]
        calls = [_call(node, layers) for node, layers in self.nodes]
        self._plan = list(zip(calls, config["nodes"], self._find_last_uses(), strict=True))
        self._states, self._lengths = self._find_optional()

    # Files.

    @classmethod
    def array_shapes(cls, config: Config) -> Iterator[ArrayShape]:
        """(name, shape, dtype, what its numbers must be) of every array; an error for a wrong configuration."""
        validate.keys("the configuration of GraphModel", config, cls.fields)
        known: set[str] = set()
        for side in ("inputs", "constants", "outputs"):
            if not isinstance(config[side], list):
                raise ValueError(f"{side}: must be a list")
            for value in config[side]:
                _check_value(side, value)
                if side != "outputs":
                    _name_once(known, value["name"])
        for k, constant in enumerate(config["constants"]):
            shape = constant["shape"]
            if shape is None or not all(type(n) is int for n in shape):
                raise ValueError(f"constants: the shape of {constant['name']!r:.60} is {shape!r:.60}")
            stored = "int64" if constant["dtype"] == "bool" else constant["dtype"]
            yield f"constant.{k}", tuple(shape), stored, "anything"
        yield from cls._node_shapes(config["nodes"], known)
        for value in config["outputs"]:
            if value["name"] not in known:
                raise ValueError(f"outputs: nothing gives {value['name']!r:.60}")
        if not config["outputs"]:
            raise ValueError("outputs: there are none")

    @staticmethod
    def _node_shapes(nodes: list[dict[str, Any]], known: set[str]) -> Iterator[ArrayShape]:
        if not isinstance(nodes, list) or len(nodes) > MOST_NODES:
            raise ValueError(f"nodes: must be a list of at most {MOST_NODES}")
        for k, node in enumerate(nodes):
            _, kind, (least, most) = _check_node(node)
            for name in node["inputs"]:
                if name and name not in known:
                    raise ValueError(f"{node['op']}: its input {name!r:.60} is not there before it runs")
            for name in node["outputs"]:
                if name:
                    _name_once(known, name)
            layers = node["layers"]
            if not isinstance(layers, list) or not least <= len(layers) <= most:
                raise ValueError(f"{node['op']}: must have {least} to {most} layers")
            if node["op"] == "LSTM":
                _check_directions(layers)
            for j, layer in enumerate(layers):
                if not isinstance(layer, dict) or storage.registered(layer.get("class"), Layer) is not kind:
                    raise ValueError(f"{node['op']}: its layers must be of class {kind.__name__}")
                own = {name: value for name, value in layer.items() if name != "class"}
                for name, *rest in kind.array_shapes(own):
                    yield f"{k}.{j}.{name}", *rest

    def state(self) -> tuple[Config, Arrays]:
        """(configuration, arrays): what `from_state` takes."""
        arrays = {}
        for k, constant in enumerate(self.config["constants"]):
            value = self._constants[constant["name"]]
            arrays[f"constant.{k}"] = value.astype(np.int64) if value.dtype.kind == "b" else value
        for k, layers in enumerate(self._layers):
            for j, layer in enumerate(layers):
                arrays |= {f"{k}.{j}.{name}": p for name, p in layer.parameters().items()}
        return self.config, arrays

    @classmethod
    def from_state(cls, config: Config, arrays: Arrays) -> Self:
        """A model from what `state` gave."""
        return cls(config, arrays)

    # What follows from the graph.

    @property
    def nodes(self) -> list[tuple[dict[str, Any], list[Layer]]]:
        """(node of the configuration, its layers) in the order in which they run."""
        return list(zip(self.config["nodes"], self._layers, strict=True))

    @property
    def constants(self) -> Arrays:
        """Constants by name, read-only."""
        return dict(self._constants)

    @property
    def optional(self) -> set[str]:
        """The inputs that `run` does without: initial states, and lengths."""
        return self._states | self._lengths

    @property
    def size(self) -> int:
        """The number of parameters of its layers."""
        return sum(layer.size for layers in self._layers for layer in layers)

    def _find_last_uses(self) -> list[list[str]]:
        """For every node the values that nobody needs after it."""
        kept, seen, found = {name for name, *_ in self.outputs} | set(self._constants), set[str](), []
        for node in reversed(self.config["nodes"]):
            names = {name for name in (*node["inputs"], *node["outputs"]) if name} - kept - seen
            seen |= names
            found.append(sorted(names))
        return found[::-1]

    def _find_optional(self) -> tuple[set[str], set[str]]:
        """The inputs that only become initial states of LSTMs, and those that only are lengths of sequences."""
        roots = {name: {name} for name, *_ in self.inputs}  # value -> inputs that it is made of
        state, length, other = set(), set(), {name for name, *_ in self.outputs if name in roots}
        for node in self.config["nodes"]:
            op, lstm = node["op"], {"LSTM": 0, "GivenLSTM": 4}.get(node["op"])
            for k, name in enumerate(node["inputs"]):
                found = roots.get(name, set())
                if lstm is not None and k - lstm in (STATE_H, STATE_C):
                    state |= found
                elif lstm is not None and k - lstm == LENGTHS:
                    length |= found if name in found else set()
                    other |= set() if name in found else found
                elif (op in OPERATORS and OPERATORS[op].moves and k == 0) or op in ("Concat", "Cast"):
                    for output in node["outputs"]:
                        roots[output] = roots.get(output, set()) | found
                elif op != "Shape":
                    other |= found
        return state - length - other, length - state - other

    # What users call.

    def run(self, inputs: Mapping[str, ArrayLike]) -> Arrays:
        """All outputs by name.

        Parameters
        ----------
        inputs : dict of str to array
            By the names in ``inputs``. What only says where LSTMs begin may be left out: they begin at zero; and so may
            be what only says how long sequences are: they are as long as x.

        Returns
        -------
        dict of str to ndarray
        """
        values = self.evaluate(inputs)
        return {name: _owned(values[name], dtype) for name, dtype, _ in self.outputs}

    def predict(self, x: ArrayLike) -> Array:
        """The first output for the one input that cannot be left out; LSTMs begin at zero.

        Parameters
        ----------
        x : array
            Of the shape that `inputs` tells.

        Returns
        -------
        ndarray
        """
        needed = [name for name, *_ in self.inputs if name not in self.optional]
        if len(needed) != 1:
            raise ValueError(f"predict: this graph takes {', '.join(needed) or 'nothing'}; call run({{name: array}})")
        return self.run({needed[0]: x})[self.outputs[0][0]]

    def evaluate(self, inputs: Mapping[str, ArrayLike], keep: bool = False, until: str | None = None) -> Arrays:
        """Values by name: the outputs, or with `keep` all of them; or those that the node which gives `until` reads."""
        values = self._constants | self._read_inputs(inputs)
        with np.errstate(all="ignore"):
            for call, node, over in self._plan:
                outputs = node["outputs"]
                if until in outputs:
                    break
                try:
                    out = call([values[name] if name else None for name in node["inputs"]])
                except (ValueError, TypeError, IndexError, OverflowError, AttributeError) as error:
                    raise ValueError(f"{node['op']} {node['name']!r:.60}: {error}") from error
                out = out if isinstance(out, tuple) else (out,)
                if len(out) < len(outputs):
                    raise ValueError(f"{node['op']} {node['name']!r:.60}: gives {len(out)} outputs, must give "
                                     f"{len(outputs)}")  # fmt: skip
                for name, a in zip(outputs, out, strict=False):
                    if name:
                        values[name] = a if isinstance(a, np.ndarray) else np.asarray(a)
                if not keep:
                    for name in over:
                        values.pop(name, None)
        return values

    def _read_inputs(self, inputs: Mapping[str, ArrayLike]) -> Arrays:
        names = [name for name, *_ in self.inputs]
        if not isinstance(inputs, dict):
            raise TypeError(f"inputs: got {type(inputs).__name__}, must be a dict of name to array: {', '.join(names)}")
        for name in inputs:
            if name not in names:
                raise ValueError(f"inputs: there is no {name!r:.60}; there are {', '.join(names)}")
        values: dict[str, Any] = {}
        lengths: dict[str, int] = {}
        for name, dtype, shape in self.inputs:
            if name not in inputs:
                continue
            try:
                a = validate.real_array(name, inputs[name])
            except ValueError as error:
                raise ValueError(f"{name}: got sequences of several lengths, or no numbers; a graph takes one array, "
                                 f"{_shown(shape)}: pad them to one length") from error  # fmt: skip
            if dtype == "int64" and a.dtype.kind not in "iub":
                raise TypeError(f"{name}: got {a.dtype}, must be integers")
            with np.errstate(over="ignore"):
                values[name] = a.astype(DTYPES[dtype], copy=not a.flags.aligned)
            if shape is not None and not _fits(a.shape, shape, lengths):
                raise ValueError(f"{name}: got shape {a.shape}, must be {_shown(shape)}")
        for name, dtype, shape in self.inputs:
            if name in values:
                continue
            if name in self._lengths:
                values[name] = None
            elif name in self._states:
                wanted = [lengths.get(n, n) for n in shape or (None,)]
                if not all(isinstance(n, int) for n in wanted):
                    raise ValueError(f"{name}: is missing, and what is known of its shape is {_shown(shape)}; give it")
                limited(LARGEST)(wanted)
                values[name] = np.zeros(wanted, DTYPES[dtype])
            else:
                raise ValueError(f"inputs: {name!r:.60} is missing; there must be {', '.join(names)}")
        return values

    def to_sequential(self) -> Sequential:
        """The same as a `Sequential`, where the graph is a chain of its layers.

        Returns
        -------
        Sequential
            It takes and gives batches first, (N, T, features), however the graph has them; states begin at zero. It can
            be trained, streamed and looked into.

        Raises
        ------
        ValueError
            If the graph is something else, saying what stands in the way.
        """
        from lstmx.predictors.graph_chain import to_sequential

        return to_sequential(self)

    def summary(self) -> str:
        """One line per node: what it is, and its parameters."""
        lines = [f"{self!r}"]
        for node, layers in self.nodes:
            shown = " + ".join(map(repr, layers)) or node["op"]
            count = sum(layer.size for layer in layers)
            lines.append(f"  {node['name'][:40]:40s}  {shown}" + (f"  {count:,}" if count else ""))
        return "\n".join([*lines, f"{self.size:,} parameters"])

    def __repr__(self) -> str:
        sides = (
            ", ".join(f"{name} {_shown(shape)}" for name, _, shape in side) for side in (self.inputs, self.outputs)
        )
        return f"<GraphModel: {' -> '.join(sides)}>"


def _call(node: dict[str, Any], layers: Sequence[Any]) -> Callable[..., Any]:
    """What a node does, as a function of its inputs."""
    found, options, room = _operator(node["op"])[0].function, node["options"], limited(LARGEST)
    if layers:
        return lambda given: found(layers, given, options)
    return lambda given: found(given, options, room)


def _owned(a: Array, dtype: str) -> Array:
    """An output as a plain array that shares no memory with the model or its inputs."""
    return np.array(a, DTYPES[dtype], order="C")


def _build(config: Config, arrays: Arrays, prefix: str) -> Layer:
    kind = storage.registered(config["class"], Layer)
    own = {name: value for name, value in config.items() if name != "class"}
    return kind.from_state(own, {n.removeprefix(prefix): a for n, a in arrays.items() if n.startswith(prefix)})


def _check_value(side: str, value: Any) -> None:
    validate.keys(f"{side}: each", value, ("name", "dtype", "shape"))
    if not isinstance(value["name"], str) or not 0 < len(value["name"]) <= LONGEST_NAME:
        raise ValueError(f"{side}: got the name {value['name']!r:.60}")
    validate.choice(f"{side}: dtype", value["dtype"], tuple(DTYPES))
    shape = value["shape"]
    if shape is None:
        return
    if not isinstance(shape, list) or len(shape) > MOST_AXES:
        raise ValueError(f"{side}: shape must be a list of at most {MOST_AXES}")
    if not all(n is None or isinstance(n, str) or (type(n) is int and 0 <= n < 2**62) for n in shape):
        raise ValueError(f"{side}: got the shape {shape!r:.60}")


def _name_once(known: set[str], name: str) -> None:
    if name in known or len(name) > LONGEST_NAME:
        raise ValueError(f"the value {name!r:.60} is made twice")
    known.add(name)


def _check_directions(layers: Sequence[Any]) -> None:
    """The layers of an LSTM operator: one; or two of one direction each, and the second reads from the end."""
    configs = [layer if isinstance(layer, dict) else {} for layer in layers]
    for config in configs:
        if config.get("num_layers") != 1 or config.get("merge", "concat") != "concat" or config.get("proj_size", 0):
            raise ValueError("LSTM: its layers must have num_layers=1, no projection, and merge nothing")
    if len(configs) == 2:
        same = [[a.get(key) for key in ("input_size", "hidden_size", "dtype", "bidirectional")] for a in configs]
        if same[0] != same[1] or same[0][3] or [a.get("reverse", False) for a in configs] != [False, True]:
            raise ValueError("LSTM: two layers must be of the same sizes, forward and reverse")


def _fits(shape: tuple[int, ...], wanted: Any, lengths: dict[str, Any]) -> bool:
    """Whether a shape is as declared; what a name stands for is noted in `lengths`."""
    if len(shape) != len(wanted):
        return False
    for n, want in zip(shape, wanted, strict=True):
        if isinstance(want, int) and n != want:
            return False
        if isinstance(want, str):
            lengths.setdefault(want, n)
    return True


def _shown(shape: Sequence[Any] | None) -> str:
    """A declared shape in words."""
    if shape is None:
        return "of any shape"
    inner = ", ".join("?" if n is None else str(n) for n in shape)
    return f"({inner},)" if len(shape) == 1 else f"({inner})"
