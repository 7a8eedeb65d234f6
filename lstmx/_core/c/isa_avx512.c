/* AVX-512 (F, VL, BW, DQ): Intel servers since 2017, AMD since 2022. */
#if defined(__x86_64__) && defined(__GNUC__) && !defined(LSTMX_NO_VECTOR)
#define ISA avx512
#define ISA_NAME "avx512"
#define VECTOR_BYTES 64
#define REGISTERS 32
#define HAS_FMA 1
#ifdef LSTMX_EMULATE   /* a test runs these 64-byte vectors as pairs of 32-byte registers where there is only AVX2 */
#define ISA_TARGET "avx2,fma"
#define PER_LANE(f, a, b, c) ({ __typeof__(a) r_; for (int l_ = 0; l_ < LANES; l_++) r_[l_] = f(a[l_], b[l_], c[l_]); r_; })
#define FMA_F32(a, b, c) PER_LANE(__builtin_fmaf, a, b, c)
#define FMA_F64(a, b, c) PER_LANE(__builtin_fma, a, b, c)
#else
#define ISA_TARGET "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma"
#define FMA_F32(a, b, c) _mm512_fmadd_ps((__m512)(a), (__m512)(b), (__m512)(c))
#define FMA_F64(a, b, c) _mm512_fmadd_pd((__m512d)(a), (__m512d)(b), (__m512d)(c))
#define MIN_F32(a, b) _mm512_min_ps((__m512)(a), (__m512)(b))
#define MIN_F64(a, b) _mm512_min_pd((__m512d)(a), (__m512d)(b))
#define MAX_F32(a, b) _mm512_max_ps((__m512)(a), (__m512)(b))
#define MAX_F64(a, b) _mm512_max_pd((__m512d)(a), (__m512d)(b))
#define MASK(count) ((1u << (count)) - 1)
#define MASK_LOAD_F32(p, count) _mm512_maskz_loadu_ps((__mmask16)MASK(count), p)
#define MASK_LOAD_F64(p, count) _mm512_maskz_loadu_pd((__mmask8)MASK(count), p)
#define MASK_STORE_F32(p, v, count) _mm512_mask_storeu_ps(p, (__mmask16)MASK(count), (__m512)(v))
#define MASK_STORE_F64(p, v, count) _mm512_mask_storeu_pd(p, (__mmask8)MASK(count), (__m512d)(v))
#endif
#include "variant.h"
#else
typedef int lstmx_not_on_this_architecture;
#endif
