"""What modules that read and write arrays where they lie ask of them."""

cimport numpy as cnp

ctypedef Py_ssize_t size

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
