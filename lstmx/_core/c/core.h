/* What the compiled core offers to the .pyx modules: one table of kernels per floating-point type, chosen once at import.
 *
 * Conventions. Matrices are row-major. `rows` counts sequences (or packed time steps), `n` columns, `hidden` the units H.
 * Gates lie in a row as four blocks of H: i, f, g, o. Kernels own nothing, allocate nothing and keep no pointer. They run
 * with subnormals flushed to zero and leave the control word as they found it. All pointers may be unaligned. */
#ifndef LSTMX_CORE_H
#define LSTMX_CORE_H

#include <stddef.h>
#include <stdint.h>

enum lstmx_activation { LSTMX_LINEAR, LSTMX_RELU, LSTMX_TANH, LSTMX_SIGMOID, LSTMX_SOFTMAX };
enum lstmx_loss { LSTMX_MSE, LSTMX_MAE, LSTMX_HUBER, LSTMX_BINARY, LSTMX_CATEGORICAL };

/* One row of a dropout mask: units are kept or dropped by a hash of (stream, unit) alone, so that neither the order of
 * the rows nor the number of threads changes a mask. */
typedef struct {
    uint64_t stream;      /* a hash of (key, layer, direction, caller's row, time step) */
    uint32_t threshold;   /* rate * 2**32: a hash below it drops the unit */
} lstmx_mask;

#define REAL float
#define KERNELS lstmx_kernels_float
#include "kernels.h"
#undef REAL
#undef KERNELS

#define REAL double
#define KERNELS lstmx_kernels_double
#include "kernels.h"
#undef REAL
#undef KERNELS

typedef struct {
    const char *name;
    int vector_bytes;
    int fma;
    const lstmx_kernels_float *f32;
    const lstmx_kernels_double *f64;
} lstmx_isa;

/* The instruction sets compiled in, best last. */
int lstmx_isa_count(void);
const lstmx_isa *lstmx_isa_at(int index);
/* 1 if this CPU and operating system can run it. */
int lstmx_isa_supported(int index);

/* The matrix products behind an engine, C := op(A) op(B) + beta C, all row-major.
 * A has m rows after op, B has n columns after op; k is the length of the sum. Filled by blas.pyx (and later by the tile). */
typedef struct {
    void (*f32)(int transpose_a, int transpose_b, ptrdiff_t m, ptrdiff_t n, ptrdiff_t k, const float *a, ptrdiff_t lda,
                const float *b, ptrdiff_t ldb, float beta, float *c, ptrdiff_t ldc);
    void (*f64)(int transpose_a, int transpose_b, ptrdiff_t m, ptrdiff_t n, ptrdiff_t k, const double *a, ptrdiff_t lda,
                const double *b, ptrdiff_t ldb, double beta, double *c, ptrdiff_t ldc);
} lstmx_products;

#endif
