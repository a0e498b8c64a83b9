"""What the scheduler reads of the machine, from recorded files; and the lease on a CPU, from real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from support import ROOT

from flexsc_loop.scheduler.decider import Machine
from flexsc_loop.scheduler.lease import Lease
from flexsc_loop.scheduler.pilot import Pilot
from flexsc_loop.scheduler.signals import (
    Cgroup,
    CpuTimes,
    ProcFile,
    Signals,
    Topology,
    order,
    parse_cpus,
    parse_schedstat,
    parse_stat,
)

pytestmark = pytest.mark.ours

STAT = b"""cpu  2991129 314818 767341 3332636 52058 0 75683 5756 0 0
cpu0 1522703 161580 278047 1748167 12391 0 38952 2822 0 0
cpu1 1468426 153238 489293 1584468 39666 0 36730 2933 0 0
intr 57197433 0 0
ctxt 1990473
cpus 3
"""


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


# ---- /proc

def test_proc_stat() -> None:
    found = parse_stat(STAT)
    assert found == {
        0: CpuTimes(1748167 + 12391, 2822, 1522703 + 161580 + 278047 + 1748167 + 12391 + 38952 + 2822),
        1: CpuTimes(1584468 + 39666, 2933, 1468426 + 153238 + 489293 + 1584468 + 39666 + 36730 + 2933),
    }
    # Before Linux 2.6.11 there was no steal; a cut line is none.
    assert parse_stat(b"cpu  1 2\ncpu0 1 2 3 4 5 6 7\ncpu1 1 2 3 4 5 6 7 8") == {1: CpuTimes(9, 8, 36)}
    assert parse_stat(b"") == {}


def test_schedstat() -> None:
    assert parse_schedstat(b"897633 5863518 3\n") == (897633, 5863518)
    assert parse_schedstat(b"") == (0, 0)


def test_lists_of_cpus() -> None:
    assert parse_cpus("0-2,8\n") == {0, 1, 2, 8}
    assert parse_cpus("\n") == set()


def test_a_file_is_read_anew_each_time_and_may_be_missing(tmp_path: Path) -> None:
    path = tmp_path / "file"
    missing = ProcFile(path)
    assert missing.read() == b""
    path.write_text("1")
    file = ProcFile(path)
    assert file.read() == b"1"
    path.write_text("2")
    assert file.read() == b"2"
    file.close()
    file.close()
    missing.close()


def test_run_delay_of_a_thread(tmp_path: Path) -> None:
    write(tmp_path, {"self/task/7/schedstat": "5 1000 1", "self/task/8/schedstat": "5 77 1"})
    signals = Signals(tmp_path, Cgroup(tmp_path, ""), Topology(tmp_path))
    assert signals.run_delay(7) == 0
    write(tmp_path, {"self/task/7/schedstat": "9 1250 2"})
    assert signals.run_delay(7) == 250
    # Another thread, and none, begin anew.
    assert signals.run_delay(8) == 0
    assert signals.run_delay(0) == 0
    signals.close()


def test_the_kernel_s_own_files() -> None:
    signals = Signals()
    for _ in range(2):
        found, best = signals.machine(0, None, threading.get_native_id(), 1)
    assert found.cpus == len(os.sched_getaffinity(0))
    assert found.quota > 0
    assert found.run_delay >= 0
    assert set(best) <= os.sched_getaffinity(0) - {0}
    signals.close()


def test_idle_and_steal_are_shares_of_the_last_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    write(tmp_path, {"stat": "cpu0 0 0 0 0 0 0 0 0\ncpu1 0 0 0 0 0 0 0 0\n"})
    signals = Signals(tmp_path, Cgroup(tmp_path, ""), Topology(tmp_path))
    found, best = signals.machine(0, None, 0, 1)
    # One look alone says nothing.
    assert (best, found.spare, found.idle) == ([], None, 0)
    write(tmp_path, {"stat": "cpu0 7 0 0 0 0 0 0 3\ncpu1 2 0 0 7 1 0 0 0\n"})
    found, best = signals.machine(0, None, 0, 1)
    assert (best, found.spare, found.idle, found.steal) == ([1], 1, 0.8, 0.3)
    signals.forget()
    assert signals.machine(0, None, 0, 1)[0].spare is None
    signals.close()


# ---- cgroups

def test_no_cgroup(tmp_path: Path) -> None:
    for text in ("", "0::/\n", "1:cpu:/\n", "nonsense"):
        cgroup = Cgroup(tmp_path, text)
        assert cgroup.quota() == float("inf")
        assert not cgroup.throttled()
        cgroup.close()


def test_version_2_the_tightest_of_the_groups_above_counts(tmp_path: Path) -> None:
    write(tmp_path, {
        "cpu.max": "max 100000\n", "cpu.stat": "usage_usec 5\n",
        "box/cpu.max": "150000 100000\n", "box/cpu.stat": "nr_periods 9\nnr_throttled 4\nthrottled_usec 7\n",
        "box/app/cpu.max": "400000 100000\n", "box/app/cpu.stat": "nr_throttled 0\n",
    })
    cgroup = Cgroup(tmp_path, "0::/box/app\n")
    assert cgroup.quota() == 1.5
    assert not cgroup.throttled()
    write(tmp_path, {"box/cpu.stat": "usage_usec 6\nnr_periods 10\nnr_throttled 5\nthrottled_usec 9\n"})
    assert cgroup.throttled()
    assert not cgroup.throttled()
    # A change is seen at once.
    write(tmp_path, {"box/cpu.max": "50000 100000\n"})
    assert cgroup.quota() == 0.5
    cgroup.close()


def test_version_1(tmp_path: Path) -> None:
    write(tmp_path, {
        "cpu,cpuacct/docker/cpu.cfs_quota_us": "50000\n", "cpu,cpuacct/docker/cpu.cfs_period_us": "100000\n",
        "cpu,cpuacct/docker/cpu.stat": "nr_periods 3\nnr_throttled 1\nthrottled_time 5\n",
        "cpu,cpuacct/cpu.cfs_quota_us": "-1\n", "cpu,cpuacct/cpu.cfs_period_us": "100000\n",
    })
    cgroup = Cgroup(tmp_path, "5:cpu,cpuacct:/docker\n0::/\n")
    assert cgroup.quota() == 0.5
    write(tmp_path, {"cpu,cpuacct/docker/cpu.stat": "nr_periods 3\nnr_throttled 2\n"})
    assert cgroup.throttled()
    cgroup.close()


def test_a_container_sees_its_own_group_at_the_mount(tmp_path: Path) -> None:
    """/proc/self/cgroup may name a path from outside, which is not there."""
    write(tmp_path, {"cpu.max": "100000 100000\n", "cpu.stat": "nr_throttled 0\n"})
    for text in ("0::/\n", "0::/docker/abc\n", "0::/../..\n"):
        cgroup = Cgroup(tmp_path, text)
        assert cgroup.quota() == 1.0
        cgroup.close()


# ---- which CPU

def make_topology(folder: Path, cores: list[tuple[int, ...]], caches: list[tuple[int, ...]]) -> Topology:
    files = {}
    for group, name in ((cores, "topology/thread_siblings_list"), (caches, "cache/index3/shared_cpu_list")):
        for cpus in group:
            files.update({f"cpu{cpu}/{name}": ",".join(map(str, cpus)) for cpu in cpus})
    files.update({f"cpu{cpu}/cache/index0/shared_cpu_list": str(cpu) for cpus in cores for cpu in cpus})
    return Topology(write(folder, files))


def test_idle_then_another_core_then_near(tmp_path: Path) -> None:
    # Two packages of two cores of two hardware threads each.
    topology = make_topology(tmp_path, [(0, 4), (1, 5), (2, 6), (3, 7)], [(0, 1, 4, 5), (2, 3, 6, 7)])
    idle = dict.fromkeys(range(8), 1.0)
    everything = set(range(8))
    assert order(0, everything, idle, topology) == [1, 5, 2, 3, 6, 7, 4]
    # The sibling is better than a CPU that is busy, and a far one is better than it.
    idle.update({1: 0.1, 5: 0.0, 2: 0.9, 3: 0.2, 6: 0.2, 7: 0.3})
    assert order(0, everything, idle, topology) == [2, 4, 1, 5, 7, 3, 6]
    assert order(0, {0, 4}, idle, topology) == [4]
    assert order(0, {0}, idle, topology) == []
    assert order(7, {2, 3}, idle, topology) == [2, 3]


def test_a_machine_that_tells_nothing_of_its_topology(tmp_path: Path) -> None:
    assert order(0, {0, 1, 2}, {0: 1.0, 1: 0.5, 2: 0.7}, Topology(tmp_path)) == [2, 1]


# ---- the lease

HOLDER = """
import sys
from flexsc_loop.scheduler.lease import Lease
lease = Lease()
print(lease.take(int(sys.argv[1])), flush=True)
sys.stdin.read()
"""
CPU = 4000 + os.getpid() % 10_000  # no CPU's number, and no other test run's


def hold(cpu: int) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", HOLDER, str(cpu)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                            text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGABRT, None])
def test_a_lease_ends_with_its_holder_however_it_dies(how: int | None) -> None:
    lease = Lease()
    with hold(CPU) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "True\n"
        assert not lease.take(CPU)
        assert lease.cpu is None
        if how is not None:
            holder.send_signal(how)
        else:
            holder.communicate()
        holder.wait()
    assert lease.take(CPU)
    lease.drop()


def test_a_lease_is_one_loop_s_and_of_one_cpu() -> None:
    first, second = Lease(), Lease()
    assert first.take(CPU)
    assert first.take(CPU)
    assert not second.take(CPU)
    assert second.take(CPU + 1)
    assert not second.take(CPU)
    assert second.cpu == CPU + 1
    assert first.take(CPU + 2)
    assert second.take(CPU)
    for lease in (first, second):
        lease.drop()
        lease.drop()
        assert lease.cpu is None


class ManyCpus:
    """Signals of a machine all of whose CPUs but the loop's are idle, nearest first."""

    def __init__(self, loop_cpu: int, cpus: list[int]) -> None:
        self.loop_cpu, self.cpus = loop_cpu, cpus

    def machine(self, loop_cpu: int, thread_cpu: int | None, tid: int, elapsed_ns: int) -> tuple[Machine, list[int]]:
        best = sorted((cpu for cpu in self.cpus if cpu != loop_cpu), key=lambda cpu: abs(cpu - loop_cpu))
        return Machine(len(self.cpus), float("inf"), False, 0.0, 0.0, best[0], 1.0), best

    def close(self) -> None:
        pass


@pytest.mark.parametrize(("cpus", "served"), [(8, 4), (4, 4), (3, 3)])
def test_workers_take_different_cpus_or_none(cpus: int, served: int) -> None:
    """Four workers that all want a thread at once."""
    machine = [CPU + 100 + number for number in range(cpus)]
    pilots = []
    for number in range(4):
        pilot = Pilot(None, None, ManyCpus(machine[number % cpus], machine))  # type: ignore[arg-type]
        pilot._ran_on.append(machine[number % cpus])
        pilot.decider._open = 1  # the gate has begun to open
        pilots.append(pilot)
    try:
        spare = [pilot._machine(1).spare for pilot in pilots]
        taken = [cpu for cpu in spare if cpu is not None]
        assert len(taken) == len(set(taken)) == served
        assert [pilot._machine(2).spare for pilot in pilots] == spare  # they keep theirs
    finally:
        for pilot in pilots:
            pilot.close()


def test_a_child_made_by_exec_does_not_hold_on_to_it() -> None:
    lease, other = Lease(), Lease()
    assert lease.take(CPU)
    program = "print(1, flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          close_fds=False) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"1\n"
        lease.drop()
        assert other.take(CPU)
        other.drop()
        child.communicate(b"\n")
