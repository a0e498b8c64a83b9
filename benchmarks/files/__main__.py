"""Files: ``python -m benchmarks.files --only cached small``, all loads with all contestants unless told otherwise.

Every contestant is a library on a loop in a process of its own; they make short windows of a load in turn.  Figures are
operations a second and CPU time per operation of all threads of the process, those of its ring's workers included.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from rich.console import Console

from benchmarks import report
from benchmarks.files import show
from benchmarks.files.compare import Contestant, Settings, measure
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


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.files", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=list(LOADS), metavar="LOAD", help=f"of {', '.join(LOADS)}")
    parser.add_argument("--contestants", nargs="+", default=CONTESTANTS, metavar="LIBRARY/LOOP")
    parser.add_argument("--folder", type=Path, default=DEFAULT_FOLDER, help="on the disk that is measured")
    parser.add_argument("--mib", type=int, default=1024, help="size of the large file")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--windows", type=int, default=4, help="in each round")
    parser.add_argument("--seconds", type=float, default=0.2, help="of a window")
    parser.add_argument("--markdown", action="store_true", help="print one table for a README instead")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    if min(args.rounds, args.windows) < 1 or args.seconds <= 0 or args.mib < 64:
        parser.error("--rounds and --windows must be at least 1, --seconds above 0, --mib at least 64")
    return args


def run(args: argparse.Namespace, console: Console) -> None:
    contestants = [Contestant.parse(text) for text in args.contestants]
    place = Place(args.folder, args.mib)
    settings = Settings(place, args.rounds, args.windows, args.seconds)
    with console.status("making files") as status:
        place.make()
        comparisons = measure([LOADS[name] for name in args.only or LOADS], contestants, settings, status.update)
    if args.markdown:
        console.print(show.markdown(comparisons), soft_wrap=True, highlight=False, markup=False)
    else:
        for comparison in comparisons:
            show.show(console, comparison)
    if args.json:
        content = {
            "machine": report.machine(), "packages": show.versions(), "rounds": args.rounds, "windows": args.windows,
            "seconds": args.seconds, "tables": [show.as_table(one) for one in comparisons],
            "loads": [show.as_windows(one) for one in comparisons],
        }  # fmt: skip
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(report.command(run, parse_args))
