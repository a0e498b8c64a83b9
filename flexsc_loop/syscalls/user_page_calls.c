/* Floor 0: a user page's calls, each made without blocking, and their short results. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include "user_page_calls.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "late_calls.h"

enum {
    BUFFERS_PER_VISIT = 4,    /* of one receive, before others get their turn */
    DATAGRAMS_PER_VISIT = 32, /* likewise */
    SENDS_PER_VISIT = 4,      /* of one send, likewise */
    ACCEPTS_PER_VISIT = 64,
    WRITE_MOST_OF_OLD = 4096, /* a pipe that is ready has room for this much and no promise of more */
};

#ifndef RWF_NOWAIT
#define RWF_NOWAIT 0x00000008
#endif

/* io_uring understands MSG_WAITALL without blocking; the plain calls don't. */
#define MSG_FLAGS(entry) (((int)(entry)->call_flags & ~MSG_WAITALL) | MSG_DONTWAIT)

/* ---- results ---- */

#ifdef FLEXSC_FAULTS
static bool faults_instead(struct calls *calls, const struct flexsc_entry *entry, uint32_t fault) {
    struct fd_state *state = fds_find(calls->fds, entry->fd);
    errno = fault == FAULT_LATE ? EAGAIN : faults_errno(fault);
    /* Who says that there is nothing although there is has to tell of it later. */
    if (state != NULL)
        state->flags |= FD_REARM;
    return false;
}
#else
static bool faults_instead(struct calls *calls, const struct flexsc_entry *entry, uint32_t fault) {
    (void)calls, (void)entry, (void)fault;
    return true;
}
#endif

static enum outcome finished(struct calls *calls, struct flexsc_entry *entry, int32_t res) {
    fds_finish(calls->fds, entry, res, 0);
    return FINISHED;
}

/* A system call is about to be made for an entry, for up to `most` bytes if that is not NULL: all of them pass here, and
 * are counted.  False: it is not to be made, because a test has it fail; errno says how. */
static inline bool begin(struct calls *calls, const struct flexsc_entry *entry, size_t *most) {
    count_syscall(calls->results);
    uint32_t fault = faults_call(&calls->faults, entry->call, entry->fd, most);
    if (FLEXSC_FAULTY && fault != 0)
        return faults_instead(calls, entry, fault);
    return true;
}

static enum outcome failed(struct calls *calls, struct flexsc_entry *entry, int error) {
    return error == EAGAIN ? BLOCKED : finished(calls, entry, -error);
}

/* ---- receiving ---- */

static enum outcome try_recv(struct calls *calls, struct fd_state *state, struct flexsc_entry *entry) {
    size_t most;
    ssize_t n;
    do {
        most = entry->len;
        n = begin(calls, entry, &most) ? recv(entry->fd, (void *)(uintptr_t)entry->addr, most, MSG_FLAGS(entry)) : -1;
    } while (n < 0 && errno == EINTR);
    if (n < 0)
        return failed(calls, entry, errno);
    if (n > 0 && (size_t)n < most && state != NULL && !(entry->call_flags & (MSG_PEEK | MSG_OOB)) &&
        fds_drained_by_short_read(calls->fds, state))
        state->ready &= (uint8_t)~READABLE;
    fds_finish(calls->fds, entry, (int32_t)n, n > 0 && (size_t)n == most ? COMPLETION_NONEMPTY : 0);
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

static enum outcome try_recv_pool(struct calls *calls, struct fd_state *state, struct flexsc_entry *entry) {
    for (int i = 0; i < BUFFERS_PER_VISIT && results_have_room(calls->results); i++) {
        if (pool_count(&calls->pool) == 0) {
            count(&calls->results->counters.pool_empty);
            return finished(calls, entry, -ENOBUFS);
        }
        struct flexsc_pool_slot *slot = pool_slot(&calls->pool, 0);
        /* As in io_uring: an entry with a length wants no more than that. */
        size_t most = entry->len != 0 && entry->len < slot->len ? entry->len : slot->len;
        void *buffer = (void *)(uintptr_t)slot->addr;
        ssize_t n = begin(calls, entry, &most) ? recv(entry->fd, buffer, most, MSG_FLAGS(entry)) : -1;
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return failed(calls, entry, errno);
        if (n == 0)
            return finished(calls, entry, 0);
        uint32_t flags = COMPLETION_BUFFER | (uint32_t)slot->id << COMPLETION_BUFFER_SHIFT;
        calls->pool.head++;
        bool drained = (size_t)n < most && fds_drained_by_short_read(calls->fds, state);
        if ((size_t)n == most)
            flags |= COMPLETION_NONEMPTY;
        if (!(entry->flags & ENTRY_MULTISHOT)) {
            if (drained && state != NULL)
                state->ready &= (uint8_t)~READABLE;
            fds_finish(calls->fds, entry, (int32_t)n, flags);
            return FINISHED;
        }
        results_more(calls->results, entry, (int32_t)n, flags);
        if (drained)
            return BLOCKED;
    }
    return AGAIN;
}

static enum outcome try_recvmsg(struct calls *calls, struct flexsc_entry *entry) {
    ssize_t n;
    do {
        struct msghdr *header = (struct msghdr *)(uintptr_t)entry->addr;
        n = begin(calls, entry, NULL) ? recvmsg(entry->fd, header, MSG_FLAGS(entry)) : -1;
    } while (n < 0 && errno == EINTR);
    return n < 0 ? failed(calls, entry, errno) : finished(calls, entry, (int32_t)n);
}

/* ---- datagrams into pool buffers ---- */

/* Receive into the next `wanted` buffers, each laid out as struct flexsc_datagram says.  What recvmmsg returns. */
static int recv_datagrams(struct calls *calls, const struct flexsc_entry *entry, unsigned wanted,
                          struct mmsghdr *messages) {
    socklen_t name_room = ((const struct msghdr *)(uintptr_t)entry->addr)->msg_namelen;
    struct iovec payloads[DATAGRAMS_PER_VISIT];
    for (unsigned i = 0; i < wanted; i++) {
        const struct flexsc_pool_slot *slot = pool_slot(&calls->datagrams, i);
        char *name = (char *)(uintptr_t)slot->addr + sizeof(struct flexsc_datagram);
        payloads[i] = (struct iovec){.iov_base = name + name_room,
                                     .iov_len = slot->len - sizeof(struct flexsc_datagram) - name_room};
        messages[i].msg_hdr = (struct msghdr){
            .msg_name = name, .msg_namelen = name_room, .msg_iov = &payloads[i], .msg_iovlen = 1};
    }
    int n;
    do {
        n = begin(calls, entry, NULL) ? recvmmsg(entry->fd, messages, wanted, MSG_FLAGS(entry), NULL) : -1;
    } while (n < 0 && errno == EINTR);
    return n;
}

static void post_datagram(struct calls *calls, const struct flexsc_entry *entry, const struct mmsghdr *message) {
    struct flexsc_pool_slot *slot = pool_slot(&calls->datagrams, 0);
    *(struct flexsc_datagram *)(uintptr_t)slot->addr =
        (struct flexsc_datagram){.name_size = message->msg_hdr.msg_namelen,
                                 .size = message->msg_len,
                                 .flags = (uint32_t)message->msg_hdr.msg_flags};
    calls->datagrams.head++;
    results_more(calls->results, entry, (int32_t)(sizeof(struct flexsc_datagram) + message->msg_len),
                 COMPLETION_BUFFER | (uint32_t)slot->id << COMPLETION_BUFFER_SHIFT);
}

static enum outcome try_recv_datagrams(struct calls *calls, struct fd_state *state, struct flexsc_entry *entry) {
    struct mmsghdr messages[DATAGRAMS_PER_VISIT];
    unsigned wanted = pool_count(&calls->datagrams);
    if (wanted == 0) {
        count(&calls->results->counters.pool_empty);
        return finished(calls, entry, -ENOBUFS);
    }
    if (wanted > DATAGRAMS_PER_VISIT)
        wanted = DATAGRAMS_PER_VISIT;
    if (wanted > results_room_seen(calls->results))
        wanted = results_room_seen(calls->results);
    int n = recv_datagrams(calls, entry, wanted, messages);
    if (n < 0)
        return failed(calls, entry, errno);
    for (int i = 0; i < n; i++)
        post_datagram(calls, entry, &messages[i]);
    return (unsigned)n < wanted && fds_will_tell_of_more(state) ? BLOCKED : AGAIN;
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

/* One sendmsg of what is left, or of up to `most` bytes of it. */
static ssize_t send_message(const struct flexsc_entry *entry, size_t most, int flags) {
    const struct msghdr *rest = (const struct msghdr *)(uintptr_t)entry->addr;
    if (FLEXSC_FAULTY && most != SIZE_MAX && rest->msg_iovlen > 0) {
        struct iovec first = rest->msg_iov[0];
        struct msghdr some = *rest;
        first.iov_len = first.iov_len < most ? first.iov_len : most;
        some.msg_iov = &first;
        some.msg_iovlen = 1;
        return sendmsg(entry->fd, &some, flags);
    }
    return sendmsg(entry->fd, rest, flags);
}

/* Take note of `n` sent bytes.  Whether that was all. */
static bool message_advance(const struct flexsc_entry *entry, size_t n) {
    struct msghdr *rest = (struct msghdr *)(uintptr_t)entry->addr;
    bool all = msg_advance(rest, n);
    /* Ancillary data goes with the first byte. */
    if (n > 0) {
        rest->msg_control = NULL;
        rest->msg_controllen = 0;
    }
    return all;
}

/* One call.  What it returns; `all`: nothing is left. */
static ssize_t send_rest(struct calls *calls, struct flexsc_entry *entry, bool *all) {
    int flags = MSG_FLAGS(entry) | MSG_NOSIGNAL;
    bool message = entry->call == CALL_SENDMSG;
    size_t most = message ? SIZE_MAX : entry->len - entry->done;
    if (!begin(calls, entry, &most))
        return -1;
    ssize_t n = message ? send_message(entry, most, flags)
                        : send(entry->fd, (char *)(uintptr_t)entry->addr + entry->done, most, flags);
    if (n >= 0)
        *all = message ? message_advance(entry, (size_t)n) : entry->done + (uint64_t)n >= entry->len;
    return n;
}

static enum outcome try_send(struct calls *calls, struct flexsc_entry *entry) {
    for (int i = 0; i < SENDS_PER_VISIT; i++) {
        bool all = false;
        ssize_t n = send_rest(calls, entry, &all);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return failed(calls, entry, errno);
        entry->done += (uint64_t)n;
        if (all)
            return finished(calls, entry, sent_so_far(entry));
    }
    return AGAIN;
}

/* ---- read and write: eventfds, pipes, terminals ---- */

static ssize_t read_or_write(const struct flexsc_entry *entry, size_t len, int flags) {
    struct iovec iov = {.iov_base = (void *)(uintptr_t)entry->addr, .iov_len = len};
    bool reads = entry->call == CALL_READ;
    if (flags == 0 && entry->off == UINT64_MAX)
        return reads ? readv(entry->fd, &iov, 1) : writev(entry->fd, &iov, 1);
    return reads ? late_preadv2(entry->fd, &iov, 1, (int64_t)entry->off, flags)
                 : late_pwritev2(entry->fd, &iov, 1, (int64_t)entry->off, flags);
}

/* For files without RWF_NOWAIT.  If they block, ask first. */
static ssize_t read_or_write_old(struct calls *calls, const struct flexsc_entry *entry) {
    size_t len = entry->len;
    count_syscall(calls->results);
    int mode = fcntl(entry->fd, F_GETFL);
    if (mode < 0)
        return -1;
    if (!(mode & O_NONBLOCK)) {
        struct pollfd ask = {.fd = entry->fd, .events = entry->call == CALL_READ ? POLLIN : POLLOUT};
        count_syscall(calls->results);
        if (poll(&ask, 1, 0) == 0) {
            errno = EAGAIN;
            return -1;
        }
        if (entry->call == CALL_WRITE && len > WRITE_MOST_OF_OLD)
            len = WRITE_MOST_OF_OLD;
    }
    count_syscall(calls->results);
    return read_or_write(entry, len, 0);
}

static enum outcome try_read_or_write(struct calls *calls, struct flexsc_entry *entry) {
    ssize_t n;
    do {
        size_t most = entry->len;
        n = begin(calls, entry, &most) ? read_or_write(entry, most, RWF_NOWAIT) : -1;
        if (n < 0 && (errno == EOPNOTSUPP || errno == ENOSYS || errno == EINVAL))
            n = read_or_write_old(calls, entry);
    } while (n < 0 && errno == EINTR);
    return n < 0 ? failed(calls, entry, errno) : finished(calls, entry, (int32_t)n);
}

/* ---- connections ---- */

static enum outcome try_accept(struct calls *calls, struct flexsc_entry *entry) {
    for (int i = 0; i < ACCEPTS_PER_VISIT && results_have_room(calls->results); i++) {
        int fd = begin(calls, entry, NULL) ? accept4(entry->fd, NULL, NULL, (int)entry->call_flags) : -1;
        if (fd < 0) {
            if (errno == ECONNABORTED || errno == EINTR || errno == EPROTO)
                continue;
            return failed(calls, entry, errno);
        }
        fds_forget_idle(calls->fds, fd);
        if (!(entry->flags & ENTRY_MULTISHOT))
            return finished(calls, entry, fd);
        results_more(calls->results, entry, fd, 0);
    }
    return AGAIN;
}

/* The fd of a connect under way has become writable. */
static enum outcome connect_goes_on(struct calls *calls, struct fd_state *state, struct flexsc_entry *entry) {
    int error = 0;
    socklen_t size = sizeof error;
    count_syscall(calls->results);
    if (getsockopt(entry->fd, SOL_SOCKET, SO_ERROR, &error, &size) != 0)
        error = errno;
    if (error != 0 && error != EISCONN)
        return finished(calls, entry, -error);
    struct sockaddr_storage peer;
    size = sizeof peer;
    count_syscall(calls->results);
    if (getpeername(entry->fd, (struct sockaddr *)&peer, &size) == 0)
        return finished(calls, entry, 0);
    if (errno != ENOTCONN)
        return finished(calls, entry, -errno);
    /* Hung up, and somebody else has fetched the error: what a second connect() would say then. */
    if (state != NULL && (state->flags & FD_ENDING))
        return finished(calls, entry, -ECONNABORTED);
    return BLOCKED;
}

static enum outcome try_connect(struct calls *calls, struct fd_state *state, struct flexsc_entry *entry) {
    if (entry->done != 0)
        return connect_goes_on(calls, state, entry);
    /* What is known of the number is of no use: a socket that connects is new. */
    fds_forget_idle(calls->fds, entry->fd);
    const struct sockaddr *address = (const struct sockaddr *)(uintptr_t)entry->addr;
    if (begin(calls, entry, NULL) && connect(entry->fd, address, (socklen_t)entry->off) == 0)
        return finished(calls, entry, 0);
    if (errno != EINPROGRESS && errno != EINTR && errno != EALREADY)
        return finished(calls, entry, -errno);
    entry->done = 1;
    return BLOCKED;
}

/* ---- calls that never wait ---- */

int32_t calls_close(struct calls *calls, int fd) {
    fds_end(calls->fds, fd);
    count_syscall(calls->results);
    /* On Linux the number is free again even after EINTR. */
    return close(fd) == 0 || errno == EINTR ? 0 : -errno;
}

bool calls_at_once(struct calls *calls, const struct flexsc_entry *entry, int32_t *res) {
    switch (entry->call) {
    case CALL_NOP:
        *res = 0;
        return true;
    case CALL_CLOSE:
        *res = calls_close(calls, entry->fd);
        return true;
    case CALL_SHUTDOWN:
        count_syscall(calls->results);
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

/* ---- calls that may wait ---- */

enum outcome calls_try(struct calls *calls, struct fd_state *state, struct flexsc_entry *entry) {
    switch (entry->call) {
    case CALL_RECV:
        return (entry->flags & ENTRY_POOL) ? try_recv_pool(calls, state, entry) : try_recv(calls, state, entry);
    case CALL_SEND:
    case CALL_SENDMSG:
        return try_send(calls, entry);
    case CALL_RECVMSG:
        return (entry->flags & ENTRY_POOL) ? try_recv_datagrams(calls, state, entry) : try_recvmsg(calls, entry);
    case CALL_ACCEPT:
        return try_accept(calls, entry);
    case CALL_CONNECT:
        return try_connect(calls, state, entry);
    default:
        return try_read_or_write(calls, entry);
    }
}
