"""The C core as Cython sees it; c/core.h says what each piece does."""

from libc.stdint cimport uint32_t, uint64_t

from lstmx._core.cell cimport lstmx_cell

ctypedef fused real:
    float
    double

cdef extern from "core.h" nogil:
    int LSTMX_F32, LSTMX_F64   # enum lstmx_format
    enum:
        LSTMX_FORMATS

    ctypedef struct lstmx_mask:
        uint64_t stream
        uint32_t threshold

    ctypedef struct lstmx_vectors:
        const void *bias
        const void *peephole
        const void *ih_gain
        const void *ih_bias
        const void *hh_gain
        const void *hh_bias
        const void *c_gain
        const void *c_bias

    ctypedef struct lstmx_extra:
        Py_ssize_t x, h, dx, dh, shown, d_shown, out
        Py_ssize_t vectors, bias, peephole, ih_gain, ih_bias, hh_gain, hh_bias, c_gain, c_bias
        Py_ssize_t hh, inverse, width, vectors_width, scratch_width

    ctypedef struct lstmx_layer:
        Py_ssize_t steps, batch, inputs, hidden, outputs, memory, width
        const Py_ssize_t *offsets
        const Py_ssize_t *whole
        Py_ssize_t whole_batch
        int reverse, windows
        const lstmx_cell *cell
        Py_ssize_t x_step, x_row, y_step, y_row, gates_row, h_row, c_row, dy_step, dy_row, extra_row
        const lstmx_vectors *vectors
        const lstmx_extra *at
        void *extra
        void *scratch
        const void *drop_x
        const void *drop_h
        const void *zoneout_h
        const void *zoneout_c
        const void *x
        const void *w_ih
        const void *w_hh
        const void *bias
        void *h
        void *c
        void *y
        void *gates
        void *h_prev
        void *c_prev
        const void *dy
        void *dh
        void *dc
        void *dh_all
        void *dc_all

    ctypedef struct lstmx_matrix:
        const void *data
        Py_ssize_t row
        int transposed

    ctypedef struct lstmx_products:
        void (*product)(Py_ssize_t rows, Py_ssize_t n, Py_ssize_t K, const void *a, Py_ssize_t a_row, const void *b,
                        void *out, Py_ssize_t out_row, int add, Py_ssize_t first, Py_ssize_t last) noexcept nogil
        void (*outer)(Py_ssize_t rows, Py_ssize_t m0, Py_ssize_t m1, Py_ssize_t n, const void *a, Py_ssize_t a_row,
                      const void *b, Py_ssize_t b_row, void *out, Py_ssize_t out_row, int add, void *strip) noexcept nogil

    ctypedef struct lstmx_tile:
        Py_ssize_t lanes
        lstmx_products products
        Py_ssize_t (*gate_width)(Py_ssize_t hidden) noexcept nogil
        Py_ssize_t (*column_width)(Py_ssize_t n) noexcept nogil
        Py_ssize_t (*outer_room)(Py_ssize_t rows, Py_ssize_t n) noexcept nogil
        void (*pack_gates)(Py_ssize_t hidden, Py_ssize_t K, const void *w, void *panels) noexcept nogil
        void (*pack_columns)(int transposed, Py_ssize_t K, Py_ssize_t n, const void *w, void *panels) noexcept nogil
        void (*input_sums)(const lstmx_layer *l, Py_ssize_t t0, Py_ssize_t t1, Py_ssize_t r0, Py_ssize_t r1, Py_ssize_t p0,
                           Py_ssize_t p1, void *sums) noexcept nogil
        void (*forward_steps)(const lstmx_layer *l, Py_ssize_t s0, Py_ssize_t s1, Py_ssize_t r0, Py_ssize_t r1,
                              Py_ssize_t p0, Py_ssize_t p1, void *sums) noexcept nogil
        void (*open_rows)(const lstmx_layer *l) noexcept nogil
        void (*close_rows)(const lstmx_layer *l) noexcept nogil
        void (*forward_cells)(const lstmx_layer *l, Py_ssize_t t, Py_ssize_t r0, Py_ssize_t r1, void *z,
                              Py_ssize_t z_row) noexcept nogil
        void (*finish_outputs)(const lstmx_layer *l, Py_ssize_t t, Py_ssize_t r0, Py_ssize_t r1) noexcept nogil
        void (*open_gradients)(const lstmx_layer *l, Py_ssize_t t, Py_ssize_t r0, Py_ssize_t r1) noexcept nogil
        void (*backward_cells)(const lstmx_layer *l, Py_ssize_t t, Py_ssize_t r0, Py_ssize_t r1, Py_ssize_t j0,
                               Py_ssize_t j1) noexcept nogil
        void (*multiply_rows)(Py_ssize_t rows, Py_ssize_t n, const void *a, Py_ssize_t a_row, const void *b, Py_ssize_t b_row,
                              void *out, Py_ssize_t out_row, int add) noexcept nogil
        void (*sum_rows)(Py_ssize_t rows, Py_ssize_t n, const void *x, Py_ssize_t x_row, void *out, int add) noexcept nogil
        void (*sum_parts)(Py_ssize_t n, int parts, Py_ssize_t apart, const void *from_, void *to) noexcept nogil

    ctypedef struct lstmx_isa:
        const char *name
        int vector_bytes
        int fma
        const void *kernels[LSTMX_FORMATS]   # lstmx_kernels, which kernels.pyx declares
        const lstmx_tile *tiles[LSTMX_FORMATS]

    int lstmx_isa_count() noexcept
    const lstmx_isa *lstmx_isa_at(int index) noexcept
    int lstmx_isa_supported(int index) noexcept

cdef extern from "control.h" nogil:
    unsigned flush_subnormals() noexcept
    void restore_control(unsigned saved) noexcept

cdef extern from "team.h" nogil:
    int LSTMX_OPENMP
    int omp_get_max_threads() noexcept
    int omp_get_num_threads() noexcept
    int omp_get_thread_num() noexcept
    int omp_in_parallel() noexcept
    double lstmx_now() noexcept
    int lstmx_cpus() noexcept
    Py_ssize_t lstmx_second_cache() noexcept
    ctypedef struct lstmx_team:
        int waiting
        unsigned round
        int cancelled
        double began, patience
    enum:
        LSTMX_UNTOUCHED
        LSTMX_SHARES
    ctypedef struct lstmx_rows:
        int state
        Py_ssize_t begin, end, first, stop, step
    ctypedef struct lstmx_shares:
        int count, each
        Py_ssize_t taken
        Py_ssize_t *done
        Py_ssize_t *first
        Py_ssize_t *stop
    void lstmx_wait(lstmx_team *team, int members) noexcept
    int lstmx_apart(lstmx_team *team) noexcept
    int lstmx_asker(const lstmx_rows *own) noexcept
    void lstmx_give(lstmx_rows *own, lstmx_rows *asker, Py_ssize_t middle) noexcept
    void lstmx_close(lstmx_rows *all, int me) noexcept
    int lstmx_get(lstmx_rows *all, int count, int me) noexcept
    void lstmx_leave(lstmx_team *team) noexcept
    int lstmx_left(lstmx_team *team) noexcept
    void lstmx_pause(int spin) noexcept
    Py_ssize_t lstmx_take(lstmx_shares *shares) noexcept
    int lstmx_await(const lstmx_shares *shares, int share, Py_ssize_t blocks, lstmx_team *team) noexcept
    void lstmx_finish(lstmx_shares *shares, int share, Py_ssize_t blocks) noexcept
    void lstmx_cancel(lstmx_team *team) noexcept
    int lstmx_cancelled(lstmx_team *team) noexcept
    int lstmx_stopped(lstmx_team *team) noexcept
    int lstmx_claim(int wanted, int budget) noexcept
    void lstmx_release(int got) noexcept

cdef extern from "Python.h":
    ctypedef struct PyThreadState:
        pass
    PyThreadState *PyEval_SaveThread() noexcept
    void PyEval_RestoreThread(PyThreadState *state) noexcept

# A call expected to take more than some 20 us releases the GIL. A shorter one keeps it: getting it back from a busy thread
# can take milliseconds. Between let_go and take_back only C may run.

cdef enum:
    LONG = 20000   # elements that a kernel goes through in some 20 us

cdef inline PyThreadState *let_go(bint long_call) noexcept:
    return PyEval_SaveThread() if long_call else NULL

cdef inline void take_back(PyThreadState *state) noexcept:
    if state != NULL:
        PyEval_RestoreThread(state)
