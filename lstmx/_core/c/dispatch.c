/* Which instruction sets are compiled in, and which of them this CPU and its operating system can run. */
#include "core.h"

extern const lstmx_isa lstmx_isa_baseline;

#if defined(__x86_64__) && defined(__GNUC__) && !defined(LSTMX_NO_VECTOR)
#include <cpuid.h>
extern const lstmx_isa lstmx_isa_avx2, lstmx_isa_avx512;
static const lstmx_isa *const compiled[] = {&lstmx_isa_baseline, &lstmx_isa_avx2, &lstmx_isa_avx512};

int lstmx_isa_supported(int index) {
    if (index == 0) return 1;
    unsigned a, b, c, d, state, high;
    if (!__get_cpuid(1, &a, &b, &c, &d)) return 0;
    const int fma = c >> 12 & 1, osxsave = c >> 27 & 1;
    if (!fma || !osxsave) return 0;
    __asm__("xgetbv" : "=a"(state), "=d"(high) : "c"(0));   /* which registers the operating system saves */
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return 0;
    const int avx2 = b >> 5 & 1 && (state & 0x06) == 0x06;
    if (index == 1) return avx2;
    const unsigned wanted = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31;   /* F, DQ, BW, VL */
    return avx2 && (b & wanted) == wanted && (state & 0xe6) == 0xe6;
}
#else
static const lstmx_isa *const compiled[] = {&lstmx_isa_baseline};
int lstmx_isa_supported(int index) { return index == 0; }
#endif

int lstmx_isa_count(void) { return (int)(sizeof compiled / sizeof compiled[0]); }
const lstmx_isa *lstmx_isa_at(int index) { return compiled[index]; }
