"""Runs parts of a suite in processes of their own, on the standard loop and on this one, and compares."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from tests.suites.records import Result, read
from tests.support import WAYS, child_environment

STDLIB = "stdlib"
#: The pseudo-test that fails when the process does not end as it should.
END = "{}.<end of the process>"
#: How often a test that fails is tried again, alone: one that passes then is unsteady.
TRIES = 2


@dataclass(frozen=True)
class Exclusion:
    """Tests that are not run.  versions: of Python, all if empty.  ways: to run the loop, all if empty."""

    pattern: str
    reason: str
    versions: tuple[str, ...] = ()
    ways: tuple[str, ...] = ()

    def holds(self, version: str) -> bool:
        return not self.versions or version in self.versions


@dataclass(frozen=True)
class Part:
    """Some tests of a suite that run in one process.

    command: makes the command line, given "ours" or "stdlib"; options of `records.add_arguments` are appended.
    seconds: the time limit of the process.  cwd: the directory that it runs in; None for an empty one.
    """

    name: str
    command: Callable[[str], list[str]]
    seconds: float = 300.0
    test_seconds: float = 60.0
    cwd: Path | None = None
    environment: dict[str, str] = field(default_factory=dict)


def run_part(part: Part, way: str, exclude: Iterable[str], only: Iterable[str] | None = None) -> dict[str, Result]:
    """Run one part in one way.  A test that hangs or crashes costs itself alone: the others run in a new process."""
    results: dict[str, Result] = {}
    with tempfile.TemporaryDirectory(prefix="suite-") as folder:
        record, choice, empty = (Path(folder, name) for name in ("record", "choice", "cwd"))
        empty.mkdir()
        while True:
            choice.write_text(
                json.dumps({"exclude": [*exclude], "skip": [*results], "only": [*only] if only is not None else None})
            )
            record.unlink(missing_ok=True)
            end = run_process(part, way, [f"--record={record}", f"--choice={choice}"], part.cwd or empty)
            found, running = read(record)
            results |= found
            if running is None:
                name = END.format(part.name)
                outcome = "passed" if end.code == 0 else "hung" if end.hung else "crashed"
                results[name] = Result(name, outcome, detail=end.said if end.code else "")
                return results
            results[running] = Result(running, "hung" if end.hung else "crashed", detail=end.said)


@dataclass(frozen=True)
class End:
    """How a process ended and what it said last.  hung: it was killed because its time was over."""

    code: int
    hung: bool
    said: str


def run_process(part: Part, way: str, options: list[str], cwd: Path) -> End:
    command = [*part.command(STDLIB if way == STDLIB else "ours"), *options, f"--limit={part.test_seconds}"]
    environment = child_environment({**WAYS[way].environment(), **part.environment})
    with tempfile.TemporaryFile("w+", errors="replace") as said:
        process = subprocess.Popen(
            command, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, stdout=said, stderr=said,
            start_new_session=True,
        )  # fmt: skip
        try:
            process.wait(part.seconds)
            hung = False
        except subprocess.TimeoutExpired:
            hung = True
        finally:
            # Children that a test has left behind go with it.
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            process.wait()
        said.seek(0)
        text = said.read()
    # faulthandler ends a process whose test takes too long.
    return End(process.returncode, hung or "Timeout (" in text, text[-8000:])


@dataclass
class Comparison:
    """One test on the standard loop and on ours; None: it does not exist there."""

    theirs: Result | None
    ours: Result | None
    steady: bool = True

    @property
    def worse(self) -> bool:
        """It fails with ours alone, or passes with theirs and is not run with ours."""
        bad = self.ours is not None and self.ours.bad and not (self.theirs is not None and self.theirs.bad)
        good = self.theirs is not None and self.theirs.outcome == "passed"
        return self.steady and (bad or (good and (self.ours is None or self.ours.outcome == "skipped")))


def compare(part: Part, way: str, theirs: dict[str, Result], exclude: list[str]) -> dict[str, Comparison]:
    """Run a part in one of our ways and hold it against the standard loop's results."""
    ours = run_part(part, way, exclude)
    found = {name: Comparison(theirs.get(name), ours.get(name)) for name in [*theirs, *(set(ours) - set(theirs))]}
    suspects = [name for name, one in found.items() if one.worse and one.ours is not None and one.ours.bad]
    for name in suspects:
        for _ in range(TRIES):
            only = None if name == END.format(part.name) else [name]
            again = run_part(part, way, exclude, only).get(name)
            if again is not None and not again.bad:
                found[name].steady = False
                break
    return found


def run_suite(
    parts: list[Part], ways: list[str], exclusions: list[Exclusion], jobs: int, tell: Callable[[str], None]
) -> dict[str, dict[str, dict[str, Comparison]]]:
    """Everything: way -> part -> test -> comparison."""
    exclude = {way: [one.pattern for one in exclusions if not one.ways or way in one.ways] for way in [STDLIB, *ways]}
    found: dict[str, dict[str, dict[str, Comparison]]] = {way: {} for way in ways}

    def one(part: Part) -> None:
        theirs = run_part(part, STDLIB, exclude[STDLIB])
        for way in ways:
            found[way][part.name] = compare(part, way, theirs, exclude[way])
            worse = sum(one.worse for one in found[way][part.name].values())
            tell(f"{part.name} {way}: {len(found[way][part.name])} tests" + (f", {worse} WORSE" if worse else ""))

    with ThreadPoolExecutor(jobs) as pool:
        for future in [pool.submit(one, part) for part in parts]:
            future.result()
    return found
