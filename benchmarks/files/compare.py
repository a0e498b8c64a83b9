"""Contestants in processes of their own, which make windows of a load in turn; what is compared are ratios."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import IO, Any

from benchmarks.errors import BenchmarkError
from benchmarks.files import fio
from benchmarks.files.apis import APIS
from benchmarks.files.loads import Load, Sample
from benchmarks.files.place import Place
from benchmarks.loops import LoopChoice
from benchmarks.measure import Progress, silent

ANSWER_LIMIT_S = 60
OWN = ("flexsc", "flexsc-whole")
LIMITS = ("plain", "fio", "fio direct")
"""What is no asynchronous library: the machine's own limits."""
ONLY = {"flexsc-whole": ("small",)}
"""The loads of a library that differs from another one in these alone."""


@dataclass(frozen=True)
class Contestant:
    """A library on a loop, written ``library/loop``: ``aiofiles/uvloop``, ``flexsc/flexsc:kernel:off``; or ``fio``."""

    api: str
    loop: LoopChoice | None = None

    @classmethod
    def parse(cls, text: str) -> Contestant:
        """Raises BenchmarkError, listing what is possible, for anything else."""
        api, _, loop = text.partition("/")
        if api not in APIS:
            raise BenchmarkError(f"unknown library {api!r}; choose from {', '.join(APIS)}")
        return cls(api, LoopChoice.parse(loop or "asyncio"))

    @property
    def label(self) -> str:
        return f"{self.api}/{self.loop.label}" if self.loop and self.api != "plain" else self.api

    @property
    def is_peer(self) -> bool:
        """Another library, on a loop that is not this package's."""
        return self.api not in (*OWN, *LIMITS) and self.loop is not None and self.loop.name != "flexsc"


class Child:
    """A contestant's process."""

    def __init__(self, contestant: Contestant, place: Place) -> None:
        assert contestant.loop is not None
        command = [
            sys.executable, "-m", "benchmarks.files.child", contestant.api, contestant.loop.label_there,
            str(place.folder), str(place.mib),
        ]  # fmt: skip
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            cwd=contestant.loop.root,
        )  # fmt: skip
        self.answer()

    def window(self, load: str, seconds: float) -> Sample:
        stdin: IO[str] = self.process.stdin  # type: ignore[assignment]
        try:
            stdin.write(json.dumps({"load": load, "seconds": seconds}) + "\n")
            stdin.flush()
        except OSError as error:
            raise BenchmarkError("its process has ended") from error
        return Sample(**self.answer())

    def answer(self) -> dict[str, Any]:
        stdout: IO[str] = self.process.stdout  # type: ignore[assignment]
        guard = threading.Timer(ANSWER_LIMIT_S, self.process.kill)
        guard.start()
        try:
            line = stdout.readline()
        finally:
            guard.cancel()
        if not line:
            raise BenchmarkError(f"its process has ended with status {self.process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        if "reason" in answer:
            raise BenchmarkError(answer["reason"])
        return answer

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


def repeated(windows: list[Sample], count: int) -> list[Sample]:
    return windows * count if len(windows) == 1 else windows


@dataclass
class Row:
    """A contestant's windows, round by round; a reason where there are none."""

    contestant: Contestant
    rounds: list[list[Sample]] = field(default_factory=list)
    reason: str | None = None

    @property
    def label(self) -> str:
        return self.contestant.label

    def median(self, what: str) -> float:
        figures: list[float] = [getattr(sample, what) for taken in self.rounds for sample in taken]
        return statistics.median(figures)

    def ratios(self, other: Row, what: str = "rate") -> list[float]:
        """Times the other's figure: for each round the median of its windows' ratios.

        fio has one window a round, which all of the other's are held against.
        """
        found = []
        for mine, theirs in zip(self.rounds, other.rounds, strict=True):
            count = max(len(mine), len(theirs))
            pairs = zip(repeated(mine, count), repeated(theirs, count), strict=True)
            found.append(statistics.median(getattr(own, what) / getattr(its, what) for own, its in pairs))
        return found

    def ratio(self, other: Row, what: str = "rate") -> float:
        return statistics.median(self.ratios(other, what))

    def as_dict(self) -> dict[str, Any]:
        return {
            "contestant": self.label,
            "reason": self.reason,
            "rounds": [[sample.as_dict() for sample in taken] for taken in self.rounds],
        }


@dataclass
class Comparison:
    """All that was measured of one load."""

    load: Load
    rows: list[Row]

    @property
    def measured(self) -> list[Row]:
        return [row for row in self.rows if row.reason is None]

    def row(self, label: str) -> Row | None:
        return next((row for row in self.measured if row.label == label), None)

    def best_peer(self, what: str = "rate") -> Row | None:
        """The fastest of the others, or the one that takes least CPU."""
        peers = [row for row in self.measured if row.contestant.is_peer]
        choose: Callable[..., Row] = max if what == "rate" else min
        return choose(peers, key=lambda row: row.median(what), default=None)


@dataclass(frozen=True)
class Settings:
    """How often and how long: `windows` of `seconds` each in a round."""

    place: Place
    rounds: int = 5
    windows: int = 4
    seconds: float = 0.2


@contextmanager
def reason_kept(row: Row) -> Iterator[None]:
    """Who fails is out of the comparison, and its row says why."""
    try:
        yield
    except BenchmarkError as error:
        row.reason = str(error)


def measure(
    loads: Sequence[Load], contestants: Sequence[Contestant], settings: Settings, progress: Progress = silent
) -> list[Comparison]:
    """Every load with every contestant; each round has fresh processes, and windows in turn, to and fro."""
    comparisons = [Comparison(load, rows_of(load, contestants, settings.place)) for load in loads]
    for number in range(settings.rounds):
        with ExitStack() as stack:
            children: dict[str, Child | str] = {}
            for contestant in contestants:
                progress(f"round {number + 1} of {settings.rounds} · starting {contestant.label}")
                children[contestant.label] = start(contestant, settings.place, stack)
            for comparison in comparisons:
                one_round(comparison, children, settings, number, progress)
    return comparisons


def rows_of(load: Load, contestants: Sequence[Contestant], place: Place) -> list[Row]:
    """A row for everyone who takes part in a load, fio last."""
    part = [one for one in contestants if load.name in ONLY.get(one.api, (load.name,))]
    return [Row(one) for one in (*part, *map(Contestant, fio.variants(load.name, place)))]


def start(contestant: Contestant, place: Place, stack: ExitStack) -> Child | str:
    """Its process, or why there is none."""
    child: Child
    try:
        child = Child(contestant, place)
    except BenchmarkError as error:
        return str(error)
    stack.callback(child.close)
    return child


def one_round(
    comparison: Comparison, children: dict[str, Child | str], settings: Settings, number: int, progress: Progress
) -> None:
    load, rows = comparison.load, comparison.rows
    taken: dict[str, list[Sample]] = {row.label: [] for row in rows}
    windows = 1 if load.once else settings.windows
    for window in range(windows):
        progress(f"round {number + 1} of {settings.rounds} · {load.title} · {window + 1} of {windows}")
        for row in rows if (number + window) % 2 == 0 else rows[::-1]:
            if row.reason is not None:
                continue
            with reason_kept(row):
                child = children.get(row.label)
                if isinstance(child, str):
                    raise BenchmarkError(child)
                if child is not None:
                    taken[row.label].append(child.window(load.name, settings.seconds))
                elif window == 0:
                    seconds = settings.seconds * windows
                    taken[row.label].append(fio.run(load.name, row.label, settings.place, seconds))
    for row in rows:
        if row.reason is None:
            row.rounds.append(taken[row.label])
