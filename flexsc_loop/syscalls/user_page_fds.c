/* Floor 0: what a user page knows of each fd: who waits on it, what epoll was told, what epoll said.
 *
 * An entry that has to wait hangs on its fd, never anywhere else, so what waits on one side of an fd is served in
 * the order in which it came, and a close finds all of it.  An fd that is worth a visit is on the `ready` list;
 * one that epoll must be told of is on the `unsettled` list, which is worked off before every look at epoll.
 *
 * Why an edge is never missed on an owned fd: EPOLL_CTL_ADD and MOD look at the level, so what came before is
 * reported; what comes after is a new edge.  READABLE is cleared only when the socket was seen empty *after*
 * the last event was fetched: by EAGAIN, or by a short read of a TCP socket that has not announced its end. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "user_page_internal.h"

#define IN_EVENTS (EPOLLIN | EPOLLRDHUP | EPOLLPRI)
#define END_EVENTS (EPOLLRDHUP | EPOLLHUP | EPOLLERR | EPOLLPRI)
#define ALWAYS_EVENTS (EPOLLERR | EPOLLHUP)
#define FILE_EVENTS (POLLIN | POLLOUT | POLLRDNORM | POLLWRNORM)

_Static_assert(POLLIN == EPOLLIN && POLLOUT == EPOLLOUT && POLLPRI == EPOLLPRI && POLLERR == EPOLLERR &&
                   POLLHUP == EPOLLHUP && POLLRDHUP == EPOLLRDHUP,
               "a poll mask is an epoll mask");

/* ---- the table ---- */

static struct fd_state *state_at(const struct flexsc_page *page, int fd) {
    return &page->blocks[(unsigned)fd / FDS_PER_BLOCK]->fds[(unsigned)fd % FDS_PER_BLOCK].state;
}

struct fd_state *fd_find(const struct flexsc_page *page, int fd) {
    unsigned block = (unsigned)fd / FDS_PER_BLOCK;
    if (fd < 0 || block >= page->block_count || page->blocks[block] == NULL)
        return NULL;
    return state_at(page, fd);
}

static int grow_blocks(struct flexsc_page *page, unsigned wanted) {
    unsigned room = page->block_count == 0 ? 16 : page->block_count;
    while (room < wanted)
        room *= 2;
    struct fd_block **blocks = realloc(page->blocks, room * sizeof *blocks);
    if (blocks == NULL)
        return -ENOMEM;
    memset(blocks + page->block_count, 0, (room - page->block_count) * sizeof *blocks);
    page->blocks = blocks;
    page->block_count = room;
    return 0;
}

static int fd_get(struct flexsc_page *page, int fd, struct fd_state **state) {
    *state = fd_find(page, fd);
    if (*state != NULL)
        return 0;
    /* No table is grown for a number that is not even open. */
    count_syscall(page);
    if (fcntl(fd, F_GETFD) < 0)
        return -errno;
    unsigned block = (unsigned)fd / FDS_PER_BLOCK;
    if (block >= page->block_count && grow_blocks(page, block + 1) != 0)
        return -ENOMEM;
    struct fd_block *fresh = page_map(sizeof *fresh);
    if (fresh == NULL)
        return -ENOMEM;
    count_syscall(page);
    count_syscall(page);
    for (int i = 0; i < FDS_PER_BLOCK; i++) {
        fresh->fds[i].state.fd = (int32_t)(block * FDS_PER_BLOCK) + i;
        fresh->fds[i].state.ready = READABLE | WRITABLE;
    }
    page->blocks[block] = fresh;
    *state = state_at(page, fd);
    return 0;
}

static bool fd_idle(const struct fd_state *state) {
    return state->readers == NULL && state->writers == NULL && state->pollers == NULL;
}

static void fd_reset(struct fd_state *state, enum fd_kind kind) {
    state->generation++;
    state->armed = 0;
    state->kind = (uint8_t)kind;
    state->ready = READABLE | WRITABLE;
    state->flags &= FD_ON_READY | FD_ON_UNSETTLED | FD_REGISTERED;
}

/* The number's next file starts from nothing. */
void fd_forget(struct fd_state *state) {
    fd_reset(state, FD_UNKNOWN);
    state->flags &= (uint8_t)~FD_REGISTERED;
}

/* A number that has just been handed out anew can't have an older life, whoever ended that. */
void fd_forget_idle(struct flexsc_page *page, int fd) {
    struct fd_state *state = fd_find(page, fd);
    if (state != NULL && state->kind != FD_UNKNOWN && fd_idle(state))
        fd_forget(state);
}

/* ---- the two lists of fds ---- */

static void make_ready(struct flexsc_page *page, struct fd_state *state) {
    if (state->flags & FD_ON_READY)
        return;
    state->flags |= FD_ON_READY;
    state->next_ready = NULL;
    if (page->ready.count++ == 0)
        page->ready.first = state;
    else
        page->ready.last->next_ready = state;
    page->ready.last = state;
}

static uint32_t fd_wants(const struct fd_state *state) {
    uint32_t wants = 0;
    if (state->readers != NULL)
        wants |= EPOLLIN | EPOLLRDHUP;
    if (state->writers != NULL)
        wants |= EPOLLOUT;
    for (struct flexsc_entry *poller = state->pollers; poller != NULL; poller = poller->next)
        wants |= (poller->call_flags & 0xffff) | ALWAYS_EVENTS;
    return wants;
}

static bool fd_needs_arming(const struct fd_state *state) {
    return !fd_idle(state) && state->kind != FD_UNPOLLABLE &&
           ((state->flags & FD_REARM) || (fd_wants(state) & ~state->armed) != 0);
}

static void make_unsettled(struct flexsc_page *page, struct fd_state *state) {
    if ((state->flags & FD_ON_UNSETTLED) || !fd_needs_arming(state))
        return;
    state->flags |= FD_ON_UNSETTLED;
    state->next_unsettled = page->unsettled;
    page->unsettled = state;
}

/* ---- parking ---- */

static struct flexsc_entry **side_of(struct fd_state *state, const struct flexsc_entry *entry) {
    if (entry->call == CALL_POLL)
        return &state->pollers;
    return side_is_reader(entry->call) ? &state->readers : &state->writers;
}

/* Whether to make the call now.  If not, `otherwise` says why. */
bool fd_may_try(const struct fd_state *state, const struct flexsc_entry *entry, enum outcome *otherwise) {
    bool reader = side_is_reader(entry->call);
    bool asked_to_wait = entry->flags & ENTRY_POLL_FIRST;
    *otherwise = BLOCKED;
    if (state == NULL)
        return !asked_to_wait || entry->call == CALL_CONNECT;
    if ((reader ? state->readers : state->writers) != NULL) {
        *otherwise = BEHIND;
        return false;
    }
    /* Nothing is ever ready before it was started. */
    if (entry->call == CALL_CONNECT)
        return true;
    /* Only an edge-triggered registration keeps `ready` up to date while nobody waits. */
    if ((entry->flags & ENTRY_OWNED) && state->kind == FD_OWNED && (state->armed & (reader ? EPOLLIN : EPOLLOUT)))
        return state->ready & (reader ? READABLE : WRITABLE);
    return !asked_to_wait;
}

/* Take note of who may close the fd, according to the entry that is about to wait on it. */
static void fd_adopt(struct fd_state *state, const struct flexsc_entry *entry) {
    enum fd_kind kind = (entry->flags & ENTRY_OWNED) ? FD_OWNED : FD_SHARED;
    bool idle = fd_idle(state);
    if (state->kind == kind) {
        /* While nobody waited, the number may have become another file. */
        if (kind == FD_SHARED && idle)
            state->armed = 0;
        return;
    }
    if (idle) {
        fd_reset(state, kind);
    } else if (kind == FD_SHARED && state->kind == FD_OWNED) {
        state->kind = FD_SHARED;
        state->armed = 0;
    }
}

void fd_park(struct flexsc_page *page, struct flexsc_entry *entry, enum outcome outcome) {
    struct fd_state *state;
    int rc = fd_get(page, entry->fd, &state);
    if (rc < 0) {
        page_finish(page, entry, rc, 0);
        return;
    }
    fd_adopt(state, entry);
    page->parked++;
    if (entry->call == CALL_POLL) {
        list_push(&state->pollers, entry, IN_POLLERS);
        /* A poll asks for the level, and edges don't tell. */
        if (state->kind == FD_OWNED)
            state->flags |= FD_REARM;
    } else {
        bool reader = side_is_reader(entry->call);
        uint8_t bit = reader ? READABLE : WRITABLE;
        list_push(side_of(state, entry), entry, reader ? IN_READERS : IN_WRITERS);
        if (outcome == BLOCKED)
            state->ready &= (uint8_t)~bit;
        else if (outcome == AGAIN)
            state->ready |= bit;
    }
    if (outcome == AGAIN || state->kind == FD_UNPOLLABLE)
        make_ready(page, state);
    else
        make_unsettled(page, state);
}

void fd_unpark(struct flexsc_page *page, struct flexsc_entry *entry) {
    list_remove(side_of(state_at(page, entry->fd), entry), entry);
    page->parked--;
}

/* Whether whatever else there may be to read on an fd that looked empty is going to be an event.  Not if an end or an
 * error may be queued behind the data: its event has been fetched already. */
bool fd_will_tell_of_more(const struct fd_state *state) {
    /* Not registered yet, or only for one shot: telling epoll about the fd looks at the level. */
    if (state == NULL || state->kind != FD_OWNED || !(state->armed & EPOLLIN))
        return true;
    return !(state->flags & FD_ENDING);
}

/* Whether a read that did not fill its buffer has emptied the socket for sure, so that the next byte is an event. */
bool fd_drained_by_short_read(struct flexsc_page *page, struct fd_state *state) {
    if (state == NULL || state->kind != FD_OWNED || !(state->armed & EPOLLIN))
        return true;
    if (!fd_will_tell_of_more(state))
        return false;
    /* Datagrams, Unix sockets with credentials, ... return short with more behind. */
    if (!(state->flags & FD_TCP_ASKED)) {
        int protocol = 0;
        socklen_t size = sizeof protocol;
        state->flags |= FD_TCP_ASKED;
        count_syscall(page);
        if (getsockopt(state->fd, SOL_SOCKET, SO_PROTOCOL, &protocol, &size) == 0 && protocol == IPPROTO_TCP)
            state->flags |= FD_TCP;
    }
    return state->flags & FD_TCP;
}

/* ---- telling epoll ---- */

static void end_list(struct flexsc_page *page, struct flexsc_entry **list, int32_t res) {
    while (*list != NULL)
        page_finish(page, *list, res, 0);
}

/* epoll does not take the fd. */
static void fd_refused(struct flexsc_page *page, struct fd_state *state, int error) {
    state->flags &= (uint8_t)~FD_REGISTERED;
    if (error != EPERM) {
        end_list(page, &state->readers, -error);
        end_list(page, &state->writers, -error);
        end_list(page, &state->pollers, -error);
        fd_forget(state);
        return;
    }
    /* A regular file is always ready, says poll(2).  What can't be had from it at once is the caller's business. */
    state->kind = FD_UNPOLLABLE;
    state->ready = READABLE | WRITABLE;
    make_ready(page, state);
}

static int tell_epoll(struct flexsc_page *page, struct fd_state *state, struct epoll_event *event) {
    int op = (state->flags & FD_REGISTERED) ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;
    for (int i = 0; i < 3; i++) {
        count_syscall(page);
        if (epoll_ctl(page->epoll_fd, op, state->fd, event) == 0)
            return 0;
        /* The number has become another file, or epoll still knows it from an earlier life. */
        if (errno == ENOENT && op == EPOLL_CTL_MOD)
            op = EPOLL_CTL_ADD;
        else if (errno == EEXIST && op == EPOLL_CTL_ADD)
            op = EPOLL_CTL_MOD;
        else
            break;
    }
    return errno;
}

static void fd_arm(struct flexsc_page *page, struct fd_state *state) {
    uint32_t events = fd_wants(state);
    uint32_t how = EPOLLONESHOT;
    if (state->kind == FD_OWNED) {
        /* EPOLLOUT only once somebody had to wait for it: Unix sockets report it for each read of the peer. */
        events |= state->armed | IN_EVENTS;
        how = EPOLLET;
    } else {
        state->generation++;
    }
    state->flags &= (uint8_t)~FD_REARM;
    struct epoll_event event = {.events = events | how,
                                .data.u64 = (uint64_t)state->generation << 32 | (uint32_t)state->fd};
    int error = tell_epoll(page, state, &event);
    if (error != 0) {
        fd_refused(page, state, error);
        return;
    }
    state->flags |= FD_REGISTERED;
    state->armed = events;
}

void page_settle(struct flexsc_page *page) {
    while (page->unsettled != NULL) {
        struct fd_state *state = page->unsettled;
        page->unsettled = state->next_unsettled;
        state->flags &= (uint8_t)~FD_ON_UNSETTLED;
        if (fd_needs_arming(state))
            fd_arm(page, state);
    }
}

/* ---- what epoll said ---- */

static void mark_one(struct flexsc_page *page, const struct epoll_event *event) {
    if (event->data.u64 == DOORBELL_DATA)
        return;
    struct fd_state *state = state_at(page, (int)(uint32_t)event->data.u64);
    if (state->generation != (uint32_t)(event->data.u64 >> 32))
        return;
    uint32_t events = event->events;
    if (state->kind == FD_SHARED)
        state->armed = 0;
    if (events & (IN_EVENTS | ALWAYS_EVENTS))
        state->ready |= READABLE;
    if (events & (EPOLLOUT | ALWAYS_EVENTS))
        state->ready |= WRITABLE;
    if (events & END_EVENTS)
        state->flags |= FD_ENDING;
    for (struct flexsc_entry *poller = state->pollers; poller != NULL; poller = poller->next)
        poller->done |= events & (poller->call_flags | ALWAYS_EVENTS);
    if (!fd_idle(state))
        make_ready(page, state);
}

/* Take note of page->events[0..events). */
void page_mark(struct flexsc_page *page, int events) {
    for (int i = 0; i < events; i++)
        mark_one(page, &page->events[i]);
}

/* Serve one side of a ready fd.  True: it could go on. */
static bool run_side(struct flexsc_page *page, struct fd_state *state, struct flexsc_entry **side, uint8_t bit) {
    for (int i = 0; *side != NULL && (state->ready & bit); i++) {
        if (i == ENTRIES_PER_VISIT || !page_has_room(page))
            return true;
        struct flexsc_entry *entry = *side;
        enum outcome outcome = page_try(page, state, entry);
        if (outcome == AGAIN)
            return true;
        if (outcome == BLOCKED && state->kind == FD_UNPOLLABLE)
            page_finish(page, entry, -EAGAIN, 0);
        else if (outcome == BLOCKED)
            state->ready &= (uint8_t)~bit;
    }
    return false;
}

/* Complete the pollers whose events have come.  True: there was no room for all. */
static bool run_pollers(struct flexsc_page *page, struct fd_state *state) {
    struct flexsc_entry *next;
    for (struct flexsc_entry *poller = state->pollers; poller != NULL; poller = next) {
        next = poller->next;
        if (state->kind == FD_UNPOLLABLE)
            poller->done = poller->call_flags & FILE_EVENTS;
        else if (poller->done == 0)
            continue;
        if (!page_has_room(page))
            return true;
        if ((poller->flags & ENTRY_MULTISHOT) && state->kind == FD_OWNED) {
            page_post_more(page, poller, (int32_t)poller->done);
            poller->done = 0;
        } else {
            page_finish(page, poller, (int32_t)poller->done, 0);
        }
    }
    return false;
}

static void visit(struct flexsc_page *page, struct fd_state *state) {
    bool more = run_pollers(page, state);
    more |= run_side(page, state, &state->readers, READABLE);
    more |= run_side(page, state, &state->writers, WRITABLE);
    if (more)
        make_ready(page, state);
    else
        make_unsettled(page, state);
}

/* Visit what is ready now, once.  Returns whether there was anything that could be done. */
bool page_run_ready(struct flexsc_page *page) {
    unsigned most = page->budget < VISITS_PER_PASS ? page->budget : VISITS_PER_PASS;
    unsigned visits = page->ready.count < most ? page->ready.count : most;
    bool worked = false;
    while (visits-- > 0 && page_has_room(page)) {
        if (atomic_load_explicit(&page->want, memory_order_relaxed) != WANT_NOBODY)
            break;
        struct fd_state *state = page->ready.first;
        page->ready.first = state->next_ready;
        page->ready.count--;
        state->flags &= (uint8_t)~FD_ON_READY;
        visit(page, state);
        worked = true;
    }
    return worked;
}
