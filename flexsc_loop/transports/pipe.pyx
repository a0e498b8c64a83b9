# cython: language_level=3, cdivision=True
"""Floor 4: pipes, FIFOs, sockets and character devices, one direction each.

Owns: the pipe object from here until `connection_lost`, and what was written and not taken by the kernel.
Imports: connection, protocols, page, operation, turn.

Reads and writes are plain non-blocking calls; the page only waits.  A pipe's call is one copy of up to 64 KiB, beside
which an entry saves nothing, and a read that waited as an entry would hold its buffer meanwhile.  What is written
leaves at once unless something waits already.  After a call that got somewhere the next turn simply tries again: a busy
pipe never waits, an idle one costs one look in vain.
"""
import asyncio
import errno
import os
import stat
import warnings
from asyncio import constants
from asyncio.log import logger
from socket import socket

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE, _PyBytes_Resize
from cpython.object cimport PyObject
from cpython.ref cimport Py_XDECREF
from libc.errno cimport errno as last_error
from libc.stdint cimport uint32_t
from posix.uio cimport iovec, writev
from posix.unistd cimport read as read_fd
from posix.unistd cimport write as write_fd

from flexsc_loop.syscalls.cpython_extra cimport new_bytes
from flexsc_loop.syscalls.operation cimport Operation
from flexsc_loop.syscalls.page cimport CALL_POLL, EAGAIN, ECANCELED, EINTR
from flexsc_loop.syscalls.posix_socket cimport POLLIN, POLLOUT, POLLRDHUP
from flexsc_loop.syscalls.stats cimport stats_less, stats_received, stats_sent
from flexsc_loop.transports.connection cimport end_lingering
from flexsc_loop.transports.protocols cimport CLOSED, CLOSING, OPEN, ProtocolEndpoint
from flexsc_loop.turn.turn cimport Turn


cdef extern from "<sys/ioctl.h>" nogil:
    enum:
        FIONREAD
    int ioctl(int fd, unsigned long request, int* result)

cdef enum:
    READ_MOST = 256 * 1024           # of one turn
    READ_UNKNOWN = 64 * 1024         # where the kernel does not say how much is there
    READ_EMPTY = 4096                # room to learn that it is the end, or that somebody else has taken it
    VECTOR_MOST = 64


cdef class Ready(Operation):
    """Waits once for readiness."""

    cdef int prepare(self) except -1:
        if self.user_data != 0:
            return 0
        self.came = False
        return self.end.turn.page.submit(self, CALL_POLL, self.end.fd, NULL, 0, 0, self.mask, 0)

    cdef int complete(self, int res, uint32_t flags) except -1:
        if res == -ECANCELED and self.end.goes_on() and not self.end.turn.page.closed:
            # The page is being replaced.
            return self.prepare()
        # A wait that failed is an event as well: the call itself will say what is wrong.
        self.came = True
        return self.end.wake_up()


cdef Ready new_wait(PipeEnd end, uint32_t mask):
    cdef Ready wait = Ready.__new__(Ready)
    wait.end = end
    wait.mask = mask
    wait.retractable = True
    return wait


cdef class PipeEnd(ProtocolEndpoint):
    """What the two ends have in common."""

    cdef int adopt(self, object facade, object pipe, object protocol, object waiter, object extra) except -1:
        self.extra = {**(extra or {}), "pipe": pipe}
        self.pipe = pipe
        facade._core = self
        os.set_blocking(self.fd, False)
        self.turn.stats.counts.pipes += 1
        return self.begin(facade, protocol, waiter)

    cdef bint is_ours(self) except -1:
        """Whether the fd is still this pipe's: somebody may have closed it behind our back."""
        try:
            return self.pipe.fileno() == self.fd
        except ValueError:
            return False

    cdef bint waits(self) noexcept:
        return self.ready.user_data != 0

    cdef bint goes_on(self) noexcept:
        """Whether the end still waits for anything by its own wish."""
        return self.state == OPEN

    cdef int end_waits(self) except -1:
        if self.ready.user_data != 0:
            self.turn.page.cancel(self.ready)
        return 0

    cdef int await_ends(self) except -1:
        return self.turn.page.await_end(self.ready)

    cdef int shut(self, object error) except -1:
        """Have connection_lost called in its turn, or as soon as nothing waits on the fd any more."""
        if self.state == CLOSED:
            return 0
        self.state = CLOSING
        if self.error is None:
            self.error = error
        self.end_waits()
        return self.stand_in_line()

    cdef int lose(self) except -1:
        """connection_lost, then close the pipe."""
        if self.in_line or self.waits():
            return 0
        self.state = CLOSED
        try:
            self.tell_of("connection_lost", self.error)
        finally:
            stats_less(&self.turn.stats.counts.pipes)
            pipe, self.pipe = self.pipe, None
            self.facade = self.protocol = self.error = None
            self.ready.end = None
            if isinstance(pipe, socket) and pipe.fileno() == self.fd:
                end_lingering(self.fd)
            pipe.close()
        return 0


cdef class ReadEnd(PipeEnd):
    """The end that is read.  What asyncio's contract calls a transport is `ReadPipeTransport`."""

    cdef int run(self, Turn turn) except -1:
        self.queued = False
        if self.state == CLOSED:
            return 0
        if self.fresh:
            return self.introduce()
        if self.state == OPEN and not self.paused and not self.waits():
            self.read()
        if self.state == CLOSING:
            self.lose()
        return 0

    cdef int read(self) except -1:
        try:
            data = self.take()
        except OSError as error:
            return self.fail(error)
        if data is None:
            return self.ready.prepare()
        if not data:
            return self.reach_end()
        self.tell_of("data_received", data)
        return self.wake_up()

    cdef int read_now(self) except -1:
        """Deliver what is there, whether the page has told of it yet or not."""
        if self.state != OPEN or self.paused or self.fresh:
            return 0
        self.read()
        return self.wake_up()

    cdef object take(self):
        """What is there, as bytes; None if nothing is, empty at the end.  Raises OSError."""
        cdef PyObject* target
        cdef Py_ssize_t got
        cdef int size = 0, error
        cdef bint told = self.ready.came
        self.ready.came = False
        if not self.is_ours():
            raise OSError(errno.EBADF, "the pipe was closed while it was read")
        self.turn.page.direct_calls += 1
        if ioctl(self.fd, FIONREAD, &size) != 0:
            size = READ_UNKNOWN
        elif size == 0:
            if not told:
                return None
            size = READ_EMPTY
        size = min(size, READ_MOST)
        target = new_bytes(NULL, size)
        while True:
            self.turn.page.direct_calls += 1
            got = read_fd(self.fd, PyBytes_AS_STRING(<bytes> target), size)
            if got >= 0 or last_error != EINTR:
                break
        if got < 0:
            error = last_error
            Py_XDECREF(target)
            if error == EAGAIN:
                return None
            raise OSError(error, os.strerror(error))
        stats_received(&self.turn.stats, got)
        if got < size:
            _PyBytes_Resize(&target, got)
        data = <bytes> target
        Py_XDECREF(target)
        return data

    cdef int reach_end(self) except -1:
        """All writers have gone."""
        if self.turn._debug:
            logger.info("%r was closed by peer", self.facade)
        self.state = CLOSING
        return self.tell("eof_received")

    cdef int fail(self, object error) except -1:
        self.shut(error)
        # EIO is how a terminal says that its other side has gone.
        if error.errno != errno.EIO:
            self.complain("Fatal read error on pipe transport", error)
        elif self.turn._debug:
            logger.debug("%r: %s", self.facade, "Fatal read error on pipe transport", exc_info=error)
        return 0


cdef class WriteEnd(PipeEnd):
    """The end that is written.  What asyncio's contract calls a transport is `WritePipeTransport`."""

    cdef int run(self, Turn turn) except -1:
        self.queued = False
        if self.state == CLOSED:
            return 0
        if self.fresh:
            return self.introduce()
        if self.peer is not None:
            if self.peer.came and (self.state == OPEN or self.unsent):
                self.peer_left()
            elif self.state == OPEN:
                self.peer.prepare()
        if self.unsent:
            self.push()
        self.resume_if_little()
        if self.state == CLOSING and self.unsent == 0:
            self.end_waits()
            self.lose()
        return 0

    cdef int peer_left(self) except -1:
        """The wait for the reader's end has ended."""
        if self.turn._debug:
            logger.info("%r was closed by peer", self.facade)
        error = BrokenPipeError() if self.unsent else None
        self.drop()
        return self.shut(error)

    cdef int write(self, object data) except -1:
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"data argument must be a bytes-like object, not {type(data).__name__!r}")
        if not data:
            return 0
        if self.state != OPEN:
            if self.writes_lost >= constants.LOG_THRESHOLD_FOR_CONNLOST_WRITES:
                logger.warning("pipe closed by peer or os.write(pipe, data) raised exception.")
            self.writes_lost += 1
            return 0
        # Whatever may change under our hands is copied now.
        return self.put(<bytes> data if type(data) is bytes else bytes(data))

    cdef int put(self, bytes data) except -1:
        """Give the kernel what it takes now, if nothing waits, and keep the rest."""
        cdef size_t size = PyBytes_GET_SIZE(data)
        cdef Py_ssize_t taken = 0
        if self.unsent == 0:
            if not self.is_ours():
                return self.lost_pipe()
            taken = self.give(data)
            if <size_t> taken == size:
                return 0
            if taken == -EAGAIN:
                taken = 0
            elif taken < 0:
                return self.fail(OSError(-taken, os.strerror(-taken)))
            self.offset = taken
            self.wake_up()
        self.outbox.append(data)
        self.unsent += size - taken
        return self.pause_if_much()

    cdef int push(self) except -1:
        """Give the kernel what it takes now of that which waits.  Bookkeeping only: `run` calls the protocol."""
        cdef Py_ssize_t count
        if self.ready.user_data != 0:
            return 0
        if not self.is_ours():
            return self.lost_pipe()
        count = self.give_all()
        if count == -EAGAIN and not self.in_vain:
            # Once more in the next turn, for a reader in this loop; it costs less than a wait.
            self.in_vain = True
            return self.wake_up()
        self.in_vain = False
        if count == -EAGAIN:
            return self.ready.prepare()
        if count < 0:
            return self.fail(OSError(-count, os.strerror(-count)))
        self.advance(count)
        if self.unsent or self.protocol_paused or self.state == CLOSING:
            self.wake_up()
        return 0

    cdef int lost_pipe(self) except -1:
        return self.fail(OSError(errno.EBADF, "the pipe was closed while it was written"))

    cdef Py_ssize_t give(self, bytes data) except? -1:
        """One call.  Returns how many bytes were taken, or -errno."""
        cdef Py_ssize_t count
        while True:
            self.turn.page.direct_calls += 1
            count = write_fd(self.fd, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
            if count >= 0:
                stats_sent(&self.turn.stats, count)
                return count
            if last_error != EINTR:
                return -last_error

    cdef Py_ssize_t give_all(self) except? -1:
        """The same with all that waits."""
        cdef iovec vector[VECTOR_MOST]
        cdef int used = 0
        cdef size_t offset = self.offset
        cdef Py_ssize_t count
        for chunk in self.outbox:
            if used == VECTOR_MOST:
                break
            vector[used].iov_base = PyBytes_AS_STRING(chunk) + offset
            vector[used].iov_len = PyBytes_GET_SIZE(chunk) - offset
            offset = 0
            used += 1
        while True:
            self.turn.page.direct_calls += 1
            count = writev(self.fd, vector, used)
            if count >= 0:
                stats_sent(&self.turn.stats, count)
                return count
            if last_error != EINTR:
                return -last_error

    cdef int advance(self, size_t count) except -1:
        cdef Py_ssize_t gone = 0, size
        self.unsent -= count
        count += self.offset
        for chunk in self.outbox:
            size = PyBytes_GET_SIZE(chunk)
            if count < <size_t> size:
                break
            count -= size
            gone += 1
        self.offset = count
        del self.outbox[:gone]
        return 0

    cdef int finish(self) except -1:
        """Have the pipe closed when all that was written has gone."""
        if self.unsent == 0:
            return self.shut(None)
        self.state = CLOSING
        return 0

    cdef int drop(self) except -1:
        """What was written is lost.  A paused protocol learns that from connection_lost, not from resume_writing."""
        self.protocol_paused = False
        self.outbox.clear()
        self.unsent = self.offset = 0
        return 0

    cdef int fail(self, object error) except -1:
        """A write has failed.  Those of the pipe itself are no news outside debug mode."""
        if self.turn._debug:
            logger.debug("%r: %s", self.facade, "Fatal write error on pipe transport", exc_info=error)
        self.writes_lost += 1
        self.drop()
        return self.shut(error)

    cdef bint goes_on(self) noexcept:
        return self.state == OPEN or (self.state == CLOSING and self.unsent != 0)

    cdef bint waits(self) noexcept:
        return self.ready.user_data != 0 or (self.peer is not None and self.peer.user_data != 0)

    cdef int end_waits(self) except -1:
        if self.peer is not None and self.peer.user_data != 0:
            self.turn.page.cancel(self.peer)
        return PipeEnd.end_waits(self) if self.unsent == 0 else 0

    cdef int await_ends(self) except -1:
        if self.peer is not None:
            self.turn.page.await_end(self.peer)
        return PipeEnd.await_ends(self)


cdef str name_of(PipeEnd end):
    return ("open", "closing", "closed")[<int> end.state]


class ReadPipeTransport(asyncio.ReadTransport):
    """The end of a pipe that this loop reads.  Source: asyncio's documentation, "Transports"."""

    __slots__ = ("__dict__", "__weakref__", "_core")

    def get_extra_info(self, name, default=None):
        """`pipe`: the file object."""
        return (<PipeEnd> self._core).extra.get(name, default)

    def set_protocol(self, protocol):
        """Have what comes from now on delivered to `protocol`."""
        (<PipeEnd> self._core).protocol = protocol

    def get_protocol(self):
        """The protocol that data is delivered to; None after the end."""
        return (<PipeEnd> self._core).protocol

    def is_closing(self):
        """Whether the pipe is closed, or on its way to."""
        return (<PipeEnd> self._core).state != OPEN

    def is_reading(self):
        """Whether data is delivered as it comes."""
        cdef ReadEnd core = self._core
        return core.state == OPEN and not core.paused

    def pause_reading(self):
        """Read nothing until `resume_reading`."""
        cdef ReadEnd core = self._core
        if core.state == OPEN and not core.paused:
            core.paused = True
            if core.turn._debug:
                logger.debug("%r pauses reading", self)

    def resume_reading(self):
        """Read again."""
        cdef ReadEnd core = self._core
        if core.state == OPEN and core.paused:
            core.paused = False
            core.wake_up()
            if core.turn._debug:
                logger.debug("%r resumes reading", self)

    def close(self):
        """Stop reading and close the pipe."""
        cdef ReadEnd core = self._core
        if core.state == OPEN:
            core.shut(None)

    def _read_now(self):
        """Deliver what is there: whoever wrote it has ended."""
        (<ReadEnd> self._core).read_now()

    def __repr__(self):
        cdef ReadEnd core = self._core
        polling = "polling" if core.state == OPEN and not core.paused else "idle"
        return f"<ReadPipeTransport {name_of(core)} fd={core.fd} {polling}>"

    def __del__(self):
        cdef ReadEnd core = self._core
        if core.pipe is not None:
            warnings.warn(f"unclosed transport {self!r}", ResourceWarning, source=self)
            core.pipe.close()

    def _go_on(self):
        (<PipeEnd> self._core).go_on()


class WritePipeTransport(asyncio.Transport):
    """The end of a pipe that this loop writes.  Source: asyncio's documentation, "Transports".

    A Transport, since asyncio's own is one; what reads is not implemented there either.
    """

    __slots__ = ("__dict__", "__weakref__", "_core")

    def get_extra_info(self, name, default=None):
        """`pipe`: the file object."""
        return (<PipeEnd> self._core).extra.get(name, default)

    def set_protocol(self, protocol):
        """Have `protocol` told what happens from now on."""
        (<PipeEnd> self._core).protocol = protocol

    def get_protocol(self):
        """The protocol that is told what happens; None after the end."""
        return (<PipeEnd> self._core).protocol

    def is_closing(self):
        """Whether the pipe is closed, or on its way to."""
        return (<PipeEnd> self._core).state != OPEN

    def write(self, data):
        """Write `data` (bytes, bytearray or memoryview; copied unless bytes) after everything written before."""
        (<WriteEnd> self._core).write(data)

    def writelines(self, list_of_data):
        """Write each item; they leave together."""
        (<WriteEnd> self._core).write(b"".join(list_of_data))

    def write_eof(self):
        """Close the pipe after everything written before."""
        cdef WriteEnd core = self._core
        if core.state == OPEN:
            core.finish()

    def can_write_eof(self):
        """True: the pipe's end is the end of its data."""
        return True

    def get_write_buffer_size(self):
        """Bytes written that the kernel has not taken yet."""
        return (<WriteEnd> self._core).unsent

    def get_write_buffer_limits(self):
        """The (low, high) marks in bytes."""
        cdef WriteEnd core = self._core
        return core.low, core.high

    def set_write_buffer_limits(self, high=None, low=None):
        """More than `high` unsent bytes pause the protocol, `low` or less resume it."""
        (<WriteEnd> self._core).set_limits(high, low)

    def close(self):
        """Write what was written, then close the pipe."""
        self.write_eof()

    def abort(self):
        """Close the pipe now; unsent data is lost."""
        cdef WriteEnd core = self._core
        if core.state != CLOSED:
            core.drop()
            core.shut(None)

    def __repr__(self):
        cdef WriteEnd core = self._core
        polling = "polling" if core.unsent else "idle"
        return f"<WritePipeTransport {name_of(core)} fd={core.fd} {polling} bufsize={core.unsent}>"

    def __del__(self):
        cdef WriteEnd core = self._core
        if core.pipe is not None:
            warnings.warn(f"unclosed transport {self!r}", ResourceWarning, source=self)
            core.pipe.close()

    def _go_on(self):
        (<PipeEnd> self._core).go_on()


cdef bint has_peer(int fd, str refusal) except -1:
    """Whether the end of the fd's other side can be seen: not of a character device.  ValueError for other files."""
    mode = os.fstat(fd).st_mode
    if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
        return True
    if stat.S_ISCHR(mode):
        return False
    raise ValueError(refusal)


def make_read_pipe(Turn turn not None, pipe, protocol, waiter, extra):
    """A transport that reads `pipe`, a file object; connection_made is called in the next turn.

    Raises ValueError unless it is a pipe, a FIFO, a socket or a character device.
    """
    cdef ReadEnd end = ReadEnd.__new__(ReadEnd)
    end.turn = turn
    end.fd = pipe.fileno()
    has_peer(end.fd, "Pipe transport is for pipes/sockets only.")
    end.ready = new_wait(end, POLLIN)
    end.adopt(ReadPipeTransport.__new__(ReadPipeTransport), pipe, protocol, waiter, extra)
    return end.facade


def make_write_pipe(Turn turn not None, pipe, protocol, waiter, extra):
    """A transport that writes to `pipe`, a file object; connection_made is called in the next turn.

    Raises ValueError unless it is a pipe, a FIFO, a socket or a character device.
    """
    cdef WriteEnd end = WriteEnd.__new__(WriteEnd)
    end.turn = turn
    end.fd = pipe.fileno()
    end.outbox = []
    end.ready = new_wait(end, POLLOUT)
    if has_peer(end.fd, "Pipe transport is only for pipes, sockets and character devices"):
        end.peer = new_wait(end, POLLRDHUP)
    end.adopt(WritePipeTransport.__new__(WritePipeTransport), pipe, protocol, waiter, extra)
    return end.facade
