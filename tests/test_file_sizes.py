"""What calls on files hold, transfers that the kernel cuts, and descriptors that are no files."""

from __future__ import annotations

import asyncio
import contextlib
import mmap
import os
import socket
import textwrap
import tracemalloc

import pytest
from support import run_python

import flexsc_loop

CUT = 0x7FFFF000  # no call of the kernel moves more
MANY = 10_000
BLOCK = 4096


@contextlib.contextmanager
def memory(size):
    """So much, of which nothing is used before it is written to."""
    with mmap.mmap(-1, size) as buffer:
        yield buffer


def available():
    """Bytes that processes may still use."""
    with open("/proc/meminfo") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith("MemAvailable"))


async def test_a_write_of_more_than_the_kernel_takes(loop):
    with memory(CUT + 5000) as data:
        async with flexsc_loop.open("/dev/null", "wb", 0) as file:
            assert await file.pwrite(data, 0) == CUT + 5000


@pytest.mark.slow
async def test_a_read_of_more_than_the_kernel_gives(loop, soak, tmp_path):
    if not soak:
        pytest.skip("only with --soak: takes several GiB of memory")
    if available() < 4 * CUT:
        pytest.skip("takes more memory than there is")
    with open(tmp_path / "file", "wb") as file:
        file.truncate(CUT + 5000)
        os.pwrite(file.fileno(), b"the end", CUT + 4993)
    with memory(CUT + 5000) as buffer:
        async with flexsc_loop.open(tmp_path / "file", "rb") as file:
            assert await file.pread_into(buffer, 0) == CUT + 5000
        assert buffer[-8:] == b"\0the end"


async def test_many_reads_hold_their_buffers_alone(loop, tmp_path):
    (tmp_path / "file").write_bytes(bytes(range(256)) * 16 * 64)
    async with flexsc_loop.open(tmp_path / "file", "rb") as file:
        fd, files = file.fileno(), loop._files
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        tracemalloc.start()
        try:
            calls = [files.pread(fd, BLOCK, number % 64 * BLOCK) for number in range(MANY)]
            held, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert MANY * BLOCK < held < MANY * (BLOCK + 700)
        assert {bytes(data) for data in await asyncio.gather(*calls)} == {bytes(range(256)) * 16}


async def test_sockets_as_files(loop):
    """A read that was given up takes no byte away."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        async with (
            flexsc_loop.open(ours.fileno(), "rb", 0, closefd=False) as reader,
            flexsc_loop.open(theirs.fileno(), "wb", 0, closefd=False) as writer,
        ):
            given_up = asyncio.create_task(reader.read(5))
            await asyncio.sleep(0)
            given_up.cancel()
            with pytest.raises(asyncio.CancelledError):
                await given_up
            assert await writer.write(b"hello") == 5
            assert await reader.read(5) == b"hello"
            theirs.shutdown(socket.SHUT_WR)
            assert await reader.read(5) == b""
            with pytest.raises(OSError, match=r"(Illegal|Invalid) seek"):
                await reader.seek(0)


async def test_a_read_of_a_fifo_is_given_up(loop, tmp_path):
    os.mkfifo(tmp_path / "fifo")
    ends = os.open(tmp_path / "fifo", os.O_RDWR)
    try:
        async with flexsc_loop.open(tmp_path / "fifo", "rb") as reader:
            for _ in range(3):
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(reader.readline(), 0.01)
            os.write(ends, b"first\nsecond\n")
            assert [await reader.readline(), await reader.readline()] == [b"first\n", b"second\n"]
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(reader.read(1), 0.01)
    finally:
        os.close(ends)


def test_fork_with_an_open_file(way, tmp_path):
    """The child has the descriptor, but no loop for the file; the parent's goes on, and writes its buffer once."""
    code = way.prelude() + textwrap.dedent(
        f"""
        import os, asyncio, flexsc_loop
        path = {str(tmp_path / "file")!r}

        async def child(file):
            try:
                await file.write(b"of the child")
            except RuntimeError:
                async with flexsc_loop.open(path, "rb") as own:
                    return await own.read()

        async def main():
            file = await flexsc_loop.open(path, "wb")
            await file.write(b"written")
            await file.flush()
            await file.write(b", then buffered")
            pid = os.fork()
            if pid == 0:
                asyncio._set_running_loop(None)
                os._exit(0 if run(child(file)) == b"written" else 1)
            assert os.waitpid(pid, 0)[1] == 0
            await file.close()
            with open(path, "rb") as read:
                assert read.read() == b"written, then buffered"

        run(main())
        print("fine")
        """
    )
    end = run_python(code)
    assert end.out.strip() == "fine", end.err
