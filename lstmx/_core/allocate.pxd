"""Working memory, for the modules that need some."""

cimport numpy as cnp

ctypedef Py_ssize_t size

cdef class Spare:
    cdef readonly size limit, smallest, count
    cdef readonly list _blocks
    cpdef cnp.ndarray take(self, size nbytes)

cdef cnp.ndarray plain(int ndim, const cnp.npy_intp *shape, cnp.dtype kind)
cdef cnp.ndarray result(int ndim, const cnp.npy_intp *shape, cnp.dtype kind)
cdef cnp.ndarray room(size values, cnp.dtype kind)
cdef cnp.ndarray lasting(size values, cnp.dtype kind)
cdef cnp.ndarray slab(size rows, size columns, cnp.dtype kind)
