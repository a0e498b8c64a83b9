from libc.stdint cimport int64_t, uint8_t, uint32_t

from flexsc_loop.files.action cimport Action
from flexsc_loop.files.calls cimport FileCalls
from flexsc_loop.syscalls.file_call cimport Follower


cdef enum file_state:
    FILE_OPEN
    FILE_CLOSING                     # close() has begun: no call is accepted any more
    FILE_CLOSED


cdef class Line(Follower):
    """Who may move the position of a file: one at a time, in the order in which they came."""
    cdef readonly object loop
    cdef object waiters              # futures of those who stand in line, or None
    cdef object last_job             # the task that goes on with a call whose caller was cancelled
    cdef bint busy
    cdef bint handed_on              # what the caller has begun has the turn until it is done

    cdef int leave(self) except -1
    cdef int pass_on(self) except -1
    cdef int check(self) except -1
    cdef object piece(self, object data)


cdef class File(Line):
    cdef object calls
    cdef FileCalls ours              # the same, unless it is another loop's
    cdef readonly object name
    cdef object idle                 # close() waits for what is in flight
    cdef object __weakref__
    cdef int fd
    cdef int in_flight               # writes at an offset of their own
    cdef uint8_t state               # a file_state
    cdef uint8_t can_read, can_write, appending, created, closefd
    cdef uint8_t positional          # calls carry offsets of ours; else the kernel's position counts, or there is none
    cdef uint8_t seekable_
    cdef uint8_t plain               # it lies in memory: who reads it waits for nobody
    cdef uint8_t patient             # reading it always waits
    cdef uint32_t device             # that has it on its disk, 0 if that is not known

    cdef int check_loop(self) except -1
    cdef object read_at(self, Py_ssize_t size, int64_t offset)


# What at_once() gives where there is no result yet.
cdef object PENDING

cdef object at_once(object call)
cdef object whole(object number)
# The same, or `action` waits for it; close() waits, too.
cdef object writing(Action action, object call)
