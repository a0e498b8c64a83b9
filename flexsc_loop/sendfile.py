"""Floor 5: `sendfile` and `sock_sendfile`: what is native, and what else is read and written in large pieces.

Source: asyncio.base_events; sendfile(2), preadv2(2).
"""

from __future__ import annotations

import asyncio
import io
import os
import socket
import stat
import sys
from asyncio import base_events, constants
from typing import Any

from flexsc_loop.cold import _Host
from flexsc_loop.transports.sendfile import send_over_socket, send_over_stream

PIECE = max(constants.SENDFILE_FALLBACK_READBUFFER_SIZE, 256 * 1024)
PLAIN_FILES = (io.FileIO, io.BufferedReader, io.BufferedRandom)


class _StreamSocket:
    """What asyncio's check of the arguments wants to know of a connection's socket."""

    type = socket.SOCK_STREAM


class _FileWriter(base_events._SendfileFallbackProtocol):  # type: ignore[misc, name-defined]
    """Stands in for a transport's protocol while a file is written to it.

    asyncio's own, for transports that are not derived from asyncio's flow control.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, transport: Any) -> None:
        self._loop = loop
        self._transport = transport
        self._proto = transport.get_protocol()
        self._should_resume_reading = transport.is_reading()
        self._should_resume_writing = is_paused(transport)
        self._write_ready_fut = loop.create_future() if self._should_resume_writing else None
        transport.pause_reading()
        transport.set_protocol(self)
        resume_instead(transport, self)

    def pause_writing(self) -> None:
        if self._write_ready_fut is None:
            self._write_ready_fut = self._loop.create_future()

    def resume_writing(self) -> None:
        # Whoever waited may have been cancelled meanwhile.
        future, self._write_ready_fut = self._write_ready_fut, None
        if future is not None and not future.done():
            future.set_result(False)

    def eof_received(self) -> None:
        """The peer's end, of which a TLS connection tells that is closed while reading is paused: no mistake."""

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._write_ready_fut is not None and self._write_ready_fut.done():
            self._write_ready_fut = None
        super().connection_lost(exc)
        self._write_ready_fut = None

    async def restore(self) -> None:
        """Give the transport back to its protocol, which is told what has changed for it: that it may write, or not."""
        paused = self._write_ready_fut is not None
        told, self._should_resume_writing = self._should_resume_writing, self._should_resume_writing and not paused
        await super().restore()
        if paused:
            resume_instead(self._transport, self._proto)
            if not told:
                self._proto.pause_writing()


def resume_instead(transport: Any, protocol: Any) -> None:
    """Have `protocol` told when writing may go on, where a transport remembers whom it has paused."""
    if hasattr(transport, "_resume_instead"):
        transport._resume_instead(protocol)


def is_paused(transport: Any) -> bool:
    """Whether the transport has told its protocol to write no more."""
    paused = getattr(transport, "_protocol_paused", None)
    if paused is None:
        paused = transport.get_write_buffer_size() > transport.get_write_buffer_limits()[1]
    return bool(paused)


def has_position(file: Any) -> bool:
    """Whether the file can be told where to go on."""
    seekable = getattr(file, "seekable", None)
    return hasattr(file, "seek") if seekable is None else bool(seekable())


class _Pieces:
    """A file's content in large pieces: at once what the kernel has in its cache, the rest from a thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, file: Any, offset: int) -> None:
        self._loop = loop
        self._file = file
        self._at: int | None = None
        if type(file) in PLAIN_FILES and stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            self._at = offset or file.tell()

    async def read(self, size: int) -> bytes:
        """Up to `size` bytes; b"" at the end."""
        data: bytes | None = self._cached(size)
        if data is None:
            data = await self._loop.run_in_executor(None, self._file.read, size)
            if self._at is not None:
                self._at += len(data or b"")
        return data or b""

    def _cached(self, size: int) -> bytes | None:
        if self._at is None:
            return None
        buffer = bytearray(size)
        try:
            count = os.preadv(self._file.fileno(), [buffer], self._at, os.RWF_NOWAIT)
        except (AttributeError, OSError):
            # Not in the cache, or a file system or a C library that can't tell.
            self._file.seek(self._at)
            return None
        self._at += count
        return bytes(memoryview(buffer)[:count])


class Files(_Host):
    """sendfile(2) where it can be had, and its replacement over TLS and for other files."""

    async def _sendfile_native(self, transp: Any, file: Any, offset: int, count: int | None) -> int:
        self._check_sendfile_params(_StreamSocket, file, offset, count)
        turn: Any = self
        return await send_over_stream(turn, transp, file, offset, count)

    async def _sock_sendfile_native(self, sock: Any, file: Any, offset: int, count: int | None) -> int:
        turn: Any = self
        return await send_over_socket(turn, sock, file, offset, count)

    async def _sendfile_fallback(self, transp: Any, file: Any, offset: int, count: int | None) -> int:
        # Without an offset, asyncio reads from where the file stands, and since Python 3.14 from its beginning.
        if offset or (sys.version_info >= (3, 14) and has_position(file)):
            file.seek(offset)
        pieces = _Pieces(self, file, offset)
        writer = _FileWriter(self, transp)
        sent = 0
        try:
            while count is None or sent < count:
                data = await pieces.read(PIECE if count is None else min(PIECE, count - sent))
                if not data:
                    break
                await writer.drain()
                transp.write(data)
                sent += len(data)
            return sent
        finally:
            if sent and has_position(file):
                file.seek(offset + sent)
            await writer.restore()
