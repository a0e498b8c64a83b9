"""More connections: ``python -m benchmarks.connections``, rate, CPU per request, p99 and memory from 1 to 20,000.

A protocol echo and aiohttp "hello", with every connection waiting for one answer all the time.  For each number of
connections each loop has a fresh server, and they are loaded in turn.  Memory is the most that was resident under load,
beyond what the server had before its first connection, and what a connection holds on which nothing happens.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from rich.console import Console

from benchmarks import idle, report, tables
from benchmarks.errors import BenchmarkError, unanswered
from benchmarks.loadgen import build_load, run_load
from benchmarks.loops import BASELINE, LoopChoice
from benchmarks.measure import BUSY_LIMIT, Progress, Settings, load_spec, silent
from benchmarks.picture import COLOURS, OWN, THREAD
from benchmarks.placement import Placement, find_python
from benchmarks.process import Server, most_resident_bytes, resident_bytes, running_server, start_counting_most
from benchmarks.workloads import Workload, workload

COUNTS = (1, 64, 1024, 8192, 20000)
WORKLOADS = ("echo", "hello")
SPARE_FILES = 100
IDLE_MOST = 0.7
"""Wanted of an idle connection's memory: so much of the baseline's at most."""
CONNECT_LIMIT_S = 20.0
USER_PAGE = "#c08a2e"


@dataclass(frozen=True)
class Reading:
    """One window on one server.  CPU and latency in microseconds, memory in bytes."""

    rate: float
    cpu_us: float
    p99_us: float
    grown: int
    """Most resident memory under load beyond that before the first connection."""
    errors: int
    unserved: int
    load_busy: float


@dataclass
class Cell:
    """One loop with so many connections: windows that were taken in turn with those of the other loops."""

    choice: LoopChoice
    connections: int
    readings: list[Reading] = field(default_factory=list)
    idle_bytes: float | None = None
    """Memory of a connection on which nothing happens; None where there are too few to tell."""
    unavailable: str | None = None

    def median(self, name: str) -> float:
        return statistics.median(float(getattr(reading, name)) for reading in self.readings)

    def against(self, other: Cell, name: str) -> float | None:
        """The median of the ratios within the windows."""
        pairs = list(zip(self.readings, other.readings, strict=False))
        if self.unavailable or other.unavailable or not pairs:
            return None
        return statistics.median(
            float(getattr(mine, name)) / max(float(getattr(theirs, name)), 1e-9) for mine, theirs in pairs
        )


@dataclass(frozen=True)
class Span:
    """How long a number of connections is loaded."""

    windows: int
    seconds: float
    warmup: float

    @classmethod
    def of(cls, connections: int, share: float) -> Span:
        """Each connection must have had answers before the window, and several in it.  share: of the usual time."""
        windows = 6 if connections <= 1024 else 2
        seconds = max(0.15, connections / 10000) if connections <= 1024 else 0.6 + connections / 20000
        return cls(max(1, round(windows * share)), seconds, max(0.1, connections / 20000))


def possible(counts: Sequence[int], limit: int) -> tuple[list[int], list[str]]:
    """`counts`, those that need more open files than `limit` brought down to it; and what has to be said of it."""
    most = limit - SPARE_FILES
    notes = [
        f"{count:,} connections need {count + SPARE_FILES:,} open files in one process, and the hard limit "
        f"(ulimit -Hn) is {limit:,}: measured with {most:,}"
        for count in counts
        if count > most
    ]
    if most < 1:
        raise BenchmarkError(f"the limit of open files is {limit}: nothing can be measured")
    return sorted({min(count, most) for count in counts}), notes


def file_limit(wanted: int) -> int:
    """Raises the limit of open files as far as it is wanted and allowed; returns it."""
    wanted += SPARE_FILES
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, wanted))
            return wanted
        except (ValueError, OSError):
            pass  # not permitted, or more than fs.nr_open
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def take(load: Workload, server: Server, settings: Settings, span: Span, before: int) -> Reading:
    """One window."""
    start_counting_most(server.pid)
    spec = load_spec(load, server, settings, seconds=span.seconds, warmup=span.warmup)
    result = run_load(replace(spec, timeout=CONNECT_LIMIT_S))
    server.check_alive()
    requests = result["requests"]
    if not requests:
        raise unanswered(result["errors"])
    return Reading(
        rate=result["rate"],
        cpu_us=result["server_cpu_ns"] / requests / 1e3,
        p99_us=result["latency_us"]["p99"],
        grown=max(0, most_resident_bytes(server.pid) - before),
        errors=sum(result["errors"].values()),
        unserved=result["unserved"],
        load_busy=result["load_busy"],
    )


def measure_idle(load: Workload, choice: LoopChoice, settings: Settings) -> float:
    """Bytes for each of the load's connections, on a server of their own."""
    placement = settings.placement
    with running_server(load.server, choice, python=settings.python, cpu=placement.server_cpu) as server:
        return idle.bytes_each(server, load.connections)


def measure(
    load: Workload, choices: Sequence[LoopChoice], settings: Settings, share: float, progress: Progress
) -> list[Cell]:
    """All loops with one number of connections."""
    cells = [Cell(choice, load.connections) for choice in choices]
    span = Span.of(load.connections, share)
    servers: dict[int, Server] = {}
    before: dict[int, int] = {}
    with ExitStack() as stack:
        def attempt(cell: Cell, number: int) -> None:
            if number < 0:
                placement = settings.placement
                starting = running_server(load.server, cell.choice, python=settings.python, cpu=placement.server_cpu)
                server = servers[id(cell)] = stack.enter_context(starting)
                run_load(replace(load_spec(load.varied(connections=16), server, settings, seconds=0.1, warmup=0)))
                before[id(cell)] = resident_bytes(server.pid)
            else:
                cell.readings.append(take(load, servers[id(cell)], settings, span, before[id(cell)]))

        for number in range(-1, span.windows):
            for cell in cells if number % 2 else cells[::-1]:
                if cell.unavailable is None:
                    progress(f"{load.label} · window {number + 1} of {span.windows} · {cell.choice.label}")
                    try:
                        attempt(cell, number)
                    except BenchmarkError as error:
                        cell.unavailable = str(error)
    if load.connections >= 1024:
        for cell in cells:
            if cell.unavailable is None:
                progress(f"{load.label} · idle · {cell.choice.label}")
                cell.idle_bytes = measure_idle(load, cell.choice, settings)
    return cells


# ---- what was found


def _times(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _memory(cell: Cell, base: Cell) -> tuple[str, str]:
    grown = f"{cell.median('grown') / 2**20:.1f} MiB"
    ratio = cell.against(base, "grown")
    if cell is not base and ratio is not None and base.median("grown") > 2**20:
        grown += f" ({_bold(ratio, more_is_better=False)})"
    if cell.idle_bytes is None:
        return grown, "–"
    if not base.idle_bytes or cell is base:
        return grown, f"{cell.idle_bytes:,.0f} B"
    share = cell.idle_bytes / base.idle_bytes
    return grown, f"{cell.idle_bytes:,.0f} B ({f'**{share:.2f}**' if share > IDLE_MOST else f'{share:.2f}'})"


def _growth(cell: Cell, base: Cell, first: Cell | None, first_base: Cell | None) -> str:
    """By how much a request has become dearer than with few connections, held against what it has for the baseline."""
    if first is None or first_base is None or cell.connections <= first.connections or first_base.unavailable:
        return "–"
    mine, theirs = cell.against(base, "cpu_us"), first.against(first_base, "cpu_us")
    return "–" if mine is None or theirs is None else _bold(mine / theirs, more_is_better=False)


def table(title: str, cells: Sequence[Cell], baseline: str) -> tables.Table:
    """A row for each number of connections and loop.  What loses to the baseline, or misses what is wanted, is bold."""
    base = {cell.connections: cell for cell in cells if cell.choice.label == baseline}
    few = {cell.choice.label: cell for cell in cells if cell.connections == 64}
    rows, notes = [], []
    for cell in cells:
        name, beside = cell.choice.title, base.get(cell.connections, cell)
        if cell.unavailable or not cell.readings:
            rows.append((f"{cell.connections:,}", name, "n/a", *[""] * 7))
            notes.append(f"{name}, {cell.connections:,} connections: {cell.unavailable}")
            continue
        ratio = cell.against(beside, "rate")
        cpu = cell.against(beside, "cpu_us")
        rows.append((
            f"{cell.connections:,}", name, f"{cell.median('rate'):,.0f}", _bold(ratio, more_is_better=True),
            f"{cell.median('cpu_us'):.1f}", _bold(cpu, more_is_better=False),
            _growth(cell, beside, few.get(cell.choice.label), few.get(baseline)),
            report.microseconds(cell.median("p99_us")), *_memory(cell, beside),
        ))  # fmt: skip
        notes += _warnings(cell)
    columns = ("connections", "loop", "requests/s", f"× {baseline}", "CPU µs/request", f"of {baseline}'s",
               "growth since 64, of its", "p99", "memory under load", "each idle connection")  # fmt: skip
    return tables.Table(title, columns, tuple(rows), tuple(dict.fromkeys(notes)))


def _bold(ratio: float | None, *, more_is_better: bool) -> str:
    loses = ratio is not None and (ratio < 0.995 if more_is_better else ratio > 1.005)
    return f"**{_times(ratio)}**" if loses else _times(ratio)


def _warnings(cell: Cell) -> list[str]:
    where = f"{cell.choice.title}, {cell.connections:,} connections"
    notes = []
    if cell.median("load_busy") > BUSY_LIMIT:
        notes.append(f"{where}: the load generator was busy all the time and may be what was measured")
    errors = sum(reading.errors for reading in cell.readings)
    if errors:
        notes.append(f"{where}: {errors} requests failed")
    unserved = max(reading.unserved for reading in cell.readings)
    if unserved:
        notes.append(f"{where}: {unserved} connections got no reply within a window")
    return notes


def colour(choice: LoopChoice) -> str:
    """Each way to run has its own."""
    if choice.name != "flexsc":
        return COLOURS.get(choice.name, "#9aa5b1")
    return THREAD if choice.pinned else USER_PAGE if choice.pages == "user" else OWN


def panels(title: str, cells: Sequence[Cell]) -> list[tables.Panel]:
    """Cost and tail over the number of connections."""
    counts = tuple(sorted({cell.connections for cell in cells}))
    labels = dict.fromkeys(cell.choice.label for cell in cells)

    def lines(name: str, scale: float = 1.0) -> tuple[tables.Line, ...]:
        found = []
        for label in labels:
            mine = [cell for cell in cells if cell.choice.label == label]
            points = tuple((cell.connections, cell.median(name) / scale) for cell in mine if cell.readings)
            found.append(tables.Line(mine[0].choice.title, points, colour(mine[0].choice)))
        return tuple(found)

    return [
        tables.Panel(f"{title}: CPU per request", "connections", "µs", lines("cpu_us"), counts),
        tables.Panel(f"{title}: p99", "connections", "ms", lines("p99_us", 1e3), counts, log_y=True),
    ]


def run(args: argparse.Namespace, console: Console) -> tables.Result:
    placement = Placement.choose()
    build_load()
    limit = file_limit(max(args.counts))
    counts, notes = possible(args.counts, limit)
    settings = Settings(placement, find_python(args.python))
    names = args.loops or [BASELINE, "flexsc:kernel:off", "flexsc:user:off"]
    choices = [LoopChoice.parse(name) for name in names]
    baseline = BASELINE if BASELINE in names else names[0]
    result = tables.Result("More connections", notes=[*placement.notes, *notes])
    for name in args.workload:
        cells: list[Cell] = []
        for count in counts:
            with console.status("starting") as status:
                load = workload(name).varied(connections=count)
                progress = status.update if console.is_terminal else silent
                cells += measure(load, choices, settings, args.share, progress)
        title = workload(name).title
        result.tables.append(table(title, cells, baseline))
        result.panels += panels(title, cells)
        result.raw[name] = [{**asdict(cell), "choice": cell.choice.label} for cell in cells]
    return result


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.connections", description=__doc__)
    parser.add_argument("--workload", nargs="+", default=list(WORKLOADS))
    parser.add_argument("--counts", nargs="+", type=int, default=list(COUNTS), metavar="N")
    parser.add_argument("--loops", nargs="+", help="default: uvloop, both pages with the own thread")
    parser.add_argument("--share", type=float, default=1.0, help="of the usual number of windows (default 1)")
    parser.add_argument("--python", help="version of the servers' interpreter, such as 3.13")
    parser.add_argument("--json", type=Path, default=tables.RESULTS / "connections.json", metavar="FILE")
    args = parser.parse_args()
    if min(args.counts) < 1 or args.share <= 0:
        parser.error("--counts must be at least 1, --share above 0")
    return args


if __name__ == "__main__":
    sys.exit(tables.command(run, parse_args))
