/* The control word of the floating-point unit. */
#ifndef LSTMX_CONTROL_H
#define LSTMX_CONTROL_H

#include <stdint.h>

/* Subnormals cost up to a hundred times a normal operation and mean nothing here: kernels flush them. */
#if defined(__x86_64__) && defined(__GNUC__)
static inline unsigned flush_subnormals(void) {
    const unsigned saved = __builtin_ia32_stmxcsr();
    __builtin_ia32_ldmxcsr(saved | 0x8040u);   /* FTZ and DAZ */
    return saved;
}
static inline void restore_control(unsigned saved) { __builtin_ia32_ldmxcsr(saved); }
#elif defined(__aarch64__) && defined(__GNUC__)
static inline unsigned flush_subnormals(void) {
    uint64_t saved;
    __asm__ volatile("mrs %0, fpcr" : "=r"(saved));
    __asm__ volatile("msr fpcr, %0" : : "r"(saved | (UINT64_C(1) << 24)) : "memory");
    return (unsigned)saved;
}
static inline void restore_control(unsigned saved) { __asm__ volatile("msr fpcr, %0" : : "r"((uint64_t)saved) : "memory"); }
#else
static inline unsigned flush_subnormals(void) { return 0; }
static inline void restore_control(unsigned saved) { (void)saved; }
#endif
#endif
