"""A fuzzer that cancels at every await, under load; the seed is printed and can be given by --seed."""

import asyncio
import os
import random
import socket
import ssl
import time

import pytest
import trustme
from support import Recorder, payload, turns


@pytest.fixture(scope="session")
def contexts():
    """TLS contexts of a server and a client."""
    authority = trustme.CA()
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost", "127.0.0.1").configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return server, client


class Canaries:
    """Descriptors opened where others were just closed: a second close of the old number kills one of them."""

    def __init__(self):
        self.birds = []

    def release(self, count=3):
        """Look after all birds, replace the oldest."""
        for fd, identity in self.birds:
            assert self.identity(fd) == identity, f"descriptor {fd} was closed by somebody else"
        while len(self.birds) > 12:
            os.close(self.birds.pop(0)[0])
        for _ in range(count):
            one, two = socket.socketpair()
            for fd in (one.detach(), two.detach()):
                self.birds.append((fd, self.identity(fd)))

    @staticmethod
    def identity(fd):
        try:
            return os.fstat(fd).st_ino
        except OSError:
            return None

    def close(self):
        for fd, identity in self.birds:
            assert self.identity(fd) == identity, f"descriptor {fd} was closed by somebody else"
            os.close(fd)


class Tagged(asyncio.Protocol):
    """A server whose connections must each carry one tag only, over and over."""

    TAG = 16

    def __init__(self):
        self.seen = bytearray()

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        position = len(self.seen) % self.TAG
        if len(self.seen) < self.TAG:
            self.seen += data[: self.TAG]
        tag = bytes(self.seen[: self.TAG])
        if len(tag) == self.TAG:
            expected = (tag * (len(data) // self.TAG + 2))[position : position + len(data)]
            assert data == expected, "bytes of another connection"
            self.seen[self.TAG :] = bytes((position + len(data)) % self.TAG)
        self.transport.write(data)

    def pause_writing(self):
        self.transport.pause_reading()

    def resume_writing(self):
        self.transport.resume_reading()


def tag(number):
    return b"%015d|" % number


class Fuzzer:
    """The scenarios; each is one coroutine that may be cancelled anywhere, and leaves its things to `clean`."""

    def __init__(self, loop, chance, contexts, path):
        self.loop, self.chance, self.path = loop, chance, path
        self.server_context, self.client_context = contexts
        self.number = 0
        self.things = []

    async def start(self):
        self.server = await self.loop.create_server(Tagged, "127.0.0.1", 0, backlog=200)
        self.unix_server = await self.loop.create_unix_server(Tagged, self.path, backlog=200)
        self.tls_server = await self.loop.create_server(Tagged, "127.0.0.1", 0, ssl=self.server_context)
        self.address = self.server.sockets[0].getsockname()

    async def stop(self):
        for server in (self.server, self.unix_server, self.tls_server):
            server.close()
            await server.wait_closed()

    def keep(self, thing):
        self.things.append(thing)
        return thing

    def next_tag(self):
        self.number += 1
        return tag(self.number)

    def sock(self, family=socket.AF_INET):
        sock = self.keep(socket.socket(family))
        sock.setblocking(False)
        return sock

    async def clean(self):
        """Close everything that a scenario left, in a random way."""
        while self.things:
            thing = self.things.pop()
            if isinstance(thing, socket.socket):
                thing.close()
            elif isinstance(thing, asyncio.Future):
                (await thing).close()
            elif isinstance(thing, asyncio.StreamWriter):
                thing.transport.abort() if self.chance.random() < 0.5 else thing.close()
            elif isinstance(thing, asyncio.BaseTransport):
                thing.abort() if self.chance.random() < 0.5 else thing.close()

    # -- scenarios

    async def verify(self, reader, writer, count=2000):
        """Talk on a connection; only our own tag may come back."""
        mine = self.next_tag()
        count = self.chance.randrange(1, count)
        writer.write(mine * count)
        await writer.drain()
        assert await reader.readexactly(16 * count) == mine * count, "bytes of another connection"

    async def connect(self):
        reader, writer = await asyncio.open_connection(*self.address)
        self.keep(writer)
        await self.verify(reader, writer)
        writer.close()
        await writer.wait_closed()

    async def connect_socket(self):
        sock = self.sock()
        await self.loop.sock_connect(sock, self.address)
        transport, protocol = await self.loop.create_connection(Recorder, sock=sock)
        self.things.remove(sock)
        self.keep(transport)
        mine = self.next_tag()
        transport.write(mine)
        await protocol.until_received(16)
        assert protocol.data == mine, "bytes of another connection"
        transport.close()
        await protocol.until_called("lost")

    async def connect_unix(self):
        reader, writer = await asyncio.open_unix_connection(self.path)
        self.keep(writer)
        await self.verify(reader, writer)
        writer.close()
        await writer.wait_closed()

    async def connect_tls(self):
        reader, writer = await asyncio.open_connection(
            *self.tls_server.sockets[0].getsockname(), ssl=self.client_context
        )
        self.keep(writer)
        await self.verify(reader, writer)
        writer.close()
        await writer.wait_closed()

    async def start_tls(self):
        reader, writer = await asyncio.open_connection(*self.tls_server.sockets[0].getsockname())
        self.keep(writer)
        await writer.start_tls(self.client_context, server_hostname="localhost")
        self.keep(writer.transport)
        await self.verify(reader, writer)
        writer.close()
        await writer.wait_closed()

    async def sock_calls(self):
        sock = self.sock()
        await self.loop.sock_connect(sock, self.address)
        mine = self.next_tag()
        for _ in range(5):
            await self.loop.sock_sendall(sock, mine * self.chance.choice([2, 10, 1000]))
            back = await self.loop.sock_recv(sock, 16)
            assert back in mine * 2 + mine[: len(back)], "bytes of another connection"
            buffer = bytearray(160)
            count = await self.loop.sock_recv_into(sock, buffer)
            assert bytes(buffer[:count]) in mine * 12, "bytes of another connection"

    async def sock_accept(self):
        sock = self.sock()
        listener = self.keep(socket.create_server(("127.0.0.1", 0)))
        listener.setblocking(False)
        accepting = asyncio.ensure_future(self.loop.sock_accept(listener))
        try:
            await self.loop.sock_connect(sock, listener.getsockname())
            conn, _ = await accepting
        finally:
            accepting.cancel()
            await asyncio.wait([accepting])
            if not accepting.cancelled():
                self.keep(accepting.result()[0])
        mine = self.next_tag()
        await self.loop.sock_sendall(conn, mine)
        assert await self.loop.sock_recv(sock, 16) == mine, "bytes of another connection"

    async def serve(self):
        # A cancelled create_server() would leave its server to nobody, in asyncio too.
        creating = self.keep(asyncio.ensure_future(self.loop.create_server(Tagged, "127.0.0.1", 0)))
        await asyncio.wait([creating])
        server = creating.result()
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        self.keep(writer)
        await self.verify(reader, writer)
        server.close()
        writer.close()
        await writer.wait_closed()
        await server.wait_closed()

    async def half_closed(self):
        reader, writer = await asyncio.open_connection(*self.address)
        self.keep(writer)
        mine = self.next_tag()
        writer.write(mine * 20_000)
        writer.write_eof()
        total = 0
        while back := await reader.read(16_000):
            position = total % 16
            assert back == (mine * 1002)[position : position + len(back)], "bytes of another connection"
            total += len(back)

    async def give_up_at_once(self):
        await asyncio.wait_for(asyncio.open_connection(*self.address), 1e-6)

    SCENARIOS = [
        connect,
        connect_socket,
        connect_unix,
        connect_tls,
        start_tls,
        sock_calls,
        sock_accept,
        serve,
        half_closed,
        give_up_at_once,
    ]

    async def once(self, scenario):
        """Run one scenario and cancel it after a random while, or not at all."""
        task = asyncio.ensure_future(scenario(self))
        if self.chance.random() < 0.9:
            for _ in range(self.chance.choice([0, 1, 2, 3, 4, 5, 6, 8, 10, 15, 25, 40])):
                if task.done():
                    break
                await asyncio.sleep(0)
            if self.chance.random() < 0.2:
                await asyncio.sleep(self.chance.random() * 0.003)
            task.cancel()
            if self.chance.random() < 0.1:
                await turns(1)
                task.cancel()
        done, _ = await asyncio.wait([task], timeout=15)
        assert done, f"{scenario.__name__} hangs: {task.get_stack()}"
        # Errors of the network may follow from the cancellation; anything else may not.
        if not task.cancelled() and task.exception():
            assert isinstance(task.exception(), (OSError, EOFError, TimeoutError)), task.exception()


async def background(fuzzer, stop, seed):
    """Load whose bytes are checked all the time."""
    mine = tag(10**14 + seed)
    reader, writer = await asyncio.open_connection(*fuzzer.address)
    while not stop.is_set():
        count = 1 + seed * 37
        writer.write(mine * count)
        assert await reader.readexactly(16 * count) == mine * count, "bytes of another connection"
    writer.close()
    await writer.wait_closed()


@pytest.fixture
def seed(request):
    return request.config.getoption("seed") or random.SystemRandom().randrange(1, 1 << 32)


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("scenario", Fuzzer.SCENARIOS, ids=lambda function: function.__name__)
async def test_cancelled_anywhere(way, loop, contexts, errors, seed, soak, tmp_path, scenario):
    print(f"seed {seed}")
    await run_fuzzer(loop, seed, contexts, tmp_path, [scenario], 30 if soak else 0.4)
    check_errors(errors)


@pytest.mark.slow
@pytest.mark.timeout(400)
async def test_cancelled_anywhere_all_mixed(way, loop, contexts, errors, seed, soak, tmp_path):
    print(f"seed {seed}")
    await run_fuzzer(loop, seed, contexts, tmp_path, Fuzzer.SCENARIOS, 60 if soak else 3, workers=4)
    check_errors(errors)


async def run_fuzzer(loop, seed, contexts, folder, scenarios, seconds, workers=1):
    chance = random.Random(seed)
    host = Fuzzer(loop, chance, contexts, str(folder / "socket"))
    await host.start()
    stop = asyncio.Event()
    load = [asyncio.ensure_future(background(host, stop, i)) for i in range(4)]
    canaries = Canaries()
    deadline = time.monotonic() + seconds

    async def work(number):
        fuzzer = Fuzzer(loop, random.Random(seed + number), contexts, host.path)
        fuzzer.__dict__.update({k: v for k, v in vars(host).items() if k not in ("chance", "things", "number")})
        fuzzer.number = number * 10**9
        while time.monotonic() < deadline:
            await fuzzer.once(fuzzer.chance.choice(scenarios))
            await fuzzer.clean()
            canaries.release()
            for task in load:
                assert not task.done(), task.exception()

    try:
        await asyncio.gather(*(work(number + 1) for number in range(workers)))
        await turns(10)
    finally:
        stop.set()
        await asyncio.gather(*load)
        canaries.close()
    await host.stop()


def check_errors(errors):
    """A cancelled handshake may be reported; lost or swapped bytes and broken protocols may not."""
    for context in errors:
        exception = context.get("exception")
        assert exception is None or isinstance(exception, OSError), context
    errors.clear()


async def test_cancelled_connection_with_a_socket_closes_it_once(loop, connect):
    """The descriptor of a cancelled create_connection(sock=) is free for others, who must keep it."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as listener:
        for i in range(60):
            sock = socket.create_connection(listener.getsockname())
            sock.setblocking(False)
            task = asyncio.ensure_future(loop.create_connection(Recorder, sock=sock))
            await turns(i % 4)
            task.cancel()
            try:
                transport, _ = await task
            except asyncio.CancelledError:
                sock.close()
            else:
                transport.abort()
            await turns(i % 3)
            new, other = socket.socketpair()
            await turns(4)
            other.send(payload(10, i))
            assert new.recv(10) == payload(10, i)
            new.close()
            other.close()
            accepted, _ = listener.accept()
            accepted.close()
