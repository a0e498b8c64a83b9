from libc.stdint cimport uint32_t, uint8_t

from flexsc_loop.transports.writing cimport Writing


cdef enum ReadState:
    FLOWING      # what comes is delivered
    PAUSED       # pause_reading(): what comes is kept
    STOPPED      # the connection closes: what comes is dropped


cdef enum Source:
    POOL         # receives into pool buffers, each time that something comes
    POLL         # a poll in flight tells when a large read is worth a try
    READABLE     # one is


cdef enum End:               # of what the peer sends; an errno if it has failed
    NOT_YET = 0
    END_CAME = -1            # it has been received
    END_TOLD = -2            # eof_received has been called


cdef class Reading(Writing):
    cdef object inbox                 # bytes, or a list of bytes: received, not delivered
    cdef uint8_t reading              # ReadState
    cdef uint8_t source               # Source
    cdef uint8_t polls                # what is in flight only waits until the socket is readable
    cdef uint8_t full_reads, small_reads
    cdef int end                      # End, or an errno
    cdef uint32_t direct_size         # of large reads
    cdef uint32_t resumed_in          # low bits of the turn in which reading was resumed

    cdef int change_reading(self, ReadState to) except -1
    cdef int arm(self) except -1
    cdef int submit_receive(self) except -1
    cdef int received(self, int res, uint32_t flags) except -1
    cdef int note_end(self, int how) except -1
    cdef bint behind(self) noexcept
    cdef int keep_data(self, bytes data) except -1
    cdef int keep_rest(self, bytes rest) except -1
    cdef int count_full_reads(self, int res, uint32_t flags) except -1
    cdef int count_small_reads(self, size_t size) except -1
    cdef int deliver(self) except -1
    cdef bint deliver_some(self) except -1
    cdef int deliver_end(self) except -1
    cdef int pull(self) except -1
    cdef ssize_t read(self, void* target, size_t size) except? -1
    cdef bint pull_into_buffer(self) except -1
    cdef ssize_t read_into(self, object buffer) except? -1
    cdef int deliver_data(self) except -1
    cdef int feed_layer(self, bytes data) except -1
    cdef int deliver_buffered(self, bytes data) except -1
    cdef int deliver_eof(self) except -1
    cdef int pause_reading(self) except -1
    cdef int resume_reading(self) except -1
    cdef int stop_reading(self) except -1
