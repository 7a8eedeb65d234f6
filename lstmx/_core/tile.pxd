"""The jobs of the tile engine, for the modules that make them."""

cimport numpy as cnp

from lstmx._core.core cimport LSTMX_F32, LSTMX_F64, lstmx_layer, lstmx_team, lstmx_tile
from lstmx._core.isa cimport active_isa

ctypedef Py_ssize_t size

cdef struct Job:
    const lstmx_tile *kernels
    lstmx_layer layer
    size itemsize
    size steps_per_block
    void *sums                 # (steps_per_block * N, gate_width) or NULL
    char *strips               # for each thread, scratch of strip_bytes
    size strip_bytes
    int split_units
    int threads                # wanted; the team may be smaller
    double last                # when the signals were looked at; 0 in a short call, which does not look
    lstmx_team own
    lstmx_team *team           # own, or that of the direction beside it

cdef enum:
    GRADIENT_ROWS = 256            # rows of one block of the weights' gradients

cdef double operations(const lstmx_layer *l) noexcept nogil
cdef bint long_enough(double work) noexcept nogil
cdef bint worth_threads(double work) noexcept nogil
cdef size block_steps(const lstmx_tile *kernels, const lstmx_layer *l) noexcept nogil
cdef bint joins(size batch, size inputs, size hidden, size itemsize, int threads) noexcept nogil
cdef void share_out(Job *job, bint backward, int threads) noexcept nogil
cdef int start(Job *job, bint backward, int budget) except -1
cdef int both(Job *one, Job *other, int budget) except -1

cdef inline const lstmx_tile *tile_for(int format) noexcept nogil:
    return active_isa().tiles[format]

cdef inline int format_of_size(size itemsize) noexcept nogil:
    return LSTMX_F32 if itemsize == 4 else LSTMX_F64

cdef inline void *data(cnp.ndarray array) noexcept:
    return NULL if array is None or cnp.PyArray_SIZE(array) == 0 else cnp.PyArray_DATA(array)

cdef inline size stride(cnp.ndarray array, int axis) noexcept:
    return cnp.PyArray_STRIDE(array, axis) // cnp.PyArray_ITEMSIZE(array)
