"""What was written has gone when a callback goes on to block, to compute, to replace the process or to end it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time

import pytest
from datagrams import udp_socket
from support import Way, run_python, tcp_pair, turns, unix_pair
from tls_support import Contexts

PAIRS = {"tcp": tcp_pair, "unix": unix_pair}


@pytest.fixture(scope="module")
def contexts():
    return Contexts()


@pytest.fixture(autouse=True)
def as_by_default(monkeypatch):
    monkeypatch.delenv("FLEXSC_WRITES", raising=False)


def take(sock: socket.socket, count: int) -> bytes:
    """`count` bytes, or as many as come within a few seconds."""
    sock.settimeout(5)
    data = b""
    try:
        while len(data) < count and (more := sock.recv(count - len(data))):
            data += more
    except TimeoutError:
        pass
    return data


# -- a turn with little else to do


@pytest.fixture(params=["task", "callback", "timer", "delivery"])
def inside(request, loop):
    """Calls a function in such a callback; returns its result."""

    async def call(function):
        result = loop.create_future()

        def run(*_):
            try:
                result.set_result(function())
            except BaseException as error:
                result.set_exception(error)

        if request.param == "task":
            return function()
        if request.param == "callback":
            loop.call_soon(run)
        elif request.param == "timer":
            loop.call_later(0.001, run)
        else:
            protocol = type("Protocol", (asyncio.Protocol,), {"data_received": run})
            ours, theirs = unix_pair()
            transport, _ = await loop.connect_accepted_socket(protocol, ours)
            theirs.send(b"x")
            await result
            transport.close()
            theirs.close()
        return await result

    return call


@pytest.mark.parametrize("kind", PAIRS)
@pytest.mark.parametrize(("writes", "connections"), [(1, 1), (3, 1), (1, 5), (3, 5)])
async def test_a_peer_that_is_awaited_in_the_same_callback(loop, inside, kind, writes, connections):
    ends = []
    for _ in range(connections):
        ours, theirs = PAIRS[kind]()
        transport, _ = await loop.connect_accepted_socket(asyncio.Protocol, ours)
        ends.append((transport, theirs))

    def write_and_read():
        for transport, _ in ends:
            for i in range(writes):
                transport.write(b"%d" % i)
        return [take(theirs, writes) for _, theirs in ends]

    for _ in range(3):
        assert await inside(write_and_read) == [b"012"[:writes]] * connections
    for transport, theirs in ends:
        transport.close()
        theirs.close()
    await turns()


async def test_writelines_and_a_peer_that_is_awaited(loop):
    ours, theirs = tcp_pair()
    transport, _ = await loop.connect_accepted_socket(asyncio.Protocol, ours)
    for _ in range(3):
        transport.writelines([b"a", b"b", b"c"])
        assert take(theirs, 3) == b"abc"
    transport.close()
    theirs.close()
    await turns()


@pytest.mark.parametrize("writes", [1, 3])
async def test_a_pipe_that_is_read_in_the_same_callback(loop, inside, writes):
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    transport, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, os.fdopen(writer, "wb", 0))

    def write_and_read():
        for _ in range(writes):
            transport.write(b"x")
        return os.read(reader, 100)

    for _ in range(3):
        assert await inside(write_and_read) == b"x" * writes
    transport.close()
    os.close(reader)
    await turns()


@pytest.mark.parametrize("count", [1, 3])
async def test_datagrams_that_are_awaited_in_the_same_callback(loop, inside, count):
    receiver = udp_socket()
    receiver.settimeout(5)
    transport, _ = await loop.create_datagram_endpoint(
        asyncio.DatagramProtocol, remote_addr=receiver.getsockname()
    )

    def send_and_read():
        for i in range(count):
            transport.sendto(b"%d" % i)
        return [receiver.recv(10) for _ in range(count)]

    for _ in range(3):
        assert await inside(send_and_read) == [b"0", b"1", b"2"][:count]
    transport.close()
    receiver.close()
    await turns()


@pytest.mark.parametrize("writes", [1, 3])
async def test_a_tls_peer_that_is_awaited_in_the_same_callback(loop, inside, contexts, writes):
    ours, theirs = tcp_pair()
    theirs.settimeout(5)
    wrapped = {}

    def shake():
        wrapped["peer"] = contexts.client().wrap_socket(theirs, server_hostname="localhost")

    thread = threading.Thread(target=shake)
    thread.start()
    transport, _ = await loop.connect_accepted_socket(asyncio.Protocol, ours, ssl=contexts.server())
    await loop.run_in_executor(None, thread.join)
    peer = wrapped["peer"]

    def write_and_read():
        for i in range(writes):
            transport.write(b"%d" % i)
        return take(peer, writes)

    for _ in range(3):
        assert await inside(write_and_read) == b"012"[:writes]
    transport.abort()
    peer.close()
    await turns()


def test_what_is_written_between_two_runs_leaves_at_once(loop):
    ours, theirs = tcp_pair()
    transport, _ = loop.run_until_complete(loop.connect_accepted_socket(asyncio.Protocol, ours))
    for _ in range(3):
        transport.write(b"x")
    assert take(theirs, 3) == b"xxx"
    transport.close()
    theirs.close()
    loop.run_until_complete(turns())


# -- a turn in which many write: what they write is gathered, and sent all the same when one of them does not return


class Crowd:
    """Connections that all get something in one turn and answer; the last one in it then does something else."""

    def __init__(self, loop, count: int = 8) -> None:
        self.loop, self.count = loop, count
        self.done = loop.create_future()
        self.answered = 0
        self.transports: list[asyncio.Transport] = []
        self.peers: list[socket.socket] = []

    async def gather(self, context=None) -> None:
        for _ in range(self.count):
            ours, theirs = tcp_pair()
            if context is not None:
                await self.add_tls(ours, theirs, context)
                continue
            transport, _ = await self.loop.connect_accepted_socket(lambda: Member(self), ours)
            self.transports.append(transport)
            self.peers.append(theirs)

    async def add_tls(self, ours, theirs, context) -> None:
        def shake():
            self.peers.append(context.client().wrap_socket(theirs, server_hostname="localhost"))

        thread = threading.Thread(target=shake)
        thread.start()
        transport, _ = await self.loop.connect_accepted_socket(lambda: Member(self), ours, ssl=context.server())
        self.transports.append(transport)
        await self.loop.run_in_executor(None, thread.join)

    async def call(self, function):
        """What `function()` gives, called in a turn in which all have written."""
        self.function = function
        self.answered = 0
        self.done = self.loop.create_future()
        for peer in self.peers:
            peer.send(b"x")
        time.sleep(0.02)  # all of it has come when the next turn begins
        return await self.done

    def answer(self, transport) -> None:
        transport.write(b"y")
        self.answered += 1
        if self.answered == self.count:
            try:
                self.done.set_result(self.function())
            except BaseException as error:
                self.done.set_exception(error)

    def all_have_theirs(self) -> bool:
        return [take(peer, 1) for peer in self.peers] == [b"y"] * self.count

    async def leave(self) -> None:
        for transport in self.transports:
            transport.abort()
        for peer in self.peers:
            peer.close()
        await turns(5)


class Member(asyncio.Protocol):
    def __init__(self, crowd: Crowd) -> None:
        self.crowd = crowd

    def connection_made(self, transport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.crowd.answer(self.transport)


async def test_many_answers_before_a_call_that_blocks(loop):
    crowd = Crowd(loop)
    await crowd.gather()
    for _ in range(5):
        assert await crowd.call(crowd.all_have_theirs)
    await crowd.leave()


async def test_many_answers_over_tls_before_a_call_that_blocks(loop, contexts):
    crowd = Crowd(loop, 6)
    await crowd.gather(contexts)
    for _ in range(5):
        assert await crowd.call(crowd.all_have_theirs)
    await crowd.leave()


async def test_several_writes_and_blocks_in_one_callback(loop):
    crowd = Crowd(loop)
    await crowd.gather()

    def write_again_and_again():
        told = [crowd.all_have_theirs()]
        for _ in range(3):
            for transport in crowd.transports:
                transport.write(b"y")
            told.append(crowd.all_have_theirs())
        return told

    assert await crowd.call(write_again_and_again) == [True] * 4
    await crowd.leave()


async def test_two_writes_of_each_before_a_call_that_blocks(loop):
    crowd = Crowd(loop)
    await crowd.gather()

    def write_once_more():
        for transport in crowd.transports:
            transport.write(b"z")
        return [take(peer, 2) for peer in crowd.peers]

    for _ in range(3):
        assert await crowd.call(write_once_more) == [b"yz"] * crowd.count
    await crowd.leave()


async def test_datagrams_of_a_busy_turn_before_a_call_that_blocks(loop):
    crowd = Crowd(loop)
    await crowd.gather()
    receiver = udp_socket()
    receiver.settimeout(5)
    transport, _ = await loop.create_datagram_endpoint(
        asyncio.DatagramProtocol, remote_addr=receiver.getsockname()
    )

    def send_and_read():
        for i in range(3):
            transport.sendto(b"%d" % i)
        return [receiver.recv(10) for _ in range(3)]

    for _ in range(3):
        assert await crowd.call(send_and_read) == [b"0", b"1", b"2"]
    transport.close()
    receiver.close()
    await crowd.leave()


# -- what ends the process

BEFORE = """
import asyncio, os, signal, socket, sys, time

class Crowd(asyncio.Protocol):
    answered = 0

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(b"y")
        Crowd.answered += 1
        if Crowd.answered == COUNT:
            end(self.transport)

async def main():
    loop = asyncio.get_running_loop()
    for fd in map(int, sys.argv[1:]):
        sock = socket.socket(fileno=fd)
        await loop.connect_accepted_socket(Crowd, sock)
    print("ready", flush=True)
    await asyncio.sleep(30)
"""

ENDS = {
    "returns": "sys.exit(0)",
    "raises": "raise KeyboardInterrupt",
    "exec": "os.execv('/bin/true', ['true'])",
    "execve": "os.execve('/bin/true', ['true'], {})",
    "kill": "os.kill(os.getpid(), signal.SIGKILL)",
    "killpg": "os.setsid() if os.getpgid(0) != os.getpid() else None; os.killpg(os.getpid(), signal.SIGKILL)",
    "spawn": "os.posix_spawn('/bin/true', ['true'], {}); os.kill(os.getpid(), signal.SIGKILL)",
    "fork": "os.fork(); os._exit(0)",
    "at once": "os._exit(3)",
}


def ending(way: Way, how: str, connections: int, *, writes: str | None = None) -> list[bytes]:
    """What each peer gets of a program whose last callback of a turn ends it."""
    pairs = [tcp_pair() for _ in range(connections)]
    source = f"""
{way.prelude()}
{BEFORE}
COUNT = {connections}
def end(transport):
    {ENDS[how]}
run(main(){f", writes={writes!r}" if writes else ""})
"""
    fds = [ours.fileno() for ours, _ in pairs]
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(source), *map(str, fds)],
        pass_fds=fds,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        for ours, _ in pairs:
            ours.close()
        assert process.stdout.readline() == b"ready\n"
        os.kill(process.pid, signal.SIGSTOP)  # all of it has come when the next turn begins
        for _, theirs in pairs:
            theirs.send(b"x")
        os.kill(process.pid, signal.SIGCONT)
        return [take(theirs, 1) for _, theirs in pairs]
    finally:
        process.kill()
        process.communicate()
        for _, theirs in pairs:
            theirs.close()


@pytest.mark.parametrize("how", ENDS)
@pytest.mark.parametrize("connections", [1, 12])
def test_the_end_of_a_process_after_answers(way, how, connections):
    assert ending(way, how, connections) == [b"y"] * connections


@pytest.mark.ours
@pytest.mark.parametrize("how", [how for how in ENDS if how != "at once"])
def test_the_end_of_a_process_that_sends_together(way, how):
    """As a loop does that is busy."""
    assert ending(way, how, 12, writes="turn") == [b"y"] * 12


@pytest.mark.ours
@pytest.mark.parametrize("how", ENDS)
def test_the_end_of_a_process_that_sends_each_write_at_once(way, how):
    assert ending(way, how, 12, writes="now") == [b"y"] * 12


# -- a loop that is busy


@pytest.fixture
def calls(new_loop, monkeypatch):
    """How many system calls a turn makes in which two streams are written to 200 times each."""

    def count(writes: str) -> int:
        monkeypatch.setenv("FLEXSC_WRITES", writes)
        loop = new_loop()

        async def main():
            pairs = [unix_pair() for _ in range(2)]
            transports = [(await loop.connect_accepted_socket(asyncio.Protocol, ours))[0] for ours, _ in pairs]
            before = loop.stats()["syscalls"]
            for transport in transports * 200:
                transport.write(b"x")
            made = loop.stats()["syscalls"] - before
            await asyncio.sleep(0)
            for transport, (_, theirs) in zip(transports, pairs, strict=True):
                assert take(theirs, 200) == b"x" * 200
                transport.close()
                theirs.close()
            await turns()
            return made

        return loop.run_until_complete(main())

    return count


@pytest.mark.ours
def test_much_is_sent_together(calls):
    assert calls("turn") <= 3
    assert calls("auto") < 300
    assert calls("now") >= 400


@pytest.mark.ours
def test_a_program_that_is_not_told_of_calls_works_as_well(way):
    """Another audit hook refuses ours."""
    end = run_python(
        f"""
import sys
def refuse(event, arguments):
    if event == "sys.addaudithook":
        raise PermissionError("no hooks here")
sys.addaudithook(refuse)
{way.prelude()}
import socket

async def main():
    loop = asyncio.get_running_loop()
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    transport, _ = await loop.connect_accepted_socket(asyncio.Protocol, ours)
    for _ in range(1000):
        transport.write(b"x")
    data = b""
    while len(data) < 1000:
        data += await loop.sock_recv(theirs, 1000)
    print("done")
run(main(), writes="turn")
"""
    )
    assert end.out == "done\n", end.err


@pytest.mark.ours
def test_a_call_from_within_sending(way):
    """A log's handler, told of a send that fails, makes a call before which all is sent."""
    end = run_python(
        f"""
{way.prelude()}
import logging, os, socket, time

told = []

class Handler(logging.Handler):
    def emit(self, record):
        os.kill(os.getpid(), 0)
        time.sleep(0)
        told.append(record.msg)

async def main():
    loop = asyncio.get_running_loop()
    loop.set_debug(True)
    logger = logging.getLogger("asyncio")
    logger.propagate = False
    logger.setLevel(logging.DEBUG)
    logger.addHandler(Handler())
    pairs = [socket.socketpair() for _ in range(5)]
    for ours, theirs in pairs:
        transport, _ = await loop.connect_accepted_socket(asyncio.Protocol, ours)
        if theirs is pairs[2][1]:
            null = os.open("/dev/null", os.O_RDWR)
            os.dup2(null, transport.get_extra_info("socket").fileno())
            os.close(null)
        transport.write(b"x")
        transport.write(b"y")
    os.kill(os.getpid(), 0)
    for _, theirs in pairs[:2] + pairs[3:]:
        theirs.settimeout(5)
        assert theirs.recv(2) == b"xy"
    print("%r: %s" in told)
run(main(), writes="turn")
"""
    )
    assert end.out == "True\n", end.err
