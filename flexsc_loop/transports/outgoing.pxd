from libc.stdint cimport uint32_t
from posix.uio cimport iovec

from flexsc_loop.syscalls.operation cimport Operation
from flexsc_loop.syscalls.page cimport Page
from flexsc_loop.syscalls.posix_socket cimport msghdr
from flexsc_loop.turn.handles cimport flexsc_queue
from flexsc_loop.turn.turn cimport Endpoint


cdef enum State:
    OPEN         # connection_made is due or has been called; reads and writes go on
    CLOSING      # close() or abort() was called: operations are being ended, writes perhaps drained
    CLOSED       # connection_lost has been called, the fd is closed or on its way


cdef class Writable(Operation):
    cdef Outgoing endpoint

    cdef int prepare(self) except -1


cdef class SendTo(Operation):
    cdef Outgoing endpoint
    cdef bytes data, name             # what the kernel reads from
    cdef msghdr header
    cdef iovec payload
    cdef int result

    cdef int prepare(self, uint32_t flags) except -1


cdef class Outgoing(Endpoint):
    cdef Page page
    cdef int fd
    cdef State state
    cdef object facade                # the asyncio transport that users hold
    cdef object protocol
    cdef object context
    cdef object sock
    cdef bint connected               # the kernel knows the destination

    cdef flexsc_queue outbox          # not sent: data (bytes) and name (see `enqueue`) of each, with one reference
    cdef size_t unsent                # bytes of the outbox and of the flight, as flow control counts them
    cdef size_t high, low
    cdef bint protocol_paused
    cdef bint dropping                # abort: what is unsent stays so
    cdef unsigned int writes_lost     # sends after the end
    cdef bint calling                 # the socket module sends, and may run code of the program's: hands off the outbox
    cdef Writable writable
    cdef bint lied_to                 # the last wait for room was in vain
    cdef object retry                 # timer: when to try again
    cdef double retry_delay

    cdef bint by_page                 # another thread sends: through entries, not from here
    cdef list flight                  # SendTos under way, in order
    cdef unsigned int flying          # of them, not completed
    cdef list spare                   # SendTos to be used again

    cdef int note_error(self, object error) except -1
    cdef int fatal(self, object error, str message) except -1
    cdef int complain(self, str message, object error) except -1
    cdef int lost_write(self) except -1
    cdef int enqueue(self, bytes data, object name, bint as_it_is) except -1
    cdef int after_write(self) except -1
    cdef int send_from_here(self) except -1
    cdef bint send_batch(self) except -1
    cdef bint send_by_socket(self) except -1
    cdef int take_out(self) except -1
    cdef int wait_for_room(self) except -1
    cdef int room(self, int res) except -1
    cdef int take_off(self) except -1
    cdef int submit_flight(self) except -1
    cdef int landed(self) except -1
    cdef int sent(self) except -1
    cdef int drop_outbox(self) except -1
    cdef int drop_unsent(self) except -1
    cdef bint busy(self) noexcept
    cdef int pause_protocol(self) except -1
    cdef int resume_protocol(self) except -1
    cdef int set_limits(self, object high, object low) except -1
