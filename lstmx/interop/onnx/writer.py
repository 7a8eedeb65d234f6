"""Writing ONNX graphs: nodes with names that say which layer they are of, constants once, and the functions that a
layer or a cell applies.
"""

from __future__ import annotations

import copy
import itertools
from typing import TYPE_CHECKING, Any

import numpy as np

from lstmx.functional.cell import ACTIVATIONS

if TYPE_CHECKING:
    from collections.abc import Callable

    from lstmx._types import Array


LEAST_OPSET = 14


class Graph:
    """Nodes and constants of a graph, or of the body of a loop in it.

    Attributes
    ----------
    opset : int
    dtype : numpy.dtype
        What it computes in.
    scope : str
        What the names of new nodes begin with.
    prefix : str
        What all names begin with.
    nodes, constants : list of onnx.NodeProto, of onnx.TensorProto
    """

    nodes: list[Any]
    constants: list[Any]
    _known: dict[Any, Any]

    def __init__(self, opset: int, dtype: Any, scope: str = "") -> None:
        self.opset, self.dtype, self.scope = opset, np.dtype(dtype), scope
        self.prefix = f"{scope}." if scope else ""
        self.nodes, self.constants = [], []
        self._numbers, self._known, self._inside = itertools.count(), {}, False

    def body(self) -> Graph:
        """A graph for the body of a loop: it sees the values of this one, and its constants stand here."""
        inner = copy.copy(self)
        inner.nodes, inner._inside = [], True
        return inner

    def name(self, what: str) -> str:
        """A new name."""
        return f"{self.scope}{'.' * bool(self.scope)}{what}_{next(self._numbers)}"

    def add(self, op: str, *inputs: Any, outputs: Any = 1, **attributes: Any) -> Any:
        """The output of a new node, or a list of several.

        Parameters
        ----------
        op : str
        *inputs : str, or ndarray, which becomes a constant
        outputs : int, or list of str
            How many, or their names.
        **attributes
        """
        from onnx import helper

        name = self.name(op)
        if isinstance(outputs, int):
            outputs = [name + ".y"] if outputs == 1 else [f"{name}.y{k}" for k in range(outputs)]
        names = [value if isinstance(value, str) else self.constant(value) for value in inputs]
        self.nodes.append(helper.make_node(op, names, outputs, name, **attributes))
        return outputs[0] if len(outputs) == 1 else outputs

    def constant(self, array: Any, name: str | None = None) -> str:
        """The name of a constant; of equal ones without a name of their own it is the same."""
        from onnx import numpy_helper

        array = np.asarray(array)
        own = array.tobytes() if array.dtype != object else tuple(array.flat)
        key = (self.scope, name) if name else (array.dtype.str, array.shape, own)
        if key not in self._known:
            unnamed = f"{self.prefix}constant_{len(self.constants)}"
            self._known[key] = f"{self.scope}{'.' * bool(self.scope)}{name}" if name else unnamed
            self.constants.append(numpy_helper.from_array(array, self._known[key]))
        return self._known[key]

    def number(self, value: Any) -> str:
        """A constant scalar of the type that the graph computes in."""
        return self.constant(np.array(value, self.dtype))

    def once(self, key: Any, make: Callable[[], Any]) -> Any:
        """The value that ``make()`` has given, or gives now, for this key."""
        if self._inside:
            return make()
        if key not in self._known:
            self._known[key] = make()
        return self._known[key]

    # What takes more than one node, or is written in another way in other opsets.

    def cast(self, value: Any, dtype: Any) -> str:
        """A value in another type."""
        from onnx import helper

        return self.add("Cast", value, to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def size(self, value: Any, axis: int) -> str:
        """The size (1,) of an axis."""
        return self.once(
            ("size", value, axis),
            lambda: self.add("Gather", self.once(("shape", value), lambda: self.add("Shape", value)), integers(axis)),
        )

    def shape(self, *sizes: Any) -> str:
        """A shape of sizes, each an int or the name of a size (1,)."""
        return self.add("Concat", *(s if isinstance(s, str) else integers(s) for s in sizes), axis=0)

    def reduce(self, op: str, value: Any, axis: int, keep: bool = False) -> str:
        """ReduceMax, ReduceMean and so on over one axis."""
        if self.opset >= 18 or op == "ReduceSum":
            return self.add(op, value, integers(axis), keepdims=int(keep))
        return self.add(op, value, axes=[axis], keepdims=int(keep))

    def cut(self, value: Any, start: int, end: int, axis: int, step: int = 1) -> str:
        """value[start:end:step] along an axis."""
        return self.add("Slice", value, *map(integers, (start, end, axis, step)))

    def reshape(self, value: Any, shape: Any) -> str:
        """A value in a shape of ints, in which 0 stands for the size that was there, or in one from `shape`."""
        return self.add("Reshape", value, shape if isinstance(shape, str) else integers(*shape))

    def unsqueeze(self, value: Any, *axes: int) -> str:
        """New axes of size 1."""
        return self.add("Unsqueeze", value, integers(*axes))

    def arange(self, size: Any) -> str:
        """0, 1, .. of a size (1,)."""
        scalars = integer(0), self.add("Squeeze", size), integer(1)
        return self.add("Range", *scalars)

    def either(self, condition: Any, value: Any, other: Any = 0.0) -> str:
        """value where the condition is true, else the other, which may be a number."""
        return self.add("Where", condition, value, other if isinstance(other, str) else self.number(other))

    def activate(self, activation: Any, x: Any) -> str:
        """An activation, a name or (name, alpha, beta), as `lstmx.layers.activation.ACTIVATIONS` has them."""
        name, *numbers = (activation,) if isinstance(activation, str) else activation
        if name == "linear":
            return x
        return _FUNCTIONS[name](self, x, *(numbers or ACTIVATIONS.get(name, ())))

    def scaled(self, x: Any, factor: float, shift: float | None = None) -> str:
        """x * factor, or x * factor + shift."""
        y = self.add("Mul", x, self.number(factor))
        return y if shift is None else self.add("Add", y, self.number(shift))

    def norm(self, x: Any, epsilon: float) -> str:
        """(x - mean) / sqrt(variance + epsilon) over the last axis."""
        centred = self.add("Sub", x, self.reduce("ReduceMean", x, -1, keep=True))
        variance = self.reduce("ReduceMean", self.add("Mul", centred, centred), -1, keep=True)
        return self.add("Div", centred, self.add("Sqrt", self.add("Add", variance, self.number(epsilon))))


def integer(value: int) -> Array:
    """A scalar of int64."""
    return np.array(value, np.int64)


def integers(*values: int) -> Array:
    """An array (K,) of int64, as shapes and axes are given."""
    return np.array(values, np.int64)


def _own(op: str, *names: Any) -> Callable[..., str]:
    """An activation that is an operator, whose attributes are alpha and beta."""
    return lambda g, x, *numbers: g.add(op, x, **dict(zip(("alpha", "beta"), map(float, numbers), strict=False)))


def _where_single(op: str, other: Any) -> Callable[..., str]:
    """An activation that onnxruntime has as an operator in float32 alone."""
    return lambda g, x, *numbers: (_own(op) if g.dtype == np.float32 else other)(g, x, *numbers)


def _below(g: Graph, x: Any) -> str:
    return g.add("Less", x, g.number(0))


def _elu(g: Graph, x: Any, alpha: float) -> str:
    grown = g.add("Sub", g.add("Exp", g.add("Min", x, g.number(0))), g.number(1))
    return g.either(_below(g, x), g.scaled(grown, alpha), x)


def _softplus(g: Graph, x: Any) -> str:
    rest = g.add("Exp", g.add("Neg", g.add("Abs", x)))
    return g.add("Add", g.add("Relu", x), g.add("Log", g.add("Add", rest, g.number(1))))


def _gelu(g: Graph, x: Any) -> str:
    if g.dtype != np.float32:
        raise ValueError('activation: "gelu" needs the operator Erf, which onnxruntime has not in float64; export with '
                         'dtype="float32"')  # fmt: skip
    twice = g.add("Add", g.add("Erf", g.scaled(x, np.sqrt(0.5))), g.number(1))
    return g.add("Mul", x, g.scaled(twice, 0.5))


def _gelu_tanh(g: Graph, x: Any) -> str:
    cubed = g.scaled(g.add("Mul", x, g.add("Mul", x, x)), 0.044715)
    t = g.add("Tanh", g.scaled(g.add("Add", x, cubed), np.sqrt(2 / np.pi)))
    return g.add("Mul", x, g.scaled(t, 0.5, 0.5))


_SELU = 1.6732632423543772, 1.0507009873554805  # alpha and scale; those of the operator are rounded to float32

_FUNCTIONS: dict[str, Callable[..., str]] = {
    "sigmoid": _own("Sigmoid"),
    "tanh": _own("Tanh"),
    "relu": _own("Relu"),
    "exp": _own("Exp"),
    "affine": lambda g, x, a, b: g.scaled(x, a, b),
    "leaky_relu": _where_single("LeakyRelu", lambda g, x, a: g.either(_below(g, x), g.scaled(x, a), x)),
    "thresholded_relu": _where_single(
        "ThresholdedRelu", lambda g, x, a: g.either(g.add("LessOrEqual", x, g.number(a)), g.number(0), x)
    ),
    "scaled_tanh": lambda g, x, a, b: g.scaled(g.add("Tanh", g.scaled(x, b)), a),
    "hard_sigmoid": _where_single(
        "HardSigmoid", lambda g, x, a, b: g.add("Clip", g.scaled(x, a, b), g.number(0), g.number(1))
    ),
    "elu": _where_single("Elu", _elu),
    "softsign": _where_single("Softsign", lambda g, x: g.add("Div", x, g.add("Add", g.add("Abs", x), g.number(1)))),
    "softplus": _where_single("Softplus", _softplus),
    "softmax": lambda g, x: g.add("Softmax", x, axis=-1),
    "silu": lambda g, x: g.add("Mul", x, g.add("Sigmoid", x)),
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "selu": _where_single("Selu", lambda g, x: g.scaled(_elu(g, x, _SELU[0]), _SELU[1])),
}
