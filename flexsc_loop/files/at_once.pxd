from libc.stdint cimport int64_t, uint32_t, uint64_t

from flexsc_loop.syscalls.file_call cimport FileCall, statx_result
from flexsc_loop.syscalls.page cimport Page
from flexsc_loop.turn.turn cimport Turn


cdef extern from "file_now.h" nogil:
    enum file_place:
        FILE_ELSEWHERE
        FILE_ON_DISK
        FILE_IN_MEMORY

    struct file_mounts:
        pass

    file_place file_now_place(file_mounts* mounts, int fd, statx_result* about) noexcept
    int file_now_read(file_mounts* mounts, int fd, void* addr, size_t len, uint64_t off, bint plain,
                      size_t* moved) noexcept
    int file_now_open(file_mounts* mounts, int folder, const char* path, int flags, file_place* place,
                      statx_result* about) noexcept
    int file_now_stat(file_mounts* mounts, int folder, const char* path, int flags, statx_result* about) noexcept
    int file_now_close(file_mounts* mounts, int fd) noexcept


cdef extern from "<sys/stat.h>" nogil:
    enum:
        S_IFDIR
        S_IFMT
        S_IFREG


cdef struct file_about:
    unsigned kind                    # of S_IFMT
    int64_t size
    int64_t position                 # -1: it has none
    uint64_t closable                # the turn in which closing it, if only read, was seen to wait for nobody, or 0
    uint32_t block_size
    uint32_t device                  # from whose disk it is read through the page cache, or 0
    bint plain                       # it lies in memory: who reads it waits for nobody
    bint patient                     # reading it always waits


cdef class AtOnce:
    cdef Turn turn
    cdef Page page
    cdef file_mounts mounts
    cdef uint64_t misses             # reads in vain since the last that was not
    cdef bint refused                # the last read was of a file that can't be asked whether it waits
    cdef uint64_t turn_seen          # the turn in which calls were last made at once,
    cdef uint64_t until              # and the ticks from which on they are enough for it

    cdef int ended(self, FileCall ended) except -1
    cdef bint in_time(self) noexcept
    cdef bint may_begin_reads(self) noexcept
    cdef bint may_read_at_once(self, uint64_t size) noexcept
    cdef int read_now(self, int fd, void* data, size_t size, int64_t offset, bint plain, size_t* moved) noexcept
    cdef int begin_read(self, int fd, void* data, size_t size, int64_t offset, bint plain, uint32_t* device,
                        size_t* moved) noexcept
    cdef Py_ssize_t fill_now(self, int fd, object buffer, int64_t offset, bint plain) except -2
    cdef int open_now(self, int folder, const char* path, int flags, file_about* about) noexcept
    cdef int tell(self, file_place place, const statx_result* found, int flags, int64_t position, bint fresh,
                  file_about* about) noexcept
    cdef int look_at(self, int fd, int flags, file_about* about) except -1
    cdef bint stat_now(self, int folder, const char* path, int flags, statx_result* about) noexcept
    cdef bint close_now(self, int fd) noexcept
    cdef bytes whole_at_once(self, int folder, const char* path)
