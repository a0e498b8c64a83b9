/* Floor 0: a user page's fds: who waits on each, what epoll was told, what epoll said. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include "user_page_fds.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include "user_page_os.h"

#ifndef SYS_epoll_pwait2
#define SYS_epoll_pwait2 441
#endif

#define DOORBELL_DATA UINT64_MAX

#define IN_EVENTS (EPOLLIN | EPOLLRDHUP | EPOLLPRI)
#define END_EVENTS (EPOLLRDHUP | EPOLLHUP | EPOLLERR | EPOLLPRI)
#define ALWAYS_EVENTS (EPOLLERR | EPOLLHUP)
#define FILE_EVENTS (POLLIN | POLLOUT | POLLRDNORM | POLLWRNORM)

_Static_assert(POLLIN == EPOLLIN && POLLOUT == EPOLLOUT && POLLPRI == EPOLLPRI && POLLERR == EPOLLERR &&
                   POLLHUP == EPOLLHUP && POLLRDHUP == EPOLLRDHUP,
               "a poll mask is an epoll mask");

/* ---- the table ---- */

static int open_doorbell(struct fds *fds) {
    struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.u64 = DOORBELL_DATA};
    fds->doorbell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (fds->doorbell < 0 || epoll_ctl(fds->epoll_fd, EPOLL_CTL_ADD, fds->doorbell, &event) != 0)
        return -errno;
    return 0;
}

int fds_open(struct fds *fds, struct results *results) {
    fds->results = results;
    fds->doorbell = -1;
    fds->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    return fds->epoll_fd < 0 ? -errno : open_doorbell(fds);
}

void fds_unmap(struct fds *fds) {
    for (unsigned i = 0; i < fds->block_count; i++)
        if (fds->blocks[i] != NULL)
            munmap(fds->blocks[i], sizeof *fds->blocks[i]);
}

void fds_close(struct fds *fds) {
    if (fds->doorbell >= 0)
        close(fds->doorbell);
    if (fds->epoll_fd >= 0)
        close(fds->epoll_fd);
    free(fds->blocks);
}

static struct fd_state *state_at(const struct fds *fds, int fd) {
    return &fds->blocks[(unsigned)fd / FDS_PER_BLOCK]->fds[(unsigned)fd % FDS_PER_BLOCK].state;
}

struct fd_state *fds_find(const struct fds *fds, int fd) {
    unsigned block = (unsigned)fd / FDS_PER_BLOCK;
    if (fd < 0 || block >= fds->block_count || fds->blocks[block] == NULL)
        return NULL;
    return state_at(fds, fd);
}

static int grow_blocks(struct fds *fds, unsigned wanted) {
    unsigned room = fds->block_count == 0 ? 16 : fds->block_count;
    while (room < wanted)
        room *= 2;
    struct fd_block **blocks = realloc(fds->blocks, room * sizeof *blocks);
    if (blocks == NULL)
        return -ENOMEM;
    memset(blocks + fds->block_count, 0, (room - fds->block_count) * sizeof *blocks);
    fds->blocks = blocks;
    fds->block_count = room;
    return 0;
}

static int fd_get(struct fds *fds, int fd, struct fd_state **state) {
    *state = fds_find(fds, fd);
    if (*state != NULL)
        return 0;
    /* No table is grown for a number that is not even open. */
    count_syscall(fds->results);
    if (fcntl(fd, F_GETFD) < 0)
        return -errno;
    unsigned block = (unsigned)fd / FDS_PER_BLOCK;
    if (block >= fds->block_count && grow_blocks(fds, block + 1) != 0)
        return -ENOMEM;
    struct fd_block *fresh = map_memory(sizeof *fresh);
    if (fresh == NULL)
        return -ENOMEM;
    count_syscall(fds->results);
    count_syscall(fds->results);
    for (int i = 0; i < FDS_PER_BLOCK; i++) {
        fresh->fds[i].state.fd = (int32_t)(block * FDS_PER_BLOCK) + i;
        fresh->fds[i].state.ready = READABLE | WRITABLE;
    }
    fds->blocks[block] = fresh;
    *state = state_at(fds, fd);
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
static void fd_forget(struct fd_state *state) {
    fd_reset(state, FD_UNKNOWN);
    state->flags &= (uint8_t)~FD_REGISTERED;
}

void fds_forget_idle(struct fds *fds, int fd) {
    struct fd_state *state = fds_find(fds, fd);
    if (state != NULL && state->kind != FD_UNKNOWN && fd_idle(state))
        fd_forget(state);
}

/* ---- the two lists of fds ---- */

static void make_ready(struct fds *fds, struct fd_state *state) {
    if (state->flags & FD_ON_READY)
        return;
    state->flags |= FD_ON_READY;
    state->next_ready = NULL;
    if (fds->ready.count++ == 0)
        fds->ready.first = state;
    else
        fds->ready.last->next_ready = state;
    fds->ready.last = state;
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

static void make_unsettled(struct fds *fds, struct fd_state *state) {
    if ((state->flags & FD_ON_UNSETTLED) || !fd_needs_arming(state))
        return;
    state->flags |= FD_ON_UNSETTLED;
    state->next_unsettled = fds->unsettled;
    fds->unsettled = state;
}

/* ---- parking ---- */

static struct flexsc_entry **side_of(struct fd_state *state, const struct flexsc_entry *entry) {
    if (entry->call == CALL_POLL)
        return &state->pollers;
    return side_is_reader(entry->call) ? &state->readers : &state->writers;
}

bool fds_may_try(const struct fd_state *state, const struct flexsc_entry *entry, enum outcome *otherwise) {
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

int fds_park(struct fds *fds, struct flexsc_entry *entry, enum outcome outcome) {
    struct fd_state *state;
    int rc = fd_get(fds, entry->fd, &state);
    if (rc < 0)
        return rc;
    fd_adopt(state, entry);
    fds->parked++;
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
        make_ready(fds, state);
    else
        make_unsettled(fds, state);
    return 0;
}

void fds_finish(struct fds *fds, struct flexsc_entry *entry, int32_t res, uint32_t flags) {
    FLEXSC_CHECK(entry->where != IN_FRESH && entry->where != IN_SPILL);
    if (entry->where != NOWHERE) {
        FLEXSC_CHECK(fds->parked > 0);
        list_remove(side_of(state_at(fds, entry->fd), entry), entry);
        fds->parked--;
    }
    results_last(fds->results, entry, res, flags);
}

static void end_waiting(struct fds *fds, struct flexsc_entry **list) {
    while (*list != NULL)
        fds_finish(fds, *list, cut_short(*list), 0);
}

void fds_end(struct fds *fds, int fd) {
    struct fd_state *state = fds_find(fds, fd);
    if (state == NULL)
        return;
    end_waiting(fds, &state->readers);
    end_waiting(fds, &state->writers);
    end_waiting(fds, &state->pollers);
    fd_forget(state);
}

/* Not if an end or an error may be queued behind the data: its event has been fetched already. */
bool fds_will_tell_of_more(const struct fd_state *state) {
    /* Not registered yet, or only for one shot: telling epoll about the fd looks at the level. */
    if (state == NULL || state->kind != FD_OWNED || !(state->armed & EPOLLIN))
        return true;
    return !(state->flags & FD_ENDING);
}

bool fds_drained_by_short_read(struct fds *fds, struct fd_state *state) {
    if (state == NULL || state->kind != FD_OWNED || !(state->armed & EPOLLIN))
        return true;
    if (!fds_will_tell_of_more(state))
        return false;
    /* Datagrams, Unix sockets with credentials, ... return short with more behind. */
    if (!(state->flags & FD_TCP_ASKED)) {
        int protocol = 0;
        socklen_t size = sizeof protocol;
        state->flags |= FD_TCP_ASKED;
        count_syscall(fds->results);
        if (getsockopt(state->fd, SOL_SOCKET, SO_PROTOCOL, &protocol, &size) == 0 && protocol == IPPROTO_TCP)
            state->flags |= FD_TCP;
    }
    return state->flags & FD_TCP;
}

/* ---- telling epoll ---- */

static void end_list(struct fds *fds, struct flexsc_entry **list, int32_t res) {
    while (*list != NULL)
        fds_finish(fds, *list, res, 0);
}

/* epoll does not take the fd. */
static void fd_refused(struct fds *fds, struct fd_state *state, int error) {
    state->flags &= (uint8_t)~FD_REGISTERED;
    if (error != EPERM) {
        end_list(fds, &state->readers, -error);
        end_list(fds, &state->writers, -error);
        end_list(fds, &state->pollers, -error);
        fd_forget(state);
        return;
    }
    /* A regular file is always ready, says poll(2).  What can't be had from it at once is the caller's business. */
    state->kind = FD_UNPOLLABLE;
    state->ready = READABLE | WRITABLE;
    make_ready(fds, state);
}

static int tell_epoll(struct fds *fds, struct fd_state *state, struct epoll_event *event) {
    int op = (state->flags & FD_REGISTERED) ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;
    for (int i = 0; i < 3; i++) {
        count_syscall(fds->results);
        if (epoll_ctl(fds->epoll_fd, op, state->fd, event) == 0)
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

static void fd_arm(struct fds *fds, struct fd_state *state) {
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
    int error = tell_epoll(fds, state, &event);
    if (error != 0) {
        fd_refused(fds, state, error);
        return;
    }
    state->flags |= FD_REGISTERED;
    state->armed = events;
}

void fds_settle(struct fds *fds) {
    while (fds->unsettled != NULL) {
        struct fd_state *state = fds->unsettled;
        fds->unsettled = state->next_unsettled;
        state->flags &= (uint8_t)~FD_ON_UNSETTLED;
        if (fd_needs_arming(state))
            fd_arm(fds, state);
    }
}

/* ---- what epoll says ---- */

int fds_look(struct fds *fds, int64_t timeout_ns, _Atomic uint64_t *syscalls) {
    if (timeout_ns > 0 && !fds->no_pwait2) {
        struct timespec timeout = timespec_of(timeout_ns);
        count(syscalls);
        long n = syscall(SYS_epoll_pwait2, fds->epoll_fd, fds->events, EVENTS_PER_LOOK, &timeout, NULL, 0);
        /* Before Linux 5.11, or a sandbox that does not know the call. */
        if (n >= 0 || (errno != ENOSYS && errno != EPERM))
            return n < 0 ? -errno : (int)n;
        fds->no_pwait2 = true;
    }
    int timeout_ms = -1;
    if (timeout_ns >= 0) {
        int64_t ms = timeout_ns / 1000000 + (timeout_ns % 1000000 != 0);
        timeout_ms = ms > 0x7fffffff ? 0x7fffffff : (int)ms;
    }
    count(syscalls);
    int n = epoll_wait(fds->epoll_fd, fds->events, EVENTS_PER_LOOK, timeout_ms);
    return n < 0 ? -errno : n;
}

/* Fails only when the counter is full, and then epoll has long had its edge. */
void fds_ring(const struct fds *fds) {
    uint64_t one = 1;
    ssize_t rc = write(fds->doorbell, &one, sizeof one);
    (void)rc;
}

static void mark_one(struct fds *fds, const struct epoll_event *event) {
    if (event->data.u64 == DOORBELL_DATA)
        return;
    struct fd_state *state = state_at(fds, (int)(uint32_t)event->data.u64);
    FLEXSC_CHECK(state->fd == (int)(uint32_t)event->data.u64);
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
        make_ready(fds, state);
}

void fds_mark(struct fds *fds, int events) {
    for (int i = 0; i < events; i++)
        mark_one(fds, &fds->events[i]);
}

/* ---- visits ---- */

struct fd_state *fds_next_ready(struct fds *fds) {
    struct fd_state *state = fds->ready.first;
    FLEXSC_CHECK(fds->ready.count > 0 && (state->flags & FD_ON_READY));
    fds->ready.first = state->next_ready;
    fds->ready.count--;
    state->flags &= (uint8_t)~FD_ON_READY;
    return state;
}

bool fds_run_pollers(struct fds *fds, struct fd_state *state) {
    struct flexsc_entry *next;
    for (struct flexsc_entry *poller = state->pollers; poller != NULL; poller = next) {
        next = poller->next;
        if (state->kind == FD_UNPOLLABLE)
            poller->done = poller->call_flags & FILE_EVENTS;
        else if (poller->done == 0)
            continue;
        if (!results_have_room(fds->results))
            return true;
        if ((poller->flags & ENTRY_MULTISHOT) && state->kind == FD_OWNED) {
            results_more(fds->results, poller, (int32_t)poller->done, 0);
            poller->done = 0;
        } else {
            fds_finish(fds, poller, (int32_t)poller->done, 0);
        }
    }
    return false;
}

void fds_visited(struct fds *fds, struct fd_state *state, bool more) {
    if (more)
        make_ready(fds, state);
    else
        make_unsettled(fds, state);
}
