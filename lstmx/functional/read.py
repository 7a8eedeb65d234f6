"""Reads x, states and gradients in every form that users give them, and gives them back in that form."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lstmx.functional import validate
from lstmx.functional.context import EpisodeContext, PooledContext, SequenceContext, Windows, gather
from lstmx.functional.segments import Segment, Timeline

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from lstmx._types import Array, Context, DType, Ints, Pair, PairLike


class Sequences:
    """N sequences, whole or ragged, of feature vectors or of integers: what was given, validated.

    Arrays are read where they are: a memory map or a strided view of windows is never copied or converted as a whole,
    nor are flags made for all its steps, but for those of a batch.

    Parameters
    ----------
    x : array (N, T, ...), (T, ...) of a single sequence, or all rows (S, ...) of a list
    lengths : ndarray of int64 (N,), optional
        By default T for each.
    dtype : numpy.dtype, optional
        Of packed rows; by default that of x.
    form : {"array", "list", "single"}
        As in `SequenceContext`.
    starts : ndarray of intp (N,), optional
        Of a list: the first row of each in x. Sequences may overlap, and x may have rows that belong to none.
    affine : (shift, factor), each ndarray (F,) of `dtype`, optional
        Packed rows are (x - shift) * factor.
    mask, reset : ndarray of bool, optional
        As x, without features: whether there is such a step; whether a sequence begins anew there.
    """

    def __init__(
        self,
        x: Any,
        lengths: Ints | None = None,
        dtype: DType | None = None,
        *,
        form: str = "array",
        starts: Ints | None = None,
        affine: Pair | None = None,
        mask: Array | None = None,
        reset: Array | None = None,
    ) -> None:
        if lengths is None:
            lengths = np.full(*((1, len(x)) if form == "single" else x.shape[:2]), np.int64)  # type: ignore[call-overload]
        self.starts: Any
        self.mask: Any
        self.reset: Any
        self.steps: Any
        self._alike: bool | None
        self._context: SequenceContext | None
        self._are_steps: Any
        self.x, self.lengths, self.form, self.starts, self.affine = x, lengths, form, starts, affine
        self.mask, self.reset = mask, reset
        self.dtype = x.dtype if dtype is None else dtype
        self.steps = x.shape[1] if form == "array" else len(x) if form == "single" else None  # T of padded results
        self._alike = self._context = self._are_steps = None

    @classmethod
    def joined(cls, arrays: list[Array], dtype: DType | None = None, tail: Any = (), **flags: Any) -> Sequences:
        """Those of a list of arrays (T_n, *tail), which are copied; `flags` are mask and reset, joined."""
        with np.errstate(over="ignore"):  # beyond float32: infinite, as where rows of an array are converted
            rows = np.concatenate(arrays or [np.empty((0, *tail))], dtype=dtype, casting="unsafe")
        lengths = np.array([len(a) for a in arrays], np.int64)
        return cls(rows, lengths, form="list", starts=np.cumsum(lengths) - lengths, **flags)

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def ragged(self) -> bool:
        """Whether they are a list."""
        return self.form == "list"

    def all(self, own: bool = False, windows: bool = False) -> tuple[Any, SequenceContext]:
        """(rows, context) of all sequences.

        Parameters
        ----------
        own : bool
            Whether rows must have memory of their own, for a tape to keep; else they may lie in x.
        windows : bool
            Whether the rows may be `Windows`.
        """
        if self._has_episodes:
            context = EpisodeContext(
                self.lengths, self.steps, self.form, self._joined(self._there()), self._joined(self.reset)
            )
            return self._scaled(context.pack(self.x, True, self.dtype, self.starts)), context
        context = SequenceContext(self.lengths, self.steps, self.form)
        if windows and self.form == "array" and self.affine is None and context.uniform:
            found = Windows.of(self.x[:, : len(context.offsets) - 1], self.dtype)
            if found is not None:
                return found, context
        if self.form == "list":
            return self.rows_of(np.arange(len(self)), context), context
        return self._scaled(context.pack(self.x, own or self.affine is not None, self.dtype)), context

    def masked(self, are_steps: Callable[[Array, DType], Array]) -> Sequences:
        """These, but for the steps that ``are_steps(x, dtype)`` says are none."""
        self._are_steps = are_steps
        if self.form != "array":
            self.mask, self._are_steps = self._there(), None
        return self

    @property
    def is_masked(self) -> bool:
        """Whether some of the steps may be none."""
        return self.mask is not None or self._are_steps is not None

    def _there(self) -> Any:
        """Which steps there are; None: all."""
        if self._are_steps is None:
            return self.mask
        found = self._are_steps(self.x, self.dtype)
        return found if self.mask is None else self.mask & found

    def _episodes(self, chosen: Ints) -> EpisodeContext:
        """The context of the batch of these sequences, where there are masked steps."""
        part = object.__new__(Sequences)
        part.__dict__.update(self.__dict__, lengths=self.lengths[chosen])
        if self.form == "list":
            part.starts = self.starts[chosen]
        else:
            part.mask, part.reset = (None if a is None else a[chosen] for a in (self.mask, self.reset))
            part.x = self.x if self._are_steps is None else self.x[chosen]
        flags = part._joined(part._there()), part._joined(part.reset)
        return EpisodeContext(part.lengths, part.steps, part.form, *flags)

    @property
    def _has_episodes(self) -> bool:
        return self.is_masked or self.reset is not None

    def _joined(self, flags: Any) -> Any:
        """A mask or resets, one sequence after the other."""
        if flags is None or self.form == "single":
            return flags
        if self.form == "list":
            ends = np.cumsum(self.lengths)
            return flags[np.arange(self.lengths.sum()) + np.repeat(self.starts + self.lengths - ends, self.lengths)]
        return flags[np.arange(self.steps) < self.lengths[:, None]]

    def array(self) -> Array | None:
        """All of them as (N, T, ...), of the type of packed rows and scaled as those; None for a list, or if
        not all steps of all are there.
        """
        if self.form != "array" or self._has_episodes or self.lengths.min(initial=self.steps) < self.steps:
            return None
        x = self.x
        if x.dtype != self.dtype or not x.dtype.isnative:
            with np.errstate(over="ignore"):
                x = x.astype(self.dtype)
        return x if self.affine is None else (x - self.affine[0]) * self.affine[1]

    def parts(self, size: int) -> Iterator[Sequences]:
        """These sequences, `size` at a time; a single one, whose first axis is time, whole."""
        if self.form == "single":
            yield self
            return
        for first in range(0, len(self), size):
            part = object.__new__(Sequences)
            part.__dict__.update(self.__dict__)
            part.lengths = self.lengths[first : first + size]
            if self.form == "list":
                part.starts = self.starts[first : first + size]
            else:
                for name in ("x", "mask", "reset"):
                    whole = getattr(self, name)
                    setattr(part, name, None if whole is None else whole[first : first + size])
            yield part

    def as_batch(self) -> Sequences:
        """These sequences; of a single one a batch of it, (1, T, ...)."""
        if self.form != "single":
            return self
        x, mask, reset = (None if a is None else a[None] for a in (self.x, self.mask, self.reset))
        return Sequences(x, None, self.dtype, affine=self.affine, mask=mask, reset=reset)

    def context(self, chosen: Ints) -> SequenceContext:
        """The context of the batch of these sequences; where all have one length, batches of one size share it."""
        if self._has_episodes:
            return self._episodes(chosen)
        if self._context is not None and self._context.batch == len(chosen):
            return self._context
        if self._alike is None:
            self._alike = len(self) > 0 and bool((self.lengths == self.lengths[0]).all())
        context = SequenceContext(self.lengths[chosen], self.steps, self.form)
        if self._alike:
            self._context = context
        return context

    def timeline(self, chosen: Ints) -> Timeline:
        """The batch of these sequences, to be cut into segments."""
        return Timeline(self.lengths[chosen], self._episodes(chosen) if self._has_episodes else None)

    def rows_of(self, chosen: Ints, context: SequenceContext) -> Array:
        """Packed rows of the batch of these sequences, or of a `Segment` of it."""
        if isinstance(context, Segment):
            return self._scaled(self._segment(chosen, context))
        if isinstance(context, EpisodeContext):
            x, starts = (self.x, self.starts[chosen]) if self.form == "list" else (self.x[chosen], None)
            return self._scaled(context.pack(x, True, self.dtype, starts))
        chosen = np.ascontiguousarray(context.sort(chosen), np.intp)
        if self.form == "list":
            return self._scaled(gather(self.x[None], context, start=self.starts[chosen], dtype=self.dtype))
        return self._scaled(gather(self.x, context, chosen, dtype=self.dtype))

    def _segment(self, chosen: Ints, context: Segment) -> Array:
        if context.episodes is not None:
            row, time = context.places
            at = self.starts[chosen][row] + time if self.form == "list" else (chosen[row], time)
            with np.errstate(over="ignore"):
                return np.ascontiguousarray(self.x[at], self.dtype)
        chosen = np.ascontiguousarray(context.sort(chosen), np.intp)
        if self.form == "list":
            return gather(self.x[None], context, start=self.starts[chosen] + context.start, dtype=self.dtype)
        return gather(self.x, context, chosen, np.full(len(chosen), context.start, np.intp), self.dtype)

    def _scaled(self, rows: Array) -> Array:
        if self.affine is not None:
            rows -= self.affine[0]
            rows *= self.affine[1]
        return rows


def sequences(
    x: Any,
    features: Any,
    dtype: DType,
    *,
    lengths: Any = None,
    mask: Any = None,
    reset: Any = None,
    single: bool = False,
    tokens: Callable[[str, Any], Array] | None = None,
    name: str = "x",
    lengths_name: str = "lengths",
) -> Sequences:
    """`Sequences` of x in any of its forms: the one reader, whose values need no other check or conversion.

    Parameters
    ----------
    x : array (N, T, features), or list of arrays (T_n, features)
        Of integers where there are `tokens`: (N, T), (T_n,).
    features : int
    dtype : numpy.dtype
        Of the packed rows.
    lengths : array of int (N,) or None
        Only with an (N, T, ...) array.
    mask, reset : array of bool (N, T), list of (T_n,) or (T,), as x; or None
        Whether there is such a step, in place of `lengths`; whether a sequence begins anew there.
    single : bool
        Whether x may also be one sequence, (T, features) or (T,), perhaps written out as nested lists.
    tokens : callable ``(name, value) -> array``, optional
        Reads integers; others than those that it takes are errors.
    name, lengths_name : str
        For errors.
    """
    if (
        type(x) is np.ndarray
        and x.dtype == dtype
        and x.ndim == 3
        and x.shape[2] == features
        and lengths is mask is reset is tokens is None
    ):
        return Sequences(x, None, dtype)  # nothing to convert, and in training steps of microseconds time counts
    read, tail, dtype = (tokens, (), np.dtype(np.int64)) if tokens else (validate.real_array, (features,), dtype)

    if mask is not None and lengths is not None:
        raise ValueError(
            f"mask: got {lengths_name} as well, but a mask alone tells which steps there are; leave out one"
        )
    flags = {flag: value for flag, value in (("mask", mask), ("reset", reset)) if value is not None}

    def fits(array: Array, lead: int) -> bool:
        return array.ndim == lead + len(tail) and array.shape[lead:] == tail

    if isinstance(x, list | tuple) and not (single and not tokens and _is_written_out(x)):
        if lengths is not None:
            raise ValueError(f"{lengths_name}: a list of sequences carries its own lengths; leave the argument out")
        arrays = [read(f"{name}[{n}]", a) for n, a in enumerate(x)]
        for n, a in enumerate(arrays):
            if not fits(a, 1):
                item = "(T_n,) integers" if tokens else f"(T_n, {features})"
                raise ValueError(
                    f"{name}[{n}]: got shape {a.shape}, must be {item}: a list holds one sequence per item"
                )
        return Sequences.joined(arrays, dtype, tail, **_read_flags(flags, "list", [(len(a),) for a in arrays], name))
    array = read(name, x)
    if fits(array, 2):
        if lengths is not None:
            lengths = validate.lengths(lengths, *array.shape[:2], lengths_name)  # type: ignore[call-arg]
        return Sequences(array, lengths, dtype, **_read_flags(flags, "array", array.shape[:2], name))
    if single and fits(array, 1):
        if lengths is not None:
            raise ValueError(
                f"{lengths_name}: {name} is one sequence of shape {array.shape}; cut it to its length instead"
            )
        return Sequences(array, None, dtype, form="single", **_read_flags(flags, "single", array.shape[:1], name))
    I = features
    forms = f"(N, T, {I}) or a list of arrays (T_n, {I})"
    if tokens:
        forms = "(N, T) integers or a list of arrays (T_n,) integers"
    elif single:
        forms = f"(N, T, {I}) for a batch, (T, {I}) for one sequence, or a list of (T_n, {I}) arrays"
    hint = "" if tokens else _hint(array, features, name, single)
    raise ValueError(f"{name}: got shape {array.shape}, must be {forms}{hint}")


def _read_flags(flags: dict[str, Any], form: str, shape: Any, x: str) -> dict[str, Any]:
    """A mask and resets by name, as `Sequences` takes them; `shape` of a list: that of each sequence."""
    found = {}
    for name, value in flags.items():
        if form != "list":
            meaning = "(N, T)" if form == "array" else "(T,)"
            found[name] = validate.flags(name, value, shape, f"one flag for each step of {x}, {meaning}")
            continue
        if not isinstance(value, list | tuple) or len(value) != len(shape):
            got = f"{len(value)} arrays" if isinstance(value, list | tuple) else type(value).__name__
            raise ValueError(
                f"{name}: got {got}, must be a list of {len(shape)} arrays of booleans (T_n,), as {x} is a list"
            )
        each = [
            validate.flags(f"{name}[{n}]", a, own, f"one flag for each step of {x}[{n}], (T_n,)")
            for n, (a, own) in enumerate(zip(value, shape, strict=True))
        ]
        found[name] = np.concatenate(each or [np.empty(0, bool)])
    return found


def _is_written_out(x: Any) -> bool:
    """Whether a list is an array written out, not a list of sequences."""
    many = list | tuple  # type: ignore[type-arg]
    return (
        len(x) > 0 and all(isinstance(a, many) for a in x) and not any(isinstance(b, many | np.ndarray) for b in x[0])
    )


def _hint(array: Array, features: Any, name: str, single: bool) -> str:
    """What to do about an array of another shape."""
    if array.ndim == 3 and array.shape[1] == features:
        return f"; features come last: write {name}.swapaxes(1, 2)"
    if single:
        return f"; for series of one feature write {name}[..., None]" if array.ndim < 3 and features == 1 else ""
    takes = f"; the model takes {features} feature{'s' * (features > 1)}"
    if array.ndim == 2:
        two = f"{len(array)} series of one feature, write {name}[:, :, None]", f"one sequence, write {name}[None]"
        if array.shape[1] == features:
            two = f"one sequence, write {name}[None]", f"{len(array)} sequences of one step, write {name}[:, None]"
        return f". Two readings are possible: {two[0]}; or {two[1]}{takes}"
    return f"; for one series write {name}[None, :, None]" if array.ndim == 1 and features == 1 else takes


def read_state(
    name: str,
    state: PairLike | None,
    start: Pair,
    context: Context,
    meaning: str | tuple[str, str],
    reversed: tuple[bool, ...],
    final: bool = False,
) -> Pair:
    """(h, c) for a pass over packed rows to change: a caller's state, in sorted order.

    Parameters
    ----------
    name : str
        For errors.
    state : (h, c), each (L*D, N, W), or None
        A caller with one sequence leaves N out.
    start : (h, c), each (L*D, N, W), of one direction also (N, W)
        What sequences begin with to which no state is given, changed and returned.
    context : SequenceContext
    meaning : str, or a pair of them, for h and for c
        The shape in words, for errors.
    reversed : tuple of bool (D,)
        For each direction, whether it reads from the end.
    final : bool
        Whether it is the gradient of the state after reading.
    """
    if state is None:
        return start
    if not isinstance(state, tuple | list) or len(state) != 2:
        raise TypeError(f"{name}: got {type(state).__name__}, must be a pair of arrays (h, c)")
    meanings = (meaning,) * 2 if isinstance(meaning, str) else meaning
    for part, value, out, words in zip("hc", state, start, meanings, strict=True):
        read_state_array(f"{name} {part}", value, out, context, words, reversed, final)
    return start


def read_state_array(
    name: str, value: Any, start: Array, context: Context, meaning: str, reversed: tuple[bool, ...], final: bool = False
) -> Array:
    """As `read_state`, for a state that is one array (L*D, N, W) and given."""
    single = context.form == "single"
    lead, width = start.shape[:-2], start.shape[-1]
    wanted = (*lead, width) if single else (*lead, len(context.given), width)
    array = validate.shaped(name, value, wanted, start.dtype, meaning.replace("N, ", "") if single else meaning)
    context.take_states(array[..., None, :] if single else array, start, reversed, final)
    return start


def give_state(pair: Pair, context: Context, reversed: tuple[bool, ...], final: bool = True) -> Pair:
    """What a caller gets of two arrays (L*D, N, W) in sorted order; arguments as of `read_state`."""
    h, c = pair
    return give_state_array(h, context, reversed, final), give_state_array(c, context, reversed, final)


def give_state_array(state: Array, context: Context, reversed: tuple[bool, ...], final: bool = True) -> Array:
    """As `give_state`, for a state that is one array."""
    if context.moves_states:
        state = context.give_states(state, reversed, final)
    return state[..., 0, :] if context.form == "single" else state


def read_gradient(dy: Any, context: Context, width: int, dtype: DType, name: str = "dy") -> Array | None:
    """Packed rows (S, width) of a gradient in the form of the output, the caller's to change; None stays None."""
    dy = check_gradient(dy, context, width, dtype, name)
    return None if dy is None else context.pack(dy, own=True)


def check_gradient(dy: Any, context: Context, width: int, dtype: DType, name: str = "dy") -> Any:
    """A gradient in the form of the output, an array or a list of arrays of that type; None stays None."""
    if dy is None:
        return None
    if isinstance(context, PooledContext):
        shape = (width,) if context.sequences.form == "single" else (context.batch, width)
    elif context.form == "list":
        shapes = [(n, width) for n in context.given.tolist()]
        if not isinstance(dy, list | tuple) or len(dy) != len(shapes):
            raise ValueError(f"{name}: must be a list of {len(shapes)} arrays (T_n, {width}), as the output was")
        arrays = [
            validate.shaped(f"{name}[{n}]", a, shape, dtype, f"the shape of y[{n}]")
            for n, (a, shape) in enumerate(zip(dy, shapes, strict=True))
        ]
        return arrays or [np.empty((0, width), dtype)]
    else:
        shape = (context.steps, width) if context.form == "single" else (len(context.given), context.steps, width)
    return validate.shaped(name, dy, shape, dtype, "the shape of y")
