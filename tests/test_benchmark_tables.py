"""The benchmarks that print tables: what they make of their samples.  No speed is judged."""

from __future__ import annotations

import json
import shutil
import sys
import time
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("rich")
pytest.importorskip("matplotlib.pyplot")  # here, since it starts a thread, which is no test's

from rich.console import Console

from benchmarks import blocking, connections, page, scenarios, tables
from benchmarks.batches import __main__ as batches
from benchmarks.batches import gate
from benchmarks.errors import BenchmarkError
from benchmarks.groups import parent_with_quota
from benchmarks.loops import LoopChoice
from benchmarks.measure import Comparison, Row, Sample
from benchmarks.placement import Placement
from benchmarks.process import running_server
from benchmarks.servers import wsgi
from benchmarks.workloads import workload

needs_compiler = pytest.mark.skipif(not (shutil.which("cc") or shutil.which("gcc")), reason="there is no C compiler")


def test_a_result_is_read_by_the_page_of_all_results(tmp_path):
    table = tables.Table("a | b", ("x", "y"), (("1", "**2|3**"),), ("a note",))
    found = tables.Result("heading", [table], notes=["seen twice", "seen twice"])
    path = tmp_path / "some.json"
    tables.publish(Console(quiet=True), found, path)
    part = page.read(path)
    assert part.notes == ["seen twice"]
    (sheet,) = part.sheets
    assert (sheet.title, sheet.columns) == ("a | b", ("x", "y"))
    assert (sheet.rows, sheet.notes) == ((("1", "**2|3**"),), ("a note",))
    text = path.with_suffix(".md").read_text()
    assert "| 1 | **2\\|3** |" in text and "- a note" in text and text.count("seen twice") == 1


def test_lines_are_drawn_through_their_points():
    lines = (tables.Line("one", ((1, 2.0), (64, 3.0)), "#222222"), tables.Line("empty", (), "#333333"))
    panels = [tables.Panel(title, "n", "µs", lines, (1, 64), log_y=title == "b") for title in "abc"]
    figure = tables.draw(tables.Result("heading", panels=panels, notes=["a note"]))
    drawn = [axis for axis in figure.axes if axis.lines]
    assert [axis.get_title(loc="left") for axis in drawn] == ["a", "b", "c"]
    (line,) = drawn[0].lines
    assert (line.get_label(), *line.get_xydata().tolist()) == ("one", [1, 2], [64, 3])
    assert "a note" in figure.get_supxlabel() and figure.get_suptitle() == "heading"


# ---- connections


def test_more_connections_than_files_may_be_open_are_brought_down_and_told():
    assert connections.possible((1, 64, 20000), 30000) == ([1, 64, 20000], [])
    counts, notes = connections.possible((1, 8192, 20000, 30000), 20000)
    assert counts == [1, 8192, 19900]
    assert len(notes) == 2 and "20,000 connections need 20,100 open files" in notes[0] and "19,900" in notes[0]
    with pytest.raises(BenchmarkError):
        connections.possible((1,), 50)


def cell(label: str, count: int, rates: list[float]) -> connections.Cell:
    readings = [connections.Reading(rate, 1e6 / rate, 100.0, 1 << 22, 0, 0, 0.5) for rate in rates]
    return connections.Cell(LoopChoice.parse(label), count, readings, idle_bytes=1000.0 if count > 64 else None)


def test_ratios_are_those_of_windows_and_what_loses_is_bold():
    cells = [cell("uvloop", 64, [10.0, 20.0, 10.0]), cell("flexsc:kernel:off", 64, [20.0, 40.0, 20.0]),
             cell("uvloop", 1024, [10.0, 5.0]), cell("flexsc:kernel:off", 1024, [8.0, 4.0])]  # fmt: skip
    cells.append(replace(cell("flexsc:user:off", 1024, []), unavailable="it has failed"))
    table = connections.table("echo", cells, "uvloop")
    assert [row[3] for row in table.rows] == ["1.00", "2.00", "1.00", "**0.80**", ""]
    assert [row[6] for row in table.rows[:4]] == ["–", "–", "1.00", "**2.50**"]
    assert table.rows[4][2] == "n/a" and any("it has failed" in note for note in table.notes)
    assert all(len(row) == len(table.columns) for row in table.rows)


# ---- batches


def samples(costs: dict[str, float]):
    for way, alone in costs.items():
        for batch in batches.BATCHES:
            yield {"way": way, "batch": batch, "work": 0, "ns": 100.0 + alone / batch}


def test_break_even_is_where_a_page_stays_cheaper():
    found = [*samples({"plain": 800.0, "kernel-same": 1600.0}), {"way": "user-same", "error": "why"}]
    figures, notes = batches.gather(found)
    assert notes == ["user page, same core: n/a because why"]
    assert batches.break_even(figures, "plain") == 1
    assert batches.break_even(figures, "kernel-same") is None
    figures["kernel-same"][64] = [50.0]
    assert batches.break_even(figures, "kernel-same") is None, "one good batch among bad ones is none"
    for batch in (256, 512, 1024):
        figures["kernel-same"][batch] = [50.0]
    assert batches.break_even(figures, "kernel-same") == 256


@pytest.mark.parametrize(("own", "thread"), [(1000, 2000), (1000, 1000), (1000, 600), (1000, 100), (500, 495)])
def test_the_scheduler_chooses_what_is_cheaper(own, thread):
    right = batches.cheaper(own, thread)
    assert right == "either" or gate.choice(own, thread).value == right


@needs_compiler
@pytest.mark.timeout(60)
def test_every_way_makes_its_calls():
    placement = Placement.choose()
    figures, notes = batches.run_batches(placement, 1)
    missing = [note for note in notes if "n/a" in note]
    others = 0 if placement.shared else 4 + 2
    assert len(figures) == 3 + 3 + others - 2 * len(missing) or missing
    assert all(len(values) == 1 and values[0] > 0 for way in figures.values() for values in way.values())
    assert set(figures["plain"]) == set(batches.BATCHES)
    assert json.dumps(figures)


# ---- blocking programs


def row(label: str, rate: float, unavailable: str | None = None) -> Row:
    sample = Sample(rate, 1e6 / rate, 0.0, 801.0, 900.0, 1234.0, 1500.0, 2000.0, 0, 0.5)
    return Row(LoopChoice.parse(label), [sample], [[sample]], unavailable=unavailable)


def test_what_green_threads_lose_is_bold():
    rows = [row("gevent", 100.0), row("threads", 200.0), row("flexsc:kernel:off", 150.0)]
    rows.append(row("flexsc:user:off", 1.0, "why"))
    comparison = Comparison(workload("blocking-echo"), rows, "gevent")
    table = blocking.program_table([comparison])
    assert table.rows[2][3:8] == ("1.50", "**0.75**", "6666.7", "0.67", "**1.33**")
    assert table.rows[1][4] == "1.00" and table.rows[3][2] == "n/a" and "why" in table.notes[0]
    assert {len(each) for each in table.rows} == {len(table.columns)}
    lines = blocking.panel([comparison]).lines
    assert [line.points for line in lines[:3]] == [((64, 100.0),), ((64, 200.0),), ((64, 150.0),)]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("workload_name", ["wsgi", "wsgi-flask"])
@pytest.mark.parametrize("label", ["threads", "gevent", "flexsc:user:off"])
def test_gunicorn_serves_with_each_kind_of_threads(label, workload_name):
    for module in ("gunicorn", "flask", "gevent", "greenlet"):
        pytest.importorskip(module)
    cpu = Placement.choose().server_cpu
    with running_server(workload_name, LoopChoice.parse(label), python=sys.executable, cpu=cpu) as server:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/", timeout=20) as answer:
            assert answer.read() == wsgi.HELLO
        worker = server.pid
    deadline = time.monotonic() + 10
    while Path(f"/proc/{worker}").exists():
        assert time.monotonic() < deadline, "the worker has outlived the benchmark"
        time.sleep(0.01)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("label", ["threads", "flexsc:user:off"])
def test_a_blocking_client_measures_itself(label):
    pytest.importorskip("requests")
    cpu = Placement.choose().server_cpu
    with (
        running_server("static", LoopChoice.parse("asyncio"), python=sys.executable, cpu=cpu) as server,
        running_server("blocking-requests", LoopChoice.parse(label), python=sys.executable, cpu=cpu) as client,
    ):
        found = client.ask(40, port=server.port, connections=4, seconds=0.5, warmup=0.2)
        assert found["errors"] == {"requests": 0}
        assert found["requests"] > 0 and found["latency_us"]["p50"] > 0


# ---- scenarios


def found(own, pinned, auto, figure="requests/s", **changes) -> scenarios.Found:
    windows = {"own": own, "pinned": pinned, "auto": auto}
    return scenarios.Found(
        replace(scenarios.SCENARIOS[1], **changes), "user",
        {way: [{figure: value} for value in values] for way, values in windows.items() if values},
        {"trials": 2, "trials_won": 1, "alarms_steal": 1, "alarms_throttled": 2},
    )  # fmt: skip


def test_auto_is_held_against_the_better_fixed_choice_within_the_windows():
    one = found([100.0, 50.0, 100.0], [200.0, 100.0, 200.0], [190.0, 95.0, 300.0])
    assert one.better("requests/s") == "pinned"
    assert one.reached("requests/s") == scenarios.Interval(0.95, 0.95, 1.5)
    (row,) = scenarios.rows_of(one)
    assert row[3:7] == ("100.0", "200.0", "190.0", "0.95 (0.95 to 1.50), pinned")
    assert row[7:] == ("≥ 0.97", "missed, not for certain", "–", "2, 1, 3")
    assert len(row) == len(scenarios.COLUMNS)
    less = found([10.0], [20.0], [8.0], "p99 µs")
    assert less.better("p99 µs") == "own" and less.reached("p99 µs").median == 1.25
    assert scenarios.rows_of(less)[0][8] == "met"
    alone = found([10.0], [], [9.0], ways=("own", "auto"))
    assert scenarios.rows_of(alone)[0][4:9] == ("–", "9.0", "0.90 (0.90 to 0.90), own", "≥ 0.97", "**missed**")
    alone.unavailable = "no cgroup"
    assert scenarios.rows_of(alone)[0][2] == "n/a"


def test_two_runs_of_the_same_tell_what_noise_is():
    one = found([100.0, 50.0], [], [100.0, 50.0])
    one.windows["own again"] = [{"requests/s": 90.0}, {"requests/s": 55.0}]
    assert one.same("requests/s") == scenarios.Interval(1.0, 0.9, 1.1)
    assert scenarios.rows_of(one)[0][9] == "1.00 (0.90 to 1.10)"


@pytest.mark.parametrize(("count", "aside"), [(1, 0), (5, 0), (7, 0), (8, 1), (12, 2), (100, 40)])
def test_the_interval_of_a_median(count, aside):
    """As tables of the sign test have it: at least 92 of 100 such intervals have the median of all values in them."""
    assert scenarios.Interval.of([float(value) for value in range(count)]) == scenarios.Interval(
        (count - 1) / 2, aside, count - 1 - aside)


@pytest.mark.parametrize(
    ("cpu", "threads", "verdict"), [(0.0, 3, "met"), (0.05, 3, "met"), (0.0, 4, "**missed**"), (2.0, 3, "**missed**")]
)
def test_idle_has_no_thread_left_and_uses_nothing(cpu, threads, verdict):
    quiet = scenarios.Quiet("user", {"own": 0.0, "auto": cpu}, {"own": 3, "auto": threads})
    assert scenarios.idle_row(quiet)[8] == verdict


def test_where_a_quota_can_be_had(tmp_path):
    with pytest.raises(BenchmarkError, match="no controller"):
        parent_with_quota(tmp_path)
    (tmp_path / "cgroup.subtree_control").write_text("memory\n")
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cgroup.procs").write_text("")
    assert parent_with_quota(tmp_path) == tmp_path / "cpu"
    (tmp_path / "cgroup.subtree_control").write_text("cpu memory\n")
    assert parent_with_quota(tmp_path) == tmp_path
