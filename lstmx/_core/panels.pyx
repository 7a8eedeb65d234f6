"""Packed weights, and the products of layers without time (Dense) on the tile.

lstmx.functional.weights keeps the panels; c/pack.h describes them.
"""

from cython.parallel cimport parallel

cimport numpy as cnp

from lstmx._core.core cimport (lstmx_claim, lstmx_release, lstmx_tile, omp_get_num_threads, omp_get_thread_num,
                               omp_in_parallel)
from lstmx._core.isa cimport format_of
from lstmx._core.tile cimport data, format_of_size, GRADIENT_ROWS, long_enough, size, tile_for, worth_threads

cnp.import_array()


def lanes(size itemsize):
    """Values in a vector of the active instruction set."""
    return tile_for(format_of_size(itemsize)).lanes


def gate_width(size hidden, size itemsize):
    """4H, rounded up to what gate panels take for each k."""
    return tile_for(format_of_size(itemsize)).gate_width(hidden)


def pack_gates(cnp.ndarray weight, cnp.ndarray panels):
    """Gate panels (K * gate_width(H),) of weight (4H, K), both contiguous."""
    cdef size K = cnp.PyArray_DIM(weight, 1), H = cnp.PyArray_DIM(weight, 0) // 4
    tile_for(format_of(weight)).pack_gates(H, K, data(weight), data(panels))


def column_width(size n, size itemsize):
    """n, rounded up to what column panels take for each k."""
    return tile_for(format_of_size(itemsize)).column_width(n)


def pack_columns(cnp.ndarray weight, cnp.ndarray panels, bint transposed=False):
    """Column panels (K * column_width(n),) of B (K, n) = weight, or its transpose if weight is (n, K)."""
    cdef size K = cnp.PyArray_DIM(weight, transposed), n = cnp.PyArray_DIM(weight, not transposed)
    tile_for(format_of(weight)).pack_columns(transposed, K, n, data(weight), data(panels))


cdef struct Matrices:
    const lstmx_tile *kernels
    size rows, m, n
    const void *a
    const void *b              # column panels; rows of b in an outer product
    void *out
    char *strips
    size strip_bytes, itemsize


cdef void product_part(const Matrices *j, bint outer, int me, int members) noexcept nogil:
    """Some rows of out."""
    cdef size first = j.m * me // members, last = j.m * (me + 1) // members, end = j.rows, r
    if outer:
        while end > 0 and first < last:
            r = (end - 1) // GRADIENT_ROWS * GRADIENT_ROWS
            j.kernels.outer(end - r, first, last, j.n, <char *>j.a + r * j.m * j.itemsize, j.m,
                            <char *>j.b + r * j.n * j.itemsize, j.n, j.out, j.n, end < j.rows, j.strips + me * j.strip_bytes)
            end = r
    elif first < last:
        j.kernels.product(last - first, j.n, j.rows, <char *>j.a + first * j.rows * j.itemsize, j.rows, j.b,
                          <char *>j.out + first * j.n * j.itemsize, j.n, 0, 0,
                          (j.n + 4 * j.kernels.lanes - 1) // (4 * j.kernels.lanes))


cdef void multiply(const Matrices *j, bint outer, int wanted) noexcept:
    """On up to `wanted` threads; without the GIL if it is long."""
    cdef double work = 2.0 * j.rows * j.m * j.n
    cdef int threads
    if not long_enough(work):
        product_part(j, outer, 0, 1)
        return
    with nogil:
        threads = lstmx_claim(1 if omp_in_parallel() or not worth_threads(work) else wanted, wanted)
        if threads == 1:
            product_part(j, outer, 0, 1)
        else:
            with parallel(num_threads=threads):
                product_part(j, outer, omp_get_thread_num(), omp_get_num_threads())
        lstmx_release(threads)


cdef int check_contiguous(cnp.ndarray a, cnp.ndarray b, cnp.ndarray out) except -1:
    """Rows are read and written one after the other: anything else would be read beyond its end."""
    if not (cnp.PyArray_IS_C_CONTIGUOUS(a) and cnp.PyArray_IS_C_CONTIGUOUS(b) and cnp.PyArray_IS_C_CONTIGUOUS(out)):
        raise ValueError("a, b and out must be C-contiguous")
    return 0


def product(cnp.ndarray a, cnp.ndarray panels, cnp.ndarray out, int threads):
    """out (m, n) := a (m, K) B, B in column panels, on up to `threads` threads. All are C-contiguous."""
    cdef Matrices j
    check_contiguous(a, panels, out)
    j.itemsize = cnp.PyArray_ITEMSIZE(a)
    j.kernels = tile_for(format_of(a))
    j.m, j.n, j.rows = cnp.PyArray_DIM(out, 0), cnp.PyArray_DIM(out, 1), cnp.PyArray_DIM(a, 1)
    j.a, j.b, j.out = data(a), data(panels), data(out)
    if j.m and j.n:
        multiply(&j, False, threads)


def outer(cnp.ndarray a, cnp.ndarray b, cnp.ndarray out, cnp.ndarray strips):
    """out (m, n) := a (rows, m)^T b (rows, n), all C-contiguous, in blocks of 256 rows, last to first.

    strips (threads, 256 * 4 * lanes) is scratch for the threads there may be.
    """
    cdef Matrices j
    check_contiguous(a, b, out)
    j.itemsize = cnp.PyArray_ITEMSIZE(a)
    j.kernels = tile_for(format_of(a))
    j.rows, j.m, j.n = cnp.PyArray_DIM(a, 0), cnp.PyArray_DIM(a, 1), cnp.PyArray_DIM(b, 1)
    j.a, j.b, j.out = data(a), data(b), data(out)
    j.strips, j.strip_bytes = <char *>data(strips), cnp.PyArray_STRIDE(strips, 0)
    if j.rows == 0:
        out.fill(0)
    else:
        multiply(&j, True, <int>cnp.PyArray_DIM(strips, 0))
