"""Which CPUs a benchmark uses, what it may do there, and which interpreters there are."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from benchmarks.errors import BenchmarkError

ROOT = Path(__file__).resolve().parent.parent
REAL_TIME_PRIORITY = 10


def may_use_real_time() -> bool:
    """Whether SCHED_FIFO is permitted; tried on a child, so that this process stays as it is."""
    code = f"import os; os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param({REAL_TIME_PRIORITY}))"
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, check=False)
    return done.returncode == 0


def cores(cpus: Iterable[int], topology: Path = Path("/sys/devices/system/cpu")) -> list[list[int]]:
    """`cpus` by core; a core's CPUs are its hardware threads."""
    found: dict[str, list[int]] = {}
    for cpu in sorted(cpus):
        try:
            core = (topology / f"cpu{cpu}/topology/thread_siblings_list").read_text()
        except OSError:
            core = str(cpu)
        found.setdefault(core, []).append(cpu)
    return list(found.values())


@dataclass(frozen=True)
class Placement:
    """Which CPU is whose, the load generator's real-time priority (0: none), and what that costs in accuracy.

    `thread_cpu`, of pinned syscall threads, is a CPU of its own where there are three, and else the load generator's.
    `database_cpus` are those of a database that stands in for the load generator: its CPU, and one of each core that is
    left over.
    """

    server_cpu: int
    load_cpu: int
    thread_cpu: int
    database_cpus: tuple[int, ...]
    fifo: int
    notes: tuple[str, ...] = field(default=())

    @property
    def shared(self) -> bool:
        """Only one CPU: server and load take turns on it, and a pinned syscall thread has nowhere to go."""
        return self.server_cpu == self.load_cpu

    @classmethod
    def choose(cls) -> Placement:
        """The first CPU for the server, the second for the load, the third, where there is one, for syscall threads.

        Of those that this process may use, and on cores of their own as far as they go; the server shares one last.
        """
        by_core = cores(os.sched_getaffinity(0))
        alone = [core[0] for core in by_core]
        cpus = alone + [cpu for core in reversed(by_core) for cpu in core[1:]]
        notes = []
        if len(cpus) == 1:
            notes.append("there is one CPU only: server and load generator share it, and no pinned thread is measured")
        if len(cpus) == 2:
            notes.append("there are two CPUs only: a pinned syscall thread has to share the load generator's")
        fifo = REAL_TIME_PRIORITY if len(cpus) > 1 and may_use_real_time() else 0
        if len(cpus) > 1 and not fifo:
            notes.append("the load generator runs without real-time priority (not permitted here; root has it)")
        load_cpu = cpus[min(1, len(cpus) - 1)]
        thread_cpu = cpus[2] if len(cpus) > 2 else load_cpu
        return cls(cpus[0], load_cpu, thread_cpu, (load_cpu, *alone[3:]), fifo, tuple(notes))


@cache
def find_python(version: str | None) -> str:
    """An interpreter of `version` ("3.13"; None: the running one) that has the benchmarks' packages.

    Looks in .venv/VERSION of the project, then on PATH; raises BenchmarkError when there is none.
    """
    if version is None or version == f"{sys.version_info.major}.{sys.version_info.minor}":
        return sys.executable
    local = ROOT / ".venv" / version / "bin" / "python"
    candidates = [str(local) if local.exists() else None, shutil.which(f"python{version}")]
    for python in filter(None, candidates):
        done = subprocess.run([python, "-c", "import uvloop, aiohttp"], capture_output=True, check=False)
        if done.returncode == 0:
            return python
    raise BenchmarkError(f"no Python {version} with uvloop and aiohttp was found in .venv/{version} or on PATH")


def shown(path: Path) -> Path:
    """A path as one would type it in the project's folder."""
    path = path.resolve()
    return path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
