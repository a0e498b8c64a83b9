"""Comparisons as a table, a picture, and JSON."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.errors import BenchmarkError
from benchmarks.measure import Comparison, Row, Settings

MISSING = "–"


def microseconds(value: float) -> str:
    """A latency in microseconds for people: ``87 µs``, ``1.94 ms``."""
    return f"{value:.0f} µs" if value < 1000 else f"{value / 1000:.2f} ms"


def _calls(value: float | None) -> str:
    return MISSING if value is None else f"{value:.3f}" if value < 1 else f"{value:.2f}"


def _ratio(row: Row) -> str:
    if row.ratio is None:
        return MISSING
    return f"{row.ratio:.2f}× ({min(row.ratios):.2f}–{max(row.ratios):.2f})"


def _pair(loop: str, others: str) -> str:
    """A figure of the loop's thread with that of all other threads."""
    return loop if others in ("0.0", "0.000", MISSING) else f"{loop} + {others}"


HEADINGS = ("requests/s", "swing", "CPU µs/request", "calls/request", "p50", "p99")


def row_cells(row: Row) -> list[str]:
    """The figures of one loop: ratio, then one cell for each of HEADINGS; one "n/a" if there are none."""
    if not row.samples or row.unavailable:
        return ["n/a"]
    return [
        _ratio(row),
        f"{row.median('rate'):,.0f}",
        f"{row.swing:.0%}",
        _pair(f"{row.median('cpu_loop_us'):.1f}", f"{row.median('cpu_other_us'):.1f}"),
        _pair(_calls(row.calls_loop), _calls(row.calls_other)),
        microseconds(row.median("p50_us")),
        microseconds(row.median("p99_us")),
    ]


def comparison_table(comparison: Comparison) -> Table:
    """One line per loop; what could not be measured is there too, with the reason below the table.

    CPU time and system calls are the loop's thread's + those of all other threads of the server, io_uring's poller
    among them.
    """
    table = Table(title=comparison.workload.label, title_justify="left", title_style="bold")
    table.add_column("loop", no_wrap=True)
    for heading in (f"ratio to {comparison.baseline}", *HEADINGS):
        table.add_column(heading, justify="right")
    for row in comparison.rows:
        table.add_row(row.choice.label, *row_cells(row))
    return table


def make_console() -> Console:
    """A console that does not squeeze tables when its output goes to a file."""
    return Console() if sys.stdout.isatty() else Console(width=120)


def show(console: Console, comparison: Comparison) -> None:
    """Prints the table and what has to be known about it."""
    console.print(comparison_table(comparison))
    for row in comparison.rows:
        if row.unavailable:
            console.print(f"  {row.choice.label}: n/a because {row.unavailable}", highlight=False, markup=False)
    for note in comparison.notes:
        console.print(f"  note: {note}", highlight=False, markup=False)


def machine() -> dict[str, Any]:
    """What the figures depend on: kernel, CPUs, Python."""
    model = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.machine(),
    )
    return {"kernel": platform.release(), "cpu": model, "cpus": os.cpu_count(), "python": sys.version.split()[0]}


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


def _colour(row: Row) -> str:
    colours = {"asyncio": "#9aa5b1", "uvloop": "#5b7db1", "rloop": "#b17a5b"}
    return colours.get(row.choice.name, "#3aa17e" if not row.choice.pinned else "#1f6f54")


def write_picture(path: Path, comparisons: Sequence[Comparison], heading: str = "") -> None:
    """Requests per second as bars, one panel per comparison, each bar with its ratio and its CPU time per request."""
    try:
        import matplotlib
    except ImportError as error:
        raise BenchmarkError("the picture needs matplotlib: python -m pip install matplotlib") from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    heights = [0.45 * len(comparison.rows) + 1.0 for comparison in comparisons]
    figure, axes = pyplot.subplots(
        len(comparisons), 1, figsize=(9, sum(heights) + 0.4), squeeze=False, gridspec_kw={"height_ratios": heights}
    )
    for axis, comparison in zip(axes[:, 0], comparisons, strict=True):
        rows = comparison.rows
        rates = [row.median("rate") if row.samples and not row.unavailable else 0.0 for row in rows]
        axis.barh([row.choice.label for row in rows], rates, color=[_colour(row) for row in rows])
        for at, (row, rate) in enumerate(zip(rows, rates, strict=True)):
            ratio = f"{row.ratio:.2f}×, " if row.ratio else ""
            text = f" {rate:,.0f}/s  ({ratio}{row.median('cpu_us'):.1f} µs CPU)" if rate else " n/a"
            axis.text(rate, at, text, va="center", fontsize=9)
        axis.set_xlim(0, max([*rates, 1.0]) * 1.5)
        axis.invert_yaxis()
        axis.set_title(comparison.workload.label, loc="left", fontsize=10)
        axis.set_xlabel("requests per second", fontsize=8)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
    if heading:
        figure.suptitle(heading, x=0.02, ha="left", fontsize=12)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
