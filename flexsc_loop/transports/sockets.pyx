# cython: language_level=3, cdivision=True
"""Floor 4: sockets that stay their caller's: the `sock_*` methods.

Owns: nothing but a buffer.  Imports: addresses, readiness, interest, page, turn.

A call is made at once, as in asyncio, and made again by the coroutine itself when the socket is ready.  So nothing has
left the kernel for a call that is cancelled, and whoever reads next finds it there.  Sockets of any other class than
Python's own are called by their methods.
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
from libc.stdint cimport uint32_t

from flexsc_loop.syscalls.cpython_extra cimport new_bytes
from flexsc_loop.syscalls.interest cimport EPOLLIN, EPOLLOUT
from flexsc_loop.syscalls.page cimport EAGAIN, EINTR
from flexsc_loop.syscalls.posix_socket cimport (
    MSG_DONTWAIT, MSG_NOSIGNAL, recvfrom, send, sockaddr, socklen_t,
)
from flexsc_loop.transports.addresses cimport ADDRESS_MOST, decode
from flexsc_loop.transports.readiness cimport ReadinessTurn, Wait, wait_until


cdef enum:
    COPY_UP_TO = 4096            # so little is copied out of the buffer, which is then used again
    KEEP_UP_TO = 256 * 1024      # the largest buffer that is kept

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


cdef class SocketTurn(ReadinessTurn):
    """The turn, with calls on sockets that the caller owns."""
    cdef PyObject* spare             # a bytes object that the last receive has not used up, or NULL
    cdef char[ADDRESS_MOST] name     # the sender's address of the last receive
    cdef socklen_t name_size

    def __dealloc__(self):
        Py_XDECREF(self.spare)

    def _forget_sockets(self):
        """The loop is closing, or another process's: let go of all callbacks."""
        self.forget_watches()

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

    cdef Py_ssize_t receive(self, object sock, void* into, Py_ssize_t size) except? -1:
        """Receive once.  Returns how much, -1 if there is nothing; the sender is in `name`."""
        cdef int fd = sock.fileno()
        cdef Py_ssize_t count
        while True:
            self.name_size = sizeof(self.name)
            self.page.direct_calls += 1
            count = recvfrom(fd, into, size, MSG_DONTWAIT, <sockaddr*> self.name, &self.name_size)
            if count >= 0 or errno != EINTR:
                break
        if count < 0:
            failed(errno)
        return count

    cdef Py_ssize_t receive_into(self, object sock, object buffer, Py_ssize_t size) except? -1:
        """Receive up to `size` bytes into a buffer, 0: as many as it takes."""
        cdef Py_buffer view
        PyObject_GetBuffer(buffer, &view, PyBUF_WRITABLE)
        try:
            if size > view.len:
                raise ValueError("nbytes is greater than the length of the buffer")
            return self.receive(sock, view.buf, size or view.len)
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
        count = self.receive_into(sock, buffer, 0)
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
            wait = self.wait(sock, EPOLLIN, wait)
            await wait
        return data

    async def sock_recv_into(self, sock, buf):
        """Receive into `buf`; returns how many bytes.  Source: asyncio.loop.sock_recv_into."""
        cdef Wait wait = None
        self.check_socket(sock)
        while (count := self.take_into(sock, buf)) is None:
            wait = self.wait(sock, EPOLLIN, wait)
            await wait
        return count

    async def sock_recvfrom(self, sock, bufsize):
        """A datagram of up to `bufsize` bytes, and who sent it.  Source: asyncio.loop.sock_recvfrom."""
        cdef Wait wait = None
        self.check_socket(sock)
        while (received := self.take_from(sock, bufsize)) is None:
            wait = self.wait(sock, EPOLLIN, wait)
            await wait
        return received

    async def sock_recvfrom_into(self, sock, buf, nbytes=0):
        """Receive a datagram into `buf`; returns its size and who sent it.  Source: asyncio.loop.sock_recvfrom_into."""
        cdef Wait wait = None
        self.check_socket(sock)
        while (received := self.take_from_into(sock, buf, nbytes)) is None:
            wait = self.wait(sock, EPOLLIN, wait)
            await wait
        return received

    # ---- sending

    cdef Py_ssize_t send_once(self, object sock, object data, Py_ssize_t left) except -1:
        """Send once: the last `left` bytes of `data`, -1: all.  Returns how many are still to be sent."""
        cdef Py_buffer view
        cdef Py_ssize_t count
        cdef int fd
        if type(sock) is not Socket:
            return self.send_by_method(sock, data, left)
        fd = sock.fileno()
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            if left < 0:
                left = view.len
            while True:
                self.page.direct_calls += 1
                count = send(fd, <char*> view.buf + view.len - left, left, MSG_DONTWAIT | MSG_NOSIGNAL)
                if count >= 0 or errno != EINTR:
                    break
            if count < 0:
                failed(errno)
                return left
            return left - count
        finally:
            PyBuffer_Release(&view)

    cdef Py_ssize_t send_by_method(self, object sock, object data, Py_ssize_t left) except -1:
        cdef Py_ssize_t size = memoryview(data).nbytes
        if left < 0:
            return size - (attempt(sock.send, (data,)) or 0)
        return left - (attempt(sock.send, (data[size - left:],)) or 0)

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
