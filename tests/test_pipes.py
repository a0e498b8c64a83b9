"""connect_read_pipe and connect_write_pipe: pipes, FIFOs, sockets, terminals, and what is refused."""

import asyncio
import contextlib
import gc
import logging
import os
import pty
import socket
import termios
import threading
import tty
import warnings

import pytest
from support import Recorder, digest, eventually, payload, settle, turns

SIZES = [1, 4095, 4096, 65535, 65536, 65537, 256 * 1024 + 1, 3_000_000]


class Writer(asyncio.BaseProtocol):
    """Writes down what a write pipe's transport calls."""

    def __init__(self):
        self.calls = []
        self.exc = None
        self.lost = asyncio.get_running_loop().create_future()
        self.may_write = asyncio.Event()
        self.may_write.set()

    def connection_made(self, transport):
        self.transport = transport
        self.calls.append("made")

    def connection_lost(self, exc):
        self.calls.append("lost")
        self.exc = exc
        self.lost.set_result(None)

    def pause_writing(self):
        self.calls.append("pause")
        self.may_write.clear()

    def resume_writing(self):
        self.calls.append("resume")
        self.may_write.set()


def make_pair(kind, folder):
    """(file to read, file to write) of one pipe."""
    if kind == "pipe":
        reading, writing = os.pipe()
    elif kind == "fifo":
        path = folder / "fifo"
        os.mkfifo(path)
        reading = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        writing = os.open(path, os.O_WRONLY)
    elif kind == "socket":
        return socket.socketpair()
    else:
        writing, reading = pty.openpty()
        tty.setraw(reading)
    return open(reading, "rb", 0), open(writing, "wb", 0)


@pytest.fixture(params=["pipe", "fifo", "socket", "terminal"])
def kind(request):
    return request.param


@pytest.fixture
def ends(kind, tmp_path):
    """The two ends, blocking; what a test has not closed is closed afterwards."""
    reading, writing = make_pair(kind, tmp_path)
    os.set_blocking(reading.fileno(), True)
    yield reading, writing
    reading.close()
    writing.close()


@pytest.fixture
def pipe(tmp_path):
    reading, writing = make_pair("pipe", tmp_path)
    yield reading, writing
    reading.close()
    writing.close()


def read_exactly(fd, count):
    parts = []
    while count:
        part = os.read(fd, min(count, 1 << 16))
        if not part:
            break
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def write_all(fd, data):
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def fd_of(end):
    """A copy of the descriptor: what it leads to stays open while a thread uses it."""
    return os.dup(end.fileno())


async def in_thread(function, end, *args):
    """`function(fd, *args)` in a thread, on a copy of the end's descriptor."""
    fd = fd_of(end)
    try:
        return await asyncio.to_thread(function, fd, *args)
    finally:
        os.close(fd)


# ---- reading


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


# ---- writing


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


@pytest.mark.parametrize("kind", ["pipe", "fifo", "socket"], indirect=True)
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


# ---- both


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
