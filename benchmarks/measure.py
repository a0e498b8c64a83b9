"""The method: interleaved rounds with fresh servers, medians of per-round ratios, CPU time of all threads.

In each round every loop gets a fresh server process.  They are loaded in turn, in short windows, again and again, and
the order is reversed from window to window: on a shared machine the speed of a CPU changes within a second, and loops
that are measured seconds apart are measured on different machines.  A server is primed before it is measured: it has
seen connections come and go, as any server in service has.  What is compared are the ratios to the baseline within a
window; a round's ratio is the median of its windows', and the ratio shown is the median of the rounds'.  CPU time
is that of the server's whole process during the load generator's window: the loop's thread, and apart from it all other
threads, among which are io_uring's poller and the loop's own syscall threads, even if they have ended meanwhile.
"""

from __future__ import annotations

import os
import statistics
import struct
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks import databases
from benchmarks.errors import BenchmarkError, unanswered
from benchmarks.loadgen import LoadSpec, run_load
from benchmarks.loops import BASELINE, LoopChoice
from benchmarks.placement import Placement
from benchmarks.process import Server, running_server, thread_times
from benchmarks.servers.wsgi import DATABASE_PORT
from benchmarks.syscalls import Counted, count_syscalls
from benchmarks.workloads import Workload

MAX_SWING = 0.15
BUSY_LIMIT = 0.9
WINDOW_S = 0.15
WINDOW_WARMUP_S = 0.05
WINDOW_CONNECTIONS = 128
COUNTING_S = 1.0
PRIMING_S = 0.1


@dataclass(frozen=True)
class Settings:
    """How long and how often; times in seconds.

    `seconds` are those of a round and loop, all its windows together; `warmup` comes before the first window.
    """

    placement: Placement
    python: str
    rounds: int = 5
    seconds: float = 3.0
    warmup: float = 0.5
    window: float = WINDOW_S
    """How long a loop is loaded before it is another one's turn."""
    count_calls: bool = True
    retry: bool = True
    """Whether to measure again when the baseline swings."""
    database: databases.Database | None = None
    """The one that runs for a workload that needs it."""


@dataclass(frozen=True)
class Sample:
    """One server under load: in one window, or the medians of a round's.

    CPU in microseconds per request; latencies in microseconds.
    """

    rate: float
    cpu_loop_us: float
    cpu_other_us: float
    p50_us: float
    p90_us: float
    p99_us: float
    p999_us: float
    max_us: float
    errors: int
    load_busy: float
    unserved: int = 0
    """Connections that never got a reply: the server had fewer clients than it should have had."""
    threads: dict[str, float] = field(default_factory=dict)
    """CPU seconds of every thread but the main one over the whole run, by name; those that ended are not in it."""

    @classmethod
    def of_windows(cls, windows: Sequence[Sample], threads: dict[str, float]) -> Sample:
        """A round's figures: the medians of its windows; what went wrong is added up."""
        figures = {
            name: statistics.median(getattr(window, name) for window in windows)
            for name in ("rate", "cpu_loop_us", "cpu_other_us", "p50_us", "p90_us", "p99_us", "p999_us", "load_busy")
        }
        return cls(
            **figures,
            max_us=max(window.max_us for window in windows),
            errors=sum(window.errors for window in windows),
            unserved=max(window.unserved for window in windows),
            threads=threads,
        )

    @property
    def cpu_us(self) -> float:
        return self.cpu_loop_us + self.cpu_other_us


@dataclass
class Row:
    """All samples of one loop, or the reason why there are none."""

    choice: LoopChoice
    samples: list[Sample] = field(default_factory=list)
    """One for each round."""
    windows: list[list[Sample]] = field(default_factory=list)
    """The windows of each round."""
    ratios: list[float] = field(default_factory=list)
    """Requests per second against the baseline's of the same round."""
    calls: Counted | None = None
    unavailable: str | None = None
    notes: list[str] = field(default_factory=list)

    def values(self, name: str) -> list[float]:
        """One figure of every round."""
        return [float(getattr(sample, name)) for sample in self.samples]

    def median(self, name: str) -> float:
        return statistics.median(self.values(name))

    def against(self, other: Row, name: str = "rate") -> list[float]:
        """This loop's figure divided by the other's, round by round; empty when one of them is not available."""
        if self.unavailable or other.unavailable:
            return []
        return [
            statistics.median(getattr(one, name) / getattr(two, name) for one, two in zip(mine, theirs, strict=True))
            for mine, theirs in zip(self.windows, other.windows, strict=True)
        ]

    @property
    def ratio(self) -> float | None:
        return statistics.median(self.ratios) if self.ratios else None

    @property
    def calls_loop(self) -> float | None:
        """System calls of the loop's thread per request."""
        return self.calls.main / self.calls.requests if self.calls and self.calls.requests else None

    @property
    def calls_other(self) -> float | None:
        """System calls of all other threads per request."""
        if self.calls is None or self.calls.others is None or not self.calls.requests:
            return None
        return self.calls.others / self.calls.requests

    @property
    def swing(self) -> float:
        """How far the rates lie apart, as a share of their median."""
        rates = self.values("rate")
        return (max(rates) - min(rates)) / statistics.median(rates) if rates else 0.0

    def as_dict(self) -> dict[str, Any]:
        figures = ("rate", "cpu_loop_us", "cpu_other_us", "cpu_us", "p50_us", "p90_us", "p99_us", "p999_us")
        return {
            "loop": self.choice.label,
            "unavailable": self.unavailable,
            "ratio": self.ratio,
            "median": {name: self.median(name) for name in figures} if self.samples else None,
            "calls_loop": self.calls_loop,
            "calls_other": self.calls_other,
            "calls_method": self.calls.method if self.calls else None,
            "ratios": self.ratios,
            "samples": [asdict(sample) for sample in self.samples],
            "notes": self.notes,
        }


@dataclass
class Comparison:
    """One workload on several loops."""

    workload: Workload
    rows: list[Row]
    baseline: str
    notes: list[str] = field(default_factory=list)

    def row(self, label: str) -> Row | None:
        return next((row for row in self.rows if row.choice.label == label), None)

    @property
    def baseline_swing(self) -> float:
        row = self.row(self.baseline)
        return row.swing if row else 0.0

    def as_dict(self) -> dict[str, Any]:
        return {
            "workload": asdict(self.workload),
            "label": self.workload.label,
            "baseline": self.baseline,
            "baseline_swing": self.baseline_swing,
            "rows": [row.as_dict() for row in self.rows],
            "notes": self.notes,
        }


Progress = Callable[[str], None]
"""Is told, in a few words, what is about to be measured."""


def silent(_what: str) -> None:
    """Tells nobody."""


def load_spec(load: Workload, server: Server, settings: Settings, *, seconds: float, warmup: float) -> LoadSpec:
    """The load of `load` on `server`, with the server's CPU time read at both ends of the window."""
    return LoadSpec(
        mode=load.mode,
        port=server.port,
        path=load.path,
        tls=load.tls,
        size=load.size,
        connections=load.connections,
        rate=load.rate,
        seconds=seconds,
        warmup=warmup,
        timeout=2.0 if load.mode == "udp" else 5.0,
        cpu=settings.placement.load_cpu,
        fifo=settings.placement.fifo,
        server_pid=server.pid,
    )


def ask_client(
    load: Workload, server: Server, settings: Settings, *, seconds: float, warmup: float, counters: Sequence[int] = ()
) -> dict[str, Any]:
    """The program under test asks the database and measures itself; same figures as the load generator's.

    `load_busy` is the share of their CPUs' time that all of the database's processes together used.
    `counters` are read at both ends of the whole run.
    """
    base = settings.database
    assert base is not None

    def read() -> list[int]:
        return [struct.unpack("=Q", os.read(fd, 8))[0] for fd in counters]

    before, cpu, started = read(), base.cpu_ns(), time.monotonic_ns()
    limit = seconds + warmup + 20
    result = server.ask(
        limit, port=base.port, connections=load.connections, seconds=seconds, warmup=warmup
    )
    available = (time.monotonic_ns() - started) * len(settings.placement.database_cpus)
    result["load_busy"] = (base.cpu_ns() - cpu) / available
    if counters:
        result["counters"] = [now - then for now, then in zip(read(), before, strict=True)]
        result["requests"] = result["total_requests"]
    return result


def run_workload(
    load: Workload, server: Server, settings: Settings, *, seconds: float, warmup: float, counters: Sequence[int] = ()
) -> dict[str, Any]:
    """One window of load: from the load generator, or of the program's own making."""
    if load.database:
        return ask_client(load, server, settings, seconds=seconds, warmup=warmup, counters=counters)
    spec = load_spec(load, server, settings, seconds=seconds, warmup=warmup)
    return run_load(replace(spec, counters=tuple(counters)))


def prime(load: Workload, server: Server, settings: Settings) -> None:
    """A moment of load whose connections then close.

    Until its first connection has ended, stdlib asyncio maps and unmaps memory for each receive (of 256 KiB, glibc's
    threshold adapts when the first such block is freed whole, at the end of a stream) and is a third slower.
    """
    run_workload(load.varied(rate=0.0), server, settings, seconds=PRIMING_S, warmup=0.0)


def take_window(load: Workload, server: Server, settings: Settings, *, seconds: float, warmup: float) -> Sample:
    """Loads a server once."""
    result = run_workload(load, server, settings, seconds=seconds, warmup=warmup)
    server.check_alive()
    requests = result["requests"]
    if not requests:
        raise unanswered(result["errors"])
    latency = result["latency_us"]
    return Sample(
        rate=result["rate"],
        cpu_loop_us=result["server_main_ns"] / requests / 1e3,
        cpu_other_us=max(0, result["server_cpu_ns"] - result["server_main_ns"]) / requests / 1e3,
        p50_us=latency["p50"],
        p90_us=latency["p90"],
        p99_us=latency["p99"],
        p999_us=latency["p99.9"],
        max_us=latency["max"],
        errors=sum(result["errors"].values()),
        load_busy=result["load_busy"],
        unserved=result.get("unserved", 0),
    )


def other_threads(server: Server) -> dict[str, float]:
    """CPU seconds of the server's threads but the main one."""
    times = {f"{time.name}/{tid}": time.cpu_ns / 1e9 for tid, time in thread_times(server.pid).items()}
    return {name: cpu for name, cpu in times.items() if not name.endswith(f"/{server.pid}")}


def count_calls(load: Workload, choice: LoopChoice, settings: Settings) -> Counted:
    """System calls under load in a short run of its own, on a fresh server."""
    with running_server(load.server, choice, python=settings.python, cpu=settings.placement.server_cpu) as server:
        prime(load, server, settings)

        def run(counters: tuple[int, ...]) -> dict[str, Any]:
            return run_workload(load, server, settings, seconds=COUNTING_S, warmup=0.3, counters=counters)

        return count_syscalls(server, run)


@contextmanager
def _reason_kept(row: Row) -> Iterator[None]:
    """A loop that fails is out of the comparison, and its row says why."""
    try:
        yield
    except BenchmarkError as error:
        row.unavailable = str(error)


def _run_round(rows: Sequence[Row], load: Workload, settings: Settings, number: int, progress: Progress) -> None:
    """One round: a fresh server for each loop, and windows of load on them in turn."""
    # Each window makes its connections anew: many of them need more time until all are served.
    stretch = max(1.0, load.connections / WINDOW_CONNECTIONS)
    count = max(1, round(settings.seconds / (settings.window * stretch)))
    servers: dict[str, Server] = {}
    taken: dict[str, list[Sample]] = {row.choice.label: [] for row in rows}
    with ExitStack() as stack:
        for row in rows:
            label = row.choice.label
            progress(f"{load.label} · round {number + 1} of {settings.rounds} · {label}")
            if row.unavailable is None:
                with _reason_kept(row):
                    server = running_server(
                        load.server, row.choice, python=settings.python, cpu=settings.placement.server_cpu
                    )
                    servers[label] = stack.enter_context(server)
                    prime(load, servers[label], settings)
        for window in range(count):
            warmup = min(settings.warmup, WINDOW_WARMUP_S * stretch) if window else settings.warmup
            for row in rows if (number + window) % 2 == 0 else rows[::-1]:
                label = row.choice.label
                if row.unavailable is None:
                    with _reason_kept(row):
                        sample = take_window(
                            load, servers[label], settings, seconds=settings.seconds / count, warmup=warmup
                        )
                        taken[label].append(sample)
        for row in rows:
            if row.unavailable is None:
                label = row.choice.label
                row.windows.append(taken[label])
                row.samples.append(Sample.of_windows(taken[label], other_threads(servers[label])))


def _add_ratios(rows: Sequence[Row], baseline: Row) -> None:
    for row in rows:
        row.ratios = row.against(baseline)


def _count_all(rows: Sequence[Row], load: Workload, settings: Settings, progress: Progress) -> list[str]:
    notes: dict[str, list[str]] = {}
    for row in rows:
        if row.unavailable is None:
            progress(f"{load.label} · counting system calls · {row.choice.label}")
            try:
                row.calls = count_calls(load, row.choice, settings)
            except BenchmarkError as error:
                notes.setdefault(str(error), []).append(row.choice.title)
    return [f"{', '.join(labels)}: {reason}" for reason, labels in notes.items()]


def _warnings(comparison: Comparison) -> list[str]:
    notes = []
    if comparison.baseline_swing > MAX_SWING:
        share = comparison.baseline_swing
        notes.append(f"{comparison.baseline}'s own figure swung by {share:.0%}: this run is not to be trusted")
    for row in comparison.rows:
        if not row.samples:
            continue
        if row.median("load_busy") > BUSY_LIMIT:
            notes.append(f"{row.choice.title}: the load generator was busy all the time and may be what was measured")
        errors = sum(sample.errors for sample in row.samples)
        if errors:
            notes.append(f"{row.choice.title}: {errors} requests failed")
        unserved = max(sample.unserved for sample in row.samples)
        if unserved:
            notes.append(f"{row.choice.title}: {unserved} connections never got a reply")
    return notes


def _run_once(
    load: Workload, choices: Sequence[LoopChoice], settings: Settings, baseline: str, progress: Progress
) -> Comparison:
    rows = [Row(choice) for choice in choices]
    for row in rows:
        if row.choice.pinned and settings.placement.shared:
            row.unavailable = "a pinned syscall thread needs a second CPU"
    for number in range(settings.rounds):
        _run_round(rows, load, settings, number, progress)
    comparison = Comparison(load, rows, baseline)
    base = comparison.row(baseline)
    if base is not None:
        _add_ratios(rows, base)
    comparison.notes = _warnings(comparison)
    return comparison


@contextmanager
def http_server(*, place: databases.Place) -> Iterator[databases.Database]:
    """A quick HTTP server for programs that ask one."""
    choice = LoopChoice.parse(BASELINE)
    with running_server("static", choice, python=sys.executable, cpu=place.cpus[0]) as server:
        yield databases.Database(server.port, server.pid, Path(), Path())


@contextmanager
def with_database(load: Workload, settings: Settings) -> Iterator[Settings]:
    """The settings, with whom the workload asks, in the load generator's place, until the block ends.

    A database behind a server, which the load generator asks, has that one's CPU, and yields to it.
    """
    starts = {"postgresql": databases.postgresql, "mariadb": databases.mariadb, "http": http_server}
    placement = settings.placement
    if load.behind:
        with starts[load.behind](place=databases.Place(placement.database_cpus)) as base:
            os.environ[DATABASE_PORT] = str(base.port)
            try:
                yield settings
            finally:
                del os.environ[DATABASE_PORT]
        return
    if not load.database:
        yield settings
        return
    with starts[load.database](place=databases.Place(placement.database_cpus, placement.fifo)) as base:
        yield replace(settings, database=base)


def compare(
    load: Workload,
    choices: Sequence[LoopChoice],
    settings: Settings,
    *,
    baseline: str = BASELINE,
    progress: Progress = silent,
) -> Comparison:
    """Measures `load` on every loop.

    When the baseline swings by more than 15 % the whole comparison is run once more and the steadier one is kept.
    """
    with with_database(load, settings) as ready:
        return _compare(load, choices, ready, baseline, progress)


def _compare(
    load: Workload, choices: Sequence[LoopChoice], settings: Settings, baseline: str, progress: Progress
) -> Comparison:
    comparison = _run_once(load, choices, settings, baseline, progress)
    if settings.retry and comparison.baseline_swing > MAX_SWING:
        progress(f"{baseline} swung by {comparison.baseline_swing:.0%}; measuring again")
        again = _run_once(load, choices, settings, baseline, progress)
        comparison, dropped = sorted((comparison, again), key=lambda c: c.baseline_swing)
        comparison.notes.append(f"measured twice; in the other run {baseline} swung by {dropped.baseline_swing:.0%}")
    if settings.count_calls:
        comparison.notes += _count_all(comparison.rows, load, settings, progress)
    return comparison
