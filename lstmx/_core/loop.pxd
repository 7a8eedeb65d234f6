"""The time loop and its threads, for the modules that have jobs or tasks for them."""

from lstmx._core.job cimport Job

ctypedef void (*part_function)(void *task, int me, int members) noexcept nogil

cdef double LONG_WORK
cdef int launch(part_function part, void *task, int wanted, int budget, double work) except -1
cdef void spread(part_function part, void *task, int wanted, int budget, double work) noexcept nogil
cdef int run(Job *job, int budget) except -1
cdef bint perform(Job *job, int budget) noexcept nogil
cdef int run_both(Job *one, Job *other, int budget) except -1
cdef int interrupted() noexcept with gil
cdef bint stopped(double *last) noexcept nogil
