/* Floor 0: faults on demand, for builds that test: compiled in with -DFLEXSC_FAULTS, and nothing otherwise.
 *
 * Not a mock: the kernel makes all calls but those that are to fail, and all results pass through here.  A fault is drawn
 *   - at each system call that a user page's engine makes (faults_call): it is not made and seems to have failed, or is
 *     made for fewer bytes; and at each call on a file that the loop's thread makes at once (faults_file_call) or a file
 *     thread makes (that, faults_other_file_call, and faults_pause: its result comes late);
 *   - for each operation of either page (faults_begin, faults_strikes, faults_result): a no-op is carried in its place
 *     and gets the error, or it is ended early, or is carried for fewer bytes;
 *   - for each completion (faults_hold): it comes later than others, in order with those of its own operation.
 *
 * The environment says which, when a page is opened: FLEXSC_FAULTS="SEED ONE_IN CALLS RESULTS", with sums of FAULT_*. */
#ifndef FLEXSC_FAULTS_H
#define FLEXSC_FAULTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "calls.h"

enum {
    FAULT_EINTR = 1 << 0,
    FAULT_EAGAIN = 1 << 1,
    FAULT_ENOBUFS = 1 << 2,
    FAULT_ENOMEM = 1 << 3,
    FAULT_ECANCELED = 1 << 4,
    FAULT_SHORT = 1 << 5,
    FAULT_LATE = 1 << 6,
    FAULT_ERRORS = FAULT_SHORT - 1,
};

#ifdef FLEXSC_FAULTS

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>

/* What is to become of an operation that is in flight. */
struct fault_plan {
    uint64_t user_data;
    int32_t res;
    bool if_cancelled;      /* instead of -ECANCELED only; else instead of whatever comes */
    struct msghdr *shorter; /* what is sent instead */
};

struct fault_held {
    struct flexsc_completion completion;
    unsigned times;
};

struct flexsc_faults {
    uint32_t random, one_in, calls, results;
    uint64_t count;
    struct fault_plan *plans;
    struct fault_held *held;
    unsigned plan_count, held_count;
};

/* Of the calls that a thread makes by itself. */
struct faults_of_thread {
    struct flexsc_faults faults;
    char wish[64];
};

enum { FLEXSC_FAULTY = 1, FAULT_HELD_MOST = 3, FAULT_PAUSE_MOST_NS = 3000000 };

static inline void faults_open(struct flexsc_faults *faults)
{
    const char *wish = getenv("FLEXSC_FAULTS");
    memset(faults, 0, sizeof *faults);
    if (wish && sscanf(wish, "%u %u %u %u", &faults->random, &faults->one_in, &faults->calls, &faults->results) != 4)
        faults->one_in = 0;
    faults->random = (faults->random + 1) * 2654435769u | 1;
    /* No system call says so. */
    faults->calls &= ~(uint32_t)FAULT_ECANCELED;
}

static inline void faults_close(struct flexsc_faults *faults)
{
    for (unsigned i = 0; i < faults->plan_count; i++)
        free(faults->plans[i].shorter);
    free(faults->plans);
    free(faults->held);
    memset(faults, 0, sizeof *faults);
}

/* As the environment has it now; of these kinds at most. */
static inline struct flexsc_faults *faults_refresh(struct faults_of_thread *mine, uint32_t calls)
{
    const char *wish = getenv("FLEXSC_FAULTS");
    if (strncmp(wish ? wish : "", mine->wish, sizeof mine->wish - 1)) {
        strncpy(mine->wish, wish ? wish : "", sizeof mine->wish - 1);
        faults_open(&mine->faults);
        mine->faults.calls &= calls;
    }
    return &mine->faults;
}

static inline uint32_t faults_random(struct flexsc_faults *faults)
{
    faults->random ^= faults->random << 13;
    faults->random ^= faults->random >> 17;
    faults->random ^= faults->random << 5;
    return faults->random;
}

/* One of the `possible` kinds, or mostly none. */
static inline uint32_t faults_draw(struct flexsc_faults *faults, uint32_t possible)
{
    if (!possible || !faults->one_in || faults_random(faults) % faults->one_in)
        return 0;
    uint32_t kind;
    do
        kind = 1u << faults_random(faults) % 7;
    while (!(kind & possible));
    faults->count++;
    return kind;
}

static inline int faults_errno(uint32_t kind)
{
    switch (kind) {
    case FAULT_EINTR:
        return EINTR;
    case FAULT_EAGAIN:
        return EAGAIN;
    case FAULT_ENOBUFS:
        return ENOBUFS;
    case FAULT_ENOMEM:
        return ENOMEM;
    default:
        return ECANCELED;
    }
}

/* A datagram is never short, and what is no socket is a pipe or the like. */
static inline bool faults_may_be_short(int fd)
{
    int type = SOCK_STREAM;
    socklen_t size = sizeof type;
    getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size);
    return type == SOCK_STREAM;
}

static inline size_t faults_fewer(struct flexsc_faults *faults, size_t most)
{
    return most > 1 ? 1 + faults_random(faults) % (most - 1 < 64 ? most - 1 : 64) : most;
}

/* The kind of fault that one system call has; it may be made for no more than `most` bytes. */
static inline uint32_t faults_call(struct flexsc_faults *faults, int call, int fd, size_t *most)
{
    uint32_t possible = faults->calls;
    if (call == CALL_CONNECT)
        possible &= FAULT_ENOBUFS | FAULT_ENOMEM;
    if (!most || !faults_may_be_short(fd))
        possible &= ~(uint32_t)FAULT_SHORT;
    uint32_t kind = faults_draw(faults, possible);
    if (kind == FAULT_SHORT)
        *most = faults_fewer(faults, *most);
    return kind == FAULT_SHORT ? 0 : kind;
}

/* The kind of fault that a read from a file or a write to one has; it may be made for no more than `most` bytes. */
static inline uint32_t faults_file_call(struct flexsc_faults *faults, size_t *most)
{
    uint32_t kind = faults_draw(faults, faults->calls & (FAULT_EINTR | FAULT_EAGAIN | FAULT_ENOMEM | FAULT_SHORT));
    if (kind == FAULT_SHORT)
        *most = faults_fewer(faults, *most);
    return kind == FAULT_SHORT ? 0 : kind;
}

/* That of any other call on a file: it is not made. */
static inline uint32_t faults_other_file_call(struct flexsc_faults *faults)
{
    return faults_draw(faults, faults->calls & (FAULT_EINTR | FAULT_ENOMEM));
}

/* Keep a thread's result back for a while. */
static inline void faults_pause(struct flexsc_faults *faults)
{
    if (faults_draw(faults, faults->results & FAULT_LATE))
        nanosleep(&(struct timespec){.tv_nsec = faults_random(faults) % FAULT_PAUSE_MOST_NS}, NULL);
}

/* How many faults there have been since this was asked for. */
static inline uint64_t faults_take_count(struct flexsc_faults *faults)
{
    uint64_t count = faults->count;
    faults->count = 0;
    return count;
}

/* ---- operations ---- */

static inline void faults_plan(struct flexsc_faults *faults, struct fault_plan plan)
{
    faults->plans = realloc(faults->plans, (faults->plan_count + 1) * sizeof plan);
    faults->plans[faults->plan_count++] = plan;
}

static inline struct msghdr *faults_shorter(struct flexsc_faults *faults, const struct msghdr *header)
{
    struct msghdr *shorter = calloc(1, sizeof *shorter + sizeof *header->msg_iov);
    *shorter = *header;
    shorter->msg_iov = (struct iovec *)(shorter + 1);
    shorter->msg_iovlen = 1;
    *shorter->msg_iov = *header->msg_iov;
    shorter->msg_iov->iov_len = faults_fewer(faults, shorter->msg_iov->iov_len);
    return shorter;
}

/* An operation is about to be carried; what is changed here is carried instead. */
static inline void faults_begin(struct flexsc_faults *faults, uint64_t user_data, int *call, int fd, void **addr,
                                uint32_t *len, uint32_t *flags)
{
    uint32_t possible = faults->results & (FAULT_ERRORS | FAULT_SHORT);
    bool sized = *call == CALL_SEND || *call == CALL_RECV || *call == CALL_READ || *call == CALL_WRITE ||
                 *call == CALL_READV || *call == CALL_WRITEV;
    if (*call == CALL_POLL)
        possible &= ~(uint32_t)(FAULT_EAGAIN | FAULT_ENOBUFS);
    if (*call == CALL_NOP || *call == CALL_CONNECT || (*flags & ENTRY_LINK))
        return;
    if (!(sized || *call == CALL_SENDMSG) || (*flags & ENTRY_POOL) || !faults_may_be_short(fd))
        possible &= ~(uint32_t)FAULT_SHORT;
    uint32_t kind = faults_draw(faults, possible);
    if (kind & FAULT_ERRORS) {
        faults_plan(faults, (struct fault_plan){.user_data = user_data, .res = -faults_errno(kind)});
        *call = CALL_NOP;
        *flags = 0;
    } else if (kind == FAULT_SHORT && sized) {
        *len = (uint32_t)faults_fewer(faults, *len);
    } else if (kind == FAULT_SHORT) {
        struct msghdr *shorter = faults_shorter(faults, *addr);
        faults_plan(faults, (struct fault_plan){.user_data = user_data, .if_cancelled = true, .shorter = shorter});
        *addr = shorter;
    }
}

/* Whether an operation with more completions to come is to be cancelled now. */
static inline bool faults_strikes(struct flexsc_faults *faults, uint64_t user_data)
{
    uint32_t kind = faults_draw(faults, faults->results & FAULT_ERRORS);
    if (kind)
        faults_plan(faults, (struct fault_plan){
                                .user_data = user_data, .res = -faults_errno(kind), .if_cancelled = true});
    return kind != 0;
}

/* What an operation's last completion says. */
static inline int faults_result(struct flexsc_faults *faults, uint64_t user_data, int res)
{
    for (unsigned i = 0; i < faults->plan_count;) {
        struct fault_plan plan = faults->plans[i];
        if (plan.user_data != user_data) {
            i++;
            continue;
        }
        if (plan.res != 0 && (!plan.if_cancelled || res == -ECANCELED))
            res = plan.res;
        free(plan.shorter);
        faults->plans[i] = faults->plans[--faults->plan_count];
    }
    return res;
}

/* ---- completions ---- */

static inline bool faults_hold_any(const struct flexsc_faults *faults) { return faults->held_count != 0; }

static inline bool faults_is_held(const struct flexsc_faults *faults, unsigned kept, uint64_t user_data)
{
    for (unsigned i = 0; i < kept; i++)
        if (faults->held[i].completion.user_data == user_data)
            return true;
    return false;
}

/* Take `count` completions from the batch, and put those into it that are to be delivered now; returns how many. */
static inline uint32_t faults_hold(struct flexsc_faults *faults, struct flexsc_completion *batch, uint32_t count,
                                   uint32_t room)
{
    if (!(faults->results & FAULT_LATE))
        return count;
    unsigned total = faults->held_count + count, kept = 0;
    uint32_t delivered = 0;
    faults->held = realloc(faults->held, (total + 1) * sizeof *faults->held);
    for (uint32_t i = 0; i < count; i++)
        faults->held[faults->held_count + i] = (struct fault_held){.completion = batch[i]};
    for (unsigned i = 0; i < total; i++) {
        struct fault_held *held = &faults->held[i];
        bool late = held->times++ < FAULT_HELD_MOST && faults_draw(faults, FAULT_LATE);
        if (late || delivered == room || faults_is_held(faults, kept, held->completion.user_data))
            faults->held[kept++] = *held;
        else
            batch[delivered++] = held->completion;
    }
    faults->held_count = kept;
    return delivered;
}

/* Put into the batch what has been held back; returns how many.  The batch has room for all. */
static inline uint32_t faults_release(struct flexsc_faults *faults, struct flexsc_completion *batch, uint32_t room)
{
    uint32_t count = faults->held_count < room ? faults->held_count : room;
    for (uint32_t i = 0; i < count; i++)
        batch[i] = faults->held[i].completion;
    faults->held_count -= count;
    if (count)
        memmove(faults->held, faults->held + count, faults->held_count * sizeof *faults->held);
    return count;
}

#else

enum { FLEXSC_FAULTY = 0 };

struct flexsc_faults {
    char none;
};

static inline void faults_open(struct flexsc_faults *faults) { (void)faults; }
static inline void faults_close(struct flexsc_faults *faults) { (void)faults; }
static inline uint32_t faults_call(struct flexsc_faults *faults, int call, int fd, size_t *most)
{
    (void)faults, (void)call, (void)fd, (void)most;
    return 0;
}
static inline uint32_t faults_file_call(struct flexsc_faults *faults, size_t *most)
{
    (void)faults, (void)most;
    return 0;
}
static inline uint32_t faults_other_file_call(struct flexsc_faults *faults)
{
    (void)faults;
    return 0;
}
static inline void faults_pause(struct flexsc_faults *faults) { (void)faults; }
static inline uint64_t faults_take_count(struct flexsc_faults *faults)
{
    (void)faults;
    return 0;
}
static inline int faults_errno(uint32_t kind) { return (int)kind; }
static inline void faults_begin(struct flexsc_faults *faults, uint64_t user_data, int *call, int fd, void **addr,
                                uint32_t *len, uint32_t *flags)
{
    (void)faults, (void)user_data, (void)call, (void)fd, (void)addr, (void)len, (void)flags;
}
static inline bool faults_strikes(struct flexsc_faults *faults, uint64_t user_data)
{
    (void)faults, (void)user_data;
    return false;
}
static inline int faults_result(struct flexsc_faults *faults, uint64_t user_data, int res)
{
    (void)faults, (void)user_data;
    return res;
}
static inline bool faults_hold_any(const struct flexsc_faults *faults)
{
    (void)faults;
    return false;
}
static inline uint32_t faults_hold(struct flexsc_faults *faults, struct flexsc_completion *batch, uint32_t count,
                                   uint32_t room)
{
    (void)faults, (void)batch, (void)room;
    return count;
}
static inline uint32_t faults_release(struct flexsc_faults *faults, struct flexsc_completion *batch, uint32_t room)
{
    (void)faults, (void)batch, (void)room;
    return 0;
}

#endif

static inline uint64_t faults_count(const struct flexsc_faults *faults)
{
#ifdef FLEXSC_FAULTS
    return faults->count;
#else
    (void)faults;
    return 0;
#endif
}

#endif
