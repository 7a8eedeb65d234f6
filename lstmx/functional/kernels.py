"""Compiled kernels on packed rows, for layers, losses and optimisers."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from lstmx._core import allocate, kernels, program
from lstmx._core import rows as core_rows
from lstmx.functional.engine import get_engine

if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import DTypeLike

    from lstmx._types import Array, Ints
    from lstmx.functional.context import SequenceContext
    from lstmx.functional.panels import Derived


ACTIVATIONS = tuple(kernels.ACTIVATIONS)


def linear(x: Array, weight: Array, bias: Array | None, activation: str, derived: Derived | None = None) -> Array:
    """activation(x W^T + b) for rows x (S, I), W (O, I), b (O,) or None."""
    y = allocate.empty((len(x), len(weight)), x.dtype)
    get_engine().product(x, weight, y, transpose_b=True, derived=derived)
    kernels.activate(kernels.ACTIVATIONS[activation], y, bias)
    return y


def linear_call(weight: Array, bias: Array | None, activation: str, derived: Derived | None) -> Any:
    """`linear` as a compiled call for plain arrays; None where the engine has none."""
    engine = get_engine()
    return engine.linear(weight, bias, kernels.ACTIVATIONS[activation], derived) if engine.compiled else None


def linear_part(weight: Array, bias: Array | None, activation: str, derived: Derived | None) -> tuple[Any, ...] | None:
    """`linear` as part of a compiled program; None where the engine has none."""
    engine = get_engine()
    return engine.dense_part(weight, bias, kernels.ACTIVATIONS[activation], derived) if engine.compiled else None


def activation_part(name: str, numbers: tuple[float, ...], features: int) -> tuple[Any, ...] | None:
    """An activation of a layer `Activation` as part of a compiled program; None where that has none."""
    if name in ("sigmoid", "tanh", "softmax"):
        return "activation", kernels.ACTIVATIONS[name], features
    return ("curve", name, *numbers, features) if name in program.CURVES else None


def linear_backward(
    x: Array,
    weight: Array,
    y: Array,
    dy: Array,
    activation: str,
    out: tuple[Array, Array | None],
    need_dx: bool,
    blocks: Ints,
    derived: Derived | None = None,
    add: bool = False,
) -> Array | None:
    """Gradients of `linear`; `out` is (dW, db or None), written, or with `add` added to; `dy` is overwritten. Sums over
    rows have joints at `blocks`, those of the rows' context. Returns dx (S, I) or None.
    """
    if activation != "linear":
        activate_backward(y, dy, activation)
    d_weight, d_bias = out
    get_engine().outer(dy, x, d_weight, blocks, d_bias, add)
    if not need_dx:
        return None
    dx = allocate.empty(x.shape, x.dtype)
    get_engine().product(dy, weight, dx, derived=derived)
    return dx


def activate(y: Array, activation: str) -> None:
    """y (S, O) := activation(y), in place."""
    kernels.activate(kernels.ACTIVATIONS[activation], y, None)


def activate_backward(y: Array, dy: Array, activation: str) -> None:
    """dy := dy * the derivative of the activation, from its outputs y (S, O)."""
    kernels.activate_backward(kernels.ACTIVATIONS[activation], y, dy)


def each(name: str, x: Array) -> Array:
    """A function of every element, "sigmoid", "tanh", "exp", "expm1" (of x <= 0) or "softplus": its bits depend on
    nothing else.
    """
    x = np.ascontiguousarray(x)
    out = allocate.empty(x.shape, x.dtype)
    getattr(kernels, name)(x.reshape(-1), out.reshape(-1))
    return out


def dropout(x: Array, rate: float, key: int, context: Any = None, out: Array | None = None) -> Array:
    """Inverted dropout: the mask depends on (key, the caller's row, time, unit) alone, that of a weight, which has no
    context, on (key, row, column).
    """
    out = allocate.empty(x.shape, x.dtype) if out is None else out
    row, time = context.places if context else (np.arange(len(x), dtype=np.intp), np.zeros(len(x), np.intp))
    kernels.dropout(np.uint64(key), row, time, rate, x, out)
    return out


def total(x: Array) -> float:
    """The sum of all elements in float64, over fixed blocks."""
    return kernels.sum(np.ascontiguousarray(x).reshape(-1))


def sum_of_squares(x: Array) -> float:
    """The sum of all squares in float64, over fixed blocks."""
    return kernels.sum_of_squares(x.reshape(-1))


def loss(
    name: str,
    prediction: Array,
    target: Array,
    weight: Array,
    divisor: float = 1.0,
    into: Sum | None = None,
    first: int = 0,
) -> tuple[float, Array]:
    """A loss by name and its gradient, in one pass.

    Parameters
    ----------
    prediction : ndarray (rows, O)
    target : ndarray (rows, O), or (rows,) of integer labels for "categorical_crossentropy"
    weight : ndarray (rows,)
    divisor : float
        Of the gradient, not of the loss.
    into : Sum, optional
        The sum over all segments of a batch, to which this one adds; its rows begin at row `first` of all.

    Returns
    -------
    float
        The sum of the weighted losses, in float64 over fixed blocks.
    ndarray (rows, O)
        The gradient with respect to `prediction`, divided by `divisor`.
    """
    dtype, rows = prediction.dtype, len(prediction)
    categorical, labels = name == "categorical_crossentropy", target.ndim == 1
    if len(weight) != rows or (len(target) != rows if categorical and labels else target.shape != prediction.shape):
        raise ValueError(f"target: got shape {target.shape} for predictions of shape {prediction.shape}")
    gradient = allocate.empty(prediction.shape, dtype)
    value = allocate.empty((rows, 1) if labels else prediction.shape, dtype)
    y = None if labels else np.ascontiguousarray(target, dtype)
    mass = y.sum(axis=1) if categorical and not labels else None  # type: ignore[union-attr]
    classes = np.ascontiguousarray(target, np.int64) if labels else None
    weight = np.ascontiguousarray(weight, dtype)
    kind = kernels.LOSSES[name]
    total = kernels.loss(kind, prediction, y, mass, classes, weight, divisor, value, gradient)
    if into is not None:
        into.add(first * value.shape[1], value.reshape(-1))
    return total, gradient


class Sum:
    """The `total` of numbers that come in parts, in any order: the bits are those of all at once.

    Parameters
    ----------
    count : int
        Of all numbers.
    """

    BLOCK = 4096  # as in the kernels: these are added first

    def __init__(self, count: int) -> None:
        self.count, self._blocks = count, [0.0] * -(-count // self.BLOCK)
        self._parts: dict[
            int, tuple[Array, int]
        ] = {}  # of a block that is not complete: its numbers, and how many there are

    def add(self, first: int, values: Array) -> None:
        """The numbers from `first` on."""
        end = first + len(values)
        for k in range(first // self.BLOCK, -(-end // self.BLOCK)):
            low, high = k * self.BLOCK, min((k + 1) * self.BLOCK, self.count)
            part = values[max(low - first, 0) : high - first]
            if len(part) < high - low:
                whole, there = self._parts.pop(k, (None, 0))
                whole = allocate.empty((high - low,), values.dtype) if whole is None else whole
                at = max(first - low, 0)
                whole[at : at + len(part)] = part
                if there + len(part) < len(whole):
                    self._parts[k] = whole, there + len(part)
                    continue
                part = whole
            self._blocks[k] = kernels.sum(part)

    def total(self) -> float:
        """The sum of all."""
        found = 0.0
        for block in self._blocks:
            found += block
        return found


def sum_rows(x: Array, out: Array) -> None:
    """out (n,) := the sum of x (rows, n) over its rows, in fixed blocks."""
    kernels.column_sum(x, out)


def sum_steps(rows: Array, context: SequenceContext, before: Array | None = None) -> Array:
    """(N, F): the sum of each sequence's rows (S, F), in the order of time, after that of earlier steps `before`."""
    out = allocate.empty((context.batch, rows.shape[1]), rows.dtype) if before is None else before.copy()
    core_rows.sum_steps(context.check(rows), context.offsets, out, before is not None)
    return out


def sum_whole(x: Array) -> Array:
    """(N, F): the same sums of an array (N, T, F), all of whose sequences have T steps."""
    out = allocate.empty(x.shape[::2], x.dtype)
    rows = np.ascontiguousarray(x.swapaxes(0, 1)).reshape(-1, x.shape[2])
    core_rows.sum_steps(rows, np.arange(0, len(rows) + 1, len(x), np.intp), out)  # type: ignore[call-overload]
    return out


def spread_steps(per_sequence: Array, context: SequenceContext) -> Array:
    """(S, F): at every step the row of its sequence in (N, F)."""
    out = allocate.empty((context.rows, per_sequence.shape[1]), per_sequence.dtype)
    core_rows.spread_steps(per_sequence, context.offsets, out)
    return out


sgd, rmsprop, adam = kernels.sgd, kernels.rmsprop, kernels.adam


def fma_rate(dtype: DTypeLike, seconds: float = 0.01) -> float:
    """Floating-point operations per second of one thread that multiplies and adds in registers alone: the peak."""
    rounds, taken, operations = 1000, 0.0, 0.0
    while taken < seconds:  # the last and longest of the runs counts
        operands = np.array([0.5, 0.25], dtype)
        start = time.perf_counter()
        operations = kernels.fma_chains(rounds, operands)
        taken = max(time.perf_counter() - start, 1e-7)
        rounds = int(rounds * min(10, 1.2 * seconds / taken)) + 1
    return operations / taken
