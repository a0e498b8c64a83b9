"""A loop whose peers answer at once looks for completions before it sleeps, and misses nothing meanwhile."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import pytest
from support import unix_pair

pytestmark = pytest.mark.ours

ECHO = """
import socket
sock = socket.socket(fileno=0)
while data := sock.recv(4096):
    sock.sendall(data)
"""
ENOUGH = 200


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


async def ask(reader, writer, text):
    writer.write(text)
    assert await reader.readexactly(len(text)) == text


async def ask_until(loop, reader, writer, done, seconds=25):
    """Ask again and again until `done()`; the machine may be too busy for prompt answers for some time."""
    until = loop.time() + seconds
    number = 0
    while not done():
        assert loop.time() < until, loop.stats()
        number += 1
        await ask(reader, writer, b"%d." % number)


@pytest.mark.timeout(60)
async def test_it_spins_for_a_prompt_peer(loop):
    with prompt_peer() as sock:
        reader, writer = await asyncio.open_unix_connection(sock=sock)
        await ask_until(loop, reader, writer, lambda: loop.stats()["spins"] >= ENOUGH)
        writer.close()
        await writer.wait_closed()


@pytest.mark.timeout(60)
async def test_what_comes_from_elsewhere_meanwhile(loop):
    """Callbacks from another thread, signals, timers and descriptors, each as often as there is time for."""
    seen = dict.fromkeys(("thread", "signal", "timer", "reader"), 0)
    stop = threading.Event()
    out, into = os.pipe()

    def note(what):
        seen[what] += 1

    def tick():
        note("timer")
        loop.call_later(0.0001, tick)

    def read():
        note("reader")
        os.read(out, 1)

    def disturb():
        while not stop.is_set():
            loop.call_soon_threadsafe(note, "thread")
            os.kill(os.getpid(), signal.SIGUSR1)
            os.write(into, b"x")
            time.sleep(0.001)

    loop.add_signal_handler(signal.SIGUSR1, note, "signal")
    loop.add_reader(out, read)
    loop.call_soon(tick)
    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        with prompt_peer() as sock:
            reader, writer = await asyncio.open_unix_connection(sock=sock)
            await ask_until(loop, reader, writer, lambda: min(seen.values()) >= ENOUGH)
            writer.close()
            await writer.wait_closed()
    finally:
        stop.set()
        await asyncio.to_thread(thread.join)
        loop.remove_signal_handler(signal.SIGUSR1)
        loop.remove_reader(out)
        os.close(out)
        os.close(into)


async def test_it_does_not_spin_where_answers_take_long(way, loop):
    if way.threads != "off":
        pytest.skip("with a syscall thread it looks before each sleep, for less and less time")
    for _ in range(100):
        await asyncio.sleep(0.001)
    assert loop.stats()["spins"] == 0
