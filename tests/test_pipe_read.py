"""connect_read_pipe: pipes, FIFOs, sockets and terminals that are read."""

import asyncio
import contextlib
import os
import socket

import pytest
from pipe_support import SIZES, in_thread, make_pair, write_all
from support import Recorder, digest, payload, turns


@pytest.mark.parametrize("size", SIZES)
async def test_read(loop, ends, size):
    reading, writing = ends
    data = payload(size)
    transport, protocol = await loop.connect_read_pipe(Recorder, reading)
    sending = asyncio.ensure_future(in_thread(write_all, writing, data))
    await protocol.until_received(size)
    await sending
    assert digest(protocol.data) == digest(data)
    assert protocol.calls == ["made", "data"]
    assert transport.get_extra_info("pipe") is reading
    assert transport.get_extra_info("nothing", 5) == 5
    transport.close()
    await protocol.until_called("lost")
    assert protocol.exc is None
    assert reading.fileno() == -1 if isinstance(reading, socket.socket) else reading.closed


async def test_end_of_a_pipe(loop, pipe):
    reading, writing = pipe
    data = payload(200_000)
    transport, protocol = await loop.connect_read_pipe(lambda: Recorder(keep_open=True), reading)
    await in_thread(write_all, writing, data)
    writing.close()
    await protocol.until_called("lost")
    assert protocol.calls == ["made", "data", "eof", "lost"]
    assert protocol.exc is None
    assert digest(protocol.data) == digest(data)
    assert transport.is_closing() and not transport.is_reading()
    assert reading.closed
    transport.close()
    transport.pause_reading()
    transport.resume_reading()


async def test_end_that_came_before(loop, pipe):
    reading, writing = pipe
    writing.write(b"data")
    writing.close()
    _, protocol = await loop.connect_read_pipe(Recorder, reading)
    await protocol.until_called("lost")
    assert protocol.calls == ["made", "data", "eof", "lost"]
    assert protocol.data == b"data"


async def test_hangup_of_a_terminal(loop, tmp_path):
    reading, writing = make_pair("terminal", tmp_path)
    transport, protocol = await loop.connect_read_pipe(Recorder, reading)
    writing.write(b"data")
    await protocol.until_received(4)
    writing.close()
    await protocol.until_called("lost")
    assert protocol.data == b"data"
    assert transport.is_closing()
    assert reading.closed


@pytest.mark.parametrize("pause_at_once", [False, True])
async def test_pause_and_resume(loop, ends, pause_at_once):
    reading, writing = ends
    transport, protocol = await loop.connect_read_pipe(lambda: Recorder(pause_at_once=pause_at_once), reading)
    if not pause_at_once:
        await turns()
        transport.pause_reading()
    transport.pause_reading()
    assert not transport.is_reading()
    await in_thread(write_all, writing, b"one")
    await asyncio.sleep(0.02)
    assert protocol.chunks == []
    transport.resume_reading()
    transport.resume_reading()
    assert transport.is_reading()
    await protocol.until_received(3)
    transport.pause_reading()
    await in_thread(write_all, writing, b"two")
    transport.resume_reading()
    transport.pause_reading()
    await asyncio.sleep(0.02)
    assert protocol.data == b"one"
    transport.resume_reading()
    await protocol.until_received(6)
    assert protocol.data == b"onetwo"
    transport.close()
    await protocol.until_called("lost")


async def test_pausing_in_data_received(loop, pipe):
    """Each piece pauses; nothing comes before the resume, and nothing is lost."""
    reading, writing = pipe
    data = payload(2_000_000)
    seen = []

    class Pausing(Recorder):
        def data_received(self, data):
            assert self.transport.is_reading()
            self.transport.pause_reading()
            seen.append(len(data))
            super().data_received(data)
            asyncio.get_running_loop().call_later(0.001, self.transport.resume_reading)

    _, protocol = await loop.connect_read_pipe(Pausing, reading)
    sending = asyncio.ensure_future(in_thread(write_all, writing, data))
    await protocol.until_received(len(data))
    await sending
    writing.close()
    await protocol.until_called("lost")
    assert digest(protocol.data) == digest(data)
    assert max(seen) <= 256 * 1024


async def test_closing_in_data_received(loop, ends):
    reading, writing = ends

    class Closing(Recorder):
        def data_received(self, data):
            super().data_received(data)
            self.transport.close()

    _, protocol = await loop.connect_read_pipe(Closing, reading)
    await in_thread(write_all, writing, b"data")
    await protocol.until_called("lost")
    assert protocol.calls == ["made", "data", "lost"]


async def test_an_error_in_data_received_is_reported(loop, errors, pipe):
    """And reading goes on, as in asyncio, whose pipes are not ended by it."""
    reading, writing = pipe

    class Failing(Recorder):
        def data_received(self, data):
            super().data_received(data)
            raise ZeroDivisionError

    transport, protocol = await loop.connect_read_pipe(Failing, reading)
    for i in range(1, 4):
        writing.write(b"x")
        await protocol.until_received(i)
    assert [type(e["exception"]) for e in errors] == [ZeroDivisionError] * 3
    errors.clear()
    transport.close()
    await protocol.until_called("lost")


async def test_errors_in_other_callbacks_are_reported(loop, errors, pipe):
    reading, writing = pipe

    class Failing(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            raise ZeroDivisionError

        def eof_received(self):
            super().eof_received()
            raise ZeroDivisionError

        def connection_lost(self, exc):
            super().connection_lost(exc)
            raise ZeroDivisionError

    _, protocol = await loop.connect_read_pipe(Failing, reading)
    writing.close()
    await protocol.until_called("lost")
    await turns()
    assert protocol.calls == ["made", "eof", "lost"]
    assert [type(e["exception"]) for e in errors] == [ZeroDivisionError] * 3
    errors.clear()
    assert reading.closed


async def test_another_protocol(loop, pipe):
    reading, writing = pipe
    transport, first = await loop.connect_read_pipe(Recorder, reading)
    second = Recorder()
    assert transport.get_protocol() is first
    transport.set_protocol(second)
    assert transport.get_protocol() is second
    writing.write(b"data")
    await second.until_received(4)
    assert first.chunks == []
    transport.close()
    await second.until_called("lost")


async def test_stream_reader(loop, ends):
    reading, writing = ends
    reader = asyncio.StreamReader()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), reading)
    data = payload(1_000_000).replace(b"\n", b" ")
    sending = asyncio.ensure_future(in_thread(write_all, writing, b"first\n" + data + b"\n"))
    assert await reader.readline() == b"first\n"
    assert digest(await reader.readexactly(len(data))) == digest(data)
    assert await reader.readline() == b"\n"
    await sending
    transport.close()
    await turns()


async def test_two_readers_of_one_pipe(loop, pipe):
    """Who finds nothing goes on waiting; each byte arrives once."""
    reading, writing = pipe
    other = open(os.dup(reading.fileno()), "rb", 0)
    _, first = await loop.connect_read_pipe(Recorder, reading)
    _, second = await loop.connect_read_pipe(Recorder, other)
    data = payload(500_000)
    sending = asyncio.ensure_future(in_thread(write_all, writing, data))
    await sending
    writing.close()
    await first.until_called("lost")
    await second.until_called("lost")
    assert first.received + second.received == len(data)
    assert sorted(first.data + second.data) == sorted(data)


@pytest.mark.ours  # asyncio reads whatever has that number by then
async def test_a_pipe_that_is_closed_behind_our_back(loop, errors, pipe):
    reading, writing = pipe
    number = reading.fileno()
    transport, protocol = await loop.connect_read_pipe(Recorder, reading)
    await turns()
    reading.close()
    other_reading, other_writing = os.pipe()
    assert other_reading == number
    os.write(other_writing, b"not yours")
    with contextlib.suppress(BrokenPipeError):
        writing.write(b"x")
    await asyncio.sleep(0.05)
    transport.pause_reading()
    transport.resume_reading()
    await turns(5)
    transport.close()
    await protocol.until_called("lost")
    assert protocol.chunks == []
    assert os.read(other_reading, 100) == b"not yours"
    assert all(type(e["exception"]) is OSError for e in errors)
    errors.clear()
    os.close(other_writing)
    os.close(other_reading)
