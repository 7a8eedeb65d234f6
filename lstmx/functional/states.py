"""States of layers and models, None, arrays and tuples of such, as a list of arrays and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lstmx.functional import validate

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from lstmx._types import Array, State


def leaves(state: State) -> list[Array]:
    """The arrays of a state, in their order."""
    if state is None:
        return []
    if isinstance(state, tuple | list):
        return [array for part in state for array in leaves(part)]
    return [state]


def nested(form: Any, arrays: Iterable[Array]) -> State:
    """A state of these arrays, as `leaves` gives them, in the form of the state `form`."""
    left = iter(arrays)

    def build(part: Any) -> State:
        if isinstance(part, tuple | list):
            return tuple(build(own) for own in part)
        return None if part is None else next(left)

    return build(form)


def structure(state: State) -> Any:
    """The form of a state as a JSON value: null, a list, or of an array its type, and its shape without N."""
    if isinstance(state, tuple | list):
        return [structure(part) for part in state]
    if state is None:
        return None
    *lead, _, width = state.shape
    return {"dtype": state.dtype.name, "shape": [*lead, width]}


def read_states(name: str, given: Any, start: State) -> list[Array]:
    """The arrays of a caller's state for N sequences, or of one for all of them.

    Parameters
    ----------
    name : str
        For errors.
    given : as `start`, or None
        Arrays of one sequence may lack N. A part that is None is as in `start`.
    start : None, array (.., N, W) or tuple of such
        What sequences begin with.

    Returns
    -------
    list of ndarray (.., N, W)
    """
    if given is None:
        return leaves(start)
    if start is None:
        raise TypeError(f"{name}: got {type(given).__name__}, must be None: nothing is remembered there")
    if isinstance(start, tuple):
        if not isinstance(given, tuple | list) or len(given) != len(start):
            got = f"{len(given)} parts" if isinstance(given, tuple | list) else type(given).__name__
            raise TypeError(f"{name}: got {got}, must be a tuple of {len(start)}, as step gives it")
        parts = enumerate(zip(given, start, strict=True))
        return [array for k, (part, own) in parts for array in read_states(f"{name}[{k}]", part, own)]
    with np.errstate(over="ignore"):  # beyond float32: infinite
        array = validate.real_array(name, given, start.dtype)
    *lead, count, width = start.shape
    if array.shape not in (start.shape, (*lead, 1, width), (*lead, width)):
        one = "" if count == 1 else f", or of one {(*lead, width)} for all"
        raise ValueError(f"{name}: got shape {array.shape}, must be that of {count}, {start.shape}{one}")
    return [np.broadcast_to(array if array.ndim == start.ndim else array[..., None, :], start.shape)]


def fill(name: str, out: Any, results: Any, x: Any, state: Any) -> Any:
    """Copy results (y, states) to `out`, arrays in tuples of the same structure, which share no memory but with the
    arrays of `state` that they take the place of.
    """
    pairs = list(_pairs(name, out, results))
    for label, array, result in pairs:
        validate.writable(label, array, result.shape, result.dtype)
    targets = [array for _, array, _ in pairs]
    before = leaves(state)
    for k, (label, a, _) in enumerate(pairs):
        others = [x, *targets[:k], *(b for m, b in enumerate(before) if not (b is a and m == k - 1))]
        if any(isinstance(b, np.ndarray) and np.may_share_memory(a, b) for b in others):
            raise ValueError(
                f"{label}: overlaps others of {name}, or what is read; give arrays of their own, or the very state"
            )
    for _, array, result in pairs:
        array[...] = result
    return out


def _pairs(label: str, out: Any, results: Any) -> Iterator[tuple[str, Any, Array]]:
    """(label, array of `out`, result) of all results."""
    if isinstance(results, np.ndarray):
        yield label, out, results
    elif results is not None:
        if not isinstance(out, tuple | list) or len(out) != len(results):
            raise TypeError(
                f"{label}: got {type(out).__name__}, must be a tuple of {len(results)}, as a call without out returns"
            )
        for k, (part, result) in enumerate(zip(out, results, strict=True)):
            yield from _pairs(f"{label}[{k}]", part, result)
