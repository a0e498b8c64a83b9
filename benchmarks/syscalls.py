"""Counts system calls per thread of a running process, without any package.

First choice: the kernel's own tracepoint raw_syscalls:sys_enter through perf_event_open(2), one counter per thread,
which the load generator reads at both ends of its window.  That needs root (or perf_event_paranoid and tracefs open to
all).  Second choice: a small ptrace(2) tracer, compiled on demand, which slows the process down; so the run in which
calls are counted is never the one in which time is measured.  Where both are forbidden, a loop that counts its own
system calls (``loop.stats()``) is asked.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import loadgen
from benchmarks.errors import BenchmarkError
from benchmarks.process import Server, thread_times

PERF_EVENT_OPEN = {"x86_64": 298, "aarch64": 241}
PERF_TYPE_TRACEPOINT = 2
ATTR_BYTES = 112
TRACEPOINT = "events/raw_syscalls/sys_enter/id"
TRACER = Path(__file__).parent / "load" / "tracer"


@dataclass
class Counted:
    """System calls of the main thread and of all others (None: not known) in one run, and how they were counted."""

    method: str
    requests: int
    main: int
    others: int | None


def _tracepoint_id() -> int:
    for folder in ("/sys/kernel/tracing", "/sys/kernel/debug/tracing"):
        try:
            return int(Path(folder, TRACEPOINT).read_text())
        except OSError:
            continue
    raise BenchmarkError("the raw_syscalls tracepoint cannot be read")


def _perf_open(tracepoint: int, tid: int) -> int:
    number = PERF_EVENT_OPEN.get(platform.machine())
    if number is None:
        raise BenchmarkError(f"perf_event_open's number is not known on {platform.machine()}")
    libc = ctypes.CDLL(None, use_errno=True)
    attr = struct.pack("=IIQ", PERF_TYPE_TRACEPOINT, ATTR_BYTES, tracepoint).ljust(ATTR_BYTES, b"\0")
    fd = int(libc.syscall(number, attr, tid, -1, -1, 0))
    if fd < 0:
        raise BenchmarkError(f"perf_event_open: {os.strerror(ctypes.get_errno())}")
    return fd


@contextmanager
def _perf_counters(pid: int) -> Iterator[dict[int, int]]:
    """An open counter (file descriptor) for each thread of `pid`, by thread id, without kernel threads that refuse."""
    tracepoint = _tracepoint_id()
    fds = {pid: _perf_open(tracepoint, pid)}
    try:
        for tid in thread_times(pid):
            if tid == pid:
                continue
            try:
                fds[tid] = _perf_open(tracepoint, tid)
            except BenchmarkError:
                continue  # io_uring's own threads make no system calls
        yield fds
    finally:
        for fd in fds.values():
            os.close(fd)


RunLoad = Callable[[tuple[int, ...]], dict[str, Any]]
"""Runs the load with these counters inherited; returns what the generator printed."""


def _count_with_perf(pid: int, run: RunLoad) -> Counted:
    with _perf_counters(pid) as fds:
        load = run(tuple(fds.values()))
    counts = dict(zip(fds, load["counters"], strict=True))
    main = counts.pop(pid)
    return Counted("tracepoint", load["requests"], main, sum(counts.values()))


def _count_with_ptrace(pid: int, run: RunLoad) -> Counted:
    tracer = loadgen.build("count_syscalls", [TRACER / "count_syscalls.c"])
    with subprocess.Popen([tracer, str(pid)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        ready = process.stdout.readline()
        if not ready.startswith("ready"):
            process.stdin.close()
            raise BenchmarkError(ready.strip() or "the tracer could not attach")
        try:
            load = run(())
        finally:
            process.stdin.close()
            answer = process.stdout.readline()
    counts = {int(tid): count for tid, count in json.loads(answer).items()}
    main = counts.pop(pid, 0)
    return Counted("ptrace", load["total_requests"], main, sum(counts.values()))


def _count_with_stats(server: Server, run: RunLoad) -> Counted:
    """The loop's own word, where it has one; it knows of its thread's calls only."""
    before = server.stats()
    if before is None or "syscalls" not in before:
        raise BenchmarkError("the loop does not count them either")
    load = run(())
    after = server.stats() or before
    return Counted("loop.stats()", load["total_requests"], after["syscalls"] - before["syscalls"], None)


def count_syscalls(server: Server, run: RunLoad) -> Counted:
    """Counts during one `run`; BenchmarkError, with all reasons, when no way is permitted."""
    reasons = []
    ways: tuple[Callable[[], Counted], ...] = (
        lambda: _count_with_perf(server.pid, run),
        lambda: _count_with_ptrace(server.pid, run),
        lambda: _count_with_stats(server, run),
    )
    for way in ways:
        try:
            return way()
        except BenchmarkError as error:
            server.check_alive()
            reasons.append(str(error))
    raise BenchmarkError(f"system calls cannot be counted ({'; '.join(reasons)})")
