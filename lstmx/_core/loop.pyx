"""The time loop: one layer, one direction, forward and backward, for every engine, with its threads.

# Design
# ------
# Which file does what. c/tile.h is the register tile, c/cell.h the cell, c/family.h its rarer kin, c/recurrent.h the steps for
# a range of steps, rows (sequences) and units, c/outer.h what backward adds up over rows, blocks.pyx the arithmetic of a block of
# steps; job.pyx cuts a call up, and here it is run. panels.pyx packs weights; stream.pyx calls this loop for plain arrays, passes.pyx
# in training for all layers, dense.pyx for layers without time; blas.pyx has products to take the tile's place.
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
# products. Backward: blocks of ceil(256 / N) steps, of a cohort as many more as make 256 rows, last to first; a block's share of dx
# and of the weights' gradients comes while its dz is still in the cache.
#
# Cohorts. In training a batch of the plain cell is cut into cohorts of sequences; how many depends on the batch and the size of the
# layer alone. The rows of a cohort's tape lie together, and its weights' gradients are summed by themselves; in the end those of
# all cohorts are added in order. So a thread can have a cohort to itself, all steps forward and backward, and what it wrote is still
# in its cache when it comes back.
#
# Who owns what. The caller owns every array; a Direction holds a layer's weights and is never changed; a Job lives on the
# stack of one call. Nothing here allocates.
#
# Threads. `launch` alone makes them, and lets go of the GIL for long calls. They have whole cohorts where there are enough. Or
# forward each has rows, and who is done takes what nobody has begun, then half of another's; backward they take shares of the rows
# from a counter, block by block, and shares of the weights' gradients between. Or, where rows are few and units many, they split the
# units, with a barrier at every step. A thread owns outputs, never part of a sum: any number of threads gives the same bits. The
# calling thread looks for Ctrl-C every 50 ms at the end of a block, and when it waits for the others to end.
"""

from cython.parallel cimport parallel

cimport numpy as cnp

import numpy as np

from lstmx._core.allocate cimport room, slab
from lstmx._core.blocks cimport backward_step, forward_block, gradients, input_sums, step_gradient
from lstmx._core.core cimport (flush_subnormals, let_go, LSTMX_OPENMP, lstmx_apart, lstmx_asker, lstmx_await, lstmx_cancel,
                               lstmx_cancelled, lstmx_claim, lstmx_close, lstmx_cpus, lstmx_finish, lstmx_get, lstmx_give, lstmx_layer,
                               lstmx_leave, lstmx_left, lstmx_now, lstmx_pause, lstmx_release, lstmx_rows, lstmx_shares, lstmx_stopped,
                               lstmx_take, lstmx_wait, omp_get_max_threads, omp_get_num_threads, omp_get_thread_num, omp_in_parallel,
                               PyThreadState, restore_control, take_back)
from lstmx._core.job cimport (begin, cohort_steps, cut_cohorts, cut_columns, cut_rows, data, deal_rows, Direction, gradient_steps,
                              groups_of, half_of, Job, MOST_COHORTS, MOST_THREADS, operations, own_cohorts, panels_of, place,
                              room_for_sums, row_share, rows_at, share_out, side_by_side, size, stride, strip_rows, turns,
                              worth_threads)

cnp.import_array()

cdef extern from "Python.h":
    int check_signals "PyErr_CheckSignals"() noexcept

cdef double SIGNAL_INTERVAL = 0.05        # seconds between looks for Ctrl-C
cdef size ROWS_TOGETHER = 64              # of cohorts that a thread takes forward step by step
cdef double LONG_WORK = 1e6               # floating-point operations that take some 20 us: then the GIL is let go
cdef bint recording = False               # see record_work
cdef double in_teams = 0
cdef double busy[MOST_THREADS]
cdef double patience = 2e-4               # seconds that the members of a team wait for others in any case; see c/team.h
cdef double A_FIFTH = 2e-12               # and for an operation: a fifth of the time that one thread takes for it


def openmp():
    """Whether this build has OpenMP."""
    return bool(LSTMX_OPENMP)


def max_threads():
    """What OpenMP would give a parallel region now: OMP_NUM_THREADS, OMP_THREAD_LIMIT and the like."""
    return omp_get_max_threads()


def cpus():
    """The CPUs that the calling thread may run on; 0 where that is not known."""
    return lstmx_cpus()


# Forward.

cdef int interrupted() noexcept with gil:
    return check_signals()


cdef bint stopped(double *last) noexcept nogil:
    """Whether Ctrl-C ends a call: the calling thread looks for it every SIGNAL_INTERVAL, and `last` is when it did."""
    cdef double now = lstmx_now()
    if now - last[0] <= SIGNAL_INTERVAL or omp_get_thread_num() != 0:
        return False
    last[0] = now
    return interrupted() != 0


cdef void poll(Job *job, int me) noexcept nogil:
    """The calling thread looks for Ctrl-C, every SIGNAL_INTERVAL."""
    if me == 0 and job.last != 0 and lstmx_now() - job.last > SIGNAL_INTERVAL:
        restore_control(job.control)   # a signal handler is Python
        if interrupted() != 0:
            lstmx_cancel(job.team)
        flush_subnormals()
        job.last = lstmx_now()


cdef void forward_units(Job *job, int me, int members) noexcept nogil:
    """One member's units of all rows, with a barrier at every step."""
    cdef const lstmx_layer *l = &job.layer
    cdef size panels = panels_of(job), p0 = panels * me // members, p1 = panels * (me + 1) // members, s = 0, end, k
    cdef char *sums = <char *>job.sums
    while s < l.steps:
        end = min(s + job.steps_per_block, l.steps)
        if sums != NULL:
            input_sums(job, s, end, 0, l.batch, p0, p1, sums)
        for k in range(s, end):
            job.kernels.forward_steps(l, k, k + 1, 0, l.batch, p0, p1, sums_at(job, s, end, k))
            poll(job, me)
            wait(job, me, members)
            if lstmx_stopped(job.team) or lstmx_apart(job.team) and me != 0:
                return
            if lstmx_apart(job.team):
                p0, p1, members = 0, panels, 1
        s = end


cdef void forward_dealt(Job *job, int me) noexcept nogil:
    """The rows of a member, then what others have left of theirs, while one has enough to share."""
    while more_rows(job, me):
        forward_rows(job, me, &job.rows[me])


cdef void forward_rows(Job *job, int me, lstmx_rows *own) noexcept nogil:
    """The rows that a member has now, block by block; after each another may take half of them."""
    cdef size end, middle
    cdef int asker
    while own.step < job.layer.steps and not lstmx_cancelled(job.team):
        end = min(own.step + job.steps_per_block, job.layer.steps)
        block_of_rows(job, own.step, end, own.first, own.stop)
        own.step = end
        poll(job, me)
        asker = lstmx_asker(own)
        if asker >= 0:
            middle = half_of(job, own)
            if middle > 0:
                lstmx_give(own, &job.rows[asker], middle)
            else:
                lstmx_close(job.rows, me)
    lstmx_close(job.rows, me)


cdef void block_of_rows(Job *job, size s, size end, size first, size stop) noexcept nogil:
    """The steps s..end of rows first..stop, which may lie in several cohorts."""
    cdef Job *one
    cdef size before = 0, r0, r1
    cdef int q
    for q in range(job.cohorts):
        one = &job.cohort[q]
        r0, r1 = max(first - before, 0), min(stop - before, one.layer.batch)
        if r0 < r1:
            forward_block(one, s, end, r0, r1, 0, panels_of(job), <char *>one.sums)
        before += one.layer.batch


cdef void forward_part(Job *job, int me, int members) noexcept nogil:
    """One member's rows or units, all steps."""
    cdef const lstmx_layer *l = &job.layer
    cdef size r0, r1, s = 0, end
    cdef char *sums = <char *>job.sums
    cdef int first, last, together
    if members > 1 and job.split_units:
        forward_units(job, me, members)
        return
    if own_cohorts(job, members):
        first, last = job.cohorts * me // members, job.cohorts * (me + 1) // members
        together = <int>max(1, ROWS_TOGETHER // job.cohort[first].layer.batch)
        while first < last and not lstmx_cancelled(job.team):
            forward_cohorts(job, me, first, min(first + together, last))
            first += together
        return
    if members > 1 and job.rows != NULL:
        forward_dealt(job, me)
        return
    r0, r1 = row_share(l, me, members), row_share(l, me + 1, members)
    if l.windows and sums != NULL:   # members do not share rows at the seam of their windows
        sums += (r0 + me * job.steps_per_block) * job.kernels.gate_width(l.hidden) * job.itemsize
    while s < l.steps:
        end = min(s + job.steps_per_block, l.steps)
        forward_block(job, s, end, r0, r1, 0, panels_of(job), sums)
        poll(job, me)
        if lstmx_cancelled(job.team):
            return
        s = end


cdef void forward_cohorts(Job *job, int me, int first, int last) noexcept nogil:
    """The cohorts first..last by themselves, all steps: a panel of the weights serves them all before the next is read."""
    cdef const lstmx_layer *l
    cdef size steps = job.layer.steps, s = 0, end, k, panel
    cdef int q
    while s < steps:
        end = min(s + job.steps_per_block, steps)
        for q in range(first, last):
            l = &job.cohort[q].layer
            if job.sums != NULL:
                input_sums(&job.cohort[q], s, end, 0, l.batch, 0, panels_of(job), <char *>job.cohort[q].sums)
        for k in range(s, end):
            for panel in range(panels_of(job)):
                for q in range(first, last):
                    l = &job.cohort[q].layer
                    job.kernels.forward_steps(l, k, k + 1, 0, l.batch, panel, panel + 1, sums_at(&job.cohort[q], s, end, k))
        poll(job, me)
        if lstmx_cancelled(job.team):
            return
        s = end


cdef char *sums_at(const Job *job, size s, size end, size k) noexcept nogil:
    """Where the sums of step k are, in the direction's own order, of those of the steps s..end; NULL where there are none."""
    cdef const lstmx_layer *l = &job.layer
    cdef size t = end - 1 - k if l.reverse else k - s
    if job.sums == NULL:
        return NULL
    return <char *>place(job, job.sums, t * job.kernels.gate_width(l.hidden) * (1 if l.windows else l.batch))


# Backward.

cdef void backward_shares(Job *job, int me) noexcept nogil:
    """Block by block, shares of the rows and then of the weights' gradients, as long as there are any."""
    cdef const lstmx_layer *l = &job.layer
    cdef lstmx_shares *rows = job.shares
    cdef lstmx_shares *columns = job.columns
    cdef size blocks = (l.steps - 1) // job.steps_per_block + 1, item, block, s, end, k
    cdef int parts = rows.count + columns.count, part
    cdef Job *one
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
            one = &job.cohort[part // rows.each]
            for k in range(end - 1, s - 1, -1):
                backward_step(one, k, rows.first[part], rows.stop[part])
            lstmx_finish(rows, part, block + 1)
        else:
            part -= rows.count
            one = &job.cohort[part // columns.each]
            for k in range(part // columns.each * rows.each, (part // columns.each + 1) * rows.each):
                if not ready(job, me, rows, <int>k, block + 1):
                    return
            if not ready(job, me, columns, part, block):
                return
            gradients(one, me, part % columns.each, columns.each, s, end)
            lstmx_finish(columns, part, block + 1)
        poll(job, me)
        if lstmx_cancelled(job.team):
            return


cdef void backward_part(Job *job, int me, int members) noexcept nogil:
    """One member's rows or units, all steps, and its outputs of the weights' gradients."""
    cdef const lstmx_layer *l = &job.layer
    cdef size g0, g1, j0, j1, end = l.steps, s, k, t, stop
    cdef int first, last, together
    if members == 1 and job.cohorts == 1:
        backward_rows(job, me, 1)
        return
    if own_cohorts(job, members):
        first, last = job.cohorts * me // members, job.cohorts * (me + 1) // members
        together = min(last - first, side_by_side(job))
        while first < last and not lstmx_cancelled(job.team):
            backward_rows(&job.cohort[first], me, min(together, last - first))
            first += together
    elif job.shares != NULL:
        backward_shares(job, me)
    if job.cohorts > 1:
        add_up(job, me, members)
    if job.cohorts > 1 or job.shares != NULL:
        return
    g0, g1 = groups_of(job, l.outputs) * me // members, groups_of(job, l.outputs) * (me + 1) // members   # P is H here
    j0, j1 = g0 * 4 * job.kernels.lanes, min(l.hidden, g1 * 4 * job.kernels.lanes)
    while end > 0:
        s = (end - 1) // job.steps_per_block * job.steps_per_block
        for k in range(end - 1, s - 1, -1):
            t = l.steps - 1 - k if l.reverse else k
            stop = rows_at(l, t)
            job.kernels.backward_cells(l, t, 0, stop, j0, j1)
            wait(job, me, members)
            if lstmx_apart(job.team):
                if me != 0:
                    return
                members, g0, g1, j0, j1 = 1, 0, groups_of(job, l.outputs), 0, l.hidden
            step_gradient(job, t, 0, stop, g0, g1)
        poll(job, me)
        wait(job, me, members)
        if lstmx_stopped(job.team) or lstmx_apart(job.team) and me != 0:
            return
        if lstmx_apart(job.team):
            members, g0, g1, j0, j1 = 1, 0, groups_of(job, l.outputs), 0, l.hidden
        gradients(job, me, me, members, s, end)
        end = s


cdef void backward_rows(Job *jobs, int me, int count) noexcept nogil:
    """All rows of a job by themselves, or of `count` cohorts, all steps, and their gradients."""
    cdef Job *job
    cdef size end = jobs.layer.steps, s, k
    cdef int q
    while end > 0:
        s = (end - 1) // jobs.steps_per_block * jobs.steps_per_block
        for q in range(count):
            job = &jobs[q]
            for k in range(end - 1, s - 1, -1):
                backward_step(job, k, 0, job.layer.batch)
            poll(job, me)
            if lstmx_cancelled(job.team):
                return
            gradients(job, me, 0, 1, s, end)
        end = s


cdef void add_up(const Job *job, int me, int members) noexcept nogil:
    """One member's part of the sums over cohorts, when all are there."""
    cdef const Job *first = job.cohort
    cdef size width = job.layer.width
    wait(job, me, members)
    if lstmx_stopped(job.team) or job.more:
        return
    add_part(job, me, members, width * job.layer.inputs, first.dw_ih, job.dw_ih if first.dw_ih_turned == NULL else first.dw_ih)
    add_part(job, me, members, width * job.layer.outputs, first.dw_hh, job.dw_hh if first.dw_hh_turned == NULL else first.dw_hh)
    if job.db != NULL:
        add_part(job, me, members, width, first.db, job.db)


cdef void add_part(const Job *job, int me, int members, size n, const void *of_first, void *to) noexcept nogil:
    cdef size low = n * me // members
    job.kernels.sum_parts(n * (me + 1) // members - low, job.cohorts, job.apart, place(job, of_first, low), place(job, to, low))


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


cdef inline void waited(double start, int me) noexcept nogil:
    """Takes what has passed since `start`, of `clock`, from a member's work."""
    if start:
        busy[me] -= lstmx_now() - start


cdef void wait(const Job *job, int me, int members) noexcept nogil:
    """The barrier of a team."""
    cdef double start = clock()
    lstmx_wait(job.team, members)
    waited(start, me)


cdef bint more_rows(Job *job, int me) noexcept nogil:
    """Whether a member that has no rows gets some."""
    cdef double start = clock()
    cdef bint found = lstmx_get(job.rows, job.threads, me)
    waited(start, me)
    return found


cdef bint ready(const Job *job, int me, const lstmx_shares *shares, int share, size blocks) noexcept nogil:
    """Waits until a share has `blocks` behind it; False if the team is cancelled."""
    cdef double start = clock()
    cdef bint found = lstmx_await(shares, share, blocks, job.team)
    waited(start, me)
    return found


def set_patience(double seconds):
    """Set how long members of a team wait for each other before one does the rest alone (see c/team.h); returns what it was.
    Less than 0: no longer than their first barrier. For tests.
    """
    global patience
    before, patience = patience, seconds
    return before


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
    """`spread`, where a long task lets go of the GIL."""
    cdef PyThreadState *state = let_go(work > LONG_WORK)
    spread(part, task, wanted, budget, work)
    take_back(state)
    return 0


cdef void spread(part_function part, void *task, int wanted, int budget, double work) noexcept nogil:
    """Runs all parts of a task of so many operations, on up to `wanted` threads as far as the process has them left of
    `budget`."""
    cdef int threads
    if work <= LONG_WORK:
        flushed(part, task, 0, 1)
        return
    threads = lstmx_claim(1 if omp_in_parallel() or not worth_threads(work) else wanted, budget)
    if threads == 1:
        flushed(part, task, 0, 1)
    else:
        team(part, task, threads)
    lstmx_release(threads)


cdef void job_part(void *task, int me, int members) noexcept nogil:
    cdef Job *job = <Job *>task
    if job.backward:
        backward_part(job, me, members)
    else:
        forward_part(job, me, members)
    leave(job, me, members)


cdef void leave(Job *job, int me, int members) noexcept nogil:
    """The end of a member's part. The calling thread, which looks for Ctrl-C, waits for the others."""
    cdef double start = clock()
    cdef int spin = 0
    lstmx_leave(job.team)
    while me == 0 and job.last != 0 and lstmx_left(job.team) < members and not lstmx_cancelled(job.team):
        poll(job, me)
        lstmx_pause(spin)
        spin += 1
    waited(start, me)


cdef void set_clock(Job *job, double work) noexcept nogil:
    """What `poll` needs, if the call is long, and not a part of a team's whose calling thread is another."""
    job.last = lstmx_now() if work > LONG_WORK and omp_get_thread_num() == 0 else 0
    job.control = flush_subnormals()
    restore_control(job.control)


cdef int run(Job *job, int budget) except -1:
    """`perform`, where a long job lets go of the GIL."""
    cdef PyThreadState *state = let_go(operations(job) * (3 if job.backward else 1) > LONG_WORK)
    cdef bint done = perform(job, budget)
    take_back(state)
    return 0 if done else -1   # the exception is set


cdef bint perform(Job *job, int budget) noexcept nogil:
    """Runs a job that `share_out` has shared out. False: a signal has ended it, and the exception is set."""
    cdef double work = operations(job) * (3 if job.backward else 1)
    cdef lstmx_shares shares, columns
    cdef lstmx_rows rows[MOST_THREADS]
    cdef int k
    if job.threads > 1 and not job.split_units and job.backward:
        cut_rows(job, &shares)
        cut_columns(job, &columns)
        job.shares, job.columns = &shares, &columns
    elif job.threads > 1 and not job.split_units and not job.layer.windows:
        deal_rows(job, rows)
        job.rows = rows
    set_clock(job, work)
    job.team.began, job.team.patience = (lstmx_now() if patience > 0 else 1e300), patience
    if patience > 0:
        job.team.patience += A_FIFTH * work
    for k in range(job.cohorts):
        job.cohort[k].last, job.cohort[k].control = job.last, job.control
    spread(job_part, job, job.threads, budget, work)
    return not lstmx_cancelled(job.team)


cdef void both_part(void *task, int me, int members) noexcept nogil:
    cdef Job **jobs = <Job **>task
    if me == 0:
        forward_part(jobs[0], 0, 1)
    if me == members - 1:
        jobs[1].last = jobs[0].last if members == 1 else 0   # only the calling thread may look for signals
        forward_part(jobs[1], 0, 1)
    leave(jobs[0], me, members)


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

cdef int tape_of(const lstmx_layer *l, size rows, cnp.dtype kind, dict slabs) except -1:
    """Room for a tape of so many rows."""
    slabs["gates"], slabs["h_prev"], slabs["c_prev"] = (slab(rows, l.width, kind), slab(rows, l.outputs, kind),
                                                        slab(rows, l.memory, kind))
    return 0


cdef int put(lstmx_layer *l, dict slabs) except -1:
    """What a forward pass keeps for its backward pass, and the masks of training, as far as a cell has them: gates (S, width),
    h_prev (S, P), c_prev (S, memory), the state before each step; extra, rows as `Direction.extra` says, S of them in training,
    N else; drop_x (masks, N, I), drop_h (masks, N, P), zoneout_h (S, P), zoneout_c (S, H).
    """
    cdef cnp.ndarray gates = slabs.get("gates"), h_prev = slabs.get("h_prev"), c_prev = slabs.get("c_prev"), extra = slabs.get("extra")
    if gates is not None:
        l.gates, l.h_prev, l.c_prev = data(gates), data(h_prev), data(c_prev)
        l.gates_row, l.h_row, l.c_row = stride(gates, 0), stride(h_prev, 0), stride(c_prev, 0)
    if extra is not None:
        l.extra, l.extra_row = data(extra), stride(extra, 0)
        l.drop_x, l.drop_h = data(slabs.get("drop_x")), data(slabs.get("drop_h"))
    l.zoneout_h, l.zoneout_c = data(slabs.get("zoneout_h")), data(slabs.get("zoneout_c"))
    return 0


cdef object cut(Job *job, Job *cohorts, dict slabs):
    """Cuts a job into the cohorts that its tape has; what is returned must live as long as they do."""
    cdef cnp.ndarray first = slabs.get("cohorts"), offsets = None
    cdef int count
    if first is None:
        return None
    count = <int>cnp.PyArray_SIZE(first) - 1
    if job.layer.offsets != NULL:
        offsets = np.empty(count * (job.layer.steps + 1), np.intp)
    cut_cohorts(job, cohorts, count, <const size *>data(first), <size *>data(offsets))
    return offsets


cpdef object forward(Direction direction, cnp.ndarray x, cnp.ndarray offsets, size steps, bint reverse, cnp.ndarray h, cnp.ndarray c,
                     cnp.ndarray y, int threads, dict slabs, bint keep=False, cnp.ndarray cohorts=None, bint windows=False):
    """One layer, one direction, over packed rows. Arrays are of one type and, but for y and slabs, contiguous.

    Parameters
    ----------
    direction : what is computed
    x : (S, I)  # IN
    offsets : (T + 1,) or None if every step has N rows  # IN
    steps : T
    reverse : whether time runs downwards
    h, c : (N, P), (N, memory)  # IN the initial, OUT the final state
    y : (S, P), or of sequences of one length (N, T, P), any strides but of the last axis  # OUT
    threads : at most
    slabs : IN the masks, OUT also those of a tape if it is to be kept; `put` says which there are
    keep : whether it is
    cohorts : (count + 1,) or None  # of a tape: where each begins in the sorted batch; its rows lie cohort by cohort
    windows : whether x (N + T - 1, I) is a series, whose rows n to n + T - 1 are sequence n
    """
    cdef Job job
    cdef Job each[MOST_COHORTS]
    cdef size N = cnp.PyArray_DIM(h, 0), I = cnp.PyArray_DIM(x, 1), values
    cdef lstmx_layer *l = &job.layer
    cdef cnp.dtype kind = x.dtype
    cdef int k
    if keep:
        tape_of(&direction.job.layer, cnp.PyArray_DIM(x, 0), kind, slabs)
        if cohorts is not None:
            slabs["cohorts"] = cohorts
    if direction.extra(keep):
        slabs["extra"] = slab(cnp.PyArray_DIM(x, 0) if keep else N, direction.extra(keep), kind)
    if cnp.PyArray_SIZE(x) == 0:
        return
    begin(&job, &direction.job, steps, N, reverse, data(x), I if windows else N * I, I)
    l.offsets = l.whole = <const size *>data(offsets)
    put(l, slabs)
    if l.gates != NULL:
        l.at = &direction.training
    l.windows = windows
    l.h, l.c, l.y = data(h), data(c), data(y)
    l.y_row = stride(y, 0)
    l.y_step = N * l.y_row if cnp.PyArray_NDIM(y) == 2 else stride(y, 1)
    values = room_for_sums(&job, threads)
    sums = room(values, kind) if values else None
    job.sums = data(sums)
    scratch = room(N * l.at.scratch_width, kind) if l.at.scratch_width else None
    l.scratch = data(scratch)
    table = cut(&job, each, slabs)
    share_out(&job, threads)
    for k in range(job.cohorts):
        if job.fused and l.gates != NULL:
            job.kernels.open_rows(&job.cohort[k].layer)
    run(&job, threads)
    for k in range(job.cohorts):
        if job.fused:
            job.kernels.close_rows(&job.cohort[k].layer)


cpdef object backward(Direction direction, cnp.ndarray x, cnp.ndarray offsets, size steps, bint reverse, dict slabs, cnp.ndarray dy,
                      cnp.ndarray dh, cnp.ndarray dc, cnp.ndarray dx, bint add_to_dx, dict out, cnp.ndarray d_vectors, int threads,
                      cnp.ndarray dh_all=None, cnp.ndarray dc_all=None, bint add=False, sums=None, bint more=False):
    """The derivative of `forward`.

    Parameters
    ----------
    x, offsets, steps, reverse : as in `forward`  # IN
    slabs : those of `forward`  # IN, but gates and extra OUT dz and more: the tape is consumed
    dy : as y, or None for zero  # IN
    dh, dc : (N, P), (N, memory)  # IN the gradients of the final, OUT of the initial state
    dx : (S, I) or None  # OUT, or added to if add_to_dx
    out : weight_ih, weight_hh, weight_hr and bias by name, as far as the cell has them  # OUT
    d_vectors : of the cell's vectors, one after the other, where `bias` is not the sum of dz alone; or None  # OUT
    threads : at most
    dh_all, dc_all : (S, P), (S, memory) or None  # OUT dL/dh_t and dL/dc_t of every step
    add : whether `out` and d_vectors are added to: they hold the gradients of later steps of the same sequences  # and IN
    sums : where there are cohorts, what the call for the later steps has returned, or None  # IN, OUT
    more : whether earlier steps follow

    Returns
    -------
    The gradients of each cohort, if there are cohorts and earlier steps follow: `out` is written when they have come, too.
    """
    cdef Job job
    cdef Job each[MOST_COHORTS]
    cdef cnp.dtype kind = x.dtype
    cdef size N = cnp.PyArray_DIM(dh, 0), I = cnp.PyArray_DIM(x, 1), S = cnp.PyArray_DIM(x, 0), width
    cdef lstmx_layer *l = &job.layer
    if cnp.PyArray_SIZE(x) == 0:
        for array in (*out.values(), d_vectors):
            if array is not None and not add:
                array.fill(0)
        return sums
    begin(&job, &direction.job, steps, N, reverse, data(x), N * I, I)
    l.offsets = l.whole = <const size *>data(offsets)
    put(l, slabs)
    if dy is not None:
        l.dy, l.dy_row = data(dy), stride(dy, 0)
        l.dy_step = N * l.dy_row if cnp.PyArray_NDIM(dy) == 2 else stride(dy, 1)
    l.dh, l.dc, l.dh_all, l.dc_all = data(dh), data(dc), data(dh_all), data(dc_all)
    job.dx, job.add_to_dx, job.add = data(dx), add_to_dx, add
    job.dw_ih, job.dw_hh, job.dw_hr = data(out["weight_ih"]), data(out["weight_hh"]), data(out.get("weight_hr"))
    job.db, job.d_vectors = data(out.get("bias")) if l.at.bias < 0 else NULL, data(d_vectors)
    scratch = room(N * l.at.scratch_width, kind) if l.at.scratch_width else None
    l.scratch = data(scratch)
    table = cut(&job, each, slabs)
    share_out(&job, threads)
    job.steps_per_block = gradient_steps(N, job.serial)
    if job.cohorts > 1:
        return backward_cohorts(&job, out, threads, kind, sums, more)
    strips = dw_ih = dw_hh = None
    if not job.serial:
        width = job.kernels.outer_room(strip_rows(N, steps, job.steps_per_block), max(I, l.outputs, l.hidden))
        strips = room(job.threads * width, kind)
        job.strips, job.strip_bytes = <char *>data(strips), width * job.itemsize
        if job.ih.blocks == 1:
            dw_ih = turned(&job, I, S, out["weight_ih"], kind, add)
            job.dw_ih_turned = data(dw_ih)
        if job.hh.blocks == 1 and l.at.hh < 0:
            dw_hh = turned(&job, l.outputs, S, out["weight_hh"], kind, add)
            job.dw_hh_turned = data(dw_hh)
    run(&job, threads)
    for target, found in ((out["weight_ih"], dw_ih), (out["weight_hh"], dw_hh)):
        if found is not None:
            target[...] = found.T


cdef object backward_cohorts(Job *job, dict out, int threads, cnp.dtype kind, sums, bint more):
    """The rest of `backward` where there are cohorts: each has gradients of its own, added up in the end."""
    cdef size H = job.layer.hidden, I = job.layer.inputs, width = job.layer.width, values, most = 0
    cdef lstmx_layer *l
    cdef size some = 2048 * job.cohorts   # rows: as many as the batch may have, of which there may come a segment at a time
    cdef bint ih_turned = turns(width, I, some, job.kernels.lanes), hh_turned = turns(width, H, some, job.kernels.lanes)
    cdef bint fresh = sums is None
    cdef cnp.ndarray found
    cdef char *to
    cdef int k
    if fresh:
        sums = room(job.cohorts * width * (I + H + 1), kind).reshape(job.cohorts, -1)
    job.steps_per_block = cohort_steps(job.layer.batch, job.cohorts)
    for k in range(job.cohorts):
        most = max(most, strip_rows(job.cohort[k].layer.batch, job.layer.steps, job.steps_per_block))
    job.x_room = job.kernels.outer_room(most, max(I, H))
    values = job.x_room + most * I
    strips = room(job.threads * values, kind)
    job.strips, job.strip_bytes = <char *>data(strips), values * job.itemsize
    for k in range(job.cohorts):
        l = &job.cohort[k].layer
        found = sums[k]
        to = <char *>data(found)
        job.cohort[k].add = not fresh
        job.cohort[k].steps_per_block, job.cohort[k].x_room = job.steps_per_block, job.x_room
        job.cohort[k].strips, job.cohort[k].strip_bytes = job.strips, job.strip_bytes
        job.cohort[k].dw_ih, job.cohort[k].dw_hh = to, to + width * I * job.itemsize
        if ih_turned:
            job.cohort[k].dw_ih_turned = job.cohort[k].dw_ih
        if hh_turned:
            job.cohort[k].dw_hh_turned = job.cohort[k].dw_hh
        job.cohort[k].db = to + width * (I + H) * job.itemsize if job.db != NULL else NULL
        if fresh and (l.batch * l.steps if l.offsets == NULL else l.offsets[l.steps]) == 0:
            found.fill(0)
    job.apart, job.more = width * (I + H + 1), more
    run(job, threads)
    if more:
        return sums
    if ih_turned:
        out["weight_ih"][...] = sums[0, : width * I].reshape(I, width).T
    if hh_turned:
        out["weight_hh"][...] = sums[0, width * I : width * (I + H)].reshape(H, width).T
    return None


cdef cnp.ndarray turned(const Job *job, size n, size rows, cnp.ndarray gradient, cnp.dtype kind, bint add):
    """Room (n, width) for the transposed gradient of a weight, or None where it is better found as it is."""
    if not turns(job.layer.width, n, rows, job.kernels.lanes):
        return None
    found = room(job.layer.width * n, kind).reshape(n, job.layer.width)
    if add:
        found[...] = gradient.T
    return found
