/* Floor 3: words by which workers, and those who give them work, see and wake each other without the GIL.
 *
 * Everything else about workers is guarded by the GIL.  A worker's own word is both its orders and the futex on which
 * it sleeps.  Nobody waits here for anything that needs the GIL to come true while he holds it. */
#ifndef FLEXSC_WORKERS_H
#define FLEXSC_WORKERS_H

#include <errno.h>
#include <linux/futex.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "../syscalls/spin.h"

enum worker_orders {
    ORDER_REST,  /* sleep */
    ORDER_WORK,  /* take the GIL and jobs */
    ORDER_WATCH, /* look, without the GIL, whether those who work get on */
};

enum loop_waits {
    LOOP_ELSEWHERE,
    LOOP_LOOKS,
    LOOP_SLEEPS,
};

enum {
    /* A worker that has just become idle looks so often, so far apart, for jobs that a loop has not handed over because
     * its callback computes or blocks.  5 ms is also how long another thread would wait for the GIL. */
    LINGER_LOOKS = 10,
    LINGER_NS = 5000000,
    /* A job is taken to block when nothing was begun or ended for so long.  The kernel's timer slack (50 us) comes on
     * top. */
    STUCK_NS = 60000,
    STUCK_LEAST_NS = 1000,
    AWAIT_STEPS = 10, /* so many times STUCK_NS the loop waits at most for a batch that makes progress */
    /* A loop and a worker that are on different CPUs and hand a short job to each other every few microseconds look for
     * each other for so long before they sleep: a CPU that was put to sleep takes tens of microseconds to wake. */
    HANDOVER_NS = 30000,
    HANDOVER_LOOKS = 32,         /* looks between two looks at the clock */
    HANDOVER_JOBS = 4,           /* a loop that waits for more jobs sleeps at once */
    HANDOVER_MOST_SKIPPED = 255, /* spins left out after others were in vain */
};

struct flexsc_worker {
    _Atomic uint32_t orders; /* enum worker_orders; a futex */
    _Atomic uint32_t asleep; /* has to be woken */
};

struct flexsc_crew {
    _Atomic uint32_t queued;      /* jobs that nobody has taken yet */
    _Atomic uint32_t unpublished; /* the loop holds jobs that it will hand over when its turn ends */
    _Atomic uint32_t untold;      /* there are results of which a sleeping loop has not been told */
    _Atomic uint32_t called;      /* workers that were ordered to work and have not yet come */
    _Atomic uint32_t progress;    /* jobs begun and ended */
    _Atomic uint32_t waiting;     /* enum loop_waits: until the batch is done; a futex */
    _Atomic uint32_t loop_cpu;    /* where the loop was when it began to wait */
    _Atomic uint32_t spin_skip;   /* spins to leave out: still to come, ... */
    _Atomic uint32_t spin_backoff; /* ... and how many the last time */
    _Atomic uint32_t stuck_ns;    /* how long without progress means stuck: shorter once jobs have been seen to block */
    _Atomic(struct flexsc_worker *) lingering;
};

/* Sleep while *word is `value`, at most timeout_ns (-1: without limit).  0 or -errno. */
static inline int crew_futex_wait(_Atomic uint32_t *word, uint32_t value, int64_t timeout_ns)
{
    struct timespec timeout = {timeout_ns / 1000000000, timeout_ns % 1000000000};
    long res = syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, timeout_ns < 0 ? NULL : &timeout, NULL, 0);
    return res < 0 ? -errno : 0;
}

static inline void crew_futex_wake(_Atomic uint32_t *word)
{
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

/* Look at a word until it is not `value` any more, for HANDOVER_NS at most.  True if it has changed. */
static inline bool crew_spin(_Atomic uint32_t *word, uint32_t value)
{
    int64_t until = flexsc_now_ns() + HANDOVER_NS;
    do {
        for (int looks = 0; looks < HANDOVER_LOOKS; looks++) {
            if (atomic_load_explicit(word, memory_order_acquire) != value)
                return true;
            spin_relax();
        }
    } while (flexsc_now_ns() < until);
    return false;
}

/* Change a worker's orders.  True if it may sleep, and has to be woken with worker_wake(). */
static inline bool worker_order(struct flexsc_worker *worker, uint32_t orders)
{
    return atomic_exchange(&worker->orders, orders) != orders;
}

/* True if it had to be woken.  Its orders have been changed: either we see that it sleeps, or it sees them. */
static inline bool worker_wake(struct flexsc_worker *worker)
{
    if (!atomic_load(&worker->asleep))
        return false;
    crew_futex_wake(&worker->orders);
    return true;
}

/* Sleep until the orders are others, at most timeout_ns (-1: without limit). */
static inline void worker_sleep(struct flexsc_worker *me, uint32_t orders, int64_t timeout_ns)
{
    atomic_store(&me->asleep, 1);
    crew_futex_wait(&me->orders, orders, timeout_ns);
    atomic_store(&me->asleep, 0);
}

static inline uint32_t worker_orders(struct flexsc_worker *worker)
{
    return atomic_load(&worker->orders);
}

/* ---- words that are written with the GIL held ---- */

static inline void crew_set_queued(struct flexsc_crew *crew, size_t count)
{
    atomic_store(&crew->queued, (uint32_t)count);
}

static inline void crew_set_untold(struct flexsc_crew *crew, bool untold) { atomic_store(&crew->untold, untold); }
static inline void crew_linger(struct flexsc_crew *crew, struct flexsc_worker *me)
{
    atomic_store(&crew->lingering, me);
}

static inline void crew_call(struct flexsc_crew *crew, int change)
{
    atomic_fetch_add(&crew->called, (uint32_t)change);
}

static inline uint32_t crew_called(struct flexsc_crew *crew) { return atomic_load(&crew->called); }
static inline void crew_progress(struct flexsc_crew *crew) { atomic_fetch_add(&crew->progress, 1); }
static inline void crew_set_stuck_ns(struct flexsc_crew *crew, uint32_t ns) { atomic_store(&crew->stuck_ns, ns); }
static inline uint32_t crew_stuck_ns(struct flexsc_crew *crew) { return atomic_load(&crew->stuck_ns); }

/* The loop keeps a job until its turn ends.  False if no worker would see it, should the turn take long. */
static inline bool crew_keep(struct flexsc_crew *crew)
{
    /* Sequentially consistent, as is what worker_lingers() does: either we see that nobody looks any more, or he who
     * stops looking sees our job. */
    atomic_store(&crew->unpublished, 1);
    return atomic_load(&crew->lingering) != NULL;
}

static inline void crew_published(struct flexsc_crew *crew) { atomic_store(&crew->unpublished, 0); }

/* ---- the workers' side, without the GIL ---- */

/* Jobs are done, and the loop, on another CPU, may have the next one in a moment: stay awake for it, unless that was in
 * vain the last times. */
static inline void worker_spins(struct flexsc_crew *crew, struct flexsc_worker *me)
{
    uint32_t skip = atomic_load_explicit(&crew->spin_skip, memory_order_relaxed);
    if ((uint32_t)sched_getcpu() == atomic_load(&crew->loop_cpu))
        return; /* it could not come */
    if (skip == 0 && crew_spin(&me->orders, ORDER_REST)) {
        atomic_store_explicit(&crew->spin_backoff, 0, memory_order_relaxed);
        return;
    }
    if (skip == 0) {
        uint32_t backoff = 2 * atomic_load_explicit(&crew->spin_backoff, memory_order_relaxed) + 1;
        skip = backoff < HANDOVER_MOST_SKIPPED ? backoff : HANDOVER_MOST_SKIPPED;
        atomic_store_explicit(&crew->spin_backoff, skip, memory_order_relaxed);
        skip++;
    }
    atomic_store_explicit(&crew->spin_skip, skip - 1, memory_order_relaxed);
}

/* Look for kept jobs for a while.  True if there are some, or other orders came. */
static inline bool worker_lingers(struct flexsc_crew *crew, struct flexsc_worker *me)
{
    struct flexsc_worker *expected = me;
    bool kept = false;
    for (int looks = 0; looks < LINGER_LOOKS && atomic_load(&crew->lingering) == me; looks++) {
        worker_sleep(me, ORDER_REST, LINGER_NS);
        if (atomic_load(&me->orders) != ORDER_REST || (kept = atomic_load(&crew->unpublished)))
            break;
    }
    if (!atomic_compare_exchange_strong(&crew->lingering, &expected, NULL))
        return false; /* somebody else looks now */
    return kept || atomic_load(&crew->unpublished);
}

/* Look whether those who work get on, as long as there is something to get on with.  True if they do not. */
static inline bool worker_watches(struct flexsc_crew *crew, struct flexsc_worker *me)
{
    uint32_t seen = atomic_load(&crew->progress);
    for (;;) {
        worker_sleep(me, ORDER_WATCH, atomic_load(&crew->stuck_ns));
        if (atomic_load(&me->orders) != ORDER_WATCH)
            return false;
        if (!atomic_load(&crew->queued) && !atomic_load(&crew->untold)) {
            uint32_t expected = ORDER_WATCH;
            if (!atomic_compare_exchange_strong(&me->orders, &expected, ORDER_REST))
                return false;
            /* Whoever queued something before he saw us rest relies on us: look again. */
            if (!atomic_load(&crew->queued) && !atomic_load(&crew->untold))
                return false;
            expected = ORDER_REST;
            if (!atomic_compare_exchange_strong(&me->orders, &expected, ORDER_WATCH))
                return false;
        }
        uint32_t now = atomic_load(&crew->progress);
        if (now == seen && !atomic_load(&crew->called))
            return true;
        seen = now;
    }
}

/* Follow orders that need no GIL.  Returns when there is something to do that does: orders to work; ORDER_WATCH: those
 * who work are stuck; ORDER_REST: the loop keeps jobs for long. */
static inline uint32_t worker_stand_by(struct flexsc_crew *crew, struct flexsc_worker *me)
{
    if (worker_lingers(crew, me))
        return atomic_load(&me->orders);
    for (;;) {
        switch (atomic_load(&me->orders)) {
        case ORDER_WORK:
            return ORDER_WORK;
        case ORDER_WATCH:
            if (worker_watches(crew, me))
                return ORDER_WATCH;
            break;
        default:
            worker_sleep(me, ORDER_REST, -1);
        }
    }
}

/* The batch is done: the loop need not wait any longer. */
static inline void crew_release_loop(struct flexsc_crew *crew)
{
    if (atomic_load(&crew->waiting) && atomic_exchange(&crew->waiting, LOOP_ELSEWHERE) == LOOP_SLEEPS)
        crew_futex_wake(&crew->waiting);
}

/* ---- the loop's side, without the GIL ---- */

enum await_outcome {
    AWAIT_DONE,  /* the batch is done */
    AWAIT_STUCK, /* a job blocks, or computes for long */
    AWAIT_BUSY,  /* neither, but time is over, or a signal has come */
};

/* The worker runs on another CPU, with few jobs: look for the end of them.  True if it has come. */
static inline bool crew_spins(struct flexsc_crew *crew)
{
    uint32_t expected = LOOP_LOOKS;
    return crew_spin(&crew->waiting, LOOP_LOOKS) ||
           !atomic_compare_exchange_strong(&crew->waiting, &expected, LOOP_SLEEPS);
}

/* Give a worker (or NULL: somebody works already) its orders and wait.  It gets them here, without the GIL, because one
 * that is awake would else fight for it.  crew->waiting must have been set before. */
static inline enum await_outcome crew_await(struct flexsc_crew *crew, struct flexsc_worker *worker, size_t jobs)
{
    uint32_t seen = atomic_load(&crew->progress), expected = LOOP_LOOKS;
    bool spin = false;
    if (worker) {
        worker_order(worker, ORDER_WORK);
        spin = !worker_wake(worker) && jobs <= HANDOVER_JOBS;
    }
    if (spin ? crew_spins(crew) : !atomic_compare_exchange_strong(&crew->waiting, &expected, LOOP_SLEEPS))
        return AWAIT_DONE;
    for (int step = 0; step < AWAIT_STEPS; step++) {
        int res = crew_futex_wait(&crew->waiting, LOOP_SLEEPS, STUCK_NS);
        if (!atomic_load(&crew->waiting))
            return AWAIT_DONE;
        if (res == -EINTR)
            break;
        uint32_t now = atomic_load(&crew->progress);
        if (now == seen && !atomic_load(&crew->called))
            return AWAIT_STUCK;
        seen = now;
    }
    return AWAIT_BUSY;
}

/* Said with the GIL held, before a worker could be done. */
static inline void crew_begin_await(struct flexsc_crew *crew)
{
    atomic_store(&crew->loop_cpu, (uint32_t)sched_getcpu());
    atomic_store(&crew->waiting, LOOP_LOOKS);
}

static inline void crew_end_await(struct flexsc_crew *crew) { atomic_store(&crew->waiting, LOOP_ELSEWHERE); }

#endif
