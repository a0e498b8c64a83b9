"""What the soaks share: what a loop and its process hold, to be compared before and after a load."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import operator
import random
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import psutil
from support import Echo, Way, digest, open_fds, thread_names

LIBC = ctypes.CDLL(None)
KIB = 1024
LOADS_LEAST, LOADS_MOST = 3, 8


class MallocInfo(ctypes.Structure):
    """mallinfo2(3)."""

    _fields_ = [
        *((name, ctypes.c_size_t) for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd")),
        *((name, ctypes.c_size_t) for name in ("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")),
    ]


class Memory(NamedTuple):
    """Python's small blocks and bytes of malloc() in use, whatever the allocators keep besides; bytes resident."""

    blocks: int
    malloc: int
    resident: int

    @classmethod
    def now(cls) -> Memory:
        gc.collect()
        info = malloc_info()
        return cls(sys.getallocatedblocks(), info.uordblks + info.hblkhd, resident())

    def since(self, before: Memory) -> Memory:
        return Memory(*(now - then for now, then in zip(self, before, strict=True)))


def malloc_info() -> MallocInfo:
    if not hasattr(LIBC, "mallinfo2"):  # the C library is not glibc, or older than 2.33
        return MallocInfo()
    LIBC.mallinfo2.restype = MallocInfo
    return LIBC.mallinfo2()


def resident() -> int:
    """Bytes of resident memory, once the allocator has given back what it can."""
    if hasattr(LIBC, "malloc_trim"):
        LIBC.malloc_trim(0)
    return psutil.Process().memory_info().rss


class Before:
    """Descriptors, threads and operations, to be compared with later."""

    def __init__(self, way: Way, loop: Any) -> None:
        self.way, self.loop = way, loop
        self.fds, self.threads = open_fds(), thread_names()
        self.in_flight = self.in_flight_now()

    async def check(self) -> None:
        """All must be as it was, as soon as what is closing has ended."""
        end = time.monotonic() + 10
        while self.more_fds() or self.in_flight_now() > self.in_flight:
            assert time.monotonic() < end, f"{self.more_fds()} {self.loop.stats() if self.way.ours else ''}"
            await asyncio.sleep(0.01)
        assert set(thread_names()) <= set(self.threads)
        if self.way.ours:
            assert self.loop.stats()["connections"] == 0

    def more_fds(self) -> dict[int, str]:
        return {fd: what for fd, what in open_fds().items() if self.fds.get(fd) != what}

    def in_flight_now(self) -> int:
        return self.loop.stats()["in_flight"] if self.way.ours else 0


async def prove_steady(
    before: Before, load: Callable[[], Awaitable[Any]], cycles: int, *, room: int = 256 * KIB
) -> None:
    """Run `load`, of about so many cycles, several times: what one cycle leaves must not add up.

    The first load fills pools, free lists and arenas.  After that a leak of one small object in ten cycles shows in
    each load; a table that happens to grow shows in some: descriptors that nobody had to wait for yet are the more, the
    more else the machine has to do.
    `room`: bytes that may become resident all the same.
    """
    await load()
    await before.check()
    kinds = kinds_of_objects()
    most = Memory(cycles // 10 + 10, cycles * 16 + 24 * KIB, cycles * 100 + room)
    grown: list[Memory] = []
    for _ in range(LOADS_MOST):
        memory = Memory.now()
        await load()
        await before.check()
        grown.append(Memory.now().since(memory))
        least = Memory(*map(min, zip(*grown, strict=True)))
        if len(grown) >= LOADS_LEAST and all(map(operator.lt, least, most)):
            return
    raise AssertionError(f"{grown} in {cycles} cycles each; more of {(kinds_of_objects() - kinds).most_common(8)}")


def kinds_of_objects() -> Counter[str]:
    return Counter(f"{type(thing).__module__}.{type(thing).__qualname__}" for thing in gc.get_objects())


class SlowEcho(Echo):
    """Stops reading now and then for a moment."""

    chance = random.Random(1)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.chance.random() < 0.02:
            self.transport.pause_reading()
            asyncio.get_running_loop().call_later(self.chance.random() * 0.005, self.transport.resume_reading)


def random_size(chance: random.Random) -> int:
    """Up to 8 MiB, small ones as often as large ones."""
    return min(1 << 23, int(2 ** chance.uniform(0, 23.01)))


async def exchange(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    data: bytes,
    chance: random.Random,
    vectored: bool = False,
) -> None:
    """Send `data` and read it back at a random pace."""
    sending = asyncio.ensure_future(send(writer, data, chance, vectored))
    back = await read_slowly(reader, len(data), chance)
    await sending
    assert digest(back) == digest(data), f"a message of {len(data)} bytes came back changed"


async def read_slowly(reader: asyncio.StreamReader, size: int, chance: random.Random) -> bytearray:
    back = bytearray()
    while len(back) < size:
        back += await reader.readexactly(min(size - len(back), chance.randrange(1, 1 << 18)))
        if chance.random() < 0.05:
            await asyncio.sleep(chance.random() * 0.005)
    return back


async def send(writer: asyncio.StreamWriter, data: bytes, chance: random.Random, vectored: bool = False) -> None:
    position = 0
    while position < len(data):
        step = chance.randrange(1, len(data) + 1)
        if not vectored or chance.random() < 0.5:
            writer.write(data[position : position + step])
        else:
            writer.writelines([data[position : position + step // 2], data[position + step // 2 : position + step]])
        position += step
        if chance.random() < 0.5:
            await writer.drain()
    await writer.drain()
