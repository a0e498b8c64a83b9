"""Long loads of TLS, datagrams, pipes, children and sendfile, each byte checked.  In full length with --soak."""

import asyncio
import itertools
import os
import random
import signal
import socket
from asyncio.subprocess import PIPE

import pytest
from datagrams import LOCAL, EchoTalker, Talker, make_room, name_of
from soaks import Before, SlowEcho, exchange, prove_steady, random_size, read_slowly, send
from support import digest, payload, shrink, tcp_pair, turns
from tls_support import Contexts

pytestmark = [pytest.mark.slow, pytest.mark.soak, pytest.mark.timeout(400)]

#: What the allocators may keep of large messages.
ROOM = 16 << 20


@pytest.fixture
def chance(seed):
    return random.Random(seed)


@pytest.fixture
def times(soak):
    """How much longer than usual."""
    return 15 if soak else 1


async def workers(work, chance, count, cycles):
    """`count` of them at the same time, each `cycles` times, each with its own chance."""

    async def repeat(own):
        for _ in range(cycles):
            await work(own)

    await asyncio.gather(*(repeat(random.Random(chance.random())) for _ in range(count)))


def reset(transport):
    """End the connection with RST."""
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    transport.abort()


# -- TLS


@pytest.mark.parametrize("version", ["1.2", "1.3"])
async def test_tls_streams(way, loop, chance, times, version):
    async def load():
        contexts = Contexts()  # new ones, because a server's remembers sessions
        server = await loop.create_server(SlowEcho, "127.0.0.1", 0, ssl=contexts.server(version))
        address, context = server.sockets[0].getsockname(), contexts.client(version)
        await workers(lambda own: tls_connection(address, context, own), chance, 8, 2 * times)
        server.close()
        await server.wait_closed()

    await prove_steady(Before(way, loop), load, 16 * times, room=ROOM)


async def tls_connection(address, context, chance):
    """A few messages there and back, then an end in order or with a reset."""
    limit = chance.choice([1 << 10, 1 << 16, 1 << 20])
    reader, writer = await asyncio.open_connection(*address, ssl=context, limit=limit)
    for number in range(chance.randrange(1, 4)):
        await exchange(reader, writer, payload(random_size(chance), number), chance)
    if chance.random() < 0.4:
        await break_off(reader, writer, chance)
    else:
        writer.close()
    await writer.wait_closed()


async def break_off(reader, writer, chance):
    """Reset the connection while a message is under way; what has come of it must be right."""
    data = payload(random_size(chance) + 1)
    sending = asyncio.ensure_future(send(writer, data, chance))
    count = chance.randrange(len(data))
    back = await read_slowly(reader, count, chance)
    reset(writer.transport)
    await asyncio.gather(sending, return_exceptions=True)
    assert digest(back) == digest(data[:count])


# -- datagrams


def burst(chance, room):
    """Datagrams that fit into `room` bytes of a socket's buffer for sure, each one another."""
    datagrams = []
    while True:
        size = int(2 ** chance.uniform(4, 15.9))
        room -= 2048 + 2 * size
        if room < 0:
            return datagrams
        datagrams.append(payload(size, chance.randrange(1 << 30)))


def receive_room(transport):
    return transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)


async def roomy_endpoint(loop, factory, **options):
    transport, protocol = await loop.create_datagram_endpoint(factory, **options)
    make_room(transport.get_extra_info("socket"), 4 << 20)
    return transport, protocol


async def test_udp(way, loop, chance, times):
    """Bursts there and back: nothing is lost that the sockets have room for."""

    async def talk(address, room, own):
        transport, protocol = await roomy_endpoint(loop, Talker, remote_addr=address)
        for _ in range(4):
            sent = burst(own, room)
            for data in sent:
                transport.sendto(data)
            await protocol.until_received(len(sent))
            assert sorted(map(digest, protocol.payloads)) == sorted(map(digest, sent))
            protocol.datagrams.clear()
        transport.close()
        await protocol.until_called("lost")

    async def load():
        echo, _ = await roomy_endpoint(loop, EchoTalker, local_addr=LOCAL)  # a new one, because it remembers peers
        room = min(300_000, receive_room(echo) // 8)
        await workers(lambda own: talk(name_of(echo), room, own), chance, 8, 5 * times)
        echo.close()

    await prove_steady(Before(way, loop), load, 40 * times, room=ROOM)


@pytest.mark.parametrize("receiver", ["endpoint", "socket"])
async def test_unix_datagrams(way, loop, chance, times, tmp_path, receiver):
    """None is lost and none overtakes, however slow the receiver."""
    names = itertools.count()

    async def endpoint_gets(path, wanted, own):
        transport, protocol = await loop.create_datagram_endpoint(Talker, local_addr=path, family=socket.AF_UNIX)
        yield
        await protocol.until_received(wanted)
        transport.close()
        await protocol.until_called("lost")
        yield protocol.payloads

    async def socket_gets(path, wanted, own):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.bind(path)
            yield
            got = []
            while len(got) < wanted:
                data, _ = await loop.sock_recvfrom(sock, 1 << 16)
                got.append(data)
                if own.random() < 0.1:
                    await asyncio.sleep(own.random() * 0.005)
        yield got

    async def talk(own):
        # Not by pathlib, which interns the parts of a path: Python 3.12 keeps those for ever.
        path = f"{tmp_path}/{next(names)}"
        sent = burst(own, 400_000)
        receiving = (endpoint_gets if receiver == "endpoint" else socket_gets)(path, len(sent), own)
        await anext(receiving)
        transport, protocol = await loop.create_datagram_endpoint(Talker, remote_addr=path, family=socket.AF_UNIX)
        for data in sent:
            transport.sendto(data)
        transport.close()
        assert list(map(digest, await anext(receiving))) == list(map(digest, sent))
        await receiving.aclose()
        await protocol.until_called("lost")
        os.unlink(path)

    async def load():
        await workers(talk, chance, 8, 5 * times)

    await prove_steady(Before(way, loop), load, 40 * times, room=ROOM)


# -- pipes and children


async def pipe_streams(loop):
    """Both ends of a pipe as streams."""
    reading, writing = os.pipe()
    reader = asyncio.StreamReader(limit=1 << 16)
    read_end, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), open(reading, "rb", buffering=0)
    )
    write_end, protocol = await loop.connect_write_pipe(
        asyncio.streams.FlowControlMixin, open(writing, "wb", buffering=0)
    )
    return reader, read_end, asyncio.StreamWriter(write_end, protocol, None, loop)


async def test_pipes(way, loop, chance, times):
    async def flow(own):
        reader, read_end, writer = await pipe_streams(loop)
        await exchange(reader, writer, payload(random_size(own) // 4 + 1), own)
        if own.random() < 0.5:
            writer.close()
            assert await reader.read() == b""
        else:
            read_end.close()
            writer.write(b"nobody reads this")
            writer.transport.abort()

    async def load():
        await workers(flow, chance, 8, 6 * times)

    await prove_steady(Before(way, loop), load, 48 * times, room=ROOM)


async def test_children(way, loop, chance, times):
    async def child(own):
        process = await asyncio.create_subprocess_exec("cat", stdin=PIPE, stdout=PIPE)
        await exchange(process.stdout, process.stdin, payload(random_size(own) // 4 + 1), own)
        if own.random() < 0.5:
            process.stdin.close()
            assert await process.stdout.read() == b""
            assert await process.wait() == 0
        else:
            process.stdin.write(b"x" * own.randrange(1 << 20))
            process.kill()
            assert await process.wait() == -signal.SIGKILL
            await process.stdout.read()

    async def load():
        await workers(child, chance, 4, 5 * times)

    await prove_steady(Before(way, loop), load, 20 * times, room=ROOM)


# -- sendfile


class Reader:
    """The far end of a connection that a file is sent to."""

    def __init__(self, loop, sock, chance):
        self.loop, self.sock, self.chance = loop, sock, chance
        self.got = bytearray()
        sock.setblocking(False)

    async def read(self, count):
        while len(self.got) < count:
            data = await self.loop.sock_recv(self.sock, min(count - len(self.got), 1 << 17))
            if not data:
                break
            self.got += data
            if self.chance.random() < 0.05:
                await asyncio.sleep(self.chance.random() * 0.005)

    def vanish(self):
        self.sock.close()

    def reset(self):
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.sock.close()


@pytest.fixture
def content(tmp_path):
    """Of the file that is sent."""
    data = payload(4 << 20)
    (tmp_path / "file").write_bytes(data)
    return data


@pytest.mark.parametrize("over", ["stream", "socket"])
@pytest.mark.parametrize("ending", ["reads all", "vanish", "reset", "stops"])
async def test_sendfile(way, loop, chance, times, tmp_path, content, over, ending):
    async def transfer(own):
        ours, theirs = tcp_pair()
        shrink(ours)
        shrink(theirs)
        ours.setblocking(False)
        with theirs, ours, open(tmp_path / "file", "rb") as file:
            peer = Reader(loop, theirs, own)
            transport = None
            if over == "stream":
                transport, _ = await loop.connect_accepted_socket(asyncio.Protocol, ours)
                sending = asyncio.ensure_future(loop.sendfile(transport, file))
            else:
                sending = asyncio.ensure_future(loop.sock_sendfile(ours, file))
            await end(peer, sending, own)
            assert content.startswith(peer.got)
            if transport:
                transport.abort()
                await turns(3)

    async def end(peer, sending, own):
        if ending == "reads all":
            await peer.read(len(content))
            assert await sending == len(content) == len(peer.got)
            return
        await peer.read(own.randrange(1 << 20))
        if ending == "stops":
            await turns(own.randrange(4))
            assert not sending.done()
            sending.cancel()
            await asyncio.wait([sending])
            assert sending.cancelled()
        else:
            getattr(peer, ending)()
            with pytest.raises(OSError):
                await sending

    async def load():
        await workers(transfer, chance, 4, 3 * times)

    await prove_steady(Before(way, loop), load, 12 * times, room=ROOM)
