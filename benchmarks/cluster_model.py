"""A model of the time that a step of training takes on many ranks: what docs/explanation/cluster.md draws.

It is a model, not a measurement. A message of n bytes takes ``latency + n * per_byte`` seconds; a rank sends one
message at a time and receives another meanwhile; links do not disturb each other; all ranks are equally fast. Measured,
by ``benchmarks/distributed_mpi.py --json docs/cluster.json``, are the time of a shard's gradient and that of an update,
latency and bandwidth of shared memory; those of two kinds of Ethernet are assumed.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

from lstmx.training.shards import bounds, subtrees

HEADER, SHARD = 4 * 8, 6 * 8  # bytes that travel ahead: of each rank, and of each of its shards
FRAMES = 1448 / 1538  # what TCP over Ethernet leaves of the nominal rate


@dataclass(frozen=True)
class Network:
    """How long a message takes.

    Parameters
    ----------
    name : str
    latency : float
        Seconds from one program to the other, of a message without content.
    per_byte : float
        Seconds that each byte adds.
    """

    name: str
    latency: float
    per_byte: float

    def message(self, size):
        """Seconds of a message of so many bytes."""
        return self.latency + size * self.per_byte


ETHERNET = (
    Network("10 Gbit/s Ethernet", 25e-6, 8 / 10e9 / FRAMES),
    Network("1 Gbit/s Ethernet", 50e-6, 8 / 1e9 / FRAMES),
)


def fitted(name, times):
    """The network of pairs (bytes, seconds of a message), by least squares of the relative errors."""
    ones, sizes = [1 / t for _, t in times], [n / t for n, t in times]  # latency * ones + per_byte * sizes = 1
    aa, ab, bb = (
        sum(a * a for a in ones),
        sum(a * b for a, b in zip(ones, sizes, strict=True)),
        sum(b * b for b in sizes),
    )
    a1, b1, det = sum(ones), sum(sizes), aa * bb - ab * ab
    return Network(name, (a1 * bb - b1 * ab) / det, (b1 * aa - a1 * ab) / det)


# How long an exchange takes: (ranks, bytes of the gradient, network, shards) -> seconds.


def tree(ranks, size, network, shards=None):
    """The whole gradient up a binary tree of ranks, and the sum down again."""
    return 2 * math.ceil(math.log2(ranks)) * network.message(size)


def ring(ranks, size, network, shards=None):
    """One piece a rank, passed round a ring twice: once to add, once to hand out. What a large Allreduce does."""
    return 2 * (ranks - 1) * network.message(size / ranks)


def pieces(ranks, size, network, shards):
    """That of lstmx: a header, the pieces of each rank's subtrees to their owners, the finished pieces to all."""
    if ranks == 1:
        return 0.0
    cut = bounds(shards, ranks)
    trees = [len(subtrees(*own, shards)) for own in pairwise(cut)]
    most = max(max(own * (ranks - 1), sum(trees) - own) for own in trees)  # shares of a piece that are sent, or come
    header = (ranks - 1) * (HEADER + SHARD * math.ceil(shards / ranks))
    messages = math.ceil(math.log2(ranks)) + 2 * (ranks - 1)
    return messages * network.latency + (header + (most + ranks - 1) * size / ranks) * network.per_byte


EXCHANGES = {"pieces": pieces, "ring": ring, "tree": tree}


def step(ranks, shards, work, network, exchange="pieces"):
    """Seconds of a step: the shards of the rank that has most, the exchange, the update.

    Parameters
    ----------
    ranks, shards : int
    work : dict
        ``bytes`` of the gradient, seconds of one ``shard``'s gradient and of an ``update``.
    network : Network
    exchange : {"pieces", "ring", "tree"}
    """
    compute = math.ceil(shards / ranks) * work["shard"] + work["update"]
    return compute + EXCHANGES[exchange](ranks, work["bytes"], network, shards)


def end_of_scaling(shards, work, network, ranks, exchange="pieces", least=0.5):
    """The most of these `ranks` at which each is still worth `least` of what one alone is."""
    alone = step(1, shards, work, network, exchange)
    worth = [p for p in ranks if alone / (p * step(p, shards, work, network, exchange)) >= least]
    return max(worth)
