"""The paper's micro-benchmark here: ``python -m benchmarks.batches``, the cost of a call against the size of a batch.

The same call, plain and on a page that is served by the caller's core or by another, in batches of 1 to 1,024.  All of
it is C, through the package's own pages.  The other tables say where a page breaks even, what the paper found, and what
the scheduler would decide of such a load.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks import tables
from benchmarks.batches import gate
from benchmarks.errors import BenchmarkError
from benchmarks.loadgen import build
from benchmarks.placement import ROOT, Placement

HERE = Path(__file__).parent
PAGES = ROOT / "flexsc_loop" / "syscalls"
BATCHES = tuple(2**power for power in range(11))
LIMIT_S = 330
CALL = "recv(2) of 64 bytes with MSG_PEEK from a Unix socket: a real call that never waits and leaves all as it was"

WAYS = {
    "plain": ("plain system calls", "#9aa5b1"),
    "kernel-same": ("kernel page, same core", "#3aa17e"),
    "user-same": ("user page, same core", "#c08a2e"),
    "kernel-other": ("kernel page, another core", "#1f6f54"),
    "user-other": ("user page, another core", "#8a5a12"),
    "kernel-asleep": ("kernel page, another core, asleep", "#5b7db1"),
    "user-asleep": ("user page, another core, asleep", "#8a6fb0"),
}
SAME, OTHER = ("kernel-same", "user-same"), ("kernel-other", "user-other", "kernel-asleep", "user-asleep")

#: Cost of a call, plain = 1, as the paper says: alone; where it breaks even; from 32 on.
PAPER_SAME = ((1.0, 1.43), (2.0, 1.0), (32.0, 1 / 2.3), (1024.0, 1 / 2.3))
PAPER_OTHER = ((1.0, 10.0), (32.0, 1.0))

BUSY = "-busy"
"""What the names of ways end with in which the caller has something to do while the call is made."""

Figures = dict[str, dict[int, list[float]]]
"""Nanoseconds for a call, by way and batch, one for each round."""


def run_batches(placement: Placement, rounds: int) -> tuple[Figures, list[str]]:
    """The C program's samples, and what has to be known of them."""
    sources = [HERE / "batches.c", *sorted(PAGES.glob("user_page_*.c")), PAGES / "file_threads.c", PAGES / "file_job.c"]
    program = build("batches", sources, sorted(PAGES.glob("*.h")), (f"-I{PAGES}", "-pthread"))
    other = -1 if placement.shared else placement.load_cpu
    command = [str(program), str(placement.server_cpu), str(other), str(rounds)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    if done.returncode:
        raise BenchmarkError(done.stderr.strip() or f"batches ended with status {done.returncode}")
    return gather(map(json.loads, done.stdout.splitlines()))


def gather(samples: Iterable[dict[str, Any]]) -> tuple[Figures, list[str]]:
    """Samples by way and batch, and why there are none of a way."""
    figures: Figures = {}
    notes = []
    for sample in samples:
        if "note" in sample:
            notes.append(sample["note"])
        elif "error" in sample:
            notes.append(f"{WAYS[sample['way']][0]}: n/a because {sample['error']}")
        else:
            way = sample["way"] + (BUSY if sample["work"] else "")
            figures.setdefault(way, defaultdict(list))[sample["batch"]].append(sample["ns"])
    return figures, notes


def ratio(figures: Figures, way: str, batch: int) -> float:
    """A call's cost, plain = 1: the median of the rounds' ratios, whose samples lie side by side."""
    pairs = zip(figures[way][batch], figures["plain"][batch], strict=True)
    return statistics.median(mine / plain for mine, plain in pairs)


def break_even(figures: Figures, way: str, against: str = "plain") -> int | None:
    """The smallest batch from which on `way` is no dearer; None: there is none."""
    best = None
    for batch in reversed(BATCHES):
        pairs = zip(figures[way][batch], figures[against][batch], strict=True)
        if statistics.median(mine / theirs for mine, theirs in pairs) > 1:
            break
        best = batch
    return best


def cost_table(figures: Figures) -> tables.Table:
    """Nanoseconds for a call and, in brackets, plain = 1.  Bold: dearer than plain."""
    ways = [way for way in WAYS if way in figures]
    rows = []
    for batch in BATCHES:
        cells = [f"{batch:,}", f"{statistics.median(figures['plain'][batch]):,.0f}"]
        for way in ways[1:]:
            value = ratio(figures, way, batch)
            shown = f"**{value:.2f}**" if value > 1.005 else f"{value:.2f}"
            cells.append(f"{statistics.median(figures[way][batch]):,.0f} ({shown})")
        rows.append(tuple(cells))
    columns = ("batch", *(WAYS[way][0] + (", ns" if way == "plain" else "") for way in ways))
    return tables.Table("A call's cost against the size of its batch, ns (plain = 1)", columns, tuple(rows), (
        f"The call: {CALL}.",
        "Another core: its thread is awake, as under load. Asleep: it is woken for each batch, as the paper's was.",
    ))  # fmt: skip


def summary(figures: Figures) -> tables.Table:
    """Alone, break-even and from 32 on, beside the paper's."""
    rows = [
        ("the paper, same core", "1.43", "2", "0.43 (130 % faster)"),
        ("the paper, another core", "10", "about 32", "–"),
    ]
    for way in (*SAME, *OTHER):
        if way in figures:
            found = break_even(figures, way)
            many = statistics.median(ratio(figures, way, batch) for batch in BATCHES if batch >= 32)
            rows.append((WAYS[way][0], f"{ratio(figures, way, 1):.2f}", str(found or "none"), f"{many:.2f}"))
    columns = ("", "alone (plain = 1)", "breaks even at a batch of", "from 32 on")
    return tables.Table("The paper's figures beside these", columns, tuple(rows))


def scheduler_table(figures: Figures, busy: str) -> tables.Table | None:
    """What the scheduler would choose, fed with these costs; None without another core."""
    rows: list[tuple[str, ...]] = []
    agree = True
    for page in ("kernel", "user"):
        same, other = f"{page}-same{busy}", f"{page}-other{busy}"
        if same not in figures or other not in figures:
            continue
        for batch in BATCHES:
            own, thread = (statistics.median(figures[way][batch]) for way in (same, other))
            chosen = gate.choice(own, thread).value
            right = cheaper(own, thread)
            agrees = right in ("either", chosen)
            agree &= agrees
            rows.append((page, f"{batch:,}", f"{own:,.0f}", f"{thread:,.0f}", f"{own / thread:.2f}", right, chosen,
                         "yes" if agrees else "**no**"))  # fmt: skip
    if not rows:
        return None
    load = "that has 500 ns of work for each call" if busy else "that does nothing but calls"
    columns = ("page", "batch", "own thread, ns", "syscall thread, ns", "× faster", "cheaper", "the scheduler", "agree")
    return tables.Table(f"The scheduler's choice for a loop {load}", columns, tuple(rows), (
        "The measured costs, run through the scheduler's own code. It wants the thread 5 % better, 3 % of the thread's "
        "own time counted against it: up to 12 % either is right.",
        "All agree." if agree else "**They do not all agree.**",
    ))  # fmt: skip


def cheaper(own: float, thread: float) -> str:
    """Who should serve; "either" between break-even and what a trial must win by."""
    return "own thread" if own < thread else "either" if own < 1.12 * thread else "syscall thread"


def panels(figures: Figures) -> list[tables.Panel]:
    """Costs of the same core and of another, the paper's dashed."""

    def panel(title: str, ways: tuple[str, ...], paper: tuple[tuple[float, float], ...]) -> tables.Panel:
        lines = [
            tables.Line(WAYS[way][0], tuple((b, ratio(figures, way, b)) for b in BATCHES), WAYS[way][1])
            for way in ways
            if way in figures
        ]
        lines.append(tables.Line("the paper", paper, "#555555", dashed=True))
        return tables.Panel(title, "calls in a batch", "cost of a call, plain = 1", tuple(lines), BATCHES, log_y=True,
                            one=True)

    return [panel("Served by the same core", SAME, PAPER_SAME), panel("Served by another core", OTHER, PAPER_OTHER)]


def run(args: argparse.Namespace, _console: Console) -> tables.Result:
    placement = Placement.choose()
    figures, notes = run_batches(placement, args.rounds)
    result = tables.Result("What a call costs in a batch", notes=[f"the call: {CALL}"], raw={"ns": figures})
    if placement.shared:
        result.notes.append("there is one CPU only: nothing is served by another core")
    result.notes += notes
    result.tables += [cost_table(figures), summary(figures)]
    result.tables += filter(None, (scheduler_table(figures, busy) for busy in ("", BUSY)))
    result.panels += panels(figures)
    return result


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.batches", description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--json", type=Path, default=tables.RESULTS / "batches.json", metavar="FILE")
    args = parser.parse_args()
    if args.rounds < 1:
        parser.error("--rounds must be at least 1")
    return args


if __name__ == "__main__":
    sys.exit(tables.command(run, parse_args))
