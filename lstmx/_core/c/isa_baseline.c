/* What every CPU of the architecture has: SSE2 on x86-64, NEON (with FMA) on arm64, plain C elsewhere. */
#define ISA baseline
#define VECTOR_BYTES 16
#ifdef __aarch64__
#define ISA_NAME "neon"
#define HAS_FMA 1
#define REGISTERS 32
#define FMA_F32(a, b, c) vfmaq_f32((float32x4_t)(c), (float32x4_t)(a), (float32x4_t)(b))
#define FMA_F64(a, b, c) vfmaq_f64((float64x2_t)(c), (float64x2_t)(a), (float64x2_t)(b))
#else
#define ISA_NAME "baseline"
#define HAS_FMA 0
#define REGISTERS 16
#ifdef __SSE2__
#define MIN_F32(a, b) _mm_min_ps((__m128)(a), (__m128)(b))
#define MIN_F64(a, b) _mm_min_pd((__m128d)(a), (__m128d)(b))
#define MAX_F32(a, b) _mm_max_ps((__m128)(a), (__m128)(b))
#define MAX_F64(a, b) _mm_max_pd((__m128d)(a), (__m128d)(b))
#endif
#endif
#include "variant.h"
