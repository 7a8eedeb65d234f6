/* What the compiled core offers to the .pyx modules: for each instruction set and each format a table of kernels and one of
 * tile functions. Which instruction set is chosen once, at import.
 *
 * Conventions. Matrices are row-major. `rows` counts sequences (or packed time steps), `n` columns, `hidden` the units H.
 * Gates lie in a row as four blocks of H: i, f, g, o. Kernels own nothing, allocate nothing and keep no pointer. They run
 * with subnormals flushed to zero and leave the control word as they found it. Pointers to data are void: what they point
 * to has the format of the table, and is aligned to its type, no more. */
#ifndef LSTMX_CORE_H
#define LSTMX_CORE_H

#include <stddef.h>
#include <stdint.h>

#include "cell.h"

#if !defined(__GNUC__) && !defined(LSTMX_NO_VECTOR)
#define LSTMX_NO_VECTOR 1   /* MSVC, and Clang in its guise, which has SSE's intrinsics but no vectors of GNU C */
#endif

/* How numbers are stored: the index of the tables of an instruction set. */
enum lstmx_format { LSTMX_F32, LSTMX_F64, LSTMX_FORMATS };
enum lstmx_activation { LSTMX_LINEAR, LSTMX_RELU, LSTMX_TANH, LSTMX_SIGMOID, LSTMX_SOFTMAX };
enum lstmx_loss { LSTMX_MSE, LSTMX_MAE, LSTMX_HUBER, LSTMX_BINARY, LSTMX_CATEGORICAL };

/* One row of a dropout mask: units are kept or dropped by a hash of (stream, unit) alone, so that neither the order of
 * the rows nor the number of threads changes a mask. */
typedef struct {
    uint64_t stream;      /* a hash of (key, layer, direction, caller's row, time step) */
    uint32_t threshold;   /* rate * 2**32: a hash below it drops the unit */
} lstmx_mask;

/* The vectors among a cell's parameters, NULL where there is none; a gain alone is that of "tflite", in ih_gain. */
typedef struct {
    const void *bias, *peephole, *ih_gain, *ih_bias, *hh_gain, *hh_bias, *c_gain, *c_bias;
} lstmx_vectors;

/* Where a row of `extra` has what, in values from its beginning; -1 for what a cell does not need. job.pyx says how wide each
 * is. In backward the columns from `vectors` on, one for each element of the cell's vectors, are the row's share of their
 * gradients; in forward those of the gains hold what the layer norm has normed. */
typedef struct {
    ptrdiff_t x, h;                    /* masked copies of x and of h, one for each mask */
    ptrdiff_t dx, dh;                  /* their gradients, one mask at a time */
    ptrdiff_t shown, d_shown;          /* (H) o * tanh(c) before the projection, and its gradient */
    ptrdiff_t out;                     /* (P) the new h before zoneout; backward: its gradient */
    ptrdiff_t vectors, bias, peephole, ih_gain, ih_bias, hh_gain, hh_bias, c_gain, c_bias;
    ptrdiff_t hh;                      /* (gates * H) W_hh h, where it is normed by itself; backward: its gradient */
    ptrdiff_t inverse;                 /* (5) what norms multiplied by: of the gates, or of W_ih x and W_hh h; of c */
    ptrdiff_t width, vectors_width;    /* of a row, and of the part from `vectors` on */
    ptrdiff_t scratch_width;           /* of a row of `scratch` */
} lstmx_extra;

/* A layer in one direction and the sequences it works on, a batch or a group of one: what the steps of recurrent.h need to
 * know.
 *
 * The rows of step t are offsets[t]..offsets[t + 1] of every packed array; without offsets there are `batch` rows at every
 * step. Of x, y, dy, dx, dh_all and dc_all, which a group shares with the rest of its batch, the pointer is at the group's
 * first row, and those of step t begin at whole[t], or without offsets at t * whole_batch. Strides count elements; NULL where
 * there is none. */
typedef struct {
    ptrdiff_t steps, batch, inputs, hidden, outputs;   /* T, N, I, H; the width of h, P or H */
    ptrdiff_t memory, width;                  /* the width of c, H or 3H; and of a row of z, gates * H */
    const ptrdiff_t *offsets, *whole;         /* (T + 1); the same, but for a group */
    ptrdiff_t whole_batch;
    int reverse;                              /* t runs downwards */
    int windows;                              /* x_step = x_row: windows of one series; row n of step t is its row t + n */
    const lstmx_cell *cell;                   /* its options */

    const void *x;                            /* IN, row n of step t at whole[t] * x_row or t * x_step, + n * x_row */
    ptrdiff_t x_step, x_row;
    const void *w_ih, *w_hh, *bias;           /* fused: gate panels (pack.h) of (4H, I), (4H, H), (4H, 1) */
    const lstmx_vectors *vectors;             /* general */
    void *h, *c;                              /* (N, P), (N, memory)  IN the initial, OUT the final state */
    void *y;                                  /* OUT, as x */
    ptrdiff_t y_step, y_row;

    /* Training: (S, .) rows, S = the sum of lengths. Row strides reach at least to the next multiple of 64 bytes. */
    void *gates;                              /* (S, width) OUT the activated gates; backward: dz */
    void *h_prev, *c_prev;                    /* (S, P), (S, memory)  OUT the state before each step */
    ptrdiff_t gates_row, h_row, c_row;

    /* General: what a cell needs beside its gates, a row for each row of a step; in training one for every packed row. */
    void *extra;                              /* (N or S, at.width) */
    ptrdiff_t extra_row;
    void *scratch;                            /* (N, at.scratch_width), for one step */
    const lstmx_extra *at;
    const void *drop_x, *drop_h;              /* (masks, N, I), (masks, N, P): of dropout, one for a sequence, scaled; or NULL */
    const void *zoneout_h, *zoneout_c;        /* (S, P), (S, H): 1 keeps the value of the step before; NULL in inference */

    /* Backward */
    const void *dy;                           /* IN, as y; or NULL */
    ptrdiff_t dy_step, dy_row;
    void *dh, *dc;                            /* (N, P), (N, memory)  IN gradients of the final, OUT of the initial state */
    void *dh_all, *dc_all;                    /* (S, P), (S, memory)  OUT dL/dh_t, dL/dc_t */
} lstmx_layer;

/* The matrix products of an engine, all that engines differ in. Rows lie a_row,
 * b_row and out_row values apart. */
typedef struct {
    /* out (rows, n) := [out +] a (rows, K) B (K, n) for the groups from..to of 4 vectors of columns. B is in the form of the
     * engine: column panels, or an lstmx_matrix. */
    void (*product)(ptrdiff_t rows, ptrdiff_t n, ptrdiff_t K, const void *a, ptrdiff_t a_row, const void *b,
                    void *out, ptrdiff_t out_row, int add, ptrdiff_t from, ptrdiff_t to);
    /* out (m0..m1 of m, n) := [out +] the sum over `rows` rows of a[row][m] b[row][n], one chain. `scratch` has
     * outer_room(rows, n) values; NULL if b is best read where it lies, whole vectors to its row's end. */
    void (*outer)(ptrdiff_t rows, ptrdiff_t m0, ptrdiff_t m1, ptrdiff_t n, const void *a, ptrdiff_t a_row, const void *b,
                  ptrdiff_t b_row, void *out, ptrdiff_t out_row, int add, void *scratch);
} lstmx_products;

/* A right-hand side B (K, n) as BLAS takes it: rows `row` values apart, of B or, if transposed, of B^T. */
typedef struct {
    const void *data;
    ptrdiff_t row;
    int transposed;
} lstmx_matrix;

/* The products and steps of the tile engine. They leave the control word alone: `launch` of loop.pyx flushes subnormals once for
 * each thread of a call. */
typedef struct {
    ptrdiff_t lanes;   /* values in a vector */
    lstmx_products products;
    /* Packed weights (pack.h). Panels of (4H, K) take K * gate_width(H) values, those of (K, n) K * column_width(n). */
    ptrdiff_t (*gate_width)(ptrdiff_t hidden);
    ptrdiff_t (*column_width)(ptrdiff_t n);
    ptrdiff_t (*outer_room)(ptrdiff_t rows, ptrdiff_t n);   /* values of the scratch of an outer product */
    void (*pack_gates)(ptrdiff_t hidden, ptrdiff_t K, const void *w, void *panels);
    void (*pack_columns)(int transposed, ptrdiff_t K, ptrdiff_t n, const void *w, void *panels);
    /* The steps of a layer (recurrent.h). Rows r, panels p of gates, groups g of columns, units j: half-open ranges. */
    void (*input_sums)(const lstmx_layer *l, ptrdiff_t t0, ptrdiff_t t1, ptrdiff_t r0, ptrdiff_t r1, ptrdiff_t p0,
                       ptrdiff_t p1, void *sums);
    void (*forward_steps)(const lstmx_layer *l, ptrdiff_t s0, ptrdiff_t s1, ptrdiff_t r0, ptrdiff_t r1, ptrdiff_t p0,
                          ptrdiff_t p1, void *sums);
    void (*open_rows)(const lstmx_layer *l);
    void (*close_rows)(const lstmx_layer *l);
    void (*forward_cells)(const lstmx_layer *l, ptrdiff_t t, ptrdiff_t r0, ptrdiff_t r1, void *z, ptrdiff_t z_row);
    void (*finish_outputs)(const lstmx_layer *l, ptrdiff_t t, ptrdiff_t r0, ptrdiff_t r1);
    void (*open_gradients)(const lstmx_layer *l, ptrdiff_t t, ptrdiff_t r0, ptrdiff_t r1);
    void (*backward_cells)(const lstmx_layer *l, ptrdiff_t t, ptrdiff_t r0, ptrdiff_t r1, ptrdiff_t j0, ptrdiff_t j1);
    /* out (rows, n) := [out +] a * b, element by element. */
    void (*multiply_rows)(ptrdiff_t rows, ptrdiff_t n, const void *a, ptrdiff_t a_row, const void *b, ptrdiff_t b_row, void *out,
                          ptrdiff_t out_row, int add);
    /* out (n) := [out +] the sum of x over `rows` rows. */
    void (*sum_rows)(ptrdiff_t rows, ptrdiff_t n, const void *x, ptrdiff_t x_row, void *out, int add);
    /* to (n) := the sum of `parts` arrays, `apart` values from each other; `to` may be the first. */
    void (*sum_parts)(ptrdiff_t n, int parts, ptrdiff_t apart, const void *from, void *to);
} lstmx_tile;

#define KERNEL(RETURN, NAME, ARGUMENTS) RETURN (*NAME) ARGUMENTS;
typedef struct {
#include "kernels.h"
} lstmx_kernels;
#undef KERNEL

typedef struct {
    const char *name;
    int vector_bytes;
    int fma;
    const lstmx_kernels *kernels[LSTMX_FORMATS];
    const lstmx_tile *tiles[LSTMX_FORMATS];
} lstmx_isa;

/* The instruction sets compiled in, best last. */
int lstmx_isa_count(void);
const lstmx_isa *lstmx_isa_at(int index);
/* 1 if this CPU and operating system can run it. */
int lstmx_isa_supported(int index);

#endif
