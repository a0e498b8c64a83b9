/* Floor 0: what runs per turn on a ring: fill, publish, look, sleep, reap. */
#ifndef FLEXSC_URING_TURN_H
#define FLEXSC_URING_TURN_H

#include <string.h>

#include "check.h"
#include "spin.h"
#include "uring.h"
#include "uring_user.h"

enum { URING_LOOKS_PER_TIME = 64 }; /* in vain, before a look asks what time it is */

/* ---- filling ---- */

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

/* Whether the poller sleeps, as far as a look without a barrier tells. */
static inline bool uring_poller_sleeps(const struct uring *ring)
{
    return atomic_load_explicit(ring->sq_flags, memory_order_relaxed) & URING_SQ_NEED_WAKEUP;
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

/* ---- publishing ---- */

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
        res = uring_sys_enter(ring, 0, 0, URING_ENTER_SQ_WAKEUP | URING_ENTER_SQ_WAIT, NULL, 0);
    return res < 0 ? res : 0;
}

/* ---- completions ---- */

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

/* Whether completions ring the eventfd that is registered with the ring. */
static inline void uring_set_bell(struct uring *ring, bool rings)
{
    atomic_store_explicit(ring->cq_flags, rings ? 0 : URING_CQ_EVENTFD_DISABLED, memory_order_relaxed);
    /* The kernel must be told before the loop looks for completions, for the last time before it sleeps. */
    atomic_thread_fence(memory_order_seq_cst);
}

/* ---- waiting ---- */

/* One enter with a timeout: submit what is published, wait for `wait` completions.  timeout_ns -1: no limit. */
static inline int uring_enter_timed(struct uring *ring, uint32_t submit, uint32_t wait, int64_t timeout_ns)
{
    uint32_t flags = URING_ENTER_GETEVENTS | URING_ENTER_EXT_ARG;
    struct uring_timespec ts = {timeout_ns / 1000000000, timeout_ns % 1000000000};
    struct uring_enter_arg arg = {.ts = timeout_ns > 0 ? (uint64_t)(uintptr_t)&ts : 0};
    if (wait && (ring->features & URING_FEAT_NO_IOWAIT))
        flags |= URING_ENTER_NO_IOWAIT;
    int res = uring_sys_enter(ring, submit, wait, flags, &arg, sizeof arg);
    if (atomic_load_explicit(ring->sq_flags, memory_order_relaxed) & URING_SQ_CQ_OVERFLOW)
        ring->overflows++;
    return res == -ETIME ? 0 : res;
}

/* Look for completions for up to spin_ns without a system call.  True when there is one, or a wake, or (without a
 * poller) something that an enter will make one of. */
static inline bool uring_look(struct uring *ring, int64_t spin_ns)
{
    int64_t until = flexsc_now_ns() + spin_ns;
    bool polled = uring_polled(ring);
    do {
        for (int i = 0; i < URING_LOOKS_PER_TIME; i++) {
            if (uring_has_completions(ring) || atomic_load_explicit(&ring->woken, memory_order_relaxed) ||
                (!polled && uring_wants_enter(ring)))
                return true;
            spin_relax();
        }
        if (uring_wants_enter(ring))
            return false;
    } while (flexsc_now_ns() < until);
    return false;
}

/* Announce a sleep.  False: a wake came first. */
static inline bool uring_announce_sleep(struct uring *ring)
{
    /* The sleep must be announced before we look for a wake: uring_wake() sets woken first, then looks here. */
    atomic_store_explicit(&ring->sleep, URING_ASLEEP, memory_order_seq_cst);
    return !atomic_load_explicit(&ring->woken, memory_order_seq_cst);
}

/* The wait is over, and so are the wakes that have come until now. */
static inline void uring_awake(struct uring *ring)
{
    atomic_store_explicit(&ring->sleep, URING_AWAKE, memory_order_relaxed);
    atomic_store_explicit(&ring->woken, 0, memory_order_relaxed);
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

/* Own thread: submit and sleep in one system call. */
static inline int uring_submit_and_sleep(struct uring *ring, uint32_t submit, int64_t timeout_ns,
                                         struct flexsc_spin *spin)
{
    if (uring_wants_enter(ring))
        return uring_enter_timed(ring, submit, 1, timeout_ns);
    int64_t began = flexsc_now_ns();
    int res = uring_enter_timed(ring, submit, 1, timeout_ns);
    spin_slept(spin, flexsc_now_ns() - began);
    return res;
}

/* The own thread publishes, then waits until a completion is there, uring_wake() was called, or the time is over.
 * timeout_ns: 0 never sleeps, -1 sleeps without limit.  spin_ns: how long to look first; after a look it does not sleep,
 * not even after one in vain: the caller comes back, having seen to signals.
 * Returns 0 or -errno (-EINTR: a signal ended the sleep). */
static inline int uring_wait_own(struct uring *ring, int64_t timeout_ns, int64_t spin_ns, struct flexsc_spin *spin)
{
    uint32_t submit = uring_advance_tail(ring);
    int res = 0;
    if (uring_has_completions(ring))
        timeout_ns = 0;
    if (timeout_ns != 0 && spin_ns > 0) {
        res = uring_submit_and_look(ring, submit, timeout_ns, spin_ns, spin);
        if (res < 0)
            return res;
        submit = (uint32_t)res;
        timeout_ns = res = 0;
    }
    if (timeout_ns != 0 && uring_announce_sleep(ring))
        res = uring_submit_and_sleep(ring, submit, timeout_ns, spin);
    else if (submit || uring_wants_enter(ring))
        res = uring_enter_timed(ring, submit, 0, 0);
    uring_awake(ring);
    return res < 0 ? res : 0;
}

/* What came of looking for results: some, or no need to look; nothing; nothing, and the poller has yet to begin. */
enum uring_found { URING_SOMETHING, URING_NOTHING, URING_BEHIND };

/* With a poller: look for up to `spin_ns`.  Returns how much of the time is left, 0 when there is no need to sleep. */
static inline int64_t uring_look_first(struct uring *ring, int64_t timeout_ns, int64_t spin_ns,
                                       struct flexsc_spin *spin, enum uring_found *found)
{
    spin->looks++;
    atomic_store_explicit(&ring->sleep, URING_LOOKING, memory_order_seq_cst);
    if (timeout_ns > 0 && spin_ns > timeout_ns)
        spin_ns = timeout_ns;
    if (uring_look(ring, spin_ns))
        return 0;
    *found = uring_all_taken(ring) ? URING_NOTHING : URING_BEHIND;
    return timeout_ns > 0 ? timeout_ns - spin_ns : timeout_ns;
}

/* The same with a poller, which is told of what is new if it sleeps.  -ESTALE: it acts for a user or groups that are not
 * this thread's any more, which is told once.  *found: what came of looking. */
static inline int uring_wait_polled(struct uring *ring, int64_t timeout_ns, int64_t spin_ns, struct flexsc_spin *spin,
                                    enum uring_found *found)
{
    *found = URING_SOMETHING;
    if (++ring->waits % URING_WAITS_PER_USER_LOOK == 0 && uring_user_changed_lately(ring))
        return -ESTALE;
    int res = uring_publish(ring);
    if (res < 0 || (timeout_ns == 0 && !uring_wants_enter(ring)))
        return res;
    if (uring_has_completions(ring))
        timeout_ns = 0;
    if (timeout_ns != 0 && spin_ns > 0)
        timeout_ns = uring_look_first(ring, timeout_ns, spin_ns, spin, found);
    bool changed = timeout_ns != 0 && uring_user_changed_lately(ring);
    bool sleeps = timeout_ns != 0 && !changed && uring_announce_sleep(ring);
    if (sleeps || uring_wants_enter(ring))
        res = uring_enter_timed(ring, 0, sleeps, sleeps ? timeout_ns : 0);
    uring_awake(ring);
    /* And once more: who was looked at just now may have changed before a sleep that took long. */
    if (changed || (sleeps && uring_user_changed_lately(ring)))
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
