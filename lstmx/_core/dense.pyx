"""The products of layers without time (Dense), by the products of an engine and on threads as loop.pyx makes them."""

cimport numpy as cnp

from lstmx._core.core cimport let_go, LONG, PyThreadState, take_back
from lstmx._core.isa cimport format_of
from lstmx._core.kernels cimport activate_rows
from lstmx._core.job cimport data, products_of, size, tile_for, worth_threads
from lstmx._core.loop cimport launch, LONG_WORK, spread
from lstmx._core.panels cimport Panels

cnp.import_array()


cdef void product_part(void *task, int me, int members) noexcept nogil:
    """Some rows of out."""
    cdef const Task *j = <const Task *>task
    cdef size first = j.m * me // members, last = j.m * (me + 1) // members
    if first < last:
        j.products.product(last - first, j.n, j.rows, <char *>j.a + first * j.rows * j.itemsize, j.rows, j.b,
                           <char *>j.out + first * j.n * j.itemsize, j.n, 0, 0, (j.n + 4 * j.lanes - 1) // (4 * j.lanes))


cdef void outer_part(void *task, int me, int members) noexcept nogil:
    """Some rows of out, block by block, last to first."""
    cdef const Task *j = <const Task *>task
    cdef size first = j.m * me // members, last = j.m * (me + 1) // members, k, r, rows
    cdef const char *a
    cdef bint add = j.add
    if first == last:
        return
    for k in range(j.count - 1, -1, -1):
        r, rows = j.blocks[k], j.blocks[k + 1] - j.blocks[k]
        a = <const char *>j.a + r * j.m * j.itemsize
        j.products.outer(rows, first, last, j.n, a, j.m, <const char *>j.b + r * j.n * j.itemsize, j.n, j.out, j.n, add,
                         j.strips + me * j.strip_bytes)
        if j.sums != NULL:
            j.kernels.sum_rows(rows, last - first, a + first * j.itemsize, j.m, <char *>j.sums + first * j.itemsize, add)
        add = True


cdef int check_contiguous(cnp.ndarray a, cnp.ndarray b, cnp.ndarray out) except -1:
    """Rows are read and written one after the other: anything else would be read beyond its end."""
    if not (cnp.PyArray_IS_C_CONTIGUOUS(a) and cnp.PyArray_IS_C_CONTIGUOUS(b) and cnp.PyArray_IS_C_CONTIGUOUS(out)):
        raise ValueError("a, b and out must be C-contiguous")
    return 0


def product(products, cnp.ndarray a, Panels b, cnp.ndarray out, int threads):
    """out (m, n) := a (m, K) B, on up to `threads` threads. Arrays are C-contiguous.

    Parameters
    ----------
    products : capsule of an engine's ``lstmx_products``, or None for the tile's
    b : B (K, n) in the form of the engine
    """
    cdef Task j
    check_contiguous(a, b.array, out)
    j.itemsize = cnp.PyArray_ITEMSIZE(a)
    j.products, j.lanes = products_of(products, format_of(a)), tile_for(format_of(a)).lanes
    j.m, j.n, j.rows = cnp.PyArray_DIM(out, 0), cnp.PyArray_DIM(out, 1), cnp.PyArray_DIM(a, 1)
    j.a, j.b, j.out = data(a), b.operand, data(out)
    if j.m and j.n:
        launch(product_part, &j, threads, threads, 2.0 * j.rows * j.m * j.n)


def outer(products, cnp.ndarray a, cnp.ndarray b, cnp.ndarray out, cnp.ndarray sums, const size[::1] blocks, bint add,
          cnp.ndarray strips):
    """out (m, n) := [out +] a (rows, m)^T b (rows, n), all C-contiguous, in blocks of rows, last to first.

    Parameters
    ----------
    sums : (m,) or None, to which the sums of the columns of a go in the same way
    blocks : (count + 1,) rows, the first 0 and the last the number of rows: where blocks begin and end
    add : whether out and sums are added to
    strips : (threads, outer_room of the longest block's rows and n), scratch for the threads there may be
    """
    cdef Task j
    cdef int threads = <int>cnp.PyArray_DIM(strips, 0)
    check_contiguous(a, b, out)
    j.count, j.blocks, j.add = blocks.shape[0] - 1, &blocks[0], add
    if blocks[0] != 0 or blocks[j.count] != cnp.PyArray_DIM(a, 0):
        raise ValueError(f"blocks: from row {blocks[0]} to {blocks[j.count]}, must be all {cnp.PyArray_DIM(a, 0)} rows")
    j.itemsize = cnp.PyArray_ITEMSIZE(a)
    j.products = products_of(products, format_of(a))
    j.rows, j.m, j.n = cnp.PyArray_DIM(a, 0), cnp.PyArray_DIM(a, 1), cnp.PyArray_DIM(b, 1)
    j.a, j.b, j.out = data(a), data(b), data(out)
    j.strips, j.strip_bytes = <char *>data(strips), cnp.PyArray_STRIDE(strips, 0)
    j.kernels, j.sums = tile_for(format_of(a)), data(sums)
    if j.rows == 0 and not add:
        out.fill(0)
        if sums is not None:
            sums.fill(0)
    elif j.rows:
        launch(outer_part, &j, threads, threads, 2.0 * j.rows * j.m * j.n)


cdef class Linear:
    """activation(x W^T + bias) on plain arrays, in one compiled call.

    Parameters
    ----------
    products : capsule of an engine's ``lstmx_products``, or None for the tile's
    weight : B (I, O) in the form of the engine
    inputs, outputs : I, O
    bias : (O,)
    activation : one of ACTIVATIONS of kernels.pyx
    threads : callable, or None for the products' own
        What a call may use; only asked where it is long.
    """

    cdef object products, threads
    cdef Panels weight
    cdef cnp.ndarray bias
    cdef size inputs, outputs
    cdef int activation

    def __cinit__(self, products, Panels weight, size inputs, size outputs, cnp.ndarray bias, int activation, threads):
        self.products, self.weight, self.bias, self.threads = products, weight, bias, threads
        self.inputs, self.outputs, self.activation = inputs, outputs, activation

    def run(self, x):
        """y (.., O) for x (.., I); None where x is not a plain array that fits."""
        cdef cnp.ndarray a, y
        cdef cnp.npy_intp shape[3]
        cdef Task j
        cdef double work
        cdef int k, ndim, threads, format
        cdef PyThreadState *state
        if not cnp.PyArray_CheckExact(x):
            return None
        a = <cnp.ndarray>x
        ndim = cnp.PyArray_NDIM(a)
        if (ndim < 1 or ndim > 3 or cnp.PyArray_DIM(a, ndim - 1) != self.inputs or cnp.PyArray_SIZE(a) == 0
                or not cnp.PyArray_ISCARRAY_RO(a) or cnp.PyArray_TYPE(a) != cnp.PyArray_TYPE(self.bias)):
            return None
        for k in range(ndim):
            shape[k] = cnp.PyArray_DIM(a, k)
        shape[ndim - 1] = self.outputs
        y = cnp.PyArray_EMPTY(ndim, shape, cnp.PyArray_TYPE(a), 0)
        format = format_of(a)
        j.itemsize = cnp.PyArray_ITEMSIZE(a)
        j.products, j.lanes = products_of(self.products, format), tile_for(format).lanes
        j.m, j.n, j.rows = cnp.PyArray_SIZE(a) // self.inputs, self.outputs, self.inputs
        j.a, j.b, j.out = data(a), self.weight.operand, data(y)
        work = 2.0 * j.rows * j.m * j.n
        threads = self.threads() if self.threads is not None and worth_threads(work) else 1
        state = let_go(work > LONG_WORK or j.m * j.n > LONG)
        spread(product_part, &j, threads, threads, work)
        activate_rows(format, self.activation, j.m, j.n, data(self.bias), data(y))
        take_back(state)
        return y
