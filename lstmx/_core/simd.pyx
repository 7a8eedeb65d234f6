"""Chooses the kernels for this CPU and offers those that work on whole arrays.

All functions take C-contiguous arrays of one floating-point type and check nothing but what a memoryview checks:
lstmx.functional validates first.
"""

import os

from libc.stdint cimport int64_t, uint32_t, uint64_t

from lstmx._core.core cimport (lstmx_isa, lstmx_isa_at, lstmx_isa_count, lstmx_isa_supported, lstmx_mask, let_go, PyThreadState, real,
                               take_back)

ACTIVATIONS = {"linear": 0, "relu": 1, "tanh": 2, "sigmoid": 3, "softmax": 4}   # enum lstmx_activation
LOSSES = {"mse": 0, "mae": 1, "huber": 2, "binary_crossentropy": 3, "categorical_crossentropy": 4}   # enum lstmx_loss

cdef const lstmx_isa *active

cdef Py_ssize_t LONG = 20000   # elements that take some 20 us


def _choose(forced):
    """The best instruction set that this CPU has, or the one that LSTMX_ISA names."""
    names = [lstmx_isa_at(i).name.decode() for i in range(lstmx_isa_count())]
    usable = [name for i, name in enumerate(names) if lstmx_isa_supported(i)]
    if not forced:
        return names.index(usable[len(usable) - 1])   # no negative index: wraparound is off
    if forced not in names:
        raise ImportError(f"LSTMX_ISA={forced!r} is not an instruction set of this build: use one of {usable}, "
                          "or unset the variable")
    if forced not in usable:
        raise ImportError(f"LSTMX_ISA={forced!r} cannot run on this CPU: use one of {usable}, or unset the variable")
    return names.index(forced)


active = lstmx_isa_at(_choose(os.environ.get("LSTMX_ISA", "")))

cdef const lstmx_isa *active_isa() noexcept nogil:
    return active


def isa():
    """dict: the active instruction set, its vector width in bytes, those of the build and those this CPU can run."""
    cdef int i
    every = range(lstmx_isa_count())
    return {
        "active": active.name.decode(),
        "vector_bytes": active.vector_bytes,
        "fma": bool(active.fma),
        "compiled": [lstmx_isa_at(i).name.decode() for i in every],
        "usable": [lstmx_isa_at(i).name.decode() for i in every if lstmx_isa_supported(i)],
    }


def sigmoid(const real[::1] x, real[::1] out):
    """out := 1 / (1 + exp(-x))."""
    if real is float:
        active.f32.sigmoid(x.shape[0], &x[0], &out[0])
    else:
        active.f64.sigmoid(x.shape[0], &x[0], &out[0])


def tanh(const real[::1] x, real[::1] out):
    """out := tanh(x)."""
    if real is float:
        active.f32.tanh(x.shape[0], &x[0], &out[0])
    else:
        active.f64.tanh(x.shape[0], &x[0], &out[0])


def exp(const real[::1] x, real[::1] out):
    """out := e**x."""
    if real is float:
        active.f32.exp(x.shape[0], &x[0], &out[0])
    else:
        active.f64.exp(x.shape[0], &x[0], &out[0])


def activate(int activation, real[:, ::1] y, const real[::1] bias):
    """y (rows, n) := activation(y + bias); bias (n,) or None."""
    cdef const real *b = NULL if bias is None else &bias[0]
    if y.shape[0] == 0:
        return
    cdef PyThreadState *saved = let_go(y.shape[0] * y.shape[1] > LONG)
    if real is float:
        active.f32.activate(activation, y.shape[0], y.shape[1], b, &y[0, 0])
    else:
        active.f64.activate(activation, y.shape[0], y.shape[1], b, &y[0, 0])
    take_back(saved)


def activate_backward(int activation, const real[:, ::1] y, real[:, ::1] dy):
    """dy (rows, n) := dy * activation'(.), from the activated y (rows, n)."""
    if y.shape[0] == 0:
        return
    cdef PyThreadState *saved = let_go(y.shape[0] * y.shape[1] > LONG)
    if real is float:
        active.f32.activate_backward(activation, y.shape[0], y.shape[1], &y[0, 0], &dy[0, 0])
    else:
        active.f64.activate_backward(activation, y.shape[0], y.shape[1], &y[0, 0], &dy[0, 0])
    take_back(saved)


def column_sum(const real[:, ::1] x, real[::1] out):
    """out (n,) := the sum of x (rows, n) over its rows."""
    if x.shape[0] == 0:
        out[:] = 0
        return
    cdef PyThreadState *saved = let_go(x.shape[0] * x.shape[1] > LONG)
    if real is float:
        active.f32.column_sum(x.shape[0], x.shape[1], &x[0, 0], &out[0])
    else:
        active.f64.column_sum(x.shape[0], x.shape[1], &x[0, 0], &out[0])
    take_back(saved)


def sum(const real[::1] x):
    """The sum of x in float64, over fixed blocks of 4,096 elements."""
    if x.shape[0] == 0:
        return 0.0
    if real is float:
        return active.f32.sum(x.shape[0], &x[0])
    else:
        return active.f64.sum(x.shape[0], &x[0])


def sum_of_squares(const real[::1] x):
    """The sum of x**2 in float64, over fixed blocks of 4,096 elements."""
    if x.shape[0] == 0:
        return 0.0
    if real is float:
        return active.f32.sum_of_squares(x.shape[0], &x[0])
    else:
        return active.f64.sum_of_squares(x.shape[0], &x[0])


cdef inline uint64_t mix(uint64_t x) noexcept nogil:
    x = (x ^ (x >> 30)) * <uint64_t>0xbf58476d1ce4e5b9
    x = (x ^ (x >> 27)) * <uint64_t>0x94d049bb133111eb
    return x ^ (x >> 31)


def dropout(uint64_t key, const Py_ssize_t[::1] row, const Py_ssize_t[::1] time, double rate, const real[:, ::1] x,
            real[:, ::1] y):
    """y (rows, n) := x / (1 - rate) where a unit is kept, else 0.

    The mask is a function of key, the caller's row, the time step and the unit, and of nothing else.
    """
    cdef Py_ssize_t r
    cdef double scale = 1.0 / (1.0 - rate)
    cdef lstmx_mask mask
    mask.threshold = <uint32_t>min(rate * 4294967296.0, 4294967295.0)
    cdef PyThreadState *saved = let_go(x.shape[0] * x.shape[1] > LONG)
    for r in range(x.shape[0]):
        mask.stream = mix(mix(key ^ mix(<uint64_t>row[r] + 1)) + mix(~<uint64_t>time[r]))
        if real is float:
            active.f32.dropout(x.shape[1], mask, <float>scale, &x[r, 0], &y[r, 0])
        else:
            active.f64.dropout(x.shape[1], mask, scale, &x[r, 0], &y[r, 0])
    take_back(saved)


def loss(int kind, const real[:, ::1] p, const real[:, ::1] y, const real[::1] mass, const int64_t[::1] labels,
         const real[::1] weight, double divisor, real[:, ::1] value, real[:, ::1] gradient):
    """The sum of weighted losses, one of LOSSES, in float64.

    Parameters
    ----------
    p : (rows, n)  # IN
    y, mass : (rows, n), (rows,)  # IN targets, and for a categorical loss the sum of each row; or None
    labels : (rows,) or None  # IN targets of a categorical loss
    weight : (rows,)  # IN
    value : (rows, n), with labels (rows, 1)  # OUT the weighted losses
    gradient : (rows, n)  # OUT by p, divided by `divisor`
    """
    cdef Py_ssize_t rows = p.shape[0], n = p.shape[1], r
    cdef double total
    if rows == 0:
        return 0.0
    cdef const real *targets = NULL if y is None else &y[0, 0]
    cdef const real *sums = NULL if mass is None else &mass[0]
    cdef const int64_t *classes = NULL if labels is None else &labels[0]
    if classes != NULL:
        for r in range(rows):
            if not 0 <= classes[r] < n:
                raise IndexError(f"loss: got the label {classes[r]} for {n} outputs")
    cdef PyThreadState *saved = let_go(rows * n > LONG)
    if real is float:
        total = active.f32.loss(kind, rows, n, &p[0, 0], targets, sums, classes, &weight[0], <float>divisor,
                                &value[0, 0], &gradient[0, 0])
    else:
        total = active.f64.loss(kind, rows, n, &p[0, 0], targets, sums, classes, &weight[0], divisor, &value[0, 0],
                                &gradient[0, 0])
    take_back(saved)
    return total


def sgd(real[::1] p, real[::1] g, real[::1] m, double scale, double rate, double momentum, bint nesterov,
        double decay):
    """One step of SGD on p (n,); m (n,) is the momentum buffer, None if momentum is 0.

    Of all three optimisers: g gets what p was. Returns whether all of p is finite.
    """
    cdef real *buffer = NULL if m is None else &m[0]
    cdef int finite
    cdef PyThreadState *saved = let_go(p.shape[0] > LONG)
    if real is float:
        finite = active.f32.sgd(p.shape[0], &p[0], &g[0], buffer, <float>scale, <float>rate, <float>momentum, nesterov,
                                <float>decay)
    else:
        finite = active.f64.sgd(p.shape[0], &p[0], &g[0], buffer, scale, rate, momentum, nesterov, decay)
    take_back(saved)
    return bool(finite)


def rmsprop(real[::1] p, real[::1] g, real[::1] v, real[::1] m, double scale, double rate, double rho,
            double epsilon, double momentum, double decay):
    """One step of RMSprop on p (n,); v (n,) is the mean square, m (n,) the momentum buffer or None."""
    cdef real *buffer = NULL if m is None else &m[0]
    cdef int finite
    cdef PyThreadState *saved = let_go(p.shape[0] > LONG)
    if real is float:
        finite = active.f32.rmsprop(p.shape[0], &p[0], &g[0], &v[0], buffer, <float>scale, <float>rate, <float>rho,
                                    <float>epsilon, <float>momentum, <float>decay)
    else:
        finite = active.f64.rmsprop(p.shape[0], &p[0], &g[0], &v[0], buffer, scale, rate, rho, epsilon, momentum, decay)
    take_back(saved)
    return bool(finite)


def adam(real[::1] p, real[::1] g, real[::1] m, real[::1] v, double scale, double rate, double beta_1,
         double beta_2, double epsilon, double correction_1, double correction_2, double decay, double decoupled_decay):
    """One step of Adam on p (n,); m and v (n,) are the moments, correction_k is 1 - beta_k**step."""
    cdef int finite
    cdef PyThreadState *saved = let_go(p.shape[0] > LONG)
    if real is float:
        finite = active.f32.adam(p.shape[0], &p[0], &g[0], &m[0], &v[0], <float>scale, <float>rate, <float>beta_1,
                                 <float>beta_2, <float>epsilon, <float>correction_1, <float>correction_2, <float>decay,
                                 <float>decoupled_decay)
    else:
        finite = active.f64.adam(p.shape[0], &p[0], &g[0], &m[0], &v[0], scale, rate, beta_1, beta_2, epsilon,
                                 correction_1, correction_2, decay, decoupled_decay)
    take_back(saved)
    return bool(finite)


def fma_chains(Py_ssize_t rounds, real[::1] y):
    """Multiply and add in registers alone; y (2,) holds factor and summand, and then the result.

    Returns the number of floating-point operations; the GIL is released.
    """
    cdef double operations
    cdef PyThreadState *saved = let_go(True)
    if real is float:
        operations = active.f32.fma_chains(rounds, &y[0])
    else:
        operations = active.f64.fma_chains(rounds, &y[0])
    take_back(saved)
    return operations
