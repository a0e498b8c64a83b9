/* Floor 0: one pass over a user page: new entries, then what epoll has found ready; the guard held meanwhile. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include "user_page_service.h"

#include "user_page_os.h"

enum {
    ENTRIES_PER_VISIT = 16, /* finished on one fd before others get their turn */
    VISITS_PER_PASS = 64,   /* ready fds served before the loop gets to work on what they brought */
    GUARD_LOOKS = 200,      /* before a sleep */
};

/* ---- entries ---- */

void service_end(struct flexsc_page *page, struct flexsc_entry *entry) {
    if (entry->where == IN_FRESH)
        list_remove(&page->fresh, entry);
    fds_finish(&page->fds, entry, cut_short(entry), 0);
}

/* The result of a CALL_CANCEL. */
static int32_t cancel(struct flexsc_page *page, const struct flexsc_entry *entry) {
    struct flexsc_entry *target = (struct flexsc_entry *)(uintptr_t)entry->off;
    /* BUSY: only the server writes to it, so its other fields may be read. */
    if (target == NULL || target == entry ||
        atomic_load_explicit(&target->status, memory_order_acquire) != ENTRY_BUSY ||
        target->user_data != entry->addr || target->where == IN_SPILL)
        return -ENOENT;
    service_end(page, target);
    return 0;
}

/* An entry's first try. */
static void start(struct flexsc_page *page, struct flexsc_entry *entry) {
    enum outcome outcome = BLOCKED;
    int32_t res = 0;
    if (entry->call == CALL_CANCEL)
        res = cancel(page, entry);
    if (entry->call == CALL_CANCEL || calls_at_once(&page->calls, entry, &res)) {
        fds_finish(&page->fds, entry, res, 0);
        return;
    }
    entry->done = 0;
    if (entry->call != CALL_POLL) {
        struct fd_state *state = fds_find(&page->fds, entry->fd);
        if (fds_may_try(state, entry, &outcome))
            outcome = calls_try(&page->calls, state, entry);
    }
    if (outcome == FINISHED)
        return;
    res = fds_park(&page->fds, entry, outcome);
    if (res < 0)
        fds_finish(&page->fds, entry, res, 0);
}

void service_take_inbox(struct flexsc_page *page) {
    if (atomic_load_explicit(&page->inbox, memory_order_relaxed) == NULL)
        return;
    /* Acquire: the entries are filled. */
    struct flexsc_entry *entry = atomic_exchange_explicit(&page->inbox, NULL, memory_order_acquire);
    struct flexsc_entry *oldest = NULL;
    while (entry != NULL) {
        struct flexsc_entry *older = entry->next;
        entry->next = oldest;
        oldest = entry;
        entry = older;
    }
    while (oldest != NULL) {
        struct flexsc_entry *newer = oldest->next;
        FLEXSC_CHECK(status_of(oldest) == ENTRY_SUBMITTED);
        atomic_store_explicit(&oldest->status, ENTRY_BUSY, memory_order_relaxed);
        list_push(&page->fresh, oldest, IN_FRESH);
        oldest = newer;
    }
}

bool service_run_fresh(struct flexsc_page *page) {
    struct results *results = &page->results;
    bool worked = false;
    if (results->spill != NULL || results->held_back)
        worked = results_have_room(results);
    service_take_inbox(page);
    for (unsigned calls = 0; page->fresh != NULL && calls < page->budget && results_have_room(results); calls++) {
        if (guard_is_wanted(page))
            break;
        struct flexsc_entry *entry = page->fresh;
        list_remove(&page->fresh, entry);
        start(page, entry);
        worked = true;
    }
    fds_settle(&page->fds);
    return worked;
}

/* ---- visits to fds that are ready ---- */

/* Serve one side of a ready fd.  True: it could go on. */
static bool run_side(struct flexsc_page *page, struct fd_state *state, struct flexsc_entry **side, uint8_t bit) {
    for (int i = 0; *side != NULL && (state->ready & bit); i++) {
        if (i == ENTRIES_PER_VISIT || !results_have_room(&page->results))
            return true;
        struct flexsc_entry *entry = *side;
        enum outcome outcome = calls_try(&page->calls, state, entry);
        if (outcome == AGAIN)
            return true;
        if (outcome == BLOCKED && state->kind == FD_UNPOLLABLE)
            fds_finish(&page->fds, entry, -EAGAIN, 0);
        else if (outcome == BLOCKED)
            state->ready &= (uint8_t)~bit;
    }
    return false;
}

static void visit(struct flexsc_page *page, struct fd_state *state) {
    bool more = fds_run_pollers(&page->fds, state);
    more |= run_side(page, state, &state->readers, READABLE);
    more |= run_side(page, state, &state->writers, WRITABLE);
    fds_visited(&page->fds, state, more);
}

bool service_run_ready(struct flexsc_page *page) {
    unsigned most = page->budget < VISITS_PER_PASS ? page->budget : VISITS_PER_PASS;
    unsigned visits = page->fds.ready.count < most ? page->fds.ready.count : most;
    bool worked = false;
    while (visits-- > 0 && results_have_room(&page->results)) {
        if (guard_is_wanted(page))
            break;
        visit(page, fds_next_ready(&page->fds));
        worked = true;
    }
    return worked;
}

/* ---- the guard ---- */

bool guard_try(struct flexsc_page *page) {
    uint32_t unlocked = GUARD_FREE;
    return atomic_load_explicit(&page->guard, memory_order_relaxed) == GUARD_FREE &&
           /* Acquire: what the last holder wrote is ours to read. */
           atomic_compare_exchange_strong_explicit(&page->guard, &unlocked, GUARD_HELD, memory_order_acquire,
                                                   memory_order_relaxed);
}

void guard_lock(struct flexsc_page *page, _Atomic uint64_t *syscalls) {
    for (int i = 0; i < GUARD_LOOKS; i++) {
        if (guard_try(page))
            return;
        cpu_pause();
    }
    while (atomic_exchange_explicit(&page->guard, GUARD_WAITED_FOR, memory_order_acquire) != GUARD_FREE)
        futex_wait(&page->guard, GUARD_WAITED_FOR, -1, syscalls);
}

void guard_unlock(struct flexsc_page *page, _Atomic uint64_t *syscalls) {
    atomic_store_explicit(&page->unbegun, page->fresh != NULL, memory_order_relaxed);
    /* Release: pairs with the acquire above. */
    if (atomic_exchange_explicit(&page->guard, GUARD_FREE, memory_order_release) == GUARD_WAITED_FOR)
        futex_wake(&page->guard, syscalls);
}

void ring_doorbell(struct flexsc_page *page) {
    count(&page->results.counters.loop_syscalls);
    count(&page->results.counters.wakeups);
    fds_ring(&page->fds);
}
