"""The layers of a model in a row, with their states, on plain arrays: all of it in one call without Python.

A program is what `Sequential.step` and `stream`, the sessions of a pool and rollouts run. It is made of stages, which
are the layers, but that a stack of recurrent layers has one for each; plan.pyx runs them.
"""

from cpython.mem cimport PyMem_Calloc, PyMem_Free
from libc.string cimport memcpy

cimport numpy as cnp

from lstmx._core.arrays cimport overlap
from lstmx._core.core cimport let_go, LSTMX_F32, LSTMX_F64, PyThreadState, take_back
from lstmx._core.job cimport data, Direction, Job, products_of, size, worth_threads
from lstmx._core.loop cimport LONG_WORK
from lstmx._core.panels cimport Panels
from lstmx._core.plan cimport (ACTIVATION, advance, AFFINE, begin_state, Call, CURVE, DENSE, ELU, EXP, HARD_SIGMOID, in_range,
                               interrupt, LAST, LEAKY_RELU, LOOKUP, MEAN, operations_of, RECURRENT, RELU, room_for,
                               SCALED_TANH, SILU, SOFTPLUS, SOFTSIGN, Stage, State, THRESHOLDED_RELU)

cnp.import_array()

CURVES = {"relu": RELU, "affine": AFFINE, "leaky_relu": LEAKY_RELU, "thresholded_relu": THRESHOLDED_RELU,
          "scaled_tanh": SCALED_TANH, "hard_sigmoid": HARD_SIGMOID, "elu": ELU, "softsign": SOFTSIGN,
          "softplus": SOFTPLUS, "silu": SILU, "exp": EXP}

cdef size LARGEST = 2147483647   # of a distance between rows, for BLAS


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
