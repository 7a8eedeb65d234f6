"""Training on plain arrays: all layers and directions of an LSTM forward, keeping a tape, and back, almost without Python.

This is what `forward` and `backward` of a layer are where x is an array of the model's type whose sequences have one length,
the cell is the plain one and nothing is dropped. Whatever else goes the general way, through lstmx.functional, which makes
the same tape of it, with the same bits.
"""

from libc.string cimport memcpy

cimport numpy as cnp

import numpy as np

from lstmx._core.allocate cimport plain, room
from lstmx._core.arrays cimport begin_at, fits, readable, size
from lstmx._core.core cimport let_go, LONG, PyThreadState, take_back
from lstmx._core.job cimport Direction, even_cohorts, worth_threads
from lstmx._core.loop cimport backward, forward

cnp.import_array()


cdef void turn(size outer, size inner, size width, const char *x, size along, size step, char *out) noexcept nogil:
    """out (outer, inner, width bytes) := the rows of x that lie `along` bytes from each other, and `step`."""
    cdef size n, t
    cdef const char *row
    for n in range(outer):
        row = x + n * along
        for t in range(inner):
            if width == 4:      # a call costs more than the copy
                memcpy(out, row, 4)
            elif width == 16:
                memcpy(out, row, 16)
            else:
                memcpy(out, row, width)
            out += width
            row += step


cdef int copy_turned(size outer, size inner, size width, const void *x, size along, size step, cnp.ndarray out) except -1:
    """`turn`, letting go of the GIL where there is much of it."""
    cdef PyThreadState *saved = let_go(cnp.PyArray_SIZE(out) > LONG)
    turn(outer, inner, width, <const char *>x, along, step, <char *>cnp.PyArray_DATA(out))
    take_back(saved)
    return 0


cdef class Passes:
    """All layers and directions of an LSTM in training.

    Parameters
    ----------
    parts : list of Direction
        Forward, index layer * D + direction.
    back : callable () -> list of Direction
        The same backward, with dx; asked for once, by the first backward pass.
    weights : list of list
        What the tape of each layer has as its weights: one for each direction.
    reversed : tuple of bool
        For each direction, whether it reads from the end.
    names : list of dict
        For each part, the parameters' names, by those that `loop.backward` knows.
    type_number : int
        NumPy's number of the model's type.
    threads : callable
        What a call may use; only asked where it is long.
    """

    cdef list parts, back_parts, weights, names
    cdef object back, threads
    cdef tuple reversed
    cdef cnp.dtype kind
    cdef int layers, directions, type_number
    cdef size inputs, hidden, itemsize
    cdef bint takes_cohorts

    def __cinit__(self, list parts, back, list weights, tuple reversed, list names, int type_number, threads):
        cdef Direction first = parts[0]
        self.parts, self.back_parts, self.back, self.weights, self.reversed, self.names = parts, None, back, weights, reversed, names
        self.layers, self.directions = len(weights), len(reversed)
        self.type_number, self.threads, self.kind = type_number, threads, cnp.PyArray_DescrFromType(type_number)
        self.inputs, self.hidden, self.itemsize = first.job.layer.inputs, first.job.layer.hidden, first.job.itemsize

    cdef int budget(self, size rows, size inputs, int passes) except -1:
        """The threads that a layer may have."""
        return self.threads() if worth_threads(8.0 * passes * rows * self.hidden * (inputs + self.hidden)) else 1

    cdef cnp.ndarray column(self, cnp.ndarray whole, int direction):
        """The features of one direction."""
        if whole is None or self.directions == 1:
            return whole
        return whole[..., direction * self.hidden : (direction + 1) * self.hidden]

    cdef cnp.ndarray states(self, object given, size N):
        """(L*D, N, H), a copy of what was given, which may lack N, or 0."""
        cdef cnp.npy_intp shape[3]
        shape[0], shape[1], shape[2] = self.layers * self.directions, N, self.hidden
        cdef cnp.ndarray found = plain(3, shape, self.kind)
        begin_at(found, given)
        return found

    cdef bint state_fits(self, object state, size N, bint single) except -1:
        cdef cnp.npy_intp shape[3]
        cdef int k
        shape[0], shape[1], shape[2] = self.layers * self.directions, self.hidden if single else N, self.hidden
        if state is None:
            return True
        if type(state) is not tuple or len(<tuple>state) != 2:
            return False
        for k in range(2):
            if not fits((<tuple>state)[k], self.type_number, 2 if single else 3, shape):
                return False
            if not cnp.PyArray_IS_C_CONTIGUOUS(<cnp.ndarray>(<tuple>state)[k]):
                return False
        return True

    def forward(self, x, state):
        """(y, (h_n, c_n), the layers of a tape); None where the arguments are not plain arrays that fit.

        Parameters
        ----------
        x : (N, T, I) or (T, I)
        state : (h, c) or None
        """
        cdef cnp.ndarray a, rows, y, above, h, c, cohorts
        cdef cnp.npy_intp shape[3]
        cdef size N = 1, T, along = 0, unit = self.itemsize, wide = self.directions * self.hidden
        cdef bint single
        cdef int ndim, layer, direction, k, threads
        if not readable(x, self.type_number):
            return None
        a = <cnp.ndarray>x
        ndim = cnp.PyArray_NDIM(a)
        if ndim < 2 or ndim > 3 or cnp.PyArray_DIM(a, ndim - 1) != self.inputs or cnp.PyArray_SIZE(a) == 0:
            return None
        if self.inputs > 1 and cnp.PyArray_STRIDE(a, ndim - 1) != unit:
            return None
        single = ndim == 2
        T = cnp.PyArray_DIM(a, ndim - 2)
        if not single:
            N, along = cnp.PyArray_DIM(a, 0), cnp.PyArray_STRIDE(a, 0)
        if not self.state_fits(state, N, single):
            return None
        shape[0], shape[1], shape[2] = N, T, wide
        y = plain(3, shape, self.kind)
        h, c = self.states(None if state is None else (<tuple>state)[0], N), self.states(None if state is None else (<tuple>state)[1], N)
        rows = room(N * T * self.inputs, self.kind).reshape(N * T, self.inputs)
        copy_turned(T, N, self.inputs * unit, cnp.PyArray_DATA(a), cnp.PyArray_STRIDE(a, ndim - 2), along, rows)
        layers = []
        for layer in range(self.layers):
            above = y
            if layer + 1 < self.layers:
                above = room(N * T * wide, self.kind).reshape(N * T, wide)
            threads = self.budget(N * T, cnp.PyArray_DIM(rows, 1), 1)
            slabs = []
            for direction in range(self.directions):
                k = layer * self.directions + direction
                cohorts = even_cohorts(N, T) if (<Direction>self.parts[k]).takes_cohorts() else None
                tape = {}
                forward(<Direction>self.parts[k], rows, None, T, self.reversed[direction], h[k], c[k], self.column(above, direction),
                        threads, tape, True, cohorts)
                slabs.append(tape)
            layers.append((rows, slabs, None, self.weights[layer], None, None))
            rows = above
        if single:
            return y[0], (h[:, 0], c[:, 0]), layers
        return y, (h, c), layers

    def takes(self, tuple shape, dy, dstate):
        """Whether `backward` takes these gradients of an x of that shape; its results are made by it."""
        cdef cnp.npy_intp sizes[3]
        cdef int ndim = len(shape), k
        for k in range(ndim - 1):
            sizes[k] = shape[k]
        sizes[ndim - 1] = self.directions * self.hidden
        return ((dy is None or fits(dy, self.type_number, ndim, sizes)
                 and (sizes[ndim - 1] == 1 or cnp.PyArray_STRIDE(<cnp.ndarray>dy, ndim - 1) == self.itemsize))
                and self.state_fits(dstate, shape[0], ndim == 2))

    def backward(self, list layers, tuple shape, dy, dstate, dict arrays):
        """(dx, (dh0, dc0), the gradients of `arrays` by name), from a tape of an x of that shape, which is used up."""
        cdef cnp.ndarray rows, below = None, above = dy, dh, dc, dx = None, parameter
        cdef cnp.npy_intp sizes[3]
        cdef bint single = len(shape) == 2
        cdef size N = 1 if single else shape[0], T = shape[len(shape) - 2], width
        cdef int layer, direction, k, threads
        if self.back_parts is None:
            self.back_parts = self.back()
        out = {}
        for name, parameter in arrays.items():
            out[name] = plain(cnp.PyArray_NDIM(parameter), cnp.PyArray_DIMS(parameter), self.kind)
        dh, dc = self.states(None if dstate is None else (<tuple>dstate)[0], N), self.states(None if dstate is None else (<tuple>dstate)[1], N)
        sizes[0], sizes[1], sizes[2] = N, T, self.inputs
        dx = plain(3, sizes, self.kind)
        if single and above is not None:
            above = above[None]
        for layer in range(self.layers - 1, -1, -1):
            rows, all_slabs = (<tuple>layers[layer])[0], (<tuple>layers[layer])[1]
            width = cnp.PyArray_DIM(rows, 1)
            if layer == 0 and N == 1:   # where it is wanted
                below = dx.reshape(T, width)
            else:
                below = room(N * T * width, self.kind).reshape(N * T, width)
            threads = self.budget(N * T, width, 3)
            for direction in range(self.directions):
                k = layer * self.directions + direction
                gradients = {known: out[name] for known, name in (<dict>self.names[k]).items()}
                backward(<Direction>self.back_parts[k], rows, None, T, self.reversed[direction], all_slabs[direction],
                         self.column(above, direction), dh[k], dc[k], below, direction > 0, gradients, None, threads)
            above = below
        if N > 1:
            width = self.inputs * self.itemsize
            copy_turned(N, T, width, cnp.PyArray_DATA(below), width, N * width, dx)
        if single:
            return dx[0], (dh[:, 0], dc[:, 0]), out
        return dx, (dh, dc), out
