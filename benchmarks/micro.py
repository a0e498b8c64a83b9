"""Micro-benchmarks of the loop itself: ``python -m benchmarks.micro --loops uvloop rloop flexsc``.

Every loop runs in a process of its own, pinned to one CPU, and takes its turn in each round.  A round's figure is the
fastest of several repeats (what disturbs can only slow down); what is compared is the median of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web
from rich.console import Console
from rich.table import Table

from benchmarks import report
from benchmarks.errors import BenchmarkError
from benchmarks.loops import BASELINE, LoopChoice
from benchmarks.measure import Progress, silent
from benchmarks.placement import Placement, find_python
from benchmarks.servers.web import hello_app

REPEATS = 5
CHILD_LIMIT_S = 120
PIPE_CHUNK = bytes(64 * 1024)
HELLO_REQUEST = b"GET / HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n\r\n"


def _nothing() -> None:
    pass


async def _noop() -> None:
    pass


async def call_soon_chain(n: int) -> None:
    """A callback that schedules the next one, `n` times."""
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    left = n

    def step() -> None:
        nonlocal left
        left -= 1
        if left:
            loop.call_soon(step)
        else:
            done.set_result(None)

    loop.call_soon(step)
    await done


async def call_soon_bulk(n: int) -> None:
    """`n` callbacks scheduled at once."""
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    for _ in range(n - 1):
        loop.call_soon(_nothing)
    loop.call_soon(done.set_result, None)
    await done


async def call_later_fired(n: int) -> None:
    """`n` timers, a tenth of a microsecond apart, all of which fire."""
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    for i in range(n - 1):
        loop.call_later(i * 1e-7, _nothing)
    loop.call_later(n * 1e-7, done.set_result, None)
    await done


async def call_later_cancelled(n: int) -> None:
    """`n` timers of a minute, as time-outs are: cancelled before they fire, with a turn for every hundred."""
    loop = asyncio.get_running_loop()
    for i in range(n):
        loop.call_later(60, _nothing).cancel()
        if i % 100 == 0:
            await asyncio.sleep(0)


async def call_soon_threadsafe(n: int) -> None:
    """`n` callbacks scheduled from another thread while the loop runs."""
    loop = asyncio.get_running_loop()
    done = loop.create_future()

    def post() -> None:
        for _ in range(n - 1):
            loop.call_soon_threadsafe(_nothing)
        loop.call_soon_threadsafe(done.set_result, None)

    thread = threading.Thread(target=post)
    thread.start()
    await done
    thread.join()


async def create_task(n: int) -> None:
    """`n` tasks, made and awaited one after the other."""
    loop = asyncio.get_running_loop()
    for _ in range(n):
        await loop.create_task(_noop())


async def sleep_zero(n: int) -> None:
    """``sleep(0)``, `n` times."""
    for _ in range(n):
        await asyncio.sleep(0)


async def gather_200(n: int) -> None:
    """``gather`` of 200 coroutines; `n` is their number in all."""
    for _ in range(n // 200):
        await asyncio.gather(*[_noop() for _ in range(200)])


async def _spawn() -> None:
    process = await asyncio.create_subprocess_exec("/bin/true")
    await process.wait()


async def spawn_20(n: int) -> None:
    """``/bin/true``, started and waited for, 20 at a time; `n` is their number in all."""
    for _ in range(n // 20):
        await asyncio.gather(*[_spawn() for _ in range(20)])


class _Counter(asyncio.Protocol):
    """Reads `total` bytes."""

    def __init__(self, total: int) -> None:
        self.left = total
        self.done = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        self.left -= len(data)
        if self.left == 0:
            self.done.set_result(None)


class _Source(asyncio.BaseProtocol):
    """Writes `count` chunks as fast as its transport wants them."""

    transport: asyncio.WriteTransport

    def __init__(self, count: int) -> None:
        self.left = count
        self.paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self.push()

    def push(self) -> None:
        while self.left and not self.paused:
            self.left -= 1
            self.transport.write(PIPE_CHUNK)

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        self.push()


async def pipe_throughput(n: int) -> None:
    """`n` writes of 64 KiB into a pipe that the same loop reads."""
    loop = asyncio.get_running_loop()
    reading, writing = os.pipe()
    source, drain = os.fdopen(reading, "rb", 0), os.fdopen(writing, "wb", 0)
    reader, counter = await loop.connect_read_pipe(lambda: _Counter(n * len(PIPE_CHUNK)), source)
    writer, _ = await loop.connect_write_pipe(lambda: _Source(n), drain)
    await counter.done
    writer.close()
    reader.close()
    await asyncio.sleep(0)


async def pipe_through_cat(n: int) -> None:
    """`n` writes of 64 KiB through a child, ``cat``, and back."""
    loop = asyncio.get_running_loop()
    child = subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
    reader, counter = await loop.connect_read_pipe(lambda: _Counter(n * len(PIPE_CHUNK)), child.stdout)
    writer, _ = await loop.connect_write_pipe(lambda: _Source(n), child.stdin)
    await counter.done
    writer.close()
    reader.close()
    await asyncio.sleep(0)
    await loop.run_in_executor(None, child.wait)


async def run_in_executor(n: int) -> None:
    """`n` calls that take no time in the default executor, one after the other."""
    loop = asyncio.get_running_loop()
    for _ in range(n):
        await loop.run_in_executor(None, int)


async def run_in_executor_64(n: int) -> None:
    """The same, 64 at a time; `n` is their number in all."""
    loop = asyncio.get_running_loop()
    for _ in range(n // 64):
        await asyncio.gather(*[loop.run_in_executor(None, int) for _ in range(64)])


class _NoSocket(asyncio.Transport):
    """Counts writes."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1)})
        self.writes = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.writes += 1

    def writelines(self, chunks: Iterable[bytes | bytearray | memoryview]) -> None:
        self.writes += 1

    def is_closing(self) -> bool:
        return False

    def close(self) -> None:
        pass


async def aiohttp_without_sockets(n: int) -> None:
    """`n` requests to aiohttp hello on 64 connections, handed over and answered without a socket.

    What the application itself costs: no loop can serve it faster.
    """
    runner = web.AppRunner(hello_app(), access_log=None)
    await runner.setup()
    transports = [_NoSocket() for _ in range(64)]
    handlers = []
    for transport in transports:
        assert runner.server is not None
        handler = runner.server()
        handler.connection_made(transport)
        handlers.append(handler)
    for answered in range(1, n // 64 + 1):
        for handler in handlers:
            handler.data_received(HELLO_REQUEST)
        while any(transport.writes < answered for transport in transports):
            await asyncio.sleep(0)
    for handler in handlers:
        handler.connection_lost(None)
    await runner.cleanup()


Bench = Callable[[int], Awaitable[None]]

BENCHES: dict[str, tuple[Bench, int]] = {
    "call_soon chain": (call_soon_chain, 100_000),
    "call_soon bulk": (call_soon_bulk, 20_000),
    "call_later fired": (call_later_fired, 20_000),
    "call_later cancelled": (call_later_cancelled, 20_000),
    "call_soon_threadsafe": (call_soon_threadsafe, 100_000),
    "create_task and await": (create_task, 20_000),
    "sleep(0)": (sleep_zero, 50_000),
    "gather of 200": (gather_200, 20_000),
    "spawn, 20 at a time": (spawn_20, 200),
    "pipe, 64 KiB writes": (pipe_throughput, 2_000),
    "pipe through cat": (pipe_through_cat, 2_000),
    "run_in_executor serial": (run_in_executor, 2_000),
    "run_in_executor 64 at a time": (run_in_executor_64, 6_400),
    "aiohttp hello without sockets": (aiohttp_without_sockets, 6_400),
}


def run_child(choice: LoopChoice, names: Sequence[str]) -> dict[str, float | str]:
    """Runs the benches here; nanoseconds per operation by name, or the reason why there is no figure."""
    figures: dict[str, float | str] = {}
    with asyncio.Runner(loop_factory=choice.factory()) as runner:
        for name in names:
            bench, n = BENCHES[name]

            async def once(bench: Bench = bench, n: int = n) -> int:
                begin = time.perf_counter_ns()
                await bench(n)
                return time.perf_counter_ns() - begin

            try:
                figures[name] = min(runner.run(once()) for _ in range(REPEATS)) / n
            except Exception as error:  # noqa: BLE001 - whatever the loop lacks is the cell's reason for "n/a"
                figures[name] = f"{type(error).__name__}: {error}"
    return figures


@dataclass
class MicroRow:
    """One loop's figures: for each bench its nanoseconds per operation, round by round."""

    choice: LoopChoice
    rounds: dict[str, list[float]] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    """Why a bench has no figure; under "" why none has."""

    def add(self, figures: dict[str, float | str]) -> None:
        for name, figure in figures.items():
            if isinstance(figure, str):
                self.reasons[name] = figure
            else:
                self.rounds.setdefault(name, []).append(figure)

    def speed(self, name: str, other: MicroRow) -> float | None:
        """How many times as fast as `other`: the median of the rounds' ratios."""
        mine, theirs = self.rounds.get(name, []), other.rounds.get(name, [])
        if not mine or len(mine) != len(theirs):
            return None
        return statistics.median(slow / fast for fast, slow in zip(mine, theirs, strict=True))

    def as_dict(self, baseline: MicroRow) -> dict[str, Any]:
        return {
            "loop": self.choice.label,
            "reasons": self.reasons,
            "ns": self.rounds,
            "speed": {name: self.speed(name, baseline) for name in BENCHES},
        }


def _start_child(choice: LoopChoice, names: Sequence[str], python: str, cpu: int) -> dict[str, float | str]:
    command = [python, "-m", "benchmarks.micro", "--child", "--loops", choice.label_there, "--cpu", str(cpu)]
    for name in names:
        command += ["--only", name]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=choice.root, timeout=CHILD_LIMIT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise BenchmarkError(f"did not end within {CHILD_LIMIT_S} s") from error
    if done.returncode:
        lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise BenchmarkError(lines[-1] if lines else f"ended with status {done.returncode}")
    figures: dict[str, float | str] = json.loads(done.stdout)
    return figures


def measure(
    choices: Sequence[LoopChoice],
    *,
    names: Sequence[str] = tuple(BENCHES),
    python: str,
    cpu: int,
    rounds: int = 5,
    progress: Progress = silent,
) -> list[MicroRow]:
    """Runs the benches on every loop, `rounds` times in turn, in the opposite order every other time."""
    rows = [MicroRow(choice) for choice in choices]
    for number in range(rounds):
        for row in reversed(rows) if number % 2 else rows:
            if "" in row.reasons:
                continue
            progress(f"micro-benchmarks · round {number + 1} of {rounds} · {row.choice.label}")
            try:
                row.add(_start_child(row.choice, names, python, cpu))
            except BenchmarkError as error:
                row.reasons[""] = str(error)
    return rows


def _cell(row: MicroRow, name: str, baseline: MicroRow) -> str:
    if name not in row.rounds:
        return "n/a"
    speed = row.speed(name, baseline)
    return f"{statistics.median(row.rounds[name]):,.0f} ns" + (f"  {speed:.2f}×" if speed else "")


def show(console: Console, rows: Sequence[MicroRow], names: Sequence[str], baseline: MicroRow) -> None:
    """Nanoseconds per operation, and how many times as fast as the baseline."""
    title = f"micro-benchmarks: ns per operation, speed against {baseline.choice.label}"
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("", no_wrap=True)
    for row in rows:
        table.add_column(row.choice.label, justify="right")
    for name in names:
        table.add_row(name, *(_cell(row, name, baseline) for row in rows))
    console.print(table)
    for row in rows:
        for name, reason in row.reasons.items():
            what = f"{row.choice.label}, {name}" if name else row.choice.label
            console.print(f"  {what}: n/a because {reason}", highlight=False, markup=False)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.micro", description=__doc__)
    parser.add_argument(
        "--loops", nargs="+", default=["asyncio", "uvloop", "rloop", "flexsc:kernel:off", "flexsc:user:off"]
    )
    parser.add_argument(
        "--only", action="append", choices=list(BENCHES), metavar="NAME", help=f"of {', '.join(BENCHES)}"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--python", help="version of the interpreter, such as 3.13 (default: this one's)")
    parser.add_argument("--cpu", type=int, help="pin to this CPU (default: the first one)")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.rounds < 1:
        parser.error("--rounds must be at least 1")
    return args


def run(args: argparse.Namespace, console: Console) -> None:
    choices = [LoopChoice.parse(name) for name in args.loops]
    names = args.only or list(BENCHES)
    cpu = Placement.choose().server_cpu if args.cpu is None else args.cpu
    with console.status("starting") as status:
        rows = measure(
            choices, names=names, python=find_python(args.python), cpu=cpu, rounds=args.rounds, progress=status.update
        )
    baseline = next((row for row in rows if row.choice.label == BASELINE), rows[0])
    show(console, rows, names, baseline)
    if args.json:
        content = {"machine": report.machine(), "rows": [row.as_dict(baseline) for row in rows]}
        args.json.write_text(json.dumps(content, indent=1) + "\n")


def main() -> int:
    args = parse_args()
    try:
        if args.child:
            os.sched_setaffinity(0, {args.cpu})
            print(json.dumps(run_child(LoopChoice.parse(args.loops[0]), args.only or list(BENCHES))))
        else:
            run(args, report.make_console())
    except BenchmarkError as error:
        print(error if args.child else f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
