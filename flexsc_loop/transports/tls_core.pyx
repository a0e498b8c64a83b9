# cython: language_level=3, cdivision=True
"""Floor 4: TLS connections over our streams, and over TLS.

Owns: the phases of a connection from handshake to shutdown, flow control, and whom to tell what.  Imports: tls_cipher,
stream, writing, connection, turn.

What is written in one turn is encrypted at its end, in one go, when the stream is flushed; large writes at once, while
they are in the cache.
"""
import asyncio
import ssl
from asyncio import constants
from asyncio.log import logger

from cpython.bytes cimport PyBytes_GET_SIZE
from cpython.contextvars cimport PyContext_Enter, PyContext_Exit

from flexsc_loop.transports.connection cimport Layer, marks
from flexsc_loop.transports.stream cimport Stream
from flexsc_loop.transports.tls_cipher cimport PIECE, flexsc_records, flexsc_scan
from flexsc_loop.transports.writing cimport DROPPING, LOST as STREAM_LOST, TAKING
from flexsc_loop.turn.handles cimport monotonic


cdef enum:
    AT_ONCE = 16 * 1024              # larger writes are encrypted when they are made
    HEAVY = 32 * 1024                # so much encrypted is sent before others are served
    CIPHER_MOST = 256 * 1024         # encrypted and not sent: more is encrypted when this has gone
    DROP_MOST = 256 * 1024           # so much of what comes after close() is searched for the peer's close_notify

cdef double LINGER_S = 1.0           # so long it may be sent after ours
cdef object AGAIN = (ssl.SSLWantReadError, ssl.SSLSyscallError)
cdef object SSLError = ssl.SSLError
cdef str BROKEN = "Fatal error on SSL protocol"


cdef class Tls(Layer):
    """One end of a TLS connection.  What asyncio's contract calls a transport is `SSLTransport`, which holds this."""

    cdef int attach(self, Stream stream, Tls below) except -1:
        """Be carried by `below`, or by the stream itself."""
        self.stream = stream
        self.below = below
        if below is None:
            stream.page.stats.counts.tls += 1
        stream.high = <size_t> -1  # what waits is counted here
        return 0

    # ---- what the carrier calls as its protocol

    def connection_made(self, transport):
        """There is a connection."""
        self.begin()

    def data_received(self, bytes data):
        """For carriers that see a protocol only."""
        self.feed(data)

    def eof_received(self):
        """The carrier's stream has ended; returns True, because this end closes it by itself."""
        self.carrier_eof = True
        if self.phase == HANDSHAKE:
            error = ConnectionResetError()
            self.tell_waiter(error)
            self.fail(error, "SSL handshake failed")
        elif self.phase == OPEN and not self.paused:
            self.read_rest()
        elif self.phase == FLUSHING:
            self.want_flush()
        elif self.phase == SHUTDOWN:
            self.both_done()
        return True

    def pause_writing(self):
        """Nothing to do: `unsent` looks at the carrier whenever something is to be encrypted."""

    def resume_writing(self):
        """The same."""

    def connection_lost(self, exc):
        """The carrier is gone."""
        cdef bint told = self.made and (self.phase != HANDSHAKE or self.made_before)
        protocol = self.protocol
        self.phase = LOST
        self.stop_timer()
        self.cipher.forget()
        # An upgrade, whose transport its owner has closed meanwhile, ends without an error, as asyncio's does.
        self.tell_waiter(exc if exc is not None or self.made else ConnectionAbortedError("the connection was closed"))
        self.protocol = self.callback = self.above = self.facade = None
        if told:
            protocol.connection_lost(exc)

    # ---- what the carrier calls as its layer

    cdef int feed(self, bytes data) except -1:
        try:
            if self.phase == OPEN:
                self.receive(data)
            elif self.phase == HANDSHAKE:
                self.cipher.put(data)
                self.shake()
            elif self.phase == FLUSHING or self.phase == SHUTDOWN:
                self.drop(data)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self.fail(error, BROKEN)
        return 0

    cdef int gather(self) except -1:
        cdef Tls above = self.above
        if above is not None:
            above.gather()
        if self.cipher.waiting == 0 and self.phase != FLUSHING:
            return 0
        self.encrypt_now()
        if self.phase != FLUSHING or self.cipher.waiting:
            return 0
        try:
            self.shut_down()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self.fail(error, BROKEN)
        return 0

    cdef int progressed(self) except -1:
        if self.above is not None:
            self.above.progressed()
        if self.cipher.waiting or self.phase == FLUSHING:
            self.want_flush()
        if self.writing_paused:
            self.stream.wake_up()
        if self.timer is not None and (self.phase == DONE or self.cipher.ended or self.carrier_eof):
            self.allow_time()
        return 0

    cdef int settle(self) except -1:
        cdef bint resume = self.writing_paused and self.phase < DONE and self.unsent() <= self.low
        cdef Tls above = self.above
        if resume or self.has_rest() or self.has_ended():
            context = self.stream.context
            PyContext_Enter(context)
            try:
                if resume:
                    self.resume_protocol()
                if self.has_rest():
                    self.read_rest()
                if self.has_ended():
                    self.both_done()
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:
                self.fail(error, BROKEN)
            finally:
                PyContext_Exit(context)
        return above.settle() if above is not None else 0

    cdef int carrier_closing(self) except -1:
        """Somebody closes the carrier: what was written still goes out, and so does our close_notify."""
        cdef Tls above = self.above
        if above is not None:
            above.carrier_closing()
        if self.phase == OPEN or self.phase == FLUSHING:
            try:
                self.encrypt(True)
                self.cipher.tls.unwrap()
            except ssl.SSLError:
                # Most often because the peer's close_notify has not come; nobody will wait for it.
                pass
            self.pump()
        if self.phase != HANDSHAKE and self.phase != LOST:
            self.phase = DONE
        return 0

    # ---- the handshake

    cdef int begin(self) except -1:
        if self.phase != WAITING:
            return 0
        if self.stream.turn._debug:
            logger.debug("%r starts SSL handshake", self.facade)
            self.started = monotonic()
        self.phase = HANDSHAKE
        self.start_timer(self.handshake_timeout, self.handshake_late)
        if not self.server_side:
            self.shake()
        return 0

    cdef int shake(self) except -1:
        """Go on with the handshake."""
        try:
            self.cipher.tls.do_handshake()
        except AGAIN:
            return self.pump()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            verifying = isinstance(error, ssl.CertificateError)
            self.tell_waiter(error)
            return self.fail(error, "SSL handshake failed on verifying the certificate" if verifying else
                             "SSL handshake failed")
        return self.established()

    cdef int established(self) except -1:
        self.stop_timer()
        self.phase = OPEN
        self.pump()
        if self.stream.turn._debug:
            logger.debug("%r: SSL handshake took %.1f ms", self.facade, (monotonic() - self.started) * 1e3)
        # What the peer has sent right after its handshake.
        self.cipher.unclear = self.cipher.incoming.pending > 0
        try:
            if not self.made:
                self.tell_made()
        finally:
            self.tell_waiter(None)
        if self.phase != OPEN:
            return 0
        if self.cipher.waiting:
            self.want_flush()
        if self.paused:
            self.hold_back()
        elif self.cipher.unclear:
            self.drain()
        return 0

    cdef int tell_made(self) except -1:
        self.made = True
        try:
            self.protocol.connection_made(self.facade)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self.tell_waiter(error)
            self.fail(error, BROKEN)
        return 0

    cdef int tell_waiter(self, object error) except -1:
        waiter, self.waiter = self.waiter, None
        if waiter is None or waiter.done():
            return 0
        if error is None:
            waiter.set_result(self.phase != LOST)
        else:
            waiter.set_exception(error)
        return 0

    cdef int start_timer(self, object seconds, object callback) except -1:
        self.stop_timer()
        self.timer = self.stream.turn.at(self.stream.turn.now() + <double> seconds, callback, (), self.stream.context)
        return 0

    cdef int stop_timer(self) except -1:
        timer, self.timer = self.timer, None
        if timer is not None:
            timer.cancel()
        return 0

    def handshake_late(self):
        """The handshake's time is over."""
        if self.phase == HANDSHAKE:
            self.made = self.made and self.made_before
            error = ConnectionAbortedError(
                f"SSL handshake is taking longer than {self.handshake_timeout} seconds: "
                "aborting the connection")
            self.abort(error)
            self.report(error, "Fatal error on transport")

    def shutdown_late(self):
        """The shutdown's time is over."""
        self.abort(TimeoutError("SSL shutdown timed out"))

    # ---- receiving

    cdef int receive(self, bytes data) except -1:
        cdef Cipher cipher = self.cipher
        cdef flexsc_records before = cipher.records
        cdef flexsc_scan scan
        if self.paused:
            cipher.put(data)
            return self.hold_back()
        if cipher.unclear:
            cipher.put(data)
            return self.after_reading()
        cipher.scan(data, &scan)
        if scan.odd or (scan.complete > 1 and not cipher.direct):
            cipher.put_incoming(data)
            return self.drain()
        if self.callback is None and self.above is None:
            cipher.put_incoming(data)
            return self.fill_buffers(scan.complete) if scan.complete else 0
        if scan.complete > 1:
            cipher.records = before
            decrypted = cipher.read_records(data, scan.room)
        else:
            cipher.put_incoming(data)
            if scan.complete == 0:
                return 0
            decrypted = cipher.read_record(scan.room)
        if decrypted is not None:
            self.pass_on(<bytes> decrypted)
        return self.after_reading()

    cdef int after_reading(self) except -1:
        """Deal with whatever else than data has been read."""
        cdef Cipher cipher = self.cipher
        if cipher.interrupted:
            cipher.interrupted = False
            self.pump()
            if cipher.blocked:
                cipher.blocked = False
                self.want_flush()
            if cipher.broken is not None:
                error, cipher.broken = cipher.broken, None
                return self.fail(error, BROKEN)
            if cipher.ended and self.phase == OPEN:
                return self.peer_ended()
        if cipher.unclear and self.phase == OPEN and not self.paused:
            self.drain()
        return 0

    cdef int hold_back(self) except -1:
        """Reading is paused: keep some of what comes, as asyncio does; a connection that is reset is noticed."""
        return self.pause_carrier() if self.cipher.incoming.pending >= self.read_high else 0

    cdef bint has_rest(self) noexcept:
        """Whether something has come that was not read when it came, or not dealt with."""
        if self.phase != OPEN or self.paused:
            return False
        return self.cipher.unclear or self.cipher.interrupted or self.cipher.ended or self.carrier_eof

    cdef int read_rest(self) except -1:
        """Deal with it, and with the peer's end behind it."""
        self.after_reading()
        if self.phase == OPEN and (self.cipher.ended or self.carrier_eof) and not self.cipher.unclear:
            self.peer_ended()
        return 0

    cdef int drain(self) except -1:
        """Read until there is nothing left."""
        if self.callback is None and self.above is None:
            return self.fill_buffers(0)
        decrypted = self.cipher.read_all()
        if decrypted is not None:
            self.pass_on(<bytes> decrypted)
        return self.after_reading()

    cdef int fill_buffers(self, size_t count) except -1:
        """Decrypt `count` records (0: all there are) straight into a BufferedProtocol's buffers."""
        cdef Cipher cipher = self.cipher
        cdef bint unknown = count == 0
        cipher.unclear = True
        while cipher.unclear and self.phase == OPEN and not self.paused and self.callback is None:
            buffer = self.protocol.get_buffer(PIECE)
            view = memoryview(buffer).cast("B")
            room = len(view)
            if room == 0:
                raise RuntimeError("get_buffer() returned an empty buffer")
            filled = 0
            while filled < room and (unknown or count):
                got = cipher.read_one(room - filled, view[filled:] if filled else view)
                if got is None:
                    break
                filled += got
                if not unknown and (filled < room or not cipher.tls.pending()):
                    count -= 1
            if cipher.interrupted or (count == 0 and not unknown):
                cipher.unclear = False
            del view
            if filled:
                self.protocol.buffer_updated(filled)
        return self.after_reading()

    cdef int pass_on(self, bytes data) except -1:
        """Give decrypted data to whom it concerns."""
        cdef Tls above = self.above
        if above is not None:
            return above.feed(data)
        callback = self.callback
        callback(data)
        return 0

    cdef int drop(self, bytes data) except -1:
        """Data has come after close(): nobody wants it any more, but the peer's close_notify that may be behind it.

        A peer that goes on sending is not listened to for long: the connection ends as soon as what was written is out.
        """
        self.dropped += PyBytes_GET_SIZE(data)
        self.cipher.put(data)
        self.discard()
        if self.heard_enough():
            if self.phase == SHUTDOWN:
                return self.finish()
            if self.phase == FLUSHING:
                return self.pause_carrier()
        return 0

    cdef bint heard_enough(self) noexcept:
        if self.phase == SHUTDOWN and self.dropped and monotonic() - self.shut_at > LINGER_S:
            return True
        return self.dropped >= DROP_MOST

    cdef int discard(self) except -1:
        """Read and forget."""
        cdef Cipher cipher = self.cipher
        cipher.skip_all()
        cipher.interrupted = False
        self.pump()
        if self.phase == FLUSHING:
            cipher.blocked = False
            self.want_flush()
        if cipher.broken is not None:
            error, cipher.broken = cipher.broken, None
            return self.fail(error, "Fatal error on transport")
        return self.both_done() if self.has_ended() else 0

    cdef int peer_ended(self) except -1:
        """The peer sends no more: TLS has no half-closed connections here, so this end closes as well."""
        self.tell_eof()
        return self.start_shutdown() if self.phase == OPEN else 0

    cdef int tell_eof(self) except -1:
        if self.told_eof or not self.made:
            return 0
        self.told_eof = True
        try:
            if self.protocol.eof_received() and self.above is None:
                logger.warning("returning true from eof_received() has no effect when using ssl")
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self.fail(error, "Error calling eof_received()")
        return 0

    # ---- sending

    cdef int write(self, object data) except -1:
        cdef bytes kept
        if type(data) is bytes:
            kept = <bytes> data
        elif isinstance(data, (bytes, bytearray, memoryview)):
            kept = bytes(data)
        else:
            raise TypeError(f"data: expecting a bytes-like instance, got {type(data).__name__}")
        if PyBytes_GET_SIZE(kept) == 0:
            return 0
        if self.phase > OPEN or self.stream.writing != TAKING:
            return self.lost_write()
        self.cipher.add(kept)
        if self.phase == OPEN:
            if PyBytes_GET_SIZE(kept) >= AT_ONCE:
                # It is in the cache now.
                self.encrypt_now()
            if self.stream.writing != STREAM_LOST:
                self.stream.send_in_time()
        return self.pause_if_much()

    cdef int encrypt_now(self) except -1:
        try:
            self.encrypt(False)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self.fail(error, BROKEN)
        return 0

    cdef int lost_write(self) except -1:
        if self.writes_lost >= constants.LOG_THRESHOLD_FOR_CONNLOST_WRITES:
            logger.warning("SSL connection is closed")
        self.writes_lost += 1
        return 0

    cdef int encrypt(self, bint everything) except -1:
        """Encrypt what has been written, as much as may wait to be sent."""
        cdef Cipher cipher = self.cipher
        while (cipher.waiting and not cipher.blocked and (self.phase == OPEN or self.phase == FLUSHING)
                and (everything or self.unsent_below() < CIPHER_MOST)):
            data = cipher.encrypt()
            if not data:
                continue
            if self.below is not None:
                self.below.write(data)
            elif self.stream.writing < DROPPING:
                self.stream.enqueue(<bytes> data)
                if self.stream.unsent >= HEAVY:
                    self.stream.turn.heavy = True
        return 0

    cdef int pump(self) except -1:
        """Send what else than data there is to be sent: handshakes, alerts, answers to key updates."""
        data = self.cipher.take_outgoing()
        if not data:
            return 0
        if self.below is not None:
            return self.below.write(data)
        if self.stream.writing < DROPPING:
            self.stream.enqueue(<bytes> data)
            self.stream.after_write()
        return 0

    cdef int want_flush(self) except -1:
        if self.stream.writing != STREAM_LOST:
            self.stream.wants_flush()
        return 0

    cdef size_t unsent_below(self) noexcept:
        return self.stream.unsent if self.below is None else self.below.unsent()

    cdef size_t unsent(self) noexcept:
        """Bytes that were written, encrypted or not, and that the kernel has not taken yet."""
        return self.cipher.waiting + self.unsent_below()

    cdef int pause_if_much(self) except -1:
        if self.writing_paused or self.above is not None or self.unsent() <= self.high:
            return 0
        self.writing_paused = True
        try:
            self.protocol.pause_writing()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self.complain("protocol.pause_writing() failed", error)
        return 0

    cdef int resume_protocol(self) except -1:
        self.writing_paused = False
        try:
            self.protocol.resume_writing()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self.complain("protocol.resume_writing() failed", error)
        return 0

    # ---- ending

    cdef int close(self) except -1:
        """Encrypt and send what was written, exchange close_notify, then end the connection."""
        if self.phase == OPEN:
            return self.start_shutdown()
        if self.phase < OPEN:
            return self.abort(None)
        return 0

    cdef int start_shutdown(self) except -1:
        if self.stream.writing != TAKING or self.stream.turn._closed:
            return self.finish()
        self.phase = FLUSHING
        self.start_timer(self.shutdown_timeout, self.shutdown_late)
        if self.paused:
            self.resume_carrier()
        return self.want_flush()

    cdef int shut_down(self) except -1:
        """All has been encrypted: send our close_notify."""
        if self.cipher.unclear:
            # Data that nobody has read would make it fail.
            self.discard()
            if self.phase != FLUSHING:
                return 0
        self.phase = SHUTDOWN
        self.shut_at = monotonic()
        if not self.carrier_eof:
            try:
                self.cipher.tls.unwrap()
            except AGAIN:
                self.pump()
                return self.finish() if self.heard_enough() else 0
            except SSLError as error:
                return self.fail(error, "Fatal error on transport")
            self.pump()
            self.cipher.ended = True
        # An end that came while reading was paused is told first, in the connection's context.
        return self.finish() if self.told_eof else self.stream.wake_up()

    cdef bint has_ended(self) noexcept:
        return self.phase == SHUTDOWN and (self.cipher.ended or self.carrier_eof)

    cdef int both_done(self) except -1:
        self.tell_eof()
        return self.finish() if self.phase == SHUTDOWN else 0

    cdef int finish(self) except -1:
        """Both have said that they are done, or the peer goes on and on."""
        self.phase = DONE
        if self.unsent_below():
            self.allow_time()
        else:
            self.stop_timer()
        return self.stream.close() if self.below is None else self.below.close()

    cdef int allow_time(self) except -1:
        """A peer that has nothing to say any more may read what is left as slowly as it likes, but not stop reading."""
        return self.start_timer(self.shutdown_timeout, self.shutdown_late)

    cdef int abort(self, object error) except -1:
        """End now; what was not sent is lost."""
        if self.phase == LOST:
            return 0
        self.phase = DONE
        self.cipher.forget()
        return self.stream.force_close(error) if self.below is None else self.below.abort(error)

    cdef int fail(self, object error, str message) except -1:
        """An error that ends the connection.  The peer is told why, if that needs no waiting."""
        if self.phase >= DONE:
            return 0
        if (not isinstance(error, SSLError) or self.below is not None or self.stream.unsent
                or self.stream.writing != TAKING or self.stream.turn._closed or not self.cipher.outgoing.pending):
            self.abort(error)
        else:
            self.pump()
            self.phase = DONE
            self.stream.error = error
            self.allow_time()
            self.stream.close()
        return self.report(error, message)

    cdef int report(self, object error, str message) except -1:
        if isinstance(error, OSError):
            if self.stream.turn._debug:
                logger.debug("%r: %s", self.facade, message, exc_info=error)
        elif not isinstance(error, asyncio.CancelledError):
            self.complain(message, error)
        return 0

    cdef int complain(self, str message, object error) except -1:
        self.stream.turn.call_exception_handler({
            "message": message, "exception": error, "transport": self.facade, "protocol": self.protocol})
        return 0

    # ---- what the transport passes on

    cdef int pause_reading(self) except -1:
        if not self.paused:
            self.paused = True
            if self.phase == OPEN:
                self.hold_back()
        return 0

    cdef int resume_reading(self) except -1:
        if self.paused:
            self.paused = False
            if self.phase <= OPEN:
                self.resume_carrier()
            if self.has_rest():
                self.stream.wake_up()
        return 0

    cdef int pause_carrier(self) except -1:
        return self.stream.pause_reading() if self.below is None else self.below.pause_reading()

    cdef int resume_carrier(self) except -1:
        return self.stream.resume_reading() if self.below is None else self.below.resume_reading()

    cdef int adopt_protocol(self, object protocol) except -1:
        self.protocol = protocol
        self.above = <Tls> protocol if isinstance(protocol, Tls) else None
        buffered = isinstance(protocol, asyncio.BufferedProtocol)
        self.callback = None if buffered else getattr(protocol, "data_received", None)
        return 0

    cdef int set_limits(self, object high, object low) except -1:
        self.high, self.low = marks(high, low, constants.FLOW_CONTROL_HIGH_WATER_SSL_WRITE)
        return self.pause_if_much()

    cdef bint closing(self) noexcept:
        return self.phase > OPEN or self.stream.writing != TAKING

    cdef object extra_info(self, object name, object default):
        if name == "sslcontext":
            return self.context
        if name in ("ssl_object", "peercert", "cipher", "compression"):
            if self.extra is None and self.phase > HANDSHAKE:
                self.extra = after_handshake(self.cipher.tls)
            return default if self.extra is None else self.extra[name]
        if self.below is not None:
            return self.below.extra_info(name, default)
        return self.stream.extra_info(name, default)

    cdef str describe(self):
        cdef str name = ("waiting", "handshake", "open", "flushing", "shutdown", "closing", "closed")[<int> self.phase]
        reading = "polling" if self.phase <= OPEN and not self.paused else "idle"
        writing = "polling" if self.unsent() else "idle"
        return (f"<SSLTransport {name} fd={self.stream.fd} {self.cipher.tls.version()} read={reading} "
                f"write=<{writing}, bufsize={self.unsent()}>>")


cdef dict after_handshake(object tls_object):
    """What asyncio's transports tell about a connection; empty as long as there is none."""
    try:
        peercert = tls_object.getpeercert()
    except ValueError:
        return None
    return {"ssl_object": tls_object, "peercert": peercert, "cipher": tls_object.cipher(),
            "compression": tls_object.compression()}
