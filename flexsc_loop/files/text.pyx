# cython: language_level=3, cdivision=True, binding=False, embedsignature=True, embedsignature.format=clinic
"""Floor 4: a file of text.

Owns: the decoder and the encoder, what was decoded and not given out, and positions in the middle of it.  Imports:
action, binary, file, mode.  What was written stands encoded in the buffer of the file of bytes below.
"""
import io
import os
from asyncio import shield
from itertools import chain
from operator import index

from libc.stdint cimport uint8_t

from flexsc_loop.files.action cimport Action, act
from flexsc_loop.files.binary cimport BinaryFile
from flexsc_loop.files.file cimport FILE_OPEN, Line
from flexsc_loop.files.mode cimport Coding, coding_of

cdef object Unsupported = io.UnsupportedOperation


cdef enum:
    CHUNK = 8192                     # bytes that are decoded at a time


cdef class TextFile(Line):
    """A file of text: what io.TextIOWrapper is, with methods that are awaited.

    What BinaryFile says of order and of cancelled calls is so here, too.
    """
    cdef readonly BinaryFile buffer
    cdef readonly object mode
    cdef Coding coding
    cdef object ending
    cdef object encoder, decoder     # None before they are used; see encoding_now(), decoding_now()
    cdef object start                # (state of the decoder, bytes that it was given then) for what is decoded, or None
    cdef str decoded
    cdef Py_ssize_t used             # characters of it that were given out
    cdef double bytes_per_character  # as they were lately
    cdef object __weakref__
    cdef uint8_t by_lines            # what has a line end is not to stay in the buffer
    cdef uint8_t begun               # the encoder is not at the beginning of the file, where some write a mark

    def __init__(self, BinaryFile buffer, mode, encoding, errors, newline, line_buffering):
        self.buffer = buffer
        self.loop = buffer.loop
        self.mode = mode
        self.coding = coding_of(encoding, errors, newline, buffer.can_read, buffer.can_write)
        self.by_lines = line_buffering
        self.decoded = ""
        self.begun = buffer.can_write and buffer.seekable_ and buffer.where() != 0

    def __repr__(self):
        state = "" if self.buffer.state == FILE_OPEN else " closed"
        return f"<flexsc_loop.TextFile name={self.name!r} mode={self.mode!r} encoding={self.encoding!r}{state}>"

    # ---- what the file of bytes says

    @property
    def name(self):
        """The path, or the descriptor, that was opened."""
        return self.buffer.name

    @property
    def encoding(self):
        """The encoding's name.  Source: io.TextIOBase.encoding."""
        return self.coding.encoding

    @property
    def errors(self):
        """How characters that have no code, and codes without a character, are treated."""
        return self.coding.errors

    @property
    def line_buffering(self):
        """Whether what has a line end is written to the file at once."""
        return self.by_lines != 0

    @property
    def closed(self):
        """Whether close() was called."""
        return self.buffer.state != FILE_OPEN

    @property
    def served_by(self):
        """What makes the calls: the page of the loop, or an executor."""
        return self.buffer.served_by

    @property
    def newlines(self):
        """The line ends that were read.  Source: io.TextIOBase.newlines."""
        return getattr(self.decoder, "newlines", None)

    def fileno(self):
        """The descriptor."""
        return self.buffer.fileno()

    def readable(self):
        """Whether it was opened for reading.  May be awaited, too."""
        return self.buffer.readable()

    def writable(self):
        """Whether it was opened for writing.  May be awaited, too."""
        return self.buffer.writable()

    def seekable(self):
        """Whether it has a position.  May be awaited, too."""
        return self.buffer.seekable()

    def isatty(self):
        """Whether it is a terminal.  May be awaited, too."""
        return self.buffer.isatty()

    def stat(self):
        """What os.fstat() says; of what is buffered it knows nothing."""
        return self.buffer.stat()

    def fsync(self):
        """Flush, and wait until everything is on the disk."""
        return self.buffer.fsync()

    def fdatasync(self):
        """The same without times and the like."""
        return self.buffer.fdatasync()

    cdef int check(self) except -1:
        return self.buffer.check()

    cdef int check_reading(self) except -1:
        self.buffer.check()
        if not self.buffer.can_read:
            raise Unsupported("not readable")
        return 0

    cdef int check_writing(self) except -1:
        self.buffer.check()
        if not self.buffer.can_write:
            raise Unsupported("not writable")
        return 0

    cdef int check_seeking(self) except -1:
        self.buffer.check()
        if not self.buffer.seekable_:
            raise Unsupported("underlying stream is not seekable")
        return 0

    # ---- what is decoded

    cdef object decoding_now(self):
        """The decoder."""
        if self.decoder is None:
            self.decoder = self.coding.new_decoder()
        return self.decoder

    cdef object encoding_now(self):
        """The encoder, as it is to be where the file of bytes stands."""
        if self.encoder is None:
            self.encoder = self.coding.encoder(self.coding.errors)
            self.set_encoder(not self.begun)
        return self.encoder

    cdef str take(self, Py_ssize_t size):
        """Give out `size` characters of what is there."""
        cdef str text
        if self.used == 0 and size == len(self.decoded):
            text = self.decoded
        else:
            text = self.decoded[self.used:self.used + size]
        self.used += size
        return text

    cdef Py_ssize_t there(self) except -1:
        return len(self.decoded) - self.used

    cdef int forget(self) except -1:
        """Nothing is decoded."""
        self.decoded = ""
        self.used = 0
        self.start = None
        return 0

    async def _more(self, Py_ssize_t wanted):
        """Decode more, behind what is there; whether there was anything to be read."""
        cdef Py_ssize_t size = max(CHUNK, <Py_ssize_t> (wanted * self.bytes_per_character))
        cdef bytes data = await self.buffer.read1(size)
        decoder = self.decoding_now()
        held, flags = decoder.getstate()
        cdef str text = decoder.decode(data, not data)
        if self.used == len(self.decoded):
            self.decoded, self.used = text, 0
            self.start = flags, held + data
        else:
            # What is there keeps its position, in case that the caller is cancelled.
            self.decoded += text
            if self.start is not None:
                self.start = self.start[0], self.start[1] + data
        self.bytes_per_character = <double> len(data) / len(text) if text else 0
        return bool(data)

    cdef Py_ssize_t end_in(self, str text, Py_ssize_t first) except -1:
        """Where the line that goes on at `first` ends, 0 if it does not."""
        cdef Py_ssize_t found
        cdef str newline = self.coding.newline
        if newline is None:
            return universal_end(text, first)
        found = text.find(newline, first)
        return found + len(newline) if found >= 0 else 0

    cdef Py_ssize_t line_size(self, Py_ssize_t looked_at, Py_ssize_t limit) except -1:
        """The length of the line that is there, 0 if there is no end; `looked_at` characters of it have none."""
        # The first half of an end of two characters may have been looked at.
        cdef str newline = self.coding.newline
        cdef Py_ssize_t back = 1 if looked_at and newline is not None and len(newline) > 1 else 0
        cdef Py_ssize_t size = self.end_in(self.decoded, self.used + looked_at - back)
        if size:
            size -= self.used
        if 0 <= limit <= len(self.decoded) - self.used and (not size or limit < size):
            return limit
        return size

    # ---- reading

    def read(self, size=-1, /):
        """Read up to `size` characters, fewer at the end only; all that is left if `size` is None or negative."""
        return act(self, start_read, None, -1 if size is None else size)

    def readline(self, size=-1, /):
        """Read to the end of the line, or up to `size` characters."""
        return act(self, start_readline, None, size)

    def readlines(self, hint=-1, /):
        """Read lines until they have more than `hint` characters, or all of them."""
        return act(self, start_readlines, None, -1 if hint is None else hint)

    def __aiter__(self):
        return self

    def __anext__(self):
        return act(self, start_next, None, -1)

    async def _read(self, Py_ssize_t size):
        await self._enter()
        try:
            if size < 0:
                return await self._read_all()
            while self.there() < size and await self._more(size - self.there()):
                pass
            return self.take(min(size, self.there()))
        finally:
            self.leave()

    async def _read_all(self):
        cdef bytes data = await self.buffer.read()
        cdef str text = self.decoding_now().decode(data, True)
        if self.used < len(self.decoded):
            text = self.decoded[self.used:] + text
        self.forget()
        return text

    async def _readline(self, Py_ssize_t limit):
        cdef Py_ssize_t size = 0, looked_at = 0
        if limit == 0:
            return ""
        await self._enter()
        try:
            while True:
                size = self.line_size(looked_at, limit)
                if size:
                    return self.take(size)
                looked_at = self.there()
                if not await self._more(0):
                    return self._last_line(limit)
        finally:
            self.leave()

    def _last_line(self, Py_ssize_t limit):
        size = self.line_size(0, limit) or self.there()
        line = self.take(size)
        if not self.there():
            self.forget()
        return line

    async def _next(self):
        line = await self._readline(-1)
        if not line:
            raise StopAsyncIteration
        return line

    async def _readlines(self, Py_ssize_t hint):
        cdef Py_ssize_t total = 0, size = 0
        await self._enter()
        try:
            if hint <= 0:
                text = await self._read_all()
                return self.lines_of(text)
            # Taken when all are there: one who is cancelled before has not moved the position.
            while True:
                size = self.line_size(total, -1)
                if size:
                    total = size
                    if total > hint:
                        break
                elif not await self._more(0):
                    total = self.there()
                    break
            return self.lines_of(self.take(total))
        finally:
            self.leave()

    cdef list lines_of(self, str text):
        """The lines of `text`, each with its end."""
        cdef Py_ssize_t first = 0, end
        lines = []
        while first < len(text):
            end = self.end_in(text, first) or len(text)
            lines.append(text[first:end])
            first = end
        return lines

    # ---- writing

    def write(self, text, /):
        """Write text; the number of characters."""
        return act(self, start_write, text, 0)

    def writelines(self, lines, /):
        """Write several pieces."""
        return self._writelines(lines, self.buffer.buffer_size)

    def flush(self):
        """Have everything that was written in the file, though not yet on the disk (see fsync)."""
        return act(self, start_flush, None, 0)

    def truncate(self, size=None, /):
        """Give the file a size in bytes, that of the position if None; the position stays.  Returns the size."""
        return self._truncate(size)

    cdef bytes encode(self, str text):
        """Encode, at the position of the file of bytes: what was decoded and not given out is behind it."""
        if self.coding.written_newline is not None:
            text = text.replace("\n", self.coding.written_newline)
        data = self.encoding_now().encode(text)
        self.forget()
        if self.decoder is not None:
            self.decoder.reset()
        return data

    async def _write(self, str text, bytes data):
        """Write `data`, which is what `text` was encoded to, if that was done already."""
        if data is None:
            await self._enter()
        try:
            if data is None:
                data = self.encode(text)
            await self._carry_out(self._write_job(data, self.flushes(text)))
            return len(text)
        finally:
            self.leave()

    async def _write_job(self, bytes data, bint flushing):
        await self.buffer.write(data)
        if flushing:
            await self.buffer.flush()

    async def _write_together(self, list pieces):
        try:
            if pieces:
                await self.write("".join(pieces))
        except UnicodeError:
            for text in pieces:  # those before the one that can't be encoded are written
                await self.write(text)

    async def _lines_job(self, list pieces, rest):
        for text in chain(pieces, rest):
            text = self.piece(text)
            await self._write_job(self.encode(text), self.flushes(text))

    cdef object piece(self, object text):
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        self.check_writing()
        return <str> text if type(text) is str else str.__str__(text)

    cdef bint flushes(self, str text) except -1:
        """Whether it is not to stay in the buffer."""
        return self.by_lines and ("\n" in text or "\r" in text)

    async def _flush(self):
        await self._enter()
        try:
            await self.buffer.flush()
        finally:
            self.leave()

    async def _truncate(self, size):
        self.check_writing()
        await self._enter()
        try:
            await self.buffer.flush()
            if size is None:
                size = self.cookie()
            return await self.buffer.truncate(size)
        finally:
            self.leave()

    # ---- the position

    def seek(self, cookie, whence=0, /):
        """Move the position to one that tell() gave, or to the beginning or the end.  Source: io.TextIOBase.seek."""
        return act(self, start_seek, (cookie, whence), 0)

    def tell(self):
        """The position, for seek(): a number that means nothing else where the encoding has states."""
        return act(self, start_tell, None, 0)

    async def _tell(self):
        await self._enter()
        try:
            await self.buffer.flush()
            return self.cookie()
        finally:
            self.leave()

    async def _seek(self, cookie, whence):
        await self._enter()
        try:
            return await self._carry_out(self._seek_job(cookie, whence))
        finally:
            self.leave()

    async def _seek_job(self, cookie, whence):
        await self.buffer.flush()
        if whence == os.SEEK_END:
            position = await self.buffer.seek(0, os.SEEK_END)
            self.at(0, True)
            self.stands(position == 0)
            return position
        if whence == os.SEEK_CUR:
            cookie = self.cookie()
        position, flags, size, need_end, characters = unpack(cookie)
        await self.buffer.seek(position)
        self.at(flags, cookie == 0)
        if characters:
            data = await self.buffer.read(size)
            self.decoded = self.decoding_now().decode(data, bool(need_end))
            self.start = flags, data
            if len(self.decoded) < characters:
                raise OSError("can't restore logical file position")
            self.used = characters
        return cookie

    cdef int at(self, object flags, bint beginning) except -1:
        """The file of bytes stands where the decoder was in this state."""
        self.forget()
        if self.buffer.can_read:
            if beginning:
                if self.decoder is not None:
                    self.decoder.reset()
            else:
                self.decoding_now().setstate((b"", flags))
            self.start = flags, b""
        return self.stands(beginning)

    cdef int stands(self, bint beginning) except -1:
        """The file of bytes stands at the beginning, or somewhere else."""
        self.begun = not beginning
        return self.set_encoder(beginning) if self.encoder is not None else 0

    cdef int set_encoder(self, bint beginning) except -1:
        """At the beginning of a file some encodings write a mark."""
        if beginning:
            self.encoder.reset()
        else:
            try:
                self.encoder.setstate(0)
            except LookupError:  # an encoder without states
                pass
        return 0

    cdef object cookie(self):
        """The position, as a number: a byte, what the decoder was like there, and what follows up to the character."""
        position = self.buffer.where()
        if self.start is None:
            return position
        flags, data = self.start
        position -= len(data)
        if not self.used:
            return pack(position, flags, 0, False, 0)
        saved = self.decoder.getstate()
        try:
            return self.cookie_after(position, flags, data)
        finally:
            self.decoder.setstate(saved)

    cdef Py_ssize_t decoded_size(self, object flags, bytes data) except -1:
        self.decoder.setstate((b"", flags))
        return len(self.decoder.decode(data))

    cdef object cookie_after(self, object position, object flags, bytes data):
        cdef Py_ssize_t low = 0, high = len(data), middle, safe, fed = 0, characters = 0
        while low < high:  # the first byte after which all that was given out is decoded
            middle = (low + high) // 2
            if self.decoded_size(flags, data[:middle]) < self.used:
                low = middle + 1
            else:
                high = middle
        # From there back to where the decoder holds no byte.
        safe = low
        while True:
            characters = self.decoded_size(flags, data[:safe])
            held, state = self.decoder.getstate()
            if not held and characters <= self.used:
                break
            safe -= max(len(held), 1)
        if characters == self.used:
            return pack(position + safe, state, 0, False, 0)
        left = self.used - characters
        characters = 0
        for fed in range(1, len(data) - safe + 1):
            characters += len(self.decoder.decode(data[safe + fed - 1:safe + fed]))
            if characters >= left:
                return pack(position + safe, state, fed, False, left)
        characters += len(self.decoder.decode(b"", True))
        if characters < left:
            raise OSError("can't reconstruct logical file position")
        return pack(position + safe, state, fed, True, left)

    # ---- the end

    def close(self):
        """Write what is buffered and close the file, in its turn, see BinaryFile.close."""
        return act(self, start_close, None, 0)

    async def __aenter__(self):
        self.check()
        return self

    def __aexit__(self, *error):
        return self.close()

    async def _close_bytes(self):
        await self.buffer.close()

    async def _close(self):
        if self.ending is None:
            self.ending = self.loop.create_task(self._close_in_turn())
        await shield(self.ending)

    async def _close_in_turn(self):
        await self._enter()
        try:
            await self.buffer.close()
        finally:
            self.leave()


cdef Py_ssize_t universal_end(str text, Py_ssize_t first) except -1:
    cdef Py_ssize_t lf = text.find("\n", first), cr = text.find("\r", first)
    if cr < 0 or 0 <= lf < cr:
        return lf + 1
    return cr + 2 if lf == cr + 1 else cr + 1


cdef object pack(object position, object flags, object fed, object need_end, object characters):
    """One number, which is the position itself where there is no more to say; io's has the same parts."""
    return position | flags << 64 | fed << 96 | characters << 128 | bool(need_end) << 160


cdef tuple unpack(object cookie):
    word = (1 << 32) - 1
    position = cookie & (1 << 64) - 1
    if position >> 63:
        position -= 1 << 64
    return position, cookie >> 64 & word, cookie >> 96 & word, cookie >> 160, cookie >> 128 & word


# ---- how a call begins


cdef object start_read(Action action):
    cdef TextFile file = <TextFile> action.file
    file.check_reading()
    if not file.busy and 0 <= action.size <= file.there():
        return file.take(action.size)
    action.running = file._read(action.size)


cdef object start_readline(Action action):
    cdef TextFile file = <TextFile> action.file
    cdef Py_ssize_t size
    file.check_reading()
    if not file.busy:
        size = file.line_size(0, action.size)
        if size:
            return file.take(size)
    action.running = file._readline(action.size)


cdef object start_next(Action action):
    cdef TextFile file = <TextFile> action.file
    cdef Py_ssize_t size
    file.check_reading()
    if not file.busy:
        size = file.line_size(0, -1)
        if size:
            return file.take(size)
    action.running = file._next()


cdef object start_readlines(Action action):
    cdef TextFile file = <TextFile> action.file
    file.check_reading()
    action.running = file._readlines(action.size)


cdef object start_write(Action action):
    cdef TextFile file = <TextFile> action.file
    cdef str text = file.piece(action.argument)
    if file.busy:
        action.running = file._write(text, None)
        return None
    data = file.encode(text)
    if not file.by_lines and file.buffer.takes(len(<bytes> data)):
        file.buffer.accept(data)
        return len(text)
    file.busy = True
    action.running = file._write(text, data)


cdef object start_flush(Action action):
    cdef TextFile file = <TextFile> action.file
    file.check()
    if file.busy or file.buffer.busy or file.buffer.unwritten:
        action.running = file._flush()


cdef object start_seek(Action action):
    cdef TextFile file = <TextFile> action.file
    file.check_seeking()
    cdef int whence
    cookie, how = <tuple> action.argument
    whence = how if type(how) is int else index(how)
    if whence == os.SEEK_CUR and cookie != 0:
        raise Unsupported("can't do nonzero cur-relative seeks")
    if whence == os.SEEK_END and cookie != 0:
        raise Unsupported("can't do nonzero end-relative seeks")
    if whence not in (os.SEEK_SET, os.SEEK_CUR, os.SEEK_END):
        raise ValueError(f"invalid whence ({whence}, should be 0, 1 or 2)")
    if cookie < 0:
        raise ValueError(f"negative seek position {cookie!r}")
    action.running = file._seek(index(cookie), whence)


cdef object start_tell(Action action):
    cdef TextFile file = <TextFile> action.file
    file.check_seeking()
    if file.busy or file.buffer.busy or file.buffer.unwritten:
        action.running = file._tell()
        return None
    return file.cookie()


cdef object start_close(Action action):
    cdef TextFile file = <TextFile> action.file
    if file.ending is None and file.busy and file.buffer.state == FILE_OPEN:
        action.running = file._close()
    elif file.ending is not None and not file.ending.done():
        action.running = file._close()
    else:
        action.running = file._close_bytes()
