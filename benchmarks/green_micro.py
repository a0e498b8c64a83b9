"""What green threads themselves cost, against gevent's and plain ones: ``python -m benchmarks.green_micro``.

Each kind runs in a process of its own, pinned to one CPU, and takes its turn in each round, to and fro.  CPU time
counts, that of all threads of the process: other work on the machine makes a round longer, and hardly dearer.  Ratios
are taken within a round; the median is shown, with the lowest and the highest.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.errors import BenchmarkError

CHILD_LIMIT_S = 240
KINDS = ("gevent", "plain", "flexsc:kernel", "flexsc:user")
SPAWNED_AT_ONCE = 1000
PLAIN_MOST = 1000  # real threads that live at the same time


def spawn_and_join(spawn: Callable[..., Any], n: int) -> None:
    """`n` threads that do nothing, a thousand at a time."""
    for _ in range(n // SPAWNED_AT_ONCE):
        for thread in [spawn(int) for _ in range(SPAWNED_AT_ONCE)]:
            thread.join()


def switch(spawn: Callable[..., Any], n: int) -> None:
    """Two that let each other run, `n` times in all."""

    def turns() -> None:
        for _ in range(n // 2):
            time.sleep(0)

    for thread in [spawn(turns), spawn(turns)]:
        thread.join()


def hand_lock_over(spawn: Callable[..., Any], n: int) -> None:
    """Two that wait for each other's lock, `n` times in all."""
    import threading

    one, other = threading.Lock(), threading.Lock()
    other.acquire()

    def turns(mine: Any, yours: Any) -> None:
        for _ in range(n // 2):
            mine.acquire()
            yours.release()

    for thread in [spawn(turns, one, other), spawn(turns, other, one)]:
        thread.join()


def park(spawn: Callable[..., Any], n: int) -> float:
    """`n` that wait for a socket: bytes of memory for each, that of the socket in this process included."""
    import resource
    import socket

    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    pairs = [socket.socketpair() for _ in range(n)]

    waiting = 0

    def wait(sock: socket.socket) -> None:
        nonlocal waiting
        waiting += 1
        sock.recv(4096)

    first = spawn(wait, pairs[0][0])
    while not waiting:
        time.sleep(0.1)
    before = resident()
    others = [spawn(wait, ours) for ours, _ in pairs[1:]]
    while waiting < n:
        time.sleep(0.1)
    time.sleep(0.1)
    grown = resident() - before
    for _, theirs in pairs:
        theirs.close()
    for thread in [first, *others]:
        thread.join()
    return grown / (n - 1)


def resident() -> int:
    """Bytes of this process's own memory."""
    text = Path("/proc/self/smaps_rollup").read_text()
    return sum(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("Private_"))


#: name -> (what it does, how often, what is shown, the least that is wanted of a ratio)
MEASURED: dict[str, tuple[Callable[..., Any], int, str, float]] = {
    "spawn": (spawn_and_join, 100_000, "spawn and join", 1.5),
    "switch": (switch, 200_000, "switch between two", 1.5),
    "lock": (hand_lock_over, 200_000, "lock handed over", 1.5),
    "memory": (park, 10_000, "memory, parked on a socket", 1.25),
}


def child(kind: str, name: str, n: int) -> None:
    """Measure one, and print the figure: seconds of CPU time for each, or bytes."""
    function = MEASURED[name][0]
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

    def measure(spawn: Callable[..., Any]) -> None:
        begin = time.process_time()
        found = function(spawn, n)
        print(json.dumps((time.process_time() - begin) / n if found is None else found), flush=True)

    if kind == "gevent":
        importlib.import_module("gevent.monkey").patch_all()
        measure(importlib.import_module("gevent").spawn)
    elif kind == "plain":
        import threading

        def spawn(target: Callable[..., Any], *args: Any) -> threading.Thread:
            thread = threading.Thread(target=target, args=args)
            thread.start()
            return thread

        measure(spawn)
    else:
        from flexsc_loop import threads

        pages: Any = kind.partition(":")[2]
        threads.run(measure, threads.spawn, pages=pages, threads="off")


def run_child(kind: str, name: str, n: int) -> float:
    """One figure, from a process of its own."""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.green_micro", "--child", kind, name, str(n)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=CHILD_LIMIT_S, check=False)
    if done.returncode:
        raise BenchmarkError(f"{kind}, {name}: {done.stderr.strip().splitlines()[-1:]}")
    return float(json.loads(done.stdout))


def measure_all(names: list[str], rounds: int, scale: float) -> dict[str, dict[str, list[float]]]:
    """name -> kind -> the figure of each round."""
    found: dict[str, dict[str, list[float]]] = {}
    for name in names:
        found[name] = {kind: [] for kind in KINDS}
        n = max(2 * SPAWNED_AT_ONCE, int(MEASURED[name][1] * scale))
        for number in range(rounds):
            for kind in KINDS if number % 2 == 0 else reversed(KINDS):
                few = name == "memory" and kind == "plain"
                found[name][kind].append(run_child(kind, name, PLAIN_MOST if few else n))
    return found


def show(found: dict[str, dict[str, list[float]]]) -> Table:
    """A table; ratios say how many times gevent's costs are of each kind's, and what misses its bar is bold."""
    table = Table(title="green threads: what gevent's cost, by what these cost", title_justify="left")
    table.add_column("")
    for kind in KINDS:
        table.add_column(kind, justify="right")
    table.add_column("wanted", justify="right")
    for name, kinds in found.items():
        _, _, label, bar = MEASURED[name]
        cells = []
        for kind, figures in kinds.items():
            middle = statistics.median(figures)
            text = f"{middle:,.0f} B" if name == "memory" else f"{middle * 1e6:.2f} µs"
            if kind != "gevent":
                ratios = [theirs / ours for theirs, ours in zip(kinds["gevent"], figures, strict=True)]
                ratio = statistics.median(ratios)
                loses = kind.startswith("flexsc") and ratio < bar
                text += f"  {'[bold]' if loses else ''}{ratio:.2f}×{'[/bold]' if loses else ''}"
                text += f"\n{min(ratios):.2f}–{max(ratios):.2f}"
            cells.append(text)
        table.add_row(label, *cells, f"{bar:.2f}×")
    return table


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.green_micro", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=list(MEASURED), default=list(MEASURED))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0, help="of the number of threads and switches")
    parser.add_argument("--json", type=Path, help="write all figures there")
    parser.add_argument("--child", nargs=3, metavar=("KIND", "NAME", "N"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args.child[0], args.child[1], int(args.child[2]))
        return
    found = measure_all(args.only, args.rounds, args.scale)
    if args.json:
        args.json.write_text(json.dumps(found, indent=1))
    Console(width=120).print(show(found))


if __name__ == "__main__":
    main()
