"""The layers of a model in a row, with their states, on plain arrays: all of it in one call without Python.

A program is what `Sequential.step` and `stream`, the sessions of a pool and rollouts run. It is made of stages, which
are the layers, but that a stack of recurrent layers has one for each. All that a call needs beside its arrays is `room`,
which the caller gives: nothing here allocates, and while a program runs no Python does.

Long blocks of steps are cut into shorter ones, which the states connect, so that what lies between two layers stays in
the cache.
"""

from cpython.mem cimport PyMem_Calloc, PyMem_Free
from libc.stdint cimport int64_t
from libc.string cimport memcpy, memset

cimport numpy as cnp

from lstmx._core.arrays cimport overlap
from lstmx._core.core cimport let_go, LONG, lstmx_layer, lstmx_now, PyThreadState, real, take_back, LSTMX_F32, LSTMX_F64
from lstmx._core.dense cimport product_part, Task
from lstmx._core.isa cimport format_of
from lstmx._core.job cimport (begin, data, Direction, Job, operations, products_of, room_for_sums, share_out, size, tile_for,
                              worth_threads)
from lstmx._core.kernels cimport activate_rows, apply_kernel, EXP_OF, EXPM1, SIGMOID, SOFTPLUS_OF, TANH
from lstmx._core.loop cimport LONG_WORK, perform, spread, stopped
from lstmx._core.panels cimport Panels

cnp.import_array()

cdef enum Kind:
    RECURRENT, DENSE, ACTIVATION, CURVE, LAST, MEAN, LOOKUP

cdef enum Curve:   # the activations of a layer Activation that Dense does not have; a and b are its numbers
    RELU, AFFINE, LEAKY_RELU, THRESHOLDED_RELU, SCALED_TANH, HARD_SIGMOID, ELU, SOFTSIGN, SOFTPLUS, SILU, EXP

CURVES = {"relu": RELU, "affine": AFFINE, "leaky_relu": LEAKY_RELU, "thresholded_relu": THRESHOLDED_RELU,
          "scaled_tanh": SCALED_TANH, "hard_sigmoid": HARD_SIGMOID, "elu": ELU, "softsign": SOFTSIGN,
          "softplus": SOFTPLUS, "silu": SILU, "exp": EXP}

cdef size BLOCK = 1024   # rows of all sequences that go through the layers at once, if that is more than a step of each
cdef size LARGEST = 2147483647   # of a distance between rows, for BLAS


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


cdef class Program:
    """The layers of a model, one after the other.

    Parameters
    ----------
    parts : list of tuple
        Of every layer: () if it does nothing; ("recurrent", list of Direction, (h, c) or None) with the state that it
        begins with, each (L, 1, width), if it is not 0; ("dense", products, Panels, I, O, bias, activation) as of
        `dense.Linear`; ("activation", activation, F); ("curve", one of CURVES, its two numbers, F); ("last", F); ("mean", F); ("lookup", weight).
    type_number : int
        NumPy's number of the model's type.
    threads : callable
        What a call may use; only asked where it is long.
    """

    def __cinit__(self, list parts, int type_number, threads):
        cdef int k = 0, states = 0
        self.keep, self.threads, self.type_number, self.x_type, self.plan.pooling = parts, threads, type_number, type_number, -1
        self.plan.itemsize = 8 if type_number == cnp.NPY_FLOAT64 else 4
        self.plan.format = LSTMX_F64 if self.plan.itemsize == 8 else LSTMX_F32
        self.plan.x_bytes = self.plan.itemsize
        self.forms, self.starts = [], []
        self.plan.count = sum([len(part[1]) if part and part[0] == "recurrent" else len(part) > 0 for part in parts])
        self.plan.stages = <Stage *>PyMem_Calloc(self.plan.count + 1, sizeof(Stage))
        self.plan.states = <State *>PyMem_Calloc(2 * len(parts) + 1, sizeof(State))
        if self.plan.stages == NULL or self.plan.states == NULL:
            raise MemoryError
        for part in parts:
            k = self.add(part, k)
        self.plan.inputs, self.plan.outputs = self.plan.stages[0].inputs, self.plan.stages[self.plan.count - 1].outputs
        for k in range(self.plan.count):
            self.plan.widest = max(self.plan.widest, self.plan.stages[k].inputs, self.plan.stages[k].outputs)

    def __dealloc__(self):
        PyMem_Free(self.plan.stages)
        PyMem_Free(self.plan.states)

    cdef int add(self, tuple part, int k) except -1:
        """Adds the stages of a layer, the first of which has the number k; returns the number after them."""
        cdef Stage *stage = &self.plan.stages[k]
        cdef Direction direction
        cdef const Job *job
        cdef int layer
        if not part:
            self.forms.append(0)
            return k
        stage.state = -1
        if part[0] == "recurrent":
            for layer in range(len(part[1])):
                direction = part[1][layer]
                stage, job = &self.plan.stages[k + layer], &direction.job
                stage.kind, stage.job, stage.state, stage.layer = RECURRENT, job, self.plan.state_count, layer
                stage.inputs, stage.outputs = job.layer.inputs, job.layer.outputs
            h, c = (None, None) if part[2] is None else part[2]
            self.remember(len(part[1]), job.layer.outputs, self.type_number, h)
            self.remember(len(part[1]), job.layer.memory, self.type_number, c)
            self.forms.append(2)
            return k + len(part[1])
        if part[0] == "dense":
            _, products, weight, stage.inputs, stage.outputs, bias, stage.activation = part
            stage.kind, stage.products = DENSE, products_of(products, self.plan.format)
            stage.weight, stage.bias, stage.count = (<Panels>weight).operand, data(bias), products is not None
            self.forms.append(0)
            return k + 1
        if part[0] == "lookup":
            table = part[1]
            stage.kind, stage.weight = LOOKUP, data(table)
            stage.count, stage.inputs, stage.outputs = cnp.PyArray_DIM(table, 0), 1, cnp.PyArray_DIM(table, 1)
            self.x_type, self.plan.x_bytes = cnp.NPY_INT64, 8
            self.forms.append(0)
            return k + 1
        stage.inputs = stage.outputs = part[len(part) - 1]
        if part[0] == "activation":
            stage.kind, stage.activation = ACTIVATION, part[1]
            self.forms.append(0)
            return k + 1
        if part[0] == "curve":
            _, name, stage.alpha, stage.beta, _ = part
            stage.kind, stage.activation = CURVE, CURVES[name]
            self.forms.append(0)
            return k + 1
        stage.kind, stage.state, self.plan.pooling = (LAST if part[0] == "last" else MEAN), self.plan.state_count, k
        self.remember(0, stage.inputs, self.type_number, None)
        if stage.kind == MEAN:
            self.remember(0, 1, cnp.NPY_INT64, None)
        self.forms.append(1 + (stage.kind == MEAN))
        return k + 1

    cdef void remember(self, size layers, size width, int type_number, start):
        cdef State *state = &self.plan.states[self.plan.state_count]
        state.layers, state.width, state.type_number = layers, width, type_number
        state.value_bytes = 8 if type_number == cnp.NPY_INT64 else self.plan.itemsize
        state.start = data(start)
        self.plan.state_count += 1
        self.starts.append(start)

    # On arrays.

    cdef int budget(self, double work) except -1:
        """The threads that a call of so many operations may have."""
        return self.threads() if worth_threads(work) else 1

    cdef bint plain(self, object a, int type_number) noexcept:
        """Whether a is an array that can be read where it lies."""
        return (cnp.PyArray_CheckExact(a) and cnp.PyArray_TYPE(<cnp.ndarray>a) == type_number
                and cnp.PyArray_ISBEHAVED_RO(<cnp.ndarray>a))

    cdef bint is_state(self, object a, int k, size rows) noexcept:
        """Whether a is a contiguous array of the state k."""
        cdef const State *state = &self.plan.states[k]
        cdef cnp.ndarray array
        cdef int ndim = 3 if state.layers else 2
        if not self.plain(a, state.type_number):
            return False
        array = <cnp.ndarray>a
        return (cnp.PyArray_IS_C_CONTIGUOUS(array) and cnp.PyArray_NDIM(array) == ndim
                and (ndim == 2 or cnp.PyArray_DIM(array, 0) == state.layers)
                and cnp.PyArray_DIM(array, ndim - 2) == rows and cnp.PyArray_DIM(array, ndim - 1) == state.width)

    cdef list flat(self, object states, size rows):
        """The arrays of a state, which has an entry for each part: None, an array or a tuple; None if it is not that."""
        cdef list found = []
        cdef int k
        if type(states) is not tuple or len(<tuple>states) != len(self.forms):
            return None
        for form, entry in zip(self.forms, <tuple>states):
            if form == 0:
                if entry is not None:
                    return None
            elif form == 1:
                found.append(entry)
            elif type(entry) is tuple and len(<tuple>entry) == form:
                found.extend(entry)
            else:
                return None
        for k in range(self.plan.state_count):
            if not self.is_state(found[k], k, rows):
                return None
        return found

    cdef cnp.ndarray new_state(self, int k, size rows):
        """An array for the state k."""
        cdef const State *state = &self.plan.states[k]
        cdef cnp.npy_intp shape[3]
        shape[0], shape[1], shape[2] = state.layers, rows, state.width
        return cnp.PyArray_EMPTY(3 if state.layers else 2, &shape[0 if state.layers else 1], state.type_number, 0)

    cdef tuple shaped(self, list arrays):
        """States as layers have them, of their arrays one after the other."""
        cdef list found = []
        cdef int k = 0
        for form in self.forms:
            found.append(None if form == 0 else arrays[k] if form == 1 else tuple(arrays[k : k + 2]))
            k += form
        return tuple(found)

    cdef bint read(self, object x, bint step, Call *call) noexcept:
        """Whether x is an array that can be read where it lies; then also rows, steps and x of a call."""
        cdef cnp.ndarray a
        cdef bint features = self.x_type != cnp.NPY_INT64
        cdef size unit = self.plan.x_bytes, least = self.plan.inputs * unit
        cdef int ndim, lead
        if not self.plain(x, self.x_type):
            return False
        a = <cnp.ndarray>x
        ndim = cnp.PyArray_NDIM(a)
        lead = ndim - features + step   # axes before the features, one of time counted for a step too
        if lead < 1 or lead > 2:
            return False
        if features and (cnp.PyArray_DIM(a, ndim - 1) != self.plan.inputs
                         or self.plan.inputs > 1 and cnp.PyArray_STRIDE(a, ndim - 1) != unit):
            return False
        call.rows = cnp.PyArray_DIM(a, 0) if lead == 2 else 1
        call.steps = 1 if step else cnp.PyArray_DIM(a, lead - 1)
        if call.rows < 1 or call.steps < 1:
            return False
        call.x, call.x_step, call.x_row = cnp.PyArray_DATA(a), least, call.steps * least
        if call.steps > 1:
            call.x_step = cnp.PyArray_STRIDE(a, lead - 1)
        if call.rows > 1:
            call.x_row = cnp.PyArray_STRIDE(a, 0)
        if call.x_step < least or call.x_row < least or call.x_step % unit or call.x_row % unit:
            return False   # BLAS takes no rows that overlap, and others are rare
        call.x_step //= unit
        call.x_row //= unit
        return call.x_row <= LARGEST or self.plan.stages[0].kind != RECURRENT or not self.plan.stages[0].job.serial

    cdef int result_shape(self, const Call *call, int lead, bint step, cnp.npy_intp *shape) noexcept:
        """The axes of y for x with `lead` axes of sequences and time; their number."""
        cdef int k = 0
        if lead == 2:
            shape[k] = call.rows
            k += 1
        if not step and self.plan.pooling < 0:
            shape[k] = call.steps
            k += 1
        shape[k] = self.plan.outputs
        return k + 1

    cdef bint is_result(self, object y, int ndim, const cnp.npy_intp *shape) noexcept:
        """Whether y is an array to write results of a shape to."""
        cdef int k
        if not self.plain(y, self.type_number) or cnp.PyArray_NDIM(<cnp.ndarray>y) != ndim:
            return False
        for k in range(ndim):
            if cnp.PyArray_DIM(<cnp.ndarray>y, k) != shape[k]:
                return False
        return cnp.PyArray_IS_C_CONTIGUOUS(<cnp.ndarray>y) and cnp.PyArray_ISWRITEABLE(<cnp.ndarray>y)

    cdef bint apart(self, cnp.ndarray y, list after, list before, cnp.ndarray x):
        """Whether what is written overlaps nothing, but that a state may be that of before."""
        cdef list targets = [y, *after]
        cdef int k, m
        for k in range(len(targets)):
            if overlap(targets[k], x):
                return False
            for m in range(k):
                if overlap(targets[k], targets[m]):
                    return False
            if before is not None:
                for m in range(self.plan.state_count):
                    if not (m == k - 1 and before[m] is targets[k]) and overlap(targets[k], before[m]):
                        return False
        return True

    def run(self, x, states, bint step, out=None):
        """(y, states after it); None where the arguments are not plain arrays that fit, for the caller to look at.

        Parameters
        ----------
        x : (N, T, I) or (T, I); with `step` (N, I) or (I,); integers without I
        states : tuple with an entry for each part, as layers have it, or None
        step : whether x has no axis of time
        out : (y, states) to write to, or None
        """
        cdef cnp.ndarray y, room
        cdef cnp.npy_intp shape[3]
        cdef cnp.npy_intp bytes_of_room
        cdef Call call
        cdef PyThreadState *thread
        cdef double work
        cdef list before = None, after
        cdef int k, ndim, outcome
        if not self.read(x, step, &call):
            return None
        ndim = cnp.PyArray_NDIM(<cnp.ndarray>x) - (self.x_type != cnp.NPY_INT64) + step
        ndim = self.result_shape(&call, ndim, step, shape)
        if states is not None:
            before = self.flat(states, call.rows)
            if before is None:
                return None
        if out is None:
            y = cnp.PyArray_EMPTY(ndim, shape, self.type_number, 0)
            after = [self.new_state(k, call.rows) for k in range(self.plan.state_count)]
            states = self.shaped(after)
        else:
            if type(out) is not tuple or len(<tuple>out) != 2 or not self.is_result((<tuple>out)[0], ndim, shape):
                return None
            y, states = out
            after = self.flat(states, call.rows)
            if after is None or not all([array.flags.writeable for array in after]) or not self.apart(y, after, before, x):
                return None
        if self.plan.stages[0].kind == LOOKUP and not in_range(&call, self.plan.stages[0].count):
            return None
        for k in range(self.plan.state_count):
            if before is None:
                begin_state(&self.plan.states[k], call.rows, <char *>cnp.PyArray_DATA(<cnp.ndarray>after[k]))
            elif before[k] is not after[k]:
                memcpy(cnp.PyArray_DATA(<cnp.ndarray>after[k]), cnp.PyArray_DATA(<cnp.ndarray>before[k]),
                       cnp.PyArray_NBYTES(<cnp.ndarray>after[k]))
        work = operations_of(&self.plan, call.rows, call.steps)
        call.budget = self.budget(work)
        call.y, call.y_step = cnp.PyArray_DATA(y), self.plan.outputs
        call.y_row = self.plan.outputs * (1 if self.plan.pooling >= 0 else call.steps)
        bytes_of_room = self.plan.state_count * sizeof(void *) + room_for(&self.plan, call.rows, call.steps)
        room = cnp.PyArray_EMPTY(1, &bytes_of_room, cnp.NPY_UINT8, 0)
        call.states = <void **>cnp.PyArray_DATA(room)
        for k in range(self.plan.state_count):
            call.states[k] = cnp.PyArray_DATA(<cnp.ndarray>after[k])
        call.room = <char *>(call.states + self.plan.state_count)
        thread = let_go(work > LONG_WORK)
        outcome = advance(&self.plan, &call)
        take_back(thread)
        interrupt(outcome)
        return y, states
