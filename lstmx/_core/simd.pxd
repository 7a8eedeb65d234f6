from lstmx._core.core cimport lstmx_isa

cdef const lstmx_isa *active_isa() noexcept nogil
