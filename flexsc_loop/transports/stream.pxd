from libc.stdint cimport uint8_t, uint32_t, uint64_t

from flexsc_loop.syscalls.operation cimport Operation
from flexsc_loop.syscalls.page cimport Page
from flexsc_loop.turn.turn cimport Endpoint, Turn


cdef extern from "<sys/uio.h>":
    struct iovec:
        void* iov_base
        size_t iov_len


cdef extern from "<sys/socket.h>" nogil:
    struct msghdr:
        void* msg_name
        unsigned int msg_namelen
        iovec* msg_iov
        size_t msg_iovlen


cdef enum State:
    OPEN         # connection_made is due or has been called; reads and writes go on
    CLOSING      # close() or abort() was called: operations are being ended, writes perhaps drained
    CLOSED       # connection_lost has been called, the fd is closed or on its way


cdef class Receive(Operation):
    cdef Stream stream
    cdef bint polls                   # what is in flight only waits until the socket is readable

    cdef int prepare(self) except -1


cdef class Send(Operation):
    cdef Stream stream
    cdef object keep                  # bytes, or a list of bytes: what the kernel reads from
    cdef msghdr header
    cdef iovec* vector                # NULL for a single bytes object
    cdef size_t first                 # item of the list that is not sent completely yet
    cdef size_t offset                # bytes of it that have been sent
    cdef size_t total                 # bytes left to send

    cdef int load(self, object written) except -1
    cdef int prepare(self, uint32_t flags) except -1
    cdef int fill_vector(self) except -1
    cdef int advance(self, size_t sent) except -1
    cdef int unload(self) except -1


cdef class Layer:
    cdef int feed(self, bytes data) except -1
    cdef int gather(self) except -1
    cdef int progressed(self) except -1
    cdef int settle(self) except -1
    cdef int carrier_closing(self) except -1


cdef class Stream(Endpoint):
    cdef Page page
    cdef int fd
    cdef State state
    cdef object facade                # the asyncio transport that users hold
    cdef object protocol
    cdef object data_received         # bound method, None with a BufferedProtocol
    cdef Layer layer                  # the protocol, if it is a layer of ours
    cdef object context
    cdef object server
    cdef object waiter                # future of whoever opens the connection
    cdef object sock                  # socket object, made when somebody asks
    cdef dict extra
    cdef bytes peer, name             # raw sockaddrs

    # One byte each: a server has thousands of these.
    cdef uint8_t fresh                # connection_made is still to be called
    cdef uint8_t introduced           # connection_made has been called
    cdef uint8_t paused               # pause_reading
    cdef uint8_t finished             # the peer's end has been delivered: no more reads
    cdef uint8_t came_eof             # the peer's end has been received
    cdef uint8_t direct               # large reads: straight into bytes, no pool buffer
    cdef uint8_t readable             # direct: worth a read
    cdef uint8_t protocol_paused
    cdef uint8_t eof_written          # write_eof was called
    cdef uint8_t eof_sent
    cdef uint8_t held                 # sendfile is in progress: no writes
    cdef uint8_t dropping             # abort: what is unsent stays so

    cdef uint8_t full_reads, small_reads
    cdef uint8_t prompt_in            # low bits of the turn in which a write was sent at once
    cdef uint8_t several              # not 0: of late, turns have written more than once

    cdef int came_error               # errno of a failed receive
    cdef unsigned int writes_lost     # writes after the end
    cdef uint32_t direct_size
    cdef object inbox                 # bytes, or a list of bytes: received, not delivered
    cdef Receive receive

    cdef object outbox                # bytes, or a list of bytes: written, not submitted
    cdef Send send
    cdef size_t unsent                # bytes in the outbox and in flight
    cdef size_t high, low
    cdef object paused_protocol       # who was told to pause: it may have been replaced meanwhile
    cdef uint64_t closed_in           # the turn in which it was closed or aborted
    cdef object error                 # what connection_lost will be told
    cdef list drained                 # futures that wait until nothing is unsent

    cdef int introduce(self) except -1
    cdef int arm(self) except -1
    cdef int received(self, int res, uint32_t flags) except -1
    cdef bint behind(self) noexcept
    cdef int keep_data(self, bytes data) except -1
    cdef int keep_rest(self, bytes rest) except -1
    cdef int count_full_reads(self, int res, uint32_t flags) except -1
    cdef int count_small_reads(self, size_t size) except -1
    cdef int deliver(self) except -1
    cdef int after_delivery(self) except -1
    cdef int pull(self) except -1
    cdef ssize_t read(self, void* target, size_t size) except? -1
    cdef int pull_into_buffer(self) except -1
    cdef ssize_t read_into(self, object buffer) except? -1
    cdef int deliver_data(self) except -1
    cdef int feed_layer(self, bytes data) except -1
    cdef int deliver_buffered(self, bytes data) except -1
    cdef int deliver_eof(self) except -1
    cdef int write(self, object data) except -1
    cdef int lost_write(self) except -1
    cdef int enqueue(self, bytes data) except -1
    cdef int after_write(self) except -1
    cdef int send_in_time(self) except -1
    cdef bint may_send_at_once(self) noexcept
    cdef int send_at_once(self) except -1
    cdef int send_more(self) except -1
    cdef int send_now(self) except -1
    cdef int sent(self) except -1
    cdef int send_failed(self, int error) except -1
    cdef int send_eof(self) except -1
    cdef int write_eof(self) except -1
    cdef int pause_protocol(self) except -1
    cdef int resume_protocol(self) except -1
    cdef int tell_drained(self) except -1
    cdef int tell_drained_lost(self) except -1
    cdef int close(self) except -1
    cdef int force_close(self, object error) except -1
    cdef int end_soon(self) except -1
    cdef int last_try(self) except -1
    cdef int lose(self) except -1
    cdef int let_go(self) except -1
    cdef int fatal(self, object error, str message) except -1
    cdef int complain(self, str message, object error) except -1
    cdef int pause_reading(self) except -1
    cdef int resume_reading(self) except -1
    cdef int adopt_protocol(self, object protocol) except -1
    cdef int set_limits(self, object high, object low) except -1
    cdef object when_drained(self)
    cdef object socket_object(self)
    cdef object extra_info(self, object name, object default)
    cdef str describe(self)


cdef object call_for(object context, object callback)
cdef int hold_socket(object sock) except -1
cdef int release_socket(object sock) except? -1
cdef Stream open_stream(Turn turn, int fd, object protocol, object waiter, object server, dict extra, object sock)
