"""Models as ONNX files."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from lstmx import layers, storage
from lstmx._version import __version__
from lstmx.functional import validate
from lstmx.interop.imported import Imported, finish
from lstmx.interop.onnx import export_lstm as onnx_export_lstm
from lstmx.interop.onnx.writer import LEAST_OPSET, Graph, integer, integers
from lstmx.layers import LSTM
from lstmx.model import Sequential

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnx import ModelProto

    from lstmx._types import PathLike, Precision
    from lstmx.interop.onnx.writer import Graph

__all__ = ["to_onnx"]


LARGEST = 2**31 - 2**20  # bytes of constants: what one file of Protocol Buffers holds
_END = np.iinfo(np.int64).max


def to_onnx(
    model: Any,
    path: PathLike | None = None,
    *,
    states: bool = False,
    lengths: bool = False,
    opset: int = LEAST_OPSET,
    dtype: Precision | None = None,
    check: bool = False,
) -> ModelProto:
    """Write a model as ONNX.

    Parameters
    ----------
    model : LSTM, Sequential, fitted estimator or Pipeline, or what `lstmx.load` gave for one
        Of an estimator it is what ``predict`` and ``predict_proba`` give, its scaler included: see the notes.
    path : str or path-like, optional
        Where to write the file, atomically: all of it, or nothing.
    states : bool
        Whether the states of the LSTM layers are inputs ``h``, ``c`` and outputs ``h_n``, ``c_n``, each (L*D, N, H),
        for streams that are fed step by step or in blocks. If a Sequential has several LSTM layers, their index comes
        first: ``0.h``. Streams begin with zeros, or with what the cell has learned.
    lengths : bool
        Whether there is an input ``lengths``, int64 (N,): the steps of each sequence of a padded x. As everywhere in
        lstmx, y is 0 past a sequence's end, padding never matters, and empty sequences are allowed.
    opset : int
        Version of the operators, 14 or newer.
    dtype : {None, "float32", "float64"}
        What the graph computes in; None: what the model does.
    check : bool
        Run a probe through onnxruntime and lstmx, and print the largest error.

    Returns
    -------
    onnx.ModelProto

    Raises
    ------
    ImportError
        If onnx is not installed.
    ValueError, TypeError
        If the model is none of these, or has something that a graph cannot do, by name; or is larger than the 2 GiB
        that an ONNX file can have.
    OSError
        As of ``save``.

    Notes
    -----
    The input is ``x``, (N, T, I) as everywhere in lstmx, or int64 (N, T) where an Embedding comes first; N and T are
    free, but at least 1: LSTM in onnxruntime 1.32 ends the process for an empty batch. The output is ``y``.

    LSTM layers become the operator LSTM, layout 0, with peepholes, coupled gates, clip and activations; learned initial
    states are constants. Projections, layer norms, zoneout (its expected value), cell_clip and the sLSTM, which the
    operator does not have, and float64, in which onnxruntime does not compute it, become a Scan over steps, which is
    slower. Masking, and padding that an Embedding masks, move the steps that there are to the front.

    Estimators have one input ``x`` in the form that they were fitted with: (n, T, F), (n, F, T) with layout "NCT", or
    (n, T), where NaN at the end of a sequence is padding, which the graph finds, and takes float32 or float64 as
    `dtype` says. Outputs are named as skl2onnx does: ``label`` and ``probabilities`` of a classifier; of an
    LSTMAnomalyDetector ``label``, ``scores`` (decision_function) and ``step_scores``; of all others ``y``. An
    LSTMForecaster takes ``history``, the last rows of each series (n, window + sum(differences), O), and if it was
    fitted with such ``exogenous`` variables (n, the same + horizon, E) of these steps and those to come, and gives
    ``y`` (n, horizon, O). Input is not checked as an estimator does: NaN inside a sequence makes its results NaN, an
    outlier, and a label that means nothing. (In x of an LSTM or a Sequential the operator LSTM of onnxruntime takes NaN
    for a number.)

    Names of nodes and constants begin with the layer that they are of, as names of parameters do: "0.LSTM.l1.W" are
    the input weights of the second layer of the LSTM that is the first layer of the model.
    """
    opset = _check_opset(opset)
    for name, value in (("states", states), ("lengths", lengths), ("check", check)):
        validate.flag(name, value)
    if path is not None:
        storage.check_target(path)
    if dtype is not None:
        dtype = validate.dtype(dtype)
    if isinstance(model, LSTM | Sequential):
        model = model if dtype is None else model.astype(dtype)
        made = of_layers(model, states, lengths, opset)
    else:
        from lstmx.interop.onnx import estimators as onnx_estimators

        for name, value in (("states", states), ("lengths", lengths)):
            if value:
                raise ValueError(f"{name}: an estimator's graph takes whole sequences, padded by NaN; leave it out, or "
                                 f"export its network: to_onnx(estimator.model_, {name}=True)")  # fmt: skip
        model = onnx_estimators.to_predictor(model)
        made = onnx_estimators.of_predictor(model, opset, dtype)
    if path is not None:
        storage.write_bytes(path, made.SerializeToString())
    finish(Imported("ONNX model", made, compare=lambda: _probe(model, made, states, lengths)), check)
    return made


def written(
    model: Any, path: PathLike, *, states: bool = False, lengths: bool = False, dtype: Precision | None = None, **_: Any
) -> Imported:
    """The file that `to_onnx` wrote with these arguments, as an `Imported` beside the model."""
    import onnx

    made = onnx.load(path)
    if isinstance(model, LSTM | Sequential) and dtype is not None:
        model = model.astype(dtype)
    return Imported("ONNX model", made, compare=lambda: _probe(model, made, states, lengths))


def _check_opset(opset: int) -> int:
    try:
        from onnx import defs
    except ImportError as error:
        raise ImportError("to_onnx needs onnx: pip install onnx") from error
    opset, newest = validate.count("opset", opset), defs.onnx_opset_version()
    if not LEAST_OPSET <= opset <= newest:
        raise ValueError(f"opset: got {opset}, must be from {LEAST_OPSET} to {newest}, the newest that the onnx "
                         "installed knows")  # fmt: skip
    return opset


@dataclass(frozen=True)
class Flow:
    """What runs between layers.

    Attributes
    ----------
    value : str
        (T, N, F), or tokens (T, N); after a pooling (N, F).
    lengths : str or None
        int64 (N,), of the steps that there are; None: all.
    clean : bool
        Whether the value is 0 past a sequence's end.
    mask : str or None
        bool (T, N), where steps are masked: the steps that there are have moved to the front.
    whole : str or None
        `lengths` with the masked steps.
    reversed : tuple of bool
        Of the LSTM before: for each direction, whether it reads from the end.
    pooled : bool
    """

    value: str
    lengths: str | None = None
    clean: bool = True
    mask: str | None = None
    whole: str | None = None
    reversed: tuple[bool, ...] = (False,)
    pooled: bool = False


def of_layers(model: Any, states: bool, lengths: bool, opset: int) -> ModelProto:
    """The ONNX model of an LSTM or a Sequential."""
    from onnx import TensorProto

    g, alone = Graph(opset, model.dtype), isinstance(model, LSTM)
    chain, tokens = (model,) if alone else model.layers, not alone and model.embedding is not None
    if states:
        _check_streams(model, chain)
    inputs = [info("x", np.int64 if tokens else g.dtype, ("N", "T") if tokens else ("N", "T", model.input_size),
                    "a batch of sequences" + " of integers" * tokens)]  # fmt: skip
    inputs += [info("lengths", np.int64, ("N",), "steps of each sequence")] if lengths else []
    outputs = [info("y", g.dtype, None, "outputs")]
    given: dict[int, Any] = {}
    ends: list[Any] = []
    recurrent = [k for k, layer in enumerate(chain) if isinstance(layer, LSTM)]
    for k in recurrent if states else ():
        names: Sequence[str] = ["h", "c"] if len(recurrent) == 1 else [f"{k}.h", f"{k}.c"]
        parts, widths = chain[k].num_layers * chain[k].directions, chain[k].cell.widths(*_sizes(chain[k]))
        given[k] = tuple(names)
        for name, width in zip(names, widths, strict=True):
            inputs.append(info(name, g.dtype, (parts, "N", width), "state before the first step"))
            outputs.append(info(name + "_n", g.dtype, (parts, "N", width), "state after the last step"))
    value = g.add("Transpose", "x", perm=[1, 0] if tokens else [1, 0, 2])
    flow = Flow(value, "lengths" if lengths else None, clean=False)
    flow, after = run(g, chain, flow, given, alone=alone)
    for k, names in given.items():
        ends += zip(after[k], names, strict=True)
    g.scope = ""
    g.add("Identity", flow.value if flow.pooled else batch_first(g, flow), outputs=["y"])
    for found, name in ends:
        g.add("Identity", found, outputs=[name + "_n"])
    width = model.output_size() if alone else model.output_size
    outputs[0].type.tensor_type.shape.CopyFrom(
        info("y", TensorProto.FLOAT, ("N", width) if flow.pooled else ("N", "T", width)).type.tensor_type.shape
    )
    return finished(g, repr(model), inputs, outputs)


def _sizes(lstm: LSTM) -> tuple[int, int]:
    return lstm.hidden_size, lstm.proj_size


def _check_streams(model: Any, chain: Sequence[Any]) -> None:
    """An error for a model whose blocks cannot follow each other."""
    if isinstance(model, LSTM):
        return
    for k, layer in enumerate(chain):
        name = f"states: layers[{k}] ({type(layer).__name__})"
        if not layer.causal:
            raise ValueError(f"{name} reads from the end, which a stream does not have; export whole sequences by "
                             "states=False")  # fmt: skip
        if isinstance(layer, layers.MeanPool):
            raise ValueError(f"{name} is the mean of a whole stream, of which a block does not know what came before; "
                             "export the layers before it, or whole sequences by states=False")  # fmt: skip
    if not any(isinstance(layer, LSTM) for layer in chain):
        raise ValueError("states: this model has no LSTM, so there is no state; leave it out")


def info(name: str, kind: Any, shape: Any, doc: str = "") -> Any:
    from onnx import helper

    kind = kind if isinstance(kind, int) else helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    return helper.make_tensor_value_info(name, kind, shape, doc)


def finished(g: Graph, doc: str, inputs: Sequence[Any], outputs: Sequence[Any]) -> ModelProto:
    """The ONNX model of a graph."""
    from onnx import helper

    size = sum(len(constant.raw_data) for constant in g.constants)
    if size > LARGEST:
        raise ValueError(f"model: has {size} bytes of constants, more than the {LARGEST} that one ONNX file holds; "
                         'export parts of it, or dtype="float32"')  # fmt: skip
    opsets = [helper.make_opsetid("", g.opset)]
    graph = helper.make_graph(g.nodes, "lstmx", inputs, outputs, g.constants, doc)
    return helper.make_model(graph, opset_imports=opsets, ir_version=helper.find_min_ir_version_for(opsets),
                             producer_name="lstmx", producer_version=__version__, doc_string=doc)  # fmt: skip


def run(
    g: Graph, chain: Sequence[Any], flow: Flow, given: Any = None, alone: bool = False
) -> tuple[Flow, dict[int, Any]]:
    """All layers of a chain: the flow after them, and by their index the final states of LSTM layers."""
    outer, finals = g.scope, {}
    for k, layer in enumerate(chain):
        kind = type(layer).__name__
        g.scope = kind if alone else f"{outer}{'.' * bool(outer)}{k}.{kind}"
        if isinstance(layer, LSTM):
            value, finals[k] = onnx_export_lstm.lstm(g, layer, flow.value, flow.lengths, (given or {}).get(k))
            flow = replace(flow, value=value, clean=True, reversed=layer.reversed)
            continue
        if type(layer) not in LAYERS:
            raise TypeError(f"layers[{k}]: {kind} cannot be exported; there can be LSTM, "
                            f"{', '.join(one.__name__ for one in LAYERS)}")  # fmt: skip
        flow = LAYERS[type(layer)](g, layer, flow)
    g.scope = outer
    return flow, finals


# Layers, on flows


def _dense(g: Graph, layer: Any, flow: Flow) -> Flow:
    parameters = layer.parameters()
    weight, bias = parameters["weight"], g.constant(parameters["bias"], "bias")
    if flow.pooled:
        y = g.add("Gemm", flow.value, g.constant(weight, "weight"), bias, transB=1)
    else:
        y = g.add("MatMul", flow.value, g.constant(np.ascontiguousarray(weight.T), "weight"))
        y = g.add("Add", y, bias)
    return replace(flow, value=g.activate(layer.activation, y), clean=False)


def _activation(g: Graph, layer: Any, flow: Flow) -> Flow:
    return replace(flow, value=g.activate(layer.activation, flow.value), clean=False)


def _embedding(g: Graph, layer: Any, flow: Flow) -> Flow:
    if layer.mask_padding:
        padding = g.add("Equal", flow.value, integer(layer.padding_idx))
        flow = _masked(g, flow, g.add("Not", padding), tokens=True)
    tokens = flow.value
    if flow.lengths is not None:  # whatever stands behind them is no index
        tokens = g.add("Where", onnx_export_lstm.running(g, tokens, flow.lengths), tokens, integer(0))
    weight = g.constant(layer.parameters()["weight"], "weight")
    return replace(flow, value=g.add("Gather", weight, tokens), clean=False)


def _masking(g: Graph, layer: Any, flow: Flow) -> Flow:
    other = g.add("Not", g.add("Equal", flow.value, g.number(layer.value)))
    there = g.reduce("ReduceMax", g.cast(other, np.int32), 2)
    return _masked(g, flow, g.cast(there, bool))


def _masked(g: Graph, flow: Flow, mask: str, tokens: bool = False) -> Flow:
    """The flow in which the steps where `mask` (T, N) is true stand first."""
    if flow.lengths is not None:
        mask = g.add("And", mask, onnx_export_lstm.running(g, flow.value, flow.lengths))
    steps = g.size(flow.value, 0)
    times = g.unsqueeze(g.arange(steps), 1)
    key = g.add("Where", mask, times, g.add("Add", times, steps))
    _, order = g.add("TopK", key, steps, outputs=2, axis=0, largest=0)
    lengths = g.reduce("ReduceSum", g.cast(mask, np.int64), 0)
    value = _taken(g, flow.value, order, tokens)
    return replace(flow, value=value, lengths=lengths, clean=False, mask=mask, whole=flow.lengths)


def _taken(g: Graph, value: str, rows: str, flat: bool = False) -> str:
    """value (T, N, F), or flat (T, N), at other steps (T, N) of each sequence."""
    if not flat:
        rows = g.add("Expand", g.unsqueeze(rows, 2), g.add("Shape", value))
    return g.add("GatherElements", value, rows, axis=0)


def _unmask(g: Graph, layer: Any, flow: Flow) -> Flow:
    return flow if flow.mask is None else _unmasked(g, flow, layer.fill)


def _unmasked(g: Graph, flow: Flow, fill: Any) -> Flow:
    """The flow in which all steps stand at their times again, masked ones by `fill` as Unmask has it."""
    places = g.add("Sub", g.add("CumSum", g.cast(flow.mask, np.int64), integer(0)), integer(1))
    value = _taken(g, flow.value, g.add("Max", places, integer(0)))
    there = flow.mask if fill == "zero" else g.add("GreaterOrEqual", places, integer(0))
    value = g.either(g.unsqueeze(there, 2), value)
    return replace(flow, value=value, lengths=flow.whole, clean=fill == "zero", mask=None, whole=None)


def _reversed(g: Graph, layer: Any, flow: Flow) -> Flow:
    mask = None if flow.mask is None else _turned(g, flow.mask, flow.whole)
    return replace(flow, value=_turned(g, flow.value, flow.lengths), mask=mask, reversed=(False,))


def _turned(g: Graph, value: str, lengths: str | None) -> str:
    if lengths is None:
        return g.cut(value, -1, np.iinfo(np.int64).min, 0, -1)
    return g.add("ReverseSequence", value, lengths, time_axis=0, batch_axis=1)


def _dropout(g: Graph, layer: Any, flow: Flow) -> Flow:
    return flow


def _at_end(g: Graph, flow: Flow) -> str:
    """(N, F): the value at each sequence's last step, 0 for an empty one."""
    if flow.lengths is None:
        return g.add("Gather", flow.value, integer(-1), axis=0)

    def make() -> Any:
        last = g.add("Max", g.add("Sub", flow.lengths, integer(1)), integer(0))
        columns = (g.unsqueeze(one, 1) for one in (last, g.arange(g.size(flow.value, 1))))
        return g.add("Concat", *columns, axis=1)

    return _of_some(g, flow, g.add("GatherND", flow.value, g.once(("ends", flow.lengths), make)))


def _of_some(g: Graph, flow: Flow, value: str) -> str:
    """value (N, F), 0 for empty sequences."""
    if flow.clean or flow.lengths is None:
        return value
    return g.either(g.unsqueeze(g.add("Greater", flow.lengths, integer(0)), 1), value)


def _last(g: Graph, layer: Any, flow: Flow) -> Flow:
    return Flow(_at_end(g, flow), pooled=True)


def _final_state(g: Graph, layer: Any, flow: Flow) -> Flow:
    ends = {}
    if False in flow.reversed:
        ends[False] = _at_end(g, flow)
    if True in flow.reversed:
        ends[True] = _of_some(g, flow, g.add("Gather", flow.value, integer(0), axis=0))
    parts = [ends[reverse] for reverse in flow.reversed]
    if len(parts) == 2:  # each has the features of both directions
        sizes = g.size(parts[0], 1)
        half = g.add("Div", sizes, integers(2))
        parts = [g.add("Slice", parts[0], integers(0), half, integers(1)),
                 g.add("Slice", parts[1], half, sizes, integers(1))]  # fmt: skip
        return Flow(onnx_export_lstm.merged(g, layer.merge, parts), pooled=True)
    return Flow(parts[0], pooled=True)


def _mean_pool(g: Graph, layer: Any, flow: Flow) -> Flow:
    value = cleaned(g, flow).value
    total = g.reduce("ReduceSum", value, 0)
    steps = g.size(value, 0) if flow.lengths is None else g.unsqueeze(g.add("Max", flow.lengths, integer(1)), 1)
    return Flow(g.add("Div", total, g.cast(steps, g.dtype)), pooled=True)


def cleaned(g: Graph, flow: Flow) -> Flow:
    """The flow with 0 past each sequence's end."""
    if flow.clean or flow.lengths is None:
        return flow
    there = g.unsqueeze(onnx_export_lstm.running(g, flow.value, flow.lengths), 2)
    return replace(flow, value=g.either(there, flow.value), clean=True)


def batch_first(g: Graph, flow: Flow) -> str:
    """(N, T, F), 0 where there is no step."""
    flow = cleaned(g, flow if flow.mask is None else _unmasked(g, flow, "zero"))
    return g.add("Transpose", flow.value, perm=[1, 0, 2])


LAYERS = {
    layers.Dense: _dense,
    layers.Activation: _activation,
    layers.Embedding: _embedding,
    layers.Masking: _masking,
    layers.Unmask: _unmask,
    layers.Reversed: _reversed,
    layers.Dropout: _dropout,
    layers.Last: _last,
    layers.FinalState: _final_state,
    layers.MeanPool: _mean_pool,
}


# The probe


def _probe(model: Any, made: ModelProto, states: bool, lengths: bool) -> tuple[Any, Any]:
    """(ours, onnxruntime's) outputs of random sequences, as `Imported.compare` gives them."""
    import onnxruntime

    rng = np.random.default_rng(0)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])
    if not isinstance(model, LSTM | Sequential):
        from lstmx.interop.onnx import estimators as onnx_estimators

        return onnx_estimators.probe(model, session, rng)
    feeds: dict[str, Any] = {}
    more: dict[str, Any] = {}
    if isinstance(model, Sequential) and model.embedding is not None:
        feeds["x"] = rng.integers(model.embedding.num_embeddings, size=(3, 9))
    else:
        feeds["x"] = rng.normal(size=(3, 9, model.input_size)).astype(model.dtype)  # type: ignore[arg-type]
    if lengths:
        feeds["lengths"] = more["lengths"] = np.array([9, 4, 1])
    for given in session.get_inputs():
        if given.name not in feeds:  # a state
            feeds[given.name] = np.zeros((given.shape[0], 3, given.shape[2]), model.dtype)
    found = model(feeds["x"], **more)[0] if isinstance(model, LSTM) else model.predict(feeds["x"], **more)
    return found, session.run(["y"], feeds)[0]
