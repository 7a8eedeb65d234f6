"""What a program runs: the stages of a model with their states, for a block of steps, without Python.

All that a call needs beside its arrays is `room`, which the caller gives: nothing here allocates. Long blocks of steps are
cut into shorter ones, which the states connect, so that what lies between two layers stays in the cache.
"""

from libc.stdint cimport int64_t
from libc.string cimport memcpy, memset

from lstmx._core.core cimport LONG, lstmx_layer, lstmx_now, real
from lstmx._core.dense cimport product_part, Task
from lstmx._core.job cimport begin, Job, operations, room_for_sums, share_out, size, tile_for, worth_threads
from lstmx._core.kernels cimport activate_rows, apply_kernel, EXP_OF, EXPM1, SIGMOID, SOFTPLUS_OF, TANH
from lstmx._core.loop cimport LONG_WORK, perform, spread, stopped

cdef size BLOCK = 1024   # rows of all sequences that go through the layers at once, if that is more than a step of each


cdef inline size to_line(size count) noexcept nogil:
    """Bytes, rounded up to whole cache lines."""
    return (count + 63) & ~<size>63


# The stages. Each reads `rows` rows of `steps` steps at x and writes them to y, which is contiguous but for a recurrent one.

cdef int run_recurrent(const Stage *stage, const Call *call, void *h, void *c, char *room) noexcept nogil:
    """One layer of an LSTM."""
    cdef Job job
    cdef lstmx_layer *l = &job.layer
    cdef int threads
    cdef size values, width
    begin(&job, stage.job, call.steps, call.rows, False, call.x, call.x_step, call.x_row)
    l.h, l.c, l.y, l.y_step, l.y_row = h, c, call.y, call.y_step, call.y_row
    threads = call.budget if worth_threads(operations(&job)) else 1
    values = room_for_sums(&job, threads)
    job.sums = room if values else NULL
    room += to_line(values * job.itemsize)
    width = l.at.width
    if width or l.at.scratch_width:
        l.extra, l.extra_row = room, width
        l.scratch = room + to_line(call.rows * width * job.itemsize)
    share_out(&job, threads)
    if not perform(&job, threads):
        return INTERRUPTED
    if job.fused:
        job.kernels.close_rows(l)
    return DONE


cdef void run_dense(const Stage *stage, int format, size itemsize, size rows, const void *x, void *y, int budget) noexcept nogil:
    cdef Task task
    cdef double work = 2.0 * rows * stage.inputs * stage.outputs
    cdef int threads = budget if worth_threads(work) and stage.count == 0 else 1
    memset(&task, 0, sizeof(Task))
    task.products, task.lanes, task.itemsize = stage.products, tile_for(format).lanes, itemsize
    task.m, task.n, task.rows = rows, stage.outputs, stage.inputs
    task.a, task.b, task.out = x, stage.weight, y
    spread(product_part, &task, threads, threads, work)
    activate_rows(format, stage.activation, rows, stage.outputs, stage.bias, y)


cdef void add_steps(const Call *call, size width, real *total, int64_t *count, real *y) noexcept nogil:
    """The mean so far: sums in the order of time."""
    cdef const real *x
    cdef size n, t, k
    for n in range(call.rows):
        for t in range(call.steps):
            x = <const real *>call.x + n * call.x_row + t * call.x_step
            for k in range(width):
                total[k] = x[k] + total[k]
        count[n] += call.steps
        for k in range(width):
            y[k] = total[k] / <real>max(1, count[n])   # a state that is given may hold any count
        total += width
        y += width


cdef bint in_range(const Call *call, size count) noexcept nogil:
    """Whether all integers are those of an Embedding of so many rows."""
    cdef size n, t
    cdef int64_t number
    for n in range(call.rows):
        for t in range(call.steps):
            number = (<const int64_t *>call.x)[n * call.x_row + t * call.x_step]
            if number < 0 or number >= count:
                return False
    return True


cdef void look_up(const Stage *stage, const Call *call, size itemsize) noexcept nogil:
    """The vector of every integer."""
    cdef size n, t, bytes_of_row = stage.outputs * itemsize
    cdef int64_t number
    cdef char *y = <char *>call.y
    for n in range(call.rows):
        for t in range(call.steps):
            number = (<const int64_t *>call.x)[n * call.x_row + t * call.x_step]
            memcpy(y, <const char *>stage.weight + number * bytes_of_row, bytes_of_row)
            y += bytes_of_row


cdef inline real curve_of(int curve, real x, real y, real a, real b) noexcept nogil:
    """A curve at x, with what a kernel has put into y for it. A NaN stays one."""
    cdef real one = 1
    if curve == RELU:
        return 0 if x <= 0 else x
    if curve == AFFINE:
        return x * a + b
    if curve == LEAKY_RELU:
        return x * a if x < 0 else x
    if curve == THRESHOLDED_RELU:
        return 0 if x <= a else x
    if curve == HARD_SIGMOID:
        y = a * x + b
        return 0 if y <= 0 else 1 if y >= 1 else y
    if curve == ELU:
        return y * a if x < 0 else x
    if curve == SOFTSIGN:
        y = -x if x < 0 else x
        return x / (one + y)
    return y * (x if curve == SILU else a)


cdef void draw_curve(int format, int curve, size n, const real *x, real *y, real a, real b) noexcept nogil:
    """y (n) := a curve at x, with the bits of layers/activation.py."""
    cdef size k
    if curve == SCALED_TANH or curve == ELU:
        for k in range(n):
            y[k] = b * x[k] if curve == SCALED_TANH else (x[k] if x[k] < 0 else 0)
    if curve == SCALED_TANH:
        apply_kernel(format, TANH, n, y, y)
    elif curve == ELU:
        apply_kernel(format, EXPM1, n, y, y)
    elif curve >= SOFTPLUS:
        apply_kernel(format, SOFTPLUS_OF if curve == SOFTPLUS else SIGMOID if curve == SILU else EXP_OF, n, x, y)
        if curve != SILU:
            return
    for k in range(n):
        y[k] = curve_of(curve, x[k], y[k], a, b)


cdef void copy_rows(const Call *call, size width, size itemsize, char *y) noexcept nogil:
    """x, one row after the other."""
    cdef size n, t, bytes_of_row = width * itemsize
    for n in range(call.rows):
        for t in range(call.steps):
            memcpy(y, <const char *>call.x + (n * call.x_row + t * call.x_step) * itemsize, bytes_of_row)
            y += bytes_of_row


# What a call needs, and how it runs.

cdef size block_of(size rows, size steps) noexcept nogil:
    """The steps that go through all layers at once."""
    return max(1, min(steps, BLOCK // max(1, rows)))


cdef size room_for(const Plan *plan, size rows, size steps) noexcept nogil:
    """Bytes of room for a call of so many rows and steps."""
    cdef size block = block_of(rows, steps), most = 0, k, here
    cdef Job job
    for k in range(plan.count):
        if plan.stages[k].kind == RECURRENT:
            begin(&job, plan.stages[k].job, block, rows, False, NULL, 0, 0)
            here = max(room_for_sums(&job, 1), room_for_sums(&job, 1 << 16)) * job.itemsize   # however many threads
            here = to_line(here) + to_line(rows * job.layer.at.width * job.itemsize)
            most = max(most, here + to_line(rows * job.layer.at.scratch_width * job.itemsize))
    return 2 * to_line(rows * block * plan.widest * plan.itemsize) + most + 64


cdef size most_room(const Plan *plan, size rows) noexcept nogil:
    """Bytes of room for any call of up to so many rows."""
    cdef size most = 0, k, width, block = max(rows, BLOCK)
    cdef const Job *job
    for k in range(plan.count):
        if plan.stages[k].kind == RECURRENT:
            job = plan.stages[k].job
            width = (block + 1) * job.kernels.gate_width(job.layer.hidden)
            most = max(most, (width + rows * (job.layer.at.width + job.layer.at.scratch_width)) * job.itemsize + 192)
    return 2 * to_line(block * plan.widest * plan.itemsize) + most + 64


cdef double operations_of(const Plan *plan, size rows, size steps) noexcept nogil:
    """Operations of a call; those of elements count as many as fit into the time of a product's."""
    cdef double found = 0
    cdef const Stage *stage
    cdef Job job
    cdef int k
    for k in range(plan.count):
        stage = &plan.stages[k]
        if stage.kind == RECURRENT:
            begin(&job, stage.job, steps, rows, False, NULL, 0, 0)
            found += operations(&job)
        else:
            found += stage.outputs * (2.0 * stage.inputs if stage.kind == DENSE else LONG_WORK / LONG) * rows * steps
    return found


cdef size state_bytes(const State *state, size rows) noexcept nogil:
    """Of one state of so many sequences."""
    return max(1, state.layers) * rows * state.width * state.value_bytes


cdef int advance(const Plan *plan, const Call *call) noexcept nogil:
    """All steps of a call, which has at least one row and one step."""
    cdef size block = block_of(call.rows, call.steps), t = 0
    cdef Call part = call[0]
    cdef int outcome = DONE
    cdef double last = lstmx_now() if block < call.steps else 0
    while t < call.steps and outcome == DONE:
        part.steps = min(block, call.steps - t)
        part.x = <const char *>call.x + t * call.x_step * plan.x_bytes
        if plan.pooling < 0:
            part.y = <char *>call.y + t * call.y_step * plan.itemsize
        t += part.steps
        outcome = advance_block(plan, &part, t == call.steps)
        if outcome == DONE and t < call.steps and stopped(&last):   # layers look themselves only in a long block
            outcome = INTERRUPTED
    return outcome


cdef int advance_block(const Plan *plan, const Call *whole, bint last) noexcept nogil:
    """Some steps of all layers; what comes after a pooling only in the last block."""
    cdef Call call = whole[0]
    cdef char *room = <char *>to_line(<size>whole.room)
    cdef size most = to_line(whole.rows * whole.steps * plan.widest * plan.itemsize), itemsize = plan.x_bytes, wide
    cdef char *buffers[2]
    cdef const Stage *stage
    cdef int k, used = 0, outcome, stages = plan.count if last or plan.pooling < 0 else plan.pooling + 1
    cdef bint direct
    buffers[0], buffers[1] = room, room + most
    for k in range(stages):
        stage = &plan.stages[k]
        wide = stage.inputs
        if stage.kind in (DENSE, ACTIVATION, CURVE) and (call.x_step != wide and call.steps > 1 or call.x_row != call.steps * wide):
            copy_rows(&call, wide, itemsize, buffers[used])
            call.x, call.x_step, call.x_row = buffers[used], wide, call.steps * wide
            used ^= 1
        wide = stage.outputs
        direct = k == plan.count - 1 and (stage.kind == RECURRENT or k == plan.pooling or call.rows == 1
                                          or plan.pooling >= 0 or whole.y_row == call.steps * wide)
        if direct:
            call.y, call.y_step, call.y_row = whole.y, whole.y_step, whole.y_row
        else:
            call.y, call.y_step, call.y_row = buffers[used], wide, call.steps * wide
            used ^= 1
        outcome = run_stage(plan, stage, &call, room + 2 * most, itemsize)
        if outcome != DONE:
            return outcome
        itemsize = plan.itemsize
        if k == plan.pooling:
            call.steps = 1
        call.x, call.x_step, call.x_row = call.y, wide, call.steps * wide
        if direct:
            call.x_row = whole.y_row
    if stages == plan.count and not direct:
        for k in range(call.rows):
            memcpy(<char *>whole.y + k * whole.y_row * itemsize, <const char *>call.x + k * call.x_row * itemsize,
                   call.steps * wide * itemsize)
    return DONE


cdef int run_stage(const Plan *plan, const Stage *stage, Call *call, char *room, size itemsize) noexcept nogil:
    cdef size rows = call.rows * call.steps, n, width = stage.outputs
    cdef void *states[2]
    cdef const State *state
    cdef int k
    if stage.state >= 0:
        for k in range(1 if stage.kind == LAST else 2):
            state = &plan.states[stage.state + k]
            states[k] = <char *>call.states[stage.state + k] + stage.layer * call.rows * state.width * state.value_bytes
    if stage.kind == RECURRENT:
        return run_recurrent(stage, call, states[0], states[1], room)
    if stage.kind == CURVE and plan.itemsize == 4:
        draw_curve[float](plan.format, stage.activation, rows * width, <const float *>call.x, <float *>call.y,
                          <float>stage.alpha, <float>stage.beta)
    elif stage.kind == CURVE:
        draw_curve[double](plan.format, stage.activation, rows * width, <const double *>call.x, <double *>call.y,
                           stage.alpha, stage.beta)
    elif stage.kind == DENSE:
        run_dense(stage, plan.format, itemsize, rows, call.x, call.y, call.budget)
    elif stage.kind == ACTIVATION:
        memcpy(call.y, call.x, rows * width * itemsize)
        activate_rows(plan.format, stage.activation, rows, width, NULL, call.y)
    elif stage.kind == LOOKUP:
        look_up(stage, call, plan.itemsize)
    elif stage.kind == LAST:
        for n in range(call.rows):
            memcpy(<char *>states[0] + n * width * itemsize,
                   <const char *>call.x + (n * call.x_row + (call.steps - 1) * call.x_step) * itemsize, width * itemsize)
        memcpy(call.y, states[0], call.rows * width * itemsize)
    elif plan.itemsize == 4:
        add_steps[float](call, width, <float *>states[0], <int64_t *>states[1], <float *>call.y)
    else:
        add_steps[double](call, width, <double *>states[0], <int64_t *>states[1], <double *>call.y)
    return DONE


cdef void begin_state(const State *state, size rows, char *at) noexcept nogil:
    """What a state of so many sequences is before the first step."""
    cdef size layer, n, width = state.width * state.value_bytes
    if state.start == NULL:
        memset(at, 0, state_bytes(state, rows))
        return
    for layer in range(max(1, state.layers)):
        for n in range(rows):
            memcpy(at + (layer * rows + n) * width, <const char *>state.start + layer * width, width)


cdef int interrupt(int outcome) except -1:
    """Raises the exception that is set where a call was interrupted."""
    return -1 if outcome == INTERRUPTED else 0
