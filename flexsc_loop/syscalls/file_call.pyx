# cython: language_level=3, cdivision=True
"""Floor 1: one call on a file in flight.

Owns: what the kernel or a thread may still use of it (buffers, paths) until its completion, and the result then.
Imports: operation, page.
"""
import os

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, _PyBytes_Resize
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.object cimport PyObject
from cpython.ref cimport Py_XDECREF
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memset
from posix.uio cimport iovec
from posix.unistd cimport close as close_fd

from flexsc_loop.syscalls.cpython_extra cimport new_bytes
from flexsc_loop.syscalls.operation cimport Operation
from flexsc_loop.syscalls.page cimport (
    CALL_FADVISE, CALL_HERE, CALL_OPENAT, CALL_READV, CALL_READ_REST, CALL_READ_WHOLE, CALL_WRITEV,
    COMPLETION_ABANDONED, COMPLETION_BY_THREAD, EAGAIN, ECANCELED, ENOBUFS, ENOMEM, ENTRY_SLEEPS, FILE_ONCE,
    FILE_SPARE, TRANSFER_MOST, VECTORS_MOST, file_job_moved, file_job_refused, file_job_transfers, file_job_writes,
)


cdef extern from "<sys/sysmacros.h>" nogil:
    uint64_t makedev(unsigned major, unsigned minor)


cdef extern from "<errno.h>" nogil:
    enum:
        EINVAL
        EOPNOTSUPP


cdef enum:
    COPIES_MOST = 256 * 1024     # bytes that the loop's thread may copy in a call
    ERESTARTSYS = 512


cdef object OSError_ = OSError
cdef object strerror = os.strerror
cdef object StatResult = os.stat_result


cdef double seconds(statx_timestamp* time) noexcept:
    return <double> time.tv_sec + 1e-9 * <double> time.tv_nsec


cdef object nanoseconds(statx_timestamp* time):
    return <object> time.tv_sec * 1_000_000_000 + time.tv_nsec


cdef object stat_result(statx_result* about):
    """What os.stat() makes of it."""
    return StatResult((
        about.stx_mode, about.stx_ino, makedev(about.stx_dev_major, about.stx_dev_minor), about.stx_nlink,
        about.stx_uid, about.stx_gid, about.stx_size,
        about.stx_atime.tv_sec, about.stx_mtime.tv_sec, about.stx_ctime.tv_sec,
        seconds(&about.stx_atime), seconds(&about.stx_mtime), seconds(&about.stx_ctime),
        nanoseconds(&about.stx_atime), nanoseconds(&about.stx_mtime), nanoseconds(&about.stx_ctime),
        about.stx_blksize, about.stx_blocks, makedev(about.stx_rdev_major, about.stx_rdev_minor),
    ))


cdef class Follower:
    """Who goes on after a call, also if nobody waits for its result any more."""

    cdef int call_over(self, FileCall call) except -1:
        return 0


@cython.no_gc
cdef class FileCall(Operation):
    """A call on a file, its buffers and paths, and its result.

    Not seen by the garbage collector: the page holds it until its completion, and what it holds, no longer than that.
    """

    def __dealloc__(self):
        Py_XDECREF(self.filling)
        self.let_go()
        if self.opened:
            close_fd(<int> self.job.res)

    cdef int prepare(self, int call, int fd, void* addr, uint64_t length, uint64_t off, uint32_t call_flags) except -1:
        """Fill the job; `begin` comes next."""
        self.job.call = call
        self.job.fd = fd
        self.job.addr = addr
        self.job.len = length
        self.job.off = off
        self.job.call_flags = call_flags
        self.job.device = 0
        self.job.opened = -1
        self.on_file = True
        return 0

    cdef int begin(self) except -1:
        """Have the call made.  If it can't be, that is the result."""
        try:
            if self.carried():
                self.submit()
            else:
                self.page.hand_to_threads(self, &self.job)
        except OSError as error:
            self.give_up(error)
        return 0

    cdef int give_up(self, error) except -1:
        self.let_go()
        self.error = error
        self.over = True
        return 0

    cdef int submit(self) except -1:
        cdef bint moves = file_job_transfers(&self.job)
        cdef uint64_t length = min(self.job.len, <uint64_t> TRANSFER_MOST) if moves else self.job.len
        # The kernel's first try to open opens a FIFO without waiting for its other end, and copies are made by whoever
        # hands the entry over.
        cdef bint sleeps = self.job.call == CALL_OPENAT or moves and length > COPIES_MOST
        self.page.submit(self, self.job.call, self.job.fd, self.job.addr, <uint32_t> length, self.job.off,
                         self.job.call_flags, ENTRY_SLEEPS if sleeps else 0)
        self.page.entry_calls += 1
        if self.page.eager:
            self.page.publish()
        return 0

    cdef bint carried(self) noexcept:
        """Whether an entry carries it.

        Not what moves the kernel's position, which two entries may do at once; nor what is to be done while nobody runs
        the loop.
        """
        cdef int call = self.job.call
        if call >= 64 or not self.page.file_entries >> call & 1 or self.by_hand or self.job.how & FILE_ONCE:
            return False
        if not self.page.running:
            return False
        if (call == CALL_READV or call == CALL_WRITEV) and self.job.len > VECTORS_MOST:
            return False
        if file_job_transfers(&self.job):
            return not file_job_refused(&self.job)
        return call != CALL_FADVISE or self.job.len <= <uint64_t> TRANSFER_MOST

    cdef bint once_more(self, int res) except -1:
        """An entry has said `res`.  Whether that is not the end: there is more to do, or it is left to a thread."""
        if self.unwanted and self.job.how & FILE_SPARE:
            return False
        if res < 0:
            # The kernel, or the page, can't do it just now, or not by an entry; a thread finds out.
            self.doubted = res == -EINVAL or res == -EOPNOTSUPP
            self.by_hand = (self.doubted or res == -EAGAIN or res == -ECANCELED or res == -ENOMEM or res == -ENOBUFS)
            if not self.by_hand:
                return False
        elif res == 0 or not file_job_transfers(&self.job):
            return False
        else:
            self.before += res
            self.job.res = 0
            if not file_job_moved(&self.job, res):
                return False
        if self.page.closed:
            return False
        try:
            self.begin()
        except Exception as error:
            self.give_up(error)
        return self.user_data != 0

    cdef int withdraw(self) except -1:
        """Nobody wants the result any more.  A call that changes something is made all the same."""
        self.unwanted = True
        if self.job.how & FILE_SPARE and self.by_thread:
            self.page.take_back(self, &self.job)
        return 0

    # ---- what it holds

    cdef void* need_memory(self, size_t size) except NULL:
        self.memory = PyMem_Malloc(size)
        if self.memory == NULL:
            raise MemoryError
        return self.memory

    cdef int hold(self, object buffer, bint writable) except -1:
        """Keep a buffer where it is, and give its place and its size to the job."""
        if not writable and type(buffer) is bytes:
            self.kept = buffer
            self.job.addr = PyBytes_AS_STRING(buffer)
            self.job.len = len(<bytes> buffer)
            return 0
        self.views = <Py_buffer*> PyMem_Malloc(sizeof(Py_buffer))
        if self.views == NULL:
            raise MemoryError
        PyObject_GetBuffer(buffer, self.views, PyBUF_WRITABLE if writable else PyBUF_SIMPLE)
        self.view_count = 1
        self.job.addr = self.views.buf
        self.job.len = self.views.len
        return 0

    cdef int hold_all(self, list buffers, bint writable) except -1:
        """The same with several, as vectors."""
        cdef size_t count = len(buffers)
        cdef iovec* vectors = <iovec*> self.need_memory((count + 1) * sizeof(iovec))
        self.views = <Py_buffer*> PyMem_Malloc((count + 1) * sizeof(Py_buffer))
        if self.views == NULL:
            raise MemoryError
        for buffer in buffers:
            PyObject_GetBuffer(buffer, &self.views[self.view_count], PyBUF_WRITABLE if writable else PyBUF_SIMPLE)
            vectors[self.view_count].iov_base = self.views[self.view_count].buf
            vectors[self.view_count].iov_len = self.views[self.view_count].len
            self.view_count += 1
        self.job.addr = vectors
        self.job.len = count
        return 0

    cdef int need_bytes(self, size_t size) except -1:
        """Have new bytes to read into."""
        self.filling = new_bytes(NULL, size)
        self.what = GIVES_BYTES
        return 0

    cdef int need_stat(self) except -1:
        """Have room for what STATX says."""
        self.job.off = <uint64_t> self.need_memory(sizeof(statx_result))
        memset(self.memory, 0, sizeof(statx_result))
        self.what = GIVES_STAT
        return 0

    cdef int let_go(self) except -1:
        """The call is over: nobody uses buffers and paths any more."""
        cdef int i
        for i in range(self.view_count):
            PyBuffer_Release(&self.views[i])
        self.view_count = 0
        if self.views != NULL:
            PyMem_Free(self.views)
            self.views = NULL
        if self.memory != NULL:
            PyMem_Free(self.memory)
            self.memory = NULL
        self.kept = None
        return 0

    # ---- its result

    cdef int complete(self, int res, uint32_t flags) except -1:
        if flags & COMPLETION_ABANDONED:
            # A thread still uses all this, and will for ever if need be.
            self.over = True
            self.error = OSError_(ECANCELED, "the event loop was closed while a thread was in this call")
            return self.told()
        if self.what == GIVES_WHOLE and not self.unwanted and self.go_on():
            return 0
        if flags & COMPLETION_BY_THREAD:
            if self.doubted and self.job.res != -EINVAL and self.job.res != -EOPNOTSUPP:
                self.page.file_entries &= ~(<uint64_t> 1 << self.job.call)
            return self.finish(self.job.res)
        if res <= -ERESTARTSYS:
            # An open that was cancelled while it slept: the kernel's private way of saying EINTR.
            res = -ECANCELED
        self.job.res = res
        return 0 if self.once_more(res) else self.finish(self.job.res)

    cdef bint go_on(self) except -1:
        """A whole file that is large, or has grown since it was opened: read what is missing straight into bytes."""
        cdef int fd = self.job.opened
        cdef int64_t size = self.job.res
        cdef bint grown = self.job.call == CALL_READ_REST and size == <int64_t> self.job.len
        if self.job.call == CALL_READ_WHOLE and fd < 0 or self.job.call == CALL_READ_REST and not grown:
            return False
        try:
            if grown:
                fd = self.job.fd
                self.before += size
                _PyBytes_Resize(&self.filling, 2 * self.before)
                size = self.before
            else:
                self.filling = new_bytes(NULL, size + 1)
                size += 1
            self.prepare(CALL_READ_REST, fd, PyBytes_AS_STRING(<bytes> self.filling) + self.before, size, CALL_HERE, 0)
            self.page.hand_to_threads(self, &self.job)
        except BaseException as error:
            close_fd(fd)
            self.unwanted = False
            self.what = GIVES_NONE
            self.job.res = 0
            self.finish(0)
            self.value = None
            self.error = error
        return True

    cdef int finish(self, int64_t res) except -1:
        """The call is over, with a result or -errno."""
        if self.over:
            return self.tell_follower()  # it could not be begun once more
        if res < 0 and self.before and file_job_writes(&self.job):
            res = 0
        self.job.res = res
        if self.unwanted:
            self.page.drop_result(&self.job)
        elif res < 0:
            self.fail(<int> -res)
        else:
            self.opened = self.job.call == CALL_OPENAT
            try:
                self.value = self.answer(res)
            except BaseException as error:
                self.error = error
        Py_XDECREF(self.filling)
        self.filling = NULL
        self.let_go()
        self.over = True
        return self.tell_follower()

    cdef int tell_follower(self) except -1:
        cdef Follower follower = self.follower
        self.follower = None
        if follower is not None:
            try:
                follower.call_over(self)
            except BaseException as error:
                self.error = self.error or error
        return self.told()

    cdef int fail(self, int error) except -1:
        names = self.names
        if names is None:
            self.error = OSError_(error, strerror(error))
        elif type(names) is tuple:
            self.error = OSError_(error, strerror(error), names[0], None, names[1])
        else:
            self.error = OSError_(error, strerror(error), names)
        self.over = True
        return 0

    cdef object answer(self, int64_t res):
        cdef PyObject* filled
        if self.what == GIVES_COUNT:
            return self.before + res
        if self.what == GIVES_BYTES or self.filling != NULL:
            filled, self.filling = self.filling, NULL
            res += self.before
            if res != len(<bytes> filled):
                _PyBytes_Resize(&filled, res)
            value = <object> filled
            Py_XDECREF(filled)
            return value
        if self.what == GIVES_STAT:
            return stat_result(<statx_result*> self.memory)
        if self.what == GIVES_WHOLE:
            value = PyBytes_FromStringAndSize(<char*> self.job.out, res)
            self.page.drop_result(&self.job)
            return value
        return None

    cdef int told(self) except -1:
        """The result is there."""
        return 0
