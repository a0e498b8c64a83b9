"""The scheduler's choices against fixed ones, with others about: ``python -m benchmarks.scenarios``.

In each scenario four servers take turns under the same load: served by their own thread, by a syscall thread on the
second CPU, `threads=auto`, and by their own thread again, which tells how far apart two runs of the same are.  All may
use both CPUs; the load generator has the second (where there are three, one of its own).  Each round has fresh servers.
Before its first window `auto` is loaded for long enough to have a trial: what is compared is what it has decided, and
what deciding goes on to cost.  Ratios are taken within a window, their median is held against the wanted.
"""

from __future__ import annotations

import argparse
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks import hands, idle, look, tables
from benchmarks.errors import BenchmarkError, unanswered
from benchmarks.groups import Group
from benchmarks.loadgen import LoadSpec, build_load, run_load
from benchmarks.loops import LoopChoice
from benchmarks.placement import Placement, find_python
from benchmarks.process import Server, process_cpu_ns, running_server, thread_times
from benchmarks.workloads import Workload, workload

OWN, PINNED, AUTO, AGAIN = "own", "pinned", "auto", "own again"
FIRST_WARMUP_S, WARMUP_S, WINDOW_S = 2.5, 0.2, 0.5
UNSURE = 0.08
"""How likely a median may lie outside the interval that is told of it."""
BACK_MOST_S = 0.1
PAUSE_S, FULL_S = 1.0, 2.0
IDLE_S, IDLE_CONNECTIONS, IDLE_MOST = 5.0, 1000, 0.1
"""Of a sleeping loop no more than a tenth of a per cent of a CPU can be told from nothing."""
SPIN = "import sys, time\ntime.sleep(float(sys.argv[1]))\nbegan = time.monotonic()\nprint(began, flush=True)\n" \
       "while time.monotonic() < began + float(sys.argv[2]): pass\n"
SPUN_AT = "spun at"
"""No figure: when a process has begun to spin, by the monotonic clock."""

Measured = dict[str, float]
"""What one window gave: the figure's name, and its value."""

COUNTED = ("trials", "trials_won", "alarms_late", "alarms_run_delay", "alarms_throttled", "alarms_steal")
MORE_IS_BETTER = {"requests/s": True, "requests/s, full load": True}


@dataclass(frozen=True)
class Scenario:
    """What goes on, and what `auto` must reach of the better fixed choice."""

    name: str
    title: str
    wanted: float
    window: Callable[[Bench, Sequence[Server], float], Measured]
    """Loads the servers of one choice, after a warm-up of so many seconds."""
    ways: tuple[str, ...] = (OWN, PINNED, AUTO, AGAIN)
    fixed: tuple[str, ...] = (OWN, PINNED)
    """Of which the better one is what `auto` is held against."""
    learns: bool = False
    """`auto` is loaded for long before each window, so that it has tried a thread anew."""
    servers: int = 1
    one_cpu: bool = False
    quota: float | None = None


@dataclass
class Bench:
    """What is common to all windows."""

    load: Workload
    placement: Placement
    python: str
    seconds: float
    windows: int
    rounds: int = 1
    peak: float = 0.0
    """Requests per second of the own thread: what rates are shares of."""

    @property
    def cpus(self) -> tuple[int, ...]:
        return tuple(dict.fromkeys((self.placement.server_cpu, self.placement.thread_cpu)))

    def spec(self, server: Server, warmup: float, *, fifo: int | None = None, rate: float = 0.0) -> LoadSpec:
        """A load on `server`; fifo: None for the usual priority."""
        return LoadSpec(
            mode=self.load.mode, port=server.port, path=self.load.path, size=self.load.size,
            connections=self.load.connections, seconds=self.seconds, warmup=warmup, rate=rate,
            cpu=self.placement.load_cpu, fifo=self.placement.fifo if fifo is None else fifo, server_pid=server.pid,
        )  # fmt: skip


def _rate(result: dict[str, Any]) -> float:
    if not result["requests"]:
        raise unanswered(result["errors"])
    return float(result["rate"])


def _cpu_us(result: dict[str, Any]) -> float:
    _rate(result)
    return float(result["server_cpu_ns"] / result["requests"] / 1e3)


def _closed(fifo: int | None) -> Callable[[Bench, Sequence[Server], float], Measured]:
    def window(bench: Bench, servers: Sequence[Server], warmup: float) -> Measured:
        return {"requests/s": _rate(run_load(bench.spec(servers[0], warmup, fifo=fifo)))}

    return window


def light(bench: Bench, servers: Sequence[Server], warmup: float) -> Measured:
    """At a fixed rate."""
    result = run_load(bench.spec(servers[0], warmup, rate=0.3 * bench.peak))
    return {"CPU µs/request": _cpu_us(result), "p99 µs": result["latency_us"]["p99"]}


def disturbed(bench: Bench, servers: Sequence[Server], warmup: float) -> Measured:
    """For the second half of the window somebody spins on the second CPU."""
    half, bench = bench.seconds, replace(bench, seconds=2 * bench.seconds)
    command = ["taskset", "-c", str(bench.placement.thread_cpu), sys.executable, "-S", "-c", SPIN]
    with subprocess.Popen([*command, str(warmup + half), str(half)], stdout=subprocess.PIPE, text=True) as spinner:
        try:
            rate = _rate(run_load(bench.spec(servers[0], warmup)))
            assert spinner.stdout is not None
            return {"requests/s": rate, SPUN_AT: float(spinner.stdout.readline())}
        finally:
            spinner.kill()


def changing(bench: Bench, servers: Sequence[Server], warmup: float) -> Measured:
    """Nothing, a tenth of the peak, then as much as possible, from its start on.  The first time `auto` has seen a full
    load before: it is the change that is measured.
    """
    if warmup >= FIRST_WARMUP_S:
        run_load(bench.spec(servers[0], warmup))
    time.sleep(PAUSE_S)
    low = run_load(bench.spec(servers[0], 0.1, rate=0.1 * bench.peak))
    full = run_load(replace(bench, seconds=FULL_S).spec(servers[0], 0.0))
    return {"CPU µs/request, 10 %": _cpu_us(low), "requests/s, full load": _rate(full)}


def together(bench: Bench, servers: Sequence[Server], warmup: float) -> Measured:
    """A load on each, at the same time; the sum."""
    each = replace(bench, load=bench.load.varied(connections=max(1, bench.load.connections // len(servers))))
    with ThreadPoolExecutor(len(servers)) as pool:
        results = list(pool.map(run_load, [each.spec(server, warmup, fifo=0) for server in servers]))
    return {"requests/s": sum(map(_rate, results))}


SCENARIOS = (
    Scenario("light", "load generator at 30 % of the peak", 0.97, light),
    Scenario("normal", "load generator on the second CPU, normal priority", 0.97, _closed(0)),
    Scenario("real-time", "the same at real-time priority", 0.97, _closed(None)),
    Scenario("spinning", "a process that spins on the second CPU, half of the time", 0.95, disturbed,
             fixed=(OWN,), learns=True),
    Scenario("one-cpu", "`taskset` to one CPU", 0.99, _closed(None), (OWN, AUTO, AGAIN), one_cpu=True),
    Scenario("quota-1", "cgroup quota of 1.0 CPU", 0.99, _closed(None), (OWN, AUTO, AGAIN), quota=1.0),
    Scenario("quota-half", "cgroup quota of 0.5 CPU", 0.99, _closed(None), (OWN, AUTO, AGAIN), quota=0.5),
    Scenario("changing", "load that changes: idle, 10 %, full", 0.95, changing),
    Scenario("workers", "four worker processes", 0.97, together, servers=4),
)
IDLE, HANDS, LOOK = "idle", "hands", "look"


@dataclass(frozen=True)
class Interval:
    """A median, and where it lies with a likelihood of 1 - UNSURE whatever the values' distribution; all values' range,
    where they are too few.
    """

    median: float
    low: float
    high: float

    @staticmethod
    def of(values: Sequence[float]) -> Interval:
        ranked, aside = sorted(values), 0
        while 2 * sum(math.comb(len(ranked), less) for less in range(aside + 2)) <= UNSURE * 2 ** len(ranked):
            aside += 1
        return Interval(statistics.median(ranked), ranked[aside], ranked[-1 - aside])

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"


@dataclass
class Found:
    """One scenario on one page: the windows of each way, in the order in which they were taken."""

    scenario: Scenario
    page: str
    windows: dict[str, list[Measured]] = field(default_factory=dict)
    counters: dict[str, int] = field(default_factory=dict)
    """What `auto` has counted of its trials."""
    decisions: list[tuple[float, str]] = field(default_factory=list)
    unavailable: str | None = None

    def figures(self) -> list[str]:
        return [figure for figure in self.windows[OWN][0] if figure != SPUN_AT]

    def back_after(self) -> list[float]:
        """How long after a process had begun to spin on its thread's CPU `auto` was back on its own thread, in seconds:
        of each window in which a syscall thread served by then."""
        delays = []
        for window in self.windows[AUTO]:
            began = window.get(SPUN_AT, 0.0)
            before = [text for at, text in self.decisions if at < began]
            after = [at for at, text in self.decisions if at >= began and text.startswith("own thread")]
            if began and before and before[-1].startswith("syscall thread") and after:
                delays.append(after[0] - began)
        return delays

    def median(self, way: str, figure: str) -> float | None:
        values = [window[figure] for window in self.windows.get(way, ())]
        return statistics.median(values) if values else None

    def better(self, figure: str) -> str:
        """The better of the fixed choices: that with the better median."""
        fixed = [way for way in self.scenario.fixed if self.windows.get(way)]
        best = max if MORE_IS_BETTER.get(figure) else min
        return best(fixed, key=lambda way: self.median(way, figure) or 0.0)

    def ratios(self, figure: str, way: str, fixed: str) -> list[float]:
        """What `way` reached of a fixed choice, window by window; above 1: more."""
        pairs = zip(self.windows[way], self.windows[fixed], strict=True)
        more = MORE_IS_BETTER.get(figure, False)
        return [one[figure] / other[figure] if more else other[figure] / one[figure] for one, other in pairs]

    def reached(self, figure: str) -> Interval:
        """What `auto` reached of the better fixed choice."""
        return Interval.of(self.ratios(figure, AUTO, self.better(figure)))

    def same(self, figure: str) -> Interval | None:
        """What the own thread reached of itself: as far from 1 as two runs of the same are."""
        return Interval.of(self.ratios(figure, AGAIN, OWN)) if self.windows.get(AGAIN) else None


def choice_of(way: str, page: str, placement: Placement) -> LoopChoice:
    threads = {PINNED: str(placement.thread_cpu), AUTO: "auto"}.get(way, "off")
    return LoopChoice.parse(f"flexsc:{page}:{threads}")


@contextmanager
def running(bench: Bench, scenario: Scenario, page: str) -> Iterator[dict[str, list[Server]]]:
    """The servers of each way, in groups of their own where there is a quota."""
    cpus = (bench.placement.server_cpu,) if scenario.one_cpu else bench.cpus
    with ExitStack() as stack:
        servers: dict[str, list[Server]] = {}
        for way in scenario.ways:
            for _ in range(scenario.servers):
                choice = choice_of(way, page, bench.placement)
                start = running_server(bench.load.server, choice, python=bench.python, cpu=cpus)
                server = stack.enter_context(start)
                servers.setdefault(way, []).append(server)
                if scenario.quota is not None:
                    stack.enter_context(Group(f"flexsc-{server.pid}", scenario.quota)).take(server.pid)
        yield servers


def measure(bench: Bench, scenario: Scenario, page: str) -> Found:
    """All windows of one scenario."""
    found = Found(scenario, page, {way: [] for way in scenario.ways})
    try:
        for _ in range(bench.rounds):
            with running(bench, scenario, page) as servers:
                measure_round(bench, found, servers)
    except (BenchmarkError, OSError) as error:
        found.unavailable = str(error)
    return found


def measure_round(bench: Bench, found: Found, servers: dict[str, list[Server]]) -> None:
    """The windows of fresh servers, to and fro."""
    scenario = found.scenario
    for number in range(bench.windows):
        for way in scenario.ways if number % 2 == 0 else scenario.ways[::-1]:
            warmup = FIRST_WARMUP_S if way == AUTO and (number == 0 or scenario.learns) else WARMUP_S
            found.windows[way].append(scenario.window(bench, servers[way], warmup))
    for server in servers[AUTO]:
        found.decisions += server.decisions()
        stats = server.stats() or {}
        for name in COUNTED:
            found.counters[name] = found.counters.get(name, 0) + int(stats.get(name, 0))


@dataclass(frozen=True)
class Quiet:
    """What servers did that had nothing to do."""

    page: str
    cpu_percent: dict[str, float]
    threads: dict[str, int]
    """Threads of the process: of `auto` as many as of the own thread, or one is left running."""


def measure_idle(bench: Bench, page: str, seconds: float) -> Quiet:
    """All ways at once, after a load that `auto` may have tried a thread under, with idle connections."""
    scenario = replace(SCENARIOS[1], ways=(OWN, AUTO))
    with running(bench, scenario, page) as servers, ExitStack() as stack:
        for (server,) in servers.values():
            run_load(bench.spec(server, FIRST_WARMUP_S))
            stack.enter_context(idle.idle_connections(server.port, IDLE_CONNECTIONS, silent_after=server.pid))
        time.sleep(1.0)
        pids = {way: server.pid for way, (server,) in servers.items()}
        before = {way: process_cpu_ns(pid) for way, pid in pids.items()}
        time.sleep(seconds)
        percent = {way: 100 * (process_cpu_ns(pid) - before[way]) / (seconds * 1e9) for way, pid in pids.items()}
        return Quiet(page, percent, {way: len(thread_times(pid)) for way, pid in pids.items()})


# ---- what was found

COLUMNS = ("scenario", "page", "figure", "own thread", "syscall thread", "auto", "of the better", "wanted", "",
           "own again, of own", "trials, won, alarms")  # fmt: skip


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}" if value >= 1000 else f"{value:.1f}"


def rows_of(found: Found) -> list[tuple[str, ...]]:
    """A row for each figure of a scenario; what is missed is in bold."""
    title, wanted = found.scenario.title, f"≥ {found.scenario.wanted:.2f}"
    if found.unavailable:
        return [(title, found.page, "n/a", "", "", "", "", wanted, "–", "", "")]
    alarms = sum(count for name, count in found.counters.items() if name.startswith("alarms"))
    trials = f"{found.counters.get('trials', 0)}, {found.counters.get('trials_won', 0)}, {alarms}"
    rows = []
    for figure in found.figures():
        reached = found.reached(figure)
        values = [_number(found.median(way, figure)) for way in (OWN, PINNED, AUTO)]
        beside = f"{reached}, {found.better(figure)}"
        rows.append((title, found.page, figure, *values, beside, wanted, verdict(reached, found.scenario.wanted),
                     str(found.same(figure) or "–"), trials))  # fmt: skip
    return rows + back_rows(found)


def verdict(reached: Interval, wanted: float) -> str:
    """A miss that the windows cannot tell from none says so."""
    if reached.median >= wanted:
        return "met"
    return "missed, not for certain" if reached.high >= wanted else "**missed**"


def back_rows(found: Found) -> list[tuple[str, ...]]:
    """How soon `auto` is back on its own thread, where somebody has spun on the other CPU."""
    if not any(SPUN_AT in window for window in found.windows[AUTO]):
        return []
    delays = found.back_after()
    met = "–" if not delays else "met" if max(delays) <= BACK_MOST_S else "**missed**"
    told = ", ".join(f"{1e3 * delay:.0f}" for delay in delays) or "never had a thread then"
    return [(found.scenario.title, found.page, "own thread again, ms", "–", "–", told, "",
             f"≤ {1e3 * BACK_MOST_S:.0f}", met, "", "")]  # fmt: skip


def idle_row(quiet: Quiet) -> tuple[str, ...]:
    """No CPU that can be measured, and no thread left."""
    met = quiet.cpu_percent[AUTO] <= IDLE_MOST and quiet.threads[AUTO] <= quiet.threads[OWN]
    own, auto = (f"{quiet.cpu_percent[way]:.3f}, {quiet.threads[way]}" for way in (OWN, AUTO))
    title = f"idle, {IDLE_CONNECTIONS:,} connections, after a load"
    return (title, quiet.page, "% of a CPU, threads", own, "–", auto, "", f"≤ {IDLE_MOST}, as own",
            "met" if met else "**missed**", "", "")  # fmt: skip


def measure_hands(bench: Bench, page: str) -> hands.HeldUp:
    """With the echo server, whose turns are short: what a change adds to them is seen best."""
    echo = replace(bench, load=workload("echo"))
    scenario = replace(SCENARIOS[1], ways=(AUTO,))
    with running(echo, scenario, page) as servers:
        return hands.measure(servers[AUTO][0], bench.placement.thread_cpu, echo.spec(servers[AUTO][0], 0.5, fifo=0))


def hands_row(page: str, held_up: hands.HeldUp) -> tuple[str, ...]:
    """The change itself, and the turns after it."""
    title = f"changing hands, {hands.CONNECTIONS:,} connections, {hands.BUSY} busy: to a new thread, to a thread, back"
    met = "met" if held_up.most <= hands.HELD_UP_MOST_MS else "**missed**"
    told = f"change {held_up.told(held_up.calls)}; longest turn after it {held_up.told(held_up.turns)} more"
    return (title, page, "ms", "–", "–", told, "", f"≤ {hands.HELD_UP_MOST_MS:g}", met, "", "")


def look_row(page: str, look_ns: float) -> tuple[str, ...]:
    """The same whichever the page."""
    percent = look.percent(look_ns)
    met = "met" if percent <= look.PERCENT_MOST else "**missed**"
    return ("looks of the scheduler", page, "µs each, % of a busy loop's CPU", "–", "–",
            f"{look_ns / 1e3:.1f}, {percent:.3f}", "", f"≤ {look.PERCENT_MOST} %", met, "", "")  # fmt: skip


def measure_specials(bench: Bench, page: str, only: Sequence[str], result: tables.Result) -> list[tuple[str, ...]]:
    """The rows that compare nothing."""
    specials: dict[str, Callable[[], tuple[str, ...]]] = {
        IDLE: lambda: idle_row(measure_idle(bench, page, IDLE_S)),
        LOOK: lambda: look_row(page, look.measure()),
        HANDS: lambda: hands_row(page, measure_hands(bench, page)),
    }
    rows = []
    for name in [name for name in specials if name in only]:
        try:
            rows.append(specials[name]())
        except (BenchmarkError, OSError) as error:
            result.notes.append(f"{name}, {page} page: n/a because {error}")
    return rows


def run(args: argparse.Namespace, console: Console) -> tables.Result:
    placement = Placement.choose()
    build_load()
    if placement.shared:
        raise BenchmarkError("there is one CPU only: the scheduler has nothing to choose from")
    python = find_python(args.python)
    result = tables.Result("The scheduler", notes=list(placement.notes))
    for name in args.workload:
        bench = Bench(workload(name), placement, python, args.seconds, args.windows, args.rounds)
        rows: list[tuple[str, ...]] = []
        for page in args.pages:
            with running(bench, replace(SCENARIOS[1], ways=(OWN,)), page) as servers:
                bench.peak = _rate(run_load(bench.spec(servers[OWN][0], WARMUP_S)))
            for scenario in SCENARIOS:
                if scenario.name not in args.only:
                    continue
                with console.status(f"{bench.load.title} · {page} page · {scenario.title}"):
                    found = measure(bench, scenario, page)
                rows += rows_of(found)
                if found.unavailable:
                    result.notes.append(f"{scenario.title}: n/a because {found.unavailable}")
                result.raw[f"{name} {page} {scenario.name}"] = {**found.windows, "decisions": found.decisions}
            with console.status(f"{bench.load.title} · {page} page · idle, changing hands"):
                rows += measure_specials(bench, page, args.only, result)
        title = f"{bench.load.label}: what `auto` reached of the better fixed choice"
        result.tables.append(tables.Table(title, COLUMNS, tuple(rows), (
            "of the better: the median of the windows' ratios, and the interval in which it lies for all that so many "
            "windows tell",
            "own again, of own: two runs of the same",
            "alarms: those of `auto`, of all kinds",
        )))
    return result


def parse_args() -> argparse.Namespace:
    names = [*(scenario.name for scenario in SCENARIOS), IDLE, HANDS, LOOK]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scenarios", description=__doc__)
    parser.add_argument("--workload", nargs="+", default=["hello"], help="hello (default), echo, ...")
    parser.add_argument("--pages", nargs="+", default=["kernel", "user"])
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--rounds", type=int, default=2, help="with fresh servers each")
    parser.add_argument("--windows", type=int, default=3, help="of each choice in a round")
    parser.add_argument("--seconds", type=float, default=WINDOW_S, help="of a window, the warm-up not counted")
    parser.add_argument("--python", help="version of the servers' interpreter, such as 3.13")
    parser.add_argument("--json", type=Path, default=tables.RESULTS / "scenarios.json", metavar="FILE")
    args = parser.parse_args()
    if min(args.windows, args.rounds) < 1 or not args.seconds > 0:
        parser.error("--windows must be at least 1, --seconds above 0")
    return args


if __name__ == "__main__":
    sys.exit(tables.command(run, parse_args))
