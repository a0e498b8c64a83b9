"""The benchmarks' picture says all that their table says."""

from __future__ import annotations

import io
import subprocess
import sys
from dataclasses import replace

import pytest

pytest.importorskip("rich")
pytest.importorskip("matplotlib")

from rich.console import Console

from benchmarks import picture, report
from benchmarks.errors import BenchmarkError, unanswered
from benchmarks.loops import LoopChoice
from benchmarks.measure import Comparison, Row, Sample
from benchmarks.placement import ROOT
from benchmarks.syscalls import Counted
from benchmarks.workloads import workload
from tests import sandbox


def row(label: str, rates: list[float], ratios: list[float], unavailable: str | None = None) -> Row:
    samples = [Sample(rate, 12.5, 3.25, 801.0, 900.0, 1234.0, 1500.0, 2000.0, 0, 0.5) for rate in rates]
    return Row(LoopChoice.parse(label), samples, ratios=ratios, unavailable=unavailable)


@pytest.fixture
def comparison() -> Comparison:
    rows = [
        row("uvloop", [1000.0, 1640.0], [1.0, 1.0]),
        row("flexsc:auto:off", [1500.0, 1700.0], [1.5, 1.1]),
        row("flexsc:user:1", [], [], "there is no second CPU"),
    ]
    return Comparison(workload("hello"), rows, "uvloop", ["uvloop's own figure swung by 48%", "uvloop: 32 unanswered"])


def texts(figure) -> list[str]:
    found = [text.get_text() for text in figure.findobj(match=lambda artist: hasattr(artist, "get_text"))]
    return [text for text in found if text]


def test_every_cell_and_warning_of_the_table_is_in_the_picture(comparison):
    out = io.StringIO()
    report.show(Console(file=out, width=200), comparison)
    shown = texts(picture.draw([comparison], "heading", ["one more note"]))
    for each in comparison.rows[:2]:
        for cell in report.row_cells(each)[1:]:
            assert cell in shown and cell in out.getvalue()
    everything = "\n".join(shown)
    for text in (*comparison.notes, "there is no second CPU", *(each.choice.title for each in comparison.rows)):
        assert text in everything and text in out.getvalue()
    facts = report.machine()
    for text in ("heading", "one more note", facts["python"], facts["kernel"], "uvloop = 1", *report.EXPLANATION):
        assert text in everything


def test_no_figure_is_cut_on_a_narrow_terminal(comparison):
    wide = comparison.rows[1]
    wide.samples = [replace(sample, rate=123456.0, p50_us=12910.0, p99_us=1707080.0) for sample in wide.samples]
    wide.calls = Counted("", 1000, 438, 37560)
    out = io.StringIO()
    report.show(Console(file=out, width=80), comparison)
    assert all(figure in out.getvalue() for figure in ("12.9 ms", "1,707 ms", "123,456", "1.10–1.50", "0.438", "37.56"))


def test_one_round_has_no_spread():
    one = row("flexsc:auto:off", [1500.0], [1.25])
    assert report.row_cells(one)[:3] == ["1.25×", "1,500", "–"]


def test_the_demo_says_what_its_picture_says():
    from benchmarks import demo
    from benchmarks.placement import Placement

    out = io.StringIO()
    demo.explain(Console(file=out, width=200), Placement(0, 1, 1, (1,), 0, ("a note",)))
    assert out.getvalue().splitlines() == picture.foot(["a note"])


@pytest.mark.parametrize(("blocked", "kind"), [(False, "kernel"), (True, "user")])
def test_the_demo_says_which_page_and_why(blocked, kind):
    """Where io_uring is blocked, too: what is measured then is the user page."""
    if not blocked and sandbox.io_uring_blocked():
        pytest.skip("io_uring is blocked here")
    block = "from tests import sandbox; sandbox.block('EPERM');" if blocked else ""
    code = f"{block}from benchmarks import demo; print(*demo.page_here()[1], sep='\\n'); print(demo.page_here()[0])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    *reasons, last = done.stdout.splitlines()
    assert last == kind and reasons and any("io_uring" in reason for reason in reasons)


def test_what_was_not_answered_is_told_without_what_did_not_happen():
    assert str(unanswered({"connect": 3, "read": 0})) == "not one request was answered; errors: 3 of kind 'connect'"
    assert "none" in str(unanswered({"connect": 0}))


def test_a_loop_that_is_not_installed_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "rloop", None)
    with pytest.raises(BenchmarkError, match=r"rloop cannot be imported: .*: python -m pip install rloop"):
        LoopChoice.parse("rloop").factory()


def test_bars_are_as_long_as_their_labels_say(comparison):
    bars = picture.draw([comparison]).axes[0]
    assert [round(patch.get_width(), 6) for patch in bars.patches] == [1.0, 1.3]
    assert [text.get_text() for text in bars.texts] == ["1.00", "1.30", "n/a"]
    (whiskers,) = bars.containers[-1][2]
    ((left, right),) = whiskers.get_segments()
    assert (round(left[0], 6), round(right[0], 6)) == (1.1, 1.5)


@pytest.mark.parametrize(
    ("label", "title"),
    [
        ("asyncio", "asyncio's own loop"),
        ("flexsc:auto:off", "flexsc_loop, own thread"),
        ("flexsc:user:off", "flexsc_loop, user page, own thread"),
        ("flexsc:kernel:1", "flexsc_loop, kernel page, syscall thread on CPU 1"),
        ("flexsc", "flexsc_loop, own thread"),
    ],
)
def test_loops_have_names_that_say_what_they_are(label, title):
    assert LoopChoice.parse(label).title == title
