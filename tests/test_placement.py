"""Where the benchmarks put the server, the load and the syscall thread."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from benchmarks import placement
from benchmarks.placement import Placement, cores_first


def make_topology(folder: Path, cores: list[tuple[int, ...]]) -> Path:
    """A folder like sysfs's, of cores with these hardware threads."""
    for core in cores:
        for cpu in core:
            path = folder / f"cpu{cpu}" / "topology"
            path.mkdir(parents=True)
            (path / "thread_siblings_list").write_text(",".join(map(str, core)) + "\n")
    return folder


def test_each_core_comes_before_second_threads(tmp_path: Path) -> None:
    topology = make_topology(tmp_path, [(0, 1), (2, 3), (4, 5)])
    assert cores_first([5, 0, 1, 2, 3, 4], topology) == [0, 2, 4, 1, 3, 5]
    assert cores_first([1, 3, 2], topology) == [1, 2, 3]


def test_without_topology_each_cpu_is_a_core(tmp_path: Path) -> None:
    assert cores_first([2, 0, 1], tmp_path) == [0, 1, 2]


@pytest.mark.parametrize(
    ("cpus", "server", "load", "thread", "database"),
    [
        ({3}, 3, 3, 3, (3,)),
        ({3, 5}, 3, 5, 5, (5,)),
        ({3, 5, 7}, 3, 5, 7, (5,)),
        ({3, 5, 7, 8, 9}, 3, 5, 7, (5, 8, 9)),
    ],
)
def test_who_gets_which_cpu(
    monkeypatch: pytest.MonkeyPatch,
    cpus: set[int],
    server: int,
    load: int,
    thread: int,
    database: tuple[int, ...],
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: cpus)
    monkeypatch.setattr(placement, "may_use_real_time", lambda: False)
    monkeypatch.setattr(placement, "cores_first", lambda cpus: sorted(cpus))
    chosen = Placement.choose()
    assert (chosen.server_cpu, chosen.load_cpu, chosen.thread_cpu) == (server, load, thread)
    assert chosen.database_cpus == database
    assert chosen.shared == (len(cpus) == 1)
