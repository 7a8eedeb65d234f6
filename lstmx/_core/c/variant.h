/* One instruction set: its kernels for every format. An isa_*.c file sets these, and includes this file:
 *
 * ISA, ISA_NAME   the name, as the end of identifiers and as a string
 * ISA_TARGET      the compiler's name for it, absent for the baseline; GCC takes it as a pragma, Clang as an attribute
 * VECTOR_BYTES, REGISTERS   the size of a vector register, and how many there are
 * HAS_FMA, FMA_F32, FMA_F64           a * b + c, rounded once
 * MIN_F32 ... MAX_F64                 of two vectors, the second where either is NaN; absent: by comparison
 * MASK_LOAD_F32 ... MASK_STORE_F64    the first `count` values of a vector; absent: in pieces
 *
 * Everything is static: a function compiled for one instruction set can never be picked by the linker for another. */
#include <math.h>
#include <string.h>
#ifdef __x86_64__
#include <immintrin.h>
#elif HAS_FMA
#include <arm_neon.h>
#endif

#include "control.h"
#include "core.h"

#ifdef __GNUC__
#define INLINE static inline __attribute__((always_inline))
#define ALIGNED __attribute__((aligned(64)))
#define PREFETCH(p) __builtin_prefetch(p, 0, 2)
#define THREAD_LOCAL __thread
#if defined(LSTMX_NO_VECTOR) || defined(LSTMX_EMULATE)   /* a vector is no register there */
#define HOLD(v) (void)(v)
#elif defined(__x86_64__)
#define HOLD(v) __asm__("" : "+v"(v))
#elif defined(__aarch64__)
#define HOLD(v) __asm__("" : "+w"(v))
#else
#define HOLD(v) (void)(v)
#endif
#else
#define INLINE static inline
#define ALIGNED
#define PREFETCH(p) (void)(p)
#ifdef _MSC_VER
#define THREAD_LOCAL __declspec(thread)
#else
#define THREAD_LOCAL _Thread_local
#endif
#define HOLD(v) (void)(v)
#endif
#ifdef __clang__
#define NOINLINE __attribute__((noinline))
#define UNROLL _Pragma("clang loop unroll(full)")
#elif defined(__GNUC__)
#define NOINLINE __attribute__((noinline, noclone))
#define UNROLL _Pragma("GCC unroll 16")
#else
#define NOINLINE
#define UNROLL
#endif
#define CACHE_LINE 64
#define SECOND_CACHE (512 * 1024)   /* bytes of weights that surely stay in it from step to step */
#define PASTE4(a, b, c, d) a##b##c##d
#define JOIN4(a, b, c, d) PASTE4(a, b, c, d)
#define PRAGMA(text) _Pragma(#text)
#define CLANG_TARGET(isa) PRAGMA(clang attribute push(__attribute__((target(isa))), apply_to = function))
#define GCC_TARGET(isa) PRAGMA(GCC target(isa))

#ifdef ISA_TARGET
#ifdef __clang__
CLANG_TARGET(ISA_TARGET)
#else
#pragma GCC push_options
GCC_TARGET(ISA_TARGET)
#endif
#endif

#define REAL float
#define INT int32_t
#define UINT uint32_t
#define SUFFIX _f32
#define SQRT sqrtf
#define FMA FMA_F32
#ifdef MIN_F32
#define MIN MIN_F32
#define MAX MAX_F32
#endif
#ifdef MASK_LOAD_F32
#define MASK_LOAD MASK_LOAD_F32
#define MASK_STORE MASK_STORE_F32
#endif
#define MANTISSA_BITS 23
#define ROUND_SHIFT (12582912.0f + 127)  /* 1.5 * 2^23, and the bias of exponents */
#define LOG2_E 1.44269504f
#define LN2_HIGH 0.693359375f            /* 10 bits: k * LN2_HIGH is exact */
#define LN2_LOW -2.12194440e-4f
#define EXP_MIN -87.336544f              /* ln of the smallest normal */
#define EXP_MAX 88.3762626f              /* k = 127 is the last exponent */
#define TANH_MAX 9.5f                    /* tanh rounds to 1 from 9.02 on */
#define Q_DEGREE 4
#define Q q_f32
static const float q_f32[] = {0.5f, 0.16666576989698776f, 0.041666554617204574f, 0.0083631790527225774f,
                              0.0013926183587713495f};
#define ATANH r_f32
static const float r_f32[] = {0.3333333366026371f, 0.1999985316596486f, 0.14296178997151418f, 0.10853287900440187f,
                              0.11612164612011674f};
#include "real.h"
#include "unset.h"

#define REAL double
#define INT int64_t
#define UINT uint64_t
#define SUFFIX _f64
#define SQRT sqrt
#define FMA FMA_F64
#ifdef MIN_F64
#define MIN MIN_F64
#define MAX MAX_F64
#endif
#ifdef MASK_LOAD_F64
#define MASK_LOAD MASK_LOAD_F64
#define MASK_STORE MASK_STORE_F64
#endif
#define MANTISSA_BITS 52
#define ROUND_SHIFT (6755399441055744.0 + 1023)   /* 1.5 * 2^52, and the bias */
#define LOG2_E 1.4426950408889634
#define LN2_HIGH 0.69314718036912382     /* 32 bits: k * LN2_HIGH is exact */
#define LN2_LOW 1.9082149292705877e-10
#define EXP_MIN -708.39641853226408
#define EXP_MAX 709.43613930310391
#define TANH_MAX 20.0                    /* tanh rounds to 1 from 19.06 on */
#define Q_DEGREE 10
#define Q q_f64
static const double q_f64[] = {0.5, 0.16666666666666670991, 0.041666666666666669755, 0.0083333333333261351258,
                               0.0013888888888883748305, 0.00019841269874820625271, 2.4801587325547741216e-05,
                               2.755725540020642443e-06, 2.7557273643110295328e-07, 2.5105217004720745164e-08,
                               2.0914686968086877233e-09};
#define ATANH r_f64
static const double r_f64[] = {0.3333333333333333, 0.19999999999999762, 0.1428571428580005, 0.11111111099118386,
                               0.09090909948981357, 0.07692271982430275, 0.06667589315724629, 0.05867139530651599,
                               0.05422589197440007, 0.03746071897775383, 0.07815288900461426};
#include "real.h"
#include "unset.h"

#ifdef ISA_TARGET
#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif

const lstmx_isa JOIN4(lstmx_, isa, _, ISA) = {
    .name = ISA_NAME,
    .vector_bytes = VECTOR_BYTES,
    .fma = HAS_FMA,
    .kernels = {[LSTMX_F32] = &JOIN4(kernel_table, _f32, _, ISA), [LSTMX_F64] = &JOIN4(kernel_table, _f64, _, ISA)},
    .tiles = {[LSTMX_F32] = &JOIN4(tile_table, _f32, _, ISA), [LSTMX_F64] = &JOIN4(tile_table, _f64, _, ISA)},
};
