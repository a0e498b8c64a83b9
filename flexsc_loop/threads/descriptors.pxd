from libc.stdint cimport uint32_t

from flexsc_loop.syscalls.interest cimport Interest
from flexsc_loop.threads.green cimport GreenThread


cdef class Ready(Interest):
    cdef GreenThread thread
    cdef bint over, gone, expired

    cdef int close(self) except -1


cdef bint wait_ready(GreenThread me, int fd, uint32_t mask, object timeout, object within=*) except -1
cpdef int closing(int fd) except -1
