"""Every array of a call's working memory comes from here: its size is known before the call, its failure is tested."""

import math
import os

import numpy as np

from lstmx._core.panels import to_line

DEBUG = os.environ.get("LSTMX_DEBUG") == "1"
_allocations_left = None  # tests make the n-th allocation fail


def empty(shape, dtype):
    """An uninitialised C-contiguous array; NaN in debug runs (``LSTMX_DEBUG=1``), so that nobody reads it unwritten."""
    global _allocations_left
    if _allocations_left is not None:
        _allocations_left -= 1
        if _allocations_left < 0:
            raise MemoryError("allocation failed on request")
    array = np.empty(shape, dtype)
    if DEBUG and array.dtype.kind == "f":
        array.fill(np.nan)
    return array


def zeros(shape, dtype):
    """As `empty`, filled with 0."""
    array = empty(shape, dtype)
    array.fill(0)
    return array


def aligned(shape, dtype):
    """As `empty`, beginning at a cache line, which vectors then never straddle.

    Kernels are faster for it but take any address: in debug runs it ends where its allocation ends instead, so that
    sanitizers see whoever reads beyond it.
    """
    if DEBUG:
        return empty(shape, dtype)
    dtype = np.dtype(dtype)
    count = math.prod(shape)
    raw = empty((count * dtype.itemsize + 64,), np.uint8)
    start = to_line(raw)
    return raw[start : start + count * dtype.itemsize].view(dtype).reshape(shape)


def padded_width(columns, dtype):
    """Row stride of `padded`, in elements."""
    line = 64 // np.dtype(dtype).itemsize
    return (-(-columns // line) | 1) * line


def padded(rows, columns, dtype):
    """An uninitialised (rows, columns) array whose rows begin at odd multiples of 64 bytes from each other.

    Rows at a power of two would fall into few sets of the cache.
    """
    return aligned((rows, padded_width(columns, dtype)), dtype)[:, :columns]
