"""Floor 4: temporary files and folders.

Owns: when they are removed.  Imports: opening, tree.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import weakref
from typing import Any

from flexsc_loop.files import tree
from flexsc_loop.files.opening import Opening, open_made


def TemporaryFile(
    mode: str = "w+b", buffering: int = -1, encoding: str | None = None, newline: str | None = None,
    suffix: str | None = None, prefix: str | None = None, dir: Any = None, *, errors: str | None = None,
) -> Opening[Any]:
    """A file without a name, gone when it is closed.  Source: tempfile.TemporaryFile."""

    def make() -> int:
        with tempfile.TemporaryFile("w+b", 0, suffix=suffix, prefix=prefix, dir=dir) as file:
            return os.dup(file.fileno())

    return Opening(open_made(make, None, mode, buffering, encoding, errors, newline))


class NamedFile:
    """A file with a name that is removed when it is closed; everything else is the file's."""

    def __init__(self, file: Any, name: Any, delete: bool, delete_on_close: bool) -> None:
        self.file = file
        self.name = name
        self.delete = delete
        self._delete_on_close = delete_on_close
        self._remove = weakref.finalize(self, _remove, name) if delete else None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def __repr__(self) -> str:
        return repr(self.file)

    def __aiter__(self) -> Any:
        return aiter(self.file)

    async def close(self) -> None:
        """Close it, and remove it if that was asked for."""
        try:
            await self.file.close()
        finally:
            if self._delete_on_close:
                await self._unlink()

    async def _unlink(self) -> None:
        if self._remove is not None and self._remove.detach():
            with contextlib.suppress(FileNotFoundError):
                await tree.unlink(self.name)

    async def __aenter__(self) -> NamedFile:
        return self

    async def __aexit__(self, *error: object) -> None:
        try:
            await self.close()
        finally:
            await self._unlink()


def _remove(name: Any) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name)


def NamedTemporaryFile(
    mode: str = "w+b", buffering: int = -1, encoding: str | None = None, newline: str | None = None,
    suffix: str | None = None, prefix: str | None = None, dir: Any = None, delete: bool = True, *,
    errors: str | None = None, delete_on_close: bool = True,
) -> Opening[NamedFile]:
    """A file with a name.  Source: tempfile.NamedTemporaryFile."""
    return Opening(_named(mode, buffering, encoding, newline, (suffix, prefix, dir), delete, errors, delete_on_close))


async def _named(
    mode: str, buffering: int, encoding: str | None, newline: str | None, where: tuple[Any, Any, Any], delete: bool,
    errors: str | None, delete_on_close: bool,
) -> NamedFile:
    made: list[str] = []

    def make() -> int:
        fd: int
        fd, name = tempfile.mkstemp(*where)
        made.append(name)
        return fd

    try:
        file = await open_made(make, made, mode, buffering, encoding, errors, newline)
    except BaseException:
        for name in made:
            _remove(name)
        raise
    return NamedFile(file, made[0], delete, delete_on_close)


class TemporaryDirectory:
    """A folder that is removed with all that is in it: `async with TemporaryDirectory() as name`, or awaited.

    Source: tempfile.TemporaryDirectory.
    """

    def __init__(self, suffix: str | None = None, prefix: str | None = None, dir: Any = None, **options: Any) -> None:
        self._arguments = suffix, prefix, dir
        self._options = options
        self._made: tempfile.TemporaryDirectory[str] | None = None

    @property
    def name(self) -> str:
        """Its path."""
        if self._made is None:
            raise ValueError("the folder is not made yet: await it first")
        return self._made.name

    def __await__(self) -> Any:
        return self._make().__await__()

    async def _make(self) -> TemporaryDirectory:
        if self._made is None:
            self._made = await tree.run(tempfile.TemporaryDirectory, *self._arguments, **self._options)
        return self

    async def __aenter__(self) -> str:
        return (await self._make()).name

    async def __aexit__(self, *error: object) -> None:
        if self._options.get("delete", True):
            await self.cleanup()

    async def cleanup(self) -> None:
        """Remove it now."""
        if self._made is not None:
            await tree.run(self._made.cleanup)


async def mkstemp(
    suffix: Any = None, prefix: Any = None, dir: Any = None, text: bool = False
) -> tuple[int, Any]:
    """Source: tempfile.mkstemp."""
    return await tree.run(tempfile.mkstemp, suffix, prefix, dir, text)


async def mkdtemp(suffix: Any = None, prefix: Any = None, dir: Any = None) -> Any:
    """Source: tempfile.mkdtemp."""
    return await tree.run(tempfile.mkdtemp, suffix, prefix, dir)
