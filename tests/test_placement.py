"""Where the benchmarks put the server, the load and the syscall thread."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import placement
from benchmarks.placement import Placement, cores


def make_topology(folder: Path, cores: list[tuple[int, ...]]) -> Path:
    """A folder like sysfs's, of cores with these hardware threads."""
    for core in cores:
        for cpu in core:
            path = folder / f"cpu{cpu}" / "topology"
            path.mkdir(parents=True)
            (path / "thread_siblings_list").write_text(",".join(map(str, core)) + "\n")
    return folder


def test_cpus_by_core(tmp_path: Path) -> None:
    topology = make_topology(tmp_path, [(0, 1), (2, 3), (4, 5)])
    assert cores([5, 0, 1, 2, 3, 4], topology) == [[0, 1], [2, 3], [4, 5]]
    assert cores([1, 3, 2], topology) == [[1], [2, 3]]
    assert cores([2, 0, 7], topology) == [[0], [2], [7]]


@pytest.mark.parametrize(
    ("found", "server", "load", "thread", "database"),
    [
        ([[3]], 3, 3, 3, (3,)),
        ([[3, 4]], 3, 4, 4, (4,)),
        ([[3], [5]], 3, 5, 5, (5,)),
        ([[0, 1], [2, 3]], 0, 2, 3, (2,)),
        ([[3], [5], [7]], 3, 5, 7, (5,)),
        ([[0, 8], [1, 9], [2, 10], [3, 11]], 0, 1, 2, (1, 3)),
    ],
)
def test_who_gets_which_cpu(
    monkeypatch: pytest.MonkeyPatch,
    found: list[list[int]],
    server: int,
    load: int,
    thread: int,
    database: tuple[int, ...],
) -> None:
    monkeypatch.setattr(placement, "may_use_real_time", lambda: False)
    monkeypatch.setattr(placement, "cores", lambda _cpus: found)
    chosen = Placement.choose()
    assert (chosen.server_cpu, chosen.load_cpu, chosen.thread_cpu) == (server, load, thread)
    assert chosen.database_cpus == database
    assert chosen.shared == (server == load)
    assert any("share the load generator's" in note for note in chosen.notes) == (thread == load != server)
