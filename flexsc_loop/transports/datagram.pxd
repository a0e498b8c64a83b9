from libc.stdint cimport uint32_t

from flexsc_loop.syscalls.operation cimport Operation
from flexsc_loop.syscalls.page cimport flexsc_datagram
from flexsc_loop.syscalls.posix_socket cimport msghdr
from flexsc_loop.transports.addresses cimport AddressBook
from flexsc_loop.transports.outgoing cimport Outgoing
from flexsc_loop.turn.handles cimport flexsc_queue


cdef class ReceiveFrom(Operation):
    cdef Datagrams endpoint
    cdef msghdr header                # says how much room there is for the sender's address

    cdef int prepare(self) except -1


cdef class Datagrams(Outgoing):
    cdef object address               # the only destination that sendto() may name, or None
    cdef AddressBook book
    cdef bint paused                  # pause_reading
    cdef flexsc_queue inbox           # received, not delivered: data and address of each, with one reference
    cdef ReceiveFrom receive
    cdef list errors                  # of sends, for error_received
    cdef list read_errors             # likewise, of receives
    cdef bint in_call                 # of sendto(): its errors are told within it
    cdef bint late                    # there was more to deliver than there is time for

    cdef int arm(self) except -1
    cdef int received(self, int res, uint32_t flags) except -1
    cdef int take(self, const flexsc_datagram* datagram) except -1
    cdef int deliver(self) except -1
    cdef int deliver_each(self) except -1
    cdef int sendto(self, object data, object address) except -1
    cdef int close(self) except -1
    cdef int stop_receiving(self) except -1
    cdef int force_close(self, object error) except -1
    cdef int lose(self) except -1
    cdef int let_go(self) except -1
    cdef int pause_reading(self) except -1
    cdef int resume_reading(self) except -1
    cdef str describe(self)
