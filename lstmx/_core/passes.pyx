"""Training: all layers and directions of an LSTM of the plain cell forward, keeping a tape, and back, almost without Python.

`run` and `run_back` take packed rows; `forward` and `backward` are what those of a layer are where x is an array of the model's
type whose sequences have one length. Where something is dropped, and for other cells, there is the general way, through
lstmx.functional: with the same tape and the same bits.
"""

from libc.string cimport memcpy

cimport numpy as cnp

from lstmx._core.allocate cimport plain, result, room
from lstmx._core.arrays cimport begin_at, fits, readable, size
from lstmx._core.core cimport let_go, LONG, PyThreadState, take_back
from lstmx._core.job cimport Direction, first_of_cohorts, worth_threads
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
    """All layers and directions of an LSTM in training, of the plain cell on the tile.

    Parameters
    ----------
    parts, back : list of Direction
        Forward and backward, index layer * D + direction, of any weights.
    reversed : tuple of bool
        For each direction, whether it reads from the end.
    names : list of tuple
        For each part, the names of weight_ih, weight_hh and bias, which may be None.
    type_number : int
        NumPy's number of the model's type.
    threads : callable
        What a call may use; only asked where it is long.
    """

    cdef list parts, back, names
    cdef tuple reversed
    cdef object threads
    cdef dict arrays
    cdef cnp.dtype kind
    cdef int layers, directions, type_number
    cdef size inputs, hidden, itemsize

    def __init__(self, list parts, list back, tuple reversed, list names, int type_number, threads):
        cdef Direction first = parts[0]
        self.parts = [(<Direction>part).bare() for part in parts]
        self.back = [(<Direction>part).bare() for part in back]
        self.reversed, self.names, self.type_number, self.threads = reversed, names, type_number, threads
        self.directions, self.kind = len(reversed), cnp.PyArray_DescrFromType(type_number)
        self.layers = len(parts) // self.directions
        self.inputs, self.hidden, self.itemsize = first.job.layer.inputs, first.job.layer.hidden, first.job.itemsize

    def of(self, dict arrays):
        """The same for these parameters, by name: C-contiguous, of the model's type. They are packed here, those of backward
        when they are asked for.
        """
        cdef Passes found = Passes.__new__(Passes)
        found.arrays, found.back, found.reversed, found.names = arrays, self.back[:], self.reversed, self.names
        found.layers, found.directions, found.type_number, found.kind = self.layers, self.directions, self.type_number, self.kind
        found.inputs, found.hidden, found.itemsize, found.threads = self.inputs, self.hidden, self.itemsize, self.threads
        found.parts = [found.packed(<Direction>self.parts[k], k, True) for k in range(len(self.parts))]
        return found

    cdef Direction packed(self, Direction bare, int k, bint need_dx):
        ih, hh, bias = <tuple>self.names[k]
        return bare.of(self.arrays[ih], self.arrays[hh], None if bias is None else self.arrays[bias], need_dx)

    cdef Direction back_part(self, int k, bint need_dx):
        """A part backward, packed if that has not been done yet."""
        cdef Direction part = self.back[k]
        if part._keep is None or need_dx and part.job.ih.operands == NULL:
            part = self.back[k] = self.packed(part, k, need_dx)
        return part

    @property
    def takes_cohorts(self):
        """Whether a layer makes use of the cohorts of a batch."""
        return any([(<Direction>part).takes_cohorts() for part in self.parts])

    cdef int budget(self, size rows, size inputs, int passes) except -1:
        """The threads that a layer may have."""
        return self.threads() if worth_threads(8.0 * passes * rows * self.hidden * (inputs + self.hidden)) else 1

    cdef cnp.ndarray column(self, cnp.ndarray whole, int direction):
        """The features of one direction."""
        if whole is None or self.directions == 1:
            return whole
        return whole[..., direction * self.hidden : (direction + 1) * self.hidden]

    cdef cnp.ndarray states(self, object pair, int which, size N):
        """(L*D, N, H): a copy of one of a pair of states, which may lack N, or 0 for None."""
        cdef cnp.npy_intp shape[3]
        shape[0], shape[1], shape[2] = self.layers * self.directions, N, self.hidden
        cdef cnp.ndarray found = plain(3, shape, self.kind)
        begin_at(found, None if pair is None else (<tuple>pair)[which])
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

    def forward(self, x, state, parameters):
        """(y, (h_n, c_n), the layers of a tape); None where the arguments are not plain arrays that fit.

        Parameters
        ----------
        x : (N, T, I) or (T, I)
        state : (h, c) or None
        parameters : anything, for the tape
        """
        cdef cnp.ndarray a, rows, y, h, c
        cdef cnp.npy_intp shape[3]
        cdef size N = 1, T, along = 0, unit = self.itemsize, wide = self.directions * self.hidden
        cdef bint single
        cdef int ndim
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
        h, c = self.states(state, 0, N), self.states(state, 1, N)
        rows = room(N * T * self.inputs, self.kind).reshape(N * T, self.inputs)
        copy_turned(T, N, self.inputs * unit, cnp.PyArray_DATA(a), cnp.PyArray_STRIDE(a, ndim - 2), along, rows)
        layers = self.ahead(rows, None, T, first_of_cohorts(N, N * T), h, c, y, parameters)
        if single:
            return y[0], (h[:, 0], c[:, 0]), layers
        return y, (h, c), layers

    def run(self, cnp.ndarray rows, offsets, size steps, cohorts, cnp.ndarray h, cnp.ndarray c, parameters):
        """(y (S, D*H), the layers of a tape) of packed rows (S, I); h and c (L*D, N, H) go from the initial to the final state.

        Parameters
        ----------
        offsets, steps, cohorts : as of `loop.forward`
        parameters : anything, for the tape
        """
        cdef size S = cnp.PyArray_DIM(rows, 0), wide = self.directions * self.hidden
        cdef cnp.npy_intp shape[2]
        cdef cnp.ndarray y
        shape[0], shape[1] = S, self.inputs
        if not fits(rows, self.type_number, 2, shape) or not cnp.PyArray_IS_C_CONTIGUOUS(rows):
            raise ValueError(f"x: must be C-contiguous rows (S, {self.inputs}) of {self.kind}, which compiled code reads by their address")
        y = room(S * wide, self.kind).reshape(S, wide)
        return y, self.ahead(rows, offsets, steps, cohorts, h, c, y, parameters)

    cdef list ahead(self, cnp.ndarray rows, cnp.ndarray offsets, size steps, cnp.ndarray cohorts, cnp.ndarray h, cnp.ndarray c,
                    cnp.ndarray y, parameters):
        """All layers, the last to y: the layers of a tape."""
        cdef cnp.ndarray above
        cdef Direction part
        cdef size S = cnp.PyArray_DIM(rows, 0), wide = self.directions * self.hidden
        cdef int layer, direction, k, threads
        cdef list layers = [], slabs
        for layer in range(self.layers):
            above = y
            if layer + 1 < self.layers:
                above = room(S * wide, self.kind).reshape(S, wide)
            threads = self.budget(S, cnp.PyArray_DIM(rows, 1), 1)
            slabs = []
            for direction in range(self.directions):
                k = layer * self.directions + direction
                part = self.parts[k]
                tape = {}
                forward(part, rows, offsets, steps, self.reversed[direction], h[k], c[k], self.column(above, direction), threads, tape,
                        True, cohorts if part.takes_cohorts() else None)
                slabs.append(tape)
            layers.append((rows, slabs, None, parameters, None, None))
            rows = above
        return layers

    def takes(self, tuple shape, dy, dstate):
        """Whether `backward` takes these gradients of an x of that shape."""
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
        cdef cnp.ndarray below, dh, dc, dx, parameter
        cdef cnp.npy_intp sizes[3]
        cdef bint single = len(shape) == 2
        cdef size N = 1 if single else shape[0], T = shape[len(shape) - 2], width = self.inputs * self.itemsize
        out = {}
        for name, parameter in arrays.items():
            out[name] = result(cnp.PyArray_NDIM(parameter), cnp.PyArray_DIMS(parameter), self.kind)
        dh, dc = self.states(dstate, 0, N), self.states(dstate, 1, N)
        sizes[0], sizes[1], sizes[2] = N, T, self.inputs
        dx = plain(3, sizes, self.kind)
        if N == 1:   # where it is wanted
            below = dx.reshape(T, self.inputs)
        else:
            below = room(N * T * self.inputs, self.kind).reshape(N * T, self.inputs)
        self.back_through(layers, None, T, dy[None] if single and dy is not None else dy, dh, dc, below, out, False, False, {})
        if N > 1:
            copy_turned(N, T, width, cnp.PyArray_DATA(below), width, N * width, dx)
        if single:
            return dx[0], (dh[:, 0], dc[:, 0]), out
        return dx, (dh, dc), out

    def run_back(self, list layers, offsets, size steps, dy, cnp.ndarray dh, cnp.ndarray dc, dict out, bint need_dx, bint add, bint more,
                 dict sums):
        """dx (S, I) or None, from a tape of `run`, which is used up; `out` by name is written, dh and dc (L*D, N, H) go from the
        gradients of the final to those of the initial state.

        Parameters
        ----------
        dy : (S, D*H) or None
        add, more : as of `loop.backward`
        sums : part -> its `sums`, IN and OUT
        """
        cdef cnp.ndarray dx = None
        cdef size S = cnp.PyArray_DIM((<tuple>layers[0])[0], 0)
        if need_dx:
            dx = room(S * self.inputs, self.kind).reshape(S, self.inputs)
        self.back_through(layers, offsets, steps, dy, dh, dc, dx, out, add, more, sums)
        return dx

    cdef int back_through(self, list layers, cnp.ndarray offsets, size steps, cnp.ndarray dy, cnp.ndarray dh, cnp.ndarray dc,
                          cnp.ndarray dx, dict out, bint add, bint more, dict sums) except -1:
        """All layers, last to first."""
        cdef cnp.ndarray rows, below
        cdef size S, width
        cdef int layer, direction, k, threads
        for layer in range(self.layers - 1, -1, -1):
            rows, slabs = (<tuple>layers[layer])[0], (<tuple>layers[layer])[1]
            S, width = cnp.PyArray_DIM(rows, 0), cnp.PyArray_DIM(rows, 1)
            below = room(S * width, self.kind).reshape(S, width) if layer else dx
            threads = self.budget(S, width, 3)
            for direction in range(self.directions):
                k = layer * self.directions + direction
                ih, hh, bias = <tuple>self.names[k]
                gradients = {"weight_ih": out[ih], "weight_hh": out[hh]}
                if bias is not None:
                    gradients["bias"] = out[bias]
                sums[k] = backward(self.back_part(k, below is not None), rows, offsets, steps, self.reversed[direction], slabs[direction],
                                   self.column(dy, direction), dh[k], dc[k], below, direction > 0, gradients, None, threads, None, None,
                                   add, sums.get(k), more)
            dy = below
        return 0
