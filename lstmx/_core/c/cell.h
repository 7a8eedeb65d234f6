/* The LSTM cell: its options, and for one vector of units the activations, the state update and the derivative of that.
 * lstmx/reference.py says the same in NumPy. core.h includes this for the options, real.h for the rest, after vmath.h. */
#ifndef LSTMX_CELL_H
#define LSTMX_CELL_H
/* A function of one value, as ONNX defines it. */
enum lstmx_curve_kind { LSTMX_CURVE_SIGMOID, LSTMX_CURVE_TANH, LSTMX_CURVE_RELU, LSTMX_CURVE_AFFINE, LSTMX_CURVE_LEAKY_RELU,
                        LSTMX_CURVE_THRESHOLDED_RELU, LSTMX_CURVE_SCALED_TANH, LSTMX_CURVE_HARD_SIGMOID, LSTMX_CURVE_ELU,
                        LSTMX_CURVE_SOFTSIGN, LSTMX_CURVE_SOFTPLUS };
typedef struct {
    int kind;
    double alpha, beta;
} lstmx_curve;
enum lstmx_norm { LSTMX_NO_NORM, LSTMX_HASTE, LSTMX_FASTRNN, LSTMX_TFLITE };

/* As lstmx.functional.cell has them. */
typedef struct {
    int special;              /* whether it is anything but the plain cell */
    int general;              /* whether it needs family.h, and not only peepholes, coupled gates and clips */
    int gates;                /* blocks of a row of z: 4, or 3 where f = 1 - i */
    int peephole, slstm, norm;
    double clip, cell_clip;   /* bounds of what enters the activations, and of the memory; 0: none */
    double epsilon;           /* of the layer norm */
    double zoneout_h, zoneout_c;
    lstmx_curve gate, candidate, output;
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

/* M vectors side by side: one alone is a chain of operations that wait for each other. */
INLINE void FN(units_forward)(const int M, const int part, ptrdiff_t tail, const lstmx_cell *cell, ptrdiff_t H, const REAL *bias,
                             const REAL *peephole, REAL *z, REAL *c, REAL *h) {
    const ptrdiff_t at_g = (cell->gates - 2) * H, at_o = at_g + H;
    const int coupled = cell->gates == 3;
    const REAL clip = (REAL)cell->clip, cell_clip = (REAL)cell->cell_clip;
    FN(vec) a[4 * 2], c_t[2], h_t[2];
    EACH {
        const ptrdiff_t j = m * LANES;
        a[m] = LOAD(z + j);
        a[M + m] = coupled ? FN(splat)(0) : LOAD(z + H + j);
        a[2 * M + m] = LOAD(z + at_o + j);
        a[3 * M + m] = LOAD(z + at_g + j);
        c_t[m] = LOAD(c + j);
        if (bias) {
            a[m] = a[m] + LOAD(bias + j);
            if (!coupled) a[M + m] = a[M + m] + LOAD(bias + H + j);
            a[2 * M + m] = a[2 * M + m] + LOAD(bias + at_o + j);
            a[3 * M + m] = a[3 * M + m] + LOAD(bias + at_g + j);
        }
        if (peephole) {
            a[m] = FN(vfma)(LOAD(peephole + j), c_t[m], a[m]);
            if (!coupled) a[M + m] = FN(vfma)(LOAD(peephole + H + j), c_t[m], a[M + m]);
            h_t[m] = a[2 * M + m];   /* the output gate waits for the memory */
        }
    }
    if (clip > 0)
        UNROLL for (int k = 0; k < 4 * M; k++) a[k] = FN(cut)(a[k], clip);
    if (peephole) {
        FN(vsigmoid)(2 * M, a);
        FN(vtanh)(M, a + 3 * M);
    } else
        FN(activate_gates)(M, a);
    EACH {
        if (coupled) a[M + m] = FN(splat)(1) - a[m];
        c_t[m] = FN(next_memory)(a[m], a[M + m], a[3 * M + m], c_t[m]);
        if (cell_clip > 0) c_t[m] = FN(cut)(c_t[m], cell_clip);
    }
    if (peephole) {
        EACH {
            const FN(vec) o = FN(vfma)(LOAD(peephole + at_g + m * LANES), c_t[m], h_t[m]);
            a[2 * M + m] = clip > 0 ? FN(cut)(o, clip) : o;
        }
        FN(vsigmoid)(M, a + 2 * M);
    }
    EACH h_t[m] = c_t[m];
    FN(cell_output)(M, h_t, a + 2 * M);
    EACH {
        const ptrdiff_t j = m * LANES;
        STORE(z + j, a[m]);
        if (!coupled) STORE(z + H + j, a[M + m]);
        STORE(z + at_g + j, a[3 * M + m]);
        STORE(z + at_o + j, a[2 * M + m]);
        STORE(c + j, c_t[m]);
        STORE(h + j, h_t[m]);
    }
}

#define AT(p) (p ? p + j : NULL)
/* One row: from the sums z (gates * H), without bias and peepholes (each NULL if there is none), to the activated gates; c and h
 * (H) to those of this step. */
static NOINLINE void FN(cell_row_forward)(const lstmx_cell *cell, ptrdiff_t H, const REAL *bias, const REAL *peephole, REAL *z,
                                          REAL *c, REAL *h) {
    ptrdiff_t j = 0;
    for (; j + 2 * LANES <= H; j += 2 * LANES)
        FN(units_forward)(2, 0, 0, cell, H, AT(bias), AT(peephole), z + j, c + j, h + j);
    for (; j + LANES <= H; j += LANES) FN(units_forward)(1, 0, 0, cell, H, AT(bias), AT(peephole), z + j, c + j, h + j);
    if (j < H) FN(units_forward)(1, 1, H - j, cell, H, AT(bias), AT(peephole), z + j, c + j, h + j);
}

/* The gradient of what entered an activation, 0 if it was cut: then the activation is one of `bound`, which is sigmoid(-clip),
 * sigmoid(clip) and tanh(clip), or NULL. */
INLINE FN(vec) FN(unless_cut)(const FN(vec) *bound, const int tanh, FN(vec) activation, FN(vec) gradient) {
    if (!bound) return gradient;
    return FN(between)(tanh ? -bound[2] : bound[0], activation, tanh ? bound[2] : bound[1], gradient);
}

/* Fetches what the next step reads or writes of the tape: units of a row of gates, and of c_prev. A tape is larger than the second
 * cache, and its rows are too short for the CPU to guess where the next ones lie. */
INLINE void FN(fetch_units)(const REAL *gates, ptrdiff_t H, const REAL *c_prev) {
    UNROLL for (int k = 0; k < 4; k++) PREFETCH(gates + k * H);
    PREFETCH(c_prev);
}

/* What a row's derivative reads and writes; each pointer at the first of its units, NULL where there is none. */
typedef struct {
    REAL *z;                  /* (gates * H) in: the activated gates; out: dz, the gradient of what entered the activations */
    const REAL *c_prev;       /* (H) c_{t-1} */
    const REAL *dy;           /* (H) dL/dh_t as far as the output gives it */
    REAL *dh;                 /* (H) in: what reaches h_t from step t + 1; out: the whole dL/dh_t */
    REAL *dc;                 /* (H) in: what reaches c_t from step t + 1; out: what step t passes on to c_{t-1} */
    REAL *dh_all, *dc_all;    /* (H) out: the whole dL/dh_t and dL/dc_t */
    const REAL *peephole;     /* ((gates - 1) * H) */
    REAL *d_peephole;         /* as that, out: this row's share of its gradient */
} FN(row);

INLINE FN(row) FN(row_at)(const FN(row) *r, ptrdiff_t j) {
    return (FN(row)){r->z + j, r->c_prev + j, AT(r->dy), r->dh + j, r->dc + j, AT(r->dh_all), AT(r->dc_all), AT(r->peephole),
                     AT(r->d_peephole)};
}
#undef AT

/* `cell` is NULL for the plain one. */
INLINE void FN(units_backward)(const int part, ptrdiff_t tail, const lstmx_cell *cell, const FN(vec) *bound, ptrdiff_t H, FN(row) r) {
    const FN(vec) one = FN(splat)(1);
    const int coupled = cell && cell->gates == 3;
    const ptrdiff_t at_g = coupled ? H : 2 * H, at_o = at_g + H;
    FN(vec) i = LOAD(r.z), f = coupled ? one - i : LOAD(r.z + H), g = LOAD(r.z + at_g), o = LOAD(r.z + at_o);
    FN(vec) cp = LOAD(r.c_prev), dh_t = LOAD(r.dh);
    if (r.dy) {
        dh_t = dh_t + LOAD(r.dy);
        STORE(r.dh, dh_t);
    }
    const FN(vec) memory = FN(next_memory)(i, f, g, cp);
    const FN(vec) shown = cell && cell->cell_clip > 0 ? FN(cut)(memory, (REAL)cell->cell_clip) : memory;
    const FN(vec) tanh_c = FN(tanh_of)(shown);
    FN(vec) dc_t = FN(vfma)(dh_t * o, one - tanh_c * tanh_c, LOAD(r.dc));
    const FN(vec) da_o = FN(unless_cut)(bound, 0, o, dh_t * tanh_c * o * (one - o));
    if (r.peephole) {
        dc_t = FN(vfma)(da_o, LOAD(r.peephole + at_g), dc_t);
        STORE(r.d_peephole + at_g, da_o * shown);
    }
    if (r.dh_all) STORE(r.dh_all, dh_t);
    if (r.dc_all) STORE(r.dc_all, dc_t);
    if (cell && cell->cell_clip > 0) {
        const FN(vec) top = FN(splat)((REAL)cell->cell_clip);
        dc_t = FN(between)(-top, memory, top, dc_t);
    }
    const FN(vec) da_i = FN(unless_cut)(bound, 0, i, dc_t * (coupled ? g - cp : g) * i * (one - i));
    FN(vec) dc_prev = dc_t * f;
    STORE(r.z, da_i);
    if (r.peephole) {
        dc_prev = FN(vfma)(da_i, LOAD(r.peephole), dc_prev);
        STORE(r.d_peephole, da_i * cp);
    }
    if (!coupled) {
        const FN(vec) da_f = FN(unless_cut)(bound, 0, f, dc_t * cp * f * (one - f));
        STORE(r.z + H, da_f);
        if (r.peephole) {
            dc_prev = FN(vfma)(da_f, LOAD(r.peephole + H), dc_prev);
            STORE(r.d_peephole + H, da_f * cp);
        }
    }
    STORE(r.z + at_g, FN(unless_cut)(bound, 1, g, dc_t * i * (one - g * g)));
    STORE(r.z + at_o, da_o);
    STORE(r.dc, dc_prev);
}

/* `soon` and `c_soon`: gates and c_prev of the row that is next, or NULL. */
INLINE void FN(row_backward)(const lstmx_cell *cell, const FN(vec) *bound, ptrdiff_t j, ptrdiff_t j1, ptrdiff_t H, const FN(row) *r,
                             const REAL *soon, const REAL *c_soon) {
    for (; j + LANES <= j1; j += LANES) {
        if (soon) FN(fetch_units)(soon + j, H, c_soon + j);
        FN(units_backward)(0, 0, cell, bound, H, FN(row_at)(r, j));
    }
    if (j < j1) FN(units_backward)(1, j1 - j, cell, bound, H, FN(row_at)(r, j));
}

static NOINLINE void FN(row_backward_plain)(ptrdiff_t j0, ptrdiff_t j1, ptrdiff_t H, REAL *z, const REAL *c_prev, const REAL *dy,
                                            REAL *dh, REAL *dc, REAL *dh_all, REAL *dc_all, const REAL *soon, const REAL *c_soon) {
    const FN(row) r = {z, c_prev, dy, dh, dc, dh_all, dc_all, NULL, NULL};
    FN(row_backward)(NULL, NULL, j0, j1, H, &r, soon, c_soon);
}

static NOINLINE void FN(row_backward_with_options)(const lstmx_cell *cell, ptrdiff_t j0, ptrdiff_t j1, ptrdiff_t H, const FN(row) *r) {
    const FN(vec) clip = FN(splat)((REAL)cell->clip);
    const FN(vec) bound[3] = {FN(sigmoid_of)(-clip), FN(sigmoid_of)(clip), FN(tanh_of)(clip)};
    FN(row_backward)(cell, cell->clip > 0 ? bound : NULL, j0, j1, H, r, NULL, NULL);
}

/* The derivative of one row, units j0..j1. */
INLINE void FN(cell_row_backward)(const lstmx_cell *cell, ptrdiff_t j0, ptrdiff_t j1, ptrdiff_t H, const FN(row) *r) {
    if (cell->special) FN(row_backward_with_options)(cell, j0, j1, H, r);
    else FN(row_backward_plain)(j0, j1, H, r->z, r->c_prev, r->dy, r->dh, r->dc, r->dh_all, r->dc_all, NULL, NULL);
}
#undef LOAD
#undef STORE

static void FN(cell_forward)(const void *cell, ptrdiff_t rows, ptrdiff_t H, const void *bias, void *gates, void *c, void *h) {
    const unsigned saved = flush_subnormals();
    for (ptrdiff_t n = 0; n < rows; n++)
        FN(cell_row_forward)(cell, H, bias, NULL, (REAL *)gates + n * 4 * H, (REAL *)c + n * H, (REAL *)h + n * H);
    restore_control(saved);
}

static void FN(cell_backward)(const void *cell, ptrdiff_t rows, ptrdiff_t H, void *gates, const void *c_prev, const void *dy,
                              void *dh, void *dc, void *dh_all, void *dc_all) {
#define ROW(p) (p ? (REAL *)p + n * H : NULL)
    const unsigned saved = flush_subnormals();
    for (ptrdiff_t n = 0; n < rows; n++) {
        const FN(row) r = {(REAL *)gates + n * 4 * H, ROW(c_prev), ROW(dy), ROW(dh), ROW(dc), ROW(dh_all), ROW(dc_all), NULL, NULL};
        FN(cell_row_backward)(cell, 0, H, H, &r);
    }
    restore_control(saved);
#undef ROW
}
#endif
