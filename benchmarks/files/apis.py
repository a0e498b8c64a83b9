"""What is compared: one class for each library, with the calls of the loads as that library's users would write them.

A library that lacks what a load needs raises `Lacking`: its row says so.
"""

from __future__ import annotations

import asyncio
import importlib
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from benchmarks.files.place import APPENDED, BLOCK, MIB, WRITTEN, Place

POOL = 64
"""Open files of a library whose files have one position only: no task waits for another's read."""


class Lacking(Exception):
    """A library can't do this; the message says what it lacks."""


class Plain:
    """The calls of `os` and `io` in the loop's thread, which block it: the cost without any library."""

    def __init__(self, place: Place) -> None:
        self.place = place

    async def open(self) -> None:
        self.fd = os.open(self.place.large, os.O_RDONLY)
        self.appended = [os.open(self.place.appended(i), os.O_WRONLY | os.O_APPEND) for i in range(APPENDED)]
        self.written = [os.open(self.place.written(i), os.O_WRONLY) for i in range(WRITTEN)]

    async def read(self, offset: int) -> bytes:
        """4 KiB of the large file, from somewhere."""
        return os.pread(self.fd, BLOCK, offset)

    async def whole(self, path: Path) -> bytes:
        """A small file: open, read, close."""
        with open(path, "rb") as file:
            return file.read()

    async def append(self, number: int, data: bytes) -> None:
        """To the end of one of the files, and on to the disk."""
        os.write(self.appended[number], data)
        os.fdatasync(self.appended[number])

    async def write(self, number: int, data: bytes, offset: int) -> None:
        """One piece of one of the files."""
        os.pwrite(self.written[number], data, offset)

    async def through(self) -> int:
        """All of the large file, in pieces of 1 MiB; the number of bytes."""
        return await self.count(open(self.place.large, "rb", 0), read_now)

    async def count(self, file: Any, read: Callable[[Any], Awaitable[bytes]]) -> int:
        size = 0
        with file:
            while data := await read(file):
                size += len(data)
        return size


async def read_now(file: Any) -> bytes:
    data: bytes = file.read(MIB)
    return data


class Executor(Plain):
    """The same calls by `run_in_executor` and `to_thread`."""

    def call(self, function: Callable[..., Any], *args: Any) -> Awaitable[Any]:
        return asyncio.get_running_loop().run_in_executor(None, function, *args)

    async def read(self, offset: int) -> bytes:
        data: bytes = await self.call(os.pread, self.fd, BLOCK, offset)
        return data

    async def whole(self, path: Path) -> bytes:
        return await asyncio.to_thread(path.read_bytes)

    async def append(self, number: int, data: bytes) -> None:
        await self.call(os.write, self.appended[number], data)
        await self.call(os.fdatasync, self.appended[number])

    async def write(self, number: int, data: bytes, offset: int) -> None:
        await self.call(os.pwrite, self.written[number], data, offset)

    async def through(self) -> int:
        return await self.count(open(self.place.large, "rb", 0), lambda file: self.call(file.read, MIB))


class Positioned:
    """A library whose files have a position: each call is two, and a pool has files for the tasks."""

    name: str

    def __init__(self, place: Place) -> None:
        self.place = place
        self.module: Any = importlib.import_module(self.name)

    def opening(self, path: Path, mode: str) -> Any:
        """A file of the library, for `async with` and `await`."""
        return self.module.open(path, mode, buffering=0)

    async def open(self) -> None:
        self.free = [await self.opening(self.place.large, "rb") for _ in range(POOL)]
        self.appended = [await self.opening(self.place.appended(i), "ab") for i in range(APPENDED)]
        self.written = [await self.opening(self.place.written(i), "r+b") for i in range(WRITTEN)]

    async def read(self, offset: int) -> bytes:
        file = self.free.pop()
        try:
            await file.seek(offset)
            data: bytes = await file.read(BLOCK)
            return data
        finally:
            self.free.append(file)

    async def whole(self, path: Path) -> bytes:
        async with self.module.open(path, "rb") as file:
            data: bytes = await file.read()
            return data

    async def append(self, number: int, data: bytes) -> None:
        file = self.appended[number]
        await file.write(data)
        await asyncio.get_running_loop().run_in_executor(None, os.fdatasync, file.fileno())

    async def write(self, number: int, data: bytes, offset: int) -> None:
        file = self.written[number]
        await file.seek(offset)
        await file.write(data)

    async def through(self) -> int:
        size = 0
        async with self.opening(self.place.large, "rb") as file:
            while data := await file.read(MIB):
                size += len(data)
        return size


class Aiofiles(Positioned):
    """aiofiles; fdatasync() is a job of the executor, since it has none."""

    name = "aiofiles"


class Anyio(Positioned):
    """anyio; small files by its Path."""

    name = "anyio"

    def opening(self, path: Path, mode: str) -> Any:
        return AwaitedOrEntered(self.module.open_file(path, mode, buffering=0))

    async def whole(self, path: Path) -> bytes:
        data: bytes = await self.module.Path(path).read_bytes()
        return data

    async def append(self, number: int, data: bytes) -> None:
        file = self.appended[number]
        await file.write(data)
        await self.module.to_thread.run_sync(os.fdatasync, file.wrapped.fileno())


class AwaitedOrEntered:
    """A coroutine that makes an asynchronous context manager, as one."""

    def __init__(self, making: Awaitable[Any]) -> None:
        self.making = making

    def __await__(self) -> Any:
        return self.making.__await__()

    async def __aenter__(self) -> Any:
        self.made = await self.making
        return await self.made.__aenter__()

    async def __aexit__(self, *error: object) -> None:
        await self.made.__aexit__(*error)


class Aiofile(Plain):
    """aiofile, on caio's ring."""

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.module: Any = importlib.import_module("aiofile")

    async def opened(self, path: Path, mode: str) -> Any:
        file = self.module.AIOFile(path, mode)
        await file.open()
        return file

    async def open(self) -> None:
        self.file = await self.opened(self.place.large, "rb")
        self.appending = [await self.opened(self.place.appended(i), "ab") for i in range(APPENDED)]
        self.writing = [await self.opened(self.place.written(i), "r+b") for i in range(WRITTEN)]

    async def read(self, offset: int) -> bytes:
        data: bytes = await self.file.read(BLOCK, offset)
        return data

    async def whole(self, path: Path) -> bytes:
        async with self.module.async_open(path, "rb") as file:
            data: bytes = await file.read()
            return data

    async def append(self, number: int, data: bytes) -> None:
        await self.appending[number].write(data)
        await self.appending[number].fdsync()

    async def write(self, number: int, data: bytes, offset: int) -> None:
        await self.writing[number].write(data, offset)

    async def through(self) -> int:
        size = 0
        async with self.module.async_open(self.place.large, "rb") as file:
            while data := await file.read(MIB):
                size += len(data)
        return size


class Asyncfiles(Positioned):
    """py-asyncfiles; its seek() is a plain call."""

    name = "asyncfiles"

    def opening(self, path: Path, mode: str) -> Any:
        return self.module.open(path, mode)

    async def open(self) -> None:
        self.free = [await self.opening(self.place.large, "rb").__aenter__() for _ in range(POOL)]
        self.written = [await self.opening(self.place.written(i), "r+b").__aenter__() for i in range(WRITTEN)]

    async def read(self, offset: int) -> bytes:
        file = self.free.pop()
        try:
            file.seek(offset)
            data: bytes = await file.read(BLOCK)
            return data
        finally:
            self.free.append(file)

    async def append(self, number: int, data: bytes) -> None:
        raise Lacking("it has neither fdatasync() nor fileno()")

    async def write(self, number: int, data: bytes, offset: int) -> None:
        file = self.written[number]
        file.seek(offset)
        await file.write(data)


class Pyaio(Plain):
    """pyaio's ring, which takes descriptors."""

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.module: Any = importlib.import_module("pyaio.uring")

    async def open(self) -> None:
        await super().open()
        self.ring = await self.module.UringIO().__aenter__()

    async def read(self, offset: int) -> bytes:
        data: bytes = await self.ring.read(self.fd, offset, BLOCK)
        return data

    async def whole(self, path: Path) -> bytes:
        raise Lacking("it does not open files")

    async def append(self, number: int, data: bytes) -> None:
        await self.ring.write(self.appended[number], data, 0)
        await self.ring.fsync(self.appended[number], datasync=True)

    async def write(self, number: int, data: bytes, offset: int) -> None:
        await self.ring.write_all(self.written[number], data, offset)

    async def through(self) -> int:
        offset = 0
        while data := await self.ring.read(self.fd, offset, MIB):
            offset += len(data)
        return offset


class Flexsc(Plain):
    """This package's files."""

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.module: Any = importlib.import_module("flexsc_loop")

    async def open(self) -> None:
        self.file = await self.module.open(self.place.large, "rb")
        self.appending = [await self.module.open(self.place.appended(i), "ab", 0) for i in range(APPENDED)]
        self.writing = [await self.module.open(self.place.written(i), "r+b", 0) for i in range(WRITTEN)]

    async def read(self, offset: int) -> bytes:
        data: bytes = await self.file.pread(BLOCK, offset)
        return data

    async def whole(self, path: Path) -> bytes:
        async with self.module.open(path, "rb") as file:
            data: bytes = await file.read()
            return data

    async def append(self, number: int, data: bytes) -> None:
        await self.appending[number].write(data)
        await self.appending[number].fdatasync()

    async def write(self, number: int, data: bytes, offset: int) -> None:
        await self.writing[number].pwrite(data, offset)

    async def through(self) -> int:
        size = 0
        async with self.module.open(self.place.large, "rb", 0) as file:
            while data := await file.read(MIB):
                size += len(data)
        return size


class Whole(Flexsc):
    """This package's `files.read_bytes`, which is one hop at most."""

    async def whole(self, path: Path) -> bytes:
        data: bytes = await self.module.files.read_bytes(path)
        return data


APIS: dict[str, type[Any]] = {
    "plain": Plain,
    "executor": Executor,
    "aiofiles": Aiofiles,
    "anyio": Anyio,
    "aiofile": Aiofile,
    "asyncfiles": Asyncfiles,
    "pyaio": Pyaio,
    "flexsc": Flexsc,
    "flexsc-whole": Whole,
}
