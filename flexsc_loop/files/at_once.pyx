# cython: language_level=3, cdivision=True, binding=False, embedsignature=True, embedsignature.format=clinic
"""Floor 4: calls on files that are made at once, since they wait for nobody.

Owns: what is known of file systems, whether a try is worth while, and how long a turn may go on with that.  Imports:
file_now.h, turn, page.
"""
import os
import re

from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, _PyBytes_Resize
from cpython.object cimport PyObject
from cpython.ref cimport Py_XDECREF
from libc.stdint cimport int64_t, uint32_t, uint64_t
from posix.unistd cimport close as close_fd

from flexsc_loop.syscalls.cpython_extra cimport new_bytes
from flexsc_loop.syscalls.page cimport CALL_READ, EAGAIN, ticks_in_us, ticks_now


cdef extern from "<fcntl.h>" nogil:
    enum:
        F_GETFL
        O_DIRECT
    int fcntl(int fd, int command)


cdef extern from "<unistd.h>" nogil:
    enum:
        SEEK_CUR
    int64_t lseek(int fd, int64_t offset, int whence)


cdef enum:
    AT_ONCE_MOST = 256 * 1024    # bytes that are read at once; more takes a thread, which copies while the loop goes on
    AT_ONCE_US = 400             # so long a turn makes calls at once; then those who wait for them let others run
    MISSES_MOST = 8              # after so many reads in vain only one of so many is tried at once
    BEGIN_MOST = 128             # calls that threads have: who begins still more reads has to wait for the device
    BEGIN_SIZE_MOST = 64 * 1024  # of more the kernel begins only a part


cdef enum:
    EOPNOTSUPP = 95


cdef object kernel = re.match(r"(\d+)\.(\d+)", os.uname().release)
# Whether a read that is tried at once, in vain, has the device begin it: nothing tells but the version.
cdef bint TRIES_BEGIN = kernel is not None and (int(kernel[1]), int(kernel[2])) >= (5, 10)


cdef class AtOnce:
    """What one loop does on files without waiting."""

    cdef int ended(self, FileCall ended) except -1:
        """A call that was not made at once is over."""
        return 0

    cdef bint in_time(self) noexcept:
        """One more call was made at once.  Whether that may go on, or others are to run first."""
        cdef uint64_t now = ticks_now()
        self.page.stats.counts.files_at_once += 1
        if self.turn_seen != self.turn.turns:
            self.turn_seen = self.turn.turns
            self.until = now + ticks_in_us(AT_ONCE_US)
        return now <= self.until

    cdef bint may_read_at_once(self, uint64_t size) noexcept:
        """Whether to try.  Where that has been in vain for some time, only now and then."""
        if size > AT_ONCE_MOST:
            return False
        if self.misses < MISSES_MOST:
            return True
        self.misses += 1
        return self.misses % MISSES_MOST == 0

    cdef bint may_begin_reads(self) noexcept:
        """Whether reads are left to file threads, and a device is to begin them before."""
        return TRIES_BEGIN and not self.page.file_entries >> CALL_READ & 1 and self.page.by_threads < BEGIN_MOST

    cdef int begin_read(self, int fd, void* data, size_t size, int64_t offset, bint plain, uint32_t* device,
                        size_t* moved) noexcept:
        """As `read_now`, of a file on a device; 0 for that if the device has not begun what is not there."""
        cdef int res
        if device[0] == 0 or size > BEGIN_SIZE_MOST or not self.may_begin_reads():
            device[0] = 0
            return self.read_now(fd, data, size, offset, plain, moved)
        res = file_now_read(&self.mounts, fd, data, size, offset, False, moved)
        self.refused = res == -EOPNOTSUPP
        if self.refused:
            device[0] = 0
            return -EAGAIN
        return res

    cdef int read_now(self, int fd, void* data, size_t size, int64_t offset, bint plain, size_t* moved) noexcept:
        """0, -EAGAIN (with what was moved), or another -errno."""
        moved[0] = 0
        self.refused = False
        if not self.may_read_at_once(size):
            return -EAGAIN
        cdef int res = file_now_read(&self.mounts, fd, data, size, offset, plain, moved)
        self.refused = res == -EOPNOTSUPP
        if res == -EAGAIN or self.refused:
            self.misses += 1
            return -EAGAIN
        self.misses = 0
        return res

    cdef Py_ssize_t fill_now(self, int fd, object buffer, int64_t offset, bint plain) except -2:
        """Fill a writable buffer if all that fits, or all up to the file's end, is there: how much it is.  Else -1."""
        cdef Py_buffer view
        cdef size_t moved = 0
        cdef int res
        PyObject_GetBuffer(buffer, &view, PyBUF_WRITABLE)
        try:
            res = self.read_now(fd, view.buf, view.len, offset, plain, &moved)
        finally:
            PyBuffer_Release(&view)
        if res != 0:
            return -1
        self.page.stats.counts.file_bytes_read += moved
        return moved

    cdef int open_now(self, int folder, const char* path, int flags, file_about* about) noexcept:
        """A descriptor, or -1."""
        cdef statx_result found
        cdef file_place place = FILE_ELSEWHERE
        cdef int fd = file_now_open(&self.mounts, folder, path, flags, &place, &found)
        if fd < 0:
            return -1
        cdef bint fresh = found.stx_mode & S_IFMT == S_IFREG
        self.tell(place, &found, flags, 0 if fresh else lseek(fd, 0, SEEK_CUR), fresh, about)
        return fd

    cdef bint stat_now(self, int folder, const char* path, int flags, statx_result* about) noexcept:
        return file_now_stat(&self.mounts, folder, path, flags, about) == 0

    cdef bint close_now(self, int fd) noexcept:
        return file_now_close(&self.mounts, fd) == 0

    cdef bytes whole_at_once(self, int folder, const char* path):
        """What a small file holds if all of that is cached, else None."""
        cdef statx_result about
        cdef size_t moved = 0
        cdef int res
        cdef file_place place = FILE_ELSEWHERE
        cdef int fd = file_now_open(&self.mounts, folder, path, 0, &place, &about)
        if fd < 0:
            return None
        cdef PyObject* filling = NULL
        try:
            if about.stx_size >= AT_ONCE_MOST:
                return None
            # One more, to see where it ends.
            filling = new_bytes(NULL, about.stx_size + 1)
            res = file_now_read(&self.mounts, fd, PyBytes_AS_STRING(<bytes> filling), about.stx_size + 1, 0, False,
                                &moved)
            if res < 0 or moved > about.stx_size:
                return None
            self.page.stats.counts.file_bytes_read += moved
            _PyBytes_Resize(&filling, moved)
            return <bytes> filling
        finally:
            Py_XDECREF(filling)
            close_fd(fd)

    cdef int look_at(self, int fd, int flags, file_about* about) except -1:
        """Fill in what there is to know of an open file.  flags: with which it has just been opened by name, or -1."""
        cdef statx_result found
        cdef file_place place = file_now_place(&self.mounts, fd, &found)
        if found.stx_mask == 0:
            os.fstat(fd)  # raises
        cdef bint fresh = flags >= 0 and found.stx_mode & S_IFMT == S_IFREG
        self.tell(place, &found, flags if fresh else fcntl(fd, F_GETFL), 0 if fresh else lseek(fd, 0, SEEK_CUR), fresh,
                  about)
        return 0

    cdef int tell(self, file_place place, const statx_result* found, int flags, int64_t position, bint fresh,
                  file_about* about) noexcept:
        """fresh: nobody else has it, and its position is where it begins."""
        cdef bint regular = found.stx_mode & S_IFMT == S_IFREG
        about.kind = found.stx_mode & S_IFMT
        about.size = found.stx_size
        about.block_size = found.stx_blksize
        about.position = position
        # Nothing is freed of what has a name; it does not lose that, and wait for its last close, within a turn.
        about.closable = self.turn.turns if fresh and place != FILE_ELSEWHERE and found.stx_nlink else 0
        about.plain = place == FILE_IN_MEMORY
        about.patient = flags & O_DIRECT != 0
        about.device = 0
        if place == FILE_ON_DISK and regular and not about.patient:
            about.device = found.stx_dev_major << 20 | found.stx_dev_minor
        return 0
