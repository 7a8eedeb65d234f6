/* exp, sigmoid and tanh of a vector. Expects vector.h.
 *
 * All three rest on the same reduction: x = k ln 2 + r with |r| <= ln(2)/2, and p(r) = e^r - 1 = r + r^2 q(r), q a Chebyshev
 * fit of (e^r - 1 - r)/r^2 (degree 4 in float32, error 6.5e-8; degree 10 in float64, error 1.4e-18). Nothing here is a
 * reciprocal approximation. Largest errors where argument and exact result are normal (benchmarks/ulp.py, all 2^32 floats;
 * float64 sampled): see TABLE in tests/test_simd.py, which holds the same numbers. */

typedef struct { FN(vec) p; FN(vec) scale; } FN(expparts);   /* e^x = scale * (1 + p), scale = 2^k */

/* Valid for EXP_MIN <= x <= EXP_MAX: k stays within the normal exponents. NaN gives p = NaN. */
INLINE FN(expparts) FN(exp_parts)(FN(vec) x) {
    const FN(vec) shift = FN(splat)(ROUND_SHIFT);
    FN(vec) k = FN(vfma)(x, FN(splat)(LOG2_E), shift);       /* adding 1.5 * 2^mantissa leaves the rounded k in the low bits */
    FN(ivec) exponent = FN(bits)(k) << MANTISSA_BITS;
    k = k - shift;
    FN(vec) r = FN(vfma)(k, FN(splat)(-LN2_HIGH), x);        /* exact: LN2_HIGH has few bits */
    r = FN(vfma)(k, FN(splat)(-LN2_LOW), r);
    FN(vec) q = FN(splat)(Q[Q_DEGREE]);
    for (int d = Q_DEGREE - 1; d >= 0; d--) q = FN(vfma)(q, r, FN(splat)(Q[d]));
    FN(expparts) e = {FN(vfma)(r * r, q, r), FN(from_bits)(exponent + FN(bits)(FN(splat)(1)))};
    return e;
}

/* e^x, 0 below EXP_MIN and infinity above EXP_MAX. */
INLINE FN(vec) FN(vexp)(FN(vec) x) {
    FN(expparts) e = FN(exp_parts)(FN(at_least)(FN(at_most)(x, EXP_MAX), EXP_MIN));
    FN(vec) y = e.scale * (FN(splat)(1) + e.p);   /* scale * p alone could underflow */
    y = FN(select)(FN(less)(x, FN(splat)(EXP_MIN)), FN(splat)(0), y);
    return FN(select)(FN(less)(FN(splat)(EXP_MAX), x), FN(splat)(INFINITY), y);
}

/* 1 / (1 + e^-x). Below -EXP_MAX the exact value is subnormal or about to be, and 0 is given. */
INLINE FN(vec) FN(vsigmoid)(FN(vec) x) {
    FN(vec) one = FN(splat)(1);
    FN(expparts) e = FN(exp_parts)(FN(at_least)(FN(at_most)(-x, EXP_MAX), EXP_MIN));
    FN(vec) y = one / (one + FN(vfma)(e.scale, e.p, e.scale));
    return FN(select)(FN(less)(x, FN(splat)(-SIGMOID_MAX)), FN(splat)(0), y);
}

/* With m = e^(2|x|) - 1, tanh |x| = m / (m + 2): m keeps its relative accuracy near 0, so tanh does too. */
INLINE FN(vec) FN(vtanh)(FN(vec) x) {
    FN(ivec) sign = FN(bits)(x) & FN(bits)(FN(splat)((REAL)-0.0));
    FN(vec) magnitude = FN(at_most)(FN(from_bits)(FN(bits)(x) ^ sign), TANH_MAX);
    FN(expparts) e = FN(exp_parts)(magnitude + magnitude);
    FN(vec) m = FN(vfma)(e.scale, e.p, e.scale - FN(splat)(1));
    return FN(from_bits)(FN(bits)(m / (m + FN(splat)(2))) | sign);
}
