/* Floor 0: a user page's results: the completion ring, what does not fit into it, the loop's sleep. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include "user_page_results.h"

#include <string.h>

#include "user_page_os.h"

enum { POSTS_BEFORE_WAKE = 3 }; /* in one pass */

static size_t ring_bytes(const struct results *results) { return results->size * sizeof *results->ring; }

int results_open(struct results *results, unsigned size) {
    results->size = size;
    results->syscalls = &results->counters.loop_syscalls;
    results->ring = map_memory(ring_bytes(results));
    return results->ring == NULL ? -errno : 0;
}

void results_close(struct results *results) {
    if (results->ring != NULL)
        munmap(results->ring, ring_bytes(results));
}

/* ---- the server's side ---- */

static bool has_slot(struct results *results) {
    if (results->posted - results->head_seen < results->size)
        return true;
    /* Acquire: the loop has copied the slots below the head. */
    results->head_seen = atomic_load_explicit(&results->head, memory_order_acquire);
    FLEXSC_CHECK(results->posted - results->head_seen <= results->size);
    return results->posted - results->head_seen < results->size;
}

static void wake_sleeping_loop(struct results *results) {
    uint32_t sleeping = LOOP_IN_FUTEX;
    /* Only the thread finds the loop there. */
    if (atomic_compare_exchange_strong(&results->loop_sleep, &sleeping, LOOP_AWAKE))
        futex_wake(&results->loop_sleep, &results->counters.server_syscalls);
}

static void post(struct results *results, uint64_t user_data, int32_t res, uint32_t flags) {
    FLEXSC_CHECK(results->posted - results->head_seen < results->size);
    results->ring[results->posted & (results->size - 1)] =
        (struct flexsc_completion){.user_data = user_data, .res = res, .flags = flags};
    results->posted++;
    count(&results->counters.completions);
    /* Release: the slot, and all that the call has written, are visible before the tail. */
    atomic_store_explicit(&results->tail, results->posted, memory_order_release);
    /* In a long pass, a look without a barrier lets the loop wake up while the rest is served.  What this look misses,
     * the thread's last look of the pass does not.  In a short one the loop, which may take the thread's CPU when it
     * wakes up, had better not find that the thread holds the guard. */
    if (results->posted - results->posted_before > POSTS_BEFORE_WAKE &&
        atomic_load_explicit(&results->loop_sleep, memory_order_relaxed) == LOOP_IN_FUTEX)
        wake_sleeping_loop(results);
}

static void post_last(struct results *results, struct flexsc_entry *entry, int32_t res, uint32_t flags) {
    uint64_t user_data = entry->user_data;
    FLEXSC_CHECK(status_of(entry) == ENTRY_BUSY && entry->where == NOWHERE);
    /* Release: we have finished with the entry and with the memory that it names. */
    atomic_store_explicit(&entry->status, ENTRY_DONE, memory_order_release);
    post(results, user_data, res, flags);
}

static void flush_spill(struct results *results) {
    while (results->spill != NULL && has_slot(results)) {
        struct flexsc_entry *entry = results->spill;
        list_remove(&results->spill, entry);
        post_last(results, entry, (int32_t)entry->done, 0);
    }
}

bool results_have_room(struct results *results) {
    if (results->spill != NULL)
        flush_spill(results);
    bool room = results->spill == NULL && has_slot(results);
    if (!room && !results->held_back)
        count(&results->counters.overflows);
    results->held_back = !room;
    return room;
}

void results_last(struct results *results, struct flexsc_entry *entry, int32_t res, uint32_t flags) {
    if (results->spill == NULL && has_slot(results)) {
        post_last(results, entry, res, flags);
    } else {
        /* Only what was ended from outside comes here, and that has no buffer. */
        FLEXSC_CHECK(!(flags & COMPLETION_BUFFER));
        entry->done = (uint32_t)res;
        list_push(&results->spill, entry, IN_SPILL);
    }
}

void results_more(struct results *results, const struct flexsc_entry *entry, int32_t res, uint32_t flags) {
    FLEXSC_CHECK(status_of(entry) == ENTRY_BUSY && results->spill == NULL);
    post(results, entry->user_data, res, flags | COMPLETION_MORE);
}

void results_wake_loop(struct results *results) {
    /* The tail must be visible before we look whether the loop sleeps: it announces its sleep and then looks at the
     * tail once more. */
    atomic_thread_fence(memory_order_seq_cst);
    if (atomic_load_explicit(&results->loop_sleep, memory_order_relaxed) == LOOP_IN_FUTEX)
        wake_sleeping_loop(results);
}

/* ---- the loop's side ---- */

bool results_there(const struct results *results) {
    /* Acquire: the slots below the tail are filled. */
    return atomic_load_explicit(&results->tail, memory_order_acquire) !=
           atomic_load_explicit(&results->head, memory_order_relaxed);
}

unsigned results_copy_out(struct results *results, struct flexsc_completion *out, unsigned most) {
    uint32_t head = atomic_load_explicit(&results->head, memory_order_relaxed);
    /* Acquire: the slots below the tail are filled. */
    uint32_t there = atomic_load_explicit(&results->tail, memory_order_acquire) - head;
    FLEXSC_CHECK(there <= results->size);
    if (there > most)
        there = most;
    if (there == 0)
        return 0;
    uint32_t start = head & (results->size - 1);
    uint32_t straight = results->size - start < there ? results->size - start : there;
    memcpy(out, results->ring + start, straight * sizeof *out);
    memcpy(out + straight, results->ring, (there - straight) * sizeof *out);
    /* Release: the slots are copied before the server may fill them again. */
    atomic_store_explicit(&results->head, head + there, memory_order_release);
    return there;
}

bool results_loop_falls_asleep(struct results *results, enum loop_sleep how) {
    uint32_t expected = LOOP_AWAKE;
    if (atomic_compare_exchange_strong(&results->loop_sleep, &expected, how))
        return true;
    atomic_store(&results->loop_sleep, LOOP_AWAKE);
    return false;
}
