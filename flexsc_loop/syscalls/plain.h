/* Floor 0: the calls on sockets that the loop's thread makes past its page; where there are faults on demand (faults.h),
 * these have their share. */
#ifndef FLEXSC_PLAIN_H
#define FLEXSC_PLAIN_H

#include <sys/socket.h>

#include "faults.h"

#ifdef FLEXSC_FAULTS

static inline struct flexsc_faults *plain_faults(void)
{
    static _Thread_local struct faults_of_thread mine;
    /* Nothing tells of what a receive has left behind, so it never says that there is nothing. */
    return faults_refresh(&mine, FAULT_EINTR | FAULT_SHORT);
}

static inline bool plain_begin(int call, int fd, size_t *most)
{
    uint32_t fault = faults_call(plain_faults(), call, fd, most);
    errno = fault ? faults_errno(fault) : errno;
    return !fault;
}

static inline ssize_t plain_recv(int fd, void *buffer, size_t size, int flags)
{
    return plain_begin(CALL_RECV, fd, &size) ? recv(fd, buffer, size, flags) : -1;
}

static inline ssize_t plain_send(int fd, const void *data, size_t size, int flags)
{
    return plain_begin(CALL_SEND, fd, &size) ? send(fd, data, size, flags) : -1;
}

static inline ssize_t plain_sendmsg(int fd, const struct msghdr *message, int flags)
{
    size_t most = SIZE_MAX;
    if (!plain_begin(CALL_SENDMSG, fd, &most))
        return -1;
    if (most == SIZE_MAX || message->msg_iovlen == 0)
        return sendmsg(fd, message, flags);
    struct msghdr *some = faults_shorter(plain_faults(), message);
    ssize_t n = sendmsg(fd, some, flags);
    free(some);
    return n;
}

static inline int plain_accept4(int fd, struct sockaddr *address, socklen_t *size, int flags)
{
    return plain_begin(CALL_ACCEPT, fd, NULL) ? accept4(fd, address, size, flags) : -1;
}

#define recv plain_recv
#define send plain_send
#define sendmsg plain_sendmsg
#define accept4 plain_accept4

#endif

#endif
