/* Floor 0: one io_uring ring: set-up, mappings, barriers, submission and completion.
 *
 * Owns: the ring's fd and its two mappings.  Raw system calls, no liburing.  Knows nothing of Python.
 * One thread (the loop's) uses a ring; only `uring_wake` may come from any thread. */
#ifndef FLEXSC_URING_H
#define FLEXSC_URING_H

#include <errno.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "spin.h"
#include "uring_abi.h"

_Static_assert(CALL_POLL == 6 && CALL_SENDMSG == 9 && CALL_RECVMSG == 10 && CALL_ACCEPT == 13 && CALL_CANCEL == 14 &&
                   CALL_CONNECT == 16 && CALL_CLOSE == 19 && CALL_READ == 22 && CALL_WRITE == 23 && CALL_SEND == 26 &&
                   CALL_RECV == 27 && CALL_SHUTDOWN == 34,
               "calls are numbered as io_uring's opcodes");

enum uring_sleep { URING_AWAKE, URING_LOOKING, URING_ASLEEP };

enum {
    URING_GROUPS_MOST = 32, /* supplementary groups that are compared; of those who have more, none */
    /* How often a look is taken at who the user is.  It takes three system calls. */
    URING_USER_LOOK_NS = 1000000,
    URING_WAITS_PER_USER_LOOK = 1024, /* for a loop that never sleeps */
};

/* For whom a thread makes system calls. */
struct uring_user {
    uid_t uid; /* effective */
    gid_t gid;
    int group_count;
    gid_t groups[URING_GROUPS_MOST];
};

struct uring {
    int fd;
    int wake_fd; /* an eventfd; the loop keeps a read on it in flight */
    uint32_t setup_flags;
    uint32_t features;
    bool enabled; /* R_DISABLED has been lifted: the ring belongs to the thread that did so */

    _Atomic uint32_t *sq_head, *sq_tail, *sq_flags;
    uint32_t sq_mask, sq_entries;
    uint32_t sqe_tail;      /* SQEs filled so far */
    uint32_t sqe_published; /* of them, handed to the kernel */
    struct uring_sqe *sqes;

    _Atomic uint32_t *cq_head, *cq_tail;
    uint32_t cq_mask, cq_entries;
    struct flexsc_completion *cqes;

    void *rings, *sqe_memory;
    size_t rings_size, sqe_size;

    struct uring_user user; /* for whom a poller makes the calls: for whoever has set the ring up */
    int64_t user_seen_ns;    /* when that was compared last */
    uint32_t waits;

    _Atomic int sleep; /* enum uring_sleep, for uring_wake */
    _Atomic int woken;
    uint64_t syscalls, batches;
    uint64_t wakeups;   /* of the poller */
    uint64_t overflows; /* times that completions were found waiting outside the ring, it being full */
};

static inline int uring_sys_enter(struct uring *ring, uint32_t submit, uint32_t wait, uint32_t flags, const void *arg,
                                  size_t size)
{
    ring->syscalls++;
    long res = syscall(URING_NR_ENTER, ring->fd, submit, wait, flags, arg, size);
    return res < 0 ? -errno : (int)res;
}

static inline int uring_sys_register(struct uring *ring, unsigned opcode, const void *arg, unsigned count)
{
    ring->syscalls++;
    long res = syscall(URING_NR_REGISTER, ring->fd, opcode, arg, count);
    return res < 0 ? -errno : (int)res;
}

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

static inline struct uring_user uring_user_now(void)
{
    struct uring_user user = {.uid = geteuid(), .gid = getegid()};
    user.group_count = getgroups(URING_GROUPS_MOST, user.groups);
    return user;
}

/* Whether this thread has changed its user or groups since the ring was opened, or since this was asked last. */
static inline bool uring_user_changed(struct uring *ring)
{
    struct uring_user now = uring_user_now();
    ring->syscalls += 3;
    if (memcmp(&now, &ring->user, sizeof now) == 0)
        return false;
    ring->user = now;
    return true;
}

/* The same, but says no without a look if the last one was just now. */
static inline bool uring_user_changed_lately(struct uring *ring)
{
    int64_t now = flexsc_now_ns();
    if (now - ring->user_seen_ns < URING_USER_LOOK_NS)
        return false;
    ring->user_seen_ns = now;
    return uring_user_changed(ring);
}

/* Set up a ring of `entries` SQEs and `completions` CQEs.  `ring` is zeroed, or one that was copied elsewhere and is to
 * be replaced: its counters go on.
 *
 * poller_cpu: -2: no poller; -1: a poller on any CPU; else a poller (SQPOLL) pinned to that CPU, which sleeps after
 * `idle_ms` without work.  Returns 0, or -errno with nothing left open.  Source: io_uring_setup(2). */
static inline int uring_open(struct uring *ring, uint32_t entries, uint32_t completions, int poller_cpu,
                             uint32_t idle_ms)
{
    *ring = (struct uring){.fd = -1,
                           .wake_fd = -1,
                           .syscalls = ring->syscalls,
                           .batches = ring->batches,
                           .wakeups = ring->wakeups,
                           .overflows = ring->overflows,
                           .user = uring_user_now()};
    uint32_t flags = URING_SETUP_CLAMP | URING_SETUP_CQSIZE | URING_SETUP_SUBMIT_ALL | URING_SETUP_R_DISABLED;
    if (poller_cpu == -2)
        flags |= URING_SETUP_SINGLE_ISSUER | URING_SETUP_DEFER_TASKRUN | URING_SETUP_TASKRUN_FLAG;
    else
        flags |= URING_SETUP_SQPOLL | (poller_cpu >= 0 ? URING_SETUP_SQ_AFF : 0);
    struct uring_params p;
    /* Kernels before 6.6 do not know NO_SQARRAY: try with, then without. */
    for (int attempt = 0; attempt < 2; attempt++) {
        memset(&p, 0, sizeof p);
        p.flags = flags | (attempt == 0 ? URING_SETUP_NO_SQARRAY : 0);
        p.cq_entries = completions;
        p.sq_thread_cpu = poller_cpu >= 0 ? (uint32_t)poller_cpu : 0;
        p.sq_thread_idle = idle_ms;
        ring->fd = (int)syscall(URING_NR_SETUP, entries, &p);
        if (ring->fd >= 0 || errno != EINVAL)
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

/* Bind the ring to the calling thread (SINGLE_ISSUER), once, before the first enter. */
static inline int uring_enable(struct uring *ring)
{
    int res = ring->enabled ? 0 : uring_sys_register(ring, URING_REGISTER_ENABLE_RINGS, NULL, 0);
    if (res == 0)
        ring->enabled = true;
    return res;
}

/* The next free SQE, zeroed; NULL when the queue is full. */
static inline struct uring_sqe *uring_next_sqe(struct uring *ring)
{
    /* Acquire: what the kernel read from the slot, it read before it advanced the head. */
    uint32_t head = atomic_load_explicit(ring->sq_head, memory_order_acquire);
    if (ring->sqe_tail - head >= ring->sq_entries)
        return NULL;
    struct uring_sqe *sqe = &ring->sqes[ring->sqe_tail & ring->sq_mask];
    ring->sqe_tail++;
    memset(sqe, 0, sizeof *sqe);
    return sqe;
}

/* How many SQEs can be filled now. */
static inline uint32_t uring_room(const struct uring *ring)
{
    return ring->sq_entries - (ring->sqe_tail - atomic_load_explicit(ring->sq_head, memory_order_acquire));
}

static inline uint32_t uring_unpublished(const struct uring *ring)
{
    return ring->sqe_tail - ring->sqe_published;
}

/* Whether the kernel has taken every SQE that was published. */
static inline bool uring_all_taken(const struct uring *ring)
{
    return atomic_load_explicit(ring->sq_head, memory_order_relaxed) == ring->sqe_published;
}

/* Make the filled SQEs visible to the kernel.  Returns how many the kernel has yet to take. */
static inline uint32_t uring_advance_tail(struct uring *ring)
{
    if (uring_unpublished(ring)) {
        ring->batches++;
        /* Release: the SQEs are complete before the tail covers them. */
        atomic_store_explicit(ring->sq_tail, ring->sqe_tail, memory_order_release);
        ring->sqe_published = ring->sqe_tail;
    }
    return ring->sqe_tail - atomic_load_explicit(ring->sq_head, memory_order_relaxed);
}

static inline bool uring_has_completions(const struct uring *ring)
{
    return atomic_load_explicit(ring->cq_tail, memory_order_acquire) !=
           atomic_load_explicit(ring->cq_head, memory_order_relaxed);
}

/* Whether the kernel has results that only an enter brings into the ring. */
static inline bool uring_wants_enter(const struct uring *ring)
{
    return atomic_load_explicit(ring->sq_flags, memory_order_relaxed) & (URING_SQ_TASKRUN | URING_SQ_CQ_OVERFLOW);
}

/* Copy up to `most` completions out and advance the head. */
static inline uint32_t uring_reap(struct uring *ring, struct flexsc_completion *out, uint32_t most)
{
    uint32_t head = atomic_load_explicit(ring->cq_head, memory_order_relaxed);
    /* Acquire: a completion is read after the tail that covers it. */
    uint32_t ready = atomic_load_explicit(ring->cq_tail, memory_order_acquire) - head;
    if (ready > most)
        ready = most;
    for (uint32_t i = 0; i < ready; i++)
        out[i] = ring->cqes[(head + i) & ring->cq_mask];
    /* Release: the slots have been read before the kernel may fill them again. */
    atomic_store_explicit(ring->cq_head, head + ready, memory_order_release);
    return ready;
}

/* One enter with a timeout: submit what is published, wait for `wait` completions.  timeout_ns -1: no limit. */
static inline int uring_enter_timed(struct uring *ring, uint32_t submit, uint32_t wait, uint32_t flags,
                                    int64_t timeout_ns)
{
    struct uring_timespec ts = {timeout_ns / 1000000000, timeout_ns % 1000000000};
    struct uring_enter_arg arg = {.ts = timeout_ns > 0 ? (uint64_t)(uintptr_t)&ts : 0};
    if (wait && (ring->features & URING_FEAT_NO_IOWAIT))
        flags |= URING_ENTER_NO_IOWAIT;
    flags |= URING_ENTER_GETEVENTS | URING_ENTER_EXT_ARG;
    int res = uring_sys_enter(ring, submit, wait, flags, &arg, sizeof arg);
    if (atomic_load_explicit(ring->sq_flags, memory_order_relaxed) & URING_SQ_CQ_OVERFLOW)
        ring->overflows++;
    return res == -ETIME ? 0 : res;
}

/* Tell the poller of new SQEs, if it sleeps. */
static inline int uring_ring_poller(struct uring *ring)
{
    /* The tail must be visible before we look whether the poller sleeps. */
    atomic_thread_fence(memory_order_seq_cst);
    if (atomic_load_explicit(ring->sq_flags, memory_order_relaxed) & URING_SQ_NEED_WAKEUP) {
        ring->wakeups++;
        return uring_sys_enter(ring, 0, 0, URING_ENTER_SQ_WAKEUP, NULL, 0);
    }
    return 0;
}

static inline bool uring_polled(const struct uring *ring)
{
    return ring->setup_flags & URING_SETUP_SQPOLL;
}

/* Hand over what has been filled, without waiting for results. */
static inline int uring_publish(struct uring *ring)
{
    uint32_t submit = uring_advance_tail(ring);
    if (!submit)
        return 0;
    int res = uring_polled(ring) ? uring_ring_poller(ring) : uring_sys_enter(ring, submit, 0, 0, NULL, 0);
    return res < 0 ? res : 0;
}

/* Make room in a full submission queue. */
static inline int uring_make_room(struct uring *ring)
{
    int res = uring_publish(ring);
    if (res == 0 && uring_polled(ring))
        res = uring_sys_enter(ring, 0, 0, URING_ENTER_SQ_WAKEUP | (1u << 2) /* SQ_WAIT */, NULL, 0);
    return res < 0 ? res : 0;
}

static inline void uring_relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Look for completions for up to spin_ns without a system call.  True when there is one, or a wake, or (without a
 * poller) something that an enter will make one of. */
static inline bool uring_look(struct uring *ring, int64_t spin_ns)
{
    int64_t until = flexsc_now_ns() + spin_ns;
    bool polled = uring_polled(ring);
    do {
        for (int i = 0; i < 64; i++) {
            if (uring_has_completions(ring) || atomic_load_explicit(&ring->woken, memory_order_relaxed) ||
                (!polled && uring_wants_enter(ring)))
                return true;
            uring_relax();
        }
        if (uring_wants_enter(ring))
            return false;
    } while (flexsc_now_ns() < until);
    return false;
}

/* Own thread: submit, and look for up to spin_ns.  Returns how many SQEs are still to be submitted, or -errno. */
static inline int uring_submit_and_look(struct uring *ring, uint32_t submit, int64_t timeout_ns, int64_t spin_ns,
                                        struct flexsc_spin *spin)
{
    if (submit && !uring_wants_enter(ring)) {
        int res = uring_sys_enter(ring, submit, 0, 0, NULL, 0);
        if (res < 0)
            return res;
        submit = uring_advance_tail(ring);
    }
    if (submit || uring_has_completions(ring) || uring_wants_enter(ring))
        return (int)submit;
    bool timer = timeout_ns > 0 && timeout_ns < spin_ns;
    bool found = uring_look(ring, timer ? timeout_ns : spin_ns);
    if (found || !timer)
        spin_looked(spin, found);
    return 0;
}

/* Publish, then wait until a completion is there, uring_wake() was called, or the time is over.
 * timeout_ns: 0 never sleeps, -1 sleeps without limit.  spin_ns: how long to look first.
 * The own thread does not sleep after a look, not even one in vain: the caller comes back, having seen to signals.
 * Returns 0 or -errno (-EINTR: a signal ended the sleep; -ESTALE: the poller acts for a user or groups that are not this
 * thread's any more, which is told once).  *looked_in_vain says whether spinning found nothing. */
static inline int uring_wait(struct uring *ring, int64_t timeout_ns, int64_t spin_ns, struct flexsc_spin *spin,
                             int *looked_in_vain)
{
    bool polled = uring_polled(ring);
    *looked_in_vain = 0;
    if (polled && ++ring->waits % URING_WAITS_PER_USER_LOOK == 0 && uring_user_changed_lately(ring))
        return -ESTALE;
    uint32_t submit = uring_advance_tail(ring);
    if (polled) {
        int res = submit ? uring_ring_poller(ring) : 0;
        if (res < 0)
            return res;
        submit = 0;
        if (timeout_ns == 0 && !uring_wants_enter(ring))
            return 0;
    }
    if (uring_has_completions(ring))
        timeout_ns = 0;
    if (timeout_ns != 0 && spin_ns > 0 && !polled) {
        int left = uring_submit_and_look(ring, submit, timeout_ns, spin_ns, spin);
        if (left < 0)
            return left;
        submit = (uint32_t)left;
        timeout_ns = 0;
    }
    if (timeout_ns != 0 && spin_ns > 0) {
        spin->looks++;
        atomic_store_explicit(&ring->sleep, URING_LOOKING, memory_order_seq_cst);
        if (timeout_ns > 0 && spin_ns > timeout_ns)
            spin_ns = timeout_ns;
        if (uring_look(ring, spin_ns))
            timeout_ns = 0;
        else
            *looked_in_vain = 1;
        if (timeout_ns > 0)
            timeout_ns = timeout_ns > spin_ns ? timeout_ns - spin_ns : 0;
    }
    int res = 0;
    bool changed = timeout_ns != 0 && polled && uring_user_changed_lately(ring);
    if (changed)
        timeout_ns = 0;
    if (timeout_ns != 0) {
        /* The sleep must be announced before we look for a wake: uring_wake() sets woken first, then looks here. */
        atomic_store_explicit(&ring->sleep, URING_ASLEEP, memory_order_seq_cst);
        if (atomic_load_explicit(&ring->woken, memory_order_seq_cst))
            timeout_ns = 0;
    }
    if (timeout_ns != 0 && !polled && !uring_wants_enter(ring)) {
        int64_t began = flexsc_now_ns();
        res = uring_enter_timed(ring, submit, 1, 0, timeout_ns);
        spin_slept(spin, flexsc_now_ns() - began);
    } else if (timeout_ns != 0 || submit || uring_wants_enter(ring)) {
        res = uring_enter_timed(ring, submit, timeout_ns != 0, 0, timeout_ns);
    }
    atomic_store_explicit(&ring->sleep, URING_AWAKE, memory_order_relaxed);
    atomic_store_explicit(&ring->woken, 0, memory_order_relaxed);
    /* And once more: who was looked at just now may have changed before a sleep that took long. */
    if (changed || (timeout_ns != 0 && polled && uring_user_changed_lately(ring)))
        return -ESTALE;
    return res < 0 ? res : 0;
}

/* End the loop's sleep, or the next one.  Any thread.  Returns whether it cost a system call. */
static inline bool uring_wake(struct uring *ring)
{
    atomic_store_explicit(&ring->woken, 1, memory_order_seq_cst);
    if (atomic_load_explicit(&ring->sleep, memory_order_seq_cst) != URING_ASLEEP)
        return false;
    uint64_t one = 1;
    return write(ring->wake_fd, &one, sizeof one) == sizeof one;
}

#endif
