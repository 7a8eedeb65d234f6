cdef void activate_rows(int format, int activation, Py_ssize_t rows, Py_ssize_t n, const void *bias, void *y) noexcept nogil
cdef void exp_values(Py_ssize_t n, double *x) noexcept nogil
