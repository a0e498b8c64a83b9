/* Floor 0, private to user_page*.c: the page's inside.  Nobody else includes this.
 *
 * user_page_loop.c         memory, the loop's side, sleeping and waking
 * user_page_fds.c     what is known of each fd: who waits on it, its epoll registration
 * user_page_calls.c   making the calls
 * user_page_thread.c  the pinned thread */
#ifndef FLEXSC_USER_PAGE_INTERNAL_H
#define FLEXSC_USER_PAGE_INTERNAL_H

#include <pthread.h>
#include <stddef.h>
#include <sys/epoll.h>
#include <sys/types.h>
#include <time.h>

#include "user_page.h"

#define HIDDEN __attribute__((visibility("hidden")))
#define CACHE_LINE 64

enum {
    ENTRIES_PER_CHUNK = 256,
    FDS_PER_BLOCK = 256,
    EVENTS_PER_LOOK = 512,
    BUFFERS_PER_VISIT = 4,    /* of one receive, before others get their turn */
    DATAGRAMS_PER_VISIT = 32, /* likewise */
    SENDS_PER_VISIT = 4,      /* of one send, likewise */
    ACCEPTS_PER_VISIT = 64,
    ENTRIES_PER_VISIT = 16,   /* finished on one fd before others get their turn */
    VISITS_PER_PASS = 64,     /* ready fds served before the loop gets to work on what they brought */
    CALLS_PER_HOLD = 64,      /* pinned thread: before it lets go of the guard */
};

/* On which list an entry is (its `where`). */
enum where { NOWHERE, IN_FRESH, IN_READERS, IN_WRITERS, IN_POLLERS, IN_SPILL };

/* What became of one try. */
enum outcome {
    FINISHED, /* the last completion is posted, the entry is the loop's again */
    BLOCKED,  /* nothing to be had until epoll says so */
    AGAIN,    /* has had its share of this pass, could go on */
    BEHIND,   /* not tried: others wait on the same side of the fd */
};

enum { READABLE = 1, WRITABLE = 2 };

/* Who may close the fd decides how epoll is used. */
enum fd_kind {
    FD_UNKNOWN,
    FD_OWNED,     /* one edge-triggered registration for its whole life */
    FD_SHARED,    /* others may close and reopen the number: one-shot, armed anew for each wait */
    FD_UNPOLLABLE /* epoll refuses it: a regular file */
};

enum {
    FD_REGISTERED = 1 << 0, /* epoll knew the fd when we last told it something */
    FD_REARM = 1 << 1,      /* tell epoll again even if the events are covered: it looks at the level then */
    FD_ENDING = 1 << 2,     /* hang-up, error or urgent data were seen: a short read does not mean empty */
    FD_ON_READY = 1 << 3,
    FD_ON_UNSETTLED = 1 << 4,
    FD_TCP_ASKED = 1 << 5,
    FD_TCP = 1 << 6, /* a plain TCP socket: a short read means that its queue was empty */
};

struct fd_state {
    struct flexsc_entry *readers;
    struct flexsc_entry *writers;
    struct flexsc_entry *pollers;
    struct fd_state *next_ready;
    struct fd_state *next_unsettled;
    int32_t fd;
    uint32_t generation; /* goes into epoll_data: events of an earlier life are dropped */
    uint32_t armed;      /* events that epoll will report */
    uint8_t kind;        /* enum fd_kind */
    uint8_t ready;       /* READABLE, WRITABLE: worth a try */
    uint8_t flags;       /* FD_* */
};

_Static_assert(sizeof(struct fd_state) <= CACHE_LINE, "one cache line per fd");

struct fd_block {
    _Alignas(CACHE_LINE) struct {
        _Alignas(CACHE_LINE) struct fd_state state;
    } fds[FDS_PER_BLOCK];
};

struct fd_list {
    struct fd_state *first;
    struct fd_state *last;
    unsigned count;
};

/* Where the loop is. */
enum loop_sleep { LOOP_AWAKE, LOOP_IN_FUTEX, LOOP_IN_EPOLL, LOOP_POKED };

/* Where the pinned thread is. */
enum thread_state { THREAD_AWAKE, THREAD_ASLEEP /* wants work */, THREAD_STALLED /* wants room in the ring */ };

/* Who wants the guard. */
enum guard_want { WANT_NOBODY, WANT_LOOP, WANT_LOOP_THREAD_SLEEPS };

/* The server's end of a pool of receive buffers. */
struct pool_end {
    struct flexsc_pool_slot *ring;
    uint16_t head;
    uint16_t mask;
};

struct flexsc_page {
    /* The loop's. */
    _Alignas(CACHE_LINE) struct flexsc_entry *free_entries;
    struct flexsc_entry *unused, *unused_end; /* the part of the newest chunk never taken yet */
    struct flexsc_entry *chunks;              /* a chunk's first entry links the chunks */
    struct flexsc_entry *newest, *oldest;     /* submitted, not published; `next` goes from new to old */
    bool pinned;                              /* the thread is the server */
    _Atomic uint32_t head;                    /* of the completion ring */

    /* From the loop to the server: published entries, newest first. */
    _Alignas(CACHE_LINE) _Atomic(struct flexsc_entry *) inbox;

    /* From the server to the loop. */
    _Alignas(CACHE_LINE) _Atomic uint32_t tail;

    /* Rarely written, read by both. */
    _Alignas(CACHE_LINE) _Atomic uint32_t loop_sleep; /* enum loop_sleep; the loop's futex */
    _Atomic uint32_t thread_state;                    /* enum thread_state */
    _Atomic uint32_t want;                            /* enum guard_want; a futex */
    _Atomic uint32_t stop;
    struct flexsc_completion *ring;
    uint32_t ring_size;
    int epoll_fd;
    int doorbell; /* an eventfd, edge-triggered in epoll and so never read */
    pid_t owner;

    _Alignas(CACHE_LINE) _Atomic uint32_t guard; /* a futex: 0 free, 1 held, 2 held and waited for */

    /* The server's (with a thread: under the guard). */
    _Alignas(CACHE_LINE) struct flexsc_entry *fresh; /* taken from the inbox, not tried yet */
    struct flexsc_entry *spill;                      /* ended, their completions did not fit */
    struct fd_list ready;                            /* fds that are worth a visit */
    struct fd_state *unsettled;                      /* fds that epoll has to be told of */
    _Atomic uint64_t *syscalls;                      /* the counter of whoever serves */
    uint32_t head_seen;
    uint32_t posted; /* the ring's tail */
    unsigned parked; /* entries that wait on fds */
    unsigned budget; /* calls per pass */
    bool held_back;
    bool no_pwait2;
    struct pool_end pool, datagrams;
    struct fd_block **blocks;
    unsigned block_count;

    /* The thread's. */
    pthread_t thread;
    int cpu;
    int64_t spin_ns;
    _Atomic uint32_t start_result; /* of flexsc_thread_start(): 1 while not known, then 0 or -errno; a futex */
    _Atomic int tid;
    _Atomic int64_t past_cpu_ns; /* of threads stopped earlier */

    struct flexsc_counters counters;
    struct epoll_event events[EVENTS_PER_LOOK];
};

#define DOORBELL_DATA UINT64_MAX

static inline void count(_Atomic uint64_t *counter) {
    /* One writer: no need for a locked add. */
    atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + 1, memory_order_relaxed);
}

static inline void count_syscall(struct flexsc_page *page) { count(page->syscalls); }

static inline void cpu_pause(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb" ::: "memory");
#endif
}

/* ---- lists of entries: the first one's `prev` is the last, the last one's `next` is NULL ---- */

static inline void list_push(struct flexsc_entry **list, struct flexsc_entry *entry, enum where where) {
    struct flexsc_entry *first = *list;
    entry->where = (uint8_t)where;
    entry->next = NULL;
    if (first == NULL) {
        entry->prev = entry;
        *list = entry;
    } else {
        entry->prev = first->prev;
        first->prev->next = entry;
        first->prev = entry;
    }
}

static inline void list_remove(struct flexsc_entry **list, struct flexsc_entry *entry) {
    if (*list == entry) {
        *list = entry->next;
        if (entry->next != NULL)
            entry->next->prev = entry->prev;
    } else {
        entry->prev->next = entry->next;
        if (entry->next != NULL)
            entry->next->prev = entry->prev;
        else
            (*list)->prev = entry->prev;
    }
    entry->where = NOWHERE;
}

/* ---- user_page_loop.c ---- */

HIDDEN void *page_map(size_t size);
HIDDEN int page_futex_wait(_Atomic uint32_t *word, uint32_t value, int64_t timeout_ns, _Atomic uint64_t *syscalls);
HIDDEN void page_futex_wake(_Atomic uint32_t *word, _Atomic uint64_t *syscalls);
/* The server's side: end the loop's sleep in the futex, if it sleeps there. */
HIDDEN void page_wake_sleeping_loop(struct flexsc_page *page);
HIDDEN void page_ring_doorbell(struct flexsc_page *page);
HIDDEN void page_guard_lock(struct flexsc_page *page, _Atomic uint64_t *syscalls);
HIDDEN void page_guard_unlock(struct flexsc_page *page, _Atomic uint64_t *syscalls);
HIDDEN int page_epoll(struct flexsc_page *page, int64_t timeout_ns);

/* ---- user_page_calls.c ---- */

/* Whether a result could be posted: no call is made before this has said yes. */
HIDDEN bool page_has_room(struct flexsc_page *page);
/* Take the entry off its list and post its last completion; the entry is not the server's any more. */
HIDDEN void page_finish(struct flexsc_page *page, struct flexsc_entry *entry, int32_t res, uint32_t flags);
/* Post a completion after which the entry goes on.  There must be room. */
HIDDEN void page_post_more(struct flexsc_page *page, const struct flexsc_entry *entry, int32_t res);
HIDDEN void page_end(struct flexsc_page *page, struct flexsc_entry *entry);
HIDDEN enum outcome page_try(struct flexsc_page *page, struct fd_state *state, struct flexsc_entry *entry);
HIDDEN void page_take_inbox(struct flexsc_page *page);
/* Run new entries, then tell epoll what they wait for.  Returns whether there was anything to do. */
HIDDEN bool page_run_fresh(struct flexsc_page *page);

/* ---- user_page_fds.c ---- */

HIDDEN struct fd_state *fd_find(const struct flexsc_page *page, int fd);
HIDDEN bool fd_may_try(const struct fd_state *state, const struct flexsc_entry *entry, enum outcome *otherwise);
HIDDEN void fd_park(struct flexsc_page *page, struct flexsc_entry *entry, enum outcome outcome);
HIDDEN void fd_unpark(struct flexsc_page *page, struct flexsc_entry *entry);
HIDDEN void fd_forget(struct fd_state *state);
HIDDEN void fd_forget_idle(struct flexsc_page *page, int fd);
HIDDEN bool fd_will_tell_of_more(const struct fd_state *state);
HIDDEN bool fd_drained_by_short_read(struct flexsc_page *page, struct fd_state *state);
HIDDEN void page_settle(struct flexsc_page *page);
HIDDEN void page_mark(struct flexsc_page *page, int events);
HIDDEN bool page_run_ready(struct flexsc_page *page);

static inline bool side_is_reader(uint8_t call) {
    return call == CALL_RECV || call == CALL_RECVMSG || call == CALL_ACCEPT || call == CALL_READ;
}

#endif
