/* Floor 0, private to user_page*, above calls: the page as a whole, and one pass of whoever serves it.
 *
 * The thread (user_page_thread.c) and the loop's side (user_page_loop.c) stand above this and make the passes. */
#ifndef FLEXSC_USER_PAGE_SERVICE_H
#define FLEXSC_USER_PAGE_SERVICE_H

#include <pthread.h>
#include <sys/types.h>

#include "user_page.h"
#include "user_page_calls.h"

/* Where the pinned thread is. */
enum thread_state { THREAD_AWAKE, THREAD_ASLEEP /* wants work */, THREAD_STALLED /* wants room in the ring */ };

/* Who wants the guard. */
enum guard_want { WANT_NOBODY, WANT_LOOP, WANT_LOOP_THREAD_SLEEPS };

enum { GUARD_FREE, GUARD_HELD, GUARD_WAITED_FOR /* held, and somebody sleeps until it is free */ };

struct flexsc_page {
    /* The loop's. */
    _Alignas(CACHE_LINE) struct flexsc_entry *free_entries;
    struct flexsc_entry *unused, *unused_end; /* the part of the newest chunk never taken yet */
    struct flexsc_entry *chunks;              /* a chunk's first entry links the chunks */
    struct flexsc_entry *newest, *oldest;     /* submitted, not published; `next` goes from new to old */
    bool pinned;                              /* the thread is the server */
    int64_t starved_ns;                       /* the loop has slept so long for a thread that had no CPU */

    /* From the loop to the server: published entries, newest first. */
    _Alignas(CACHE_LINE) _Atomic(struct flexsc_entry *) inbox;

    /* Rarely written, read by both. */
    _Alignas(CACHE_LINE) _Atomic uint32_t thread_state; /* enum thread_state */
    _Atomic uint32_t vain_passes;                       /* that had no result to tell of, the last before a sleep too */
    _Atomic uint32_t want;                              /* enum guard_want; a futex */
    _Atomic uint32_t touched; /* the loop has served: what the thread knows of the page may be old */
    _Atomic uint32_t stop;
    _Atomic uint32_t held; /* the thread is not where it belongs: it neither begins nor ends.  A futex */
    pid_t owner;

    _Alignas(CACHE_LINE) _Atomic uint32_t guard; /* a futex */
    _Atomic uint32_t unbegun;                    /* whether its last holder has left anything in `fresh` */

    /* The server's (with a thread: under the guard). */
    _Alignas(CACHE_LINE) struct flexsc_entry *fresh; /* taken from the inbox, not tried yet */
    unsigned budget;                                 /* calls per pass */
    struct calls calls;

    /* The thread's. */
    pthread_t thread;
    int cpu; /* -1: any */
    int64_t spin_ns;
    _Atomic int tid;
    _Atomic int64_t past_cpu_ns; /* of threads stopped earlier */

    struct results results;
    struct fds fds;
};

/* Make the published entries the server's, behind those that it has. */
HIDDEN void service_take_inbox(struct flexsc_page *page);

/* Run new entries, then tell epoll what they wait for.  Returns whether there was anything to do. */
HIDDEN bool service_run_fresh(struct flexsc_page *page);

/* Visit what is ready now, once.  Returns whether there was anything that could be done. */
HIDDEN bool service_run_ready(struct flexsc_page *page);

/* End an entry from outside. */
HIDDEN void service_end(struct flexsc_page *page, struct flexsc_entry *entry);

/* ---- the guard: keeps the loop and the thread apart where both may serve ---- */

HIDDEN void guard_lock(struct flexsc_page *page, _Atomic uint64_t *syscalls);
/* Whether it was free, and is ours now. */
HIDDEN bool guard_try(struct flexsc_page *page);
HIDDEN void guard_unlock(struct flexsc_page *page, _Atomic uint64_t *syscalls);

static inline bool guard_is_wanted(struct flexsc_page *page) {
    return atomic_load_explicit(&page->want, memory_order_relaxed) != WANT_NOBODY;
}

/* The loop's side: end the thread's sleep in epoll. */
HIDDEN void ring_doorbell(struct flexsc_page *page);

#endif
