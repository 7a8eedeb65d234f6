"""Batches that are read in segments of time, so that a call needs the memory of one segment and not of all steps.

The sequences of a batch advance together: the segment [t0, t1) has the steps t0 to t1 - 1 of every sequence that is so
long, in the sorted order of the whole batch, and a sequence that has ended passes its state through. Packed rows of a
segment are a range of the packed rows of the whole, so that segments give the bits of the whole.
"""

import numpy as np

from lstmx._core import job
from lstmx._core import rows as core_rows
from lstmx.functional import validate
from lstmx.functional.context import SequenceContext

UNITS = {"": 1, "b": 1}
UNITS |= {f"{letter}b": 1000**k for k, letter in enumerate("kmgt", 1)}
UNITS |= {f"{letter}ib": 1024**k for k, letter in enumerate("kmgt", 1)}


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

    def __init__(self, timeline, start, stop):
        self.start, self.stop, self.episodes = start, stop, timeline.episodes
        self.batch, self.order, self.form = timeline.batch, timeline.order, "array"
        self.lengths, self.offsets = timeline.cut_lengths(start, stop)
        self.given, self.steps = self.lengths, len(self.offsets) - 1
        self.uniform = int(self.offsets[-1]) == self.batch * self.steps
        self.moves_states = self.order is not None
        self._found, self._twin = {}, None

    @property
    def places(self):
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
    def owners(self):
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

    def __init__(self, lengths, episodes=None):
        self.episodes = episodes
        self.lengths = lengths if episodes is None else episodes.lengths
        self.batch, self.longest = len(self.lengths), int(self.lengths.max(initial=0))
        if episodes is not None:
            self.order = episodes.order
        else:  # as `by_length`, without a table of all steps
            falling = (self.lengths[1:] <= self.lengths[:-1]).all()
            self.order = None if falling else np.argsort(-self.lengths, kind="stable").astype(np.intp)
        self._shortest = int(self.lengths.min(initial=self.longest))
        self._alike = None, None  # (lengths, offsets) of a segment of so many steps that all sequences have

    @property
    def sorted(self):
        """The lengths (N,), longest first."""
        return self.lengths if self.order is None else self.lengths[self.order]

    def rows_before(self, step):
        """Packed rows of the steps before this one."""
        return int(np.minimum(self.lengths, step).sum())

    def cut_lengths(self, start, stop):
        """(lengths, offsets) of the steps start to stop - 1."""
        steps, found = self._alike
        if stop <= self._shortest and steps == stop - start:
            return found
        lengths = np.clip(self.lengths - start, 0, stop - start)
        found = lengths, core_rows.by_length(lengths if self.order is None else lengths[self.order])[1]
        if stop <= self._shortest:
            self._alike = stop - start, found
        return found

    def segment(self, start, stop):
        """The `Segment` of the steps start to stop - 1."""
        return Segment(self, start, min(stop, self.longest))

    def cut(self, steps):
        """(start, stop) of all segments of so many steps, the last perhaps shorter; one where there are no steps."""
        return [(t, min(t + steps, self.longest)) for t in range(0, max(self.longest, 1), steps)]


def block(batch):
    """Steps at whose multiples the sums of gradients over time have their joints: segments that begin and end there
    give the bits of the whole, where the engine is the tile's.
    """
    return job.gradient_block(batch, False)


def read_memory(name, value):
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
