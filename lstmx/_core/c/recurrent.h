/* The steps of a layer: what the time loop of loop.pyx calls for a range of steps, rows and units. core.h describes lstmx_layer.
 * Expects tile.h, pack.h, cell.h and family.h. */

INLINE ptrdiff_t FN(first_row)(const lstmx_layer *l, ptrdiff_t t) { return l->offsets ? l->offsets[t] : t * l->batch; }
INLINE ptrdiff_t FN(rows_at)(const lstmx_layer *l, ptrdiff_t t) {
    return t < 0 || t >= l->steps ? 0 : l->offsets ? l->offsets[t + 1] - l->offsets[t] : l->batch;
}
INLINE ptrdiff_t FN(whole_row)(const lstmx_layer *l, ptrdiff_t t) { return l->whole ? l->whole[t] : t * l->whole_batch; }
INLINE const REAL *FN(x_at)(const lstmx_layer *l, ptrdiff_t t, ptrdiff_t n) {
    return (const REAL *)l->x + (l->offsets ? l->whole[t] * l->x_row : t * l->x_step) + n * l->x_row;
}
INLINE REAL *FN(y_at)(const lstmx_layer *l, ptrdiff_t t, ptrdiff_t n) {
    return (REAL *)l->y + (l->offsets ? l->whole[t] * l->y_row : t * l->y_step) + n * l->y_row;
}
INLINE const REAL *FN(dy_at)(const lstmx_layer *l, ptrdiff_t t, ptrdiff_t n) {
    if (!l->dy) return NULL;
    return (const REAL *)l->dy + (l->offsets ? l->whole[t] * l->dy_row : t * l->dy_step) + n * l->dy_row;
}
INLINE ptrdiff_t FN(lanes_of)(ptrdiff_t H, ptrdiff_t panel) { return (panel + 1) * LANES <= H ? LANES : FN(tail_lanes)(H); }

/* b + W_ih x for the steps t0..t1, rows r0..r1 and panels p0..p1, into row (t - t0) N + n of `sums`;
 * for windows, which share it, into row t - t0 + n - r0. */
static void FN(input_sums)(const lstmx_layer *l, ptrdiff_t t0, ptrdiff_t t1, ptrdiff_t r0, ptrdiff_t r1, ptrdiff_t p0,
                           ptrdiff_t p1, void *sums) {
    const ptrdiff_t H = l->hidden, I = l->inputs, width = FN(gate_width)(H);
    /* A panel is read once for a group of rows, so the groups are as large as possible: all rows of the block if one
     * stride leads through them (`whole`), else all steps of one sequence (`along`), else all rows of one step. */
    const int whole = l->windows || (r0 == 0 && r1 >= l->batch && !l->offsets && l->x_step == l->batch * l->x_row);
    const int along = !l->offsets && r1 - r0 < t1 - t0;
    const ptrdiff_t outer = whole ? 1 : along ? r1 - r0 : t1 - t0;
    for (ptrdiff_t p = p0; p < p1; p++) {
        const ptrdiff_t lanes = FN(lanes_of)(H, p), at = p * 4 * LANES;
        for (ptrdiff_t k = 0; k < outer; k++) {
            const ptrdiff_t t = whole || along ? t0 : t0 + k, n = along && !whole ? r0 + k : r0;
            const ptrdiff_t count = l->windows ? t1 - t0 + r1 - r0 - 1 : whole ? (t1 - t0) * l->batch
                                  : along ? t1 - t0 : (r1 < FN(rows_at)(l, t) ? r1 : FN(rows_at)(l, t)) - r0;
            const ptrdiff_t a_row = along && !whole ? l->x_step : l->x_row;
            const ptrdiff_t z_row = (along && !whole ? l->batch : 1) * width;
            REAL *z = (REAL *)sums + (l->windows ? 0 : (t - t0) * l->batch + n) * width + at;
            for (ptrdiff_t r = 0; r < count; r += CHUNK)
                FN(sum_blocks)((int)(4 * lanes / LANES), count - r < CHUNK ? count - r : CHUNK,
                               (FN(start)){(const REAL *)l->bias + at, 0},
                               &(FN(operand)){FN(x_at)(l, t, n) + r * a_row, a_row, 1, (const REAL *)l->w_ih + at * I,
                                             4 * lanes, I, 0, NULL, {NULL, 0}},
                               z + r * z_row, z_row);
        }
    }
}

/* Where the results of M cells go that are computed together: rows of one panel, or panels of one row. Each array has its
 * own distance from one cell to the next. */
typedef struct {
    const REAL *before;                      /* c_{t-1} of the first cell: in training its row of c_prev, else c */
    REAL *c, *y, *gates, *c_next, *h_next;   /* the last three are NULL in inference */
    ptrdiff_t before_step, c_step, y_step, gates_step, h_step;   /* c_next has that of before */
    ptrdiff_t next;                          /* how many of them have a next step; c_next and h_next are its rows of c_prev, h_prev */
    ptrdiff_t ahead;                         /* packed rows from those of this step to those of the next; 0 where there is none */
} FN(results);

INLINE void FN(advance)(FN(results) *o, ptrdiff_t count) {
    o->before += count * o->before_step;
    o->c += count * o->c_step;
    o->y += count * o->y_step;
    o->next -= count;
    if (o->gates) {
        o->gates += count * o->gates_step;
        o->c_next += count * o->before_step;
        o->h_next += count * o->h_step;
    }
}

/* The end of a tile in two parts, of M vectors of cells. First from their sums z to the new memory c and the output gate; then to
 * h. Each is a chain of operations that wait for each other, so one's first part is done beside another's second.
 * `part`, `tail`: as of load_units; z has `lanes` sums of each gate of a row. `own_h`, or NULL, is a second copy of h, which the next
 * step reads. It and c then have room for whole vectors, so that no masked store is needed: a load right after one has to wait until
 * it has reached the cache. `first`: the second part is for the cells that lie so many before (below 0) those of `o`. */
enum { FN(ALL) = 4 };   /* rows of a vector, at most */
#define LOAD(p, step) FN(load_units)(part, tail, p, step)
#define STORE(p, step, v) FN(store_units)(part, tail, p, step, 0, FN(ALL), v)
INLINE void FN(finish_memory)(const int M, const int part, ptrdiff_t tail, ptrdiff_t H, const REAL *z, ptrdiff_t z_step,
                              ptrdiff_t lanes, const FN(results) *o, const int own_h, FN(vec) *c, FN(vec) *shown) {
    FN(vec) a[4 * 2];
    if (part < 2) {
        EACH a[m] = FN(load)(z + m * z_step);
        EACH a[M + m] = FN(load)(z + m * z_step + lanes);
        EACH a[2 * M + m] = FN(load)(z + m * z_step + 3 * lanes);
        EACH a[3 * M + m] = FN(load)(z + m * z_step + 2 * lanes);
    } else {
        FN(vec) i_f[4], g_o[4];
        UNROLL for (int r = 0; r < part; r++) i_f[r] = FN(load)(z + r * z_step);
        UNROLL for (int r = 0; r < part; r++) g_o[r] = part == 2 ? FN(load)(z + r * z_step + LANES) : i_f[r];
        FN(turn_parts)(part, i_f);
        FN(turn_parts)(part, g_o);
        a[0] = i_f[0], a[1] = i_f[1], a[2] = g_o[part - 1], a[3] = g_o[part - 2];
    }
    EACH c[m] = own_h ? FN(load)(o->before + m * o->before_step) : LOAD(o->before + m * o->before_step, o->before_step);
    FN(cell_memory)(M, a, c);
    EACH shown[m] = a[2 * M + m];
    if (own_h) EACH FN(store)(o->c + m * o->c_step, c[m]);
    if (!o->gates) {
        if (!own_h) EACH STORE(o->c + m * o->c_step, o->c_step, c[m]);
        return;
    }
    EACH {
        REAL *gates = o->gates + m * o->gates_step, *next = o->c_next + m * o->before_step;
        STORE(gates, o->gates_step, a[m]);
        STORE(gates + H, o->gates_step, a[M + m]);
        STORE(gates + 2 * H, o->gates_step, a[3 * M + m]);
        STORE(gates + 3 * H, o->gates_step, a[2 * M + m]);
        FN(store_units)(part, tail, next, o->before_step, 0, o->next - m, c[m]);
        if (!own_h) FN(store_units)(part, tail, o->c + m * o->c_step, o->c_step, o->next - m, FN(ALL), c[m]);
        if (o->ahead)
            UNROLL for (int r = 0; r < (part ? part : 1); r++)
                FN(fetch_units)(gates + (r + o->ahead) * o->gates_step, H, next + (r + o->ahead) * o->before_step);
    }
}

INLINE void FN(finish_output)(const int M, const int part, ptrdiff_t tail, const FN(results) *o, ptrdiff_t first, REAL *own_h,
                              FN(vec) *c, const FN(vec) *shown) {
    FN(cell_output)(M, c, shown);
    EACH {
        const ptrdiff_t n = first + m;
        if (own_h) FN(store)(own_h + m * LANES, c[m]);
        STORE(o->y + n * o->y_step, o->y_step, c[m]);
        if (o->gates) FN(store_units)(part, tail, o->h_next + n * o->h_step, o->h_step, 0, o->next - n, c[m]);
        if (o->ahead)
            UNROLL for (int r = 0; r < (part ? part : 1); r++) PREFETCH(o->h_next + (n + r + o->ahead) * o->h_step);
    }
}
#undef LOAD
#undef STORE

/* Both parts for `count` pairs of cells: whole vectors of rows, or of panels, one after the other. `own_h` as above. */
INLINE void FN(finish_pairs)(ptrdiff_t count, ptrdiff_t H, const REAL *z, ptrdiff_t z_step, FN(results) *o, REAL *own_h) {
    FN(vec) c[2], shown[2], next_c[2], next_shown[2];
    if (count <= 0) return;
    FN(finish_memory)(2, 0, 0, H, z, z_step, LANES, o, own_h != NULL, c, shown);
    while (FN(advance)(o, 2), --count > 0) {
        z += 2 * z_step;
        FN(finish_memory)(2, 0, 0, H, z, z_step, LANES, o, own_h != NULL, next_c, next_shown);
        FN(finish_output)(2, 0, 0, o, -2, own_h, c, shown);
        if (own_h) own_h += 2 * LANES;
        c[0] = next_c[0], c[1] = next_c[1], shown[0] = next_shown[0], shown[1] = next_shown[1];
    }
    FN(finish_output)(2, 0, 0, o, -2, own_h, c, shown);
}

/* Both parts of a vector of cells. */
INLINE void FN(finish_one)(const int part, ptrdiff_t tail, ptrdiff_t H, const REAL *z, ptrdiff_t z_step, ptrdiff_t lanes,
                           FN(results) *o, REAL *own_h) {
    FN(vec) c[2], shown[2];
    FN(finish_memory)(1, part, tail, H, z, z_step, lanes, o, own_h != NULL, c, shown);
    FN(finish_output)(1, part, tail, o, 0, own_h, c, shown);
    FN(advance)(o, part ? part : 1);
}

/* The units of panel p for `rows` rows, the first of which is row r of `out`. (Number by number: a copy of the whole would wait for
 * all stores before it; see sum_blocks.) */
static NOINLINE void FN(finish_panel)(ptrdiff_t rows, ptrdiff_t H, ptrdiff_t p, const REAL *z, ptrdiff_t zr,
                                      const FN(results) *out, ptrdiff_t r) {
    const ptrdiff_t j = p * LANES, tail = H - j, lanes = tail < LANES ? FN(tail_lanes)(H) : LANES;
    const int keep = out->gates != NULL;
    FN(results) o = {out->before + r * out->before_step + j, out->c + r * out->c_step + j, out->y + r * out->y_step + j,
                     keep ? out->gates + r * out->gates_step + j : NULL, keep ? out->c_next + r * out->before_step + j : NULL,
                     keep ? out->h_next + r * out->h_step + j : NULL,
                     out->before_step, out->c_step, out->y_step, out->gates_step, out->h_step, out->next - r, out->ahead};
    if (tail >= LANES) {
        FN(finish_pairs)(rows / 2, H, z, zr, &o, NULL);
        if (rows % 2) FN(finish_one)(0, 0, H, z + (rows - 1) * zr, zr, LANES, &o, NULL);
        return;
    }
    if (lanes * 4 == LANES)
        for (; rows >= 4; rows -= 4, z += 4 * zr) FN(finish_one)(4, tail, H, z, zr, lanes, &o, NULL);
    if (lanes * 2 == LANES)
        for (; rows >= 2; rows -= 2, z += 2 * zr) FN(finish_one)(2, tail, H, z, zr, lanes, &o, NULL);
    for (; rows; rows--, z += zr) FN(finish_one)(1, tail, H, z, zr, lanes, &o, NULL);
}

/* Where the sums of row n at step t lie, `sums` beginning with step t0. */
INLINE REAL *FN(sums_at)(const lstmx_layer *l, const void *sums, ptrdiff_t t, ptrdiff_t t0, ptrdiff_t n, ptrdiff_t r0) {
    const ptrdiff_t row = l->windows ? t - t0 + n - r0 : (t - t0) * l->batch + n;
    return sums ? (REAL *)sums + row * FN(gate_width)(l->hidden) : NULL;
}

/* Rows of one step whose previous outputs are h (rows, H): products, activations, new state. `sums` holds b + W_ih x (at the
 * first row), or is NULL, then x joins here. `back` is the order of the panels. */
static void FN(step_rows)(const lstmx_layer *l, ptrdiff_t rows, ptrdiff_t p0, ptrdiff_t p1, const REAL *x, const REAL *h,
                          ptrdiff_t hr, REAL *sums, const FN(results) *o, const int back) {
    ALIGNED REAL scratch[(CHUNK * 4 + 1) * LANES];
    const ptrdiff_t H = l->hidden, I = l->inputs, width = FN(gate_width)(H);
    const REAL *w_ih = l->w_ih, *w_hh = l->w_hh, *bias = l->bias;
    const int far = 4 * H * (H + (sums ? 0 : I)) * (ptrdiff_t)sizeof(REAL) > SECOND_CACHE;
    const int own = sums && !l->windows;   /* what windows share may not be added to */
    const ptrdiff_t together = rows == 1 ? 2 : 1, all = (p1 - p0 + together - 1) / together;
    for (ptrdiff_t k = 0; k < all; k++)   /* a panel serves all rows before the next one is fetched */
    for (ptrdiff_t p = p0 + together * (back ? all - 1 - k : k), end = p + together < p1 ? p + together : p1; p < end; p++) {
        const ptrdiff_t lanes = FN(lanes_of)(H, p), at = p * 4 * LANES, zr = own ? width : 4 * LANES;
        const int C = (int)(4 * lanes / LANES);
        for (ptrdiff_t r = 0; r < rows; r += CHUNK) {
            const ptrdiff_t count = rows - r < CHUNK ? rows - r : CHUNK;
            REAL *z = own ? sums + r * width + at : scratch;
            FN(operand) px = {x + r * l->x_row, l->x_row, 1, w_ih + at * I, 4 * lanes, I, far, NULL, {NULL, 0}};
            FN(operand) ph = {h + r * hr, hr, 1, w_hh + at * H, 4 * lanes, H, far, NULL, {NULL, 0}};
            FN(start) start = sums ? (FN(start)){sums + r * width + at, width} : (FN(start)){bias + at, 0};
            if (rows == 1 && p + 1 < p1 && (p + 2) * LANES <= H) {   /* two panels side by side */
                if (!sums) {
                    FN(pair_panels)(start.from, &px, 4 * LANES * I, z);
                    start.from = z;
                }
                FN(pair_panels)(start.from, &ph, 4 * LANES * H, z);
                FN(finish_panel)(1, H, p, z, zr, o, 0);
                FN(finish_panel)(1, H, ++p, z + 4 * LANES, zr, o, 0);
            } else {
                if (!sums) {
                    FN(sum_blocks)(C, count, start, &px, z, zr);
                    start = (FN(start)){z, zr};
                }
                FN(sum_blocks)(C, count, start, &ph, z, zr);
                FN(finish_panel)(count, H, p, z, zr, o, r);
            }
        }
    }
}

/* Sums of one row, one chain each, for F vectors of whole panels (4 or 8) and T of the last, narrower one (1, 2 or 4), all
 * side by side: acc += w a for K terms. The second panel lies `next` behind w, the narrow one at `narrow`. */
INLINE void FN(short_chain)(const int F, const int T, FN(vec) *acc, ptrdiff_t K, const REAL *a, const REAL *w, ptrdiff_t next,
                            const REAL *narrow) {
    for (ptrdiff_t k = 0; k < K; k++, w += 4 * LANES, narrow += T * LANES) {
        const FN(vec) v = FN(splat)(a[k]);
        UNROLL for (int c = 0; c < F; c++) acc[c] = FN(vfma)(v, FN(load)(w + c / 4 * next + c % 4 * LANES), acc[c]);
        UNROLL for (int c = 0; c < T; c++) acc[F + c] = FN(vfma)(v, FN(load)(narrow + c * LANES), acc[F + c]);
    }
}

/* The sums of F vectors of whole panels and T of the last, narrower one, from vector `at` on, into z. */
INLINE void FN(short_sums)(const int F, const int T, const lstmx_layer *l, ptrdiff_t at, const REAL *x, const REAL *h,
                           const REAL *sums, REAL *z) {
    const ptrdiff_t H = l->hidden, I = sums ? 0 : l->inputs;
    const REAL *w_ih = (const REAL *)l->w_ih + at * I, *w_hh = (const REAL *)l->w_hh + at * H, *bias = l->bias;
    FN(vec) acc[12], before[12];
    UNROLL for (int c = 0; c < F + T; c++) before[c] = acc[c] = FN(splat)(0);
    FN(short_chain)(F, T, before, I, x, w_ih, 4 * LANES * I, w_ih + F * LANES * I);
    UNROLL for (int c = 0; c < F + T; c++)
        before[c] = sums ? FN(load)(sums + at + c * LANES) : FN(load)(bias + at + c * LANES) + before[c];
    FN(short_chain)(F, T, acc, H, h, w_hh, 4 * LANES * H, w_hh + F * LANES * H);
    UNROLL for (int c = 0; c < F + T; c++) FN(store)(z + at + c * LANES, before[c] + acc[c]);
}

/* The same for a last panel of `lanes` lanes, whose four gates share 1, 2 or 4 vectors. */
INLINE void FN(short_sums_with_tail)(const int F, ptrdiff_t lanes, const lstmx_layer *l, ptrdiff_t at, const REAL *x,
                                     const REAL *h, const REAL *sums, REAL *z) {
    if (LANES >= 4 && lanes * 4 == LANES) FN(short_sums)(F, 1, l, at, x, h, sums, z);
    else if (lanes * 2 == LANES) FN(short_sums)(F, 2, l, at, x, h, sums, z);
    else FN(short_sums)(F, 4, l, at, x, h, sums, z);
}

/* As step_rows for one row, H <= TERMS and, if x joins here, I <= TERMS: nothing but the chains, all panels' before the first
 * activation. h goes from the last output to this one. */
INLINE void FN(step_short)(const lstmx_layer *l, const REAL *x, REAL *h, const REAL *sums, FN(results) *o, const int back) {
    ALIGNED REAL z[4 * TERMS + 5 * LANES];
    const ptrdiff_t H = l->hidden, full = H / LANES, tail = H % LANES, lanes = tail ? FN(tail_lanes)(H) : 0;
    const ptrdiff_t pairs = (full - (tail != 0)) / 2, at = pairs * 8 * LANES;
    for (ptrdiff_t k = 0; k <= pairs; k++) {
        const ptrdiff_t pair = back ? pairs - k : k;
        if (pair < pairs) FN(short_sums)(8, 0, l, pair * 8 * LANES, x, h, sums, z);   /* else what is left: */
        else if (!tail) { if (full % 2) FN(short_sums)(4, 0, l, at, x, h, sums, z); }
        else if (full - 2 * pairs == 2) FN(short_sums_with_tail)(8, lanes, l, at, x, h, sums, z);
        else if (full - 2 * pairs == 1) FN(short_sums_with_tail)(4, lanes, l, at, x, h, sums, z);
        else FN(short_sums_with_tail)(0, lanes, l, at, x, h, sums, z);
    }
    FN(finish_pairs)(full / 2, H, z, 4 * LANES, o, h);
    if (full % 2) FN(finish_one)(0, 0, H, z + (full - 1) * 4 * LANES, 0, LANES, o, h + (full - 1) * LANES);
    if (tail) FN(finish_one)(1, tail, H, z + full * 4 * LANES, 0, lanes, o, h + full * LANES);
}

/* Every other step goes through the panels backwards, so that it begins with the weights that the step before has left in a cache
 * too small for all of them. This is how the next step of a layer goes in this thread: a habit, on which no result depends. */
static THREAD_LOCAL unsigned char FN(ways)[64];
INLINE unsigned char *FN(way_of)(const lstmx_layer *l) {
    return &FN(ways)[(uint32_t)((uintptr_t)l->w_hh / CACHE_LINE) * UINT32_C(2654435769) >> 26];   /* spread by the golden ratio */
}

/* As forward_steps for the one row n, with its state at hand. */
static void FN(short_steps)(const lstmx_layer *l, ptrdiff_t s0, ptrdiff_t s1, ptrdiff_t n, const REAL *sums) {
    ALIGNED REAL h[TERMS + LANES], c[TERMS + LANES];
    unsigned char *const habit = FN(way_of)(l);
    int back = *habit;
    const ptrdiff_t H = l->hidden, way = l->reverse ? -1 : 1, low = l->reverse ? l->steps - s1 : s0;
    const size_t bytes = (size_t)H * sizeof(REAL);
    memset(h, 0, sizeof h);
    memset(c, 0, sizeof c);
    memcpy(c, (REAL *)l->c + n * H, bytes);
    for (ptrdiff_t s = s0; s < s1; s++) {
        const ptrdiff_t t = l->reverse ? l->steps - 1 - s : s, row = FN(first_row)(l, t) + n;
        const int begins = n >= FN(rows_at)(l, t - way), goes_on = n < FN(rows_at)(l, t + way);
        if (n >= FN(rows_at)(l, t)) continue;
        if (begins) memcpy(h, (REAL *)l->h + n * H, bytes);
        else if (s == s0) {
            memcpy(h, FN(y_at)(l, t - way, n), bytes);
            if (l->h_prev) memcpy(c, (REAL *)l->c_prev + row * l->c_row, bytes);
        }
        FN(results) o = {c, c, FN(y_at)(l, t, n), NULL, NULL, NULL, LANES, LANES, LANES, LANES, LANES, 0, 0};
        if (l->h_prev) {
            const ptrdiff_t next_row = goes_on ? FN(first_row)(l, t + way) + n : 0;
            o.gates = (REAL *)l->gates + row * l->gates_row;
            o.c_next = (REAL *)l->c_prev + next_row * l->c_row;
            o.h_next = (REAL *)l->h_prev + next_row * l->h_row;
            o.next = goes_on ? H : 0;
        }
        FN(step_short)(l, FN(x_at)(l, t, n), h, FN(sums_at)(l, sums, t, low, n, n), &o, back);
        back = !back;
    }
    memcpy((REAL *)l->c + n * H, c, bytes);
    *habit = (unsigned char)back;
}

/* The steps s0..s1 (in the direction's own order) of rows r0..r1 and panels p0..p1. `sums` is what input_sums filled for
 * these steps, or NULL. */
static void FN(forward_steps)(const lstmx_layer *l, ptrdiff_t s0, ptrdiff_t s1, ptrdiff_t r0, ptrdiff_t r1, ptrdiff_t p0,
                              ptrdiff_t p1, void *sums) {
    const ptrdiff_t H = l->hidden, way = l->reverse ? -1 : 1, low = l->reverse ? l->steps - s1 : s0;   /* the step that `sums` begins with */
    if (r1 - r0 == 1 && H <= TERMS && (sums || l->inputs <= TERMS) && p0 == 0 && p1 * LANES >= H) {
        FN(short_steps)(l, s0, s1, r0, sums);
        return;
    }
    unsigned char *const habit = FN(way_of)(l);
    int back = *habit;
    for (ptrdiff_t s = s0; s < s1; s++) {
        const ptrdiff_t t = l->reverse ? l->steps - 1 - s : s, row = FN(first_row)(l, t);
        const ptrdiff_t end = r1 < FN(rows_at)(l, t) ? r1 : FN(rows_at)(l, t);
        const ptrdiff_t carried = FN(rows_at)(l, t - way), next = FN(rows_at)(l, t + way);
        const ptrdiff_t next_row = next ? FN(first_row)(l, t + way) : 0;
        for (ptrdiff_t n = r0; n < end;) {
            const int begins = n >= carried;   /* rows that begin here come from the initial state */
            const ptrdiff_t stop = !begins && carried < end ? carried : end;
            const ptrdiff_t rows = stop - n;
            const REAL *h = l->h_prev ? (REAL *)l->h_prev + (row + n) * l->h_row
                          : begins ? (REAL *)l->h + n * H : FN(y_at)(l, t - way, n);
            REAL *c = (REAL *)l->c + n * H;
            FN(results) o = {c, c, FN(y_at)(l, t, n), NULL, NULL, NULL, H, H, l->y_row, l->gates_row, l->h_row, 0, 0};
            if (l->h_prev) {
                o.before = (REAL *)l->c_prev + (row + n) * l->c_row;
                o.before_step = l->c_row;
                o.c_next = (REAL *)l->c_prev + (next_row + n) * l->c_row;
                o.gates = (REAL *)l->gates + (row + n) * l->gates_row;
                o.h_next = (REAL *)l->h_prev + (next_row + n) * l->h_row;
                o.next = next - n;
                o.ahead = next ? next_row - row : 0;
            }
            FN(step_rows)(l, rows, p0, p1, FN(x_at)(l, t, n), h, l->h_prev ? l->h_row : begins ? H : l->y_row,
                          FN(sums_at)(l, sums, t, low, n, r0), &o, back);
            n += rows;
        }
        back = !back;
    }
    *habit = (unsigned char)back;
}

/* Training: rows that begin find their initial state in h_prev and c_prev. */
static void FN(open_rows)(const lstmx_layer *l) {
    const ptrdiff_t way = l->reverse ? -1 : 1, H = l->hidden;
    for (ptrdiff_t t = 0; t < l->steps; t++)
        for (ptrdiff_t n = FN(rows_at)(l, t - way); n < FN(rows_at)(l, t); n++) {
            const ptrdiff_t row = FN(first_row)(l, t) + n;
            memcpy((REAL *)l->h_prev + row * l->h_row, (REAL *)l->h + n * H, (size_t)H * sizeof(REAL));
            memcpy((REAL *)l->c_prev + row * l->c_row, (REAL *)l->c + n * H, (size_t)H * sizeof(REAL));
        }
}

/* The end: h := each row's last output. */
static void FN(close_rows)(const lstmx_layer *l) {
    const ptrdiff_t way = l->reverse ? -1 : 1;
    for (ptrdiff_t t = 0; t < l->steps; t++)
        for (ptrdiff_t n = FN(rows_at)(l, t + way); n < FN(rows_at)(l, t); n++)
            memcpy((REAL *)l->h + n * l->hidden, FN(y_at)(l, t, n), (size_t)l->hidden * sizeof(REAL));
}

static void FN(finish_outputs)(const lstmx_layer *l, ptrdiff_t t, ptrdiff_t r0, ptrdiff_t r1);

/* The general path's cells at step t for rows r0..r1: their sums z (rows, width) become activated gates, c that of t, and so
 * does h, unless there is a projection: then `shown` of extra waits for it. */
static void FN(forward_cells)(const lstmx_layer *l, ptrdiff_t t, ptrdiff_t r0, ptrdiff_t r1, void *z_, ptrdiff_t z_row) {
    const ptrdiff_t H = l->hidden, P = l->outputs, M = l->memory, first = FN(first_row)(l, t);
    const size_t bytes = (size_t)P * sizeof(REAL);
    const lstmx_cell *cell = l->cell;
    const int projects = l->at->shown >= 0;
    for (ptrdiff_t n = r0; n < r1; n++) {
        const ptrdiff_t row = first + n;
        REAL *z = (REAL *)z_ + (n - r0) * z_row, *h = (REAL *)l->h + n * P, *c = (REAL *)l->c + n * M;
        REAL *shown = projects ? FN(extra_at)(l, row, n) + l->at->shown
                    : cell->zoneout_h > 0 ? FN(extra_at)(l, row, n) + l->at->out : h;
        if (l->h_prev) {
            memcpy((REAL *)l->h_prev + row * l->h_row, h, bytes);
            memcpy((REAL *)l->c_prev + row * l->c_row, c, (size_t)M * sizeof(REAL));
        }
        if (cell->slstm) FN(slstm_forward)(H, VECTOR(bias), z, c, shown);
        else if (cell->general) FN(general_forward)(l, row, n, z, c, shown);
        else FN(cell_row_forward)(cell, H, VECTOR(bias), VECTOR(peephole), z, c, shown);
        if (shown == h) memcpy(FN(y_at)(l, t, n), h, bytes);
    }
    if (!projects && cell->zoneout_h > 0) FN(finish_outputs)(l, t, r0, r1);
}

/* The end of a step whose new h is not the cell's own: zoneout, and the outputs. */
static void FN(finish_outputs)(const lstmx_layer *l, ptrdiff_t t, ptrdiff_t r0, ptrdiff_t r1) {
    const ptrdiff_t P = l->outputs;
    for (ptrdiff_t n = r0; n < r1; n++) {
        const ptrdiff_t row = FN(first_row)(l, t) + n;
        REAL *h = (REAL *)l->h + n * P;
        if (l->cell->zoneout_h > 0)
            FN(zoneout_row)(P, l->cell->zoneout_h, ROW_OF(l->zoneout_h, P), FN(extra_at)(l, row, n) + l->at->out, h);
        memcpy(FN(y_at)(l, t, n), h, (size_t)P * sizeof(REAL));
    }
}

/* The beginning of a backward step of such a cell, and of a general one: `out` of extra := the gradient of the new h, dh := what
 * zoneout passes to the h before. */
static void FN(open_gradients)(const lstmx_layer *l, ptrdiff_t t, ptrdiff_t r0, ptrdiff_t r1) {
    const ptrdiff_t P = l->outputs;
    for (ptrdiff_t n = r0; n < r1; n++) {
        const ptrdiff_t row = FN(first_row)(l, t) + n, whole = FN(whole_row)(l, t) + n;
        REAL *dh = (REAL *)l->dh + n * P, *out = FN(extra_at)(l, row, n) + l->at->out;
        const REAL *dy = FN(dy_at)(l, t, n);
        if (dy) for (ptrdiff_t j = 0; j < P; j++) dh[j] = dh[j] + dy[j];
        if (l->dh_all) memcpy((REAL *)l->dh_all + whole * P, dh, (size_t)P * sizeof(REAL));
        if (l->cell->zoneout_h > 0)
            FN(zoneout_row_backward)(P, l->cell->zoneout_h, ROW_OF(l->zoneout_h, P), dh, out, dh);
        else memcpy(out, dh, (size_t)P * sizeof(REAL));
    }
}

/* The cells' derivative at step t for rows r0..r1 and units j0..j1: dz over the gates, dh whole, dc for the step before. */
static void FN(backward_cells)(const lstmx_layer *l, ptrdiff_t t, ptrdiff_t r0, ptrdiff_t r1, ptrdiff_t j0, ptrdiff_t j1) {
    const ptrdiff_t H = l->hidden, P = l->outputs, M = l->memory, first = FN(first_row)(l, t);
    const lstmx_cell *cell = l->cell;
    const int opened = l->at->out >= 0;   /* by open_gradients: dh is in extra */
    if (!cell->special && !opened) {
        const ptrdiff_t before = l->reverse ? t + 1 : t - 1, there = FN(rows_at)(l, before);
        const ptrdiff_t soon = there ? FN(first_row)(l, before) : 0;
        for (ptrdiff_t n = r0; n < r1; n++) {
            const ptrdiff_t row = first + n, whole = FN(whole_row)(l, t) + n;
            FN(row_backward_plain)(j0, j1, H, (REAL *)l->gates + row * l->gates_row, (REAL *)l->c_prev + row * l->c_row,
                                   FN(dy_at)(l, t, n), (REAL *)l->dh + n * P,
                                   (REAL *)l->dc + n * H, l->dh_all ? (REAL *)l->dh_all + whole * P : NULL,
                                   l->dc_all ? (REAL *)l->dc_all + whole * H : NULL,
                                   n < there ? (REAL *)l->gates + (soon + n) * l->gates_row : NULL,
                                   (REAL *)l->c_prev + (soon + n) * l->c_row);
        }
        return;
    }
    for (ptrdiff_t n = r0; n < r1; n++) {
        const ptrdiff_t row = first + n, whole = FN(whole_row)(l, t) + n;
        REAL *extra = FN(extra_at)(l, row, n);
        REAL *d_shown = !opened ? (REAL *)l->dh + n * P : extra + (l->at->d_shown >= 0 ? l->at->d_shown : l->at->out);
        REAL *z = (REAL *)l->gates + row * l->gates_row, *dc = (REAL *)l->dc + n * M;
        REAL *dc_all = l->dc_all ? (REAL *)l->dc_all + whole * M : NULL;
        const REAL *c_prev = (REAL *)l->c_prev + row * l->c_row;
        if (cell->slstm) FN(slstm_backward)(H, z, c_prev, d_shown, dc, dc_all);
        else if (cell->general) FN(general_backward)(l, row, n, z, c_prev, d_shown, dc, dc_all);
        else {
            const FN(row) r = {z, c_prev, opened ? NULL : FN(dy_at)(l, t, n), d_shown, dc,
                               opened || !l->dh_all ? NULL : (REAL *)l->dh_all + whole * P, dc_all, VECTOR(peephole),
                               cell->peephole ? extra + l->at->peephole : NULL};
            FN(cell_row_backward)(cell, j0, j1, H, &r);
        }
    }
}
