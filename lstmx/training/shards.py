"""Batches cut into a fixed number of shards, so that the bits of training do not depend on who computes which of them.

A shard is a run of the sequences of a batch. It has dropout keys of its own, and its gradient is that of the weighted
sum of its losses: it depends on the shard alone. Gradients of shards are added in one binary tree, whose node [lo, hi)
is [lo, mid) + [mid, hi), and then divided by the weights of the batch. Ranks (`lstmx.training.ranks`) own neighbouring
shards, and so whole subtrees.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np

from lstmx.data.source import Source
from lstmx.layers.simple import RowGradient
from lstmx.training.updates import Part, Update, Whole

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from lstmx._types import Array, Ints
    from lstmx.training.ranks import Alone
    from lstmx.training.trainer import Trainer

# What ranks tell each other of a shard: loss, weights, zeros, sequences and more of its `Update`, and how many rows of
# embeddings there are in the subtree that begins with it.
NUMBERS = 6
ROWS = 5


def bounds(count: int, parts: int) -> list[int]:
    """Where `parts` parts of `count` things begin, and where the last ends; of few things the first part has one.

    Examples
    --------
    >>> bounds(8, 3), bounds(2, 4)
    ([0, 3, 6, 8], [0, 1, 1, 2, 2])
    """
    return [-(-count * k // parts) for k in range(parts + 1)]


def own_shards(ranks: Alone) -> range:
    """Those that a rank computes."""
    cut = bounds(ranks.shards, ranks.size)
    return range(cut[ranks.rank], cut[ranks.rank + 1])


def keys_of_shards(keys: Array, count: int) -> Array:
    """(count, layers): the dropout keys of each shard, from those of the batch by the hash of SplitMix64 (Steele 2014).

    So that a generator gives the same batches whatever the number of shards.
    """
    z = keys + np.arange(1, count + 1, dtype=np.uint64)[:, None] * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def subtrees(low: int, high: int, count: int) -> list[tuple[int, int]]:
    """The largest nodes of the tree over `count` shards that lie in [low, high), from left to right.

    Examples
    --------
    >>> subtrees(0, 8, 8), subtrees(3, 6, 8)
    ([(0, 8)], [(3, 4), (4, 6)])
    """
    found: list[tuple[int, int]] = []

    def look(lo: int, hi: int) -> None:
        if low <= lo and hi <= high:
            found.append((lo, hi))
        elif lo < high and low < hi:
            middle = (lo + hi) // 2
            look(lo, middle)
            look(middle, hi)

    if low < high:
        look(0, count)
    return found


def climb(lo: int, hi: int, value: Callable[[int, int], Any], add: Callable[[Any, Any], Any]) -> Any:
    """The sum at the node [lo, hi) of the tree: ``value(lo, hi)``, or where that is None the sum of both below it."""
    found = value(lo, hi)
    if found is None:
        middle = (lo + hi) // 2
        left = climb(lo, middle, value, add)
        found = add(left, climb(middle, hi, value, add))
    return found


def merged(one: RowGradient, other: RowGradient) -> RowGradient:
    """The sum of two gradients of an embedding."""
    if not len(one.rows) or not len(other.rows):
        return one if len(one.rows) else other
    rows = np.union1d(one.rows, other.rows)
    values = np.zeros((len(rows), one.values.shape[1]), one.values.dtype)
    values[np.searchsorted(rows, one.rows)] = one.values
    values[np.searchsorted(rows, other.rows)] += other.values
    return RowGradient(rows, values)


class Sharded(Whole):
    """Makes updates from the shards of a batch; how a shard is trained on is another way: whole, or in segments.

    Parameters
    ----------
    way : Whole, Truncated or Recomputed
    ranks : Alone or Ranks
        Who computes them, and how many there are.
    """

    def __init__(self, way: Any, ranks: Alone) -> None:
        self.way, self.count, self.ranks = way, ranks.shards, ranks
        self.own = own_shards(ranks)
        self.trees = subtrees(self.own.start, self.own.stop, self.count)
        self.places: list[tuple[int, int]] = []  # (batch, shard) of every item of the outputs
        self._kept: list[Array] = []  # sums that wait for their right neighbours

    def terms(self) -> dict[str, Any]:
        """As of `Whole`."""
        return self.way.terms()

    def steps(self, batch: int, longest: int) -> int | None:
        """As of `Whole`."""
        return self.way.steps(batch, longest)

    def collect(self, outputs: list[Any]) -> list[Any]:
        """The outputs of an epoch, of all ranks, in the order of the shards; [] on other ranks than the first."""
        places, self.places = self.places, []
        return self.ranks.gathered(list(zip(places, outputs, strict=True)))

    def updates(self, trainer: Trainer, part: Part, outputs: list[Any], mean: bool = True) -> Iterator[Update]:
        """As of `Whole`: with tbptt, all shards go through the windows of the longest sequence of the batch."""
        data, chosen, place, keys = part
        seen: list[Any] = []
        own_keys = keys_of_shards(keys, self.count)
        streams = {
            shard: self.way.updates(trainer, Part(*own, place, own_keys[shard]), seen, mean=False)
            for shard, own in self._cut(data, chosen).items()
        }
        batch = _Batch(trainer, streams, place)
        more = True
        while more:
            update = self._update(batch, seen, outputs)
            more = update.more
            yield update

    def _cut(self, data: Any, chosen: Any) -> dict[int, tuple[Any, Ints]]:
        """Shard -> (data, indices) of those that this rank computes; without those that hold nothing."""
        if isinstance(data, dict):  # shards are what a `ShardSource` has given
            return data
        cut = bounds(len(chosen), self.count)
        return {k: (data, chosen[cut[k] : cut[k + 1]]) for k in self.own if cut[k] < cut[k + 1]}

    def _update(self, batch: _Batch, seen: list[Any], outputs: list[Any]) -> Update:
        """The next update, from the shards of all ranks; its mean gradient is in the trainer's buffers."""
        trainer, ranks = batch.trainer, self.ranks
        gradient, exchange = trainer.parameters.gradient, ranks.exchange(trainer.parameters.gradient)
        batch.made, rows = {}, []

        def compute(shard: int) -> list[RowGradient]:
            found = batch.compute(shard)
            self.places.extend([(batch.place[1], shard)] * len(seen))
            outputs.extend(seen)
            seen.clear()
            return found

        for tree, (lo, hi) in enumerate(self.trees):
            rows.append(self._add_up(lo, hi, compute, gradient))
            exchange.put(tree, gradient)
        rate, numbers = ranks.numbers(trainer.learning_rate(), self._numbers(batch.made, rows))
        # Shard after shard: Python's own `sum` of floats gives other bits since Python 3.12.
        loss, weights, zeros, sequences, more = numbers.sum(axis=0)[:ROWS].tolist()
        if weights:
            empty, counts = trainer.parameters.no_rows(), numbers[:, ROWS].astype(np.int64)
            trainer.give_tables(exchange.finish(gradient, rows, empty, counts, weights))
        made = list(batch.made.values())
        where = max((update.where for update in made), default=batch.place)
        return Update(loss, weights, zeros, int(sequences), where, lambda: _blamed(made), more > 0, rate)

    def _numbers(self, made: dict[int, Update], rows: list[list[RowGradient]]) -> Array:
        """What others must know of the shards of this rank."""
        numbers = np.zeros((len(self.own), NUMBERS))
        for shard, u in made.items():
            numbers[shard - self.own.start, :ROWS] = u.loss, u.weights, u.zeros, u.sequences, u.more
        for (first, _), found in zip(self.trees, rows, strict=True):
            numbers[first - self.own.start, ROWS] = sum(len(r.rows) for r in found)
        return numbers

    def _add_up(
        self, lo: int, hi: int, compute: Callable[[int], list[RowGradient]], gradient: Array, depth: int = 0
    ) -> list[RowGradient]:
        """The sum of own shards, in `gradient`; returns those of embeddings."""
        if hi - lo == 1:
            return compute(lo)
        if depth == len(self._kept):
            self._kept.append(np.empty_like(gradient))
        middle = (lo + hi) // 2
        left = self._add_up(lo, middle, compute, gradient, depth + 1)
        np.copyto(self._kept[depth], gradient)
        right = self._add_up(middle, hi, compute, gradient, depth + 1)
        np.add(self._kept[depth], gradient, out=gradient)
        return [merged(one, other) for one, other in zip(left, right, strict=True)]


class _Batch:
    """The shards of a batch that a rank computes, update after update.

    Attributes
    ----------
    made : dict of int to Update
        What an update has of each shard, but of those that hold nothing or have ended.
    """

    def __init__(self, trainer: Trainer, streams: dict[int, Iterator[Update]], place: tuple[Any, ...]) -> None:
        self.trainer, self.streams, self.place = trainer, streams, place
        self.made: dict[int, Update] = {}

    def compute(self, shard: int) -> list[RowGradient]:
        """Leave the gradient of a shard in the trainer's buffer, and return those of embeddings."""
        update = next(self.streams[shard], None) if shard in self.streams else None
        if update is not None:
            self.made[shard] = update
            if update.weights:
                return self.trainer.take_tables()
        self.trainer.parameters.gradient.fill(0)
        return self.trainer.parameters.no_rows()


def _blamed(updates: list[Update]) -> Any:
    """What errors see of a batch: the first shard whose data are not finite, else the first that is here."""
    batches = [update.batch() for update in updates]
    for batch in batches:
        if not all(a.dtype.kind != "f" or np.isfinite(a).all() for a in batch[3:]):
            return batch
    return batches[0] if batches else None


class ShardSource:
    """Batches that a function of the shard gives, as `Data` of many epochs: an update takes an item of every shard.

    A shard that has ended before the others adds nothing to the updates that are left.

    Parameters
    ----------
    name, read, epochs, steps : as of `Source`
    given : callable ``shard -> iterable of batches``
    ranks : Alone or Ranks
    """

    count = None  # sequences of an epoch: no rank knows those of the others

    def __init__(self, name: str, given: Any, read: Callable[..., Any], epochs: int, steps: Any, ranks: Alone) -> None:
        self.ranks, self.exhausted = ranks, False
        self.sources = {
            k: Source(f"{name} of shard {k}", functools.partial(given, k), read, epochs, steps)
            for k in own_shards(ranks)
        }

    def batches(
        self, batch_size: int | None = None, shuffle: Any = False, rng: Any = None
    ) -> Iterator[tuple[dict[int, tuple[Any, Ints]], None]]:
        """(shard -> (data, indices), None) of every update of an epoch, until all shards of all ranks have ended."""
        streams = {k: source.batches() for k, source in self.sources.items()}
        while True:
            items = {k: item for k, stream in streams.items() if (item := next(stream, None)) is not None}
            if not self.ranks.any(bool(items)):
                break
            for k, (data, _) in items.items():
                data.origin = f", shard {k}"
            yield items, None
        self.exhausted = self.ranks.any(any(source.exhausted for source in self.sources.values()))

    def terms(self) -> str:
        """What of them must be the same on all ranks."""
        return "a function of the shard"

    def close(self, early: bool) -> None:
        """Training has ended: close the generators."""
        for source in self.sources.values():
            source.close(early)
