"""Calls on files through the page: what they give is what the functions of `os` give."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import stat
import threading

import pytest

pytestmark = pytest.mark.ours

MIB = 1 << 20


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "file")


class Number:
    """What can be used as an integer."""

    def __init__(self, value):
        self.value = value

    def __index__(self):
        return self.value


def drop_cache(fd):
    """Have the next read wait for the disk, where there is one."""
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)


@pytest.fixture
def opened(path):
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    yield fd
    os.close(fd)


def pattern(size, seed=1):
    return random.Random(seed).randbytes(size)


async def failure(awaitable):
    """The OSError that it ends with."""
    with pytest.raises(OSError) as caught:
        await awaitable
    return caught.value


# ---- reading and writing


@pytest.mark.parametrize("cold", [False, True], ids=["cached", "cold"])
@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, 256 * 1024, 256 * 1024 + 1, 3 * MIB + 5])
async def test_pread(loop, files, opened, size, cold):
    data = pattern(size)
    os.write(opened, data)
    for want, offset in ((size, 0), (size + 100, 0), (size // 2 + 1, size // 3), (10, size), (10, size + 9000), (0, 0)):
        if cold:
            drop_cache(opened)
        assert await files.pread(opened, want, offset) == data[offset : offset + want]
        if cold:
            drop_cache(opened)
        room = bytearray(b"." * want)
        got = await files.pread_into(opened, room, offset)
        assert bytes(room) == data[offset : offset + want].ljust(want, b".")
        assert got == len(data[offset : offset + want])


@pytest.mark.parametrize("cold", [False, True], ids=["cached", "cold"])
async def test_preadv(loop, files, opened, cold):
    data = pattern(20000)
    os.write(opened, data)
    for sizes in ([], [0], [1, 0, 4096], [8000, 8000, 8000], [1] * 3000):
        if cold:
            drop_cache(opened)
        rooms = [bytearray(size) for size in sizes]
        total = await files.preadv(opened, rooms, 3)
        assert b"".join(rooms)[:total] == data[3 : 3 + sum(sizes)]
        assert total == len(data[3 : 3 + sum(sizes)])


@pytest.mark.parametrize("data", [b"", b"abc", bytearray(b"defg"), memoryview(b"xhijx")[1:4], pattern(3 * MIB)])
async def test_pwrite(loop, files, opened, data):
    assert await files.pwrite(opened, data, 5) == len(data)
    assert os.pread(opened, len(data) + 10, 0) == (bytes(5) + bytes(data) if data else b"")


async def test_pwritev(loop, files, opened):
    parts = [pattern(i % 50, i) for i in range(2500)]
    assert await files.pwritev(opened, parts, 7) == len(b"".join(parts))
    assert os.pread(opened, MIB, 7) == b"".join(parts)


@pytest.mark.skipif(not hasattr(os, "RWF_DSYNC"), reason="this Python does not know RWF_DSYNC")
async def test_pwrite_with_flags(loop, files, opened):
    assert await files.pwrite(opened, b"now on the disk", 0, os.RWF_DSYNC) == 15
    assert os.pread(opened, 100, 0) == b"now on the disk"


async def test_append(loop, files, path):
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        pieces = [b"%03d;" % i for i in range(200)]
        assert await asyncio.gather(*[files.append(fd, piece) for piece in pieces]) == [4] * 200
        assert await files.pwrite(fd, b"end", 0) == 3  # O_APPEND: whatever the offset
    finally:
        os.close(fd)
    with open(path, "rb") as file:
        content = file.read()
    assert sorted(content[:-3].split(b";")[:-1]) == [piece[:-1] for piece in pieces]
    assert content.endswith(b";end")


async def test_many_at_once(loop, files, opened):
    """Each gets its own bytes, wherever they come from."""
    data = pattern(4 * MIB)
    os.write(opened, data)
    drop_cache(opened)

    async def read_some(seed):
        for i in range(20):
            offset = (seed * 7919 + i * 104729) % len(data)
            assert await files.pread(opened, 5000, offset) == data[offset : offset + 5000]

    await asyncio.gather(*[read_some(seed) for seed in range(64)])


async def test_beyond_4_gib(loop, files, opened):
    there = (5 << 30) + 3
    assert await files.pwrite(opened, b"far away", there) == 8
    drop_cache(opened)
    assert await files.pread(opened, 100, there - 2) == b"\0\0far away"
    await files.ftruncate(opened, there + 4)
    assert os.fstat(opened).st_size == there + 4


async def test_a_read_that_is_partly_cached_is_whole(loop, files, opened):
    data = pattern(128 * 1024)
    os.write(opened, data)
    drop_cache(opened)
    os.pread(opened, 1, 0)
    assert await files.pread(opened, len(data) + 1, 0) == data


async def test_the_end_of_a_file_that_grows(loop, files, opened):
    for i in range(300):
        assert await files.pread(opened, 100, i * 10) == b""
        await files.pwrite(opened, b"%010d" % i, i * 10)
        assert await files.pread(opened, 100, i * 10) == b"%010d" % i


# ---- errors


async def test_errors_are_those_of_the_kernel(loop, files, opened, tmp_path):
    closed = 99999
    reader, writer = os.pipe()
    folder = os.open(tmp_path, os.O_RDONLY)
    only_read = os.open("/dev/null", os.O_RDONLY)
    try:
        for call, number in (
            (files.pread(closed, 1, 0), errno.EBADF),
            (files.pread(opened, 1, -1), errno.EINVAL),
            (files.pread(opened, -1, 0), errno.EINVAL),
            (files.pread(reader, 1, 0), errno.ESPIPE),
            (files.pread(folder, 1, 0), errno.EISDIR),
            (files.pwrite(only_read, b"x", 0), errno.EBADF),
            (files.pwrite(writer, b"x", 0), errno.ESPIPE),
            (files.pwrite(opened, b"x", -1), errno.EINVAL),
            (files.fsync(closed), errno.EBADF),
            (files.fsync(reader), errno.EINVAL),
            (files.ftruncate(opened, -1), errno.EINVAL),
            (files.close(closed), errno.EBADF),
            (files.stat(closed), errno.EBADF),
            (files.fadvise(reader, 0, 0, os.POSIX_FADV_WILLNEED), errno.ESPIPE),
            (files.copy_file_range(folder, opened, 1), errno.EISDIR),
        ):
            assert (await failure(call)).errno == number
    finally:
        for fd in (reader, writer, folder, only_read):
            os.close(fd)


async def test_a_number_is_not_rounded(loop, files, opened, tmp_path):
    """As functions of os refuse what is no integer; what can be used as one is taken."""
    path = tmp_path / "new"
    for wrong in (
        lambda: files.pread(opened, 1, 0.5),
        lambda: files.pread(opened, 1.5, 0),
        lambda: files.pread_into(opened, bytearray(1), 0.5),
        lambda: files.preadv(opened, [bytearray(1)], 0.5),
        lambda: files.pwrite(opened, b"x", 0.5),
        lambda: files.pwrite(opened, b"x", 0, 0.5),
        lambda: files.pwritev(opened, [b"x"], 0.5),
        lambda: files.pwritev(opened, [b"x"], 0, 0.5),
        lambda: files.ftruncate(opened, 0.5),
        lambda: files.fallocate(opened, 0.5, 0, 1),
        lambda: files.fallocate(opened, 0, 0.5, 1),
        lambda: files.fallocate(opened, 0, 0, 1.5),
        lambda: files.fadvise(opened, 0.5, 0, os.POSIX_FADV_NORMAL),
        lambda: files.fadvise(opened, 0, 0.5, os.POSIX_FADV_NORMAL),
        lambda: files.fadvise(opened, 0, 0, 0.5),
        lambda: files.copy_file_range(opened, opened, 0, 0.5),
        lambda: files.copy_file_range(opened, opened, 0, None, 0.5),
        lambda: files.open(path, float(os.O_RDONLY)),
        lambda: files.open(path, os.O_CREAT, 448.5),
        lambda: files.write_whole(path, b"x", float(os.O_WRONLY | os.O_CREAT)),
        lambda: files.write_whole(path, b"x", os.O_WRONLY | os.O_CREAT, 448.5),
        lambda: files.mkdir(path, 448.5),
    ):
        with pytest.raises(TypeError, match="'float' object cannot be interpreted as an integer"):
            wrong()
    assert not path.exists()
    fd = await files.open(path, Number(os.O_RDWR | os.O_CREAT), Number(0o600))
    assert await files.pwrite(fd, b"data", Number(2), Number(0)) == 4
    assert await files.pread(fd, Number(10), Number(1)) == b"\0data"
    await files.close(fd)


async def test_wrong_arguments_are_refused_at_once(loop, files, opened):
    for wrong in (
        lambda: files.pread("x", 1, 0),
        lambda: files.pread(opened, "1", 0),
        lambda: files.pread_into(opened, b"read only", 0),
        lambda: files.preadv(opened, [b"read only"], 0),
        lambda: files.pwrite(opened, "text", 0),
        lambda: files.open(3.5, os.O_RDONLY),
        lambda: files.stat(None),
    ):
        with pytest.raises((TypeError, BufferError)):
            wrong()
    for wrong in (
        lambda: files.pread(-1, 1, 0),
        lambda: files.open("a\0b", os.O_RDONLY),
        lambda: files.copy_file_range(opened, opened, -1),
        lambda: files.stat(opened, follow_symlinks=False),
    ):
        with pytest.raises(ValueError):
            wrong()


async def test_errors_name_the_file(loop, files, tmp_path):
    missing, other = str(tmp_path / "missing"), str(tmp_path / "other")
    for ours, theirs in (
        (files.open(missing, os.O_RDONLY), lambda: os.open(missing, os.O_RDONLY)),
        (files.stat(missing), lambda: os.stat(missing)),
        (files.unlink(missing), lambda: os.unlink(missing)),
        (files.rmdir(missing), lambda: os.rmdir(missing)),
        (files.mkdir(missing + "/x"), lambda: os.mkdir(missing + "/x")),
        (files.rename(missing, other), lambda: os.rename(missing, other)),
        (files.replace(missing, other), lambda: os.replace(missing, other)),
        (files.link(missing, other), lambda: os.link(missing, other)),
        (files.symlink(other, missing + "/x"), lambda: os.symlink(other, missing + "/x")),
        (files.read_whole(missing), lambda: open(missing, "rb")),
        (files.read_whole(tmp_path), lambda: open(tmp_path, "rb")),
        (files.stat(99999), lambda: os.stat(99999)),
        (files.stat(tmp_path / "missing"), lambda: os.stat(tmp_path / "missing")),
        (files.link(tmp_path / "missing", other), lambda: os.link(tmp_path / "missing", other)),
        (files.open(os.fsencode(missing), os.O_RDONLY), lambda: os.open(os.fsencode(missing), os.O_RDONLY)),
    ):
        error = await failure(ours)
        with pytest.raises(OSError) as caught:
            theirs()
        assert type(error) is type(caught.value)
        assert (error.errno, error.strerror) == (caught.value.errno, caught.value.strerror)
        assert (error.filename, error.filename2) == (caught.value.filename, caught.value.filename2)


# ---- the other calls


async def test_open_and_close(loop, files, path):
    fd = await files.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o640)
    assert not os.get_inheritable(fd)
    assert stat.S_IMODE(os.fstat(fd).st_mode) == 0o640
    assert await files.close(fd) is None
    assert (await failure(files.close(fd))).errno == errno.EBADF
    assert isinstance(await failure(files.open(path, os.O_CREAT | os.O_EXCL)), FileExistsError)


async def test_open_in_a_folder(loop, files, tmp_path):
    folder = os.open(tmp_path, os.O_RDONLY)
    try:
        fd = await files.open("inside", os.O_CREAT | os.O_RDWR, dir_fd=folder)
        await files.close(fd)
        await files.mkdir("sub", dir_fd=folder)
        await files.rename("inside", "sub/moved", src_dir_fd=folder, dst_dir_fd=folder)
        await files.link("sub/moved", "again", src_dir_fd=folder, dst_dir_fd=folder)
        await files.symlink("again", "pointer", dir_fd=folder)
        assert await files.stat("pointer", dir_fd=folder) == os.stat(tmp_path / "again")
        assert await files.stat("pointer", dir_fd=folder, follow_symlinks=False) == os.lstat(tmp_path / "pointer")
        for name in ("again", "pointer", "sub/moved"):
            await files.unlink(name, dir_fd=folder)
        await files.rmdir("sub", dir_fd=folder)
        assert os.listdir(tmp_path) == []
    finally:
        os.close(folder)


@pytest.mark.parametrize("target", ["/", "/dev/null", "/proc/self/stat", "file"])
async def test_stat(loop, files, path, opened, target):
    os.write(opened, b"something")
    target = path if target == "file" else target
    for ours, theirs in ((await files.stat(target), os.stat(target)), (await files.stat(opened), os.fstat(opened))):
        names = [name for name in dir(theirs) if name.startswith("st_")]
        assert {name: getattr(ours, name) for name in names} == {name: getattr(theirs, name) for name in names}
        assert tuple(ours) == tuple(theirs)


async def test_calls_on_a_descriptor(loop, files, path, opened):
    assert await files.fallocate(opened, 0, 0, 10000) is None
    assert os.fstat(opened).st_size == 10000
    assert await files.ftruncate(opened, 100) is None
    assert await files.fsync(opened) is None
    assert await files.fdatasync(opened) is None
    assert await files.fadvise(opened, 0, 0, os.POSIX_FADV_SEQUENTIAL) is None
    os.pwrite(opened, pattern(100), 0)
    other = os.open(path + "2", os.O_RDWR | os.O_CREAT)
    try:
        assert await files.copy_file_range(opened, other, 50, 10, 20) == 50
        assert os.pread(other, 100, 20) == pattern(100)[10:60]
        assert await files.copy_file_range(opened, other, 1000) == 100
        assert os.lseek(other, 0, os.SEEK_CUR) == 100
    finally:
        os.close(other)


async def test_run(loop, files):
    assert await files.run(int, "12", 8) == 10


@pytest.mark.parametrize("size", [0, 1, 4096, 256 * 1024, 256 * 1024 + 1, 5 * MIB])
async def test_whole_files(loop, files, path, size):
    data = pattern(size)
    assert await files.write_whole(path, data, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600) == size
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert await files.read_whole(path) == data
    assert await files.write_whole(path, bytearray(b"+"), os.O_WRONLY | os.O_APPEND) == 1
    assert await files.read_whole(path) == data + b"+"


async def test_a_whole_file_without_a_size(loop, files, path):
    with open("/proc/self/status", "rb") as file:
        assert (await files.read_whole("/proc/self/status")).splitlines()[0] == file.readline().rstrip()
    os.mkfifo(path)
    data = pattern(700_000)

    def feed():
        with open(path, "wb") as file:
            file.write(data)

    thread = threading.Thread(target=feed)
    thread.start()
    assert await files.read_whole(path) == data
    thread.join()


async def test_no_room(loop, files):
    assert (await failure(files.write_whole("/dev/full", b"lost", os.O_WRONLY))).errno == errno.ENOSPC


# ---- what has no position


async def test_pipes(loop, files):
    reader, writer = os.pipe()
    try:
        reading = asyncio.ensure_future(files.read(reader, 100))
        assert await files.write(writer, b"through a pipe") == 14
        assert await reading == b"through a pipe"
        os.set_blocking(reader, False)
        reading = asyncio.ensure_future(files.read(reader, 100))
        await asyncio.sleep(0.01)
        assert not reading.done()
        assert await files.write(writer, b"late") == 4
        assert await reading == b"late"
        await files.close(writer)
        writer = None
        assert await files.read(reader, 100) == b""
    finally:
        for fd in (reader, writer):
            if fd is not None:
                os.close(fd)


# ---- counters, audit


async def test_counters(loop, files, opened):
    before = loop.stats()
    await files.pwrite(opened, b"x" * 1000, 0)
    await files.pread(opened, 1000, 0)
    after = loop.stats()
    changed = {key: after[key] - before[key] for key in after if key.startswith("file")}
    assert (changed["file_bytes_read"], changed["file_bytes_written"]) == (1000, 1000)
    assert changed["files_at_once"] + changed["files_queued"] + changed["files_by_threads"] == 2


async def test_what_is_cached_is_read_at_once(loop, files, opened):
    os.write(opened, b"cached")
    call = files.pread(opened, 6, 0)
    if not call.done():
        pytest.skip("this file system reads nothing without waiting")
    assert await call == b"cached"
    taken = []
    for _ in range(100):
        turns = loop.stats()["turns"]
        assert await files.pread(opened, 6, 0) == b"cached"
        taken.append(loop.stats()["turns"] - turns)
    # One more turn now and then, since they may not go on for ever.
    assert max(taken) <= 1 and 0 in taken


async def test_served_by(loop, files, way):
    assert files.served_by == f"{loop.choice.kind} page"
