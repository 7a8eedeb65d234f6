/* The cells beyond cell.h, row by row: other activations, layer norm, zoneout, sLSTM. lstmx/reference_cells.py says the same
 * in NumPy. A row is gone through several times, operation by operation, as it lies in the first cache.
 *
 * Elementwise loops are left to the compiler: nothing in them is contracted, so every instruction set gives the same bits.
 * Expects cell.h. */

/* y := curve(x), n values; x and y may be the same. */
static NOINLINE void FN(curve_row)(const lstmx_curve *curve, ptrdiff_t n, const REAL *x, REAL *y) {
    const REAL alpha = (REAL)curve->alpha, beta = (REAL)curve->beta;
#define MAP(EXPRESSION)                                                                                                  \
    do {                                                                                                                 \
        ptrdiff_t j = 0;                                                                                                 \
        const ptrdiff_t tail = n % LANES;                                                                                \
        for (; j + LANES <= n; j += LANES) { const FN(vec) v = FN(load)(x + j); FN(store)(y + j, EXPRESSION); }          \
        if (tail) { const FN(vec) v = LOAD_TAIL(x + j); STORE_TAIL(y + j, EXPRESSION); }                                 \
    } while (0)
#define EACH_VALUE(EXPRESSION) for (ptrdiff_t j = 0; j < n; j++) { const REAL v = x[j]; y[j] = EXPRESSION; } break
    switch (curve->kind) {
    case LSTMX_CURVE_SIGMOID: MAP(FN(sigmoid_of)(v)); break;
    case LSTMX_CURVE_TANH: MAP(FN(tanh_of)(v)); break;
    case LSTMX_CURVE_SCALED_TANH: MAP(FN(splat)(alpha) * FN(tanh_of)(FN(splat)(beta) * v)); break;
    case LSTMX_CURVE_ELU: MAP(FN(select)(FN(less)(v, FN(splat)(0)), FN(splat)(alpha) * FN(vexpm1)(v), v)); break;
    case LSTMX_CURVE_SOFTPLUS: MAP(FN(softplus_of)(v)); break;
    case LSTMX_CURVE_RELU: EACH_VALUE(v < 0 ? 0 : v);
    case LSTMX_CURVE_AFFINE: EACH_VALUE(alpha * v + beta);
    case LSTMX_CURVE_LEAKY_RELU: EACH_VALUE(v < 0 ? alpha * v : v);
    case LSTMX_CURVE_THRESHOLDED_RELU: EACH_VALUE(v <= alpha ? 0 : v);
    case LSTMX_CURVE_HARD_SIGMOID: MAP(FN(at_least)(FN(at_most)(FN(splat)(alpha) * v + FN(splat)(beta), 1), 0)); break;
    case LSTMX_CURVE_SOFTSIGN: EACH_VALUE(v / (1 + (v < 0 ? -v : v)));
    }
#undef MAP
#undef EACH_VALUE
}

/* What a curve's derivative needs beside the curve: between which of its values it is not clipped, or any for low = high = 0. */
typedef struct {
    const lstmx_curve *curve;
    REAL low, high;
} FN(slope);

static FN(slope) FN(slope_of)(const lstmx_curve *curve, double clip) {
    REAL ends[2] = {(REAL)-clip, (REAL)clip};
    if (!(clip > 0)) return (FN(slope)){curve, 0, 0};
    FN(curve_row)(curve, 2, ends, ends);
    return (FN(slope)){curve, ends[0] < ends[1] ? ends[0] : ends[1], ends[0] < ends[1] ? ends[1] : ends[0]};
}

/* d := d * curve'(x), from y = curve(x); 0 where x was clipped. */
static NOINLINE void FN(slope_row)(const FN(slope) *slope, ptrdiff_t n, const REAL *y, REAL *d) {
    const REAL alpha = (REAL)slope->curve->alpha, beta = (REAL)slope->curve->beta, low = slope->low, high = slope->high;
    const REAL inverse = alpha == 0 ? 0 : 1 / alpha;
#define EACH_VALUE(EXPRESSION) for (ptrdiff_t j = 0; j < n; j++) { const REAL v = y[j]; d[j] = d[j] * (EXPRESSION); } break
    switch (slope->curve->kind) {
    case LSTMX_CURVE_SIGMOID: EACH_VALUE(v * (1 - v));
    case LSTMX_CURVE_TANH: EACH_VALUE(1 - v * v);
    case LSTMX_CURVE_RELU: EACH_VALUE(v > 0 ? (REAL)1 : v * 0);   /* a NaN stays one */
    case LSTMX_CURVE_AFFINE: EACH_VALUE(alpha + v * 0);
    case LSTMX_CURVE_LEAKY_RELU: EACH_VALUE(v > 0 ? (REAL)1 : alpha + v * 0);
    case LSTMX_CURVE_THRESHOLDED_RELU: EACH_VALUE(v > 0 ? (REAL)1 : v * 0);
    case LSTMX_CURVE_SCALED_TANH: EACH_VALUE(beta * (alpha - v * v * inverse));
    case LSTMX_CURVE_HARD_SIGMOID: EACH_VALUE(v > 0 && v < 1 ? alpha : v * 0);
    case LSTMX_CURVE_ELU: EACH_VALUE(v > 0 ? (REAL)1 : v + alpha);
    case LSTMX_CURVE_SOFTSIGN: EACH_VALUE((1 - (v < 0 ? -v : v)) * (1 - (v < 0 ? -v : v)));
    case LSTMX_CURVE_SOFTPLUS: {
        const ptrdiff_t tail = n % LANES;
        ptrdiff_t j = 0;
        for (; j + LANES <= n; j += LANES) FN(store)(d + j, -FN(load)(d + j) * FN(vexpm1)(-FN(load)(y + j)));
        if (tail) STORE_TAIL(d + j, -LOAD_TAIL(d + j) * FN(vexpm1)(-LOAD_TAIL(y + j)));
        break;
    }
    }
#undef EACH_VALUE
    if (low < high)
        for (ptrdiff_t j = 0; j < n; j++) d[j] = low < y[j] && y[j] < high ? d[j] : d[j] * 0;
}

/* The sums of a norm: 64 virtual lanes, so that none waits for its last addition, whatever the vectors; then pairwise. */
enum { FN(WIDE) = 64 };
static REAL FN(fold_wide)(REAL *lane) {
    for (int width = FN(WIDE) / 2; width; width /= 2)
        for (int l = 0; l < width; l++) lane[l] = lane[l] + lane[l + width];
    return lane[0];
}
#define FOR_LANES(BODY)                                                                                                  \
    do {                                                                                                                 \
        ptrdiff_t first_ = 0;                                                                                            \
        for (; first_ + FN(WIDE) <= n; first_ += FN(WIDE))                                                               \
            for (int l = 0; l < FN(WIDE); l++) { const ptrdiff_t j = first_ + l; BODY }                                  \
        for (int l = 0; first_ + l < n; l++) { const ptrdiff_t j = first_ + l; BODY }                                    \
    } while (0)

/* unit := (x - mean) / deviation, y := unit * gain + bias (NULL: 0); returns 1 / deviation. x and y may be the same. */
static NOINLINE REAL FN(norm_row)(ptrdiff_t n, REAL epsilon, const REAL *x, const REAL *gain, const REAL *bias,
                                  REAL *restrict unit, REAL *y) {
    REAL sum[FN(WIDE)] = {0}, squares[FN(WIDE)] = {0};
    FOR_LANES(sum[l] = sum[l] + x[j];);
    const REAL mean = FN(fold_wide)(sum) / (REAL)n;
    FOR_LANES(const REAL u = x[j] - mean; unit[j] = u; squares[l] = squares[l] + u * u;);
    const REAL inverse = 1 / SQRT(FN(fold_wide)(squares) / (REAL)n + epsilon);
    for (ptrdiff_t j = 0; j < n; j++) {
        const REAL u = unit[j] * inverse;
        unit[j] = u;
        y[j] = bias ? u * gain[j] + bias[j] : u * gain[j];
    }
    return inverse;
}

/* The derivative: d goes from dL/dy to dL/dx, into `to`; unit becomes this row's share of the gain's gradient, and d_bias, if not
 * NULL, of the bias'. d and to may be the same. */
static NOINLINE void FN(norm_row_backward)(ptrdiff_t n, REAL inverse, const REAL *gain, REAL *restrict unit, REAL *restrict d_bias,
                                           const REAL *d, REAL *to, REAL *restrict scratch) {
    REAL sum[FN(WIDE)] = {0}, product[FN(WIDE)] = {0};
    FOR_LANES(const REAL s = d[j] * gain[j]; scratch[j] = s; sum[l] = sum[l] + s; product[l] = product[l] + s * unit[j];);
    const REAL mean = FN(fold_wide)(sum) / (REAL)n, along = FN(fold_wide)(product) / (REAL)n;
    if (d_bias) memcpy(d_bias, d, (size_t)n * sizeof(REAL));
    for (ptrdiff_t j = 0; j < n; j++) {
        const REAL dy = d[j], u = unit[j];
        unit[j] = dy * u;
        to[j] = (scratch[j] - mean - u * along) * inverse;
    }
}
#undef FOR_LANES

static void FN(cut_row)(ptrdiff_t n, double bound_, REAL *x) {
    const REAL bound = (REAL)bound_;
    if (bound_ > 0)
        for (ptrdiff_t j = 0; j < n; j++) x[j] = x[j] > bound ? bound : x[j] < -bound ? -bound : x[j];
}

/* old := zoneout's mix of the value before and the new one; each unit's mask (1 keeps the old) or, NULL, the rate. */
static void FN(zoneout_row)(ptrdiff_t n, double rate_, const REAL *mask, const REAL *new, REAL *old) {
    const REAL rate = (REAL)rate_;
    if (mask) for (ptrdiff_t j = 0; j < n; j++) old[j] = mask[j] != 0 ? old[j] : new[j];
    else for (ptrdiff_t j = 0; j < n; j++) old[j] = rate * old[j] + (1 - rate) * new[j];
}

/* Its derivative: d := the share of the new value, carry that of the one before; either may be the gradient of the mix. */
static void FN(zoneout_row_backward)(ptrdiff_t n, double rate_, const REAL *mask, const REAL *of_mix, REAL *d, REAL *carry) {
    const REAL rate = (REAL)rate_;
    for (ptrdiff_t j = 0; j < n; j++) {
        const REAL whole = of_mix[j], old = mask ? mask[j] : rate;
        d[j] = whole * (1 - old);
        carry[j] = whole * old;
    }
}

INLINE REAL *FN(extra_at)(const lstmx_layer *l, ptrdiff_t row, ptrdiff_t n) {
    return l->extra ? (REAL *)l->extra + (l->h_prev ? row : n) * l->extra_row : NULL;
}
#define VECTOR(name) ((const REAL *)l->vectors->name)
#define ROW_OF(p, width) (p ? (const REAL *)p + row * (width) : NULL)

/* What enters gate k (its s) to the activated gate: peephole p (-1: none) on `memory`, layer norm, clip, curve. */
static void FN(gate_row)(const lstmx_layer *l, int k, int p, const REAL *memory, REAL *extra, REAL *s) {
    const lstmx_cell *cell = l->cell;
    const ptrdiff_t H = l->hidden;
    if (p >= 0 && cell->peephole) {
        const REAL *w = VECTOR(peephole) + p * H;
        for (ptrdiff_t j = 0; j < H; j++) s[j] = s[j] + w[j] * memory[j];
    }
    if (cell->norm == LSTMX_TFLITE)
        extra[l->at->inverse + k] = FN(norm_row)(H, (REAL)cell->epsilon, s, VECTOR(ih_gain) + k * H, VECTOR(bias) ? VECTOR(bias) + k * H : NULL,
                                              extra + l->at->ih_gain + k * H, s);
    FN(cut_row)(H, cell->clip, s);
    FN(curve_row)(k == cell->gates - 2 ? &cell->candidate : &cell->gate, H, s, s);
}

/* One row of a general cell: z goes from the sums to the activated gates, c to this step's; `shown` := what the output gate
 * lets through. */
static void FN(general_forward)(const lstmx_layer *l, ptrdiff_t row, ptrdiff_t n, REAL *z, REAL *c, REAL *shown) {
    const lstmx_cell *cell = l->cell;
    const ptrdiff_t H = l->hidden, width = l->width;
    const REAL epsilon = (REAL)cell->epsilon, *bias = VECTOR(bias);
    const int K = cell->gates;
    REAL *extra = FN(extra_at)(l, row, n), *m = (REAL *)l->scratch + n * l->at->scratch_width, *seen = m + H;
    REAL *i = z, *f = z + H, *g = z + (K - 2) * H, *o = z + (K - 1) * H;
    if (cell->norm == LSTMX_HASTE || cell->norm == LSTMX_FASTRNN) {
        REAL *zh = extra + l->at->hh;
        extra[l->at->inverse] = FN(norm_row)(width, epsilon, z, VECTOR(ih_gain), VECTOR(ih_bias), extra + l->at->ih_gain, z);
        extra[l->at->inverse + 1] = FN(norm_row)(width, epsilon, zh, VECTOR(hh_gain), VECTOR(hh_bias), extra + l->at->hh_gain, zh);
        for (ptrdiff_t j = 0; j < width; j++) z[j] = z[j] + zh[j];
    }
    if (bias && cell->norm != LSTMX_TFLITE)
        for (ptrdiff_t j = 0; j < width; j++) z[j] = z[j] + bias[j];
    FN(gate_row)(l, 0, 0, c, extra, i);
    if (K == 4) FN(gate_row)(l, 1, 1, c, extra, f);
    else
        for (ptrdiff_t j = 0; j < H; j++) seen[j] = 1 - i[j];
    if (K == 3) f = seen;
    FN(gate_row)(l, K - 2, -1, NULL, extra, g);
    for (ptrdiff_t j = 0; j < H; j++) m[j] = f[j] * c[j] + i[j] * g[j];
    if (cell->norm == LSTMX_FASTRNN)
        extra[l->at->inverse + 4] = FN(norm_row)(H, epsilon, m, VECTOR(c_gain), VECTOR(c_bias), extra + l->at->c_gain, m);
    FN(cut_row)(H, cell->cell_clip, m);
    FN(gate_row)(l, K - 1, K - 2, m, extra, o);
    if (cell->norm == LSTMX_HASTE)
        extra[l->at->inverse + 4] = FN(norm_row)(H, epsilon, m, VECTOR(c_gain), VECTOR(c_bias), extra + l->at->c_gain, seen);
    else memcpy(seen, m, (size_t)H * sizeof(REAL));
    FN(curve_row)(&cell->output, H, seen, seen);
    for (ptrdiff_t j = 0; j < H; j++) shown[j] = o[j] * seen[j];
    if (cell->zoneout_c > 0) FN(zoneout_row)(H, cell->zoneout_c, ROW_OF(l->zoneout_c, H), m, c);
    else memcpy(c, m, (size_t)H * sizeof(REAL));
}

/* From d = dL/d(gate k) to what entered it before peephole and layer norm; adds the peephole's share to d_memory. */
static void FN(gate_row_backward)(const lstmx_layer *l, int k, int p, const FN(slope) *slope, const REAL *memory, REAL *extra,
                                  const REAL *gate, REAL *d, REAL *d_memory, REAL *scratch) {
    const ptrdiff_t H = l->hidden;
    FN(slope_row)(slope, H, gate, d);
    if (l->cell->norm == LSTMX_TFLITE)
        FN(norm_row_backward)(H, extra[l->at->inverse + k], VECTOR(ih_gain) + k * H, extra + l->at->ih_gain + k * H,
                              VECTOR(bias) ? extra + l->at->bias + k * H : NULL, d, d, scratch);
    if (p >= 0 && l->cell->peephole) {
        const REAL *w = VECTOR(peephole) + p * H;
        REAL *dw = extra + l->at->peephole + p * H;
        for (ptrdiff_t j = 0; j < H; j++) {
            dw[j] = d[j] * memory[j];
            d_memory[j] = d_memory[j] + d[j] * w[j];
        }
    }
}

/* The derivative of general_forward. z goes from the activated gates to dz (of W_ih x; that of W_hh h to extra where they
 * differ), dc from what reaches c_t to what the step passes on; d_shown is read. */
static void FN(general_backward)(const lstmx_layer *l, ptrdiff_t row, ptrdiff_t n, REAL *z, const REAL *c_prev, const REAL *d_shown, REAL *dc,
                                 REAL *dc_all) {
    const lstmx_cell *cell = l->cell;
    const ptrdiff_t H = l->hidden, width = l->width;
    const int K = cell->gates;
    REAL *extra = FN(extra_at)(l, row, n), *m = (REAL *)l->scratch + n * l->at->scratch_width, *seen = m + H, *dm = seen + H;
    REAL *d = dm + H, *work = d + H;
    REAL *i = z, *f = z + H, *g = z + (K - 2) * H, *o = z + (K - 1) * H;
    REAL *c_unit = extra + l->at->c_gain, *c_bias = VECTOR(c_bias) ? extra + l->at->c_bias : NULL;
    const FN(slope) gate = FN(slope_of)(&cell->gate, cell->clip), candidate = FN(slope_of)(&cell->candidate, cell->clip);
    const FN(slope) output = FN(slope_of)(&cell->output, 0);
    REAL *before = work + width;   /* the memory before it was cut, then the forget gate */
    /* The memory again, as forward had it. */
    if (K == 4) for (ptrdiff_t j = 0; j < H; j++) m[j] = f[j] * c_prev[j] + i[j] * g[j];
    else for (ptrdiff_t j = 0; j < H; j++) m[j] = (1 - i[j]) * c_prev[j] + i[j] * g[j];
    if (cell->norm == LSTMX_FASTRNN) {
        const REAL *gain = VECTOR(c_gain), *bias = VECTOR(c_bias);
        for (ptrdiff_t j = 0; j < H; j++) m[j] = c_unit[j] * gain[j];
        if (bias) for (ptrdiff_t j = 0; j < H; j++) m[j] = m[j] + bias[j];
    }
    memcpy(before, m, (size_t)H * sizeof(REAL));
    FN(cut_row)(H, cell->cell_clip, m);
    memcpy(seen, m, (size_t)H * sizeof(REAL));
    if (cell->norm == LSTMX_HASTE) {
        const REAL *gain = VECTOR(c_gain), *bias = VECTOR(c_bias);
        for (ptrdiff_t j = 0; j < H; j++) seen[j] = c_unit[j] * gain[j];
        if (bias) for (ptrdiff_t j = 0; j < H; j++) seen[j] = seen[j] + bias[j];
    }
    FN(curve_row)(&cell->output, H, seen, seen);
    /* h = o * curve(shown) */
    for (ptrdiff_t j = 0; j < H; j++) {
        d[j] = d_shown[j] * seen[j];   /* of o */
        dm[j] = d_shown[j] * o[j];
    }
    FN(slope_row)(&output, H, seen, dm);
    if (cell->norm == LSTMX_HASTE)
        FN(norm_row_backward)(H, extra[l->at->inverse + 4], VECTOR(c_gain), c_unit, c_bias, dm, dm, work);
    /* c_t, and the output gate, which sees the memory */
    if (cell->zoneout_c > 0) {
        if (dc_all) memcpy(dc_all, dc, (size_t)H * sizeof(REAL));
        FN(zoneout_row_backward)(H, cell->zoneout_c, ROW_OF(l->zoneout_c, H), dc, work, dc);   /* dc: c_{t-1}'s share */
        for (ptrdiff_t j = 0; j < H; j++) dm[j] = dm[j] + work[j];
    } else
        for (ptrdiff_t j = 0; j < H; j++) { dm[j] = dm[j] + dc[j]; dc[j] = 0; }
    FN(gate_row_backward)(l, K - 1, K - 2, &gate, m, extra, o, d, dm, work);
    memcpy(o, d, (size_t)H * sizeof(REAL));
    if (dc_all && !(cell->zoneout_c > 0)) memcpy(dc_all, dm, (size_t)H * sizeof(REAL));
    if (cell->cell_clip > 0) {
        const REAL bound = (REAL)cell->cell_clip;
        for (ptrdiff_t j = 0; j < H; j++) dm[j] = before[j] > -bound && before[j] < bound ? dm[j] : dm[j] * 0;
    }
    if (cell->norm == LSTMX_FASTRNN)
        FN(norm_row_backward)(H, extra[l->at->inverse + 4], VECTOR(c_gain), c_unit, c_bias, dm, dm, work);
    /* m = f * c_{t-1} + i * g */
    for (ptrdiff_t j = 0; j < H; j++) {
        before[j] = K == 4 ? f[j] : 1 - i[j];
        dc[j] = dc[j] + dm[j] * before[j];
    }
    for (ptrdiff_t j = 0; j < H; j++) d[j] = dm[j] * i[j];
    FN(gate_row_backward)(l, K - 2, -1, &candidate, NULL, extra, g, d, NULL, work);
    if (K == 4) {
        for (ptrdiff_t j = 0; j < H; j++) { m[j] = dm[j] * g[j]; seen[j] = dm[j] * c_prev[j]; }
        FN(gate_row_backward)(l, 1, 1, &gate, c_prev, extra, f, seen, dc, work);
        memcpy(f, seen, (size_t)H * sizeof(REAL));
    } else
        for (ptrdiff_t j = 0; j < H; j++) m[j] = dm[j] * (g[j] - c_prev[j]);
    FN(gate_row_backward)(l, 0, 0, &gate, c_prev, extra, i, m, dc, work);
    memcpy(i, m, (size_t)H * sizeof(REAL));
    memcpy(g, d, (size_t)H * sizeof(REAL));
    if (cell->norm == LSTMX_HASTE || cell->norm == LSTMX_FASTRNN) {
        REAL *bias = VECTOR(bias) ? extra + l->at->bias : VECTOR(ih_bias) ? extra + l->at->ih_bias : NULL;
        FN(norm_row_backward)(width, extra[l->at->inverse + 1], VECTOR(hh_gain), extra + l->at->hh_gain,
                              VECTOR(hh_bias) ? extra + l->at->hh_bias : NULL, z, extra + l->at->hh, work);
        FN(norm_row_backward)(width, extra[l->at->inverse], VECTOR(ih_gain), extra + l->at->ih_gain, bias, z, z, work);
    }
}

/* sLSTM (Beck and others 2024). What enters gates i, f, z, o; the state c has three blocks: c, n, m.
 *
 *     l_f = log sigmoid(a_f)   m' = max(a_i, m + l_f), a_i where n = 0   i = exp(a_i - m')   f = exp(m + l_f - m'), 0 where n = 0
 *     c' = f c + i tanh(a_z)   n' = f n + i   h = sigmoid(a_o) c' / n'
 *
 * The tape has a_i and a_f as they are: i and f come from them again. */
typedef struct {
    FN(vec) i, f, c, n, m;
    FN(ivec) entered;   /* where m' is a_i */
    FN(ivec) fresh;
} FN(slstm);

INLINE FN(slstm) FN(slstm_memory)(FN(vec) a_i, FN(vec) a_f, FN(vec) z, FN(vec) c, FN(vec) n, FN(vec) m) {
    const FN(vec) none = FN(splat)(0), kept = m - FN(softplus_of)(-a_f);
    FN(slstm) s;
    s.fresh = ~(FN(less)(n, none) | FN(less)(none, n));
    s.entered = s.fresh | ~FN(less)(a_i, kept);
    s.m = FN(select)(s.entered, a_i, kept);
    s.i = FN(vexp)(a_i - s.m);
    s.f = FN(select)(s.fresh, none, FN(vexp)(kept - s.m));
    s.c = FN(vfma)(s.f, c, s.i * z);
    s.n = FN(vfma)(s.f, n, s.i);
    return s;
}

#define LOAD(p) (part ? FN(load_part)(p, tail) : FN(load)(p))
#define STORE(p, v) do { if (part) FN(store_part)(p, v, tail); else FN(store)(p, v); } while (0)
INLINE void FN(slstm_units)(const int part, ptrdiff_t tail, ptrdiff_t H, const REAL *bias, REAL *z, REAL *c, REAL *h) {
    FN(vec) a[4] = {LOAD(z), LOAD(z + H), LOAD(z + 2 * H), LOAD(z + 3 * H)};
    if (bias)
        UNROLL for (int k = 0; k < 4; k++) a[k] = a[k] + LOAD(bias + k * H);
    a[2] = FN(tanh_of)(a[2]);
    a[3] = FN(sigmoid_of)(a[3]);
    const FN(slstm) s = FN(slstm_memory)(a[0], a[1], a[2], LOAD(c), LOAD(c + H), LOAD(c + 2 * H));
    const FN(vec) h_t = a[3] * (s.c / s.n);   /* lanes beyond a tail are 0 / 1 */
    UNROLL for (int k = 0; k < 4; k++) STORE(z + k * H, a[k]);
    STORE(c, s.c);
    STORE(c + H, s.n);
    STORE(c + 2 * H, s.m);
    STORE(h, h_t);
}

INLINE void FN(slstm_units_backward)(const int part, ptrdiff_t tail, ptrdiff_t H, REAL *z, const REAL *c_prev, const REAL *dh,
                                     REAL *dc, REAL *dc_all) {
    const FN(vec) one = FN(splat)(1), none = FN(splat)(0);
    const FN(vec) a_f = LOAD(z + H), g = LOAD(z + 2 * H), o = LOAD(z + 3 * H), c = LOAD(c_prev), n = LOAD(c_prev + H), dh_t = LOAD(dh);
    const FN(slstm) s = FN(slstm_memory)(LOAD(z), a_f, g, c, n, LOAD(c_prev + 2 * H));
    const FN(vec) ratio = s.c / s.n, share = dh_t * o / s.n;
    const FN(vec) dc_t = LOAD(dc) + share, dn = LOAD(dc + H) - share * ratio;
    const FN(vec) di = s.i * FN(vfma)(dc_t, g, dn), df = s.f * FN(vfma)(dc_t, c, dn * n);   /* of what they are exponentials of */
    const FN(vec) dm_whole = LOAD(dc + 2 * H);
    const FN(vec) dm = dm_whole - di - df;   /* of m', which both subtract */
    const FN(vec) kept = df + FN(select)(s.entered, none, dm);   /* of m + l_f */
    if (dc_all) {
        STORE(dc_all, dc_t);
        STORE(dc_all + H, dn);
        STORE(dc_all + 2 * H, dm_whole);
    }
    STORE(z, di + FN(select)(s.entered, dm, none));
    STORE(z + H, kept * FN(sigmoid_of)(-a_f));
    STORE(z + 2 * H, dc_t * s.i * (one - g * g));
    STORE(z + 3 * H, dh_t * ratio * o * (one - o));
    STORE(dc, dc_t * s.f);
    STORE(dc + H, dn * s.f);
    STORE(dc + 2 * H, kept);
}
#undef LOAD
#undef STORE

static NOINLINE void FN(slstm_forward)(ptrdiff_t H, const REAL *bias, REAL *z, REAL *c, REAL *h) {
    ptrdiff_t j = 0;
    for (; j + LANES <= H; j += LANES) FN(slstm_units)(0, 0, H, bias ? bias + j : NULL, z + j, c + j, h + j);
    if (j < H) FN(slstm_units)(1, H - j, H, bias ? bias + j : NULL, z + j, c + j, h + j);
}

static NOINLINE void FN(slstm_backward)(ptrdiff_t H, REAL *z, const REAL *c_prev, const REAL *dh, REAL *dc, REAL *dc_all) {
    ptrdiff_t j = 0;
    for (; j + LANES <= H; j += LANES)
        FN(slstm_units_backward)(0, 0, H, z + j, c_prev + j, dh + j, dc + j, dc_all ? dc_all + j : NULL);
    if (j < H) FN(slstm_units_backward)(1, H - j, H, z + j, c_prev + j, dh + j, dc + j, dc_all ? dc_all + j : NULL);
}
