"""The C core as Cython sees it; c/core.h and c/kernels.h say what each piece does."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from lstmx._core.cell cimport lstmx_cell

ctypedef fused real:
    float
    double

cdef extern from "core.h" nogil:
    ctypedef struct lstmx_mask:
        uint64_t stream
        uint32_t threshold

    ctypedef struct lstmx_layer:
        Py_ssize_t steps
        Py_ssize_t batch
        Py_ssize_t inputs
        Py_ssize_t hidden
        Py_ssize_t outputs
        const Py_ssize_t *offsets
        int reverse
        int windows
        lstmx_cell cell
        const void *x
        Py_ssize_t x_step
        Py_ssize_t x_row
        const void *w_ih
        const void *w_hh
        const void *bias
        void *h
        void *c
        void *y
        Py_ssize_t y_step
        Py_ssize_t y_row
        void *gates
        void *h_prev
        void *c_prev
        Py_ssize_t gates_row
        Py_ssize_t h_row
        const void *dy
        Py_ssize_t dy_row
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
        void (*backward_cells)(const lstmx_layer *l, Py_ssize_t t, Py_ssize_t r0, Py_ssize_t r1, Py_ssize_t j0,
                               Py_ssize_t j1) noexcept nogil
        void (*sum_rows)(Py_ssize_t rows, Py_ssize_t n, const void *x, Py_ssize_t x_row, void *out, int add) noexcept nogil

    ctypedef struct lstmx_kernels_float:
        void (*sigmoid)(Py_ssize_t n, const float *x, float *y) noexcept nogil
        void (*tanh)(Py_ssize_t n, const float *x, float *y) noexcept nogil
        void (*exp)(Py_ssize_t n, const float *x, float *y) noexcept nogil
        void (*activate)(int activation, Py_ssize_t rows, Py_ssize_t n, const float *bias, float *y) noexcept nogil
        void (*activate_backward)(int activation, Py_ssize_t rows, Py_ssize_t n, const float *y, float *dy) noexcept nogil
        void (*column_sum)(Py_ssize_t rows, Py_ssize_t n, const float *x, float *out) noexcept nogil
        double (*sum)(Py_ssize_t n, const float *x) noexcept nogil
        double (*sum_of_squares)(Py_ssize_t n, const float *x) noexcept nogil
        void (*dropout)(Py_ssize_t n, lstmx_mask mask, float scale, const float *x, float *y) noexcept nogil
        int (*sgd)(Py_ssize_t n, float *p, float *g, float *m, float scale, float rate, float momentum, int nesterov,
                   float decay) noexcept nogil
        int (*rmsprop)(Py_ssize_t n, float *p, float *g, float *v, float *m, float scale, float rate, float rho,
                       float epsilon, float momentum, float decay) noexcept nogil
        int (*adam)(Py_ssize_t n, float *p, float *g, float *m, float *v, float scale, float rate, float beta_1,
                    float beta_2, float epsilon, float correction_1, float correction_2, float decay,
                    float decoupled_decay) noexcept nogil
        double (*loss)(int kind, Py_ssize_t rows, Py_ssize_t n, const float *p, const float *y, const float *mass,
                       const int64_t *labels, const float *weight, float divisor, float *value,
                       float *gradient) noexcept nogil
        double (*fma_chains)(Py_ssize_t rounds, float *y) noexcept nogil

    ctypedef struct lstmx_kernels_double:
        void (*sigmoid)(Py_ssize_t n, const double *x, double *y) noexcept nogil
        void (*tanh)(Py_ssize_t n, const double *x, double *y) noexcept nogil
        void (*exp)(Py_ssize_t n, const double *x, double *y) noexcept nogil
        void (*activate)(int activation, Py_ssize_t rows, Py_ssize_t n, const double *bias, double *y) noexcept nogil
        void (*activate_backward)(int activation, Py_ssize_t rows, Py_ssize_t n, const double *y, double *dy) noexcept nogil
        void (*column_sum)(Py_ssize_t rows, Py_ssize_t n, const double *x, double *out) noexcept nogil
        double (*sum)(Py_ssize_t n, const double *x) noexcept nogil
        double (*sum_of_squares)(Py_ssize_t n, const double *x) noexcept nogil
        void (*dropout)(Py_ssize_t n, lstmx_mask mask, double scale, const double *x, double *y) noexcept nogil
        int (*sgd)(Py_ssize_t n, double *p, double *g, double *m, double scale, double rate, double momentum, int nesterov,
                   double decay) noexcept nogil
        int (*rmsprop)(Py_ssize_t n, double *p, double *g, double *v, double *m, double scale, double rate, double rho,
                       double epsilon, double momentum, double decay) noexcept nogil
        int (*adam)(Py_ssize_t n, double *p, double *g, double *m, double *v, double scale, double rate, double beta_1,
                    double beta_2, double epsilon, double correction_1, double correction_2, double decay,
                    double decoupled_decay) noexcept nogil
        double (*loss)(int kind, Py_ssize_t rows, Py_ssize_t n, const double *p, const double *y, const double *mass,
                       const int64_t *labels, const double *weight, double divisor, double *value,
                       double *gradient) noexcept nogil
        double (*fma_chains)(Py_ssize_t rounds, double *y) noexcept nogil

    ctypedef struct lstmx_isa:
        const char *name
        int vector_bytes
        int fma
        const lstmx_kernels_float *f32
        const lstmx_kernels_double *f64
        const lstmx_tile *tile_f32
        const lstmx_tile *tile_f64

    int lstmx_isa_count() noexcept
    const lstmx_isa *lstmx_isa_at(int index) noexcept
    int lstmx_isa_supported(int index) noexcept

cdef extern from "team.h" nogil:
    int LSTMX_OPENMP
    int omp_get_max_threads() noexcept
    int omp_get_num_threads() noexcept
    int omp_get_thread_num() noexcept
    int omp_in_parallel() noexcept
    double lstmx_now() noexcept
    ctypedef struct lstmx_team:
        int waiting
        int round
        int cancelled
    void lstmx_wait(lstmx_team *team, int members) noexcept
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

# A call predicted to last over some 20 us lets go of the GIL. A shorter one keeps it: to get it back beside a busy thread can
# take milliseconds. Between the two only C may run.

cdef inline PyThreadState *let_go(bint long_call) noexcept:
    return PyEval_SaveThread() if long_call else NULL

cdef inline void take_back(PyThreadState *state) noexcept:
    if state != NULL:
        PyEval_RestoreThread(state)
