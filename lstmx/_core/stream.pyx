"""Inference on plain arrays: all layers and directions of an LSTM in one call, without packing and almost without Python.

This is what a call, `step` and `stream` are where their arguments are arrays of the model's type: x is read and y written
where they lie. Whatever is not plain goes the general way, through lstmx.functional.
"""

cimport numpy as cnp

from lstmx._core.arrays cimport begin_at, fits, overlap, readable
from lstmx._core.core cimport lstmx_layer
from lstmx._core.job cimport begin, Direction, Job, operations, room_for_sums, share_out, size, worth_threads
from lstmx._core.loop cimport run, run_both

cnp.import_array()

cdef size LARGEST = 2147483647   # of a distance between rows, for BLAS; it takes none below their width either


cdef class Stack:
    """All layers and directions of an LSTM: inference on plain arrays in one compiled call.

    Parameters
    ----------
    parts : list of Direction
        Index layer * D + direction.
    layers, directions : int
        L, D.
    type_number : int
        NumPy's number of the model's type.
    threads : callable
        What a call may use; only asked where it is long.
    """

    cdef list parts
    cdef object threads
    cdef int layers, directions, type_number
    cdef bint blas
    cdef size inputs, memory, outputs, itemsize

    def __cinit__(self, list parts, int layers, int directions, int type_number, threads):
        cdef Direction first = parts[0]
        self.parts, self.threads, self.blas = parts, threads, first.job.serial
        self.layers, self.directions, self.type_number = layers, directions, type_number
        cdef const lstmx_layer *l = &first.job.layer
        self.inputs, self.memory, self.outputs, self.itemsize = l.inputs, l.memory, l.outputs, first.job.itemsize

    cdef bint state_fits(self, object a, int ndim, size batch, size width) noexcept:
        """Whether a is a contiguous (L*D, N, width), or (L*D, width) where there is one sequence."""
        cdef cnp.npy_intp shape[3]
        shape[0], shape[1], shape[ndim - 1] = self.layers * self.directions, batch, width
        return fits(a, self.type_number, ndim, shape) and cnp.PyArray_IS_C_CONTIGUOUS(<cnp.ndarray>a)

    cdef bint out_fits(self, object out, object state, cnp.ndarray x, int ndim, const cnp.npy_intp *y_shape,
                       int state_ndim, size batch):
        """Whether `out` is (y, (h, c)), writable, of the right shapes, overlapping nothing but the state's own arrays."""
        cdef cnp.ndarray y, a, b
        cdef int k, m
        if type(out) is not tuple or len(<tuple>out) != 2:
            return False
        pair = (<tuple>out)[1]
        if type(pair) is not tuple or len(<tuple>pair) != 2 or not fits((<tuple>out)[0], self.type_number, ndim, y_shape):
            return False
        y = <cnp.ndarray>(<tuple>out)[0]
        if not cnp.PyArray_IS_C_CONTIGUOUS(y):
            return False
        for k in range(2):
            if not self.state_fits((<tuple>pair)[k], state_ndim, batch, self.memory if k else self.outputs):
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

    def run(self, x, state, bint step, out=None):
        """y, (h_n, c_n); None where the arguments are not plain arrays that fit, for the caller to look at.

        Parameters
        ----------
        x : (N, T, I) or (T, I); with `step` (N, I) or (I,)
        state : (h, c) or None
        step : whether x has no time axis
        out : (y, (h, c)) to write to, or None
        """
        cdef cnp.ndarray a, y, h, c
        cdef cnp.npy_intp shape[3]
        cdef int ndim, lead, k
        cdef size N = 1, T = 1, x_row = 0, x_step = 0, unit = self.itemsize, wide = self.directions * self.outputs
        if not readable(x, self.type_number):
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
        if self.blas and (lead == 2 and not self.inputs <= x_row // unit <= LARGEST or not step and x_step == 0
                          or T * wide > LARGEST):
            return None
        if state is not None and not (type(state) is tuple and len(<tuple>state) == 2
                                      and self.state_fits((<tuple>state)[0], lead + 1, N, self.outputs)
                                      and self.state_fits((<tuple>state)[1], lead + 1, N, self.memory)):
            return None
        shape[0] = N
        if not step:
            shape[lead - 1] = T
        shape[ndim - 1] = wide
        if out is None:
            y = cnp.PyArray_EMPTY(ndim, shape, self.type_number, 0)
            shape[0], shape[1], shape[lead] = self.layers * self.directions, N, self.outputs
            h = cnp.PyArray_EMPTY(lead + 1, shape, self.type_number, 0)
            shape[lead] = self.memory
            c = cnp.PyArray_EMPTY(lead + 1, shape, self.type_number, 0)
        elif self.out_fits(out, state, a, ndim, shape, lead + 1, N):
            y, (h, c) = out
        else:
            return None
        begin_at(h, None if state is None else (<tuple>state)[0])
        begin_at(c, None if state is None else (<tuple>state)[1])
        self.work(cnp.PyArray_DATA(a), x_step // unit, x_row // unit, N, T, y, h, c)
        return y, (h, c)

    cdef int work(self, const void *x, size x_step, size x_row, size N, size T, cnp.ndarray y, cnp.ndarray h,
                  cnp.ndarray c) except -1:
        """All layers and directions, one after the other."""
        cdef Job jobs[2]
        cdef Direction part
        cdef lstmx_layer *l
        cdef size wide = self.directions * self.outputs
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
                part = <Direction>self.parts[k]
                begin(&jobs[direction], &part.job, T, N, direction, x, x_step, x_row)
                l = &jobs[direction].layer
                l.h = <char *>cnp.PyArray_DATA(h) + k * N * self.outputs * self.itemsize
                l.c = <char *>cnp.PyArray_DATA(c) + k * N * self.memory * self.itemsize
                l.y = <char *>cnp.PyArray_DATA(above) + direction * self.outputs * self.itemsize
                l.y_step, l.y_row = wide, T * wide
                threads = self.threads() if worth_threads(operations(&jobs[direction])) else 1
                rooms.append(self.room(&jobs[direction], threads))
                if l.at.width or l.at.scratch_width:
                    rooms.append(self.extra(&jobs[direction]))
                share_out(&jobs[direction], threads)
            if self.directions == 2 and threads > 1 and (jobs[0].split_units or jobs[0].threads == 1) and not jobs[0].serial:
                run_both(&jobs[0], &jobs[1], threads)
            else:
                for direction in range(self.directions):
                    run(&jobs[direction], threads)
            for direction in range(self.directions):
                if jobs[direction].fused:
                    jobs[direction].kernels.close_rows(&jobs[direction].layer)
            below = above   # held while it is read
            x, x_step, x_row = cnp.PyArray_DATA(above), wide, T * wide
        return 0

    cdef cnp.ndarray extra(self, Job *job):
        """Gives a job its rows of `extra` and of scratch, which the caller holds."""
        cdef cnp.npy_intp width = job.layer.at.width, length = job.layer.batch * (width + job.layer.at.scratch_width)
        cdef cnp.ndarray extra = cnp.PyArray_EMPTY(1, &length, self.type_number, 0)
        job.layer.extra, job.layer.extra_row = cnp.PyArray_DATA(extra), width
        job.layer.scratch = <char *>cnp.PyArray_DATA(extra) + job.layer.batch * width * self.itemsize
        return extra

    cdef cnp.ndarray room(self, Job *job, int threads):
        """Gives a job its blocks and the room for their sums, which the caller holds."""
        cdef cnp.npy_intp length = room_for_sums(job, threads)
        cdef cnp.ndarray room
        if length == 0:
            return None
        length += 64 // self.itemsize
        room = cnp.PyArray_EMPTY(1, &length, self.type_number, 0)
        job.sums = <void *>((<size_t>cnp.PyArray_DATA(room) + 63) & ~<size_t>63)
        return room
