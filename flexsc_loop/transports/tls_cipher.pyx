# cython: language_level=3, cdivision=True
"""Floor 4: one end of TLS without any connection: ciphertext in, data out, and the other way round.

Owns: what was received and not decrypted, what was written and not encrypted.  Python's `ssl` module does the
cryptography, on two memory BIOs.  Imports: records.h.

The headers of the records that have come say how many are complete, so `read` is called exactly that often and does
not have to fail in order to say that it has come to the end.  Whenever something else than application data comes, or
a read says so all the same (tickets and key updates look like data), reads go on until there is nothing left.
"""
import ssl

from cpython.buffer cimport PyBUF_READ, PyBUF_WRITE
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE, _PyBytes_Resize
from cpython.memoryview cimport PyMemoryView_FromMemory
from cpython.object cimport PyObject
from cpython.ref cimport Py_XDECREF
from libc.stdint cimport uint8_t

from flexsc_loop.syscalls.cpython_extra cimport new_bytes


cdef enum:
    JOIN_LEAST = 16 * 1024           # smaller writes are copied together: one record holds so much
    ENCRYPTED_ITEMS = 256            # so many items of a backlog that have been encrypted are worth removing

cdef object AGAIN = (ssl.SSLWantReadError, ssl.SSLSyscallError)
cdef object ZERO_RETURN = ssl.SSLZeroReturnError
cdef object SSLError = ssl.SSLError


cdef Cipher new_cipher(object context, bint server_side, object hostname):
    """An end that has not begun its handshake.  Raises what ssl.SSLContext.wrap_bio does."""
    cdef Cipher cipher = Cipher.__new__(Cipher)
    cipher.incoming = ssl.MemoryBIO()
    cipher.outgoing = ssl.MemoryBIO()
    cipher.tls = context.wrap_bio(
        cipher.incoming, cipher.outgoing, server_side=server_side, server_hostname=hostname)
    cipher.direct = type(cipher.tls) is ssl.SSLObject
    # What is below SSLObject's own methods in Python does the same.
    methods = cipher.tls._sslobj if cipher.direct else cipher.tls
    cipher.read_some = methods.read
    cipher.write_some = methods.write
    cipher.put_incoming = cipher.incoming.write
    cipher.take_outgoing = cipher.outgoing.read
    return cipher


cdef class Cipher:
    """The state of one end."""

    # ---- decrypting

    cdef int scan(self, bytes data, flexsc_scan* scan) except -1:
        """Say how many reads the next bytes of the stream allow."""
        records_scan(&self.records, <const uint8_t*> PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), scan)
        return 0

    cdef int put(self, bytes data) except -1:
        """Have `data`, whatever it completes, decrypted by `read_all` or by the handshake."""
        cdef flexsc_scan scan
        self.scan(data, &scan)
        self.put_incoming(data)
        self.unclear = self.unclear or scan.odd or scan.complete
        return 0

    cdef object read_one(self, size_t room, object view):
        """Decrypt one record: new bytes, or how many went to `view`; None when reading has to stop (`interrupted`)."""
        try:
            got = self.read_some(room) if view is None else self.read_some(room, view)
        except AGAIN:
            self.interrupted = True
            return None
        except ZERO_RETURN:
            self.interrupted = self.ended = True
            return None
        except SSLError as error:
            self.interrupted = True
            self.broken = error
            return None
        if not got:
            self.interrupted = self.ended = True
            return None
        return got

    cdef bytes read_record(self, size_t room):
        """What the only complete record holds, in a body of `room` bytes."""
        data = self.read_one(room, None)
        if data is not None and <size_t> PyBytes_GET_SIZE(data) >= room:
            self.look_for_more()
        return data

    cdef bytes read_records(self, bytes data, size_t room):
        """What several records hold, in bodies of `room` bytes: `data`, not scanned or put yet, completes them.

        All is decrypted into one bytes object, piece by piece while it is in the cache.
        """
        cdef PyObject* target = new_bytes(NULL, room)
        cdef char* source = PyBytes_AS_STRING(data)
        cdef size_t at = 0, step, done = 0, size = PyBytes_GET_SIZE(data)
        cdef flexsc_scan scan
        try:
            while at < size:
                step = min(size - at, <size_t> PIECE)
                records_scan(&self.records, <const uint8_t*> source + at, step, &scan)
                self.put_incoming(data if step == size else PyMemoryView_FromMemory(source + at, step, PyBUF_READ))
                at += step
                if not self.interrupted:
                    done += self.read_into(PyBytes_AS_STRING(<bytes> target) + done, room - done, scan.complete)
                elif scan.complete:
                    self.unclear = True
            if done == 0:
                return None
            if done < room:
                _PyBytes_Resize(&target, done)
            return <bytes> target
        finally:
            Py_XDECREF(target)

    cdef size_t read_into(self, char* target, size_t room, size_t count) except? 0:
        """Decrypt `count` records to `target`; returns how many bytes that were."""
        cdef size_t done = 0
        while count and done < room:
            count -= 1
            got = self.read_one(room - done, PyMemoryView_FromMemory(target + done, room - done, PyBUF_WRITE))
            if got is None:
                return done
            done += <size_t> got
        if room and done == room:
            self.look_for_more()
        return done

    cdef int look_for_more(self) except -1:
        """As much came as was asked for: is there more in the record?  Only without encryption, or with compression."""
        if self.tls.pending():
            self.unclear = True
        return 0

    cdef bytes read_all(self):
        """Read until there is nothing left; None if there was nothing."""
        self.unclear = False
        chunks = []
        while (chunk := self.read_one(PIECE, None)) is not None:
            chunks.append(chunk)
        if not chunks:
            return None
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    cdef int skip_all(self) except -1:
        """Read and forget."""
        self.unclear = False
        while self.read_one(PIECE, None) is not None:
            pass
        return 0

    # ---- encrypting

    cdef int add(self, bytes data) except -1:
        """Have `data` encrypted after everything added before."""
        if self.backlog is None:
            self.backlog = data
        elif isinstance(self.backlog, list):
            (<list> self.backlog).append(data)
        else:
            self.backlog = [self.backlog, data]
        self.waiting += PyBytes_GET_SIZE(data)
        return 0

    cdef bytes encrypt(self):
        """Encrypt a piece of what waits.  With it comes what else there is to be sent; empty if `blocked`."""
        piece = self.next_piece()
        try:
            count = self.write_some(piece)
        except AGAIN:
            self.blocked = True
        else:
            self.advance(count)
        return self.take_outgoing()

    cdef object next_piece(self):
        """What to encrypt next: one large write or a part of it, or several small ones."""
        cdef size_t rest, total
        cdef Py_ssize_t last
        if isinstance(self.backlog, list):
            if self.at == 0 and self.offset == 0 and self.waiting <= PIECE:
                self.backlog = b"".join(<list> self.backlog)
                return self.backlog
            item = (<list> self.backlog)[self.at]
        else:
            item = self.backlog
            if self.waiting <= PIECE and self.offset == 0:
                return item
        rest = PyBytes_GET_SIZE(item) - self.offset
        if rest >= JOIN_LEAST or not isinstance(self.backlog, list):
            return PyMemoryView_FromMemory(PyBytes_AS_STRING(item) + self.offset, min(rest, <size_t> PIECE),
                                           PyBUF_READ)
        last = self.at
        total = rest
        while last + 1 < len(<list> self.backlog):
            total += PyBytes_GET_SIZE((<list> self.backlog)[last + 1])
            if total > PIECE:
                break
            last += 1
        parts = (<list> self.backlog)[self.at:last + 1]
        parts[0] = item[self.offset:]
        return b"".join(parts)

    cdef int advance(self, size_t count) except -1:
        """`count` bytes of the backlog have been encrypted."""
        cdef size_t size
        self.waiting -= count
        if self.waiting == 0:
            return self.forget()
        self.offset += count
        if not isinstance(self.backlog, list):
            return 0
        while True:
            size = PyBytes_GET_SIZE((<list> self.backlog)[self.at])
            if self.offset < size:
                break
            self.offset -= size
            (<list> self.backlog)[self.at] = b""
            self.at += 1
        if self.at >= ENCRYPTED_ITEMS:
            del (<list> self.backlog)[:self.at]
            self.at = 0
        return 0

    cdef int forget(self) except -1:
        """Drop the backlog."""
        self.backlog = None
        self.waiting = self.at = self.offset = 0
        return 0
