/* Forgets what variant.h defined for one REAL. */
#undef REAL
#undef INT
#undef KERNELS
#undef SUFFIX
#undef SQRT
#undef FMA
#undef MANTISSA_BITS
#undef ROUND_SHIFT
#undef LOG2_E
#undef LN2_HIGH
#undef LN2_LOW
#undef EXP_MIN
#undef EXP_MAX
#undef SIGMOID_MAX
#undef TANH_MAX
#undef Q_DEGREE
#undef Q
