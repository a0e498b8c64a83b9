"""Floor 5: what metrics systems are told of this process's loops: counters that never fall, and outlive their loops.

Owns: what closed loops have counted.  Imports: reader, layout.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from flexsc_loop.insight.layout import GAUGES, NS, LoopStats
from flexsc_loop.insight.reader import loops_here, read, thread_times

if TYPE_CHECKING:
    from flexsc_loop.loop import Loop

#: Upper bounds of the histograms' buckets, in seconds.
BOUNDS = (
    1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)
#: What is now, and not what has been: a closed loop has none of it.  thread_delay is of the thread that serves now.
NOW = frozenset((*GAUGES, "threads", "thread_delay"))

#: What was told of loops, by name.
_told: weakref.WeakKeyDictionary[Loop, dict[str, float]] = weakref.WeakKeyDictionary()


def rising(loop: Loop, name: str, value: float) -> float:
    """`value`, or what this has given for the loop and `name` before, if that is more.

    How long a tick is becomes known better and better, so that a time of the past, and what of it was below a bound,
    may become a little less.  Whoever collects takes a counter that falls for one that has begun anew.
    """
    told = _told.setdefault(loop, {})
    told[name] = max(value, told.get(name, value))
    return told[name]


def counts_of(loop: Loop, stats: LoopStats) -> dict[str, int | float]:
    """All counts of a loop of this process, by name, times in seconds: those of `stats`, and what no page holds.

    The kernel and the scheduler keep these: CPU time of the syscall thread, its waiting for a CPU, what was decided.
    Times have with them what goes on now (`LoopStats.spent`), and never fall.
    """
    thread = thread_times(os.getpid(), stats.syscall_thread) if stats.threads else None
    times = {**stats.spent, "job_wait": float(stats.counts["job_wait"])}
    return {
        **stats.counts, **{name: rising(loop, name, value) for name, value in times.items()}, **loop.choice.counters(),
        "threads": int(stats.threads),
        "thread_cpu": loop.page.thread_counters()["thread_cpu_ns"] / NS,
        "thread_delay": thread.delay if thread is not None else 0.0,
    }


@dataclass(frozen=True)
class Buckets:
    """A histogram: how many values are at most each of BOUNDS, how many there are, and their sum in seconds."""

    below: tuple[float, ...] = (0.0,) * len(BOUNDS)
    count: float = 0.0
    total: float = 0.0

    def __add__(self, other: Buckets) -> Buckets:
        below = tuple(one + two for one, two in zip(self.below, other.below, strict=True))
        return Buckets(below, self.count + other.count, self.total + other.total)


@dataclass(frozen=True)
class Told:
    """What is told under one number and kind of page.

    counts: see `counts_of`; those of NOW are missing where no open loop has this number.  turn, lag: the histograms.
    """

    number: int
    pages: str
    counts: dict[str, int | float] = field(default_factory=dict)
    turn: Buckets = Buckets()
    lag: Buckets = Buckets()

    def __add__(self, other: Told) -> Told:
        """`other` is what is open, if either is."""
        counts = {name: value if name in NOW else value + self.counts.get(name, 0)
                  for name, value in other.counts.items()}
        return Told(self.number, self.pages, counts, self.turn + other.turn, self.lag + other.lag)


def told_of(loop: Loop, stats: LoopStats) -> Told:
    """What a loop has counted itself."""
    def buckets(which: str) -> Buckets:
        histogram = getattr(stats, which)
        below = zip(BOUNDS, histogram.below(BOUNDS), strict=True)
        return Buckets(tuple(rising(loop, f"{which} {bound}", count) for bound, count in below),
                       float(histogram.count), rising(loop, which, getattr(stats, f"{which}_total")))

    return Told(stats.number, stats.pages, counts_of(loop, stats), buckets("turn"), buckets("lag"))


class Ledger:
    """What loops have counted, those included that have been closed since it was made.

    wanted: which loops.  A number is one loop after the other's, and what is told under it goes on where the last one
    ended: a program that makes a loop for each of its jobs has no more series than loops at a time, and loses nothing.
    """

    def __init__(self, wanted: Callable[[Loop], bool]) -> None:
        self._wanted = wanted
        self._ended: dict[tuple[int, str], Told] = {}
        from flexsc_loop.loop import when_closed

        with _lock:
            # Whose counts are in `_ended`, or will never be.
            self._over = weakref.WeakSet(loop for stats, loop in loops_here() if stats.state == "closed")
            if _close not in when_closed:
                when_closed.append(_close)
            _ledgers.add(self)

    def all(self) -> list[Told]:
        """Of all loops that are wanted, open and closed."""
        with _lock:
            found = dict(self._ended)
            for stats, loop in loops_here():
                if loop not in self._over and self._wanted(loop):
                    told = told_of(loop, stats)
                    key = told.number, told.pages
                    found[key] = found[key] + told if key in found else told
        return list(found.values())

    def forget(self) -> None:
        """What was counted is another process's."""
        self._ended.clear()

    def _close(self, loop: Loop) -> None:
        if loop in self._over:
            return
        self._over.add(loop)
        stats = read(loop)
        if not self._wanted(loop) or not stats.thread or stats.pid != os.getpid():
            return  # what has never run has counted nothing; a forked child's copy is its parent's
        told = told_of(loop, stats)
        key = told.number, told.pages
        kept = {name: value for name, value in told.counts.items() if name not in NOW}
        ended = Told(*key, kept, told.turn, told.lag)
        self._ended[key] = self._ended[key] + ended if key in self._ended else ended


_ledgers: weakref.WeakSet[Ledger] = weakref.WeakSet()
# Whoever collects in another thread finds a loop that is being closed once: among the open ones, or among the closed.
_lock = threading.RLock()


def _close(loop: Loop) -> None:
    with _lock:
        for ledger in list(_ledgers):
            ledger._close(loop)


def _after_fork() -> None:
    _lock._at_fork_reinit()  # type: ignore[attr-defined]  # a thread may have it that this process does not have
    for ledger in list(_ledgers):
        ledger.forget()


os.register_at_fork(after_in_child=_after_fork)
