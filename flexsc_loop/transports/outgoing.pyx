# cython: language_level=3, cdivision=True
"""Floor 4: datagrams on their way out.

Owns: what was sent and the kernel has not taken, and the accounting of it.  Imports: protocols, page, operation, turn.

Where the loop's own thread serves the page, a datagram leaves at once.  Only bursts leave together, and so do answers
to several that have come together.  That is one sendmmsg(2), which keeps the order even when the socket is full,
and costs less than an entry for each datagram.  With a syscall thread what a turn sends leaves at its end, as linked
entries, which do the same from its core.
"""
import os
import sys
from asyncio import constants
from asyncio.log import logger

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport uint32_t, uint64_t, uintptr_t
from libc.string cimport memset

from flexsc_loop.syscalls.operation cimport Operation
from flexsc_loop.syscalls.page cimport (
    CALL_POLL, CALL_SENDMSG, EAGAIN, ECANCELED, ENTRY_LINK, ENTRY_OWNED,
)
from flexsc_loop.syscalls.posix_socket cimport MSG_NOSIGNAL, POLLOUT
from flexsc_loop.transports.protocols cimport CLOSED, CLOSING, OPEN, ProtocolEndpoint
from flexsc_loop.turn.handles cimport queue_count, queue_free, queue_peek, queue_pop, queue_push


cdef extern from "datagrams.h":
    enum:
        DATAGRAMS_AT_ONCE

    struct datagram_batch:
        unsigned int count

    void datagrams_add(datagram_batch* batch, void* data, size_t size, void* name, size_t name_size) noexcept
    int datagram_send(int fd, void* data, size_t size, void* name, size_t name_size, uint64_t* calls) noexcept
    unsigned int datagrams_send(int fd, datagram_batch* batch, bint one_by_one, uint64_t* calls, int* error) noexcept

cdef enum:
    BY_SOCKET = 1                    # lowest bit of a queued name: not a sockaddr, but what the program said
    PROMPT_MOST = 4                  # so many of a turn leave at once; more are a burst, and cheaper sent together

cdef double RETRY_LEAST = 0.001
cdef double RETRY_MOST = 0.05
# What a queued datagram counts for besides its payload, as in asyncio.
cdef size_t HEADER_SIZE = 8 if sys.version_info >= (3, 13) else 0


cdef class Writable(Operation):
    """Waits until a full socket has room again."""

    cdef int prepare(self) except -1:
        return self.endpoint.page.submit(self, CALL_POLL, self.endpoint.fd, NULL, 0, 0, POLLOUT, ENTRY_OWNED)

    cdef int complete(self, int res, uint32_t flags) except -1:
        if self.endpoint is None:
            return 0
        return self.endpoint.room(res)


cdef class SendTo(Operation):
    """Sends one datagram."""

    cdef int prepare(self, uint32_t flags) except -1:
        self.payload.iov_base = PyBytes_AS_STRING(self.data)
        self.payload.iov_len = PyBytes_GET_SIZE(self.data)
        memset(&self.header, 0, sizeof(self.header))
        self.header.msg_iov = &self.payload
        self.header.msg_iovlen = 1
        if self.name is not None:
            self.header.msg_name = PyBytes_AS_STRING(self.name)
            self.header.msg_namelen = <unsigned int> PyBytes_GET_SIZE(self.name)
        return self.endpoint.page.submit(self, CALL_SENDMSG, self.endpoint.fd, &self.header, 1, 0, MSG_NOSIGNAL,
                                         ENTRY_OWNED | flags)

    cdef int complete(self, int res, uint32_t flags) except -1:
        self.result = res
        if res >= 0:
            self.endpoint.count_sent(res)
        return self.endpoint.landed()


@cython.no_gc_clear  # the queue's references are not the collector's to drop
cdef class Outgoing(ProtocolEndpoint):
    """The sending half of an endpoint."""

    def __cinit__(self):
        self.fd = -1
        self.flight = []
        self.spare = []
        self.writable = Writable.__new__(Writable)
        self.writable.endpoint = self
        self.writable.retractable = True

    def __dealloc__(self):
        self.drop_outbox()
        queue_free(&self.outbox)

    cdef int note_error(self, object error) except -1:
        """Have the protocol told of an error that does not end the endpoint."""
        return 0

    cdef int fatal(self, object error, str message) except -1:
        """An error that ends the endpoint."""
        return 0

    cdef int lost_write(self) except -1:
        if self.writes_lost >= constants.LOG_THRESHOLD_FOR_CONNLOST_WRITES:
            logger.warning("socket.send() raised exception.")
        self.writes_lost += 1
        return 0

    cdef int put(self, bytes data, object name, bint as_it_is) except -1:
        """Send a datagram, or queue it.  name: a sockaddr as bytes, or None on a connected socket, or (not as it is) an
        address that only Python's socket module understands."""
        cdef bint busy = self.busy()
        cdef bint at_once = not busy and self.may_send_at_once()
        cdef int error
        if at_once and as_it_is and queue_count(&self.outbox) == 0:
            error = self.send_one(data, <bytes> name)
            if error == 0:
                return 0
            if error != EAGAIN:
                return self.note_error(OSError(error, os.strerror(error)))
        self.enqueue(data, name, as_it_is)
        if busy:
            pass  # sent when that has ended
        elif at_once or (not self.by_page and (self.unsent > self.high
                                               or queue_count(&self.outbox) >= 2 * DATAGRAMS_AT_ONCE)):
            self.send_from_here()
        elif not self.written:
            self.wants_flush()
        return self.pause_if_much()

    cdef bint may_send_at_once(self) except? False:
        """Whether not to wait for more to go with it.  The peer has it while the callback that sends it goes on."""
        if self.state != OPEN:
            return True  # connection_lost does not wait for it
        if not self.by_page and not self.gathering:
            if self.prompt_in != <uint32_t> self.turn.turns:
                self.prompt_in = <uint32_t> self.turn.turns
                self.prompt = 0
            self.prompt += 1
            if self.prompt <= PROMPT_MOST or not self.turn.inside:
                return True
        return self.turn.sends_at_once(False)

    cdef int send_one(self, bytes data, bytes name) noexcept:
        """Returns 0 or an errno."""
        cdef void* to = NULL
        cdef size_t size = 0
        if name is not None:
            to = PyBytes_AS_STRING(name)
            size = PyBytes_GET_SIZE(name)
        cdef int error = datagram_send(self.fd, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), to, size,
                                       &self.page.direct_calls)
        if error == 0:
            self.count_sent(PyBytes_GET_SIZE(data))
        return error

    cdef void count_sent(self, Py_ssize_t size) noexcept:
        """A datagram of so many bytes, none perhaps, has gone."""
        self.page.stats.counts.bytes_out += size
        self.page.stats.counts.messages_out += 1

    cdef int enqueue(self, bytes data, object name, bint as_it_is) except -1:
        cdef uintptr_t tagged = <uintptr_t> <void*> name
        if not as_it_is:
            tagged |= BY_SOCKET
        if not queue_push(&self.outbox, <void*> data):
            raise MemoryError
        if not queue_push(&self.outbox, <void*> tagged):
            self.outbox.tail -= 1
            raise MemoryError
        Py_INCREF(data)
        Py_INCREF(name)
        self.unsent += PyBytes_GET_SIZE(data) + HEADER_SIZE
        return 0

    cdef int flush(self) except -1:
        if queue_count(&self.outbox) == 0 or self.busy() or self.page.closed:
            return 0
        return self.take_off() if self.by_page else self.send_from_here()

    cdef int send_from_here(self) except -1:
        """Send until nothing is left or the socket is full."""
        while queue_count(&self.outbox):
            if <uintptr_t> queue_peek(&self.outbox, 1) & BY_SOCKET:
                if not self.send_by_socket():
                    break
            elif not self.send_batch():
                return self.wait_for_room()
            self.lied_to = False
        return self.sent()

    cdef bint send_batch(self) except -1:
        """Send what is next, in one call.  Returns whether the socket took any."""
        cdef datagram_batch batch
        cdef size_t at = 0, count = queue_count(&self.outbox)
        cdef void* data
        cdef void* name
        cdef unsigned int sent
        cdef int error = 0
        batch.count = 0
        while at < count and batch.count < DATAGRAMS_AT_ONCE:
            data = queue_peek(&self.outbox, at)
            name = queue_peek(&self.outbox, at + 1)
            if <uintptr_t> name & BY_SOCKET:
                break
            if name == <void*> None:
                datagrams_add(&batch, PyBytes_AS_STRING(<object> data), PyBytes_GET_SIZE(<object> data), NULL, 0)
            else:
                datagrams_add(&batch, PyBytes_AS_STRING(<object> data), PyBytes_GET_SIZE(<object> data),
                              PyBytes_AS_STRING(<object> name), PyBytes_GET_SIZE(<object> name))
            at += 2
        sent = datagrams_send(self.fd, &batch, self.connected, &self.page.direct_calls, &error)
        for _ in range(sent):
            self.count_sent(PyBytes_GET_SIZE(<object> queue_peek(&self.outbox, 0)))
            self.take_out()
        if error == 0:
            return True
        if error == EAGAIN:
            return sent > 0
        self.take_out()
        self.note_error(OSError(error, os.strerror(error)))
        return True

    cdef bint send_by_socket(self) except -1:
        """Send what is next to an address that only Python's socket module understands.  False: no more now."""
        data = <object> queue_peek(&self.outbox, 0)
        address = <object> <void*> (<uintptr_t> queue_peek(&self.outbox, 1) & ~<uintptr_t> BY_SOCKET)
        failure = None
        self.page.direct_calls += 1
        self.calling = True
        try:
            self.sock.sendto(data, address)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            failure = error
        finally:
            self.calling = False
        if self.dropping:
            self.drop_outbox()
            return False
        if isinstance(failure, (BlockingIOError, InterruptedError)):
            self.wait_for_room()
            return False
        self.take_out()
        if failure is None:
            return True
        if isinstance(failure, OSError):
            self.note_error(failure)
            return True
        self.fatal(failure, "Fatal write error on datagram transport")
        return False

    cdef int take_out(self) except -1:
        """Drop the first datagram of the outbox: it was sent, or can't be."""
        cdef void* data = queue_pop(&self.outbox)
        cdef uintptr_t tagged = <uintptr_t> queue_pop(&self.outbox)
        self.unsent -= PyBytes_GET_SIZE(<object> data) + HEADER_SIZE
        Py_DECREF(<object> data)
        Py_DECREF(<object> <void*> (tagged & ~<uintptr_t> BY_SOCKET))
        return 0

    cdef int wait_for_room(self) except -1:
        """The socket is full.

        A Unix socket that is not connected is writable even while the receiver's queue is full, and nothing tells when
        it is not any more: then try again a little later.
        """
        if not self.lied_to:
            self.writable.prepare()
            return self.sent()
        self.retry_delay = min(2 * self.retry_delay, RETRY_MOST)
        self.retry = self.turn.call_later(self.retry_delay, self.try_again)
        return self.sent()

    cdef int room(self, int res) except -1:
        """The wait for room has ended.  Bookkeeping only."""
        if self.page.closed or self.dropping:
            return self.wake_up()
        if res > 0:
            self.lied_to = True
            self.retry_delay = RETRY_LEAST / 2
        return self.wants_flush()

    def try_again(self):
        """Send what did not fit."""
        self.retry = None
        if self.state != CLOSED:
            self.flush()

    # With a syscall thread.

    cdef int take_off(self) except -1:
        """Submit what is next, linked, so that order is kept even if the socket is full."""
        cdef SendTo op
        cdef unsigned int count = 0
        cdef void* name
        while queue_count(&self.outbox) and <uintptr_t> queue_peek(&self.outbox, 1) & BY_SOCKET:
            if not self.send_by_socket():
                return 0
        while queue_count(&self.outbox) and count < DATAGRAMS_AT_ONCE:
            name = queue_peek(&self.outbox, 1)
            if <uintptr_t> name & BY_SOCKET:
                break
            op = self.spare.pop() if self.spare else SendTo.__new__(SendTo)
            op.endpoint = self
            # The references go from the queue to the operation.
            op.data = <bytes> queue_pop(&self.outbox)
            Py_DECREF(op.data)
            op.name = <bytes> queue_pop(&self.outbox)
            Py_DECREF(op.name)
            self.flight.append(op)
            count += 1
        return self.submit_flight()

    cdef int submit_flight(self) except -1:
        cdef unsigned int count = len(self.flight), i
        if count == 0:
            return self.sent()
        self.page.make_room(count)
        self.flying = count
        for i in range(count):
            (<SendTo> self.flight[i]).prepare(ENTRY_LINK if i + 1 < count else 0)
        self.turn.chains += count > 1
        return 0

    cdef int landed(self) except -1:
        """One of the flight has completed.  Bookkeeping only."""
        cdef SendTo op
        self.flying -= 1
        if self.flying:
            return 0
        flight, self.flight = self.flight, []
        self.turn.chains -= len(flight) > 1
        for op in flight:
            if (op.result == -ECANCELED or op.result == -EAGAIN) and not self.dropping and not self.page.closed:
                # One before it has failed, or the page is being replaced.
                self.flight.append(op)
                continue
            if op.result < 0 and not self.dropping:
                self.note_error(OSError(-op.result, os.strerror(-op.result)))
            self.unsent -= PyBytes_GET_SIZE(op.data) + HEADER_SIZE
            op.endpoint = op.data = op.name = None
            if len(self.spare) < DATAGRAMS_AT_ONCE:
                self.spare.append(op)
        return self.submit_flight()

    cdef int sent(self) except -1:
        """Something has been sent, or can't be just now.  Bookkeeping only."""
        if self.state == CLOSING or self.protocol_paused:
            self.wake_up()
        if queue_count(&self.outbox) and not self.busy() and not self.page.closed:
            self.wants_flush()
        return 0

    cdef int drop_outbox(self) except -1:
        if self.calling:
            return 0
        while queue_count(&self.outbox):
            self.take_out()
        return 0

    cdef bint busy(self) noexcept:
        """Whether something is being sent, or waits for room."""
        return self.writable.user_data != 0 or self.flying != 0 or self.retry is not None or self.calling

    cdef int drop_unsent(self) except -1:
        """The endpoint ends now."""
        cdef SendTo op
        self.drop_outbox()
        if self.retry is not None:
            self.retry.cancel()
            self.retry = None
        if self.writable.user_data != 0:
            self.page.cancel(self.writable)
        for op in self.flight:
            if op.user_data != 0:
                self.page.cancel(op)
        return 0
