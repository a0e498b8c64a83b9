/* Floor 0, private to user_page*, above fds: making the calls.  None blocks; what would block waits on its fd. */
#ifndef FLEXSC_USER_PAGE_CALLS_H
#define FLEXSC_USER_PAGE_CALLS_H

#include "faults.h"
#include "user_page_fds.h"

/* The server's end of a pool of receive buffers. */
struct pool_end {
    struct flexsc_pool_slot *ring;
    uint16_t head;
    uint16_t mask;
};

struct calls {
    struct fds *fds;
    struct results *results;
    struct pool_end pool, datagrams;
    struct flexsc_faults faults;
};

/* End all that waits on the fd and close it.  0 or -errno. */
HIDDEN int32_t calls_close(struct calls *calls, int fd);

/* Whether the call is one that never waits.  If so it has been made, and `res` is its result. */
HIDDEN bool calls_at_once(struct calls *calls, const struct flexsc_entry *entry, int32_t *res);

/* Make the call of an entry that may wait.  `state` is NULL while nothing is known of the fd.  There must be room for a
 * result. */
HIDDEN enum outcome calls_try(struct calls *calls, struct fd_state *state, struct flexsc_entry *entry);

#endif
