/* Floor 0: the user page: its memory, the loop's side of it, sleeping and waking. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <errno.h>
#include <linux/futex.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "user_page_internal.h"

#ifndef SYS_epoll_pwait2
#define SYS_epoll_pwait2 441
#endif

/* ---- memory ---- */

/* Zeroed memory that a forked child does not inherit. */
void *page_map(size_t size) {
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return NULL;
    if (madvise(memory, size, MADV_DONTFORK) != 0) {
        int error = errno;
        munmap(memory, size);
        errno = error;
        return NULL;
    }
    return memory;
}

static size_t ring_bytes(const struct flexsc_page *page) {
    return page->ring_size * sizeof(struct flexsc_completion);
}

static int open_fds(struct flexsc_page *page) {
    page->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    page->doorbell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (page->epoll_fd < 0 || page->doorbell < 0)
        return -errno;
    struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.u64 = DOORBELL_DATA};
    if (epoll_ctl(page->epoll_fd, EPOLL_CTL_ADD, page->doorbell, &event) != 0)
        return -errno;
    return 0;
}

struct flexsc_page *flexsc_page_open(unsigned completions) {
    if (completions == 0 || (completions & (completions - 1)) != 0 || completions > 1u << 30) {
        errno = EINVAL;
        return NULL;
    }
    /* Only the struct itself is inherited over fork, so that the child can close its copies of the fds. */
    struct flexsc_page *page = aligned_alloc(CACHE_LINE, sizeof *page);
    if (page == NULL)
        return NULL;
    memset(page, 0, sizeof *page);
    page->owner = getpid();
    page->epoll_fd = page->doorbell = -1;
    page->budget = UINT32_MAX;
    page->syscalls = &page->counters.loop_syscalls;
    page->ring_size = completions;
    page->ring = page_map(ring_bytes(page));
    int rc = page->ring == NULL ? -errno : open_fds(page);
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
    for (unsigned i = 0; i < page->block_count; i++)
        if (page->blocks[i] != NULL)
            munmap(page->blocks[i], sizeof *page->blocks[i]);
    if (page->ring != NULL)
        munmap(page->ring, ring_bytes(page));
}

void flexsc_page_close(struct flexsc_page *page) {
    /* A forked child has neither the thread nor the mapped memory. */
    if (page->owner == getpid()) {
        flexsc_thread_stop(page);
        unmap_all(page);
    }
    if (page->doorbell >= 0)
        close(page->doorbell);
    if (page->epoll_fd >= 0)
        close(page->epoll_fd);
    free(page->blocks);
    free(page);
}

void flexsc_page_set_pool(struct flexsc_page *page, struct flexsc_pool_slot *ring, unsigned slots) {
    page->pool = (struct pool_end){.ring = ring, .mask = (uint16_t)(slots - 1)};
}

void flexsc_page_set_datagram_pool(struct flexsc_page *page, struct flexsc_pool_slot *ring, unsigned slots) {
    page->datagrams = (struct pool_end){.ring = ring, .mask = (uint16_t)(slots - 1)};
}

const struct flexsc_counters *flexsc_page_counters(const struct flexsc_page *page) { return &page->counters; }

/* ---- entries, from the loop to the server ---- */

static struct flexsc_entry *take_unused(struct flexsc_page *page) {
    if (page->unused == page->unused_end) {
        struct flexsc_entry *chunk = page_map(ENTRIES_PER_CHUNK * sizeof *chunk);
        if (chunk == NULL)
            return NULL;
        count(&page->counters.loop_syscalls);
        count(&page->counters.loop_syscalls);
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
    page->free_entries = entry->next;
    memset(entry, 0, sizeof *entry);
    return entry;
}

_Static_assert(ENTRY_FREE == 0, "a zeroed entry is free");

void flexsc_entry_give(struct flexsc_page *page, struct flexsc_entry *entry) {
    atomic_store_explicit(&entry->status, ENTRY_FREE, memory_order_relaxed);
    entry->next = page->free_entries;
    page->free_entries = entry;
}

void flexsc_page_submit(struct flexsc_page *page, struct flexsc_entry *entry) {
    atomic_store_explicit(&entry->status, ENTRY_SUBMITTED, memory_order_relaxed);
    entry->next = page->newest;
    page->newest = entry;
    if (page->oldest == NULL)
        page->oldest = entry;
    count(&page->counters.submitted);
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
    count(&page->counters.batches);
    if (!page->pinned)
        return;
    /* The inbox must be visible before we look whether the thread sleeps: it announces its sleep and then
     * looks into the inbox once more, so that one of the two sees the other. */
    atomic_thread_fence(memory_order_seq_cst);
    uint32_t asleep = THREAD_ASLEEP;
    if (atomic_load_explicit(&page->thread_state, memory_order_relaxed) == asleep &&
        atomic_compare_exchange_strong(&page->thread_state, &asleep, THREAD_AWAKE))
        page_ring_doorbell(page);
}

/* ---- completions ---- */

bool flexsc_page_has_completions(const struct flexsc_page *page) {
    /* Acquire: the slots below the tail are filled. */
    return atomic_load_explicit(&page->tail, memory_order_acquire) !=
           atomic_load_explicit(&page->head, memory_order_relaxed);
}

unsigned flexsc_page_reap(struct flexsc_page *page, struct flexsc_completion *out, unsigned most) {
    uint32_t head = atomic_load_explicit(&page->head, memory_order_relaxed);
    /* Acquire: the slots below the tail are filled. */
    uint32_t there = atomic_load_explicit(&page->tail, memory_order_acquire) - head;
    if (there > most)
        there = most;
    if (there == 0)
        return 0;
    uint32_t start = head & (page->ring_size - 1);
    uint32_t straight = page->ring_size - start < there ? page->ring_size - start : there;
    memcpy(out, page->ring + start, straight * sizeof *out);
    memcpy(out + straight, page->ring, (there - straight) * sizeof *out);
    /* Release: the slots are copied before the server may fill them again. */
    atomic_store_explicit(&page->head, head + there, memory_order_release);
    if (page->pinned) {
        /* The head must be visible before we look whether the thread waits for room: it announces that and then
         * looks at the head once more. */
        atomic_thread_fence(memory_order_seq_cst);
        uint32_t stalled = THREAD_STALLED;
        if (atomic_load_explicit(&page->thread_state, memory_order_relaxed) == stalled &&
            atomic_compare_exchange_strong(&page->thread_state, &stalled, THREAD_AWAKE))
            page_ring_doorbell(page);
    }
    return there;
}

/* ---- sleeping and waking ---- */

static struct timespec timespec_of(int64_t ns) {
    return (struct timespec){.tv_sec = ns / 1000000000, .tv_nsec = ns % 1000000000};
}

/* Sleep while *word == value.  0, or -errno: -EAGAIN when it was another value, -ETIMEDOUT, -EINTR. */
int page_futex_wait(_Atomic uint32_t *word, uint32_t value, int64_t timeout_ns, _Atomic uint64_t *syscalls) {
    struct timespec timeout = timespec_of(timeout_ns);
    count(syscalls);
    long rc = syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, timeout_ns < 0 ? NULL : &timeout, NULL, 0);
    return rc < 0 ? -errno : 0;
}

void page_futex_wake(_Atomic uint32_t *word, _Atomic uint64_t *syscalls) {
    count(syscalls);
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

/* The loop's side: end the thread's sleep in epoll. */
void page_ring_doorbell(struct flexsc_page *page) {
    uint64_t one = 1;
    count(&page->counters.loop_syscalls);
    count(&page->counters.wakeups);
    /* Fails only when the counter is full, and then epoll has long had its edge. */
    ssize_t rc = write(page->doorbell, &one, sizeof one);
    (void)rc;
}

void flexsc_page_wake(struct flexsc_page *page) {
    /* Sequentially consistent read-modify-writes on both sides: either the sleeper's announcement fails because
     * we were first, or we see that it sleeps and where. */
    switch (atomic_exchange(&page->loop_sleep, LOOP_POKED)) {
    case LOOP_IN_EPOLL: {
        uint64_t one = 1;
        ssize_t rc = write(page->doorbell, &one, sizeof one);
        (void)rc;
        break;
    }
    case LOOP_IN_FUTEX:
        syscall(SYS_futex, &page->loop_sleep, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
        break;
    }
}

void page_wake_sleeping_loop(struct flexsc_page *page) {
    uint32_t sleeping = LOOP_IN_FUTEX;
    if (atomic_compare_exchange_strong(&page->loop_sleep, &sleeping, LOOP_AWAKE))
        page_futex_wake(&page->loop_sleep, page->syscalls);
}

/* Announce a sleep of the loop.  False: a wake came first (and is used up by this). */
static bool loop_falls_asleep(struct flexsc_page *page, enum loop_sleep how) {
    uint32_t expected = LOOP_AWAKE;
    if (atomic_compare_exchange_strong(&page->loop_sleep, &expected, how))
        return true;
    atomic_store(&page->loop_sleep, LOOP_AWAKE);
    return false;
}

int page_epoll(struct flexsc_page *page, int64_t timeout_ns) {
    if (timeout_ns > 0 && !page->no_pwait2) {
        struct timespec timeout = timespec_of(timeout_ns);
        count_syscall(page);
        long n = syscall(SYS_epoll_pwait2, page->epoll_fd, page->events, EVENTS_PER_LOOK, &timeout, NULL, 0);
        /* Before Linux 5.11, or a sandbox that does not know the call. */
        if (n >= 0 || (errno != ENOSYS && errno != EPERM))
            return n < 0 ? -errno : (int)n;
        page->no_pwait2 = true;
    }
    int timeout_ms = -1;
    if (timeout_ns >= 0) {
        int64_t ms = timeout_ns / 1000000 + (timeout_ns % 1000000 != 0);
        timeout_ms = ms > 0x7fffffff ? 0x7fffffff : (int)ms;
    }
    count_syscall(page);
    int n = epoll_wait(page->epoll_fd, page->events, EVENTS_PER_LOOK, timeout_ms);
    return n < 0 ? -errno : n;
}

bool flexsc_page_all_taken(const struct flexsc_page *page) {
    return atomic_load_explicit(&page->inbox, memory_order_relaxed) == NULL;
}

/* Own thread: ask epoll for up to `spin_ns`, until it knows something or a wake comes. */
static int own_thread_spins(struct flexsc_page *page, int64_t timeout_ns, int64_t spin_ns, struct flexsc_spin *spin) {
    bool timer = timeout_ns > 0 && timeout_ns < spin_ns;
    int64_t end = flexsc_now_ns() + (timer ? timeout_ns : spin_ns);
    uint32_t poked = LOOP_POKED;
    int n;
    while ((n = page_epoll(page, 0)) == 0 && atomic_load_explicit(&page->loop_sleep, memory_order_relaxed) != poked &&
           flexsc_now_ns() < end)
        cpu_pause();
    bool found = atomic_compare_exchange_strong(&page->loop_sleep, &poked, LOOP_AWAKE) || n != 0;
    if (found || !timer)
        spin_looked(spin, found);
    return n;
}

/* Own thread: ask epoll, and sleep there if there is nothing else to do.  After a look it does not sleep, not even after
 * one in vain: the caller comes back, having seen to signals. */
static int own_thread_looks(struct flexsc_page *page, int64_t timeout_ns, int64_t spin_ns, struct flexsc_spin *spin) {
    if (flexsc_page_has_completions(page) || page->ready.count != 0 || page->fresh != NULL)
        timeout_ns = 0;
    if (timeout_ns == 0)
        return page->parked == 0 ? 0 : page_epoll(page, 0);
    if (spin_ns > 0)
        return own_thread_spins(page, timeout_ns, spin_ns, spin);
    if (!loop_falls_asleep(page, LOOP_IN_EPOLL))
        return page_epoll(page, 0);
    int64_t began = flexsc_now_ns();
    int n = page_epoll(page, timeout_ns);
    spin_slept(spin, flexsc_now_ns() - began);
    atomic_exchange(&page->loop_sleep, LOOP_AWAKE);
    return n;
}

static int own_thread_serves(struct flexsc_page *page, int64_t timeout_ns, int64_t spin_ns, struct flexsc_spin *spin) {
    page_run_fresh(page);
    int n = own_thread_looks(page, timeout_ns, spin_ns, spin);
    if (n > 0)
        page_mark(page, n);
    page_run_ready(page);
    return n < 0 ? n : 0;
}

int flexsc_page_serve(struct flexsc_page *page, int64_t timeout_ns) {
    struct flexsc_spin unused = {0};
    flexsc_page_publish(page);
    return flexsc_page_wait(page, timeout_ns, 0, &unused);
}

/* Look for completions or a wake for up to `spin_ns`.  Whether one came. */
static bool loop_spins(struct flexsc_page *page, int64_t spin_ns) {
    int64_t end = spin_ns > 0 ? flexsc_now_ns() + spin_ns : 0;
    for (unsigned i = 1;; i++) {
        if (flexsc_page_has_completions(page) ||
            atomic_load_explicit(&page->loop_sleep, memory_order_relaxed) == LOOP_POKED)
            return true;
        if (spin_ns <= 0 || (i % 32 == 0 && flexsc_now_ns() >= end))
            return false;
        cpu_pause();
    }
}

int flexsc_page_wait(struct flexsc_page *page, int64_t timeout_ns, int64_t spin_ns, struct flexsc_spin *spin) {
    if (!page->pinned) {
        flexsc_page_publish(page);
        return own_thread_serves(page, timeout_ns, spin_ns, spin);
    }
    if (flexsc_page_has_completions(page) || timeout_ns == 0)
        return 0;
    int64_t deadline = timeout_ns > 0 ? flexsc_now_ns() + timeout_ns : -1;
    spin->looks += spin_ns > 0;
    loop_spins(page, timeout_ns > 0 && timeout_ns < spin_ns ? timeout_ns : spin_ns);
    for (;;) {
        if (flexsc_page_has_completions(page) || !loop_falls_asleep(page, LOOP_IN_FUTEX))
            return 0;
        /* Our announcement must be visible before we look at the tail once more: the thread moves the tail and then
         * looks whether we sleep. */
        atomic_thread_fence(memory_order_seq_cst);
        int rc = 0;
        if (!flexsc_page_has_completions(page)) {
            int64_t left = deadline < 0 ? -1 : deadline - flexsc_now_ns();
            rc = deadline >= 0 && left <= 0
                     ? -ETIMEDOUT
                     : page_futex_wait(&page->loop_sleep, LOOP_IN_FUTEX, left, &page->counters.loop_syscalls);
        }
        if (atomic_exchange(&page->loop_sleep, LOOP_AWAKE) == LOOP_POKED || flexsc_page_has_completions(page))
            return 0;
        if (rc == -ETIMEDOUT)
            return 0;
        if (rc == -EINTR)
            return rc;
    }
}

/* ---- the guard: keeps cancel_now and the thread apart ---- */

void page_guard_lock(struct flexsc_page *page, _Atomic uint64_t *syscalls) {
    for (int i = 0; i < 200; i++) {
        uint32_t unlocked = 0;
        if (atomic_load_explicit(&page->guard, memory_order_relaxed) == 0 &&
            /* Acquire: what the last holder wrote is ours to read. */
            atomic_compare_exchange_strong_explicit(&page->guard, &unlocked, 1, memory_order_acquire,
                                                    memory_order_relaxed))
            return;
        cpu_pause();
    }
    while (atomic_exchange_explicit(&page->guard, 2, memory_order_acquire) != 0)
        page_futex_wait(&page->guard, 2, -1, syscalls);
}

void page_guard_unlock(struct flexsc_page *page, _Atomic uint64_t *syscalls) {
    /* Release: pairs with the acquire above. */
    if (atomic_exchange_explicit(&page->guard, 0, memory_order_release) == 2)
        page_futex_wake(&page->guard, syscalls);
}

static void loop_locks(struct flexsc_page *page) {
    if (!page->pinned)
        return;
    /* Before the guard itself, so that the thread stops after the call it is making and does not take the guard
     * anew before us. */
    atomic_store(&page->want, WANT_LOOP);
    page_guard_lock(page, &page->counters.loop_syscalls);
}

static void loop_unlocks(struct flexsc_page *page) {
    if (!page->pinned)
        return;
    page_guard_unlock(page, &page->counters.loop_syscalls);
    if (atomic_exchange(&page->want, WANT_NOBODY) == WANT_LOOP_THREAD_SLEEPS)
        page_futex_wake(&page->want, &page->counters.loop_syscalls);
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
    page_take_inbox(page);
    if (page->spill != NULL)
        page_has_room(page);
    if (atomic_load_explicit(&entry->status, memory_order_relaxed) == ENTRY_BUSY && entry->where != IN_SPILL)
        page_end(page, entry);
    /* The thread announces a sleep under the guard, so we know for sure whether it saw what we took or spilled. */
    uint32_t asleep = THREAD_ASLEEP;
    bool ring = page->pinned && (page->fresh != NULL || page->spill != NULL) &&
                atomic_compare_exchange_strong(&page->thread_state, &asleep, THREAD_AWAKE);
    loop_unlocks(page);
    if (ring)
        page_ring_doorbell(page);
}
