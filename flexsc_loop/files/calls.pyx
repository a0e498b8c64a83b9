# cython: language_level=3, cdivision=True, binding=False, embedsignature=True, embedsignature.format=clinic
"""Floor 4: calls on files, awaited.

Owns: which descriptors have calls in flight.  Imports: action, at_once, file_call, page, turn.

What the page cache holds is read at once, without a future and without another turn.  All else is made by the page: as
an entry where it is a kernel page that has one for it, else by file threads.  A call that is cancelled is only not
waited for any longer: its buffer and its descriptor are held until it is over, and one that changes something changes
it all the same.
"""
from operator import index
from os import fsencode, fspath
from sys import audit

from cpython.bytes cimport PyBytes_AS_STRING, _PyBytes_Resize
from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint32_t, uint64_t
from posix.unistd cimport close as close_fd

from flexsc_loop.syscalls.page cimport (
    CALL_CLOSE, CALL_COPY_RANGE, CALL_FADVISE, CALL_FALLOCATE, CALL_FSYNC, CALL_FSYNC_DATA, CALL_FTRUNCATE, CALL_HERE,
    CALL_LINKAT, CALL_MKDIRAT, CALL_OPENAT, CALL_READ, CALL_READ_REST, CALL_READ_WHOLE, CALL_READV, CALL_RENAMEAT,
    CALL_STATX, CALL_SYMLINKAT, CALL_UNLINKAT, CALL_WRITE, CALL_WRITE_WHOLE, CALL_WRITEV, FILE_ONCE, FILE_SLEEPS,
    FILE_SPARE,
)
from flexsc_loop.syscalls.cpython_extra cimport Py_DECREF_, new_bytes
from flexsc_loop.syscalls.file_call cimport GIVES_BYTES, GIVES_COUNT, GIVES_WHOLE, FileCall, statx_result
from flexsc_loop.files.action cimport Call
from flexsc_loop.files.at_once cimport AtOnce, file_about
from flexsc_loop.turn.turn cimport Turn


cdef extern from "Python.h":
    int PySys_Audit(const char* event, const char* format, ...) except -1
    int PyObject_AsFileDescriptor(object) except -1
    bytes PyUnicode_EncodeFSDefault(object)


cdef extern from "<fcntl.h>" nogil:
    enum:
        AT_EMPTY_PATH
        AT_FDCWD
        AT_REMOVEDIR
        AT_SYMLINK_FOLLOW
        AT_SYMLINK_NOFOLLOW
        O_CLOEXEC


cdef extern from "<errno.h>" nogil:
    enum:
        EAGAIN
        EBADF
        EINVAL


cdef extern from "<sys/stat.h>" nogil:
    enum:
        STATX_BASIC_STATS


cdef enum:
    WHOLE_MOST = 256 * 1024      # a whole file that is larger takes two hops, and is copied once less


cdef bytes encoded(object path):
    """The path as the kernel takes it."""
    cdef bytes name = PyUnicode_EncodeFSDefault(path) if type(path) is str else fsencode(path)
    if b"\0" in name:
        raise ValueError("embedded null byte")
    return name


cdef int c_int(object number) except? -1:
    """As functions of `os` take one: any integer, and nothing that would have to be rounded."""
    return number if type(number) is int else index(number)


cdef int64_t c_offset(object number) except? -1:
    """The same for positions and sizes."""
    return number if type(number) is int else index(number)


cdef int folder(object dir_fd) except? -1:
    return AT_FDCWD if dir_fd is None else c_int(dir_fd)


cdef object shown(object dir_fd):
    """As audit hooks see it."""
    return -1 if dir_fd is None else dir_fd


cdef class FileCalls(AtOnce):
    """Calls on files, of one loop.

    Each method returns an awaitable for the result.  Arguments, results and errors are those of the functions of the
    same name in `os`, if there is one.  Wrong arguments are refused at once, what the kernel says is raised where it is
    awaited.

    No order is promised between calls that are in flight together, except that a descriptor is closed after what is in
    flight on it.
    """

    def __init__(self, Turn turn):
        self.turn = turn
        self.page = turn.page
        self.busy = {}
        self.closing = {}

    @property
    def served_by(self):
        """Which way calls take."""
        return f"{self.turn.choice.kind} page"

    @property
    def _entries(self):
        """Which calls entries carry, where there are such: a sum of 1 << the call."""
        return self.page.file_entries

    @_entries.setter
    def _entries(self, uint64_t calls):
        self.page.file_entries = calls

    # ---- descriptors in use

    cdef int take_fd(self, int fd) except -1:
        self.busy[fd] = self.busy.get(fd, 0) + 1
        return 0

    cdef int give_fd(self, int fd) except -1:
        cdef Call close
        left = self.busy[fd] - 1
        if left:
            self.busy[fd] = left
            return 0
        del self.busy[fd]
        close = self.closing.pop(fd, None) if self.closing else None
        if close is not None:
            if self.page.closed:
                close_fd(fd)
                close.finish(0)
            else:
                close.begin()
        return 0

    cdef int ended(self, FileCall ended) except -1:
        cdef Call call = <Call> ended
        cdef int which = call.job.call
        if call.error is None and call.job.res >= 0:
            if which == CALL_READ or which == CALL_READV or which == CALL_READ_WHOLE or which == CALL_READ_REST:
                self.page.stats.counts.file_bytes_read += call.before + call.job.res
            elif which == CALL_WRITE or which == CALL_WRITEV or which == CALL_WRITE_WHOLE or which == CALL_COPY_RANGE:
                self.page.stats.counts.file_bytes_written += call.before + call.job.res
        if call.fd >= 0:
            self.give_fd(call.fd)
        if call.other_fd >= 0:
            self.give_fd(call.other_fd)
        return 0

    # ---- ways of a call

    cdef Call new_call(self, int fd):
        cdef Call call
        if self.turn._closed:
            self.turn._check_closed()
        call = Call.__new__(Call)
        call.home = self
        call.page = self.page
        call.fd = call.other_fd = -1
        call.job.fd = fd
        return call

    cdef Call path_call(self, object path):
        cdef Call call = self.new_call(-1)
        call.names = fspath(path)
        call.kept = encoded(call.names)
        return call

    cdef object refuse(self, Call call, int error):
        """It fails at once."""
        call.fail(error)
        return call

    cdef object start(self, Call call):
        """Queue a call that uses no descriptor that could be closed meanwhile."""
        call.begin()
        return call

    cdef object start_on(self, Call call, int other_fd):
        """Queue a call on `call.job.fd`, and on another one (-1: no)."""
        cdef int fd = call.job.fd
        if fd < 0 or (self.closing and (fd in self.closing or other_fd in self.closing)):
            return self.refuse(call, EBADF)
        call.begin()
        if not call.over:
            call.fd = fd
            self.take_fd(fd)
            if other_fd >= 0:
                call.other_fd = other_fd
                self.take_fd(other_fd)
        return call

    # ---- what is done at once

    cdef object end_at_once(self, Call call, int64_t res):
        call.job.res = res
        call.before = 0
        call.finish(res)
        call.late = not self.in_time()
        return call

    cdef object known_at_once(self, object value):
        cdef Call call = self.new_call(-1)
        call.value = value
        call.over = True
        return call

    cdef object read_bytes(self, int fd, Py_ssize_t size, int64_t offset, bint plain, bint patient,
                           uint32_t device):
        """Bytes if they are there at once, else a call to be awaited for them.

        plain: reading this file is known to wait for nobody.  patient: to wait always.  device: its disk, if known.
        """
        cdef PyObject* filling
        cdef size_t moved = 0
        cdef int res
        cdef Call call
        if self.turn._closed:
            self.turn._check_closed()
        if size < 0 or offset < 0:
            return self.refuse(self.new_call(fd), EINVAL)
        filling = new_bytes(NULL, size)
        if patient or (self.closing and fd in self.closing):
            res, device = -EAGAIN, 0
        else:
            res = self.begin_read(fd, PyBytes_AS_STRING(<bytes> filling), size, offset, plain, &device, &moved)
        if res == 0:
            self.page.stats.counts.file_bytes_read += moved
            if <Py_ssize_t> moved != size:
                _PyBytes_Resize(&filling, moved)
            data = <object> filling
            Py_DECREF_(filling)
            if self.in_time():
                return data
            call = self.known_at_once(data)
            call.late = True
            return call
        call = self.new_call(fd)
        call.filling = filling
        call.what = GIVES_BYTES
        call.prepare(CALL_READ, fd, PyBytes_AS_STRING(<bytes> filling), size, offset, 0)
        return self.read_later(call, res, moved, device)

    cdef object read_later(self, Call call, int res, size_t moved, uint32_t device):
        """The rest, where there was not all.  device: the one that has begun it already, or 0."""
        if res != -EAGAIN:
            return self.refuse(call, -res)
        call.job.how = FILE_SPARE | FILE_SLEEPS
        call.job.device = device
        call.before = moved
        call.job.addr = <char*> call.job.addr + moved
        call.job.len -= moved
        call.job.off += moved
        return self.start_on(call, -1)

    # ---- reading and writing at a position

    def pread(self, fd, Py_ssize_t size, offset):
        """Up to `size` bytes at `offset`: fewer only at the end of the file."""
        result = self.read_bytes(PyObject_AsFileDescriptor(fd), size, c_offset(offset), False, False, 0)
        return result if type(result) is Call else self.known_at_once(result)

    def pread_into(self, fd, buffer, offset):
        """Fill a writable buffer from `offset` on; gives how many bytes: fewer than fit only at the end of the file."""
        cdef Call call = self.new_call(PyObject_AsFileDescriptor(fd))
        cdef int64_t at = c_offset(offset)
        if at < 0:
            return self.refuse(call, EINVAL)
        call.what = GIVES_COUNT
        call.prepare(CALL_READ, call.job.fd, NULL, 0, at, 0)
        call.hold(buffer, True)
        cdef size_t moved = 0
        cdef int res = -EAGAIN
        if not self.closing or call.job.fd not in self.closing:
            res = self.read_now(call.job.fd, call.job.addr, call.job.len, at, False, &moved)
        return self.end_at_once(call, moved) if res == 0 else self.read_later(call, res, moved, 0)

    def preadv(self, fd, buffers, offset):
        """The same with several buffers, one after the other."""
        cdef Call call = self.new_call(PyObject_AsFileDescriptor(fd))
        cdef int64_t at = c_offset(offset)
        if at < 0:
            return self.refuse(call, EINVAL)
        call.what = GIVES_COUNT
        call.prepare(CALL_READV, call.job.fd, NULL, 0, at, 0)
        call.hold_all(list(buffers), True)
        call.job.how = FILE_SPARE
        return self.start_on(call, -1)

    def pwrite(self, fd, data, offset, flags=0):
        """Write all of `data` at `offset`; gives how many bytes: fewer only if an error came after some.

        flags: os.RWF_*.
        """
        cdef Call call = self.new_call(PyObject_AsFileDescriptor(fd))
        cdef int64_t at = c_offset(offset)
        if at < 0:
            return self.refuse(call, EINVAL)
        call.what = GIVES_COUNT
        call.prepare(CALL_WRITE, call.job.fd, NULL, 0, at, c_int(flags))
        call.hold(data, False)
        return self.start_on(call, -1)

    def pwritev(self, fd, buffers, offset, flags=0):
        """The same with several buffers, one after the other."""
        cdef Call call = self.new_call(PyObject_AsFileDescriptor(fd))
        cdef int64_t at = c_offset(offset)
        if at < 0:
            return self.refuse(call, EINVAL)
        call.what = GIVES_COUNT
        call.prepare(CALL_WRITEV, call.job.fd, NULL, 0, at, c_int(flags))
        call.hold_all(list(buffers), False)
        return self.start_on(call, -1)

    def append(self, fd, data):
        """Write all of `data` at the end of a file opened with O_APPEND; the result is as with `pwrite`."""
        cdef Call call = self.new_call(PyObject_AsFileDescriptor(fd))
        call.what = GIVES_COUNT
        call.prepare(CALL_WRITE, call.job.fd, NULL, 0, CALL_HERE, 0)
        call.hold(data, False)
        return self.start_on(call, -1)

    # ---- where there is no position

    def read(self, fd, Py_ssize_t size):
        """What comes next, up to `size` bytes: from a pipe, a terminal, a socket or a file at its position."""
        cdef Call call = self.new_call(PyObject_AsFileDescriptor(fd))
        if size < 0:
            return self.refuse(call, EINVAL)
        call.need_bytes(size)
        call.prepare(CALL_READ, call.job.fd, PyBytes_AS_STRING(<bytes> call.filling), size, CALL_HERE, 0)
        call.job.how = FILE_ONCE | FILE_SLEEPS | FILE_SPARE
        return self.start_on(call, -1)

    def write(self, fd, data):
        """Write some of `data`, as much as there is room for once there is any; gives how many bytes."""
        cdef Call call = self.new_call(PyObject_AsFileDescriptor(fd))
        call.what = GIVES_COUNT
        call.prepare(CALL_WRITE, call.job.fd, NULL, 0, CALL_HERE, 0)
        call.hold(data, False)
        call.job.how = FILE_ONCE | FILE_SLEEPS
        return self.start_on(call, -1)

    # ---- other calls on a descriptor

    def fsync(self, fd):
        """Have data and metadata on the disk.  Does not wait for writes that are in flight."""
        cdef Call call = self.new_call(PyObject_AsFileDescriptor(fd))
        call.prepare(CALL_FSYNC, call.job.fd, NULL, 0, 0, 0)
        call.job.how = FILE_SLEEPS
        return self.start_on(call, -1)

    def fdatasync(self, fd):
        """The same for data, and the metadata that is needed to read it."""
        cdef Call call = self.new_call(PyObject_AsFileDescriptor(fd))
        call.prepare(CALL_FSYNC, call.job.fd, NULL, 0, 0, CALL_FSYNC_DATA)
        call.job.how = FILE_SLEEPS
        return self.start_on(call, -1)

    def ftruncate(self, fd, length):
        """Make a file `length` bytes long."""
        cdef Call call = self.new_call(PyObject_AsFileDescriptor(fd))
        cdef int64_t size = c_offset(length)
        audit("os.truncate", fd, size)
        call.prepare(CALL_FTRUNCATE, call.job.fd, NULL, 0, size, 0)
        return self.start_on(call, -1)

    def fallocate(self, fd, mode, offset, size):
        """Give a file room on the disk, or what else `mode` says.  Source: fallocate(2)."""
        cdef Call call = self.new_call(PyObject_AsFileDescriptor(fd))
        call.prepare(CALL_FALLOCATE, call.job.fd, <void*> c_offset(size), <uint64_t> c_int(mode), c_offset(offset), 0)
        return self.start_on(call, -1)

    def fadvise(self, fd, offset, size, advice):
        """Tell the kernel what will be read.  advice: os.POSIX_FADV_*."""
        cdef Call call = self.new_call(PyObject_AsFileDescriptor(fd))
        call.prepare(CALL_FADVISE, call.job.fd, NULL, <uint64_t> c_offset(size), c_offset(offset), c_int(advice))
        return self.start_on(call, -1)

    def copy_file_range(self, src, dst, Py_ssize_t count, offset_src=None, offset_dst=None):
        """Copy up to `count` bytes between two files in the kernel; gives how many."""
        cdef int other = PyObject_AsFileDescriptor(dst)
        cdef Call call = self.new_call(PyObject_AsFileDescriptor(src))
        cdef int64_t start = -1 if offset_src is None else c_offset(offset_src)
        cdef int64_t to = -1 if offset_dst is None else c_offset(offset_dst)
        if count < 0:
            raise ValueError("negative value for 'count' not allowed")
        if offset_src is not None and start < 0 or offset_dst is not None and to < 0:
            return self.refuse(call, EINVAL)
        call.what = GIVES_COUNT
        call.prepare(CALL_COPY_RANGE, call.job.fd, <void*> to, count, start, other)
        return self.start_on(call, other)

    # ---- opening and closing

    def open(self, path, flags, mode=0o777, *, dir_fd=None):
        """Open a file; gives a descriptor that children do not inherit."""
        cdef Call call = self.path_call(path)
        cdef int how = c_int(flags), rights = c_int(mode)
        audit("open", call.names, None, how)
        call.what = GIVES_COUNT
        call.prepare(CALL_OPENAT, folder(dir_fd), PyBytes_AS_STRING(<bytes> call.kept), rights, 0, how | O_CLOEXEC)
        cdef file_about about
        cdef int opened = self.open_now(call.job.fd, <char*> call.job.addr, how, &about)
        return self.end_at_once(call, opened) if opened >= 0 else self.start(call)

    cdef Call open_described(self, object path, int flags, int mode, int* opened, file_about* about):
        """The same; but None if it is open at once: *opened is its descriptor then, and *about tells what it is."""
        cdef bytes name = encoded(path)
        cdef Call call
        if self.turn._closed:
            self.turn._check_closed()
        PySys_Audit("open", "OOi", <PyObject*> path, <PyObject*> None, flags)
        opened[0] = self.open_now(AT_FDCWD, PyBytes_AS_STRING(name), flags, about)
        if opened[0] >= 0 and self.in_time():
            return None
        try:
            call = self.new_call(-1)
        except BaseException:
            if opened[0] >= 0:
                close_fd(opened[0])
            raise
        call.names, call.kept = path, name
        call.what = GIVES_COUNT
        call.prepare(CALL_OPENAT, AT_FDCWD, PyBytes_AS_STRING(name), mode, 0, flags | O_CLOEXEC)
        if opened[0] < 0:
            return self.start(call)
        call.finish(opened[0])
        call.late = True
        return call

    def close(self, fd):
        """Close a descriptor when nothing of this loop is in flight on it any more; further calls on it fail."""
        cdef Call call = self.new_call(PyObject_AsFileDescriptor(fd))
        call.prepare(CALL_CLOSE, call.job.fd, NULL, 0, 0, 0)
        if call.job.fd in self.closing:
            return self.refuse(call, EBADF)
        if call.job.fd in self.busy:
            self.closing[call.job.fd] = call
            return call
        if self.close_at_once(call.job.fd, 0):
            return self.end_at_once(call, 0)
        return self.start(call)

    cdef bint close_at_once(self, int fd, uint64_t opened_in) except -1:
        """Close a descriptor if nothing is in flight on it, and closing it waits for nobody.

        opened_in: the turn in which `look_at` has seen that of a file opened for reading; 0: it has not.
        """
        if fd in self.busy or fd in self.closing or self.turn._closed:
            return False
        if opened_in and opened_in == self.turn.turns:
            close_fd(fd)
            return True
        return self.close_now(fd)

    # ---- names

    def stat(self, path, *, bint follow_symlinks=True, dir_fd=None):
        """What os.stat() says of a path or a descriptor."""
        cdef Call call
        cdef int fd
        if isinstance(path, int):
            if not follow_symlinks:
                raise ValueError("stat: cannot use fd and follow_symlinks together")
            if dir_fd is not None:
                raise ValueError("stat: can't specify dir_fd without matching path")
            fd = c_int(path)
            call = self.new_call(fd)
            call.names = path
            call.prepare(CALL_STATX, fd, <void*> <const char*> b"", STATX_BASIC_STATS, 0, AT_EMPTY_PATH)
            return self.start_stat(call, fd)
        call = self.path_call(path)
        call.prepare(CALL_STATX, folder(dir_fd), PyBytes_AS_STRING(<bytes> call.kept), STATX_BASIC_STATS, 0,
                     0 if follow_symlinks else AT_SYMLINK_NOFOLLOW)
        return self.start_stat(call, -1)

    cdef object start_stat(self, Call call, int fd):
        """Of a descriptor that this loop must not close meanwhile, or of a path."""
        call.need_stat()
        call.job.how = FILE_SPARE
        if self.stat_now(call.job.fd, <char*> call.job.addr, call.job.call_flags, <statx_result*> call.memory):
            return self.end_at_once(call, 0)
        return self.start(call) if fd < 0 else self.start_on(call, -1)

    def rename(self, src, dst, *, src_dir_fd=None, dst_dir_fd=None):
        """Give a file another name, in the place of what had it."""
        cdef Call call = self.two_paths(src, dst)
        audit("os.rename", *call.names, shown(src_dir_fd), shown(dst_dir_fd))
        call.prepare(CALL_RENAMEAT, folder(src_dir_fd), PyBytes_AS_STRING(<bytes> call.kept[0]),
                     <uint64_t> folder(dst_dir_fd), <uint64_t> PyBytes_AS_STRING(<bytes> call.kept[1]), 0)
        return self.start(call)

    def replace(self, src, dst, *, src_dir_fd=None, dst_dir_fd=None):
        """The same."""
        return self.rename(src, dst, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)

    def link(self, src, dst, *, src_dir_fd=None, dst_dir_fd=None, bint follow_symlinks=True):
        """Give a file a second name."""
        cdef Call call = self.two_paths(src, dst)
        # As os.link() does it: without folders it is link(2), which does not follow.
        cdef bint follows = follow_symlinks and (src_dir_fd is not None or dst_dir_fd is not None)
        audit("os.link", *call.names, shown(src_dir_fd), shown(dst_dir_fd))
        call.prepare(CALL_LINKAT, folder(src_dir_fd), PyBytes_AS_STRING(<bytes> call.kept[0]),
                     <uint64_t> folder(dst_dir_fd), <uint64_t> PyBytes_AS_STRING(<bytes> call.kept[1]),
                     AT_SYMLINK_FOLLOW if follows else 0)
        return self.start(call)

    def symlink(self, src, dst, target_is_directory=False, *, dir_fd=None):
        """Make a symbolic link `dst` that points to `src`."""
        cdef Call call = self.two_paths(src, dst)
        audit("os.symlink", *call.names, shown(dir_fd))
        call.prepare(CALL_SYMLINKAT, folder(dir_fd), PyBytes_AS_STRING(<bytes> call.kept[0]), 0,
                     <uint64_t> PyBytes_AS_STRING(<bytes> call.kept[1]), 0)
        return self.start(call)

    def unlink(self, path, *, dir_fd=None):
        """Remove a file's name."""
        cdef Call call = self.path_call(path)
        audit("os.remove", call.names, shown(dir_fd))
        call.prepare(CALL_UNLINKAT, folder(dir_fd), PyBytes_AS_STRING(<bytes> call.kept), 0, 0, 0)
        return self.start(call)

    def rmdir(self, path, *, dir_fd=None):
        """Remove an empty folder."""
        cdef Call call = self.path_call(path)
        audit("os.rmdir", call.names, shown(dir_fd))
        call.prepare(CALL_UNLINKAT, folder(dir_fd), PyBytes_AS_STRING(<bytes> call.kept), 0, 0, AT_REMOVEDIR)
        return self.start(call)

    def mkdir(self, path, mode=0o777, *, dir_fd=None):
        """Make a folder."""
        cdef Call call = self.path_call(path)
        audit("os.mkdir", call.names, mode, shown(dir_fd))
        call.prepare(CALL_MKDIRAT, folder(dir_fd), PyBytes_AS_STRING(<bytes> call.kept), c_int(mode), 0, 0)
        return self.start(call)

    cdef Call two_paths(self, object src, object dst):
        cdef Call call = self.new_call(-1)
        call.names = (fspath(src), fspath(dst))
        call.kept = (encoded(call.names[0]), encoded(call.names[1]))
        return call

    # ---- whole files

    def read_whole(self, path, *, dir_fd=None):
        """All that a file holds.  A small one takes one hop."""
        cdef Call call = self.path_call(path)
        audit("open", call.names, None, O_CLOEXEC)
        cdef bytes data = self.whole_at_once(folder(dir_fd), PyBytes_AS_STRING(<bytes> call.kept))
        if data is not None:
            call.value = data
            call.over = True
            call.late = not self.in_time()
            return call
        call.what = GIVES_WHOLE
        call.prepare(CALL_READ_WHOLE, folder(dir_fd), PyBytes_AS_STRING(<bytes> call.kept), WHOLE_MOST, 0, O_CLOEXEC)
        call.job.how = FILE_SPARE
        return self.start(call)

    def write_whole(self, path, data, flags, mode=0o777, *, dir_fd=None):
        """Open a file with `flags`, write all of `data` to it, and close it; gives how many bytes."""
        cdef Call call = self.path_call(path)
        cdef bytes name = call.kept
        cdef int how = c_int(flags)
        audit("open", call.names, None, how)
        call.what = GIVES_COUNT
        call.hold(data, False)
        call.kept = (name, call.kept)
        call.job.mode = c_int(mode)
        call.prepare(CALL_WRITE_WHOLE, folder(dir_fd), PyBytes_AS_STRING(name), call.job.len, <uint64_t> call.job.addr,
                     how | O_CLOEXEC)
        return self.start(call)

    def run(self, function, *args):
        """Anything else: `function(*args)` in this loop's executor."""
        return self.turn.run_in_executor(None, function, *args)
