/* Floor 0: whether the loop's own thread looks for completions for a moment before it sleeps.
 *
 * A peer that answers within microseconds ends a sleep almost before it has begun, and going to sleep and waking up
 * cost more CPU time than the sleep saves: a virtual CPU that halts comes back with cold caches.  So the thread looks
 * first where that has lately been right: after some sleeps that were short.  Looking in vain costs no more than
 * SPIN_NS, and each time twice as many short sleeps must come before the next look. */
#ifndef FLEXSC_SPIN_H
#define FLEXSC_SPIN_H

#include <stdbool.h>
#include <stdint.h>
#include <time.h>

enum {
    SPIN_NS = 20000,       /* about what going to sleep and waking up may cost */
    SPIN_SHORT_NS = 50000, /* a short sleep, the time that waking up takes included */
    SPIN_AFTER = 4,        /* short sleeps in a row before the first look */
    SPIN_AFTER_MOST = 4096,
    SPIN_FEW = 4 /* after a turn with more completions than that a sleep costs little for each, and gathers more */
};

struct flexsc_spin {
    uint32_t short_sleeps; /* in a row */
    uint32_t needed;       /* so many before a look; 0 stands for SPIN_AFTER */
    uint64_t looks;
};

static inline int64_t flexsc_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* Between two looks. */
static inline void spin_relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static inline uint32_t spin_needed(const struct flexsc_spin *spin)
{
    return spin->needed ? spin->needed : SPIN_AFTER;
}

/* How long to look before the next sleep, in nanoseconds, 0 for not at all; `reaped`: completions of the last turn. */
static inline int64_t spin_worth(const struct flexsc_spin *spin, uint32_t reaped)
{
    return reaped <= SPIN_FEW && spin->short_sleeps >= spin_needed(spin) ? SPIN_NS : 0;
}

/* A look is over: it has found something, or it was in vain. */
static inline void spin_looked(struct flexsc_spin *spin, bool found)
{
    spin->looks++;
    if (found) {
        spin->needed = SPIN_AFTER;
        return;
    }
    uint32_t needed = spin_needed(spin);
    spin->needed = needed < SPIN_AFTER_MOST ? 2 * needed : SPIN_AFTER_MOST;
    spin->short_sleeps = 0;
}

/* A sleep is over that has taken so long. */
static inline void spin_slept(struct flexsc_spin *spin, int64_t ns)
{
    if (ns >= SPIN_SHORT_NS)
        spin->short_sleeps = 0;
    else if (spin->short_sleeps < SPIN_AFTER_MOST)
        spin->short_sleeps++;
}

#endif
