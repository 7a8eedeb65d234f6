"""The kernels of the active instruction set on whole arrays; c/kernels.h says more of each.

Floating-point arrays are of one type, aligned and C-contiguous, with as many axes and values as the docstrings say. That
is checked here; lstmx.functional has checked all else.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t

cimport numpy as cnp

from lstmx._core.cell cimport lstmx_cell, set_cell
from lstmx._core.core cimport let_go, LONG, lstmx_mask, PyThreadState, take_back
from lstmx._core.isa cimport active_isa, format_of

ctypedef Py_ssize_t size
ctypedef void *pointer

cdef extern from "core.h" nogil:
    ctypedef struct lstmx_kernels:
        void (*sigmoid)(size n, const void *x, void *y) noexcept nogil
        void (*tanh)(size n, const void *x, void *y) noexcept nogil
        void (*exp)(size n, const void *x, void *y) noexcept nogil
        void (*expm1)(size n, const void *x, void *y) noexcept nogil
        void (*softplus)(size n, const void *x, void *y) noexcept nogil
        void (*cell_forward)(const void *cell, size rows, size hidden, const void *bias, void *gates, void *c,
                             void *h) noexcept
        void (*cell_backward)(const void *cell, size rows, size hidden, void *gates, const void *c_prev, const void *dy,
                              void *dh, void *dc, void *dh_all, void *dc_all) noexcept
        void (*activate)(int activation, size rows, size n, const void *bias, void *y) noexcept nogil
        void (*activate_backward)(int activation, size rows, size n, const void *y, void *dy) noexcept
        void (*column_sum)(size rows, size n, const void *x, void *out) noexcept
        double (*sum)(size n, const void *x) noexcept
        double (*sum_of_squares)(size n, const void *x) noexcept
        void (*dropout)(size n, lstmx_mask mask, double scale, const void *x, void *y) noexcept
        int (*sgd)(size n, void *p, void *g, void *m, double scale, double rate, double momentum, int nesterov,
                   double decay) noexcept
        int (*rmsprop)(size n, void *p, void *g, void *v, void *m, double scale, double rate, double rho,
                       double epsilon, double momentum, double decay) noexcept
        int (*adam)(size n, void *p, void *g, void *m, void *v, double scale, double rate, double beta_1,
                    double beta_2, double epsilon, double correction_1, double correction_2, double decay,
                    double decoupled_decay) noexcept
        double (*loss)(int kind, size rows, size n, const void *p, const void *y, const void *mass,
                       const int64_t *labels, const void *weight, double divisor, void *value, void *gradient) noexcept
        double (*fma_chains)(size rounds, void *y) noexcept

ACTIVATIONS = {"linear": 0, "relu": 1, "tanh": 2, "sigmoid": 3, "softmax": 4}   # enum lstmx_activation
LOSSES = {"mse": 0, "mae": 1, "huber": 2, "binary_crossentropy": 3, "categorical_crossentropy": 4}   # enum lstmx_loss

cdef enum:
    IN, OUT


cdef inline const lstmx_kernels *table(int format) noexcept nogil:
    return <const lstmx_kernels *>active_isa().kernels[format]


cdef pointer checked(cnp.ndarray array, int format, int axes, size values, bint out) except? NULL:
    """Where the values of an array lie, after all checks: C reads them (IN) or writes them (OUT) without any."""
    if format_of(array) != format:
        raise TypeError("got arrays of float32 beside arrays of float64")
    if cnp.PyArray_NDIM(array) != axes or cnp.PyArray_SIZE(array) != values:
        raise ValueError(f"got an array of shape {(<object>array).shape}, must have {axes} axes and {values} values")
    if not cnp.PyArray_IS_C_CONTIGUOUS(array):
        raise ValueError("got an array that is not C-contiguous")
    if not cnp.PyArray_ISALIGNED(array):
        raise ValueError("got an array that is not aligned")
    if out and not cnp.PyArray_CHKFLAGS(array, cnp.NPY_ARRAY_WRITEABLE):
        raise ValueError("got a read-only array to write into")
    return cnp.PyArray_DATA(array)


cdef int shape_of(cnp.ndarray array, size *rows, size *n) except -1:
    """The format and the shape (rows, n) of an array."""
    cdef int format = format_of(array)
    if cnp.PyArray_NDIM(array) != 2:
        raise ValueError(f"got an array of shape {(<object>array).shape}, must have 2 axes")
    rows[0], n[0] = cnp.PyArray_DIM(array, 0), cnp.PyArray_DIM(array, 1)
    return format


cdef int apply(void (*kernel)(size n, const void *x, void *y) noexcept, cnp.ndarray x, cnp.ndarray out) except -1:
    """out (n,) := kernel(x), of the table of their format."""
    cdef int format = format_of(x)
    cdef size n = cnp.PyArray_SIZE(x)
    kernel(n, checked(x, format, 1, n, IN), checked(out, format, 1, n, OUT))
    return 0


def sigmoid(cnp.ndarray x, cnp.ndarray out):
    """out (n,) := 1 / (1 + exp(-x)), element by element."""
    apply(table(format_of(x)).sigmoid, x, out)


def tanh(cnp.ndarray x, cnp.ndarray out):
    """out (n,) := tanh(x), element by element."""
    apply(table(format_of(x)).tanh, x, out)


def exp(cnp.ndarray x, cnp.ndarray out):
    """out (n,) := e**x, element by element."""
    apply(table(format_of(x)).exp, x, out)


cdef void apply_kernel(int format, int function, size n, const void *x, void *y) noexcept nogil:
    """y (n,) := a function of x, element by element."""
    cdef const lstmx_kernels *kernels = table(format)
    if function == SIGMOID:
        kernels.sigmoid(n, x, y)
    elif function == TANH:
        kernels.tanh(n, x, y)
    elif function == EXP_OF:
        kernels.exp(n, x, y)
    elif function == EXPM1:
        kernels.expm1(n, x, y)
    else:
        kernels.softplus(n, x, y)


def expm1(cnp.ndarray x, cnp.ndarray out):
    """out (n,) := e**x - 1 of x <= 0, element by element."""
    apply(table(format_of(x)).expm1, x, out)


def softplus(cnp.ndarray x, cnp.ndarray out):
    """out (n,) := log(1 + e**x), element by element."""
    apply(table(format_of(x)).softplus, x, out)


def cell_forward(cell, cnp.ndarray bias, cnp.ndarray gates, cnp.ndarray c, cnp.ndarray h):
    """One step of a cell (lstmx.functional.cell.Cell).

    Parameters
    ----------
    bias : (4H,) or None  # IN
    gates : (N, 4H)  # IN W_ih x_t + W_hh h_{t-1}, OUT the activated gates i, f, g, o
    c : (N, H)  # IN c_{t-1}, OUT c_t
    h : (N, H)  # OUT h_t
    """
    cdef size N, H
    cdef int format = shape_of(c, &N, &H)
    cdef lstmx_cell options
    set_cell(&options, cell)
    table(format).cell_forward(
        &options, N, H, NULL if bias is None else checked(bias, format, 1, 4 * H, IN),
        checked(gates, format, 2, 4 * N * H, OUT), checked(c, format, 2, N * H, OUT), checked(h, format, 2, N * H, OUT))


def cell_backward(cell, cnp.ndarray gates, cnp.ndarray c_prev, cnp.ndarray dh, cnp.ndarray dc):
    """The derivative of one step of a cell.

    Parameters
    ----------
    gates : (N, 4H)  # IN the activated gates, OUT dz, the gradient of W_ih x_t + W_hh h_{t-1} + b
    c_prev : (N, H)  # IN c_{t-1}
    dh : (N, H)  # IN dL/dh_t
    dc : (N, H)  # IN what reaches c_t from step t + 1, OUT what step t passes on to c_{t-1}
    """
    cdef size N, H
    cdef int format = shape_of(dc, &N, &H)
    cdef lstmx_cell options
    set_cell(&options, cell)
    table(format).cell_backward(
        &options, N, H, checked(gates, format, 2, 4 * N * H, OUT), checked(c_prev, format, 2, N * H, IN), NULL,
        checked(dh, format, 2, N * H, IN), checked(dc, format, 2, N * H, OUT), NULL, NULL)


cdef void activate_rows(int format, int activation, size rows, size n, const void *bias, void *y) noexcept nogil:
    """y (rows, n) := activation(y + bias); bias (n,) or NULL."""
    table(format).activate(activation, rows, n, bias, y)


def activate(int activation, cnp.ndarray y, cnp.ndarray bias):
    """y (rows, n) := activation(y + bias); bias (n,) or None."""
    cdef size rows, n
    cdef int format = shape_of(y, &rows, &n)
    cdef pointer y_ = checked(y, format, 2, rows * n, OUT)
    cdef pointer bias_ = NULL if bias is None else checked(bias, format, 1, n, IN)
    cdef PyThreadState *saved
    if rows:
        saved = let_go(rows * n > LONG)
        activate_rows(format, activation, rows, n, bias_, y_)
        take_back(saved)


def activate_backward(int activation, cnp.ndarray y, cnp.ndarray dy):
    """dy (rows, n) := dy * activation'(.), from the activated y (rows, n)."""
    cdef size rows, n
    cdef int format = shape_of(y, &rows, &n)
    cdef pointer y_ = checked(y, format, 2, rows * n, IN), dy_ = checked(dy, format, 2, rows * n, OUT)
    cdef PyThreadState *saved = let_go(rows * n > LONG)
    table(format).activate_backward(activation, rows, n, y_, dy_)
    take_back(saved)


def column_sum(cnp.ndarray x, cnp.ndarray out):
    """out (n,) := the sum of x (rows, n) over its rows."""
    cdef size rows, n
    cdef int format = shape_of(x, &rows, &n)
    cdef pointer x_ = checked(x, format, 2, rows * n, IN), out_ = checked(out, format, 1, n, OUT)
    cdef PyThreadState *saved = let_go(rows * n > LONG)
    table(format).column_sum(rows, n, x_, out_)
    take_back(saved)


def sum(cnp.ndarray x):
    """The sum of x (n,) in float64, over fixed blocks of 4,096 elements."""
    cdef int format = format_of(x)
    cdef size n = cnp.PyArray_SIZE(x)
    return table(format).sum(n, checked(x, format, 1, n, IN))


def sum_of_squares(cnp.ndarray x):
    """The sum of x**2 (n,) in float64, over fixed blocks of 4,096 elements."""
    cdef int format = format_of(x)
    cdef size n = cnp.PyArray_SIZE(x)
    return table(format).sum_of_squares(n, checked(x, format, 1, n, IN))


cdef inline uint64_t mix(uint64_t x) noexcept nogil:
    x = (x ^ (x >> 30)) * <uint64_t>0xbf58476d1ce4e5b9
    x = (x ^ (x >> 27)) * <uint64_t>0x94d049bb133111eb
    return x ^ (x >> 31)


def dropout(uint64_t key, const Py_ssize_t[::1] row, const Py_ssize_t[::1] time, double rate, cnp.ndarray x,
            cnp.ndarray y):
    """y (rows, n) := x / (1 - rate) where a unit is kept, else 0.

    The mask is a function of key, the caller's row (rows,), the time step (rows,) and the unit, and of nothing else.
    """
    cdef size rows, n, r
    cdef int format = shape_of(x, &rows, &n)
    cdef const char *x_ = <const char *>checked(x, format, 2, rows * n, IN)
    cdef char *y_ = <char *>checked(y, format, 2, rows * n, OUT)
    cdef size row_bytes = n * cnp.PyArray_ITEMSIZE(x)
    cdef double scale = 1.0 / (1.0 - rate)
    cdef lstmx_mask mask
    if row.shape[0] != rows or time.shape[0] != rows:
        raise ValueError(f"dropout: got {row.shape[0]} rows and {time.shape[0]} steps for {rows} rows of x")
    mask.threshold = <uint32_t>min(rate * 4294967296.0, 4294967295.0)
    cdef PyThreadState *saved = let_go(rows * n > LONG)
    for r in range(rows):
        mask.stream = mix(mix(key ^ mix(<uint64_t>row[r] + 1)) + mix(~<uint64_t>time[r]))
        table(format).dropout(n, mask, scale, x_ + r * row_bytes, y_ + r * row_bytes)
    take_back(saved)


def loss(int kind, cnp.ndarray p, cnp.ndarray y, cnp.ndarray mass, const int64_t[::1] labels, cnp.ndarray weight,
         double divisor, cnp.ndarray value, cnp.ndarray gradient):
    """The sum of weighted losses, one of LOSSES, in float64.

    p, y, gradient are (rows, n), weight, mass, labels (rows,), value (rows, n), with labels (rows, 1). y is None where
    there are labels, labels where there is y; mass, the sums of the rows of y, is None but for a categorical loss.
    """
    cdef size rows, n, r
    cdef int format = shape_of(p, &rows, &n)
    cdef pointer p_ = checked(p, format, 2, rows * n, IN)
    cdef pointer y_ = NULL if y is None else checked(y, format, 2, rows * n, IN)
    cdef pointer mass_ = NULL if mass is None else checked(mass, format, 1, rows, IN)
    cdef pointer weight_ = checked(weight, format, 1, rows, IN), gradient_ = checked(gradient, format, 2, rows * n, OUT)
    cdef pointer value_ = checked(value, format, 2, rows if y is None else rows * n, OUT)
    if rows == 0:
        return 0.0
    cdef const int64_t *labels_ = NULL if labels is None else &labels[0]
    if labels_ != NULL:
        if labels.shape[0] != rows:
            raise ValueError(f"loss: got {labels.shape[0]} labels for {rows} rows")
        for r in range(rows):
            if not 0 <= labels_[r] < n:
                raise IndexError(f"loss: got the label {labels_[r]} for {n} outputs")
    cdef PyThreadState *saved = let_go(rows * n > LONG)
    cdef double total = table(format).loss(kind, rows, n, p_, y_, mass_, labels_, weight_, divisor, value_, gradient_)
    take_back(saved)
    return total


def sgd(cnp.ndarray p, cnp.ndarray g, cnp.ndarray m, double scale, double rate, double momentum, bint nesterov,
        double decay):
    """One step of SGD on p (n,); m (n,) is the momentum buffer, None if momentum is 0.

    As of all optimisers here: g is overwritten with the old p, and what is returned is whether all of p is finite.
    """
    cdef int format = format_of(p)
    cdef size n = cnp.PyArray_SIZE(p)
    cdef pointer p_ = checked(p, format, 1, n, OUT), g_ = checked(g, format, 1, n, OUT)
    cdef pointer m_ = NULL if m is None else checked(m, format, 1, n, OUT)
    cdef PyThreadState *saved = let_go(n > LONG)
    cdef bint finite = table(format).sgd(n, p_, g_, m_, scale, rate, momentum, nesterov, decay)
    take_back(saved)
    return finite


def rmsprop(cnp.ndarray p, cnp.ndarray g, cnp.ndarray v, cnp.ndarray m, double scale, double rate, double rho,
            double epsilon, double momentum, double decay):
    """One step of RMSprop on p (n,); v (n,) is the mean square, m (n,) the momentum buffer, None if momentum is 0."""
    cdef int format = format_of(p)
    cdef size n = cnp.PyArray_SIZE(p)
    cdef pointer p_ = checked(p, format, 1, n, OUT), g_ = checked(g, format, 1, n, OUT)
    cdef pointer v_ = checked(v, format, 1, n, OUT), m_ = NULL if m is None else checked(m, format, 1, n, OUT)
    cdef PyThreadState *saved = let_go(n > LONG)
    cdef bint finite = table(format).rmsprop(n, p_, g_, v_, m_, scale, rate, rho, epsilon, momentum, decay)
    take_back(saved)
    return finite


def adam(cnp.ndarray p, cnp.ndarray g, cnp.ndarray m, cnp.ndarray v, double scale, double rate, double beta_1,
         double beta_2, double epsilon, double correction_1, double correction_2, double decay, double decoupled_decay):
    """One step of Adam on p (n,); m and v (n,) are the moments, correction_k is 1 - beta_k**step."""
    cdef int format = format_of(p)
    cdef size n = cnp.PyArray_SIZE(p)
    cdef pointer p_ = checked(p, format, 1, n, OUT), g_ = checked(g, format, 1, n, OUT)
    cdef pointer m_ = checked(m, format, 1, n, OUT), v_ = checked(v, format, 1, n, OUT)
    cdef PyThreadState *saved = let_go(n > LONG)
    cdef bint finite = table(format).adam(n, p_, g_, m_, v_, scale, rate, beta_1, beta_2, epsilon, correction_1,
                                          correction_2, decay, decoupled_decay)
    take_back(saved)
    return finite


def fma_chains(size rounds, cnp.ndarray y):
    """Multiply and add in registers alone; y (2,) holds factor and summand, and then the result.

    Returns the number of floating-point operations; the GIL is released.
    """
    cdef int format = format_of(y)
    cdef pointer y_ = checked(y, format, 1, 2, OUT)
    cdef PyThreadState *saved = let_go(True)
    cdef double operations = table(format).fma_chains(rounds, y_)
    take_back(saved)
    return operations
