cdef void activate_rows(int format, int activation, Py_ssize_t rows, Py_ssize_t n, const void *bias, void *y) noexcept nogil
cdef enum Function:
    SIGMOID, TANH, EXP_OF, EXPM1, SOFTPLUS_OF

cdef void apply_kernel(int format, int function, Py_ssize_t n, const void *x, void *y) noexcept nogil
