"""What files have to reach, as data, and whether they do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.files.compare import Comparison, Row

PEER = "the best peer"


@dataclass(frozen=True)
class Bar:
    """Of a load: so many times what `against` has, at least; of CPU at most.  api: whose rows have to reach it."""

    load: str
    value: float
    against: str
    what: str = "rate"
    api: str = "flexsc"

    def met(self, ratio: float) -> bool:
        return ratio >= self.value if self.what == "rate" else ratio <= self.value

    @property
    def title(self) -> str:
        sign, what = ("≥", "") if self.what == "rate" else ("≤", "CPU ")
        return f"{what}{sign} {self.value:.2f} × {self.against}"


BARS = (
    Bar("cached", 1.8, "asyncfiles/asyncio"),
    Bar("cached", 45, "aiofiles/uvloop"),
    Bar("cached", 0.75, "plain"),
    Bar("cached", 3.0, "aiofiles/uvloop", api="aiofiles"),
    Bar("cached64", 1.5, PEER),
    Bar("cold64", 1.0, PEER),
    Bar("cold64", 0.75, PEER, "cpu_us"),
    Bar("small", 1.5, PEER),
    Bar("small", 6.0, "aiofiles/uvloop", api="aiofiles"),
    Bar("append", 1.2, PEER),
    Bar("write", 0.95, "fio"),
    Bar("through", 0.95, "fio"),
)


@dataclass(frozen=True)
class Verdict:
    """A bar, the row that was held against it, and what it was held against."""

    bar: Bar
    row: Row
    against: Row
    ratio: float

    @property
    def met(self) -> bool:
        return self.bar.met(self.ratio)

    def __str__(self) -> str:
        peer = f" ({self.against.label})" if self.bar.against == PEER else ""
        return f"{self.bar.title}{peer}: {self.row.label} {self.ratio:.2f}, {'met' if self.met else 'MISSED'}"


def verdicts(comparison: Comparison) -> Iterator[Verdict]:
    """Every bar of a load that can be judged with what was measured."""
    for bar in BARS:
        if bar.load != comparison.load.name:
            continue
        against = comparison.best_peer(bar.what) if bar.against == PEER else comparison.row(bar.against)
        if against is None:
            continue
        for row in comparison.measured:
            loop = row.contestant.loop
            if row.contestant.api == bar.api and loop is not None and loop.name == "flexsc":
                yield Verdict(bar, row, against, row.ratio(against, bar.what))
