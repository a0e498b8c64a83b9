"""What is measured: each load is an operation, how many tasks make it, and what has to be so before and after it."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.errors import BenchmarkError
from benchmarks.files.place import (
    APPENDED,
    BLOCK,
    CACHED,
    MIB,
    SMALL_FILES,
    WRITTEN,
    Place,
    drop,
)


@dataclass(frozen=True)
class Sample:
    """One window: operations a second, and microseconds of CPU per operation, of all threads of the process."""

    rate: float
    cpu_us: float

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


Operation = Callable[[], Awaitable[Any]]


@dataclass(frozen=True)
class Load:
    """`operation`: makes, from an API, a place and a task's number, what that task does over and over."""

    name: str
    title: str
    tasks: int
    operation: Callable[[Any, Place, int], Operation]
    unit: str = "reads"
    before: Callable[[Place], None] = Place.warm
    after: Callable[[Place, int], None] = lambda place, done: None
    once: bool = False
    """One operation is a window, whatever it takes."""
    per_operation: Callable[[Place], int] = lambda place: 1
    """What the unit counts in one operation."""


def reader(blocks: Callable[[Place], int]) -> Callable[[Any, Place, int], Operation]:
    """Reads of 4 KiB, somewhere in the first `blocks` of the large file."""

    def make(api: Any, place: Place, task: int) -> Operation:
        chance = random.Random(time.perf_counter_ns())
        count = blocks(place)

        async def read() -> None:
            data = await api.read(chance.randrange(count) * BLOCK)
            assert len(data) == BLOCK

        return read

    return make


def small(api: Any, place: Place, task: int) -> Operation:
    chance = random.Random(time.perf_counter_ns())

    async def whole() -> None:
        data = await api.whole(place.small(chance.randrange(SMALL_FILES)))
        assert len(data) == BLOCK

    return whole


def append(api: Any, place: Place, task: int) -> Operation:
    data = bytes(BLOCK)
    return lambda: api.append(task, data)


def write(api: Any, place: Place, task: int) -> Operation:
    data = bytes(MIB)
    offset = -MIB

    async def next_piece() -> None:
        nonlocal offset
        offset = (offset + MIB) % place.written_size
        await api.write(task, data, offset)

    return next_piece


def through(api: Any, place: Place, task: int) -> Operation:
    async def all_of_it() -> None:
        size = await api.through()
        assert size == place.mib * MIB

    return all_of_it


def drop_large(place: Place) -> None:
    drop(place.large)


def appended(place: Place, done: int) -> None:
    size = sum(place.appended(i).stat().st_size for i in range(APPENDED))
    if size != done * BLOCK:
        raise BenchmarkError(f"{done} appends of {BLOCK} bytes have left {size} bytes")


_LOADS = (
    Load("cached", "cached read of 4 KiB, one task", 1, reader(lambda place: CACHED // BLOCK)),
    Load("cached64", "cached read of 4 KiB, 64 tasks", 64, reader(lambda place: CACHED // BLOCK)),
    Load("cold64", "cold read of 4 KiB, 64 tasks, random", 64, reader(lambda place: place.blocks), before=drop_large),
    Load("small", "open, read and close a file of 4 KiB, 16 tasks", 16, small, "files"),
    Load("append", "append 4 KiB and fdatasync, 64 files", APPENDED, append, "appends", Place.empty, appended),
    Load("write", "writes of 1 MiB, 8 tasks", WRITTEN, write, "MiB"),
    Load("through", "a cold file from its beginning to its end, 1 MiB at a time", 1, through, "MiB", drop_large,
         once=True, per_operation=lambda place: place.mib),
)  # fmt: skip
LOADS = {load.name: load for load in _LOADS}


async def window(load: Load, api: Any, place: Place, seconds: float) -> Sample:
    """Make the load's operations for so long."""
    load.before(place)
    done = 0
    end = time.perf_counter() + (0 if load.once else seconds)

    async def work(operation: Operation) -> None:
        nonlocal done
        while True:
            await operation()
            done += 1
            if time.perf_counter() >= end:
                return

    operations = [load.operation(api, place, task) for task in range(load.tasks)]
    began, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*map(work, operations))
    took, used = time.perf_counter() - began, time.process_time() - cpu
    load.after(place, done)
    units = done * load.per_operation(place)
    return Sample(units / took, used / units * 1e6)


async def check(api: Any, place: Place) -> None:
    """What the API gives is what is there."""
    with place.large.open("rb") as file:
        file.seek(2 * BLOCK)
        wanted = file.read(BLOCK)
    if bytes(await api.read(2 * BLOCK)) != wanted:
        raise BenchmarkError("it reads something else than what is in the file")
