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

from cython.parallel cimport parallel
from libc.string cimport memset

cimport numpy as cnp

from lstmx._core.core cimport (lstmx_cancel, lstmx_cancelled, lstmx_claim, lstmx_layer, lstmx_now, lstmx_release,
                               lstmx_stopped, lstmx_team, lstmx_tile, lstmx_wait, omp_get_num_threads, omp_get_thread_num,
                               omp_in_parallel)
from lstmx._core.isa cimport format_of

cnp.import_array()

cdef extern from "Python.h":
    int check_signals "PyErr_CheckSignals"() noexcept

cdef double SIGNAL_INTERVAL = 0.05        # seconds between looks for Ctrl-C
cdef double LONG = 1e6                    # floating-point operations that take some 20 us: then the GIL is let go
cdef double WORTH_A_THREAD = 6e6          # operations of a call below which it runs serially
cdef double WORTH_A_BARRIER = 1e5         # operations of a step and thread below which the units are not split
cdef size ROWS_PER_THREAD = 4             # fewer, and the tiles are too flat: the units are split instead
cdef size SUMS = 65536                    # values of W_ih x that one block holds, if that is a few steps
cdef size FEW_STEPS = 4
cdef size CACHE = 8 << 20                 # bytes of weights that are not fetched anew at every step
cdef int MOST_THREADS = 256


cdef int interrupted() noexcept with gil:
    return check_signals()


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
                if lstmx_stopped(job.team):
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
        if lstmx_stopped(job.team):
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
    job.last = lstmx_now()
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


cdef bint long_enough(double work) noexcept nogil:
    """Whether a call of so many operations lets go of the GIL."""
    return work > LONG


cdef bint worth_threads(double work) noexcept nogil:
    """Whether a call of so many operations may have more than one thread."""
    return work > WORTH_A_THREAD


cdef size block_steps(const lstmx_tile *kernels, const lstmx_layer *l) noexcept nogil:
    """Steps whose W_ih x is summed at once."""
    return max(1, min(l.steps, max(FEW_STEPS, SUMS // max(1, l.batch * kernels.gate_width(l.hidden)))))


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


cdef bint joins(size batch, size inputs, size hidden, size itemsize, int threads) noexcept nogil:
    """Whether W_ih x is summed with W_hh h at each step: where x is short, or where rows abound and both matrices stay in
    the cache from step to step."""
    return inputs <= 8 or (batch >= 12 * threads and 4 * hidden * (inputs + hidden) * itemsize <= CACHE)


def block_of_sums(size batch, size inputs, size hidden, size steps, size itemsize, int threads, bint windows=False):
    """(steps of a block, (rows, gate_width)) of the room for W_ih x; None if it joins the steps.

    Windows share it: one row for every row of their series, and a seam for every thread.
    """
    cdef size width = tile_for(format_of_size(itemsize)).gate_width(hidden), block
    if windows:
        block = max(1, min(steps, SUMS // max(1, width * threads)))
        return block, (batch + block * threads, width)
    if joins(batch, inputs, hidden, itemsize, threads):
        return None
    block = min(steps, max(FEW_STEPS, SUMS // max(1, batch * width)))
    return block, (block * batch, width)


cdef void describe(Job *job, cnp.ndarray x, cnp.ndarray offsets, size steps, size batch, size hidden, bint reverse) noexcept:
    """The part of a job that forward and backward share; x (S, I) are packed rows."""
    cdef lstmx_layer *l = &job.layer
    memset(job, 0, sizeof(Job))
    job.team = &job.own
    job.itemsize = cnp.PyArray_ITEMSIZE(x)
    job.kernels = tile_for(format_of(x))
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
                other.last = one.last if omp_get_num_threads() == 1 else 0   # only the calling thread may look
                forward_part(other, 0, 1)
        lstmx_release(threads)
    return -1 if lstmx_cancelled(one.team) else 0


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


def set_limits(double worth_a_thread, double worth_a_barrier, size rows_per_thread):
    """Set when threads are used (see the top of this file); returns what it was. For tests and measurements."""
    global WORTH_A_THREAD, WORTH_A_BARRIER, ROWS_PER_THREAD
    before = WORTH_A_THREAD, WORTH_A_BARRIER, ROWS_PER_THREAD
    WORTH_A_THREAD, WORTH_A_BARRIER, ROWS_PER_THREAD = worth_a_thread, worth_a_barrier, rows_per_thread
    return before
