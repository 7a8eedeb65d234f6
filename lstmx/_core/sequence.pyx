"""The time loop: one layer, one direction, forward and backward, with the threads.

Layout. A batch of N sequences with lengths l_0 >= l_1 >= ... is *packed*: at step t only the rows still running exist, and
since the batch is sorted they are the first n_t rows. The rows of step t are `offsets[t] : offsets[t + 1]` of every packed
array, so x is (S, I), the gates (S, 4H), y (S, H), with S = sum of lengths. Nothing is computed on padding, a product over
all steps is one product over S rows, and a reversed direction walks t downwards: a row joins at its own last step.

h and c (N, H) hold the running state. A row that has ended (or not begun) is simply not touched, so they start as the
initial and end as the final state for both directions and for empty rows.

Training, inference and a single step are the same function. Training keeps the gates of all steps and, in h_prev and
c_prev, the state before each step; inference keeps one block of gates.
"""

from cpython.exc cimport PyErr_CheckSignals
from cpython.pycapsule cimport PyCapsule_GetPointer
from cython.parallel cimport prange
from libc.string cimport memcpy

from lstmx._core.cell cimport rows_backward, rows_forward
from lstmx._core.core cimport (let_go, LSTMX_F32, LSTMX_F64, LSTMX_OPENMP, lstmx_now, lstmx_products,
                               omp_get_max_threads, omp_in_parallel, PyThreadState, real, take_back)
from lstmx._core.isa cimport active_isa

cdef extern from "core.h" nogil:
    ctypedef struct lstmx_kernels:
        void (*column_sum)(Py_ssize_t rows, Py_ssize_t n, const void *x, void *out) noexcept nogil

cdef enum:
    FLOP_PER_MICROSECOND = 20000    # a cautious guess, only to decide about the GIL
# Units of H per thread below which a parallel region costs more than it saves. BLAS and OpenMP have each their own threads,
# which wait for work by spinning: where they take turns at every step, they steal the cores from each other.
cdef Py_ssize_t grain = 65536
cdef double SIGNAL_INTERVAL = 0.05  # seconds between looks for Ctrl-C


def openmp():
    """Whether this build has OpenMP."""
    return bool(LSTMX_OPENMP)


def max_threads():
    """What OpenMP would give a parallel region now: OMP_NUM_THREADS, OMP_THREAD_LIMIT and the like."""
    return omp_get_max_threads()


def set_grain(Py_ssize_t units):
    """Set the least work per thread of a pointwise region, in units of H; returns what it was. For tests and measurements."""
    global grain
    before = grain
    grain = units
    return before


cdef int raise_if_interrupted() except -1 with gil:
    PyErr_CheckSignals()
    return 0


cdef int look_for_signals(double *last) except -1 nogil:
    if lstmx_now() - last[0] > SIGNAL_INTERVAL:
        raise_if_interrupted()
        last[0] = lstmx_now()
    return 0


cdef inline void multiply(const lstmx_products *table, bint transpose_a, bint transpose_b, Py_ssize_t m, Py_ssize_t n,
                          Py_ssize_t k, const real *a, Py_ssize_t lda, const real *b, Py_ssize_t ldb, real beta, real *c,
                          Py_ssize_t ldc) noexcept nogil:
    """C (m, n) := op(A) op(B) + beta C."""
    if real is float:
        table.f32(transpose_a, transpose_b, m, n, k, a, lda, b, ldb, beta, c, ldc)
    else:
        table.f64(transpose_a, transpose_b, m, n, k, a, lda, b, ldb, beta, c, ldc)


cdef int useful_threads(Py_ssize_t rows, Py_ssize_t hidden, int threads) noexcept nogil:
    """Threads that a pointwise region over (rows, H) is worth; 1 inside somebody else's region."""
    cdef Py_ssize_t worth = rows * hidden // grain
    if worth > rows:
        worth = rows
    if worth < threads:
        threads = <int>worth
    return 1 if threads < 2 or omp_in_parallel() else threads


cdef void forward_rows(Py_ssize_t first, Py_ssize_t last, Py_ssize_t H, const real *bias, real *gates, real *c, real *h,
                       real *y, Py_ssize_t ldy) noexcept nogil:
    """Rows first..last of one step: the cell, then h copied to its place in y."""
    cdef Py_ssize_t n
    rows_forward(last - first, H, bias, gates + first * 4 * H, c + first * H, h + first * H)
    for n in range(first, last):
        memcpy(y + n * ldy, h + n * H, H * sizeof(real))


cdef void backward_rows(Py_ssize_t first, Py_ssize_t last, Py_ssize_t H, real *gates, const real *c_prev, const real *dy,
                        Py_ssize_t ldy, real *dh, real *dc, real *dh_all, real *dc_all) noexcept nogil:
    """Rows first..last of one step."""
    rows_backward(last - first, H, gates + first * 4 * H, c_prev + first * H, NULL if dy == NULL else dy + first * ldy, ldy,
                  dh + first * H, dc + first * H, NULL if dh_all == NULL else dh_all + first * H,
                  NULL if dc_all == NULL else dc_all + first * H)


cdef void pointwise_forward(Py_ssize_t rows, Py_ssize_t H, const real *bias, real *gates, real *c, real *h, real *y,
                            Py_ssize_t ldy, int threads) noexcept nogil:
    cdef int parts = useful_threads(rows, H, threads), p
    if parts == 1:
        forward_rows(0, rows, H, bias, gates, c, h, y, ldy)
    else:
        for p in prange(parts, num_threads=parts, schedule="static"):
            forward_rows(rows * p // parts, rows * (p + 1) // parts, H, bias, gates, c, h, y, ldy)


cdef void pointwise_backward(Py_ssize_t rows, Py_ssize_t H, real *gates, const real *c_prev, const real *dy,
                             Py_ssize_t ldy, real *dh, real *dc, real *dh_all, real *dc_all, int threads) noexcept nogil:
    cdef int parts = useful_threads(rows, H, threads), p
    if parts == 1:
        backward_rows(0, rows, H, gates, c_prev, dy, ldy, dh, dc, dh_all, dc_all)
    else:
        for p in prange(parts, num_threads=parts, schedule="static"):
            backward_rows(rows * p // parts, rows * (p + 1) // parts, H, gates, c_prev, dy, ldy, dh, dc, dh_all, dc_all)


cdef struct Shape:
    Py_ssize_t steps          # T, the longest length
    Py_ssize_t inputs         # I
    Py_ssize_t hidden         # H
    Py_ssize_t block          # rows of gates that one product of x fills at most
    const Py_ssize_t *offsets # (T + 1)
    bint reverse
    int threads


cdef int run_forward(const lstmx_products *table, Shape s, const real *x, const real *w_ih, const real *w_hh,
                     const real *bias, real *h, real *c, real *y, Py_ssize_t ldy, real *gates, real *h_prev,
                     real *c_prev) except -1 nogil:
    cdef Py_ssize_t H = s.hidden, done = 0, size, t, k, n, first, start, rows
    cdef const Py_ssize_t *offsets = s.offsets
    cdef real *block
    cdef double last = lstmx_now()
    while done < s.steps:
        # The block: as many steps as fit. Its first step in time is `first`, whichever way the time runs.
        size = 0
        while done + size < s.steps:
            first = s.steps - 1 - done - size if s.reverse else done
            k = (s.steps - done) if s.reverse else done + size + 1
            if size > 0 and offsets[k] - offsets[first] > s.block:
                break
            size += 1
        first = s.steps - done - size if s.reverse else done
        start = offsets[first]
        rows = offsets[first + size] - start
        block = gates + start * 4 * H if h_prev != NULL else gates
        multiply(table, 0, 1, rows, 4 * H, s.inputs, x + start * s.inputs, s.inputs, w_ih, s.inputs, <real>0, block, 4 * H)
        for k in range(size):
            t = first + size - 1 - k if s.reverse else first + k
            n = offsets[t + 1] - offsets[t]
            if h_prev != NULL:
                memcpy(h_prev + offsets[t] * H, h, n * H * sizeof(real))
                memcpy(c_prev + offsets[t] * H, c, n * H * sizeof(real))
            multiply(table, 0, 1, n, 4 * H, H, h, H, w_hh, H, <real>1, block + (offsets[t] - start) * 4 * H, 4 * H)
            pointwise_forward(n, H, bias, block + (offsets[t] - start) * 4 * H, c, h, y + offsets[t] * ldy, ldy, s.threads)
        done += size
        look_for_signals(&last)
    return 0


cdef int run_backward(const lstmx_products *table, Shape s, const real *x, const real *w_ih, const real *w_hh,
                      real *gates, const real *h_prev, const real *c_prev, const real *dy, Py_ssize_t ldy, real *dh,
                      real *dc, real *dx, real dx_beta, real *dw_ih, real *dw_hh, real *db, real *dh_all,
                      real *dc_all) except -1 nogil:
    cdef Py_ssize_t H = s.hidden, I = s.inputs, S = s.offsets[s.steps], k, t, n, at
    cdef int format
    cdef double last = lstmx_now()
    for k in range(s.steps):
        t = k if s.reverse else s.steps - 1 - k
        at = s.offsets[t]
        n = s.offsets[t + 1] - at
        pointwise_backward(n, H, gates + at * 4 * H, c_prev + at * H, NULL if dy == NULL else dy + at * ldy, ldy, dh, dc,
                           NULL if dh_all == NULL else dh_all + at * H, NULL if dc_all == NULL else dc_all + at * H,
                           s.threads)
        multiply(table, 0, 0, n, H, 4 * H, gates + at * 4 * H, 4 * H, w_hh, H, <real>0, dh, H)
        look_for_signals(&last)
    if dx != NULL:
        multiply(table, 0, 0, S, I, 4 * H, gates, 4 * H, w_ih, I, dx_beta, dx, I)
    look_for_signals(&last)
    multiply(table, 1, 0, 4 * H, I, S, gates, 4 * H, x, I, <real>0, dw_ih, I)
    look_for_signals(&last)
    multiply(table, 1, 0, 4 * H, H, S, gates, 4 * H, h_prev, H, <real>0, dw_hh, H)
    if db != NULL:
        format = LSTMX_F32 if sizeof(real) == 4 else LSTMX_F64
        (<const lstmx_kernels *>active_isa().kernels[format]).column_sum(S, 4 * H, gates, db)
    look_for_signals(&last)
    return 0


cdef inline real *pointer(real[:, ::1] view) noexcept:
    """The data of an array that may be absent or empty."""
    return NULL if view is None or view.shape[0] == 0 else &view[0, 0]


def forward(products, const real[:, ::1] x, const real[:, ::1] w_ih, const real[:, ::1] w_hh, const real[::1] bias,
            const Py_ssize_t[::1] offsets, bint reverse, real[:, ::1] h, real[:, ::1] c, real[:, :] y,
            real[:, ::1] gates, Py_ssize_t block, int threads, real[:, ::1] h_prev=None, real[:, ::1] c_prev=None):
    """One layer, one direction, over a packed batch.

    Parameters
    ----------
    products : capsule of an engine's ``lstmx_products``
    x : (S, I)  # IN
    w_ih, w_hh, bias : (4H, I), (4H, H), (4H,) or None  # IN
    offsets : (T + 1,)  # IN, the packed rows of step t are offsets[t] : offsets[t + 1]
    reverse : whether time runs downwards
    h, c : (N, H)  # IN the initial, OUT the final state
    y : (S, H), any row stride, unit column stride  # OUT
    gates : (S, 4H) in training  # OUT the activated gates; else (block, 4H) of scratch
    block : rows of x multiplied at once
    threads : at most, for the pointwise part
    h_prev, c_prev : (S, H)  # OUT the state before each step; None in inference
    """
    cdef const lstmx_products *table = <const lstmx_products *>PyCapsule_GetPointer(products, "lstmx.products")
    cdef Shape s
    if x.shape[0] == 0:
        return
    s.steps, s.inputs, s.hidden = offsets.shape[0] - 1, x.shape[1], h.shape[1]
    s.block, s.offsets, s.reverse, s.threads = block, &offsets[0], reverse, threads
    cdef const real *b = NULL if bias is None else &bias[0]
    cdef real *hp = pointer(h_prev)
    cdef real *cp = pointer(c_prev)
    cdef Py_ssize_t ldy = y.strides[0] // <Py_ssize_t>sizeof(real)
    if 8 * x.shape[0] * s.hidden * (s.inputs + s.hidden) > 20 * FLOP_PER_MICROSECOND:
        with nogil:
            run_forward(table, s, &x[0, 0], &w_ih[0, 0], &w_hh[0, 0], b, &h[0, 0], &c[0, 0], &y[0, 0], ldy,
                        &gates[0, 0], hp, cp)
    else:
        run_forward(table, s, &x[0, 0], &w_ih[0, 0], &w_hh[0, 0], b, &h[0, 0], &c[0, 0], &y[0, 0], ldy, &gates[0, 0],
                    hp, cp)


def backward(products, const real[:, ::1] x, const real[:, ::1] w_ih, const real[:, ::1] w_hh,
             const Py_ssize_t[::1] offsets, bint reverse, real[:, ::1] gates, const real[:, ::1] h_prev,
             const real[:, ::1] c_prev, const real[:, :] dy, real[:, ::1] dh, real[:, ::1] dc, real[:, ::1] dx,
             bint add_to_dx, real[:, ::1] dw_ih, real[:, ::1] dw_hh, real[::1] db, int threads,
             real[:, ::1] dh_all=None, real[:, ::1] dc_all=None):
    """The derivative of `forward`.

    Parameters
    ----------
    x, w_ih, w_hh, offsets, reverse, h_prev, c_prev : as in `forward`  # IN
    gates : (S, 4H)  # IN the activated gates, OUT dz: the tape is consumed
    dy : (S, H), any row stride, or None for zero  # IN
    dh, dc : (N, H)  # IN the gradients of the final, OUT of the initial state
    dx : (S, I) or None  # OUT, or added to if add_to_dx
    dw_ih, dw_hh, db : (4H, I), (4H, H), (4H,) or None  # OUT
    dh_all, dc_all : (S, H) or None  # OUT dL/dh_t and dL/dc_t of every step
    """
    cdef const lstmx_products *table = <const lstmx_products *>PyCapsule_GetPointer(products, "lstmx.products")
    cdef Shape s
    if x.shape[0] == 0:
        dw_ih[:] = 0
        dw_hh[:] = 0
        if db is not None:
            db[:] = 0
        return
    s.steps, s.inputs, s.hidden = offsets.shape[0] - 1, x.shape[1], dh.shape[1]
    s.block, s.offsets, s.reverse, s.threads = 0, &offsets[0], reverse, threads
    cdef const real *dy_data = NULL if dy is None else &dy[0, 0]
    cdef Py_ssize_t ldy = 0 if dy is None else dy.strides[0] // <Py_ssize_t>sizeof(real)
    cdef real *db_data = NULL if db is None else &db[0]
    cdef real *dx_data = pointer(dx)
    cdef real *dh_slab = pointer(dh_all)
    cdef real *dc_slab = pointer(dc_all)
    cdef real beta = 1 if add_to_dx else 0
    if 24 * x.shape[0] * s.hidden * (s.inputs + s.hidden) > 20 * FLOP_PER_MICROSECOND:
        with nogil:
            run_backward(table, s, &x[0, 0], &w_ih[0, 0], &w_hh[0, 0], &gates[0, 0], &h_prev[0, 0], &c_prev[0, 0],
                         dy_data, ldy, &dh[0, 0], &dc[0, 0], dx_data, beta, &dw_ih[0, 0], &dw_hh[0, 0], db_data, dh_slab,
                         dc_slab)
    else:
        run_backward(table, s, &x[0, 0], &w_ih[0, 0], &w_hh[0, 0], &gates[0, 0], &h_prev[0, 0], &c_prev[0, 0], dy_data,
                     ldy, &dh[0, 0], &dc[0, 0], dx_data, beta, &dw_ih[0, 0], &dw_hh[0, 0], db_data, dh_slab, dc_slab)


def product(products, bint transpose_a, bint transpose_b, const real[:, ::1] a, const real[:, ::1] b, real[:, ::1] out):
    """out := op(a) op(b): the same products for layers without time (Dense)."""
    cdef const lstmx_products *table = <const lstmx_products *>PyCapsule_GetPointer(products, "lstmx.products")
    cdef Py_ssize_t k = a.shape[0] if transpose_a else a.shape[1]
    if out.shape[0] == 0 or out.shape[1] == 0:
        return
    if k == 0:
        out[:] = 0
        return
    cdef PyThreadState *saved = let_go(2 * out.shape[0] * out.shape[1] * k > 20 * FLOP_PER_MICROSECOND)
    multiply(table, transpose_a, transpose_b, out.shape[0], out.shape[1], k, &a[0, 0], a.shape[1], &b[0, 0], b.shape[1],
             <real>0, &out[0, 0], out.shape[1])
    take_back(saved)
