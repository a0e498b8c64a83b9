"""Floor 5: what stands in a stats page, and what it means.

The layout is that of syscalls/stats_page.h.  Nothing in a page is trusted: whoever can write to it may have written
anything, so numbers are numbers, and texts lose whatever a terminal would obey.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field

MAGIC = b"flexstat"
VERSION = 1
NAMES = 64
NAME_SIZE = 96
OCTAVE = 64
OCTAVES = 32
BUCKETS = (OCTAVES + 1) * OCTAVE
STATES = ("new", "running", "asleep", "stopped", "closed")
NO_THREAD = -2

HEAD = struct.Struct("=8sII iI iii III 8s16s256s Q 2Q2Q QQ Q")
COUNTERS = (
    "turns", "callbacks", "deliveries", "timers_run", "busy", "asleep", "in_calls", "submitted", "batches",
    "completions", "syscalls", "wakeups", "spins", "pool_empty", "overflows", "bytes_in", "bytes_out", "messages_in",
    "messages_out", "accepts", "jobs", "jobs_done", "job_wait", "files_at_once", "files_queued", "files_by_threads",
    "file_bytes_read", "file_bytes_written", "stalls", "switches",
)
GAUGES = (
    "ready", "timers", "in_flight", "streams", "tls", "listeners", "datagrams", "pipes", "pool_buffers", "pool_most",
    "green_threads",
)
#: Counters of time, in ticks.
TIMES = ("busy", "asleep", "in_calls", "job_wait")
COUNTS = COUNTERS + GAUGES
COUNTS_AT = HEAD.size
NAMES_AT = COUNTS_AT + 8 * len(COUNTS)
TURN_AT = NAMES_AT + NAMES * NAME_SIZE
HISTOGRAM_SIZE = 8 * (2 + BUCKETS)
LAG_AT = TURN_AT + HISTOGRAM_SIZE
SIZE = LAG_AT + HISTOGRAM_SIZE

NS = 1e9
_SPARSE = 8 * OCTAVE  # bytes that are compared at once
_NOTHING = bytes(_SPARSE)


class BadPage(ValueError):
    """It is no stats page, or one of another version."""


def least(bucket: int) -> int:
    """The smallest value that falls into a bucket."""
    if bucket < 2 * OCTAVE:
        return bucket
    octave = bucket // OCTAVE - 1
    return (bucket - octave * OCTAVE) << octave


@dataclass(frozen=True)
class Histogram:
    """How often values fell where.

    counts: (bucket, how often) of buckets that hold something, in order.  tick: seconds.
    """

    counts: list[tuple[int, int]]
    tick: float

    @property
    def count(self) -> int:
        """How many values there are."""
        return sum(count for _, count in self.counts)

    def quantile(self, share: float) -> float:
        """Seconds that `share` (0 to 1) of the values do not exceed, to 1.6 %; 0 where there are none."""
        left, reached = share * self.count, 0
        for bucket, count in self.counts:
            left -= count
            reached = bucket
            if left <= 0:
                break
        return (least(reached + 1) - 1) * self.tick

    @property
    def most(self) -> float:
        """Seconds that no value exceeds, to 1.6 %."""
        return self.quantile(1.0)

    def below(self, bounds: Iterator[float] | tuple[float, ...]) -> list[int]:
        """How many values are at most each of `bounds`, seconds that rise."""
        found, sum_so_far, at = [], 0, 0
        for bound in bounds:
            while at < len(self.counts) and least(self.counts[at][0]) * self.tick <= bound:
                sum_so_far += self.counts[at][1]
                at += 1
            found.append(sum_so_far)
        return found


@dataclass(frozen=True)
class LoopStats:
    """What one loop has shown at one moment.

    pid: of its process.  number: of the loop in its process, from 1.  thread, syscall_thread: ids of the threads that
    run the loop and that serve its page, 0 if there is none or it is not known.  pages, cpu, reason: what serves the
    loop, on which CPU its syscall thread is (None: any, or there is none), and why.  state: one of STATES.  since: how
    many seconds the turn has lasted, or the sleep.  running: the name of the callback that runs, "" for none.
    counts: see stats_page.h; times of COUNTERS in seconds.  at: seconds of CLOCK_MONOTONIC.
    """

    pid: int
    number: int
    thread: int
    syscall_thread: int
    pages: str
    threads: bool
    cpu: int | None
    reason: str
    python: str
    state: str
    since: float
    running: str
    age: float
    at: float
    tick: float
    counts: dict[str, int | float]
    consistent: bool
    raw: bytes = field(repr=False)

    @property
    def made(self) -> float:
        """When, in seconds of CLOCK_MONOTONIC."""
        return self.at - self.age

    @property
    def spent(self) -> dict[str, float]:
        """Seconds busy, asleep and in calls, with what goes on now: a turn that never ends is counted while it lasts.

        What of that turn were calls is known when it ends.
        """
        found = {name: float(self.counts[name]) for name in ("busy", "asleep", "in_calls")}
        now = {"running": "busy", "asleep": "asleep"}.get(self.state)
        if now is not None:
            found[now] += self.since
        return found

    @property
    def turn(self) -> Histogram:
        """How long turns took, without their waits, since the loop was made."""
        return self._histogram(TURN_AT, None)

    @property
    def lag(self) -> Histogram:
        """How long, at most, what a turn found to do had waited for it."""
        return self._histogram(LAG_AT, None)

    @property
    def turn_total(self) -> float:
        """Seconds of all turns together."""
        return _total(self.raw, TURN_AT) * self.tick

    @property
    def lag_total(self) -> float:
        """Seconds of all lags together."""
        return _total(self.raw, LAG_AT) * self.tick

    def turn_after(self, before: LoopStats) -> Histogram:
        """The same of turns after `before`."""
        return self._histogram(TURN_AT, before.raw)

    def lag_after(self, before: LoopStats) -> Histogram:
        """The same of turns after `before`."""
        return self._histogram(LAG_AT, before.raw)

    def _histogram(self, at: int, before: bytes | None) -> Histogram:
        return Histogram(_buckets(self.raw, before, at + 16), self.tick)


def _total(raw: bytes, at: int) -> int:
    total: int = struct.unpack_from("=Q", raw, at)[0]
    return total


def _buckets(raw: bytes, before: bytes | None, at: int) -> list[tuple[int, int]]:
    """Most buckets are empty or have not changed: whole octaves are compared first."""
    found = []
    for start in range(0, 8 * BUCKETS, _SPARSE):
        here = raw[at + start : at + start + _SPARSE]
        there = _NOTHING if before is None else before[at + start : at + start + _SPARSE]
        if here == there:
            continue
        counts, counts_before = array("Q", here), array("Q", there)
        for i in range(OCTAVE):
            more = counts[i] - counts_before[i]
            if more > 0:
                found.append((start // 8 + i, more))
    return found


def _text(raw: bytes) -> str:
    text = raw.split(b"\0", 1)[0].decode("utf-8", "replace")
    return text if text.isprintable() else "".join(sign if sign.isprintable() else "?" for sign in text)


def _tick(ticks: tuple[int, int], clock_ns: tuple[int, int]) -> float:
    """Seconds; what is said of less than a microsecond, or more than a second for a tick, is nonsense."""
    passed, passed_ns = ticks[1] - ticks[0], clock_ns[1] - clock_ns[0]
    if passed <= 0 or passed_ns <= 0 or not 1e-3 < passed_ns / passed < 1e6:
        return 1 / NS
    return passed_ns / passed / NS


def parse(raw: bytes, now_ns: int) -> LoopStats:
    """Understand a copy of a page.  now_ns: CLOCK_MONOTONIC when it was made.  Raises BadPage."""
    if len(raw) != SIZE:
        raise BadPage(f"it has {len(raw)} bytes instead of {SIZE}")
    (magic, version, size, pid, number, thread, syscall_thread, cpu, state, running, _, pages, python, reason,
     made_ns, tick0, tick1, clock0, clock1, turn_began, asleep_since, sequence) = HEAD.unpack_from(raw)
    if magic != MAGIC:
        raise BadPage("it is not complete, or none at all")
    if version != VERSION or size != SIZE:
        raise BadPage(f"it is of version {version}, and this is for version {VERSION}")
    if state >= len(STATES):
        raise BadPage(f"its state {state} is not known")
    tick = _tick((tick0, tick1), (clock0, clock1))
    numbers = struct.unpack_from(f"={len(COUNTS)}Q", raw, COUNTS_AT)
    counts: dict[str, int | float] = dict(zip(COUNTS, numbers, strict=True))
    for name in TIMES:
        counts[name] *= tick
    began = asleep_since if STATES[state] == "asleep" else turn_began
    since = max(0.0, (now_ns - clock1) / NS + (tick1 - began) * tick)
    name_at = NAMES_AT + (running - 1) * NAME_SIZE
    known = STATES[state] == "running" and 0 < running <= NAMES
    return LoopStats(
        pid=pid, number=number, thread=max(0, thread), syscall_thread=max(0, syscall_thread), pages=_text(pages),
        threads=cpu != NO_THREAD, cpu=cpu if cpu >= 0 else None, reason=_text(reason), python=_text(python),
        state=STATES[state], since=since,
        running=_text(raw[name_at : name_at + NAME_SIZE]) if known else "",
        age=max(0.0, (now_ns - made_ns) / NS), at=now_ns / NS, tick=tick, counts=counts,
        consistent=sequence % 2 == 0, raw=raw)
