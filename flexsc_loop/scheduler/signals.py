"""Floor 2: what the machine says of its CPUs: affinity, quota, idle time, steal, run delay, topology.

Owns: the files that are read again and again.  Imports: decider, for what it wants to know.  A file is opened when it
is first needed and read with one system call each time.
"""

from __future__ import annotations

import contextlib
import os
from collections import deque
from pathlib import Path
from typing import NamedTuple

from flexsc_loop.scheduler.decider import Machine

HISTORY = 6                      # looks: /proc/stat counts in hundredths of a second, so one window alone says little
IDLE_ENOUGH = 0.6                # among CPUs that are idle for so much of the time, the nearest is chosen
NO_LIMIT = float("inf")


class ProcFile:
    """A file of /proc, /sys or a cgroup.  One that is not there reads as nothing."""

    def __init__(self, path: str | Path, size: int = 4096) -> None:
        self._path, self._size = path, size
        self._fd = -2

    def read(self) -> bytes:
        """What stands there now."""
        if self._fd == -2:
            try:
                self._fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                self._fd = -1
        if self._fd < 0:
            return b""
        try:
            return os.pread(self._fd, self._size, 0)
        except OSError:
            return b""

    def close(self) -> None:
        """Not to be read any more, or opened anew by whoever reads."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -2


class CpuTimes(NamedTuple):
    """What a CPU has done since the machine was started, in hundredths of a second."""

    idle: int
    steal: int
    total: int


def parse_stat(text: bytes) -> dict[int, CpuTimes]:
    """The CPUs of /proc/stat.  Source: proc_stat(5)."""
    found = {}
    for line in text.split(b"\n"):
        name, _, rest = line.partition(b" ")
        if not name.startswith(b"cpu"):
            break
        if name == b"cpu" or not name[3:].isdigit():
            continue
        # Guests' time is in user and nice already.
        figures = [int(word) for word in rest.split()[:8]]
        if len(figures) == 8:
            idle, iowait, steal = figures[3], figures[4], figures[7]
            found[int(name[3:])] = CpuTimes(idle + iowait, steal, sum(figures))
    return found


def parse_schedstat(text: bytes) -> tuple[int, int]:
    """Time on a CPU and time of waiting for one, in nanoseconds.  Source: the kernel's sched-stats.rst."""
    words = text.split()
    return (int(words[0]), int(words[1])) if len(words) >= 2 else (0, 0)


def parse_cpus(text: str) -> set[int]:
    """A list of CPUs such as 0-3,8."""
    cpus: set[int] = set()
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        if first.isdigit():
            cpus.update(range(int(first), int(last or first) + 1))
    return cpus


# ---- the cgroup

class Cgroup:
    """What CPU time this process's cgroup, and those above it, may use; versions 1 and 2.

    mount: where cgroups are mounted.  proc: the text of /proc/self/cgroup.
    """

    def __init__(self, mount: str | Path = "/sys/fs/cgroup", proc: str | None = None) -> None:
        self._quotas: list[tuple[ProcFile, ProcFile | None]] = []
        self._stats: list[ProcFile] = []
        self._throttled = 0
        if proc is None:
            file = ProcFile("/proc/self/cgroup")
            proc = file.read().decode(errors="replace")
            file.close()
        self._find(Path(mount), proc)
        self.throttled()

    def _find(self, mount: Path, proc: str) -> None:
        for line in proc.splitlines():
            _, controllers, path = line.split(":", 2) if line.count(":") >= 2 else ("", "", "")
            if path and controllers == "":
                for folder in _upwards(mount, path):
                    self._add(folder / "cpu.max", None, folder / "cpu.stat")
            elif "cpu" in controllers.split(","):
                root = mount / controllers if (mount / controllers).is_dir() else mount / "cpu"
                for folder in _upwards(root, path):
                    self._add(folder / "cpu.cfs_quota_us", folder / "cpu.cfs_period_us", folder / "cpu.stat")

    def _add(self, quota: Path, period: Path | None, stat: Path) -> None:
        if quota.exists():
            self._quotas.append((ProcFile(quota), ProcFile(period) if period else None))
            self._stats.append(ProcFile(stat))

    def quota(self) -> float:
        """CPUs' worth of time, `NO_LIMIT` without one."""
        return min((_quota(quota.read(), period.read() if period else b"") for quota, period in self._quotas),
                   default=NO_LIMIT)

    def throttled(self) -> bool:
        """Whether a group has been throttled since this was asked last."""
        before = self._throttled
        self._throttled = sum(_times_throttled(stat.read()) for stat in self._stats)
        return self._throttled > before

    def close(self) -> None:
        """Close the files."""
        for quota, period in self._quotas:
            quota.close()
            if period is not None:
                period.close()
        for stat in self._stats:
            stat.close()


def _upwards(root: Path, path: str) -> list[Path]:
    """The folder of a group and of those above it, as far as they are there: a container sees its own only."""
    parts = [part for part in path.split("/") if part and part != ".."]
    return [root.joinpath(*parts[:depth]) for depth in range(len(parts), -1, -1)]


def _quota(quota: bytes, period: bytes) -> float:
    words = quota.split() + period.split()
    try:
        most, each = int(words[0]), int(words[1])
    except (IndexError, ValueError):
        return NO_LIMIT  # "max", or not there
    return most / each if most > 0 and each > 0 else NO_LIMIT


def _times_throttled(text: bytes) -> int:
    for line in text.split(b"\n"):
        name, _, value = line.partition(b" ")
        if name == b"nr_throttled" and value.strip().isdigit():
            return int(value)
    return 0


# ---- which CPU

class Topology:
    """Which CPUs are near each other.  Read once for each CPU, when it is first asked for."""

    def __init__(self, folder: str | Path = "/sys/devices/system/cpu") -> None:
        self._folder = Path(folder)
        self._siblings: dict[int, set[int]] = {}
        self._near: dict[int, set[int]] = {}

    def siblings(self, cpu: int) -> set[int]:
        """The hardware threads of the same core, this one included."""
        if cpu not in self._siblings:
            self._siblings[cpu] = self._list(cpu, "topology/thread_siblings_list") | {cpu}
        return self._siblings[cpu]

    def near(self, cpu: int) -> set[int]:
        """Those with which it shares its last cache; its package, where that is not told."""
        if cpu not in self._near:
            caches = sorted((self._folder / f"cpu{cpu}" / "cache").glob("index*"))
            found = self._list(cpu, f"cache/{caches[-1].name}/shared_cpu_list") if caches else set()
            self._near[cpu] = found or self._list(cpu, "topology/package_cpus_list") or {cpu}
        return self._near[cpu]

    def _list(self, cpu: int, name: str) -> set[int]:
        with contextlib.suppress(OSError):
            return parse_cpus((self._folder / f"cpu{cpu}" / name).read_text())
        return set()


def order(loop_cpu: int, allowed: set[int], idle: dict[int, float], topology: Topology) -> list[int]:
    """The CPUs for a syscall thread, best first: idle; not of the loop's core; near it in the cache hierarchy."""
    def rank(cpu: int) -> tuple[bool, bool, bool, float, int]:
        free = idle.get(cpu, 0.0)
        sibling, far = cpu in topology.siblings(loop_cpu), cpu not in topology.near(loop_cpu)
        return (free < IDLE_ENOUGH, sibling, far, -round(free, 1), cpu)

    return sorted((cpu for cpu in allowed if cpu != loop_cpu and cpu in idle), key=rank)


# ---- all of it

class Signals:
    """Reads what `Machine` consists of.

    proc, cgroup, topology: where to read, for tests.
    """

    def __init__(
        self, proc: str | Path = "/proc", cgroup: Cgroup | None = None, topology: Topology | None = None
    ) -> None:
        self._proc = Path(proc)
        self._stat = ProcFile(self._proc / "stat", 128 * ((os.cpu_count() or 1) + 2))
        self._cgroup = cgroup if cgroup is not None else Cgroup()
        self._topology = topology if topology is not None else Topology()
        self._seen: deque[dict[int, CpuTimes]] = deque(maxlen=HISTORY)
        self._thread: tuple[int, ProcFile] | None = None
        self._waited = 0

    def candidates(self, loop_cpu: int) -> tuple[set[int], list[int], dict[int, float], dict[int, float]]:
        """Look at the CPUs: those allowed; in which order to take them; idle share and steal of each."""
        allowed = os.sched_getaffinity(0)
        now = parse_stat(self._stat.read())
        self._seen.append(now)
        before = self._seen[0]
        idle, steal = {}, {}
        for cpu, times in now.items():
            if cpu in before and times.total > before[cpu].total:
                past = times.total - before[cpu].total
                idle[cpu] = (times.idle - before[cpu].idle) / past
                steal[cpu] = (times.steal - before[cpu].steal) / past
        return allowed, order(loop_cpu, allowed, idle, self._topology), idle, steal

    def run_delay(self, tid: int) -> int:
        """How long a thread has waited for its CPU since this was asked last, in nanoseconds; 0 the first time."""
        known = self._thread is not None and self._thread[0] == tid
        if not known:
            self._forget_thread()
            if tid <= 0:
                return 0
            self._thread = (tid, ProcFile(self._proc / "self" / "task" / str(tid) / "schedstat", 128))
        assert self._thread is not None
        waited = parse_schedstat(self._thread[1].read())[1]
        before, self._waited = self._waited, waited
        return max(0, waited - before) if known else 0

    def machine(self, loop_cpu: int, thread_cpu: int | None, tid: int, elapsed_ns: int) -> tuple[Machine, list[int]]:
        """What the machine says now, and the CPUs for a syscall thread, best first."""
        allowed, best, idle, steal = self.candidates(loop_cpu)
        spare = thread_cpu if thread_cpu is not None else best[0] if best else None
        concerned = [cpu for cpu in (loop_cpu, spare) if cpu is not None]
        found = Machine(
            len(allowed), self._cgroup.quota(), self._cgroup.throttled(),
            max((steal.get(cpu, 0.0) for cpu in concerned), default=0.0),
            self.run_delay(tid) / max(1, elapsed_ns), spare, idle.get(spare, 0.0) if spare is not None else 0.0)
        return found, best

    def forget(self) -> None:
        """The next look is the first one after a pause: what was seen before tells nothing of now."""
        self._seen.clear()

    def _forget_thread(self) -> None:
        if self._thread is not None:
            self._thread[1].close()
        self._thread = None
        self._waited = 0

    def close(self) -> None:
        """Close the files."""
        self._stat.close()
        self._cgroup.close()
        self._forget_thread()
