"""Ragged batches without padding: the packed form that everything inside works on.

A batch is sorted by length, longest first. At step t the sequences still running are the first n_t, and their rows
stand together: rows offsets[t] to offsets[t + 1] of an (S, features) array, S = sum of lengths. Layers without time
(Dense, Dropout, Embedding) see rows; an LSTM sees one contiguous block a step; padding does not exist, so its
content cannot matter. Nor do masked steps exist; and where a sequence begins anew, another packed sequence begins.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np

from lstmx._core import allocate, job
from lstmx._core import rows as core_rows

if TYPE_CHECKING:
    from typing import Any

    from lstmx._types import Array, DType, Ints


ROWS = 256  # of one block of gradients


class SequenceContext:
    """The shape of a batch, passed along with packed rows from layer to layer.

    Attributes
    ----------
    batch, steps : int
        N, and the T that padded results get; by default that of the longest.
    lengths, given : ndarray of int64 (N,)
        In the caller's order: the steps that are packed, and those that the caller gave.
    order : ndarray of int64 (N,) or None
        order[k] is the caller's index of the k-th longest sequence; None if that is k.
    offsets : ndarray of intp (max(lengths) + 1,)
        First packed row of each step.
    form : {"array", "list", "single"}
        What the caller gave, and gets back: (N, T, F), a list of (T_n, F), or (T, F).
    reversed : tuple of bool
        Of the LSTM whose outputs the rows are: for each direction, whether it reads from the end. `FinalState` asks.
    mask : ndarray of bool (sum of `given`,) or None
        One sequence after the other: which of the given steps there are; None: all.
    start : int
        0, but for a segment of a batch.
    """

    reversed: tuple[bool, ...] = (False,)
    mask: Any = None
    start = 0  # the first step that is packed

    def __init__(self, lengths: Ints, steps: int | None = None, form: str = "array") -> None:
        self.lengths = self.given = lengths
        self.batch = len(lengths)
        self.form = form
        self.order, self.offsets = core_rows.by_length(np.ascontiguousarray(lengths, np.int64))
        self.steps = len(self.offsets) - 1 if steps is None else steps
        self.uniform = int(self.offsets[-1]) == self.batch * (len(self.offsets) - 1)
        self.moves_states = self.order is not None  # whether states lie elsewhere than the caller's
        self._found: dict[str, Any]
        self._twin: SequenceContext | None
        self._found, self._twin = {}, None  # what was asked for once, by name; the same after an LSTM

    @classmethod
    def step(cls, batch: int) -> SequenceContext:
        """One step of so many sequences."""
        return cls(np.ones(batch, np.int64), 1)

    def of(self, reversed: tuple[bool, ...]) -> SequenceContext:
        """The context of the outputs of an LSTM with these directions: the same batch."""
        if reversed == self.reversed:
            return self
        if self._twin is None or self._twin.reversed != reversed:
            twin = object.__new__(type(self))
            twin.__dict__.update(self.__dict__, reversed=reversed)
            self._twin = twin
        return self._twin

    @property
    def rows(self) -> int:
        """S, the number of packed rows."""
        return int(self.offsets[-1])

    @property
    def table(self) -> Ints | None:
        """`offsets` as compiled code takes them: None where every step has all sequences."""
        return None if self.uniform else self.offsets

    @property
    def widest(self) -> int:
        """The most rows of one step."""
        return int(self.offsets[1]) if len(self.offsets) > 1 else 0

    @property
    def places(self) -> tuple[Ints, Ints]:
        """(row, time), each (S,): the caller's sequence and the time step of every packed row."""
        if "places" not in self._found:
            row, time = self.sorted_places
            self._found["places"] = (row if self.order is None else self.order[row].astype(np.intp)), time
        return self._found["places"]

    @property
    def blocks(self) -> Ints:
        """(count + 1,): the packed rows at which blocks of gradients begin and end, see `gradient_blocks`."""
        if "blocks" not in self._found:
            self._found["blocks"] = gradient_blocks(self.offsets, self.batch)
        return self._found["blocks"]

    @property
    def cohorts(self) -> Ints | None:
        """(count + 1,): where each cohort begins in the sorted batch: sequences whose gradients an LSTM sums by
        themselves, so that a thread has them to itself. All have about as many steps. None: there is one alone.
        """
        if "cohorts" not in self._found:
            lengths = None if self.uniform else self.sort(self.lengths)
            self._found["cohorts"] = job.first_of_cohorts(self.batch, self.rows, lengths)
        return self._found["cohorts"]

    def by_cohort(self, cohorts: Ints) -> Ints:
        """(S,): where each packed row is in arrays whose rows lie cohort by cohort."""
        row, time = self.sorted_places
        which = np.searchsorted(cohorts, row, "right") - 1
        running = np.clip(np.diff(self.offsets)[:, None] - cohorts[:-1], 0, np.diff(cohorts)).T  # (cohort, step)
        before = (np.cumsum(running) - running.reshape(-1)).reshape(running.shape)
        return before[which, time] + row - cohorts[which]

    @property
    def owners(self) -> Ints:
        """(N,): the caller's sequence that each sequence in sorted order belongs to."""
        return np.arange(self.batch, dtype=np.intp) if self.order is None else self.order.astype(np.intp)

    @property
    def sorted_places(self) -> tuple[Ints, Ints]:
        """As `places`, with the sequence's index in sorted order."""
        running = np.diff(self.offsets)
        time = np.repeat(np.arange(len(running), dtype=np.intp), running)
        return np.arange(self.rows, dtype=np.intp) - self.offsets[time], time

    def after(self, before: Array, final: Array, reverse: bool) -> Array:
        """State after each step (S, H), from the state `before` each step (S, H) and the `final` one (N, H), sorted."""
        if self.uniform and self.rows:
            out = allocate.empty(before.shape, before.dtype)
            ends, others = (slice(self.batch), slice(self.batch, None)) if reverse else (
                slice(-self.batch, None), slice(-self.batch))  # fmt: skip
            out[ends], out[others] = final, before[: -self.batch] if reverse else before[self.batch :]
            return out
        row, time = self.sorted_places
        following = time - 1 if reverse else time + 1
        running = np.append(np.diff(self.offsets), 0)  # running[-1] is 0, before the first and after the last step
        goes_on = row < running[following]
        out = final[row]
        out[goes_on] = before[self.offsets[following[goes_on]] + row[goes_on]]
        return out

    @property
    def last_rows(self) -> tuple[Ints, Ints]:
        """(rows, sequences): the packed row of each non-empty sequence's last step, and its index in sorted order."""
        if "last rows" not in self._found:
            lengths = self.sort(self.lengths)
            sequences = np.flatnonzero(lengths)
            self._found["last rows"] = self.offsets[lengths[sequences] - 1] + sequences, sequences
        return self._found["last rows"]

    def backwards(self) -> tuple[SequenceContext, Ints]:
        """(context, order): each sequence's steps in reverse order, whose packed rows are rows[order] of these."""
        row, time = self.sorted_places
        return self.of((False,)), self.offsets[self.sort(self.lengths)[row] - 1 - time] + row

    def sort(self, per_sequence: Array) -> Array:
        """Rows of an (N, ...) array from the caller's order to ours."""
        return per_sequence if self.order is None else per_sequence[self.order]

    def take_states(self, states: Array, out: Array, reversed: tuple[bool, ...], final: bool) -> None:
        """Write states of the caller's sequences to those of ours, in sorted order.

        Parameters
        ----------
        states, out : ndarray (L*D, N, W); of one direction also (N, W)
        reversed : tuple of bool (D,)
            For each direction, whether it reads from the end.
        final : bool
            Whether they are states after reading, or their gradients; else before.
        """
        out[...] = states if self.order is None else states[..., self.order, :]

    def give_states(self, states: Array, reversed: tuple[bool, ...], final: bool) -> Array:
        """The way back, where `moves_states`: states in sorted order as the caller's."""
        out = np.empty_like(states)
        out[..., self.order, :] = states
        return out

    def pack(self, x: Any, own: bool = False, dtype: DType | None = None) -> Array:
        """Packed rows (S, ...) of sequences that have the form of this context.

        `own`: in memory of their own, else perhaps where x is. `dtype`: of the rows, by default that of x.
        """
        if self.form == "list":
            starts = np.cumsum(self.lengths) - self.lengths
            return gather(np.concatenate(x)[None], self, start=self.sort(starts), dtype=dtype)
        if self.form == "single":
            x = x[None]
        if self.batch != 1:
            every = np.arange(self.batch, dtype=np.intp) if self.order is None else self.order
            return gather(x, self, every, dtype=dtype)
        rows = self.check(x[0, : len(self.offsets) - 1])
        dtype, own = rows.dtype if dtype is None else dtype, own or not rows.flags.aligned
        if rows.dtype == dtype:
            return rows.astype(dtype, "C", copy=own)
        with np.errstate(over="ignore"):  # beyond float32: infinite, as in `gather`
            return rows.astype(dtype, "C")

    def check(self, rows: Any) -> Any:
        """`rows`, which must be as many as the packed rows: compiled code reads and writes by the offsets alone."""
        if len(rows) != self.offsets[-1]:
            raise ValueError(f"rows: got {len(rows)}, must be {self.rows}, the steps of all sequences of the batch")
        return rows

    def _scatter(self, rows: Array, sequence: Ints | None, start: Ints | None, out: Array) -> None:
        """Packed rows (S, ...) to their places in out (N, T, ...)."""
        if sequence is None and start is None:
            sequence = np.arange(self.batch, dtype=np.intp)
        if (
            rows.dtype.kind == "f"
            and rows.itemsize in (4, 8)
            and rows.ndim == 2
            and out.flags.c_contiguous
            and rows.size
        ):
            core_rows.scatter(np.ascontiguousarray(rows), sequence, start, self.offsets, out)
        else:
            row, time = self.sorted_places
            out[0 if sequence is None else sequence[row], time if start is None else start[row] + time] = rows

    def unpack(self, rows: Array) -> Any:
        """What the caller gets: (N, T, ...) with 0 past each end, a list, or (T, ...)."""
        self.check(rows)
        if self.form == "list":
            out = allocate.empty(rows.shape, rows.dtype)
            self._scatter(rows, None, self.sort(np.cumsum(self.lengths) - self.lengths), out[None])
            return self._cut(out)
        longest = len(self.offsets) - 1
        out = allocate.empty((self.batch, self.steps, *rows.shape[1:]), rows.dtype)
        if self.uniform and longest == self.steps:
            out[:] = rows.reshape(self.steps, self.batch, *rows.shape[1:]).swapaxes(0, 1)
        else:
            out.fill(0)
            self._scatter(rows, self.order, None, out)
        return out[0] if self.form == "single" else out

    def _cut(self, joined: Array) -> list[Array]:
        """The caller's list, from all of it in one array."""
        return [joined[a:b] for a, b in itertools.pairwise([0, *np.cumsum(self.given).tolist()])]


class EpisodeContext(SequenceContext):
    """A batch with masked steps, or whose sequences begin anew: what is packed are *episodes*.

    Masked steps are left out, and what is left of a sequence is cut where it begins anew. A sequence without any step
    has an empty episode, which keeps its state. `batch`, `lengths`, `order` and `offsets` are of episodes; `places` and
    results are at the caller's steps.

    Parameters
    ----------
    given : ndarray of int64 (N,)
        Lengths of the caller's sequences, masked steps included.
    steps, form : as in `SequenceContext`
    mask, reset : ndarray of bool (sum of the lengths,) or None
        One sequence after the other: whether there is such a step; whether an episode begins there, or else at the next
        step that there is.
    """

    def __init__(self, given: Ints, steps: int | None, form: str, mask: Array | None, reset: Array | None) -> None:
        start = np.cumsum(given) - given
        row = np.repeat(np.arange(len(given), dtype=np.intp), given)
        time = np.arange(len(row), dtype=np.intp) - start[row]
        resets = np.zeros(len(row) + 1, np.intp)  # before each step
        if reset is not None:
            np.cumsum(reset, out=resets[1:])
        before, count = resets[start], resets[1:]
        if mask is not None:
            row, time, count = row[mask], time[mask], count[mask]
        begins = np.ones(len(row), bool)
        begins[1:] = (row[1:] != row[:-1]) | (count[1:] != count[:-1])
        start = np.flatnonzero(begins)
        owner, lengths = row[start], np.diff(start, append=len(row))
        every = np.arange(len(given), dtype=np.intp)
        empty = np.setdiff1d(every, owner)
        at = np.searchsorted(owner, empty)
        owner, start, lengths = np.insert(owner, at, empty), np.insert(start, at, 0), np.insert(lengths, at, 0)
        super().__init__(lengths, steps, form)
        self.given, self.moves_states = given, True
        self.mask, self._resets = mask, reset is not None
        self._row, self._time, self._owner, self._start = row, time, owner, start
        first, last = np.searchsorted(owner, every), np.searchsorted(owner, every, "right") - 1
        anew = lengths[first] > 0  # whether the first episode begins with a reset: then no state comes before it
        anew[anew] = count[start[first[anew]]] > before[anew]
        place = np.argsort(self._sorted_episodes)
        self._first, self._last, self._continued = place[first], place[last], np.flatnonzero(~anew)

    @property
    def _sorted_episodes(self) -> Ints:
        return np.arange(self.batch, dtype=np.intp) if self.order is None else self.order

    @property
    def owners(self) -> Ints:
        """As of every context."""
        return self._owner[self._sorted_episodes]

    @property
    def places(self) -> tuple[Ints, Ints]:
        """As of every context."""
        if "places" not in self._found:
            episode, step = self.sorted_places
            at = self._start[self._sorted_episodes[episode]] + step
            self._found["places"] = self._row[at], self._time[at]
        return self._found["places"]

    def _check_whole(self, layer: str) -> None:
        if self._resets:
            raise ValueError(f"reset: {layer} takes sequences as a whole; give each episode as a sequence of its own")

    def _numbers(self, other: SequenceContext) -> Ints:
        """Which of the given steps, one sequence after the other, the packed rows of a context of the same are."""
        row, time = other.places
        return (np.cumsum(self.given) - self.given)[row] + time

    @property
    def _packed(self) -> Ints:
        """The packed row of every given step; anything for those that are masked."""
        found = np.empty(len(self.mask), np.intp)
        found[self._numbers(self)] = np.arange(self.rows, dtype=np.intp)
        return found

    def unmasked(self, repeat: bool) -> tuple[SequenceContext, Ints]:
        """(context, rows): of all given steps; for each of its packed rows that of ours which is the same step, or with
        `repeat` the last one before it; -1 where there is none.
        """
        self._check_whole("Unmask")
        whole = SequenceContext(self.given, self.steps, self.form)
        number, packed = self._numbers(whole), self._packed
        if not repeat:
            return whole, np.where(self.mask, packed, -1)[number]
        last = np.maximum.accumulate(np.where(self.mask, np.arange(len(packed)), -1))[number]
        return whole, np.where(last >= number - whole.places[1], packed[last], -1)

    def backwards(self) -> tuple[SequenceContext, Ints]:
        """As of every context: at the times of a reversed mask."""
        self._check_whole("Reversed")
        ends = np.repeat(np.cumsum(self.given), self.given)
        first = ends - np.repeat(self.given, self.given)
        turned = first + ends - 1 - np.arange(len(ends))  # the step that takes the place of each
        after = EpisodeContext(self.given, self.steps, self.form, self.mask[turned], None)
        return after, self._packed[turned[after._numbers(after)]]

    def _ends(self, reverse: bool, final: bool) -> tuple[Any, Any]:
        """(sequences in sorted order, the caller's sequences): which one reads first, or with `final` last."""
        if reverse:
            return (self._first if final else self._last), slice(None)
        return (self._last, slice(None)) if final else (self._first[self._continued], self._continued)

    def take_states(self, states: Array, out: Array, reversed: tuple[bool, ...], final: bool) -> None:
        """As of every context; the states of other episodes stay as they are."""
        for direction, reverse in enumerate(reversed):
            ours, callers = self._ends(reverse, final)
            out[direction :: len(reversed)][..., ours, :] = states[direction :: len(reversed)][..., callers, :]

    def give_states(self, states: Array, reversed: tuple[bool, ...], final: bool) -> Array:
        """As of every context; 0 where a sequence begins with a reset."""
        out = np.zeros((*states.shape[:-2], len(self.given), states.shape[-1]), states.dtype)
        for direction, reverse in enumerate(reversed):
            ours, callers = self._ends(reverse, final)
            out[direction :: len(reversed)][..., callers, :] = states[direction :: len(reversed)][..., ours, :]
        return out

    def _indices(self, starts: Ints | None = None) -> Any:
        """Where the packed rows are in an array of the caller's form, of a list in one that joins its sequences."""
        row, time = self.places
        if self.form == "list":
            return (np.cumsum(self.given) - self.given if starts is None else starts)[row] + time
        return time if self.form == "single" else (row, time)

    def pack(self, x: Any, own: bool = False, dtype: DType | None = None, starts: Ints | None = None) -> Array:
        """As of every context, always in memory of their own; `starts`: of a list that has been joined."""
        if self.form == "list" and starts is None:
            x = np.concatenate(x)
        with np.errstate(over="ignore"):
            return np.ascontiguousarray(x[self._indices(starts)], x.dtype if dtype is None else dtype)

    def unpack(self, rows: Array) -> Any:
        """As of every context, with 0 on masked steps too."""
        total = int(self.given.sum())
        lead = {"list": (total,), "single": (self.steps,), "array": (len(self.given), self.steps)}[self.form]
        out = allocate.zeros((*lead, *rows.shape[1:]), rows.dtype)
        out[self._indices()] = rows
        return self._cut(out) if self.form == "list" else out


def gradient_blocks(offsets: Ints, batch: int) -> Ints:
    """Where the sums of gradients over packed rows have their joints: after ceil(256 / N) steps, as those of an LSTM,
    and after 256 rows within a longer step. They are the same for a batch in segments of as many steps.
    """
    steps = job.gradient_block(batch)
    ends = np.append(offsets[:-1:steps], offsets[-1:])
    if batch > ROWS:
        ends = np.concatenate([np.arange(a, b, ROWS) for a, b in itertools.pairwise(ends.tolist())] + [ends[-1:]])
    return np.ascontiguousarray(ends, np.intp)


def gather(
    x: Array,
    context: SequenceContext,
    sequence: Ints | None = None,
    start: Ints | None = None,
    dtype: DType | None = None,
) -> Array:
    """Packed rows of the batch whose k-th longest sequence is x[sequence[k], start[k]:], by default 0 for all.

    Parameters
    ----------
    x : ndarray (N, T, ...), of any strides: the one copy is made here
    context : SequenceContext
    sequence, start : ndarray of intp (n,), optional
    dtype : numpy.dtype, optional
        Of the rows; by default that of x.
    """
    dtype = x.dtype if dtype is None else dtype
    if start is None and len(context.offsets) - 1 > x.shape[1]:
        raise ValueError(f"x: got {x.shape[1]} steps, the context has sequences of {len(context.offsets) - 1}")
    floats = x.dtype.kind == "f" and x.itemsize in (4, 8) and dtype.kind == "f"
    if x.ndim in (2, 3) and x.dtype.isnative and x.flags.aligned and (floats or (x.dtype == dtype and x.itemsize == 8)):
        rows = allocate.aligned((context.rows, *x.shape[2:]), dtype, reuse=True)
        view, out = (x, rows) if x.ndim == 3 else (x[:, :, None], rows[:, None])
        if not floats:  # the kernel copies any 8 bytes
            view, out = view.view(np.float64), out.view(np.float64)
        core_rows.gather(view, sequence, start, context.offsets, out)
        return rows
    row, time = context.sorted_places
    time = time if start is None else start[row] + time
    with np.errstate(over="ignore"):  # beyond float32: infinite, which training reports
        return np.ascontiguousarray(x[0 if sequence is None else sequence[row], time], dtype)


class PooledContext:
    """The shape of a batch after pooling: one row per sequence, in the order of the sequence context it came from."""

    def __init__(self, sequences: SequenceContext) -> None:
        self.sequences = sequences
        self.batch = self.rows = sequences.batch

    @property
    def blocks(self) -> Ints:
        """As for sequences, of one step."""
        return np.array([*range(0, max(self.batch, 1), ROWS), self.batch], np.intp)

    @property
    def places(self) -> tuple[Ints, Ints]:
        """(row, time), each (N,), as for sequences; the time is 0."""
        return self.sequences.owners, np.zeros(self.batch, np.intp)

    def pack(self, per_sequence: Array, own: bool = False) -> Array:
        """Rows in our order of an (N, ...) array in the caller's, or of (...) for one sequence; `own` as elsewhere."""
        x = per_sequence[None] if self.sequences.form == "single" else per_sequence
        return self.sequences.sort(x).astype(x.dtype, "C", copy=own)

    def unpack(self, rows: Array) -> Array:
        """(N, ...) in the caller's order, a copy; without N if the caller gave one sequence."""
        out = np.empty_like(rows)
        out[slice(None) if self.sequences.order is None else self.sequences.order] = rows
        return out[0] if self.sequences.form == "single" else out


class Windows:
    """Packed rows of overlapping windows, left where they lie: row n of step t is row t + n of a series.

    An LSTM of the tile engine sums W_ih x once for every row of the series, not once for every window that has it.

    Parameters
    ----------
    series : ndarray (N + T - 1, I), C-contiguous
    batch, steps : int
        N, T.
    """

    def __init__(self, series: Array, batch: int, steps: int) -> None:
        self.series = series
        self.dtype, self.itemsize = series.dtype, series.itemsize
        self.shape = batch * steps, series.shape[1]

    def __len__(self) -> int:
        return self.shape[0]

    @classmethod
    def of(cls, x: Array, dtype: DType) -> Windows | None:
        """The windows of which x (N, T, I) is a view, in `dtype`; None if it is something else."""
        if x.ndim != 3 or x.dtype.kind != "f" or not x.dtype.isnative or 0 in x.shape or not x.flags.aligned:
            return None
        row, size = x.shape[2] * x.itemsize, x.itemsize
        if x.strides[0] != row or x.strides[1] != row or (x.shape[2] > 1 and x.strides[2] != size):
            return None
        rows = x.shape[0] + x.shape[1] - 1
        series = np.lib.stride_tricks.as_strided(x, (rows, x.shape[2]), (row, size), writeable=False)
        with np.errstate(over="ignore"):
            return cls(np.ascontiguousarray(series, dtype), *x.shape[:2])
