"""The products of layers without time, for programs."""

from lstmx._core.core cimport lstmx_products, lstmx_tile
from lstmx._core.job cimport size

cdef struct Task:
    const lstmx_products *products
    size rows, m, n, lanes
    const void *a
    const void *b              # of the engine's form; in an outer product rows
    void *out
    char *strips
    size strip_bytes, itemsize
    # Of a gradient alone
    const lstmx_tile *kernels
    const size *blocks         # (count + 1) rows at which its blocks begin and end
    size count
    void *sums                 # (m) where the sums of the columns of a go, or NULL
    bint add

cdef void product_part(void *task, int me, int members) noexcept nogil
