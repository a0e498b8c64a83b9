"""How soon a loop that always has callbacks to run sees what has come, and that it does not ask for it all the time."""

from __future__ import annotations

import asyncio
import time

import pytest
from support import Echo, Recorder, unix_pair


async def busy_turns(predicate, most: int) -> int:
    """Turns of a loop that has something to run in each until `predicate()` holds."""
    count = 0
    while not predicate() and count < most:
        await asyncio.sleep(0)
        count += 1
    return count


# A syscall thread needs some time, however many turns that makes.
own_thread = pytest.mark.only(threads="own")


@own_thread
async def test_what_was_written_arrives_at_a_peer_of_the_same_loop_in_two_turns(loop, connect):
    server = await loop.create_server(Recorder, "127.0.0.1", 0)
    protocols = []

    def factory():
        protocols.append(Recorder())
        return protocols[-1]

    echo = await loop.create_server(factory, "127.0.0.1", 0)
    transport, _ = await loop.create_connection(Recorder, *echo.sockets[0].getsockname())
    await asyncio.sleep(0.05)
    (protocol,) = protocols
    for _ in range(20):
        before = len(protocol.data)
        transport.write(b"x")
        assert await busy_turns(lambda before=before: len(protocol.data) > before, 1000) <= 2
    transport.close()
    server.close()
    echo.close()
    await asyncio.sleep(0.01)


@own_thread
async def test_what_a_plain_socket_sends_arrives_in_two_turns(loop, connect):
    _, protocol, peer = await connect()
    for _ in range(20):
        await asyncio.sleep(0.001)
        before = len(protocol.data)
        peer.send_now(b"x")
        assert await busy_turns(lambda before=before: len(protocol.data) > before, 1000) <= 2


async def test_a_busy_loop_finds_a_ready_descriptor_in_the_next_turn(loop, way):
    """With a syscall thread, too: the loop does not wait for it to have a core."""
    ours, theirs = unix_pair()
    ours.setblocking(False)
    seen = []
    loop.add_reader(ours, lambda: seen.append(ours.recv(1)))
    for count in range(1, 50):
        theirs.send(b"x")
        assert await busy_turns(lambda count=count: len(seen) == count, 1000) <= 2
    loop.remove_reader(ours)
    for _ in range(50):
        theirs.send(b"x")
        receiving = loop.create_task(loop.sock_recv(ours, 1))
        assert await busy_turns(receiving.done, 1000) <= 4
    ours.close()
    theirs.close()


@own_thread
async def test_an_answer_beside_a_task_that_computes(loop):
    """Each turn takes 2 ms: whoever looks only every so many turns takes that many times as long."""

    async def compute():
        while True:
            end = time.perf_counter() + 0.002
            while time.perf_counter() < end:
                pass
            turns.append(1)
            await asyncio.sleep(0)

    turns = []
    server = await loop.create_server(Echo, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    task = asyncio.create_task(compute())
    counts = []
    for _ in range(9):
        before = len(turns)
        writer.write(b"x")
        await reader.readexactly(1)
        counts.append(len(turns) - before)
    task.cancel()
    writer.close()
    await writer.wait_closed()
    server.close()
    assert sorted(counts)[4] <= 4


@pytest.mark.ours
@own_thread
def test_a_chain_of_callbacks_looks_seldom(loop, connect):
    """A busy loop with nothing to do for others makes next to no system calls."""

    async def main():
        _, _, peer = await connect(Echo)
        await peer.send(b"x")
        await peer.recv(1)
        before = loop.stats()["syscalls"]
        start = time.perf_counter()
        await busy_turns(lambda: False, 20_000)
        took_us = (time.perf_counter() - start) * 1e6
        assert loop.stats()["syscalls"] - before <= 40 + took_us / 40

    loop.run_until_complete(main())
