/* Floor 3: a clock that costs next to nothing to read, for decisions that need not be exact. */
#ifndef FLEXSC_TICKS_H
#define FLEXSC_TICKS_H

#include <stdint.h>
#include <time.h>

/* Now, in ticks of no particular length. */
static inline uint64_t ticks_now(void)
{
#if defined(__x86_64__)
    return __builtin_ia32_rdtsc();
#elif defined(__aarch64__)
    uint64_t ticks;
    __asm__ volatile("mrs %0, cntvct_el0" : "=r"(ticks));
    return ticks;
#else
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
#endif
}

/* About 400 µs in ticks. */
static inline uint64_t ticks_in_400_us(void)
{
#if defined(__x86_64__)
    return 1000000; /* the counter runs at 2 to 4 GHz */
#elif defined(__aarch64__)
    uint64_t frequency;
    __asm__ volatile("mrs %0, cntfrq_el0" : "=r"(frequency));
    return frequency / 2500;
#else
    return 400000;
#endif
}

#endif
