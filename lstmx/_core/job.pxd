"""The jobs of the time loop."""

cimport numpy as cnp

from lstmx._core.cell cimport lstmx_cell
from lstmx._core.core cimport lstmx_extra, lstmx_layer, lstmx_products, lstmx_rows, lstmx_shares, lstmx_team, lstmx_tile, lstmx_vectors
from lstmx._core.isa cimport active_isa

ctypedef Py_ssize_t size

cdef enum:
    MOST_THREADS = 256             # of a team
    MOST_COHORTS = 16              # of a batch
    GRADIENT_ROWS = 256            # rows of one block of the weights' gradients
    SERIAL_ROWS = 4096             # and of a block whose products have threads of their own

# A weight as the general path multiplies with it: whole, or cut into the blocks of the gates, each cut into heads.
cdef struct Side:
    size wide                  # I, or P
    int blocks, heads          # 1, or the gates; 1, or heads, which see their own part of `wide` alone
    int masks                  # of dropout on what it is multiplied with: 0, 1, or one for each block
    const void **operands      # [block][head] in the form of the engine's products

cdef struct Job:
    const lstmx_tile *kernels
    const lstmx_products *products
    lstmx_layer layer
    size itemsize
    bint fused                 # the plain cell on the tile: sums and cell in registers
    bint serial                # the engine's products have threads of their own
    bint backward
    bint add                   # backward: to the gradients of the parameters that are there
    bint whole_rows            # units cannot be split
    size steps_per_block
    void *sums                 # room for the sums of a block, rows of gate_width(H) values, or NULL
    # General path and backward: weights in the engine's form, those of W (width, K) or, backward, of W^T
    Side ih, hh
    const void *w_hr           # (P, H), or NULL
    # Backward: where the gradients go; NULL where there is none
    void *dx                   # (S, I), added to if add_to_dx
    bint add_to_dx
    void *dw_ih                # (width, I)
    void *dw_hh                # (width, P / heads)
    void *dw_ih_turned         # (I, width) and
    void *dw_hh_turned         # (P, width) instead, where `turns` says so
    void *dw_hr                # (P, H)
    void *db                   # (width)
    void *d_vectors            # (at.vectors_width)
    char *strips               # for each thread, scratch of strip_bytes, those of a cohort's x from x_room on
    size strip_bytes, x_room
    Job *cohort                # the first of the cohorts, or the job itself
    int cohorts                # how many, or 1
    size apart                 # values from the gradients of one cohort to those of the next
    bint more                  # backward: earlier steps follow, and what cohorts have found is not yet added up
    int split_units
    int threads                # wanted; the team may be smaller
    lstmx_rows *rows           # forward: of each member; NULL for one thread, units and windows
    lstmx_shares *shares       # backward: shares of the rows, which members take, or NULL
    lstmx_shares *columns      # and of the weights' gradients
    unsigned control           # the control word of the caller
    double last                # when the signals were looked at; 0 in a short call, which does not look
    lstmx_team own
    lstmx_team *team           # own, or that of the direction beside it

cdef class Direction:
    cdef object _keep          # what owns the memory
    cdef Job job               # what all calls share; the rest is NULL
    cdef lstmx_cell cell       # what `job` points to
    cdef lstmx_vectors vectors
    cdef lstmx_extra plain, training   # the columns of `extra` without a tape, and with one
    cdef Direction bare(self)
    cdef Direction of(self, cnp.ndarray ih, cnp.ndarray hh, cnp.ndarray bias, bint need_dx)
    cpdef bint takes_cohorts(self)
    cpdef size extra(self, bint training)

cdef const lstmx_products *products_of(object capsule, int format) except NULL
cdef void begin(Job *job, const Job *shared, size steps, size batch, bint reverse, const void *x, size x_step,
                size x_row) noexcept nogil
cdef double operations(const Job *job) noexcept nogil
cdef bint worth_threads(double work) noexcept nogil
cdef void share_out(Job *job, int threads) noexcept nogil
cdef void deal_rows(const Job *job, lstmx_rows *rows) noexcept nogil
cdef size half_of(const Job *job, const lstmx_rows *own) noexcept nogil
cdef void cut_rows(const Job *job, lstmx_shares *shares) noexcept nogil
cdef void cut_columns(const Job *job, lstmx_shares *shares) noexcept nogil
cdef size room_for_sums(Job *job, int threads) noexcept nogil
cdef size row_share(const lstmx_layer *l, int part, int parts) noexcept nogil
cdef size gradient_steps(size batch, bint serial) noexcept nogil
cdef size cohort_steps(size batch, int cohorts) noexcept nogil
cpdef int count_cohorts(size batch, size rows)
cpdef cnp.ndarray first_of_cohorts(size batch, size rows, lengths=*)
cdef bint weights_stay(size inputs, size hidden, size itemsize) noexcept nogil
cdef bint own_cohorts(const Job *job, int members) noexcept nogil
cdef int side_by_side(const Job *job) noexcept nogil
cdef void cut_cohorts(Job *job, Job *cohorts, int count, const size *first, size *offsets) noexcept nogil
cdef size strip_rows(size batch, size steps, size block) noexcept nogil
cdef bint turns(size width, size n, size rows, size lanes) noexcept nogil

cdef inline const lstmx_tile *tile_for(int format) noexcept nogil:
    return active_isa().tiles[format]

cdef inline void *data(cnp.ndarray array) noexcept:
    return NULL if array is None or cnp.PyArray_SIZE(array) == 0 else cnp.PyArray_DATA(array)

cdef inline size stride(cnp.ndarray array, int axis) noexcept:
    return cnp.PyArray_STRIDE(array, axis) // cnp.PyArray_ITEMSIZE(array)

cdef inline size rows_at(const lstmx_layer *l, size t) noexcept nogil:
    return l.batch if l.offsets == NULL else l.offsets[t + 1] - l.offsets[t]

cdef inline size first_row(const lstmx_layer *l, size t) noexcept nogil:
    return t * l.batch if l.offsets == NULL else l.offsets[t]

cdef inline size whole_row(const lstmx_layer *l, size t) noexcept nogil:
    return t * l.whole_batch if l.whole == NULL else l.whole[t]

cdef inline size panels_of(const Job *job) noexcept nogil:
    return (job.layer.hidden + job.kernels.lanes - 1) // job.kernels.lanes

cdef inline size groups_of(const Job *job, size n) noexcept nogil:
    return (n + 4 * job.kernels.lanes - 1) // (4 * job.kernels.lanes)

cdef inline void *place(const Job *job, const void *base, size values) noexcept nogil:
    """The address of a value of an array."""
    return <char *>base + values * job.itemsize

cdef inline size gradient_rows(bint serial) noexcept nogil:
    """Rows of one block of the weights' gradients."""
    return SERIAL_ROWS if serial else GRADIENT_ROWS
