from libc.stdint cimport uint32_t, uint64_t

from flexsc_loop.syscalls.operation cimport Operation
from flexsc_loop.syscalls.page cimport Page
from flexsc_loop.transports.addresses cimport AddressBook
from flexsc_loop.transports.stream cimport State, iovec
from flexsc_loop.turn.turn cimport Endpoint, Turn, flexsc_queue


cdef extern from "<sys/socket.h>" nogil:
    struct msghdr:
        void* msg_name
        unsigned int msg_namelen
        iovec* msg_iov
        size_t msg_iovlen


cdef extern from "datagrams.h":
    enum:
        DATAGRAMS_AT_ONCE

    struct datagram_batch:
        unsigned int count

    void datagrams_add(datagram_batch* batch, void* data, size_t size, void* name, size_t name_size) noexcept
    unsigned int datagrams_send(int fd, datagram_batch* batch, bint one_by_one, uint64_t* calls, int* error) noexcept


cdef class ReceiveFrom(Operation):
    cdef Datagrams endpoint
    cdef msghdr header                # says how much room there is for the sender's address

    cdef int prepare(self) except -1


cdef class Writable(Operation):
    cdef Datagrams endpoint

    cdef int prepare(self) except -1


cdef class SendTo(Operation):
    cdef Datagrams endpoint
    cdef bytes data, name             # what the kernel reads from
    cdef msghdr header
    cdef iovec payload
    cdef int result

    cdef int prepare(self, uint32_t flags) except -1


cdef class Datagrams(Endpoint):
    cdef Page page
    cdef int fd
    cdef State state
    cdef object facade                # the asyncio transport that users hold
    cdef object protocol
    cdef object context
    cdef object waiter                # future of whoever opens the endpoint
    cdef object sock
    cdef object address               # the only destination that sendto() may name, or None
    cdef dict extra
    cdef AddressBook book

    cdef bint fresh                   # connection_made is still to be called
    cdef bint introduced              # connection_made has been called
    cdef bint connected               # the kernel knows the destination
    cdef bint paused                  # pause_reading
    cdef flexsc_queue inbox           # received, not delivered: data and address of each, with one reference
    cdef ReceiveFrom receive
    cdef list errors                  # for error_received

    cdef flexsc_queue outbox          # not sent: data (bytes) and name (see `enqueue`) of each, with one reference
    cdef size_t unsent                # what of the outbox and of the flight counts for flow control, bytes
    cdef size_t high, low
    cdef bint protocol_paused
    cdef bint dropping                # abort: what is unsent stays so
    cdef bint lied_to                 # the last wait for room was in vain
    cdef unsigned int writes_lost     # sends after the end
    cdef object error                 # what connection_lost will be told
    cdef Writable writable
    cdef object retry                 # timer: when to try again
    cdef double retry_delay

    cdef bint by_page                 # another thread sends: through entries, not from here
    cdef list flight                  # SendTos under way, in order
    cdef unsigned int flying          # of them, not completed
    cdef list spare                   # SendTos to be used again

    cdef int introduce(self) except -1
    cdef int arm(self) except -1
    cdef int received(self, int res, uint32_t flags) except -1
    cdef int take(self, uint32_t id) except -1
    cdef int deliver(self) except -1
    cdef int deliver_each(self, object callback) except -1
    cdef int note_error(self, object error) except -1
    cdef int deliver_errors(self) except -1
    cdef int sendto(self, object data, object address) except -1
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
    cdef int pause_protocol(self) except -1
    cdef int resume_protocol(self) except -1
    cdef int close(self) except -1
    cdef int force_close(self, object error) except -1
    cdef bint busy(self) noexcept
    cdef int lose(self) except -1
    cdef int let_go(self) except -1
    cdef int fatal(self, object error, str message) except -1
    cdef int complain(self, str message, object error) except -1
    cdef int pause_reading(self) except -1
    cdef int resume_reading(self) except -1
    cdef int set_limits(self, object high, object low) except -1
    cdef str describe(self)
