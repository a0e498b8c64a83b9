"""Floor 4: the functions of os, shutil and pathlib on files and folders, awaited.

Owns: nothing; their arguments, results and errors are the standard library's.  Imports: opening.
"""

from __future__ import annotations

import asyncio
import io
import os
import shutil
from collections.abc import Callable, Iterator
from typing import Any, AnyStr, Generic, TypeVar

from flexsc_loop.files.opening import Opening, calls_of

_T = TypeVar("_T")
AnyPath = str | bytes | os.PathLike[str] | os.PathLike[bytes]
Buffer = Any

NEW = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC


def _calls() -> Any:
    return calls_of(asyncio.get_running_loop())


async def run(function: Callable[..., _T], *args: Any, **options: Any) -> _T:
    """What `function` gives when a thread of the loop's executor calls it."""
    return await _calls().run(lambda: function(*args, **options))  # type: ignore[no-any-return]


# ---- a small file as a whole


async def read_bytes(path: AnyPath) -> bytes:
    """The contents of a file.  Source: pathlib.Path.read_bytes."""
    return await _calls().read_whole(path)  # type: ignore[no-any-return]


async def read_text(
    path: AnyPath, encoding: str | None = None, errors: str | None = None, newline: str | None = None
) -> str:
    """The contents of a text file.  Source: pathlib.Path.read_text."""
    encoding = io.text_encoding(encoding)
    data = await read_bytes(path)
    with io.TextIOWrapper(io.BytesIO(data), encoding, errors, newline) as file:
        return file.read()


async def write_bytes(path: AnyPath, data: Buffer) -> int:
    """Make a file of bytes, in place of what was there; their number.  Source: pathlib.Path.write_bytes."""
    view = memoryview(data)
    return await _calls().write_whole(path, view, NEW, 0o666)  # type: ignore[no-any-return]


async def write_text(
    path: AnyPath, data: str, encoding: str | None = None, errors: str | None = None, newline: str | None = None
) -> int:
    """Make a text file; the number of characters.  Source: pathlib.Path.write_text."""
    if not isinstance(data, str):
        raise TypeError(f"data must be str, not {type(data).__name__}")
    encoding = io.text_encoding(encoding)
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding, errors, newline)
    size = file.write(data)
    file.flush()
    await write_bytes(path, raw.getvalue())
    return size


# ---- what there is


async def stat(path: int | AnyPath, *, dir_fd: int | None = None, follow_symlinks: bool = True) -> os.stat_result:
    """Source: os.stat."""
    return await _calls().stat(path, dir_fd=dir_fd, follow_symlinks=follow_symlinks)  # type: ignore[no-any-return]


async def lstat(path: AnyPath, *, dir_fd: int | None = None) -> os.stat_result:
    """Source: os.lstat."""
    return await stat(path, dir_fd=dir_fd, follow_symlinks=False)


async def exists(path: int | AnyPath) -> bool:
    """Source: os.path.exists."""
    try:
        await stat(path)
    except (OSError, ValueError):
        return False
    return True


async def access(
    path: int | AnyPath, mode: int, *, dir_fd: int | None = None, effective_ids: bool = False,
    follow_symlinks: bool = True,
) -> bool:
    """Source: os.access."""
    return await run(
        os.access, path, mode, dir_fd=dir_fd, effective_ids=effective_ids, follow_symlinks=follow_symlinks
    )


async def listdir(path: Any = ".") -> list[Any]:
    """Source: os.listdir."""
    return await run(os.listdir, path)


class Entries(Generic[AnyStr]):
    """The entries of a folder, read as a whole: an iterator for `for` and `async for`, and a context manager."""

    def __init__(self, entries: list[os.DirEntry[AnyStr]]) -> None:
        self._entries: Iterator[os.DirEntry[AnyStr]] = iter(entries)

    def __iter__(self) -> Iterator[os.DirEntry[AnyStr]]:
        return self

    def __next__(self) -> os.DirEntry[AnyStr]:
        return next(self._entries)

    def __aiter__(self) -> Entries[AnyStr]:
        return self

    async def __anext__(self) -> os.DirEntry[AnyStr]:
        for entry in self._entries:
            return entry
        raise StopAsyncIteration

    def close(self) -> None:
        """Give no more entries.  Source: os.scandir."""
        self._entries = iter([])

    def __enter__(self) -> Entries[AnyStr]:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    async def __aenter__(self) -> Entries[AnyStr]:
        return self

    async def __aexit__(self, *error: object) -> None:
        self.close()


def scandir(path: Any = ".") -> Opening[Entries[Any]]:
    """The entries of a folder, awaited or by `async with`.  Source: os.scandir.

    A DirEntry's stat() and, for a symbolic link or where the file system does not say, is_dir() and is_file() are calls
    that are made at once, in the loop's thread.
    """
    return Opening(_scan(path))


async def _scan(path: Any) -> Entries[Any]:
    return Entries(await run(_entries, path))


def _entries(path: Any) -> list[os.DirEntry[Any]]:
    with os.scandir(path) as entries:
        return list(entries)


async def readlink(path: AnyStr | os.PathLike[AnyStr], *, dir_fd: int | None = None) -> AnyStr:
    """Source: os.readlink."""
    return await run(os.readlink, path, dir_fd=dir_fd)


# ---- changes


async def mkdir(path: AnyPath, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
    """Source: os.mkdir."""
    await _calls().mkdir(path, mode, dir_fd=dir_fd)


async def makedirs(name: AnyPath, mode: int = 0o777, exist_ok: bool = False) -> None:
    """Source: os.makedirs."""
    await run(os.makedirs, name, mode, exist_ok)


async def unlink(path: AnyPath, *, dir_fd: int | None = None) -> None:
    """Source: os.unlink."""
    await _calls().unlink(path, dir_fd=dir_fd)


async def remove(path: AnyPath, *, dir_fd: int | None = None) -> None:
    """Source: os.remove."""
    await _calls().unlink(path, dir_fd=dir_fd)


async def rmdir(path: AnyPath, *, dir_fd: int | None = None) -> None:
    """Source: os.rmdir."""
    await _calls().rmdir(path, dir_fd=dir_fd)


async def removedirs(name: AnyPath) -> None:
    """Source: os.removedirs."""
    await run(os.removedirs, name)


async def rmtree(path: AnyPath, ignore_errors: bool = False, **options: Any) -> None:
    """Source: shutil.rmtree."""
    await run(shutil.rmtree, path, ignore_errors, **options)


async def rename(
    src: AnyPath, dst: AnyPath, *, src_dir_fd: int | None = None, dst_dir_fd: int | None = None
) -> None:
    """Source: os.rename."""
    await _calls().rename(src, dst, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)


async def renames(old: AnyPath, new: AnyPath) -> None:
    """Source: os.renames."""
    await run(os.renames, old, new)


async def replace(
    src: AnyPath, dst: AnyPath, *, src_dir_fd: int | None = None, dst_dir_fd: int | None = None
) -> None:
    """Source: os.replace."""
    await _calls().replace(src, dst, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)


async def link(
    src: AnyPath, dst: AnyPath, *, src_dir_fd: int | None = None, dst_dir_fd: int | None = None,
    follow_symlinks: bool = True,
) -> None:
    """Source: os.link."""
    await _calls().link(
        src, dst, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd, follow_symlinks=follow_symlinks
    )


async def symlink(
    src: AnyPath, dst: AnyPath, target_is_directory: bool = False, *, dir_fd: int | None = None
) -> None:
    """Source: os.symlink."""
    await _calls().symlink(src, dst, target_is_directory, dir_fd=dir_fd)


async def chmod(
    path: int | AnyPath, mode: int, *, dir_fd: int | None = None, follow_symlinks: bool = True
) -> None:
    """Source: os.chmod."""
    await run(os.chmod, path, mode, dir_fd=dir_fd, follow_symlinks=follow_symlinks)


async def utime(path: int | AnyPath, times: Any = None, **options: Any) -> None:
    """Source: os.utime; `ns`, `dir_fd` and `follow_symlinks` as there."""
    await run(os.utime, path, times, **options)


async def copyfile(src: Any, dst: _T, *, follow_symlinks: bool = True) -> _T:
    """Source: shutil.copyfile."""
    return await run(shutil.copyfile, src, dst, follow_symlinks=follow_symlinks)
