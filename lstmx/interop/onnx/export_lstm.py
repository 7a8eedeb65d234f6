"""An LSTM layer as an ONNX graph: the operator LSTM where it knows all options and the type, else a Scan over steps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lstmx.functional.cell import ACTIVATIONS, INITIAL, STANDARD, suffix
from lstmx.interop.gates import reorder
from lstmx.interop.onnx.writer import integer, integers

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lstmx._types import Array, Arrays
    from lstmx.functional.cell import Cell
    from lstmx.interop.onnx.writer import Graph
    from lstmx.layers import LSTM


# Names of activations that the operator LSTM spells otherwise than by a capital letter.
_SPELLED = {"leaky_relu": "LeakyRelu", "thresholded_relu": "ThresholdedRelu", "scaled_tanh": "ScaledTanh",
            "hard_sigmoid": "HardSigmoid"}  # fmt: skip


def needs_scan(layer: LSTM) -> bool:
    """Whether the operator LSTM, as onnxruntime has it, does not know an option of a layer, or its type."""
    cell = layer.cell
    beyond = layer.proj_size or cell.layer_norm or cell.cell_clip or any(cell.zoneout) or cell.slstm
    return bool(beyond) or layer.dtype != np.float32


def lstm(g: Graph, layer: LSTM, value: str, lengths: str | None, state: Any) -> tuple[str, tuple[str, str]]:
    """All layers and directions.

    Parameters
    ----------
    g : Graph
    layer : LSTM
    value : str
        (T, N, I).
    lengths : str or None
        int64 (N,).
    state : (str, str) or None
        h and c, each (L*D, N, width).

    Returns
    -------
    y : str
        (T, N, F), 0 past the end of a sequence.
    (h_n, c_n) : of str
        Each (L*D, N, width).
    """
    batch = g.size(value, 1)
    if state is None and layer.cell.learn_state:
        state = _learned(g, layer, batch)
    finals, directions, scope = [], layer.directions, g.scope
    run = _scan if needs_scan(layer) else _operator
    for k in range(layer.num_layers):
        g.scope = f"{scope}.l{k}"
        first = state
        if state is not None and layer.num_layers > 1:
            first = tuple(g.cut(s, k * directions, (k + 1) * directions, 0) for s in state)
        parts, final = run(g, layer, k, value, lengths, first, batch)
        value = _merged(g, layer, parts)
        finals.append(final)
    g.scope = scope
    return value, tuple(g.add("Concat", *each, axis=0) if len(each) > 1 else each[0]
                        for each in zip(*finals, strict=True))  # fmt: skip


def merged(g: Graph, merge: str, parts: Any) -> str:
    """Two values by a merge of outputs."""
    if merge == "concat":
        return g.add("Concat", *parts, axis=-1)
    if merge == "mul":
        return g.add("Mul", *parts)
    y = g.add("Add", *parts)
    return g.scaled(y, 0.5) if merge == "average" else y


def _merged(g: Graph, layer: LSTM, parts: Any) -> str:
    """(T, N, F) of what the directions gave: their outputs, or one value (T, D, N, H)."""
    if isinstance(parts, list):
        return parts[0] if len(parts) == 1 else merged(g, layer.merge, parts)
    if layer.directions == 1:
        return g.add("Squeeze", parts, integers(1))
    if layer.merge == "concat":
        y = g.add("Transpose", parts, perm=[0, 2, 1, 3])
        return g.reshape(y, (0, 0, 2 * layer.hidden_size))
    return merged(g, layer.merge, [g.add("Gather", parts, integer(d), axis=1) for d in range(2)])


def _learned(g: Graph, layer: LSTM, batch: str) -> tuple[str, ...]:
    """The learned initial state (h, c) of every sequence."""
    found, parameters = [], layer.parameters()
    for name in INITIAL:
        places = [(k, d) for k in range(layer.num_layers) for d in range(layer.directions)]
        array = np.stack([parameters[name + suffix(*place)] for place in places])[:, None]
        found.append(g.add("Expand", g.constant(array, name), g.shape(1, batch, 1)))
    return tuple(found)


def _arrays(layer: LSTM, k: int, direction: int) -> Arrays:
    """The parameters of one layer and direction, by their name without its ending."""
    end, parameters = suffix(k, direction), layer.parameters()
    return {name[: -len(end)]: array for name, array in parameters.items() if name.endswith(end)}


# The operator


def _operator(
    g: Graph, layer: LSTM, k: int, value: str, lengths: str | None, state: Any, batch: str
) -> tuple[str, tuple[str, ...]]:
    cell, hidden = layer.cell, layer.hidden_size
    stacked: dict[str, list[Array]] = {}
    for direction in range(layer.directions):
        for name, array in _of_operator(_arrays(layer, k, direction), cell, hidden).items():
            stacked.setdefault(name, []).append(array)
    inputs = {name: g.constant(np.stack(arrays), name) for name, arrays in stacked.items()}
    if lengths is not None:
        inputs["lengths"] = g.once(("int32", lengths), lambda: g.cast(lengths, np.int32))
    if state is not None:
        inputs["h"], inputs["c"] = state
    names = [inputs.get(name, "") for name in ("W", "R", "B", "lengths", "h", "c", "P")]
    while not names[-1]:
        names.pop()
    way = "bidirectional" if layer.bidirectional else "reverse" if layer.reverse else "forward"
    y, *final = g.add("LSTM", value, *names, outputs=3, hidden_size=hidden, direction=way,
                      **_attributes(cell, layer.directions))  # fmt: skip
    if lengths is not None and state is not None:  # onnxruntime gives 0 for an empty sequence
        empty = g.once(("empty", lengths), lambda: g.unsqueeze(g.add("Equal", lengths, integer(0)), 0, 2))
        final = [g.either(empty, before, after) for before, after in zip(state, final, strict=True)]
    return y, tuple(final)


def _of_operator(arrays: Arrays, cell: Cell, hidden: int) -> Arrays:
    """W, R, B and P of one direction, gates in the order of ONNX."""
    ours = "igo" if cell.cifg else "ifgo"

    def ordered(array: NDArray[Any], have: Any, want: Any) -> Any:
        if cell.cifg:  # nothing looks at the block of the forget gate
            array, have = np.concatenate([array, np.zeros_like(array[:hidden])]), have + "f"
        return reorder(array, have, want)

    found: dict[str, Any] = {
        "W": ordered(arrays["weight_ih"], ours, "onnx"),
        "R": ordered(arrays["weight_hh"], ours, "onnx"),
    }
    if "bias" in arrays:
        bias = ordered(arrays["bias"], ours, "onnx")
        found["B"] = np.concatenate([bias, np.zeros_like(bias)])
    if cell.peephole:
        found["P"] = ordered(arrays["peephole"], ours.replace("g", ""), "onnx peepholes")
    return found


def _attributes(cell: Cell, directions: int) -> dict[str, Any]:
    found: dict[str, Any] = {"clip": cell.clip} if cell.clip is not None else {}
    found |= {"input_forget": 1} if cell.cifg else {}
    if cell.activations == STANDARD:
        return found
    curves: list[Any] = [(a,) if isinstance(a, str) else a for a in cell.activations] * directions
    curves = [(name, *(numbers or ACTIVATIONS[name])) for name, *numbers in curves]
    found["activations"] = [_SPELLED.get(name, name.capitalize()) for name, *_ in curves]
    for place, name in ((1, "activation_alpha"), (2, "activation_beta")):
        if values := [curve[place] for curve in curves if len(curve) > place]:
            found[name] = values
    return found


# A Scan over steps


def _scan(
    g: Graph, layer: LSTM, k: int, value: str, lengths: str | None, state: Any, batch: str
) -> tuple[Any, tuple[str, ...]]:
    outputs, scope, finals = [], g.scope, []
    for direction, reverse in enumerate(layer.reversed):
        g.scope = scope + ".reverse" * direction
        before = None if state is None else [g.add("Gather", s, integer(direction), axis=0) for s in state]
        y, *final = _scan_one(g, layer, _arrays(layer, k, direction), value, lengths, before, batch, reverse)
        outputs.append(y)
        finals.append([g.unsqueeze(a, 0) for a in final])
    g.scope = scope
    return outputs, tuple(g.add("Concat", *each, axis=0) for each in zip(*finals, strict=True))


def _scan_one(
    g: Graph, layer: LSTM, arrays: Arrays, value: str, lengths: str | None, state: Any, batch: str, reverse: bool
) -> tuple[str, str, str]:
    """(y (T, N, P), h_n, c_n) of one direction."""
    from onnx import helper

    cell, widths = layer.cell, layer.cell.widths(layer.hidden_size, layer.proj_size)
    if state is None:
        state = [g.add("Expand", g.number(0), g.shape(batch, width)) for width in widths]
    entering, inner = _of_input(g, cell, arrays, value), g.body()
    h, c, a = (inner.name(what) for what in ("h", "c", "a"))
    new = _step(inner, cell, arrays, h, c, a)
    given, y = [entering], new[0]
    kind = helper.np_dtype_to_tensor_dtype(g.dtype)
    info = [helper.make_tensor_value_info(name, kind, [None, None]) for name in (h, c, a)]
    if lengths is not None:
        there = inner.name("there")
        given.append(running(g, value, lengths))
        info.append(helper.make_tensor_value_info(there, helper.np_dtype_to_tensor_dtype(np.dtype(bool)), [None]))
        on = inner.unsqueeze(there, 1)
        y = inner.either(on, new[0])
        new = [inner.either(on, after, before) for after, before in zip(new, (h, c), strict=True)]
    ends = [inner.add("Identity", name) for name in (*new, y)]
    body = helper.make_graph(
        inner.nodes, f"{g.scope}.step", info, [helper.make_tensor_value_info(n, kind, [None, None]) for n in ends]
    )
    h_n, c_n, y = g.add(
        "Scan", *state, *given, outputs=3, body=body, num_scan_inputs=len(given),
        scan_input_directions=[int(reverse)] * len(given), scan_output_directions=[int(reverse)],
    )  # fmt: skip
    return y, h_n, c_n


def running(g: Graph, value: str, lengths: str | None) -> str:
    """Which steps (T, N) of a value (T, N, ..) there are: bool."""

    def make() -> Any:
        times = g.unsqueeze(g.arange(g.size(value, 0)), 1)
        return g.add("Less", times, lengths)

    return g.once(("running", lengths), make)


def _of_input(g: Graph, cell: Cell, arrays: Arrays, value: str) -> str:
    """What x adds to the gates at every step (T, N, G*H)."""
    a = g.add("MatMul", value, g.constant(np.ascontiguousarray(arrays["weight_ih"].T), "W"))
    if cell.layer_norm in ("haste", "fastrnn"):
        a = _shifted(g, g.norm(a, cell.epsilon), arrays, "norm_ih")
    if "bias" in arrays and cell.layer_norm != "tflite":
        a = g.add("Add", a, g.constant(arrays["bias"], "B"))
    return a


def _shifted(g: Graph, value: str, arrays: Arrays, norm: Any) -> str:
    """value * gain + bias, of those there are."""
    value = g.add("Mul", value, g.constant(arrays[norm + "_gain"], norm + "_gain"))
    bias = arrays.get(norm + "_bias")
    return value if bias is None else g.add("Add", value, g.constant(bias, norm + "_bias"))


def _step(g: Graph, cell: Cell, arrays: Arrays, h: str, c: str, a: str) -> Any:
    """The new h and c of one step, as `lstmx.reference_cells` writes it."""
    entering = g.add("MatMul", h, g.constant(_recurrent(arrays["weight_hh"], cell), "R"))
    if cell.layer_norm in ("haste", "fastrnn"):
        entering = _shifted(g, g.norm(entering, cell.epsilon), arrays, "norm_hh")
    order = "ifgo" if not cell.cifg else "igo"
    blocks = g.add("Split", g.add("Add", a, entering), integers(*[len(arrays["weight_hh"]) // len(order)] * len(order)),
                   outputs=len(order), axis=1)  # fmt: skip
    blocks = dict(zip(order, blocks, strict=True))
    return (_slstm_cell if cell.slstm else _lstm_cell)(g, cell, arrays, h, c, blocks)


def _recurrent(weight: Array, cell: Cell) -> Array:
    """weight_hh turned round, (P, G*H); 0 where a unit does not see those of other heads."""
    heads = cell.heads
    if heads == 1:
        return np.ascontiguousarray(weight.T)
    parts = weight.reshape(cell.gates, heads, -1, weight.shape[1])  # gate, head, unit, unit before
    whole = np.zeros((heads, weight.shape[1], *parts.shape[:3]), weight.dtype)
    for head in range(heads):
        whole[head, :, :, head] = parts[:, head].transpose(2, 0, 1)
    return whole.reshape(heads * weight.shape[1], -1)


def _lstm_cell(g: Graph, cell: Cell, arrays: Arrays, h: str, c: str, blocks: Any) -> list[str]:
    of_gate, of_candidate, of_output = cell.activations
    order = "".join(blocks)

    def by_gate(name: str, gates: Any = order) -> Any:
        parts = np.split(arrays[name], len(gates)) if name in arrays else ()
        return dict(zip(gates, parts, strict=bool(parts)))

    peephole, gain, bias = by_gate("peephole", order.replace("g", "")), by_gate("norm_gain"), by_gate("bias")

    def gate(k: Any, memory: Any, activation: Any) -> str:
        s = blocks[k]
        if k in peephole:
            s = g.add("Add", s, g.add("Mul", memory, g.constant(peephole[k], f"peephole_{k}")))
        if cell.layer_norm == "tflite":
            s = g.add("Mul", g.norm(s, cell.epsilon), g.constant(gain[k], f"norm_gain_{k}"))
            s = g.add("Add", s, g.constant(bias[k], f"bias_{k}")) if bias else s
        return g.activate(activation, _cut(g, s, cell.clip))

    i = gate("i", c, of_gate)
    f = g.add("Sub", g.number(1), i) if cell.cifg else gate("f", c, of_gate)
    m = g.add("Add", g.add("Mul", f, c), g.add("Mul", i, gate("g", c, of_candidate)))
    if cell.layer_norm == "fastrnn":
        m = _shifted(g, g.norm(m, cell.epsilon), arrays, "norm_c")
    m = _cut(g, m, cell.cell_clip)
    o, shown = gate("o", m, of_gate), m
    if cell.layer_norm == "haste":
        shown = _shifted(g, g.norm(m, cell.epsilon), arrays, "norm_c")
    out = g.add("Mul", o, g.activate(of_output, shown))
    if "weight_hr" in arrays:
        out = g.add("MatMul", out, g.constant(np.ascontiguousarray(arrays["weight_hr"].T), "P"))
    rate_h, rate_c = cell.zoneout
    return [_kept(g, h, out, rate_h), _kept(g, c, m, rate_c)]


def _cut(g: Graph, value: str, bound: float | None) -> str:
    return value if bound is None else g.add("Clip", value, g.number(-bound), g.number(bound))


def _kept(g: Graph, before: str, after: str, rate: float) -> str:
    """The expected value of zoneout."""
    return g.add("Add", g.scaled(before, rate), g.scaled(after, 1 - rate)) if rate else after


def _slstm_cell(g: Graph, cell: Cell, arrays: Arrays, h: str, c: str, blocks: Any) -> list[str]:
    hidden = len(arrays["weight_hh"]) // 4
    c, n, m = g.add("Split", c, integers(hidden, hidden, hidden), outputs=3, axis=1)
    fresh = g.add("Equal", n, g.number(0))
    kept = g.add("Sub", m, g.activate("softplus", g.add("Neg", blocks["f"])))  # log sigmoid(a) = -softplus(-a)
    m = g.either(fresh, blocks["i"], g.add("Max", blocks["i"], kept))
    i = g.add("Exp", g.add("Sub", blocks["i"], m))
    f = g.either(fresh, g.number(0), g.add("Exp", g.add("Sub", kept, m)))
    c = g.add("Add", g.add("Mul", f, c), g.add("Mul", i, g.add("Tanh", blocks["g"])))
    n = g.add("Add", g.add("Mul", f, n), i)
    h = g.add("Div", g.add("Mul", g.add("Sigmoid", blocks["o"]), c), n)
    return [h, g.add("Concat", c, n, m, axis=1)]
