/* Floor 0: a user page's calls.  Each is made without blocking; what would block waits on its fd.
 *
 * Nothing is called whose result could not be posted, with one exception: what is ended from outside (cancelled,
 * closed under it) is kept on the `spill` list until the ring has room, and until then nothing else is called. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "user_page_internal.h"

#ifndef RWF_NOWAIT
#define RWF_NOWAIT 0x00000008
#endif

/* io_uring understands MSG_WAITALL without blocking; the plain calls don't. */
#define MSG_FLAGS(entry) (((int)(entry)->call_flags & ~MSG_WAITALL) | MSG_DONTWAIT)

/* ---- completions ---- */

static bool ring_has_slot(struct flexsc_page *page) {
    if (page->posted - page->head_seen < page->ring_size)
        return true;
    /* Acquire: the loop has copied the slots below the head. */
    page->head_seen = atomic_load_explicit(&page->head, memory_order_acquire);
    return page->posted - page->head_seen < page->ring_size;
}

static void post(struct flexsc_page *page, uint64_t user_data, int32_t res, uint32_t flags) {
    page->ring[page->posted & (page->ring_size - 1)] =
        (struct flexsc_completion){.user_data = user_data, .res = res, .flags = flags};
    page->posted++;
    count(&page->counters.completions);
    /* Release: the slot, and all that the call has written, are visible before the tail. */
    atomic_store_explicit(&page->tail, page->posted, memory_order_release);
    /* A first look, without a barrier, lets the loop wake up while the rest of the pass is served.  What this look
     * misses, the thread's last look of the pass does not. */
    if (atomic_load_explicit(&page->loop_sleep, memory_order_relaxed) == LOOP_IN_FUTEX)
        page_wake_sleeping_loop(page);
}

static void post_last(struct flexsc_page *page, struct flexsc_entry *entry, int32_t res, uint32_t flags) {
    uint64_t user_data = entry->user_data;
    /* Release: we have finished with the entry and with the memory that it names. */
    atomic_store_explicit(&entry->status, ENTRY_DONE, memory_order_release);
    post(page, user_data, res, flags);
}

static void flush_spill(struct flexsc_page *page) {
    while (page->spill != NULL && ring_has_slot(page)) {
        struct flexsc_entry *entry = page->spill;
        list_remove(&page->spill, entry);
        post_last(page, entry, (int32_t)entry->done, 0);
    }
}

bool page_has_room(struct flexsc_page *page) {
    if (page->spill != NULL)
        flush_spill(page);
    bool room = page->spill == NULL && ring_has_slot(page);
    if (!room && !page->held_back)
        count(&page->counters.overflows);
    page->held_back = !room;
    return room;
}

void page_finish(struct flexsc_page *page, struct flexsc_entry *entry, int32_t res, uint32_t flags) {
    if (entry->where == IN_FRESH)
        list_remove(&page->fresh, entry);
    else if (entry->where != NOWHERE)
        fd_unpark(page, entry);
    if (page->spill == NULL && ring_has_slot(page)) {
        post_last(page, entry, res, flags);
    } else {
        entry->done = (uint32_t)res;
        list_push(&page->spill, entry, IN_SPILL);
    }
}

void page_post_more(struct flexsc_page *page, const struct flexsc_entry *entry, int32_t res) {
    post(page, entry->user_data, res, COMPLETION_MORE);
}

static int32_t sent_so_far(const struct flexsc_entry *entry) {
    return entry->done < INT32_MAX ? (int32_t)entry->done : INT32_MAX;
}

/* End an entry from outside. */
void page_end(struct flexsc_page *page, struct flexsc_entry *entry) {
    bool sent = (entry->call == CALL_SEND || entry->call == CALL_SENDMSG) && entry->done != 0;
    page_finish(page, entry, sent ? sent_so_far(entry) : -ECANCELED, 0);
}

static enum outcome finished(struct flexsc_page *page, struct flexsc_entry *entry, int32_t res) {
    page_finish(page, entry, res, 0);
    return FINISHED;
}

static enum outcome failed(struct flexsc_page *page, struct flexsc_entry *entry, int error) {
    return error == EAGAIN ? BLOCKED : finished(page, entry, -error);
}

/* ---- receiving ---- */

static enum outcome try_recv(struct flexsc_page *page, struct fd_state *state, struct flexsc_entry *entry) {
    ssize_t n;
    do {
        count_syscall(page);
        n = recv(entry->fd, (void *)(uintptr_t)entry->addr, entry->len, MSG_FLAGS(entry));
    } while (n < 0 && errno == EINTR);
    if (n < 0)
        return failed(page, entry, errno);
    if (n > 0 && n < entry->len && state != NULL && !(entry->call_flags & (MSG_PEEK | MSG_OOB)) &&
        fd_drained_by_short_read(page, state))
        state->ready &= (uint8_t)~READABLE;
    page_finish(page, entry, (int32_t)n, n > 0 && n == entry->len ? COMPLETION_NONEMPTY : 0);
    return FINISHED;
}

/* How many buffers the pool has. */
static unsigned pool_count(const struct pool_end *pool) {
    /* Acquire: the slots below the tail are filled. */
    return pool->ring == NULL ? 0 : (uint16_t)(__atomic_load_n(&pool->ring[0].tail, __ATOMIC_ACQUIRE) - pool->head);
}

/* The slot `ahead` places behind the first one that is not taken. */
static struct flexsc_pool_slot *pool_slot(const struct pool_end *pool, unsigned ahead) {
    return &pool->ring[(uint16_t)(pool->head + ahead) & pool->mask];
}

static enum outcome try_recv_pool(struct flexsc_page *page, struct fd_state *state, struct flexsc_entry *entry) {
    for (int i = 0; i < BUFFERS_PER_VISIT && page_has_room(page); i++) {
        if (pool_count(&page->pool) == 0) {
            count(&page->counters.pool_empty);
            return finished(page, entry, -ENOBUFS);
        }
        struct flexsc_pool_slot *slot = pool_slot(&page->pool, 0);
        uint32_t len = slot->len;
        count_syscall(page);
        ssize_t n = recv(entry->fd, (void *)(uintptr_t)slot->addr, len, MSG_FLAGS(entry));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return failed(page, entry, errno);
        if (n == 0)
            return finished(page, entry, 0);
        uint32_t flags = COMPLETION_BUFFER | (uint32_t)slot->id << COMPLETION_BUFFER_SHIFT;
        page->pool.head++;
        bool drained = n < len && fd_drained_by_short_read(page, state);
        if (n == len)
            flags |= COMPLETION_NONEMPTY;
        if (!(entry->flags & ENTRY_MULTISHOT)) {
            if (drained && state != NULL)
                state->ready &= (uint8_t)~READABLE;
            page_finish(page, entry, (int32_t)n, flags);
            return FINISHED;
        }
        post(page, entry->user_data, (int32_t)n, flags | COMPLETION_MORE);
        if (drained)
            return BLOCKED;
    }
    return AGAIN;
}

static enum outcome try_recvmsg(struct flexsc_page *page, struct flexsc_entry *entry) {
    ssize_t n;
    do {
        count_syscall(page);
        n = recvmsg(entry->fd, (struct msghdr *)(uintptr_t)entry->addr, MSG_FLAGS(entry));
    } while (n < 0 && errno == EINTR);
    return n < 0 ? failed(page, entry, errno) : finished(page, entry, (int32_t)n);
}

/* ---- datagrams into pool buffers ---- */

/* Receive into the next `wanted` buffers, each laid out as struct flexsc_datagram says.  What recvmmsg returns. */
static int recv_datagrams(struct flexsc_page *page, const struct flexsc_entry *entry, unsigned wanted,
                          struct mmsghdr *messages) {
    socklen_t name_room = ((const struct msghdr *)(uintptr_t)entry->addr)->msg_namelen;
    struct iovec payloads[DATAGRAMS_PER_VISIT];
    for (unsigned i = 0; i < wanted; i++) {
        const struct flexsc_pool_slot *slot = pool_slot(&page->datagrams, i);
        char *name = (char *)(uintptr_t)slot->addr + sizeof(struct flexsc_datagram);
        payloads[i] = (struct iovec){.iov_base = name + name_room,
                                     .iov_len = slot->len - sizeof(struct flexsc_datagram) - name_room};
        messages[i].msg_hdr = (struct msghdr){
            .msg_name = name, .msg_namelen = name_room, .msg_iov = &payloads[i], .msg_iovlen = 1};
    }
    int n;
    do {
        count_syscall(page);
        n = recvmmsg(entry->fd, messages, wanted, MSG_FLAGS(entry), NULL);
    } while (n < 0 && errno == EINTR);
    return n;
}

static void post_datagram(struct flexsc_page *page, const struct flexsc_entry *entry, const struct mmsghdr *message) {
    struct flexsc_pool_slot *slot = pool_slot(&page->datagrams, 0);
    *(struct flexsc_datagram *)(uintptr_t)slot->addr =
        (struct flexsc_datagram){.name_size = message->msg_hdr.msg_namelen,
                                 .size = message->msg_len,
                                 .flags = (uint32_t)message->msg_hdr.msg_flags};
    page->datagrams.head++;
    post(page, entry->user_data, (int32_t)(sizeof(struct flexsc_datagram) + message->msg_len),
         COMPLETION_BUFFER | COMPLETION_MORE | (uint32_t)slot->id << COMPLETION_BUFFER_SHIFT);
}

static enum outcome try_recv_datagrams(struct flexsc_page *page, struct fd_state *state, struct flexsc_entry *entry) {
    struct mmsghdr messages[DATAGRAMS_PER_VISIT];
    unsigned wanted = pool_count(&page->datagrams);
    if (wanted == 0) {
        count(&page->counters.pool_empty);
        return finished(page, entry, -ENOBUFS);
    }
    if (wanted > DATAGRAMS_PER_VISIT)
        wanted = DATAGRAMS_PER_VISIT;
    unsigned room = page->ring_size - (page->posted - page->head_seen);
    if (wanted > room)
        wanted = room;
    int n = recv_datagrams(page, entry, wanted, messages);
    if (n < 0)
        return failed(page, entry, errno);
    for (int i = 0; i < n; i++)
        post_datagram(page, entry, &messages[i]);
    return (unsigned)n < wanted && fd_will_tell_of_more(state) ? BLOCKED : AGAIN;
}

/* ---- sending ---- */

/* Skip the `n` bytes at the front that have been sent.  Whether that was all. */
static bool msg_advance(struct msghdr *msg, size_t n) {
    while (msg->msg_iovlen > 0 && n >= msg->msg_iov->iov_len) {
        n -= msg->msg_iov->iov_len;
        msg->msg_iov++;
        msg->msg_iovlen--;
    }
    if (msg->msg_iovlen == 0)
        return true;
    msg->msg_iov->iov_base = (char *)msg->msg_iov->iov_base + n;
    msg->msg_iov->iov_len -= n;
    return false;
}

static ssize_t send_rest(struct flexsc_entry *entry, bool *all) {
    int flags = MSG_FLAGS(entry) | MSG_NOSIGNAL;
    if (entry->call == CALL_SEND) {
        ssize_t n = send(entry->fd, (char *)(uintptr_t)entry->addr + entry->done, entry->len - entry->done, flags);
        *all = n >= 0 && entry->done + (uint64_t)n >= entry->len;
        return n;
    }
    struct msghdr *msg = (struct msghdr *)(uintptr_t)entry->addr;
    ssize_t n = sendmsg(entry->fd, msg, flags);
    if (n < 0)
        return n;
    *all = msg_advance(msg, (size_t)n);
    /* Ancillary data goes with the first byte. */
    if (n > 0) {
        msg->msg_control = NULL;
        msg->msg_controllen = 0;
    }
    return n;
}

static enum outcome try_send(struct flexsc_page *page, struct flexsc_entry *entry) {
    for (int i = 0; i < SENDS_PER_VISIT; i++) {
        bool all = false;
        count_syscall(page);
        ssize_t n = send_rest(entry, &all);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return failed(page, entry, errno);
        entry->done += (uint64_t)n;
        if (all)
            return finished(page, entry, sent_so_far(entry));
    }
    return AGAIN;
}

/* ---- read and write: eventfds, pipes, terminals ---- */

static ssize_t read_or_write(const struct flexsc_entry *entry, size_t len, int flags) {
    struct iovec iov = {.iov_base = (void *)(uintptr_t)entry->addr, .iov_len = len};
    bool reads = entry->call == CALL_READ;
    if (flags == 0 && entry->off == UINT64_MAX)
        return reads ? readv(entry->fd, &iov, 1) : writev(entry->fd, &iov, 1);
    return reads ? preadv2(entry->fd, &iov, 1, (off_t)entry->off, flags)
                 : pwritev2(entry->fd, &iov, 1, (off_t)entry->off, flags);
}

/* For files without RWF_NOWAIT.  If they block, ask first. */
static ssize_t read_or_write_old(struct flexsc_page *page, const struct flexsc_entry *entry) {
    size_t len = entry->len;
    count_syscall(page);
    int mode = fcntl(entry->fd, F_GETFL);
    if (mode < 0)
        return -1;
    if (!(mode & O_NONBLOCK)) {
        struct pollfd ask = {.fd = entry->fd, .events = entry->call == CALL_READ ? POLLIN : POLLOUT};
        count_syscall(page);
        if (poll(&ask, 1, 0) == 0) {
            errno = EAGAIN;
            return -1;
        }
        /* A pipe that is ready has room for this much and no promise of more. */
        if (entry->call == CALL_WRITE && len > 4096)
            len = 4096;
    }
    count_syscall(page);
    return read_or_write(entry, len, 0);
}

static enum outcome try_read_or_write(struct flexsc_page *page, struct flexsc_entry *entry) {
    ssize_t n;
    do {
        count_syscall(page);
        n = read_or_write(entry, entry->len, RWF_NOWAIT);
        if (n < 0 && (errno == EOPNOTSUPP || errno == ENOSYS || errno == EINVAL))
            n = read_or_write_old(page, entry);
    } while (n < 0 && errno == EINTR);
    return n < 0 ? failed(page, entry, errno) : finished(page, entry, (int32_t)n);
}

/* ---- connections ---- */

static enum outcome try_accept(struct flexsc_page *page, struct flexsc_entry *entry) {
    for (int i = 0; i < ACCEPTS_PER_VISIT && page_has_room(page); i++) {
        count_syscall(page);
        int fd = accept4(entry->fd, NULL, NULL, (int)entry->call_flags);
        if (fd < 0) {
            if (errno == ECONNABORTED || errno == EINTR || errno == EPROTO)
                continue;
            return failed(page, entry, errno);
        }
        fd_forget_idle(page, fd);
        if (!(entry->flags & ENTRY_MULTISHOT))
            return finished(page, entry, fd);
        post(page, entry->user_data, fd, COMPLETION_MORE);
    }
    return AGAIN;
}

/* The fd of a connect under way has become writable. */
static enum outcome connect_goes_on(struct flexsc_page *page, struct fd_state *state, struct flexsc_entry *entry) {
    int error = 0;
    socklen_t size = sizeof error;
    count_syscall(page);
    if (getsockopt(entry->fd, SOL_SOCKET, SO_ERROR, &error, &size) != 0)
        error = errno;
    if (error != 0 && error != EISCONN)
        return finished(page, entry, -error);
    struct sockaddr_storage peer;
    size = sizeof peer;
    count_syscall(page);
    if (getpeername(entry->fd, (struct sockaddr *)&peer, &size) == 0)
        return finished(page, entry, 0);
    if (errno != ENOTCONN)
        return finished(page, entry, -errno);
    /* Hung up, and somebody else has fetched the error: what a second connect() would say then. */
    if (state != NULL && (state->flags & FD_ENDING))
        return finished(page, entry, -ECONNABORTED);
    return BLOCKED;
}

static enum outcome try_connect(struct flexsc_page *page, struct fd_state *state, struct flexsc_entry *entry) {
    if (entry->done != 0)
        return connect_goes_on(page, state, entry);
    /* What is known of the number is of no use: a socket that connects is new. */
    fd_forget_idle(page, entry->fd);
    count_syscall(page);
    if (connect(entry->fd, (struct sockaddr *)(uintptr_t)entry->addr, (socklen_t)entry->off) == 0)
        return finished(page, entry, 0);
    if (errno != EINPROGRESS && errno != EINTR && errno != EALREADY)
        return finished(page, entry, -errno);
    entry->done = 1;
    return BLOCKED;
}

/* ---- calls that never wait ---- */

static int32_t cancel(struct flexsc_page *page, const struct flexsc_entry *entry) {
    struct flexsc_entry *target = (struct flexsc_entry *)(uintptr_t)entry->off;
    /* BUSY: only the server writes to it, so its other fields may be read. */
    if (target == NULL || target == entry ||
        atomic_load_explicit(&target->status, memory_order_acquire) != ENTRY_BUSY ||
        target->user_data != entry->addr || target->where == IN_SPILL)
        return -ENOENT;
    page_end(page, target);
    return 0;
}

static void end_waiting(struct flexsc_page *page, struct flexsc_entry **list) {
    while (*list != NULL)
        page_end(page, *list);
}

static int32_t close_fd(struct flexsc_page *page, int fd) {
    struct fd_state *state = fd_find(page, fd);
    if (state != NULL) {
        end_waiting(page, &state->readers);
        end_waiting(page, &state->writers);
        end_waiting(page, &state->pollers);
        fd_forget(state);
    }
    count_syscall(page);
    /* On Linux the number is free again even after EINTR. */
    return close(fd) == 0 || errno == EINTR ? 0 : -errno;
}

/* False: the call may have to wait. */
static bool run_at_once(struct flexsc_page *page, const struct flexsc_entry *entry, int32_t *res) {
    switch (entry->call) {
    case CALL_NOP:
        *res = 0;
        return true;
    case CALL_CANCEL:
        *res = cancel(page, entry);
        return true;
    case CALL_CLOSE:
        *res = close_fd(page, entry->fd);
        return true;
    case CALL_SHUTDOWN:
        count_syscall(page);
        *res = shutdown(entry->fd, (int)entry->len) == 0 ? 0 : -errno;
        return true;
    case CALL_POLL:
    case CALL_SEND:
    case CALL_SENDMSG:
    case CALL_RECV:
    case CALL_RECVMSG:
    case CALL_READ:
    case CALL_WRITE:
    case CALL_ACCEPT:
    case CALL_CONNECT:
        return false;
    default:
        *res = -EINVAL;
        return true;
    }
}

/* ---- running entries ---- */

/* Make the call of an entry that may wait.  `state` is NULL while nothing is known of the fd. */
enum outcome page_try(struct flexsc_page *page, struct fd_state *state, struct flexsc_entry *entry) {
    switch (entry->call) {
    case CALL_RECV:
        return (entry->flags & ENTRY_POOL) ? try_recv_pool(page, state, entry) : try_recv(page, state, entry);
    case CALL_SEND:
    case CALL_SENDMSG:
        return try_send(page, entry);
    case CALL_RECVMSG:
        return (entry->flags & ENTRY_POOL) ? try_recv_datagrams(page, state, entry) : try_recvmsg(page, entry);
    case CALL_ACCEPT:
        return try_accept(page, entry);
    case CALL_CONNECT:
        return try_connect(page, state, entry);
    default:
        return try_read_or_write(page, entry);
    }
}

/* An entry's first try. */
static void start(struct flexsc_page *page, struct flexsc_entry *entry) {
    int32_t res;
    if (run_at_once(page, entry, &res)) {
        page_finish(page, entry, res, 0);
        return;
    }
    entry->done = 0;
    enum outcome outcome = BLOCKED;
    if (entry->call != CALL_POLL) {
        struct fd_state *state = fd_find(page, entry->fd);
        if (fd_may_try(state, entry, &outcome))
            outcome = page_try(page, state, entry);
    }
    if (outcome != FINISHED)
        fd_park(page, entry, outcome);
}

/* Make the published entries the server's, behind those that it has. */
void page_take_inbox(struct flexsc_page *page) {
    if (atomic_load_explicit(&page->inbox, memory_order_relaxed) == NULL)
        return;
    /* Acquire: the entries are filled. */
    struct flexsc_entry *entry = atomic_exchange_explicit(&page->inbox, NULL, memory_order_acquire);
    struct flexsc_entry *oldest = NULL;
    while (entry != NULL) {
        struct flexsc_entry *older = entry->next;
        entry->next = oldest;
        oldest = entry;
        entry = older;
    }
    while (oldest != NULL) {
        struct flexsc_entry *newer = oldest->next;
        atomic_store_explicit(&oldest->status, ENTRY_BUSY, memory_order_relaxed);
        list_push(&page->fresh, oldest, IN_FRESH);
        oldest = newer;
    }
}

bool page_run_fresh(struct flexsc_page *page) {
    bool worked = false;
    if (page->spill != NULL || page->held_back)
        worked = page_has_room(page);
    page_take_inbox(page);
    for (unsigned calls = 0; page->fresh != NULL && calls < page->budget && page_has_room(page); calls++) {
        if (atomic_load_explicit(&page->want, memory_order_relaxed) != WANT_NOBODY)
            break;
        struct flexsc_entry *entry = page->fresh;
        list_remove(&page->fresh, entry);
        start(page, entry);
        worked = true;
    }
    page_settle(page);
    return worked;
}
