"""Floor 4: file calls on any other loop: the vocabulary of `calls`, made by that loop's executor.

Owns: what a thread does for one call, and what becomes of it when nobody waits for it any more.  Imports: os, asyncio.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import stat
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar, TypeVarTuple

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")
Buffer = Any
Path = str | bytes | os.PathLike[str] | os.PathLike[bytes]


class ExecutorCalls:
    """The file calls of one loop, in its default executor.  Each method returns an awaitable for the result."""

    served_by = "executor"

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop

    def run(self, function: Callable[[*_Ts], _T], *args: *_Ts) -> Awaitable[_T]:
        """Have `function(*args)` called in a thread."""
        return self.loop.run_in_executor(None, function, *args)

    def describe(self, fd: int) -> tuple[int, int, int, int]:
        """Its kind (stat.S_IFMT), its size, the block size, and the position or -1 if it has none."""
        about = os.fstat(fd)
        position = -1
        with contextlib.suppress(OSError):
            position = os.lseek(fd, 0, os.SEEK_CUR)
        return stat.S_IFMT(about.st_mode), about.st_size, about.st_blksize, position

    # ---- at an offset

    def pread(self, fd: int, size: int, offset: int) -> Awaitable[bytes]:
        """Read up to `size` bytes at `offset`: fewer at the end of the file only."""
        return self.run(_pread, fd, size, offset)

    async def pread_into(self, fd: int, buffer: Buffer, offset: int) -> int:
        """Read into `buffer`, which is not touched any more once nobody waits for the result."""
        return await self.preadv(fd, [buffer], offset)

    async def preadv(self, fd: int, buffers: Sequence[Buffer], offset: int) -> int:
        """Read into several buffers, one after the other."""
        views = [memoryview(buffer).cast("B") for buffer in buffers]
        data = await self.run(_pread, fd, sum(map(len, views)), offset)
        start = 0
        for view in views:
            part = data[start : start + len(view)]
            view[: len(part)] = part
            start += len(part)
        return len(data)

    def pwrite(self, fd: int, data: Buffer, offset: int, flags: int = 0) -> Awaitable[int]:
        """Write all of `data` at `offset`; fewer bytes when an error came after some of them."""
        return self.run(_pwrite, fd, data, offset, flags)

    def pwritev(self, fd: int, buffers: Sequence[Buffer], offset: int, flags: int = 0) -> Awaitable[int]:
        """Write several buffers, one after the other."""
        return self.run(_pwrite, fd, b"".join(buffers), offset, flags)

    def append(self, fd: int, data: Buffer) -> Awaitable[int]:
        """Write at the end of a file that was opened with O_APPEND."""
        return self.run(_write, fd, data)

    # ---- at the kernel's own position, or without any

    def read(self, fd: int, size: int) -> Awaitable[bytes]:
        """Read once."""
        return self.run(os.read, fd, size)

    def write(self, fd: int, data: Buffer) -> Awaitable[int]:
        """Write once."""
        return self.run(os.write, fd, data)

    # ---- the file as a whole

    def fsync(self, fd: int) -> Awaitable[None]:
        """Write what is in the page cache to the disk.  Source: fsync(2)."""
        return self.run(os.fsync, fd)

    def fdatasync(self, fd: int) -> Awaitable[None]:
        """The same without times and the like.  Source: fdatasync(2)."""
        return self.run(os.fdatasync, fd)

    def ftruncate(self, fd: int, size: int) -> Awaitable[None]:
        """Give the file a size."""
        return self.run(os.ftruncate, fd, size)

    def fallocate(self, fd: int, mode: int, offset: int, size: int) -> Awaitable[None]:
        """Have room on the disk.  Source: posix_fallocate(3); other modes are not to be had from Python."""
        if mode:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        return self.run(os.posix_fallocate, fd, offset, size)

    def fadvise(self, fd: int, offset: int, size: int, advice: int) -> Awaitable[None]:
        """Tell the kernel what will be read.  Source: posix_fadvise(2)."""
        return self.run(os.posix_fadvise, fd, offset, size, advice)

    def copy_file_range(
        self, source: int, target: int, count: int, offset_in: int | None = None, offset_out: int | None = None
    ) -> Awaitable[int]:
        """Copy from one file to another in the kernel.  Source: copy_file_range(2)."""
        return self.run(os.copy_file_range, source, target, count, offset_in, offset_out)

    # ---- by name

    def open(self, path: Path, flags: int, mode: int = 0o777, dir_fd: int | None = None) -> Coroutine[Any, Any, int]:
        """Open; if nobody waits for the descriptor any more, it is closed."""
        return self.new_fd(lambda: os.open(path, flags, mode, dir_fd=dir_fd))

    async def new_fd(self, function: Callable[[], int]) -> int:
        """The descriptor that `function` makes in a thread."""
        opening = _Opening(function)
        try:
            return await self.run(opening.run)
        except asyncio.CancelledError:
            opening.abandon()
            raise

    def close(self, fd: int) -> Awaitable[None]:
        """Close a descriptor."""
        return self.run(os.close, fd)

    def stat(
        self, path: int | Path, *, follow_symlinks: bool = True, dir_fd: int | None = None
    ) -> Awaitable[os.stat_result]:
        """Source: os.stat."""
        return self.run(lambda: os.stat(path, dir_fd=dir_fd, follow_symlinks=follow_symlinks))

    def rename(
        self, src: Path, dst: Path, *, src_dir_fd: int | None = None, dst_dir_fd: int | None = None
    ) -> Awaitable[None]:
        """Source: os.rename."""
        return self.run(lambda: os.rename(src, dst, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd))

    def replace(
        self, src: Path, dst: Path, *, src_dir_fd: int | None = None, dst_dir_fd: int | None = None
    ) -> Awaitable[None]:
        """Source: os.replace."""
        return self.run(lambda: os.replace(src, dst, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd))

    def unlink(self, path: Path, *, dir_fd: int | None = None) -> Awaitable[None]:
        """Source: os.unlink."""
        return self.run(lambda: os.unlink(path, dir_fd=dir_fd))

    def rmdir(self, path: Path, *, dir_fd: int | None = None) -> Awaitable[None]:
        """Source: os.rmdir."""
        return self.run(lambda: os.rmdir(path, dir_fd=dir_fd))

    def mkdir(self, path: Path, mode: int = 0o777, *, dir_fd: int | None = None) -> Awaitable[None]:
        """Source: os.mkdir."""
        return self.run(lambda: os.mkdir(path, mode, dir_fd=dir_fd))

    def link(
        self, src: Path, dst: Path, *, src_dir_fd: int | None = None, dst_dir_fd: int | None = None,
        follow_symlinks: bool = True,
    ) -> Awaitable[None]:
        """Source: os.link."""
        more: dict[str, Any] = {"src_dir_fd": src_dir_fd, "dst_dir_fd": dst_dir_fd}
        return self.run(lambda: os.link(src, dst, follow_symlinks=follow_symlinks, **more))

    def symlink(
        self, src: Path, dst: Path, target_is_directory: bool = False, *, dir_fd: int | None = None
    ) -> Awaitable[None]:
        """Source: os.symlink."""
        return self.run(lambda: os.symlink(src, dst, target_is_directory, dir_fd=dir_fd))

    # ---- small files

    def read_whole(self, path: Path) -> Awaitable[bytes]:
        """Open, read to the end, close."""
        return self.run(_read_whole, path)

    def write_whole(self, path: Path, data: Buffer, flags: int, mode: int = 0o666) -> Awaitable[int]:
        """Open, write all of it, close; the bytes written."""
        return self.run(_write_whole, path, data, flags, mode)


class _Opening:
    """A descriptor on its way from a thread to the loop: closed by whoever comes last if nobody wants it."""

    def __init__(self, function: Callable[[], int]) -> None:
        self.function = function
        self.made: list[int] = []
        self.abandoned = False

    def run(self) -> int:
        fd = self.function()
        self.made.append(fd)
        if self.abandoned:
            self.close()
        return fd

    def abandon(self) -> None:
        self.abandoned = True
        self.close()

    def close(self) -> None:
        with contextlib.suppress(IndexError):
            os.close(self.made.pop())


def _pread(fd: int, size: int, offset: int) -> bytes:
    data = os.pread(fd, size, offset)
    if len(data) == size or not data:
        return data
    parts, done = [data], len(data)
    while done < size:
        data = os.pread(fd, size - done, offset + done)
        if not data:
            break
        parts.append(data)
        done += len(data)
    return b"".join(parts)


def _go_on(write: Callable[[memoryview, int], int], data: Buffer) -> int:
    """Write all of `data`; an error that comes after some bytes is left to the next call."""
    view = memoryview(data).cast("B")
    done = 0
    while done < len(view):
        try:
            done += write(view[done:], done)
        except OSError:
            if done:
                break
            raise
    return done


def _pwrite(fd: int, data: Buffer, offset: int, flags: int) -> int:
    if flags:
        return _go_on(lambda rest, done: os.pwritev(fd, [rest], offset + done, flags), data)
    return _go_on(lambda rest, done: os.pwrite(fd, rest, offset + done), data)


def _write(fd: int, data: Buffer) -> int:
    return _go_on(lambda rest, _: os.write(fd, rest), data)


def _read_whole(path: Path) -> bytes:
    with open(path, "rb", buffering=0) as file:
        return file.read()


def _write_whole(path: Path, data: Buffer, flags: int, mode: int) -> int:
    fd = os.open(path, flags | os.O_CLOEXEC, mode)
    try:
        view = memoryview(data).cast("B")
        done = 0
        while done < len(view):
            done += os.write(fd, view[done:])
        return done
    finally:
        os.close(fd)
