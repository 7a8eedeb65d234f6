"""Plans: the stages of a model, what a call of them needs, and how they run."""

from lstmx._core.core cimport lstmx_products
from lstmx._core.job cimport Job, size

cdef enum Kind:
    RECURRENT, DENSE, ACTIVATION, CURVE, LAST, MEAN, LOOKUP

cdef enum Curve:   # the activations of a layer Activation that Dense does not have; a and b are its numbers
    RELU, AFFINE, LEAKY_RELU, THRESHOLDED_RELU, SCALED_TANH, HARD_SIGMOID, ELU, SOFTSIGN, SOFTPLUS, SILU, EXP

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

cdef size room_for(const Plan *plan, size rows, size steps) noexcept nogil
cdef size most_room(const Plan *plan, size rows) noexcept nogil
cdef double operations_of(const Plan *plan, size rows, size steps) noexcept nogil
cdef size state_bytes(const State *state, size rows) noexcept nogil
cdef void begin_state(const State *state, size rows, char *at) noexcept nogil
cdef int advance(const Plan *plan, const Call *call) noexcept nogil
cdef bint in_range(const Call *call, size count) noexcept nogil
cdef int interrupt(int outcome) except -1
