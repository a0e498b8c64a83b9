"""Calls on files as entries of a kernel page: what the ring would do otherwise than the calls, and who ends them."""

from __future__ import annotations

import asyncio
import errno
import os
import threading

import pytest

pytestmark = pytest.mark.ours


async def every_call(files, folder):
    """All that can be an entry, once; gives how many calls that were."""
    name = f"{folder}/file"
    fd = await files.open(name, os.O_RDWR | os.O_CREAT)
    await files.pwrite(fd, b"0123456789", 0)
    await files.pwritev(fd, [b"ab", b"cd"], 2)
    await files.fsync(fd)
    await files.fallocate(fd, 0, 0, 20)
    await files.ftruncate(fd, 9)
    await files.fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
    rooms = [bytearray(3), bytearray(20)]
    assert await files.preadv(fd, rooms, 1) == 8
    assert rooms == [b"1ab", b"cd678" + bytes(15)]
    assert (await files.stat(fd)).st_size == (await files.stat(name)).st_size == 9
    await files.mkdir(f"{folder}/folder")
    await files.rename(name, f"{folder}/folder/moved")
    await files.link(f"{folder}/folder/moved", name)
    await files.symlink("file", f"{folder}/pointer")
    assert await files.read_whole(f"{folder}/pointer") == b"01abcd678"
    for path in (name, f"{folder}/pointer", f"{folder}/folder/moved"):
        await files.unlink(path)
    await files.rmdir(f"{folder}/folder")
    await files.close(fd)
    assert os.listdir(folder) == []
    return 18


@pytest.mark.only(pages="kernel")
async def test_entries_carry_calls(loop, files, tmp_path):
    before = loop.stats()
    count = await every_call(files, tmp_path)
    after = loop.stats()
    done = {key: after[key] - before[key] for key in after if key.startswith("files_")}
    # Two are left to threads, a whole file (if that is not done at once) and to close.
    assert done["files_by_threads"] <= 2
    assert done["files_at_once"] <= 3
    # preadv asks once more where the file ends.
    assert sum(done.values()) == count + 3


@pytest.mark.only(pages="kernel")
async def test_what_a_ring_lacks_threads_do(loop, files, tmp_path):
    files._entries = 0
    before = loop.stats()
    count = await every_call(files, tmp_path)
    after = loop.stats()
    done = {key: after[key] - before[key] for key in after if key.startswith("files_")}
    assert done["files_queued"] == 0
    assert done["files_by_threads"] >= count - 1
    assert sum(done.values()) == count + 2


async def test_refused_calls_do_not_take_entries_away(files, tmp_path):
    """EINVAL and EOPNOTSUPP may mean that the ring does not know a call, or that the call is wrong."""
    before = files._entries
    reader, writer = os.pipe()
    try:
        for call in (files.fsync(reader), files.ftruncate(writer, 1), files.pwrite(writer, b"x", 0, 1 << 30)):
            with pytest.raises(OSError) as caught:
                await call
            assert caught.value.errno in (errno.EINVAL, errno.EOPNOTSUPP, errno.ESPIPE)
    finally:
        os.close(reader)
        os.close(writer)
    assert files._entries == before


async def test_what_has_no_position_has_none(files, tmp_path):
    """A ring would write to a pipe whatever the offset."""
    reader, writer = os.pipe()
    try:
        for call in (
            files.pwrite(writer, b"x", 0),
            files.pwritev(writer, [b"x"], 5),
            files.pread(reader, 1, 0),
            files.preadv(reader, [bytearray(1)], 0),
            files.pread(reader, 1 << 20, 0),
        ):
            with pytest.raises(OSError) as caught:
                await call
            assert caught.value.errno == errno.ESPIPE
        os.set_blocking(reader, False)
        with pytest.raises(BlockingIOError):
            os.read(reader, 1)
    finally:
        os.close(reader)
        os.close(writer)


async def test_opening_a_fifo_waits_for_its_other_end(files, fifo):
    reading = files.open(fifo, os.O_RDONLY)
    done, _ = await asyncio.wait({reading}, timeout=0.02)
    assert not done
    writing = files.open(fifo, os.O_WRONLY)
    reader, writer = await asyncio.gather(reading, writing)
    await files.write(writer, b"through")
    assert await files.read(reader, 100) == b"through"
    await files.close(reader)
    await files.close(writer)


async def test_who_waits_for_fifos_holds_no_fsync_up(files, tmp_path):
    """Of itself the kernel lets four calls for each CPU sleep."""
    paths = [f"{tmp_path}/fifo-{number}" for number in range(min(4 * (os.cpu_count() or 1) + 1, 100))]
    for path in paths:
        os.mkfifo(path)
    openings = [files.open(path, os.O_RDONLY) for path in paths]
    file = await files.open(f"{tmp_path}/file", os.O_WRONLY | os.O_CREAT)
    try:
        async with asyncio.timeout(30):
            await files.append(file, b"x")
            await files.fdatasync(file)
    finally:
        opened = await asyncio.gather(*openings, *(files.open(path, os.O_RDWR) for path in paths))
        await asyncio.gather(*(files.close(fd) for fd in (file, *opened)))


@pytest.mark.parametrize("another", [False, True], ids=["same thread", "another thread"])
def test_what_sleeps_goes_on_between_two_runs(new_loop, fifo, another):
    loop = new_loop()

    async def begin():
        opening = loop._files.open(fifo, os.O_RDONLY)
        await asyncio.wait({opening}, timeout=0.02)
        return opening

    async def end(opening):
        reader = await opening
        await loop._files.close(reader)

    opening = loop.run_until_complete(begin())
    writer = os.open(fifo, os.O_WRONLY)  # waits until the reader is there, which the loop does not run for
    os.close(writer)
    errors = []

    def go_on():
        try:
            loop.run_until_complete(end(opening))
        except BaseException as error:
            errors.append(error)

    if another:
        thread = threading.Thread(target=go_on)
        thread.start()
        thread.join()
    else:
        go_on()
    assert not errors


@pytest.mark.parametrize("another", [False, True], ids=["same thread", "another thread"])
def test_appended_once_over_several_runs(new_loop, tmp_path, another):
    """Who runs the loop changes while writes are in flight: none is lost, none is made twice."""
    loop = new_loop()
    path = tmp_path / "log"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    lines = [b"%05d" % i * 1000 for i in range(240)]
    calls, errors = [], []

    async def begin(some):
        calls.extend(loop._files.append(fd, line) for line in some)
        await asyncio.sleep(0)

    async def take():
        assert await asyncio.gather(*calls) == [5000] * len(lines)

    def run(main):
        try:
            loop.run_until_complete(main)
        except BaseException as error:
            errors.append(error)

    for i in range(0, len(lines), 40):
        main = begin(lines[i : i + 40])
        if another:
            thread = threading.Thread(target=run, args=(main,))
            thread.start()
            thread.join()
        else:
            run(main)
    run(take())
    os.close(fd)
    assert not errors
    content = path.read_bytes()
    assert sorted(content[i : i + 5000] for i in range(0, len(content), 5000)) == lines


async def test_many_in_flight_hold_their_own(loop, files, tmp_path):
    """More calls than the ring has places."""
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    try:
        calls = [files.pwrite(fd, b"%08d" % i, i * 8) for i in range(10_000)]
        assert await asyncio.gather(*calls) == [8] * 10_000
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        calls = [files.pread(fd, 8, i * 8) for i in range(10_000)]
        assert await asyncio.gather(*calls) == [b"%08d" % i for i in range(10_000)]
    finally:
        os.close(fd)
