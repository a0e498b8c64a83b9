"""asyncio.start_server and asyncio.open_connection on top of the transports."""

import asyncio
import random
import socket

import pytest
from support import SIZES, digest, payload, turns


class EchoServer:
    """An echo server of streams, over TCP or a Unix socket."""

    def __init__(self, kind, path):
        self.kind, self.path = kind, path
        self.clients = 0

    async def __aenter__(self):
        if self.kind == "tcp":
            self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        else:
            self.server = await asyncio.start_unix_server(self.serve, self.path)
        return self

    async def __aexit__(self, *_):
        self.server.close()
        await self.server.wait_closed()
        while self.clients:
            await asyncio.sleep(0.001)

    async def serve(self, reader, writer):
        self.clients += 1
        try:
            while data := await reader.read(100_000):
                writer.write(data)
                await writer.drain()
        finally:
            writer.close()
            try:
                await writer.wait_closed()
            except ConnectionError:
                pass
            self.clients -= 1

    async def open(self):
        if self.kind == "tcp":
            return await asyncio.open_connection(*self.server.sockets[0].getsockname())
        return await asyncio.open_unix_connection(self.path)


@pytest.fixture
def echo(kind, tmp_path):
    return EchoServer(kind, str(tmp_path / "echo"))


async def round_trip(reader, writer, data):
    async def send():
        writer.write(data)
        await writer.drain()

    sending = asyncio.ensure_future(send())
    back = await reader.readexactly(len(data))
    await sending
    assert digest(back) == digest(data)


async def finish(writer):
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize("size", SIZES)
async def test_echo(loop, echo, size):
    async with echo:
        reader, writer = await echo.open()
        await round_trip(reader, writer, payload(size))
        await finish(writer)


async def test_many_sizes_on_one_connection(loop, echo):
    async with echo:
        reader, writer = await echo.open()
        for i, size in enumerate(random.Random(1).sample(SIZES[:-1] * 2, 28)):
            await round_trip(reader, writer, payload(size, i))
        await finish(writer)


async def test_many_connections(loop, echo):
    async def client(number):
        reader, writer = await echo.open()
        for i in range(5):
            await round_trip(reader, writer, payload(100 + 3000 * (number % 7), number * 100 + i))
        await finish(writer)

    async with echo:
        await asyncio.gather(*(client(i) for i in range(100)))


async def test_lines(loop, echo):
    async with echo:
        reader, writer = await echo.open()
        lines = [payload(i % 200, i).hex().encode() + b"\n" for i in range(1000)]
        writer.writelines(lines)
        for line in lines:
            assert await reader.readline() == line
        writer.write(b"a|b|c")
        assert await reader.readuntil(b"|") == b"a|"
        assert await reader.readuntil(b"|") == b"b|"
        writer.write_eof()
        assert await reader.read() == b"c"
        assert reader.at_eof()
        await finish(writer)


async def test_reader_limit(loop):
    async def serve(reader, writer):
        writer.write(b"x" * 1000 + b"\n")
        await finish(writer)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname(), limit=100)
    with pytest.raises(ValueError):
        await reader.readline()
    await finish(writer)
    server.close()
    await server.wait_closed()


async def test_drain_waits_for_a_slow_reader(loop):
    accepted = asyncio.Queue()
    server = await asyncio.start_server(lambda r, w: accepted.put((r, w)), "127.0.0.1", 0, limit=1000)
    _, sender = await asyncio.open_connection(*server.sockets[0].getsockname())
    reader, writer = await accepted.get()
    data = payload(30_000_000)
    sender.write(data)
    draining = asyncio.ensure_future(sender.drain())
    await asyncio.sleep(0.02)
    assert not draining.done()
    assert digest(await reader.readexactly(len(data))) == digest(data)
    await draining
    await finish(sender)
    await finish(writer)
    server.close()
    await server.wait_closed()


async def test_incomplete_read(loop, echo):
    async with echo:
        reader, writer = await echo.open()
        writer.write(b"short")
        writer.write_eof()
        with pytest.raises(asyncio.IncompleteReadError) as caught:
            await reader.readexactly(10)
        assert caught.value.partial == b"short"
        await finish(writer)


async def test_reset_reaches_the_reader(loop):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        peer, _ = listener.accept()
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    waiting = asyncio.ensure_future(reader.read(10))
    await turns()
    peer.close()
    with pytest.raises(ConnectionResetError):
        await waiting
    writer.close()
    with pytest.raises(ConnectionResetError):
        await writer.wait_closed()


async def test_cancelled_read_loses_no_data(loop, echo):
    async with echo:
        reader, writer = await echo.open()
        data = payload(20_000)
        back = b""
        for i in range(0, len(data), 50):
            writer.write(data[i : i + 50])
            reading = asyncio.ensure_future(reader.read(30))
            await turns(i // 50 % 4)
            reading.cancel()
            try:
                back += await reading
            except asyncio.CancelledError:
                pass
        back += await reader.readexactly(len(data) - len(back))
        assert back == data
        await finish(writer)


async def test_extra_info_and_closing_state(loop, echo, kind):
    async with echo:
        reader, writer = await echo.open()
        assert writer.get_extra_info("socket").family == (socket.AF_INET if kind == "tcp" else socket.AF_UNIX)
        peername = echo.server.sockets[0].getsockname()
        assert writer.get_extra_info("peername") == peername
        assert not writer.is_closing()
        writer.close()
        assert writer.is_closing()
        await writer.wait_closed()
        assert await reader.read() == b""


async def test_failing_client_callback_is_reported(loop, errors):
    async def fail(reader, writer):
        writer.close()
        raise ZeroDivisionError("on purpose")

    server = await asyncio.start_server(fail, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    assert await reader.read() == b""
    await finish(writer)
    await turns(5)
    assert any(isinstance(e.get("exception"), ZeroDivisionError) for e in errors)
    errors.clear()
    server.close()
    await server.wait_closed()


async def test_accepted_socket_on_streams(loop):
    ours, theirs = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=ours)
    theirs.sendall(b"hello")
    assert await reader.readexactly(5) == b"hello"
    writer.write(b"bye")
    await finish(writer)
    assert theirs.recv(10) == b"bye"
    theirs.close()
