# cython: language_level=3, cdivision=True
"""Floor 4: stream connections, TCP and Unix sockets: how they begin and end, and asyncio's transport.

Owns: the connection's fd from here until `connection_lost`.  Imports: reading, writing, connection, addresses, turn.

A connection's fd is closed only after the last completion of its last operation, so that nothing that is still in
flight can ever touch a reused fd.
"""
import asyncio
import contextlib
import os
import socket as socket_module
import warnings
from asyncio import constants, trsock

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.contextvars cimport PyContext_CopyCurrent
from libc.stdint cimport uint16_t, uint32_t
from posix.unistd cimport close as close_fd

from flexsc_loop.syscalls.page cimport EBADF
from flexsc_loop.syscalls.stats cimport stats_less
from flexsc_loop.transports.addresses cimport decode, inet_name, inet_of, name_of, name_of_peer
from flexsc_loop.transports.connection cimport Layer, end_lingering, hold_socket, release_socket
from flexsc_loop.transports.reading cimport FLOWING, NOT_YET, Reading
from flexsc_loop.transports.writing cimport DROPPING, LOST, TAKING
from flexsc_loop.turn.handles cimport call_in
from flexsc_loop.turn.turn cimport Turn


class ClosedSocket(socket_module.socket):
    """What is left of a connection's socket that nobody had asked for.  It never had a descriptor: there may be none.

    family: the address family, an int.
    """

    def __init__(self, family):
        self._closed, self._io_refs = True, 0
        self._kind = family

    @property
    def family(self):
        """The address family, as a socket's own."""
        return socket_module.AddressFamily(self._kind)

    @property
    def type(self):
        """The socket's type, as its own."""
        return socket_module.SOCK_STREAM

    def getsockname(self):
        """Source: socket.socket.getsockname."""
        raise OSError(EBADF, os.strerror(EBADF))

    getpeername = getsockname


cdef object closed_socket(bytes raw):
    """What is left of a connection's socket: one of its kind, closed.  raw: its sockaddr, or None."""
    return ClosedSocket((<uint16_t*> PyBytes_AS_STRING(raw))[0] if raw is not None and len(raw) >= 2
                        else socket_module.AF_UNIX)


cdef object without_frames(object error):
    """The system's error once more, for who asks later; None for others.  An error's frames may hold the transport."""
    if not isinstance(error, OSError):
        return None
    anew = OSError(error.errno, error.strerror)
    return anew if type(anew) is type(error) else None


@cython.no_gc_clear  # whether the fd is ours to close depends on the socket object
cdef class Stream(Reading):
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

    # ---- from the ready queue

    cdef int run(self, Turn turn) except -1:
        cdef Layer layer
        self.queued = False
        if self.writing == LOST:
            return 0
        if not self.introduced:
            self.introduce()
            if self.inbox is None and self.end == NOT_YET:
                self.arm()
            else:
                self.wake_up()
        else:
            self.deliver()
        if self.layer is not None:
            layer = self.layer
            layer.settle()
        if self.paused_protocol is not None and self.unsent <= self.low:
            self.resume_protocol()
        if self.drained is not None and (self.unsent == 0 or self.writing == DROPPING):
            self.tell_drained_lost() if self.writing == DROPPING else self.tell_drained()
        if self.writing != TAKING:
            self.lose()
        return 0

    cdef int start(self) except -1:
        """Put connection_made in line with the callbacks: who is cancelled while it waits for that finds it called."""
        self.turn.soon(self.facade._go_on, (), None)
        return 0

    cdef int introduce(self) except -1:
        """connection_made, then whoever waits for the connection."""
        self.introduced = True
        try:
            call_in(self.context, self.protocol.connection_made, self.facade)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self.complain("Exception in callback connection_made", error)
        finally:
            waiter, self.waiter = self.waiter, None
            if waiter is not None and not waiter.done():
                waiter.set_result(None)
        return 0

    # ---- ending

    cdef bint ending(self) noexcept:
        return TAKING < self.writing < LOST

    cdef int close(self) except -1:
        """Stop reading, let what was written go out, then end."""
        cdef Layer layer
        if self.writing != TAKING:
            return 0
        layer = self.layer
        if layer is not None:
            layer.carrier_closing()
            if self.writing != TAKING:
                # Its last words could not be sent.
                return 0
        self.turn.endings += 1
        self.closed_in = <uint32_t> self.turn.turns
        self.stop_writing()
        self.stop_reading()
        return self.end_soon() if self.unsent == 0 else self.wake_up()

    cdef int end_soon(self) except -1:
        """Put connection_lost in line with the callbacks, as asyncio does: after those due already, before others."""
        if self.page.closed:
            return 0
        if self.turn._debug:
            self.turn._check_thread()
        return self.turn.soon_end(self.facade._go_on)

    cdef int force_close(self, object error) except -1:
        """End now; what was not sent is dropped."""
        if self.writing >= DROPPING:
            return 0
        if self.error is None:
            self.error = error
        if self.end <= 0:
            self.last_try()
        if self.writing == TAKING:
            self.close()
            if self.writing >= DROPPING:
                # The layer's last words could not be sent.
                return 0
        self.closed_in = <uint32_t> self.turn.turns
        self.drop_unsent()
        return self.end_soon()

    cdef int lose(self) except -1:
        """connection_lost, once nothing is in flight any more."""
        if self.held or self.user_data != 0 or self.sending():
            return 0
        if self.outbox is not None and self.writing != DROPPING:
            return self.wants_flush()
        if self.closed_in == <uint32_t> self.turn.turns:
            # Callbacks that this turn has made due come first.
            return self.end_soon()
        self.change_writing(LOST)
        self.unsent = 0
        self.inbox = self.outbox = None
        try:
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
        self.turn.own(fd, None)
        stats_less(&self.page.stats.counts.streams)
        if self.layer is not None:
            stats_less(&self.page.stats.counts.tls)
        if self.sock is None or release_socket(self.sock) == fd:
            if self.sock is not None or self.may_linger:
                end_lingering(fd)
            self.page.close_owned(fd)
        self.sock = None
        server, self.server = self.server, None
        if server is not None:
            self.turn._detach_from(server, self.facade)
        if self.send is not None:
            self.send.stream = self.send.room = None
        self.facade = self.protocol = self.paused_protocol = self.data_received = None
        self.layer = None
        self.error = without_frames(self.error)
        return 0

    # ---- what the transport passes on

    cdef object socket_object(self):
        """The socket object, made when somebody asks for it."""
        if self.sock is None and self.fd >= 0:
            self.sock = socket_module.socket(fileno=self.fd)
            self.sock.setblocking(False)
            hold_socket(self.sock)
        return self.sock

    cdef str describe(self):
        cdef str name = "open" if self.writing == TAKING else "closed" if self.writing == LOST else "closing"
        reading = "polling" if self.reading == FLOWING else "idle"
        writing = "polling" if self.unsent else "idle"
        return f"<StreamTransport {name} fd={self.fd} read={reading} write=<{writing}, bufsize={self.unsent}>>"

    cdef object address(self, bytes raw, str ask, object default):
        """What Python's sockets make of a sockaddr; they are asked themselves for families not decoded here."""
        if raw is None:
            return default
        found = decode(PyBytes_AS_STRING(raw), PyBytes_GET_SIZE(raw))
        if found is None and self.fd >= 0:
            with contextlib.suppress(OSError):
                found = getattr(self.socket_object(), ask)()
        return default if found is None else found

    cdef object extra_info(self, object name, object default):
        if self.extra is not None and name in self.extra:
            return self.extra[name]
        if name == "peername":
            raw = self.peer if self.peer_port == 0 else inet_name(self.peer_host, self.peer_port)
            found = self.address(raw, "getpeername", default)
        elif name == "sockname":
            found = self.address(self.name, "getsockname", default)
        elif name == "socket":
            found = trsock.TransportSocket(self.socket_object() if self.fd >= 0 else closed_socket(self.name))
        else:
            return default
        if self.extra is None:
            self.extra = {}
        self.extra[name] = found
        return found


cdef bytes one_of(bytes name, bytes known):
    """`name`, as one object with an equal one that is known."""
    return known if name == known else name


cdef Stream open_stream(Turn turn, int fd, object sock, object protocol, object context, object waiter, object server,
                        bytes peer, dict extra):
    """Take over a connected, non-blocking socket.  `fd` is ours from here on; `sock` is its socket object, or None.

    context: the protocol's; None for a copy of the current one.  waiter: done when connection_made has been called, or
    None.  server: counts its connections, or None.  peer: the sockaddr of the other end, None to ask for it.  extra:
    what get_extra_info tells besides, or None.
    Nothing happens before `start` or the queue of those that have arrived has connection_made called.
    """
    cdef Stream stream = Stream.__new__(Stream)
    stream.turn = turn
    stream.page = turn.page
    stream.fd = fd
    stream.sock = sock
    stream.extra = extra
    stream.waiter = waiter
    stream.context = PyContext_CopyCurrent() if context is None else context
    stream.retractable = True
    try:
        # What is no protocol is refused here, while there is nothing to undo.
        protocol.connection_made
        stream.adopt_protocol(protocol)
        if peer is None:
            peer = name_of_peer(fd)
        if not inet_of(peer, &stream.peer_host, &stream.peer_port):
            stream.peer = turn.last_peer = one_of(peer, turn.last_peer)
        stream.name = turn.last_name = one_of(name_of(fd), turn.last_name)
        stream.facade = new_transport(stream)
        turn.own(fd, stream.facade)
    except BaseException:
        # The fd is the caller's again.
        stream.fd = -1
        stream.sock = None
        raise
    turn.stats.counts.streams += 1
    if server is not None:
        turn._attach_to(server, stream.facade)
        stream.server = server
    return stream


def make_transport(Turn turn not None, sock, protocol, waiter, extra, server, context):
    """A transport for a connected, non-blocking socket object; connection_made is called in the next turn."""
    cdef Stream stream = open_stream(
        turn, sock.fileno(), sock, protocol, context, waiter, server, None, dict(extra or ()))
    hold_socket(sock)
    stream.start()
    return stream.facade


cdef class Clients:
    """The connections of one server, in the place of the weak set in which asyncio's `Server` keeps them.

    Ours are counted, and found among all of the loop when somebody asks: a weak reference and its place in the set are
    a tenth of what a connection takes.  others: the weak set, which has transports that are not ours.
    """
    cdef Turn turn
    cdef object others
    cdef Py_ssize_t count

    def __init__(self, Turn turn not None, others not None):
        self.turn = turn
        self.others = others

    def __len__(self):
        return self.count + len(self.others)

    def __iter__(self):
        return iter(self.copy())

    def __contains__(self, transport):
        return transport in self.copy()

    def add(self, transport):
        """A connection begins."""
        if isinstance(transport, StreamTransport):
            self.count += 1
        else:
            self.others.add(transport)

    def discard(self, transport):
        """A connection that was added has ended."""
        if isinstance(transport, StreamTransport):
            self.count -= 1
        else:
            self.others.discard(transport)

    def copy(self):
        """All of them."""
        cdef set found = set(self.others)
        for owner in self.turn.owners:
            if isinstance(owner, StreamTransport) and serves((<Stream> owner._core).server, self):
                found.add(owner)
        return found


cdef bint serves(object server, Clients clients) except -1:
    return server is not None and getattr(server, "_clients", None) is clients


def take_socket(sock):
    """`hold_socket` for the other modules of this floor."""
    hold_socket(sock)


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
        return (<Stream> self._core).paused_protocol is not None

    def _resume_instead(self, protocol):
        """Have `protocol` told, not the one that was paused, when writing may go on."""
        cdef Stream core = self._core
        if core.paused_protocol is not None:
            core.paused_protocol = protocol

    def is_closing(self):
        """Whether the connection is closed, or on its way to."""
        return (<Stream> self._core).writing != TAKING

    def is_reading(self):
        """Whether data is delivered as it comes."""
        cdef Stream core = self._core
        return core.reading == FLOWING

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
        """Write each item; they leave in one send."""
        cdef Stream core = self._core
        if core.eof_written:
            raise RuntimeError("Cannot call writelines() after write_eof()")
        core.write_all(list_of_data)

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
        if TAKING < core.writing < LOST and core.closed_in != <uint32_t> core.turn.turns and core.page.eager:
            core.page.await_end(core)
        try:
            core.run(core.turn)
        except BaseException:
            core.cut_short()
            raise

    def __repr__(self):
        return (<Stream> self._core).describe()

    def __del__(self):
        cdef Stream core = self._core
        if core.fd >= 0:
            warnings.warn(f"unclosed transport {self!r}", ResourceWarning, source=self)
