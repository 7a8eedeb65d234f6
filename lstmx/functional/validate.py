"""The validator at the door: every public argument passes through here once.

An error names the argument, says what it is, what it must be, and what to do.
"""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Collection
    from typing import Any

    from lstmx._types import Array, Config, DType, Ints, Pair, RandomState, Shape


DTYPES: dict[Any, DType] = {"float32": np.dtype(np.float32), "float64": np.dtype(np.float64)}


def dtype(value: Any) -> DType:
    """The floating-point type of a model: float32 or float64."""
    try:
        found = value if isinstance(value, str) or value is None else np.dtype(value).name
    except (TypeError, ValueError):
        found = None
    if found not in DTYPES:
        raise ValueError(f'dtype: got {value!r}, must be "float32" or "float64"')
    return DTYPES[found]


def count(name: str, value: Any, least: int = 1) -> int:
    """An integer of at least `least`."""
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool | np.bool_):
        raise TypeError(f"{name}: got {value!r}, must be an integer of at least {least}")
    if number < least:
        raise ValueError(f"{name}: got {number}, must be at least {least}")
    return number


def extent(name: str, value: Any) -> int:
    """An integer from 0 up to what any memory holds."""
    number = count(name, value, 0)
    if number > 2**40:
        raise ValueError(f"{name}: got {number}, must be at most 2**40, which no memory holds")
    return number


def whole(name: str, value: Any, meaning: str = "an integer") -> int:
    """An integer of any sign."""
    try:
        if isinstance(value, bool | np.bool_):
            raise TypeError
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: got {value!r}, must be {meaning}") from None


def place(name: str, value: Any, count: int, what: str) -> int:
    """An index of one of `count` things, `what` in the plural; negative ones count from the end."""
    found = whole(name, value)
    if not -count <= found < count:
        there = f"are {count} {what}, from 0" if count > 1 else "is only 0" if count else "are none"
        raise IndexError(f"{name}: got {found}, there {there}")
    return found % count


def number(
    name: str,
    value: Any,
    low: float | None = None,
    high: float | None = None,
    *,
    open_low: bool = False,
    open_high: bool = False,
) -> float:
    """A finite real number within [low, high]; an end is excluded where `open_` says so."""
    try:
        if isinstance(value, str | bytes) or np.ndim(value):
            raise TypeError
        found = float(value)
    except OverflowError:
        found = np.inf
    except (TypeError, ValueError):
        raise TypeError(f"{name}: got {value!r}, must be a number") from None
    below = low is not None and (found <= low if open_low else found < low)
    above = high is not None and (found >= high if open_high else found > high)
    if below or above or not np.isfinite(found):
        left = "" if low is None else f" {'above' if open_low else 'at least'} {low}"
        right = "" if high is None else f"{' and' if left else ''} {'below' if open_high else 'at most'} {high}"
        raise ValueError(f"{name}: got {value!r}, must be a finite number{left}{right}")
    return found


def flag(name: str, value: Any) -> bool:
    """True or False."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name}: got {value!r}, must be True or False")
    return bool(value)


def choice(name: str, value: Any, choices: Collection[str]) -> Any:
    """One of `choices`."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name}: got {value!r}, must be one of {', '.join(map(repr, choices))}")
    return value


def keys(name: str, value: Any, names: Collection[str]) -> Config:
    """A dict that has exactly the keys `names`."""
    if not isinstance(value, dict):
        raise TypeError(f"{name}: got {type(value).__name__}, must be a dict with the keys {', '.join(names)}")
    for key in value:
        if key not in names:
            raise ValueError(f"{name}: {key!r:.60} is unknown; leave it out: there are {', '.join(names) or 'none'}")
    for key in names:
        if key not in value:
            raise ValueError(f"{name}: {key!r} is missing; there must be {', '.join(names)}")
    return value


def rectangular(name: str, value: Any) -> Array:
    """Any array or nested sequence as an array."""
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(
            f"{name}: got a masked array, whose mask would be lost; fill it (x.filled(0)). Padding is marked by "
            "lengths, or for estimators by NaN at the end"
        )
    try:
        return np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{name}: not a rectangular array ({error}); ragged data are a list of arrays") from None


def real_array(name: str, value: Any, dtype: Any = None) -> Array:
    """Any real array or nested sequence as a native, aligned array of `dtype`; the input itself where it is one.

    Without a `dtype` it is checked but not converted.

    Integers and other float types are converted; complex numbers, strings, dates and objects are errors.
    """
    array = rectangular(name, value)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{name}: got dtype {array.dtype}, must be real numbers" + _object_hint(name, array))
    return array if dtype is None else array.astype(dtype, copy=not array.flags.aligned)


def _object_hint(name: str, array: Array) -> str:
    if array.dtype.kind != "O":
        return "; convert it to floats"
    return f"; sequences of different lengths are list({name}), numbers {name}.astype(float)"


def shaped(name: str, value: Any, shape: Shape, dtype: DType, meaning: str) -> Array:
    """A real array of exactly `shape`, described by `meaning` such as "(L*D, N, H)"."""
    array = real_array(name, value, dtype)
    if array.shape != tuple(shape):
        raise ValueError(f"{name}: got shape {array.shape}, must be {meaning} = {tuple(shape)}")
    return array


def finite(name: str, array: Array, remedy: str) -> Array:
    """An array of floats that are neither NaN nor infinite."""
    good = np.isfinite(array)
    if not good.all():
        first = _first(~good)
        raise ValueError(f"{name}: {good.size - np.count_nonzero(good)} of {good.size} values are NaN or infinite, the "
                         f"first at index {first} ({array[first]}); {remedy}")  # fmt: skip
    return array


def parameter(name: str, value: Any, shape: Shape, dtype: DType, allow_nonfinite: bool) -> Array:
    """A real array of exactly `shape`, and of finite numbers unless others are allowed."""
    with np.errstate(over="ignore"):  # in the conversion
        array = shaped(name, value, shape, dtype, "the shape of the parameter")
    if allow_nonfinite or np.isfinite(array).all():
        return array
    given = real_array(name, value)
    large = np.isfinite(given) & np.isinf(array)
    if large.any():
        first = _first(large)
        raise ValueError(f"{name}: {np.count_nonzero(large)} of {large.size} values are too large for {dtype}, the "
                         f"first at index {first} ({given[first]}); make them smaller"
                         + (', or the model .astype("float64")' if dtype == np.float32 else ""))  # fmt: skip
    return finite(name, array, "set finite values, or say allow_nonfinite=True")


def _first(where: Array) -> tuple[int, ...]:
    """The index of the first True."""
    return tuple(int(k) for k in np.unravel_index(where.argmax(), where.shape))


def integers(name: str, value: Any, convert: bool = True) -> Array:
    """An array of integers as aligned int64; if not to `convert`, as it is."""
    array = rectangular(name, value)
    if array.size == 0 and array.dtype.kind == "f":
        array = array.astype(np.int64)
    if array.dtype.kind not in "iu":
        mask = array.dtype.kind == "b"
        hint = f"of a mask use {name}.sum(axis=1)" if mask else f"use {name}.astype(int) if they are whole"
        raise TypeError(f"{name}: got dtype {array.dtype}, must be integers; {hint}")
    if array.dtype.kind == "u" and array.size and array.max() > np.iinfo(np.int64).max:
        raise ValueError(f"{name}: got a value of {array.max()}, which does not fit into int64")
    return array.astype(np.int64, copy=not array.flags.aligned) if convert else array


def flags(name: str, value: Any, shape: Shape, meaning: str) -> Array:
    """Booleans of exactly `shape`, described by `meaning`; a copy, which tapes and traces may keep."""
    array = rectangular(name, value)
    if array.dtype.kind != "b" and array.size:
        hint = f"; write {name} != 0" if array.dtype.kind in "iuf" else ""
        raise TypeError(f"{name}: got dtype {array.dtype}, must be booleans{hint}")
    if array.shape != tuple(shape):
        raise ValueError(f"{name}: got shape {array.shape}, must be {meaning} = {tuple(shape)}")
    return array.astype(bool)


def lengths(value: Any, batch: int, steps: int, name: str = "lengths") -> Ints:
    """(N,) integers between 0 and T; a copy, which tapes and traces may keep."""
    array = integers(name, value)
    if array.shape != (batch,):
        raise ValueError(f"{name}: got shape {array.shape}, must be (N,) = ({batch},): one length per sequence")
    if batch and (array.min() < 0 or array.max() > steps):
        wrong = int(np.flatnonzero((array < 0) | (array > steps))[0])
        raise ValueError(f"{name}: sequence {wrong} has length {array[wrong]}, must be between 0 and T = {steps}")
    return array.copy()


def random_generator(name: str, value: Any) -> np.random.Generator:
    """A numpy Generator from None, an integer, a SeedSequence or a Generator."""
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool) and value >= 0
    if value is None or whole or isinstance(value, np.random.SeedSequence | np.random.Generator):
        return np.random.default_rng(value)
    raise TypeError(f"{name}: got {value!r}, must be None, a non-negative integer, a numpy SeedSequence or Generator")


def random_children(random_state: RandomState, count: int) -> list[Any] | None:
    """Independent children of a random_state, or None."""
    if random_state is None:
        return None
    if isinstance(random_state, np.random.Generator):
        return random_state.spawn(count)
    if not isinstance(random_state, np.random.SeedSequence):
        random_generator("random_state", random_state)
        random_state = np.random.SeedSequence(random_state)
    return np.random.SeedSequence(random_state.entropy, spawn_key=random_state.spawn_key).spawn(count)


def writable(name: str, array: Any, shape: Shape, dtype: DType) -> Array:
    """A plain array that results of this shape and type are written to."""
    if type(array) is not np.ndarray:
        raise TypeError(f"{name}: got {type(array).__name__}, must be an ndarray")
    wrong = [
        f"shape {array.shape}" if array.shape != shape else "",
        f"type {array.dtype}" if array.dtype != dtype else "",
        "" if array.flags.c_contiguous else "one that is not C-contiguous",
        "" if array.flags.writeable else "one that is read-only",
    ]
    if any(wrong):
        raise ValueError(
            f"{name}: got {' and '.join(filter(None, wrong))}, must be a writable, C-contiguous array {shape} of "
            f"{dtype}; np.empty({shape}, {dtype.name!r}) makes one"
        )
    return array


def output(
    name: str, out: Any, y_shape: Shape, state_shapes: tuple[Shape, Shape], dtype: DType, inputs: list[Any], state: Any
) -> tuple[Array, Pair]:
    """Check (y, (h, c)) that results are written to: plain arrays that share no memory, but h and c with `state`."""
    if not isinstance(out, tuple | list) or len(out) != 2 or not isinstance(out[1], tuple | list) or len(out[1]) != 2:
        raise TypeError(
            f"{name}: got {type(out).__name__}, must be a pair (y, (h, c)) of arrays, as a call without out returns"
        )
    y, (h, c) = out
    for part, array, shape in zip("yhc", (y, h, c), (y_shape, *state_shapes), strict=True):
        writable(f"{name} {part}", array, shape, dtype)
    others = [*inputs, *(a for a in state if isinstance(a, np.ndarray) and a is not h and a is not c)]
    pairs = [(y, h), (y, c), (h, c), *((a, b) for a in (y, h, c) for b in others)]
    swapped = len(state) == 2 and (state[0] is c or state[1] is h)
    if swapped or any(np.may_share_memory(a, b) for a, b in pairs) or any(y is a for a in state):
        raise ValueError(
            f"{name}: its arrays overlap each other or what is read; give arrays of their own, or the very state"
        )
    return y, (h, c)


def present(name: str, labels: Any, lengths: Ints | None = None) -> Any:
    """Labels none of which is missing: None, NaN or pandas.NA. With `lengths`, labels of the steps of sequences, one
    sequence after the other.
    """
    given, labels = labels, np.asarray(labels)
    if labels.dtype.kind == "U" and labels is not given:  # of NaN among strings NumPy has made the label "nan"
        labels = np.array(given, object)
    if labels.dtype.kind == "f":
        missing = np.isnan(labels)
    elif labels.dtype.kind == "O":
        missing = np.array([_is_missing(v) for v in labels.flat], bool).reshape(labels.shape)
    else:
        return given
    if missing.any():
        first = _first(missing)
        label, place = labels[first], f"in row {first[0]}"
        if lengths is not None:
            place = "in sequence {}, step {}".format(*step_of(first[0], lengths))
        raise ValueError(f"{name}: {np.count_nonzero(missing)} of {missing.size} labels are missing, the first "
                         f"{place} ({label}); leave those out, or give them a class of their own")  # fmt: skip
    return given


def _is_missing(value: Any) -> bool:
    return value is None or type(value).__name__ == "NAType" or (isinstance(value, float) and value != value)


def step_of(row: int, lengths: Ints) -> tuple[int, int]:
    """(sequence, step) of a row, where the rows of sequences stand one after the other."""
    ends = np.cumsum(lengths)
    n = int(np.searchsorted(ends, row, "right"))
    return n, int(row - ends[n] + lengths[n])
