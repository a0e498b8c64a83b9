/* Floor 0: a clock that costs next to nothing to read, for decisions that need not be exact. */
#ifndef FLEXSC_TICK_COUNT_H
#define FLEXSC_TICK_COUNT_H

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

/* About so many microseconds in ticks. */
static inline uint64_t ticks_in_us(uint32_t us)
{
#if defined(__x86_64__)
    return (uint64_t)us * 2500; /* the counter runs at 2 to 4 GHz */
#elif defined(__aarch64__)
    uint64_t frequency;
    __asm__ volatile("mrs %0, cntfrq_el0" : "=r"(frequency));
    return us * frequency / 1000000;
#else
    return (uint64_t)us * 1000;
#endif
}

#endif
