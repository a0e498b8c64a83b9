/* Floor 0, private to user_page*, the lowest layer: results, from the server to the loop.
 *
 * Owns: the completion ring, the spill, the word that says how the loop sleeps.  Calls no other layer.
 *
 * Nothing is called whose result could not be posted, with one exception: what is ended from outside (cancelled,
 * closed under it) is kept on the `spill` list until the ring has room, and until then nothing else is called. */
#ifndef FLEXSC_USER_PAGE_RESULTS_H
#define FLEXSC_USER_PAGE_RESULTS_H

#include "user_page_lists.h"

/* Where the loop is. */
enum loop_sleep { LOOP_AWAKE, LOOP_IN_FUTEX, LOOP_IN_EPOLL, LOOP_POKED };

struct results {
    _Alignas(CACHE_LINE) _Atomic uint32_t head; /* the loop's */
    _Alignas(CACHE_LINE) _Atomic uint32_t tail; /* the server's */

    /* Rarely written, read by both. */
    _Alignas(CACHE_LINE) _Atomic uint32_t loop_sleep; /* enum loop_sleep; the loop's futex */
    uint32_t size;
    struct flexsc_completion *ring;

    /* The server's. */
    _Alignas(CACHE_LINE) struct flexsc_entry *spill; /* ended, their completions did not fit */
    _Atomic uint64_t *syscalls;                      /* the counter of whoever serves */
    uint32_t head_seen;
    uint32_t posted;         /* the ring's tail */
    uint32_t posted_before;  /* this pass */
    bool held_back;

    struct flexsc_counters counters;
};

/* `size`: slots of the ring, a power of two.  0 or -errno. */
HIDDEN int results_open(struct results *results, unsigned size);
HIDDEN void results_close(struct results *results);

/* ---- the server's side ---- */

/* The thread begins a pass. */
static inline void results_begin_pass(struct results *results) { results->posted_before = results->posted; }
static inline bool results_posted_in_pass(const struct results *results) {
    return results->posted != results->posted_before;
}

/* Whether a result could be posted: no call is made before this has said yes. */
HIDDEN bool results_have_room(struct results *results);

/* How many completions fit, as far as is known without another look. */
static inline uint32_t results_room_seen(const struct results *results) {
    return results->size - (results->posted - results->head_seen);
}

/* Post the last completion of an entry that is on no list: it is not the server's any more.  It spills if it must. */
HIDDEN void results_last(struct results *results, struct flexsc_entry *entry, int32_t res, uint32_t flags);

/* Post a completion after which the entry goes on.  There must be room. */
HIDDEN void results_more(struct results *results, const struct flexsc_entry *entry, int32_t res, uint32_t flags);

/* End the loop's sleep in the futex if it is there, after what was posted.  The thread's, with the guard or without. */
HIDDEN void results_wake_loop(struct results *results);

static inline void count_syscall(struct results *results) { count(results->syscalls); }

/* ---- the loop's side ---- */

HIDDEN bool results_there(const struct results *results);

/* Copy up to `most` out and advance the head. */
HIDDEN unsigned results_copy_out(struct results *results, struct flexsc_completion *out, unsigned most);

/* Announce a sleep of the loop.  False: a wake came first (and is used up by this). */
HIDDEN bool results_loop_falls_asleep(struct results *results, enum loop_sleep how);

#endif
