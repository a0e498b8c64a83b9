"""Calls on files: what is cancelled, closed or abandoned half-way."""

from __future__ import annotations

import asyncio
import errno
import os
import textwrap
import time

import pytest
from support import run_python

import flexsc_loop

pytestmark = pytest.mark.ours


async def test_a_cancelled_read_holds_its_buffer(loop, files):
    reader, writer = os.pipe()
    task = asyncio.ensure_future(files.read(reader, 8))
    await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    closing = files.close(reader)
    await asyncio.sleep(0.02)
    os.write(writer, b"too late")
    await closing
    os.close(writer)


async def test_a_cancelled_write_is_made(loop, files, tmp_path):
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    data = bytearray(b"all of it")
    call = files.pwrite(fd, data, 0)
    assert call.cancel("no") and call.cancelled() and not call.cancel()
    with pytest.raises(asyncio.CancelledError, match="no"):
        await call
    await files.close(fd)
    assert (tmp_path / "file").read_bytes() == b"all of it"
    data.extend(b"nobody holds it any more")


async def test_a_buffer_is_held_while_it_is_used(loop, files):
    reader, writer = os.pipe()
    os.set_blocking(writer, True)
    data = bytearray(1 << 20)
    writing = asyncio.ensure_future(files.write(writer, data))
    await asyncio.sleep(0.02)
    with pytest.raises(BufferError):
        data.append(1)
    got = 0
    while got < 1 << 20:
        got += len(await files.read(reader, 1 << 20))
    assert await writing == 1 << 20
    data.append(1)
    os.close(reader)
    os.close(writer)


async def test_an_open_that_nobody_waits_for_leaves_no_descriptor(loop, files, tmp_path):
    for i in range(50):
        call = files.open(tmp_path / f"{i}", os.O_CREAT | os.O_WRONLY)
        call.cancel()
    while len(os.listdir(tmp_path)) < 50 or loop.stats()["in_flight"]:
        await asyncio.sleep(0.001)  # the leaks fixture looks at what is left open


async def test_closing_waits_for_what_is_in_flight(loop, files, tmp_path):
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    calls = [files.pwrite(fd, bytes([65 + i]) * 100_000, i * 100_000) for i in range(20)]
    closing = files.close(fd)
    late = files.pwrite(fd, b"too late", 0)
    twice = files.close(fd)
    assert await asyncio.gather(*calls) == [100_000] * 20
    await closing
    for call in (late, twice):
        with pytest.raises(OSError) as caught:
            await call
        assert caught.value.errno == errno.EBADF
    assert (tmp_path / "file").read_bytes() == b"".join(bytes([65 + i]) * 100_000 for i in range(20))


async def test_a_close_that_is_cancelled_closes(loop, files, tmp_path):
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    writing = files.pwrite(fd, bytes(1 << 20), 0)
    files.close(fd).cancel()
    await writing
    while True:
        try:
            os.fstat(fd)
        except OSError:
            break
        await asyncio.sleep(0)


async def test_with_futures_tools(loop, files, tmp_path):
    """asyncio's own functions take a call as they take a future."""
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    await files.pwrite(fd, b"0123456789", 0)
    assert await asyncio.gather(*[files.pread(fd, 1, i) for i in range(10)]) == [b"%d" % i for i in range(10)]
    done, pending = await asyncio.wait({files.fsync(fd), files.pread(fd, 1, 0)})
    assert len(done) == 2 and not pending
    assert await asyncio.wait_for(files.pread(fd, 3, 0), 5) == b"012"
    assert await asyncio.shield(files.fsync(fd)) is None
    assert asyncio.isfuture(files.pread(fd, 1, 0))
    called = []
    call = files.fsync(fd)
    call.add_done_callback(called.append)
    call.add_done_callback(print)
    assert call.remove_done_callback(print) == 1
    with pytest.raises(asyncio.InvalidStateError):
        call.result()
    await call
    await asyncio.sleep(0)
    assert called == [call]
    assert call.result() is None and call.exception() is None
    await files.close(fd)


async def test_a_timeout(loop, files):
    reader, writer = os.pipe()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(files.read(reader, 1), 0.02)
    os.write(writer, b"x")
    await files.close(reader)
    os.close(writer)


async def test_an_awaited_call_runs_again_with_its_context(loop, files, tmp_path):
    import contextvars

    var = contextvars.ContextVar("var")

    async def one(value):
        var.set(value)
        fd = await files.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
        await files.fsync(fd)
        await files.close(fd)
        return var.get()

    assert await asyncio.gather(*[one(i) for i in range(20)]) == list(range(20))


async def test_what_never_sleeps_lets_others_run(loop, files, tmp_path):
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    os.write(fd, bytes(4096))
    if not files.pread(fd, 1, 0).done():
        os.close(fd)
        pytest.skip("this file system reads nothing without waiting")
    stop = False

    async def read_on():
        while not stop:
            await files.pread(fd, 4096, 0)

    reading = [asyncio.ensure_future(read_on()) for _ in range(3)]
    for _ in range(20):
        await asyncio.sleep(0.001)
    stop = True
    await asyncio.gather(*reading)
    os.close(fd)


# ---- the end of a loop


def test_a_loop_is_closed_with_calls_in_flight(new_loop, tmp_path):
    """What was asked for is done."""
    loop = new_loop()
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    calls = [loop._files.pwrite(fd, bytes([i]) * 1000, i * 1000) for i in range(200)]
    loop._files.pread(fd, 100, 0)
    loop.close()
    assert (tmp_path / "file").read_bytes() == b"".join(bytes([i]) * 1000 for i in range(200))
    assert all(call.done() for call in calls)
    os.close(fd)
    with pytest.raises(RuntimeError, match="closed"):
        loop._files.pread(fd, 1, 0)


def test_a_loop_is_closed_with_a_close_that_waits(new_loop, tmp_path):
    loop = new_loop()
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    loop._files.pwrite(fd, bytes(1000), 0)
    loop._files.close(fd)
    loop.close()
    with pytest.raises(OSError):
        os.fstat(fd)


def test_a_loop_is_closed_while_a_thread_is_stuck(new_loop, fifo):
    """It does not wait for ever; the call ends with an error, and its thread when the call does."""
    loop = new_loop()
    opening = loop._files.open(fifo, os.O_RDONLY)

    async def wait_a_little():
        await asyncio.wait({opening}, timeout=0.05)

    loop.run_until_complete(wait_a_little())
    before = time.monotonic()
    loop.close()
    assert time.monotonic() - before < 20
    with pytest.raises(OSError) as caught:
        opening.result()
    assert caught.value.errno == errno.ECANCELED
    os.close(os.open(fifo, os.O_WRONLY))  # it gets on now, and closes what it has opened: see the leaks fixture


def test_a_loop_goes_on_later(new_loop, tmp_path):
    """Results that come while the loop does not run are there when it does."""
    loop = new_loop()
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    call = loop._files.pwrite(fd, b"x" * 10, 0)
    while os.fstat(fd).st_size == 0:
        time.sleep(0.001)

    async def take():
        return await call

    assert loop.run_until_complete(take()) == 10
    loop.run_until_complete(loop._files.run(os.close, fd))


def test_fork_with_calls_in_flight(way, tmp_path):
    code = way.prelude() + textwrap.dedent(
        f"""
        import os, sys, asyncio
        path = {str(tmp_path / "file")!r}

        async def child():
            files = asyncio.get_running_loop()._files
            fd = await files.open(path + "2", os.O_RDWR | os.O_CREAT)
            assert await files.pwrite(fd, b"child", 0) == 5
            await files.close(fd)

        async def main():
            loop = asyncio.get_running_loop()
            fd = os.open(path, os.O_RDWR | os.O_CREAT)
            calls = [loop._files.pwrite(fd, bytes(10000), i * 10000) for i in range(100)]
            pid = os.fork()
            if pid == 0:
                try:
                    loop._files.pread(fd, 1, 0)
                    loop._files.fsync(fd)
                except RuntimeError:
                    asyncio._set_running_loop(None)
                    run(child())
                    os._exit(0)
                os._exit(1)
            assert await asyncio.gather(*calls) == [10000] * 100
            await files_closed(loop, fd)
            assert os.waitpid(pid, 0)[1] == 0

        async def files_closed(loop, fd):
            await loop._files.close(fd)

        run(main())
        print("fine")
        """
    )
    end = run_python(code)
    assert end.out.strip() == "fine", end.err


@pytest.mark.parametrize("mode", ["r+b", "ab"])
async def test_an_unbuffered_write_that_nobody_waits_for_has_its_turn_to_its_end(loop, tmp_path, mode):
    path = tmp_path / "file"
    path.touch()
    async with flexsc_loop.open(path, mode, 0) as file:
        write = file.write(b"first ")
        call = write.send(None)
        call.cancel()
        write.close()
        assert await asyncio.gather(file.write(b"second "), file.tell(), file.write(b"third")) == [7, 13, 5]
        assert await file.tell() == 18
    assert path.read_bytes() == b"first second third"


async def test_an_unbuffered_write_that_nobody_waits_for_fails(loop, errors, tmp_path):
    path = tmp_path / "file"
    path.touch()
    async with flexsc_loop.open(path, "r+b", 0, opener=lambda path, flags: os.open(path, os.O_RDONLY)) as file:
        write = file.write(b"never")
        write.send(None).cancel()
        write.close()
        assert await file.tell() == 0
        with pytest.raises(OSError) as caught:
            await file.write(b"neither")
        assert caught.value.errno == errno.EBADF
        assert await file.tell() == 0
    assert [context["exception"].errno for context in errors] == [errno.EBADF]
    errors.clear()
