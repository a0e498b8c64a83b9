"""connect_read_pipe and connect_write_pipe: what both have in common, and what is refused."""

import asyncio
import gc
import logging
import os
import pty
import termios
import threading
import warnings

import pytest
from pipe_support import Writer, make_pair
from support import Recorder, digest, eventually, payload, settle, turns


@pytest.mark.parametrize("side", ["read", "write"])
async def test_other_files_are_refused(loop, tmp_path, side):
    (tmp_path / "file").write_bytes(b"data")
    connect, factory = {
        "read": (loop.connect_read_pipe, Recorder), "write": (loop.connect_write_pipe, Writer),
    }[side]
    with open(tmp_path / "file", "r+b") as file, pytest.raises(ValueError, match="pipes"):
        await connect(factory, file)


@pytest.mark.parametrize("side", ["read", "write"])
async def test_connecting_makes_it_non_blocking(loop, pipe, side):
    reading, writing = pipe
    if side == "read":
        transport, _ = await loop.connect_read_pipe(Recorder, reading)
        assert not os.get_blocking(reading.fileno())
    else:
        transport, _ = await loop.connect_write_pipe(Writer, writing)
        assert not os.get_blocking(writing.fileno())
    transport.close()
    await turns(5)


@pytest.mark.parametrize("side", ["read", "write"])
async def test_cancelled_connect(loop, pipe, side):
    reading, writing = pipe
    connecting = asyncio.ensure_future(
        loop.connect_read_pipe(Recorder, reading) if side == "read" else loop.connect_write_pipe(Writer, writing)
    )
    await asyncio.sleep(0)
    connecting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await connecting
    end = reading if side == "read" else writing
    await settle(lambda: end.closed)


async def test_closing_in_connection_made(loop, pipe):
    class Closing(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            transport.close()

    reading, _ = pipe
    _, protocol = await loop.connect_read_pipe(Closing, reading)
    await protocol.until_called("lost")
    assert protocol.calls == ["made", "lost"]
    assert reading.closed


@pytest.mark.parametrize("side", ["read", "write"])
def test_unclosed_transports_warn(new_loop, pipe, side):
    reading, writing = pipe
    loop = new_loop()

    async def main(loop):
        if side == "read":
            await loop.connect_read_pipe(Recorder, reading)
        else:
            await loop.connect_write_pipe(Writer, writing)

    loop.run_until_complete(main(loop))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loop.close()
        del loop
        gc.collect()
        seen = [str(w.message) for w in caught if w.category is ResourceWarning and "transport" in str(w.message)]
    assert len(seen) == 1


async def test_repr(loop, pipe):
    reading, writing = pipe
    first, one = await loop.connect_read_pipe(Recorder, reading)
    second, two = await loop.connect_write_pipe(Writer, writing)
    assert f"fd={reading.fileno()}" in repr(first)
    assert f"fd={writing.fileno()}" in repr(second)
    assert "bufsize=0" in repr(second)
    second.close()
    assert "clos" in repr(second)
    await two.lost
    await one.until_called("lost")
    assert "closed" in repr(first) and "closed" in repr(second)


async def test_debug_mode(loop, pipe, caplog):
    loop.set_debug(True)
    reading, writing = pipe
    with caplog.at_level(logging.DEBUG, "asyncio"):
        transport, protocol = await loop.connect_read_pipe(Recorder, reading)
        transport.pause_reading()
        transport.resume_reading()
        writing.close()
        await protocol.until_called("lost")
    for text in ("connected", "pauses reading", "resumes reading", "was closed by peer"):
        assert text in caplog.text


async def test_many_pipes(loop):
    """All at once, with data in every one, and none mixed up."""
    count = 100
    readers, writers = [], []
    for _ in range(count):
        reading, writing = os.pipe()
        readers.append((await loop.connect_read_pipe(Recorder, open(reading, "rb", 0)))[1])
        writers.append(await loop.connect_write_pipe(Writer, open(writing, "wb", 0)))
    for i, (transport, _) in enumerate(writers):
        transport.write(payload(20_000 + i, i))
        transport.close()
    for i, reader in enumerate(readers):
        await reader.until_called("lost")
        assert digest(reader.data) == digest(payload(20_000 + i, i))
    for _, protocol in writers:
        await protocol.lost


async def test_context(loop, pipe):
    """Callbacks run in the context in which the pipe was connected."""
    import contextvars

    variable = contextvars.ContextVar("variable", default="outside")
    seen = []

    class Noting(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            seen.append(variable.get())

        def data_received(self, data):
            seen.append(variable.get())
            super().data_received(data)

    reading, writing = pipe
    variable.set("inside")
    _, protocol = await loop.connect_read_pipe(Noting, reading)
    variable.set("later")
    writing.write(b"x")
    await protocol.until_received(1)
    writing.close()
    await protocol.until_called("lost")
    assert seen == ["inside", "inside"]


def test_a_loop_in_another_thread(new_loop, tmp_path):
    results = []

    def work():
        loop = new_loop()

        async def main():
            reading, writing = make_pair("pipe", tmp_path)
            _, reader = await loop.connect_read_pipe(Recorder, reading)
            transport, writer = await loop.connect_write_pipe(Writer, writing)
            transport.write(payload(1_000_000))
            transport.close()
            await reader.until_called("lost")
            await writer.lost
            results.append(digest(reader.data))

        loop.run_until_complete(main())
        loop.close()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert results == [digest(payload(1_000_000))]


async def test_a_terminal_line_by_line(loop):
    """The line discipline is the terminal's own: what is typed comes with the end of the line."""
    master, slave = pty.openpty()
    attributes = termios.tcgetattr(slave)
    attributes[3] &= ~termios.ECHO
    termios.tcsetattr(slave, termios.TCSANOW, attributes)
    transport, protocol = await loop.connect_read_pipe(Recorder, open(slave, "rb", 0))
    os.write(master, b"not yet")
    await asyncio.sleep(0.02)
    assert protocol.chunks == []
    os.write(master, b" now\n")
    await protocol.until_received(12)
    assert protocol.data == b"not yet now\n"
    transport.close()
    await protocol.until_called("lost")
    os.close(master)


async def test_dev_null(loop):
    """asyncio's selector refuses what epoll refuses; reading nothing from /dev/null is its end."""
    if not hasattr(loop, "stats"):
        pytest.skip("asyncio's loop can't poll /dev/null")
    transport, protocol = await loop.connect_write_pipe(Writer, open(os.devnull, "wb", 0))
    transport.write(payload(1_000_000))
    transport.close()
    await protocol.lost
    _, reader = await loop.connect_read_pipe(Recorder, open(os.devnull, "rb", 0))
    await reader.until_called("lost")
    assert reader.calls == ["made", "eof", "lost"]
    assert eventually(lambda: transport.get_write_buffer_size() == 0)
