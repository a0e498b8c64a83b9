"""A syscall thread that has to share its CPU with a busy loop: what ends a connection does not wait for it.

Time is counted in the loop's turns: nothing but the thread's lack of a CPU keeps what is to be done from being done
within a few.
"""

import asyncio
import os
import select
import socket
import statistics
import time

import pytest
from datagrams import Talker
from support import Recorder, spare_cpu, tcp_pair

TURN_S = 0.0002
ROUNDS = 15
FEW = 10
# A busy loop on the same CPU leaves a syscall thread nothing for 4 to 10 ms: 20 to 50 turns.


@pytest.fixture(autouse=True)
def on_the_threads_cpu():
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {spare_cpu()})
    yield
    os.sched_setaffinity(0, before)


def compute():
    end = time.perf_counter() + TURN_S
    while time.perf_counter() < end:
        pass


async def turns_until(condition):
    """How many busy turns go by until `condition()`; after a second, for want of a CPU, there is no telling."""
    count, end = 0, time.monotonic() + 1
    while not condition():
        assert time.monotonic() < end, "never"
        compute()
        await asyncio.sleep(0)
        count += 1
    return count


def received(sock, want):
    """Whether the peer has `want` bytes; 0: the end."""

    def look():
        try:
            data = sock.recv(1 << 16)
        except BlockingIOError:
            return False
        assert len(data) == want
        return True

    sock.setblocking(False)
    return look


def is_there(fd):
    """Whether there is something to read, or the end."""
    return bool(select.select([fd], [], [], 0)[0])


@pytest.mark.usefixtures("kind")
async def test_last_write_and_end(loop, connect):
    """The answer and the end are seen within a few turns, not when the thread has got its CPU."""
    answers, ends = [], []
    for _ in range(ROUNDS):
        transport, protocol, peer = await connect()
        await turns_until(lambda: True)
        compute()
        transport.write(b"answer")
        transport.close()
        answers.append(await turns_until(received(peer.sock, 6)))
        ends.append(await turns_until(received(peer.sock, 0)))
        assert protocol.calls[-1] == "lost"
        peer.close()
    assert statistics.median(answers) <= FEW
    # A receive that is in flight in the kernel can be ended by the poller alone: the loop sleeps for that.
    assert statistics.median(ends) <= FEW


@pytest.mark.usefixtures("kind")
async def test_descriptors(loop, connect, way):
    """They are free when connection_lost() has been called, unless the thread has lost its CPU at work."""
    late = 0
    for _ in range(ROUNDS):
        transport, protocol, peer = await connect()
        fd = transport.get_extra_info("socket").fileno()
        transport.close()
        await protocol.until_called("lost")
        late += os.path.lexists(f"/proc/self/fd/{fd}")
        peer.close()
    assert late <= (ROUNDS // 2 if way.name == "user-pinned" else 0)


async def test_many_answers_of_one_turn(loop):
    """More than a loop with a syscall thread sends itself where that has a CPU of its own."""
    pairs = [tcp_pair() for _ in range(12)]
    transports = []
    for ours, theirs in pairs:
        ours.setblocking(False)
        theirs.setblocking(False)
        transports.append((await loop.connect_accepted_socket(Recorder, ours))[0])
    counts = []
    for _ in range(ROUNDS):
        compute()
        for transport in transports:
            transport.write(b"answer")
        counts.append(max([await turns_until(received(theirs, 6)) for _, theirs in pairs]))
    assert statistics.median(counts) <= FEW
    for transport in transports:
        transport.close()
    assert max([await turns_until(received(theirs, 0)) for _, theirs in pairs]) >= 0
    for _, theirs in pairs:
        theirs.close()


async def test_last_words_into_a_pipe(loop):
    counts = []
    for _ in range(ROUNDS):
        reading, writing = os.pipe()
        os.set_blocking(reading, False)
        transport, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, open(writing, "wb", 0))
        compute()
        transport.write(b"last words")
        transport.close()
        counts.append(await turns_until(lambda reading=reading: is_there(reading)))
        assert os.read(reading, 100) == b"last words"
        counts.append(await turns_until(lambda reading=reading: is_there(reading)))
        assert os.read(reading, 100) == b""
        os.close(reading)
    assert statistics.median(counts) <= FEW


async def test_last_datagrams(loop):
    counts = []
    for _ in range(ROUNDS):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
            peer.bind(("127.0.0.1", 0))
            transport, protocol = await loop.create_datagram_endpoint(Talker, remote_addr=peer.getsockname())
            compute()
            for _ in range(3):
                transport.sendto(b"answer")
            transport.close()
            counts += [await turns_until(received(peer, 6)) for _ in range(3)]
            counts.append(await turns_until(lambda protocol=protocol: "lost" in protocol.calls))
    assert statistics.median(counts) <= FEW


async def test_addresses(loop):
    """Whoever binds next finds them free: when close() of a server has returned, and after connection_lost()."""
    counts = []
    for _ in range(ROUNDS):
        server = await loop.create_server(Recorder, "127.0.0.1", 0, reuse_address=False)
        name = server.sockets[0].getsockname()
        compute()
        server.close()
        with socket.create_server(name):
            pass
        transport, protocol = await loop.create_datagram_endpoint(Talker, local_addr=name)
        compute()
        transport.close()
        counts.append(await turns_until(lambda protocol=protocol: "lost" in protocol.calls))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as next_one:
            next_one.bind(name)
    assert statistics.median(counts) <= FEW
