from lstmx._core.core cimport real

cdef void rows_forward(Py_ssize_t rows, Py_ssize_t hidden, const real *bias, real *gates, real *c,
                       real *h) noexcept nogil
cdef void rows_backward(Py_ssize_t rows, Py_ssize_t hidden, real *gates, const real *c_prev, const real *dy,
                        Py_ssize_t ldy, real *dh, real *dc, real *dh_all, real *dc_all) noexcept nogil
