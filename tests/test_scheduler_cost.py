"""What the scheduler costs: the system calls that it makes, as strace sees them."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from sandbox import io_uring_blocked
from support import child_environment

pytestmark = [pytest.mark.ours, pytest.mark.timeout(120)]

LOOKS_PER_SECOND = 10
ITS_CALLS = re.compile(r"\b(getrusage|pread64|sched_getaffinity)\(")

PROGRAM = """
import asyncio, os, socket, sys, time
import flexsc_loop

class Again(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
    def data_received(self, data):
        self.transport.write(data)

def mark(what):
    os.write(null, what.encode())

async def main():
    loop = asyncio.get_running_loop()
    transports = []
    for _ in range(8):
        for end in socket.socketpair():
            transports.append((await loop.create_connection(Again, sock=end))[0])
    await asyncio.sleep(1.0)
    # The first message sets off an endless exchange.
    for transport in transports[::2]:
        transport.write(b"x" * 1000)
    await asyncio.sleep(0.5)
    mark("busy")
    began = time.monotonic()
    await asyncio.sleep(1.0)
    mark("over")
    print(time.monotonic() - began)
    for transport in transports[::2]:
        transport.pause_reading()
    await asyncio.sleep(0.5)
    mark("idle")
    await asyncio.sleep(1.0)
    mark("done")

null = os.open(os.devnull, os.O_WRONLY)
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
flexsc_loop.run(main(), pages=sys.argv[1], threads="auto")
"""


def traced(pages: str, folder: Path) -> tuple[float, list[str]]:
    """How long the busy part of the program took, and its system calls."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed")
    log = folder / "calls"
    done = subprocess.run(
        [strace, "-f", "-qq", "-o", str(log), sys.executable, "-c", PROGRAM, pages],
        capture_output=True, text=True, timeout=100, env=child_environment(), check=False)
    if "ptrace" in done.stderr.lower():
        pytest.skip("strace may not trace here")
    assert done.returncode == 0, done.stderr
    return float(done.stdout), log.read_text().splitlines()


def between(calls: list[str], first: str, last: str) -> list[str]:
    """Those between two marks."""
    begin, end = (next(i for i, call in enumerate(calls) if f'"{mark}"' in call) for mark in (first, last))
    return calls[begin + 1 : end]


@pytest.mark.parametrize("pages", ["kernel", "user"])
def test_the_scheduler_makes_few_system_calls_and_none_while_the_loop_sleeps(pages: str, tmp_path: Path) -> None:
    """On one CPU, so that it looks and starts no trial."""
    if pages == "kernel" and io_uring_blocked():
        pytest.skip("io_uring is blocked on this machine")
    seconds, calls = traced(pages, tmp_path)
    busy = between(calls, "busy", "over")
    counts: dict[str, int] = {}
    for call in busy:
        if found := ITS_CALLS.search(call):
            # Of /proc/stat, cpu.max and so on each is a file of its own.
            key = found[1] + (call.split("(")[1].split(",")[0] if found[1] == "pread64" else "")
            counts[key] = counts.get(key, 0) + 1
    assert len(busy) > 100
    assert counts.get("getrusage", 0) >= 1
    assert all(count <= LOOKS_PER_SECOND * seconds + 1 for count in counts.values()), counts
    # What wakes it up for the mark, and what it sleeps in.
    assert len(between(calls, "idle", "done")) <= 8, between(calls, "idle", "done")
