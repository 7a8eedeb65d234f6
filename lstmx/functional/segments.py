"""Batches that are read in segments of time, so that a call needs the memory of one segment and not of all steps.

The sequences of a batch advance together: the segment [t0, t1) has the steps t0 to t1 - 1 of every sequence that is so
long, in the sorted order of the whole batch, and a sequence that has ended passes its state through. Packed rows of a
segment are a range of the packed rows of the whole, so that segments give the bits of the whole.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lstmx._core import allocate, job
from lstmx._core import rows as core_rows
from lstmx.functional import validate
from lstmx.functional.context import SequenceContext

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from lstmx._types import Array, DType, Ints
    from lstmx.functional.context import EpisodeContext


UNITS = {"": 1, "b": 1}
UNITS |= {f"{letter}b": 1000**k for k, letter in enumerate("kmgt", 1)}
UNITS |= {f"{letter}ib": 1024**k for k, letter in enumerate("kmgt", 1)}


PYTHON = 128 << 10  # bytes of small objects of a call


class Plan(NamedTuple):
    """How a call is cut into segments.

    Attributes
    ----------
    steps : int
        Of a segment.
    size : int
        Bytes that the call takes.
    """

    steps: int
    size: int


class Segment(SequenceContext):
    """The steps start to stop - 1 of a batch: the context of its packed rows.

    Attributes
    ----------
    start, stop : int
        In the batch's own steps: masked ones do not count.
    lengths : ndarray of int64 (N,)
        In the caller's order: how many of these steps each sequence has.
    order : ndarray of int64 (N,) or None
        That of the whole batch.
    places : (row, time), each (S,)
        As of the whole: the time counts from the beginning of the sequence.
    episodes : EpisodeContext or None
        Of the whole batch, where there are masked steps or resets.
    """

    def __init__(self, timeline: Timeline, start: int, stop: int) -> None:
        self.start, self.stop, self.episodes = start, stop, timeline.episodes
        self.batch, self.order, self.form = timeline.batch, timeline.order, "array"
        self.lengths, self.offsets = timeline.cut_lengths(start, stop)
        self.given, self.steps = self.lengths, len(self.offsets) - 1
        self.uniform = int(self.offsets[-1]) == self.batch * self.steps
        self.moves_states = self.order is not None
        self._found, self._twin = {"cohorts": timeline.cohorts}, None

    @property
    def places(self) -> tuple[Ints, Ints]:
        """As of every context."""
        if "places" not in self._found:
            if self.episodes is None:
                row, time = super().places
                self._found["places"] = row, time + self.start
            else:
                first = int(self.episodes.offsets[self.start])
                self._found["places"] = tuple(a[first : first + self.rows] for a in self.episodes.places)
        return self._found["places"]

    @property
    def owners(self) -> Ints:
        """As of every context."""
        return super().owners if self.episodes is None else self.episodes.owners


class Timeline:
    """A batch that is cut into segments.

    Parameters
    ----------
    lengths : ndarray of int64 (N,)
        The steps of each sequence, in the caller's order.
    episodes : EpisodeContext, optional
        That of the batch, where it has masked steps or resets.

    Attributes
    ----------
    batch, longest : int
        N, and the most steps that a sequence has.
    order : ndarray of int64 (N,) or None
        As of a context.
    """

    def __init__(self, lengths: Ints, episodes: EpisodeContext | None = None) -> None:
        self.episodes = episodes
        self.lengths = lengths if episodes is None else episodes.lengths
        self.batch, self.longest = len(self.lengths), int(self.lengths.max(initial=0))
        if episodes is not None:
            self.order = episodes.order
        else:  # as `by_length`, without a table of all steps
            falling = (self.lengths[1:] <= self.lengths[:-1]).all()
            self.order = None if falling else np.argsort(-self.lengths, kind="stable").astype(np.intp)
        self._shortest = int(self.lengths.min(initial=self.longest))
        # (steps, (lengths, offsets)): those of a segment of so many steps that all sequences have
        self._alike: tuple[Any, Any] = None, None

    @property
    def sorted(self) -> Ints:
        """The lengths (N,), longest first."""
        return self.lengths if self.order is None else self.lengths[self.order]

    @functools.cached_property
    def cohorts(self) -> Ints | None:
        """As of a context, of the whole batch."""
        return job.first_of_cohorts(self.batch, int(self.lengths.sum()), self.sorted)

    def rows_before(self, step: int) -> int:
        """Packed rows of the steps before this one."""
        return int(np.minimum(self.lengths, step).sum())

    def cut_lengths(self, start: int, stop: int) -> tuple[Ints, Ints]:
        """(lengths, offsets) of the steps start to stop - 1."""
        steps, found = self._alike
        if stop <= self._shortest and steps == stop - start:
            return found
        lengths = np.clip(self.lengths - start, 0, stop - start)
        found = lengths, core_rows.by_length(lengths if self.order is None else lengths[self.order])[1]
        if stop <= self._shortest:
            self._alike = stop - start, found
        return found

    def segment(self, start: int, stop: int) -> Segment:
        """The `Segment` of the steps start to stop - 1."""
        return Segment(self, start, min(stop, self.longest))

    def cut(self, steps: int) -> list[tuple[int, int]]:
        """(start, stop) of all segments of so many steps, the last perhaps shorter; one where there are no steps."""
        return [(t, min(t + steps, self.longest)) for t in range(0, max(self.longest, 1), steps)]


class Form:
    """Arrays in the form that the caller of a batch gave, written and read segment by segment.

    Parameters
    ----------
    context : SequenceContext
        Of the whole batch.
    """

    def __init__(self, context: SequenceContext) -> None:
        self.context = context
        ends = np.cumsum(context.given)
        self._starts = (ends - context.given).astype(np.intp)

    def zeros(self, width: int, dtype: DType) -> Array:
        """A joined array: (N, T, width), or of a list (S, width)."""
        given = self.context.given
        lead = (int(given.sum()),) if self.context.form == "list" else (len(given), self.context.steps)
        return allocate.zeros((*lead, width), dtype)

    def joined(self, array: Any) -> Array:
        """What the caller gave, validated, as such an array."""
        if self.context.form == "list":
            return np.concatenate(array)
        return array[None] if self.context.form == "single" else array

    def _at(self, segment: Segment) -> Any:
        row, time = segment.places
        return (self._starts[row] + time,) if self.context.form == "list" else (row, time)

    def write(self, segment: Segment, rows: Array, out: Array) -> None:
        """The packed rows of a segment to their places."""
        out[self._at(segment)] = rows

    def read(self, segment: Segment, joined: Array) -> Array:
        """The packed rows of a segment."""
        return np.ascontiguousarray(joined[self._at(segment)])

    def give(self, joined: Array) -> Any:
        """What the caller gets."""
        if self.context.form == "list":
            return np.split(joined, np.cumsum(self.context.given)[:-1]) if len(self.context.given) else []
        return joined[0] if self.context.form == "single" else joined


def pieces(timeline: Timeline, cut: Any) -> Any:
    """The packed rows of the whole that those of a segment are."""
    return slice(*map(timeline.rows_before, cut))


def plan(batch: int, longest: int, budget: int, whole: int, part: Callable[[int], int]) -> tuple[Plan | None, Plan]:
    """The longest segments with which a call keeps to a budget.

    Parameters
    ----------
    batch, longest : int
        N and the most steps.
    budget, whole : int
        Bytes: that there may be, and that it takes without segments.
    part : callable ``(steps) -> int``
        Those that it takes in segments of so many steps.

    Returns
    -------
    found : Plan or None
    least : Plan
        Where there is none, the smallest one that there is.
    """
    least = Plan(max(longest, 1), whole)
    if whole <= budget:
        return least, least
    joint, taken = block(batch), 0
    blocks = -(-longest // joint)
    for parts in (*range(2, 65), *(round(64 * 2 ** (k / 8)) for k in range(1, 300))):
        count = -(-blocks // parts)  # blocks of a segment
        if count == taken:
            continue
        taken, one = count, Plan(count * joint, part(count * joint))
        if one.size <= budget:
            return one, one
        least = min(least, one, key=lambda p: p.size)
        if count <= 1:
            break
    return None, least


def block(batch: int) -> int:
    """Steps at whose multiples the sums of gradients over time have their joints: segments that begin and end there
    give the bits of the whole, where the engine is the tile's.
    """
    return job.gradient_joint(batch)


def read_memory(name: str, value: Any) -> int:
    """Bytes from an integer, or from a string such as "1.5GB", "200 MB" or "64MiB"."""
    if isinstance(value, str):
        text = value.strip().lower()
        number = text.rstrip("abcdefghijklmnopqrstuvwxyz ")
        unit = text[len(number) :].strip()
        try:
            size = float(number) * UNITS[unit]
            if not 1 <= size < 2**63:
                raise ValueError
            return int(size)
        except (KeyError, ValueError):
            raise ValueError(f'{name}: got {value!r}, must be bytes or a string such as "200MB", "1.5 GB" or "64MiB"; '
                             "units are kB, MB, GB, TB of 1000 and KiB, MiB, GiB, TiB of 1024") from None  # fmt: skip
    try:
        return validate.count(name, value)
    except TypeError:
        raise TypeError(f'{name}: got {value!r}, must be an integer of bytes or a string such as "200MB"') from None
