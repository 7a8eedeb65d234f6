"""ONNX models in: a graph as a `GraphModel`, or one of its LSTMs as an `lstmx.LSTM`. It needs the onnx package.

`export` and `estimators` write them.
"""

from __future__ import annotations

import importlib
import math
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lstmx import formats, storage
from lstmx.functional import validate
from lstmx.functional.cell import Cell
from lstmx.interop.imported import Imported, Part, finish
from lstmx.interop.onnx import lstm as onnx_lstm
from lstmx.interop.onnx.graph import EXTERNAL, TYPES, Reader, lstm_nodes
from lstmx.interop.onnx.nodes import Node, read_weights
from lstmx.predictors.graph import GraphModel
from lstmx.predictors.graph_chain import beginning_at
from lstmx.predictors.operators import LARGEST, limited
from lstmx.storage import ModelFileError

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Sequence

    from onnx import ModelProto

    from lstmx._types import Array, Arrays
    from lstmx.interop.onnx.graph import Reader, Scope
    from lstmx.layers import LSTM

__all__ = ["FoundLSTM", "from_onnx", "lstms", "read"]


PROBE = 7  # batch and steps of a probe
_MODULES = ("estimators", "export")  # loaded when they are named


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'lstmx.interop.onnx' has no attribute {name!r}")
    return importlib.import_module(f"lstmx.interop.onnx.{name}")


def from_onnx(
    source: str | os.PathLike[str] | bytes | ModelProto, *, lstm: str | int | None = None, check: bool = False
) -> GraphModel | LSTM:
    """A model of ONNX, such as PyTorch, Keras (by tf2onnx) and others export, to be run without ONNX.

    Parameters
    ----------
    source : str, path-like, bytes or onnx.ModelProto
        Data in files beside the model are read if a path is given.
    lstm : str or int, optional
        Load this LSTM alone, out of a graph with any other operators: the name or the index that
        `lstmx.interop.onnx.lstms` tells.
    check : bool
        Whether to run a probe through onnxruntime and the result, and print the largest error.

    Returns
    -------
    GraphModel
        With ``run({name: array})``, ``predict(x)`` and ``to_sequential()``.
    LSTM
        With `lstm`.

    Raises
    ------
    ImportError
        If the onnx package is not installed.
    OSError, ValueError
        If there is no such file; if it is not an ONNX model, or damaged, or has other operators than those of recurrent
        networks, all of which the error names.

    Notes
    -----
    Weights of 16 bits become float32, those of float64 stay. Weights and LSTMs that are quantised (QuantizeLinear,
    DynamicQuantizeLSTM) are dequantised: inputs and states are then not rounded as the original does. A sequence of
    length 0 keeps its initial state, as ONNX says; onnxruntime sets it to 0.
    """
    return finish(read(source, lstm=lstm), validate.flag("check", check))


@np.errstate(all="ignore")  # weights may be anything
def read(source: str | os.PathLike[str] | bytes | ModelProto, *, lstm: str | int | None = None) -> Imported:
    """As `from_onnx`: the `Imported`."""
    model, label, size = _load(source)
    if lstm is not None:
        return _read_lstm(model, label, size, lstm)
    reader = Reader(model, label, size)
    config, arrays = reader.graph_model()
    try:
        found = GraphModel(config, arrays)
    except (TypeError, ValueError) as error:
        raise reader.error(error) from error
    parts = [
        Part(node["name"], found_as, " + ".join(map(repr, layers)))
        for node, layers in found.nodes
        if (found_as := _described(node, layers))
    ]
    notes = []
    if reader.quantised:
        notes.append(f"quantised, and here computed in float: {', '.join(reader.quantised)}")
    return Imported("ONNX model", found, tuple(parts), tuple(notes), _Comparison(model, found, reader.quantised))


def _described(node: Any, layers: Sequence[Any]) -> str:
    if node["op"] == "LSTM":
        one = layers[0]
        return f"LSTM {one.input_size} -> {one.hidden_size}" + ", bidirectional" * (
            sum(a.directions for a in layers) == 2
        )
    if node["op"] == "Dense":
        return f"Dense {layers[0].input_size} -> {layers[0].units}"
    return node["op"] if layers else ""


# Files.


def _load(source: Any) -> tuple[Any, str, int]:
    """(ModelProto with all its data, what errors call it, bytes of it)."""
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ImportError as error:
        raise ImportError("from_onnx: needs the onnx package, which is not installed; pip install onnx, or convert the "
                          "model where it is (lstmx.save) and load it here (lstmx.load)") from error  # fmt: skip
    if isinstance(source, onnx.ModelProto):
        return source, "the ONNX model", source.ByteSize()
    if isinstance(source, bytes | bytearray | memoryview):
        data, label, folder = bytes(source), "the ONNX model", None
    elif isinstance(source, str | os.PathLike):
        label = os.fspath(source)
        if not isinstance(label, str) or not label or "\0" in label:
            raise ValueError(f"source: got {source!r}, must be the path of an ONNX model")
        if os.path.isdir(label):
            raise IsADirectoryError(f"source: {label!r} is a folder; give the path of a file in it")
        if not os.path.isfile(label):
            raise FileNotFoundError(f"source: there is no file {label!r}")
        folder = os.path.dirname(os.path.abspath(label))
        with open(label, "rb") as file:
            data = file.read()
    else:
        raise TypeError(f"source: got {type(source).__name__}, must be a path, bytes or an onnx.ModelProto")
    try:
        model = onnx.ModelProto.FromString(data)
    except (DecodeError, RecursionError) as error:
        damaged = f"not an ONNX model, or one that is damaged or cut short ({error}); take another copy of it"
        raise ModelFileError(f"{label}: {_of_others(label, folder) or damaged}") from error
    if not model.HasField("graph") or not model.graph.output:
        empty = "not an ONNX model: it has no graph with outputs; take another copy of it"
        raise ModelFileError(f"{label}: {_of_others(label, folder) or empty}")
    if not all(isinstance(name, str) for name in _names(model.graph)):
        raise ModelFileError(f"{label}: it has names that are no text; take another copy of it")
    return model, label, len(data) + (0 if folder is None else _load_external(model, label, folder))


def _of_others(label: str, folder: Any) -> str:
    """What a file is that others read, and who does; "" where that is not known."""
    known = None if folder is None else formats.identify(label)
    if known is None and folder is not None and storage.is_ours(label):
        known = formats.Kind("a model saved by lstmx", "lstmx.load reads it")
    if known is None or known.reader == "from_onnx":
        return ""
    return f"not an ONNX model but {known.what}; {known.remedy}"


def _load_external(model: Any, label: str, folder: Any) -> int:
    """Read what lies in files beside the model, inside its folder; the bytes of these files."""
    from onnx import external_data_helper

    sizes, total = {}, 0
    for tensor in _tensors(model.graph):
        if tensor.data_location != EXTERNAL:
            continue
        location = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
        what = f"{label}: the numbers of {tensor.name!r:.60} in {location!r:.200}"
        path = os.path.realpath(os.path.join(folder, location))
        if not path.startswith(os.path.realpath(folder) + os.sep) or os.path.isabs(location):
            raise ModelFileError(f"{what}: lie outside the folder of the model; take a model whose files lie beside it")
        if not os.path.isfile(path):
            raise ModelFileError(f"{what}: there is no such file; put it beside the model")
        sizes[path] = os.path.getsize(path)
        wanted = math.prod(tensor.dims) * TYPES.get(tensor.data_type, ("", 8))[1]
        total += wanted
        if not 0 <= wanted <= sizes[path] or total > 2 * sum(sizes.values()):
            raise ModelFileError(
                f"{what}: its shape {list(tensor.dims)!s:.60} is larger than the file; take another copy"
            )
        try:
            external_data_helper.load_external_data_for_tensor(tensor, folder)
        except Exception as error:  # what onnx raises depends on its version
            raise ModelFileError(f"{what}: cannot be read ({error}); take another copy of both files") from error
        tensor.data_location = 0
    return sum(sizes.values())


def _tensors(graph: Any) -> Iterator[Any]:
    """All tensors of a graph and its subgraphs."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            yield from (*([attribute.t] if attribute.HasField("t") else ()), *attribute.tensors)
            for inner in (*([attribute.g] if attribute.HasField("g") else ()), *attribute.graphs):
                yield from _tensors(inner)


def _names(graph: Any) -> Iterator[Any]:
    """All names in a graph and its subgraphs: protobuf gives those that are not UTF-8 as bytes."""
    for node in graph.node:
        yield from (node.op_type, node.domain, node.name, *node.input, *node.output)
        for attribute in node.attribute:
            yield attribute.name
            for inner in (*([attribute.g] if attribute.HasField("g") else ()), *attribute.graphs):
                yield from _names(inner)
    for value in (*graph.input, *graph.output):
        yield from (value.name, *(d.dim_param for d in value.type.tensor_type.shape.dim))
    yield from (tensor.name for tensor in graph.initializer)


# LSTMs alone.


@dataclass(frozen=True)
class FoundLSTM:
    """An LSTM of a model, as `lstms` tells.

    Attributes
    ----------
    index : int
    name : str
        Of the node, behind the names of the nodes and branches that it is in.
    input_size, hidden_size : int or None
        None where the weights are no constants.
    direction : {"forward", "reverse", "bidirectional"}
    cells : tuple of Cell
        One for each direction.
    batch_first : bool
        Whether it has layout 1.
    dtype : str or None
    quantised : bool
        Whether it is a DynamicQuantizeLSTM.
    problem : str
        Why it cannot be loaded; "" if it can.
    """

    index: int
    name: str
    input_size: int | None
    hidden_size: int | None
    direction: str
    cells: tuple[Cell, ...]
    batch_first: bool
    dtype: str | None
    quantised: bool
    problem: str = ""


@np.errstate(all="ignore")  # weights may be anything
def lstms(source: str | os.PathLike[str] | bytes | ModelProto) -> list[FoundLSTM]:
    """Every LSTM of an ONNX model, those inside of If, Loop and Scan too.

    The other operators may be anything.

    Parameters
    ----------
    source : str, path-like, bytes or onnx.ModelProto

    Returns
    -------
    list of FoundLSTM
        ``from_onnx(source, lstm=found.name)``, or by its index, loads one.
    """
    model, label, size = _load(source)
    return [found for found, *_ in _find_lstms(model, label, size)]


def _find_lstms(model: Any, label: str, size: int) -> list[tuple[Any, ...]]:
    """(FoundLSTM, node, its `Options`, arrays or None) of each LSTM."""
    reader, found, names = Reader(model, label, size, lazy=True), [], set()
    for index, (path, scope, proto) in enumerate(lstm_nodes(reader, model.graph)):
        name = path + (proto.name or next(filter(None, proto.output), "LSTM"))
        name = name if name not in names else f"{name} #{index}"
        names.add(name)
        found.append(_read_one(reader, index, name, scope, proto))
    return found


def _read_one(reader: Reader, index: int, name: str, scope: Scope, proto: Any) -> tuple[Any, ...]:
    quantised = proto.op_type != "LSTM"
    node = options = arrays = None
    try:
        node = Node(reader, scope, proto)
        options = onnx_lstm.read_options(node.attributes)
        given = dict(zip(onnx_lstm.INPUTS, node.inputs, strict=False))
        weights = {n: v for n, v in given.items() if n not in ("X", "sequence_lens", "initial_h", "initial_c")}
        open_ = [n for n, v in weights.items() if isinstance(v, str)]
        if open_:
            raise ValueError(f"{', '.join(open_)}: not constant, but computed or given")
        arrays, problem = read_weights(proto.op_type, options, weights), ""
    except ModelFileError as error:
        problem = str(error).removeprefix(f"{reader.label}: ")
    except (TypeError, ValueError, LookupError, AttributeError, OverflowError) as error:
        problem = str(error)
    sizes: Any = (None, None, None)
    if arrays:
        sizes = arrays[0]["weight_ih"].shape[1], arrays[0]["weight_hh"].shape[1], arrays[0]["weight_ih"].dtype.name
    cells = () if options is None else options.cells
    if arrays and "peephole" in arrays[0]:
        cells = tuple(Cell.from_config(cell.config() | {"peephole": True}) for cell in cells)
    one = FoundLSTM(index, name, sizes[0], sizes[1], "forward" if options is None else options.direction, cells,
                    options is not None and options.batch_first, sizes[2], quantised, problem)  # fmt: skip
    return one, node, options, arrays


def _read_lstm(model: Any, label: str, size: int, wanted: str | int) -> Imported:
    every = _find_lstms(model, label, size)
    shown = ", ".join(f"{one.index}: {one.name} ({one.input_size} -> {one.hidden_size}, {one.direction})"
                      for one, *_ in every) or "none"  # fmt: skip
    index = wanted if isinstance(wanted, int) and not isinstance(wanted, bool) else None
    if index is None and not isinstance(wanted, str):
        raise TypeError(f"lstm: got {wanted!r}, must be a name or an index; there are {shown}")
    fits = [entry for entry in every if wanted in (entry[0].index if index is not None else entry[0].name,)]
    if not fits:
        raise ValueError(f"lstm: got {wanted!r}, but in {label} there are {shown}")
    one, node, options, arrays = fits[0]
    if one.problem:
        raise ModelFileError(f"{label}: {one.name}: {one.problem}")
    layers = onnx_lstm.make_layers(options, arrays)
    if len(layers) > 1:
        raise ModelFileError(f"{label}: {one.name}: its directions have different activations, which one lstmx.LSTM "
                             "does not; run its graph by from_onnx(source)")  # fmt: skip
    states, notes = _constant_states(node, options)
    layer = beginning_at(layers[0], [s if s is None or not s.any() else s[:, 0] for s in states])
    if one.batch_first is False:
        notes.append("the node takes (T, N, I); the layer takes (N, T, I)")
    if one.quantised:
        notes.append("quantised, and here computed in float")
    part = Part(one.name, f"LSTM {one.input_size} -> {one.hidden_size}, {one.direction}", repr(layer))
    compare = _LayerComparison(node, layer, states, one.quantised)
    return Imported("LSTM of an ONNX model", layer, (part,), tuple(notes), compare)


def _constant_states(node: Any, options: Any) -> tuple[Any, list[str]]:
    """Initial states (D, 1, H) that are constant and the same for each sequence, else None; and notes."""
    found, notes = [], []
    for k, name in ((5, "initial_h"), (6, "initial_c")):
        value = node.input(k)
        if isinstance(value, np.ndarray) and value.ndim == 3:
            value = value.swapaxes(0, 1) if options.batch_first else value
            if value.shape[1] and (value == value[:, :1]).all():
                found.append(value[:, :1])
                continue
        elif value is not None:
            notes.append(f"{name} is no constant: give it as state=(h, c), else it is 0")
        found.append(None)  # type: ignore[arg-type]
    return found, notes


# Probes.


def _session(model: Any) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError("check: needs the onnxruntime package, which is not installed; pip install onnxruntime, or "
                          "leave check out") from error  # fmt: skip
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its classes are its own
        raise ValueError(f"check: onnxruntime does not run this model ({str(error)[:300]})") from error


def _run(session: Any, feed: Arrays) -> Any:
    try:
        return session.run(None, feed)
    except Exception as error:
        raise ValueError(f"check: onnxruntime does not run this model on a probe ({str(error)[:300]})") from error


def _refuse_quantised(names: Any) -> None:
    if names:
        raise ValueError("check: the original rounds inputs and states to 8 bits, so outputs differ by more than "
                         "rounding explains; hold results against your data instead")  # fmt: skip


class _Comparison:
    """A probe through a model and a `GraphModel`."""

    def __init__(self, model: Any, found: GraphModel, quantised: Any) -> None:
        self.model, self.found, self.quantised = model, found, quantised

    def __call__(self) -> tuple[Array, ...]:
        _refuse_quantised(self.quantised)
        session, rng = _session(self.model), np.random.default_rng(0)
        tokens = [layer.num_embeddings for _, layers in self.found.nodes for layer in layers
                  if hasattr(layer, "num_embeddings")]  # fmt: skip
        feed = {}
        for value in self.model.graph.input:
            declared = [one for one in self.found.inputs if one[0] == value.name]
            if not declared:
                continue  # a weight that could be given
            [(name, dtype, shape)] = declared
            size = [n if isinstance(n, int) else PROBE for n in shape or (PROBE,) * 3]
            limited(LARGEST)(size)
            kind = _NUMPY[value.type.tensor_type.elem_type]
            if dtype == "int64":
                feed[name] = rng.integers(0, min(tokens, default=PROBE), size).astype(kind)
            else:
                feed[name] = (rng.normal(size=size) if dtype != "bool" else np.ones(size)).astype(kind)
        theirs = _run(session, feed)
        ours = self.found.run(feed)
        return _joined([ours[name] for name, *_ in self.found.outputs], theirs)


_NUMPY = {number: np.dtype(kind) for number, (kind, *_) in TYPES.items()} | {
    6: np.dtype(np.int32), 10: np.dtype(np.float16), 2: np.dtype(np.uint8), 3: np.dtype(np.int8)}  # fmt: skip


def _joined(ours: Sequence[Any], theirs: Sequence[Any]) -> tuple[Array, ...]:
    """All outputs end to end, of both; where shapes differ, the two that do."""
    for pair in zip(ours, theirs, strict=True):
        if np.shape(pair[0]) != np.shape(pair[1]):
            return pair
    return tuple(np.concatenate([np.asarray(a, float).reshape(-1) for a in arrays]) for arrays in (ours, theirs))


class _LayerComparison:
    """A probe through a node and an LSTM."""

    def __init__(self, node: Any, layer: LSTM, states: Any, quantised: Any) -> None:
        self.node, self.layer, self.states, self.quantised = node, layer, states, quantised

    def __call__(self) -> tuple[Array, ...]:
        from onnx import TensorProto, helper, numpy_helper

        _refuse_quantised(self.quantised)
        layer = self.layer
        dtype = TensorProto.DOUBLE if layer.dtype == np.float64 else TensorProto.FLOAT
        names = ["X", "W", "R", "B", "", "h", "c", "P"]
        weights = {name: self.node.input(k) for k, name in enumerate(names) if name in ("W", "R", "B", "P")}
        weights = {name: a for name, a in weights.items() if a is not None}
        N, T, D, H = PROBE, PROBE + 2, layer.directions, layer.hidden_size
        states = [np.zeros((D, 1, H), layer.dtype) if s is None else s for s in self.states]
        weights |= {name: np.repeat(s, N, axis=1) for name, s in zip("hc", states, strict=True)}
        attributes = {n: v for n, v in self.node.attributes.items() if n != "layout"} | {"hidden_size": H}
        names = [name if name in weights or name == "X" else "" for name in names]
        node = helper.make_node("LSTM", names, ["Y", "Y_h", "Y_c"], **attributes)
        info = [helper.make_tensor_value_info(name, dtype, None) for name in ("X", "Y", "Y_h", "Y_c")]
        info[0] = helper.make_tensor_value_info("X", dtype, (T, N, layer.input_size))
        tensors = [numpy_helper.from_array(np.ascontiguousarray(a), name) for name, a in weights.items()]
        graph = helper.make_graph([node], "probe", info[:1], info[1:], tensors)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
        x = np.random.default_rng(0).normal(size=(T, N, layer.input_size)).astype(layer.dtype)
        theirs = _run(_session(model), {"X": x})
        y, (h, c) = layer(x.swapaxes(0, 1))
        y = y.reshape(N, T, D, H).transpose(1, 2, 0, 3)
        return _joined([y, h, c], theirs)
