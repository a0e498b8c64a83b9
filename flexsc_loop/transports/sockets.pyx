# cython: language_level=3, cdivision=True
"""Floor 4: sockets that stay their caller's: the `sock_*` methods.

Owns: a buffer, and which sockets' data the kernel holds back.  Imports: addresses, readiness, interest, page, turn.

A call is made at once, as in asyncio, and made again by the coroutine itself when the socket is ready.  So nothing has
left the kernel for a call that is cancelled, and whoever reads next finds it there.  Sockets of any other class than
Python's own are called by their methods.

What makes that as fast as a batch, for a server that is busy:

- In a turn that sends much, the kernel holds back what TCP sockets are given until the turn ends (MSG_MORE).  It has
  it, and sends it whatever becomes of the socket or the process; but peers are woken together, which was measured at a
  sixth of all CPU time.
- Where peers have lately answered within a turn, a socket that has just been emptied is tried again in the next turn
  before anybody waits for it.
"""
import _socket
import os
import socket as socket_module
from asyncio import base_events, tasks

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE, _PyBytes_Resize
from cpython.object cimport PyObject
from cpython.ref cimport Py_XDECREF
from libc.errno cimport errno
from libc.stdint cimport uint32_t, uint64_t

from flexsc_loop.syscalls.cpython_extra cimport new_bytes
from flexsc_loop.syscalls.interest cimport EPOLLIN, EPOLLOUT
from flexsc_loop.syscalls.page cimport EAGAIN, EINTR
from flexsc_loop.syscalls.posix_socket cimport (
    AF_UNIX, MSG_DONTWAIT, MSG_MORE, MSG_NOSIGNAL, getsockopt, recvfrom, send, setsockopt, sockaddr, socklen_t,
)
from flexsc_loop.syscalls.stats cimport stats_received, stats_sent
from flexsc_loop.transports.addresses cimport ADDRESS_MOST, decode
from flexsc_loop.transports.readiness cimport ReadinessTurn, Wait, next_turn, wait_until
from flexsc_loop.turn.turn cimport Endpoint


cdef extern from "<netinet/tcp.h>" nogil:
    enum:
        IPPROTO_TCP "6"
        TCP_CORK
        TCP_ULP

cdef enum:
    COPY_UP_TO = 4096            # so little is copied out of the buffer, which is then used again
    KEEP_UP_TO = 256 * 1024      # the largest buffer that is kept
    AT_ONCE = 2                  # sends of a turn that wake their peers at once
    HELD_MOST = 64               # sends of a turn that wait for its end
    TRY_EVERY = 32               # of the waits, to see whether peers answer within a turn
    CREDIT_MOST = 16             # what is believed of them: 1 more with each one that did,
    CREDIT_LOST = 2              # and so much less with one that did not

cdef double RETRY_LEAST = 0.001
cdef double RETRY_MOST = 0.05
cdef object Socket = socket_module.socket
cdef object family_of = _socket.socket.family.__get__  # without making an enum's member of it
cdef tuple FAMILIES = (socket_module.AF_INET, socket_module.AF_INET6, socket_module.AF_UNIX)


cdef object attempt(object method, tuple args):
    """What `method(*args)` returns, None if it would have to wait."""
    try:
        return method(*args)
    except (BlockingIOError, InterruptedError):
        return None


cdef int failed(int error) except -1:
    """Raise what `error` means, unless it is that there is nothing to be had just now."""
    if error != EAGAIN:
        raise OSError(error, os.strerror(error))
    return 0


cdef bint can_be_held(int fd) noexcept:
    """Whether it is TCP with nothing (such as the kernel's TLS) between it and us, so that uncorking sends all."""
    cdef char[16] layer
    cdef socklen_t size = sizeof(layer)
    return getsockopt(fd, IPPROTO_TCP, TCP_ULP, layer, &size) == 0 and size == 0


cdef class Held(Endpoint):
    """TCP sockets whose data the kernel holds back until the turn ends."""
    cdef list sockets

    cdef int flush(self) except -1:
        cdef int off = 0, fd
        sockets, self.sockets = self.sockets, []
        for sock in sockets:
            fd = sock.fileno()
            if fd >= 0:
                self.turn.page.direct_calls += 1
                setsockopt(fd, IPPROTO_TCP, TCP_CORK, &off, sizeof(off))
        return 0


cdef class SocketTurn(ReadinessTurn):
    """The turn, with calls on sockets that the caller owns."""
    cdef Held held
    cdef unsigned int credit         # not 0: peers answer within a turn
    cdef unsigned int waits          # for something to read, so far
    cdef int emptied                 # the fd that was read last, if that has emptied it
    cdef uint64_t emptied_in         # in which turn
    cdef PyObject* spare             # a bytes object that the last receive has not used up, or NULL
    cdef char[ADDRESS_MOST] name     # the sender's address of the last receive
    cdef socklen_t name_size

    def __cinit__(self, *args, **kwargs):
        self.held = Held.__new__(Held)
        self.held.turn = self
        self.held.sockets = []

    def __dealloc__(self):
        Py_XDECREF(self.spare)

    def _forget_sockets(self):
        """The loop is closing, or another process's: let go of all callbacks."""
        self.forget_watches()
        self.held.turn = None

    cdef int check_socket(self, object sock) except -1:
        base_events._check_ssl_socket(sock)
        if self._debug and sock.gettimeout() != 0:
            raise ValueError("the socket must be non-blocking")
        if self._closed:
            self._check_closed()
        return 0

    cdef Wait wait(self, object sock, uint32_t mask, Wait earlier):
        """See `wait_until`.  Raises RuntimeError if a transport owns the socket."""
        if earlier is not None and earlier.fd == sock.fileno():
            return wait_until(self, earlier.fd, mask, earlier)
        return wait_until(self, self.fd_of(sock, True), mask, None)

    # ---- receiving

    cdef Wait until_readable(self, object sock, Wait earlier):
        """The next wait of a call that has found nothing, to be awaited.  earlier: the one before."""
        if earlier is None:
            self.waits += 1
            if self.credit or self.waits % TRY_EVERY == 0:
                return next_turn(self)
        elif earlier.future is None:
            self.credit -= min(self.credit, <unsigned int> CREDIT_LOST)
            earlier = None
        return self.wait(sock, EPOLLIN, earlier)

    cdef int read_after(self, Wait wait) except -1:
        """The call has found something, after its last `wait`."""
        if wait is not None and wait.future is None and self.credit < CREDIT_MOST:
            self.credit += 1
        return 0

    cdef Py_ssize_t receive(self, object sock, void* into, Py_ssize_t size) except? -1:
        """Receive once.  Returns how much, -1 if there is nothing; the sender is in `name`."""
        cdef int fd = sock.fileno()
        cdef Py_ssize_t count
        if self.credit and fd == self.emptied and self.turns == self.emptied_in:
            self.emptied = -1
            return -1
        while True:
            self.name_size = sizeof(self.name)
            self.page.direct_calls += 1
            count = recvfrom(fd, into, size, MSG_DONTWAIT, <sockaddr*> self.name, &self.name_size)
            if count >= 0 or errno != EINTR:
                break
        if count < 0:
            failed(errno)
        stats_received(&self.stats, count)
        self.emptied = fd if 0 < count < size else -1
        self.emptied_in = self.turns
        return count

    cdef Py_ssize_t receive_into(self, object sock, object buffer, Py_ssize_t size) except? -1:
        """Receive up to `size` bytes into a buffer; 0: as many as it takes, -1: the same, and none if that is none."""
        cdef Py_buffer view
        try:
            PyObject_GetBuffer(buffer, &view, PyBUF_WRITABLE)
        except BufferError as error:
            # As a socket's own method has it for what can't be written to.
            raise TypeError(f"a read-write bytes-like object is required, not {type(buffer).__name__!r}") from error
        try:
            if size > view.len:
                raise ValueError("nbytes is greater than the length of the buffer")
            if size < 0 and view.len == 0:
                return 0
            return self.receive(sock, view.buf, size if size > 0 else view.len)
        finally:
            PyBuffer_Release(&view)

    cdef bytes receive_bytes(self, object sock, Py_ssize_t size):
        """Receive up to `size` bytes; None if there are none."""
        cdef PyObject* buffer = self.spare
        cdef Py_ssize_t count
        self.spare = NULL
        if buffer != NULL and PyBytes_GET_SIZE(<bytes> buffer) != size:
            Py_XDECREF(buffer)
            buffer = NULL
        if buffer == NULL:
            buffer = new_bytes(NULL, size)
        try:
            count = self.receive(sock, PyBytes_AS_STRING(<bytes> buffer), size)
            if count > COPY_UP_TO:
                if count != size:
                    _PyBytes_Resize(&buffer, count)
                return <bytes> buffer
            data = None if count < 0 else PyBytes_FromStringAndSize(PyBytes_AS_STRING(<bytes> buffer), count)
            if 0 < size <= KEEP_UP_TO:
                self.spare = buffer
                buffer = NULL
            return data
        finally:
            Py_XDECREF(buffer)

    cdef object sender(self):
        return decode(self.name, min(self.name_size, <socklen_t> sizeof(self.name)))

    # The four: what the method of the socket would return, None if there is nothing.

    cdef object take(self, object sock, object size):
        if type(sock) is not Socket:
            return attempt(sock.recv, (size,))
        if size < 0:
            raise ValueError("negative buffersize in recv")
        return self.receive_bytes(sock, size) if size else b""

    cdef object take_into(self, object sock, object buffer):
        cdef Py_ssize_t count
        if type(sock) is not Socket:
            return attempt(sock.recv_into, (buffer,))
        count = self.receive_into(sock, buffer, -1)
        return None if count < 0 else count

    cdef object take_from(self, object sock, object size):
        if type(sock) is not Socket or family_of(sock) not in FAMILIES:
            return attempt(sock.recvfrom, (size,))
        if size < 0:
            raise ValueError("negative buffersize in recvfrom")
        data = self.receive_bytes(sock, size)
        return None if data is None else (data, self.sender())

    cdef object take_from_into(self, object sock, object buffer, object size):
        cdef Py_ssize_t count
        if type(sock) is not Socket or family_of(sock) not in FAMILIES:
            return attempt(sock.recvfrom_into, (buffer, size))
        if size < 0:
            raise ValueError("negative buffersize in recvfrom_into")
        count = self.receive_into(sock, buffer, size)
        return None if count < 0 else (count, self.sender())

    async def sock_recv(self, sock, n):
        """Up to `n` bytes; b'' at the end of the stream.  Source: asyncio.loop.sock_recv."""
        cdef Wait wait = None
        self.check_socket(sock)
        while (data := self.take(sock, n)) is None:
            wait = self.until_readable(sock, wait)
            await wait
        self.read_after(wait)
        return data

    async def sock_recv_into(self, sock, buf):
        """Receive into `buf`; returns how many bytes.  Source: asyncio.loop.sock_recv_into."""
        cdef Wait wait = None
        self.check_socket(sock)
        while (count := self.take_into(sock, buf)) is None:
            wait = self.until_readable(sock, wait)
            await wait
        self.read_after(wait)
        return count

    async def sock_recvfrom(self, sock, bufsize):
        """A datagram of up to `bufsize` bytes, and who sent it.  Source: asyncio.loop.sock_recvfrom."""
        cdef Wait wait = None
        self.check_socket(sock)
        while (received := self.take_from(sock, bufsize)) is None:
            wait = self.until_readable(sock, wait)
            await wait
        self.read_after(wait)
        return received

    async def sock_recvfrom_into(self, sock, buf, nbytes=0):
        """Receive a datagram into `buf`; returns its size and who sent it.  Source: asyncio.loop.sock_recvfrom_into."""
        cdef Wait wait = None
        self.check_socket(sock)
        while (received := self.take_from_into(sock, buf, nbytes)) is None:
            wait = self.until_readable(sock, wait)
            await wait
        self.read_after(wait)
        return received

    # ---- sending

    cdef int hold(self, object sock, int fd) except -1:
        """MSG_MORE if what is to be sent may wait for the end of the turn, because that sends much, else 0."""
        if self.prompt < AT_ONCE:
            self.prompt += 1
            return 0
        if self.page.eager or not self.inside or self.sends_at_once(False) or family_of(sock) == AF_UNIX:
            return 0
        self.page.direct_calls += 1
        if not can_be_held(fd):
            return 0
        self.held.sockets.append(sock)
        if len(self.held.sockets) >= HELD_MOST:
            self.held.flush()
            return 0
        self.held.wants_flush()
        return MSG_MORE

    cdef Py_ssize_t send_once(self, object sock, object data, Py_ssize_t left) except -1:
        """Send once: the last `left` bytes of `data`, -1: all.  Returns how many are still to be sent."""
        cdef Py_buffer view
        cdef Py_ssize_t count
        cdef int fd, flags
        if type(sock) is not Socket:
            return self.send_by_method(sock, data, left)
        fd = sock.fileno()
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        flags = MSG_DONTWAIT | MSG_NOSIGNAL | self.hold(sock, fd)
        try:
            if left < 0:
                left = view.len
            while True:
                self.page.direct_calls += 1
                count = send(fd, <char*> view.buf + view.len - left, left, flags)
                if count >= 0 or errno != EINTR:
                    break
            if count < 0:
                failed(errno)
                return left
            stats_sent(&self.stats, count)
            return left - count
        finally:
            PyBuffer_Release(&view)

    cdef Py_ssize_t send_by_method(self, object sock, object data, Py_ssize_t left) except -1:
        cdef Py_ssize_t size = memoryview(data).nbytes
        cdef Py_ssize_t count
        if left < 0:
            left = size
        count = attempt(sock.send, (data if left == size else data[size - left:],)) or 0
        stats_sent(&self.stats, count)
        return left - count

    async def sock_sendall(self, sock, data):
        """Send all of `data`.  After a cancel nobody knows how much was sent.  Source: asyncio.loop.sock_sendall."""
        cdef Wait wait = None
        cdef Py_ssize_t left, before
        self.check_socket(sock)
        left = self.send_once(sock, data, -1)
        if left == 0:
            return
        # What is exported keeps its size.
        data = memoryview(data).cast("B")
        while left:
            wait = self.wait(sock, EPOLLOUT, wait)
            await wait
            before = left
            left = self.send_once(sock, data, left)
            if left < before:
                wait = None

    async def sock_sendto(self, sock, data, address):
        """Send a datagram to `address`; returns its size.  Source: asyncio.loop.sock_sendto."""
        cdef Wait wait = None
        cdef double delay = 0
        self.check_socket(sock)
        while True:
            self.page.direct_calls += 1
            sent = attempt(sock.sendto, (data, address))
            if sent is not None:
                stats_sent(&self.stats, sent)
                return sent
            if delay:
                # A Unix socket is writable even while the receiver's queue is full; nothing tells when it is not.
                await tasks.sleep(delay)
            delay = min(2 * delay, RETRY_MOST) if delay else RETRY_LEAST
            wait = self.wait(sock, EPOLLOUT, None)
            await wait

    # ---- connections

    async def sock_accept(self, sock):
        """A new connection: (socket, address).  Source: asyncio.loop.sock_accept."""
        cdef Wait wait = None
        self.check_socket(sock)
        while True:
            self.page.direct_calls += 1
            accepted = attempt(sock.accept, ())
            if accepted is not None:
                accepted[0].setblocking(False)
                return accepted
            wait = self.wait(sock, EPOLLIN, wait)
            await wait

    async def sock_connect(self, sock, address):
        """Connect `sock`; a host name is looked up first.  Source: asyncio.loop.sock_connect."""
        cdef Wait wait
        self.check_socket(sock)
        if sock.family in (socket_module.AF_INET, socket_module.AF_INET6):
            resolved = await self._ensure_resolved(
                address, family=sock.family, type=sock.type, proto=sock.proto, loop=self)
            address = resolved[0][4]
        self.page.direct_calls += 1
        try:
            sock.connect(address)
            return
        except (BlockingIOError, InterruptedError):
            wait = self.wait(sock, EPOLLOUT, None)
        await wait
        self.page.direct_calls += 1
        error = sock.getsockopt(socket_module.SOL_SOCKET, socket_module.SO_ERROR)
        if error != 0:
            raise OSError(error, f"Connect call failed {address}")
