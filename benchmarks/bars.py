"""Measures the project's bars and says which are met: ``python -m benchmarks.bars --only hello --rounds 5``."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks import idle, micro, report
from benchmarks.bar_list import BARS, Bar, Kind, Want
from benchmarks.errors import BenchmarkError
from benchmarks.loadgen import build_load
from benchmarks.loops import LoopChoice
from benchmarks.measure import Comparison, Progress, Settings, compare
from benchmarks.placement import Placement, find_python, shown
from benchmarks.workloads import workload

RESULTS = Path(__file__).parent / "results"
PEAK_SHARE = 0.1
IDLE_S = 10.0


@dataclass(frozen=True)
class Finding:
    """What one loop reached of one thing wanted; `met` is None for a figure that is only reported, or not to be had."""

    bar: str
    title: str
    loop: str
    wanted: str
    measured: float | None
    unit: str
    met: bool | None
    note: str = ""


@dataclass(frozen=True)
class Outcome:
    """What measuring a bar gave.

    `figure`, given a loop's label and what it is held against (None: the figure itself), returns the figure and a note;
    `raw` is everything that was measured, for the results file.
    """

    figure: Callable[[str, str | None], tuple[float | None, str]]
    raw: dict[str, Any]

    @classmethod
    def failed(cls, reason: str) -> Outcome:
        return cls(lambda _label, _against: (None, reason), {"failed": reason})


@dataclass(frozen=True)
class Bench:
    """How the bars are run."""

    settings: Settings
    progress: Progress

    @property
    def placement(self) -> Placement:
        return self.settings.placement

    def own(self) -> list[str]:
        return ["flexsc:kernel:off", "flexsc:user:off"]

    def pinned(self) -> list[str]:
        cpu = self.placement.thread_cpu
        return [f"flexsc:kernel:{cpu}", f"flexsc:user:{cpu}"]

    def loops(self, bar: Bar) -> list[LoopChoice]:
        names = [*bar.references, *self.own(), *(self.pinned() if bar.pinned is not None else [])]
        return [LoopChoice.parse(name) for name in names]

    def for_python(self, bar: Bar) -> Settings:
        return replace(self.settings, python=find_python(bar.python))


def _reason(comparison: Comparison, label: str) -> str:
    row = comparison.row(label)
    return (row.unavailable or "") if row else "not measured"


def _load_outcome(comparison: Comparison, metric: str) -> Outcome:
    def figure(label: str, against: str | None) -> tuple[float | None, str]:
        row, other = comparison.row(label), comparison.row(against or "uvloop")
        if row is None or other is None:
            return None, "not measured"
        ratios = row.against(other, metric)
        if not ratios:
            return None, row.unavailable or f"{other.choice.label}: {other.unavailable}"
        return statistics.median(ratios), "; ".join(comparison.notes)

    return Outcome(figure, comparison.as_dict())


def measure_load(bar: Bar, bench: Bench) -> Outcome:
    load = workload(bar.workload).varied(connections=bar.connections)
    settings = replace(bench.for_python(bar), count_calls=False)
    return _load_outcome(compare(load, bench.loops(bar), settings, progress=bench.progress), "rate")


def measure_open_loop(bar: Bar, bench: Bench) -> Outcome:
    load = workload(bar.workload).varied(connections=bar.connections)
    settings = replace(bench.for_python(bar), count_calls=False, retry=False)
    uvloop = LoopChoice.parse("uvloop")
    peak = compare(load, [uvloop], replace(settings, rounds=3), progress=bench.progress).rows[0]
    if peak.unavailable:
        return Outcome.failed(f"uvloop: {peak.unavailable}")
    paced = load.varied(rate=peak.median("rate") * PEAK_SHARE)
    # At a fixed rate the rate cannot swing, so its steadiness says nothing and there is no second run.  The windows are
    # longer, because a short one has few requests in its last hundredth, and there are enough of them for a median.
    settings = replace(settings, seconds=2 * settings.seconds, window=settings.seconds / 5)
    return _load_outcome(compare(paced, bench.loops(bar), settings, progress=bench.progress), "p99_us")


def measure_calls(bar: Bar, bench: Bench) -> Outcome:
    load = workload(bar.workload).varied(connections=bar.connections)
    settings = replace(bench.for_python(bar), rounds=1, seconds=min(1.0, bench.settings.seconds), retry=False)
    comparison = compare(load, bench.loops(bar), settings, progress=bench.progress)

    def figure(label: str, _against: str | None) -> tuple[float | None, str]:
        row = comparison.row(label)
        calls = row.calls_loop if row else None
        note = f"other threads: {row.calls_other:.3f}" if row and row.calls_other else ""
        return calls, note if calls is not None else _reason(comparison, label) or "; ".join(comparison.notes)

    return Outcome(figure, comparison.as_dict())


def measure_micro(bar: Bar, bench: Bench) -> Outcome:
    rows = micro.measure(
        bench.loops(bar),
        names=[bar.bench],
        python=find_python(bar.python),
        cpu=bench.placement.server_cpu,
        rounds=bench.settings.rounds,
        progress=lambda what: bench.progress(f"{bar.bench} · {what}"),
    )
    by_label = {row.choice.label: row for row in rows}

    def figure(label: str, against: str | None) -> tuple[float | None, str]:
        row, other = by_label[label], by_label[against or "uvloop"]
        reasons = {**other.reasons, **row.reasons}
        return row.speed(bar.bench, other), "; ".join(reasons.values())

    return Outcome(figure, {"ns": {row.choice.label: row.rounds for row in rows}})


def _one_by_one(bar: Bar, bench: Bench, rounds: int, measure: Callable[[LoopChoice], float]) -> Outcome:
    """Figures that need no load: `rounds` in turn, ratios of the rounds' medians."""
    values: dict[str, list[float]] = {}
    reasons: dict[str, str] = {}
    for number in range(rounds):
        for choice in bench.loops(bar):
            bench.progress(f"{bar.title} · round {number + 1} of {rounds} · {choice.label}")
            try:
                values.setdefault(choice.label, []).append(measure(choice))
            except (BenchmarkError, OSError) as error:
                reasons[choice.label] = str(error)

    def figure(label: str, against: str | None) -> tuple[float | None, str]:
        for name in filter(None, (label, against)):
            if name in reasons:
                return None, reasons[name]
        value = statistics.median(values[label])
        return (value / statistics.median(values[against]), f"{value:,.0f}") if against else (value, "")

    return Outcome(figure, {"values": values, "reasons": reasons})


def measure_idle_cpu(bar: Bar, bench: Bench) -> Outcome:
    python = find_python(bar.python)
    seconds = IDLE_S if bench.settings.seconds >= 1 else bench.settings.seconds
    return _one_by_one(
        bar, bench, 1, lambda c: idle.idle_cpu_percent(c, bench.placement, python=python, seconds=seconds)
    )


def measure_memory(bar: Bar, bench: Bench) -> Outcome:
    python = find_python(bar.python)
    rounds = min(3, bench.settings.rounds)
    return _one_by_one(bar, bench, rounds, lambda c: idle.bytes_per_connection(c, bench.placement, python=python))


MEASURES: dict[Kind, Callable[[Bar, Bench], Outcome]] = {
    Kind.LOAD: measure_load,
    Kind.CALLS: measure_calls,
    Kind.OPEN_LOOP: measure_open_loop,
    Kind.MICRO: measure_micro,
    Kind.IDLE_CPU: measure_idle_cpu,
    Kind.MEMORY: measure_memory,
}


def _unit(bar: Bar) -> tuple[str, str | None]:
    """The unit of a figure that is only reported, and what it is held against."""
    if bar.kind is Kind.CALLS:
        return "", None
    return (" %", None) if bar.kind is Kind.IDLE_CPU else ("×", "uvloop")


def _findings(bar: Bar, outcome: Outcome, labels: Iterable[str], wants: Sequence[Want]) -> list[Finding]:
    unit, against = _unit(bar)
    found = []
    for label in labels:
        if not wants:
            value, note = outcome.figure(label, against)
            wanted = f"report{f', {unit} {against}' if against else ''}"
            found.append(Finding(bar.name, bar.title, label, wanted, value, unit, None, note))
        for want in wants:
            value, note = outcome.figure(label, want.against)
            met = None if value is None else want.met(value)
            found.append(Finding(bar.name, bar.title, label, str(want), value, want.unit, met, note))
    return found


def _judge_best(found: list[Finding], wants: Sequence[Want]) -> list[Finding]:
    """Only the better page has to meet what is wanted: the other one's figure is reported."""
    judged = []
    for want in wants:
        same = [finding for finding in found if finding.wanted == str(want) and finding.measured is not None]
        best = (min if want.at_most else max)(same, key=lambda finding: finding.measured or 0.0, default=None)
        judged += [
            finding if finding is best else replace(finding, met=None, note="the better page counts")
            for finding in found
            if finding.wanted == str(want)
        ]
    return judged


def run_bar(bar: Bar, bench: Bench) -> tuple[list[Finding], dict[str, Any]]:
    """Measures one bar on every way to run; what was found, and all that was measured."""
    try:
        outcome = MEASURES[bar.kind](bar, bench)
    except BenchmarkError as error:
        outcome = Outcome.failed(str(error))
    kernel, user = bench.own()
    if bar.own_kernel is None:
        found = _findings(bar, outcome, (kernel, user), bar.own)
    else:
        found = _findings(bar, outcome, (kernel,), bar.own_kernel) + _findings(bar, outcome, (user,), ())
    if bar.pinned is not None:
        pinned = _findings(bar, outcome, bench.pinned(), bar.pinned)
        found += _judge_best(pinned, bar.pinned) if bar.best_page and bar.pinned else pinned
    return found, outcome.raw


def _verdict(finding: Finding) -> str:
    if finding.measured is None:
        return "n/a"
    if finding.met is None:
        return "–"
    return "[green]met[/green]" if finding.met else "[red]missed[/red]"


class Footnotes:
    """Notes below a table, each printed once."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def mark(self, note: str) -> str:
        if not note:
            return ""
        return f" [{self._numbers.setdefault(note, len(self._numbers) + 1)}]"

    def show(self, console: Console) -> None:
        for note, number in self._numbers.items():
            console.print(f"  [{number}] {note}", highlight=False, markup=False)


def show(console: Console, findings: Sequence[Finding]) -> None:
    """Measured against wanted, with notes below, and a count."""
    table = Table(title="bars", title_justify="left", title_style="bold")
    for heading in ("bar", "loop", "wanted"):
        table.add_column(heading)
    table.add_column("measured", justify="right")
    table.add_column("verdict")
    notes = Footnotes()
    title = None
    for finding in findings:
        if finding.title != title and title is not None:
            table.add_section()
        digits = 2 if finding.unit == "×" else 3
        measured = "" if finding.measured is None else f"{finding.measured:.{digits}f}{finding.unit}"
        first = finding.title if finding.title != title else ""
        table.add_row(
            first, finding.loop, finding.wanted, measured, _verdict(finding) + escape(notes.mark(finding.note))
        )
        title = finding.title
    console.print(table)
    notes.show(console)
    met = sum(finding.met is True for finding in findings)
    missed = sum(finding.met is False for finding in findings)
    console.print(f"{met} met, {missed} missed, {len(findings) - met - missed} reported or not available")


def write_results(path: Path, findings: Sequence[Finding], raw: dict[str, Any], settings: Settings) -> None:
    content: dict[str, Any] = {
        "machine": report.machine(),
        "notes": list(settings.placement.notes),
        "rounds": settings.rounds,
        "seconds": settings.seconds,
        "findings": [asdict(finding) for finding in findings],
        "measured": raw,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")


def parse_args() -> argparse.Namespace:
    names = [bar.name for bar in BARS]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bars", description=__doc__)
    parser.add_argument("--only", action="append", choices=names, metavar="NAME", help=f"of {', '.join(names)}")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="measured in each round, in short windows")
    parser.add_argument("--warmup", type=float, default=0.5)
    parser.add_argument("--no-retry", action="store_true", help="do not measure again when the baseline swings")
    parser.add_argument("--json", type=Path, metavar="FILE", help="default: results/bars-TIME.json")
    args = parser.parse_args()
    if args.rounds < 1 or args.seconds <= 0 or args.warmup < 0:
        parser.error("--rounds must be at least 1, --seconds above 0, --warmup not negative")
    return args


def run(args: argparse.Namespace, console: Console) -> int:
    placement = Placement.choose()
    build_load()
    settings = Settings(placement, sys.executable, args.rounds, args.seconds, args.warmup, retry=not args.no_retry)
    for note in placement.notes:
        console.print(f"note: {note}")
    chosen = [bar for bar in BARS if not args.only or bar.name in args.only]
    path = args.json or RESULTS / time.strftime("bars-%Y%m%d-%H%M%S.json")
    findings: list[Finding] = []
    raw: dict[str, Any] = {}
    with console.status("starting") as status:
        for number, bar in enumerate(chosen, 1):
            prefix = f"bar {number} of {len(chosen)} · "
            bench = Bench(settings, lambda what, prefix=prefix: status.update(prefix + what))  # type: ignore[misc]
            found, raw[bar.name] = run_bar(bar, bench)
            findings += found
            write_results(path, findings, raw, settings)
    show(console, findings)
    console.print(f"written to {shown(path)}", highlight=False)
    return 1 if any(finding.met is False for finding in findings) else 0


def main() -> int:
    console = report.make_console()
    try:
        return run(parse_args(), console)
    except BenchmarkError as error:
        console.print(f"error: {error}", highlight=False, markup=False)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
