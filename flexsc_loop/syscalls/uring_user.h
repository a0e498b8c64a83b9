/* Floor 0: for whom a poller makes system calls: for whoever has set the ring up, even after a setuid(2). */
#ifndef FLEXSC_URING_USER_H
#define FLEXSC_URING_USER_H

#include <string.h>

#include "spin.h"
#include "uring.h"

enum {
    /* How often a look is taken at who the user is.  It takes three system calls. */
    URING_USER_LOOK_NS = 1000000,
    URING_WAITS_PER_USER_LOOK = 1024, /* for a loop that never sleeps */
};

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

#endif
