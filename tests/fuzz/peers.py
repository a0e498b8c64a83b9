"""Far ends: plain sockets and pipes of the harness, which never block; and the bytes that all streams are made of."""

from __future__ import annotations

import os
import random
import socket
import ssl
from typing import Any

BLOCK = random.Random(1).randbytes(65_521)
LINGER_NONE = b"\1\0\0\0\0\0\0\0"


def piece(key: int, position: int, count: int) -> bytes:
    """A part of the endless stream `key`; no two parts of it look the same for long."""
    start = (position + key * 7919) % len(BLOCK)
    return (BLOCK[start:] + BLOCK * (count // len(BLOCK) + 1))[:count]


class Checker:
    """What has come of a stream; tells of the first byte that is not the next one."""

    def __init__(self, key: int, complain: Any) -> None:
        self.key, self.complain, self.count, self.whole = key, complain, 0, True

    def __call__(self, data: bytes | bytearray | memoryview) -> int:
        if self.whole and bytes(data) != piece(self.key, self.count, len(data)):
            self.whole = False
            self.complain(f"stream {self.key}: bytes lost, twice or out of order at {self.count}")
        self.count += len(data)
        return len(data)


class Pipe:
    """One end of a pipe with the calls of a socket."""

    def __init__(self, fd: int) -> None:
        os.set_blocking(fd, False)
        self.fd = fd

    def send(self, data: bytes) -> int:
        return os.write(self.fd, data)

    def recv(self, count: int) -> bytes:
        return os.read(self.fd, count)

    def shutdown(self, _: int) -> None:
        self.close()

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = -1


class Peer:
    """A far end.  It reads when told to, or all the time, and ends when all is sent that it was told to send."""

    def __init__(self, sock: Any, key: int, complain: Any) -> None:
        self.sock = sock
        self.key = key
        self.told = self.sent = 0
        self.check = Checker(key + 1, complain)
        self.reading = True
        self.thirst = 0
        self.ended: str | None = None
        self.then: str | None = None
        self.open = True
        self.shut = False

    @property
    def received(self) -> int:
        return self.check.count

    @property
    def speaks(self) -> bool:
        """Whether it has not ended its sending yet."""
        return self.open and not self.then and not self.shut

    @property
    def unsent(self) -> int:
        """How much of the stream has not been handed over yet."""
        return self.told - self.sent if self.open and not self.shut else 0

    @property
    def backlog(self) -> int:
        """How much of anything has not been handed over yet."""
        return self.unsent

    def send(self, count: int) -> None:
        if self.speaks:
            self.told += count
        self.pump()

    def end(self, how: str) -> None:
        """`shutdown` or `close`, as soon as all is sent; or `reset`, at once."""
        if not self.open:
            return
        self.then = how
        if how == "reset":
            self.told = self.sent
        self.pump()

    def pump(self) -> None:
        """Do what can be done without waiting."""
        if self.open:
            self._push()
        if self.open and self.then and not self.backlog:
            self._end()
        if self.open and not self.ended and (self.reading or self.thirst):
            self._pull()

    def _push(self) -> None:
        while self.unsent:
            try:
                self.sent += self._send(piece(self.key, self.sent, min(self.unsent, 1 << 17)))
            except (BlockingIOError, ssl.SSLWantReadError):
                return
            except OSError:
                self.shut = True

    def _end(self) -> None:
        how, self.then = self.then, None
        if how == "shutdown":
            self.shut = True
            self._shutdown()
        else:
            if how == "reset" and isinstance(self.sock, socket.socket) and self.sock.family == socket.AF_INET:
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NONE)
            self.close()

    def _pull(self) -> None:
        for _ in range(64):
            limit = 1 << 16 if self.reading else min(self.thirst, 1 << 16)
            if not limit:
                return
            try:
                data = self._recv(limit)
            except (BlockingIOError, ssl.SSLWantReadError):
                return
            except OSError:
                self.ended = self.ended or "reset"
                return
            if not data:
                self.ended = "eof"
                return
            self.check(data)
            self.thirst = max(0, self.thirst - len(data))

    def _send(self, data: bytes) -> int:
        return self.sock.send(data)

    def _recv(self, limit: int) -> bytes:
        return self.sock.recv(limit)

    def _shutdown(self) -> None:
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def close(self) -> None:
        self.open = False
        self.sock.close()


class TlsPeer(Peer):
    """A far end that speaks TLS: what is to be sent stands in `outgoing` until the socket takes it."""

    def __init__(self, sock: Any, key: int, complain: Any, context: ssl.SSLContext, *, server_side: bool) -> None:
        super().__init__(sock, key, complain)
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(
            self.incoming, self.outgoing, server_side=server_side, server_hostname=None if server_side else "localhost"
        )
        self.rest = b""
        self.shaken = False
        self.raw = 0

    @property
    def backlog(self) -> int:
        return self.unsent or (len(self.rest) + self.outgoing.pending if self.open and not self.shut else 0)

    def pump(self) -> None:
        if self.open and not self.shaken:
            self._shake()
        if self.shaken or not self.open:
            super().pump()
        if self.open:
            self._flush()

    def has_unread(self) -> bool:
        """Whether anything has come that is not read, tickets of the handshake too: to close resets the connection."""
        try:
            return self.open and bool(self.sock.recv(1, socket.MSG_PEEK))
        except OSError:
            return False

    def _shake(self) -> None:
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                self._flush()
                if not self._fetch():
                    return
            except ssl.SSLError:
                self.ended = "reset"
                return
            else:
                self.shaken = True
                return

    def _fetch(self) -> bool:
        """Whether anything came."""
        try:
            data = self.sock.recv(1 << 16)
        except BlockingIOError:
            return False
        except OSError:
            self.ended = "reset"
            return False
        if data:
            self.incoming.write(data)
        else:
            self.ended = "cut"
        return bool(data)

    def _flush(self) -> bool:
        """Whether all has been taken."""
        while self.rest or self.outgoing.pending:
            self.rest = self.rest or self.outgoing.read()
            try:
                count = self.sock.send(self.rest)
            except BlockingIOError:
                return False
            except OSError:
                self.rest = b""
                self.outgoing.read()
                self.shut = True
                return False
            self.raw += count
            self.rest = self.rest[count:]
        return True

    def _send(self, data: bytes) -> int:
        if not self._flush():
            raise BlockingIOError
        return self.tls.write(data)

    def _recv(self, limit: int) -> bytes:
        while True:
            try:
                if not (data := self.tls.read(limit)):
                    self._shutdown()
                return data
            except ssl.SSLZeroReturnError:
                return b""  # it has said its own end before
            except ssl.SSLWantReadError:
                if not self._fetch():
                    if self.ended:
                        raise OSError from None
                    raise

    def _shutdown(self) -> None:
        try:
            self.tls.unwrap()
        except ssl.SSLError:
            pass
        self._flush()
