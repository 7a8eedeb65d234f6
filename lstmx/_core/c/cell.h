/* The cell: what one time step does with its four products, and the derivative of that. lstmx/reference.py says the same
 * in NumPy. Expects vmath.h. */

INLINE FN(vec) FN(next_memory)(FN(vec) i, FN(vec) f, FN(vec) g, FN(vec) c_prev) {
    return FN(vfma)(f, c_prev, i * g);
}

/* M vectors of units, side by side: a[0..M] are those of gate i, then f, o, g; before and after come the activations.
 * c goes from c_{t-1} to c_t; h is h_t. */
INLINE void FN(cell_step)(const int M, FN(vec) *a, FN(vec) *c, FN(vec) *h) {
    FN(vec) *i = a, *f = a + M, *o = a + 2 * M, *g = a + 3 * M;
    if (3 * M <= REGISTERS / 5) FN(vsigmoid)(3 * M, a);
    else { FN(vsigmoid)(M, i); FN(vsigmoid)(M, f); FN(vsigmoid)(M, o); }
    FN(vtanh)(M, g);
    EACH h[m] = c[m] = FN(next_memory)(i[m], f[m], g[m], c[m]);
    FN(vtanh)(M, h);
    EACH h[m] = o[m] * h[m];
}

/* LOAD and STORE are the whole-vector or the partial forms, so that a tail is the same code. */
#define CELL_FORWARD(LOAD, STORE)                                                                                        \
    do {                                                                                                                 \
        FN(vec) b_i = FN(splat)(0), b_f = b_i, b_g = b_i, b_o = b_i;                                                     \
        if (bias) { b_i = LOAD(bias + j); b_f = LOAD(bias + H + j); b_g = LOAD(bias + 2 * H + j); b_o = LOAD(bias + 3 * H + j); } \
        FN(vec) a[4] = {LOAD(z + j) + b_i, LOAD(z + H + j) + b_f, LOAD(z + 3 * H + j) + b_o, LOAD(z + 2 * H + j) + b_g};  \
        FN(vec) c_t = LOAD(c + j), h_t;                                                                                  \
        FN(cell_step)(1, a, &c_t, &h_t);                                                                                 \
        STORE(z + j, a[0]); STORE(z + H + j, a[1]); STORE(z + 2 * H + j, a[3]); STORE(z + 3 * H + j, a[2]);              \
        STORE(c + j, c_t); STORE(h + j, h_t);                                                                            \
    } while (0)

static void FN(cell_forward)(ptrdiff_t rows, ptrdiff_t H, const void *bias_, void *gates_, void *c_, void *h_) {
    const REAL *bias = bias_;
    REAL *gates = gates_, *c = c_, *h = h_;
    const unsigned saved = flush_subnormals();
    for (ptrdiff_t n = 0; n < rows; n++, c += H, h += H) {
        REAL *z = gates + n * 4 * H;
        ptrdiff_t j = 0;
        for (; j + LANES <= H; j += LANES) CELL_FORWARD(FN(load), FN(store));
        const ptrdiff_t tail = H - j;
        if (tail) CELL_FORWARD(LOAD_TAIL, STORE_TAIL);
    }
    restore_control(saved);
}

/* One row, units j0..j1. dh comes as what step t + 1 gives and leaves as the whole dL/dh_t. */
#define CELL_BACKWARD(LOAD, STORE)                                                                                       \
    do {                                                                                                                 \
        const FN(vec) one = FN(splat)(1);                                                                                \
        FN(vec) i = LOAD(z + j), f = LOAD(z + H + j), g = LOAD(z + 2 * H + j), o = LOAD(z + 3 * H + j);                  \
        FN(vec) cp = LOAD(c_prev + j), dh_t = LOAD(dh + j);                                                              \
        if (dy) { dh_t = dh_t + LOAD(dy + j); STORE(dh + j, dh_t); }                                                     \
        FN(vec) tanh_c = FN(tanh_of)(FN(next_memory)(i, f, g, cp));                                                        \
        FN(vec) dc_t = FN(vfma)(dh_t * o, one - tanh_c * tanh_c, LOAD(dc + j));                                          \
        STORE(z + j, dc_t * g * i * (one - i));                                                                          \
        STORE(z + H + j, dc_t * cp * f * (one - f));                                                                     \
        STORE(z + 2 * H + j, dc_t * i * (one - g * g));                                                                  \
        STORE(z + 3 * H + j, dh_t * tanh_c * o * (one - o));                                                             \
        STORE(dc + j, dc_t * f);                                                                                         \
        if (dh_all) STORE(dh_all + j, dh_t);                                                                             \
        if (dc_all) STORE(dc_all + j, dc_t);                                                                             \
    } while (0)

static NOINLINE void FN(cell_row_backward)(ptrdiff_t j0, ptrdiff_t j1, ptrdiff_t H, REAL *z, const REAL *c_prev, const REAL *dy,
                                  REAL *dh, REAL *dc, REAL *dh_all, REAL *dc_all) {
    ptrdiff_t j = j0;
    for (; j + LANES <= j1; j += LANES) CELL_BACKWARD(FN(load), FN(store));
    const ptrdiff_t tail = j1 - j;
    if (tail) CELL_BACKWARD(LOAD_TAIL, STORE_TAIL);
}
#undef CELL_FORWARD
#undef CELL_BACKWARD

static void FN(cell_backward)(ptrdiff_t rows, ptrdiff_t H, ptrdiff_t ldy, void *gates_, const void *c_prev_,
                              const void *dy_, void *dh_, void *dc_, void *dh_all_, void *dc_all_) {
    const REAL *c_prev = c_prev_, *dy = dy_;
    REAL *gates = gates_, *dh = dh_, *dc = dc_, *dh_all = dh_all_, *dc_all = dc_all_;
    const unsigned saved = flush_subnormals();
    for (ptrdiff_t n = 0; n < rows; n++)
        FN(cell_row_backward)(0, H, H, gates + n * 4 * H, c_prev + n * H, dy ? dy + n * ldy : NULL, dh + n * H, dc + n * H,
                              dh_all ? dh_all + n * H : NULL, dc_all ? dc_all + n * H : NULL);
    restore_control(saved);
}
