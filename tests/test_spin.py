"""A loop whose peers answer at once looks for completions before it sleeps, and misses nothing meanwhile."""

import asyncio
import os
import random
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import pytest
from support import unix_pair

pytestmark = [
    pytest.mark.ours,
    pytest.mark.timeout(60),
]

needs_two_cpus = pytest.mark.skipif(
    len(os.sched_getaffinity(0)) < 2, reason="on one CPU a peer cannot answer while the loop looks"
)

ECHO = """
import socket
sock = socket.socket(fileno=0)
while data := sock.recv(4096):
    sock.sendall(data)
"""


@contextmanager
def prompt_peer():
    """A socket whose other end is a process that sends everything back at once."""
    mine, its = unix_pair()
    its.setblocking(True)
    with mine, subprocess.Popen([sys.executable, "-c", ECHO], stdin=its) as child:
        its.close()
        try:
            yield mine
        finally:
            child.kill()


async def ask(reader, writer, times):
    for number in range(times):
        text = b"%d." % number
        writer.write(text)
        assert await reader.readexactly(len(text)) == text


@needs_two_cpus
async def test_it_looks_where_peers_answer_at_once(loop):
    with prompt_peer() as sock:
        reader, writer = await asyncio.open_unix_connection(sock=sock)
        until = loop.time() + 40
        while loop.stats()["spins"] < 5:
            assert loop.time() < until, loop.stats()
            await ask(reader, writer, 100)
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize("what", ["callback", "signal", "reader"])
async def test_what_comes_from_elsewhere_meanwhile(loop, what):
    """It comes within some microseconds of the last answer, and then nothing else does: the loop looks, or sleeps."""
    came = asyncio.Event()
    go = threading.Event()
    rounds = 300
    out, into = os.pipe()

    def read():
        os.read(out, 1)
        came.set()

    def disturb():
        chance = random.Random(7)
        for _ in range(rounds):
            go.wait()
            go.clear()
            until = time.perf_counter() + chance.uniform(0, 60e-6)
            while time.perf_counter() < until:
                pass
            if what == "callback":
                loop.call_soon_threadsafe(came.set)
            elif what == "signal":
                os.kill(os.getpid(), signal.SIGUSR1)
            else:
                os.write(into, b"x")

    loop.add_signal_handler(signal.SIGUSR1, came.set)
    loop.add_reader(out, read)
    thread = threading.Thread(target=disturb, daemon=True)
    thread.start()
    try:
        with prompt_peer() as sock:
            reader, writer = await asyncio.open_unix_connection(sock=sock)
            for _ in range(rounds):
                await ask(reader, writer, 5)
                came.clear()
                go.set()
                await asyncio.wait_for(came.wait(), 10)
            writer.close()
            await writer.wait_closed()
        thread.join(10)
    finally:
        loop.remove_signal_handler(signal.SIGUSR1)
        loop.remove_reader(out)
        os.close(out)
        os.close(into)


@pytest.mark.only(threads="own")
async def test_it_does_not_look_where_answers_take_long(loop):
    """With a syscall thread it looks before each sleep, for less and less time."""
    for _ in range(100):
        await asyncio.sleep(0.001)
    assert loop.stats()["spins"] == 0
