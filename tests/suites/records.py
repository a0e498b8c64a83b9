"""What a suite's process writes down while it runs, so that nothing is lost when it dies: one JSON object per line.

{"test": "…", "event": "start"}
{"test": "…", "event": "end", "outcome": "passed", "seconds": 0.01, "loops": 1, "detail": ""}
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

Outcome = Literal["passed", "failed", "skipped", "hung", "crashed", "excluded"]

#: Outcomes that are no success.
BAD = ("failed", "hung", "crashed")


@dataclass
class Result:
    """How one test ended.  loops: how many loops of ours it has made.  detail: why it did not pass."""

    test: str
    outcome: Outcome
    seconds: float = 0.0
    loops: int = 0
    detail: str = ""

    @property
    def bad(self) -> bool:
        return self.outcome in BAD


class Writer:
    """Used by the process that runs the tests.  A child that it forks must not write."""

    def __init__(self, path: str | Path) -> None:
        self._file = open(path, "a", buffering=1)
        self._pid = os.getpid()

    def _write(self, line: dict[str, Any]) -> None:
        if os.getpid() == self._pid:
            self._file.write(json.dumps(line) + "\n")

    def start(self, test: str) -> None:
        self._write({"test": test, "event": "start"})

    def end(self, result: Result) -> None:
        self._write({"event": "end", **asdict(result)})


def read(path: str | Path) -> tuple[dict[str, Result], str | None]:
    """What was written: the results, and the test that was running when the process ended, if one was."""
    results: dict[str, Result] = {}
    running = None
    try:
        text = Path(path).read_text()
    except FileNotFoundError:
        return {}, None
    for line in text.splitlines():
        try:
            entry = json.loads(line)
        except ValueError:  # the last line of a process that was killed
            continue
        if entry.pop("event") == "start":
            running = entry["test"]
        else:
            running = None
            results[entry["test"]] = Result(**entry)
    return results, running


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What every process that runs tests is told."""
    parser.add_argument("--record", required=True, help="where to write what happens")
    parser.add_argument("--limit", type=float, default=60.0, help="seconds for one test")
    parser.add_argument("--choice", help="a JSON file: which tests to run, see Choice")


class Choice:
    """Which tests to run.

    exclude: patterns of tests to leave out, which are recorded as excluded.  skip: names of tests that have been run.
    only: names of tests to run, if not None.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        chosen = json.loads(Path(args.choice).read_text()) if args.choice else {}
        self.exclude: list[str] = chosen.get("exclude", [])
        self.skip = set(chosen.get("skip", []))
        self.only = set(chosen["only"]) if chosen.get("only") is not None else None

    def wants(self, test: str, writer: Writer) -> bool:
        if test in self.skip or (self.only is not None and test not in self.only):
            return False
        if any(fnmatchcase(test, pattern) for pattern in self.exclude):
            writer.end(Result(test, "excluded"))
            return False
        return True
