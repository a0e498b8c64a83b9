from libc.stdint cimport uint32_t, uint8_t
from posix.uio cimport iovec

from flexsc_loop.syscalls.interest cimport Interest
from flexsc_loop.syscalls.operation cimport Operation
from flexsc_loop.syscalls.posix_socket cimport msghdr
from flexsc_loop.transports.connection cimport Connection


cdef enum WriteState:
    TAKING       # what is written is taken and goes out
    FINISHING    # close() while the protocol is paused: what it writes until it has been resumed is taken
    DRAINING     # close(): no more is taken; what was written goes out
    DROPPING     # abort() or an error: what is unsent stays so
    LOST         # connection_lost has been called


cdef class Room(Interest):
    cdef Writing stream


cdef class Send(Operation):
    cdef Writing stream
    cdef Room room                    # waits until the socket takes more; None before the first wait
    cdef object keep                  # bytes, or a list of bytes: what the kernel reads from
    cdef msghdr header
    cdef iovec* vector                # NULL for a single bytes object
    cdef size_t first                 # item of the list that is not sent completely yet
    cdef size_t offset                # bytes of it that have been sent
    cdef size_t total                 # bytes left to send
    cdef size_t asked                 # bytes of the last call

    cdef int load(self, object written) except -1
    cdef int prepare(self, uint32_t flags) except -1
    cdef int fill_vector(self) except -1
    cdef int advance(self, size_t sent) except -1
    cdef int unload(self) except -1
    cdef bint waits(self) noexcept


cdef class Writing(Connection):
    cdef object outbox                # bytes, or a list of bytes: written, not submitted
    cdef Send send                    # under way; None: none is
    cdef size_t unsent                # bytes in the outbox and in flight
    cdef size_t high, low
    cdef object paused_protocol       # who was told to pause: it may have been replaced meanwhile
    cdef list drained                 # futures that wait until nothing is unsent
    cdef uint8_t writing              # WriteState
    cdef uint8_t eof_written          # write_eof() was called: writes are refused, in whichever state
    cdef uint8_t held                 # sendfile is in progress: writes are refused, and the fd stays
    cdef uint8_t prompt_in            # low bits of the turn in which a write was sent at once
    cdef uint8_t several              # not 0: of late, turns have written more than once
    cdef uint8_t writes_lost          # writes after the end, as far as anybody wants to know
    cdef object error                 # what connection_lost will be told

    cdef int change_writing(self, WriteState to) except -1
    cdef bint sending(self) noexcept
    cdef int write(self, object data) except -1
    cdef int write_all(self, object items) except -1
    cdef bint accept(self, object data) except -1
    cdef int lost_write(self) except -1
    cdef int enqueue(self, bytes data) except -1
    cdef int after_write(self) except -1
    cdef int send_in_time(self) except -1
    cdef int send_without_loop(self) except -1
    cdef bint is_alone(self) noexcept
    cdef int send_at_once(self) except -1
    cdef int send_more(self) except -1
    cdef int take_send(self) except -1
    cdef bint is_urgent(self) noexcept
    cdef int send_now(self) except -1
    cdef int sent_now(self, ssize_t count, int error) except -1
    cdef int go_on(self, ssize_t count) except -1
    cdef int wait_for_room(self) except -1
    cdef int send_rest(self) except -1
    cdef int sent(self) except -1
    cdef int send_failed(self, int error) except -1
    cdef int await_cause(self) except -1
    cdef int cause_of(self, int error) noexcept
    cdef int write_eof(self) except -1
    cdef int send_eof(self) except -1
    cdef int stop_writing(self) except -1
    cdef int drop_unsent(self) except -1
    cdef int last_try(self) except -1
    cdef int pause_protocol(self) except -1
    cdef int resume_protocol(self) except -1
    cdef int set_limits(self, object high, object low) except -1
    cdef object when_drained(self)
    cdef int tell_drained(self) except -1
    cdef int tell_drained_lost(self) except -1
