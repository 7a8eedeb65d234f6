"""What each operator of ONNX becomes in a `GraphModel`, in every version since operator set 7."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from lstmx.interop.onnx import lstm as onnx_lstm
from lstmx.layers import Activation, Dense, Embedding, Run

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lstmx._types import Array, Arrays


_FLOAT, _INT, _STRING, _TENSOR, _GRAPH, _FLOATS, _INTS, _STRINGS = 1, 2, 3, 4, 5, 6, 7, 8  # types of attributes
MOST_UNITS = 2**16  # of an LSTM whose weights are inputs: their order is a constant
_SELU = 1.67326319217681884765625, 1.05070102214813232421875  # alpha and gamma


class Node:
    """A node of ONNX while it is read.

    Attributes
    ----------
    inputs : list of array, str or None
        Constants, names in the model, and what is left out.
    attributes : dict
    """

    inputs: list[Any]

    def __init__(self, reader: Any, scope: Any, proto: Any) -> None:
        self.reader, self.scope, self.proto = reader, scope, proto
        self.op, self.opset = proto.op_type, reader.opset
        self.name = proto.name or next(filter(None, proto.output), proto.op_type)
        self.inputs = [reader.value(scope, name) if name else None for name in proto.input]
        self.outputs = list(proto.output)
        self.attributes = {a.name: _attribute(a) for a in proto.attribute}

    def input(self, k: int) -> Any:
        """An input, or None."""
        return self.inputs[k] if k < len(self.inputs) else None

    def take(self, name: str, default: Any = None) -> Any:
        """An attribute; every value is as ONNX declares it, or an error."""
        value = self.attributes.get(name, default)
        if default is not None and type(value) is not type(default):
            raise ValueError(f"{name}: got {value!r:.60}, must be of type {type(default).__name__}")
        return value

    def emit(
        self,
        op: str,
        inputs: Any,
        options: Any = None,
        outputs: int = 1,
        layers: Sequence[Any] = (),
        name: str | None = None,
    ) -> list[Any]:
        """Values of a node of ours, which the model computes or which are constant."""
        return self.reader.emit(op, name or self.name, inputs, options, outputs, layers)

    def give(self, *values: Any) -> None:
        """What the outputs are."""
        for k, name in enumerate(self.outputs):
            if k < len(values):
                self.reader.bind(self.scope, name, values[k])
            elif name and self.scope.uses.get(name):
                raise ValueError(f"its output {k} is used, but not supported")

    def put(
        self, op: str, inputs: Any = None, options: Any = None, layers: Sequence[Any] = (), outputs: int = 1
    ) -> None:
        """The node becomes one of ours."""
        inputs = self.inputs if inputs is None else inputs
        name = next(filter(None, self.outputs), self.name)
        self.give(*self.reader.emit(op, name, list(inputs), options, outputs, layers))

    def refuse(self, why: str) -> None:
        """Say that this one is not supported."""
        self.reader.refuse(self.scope, self.proto, f"{self.op} ({why})")


def _attribute(a: Any) -> Any:
    values = {_FLOAT: a.f, _INT: a.i, _TENSOR: a.t, _GRAPH: a.g}
    if a.type in values:
        return values[a.type]
    if a.type == _STRING:
        return a.s.decode("utf-8", "replace")
    if a.type == _STRINGS:
        return [s.decode("utf-8", "replace") for s in a.strings]
    return list({_FLOATS: a.floats, _INTS: a.ints}.get(a.type, ()))


CONVERTERS: dict[str, Callable[[Node], None]] = {}


def converter(*names: str) -> Callable[[Callable[[Node], None]], Callable[[Node], None]]:
    """Put a function into the table of `CONVERTERS`, by the names of operators."""

    def register(function: Any) -> Any:
        CONVERTERS.update(dict.fromkeys(names, function))
        return function

    return register


@converter("Add", "Sub", "Mul", "Div", "Pow", "Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "And", "Or",
           "Neg", "Abs", "Not", "IsNaN", "Erf", "Sqrt", "Log", "Reciprocal", "Floor", "Ceil", "Sum", "Min", "Max",
           "Where", "Size", "Expand", "Tile", "Range")  # fmt: skip
def _same(node: Node) -> None:
    if node.op not in ("Add", "Mul") or not _joins_product(node):
        node.put(node.op)


def _open_product(node: Node, name: str, value: Any) -> Any:
    """The Dense that has just been read and gives a value that nobody else reads, without a bias yet; or None."""
    reader = node.reader
    if not reader.nodes or reader.nodes[-1]["op"] != "Dense" or reader.nodes[-1]["outputs"] != [value]:
        return None
    dense = reader.layers[-1][0]
    return dense if node.scope.uses.get(name) == 1 and not dense.parameters()["bias"].any() else None


def _joins_product(node: Node) -> bool:
    """Whether an Add of constants became the bias of a Dense, or a Mul the scale of one of quantised weights."""
    names = [value for value in node.inputs if isinstance(value, str)]
    constants = [value for value in node.inputs if isinstance(value, np.ndarray)]
    if len(names) != 1 or len(constants) != 1:
        return False
    product = next(name for name, value in zip(node.proto.input, node.inputs, strict=True) if value is names[0])
    dense, [a] = _open_product(node, product, names[0]), constants
    if dense is None or a.dtype != dense.dtype:
        return False
    weight = dense.parameters()["weight"]
    if node.op == "Mul":
        if a.size != 1 or names[0] not in node.reader.quantised_products:
            return False
        made = _dense(weight * a.reshape(()), None)
    elif a.size == dense.units and a.shape[-1:] == (dense.units,):
        made = _dense(weight, a.reshape(-1))
    else:
        return False
    node.reader.layers[-1] = [made]
    node.give(names[0])
    return True


def _dense(weight: Array, bias: Array | None) -> Dense:
    config = {"input_size": weight.shape[1], "output_size": len(weight), "dtype": weight.dtype.name}
    bias = np.zeros(len(weight), weight.dtype) if bias is None else bias
    return Dense.from_state(config, {"weight": weight, "bias": bias})


def _is_weight(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.ndim == 2 and value.dtype.kind == "f" and value.size > 0


@converter("MatMul")
def _matmul(node: Node) -> None:
    x, weight = node.inputs
    if isinstance(x, str) and _is_weight(weight):
        node.put("Dense", [x], layers=[_dense(weight.T, None)])
    else:
        node.put("MatMul")


@converter("Gemm")
def _gemm(node: Node) -> None:
    (a, b), c = node.inputs[:2], node.input(2)
    alpha, beta = node.take("alpha", 1.0), node.take("beta", 1.0)
    trans_a, trans_b = node.take("transA", 0), node.take("transB", 0)
    constant = c is None or (isinstance(c, np.ndarray) and c.size in (1, c.shape[-1]))
    if isinstance(a, str) and not trans_a and _is_weight(b) and constant:
        weight = b if trans_b else b.T
        weight = weight if alpha == 1 else (alpha * weight.astype(float)).astype(b.dtype)
        bias = None
        if c is not None:
            bias = np.broadcast_to((beta * c.astype(float)).astype(b.dtype).reshape(-1), (len(weight),))
        node.put("Dense", [a], layers=[_dense(weight, bias)])
        return
    a, b = (node.emit("Transpose", [v], {"perm": [1, 0]})[0] if flip else v for v, flip in ((a, trans_a), (b, trans_b)))
    [product] = node.emit("MatMul", [a, b])
    kind = next((v.dtype for v in (a, b, c) if isinstance(v, np.ndarray)), np.dtype(np.float32))
    if alpha != 1:
        [product] = node.emit("Mul", [product, np.array(alpha, kind)])
    if c is not None and beta != 1:
        [c] = node.emit("Mul", [c, np.array(beta, kind)])
    node.give(product) if c is None else node.put("Add", [product, c])


_PLAIN = {"Sigmoid": "sigmoid", "Tanh": "tanh", "Relu": "relu", "Softplus": "softplus", "Softsign": "softsign",
          "Exp": "exp"}  # fmt: skip
_NUMBERED = {"LeakyRelu": ("leaky_relu", 0.01), "Elu": ("elu", 1.0), "ThresholdedRelu": ("thresholded_relu", 1.0)}


@converter(*_PLAIN)
def _plain(node: Node) -> None:
    _activate(node, _PLAIN[node.op])


@converter(*_NUMBERED)
def _numbered(node: Node) -> None:
    name, alpha = _NUMBERED[node.op]
    _activate(node, (name, onnx_lstm.short(node.take("alpha", alpha))))


@converter("HardSigmoid")
def _hard_sigmoid(node: Node) -> None:
    numbers = (onnx_lstm.short(node.take(name, value)) for name, value in (("alpha", 0.2), ("beta", 0.5)))
    _activate(node, ("hard_sigmoid", *numbers))


@converter("Selu")
def _selu(node: Node) -> None:
    given = node.take("alpha", _SELU[0]), node.take("gamma", _SELU[1])
    if not np.allclose(given, _SELU, rtol=1e-6):
        node.refuse(f"of alpha {given[0]:g} and gamma {given[1]:g}")
    else:
        _activate(node, "selu")


@converter("Gelu")
def _gelu(node: Node) -> None:
    _activate(node, "gelu_tanh" if node.take("approximate", "none") == "tanh" else "gelu")


@converter("HardSwish", "Mish")
def _gated(node: Node) -> None:
    """x times a function of x."""
    [x] = node.inputs
    names = ["softplus", "tanh"] if node.op == "Mish" else [("hard_sigmoid", 1 / 6, 0.5)]
    gate = x
    for name in names if isinstance(x, str) else ():
        [gate] = node.emit("Activation", [gate], {"axis": -1}, layers=[Activation(name)])
    node.put("Mul", [x, gate]) if isinstance(x, str) else node.refuse("of a constant")


@converter("LayerNormalization")
def _layer_norm(node: Node) -> None:
    options = {"axis": node.take("axis", -1), "epsilon": node.take("epsilon", 1e-5)}
    node.put("LayerNormalization", options=options, outputs=3)


def _activate(node: Node, activation: Any, x: Any = None, axis: int = -1) -> None:
    x = node.inputs[0] if x is None else x
    if isinstance(x, np.ndarray):  # folded, as a model would compute it
        rows, *_ = Activation(activation).forward_rows(np.ascontiguousarray(x.reshape(1, -1)), None, None, Run())
        node.give(rows.reshape(x.shape))
    else:
        node.put("Activation", [x], {"axis": axis}, layers=[Activation(activation)])


@converter("Softmax", "LogSoftmax")
def _softmax(node: Node) -> None:
    """Before operator set 13, softmax is over all axes from `axis` on, which is 1."""
    x = node.inputs[0]
    if isinstance(x, np.ndarray):
        node.refuse("of a constant")
        return
    old = node.opset < 13
    axis = node.take("axis", 1 if old else -1)
    if old and axis != -1:
        [rows] = node.emit("Flatten", [x], {"axis": axis}, name=f"{node.name} flat")
        [shape] = node.emit("Shape", [x], name=f"{node.name} shape")
        if node.op == "Softmax":
            [rows] = node.emit("Activation", [rows], {"axis": -1}, layers=[Activation("softmax")])
        else:
            [rows] = node.emit("LogSoftmax", [rows], {"axis": -1})
        node.put("Reshape", [rows, shape], {"allowzero": True})
    elif node.op == "Softmax":
        _activate(node, "softmax", axis=axis)
    else:
        node.put("LogSoftmax", options={"axis": axis})


@converter("Identity")
def _identity(node: Node) -> None:
    node.give(node.inputs[0])


@converter("Dropout")
def _dropout(node: Node) -> None:
    training = node.input(2)
    if isinstance(training, str) or (training is not None and training.any()):
        node.refuse("in training")
    else:
        node.give(node.inputs[0])


@converter("Constant")
def _constant(node: Node) -> None:
    from lstmx.interop.onnx.graph import array_of

    if len(node.attributes) != 1:
        raise ValueError(f"has {len(node.attributes)} attributes, must have one")
    [(name, value)] = node.attributes.items()
    kinds = {"value_int": np.int64, "value_ints": np.int64, "value_float": np.float32, "value_floats": np.float32}
    if name == "value":
        node.give(array_of(value))
    elif name in kinds:
        node.give(np.array(value, kinds[name]))
    else:
        node.refuse(f"with {name}")


@converter("Cast")
def _cast(node: Node) -> None:
    from lstmx.interop.onnx.graph import TYPES

    to, x = node.take("to", 0), node.inputs[0]
    if to not in TYPES:
        node.refuse(f"to type {to}")
    elif isinstance(x, str) and x in node.reader.quantised_products and TYPES[to][0] == "float32":
        node.give(x)
    else:
        node.put("Cast", options={"to": TYPES[to][0]})


@converter("Shape")
def _shape(node: Node) -> None:
    options = {"start": node.take("start", 0)}
    if "end" in node.attributes:
        options["end"] = max(-(2**62), min(node.take("end", 0), 2**62))
    node.put("Shape", options=options)


@converter("Reshape")
def _reshape(node: Node) -> None:
    node.put("Reshape", options={"allowzero": bool(node.take("allowzero", 0))})


@converter("Flatten")
def _flatten(node: Node) -> None:
    node.put("Flatten", options={"axis": node.take("axis", 1)})


@converter("Squeeze", "Unsqueeze")
def _squeeze(node: Node) -> None:
    node.put(node.op, options={"axes": node.take("axes")})


@converter("Transpose")
def _transpose(node: Node) -> None:
    node.put("Transpose", options={"perm": node.take("perm")})


@converter("Concat")
def _concat(node: Node) -> None:
    node.put("Concat", options={"axis": node.take("axis", 0) if "axis" in node.attributes else _missing("axis")})


def _missing(name: str) -> NoReturn:
    raise ValueError(f"the attribute {name!r} is missing")


@converter("Slice")
def _slice(node: Node) -> None:
    inputs = node.inputs
    if node.opset < 10:
        inputs = [inputs[0], *(np.array(node.attributes[name], np.int64) if name in node.attributes else None
                               for name in ("starts", "ends", "axes"))]  # fmt: skip
    node.put("Slice", inputs)


@converter("Split")
def _split(node: Node) -> None:
    count = len(node.outputs)
    inputs = [node.inputs[0], np.array(node.attributes["split"], np.int64)] if "split" in node.attributes else None
    options = {"axis": node.take("axis", 0), "parts": node.take("num_outputs", count)}
    node.put("Split", inputs, options, outputs=count)


@converter("Gather")
def _gather(node: Node) -> None:
    table, index = node.inputs
    axis = node.take("axis", 0)
    if _is_weight(table) and isinstance(index, str) and axis == 0:
        config = {"num_embeddings": len(table), "size": table.shape[1], "dtype": table.dtype.name}
        node.put("Embedding", [index], layers=[Embedding.from_state(config, {"weight": table})])
    else:
        node.put("Gather", options={"axis": axis})


@converter("GatherElements")
def _gather_elements(node: Node) -> None:
    node.put("GatherElements", options={"axis": node.take("axis", 0)})


@converter("GatherND")
def _gather_nd(node: Node) -> None:
    if node.take("batch_dims", 0):
        node.refuse("of batches")
    else:
        node.put("GatherND")


@converter("CumSum")
def _cumsum(node: Node) -> None:
    node.put("CumSum", options={name: bool(node.take(name, 0)) for name in ("exclusive", "reverse")})


@converter("TopK")
def _topk(node: Node) -> None:
    inputs = node.inputs
    if node.opset < 10:
        inputs = [inputs[0], np.array(node.attributes["k"], np.int64)]
    largest = bool(node.take("largest", 1))
    node.put("TopK", inputs, {"axis": node.take("axis", -1), "largest": largest}, outputs=2)


@converter("ConstantOfShape")
def _constant_of_shape(node: Node) -> None:
    from lstmx.interop.onnx.graph import array_of

    value = array_of(node.attributes["value"]) if "value" in node.attributes else np.zeros(1, np.float32)
    if value.size != 1:
        raise ValueError(f"value: has shape {value.shape}, must be one number")
    node.put("ConstantOfShape", [node.inputs[0], value])


@converter("Clip")
def _clip(node: Node) -> None:
    inputs = node.inputs
    if node.opset < 11:
        bounds = (node.attributes.get(name) for name in ("min", "max"))
        inputs = [inputs[0], *(None if bound is None else np.array(bound, np.float32) for bound in bounds)]
    node.put("Clip", inputs)


@converter("ReverseSequence")
def _reverse_sequence(node: Node) -> None:
    node.put("ReverseSequence", options={"time": node.take("time_axis", 0), "batch": node.take("batch_axis", 1)})


@converter("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceSumSquare", "ReduceL1", "ReduceL2")
def _reduce(node: Node) -> None:
    options = {"axes": node.take("axes"), "keepdims": bool(node.take("keepdims", 1))}
    node.put(node.op, options=options | {"noop": bool(node.take("noop_with_empty_axes", 0))})


@converter("ArgMax")
def _argmax(node: Node) -> None:
    if node.take("select_last_index", 0):
        node.refuse("of the last index")
    else:
        node.put("ArgMax", options={"axis": node.take("axis", 0), "keepdims": bool(node.take("keepdims", 1))})


@converter("If")
def _if(node: Node) -> None:
    condition = node.inputs[0]
    if not isinstance(condition, np.ndarray):
        node.refuse("its condition is not constant")
        return
    if condition.size != 1:
        raise ValueError(f"its condition has shape {condition.shape}, must be one value")
    branch = node.attributes["then_branch" if condition.any() else "else_branch"]
    reader = node.reader
    node.give(*reader.read_graph(reader.initial_scope(branch, node.scope)))


# Quantised weights.


def _per_axis(a: Array, x: Array, axis: int) -> Array:
    """A scale or zero point as it is broadcast over x."""
    if a.size == 1:
        return a.reshape(())
    if a.ndim != 1 or not -x.ndim <= axis < x.ndim or len(a) != x.shape[axis]:
        raise ValueError(f"got {a.shape} numbers for axis {axis} of {x.shape}")
    return a.reshape([-1 if k == axis % x.ndim else 1 for k in range(x.ndim)])


@converter("DequantizeLinear", "QuantizeLinear")
def _quantise(node: Node) -> None:
    (x, scale), zero = node.inputs[:2], node.input(2)
    if not all(isinstance(v, np.ndarray) for v in (x, scale)) or isinstance(zero, str) or node.take("block_size", 0):
        node.refuse("of what is not constant")
        return
    node.reader.quantised.append(node.name)
    axis = node.take("axis", 1)
    kind = np.dtype(np.uint8) if zero is None else zero.dtype
    scale = _per_axis(scale, x, axis)
    zero = np.zeros((), np.float32) if zero is None else _per_axis(zero, x, axis).astype(np.float32)
    if node.op == "DequantizeLinear":
        node.give(((x.astype(np.float32) - zero) * scale).astype(np.float32))
    elif kind.itemsize != 1:
        node.refuse(f"to {kind}")
    else:
        limits = np.iinfo(kind)
        node.give(np.clip(np.rint(x / scale) + zero, limits.min, limits.max).astype(kind))


@converter("DynamicQuantizeLinear")
def _dynamic_quantise(node: Node) -> None:
    """What is quantised as it comes is left as it is: its scale is 1, its zero point 0."""
    node.reader.quantised.append(node.name)
    node.give(node.inputs[0], np.ones((), np.float32), np.zeros((), np.uint8))


@converter("MatMulInteger")
def _matmul_integer(node: Node) -> None:
    (x, q), zero_x, zero = node.inputs[:2], node.input(2), node.input(3)
    constant = isinstance(q, np.ndarray) and q.ndim == 2 and q.size and not isinstance(zero, str)
    if not constant or not isinstance(x, str) or not isinstance(zero_x, np.ndarray) or zero_x.any():
        node.refuse("of other than DynamicQuantizeLinear and constant weights")
        return
    weight = q.astype(np.float32) - (0 if zero is None else zero.astype(np.float32))
    node.put("Dense", [x], layers=[_dense(weight.T, None)])
    node.reader.quantised_products.add(node.scope.values[node.outputs[0]])


# LSTM.


@converter("LSTM", "com.microsoft.DynamicQuantizeLSTM")
def _lstm(node: Node) -> None:
    options = onnx_lstm.read_options(node.attributes)
    given = dict(zip(onnx_lstm.INPUTS, node.inputs, strict=False))
    rest = [given.get("X"), *(given.get(name) for name in ("sequence_lens", "initial_h", "initial_c"))]
    weights = {name: value for name, value in given.items() if name not in ("X", "sequence_lens", "initial_h",
                                                                            "initial_c")}  # fmt: skip
    if not isinstance(rest[0], str):
        raise ValueError("X: is constant or left out, must be what the graph is given or computes")
    if any(isinstance(value, str) for value in weights.values()):
        if node.op != "LSTM":
            node.refuse("its weights are not constant")
        else:
            _given_lstm(node, options, rest, weights)
        return
    layers = onnx_lstm.make_layers(options, read_weights(node.op, options, weights))
    if node.op != "LSTM":
        node.reader.quantised.append(node.name)
    node.give(*node.emit("LSTM", rest, {"batch_first": options.batch_first}, 3, layers))


def read_weights(op: str, options: Any, weights: Any) -> list[Arrays]:
    """Our parameters for each direction, from the constant inputs of a node by name."""
    for name in ("W", "R", *(onnx_lstm.INPUTS[8:] if op != "LSTM" else ())):
        if weights.get(name) is None:
            raise ValueError(f"its input {name} is left out")
    return onnx_lstm.read_arrays(options, onnx_lstm.dequantised(weights) if op != "LSTM" else weights)


def _given_lstm(node: Node, options: Any, rest: Any, weights: Any) -> None:
    """An LSTM whose weights are inputs: their rows are put into our order."""
    hidden = options.hidden_size
    if hidden is None:
        raise ValueError("the attribute hidden_size is missing, which weights that are inputs need")
    if hidden > MOST_UNITS:
        raise ValueError(f"hidden_size: got {hidden}, must be at most {MOST_UNITS} where weights are inputs")
    rows, peepholes = onnx_lstm.row_order(options, hidden)
    W, R, B, P = (weights.get(name) for name in "WRBP")

    def take(value: Any, index: Any, what: Any) -> Any:
        if value is None:
            return None
        return node.emit("Gather", [value, index], {"axis": 1}, name=f"{node.name} {what}")[0]

    arrays = [take(W, rows, "weight_ih"), take(R, rows, "weight_hh")]
    halves = take(B, rows, "bias_ih"), take(B, rows + 4 * hidden, "bias_hh")
    arrays.append(None if B is None else node.emit("Add", halves, name=f"{node.name} bias")[0])
    arrays.append(take(P, peepholes, "peephole"))
    given = {"batch_first": options.batch_first, "reversed": list(options.reversed),
             "cells": [cell.config() for cell in options.cells]}  # fmt: skip
    node.give(*node.emit("GivenLSTM", [rest[0], *arrays, *rest[1:]], given, 3))
