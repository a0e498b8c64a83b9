"""Clients that have shut down their sending side and do not read: whoever waits to send them more sleeps.

Not that it is fast is tested but that it stands still: turns, system calls and the CPU time of both threads.
"""

import asyncio
import contextlib
import socket
import tempfile
import time

import pytest
from support import fill, settle, shrink, tcp_pair, unix_pair
from tls_support import Connector, Contexts

#: More than the buffers of any of these connections hold.
MUCH = bytes(1 << 20)
CLIENTS = 1000
PAIRS = {"tcp": tcp_pair, "unix": unix_pair}

#: What a loop may do in so many seconds in which nothing happens: go to sleep, and wake up to end the test.
WINDOW_S, TURNS, CALLS, CPU_NS = 0.1, 4, 10, 3_000_000


async def stands_still(loop, seconds=20):
    """Wait for a window in which nothing has happened; syscall threads look for work for some milliseconds first."""
    end = time.monotonic() + seconds
    while True:
        before, cpu = counted(loop), time.thread_time_ns()
        await asyncio.sleep(WINDOW_S)
        after, cpu = counted(loop), time.thread_time_ns() - cpu
        turns, calls, thread_cpu = (after[name] - before[name] for name in before)
        if turns <= TURNS and calls <= CALLS and cpu + thread_cpu <= CPU_NS:
            return
        assert time.monotonic() < end, f"{turns} turns, {calls} calls, CPU {cpu} + {thread_cpu} ns"


def counted(loop):
    stats = loop.stats() if hasattr(loop, "stats") else {}
    return {name: stats.get(name, 0) for name in ("turns", "syscalls", "thread_cpu_ns")}


class Waiting(asyncio.Protocol):
    """Keeps its side open when the far end has closed its own."""

    def __init__(self, *, keep_open=True):
        self.keep_open = keep_open

    def eof_received(self):
        return self.keep_open


class Ways:
    """Each begins to wait for a client that does not read; what ends that is left on `stack`."""

    def __init__(self, loop, stack):
        self.loop, self.stack = loop, stack

    def task(self, coroutine):
        task = self.loop.create_task(coroutine)

        async def end():
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled(), "it had nothing to wait for"

        self.stack.push_async_callback(end)

    def file(self):
        file = self.stack.enter_context(tempfile.TemporaryFile())
        file.write(MUCH)
        file.seek(0)
        return file

    async def transport(self, ours, **options):
        transport, protocol = await self.loop.connect_accepted_socket(lambda: Waiting(**options), ours)
        self.stack.callback(transport.abort)
        return transport, protocol

    async def writer(self, ours):
        self.loop.add_writer(ours, fill, ours)
        self.stack.callback(self.loop.remove_writer, ours)

    async def sock_sendall(self, ours):
        self.task(self.loop.sock_sendall(ours, MUCH))

    async def sock_sendfile(self, ours):
        self.task(self.loop.sock_sendfile(ours, self.file()))

    async def sendfile(self, ours):
        transport, _ = await self.transport(ours)
        self.task(self.loop.sendfile(transport, self.file()))

    async def write(self, ours):
        transport, _ = await self.transport(ours)
        transport.write(MUCH)

    async def write_paused(self, ours):
        transport, _ = await self.transport(ours)
        transport.pause_reading()
        transport.write(MUCH)

    async def write_and_close(self, ours):
        transport, _ = await self.transport(ours)
        transport.write(MUCH)
        transport.close()

    async def write_until_the_end(self, ours):
        """When it comes, the transport closes as soon as all is sent."""
        transport, _ = await self.transport(ours, keep_open=False)
        transport.write(MUCH)

    async def stream(self, ours):
        """`drain()` waits, and so does a reader who has read the end."""
        _, writer = await asyncio.open_connection(sock=ours)
        self.stack.callback(writer.transport.abort)
        writer.write(MUCH)
        self.task(writer.drain())


WAYS_TO_WAIT = [name for name in vars(Ways) if not name.startswith("_") and name not in ("task", "file", "transport")]
#: What a page treats in another way: a watch, a call, and a transport that is open or closing.
OF_A_KIND = ["writer", "sock_sendall", "write", "write_and_close"]


@contextlib.asynccontextmanager
async def clients(loop, make, how, count, *, first):
    """So many clients, all waited for; yields their sockets.  first: they shut down before, else afterwards."""
    async with contextlib.AsyncExitStack() as stack:
        ways = Ways(loop, stack)
        far = []
        for _ in range(count):
            ours, theirs = make()
            stack.enter_context(ours)
            far.append(stack.enter_context(theirs))
            shrink(ours)
            shrink(theirs)
            ours.setblocking(False)
            if first:
                theirs.shutdown(socket.SHUT_WR)
            await getattr(ways, how)(ours)
        for theirs in far:
            if not first:
                theirs.shutdown(socket.SHUT_WR)
        yield far


@pytest.mark.parametrize("first", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("how", WAYS_TO_WAIT)
async def test_a_client_costs_nothing(loop, kind, how, first):
    async with clients(loop, PAIRS[kind], how, 1, first=first):
        await stands_still(loop)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("how", OF_A_KIND)
async def test_a_thousand_clients_cost_nothing(loop, kind, how):
    async with clients(loop, PAIRS[kind], how, CLIENTS, first=False):
        await stands_still(loop)


async def test_of_many_clients_the_one_that_reads_is_served(loop):
    """The others have cost the loop its attention to nobody."""
    async with clients(loop, tcp_pair, "write", 50, first=False) as far:
        await stands_still(loop)
        reads = far[17]
        reads.setblocking(False)
        received = 0
        while received < len(MUCH):
            received += len(await loop.sock_recv(reads, 1 << 18))
        assert received == len(MUCH)
        await stands_still(loop)


# -- TLS


@pytest.mark.parametrize("notify", [True, False], ids=["close_notify", "no close_notify"])
@pytest.mark.parametrize("paused", [False, True])
@pytest.mark.parametrize("side", ["client", "server"])
async def test_a_tls_client_costs_nothing(loop, side, paused, notify):
    connector = Connector(loop, Contexts(), side, None)
    ours, peer = connector.pair(shrink)
    (transport, _), _ = await asyncio.gather(connector.open(ours, Waiting), peer.handshake())
    try:
        if paused:
            transport.pause_reading()
        transport.write(MUCH)
        if notify:
            peer.sock.sendall(peer.close_notify())
        peer.sock.shutdown(socket.SHUT_WR)
        await stands_still(loop)
    finally:
        transport.abort()
        peer.close()


# -- pipes


async def test_a_write_pipe_that_nobody_reads_costs_nothing(loop, ends):
    """There, an end of the other direction is one of the pipe itself; what it waits for is the same."""
    _, writing = ends
    transport, _ = await loop.connect_write_pipe(Waiting, writing)
    try:
        transport.write(MUCH)
        await settle(lambda: transport.get_write_buffer_size())
        await stands_still(loop)
    finally:
        transport.abort()
