/* Floor 0: the layout of a stats page: what a loop shows of itself to whoever may look into its process.
 *
 * One memfd for each loop, named flexsc_loop, found through /proc/PID/fd.  All numbers are in the machine's byte order.
 * The loop's thread alone writes, with plain stores; each value is whole, but those of a moment are so only together
 * where `sequence` says it: it is odd while `counts` are written.  Times are in ticks (tick_count.h) unless their names
 * say otherwise; the two pairs in `ticks` and `clock_ns` tell how long one is.
 *
 * Whoever changes anything here changes FLEXSC_STATS_VERSION, and flexsc_loop/insight/layout.py, which reads it. */
#ifndef FLEXSC_STATS_PAGE_H
#define FLEXSC_STATS_PAGE_H

#include <stddef.h>
#include <stdint.h>

#define FLEXSC_STATS_MAGIC "flexstat"
#define FLEXSC_STATS_MEMFD "flexsc_loop"

enum {
    FLEXSC_STATS_VERSION = 1,
    FLEXSC_STATS_NAMES = 64,     /* of callbacks */
    FLEXSC_STATS_NAME_SIZE = 96, /* with the 0 that ends it, as every text here */
    /* Of a histogram: below 128 each value has a bucket of its own, above, each octave has 64: they are 1.6 % wide. */
    FLEXSC_STATS_OCTAVE = 64,
    FLEXSC_STATS_OCTAVES = 32,
    FLEXSC_STATS_BUCKETS = (FLEXSC_STATS_OCTAVES + 1) * FLEXSC_STATS_OCTAVE,
};

enum flexsc_stats_state {
    FLEXSC_STATS_NEW,     /* has not run yet */
    FLEXSC_STATS_RUNNING, /* is within a turn, since `turn_began` */
    FLEXSC_STATS_ASLEEP,  /* waits for something to do, since `asleep_since` */
    FLEXSC_STATS_STOPPED, /* has run */
    FLEXSC_STATS_CLOSED,
};

/* The counters, and the gauges among them: X(name) in the order of the layout. */
#define FLEXSC_STATS_COUNTERS(X)                                                                                       \
    X(turns)          /* of the loop */                                                                                \
    X(callbacks)      /* that were run from the ready queue */                                                         \
    X(deliveries)     /* of what has arrived at an endpoint */                                                         \
    X(timers_run)     /* whose time has come */                                                                        \
    X(busy)           /* ticks in callbacks and deliveries */                                                          \
    X(asleep)         /* ticks in which there was nothing to do */                                                     \
    X(in_calls)       /* ticks for handing entries over, and for looking what has come without sleeping */             \
    X(submitted)      /* entries filled */                                                                             \
    X(batches)        /* times that entries were handed over */                                                        \
    X(completions)    /* results taken */                                                                              \
    X(syscalls)       /* that the loop's thread has made */                                                            \
    X(wakeups)        /* of a sleeper */                                                                               \
    X(spins)          /* looks before a sleep */                                                                       \
    X(pool_empty)     /* receives that found no buffer */                                                              \
    X(overflows)      /* completions that found no place at first */                                                   \
    X(bytes_in)       /* received by transports and the loop's sock_ calls */                                          \
    X(bytes_out)      /* sent */                                                                                       \
    X(messages_in)    /* times that something was received */                                                          \
    X(messages_out)   /* times that something was sent */                                                              \
    X(accepts)        /* connections that servers have taken */                                                        \
    X(jobs)           /* given to executors of this package by run_in_executor() */                                    \
    X(jobs_done)      /* whose result has come back */                                                                 \
    X(job_wait)       /* ticks from a job's submission to its beginning, of all together */                                  \
    X(files_at_once)  /* calls on files that were done within the call */                                              \
    X(files_queued)   /* made by entries */                                                                            \
    X(files_by_threads)                                                                                                \
    X(file_bytes_read)                                                                                                 \
    X(file_bytes_written)                                                                                              \
    X(stalls)         /* turns that the watchdog has reported */                                                       \
    X(switches)       /* times that a green thread was resumed */

#define FLEXSC_STATS_GAUGES(X)                                                                                         \
    X(ready)          /* callbacks that wait for their turn */                                                         \
    X(timers)         /* set, cancelled ones included */                                                               \
    X(in_flight)      /* operations */                                                                                 \
    X(streams)        /* open stream connections */                                                                    \
    X(tls)            /* of them, those with TLS */                                                                    \
    X(listeners)                                                                                                       \
    X(datagrams)      /* datagram endpoints */                                                                         \
    X(pipes)          /* ends of pipes */                                                                              \
    X(pool_buffers)   /* receive buffers in use for receiving */                                                       \
    X(pool_most)      /* as many there may be */                                                                       \
    X(green_threads)

struct flexsc_counts {
#define FLEXSC_STATS_FIELD(name) uint64_t name;
    FLEXSC_STATS_COUNTERS(FLEXSC_STATS_FIELD)
    FLEXSC_STATS_GAUGES(FLEXSC_STATS_FIELD)
#undef FLEXSC_STATS_FIELD
};

/* What the count is called that stands `at` places behind the first. */
static inline const char *stats_count_name(size_t at)
{
#define FLEXSC_STATS_NAME(name) #name,
    static const char *const names[] = {
        FLEXSC_STATS_COUNTERS(FLEXSC_STATS_NAME)
        FLEXSC_STATS_GAUGES(FLEXSC_STATS_NAME)
    };
#undef FLEXSC_STATS_NAME
    return names[at];
}

struct flexsc_histogram {
    uint64_t total; /* of all values together */
    uint64_t most;  /* the largest one */
    uint64_t buckets[FLEXSC_STATS_BUCKETS];
};

struct flexsc_stats_page {
    char magic[8]; /* written last */
    uint32_t version;
    uint32_t size; /* of all of it */
    int32_t pid;   /* of the process, as it knows itself */
    uint32_t number;        /* of the loop in its process: the least, from 1, that no other open one had */
    int32_t thread;         /* id of the thread that runs the loop or was the last to; 0: none yet */
    int32_t syscall_thread; /* likewise; 0: none, or not known */
    int32_t cpu;            /* of the syscall thread; -1: any, -2: there is none */
    uint32_t state;
    uint32_t running; /* place in `names` of the callback that runs, from 1; 0: none does */
    uint32_t unused;
    char pages[8];    /* "kernel" or "user" */
    char python[16];
    char reason[256]; /* of the last choice of page and thread */
    uint64_t made_ns; /* of CLOCK_MONOTONIC */
    uint64_t ticks[2], clock_ns[2];
    uint64_t turn_began, asleep_since;
    uint64_t sequence;
    struct flexsc_counts counts;
    char names[FLEXSC_STATS_NAMES][FLEXSC_STATS_NAME_SIZE];
    struct flexsc_histogram turn; /* how long turns took, their waits not included */
    struct flexsc_histogram lag;  /* how long, at most, what a turn found to do had waited for it */
};

_Static_assert(offsetof(struct flexsc_stats_page, pages) == 48, "the layout has no holes");
_Static_assert(offsetof(struct flexsc_stats_page, made_ns) == 328, "the layout has no holes");
_Static_assert(offsetof(struct flexsc_stats_page, counts) == 392, "the layout has no holes");

static inline uint32_t histogram_bucket(uint64_t value)
{
    if (value < 2 * FLEXSC_STATS_OCTAVE)
        return (uint32_t)value;
    uint32_t octave = 63 - (uint32_t)__builtin_clzll(value) - 6;
    uint32_t bucket = octave * FLEXSC_STATS_OCTAVE + (uint32_t)(value >> octave);
    return octave < FLEXSC_STATS_OCTAVES ? bucket : FLEXSC_STATS_BUCKETS - 1;
}

/* The smallest value that falls into a bucket; of the one behind the last, the first that falls into none. */
static inline uint64_t histogram_least(uint32_t bucket)
{
    if (bucket < 2 * FLEXSC_STATS_OCTAVE)
        return bucket;
    uint32_t octave = bucket / FLEXSC_STATS_OCTAVE - 1;
    return (uint64_t)(bucket - octave * FLEXSC_STATS_OCTAVE) << octave;
}

static inline void histogram_add(struct flexsc_histogram *histogram, uint64_t value)
{
    histogram->total += value;
    if (value > histogram->most)
        histogram->most = value;
    histogram->buckets[histogram_bucket(value)]++;
}

#endif
