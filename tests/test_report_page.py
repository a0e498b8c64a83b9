"""The page of all results: it holds what the result files hold, needs no network, and tells what it left out."""

import html.parser
import json
import os
import re

import pytest

pytest.importorskip("rich")
pytest.importorskip("jinja2")

from benchmarks import page
from benchmarks.errors import BenchmarkError

MACHINE = {"cpus": 2, "cpu": "a <fast> one", "kernel": "6.12", "python": "3.13.9"}


def row(loop, ratios, rate=1000.0, unavailable=None):
    median = {"rate": rate, "cpu_us": 12.34, "p50_us": 80.0, "p99_us": 1940.0}
    ratio = sorted(ratios)[len(ratios) // 2] if ratios else None
    return {
        "loop": loop, "ratios": ratios, "ratio": ratio, "median": median if ratios else None,
        "calls_loop": 0.25, "calls_other": 0.5, "unavailable": unavailable,
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
    """The words of a page, and whatever it would fetch."""

    def __init__(self, text):
        super().__init__()
        self.words, self.fetched, self.open = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.fetched += [value for name, value in attrs if name in ("src", "href", "data")]
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
    from_comparison = ["aiohttp hello", "it swung", "n/a: there is no second CPU", "1.50", "1,500", "12.3", "0.75"]
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
    rows = page.beside_the_paper(page.newest(folder)).rows
    assert [cells[-1] for cells in rows] == ["not measured", "1.50 × uvloop", "not measured", "not measured"]


def test_what_is_no_result_is_told_and_left_out(folder):
    save(folder, "demo", comparisons=[comparison()])
    (folder / "broken.json").write_text("{")
    (folder / "other.json").write_text("[1]")
    text, told = written(folder)
    assert "aiohttp hello" in text
    assert [re.sub(r".*/", "", line).split(" ")[0] for line in told] == ["broken.json", "other.json"]


def test_nothing_measured_names_the_command(folder):
    with pytest.raises(BenchmarkError, match="make demo"):
        written(folder)


def test_the_method_is_told(folder):
    save(folder, "demo", comparisons=[])
    text, _ = written(folder)
    assert "Interleaving." in text and "**" not in text
