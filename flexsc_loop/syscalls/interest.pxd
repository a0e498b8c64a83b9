from libc.stdint cimport uint32_t, uint64_t

from flexsc_loop.syscalls.operation cimport Operation
from flexsc_loop.syscalls.page cimport Page


cdef extern from "<sys/epoll.h>" nogil:
    enum:
        EPOLLIN
        EPOLLOUT
        EPOLLET
        EPOLLONESHOT
        EPOLL_CLOEXEC
        EPOLL_CTL_ADD
        EPOLL_CTL_MOD
        EPOLL_CTL_DEL
    union epoll_data:
        uint64_t u64
    struct epoll_event:
        uint32_t events
        epoll_data data
    int epoll_create1(int flags)
    int epoll_ctl(int epoll, int op, int fd, epoll_event* event)
    int epoll_wait(int epoll, epoll_event* events, int most, int timeout_ms)


cdef enum:
    EVENTS_PER_LOOK = 256


cdef class Interest:
    cdef int fd
    cdef uint32_t mask               # EPOLLIN or EPOLLOUT
    cdef bint level                  # told at each look as long as the fd is ready, until it is withdrawn
    cdef bint vain                   # was told, and the call found nothing all the same: tell of news only
    cdef bint listed
    cdef Interest following          # in the same fd

    cdef int came(self) except -1
    cdef int lost(self) except -1


cdef class Number:
    cdef int fd
    cdef uint32_t generation         # of registrations: reports of an earlier one are told apart
    cdef uint32_t armed              # what epoll will report, and how; 0: nothing
    cdef bint registered             # epoll knew the file at this number when it was last told something
    cdef Interest first

    cdef uint32_t wanted(self) noexcept
    cdef int append(self, Interest interest) except -1
    cdef int remove(self, Interest interest) except -1


cdef class Look(Operation):
    cdef void* interests             # borrowed: the page holds this operation, and must not keep the loop alive


cdef class InterestList:
    cdef Page page
    cdef int epoll_fd                # -1: not opened yet, or closed
    cdef bint stray                  # something is reported that cannot be taken out any more
    cdef dict numbers                # fd -> Number
    cdef Look poll                   # the page's poll of the epoll instance
    cdef bint counted                # among the page's own operations
    cdef int waiting                 # how many are on the list
    cdef bint looked                 # since the loop last came by
    cdef int at, count               # of `events`, those not dealt with yet
    cdef epoll_event[EVENTS_PER_LOOK] events

    cdef int add(self, Interest interest) except -1
    cdef int withdraw(self, Interest interest) except -1
    cdef bint arm(self) except -1
    cdef int open(self) except -1
    cdef int link(self, Number number, Interest interest) except -1
    cdef int unlink(self, Number number, Interest interest) except -1
    cdef int tell(self, Number number, Interest newcomer) except -1
    cdef int register(self, Number number) except -1
    cdef int evict(self, Number number, Interest newcomer) except -1
    cdef bint take_out(self, Number number) noexcept
    cdef int look(self) except -1
    cdef int look_for_oneself(self) except -1
    cdef int mark(self, epoll_event* event) except -1
    cdef bint inform(self, Number number, uint32_t side) except -1
    cdef int renew(self) except -1
    cpdef close(self)
