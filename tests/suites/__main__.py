"""Runs test suites that others wrote on this loop and on the standard one, and compares.

Fails when a test fails (or hangs, crashes, is skipped) on this loop that passes on the standard one; a test that fails
is tried again, alone, before it counts.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from fnmatch import fnmatchcase
from pathlib import Path

from tests.suites import (
    aiofiles_suite,
    aiohttp_suite,
    amqtt_suite,
    anyio_suite,
    cpython,
    io_suite,
    pymysql_suite,
    report,
    runs,
    threads_suite,
    tornado_suite,
    urllib3_suite,
    uvicorn_suite,
    uvloop_suite,
    websockets_suite,
)
from tests.suites.projects import NotPublished, Project
from tests.support import ROOT, WAYS, hear_signals

PROJECTS: dict[str, Project] = {
    one.SUITE.name: one.SUITE
    for one in (
        aiohttp_suite, anyio_suite, websockets_suite, tornado_suite, uvicorn_suite, amqtt_suite, uvloop_suite,
        aiofiles_suite, urllib3_suite, pymysql_suite,
    )
}  # fmt: skip
#: What comes with the interpreter.
PYTHONS = {"cpython": cpython, io_suite.NAME: io_suite, threads_suite.NAME: threads_suite}
SUITES = [*PYTHONS, *PROJECTS]
OURS = [name for name, way in WAYS.items() if way.ours and name != "auto"]


def tell(line: str) -> None:
    print(f"  {line}", file=sys.stderr, flush=True)


def suite(name: str, args: argparse.Namespace) -> tuple[list[runs.Part], list[runs.Exclusion]]:
    """What there is to run of a suite, and what is not to be run.  Raises RuntimeError when the suite can't be had."""
    if name in PYTHONS:
        return PYTHONS[name].parts(args.quick), PYTHONS[name].exclusions()
    project = PROJECTS[name]
    return project.parts(args.quick, args.checkout.get(name)), project.exclusions()


def run(name: str, args: argparse.Namespace) -> bool:
    """Run one suite and print what came out; returns whether it holds."""
    start = time.monotonic()
    try:
        every, exclusions = suite(name, args)
    except NotPublished as reason:
        print(f"\n{name}: NOT RUN: {reason}")
        return name not in args.suite
    parts = [part for part in every if any(fnmatchcase(part.name, one) for one in args.part or "*")]
    if not parts:
        print(f"{name} has no part {' or '.join(args.part)}; there are {', '.join(part.name for part in every)}")
        return name not in args.suite
    found = runs.run_suite(parts, args.way or OURS, exclusions, args.jobs, tell)
    for way, tables in found.items():
        print(f"\n{name} on Python {sys.version.split()[0]}, {way}\n{report.table(tables)}")
    listed, unused = report.excluded(found, exclusions)
    print("\n".join(["", listed, report.listing(found, args.verbose)]))
    complete = not (args.quick or args.part or args.way)
    missing = [one.pattern for one in unused if complete and not one.patched]
    invalid = report.broken(found) + [f"exclusion without a test: {pattern}" for pattern in missing]
    for line in invalid:
        print(f"INVALID   {line}")
    bad = report.worse(found) + len(invalid)
    print(f"{name}: {bad or 'nothing'} worse than on the standard loop; {time.monotonic() - start:.0f} s")
    target = Path(args.json or ROOT / "build" / "suites") / f"{name}-{cpython.VERSION}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(report.as_json(found, exclusions), indent=1))
    return not bad


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.suites", description=__doc__)
    parser.add_argument("suite", nargs="*", choices=[[], *SUITES], help="all of them unless given")
    parser.add_argument("--way", action="append", choices=OURS, help="all four unless given (may be repeated)")
    parser.add_argument("--part", action="append", metavar="PATTERN", help="these modules only (may be repeated)")
    parser.add_argument("--quick", action="store_true", help="a representative part")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="processes at a time")
    parser.add_argument("--json", metavar="FOLDER", help="where to write all results; build/suites unless given")
    parser.add_argument("--checkout", action="append", default=[], metavar="NAME=FOLDER",
                        help="take a project's tests from its repository in FOLDER (may be repeated)")  # fmt: skip
    parser.add_argument("--verbose", action="store_true", help="whole tracebacks")
    args = parser.parse_args()
    hear_signals()
    args.checkout = {name: Path(folder).resolve() for name, _, folder in (one.partition("=") for one in args.checkout)}
    held = [run(name, args) for name in args.suite or SUITES]
    sys.exit(not all(held))


if __name__ == "__main__":
    main()
