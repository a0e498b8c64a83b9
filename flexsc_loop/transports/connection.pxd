from libc.stdint cimport uint8_t

from flexsc_loop.syscalls.page cimport Page
from flexsc_loop.turn.turn cimport Endpoint


cdef class Layer:
    cdef int feed(self, bytes data) except -1
    cdef int gather(self) except -1
    cdef int progressed(self) except -1
    cdef int settle(self) except -1
    cdef int carrier_closing(self) except -1


cdef class Connection(Endpoint):
    cdef Page page
    cdef int fd                       # -1 once the connection is lost
    cdef object context               # everything of the protocol's is called in it
    cdef uint8_t unbound              # what follows is a function, whose first argument is the protocol
    cdef object data_received         # the protocol's; None with a BufferedProtocol or a layer
    cdef Layer layer                  # the protocol, if it is a layer of ours
    cdef object protocol
    cdef object facade                # the asyncio transport that users hold

    cdef int adopt_protocol(self, object protocol) except -1
    cdef int close(self) except -1
    cdef int force_close(self, object error) except -1
    cdef int fatal(self, object error, str message) except -1
    cdef int complain(self, str message, object error) except -1
    cdef str describe(self)


cdef tuple marks(object high, object low, object default_kib)
cdef object call_for(object context, object callback)
cdef int hold_socket(object sock) except -1
cdef int release_socket(object sock) except? -1
cdef bint lingers(int fd) noexcept
cdef void end_lingering(int fd) noexcept
