# cython: language_level=3, cdivision=True, binding=False, embedsignature=True, embedsignature.format=clinic
"""Floor 4: a file of bytes, buffered or not.

Owns: the order of calls, what each of them does, and the end of the file's life.  Imports: action, buffered.

What needs no call is done at once, and so is a call whose result is there at once; everything else is a coroutine that
stands in line.  Whoever changes the position or the buffers does so after the last point at which it may be cancelled,
or in a job that is carried out to its end.
"""
import errno
import io
import os
from asyncio import shield, sleep
from operator import index

from libc.stdint cimport int64_t

from flexsc_loop.files.action cimport Action, act
from flexsc_loop.files.buffered cimport NO_BUFFER_CHUNK, Buffered, lines_of, lines_size, plain_bytes, room
from flexsc_loop.files.file cimport (
    FILE_CLOSED, FILE_CLOSING, FILE_OPEN, PENDING, at_once, whole, writing,
)

cdef object Unsupported = io.UnsupportedOperation
cdef object lseek = os.lseek


cdef extern from "<unistd.h>" nogil:
    enum:
        SEEK_SET
        SEEK_CUR
        SEEK_END
        SEEK_DATA
        SEEK_HOLE


cdef object MOST_OFFSET = (1 << 63) - 1


cdef enum:
    SAFE_OFFSET = 0x7fffffff         # up to here a file may be on any file system
    MOST_AT_ONCE = 1 << 26


cdef class BinaryFile(Buffered):
    """A file of bytes.

    Methods that read, write or move the position are awaited; those that are called together follow one another.
    A read that was cancelled has not moved the position.  A write or truncate() that was cancelled before its turn came
    has done nothing; after that it is carried out to its end, and the next call waits for it.
    """

    # ---- reading

    def read(self, size=-1, /):
        """Read up to `size` bytes, fewer at the end of the file only; all that is left if `size` is None or negative.

        Unbuffered: what one call gives.  Source: io.BufferedReader.read, io.RawIOBase.read.
        """
        return act(self, start_read, None, -1 if size is None else size)

    def read1(self, size=-1, /):
        """Read what is there, or what one call gives.  Source: io.BufferedReader.read1."""
        return act(self, start_read1, None, size)

    def readall(self):
        """Read all that is left."""
        return act(self, start_read, None, -1)

    def readinto(self, buffer, /):
        """Read into a buffer; the number of bytes."""
        return act(self, start_readinto, room(buffer, "readinto"), 0)

    def readinto1(self, buffer, /):
        """The same with what is there, or with what one call gives."""
        return act(self, start_readinto, room(buffer, "readinto1"), 1)

    def peek(self, size=0, /):
        """What is read ahead, after one call at most; the position stays.  Its length has nothing to do with `size`."""
        return act(self, start_peek, None, size)

    def readline(self, size=-1, /):
        """Read to the end of the line, or up to `size` bytes."""
        return act(self, start_readline, None, -1 if size is None else size)

    def readlines(self, hint=-1, /):
        """Read lines until they have more than `hint` bytes, or all of them."""
        return act(self, start_readlines, None, -1 if hint is None else hint)

    def __aiter__(self):
        return self

    def __anext__(self):
        return act(self, start_next, None, -1)

    async def _read(self, Py_ssize_t size):
        await self._enter()
        try:
            return await self._read_in_turn(size)
        finally:
            self.leave()

    async def _read_in_turn(self, Py_ssize_t size):
        if self.unwritten:
            await self._carry_out(self._write_out())
        if size < 0:
            return await self._read_all()
        while self.there() < size:
            if not self.buffer_size and self.there() or not await self._fill(size - self.there()):
                break
        return self.take(min(size, self.there()))

    async def _read_first(self, call, Py_ssize_t size):
        """The turn is taken, and a call for what is missing is made."""
        cdef bytes data
        try:
            data = await call
            if data:
                self.keep(data)
            return self.take(min(size, self.there()))
        finally:
            self.leave()

    cdef object all_at_once(self, Action action):
        """All that is left, in one call if it is there; else who goes on is left in `action`."""
        cdef int64_t at = self.position + self.there()
        cdef Py_ssize_t chunk = max(self.size_hint - at + 1, NO_BUFFER_CHUNK)
        call = self.read_at(chunk, at)
        answer = at_once(call)
        if answer is PENDING or len(<bytes> answer) == chunk:
            self.busy = True
            action.running = self._read_on(call, chunk)
            return None
        return self.give_all(answer)

    async def _read_on(self, call, Py_ssize_t chunk):
        """The turn is taken, and a call for what is left is made."""
        try:
            return await self._read_to_end(call, chunk)
        finally:
            self.leave()

    async def _read_to_end(self, call, Py_ssize_t chunk):
        cdef bytes data
        cdef list parts = []
        cdef int64_t at = self.position + self.there()
        while True:
            data = call if type(call) is bytes else await call
            parts.append(data)
            if len(data) < chunk:
                return self.give_all(b"".join(parts) if len(parts) > 1 else data)
            at += len(data)
            chunk = min(2 * chunk, MOST_AT_ONCE)
            call = self.read_at(chunk, at)

    async def _read_all(self):
        if not self.positional:
            await self._carry_out(self._drain_job())
            return self.take(self.there())
        cdef int64_t at = self.position + self.there()
        cdef Py_ssize_t chunk = max(self.size_hint - at + 1, NO_BUFFER_CHUNK)
        return await self._read_to_end(self.read_at(chunk, at), chunk)

    async def _read1(self, Py_ssize_t size):
        await self._enter()
        try:
            if self.unwritten:
                await self._carry_out(self._write_out())
            if not self.there():
                await self._fill(size)
            return self.take(min(size, self.there()))
        finally:
            self.leave()

    async def _readinto(self, view, bint once):
        cdef bytes data = await (self._read1(view.nbytes) if once else self._read(view.nbytes))
        if data:
            view[:len(data)] = data
        return len(data)

    async def _pass_over_later(self, Py_ssize_t filled):
        """The turn is taken; others run first."""
        try:
            await sleep(0)
            return self.pass_over(filled)
        finally:
            self.leave()

    async def _peek(self):
        await self._enter()
        try:
            if self.unwritten:
                await self._carry_out(self._write_out())
            if not self.there():
                await self._fill(self.buffer_size or 1)
            return self.ahead[self.taken:]
        finally:
            self.leave()

    # ---- lines

    async def _readline(self, Py_ssize_t limit):
        await self._enter()
        try:
            return await self._line(limit)
        finally:
            self.leave()

    async def _line(self, Py_ssize_t limit):
        cdef Py_ssize_t looked_at = 0, size = 0
        if self.unwritten:
            await self._carry_out(self._write_out())
        # Without a buffer what lies behind the line must stay where it is, unless it can be read again.
        cdef Py_ssize_t wanted = self.buffer_size or (NO_BUFFER_CHUNK if self.positional else 1)
        while True:
            size = self.line_end(looked_at, limit)
            if size or limit == 0:
                break
            looked_at = self.there()
            if not await self._fill(wanted):
                size = self.there()
                break
        line = self.take(size)
        if not self.buffer_size and self.positional:
            self.forget()
        return line

    async def _next(self):
        line = await self._readline(-1)
        if not line:
            raise StopAsyncIteration
        return line

    async def _readlines(self, Py_ssize_t hint):
        cdef Py_ssize_t total = 0
        await self._enter()
        try:
            if hint <= 0:
                return lines_of(await self._read_in_turn(-1))
            if self.unwritten:
                await self._carry_out(self._write_out())
            # Taken when all are there: one who is cancelled before has not moved the position.
            while True:
                total = lines_size(self.ahead, self.taken, hint)
                if total:
                    break
                if not await self._fill(self.buffer_size or NO_BUFFER_CHUNK):
                    total = self.there()
                    break
            lines = lines_of(self.take(total))
            if not self.buffer_size and self.positional:
                self.forget()
            return lines
        finally:
            self.leave()

    # ---- writing

    def write(self, data, /):
        """Write bytes; their number.  Unbuffered: fewer where an error came after some, which the next call raises."""
        return act(self, start_write, data, 0)

    def writelines(self, lines, /):
        """Write several pieces."""
        return self._writelines(lines, self.buffer_size)

    def flush(self):
        """Have everything that was written in the file, though not yet on the disk (see fsync)."""
        return act(self, start_flush, None, 0)

    def truncate(self, size=None, /):
        """Give the file a size, that of the position if None; the position stays.  Returns the size."""
        return self._truncate(size)

    def fsync(self):
        """Flush, and wait until everything is on the disk.  Source: fsync(2)."""
        return act(self, start_sync, "fsync", 0)

    def fdatasync(self):
        """The same without times and the like.  Source: fdatasync(2)."""
        return act(self, start_sync, "fdatasync", 0)

    def allocate(self, offset, size, mode=0, /):
        """Flush, and have room on the disk for `size` bytes at `offset`.  Source: fallocate(2)."""
        return self._flush_and("fallocate", whole(mode), whole(offset), whole(size))

    async def _write(self, bytes data):
        await self._enter()
        try:
            return await self._carry_out(self._write_job(data))
        finally:
            self.leave()

    async def _write_job(self, bytes data):
        cdef Py_ssize_t size = 0
        if not self.positional and self.seekable_ and self.there():
            await self.calls.run(lseek, self.fd, -self.there(), os.SEEK_CUR)
        if self.positional or self.seekable_:
            self.forget()
        if not self.buffer_size:
            size = await self._put(data, self.position)
            if size:
                self.moved(size)
            return size
        if self.unwritten and len(self.unwritten) + len(data) > self.buffer_size:
            await self._write_out()
        if len(data) < self.buffer_size:
            self.accept(data)
            return len(data)
        return await self._write_past(data, 0)

    async def _write_past(self, bytes data, Py_ssize_t done):
        """Write what the buffer is too small for, of which `done` bytes are written."""
        cdef Py_ssize_t size = 0
        while done < len(data):
            size = await self._put(memoryview(data)[done:] if done else data, self.position)
            self.moved(size)
            done += size
        return done

    async def _write_first(self, call, bytes data):
        """The turn is taken, and a call that writes `data` is made."""
        try:
            return await self._carry_out(self._first_job(call, data))
        finally:
            self.leave()

    async def _first_job(self, call, bytes data):
        cdef Py_ssize_t size = await call
        self.moved(size)
        return await self._write_past(data, size) if self.buffer_size else size

    async def _write_together(self, list pieces):
        cdef bytes data = b"".join(pieces)
        if data:
            await self.write(data)

    async def _lines_job(self, list pieces, rest):
        if pieces:
            await self._write_job(b"".join(pieces))
        for line in rest:
            await self._write_job(self.piece(line))

    cdef object piece(self, object data):
        self.check_writing("write")
        return plain_bytes(data)

    async def _flush(self):
        await self._enter()
        try:
            if self.unwritten:
                await self._carry_out(self._write_out())
        finally:
            self.leave()

    async def _flush_and(self, str what, *arguments):
        self.check()
        if what == "fallocate":
            self.check_writing("allocate")
        await self.flush()
        await self._count(getattr(self.calls, what)(self.fd, *arguments))

    async def _truncate(self, size):
        cdef int64_t _length  # one that C does not take raises here
        self.check_writing("truncate")
        if size is not None:
            _length = index(size)
        await self._enter()
        try:
            return await self._carry_out(self._truncate_job(size))
        finally:
            self.leave()

    async def _truncate_job(self, size):
        await self._write_out()
        if size is None:
            size = self.where()
        length = index(size)
        if length < 0:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        await self.calls.ftruncate(self.fd, length)
        if self.positional:
            self.forget()
        return size

    # ---- the position

    def seek(self, offset, whence=0, /):
        """Move the position.  Returns it.  Source: io.IOBase.seek."""
        return act(self, start_seek, (offset, whence), 0)

    def tell(self):
        """The position."""
        return act(self, start_tell, None, 0)

    async def _seek(self, int64_t offset, int whence):
        await self._enter()
        try:
            if not self.seekable_ and self.buffer_size:
                raise Unsupported("File or stream is not seekable.")
            if self.unwritten:
                await self._carry_out(self._write_out())
            if self.positional:
                return self._jump(offset, whence)
            if whence == os.SEEK_CUR:
                offset -= self.there()
            return await self._carry_out(self._seek_job(offset, whence))
        finally:
            self.leave()

    def _jump(self, offset, whence):
        if whence == os.SEEK_CUR:
            offset, whence = offset + self.position, os.SEEK_SET
        if whence == os.SEEK_SET and not 0 <= offset <= MOST_OFFSET:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        self.jump(lseek(self.fd, offset, whence))
        return self.position

    async def _seek_job(self, offset, whence):
        position = await self.calls.run(lseek, self.fd, offset, whence)
        self.forget()
        return position

    async def _tell(self):
        await self._enter()
        try:
            return self.where()
        finally:
            self.leave()

    # ---- the end

    def close(self):
        """Write what stands in the buffer and close the descriptor, in its turn.

        From its beginning no other call is accepted.  When the caller is cancelled it is carried out all the same.  If
        the buffer can't be written the file is closed, and the error raised.
        """
        return self.closing()

    cdef Action closing(self):
        return act(self, start_close, None, 0)

    async def __aenter__(self):
        self.check()
        return self

    def __aexit__(self, *error):
        return self.closing()

    cdef bint closes_at_once(self) except -1:
        """Close it if there is nothing to be written and nothing to wait for."""
        if self.busy or self.unwritten or self.in_flight or self.ours is None or not self.closefd or self.can_write:
            return False
        if not self.ours.close_at_once(self.fd, self.opened_in):
            return False
        self.fd = -1
        self.state = FILE_CLOSED
        self.forget()
        return True

    async def _close(self):
        if self.ending is None:
            self.ending = self.loop.create_task(self._close_in_turn())
        await shield(self.ending)

    async def _close_in_turn(self):
        if self.last_job is not None and not self.seekable_ and not self.unwritten:
            # A read that nobody waits for any more, of what may never come.
            self.last_job.cancel()
        await self._enter()
        try:
            await self._write_all_out()
            await self._until_idle()
        finally:
            fd, self.fd = self.fd, -1
            self.state = FILE_CLOSED
            self.forget()
            self.unwritten = None
            self.leave()
            if self.closefd:
                await self.calls.close(fd)


async def _give(answer):
    return answer


# ---- how a call begins


cdef object start_read(Action action):
    cdef BinaryFile file = <BinaryFile> action.file
    cdef Py_ssize_t size = action.size, there
    file.check_reading("read")
    if size < -1 and file.buffer_size:
        raise ValueError("read length must be non-negative or -1")
    if size < 0 and not file.busy and not file.unwritten and file.positional:
        return file.all_at_once(action)
    if size >= 0 and not file.busy and not file.unwritten:
        there = file.there()
        if size <= there:
            return file.take(size)
        if file.positional and (file.buffer_size or not there):
            call = file.read_at(file.chunk(size - there), file.position + there)
            answer = at_once(call)
            if answer is not PENDING:
                if answer:
                    file.keep(answer)
                return file.take(min(size, file.there()))
            file.busy = True
            action.running = file._read_first(call, size)
            return None
    action.running = file._read(size)


cdef object start_read1(Action action):
    cdef BinaryFile file = <BinaryFile> action.file
    cdef Py_ssize_t size = action.size
    file.check_reading("read1")
    if size < 0:
        size = file.buffer_size or NO_BUFFER_CHUNK
    if not file.busy and not file.unwritten and file.there() or size == 0:
        return file.take(min(size, file.there()))
    action.running = file._read1(size)


cdef object start_readinto(Action action):
    cdef BinaryFile file = <BinaryFile> action.file
    file.check_reading("readinto1" if action.size else "readinto")
    # What has to be waited for goes into bytes first: a buffer whose owner was cancelled is not written to any more.
    cdef Py_ssize_t size = action.argument.nbytes, filled
    if file.may_fill(size):
        filled = file.ours.fill_now(file.fd, action.argument, file.position, file.plain)
        if filled >= 0:
            if file.ours.in_time():
                return file.pass_over(filled)
            file.busy = True
            action.running = file._pass_over_later(filled)
            return None
    action.running = file._readinto(action.argument, action.size)


cdef object start_peek(Action action):
    cdef BinaryFile file = <BinaryFile> action.file
    file.check_reading("peek")
    action.running = file._peek()


cdef object start_readline(Action action):
    cdef BinaryFile file = <BinaryFile> action.file
    file.check_reading("read")
    if not file.busy and not file.unwritten and file.buffer_size:
        line = file.line_there(action.size)
        if line is not None:
            return line
    action.running = file._readline(action.size)


cdef object start_next(Action action):
    cdef BinaryFile file = <BinaryFile> action.file
    file.check_reading("read")
    if not file.busy and not file.unwritten and file.buffer_size:
        line = file.line_there(-1)
        if line is not None:
            return line
    action.running = file._next()


cdef object start_readlines(Action action):
    cdef BinaryFile file = <BinaryFile> action.file
    file.check_reading("read")
    action.running = file._readlines(action.size)


cdef object start_write(Action action):
    cdef BinaryFile file = <BinaryFile> action.file
    file.check_writing("write")
    data = plain_bytes(action.argument)
    if file.takes(len(<bytes> data)):
        file.accept(data)
        return len(<bytes> data)
    if not file.busy and file.positional and not file.buffer_size and file.ours is not None:
        return file.write_through(action, data)
    if not file.busy and file.positional and not file.unwritten and not file.appending:
        file.forget()
        call = file.calls.pwrite(file.fd, data, file.position)
        answer = at_once(call)
        if answer is PENDING:
            file.busy = True
            action.running = file._write_first(call, data)
            return None
        if answer == len(<bytes> data) or not file.buffer_size:
            file.position += answer
            return answer
        file.busy = True
        action.running = file._write_first(_give(answer), data)
        return None
    action.running = file._write(data)


cdef object start_sync(Action action):
    cdef BinaryFile file = <BinaryFile> action.file
    file.check()
    if file.busy or file.unwritten:
        action.running = file._flush_and(action.argument)
        return None
    return writing(action, getattr(file.calls, action.argument)(file.fd))


cdef object start_flush(Action action):
    cdef BinaryFile file = <BinaryFile> action.file
    file.check()
    if file.busy or file.unwritten:
        action.running = file._flush()


cdef object start_seek(Action action):
    cdef BinaryFile file = <BinaryFile> action.file
    file.check()
    cdef int64_t offset
    cdef int whence
    given, how = <tuple> action.argument
    whence = how if type(how) is int else index(how)
    if file.buffer_size and whence not in (SEEK_SET, SEEK_CUR, SEEK_END, SEEK_DATA, SEEK_HOLE):
        raise ValueError(f"whence value {whence} unsupported")
    try:
        offset = given if type(given) is int else index(given)
    except OverflowError:
        if not file.buffer_size:
            raise
        raise ValueError(f"cannot fit {type(given).__name__!r} into an offset-sized integer") from None
    # What is further off than any file system's files may be is for the kernel to judge.
    if (whence == SEEK_SET and not file.busy and file.positional and not file.unwritten
            and 0 <= offset <= max(file.size_hint, <int64_t> SAFE_OFFSET)):
        file.jump(offset)
        return offset
    action.running = file._seek(offset, whence)


cdef object start_tell(Action action):
    cdef BinaryFile file = <BinaryFile> action.file
    file.check()
    if file.busy:
        action.running = file._tell()
        return None
    return file.where()


cdef object start_close(Action action):
    cdef BinaryFile file = <BinaryFile> action.file
    if file.fd < 0 and (file.ending is None or file.ending.done()):
        file.ending = None
        return None
    file.check_loop()
    if file.state == FILE_OPEN:
        file.state = FILE_CLOSING
        if file.closes_at_once():
            return None
    action.running = file._close()
