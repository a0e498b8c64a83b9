# cython: language_level=3, cdivision=True, binding=False, embedsignature=True, embedsignature.format=clinic
"""Floor 4: what stands between the calls on a file of bytes and the file.

Owns: the position, what was read ahead, what was written and is not in the file yet.  Imports: action, file, streams.
"""
import errno
import io
import os
import warnings
from asyncio import CancelledError

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int64_t
from libc.string cimport memchr

from flexsc_loop.files.streams import pwritev_now, read as read_stream, write as write_stream
from flexsc_loop.files.action cimport Action, Call
from flexsc_loop.files.at_once cimport S_IFREG, file_about
from flexsc_loop.files.calls cimport FileCalls
from flexsc_loop.files.file cimport FILE_CLOSED, FILE_OPEN, File, writing
from flexsc_loop.files.mode cimport Mode
from flexsc_loop.syscalls.file_call cimport FileCall

cdef object Unsupported = io.UnsupportedOperation
cdef object lseek = os.lseek


cdef enum:
    SMALL_READ = 1024                # whoever reads so little after a jump will read on


cdef class Buffered(File):
    """The state of a file of bytes, and what changes it."""

    def __init__(self):
        raise TypeError("files are made by flexsc_loop.open()")

    cdef int set_up(self, object calls, object loop, int fd, object name, Mode mode, const file_about* about,
                    Py_ssize_t buffer_size, bint shared, bint closefd) except -1:
        """shared: others may move the kernel's position."""
        self.calls = calls
        self.ours = calls if type(calls) is FileCalls else None
        self.loop = loop
        self.name = name
        self.can_read, self.can_write = mode.can_read, mode.can_write
        self.appending, self.created, self.truncated = mode.appending, mode.creating, mode.truncated
        self.closefd = closefd
        self.positional = about.kind == S_IFREG and not shared
        self.plain, self.patient = about.plain, about.patient
        self.device = about.device
        self.opened_in = about.closable
        self.seekable_ = about.position >= 0
        self.position = max(about.position, 0)
        self.size_hint = about.size
        self.buffer_size = buffer_size
        self.ahead = b""
        self.in_order = True
        self.state = FILE_OPEN
        self.fd = fd
        return 0

    def __repr__(self):
        state = "" if self.state == FILE_OPEN else " closed"
        return f"<flexsc_loop.{type(self).__name__} name={self.name!r} mode={self.mode!r}{state}>"

    @property
    def mode(self):
        """As io says it: rb, rb+, wb, ab, ab+, xb, xb+, from Python 3.15 on wb+."""
        kind = "x" if self.created else "a" if self.appending else "r" if self.can_read and not self.truncated else "w"
        return kind + ("b+" if self.can_read and self.can_write else "b")

    cdef int check_reading(self, str what) except -1:
        self.check()
        if not self.can_read:
            raise Unsupported(what if self.buffer_size else "File not open for reading")
        return 0

    cdef int check_writing(self, str what) except -1:
        self.check()
        if not self.can_write:
            raise Unsupported(what if self.buffer_size else "File not open for writing")
        return 0

    # ---- what was read ahead

    cdef Py_ssize_t there(self) noexcept:
        return len(self.ahead) - self.taken

    cdef bytes take(self, Py_ssize_t size):
        """Give out `size` bytes of what is there, and move the position."""
        cdef bytes data
        if self.taken == 0 and size == len(self.ahead):
            data = self.ahead
        else:
            data = PyBytes_FromStringAndSize(PyBytes_AS_STRING(self.ahead) + self.taken, size)
        self.taken += size
        self.position += size
        # What is small stays for a jump back; it is never kept where there is no buffer.
        if self.taken == len(self.ahead) > self.buffer_size:
            self.forget()
        return data

    cdef int keep(self, bytes data) except -1:
        """`data` comes after what is there."""
        if self.taken == len(self.ahead):
            self.ahead = data
        else:
            self.ahead = self.ahead[self.taken:] + data
        self.taken = 0
        self.in_order = True
        return 0

    cdef int forget(self) except -1:
        self.ahead = b""
        self.taken = 0
        return 0

    cdef bytes give_all(self, bytes data):
        """What was read to the end, after what was read ahead."""
        if self.there():
            data = self.ahead[self.taken:] + data
        self.position += len(data)
        self.size_hint = self.position
        self.forget()
        return data

    cdef Py_ssize_t pass_over(self, Py_ssize_t filled) except -1:
        """So much was read past the buffer."""
        self.forget()
        self.position += filled
        self.in_order = True
        return filled

    cdef bint may_fill(self, Py_ssize_t size) noexcept:
        """Whether a buffer of the caller's can be filled with what comes next, and nothing would be gained by more."""
        return (self.ours is not None and self.positional and not self.patient and not self.busy and not self.unwritten
                and self.there() == 0 and size >= self.buffer_size)

    cdef Py_ssize_t chunk(self, Py_ssize_t wanted) noexcept:
        """How much to ask for: more than is wanted where that is likely to be read next."""
        if self.buffer_size > wanted and (self.in_order or wanted < SMALL_READ):
            return self.buffer_size
        return wanted

    async def _fill(self, Py_ssize_t wanted):
        """Read more; the number of bytes."""
        if not self.positional:
            return await self._carry_out(self._fill_job(self.chunk(wanted)))
        answer = self.read_at(self.chunk(wanted), self.position + self.there())
        cdef bytes data = answer if type(answer) is bytes else await answer
        if data:
            self.keep(data)
        return len(data)

    async def _fill_job(self, Py_ssize_t size):
        cdef bytes data = await read_stream(self.loop, self.calls, self.fd, size)
        if data:
            self.keep(data)
        return len(data)

    async def _drain_job(self):
        """Read all that is left, where there is no position."""
        parts = []
        try:
            while data := await read_stream(self.loop, self.calls, self.fd, max(self.buffer_size, NO_BUFFER_CHUNK)):
                parts.append(data)
        finally:
            self.keep(b"".join(parts))

    cdef Py_ssize_t line_end(self, Py_ssize_t start, Py_ssize_t limit) except -1:
        """The length of the line that is there, 0 if it does not end in what is there; `start` bytes were looked at."""
        cdef Py_ssize_t size = self.there()
        if 0 <= limit < size:
            size = limit
        cdef const char* first = PyBytes_AS_STRING(self.ahead) + self.taken
        cdef const char* found = NULL
        if size > start:
            found = <const char*> memchr(first + start, 10, size - start)
        if found != NULL:
            return found - first + 1
        return limit if size == limit else 0

    cdef bytes line_there(self, Py_ssize_t limit):
        """The next line if it is there as a whole, else None."""
        cdef Py_ssize_t size = self.line_end(0, limit)
        return self.take(size) if size else None

    # ---- what was written

    cdef bint takes(self, Py_ssize_t size) noexcept:
        """Whether so much can be put beside what is not written yet."""
        if self.busy or not self.buffer_size or not self.positional and self.there():
            return False
        return size + (0 if self.unwritten is None else len(self.unwritten)) <= self.buffer_size

    cdef int accept(self, bytes data) except -1:
        if self.unwritten is None:
            self.unwritten = bytearray()
        self.forget()
        self.unwritten += data
        self.position += len(data)
        return 0

    cdef int moved(self, Py_ssize_t size) except -1:
        """So much was written past the buffer."""
        self.position += size
        if self.positional and self.appending:
            self.position = lseek(self.fd, 0, os.SEEK_END)
        return 0

    cdef object write_through(self, Action action, bytes data):
        """Without a buffer one call is all, and its end gives up the turn: no task has to see to that."""
        cdef Call call
        self.forget()
        if self.appending:
            call = self.ours.append(self.fd, data)
        else:
            call = self.ours.pwrite(self.fd, data, self.position)
        if not call.over:
            self.busy = True
            call.follower = self
        return writing(action, call)

    cdef int call_over(self, FileCall call) except -1:
        """A write that had the turn has been made."""
        if self.loop.is_closed():
            return 0
        try:
            if call.job.res > 0 or call.before:
                self.moved(call.before + max(call.job.res, 0))
            elif call.job.res < 0 and call.unwanted:
                self.tell_unheard(<int> -call.job.res)
        finally:
            self.pass_on()
        return 0

    cdef int tell_unheard(self, int error) except -1:
        self.loop.call_exception_handler({
            "message": f"a write whose caller was cancelled has failed: {self!r}",
            "exception": OSError(error, os.strerror(error)),
        })
        return 0

    async def _put(self, data, int64_t offset):
        """One call; the number of bytes."""
        if not self.positional:
            size = await write_stream(self.loop, self.calls, self.fd, data)
        elif self.appending:
            size = await self.calls.append(self.fd, data)
        else:
            size = await self.calls.pwrite(self.fd, data, offset)
        if not size and len(data):
            raise OSError(errno.EIO, "a write that wrote nothing", self.name)
        return size

    async def _write_out(self):
        """Write what stands in the buffer.  What could not be written stays there."""
        while self.unwritten:
            size = await self._put(bytes(self.unwritten), self.position - len(self.unwritten))
            del self.unwritten[:size]
            if self.appending:
                self.moved(0)

    async def _write_all_out(self):
        try:
            await self._write_out()
        except CancelledError:
            # The loop ends.  A disk is waited for, which writes the same bytes to the same place again.
            if not self.positional or self.appending:
                raise
            await self._write_out()

    cdef int write_now(self) except -1:
        """Nobody will await anything any more: write what stands in the buffer."""
        cdef int64_t at = self.position - (0 if self.unwritten is None else len(self.unwritten))
        while self.unwritten:
            if self.positional and not self.appending:
                size = os.pwrite(self.fd, self.unwritten, at)
            elif self.positional or self.seekable_:
                size = os.write(self.fd, self.unwritten)
            else:
                try:
                    size = pwritev_now(self.fd, [self.unwritten])
                except BlockingIOError:
                    raise
                except OSError:
                    size = os.write(self.fd, self.unwritten)
            del self.unwritten[:size]
            at += size
        return 0

    # ---- the position

    cdef object where(self):
        if self.positional:
            return self.position
        if not self.seekable_ and self.buffer_size:
            raise Unsupported("underlying stream is not seekable")
        unwritten = 0 if self.unwritten is None else len(self.unwritten)
        return lseek(self.fd, 0, os.SEEK_CUR) - self.there() + unwritten

    cdef int jump(self, int64_t target) except -1:
        """Move the position; what was read ahead stays if it is there."""
        cdef int64_t first = self.position - self.taken
        if first <= target <= first + len(self.ahead):
            self.taken = target - first
        else:
            self.forget()
            self.in_order = False
        self.position = target
        return 0

    # ---- the end

    def abandon(self):
        """The descriptor is somebody else's.  Of no use to those who use files."""
        self.fd = -1
        self.state = FILE_CLOSED

    def __del__(self):
        if self.fd < 0:
            return
        if self.closefd:
            warnings.warn(f"unclosed file {self!r}", ResourceWarning, source=self, stacklevel=1)
        try:
            self.write_now()
        finally:
            fd, self.fd = self.fd, -1
            self.state = FILE_CLOSED
            if self.closefd:
                os.close(fd)


cdef list lines_of(bytes data):
    """The lines of `data`, each with its end."""
    lines = [line + b"\n" for line in data.split(b"\n")]
    last = lines.pop()[:-1]
    if last:
        lines.append(last)
    return lines


cdef Py_ssize_t lines_size(bytes data, Py_ssize_t start, Py_ssize_t hint) except -1:
    """The size of the first lines that have more than `hint` bytes together, 0 if the last one has no end yet."""
    cdef Py_ssize_t end = data.find(b"\n", start + hint) + 1
    return end - start if end else 0


cdef object room(object buffer, str what):
    """The bytes of a buffer that is to be read into."""
    try:
        view = memoryview(buffer)
    except TypeError:
        view = None
    if view is None or view.readonly or not view.c_contiguous:
        raise TypeError(f"{what}() argument must be read-write bytes-like object, not {type(buffer).__name__}")
    return view.cast("B") if view.nbytes else view


cdef bytes plain_bytes(object data):
    """What is to be written, as it is now."""
    cdef Py_buffer view
    if type(data) is bytes:
        return data
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        return PyBytes_FromStringAndSize(<const char*> view.buf, view.len)
    finally:
        PyBuffer_Release(&view)
