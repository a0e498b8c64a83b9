/* Floor 4: datagrams sent, one or many with one system call.  Knows nothing of Python. */
#ifndef FLEXSC_DATAGRAMS_H
#define FLEXSC_DATAGRAMS_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

enum { DATAGRAMS_AT_ONCE = 64 };

/* Datagrams to be sent, as sendmmsg(2) wants them. */
struct datagram_batch {
    unsigned count;
    struct mmsghdr messages[DATAGRAMS_AT_ONCE];
    struct iovec payloads[DATAGRAMS_AT_ONCE];
};

static inline void datagrams_add(struct datagram_batch *batch, void *data, size_t size, void *name, size_t name_size)
{
    struct iovec *payload = &batch->payloads[batch->count];
    *payload = (struct iovec){.iov_base = data, .iov_len = size};
    batch->messages[batch->count++].msg_hdr =
        (struct msghdr){.msg_name = name, .msg_namelen = (socklen_t)name_size, .msg_iov = payload, .msg_iovlen = 1};
}

/* Send them without blocking, until one fails.  Returns how many were sent; *error says what the next one met, 0 if all
 * were sent.
 *
 * one_by_one: for sockets whose errors come from the network and are told once.  sendmmsg() forgets the error of any
 * datagram but the first. */
static inline unsigned datagrams_send(int fd, struct datagram_batch *batch, bool one_by_one, uint64_t *calls, int *error)
{
    unsigned sent = 0;
    *error = 0;
    while (sent < batch->count) {
        int res;
        if (one_by_one || batch->count - sent == 1)
            res = sendmsg(fd, &batch->messages[sent].msg_hdr, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 ? -1 : 1;
        else
            res = sendmmsg(fd, &batch->messages[sent], batch->count - sent, MSG_DONTWAIT | MSG_NOSIGNAL);
        ++*calls;
        if (res > 0) {
            sent += (unsigned)res;
        } else if (errno != EINTR) {
            *error = errno;
            break;
        }
    }
    return sent;
}

/* Send one without blocking.  Returns 0 or an errno. */
static inline int datagram_send(int fd, void *data, size_t size, void *name, size_t name_size, uint64_t *calls)
{
    ssize_t res;
    do {
        res = sendto(fd, data, size, MSG_DONTWAIT | MSG_NOSIGNAL, name, (socklen_t)name_size);
        ++*calls;
    } while (res < 0 && errno == EINTR);
    return res < 0 ? errno : 0;
}

#endif
