# cython: language_level=3, cdivision=True
"""Floor 4: sockets that stay their caller's: `add_reader`, `add_writer` and the `sock_*` methods.

Owns: operations on fds that anybody may close.  Imports: page, operation, turn.

So that a fd can be closed and its number reused right after a cancel, every cancel here is `cancel_now`: when it
returns, the operation is over.  What a cancelled receive or accept has brought is not lost: it waits, on the same
socket, for the next one.
"""
import os
import socket as socket_module
import stat
import weakref
from asyncio import base_events

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.object cimport PyObject
from cpython.ref cimport Py_XDECREF
from libc.stdint cimport uint32_t
from libc.string cimport memcpy
from posix.unistd cimport close as close_fd

from flexsc_loop.syscalls.operation cimport Operation
from flexsc_loop.syscalls.page cimport (
    CALL_ACCEPT, CALL_POLL, CALL_RECV, CALL_SEND, EAGAIN, EBADF, ECANCELED,
)
from flexsc_loop.turn.turn cimport Endpoint, Handle, Turn, stack_here


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
    cdef void* watch                 # borrowed: a loop that nobody closes can be collected with its watches

    cdef int prepare(self) except -1:
        cdef Watch watch = <Watch> self.watch
        return watch.turn.page.submit(self, CALL_POLL, watch.fd, NULL, 0, 0, watch.mask, 0)

    cdef int complete(self, int res, uint32_t flags) except -1:
        if self.watch == NULL:
            return 0
        return (<Watch> self.watch).ready(res)


@cython.no_gc_clear
cdef class Watch(Endpoint):
    """One callback for one direction of one fd."""
    cdef int fd
    cdef uint32_t mask
    cdef Handle handle
    cdef Poll poll
    cdef bint lost                   # the fd can't be polled any more

    def __repr__(self):
        """In debug mode, slow callbacks are reported by it."""
        what = "reader" if self.mask & POLLIN else "writer"
        return f"<{what} fd={self.fd} {self.handle!r}>"

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
        self.poll.watch = <void*> self
        self.poll.retractable = True
        return self.poll.prepare()

    def __dealloc__(self):
        if self.poll is not None:
            self.poll.watch = NULL

    cdef int disarm(self) except -1:
        poll, self.poll = self.poll, None
        self.handle.drop()
        self.handle = None
        (<Poll> poll).watch = NULL
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

    cdef int prepare(self) except -1:
        cdef char* at
        if self.into:
            at = <char*> self.view.buf
        else:
            if self.target == NULL:
                self.target = new_bytes(NULL, self.size)
            at = PyBytes_AS_STRING(<bytes> self.target)
        return self.turn.page.submit(self, CALL_RECV, self.fd, at, self.size, 0, 0, 0)

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
        if self.into:
            return PyBytes_FromStringAndSize(<char*> self.view.buf, result) if result else None
        return result or None

    cdef bint serve(self, object leftover) except -1:
        cdef bytes data = leftover
        cdef Py_ssize_t count = min(len(data), self.size)
        if self.size == 0:
            return False
        if self.into:
            memcpy(self.view.buf, PyBytes_AS_STRING(data), count)
            self.future.set_result(count)
        else:
            self.future.set_result(data[:count])
        if count < len(data):
            owner, _ = self.turn.leftovers[self.fd]
            self.turn.leftovers[self.fd] = (owner, data[count:])
        else:
            del self.turn.leftovers[self.fd]
        return True

    cdef bint consumes(self) noexcept:
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


cdef class SocketTurn(Turn):
    """The turn, with calls on sockets that the caller owns."""
    cdef dict readers, writers       # fd -> Watch
    cdef dict consuming              # fd -> the latest receive or accept under way
    cdef Submissions submissions
    cdef dict leftovers              # fd -> weak reference to the socket, what came for a caller that had gone

    def __cinit__(self, *args, **kwargs):
        self.readers = {}
        self.writers = {}
        self.consuming = {}
        self.submissions = Submissions.__new__(Submissions)
        self.submissions.turn = self
        self.submissions.calls = []
        self.leftovers = {}

    def _count_housekeeping(self, int change):
        """Operations that the loop itself needs are not counted among those in flight."""
        self.page.housekeeping += change

    def _forget_sockets(self):
        """The loop is closing: let go of all callbacks."""
        for watch in [*self.readers.values(), *self.writers.values()]:
            (<Watch> watch).disarm()
        self.readers.clear()
        self.writers.clear()
        for fd in list(self.leftovers):
            self.drop_leftover(fd)

    cdef int drop_leftover(self, int fd) except -1:
        """Nobody will ever ask for it."""
        _, leftover = self.leftovers.pop(fd)
        if isinstance(leftover, list):
            for accepted in leftover:
                close_fd(accepted)
        return 0

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
        # Without the loop in it: the collector does not see through handles, and this one stays.
        handle = Handle.__new__(Handle)
        handle._callback = callback
        handle._args = args
        handle._context = PyContext_CopyCurrent()
        if self._debug:
            handle._source_traceback = stack_here()
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
        self.begin(call)
        try:
            return await call.future
        except BaseException:
            call.abandon()
            raise
