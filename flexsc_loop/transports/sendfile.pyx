# cython: language_level=3, cdivision=True
"""Floor 4: sendfile(2) over the loop's own connections and over sockets that stay their caller's.

Owns: how far a file has got.  Imports: readiness, reading, stream, page, turn.

sendfile(2) is called at once, in the caller's turn, and again as long as the socket takes what it is given; then it
waits on the interest list.  io_uring has no sendfile, and a chain of splices goes through the kernel's pipe code twice.
What was written before the file leaves in the same segment as its first bytes.
"""
import asyncio
import io
import os
import sys
from asyncio import exceptions

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.errno cimport errno as last_error
from libc.stdint cimport INT64_MAX, int64_t
from posix.stat cimport S_ISREG, fstat, struct_stat
from posix.unistd cimport pread

from flexsc_loop.syscalls.interest cimport EPOLLOUT
from flexsc_loop.syscalls.page cimport EAGAIN, EBADF, EINTR
from flexsc_loop.syscalls.stats cimport stats_sent
from flexsc_loop.transports.readiness cimport Wait, wait_until
from flexsc_loop.transports.reading cimport FLOWING
from flexsc_loop.transports.stream cimport Stream
from flexsc_loop.turn.turn cimport Turn


cdef extern from "<errno.h>" nogil:
    enum:
        EINVAL
        ENOSYS
        ENOTCONN
        EOPNOTSUPP
        EOVERFLOW
        ESPIPE

cdef extern from "<sys/sendfile.h>" nogil:
    Py_ssize_t sendfile(int out, int file, int64_t* offset, size_t count)

cdef extern from "<sys/socket.h>" nogil:
    enum:
        MSG_DONTWAIT
        MSG_MORE
        MSG_NOSIGNAL
    Py_ssize_t send(int fd, const void* data, size_t size, int flags)
    int setsockopt(int fd, int level, int name, const void* value, unsigned int size)

cdef extern from "<sys/uio.h>" nogil:
    enum:
        RWF_NOWAIT
    struct iovec:
        void* iov_base
        size_t iov_len

cdef extern from "late_calls.h" nogil:
    Py_ssize_t late_preadv2(int fd, const iovec* vector, int count, int64_t offset, int flags)

cdef extern from "<netinet/tcp.h>" nogil:
    enum:
        IPPROTO_TCP "6"
        TCP_CORK

cdef enum:
    TURN_MOST = 1024 * 1024          # of one file in one turn, so that a fast reader does not hold up the others
    CALL_MOST = 512 * 1024           # of one call
    READ_UP_TO = 16 * 1024           # so little is read and written: cheaper than a call of its own
    LEAD_UP_TO = 64 * 1024           # what was written before and is sent from here

cdef bint MOVES_ALWAYS = sys.version_info >= (3, 14)

cdef enum Progress:
    DONE
    BLOCKED                          # the socket takes no more just now
    AGAIN                            # it might, but others have a right to this turn


cdef class FileSend:
    """One file, or a part of one, on its way into one socket."""
    cdef Turn turn
    cdef Stream stream               # the connection, or None
    cdef object sock                 # the caller's socket, or None
    cdef int fd
    cdef object file
    cdef int file_fd
    cdef int64_t offset, size, left, sent
    cdef bint cork                   # the socket holds data back until the file's first bytes come

    cdef int open(self, object file, object offset, object count) except -1:
        """Look at the file.  Raises SendfileNotAvailableError for what is no regular file."""
        cdef struct_stat found
        self.file = file
        self.offset = offset
        try:
            self.file_fd = file.fileno()
        except (AttributeError, io.UnsupportedOperation):
            raise exceptions.SendfileNotAvailableError("not a regular file") from None
        if fstat(self.file_fd, &found) != 0 or not S_ISREG(found.st_mode):
            raise exceptions.SendfileNotAvailableError("not a regular file")
        self.size = found.st_size
        self.left = INT64_MAX if count is None else count
        return 0

    cdef int check(self) except -1:
        """After a wait: anybody may have closed the file or the caller's socket, and the numbers be others' now."""
        if self.file.fileno() != self.file_fd:
            raise OSError(EBADF, "the file was closed while it was sent")
        if self.sock is not None and self.sock.fileno() != self.fd:
            raise OSError(EBADF, "the socket was closed while a file was sent")
        return 0

    cdef bint is_small(self) except -1:
        """Whether reading and writing is the cheapest: the file then leaves together with what was written before."""
        cdef Stream stream = self.stream
        return (0 < min(self.left, self.size - self.offset) <= READ_UP_TO
                and stream.unsent <= READ_UP_TO and not stream.sending())

    cdef int write_small(self) except -1:
        cdef int64_t size = min(self.left, self.size - self.offset)
        cdef bytes data = PyBytes_FromStringAndSize(NULL, size)
        cdef Py_ssize_t got
        while self.sent < size:
            self.turn.page.direct_calls += 1
            got = pread(self.file_fd, PyBytes_AS_STRING(data) + self.sent, size - self.sent, self.offset + self.sent)
            if got < 0 and last_error == EINTR:
                continue
            if got < 0:
                raise OSError(last_error, os.strerror(last_error))
            if got == 0:
                data = data[:self.sent]
                break
            self.sent += got
        self.offset += self.sent
        self.stream.write(data)
        return 0

    cdef bint send_lead(self) except -1:
        """Send what was written before.  Returns whether the kernel has all of it."""
        cdef Stream stream = self.stream
        cdef Py_ssize_t count
        if stream.unsent == 0:
            return True
        if stream.sending() or stream.unsent > LEAD_UP_TO:
            return False
        data = b"".join(stream.outbox) if isinstance(stream.outbox, list) else stream.outbox
        self.turn.page.direct_calls += 1
        count = send(self.fd, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), MSG_DONTWAIT | MSG_NOSIGNAL | MSG_MORE)
        if count <= 0:
            # The usual way meets the same error and knows what to do.
            return False
        self.cork = True
        stats_sent(&self.turn.stats, count)
        stream.unsent -= count
        stream.outbox = data[count:] or None
        if stream.paused_protocol is not None:
            stream.wake_up()
        return stream.unsent == 0

    cdef int uncork(self) except -1:
        """Nothing of the file came after all: let go what was held back for it."""
        cdef int off = 0
        if self.cork and self.sent == 0:
            self.turn.page.direct_calls += 1
            setsockopt(self.fd, IPPROTO_TCP, TCP_CORK, &off, sizeof(off))
        return 0

    cdef Progress step(self) except *:
        """Send what the socket takes, up to one turn's share.  Raises OSError."""
        cdef int64_t share = TURN_MOST
        cdef int64_t asked
        cdef Py_ssize_t count
        cdef int error
        while share > 0:
            asked = min(self.left, <int64_t> CALL_MOST)
            if asked == 0:
                return DONE
            count = self.call(asked)
            error = last_error
            if count < 0:
                if error == EINTR:
                    continue
                if error == EAGAIN:
                    return BLOCKED
                self.fail(error)
            if count == 0:
                return DONE
            stats_sent(&self.turn.stats, count)
            self.sent += count
            self.left -= count
            share -= count
            if count < asked and self.offset < self.size:
                return BLOCKED
        return AGAIN if self.left else DONE

    cdef Py_ssize_t call(self, int64_t asked) noexcept:
        """sendfile(2).  The GIL is let go only if the disk is to be waited for: to get it back from a busy thread can
        take longer than the call.
        """
        cdef Py_ssize_t count
        self.turn.page.direct_calls += 1
        if self.is_cached(min(asked, self.size - self.offset)):
            return sendfile(self.fd, self.file_fd, &self.offset, asked)
        with nogil:
            count = sendfile(self.fd, self.file_fd, &self.offset, asked)
        return count

    cdef bint is_cached(self, int64_t asked) noexcept:
        """Whether the first and the last of the bytes that are next lie in the kernel's page cache."""
        return asked > 0 and self.has_cached(self.offset) and self.has_cached(self.offset + asked - 1)

    cdef bint has_cached(self, int64_t at) noexcept:
        cdef char byte
        cdef iovec one
        one.iov_base = &byte
        one.iov_len = 1
        self.turn.page.direct_calls += 1
        return late_preadv2(self.file_fd, &one, 1, at, RWF_NOWAIT) == 1

    cdef int fail(self, int error) except -1:
        if self.sent == 0 and error in (EBADF, EINVAL, ENOSYS, EOPNOTSUPP, EOVERFLOW, ESPIPE):
            raise exceptions.SendfileNotAvailableError("os.sendfile call failed")
        if error == ENOTCONN:
            raise ConnectionError(ENOTCONN, "socket is not connected")
        raise OSError(error, os.strerror(error))

    cdef int settle(self) except -1:
        """Leave the file's position behind the last byte sent, whatever happened.

        If there was none: where it would have begun, as asyncio does since Python 3.14, or untouched.
        """
        self.uncork()
        if self.sent == 0 and not MOVES_ALWAYS:
            return 0
        try:
            self.file.seek(self.offset)
        except (AttributeError, ValueError, OSError):
            # It has no position, or somebody has closed it.
            return 0
        return 0

    async def run(self):
        """Send all of it; returns how many bytes."""
        cdef Progress progress
        cdef Wait wait = None
        cdef int64_t before
        if self.turn is None:
            raise RuntimeError("there is no file to send")
        while True:
            before = self.sent
            progress = self.step()
            if progress == DONE:
                return self.sent
            if progress == BLOCKED:
                wait = wait_until(self.turn, self.fd, EPOLLOUT, wait if self.sent == before else None)
                await wait
            else:
                wait = None
                await asyncio.sleep(0)
            self.check()


async def send_over_stream(Turn turn not None, transport, file, offset, count):
    """Send a regular file over a connection of this loop, after all that was written before; returns how many bytes.

    Reading is paused and writes are refused meanwhile.  A small file is read and written instead.
    Raises SendfileNotAvailableError if it is no regular file, OSError when the connection fails.
    """
    cdef FileSend job = FileSend.__new__(FileSend)
    cdef Stream stream = transport._core
    cdef bint resume
    job.turn = turn
    job.stream = stream
    job.fd = stream.fd
    if stream.held:
        raise RuntimeError("sendfile is in progress already")
    job.open(file, offset, count)
    if job.is_small():
        job.write_small()
        job.settle()
        return job.sent
    resume = stream.reading == FLOWING
    stream.pause_reading()
    stream.held = True
    try:
        if not job.send_lead():
            stream.wants_flush()
            await stream.when_drained()
        return await job.run()
    finally:
        stream.held = False
        job.settle()
        stream.wake_up()
        if resume:
            stream.resume_reading()


async def send_over_socket(Turn turn not None, sock, file, offset, count):
    """Send a regular file over a non-blocking socket of the caller; returns how many bytes.

    Raises SendfileNotAvailableError if it is no regular file, OSError when the connection fails.
    """
    cdef FileSend job = FileSend.__new__(FileSend)
    job.turn = turn
    job.sock = sock
    job.fd = sock.fileno()
    job.open(file, offset, count)
    try:
        return await job.run()
    finally:
        job.settle()
