"""Files: ``python -m benchmarks.files --only cached small``, all loads with all contestants unless told otherwise.

Every contestant is a library on a loop in a process of its own; they make short windows of a load in turn.  Figures are
operations a second and CPU time per operation of all threads of the process, those of its ring's workers included.
"""

from __future__ import annotations

import argparse
import json
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks import report
from benchmarks.errors import BenchmarkError
from benchmarks.files.bars import verdicts
from benchmarks.files.compare import Comparison, Contestant, Row, Settings, measure
from benchmarks.files.loads import LOADS
from benchmarks.files.place import DEFAULT_FOLDER, Place

CONTESTANTS = (
    "plain",
    "executor/uvloop",
    "aiofiles/asyncio",
    "aiofiles/uvloop",
    "anyio/asyncio",
    "anyio/uvloop",
    "aiofile/asyncio",
    "aiofile/uvloop",
    "asyncfiles/asyncio",
    "asyncfiles/uvloop",
    "pyaio/asyncio",
    "pyaio/uvloop",
    "aiofiles/flexsc:kernel:off",
    "aiofiles/flexsc:user:off",
    "anyio/flexsc:kernel:off",
    "anyio/flexsc:user:off",
    "flexsc/flexsc:kernel:off",
    "flexsc/flexsc:user:off",
    "flexsc-whole/flexsc:kernel:off",
    "flexsc-whole/flexsc:user:off",
)
PACKAGES = ("aiofile", "aiofiles", "anyio", "caio", "py-asyncfiles", "pyaio", "uvloop")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.files", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=list(LOADS), metavar="LOAD", help=f"of {', '.join(LOADS)}")
    parser.add_argument("--contestants", nargs="+", default=CONTESTANTS, metavar="LIBRARY/LOOP")
    parser.add_argument("--folder", type=Path, default=DEFAULT_FOLDER, help="on the disk that is measured")
    parser.add_argument("--mib", type=int, default=1024, help="size of the large file")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--windows", type=int, default=4, help="in each round")
    parser.add_argument("--seconds", type=float, default=0.2, help="of a window")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    if min(args.rounds, args.windows) < 1 or args.seconds <= 0 or args.mib < 64:
        parser.error("--rounds and --windows must be at least 1, --seconds above 0, --mib at least 64")
    return args


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


def show(console: Console, comparison: Comparison) -> None:
    """A line for each contestant, and what has to be known about them."""
    load, peer = comparison.load, comparison.best_peer()
    table = Table(title=load.title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    table.add_column("", no_wrap=True)
    for heading in (f"{load.unit}/s", "CPU µs each", f"× {peer.label if peer else 'peer'}", "× plain calls"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in comparison.rows:
        table.add_row(row.label, *cells(row, comparison))
    console.print(table)
    for row in comparison.rows:
        if row.reason is not None:
            console.print(f"  {row.label}: n/a because {row.reason}", highlight=False, markup=False)
    for verdict in verdicts(comparison):
        console.print(f"  bar {verdict}", highlight=False, markup=False)


def versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def as_dict(comparison: Comparison) -> dict[str, Any]:
    return {
        "load": comparison.load.name,
        "title": comparison.load.title,
        "rows": [row.as_dict() for row in comparison.rows],
        "bars": [str(verdict) for verdict in verdicts(comparison)],
    }


def run(args: argparse.Namespace, console: Console) -> None:
    contestants = [Contestant.parse(text) for text in args.contestants]
    place = Place(args.folder, args.mib)
    settings = Settings(place, args.rounds, args.windows, args.seconds)
    with console.status("making files") as status:
        place.make()
        comparisons = measure([LOADS[name] for name in args.only or LOADS], contestants, settings, status.update)
    for comparison in comparisons:
        show(console, comparison)
    if args.json:
        content = {
            "machine": report.machine(), "packages": versions(), "rounds": args.rounds, "windows": args.windows,
            "seconds": args.seconds, "comparisons": [as_dict(one) for one in comparisons],
        }  # fmt: skip
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(content, indent=1) + "\n")


def main() -> int:
    console = report.make_console()
    try:
        run(parse_args(), console)
    except BenchmarkError as error:
        console.print(f"[red]error:[/red] {error}", highlight=False)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
