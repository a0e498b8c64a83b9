"""Blocking programs, unmodified, on plain threads, gevent, and this package's: ``python -m benchmarks.blocking``.

First every program with 64 connections.  Then the paper's own figure: throughput against the number of connections, for
a `socketserver` echo and a Flask application under gunicorn.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from benchmarks import report, tables
from benchmarks.connections import colour
from benchmarks.errors import BenchmarkError
from benchmarks.loadgen import build_load
from benchmarks.loops import LoopChoice
from benchmarks.measure import WINDOW_CONNECTIONS, WINDOW_S, Comparison, Progress, Row, Settings, compare, silent
from benchmarks.placement import Placement, find_python
from benchmarks.workloads import workload

LOOPS = ("gevent", "threads", "flexsc:kernel:off", "flexsc:user:off")
BASELINE = "gevent"
PROGRAMS = ("blocking-echo", "blocking-http", "wsgi", "wsgi-flask", "wsgi-mysql", "blocking-requests")
FIGURE = ("blocking-echo", "wsgi-flask")
COUNTS = (1, 2, 8, 32, 64, 128, 256, 512)
TICKS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
COLOURS = {"gevent": "#b17a5b", "threads": "#9aa5b1"}
WINDOWS_LEAST = 3
FAIRNESS = (
    "of a CPU that other programs want too, many plain threads get more than one thread does: then compare CPU time, "
    "not rates"
)


def seconds_for(connections: int, seconds: float) -> float:
    """So long that a round has some windows, which are longer with many connections."""
    return max(seconds, WINDOWS_LEAST * WINDOW_S * max(1.0, connections / WINDOW_CONNECTIONS))


def _against(row: Row, other: Row | None, name: str) -> str:
    """A ratio within the windows; bold where this package's loses."""
    ratios = row.against(other, name) if other is not None else []
    if not ratios:
        return "–"
    value = statistics.median(ratios)
    loses = value < 0.995 if name == "rate" else value > 1.005
    return f"**{value:.2f}**" if loses and row.choice.name == "flexsc" else f"{value:.2f}"


def _row(first: str, row: Row, comparison: Comparison) -> tuple[str, ...]:
    if row.unavailable or not row.samples:
        return (first, row.choice.title, "n/a", *[""] * 6)
    gevent, threads = comparison.row("gevent"), comparison.row("threads")
    return (
        first, row.choice.title, f"{row.median('rate'):,.0f}", _against(row, gevent, "rate"),
        _against(row, threads, "rate"), f"{row.median('cpu_us'):.1f}", _against(row, gevent, "cpu_us"),
        _against(row, threads, "cpu_us"), report.microseconds(row.median("p99_us")),
    )  # fmt: skip


COLUMNS = ("", "threads", "requests/s", "× gevent", "× plain threads", "CPU µs/request", "of gevent's",
           "of plain threads'", "p99")  # fmt: skip


def _notes(comparisons: Sequence[Comparison]) -> tuple[str, ...]:
    notes = [f"{one.workload.label}: {note}" for one in comparisons for note in one.notes]
    notes += [
        f"{one.workload.label}: {row.choice.title}: n/a because {row.unavailable}"
        for one in comparisons
        for row in one.rows
        if row.unavailable
    ]
    return tuple(dict.fromkeys(notes))


def program_table(comparisons: Sequence[Comparison]) -> tables.Table:
    """A row for each program and choice of threads."""
    rows = [_row(one.workload.title, row, one) for one in comparisons for row in one.rows]
    title = "Blocking programs, 64 connections or threads"
    return tables.Table(title, COLUMNS, tuple(rows), _notes(comparisons))


def count_table(comparisons: Sequence[Comparison]) -> tables.Table:
    """A row for each number of connections and choice of threads."""
    rows = [_row(f"{one.workload.connections:,}", row, one) for one in comparisons for row in one.rows]
    title = f"{comparisons[0].workload.title}: throughput against connections"
    return tables.Table(title, ("connections", *COLUMNS[1:]), tuple(rows), _notes(comparisons))


def panel(comparisons: Sequence[Comparison]) -> tables.Panel:
    """The paper's figure: requests per second over the number of connections."""
    lines = []
    for choice in [row.choice for row in comparisons[0].rows]:
        found = [(one.workload.connections, one.row(choice.label)) for one in comparisons]
        points = tuple((float(count), row.median("rate")) for count, row in found if row is not None and row.samples)
        lines.append(tables.Line(choice.title, points, COLOURS.get(choice.name) or colour(choice)))
    return tables.Panel(comparisons[0].workload.title, "connections", "requests per second", tuple(lines), TICKS)


def run(args: argparse.Namespace, console: Console) -> tables.Result:
    placement = Placement.choose()
    build_load()
    python = find_python(args.python)
    settings = Settings(placement, python, args.rounds, args.seconds, 0.2, count_calls=False, retry=False)
    choices = [LoopChoice.parse(name) for name in args.loops]
    result = tables.Result("Blocking programs, unmodified", notes=[*placement.notes, FAIRNESS])

    def measure(name: str, connections: int, settings: Settings) -> Comparison:
        with console.status("starting") as status:
            progress: Progress = status.update if console.is_terminal else silent
            load = workload(name).varied(connections=connections)
            return compare(load, choices, settings, baseline=BASELINE, progress=progress)

    programs = []
    for name in args.programs:
        try:
            programs.append(measure(name, 64, settings))
        except BenchmarkError as error:
            result.notes.append(f"{workload(name).title}: n/a because {error}")
    if programs:
        result.tables.append(program_table(programs))
    result.comparisons += programs
    for name in args.figure:
        found = []
        for count in args.counts:
            short = replace(settings, rounds=1, seconds=seconds_for(count, args.seconds / 2))
            found.append(measure(name, count, short))
        result.tables.append(count_table(found))
        result.panels.append(panel(found))
        result.raw[name] = [one.as_dict() for one in found]
    return result


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.blocking", description=__doc__)
    parser.add_argument("--programs", nargs="*", default=list(PROGRAMS), help=f"of {', '.join(PROGRAMS)}; none: skip")
    parser.add_argument("--figure", nargs="*", default=list(FIGURE), help="programs of the figure; none: skip")
    parser.add_argument("--counts", nargs="+", type=int, default=list(COUNTS), metavar="N", help="connections")
    parser.add_argument("--loops", nargs="+", default=list(LOOPS))
    parser.add_argument("--rounds", type=int, default=2, help="for the programs; the figure has one for each number")
    parser.add_argument("--seconds", type=float, default=1.2, help="of a round; half of it for the figure")
    parser.add_argument("--python", help="version of the servers' interpreter, such as 3.13")
    parser.add_argument("--json", type=Path, default=tables.RESULTS / "blocking.json", metavar="FILE")
    args = parser.parse_args()
    if args.rounds < 1 or not math.isfinite(args.seconds) or args.seconds <= 0 or min(args.counts) < 1:
        parser.error("--rounds and --counts must be at least 1, --seconds above 0")
    return args


if __name__ == "__main__":
    sys.exit(tables.command(run, parse_args))
