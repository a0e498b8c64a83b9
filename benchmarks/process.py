"""A server process under measurement: start, stop, threads, CPU time, memory."""

from __future__ import annotations

import json
import os
import select
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from benchmarks.errors import BenchmarkError
from benchmarks.loops import LoopChoice

START_LIMIT_S = 30.0


@dataclass(frozen=True)
class ThreadTime:
    """CPU time of one thread so far, and the time it has waited for a CPU, both in nanoseconds."""

    name: str
    cpu_ns: int
    waited_ns: int


def thread_times(pid: int) -> dict[int, ThreadTime]:
    """Every thread of `pid` by its id; io_uring's poller (iou-sqp-*) and workers (iou-wrk-*) are among them."""
    times = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            cpu, waited, _ = map(int, (task / "schedstat").read_text().split())
            times[int(task.name)] = ThreadTime((task / "comm").read_text().strip(), cpu, waited)
        except (FileNotFoundError, ProcessLookupError):
            continue  # the thread has just ended
    return times


def process_cpu_ns(pid: int) -> int:
    """CPU time of all threads of `pid`, those that have ended included (clock_getcpuclockid(3))."""
    return time.clock_gettime_ns((~pid << 3) | 2)


def resident_bytes(pid: int) -> int:
    """Resident memory of `pid`, from its page tables (exact, unlike the cached figure in status)."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Rss:"):
            return int(line.split()[1]) * 1024
    raise BenchmarkError(f"/proc/{pid}/smaps_rollup has no Rss line")


def start_counting_most(pid: int) -> None:
    """Forget what `pid` once had resident: `most_resident_bytes` counts from now on.  Source: proc(5), clear_refs."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def most_resident_bytes(pid: int) -> int:
    """The most memory that `pid` has had resident since `start_counting_most`."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise BenchmarkError(f"/proc/{pid}/status has no VmHWM line")


class Server:
    """A running ``python -m benchmarks.servers``; its process id, port, and a line to it."""

    def __init__(self, process: subprocess.Popen[str], errors: IO[str]) -> None:
        self._process = process
        self._errors = errors
        self.pid = process.pid
        hello = self._read_line(START_LIMIT_S)
        if "error" in hello:
            raise BenchmarkError(str(hello["error"]))
        self.port = int(hello["port"])
        self.pid = int(hello.get("pid", process.pid))  # a worker's, where those serve
        self.loop_class = str(hello["loop"])

    def _read_line(self, limit_s: float) -> dict[str, Any]:
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], limit_s)
        line = self._process.stdout.readline() if ready else ""
        if line:
            answer: dict[str, Any] = json.loads(line)
            return answer
        self._errors.seek(0)
        complaint = self._errors.read().strip().splitlines()
        status = self._process.poll()
        if complaint:
            raise BenchmarkError(complaint[-1])
        raise BenchmarkError(f"the server said nothing within {limit_s:g} s (exit status {status})")

    def stats(self) -> dict[str, Any] | None:
        """The loop's own counters; None where the loop has none."""
        assert self._process.stdin is not None
        self._process.stdin.write("stats\n")
        self._process.stdin.flush()
        return self._read_line(5.0)

    def decisions(self) -> list[tuple[float, str]]:
        """What the loop's scheduler has decided, and when (time.monotonic()); nothing where there is none."""
        return [(at, text) for at, text in self._say("decisions", 5.0)["decisions"]]

    def change_hands(self, cpu: int, changes: int, limit_s: float) -> list[tuple[str, float, float, float]]:
        """Has a page of `threads=auto` change hands over and over; see benchmarks/servers/hands.py."""
        return [tuple(change) for change in self._say(f"hands {cpu} {changes}", limit_s)["changes"]]

    def _say(self, line: str, limit_s: float) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return self._read_line(limit_s)

    def ask(self, limit_s: float, **parameters: float) -> dict[str, Any]:
        """Has a client measure itself; what it found, or BenchmarkError."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(parameters) + "\n")
        self._process.stdin.flush()
        answer = self._read_line(limit_s)
        if "error" in answer:
            raise BenchmarkError(str(answer["error"]))
        return answer

    def check_alive(self) -> None:
        """BenchmarkError with the server's last words if it has ended."""
        status = self._process.poll()
        if status is not None:
            self._errors.seek(0)
            words = self._errors.read().strip().splitlines()
            raise BenchmarkError(f"the server ended with status {status}: {words[-1] if words else 'no message'}")

    def stop(self) -> None:
        """Ends the process, by force if it does not end by itself within two seconds."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


@contextmanager
def running_server(
    workload: str, choice: LoopChoice, *, python: str, cpu: int | Sequence[int]
) -> Iterator[Server]:
    """A fresh server process, pinned to `cpu`, or to several; BenchmarkError with the reason when it cannot run."""
    cpus = [cpu] if isinstance(cpu, int) else cpu
    command = [python, "-m", "benchmarks.servers", workload, "--loop", choice.name, "--cpu", ",".join(map(str, cpus))]
    if choice.pages:
        command += ["--pages", choice.pages]
    if choice.threads:
        command += ["--threads", choice.threads]
    environment = {**os.environ, "PYTHONPATH": str(choice.root)}
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            cwd=choice.root,
            env=environment,
        )
        server = None
        try:
            server = Server(process, errors)
            yield server
        finally:
            if server is not None:
                server.stop()
            else:
                process.kill()
                process.communicate()
