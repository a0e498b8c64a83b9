"""The benchmark of importing and installing: what it makes of its samples.  No speed is judged."""

from __future__ import annotations

import sys

import pytest

starting = pytest.importorskip("benchmarks.starting", reason="the benchmarks are not here")
Import = starting.Import


def test_an_import_is_measured_in_a_process_of_its_own():
    found = starting.import_once(sys.executable, "asyncio")
    assert found.cpu_s > 0 and found.wall_s > 0
    assert 2**20 < found.memory < 2**30


def test_differences_are_taken_within_pairs_and_time_between_the_fastest():
    pairs = [
        (Import(0.010, 0.020, 10 << 20), Import(0.021, 0.900, 13 << 20)),
        (Import(0.050, 0.700, 20 << 20), Import(0.062, 0.045, 24 << 20)),
        (Import(0.030, 0.090, 30 << 20), Import(0.043, 0.300, 35 << 20)),
    ]
    assert starting.more(pairs) == (
        "importing flexsc_loop, more than asyncio: 12.0 ms of CPU, 25.0 ms, 4.00 MiB of private memory"
    )


def test_what_is_served_answers():
    starting.run([sys.executable, "-c", starting.SERVE])


def test_what_fails_is_said(capsys, tmp_path):
    assert starting.main(["--wheel", str(tmp_path / "missing.whl")]) == 1
    assert "missing.whl" in capsys.readouterr().err
    with pytest.raises(starting.BenchmarkError, match="No module named"):
        starting.run([sys.executable, "-c", "import not_there"])
