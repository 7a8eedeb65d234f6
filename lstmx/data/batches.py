"""Batches: the order of a pass, what a batch holds, and what a model gives for successive batches."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lstmx.functional import allocate

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from lstmx._types import Array, Ints
    from lstmx.functional.context import SequenceContext
    from lstmx.functional.segments import Segment, Timeline


def collect(parts: Iterable[Any], count: int) -> Any:
    """One array (count, ...), or one list, of what a model gives for successive parts of `count` sequences."""
    found: Any = None
    first = 0
    for part in parts:
        if isinstance(part, list):
            found = [] if found is None else found
            found += part
            continue
        if found is None:
            found = allocate.empty((count, *part.shape[1:]), part.dtype)
        found[first : first + len(part)] = part
        first += len(part)
    return found


def plan(lengths: Ints, batch_size: int, shuffle: Any, rng: np.random.Generator) -> list[Ints]:
    """The batches of one pass, each an array of indices.

    Ragged sequences are shuffled, sorted by length within groups of 50 batches, cut into batches, and those shuffled
    again: a batch then holds sequences of similar length, and another mixture at every pass. ``shuffle="exact"``
    shuffles and cuts; False keeps the order.
    """
    count = len(lengths)
    order = rng.permutation(count) if shuffle else np.arange(count)
    similar = shuffle and shuffle != "exact" and count and lengths.min() != lengths.max()
    if similar:
        group = 50 * batch_size
        order = np.concatenate(
            [part[np.argsort(lengths[part], kind="stable")] for part in np.split(order, range(group, count, group))]
        )
    batches = [order[first : first + batch_size] for first in range(0, count, batch_size)]
    return [batches[k] for k in rng.permutation(len(batches))] if similar else batches


def split(count: int, fraction: float, where: str, rng: np.random.Generator) -> tuple[Ints, Ints]:
    """(training, validation) indices: a random share, or the tail."""
    held = round(count * fraction)
    if not 0 < held < count:
        raise ValueError(
            f"validation_split: {fraction} of {count} sequences leaves {held} for validation; both parts need one"
        )
    order = rng.permutation(count) if where == "random" else np.arange(count)
    return np.sort(order[: count - held]), np.sort(order[count - held :])


@dataclass
class Data:
    """Inputs, targets and weights that give batches."""

    inputs: Any
    targets: Any
    weights: Any

    exhausted = False  # an epoch has all its batches
    origin = ""  # what errors say of where it comes from

    @property
    def count(self) -> int:
        """Sequences of an epoch."""
        return len(self.inputs.lengths)

    def batches(self, batch_size: int, shuffle: Any, rng: np.random.Generator) -> Iterator[tuple[Data, Ints]]:
        """(data, indices) of every batch of an epoch: ``data.batch(indices)`` gives it."""
        return ((self, chosen) for chosen in plan(self.inputs.lengths, batch_size, shuffle, rng))

    def terms(self) -> str:
        """What of them must be the same on all ranks that train together, as text: how many there are, their lengths,
        and how three of them begin, with targets and weights.
        """
        lengths, count = np.ascontiguousarray(self.inputs.lengths, np.int64), self.count
        some, check = np.unique([0, count // 2, count - 1]), 0
        begin = self.timeline(some).segment(0, 64)
        rows, least, most = self.read(some, begin), lengths.min(), lengths.max()
        for array in (lengths, rows, *self.judge(some, begin)):
            check = zlib.crc32(array.tobytes(), check)
        steps = f"{least} steps" if least == most else f"{least} to {most} steps"
        features = f", {rows.shape[1]} features" if rows.ndim == 2 else ""
        return f"{count} sequences of {steps}{features} (check sum {check:08x})"

    def close(self, early: bool) -> None:
        """Training has ended: there is nothing to close."""

    def original(self, chosen: Ints) -> Ints:
        """The caller's indices of these sequences."""
        return chosen

    def batch(self, chosen: Ints) -> tuple[Array, SequenceContext, Array, Array]:
        """(rows, context, target rows, weight rows) of a batch."""
        context = self.inputs.context(chosen)
        rows = self.inputs.rows_of(chosen, context)
        target = self.targets.rows_of(chosen, context)
        return rows, context, target, self.weights.rows_of(chosen, context, target, self.targets.per_step)

    def timeline(self, chosen: Ints) -> Timeline:
        """The batch of these sequences, to be cut into segments."""
        return self.inputs.timeline(chosen)

    def read(self, chosen: Ints, segment: Segment) -> Array:
        """The packed rows of X of a segment of a batch."""
        return self.inputs.rows_of(chosen, segment)

    def judge(self, chosen: Ints, segment: Segment) -> tuple[Array, Array]:
        """(target rows, weight rows) beside what a model gives for a segment of a batch."""
        target = self.targets.rows_of(chosen, segment)
        return target, self.weights.rows_of(chosen, segment, target, self.targets.per_step)


class Subset(Data):
    """Some of the sequences of `Data`."""

    def __init__(self, data: Data, chosen: Ints) -> None:
        super().__init__(self, data.targets, data.weights)  # of the inputs only the lengths are asked for
        self.data, self.chosen = data, chosen
        self.lengths = data.inputs.lengths[chosen]

    def original(self, chosen: Ints) -> Ints:
        """The caller's indices of these sequences."""
        return self.chosen[chosen]

    def batch(self, chosen: Ints) -> tuple[Array, SequenceContext, Array, Array]:
        """As `Data.batch`, by the index within the subset."""
        return self.data.batch(self.chosen[chosen])

    def timeline(self, chosen: Ints) -> Timeline:
        """As `Data.timeline`."""
        return self.data.timeline(self.chosen[chosen])

    def read(self, chosen: Ints, segment: Segment) -> Array:
        """As `Data.read`."""
        return self.data.read(self.chosen[chosen], segment)

    def judge(self, chosen: Ints, segment: Segment) -> tuple[Array, Array]:
        """As `Data.judge`."""
        return self.data.judge(self.chosen[chosen], segment)
