"""What asyncio's pipes promise about time: when a write leaves, and which callback comes before which."""

import asyncio
import gc
import os
import socket
import weakref

import pytest
from pipe_support import Writer, make_pair
from support import Leaving, Recorder, payload, run_again, settle, turns


@pytest.fixture(params=["pipe", "fifo", "socket", "terminal"])
def ends(request, tmp_path):
    reading, writing = make_pair(request.param, tmp_path)
    os.set_blocking(reading.fileno(), False)
    yield reading, writing
    reading.close()
    writing.close()


# -- writes


@pytest.mark.parametrize("ends", ["pipe", "fifo", "socket"], indirect=True)  # terminals take their time
async def test_each_write_leaves_at_once(loop, ends):
    """Within the callback that makes it, as long as there is room and nothing waits."""
    reading, writing = ends
    transport, protocol = await loop.connect_write_pipe(Writer, writing)
    for number in range(5):
        transport.write(b"%d" % number)
        assert os.read(reading.fileno(), 10) == b"%d" % number
    transport.write(b"and ")
    transport.write(b"these ")
    transport.writelines([b"to", b"gether"])
    assert os.read(reading.fileno(), 100) == b"and these together"
    assert transport.get_write_buffer_size() == 0
    transport.abort()
    await protocol.lost


async def test_what_does_not_fit_waits_and_keeps_its_place(loop, pipe):
    reading, writing = pipe
    os.set_blocking(reading.fileno(), False)
    transport, protocol = await loop.connect_write_pipe(Writer, writing)
    data = payload(100_000)
    transport.write(data[:70_000])
    first = os.read(reading.fileno(), 1 << 20)
    assert len(first) == 65_536
    transport.write(data[70_000:])  # not before what waits, though there is room again
    assert transport.get_write_buffer_size() == 100_000 - 65_536
    parts = [first]
    while sum(map(len, parts)) < len(data):
        await asyncio.sleep(0)
        try:
            parts.append(os.read(reading.fileno(), 1 << 20))
        except BlockingIOError:
            continue
    assert b"".join(parts) == data
    transport.close()
    await protocol.lost


async def test_a_write_pipe_is_a_transport(loop, pipe):
    """As asyncio's is, whose reading methods are there and not implemented."""
    transport, protocol = await loop.connect_write_pipe(Writer, pipe[1])
    assert isinstance(transport, asyncio.Transport)
    for name in ("pause_reading", "resume_reading", "is_reading"):
        with pytest.raises(NotImplementedError):
            getattr(transport, name)()
    transport.close()
    await protocol.lost


async def test_pipes_take_attributes(loop, pipe):
    reader, reading = await loop.connect_read_pipe(Recorder, pipe[0])
    writer, writing = await loop.connect_write_pipe(Writer, pipe[1])
    written = []
    writer.write = written.append
    writer.write(b"seen")
    del writer.write
    reader.my_own = 5
    assert written == [b"seen"] and reader.my_own == 5
    assert weakref.ref(reader)() is reader and weakref.ref(writer)() is writer
    writer.close()
    await writing.lost
    await reading.until_called("lost")
    gc.collect()


# -- the order of callbacks


async def test_whoever_connects_goes_on_before_anything_is_read(loop, ends):
    """So that it can pause, or set another protocol, without missing data."""
    reading, writing = ends
    os.write(writing.fileno(), b"early\n")
    transport, protocol = await loop.connect_read_pipe(Recorder, reading)
    assert protocol.calls == ["made"]
    transport.pause_reading()
    await turns(10)
    assert protocol.calls == ["made"]
    transport.resume_reading()
    await protocol.until_received(6)
    transport.close()
    await protocol.until_called("lost")


class Noting(Recorder):
    """Has a mark called soon in each callback."""

    def _note(self, name):
        super()._note(name)
        asyncio.get_running_loop().call_soon(self.calls.append, f"after {name}")


async def test_what_a_callback_has_called_soon_runs_before_the_next_one(loop, pipe):
    reading, writing = pipe
    writing.write(b"data")
    writing.close()
    _, protocol = await loop.connect_read_pipe(Noting, reading)
    await settle(lambda: "after lost" in protocol.calls)
    calls = [call for call in protocol.calls if call != "after eof"]
    assert calls == ["made", "after made", "data", "after data", "eof", "lost", "after lost"]


@pytest.mark.parametrize(("side", "end"), [("read", "close"), ("write", "close"), ("write", "abort")])
async def test_connection_lost_stands_in_line(way, loop, ends, side, end):
    """Behind the callbacks that were due before the end was asked for, in front of those that came after."""
    calls = []

    class Protocol(asyncio.Protocol):
        def connection_lost(self, exc):
            calls.append("lost")

    connect = loop.connect_read_pipe if side == "read" else loop.connect_write_pipe
    transport, _ = await connect(Protocol, ends[side == "write"])
    await turns(5)
    loop.call_soon(calls.append, "before")
    getattr(transport, end)()
    loop.call_soon(calls.append, "after")
    assert calls == []
    await settle(lambda: len(calls) == 3)
    assert calls[0] == "before"
    if way.threads in (None, "off"):  # a syscall thread may need longer to let go of the pipe
        assert calls == ["before", "lost", "after"]


async def test_closing_in_a_callback_that_other_callbacks_follow(loop, pipe):
    """Data has come, and before it is delivered a callback closes the pipe."""
    reading, writing = pipe
    transport, protocol = await loop.connect_read_pipe(Noting, reading)
    await turns(5)
    writing.write(b"data")
    loop.call_soon(transport.close)
    loop.call_soon(protocol.calls.append, "behind")
    await settle(lambda: "lost" in protocol.calls)
    assert protocol.calls.index("behind") < protocol.calls.index("lost")
    assert "eof" not in protocol.calls


# -- nothing spins


@pytest.mark.parametrize("what", ["idle", "full", "paused", "half-closed", "paused with data"])
async def test_a_pipe_that_waits_costs_nothing(loop, ends, what):
    reading, writing = ends
    transport, protocol = await loop.connect_write_pipe(Writer, writing)
    reader, received = await loop.connect_read_pipe(Recorder, reading)
    reader.pause_reading()
    if what == "full":
        transport.write(payload(1_000_000))
    elif what == "paused with data":
        transport.write(b"data\n")
    elif what == "half-closed" and isinstance(writing, socket.socket):
        transport.write(payload(1_000_000))
        writing.shutdown(socket.SHUT_RD)
    elif what == "idle":
        reader.resume_reading()
    await asyncio.sleep(0.03)
    if hasattr(loop, "stats"):
        before = loop.stats()["turns"]
        await asyncio.sleep(0.1)
        assert loop.stats()["turns"] - before < 10
    if "lost" not in protocol.calls:
        transport.abort()
    reader.close()
    await settle(lambda: "lost" in received.calls and "lost" in protocol.calls)


# -- what leaves the loop


class Leaver(Leaving, Recorder):
    """Ends the program once."""


@pytest.mark.parametrize("exit", [SystemExit(3), KeyboardInterrupt()], ids=["exit", "interrupt"])
@pytest.mark.parametrize("name", ["made", "data", "eof", "lost"])
@pytest.mark.ours  # asyncio's loop does not tell the waiter
def test_an_exit_while_reading_leaves_a_pipe_that_goes_on(loop, pipe, name, exit):
    reading, writing = pipe
    protocol = Leaver(name, exit)

    async def talk():
        await loop.connect_read_pipe(lambda: protocol, reading)
        for number in range(3):
            writing.write(b"%d" % number)
            await protocol.until_received(number + 1)
        writing.close()
        await protocol.until_called("lost")

    assert run_again(loop, talk(), exit) == 1
    assert protocol.data == b"012"
    assert protocol.calls == ["made", "data", "eof", "lost"]


@pytest.mark.parametrize("exit", [SystemExit(3), KeyboardInterrupt()], ids=["exit", "interrupt"])
@pytest.mark.parametrize("name", ["made", "resume", "lost"])
@pytest.mark.parametrize("end", ["closed", "reader leaves"])
@pytest.mark.ours  # asyncio's loop does not tell the waiter
def test_an_exit_while_writing_leaves_a_pipe_that_goes_on(loop, pipe, name, end, exit):
    reading, writing = pipe
    protocol = Leaver(name, exit)
    data = payload(300_000)

    async def talk():
        transport, _ = await loop.connect_write_pipe(lambda: protocol, writing)
        transport.write(data)
        if end == "closed":
            transport.close()
        parts = []
        os.set_blocking(reading.fileno(), False)
        while sum(map(len, parts)) < len(data):
            await asyncio.sleep(0)
            try:
                parts.append(os.read(reading.fileno(), 1 << 20))
            except BlockingIOError:
                continue
        assert b"".join(parts) == data
        if end == "reader leaves":
            await protocol.until_called("resume")
            reading.close()
        await protocol.until_called("lost")

    assert run_again(loop, talk(), exit) == 1
    assert [call for call in protocol.calls if call in ("made", "lost")] == ["made", "lost"]
    assert protocol.exc is None
