"""The top README's picture: ``python -m benchmarks.figures`` draws it from the first table in benchmarks/README.md."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
DOCUMENT = FOLDER / "README.md"
PICTURE = FOLDER / "figures.svg"
SHOWN = (
    "aiohttp hello, 64", "aiohttp hello, 1 ", "aiohttp https", "aiohttp static file, 4 KiB", "uvicorn",
    "protocol echo, 128 B", "streams echo", "UDP echo", "asyncpg",
)  # fmt: skip
"""How the names of the picture's workloads begin: of each kind one, those that lose among them."""
LOST = "#a31515"
COLOURS = ("#2f8f6f", "#7cc4a8", "#1f4e79", "#7fa8d1")


@dataclass(frozen=True)
class Figures:
    """One table: the ways to run, and for each workload (title, rate of uvloop, ratio in each way)."""

    ways: tuple[str, ...]
    rows: tuple[tuple[str, str, tuple[float, ...]], ...]
    where: str

    @property
    def shown(self) -> list[tuple[str, str, tuple[float, ...]]]:
        """The rows of the picture."""
        return [row for row in self.rows if row[0].startswith(SHOWN)]


def _cells(line: str) -> list[str]:
    return [cell.strip().strip("*").replace("`", "") for cell in line.strip().strip("|").split("|")]


def parse(lines: Sequence[str]) -> tuple[tuple[str, ...], list[tuple[str, str, tuple[float, ...], str]]]:
    """A table of ratios to uvloop: its ways, and for each workload (title, uvloop's figures, ratios, other loops)."""
    rows = []
    subject = ""
    for line in lines[2:]:
        name, uvloop, *ratios = _cells(line)
        if name.startswith("the same, "):
            name = f"{subject}, {name.removeprefix('the same, ')}"
        else:
            subject = name.split(",")[0]
        rows.append((name, uvloop, tuple(map(float, ratios[:4])), "".join(ratios[4:])))
    return tuple(_cells(lines[0])[2:6]), rows


def read(text: str) -> Figures:
    """The first table between the marks of the figures, and the paragraph before it (the machine).

    text: of benchmarks/README.md.  Raises ValueError where it holds no such table.
    """
    block = re.search(r"<!-- figures -->\n(.*?)<!-- /figures -->", text, re.DOTALL)
    parts = block[1].split("\n\n") if block else []
    at = next((i for i, part in enumerate(parts) if part.startswith("| workload")), None)
    if at is None:
        raise ValueError(f"{DOCUMENT.name} has no table of figures between <!-- figures --> and <!-- /figures -->")
    ways, rows = parse(parts[at].splitlines())
    where = " ".join(parts[at - 1].split()).replace("`", "")
    return Figures(ways, tuple((name, uvloop.split("/s")[0], ratios) for name, uvloop, ratios, _ in rows), where)


def draw(figures: Figures) -> Any:
    """Grouped bars: a group for each workload that is shown, a bar for each way."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.fonttype"] = "none"
    matplotlib.rcParams["svg.hashsalt"] = "flexsc_loop"
    from matplotlib import pyplot

    rows = figures.shown
    figure, axis = pyplot.subplots(figsize=(9, 0.72 * len(rows) + 1.2), layout="constrained")
    height = 0.8 / len(figures.ways)
    for index, (way, fill) in enumerate(zip(figures.ways, COLOURS, strict=True)):
        places = [at - 0.4 + height * (index + 0.5) for at in range(len(rows))]
        ratios = [ratios[index] for _, _, ratios in rows]
        axis.barh(places, ratios, height * 0.92, color=fill, label=way)
        for place, ratio in zip(places, ratios, strict=True):
            colour, weight = (LOST, "bold") if ratio < 1 else ("black", "normal")
            axis.text(
                ratio + 0.01, place, f"{ratio:.2f}", va="center", fontsize=7.5, color=colour, fontweight=weight,
            )  # fmt: skip
    axis.axvline(1, color="#444444", linewidth=1, linestyle=":")
    axis.set_yticks(range(len(rows)), [f"{name}\nuvloop: {rate}/s" for name, rate, _ in rows], fontsize=8)
    axis.invert_yaxis()
    axis.set_xlabel("requests per second, uvloop = 1", fontsize=8)
    figure.supxlabel("\n".join(textwrap.wrap(figures.where, 140)), x=0.01, ha="left", fontsize=7, color="#444444")
    axis.tick_params(axis="x", labelsize=8)
    axis.legend(fontsize=8, loc="upper right", frameon=False)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    return figure


def main() -> None:
    figure = draw(read(DOCUMENT.read_text()))
    figure.savefig(PICTURE, metadata={"Date": None, "Creator": None}, facecolor="white")
    print(PICTURE)


if __name__ == "__main__":
    main()
