"""Calls that fail, are short or late, as the kernel may have it at any time: nothing is lost, repeated or left hanging.

Needs a build with faults on demand: `tests/faulty.sh` (`make stress`).
"""

import asyncio
import contextlib
import errno
import os
import socket

import faults_support
import pytest
from datagrams import Talker
from faults_support import TOLD_ERRNO, every_seed, run
from support import Recorder, digest, payload, settle, unix_pair
from tls_support import Contexts

pytestmark = [pytest.mark.ours, pytest.mark.timeout(60)]
faulty, quiet, told = faults_support.faulty, faults_support.quiet, faults_support.told

# ---- what the programs do


async def streams(loop, connect, sizes=(1, 100, 70_000, 300_000)):
    """Echoes over asyncio's streams."""

    async def serve(reader, writer):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()
        await writer.wait_closed()

    async with contextlib.AsyncExitStack() as stack:
        reader, writer = await connect(serve, stack)
        for number, size in enumerate(sizes):
            sent = payload(size, number)
            writer.write(sent)
            got = await reader.readexactly(size)
            assert digest(got) == digest(sent)
        writer.write_eof() if writer.can_write_eof() else writer.close()
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()


async def over_tcp(serve, stack):
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    stack.push_async_callback(server.wait_closed)
    stack.callback(server.close)
    return await asyncio.open_connection(*server.sockets[0].getsockname())


async def over_unix(serve, stack):
    one, two = unix_pair()
    for sock in (one, two):
        sock.setblocking(False)
    task = asyncio.create_task(serve(*await asyncio.open_unix_connection(sock=one)))
    stack.push_async_callback(asyncio.wait_for, task, 10)
    return await asyncio.open_unix_connection(sock=two)


def over_tls(contexts):
    async def connect(serve, stack):
        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=contexts.server())
        stack.push_async_callback(server.wait_closed)
        stack.callback(server.close)
        port = server.sockets[0].getsockname()[1]
        return await asyncio.open_connection("127.0.0.1", port, ssl=contexts.client(), server_hostname="localhost")

    return connect


async def receive(loop, sock, size):
    """Up to `size` bytes, in both ways to receive."""
    got, buffer, last = bytearray(), bytearray(7000), b"?"
    while len(got) < size and last:
        if len(got) % 2:
            last = await loop.sock_recv(sock, 7000)
        else:
            last = buffer[: await loop.sock_recv_into(sock, buffer)]
        got += last
    return got


async def send_and_end(loop, sock, data):
    try:
        await loop.sock_sendall(sock, data)
    finally:
        sock.shutdown(socket.SHUT_WR)


async def sockets(loop, size=200_000):
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as one:
        listener.setblocking(False)
        one.setblocking(False)
        (two, address), _ = await asyncio.gather(
            loop.sock_accept(listener), loop.sock_connect(one, listener.getsockname())
        )
        with two:
            assert address == one.getsockname()
            sent = payload(size)
            got, _ = await asyncio.gather(receive(loop, two, size), loop.sock_sendall(one, sent))
            assert digest(got) == digest(sent)
            one.close()
            assert await loop.sock_recv(two, 1) == b""


async def datagrams(loop, count=60):
    """On a Unix socket, which loses none."""
    pairs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    ends = [await loop.create_datagram_endpoint(Talker, sock=sock) for sock in pairs]
    for number in range(count):
        ends[0][0].sendto(payload(20 + number, number))
    await ends[1][1].until_received(count)
    for transport, protocol in ends:
        transport.close()
        await protocol.until_called("lost")
    assert ends[1][1].payloads == [payload(20 + number, number) for number in range(count)]


async def pipes(loop, size=200_000):
    out, into = os.pipe()
    reading, reader = await loop.connect_read_pipe(Recorder, open(out, "rb", buffering=0))
    writing, writer = await loop.connect_write_pipe(Recorder, open(into, "wb", buffering=0))
    sent = payload(size)
    for at in range(0, size, 30_000):
        writing.write(sent[at : at + 30_000])
    writing.close()
    await writer.until_called("lost")
    await reader.until_called("lost")
    assert digest(reader.data) == digest(sent)
    reading.close()


async def watched(loop, count=200):
    """add_reader and add_writer."""
    one, two = unix_pair()
    with one, two:
        sent, got = [], []

        def write():
            sent.append(len(sent) % 256)
            one.send(bytes(sent[-1:]))
            if len(sent) == count:
                loop.remove_writer(one)

        for sock in (one, two):
            sock.setblocking(False)
        loop.add_reader(two, lambda: got.extend(two.recv(3)))
        loop.add_writer(one, write)
        await settle(lambda: len(got) == count)
        loop.remove_reader(two)
        assert got == sent


async def accepts(loop, count=30):
    """All clients are accepted, and each is told its own number."""

    async def serve(reader, writer):
        writer.write(await reader.readline())
        writer.close()
        await writer.wait_closed()

    async def ask(number):
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"%d\n" % number)
        assert await reader.read() == b"%d\n" % number
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    await asyncio.gather(*(ask(number) for number in range(count)))
    server.close()
    await server.wait_closed()


# ---- faults that a program does not notice



@pytest.mark.parametrize("connect", [over_tcp, over_unix], ids=["tcp", "unix"])
@every_seed
def test_streams(faulty, quiet, seed, connect):
    loop = faulty(quiet, seed)
    run(loop, streams(loop, connect))


@every_seed
def test_tls(faulty, quiet, seed, contexts):
    loop = faulty(quiet, seed)
    run(loop, streams(loop, over_tls(contexts), (1, 100_000)))


@pytest.mark.parametrize("program", [sockets, datagrams, pipes, watched, accepts])
@every_seed
def test_others(faulty, quiet, seed, program):
    loop = faulty(quiet, seed)
    run(loop, program(loop))


@every_seed
def test_cancelled_receives(faulty, quiet, seed):
    """Each byte arrives once, in order, whatever receive is cancelled."""
    loop = faulty(quiet, seed)

    async def main():
        one, two = unix_pair()
        with one, two:
            for sock in (one, two):
                sock.setblocking(False)
            got = bytearray()
            for number in range(150):
                task = asyncio.create_task(loop.sock_recv(two, 10))
                await asyncio.sleep(0)
                one.send(bytes([number]))
                for _ in range(number % 4):
                    await asyncio.sleep(0)
                if number % 3 == 0:
                    task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    got += await task
            while len(got) < 150:
                got += await loop.sock_recv(two, 10)
            assert got == bytes(range(150))

    run(loop, main())


# ---- faults that it is told of: what has come is the beginning of what was sent, and nothing hangs


@pytest.mark.parametrize("connect", [over_tcp, over_unix], ids=["tcp", "unix"])
@every_seed
def test_streams_without_memory(faulty, told, seed, connect, errors):
    loop = faulty(told, seed, 3)
    sent = payload(300_000)
    got = bytearray()

    async def receive(reader, writer):
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                got.extend(data)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    async def main():
        async with contextlib.AsyncExitStack() as stack:
            _, writer = await connect(receive, stack)
            try:
                writer.write(sent)
                await writer.drain()
                writer.close()
                await writer.wait_closed()
            except OSError as error:
                assert error.errno in TOLD_ERRNO | {errno.EPIPE, errno.ECONNRESET} or isinstance(
                    error, ConnectionResetError
                )
            await settle(lambda: loop.stats()["connections"] == 0)

    run(loop, main())
    assert sent.startswith(bytes(got))
    errors[:] = [context for context in errors if context["exception"].errno not in TOLD_ERRNO]


@every_seed
def test_sockets_without_memory(faulty, told, seed):
    loop = faulty(told, seed, 5)

    async def main():
        sent = payload(20_000)
        for _ in range(20):
            one, two = unix_pair()
            with one, two:
                for sock in (one, two):
                    sock.setblocking(False)
                results = await asyncio.gather(
                    receive(loop, two, len(sent)), send_and_end(loop, one, sent), return_exceptions=True
                )
                for result in results:
                    assert not isinstance(result, BaseException) or result.errno in TOLD_ERRNO | {errno.EPIPE}
                if isinstance(results[0], bytearray):
                    assert sent.startswith(results[0])

    run(loop, main())


def test_faults_have_come():
    """Of each kind, in each way to run in which the tests above have asked for them."""
    assert not faults_support.never_came(__name__)


@pytest.fixture(scope="session")
def contexts():
    return Contexts()
