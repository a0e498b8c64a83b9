from libc.stdint cimport uint32_t, uint64_t

from flexsc_loop.syscalls.interest cimport Interest
from flexsc_loop.syscalls.operation cimport Operation
from flexsc_loop.syscalls.page cimport Page
from flexsc_loop.threads.green cimport GreenThread


cdef class Call(Operation):
    cdef GreenThread thread
    cdef object kept                 # whose memory the call uses, or what came in a pool buffer
    cdef Page page
    cdef int res
    cdef uint32_t flags
    cdef bint over, expired
    cdef bint gone                   # its descriptor is being closed
    cdef Call following              # another one on the same fd


cdef class Ready(Interest):
    cdef GreenThread thread
    cdef bint over, gone, expired

    cdef int close(self) except -1


cdef Call a_call(GreenThread me)
cdef int done_with(GreenThread me, Call op) except -1
cdef int make(GreenThread me, Call op, int call, int fd, void* addr, uint32_t size, uint64_t off, uint32_t call_flags,
              uint32_t flags, object timeout) except? -1
cdef bint wait_ready(GreenThread me, int fd, uint32_t mask, object timeout, object within=*) except -1
cpdef int closing(int fd) except -1
