/* Floor 0, private to user_page*, above results: what the server knows of each fd: who waits on it, what epoll was
 * told, what epoll said.
 *
 * Owns: the table of fds, the epoll instance, the doorbell that ends a sleep in it.
 *
 * An entry that has to wait hangs on its fd, never anywhere else, so what waits on one side of an fd is served in
 * the order in which it came, and a close finds all of it.  An fd that is worth a visit is on the `ready` list;
 * one that epoll must be told of is on the `unsettled` list, which is worked off before every look at epoll.
 *
 * Why an edge is never missed on an owned fd: EPOLL_CTL_ADD and MOD look at the level, so what came before is
 * reported; what comes after is a new edge.  READABLE is cleared only when the socket was seen empty *after*
 * the last event was fetched: by EAGAIN, or by a short read of a TCP socket that has not announced its end. */
#ifndef FLEXSC_USER_PAGE_FDS_H
#define FLEXSC_USER_PAGE_FDS_H

#include <sys/epoll.h>

#include "user_page_results.h"

enum { FDS_PER_BLOCK = 256, EVENTS_PER_LOOK = 512 };

/* What became of one try. */
enum outcome {
    FINISHED, /* the last completion is posted, the entry is the loop's again */
    BLOCKED,  /* nothing to be had until epoll says so */
    AGAIN,    /* has had its share of this pass, could go on */
    BEHIND,   /* not tried: others wait on the same side of the fd */
};

enum { READABLE = 1, WRITABLE = 2 };

/* Who may close the fd decides how epoll is used. */
enum fd_kind {
    FD_UNKNOWN,
    FD_OWNED,     /* one edge-triggered registration for its whole life */
    FD_SHARED,    /* others may close and reopen the number: one-shot, armed anew for each wait */
    FD_UNPOLLABLE /* epoll refuses it: a regular file */
};

enum {
    FD_REGISTERED = 1 << 0, /* epoll knew the fd when we last told it something */
    FD_REARM = 1 << 1,      /* tell epoll again even if the events are covered: it looks at the level then */
    FD_ENDING = 1 << 2,     /* hang-up, error or urgent data were seen: a short read does not mean empty */
    FD_ON_READY = 1 << 3,
    FD_ON_UNSETTLED = 1 << 4,
    FD_TCP_ASKED = 1 << 5,
    FD_TCP = 1 << 6, /* a plain TCP socket: a short read means that its queue was empty */
};

struct fd_state {
    struct flexsc_entry *readers;
    struct flexsc_entry *writers;
    struct flexsc_entry *pollers;
    struct fd_state *next_ready;
    struct fd_state *next_unsettled;
    int32_t fd;
    uint32_t generation; /* goes into epoll_data: events of an earlier life are dropped */
    uint32_t armed;      /* events that epoll will report */
    uint8_t kind;        /* enum fd_kind */
    uint8_t ready;       /* READABLE, WRITABLE: worth a try */
    uint8_t flags;       /* FD_* */
};

_Static_assert(sizeof(struct fd_state) <= CACHE_LINE, "one cache line per fd");

struct fd_block {
    _Alignas(CACHE_LINE) struct {
        _Alignas(CACHE_LINE) struct fd_state state;
    } fds[FDS_PER_BLOCK];
};

struct fd_list {
    struct fd_state *first;
    struct fd_state *last;
    unsigned count;
};

struct fds {
    struct results *results;
    struct fd_list ready;       /* fds that are worth a visit */
    struct fd_state *unsettled; /* fds that epoll has to be told of */
    struct fd_block **blocks;
    unsigned block_count;
    unsigned parked; /* entries that wait on fds */
    int epoll_fd;
    int doorbell; /* an eventfd, edge-triggered in epoll and so never read */
    bool no_pwait2;
    struct epoll_event events[EVENTS_PER_LOOK];
};

/* 0 or -errno. */
HIDDEN int fds_open(struct fds *fds, struct results *results);
HIDDEN void fds_unmap(struct fds *fds);
/* A forked child calls this alone: it has no mapped memory. */
HIDDEN void fds_close(struct fds *fds);

/* ---- the states ---- */

static inline bool side_is_reader(uint8_t call) {
    return call == CALL_RECV || call == CALL_RECVMSG || call == CALL_ACCEPT || call == CALL_READ;
}

/* NULL: nothing is known of this number. */
HIDDEN struct fd_state *fds_find(const struct fds *fds, int fd);

/* Whether to make the call now.  If not, `otherwise` says why. */
HIDDEN bool fds_may_try(const struct fd_state *state, const struct flexsc_entry *entry, enum outcome *otherwise);

/* A number that has just been handed out anew can't have an older life, whoever ended that. */
HIDDEN void fds_forget_idle(struct fds *fds, int fd);

/* The fd is about to be closed: end all that waits on it. */
HIDDEN void fds_end(struct fds *fds, int fd);

/* Whether whatever else there may be to read on an fd that looked empty is going to be an event. */
HIDDEN bool fds_will_tell_of_more(const struct fd_state *state);

/* Whether a read that did not fill its buffer has emptied the socket for sure, so that the next byte is an event. */
HIDDEN bool fds_drained_by_short_read(struct fds *fds, struct fd_state *state);

/* ---- parking ---- */

/* Let an entry wait on its fd.  0; or -errno, and it does not wait. */
HIDDEN int fds_park(struct fds *fds, struct flexsc_entry *entry, enum outcome outcome);

/* Take the entry off its fd if it waits there, and post its last completion. */
HIDDEN void fds_finish(struct fds *fds, struct flexsc_entry *entry, int32_t res, uint32_t flags);

/* ---- visits ---- */

/* The next fd that is worth a visit; there must be one. */
HIDDEN struct fd_state *fds_next_ready(struct fds *fds);

/* Complete the polls whose events have come.  True: there was no room for all. */
HIDDEN bool fds_run_pollers(struct fds *fds, struct fd_state *state);

/* A visit is over; `more`: the fd is worth another one. */
HIDDEN void fds_visited(struct fds *fds, struct fd_state *state, bool more);

/* ---- epoll ---- */

/* Tell epoll of all fds whose waits it does not know yet. */
HIDDEN void fds_settle(struct fds *fds);

/* Ask epoll, for up to `timeout_ns`: 0 never sleeps, -1 sleeps without limit.  The number of events, or -errno.
 * `syscalls`: the counter of whoever asks, who need not hold the guard: nobody else asks. */
HIDDEN int fds_look(struct fds *fds, int64_t timeout_ns, _Atomic uint64_t *syscalls);

/* Take note of the first `events` that the last look has brought. */
HIDDEN void fds_mark(struct fds *fds, int events);

/* End a sleep in fds_look(), now or the next one.  Any thread. */
HIDDEN void fds_ring(const struct fds *fds);

#endif
