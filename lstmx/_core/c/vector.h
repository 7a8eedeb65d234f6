/* A vector of LANES values of REAL, and the few operations that the kernels need.
 *
 * With GCC or Clang the vector is a vector-extension type and the compiler emits the instructions of the target that
 * variant.h has set. With LSTMX_NO_VECTOR, which core.h defines for other compilers, a vector is one value and the same
 * source still compiles.
 * Expects REAL, INT and UINT (the integers of the same size), FN(name) and VECTOR_BYTES. */

#ifdef LSTMX_NO_VECTOR
#define LANES 1
typedef REAL FN(vec);
typedef INT FN(ivec);
typedef UINT FN(uvec);
INLINE FN(ivec) FN(bits)(FN(vec) v) { FN(ivec) i; memcpy(&i, &v, sizeof i); return i; }
INLINE FN(vec) FN(from_bits)(FN(ivec) i) { FN(vec) v; memcpy(&v, &i, sizeof v); return v; }
INLINE FN(ivec) FN(less)(FN(vec) a, FN(vec) b) { return -(INT)(a < b); }
INLINE FN(vec) FN(splat)(REAL x) { return x; }
INLINE FN(vec) FN(vfma)(FN(vec) a, FN(vec) b, FN(vec) c) { return a * b + c; }
#else
#define LANES ((int)(VECTOR_BYTES / sizeof(REAL)))
typedef REAL FN(vec) __attribute__((vector_size(VECTOR_BYTES)));
typedef INT FN(ivec) __attribute__((vector_size(VECTOR_BYTES)));
typedef UINT FN(uvec) __attribute__((vector_size(VECTOR_BYTES)));
INLINE FN(ivec) FN(bits)(FN(vec) v) { return (FN(ivec))v; }
INLINE FN(vec) FN(from_bits)(FN(ivec) i) { return (FN(vec))i; }
INLINE FN(ivec) FN(less)(FN(vec) a, FN(vec) b) { return a < b; }
INLINE FN(vec) FN(splat)(REAL x) { return x - (FN(vec)){0}; }
/* a * b + c: rounded once where the target has FMA, twice on the x86-64 baseline. Written out, because
 * -ffp-contract=off keeps the compiler from choosing; an intrinsic, because GCC 12 left a per-lane __builtin_fma scalar in
 * some of the loops it unrolled. */
INLINE FN(vec) FN(vfma)(FN(vec) a, FN(vec) b, FN(vec) c) {
#if HAS_FMA
    return (FN(vec))FMA(a, b, c);
#else
    return a * b + c;
#endif
}
#endif

INLINE FN(vec) FN(load)(const REAL *p) { FN(vec) v; memcpy(&v, p, sizeof v); return v; }
INLINE void FN(store)(REAL *p, FN(vec) v) { memcpy(p, &v, sizeof v); }
/* The first `count` < LANES values, the rest 0: tails run through the same arithmetic as whole vectors. Where there are no
 * masks, in pieces of 8, 4, 2 and 1 values, which become single moves. */
#ifdef MASK_LOAD
INLINE FN(vec) FN(load_part)(const REAL *p, ptrdiff_t count) { return (FN(vec))MASK_LOAD(p, count); }
INLINE void FN(store_part)(REAL *p, FN(vec) v, ptrdiff_t count) { MASK_STORE(p, v, count); }
#else
#define PIECES(COPY)                                                                                                     \
    do {                                                                                                                 \
        ptrdiff_t at = 0;                                                                                                \
        if (LANES > 8 && count & 8) { COPY(8); at += 8; }                                                                \
        if (LANES > 4 && count & 4) { COPY(4); at += 4; }                                                                \
        if (LANES > 2 && count & 2) { COPY(2); at += 2; }                                                                \
        if (count & 1) COPY(1);                                                                                          \
    } while (0)
#define COPY_IN(N) memcpy(lane + at, p + at, (N) * sizeof(REAL))
#define COPY_OUT(N) memcpy(p + at, lane + at, (N) * sizeof(REAL))
INLINE FN(vec) FN(load_part)(const REAL *p, ptrdiff_t count) {
    REAL lane[VECTOR_BYTES / sizeof(REAL)] = {0};
    PIECES(COPY_IN);
    return FN(load)(lane);
}
INLINE void FN(store_part)(REAL *p, FN(vec) v, ptrdiff_t count) {
    REAL lane[VECTOR_BYTES / sizeof(REAL)];
    FN(store)(lane, v);
    PIECES(COPY_OUT);
}
#undef PIECES
#undef COPY_IN
#undef COPY_OUT
#endif

INLINE FN(vec) FN(select)(FN(ivec) mask, FN(vec) a, FN(vec) b) {
    return FN(from_bits)((mask & FN(bits)(a)) | (~mask & FN(bits)(b)));
}
/* The smaller, and the larger, of v and a limit; NaN where v is NaN. MIN and MAX are one instruction each, which gives its
 * second operand if either is NaN. Compare and select are two, and where a division follows, GCC 12 divides twice, once for
 * either side of the select. */
INLINE FN(vec) FN(at_most)(FN(vec) v, REAL limit) {
    FN(vec) top = FN(splat)(limit);
#if defined(MIN) && !defined(LSTMX_NO_VECTOR)
    return (FN(vec))MIN(top, v);
#else
    return FN(select)(FN(less)(top, v), top, v);
#endif
}
INLINE FN(vec) FN(at_least)(FN(vec) v, REAL limit) {
    FN(vec) low = FN(splat)(limit);
#if defined(MAX) && !defined(LSTMX_NO_VECTOR)
    return (FN(vec))MAX(low, v);
#else
    return FN(select)(FN(less)(v, low), low, v);
#endif
}

#ifdef LSTMX_NO_VECTOR   /* no vector is filled in part */
INLINE FN(vec) FN(part_of)(const int parts, FN(vec) v, const int r) { (void)parts; (void)r; return v; }
INLINE void FN(turn_parts)(const int parts, FN(vec) *v) { (void)parts; (void)v; }
#else
/* The values of a and then b at `places`, which are constants. */
INLINE FN(vec) FN(pick)(FN(vec) a, FN(vec) b, FN(ivec) places) {
#ifdef __clang__
    FN(vec) v = a;
    UNROLL for (int l = 0; l < LANES; l++) v[l] = places[l] < LANES ? a[places[l]] : b[places[l] - LANES];
    return v;
#else
    return __builtin_shuffle(a, b, places);
#endif
}

/* Part r of the `parts` of v, moved to its front. */
INLINE FN(vec) FN(part_of)(const int parts, FN(vec) v, const int r) {
    FN(ivec) places;
    UNROLL for (int l = 0; l < LANES; l++) places[l] = (l + r * LANES / parts) % LANES;
    return r ? FN(pick)(v, v, places) : v;
}

/* 2 or 4 vectors of as many parts, transposed: v[k] := part k of each. */
INLINE void FN(turn_parts)(const int parts, FN(vec) *v) {
    const int half = LANES / 2, quarter = LANES < 4 ? 1 : LANES / 4;
    FN(ivec) low, even;
    UNROLL for (int l = 0; l < LANES; l++) low[l] = l % half + l / half * LANES;
    UNROLL for (int l = 0; l < LANES; l++) even[l] = l % quarter + l / half * half + l % half / quarter * LANES;
    const FN(vec) a = FN(pick)(v[0], v[parts / 2], low), b = FN(pick)(v[0], v[parts / 2], low + half);
    if (parts == 2) {
        v[0] = a;
        v[1] = b;
        return;
    }
    const FN(vec) c = FN(pick)(v[1], v[3], low), d = FN(pick)(v[1], v[3], low + half);
    v[0] = FN(pick)(a, c, even);
    v[1] = FN(pick)(a, c, even + quarter);
    v[2] = FN(pick)(b, d, even);
    v[3] = FN(pick)(b, d, even + quarter);
}
#endif

/* A vector of units. `part` is 0: all of one row; 1: the first `tail` of one row; 2 or 4: the first `tail` of each of so many rows,
 * which lie `step` apart. */
INLINE FN(vec) FN(load_units)(const int part, ptrdiff_t tail, const REAL *p, ptrdiff_t step) {
    if (part < 2) return part ? FN(load_part)(p, tail) : FN(load)(p);
    FN(vec) v[4];
    UNROLL for (int r = 0; r < part; r++) v[r] = FN(load_part)(p + r * step, tail);
    FN(turn_parts)(part, v);
    return v[0];
}
/* Of the rows, those from `first` to `stop` alone. */
INLINE void FN(store_units)(const int part, ptrdiff_t tail, REAL *p, ptrdiff_t step, ptrdiff_t first, ptrdiff_t stop, FN(vec) v) {
    UNROLL for (int r = 0; r < (part ? part : 1); r++)
        if (first <= r && r < stop) {
            if (part) FN(store_part)(p + r * step, FN(part_of)(part, v, r), tail);
            else FN(store)(p, v);
        }
}
