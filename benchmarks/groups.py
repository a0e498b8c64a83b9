"""A cgroup with a quota of CPU time, of whichever version can be had here."""

from __future__ import annotations

import contextlib
from pathlib import Path

from benchmarks.errors import BenchmarkError

MOUNTS = Path("/sys/fs/cgroup")
PERIOD_US = 100_000


class Group:
    """A new group below the mount; removed at the end of the with block, what is in it moved up.

    quota: CPUs' worth of time.  Raises BenchmarkError where no group with a quota can be made.
    """

    def __init__(self, name: str, quota: float, mounts: Path = MOUNTS) -> None:
        self._taken: list[int] = []
        self._parent = parent_with_quota(mounts)
        self._folder = self._parent / name
        most = str(round(quota * PERIOD_US))
        try:
            self._folder.mkdir()
            if (self._parent / "cpu.cfs_quota_us").exists():
                self._write("cpu.cfs_period_us", str(PERIOD_US))
                self._write("cpu.cfs_quota_us", most)
            else:
                self._write("cpu.max", f"{most} {PERIOD_US}")
        except OSError as error:
            with contextlib.suppress(OSError):
                self._folder.rmdir()
            raise BenchmarkError(f"no cgroup with a quota can be made here: {error}") from error

    def _write(self, name: str, text: str) -> None:
        (self._folder / name).write_text(text)

    def take(self, pid: int) -> None:
        """Puts a process, with all its threads, into the group."""
        self._write("cgroup.procs", str(pid))
        self._taken.append(pid)

    def __enter__(self) -> Group:
        return self

    def __exit__(self, *_: object) -> None:
        for pid in self._taken:
            with contextlib.suppress(OSError):
                (self._parent / "cgroup.procs").write_text(str(pid))
        with contextlib.suppress(OSError):
            self._folder.rmdir()


def parent_with_quota(mounts: Path) -> Path:
    """Where groups can have a quota: version 2 with the controller `cpu`, else version 1."""
    for folder in (mounts, mounts / "unified"):
        with contextlib.suppress(OSError):
            if "cpu" in (folder / "cgroup.subtree_control").read_text().split():
                return folder
    for folder in (mounts / "cpu,cpuacct", mounts / "cpu"):
        if (folder / "cgroup.procs").exists():
            return folder
    raise BenchmarkError(f"no cgroup with a quota can be made here: {mounts} has no controller `cpu`")
