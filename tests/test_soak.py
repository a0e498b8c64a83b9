"""Long loads.  In full length with --soak; a few seconds without."""

import asyncio
import random
import socket
import time

import pytest
from soaks import Before, SlowEcho, exchange, prove_steady, random_size
from support import Echo, payload, turns

pytestmark = [pytest.mark.slow, pytest.mark.soak]


@pytest.mark.parametrize("leak", [object, lambda: bytearray(600)], ids=["object", "malloc"])
async def test_a_leak_is_seen(way, loop, leak):
    """The check of all tests below can fail: one cycle in five leaves something."""
    left = []

    async def load():
        left.extend(leak() for _ in range(100))

    with pytest.raises(AssertionError, match="in 500 cycles"):
        await prove_steady(Before(way, loop), load, 500)


async def client(address, seed, deadline, vectored):
    """One connection: random messages there and back, read at a random pace."""
    chance = random.Random(seed)
    reader, writer = await asyncio.open_connection(*address, limit=chance.choice([1 << 10, 1 << 16, 1 << 20]))
    messages = 0
    while messages == 0 or time.monotonic() < deadline:
        data = payload(random_size(chance), seed * 1_000_003 + messages)
        await exchange(reader, writer, data, chance, vectored)
        messages += 1
    writer.close()
    await writer.wait_closed()


@pytest.mark.timeout(180)
async def test_random_echo(way, loop, soak):
    server = await loop.create_server(SlowEcho, "127.0.0.1", 0, backlog=200)
    address = server.sockets[0].getsockname()

    async def load(seconds):
        deadline = time.monotonic() + seconds
        return await asyncio.gather(*(client(address, seed, deadline, way.writelines_works) for seed in range(64)))

    await turns(5)
    await prove_steady(Before(way, loop), lambda: load(20 if soak else 0.5), 64, room=16 << 20)
    server.close()
    await server.wait_closed()


@pytest.mark.timeout(600)
async def test_connect_request_close(way, loop, soak):
    class Answer(asyncio.Protocol):
        def connection_made(self, transport):
            self.transport = transport

        def data_received(self, data):
            self.transport.write(data[::-1])
            if data.startswith(b"close"):
                self.transport.close()

    server = await loop.create_server(Answer, "127.0.0.1", 0, backlog=200)
    address = server.sockets[0].getsockname()

    async def cycles(worker, count):
        for i in range(count):
            asked = b"%s %d %d" % (b"close" if i % 2 else b"keep", worker, i)
            reader, writer = await asyncio.open_connection(*address)
            writer.write(asked)
            assert await reader.readexactly(len(asked)) == asked[::-1]
            if i % 2:
                assert await reader.read() == b""
            writer.close()
            await writer.wait_closed()

    async def load():
        await asyncio.gather(*(cycles(worker, count) for worker in range(20)))

    count = 2000 if soak else 30
    await turns(5)
    await prove_steady(Before(way, loop), load, 20 * count)
    server.close()
    await server.wait_closed()


@pytest.mark.timeout(180)
async def test_idle_connections_come_and_go(way, loop, soak):
    """Memory does not grow with closed connections."""
    server = await loop.create_server(Echo, "127.0.0.1", 0, backlog=1000)
    address = server.sockets[0].getsockname()

    async def wave():
        streams = await asyncio.gather(*(asyncio.open_connection(*address) for _ in range(500)))
        for reader, writer in streams:
            writer.write(b"x")
            assert await reader.readexactly(1) == b"x"
        for _, writer in streams:
            writer.close()
        await asyncio.gather(*(writer.wait_closed() for _, writer in streams))

    async def load():
        for _ in range(12 if soak else 1):
            await wave()

    # A little is kept for each number at which something was waited for; which of them are clients is chance.
    ends = [end for _ in range(600) for end in socket.socketpair()]
    for end in ends:
        loop.add_reader(end, int)
    for end in ends:
        loop.remove_reader(end)
        end.close()
    await turns(5)
    await prove_steady(Before(way, loop), load, 500 * (12 if soak else 1))
    server.close()
    await server.wait_closed()


@pytest.mark.timeout(180)
async def test_sockets_by_hand(way, loop, soak):
    """sock_connect, sock_accept, sock_sendall and sock_recv, over and over."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=200)
    listener.setblocking(False)

    async def serve(count):
        for _ in range(count):
            conn, _ = await loop.sock_accept(listener)
            asyncio.ensure_future(answer(conn))

    async def answer(conn):
        with conn:
            while data := await loop.sock_recv(conn, 1000):
                await loop.sock_sendall(conn, data)

    async def cycles(worker, count):
        for i in range(count):
            with socket.socket() as sock:
                sock.setblocking(False)
                await loop.sock_connect(sock, listener.getsockname())
                data = b"%d %d" % (worker, i)
                await loop.sock_sendall(sock, data)
                assert await loop.sock_recv(sock, 100) == data

    async def load():
        serving = asyncio.ensure_future(serve(10 * count))
        await asyncio.gather(*(cycles(worker, count) for worker in range(10)))
        await serving

    count = 700 if soak else 30
    await turns(5)
    await prove_steady(Before(way, loop), load, 10 * count)
    listener.close()
