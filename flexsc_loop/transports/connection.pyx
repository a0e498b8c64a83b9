# cython: language_level=3, cdivision=True
"""Floor 4: what both directions of a stream connection know of it.

Owns: nothing; a `Stream`, which derives from this by way of `Writing` and `Reading`, owns the fd.  Imports: page, turn.
"""
import asyncio
import sys
from asyncio import sslproto
from asyncio.log import logger
from types import MethodType

from cpython.contextvars cimport PyContext_Enter, PyContext_Exit

from flexsc_loop.syscalls.posix_socket cimport SO_LINGER, SOL_SOCKET, getsockopt, linger, setsockopt, socklen_t


cdef tuple marks(object high, object low, object default_kib):
    """The (high, low) marks of flow control in bytes, of what a program has asked for.  Raises ValueError."""
    high, low = sslproto.add_flowcontrol_defaults(high, low, default_kib)
    return int(min(high, sys.maxsize)), int(min(low, sys.maxsize))


cdef object call_for(object context, object callback):
    """The result of `callback()` in `context`."""
    PyContext_Enter(context)
    try:
        return callback()
    finally:
        PyContext_Exit(context)


cdef int hold_socket(object sock) except -1:
    """Take over a socket object: its close() has no effect on the fd before `release_socket`."""
    sock._io_refs += 1
    return 0


cdef int release_socket(object sock) except? -1:
    """Give a socket object up; returns the fd, which is ours to close (-1: somebody has detached it meanwhile)."""
    sock._io_refs -= 1
    fd = sock.detach()
    sock.close()
    return fd


cdef bint lingers(int fd) noexcept:
    """Whether close() would wait for the peer, O_NONBLOCK or not: SO_LINGER has a time.  (0 s: it resets.)"""
    cdef linger option
    cdef socklen_t size = sizeof(option)
    option.l_onoff = 0
    return getsockopt(fd, SOL_SOCKET, SO_LINGER, &option, &size) == 0 and option.l_onoff and option.l_linger > 0


cdef void end_lingering(int fd) noexcept:
    """Have close() not wait, which would hold up the loop.  What was written is sent all the same."""
    cdef linger option
    if lingers(fd):
        option.l_onoff = option.l_linger = 0
        setsockopt(fd, SOL_SOCKET, SO_LINGER, &option, sizeof(option))


cdef class Layer:
    """A protocol of ours that changes the bytes on their way, called without Python in between: TLS."""

    cdef int feed(self, bytes data) except -1:
        """Data has been received.  Called in the stream's context."""
        return 0

    cdef int gather(self) except -1:
        """The stream is about to send: `enqueue` what has been written to the layer."""
        return 0

    cdef int progressed(self) except -1:
        """Something has been sent.  Bookkeeping only."""
        return 0

    cdef int settle(self) except -1:
        """The stream has run: call user code that became due."""
        return 0

    cdef int carrier_closing(self) except -1:
        """The stream is being closed: the last chance to `enqueue`."""
        return 0


cdef class Connection(Endpoint):
    """A connected socket and the protocol that it is for."""

    def __repr__(self):
        """In debug mode, slow deliveries are reported by it."""
        return f"{self.describe()} of {self.protocol!r}"

    cdef object shown(self):
        return self if self.protocol is None else self.protocol

    cdef int adopt_protocol(self, object protocol) except -1:
        self.protocol = protocol
        self.layer = <Layer> protocol if isinstance(protocol, Layer) else None
        self.unbound = False
        if self.layer is not None or isinstance(protocol, asyncio.BufferedProtocol):
            self.data_received = None
            return 0
        try:
            callback = protocol.data_received
        except AttributeError:
            # An error only when data comes: some only write.
            self.data_received = lambda data: protocol.data_received(data)
            return 0
        if type(callback) is MethodType and callback.__self__ is protocol:
            # The function is one for all connections, a bound method would be 64 bytes more for each.
            self.unbound = True
            callback = callback.__func__
        self.data_received = callback
        return 0

    cdef int close(self) except -1:
        """Stop reading, let what was written go out, then end."""
        return 0

    cdef int force_close(self, object error) except -1:
        """End now; what was not sent is dropped."""
        return 0

    cdef int fatal(self, object error, str message) except -1:
        """An error that ends the connection.  Those of the network itself are no news outside debug mode."""
        if isinstance(error, OSError):
            if self.turn._debug:
                logger.debug("%r: %s", self.facade, message, exc_info=error)
        else:
            self.complain(message, error)
        return self.force_close(error)

    cdef int complain(self, str message, object error) except -1:
        self.turn.call_exception_handler({
            "message": message, "exception": error, "transport": self.facade, "protocol": self.protocol})
        return 0

    cdef str describe(self):
        return f"<connection fd={self.fd}>"
