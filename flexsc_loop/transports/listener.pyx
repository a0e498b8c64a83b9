# cython: language_level=3, cdivision=True
"""Floor 4: listening sockets.

Owns: the listening fd from `listen` to `close`, and accepted fds until a stream takes them over.  Imports: stream, tls,
page, operation, turn.
"""
import os
from asyncio import constants, trsock

from libc.errno cimport EINVAL, ENOTSOCK, EOPNOTSUPP, EPROTO, errno
from libc.stdint cimport uint32_t
from posix.unistd cimport close as close_fd

from flexsc_loop.syscalls.operation cimport Operation
from flexsc_loop.syscalls.page cimport (
    CALL_ACCEPT, CALL_CLOSE, CALL_POLL, EAGAIN, EBADF, ECANCELED, ECONNABORTED, EINTR, EMFILE, ENFILE, ENOBUFS, ENOMEM,
    ENTRY_MULTISHOT, ENTRY_OWNED, Page,
)
from flexsc_loop.syscalls.posix_socket cimport POLLIN, SOCK_CLOEXEC, SOCK_NONBLOCK, accept4
from flexsc_loop.transports.stream cimport Stream, open_stream
from flexsc_loop.transports.tls cimport Settings
from flexsc_loop.turn.turn cimport Endpoint, Turn


cdef enum:
    SHARE = 4                         # connections that a shared listener takes at once


cdef class Accept(Operation):
    """Accepts connections again and again; on a shared listener, waits for some once."""
    cdef Listener listener
    cdef bint shared

    cdef int prepare(self) except -1:
        cdef Listener listener = self.listener
        if self.shared:
            return listener.page.submit(self, CALL_POLL, listener.fd, NULL, 0, 0, POLLIN, ENTRY_OWNED)
        return listener.page.submit(self, CALL_ACCEPT, listener.fd, NULL, 0, 0, SOCK_NONBLOCK | SOCK_CLOEXEC,
                                    ENTRY_MULTISHOT | ENTRY_OWNED)

    cdef int complete(self, int res, uint32_t flags) except -1:
        if self.shared and res >= 0:
            return 0 if self.listener is None else self.listener.wake_up()
        if self.listener is None:
            if res >= 0:
                close_fd(res)
            return 0
        return self.listener.accepted(res)


cdef class Listener(Endpoint):
    """Serves one listening socket: a protocol from `factory` for each connection.

    `tls` is None for plain connections.
    `shared`: other processes may be accepting from the same socket.  Then all are told of a connection (the kernel
    would pick one that accepts, busy or not), and each takes a few per turn, when it has the time to serve them.
    """
    cdef Page page
    cdef int fd
    cdef object sock, factory, server
    cdef Settings tls
    cdef list arrived                 # fds accepted, not handed to a protocol yet
    cdef int error                    # errno of the last accept, if it failed
    cdef Accept accept

    def __init__(self, Turn turn not None, sock, factory, Settings tls, server, bint shared=False):
        self.turn = turn
        self.page = turn.page
        self.sock = sock
        self.fd = sock.fileno()
        self.factory = factory
        self.tls = tls
        self.server = server
        self.arrived = []
        self.accept = Accept.__new__(Accept)
        self.accept.listener = self
        self.accept.shared = shared
        self.accept.retractable = True
        turn.owned[self.fd] = self
        self.accept.prepare()

    def __repr__(self):
        if self.fd < 0:
            return "<Listener closed>"
        return f"<Listener fd={self.fd} {self.sock.getsockname()!r} protocols={self.factory!r}>"

    cdef int accepted(self, int res) except -1:
        """One completion of the accept.  Bookkeeping only."""
        if res >= 0:
            self.arrived.append(res)
        else:
            self.error = -res
        return self.wake_up()

    cdef int run(self, Turn turn) except -1:
        self.queued = False
        if self.accept.shared and self.fd >= 0 and not self.error:
            self.take_some()
        try:
            while self.arrived:
                self.welcome(self.arrived.pop(0))
        finally:
            if self.arrived:
                # Somebody ends the program; if the loop runs again, they are still there.
                self.wake_up()
        if self.error and self.accept.user_data == 0 and self.fd >= 0:
            self.recover()
        elif self.accept.user_data == 0 and self.fd >= 0:
            self.accept.prepare()
        return 0

    cdef int take_some(self) except -1:
        """Accept from a shared listener.  That somebody else was faster is no error."""
        cdef int fd
        for _ in range(SHARE):
            self.page.direct_calls += 1
            fd = accept4(self.fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)
            if fd >= 0:
                self.arrived.append(fd)
            elif errno not in (EINTR, ECONNABORTED):
                self.error = errno if errno != EAGAIN else 0
                break
        return 0

    cdef int welcome(self, int fd) except -1:
        """Give a new connection its protocol."""
        cdef Stream stream
        cdef Settings tls
        if self.fd < 0:
            self.page.direct_calls += 1
            close_fd(fd)
            return 0
        tls, server = self.tls, self.server
        try:
            protocol = self.factory()
            if self.fd < 0:
                # The factory has closed the server: this connection was the last one, and belongs to nobody.
                server = None
            if tls is not None:
                stream = tls.open(self.turn, fd, protocol, server)
            else:
                stream = open_stream(self.turn, fd, protocol, None, server, None, None)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            if fd not in self.turn.owned:
                self.page.direct_calls += 1
                close_fd(fd)
            self.turn.call_exception_handler({
                "message": "Error on transport creation for incoming connection", "exception": error})
            return 0
        return stream.run(self.turn)

    cdef int recover(self) except -1:
        """Accepting has failed.  Try again: a little later, unless the failure was the newcomer's own."""
        cdef int error = self.error
        self.error = 0
        if error in (EAGAIN, ECANCELED, EINTR, ECONNABORTED, EPROTO):
            return self.accept.prepare()
        short = error in (EMFILE, ENFILE, ENOBUFS, ENOMEM)
        self.turn.call_exception_handler({
            "message": "socket.accept() out of system resource" if short else "Accept failed on a socket",
            "exception": OSError(error, os.strerror(error)), "socket": trsock.TransportSocket(self.sock)})
        # These say that the socket will never bring anybody again: somebody has shut it down, for example.
        if error not in (EBADF, EINVAL, ENOTSOCK, EOPNOTSUPP):
            self.turn.call_later(constants.ACCEPT_RETRY_DELAY, self.go_on)
        return 0

    def go_on(self):
        """Accept again after a failure."""
        if self.fd >= 0 and self.accept.user_data == 0:
            self.accept.prepare()

    def close(self):
        """Stop accepting and close the socket, so that its address is free when this returns."""
        cdef int fd = self.fd
        if fd < 0:
            return
        self.fd = -1
        self.turn.owned.pop(fd, None)
        if self.page.closed:
            self.sock.close()
        else:
            if self.accept.user_data != 0:
                self.page.cancel(self.accept)
            self.sock.detach()
            self.page.quietly(CALL_CLOSE, fd, 0)
            self.page.barrier()
        for arrived in self.arrived:
            close_fd(arrived)
        self.arrived = []
        self.accept.listener = None
        self.factory = self.tls = self.server = None
