"""One step of the cell, forward and backward, on a batch of rows: the pointwise half of an LSTM.

The products W_ih x + W_hh h come in and dz goes out; sequence.pyx makes both with an engine's products. lstmx.reference
says the same in NumPy.
"""

from lstmx._core.core cimport LSTMX_F32, LSTMX_F64, real
from lstmx._core.isa cimport active_isa

cdef extern from "core.h" nogil:
    ctypedef struct lstmx_kernels:
        void (*cell_forward)(Py_ssize_t rows, Py_ssize_t hidden, const void *bias, void *gates, void *c,
                             void *h) noexcept nogil
        void (*cell_backward)(Py_ssize_t rows, Py_ssize_t hidden, Py_ssize_t ldy, void *gates, const void *c_prev,
                              const void *dy, void *dh, void *dc, void *dh_all, void *dc_all) noexcept nogil


cdef inline const lstmx_kernels *table(size_t itemsize) noexcept nogil:
    return <const lstmx_kernels *>active_isa().kernels[LSTMX_F32 if itemsize == 4 else LSTMX_F64]


cdef void rows_forward(Py_ssize_t rows, Py_ssize_t hidden, const real *bias, real *gates, real *c,
                       real *h) noexcept nogil:
    table(sizeof(real)).cell_forward(rows, hidden, bias, gates, c, h)


cdef void rows_backward(Py_ssize_t rows, Py_ssize_t hidden, real *gates, const real *c_prev, const real *dy,
                        Py_ssize_t ldy, real *dh, real *dc, real *dh_all, real *dc_all) noexcept nogil:
    table(sizeof(real)).cell_backward(rows, hidden, ldy, gates, c_prev, dy, dh, dc, dh_all, dc_all)


def forward(real[:, ::1] gates, real[:, ::1] c, real[:, ::1] h, const real[::1] bias):
    """One cell step.

    Parameters
    ----------
    gates : (N, 4H)
        In: W_ih x_t + W_hh h_{t-1}. Out: the activated gates i, f, g, o.
    c : (N, H)
        In: c_{t-1}. Out: c_t.
    h : (N, H)
        Out: h_t.
    bias : (4H,) or None
    """
    if c.shape[0]:
        rows_forward(c.shape[0], c.shape[1], NULL if bias is None else &bias[0], &gates[0, 0], &c[0, 0], &h[0, 0])


def backward(real[:, ::1] gates, const real[:, ::1] c_prev, real[:, ::1] dh, real[:, ::1] dc):
    """The derivative of one cell step.

    Parameters
    ----------
    gates : (N, 4H)
        In: the activated gates. Out: dz, the gradient of W_ih x_t + W_hh h_{t-1} + b.
    c_prev : (N, H)
        c_{t-1}.
    dh : (N, H)
        dL/dh_t.
    dc : (N, H)
        In: what reaches c_t from step t + 1. Out: what step t passes on to c_{t-1}.
    """
    if dc.shape[0]:
        rows_backward(dc.shape[0], dc.shape[1], &gates[0, 0], &c_prev[0, 0], <const real *>NULL, 0, &dh[0, 0], &dc[0, 0],
                      <real *>NULL, <real *>NULL)
