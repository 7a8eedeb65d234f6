cimport numpy as cnp

from lstmx._core.core cimport LSTMX_F32, LSTMX_F64, lstmx_isa

cdef const lstmx_isa *active_isa() noexcept nogil
cdef int no_format(cnp.ndarray array) except -1


cdef inline int format_of(cnp.ndarray array) except -1:
    """The lstmx_format of an array's values."""
    if array is not None and cnp.PyArray_ISNOTSWAPPED(array):
        if cnp.PyArray_TYPE(array) == cnp.NPY_FLOAT32:
            return LSTMX_F32
        if cnp.PyArray_TYPE(array) == cnp.NPY_FLOAT64:
            return LSTMX_F64
    return no_format(array)
