# cython: language_level=3, cdivision=True, binding=False, embedsignature=True, embedsignature.format=clinic
"""Floor 4: an open file: its descriptor, who may move its position, and the calls that have an offset of their own.

Owns: the line of those who wait, and the end of the file's life.  Imports: action, calls.
"""
import errno
import io
import os
from asyncio import CancelledError, shield
from asyncio.events import _get_running_loop as running_loop
from collections import deque
from operator import index

from cpython.pythread cimport PyThread_get_thread_ident
from libc.stdint cimport int64_t

from flexsc_loop.files.action cimport Action, Call, act, known


cdef enum:
    COPIED_AT_ONCE = 1 << 26         # where the kernel does not copy


PENDING = object()

cdef object Unsupported = io.UnsupportedOperation


cdef object at_once(object call):
    """The result of a call if it is there already, else PENDING; raises what the call has raised."""
    if type(call) is bytes:
        return call
    if type(call) is not Call or not (<Call> call).over or (<Call> call).late:
        return PENDING
    if (<Call> call).error is not None:
        raise (<Call> call).error
    (<Call> call).opened = False
    return (<Call> call).value


cdef class Line(Follower):
    """Who may change a file's state: one at a time, in the order in which they came."""

    def __reduce__(self):
        raise TypeError(f"cannot pickle {type(self).__name__!r} instances")

    cdef int leave(self) except -1:
        """Let the next one go on."""
        if self.handed_on:
            self.handed_on = False
            return 0
        return self.pass_on()

    cdef int pass_on(self) except -1:
        while self.waiters:
            waiter = self.waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return 0
        self.busy = False
        return 0

    async def _enter(self):
        """Wait for one's turn; `leave` ends it."""
        if not self.busy:
            self.busy = True
            return
        if self.waiters is None:
            self.waiters = deque()
        waiter = self.loop.create_future()
        self.waiters.append(waiter)
        try:
            await waiter
        except BaseException:
            if waiter.done() and not waiter.cancelled():
                self.pass_on()
            raise

    async def _carry_out(self, job):
        """Do a job, in one's turn, to its end: who is cancelled meanwhile does not wait for it, the next one does."""
        task = self.loop.create_task(job)
        try:
            return await shield(task)
        except CancelledError:
            if not task.done():
                self.handed_on = True
                self.last_job = task
                task.add_done_callback(self._job_done)
            raise

    def _job_done(self, _):
        self.last_job = None
        self.pass_on()

    cdef int check(self) except -1:
        """Raise unless calls may be made."""
        return 0

    cdef object piece(self, object data):
        """What is to be written of `data`, as it is now; raises if that can't be."""
        return data

    async def _write_together(self, list pieces):
        """Write what fits into the buffer."""

    async def _lines_job(self, list pieces, rest):
        """Write `pieces`, and what `rest` gives, in one's turn."""

    async def _writelines(self, lines, Py_ssize_t room):
        """room: the size of the buffer.  What fits into that takes no task."""
        cdef Py_ssize_t size = 0
        cdef list pieces = []
        self.check()
        rest = iter(lines)
        try:
            while size < room:
                piece = self.piece(next(rest))
                pieces.append(piece)
                size += len(piece)
        except StopIteration:
            await self._write_together(pieces)
            return
        except BaseException:
            await self._write_together(pieces)
            raise
        await self._enter()
        try:
            await self._carry_out(self._lines_job(pieces, rest))
        finally:
            self.leave()


cdef class File(Line):
    """An open file.  Made by `flexsc_loop.open`; to be used by tasks of the loop in which it was opened."""

    def __cinit__(self):
        self.fd = -1
        self.state = FILE_CLOSED

    cdef int check(self) except -1:
        if self.state != FILE_OPEN:
            raise ValueError("I/O operation on closed file.")
        return self.check_loop()

    cdef int check_loop(self) except -1:
        if self.ours is not None and self.ours.turn.inside and self.ours.turn.runner == PyThread_get_thread_ident():
            return 0
        if running_loop() is not self.loop:
            raise RuntimeError(f"{self!r} was opened in another event loop, {self.loop!r}")
        return 0

    cdef object read_at(self, Py_ssize_t size, int64_t offset):
        """Bytes if they are there at once, else a call to be awaited for them."""
        if self.ours is None:
            return self.calls.pread(self.fd, size, offset)
        result = self.ours.read_bytes(self.fd, size, offset, self.plain, self.patient, self.device)
        if self.ours.refused:
            self.ours.refused = False
            self.patient = True
        return result

    @property
    def served_by(self):
        """What makes the calls: the page of the loop, or an executor."""
        return None if self.calls is None else self.calls.served_by

    @property
    def closed(self):
        """Whether close() was called."""
        return self.state != FILE_OPEN

    def fileno(self):
        """The descriptor.  What is buffered is not in the file yet, and reads do not move the descriptor's position."""
        if self.state != FILE_OPEN:
            raise ValueError("I/O operation on closed file.")
        return self.fd

    def readable(self):
        """Whether it was opened for reading.  May be awaited, too."""
        self.fileno()
        return known(self.can_read != 0)

    def writable(self):
        """Whether it was opened for writing.  May be awaited, too."""
        self.fileno()
        return known(self.can_write != 0)

    def seekable(self):
        """Whether it has a position.  May be awaited, too."""
        self.fileno()
        return known(self.seekable_ != 0)

    def isatty(self):
        """Whether it is a terminal.  May be awaited, too."""
        return known(os.isatty(self.fileno()))

    # ---- calls with an offset of their own: no order among those in flight, the position stays

    def pread(self, Py_ssize_t size, offset, /):
        """Read up to `size` bytes at `offset`: fewer at the end of the file only."""
        cdef int64_t at = whole(offset)
        cdef Action action = act(self, start_pread, None, size)
        action.offset = at
        return action

    def pread_into(self, buffer, offset, /):
        """Read into a buffer; the number of bytes."""
        return act(self, start_pread_into, (buffer, whole(offset)), 0)

    def preadv(self, buffers, offset, /):
        """Read into several buffers, one after the other; the number of bytes."""
        return act(self, start_preadv, (list(buffers), whole(offset)), 0)

    def pwrite(self, data, offset, /):
        """Write at `offset`; the number of bytes, fewer than given where an error came after some.

        On a file opened for appending the kernel writes at its end, whatever the offset.  When the caller is cancelled
        the write is made all the same.
        """
        return act(self, start_pwrite, (data, whole(offset)), 0)

    def pwritev(self, buffers, offset, /):
        """Write several buffers, one after the other; the number of bytes."""
        return act(self, start_pwritev, (list(buffers), whole(offset)), 0)

    def advise(self, offset, size, advice, /):
        """Tell the kernel what will be read.  Source: posix_fadvise(2), os.POSIX_FADV_*."""
        return act(self, start_advise, (whole(offset), whole(size), whole(advice)), 0)

    def stat(self):
        """What os.fstat() says; of what is buffered it knows nothing."""
        return act(self, start_stat, None, 0)

    # ---- from one file to another

    async def copy_range(self, target, count, offset, target_offset, /):
        """Copy up to `count` bytes to another open file, in the kernel where that can; the positions stay.

        Returns the number of bytes, fewer at the end of this file only.  What stands in the buffers is written first.
        Source: copy_file_range(2).
        """
        cdef File other = getattr(target, "file", target)  # a named temporary file's
        cdef Py_ssize_t wanted = whole(count)
        cdef int64_t start = whole(offset), to = whole(target_offset), at, done = 0
        self.check()
        if not self.can_read:
            raise Unsupported("not readable")
        if wanted < 0:
            raise ValueError("negative value for 'count' not allowed")
        if start < 0 or to < 0:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        await self.flush()
        await target.flush()
        while done < wanted:
            at = start + done
            try:
                size = await other._count(self.calls.copy_file_range(self.fd, other.fd, wanted - done, at, to))
            except OSError as error:
                if error.errno not in (errno.EXDEV, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EBADF):
                    raise
                if abs(at - to) < wanted - done and os.path.sameopenfile(self.fd, other.fd):
                    raise  # the pieces overlap
                data = await self.pread(min(wanted - done, COPIED_AT_ONCE), at)
                size = await target.pwrite(data, to)
            if not size:
                break
            done += size
            to += size
        return done

    async def _count(self, call):
        """Have close() wait until a call that changes something has been made."""
        if type(call) is Call:  # a page sees to that itself
            return await call
        self.in_flight += 1
        task = self.loop.create_task(_wait_for(call))
        task.add_done_callback(self._counted)
        return await shield(task)

    def _counted(self, _):
        self.in_flight -= 1
        if self.in_flight == 0 and self.idle is not None and not self.idle.done():
            self.idle.set_result(None)

    async def _until_idle(self):
        while self.in_flight:
            self.idle = self.loop.create_future()
            await self.idle
        self.idle = None


cdef object whole(object number):
    """A number as C takes it: nothing that would have to be rounded."""
    return number if type(number) is int else index(number)


async def _wait_for(call):
    return await call


cdef File writable_file(Action action):
    cdef File file = <File> action.file
    file.check()
    if not file.can_write:
        raise Unsupported("not writable")
    return file


cdef File readable_file(Action action):
    cdef File file = <File> action.file
    file.check()
    if not file.can_read:
        raise Unsupported("not readable")
    return file


cdef object reading(Action action, object call):
    answer = at_once(call)
    if answer is PENDING:
        action.running = _wait_for(call)
        return None
    return answer


cdef object writing(Action action, object call):
    answer = at_once(call)
    if answer is PENDING:
        action.running = (<File> action.file)._count(call)
        return None
    return answer


cdef object start_pread(Action action):
    cdef File file = readable_file(action)
    return reading(action, file.read_at(action.size, action.offset))


cdef object start_pread_into(Action action):
    cdef File file = readable_file(action)
    buffer, offset = action.argument
    return reading(action, file.calls.pread_into(file.fd, buffer, offset))


cdef object start_preadv(Action action):
    cdef File file = readable_file(action)
    buffers, offset = action.argument
    return reading(action, file.calls.preadv(file.fd, buffers, offset))


cdef object start_pwrite(Action action):
    cdef File file = writable_file(action)
    data, offset = action.argument
    return writing(action, file.calls.pwrite(file.fd, data, offset))


cdef object start_pwritev(Action action):
    cdef File file = writable_file(action)
    buffers, offset = action.argument
    return writing(action, file.calls.pwritev(file.fd, buffers, offset))


cdef object start_advise(Action action):
    cdef File file = <File> action.file
    file.check()
    offset, size, advice = action.argument
    return reading(action, file.calls.fadvise(file.fd, offset, size, advice))


cdef object start_stat(Action action):
    cdef File file = <File> action.file
    file.check()
    return reading(action, file.calls.stat(file.fd))
