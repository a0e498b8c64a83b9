"""Floor 4: opening a file.

Owns: what `open` accepts and refuses, and the choice of the file object.  Imports: binary, text, elsewhere.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import io
import os
import stat
import sys
import warnings
from collections.abc import Awaitable, Callable, Coroutine, Generator
from types import TracebackType
from typing import Any, Generic, Literal, Protocol, TypeVar, overload

from flexsc_loop.files.binary import BinaryFile
from flexsc_loop.files.elsewhere import ExecutorCalls
from flexsc_loop.files.text import TextFile

PathOrFd = int | str | bytes | os.PathLike[str] | os.PathLike[bytes]
MOST_BUFFER = 8 << 20


class _AsyncFile(Protocol):
    def __aexit__(self, *error: Any) -> Awaitable[None]: ...


_File = TypeVar("_File", bound=_AsyncFile)


class Opening(Generic[_File]):
    """A file that is being opened: for `await`, and for `async with`, which closes it."""

    def __init__(self, opening: Coroutine[Any, Any, _File]) -> None:
        self._opening = opening
        self._file: _File | None = None

    def __await__(self) -> Generator[Any, Any, _File]:
        return self._opening.__await__()

    def send(self, value: Any, /) -> Any:
        """Source: collections.abc.Coroutine."""
        return self._opening.send(value)

    def throw(self, *error: Any) -> Any:
        """Source: collections.abc.Coroutine."""
        return self._opening.throw(*error)

    def close(self) -> None:
        """Source: collections.abc.Coroutine."""
        self._opening.close()

    async def __aenter__(self) -> _File:
        self._file = await self._opening
        return self._file

    def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> Awaitable[None]:
        if self._file is None:
            raise RuntimeError("it was not entered")
        return self._file.__aexit__(kind, error, traceback)


def calls_of(loop: asyncio.AbstractEventLoop) -> Any:
    """The file calls of a loop: its own if it has them, else those of its executor."""
    calls = getattr(loop, "_files", None)
    return ExecutorCalls(loop) if calls is None else calls


class Mode:
    """What a mode says.  Raises ValueError as the built-in open() does."""

    def __init__(self, mode: str) -> None:
        if not isinstance(mode, str):
            raise TypeError(f"open() argument 'mode' must be str, not {type(mode).__name__}")
        kinds = set(mode)
        if kinds - set("axrwb+t") or len(mode) > len(kinds):
            raise ValueError(f"invalid mode: {mode!r}")
        self.text = mode
        self.binary = "b" in kinds
        if self.binary and "t" in kinds:
            raise ValueError("can't have text and binary mode at once")
        which = len(kinds & set("rwax"))
        if which > 1:
            raise ValueError("must have exactly one of create/read/write/append mode")
        if not which:
            raise ValueError("Must have exactly one of create/read/write/append mode and at most one plus")
        self.creating, self.writing, self.appending = "x" in kinds, "w" in kinds, "a" in kinds
        self.updating = "+" in kinds
        self.can_read = "r" in kinds or self.updating
        self.can_write = "r" not in kinds or self.updating
        self.truncated = self.writing and sys.version_info >= (3, 15)  # as `mode` of io's files says it
        self.flags = self._flags()

    def _flags(self) -> int:
        """For open(2)."""
        flags = os.O_CLOEXEC
        flags |= os.O_RDWR if self.can_read and self.can_write else os.O_RDONLY if self.can_read else os.O_WRONLY
        if self.creating:
            flags |= os.O_CREAT | os.O_EXCL
        if self.writing:
            flags |= os.O_CREAT | os.O_TRUNC
        if self.appending:
            flags |= os.O_CREAT | os.O_APPEND
        return flags


def check(
    file: Any, mode: Mode, buffering: int, encoding: str | None, errors: str | None, newline: str | None,
    closefd: bool,
) -> None:
    """Raise what the built-in open() raises for arguments that do not go together."""
    for name, value in () if encoding is errors is newline is None else (
        ("encoding", encoding), ("errors", errors), ("newline", newline)
    ):
        if value is not None and not isinstance(value, str):
            raise TypeError(f"open() argument {name!r} must be str or None, not {type(value).__name__}")
        if mode.binary and value is not None:
            raise ValueError(f"binary mode doesn't take {'an ' if name[0] == 'e' else 'a '}{name} argument")
    if mode.binary and buffering == 1:
        warnings.warn(
            "line buffering (buffering=1) isn't supported in binary mode, the default buffer size will be used",
            RuntimeWarning, stacklevel=4,
        )
    if not mode.binary and buffering == 0:
        raise ValueError("can't have unbuffered text I/O")
    check_file(file, closefd)


def check_file(file: PathOrFd, closefd: bool) -> None:
    """The same for what is to be opened."""
    if isinstance(file, int):
        if isinstance(file, bool):
            warnings.warn("bool is used as a file descriptor", RuntimeWarning, stacklevel=5)
        if file < 0:
            raise ValueError("negative file descriptor")
        return
    if not closefd:
        raise ValueError("Cannot use closefd=False with file name")


async def open_fd(
    loop: asyncio.AbstractEventLoop, file: PathOrFd, mode: Mode, opener: Callable[[Any, int], int]
) -> int:
    """The descriptor that the opener gives for a file with a name."""
    if 0 in os.fsencode(file):  # type: ignore[arg-type]
        raise ValueError("embedded null byte")
    fd: int = await ExecutorCalls(loop).new_fd(lambda: opener(file, mode.flags))
    if not isinstance(fd, int):
        raise TypeError("expected integer from opener")
    if fd < 0:
        raise ValueError(f"opener returned {fd}")
    os.set_inheritable(fd, False)
    return fd


@functools.lru_cache(64)
def mode_of(mode: str) -> Mode:
    """What a mode says, which is the same each time."""
    return Mode(mode)


async def open_file(
    file: PathOrFd, mode: str, buffering: int, encoding: str | None, errors: str | None, newline: str | None,
    closefd: bool, opener: Callable[[Any, int], int] | None,
) -> Any:
    """Open; the arguments are those of the built-in open()."""
    file = file if isinstance(file, int) else os.fspath(file)
    wanted = mode_of(mode)
    check(file, wanted, buffering, encoding, errors, newline, closefd)
    loop = asyncio.get_running_loop()
    calls = calls_of(loop)
    text = encoding, errors, newline
    if isinstance(file, int):
        return make_file(calls, loop, file, file, wanted, buffering, text, closefd, shared=True)
    about = None
    if opener is not None:
        fd, flags = await open_fd(loop, file, wanted, opener), None
    else:
        flags = wanted.flags
        opening = calls.open_described(file, flags, 0o666)
        if type(opening) is tuple:
            fd, about = opening
        else:
            fd = await opening
    try:
        return make_file(calls, loop, fd, file, wanted, buffering, text, closefd, flags, about)
    except BaseException:
        await calls.close(fd)
        raise


async def open_made(
    make: Callable[[], int], names: list[str] | None, mode: str, buffering: int, encoding: str | None,
    errors: str | None, newline: str | None,
) -> Any:
    """A file object for a descriptor that `make` gives in a thread, and which nobody else has.

    names: where `make` has put the file's name, last; without, the file is called by its number.
    """
    wanted = mode_of(mode)
    check(0, wanted, buffering, encoding, errors, newline, closefd=True)
    loop = asyncio.get_running_loop()
    calls = calls_of(loop)
    fd = await ExecutorCalls(loop).new_fd(make)
    text = encoding, errors, newline
    try:
        return make_file(calls, loop, fd, names[-1] if names else fd, wanted, buffering, text, closefd=True)
    except BaseException:
        await calls.close(fd)
        raise


def make_file(
    calls: Any, loop: asyncio.AbstractEventLoop, fd: int, name: PathOrFd, mode: Mode, buffering: int,
    text: tuple[str | None, str | None, str | None], closefd: bool, flags: int | None = None, about: Any = None, *,
    shared: bool = False,
) -> Any:
    """The object for an open descriptor.

    flags: with which it has just been opened by name, None if somebody else has done that.  about: what
    `calls.describe` says, if it is known.  shared: others may use its position, which is therefore the kernel's.
    """
    if about is None:
        about = calls.describe(fd, flags)
    kind, _, block_size, position = about[:4]
    if kind == stat.S_IFDIR:
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), name)
    if mode.appending and position is not None:
        about = (*about[:3], os.lseek(fd, 0, os.SEEK_END), *about[4:])
    size = max(min(block_size, MOST_BUFFER), io.DEFAULT_BUFFER_SIZE) if buffering < 0 or buffering == 1 else buffering
    if size and mode.updating and position is None:
        raise io.UnsupportedOperation("File or stream is not seekable.")
    binary = BinaryFile(calls, loop, fd, name, mode, about, size, shared, closefd)
    if mode.binary:
        return binary
    line_buffering = buffering == 1 or (buffering < 0 and os.isatty(fd))
    try:
        return TextFile(binary, mode.text, *text, line_buffering)
    except BaseException:
        binary.abandon()
        raise


TextMode = Literal["r", "w", "a", "x", "r+", "w+", "a+", "x+", "rt", "wt", "at", "xt", "r+t", "w+t", "a+t", "x+t",
                   "rt+", "wt+", "at+", "xt+", "tr", "tw", "ta", "tx", "+r", "+w", "+a", "+x"]
BinaryMode = Literal["rb", "wb", "ab", "xb", "br", "bw", "ba", "bx", "r+b", "w+b", "a+b", "x+b", "rb+", "wb+", "ab+",
                     "xb+", "+rb", "+wb", "+ab", "+xb", "+br", "+bw", "+ba", "+bx", "b+r", "b+w", "b+a", "b+x"]


@overload
def open(
    file: PathOrFd, mode: TextMode = "r", buffering: int = -1, encoding: str | None = None, errors: str | None = None,
    newline: str | None = None, closefd: bool = True, opener: Callable[[Any, int], int] | None = None,
) -> Opening[TextFile]: ...


@overload
def open(
    file: PathOrFd, mode: BinaryMode, buffering: int = -1, encoding: None = None, errors: None = None,
    newline: None = None, closefd: bool = True, opener: Callable[[Any, int], int] | None = None,
) -> Opening[BinaryFile]: ...


@overload
def open(
    file: PathOrFd, mode: str, buffering: int = -1, encoding: str | None = None, errors: str | None = None,
    newline: str | None = None, closefd: bool = True, opener: Callable[[Any, int], int] | None = None,
) -> Opening[Any]: ...


def open(
    file: PathOrFd, mode: str = "r", buffering: int = -1, encoding: str | None = None, errors: str | None = None,
    newline: str | None = None, closefd: bool = True, opener: Callable[[Any, int], int] | None = None,
) -> Opening[Any]:
    """Open a file whose methods are awaited: `async with open(...) as file`, or `file = await open(...)`.

    The arguments, and what is raised, are those of the built-in open().  A path gives a file with a position of its
    own; with a descriptor, the kernel's position is used and moved.  Not regular files work, too.
    """
    return Opening(open_file(file, mode, buffering, encoding, errors, newline, closefd, opener))
