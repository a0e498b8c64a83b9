"""Comparisons as a table, a picture, and JSON."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.errors import BenchmarkError
from benchmarks.measure import Comparison, Row, Settings

MISSING = "–"
NARROW = 100
"""Terminals with fewer columns get tables without air."""
EXPLANATION = (
    "ratio: median of the rounds' ratios (lowest–highest), each the median of its windows', in which the loops take "
    "turns: not the ratio of the rates beside it.",
    "swing: the highest round's rate less the lowest, by the median.",
    "CPU time and system calls: the loop's thread + all other threads, the kernel's poller included.",
)
"""What the columns of a comparison are."""


def microseconds(value: float) -> str:
    """A latency in microseconds for people: ``87 µs``, ``1.94 ms``, ``12.9 ms``, ``1,707 ms``."""
    if value < 1000:
        return f"{value:.0f} µs"
    digits = 2 if value < 9995 else 1 if value < 99950 else 0
    return f"{value / 1000:,.{digits}f} ms"


def calls(value: float | None) -> str:
    """System calls for each request."""
    return MISSING if value is None else f"{value:.3f}" if value < 1 else f"{value:.2f}"


def _ratio(row: Row) -> str:
    if row.ratio is None:
        return MISSING
    if len(row.ratios) == 1:
        return f"{row.ratio:.2f}×"
    return f"{row.ratio:.2f}×\n{min(row.ratios):.2f}–{max(row.ratios):.2f}"


def swing(share: float, rounds: int) -> str:
    """How far the rounds' rates lie apart; nothing is known of that from one."""
    return f"{share:.0%}" if rounds > 1 else MISSING


def pair(loop: str, others: str) -> str:
    """A figure of the loop's thread with that of all other threads."""
    return loop if others in ("0.0", "0.000", MISSING) else f"{loop} + {others}"


HEADINGS = ("requests\nper s", "swing", "CPU µs\nper req.", "syscalls\nper req.", "p50", "p99")


def row_cells(row: Row) -> list[str]:
    """The figures of one loop: ratio, then one cell for each of HEADINGS; one "n/a" if there are none."""
    if not row.samples or row.unavailable:
        return ["n/a"]
    return [
        _ratio(row),
        f"{row.median('rate'):,.0f}",
        swing(row.swing, len(row.samples)),
        pair(f"{row.median('cpu_loop_us'):.1f}", f"{row.median('cpu_other_us'):.1f}"),
        pair(calls(row.calls_loop), calls(row.calls_other)),
        microseconds(row.median("p50_us")),
        microseconds(row.median("p99_us")),
    ]


def comparison_table(comparison: Comparison, narrow: bool = False) -> Table:
    """One line per loop; what could not be measured is there too, with the reason below the table.

    CPU time and system calls are the loop's thread's + those of all other threads of the server, io_uring's poller
    among them.
    """
    table = Table(
        title=comparison.workload.label, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD,
        padding=(0, 0 if narrow else 1, 0, 0),
    )  # fmt: skip
    table.add_column("loop", min_width=12)
    lines = [row_cells(row) for row in comparison.rows]
    for at, heading in enumerate((f"ratio to\n{comparison.baseline}", *HEADINGS)):
        # On a narrow terminal names are folded, and pairs of figures; no figure is cut.
        pairs = "req." in heading
        words = [word for cells in lines for cell in cells[at : at + 1] for word in cell.split("\n")]
        least = 5 if pairs else max(5, *map(len, [*words, *heading.split("\n")]))
        table.add_column(heading, justify="right", no_wrap=not pairs, min_width=least)
    for row, cells in zip(comparison.rows, lines, strict=True):
        table.add_row(row.choice.title, *cells)
    return table


def make_console() -> Console:
    """A console that does not squeeze tables when its output goes to a file."""
    return Console() if sys.stdout.isatty() else Console(width=132)


def command(run: Callable[[argparse.Namespace, Console], None], parse_args: Callable[[], argparse.Namespace]) -> int:
    """What a benchmark does when it is called as a program; its exit status."""
    console = make_console()
    try:
        run(parse_args(), console)
    except BenchmarkError as error:
        console.print(f"error: {error}", highlight=False, markup=False)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def show(console: Console, comparison: Comparison) -> None:
    """Prints the table and what has to be known about it."""
    console.print(comparison_table(comparison, narrow=console.width < NARROW))
    for row in comparison.rows:
        if row.unavailable:
            console.print(f"  {row.choice.title}: n/a because {row.unavailable}", highlight=False, markup=False)
    for note in comparison.notes:
        console.print(f"  note: {note}", highlight=False, markup=False, style="bold yellow")


def machine() -> dict[str, Any]:
    """What the figures depend on: kernel, CPUs, Python."""
    model = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.machine(),
    )
    return {"kernel": platform.release(), "cpu": model, "cpus": os.cpu_count(), "python": sys.version.split()[0]}


def describe(facts: dict[str, Any]) -> str:
    """`machine()`, or what a result file holds of it, for people."""
    return (
        f"{facts.get('cpus', '?')} CPUs, {facts.get('cpu', 'unknown')}, Linux {facts.get('kernel', '?')}, "
        f"Python {facts.get('python', '?')}"
    )


def where() -> str:
    """This machine, and today."""
    return f"{describe(machine())}, {datetime.date.today().isoformat()}"


def write_json(path: Path, comparisons: Sequence[Comparison], settings: Settings) -> None:
    content = {
        "machine": machine(),
        "rounds": settings.rounds,
        "seconds": settings.seconds,
        "notes": list(settings.placement.notes),
        "comparisons": [comparison.as_dict() for comparison in comparisons],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")
