"""Every array of a call's working memory comes from here: its size is known before the call, its failure is tested."""

import os

cimport numpy as cnp

import numpy as np

from cpython.object cimport PyObject, PyTypeObject
from cpython.ref cimport Py_INCREF
from libc.string cimport memset

cnp.import_array()

cdef extern from "Python.h":
    Py_ssize_t references "Py_REFCNT"(object) noexcept

cdef extern from "numpy/arrayobject.h":   # both take the reference to the type
    object PyArray_Empty(int, const cnp.npy_intp *, cnp.dtype, int)
    object PyArray_NewFromDescr(PyTypeObject *, cnp.dtype, int, const cnp.npy_intp *, const cnp.npy_intp *, void *, int, PyObject *)

cdef enum:
    AXES = 8   # at most

DEBUG = os.environ.get("LSTMX_DEBUG") == "1"
_allocations_left = None   # tests make the n-th allocation fail

cdef bint debug = DEBUG
cdef size LARGE = 1 << 20   # bytes
cdef size MOST = <size>(<size_t>-1 >> 1) - 64   # bytes


cdef int count() except -1:
    """An allocation, unless a test wants it to fail."""
    global _allocations_left
    if _allocations_left is not None:
        _allocations_left -= 1
        if _allocations_left < 0:
            raise MemoryError("allocation failed on request")
    return 0


cdef cnp.dtype type_of(object kind):
    return kind if isinstance(kind, np.dtype) else np.dtype(kind)


cdef cnp.ndarray bytes_of(size n):
    cdef cnp.npy_intp length = n
    return cnp.PyArray_EMPTY(1, &length, cnp.NPY_UINT8, 0)


cdef size bytes_for(int ndim, const cnp.npy_intp *shape, size itemsize) except -1:
    """Of an array."""
    cdef size total = itemsize
    cdef int k
    for k in range(ndim):
        if shape[k] > 0 and total > MOST // shape[k]:
            raise MemoryError("an array of more bytes than there are addresses")
        total *= shape[k]
    return total


cdef class Spare:
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

    def __init__(self, size limit, size smallest, size count):
        self.limit, self.smallest, self.count = limit, smallest, count
        self._blocks = []

    cpdef cnp.ndarray take(self, size nbytes):
        """At least so many bytes, as a 1-D array; and twice as many at most."""
        cdef cnp.ndarray block
        cdef size total = 0
        if not self.smallest <= nbytes <= self.limit // 4:
            return bytes_of(nbytes)
        for block in self._blocks:   # no other thread runs meanwhile
            if nbytes <= cnp.PyArray_SIZE(block) <= 2 * nbytes and references(block) == 2:   # the list's and this one
                return block
        block = bytes_of(nbytes)
        self._blocks.append(block)
        for block in self._blocks:
            total += cnp.PyArray_SIZE(block)
        block = self._blocks[len(self._blocks) - 1]
        while len(self._blocks) > self.count or total > self.limit:
            total -= cnp.PyArray_SIZE(<cnp.ndarray>self._blocks.pop(0))
        return block

    def clear(self):
        """Let go of all blocks."""
        self._blocks.clear()


spare = Spare(limit=64 << 20, smallest=64 << 10, count=32)


cdef cnp.ndarray plain(int ndim, const cnp.npy_intp *shape, cnp.dtype kind):
    """`empty`."""
    cdef cnp.ndarray array
    count()
    Py_INCREF(kind)
    array = PyArray_Empty(ndim, shape, kind, 0)
    if debug and kind.kind == c"f":
        array.fill(np.nan)
    return array


cdef cnp.ndarray lined(int ndim, const cnp.npy_intp *shape, const cnp.npy_intp *strides, size nbytes, cnp.dtype kind, bint reuse):
    """`aligned`, of so many bytes and with any strides."""
    cdef cnp.ndarray raw, array
    cdef char *at
    count()
    raw = (<Spare>spare).take(nbytes + 64) if reuse else bytes_of(nbytes + 64)
    at = <char *>((<size_t>cnp.PyArray_DATA(raw) + 63) & ~<size_t>63)
    Py_INCREF(kind)
    array = PyArray_NewFromDescr(<PyTypeObject *>cnp.ndarray, kind, ndim, shape, strides, at, cnp.NPY_ARRAY_CARRAY, NULL)
    cnp.set_array_base(array, raw)
    return array


cdef cnp.ndarray result(int ndim, const cnp.npy_intp *shape, cnp.dtype kind):
    """`empty`, for what a caller soon lets go of, as gradients: where it is large in memory that `spare` keeps, as libc gives
    such back to the system again and again.
    """
    cdef size nbytes = bytes_for(ndim, shape, kind.itemsize)
    return plain(ndim, shape, kind) if debug or nbytes < LARGE else lined(ndim, shape, NULL, nbytes, kind, True)


cdef cnp.ndarray room(size values, cnp.dtype kind):
    """`aligned`, for reuse, of one axis."""
    cdef cnp.npy_intp length = values
    if debug:
        return plain(1, &length, kind)
    return lined(1, &length, NULL, bytes_for(1, &length, kind.itemsize), kind, True)


cdef cnp.ndarray lasting(size values, cnp.dtype kind):
    """`aligned`, of one axis, for what lasts longer than a call."""
    cdef cnp.npy_intp length = values
    if debug:
        return plain(1, &length, kind)
    return lined(1, &length, NULL, bytes_for(1, &length, kind.itemsize), kind, False)


cdef size line_width(size columns, size itemsize) noexcept nogil:
    """`padded_width`."""
    cdef size line = 64 // itemsize
    return ((columns + line - 1) // line | 1) * line


cdef cnp.ndarray slab(size rows, size columns, cnp.dtype kind):
    """`padded`."""
    cdef cnp.npy_intp shape[2]
    cdef cnp.npy_intp strides[2]
    cdef size nbytes
    shape[0], shape[1] = rows, line_width(columns, kind.itemsize)
    nbytes = bytes_for(2, shape, kind.itemsize)
    if debug:
        return plain(2, shape, kind)[:, :columns]
    strides[0], strides[1] = shape[1] * kind.itemsize, kind.itemsize
    shape[1] = columns
    return lined(2, shape, strides, nbytes, kind, True)


cdef int read_shape(object shape, cnp.npy_intp *sizes) except -1:
    """The axes of a tuple."""
    cdef int k, ndim = len(shape)
    if ndim > AXES:
        raise ValueError(f"shape: got {ndim} axes, must be at most {AXES}")
    for k in range(ndim):
        sizes[k] = shape[k]
    return ndim


def empty(shape, dtype):
    """An uninitialised C-contiguous array; NaN in debug runs (``LSTMX_DEBUG=1``), so that nobody reads it unwritten."""
    cdef cnp.npy_intp sizes[AXES]
    return plain(read_shape(shape, sizes), sizes, type_of(dtype))


def zeros(shape, dtype):
    """As `empty`, filled with 0."""
    cdef cnp.npy_intp sizes[AXES]
    cdef cnp.ndarray array = plain(read_shape(shape, sizes), sizes, type_of(dtype))
    memset(cnp.PyArray_DATA(array), 0, cnp.PyArray_NBYTES(array))
    return array


def aligned(shape, dtype, *, bint reuse=False):
    """As `empty`, beginning at a cache line, which vectors then never straddle.

    If `reuse`, its memory may be that of an array which `spare` has kept. Kernels are faster for a cache line but take
    any address: in debug runs the array ends where its allocation ends instead, so that sanitizers see whoever reads
    beyond it.
    """
    cdef cnp.npy_intp sizes[AXES]
    cdef int ndim = read_shape(shape, sizes)
    cdef cnp.dtype kind = type_of(dtype)
    if debug:
        return plain(ndim, sizes, kind)
    return lined(ndim, sizes, NULL, bytes_for(ndim, sizes, kind.itemsize), kind, reuse)


def padded_width(size columns, dtype):
    """Row stride of `padded`, in elements."""
    return line_width(columns, type_of(dtype).itemsize)


def padded(size rows, size columns, dtype):
    """An uninitialised (rows, columns) array whose rows begin at odd multiples of 64 bytes from each other.

    Rows at a power of two would fall into few sets of the cache.
    """
    return slab(rows, columns, type_of(dtype))
