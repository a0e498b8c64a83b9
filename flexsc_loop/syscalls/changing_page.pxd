from libc.stdint cimport int64_t, uint64_t

from flexsc_loop.syscalls.kernel_page cimport KernelPage, WakeRead, uring
from flexsc_loop.syscalls.operation cimport Operation


cdef class ChangingKernelPage(KernelPage):
    cdef uring second                      # with a poller; its fd is -1 while there is none
    cdef uring* former                     # the one that is not filled; NULL: there is none
    cdef WakeRead second_waker
    cdef int second_cpu
    cdef unsigned int carried[3]           # how many operations each ring carries
    cdef bint going                        # the second ring is to be closed as soon as it carries nothing
    cdef bint hurried                      # its poller has been moved to the loop's CPU
    cdef uint64_t progress_at              # ticks when the former ring carried one less, or began to be former

    cdef int number(self, const uring* ring) noexcept
    cdef int open_second(self, int cpu) except -1
    cdef int keep_awake(self) except -1
    cdef int share_second(self) except -1
    cdef int register_bells(self) except -1
    cdef int close_second(self) except -1
    cdef int fill(self, uring* ring) except -1
    cdef int retire(self) except -1
    cdef int have_taken(self) except -1
    cdef int pin_poller(self, int cpu) except -1
    cdef int64_t tend(self, int64_t timeout_ns) except? -2
    cdef int enter_former(self) except -1
    cdef int move_some(self) except -1
    cdef bint moves(self, Operation op) noexcept
    cdef int hurry(self) except -1
    cdef bint stays(self, Operation op) noexcept
    cdef int finish(self) except -1
    cdef int abandon_first(self) except -1
    cdef int renew_first(self) except -1
