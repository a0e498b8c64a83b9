"""Runs one workload's server: ``python -m benchmarks.servers echo --loop uvloop``.

Prints one line of JSON: ``{"port": ..., "pid": ..., "loop": ...}``, or ``{"error": ...}`` when the server cannot run.
Then obeys its standard input: the line ``stats`` is answered with ``loop.stats()`` as JSON (null where the loop has
none), ``decisions`` with what the scheduler has decided and when, ``hands CPU CHANGES`` with what changing hands has
taken, a line of JSON with a client's parameters with what it measured.  The end of the input ends the process, so
that no server outlives the benchmark that started it.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import json
import logging
import os
import resource
import sys
import threading
import time
from typing import Any

from benchmarks.errors import BenchmarkError
from benchmarks.loops import NAMES, PAGES, LoopChoice
from benchmarks.servers import Client, Starter, blocking, clients, hands, starters, wsgi

BLOCKING = {*blocking.SERVERS, *wsgi.SERVERS, blocking.CLIENT}


def cpu_list(text: str) -> set[int]:
    """CPUs from a text such as "0,1"."""
    return {int(word) for word in text.split(",")}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.servers", description=__doc__)
    parser.add_argument("workload", choices=sorted({*starters(), *clients(), *BLOCKING}))
    parser.add_argument("--loop", choices=NAMES, default="asyncio")
    parser.add_argument("--pages", choices=PAGES, help="flexsc only")
    parser.add_argument("--threads", help="flexsc only: auto, off, on, or a CPU list such as 1")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0: the kernel chooses (default)")
    parser.add_argument("--cpu", type=cpu_list, help="pin to this CPU, or to several: 0,1")
    return parser.parse_args()


def allow_tracing() -> None:
    """Lets the benchmark's tracer, no ancestor of this process, count its system calls (prctl(2), Yama)."""
    pr_set_ptracer, anyone = 0x59616D61, ctypes.c_ulong(-1)
    ctypes.CDLL(None).prctl(pr_set_ptracer, anyone, 0, 0, 0)


def say(message: dict[str, Any] | None) -> None:
    print(json.dumps(message), flush=True)


async def ask(client: Client, order: dict[str, Any]) -> None:
    try:
        say(await client(order["port"], order["connections"], order["seconds"], order["warmup"]))
    except Exception as error:  # noqa: BLE001 - whatever went wrong is the row's reason for "n/a"
        say({"error": f"{type(error).__name__}: {error}"})


class Decisions(logging.Handler):
    """What the scheduler has decided, and when (monotonic, in seconds)."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: list[tuple[float, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append((time.monotonic(), record.getMessage()))


def obey_stdin(loop: asyncio.AbstractEventLoop, client: Client | None) -> None:
    decisions = Decisions()
    logger = logging.getLogger("flexsc_loop")
    logger.setLevel(logging.INFO)
    logger.addHandler(decisions)
    logger.propagate = False
    for line in sys.stdin:
        if line.strip() == "stats":
            stats = getattr(loop, "stats", None)
            say(stats() if stats else None)
        elif line.strip() == "decisions":
            say({"decisions": decisions.lines})
        elif line.startswith("hands "):
            cpu, changes = map(int, line.split()[1:])
            hands.change_hands(loop, cpu, changes, lambda found: say({"changes": found}))
        elif client:
            asyncio.run_coroutine_threadsafe(ask(client, json.loads(line)), loop)
    os._exit(0)


async def serve(start: Starter | None, client: Client | None, host: str, port: int) -> None:
    loop = asyncio.get_running_loop()
    bound = await start(host, port) if start else 0
    threading.Thread(target=obey_stdin, args=(loop, client), daemon=True).start()
    kind = type(loop)
    say({"port": bound, "pid": os.getpid(), "loop": f"{kind.__module__}.{kind.__qualname__}"})
    await asyncio.Event().wait()


def serve_blocking(args: argparse.Namespace) -> None:
    """Servers that block, with the threads that were chosen."""

    def started(port: int) -> None:
        say({"port": port, "pid": os.getpid(), "loop": args.loop})

    def worker_started(port: int, pid: int) -> None:
        say({"port": port, "pid": pid, "loop": args.loop})

    def main() -> None:
        if args.workload == blocking.CLIENT:
            started(0)
            blocking.ask_as_told(say)
        blocking.serve(args.workload, args.host, args.port, started)

    if args.workload in wsgi.SERVERS:
        ways = args.pages, args.threads
        wsgi.serve(args.workload, args.loop, (args.host, args.port), ways, worker_started)
        return
    if args.workload != blocking.CLIENT:
        blocking.end_with_stdin(say)
    blocking.run(args.loop, main, args.pages, args.threads)


def main() -> int:
    args = parse_args()
    if args.cpu is not None:
        os.sched_setaffinity(0, args.cpu)
    allow_tracing()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        if args.workload in BLOCKING:
            serve_blocking(args)
            return 0
        factory = LoopChoice(args.loop, args.pages, args.threads).factory()
        with asyncio.Runner(loop_factory=factory) as runner:
            start, client = starters().get(args.workload), clients().get(args.workload)
            runner.run(serve(start, client, args.host, args.port))
    except KeyboardInterrupt:
        return 130
    except BenchmarkError as error:
        say({"error": str(error)})
        return 1
    except Exception as error:  # noqa: BLE001 - whatever the loop lacks is the row's reason for "n/a"
        say({"error": f"{type(error).__name__}: {error}".strip()})
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
