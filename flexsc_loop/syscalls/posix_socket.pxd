# Floor 0: what the modules above use of <sys/socket.h> (by way of plain.h) and <poll.h>, declared once.  Cython brings
# the rest along: vectors are in posix.uio, errors in libc.errno, files in posix.unistd.

from posix.uio cimport iovec


cdef extern from "plain.h" nogil:
    enum:
        AF_INET
        AF_INET6
        AF_UNIX
        MSG_DONTWAIT
        MSG_MORE
        MSG_NOSIGNAL
        MSG_TRUNC
        MSG_WAITALL
        SHUT_RDWR
        SHUT_WR
        SOCK_CLOEXEC
        SOCK_NONBLOCK
        SOL_SOCKET
        SO_LINGER
        SO_PEERNAME

    ctypedef unsigned int socklen_t

    struct linger:
        int l_onoff
        int l_linger

    struct sockaddr:
        unsigned short sa_family

    struct msghdr:
        void* msg_name
        socklen_t msg_namelen
        iovec* msg_iov
        size_t msg_iovlen

    int accept4(int fd, sockaddr* address, socklen_t* size, int flags)
    int getpeername(int fd, sockaddr* address, socklen_t* size)
    int getsockname(int fd, sockaddr* address, socklen_t* size)
    int getsockopt(int fd, int level, int name, void* value, socklen_t* size)
    int setsockopt(int fd, int level, int name, const void* value, socklen_t size)
    int shutdown(int fd, int how)
    ssize_t recv(int fd, void* buffer, size_t size, int flags)
    ssize_t recvfrom(int fd, void* buffer, size_t size, int flags, sockaddr* address, socklen_t* address_size)
    ssize_t send(int fd, const void* data, size_t size, int flags)
    ssize_t sendmsg(int fd, const msghdr* message, int flags)


cdef extern from "<poll.h>" nogil:
    enum:
        POLLERR
        POLLHUP
        POLLIN
        POLLOUT
        POLLPRI
        POLLRDHUP

    struct pollfd:
        int fd
        short events

    int poll(pollfd* fds, unsigned long count, int timeout_ms)
