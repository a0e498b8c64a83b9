"""What was measured of files: as tables for a terminal, as data for a result file, and as Markdown for a README."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Sequence
from importlib import metadata
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks import report
from benchmarks.files.bars import verdicts
from benchmarks.files.compare import Comparison, Row

PACKAGES = ("aiofile", "aiofiles", "anyio", "caio", "py-asyncfiles", "pyaio", "uvloop")
OWN = {
    "kernel page": "flexsc/flexsc:kernel:off",
    "user page": "flexsc/flexsc:user:off",
    "`aiofiles` on this loop": "aiofiles/flexsc:kernel:off",
}
"""The rows of the Markdown table that are this package's, or run on its loop."""


def headings(comparison: Comparison) -> tuple[str, ...]:
    peer = comparison.best_peer()
    return f"{comparison.load.unit}/s", "CPU µs each", f"× {peer.label if peer else 'peer'}", "× plain calls"


def cells(row: Row, comparison: Comparison) -> list[str]:
    if row.reason is not None:
        return ["n/a"]
    figures = [f"{row.median('rate'):,.0f}", f"{row.median('cpu_us'):.1f}"]
    for other in (comparison.best_peer(), comparison.row("plain")):
        if other is None or other is row:
            figures.append(report.MISSING)
            continue
        ratios = row.ratios(other)
        figures.append(f"{row.ratio(other):.2f}  {min(ratios):.2f}–{max(ratios):.2f}")
    return figures


def notes(comparison: Comparison) -> list[str]:
    """Why some were not measured, and the bars."""
    reasons = [f"{row.label}: n/a because {row.reason}" for row in comparison.rows if row.reason is not None]
    return [*reasons, *(f"bar {verdict}" for verdict in verdicts(comparison))]


def show(console: Console, comparison: Comparison) -> None:
    """A line for each contestant, and what has to be known about them."""
    table = Table(title=comparison.load.title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    table.add_column("", no_wrap=True)
    for heading in headings(comparison):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in comparison.rows:
        table.add_row(row.label, *cells(row, comparison))
    console.print(table)
    for note in notes(comparison):
        console.print(f"  {note}", highlight=False, markup=False)


def versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def as_table(comparison: Comparison) -> dict[str, Any]:
    """As `benchmarks.page` shows it."""
    return {
        "title": comparison.load.title,
        "columns": ["", *headings(comparison)],
        "rows": [[row.label, *cells(row, comparison)] for row in comparison.rows],
        "notes": notes(comparison),
    }


def as_windows(comparison: Comparison) -> dict[str, Any]:
    """Every window that was measured."""
    return {"load": comparison.load.name, "rows": [row.as_dict() for row in comparison.rows]}


def figures(row: Row | None, peer: Row | None = None) -> str:
    """A cell of the Markdown table."""
    if row is None:
        return report.MISSING
    ratio = f"{row.ratio(peer):.2f} ×: " if peer is not None else ""
    return f"{ratio}{row.median('rate'):,.0f}/s, {row.median('cpu_us'):.1f} µs"


def limits(comparison: Comparison) -> str:
    """What the machine does without any library."""
    rows = filter(None, map(comparison.row, ("plain", "fio", "fio direct")))
    return "; ".join(f"{row.label} {figures(row)}" for row in rows) or report.MISSING


def line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def markdown(comparisons: Sequence[Comparison]) -> str:
    """One table of all loads, the bars, and what the figures depend on."""
    lines = [line(("load", "best peer", "plain calls, fio", *OWN)), line(["---"] * (3 + len(OWN)))]
    for comparison in comparisons:
        peer = comparison.best_peer()
        best = f"{peer.label} {figures(peer)}" if peer else report.MISSING
        own = [figures(comparison.row(label), peer) for label in OWN.values()]
        lines.append(line((comparison.load.title, best, limits(comparison), *own)))
    lines.append("")
    lines += [f"- {one.load.name}: {verdict}" for one in comparisons for verdict in verdicts(one)]
    machine = report.machine()
    packages = ", ".join(f"{name} {version}" for name, version in versions().items())
    lines += [
        "",
        f"{datetime.date.today().isoformat()}; {machine['cpus']} CPUs, {machine['cpu']}, Linux {machine['kernel']}, "
        f"Python {machine['python']}; {packages}.",
    ]
    return "\n".join(lines)
