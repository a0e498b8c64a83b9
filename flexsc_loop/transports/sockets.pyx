# cython: language_level=3, cdivision=True
"""Floor 4: sockets that stay their caller's: the `sock_*` methods.

Owns: operations on fds that anybody may close.  Imports: addresses, readiness, page, operation, turn.

So that a fd can be closed and its number reused right after a cancel, every cancel here is `cancel_now`: when it
returns, the operation is over.  What a cancelled receive or accept has brought is not lost: it waits, on the same
socket, for the next one.
"""
import os
import socket as socket_module
import weakref
from asyncio import base_events, tasks

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.object cimport PyObject
from cpython.ref cimport Py_XDECREF
from libc.stdint cimport uint32_t
from libc.string cimport memcpy, memset
from posix.uio cimport iovec
from posix.unistd cimport close as close_fd

from flexsc_loop.syscalls.operation cimport Operation
from flexsc_loop.syscalls.page cimport (
    CALL_ACCEPT, CALL_POLL, CALL_RECV, CALL_RECVMSG, CALL_SEND, EAGAIN, EBADF, ECANCELED,
)
from flexsc_loop.syscalls.posix_socket cimport msghdr
from flexsc_loop.transports.addresses cimport ADDRESS_MOST, decode
from flexsc_loop.transports.readiness cimport ReadinessTurn
from flexsc_loop.turn.turn cimport Endpoint


cdef extern from "Python.h":
    int _PyBytes_Resize(PyObject** data, Py_ssize_t size) except -1
    PyObject* new_bytes "PyBytes_FromStringAndSize"(const char*, Py_ssize_t) except NULL

cdef extern from "<sys/socket.h>" nogil:
    enum:
        MSG_WAITALL
        MSG_NOSIGNAL
        SOCK_CLOEXEC
        SOCK_NONBLOCK

cdef extern from "<poll.h>" nogil:
    enum:
        POLLIN
        POLLOUT

cdef enum:
    SEND_MOST = 1 << 30
    RECEIVE_MOST = 1 << 30

cdef double RETRY_LEAST = 0.001
cdef double RETRY_MOST = 0.05
cdef tuple FAMILIES = (socket_module.AF_INET, socket_module.AF_INET6, socket_module.AF_UNIX)


# ---- sock_*

cdef class SocketCall(Operation):
    """One call that a coroutine waits for."""
    cdef SocketTurn turn
    cdef object future
    cdef object sock
    cdef int fd

    cdef int prepare(self) except -1:
        """Submit."""
        return 0

    cdef object result(self, int res):
        """What the caller gets for a result that is no error."""
        return None

    cdef object unseen(self, object result):
        """What of a result that nobody saw must not be lost; None if nothing."""
        return None

    cdef bint serve(self, object leftover) except -1:
        """Be served from what an earlier call has left.  Returns whether that was of use."""
        return False

    cdef bint consumes(self) noexcept:
        """Whether the call takes something off the socket that must not get lost."""
        return False

    cdef int complete(self, int res, uint32_t flags) except -1:
        gone = self.future.done()
        if (res == -EAGAIN or res == -ECANCELED) and not gone and not self.turn.page.closed:
            # No memory just now, or a page that is being replaced.
            return self.prepare()
        if self.consumes() and self.turn.consuming.get(self.fd) is self:
            del self.turn.consuming[self.fd]
        if res < 0:
            if not gone:
                self.future.set_exception(OSError(-res, os.strerror(-res)))
            return 0
        result = self.result(res)
        if gone:
            self.leave(result)
        else:
            self.future.set_result(result)
        return 0

    cdef int abandon(self) except -1:
        """The caller has gone.  When this returns, nothing of this call is under way any more."""
        if not self.future.done():
            self.future.cancel()
        if self.consumes() and self.turn.consuming.get(self.fd) is self:
            del self.turn.consuming[self.fd]
        if self.user_data != 0:
            self.turn.page.cancel_now(self)
        elif not self.future.cancelled() and self.future.exception() is None:
            # The result had come, but the caller never saw it.
            self.leave(self.future.result())
        return 0

    cdef int leave(self, object result) except -1:
        """Keep an unseen result for the next call on this socket."""
        cdef object leftover = self.unseen(result)
        if leftover is None:
            return 0
        owner, later = self.turn.leftovers.get(self.fd, (None, None))
        if owner is not None and owner() is self.sock:
            # An earlier leftover was served to this call in part: what it took goes back in front.
            leftover = leftover + later
        self.turn.leftovers[self.fd] = (weakref.ref(self.sock, self.turn.forget_socket(self.fd)), leftover)
        return 0


cdef class ReceiveCall(SocketCall):
    """sock_recv: into new bytes.  sock_recv_into: into the caller's buffer."""
    cdef PyObject* target
    cdef Py_ssize_t size
    cdef Py_buffer view
    cdef bint into
    cdef tuple served                # the datagram that an earlier call had left

    cdef char* destination(self) except NULL:
        """Where the data goes."""
        if self.into:
            return <char*> self.view.buf
        if self.target == NULL:
            self.target = new_bytes(NULL, self.size)
        return PyBytes_AS_STRING(<bytes> self.target)

    cdef int prepare(self) except -1:
        return self.turn.page.submit(self, CALL_RECV, self.fd, self.destination(),
                                     <uint32_t> min(self.size, <Py_ssize_t> RECEIVE_MOST), 0, 0, 0)

    cdef object result(self, int res):
        return res if self.into else self.received(res)

    cdef bytes received(self, int res):
        cdef bytes data
        if res != self.size:
            _PyBytes_Resize(&self.target, res)
        data = <bytes> self.target
        Py_XDECREF(self.target)
        self.target = NULL
        return data

    cdef object unseen(self, object result):
        """Bytes of a stream, or a tuple of whole datagrams, each with its address."""
        cdef bytes data
        if self.served is not None:
            # Whole, even if the caller wanted less of it.
            return (self.served,)
        received, address = self.parts(result)
        data = PyBytes_FromStringAndSize(<char*> self.view.buf, received) if self.into else received
        if self.sock.type == socket_module.SOCK_STREAM:
            return data or None
        return ((data, address),)

    cdef tuple parts(self, object result):
        """What was received, and the sender's address if that was asked for."""
        return result, None

    cdef object put_together(self, object received, object address):
        """The result that `parts` takes apart."""
        return received

    cdef bint serve(self, object leftover) except -1:
        if isinstance(leftover, tuple):
            self.served = (<tuple> leftover)[0]
            data, address = self.served
            self.hand_over(data, address)
            self.keep_rest((<tuple> leftover)[1:])
            return True
        if self.size == 0:
            return False
        self.keep_rest((<bytes> leftover)[self.hand_over(leftover, None):])
        return True

    cdef Py_ssize_t hand_over(self, bytes data, object address) except -1:
        """Give the caller what he wants of `data`; returns how much that was."""
        cdef Py_ssize_t count = min(len(data), self.size)
        if self.into:
            memcpy(self.view.buf, PyBytes_AS_STRING(data), count)
        self.future.set_result(self.put_together(count if self.into else data[:count], address))
        return count

    cdef int keep_rest(self, object rest) except -1:
        if rest:
            owner, _ = self.turn.leftovers[self.fd]
            self.turn.leftovers[self.fd] = (owner, rest)
        else:
            del self.turn.leftovers[self.fd]
        return 0

    cdef bint consumes(self) noexcept:
        return True

    def __dealloc__(self):
        Py_XDECREF(self.target)
        if <void*> self.view.obj != NULL:
            PyBuffer_Release(&self.view)


cdef class ReceiveFromCall(ReceiveCall):
    """sock_recvfrom and sock_recvfrom_into: with the sender's address."""
    cdef msghdr header
    cdef iovec payload
    cdef char[ADDRESS_MOST] name

    cdef int prepare(self) except -1:
        memset(&self.header, 0, sizeof(self.header))
        self.payload.iov_base = self.destination()
        self.payload.iov_len = self.size
        self.header.msg_iov = &self.payload
        self.header.msg_iovlen = 1
        self.header.msg_name = self.name
        self.header.msg_namelen = sizeof(self.name)
        return self.turn.page.submit(self, CALL_RECVMSG, self.fd, &self.header, 1, 0, 0, 0)

    cdef object result(self, int res):
        address = decode(self.name, min(self.header.msg_namelen, <unsigned int> sizeof(self.name)))
        return res if self.into else self.received(res), address

    cdef tuple parts(self, object result):
        return result

    cdef object put_together(self, object received, object address):
        return received, address


cdef class SendCall(SocketCall):
    """sock_sendall."""
    cdef Py_buffer view
    cdef Py_ssize_t done

    cdef int prepare(self) except -1:
        return self.turn.page.submit(self, CALL_SEND, self.fd, <char*> self.view.buf + self.done,
                                     <uint32_t> min(self.view.len - self.done, <Py_ssize_t> SEND_MOST), 0,
                                     MSG_WAITALL | MSG_NOSIGNAL, 0)

    cdef int complete(self, int res, uint32_t flags) except -1:
        if res > 0:
            self.done += res
            if self.done < self.view.len and not self.future.done() and not self.turn.page.closed:
                return self.prepare()
        return SocketCall.complete(self, res, flags)

    def __dealloc__(self):
        if <void*> self.view.obj != NULL:
            PyBuffer_Release(&self.view)


cdef class AcceptCall(SocketCall):
    """sock_accept."""

    cdef int prepare(self) except -1:
        return self.turn.page.submit(self, CALL_ACCEPT, self.fd, NULL, 0, 0, SOCK_NONBLOCK | SOCK_CLOEXEC, 0)

    cdef object result(self, int res):
        return res

    cdef object unseen(self, object result):
        return [result]

    cdef bint serve(self, object leftover) except -1:
        self.future.set_result(leftover.pop(0))
        if not leftover:
            del self.turn.leftovers[self.fd]
        return True

    cdef bint consumes(self) noexcept:
        return True


cdef class ReadyCall(SocketCall):
    """Waits until a socket is ready for something."""
    cdef uint32_t mask

    cdef int prepare(self) except -1:
        return self.turn.page.submit(self, CALL_POLL, self.fd, NULL, 0, 0, self.mask, 0)

    cdef object result(self, int res):
        return res


cdef class Submissions(Endpoint):
    """Calls that are submitted at the end of the turn.

    Not before: whoever closes the socket until then must not have the call hit the next socket with this fd.
    """
    cdef list calls

    cdef int flush(self) except -1:
        cdef SocketCall call
        calls, self.calls = self.calls, []
        for call in calls:
            if call.future.done():
                continue
            if call.sock.fileno() == call.fd:
                call.prepare()
            else:
                call.future.set_exception(OSError(EBADF, "the socket was closed while a call waited on it"))
        return 0


cdef class SocketTurn(ReadinessTurn):
    """The turn, with calls on sockets that the caller owns."""
    cdef dict consuming              # fd -> the latest receive or accept under way
    cdef Submissions submissions
    cdef dict leftovers              # fd -> weak reference to the socket, what came for a caller that had gone

    def __cinit__(self, *args, **kwargs):
        self.consuming = {}
        self.submissions = Submissions.__new__(Submissions)
        self.submissions.turn = self
        self.submissions.calls = []
        self.leftovers = {}

    def _forget_sockets(self):
        """The loop is closing: let go of all callbacks."""
        self.forget_watches()
        self.submissions.turn = None
        for fd in list(self.leftovers):
            self.drop_leftover(fd)

    def _take_leftover(self, sock):
        """What a cancelled `sock_recv` has left, for whoever takes over the socket; None if there are none."""
        owner, leftover = self.leftovers.get(sock.fileno(), (None, None))
        if owner is None or owner() is not sock or not isinstance(leftover, bytes):
            return None
        del self.leftovers[sock.fileno()]
        return leftover

    cdef int drop_leftover(self, int fd) except -1:
        """Nobody will ever ask for it."""
        _, leftover = self.leftovers.pop(fd)
        if isinstance(leftover, list):
            for accepted in leftover:
                close_fd(accepted)
        return 0

    cdef object forget_socket(self, int fd):
        """What to do when a socket with leftovers is gone."""
        def forget(reference):
            owner, _ = self.leftovers.get(fd, (None, None))
            if owner is reference:
                self.drop_leftover(fd)
        return forget

    cdef int check_socket(self, object sock) except -1:
        base_events._check_ssl_socket(sock)
        if self._debug and sock.gettimeout() != 0:
            raise ValueError("the socket must be non-blocking")
        if self._closed:
            self._check_closed()
        return 0

    cdef int ready_call(self, SocketCall call, object sock) except -1:
        call.turn = self
        call.sock = sock
        call.fd = sock.fileno()
        if call.fd < 0:
            raise OSError(EBADF, os.strerror(EBADF))
        if call.fd in self.owned:
            self._ensure_fd_no_transport(call.fd)
        call.future = self.create_future()
        return 0

    cdef int begin(self, SocketCall call) except -1:
        """Submit, or be served from what a call that was cancelled on the same socket has left."""
        cdef SocketCall earlier
        if self.leftovers and call.fd in self.leftovers:
            owner, leftover = self.leftovers[call.fd]
            if owner() is not call.sock:
                self.drop_leftover(call.fd)
            elif call.serve(leftover):
                return 0
        if call.consumes():
            earlier = self.consuming.get(call.fd)
            if earlier is not None and earlier.sock is not call.sock:
                # That socket was closed without a word, and its fd is another socket's now.
                if not earlier.future.done():
                    earlier.future.set_exception(OSError(EBADF, "the socket was closed while a call waited on it"))
                self.page.cancel_now(earlier)
            self.consuming[call.fd] = call
        self.submissions.calls.append(call)
        return self.submissions.wants_flush()

    # With a syscall thread, an entry may lie untaken while its socket is closed and the fd is reused, so only waiting
    # goes through the page there, and what changes the socket is called from here.

    async def sock_recv(self, sock, n):
        """Up to `n` bytes; b'' at the end of the stream.  Source: asyncio.loop.sock_recv."""
        cdef ReceiveCall call
        self.check_socket(sock)
        if n < 0:
            raise ValueError("negative buffersize in recv")
        if self.page.eager:
            while True:
                self.page.direct_calls += 1
                try:
                    return sock.recv(n)
                except (BlockingIOError, InterruptedError):
                    await self._sock_ready(sock, POLLIN)
        call = ReceiveCall.__new__(ReceiveCall)
        self.ready_call(call, sock)
        call.size = n
        call.retractable = True
        self.begin(call)
        try:
            return await call.future
        except BaseException:
            call.abandon()
            raise

    async def sock_recv_into(self, sock, buf):
        """Receive into `buf`; returns how many bytes.  Source: asyncio.loop.sock_recv_into."""
        cdef ReceiveCall call
        self.check_socket(sock)
        if self.page.eager:
            while True:
                self.page.direct_calls += 1
                try:
                    return sock.recv_into(buf)
                except (BlockingIOError, InterruptedError):
                    await self._sock_ready(sock, POLLIN)
        call = ReceiveCall.__new__(ReceiveCall)
        self.ready_call(call, sock)
        PyObject_GetBuffer(buf, &call.view, PyBUF_WRITABLE)
        call.into = True
        call.size = call.view.len
        call.retractable = True
        self.begin(call)
        try:
            return await call.future
        except BaseException:
            call.abandon()
            raise

    async def sock_recvfrom(self, sock, bufsize):
        """A datagram of up to `bufsize` bytes, and who sent it.  Source: asyncio.loop.sock_recvfrom."""
        cdef ReceiveFromCall call
        self.check_socket(sock)
        if bufsize < 0:
            raise ValueError("negative buffersize in recvfrom")
        if self.page.eager or sock.family not in FAMILIES:
            while True:
                self.page.direct_calls += 1
                try:
                    return sock.recvfrom(bufsize)
                except (BlockingIOError, InterruptedError):
                    await self._sock_ready(sock, POLLIN)
        call = ReceiveFromCall.__new__(ReceiveFromCall)
        self.ready_call(call, sock)
        call.size = bufsize
        call.retractable = True
        self.begin(call)
        try:
            return await call.future
        except BaseException:
            call.abandon()
            raise

    async def sock_recvfrom_into(self, sock, buf, nbytes=0):
        """Receive a datagram into `buf`; returns its size and who sent it.  Source: asyncio.loop.sock_recvfrom_into."""
        cdef ReceiveFromCall call
        self.check_socket(sock)
        if nbytes < 0:
            raise ValueError("negative buffersize in recvfrom_into")
        if self.page.eager or sock.family not in FAMILIES:
            while True:
                self.page.direct_calls += 1
                try:
                    return sock.recvfrom_into(buf, nbytes)
                except (BlockingIOError, InterruptedError):
                    await self._sock_ready(sock, POLLIN)
        call = ReceiveFromCall.__new__(ReceiveFromCall)
        self.ready_call(call, sock)
        PyObject_GetBuffer(buf, &call.view, PyBUF_WRITABLE)
        if nbytes > call.view.len:
            raise ValueError("nbytes is greater than the length of the buffer")
        call.into = True
        call.size = nbytes or call.view.len
        call.retractable = True
        self.begin(call)
        try:
            return await call.future
        except BaseException:
            call.abandon()
            raise

    async def sock_sendto(self, sock, data, address):
        """Send a datagram to `address`; returns its size.  Source: asyncio.loop.sock_sendto.

        Called at once: it hardly ever has to wait, and to suspend the task would cost more than the call.
        """
        cdef double delay = 0
        self.check_socket(sock)
        while True:
            self.page.direct_calls += 1
            try:
                return sock.sendto(data, address)
            except (BlockingIOError, InterruptedError):
                pass
            if delay:
                # A Unix socket is writable even while the receiver's queue is full; nothing tells when it is not.
                await tasks.sleep(delay)
            delay = min(2 * delay, RETRY_MOST) if delay else RETRY_LEAST
            await self._sock_ready(sock, POLLOUT)

    async def sock_sendall(self, sock, data):
        """Send all of `data`.  After a cancel nobody knows how much was sent.  Source: asyncio.loop.sock_sendall."""
        cdef SendCall call
        self.check_socket(sock)
        if self.page.eager:
            return await self._send_directly(sock, data)
        call = SendCall.__new__(SendCall)
        self.ready_call(call, sock)
        PyObject_GetBuffer(data, &call.view, PyBUF_SIMPLE)
        if call.view.len == 0:
            return None
        self.begin(call)
        try:
            return await call.future
        except BaseException:
            call.abandon()
            raise

    async def _send_directly(self, sock, data):
        view = memoryview(data).cast("B")
        while view:
            self.page.direct_calls += 1
            try:
                view = view[sock.send(view):]
            except (BlockingIOError, InterruptedError):
                await self._sock_ready(sock, POLLOUT)

    async def sock_accept(self, sock):
        """A new connection: (socket, address).  Source: asyncio.loop.sock_accept."""
        cdef AcceptCall call
        self.check_socket(sock)
        if self.page.eager:
            while True:
                self.page.direct_calls += 1
                try:
                    conn, address = sock.accept()
                except (BlockingIOError, InterruptedError):
                    await self._sock_ready(sock, POLLIN)
                else:
                    conn.setblocking(False)
                    return conn, address
        call = AcceptCall.__new__(AcceptCall)
        self.ready_call(call, sock)
        call.retractable = True
        self.begin(call)
        try:
            fd = await call.future
        except BaseException:
            call.abandon()
            raise
        conn = socket_module.socket(sock.family, sock.type, sock.proto, fileno=fd)
        conn.setblocking(False)
        try:
            return conn, conn.getpeername()
        except OSError:
            # The peer has gone already; its reader will see that.
            return conn, None

    async def sock_connect(self, sock, address):
        """Connect `sock`; a host name is looked up first.  Source: asyncio.loop.sock_connect."""
        self.check_socket(sock)
        if sock.family in (socket_module.AF_INET, socket_module.AF_INET6):
            resolved = await self._ensure_resolved(
                address, family=sock.family, type=sock.type, proto=sock.proto, loop=self)
            address = resolved[0][4]
        self.page.direct_calls += 1
        try:
            sock.connect(address)
            return None
        except (BlockingIOError, InterruptedError):
            pass
        await self._sock_ready(sock, POLLOUT)
        self.page.direct_calls += 1
        error = sock.getsockopt(socket_module.SOL_SOCKET, socket_module.SO_ERROR)
        if error != 0:
            raise OSError(error, f"Connect call failed {address}")

    async def _sock_ready(self, sock, mask):
        """Wait until `sock` is ready for `mask` (POLLIN, POLLOUT)."""
        cdef ReadyCall call = ReadyCall.__new__(ReadyCall)
        self.ready_call(call, sock)
        call.mask = mask
        call.retractable = True
        self.begin(call)
        try:
            return await call.future
        except BaseException:
            call.abandon()
            raise
