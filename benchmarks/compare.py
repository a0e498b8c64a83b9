"""Compares event loops: ``python -m benchmarks.compare --workload hello --loops uvloop flexsc:kernel:off``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console

from benchmarks import picture, report
from benchmarks.loadgen import build_load
from benchmarks.loops import BASELINE, LoopChoice
from benchmarks.measure import Settings, compare
from benchmarks.placement import Placement, find_python
from benchmarks.workloads import WORKLOADS, workload


def default_loops(placement: Placement) -> list[str]:
    """Every loop, ours in all four ways to run (the pinned ones where there is a second CPU)."""
    loops = ["asyncio", "uvloop", "rloop", "flexsc:kernel:off", "flexsc:user:off"]
    if not placement.shared:
        loops += [f"flexsc:kernel:{placement.thread_cpu}", f"flexsc:user:{placement.thread_cpu}"]
    return loops


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=__doc__)
    parser.add_argument("--workload", nargs="+", default=["hello"], help=f"of {', '.join(WORKLOADS)}; default hello")
    parser.add_argument("--loops", nargs="+", help="name[:pages[:threads]] of asyncio, uvloop, rloop, flexsc")
    parser.add_argument("--baseline", default=BASELINE, help="what ratios refer to (default uvloop)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="measured in each round, in short windows")
    parser.add_argument("--warmup", type=float, default=0.5)
    parser.add_argument("--connections", type=int)
    parser.add_argument("--size", type=int, help="message size in bytes (echo workloads)")
    parser.add_argument("--rate", type=float, help="open loop at so many requests a second")
    parser.add_argument("--python", help="version of the servers' interpreter, such as 3.13 (default: this one's)")
    parser.add_argument("--no-calls", action="store_true", help="do not count system calls")
    parser.add_argument("--no-retry", action="store_true", help="do not measure again when the baseline swings")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--picture", type=Path, metavar="FILE")
    args = parser.parse_args()
    if args.rounds < 1 or args.seconds <= 0 or args.warmup < 0:
        parser.error("--rounds must be at least 1, --seconds above 0, --warmup not negative")
    return args


def run(args: argparse.Namespace, console: Console) -> None:
    placement = Placement.choose()
    build_load()
    names = args.loops or default_loops(placement)
    choices = [LoopChoice.parse(name) for name in names]
    baseline = args.baseline if args.baseline in names else names[0]
    settings = Settings(
        placement, find_python(args.python), args.rounds, args.seconds, args.warmup,
        count_calls=not args.no_calls, retry=not args.no_retry,
    )
    loads = [
        workload(name).varied(connections=args.connections, size=args.size, rate=args.rate) for name in args.workload
    ]
    for note in placement.notes:
        console.print(f"note: {note}")
    comparisons = []
    for load in loads:
        with console.status("starting") as status:
            done = compare(load, choices, settings, baseline=baseline, progress=status.update)
        comparisons.append(done)
        report.show(console, done)
    if args.json:
        report.write_json(args.json, comparisons, settings)
    if args.picture:
        picture.write_picture(args.picture, comparisons, notes=settings.placement.notes)


if __name__ == "__main__":
    sys.exit(report.command(run, parse_args))
