"""Checks the load generator's HTTP figures against wrk: ``python -m benchmarks.against_wrk``.

Both load the same uvloop server in turn, pinned to the same CPU at the same priority.
"""

from __future__ import annotations

import argparse
import re
import resource
import shutil
import statistics
import subprocess
import sys
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from benchmarks import report
from benchmarks.errors import BenchmarkError
from benchmarks.loadgen import run_load
from benchmarks.loops import LoopChoice
from benchmarks.measure import Settings, load_spec, prime
from benchmarks.placement import Placement
from benchmarks.process import Server, process_cpu_ns, running_server
from benchmarks.workloads import Workload, workload

MICROSECONDS = {"us": 1.0, "ms": 1e3, "s": 1e6}


@dataclass(frozen=True)
class Run:
    """Requests per second; latencies, and CPU time per request of the generator and of the server, in microseconds."""

    rate: float
    p50_us: float
    p99_us: float
    own_cpu_us: float
    server_cpu_us: float


def run_ours(load: Workload, server: Server, settings: Settings) -> Run:
    result = run_load(load_spec(load, server, settings, seconds=settings.seconds, warmup=settings.warmup))
    requests = result["requests"]
    return Run(
        result["rate"],
        result["latency_us"]["p50"],
        result["latency_us"]["p99"],
        result["load_busy"] * result["seconds"] / requests * 1e6,
        result["server_cpu_ns"] / requests / 1e3,
    )


def _children_cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def run_wrk(load: Workload, server: Server, settings: Settings) -> Run:
    placement = settings.placement
    command = ["taskset", "-c", str(placement.load_cpu)]
    if placement.fifo:
        command += ["chrt", "-f", str(placement.fifo)]
    command += ["wrk", "-t1", f"-c{load.connections}", f"-d{round(settings.seconds)}s", "--latency"]
    own, served = _children_cpu_s(), process_cpu_ns(server.pid)
    done = subprocess.run(
        [*command, f"http://127.0.0.1:{server.port}{load.path}"], capture_output=True, text=True, check=False
    )
    own, served = _children_cpu_s() - own, process_cpu_ns(server.pid) - served
    counted = re.search(r"(\d+) requests in", done.stdout)
    rate = re.search(r"Requests/sec:\s+([\d.]+)", done.stdout)
    latencies = {share: (float(n), unit) for share, n, unit in re.findall(r"(50|99)%\s+([\d.]+)(us|ms|s)", done.stdout)}
    if done.returncode or not counted or not rate or len(latencies) != 2:
        raise BenchmarkError(f"wrk failed: {done.stderr.strip() or done.stdout.strip()}")
    p50, p99 = (latencies[share][0] * MICROSECONDS[latencies[share][1]] for share in ("50", "99"))
    requests = int(counted[1])
    return Run(float(rate[1]), p50, p99, own / requests * 1e6, served / requests / 1e3)


def compare(connections: int, rounds: int, settings: Settings) -> list[tuple[Run, Run]]:
    """(ours, wrk's) for each round, in the opposite order every other time."""
    load = workload("hello").varied(connections=connections)
    pairs = []
    cpu = settings.placement.server_cpu
    with running_server(load.server, LoopChoice("uvloop"), python=settings.python, cpu=cpu) as server:
        prime(load, server, settings)
        for number in range(rounds):
            if number % 2:
                wrk = run_wrk(load, server, settings)
                pairs.append((run_ours(load, server, settings), wrk))
            else:
                pairs.append((run_ours(load, server, settings), run_wrk(load, server, settings)))
    return pairs


def add_rows(table: Table, connections: int, pairs: list[tuple[Run, Run]]) -> None:
    ratio = statistics.median(ours.rate / wrk.rate for ours, wrk in pairs)
    for at, name in enumerate(("load", "wrk")):
        figures = [statistics.median(getattr(pair[at], field) for pair in pairs) for field in Run.__dataclass_fields__]
        rate, p50, p99, own, served = figures
        shown = f"{ratio:.2f}×" if at == 0 else ""
        cells = (
            f"{rate:,.0f}",
            shown,
            report.microseconds(p50),
            report.microseconds(p99),
            f"{own:.1f}",
            f"{served:.1f}",
        )
        table.add_row(str(connections), name, *cells)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.against_wrk", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=int, default=3, help="whole seconds, as wrk takes no others")
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 64, 512])
    args = parser.parse_args()
    console: Console = report.make_console()
    if shutil.which("wrk") is None:
        console.print("error: wrk is missing: apt-get install wrk")
        return 1
    settings = Settings(Placement.choose(), sys.executable, args.rounds, args.seconds)
    headings = ("connections", "", "requests/s", "load : wrk", "p50", "p99", "own CPU µs/request", "server's")
    table = Table(*headings, title="aiohttp hello on uvloop, medians", title_justify="left")
    try:
        for connections in args.connections:
            with console.status(f"{connections} connections"):
                add_rows(table, connections, compare(connections, args.rounds, settings))
    except BenchmarkError as error:
        console.print(f"error: {error}", highlight=False, markup=False)
        return 1
    console.print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
