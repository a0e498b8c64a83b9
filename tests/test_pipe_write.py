"""connect_write_pipe: pipes, FIFOs, sockets and terminals that are written to."""

import asyncio
import logging
import os

import pytest
from pipe_support import SIZES, Writer, in_thread, read_exactly
from support import Recorder, digest, payload, settle, turns


@pytest.mark.parametrize("size", SIZES)
async def test_write(loop, ends, size):
    reading, writing = ends
    data = payload(size)
    transport, protocol = await loop.connect_write_pipe(Writer, writing)
    receiving = asyncio.ensure_future(in_thread(read_exactly, reading, size))
    transport.write(data[: size // 3])
    transport.write(bytearray(data[size // 3 : size // 2]))
    transport.write(b"")
    transport.write(memoryview(data)[size // 2 :])
    assert digest(await receiving) == digest(data)
    assert transport.get_extra_info("pipe") is writing
    transport.close()
    await protocol.lost
    assert protocol.exc is None
    assert protocol.calls[0] == "made" and protocol.calls[-1] == "lost"


def test_a_write_leaves_at_once(loop, pipe):
    """Even while the loop does not run."""
    reading, writing = pipe
    transport, protocol = loop.run_until_complete(loop.connect_write_pipe(Writer, writing))
    for i in range(3):
        transport.write(b"%d" % i)
        assert os.read(reading.fileno(), 10) == b"%d" % i
    transport.close()
    loop.run_until_complete(protocol.lost)


async def test_what_is_written_is_copied(loop, pipe):
    reading, writing = pipe
    transport, protocol = await loop.connect_write_pipe(Writer, writing)
    buffer = bytearray(payload(300_000))
    expect = bytes(buffer)
    transport.write(buffer)
    buffer[:] = bytes(len(buffer))
    buffer.clear()
    assert digest(await in_thread(read_exactly, reading, len(expect))) == digest(expect)
    transport.close()
    await protocol.lost


async def test_many_small_writes(loop, ends):
    reading, writing = ends
    transport, protocol = await loop.connect_write_pipe(Writer, writing)
    lines = [b"line %d\n" % i for i in range(20_000)]
    receiving = asyncio.ensure_future(in_thread(read_exactly, reading, sum(map(len, lines))))
    transport.writelines(lines[:5000])
    for line in lines[5000:]:
        await protocol.may_write.wait()
        transport.write(line)
    assert digest(await receiving) == digest(b"".join(lines))
    transport.close()
    await protocol.lost


@pytest.mark.parametrize("end", ["close", "write_eof"])
async def test_the_end_comes_after_the_data(loop, pipe, end):
    reading, writing = pipe
    data = payload(1_000_000)
    transport, protocol = await loop.connect_write_pipe(Writer, writing)
    assert transport.can_write_eof()
    transport.write(data)
    getattr(transport, end)()
    assert transport.is_closing()
    transport.close()
    assert digest(await in_thread(read_exactly, reading, 1 << 30)) == digest(data)
    await protocol.lost
    assert protocol.exc is None
    assert protocol.calls == ["made", "pause", "resume", "lost"] or protocol.calls == ["made", "pause", "lost"]
    assert writing.closed


async def test_abort_drops_what_was_written(loop, pipe):
    reading, writing = pipe
    transport, protocol = await loop.connect_write_pipe(Writer, writing)
    transport.write(payload(1_000_000))
    await turns(5)
    transport.abort()
    assert transport.get_write_buffer_size() == 0
    await protocol.lost
    assert protocol.exc is None
    assert len(await in_thread(read_exactly, reading, 1 << 30)) < 1_000_000


async def test_write_limits(loop, pipe):
    reading, writing = pipe
    transport, protocol = await loop.connect_write_pipe(Writer, writing)
    assert transport.get_write_buffer_limits() == (16 * 1024, 64 * 1024)
    transport.write(b"x" * 65536)
    await settle(lambda: transport.get_write_buffer_size() == 0)
    assert protocol.calls == ["made"]
    transport.write(b"y" * 65536)
    await turns(5)
    assert transport.get_write_buffer_size() == 65536
    assert protocol.calls == ["made"]
    transport.write(b"z")
    assert protocol.calls == ["made", "pause"]
    await in_thread(read_exactly, reading, 65536 + 65536)
    await protocol.may_write.wait()
    assert protocol.calls == ["made", "pause", "resume"]
    transport.set_write_buffer_limits(high=1000)
    assert transport.get_write_buffer_limits() == (250, 1000)
    transport.set_write_buffer_limits(low=100)
    assert transport.get_write_buffer_limits() == (100, 400)
    with pytest.raises(ValueError):
        transport.set_write_buffer_limits(high=1, low=2)
    transport.close()
    await protocol.lost


@pytest.mark.parametrize("ends", ["pipe", "fifo", "socket"], indirect=True)
async def test_the_reader_leaves(loop, ends):
    """An idle writer is told that its reader has gone."""
    reading, writing = ends
    transport, protocol = await loop.connect_write_pipe(Writer, writing)
    await turns(5)
    reading.close()
    await protocol.lost
    assert protocol.exc is None
    assert transport.is_closing()


async def test_the_reader_leaves_with_data_on_the_way(loop, pipe):
    reading, writing = pipe
    transport, protocol = await loop.connect_write_pipe(Writer, writing)
    transport.write(payload(1_000_000))
    await turns(5)
    reading.close()
    await protocol.lost
    assert isinstance(protocol.exc, BrokenPipeError)
    assert protocol.calls == ["made", "pause", "lost"]
    assert transport.get_write_buffer_size() == 0


async def test_writing_after_the_reader_left(loop, pipe, caplog):
    reading, writing = pipe
    transport, protocol = await loop.connect_write_pipe(Writer, writing)
    reading.close()
    with caplog.at_level(logging.WARNING, "asyncio"):
        for _ in range(10):
            transport.write(b"x")
            await turns()
    await protocol.lost
    assert protocol.exc is None or isinstance(protocol.exc, BrokenPipeError)
    assert "pipe closed by peer" in caplog.text


async def test_wrong_data(loop, pipe):
    _, writing = pipe
    transport, protocol = await loop.connect_write_pipe(Writer, writing)
    for data in ("text", 5, None, [b"list"]):
        with pytest.raises((TypeError, AssertionError)):
            transport.write(data)
    transport.close()
    await protocol.lost


async def test_nothing_of_a_list_is_written_if_an_item_is_bad(loop, pipe):
    reading, writing = pipe
    transport, protocol = await loop.connect_write_pipe(Writer, writing)
    with pytest.raises(TypeError):
        transport.writelines([b"never written", "text"])
    transport.writelines(part for part in (b"o", bytearray(b"n"), memoryview(b"e")))
    assert os.read(reading.fileno(), 100) == b"one"
    transport.close()
    await protocol.lost


async def test_both_ends_in_one_loop(loop, ends):
    reading, writing = ends
    _, reader = await loop.connect_read_pipe(Recorder, reading)
    transport, writer = await loop.connect_write_pipe(Writer, writing)
    parts = [payload(size, 7) for size in SIZES]
    for part in parts:
        await writer.may_write.wait()
        transport.write(part)
    await reader.until_received(sum(SIZES))
    assert digest(reader.data) == digest(b"".join(parts))
    transport.close()
    await writer.lost
    await reader.until_called("lost")


async def test_a_slow_reader(loop, pipe):
    reading, writing = pipe
    transport, protocol = await loop.connect_write_pipe(Writer, writing)
    data = payload(400_000)
    transport.write(data)
    got = []
    while sum(map(len, got)) < len(data):
        got.append(await in_thread(os.read, reading, 3001))
        await asyncio.sleep(0)
    assert digest(b"".join(got)) == digest(data)
    transport.close()
    await protocol.lost


async def test_a_stopped_reader_costs_no_turns(loop, pipe):
    """A loop that waits for room sleeps."""
    transport, protocol = await loop.connect_write_pipe(Writer, pipe[1])
    transport.write(payload(1_000_000))
    await asyncio.sleep(0.05)
    if hasattr(loop, "stats"):
        before = loop.stats()["turns"]
        await asyncio.sleep(0.2)
        assert loop.stats()["turns"] - before < 10
    transport.abort()
    await protocol.lost


async def test_stream_writer(loop, pipe):
    reading, writing = pipe
    transport, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, writing)
    writer = asyncio.StreamWriter(transport, protocol, None, loop)
    data = payload(50_000)
    receiving = asyncio.ensure_future(in_thread(read_exactly, reading, 20 * len(data)))
    for _ in range(20):
        writer.write(data)
        await writer.drain()
    assert digest(await receiving) == digest(data * 20)
    writer.close()
    await turns(5)
