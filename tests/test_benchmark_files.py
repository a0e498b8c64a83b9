"""The benchmark of files: what it makes of windows, contestants that fail, and bars."""

from __future__ import annotations

import json

import pytest
from support import ROOT


@pytest.fixture
def files(monkeypatch):
    """The benchmark's modules."""
    pytest.importorskip("rich", reason="the benchmarks' packages are not here")
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks.files import bars, compare, fio, loads

    return {"bars": bars, "compare": compare, "fio": fio, "loads": loads}


@pytest.fixture
def row(files):
    """Makes a contestant's row of such rates, round by round; each operation takes 1 / rate of CPU."""
    compare, sample = files["compare"], files["loads"].Sample

    def make(label, *rounds):
        one = compare.Contestant(label) if label.startswith("fio") else compare.Contestant.parse(label)
        return compare.Row(one, [[sample(rate, 1e6 / rate) for rate in taken] for taken in rounds])

    return make


def test_ratios_are_those_of_windows(row):
    """A machine that is twice as slow for a while changes nothing."""
    ours, theirs = row("flexsc/flexsc:user:off", [20, 10, 20], [4, 4, 4]), row("pyaio/asyncio", [10, 5, 10], [2, 2, 1])
    assert ours.ratios(theirs) == [2, 2]
    assert ours.ratio(theirs, "cpu_us") == 0.5
    assert ours.ratios(row("fio", [10], [8])) == [2, 0.5]


def test_the_best_peer_is_no_limit_and_not_on_this_loop(files, row):
    rows = [row("plain", [99]), row("fio", [98]), row("aiofiles/flexsc:user:off", [97]), row("pyaio/asyncio", [50]),
            row("aiofile/uvloop", [60]), row("flexsc/flexsc:user:off", [90])]  # fmt: skip
    found = files["compare"].Comparison(files["loads"].LOADS["cached64"], rows)
    assert found.best_peer().label == "aiofile/uvloop"
    (verdict,) = files["bars"].verdicts(found)
    assert verdict.met and str(verdict).endswith("(aiofile/uvloop): flexsc/flexsc:user:off 1.50, met")
    rows[-1].reason = "it has failed"
    assert not [*files["bars"].verdicts(found)]


def test_what_is_no_contestant_is_refused(files):
    errors = pytest.importorskip("benchmarks.errors")
    for text in ("nothing/asyncio", "aiofiles/nothing", "flexsc/uvloop:kernel"):
        with pytest.raises(errors.BenchmarkError):
            files["compare"].Contestant.parse(text)


@pytest.mark.timeout(120)
def test_a_round(files, tmp_path):
    """Contestants that can be had here are measured, the others say why not."""
    from benchmarks.files.place import Place

    compare = files["compare"]
    place = Place(tmp_path, 64)
    place.make()
    labels = "plain", "executor/asyncio", "flexsc/flexsc:user:off", "flexsc-whole/flexsc:user:off", "flexsc/asyncio"
    contestants = [compare.Contestant.parse(label) for label in labels]
    contestants.append(compare.Contestant("executor", compare.LoopChoice("flexsc", "nonsense")))
    loads = [files["loads"].LOADS[name] for name in ("small", "append", "through")]
    small, append, through = compare.measure(loads, contestants, compare.Settings(place, 1, 1, 0.02))
    assert [row.label for row in small.measured] == list(labels)
    assert {row.label for row in append.measured} >= {"plain", "executor/asyncio", "flexsc/asyncio"}
    assert all(sample.rate > 0 for row in through.measured for taken in row.rounds for sample in taken)
    assert [row.reason for row in small.rows if row not in small.measured] == [
        "'flexsc:nonsense': unknown pages 'nonsense'; choose from auto, kernel, user"
    ]


def test_what_is_written_of_it(files, row, tmp_path):
    """A table for a README, and a result file that the page of all results shows."""
    from benchmarks.files import show

    rows = [row("plain", [99]), row("pyaio/asyncio", [60]), row("flexsc/flexsc:user:off", [90])]
    rows.append(row("aiofile/uvloop"))
    rows[-1].reason = "it is not installed"
    found = files["compare"].Comparison(files["loads"].LOADS["cached64"], rows)
    text = show.markdown([found])
    (line,) = [line for line in text.splitlines() if line.startswith("| cached read")]
    assert line.count("|") == text.splitlines()[0].count("|") == 7
    assert "| pyaio/asyncio 60/s, 16666.7 µs | plain 99/s, 10101.0 µs | – | 1.50 ×: 90/s, 11111.1 µs | – |" in line
    assert "1.50, met" in text and "uvloop " in text.splitlines()[-1]

    page = pytest.importorskip("benchmarks.page")
    result = tmp_path / "files.json"
    result.write_text(json.dumps({"machine": {}, "tables": [show.as_table(found)], "loads": [show.as_windows(found)]}))
    (sheet,) = page.read(result).sheets
    assert sheet.rows[2][:2] == ("flexsc/flexsc:user:off", "90") and len(sheet.columns) == 5
    assert "aiofile/uvloop: n/a because it is not installed" in sheet.notes
    assert not [*page.comparisons_in([result])]
