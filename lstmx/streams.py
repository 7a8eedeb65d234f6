"""Many independent streams of one model, advanced together: `StreamPool`, and snapshots of its sessions."""

from __future__ import annotations

import collections
import itertools
import operator
from typing import TYPE_CHECKING, overload

import numpy as np

from lstmx.functional import validate
from lstmx.functional.context import SequenceContext
from lstmx.functional.engine import NAME as ENGINE
from lstmx.functional.engine import get_engine
from lstmx.functional.read import sequences
from lstmx.functional.states import leaves, nested, read_states, structure
from lstmx.functional.threads import Section
from lstmx.layers import LSTM, RNN, Run
from lstmx.layers.compiled import CompiledLayers
from lstmx.layers.snapshot import MOST, SLOTS, StreamSnapshot
from lstmx.model import Sequential

if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import ArrayLike

    from lstmx._types import Array, Ints, RandomState, State


_NEAR = {"float32": 1e-3, "float64": 1e-9}  # how far engines may be off that do not promise the same bits


class StreamPool:
    """Independent sessions of one model: each has a state, and any of them are advanced together in one call.

    A session's outputs have the bits of one call on its whole sequence, whatever is pushed with whom, in whatever
    chunks (with the tile engine, which is the default).

    Parameters
    ----------
    model : LSTM, RNN or Sequential
        Without a direction that reads from the end. Parameters that are set later are those of the pushes after.
    capacity : int
        Sessions that can be open at once: room for their states is made here.

    Notes
    -----
    After an error, or Ctrl-C, everything is as it was before the call (as after it, if Ctrl-C comes while it returns);
    but after Ctrl-C `out` may hold anything.
    A NaN in a session's frame stays in the session until `reset`, and reaches no other.

    Threads may share a pool: each call is atomic, and others wait for it. A call from inside another of the same
    thread, in a signal handler, is a RuntimeError. A forked child has a pool of its own, with the sessions of the
    moment; fork between pushes, as one that another thread is in may be half written there.

    A slot of the pool is used again and again, an id never: ``id % 2**32`` is the slot, the lowest free one, and
    ``id // 2**32`` counts how often it was used before. The first ids are 0, 1, 2, ... A pool that is restored from a
    snapshot knows of no id that was given after it: what clients hold of such must be thrown away.

    Examples
    --------
    >>> import numpy as np, lstmx
    >>> model = lstmx.Sequential([lstmx.LSTM(2, 8), lstmx.Dense(8, 1)], random_state=0)
    >>> pool = lstmx.StreamPool(model, capacity=1000)
    >>> ids, x = pool.open(3), np.random.default_rng(0).normal(size=(3, 50, 2))
    >>> y = pool.push(ids, x[:, 0])             # a frame each
    >>> y.shape
    (3, 1)
    >>> y = pool.push(ids[:2], x[:2, 1:50])     # 49 more of two of them
    >>> bool((y == model.predict(x)[:2, 1:]).all())
    True
    >>> pool.close(ids[0])
    >>> len(pool)
    2
    """

    def __init__(self, model: LSTM | RNN | Sequential, capacity: int) -> None:
        if not isinstance(model, LSTM | RNN | Sequential):
            held = " (what it holds is its .model)" if isinstance(getattr(model, "model", None), Sequential) else ""
            raise TypeError(f"model: got {type(model).__name__}, must be an LSTM, RNN or Sequential{held}")
        layers = self._layers = model.layers if isinstance(model, Sequential) else (model,)
        backward = next((layer for layer in layers if not layer.causal), None)
        if backward is not None:
            raise ValueError(f"model: its {type(backward).__name__} reads from the end, which a stream does not have; "
                             "lstm.chunked(x, chunk, lookahead) runs a bidirectional LSTM on chunks with some steps of "
                             "lookahead, or train a model of one direction")  # fmt: skip
        self._capacity = validate.count("capacity", capacity)
        if self._capacity > MOST:
            raise ValueError(f"capacity: got {self._capacity}, must be at most 2**31; use several pools")
        self._model, self._turns = model, Section()
        self._tokens = getattr(model, "embedding", None)
        self._features = () if self._tokens else (model.input_size,)
        self._masking = layers[0] if layers[0].masks else None
        self._per_step = getattr(model, "per_step", True)
        self._width = model.output_size if isinstance(model, Sequential) else model.output_size()
        start = self._start(self._capacity)
        self._arrays = leaves(start)  # each (.., capacity, W)
        if any(a.ndim < 2 or a.shape[-2] != self._capacity for a in self._arrays):
            raise ValueError("model: a layer's start_state gives an array whose second axis from the end is not N")
        self._form = structure(start)
        self._ids = np.full(self._capacity, -1, np.int64)  # of each slot; -1 where it is free
        self._given = np.zeros(self._capacity, np.int64)  # how many ids each slot has had
        self._place = np.empty(self._capacity, np.intp)  # scratch, to find what is given twice
        self._compiled: Any = None
        self._sessions: Any = None
        self._compile()

    # What there is.

    @property
    def model(self) -> LSTM | RNN | Sequential:
        """The model whose sessions these are."""
        return self._model

    @property
    def capacity(self) -> int:
        """Sessions that can be open at once."""
        return self._capacity

    @property
    def ids(self) -> Ints:
        """The open sessions, int64 (len(pool),), by slot."""
        ids = self._ids.copy()
        return ids[ids >= 0]

    def __len__(self) -> int:
        return int(np.count_nonzero(self._ids >= 0))

    def __contains__(self, value: Any) -> bool:
        try:
            number = -1 if isinstance(value, bool | np.bool_) else operator.index(value)
        except TypeError:
            return False
        slot = number % SLOTS
        return number >= 0 and slot < self._capacity and int(self._ids[slot]) == number

    def __repr__(self) -> str:
        return f"<StreamPool: {len(self)} of {self._capacity} sessions open, {self._model!r}>"

    # What users call: each takes its turn.

    @overload
    def open(self, n: None = None, state: State = None) -> int: ...

    @overload
    def open(self, n: int, state: State = None) -> Ints: ...

    def open(self, n: int | None = None, state: State = None) -> Any:
        """Open sessions.

        Parameters
        ----------
        n : int, optional
            How many; by default one.
        state : what the model's ``step`` returns for n sessions, or for one, optional
            Where they go on; `state` gives such too, and a snapshot's ``.state``. By default they begin.

        Returns
        -------
        int; with `n` ndarray of int64 (n,)
            Their ids.

        Raises
        ------
        ValueError
            If there is no room for them, or the state does not fit.
        """
        return self._turns.run(self._open, n, state)

    def push(self, ids: ArrayLike, frames: ArrayLike, *, out: Array | None = None) -> Array:
        """Advance sessions by one step, or by k.

        Parameters
        ----------
        ids : array of int (n,), or a single one
            Each at most once.
        frames : array (n, I), or (n, k, I) for k steps; for a single id (I,) or (k, I)
            Where an Embedding comes first integers (n,), (n, k); for a single id one or (k,).
        out : ndarray, optional
            To write the outputs to: writable, C-contiguous, of their shape and the model's type.

        Returns
        -------
        ndarray (n, O), or (n, k, O) for k steps; for a single id without n
            With a pooling layer (n, O) for k steps too: that of each stream so far. It is `out`, if given.

        Raises
        ------
        KeyError
            If a session is not open.
        ValueError, TypeError
            If an id is given twice, `frames` or `out` do not fit, or a frame is a masked step.
        """
        return self._turns.run(self._push, ids, frames, out)

    def reset(self, ids: ArrayLike) -> None:
        """Let sessions begin anew, under the same ids: array of int (n,), or a single one."""
        self._turns.run(self._reset, ids)

    def close(self, ids: ArrayLike) -> None:
        """Close sessions: array of int (n,), or a single one. Their ids are never given again."""
        self._turns.run(self._close, ids)

    def state(self, ids: ArrayLike) -> State:
        """What the model's ``step`` would have returned as the state of these sessions, in arrays of its own.

        Parameters
        ----------
        ids : array of int (n,), or a single one
        """
        return self._turns.run(self._state, ids)

    def snapshot(self, ids: ArrayLike | None = None) -> StreamSnapshot:
        """The states of sessions at this moment, to keep in a file or to go back to.

        Parameters
        ----------
        ids : array of int (n,), or a single one, optional
            By default all that are open.

        Returns
        -------
        StreamSnapshot

        Examples
        --------
        >>> import os, tempfile, numpy as np, lstmx
        >>> lstm = lstmx.LSTM(1, 4, random_state=0)
        >>> pool = lstmx.StreamPool(lstm, 10)
        >>> ids, frames = pool.open(2), np.ones((2, 1))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     pool.snapshot().save(os.path.join(folder, "sessions.safetensors"))
        ...     y = pool.push(ids, frames)
        ...     later = lstmx.StreamPool(lstm, 10)      # after a restart, say
        ...     later.restore(lstmx.load(os.path.join(folder, "sessions.safetensors")))
        >>> bool((later.push(ids, frames) == y).all())
        True
        """
        return self._turns.run(self._snapshot, ids)

    def restore(self, snapshot: StreamSnapshot) -> None:
        """Give the sessions of a snapshot their states of then, under their ids of then.

        Those that are open are set back, others are opened again; sessions that are not in it stay as they are.

        Parameters
        ----------
        snapshot : StreamSnapshot
            Of a pool of this model, or of one with the same sizes.

        Raises
        ------
        ValueError
            If it is of another model, or a slot is another session's now, or beyond the capacity.
        """
        self._turns.run(self._restore, snapshot)

    def check(self, X: ArrayLike, random_state: RandomState = 0) -> float:
        """Push sequences in random chunks and company, in a pool of their own, and compare with whole calls.

        Parameters
        ----------
        X : array (N, T, I) or list of arrays (T_n, I), as the model takes it
            Without masked steps.
        random_state : None, int, SeedSequence or Generator
            Draws who is pushed with whom, and how many steps at once.

        Returns
        -------
        float
            The largest difference: 0.0 with the tile engine.

        Raises
        ------
        AssertionError
            Naming the first sequence and step where the bits differ; with other engines, where more than rounding does.
        """
        return _check(self._model, X, validate.random_generator("random_state", random_state))

    # The same, in their turn.

    def _open(self, n: int | None, state: State) -> Any:
        count = 1 if n is None else validate.count("n", n, 0)
        slots = np.flatnonzero((self._ids < 0) & (self._given < MOST))[:count]
        if len(slots) < count:
            raise ValueError(f"n: got {count}, but {len(slots)} of {self._capacity} sessions are free; close some, or "
                             "make a larger pool: StreamPool(model, capacity)")  # fmt: skip
        given = self._given[slots]
        ids = given * SLOTS + slots
        states = self._states(slots, read_states("state", state, self._start(count)))
        _change([*states, (self._ids, slots, ids), (self._given, slots, given + 1)])
        return int(ids[0]) if n is None else ids

    def _push(self, ids: Any, frames: Any, out: Any) -> Array:
        if not self._compiled.are_current():
            self._compile()
        if self._sessions is not None:
            single = type(ids) is int and type(frames) is np.ndarray and (out is None or type(out) is np.ndarray)
            if single:
                found = self._sessions.push(np.array([ids]), frames[None], None if out is None else out[None])
            else:
                found = self._sessions.push(ids, frames, out)
            if found is not None:
                return out if out is not None else found[0] if single else found
        slots, single = self._find(ids)
        frames, one = self._read(frames, len(slots), single)
        shape = (*frames.shape[single : 1 if one or not self._per_step else 2], self._width)
        view = None
        if out is not None:
            validate.writable("out", out, shape, self._model.dtype)
            if np.may_share_memory(out, frames) or (isinstance(ids, np.ndarray) and np.may_share_memory(out, ids)):
                raise ValueError("out: overlaps with what is read; give an array of its own")
            view = out.reshape(len(slots), *frames.shape[1 : 1 + self._per_step], self._width)
        y = None
        if self._sessions is not None:  # frames and ids are plain arrays now
            y = self._sessions.push(self._ids[slots], np.ascontiguousarray(frames), view)
        if y is None:
            y = self._advance(slots, frames, view)
        return y.reshape(shape) if out is None else out

    def _compile(self) -> None:
        """Take the parameters of the moment, for `_sessions`: a push as a compiled call, for plain arrays that fit. It
        is None where a layer cannot be part of one.
        """
        compiled, sessions = CompiledLayers(self._layers), None
        if compiled.program is not None:
            sessions = get_engine().sessions(compiled.program, self._ids, self._arrays)
        self._compiled, self._sessions = compiled, sessions  # both or, after an error, none

    def _advance(self, slots: Ints, frames: Array, out: Array | None) -> Array:
        """Advance the sessions of these slots by the steps of `frames` (n, k, ..): all of it or nothing.

        Returns the outputs (n, k, O), with a pooling (n, O); they are written to `out`, if given.
        """
        steps = SequenceContext(np.full(len(slots), frames.shape[1], np.int64), frames.shape[1])
        before = nested(self._form, self._gathered(slots))
        rows, context, after, _ = self._model.forward_rows(steps.pack(frames), steps, before, Run())
        if structure(after) != self._form:
            raise TypeError("model: a layer's forward_rows gives another state than its start_state, which says what "
                            f"it begins with: {structure(after)} and {self._form}")  # fmt: skip
        y = context.unpack(rows)
        _change([*self._states(slots, leaves(after)), *([] if out is None else [(out, ..., y)])])
        return y

    def _reset(self, ids: Any) -> None:
        slots, _ = self._find(ids)
        _change(self._states(slots, leaves(self._start(len(slots)))))

    def _close(self, ids: Any) -> None:
        slots, _ = self._find(ids)
        _change([(self._ids, slots, -1)])

    def _state(self, ids: Any) -> State:
        slots, single = self._find(ids)
        arrays = self._gathered(slots)
        if single and not isinstance(self._model, Sequential):  # whose step gives N of one frame too
            arrays = [a[..., 0, :] for a in arrays]
        return nested(self._form, arrays)

    def _snapshot(self, ids: Any) -> StreamSnapshot:
        slots = np.flatnonzero(self._ids >= 0) if ids is None else self._find(ids)[0]
        used = self._given[: np.flatnonzero(self._given).max(initial=-1) + 1]
        return StreamSnapshot(self._ids[slots], nested(self._form, self._gathered(slots)), used)

    def _restore(self, snapshot: object) -> None:
        if not isinstance(snapshot, StreamSnapshot):
            raise TypeError(f"snapshot: got {type(snapshot).__name__}, must be what StreamPool.snapshot returns")
        if structure(snapshot.state) != self._form:
            raise ValueError("snapshot: of another model, or of one of other sizes: its states are "
                             f"{structure(snapshot.state)}, those of this one {self._form}")  # fmt: skip
        ids, remedy = snapshot.ids, "open(n, state=snapshot.state) gives its sessions new ids"
        slots = ids % SLOTS
        if (slots >= self._capacity).any():
            raise ValueError(f"snapshot: has a session in slot {slots.max()}, and the pool room for {self._capacity}; "
                             f"make it larger, or: {remedy}")  # fmt: skip
        taken = (self._ids[slots] >= 0) & (self._ids[slots] != ids)
        if taken.any():
            theirs, ours = ids[taken][0], self._ids[slots[taken]][0]
            raise ValueError(f"snapshot: the slot of its session {theirs} is that of session {ours} now; close that, "
                             f"or: {remedy}")  # fmt: skip
        given = snapshot.given[: self._capacity]
        known = slice(len(given))
        _change([*self._states(slots, leaves(snapshot.state)), (self._ids, slots, ids),
                 (self._given, known, np.maximum(self._given[known], given))])  # fmt: skip

    # What they share.

    def _start(self, count: int) -> State:
        """The state of so many sessions that begin."""
        return self._model.start_state(count, self._model.input_size, dtype=self._model.dtype)

    def _gathered(self, slots: Ints) -> list[Array]:
        """Copies (.., n, W) of the states of these slots."""
        return [array[..., slots, :] for array in self._arrays]

    def _states(self, slots: Ints, arrays: list[Array]) -> list[Any]:
        """The changes, as `_change` takes them, that give these slots states (.., n, W)."""
        at = ..., slots, slice(None)
        return [(array, at, value) for array, value in zip(self._arrays, arrays, strict=True)]

    def _find(self, ids: Any) -> tuple[Ints, bool]:
        """(slots (n,) of open sessions, whether it is a single one), or an error."""
        array = validate.rectangular("ids", ids)
        if array.dtype.kind not in "iu" and (array.size or array.dtype.kind != "f"):
            raise TypeError(f"ids: got dtype {array.dtype}, must be integers, as open returned them")
        if array.ndim > 1:
            raise ValueError(f"ids: got shape {array.shape}, must be (n,), or a single one")
        single, array = array.ndim == 0, array.reshape(-1).astype(np.int64, copy=False)
        slots = array % SLOTS
        wrong = slots >= self._capacity
        slots[wrong] = 0
        wrong |= self._ids[slots] != array
        if wrong.any():
            first = int(wrong.argmax())
            value, slot = int(array[first]), int(array[first] % SLOTS)
            closed = slot < self._capacity and 0 <= value // SLOTS < self._given[slot]
            what = "was closed" if closed else "is no id of this pool"
            raise KeyError(f"ids: {value} {what}; open() gives new ones, and .ids has those that are open")
        every = np.arange(len(slots))
        self._place[slots] = every
        twice = self._place[slots] != every
        if twice.any():
            raise ValueError(f"ids: {array[twice.argmax()]} is given twice; give it once: several of its frames are "
                             "pushed one after the other, or as (n, k, ..)")  # fmt: skip
        return slots, single

    def _read(self, frames: Any, n: int, single: bool) -> tuple[Array, bool]:
        """(frames (n, k, ..), whether it was one step without the axis of steps), validated."""
        dtype = self._model.dtype
        if self._tokens is not None:
            array = self._tokens.check_tokens("frames", frames).astype(np.int64, copy=False)
        elif type(frames) is np.ndarray and frames.dtype == dtype and frames.flags.aligned:
            array = frames
        else:
            with np.errstate(over="ignore"):  # beyond float32: infinite
                array = validate.real_array("frames", frames, dtype)
        if single:
            array = array[None]
        tail = self._features
        one = array.ndim == 1 + len(tail)
        steps = array.shape[1 : array.ndim - len(tail)]
        if array.ndim not in (1 + len(tail), 2 + len(tail)) or array.shape != (n, *steps, *tail):
            lead = () if single else (n,)
            many = ", ".join(map(str, (*lead, "k", *tail))) + "," * (not lead and not tail)
            raise ValueError(f"frames: got shape {array.shape[single:]}, must be {(*lead, *tail)}"
                             f"{' of integers' * (not tail)}, or ({many}) for k steps")  # fmt: skip
        if one:
            array = array[:, None]
        if self._masking is not None and not (there := self._masking.are_steps(array, dtype)).all():
            raise ValueError(f"frames: {np.count_nonzero(~there)} of {there.size} are masked steps, the first that of "
                             f"ids[{np.argwhere(~there)[0][0]}]; push only steps that there are")  # fmt: skip
        return array, one

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuilt, (type(self), self._model, self._capacity, self.snapshot())


def _rebuilt(cls: type[StreamPool], model: Any, capacity: int, snapshot: StreamSnapshot) -> StreamPool:
    pool = cls(model, capacity)
    pool.restore(snapshot)
    return pool


def _change(changes: list[Any]) -> None:
    """Write to arrays, (array, place, value) each: all of it, or with an error nothing, whatever signal arrives."""
    before = [(array, place, np.array(array[place])) for array, place, _ in changes]
    try:
        _write(changes)
    except BaseException:
        _write(before)
        raise


def _write(changes: list[Any]) -> None:
    # Of operations of C alone, so that Python handles no signal in between.
    collections.deque(itertools.starmap(operator.setitem, changes), maxlen=0)


def _check(model: Any, X: Any, rng: Any) -> float:
    """`StreamPool.check`."""
    sequential = isinstance(model, Sequential)
    read = model.read(X) if sequential else sequences(X, model.input_size, model.dtype, single=True)
    each = [_sequence(read, n) for n in range(len(read))]

    def whole(many: Any) -> Any:
        return model.predict(many) if sequential else model(many)[0]

    per_step = getattr(model, "per_step", True)
    wanted = whole(each) if per_step else None
    pool = StreamPool(model, max(len(each), 1))
    ids, done, largest = pool.open(len(each)), np.zeros(len(each), np.int64), 0.0
    total = np.array([len(x) for x in each], np.int64)
    while (left := np.flatnonzero(done < total)).size:
        chosen = rng.permutation(left)[: rng.integers(1, len(left) + 1)]
        steps = int(
            min(rng.choice([0, 1, 1, 2, 3, rng.integers(1, 2 + total.max() // 4)]), (total - done)[chosen].min())
        )
        chunks = np.stack([each[n][done[n] : done[n] + steps] for n in chosen])
        found = pool.push(ids[chosen], chunks)
        done[chosen] += steps
        if not per_step:
            wanted = dict(zip(chosen.tolist(), whole([each[n][: done[n]] for n in chosen]), strict=True))
        for y, n in zip(found, chosen.tolist(), strict=True):
            first = done[n] - steps if per_step else done[n] - 1
            own = wanted[n][first : done[n]] if per_step else wanted[n]  # type: ignore[index]
            largest = max(largest, _compared(y, own, n, int(first)))
    return largest


def _sequence(read: Any, n: int) -> Array:
    """The n-th of some `Sequences`, (T_n, ..)."""
    if read.form == "single":
        return read.x
    return read.x[n] if read.form == "array" else read.x[read.starts[n] :][: read.lengths[n]]


def _compared(found: Array, wanted: Array, n: int, first: int) -> float:
    """The largest difference of outputs, (O,) or (k, O) from step `first` on, or an error."""
    with np.errstate(invalid="ignore"):
        same = (found == wanted) | (np.isnan(found) & np.isnan(wanted))
        apart = np.where(same, 0, np.abs(found - wanted))
    limit = 0 if ENGINE == "tile" else _NEAR[found.dtype.name] * np.maximum(1, np.abs(wanted))
    wrong = ~same & ~(apart <= limit)
    if wrong.any():
        place = np.argwhere(wrong)[0]
        step = first + (int(place[0]) if found.ndim == 2 else 0)
        raise AssertionError(f"check: sequence {n} differs at step {step}: pushed {found[tuple(place)]!r}, as a whole "
                             f"{wanted[tuple(place)]!r}")  # fmt: skip
    return float(apart.max(initial=0))
