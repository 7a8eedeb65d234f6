"""Programs: the layers of a model as one call without Python, for sessions and rollouts."""

cimport numpy as cnp

from lstmx._core.core cimport lstmx_products
from lstmx._core.job cimport Job, size

cdef enum Outcome:
    DONE = 0
    INTERRUPTED = -1           # by a signal; the exception is set

cdef struct Stage:
    int kind, activation       # the activation of a Dense, or of its own; a Curve
    double alpha, beta         # of a Curve
    size inputs, outputs       # values of a row
    int state, layer           # its first state, or -1; which layer of it
    const Job *job             # what all calls share
    const lstmx_products *products
    const void *weight
    const void *bias
    size count                 # rows of an Embedding

cdef struct State:
    size layers, width         # (layers, N, width); 0 layers: (N, width)
    size value_bytes
    int type_number
    const void *start          # (layers, 1, width) that it begins with; NULL for 0

cdef struct Call:
    size rows, steps           # N, T
    const void *x              # row n of step t is n * x_row + t * x_step values behind it
    size x_row, x_step
    void *y                    # y_step is not used of a program that pools
    size y_row, y_step
    void **states              # (layers, N, width) of each; IN the states before, OUT after
    char *room                 # as many bytes as `room_for` or `most_room` says
    int budget                 # threads

cdef struct Plan:
    Stage *stages
    State *states
    int count, state_count
    int pooling                # the number of the stage that pools, or -1
    int format
    size inputs, outputs
    size itemsize, x_bytes     # of a value: of the model, of x
    size widest                # values of the widest row between two stages

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

cdef size room_for(const Plan *plan, size rows, size steps) noexcept nogil
cdef size most_room(const Plan *plan, size rows) noexcept nogil
cdef double operations_of(const Plan *plan, size rows, size steps) noexcept nogil
cdef size state_bytes(const State *state, size rows) noexcept nogil
cdef void begin_state(const State *state, size rows, char *at) noexcept nogil
cdef int advance(const Plan *plan, const Call *call) noexcept nogil
cdef bint in_range(const Call *call, size count) noexcept nogil
cdef int interrupt(int outcome) except -1
