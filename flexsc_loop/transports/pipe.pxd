from libc.stdint cimport uint32_t

from flexsc_loop.syscalls.operation cimport Operation
from flexsc_loop.transports.protocols cimport ProtocolEndpoint


cdef class Ready(Operation):
    cdef PipeEnd end
    cdef uint32_t mask
    cdef bint came                    # the poll has ended with an event, and nobody has looked at it yet

    cdef int prepare(self) except -1


cdef class PipeEnd(ProtocolEndpoint):
    cdef int fd
    cdef object pipe                  # the caller's file object; None once it is closed
    cdef Ready ready                  # waits until there is something to read, or room to write

    cdef int adopt(self, object facade, object pipe, object protocol, object waiter, object extra) except -1
    cdef bint is_ours(self) except -1
    cdef int end_waits(self) except -1
    cdef bint waits(self) noexcept
    cdef bint goes_on(self) noexcept
    cdef int lose(self) except -1
    cdef int shut(self, object error) except -1


cdef class ReadEnd(PipeEnd):
    cdef bint paused

    cdef int read(self) except -1
    cdef int read_now(self) except -1
    cdef object take(self)
    cdef int reach_end(self) except -1
    cdef int fail(self, object error) except -1


cdef class WriteEnd(PipeEnd):
    cdef Ready peer                   # waits until the reader has gone; None where that can't be known
    cdef list outbox                  # bytes that the kernel has not taken, oldest first
    cdef size_t offset                # bytes of the first one that it has
    cdef bint in_vain                 # the last call found no room, and will be made once more
    cdef unsigned int writes_lost     # writes after the end

    cdef int write(self, object data) except -1
    cdef int peer_left(self) except -1
    cdef int put(self, bytes data) except -1
    cdef int push(self) except -1
    cdef int lost_pipe(self) except -1
    cdef Py_ssize_t give(self, bytes data) except? -1
    cdef Py_ssize_t give_all(self) except? -1
    cdef int advance(self, size_t count) except -1
    cdef int finish(self) except -1
    cdef int drop(self) except -1
    cdef int fail(self, object error) except -1
