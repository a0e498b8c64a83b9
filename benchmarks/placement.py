"""Which CPUs a benchmark uses, what it may do there, and which interpreters there are."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
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


@dataclass(frozen=True)
class Placement:
    """The server's CPU, the load generator's CPU, its real-time priority (0: none), and what that costs in accuracy."""

    server_cpu: int
    load_cpu: int
    fifo: int
    notes: tuple[str, ...] = field(default=())

    @property
    def shared(self) -> bool:
        """Only one CPU: server and load take turns on it, and a pinned syscall thread has nowhere to go."""
        return self.server_cpu == self.load_cpu

    @classmethod
    def choose(cls) -> Placement:
        """The first CPU for the server, the second one for the load, of those that this process may use."""
        cpus = sorted(os.sched_getaffinity(0))
        notes = []
        if len(cpus) == 1:
            notes.append("there is one CPU only: server and load generator share it, and no pinned thread is measured")
        fifo = REAL_TIME_PRIORITY if len(cpus) > 1 and may_use_real_time() else 0
        if len(cpus) > 1 and not fifo:
            notes.append("the load generator runs without real-time priority (not permitted here; root has it)")
        return cls(cpus[0], cpus[1] if len(cpus) > 1 else cpus[0], fifo, tuple(notes))


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
