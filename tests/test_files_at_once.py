"""What is done on files without waiting: cached data, cached names, memory; and what must not be."""

from __future__ import annotations

import asyncio
import fcntl
import os
import random
import signal
import tempfile
import threading

import pytest
from support import run_python, thread_names

import flexsc_loop
from flexsc_loop import files as functions

pytestmark = pytest.mark.ours


@pytest.fixture
def path(folder):
    name = f"{folder}/file"
    with open(name, "wb") as file:
        file.write(random.Random(1).randbytes(10_000))
    return name


def contents(path):
    with open(path, "rb") as file:
        return file.read()


async def all_at_once(loop, main):
    """What `main` gives, having made no call that somebody else makes.  Skips where nothing is done at once."""
    before = loop.stats()
    result = await main
    after = loop.stats()
    done = {key: after[key] - before[key] for key in ("files_at_once", "files_queued", "files_by_threads")}
    if done["files_at_once"] == 0:
        pytest.skip("this kernel or file system does nothing at once")
    assert done["files_queued"] == done["files_by_threads"] == 0
    return result


async def test_a_small_file_costs_no_hop(loop, path):
    async def read():
        async with flexsc_loop.open(path, "rb") as file:
            fd = file.fileno()
            assert not fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_NONBLOCK
            assert not os.get_inheritable(fd)
            data = await file.read()
        with pytest.raises(OSError):
            os.fstat(fd)
        return data

    assert await all_at_once(loop, read()) == contents(path)


async def test_functions_of_what_is_cached(loop, path):
    async def look():
        return await functions.read_bytes(path), await functions.stat(path), await functions.exists(path)

    data, about, there = await all_at_once(loop, look())
    assert (data, about, there) == (contents(path), os.stat(path), True)


async def test_a_link_is_told_from_what_it_points_to(loop, folder, path):
    os.symlink("file", f"{folder}/link")
    os.symlink("nowhere", f"{folder}/dangling")
    assert await functions.stat(f"{folder}/link") == os.stat(path)
    assert await functions.lstat(f"{folder}/link") == os.lstat(f"{folder}/link")
    assert await functions.read_bytes(f"{folder}/link") == contents(path)
    assert not await functions.exists(f"{folder}/dangling")
    with pytest.raises(FileNotFoundError):
        await functions.read_bytes(f"{folder}/dangling")


@pytest.mark.parametrize("size", [0, 1, 4096, 256 * 1024 - 1, 256 * 1024, 1 << 20])
@pytest.mark.parametrize("grown", [0, 100, 300_000])
async def test_all_of_a_file_that_has_grown(loop, folder, size, grown):
    data = random.Random(2).randbytes(size + grown)
    name = f"{folder}/grows"
    with open(name, "wb") as file:
        file.write(data[:size])
    async with flexsc_loop.open(name, "rb") as file:
        with open(name, "ab") as more:
            more.write(data[size:])
        assert await file.read() == data
        assert await file.tell() == len(data)
        await file.seek(size)
        assert await file.read() == data[size:]


async def test_read_after_a_part(loop, path):
    async with flexsc_loop.open(path, "rb") as file:
        assert await file.read(10) == contents(path)[:10]
        assert await file.read() == contents(path)[10:]
        assert await file.read() == b""


async def test_many_reads_of_memory_are_made_at_once(loop, path):
    async def read():
        async with flexsc_loop.open(path, "rb", buffering=0) as file:
            return b"".join([await file.pread(10, at) for at in range(0, 10_000, 10)])

    assert await all_at_once(loop, read()) == contents(path)


async def test_a_file_without_a_name_is_closed_elsewhere(loop, path):
    """To close its last descriptor frees what it holds, which may take long."""
    fd = os.open(path, os.O_RDONLY)
    os.unlink(path)
    before = loop.stats()
    await loop._files.close(fd)
    assert loop.stats()["files_at_once"] == before["files_at_once"]
    with pytest.raises(OSError):
        os.fstat(fd)


async def test_a_fifo_is_not_touched_by_looking_what_it_is(loop, folder):
    """One who waits for a reader must not be let go by a look."""
    name = f"{folder}/fifo"
    os.mkfifo(name)
    opened = threading.Event()

    def write():
        with open(name, "wb") as file:
            opened.set()
            file.write(b"after all")

    thread = threading.Thread(target=write)
    thread.start()
    try:
        await functions.stat(name)
        assert await functions.exists(name)
        assert not opened.is_set()
    finally:
        assert await functions.read_bytes(name) == b"after all"
        thread.join()


async def test_one_who_reads_and_reads_lets_others_run(loop, path):
    turns = 0
    over = False

    async def count():
        nonlocal turns
        while not over:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    async with flexsc_loop.open(path, "rb") as file:
        while turns < 5:
            await file.pread(1, 0)
    over = True
    await counting


async def test_an_open_that_is_cancelled_leaves_no_descriptor(loop, path):
    """Not even one that has come to its end when its task is cancelled; the leaks fixture looks."""
    for _ in range(200):
        task = asyncio.ensure_future(flexsc_loop.open(path, "rb"))
        writing = asyncio.ensure_future(flexsc_loop.open(path, "r+b"))
        await asyncio.sleep(0)
        for each in (task, writing):
            each.cancel()
        for each in await asyncio.gather(task, writing, return_exceptions=True):
            if not isinstance(each, BaseException):
                await each.close()
    while loop.stats()["in_flight"]:
        await asyncio.sleep(0)


async def test_many_opened_at_once_and_cancelled_late(loop, path):
    """Those that have used up a turn's time wait for the next one, and may be cancelled until then."""
    async def look():
        file = await flexsc_loop.open(path, "rb")
        await file.close()

    tasks = [asyncio.create_task(look()) for _ in range(300)]
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    while loop.stats()["in_flight"]:
        await asyncio.sleep(0)


def begins_reads(fd):
    """Whether the kernel has a device begin a read that is tried without waiting."""
    if not hasattr(os, "RWF_NOWAIT"):
        pytest.skip("this Python does not know RWF_NOWAIT")
    try:
        os.preadv(fd, [bytearray(1)], 0, os.RWF_NOWAIT)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return True


async def test_reads_of_one_disk_are_waited_for_by_few_threads(loop, way, tmp_path_factory):
    """However many there are; each gets its own bytes, and those that are given up harm nobody."""
    if not os.access("/var/tmp", os.W_OK):
        pytest.skip("/var/tmp can't be written to")
    count, size = 100, 4096
    data = random.Random(2).randbytes(count * 16 * size)
    with tempfile.NamedTemporaryFile(dir="/var/tmp") as made:
        made.write(data)
        made.flush()
        os.fsync(made.fileno())
        if not begins_reads(made.fileno()):
            pytest.skip("this file system can't be asked not to wait")
        async with flexsc_loop.open(made.name, "rb") as file:
            await file.advise(0, 0, os.POSIX_FADV_RANDOM)
            for rounds in range(3):
                os.posix_fadvise(made.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                offsets = [number * 16 * size + rounds for number in range(count)]
                reads = [asyncio.ensure_future(file.pread(size, offset)) for offset in offsets]
                await asyncio.sleep(0)
                for read in reads[::7]:
                    read.cancel()
                results = await asyncio.gather(*reads, return_exceptions=True)
                for offset, result in zip(offsets, results, strict=True):
                    assert isinstance(result, asyncio.CancelledError) or result == data[offset : offset + size]
    if way.pages == "user":
        # One for what the device has begun, one for what else was asked for, one that looks whether they get on.
        assert sum(name == "flexsc-file" for name in thread_names().values()) <= 3


REFUSED = """
import asyncio, os, sandbox, sys
import flexsc_loop
from flexsc_loop import files

async def main(name, other, asked, again):
    async with flexsc_loop.open(name, "rb", 0) as file, flexsc_loop.open(other, "rb", 0) as cached:
        sandbox.block_reads_without_waiting(asked, file.fileno())
        assert await file.pread(10, 5) == b"56789"
        sandbox.block_reads_without_waiting(again, file.fileno())
        for _ in range(30):
            assert await file.pread(4, 1) == b"1234"
            assert await cached.pread(4, 2) == b"2345"
        room = bytearray(4)
        assert await file.readinto(room) == 4 and room == b"0123"
        assert await file.read() == b"456789"
    print("read")

flexsc_loop.run(main(*sys.argv[1:]))
"""


def test_a_file_system_that_never_answers_at_once_is_no_longer_asked(way):
    """Told so once, a file asks no more, whatever other files get; asking would kill the process."""
    if not hasattr(os, "RWF_NOWAIT"):
        pytest.skip("this Python does not know RWF_NOWAIT")
    if not os.access("/var/tmp", os.W_OK):
        pytest.skip("/var/tmp can't be written to")
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        names = [f"{folder}/{name}" for name in ("refused", "cached")]
        for name in names:
            with open(name, "wb") as file:
                file.write(b"0123456789")
        with open(names[0], "rb") as file:
            if not begins_reads(file.fileno()):
                pytest.skip("this file system can't be asked")
        end = run_python(REFUSED, *names, "KILL", "KILL", env=way.environment())
        if end.code == 0:
            pytest.skip("what lies in memory is not asked")
        assert end.code == -signal.SIGSYS, end.err
        end = run_python(REFUSED, *names, "EOPNOTSUPP", "KILL", env=way.environment())
        assert end.code == 0 and end.out == "read\n", end.err


@pytest.mark.parametrize("buffering", [0, -1])
async def test_a_cached_file_is_read_into_the_callers_buffer(loop, path, buffering):
    """What was read ahead comes first, and a jump back finds what was there."""
    data = contents(path)
    async with flexsc_loop.open(path, "rb", buffering) as file:
        for size in (10_000, 20_000):
            room = bytearray(size)
            await file.seek(0)
            assert await file.read(3) == data[:3]
            assert await file.readinto(room) == 9_997 and room[:9_997] == data[3:]
            await file.seek(5)
            assert await file.read(5) == data[5:10]
            await file.seek(0)
            assert await file.readinto(room) == 10_000 and room[:10_000] == data and await file.tell() == 10_000
            assert await file.readinto(room) == 0 and await file.tell() == 10_000
            await file.seek(-5, os.SEEK_CUR)
            assert await file.read(3) == data[-5:-2]
            assert await file.readinto1(room) == 2 and room[:2] == data[-2:]
            room.pop()  # it is not held any more
        with pytest.raises((TypeError, BufferError)):
            await file.readinto(b"not to be written to")


async def test_reading_into_a_buffer_that_is_given_up_moves_nothing(loop, path):
    """With the turn's time used up, it waits for the next turn, where it can be cancelled."""
    data = contents(path)
    async with flexsc_loop.open(path, "rb", 0) as file:
        for _ in range(50):
            room = bytearray(1000)
            reading = asyncio.ensure_future(file.readinto(room))
            await asyncio.sleep(0)
            position = 0 if reading.cancel() else 1000
            await asyncio.wait({reading})
            assert await file.tell() == position
            assert await file.read(10) == data[position : position + 10]
            await file.seek(0)


@pytest.mark.parametrize("between", [0, 1], ids=["in one turn", "a turn later"])
async def test_a_descriptor_is_closed_once(loop, path, between):
    """Closed again, a file leaves alone whoever has got its number meanwhile; nor does its name matter to that."""
    first = await flexsc_loop.open(path, "rb")
    fd = first.fileno()
    assert await first.read(5) == contents(path)[:5]
    for _ in range(between):
        await asyncio.sleep(0)
    os.unlink(path)
    await first.close()
    with pytest.raises(OSError):
        os.fstat(fd)
    with open(path, "wb") as made:
        made.write(b"another")
    second = await flexsc_loop.open(path, "rb")
    await first.close()
    del first
    assert await second.read() == b"another"
    os.fstat(second.fileno())
    await second.close()
    with pytest.raises(OSError):
        os.fstat(fd)
