"""Programs: the layers of a model as one call without Python, for sessions and rollouts."""

cimport numpy as cnp

from lstmx._core.job cimport size
from lstmx._core.plan cimport Call, Plan

cdef class Program:
    cdef Plan plan
    cdef object keep           # what the stages point to
    cdef list forms, starts    # of each layer how many states it has; of each state what it begins with, or None
    cdef int type_number
    cdef readonly int x_type
    cdef object threads
    cdef int add(self, tuple part, int k) except -1
    cdef void remember(self, size layers, size width, int type_number, start)
    cdef int budget(self, double work) except -1
    cdef bint plain(self, object a, int type_number) noexcept
    cdef bint is_state(self, object a, int k, size rows) noexcept
    cdef list flat(self, object states, size rows)
    cdef cnp.ndarray new_state(self, int k, size rows)
    cdef tuple shaped(self, list arrays)
    cdef bint read(self, object x, bint step, Call *call) noexcept
    cdef int result_shape(self, const Call *call, int lead, bint step, cnp.npy_intp *shape) noexcept
    cdef bint is_result(self, object y, int ndim, const cnp.npy_intp *shape) noexcept
    cdef bint apart(self, cnp.ndarray y, list after, list before, cnp.ndarray x)
