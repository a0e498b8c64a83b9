"""What connections cost that do nothing: CPU time of a sleeping loop, and memory for each connection."""

from __future__ import annotations

import os
import resource
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from benchmarks.errors import BenchmarkError
from benchmarks.loops import LoopChoice
from benchmarks.placement import Placement
from benchmarks.process import Server, process_cpu_ns, resident_bytes, running_server

SETTLE_S = 1.0
SPARE_FILES = 64
ACCEPT_LIMIT_S = 30.0


def _raise_file_limit(wanted: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < wanted + SPARE_FILES:
        raise BenchmarkError(f"{wanted} connections need a limit of {wanted + SPARE_FILES} open files; it is {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted + SPARE_FILES), hard))


def _echo_once(sock: socket.socket) -> None:
    """One round trip: connections are accepted in order, so all that came before are accepted too."""
    sock.settimeout(10)
    sock.sendall(b"!")
    if sock.recv(1) != b"!":
        raise BenchmarkError("the server did not echo")


def _wait_until_accepted(pid: int, files: int) -> None:
    """Until `pid` has so many files open."""
    end = time.monotonic() + ACCEPT_LIMIT_S
    while _open_files(pid) < files:
        if time.monotonic() > end:
            raise BenchmarkError(f"the server has not accepted all connections within {ACCEPT_LIMIT_S:g} s")
        time.sleep(0.01)


@contextmanager
def idle_connections(port: int, count: int, *, silent_after: int | None = None) -> Iterator[None]:
    """Holds `count` accepted TCP connections on which nothing is sent.

    silent_after: the server's process id, if it does not echo: its open files tell when about all are accepted.
    """
    _raise_file_limit(count)
    with ExitStack() as stack:
        if silent_after is not None:
            for _ in range(count):
                stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
            _wait_until_accepted(silent_after, count)
            yield
            return
        for _ in range(count - 1):
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
        with socket.create_connection(("127.0.0.1", port), timeout=10) as last:
            _echo_once(last)
            yield


def _open_files(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def bytes_each(server: Server, connections: int, *, echoes: bool = False, settle: float = SETTLE_S / 2) -> float:
    """Resident memory that each of so many idle connections adds.

    echoes: whether the server's protocol does, else it may be any.  settle: seconds before each look.
    """
    silent_after = None if echoes else server.pid
    with idle_connections(server.port, 10, silent_after=silent_after):
        pass
    time.sleep(settle)
    before = resident_bytes(server.pid)
    with idle_connections(server.port, connections, silent_after=silent_after):
        time.sleep(settle)
        return (resident_bytes(server.pid) - before) / connections


def idle_cpu_percent(
    choice: LoopChoice, placement: Placement, *, python: str, connections: int = 1000, seconds: float = 10.0
) -> float:
    """CPU time of all threads of an idle server with idle connections, in per cent of one CPU."""
    with (
        running_server("echo", choice, python=python, cpu=placement.server_cpu) as server,
        idle_connections(server.port, connections),
    ):
        time.sleep(SETTLE_S)
        before, begin = process_cpu_ns(server.pid), time.monotonic_ns()
        time.sleep(seconds)
        return 100 * (process_cpu_ns(server.pid) - before) / (time.monotonic_ns() - begin)


def bytes_per_connection(choice: LoopChoice, placement: Placement, *, python: str, connections: int = 5000) -> float:
    """Resident memory that each idle connection of a plain protocol adds, the protocol object included."""
    with running_server("echo", choice, python=python, cpu=placement.server_cpu) as server:
        return bytes_each(server, connections, echoes=True, settle=SETTLE_S)
