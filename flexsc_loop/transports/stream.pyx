# cython: language_level=3, cdivision=True
"""Floor 4: stream connections, TCP and Unix sockets.

Owns: the connection's fd from here until `connection_lost`, what was received and not delivered, what was written and
not sent.  Imports: page, operation, turn.

A connection's fd is closed only after the last completion of its last operation, so that nothing that is still in
flight can ever touch a reused fd.
"""
import asyncio
import os
import socket as socket_module
import struct
import warnings
from asyncio import constants, trsock
from asyncio.log import logger

cimport cython
from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.object cimport PyObject
from cpython.ref cimport Py_XDECREF
from libc.stdint cimport uint32_t
from libc.string cimport memcpy, memset
from posix.unistd cimport close as close_fd

from flexsc_loop.syscalls.operation cimport Operation
from flexsc_loop.syscalls.page cimport (
    CALL_POLL, CALL_RECV, CALL_SEND, CALL_SENDMSG, COMPLETION_MORE, EAGAIN, ECANCELED, EINTR,
    ENOBUFS, ENTRY_MULTISHOT, ENTRY_OWNED, ENTRY_POLL_FIRST, ENTRY_POOL, FIRST_BUFFERS, pool_grow,
)
from flexsc_loop.turn.turn cimport Endpoint, Turn, call_in


cdef extern from "Python.h":
    int _PyBytes_Resize(PyObject** data, Py_ssize_t size) except -1
    PyObject* new_bytes "PyBytes_FromStringAndSize"(const char*, Py_ssize_t) except NULL
    object PyContext_CopyCurrent()
    int PyContext_Enter(object context) except -1
    int PyContext_Exit(object context) except -1

cdef extern from "<sys/socket.h>" nogil:
    enum:
        MSG_DONTWAIT
        MSG_WAITALL
        MSG_NOSIGNAL
        SHUT_RDWR
        SHUT_WR
        AF_UNIX
    ctypedef unsigned int socklen_t
    struct sockaddr:
        unsigned short sa_family
    int shutdown(int fd, int how)
    ssize_t recv(int fd, void* buffer, size_t size, int flags)
    ssize_t send(int fd, const void* data, size_t size, int flags)
    ssize_t sendmsg(int fd, const msghdr* message, int flags)
    int getpeername(int fd, sockaddr* address, socklen_t* size)
    int getsockname(int fd, sockaddr* address, socklen_t* size)

cdef extern from "<poll.h>" nogil:
    enum:
        POLLIN
        POLLRDHUP

cdef extern from "<errno.h>" nogil:
    enum:
        EPIPE
    int errno

cdef enum:
    KIB = 1024
    JOIN_UP_TO = 16 * 1024           # smaller writes of one turn are copied together: cheaper than a vector
    VECTOR_MOST = 1024               # IOV_MAX
    SEND_MOST = 512 * 1024           # of one call, so that progress shows while a slow peer reads
    DIRECT_LEAST = 128 * 1024
    DIRECT_MOST = 256 * 1024
    JOIN_ITEMS = 8                   # pool buffers that are delivered at once
    INBOX_MOST = 64                  # pool buffers that wait to be delivered; then nothing more is received
    FULL_READS_FOR_DIRECT = 2        # so many full pool buffers in a row: read directly
    SMALL_READS_FOR_POOL = 8         # so many small direct reads in a row: back to the pool
    HIGH_WATER = 64 * 1024
    SEVERAL = 8                      # turns in which a stream that writes piecemeal is given the time to do so
    HEAVY = 32 * 1024                # so much written is sent before others are served: it is in the cache now


cdef object call_for(object context, object callback):
    """The result of `callback()` in `context`."""
    PyContext_Enter(context)
    try:
        return callback()
    finally:
        PyContext_Exit(context)


cdef object readable(bytes raw):
    """The address that Python's sockets would give for a raw sockaddr; None for families that are not decoded here."""
    if len(raw) < 2:
        return None
    family = struct.unpack_from("=H", raw)[0]
    if family == socket_module.AF_INET and len(raw) >= 8:
        return socket_module.inet_ntop(family, raw[4:8]), struct.unpack_from("!H", raw, 2)[0]
    if family == socket_module.AF_INET6 and len(raw) >= 28:
        port, flow = struct.unpack_from("!HI", raw, 2)
        return socket_module.inet_ntop(family, raw[8:24]), port, flow, struct.unpack_from("=I", raw, 24)[0]
    if family == socket_module.AF_UNIX:
        path = raw[2:]
        return path if path[:1] == b"\0" else os.fsdecode(path.partition(b"\0")[0])
    return None


cdef class Receive(Operation):
    """Receives for one connection: again and again into pool buffers, or a word each time that large reads are worth a
    try.

    Large reads are made when it comes to deliver, straight into new bytes: what is read is delivered, and mostly sent
    on, while it is in the cache.
    """

    cdef int prepare(self) except -1:
        cdef Stream stream = self.stream
        self.polls = stream.direct
        if self.polls:
            return stream.page.submit(self, CALL_POLL, stream.fd, NULL, 0, 0, POLLIN | POLLRDHUP,
                                      ENTRY_MULTISHOT | ENTRY_OWNED)
        return stream.page.submit(self, CALL_RECV, stream.fd, NULL, 0, 0, 0, ENTRY_MULTISHOT | ENTRY_POOL | ENTRY_OWNED)

    cdef int complete(self, int res, uint32_t flags) except -1:
        if self.stream is None:
            return 0
        if self.polls and res > 0:
            # Back to the pool meanwhile?  Then the receive that comes next sees what has come.
            self.stream.readable = self.stream.direct
            return self.stream.wake_up()
        return self.stream.received(res, flags)


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
        cdef Stream stream = self.stream
        if self.vector != NULL:
            self.fill_vector()
            return stream.page.submit(self, CALL_SENDMSG, stream.fd, &self.header, 1, 0, MSG_WAITALL | MSG_NOSIGNAL,
                                      flags)
        return stream.page.submit(self, CALL_SEND, stream.fd, PyBytes_AS_STRING(self.keep) + self.offset,
                                  min(self.total, <size_t> SEND_MOST), 0, MSG_WAITALL | MSG_NOSIGNAL, flags)

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
        self.keep = None
        PyMem_Free(self.vector)
        self.vector = NULL
        return 0

    cdef int complete(self, int res, uint32_t flags) except -1:
        cdef Stream stream = self.stream
        if stream is None:
            return self.unload()
        if res >= 0:
            stream.unsent -= res
            self.advance(res)
        elif res != -EAGAIN and res != -ECANCELED:
            self.unload()
            return stream.send_failed(-res)
        if self.total and not stream.dropping and not stream.page.closed:
            # A short send, no memory just now, or a page that is being replaced: go on.
            return self.prepare(ENTRY_OWNED | ENTRY_POLL_FIRST if res == -EAGAIN else ENTRY_OWNED)
        self.unload()
        return stream.sent()

    def __dealloc__(self):
        PyMem_Free(self.vector)


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


@cython.no_gc_clear  # whether the fd is ours to close depends on the socket object
cdef class Stream(Endpoint):
    """One connection.  What asyncio's contract calls a transport is `StreamTransport`, which holds one of these."""

    def __dealloc__(self):
        if self.fd < 0:
            return
        if self.sock is None:
            close_fd(self.fd)
            return
        try:
            self.sock._io_refs -= 1
            self.sock.close()
        except AttributeError:
            # At the interpreter's end the socket may have been taken apart already; it closes its fd by itself.
            return

    def __cinit__(self):
        self.fd = -1

    def __repr__(self):
        """In debug mode, slow deliveries are reported by it."""
        return f"{self.describe()} of {self.protocol!r}"

    # ---- from the ready queue

    cdef int run(self, Turn turn) except -1:
        cdef Layer layer
        self.queued = False
        if self.state == CLOSED:
            return 0
        if self.fresh:
            self.introduce()
        if self.state == OPEN:
            self.deliver()
        if self.layer is not None:
            layer = self.layer
            layer.settle()
        if self.protocol_paused and self.unsent <= self.low:
            self.resume_protocol()
        if self.drained is not None and (self.unsent == 0 or self.dropping):
            self.tell_drained_lost() if self.dropping else self.tell_drained()
        if self.state == CLOSING:
            self.lose()
        return 0

    cdef int introduce(self) except -1:
        """connection_made, then whoever waits for the connection."""
        self.fresh = False
        self.introduced = True
        try:
            call_in(self.context, self.protocol.connection_made, self.facade)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self.complain("Exception in callback connection_made", error)
        waiter = self.waiter
        if waiter is not None:
            self.waiter = None
            if not waiter.done():
                waiter.set_result(None)
        return 0

    # ---- receiving

    cdef int arm(self) except -1:
        """Have a receive in flight, if reading is wanted."""
        if self.state != OPEN or self.paused or self.finished or self.came_eof or self.came_error:
            return 0
        if self.readable:
            self.wake_up()
        return self.receive.prepare() if self.receive.user_data == 0 else 0

    cdef int received(self, int res, uint32_t flags) except -1:
        """One completion of the receive.  Bookkeeping only: `deliver` calls the protocol."""
        if res > 0:
            data = self.page.take_buffer(res, flags)
            if self.state != OPEN:
                return self.wake_up()
            self.count_full_reads(res, flags)
            self.keep_data(data)
            if self.receive.user_data != 0 and (self.paused or self.behind()):
                self.page.cancel(self.receive)
        elif res == 0:
            self.came_eof = True
        elif res == -ENOBUFS:
            self.page.pool_empty += 1
            pool_grow(&self.page.pool, FIRST_BUFFERS)
        elif res != -ECANCELED and res != -EAGAIN:
            self.came_error = -res
        return self.wake_up()

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
            self.direct = True
            self.direct_size = DIRECT_LEAST
            self.full_reads = self.small_reads = 0
            if flags & COMPLETION_MORE:
                self.page.cancel(self.receive)
        return 0

    cdef int count_small_reads(self, size_t size) except -1:
        """Large reads: larger ones if they are filled, back to the pool if they bring little."""
        if size >= self.direct_size and self.direct_size < DIRECT_MOST:
            self.direct_size *= 2
        self.small_reads = self.small_reads + 1 if size < self.page.pool.buffer_size else 0
        if self.small_reads >= SMALL_READS_FOR_POOL:
            self.direct = self.readable = False
            if self.receive.user_data != 0:
                self.page.cancel(self.receive)
        return 0

    cdef int deliver(self) except -1:
        if self.readable and not self.paused and self.inbox is None:
            if self.data_received is None and self.layer is None:
                return self.pull_into_buffer()
            self.pull()
        if not self.paused and self.inbox is not None:
            self.deliver_data()
        return self.after_delivery()

    cdef int after_delivery(self) except -1:
        if self.paused or self.state != OPEN or self.inbox is not None:
            return 0
        if self.came_error:
            self.fatal(OSError(self.came_error, os.strerror(self.came_error)), "Fatal read error on socket transport")
        elif self.came_eof and not self.finished:
            self.deliver_eof()
        else:
            self.arm()
        return 0

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
        if count == 0:
            self.came_eof = True
        elif count < 0 and error == EAGAIN:
            # Only now is it sure that the poll in flight will tell of what comes next.
            self.readable = False
        elif count < 0 and error != EINTR:
            self.came_error = error
        return count

    cdef int pull_into_buffer(self) except -1:
        """Read up to about `direct_size`, straight into a BufferedProtocol's buffers."""
        cdef size_t done = 0
        cdef ssize_t count = 1
        protocol = self.protocol
        PyContext_Enter(self.context)
        try:
            while (count > 0 and done < self.direct_size and not self.paused and self.state == OPEN
                    and self.protocol is protocol):
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
        return self.after_delivery()

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
        cdef unsigned char[::1] view
        protocol = self.protocol
        PyContext_Enter(self.context)
        try:
            while done < total:
                if self.paused or self.state != OPEN or self.protocol is not protocol:
                    # The protocol has changed its mind meanwhile.
                    self.keep_rest(data[done:])
                    return 0
                buffer = protocol.get_buffer(total - done)
                view = memoryview(buffer).cast("B")
                room = view.shape[0]
                if room == 0:
                    raise RuntimeError("get_buffer() returned an empty buffer")
                room = min(room, total - done)
                memcpy(&view[0], PyBytes_AS_STRING(data) + done, room)
                view = None
                done += room
                protocol.buffer_updated(room)
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
        if not self.paused and self.state == OPEN:
            self.wake_up()
        return 0

    cdef int deliver_eof(self) except -1:
        self.finished = True
        if self.turn._debug:
            logger.debug("%r received EOF", self.facade)
        try:
            keep_open = call_for(self.context, self.protocol.eof_received)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            return self.fatal(error, "Fatal error: protocol.eof_received() call failed.")
        if not keep_open:
            self.close()
        return 0

    # ---- sending

    cdef int write(self, object data) except -1:
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"data argument must be a bytes-like object, not {type(data).__name__!r}")
        if self.eof_written:
            raise RuntimeError("Cannot call write() after write_eof()")
        if self.held:
            raise RuntimeError("unable to write; sendfile is in progress")
        if not data:
            return 0
        if self.state == CLOSED or self.dropping or self.writes_lost:
            return self.lost_write()
        # Whatever may change under our hands is copied now.
        self.enqueue(<bytes> data if type(data) is bytes else bytes(data))
        return self.after_write()

    cdef int lost_write(self) except -1:
        if self.writes_lost >= constants.LOG_THRESHOLD_FOR_CONNLOST_WRITES:
            logger.warning("socket.send() raised exception.")
        self.writes_lost += 1
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
        if self.unsent >= HEAVY:
            self.turn.heavy = True
        if self.unsent > self.high and not self.protocol_paused:
            self.pause_protocol()
        return 0

    cdef int send_in_time(self) except -1:
        """Have what was written sent: at the end of the turn or, if that has no advantage, now."""
        cdef bint busy = self.send is not None and self.send.user_data != 0
        if self.written:
            return 0
        if not busy and self.may_send_at_once():
            return self.send_at_once()
        # A layer encrypts while a send is in flight, too.
        return self.wants_flush() if not busy or self.layer is not None else 0

    cdef bint may_send_at_once(self) noexcept:
        """Whether a write has nothing to wait for: no other writes of this turn, as far as one can tell.

        The peer then has its answer while the callback that wrote it goes on.
        """
        if self.prompt_in == <uint8_t> self.turn.turns:
            # The second write of a turn: in the next ones, wait and join them.
            self.several = SEVERAL
        return self.several == 0 and self.unsent < HEAVY and self.turn.at_leisure()

    cdef int send_at_once(self) except -1:
        self.prompt_in = <uint8_t> self.turn.turns
        self.turn.prompt += 1
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
        if self.outbox is None or (self.send is not None and self.send.user_data != 0):
            return 0
        if self.send is None:
            self.send = Send.__new__(Send)
            self.send.stream = self
        written = self.outbox
        self.outbox = None
        self.send.load(written)
        return self.send_now() if self.turn.sparse else self.send.prepare(ENTRY_OWNED)

    cdef int send_now(self) except -1:
        """Where an entry has nothing to share with others, a call here and now is cheaper than entry and completion."""
        cdef Send rest = self.send
        cdef ssize_t count
        cdef int error
        if rest.vector != NULL:
            rest.fill_vector()
            count = sendmsg(self.fd, &rest.header, MSG_DONTWAIT | MSG_NOSIGNAL)
        else:
            count = send(self.fd, PyBytes_AS_STRING(rest.keep), min(rest.total, <size_t> SEND_MOST),
                         MSG_DONTWAIT | MSG_NOSIGNAL)
        error = errno
        self.page.direct_calls += 1
        if count < 0 and error != EAGAIN and error != EINTR:
            rest.unload()
            if error == EPIPE:
                # The receive has been told what happened, or is about to be.
                self.page.await_end(self.receive)
            return self.send_failed(error)
        if count > 0:
            self.unsent -= count
            rest.advance(count)
        if rest.total:
            return rest.prepare(ENTRY_OWNED | ENTRY_POLL_FIRST)
        rest.unload()
        return self.sent()

    cdef int sent(self) except -1:
        """The send in flight has ended.  Bookkeeping only."""
        if self.dropping:
            return self.wake_up()
        if self.outbox is not None and not self.page.closed:
            self.send_more()
        elif self.eof_written and not self.eof_sent:
            self.send_eof()
        if self.layer is not None:
            self.layer.progressed()
        if self.state == CLOSING or self.protocol_paused or self.drained is not None:
            self.wake_up()
        return 0

    cdef int send_failed(self, int error) except -1:
        # What was to follow must not be sent after a gap.
        self.outbox = None
        if error == EPIPE and self.came_error:
            error = self.came_error
        if self.state == OPEN or self.error is None:
            self.fatal(OSError(error, os.strerror(error)), "Fatal write error on socket transport")
        return self.wake_up()

    cdef int send_eof(self) except -1:
        self.eof_sent = True
        self.page.direct_calls += 1
        shutdown(self.fd, SHUT_WR)
        return 0

    cdef int write_eof(self) except -1:
        if self.state != OPEN or self.eof_written:
            return 0
        self.eof_written = True
        if self.unsent == 0:
            self.send_eof()
        return 0

    cdef int pause_protocol(self) except -1:
        self.protocol_paused = True
        self.paused_protocol = self.protocol
        try:
            self.protocol.pause_writing()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self.complain("protocol.pause_writing() failed", error)
        return 0

    cdef int resume_protocol(self) except -1:
        self.protocol_paused = False
        protocol, self.paused_protocol = self.paused_protocol, None
        try:
            call_for(self.context, protocol.resume_writing)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self.complain("protocol.resume_writing() failed", error)
        if self.state == CLOSING and not self.protocol_paused:
            self.writes_lost += 1
        return 0

    cdef int tell_drained(self) except -1:
        waiters = self.drained
        self.drained = None
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
        return 0

    # ---- ending

    cdef bint ending(self) noexcept:
        return self.state == CLOSING

    cdef int close(self) except -1:
        """Stop reading, let what was written go out, then end."""
        cdef Layer layer
        if self.state != OPEN:
            return 0
        layer = self.layer
        if layer is not None and not self.dropping:
            layer.carrier_closing()
        self.state = CLOSING
        self.turn.endings += 1
        self.closed_in = self.turn.turns
        if not self.protocol_paused:
            # Else writes are taken until it has been resumed: TLS has its last record to send then.
            self.writes_lost += 1
        if self.receive.user_data != 0:
            self.page.cancel(self.receive)
        return self.end_soon() if self.unsent == 0 else self.wake_up()

    cdef int end_soon(self) except -1:
        """Put connection_lost in line with the callbacks, as asyncio does: after those due already, before others."""
        if self.page.closed:
            return 0
        self.turn.soon(self.facade._go_on, (), None)
        return 0

    cdef int force_close(self, object error) except -1:
        """End now; what was not sent is dropped."""
        if self.state == CLOSED or self.dropping:
            return 0
        if self.outbox is not None and self.came_error == 0:
            self.last_try()
        if self.state == OPEN:
            self.close()
        self.dropping = True
        self.closed_in = self.turn.turns
        if self.error is None:
            self.error = error
        self.outbox = None
        if self.held:
            # sendfile() holds the fd until this makes it fail.
            self.page.direct_calls += 1
            shutdown(self.fd, SHUT_RDWR)
        if self.send is not None and self.send.user_data != 0:
            self.page.cancel(self.send)
        return self.end_soon()

    cdef int last_try(self) except -1:
        """abort() drops what the socket has no room for; what was written in this turn may not have been tried yet."""
        if self.held or (self.send is not None and self.send.user_data != 0):
            return 0
        written = b"".join(self.outbox) if isinstance(self.outbox, list) else self.outbox
        self.page.direct_calls += 1
        send(self.fd, PyBytes_AS_STRING(written), PyBytes_GET_SIZE(written), MSG_DONTWAIT | MSG_NOSIGNAL)
        return 0

    cdef int lose(self) except -1:
        """connection_lost, once nothing is in flight any more."""
        if self.held or self.receive.user_data != 0 or (self.send is not None and self.send.user_data != 0):
            return 0
        if self.outbox is not None and not self.dropping:
            return self.wants_flush()
        if self.closed_in == self.turn.turns:
            # Callbacks that this turn has made due come first.
            return self.end_soon()
        self.state = CLOSED
        self.unsent = 0
        self.inbox = self.outbox = None
        try:
            if self.introduced:
                call_in(self.context, self.protocol.connection_lost, self.error)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self.complain("Exception in callback connection_lost", error)
        finally:
            self.let_go()
        return 0

    cdef int let_go(self) except -1:
        """Close the fd and break the reference cycles."""
        cdef int fd = self.fd
        self.turn.endings -= 1
        waiter, self.waiter = self.waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_exception(self.error or ConnectionAbortedError("the connection was closed"))
        self.tell_drained_lost()
        self.fd = -1
        self.turn.owned.pop(fd, None)
        if self.sock is None or release_socket(self.sock) == fd:
            self.page.close_owned(fd)
        self.sock = None
        server, self.server = self.server, None
        if server is not None:
            self.turn._detach_from(server, self.facade)
        self.receive.stream = None
        if self.send is not None:
            self.send.stream = None
        self.facade = self.protocol = self.paused_protocol = self.data_received = None
        self.layer = None
        return 0

    cdef int tell_drained_lost(self) except -1:
        waiters, self.drained = self.drained, None
        for waiter in waiters or ():
            if not waiter.done():
                waiter.set_exception(ConnectionError("Connection is closed by peer"))
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

    # ---- what the transport passes on

    cdef int pause_reading(self) except -1:
        if self.state == OPEN and not self.paused:
            # A receive in flight is ended when it brings something, so that a quick resume costs nothing.
            self.paused = True
            if self.turn._debug:
                logger.debug("%r pauses reading", self.facade)
        return 0

    cdef int resume_reading(self) except -1:
        if self.state == OPEN and self.paused:
            self.paused = False
            if self.turn._debug:
                logger.debug("%r resumes reading", self.facade)
            if (self.inbox is not None or self.came_eof or self.came_error or self.readable
                    or self.receive.user_data == 0):
                self.wake_up()
        return 0

    cdef int adopt_protocol(self, object protocol) except -1:
        self.protocol = protocol
        self.layer = <Layer> protocol if isinstance(protocol, Layer) else None
        if isinstance(protocol, asyncio.BufferedProtocol):
            self.data_received = None
            return 0
        try:
            self.data_received = protocol.data_received
        except AttributeError:
            # An error only when data comes: some only write.
            self.data_received = lambda data: protocol.data_received(data)
        return 0

    cdef object socket_object(self):
        """The socket object, made when somebody asks for it."""
        if self.sock is None and self.fd >= 0:
            self.sock = socket_module.socket(fileno=self.fd)
            self.sock.setblocking(False)
            hold_socket(self.sock)
        return self.sock

    cdef int set_limits(self, object high, object low) except -1:
        if high is None:
            high = HIGH_WATER if low is None else 4 * low
        if low is None:
            low = high // 4
        if not high >= low >= 0:
            raise ValueError(f"high ({high!r}) must be >= low ({low!r}) must be >= 0")
        self.high = high
        self.low = low
        if self.unsent > self.high and not self.protocol_paused:
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

    cdef str describe(self):
        cdef str name = ("open", "closing", "closed")[<int> self.state]
        reading = "polling" if self.state == OPEN and not self.paused else "idle"
        writing = "polling" if self.unsent else "idle"
        return f"<StreamTransport {name} fd={self.fd} read={reading} write=<{writing}, bufsize={self.unsent}>>"

    cdef object extra_info(self, object name, object default):
        if self.extra is not None and name in self.extra:
            return self.extra[name]
        if name == "peername":
            found = readable(self.peer) if self.peer is not None else default
        elif name == "sockname":
            found = readable(self.name) if self.name is not None else default
        elif name == "socket" and self.fd >= 0:
            found = trsock.TransportSocket(self.socket_object())
        else:
            return default
        if self.extra is None:
            self.extra = {}
        self.extra[name] = found
        return found


cdef bytes raw_address(int fd, bint peer):
    """A socket's sockaddr as it is; decoded only when somebody asks.  None if it has none."""
    cdef char[128] raw
    cdef socklen_t size = sizeof(raw)
    if (getpeername(fd, <sockaddr*> raw, &size) if peer else getsockname(fd, <sockaddr*> raw, &size)) != 0:
        return None
    return PyBytes_FromStringAndSize(raw, min(size, <socklen_t> sizeof(raw)))


cdef Stream open_stream(Turn turn, int fd, object protocol, object waiter, object server, dict extra, object sock):
    """Take over a connected, non-blocking socket.  `fd` is ours from here on; `sock`, if given, is its socket object.

    Nothing happens before `start` (or the ready queue) calls connection_made.
    """
    cdef Stream stream = Stream.__new__(Stream)
    stream.turn = turn
    stream.page = turn.page
    stream.fd = fd
    stream.sock = sock
    stream.extra = extra
    stream.server = server
    stream.waiter = waiter
    stream.context = PyContext_CopyCurrent()
    stream.high = HIGH_WATER
    stream.low = HIGH_WATER // 4
    stream.fresh = True
    stream.receive = Receive.__new__(Receive)
    stream.receive.retractable = True
    try:
        # What is no protocol is refused here, while there is nothing to undo.
        protocol.connection_made
        stream.adopt_protocol(protocol)
        stream.peer = raw_address(fd, True)
        stream.name = raw_address(fd, False)
        stream.facade = new_transport(stream)
        turn.owned[fd] = stream.facade
    except BaseException:
        # The fd is the caller's again.
        stream.fd = -1
        stream.sock = None
        raise
    stream.receive.stream = stream
    if sock is not None:
        # What a cancelled call on the socket has brought and nobody has seen comes first.
        stream.inbox = turn._take_leftover(sock)
    if server is not None:
        turn._attach_to(server, stream.facade)
    return stream


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


def make_transport(Turn turn not None, sock, protocol, waiter, extra, server):
    """A transport for a connected, non-blocking socket object; connection_made is called in the next turn."""
    cdef Stream stream = open_stream(turn, sock.fileno(), protocol, waiter, server, dict(extra or ()), sock)
    hold_socket(sock)
    # In line with the callbacks: whoever is cancelled while it waits for the connection finds it made.
    turn.soon(stream.facade._go_on, (), None)
    return stream.facade


def take_socket(sock):
    """`hold_socket` for the other modules of this floor."""
    hold_socket(sock)


def count_streams(dict owned):
    """How many of the owners are stream connections."""
    return sum(isinstance(owner, StreamTransport) for owner in owned.values())


cdef object new_transport(Stream stream):
    transport = StreamTransport.__new__(StreamTransport)
    transport._core = stream
    return transport


class StreamTransport(asyncio.Transport):
    """A connection of this loop: asyncio's transport contract.  Source: asyncio's documentation, "Transports"."""

    # Tests replace methods of transports by mocks, which an instance dictionary takes.
    __slots__ = ("_core", "__weakref__", "__dict__")

    _start_tls_compatible = True
    _sendfile_compatible = constants._SendfileMode.TRY_NATIVE

    def get_extra_info(self, name, default=None):
        """`socket`, `peername`, `sockname`, or what TLS adds."""
        return (<Stream> self._core).extra_info(name, default)

    def set_protocol(self, protocol):
        """Have what comes from now on delivered to `protocol`."""
        (<Stream> self._core).adopt_protocol(protocol)

    def get_protocol(self):
        """The protocol that data is delivered to."""
        return (<Stream> self._core).protocol

    @property
    def _protocol_paused(self):
        # asyncio's sendfile fallback asks for it.
        return (<Stream> self._core).protocol_paused

    def _resume_instead(self, protocol):
        """Have `protocol` told, not the one that was paused, when writing may go on."""
        cdef Stream core = self._core
        if core.protocol_paused:
            core.paused_protocol = protocol

    def is_closing(self):
        """Whether the connection is closed, or on its way to."""
        return (<Stream> self._core).state != OPEN

    def is_reading(self):
        """Whether data is delivered as it comes."""
        cdef Stream core = self._core
        return core.state == OPEN and not core.paused

    def pause_reading(self):
        """Deliver nothing until `resume_reading`.  What has come already is kept."""
        (<Stream> self._core).pause_reading()

    def resume_reading(self):
        """Deliver again."""
        (<Stream> self._core).resume_reading()

    def write(self, data):
        """Send `data` (bytes, bytearray or memoryview; copied unless bytes) after everything written before."""
        (<Stream> self._core).write(data)

    def writelines(self, list_of_data):
        """Write each item; they leave in one vectored send."""
        cdef Stream core = self._core
        if core.eof_written:
            raise RuntimeError("Cannot call writelines() after write_eof()")
        if core.several == 0:
            core.several = 1
        for data in list_of_data:
            core.write(data)

    def write_eof(self):
        """Send the end of the stream after everything written before; reading goes on."""
        (<Stream> self._core).write_eof()

    def can_write_eof(self):
        """True: a socket can be closed for writing alone."""
        return True

    def get_write_buffer_size(self):
        """Bytes written that the kernel has not taken yet."""
        return (<Stream> self._core).unsent

    def get_write_buffer_limits(self):
        """The (low, high) marks in bytes."""
        cdef Stream core = self._core
        return core.low, core.high

    def set_write_buffer_limits(self, high=None, low=None):
        """More than `high` unsent bytes pause the protocol, `low` or less resume it."""
        (<Stream> self._core).set_limits(high, low)

    def close(self):
        """Stop reading, send what was written, then end the connection."""
        (<Stream> self._core).close()

    def abort(self):
        """End the connection now; unsent data is lost."""
        (<Stream> self._core).force_close(None)

    def _force_close(self, exc):
        (<Stream> self._core).force_close(exc)

    def _go_on(self):
        """What the connection has in line with callbacks: connection_made, connection_lost."""
        cdef Stream core = self._core
        if core.state == CLOSING and core.closed_in != core.turn.turns and core.page.eager:
            core.page.await_end(core.receive)
        core.run(core.turn)

    def __repr__(self):
        return (<Stream> self._core).describe()

    def __del__(self):
        cdef Stream core = self._core
        if core.fd >= 0:
            warnings.warn(f"unclosed transport {self!r}", ResourceWarning, source=self)
