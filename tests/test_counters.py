"""What `loop.stats()` says of system calls made past the page, and after a change of threads."""

import asyncio
import contextlib
import os
import socket
import tempfile
import threading
import time

import pytest
from support import Recorder, echo, settle, unix_pair

pytestmark = pytest.mark.ours

MANY = 40


class Counted:
    """How many system calls the loop counts in a `with` block."""

    def __init__(self, loop):
        self.loop = loop
        self.calls = 0

    def __enter__(self):
        self.calls = -self.loop.stats()["syscalls"]
        return self

    def __exit__(self, *_):
        self.calls += self.loop.stats()["syscalls"]


def not_blocking(stack, pair):
    for sock in pair:
        stack.enter_context(sock)
        sock.setblocking(False)
    return pair


async def test_calls_on_the_callers_sockets(way, loop):
    with contextlib.ExitStack() as stack:
        one, two = not_blocking(stack, unix_pair())
        buffer = bytearray(1)
        for send_and_receive in (
            lambda: (loop.sock_sendall(one, b"x"), loop.sock_recv(two, 1)),
            lambda: (loop.sock_sendall(one, b"x"), loop.sock_recv_into(two, buffer)),
        ):
            with Counted(loop) as counted:
                for _ in range(MANY):
                    for call in send_and_receive():
                        await call
            assert counted.calls >= 2 * MANY


async def test_datagrams_on_the_callers_sockets(way, loop):
    with contextlib.ExitStack() as stack:
        one, two = not_blocking(stack, [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2)])
        for sock in (one, two):
            sock.bind(("127.0.0.1", 0))
        buffer = bytearray(1)
        for receive in (lambda: loop.sock_recvfrom(two, 1), lambda: loop.sock_recvfrom_into(two, buffer)):
            with Counted(loop) as counted:
                for _ in range(MANY):
                    await loop.sock_sendto(one, b"x", two.getsockname())
            assert counted.calls >= MANY
            with Counted(loop) as counted:
                for _ in range(MANY):
                    await receive()
            assert counted.calls >= MANY


async def test_connections_of_the_callers_sockets(way, loop):
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=MANY))
        listener.setblocking(False)
        socks = [stack.enter_context(socket.socket()) for _ in range(MANY)]
        for sock in socks:
            sock.setblocking(False)
        with Counted(loop) as counted:
            for sock in socks:
                await loop.sock_connect(sock, listener.getsockname())
        # connect() and, unless that was done at once, what became of it.
        assert counted.calls >= MANY
        with Counted(loop) as counted:
            for _ in range(MANY):
                stack.enter_context((await loop.sock_accept(listener))[0])
        assert counted.calls >= MANY


async def test_a_shared_listener(loop):
    """Connections that are refused by the factory: accept4() and close(), and nothing else for each."""
    refused = []

    def factory():
        refused.append(1)
        raise ZeroDivisionError

    loop.set_exception_handler(lambda *_: None)
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=MANY))
        for _ in range(MANY):
            stack.enter_context(socket.create_connection(listener.getsockname()))
        with Counted(loop) as counted:
            server = await loop.create_server(factory, sock=listener)
            await settle(lambda: len(refused) == MANY)
        server.close()
        assert counted.calls >= 2 * MANY


async def test_pipes(loop):
    """writev() for each write; ioctl() and read() for each delivery."""
    with contextlib.ExitStack() as stack:
        readers, writers = [], []
        for _ in range(MANY):
            for end, opened, connect in zip(
                os.pipe(), (readers, writers), (loop.connect_read_pipe, loop.connect_write_pipe), strict=True
            ):
                file = stack.enter_context(open(end, "rb" if opened is readers else "wb", buffering=0))
                opened.append(await connect(Recorder, file))
        await asyncio.sleep(0.01)
        with Counted(loop) as counted:
            for transport, _ in writers:
                transport.write(b"x")
        assert counted.calls == MANY
        with Counted(loop) as counted:
            for _, protocol in readers:
                await protocol.until_received(1)
        assert counted.calls >= 2 * MANY
        for transport, protocol in writers + readers:
            transport.close()
            await protocol.until_called("lost")


async def test_large_reads(loop, connect):
    """The loop's own thread makes them, whoever serves the page."""
    _, protocol, peer = await connect()
    size = 8 << 20
    with Counted(loop) as counted:
        await asyncio.gather(peer.send(bytes(size)), protocol.until_received(size))
    large = sum(len(chunk) > 128 << 10 for chunk in protocol.chunks)
    assert large
    assert counted.calls >= large


async def test_sendfile(loop):
    """Two looks into the page cache and sendfile() itself."""
    with contextlib.ExitStack() as stack:
        one, _ = not_blocking(stack, unix_pair())
        file = stack.enter_context(tempfile.TemporaryFile(buffering=0))
        file.write(b"x" * 100)
        with Counted(loop) as counted:
            for _ in range(MANY):
                assert await loop.sock_sendfile(one, file, 0, 100) == 100
        assert counted.calls >= 3 * MANY


async def test_small_files_over_a_connection(loop, connect):
    """One pread(), besides the sending."""
    transport, _, peer = await connect()
    with tempfile.TemporaryFile(buffering=0) as file:
        file.write(b"x" * 100)
        with Counted(loop) as counted:
            for _ in range(MANY):
                await loop.sendfile(transport, file, 0, 100)
        assert counted.calls >= MANY
        assert await peer.recv(100 * MANY) == b"x" * 100 * MANY


#: What is about now, not about all that was.
NOW = {"in_flight", "connections", "ready", "timers", "pool_buffers"}


def went_back(before, after):
    return {key: (before[key], after[key]) for key in before if key not in NOW and after[key] < before[key]}


async def work():
    await echo()
    await asyncio.sleep(0.01)  # so that a poller falls asleep and has to be woken
    await echo()


def test_counters_never_go_back(loop):
    """With a kernel page, another thread gets another ring, and its poller has another thread."""
    seen = loop.stats()
    for _ in range(3):
        loop.run_until_complete(work())
        thread = threading.Thread(target=loop.run_until_complete, args=(asyncio.sleep(0),))
        now = loop.stats()
        assert not went_back(seen, now)
        thread.start()
        thread.join()
        seen = loop.stats()
        assert not went_back(now, seen)
    loop.close()
    assert not went_back(seen, loop.stats())


def test_the_cpu_time_of_a_thread_that_is_gone(way, new_loop):
    loop = new_loop()
    loop.run_until_complete(work())
    spent = loop.stats()["thread_cpu_ns"]
    loop.close()
    began = time.process_time_ns()
    assert loop.stats()["thread_cpu_ns"] >= spent
    assert (spent > 0) is (way.threads != "off")
    assert loop.stats()["thread_cpu_ns"] <= began


def test_the_cpu_time_of_a_thread_that_has_just_begun(way, new_loop):
    """It is the thread's own from the first moment, not that of the thread that made the loop."""
    began = time.thread_time_ns()
    while time.thread_time_ns() - began < 200_000_000:
        pass
    for _ in range(10):
        loop = new_loop()
        assert loop.stats()["thread_cpu_ns"] < 100_000_000
        loop.run_until_complete(work())
        assert (loop.stats()["thread_cpu_ns"] > 0) is (way.threads != "off")
        loop.close()
