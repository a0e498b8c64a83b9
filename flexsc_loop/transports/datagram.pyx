# cython: language_level=3, cdivision=True
"""Floor 4: datagram endpoints, UDP and Unix sockets.

Owns: the endpoint's socket from here until `connection_lost`, what was received and not delivered.  Imports: addresses,
connection, outgoing, protocols, page, operation, turn.

One operation completes again and again, each time with a whole datagram in a large pool buffer.
"""
import asyncio
import os
import socket as socket_module
import warnings
from asyncio import trsock
from asyncio.log import logger

cimport cython
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.contextvars cimport PyContext_Enter, PyContext_Exit
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.errno cimport EMSGSIZE, ENOTSOCK
from libc.stdint cimport uint32_t

from flexsc_loop.syscalls.cpython_extra cimport VECTORCALL_OFFSET, PyObject_Vectorcall
from flexsc_loop.syscalls.operation cimport Operation
from flexsc_loop.syscalls.page cimport (
    CALL_RECVMSG, COMPLETION_BUFFER, COMPLETION_BUFFER_SHIFT, DATAGRAM_MOST, EAGAIN, EBADF, ECANCELED, ENOBUFS,
    ENTRY_MULTISHOT, ENTRY_OWNED, ENTRY_POOL, FIRST_DATAGRAMS, datagram_pool, flexsc_datagram, pool_buffer,
    pool_give, pool_grow,
)
from flexsc_loop.syscalls.posix_socket cimport AF_UNIX, MSG_TRUNC
from flexsc_loop.syscalls.stats cimport stats_less
from flexsc_loop.transports.addresses cimport ADDRESS_MOST, AddressBook
from flexsc_loop.transports.connection cimport hold_socket, release_socket
from flexsc_loop.transports.outgoing cimport Outgoing
from flexsc_loop.transports.protocols cimport CLOSED, CLOSING, OPEN
from flexsc_loop.turn.handles cimport monotonic, queue_count, queue_free, queue_push, queue_take
from flexsc_loop.turn.turn cimport Turn


cdef enum:
    INET_NAME = 28                   # the sockaddr of IPv6, and more than that of IPv4
    LOOK_AT_CLOCK = 8                # datagrams that are delivered before the clock is looked at
    INBOX_MOST = 64                  # datagrams that wait to be delivered; then nothing more is received

cdef double DELIVERY_S = 0.0005      # so long before others get their turn
cdef tuple FAMILIES = (socket_module.AF_INET, socket_module.AF_INET6, socket_module.AF_UNIX)
cdef tuple TYPES = (socket_module.SOCK_DGRAM, socket_module.SOCK_RAW)


cdef class ReceiveFrom(Operation):
    """Receives datagrams for one endpoint, again and again, into pool buffers."""

    cdef int prepare(self) except -1:
        return self.endpoint.page.submit(self, CALL_RECVMSG, self.endpoint.fd, &self.header, 1, 0, 0,
                                         ENTRY_MULTISHOT | ENTRY_POOL | ENTRY_OWNED)

    cdef int complete(self, int res, uint32_t flags) except -1:
        if self.endpoint is None:
            return 0
        return self.endpoint.received(res, flags)


@cython.no_gc_clear  # the queues' references are not the collector's to drop
cdef class Datagrams(Outgoing):
    """One endpoint.  What asyncio's contract calls a transport is `DatagramTransport`, which holds one of these."""

    def __dealloc__(self):
        while queue_count(&self.inbox):
            queue_take(&self.inbox)
        queue_free(&self.inbox)
        if self.fd < 0:
            return
        try:
            self.sock._io_refs -= 1
            self.sock.close()
        except AttributeError:
            # At the interpreter's end the socket may have been taken apart already; it closes its fd by itself.
            return

    # ---- from the ready queue

    cdef int run(self, Turn turn) except -1:
        self.queued = False
        if self.state == CLOSED:
            return 0
        if self.fresh:
            return self.introduce()
        while self.errors:
            self.tell_of("error_received", self.errors.pop(0))
        # What has come is told as long as the program receives: of an error, too.
        while self.read_errors and self.state == OPEN and not self.paused:
            self.tell_of("error_received", self.read_errors.pop(0))
        if self.state == OPEN and not self.paused:
            self.deliver()
        self.resume_if_little()
        if self.state == CLOSING:
            self.lose()
        return 0

    # ---- receiving

    cdef int arm(self) except -1:
        """Have a receive in flight, if receiving is wanted."""
        if self.receive.user_data == 0 and self.state == OPEN and not self.paused:
            self.receive.prepare()
        return 0

    cdef int received(self, int res, uint32_t flags) except -1:
        """One completion of the receive.  Bookkeeping only: `deliver` calls the protocol."""
        cdef uint32_t id
        if flags & COMPLETION_BUFFER:
            id = flags >> COMPLETION_BUFFER_SHIFT
            if self.state == OPEN and res >= 0:
                self.take(<flexsc_datagram*> pool_buffer(datagram_pool(self.page, flags), id))
            pool_give(datagram_pool(self.page, flags), id)
            if self.paused and self.receive.user_data != 0:
                self.page.cancel(self.receive)
        elif res == -ENOBUFS:
            self.page.pool_empty += 1
            pool_grow(datagram_pool(self.page, flags), FIRST_DATAGRAMS)
        elif res == -EBADF or res == -ENOTSOCK:
            self.fatal(OSError(-res, os.strerror(-res)), "Fatal read error on datagram transport")
        elif res < 0 and res != -ECANCELED and res != -EAGAIN and self.state == OPEN:
            self.read_errors.append(OSError(-res, os.strerror(-res)))
        return 0 if self.queued else self.wake_up()

    cdef int take(self, const flexsc_datagram* datagram) except -1:
        """Copy the datagram out of a pool buffer."""
        cdef char* name = <char*> datagram + sizeof(flexsc_datagram)
        if datagram.flags & MSG_TRUNC:
            self.read_errors.append(OSError(EMSGSIZE, f"a datagram of more than {DATAGRAM_MOST} bytes was dropped"))
            return 0
        self.page.stats.counts.bytes_in += datagram.size
        self.page.stats.counts.messages_in += 1
        data = PyBytes_FromStringAndSize(name + self.receive.header.msg_namelen, datagram.size)
        address = self.book.decode(name, min(datagram.name_size, self.receive.header.msg_namelen))
        if not queue_push(&self.inbox, <void*> data):
            raise MemoryError
        Py_INCREF(data)
        if not queue_push(&self.inbox, <void*> address):
            self.inbox.tail -= 1
            Py_DECREF(data)
            raise MemoryError
        Py_INCREF(address)
        return 0

    cdef int deliver(self) except -1:
        """Call the protocol for what has come."""
        if queue_count(&self.inbox):
            PyContext_Enter(self.context)
            try:
                self.deliver_each()
            finally:
                self.gathering = False
                PyContext_Exit(self.context)
        if queue_count(&self.inbox) == 0:
            return self.arm()
        if self.state != OPEN:
            return 0
        # More has come than can be delivered just now: let the rest wait in the kernel.
        if self.receive.user_data != 0 and (self.late or queue_count(&self.inbox) > 2 * INBOX_MOST):
            self.page.cancel(self.receive)
        return 0 if self.paused else self.wake_up()

    cdef int deliver_each(self) except -1:
        """Until one has made something due: who waits for a datagram hears of it before the next, as in asyncio."""
        cdef size_t due = queue_count(&self.turn.ready)
        cdef object callback = None
        cdef double until = 0
        cdef unsigned int count = 0
        cdef PyObject* arguments[3]
        arguments[0] = NULL
        self.late = False
        while queue_count(&self.inbox) and self.state == OPEN and not self.paused:
            data = queue_take(&self.inbox)
            address = queue_take(&self.inbox)
            self.gathering = queue_count(&self.inbox) != 0
            arguments[1] = <PyObject*> data
            arguments[2] = <PyObject*> address
            try:
                if callback is None:
                    callback = self.protocol.datagram_received
                PyObject_Vectorcall(callback, &arguments[1], 2 | VECTORCALL_OFFSET, NULL)
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:
                self.complain("Exception in callback datagram_received", error)
            if queue_count(&self.turn.ready) != due:
                break
            count += 1
            if count % LOOK_AT_CLOCK == 0:
                if count == LOOK_AT_CLOCK:
                    until = monotonic() + DELIVERY_S
                elif monotonic() >= until:
                    self.late = True
                    break
        return 0

    cdef int note_error(self, object error) except -1:
        if self.in_call:
            # As in asyncio, in the context of whoever sends.
            try:
                self.protocol.error_received(error)
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as raised:
                self.complain("Exception in callback error_received", raised)
            return 0
        self.errors.append(error)
        return self.wake_up()

    # ---- sending

    cdef int sendto(self, object data, object address) except -1:
        cdef bytes name
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"data argument must be a bytes-like object, not {type(data).__name__!r}")
        if self.address:
            if address is not None and address != self.address:
                raise ValueError(f"Invalid address: must be None or {self.address}")
            address = self.address
        if self.state == CLOSED or (self.writes_lost and self.address):
            return self.lost_write()
        self.page.refuse_if_away()
        # Whatever may change under our hands is copied now.
        if type(data) is not bytes:
            data = bytes(data)
        name = None if self.connected else self.book.encode(address)
        self.in_call = True
        try:
            if self.connected or name is not None:
                self.put(<bytes> data, name, True)
            else:
                self.put(<bytes> data, address, False)
        finally:
            self.in_call = False
        return self.drop_unsent() if self.dropping else 0

    # ---- ending

    cdef int close(self) except -1:
        """Stop receiving, let what was sent go out, then end."""
        if self.state != OPEN:
            return 0
        self.stop_receiving()
        if self.unsent != 0:
            return 0
        self.writes_lost += 1
        return self.stand_in_line()

    cdef int stop_receiving(self) except -1:
        self.state = CLOSING
        self.read_errors.clear()
        if self.receive.user_data != 0:
            self.page.cancel(self.receive)
        return 0

    cdef int force_close(self, object error) except -1:
        """End now; what was not sent is dropped."""
        if self.state == CLOSED or self.dropping:
            return 0
        self.dropping = True
        # A paused protocol learns that from connection_lost, not from resume_writing.
        self.protocol_paused = False
        if self.error is None:
            self.error = error
        self.drop_unsent()
        if self.state == OPEN:
            self.stop_receiving()
        self.writes_lost += 1
        return self.stand_in_line()

    cdef int await_ends(self) except -1:
        return self.page.await_end(self.receive)

    cdef int lose(self) except -1:
        """connection_lost, once nothing is in flight any more."""
        if self.in_line or self.busy() or self.receive.user_data != 0:
            return 0
        if queue_count(&self.outbox):
            return self.wants_flush()
        if self.errors:
            return self.wake_up()
        self.state = CLOSED
        try:
            self.tell_of("connection_lost", self.error)
        finally:
            self.let_go()
        return 0

    cdef int let_go(self) except -1:
        """Close the socket and break the reference cycles."""
        cdef int fd = self.fd
        self.fd = -1
        self.turn.own(fd, None)
        stats_less(&self.page.stats.counts.datagrams)
        if release_socket(self.sock) == fd:
            self.page.close_owned(fd)
            if self.page.eager:
                # The address is free when connection_lost() has returned.
                self.page.barrier()
        self.sock = None
        self.receive.endpoint = self.writable.endpoint = None
        self.spare = []
        self.facade = self.protocol = self.error = None
        return 0

    cdef int fatal(self, object error, str message) except -1:
        """An error that ends the endpoint.  Those of the network itself are no news outside debug mode."""
        self.force_close(error)
        if not isinstance(error, OSError):
            self.complain(message, error)
        elif self.turn._debug:
            logger.debug("%r: %s", self.facade, message, exc_info=error)
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
            if queue_count(&self.inbox) or self.read_errors or self.receive.user_data == 0:
                self.wake_up()
        return 0

    cdef str describe(self):
        cdef str name = ("open", "closing", "closed")[<int> self.state]
        reading = "polling" if self.state == OPEN and not self.paused else "idle"
        writing = "polling" if self.unsent else "idle"
        return f"<DatagramTransport {name} fd={self.fd} read={reading} write=<{writing}, bufsize={self.unsent}>>"


cdef object name_of(object ask):
    try:
        return ask()
    except OSError:
        return None


cdef bint is_connected(object sock):
    """Whether the kernel knows where to send: even an unnamed Unix socket may."""
    try:
        sock.getpeername()
    except OSError:
        return False
    return True


def suitable(sock):
    """Whether this module can serve the socket: others, netlink for example, have addresses that it does not know."""
    return sock.family in FAMILIES and sock.type in TYPES


def make_datagram_transport(Turn turn not None, sock, protocol, address, waiter, extra):
    """A transport for a non-blocking datagram socket, which is ours from here on.

    address: the only destination that sendto() may name, None for any.  connection_made is called in the next turn,
    and then `waiter` is told.
    """
    cdef Datagrams core = Datagrams.__new__(Datagrams)
    turn.page.need_datagrams()
    core.turn = turn
    core.page = turn.page
    core.sock = sock
    core.address = address
    core.errors = []
    core.read_errors = []
    core.connected = is_connected(sock)
    core.extra = {"socket": trsock.TransportSocket(sock), "sockname": name_of(sock.getsockname),
                  "peername": name_of(sock.getpeername), **(extra or {})}
    core.book = AddressBook(sock.family)
    core.by_page = turn.page.eager and sock.family != AF_UNIX
    core.receive = ReceiveFrom.__new__(ReceiveFrom)
    core.receive.endpoint = core
    core.receive.retractable = True
    core.receive.header.msg_namelen = ADDRESS_MOST if sock.family == AF_UNIX else INET_NAME
    transport = DatagramTransport.__new__(DatagramTransport)
    transport._core = core
    core.fd = sock.fileno()
    hold_socket(sock)
    turn.own(core.fd, transport)
    turn.stats.counts.datagrams += 1
    core.begin(transport, protocol, waiter)
    return transport


class DatagramTransport(asyncio.DatagramTransport, asyncio.Transport):
    """An endpoint of this loop: asyncio's transport contract.  Source: asyncio's documentation, "Transports".

    A Transport as well, since asyncio's own endpoints are, and programs ask.
    """

    # Tests and tools replace methods on the instance, which a dictionary takes.
    __slots__ = ("_core", "__weakref__", "__dict__")

    @property
    def _sock(self):
        """What asyncio's own endpoints call their socket, for tests and tools that look there."""
        return (<Datagrams> self._core).sock

    def get_extra_info(self, name, default=None):
        """`socket`, `sockname`, `peername`."""
        return (<Datagrams> self._core).extra.get(name, default)

    def set_protocol(self, protocol):
        """Have what comes from now on delivered to `protocol`."""
        (<Datagrams> self._core).protocol = protocol

    def get_protocol(self):
        """The protocol that datagrams are delivered to."""
        return (<Datagrams> self._core).protocol

    def is_closing(self):
        """Whether the endpoint is closed, or on its way to."""
        return (<Datagrams> self._core).state != OPEN

    def is_reading(self):
        """Whether datagrams are delivered as they come."""
        cdef Datagrams core = self._core
        return core.state == OPEN and not core.paused

    def pause_reading(self):
        """Deliver nothing until `resume_reading`.  What has come already is kept."""
        (<Datagrams> self._core).pause_reading()

    def resume_reading(self):
        """Deliver again."""
        (<Datagrams> self._core).resume_reading()

    def sendto(self, data, addr=None):
        """Send `data` (bytes, bytearray or memoryview; copied unless bytes) as one datagram to `addr`.

        addr: as for socket.sendto(); None on a connected socket.  Errors come as calls of error_received().
        """
        (<Datagrams> self._core).sendto(data, addr)

    def get_write_buffer_size(self):
        """Bytes that the kernel has not taken yet; from Python 3.13 on with 8 more for each datagram."""
        return (<Datagrams> self._core).unsent

    def get_write_buffer_limits(self):
        """The (low, high) marks in bytes."""
        cdef Datagrams core = self._core
        return core.low, core.high

    def set_write_buffer_limits(self, high=None, low=None):
        """More than `high` unsent bytes pause the protocol, `low` or less resume it."""
        (<Datagrams> self._core).set_limits(high, low)

    def close(self):
        """Stop receiving, send what is queued, then end the endpoint."""
        (<Datagrams> self._core).close()

    def abort(self):
        """End the endpoint now; what is queued is lost."""
        (<Datagrams> self._core).force_close(None)

    def __repr__(self):
        return (<Datagrams> self._core).describe()

    def __del__(self):
        cdef Datagrams core = self._core
        if core.fd >= 0:
            warnings.warn(f"unclosed transport {self!r}", ResourceWarning, source=self)

    def _go_on(self):
        (<Datagrams> self._core).go_on()
