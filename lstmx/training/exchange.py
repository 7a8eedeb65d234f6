"""How the gradients of shards become the mean gradient of a batch, on one process and on many ranks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lstmx.layers.simple import RowGradient
from lstmx.training.shards import bounds, climb, merged, subtrees

if TYPE_CHECKING:
    from lstmx._types import Array, Ints
    from lstmx.training.ranks import Ranks


class Exchange:
    """Of one process, whose one subtree is the whole tree."""

    def put(self, tree: int, gradient: Array) -> None:
        """Take the sum of a subtree, the `tree`-th of this rank."""

    def finish(
        self,
        gradient: Array,
        rows: list[list[RowGradient]],
        empty: list[RowGradient],
        counts: Ints,
        weights: float,
    ) -> list[RowGradient]:
        """The mean, in `gradient`; returned are those of embeddings.

        Parameters
        ----------
        gradient : ndarray (P,)
            Of one process that of the whole tree; else overwritten.
        rows : list of list of RowGradient
            Of every subtree of this rank, those of the embeddings.
        empty : list of RowGradient
            Of the embeddings, without rows.
        counts : ndarray of int (shards,)
            How many rows there are of the subtree that begins with a shard.
        weights : float
            By which sums are divided.
        """
        np.divide(gradient, weights, out=gradient)
        return [RowGradient(r.rows, r.values / weights) for r in rows[0]]


class RankExchange(Exchange):
    """Of many ranks: each is sent one piece of the flat gradient of all subtrees, adds them up, and sends the mean of
    its piece to all.

    Numbers are added one by one, so that the bits do not depend on who does so.

    Parameters
    ----------
    ranks : Ranks
    shards : int
    gradient : ndarray (P,)
    """

    def __init__(self, ranks: Ranks, shards: int, gradient: Array) -> None:
        self.ranks, self.shards = ranks, shards
        cut = bounds(shards, ranks.size)
        self.trees = [subtrees(cut[r], cut[r + 1], shards) for r in range(ranks.size)]
        self.nodes = [node for trees in self.trees for node in trees]
        self.own = len(self.trees[ranks.rank])
        self.piece = -(-len(gradient) // ranks.size)
        self._sent = np.zeros((ranks.size, self.own, self.piece), gradient.dtype)
        self._received = np.empty((len(self.nodes), self.piece), gradient.dtype)
        self._whole = np.empty(ranks.size * self.piece, gradient.dtype)

    def put(self, tree: int, gradient: Array) -> None:
        """As of `Exchange`."""
        for rank in range(self.ranks.size):
            part = gradient[rank * self.piece : (rank + 1) * self.piece]
            self._sent[rank, tree, : len(part)] = part

    def finish(
        self,
        gradient: Array,
        rows: list[list[RowGradient]],
        empty: list[RowGradient],
        counts: Ints,
        weights: float,
    ) -> list[RowGradient]:
        """As of `Exchange`."""
        with self.ranks.to_the_end():
            if self.ranks.exact:
                self._finish_tree(weights)
            else:
                self._add_anyhow(weights)
            gradient[:] = self._whole[: len(gradient)]
            # The Embedding of a model is its first layer: there is one at most, and `counts` are its rows.
            return [self._table([found[k] for found in rows], none, counts, weights) for k, none in enumerate(empty)]

    def _finish_tree(self, weights: float) -> None:
        ranks, piece = self.ranks, self.piece
        ranks.all_to_all(
            self._sent, [self.own * piece] * ranks.size, self._received, [len(trees) * piece for trees in self.trees]
        )
        mean = self._climb(dict(zip(self.nodes, self._received, strict=True)))
        np.divide(mean, weights, out=mean)
        ranks.gather_all(mean, self._whole, [piece] * ranks.size)

    def _climb(self, found: dict[tuple[int, int], Array]) -> Array:
        """The sum at the root; arrays below it are overwritten."""
        return climb(0, self.shards, lambda lo, hi: found.get((lo, hi)), lambda a, b: np.add(a, b, out=a))

    def _add_anyhow(self, weights: float) -> None:
        """The mean by MPI_Allreduce, which promises no order."""
        whole = self._whole.reshape(self.ranks.size, self.piece)
        whole.fill(0)
        for tree in range(self.own):
            whole += self._sent[:, tree]
        self.ranks.add_all(self._whole)
        np.divide(self._whole, weights, out=self._whole)

    def _table(self, own: list[RowGradient], none: RowGradient, counts: Ints, weights: float) -> RowGradient:
        """The mean gradient of an embedding: the rows of all subtrees go to all ranks."""
        of_rank = [sum(int(counts[lo]) for lo, _ in trees) for trees in self.trees]
        rows, width = np.empty(sum(of_rank), np.int64), none.values.shape[1]
        values = np.empty((len(rows), width), none.values.dtype)
        own = [none, *own]
        self.ranks.gather_all(np.concatenate([r.rows for r in own]), rows, of_rank)
        self.ranks.gather_all(np.concatenate([r.values for r in own]), values, [n * width for n in of_rank])
        found, first = {}, 0
        for node in self.nodes:
            last = first + int(counts[node[0]])
            found[node] = RowGradient(rows[first:last], values[first:last])
            first = last
        table = climb(0, self.shards, lambda lo, hi: found.get((lo, hi)), merged)
        return RowGradient(table.rows, table.values / weights)
