# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Floor 4: sockets that stay their caller's: `add_reader`, `add_writer` and the `sock_*` methods.

Owns: operations on fds that anybody may close.  Imports: page, operation, turn.

So that a fd can be closed and its number reused right after a cancel, every cancel here is `cancel_now`.  What a
cancelled receive or accept has already brought is not lost: it waits, on the same socket, for the next one.
"""
import asyncio
import os
import socket as socket_module
import stat
import weakref
from asyncio import base_events

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.object cimport PyObject
from cpython.ref cimport Py_XDECREF
from libc.stdint cimport uint32_t
from libc.string cimport memcpy
from posix.unistd cimport close as close_fd

from flexsc_loop.syscalls.operation cimport Operation
from flexsc_loop.syscalls.page cimport (
    CALL_ACCEPT, CALL_POLL, CALL_RECV, CALL_SEND, EAGAIN, ECANCELED, ENTRY_POLL_FIRST,
)
from flexsc_loop.turn.turn cimport Endpoint, Handle, Turn


cdef extern from "Python.h":
    int _PyBytes_Resize(PyObject** data, Py_ssize_t size) except -1
    PyObject* new_bytes "PyBytes_FromStringAndSize"(const char*, Py_ssize_t) except NULL
    object PyContext_CopyCurrent()

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
        POLLPRI
        POLLRDHUP

cdef enum:
    SEND_MOST = 1 << 30


# ---- add_reader, add_writer

cdef class Poll(Operation):
    """Waits once until a fd is ready; armed again after each call of the callback, which makes it level-triggered."""
    cdef Watch watch

    cdef int prepare(self) except -1:
        cdef Watch watch = self.watch
        return watch.turn.page.submit(self, CALL_POLL, watch.fd, NULL, 0, 0, watch.mask, 0)

    cdef int complete(self, int res, uint32_t flags) except -1:
        if self.watch is None:
            return 0
        return self.watch.ready(res)


cdef class Watch(Endpoint):
    """One callback for one direction of one fd."""
    cdef int fd
    cdef uint32_t mask
    cdef Handle handle
    cdef Poll poll
    cdef bint lost                   # the fd can't be polled any more

    cdef int ready(self, int res) except -1:
        """The poll's completion.  Bookkeeping only."""
        if res == -ECANCELED:
            # Whoever cancels detaches the poll first, so this is a page that is being replaced.
            return 0 if self.turn.page.closed else self.poll.prepare()
        self.lost = res < 0
        return self.wake_up()

    cdef int run(self, Turn turn) except -1:
        cdef Handle handle = self.handle
        self.queued = False
        if handle is None:
            return 0
        handle.run(turn)
        if self.handle is not None and not self.lost and self.poll.user_data == 0:
            self.poll.prepare()
        return 0

    cdef int arm(self) except -1:
        self.poll = Poll.__new__(Poll)
        self.poll.watch = self
        self.poll.retractable = True
        return self.poll.prepare()

    cdef int disarm(self) except -1:
        poll, self.poll = self.poll, None
        self.handle.drop()
        self.handle = None
        (<Poll> poll).watch = None
        return self.turn.page.cancel_now(poll)


cdef Watch watch_fd(Turn turn, int fd, uint32_t mask, Handle handle):
    cdef Watch watch = Watch.__new__(Watch)
    watch.turn = turn
    watch.fd = fd
    watch.mask = mask
    watch.handle = handle
    watch.arm()
    return watch


# ---- sock_*

cdef class SocketCall(Operation):
    """One call that a coroutine waits for."""
    cdef SocketTurn turn
    cdef object future
    cdef object sock
    cdef int fd
    cdef list successors             # calls on the same socket that have to wait for our leftovers
    cdef object leftover             # what came after the caller had gone

    cdef int prepare(self) except -1:
        """Submit."""
        return 0

    cdef object finish(self, int res):
        """The result for the caller, or an exception."""
        return None

    cdef object left(self, int res):
        """What must not be lost if the caller has gone; None if nothing."""
        return None

    cdef bint take(self, SocketCall earlier) except -1:
        """Be served from what an earlier call has left.  False if it cannot be."""
        return False

    cdef int discard(self) except -1:
        """Nobody will ever ask for the leftover."""
        return 0

    cdef int complete(self, int res, uint32_t flags) except -1:
        if (res == -EAGAIN or res == -ECANCELED) and not self.future.done() and not self.turn.page.closed:
            # No memory just now, or a page that is being replaced.
            return self.prepare()
        if not self.future.done():
            result = self.finish(res)
            if isinstance(result, OSError):
                self.future.set_exception(result)
            else:
                self.future.set_result(result)
            return 0
        self.leftover = self.left(res)
        return self.pass_on()

    cdef int pass_on(self) except -1:
        """Serve the calls that have waited for this cancelled one to end."""
        cdef SocketCall successor
        successors, self.successors = self.successors, None
        for successor in successors or ():
            if successor.future.done():
                continue
            if self.leftover is not None and successor.take(self):
                continue
            self.turn.begin(successor)
        if self.leftover is None and self.turn.abandoned.get(self.fd) is self:
            del self.turn.abandoned[self.fd]
        return 0

    cdef int abandon(self) except -1:
        """The caller has gone.  When this returns the fd may be closed."""
        cdef SocketCall earlier
        if not self.future.done():
            self.future.cancel()
        if self.user_data == 0:
            return 0
        earlier = self.turn.abandoned.get(self.fd)
        self.turn.page.cancel_now(self)
        if self.user_data != 0 and (earlier is None or earlier.user_data == 0) and self.keeps_order():
            self.turn.abandoned[self.fd] = self
            self.sock = weakref.ref(self.sock, self.turn.forget_socket(self.fd))
        return 0

    cdef bint keeps_order(self) noexcept:
        """Whether a later call of the same kind must wait for what this one may have left."""
        return False


cdef class ReceiveCall(SocketCall):
    """sock_recv: into new bytes.  sock_recv_into: into the caller's buffer."""
    cdef PyObject* target
    cdef Py_ssize_t size
    cdef Py_buffer view
    cdef bint into

    cdef int prepare(self) except -1:
        cdef char* at
        if self.into:
            at = <char*> self.view.buf
        else:
            if self.target == NULL:
                self.target = new_bytes(NULL, self.size)
            at = PyBytes_AS_STRING(<bytes> self.target)
        return self.turn.page.submit(self, CALL_RECV, self.fd, at, self.size, 0, 0, 0)

    cdef object finish(self, int res):
        if res < 0:
            self.release_view()
            return OSError(-res, os.strerror(-res))
        if self.into:
            self.release_view()
            return res
        return self.received(res)

    cdef bytes received(self, int res):
        cdef bytes data
        if res != self.size:
            _PyBytes_Resize(&self.target, res)
        data = <bytes> self.target
        Py_XDECREF(self.target)
        self.target = NULL
        return data

    cdef object left(self, int res):
        if res > 0 and self.into:
            data = PyBytes_FromStringAndSize(<char*> self.view.buf, res)
            self.release_view()
            return data
        return self.received(res) if res > 0 else None

    cdef bint take(self, SocketCall earlier) except -1:
        cdef bytes data = earlier.leftover
        cdef Py_ssize_t count = min(len(data), self.size)
        if self.size == 0:
            return False
        if self.into:
            memcpy(self.view.buf, PyBytes_AS_STRING(data), count)
            self.release_view()
            self.future.set_result(count)
        else:
            self.future.set_result(data[:count])
        earlier.leftover = data[count:] if count < len(data) else None
        return True

    cdef int release_view(self) except -1:
        if <void*> self.view.obj != NULL:
            PyBuffer_Release(&self.view)
        return 0

    cdef bint keeps_order(self) noexcept:
        return True

    def __dealloc__(self):
        Py_XDECREF(self.target)
        if <void*> self.view.obj != NULL:
            PyBuffer_Release(&self.view)


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

    cdef object finish(self, int res):
        return OSError(-res, os.strerror(-res)) if res < 0 else None

    def __dealloc__(self):
        if <void*> self.view.obj != NULL:
            PyBuffer_Release(&self.view)


cdef class AcceptCall(SocketCall):
    """sock_accept."""

    cdef int prepare(self) except -1:
        return self.turn.page.submit(self, CALL_ACCEPT, self.fd, NULL, 0, 0, SOCK_NONBLOCK | SOCK_CLOEXEC, 0)

    cdef object finish(self, int res):
        return OSError(-res, os.strerror(-res)) if res < 0 else res

    cdef object left(self, int res):
        return res if res >= 0 else None

    cdef bint take(self, SocketCall earlier) except -1:
        self.future.set_result(earlier.leftover)
        earlier.leftover = None
        return True

    cdef int discard(self) except -1:
        if self.leftover is not None:
            close_fd(self.leftover)
            self.leftover = None
        return 0

    cdef bint keeps_order(self) noexcept:
        return True

    def __dealloc__(self):
        if self.leftover is not None:
            close_fd(self.leftover)


cdef class ReadyCall(SocketCall):
    """Waits until a socket is ready for something."""
    cdef uint32_t mask

    cdef int prepare(self) except -1:
        return self.turn.page.submit(self, CALL_POLL, self.fd, NULL, 0, 0, self.mask, 0)

    cdef object finish(self, int res):
        return OSError(-res, os.strerror(-res)) if res < 0 else res


cdef class SocketTurn(Turn):
    """The turn, with calls on sockets that the caller owns."""
    cdef dict readers, writers       # fd -> Watch
    cdef dict abandoned              # fd -> SocketCall whose caller has gone

    def __cinit__(self, *args, **kwargs):
        self.readers = {}
        self.writers = {}
        self.abandoned = {}

    def _count_housekeeping(self, int change):
        """Operations that the loop itself needs are not counted among those in flight."""
        self.page.housekeeping += change

    def _forget_sockets(self):
        """The loop is closing: let go of all callbacks."""
        for watch in [*self.readers.values(), *self.writers.values()]:
            (<Watch> watch).disarm()
        self.readers.clear()
        self.writers.clear()
        for call in self.abandoned.values():
            (<SocketCall> call).discard()
        self.abandoned.clear()

    # ---- callbacks

    cdef int free_fd(self, object fileobj) except -1:
        """The fd of a file object that no transport owns."""
        cdef int fd
        if isinstance(fileobj, int):
            fd = fileobj
        else:
            try:
                fd = fileobj.fileno()
            except (AttributeError, TypeError, ValueError):
                raise ValueError(f"Invalid file object: {fileobj!r}") from None
        if fd < 0:
            raise ValueError(f"Invalid file descriptor: {fd}")
        transport = self.owned.get(fd)
        if transport is not None:
            raise RuntimeError(f"File descriptor {fd!r} is used by transport {transport!r}")
        return fd

    cdef Handle watch(self, dict watches, object fileobj, uint32_t mask, object callback, tuple args, bint check):
        cdef Handle handle
        cdef Watch watch
        cdef int fd
        if self._closed:
            self._check_closed()
        fd = self.free_fd(fileobj) if check else fileobj
        if stat.S_ISREG(os.fstat(fd).st_mode):
            raise PermissionError(1, "a regular file cannot be polled")
        handle = Handle.__new__(Handle)
        handle._loop = self
        handle._callback = callback
        handle._args = args
        handle._context = PyContext_CopyCurrent()
        if fd in watches:
            (<Watch> watches[fd]).disarm()
        watches[fd] = watch_fd(self, fd, mask, handle)
        return handle

    cdef bint unwatch(self, dict watches, object fileobj, bint check) except -1:
        cdef Watch watch
        if self._closed:
            return False
        watch = watches.pop(self.free_fd(fileobj) if check else fileobj, None)
        if watch is None:
            return False
        watch.disarm()
        return True

    def add_reader(self, fd, callback, *args):
        """Call `callback(*args)` whenever `fd` can be read, as long as it can.  Source: asyncio.loop.add_reader."""
        self.watch(self.readers, fd, POLLIN | POLLPRI | POLLRDHUP, callback, args, True)

    def remove_reader(self, fd):
        """Stop that; returns whether there was anything to stop."""
        return self.unwatch(self.readers, fd, True)

    def add_writer(self, fd, callback, *args):
        """Call `callback(*args)` whenever `fd` can be written, as long as it can.  Source: asyncio.loop.add_writer."""
        self.watch(self.writers, fd, POLLOUT, callback, args, True)

    def remove_writer(self, fd):
        """Stop that; returns whether there was anything to stop."""
        return self.unwatch(self.writers, fd, True)

    def _add_reader(self, fd, callback, *args):
        return self.watch(self.readers, fd, POLLIN | POLLPRI | POLLRDHUP, callback, args, False)

    def _remove_reader(self, fd):
        return self.unwatch(self.readers, fd, False)

    def _add_writer(self, fd, callback, *args):
        return self.watch(self.writers, fd, POLLOUT, callback, args, False)

    def _remove_writer(self, fd):
        return self.unwatch(self.writers, fd, False)

    # ---- calls

    cdef object forget_socket(self, int fd):
        """What to do when a socket that an abandoned call belongs to is gone."""
        abandoned = self.abandoned

        def forget(reference):
            call = abandoned.get(fd)
            if call is not None and (<SocketCall> call).sock is reference:
                del abandoned[fd]
                (<SocketCall> call).discard()
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
            raise OSError(9, "Bad file descriptor")
        call.future = self.create_future()
        return 0

    cdef int begin(self, SocketCall call) except -1:
        """Submit, or be served from what a cancelled call on the same socket has left or may still bring."""
        cdef SocketCall earlier
        if self.abandoned and call.keeps_order():
            earlier = self.abandoned.get(call.fd)
            if earlier is not None:
                if earlier.sock() is not call.sock:
                    del self.abandoned[call.fd]
                    earlier.discard()
                elif earlier.user_data != 0:
                    if earlier.successors is None:
                        earlier.successors = []
                    earlier.successors.append(call)
                    return 0
                elif earlier.leftover is not None and call.take(earlier):
                    if earlier.leftover is None:
                        del self.abandoned[call.fd]
                    return 0
        return call.prepare()

    async def sock_recv(self, sock, n):
        """Up to `n` bytes; b'' at the end of the stream.  Source: asyncio.loop.sock_recv."""
        cdef ReceiveCall call = ReceiveCall.__new__(ReceiveCall)
        self.check_socket(sock)
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
        cdef ReceiveCall call = ReceiveCall.__new__(ReceiveCall)
        self.check_socket(sock)
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

    async def sock_sendall(self, sock, data):
        """Send all of `data`.  After a cancel nobody knows how much was sent.  Source: asyncio.loop.sock_sendall."""
        cdef SendCall call = SendCall.__new__(SendCall)
        self.check_socket(sock)
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

    async def sock_accept(self, sock):
        """A new connection: (socket, address).  Source: asyncio.loop.sock_accept."""
        cdef AcceptCall call = AcceptCall.__new__(AcceptCall)
        self.check_socket(sock)
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
        try:
            sock.connect(address)
            return None
        except (BlockingIOError, InterruptedError):
            pass
        await self._sock_ready(sock, POLLOUT)
        error = sock.getsockopt(socket_module.SOL_SOCKET, socket_module.SO_ERROR)
        if error != 0:
            raise OSError(error, f"Connect call failed {address}")

    async def _sock_ready(self, sock, mask):
        """Wait until `sock` is ready for `mask` (POLLIN, POLLOUT)."""
        cdef ReadyCall call = ReadyCall.__new__(ReadyCall)
        self.ready_call(call, sock)
        call.mask = mask
        call.retractable = True
        call.prepare()
        try:
            return await call.future
        except BaseException:
            call.abandon()
            raise
