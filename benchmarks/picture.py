"""Comparisons as a picture that says what their tables say."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.errors import BenchmarkError
from benchmarks.measure import Comparison, Row
from benchmarks.report import EXPLANATION, HEADINGS, row_cells, where

COLOURS = {"asyncio": "#9aa5b1", "uvloop": "#5b7db1", "rloop": "#b17a5b", "aiofastnet": "#8a6fb0"}
OWN, THREAD = "#3aa17e", "#1f6f54"
WARNING = "#a31515"
ROW = 0.36      # inches
NOTE = 0.19
BARS = 0.36     # of the width; the figures have the rest
COLUMNS = [0.0, 0.17, 0.29, 0.5, 0.7, 0.86]


def _axes(count: int, heights: list[float], rest: float) -> tuple[Any, Any]:
    """heights: of the panels, in inches; rest: of all else."""
    try:
        import matplotlib
    except ImportError as error:
        raise BenchmarkError("the picture needs matplotlib: python -m pip install matplotlib") from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot.subplots(
        count, 2, figsize=(13, sum(heights) + rest), squeeze=False,
        gridspec_kw={"height_ratios": heights, "width_ratios": [BARS, 1 - BARS], "wspace": 0.02}, layout="constrained",
    )  # fmt: skip


def _colour(row: Row) -> str:
    return COLOURS.get(row.choice.name, THREAD if row.choice.pinned else OWN)


def _ratios(row: Row, comparison: Comparison) -> tuple[float, float, float] | None:
    """Lowest, median, highest of the rounds' ratios to the baseline."""
    if row.choice.label == comparison.baseline:
        return 1.0, 1.0, 1.0
    if row.unavailable or row.ratio is None:
        return None
    return min(row.ratios), row.ratio, max(row.ratios)


def _draw_bars(axis: Any, comparison: Comparison) -> None:
    """Each loop's ratio to the baseline, with whiskers to the lowest and the highest round."""
    most = 1.0
    for at, row in enumerate(comparison.rows):
        ratios = _ratios(row, comparison)
        if ratios is None:
            axis.text(0.02, at, "n/a", va="center", fontsize=9)
            continue
        low, ratio, high = ratios
        most = max(most, high)
        axis.barh(at, ratio, color=_colour(row), height=0.7)
        if row.choice.label != comparison.baseline:
            axis.errorbar(ratio, at, xerr=[[ratio - low], [high - ratio]], color="#222222", capsize=3, linewidth=1)
        axis.text(0.02, at, f"{ratio:.2f}", va="center", fontsize=9, color="white", fontweight="bold")
    axis.axvline(1, color="#5b7db1", linewidth=1, linestyle=":")
    axis.set_yticks(range(len(comparison.rows)), [row.choice.title for row in comparison.rows], fontsize=9)
    axis.set_ylim(len(comparison.rows) - 0.5, -0.5)
    axis.set_xlim(0, most * 1.05)
    axis.set_xlabel(f"requests/s, {comparison.baseline} = 1 (median, lowest to highest round)", fontsize=8)
    axis.tick_params(axis="x", labelsize=8)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


def _draw_figures(axis: Any, comparison: Comparison) -> None:
    """The table's other columns, each beside its bar."""
    axis.axis("off")
    axis.set_xlim(0, 1)
    axis.set_ylim(len(comparison.rows) - 0.5, -0.5)
    for x, heading in zip(COLUMNS, HEADINGS, strict=True):
        axis.text(x, -0.62, heading.replace("\n", " "), fontsize=8, color="#555555", va="bottom")
    for at, row in enumerate(comparison.rows):
        cells = row_cells(row)[1:] or [f"n/a: {row.unavailable}"]
        for x, cell in zip(COLUMNS, cells, strict=False):
            axis.text(x, at, cell, fontsize=9, va="center")
    # What speaks against these figures stands below them, where nobody misses it.
    axis.annotate(
        "\n".join(_warnings(comparison)), (0, 0), (0, -6), xycoords="axes fraction", textcoords="offset points",
        va="top", fontsize=9, fontweight="bold", color=WARNING, annotation_clip=False,
    )  # fmt: skip


def _warnings(comparison: Comparison) -> list[str]:
    """The comparison's notes, in lines that are no longer than the figures beside the bars."""
    return [line for note in comparison.notes for line in textwrap.wrap(f"note: {note}", 88)]


def foot(notes: Sequence[str]) -> list[str]:
    """What has to be known of the figures: machine, date, what the columns are, and what is said of the machine."""
    return [where(), *EXPLANATION, *(f"note: {note}" for note in dict.fromkeys(notes))]


def draw(comparisons: Sequence[Comparison], heading: str = "", notes: Sequence[str] = ()) -> Any:
    """The figure of `write_picture`."""
    lines = foot(notes)
    lower = [NOTE * max(0, len(_warnings(comparison)) - 2) for comparison in comparisons]
    heights = [ROW * len(one.rows) + 1.1 + more for one, more in zip(comparisons, lower, strict=True)]
    figure, axes = _axes(len(comparisons), heights, 0.2 * len(lines) + (0.4 if heading else 0))
    for (bars, figures), comparison in zip(axes, comparisons, strict=True):
        _draw_bars(bars, comparison)
        _draw_figures(figures, comparison)
        bars.set_title(comparison.workload.label, loc="left", fontsize=10, pad=18)
    if heading:
        figure.suptitle(heading, x=0.01, ha="left", fontsize=13)
    figure.supxlabel("\n".join(lines), x=0.01, ha="left", fontsize=8, color="#333333", wrap=True)
    return figure


def write_picture(
    path: Path, comparisons: Sequence[Comparison], heading: str = "", notes: Sequence[str] = ()
) -> None:
    """One panel per comparison, one bar per loop, with all that the tables have.

    notes: more of them than the comparisons have.  Raises BenchmarkError without matplotlib.
    """
    figure = draw(comparisons, heading, notes)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    figure.clear()
