# cython: language_level=3, cdivision=True
"""Floor 4: listening sockets.

Owns: the listening fd from `listen` to `close`, and accepted fds until a stream takes them over.  Imports: addresses,
connection, stream, tls, tls_core, page, operation, turn.
"""
import os
from asyncio import CancelledError, constants, trsock

from cpython.contextvars cimport PyContext_Copy, PyContext_CopyCurrent, PyContext_Enter, PyContext_Exit
from libc.errno cimport EINVAL, ENOTSOCK, EOPNOTSUPP, EPROTO, errno
from libc.stdint cimport uint32_t
from posix.unistd cimport close as close_fd

from flexsc_loop.syscalls.operation cimport Operation
from flexsc_loop.syscalls.page cimport (
    CALL_ACCEPT, CALL_CLOSE, CALL_POLL, EAGAIN, EBADF, ECANCELED, ECONNABORTED, EINTR, EMFILE, ENFILE, ENOBUFS, ENOMEM,
    ENTRY_MULTISHOT, ENTRY_OWNED, Page,
)
from flexsc_loop.syscalls.posix_socket cimport POLLIN, SOCK_CLOEXEC, SOCK_NONBLOCK, accept4, poll, pollfd
from flexsc_loop.syscalls.stats cimport stats_less
from flexsc_loop.transports.addresses cimport name_of_peer
from flexsc_loop.transports.connection cimport lingers
from flexsc_loop.transports.stream cimport Stream, open_stream
from flexsc_loop.transports.tls cimport Settings
from flexsc_loop.transports.tls_core cimport Tls
from flexsc_loop.turn.turn cimport Endpoint, Turn


cdef extern from "<sys/resource.h>" nogil:
    enum:
        RLIMIT_NOFILE
    ctypedef unsigned long rlim_t
    struct rlimit:
        rlim_t rlim_cur
    int getrlimit(int resource, rlimit* limit)

cdef extern from "<fcntl.h>" nogil:
    enum: F_DUPFD_CLOEXEC
    int fcntl(int fd, int command, ...)

cdef enum:
    SHARE = 4                         # connections that are taken at once from a shared listener

cdef tuple SHORTAGES = (EMFILE, ENFILE, ENOBUFS, ENOMEM)

cdef enum State:
    LISTENING
    RESTING                           # accepting has failed: nothing is accepted before it is time to try again
    CLOSED


cdef class Accept(Operation):
    """Accepts connections again and again; or only waits, once, until somebody wants to connect."""
    cdef Listener listener
    cdef bint polls                   # what is in flight only waits

    cdef int prepare(self) except -1:
        cdef Listener listener = self.listener
        self.polls = listener.shared or listener.short
        if self.polls:
            return listener.page.submit(self, CALL_POLL, listener.fd, NULL, 0, 0, POLLIN, ENTRY_OWNED)
        return listener.page.submit(self, CALL_ACCEPT, listener.fd, NULL, 0, 0, SOCK_NONBLOCK | SOCK_CLOEXEC,
                                    ENTRY_MULTISHOT | ENTRY_OWNED)

    cdef int complete(self, int res, uint32_t flags) except -1:
        cdef Listener listener = self.listener
        if listener is None:
            if res >= 0 and not self.polls:
                close_fd(res)
            return 0
        if res < 0:
            listener.error = -res
        elif not self.polls:
            listener.arrived.append(res)
        return listener.wake_up()


cdef class Acceptance:
    """The coroutine of a task that stands for connections while they are made known to their protocols.

    Who cancels all tasks in order to end cancels this one as well, and so ends connections that nobody looks after yet.
    It is over when what connection_made has started has begun; with TLS, when the handshake is over.
    """
    cdef list transports
    cdef object handshake             # a future, or None

    @property
    def __qualname__(self):
        return "Acceptance"

    def __await__(self):
        return self

    def __next__(self):
        handshake = self.handshake
        if handshake is None:
            raise StopIteration
        if not handshake.done():
            return next(handshake.__await__())
        if not handshake.cancelled():
            handshake.exception()
        raise StopIteration

    def send(self, value):
        """The next step."""
        return self.__next__()

    def throw(self, error, *more):
        """Cancelled, or the handshake has failed: end the connections."""
        if self.handshake is not None:
            self.handshake.cancel()
        for transport in self.transports:
            transport.close()
        if isinstance(error, CancelledError):
            raise error
        # Who has to know of the failure has been told.
        raise StopIteration

    def close(self):
        """There will be no next step."""


cdef int start_task(Turn turn, list transports, object handshake) except -1:
    cdef Acceptance acceptance = Acceptance.__new__(Acceptance)
    acceptance.transports = transports
    acceptance.handshake = handshake
    turn.create_task(acceptance)
    return 0


cdef class Listener(Endpoint):
    """Serves one listening socket: a protocol from `factory` for each connection.

    `tls` is None for plain connections.
    `shared`: other processes may be accepting from the same socket.  Then all are told of a connection (the kernel
    would pick one that accepts, busy or not), and each takes a few per turn, when it has the time to serve them.
    `context`: each connection runs in a copy of it; None for the one in which this is called.
    """
    cdef Page page
    cdef int fd
    cdef State state
    cdef bint shared
    cdef bint short                   # descriptors were: nothing is accepted before somebody knocks
    cdef bint looked                  # at the options that connections inherit: as the first one comes
    cdef bint lingers                 # SO_LINGER is one of them
    cdef int error                    # errno of the last accept, if it failed
    cdef object sock, factory, server, context
    cdef Settings tls
    cdef list arrived                 # fds accepted, not handed to a protocol yet
    cdef Accept accept

    def __init__(self, Turn turn not None, sock, factory, Settings tls, server, bint shared=False, context=None):
        self.turn = turn
        self.page = turn.page
        self.sock = sock
        self.fd = sock.fileno()
        self.factory = factory
        self.tls = tls
        self.server = server
        self.shared = shared
        self.context = PyContext_CopyCurrent() if context is None else context
        self.arrived = []
        self.accept = Accept.__new__(Accept)
        self.accept.listener = self
        self.accept.retractable = True
        turn.own(self.fd, self)
        turn.stats.counts.listeners += 1
        self.accept.prepare()

    def __repr__(self):
        if self.fd < 0:
            return "<Listener closed>"
        return f"<Listener fd={self.fd} {self.sock.getsockname()!r} protocols={self.factory!r}>"

    cdef int run(self, Turn turn) except -1:
        self.queued = False
        if self.state != LISTENING:
            return 0
        if self.accept.polls and not self.error:
            self.take_some()
        if self.arrived:
            self.welcome_all()
        if self.error:
            self.recover()
        if self.state == LISTENING and self.accept.user_data == 0:
            self.accept.prepare()
        return 0

    cdef bint somebody_waits(self) noexcept:
        """To ask is ten times cheaper than to accept in vain, for which the kernel makes a socket first."""
        cdef pollfd asked
        asked.fd = self.fd
        asked.events = POLLIN
        self.page.direct_calls += 1
        return poll(&asked, 1, 0) != 0

    cdef int take_some(self) except -1:
        """Accept a few.  That another process was faster is no error."""
        cdef int fd
        self.short = False
        for _ in range(SHARE):
            if not self.somebody_waits():
                break
            self.page.direct_calls += 1
            fd = accept4(self.fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)
            if fd >= 0:
                self.arrived.append(fd)
            elif errno not in (EINTR, ECONNABORTED):
                self.error = errno if errno != EAGAIN else 0
                break
        return 0

    cdef int welcome_all(self) except -1:
        """Give each new connection its protocol."""
        cdef list known = []
        cdef rlimit limit
        getrlimit(RLIMIT_NOFILE, &limit)
        try:
            while self.arrived:
                if <rlim_t> self.arrived[0] >= limit.rlim_cur and not self.renumber():
                    return self.refuse_to_exceed()
                self.welcome(self.arrived.pop(0), known)
        finally:
            # Last, so that its first step comes after those of the tasks that the protocols have started.
            if known:
                start_task(self.turn, known, None)
        return 0

    cdef bint renumber(self) except -1:
        """Give the next connection a descriptor below the limit.  Returns whether there was one."""
        cdef int high = self.arrived[0]
        cdef int low = fcntl(high, F_DUPFD_CLOEXEC, 0)
        self.page.direct_calls += 1
        if low < 0:
            return False
        self.page.direct_calls += 1
        close_fd(high)
        self.arrived[0] = low
        return True

    cdef int refuse_to_exceed(self) except -1:
        """The limit of open files has been lowered.  io_uring knows the one from when the accept was made."""
        self.short = True
        if self.accept.user_data != 0:
            self.page.cancel(self.accept)
        return self.rest(EMFILE)

    cdef int welcome(self, int fd, list known) except -1:
        cdef Stream stream
        if self.fd < 0:
            self.page.direct_calls += 1
            close_fd(fd)
            return 0
        self.page.stats.counts.accepts += 1
        if not self.looked:
            self.looked = True
            self.lingers = lingers(self.fd)
        context = PyContext_Copy(self.context)
        PyContext_Enter(context)
        try:
            stream = self.open(fd, context, known)
        finally:
            PyContext_Exit(context)
        if stream is None:
            return 0
        try:
            return stream.run(self.turn)
        except BaseException:
            stream.cut_short()
            raise

    cdef Stream open(self, int fd, object context, list known):
        """The connection; None if there is none to be had."""
        cdef Stream stream
        cdef Tls end
        tls, server = self.tls, self.server
        try:
            protocol = self.factory()
            if self.fd < 0:
                # The factory has closed the server: this connection was the last one, and belongs to nobody.
                server = None
            if tls is None:
                stream = open_stream(self.turn, fd, None, protocol, context, None, server, name_of_peer(fd), None)
                known.append(stream.facade)
                stream.may_linger = self.lingers
                return stream
            handshake = self.turn.create_future()
            end = (<Settings> tls).open(self.turn, fd, name_of_peer(fd), protocol, context, handshake, server)
            end.stream.may_linger = self.lingers
            start_task(self.turn, [end.facade], handshake)
            return end.stream
        except BaseException as error:
            if self.turn.owner_of(fd) is None:
                self.page.direct_calls += 1
                close_fd(fd)
            if isinstance(error, (SystemExit, KeyboardInterrupt)):
                raise
            self.turn.call_exception_handler({
                "message": "Error on transport creation for incoming connection", "exception": error})
            return None

    cdef int recover(self) except -1:
        """Accepting has failed.  Try again: a little later, unless the failure was the newcomer's own."""
        cdef int error = self.error
        self.error = 0
        if error in (EAGAIN, ECANCELED, EINTR, ECONNABORTED, EPROTO):
            return 0
        if error in SHORTAGES and not self.accept.polls:
            # Perhaps nobody has knocked, and perhaps there are descriptors by now: an entry finds out when it is made.
            self.short = True
            return 0
        return self.rest(error)

    cdef int rest(self, int error) except -1:
        self.state = RESTING
        # These say that the socket will never bring anybody again: somebody has shut it down, for example.
        if error not in (EBADF, EINVAL, ENOTSOCK, EOPNOTSUPP):
            self.turn.call_later(constants.ACCEPT_RETRY_DELAY, self.go_on)
        self.turn.call_exception_handler({
            "message": "socket.accept() out of system resource" if error in SHORTAGES else "Accept failed on a socket",
            "exception": OSError(error, os.strerror(error)), "socket": trsock.TransportSocket(self.sock)})
        return 0

    def go_on(self):
        """Accept again after a failure."""
        if self.state == RESTING:
            self.state = LISTENING
            self.wake_up()

    def close(self):
        """Stop accepting and close the socket, so that its address is free when this returns."""
        cdef int fd = self.fd
        if fd < 0:
            return
        self.fd = -1
        self.state = CLOSED
        self.turn.own(fd, None)
        stats_less(&self.page.stats.counts.listeners)
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
