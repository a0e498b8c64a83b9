from flexsc_loop.transports.connection cimport Layer
from flexsc_loop.transports.stream cimport Stream
from flexsc_loop.transports.tls_cipher cimport Cipher


cdef enum Phase:
    WAITING      # there is no connection yet
    HANDSHAKE    # the handshake goes on
    OPEN         # connection_made is due or has been called; reads and writes go on
    FLUSHING     # close() was called or the peer has ended: what was written is being encrypted
    SHUTDOWN     # our close_notify is out, the peer's awaited
    DONE         # the carrier has been told to close
    LOST         # connection_lost has been called


cdef class Tls(Layer):
    cdef object context               # ssl.SSLContext
    cdef bint server_side
    cdef object handshake_timeout, shutdown_timeout      # seconds
    cdef Stream stream                # at the bottom
    cdef Tls below                    # what carries us, None for the stream itself
    cdef Tls above                    # what we carry instead of a user's protocol
    cdef Phase phase
    cdef object facade                # the asyncio transport that users hold
    cdef object protocol
    cdef object callback              # bound data_received, None with a BufferedProtocol
    cdef object waiter                # future of whoever opens the connection
    cdef object timer                 # of the handshake, later of the shutdown
    cdef double started               # debug mode: when the handshake began
    cdef dict extra
    cdef bint made                    # the protocol has had connection_made
    cdef bint made_before             # it had it from the carrier, before start_tls
    cdef bint told_eof                # eof_received has been called
    cdef bint carrier_eof             # the carrier's stream has ended
    cdef size_t dropped               # bytes that have come after close()
    cdef double shut_at               # when our close_notify was written

    cdef Cipher cipher
    cdef bint paused                  # pause_reading
    cdef size_t high, low
    cdef size_t read_high, read_low   # so much of what comes while reading is paused is kept
    cdef bint writing_paused
    cdef unsigned int writes_lost

    cdef int attach(self, Stream stream, Tls below) except -1
    cdef int begin(self) except -1
    cdef int shake(self) except -1
    cdef int established(self) except -1
    cdef int tell_made(self) except -1
    cdef int tell_waiter(self, object error) except -1
    cdef int start_timer(self, object seconds, object callback) except -1
    cdef int stop_timer(self) except -1

    cdef int receive(self, bytes data) except -1
    cdef int after_reading(self) except -1
    cdef int hold_back(self) except -1
    cdef bint has_rest(self) noexcept
    cdef int read_rest(self) except -1
    cdef int drain(self) except -1
    cdef int fill_buffers(self, size_t count) except -1
    cdef int drop(self, bytes data) except -1
    cdef bint heard_enough(self) noexcept
    cdef int discard(self) except -1
    cdef int pass_on(self, bytes data) except -1
    cdef int peer_ended(self) except -1
    cdef int tell_eof(self) except -1

    cdef int write(self, object data) except -1
    cdef int lost_write(self) except -1
    cdef int encrypt_now(self) except -1
    cdef int encrypt(self, bint everything) except -1
    cdef int pump(self) except -1
    cdef int want_flush(self) except -1
    cdef size_t unsent_below(self) noexcept
    cdef size_t unsent(self) noexcept
    cdef int pause_if_much(self) except -1
    cdef int resume_protocol(self) except -1

    cdef int close(self) except -1
    cdef int start_shutdown(self) except -1
    cdef int shut_down(self) except -1
    cdef bint has_ended(self) noexcept
    cdef int both_done(self) except -1
    cdef int finish(self) except -1
    cdef int allow_time(self) except -1
    cdef int abort(self, object error) except -1
    cdef int fail(self, object error, str message) except -1
    cdef int report(self, object error, str message) except -1
    cdef int complain(self, str message, object error) except -1
    cdef int pause_reading(self) except -1
    cdef int resume_reading(self) except -1
    cdef int pause_carrier(self) except -1
    cdef int resume_carrier(self) except -1
    cdef int adopt_protocol(self, object protocol) except -1
    cdef int set_limits(self, object high, object low) except -1
    cdef bint closing(self) noexcept
    cdef object extra_info(self, object name, object default)
    cdef str describe(self)
