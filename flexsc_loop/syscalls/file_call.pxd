from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint32_t, uint64_t

from flexsc_loop.syscalls.operation cimport Operation
from flexsc_loop.syscalls.page cimport Page, file_job


cdef extern from "<sys/stat.h>" nogil:
    struct statx_timestamp:
        int64_t tv_sec
        uint32_t tv_nsec

    struct statx_result "statx":
        uint32_t stx_mask
        uint32_t stx_blksize
        uint32_t stx_nlink
        uint32_t stx_uid
        uint32_t stx_gid
        unsigned short stx_mode
        uint64_t stx_ino
        uint64_t stx_size
        uint64_t stx_blocks
        statx_timestamp stx_atime
        statx_timestamp stx_ctime
        statx_timestamp stx_mtime
        uint32_t stx_rdev_major
        uint32_t stx_rdev_minor
        uint32_t stx_dev_major
        uint32_t stx_dev_minor


cdef enum gives:                     # what an awaited call gives
    GIVES_NONE
    GIVES_COUNT                      # the call's result, and what had been done before it
    GIVES_BYTES                      # so many of those that were read
    GIVES_STAT
    GIVES_WHOLE                      # what was read of a whole file


cdef class Follower:
    cdef int call_over(self, FileCall call) except -1


cdef class FileCall(Operation):
    cdef Page page
    cdef Follower follower           # or None
    cdef file_job job
    cdef gives what
    cdef bint over                   # it has a value or an error
    cdef bint by_hand                # a thread makes the call, even if an entry might
    cdef bint doubted                # whether there is such an entry
    cdef bint unwanted               # nobody waits for them any more
    cdef bint opened                 # the value is a descriptor that nobody has taken yet
    cdef int64_t before              # bytes that had been moved when the job was made
    cdef PyObject* filling           # bytes that are being filled, seen by nobody else
    cdef object value
    cdef object error
    cdef object kept                 # what the job points into
    cdef object names                # for an error: None, a file's name, or a tuple of two
    cdef void* memory                # likewise what the job points to, malloced
    cdef Py_buffer* views            # buffers that are held, malloced
    cdef int view_count

    cdef int prepare(self, int call, int fd, void* addr, uint64_t length, uint64_t off, uint32_t call_flags) except -1
    cdef int begin(self) except -1
    cdef int give_up(self, object error) except -1
    cdef int submit(self) except -1
    cdef bint carried(self) noexcept
    cdef bint once_more(self, int res) except -1
    cdef int withdraw(self) except -1
    cdef void* need_memory(self, size_t size) except NULL
    cdef int hold(self, object buffer, bint writable) except -1
    cdef int hold_all(self, list buffers, bint writable) except -1
    cdef int need_bytes(self, size_t size) except -1
    cdef int need_stat(self) except -1
    cdef bint go_on(self) except -1
    cdef int finish(self, int64_t res) except -1
    cdef int tell_follower(self) except -1
    cdef int fail(self, int error) except -1
    cdef object answer(self, int64_t res)
    cdef int let_go(self) except -1
    cdef int told(self) except -1
