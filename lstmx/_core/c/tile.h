/* The register tile: R rows by C vectors of sums, one broadcast for a row and a k. All products of an LSTM are this loop.
 *
 *     z(r, c) := start(r, c) + sum over k of a(r, k) b(k, c)          0 <= r < R, 0 <= c < C * LANES
 *
 * A sum is cut into blocks of TERMS terms. A block is a chain of fused multiply-adds in the order of k that begins at 0; when
 * it ends it is added to what there is: `start` (a bias, or what an earlier operand has summed), then z. That is the same
 * whatever R, C and LANES are, so an output has the same bits in every tile. (A chain that went on from `start` would round
 * every term at the size of the bias: outputs of whole networks were then half as far again from the exact ones.)
 *
 * a(r, k) = a[r * ar + k * ak]: activations are read where they lie. b(k, c) = b[k * bk + c] is a panel of packed weights, or
 * rows of an activation. Expects vector.h and REGISTERS, the number of vector registers. */

#define TERMS 128
/* Fetching b ahead was tried: within the noise at every height, for weights in the second cache and beyond.
 * The tallest tile of C vectors: R * C sums, C vectors of b and a broadcast must fit the registers. */
#if REGISTERS >= 32
#define TALLEST(C) ((C) == 4 ? 6 : (C) == 3 ? 8 : 12)
#else
#define TALLEST(C) ((C) == 4 ? 3 : (C) == 3 ? 4 : (C) == 2 ? 6 : 12)
#endif

/* What a chain's end is added to: rows at `from`, `row` apart; NULL for nothing. It may be z itself. */
typedef struct {
    const REAL *from;
    ptrdiff_t row;
} FN(start);

typedef struct {
    const REAL *a;   /* (rows, count), strides ar and ak */
    ptrdiff_t ar, ak;
    const REAL *b;   /* (count, C * LANES), stride bk */
    ptrdiff_t bk;
    ptrdiff_t count;
    int far;              /* whether b lies beyond the second cache */
    const char *ahead;    /* sum_blocks' own: what to fetch meanwhile */
    FN(start) chain;      /* where the chains have come to; NULL: they begin at 0 */
} FN(operand);

/* `groups` groups of R rows each, one after the other; if `fetch`, what lies behind this block of b comes into the second cache
 * meanwhile, a cache line for each k. (On a server CPU whose third cache is slow that is a third of the time of a wide step.
 * A burst of prefetches between groups stalls.) */
INLINE void FN(tile)(const int R, const int C, const int fetch, ptrdiff_t groups, FN(start) start, const FN(operand) *p, REAL *z,
                     ptrdiff_t zr) {
    const REAL *rows = p->a;
    const ptrdiff_t ar = p->ar, ak = p->ak, bk = p->bk;
    const char *ahead = p->ahead;
    const REAL *chain = p->chain.from;
    const ptrdiff_t chain_row = p->chain.row;
    for (; groups > 0; groups--) {
        const REAL *a = rows, *b = p->b;
        FN(vec) acc[12][4];
        if (chain) {
            UNROLL for (int r = 0; r < R; r++)
                UNROLL for (int c = 0; c < C; c++) acc[r][c] = FN(load)(chain + r * chain_row + c * LANES);
            chain += R * chain_row;
        } else
            UNROLL for (int r = 0; r < R; r++)
                UNROLL for (int c = 0; c < C; c++) acc[r][c] = FN(splat)(0);
        for (ptrdiff_t k = p->count; k > 0; k--, a += ak, b += bk) {
            FN(vec) x[12], row[4];
            if (fetch) { PREFETCH(ahead); ahead += CACHE_LINE; }
            if (R < C) {   /* what there is less of stays in registers while the other goes by */
                UNROLL for (int r = 0; r < R; r++) { x[r] = FN(splat)(a[r * ar]); HOLD(x[r]); }
                UNROLL for (int c = 0; c < C; c++) {
                    row[c] = FN(load)(b + c * LANES);
                    HOLD(row[c]);
                    UNROLL for (int r = 0; r < R; r++) acc[r][c] = FN(vfma)(x[r], row[c], acc[r][c]);
                }
            } else {
                UNROLL for (int c = 0; c < C; c++) { row[c] = FN(load)(b + c * LANES); }
                UNROLL for (int r = 0; r < R; r++) {
                    x[r] = FN(splat)(a[r * ar]);
                    UNROLL for (int c = 0; c < C; c++) acc[r][c] = FN(vfma)(x[r], row[c], acc[r][c]);
                }
            }
        }
        if (start.from) {
            UNROLL for (int r = 0; r < R; r++)
                UNROLL for (int c = 0; c < C; c++) acc[r][c] = FN(load)(start.from + r * start.row + c * LANES) + acc[r][c];
            start.from += R * start.row;
        }
        UNROLL for (int r = 0; r < R; r++)
            UNROLL for (int c = 0; c < C; c++) FN(store)(z + r * zr + c * LANES, acc[r][c]);
        rows += R * ar;
        z += R * zr;
    }
}

#define CASE(R, C, FETCH) case R: FN(tile)(R, C, FETCH, groups, start, p, z, zr); break;
#define TILES(NAME, ...)                                                                                                 \
    static NOINLINE void FN(NAME)(int rows, ptrdiff_t groups, FN(start) start, const FN(operand) *p, REAL *z,            \
                                  ptrdiff_t zr) {                                                                        \
        switch (rows) { __VA_ARGS__ }                                                                                    \
    }
#if REGISTERS >= 32
TILES(tiles_4, CASE(1, 4, 0) CASE(2, 4, 0) CASE(3, 4, 0) CASE(4, 4, 0) CASE(5, 4, 0) CASE(6, 4, 0))
TILES(tiles_4_fetch, CASE(1, 4, 1) CASE(2, 4, 1) CASE(3, 4, 1) CASE(4, 4, 1) CASE(5, 4, 1) CASE(6, 4, 1))
TILES(tiles_3, CASE(1, 3, 0) CASE(2, 3, 0) CASE(3, 3, 0) CASE(4, 3, 0) CASE(5, 3, 0) CASE(6, 3, 0) CASE(7, 3, 0) CASE(8, 3, 0))
TILES(tiles_2, CASE(1, 2, 0) CASE(2, 2, 0) CASE(3, 2, 0) CASE(4, 2, 0) CASE(5, 2, 0) CASE(6, 2, 0) CASE(7, 2, 0) CASE(8, 2, 0)
      CASE(9, 2, 0) CASE(10, 2, 0) CASE(11, 2, 0) CASE(12, 2, 0))
#else
TILES(tiles_4, CASE(1, 4, 0) CASE(2, 4, 0) CASE(3, 4, 0))
TILES(tiles_4_fetch, CASE(1, 4, 1) CASE(2, 4, 1) CASE(3, 4, 1))
TILES(tiles_3, CASE(1, 3, 0) CASE(2, 3, 0) CASE(3, 3, 0) CASE(4, 3, 0))
TILES(tiles_2, CASE(1, 2, 0) CASE(2, 2, 0) CASE(3, 2, 0) CASE(4, 2, 0) CASE(5, 2, 0) CASE(6, 2, 0))
#endif
TILES(tiles_1, CASE(1, 1, 0) CASE(2, 1, 0) CASE(3, 1, 0) CASE(4, 1, 0) CASE(5, 1, 0) CASE(6, 1, 0) CASE(7, 1, 0) CASE(8, 1, 0)
      CASE(9, 1, 0) CASE(10, 1, 0) CASE(11, 1, 0) CASE(12, 1, 0))
#undef CASE
#undef TILES

/* One row has too few sums to hide the latency of an addition, so two chains that do not depend on each other run side by
 * side: (a, b) into z, and (a2, b2) into z2, `next` behind in `from` too; or, if z2 is NULL, added after the first. */
INLINE void FN(pair)(const int C, const REAL *from, const FN(operand) *p, const REAL *a2, const REAL *b2, REAL *z, REAL *z2,
                     ptrdiff_t next) {
    FN(vec) acc[4], other[4];
    UNROLL for (int c = 0; c < C; c++) acc[c] = other[c] = FN(splat)(0);
    const REAL *a = p->a, *b = p->b;
    const ptrdiff_t ak = p->ak, bk = p->bk;
    for (ptrdiff_t k = p->count; k > 0; k--, a += ak, a2 += ak, b += bk, b2 += bk) {
        const FN(vec) x = FN(splat)(*a), x2 = FN(splat)(*a2);
        UNROLL for (int c = 0; c < C; c++) {
            acc[c] = FN(vfma)(x, FN(load)(b + c * LANES), acc[c]);
            other[c] = FN(vfma)(x2, FN(load)(b2 + c * LANES), other[c]);
        }
    }
    UNROLL for (int c = 0; c < C; c++) {
        if (from) acc[c] = FN(load)(from + c * LANES) + acc[c];
        if (z2) FN(store)(z2 + c * LANES, from ? FN(load)(from + next + c * LANES) + other[c] : other[c]);
        FN(store)(z + c * LANES, z2 ? acc[c] : acc[c] + other[c]);
    }
}
#define PAIR(C)                                                                                                          \
    static NOINLINE void FN(pair_##C)(const REAL *from, const FN(operand) *p, const REAL *a2, const REAL *b2, REAL *z,   \
                                      REAL *z2, ptrdiff_t next) {                                                        \
        FN(pair)(C, from, p, a2, b2, z, z2, next);                                                                       \
    }
PAIR(4)
PAIR(3)
PAIR(2)
PAIR(1)
#undef PAIR

/* Rows in groups of one height: z (groups * height, C * LANES) := start + a b, one block. */
static void FN(sum_groups)(int C, ptrdiff_t height, ptrdiff_t groups, FN(start) start, const FN(operand) *p, REAL *z, ptrdiff_t zr) {
    switch (C) {
    case 4: (p->ahead ? FN(tiles_4_fetch) : FN(tiles_4))((int)height, groups, start, p, z, zr); break;
    case 3: FN(tiles_3)((int)height, groups, start, p, z, zr); break;
    case 2: FN(tiles_2)((int)height, groups, start, p, z, zr); break;
    default: FN(tiles_1)((int)height, groups, start, p, z, zr);
    }
}

enum { FN(FETCHING) = 4 * VECTOR_BYTES / CACHE_LINE };   /* groups that fetch a whole block of 4 vectors, a line a term */

/* z (rows, C * LANES) := start + a b, summed over all K terms of p, block by block; the rows in groups of about equal height.
 * p is used up, not copied: a copy loads as vectors what has just been stored as numbers, and waits until all stores before it have
 * reached the cache, those to a tape among them. */
static void FN(sum_blocks)(int C, ptrdiff_t rows, FN(start) start, FN(operand) *p, REAL *z, ptrdiff_t zr) {
    const ptrdiff_t tall = TALLEST(C), groups = (rows + tall - 1) / tall, K = p->count, ak = p->ak, bk = p->bk;
    const REAL *a = p->a, *b = p->b;
    const ptrdiff_t height = groups ? rows / groups : 0, taller = groups ? rows % groups : 0;   /* so many have a row more */
    const ptrdiff_t fetching = p->far && C == 4 && groups > 1 ? (groups < FN(FETCHING) ? groups : FN(FETCHING)) : 0;
    for (ptrdiff_t k = 0; k < K || k == 0; k += TERMS) {
        p->a = a + k * ak;
        p->b = b + k * bk;
        p->count = K - k < TERMS ? K - k : TERMS;
        if (rows == 1 && K - k >= 2 * TERMS) {
            const REAL *a2 = p->a + TERMS * ak, *b2 = p->b + TERMS * bk;
            switch (C) {
            case 4: FN(pair_4)(start.from, p, a2, b2, z, NULL, 0); break;
            case 3: FN(pair_3)(start.from, p, a2, b2, z, NULL, 0); break;
            case 2: FN(pair_2)(start.from, p, a2, b2, z, NULL, 0); break;
            default: FN(pair_1)(start.from, p, a2, b2, z, NULL, 0);
            }
            k += TERMS;
        } else {
            const char *behind = (const char *)(p->b + p->count * bk);
            REAL *to = z;
            for (ptrdiff_t group = 0; group < groups;) {   /* as many at once as are of one kind */
                const int fetch = group < fetching;
                ptrdiff_t end = fetch ? fetching : groups;
                if (group < taller && end > taller) end = taller;
                const ptrdiff_t tallness = height + (group < taller), count = (end - group) * tallness;
                p->ahead = fetch ? behind + group * p->count * CACHE_LINE : NULL;
                FN(sum_groups)(C, tallness, end - group, start, p, to, zr);
                p->a += count * p->ar;
                to += count * zr;
                if (start.from) start.from += count * start.row;
                group = end;
            }
        }
        start = (FN(start)){z, zr};
    }
}

/* One row, two panels of 4 vectors: the second panel's weights lie `next` behind the first one's, its sums behind z's. p is used
 * up. */
static void FN(pair_panels)(const REAL *from, FN(operand) *p, ptrdiff_t next, REAL *z) {
    for (ptrdiff_t left = p->count; left > 0; left -= TERMS, from = z, p->a += TERMS * p->ak, p->b += TERMS * p->bk) {
        p->count = left < TERMS ? left : TERMS;
        FN(pair_4)(from, p, p->a, p->b + next, z, z + 4 * LANES, 4 * LANES);
    }
}
