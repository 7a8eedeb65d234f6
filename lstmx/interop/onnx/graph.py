"""Reads the graph of an ONNX model into the configuration and arrays of a `GraphModel`; folds constants."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from lstmx.interop.onnx.nodes import CONVERTERS, Node
from lstmx.predictors.operators import DTYPES, OPERATORS, check_option, limited
from lstmx.storage import ModelFileError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lstmx._types import Array, Arrays, Config


OLDEST = 7  # operator set
DEEPEST = 60  # nodes that a constant is made by, one from the other
# Types of tensors by number -> (ours, bytes of an element, where its numbers are if not in raw_data).
FLOAT16, BFLOAT16 = 10, 16
TYPES = {
    1: ("float32", 4, "float_data"), 11: ("float64", 8, "double_data"), FLOAT16: ("float32", 2, "int32_data"),
    BFLOAT16: ("float32", 2, "int32_data"), 2: ("int64", 1, "int32_data"), 3: ("int64", 1, "int32_data"),
    4: ("int64", 2, "int32_data"), 5: ("int64", 2, "int32_data"), 6: ("int64", 4, "int32_data"),
    7: ("int64", 8, "int64_data"), 9: ("bool", 1, "int32_data"), 12: ("int64", 4, "uint64_data"),
    13: ("int64", 8, "uint64_data"),
}  # fmt: skip
EXTERNAL = 1  # data_location


def array_of(tensor: Any) -> Array:
    """A TensorProto as an array: floats of 16 bits as float32, integers but those of 8 bits as int64."""
    from onnx import numpy_helper

    name, dims = tensor.name, list(tensor.dims)
    if tensor.data_type not in TYPES:
        raise ValueError(f"the tensor {name!r:.60} is of type {tensor.data_type}, which is neither real numbers nor "
                         "integers")  # fmt: skip
    if tensor.data_location == EXTERNAL:
        raise ValueError(f"the numbers of the tensor {name!r:.60} lie in another file; give the path of the model")
    kind, size, field = TYPES[tensor.data_type]
    count = math.prod(dims)
    have = len(tensor.raw_data) / size if tensor.raw_data else len(getattr(tensor, field))
    if min(dims, default=0) < 0 or len(dims) > 32 or have != count:
        raise ValueError(f"the tensor {name!r:.60} has the shape {dims!s:.60}, but numbers for {have:g} elements; take "
                         "another copy of the file")  # fmt: skip
    if tensor.data_type == BFLOAT16:
        bits = np.frombuffer(tensor.raw_data, "<u2") if tensor.raw_data else np.array(tensor.int32_data)
        return (bits.astype(np.uint32) << 16).view(np.float32).reshape(dims)
    array = numpy_helper.to_array(tensor)
    return array if size == 1 and kind == "int64" else array.astype(DTYPES[kind], copy=False)


def declared(value: Any) -> dict[str, Any]:
    """A ValueInfoProto as {name, dtype, shape}."""
    tensor = value.type.tensor_type
    if value.type.WhichOneof("value") != "tensor_type" or tensor.elem_type not in TYPES:
        raise ValueError(f"{value.name!r:.60} is neither a tensor of real numbers nor of integers")
    shape = None
    if tensor.HasField("shape"):
        shape = [d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in tensor.shape.dim]
        shape = [None if isinstance(n, int) and n < 0 else n for n in shape]
    return {"name": value.name, "dtype": TYPES[tensor.elem_type][0], "shape": shape}


class Scope:
    """The values of a graph or subgraph: an array where a value is constant, else the name that it has in the model."""

    values: dict[str, Any]
    uses: dict[str, int]

    def __init__(self, graph: Any, parent: Scope | None = None) -> None:
        self.graph, self.parent = graph, parent
        self.values = {}
        self.producers = {name: node for node in graph.node for name in node.output if name}
        self.uses = {}
        for name in (*_reads(graph.node), *(output.name for output in graph.output)):
            self.uses[name] = self.uses.get(name, 0) + 1


def _reads(nodes: Any) -> Iterator[str]:
    """The names that nodes, and the nodes in their subgraphs, read."""
    for node in nodes:
        yield from node.input
        for attribute in node.attribute:
            for graph in (*([attribute.g] if attribute.HasField("g") else ()), *attribute.graphs):
                yield from _reads(graph.node)
                yield from (output.name for output in graph.output)


def needed_nodes(graph: Any) -> list[Any]:
    """The nodes that the outputs need, in the order of the file."""
    needed, found = {output.name for output in graph.output}, []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed.update(_reads([node]))
            found.append(node)
    return found[::-1]


class Reader:
    """Reads nodes, one at a time or as somebody asks for their values.

    Parameters
    ----------
    model : onnx.ModelProto
    label : str
        What errors call it: its path.
    size : int
        Bytes of the file, with those beside it.
    lazy : bool
        Whether nodes are read when a value of theirs is asked for; what cannot be read is then no constant.

    Attributes
    ----------
    nodes, arrays, constants
        What was read, as `GraphModel` takes it.
    unknown : list of str
        Operators that there are not, and why others are refused.
    """

    nodes: list[Any]
    layers: list[Any]
    unknown: list[str]
    quantised: list[Any]
    quantised_products: set[Any]
    _names: set[str]

    def __init__(self, model: Any, label: str, size: int, lazy: bool = False) -> None:
        self.model, self.label, self.lazy = model, label, lazy
        self.nodes, self.layers, self.unknown, self.quantised = [], [], [], []
        self.quantised_products = set()  # names of values: of Dense layers whose scale is still to come
        self.room_left = size + 2**20  # elements
        self._names, self._depth = set(), 0
        self._is_ours = model.producer_name == "lstmx"
        versions = [o.version for o in model.opset_import if o.domain in ("", "ai.onnx")]
        self.opset = max(versions, default=1)
        if self.opset < OLDEST:
            raise self.error(f"is of operator set {self.opset}, must be of {OLDEST} or newer; convert it by "
                             "onnx.version_converter")  # fmt: skip
        self.functions = {(f.domain, f.name) for f in model.functions}

    def error(self, text: object) -> ModelFileError:
        """A ModelFileError about this file."""
        ours = "; lstmx wrote this file: load what it was written of by lstmx.load" if self._is_ours else ""
        return ModelFileError(f"{self.label}: {text}{ours}")

    # Values.

    def initial_scope(self, graph: Any, parent: Scope | None = None) -> Scope:
        """The scope of a graph that nothing of has been read yet but its tensors."""
        scope = Scope(graph, parent)
        if graph.sparse_initializer:
            raise self.error("has sparse tensors, which are not supported; make them dense")
        for value in graph.input:
            scope.values[value.name] = self.fresh(value.name)
        for tensor in graph.initializer:
            try:
                scope.values[tensor.name] = tensor if self.lazy else array_of(tensor)
            except ValueError as error:
                raise self.error(error) from error
        return scope

    def fresh(self, name: str) -> str:
        """A name in the model that no other value has."""
        while name in self._names or not name:
            name += "'"
        self._names.add(name)
        return name

    def value(self, scope: Scope, name: str) -> Any:
        """An array, or the name of a value that the model computes."""
        place = scope
        while place is not None:
            if name not in place.values and self.lazy and name in place.producers:
                self._read_lazily(place, name)
            if name in place.values:
                found = place.values[name]
                if not isinstance(found, str | np.ndarray):
                    found = place.values[name] = array_of(found)
                return found
            place = place.parent
        if self.lazy:
            return "?"
        raise self.error(f"the value {name!r:.60} is used before any node gives it; nodes must stand in an order in "
                         "which they can run, and in no circle")  # fmt: skip

    def _read_lazily(self, scope: Scope, name: str) -> None:
        node = scope.producers[name]
        for output in node.output:
            scope.values.setdefault(output, "?")  # while it is read: a circle is no constant
        self._depth += 1
        try:
            if self._depth <= DEEPEST:
                self.read_node(scope, node)
        except ModelFileError:
            pass
        finally:
            self._depth -= 1

    def bind(self, scope: Scope, name: str, value: Any) -> None:
        """Give an ONNX name its value."""
        if name:
            if name in scope.values and scope.values[name] != "?" and not self.lazy:
                raise self.error(f"the value {name!r:.60} is made twice; take another copy of the file")
            scope.values[name] = value

    # Nodes.

    def read_graph(self, scope: Scope) -> list[Any]:
        """All nodes that the outputs of a graph need; the values of its outputs."""
        for node in needed_nodes(scope.graph):
            self.read_node(scope, node)
        return [self.value(scope, output.name) for output in scope.graph.output]

    def read_node(self, scope: Scope, node: Any) -> None:
        """One node."""
        domain = "" if node.domain == "ai.onnx" else node.domain
        key = f"{domain}.{node.op_type}" if domain else node.op_type
        if (domain, node.op_type) in self.functions:
            key = f"{key} (a function of the file)"
        if key not in CONVERTERS:
            self.refuse(scope, node, key)
            return
        try:
            CONVERTERS[key](Node(self, scope, node))
        except ModelFileError:
            raise
        except (TypeError, ValueError, LookupError, AttributeError, OverflowError) as error:
            raise self.error(f"{node.op_type} {node.name or ', '.join(node.output)!r:.60}: {error}") from error

    def refuse(self, scope: Scope, node: Any, what: str) -> None:
        """Note that the graph has something that is not supported, and read on."""
        if what not in self.unknown:
            self.unknown.append(what)
        for name in node.output:
            self.bind(scope, name, self.fresh(name) if name else "")

    def emit(
        self, op: str, name: str, inputs: Any, options: Any = None, outputs: Any = 1, layers: Sequence[Any] = ()
    ) -> list[Any]:
        """Values of a node of ours: arrays where all its inputs are, else names.

        `inputs` are arrays, names, or None; `outputs` is how many there are.
        """
        options = {key: default for key, (_, default) in OPERATORS[op].options.items()} | (
            options or {}) if op in OPERATORS else options or {}  # fmt: skip
        inputs = [_normal(a) if isinstance(a, np.ndarray) else a for a in inputs]
        while inputs and inputs[-1] is None:
            inputs.pop()
        if op in OPERATORS:
            for key, (kind, _) in OPERATORS[op].options.items():
                options[key] = options[key] if options[key] is None else check_option(key, kind, options[key])
        if op in OPERATORS and not any(isinstance(a, str) for a in inputs):
            return self._fold(op, inputs, options)
        names = [self.fresh(name if k == 0 else f"{name}.{k}") for k in range(outputs)]
        node = {"op": op, "name": name, "inputs": inputs, "outputs": names, "options": options}
        self.nodes.append(node)
        self.layers.append(list(layers))
        return names

    def _fold(self, op: str, inputs: Any, options: Any) -> list[Array]:
        with np.errstate(all="ignore"):
            found = OPERATORS[op].function(inputs, options, limited(self.room_left))
        found = [np.asarray(a) for a in (found if isinstance(found, tuple) else (found,))]
        self.room_left -= sum(a.size for a in found if not any(np.may_share_memory(a, b) for b in inputs[:1]))
        if self.room_left < 0:
            raise ValueError("its constants become far larger than the file; they are not folded")
        return found

    # The whole.

    def graph_model(self) -> tuple[Config, Arrays]:
        """Configuration and arrays of a `GraphModel` of the main graph."""
        graph = self.model.graph
        scope = self.initial_scope(graph)
        tensors = {tensor.name for tensor in graph.initializer}
        try:
            inputs = [declared(value) for value in graph.input if value.name not in tensors]
            outputs = [declared(value) for value in graph.output]
        except ValueError as error:
            raise self.error(error) from error
        self._names |= {output["name"] for output in outputs}
        found = self.read_graph(scope)
        if self.unknown:
            raise self.error(
                f"has operators that are not supported here: {', '.join(sorted(self.unknown))}; "
                "lstmx.interop.onnx.lstms lists its LSTMs, and from_onnx(path, lstm=name) loads one"
            )
        self._name_outputs([output["name"] for output in outputs], found, {value["name"] for value in inputs})
        return self._stored(inputs, outputs)

    def _name_outputs(self, names: Any, found: Any, inputs: Any) -> None:
        """Let outputs have their own names."""
        renamed = {}
        for name, value in zip(names, found, strict=True):
            if isinstance(value, str) and value not in renamed and value not in inputs:
                renamed[value] = name
            elif not isinstance(value, str) or value != name:
                node = {"op": "Identity", "name": name, "inputs": [value], "outputs": [name], "options": {}}
                self.nodes.append(node)
                self.layers.append([])
        for node in self.nodes:
            for side in ("inputs", "outputs"):
                node[side] = [renamed.get(v, v) if isinstance(v, str) else v for v in node[side]]

    def _stored(self, inputs: Any, outputs: Any) -> tuple[Config, Arrays]:
        arrays: Arrays = {}
        constants: list[dict[str, Any]] = []
        known: dict[Any, Any] = {}
        for node in self.nodes:
            for k, value in enumerate(node["inputs"]):
                if isinstance(value, np.ndarray) and id(value) not in known:
                    name = known[id(value)] = self.fresh(f"constant {len(constants)}")
                    stored = value.astype(np.int64) if value.dtype.kind == "b" else np.ascontiguousarray(value)
                    arrays[f"constant.{len(constants)}"] = stored.reshape(value.shape)
                    constants.append({"name": name, "dtype": value.dtype.name, "shape": list(value.shape)})
                node["inputs"][k] = known[id(value)] if isinstance(value, np.ndarray) else value or ""
        for k, (node, layers) in enumerate(zip(self.nodes, self.layers, strict=True)):
            node["layers"] = [{"class": type(layer).__name__} | layer.config() for layer in layers]
            for j, layer in enumerate(layers):
                arrays |= {f"{k}.{j}.{name}": p for name, p in layer.parameters().items()}
        return {"inputs": inputs, "outputs": outputs, "constants": constants, "nodes": self.nodes}, arrays


def _normal(a: Array) -> Array:
    """A constant in one of the types of a `GraphModel`."""
    return a if a.dtype in DTYPES.values() else a.astype(np.int64)


def lstm_nodes(
    reader: Reader, graph: Any, parent: Scope | None = None, path: str = ""
) -> Iterator[tuple[str, Scope, Any]]:
    """(path, scope, node) of every LSTM in a graph and its subgraphs, in the order of the file."""
    scope = reader.initial_scope(graph, parent)
    for node in graph.node:
        if node.op_type in ("LSTM", "DynamicQuantizeLSTM") and node.domain in ("", "ai.onnx", "com.microsoft"):
            yield path, scope, node
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else ()), *attribute.graphs):
                yield from lstm_nodes(reader, inner, scope, f"{path}{node.name or node.op_type}/{attribute.name}/")
