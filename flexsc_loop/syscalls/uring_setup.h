/* Floor 0: making a ring, and closing it: probes, mappings, fds. */
#ifndef FLEXSC_URING_SETUP_H
#define FLEXSC_URING_SETUP_H

#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>

#include "uring.h"
#include "uring_user.h"

enum { URING_NO_POLLER = -2, URING_ANY_CPU = -1, URING_SHARES_NONE = -1 };
enum { URING_SLEEPERS_MOST = 128 }; /* as many as there may be file threads */

static inline void uring_unmap(struct uring *ring)
{
    if (ring->rings)
        munmap(ring->rings, ring->rings_size);
    if (ring->sqe_memory)
        munmap(ring->sqe_memory, ring->sqe_size);
    ring->rings = ring->sqe_memory = NULL;
}

static inline void uring_close_fds(struct uring *ring)
{
    if (ring->fd >= 0)
        close(ring->fd);
    if (ring->wake_fd >= 0)
        close(ring->wake_fd);
    ring->fd = ring->wake_fd = -1;
}

/* Close both fds and drop the mappings.  The kernel ends what is still in flight some time after. */
static inline void uring_close(struct uring *ring)
{
    uring_unmap(ring);
    uring_close_fds(ring);
}

static inline void *uring_map(struct uring *ring, size_t size, uint64_t offset)
{
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring->fd, (off_t)offset);
    if (memory == MAP_FAILED)
        return NULL;
    /* A forked child that shared the ring would corrupt it. */
    madvise(memory, size, MADV_DONTFORK);
    return memory;
}

static inline int uring_map_rings(struct uring *ring, const struct uring_params *p)
{
    size_t sq = p->sq_off.array + p->sq_entries * sizeof(uint32_t);
    size_t cq = p->cq_off.cqes + p->cq_entries * sizeof(struct flexsc_completion);
    ring->rings_size = sq > cq ? sq : cq;
    ring->rings = uring_map(ring, ring->rings_size, URING_OFF_SQ_RING);
    ring->sqe_size = p->sq_entries * sizeof(struct uring_sqe);
    ring->sqe_memory = ring->rings ? uring_map(ring, ring->sqe_size, URING_OFF_SQES) : NULL;
    if (!ring->sqe_memory)
        return -errno;
    char *base = ring->rings;
    ring->sq_head = (_Atomic uint32_t *)(base + p->sq_off.head);
    ring->sq_tail = (_Atomic uint32_t *)(base + p->sq_off.tail);
    ring->sq_flags = (_Atomic uint32_t *)(base + p->sq_off.flags);
    ring->sq_mask = *(uint32_t *)(base + p->sq_off.ring_mask);
    ring->sq_entries = p->sq_entries;
    ring->sqes = ring->sqe_memory;
    ring->cq_head = (_Atomic uint32_t *)(base + p->cq_off.head);
    ring->cq_tail = (_Atomic uint32_t *)(base + p->cq_off.tail);
    ring->cq_flags = (_Atomic uint32_t *)(base + p->cq_off.flags);
    ring->cq_mask = *(uint32_t *)(base + p->cq_off.ring_mask);
    ring->cq_entries = p->cq_entries;
    ring->cqes = (struct flexsc_completion *)(base + p->cq_off.cqes);
    if (!(ring->setup_flags & URING_SETUP_NO_SQARRAY)) {
        uint32_t *array = (uint32_t *)(base + p->sq_off.array);
        for (uint32_t i = 0; i < p->sq_entries; i++)
            array[i] = i;
    }
    return 0;
}

/* Set up a ring of `entries` SQEs and `completions` CQEs.  `ring` is zeroed, or one that was copied elsewhere and is to
 * be replaced: its counters go on.
 *
 * poller_cpu: URING_NO_POLLER; URING_ANY_CPU: a poller on any CPU; else a poller (SQPOLL) pinned to that CPU, which sleeps after
 * `idle_ms` without work.  share: the fd of a ring of this process whose poller serves this one, too, where the kernel lets it;
 * URING_SHARES_NONE for a poller of its own.  Returns 0, or -errno with nothing left open.  Source: io_uring_setup(2). */
static inline int uring_open(struct uring *ring, uint32_t entries, uint32_t completions, int poller_cpu,
                             uint32_t idle_ms, int share)
{
    *ring = (struct uring){.fd = -1,
                           .wake_fd = -1,
                           .syscalls = ring->syscalls,
                           .batches = ring->batches,
                           .wakeups = ring->wakeups,
                           .overflows = ring->overflows,
                           .user = uring_user_now()};
    uint32_t flags = URING_SETUP_CLAMP | URING_SETUP_CQSIZE | URING_SETUP_SUBMIT_ALL | URING_SETUP_R_DISABLED;
    if (poller_cpu == URING_NO_POLLER)
        flags |= URING_SETUP_SINGLE_ISSUER | URING_SETUP_DEFER_TASKRUN | URING_SETUP_TASKRUN_FLAG;
    else
        flags |= URING_SETUP_SQPOLL | (poller_cpu >= 0 ? URING_SETUP_SQ_AFF : 0);
    struct uring_params p;
    /* Kernels before 6.6 do not know NO_SQARRAY: try with, then without.  First of all both with somebody's poller, unless
     * that can't be shared (it ends just now). */
    for (int attempt = share >= 0 ? -2 : 0; attempt < 2; attempt++) {
        memset(&p, 0, sizeof p);
        p.flags = flags | (attempt % 2 == 0 ? URING_SETUP_NO_SQARRAY : 0) | (attempt < 0 ? URING_SETUP_ATTACH_WQ : 0);
        p.wq_fd = attempt < 0 ? (uint32_t)share : 0;
        p.cq_entries = completions;
        p.sq_thread_cpu = poller_cpu >= 0 ? (uint32_t)poller_cpu : 0;
        p.sq_thread_idle = idle_ms;
        ring->fd = (int)syscall(URING_NR_SETUP, entries, &p);
        if (ring->fd >= 0 || (errno != EINVAL && attempt >= 0))
            break;
    }
    if (ring->fd < 0)
        return -errno;
    ring->setup_flags = p.flags;
    ring->features = p.features;
    const uint32_t needed = URING_FEAT_SINGLE_MMAP | URING_FEAT_NODROP | URING_FEAT_EXT_ARG;
    int res = (p.features & needed) == needed ? uring_map_rings(ring, &p) : -EOPNOTSUPP;
    if (res == 0) {
        /* A filter may let the set-up pass and refuse the rest.  A ring that is still disabled answers EBADFD. */
        res = uring_sys_enter(ring, 0, 0, 0, NULL, 0);
        res = res == -EBADFD ? 0 : res < 0 ? res : -EOPNOTSUPP;
    }
    if (res == 0) {
        /* Blocking, or else the read that the loop keeps on it would end at once with EAGAIN. */
        ring->wake_fd = eventfd(0, EFD_CLOEXEC);
        if (ring->wake_fd < 0)
            res = -errno;
    }
    if (res < 0)
        uring_close(ring);
    return res;
}

/* The kernel lets four of its workers for each CPU sleep in calls on files, and starts more only where those that it has do
 * sleep.  That few FIFOs that nobody opens at the other end would hold up every fsync; and of a journal's commits, each of which
 * serves all who wait for it, many were needed.  Kernels before 5.15 do not know of it. */
static inline void uring_allow_sleepers(struct uring *ring)
{
    uint32_t most[2] = {URING_SLEEPERS_MOST, 0};
    (void)uring_sys_register(ring, URING_REGISTER_IOWQ_MAX_WORKERS, most, 2);
}

/* Bind the ring to the calling thread (SINGLE_ISSUER), once, before the first enter. */
static inline int uring_enable(struct uring *ring)
{
    if (ring->enabled)
        return 0;
    int res = uring_sys_register(ring, URING_REGISTER_ENABLE_RINGS, NULL, 0);
    if (res < 0)
        return res;
    ring->enabled = true;
    uring_allow_sleepers(ring);
    return 0;
}

#endif
