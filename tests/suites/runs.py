"""Runs parts of a suite in processes of their own, on the standard loop and on this one, and compares."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from tests.suites.records import Result, read
from tests.support import WAYS, child_environment

STDLIB = "stdlib"
#: The pseudo-test that fails when the process does not end as it should.
END = "{}.<end of the process>"
#: How many tests of a part that fail twice are tried again alone: one that passes then is unsteady.
MOST_ALONE = 20


@dataclass(frozen=True)
class Exclusion:
    """Tests that are not run.  versions: of Python, all if empty.  ways: to run the loop, all if empty.

    patched: patch releases of these versions have them, the first ones not.
    """

    pattern: str
    reason: str
    versions: tuple[str, ...] = ()
    ways: tuple[str, ...] = ()
    patched: bool = False

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
    suspects = [name for name, one in found.items() if one.worse and one.ours is not None]
    for again in try_again(part, way, exclude, suspects):
        for name in suspects:
            if name in again and again[name].outcome == "passed":
                found[name].steady = False
    return found


def try_again(part: Part, way: str, exclude: list[str], suspects: list[str]) -> Iterator[dict[str, Result]]:
    """The results of more runs of what is worse: all of it together, then each test that still is, alone."""
    end = END.format(part.name)
    if end in suspects:
        yield {end: run_part(part, way, exclude)[end]}
    left = [name for name in suspects if name != end]
    if left:
        together = run_part(part, way, exclude, left)
        yield {name: one for name, one in together.items() if name != end}
        left = [name for name in left if name not in together or together[name].outcome != "passed"]
    for name in left[:MOST_ALONE]:
        yield {name: one for name, one in run_part(part, way, exclude, [name]).items() if name != end}


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
            worse = [name for name, comparison in found[way][part.name].items() if comparison.worse]
            tell(f"{part.name} {way}: {len(found[way][part.name])} tests" + f", {len(worse)} WORSE" * bool(worse))
            for name in worse:
                tell(f"  {name}")

    with ThreadPoolExecutor(jobs) as pool:
        for future in [pool.submit(one, part) for part in parts]:
            future.result()
    return found
