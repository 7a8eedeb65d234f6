"""The sessions of a pool: rows of state arrays, some of which a call takes one or more steps further.

A push copies the states of its sessions side by side, runs a program on them and copies them back when it has succeeded:
what ends it before has changed nothing. A long push exchanges the two instead, so that a signal that has come meanwhile can
still undo it. All memory that it needs is there from the beginning.
"""

from libc.stdint cimport int64_t
from libc.string cimport memcpy

cimport numpy as cnp

from lstmx._core.arrays cimport overlap
from lstmx._core.core cimport let_go, PyThreadState, take_back
from lstmx._core.job cimport size
from lstmx._core.loop cimport interrupted, LONG_WORK
from lstmx._core.plan cimport (advance, Call, DONE, in_range, interrupt, INTERRUPTED, most_room, operations_of,
                               state_bytes)
from lstmx._core.program cimport Program

cnp.import_array()


cdef int64_t SLOT = 0xffffffff   # the part of an id that is its slot

cdef enum:
    GATHER, SCATTER, EXCHANGE    # where the states of a push go


cdef cnp.ndarray memory(size count):
    """So many bytes, and as many more as lead to the next cache line."""
    cdef cnp.npy_intp length = count + 64
    return cnp.PyArray_EMPTY(1, &length, cnp.NPY_UINT8, 0)


cdef char *line(cnp.ndarray bytes_of) noexcept:
    """Its first cache line."""
    return <char *>((<size_t>cnp.PyArray_DATA(bytes_of) + 63) & ~<size_t>63)


cdef class Sessions:
    """The slots of a pool.

    Parameters
    ----------
    program : Program
    ids : ndarray of int64 (capacity,)
        Of the session in each slot, or -1; the slot of an id is its lowest 32 bits. The caller changes it between calls.
    states : list of ndarray
        Those of the program, (layers, capacity, width) or (capacity, width). The caller may change them between calls.
    """

    cdef Program program
    cdef cnp.ndarray ids
    cdef list states, keep
    cdef size capacity
    cdef size *slots              # (capacity,) of the sessions of a call
    cdef int64_t *pushes          # (capacity,) the number of the last call that a slot had a part in
    cdef int64_t number
    cdef char **pooled            # (states,) the arrays
    cdef char **copies            # (states,) what a call works with
    cdef char *room

    def __init__(self, Program program, cnp.ndarray ids, list states):
        cdef cnp.ndarray piece
        cdef int k
        self.program, self.ids, self.states, self.capacity = program, ids, states, len(ids)
        pieces = [memory(8 * self.capacity), memory(8 * self.capacity), memory(16 * program.plan.state_count),
                  memory(most_room(&program.plan, self.capacity))]
        for k in range(program.plan.state_count):
            if not program.is_state(states[k], k, self.capacity):
                raise ValueError(f"states[{k}]: does not fit the program")
            pieces.append(memory(state_bytes(&program.plan.states[k], self.capacity)))
        self.keep = pieces
        self.slots, self.pushes = <size *>line(pieces[0]), <int64_t *>line(pieces[1])
        for k in range(self.capacity):
            self.pushes[k] = 0
        self.pooled, self.room = <char **>line(pieces[2]), line(pieces[3])
        self.copies = self.pooled + program.plan.state_count
        for k in range(program.plan.state_count):
            self.pooled[k], self.copies[k] = <char *>cnp.PyArray_DATA(states[k]), line(pieces[4 + k])

    cdef bint find(self, const int64_t *ids, size count) noexcept:
        """Sets `slots`; False if an id is not that of an open session, or is there twice."""
        cdef const int64_t *table = <const int64_t *>cnp.PyArray_DATA(self.ids)
        cdef size k, slot
        self.number += 1
        for k in range(count):
            slot = ids[k] & SLOT
            if ids[k] < 0 or slot >= self.capacity or table[slot] != ids[k] or self.pushes[slot] == self.number:
                return False
            self.pushes[slot] = self.number
            self.slots[k] = slot
        return True

    cdef void move(self, size count, int way) noexcept nogil:
        """The rows of the slots to the copies, back, or both to the place of the other."""
        cdef const size *slots = self.slots
        cdef size layer, n, row
        cdef char *pooled
        cdef char *copy
        cdef bint together = slots[count - 1] - slots[0] == count - 1
        cdef int k
        for n in range(count):
            together = together and slots[n] - slots[0] == n
        for k in range(self.program.plan.state_count):
            row = self.program.plan.states[k].width * self.program.plan.states[k].value_bytes
            copy = self.copies[k]
            for layer in range(max(1, self.program.plan.states[k].layers)):
                pooled = self.pooled[k] + layer * self.capacity * row
                if together:
                    carry(pooled + slots[0] * row, copy, count * row, way)
                else:
                    for n in range(count):
                        carry(pooled + slots[n] * row, copy + n * row, row, way)
                copy += count * row

    def push(self, ids, x, out=None):
        """Outputs of the sessions for their next steps; None where arguments are not plain arrays that fit, for the caller to
        look at. Then nothing has changed.

        Parameters
        ----------
        ids : ndarray of int64 (n,), contiguous
        x : (n, I), or (n, k, I) for k steps; integers without I
        out : array of the results' shape, or None
        """
        cdef Program program = self.program
        cdef cnp.ndarray y
        cdef cnp.npy_intp shape[3]
        cdef PyThreadState *thread
        cdef double work
        cdef Call call
        cdef bint step
        cdef int axes, outcome
        if not (cnp.PyArray_CheckExact(ids) and cnp.PyArray_TYPE(<cnp.ndarray>ids) == cnp.NPY_INT64
                and cnp.PyArray_NDIM(<cnp.ndarray>ids) == 1 and cnp.PyArray_ISCARRAY_RO(<cnp.ndarray>ids)
                and cnp.PyArray_CheckExact(x)):
            return None
        axes = cnp.PyArray_NDIM(<cnp.ndarray>x) - (program.x_type != cnp.NPY_INT64)
        step = axes == 1
        if not (1 <= axes <= 2 and program.read(x, step, &call) and call.rows == cnp.PyArray_SIZE(<cnp.ndarray>ids)):
            return None
        axes = program.result_shape(&call, 2, step, shape)
        if out is None:
            y = cnp.PyArray_EMPTY(axes, shape, program.type_number, 0)
        elif program.is_result(out, axes, shape) and not overlap(out, x) and not overlap(out, ids):
            y = out
        else:
            return None
        if not self.find(<const int64_t *>cnp.PyArray_DATA(<cnp.ndarray>ids), call.rows):
            return None
        if program.x_type == cnp.NPY_INT64 and not in_range(&call, program.plan.stages[0].count):
            return None
        work = operations_of(&program.plan, call.rows, call.steps)
        call.budget = program.budget(work)
        call.y, call.y_step = cnp.PyArray_DATA(y), program.plan.outputs
        call.y_row = program.plan.outputs * (1 if program.plan.pooling >= 0 else call.steps)
        call.states, call.room = <void **>self.copies, self.room
        thread = let_go(work > LONG_WORK)
        self.move(call.rows, GATHER)
        outcome = advance(&program.plan, &call)
        if thread != NULL and outcome == DONE:
            self.move(call.rows, EXCHANGE)
        take_back(thread)
        if outcome == DONE and interrupted() != 0:
            outcome = INTERRUPTED
            if thread != NULL:
                self.move(call.rows, EXCHANGE)
        elif outcome == DONE and thread == NULL:
            self.move(call.rows, SCATTER)
        interrupt(outcome)
        return y


cdef inline void carry(char *pooled, char *copy, size count, int way) noexcept nogil:
    """copy := pooled, back, or an exchange, in pieces of one size, which need no call."""
    cdef char held[64]
    cdef size k, whole = count & ~<size>63
    for k in range(0, whole, 64):
        if way == GATHER:
            memcpy(copy + k, pooled + k, 64)
        elif way == SCATTER:
            memcpy(pooled + k, copy + k, 64)
        else:
            memcpy(held, pooled + k, 64)
            memcpy(pooled + k, copy + k, 64)
            memcpy(copy + k, held, 64)
    count -= whole
    if count == 0:
        return
    pooled += whole
    copy += whole
    if way == GATHER:
        memcpy(copy, pooled, count)
    elif way == SCATTER:
        memcpy(pooled, copy, count)
    else:
        memcpy(held, pooled, count)
        memcpy(pooled, copy, count)
        memcpy(copy, held, count)
