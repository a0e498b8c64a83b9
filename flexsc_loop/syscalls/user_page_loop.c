/* Floor 0: the loop's side of a user page: its memory, its entries, publishing, waiting, cancelling. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include "user_page_service.h"

#include <stdlib.h>
#include <string.h>

#include "user_page_os.h"

enum {
    ENTRIES_PER_CHUNK = 256,
    COMPLETIONS_MOST = 1 << 30,
    LOOKS_PER_TIME = 32, /* before a look that is in vain asks what time it is */
};

/* ---- memory ---- */

static int open_layers(struct flexsc_page *page, unsigned completions) {
    int rc = results_open(&page->results, completions);
    if (rc == 0)
        rc = fds_open(&page->fds, &page->results);
    page->calls.fds = &page->fds;
    page->calls.results = &page->results;
    faults_open(&page->calls.faults);
    return rc;
}

struct flexsc_page *flexsc_page_open(unsigned completions) {
    if (completions == 0 || (completions & (completions - 1)) != 0 || completions > COMPLETIONS_MOST) {
        errno = EINVAL;
        return NULL;
    }
    /* Only the struct itself is inherited over fork, so that the child can close its copies of the fds. */
    struct flexsc_page *page = aligned_alloc(CACHE_LINE, sizeof *page);
    if (page == NULL)
        return NULL;
    memset(page, 0, sizeof *page);
    page->owner = getpid();
    page->budget = UINT32_MAX;
    page->fds.epoll_fd = page->fds.doorbell = -1;
    int rc = open_layers(page, completions);
    if (rc < 0) {
        flexsc_page_close(page);
        errno = -rc;
        return NULL;
    }
    return page;
}

static void unmap_all(struct flexsc_page *page) {
    while (page->chunks != NULL) {
        struct flexsc_entry *chunk = page->chunks;
        page->chunks = chunk->next;
        munmap(chunk, ENTRIES_PER_CHUNK * sizeof *chunk);
    }
    fds_unmap(&page->fds);
    results_close(&page->results);
}

void flexsc_page_close(struct flexsc_page *page) {
    /* A forked child has neither the thread nor the mapped memory. */
    if (page->owner == getpid()) {
        flexsc_thread_stop(page);
        unmap_all(page);
    }
    fds_close(&page->fds);
    faults_close(&page->calls.faults);
    free(page);
}

void flexsc_page_set_pool(struct flexsc_page *page, struct flexsc_pool_slot *ring, unsigned slots) {
    page->calls.pool = (struct pool_end){.ring = ring, .mask = (uint16_t)(slots - 1)};
}

void flexsc_page_set_datagram_pool(struct flexsc_page *page, struct flexsc_pool_slot *ring, unsigned slots) {
    page->calls.datagrams = (struct pool_end){.ring = ring, .mask = (uint16_t)(slots - 1)};
}

const struct flexsc_counters *flexsc_page_counters(const struct flexsc_page *page) { return &page->results.counters; }

uint64_t flexsc_page_faults(const struct flexsc_page *page) { return faults_count(&page->calls.faults); }

/* ---- entries, from the loop to the server ---- */

static struct flexsc_entry *take_unused(struct flexsc_page *page) {
    if (page->unused == page->unused_end) {
        struct flexsc_entry *chunk = map_memory(ENTRIES_PER_CHUNK * sizeof *chunk);
        if (chunk == NULL)
            return NULL;
        count(&page->results.counters.loop_syscalls);
        count(&page->results.counters.loop_syscalls);
        chunk->next = page->chunks;
        page->chunks = chunk;
        page->unused = chunk + 1;
        page->unused_end = chunk + ENTRIES_PER_CHUNK;
    }
    return page->unused++;
}

struct flexsc_entry *flexsc_entry_take(struct flexsc_page *page) {
    struct flexsc_entry *entry = page->free_entries;
    if (entry == NULL)
        return take_unused(page);
    FLEXSC_CHECK(status_of(entry) == ENTRY_FREE);
    page->free_entries = entry->next;
    memset(entry, 0, sizeof *entry);
    return entry;
}

_Static_assert(ENTRY_FREE == 0, "a zeroed entry is free");

void flexsc_entry_give(struct flexsc_page *page, struct flexsc_entry *entry) {
    FLEXSC_CHECK(status_of(entry) == ENTRY_DONE || (status_of(entry) == ENTRY_FREE && entry->next == NULL));
    FLEXSC_CHECK(entry->where == NOWHERE);
    atomic_store_explicit(&entry->status, ENTRY_FREE, memory_order_relaxed);
    entry->next = page->free_entries;
    page->free_entries = entry;
}

void flexsc_page_submit(struct flexsc_page *page, struct flexsc_entry *entry) {
    FLEXSC_CHECK(status_of(entry) == ENTRY_FREE && entry->where == NOWHERE);
    atomic_store_explicit(&entry->status, ENTRY_SUBMITTED, memory_order_relaxed);
    entry->next = page->newest;
    page->newest = entry;
    if (page->oldest == NULL)
        page->oldest = entry;
    count(&page->results.counters.submitted);
}

/* End the thread's sleep, if it sleeps in this state. */
static void wake_thread_from(struct flexsc_page *page, uint32_t state) {
    if (atomic_load_explicit(&page->thread_state, memory_order_relaxed) == state &&
        atomic_compare_exchange_strong(&page->thread_state, &state, THREAD_AWAKE))
        ring_doorbell(page);
}

void flexsc_page_publish(struct flexsc_page *page) {
    if (page->newest == NULL)
        return;
    struct flexsc_entry *before = atomic_load_explicit(&page->inbox, memory_order_relaxed);
    do
        page->oldest->next = before;
    /* Release: who takes the list sees the entries filled. */
    while (!atomic_compare_exchange_weak_explicit(&page->inbox, &before, page->newest, memory_order_release,
                                                  memory_order_relaxed));
    page->newest = page->oldest = NULL;
    count(&page->results.counters.batches);
    if (!page->pinned)
        return;
    /* The inbox must be visible before we look whether the thread sleeps: it announces its sleep and then
     * looks into the inbox once more, so that one of the two sees the other. */
    atomic_thread_fence(memory_order_seq_cst);
    wake_thread_from(page, THREAD_ASLEEP);
}

/* ---- completions ---- */

bool flexsc_page_has_completions(const struct flexsc_page *page) { return results_there(&page->results); }

unsigned flexsc_page_reap(struct flexsc_page *page, struct flexsc_completion *out, unsigned most) {
    unsigned reaped = results_copy_out(&page->results, out, most);
    if (reaped != 0 && page->pinned) {
        /* The head must be visible before we look whether the thread waits for room: it announces that and then
         * looks at the head once more. */
        atomic_thread_fence(memory_order_seq_cst);
        wake_thread_from(page, THREAD_STALLED);
    }
    return reaped;
}

/* ---- sleeping and waking ---- */

void flexsc_page_wake(struct flexsc_page *page) {
    /* Sequentially consistent read-modify-writes on both sides: either the sleeper's announcement fails because
     * we were first, or we see that it sleeps and where. */
    switch (atomic_exchange(&page->results.loop_sleep, LOOP_POKED)) {
    case LOOP_IN_EPOLL:
        fds_ring(&page->fds);
        break;
    case LOOP_IN_FUTEX:
        syscall(SYS_futex, &page->results.loop_sleep, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
        break;
    }
}

bool flexsc_page_thread_sleeps(const struct flexsc_page *page) {
    return page->pinned && atomic_load_explicit(&page->thread_state, memory_order_relaxed) == THREAD_ASLEEP;
}

bool flexsc_page_all_begun(const struct flexsc_page *page) {
    return atomic_load_explicit(&page->inbox, memory_order_relaxed) == NULL &&
           atomic_load_explicit(&page->unbegun, memory_order_relaxed) == 0;
}

static bool is_poked(const struct flexsc_page *page) {
    return atomic_load_explicit(&page->results.loop_sleep, memory_order_relaxed) == LOOP_POKED;
}

static int loop_looks(struct flexsc_page *page, int64_t timeout_ns) {
    return fds_look(&page->fds, timeout_ns, &page->results.counters.loop_syscalls);
}

/* Own thread: ask epoll for up to `spin_ns`, until it knows something or a wake comes. */
static int own_thread_spins(struct flexsc_page *page, int64_t timeout_ns, int64_t spin_ns, struct flexsc_spin *spin) {
    bool timer = timeout_ns > 0 && timeout_ns < spin_ns;
    int64_t end = flexsc_now_ns() + (timer ? timeout_ns : spin_ns);
    uint32_t poked = LOOP_POKED;
    int n;
    while ((n = loop_looks(page, 0)) == 0 && !is_poked(page) && flexsc_now_ns() < end)
        cpu_pause();
    bool found = atomic_compare_exchange_strong(&page->results.loop_sleep, &poked, LOOP_AWAKE) || n != 0;
    if (found || !timer)
        spin_looked(spin, found);
    return n;
}

/* Own thread: ask epoll, and sleep there if there is nothing else to do.  After a look it does not sleep, not even after
 * one in vain: the caller comes back, having seen to signals. */
static int own_thread_looks(struct flexsc_page *page, int64_t timeout_ns, int64_t spin_ns, struct flexsc_spin *spin) {
    if (results_there(&page->results) || page->fds.ready.count != 0 || page->fresh != NULL)
        timeout_ns = 0;
    if (timeout_ns == 0)
        return page->fds.parked == 0 ? 0 : loop_looks(page, 0);
    if (spin_ns > 0)
        return own_thread_spins(page, timeout_ns, spin_ns, spin);
    if (!results_loop_falls_asleep(&page->results, LOOP_IN_EPOLL))
        return loop_looks(page, 0);
    int64_t began = flexsc_now_ns();
    int n = loop_looks(page, timeout_ns);
    spin_slept(spin, flexsc_now_ns() - began);
    atomic_exchange(&page->results.loop_sleep, LOOP_AWAKE);
    return n;
}

static int own_thread_serves(struct flexsc_page *page, int64_t timeout_ns, int64_t spin_ns, struct flexsc_spin *spin) {
    service_run_fresh(page);
    int n = own_thread_looks(page, timeout_ns, spin_ns, spin);
    if (n > 0)
        fds_mark(&page->fds, n);
    service_run_ready(page);
    return n < 0 ? n : 0;
}

int flexsc_page_serve(struct flexsc_page *page, int64_t timeout_ns) {
    struct flexsc_spin unused = {0};
    flexsc_page_publish(page);
    return flexsc_page_wait(page, timeout_ns, 0, &unused);
}

/* ---- the loop at the server's part ---- */

/* The guard is the loop's. */
static void begin_serving(struct flexsc_page *page) {
    if (page->pinned)
        page->results.syscalls = &page->results.counters.loop_syscalls;
}

/* The guard is about to be let go of.  Whether the thread has to be called for what is left. */
static bool end_serving(struct flexsc_page *page) {
    if (!page->pinned)
        return false;
    page->results.syscalls = &page->results.counters.server_syscalls;
    atomic_store_explicit(&page->touched, 1, memory_order_relaxed);
    if (page->fresh == NULL && page->results.spill == NULL && page->fds.ready.count == 0)
        return false;
    /* The thread announces a sleep under the guard, so we know for sure whether it saw what we have left. */
    uint32_t asleep = THREAD_ASLEEP;
    return atomic_compare_exchange_strong(&page->thread_state, &asleep, THREAD_AWAKE);
}

/* Who holds the guard is at work, or has lost its CPU in the midst of it: either way there is no waiting for it. */
static bool try_to_serve(struct flexsc_page *page) {
    if (page->pinned && !guard_try(page))
        return false;
    begin_serving(page);
    return true;
}

static void stop_serving(struct flexsc_page *page) {
    bool ring = end_serving(page);
    if (page->pinned)
        guard_unlock(page, &page->results.counters.loop_syscalls);
    if (ring)
        ring_doorbell(page);
}

bool flexsc_page_close_fd(struct flexsc_page *page, int fd) {
    if (!try_to_serve(page))
        return false;
    calls_close(&page->calls, fd);
    stop_serving(page);
    return true;
}

bool flexsc_page_help(struct flexsc_page *page) {
    if (!page->pinned || flexsc_page_all_begun(page) || !try_to_serve(page))
        return false;
    service_run_fresh(page);
    stop_serving(page);
    count(&page->results.counters.helps);
    return true;
}

/* ---- waiting for a pinned thread ---- */

/* Look for completions or a wake for up to `spin_ns`.  Whether one came. */
static bool loop_spins(struct flexsc_page *page, int64_t spin_ns) {
    int64_t end = spin_ns > 0 ? flexsc_now_ns() + spin_ns : 0;
    for (unsigned i = 1;; i++) {
        if (results_there(&page->results) || is_poked(page))
            return true;
        if (spin_ns <= 0 || (i % LOOKS_PER_TIME == 0 && flexsc_now_ns() >= end))
            return false;
        cpu_pause();
    }
}

/* Sleep in the futex until `deadline` (-1: without limit), unless there is a completion.  The sleep is announced. */
static int loop_sleeps(struct flexsc_page *page, int64_t deadline) {
    struct results *results = &page->results;
    /* Our announcement must be visible before we look at the tail once more: the thread moves the tail and then
     * looks whether we sleep. */
    atomic_thread_fence(memory_order_seq_cst);
    if (results_there(results))
        return 0;
    int64_t left = deadline < 0 ? -1 : deadline - flexsc_now_ns();
    if (deadline >= 0 && left <= 0)
        return -ETIMEDOUT;
    uint32_t vain = atomic_load_explicit(&page->vain_passes, memory_order_relaxed);
    bool awake = atomic_load_explicit(&page->thread_state, memory_order_relaxed) == THREAD_AWAKE;
    int64_t began = flexsc_now_ns();
    int rc = futex_wait(&results->loop_sleep, LOOP_IN_FUTEX, left, &results->counters.loop_syscalls);
    /* A thread that runs makes a pass in that time, if only the one before it sleeps.  One with results wakes us. */
    int64_t starved = flexsc_now_ns() - began - page->spin_ns;
    if (awake && starved > 0 && vain == atomic_load_explicit(&page->vain_passes, memory_order_relaxed))
        page->starved_ns += starved;
    return rc;
}

int64_t flexsc_page_starved_ns(struct flexsc_page *page) {
    int64_t starved = page->starved_ns;
    page->starved_ns = 0;
    return starved;
}

/* With a pinned thread: look for a moment, begin what it has not begun in that time, then sleep until there is a
 * completion or a wake comes. */
static int loop_waits(struct flexsc_page *page, int64_t timeout_ns, int64_t spin_ns, struct flexsc_spin *spin) {
    struct results *results = &page->results;
    int64_t deadline = timeout_ns > 0 ? flexsc_now_ns() + timeout_ns : -1;
    spin->looks += spin_ns > 0;
    bool timer = timeout_ns > 0 && timeout_ns < spin_ns;
    if (!loop_spins(page, timer ? timeout_ns : spin_ns) && !timer)
        flexsc_page_help(page);
    for (;;) {
        if (results_there(results) || !results_loop_falls_asleep(results, LOOP_IN_FUTEX))
            return 0;
        int rc = loop_sleeps(page, deadline);
        if (atomic_exchange(&results->loop_sleep, LOOP_AWAKE) == LOOP_POKED || results_there(results))
            return 0;
        if (rc == -ETIMEDOUT)
            return 0;
        if (rc == -EINTR)
            return rc;
    }
}

int flexsc_page_wait(struct flexsc_page *page, int64_t timeout_ns, int64_t spin_ns, struct flexsc_spin *spin) {
    if (page->pinned)
        return results_there(&page->results) || timeout_ns == 0 ? 0 : loop_waits(page, timeout_ns, spin_ns, spin);
    flexsc_page_publish(page);
    return own_thread_serves(page, timeout_ns, spin_ns, spin);
}

/* ---- cancelling ---- */

static void loop_locks(struct flexsc_page *page) {
    if (!page->pinned)
        return;
    /* Before the guard itself, so that the thread stops after the call it is making and does not take the guard
     * anew before us. */
    atomic_store(&page->want, WANT_LOOP);
    guard_lock(page, &page->results.counters.loop_syscalls);
}

static void loop_unlocks(struct flexsc_page *page) {
    if (!page->pinned)
        return;
    guard_unlock(page, &page->results.counters.loop_syscalls);
    if (atomic_exchange(&page->want, WANT_NOBODY) == WANT_LOOP_THREAD_SLEEPS)
        futex_wake(&page->want, &page->results.counters.loop_syscalls);
}

void flexsc_page_cancel_now(struct flexsc_page *page, struct flexsc_entry *entry) {
    /* Acquire: if the entry is DONE, the thread took the guard, under which it said so, before we do. */
    uint8_t status = atomic_load_explicit(&entry->status, memory_order_acquire);
    if (status == ENTRY_FREE)
        return;
    if (status == ENTRY_SUBMITTED)
        flexsc_page_publish(page);
    /* Also for an entry that is DONE: its completion becomes visible a little later than that, and whoever cancels
     * must find it, or what comes next on the fd overtakes it.  Under the guard nothing is half posted. */
    loop_locks(page);
    begin_serving(page);
    service_take_inbox(page);
    if (page->results.spill != NULL)
        results_have_room(&page->results);
    if (atomic_load_explicit(&entry->status, memory_order_relaxed) == ENTRY_BUSY && entry->where != IN_SPILL)
        service_end(page, entry);
    bool ring = end_serving(page);
    loop_unlocks(page);
    if (ring)
        ring_doorbell(page);
}
