"""Floor 4: reading and writing what has no position: pipes, FIFOs, terminals, sockets, devices.

Owns: the wait until there is something to be read, or room: it can be given up at any time without losing a byte, which
a thread that blocks in the call can't.  Imports: asyncio.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
from collections.abc import Callable, Sequence
from typing import Any

AT_ONCE = 1 << 12  # a pipe that has room takes so much without blocking (PIPE_BUF)


def pwritev_now(fd: int, buffers: Sequence[bytes | bytearray]) -> int:
    """os.pwritev without waiting: BlockingIOError if it would, another OSError where nobody can say.

    That is a kind of file, or a C library that Python was compiled with, that does not know the flag.
    """
    return os.pwritev(fd, buffers, -1, _nowait())


def _nowait() -> int:
    flag: int = getattr(os, "RWF_NOWAIT", 0)
    if not flag:
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))
    return flag


async def read(loop: asyncio.AbstractEventLoop, calls: Any, fd: int, size: int) -> bytes:
    """Up to `size` bytes, once there are any; none at the end."""
    while await _ready(loop, fd, loop.add_reader, loop.remove_reader):
        data = bytearray(size)
        try:
            return bytes(data[: os.preadv(fd, [data], -1, _nowait())])
        except BlockingIOError:
            continue  # another process was faster
        except OSError:
            break
    return await calls.read(fd, size)  # type: ignore[no-any-return]


async def write(loop: asyncio.AbstractEventLoop, calls: Any, fd: int, data: bytes) -> int:
    """Write some of `data`, once there is room; the number of bytes."""
    while await _ready(loop, fd, loop.add_writer, loop.remove_writer):
        try:
            return pwritev_now(fd, [data])
        except BlockingIOError:
            continue
        except BrokenPipeError:
            raise
        except OSError:
            data = data[:AT_ONCE]
            break
    return await calls.write(fd, data)  # type: ignore[no-any-return]


async def _ready(
    loop: asyncio.AbstractEventLoop, fd: int, add: Callable[..., object], remove: Callable[[int], object]
) -> bool:
    """Wait until `fd` is ready.  False: it is not of the kind that can be waited for."""
    # A number of its own, since a program may have the loop watch this one.
    own = os.dup(fd)
    try:
        waiter = loop.create_future()
        try:
            add(own, _done, waiter)
        except (OSError, ValueError, NotImplementedError):
            return False
        try:
            await waiter
        finally:
            remove(own)
    finally:
        with contextlib.suppress(OSError):
            os.close(own)
    return True


def _done(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
