"""The time loop: one layer, one direction, forward and backward, for every engine, with its threads.

# Design
# ------
# Which file does what. c/tile.h is the register tile, c/cell.h the cell, c/recurrent.h the steps for a range of steps, rows
# (sequences) and units; job.pyx cuts a call up, and here it is run. panels.pyx packs weights, stream.pyx calls this loop for
# plain arrays, dense.pyx for layers without time; blas.pyx has products to take the tile's place.
#
# Packed rows. At step t only the sequences that still run exist, and since a batch is sorted by length they are the first
# n_t. The rows of step t are offsets[t] : offsets[t + 1] of every packed array, S = the sum of lengths in all. Nothing is
# computed on padding, and a reversed direction walks t downwards: a sequence joins at its own last step.
#
# Two paths. The *fused* one is the plain cell on the tile: sums and cell stay in registers, and h is read from y. The
# *general* one is every other cell and every other engine: the engine's products into rows z, then the cell on whole rows.
# Backward is one path: the cell's derivative, dh = dz W_hh, and, block by block, dx and the weights' gradients.
#
# Blocks. Forward: W_ih x is summed for a whole block of steps where x is wide or rows are few, else it joins each step's
# products. Backward: blocks of ceil(256 / N) steps, last to first; a block's share of dx and of the weights' gradients comes
# while its dz is still in the cache.
#
# Who owns what. The caller owns every array; a Direction holds a layer's weights and is never changed; a Job lives on the
# stack of one call. Nothing here allocates.
#
# Threads. `launch` alone makes them, and lets go of the GIL for long calls. They take shares of the rows from a counter,
# block by block, and in backward shares of the weights' gradients between; or, where rows are few and units many, they
# split the units, with a barrier at every step. A thread owns outputs, never part of a sum: any number of threads gives
# the same bits. The calling thread looks for Ctrl-C every 50 ms at the end
# of a block.
"""

from cython.parallel cimport parallel

cimport numpy as cnp

from lstmx._core.core cimport (flush_subnormals, let_go, LSTMX_OPENMP, lstmx_await, lstmx_cancel, lstmx_cancelled, lstmx_claim,
                               lstmx_finish, lstmx_layer, lstmx_now, lstmx_products, lstmx_release, lstmx_shares,
                               lstmx_stopped, lstmx_take, lstmx_tile, lstmx_wait, omp_get_max_threads, omp_get_num_threads,
                               omp_get_thread_num, omp_in_parallel, PyThreadState, restore_control, take_back)
from lstmx._core.job cimport (begin, cut_columns, cut_rows, data, Direction, first_row, gradient_rows, gradient_steps,
                              groups_of, Job, MOST_THREADS, operations, panels_of, place, room_for_sums, row_share, rows_at, share_out,
                              size, stride, strip, worth_threads)

cnp.import_array()

cdef extern from "Python.h":
    int check_signals "PyErr_CheckSignals"() noexcept

cdef double SIGNAL_INTERVAL = 0.05        # seconds between looks for Ctrl-C
cdef double LONG_WORK = 1e6               # floating-point operations that take some 20 us: then the GIL is let go
cdef bint recording = False               # see record_work
cdef double in_teams = 0
cdef double busy[MOST_THREADS]


def openmp():
    """Whether this build has OpenMP."""
    return bool(LSTMX_OPENMP)


def max_threads():
    """What OpenMP would give a parallel region now: OMP_NUM_THREADS, OMP_THREAD_LIMIT and the like."""
    return omp_get_max_threads()


# Forward.

cdef int interrupted() noexcept with gil:
    return check_signals()


cdef void poll(Job *job, int me) noexcept nogil:
    """The calling thread looks for Ctrl-C, every SIGNAL_INTERVAL."""
    if me == 0 and job.last != 0 and lstmx_now() - job.last > SIGNAL_INTERVAL:
        restore_control(job.control)   # a signal handler is Python
        if interrupted() != 0:
            lstmx_cancel(job.team)
        flush_subnormals()
        job.last = lstmx_now()


cdef void general_block(const Job *job, size s0, size s1, size r0, size r1) noexcept nogil:
    """The steps s0..s1 of rows r0..r1 on the general path: products into z, then the cell."""
    cdef const lstmx_layer *l = &job.layer
    cdef size H = l.hidden, P = l.outputs, width, groups = groups_of(job, 4 * H), t0, t1, s, t, end, base, first
    cdef char *z
    cdef void *row
    cdef bint packed = l.offsets != NULL or l.x_step == l.batch * l.x_row
    cdef bint whole = r0 == 0 and r1 == l.batch and packed and not l.windows   # x and z lie row after row
    t0, t1 = (l.steps - s1, l.steps - s0) if l.reverse else (s0, s1)
    base = 0 if l.gates != NULL else first_row(l, t0)
    z = <char *>(job.sums if l.gates == NULL else l.gates)
    width = job.kernels.gate_width(H) if l.gates == NULL else l.gates_row
    if whole:
        first = first_row(l, t0)
        job.products.product(first_row(l, t1 - 1) + rows_at(l, t1 - 1) - first, 4 * H, l.inputs,
                             place(job, l.x, first * l.x_row), l.x_row, l.w_ih, place(job, z, (first - base) * width), width,
                             0, 0, groups)
    for s in range(s0, s1):
        t = l.steps - 1 - s if l.reverse else s
        end = min(r1, rows_at(l, t))
        if end <= r0:
            continue
        row = place(job, z, (first_row(l, t) - base + r0) * width)
        if not whole:
            first = (l.offsets[t] * l.x_row if l.offsets != NULL else t * l.x_step) + r0 * l.x_row
            job.products.product(end - r0, 4 * H, l.inputs, place(job, l.x, first), l.x_row, l.w_ih, row, width, 0, 0, groups)
        job.products.product(end - r0, 4 * H, P, place(job, l.h, r0 * P), P, l.w_hh, row, width, 1, 0, groups)
        job.kernels.forward_cells(l, t, r0, end, row, width)


cdef void forward_block(const Job *job, size s, size end, size r0, size r1, size p0, size p1, char *sums) noexcept nogil:
    """The steps s..end of rows r0..r1 and panels p0..p1."""
    cdef const lstmx_layer *l = &job.layer
    if not job.fused:
        general_block(job, s, end, r0, r1)
        return
    if sums != NULL:
        input_sums(job, s, end, r0, r1, p0, p1, sums)
    job.kernels.forward_steps(l, s, end, r0, r1, p0, p1, sums)


cdef void input_sums(const Job *job, size s, size end, size r0, size r1, size p0, size p1, char *sums) noexcept nogil:
    """W_ih x of the steps s..end, in the direction's own order."""
    cdef const lstmx_layer *l = &job.layer
    if l.reverse:
        s, end = l.steps - end, l.steps - s
    job.kernels.input_sums(l, s, end, r0, r1, p0, p1, sums)


cdef void forward_units(Job *job, int me, int members) noexcept nogil:
    """One member's units of all rows, with a barrier at every step."""
    cdef const lstmx_layer *l = &job.layer
    cdef size panels = panels_of(job), p0 = panels * me // members, p1 = panels * (me + 1) // members, s = 0, end, k, t
    cdef size step_bytes = job.kernels.gate_width(l.hidden) * job.itemsize * (1 if l.windows else l.batch)
    cdef char *sums = <char *>job.sums
    while s < l.steps:
        end = min(s + job.steps_per_block, l.steps)
        if sums != NULL:
            input_sums(job, s, end, 0, l.batch, p0, p1, sums)
        for k in range(s, end):
            t = end - 1 - k if l.reverse else k - s
            job.kernels.forward_steps(l, k, k + 1, 0, l.batch, p0, p1, NULL if sums == NULL else sums + t * step_bytes)
            poll(job, me)
            wait(job, me, members)
            if lstmx_stopped(job.team):
                return
        s = end


cdef void forward_shares(Job *job, int me) noexcept nogil:
    """Shares of rows, as long as there are any: the next block of steps of the next share."""
    cdef const lstmx_layer *l = &job.layer
    cdef lstmx_shares *shares = job.shares
    cdef size item, block, s
    cdef int share
    while True:
        item = lstmx_take(shares)
        block, share = item // shares.count, <int>(item % shares.count)
        s = block * job.steps_per_block
        if s >= l.steps or not ready(job, me, shares, share, block):
            return
        forward_block(job, s, min(s + job.steps_per_block, l.steps), shares.first[share], shares.first[share + 1], 0,
                      panels_of(job), <char *>job.sums)
        lstmx_finish(shares, share, block + 1)
        poll(job, me)
        if lstmx_cancelled(job.team):
            return


cdef void forward_part(Job *job, int me, int members) noexcept nogil:
    """One member's rows or units, all steps."""
    cdef const lstmx_layer *l = &job.layer
    cdef size r0 = row_share(l, me, members), r1 = row_share(l, me + 1, members), s = 0, end
    cdef char *sums = <char *>job.sums
    if members > 1 and job.split_units:
        forward_units(job, me, members)
        return
    if members > 1 and job.shares != NULL:
        forward_shares(job, me)
        return
    if l.windows and sums != NULL:   # members do not share rows at the seam of their windows
        sums += (r0 + me * job.steps_per_block) * job.kernels.gate_width(l.hidden) * job.itemsize
    while s < l.steps:
        end = min(s + job.steps_per_block, l.steps)
        forward_block(job, s, end, r0, r1, 0, panels_of(job), sums)
        poll(job, me)
        if lstmx_cancelled(job.team):
            return
        s = end


# Backward.

cdef size column_share(const Job *job, int part, int parts) noexcept nogil:
    """The first column of dz of a part of the weights' gradients: whole vectors."""
    cdef size lanes = job.kernels.lanes, width = 4 * job.layer.hidden
    return min(width, (width + lanes - 1) // lanes * part // parts * lanes)


cdef void block_gradients(const Job *job, int me, int part, int parts, size r0, size r1, bint add) noexcept nogil:
    """A part of the weights' gradients and of dx over the packed rows r0..r1: every output belongs to one part."""
    cdef const lstmx_layer *l = &job.layer
    cdef const lstmx_products *products = job.products
    cdef size H = l.hidden, P = l.outputs, I = l.inputs, rows = r1 - r0, m0, m1
    cdef void *dz = place(job, l.gates, r0 * l.gates_row)
    cdef void *x = place(job, l.x, r0 * l.x_row)
    cdef void *strip = NULL if job.strips == NULL else job.strips + me * job.strip_bytes
    m0, m1 = column_share(job, part, parts), column_share(job, part + 1, parts)
    if m0 < m1:
        products.outer(rows, m0, m1, P, dz, l.gates_row, place(job, l.h_prev, r0 * l.h_row), l.h_row, job.dw_hh, P, add, strip)
        if job.dw_ih_transposed != NULL:
            products.outer(rows, 0, I, m1 - m0, x, l.x_row, place(job, dz, m0), l.gates_row,
                           place(job, job.dw_ih_transposed, m0), 4 * H, add, NULL)
        else:
            products.outer(rows, m0, m1, I, dz, l.gates_row, x, l.x_row, job.dw_ih, I, add, strip)
        if job.db != NULL:
            job.kernels.sum_rows(rows, m1 - m0, place(job, dz, m0), l.gates_row, place(job, job.db, m0), add)
    if job.dx != NULL:
        m0, m1 = r0 + rows * part // parts, r0 + rows * (part + 1) // parts
        products.product(m1 - m0, I, 4 * H, place(job, l.gates, m0 * l.gates_row), l.gates_row, job.w_ih,
                         place(job, job.dx, m0 * I), I, job.add_to_dx, 0, groups_of(job, I))


cdef void gradients(const Job *job, int me, int part, int parts, size s, size end) noexcept nogil:
    """A part of the weights' gradients and of dx of the steps s..end, at most some 256 rows at once, last to first."""
    cdef const lstmx_layer *l = &job.layer
    cdef size t0, t1, r0, r1, most = gradient_rows(job.serial), start
    cdef bint add = end < l.steps
    t0, t1 = (l.steps - end, l.steps - s) if l.reverse else (s, end)
    r0, r1 = first_row(l, t0), first_row(l, t1 - 1) + rows_at(l, t1 - 1)
    while r1 > r0:
        start = r0 + (r1 - 1 - r0) // most * most if l.batch > most else r0
        block_gradients(job, me, part, parts, start, r1, add)
        add = True
        r1 = start


cdef void backward_step(const Job *job, size k, size r0, size r1) noexcept nogil:
    """dz and dh of rows r0..r1 at the step k of the direction."""
    cdef const lstmx_layer *l = &job.layer
    cdef size t = l.steps - 1 - k if l.reverse else k, stop = min(r1, rows_at(l, t))
    job.kernels.backward_cells(l, t, r0, stop, 0, l.hidden)
    step_gradient(job, t, r0, stop, 0, groups_of(job, l.outputs))


cdef void step_gradient(const Job *job, size t, size r0, size r1, size g0, size g1) noexcept nogil:
    """dh = dz W_hh at t, for rows r0..r1 and groups g0..g1 of its columns."""
    cdef const lstmx_layer *l = &job.layer
    if r0 < r1:
        job.products.product(r1 - r0, l.outputs, 4 * l.hidden, place(job, l.gates, (first_row(l, t) + r0) * l.gates_row),
                             l.gates_row, job.w_hh, place(job, l.dh, r0 * l.outputs), l.outputs, 0, g0, g1)


cdef void backward_shares(Job *job, int me) noexcept nogil:
    """Block by block, shares of the rows and then of the weights' gradients, as long as there are any."""
    cdef const lstmx_layer *l = &job.layer
    cdef lstmx_shares *rows = job.shares
    cdef lstmx_shares *columns = job.columns
    cdef size blocks = (l.steps - 1) // job.steps_per_block + 1, item, block, s, end, k
    cdef int parts = rows.count + columns.count, part
    while True:
        item = lstmx_take(rows)
        block, part = item // parts, <int>(item % parts)
        if block >= blocks:
            return
        s = (blocks - 1 - block) * job.steps_per_block
        end = min(s + job.steps_per_block, l.steps)
        if part < rows.count:
            if not ready(job, me, rows, part, block):
                return
            for k in range(end - 1, s - 1, -1):
                backward_step(job, k, rows.first[part], rows.first[part + 1])
            lstmx_finish(rows, part, block + 1)
        else:
            part -= rows.count
            for k in range(rows.count):
                if not ready(job, me, rows, <int>k, block + 1):
                    return
            if not ready(job, me, columns, part, block):
                return
            gradients(job, me, part, columns.count, s, end)
            lstmx_finish(columns, part, block + 1)
        poll(job, me)
        if lstmx_cancelled(job.team):
            return


cdef void backward_part(Job *job, int me, int members) noexcept nogil:
    """One member's rows or units, all steps, and its outputs of the weights' gradients."""
    cdef const lstmx_layer *l = &job.layer
    cdef size g0, g1, j0, j1, end = l.steps, s, k, t, stop
    if members > 1 and job.shares != NULL:
        backward_shares(job, me)
        return
    g0, g1 = groups_of(job, l.outputs) * me // members, groups_of(job, l.outputs) * (me + 1) // members
    j0, j1 = g0 * 4 * job.kernels.lanes, min(l.hidden, g1 * 4 * job.kernels.lanes)
    while end > 0:
        s = (end - 1) // job.steps_per_block * job.steps_per_block
        for k in range(end - 1, s - 1, -1):
            if members == 1:
                backward_step(job, k, 0, l.batch)
                continue
            t = l.steps - 1 - k if l.reverse else k
            stop = rows_at(l, t)
            job.kernels.backward_cells(l, t, 0, stop, j0, j1)
            wait(job, me, members)
            step_gradient(job, t, 0, stop, g0, g1)
        poll(job, me)
        wait(job, me, members)
        if lstmx_stopped(job.team):
            return
        gradients(job, me, me, members, s, end)
        end = s


# Threads, the GIL and Ctrl-C: here and nowhere else.

cdef void flushed(part_function part, void *task, int me, int members) noexcept nogil:
    """A part with subnormals flushed to zero."""
    cdef unsigned saved = flush_subnormals()
    part(task, me, members)
    restore_control(saved)


cdef void team(part_function part, void *task, int threads) noexcept nogil:
    global in_teams
    cdef double start = clock()
    with parallel(num_threads=threads):
        member(part, task, omp_get_thread_num(), omp_get_num_threads())
    if start:
        in_teams += lstmx_now() - start


cdef void member(part_function part, void *task, int me, int members) noexcept nogil:
    cdef double start = clock()
    flushed(part, task, me, members)
    if start and me < MOST_THREADS:
        busy[me] += lstmx_now() - start


cdef inline double clock() noexcept nogil:
    """The time if it is recorded, else 0."""
    return lstmx_now() if recording else 0


cdef void wait(const Job *job, int me, int members) noexcept nogil:
    """The barrier of a team."""
    cdef double start = clock()
    lstmx_wait(job.team, members)
    if start:
        busy[me] -= lstmx_now() - start


cdef bint ready(const Job *job, int me, const lstmx_shares *shares, int share, size blocks) noexcept nogil:
    """Waits until a share has `blocks` behind it; False if the team is cancelled."""
    cdef double start = clock()
    cdef bint found = lstmx_await(shares, share, blocks, job.team)
    if start:
        busy[me] -= lstmx_now() - start
    return found


def record_work(bint on):
    """Begin or end to record what teams of threads do, for a benchmark that makes one call at a time; returns what was
    recorded until then: the seconds spent in teams, and those in which each member worked and did not wait."""
    global recording, in_teams
    found = in_teams, [busy[k] for k in range(MOST_THREADS)]
    recording, in_teams = on, 0
    for k in range(MOST_THREADS):
        busy[k] = 0
    return found


cdef int launch(part_function part, void *task, int wanted, int budget, double work) except -1:
    """Runs all parts of a task of so many operations, on up to `wanted` threads as far as the process has them left of
    `budget`; a long one lets go of the GIL."""
    cdef PyThreadState *state
    cdef int threads
    if work <= LONG_WORK:
        flushed(part, task, 0, 1)
        return 0
    state = let_go(True)
    threads = lstmx_claim(1 if omp_in_parallel() or not worth_threads(work) else wanted, budget)
    if threads == 1:
        flushed(part, task, 0, 1)
    else:
        team(part, task, threads)
    lstmx_release(threads)
    take_back(state)
    return 0


cdef void job_part(void *task, int me, int members) noexcept nogil:
    cdef Job *job = <Job *>task
    if job.backward:
        backward_part(job, me, members)
    else:
        forward_part(job, me, members)


cdef void set_clock(Job *job, double work) noexcept:
    """What `poll` needs, if the call is long."""
    job.last = lstmx_now() if work > LONG_WORK else 0
    job.control = flush_subnormals()
    restore_control(job.control)


cdef int run(Job *job, int budget) except -1:
    """A job that `share_out` has shared out."""
    cdef double work = operations(job) * (3 if job.backward else 1)
    cdef lstmx_shares shares, columns
    if job.threads > 1 and not job.split_units and not job.layer.windows:
        cut_rows(job, &shares)
        job.shares = &shares
        if job.backward:
            cut_columns(job, &columns)
            job.columns = &columns
    set_clock(job, work)
    launch(job_part, job, job.threads, budget, work)
    return -1 if lstmx_cancelled(job.team) else 0   # the exception is set


cdef void both_part(void *task, int me, int members) noexcept nogil:
    cdef Job **jobs = <Job **>task
    if me == 0:
        forward_part(jobs[0], 0, 1)
    if me == members - 1:
        jobs[1].last = jobs[0].last if members == 1 else 0   # only the calling thread may look for signals
        forward_part(jobs[1], 0, 1)


cdef int run_both(Job *one, Job *other, int budget) except -1:
    """Two directions side by side, a thread each: no barriers."""
    cdef Job *jobs[2]
    jobs[0], jobs[1] = one, other
    one.split_units = other.split_units = 0
    other.team = one.team   # cancelled together
    set_clock(one, LONG_WORK + 1)
    other.control = one.control
    launch(both_part, jobs, 2, budget, operations(one) + operations(other))
    return -1 if lstmx_cancelled(one.team) else 0


# The loop on packed rows.

cdef void set_rows(lstmx_layer *l, cnp.ndarray offsets, cnp.ndarray gates, cnp.ndarray h_prev, cnp.ndarray c_prev) noexcept:
    l.offsets = <const size *>data(offsets)
    if gates is not None:
        l.gates, l.h_prev, l.c_prev = data(gates), data(h_prev), data(c_prev)
        l.gates_row, l.h_row = stride(gates, 0), stride(h_prev, 0)


def forward(Direction direction, cnp.ndarray x, cnp.ndarray offsets, size steps, bint reverse, cnp.ndarray h, cnp.ndarray c,
            cnp.ndarray y, int threads, allocate, bint windows=False, cnp.ndarray gates=None, cnp.ndarray h_prev=None,
            cnp.ndarray c_prev=None):
    """One layer, one direction, over packed rows. Arrays are of one type and, but for y, gates and h_prev, contiguous.

    Parameters
    ----------
    direction : what is computed
    x : (S, I)  # IN
    offsets : (T + 1,) or None if every step has N rows  # IN
    steps : T
    reverse : whether time runs downwards
    h, c : (N, P), (N, H)  # IN the initial, OUT the final state
    y : (S, P), any row stride  # OUT
    threads : at most
    allocate : callable (values) -> ndarray, for the room that a block needs
    windows : whether x (N + T - 1, I) is a series, whose rows n to n + T - 1 are sequence n
    gates, h_prev, c_prev : (S, 4H), (S, P), (S, H), for training  # OUT the activated gates, the state before each step
    """
    cdef Job job
    cdef size N = cnp.PyArray_DIM(h, 0), I = cnp.PyArray_DIM(x, 1), room
    cdef lstmx_layer *l = &job.layer
    if cnp.PyArray_SIZE(x) == 0:
        return
    begin(&job, direction, steps, N, reverse, data(x), I if windows else N * I, I)
    set_rows(l, offsets, gates, h_prev, c_prev)
    l.windows = windows
    l.h, l.c, l.y = data(h), data(c), data(y)
    l.y_row = stride(y, 0)
    l.y_step = N * l.y_row
    room = room_for_sums(&job, threads)
    sums = allocate(room) if room else None
    job.sums = data(sums)
    share_out(&job, threads)
    if job.fused and gates is not None:
        job.kernels.open_rows(l)
    run(&job, threads)
    if job.fused:
        job.kernels.close_rows(l)


def backward(Direction direction, cnp.ndarray x, cnp.ndarray offsets, size steps, bint reverse, cnp.ndarray gates,
             cnp.ndarray h_prev, cnp.ndarray c_prev, cnp.ndarray dy, cnp.ndarray dh, cnp.ndarray dc, cnp.ndarray dx,
             bint add_to_dx, cnp.ndarray dw_ih, cnp.ndarray dw_hh, cnp.ndarray db, int threads, allocate,
             cnp.ndarray dh_all=None, cnp.ndarray dc_all=None):
    """The derivative of `forward`.

    Parameters
    ----------
    x, offsets, steps, reverse, h_prev, c_prev : as in `forward`  # IN
    gates : (S, 4H)  # IN the activated gates, OUT dz: the tape is consumed
    dy : (S, P), any row stride, or None for zero  # IN
    dh, dc : (N, P), (N, H)  # IN the gradients of the final, OUT of the initial state
    dx : (S, I) or None  # OUT, or added to if add_to_dx
    dw_ih, dw_hh, db : (4H, I), (4H, P), (4H,) or None  # OUT
    threads, allocate : as in `forward`
    dh_all, dc_all : (S, P), (S, H) or None  # OUT dL/dh_t and dL/dc_t of every step
    """
    cdef Job job
    cdef size N = cnp.PyArray_DIM(dh, 0), I = cnp.PyArray_DIM(x, 1), scratch
    cdef lstmx_layer *l = &job.layer
    if cnp.PyArray_SIZE(x) == 0:
        for out in (dw_ih, dw_hh, db):
            if out is not None:
                out.fill(0)
        return
    begin(&job, direction, steps, N, reverse, data(x), N * I, I)
    set_rows(l, offsets, gates, h_prev, c_prev)
    if dy is not None:
        l.dy, l.dy_row = data(dy), stride(dy, 0)
    l.dh, l.dc, l.dh_all, l.dc_all = data(dh), data(dc), data(dh_all), data(dc_all)
    job.dx, job.add_to_dx = data(dx), add_to_dx
    job.dw_ih, job.dw_hh, job.db = data(dw_ih), data(dw_hh), data(db)
    job.steps_per_block = gradient_steps(N, job.serial)
    share_out(&job, threads)
    strips = transposed = None
    if not job.serial:
        scratch = strip(N, steps, job.kernels.lanes)
        strips = allocate(job.threads * scratch)
        job.strips, job.strip_bytes = <char *>data(strips), scratch * job.itemsize
        if I < job.kernels.lanes:
            transposed = allocate(4 * l.hidden * I)
            job.dw_ih_transposed = data(transposed)
    run(&job, threads)
    if transposed is not None:
        dw_ih[...] = transposed.reshape(I, 4 * l.hidden).T
