/* The LSTM cell: its options, and for one vector of units the activations, the state update and the derivative of that.
 * lstmx/reference.py says the same in NumPy. core.h includes this for the options, real.h for the rest, after vmath.h. */
#ifndef LSTMX_CELL_H
#define LSTMX_CELL_H
/* As lstmx.functional.cell has them. */
typedef struct {
    int special;              /* whether any option is set; all zero is the plain cell */
    double clip, cell_clip;   /* bounds of what enters the activations, and of the memory; 0: none */
} lstmx_cell;
#endif

#ifdef FN
INLINE FN(vec) FN(next_memory)(FN(vec) i, FN(vec) f, FN(vec) g, FN(vec) c_prev) {
    return FN(vfma)(f, c_prev, i * g);
}

/* The activations of M vectors of units, side by side: a[0..M] are those of gate i, then f, o, g. */
INLINE void FN(activate_gates)(const int M, FN(vec) *a) {
    if (3 * M <= REGISTERS / 5) FN(vsigmoid)(3 * M, a);
    else { FN(vsigmoid)(M, a); FN(vsigmoid)(M, a + M); FN(vsigmoid)(M, a + 2 * M); }
    FN(vtanh)(M, a + 3 * M);
}

/* The plain cell's first part: before a come the sums, after it the activations; c goes from c_{t-1} to c_t. */
INLINE void FN(cell_memory)(const int M, FN(vec) *a, FN(vec) *c) {
    FN(activate_gates)(M, a);
    EACH c[m] = FN(next_memory)(a[m], a[M + m], a[3 * M + m], c[m]);
}

/* Its second part: h goes from c_t to h_t, o being the output gate. */
INLINE void FN(cell_output)(const int M, FN(vec) *h, const FN(vec) *o) {
    FN(vtanh)(M, h);
    EACH h[m] = o[m] * h[m];
}

INLINE FN(vec) FN(cut)(FN(vec) x, REAL bound) { return FN(at_least)(FN(at_most)(x, bound), -bound); }

/* x where low < value < high, else 0; a NaN reaches the gradient. */
INLINE FN(vec) FN(between)(FN(vec) low, FN(vec) value, FN(vec) high, FN(vec) x) {
    return FN(select)(FN(less)(low, value) & FN(less)(value, high), x, x * FN(splat)(0));
}

/* Whole vectors, or if `part` the first `tail` units of one: a tail is the same code. */
#define LOAD(p) (part ? FN(load_part)(p, tail) : FN(load)(p))
#define STORE(p, v) do { if (part) FN(store_part)(p, v, tail); else FN(store)(p, v); } while (0)

INLINE void FN(units_forward)(const int part, ptrdiff_t tail, const lstmx_cell *cell, ptrdiff_t H, const REAL *bias, REAL *z,
                             REAL *c, REAL *h) {
    FN(vec) a[4] = {LOAD(z), LOAD(z + H), LOAD(z + 3 * H), LOAD(z + 2 * H)}, c_t = LOAD(c), h_t;
    if (bias) {
        a[0] = a[0] + LOAD(bias);
        a[1] = a[1] + LOAD(bias + H);
        a[2] = a[2] + LOAD(bias + 3 * H);
        a[3] = a[3] + LOAD(bias + 2 * H);
    }
    if (cell->clip > 0)
        UNROLL for (int k = 0; k < 4; k++) a[k] = FN(cut)(a[k], (REAL)cell->clip);
    FN(activate_gates)(1, a);
    c_t = FN(next_memory)(a[0], a[1], a[3], c_t);
    if (cell->cell_clip > 0) c_t = FN(cut)(c_t, (REAL)cell->cell_clip);
    h_t = a[2] * FN(tanh_of)(c_t);
    STORE(z, a[0]);
    STORE(z + H, a[1]);
    STORE(z + 2 * H, a[3]);
    STORE(z + 3 * H, a[2]);
    STORE(c, c_t);
    STORE(h, h_t);
}

/* One row: from the sums z (4H), without bias (4H) or NULL, to the activated gates; c and h (H) to those of this step. */
static NOINLINE void FN(cell_row_forward)(const lstmx_cell *cell, ptrdiff_t H, const REAL *bias, REAL *z, REAL *c, REAL *h) {
    ptrdiff_t j = 0;
    for (; j + LANES <= H; j += LANES) FN(units_forward)(0, 0, cell, H, bias ? bias + j : NULL, z + j, c + j, h + j);
    if (j < H) FN(units_forward)(1, H - j, cell, H, bias ? bias + j : NULL, z + j, c + j, h + j);
}

/* The gradient of what entered an activation, 0 if it was cut: then the activation is one of `bound`, which is sigmoid(-clip),
 * sigmoid(clip) and tanh(clip), or NULL. */
INLINE FN(vec) FN(unless_cut)(const FN(vec) *bound, const int tanh, FN(vec) activation, FN(vec) gradient) {
    if (!bound) return gradient;
    return FN(between)(tanh ? -bound[2] : bound[0], activation, tanh ? bound[2] : bound[1], gradient);
}

INLINE void FN(units_backward)(const int part, ptrdiff_t tail, const lstmx_cell *cell, const FN(vec) *bound, ptrdiff_t H,
                               REAL *z, const REAL *c_prev, const REAL *dy, REAL *dh, REAL *dc, REAL *dh_all, REAL *dc_all) {
    const FN(vec) one = FN(splat)(1);
    FN(vec) i = LOAD(z), f = LOAD(z + H), g = LOAD(z + 2 * H), o = LOAD(z + 3 * H), cp = LOAD(c_prev), dh_t = LOAD(dh);
    if (dy) {
        dh_t = dh_t + LOAD(dy);
        STORE(dh, dh_t);
    }
    const FN(vec) memory = FN(next_memory)(i, f, g, cp);
    FN(vec) tanh_c = FN(tanh_of)(cell && cell->cell_clip > 0 ? FN(cut)(memory, (REAL)cell->cell_clip) : memory);
    FN(vec) dc_t = FN(vfma)(dh_t * o, one - tanh_c * tanh_c, LOAD(dc));
    if (dh_all) STORE(dh_all, dh_t);
    if (dc_all) STORE(dc_all, dc_t);
    if (cell && cell->cell_clip > 0) {
        const FN(vec) top = FN(splat)((REAL)cell->cell_clip);
        dc_t = FN(between)(-top, memory, top, dc_t);
    }
    STORE(z, FN(unless_cut)(bound, 0, i, dc_t * g * i * (one - i)));
    STORE(z + H, FN(unless_cut)(bound, 0, f, dc_t * cp * f * (one - f)));
    STORE(z + 2 * H, FN(unless_cut)(bound, 1, g, dc_t * i * (one - g * g)));
    STORE(z + 3 * H, FN(unless_cut)(bound, 0, o, dh_t * tanh_c * o * (one - o)));
    STORE(dc, dc_t * f);
}

INLINE void FN(row_backward)(const lstmx_cell *cell, const FN(vec) *bound, ptrdiff_t j, ptrdiff_t j1, ptrdiff_t H, REAL *z,
                             const REAL *c_prev, const REAL *dy, REAL *dh, REAL *dc, REAL *dh_all, REAL *dc_all) {
#define AT(p) (p ? p + j : NULL)
    for (; j + LANES <= j1; j += LANES)
        FN(units_backward)(0, 0, cell, bound, H, z + j, c_prev + j, AT(dy), dh + j, dc + j, AT(dh_all), AT(dc_all));
    if (j < j1)
        FN(units_backward)(1, j1 - j, cell, bound, H, z + j, c_prev + j, AT(dy), dh + j, dc + j, AT(dh_all), AT(dc_all));
#undef AT
}

static NOINLINE void FN(row_backward_with_options)(const lstmx_cell *cell, ptrdiff_t j0, ptrdiff_t j1, ptrdiff_t H, REAL *z,
                                                   const REAL *c_prev, const REAL *dy, REAL *dh, REAL *dc, REAL *dh_all,
                                                   REAL *dc_all) {
    const FN(vec) clip = FN(splat)((REAL)cell->clip);
    const FN(vec) bound[3] = {FN(sigmoid_of)(-clip), FN(sigmoid_of)(clip), FN(tanh_of)(clip)};
    FN(row_backward)(cell, cell->clip > 0 ? bound : NULL, j0, j1, H, z, c_prev, dy, dh, dc, dh_all, dc_all);
}

/* The derivative of one row, units j0..j1.
 * z       (4H) in: the activated gates; out: dz, the gradient of what entered the activations
 * c_prev  (H)  in: c_{t-1}
 * dy      (H) or NULL   in: dL/dh_t as far as the output gives it
 * dh      (H)  in: what reaches h_t from step t + 1; out: the whole dL/dh_t
 * dc      (H)  in: what reaches c_t from step t + 1; out: what step t passes on to c_{t-1}
 * dh_all, dc_all (H) or NULL   out: the whole dL/dh_t and dL/dc_t */
static NOINLINE void FN(cell_row_backward)(const lstmx_cell *cell, ptrdiff_t j0, ptrdiff_t j1, ptrdiff_t H, REAL *z,
                                           const REAL *c_prev, const REAL *dy, REAL *dh, REAL *dc, REAL *dh_all, REAL *dc_all) {
    if (cell->special) FN(row_backward_with_options)(cell, j0, j1, H, z, c_prev, dy, dh, dc, dh_all, dc_all);
    else FN(row_backward)(NULL, NULL, j0, j1, H, z, c_prev, dy, dh, dc, dh_all, dc_all);
}
#undef LOAD
#undef STORE

static void FN(cell_forward)(const void *cell, ptrdiff_t rows, ptrdiff_t H, const void *bias, void *gates, void *c, void *h) {
    const unsigned saved = flush_subnormals();
    for (ptrdiff_t n = 0; n < rows; n++)
        FN(cell_row_forward)(cell, H, bias, (REAL *)gates + n * 4 * H, (REAL *)c + n * H, (REAL *)h + n * H);
    restore_control(saved);
}

static void FN(cell_backward)(const void *cell, ptrdiff_t rows, ptrdiff_t H, void *gates, const void *c_prev, const void *dy,
                              void *dh, void *dc, void *dh_all, void *dc_all) {
#define ROW(p) (p ? (REAL *)p + n * H : NULL)
    const unsigned saved = flush_subnormals();
    for (ptrdiff_t n = 0; n < rows; n++)
        FN(cell_row_backward)(cell, 0, H, H, (REAL *)gates + n * 4 * H, ROW(c_prev), ROW(dy), ROW(dh), ROW(dc), ROW(dh_all),
                              ROW(dc_all));
    restore_control(saved);
#undef ROW
}
#endif
