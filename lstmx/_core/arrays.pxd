"""What modules that read and write arrays where they lie ask of them."""

from libc.string cimport memcpy, memset

cimport numpy as cnp

ctypedef Py_ssize_t size

cdef inline bint readable(object x, int type_number) noexcept:
    """Whether x is an array of that type that can be read where it lies."""
    return (cnp.PyArray_CheckExact(x) and cnp.PyArray_TYPE(<cnp.ndarray>x) == type_number
            and cnp.PyArray_ISBEHAVED_RO(<cnp.ndarray>x))

cdef inline bint fits(object x, int type_number, int ndim, const cnp.npy_intp *shape) noexcept:
    """Whether x is such an array, and of that shape."""
    cdef int k
    if not readable(x, type_number) or cnp.PyArray_NDIM(<cnp.ndarray>x) != ndim:
        return False
    for k in range(ndim):
        if cnp.PyArray_DIM(<cnp.ndarray>x, k) != shape[k]:
            return False
    return True

cdef inline void begin_at(cnp.ndarray a, object initial) noexcept:
    """a := initial, which is as long and contiguous, or 0 for None."""
    if initial is None:
        memset(cnp.PyArray_DATA(a), 0, cnp.PyArray_NBYTES(a))
    elif initial is not a:
        memcpy(cnp.PyArray_DATA(a), cnp.PyArray_DATA(<cnp.ndarray>initial), cnp.PyArray_NBYTES(a))

cdef inline bint overlap(cnp.ndarray a, cnp.ndarray b) noexcept:
    """Whether the memory from an array's lowest to its highest element meets that of another."""
    cdef char *low[2]
    cdef char *high[2]
    cdef cnp.ndarray array
    cdef int k, axis
    cdef size reach
    for k in range(2):
        array = b if k else a
        low[k] = high[k] = <char *>cnp.PyArray_DATA(array)
        high[k] += cnp.PyArray_ITEMSIZE(array)
        for axis in range(cnp.PyArray_NDIM(array)):
            reach = (cnp.PyArray_DIM(array, axis) - 1) * cnp.PyArray_STRIDE(array, axis)
            if reach < 0:
                low[k] += reach
            else:
                high[k] += reach
    return low[0] < high[1] and low[1] < high[0]
