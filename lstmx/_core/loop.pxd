"""The time loop and its threads, for the modules that have jobs or tasks for them."""

cimport numpy as cnp

from lstmx._core.job cimport Direction, Job, size

ctypedef void (*part_function)(void *task, int me, int members) noexcept nogil

cdef double LONG_WORK
cdef int launch(part_function part, void *task, int wanted, int budget, double work) except -1
cdef void spread(part_function part, void *task, int wanted, int budget, double work) noexcept nogil
cdef int run(Job *job, int budget) except -1
cdef bint perform(Job *job, int budget) noexcept nogil
cdef int run_both(Job *one, Job *other, int budget) except -1
cdef int interrupted() noexcept with gil
cdef bint stopped(double *last) noexcept nogil
cpdef object forward(Direction direction, cnp.ndarray x, cnp.ndarray offsets, size steps, bint reverse, cnp.ndarray h, cnp.ndarray c,
                     cnp.ndarray y, int threads, dict slabs, bint keep=*, cnp.ndarray cohorts=*, bint windows=*)
cpdef object backward(Direction direction, cnp.ndarray x, cnp.ndarray offsets, size steps, bint reverse, dict slabs, cnp.ndarray dy,
                      cnp.ndarray dh, cnp.ndarray dc, cnp.ndarray dx, bint add_to_dx, dict out, cnp.ndarray d_vectors, int threads,
                      cnp.ndarray dh_all=*, cnp.ndarray dc_all=*, bint add=*, sums=*, bint more=*)
