"""Tables of figures as Markdown and JSON, and lines over a logarithmic axis as a picture."""

from __future__ import annotations

import argparse
import datetime
import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks import report
from benchmarks.errors import BenchmarkError
from benchmarks.measure import Comparison
from benchmarks.placement import shown

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Table:
    """Cells as they are to be read.  notes: what has to be known of them."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()

    def markdown(self) -> str:
        """The table with its title above and its notes below."""
        lines = [f"**{self.title}**", "", _line(self.columns), _line(["---"] * len(self.columns))]
        lines += [_line(row) for row in self.rows]
        return "\n".join([*lines, "", *(f"- {note}" for note in self.notes)]).rstrip()


@dataclass(frozen=True)
class Line:
    """Points (x, y), drawn in order; `dashed` for what others have measured."""

    title: str
    points: tuple[tuple[float, float], ...]
    colour: str
    dashed: bool = False


@dataclass(frozen=True)
class Panel:
    """One drawing: its lines, and the values of x that its axis names."""

    title: str
    x: str
    y: str
    lines: tuple[Line, ...]
    ticks: tuple[int, ...]
    log_y: bool = False
    one: bool = False
    """Whether y is a ratio: a line at 1 helps."""


@dataclass
class Result:
    """All that a command has found."""

    heading: str
    tables: list[Table] = field(default_factory=list)
    panels: list[Panel] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    raw: dict[str, Any] = field(default_factory=dict)
    comparisons: list[Comparison] = field(default_factory=list)
    """Those that the page of all results draws as bars."""


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def draw(result: Result) -> Any:
    """The figure of `result`, two panels in a row.  Raises BenchmarkError without matplotlib."""
    try:
        import matplotlib
    except ImportError as error:
        raise BenchmarkError("the picture needs matplotlib: python -m pip install matplotlib") from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    columns = min(2, len(result.panels))
    rows = -(-len(result.panels) // columns)
    size = (6.5 * columns, 4 * rows)
    figure, axes = pyplot.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    for axis, panel in zip(axes.flat, result.panels, strict=False):
        _draw_panel(axis, panel)
    for axis in list(axes.flat)[len(result.panels):]:
        axis.axis("off")
    figure.suptitle(result.heading, x=0.01, ha="left", fontsize=13)
    figure.supxlabel("\n".join(foot(result.notes)), x=0.01, ha="left", fontsize=8, color="#333333", wrap=True)
    return figure


def _draw_panel(axis: Any, panel: Panel) -> None:
    for line in panel.lines:
        if not line.points:
            continue
        xs, ys = zip(*line.points, strict=True)
        style = {"linestyle": "--", "marker": "x"} if line.dashed else {"marker": "o"}
        axis.plot(xs, ys, color=line.colour, label=line.title, linewidth=1.6, markersize=4, **style)
    axis.set_xscale("log", base=2)
    axis.set_xticks(panel.ticks, [f"{tick:,}" for tick in panel.ticks], fontsize=8)
    axis.minorticks_off()
    if panel.log_y:
        axis.set_yscale("log")
    else:
        axis.set_ylim(bottom=0)
    if panel.one:
        axis.axhline(1, color="#5b7db1", linewidth=1, linestyle=":")
    axis.set_title(panel.title, loc="left", fontsize=10)
    axis.set_xlabel(panel.x, fontsize=8)
    axis.set_ylabel(panel.y, fontsize=8)
    axis.tick_params(axis="y", labelsize=8)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    if panel.lines:
        axis.legend(fontsize=7, frameon=False)


def foot(notes: Sequence[str]) -> list[str]:
    """Machine and date, then what has to be known."""
    facts = report.machine()
    here = f"{facts['cpus']} CPUs, {facts['cpu']}, Linux {facts['kernel']}, Python {facts['python']}"
    return [f"{here}, {datetime.date.today().isoformat()}", *(f"note: {note}" for note in dict.fromkeys(notes))]


def as_json(result: Result) -> dict[str, Any]:
    """What the page of all results reads."""
    return {
        "machine": report.machine(),
        "heading": result.heading,
        "notes": list(dict.fromkeys(result.notes)),
        "tables": [asdict(table) for table in result.tables],
        "comparisons": [comparison.as_dict() for comparison in result.comparisons],
        "raw": result.raw,
    }


def command(
    run: Callable[[argparse.Namespace, Console], Result], parse_args: Callable[[], argparse.Namespace]
) -> int:  # fmt: skip
    """As `report.command`, of a benchmark with a result that is published, where `args.json` says."""

    def run_and_publish(args: argparse.Namespace, console: Console) -> None:
        began = time.monotonic()
        publish(console, run(args, console), args.json)
        console.print(f"took {time.monotonic() - began:.0f} s", highlight=False)

    return report.command(run_and_publish, parse_args)


def publish(console: Console, result: Result, path: Path) -> None:
    """Prints the tables as Markdown; writes them to `path` (.json) and beside it as .md, and the panels as .png."""
    text = "\n\n".join(table.markdown() for table in result.tables)
    console.print(text, highlight=False, markup=False, soft_wrap=True)
    for note in dict.fromkeys(result.notes):
        console.print(f"note: {note}", highlight=False, markup=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(as_json(result), indent=1) + "\n")
    path.with_suffix(".md").write_text(text + "\n\n" + "\n".join(f"- {line}" for line in foot(result.notes)) + "\n")
    written = [path, path.with_suffix(".md")]
    if result.panels:
        figure = draw(result)
        figure.savefig(path.with_suffix(".png"), dpi=130)
        figure.clear()
        written.append(path.with_suffix(".png"))
    console.print(f"\nwritten to {', '.join(str(shown(each)) for each in written)}", highlight=False)
