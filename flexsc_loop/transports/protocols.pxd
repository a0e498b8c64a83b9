from flexsc_loop.turn.turn cimport Endpoint


cdef enum State:
    OPEN         # connection_made is due or has been called; reads and writes go on
    CLOSING      # nothing new is read; operations are being ended, what was written perhaps still goes out
    CLOSED       # connection_lost has been called, the fd is closed or on its way


cdef class ProtocolEndpoint(Endpoint):
    cdef object facade                # the asyncio transport that users hold
    cdef object protocol
    cdef object context               # the protocol is called in it
    cdef object waiter                # future of whoever opens the endpoint
    cdef object error                 # what connection_lost will be told
    cdef dict extra
    cdef State state
    cdef bint fresh                   # connection_made is still to be called
    cdef bint in_line                 # `go_on` stands in line with the callbacks
    cdef bint protocol_paused
    cdef size_t unsent                # bytes that the kernel has not taken, as flow control counts them
    cdef size_t high, low

    cdef int begin(self, object facade, object protocol, object waiter) except -1
    cdef int stand_in_line(self) except -1
    cdef int go_on(self) except -1
    cdef int await_ends(self) except -1
    cdef int introduce(self) except -1
    cdef int tell(self, str name) except -1
    cdef int tell_of(self, str name, object argument) except -1
    cdef int complain(self, str message, object error) except -1
    cdef int pause_if_much(self) except -1
    cdef int resume_if_little(self) except -1
    cdef int set_limits(self, object high, object low) except -1
