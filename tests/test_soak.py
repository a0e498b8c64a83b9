"""Long loads.  In full length with --soak; a few seconds without."""

import asyncio
import ctypes
import gc
import random
import socket
import time

import psutil
import pytest
from support import Echo, digest, open_fds, payload, thread_names, turns

pytestmark = pytest.mark.slow

#: What the allocator may keep without anything having leaked.
SLACK = 48 << 20


def resident():
    """Bytes of resident memory, once the allocator has given back what it can."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return psutil.Process().memory_info().rss


class Before:
    """Descriptors, threads, memory and operations, to be compared with later."""

    def __init__(self, way, loop):
        self.way, self.loop = way, loop
        self.fds, self.threads, self.resident = open_fds(), thread_names(), resident()
        self.in_flight = loop.stats()["in_flight"] if way.ours else 0

    async def check(self):
        end = time.monotonic() + 10
        while self.more_fds() or self.in_flight_now() > self.in_flight:
            assert time.monotonic() < end, f"{self.more_fds()} {self.loop.stats() if self.way.ours else ''}"
            await asyncio.sleep(0.01)
        assert set(thread_names()) <= set(self.threads)
        assert resident() - self.resident < SLACK
        if self.way.ours:
            assert self.loop.stats()["connections"] == 0

    def more_fds(self):
        return {fd: what for fd, what in open_fds().items() if self.fds.get(fd) != what}

    def in_flight_now(self):
        return self.loop.stats()["in_flight"] if self.way.ours else 0


class SlowEcho(Echo):
    """Stops reading now and then for a moment."""

    chance = random.Random(1)

    def data_received(self, data):
        super().data_received(data)
        if self.chance.random() < 0.02:
            self.transport.pause_reading()
            asyncio.get_running_loop().call_later(self.chance.random() * 0.005, self.transport.resume_reading)


async def client(address, seed, deadline, vectored):
    """One connection: random messages there and back, read at a random pace."""
    chance = random.Random(seed)
    reader, writer = await asyncio.open_connection(*address, limit=chance.choice([1 << 10, 1 << 16, 1 << 20]))
    messages = 0
    while messages == 0 or time.monotonic() < deadline:
        size = min(1 << 23, int(2 ** chance.uniform(0, 23.01)))
        data = payload(size, seed * 1_000_003 + messages)
        sending = asyncio.ensure_future(send(writer, data, chance, vectored))
        back = bytearray()
        while len(back) < size:
            back += await reader.readexactly(min(size - len(back), chance.randrange(1, 1 << 18)))
            if chance.random() < 0.05:
                await asyncio.sleep(chance.random() * 0.005)
        await sending
        assert digest(back) == digest(data), f"connection {seed}, message {messages} of {size} bytes"
        messages += 1
    writer.close()
    await writer.wait_closed()
    return messages


async def send(writer, data, chance, vectored):
    position = 0
    while position < len(data):
        step = chance.randrange(1, len(data) + 1)
        if not vectored or chance.random() < 0.5:
            writer.write(data[position : position + step])
        else:
            writer.writelines([data[position : position + step // 2], data[position + step // 2 : position + step]])
        position += step
        if chance.random() < 0.5:
            await writer.drain()
    await writer.drain()


@pytest.mark.timeout(180)
async def test_random_echo(way, loop, soak):
    server = await loop.create_server(SlowEcho, "127.0.0.1", 0, backlog=200)
    address = server.sockets[0].getsockname()

    async def load(seconds):
        deadline = time.monotonic() + seconds
        return await asyncio.gather(*(client(address, seed, deadline, way.writelines_works) for seed in range(64)))

    await load(1 if soak else 0.2)
    await turns(5)
    before = Before(way, loop)
    counts = await load(60 if soak else 2)
    assert min(counts) >= 1
    await before.check()
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

    await asyncio.gather(*(cycles(worker, 20) for worker in range(20)))
    await turns(5)
    before = Before(way, loop)
    await asyncio.gather(*(cycles(worker, 5000 if soak else 75) for worker in range(20)))
    await before.check()
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

    await wave()
    await turns(5)
    before = Before(way, loop)
    for _ in range(50 if soak else 3):
        await wave()
    await before.check()
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

    async def load(count):
        serving = asyncio.ensure_future(serve(10 * count))
        await asyncio.gather(*(cycles(worker, count) for worker in range(10)))
        await serving

    await load(10)
    await turns(5)
    before = Before(way, loop)
    await load(2000 if soak else 100)
    await before.check()
    listener.close()
