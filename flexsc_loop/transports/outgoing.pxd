from libc.stdint cimport uint32_t
from posix.uio cimport iovec

from flexsc_loop.syscalls.operation cimport Operation
from flexsc_loop.syscalls.page cimport Page
from flexsc_loop.syscalls.posix_socket cimport msghdr
from flexsc_loop.transports.protocols cimport ProtocolEndpoint
from flexsc_loop.turn.handles cimport flexsc_queue


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


cdef class Outgoing(ProtocolEndpoint):
    cdef Page page
    cdef int fd
    cdef object sock
    cdef bint connected               # the kernel knows the destination

    cdef flexsc_queue outbox          # not sent: data (bytes) and name (see `enqueue`) of each, with one reference
    cdef bint dropping                # abort: what is unsent stays so
    cdef unsigned int writes_lost     # sends after the end
    cdef bint calling                 # the socket module sends, and may run code of the program's: hands off the outbox
    cdef Writable writable
    cdef bint lied_to                 # the last wait for room was in vain
    cdef object retry                 # timer: when to try again
    cdef double retry_delay

    cdef bint gathering               # more is to be delivered, whose answers may go with these
    cdef uint32_t prompt_in           # low bits of the turn in which something was sent at once
    cdef unsigned int prompt          # how often in that turn
    cdef bint by_page                 # another thread sends: through entries, not from here
    cdef list flight                  # SendTos under way, in order
    cdef unsigned int flying          # of them, not completed
    cdef list spare                   # SendTos to be used again

    cdef void count_sent(self, Py_ssize_t size) noexcept
    cdef int note_error(self, object error) except -1
    cdef int fatal(self, object error, str message) except -1
    cdef int lost_write(self) except -1
    cdef int put(self, bytes data, object name, bint as_it_is) except -1
    cdef bint may_send_at_once(self) except? False
    cdef int send_one(self, bytes data, bytes name) noexcept
    cdef int enqueue(self, bytes data, object name, bint as_it_is) except -1
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
