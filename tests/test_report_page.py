"""The page of all results: it holds what the result files hold, else what is documented, and needs no network."""

import html.parser
import json
import os
import re

import pytest

pytest.importorskip("rich")
pytest.importorskip("jinja2")

from benchmarks import figures, page

MACHINE = {"cpus": 2, "cpu": "a <fast> one", "kernel": "6.12", "python": "3.13.9"}


def row(loop, ratios, rate=1000.0, unavailable=None):
    median = {"rate": rate, "cpu_loop_us": 12.34, "cpu_other_us": 30.1, "p50_us": 80.0, "p99_us": 1940.0}
    ratio = sorted(ratios)[len(ratios) // 2] if ratios else None
    return {
        "loop": loop, "ratios": ratios, "ratio": ratio, "median": median if ratios else None,
        "calls_loop": 0.25, "calls_other": 0.5, "unavailable": unavailable,
        "samples": [{"rate": rate * share} for share in (0.9, 1, 1.2)],
    }  # fmt: skip


def comparison(name="hello", label="aiohttp hello"):
    rows = [row("uvloop", [1.0, 1.0]), row("flexsc:auto:off", [1.1, 1.5, 1.9], 1500.0),
            row("flexsc:user:1", [], unavailable="there is no second CPU")]  # fmt: skip
    return {"workload": {"name": name}, "label": label, "baseline": "uvloop", "rows": rows, "notes": ["it swung"]}


def save(folder, name, **content):
    path = folder / f"{name}.json"
    path.write_text(json.dumps({"machine": MACHINE, "notes": ["one CPU is shared"], **content}))
    return path


class Seen(html.parser.HTMLParser):
    """The words of a page, whatever it would fetch, and where its links lead within it."""

    def __init__(self, text):
        super().__init__()
        self.words, self.fetched, self.open, self.links, self.anchors = [], [], [], set(), []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.links |= {value[1:] for name, value in attrs if name == "href" and value.startswith("#")}
        self.fetched += [value for name, value in attrs if name in ("src", "href", "data") and value[0] != "#"]
        self.anchors += [value for name, value in attrs if name == "id"]
        if tag not in ("meta", "link", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data.strip())


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "results").mkdir()
    return tmp_path / "results"


def written(folder):
    target = folder.parent / "report.html"
    told = page.write(folder, target)
    return target.read_text(), told


def test_all_that_was_measured_is_there(folder):
    found = {"bar": "b", "title": "hello", "loop": "flexsc:user:off", "wanted": "≥ 1.20× uvloop", "measured": 1.1,
             "unit": "×", "met": False, "note": ""}  # fmt: skip
    table = {"title": "Files", "columns": ["call", "µs"], "rows": [["pread", 1.5]], "notes": ["of a <cached> file"]}
    save(folder, "demo", comparisons=[comparison()])
    save(folder, "bars-20260101-000000", findings=[found], measured={"hello": comparison(label="from bars"), "x": {}})
    save(folder, "files", tables=[table])
    text, told = written(folder)
    seen = Seen(text)
    assert told == [] and seen.open == [] and seen.fetched == []
    from_comparison = ["aiohttp hello", "it swung", "n/a: there is no second CPU", "1.50", "1,500", "30%",
                       "12.3 + 30.1", "0.250 + 0.500", "1.10–1.90"]  # fmt: skip
    from_others = ["80 µs", "one CPU is shared", "from bars", "missed", "1.1×", "pread", "of a <cached> file"]
    assert [word for word in from_comparison + from_others if word not in seen.words] == []
    assert "a <fast> one" in " ".join(seen.words) and "url(" not in text and "@import" not in text


def test_bars_are_as_long_as_their_ratios(folder):
    bars = page.chart(comparison()).bars
    assert bars[1].width / page.chart(comparison()).one == pytest.approx(1.5)
    assert bars[1].low / bars[1].high == pytest.approx(1.1 / 1.9)
    assert max(bar.high for bar in bars) < 1
    assert [bar.kind for bar in bars] == ["other", "own", "thread"]


def test_the_newest_of_a_kind_is_shown(folder):
    for age, name in ((30, "bars-20260101-000000"), (10, "bars-20260301-120000"), (20, "bars-20260201-000000")):
        path = save(folder, name, comparisons=[])
        os.utime(path, (1e9 - age, 1e9 - age))
    save(folder, "demo", comparisons=[])
    assert [path.stem for path in page.newest(folder)] == ["bars-20260301-120000", "demo"]


def test_the_paper_stands_beside_the_best_way(folder):
    save(folder, "demo", comparisons=[comparison("static-large"), comparison("app-json")])
    rows = page.beside_the_paper(page.newest(folder), figures.DOCUMENT.read_text()).rows
    here = {cells[2]: cells[3] for cells in rows if not cells[3].endswith("elsewhere (below)")}
    assert here == {"aiohttp static file of 1 MiB, 8 connections": "1.50 × uvloop"}


def test_green_threads_stand_beside_the_papers(folder):
    columns = ["", "threads", "requests/s", "× gevent", "× plain threads"]
    rows = [["Flask hello under gunicorn", "plain threads", "1", "0.8", "1.00"],
            ["", "flexsc_loop, kernel page, own thread", "1", "1.9", "1.71"],
            ["", "flexsc_loop, user page, own thread", "1", "–", "–"],
            ["another program", "flexsc_loop, user page, own thread", "1", "9", "9.00"]]  # fmt: skip
    save(folder, "blocking", tables=[{"title": "Blocking programs", "columns": columns, "rows": rows}])
    rows = page.beside_the_paper(page.newest(folder), figures.DOCUMENT.read_text()).rows
    assert [cells[3] for cells in rows if cells[2].startswith("Flask")] == ["1.71 × plain threads"]


def test_links_lead_somewhere(folder):
    save(folder, "bars-20260101-000000", comparisons=[comparison()])
    save(folder, "demo", comparisons=[comparison()])
    seen = Seen(written(folder)[0])
    assert {"figures", "demo", "scenarios", "method"} <= seen.links <= set(seen.anchors)
    assert len(seen.anchors) == len(set(seen.anchors))


def test_what_is_no_result_is_told_and_left_out(folder):
    save(folder, "demo", comparisons=[comparison()])
    (folder / "broken.json").write_text("{")
    (folder / "other.json").write_text("[1]")
    text, told = written(folder)
    assert "aiohttp hello" in text
    assert [re.sub(r".*/", "", line).split(" ")[0] for line in told] == ["broken.json", "other.json"]


def test_what_was_not_measured_here_is_told(folder):
    text, told = written(folder)
    seen = Seen(text)
    assert told == [] and seen.open == [] and seen.fetched == []
    words = " ".join(seen.words)
    documented = figures.DOCUMENT.read_text()
    sections = page.sections(documented)
    shown = [title for title in page.SECTIONS if "\n|" in sections[title]]
    assert shown and [title for title in shown if title.partition(":")[0] not in seen.words] == []
    measured = figures.read(documented)
    for name, rate, ratios in measured.rows:
        assert name in words and f"{rate}/s" in words
        assert [f"{ratio:.2f}" for ratio in ratios if f"{ratio:.2f}" not in seen.words] == []
    # Each table of the sections is there, with the machine that stands before it.
    assert text.count("<table") == 1 + sum(
        len(re.findall(r"^\|(?: ?-+ ?\|)+$", sections[title], re.MULTILINE)) for title in shown
    ), "not all tables are shown"
    assert " ".join(measured.where.split()[:8]) in words
    assert "make bars" in words and "](" not in text and "| ---" not in text


def test_a_measured_kind_takes_the_place_of_what_is_told(folder):
    save(folder, "bars-20260101-000000", comparisons=[comparison("hello")])
    text, _ = written(folder)
    first = figures.read(figures.DOCUMENT.read_text()).rows[0]
    assert f"{first[1]}/s" not in text and "<code>make bars</code>" not in text
    assert "Scenarios" in Seen(text).words


def test_the_paper_stands_beside_what_is_told():
    text = figures.DOCUMENT.read_text()
    rows = page.beside_the_paper([], text).rows
    measured = {name: max(ratios) for name, _, ratios in figures.read(text).rows}
    for cells, figure in zip(rows, page.PAPER, strict=True):
        assert cells[-1].endswith(f"{figure.against}, elsewhere (below)")
        ours = float(cells[-1].split(" ")[0])
        if figure.against == page.THREADS:
            program = text.partition(f"| {figure.row}")[2].split("\n| ")
            assert any(f"| {ours:.2f} |" in line for line in program[2:4])
        else:
            best = max(ratio for name, ratio in measured.items() if name.startswith(figure.row))
            assert ours >= best > 1


def test_bars_of_what_is_told_are_as_long_as_their_ratios(folder):
    text, _ = written(folder)
    for width, ratio in re.findall(r'class="thin[^"]*" style="width:([\d.]+)%"><b[^>]*>([\d.]+)</b>', text)[:4]:
        one = float(re.search(r'class="one" style="left:([\d.]+)%"', text)[1])
        assert float(width) / one == pytest.approx(float(ratio), abs=0.01)


def test_the_method_is_told(folder):
    save(folder, "demo", comparisons=[])
    text, _ = written(folder)
    assert "Interleaving." in text and "**" not in text
