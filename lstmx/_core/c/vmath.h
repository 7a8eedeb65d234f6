/* exp, sigmoid, tanh, expm1 and softplus of vectors. Expects vector.h.
 *
 * All rest on the same reduction: x = k ln 2 + r with |r| <= ln(2)/2, and p(r) = e^r - 1 = r + r^2 q(r), q a Chebyshev
 * fit of (e^r - 1 - r)/r^2 (degree 4 in float32, error 6.5e-8; degree 10 in float64, error 1.4e-18). Nothing here is a
 * reciprocal approximation. Largest errors where argument and exact result are normal (benchmarks/ulp.py, all 2^32 floats;
 * float64 sampled): see TABLE in tests/test_vmath.py, which holds the same numbers.
 *
 * Each function takes M vectors, M a constant, and goes through them side by side: one alone is a chain of operations that
 * wait for each other. EACH is such a round. */
#define EACH UNROLL for (int m = 0; m < M; m++)
enum { FN(MOST) = 8 };

/* e^(factor x), factor 1, 2 or -1, = scale * (1 + p), scale = 2^k, for exponents from EXP_MIN to EXP_MAX: k stays within the
 * normal ones. NaN gives p = NaN. */
INLINE void FN(exp_parts)(const int M, const int factor, const FN(vec) *x, FN(vec) *p, FN(vec) *scale) {
    const FN(vec) shift = FN(splat)(ROUND_SHIFT);
    FN(vec) k[FN(MOST)], r[FN(MOST)], q[FN(MOST)];
    /* Adding ROUND_SHIFT leaves the rounded k in the low bits, as the exponent that 2^k has. */
    EACH k[m] = FN(vfma)(x[m], FN(splat)(factor * LOG2_E), shift);
    EACH scale[m] = FN(from_bits)((FN(ivec))((FN(uvec))FN(bits)(k[m]) << MANTISSA_BITS));
    EACH k[m] = k[m] - shift;
    EACH r[m] = FN(vfma)(k[m], FN(splat)(-LN2_HIGH), factor == 2 ? x[m] + x[m] : factor < 0 ? -x[m] : x[m]);   /* exact: few bits */
    EACH r[m] = FN(vfma)(k[m], FN(splat)(-LN2_LOW), r[m]);
    EACH q[m] = FN(splat)(Q[Q_DEGREE]);
    UNROLL for (int d = Q_DEGREE - 1; d >= 0; d--)
        EACH q[m] = FN(vfma)(q[m], r[m], FN(splat)(Q[d]));
    EACH p[m] = FN(vfma)(r[m] * r[m], q[m], r[m]);
}

/* e^x, 0 below EXP_MIN and infinity above EXP_MAX. */
INLINE FN(vec) FN(vexp)(FN(vec) x) {
    FN(vec) in = FN(at_least)(FN(at_most)(x, EXP_MAX), EXP_MIN), p, scale;
    FN(exp_parts)(1, 1, &in, &p, &scale);
    FN(vec) y = scale * (FN(splat)(1) + p);   /* scale * p alone could underflow */
    y = FN(select)(FN(less)(x, FN(splat)(EXP_MIN)), FN(splat)(0), y);
    return FN(select)(FN(less)(FN(splat)(EXP_MAX), x), FN(splat)(INFINITY), y);
}

/* x := 1 / (1 + e^-x). Where the exact value is subnormal the division gives 0, subnormals being flushed. */
INLINE void FN(vsigmoid)(const int M, FN(vec) *x) {
    const FN(vec) one = FN(splat)(1);
    FN(vec) p[FN(MOST)], scale[FN(MOST)];
    EACH x[m] = FN(at_most)(FN(at_least)(x[m], -EXP_MAX), -EXP_MIN);
    FN(exp_parts)(M, -1, x, p, scale);
    EACH p[m] = FN(vfma)(scale[m], p[m], one + scale[m]);   /* rounded once: 1 + 2^k is exact where it matters */
    EACH x[m] = one / p[m];
}

/* x := tanh(x). With m = e^(2|x|) - 1, tanh |x| = m / (m + 2): m keeps its relative accuracy near 0, so tanh does too. */
INLINE void FN(vtanh)(const int M, FN(vec) *x) {
    const FN(ivec) minus = FN(bits)(FN(splat)((REAL)-0.0));
    FN(vec) p[FN(MOST)], scale[FN(MOST)], size[FN(MOST)];
    EACH size[m] = FN(at_most)(FN(from_bits)(FN(bits)(x[m]) & ~minus), TANH_MAX);
    FN(exp_parts)(M, 2, size, p, scale);
    EACH p[m] = FN(vfma)(scale[m], p[m], scale[m] - FN(splat)(1));
    EACH p[m] = p[m] / (p[m] + FN(splat)(2));   /* e^2x + 1, summed apart, would be faster, but 2.8 ULP off */
    EACH x[m] = FN(from_bits)(FN(bits)(p[m]) | (FN(bits)(x[m]) & minus));
}
INLINE FN(vec) FN(sigmoid_of)(FN(vec) x) { FN(vsigmoid)(1, &x); return x; }
INLINE FN(vec) FN(tanh_of)(FN(vec) x) { FN(vtanh)(1, &x); return x; }

/* e^x - 1 for x <= 0, accurate near 0. */
INLINE FN(vec) FN(vexpm1)(FN(vec) x) {
    FN(vec) in = FN(at_least)(x, EXP_MIN), p, scale;
    FN(exp_parts)(1, 1, &in, &p, &scale);
    return FN(vfma)(scale, p, scale - FN(splat)(1));
}

/* log(1 + e^x) = max(x, 0) + log(1 + u) with u = e^-|x|; log(1 + u) = 2 atanh(s), s = u / (2 + u) <= 1/3, atanh(s) = s + s^3 r(s^2),
 * r a Chebyshev fit (degree 4 in float32, error 4.0e-10; degree 10 in float64, error 1.4e-19). */
INLINE FN(vec) FN(softplus_of)(FN(vec) x) {
    const FN(ivec) minus = FN(bits)(FN(splat)((REAL)-0.0));
    const FN(vec) u = FN(vexp)(FN(from_bits)(FN(bits)(x) | minus));
    const FN(vec) twice = (u + u) / (u + FN(splat)(2));   /* 2 s, as s itself could be subnormal */
    const FN(vec) s = FN(splat)((REAL)0.5) * twice, square = s * s;
    FN(vec) r = FN(splat)(ATANH[Q_DEGREE]);
    UNROLL for (int d = Q_DEGREE - 1; d >= 0; d--) r = FN(vfma)(r, square, FN(splat)(ATANH[d]));
    return FN(at_least)(x, 0) + FN(vfma)(twice * square, r, twice);
}
