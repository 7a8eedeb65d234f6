/* AVX2 with FMA: x86-64 since 2013. */
#if defined(__x86_64__) && defined(__GNUC__) && !defined(LSTMX_NO_VECTOR)
#define ISA avx2
#define ISA_NAME "avx2"
#define ISA_TARGET "avx2,fma"
#define VECTOR_BYTES 32
#define REGISTERS 16
#define HAS_FMA 1
#define FMA_F32(a, b, c) _mm256_fmadd_ps((__m256)(a), (__m256)(b), (__m256)(c))
#define FMA_F64(a, b, c) _mm256_fmadd_pd((__m256d)(a), (__m256d)(b), (__m256d)(c))
#define MIN_F32(a, b) _mm256_min_ps((__m256)(a), (__m256)(b))
#define MIN_F64(a, b) _mm256_min_pd((__m256d)(a), (__m256d)(b))
#define MAX_F32(a, b) _mm256_max_ps((__m256)(a), (__m256)(b))
#define MAX_F64(a, b) _mm256_max_pd((__m256d)(a), (__m256d)(b))
#include "variant.h"
#else
typedef int lstmx_not_on_this_architecture;
#endif
