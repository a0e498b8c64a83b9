/* Floor 0: one io_uring ring: what it is, and the two system calls that are made on it.
 *
 * uring_setup.h makes and closes a ring, uring_turn.h is what runs per turn; for whom a poller acts is in uring_user.h.
 * Raw system calls, no liburing.  Knows nothing of Python.
 * One thread (the loop's) uses a ring; only `uring_wake` may come from any thread. */
#ifndef FLEXSC_URING_H
#define FLEXSC_URING_H

#include <errno.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

#include "uring_abi.h"

_Static_assert(CALL_POLL == 6 && CALL_SENDMSG == 9 && CALL_RECVMSG == 10 && CALL_ACCEPT == 13 && CALL_CANCEL == 14 &&
                   CALL_CONNECT == 16 && CALL_CLOSE == 19 && CALL_READ == 22 && CALL_WRITE == 23 && CALL_SEND == 26 &&
                   CALL_RECV == 27 && CALL_SHUTDOWN == 34,
               "calls are numbered as io_uring's opcodes");

enum uring_sleep { URING_AWAKE, URING_LOOKING, URING_ASLEEP };

enum { URING_GROUPS_MOST = 32 }; /* supplementary groups that are compared; of those who have more, none */

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

    _Atomic uint32_t *cq_head, *cq_tail, *cq_flags;
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

/* Whether a poller serves the ring. */
static inline bool uring_polled(const struct uring *ring)
{
    return ring->setup_flags & URING_SETUP_SQPOLL;
}

#endif
