"""Files opened, written, read back, cancelled and closed, over and over.  In full length with --soak."""

from __future__ import annotations

import asyncio
import os
import random

import pytest
from soaks import Before, prove_steady
from support import thread_names, turns

import flexsc_loop
from flexsc_loop import files

pytestmark = [pytest.mark.slow, pytest.mark.soak]


MOST_THREADS = 64


class BeforeFiles(Before):
    """File threads come when they are needed and go when they are not: they are not the same, but no more."""

    async def check(self):
        now = thread_names()
        assert len(now) <= MOST_THREADS, now
        self.threads |= now
        await super().check()


async def cycle(folder, number, chance):
    """One life of a file; some of its reads come from the disk, and some are given up."""
    path = folder / f"{number}"
    data = chance.randbytes(chance.choice([10, 5_000, 300_000]))
    async with flexsc_loop.open(path, "w+b", chance.choice([0, -1])) as file:
        assert await file.write(data) == len(data)
        await file.flush()
        if chance.random() < 0.3:
            await file.fdatasync()
            await file.advise(0, 0, os.POSIX_FADV_DONTNEED)
        reading = asyncio.create_task(file.pread(len(data), 0))
        if chance.random() < 0.3:
            await asyncio.sleep(0)
            reading.cancel()
            await asyncio.wait({reading})
        else:
            assert await reading == data
        await file.seek(0)
        assert await file.read() == data
    assert await files.read_bytes(path) == data
    await files.unlink(path)


@pytest.mark.timeout(600)
async def test_lives_of_files(way, loop, soak, tmp_path, seed):
    count = 400 if soak else 25

    async def worker(number):
        chance = random.Random(seed + number)
        for _ in range(count):
            await cycle(tmp_path, number, chance)

    async def load():
        await asyncio.gather(*map(worker, range(16)))

    await turns(5)
    for _ in range(4):  # until as many threads have been there as there will be
        await load()
    await prove_steady(BeforeFiles(way, loop), load, 16 * count, room=8 << 20)
