# cython: language_level=3, cdivision=True
"""Floor 4: the sending half of a stream connection.

Owns: what was written and not sent, flow control.  Imports: connection, interest, page, operation.

What one turn has written goes out at its end in one send, vectored if it is much.  What a socket has no room for waits
on the page if that waits for room and nothing else; io_uring's own wait is over, or becomes a thread of the kernel's,
as soon as the peer has shut down its side.
"""
import os
from asyncio import constants
from asyncio.log import logger

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from libc.errno cimport EPIPE, errno
from libc.stdint cimport uint32_t
from libc.string cimport memset

from flexsc_loop.syscalls.interest cimport EPOLLOUT, Interest
from flexsc_loop.syscalls.operation cimport Operation
from flexsc_loop.syscalls.page cimport (
    CALL_SEND, CALL_SENDMSG, COMPLETION_PLAIN, EAGAIN, ECANCELED, EINTR, ENTRY_OWNED, ENTRY_POLL_FIRST,
)
from flexsc_loop.syscalls.posix_socket cimport (
    MSG_DONTWAIT, MSG_NOSIGNAL, MSG_WAITALL, SHUT_RDWR, SHUT_WR, send, sendmsg, shutdown,
)
from flexsc_loop.syscalls.stats cimport stats_sent
from flexsc_loop.transports.connection cimport Connection, Layer, call_for, marks


cdef enum:
    JOIN_UP_TO = 16 * 1024           # smaller writes of one turn are copied together: cheaper than a vector
    VECTOR_MOST = 1024               # IOV_MAX
    SEND_MOST = 512 * 1024           # of one call, so that progress shows while a slow peer reads
    HIGH_WATER = 64 * 1024
    SEVERAL = 8                      # turns in which a stream that writes piecemeal is given the time to do so
    SPARE_SENDS = 64                 # as many as leave together
    WRITES_LOST_MOST = 100           # counted
    HEAVY = 32 * 1024                # so much written is sent before others are served: it is in the cache now


cdef bint may_become(WriteState state, WriteState to) noexcept:
    """Whether there is a way from one state of writing to another."""
    if to == FINISHING:
        return state == TAKING
    if to == DRAINING:
        return state == TAKING or state == FINISHING
    if to == DROPPING:
        return TAKING < state < DROPPING
    return to == LOST and TAKING < state < LOST


cdef class Room(Interest):
    """Waits until a socket takes more."""

    cdef int came(self) except -1:
        return self.stream.send_rest()


cdef class Send(Operation):
    """Sends what one turn has written to one connection, to the last byte."""

    cdef int load(self, object written) except -1:
        """Take over `written`: bytes, or a list of bytes."""
        cdef size_t count
        self.offset = 0
        self.first = 0
        self.total = 0
        if isinstance(written, list):
            if len(<list> written) == 1:
                written = (<list> written)[0]
            else:
                for chunk in <list> written:
                    self.total += PyBytes_GET_SIZE(chunk)
                if self.total <= JOIN_UP_TO:
                    written = b"".join(<list> written)
        self.keep = written
        if isinstance(written, bytes):
            self.total = PyBytes_GET_SIZE(written)
            return 0
        count = min(<size_t> len(<list> written), <size_t> VECTOR_MOST)
        self.vector = <iovec*> PyMem_Malloc(count * sizeof(iovec))
        if self.vector == NULL:
            raise MemoryError
        return 0

    cdef int prepare(self, uint32_t flags) except -1:
        cdef Writing stream = self.stream
        cdef uint32_t how = MSG_NOSIGNAL | (MSG_WAITALL if stream.page.waits_for_room else MSG_DONTWAIT)
        if self.vector != NULL:
            self.fill_vector()
            return stream.page.submit(self, CALL_SENDMSG, stream.fd, &self.header, 1, 0, how, flags)
        self.asked = min(self.total, <size_t> SEND_MOST)
        return stream.page.submit(self, CALL_SEND, stream.fd, PyBytes_AS_STRING(self.keep) + self.offset, self.asked, 0,
                                  how, flags)

    cdef int fill_vector(self) except -1:
        """Point at what is left.  Made anew each time: a server in user space counts in the vector itself."""
        cdef size_t count = min(<size_t> len(<list> self.keep) - self.first, <size_t> VECTOR_MOST)
        cdef size_t used = 0, offset = self.offset, room = SEND_MOST
        while used < count and room:
            chunk = (<list> self.keep)[self.first + used]
            self.vector[used].iov_base = PyBytes_AS_STRING(chunk) + offset
            self.vector[used].iov_len = min(<size_t> PyBytes_GET_SIZE(chunk) - offset, room)
            room -= self.vector[used].iov_len
            offset = 0
            used += 1
        self.asked = SEND_MOST - room
        memset(&self.header, 0, sizeof(self.header))
        self.header.msg_iov = self.vector
        self.header.msg_iovlen = used
        return 0

    cdef int advance(self, size_t sent) except -1:
        """Account for `sent` bytes; the rest is sent with the next `prepare`."""
        cdef size_t size
        self.total -= sent
        self.offset += sent
        if self.vector == NULL:
            return 0
        while self.total:
            size = PyBytes_GET_SIZE((<list> self.keep)[self.first])
            if self.offset < size:
                break
            self.offset -= size
            self.first += 1
        return 0

    cdef int unload(self) except -1:
        """All is done with what was loaded: whoever sends next, on whichever connection, may have this operation."""
        cdef Writing stream = self.stream
        cdef Send held = self  # the stream's may be the only reference
        self.keep = None
        PyMem_Free(self.vector)
        self.vector = NULL
        if stream is None:
            return 0
        self.stream = stream.send = None
        if self.room is not None:
            self.room.stream = None
        if len(stream.turn.spare_sends) < SPARE_SENDS:
            stream.turn.spare_sends.append(held)
        return 0

    cdef int complete(self, int res, uint32_t flags) except -1:
        cdef Writing stream = self.stream
        if stream is None:
            return self.unload()
        if flags & COMPLETION_PLAIN:
            return stream.sent_now(res, -res)
        stats_sent(stream.page.stats, res)
        if res >= 0:
            stream.unsent -= res
            self.advance(res)
        elif res != -EAGAIN and res != -ECANCELED:
            self.unload()
            return stream.send_failed(-res)
        if self.total and stream.writing < DROPPING and not stream.page.closed:
            # -ECANCELED: the page is being replaced.
            return self.prepare(ENTRY_OWNED) if res == -ECANCELED else stream.go_on(res)
        self.unload()
        return stream.sent()

    cdef bint waits(self) noexcept:
        return self.room is not None and self.room.listed

    def __dealloc__(self):
        PyMem_Free(self.vector)


cdef class Writing(Connection):
    """A connection that can be written to."""

    def __cinit__(self):
        self.high = HIGH_WATER
        self.low = HIGH_WATER // 4

    cdef int change_writing(self, WriteState to) except -1:
        """Every change of state is made here."""
        assert may_become(<WriteState> self.writing, to), f"writing: {self.writing} to {to}"
        self.writing = to
        return 0

    cdef bint sending(self) noexcept:
        """Whether a send is in flight, or waits for room."""
        return self.send is not None and (self.send.user_data != 0 or self.send.waits())

    # ---- what the transport passes on

    cdef int write(self, object data) except -1:
        return self.after_write() if self.accept(data) else 0

    cdef int write_all(self, object items) except -1:
        """As one write; nothing of it if an item is bad.  Items may be all that has a buffer, as in asyncio."""
        cdef bint any = False
        if not items:
            return 0
        for data in [item if type(item) is bytes else memoryview(item) for item in items]:
            any = self.accept(data) or any
        return self.after_write() if any else 0

    cdef bint accept(self, object data) except -1:
        """Queue what the program writes.  Returns whether there is something to send for it."""
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"data argument must be a bytes-like object, not {type(data).__name__!r}")
        if self.eof_written:
            raise RuntimeError("Cannot call write() after write_eof()")
        if self.held:
            raise RuntimeError("unable to write; sendfile is in progress")
        if not data:
            return False
        if self.writing >= DRAINING:
            self.lost_write()
            return False
        # Whatever may change under our hands is copied now.
        self.enqueue(<bytes> data if type(data) is bytes else bytes(data))
        return True

    cdef int lost_write(self) except -1:
        if self.writes_lost >= constants.LOG_THRESHOLD_FOR_CONNLOST_WRITES:
            logger.warning("socket.send() raised exception.")
        self.writes_lost = min(self.writes_lost + 1, WRITES_LOST_MOST)
        return 0

    cdef int enqueue(self, bytes data) except -1:
        if self.outbox is None:
            self.outbox = data
        elif isinstance(self.outbox, list):
            (<list> self.outbox).append(data)
        else:
            self.outbox = [self.outbox, data]
        self.unsent += PyBytes_GET_SIZE(data)
        return 0

    cdef int after_write(self) except -1:
        self.send_in_time()
        if self.written and self.unsent >= HEAVY:
            self.turn.heavy = True
        if self.unsent > self.high and self.paused_protocol is None:
            self.pause_protocol()
        return 0

    cdef int write_eof(self) except -1:
        """Raises OSError, as asyncio's does, if the connection is known to have ended while reading was paused."""
        cdef int error = 0
        if self.writing != TAKING or self.eof_written:
            return 0
        self.eof_written = True
        if self.unsent == 0:
            error = self.send_eof()
        if error:
            raise OSError(error, os.strerror(error))
        return 0

    # ---- sending

    cdef int send_in_time(self) except -1:
        """Have what was written sent: now or, where much is written, at the end of the turn."""
        if self.sending():
            # A layer encrypts meanwhile.
            return self.wants_flush() if self.layer is not None and not self.written else 0
        if self.turn.sends_at_once(self.is_alone()):
            return self.send_at_once()
        if self.turn._closed:
            return self.send_without_loop()
        return 0 if self.written else self.wants_flush()

    cdef int send_without_loop(self) except -1:
        """The loop has been closed: what the socket has no room for is lost."""
        self.last_try()
        self.outbox = None
        self.unsent = 0
        return 0

    cdef bint is_alone(self) noexcept:
        """Whether a write has no others of this turn to wait for, as far as one can tell."""
        if self.prompt_in == <uint8_t> self.turn.turns:
            # The second write of a turn: in the next ones, wait and join them.
            self.several = SEVERAL
        return self.several == 0 and self.unsent < HEAVY and not self.written

    cdef int send_at_once(self) except -1:
        self.prompt_in = <uint8_t> self.turn.turns
        self.turn.sparse = True
        try:
            return self.flush()
        finally:
            self.turn.sparse = False

    cdef int flush(self) except -1:
        cdef Layer layer = self.layer
        if layer is not None:
            layer.gather()
        if self.several:
            self.several = SEVERAL if isinstance(self.outbox, list) else self.several - 1
        return self.send_more()

    cdef int send_more(self) except -1:
        """Submit the outbox, unless a send is in flight."""
        if self.outbox is None or self.sending():
            return 0
        if self.send is None:
            self.take_send()
        written = self.outbox
        self.outbox = None
        self.send.load(written)
        return self.send_now() if self.turn.sparse or self.is_urgent() else self.send.prepare(ENTRY_OWNED)

    cdef int take_send(self) except -1:
        """One that another has used lately is in the cache, and most connections need none most of the time."""
        self.send = <Send> self.turn.spare_sends.pop() if self.turn.spare_sends else Send.__new__(Send)
        self.send.stream = self
        return 0

    cdef bint is_urgent(self) noexcept:
        """Whether this is the last that is sent, and whoever would serve it may have to wait for its CPU."""
        return (self.writing != TAKING or self.eof_written) and self.page.eager and self.page.late()

    cdef int send_now(self) except -1:
        """Where an entry has nothing to share with others, a call here and now is cheaper than entry and completion."""
        cdef Send rest = self.send
        cdef char* data
        cdef ssize_t count
        cdef int error
        if rest.vector != NULL:
            rest.fill_vector()
            count = sendmsg(self.fd, &rest.header, MSG_DONTWAIT | MSG_NOSIGNAL)
        else:
            rest.asked = min(rest.total, <size_t> SEND_MOST)
            data = PyBytes_AS_STRING(rest.keep) + rest.offset
            if self.page.gather(rest, self.fd, data, rest.asked):
                return 0
            count = send(self.fd, data, rest.asked, MSG_DONTWAIT | MSG_NOSIGNAL)
        error = errno
        self.page.direct_calls += 1
        return self.sent_now(count, error)

    cdef int sent_now(self, ssize_t count, int error) except -1:
        """A plain send has taken `count` bytes, or has failed."""
        cdef Send rest = self.send
        if count < 0 and error != EAGAIN and error != EINTR:
            rest.unload()
            if error == EPIPE:
                self.await_cause()
            return self.send_failed(error)
        if count > 0:
            stats_sent(self.page.stats, count)
            self.unsent -= count
            rest.advance(count)
        if rest.total:
            return self.go_on(count)
        rest.unload()
        return self.sent()

    cdef int go_on(self, ssize_t count) except -1:
        """The last call has taken `count` bytes, or none (negative) just now, and there are more."""
        if self.paused_protocol is not None and self.unsent <= self.low:
            self.wake_up()
        if count == <ssize_t> self.send.asked:
            return self.send.prepare(ENTRY_OWNED)
        if self.page.waits_for_room:
            return self.send.prepare(ENTRY_OWNED | ENTRY_POLL_FIRST)
        return self.wait_for_room()

    cdef int wait_for_room(self) except -1:
        """For the level, not for an edge: a call finds nothing, too, where there is no memory just now."""
        cdef Room room = self.send.room
        if room is None:
            self.send.room = room = Room.__new__(Room)
            room.mask = EPOLLOUT
        room.stream = self
        room.fd = self.fd
        try:
            return self.turn.interests.add(room)
        except OSError as error:
            self.send.unload()
            return self.send_failed(error.errno)

    cdef int send_rest(self) except -1:
        """There is room again.  Bookkeeping only."""
        if self.page.closed:
            return 0
        return self.send.prepare(ENTRY_OWNED) if self.page.eager else self.send_now()

    cdef int sent(self) except -1:
        """The send in flight has ended.  Bookkeeping only."""
        if self.writing >= DROPPING:
            return self.wake_up()
        if self.outbox is not None and not self.page.closed:
            self.send_more()
        elif self.eof_written:
            self.send_eof()
        if self.layer is not None:
            self.layer.progressed()
        if self.writing != TAKING or self.paused_protocol is not None or self.drained is not None:
            self.wake_up()
        return 0

    cdef int send_failed(self, int error) except -1:
        # What was to follow must not be sent after a gap.
        self.outbox = None
        error = self.cause_of(error)
        if self.writing == TAKING or self.error is None:
            self.fatal(OSError(error, os.strerror(error)), "Fatal write error on socket transport")
        return self.wake_up()

    cdef int send_eof(self) except -1:
        """Returns 0 or an errno."""
        self.page.direct_calls += 1
        return errno if shutdown(self.fd, SHUT_WR) != 0 else 0

    cdef int await_cause(self) except -1:
        """The peer has gone: the other half has been told why, or is about to be."""
        return 0

    cdef int cause_of(self, int error) noexcept:
        """The errno that tells best why a send has failed with `error`."""
        return error

    # ---- ending

    cdef int stop_writing(self) except -1:
        """The connection is to end when all has gone out."""
        if self.paused_protocol is not None:
            return self.change_writing(FINISHING)
        self.writes_lost += 1
        return self.change_writing(DRAINING)

    cdef int drop_unsent(self) except -1:
        """What has not gone out by now does not."""
        self.change_writing(DROPPING)
        self.outbox = None
        if self.held:
            # sendfile() holds the fd until this makes it fail.
            self.page.direct_calls += 1
            shutdown(self.fd, SHUT_RDWR)
        if self.send is not None and self.send.waits():
            self.turn.interests.withdraw(self.send.room)
            self.send.unload()
        elif self.sending():
            self.page.cancel(self.send)
        return 0

    cdef int last_try(self) except -1:
        """abort() drops what the socket has no room for; what was written in this turn may not have been tried yet."""
        if self.outbox is None or self.held or self.sending():
            return 0
        written = b"".join(self.outbox) if isinstance(self.outbox, list) else self.outbox
        self.page.direct_calls += 1
        send(self.fd, PyBytes_AS_STRING(written), PyBytes_GET_SIZE(written), MSG_DONTWAIT | MSG_NOSIGNAL)
        return 0

    # ---- flow control

    cdef int pause_protocol(self) except -1:
        self.paused_protocol = self.protocol
        try:
            self.protocol.pause_writing()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self.complain("protocol.pause_writing() failed", error)
        return 0

    cdef int resume_protocol(self) except -1:
        protocol, self.paused_protocol = self.paused_protocol, None
        try:
            call_for(self.context, protocol.resume_writing)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self.complain("protocol.resume_writing() failed", error)
        finally:
            if self.writing == FINISHING and self.paused_protocol is None:
                self.writes_lost += 1
                self.change_writing(DRAINING)
        return 0

    cdef int set_limits(self, object high, object low) except -1:
        self.high, self.low = marks(high, low, HIGH_WATER // 1024)
        if self.unsent > self.high and self.paused_protocol is None:
            self.pause_protocol()
        return 0

    cdef object when_drained(self):
        future = self.turn.create_future()
        if self.unsent == 0:
            future.set_result(None)
        else:
            if self.drained is None:
                self.drained = []
            self.drained.append(future)
        return future

    cdef int tell_drained(self) except -1:
        waiters = self.drained
        self.drained = None
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
        return 0

    cdef int tell_drained_lost(self) except -1:
        waiters, self.drained = self.drained, None
        for waiter in waiters or ():
            if not waiter.done():
                waiter.set_exception(ConnectionError("Connection is closed by peer"))
        return 0
