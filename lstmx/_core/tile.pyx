"""The time loop of the tile engine: one layer, one direction, forward and backward, with its threads.

c/recurrent.h has the steps, for any range of steps, rows (sequences) and units; here they are cut and shared out:

* forward: time in blocks. Where x is wide, or there are few rows, W_ih x is summed for a whole block beforehand, else it
  joins each step's products.
* backward: time in blocks of ceil(256 / N) steps, last to first. After the block's steps come its share of the weights'
  gradients and of dx, while dz is still in the cache.

Threads split the rows, each running its own through all steps; or, where there are few rows and many units, the units, with
a barrier at every step; or do without each other. All three give the same bits, because a thread owns outputs, never part
of a sum.
"""

from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cython.parallel cimport parallel
from libc.string cimport memcpy, memset

cimport numpy as cnp

from lstmx._core.core cimport (lstmx_cancel, lstmx_cancelled, lstmx_claim, lstmx_layer, lstmx_now, lstmx_release,
                               lstmx_team, lstmx_tile, lstmx_wait, omp_get_num_threads, omp_get_thread_num, omp_in_parallel)
from lstmx._core.simd cimport active_isa

cnp.import_array()

cdef extern from "Python.h":
    int check_signals "PyErr_CheckSignals"() noexcept

ctypedef Py_ssize_t size

cdef double SIGNAL_INTERVAL = 0.05        # seconds between looks for Ctrl-C
cdef double LONG = 4e5                    # floating-point operations that take some 20 us: then the GIL is let go
cdef double WORTH_A_THREAD = 2e6          # operations of a call below which it runs serially
cdef double WORTH_A_BARRIER = 1e5         # operations of a step and thread below which the units are not split
cdef size ROWS_PER_THREAD = 4             # fewer, and the tiles are too flat: the units are split instead
cdef size SUMS = 65536                    # values of W_ih x that one block holds at most
cdef size GRADIENT_ROWS = 256             # rows of one block of the weights' gradients
cdef int MOST_THREADS = 256


cdef int interrupted() noexcept with gil:
    return check_signals()


cdef inline const lstmx_tile *table_for(size itemsize) noexcept nogil:
    return active_isa().tile_f32 if itemsize == 4 else active_isa().tile_f64


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


cdef inline size rows_at(const lstmx_layer *l, size t) noexcept nogil:
    return l.batch if l.offsets == NULL else l.offsets[t + 1] - l.offsets[t]


cdef inline size first_row(const lstmx_layer *l, size t) noexcept nogil:
    return t * l.batch if l.offsets == NULL else l.offsets[t]


cdef void poll(Job *job, int me) noexcept nogil:
    """The calling thread looks for Ctrl-C now and then."""
    if me == 0 and job.last != 0 and lstmx_now() - job.last > SIGNAL_INTERVAL:
        if interrupted() != 0:
            lstmx_cancel(job.team)
        job.last = lstmx_now()


cdef size steps_of_rows(const lstmx_layer *l, size rows) noexcept nogil:
    """The steps that the first `rows` sequences run, all together."""
    cdef size t, total = 0
    if l.offsets == NULL:
        return rows * l.steps
    for t in range(l.steps):
        total += min(rows, rows_at(l, t))
    return total


cdef size row_share(const lstmx_layer *l, int part, int parts) noexcept nogil:
    """The first row of a part, so that all parts run about as many steps."""
    cdef size low = 0, high = l.batch, middle, wanted
    if l.offsets == NULL or part == 0 or part == parts:
        return l.batch * part // parts
    wanted = l.offsets[l.steps] * part // parts
    while low < high:
        middle = (low + high) // 2
        if steps_of_rows(l, middle) < wanted:
            low = middle + 1
        else:
            high = middle
    return low


cdef size panels_of(const Job *job) noexcept nogil:
    return (job.layer.hidden + job.kernels.lanes - 1) // job.kernels.lanes


cdef size groups_of(const Job *job, size n) noexcept nogil:
    return (n + 4 * job.kernels.lanes - 1) // (4 * job.kernels.lanes)


cdef void forward_part(Job *job, int me, int members) noexcept nogil:
    """One member's rows or units, all steps."""
    cdef const lstmx_tile *kernels = job.kernels
    cdef const lstmx_layer *l = &job.layer
    cdef size r0 = 0, r1 = l.batch, p0 = 0, p1 = panels_of(job), s = 0, end, k, t0, t1, t
    cdef size row_bytes = kernels.gate_width(l.hidden) * job.itemsize
    cdef size step_bytes = row_bytes if l.windows else l.batch * row_bytes
    cdef char *sums = <char *>job.sums
    if job.split_units:
        p0, p1 = p1 * me // members, p1 * (me + 1) // members
    else:
        r0, r1 = row_share(l, me, members), row_share(l, me + 1, members)
        if l.windows and sums != NULL:   # members do not share rows at the seam of their windows
            sums += (r0 + me * job.steps_per_block) * row_bytes
    while s < l.steps:
        end = min(s + job.steps_per_block, l.steps)
        if sums != NULL:
            t0, t1 = (l.steps - end, l.steps - s) if l.reverse else (s, end)
            kernels.input_sums(l, t0, t1, r0, r1, p0, p1, sums)
        if job.split_units and members > 1:
            for k in range(s, end):
                t = end - 1 - k if l.reverse else k - s
                kernels.forward_steps(l, k, k + 1, r0, r1, p0, p1,
                                      NULL if sums == NULL else sums + t * step_bytes)
                poll(job, me)
                lstmx_wait(job.team, members)
                if lstmx_cancelled(job.team):
                    return
        else:
            kernels.forward_steps(l, s, end, r0, r1, p0, p1, sums)
            poll(job, me)
            if lstmx_cancelled(job.team):
                return
        s = end


cdef void gradients_of_block(Job *job, int me, int members, size t0, size t1, bint add) noexcept nogil:
    """Weights' gradients and dx of the steps t0..t1, at most some 256 rows at once, last to first."""
    cdef const lstmx_layer *l = &job.layer
    cdef size first = first_row(l, t0), end = first_row(l, t1 - 1) + rows_at(l, t1 - 1), start
    while end > first:
        start = first + (end - 1 - first) // GRADIENT_ROWS * GRADIENT_ROWS if l.batch > GRADIENT_ROWS else first
        job.kernels.weight_gradients(l, start, end, add, me, members, job.strips + me * job.strip_bytes)
        add = True
        end = start


cdef void backward_part(Job *job, int me, int members) noexcept nogil:
    """One member's rows or units, all steps, and its outputs of the weights' gradients."""
    cdef const lstmx_tile *kernels = job.kernels
    cdef const lstmx_layer *l = &job.layer
    cdef size r0 = 0, r1 = l.batch, H = l.hidden, j0 = 0, j1 = H, g0 = 0, g1 = groups_of(job, H)
    cdef size end = l.steps, s, k, t, t0, t1
    if job.split_units:
        g0, g1 = g1 * me // members, g1 * (me + 1) // members
        j0, j1 = g0 * 4 * kernels.lanes, min(H, g1 * 4 * kernels.lanes)
    else:
        r0, r1 = row_share(l, me, members), row_share(l, me + 1, members)
    while end > 0:
        s = (end - 1) // job.steps_per_block * job.steps_per_block
        for k in range(end - 1, s - 1, -1):
            t = l.steps - 1 - k if l.reverse else k
            kernels.backward_cells(l, t, r0, r1, j0, j1)
            if job.split_units:
                lstmx_wait(job.team, members)
            kernels.backward_carry(l, t, r0, r1, g0, g1)
        poll(job, me)
        lstmx_wait(job.team, members)
        if lstmx_cancelled(job.team):
            return
        t0, t1 = (l.steps - end, l.steps - s) if l.reverse else (s, end)
        gradients_of_block(job, me, members, t0, t1, end < l.steps)
        end = s


cdef inline void part(Job *job, bint backward, int me, int members) noexcept nogil:
    if backward:
        backward_part(job, me, members)
    else:
        forward_part(job, me, members)


cdef int run(Job *job, bint backward, int budget) except -1 nogil:
    """All parts of a job, on as many of its threads as the process has left."""
    cdef int threads = lstmx_claim(1 if omp_in_parallel() else job.threads, budget)
    if threads == 1:
        part(job, backward, 0, 1)
    else:
        with parallel(num_threads=threads):
            part(job, backward, omp_get_thread_num(), omp_get_num_threads())
    lstmx_release(threads)
    return -1 if lstmx_cancelled(job.team) else 0


cdef double operations(const lstmx_layer *l) noexcept nogil:
    """Of a forward pass."""
    return 8.0 * steps_of_rows(l, l.batch) * l.hidden * (l.inputs + l.hidden)


cdef void share_out(Job *job, bint backward, int threads) noexcept nogil:
    """How many threads, and what they split."""
    cdef const lstmx_layer *l = &job.layer
    cdef size units = groups_of(job, l.hidden) if backward else panels_of(job)
    cdef double work = operations(l)
    job.split_units = 0
    job.threads = 1
    if threads < 2 or work < WORTH_A_THREAD or l.steps == 0:
        return
    threads = min(threads, MOST_THREADS)
    if l.batch >= ROWS_PER_THREAD * threads:
        job.threads = threads
        return
    if units > 1:
        threads = <int>min(threads, units)
        if work / l.steps / threads > WORTH_A_BARRIER:
            job.split_units = 1
            job.threads = threads
            return
    job.threads = max(1, <int>min(threads, l.batch // ROWS_PER_THREAD))


cdef bint joins(size batch, size inputs, int threads) noexcept nogil:
    """Whether W_ih x is summed with W_hh h at each step: where it is short, or where rows abound."""
    return inputs <= 8 or batch >= 12 * threads


cdef inline void *data(cnp.ndarray array) noexcept:
    return NULL if array is None or cnp.PyArray_SIZE(array) == 0 else cnp.PyArray_DATA(array)


cdef inline size stride(cnp.ndarray array, int axis) noexcept:
    return cnp.PyArray_STRIDE(array, axis) // cnp.PyArray_ITEMSIZE(array)


def gate_width(size hidden, size itemsize):
    """4H, rounded up to what gate panels take for each k."""
    return table_for(itemsize).gate_width(hidden)


def pack_gates(cnp.ndarray weight, cnp.ndarray panels):
    """Gate panels (K * gate_width(H),) of weight (4H, K), both contiguous."""
    cdef size K = cnp.PyArray_DIM(weight, 1), H = cnp.PyArray_DIM(weight, 0) // 4
    table_for(cnp.PyArray_ITEMSIZE(weight)).pack_gates(H, K, data(weight), data(panels))


def column_width(size n, size itemsize):
    """n, rounded up to what column panels take for each k."""
    return table_for(itemsize).column_width(n)


def pack_columns(cnp.ndarray weight, cnp.ndarray panels, bint transposed=False):
    """Column panels (K * column_width(n),) of B (K, n) = weight, or its transpose if weight is (n, K)."""
    cdef size K = cnp.PyArray_DIM(weight, transposed), n = cnp.PyArray_DIM(weight, not transposed)
    table_for(cnp.PyArray_ITEMSIZE(weight)).pack_columns(transposed, K, n, data(weight), data(panels))


def block_of_sums(size batch, size inputs, size hidden, size steps, size itemsize, int threads, bint windows=False):
    """(steps of a block, (rows, gate_width)) of the room for W_ih x; None if it joins the steps.

    Windows share it: one row for every row of their series, and a seam for every thread.
    """
    cdef size width = table_for(itemsize).gate_width(hidden), block
    if windows:
        block = max(1, min(steps, SUMS // max(1, width * threads)))
        return block, (batch + block * threads, width)
    if joins(batch, inputs, threads):
        return None
    block = max(1, min(steps, SUMS // max(1, batch * width)))
    return block, (block * batch, width)


cdef void describe(Job *job, cnp.ndarray x, cnp.ndarray offsets, size steps, size batch, size hidden, bint reverse) noexcept:
    """The part of a job that forward and backward share; x (S, I) are packed rows."""
    cdef lstmx_layer *l = &job.layer
    memset(job, 0, sizeof(Job))
    job.team = &job.own
    job.itemsize = cnp.PyArray_ITEMSIZE(x)
    job.kernels = table_for(job.itemsize)
    l.steps, l.batch, l.hidden, l.reverse = steps, batch, hidden, reverse
    l.offsets = <const size *>data(offsets)
    l.inputs = cnp.PyArray_DIM(x, 1)
    l.x, l.x_row = data(x), l.inputs
    l.x_step = batch * l.inputs


def forward(cnp.ndarray x, cnp.ndarray w_ih, cnp.ndarray w_hh, cnp.ndarray bias, cnp.ndarray offsets, size steps,
            bint reverse, cnp.ndarray h, cnp.ndarray c, cnp.ndarray y, cnp.ndarray sums, size block, bint windows,
            int threads, cnp.ndarray gates=None, cnp.ndarray h_prev=None, cnp.ndarray c_prev=None):
    """One layer, one direction, over packed rows. Arrays are of one type and, but for y, gates and h_prev, contiguous.

    Parameters
    ----------
    x : (S, I)  # IN
    w_ih, w_hh, bias : gate panels of (4H, I), (4H, H), (4H, 1)  # IN
    offsets : (T + 1,) or None if every step has N rows  # IN
    steps : T
    reverse : whether time runs downwards
    h, c : (N, H)  # IN the initial, OUT the final state
    y : (S, H), any row stride  # OUT
    sums, block : scratch and steps of a block, as `block_of_sums` gives; None and 0
    windows : whether x (N + T - 1, I) is a series, whose rows n to n + T - 1 are sequence n
    threads : at most
    gates, h_prev, c_prev : (S, 4H), (S, H), (S, H), for training  # OUT the activated gates, the state before each step
    """
    cdef Job job
    cdef size H = cnp.PyArray_DIM(h, 1), N = cnp.PyArray_DIM(h, 0)
    cdef lstmx_layer *l = &job.layer
    describe(&job, x, offsets, steps, N, H, reverse)
    if cnp.PyArray_SIZE(x) == 0:
        return
    l.w_ih, l.w_hh, l.bias = data(w_ih), data(w_hh), data(bias)
    l.h, l.c, l.y = data(h), data(c), data(y)
    l.y_row = stride(y, 0)
    l.y_step = N * l.y_row
    if gates is not None:
        l.gates, l.h_prev, l.c_prev = data(gates), data(h_prev), data(c_prev)
        l.gates_row, l.h_row = stride(gates, 0), stride(h_prev, 0)
        job.kernels.open_rows(l)
    job.sums = data(sums)
    job.steps_per_block = max(1, SUMS // max(1, N * 4 * H)) if sums is None else block
    if windows:
        l.windows, l.x_step = True, l.x_row
    share_out(&job, False, threads)
    start(&job, False, threads)
    job.kernels.close_rows(l)


cdef int start(Job *job, bint backward, int budget) except -1:
    """Lets go of the GIL for a long call."""
    if operations(&job.layer) * (3 if backward else 1) > LONG:
        with nogil:
            run(job, backward, budget)
    else:
        part(job, backward, 0, 1)
    return 0


cdef inline size gradient_steps(size batch) noexcept nogil:
    """Steps of one block of the weights' gradients."""
    return (GRADIENT_ROWS + batch - 1) // max(1, batch)


def gradient_rows(size batch, size steps):
    """The most packed rows that one block of the weights' gradients has."""
    return min(batch, GRADIENT_ROWS) if batch >= GRADIENT_ROWS else min(steps, gradient_steps(batch)) * batch


def backward(cnp.ndarray x, cnp.ndarray w_ih, cnp.ndarray w_hh, cnp.ndarray offsets, size steps, bint reverse,
             cnp.ndarray gates, cnp.ndarray h_prev, cnp.ndarray c_prev, cnp.ndarray dy, cnp.ndarray dh, cnp.ndarray dc,
             cnp.ndarray dx, bint add_to_dx, cnp.ndarray dw_ih, cnp.ndarray dw_hh, cnp.ndarray db, cnp.ndarray turned,
             cnp.ndarray strips, int threads, cnp.ndarray dh_all=None, cnp.ndarray dc_all=None):
    """The derivative of `forward`.

    Parameters
    ----------
    x, offsets, steps, reverse, h_prev, c_prev : as in `forward`  # IN
    w_ih, w_hh : column panels of (4H, I), (4H, H); w_ih may be None if dx is  # IN
    gates : (S, 4H)  # IN the activated gates, OUT dz: the tape is consumed
    dy : (S, H), any row stride, or None for zero  # IN
    dh, dc : (N, H)  # IN the gradients of the final, OUT of the initial state
    dx : (S, I) or None  # OUT, or added to if add_to_dx
    dw_ih, dw_hh, db : (4H, I), (4H, H), (4H,) or None  # OUT
    turned : (I, 4H), scratch for dw_ih where I is small, or None
    strips : (threads, gradient_rows * 4 * lanes), scratch
    dh_all, dc_all : (S, H) or None  # OUT dL/dh_t and dL/dc_t of every step
    """
    cdef Job job
    cdef size H = cnp.PyArray_DIM(dh, 1), N = cnp.PyArray_DIM(dh, 0)
    cdef lstmx_layer *l = &job.layer
    describe(&job, x, offsets, steps, N, H, reverse)
    if cnp.PyArray_SIZE(x) == 0:
        for out in (dw_ih, dw_hh, db):
            if out is not None:
                out.fill(0)
        return
    l.w_ih_columns, l.w_hh_columns = data(w_ih), data(w_hh)
    l.gates, l.h_prev, l.c_prev = data(gates), data(h_prev), data(c_prev)
    l.gates_row, l.h_row = stride(gates, 0), stride(h_prev, 0)
    if dy is not None:
        l.dy, l.dy_row = data(dy), stride(dy, 0)
    l.dh, l.dc, l.dh_all, l.dc_all = data(dh), data(dc), data(dh_all), data(dc_all)
    l.dx, l.add_to_dx = data(dx), add_to_dx
    l.dw_ih, l.dw_hh, l.db, l.dw_ih_turned = data(dw_ih), data(dw_hh), data(db), data(turned)
    job.strips = <char *>data(strips)
    job.strip_bytes = cnp.PyArray_STRIDE(strips, 0)
    job.steps_per_block = gradient_steps(N)
    share_out(&job, True, min(threads, <int>cnp.PyArray_DIM(strips, 0)))
    start(&job, True, threads)
    if turned is not None:
        job.kernels.turn(l)


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
        j.kernels.product(last - first, j.n, j.rows, <char *>j.a + first * j.rows * j.itemsize, j.rows, j.b, NULL,
                          <char *>j.out + first * j.n * j.itemsize, j.n, 0, 0,
                          (j.n + 4 * j.kernels.lanes - 1) // (4 * j.kernels.lanes))


cdef void multiply(const Matrices *j, bint outer, int wanted) noexcept:
    """On up to `wanted` threads; without the GIL if it is long."""
    cdef double work = 2.0 * j.rows * j.m * j.n
    cdef int threads
    if work < LONG:
        product_part(j, outer, 0, 1)
        return
    with nogil:
        threads = lstmx_claim(1 if omp_in_parallel() or work < WORTH_A_THREAD else wanted, wanted)
        if threads == 1:
            product_part(j, outer, 0, 1)
        else:
            with parallel(num_threads=threads):
                product_part(j, outer, omp_get_thread_num(), omp_get_num_threads())
        lstmx_release(threads)


def product(cnp.ndarray a, cnp.ndarray panels, cnp.ndarray out, int threads):
    """out (m, n) := a (m, K) B, B in column panels, on up to `threads` threads."""
    cdef Matrices j
    j.itemsize = cnp.PyArray_ITEMSIZE(a)
    j.kernels = table_for(j.itemsize)
    j.m, j.n, j.rows = cnp.PyArray_DIM(out, 0), cnp.PyArray_DIM(out, 1), cnp.PyArray_DIM(a, 1)
    j.a, j.b, j.out = data(a), data(panels), data(out)
    if j.m and j.n:
        multiply(&j, False, threads)


def outer(cnp.ndarray a, cnp.ndarray b, cnp.ndarray out, cnp.ndarray strips):
    """out (m, n) := a (rows, m)^T b (rows, n), in blocks of 256 rows, last to first.

    strips (threads, 256 * 4 * lanes) is scratch for the threads there may be.
    """
    cdef Matrices j
    j.itemsize = cnp.PyArray_ITEMSIZE(a)
    j.kernels = table_for(j.itemsize)
    j.rows, j.m, j.n = cnp.PyArray_DIM(a, 0), cnp.PyArray_DIM(a, 1), cnp.PyArray_DIM(b, 1)
    j.a, j.b, j.out = data(a), data(b), data(out)
    j.strips, j.strip_bytes = <char *>data(strips), cnp.PyArray_STRIDE(strips, 0)
    if j.rows == 0:
        out.fill(0)
    else:
        multiply(&j, True, <int>cnp.PyArray_DIM(strips, 0))


def lanes(size itemsize):
    """Values in a vector of the active instruction set."""
    return table_for(itemsize).lanes


def set_limits(double worth_a_thread, double worth_a_barrier, size rows_per_thread):
    """Set when threads are used (see the top of this file); returns what it was. For tests and measurements."""
    global WORTH_A_THREAD, WORTH_A_BARRIER, ROWS_PER_THREAD
    before = WORTH_A_THREAD, WORTH_A_BARRIER, ROWS_PER_THREAD
    WORTH_A_THREAD, WORTH_A_BARRIER, ROWS_PER_THREAD = worth_a_thread, worth_a_barrier, rows_per_thread
    return before


cdef inline void begin(cnp.ndarray a, object initial) noexcept:
    """a := initial, or 0 for None."""
    if initial is None:
        memset(cnp.PyArray_DATA(a), 0, cnp.PyArray_NBYTES(a))
    elif initial is not a:
        memcpy(cnp.PyArray_DATA(a), cnp.PyArray_DATA(<cnp.ndarray>initial), cnp.PyArray_NBYTES(a))


cdef inline bint overlap(cnp.ndarray a, cnp.ndarray b) noexcept:
    """Whether the memory from an array's lowest to its highest element meets that of another."""
    cdef char *low[2]
    cdef char *high[2]
    cdef cnp.ndarray array
    cdef int k, axis
    cdef size reach
    for k in range(2):
        array = b if k else a
        low[k] = high[k] = <char *>cnp.PyArray_DATA(array)
        high[k] += cnp.PyArray_ITEMSIZE(array)
        for axis in range(cnp.PyArray_NDIM(array)):
            reach = (cnp.PyArray_DIM(array, axis) - 1) * cnp.PyArray_STRIDE(array, axis)
            if reach < 0:
                low[k] += reach
            else:
                high[k] += reach
    return low[0] < high[1] and low[1] < high[0]


cdef struct Direction:
    const void *w_ih
    const void *w_hh
    const void *bias
    size inputs


cdef class Stack:
    """All layers and directions of an LSTM with their packed weights: inference on plain arrays in one compiled call.

    Parameters
    ----------
    panels : list of (w_ih, w_hh, bias)
        Gate panels; index layer * D + direction.
    inputs, hidden, layers, directions : int
        I, H, L, D.
    threads : callable
        What a call may use; only asked where it is long.
    """

    cdef list panels
    cdef object threads
    cdef Direction *parts
    cdef int layers, directions, type_number
    cdef size inputs, hidden, itemsize

    def __cinit__(self, list panels, size inputs, size hidden, int layers, int directions, threads):
        cdef int k
        cdef cnp.ndarray w_ih, w_hh, bias
        self.panels, self.threads = panels, threads   # keeps the arrays alive
        self.inputs, self.hidden, self.layers, self.directions = inputs, hidden, layers, directions
        self.parts = <Direction *>PyMem_Malloc(layers * directions * sizeof(Direction))
        if self.parts == NULL:
            raise MemoryError()
        for k in range(layers * directions):
            w_ih, w_hh, bias = panels[k]
            self.parts[k].w_ih, self.parts[k].w_hh, self.parts[k].bias = data(w_ih), data(w_hh), data(bias)
            self.parts[k].inputs = inputs if k < directions else directions * hidden
            self.itemsize = cnp.PyArray_ITEMSIZE(w_ih)
            self.type_number = cnp.PyArray_TYPE(w_ih)

    def __dealloc__(self):
        PyMem_Free(self.parts)

    cdef bint plain(self, object x) noexcept:
        """Whether x is an array that can be read where it lies, by whole steps of the last axis."""
        return (cnp.PyArray_CheckExact(x) and cnp.PyArray_TYPE(<cnp.ndarray>x) == self.type_number
                and cnp.PyArray_ISBEHAVED_RO(<cnp.ndarray>x))

    cdef bint state_fits(self, object a, int ndim, size batch) noexcept:
        """Whether a is a contiguous (L*D, N, H), or (L*D, H) where there is one sequence."""
        cdef cnp.ndarray array
        if not self.plain(a):
            return False
        array = <cnp.ndarray>a
        return (cnp.PyArray_IS_C_CONTIGUOUS(array) and cnp.PyArray_NDIM(array) == ndim
                and cnp.PyArray_DIM(array, 0) == self.layers * self.directions
                and cnp.PyArray_DIM(array, ndim - 1) == self.hidden
                and (ndim == 2 or cnp.PyArray_DIM(array, 1) == batch))

    cdef bint out_fits(self, object out, object state, cnp.ndarray x, int ndim, const cnp.npy_intp *y_shape,
                       int state_ndim, size batch):
        """Whether `out` is (y, (h, c)), writable, of the right shapes, overlapping nothing but the state's own arrays."""
        cdef cnp.ndarray y, a, b
        cdef int k, m
        if type(out) is not tuple or len(<tuple>out) != 2:
            return False
        pair = (<tuple>out)[1]
        if type(pair) is not tuple or len(<tuple>pair) != 2 or not self.plain((<tuple>out)[0]):
            return False
        y = <cnp.ndarray>(<tuple>out)[0]
        if cnp.PyArray_NDIM(y) != ndim or not cnp.PyArray_IS_C_CONTIGUOUS(y):
            return False
        for k in range(ndim):
            if cnp.PyArray_DIM(y, k) != y_shape[k]:
                return False
        for k in range(2):
            if not self.state_fits((<tuple>pair)[k], state_ndim, batch):
                return False
        targets = (y, (<tuple>pair)[0], (<tuple>pair)[1])
        for k in range(3):
            a = <cnp.ndarray>(<tuple>targets)[k]
            if not cnp.PyArray_ISWRITEABLE(a) or overlap(a, x):
                return False
            for m in range(k):
                if overlap(a, <cnp.ndarray>(<tuple>targets)[m]):
                    return False
            if state is not None:
                for m in range(2):
                    b = <cnp.ndarray>(<tuple>state)[m]
                    if not (b is a and m == k - 1) and overlap(a, b):
                        return False
        return True

    def run(self, x, state, out, bint step):
        """y, (h_n, c_n); None where the arguments are not plain arrays that fit, for the caller to look at.

        Parameters
        ----------
        x : (N, T, I) or (T, I); with `step` (N, I) or (I,)
        state : (h, c) or None
        out : (y, (h, c)) to write to, or None
        step : whether x has no time axis
        """
        cdef cnp.ndarray a, y, h, c
        cdef cnp.npy_intp shape[3]
        cdef int ndim, lead, k
        cdef size N = 1, T = 1, x_row = 0, x_step = 0, unit = self.itemsize, wide = self.directions * self.hidden
        if not self.plain(x):
            return None
        a = <cnp.ndarray>x
        ndim = cnp.PyArray_NDIM(a)
        lead = ndim - 1 + step   # axes before the features, counting time
        if lead < 1 or lead > 2 or cnp.PyArray_DIM(a, ndim - 1) != self.inputs:
            return None
        if self.inputs > 1 and cnp.PyArray_STRIDE(a, ndim - 1) != unit:
            return None
        if lead == 2:
            N, x_row = cnp.PyArray_DIM(a, 0), cnp.PyArray_STRIDE(a, 0)
        if not step:
            T, x_step = cnp.PyArray_DIM(a, lead - 1), cnp.PyArray_STRIDE(a, lead - 1)
        if N < 1 or T < 1 or x_row % unit or x_step % unit:
            return None
        if state is not None and not (type(state) is tuple and len(<tuple>state) == 2
                                      and self.state_fits((<tuple>state)[0], lead + 1, N)
                                      and self.state_fits((<tuple>state)[1], lead + 1, N)):
            return None
        shape[0] = N
        if not step:
            shape[lead - 1] = T
        shape[ndim - 1] = wide
        if out is None:
            y = cnp.PyArray_EMPTY(ndim, shape, self.type_number, 0)
            shape[0], shape[1], shape[lead] = self.layers * self.directions, N, self.hidden
            h = cnp.PyArray_EMPTY(lead + 1, shape, self.type_number, 0)
            c = cnp.PyArray_EMPTY(lead + 1, shape, self.type_number, 0)
        elif self.out_fits(out, state, a, ndim, shape, lead + 1, N):
            y, (h, c) = out
        else:
            return None
        begin(h, None if state is None else (<tuple>state)[0])
        begin(c, None if state is None else (<tuple>state)[1])
        self.work(cnp.PyArray_DATA(a), x_step // unit, x_row // unit, N, T, y, h, c)
        return y, (h, c)

    cdef int work(self, const void *x, size x_step, size x_row, size N, size T, cnp.ndarray y, cnp.ndarray h,
                  cnp.ndarray c) except -1:
        """All layers and directions, one after the other."""
        cdef Job jobs[2]
        cdef lstmx_layer *l
        cdef size wide = self.directions * self.hidden, H = self.hidden
        cdef cnp.npy_intp length
        cdef cnp.ndarray below = None, above
        cdef int layer, direction, k, threads
        for layer in range(self.layers):
            above = y
            if layer + 1 < self.layers:
                length = N * T * wide
                above = cnp.PyArray_EMPTY(1, &length, self.type_number, 0)
            rooms = []
            for direction in range(self.directions):
                k = layer * self.directions + direction
                l = &jobs[direction].layer
                memset(&jobs[direction], 0, sizeof(Job))
                jobs[direction].team = &jobs[direction].own
                jobs[direction].itemsize, jobs[direction].kernels = self.itemsize, table_for(self.itemsize)
                l.steps, l.batch, l.hidden, l.reverse, l.inputs = T, N, H, direction, self.parts[k].inputs
                l.x, l.x_step, l.x_row = x, x_step, x_row
                l.w_ih, l.w_hh, l.bias = self.parts[k].w_ih, self.parts[k].w_hh, self.parts[k].bias
                l.h = <char *>cnp.PyArray_DATA(h) + k * N * H * self.itemsize
                l.c = <char *>cnp.PyArray_DATA(c) + k * N * H * self.itemsize
                l.y = <char *>cnp.PyArray_DATA(above) + direction * H * self.itemsize
                l.y_step, l.y_row = wide, T * wide
                threads = self.threads() if operations(l) > WORTH_A_THREAD else 1
                rooms.append(room_for_sums(&jobs[direction], threads, self.type_number))
                share_out(&jobs[direction], False, threads)
            if self.directions == 2 and threads > 1 and (jobs[0].split_units or jobs[0].threads == 1):
                both(&jobs[0], &jobs[1], threads)
            else:
                for direction in range(self.directions):
                    start(&jobs[direction], False, threads)
            for direction in range(self.directions):
                jobs[direction].kernels.close_rows(&jobs[direction].layer)
            below = above   # held while it is read
            x, x_step, x_row = cnp.PyArray_DATA(above), wide, T * wide
        return 0


cdef int both(Job *one, Job *other, int budget) except -1:
    """Two directions side by side, a thread each: no barriers."""
    cdef int threads
    one.threads = other.threads = 1
    one.split_units = other.split_units = 0
    other.team = one.team   # cancelled together
    with nogil:
        one.last = lstmx_now()
        threads = lstmx_claim(1 if omp_in_parallel() else 2, budget)
        with parallel(num_threads=threads):
            if omp_get_thread_num() == 0:
                forward_part(one, 0, 1)
            if omp_get_thread_num() == omp_get_num_threads() - 1:
                forward_part(other, 0, 1)
        lstmx_release(threads)
    return -1 if lstmx_cancelled(one.team) else 0


cdef cnp.ndarray room_for_sums(Job *job, int threads, int type_number):
    """Sets a job's blocks and, where W_ih x is summed beforehand, their room, which the caller holds."""
    cdef lstmx_layer *l = &job.layer
    cdef size width = job.kernels.gate_width(l.hidden), line = 64 // job.itemsize
    cdef cnp.npy_intp length
    cdef cnp.ndarray room
    job.steps_per_block = max(1, min(l.steps, SUMS // (l.batch * width)))
    if joins(l.batch, l.inputs, threads):
        return None
    length = (job.steps_per_block * l.batch + 1) * width + line
    room = cnp.PyArray_EMPTY(1, &length, type_number, 0)
    job.sums = <void *>((<size_t>cnp.PyArray_DATA(room) + 63) & ~<size_t>63)
    return room
