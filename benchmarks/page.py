"""All results on one page: ``python -m benchmarks.page`` writes one HTML file that needs no network.

It shows the result files that lie in ``benchmarks/results`` (those of ``make demo``, ``make bars`` and of the other
commands, with ``--json``), the newest of each kind with its machine and date, and the paper's figures beside ours.
What has not been measured here is shown as benchmarks/README.md tells it, with the machine and the date of that.
"""

from __future__ import annotations

import argparse
import datetime
import json
import re
import sys
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import figures
from benchmarks.errors import BenchmarkError
from benchmarks.loops import LoopChoice
from benchmarks.placement import shown
from benchmarks.report import calls, describe, microseconds, pair, swing
from benchmarks.tables import RESULTS, Table
from benchmarks.workloads import workload

FOLDER = Path(__file__).parent
PAGE = RESULTS / "report.html"
# What is wider than the window can be moved, by keys as well.
SCROLL = '<div class="scroll" tabindex="0" role="region" aria-label="Table">'
TABLE = re.compile(r"^(\|(?:.*\n)+?)(?=\n|\Z)", re.MULTILINE)
STAMP = re.compile(r"-\d{8}-\d{6}$")


@dataclass(frozen=True)
class Bar:
    """One bar: shares of the drawing's width for its end and for its whiskers, and the table's cells beside it.

    span: the lowest and the highest round's ratio, for the table.
    """

    title: str
    kind: str
    width: float
    low: float
    high: float
    cells: tuple[str, ...]
    missing: str = ""
    span: str = ""


@dataclass(frozen=True)
class Chart:
    """One workload on several loops."""

    title: str
    baseline: str
    one: float
    bars: tuple[Bar, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Groups:
    """One table of benchmarks/README.md: for each workload uvloop's figures, a ratio in each way, and other loops'."""

    ways: tuple[str, ...]
    most: float
    rows: tuple[tuple[str, str, tuple[float, ...], str], ...]

    @property
    def kinds(self) -> tuple[str, ...]:
        """The colour of each way."""
        return tuple(
            ("thread" if "syscall thread" in way else "own") + (" user" if "user" in way else "") for way in self.ways
        )


@dataclass(frozen=True)
class Told:
    """A section of benchmarks/README.md in the place of a benchmark that was not run here: HTML, and groups of bars.

    anchor: what links lead to.
    """

    name: str
    anchor: str
    command: str
    pieces: tuple[str | Groups, ...]


@dataclass
class Part:
    """What one result file holds."""

    name: str
    anchor: str
    machine: str
    date: str
    charts: list[Chart] = field(default_factory=list)
    sheets: list[Table] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Paper:
    """A figure of the paper, and where ours comes from: a workload, and what its best ratio is held against.

    row: how the workload's row begins in benchmarks/README.md.  connections: only results with as many; 0: all.
    """

    what: str
    theirs: str
    ours: str
    workload: str
    row: str
    against: str = "uvloop"
    connections: int = 64


THREADS = "plain threads"
APACHE, MYSQL = "Apache, against Linux threads", "MySQL, against Linux threads"
PAPER = (
    Paper(APACHE, "up to 2.16", "WSGI callable under gunicorn, green threads", "wsgi", "bare WSGI callable", THREADS),
    Paper(APACHE, "up to 2.16", "Flask under gunicorn, green threads", "wsgi-flask", "Flask hello", THREADS),
    Paper(APACHE, "up to 2.16", "aiohttp hello", "hello", "aiohttp hello, 64"),
    Paper(APACHE, "up to 2.16", "aiohttp static file of 1 MiB, 8 connections", "static-large",
          "aiohttp static file, 1 MiB, 8", connections=8),
    Paper(MYSQL, "up to 1.40", "WSGI that asks MariaDB by PyMySQL, green threads", "wsgi-mysql", "WSGI with a PyMySQL",
          THREADS),
    Paper(MYSQL, "up to 1.40", "asyncpg, select 1, 16 connections", "asyncpg", "asyncpg", connections=16),
    Paper("BIND, against Linux threads", "up to 2.05", "UDP echo", "udp", "UDP echo"),
)
# The sections of benchmarks/README.md with figures: which result file takes a section's place, and what writes that
# (the first has something of all others).
SECTIONS = {
    "At a glance": ("", ""),
    "Figures": ("bars", "make bars"),
    "Files: how they are measured": ("files", "make files ARGS='--json benchmarks/results/files.json'"),
    "The paper's micro-benchmark": ("batches", "make batches"),
    "Scenarios": ("scenarios", "make scenarios"),
    "More connections": ("connections", "make connections"),
    "Blocking programs": ("blocking", "make blocking"),
    "Starting": ("starting", "python -m benchmarks.starting"),
}
CHART_COLUMNS = ("ratio", "requests/s", "swing", "CPU µs/request", "system calls/request", "p50", "p99")
NAMES = {"demo": "Example application"}
BLOCKING = "Blocking programs"


def kind(path: Path) -> str:
    """The name of a result file without the time at its end."""
    return STAMP.sub("", path.stem)


def newest(folder: Path) -> list[Path]:
    """The newest result file of each kind; a time at the end of a name does not make another kind."""
    kinds: dict[str, Path] = {}
    for path in sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime):
        kinds[kind(path)] = path
    return [kinds[name] for name in sorted(kinds)]


def slug(heading: str) -> str:
    """What a link to a heading of a document ends with."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def named(kind: str) -> tuple[str, str]:
    """Heading and anchor of the results of a kind: those of the section whose place they take, if there is one."""
    for title, (name, _) in SECTIONS.items():
        if name == kind:
            return title.partition(":")[0], slug(title)
    return NAMES.get(kind, kind), slug(kind)


def kind_of(choice: LoopChoice) -> str:
    """Which colour a loop has."""
    if choice.name != "flexsc":
        return "other"
    return "thread" if choice.pinned else "own"


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    median = row["median"]
    ratio = row.get("ratio")
    rates = [sample["rate"] for sample in row.get("samples", ())] or [median["rate"]]
    return (
        "1" if ratio is None else f"{ratio:.2f}",
        f"{median['rate']:,.0f}",
        swing((max(rates) - min(rates)) / median["rate"], len(rates)),
        pair(f"{median['cpu_loop_us']:.1f}", f"{median['cpu_other_us']:.1f}"),
        pair(calls(row.get("calls_loop")), calls(row.get("calls_other"))),
        microseconds(median["p50_us"]),
        microseconds(median["p99_us"]),
    )


def chart(comparison: dict[str, Any]) -> Chart:
    """Bars from a comparison as `benchmarks.measure` writes it."""
    rows = comparison["rows"]
    ratios = {row["loop"]: row["ratios"] or [1.0] for row in rows if row["median"]}
    most = max([1.0, *(max(values) for values in ratios.values())]) * 1.02
    bars = []
    for row in rows:
        choice = LoopChoice.parse(row["loop"])
        if not row["median"]:
            missing = row["unavailable"] or "not measured"
            bars.append(Bar(choice.title, kind_of(choice), 0, 0, 0, (), missing))
            continue
        values = ratios[row["loop"]]
        middle = 1.0 if row["ratio"] is None else row["ratio"]
        low, high = min(values) / most, max(values) / most
        span = f"{min(values):.2f}–{max(values):.2f}" if low < high else ""
        bars.append(Bar(choice.title, kind_of(choice), middle / most, low, high, _cells(row), span=span))
    title = comparison["label"].replace("`", "")
    return Chart(title, comparison["baseline"], 1 / most, tuple(bars), tuple(comparison["notes"]))


def findings(found: Sequence[dict[str, Any]]) -> Table:
    """The bars' findings: wanted against measured."""
    rows = []
    for one in found:
        measured = "n/a" if one["measured"] is None else f"{one['measured']:.3g}{one['unit']}"
        verdict = {True: "met", False: "missed", None: "–"}[one["met"]]
        rows.append((one["title"], one["loop"], one["wanted"], measured, verdict))
    return Table("Bars", ("bar", "loop", "wanted", "measured", ""), tuple(rows))


def sheet(table: dict[str, Any]) -> Table:
    """A table as the other benchmarks write it: title, columns, rows, notes."""
    rows = tuple(tuple(str(cell) for cell in row) for row in table["rows"])
    return Table(table["title"], tuple(table["columns"]), rows, tuple(table.get("notes", ())))


def read(path: Path) -> Part:
    """What a result file holds.  Raises BenchmarkError for one that is none."""
    try:
        content = json.loads(path.read_text())
        date = datetime.datetime.fromtimestamp(path.stat().st_mtime, datetime.UTC).date().isoformat()
        name, anchor = named(kind(path))
        part = Part(name, anchor, describe(content["machine"]), date, notes=list(content.get("notes", ())))
        raw = content.get("measured", {})
        comparisons = [*content.get("comparisons", ()), *(one for one in raw.values() if "rows" in one)]
        part.charts = [chart(comparison) for comparison in comparisons]
        if content.get("findings"):
            part.sheets.append(findings(content["findings"]))
        part.sheets += [sheet(table) for table in content.get("tables", ())]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BenchmarkError(f"{shown(path)} holds no results: {type(error).__name__}: {error}") from error
    return part


def comparisons_in(paths: Iterable[Path]) -> Iterable[dict[str, Any]]:
    for path in paths:
        content = json.loads(path.read_text())
        yield from content.get("comparisons", ())
        yield from (one for one in content.get("measured", {}).values() if "rows" in one)


def _measured(figure: Paper, paths: Sequence[Path]) -> list[float]:
    """Our ratios of that kind in the result files."""
    if figure.against == THREADS:
        tables = [table for path in paths for table in json.loads(path.read_text()).get("tables", ())]
        return [ratio for table in tables for ratio in against_threads(table["columns"], table["rows"], figure)]
    return [
        row["ratio"]
        for one in comparisons_in(paths)
        if one["workload"]["name"] == figure.workload and one["baseline"] == figure.against
        if one["workload"].get("connections", figure.connections) == figure.connections
        for row in one["rows"]
        if row["loop"].startswith("flexsc") and row["ratio"] is not None
    ]


def _documented(figure: Paper, text: str) -> list[float]:
    """Our ratios of that kind in benchmarks/README.md."""
    found = sections(text)
    if figure.against == THREADS:
        tables = [[cells(line) for line in lines.splitlines()] for lines in TABLE.findall(found[BLOCKING] + "\n")]
        return [ratio for lines in tables for ratio in against_threads(lines[0], lines[2:], figure)]
    tables_of_ways = [figures.parse(lines.splitlines())[1] for lines in TABLE.findall(found["Figures"] + "\n")
                      if lines.startswith("| workload |")]  # fmt: skip
    return [max(ratios) for rows in tables_of_ways for title, _, ratios, _ in rows if title.startswith(figure.row)]


def cells(line: str) -> list[str]:
    return [cell.strip().strip("*") for cell in line.strip().strip("|").split("|")]


def against_threads(columns: Sequence[str], rows: Iterable[Sequence[str]], figure: Paper) -> list[float]:
    """This package's ratios to plain threads in a table of blocking programs, measured or told."""
    if f"× {THREADS}" not in columns:
        return []
    at = columns.index(f"× {THREADS}")
    found, program = [], ""
    for row in rows:
        program = row[0] or program
        if program in (workload(figure.workload).title, "") or program.startswith(figure.row):
            found += [float(row[at].strip("*"))] if re.search(r"page|flexsc", row[1]) and row[at] != "–" else []
    return found


def beside_the_paper(paths: Sequence[Path], text: str) -> Table:
    """The paper's figures (FlexSC, OSDI 2010) and what was measured of the same kind: here, else as `text` tells."""
    rows = []
    for figure in PAPER:
        best, whence = _measured(figure, paths), ""
        if not best:
            best, whence = _documented(figure, text), ", elsewhere (below)"
        ours = f"{max(best):.2f} × {figure.against}{whence}" if best else "not measured"
        rows.append((figure.what, figure.theirs, figure.ours, ours))
    columns = ("the paper: throughput of", "×", "this package: throughput of, in the best way", "measured")
    return Table("The paper's figures beside ours", columns, tuple(rows), (
        "Not the same programs or machines. The paper compares with one kernel-visible thread for each connection, as "
        "green threads are compared here (64 connections); an event loop is compared with uvloop. What a call costs in "
        "a batch, the paper's other figure, is a section of its own.",
    ))  # fmt: skip


def sections(text: str) -> dict[str, str]:
    """The sections of a document in Markdown, by their headings."""
    parts = re.split(r"^## (.*)\n", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], (part.strip() for part in parts[2::2]), strict=True))


def to_html(text: str) -> str:
    """HTML of Markdown.  What leads to other documents is text here; tables can be moved within a narrow window."""
    from markdown_it import MarkdownIt

    anchors = {slug(title) for title in (*SECTIONS, "Method")}
    links = re.compile(r"\[([^\]]+)\]\(#?([^)]+)\)")
    text = links.sub(lambda link: link[0] if link[2] in anchors else link[1], re.sub(r"<!--.*?-->", "", text))
    html = str(MarkdownIt("commonmark").enable("table").render(text))
    html = html.replace("<table>", f"{SCROLL}<table>").replace("</table>", "</table></div>")
    return re.sub(r"<th(?=[ >])", '<th scope="col"', html)


def pieces(text: str) -> tuple[str | Groups, ...]:
    """What a section holds, in its order."""
    found: list[str | Groups] = []
    for part in re.split(r"^(\| workload \|(?:.*\n)+?)(?=\n|\Z)", text + "\n", flags=re.MULTILINE):
        if part.startswith("| workload |"):
            ways, rows = figures.parse(part.splitlines())
            # Room for the number behind the longest bar.
            found.append(Groups(ways, max(max(ratios) for _, _, ratios, _ in rows) * 1.15, tuple(rows)))
        elif part.strip():
            found.append(to_html(part))
    return tuple(found)


def told_elsewhere(measured: Collection[str], text: str) -> list[Told]:
    """What benchmarks/README.md tells of the kinds that were not measured here."""
    found = sections(text)
    return [
        Told(*named(name), command, pieces(found[title]))
        for title, (name, command) in SECTIONS.items()
        if name not in measured and re.search(r"^\|", found.get(title, ""), re.MULTILINE)
    ]


def render(parts: Sequence[Part], told: Sequence[Told], paper: Table, method: str) -> str:
    """The page's HTML; `method` is Markdown."""
    import jinja2

    loader = jinja2.FileSystemLoader(FOLDER)
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.get_template("page.html").render(
        parts=parts,
        told=told,
        paper=paper,
        method=to_html(method),
        columns=CHART_COLUMNS,
        scroll=SCROLL,
        today=datetime.date.today().isoformat(),
    )


def write(folder: Path, page: Path) -> list[str]:
    """Writes the page; what could not be read is left out and told.  Raises BenchmarkError without jinja2."""
    paths, parts, left_out = [], [], []
    for path in newest(folder):
        try:
            parts.append(read(path))
            paths.append(path)
        except BenchmarkError as error:
            left_out.append(str(error))
    text = figures.DOCUMENT.read_text()
    try:
        told = told_elsewhere([kind(path) for path in paths], text)
        content = render(parts, told, beside_the_paper(paths, text), sections(text)["Method"])
    except ImportError as error:
        raise BenchmarkError("the page needs jinja2 and rich: python -m pip install jinja2 rich") from error
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(content)
    return left_out


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.page", description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FOLDER")
    parser.add_argument("--page", type=Path, default=PAGE, metavar="FILE")
    args = parser.parse_args()
    try:
        for told in write(args.results, args.page):
            print(f"left out: {told}", file=sys.stderr)
    except BenchmarkError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"written to {shown(args.page)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
