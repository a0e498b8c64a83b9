"""The example application on three loops, measured in front of you: ``python -m benchmarks.demo``.

Stdlib asyncio, uvloop, and this project's loop (served by its own thread; and by a pinned syscall thread where there is
a second CPU) take turns in short rounds.  Takes less than two minutes.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

import flexsc_loop
from benchmarks import picture, report
from benchmarks.loadgen import build_load
from benchmarks.loops import LoopChoice
from benchmarks.measure import MAX_SWING, Comparison, Settings, compare
from benchmarks.placement import Placement, shown
from benchmarks.workloads import workload

ROUNDS = 5
SECONDS = 1.2
WARMUP = 0.4
TIME_LIMIT_S = 110
PICTURE = Path(__file__).parent / "results" / "demo.png"


def page_here() -> tuple[str, list[str]]:
    """The kind of page that a loop gets on this machine, and why."""
    loop = flexsc_loop.new_event_loop(pages="auto", threads="off")
    choice = loop.choice
    loop.close()
    return choice.kind, [reason for reason in choice.reasons if "page" in reason]


def choices(placement: Placement, kind: str) -> list[LoopChoice]:
    names = ["asyncio", "uvloop", f"flexsc:{kind}:off"]
    if not placement.shared:
        names.append(f"flexsc:{kind}:{placement.thread_cpu}")
    return [LoopChoice.parse(name) for name in names]


def measure(name: str, loops: list[LoopChoice], settings: Settings, console: Console) -> Comparison:
    """Runs the demo's rounds under a progress bar; once more if uvloop swung and there is time for it."""
    steps = len(loops) * (settings.rounds + 1)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("starting", total=steps)
        begun = False

        def advance(what: str) -> None:
            nonlocal begun
            progress.update(task, description=what, advance=1 if begun else 0)
            begun = True

        comparison = compare(workload(name), loops, settings, progress=advance)
        progress.update(task, description="done", completed=steps)
    return comparison


def explain(console: Console, placement: Placement) -> None:
    """The machine, what the columns mean, and what has to be known of this machine."""
    console.print("\n".join((report.where(), *report.EXPLANATION)), highlight=False, markup=False)
    for note in placement.notes:
        console.print(f"note: {note}", highlight=False)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.demo", description=__doc__)
    parser.add_argument("--workload", default="app-json", help="any workload of benchmarks.compare (default app-json)")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="measured in each round, in short windows")
    parser.add_argument("--picture", type=Path, default=PICTURE, metavar="FILE")
    args = parser.parse_args()
    if args.rounds < 1 or args.seconds <= 0:
        parser.error("--rounds must be at least 1 and --seconds above 0")
    return args


def run(args: argparse.Namespace, console: Console) -> None:
    placement = Placement.choose()
    kind, reasons = page_here()
    placement = replace(placement, notes=(*placement.notes, *reasons))
    loops = choices(placement, kind)
    build_load()
    settings = Settings(placement, sys.executable, args.rounds, args.seconds, WARMUP, retry=False)
    begin = time.monotonic()
    comparison = measure(args.workload, loops, settings, console)
    spent = time.monotonic() - begin
    if comparison.baseline_swing > MAX_SWING and spent * 2 < TIME_LIMIT_S:
        console.print(f"uvloop's own figure swung by {comparison.baseline_swing:.0%}; measuring again")
        again = measure(args.workload, loops, settings, console)
        comparison = min(comparison, again, key=lambda c: c.baseline_swing)
    report.show(console, comparison)
    explain(console, placement)
    picture.write_picture(args.picture, [comparison], "The same aiohttp application on each loop", placement.notes)
    report.write_json(args.picture.with_suffix(".json"), [comparison], settings)
    console.print(f"\nThe same as a picture: {shown(args.picture)}", highlight=False)


if __name__ == "__main__":
    sys.exit(report.command(run, parse_args))
