"""The operators that a `GraphModel` is made of, but for its layers: arrays in, arrays out.

They are those of ONNX by its names, each as its newest version defines it. Axes and the like are options; what a graph
may compute, such as shapes, are inputs. Sums run along memory, so that a row's bits do not depend on the others.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lstmx.functional import kernels, validate
from lstmx.layers.activation import normal_distribution

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from lstmx._types import Array, DType


DTYPES = {name: np.dtype(name) for name in ("float32", "float64", "int64", "bool")}  # of the values in a graph
LARGEST = 2**28  # elements of a value that is larger than what it is made of
MOST_AXES = 32


class Operator(NamedTuple):
    """An operator.

    Attributes
    ----------
    function : callable ``(inputs, options, room) -> array or tuple of arrays``
        An input that is left out is None; ``room(shape)`` raises ValueError where an array would be too large.
    inputs : (int, int)
        How many it takes: at least, at most.
    options : dict of str to (kind, default)
        Kinds are those of `check_option`.
    moves : bool
        Whether it only moves the elements of its first input.
    """

    function: Callable[..., Any]
    inputs: tuple[int, int]
    options: dict[str, tuple[str, Any]]
    moves: bool = False


OPERATORS: dict[str, Operator] = {}


def operator(
    least: int, most: int | None = None, moves: bool = False, **options: tuple[str, Any]
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Put a function into the table, by the name that it has."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        OPERATORS[function.__name__] = Operator(function, (least, most or least), options, moves)
        return function

    return register


def check_option(name: str, kind: str, value: Any) -> Any:
    """An option of a kind as it must be, or an error."""
    if kind == "int":
        return _axis(name, value)
    if kind == "axes":
        if value is not None and (not isinstance(value, list) or len(value) > MOST_AXES):
            raise ValueError(f"{name}: got {value!r:.60}, must be None or a list of at most {MOST_AXES} integers")
        return None if value is None else [_axis(name, axis) for axis in value]
    if kind == "number":
        return validate.number(name, value, 0)
    if kind == "flag":
        return validate.flag(name, value)
    return validate.choice(name, value, tuple(DTYPES))  # "dtype"


def _axis(name: str, value: Any) -> int:
    if abs(validate.count(name, value, -(2**62))) > 2**62:
        raise ValueError(f"{name}: got {value}, must be smaller")
    return int(value)


def limited(largest: int) -> Callable[[Iterable[int]], None]:
    """A `room` for so many elements."""

    def room(shape: Iterable[int]) -> None:
        if math.prod(shape) > largest:
            raise ValueError(f"an array of shape {tuple(shape)} would have more than {largest} elements")

    return room


def sizes(name: str, value: Array) -> list[int]:
    """A shape, or other small integers, that a graph has computed."""
    if value is None or value.dtype != np.int64 or value.ndim > 1 or value.size > MOST_AXES:
        got = "nothing" if value is None else f"{value.dtype} {value.shape}"
        raise ValueError(f"{name}: got {got}, must be int64, at most {MOST_AXES} of them")
    return value.reshape(-1).tolist()


def place(axis: int, ndim: int) -> int:
    """An axis that may count from the end, from the beginning."""
    if not -ndim <= axis < max(ndim, 1):
        raise ValueError(f"axis {axis} of an array with {ndim} axes")
    return axis + ndim if axis < 0 else axis


def places(axes: Iterable[int], ndim: int) -> list[int]:
    """Several different ones."""
    found = [place(axis, ndim) for axis in axes]
    if len(set(found)) < len(found):
        raise ValueError(f"axes: got {axes}, in which one comes twice")
    return found


def rows_last(x: Array, axes: Iterable[int]) -> tuple[Array, list[int]]:
    """(rows (.., n), shape of x without these axes): what is reduced lies in the last axis, side by side."""
    axes = sorted(places(axes, x.ndim))
    kept = [axis for axis in range(x.ndim) if axis not in axes]
    moved = np.ascontiguousarray(x.transpose(*kept, *axes))
    outer = tuple(x.shape[axis] for axis in kept)
    return moved.reshape(*outer, math.prod(x.shape[axis] for axis in axes)), axes


# Element by element.


def _elementwise(name: str, function: Callable[..., Any], inputs: int, *, floats: bool = False) -> None:
    def run(given: Sequence[Any], options: dict[str, Any], room: Callable[[Iterable[int]], None]) -> Array:
        if any(a is None for a in given):
            raise ValueError("an input is left out")
        if floats and given[0].dtype.kind != "f":
            raise ValueError(f"got {given[0].dtype}, must be floating-point numbers")
        room(np.broadcast_shapes(*(a.shape for a in given)))
        out = function(*given)
        same = "b" in (out.dtype.kind, given[0].dtype.kind)
        return out if same else out.astype(given[0].dtype, copy=False)

    OPERATORS[name] = Operator(run, (inputs, inputs), {})


def _divide(a: Array, b: Array) -> Array:
    """A quotient; of integers towards zero."""
    if a.dtype.kind == "f":
        return a / b
    safe = np.where(b == 0, 1, b)
    return np.sign(a) * np.sign(safe) * (np.abs(a) // np.abs(safe))


for _name, _function in {
    "Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": _divide, "Pow": np.power, "Equal": np.equal,
    "Less": np.less, "LessOrEqual": np.less_equal, "Greater": np.greater, "GreaterOrEqual": np.greater_equal,
    "And": np.logical_and, "Or": np.logical_or,
}.items():  # fmt: skip
    _elementwise(_name, _function, 2)  # type: ignore[arg-type]
for _name, _function in {"Neg": np.negative, "Abs": np.abs, "Not": np.logical_not}.items():
    _elementwise(_name, _function, 1)
for _name, _function in {
    "Sqrt": np.sqrt, "Log": np.log, "Reciprocal": np.reciprocal, "Floor": np.floor, "Ceil": np.ceil,
    "IsNaN": np.isnan, "Erf": lambda x: 2 * normal_distribution(x.astype(np.float64) * math.sqrt(2)) - 1,
}.items():  # fmt: skip
    _elementwise(_name, _function, 1, floats=True)  # type: ignore[arg-type]


def _many(name: str, function: Callable[..., Any]) -> None:
    def run(given: Sequence[Any], options: dict[str, Any], room: Callable[[Iterable[int]], None]) -> Array:
        if any(a is None for a in given):
            raise ValueError("an input is left out")
        room(np.broadcast_shapes(*(a.shape for a in given)))
        out = given[0]
        for a in given[1:]:
            out = function(out, a)
        return out

    OPERATORS[name] = Operator(run, (1, 100), {})


_many("Sum", np.add)
_many("Min", np.minimum)
_many("Max", np.maximum)


@operator(3)
def Where(given: Sequence[Any], options: dict[str, Any], room: Callable[[Iterable[int]], None]) -> Array:
    room(np.broadcast_shapes(*(a.shape for a in given)))
    return np.where(given[0].astype(bool), given[1], given[2])


@operator(1, 3)
def Clip(given: Sequence[Any], options: dict[str, Any], room: Callable[[Iterable[int]], None]) -> Array:
    x, low, high = (*given, None, None)[:3]
    x = x if low is None else np.maximum(x, low.reshape(()).astype(x.dtype))
    return x if high is None else np.minimum(x, high.reshape(()).astype(x.dtype))


@operator(1, to=("dtype", None))
def Cast(given: Sequence[Any], options: dict[str, Any], room: Callable[[Iterable[int]], None]) -> Array:
    return given[0].astype(DTYPES[options["to"]], copy=False)


@operator(1, moves=True)
def Identity(given: Sequence[Any], options: dict[str, Any], room: Callable[[Iterable[int]], None]) -> Array:
    return given[0]


# Shapes.


@operator(1, start=("int", 0), end=("int", 2**62))
def Shape(given: Sequence[Any], options: dict[str, Any], room: Callable[[Iterable[int]], None]) -> Array:
    return np.array(given[0].shape[options["start"] : options["end"]], np.int64)


@operator(1)
def Size(given: Sequence[Any], options: dict[str, Any], room: Callable[[Iterable[int]], None]) -> Array:
    return np.array(given[0].size, np.int64)


@operator(2, moves=True, allowzero=("flag", False))
def Reshape(given: Sequence[Any], options: dict[str, Any], room: Callable[[Iterable[int]], None]) -> Array:
    x, wanted = given[0], sizes("shape", given[1])
    if not options["allowzero"]:
        if any(n == 0 and k >= x.ndim for k, n in enumerate(wanted)):
            raise ValueError(f"shape: got {wanted} for an array with {x.ndim} axes")
        wanted = [x.shape[k] if n == 0 else n for k, n in enumerate(wanted)]
    return x.reshape(wanted)


@operator(1, moves=True, axis=("int", 1))
def Flatten(given: Sequence[Any], options: dict[str, Any], room: Callable[[Iterable[int]], None]) -> Array:
    x, axis = given[0], options["axis"]
    axis = axis + given[0].ndim if axis < 0 else axis
    if not 0 <= axis <= x.ndim:
        raise ValueError(f"axis {options['axis']} of an array with {x.ndim} axes")
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


@operator(1, 2, moves=True, axes=("axes", None))
def Squeeze(given: Sequence[Any], options: dict[str, Any], room: Callable[[Iterable[int]], None]) -> Array:
    axes = options["axes"] if len(given) < 2 or given[1] is None else sizes("axes", given[1])
    return given[0].squeeze(axis=None if axes is None else tuple(places(axes, given[0].ndim)))


@operator(1, 2, moves=True, axes=("axes", None))
def Unsqueeze(given: Sequence[Any], options: dict[str, Any], room: Callable[[Iterable[int]], None]) -> Array:
    axes = options["axes"] if len(given) < 2 or given[1] is None else sizes("axes", given[1])
    if axes is None or given[0].ndim + len(axes) > MOST_AXES:
        raise ValueError(f"axes: got {axes}")
    return np.expand_dims(given[0], tuple(places(axes, given[0].ndim + len(axes))))


@operator(1, moves=True, perm=("axes", None))
def Transpose(given: Sequence[Any], options: dict[str, Any], room: Callable[[Iterable[int]], None]) -> Array:
    perm = options["perm"]
    if perm is not None and sorted(perm) != list(range(given[0].ndim)):
        raise ValueError(f"perm: got {perm} for an array with {given[0].ndim} axes")
    return given[0].transpose(perm)


@operator(1, 100, axis=("int", None))
def Concat(given: Sequence[Any], options: dict[str, Any], room: Callable[[Iterable[int]], None]) -> Array:
    if any(a is None for a in given):
        raise ValueError("an input is left out")
    axis = place(options["axis"], given[0].ndim)
    room((sum(a.size for a in given),))
    return np.concatenate(given, axis=axis)


@operator(3, 5, moves=True)
def Slice(given: Sequence[Any], options: dict[str, Any], room: Callable[[Iterable[int]], None]) -> Array:
    x, starts, ends, axes, steps = (*given, None, None)[:5]
    starts, ends = sizes("starts", starts), sizes("ends", ends)
    axes = list(range(len(starts))) if axes is None else sizes("axes", axes)
    steps = [1] * len(starts) if steps is None else sizes("steps", steps)
    if not len(starts) == len(ends) == len(axes) == len(steps) or 0 in steps:
        raise ValueError(f"got {len(starts)} starts, {len(ends)} ends, axes {axes} and steps {steps}")
    index = [slice(None)] * x.ndim
    for axis, *part in zip(places(axes, x.ndim), starts, ends, steps, strict=True):
        index[axis] = slice(*part)
    return x[tuple(index)]


@operator(1, 2, moves=True, axis=("int", 0), parts=("int", None))
def Split(given: Sequence[Any], options: dict[str, Any], room: Callable[[Iterable[int]], None]) -> tuple[Array, ...]:
    x = given[0]
    axis = place(options["axis"], x.ndim)
    if len(given) > 1 and given[1] is not None:
        lengths = sizes("split", given[1])
    else:
        parts = options["parts"]
        if not 0 < parts <= 1000:
            raise ValueError(f"parts: got {parts}, must be between 1 and 1000")
        each = -(-x.shape[axis] // parts)
        lengths = [each] * (parts - 1) + [x.shape[axis] - each * (parts - 1)]
    if min(lengths, default=0) < 0 or sum(lengths) != x.shape[axis]:
        raise ValueError(f"split: got {lengths} for an axis of {x.shape[axis]}")
    return tuple(np.split(x, np.cumsum(lengths)[:-1], axis=axis))


@operator(2, moves=True, axis=("int", 0))
def Gather(given: Sequence[Any], options: dict[str, Any], room: Callable[[Iterable[int]], None]) -> Array:
    x, index = given
    axis = place(options["axis"], x.ndim)
    room((*x.shape[:axis], *index.shape, *x.shape[axis + 1 :]))
    return np.take(x, from_the_beginning(index, x.shape[axis]), axis=axis)


def from_the_beginning(index: Array, size: int) -> Array:
    """Indices that may count from the end, from the beginning."""
    if index.dtype != np.int64:
        raise ValueError(f"indices: got {index.dtype}, must be integers")
    if index.size and not -size <= index.min() <= index.max() < size:
        raise ValueError(f"indices: got {index.min()} to {index.max()} for an axis of {size}")
    return np.where(index < 0, index + size, index)


@operator(2, moves=True, axis=("int", 0))
def GatherElements(given: Sequence[Any], options: dict[str, Any], room: Callable[[Iterable[int]], None]) -> Array:
    x, index = given
    axis = place(options["axis"], x.ndim)
    return np.take_along_axis(x, from_the_beginning(index, x.shape[axis]), axis)


@operator(2, moves=True)
def GatherND(given: Sequence[Any], options: dict[str, Any], room: Callable[[Iterable[int]], None]) -> Array:
    x, index = given
    depth = index.shape[-1] if index.ndim else 0
    if not 0 < depth <= x.ndim:
        raise ValueError(f"indices: got shape {index.shape} for an array with {x.ndim} axes")
    room((*index.shape[:-1], *x.shape[depth:]))
    return x[tuple(from_the_beginning(index[..., k], x.shape[k]) for k in range(depth))]


@operator(2, exclusive=("flag", False), reverse=("flag", False))
def CumSum(given: Sequence[Any], options: dict[str, Any], room: Callable[[Iterable[int]], None]) -> Array:
    [axis] = places(sizes("axis", given[1]), given[0].ndim)
    x = np.flip(given[0], axis) if options["reverse"] else given[0]
    out = np.cumsum(x, axis=axis, dtype=x.dtype)
    out = out - x if options["exclusive"] else out
    return np.flip(out, axis) if options["reverse"] else out


@operator(2, axis=("int", -1), largest=("flag", True))
def TopK(given: Sequence[Any], options: dict[str, Any], room: Callable[[Iterable[int]], None]) -> tuple[Array, Array]:
    """The first of equal ones comes first."""
    x, [count] = given[0], sizes("k", given[1])
    axis = place(options["axis"], x.ndim)
    if not 0 <= count <= x.shape[axis]:
        raise ValueError(f"k: got {count} for an axis of {x.shape[axis]}")
    order = np.argsort(-x if options["largest"] else x, axis=axis, kind="stable")
    order = order[(slice(None),) * axis + (slice(count),)].astype(np.int64)
    return np.take_along_axis(x, order, axis), order


@operator(2)
def Expand(given: Sequence[Any], options: dict[str, Any], room: Callable[[Iterable[int]], None]) -> Array:
    shape = np.broadcast_shapes(given[0].shape, tuple(sizes("shape", given[1])))
    room(shape)
    return np.broadcast_to(given[0], shape)


@operator(2)
def Tile(given: Sequence[Any], options: dict[str, Any], room: Callable[[Iterable[int]], None]) -> Array:
    repeats = sizes("repeats", given[1])
    if len(repeats) != given[0].ndim or min(repeats, default=0) < 0:
        raise ValueError(f"repeats: got {repeats} for an array with {given[0].ndim} axes")
    room([n * k for n, k in zip(given[0].shape, repeats, strict=True)])
    return np.tile(given[0], repeats)


@operator(2)
def ConstantOfShape(given: Sequence[Any], options: dict[str, Any], room: Callable[[Iterable[int]], None]) -> Array:
    """The first input is the shape, the second the value."""
    shape, value = sizes("shape", given[0]), given[1].reshape(())
    if min(shape, default=0) < 0:
        raise ValueError(f"shape: got {shape}")
    room(shape)
    return np.full(shape, value, value.dtype)


@operator(3)
def Range(given: Sequence[Any], options: dict[str, Any], room: Callable[[Iterable[int]], None]) -> Array:
    start, end, step = (a.reshape(()) for a in given)
    if step == 0:
        raise ValueError("delta: got 0")
    count = max(math.ceil((end.item() - start.item()) / step.item()), 0)
    room((count,))
    return start + np.arange(count).astype(start.dtype) * step


@operator(2, time=("int", 0), batch=("int", 1))
def ReverseSequence(given: Sequence[Any], options: dict[str, Any], room: Callable[[Iterable[int]], None]) -> Array:
    x, lengths = given
    if {options["time"], options["batch"]} != {0, 1} or x.ndim < 2:
        raise ValueError("time_axis and batch_axis: must be 0 and 1")
    out = (x if options["batch"] == 0 else x.swapaxes(0, 1)).copy()
    for row, length in zip(out, validate.lengths(lengths, *out.shape[:2]).tolist(), strict=True):
        row[:length] = row[:length][::-1].copy()
    return out if options["batch"] == 0 else out.swapaxes(0, 1)


# Reductions.


def _limits(dtype: DType) -> tuple[Any, Any]:
    """The smallest and the largest number of a type."""
    if dtype.kind == "f":
        return -np.inf, np.inf
    return (False, True) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)


def _reduction(name: str, function: Callable[..., Any]) -> None:
    def run(given: Sequence[Any], options: dict[str, Any], room: Callable[[Iterable[int]], None]) -> Array:
        x, axes = given[0], options["axes"]
        if len(given) > 1 and given[1] is not None:
            axes = sizes("axes", given[1])
        if not axes:
            if options["noop"]:
                return x
            axes = list(range(x.ndim))
        rows, axes = rows_last(x, axes)
        out = np.asarray(function(rows)).astype(x.dtype, copy=False)
        return np.expand_dims(out, tuple(axes)) if options["keepdims"] else out

    options = {"axes": ("axes", None), "keepdims": ("flag", True), "noop": ("flag", False)}
    OPERATORS[name] = Operator(run, (1, 2), options)


_reduction("ReduceSum", lambda rows: rows.sum(axis=-1))
_reduction("ReduceMean", lambda rows: rows.sum(axis=-1) / np.asarray(rows.shape[-1], rows.dtype))
_reduction("ReduceMax", lambda rows: rows.max(axis=-1, initial=_limits(rows.dtype)[0]))
_reduction("ReduceMin", lambda rows: rows.min(axis=-1, initial=_limits(rows.dtype)[1]))
_reduction("ReduceProd", lambda rows: rows.prod(axis=-1))
_reduction("ReduceSumSquare", lambda rows: (rows * rows).sum(axis=-1))
_reduction("ReduceL1", lambda rows: np.abs(rows).sum(axis=-1))
_reduction("ReduceL2", lambda rows: np.sqrt((rows * rows).sum(axis=-1)))


@operator(2, 3, axis=("int", -1), epsilon=("number", 1e-5))
def LayerNormalization(
    given: Sequence[Any], options: dict[str, Any], room: Callable[[Iterable[int]], None]
) -> tuple[Array, Array, Array]:
    """The result, and the mean and 1 / deviation that it took."""
    (x, scale), bias = given[:2], given[2] if len(given) > 2 else None
    if x.dtype.kind != "f":
        raise ValueError(f"got {x.dtype}, must be floating-point numbers")
    axes = tuple(range(place(options["axis"], x.ndim), x.ndim))
    rows, _ = rows_last(x, axes)
    count = np.asarray(rows.shape[-1], x.dtype)
    mean = rows.sum(axis=-1, keepdims=True) / count
    rows = rows - mean
    factor = 1 / np.sqrt((rows * rows).sum(axis=-1, keepdims=True) / count + x.dtype.type(options["epsilon"]))
    out = (rows * factor).reshape(x.shape) * scale
    shape = *x.shape[: axes[0]], *(1 for _ in axes)
    return out if bias is None else out + bias, mean.reshape(shape), factor.reshape(shape)


@operator(1, axis=("int", 0), keepdims=("flag", True))
def ArgMax(given: Sequence[Any], options: dict[str, Any], room: Callable[[Iterable[int]], None]) -> Array:
    axis = place(options["axis"], given[0].ndim)
    return given[0].argmax(axis=axis, keepdims=options["keepdims"]).astype(np.int64)


@operator(1, axis=("int", -1))
def LogSoftmax(given: Sequence[Any], options: dict[str, Any], room: Callable[[Iterable[int]], None]) -> Array:
    x = given[0]
    axis = place(options["axis"], x.ndim)
    moved = np.ascontiguousarray(np.moveaxis(x, axis, -1))
    moved = moved - moved.max(axis=-1, keepdims=True, initial=-np.inf)
    moved = moved - np.log(kernels.each("exp", moved).sum(axis=-1, keepdims=True))
    return np.moveaxis(moved, -1, axis)


# Products whose weights are no constants.


@operator(2)
def MatMul(given: Sequence[Any], options: dict[str, Any], room: Callable[[Iterable[int]], None]) -> Array:
    a, b = given
    if 0 in (a.ndim, b.ndim) or a.dtype.kind != "f" or a.dtype != b.dtype:
        raise ValueError(f"got {a.dtype} {a.shape} and {b.dtype} {b.shape}")
    left, right = (a[None] if a.ndim == 1 else a), (b[:, None] if b.ndim == 1 else b)
    if left.shape[-1] != right.shape[-2]:
        raise ValueError(f"got shapes {a.shape} and {b.shape}")
    outer = np.broadcast_shapes(left.shape[:-2], right.shape[:-2])
    shape = *outer, left.shape[-2], right.shape[-1]
    room(shape)
    out = np.zeros(shape, a.dtype)
    if left.shape[-1]:  # a sum of nothing is 0
        left = np.broadcast_to(left, (*outer, *left.shape[-2:]))
        right = np.broadcast_to(right, (*outer, *right.shape[-2:]))
        for k in np.ndindex(outer):
            out[k] = kernels.linear(np.ascontiguousarray(left[k]), np.ascontiguousarray(right[k].T), None, "linear")
    return out.reshape((*outer, *shape[-2:][a.ndim == 1 :][: 2 - (b.ndim == 1) - (a.ndim == 1)]))
