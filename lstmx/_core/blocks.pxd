"""The arithmetic of a block of steps, for the time loop."""

from lstmx._core.job cimport Job, size

cdef void forward_block(const Job *job, size s, size end, size r0, size r1, size p0, size p1, char *sums) noexcept nogil
cdef void input_sums(const Job *job, size s, size end, size r0, size r1, size p0, size p1, char *sums) noexcept nogil
cdef void backward_step(const Job *job, size k, size r0, size r1) noexcept nogil
cdef void step_gradient(const Job *job, size t, size r0, size r1, size g0, size g1) noexcept nogil
cdef void gradients(const Job *job, int me, int part, int parts, size s, size end) noexcept nogil
