# cython: language_level=3, cdivision=True
"""Floor 4: the receiving half of a stream connection.

Owns: what was received and not delivered.  Imports: writing, connection, page, turn.
"""
import os
from asyncio.log import logger

from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, _PyBytes_Resize
from cpython.contextvars cimport PyContext_Enter, PyContext_Exit
from cpython.object cimport PyObject
from cpython.ref cimport Py_XDECREF
from libc.errno cimport EPIPE, errno
from libc.stdint cimport uint32_t
from libc.string cimport memcpy

from flexsc_loop.syscalls.cpython_extra cimport new_bytes
from flexsc_loop.syscalls.page cimport (
    CALL_POLL, CALL_RECV, COMPLETION_MORE, EAGAIN, ECANCELED, EINTR, ENOBUFS, ENTRY_MULTISHOT, ENTRY_OWNED, ENTRY_POOL,
    FIRST_BUFFERS, pool_grow, stream_pool,
)
from flexsc_loop.syscalls.posix_socket cimport MSG_DONTWAIT, POLLIN, POLLRDHUP, recv
from flexsc_loop.syscalls.stats cimport stats_received
from flexsc_loop.transports.connection cimport Layer, call_for
from flexsc_loop.transports.writing cimport Writing
from flexsc_loop.turn.handles cimport call_in, call_method_in


cdef enum:
    DIRECT_LEAST = 128 * 1024
    DIRECT_MOST = 256 * 1024
    JOIN_ITEMS = 8                   # pool buffers that are delivered at once
    INBOX_MOST = 64                  # pool buffers that wait to be delivered; then nothing more is received
    FULL_READS_FOR_DIRECT = 2        # so many full pool buffers in a row: read directly
    SMALL_READS_FOR_POOL = 8         # so many small direct reads in a row: back to the pool


cdef class Reading(Writing):
    """A connection that can be written to and brings what its peer writes.

    As an operation it is the receive: again and again into pool buffers, or a word each time that large reads are worth
    a try.  Those are made when it comes to deliver, straight into new bytes: what is read is delivered, and mostly sent
    on, while it is in the cache.
    """

    cdef int change_reading(self, ReadState to) except -1:
        """Every change of state is made here."""
        assert self.reading != STOPPED and self.reading != to, f"reading: {self.reading} to {to}"
        self.reading = to
        return 0

    # ---- what the transport passes on

    cdef int pause_reading(self) except -1:
        if self.reading == FLOWING:
            # A receive in flight is ended when it brings something, so that a quick resume costs nothing.
            self.change_reading(PAUSED)
            if self.turn._debug:
                logger.debug("%r pauses reading", self.facade)
        return 0

    cdef int resume_reading(self) except -1:
        if self.reading == PAUSED:
            self.change_reading(FLOWING)
            self.resumed_in = <uint32_t> self.turn.turns
            if self.turn._debug:
                logger.debug("%r resumes reading", self.facade)
            if (self.inbox is not None or self.end != NOT_YET or self.source == READABLE
                    or self.user_data == 0):
                self.wake_up()
        return 0

    cdef int stop_reading(self) except -1:
        """The connection is to end: nothing more is delivered."""
        self.change_reading(STOPPED)
        if self.user_data != 0:
            self.page.cancel(self)
        return 0

    # ---- receiving

    cdef int arm(self) except -1:
        """Have a receive in flight, if reading is wanted."""
        if self.reading != FLOWING or self.end != NOT_YET:
            return 0
        if self.source == READABLE:
            self.wake_up()
        return self.submit_receive() if self.user_data == 0 else 0

    cdef int submit_receive(self) except -1:
        self.polls = self.source != POOL
        if self.polls:
            return self.page.submit(self, CALL_POLL, self.fd, NULL, 0, 0, POLLIN | POLLRDHUP,
                                    ENTRY_MULTISHOT | ENTRY_OWNED)
        return self.page.submit(self, CALL_RECV, self.fd, NULL, 0, 0, 0, ENTRY_MULTISHOT | ENTRY_POOL | ENTRY_OWNED)

    cdef int complete(self, int res, uint32_t flags) except -1:
        if self.polls and res > 0:
            if self.source == POLL:
                self.source = READABLE
            # Back to the pool meanwhile?  Then the receive that comes next sees what has come.
            return self.wake_up()
        return self.received(res, flags)

    cdef int received(self, int res, uint32_t flags) except -1:
        """One completion of the receive.  Bookkeeping only: `deliver` calls the protocol."""
        if res > 0:
            stats_received(self.page.stats, res)
            data = self.page.take_buffer(res, flags)
            if self.reading == STOPPED:
                return self.wake_up()
            self.count_full_reads(res, flags)
            self.keep_data(data)
            if self.user_data != 0 and (self.reading == PAUSED or self.behind()):
                self.page.cancel(self)
        elif res == 0:
            self.note_end(END_CAME)
        elif res == -ENOBUFS:
            self.page.pool_empty += 1
            pool_grow(stream_pool(self.page, flags), FIRST_BUFFERS)
        elif res != -ECANCELED and res != -EAGAIN:
            self.note_end(-res)
        return self.wake_up()

    cdef int note_end(self, int how) except -1:
        if self.end == NOT_YET:
            self.end = how
        return 0

    cdef bint behind(self) noexcept:
        """Whether a syscall thread receives faster than the protocol takes: let the rest wait in the kernel."""
        return isinstance(self.inbox, list) and len(<list> self.inbox) > INBOX_MOST

    cdef int keep_data(self, bytes data) except -1:
        if self.inbox is None:
            self.inbox = data
        elif isinstance(self.inbox, list):
            (<list> self.inbox).append(data)
        else:
            self.inbox = [self.inbox, data]
        return 0

    cdef int count_full_reads(self, int res, uint32_t flags) except -1:
        """Reads that fill pool buffers: large reads from now on."""
        self.full_reads = self.full_reads + 1 if <uint32_t> res == self.page.pool.buffer_size else 0
        if self.full_reads >= FULL_READS_FOR_DIRECT:
            self.source = POLL
            self.direct_size = DIRECT_LEAST
            self.full_reads = self.small_reads = 0
            if flags & COMPLETION_MORE:
                self.page.cancel(self)
        return 0

    cdef int count_small_reads(self, size_t size) except -1:
        """Large reads: larger ones if they are filled, back to the pool if they bring little."""
        if size >= self.direct_size and self.direct_size < DIRECT_MOST:
            self.direct_size *= 2
        self.small_reads = self.small_reads + 1 if size < self.page.pool.buffer_size else 0
        if self.small_reads >= SMALL_READS_FOR_POOL:
            self.source = POOL
            if self.user_data != 0:
                self.page.cancel(self)
        return 0

    cdef int deliver(self) except -1:
        """Tell the protocol one thing: data, or the end.

        What data has made due runs before the end is told, and what was made due with `resume_reading` before data is:
        so it is where each is an event of its own, and programs rely on it.
        """
        if self.reading != FLOWING:
            return 0
        if self.resumed_in == <uint32_t> self.turn.turns or self.deliver_some():
            if self.reading == FLOWING and (self.inbox is not None or self.end != NOT_YET):
                return self.wake_up()
            return self.arm()
        return self.arm() if self.end == NOT_YET else self.deliver_end()

    cdef bint deliver_some(self) except -1:
        """Deliver data, if there is any."""
        if self.inbox is None and self.source == READABLE and self.end == NOT_YET:
            if self.data_received is None and self.layer is None:
                return self.pull_into_buffer()
            self.pull()
        if self.inbox is None:
            return False
        self.deliver_data()
        return True

    cdef int deliver_end(self) except -1:
        if self.end > 0:
            return self.fatal(
                OSError(self.end, os.strerror(self.end)), "Fatal read error on socket transport")
        return self.deliver_eof() if self.end == END_CAME else 0

    cdef int pull(self) except -1:
        """Read once, as much as is there up to `direct_size`, into the inbox."""
        cdef PyObject* target = new_bytes(NULL, self.direct_size)
        cdef ssize_t count = self.read(PyBytes_AS_STRING(<bytes> target), self.direct_size)
        if count > 0:
            if <size_t> count < self.direct_size:
                _PyBytes_Resize(&target, count)
            self.inbox = <bytes> target
            self.count_small_reads(count)
        Py_XDECREF(target)
        return 0

    cdef ssize_t read(self, void* target, size_t size) except? -1:
        """Read once.  Returns how much has come; what else has happened is noted."""
        cdef ssize_t count = recv(self.fd, target, size, MSG_DONTWAIT)
        cdef int error = errno
        self.page.direct_calls += 1
        stats_received(self.page.stats, count)
        if count == 0:
            self.note_end(END_CAME)
        elif count < 0 and error == EAGAIN:
            # Only now is it sure that the poll in flight will tell of what comes next.
            self.source = POLL
        elif count < 0 and error != EINTR:
            self.note_end(error)
        return count

    cdef bint pull_into_buffer(self) except -1:
        """Read up to about `direct_size`, straight into a BufferedProtocol's buffers."""
        cdef size_t done = 0
        cdef ssize_t count = 1
        protocol = self.protocol
        PyContext_Enter(self.context)
        try:
            while count > 0 and done < self.direct_size and self.reading == FLOWING and self.protocol is protocol:
                count = self.read_into(protocol.get_buffer(self.direct_size - done))
                if count > 0:
                    done += count
                    protocol.buffer_updated(count)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self.fatal(error, "Fatal error: protocol.buffer_updated() call failed.")
        finally:
            PyContext_Exit(self.context)
        if done:
            self.count_small_reads(done)
        return done > 0

    cdef ssize_t read_into(self, object buffer) except? -1:
        cdef Py_buffer view
        PyObject_GetBuffer(buffer, &view, PyBUF_WRITABLE)
        try:
            if view.len == 0:
                raise RuntimeError("get_buffer() returned an empty buffer")
            return self.read(view.buf, view.len)
        finally:
            PyBuffer_Release(&view)

    cdef int deliver_data(self) except -1:
        data = self.inbox
        self.inbox = None
        if isinstance(data, list):
            if len(<list> data) > JOIN_ITEMS:
                self.inbox = (<list> data)[JOIN_ITEMS:]
                data = (<list> data)[:JOIN_ITEMS]
                # The rest comes in the next turn, unless reading is paused now.
                self.wake_up()
            data = b"".join(<list> data)
        if self.layer is not None:
            return self.feed_layer(<bytes> data)
        callback = self.data_received
        try:
            if callback is None:
                self.deliver_buffered(<bytes> data)
            elif self.unbound:
                call_method_in(self.context, callback, self.protocol, data)
            else:
                call_in(self.context, callback, data)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self.fatal(error, "Fatal error: protocol.data_received() call failed." if callback is not None else
                       "Fatal error: protocol.buffer_updated() call failed.")
        return 0

    cdef int feed_layer(self, bytes data) except -1:
        cdef Layer layer = self.layer
        PyContext_Enter(self.context)
        try:
            layer.feed(data)
        finally:
            PyContext_Exit(self.context)
        return 0

    cdef int deliver_buffered(self, bytes data) except -1:
        """Fill the buffers of a BufferedProtocol, as many as it takes."""
        cdef Py_ssize_t done = 0, total = len(data), room
        cdef Py_buffer view
        protocol = self.protocol
        PyContext_Enter(self.context)
        try:
            while done < total:
                if self.reading != FLOWING or self.protocol is not protocol:
                    # The protocol has changed its mind meanwhile.
                    self.keep_rest(data[done:])
                    return 0
                buffer = protocol.get_buffer(total - done)
                PyObject_GetBuffer(buffer, &view, PyBUF_WRITABLE)
                room = min(view.len, total - done)
                memcpy(view.buf, PyBytes_AS_STRING(data) + done, room)
                PyBuffer_Release(&view)
                if room == 0:
                    raise RuntimeError("get_buffer() returned an empty buffer")
                done += room
                protocol.buffer_updated(room)
        except (SystemExit, KeyboardInterrupt):
            if done < total:
                self.keep_rest(data[done:])
            raise
        finally:
            PyContext_Exit(self.context)
        return 0

    cdef int keep_rest(self, bytes rest) except -1:
        """Put undelivered data back in front of what has come meanwhile."""
        if self.inbox is None:
            self.inbox = rest
        elif isinstance(self.inbox, list):
            (<list> self.inbox).insert(0, rest)
        else:
            self.inbox = [rest, self.inbox]
        if self.reading == FLOWING:
            self.wake_up()
        return 0

    cdef int deliver_eof(self) except -1:
        if self.turn._debug:
            logger.debug("%r received EOF", self.facade)
        try:
            keep_open = call_for(self.context, self.protocol.eof_received)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self.end = END_TOLD
            return self.fatal(error, "Fatal error: protocol.eof_received() call failed.")
        self.end = END_TOLD
        if not keep_open:
            self.close()
        return 0

    # ---- what the other half asks

    cdef int await_cause(self) except -1:
        return self.page.await_end(self)

    cdef int cause_of(self, int error) noexcept:
        return self.end if error == EPIPE and self.end > 0 else error
