"""Files that are none of the usual: special ones, huge ones, full disks, limits, signals, many users at once."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import mmap
import os
import random
import resource
import signal
import subprocess
import threading

import pytest

import flexsc_loop
from flexsc_loop import files

GIB = 1 << 30


@contextlib.contextmanager
def limit(which, value):
    soft, hard = resource.getrlimit(which)
    resource.setrlimit(which, (value, hard))
    try:
        yield
    finally:
        resource.setrlimit(which, (soft, hard))


@pytest.mark.parametrize("path", ["/proc/self/limits", "/proc/cpuinfo", "/proc/version", "/dev/null", "/sys/kernel/mm"])
async def test_what_the_kernel_makes_up(loop, path):
    try:
        with open(path, "rb") as file:
            wanted = file.read()
    except OSError as error:
        with pytest.raises(type(error)):
            await flexsc_loop.open(path, "rb")
        return
    for buffering in (-1, 0):
        async with flexsc_loop.open(path, "rb", buffering) as file:
            assert len(await file.read()) == len(wanted)
            await file.seek(0)
            lines = [line async for line in file]
    if path == "/proc/version":
        assert b"".join(lines) == wanted


async def test_devices(loop):
    async with flexsc_loop.open("/dev/zero", "rb", 0) as file:
        assert await file.read(100_000) == bytes(100_000)
    async with flexsc_loop.open("/dev/null", "wb") as file:
        assert await file.write(bytes(100_000)) == 100_000
    async with flexsc_loop.open("/proc/self/mem", "rb", 0) as file:
        with pytest.raises(OSError) as caught:
            await file.read(10)
        assert caught.value.errno == errno.EIO
    file = await flexsc_loop.open("/dev/full", "wb")
    await file.write(b"lost")
    with pytest.raises(OSError) as caught:
        await file.close()
    assert caught.value.errno == errno.ENOSPC and file.closed


async def test_a_terminal(loop):
    leader, follower = os.openpty()
    try:
        async with flexsc_loop.open(follower, "r", closefd=False) as file:
            assert file.isatty()
            reading = asyncio.create_task(file.readline())
            await asyncio.sleep(0)
            os.write(leader, b"typed\n")
            assert await reading == "typed\n"
    finally:
        os.close(leader)
        os.close(follower)


async def test_a_fifo_where_the_c_library_cannot_read_without_waiting(loop, tmp_path, monkeypatch):
    """Python has the flag only where it was compiled with a C library that has preadv2 (musl since 1.2.5)."""
    monkeypatch.delattr(os, "RWF_NOWAIT", raising=False)
    path = tmp_path / "fifo"
    os.mkfifo(path)
    opening = asyncio.ensure_future(flexsc_loop.open(path, "rb", 0))
    async with flexsc_loop.open(path, "wb", 0) as writer, await opening as reader:
        assert await writer.write(b"first") == 5
        assert await reader.read(5) == b"first"


async def test_a_fifo_is_waited_for(loop, tmp_path):
    path = tmp_path / "fifo"
    os.mkfifo(path)
    opening = asyncio.ensure_future(flexsc_loop.open(path, "rb"))
    async with flexsc_loop.open(path, "wb", 0) as writer:
        async with await opening as reader:
            reading = asyncio.create_task(reader.read(5))
            await asyncio.sleep(0)
            assert await writer.write(b"hello") == 5
            assert await reading == b"hello"


async def test_a_slow_open_holds_nobody_up(loop, tmp_path):
    go_on = threading.Event()

    def opener(path, flags):
        assert go_on.wait(10)
        return os.open(path, flags, 0o600)

    opening = asyncio.ensure_future(flexsc_loop.open(tmp_path / "file", "w", opener=opener))
    await asyncio.sleep(0.01)
    assert not opening.done()
    go_on.set()
    async with await opening as file:
        await file.write("opened")


async def test_sparse_and_huge(loop, tmp_path):
    with open(tmp_path / "file", "wb") as file:
        file.truncate(6 * GIB)
    async with flexsc_loop.open(tmp_path / "file", "r+b") as file:
        assert await file.seek(0, os.SEEK_END) == 6 * GIB
        assert await file.write(b"beyond") == 6
        assert await file.seek(5 * GIB) == 5 * GIB
        assert await file.write(b"in a hole") == 9
        assert await file.tell() == 5 * GIB + 9
        assert await file.seek(5 * GIB - 3) == 5 * GIB - 3
        assert await file.read(15) == bytes(3) + b"in a hole" + bytes(3)
        assert await file.seek(6 * GIB - 2) and await file.read() == bytes(2) + b"beyond"
        assert await file.pread(9, 5 * GIB) == b"in a hole"
        assert await file.truncate(5 * GIB + 2) == 5 * GIB + 2
    assert os.stat(tmp_path / "file").st_size == 5 * GIB + 2


@pytest.mark.ours  # an executor reads into memory of its own, which is not aligned
async def test_direct(loop, tmp_path):
    """O_DIRECT: aligned calls work, others fail as os.preadv() does."""
    data = random.Random(1).randbytes(16384)
    (tmp_path / "file").write_bytes(data)

    def opener(path, flags):
        return os.open(path, flags | os.O_DIRECT)

    try:
        file = await flexsc_loop.open(tmp_path / "file", "rb", 0, opener=opener)
    except OSError:
        pytest.skip("this file system has no O_DIRECT")
    async with file:
        with mmap.mmap(-1, 8192) as room:
            assert await file.pread_into(room, 4096) == 8192
            assert room[:] == data[4096:12288]
            with memoryview(room)[1:4097] as crooked:
                try:
                    wanted = os.preadv(file.fileno(), [crooked], 1)
                except OSError as error:
                    with pytest.raises(OSError) as caught:
                        await file.pread_into(crooked, 1)
                    assert caught.value.errno == error.errno
                else:
                    assert await file.pread_into(crooked, 1) == wanted


@pytest.mark.parametrize("buffering", [-1, 0])
async def test_a_limit_of_size(loop, tmp_path, buffering):
    """What was written is told, what was not is an error; the file is what io's is."""
    def write(path):
        with open(path, "wb", buffering) as file:
            return file.write(bytes(15_000)), file.write(b"")

    with limit(resource.RLIMIT_FSIZE, 10_000):
        with pytest.raises(OSError) if buffering else contextlib.nullcontext() as caught:
            write(tmp_path / "theirs")
        try:
            async with flexsc_loop.open(tmp_path / "ours", "wb", buffering) as file:
                got = await file.write(bytes(15_000))
                assert got == 10_000
        except OSError as error:
            assert caught is not None and error.errno == caught.value.errno == errno.EFBIG
    assert os.stat(tmp_path / "ours").st_size == os.stat(tmp_path / "theirs").st_size == 10_000


async def test_no_descriptor_is_left(loop, tmp_path):
    (tmp_path / "file").write_bytes(b"there")
    async with flexsc_loop.open(tmp_path / "file", "rb"):
        pass  # what a first call needs is there
    probe = os.open("/dev/null", os.O_RDONLY)
    os.close(probe)
    with limit(resource.RLIMIT_NOFILE, probe):
        with pytest.raises(OSError) as caught:
            await flexsc_loop.open(tmp_path / "file", "rb")
        assert caught.value.errno == errno.EMFILE
    async with flexsc_loop.open(tmp_path / "file", "rb") as file:
        assert await file.read() == b"there"


async def test_a_full_file_system(loop, tmp_path):
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", tmp_path], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting is not allowed here")
    try:
        file = await flexsc_loop.open(tmp_path / "file", "wb", 0)
        written = 0
        with pytest.raises(OSError) as caught:
            while True:
                written += await file.write(b"x" * 50_000)
        assert caught.value.errno == errno.ENOSPC
        await file.close()
        assert os.stat(tmp_path / "file").st_size == written
    finally:
        subprocess.run(["umount", tmp_path], check=True)


async def test_signals_meanwhile(loop, tmp_path):
    data = random.Random(2).randbytes(8 << 20)
    seen = 0

    def count(*_):
        nonlocal seen
        seen += 1

    before = signal.signal(signal.SIGALRM, count)
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    try:
        async with flexsc_loop.open(tmp_path / "file", "w+b", 0) as file:
            while not seen:
                assert await file.pwrite(data, 0) == len(data)
                assert await file.pread(len(data), 0) == data
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


async def test_closed_while_calls_wait(loop, tmp_path):
    """Those that came first are made; those that come later are refused."""
    (tmp_path / "file").write_bytes(bytes(range(256)) * 400)
    file = await flexsc_loop.open(tmp_path / "file", "rb", 0)
    reads = [asyncio.create_task(file.read(1000)) for _ in range(100)]
    closing = asyncio.create_task(file.close())
    got = await asyncio.gather(*reads)
    await closing
    assert b"".join(got) == (bytes(range(256)) * 400)[:100_000]
    with pytest.raises(ValueError, match="closed file"):
        await file.read(1)


async def test_many_tasks_on_one_file(loop, tmp_path):
    async with flexsc_loop.open(tmp_path / "file", "w+b", 0) as file:
        async def own(number):
            data = bytes([number]) * 5000
            for _ in range(5):
                assert await file.pwrite(data, number * 5000) == 5000
                assert await file.pread(5000, number * 5000) == data

        await asyncio.gather(*map(own, range(64)))
    (tmp_path / "lines").write_text("".join(f"{number}\n" for number in range(1000)))
    async with flexsc_loop.open(tmp_path / "lines") as file:
        lines = await asyncio.gather(*(file.readline() for _ in range(1000)))
    assert [int(line) for line in lines] == [*range(1000)]


async def test_a_file_that_is_cut_and_grows(loop, tmp_path):
    """What a read gives is of the file, and nothing else is ever in the buffer."""
    data = b"\x11" * 200_000
    path = tmp_path / "file"
    path.write_bytes(data)
    stop = threading.Event()

    def change():
        while not stop.is_set():
            os.truncate(path, 1000)
            with open(path, "r+b", 0) as file:
                file.write(data)

    thread = threading.Thread(target=change)
    thread.start()
    try:
        async with flexsc_loop.open(path, "rb", 0) as file:
            for _ in range(200):
                room = bytearray(b"\xee" * 200_000)
                got = await file.pread_into(room, 0)
                assert 1000 <= got <= 200_000 and room[:got].strip(b"\x11\x00") == b""
                assert room[got:].strip(b"\xee\x11\x00") == b""
                assert await file.pread(10, 0) == data[:10]
    finally:
        stop.set()
        thread.join()


async def test_copying_onto_itself(loop, tmp_path):
    """Pieces that overlap are refused, as copy_file_range(2) does it, and nothing is changed."""
    data = bytes(range(256)) * 40
    (tmp_path / "file").write_bytes(data)
    async with flexsc_loop.open(tmp_path / "file", "r+b") as file, flexsc_loop.open(tmp_path / "file", "r+b") as other:
        for target in (file, other):
            with pytest.raises(OSError) as caught:
                await file.copy_range(target, 5000, 0, 100)
            assert caught.value.errno == errno.EINVAL
        assert await file.copy_range(other, 100, 0, 5000) == 100
    assert (tmp_path / "file").read_bytes() == data[:5000] + data[:100] + data[5100:]


async def test_copying_to_a_temporary_file(loop, tmp_path):
    (tmp_path / "file").write_bytes(b"contents")
    async with flexsc_loop.open(tmp_path / "file", "rb") as file, files.NamedTemporaryFile(dir=tmp_path) as made:
        assert await file.copy_range(made, 100, 3, 0) == 5
        assert await made.pread(100, 0) == b"tents"
