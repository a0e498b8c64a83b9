# cython: language_level=3, cdivision=True
"""Floor 4: the transports of TLS connections, and how they come into being.

Owns: nothing; a transport holds one `Tls`.  Imports: tls_core, tls_cipher, stream, turn.
"""
import asyncio
import warnings
from asyncio import constants, sslproto, transports

from flexsc_loop.transports.connection cimport marks
from flexsc_loop.transports.stream cimport Stream, open_stream
from flexsc_loop.transports.tls_cipher cimport new_cipher
from flexsc_loop.transports.tls_core cimport HANDSHAKE, WAITING, Tls
from flexsc_loop.transports.stream import StreamTransport, take_socket
from flexsc_loop.turn.turn cimport Turn


cdef enum:
    KIB = 1024


cdef class Settings:
    """What the connections of one server have in common, or a client's one.

    context: an ssl.SSLContext; None or True for a client's default.  Timeouts in seconds, None for asyncio's defaults.
    Raises ValueError for a timeout that is not positive, or a server without a context.
    """

    def __init__(self, context, bint server_side, hostname, handshake_timeout, shutdown_timeout):
        self.handshake_timeout = positive(
            "ssl_handshake_timeout", handshake_timeout, constants.SSL_HANDSHAKE_TIMEOUT)
        self.shutdown_timeout = positive("ssl_shutdown_timeout", shutdown_timeout, constants.SSL_SHUTDOWN_TIMEOUT)
        if context is None or isinstance(context, bool):
            context = sslproto._create_transport_context(server_side, hostname)
        self.context = context
        self.server_side = server_side
        self.hostname = hostname if hostname and not server_side else None

    cdef Tls new_tls(self, object protocol, object waiter):
        """The TLS end of one connection; `attach` it to what carries it."""
        cdef Tls tls = Tls.__new__(Tls)
        tls.context = self.context
        tls.server_side = self.server_side
        tls.handshake_timeout = self.handshake_timeout
        tls.shutdown_timeout = self.shutdown_timeout
        tls.waiter = waiter
        tls.cipher = new_cipher(self.context, self.server_side, self.hostname)
        tls.high = constants.FLOW_CONTROL_HIGH_WATER_SSL_WRITE * KIB
        tls.low = tls.high // 4
        tls.read_high = constants.FLOW_CONTROL_HIGH_WATER_SSL_READ * KIB
        tls.read_low = tls.read_high // 4
        tls.adopt_protocol(protocol)
        tls.facade = new_transport(tls)
        return tls

    cdef Tls open(self, Turn turn, int fd, bytes peer, object protocol, object context, object waiter,
                  object server):
        """A connection for an accepted fd, which is ours from here on; its stream's `run` begins the handshake."""
        cdef Tls tls = self.new_tls(protocol, waiter)
        cdef Stream stream = open_stream(turn, fd, None, tls, context, None, server, peer, None)
        tls.attach(stream, None)
        return tls


cdef object positive(str name, object seconds, object default):
    if seconds is None:
        return default
    if seconds <= 0:
        raise ValueError(f"{name} should be a positive number, got {seconds}")
    return seconds


def make_tls_transport(Turn turn not None, sock, protocol, Settings settings not None, waiter, extra, server, context):
    """A TLS transport for a connected, non-blocking socket object; the handshake begins in the next turn."""
    cdef Tls tls = settings.new_tls(protocol, waiter)
    cdef Stream stream = open_stream(
        turn, sock.fileno(), sock, tls, context, None, server, None, dict(extra or ()))
    take_socket(sock)
    tls.attach(stream, None)
    stream.wake_up()
    return tls.facade


def upgrade(transport, protocol, Settings settings not None, waiter, bytes early not None):
    """Put TLS between a transport of ours and `protocol`; returns the new transport, whose handshake has begun.

    early: bytes of the peer's TLS that the transport has delivered already.
    Returns None if its owner has closed the connection.  Raises TypeError for transports of others, and the error that
    has ended the connection.
    """
    cdef Tls below = None, tls
    cdef Stream stream
    if isinstance(transport, SSLTransport):
        below = transport._core
        stream = below.stream
    elif isinstance(transport, StreamTransport):
        stream = transport._core
    else:
        raise TypeError(f"transport {transport!r} is not supported by start_tls()")
    if transport.is_closing():
        if stream.error is not None:
            raise stream.error
        return None
    tls = settings.new_tls(protocol, waiter)
    tls.made = True
    tls.made_before = transport.get_protocol() is protocol
    if tls.made_before:
        # Whoever has been paused by the carrier is resumed by us.
        tls.writing_paused = stream.paused_protocol is not None if below is None else below.writing_paused
    if below is None:
        stream.paused_protocol = None
    else:
        below.writing_paused = False
    transport.set_protocol(tls)
    tls.attach(stream, below)
    tls.begin()
    if early:
        tls.cipher.put(early)
        if tls.phase == HANDSHAKE:
            tls.shake()
    transport.resume_reading()
    stream.wake_up()
    return tls.facade


cdef object new_transport(Tls tls):
    transport = SSLTransport.__new__(SSLTransport)
    transport._core = tls
    return transport


class SSLTransport(transports._FlowControlMixin, asyncio.Transport):
    """A TLS connection of this loop: asyncio's transport contract.  Source: asyncio's documentation, "Transports"."""

    # Tests and tools replace methods on the instance, which a dictionary takes.
    __slots__ = ("_core", "__weakref__", "__dict__")

    _start_tls_compatible = True
    _sendfile_compatible = constants._SendfileMode.FALLBACK

    @property
    def _loop(self):
        return (<Tls> self._core).stream.turn

    @property
    def _sslcontext(self):
        # Programs that check which context a connection has look here.
        return self.get_extra_info("sslcontext")

    @property
    def _protocol_paused(self):
        # asyncio's sendfile fallback asks for it.
        return (<Tls> self._core).writing_paused

    def get_extra_info(self, name, default=None):
        """`sslcontext`, `ssl_object`, `peercert`, `cipher`, `compression`, or what the carrier knows."""
        return (<Tls> self._core).extra_info(name, default)

    def set_protocol(self, protocol):
        """Have what comes from now on delivered to `protocol`."""
        (<Tls> self._core).adopt_protocol(protocol)

    def get_protocol(self):
        """The protocol that data is delivered to."""
        return (<Tls> self._core).protocol

    def is_closing(self):
        """Whether the connection is closed, or on its way to."""
        return (<Tls> self._core).closing()

    def is_reading(self):
        """Whether data is delivered as it comes, or would be: close() does not change the answer, as in asyncio."""
        return not (<Tls> self._core).paused

    def pause_reading(self):
        """Deliver nothing until `resume_reading`.  What has come already is kept."""
        (<Tls> self._core).pause_reading()

    def resume_reading(self):
        """Deliver again."""
        (<Tls> self._core).resume_reading()

    def write(self, data):
        """Send `data` (bytes, bytearray or memoryview; copied unless bytes) after everything written before."""
        (<Tls> self._core).write(data)

    def writelines(self, list_of_data):
        """Write each item; small ones share a record."""
        cdef Tls core = self._core
        for data in list_of_data:
            core.write(data)

    def write_eof(self):
        """Not possible: TLS cannot close one direction alone here."""
        raise NotImplementedError

    def can_write_eof(self):
        """False."""
        return False

    def get_write_buffer_size(self):
        """Bytes written, encrypted or not, that the kernel has not taken yet."""
        return (<Tls> self._core).unsent()

    def get_write_buffer_limits(self):
        """The (low, high) marks in bytes."""
        cdef Tls core = self._core
        return core.low, core.high

    def set_write_buffer_limits(self, high=None, low=None):
        """More than `high` unsent bytes pause the protocol, `low` or less resume it."""
        (<Tls> self._core).set_limits(high, low)

    def get_read_buffer_size(self):
        """Bytes that have come, still encrypted, while reading was paused."""
        return (<Tls> self._core).cipher.incoming.pending

    def get_read_buffer_limits(self):
        """The (low, high) marks in bytes."""
        cdef Tls core = self._core
        return core.read_low, core.read_high

    def set_read_buffer_limits(self, high=None, low=None):
        """No more than about `high` bytes are taken from the socket while reading is paused."""
        cdef Tls core = self._core
        core.read_high, core.read_low = marks(high, low, constants.FLOW_CONTROL_HIGH_WATER_SSL_READ)

    def close(self):
        """Stop delivering, send what was written, exchange close_notify with the peer, then end the connection."""
        (<Tls> self._core).close()

    def abort(self):
        """End the connection now; unsent data is lost, and the peer is not told."""
        (<Tls> self._core).abort(None)

    def _force_close(self, exc):
        (<Tls> self._core).abort(exc)

    def __repr__(self):
        return (<Tls> self._core).describe()

    def __del__(self):
        cdef Tls core = self._core
        if core.stream is not None and not core.closing() and core.phase != WAITING:
            warnings.warn(f"unclosed transport {self!r}", ResourceWarning, source=self)
