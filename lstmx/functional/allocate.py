"""Every array of a call's working memory comes from here: its size is known before the call, its failure is tested."""

from __future__ import annotations

import collections
import math
import os
import sys
from typing import TYPE_CHECKING

import numpy as np

from lstmx._core.panels import to_line

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from numpy.typing import DTypeLike

    from lstmx._types import Array, Shape


DEBUG = os.environ.get("LSTMX_DEBUG") == "1"
_allocations_left = None  # tests make the n-th allocation fail


def _counted(allocate: Callable[..., Array], *arguments: Any) -> Array:
    """What `allocate` gives, unless a test wants this allocation to fail."""
    global _allocations_left
    if _allocations_left is not None:
        _allocations_left -= 1
        if _allocations_left < 0:
            raise MemoryError("allocation failed on request")
    return allocate(*arguments)


def empty(shape: Shape, dtype: DTypeLike) -> Array:
    """An uninitialised C-contiguous array; NaN in debug runs (``LSTMX_DEBUG=1``), so that nobody reads it unwritten."""
    array = _counted(np.empty, shape, dtype)
    if DEBUG and array.dtype.kind == "f":
        array.fill(np.nan)
    return array


def zeros(shape: Shape, dtype: DTypeLike) -> Array:
    """As `empty`, filled with 0."""
    array = empty(shape, dtype)
    array.fill(0)
    return array


class Spare:
    """The memory of working arrays, kept for the next call: pages that are new to the process can cost a training step
    a fifth of its time.

    A block is free when nothing but this object refers to it: a view of it is a reference.

    Parameters
    ----------
    limit, smallest : int
        Bytes: of all blocks together, above which the oldest are let go; of an array for which a block is kept.
    count : int
        Of blocks.
    """

    def __init__(self, limit: int, smallest: int, count: int) -> None:
        self.limit, self.smallest, self.count = limit, smallest, count
        self._blocks: collections.deque[Array] = collections.deque()
        block = object()
        self._alone = sys.getrefcount(block)

    def take(self, nbytes: int) -> Array:
        """At least so many bytes, as a 1-D array; and twice as many at most."""
        if not self.smallest <= nbytes <= self.limit // 4:
            return np.empty(nbytes, np.uint8)
        for k in range(len(self._blocks)):
            try:
                block = self._blocks[k]
            except IndexError:  # another thread looks through them too
                break
            if nbytes <= block.nbytes <= 2 * nbytes and sys.getrefcount(block) == self._alone + 1:
                return block
        block = np.empty(nbytes, np.uint8)
        self._blocks.append(block)
        while len(self._blocks) > self.count or sum(kept.nbytes for kept in tuple(self._blocks)) > self.limit:
            self._blocks.popleft()
        return block

    def clear(self) -> None:
        """Let go of all blocks."""
        self._blocks.clear()


spare = Spare(limit=64 << 20, smallest=64 << 10, count=32)


def aligned(shape: Shape, dtype: DTypeLike, *, reuse: bool = False) -> Array:
    """As `empty`, beginning at a cache line, which vectors then never straddle.

    If `reuse`, its memory may be that of an array which `spare` has kept. Kernels are faster for a cache line but take
    any address: in debug runs the array ends where its allocation ends instead, so that sanitizers see whoever reads
    beyond it.
    """
    if DEBUG:
        return empty(shape, dtype)
    dtype = np.dtype(dtype)
    nbytes = math.prod(shape) * dtype.itemsize + 64
    raw = _counted(spare.take, nbytes) if reuse else empty((nbytes,), np.uint8)
    return np.ndarray(shape, dtype, raw, to_line(raw))


def padded_width(columns: int, dtype: DTypeLike) -> int:
    """Row stride of `padded`, in elements."""
    line = 64 // np.dtype(dtype).itemsize
    return (-(-columns // line) | 1) * line


def padded(rows: int, columns: int, dtype: DTypeLike) -> Array:
    """An uninitialised (rows, columns) array whose rows begin at odd multiples of 64 bytes from each other.

    Rows at a power of two would fall into few sets of the cache.
    """
    return aligned((rows, padded_width(columns, dtype)), dtype, reuse=True)[:, :columns]
