/* Floor 0: writing a stats page (stats_page.h).
 *
 * A page is always there to be written: where a memfd is not to be had, and in a forked child, it is private memory
 * that nobody can look at. */
#ifndef FLEXSC_STATS_H
#define FLEXSC_STATS_H

#include <fcntl.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "probe.h"
#include "spin.h"
#include "stats_page.h"
#include "tick_count.h"

enum {
    STATS_CLOCK_US = 100000, /* the two clocks are compared so often */
    STATS_COPY_US = 1000,    /* a loop that never sleeps shows its counters so often */
};

#ifndef MFD_CLOEXEC
#define MFD_CLOEXEC 1U
#define MFD_ALLOW_SEALING 2U
#endif
#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 8U
#endif
#ifndef F_ADD_SEALS
#define F_ADD_SEALS 1033
#define F_SEAL_SEAL 1
#define F_SEAL_SHRINK 2
#define F_SEAL_GROW 4
#endif
#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 16
#endif

struct flexsc_stats {
    struct flexsc_stats_page *page;
    int fd;                      /* -1: nobody can look */
    struct flexsc_counts counts; /* copied into the page once a turn */
    uint64_t turn_began;         /* 0: is in no turn */
    uint64_t turn_in_calls;      /* ticks of this turn that belong to `in_calls` */
    uint64_t looked;             /* when it was last looked for completions */
    uint64_t copied;
    uint64_t compared;
};

static inline void stats_text(char *to, size_t size, const char *from)
{
    size_t length = strnlen(from, size - 1);
    memcpy(to, from, length);
    memset(to + length, 0, size - length);
}

static inline void *stats_memory(int fd)
{
    int how = fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED;
    void *memory = mmap(NULL, sizeof(struct flexsc_stats_page), PROT_READ | PROT_WRITE, how, fd, 0);
    return memory == MAP_FAILED ? NULL : memory;
}

static inline int stats_memfd(void)
{
    long fd = -1;
#ifdef SYS_memfd_create
    fd = syscall(SYS_memfd_create, FLEXSC_STATS_MEMFD, MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL);
    if (fd < 0) /* before Linux 6.3 */
        fd = syscall(SYS_memfd_create, FLEXSC_STATS_MEMFD, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd >= 0 && ftruncate((int)fd, sizeof(struct flexsc_stats_page)) < 0) {
        close((int)fd);
        fd = -1;
    }
#endif
    return (int)fd;
}

/* False when there is no memory. */
static inline bool stats_open(struct flexsc_stats *stats, uint32_t number)
{
    memset(stats, 0, sizeof *stats);
    stats->fd = stats_memfd();
    stats->page = stats_memory(stats->fd);
    if (!stats->page) {
        if (stats->fd >= 0)
            close(stats->fd);
        stats->fd = -1;
        stats->page = stats_memory(-1);
        if (!stats->page)
            return false;
    }
    struct flexsc_stats_page *page = stats->page;
    page->version = FLEXSC_STATS_VERSION;
    page->size = sizeof *page;
    page->pid = (int32_t)getpid();
    page->number = number;
    page->cpu = -2;
    page->made_ns = (uint64_t)flexsc_now_ns();
    page->ticks[0] = page->ticks[1] = stats->compared = ticks_now();
    page->clock_ns[0] = page->clock_ns[1] = (uint64_t)flexsc_now_ns();
    atomic_thread_fence(memory_order_release); /* who sees the magic sees the rest */
    memcpy(page->magic, FLEXSC_STATS_MAGIC, sizeof page->magic);
    if (stats->fd >= 0) {
        /* A reader that maps it is safe from a file that shrinks, and nobody else can write to it. */
        int seals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
        if (fcntl(stats->fd, F_ADD_SEALS, seals | F_SEAL_FUTURE_WRITE) < 0)
            (void)fcntl(stats->fd, F_ADD_SEALS, seals);
    }
    return true;
}

static inline void stats_hide(struct flexsc_stats *stats)
{
    if (stats->fd >= 0)
        close(stats->fd);
    stats->fd = -1;
}

/* This process is a forked child: the page is its parent's, and what is written from now on is nobody's. */
static inline void stats_disown(struct flexsc_stats *stats)
{
    struct flexsc_stats_page *copy = stats_memory(-1);
    if (copy) {
        memcpy(copy, stats->page, sizeof *copy);
        (void)mremap(copy, sizeof *copy, sizeof *copy, MREMAP_MAYMOVE | MREMAP_FIXED, stats->page);
    }
    stats_hide(stats);
}

static inline void stats_close(struct flexsc_stats *stats)
{
    stats_hide(stats);
    if (stats->page)
        munmap(stats->page, sizeof *stats->page);
    stats->page = NULL;
}

/* Show what has been counted. */
static inline void stats_copy(struct flexsc_stats *stats, uint64_t now)
{
    struct flexsc_stats_page *page = stats->page;
    stats->copied = now;
    page->sequence++;
    atomic_thread_fence(memory_order_release); /* the odd number is seen before any of the new counts */
    page->counts = stats->counts;
    atomic_thread_fence(memory_order_release); /* and the even one after all of them */
    page->sequence++;
}

static inline void stats_compare_clocks(struct flexsc_stats *stats, uint64_t now)
{
    struct flexsc_stats_page *page = stats->page;
    uint64_t ns = (uint64_t)flexsc_now_ns();
    stats->compared = now;
    if (now < page->ticks[1]) { /* the counter has been set: begin anew */
        page->ticks[0] = now;
        page->clock_ns[0] = ns;
    }
    page->ticks[1] = now;
    page->clock_ns[1] = ns;
}

/* Nanoseconds in a tick. */
static inline double stats_tick_ns(const struct flexsc_stats *stats)
{
    const struct flexsc_stats_page *page = stats->page;
    uint64_t ticks = page->ticks[1] - page->ticks[0];
    return ticks ? (double)(page->clock_ns[1] - page->clock_ns[0]) / (double)ticks : 1000.0 / (double)ticks_in_us(1);
}

static inline uint64_t stats_since(uint64_t then, uint64_t now)
{
    return now > then ? now - then : 0; /* the counters of two CPUs may be a little apart */
}

/* The callbacks of a turn have run. */
static inline void stats_turn_ends(struct flexsc_stats *stats, uint64_t now)
{
    if (!stats->turn_began)
        return;
    uint64_t took = stats_since(stats->turn_began, now);
    stats->counts.busy += stats_since(stats->turn_in_calls, took);
    stats->counts.in_calls += stats->turn_in_calls;
    histogram_add(&stats->page->turn, took);
    probe_turn_end(stats->page->number, took);
    stats->turn_began = 0;
    stats->turn_in_calls = 0;
}

/* The loop is about to sleep, and what it has counted may stand for long. */
static inline void stats_sleep_begins(struct flexsc_stats *stats, uint64_t ended, uint64_t now)
{
    struct flexsc_stats_page *page = stats->page;
    stats->counts.in_calls += stats_since(ended, now);
    page->running = 0;
    page->asleep_since = now;
    page->state = FLEXSC_STATS_ASLEEP;
    stats_copy(stats, now);
}

/* Completions have been taken, and callbacks are run next.
 *
 * `began`: when the wait did; it slept or not.  `late`: seconds that a timer was due before now. */
static inline void stats_turn_begins(struct flexsc_stats *stats, uint64_t began, uint64_t now, bool slept, double late)
{
    struct flexsc_stats_page *page = stats->page;
    uint64_t passed = stats_since(began, now);
    uint64_t lag = slept || !stats->looked ? 0 : stats_since(stats->looked, now);
    if (slept) {
        stats->counts.asleep += passed;
        probe_wake(page->number, passed);
    } else
        stats->counts.in_calls += passed;
    if (late > 0) {
        double ticks = late * 1e9 / stats_tick_ns(stats);
        if (ticks > (double)lag)
            lag = ticks < 1e18 ? (uint64_t)ticks : (uint64_t)1e18;
    }
    histogram_add(&page->lag, lag);
    probe_turn_begin(page->number, lag);
    stats->turn_began = page->turn_began = now;
    page->state = FLEXSC_STATS_RUNNING;
    stats->looked = now;
    if (stats_since(stats->compared, now) > ticks_in_us(STATS_CLOCK_US) || now < stats->compared ||
        page->ticks[0] == page->ticks[1])
        stats_compare_clocks(stats, now);
}

/* What a call has returned that was to receive. */
static inline void stats_received(struct flexsc_stats *stats, ssize_t size)
{
    if (size > 0) {
        stats->counts.bytes_in += (size_t)size;
        stats->counts.messages_in++;
    }
}

static inline void stats_sent(struct flexsc_stats *stats, ssize_t size)
{
    if (size > 0) {
        stats->counts.bytes_out += (size_t)size;
        stats->counts.messages_out++;
    }
}

/* One of a kind has ended.  The loop may have been closed before, and said that there is none. */
static inline void stats_less(uint64_t *gauge) { *gauge -= *gauge != 0; }

/* The loop is closed: what is still open belongs to whoever holds it. */
static inline void stats_no_endpoints(struct flexsc_stats *stats)
{
    struct flexsc_counts *counts = &stats->counts;
    counts->streams = counts->tls = counts->listeners = counts->datagrams = counts->pipes = 0;
    counts->green_threads = 0;
}

/* Whether the counters are due to be shown. */
static inline bool stats_copy_due(const struct flexsc_stats *stats, uint64_t now)
{
    return stats_since(stats->copied, now) > ticks_in_us(STATS_COPY_US) || now < stats->copied;
}

static inline void stats_state(struct flexsc_stats *stats, uint32_t state, int32_t thread)
{
    struct flexsc_stats_page *page = stats->page;
    uint64_t now = ticks_now();
    if (thread)
        page->thread = thread;
    stats_turn_ends(stats, now);
    stats->looked = 0; /* what happened while it did not run was waited for by nobody */
    page->running = 0;
    page->turn_began = now;
    page->state = state;
    stats_compare_clocks(stats, now);
    stats_copy(stats, now);
}

#endif
