"""Floor 5: finding and reading the stats pages of processes, this one's or others'.

A page is found through /proc/PID/fd, which the same user (and root) may look into.  Anybody can name a file or a memfd
so that it looks like a page.  So what is opened is first looked at without being opened (O_PATH): it must be a memory
file of the kernel's own, of the right size; it is read, never mapped, so that it may shrink meanwhile; and what is in
it is not believed (layout.py).
"""

from __future__ import annotations

import contextlib
import functools
import os
import stat
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from flexsc_loop.insight.layout import NS, SIZE, BadPage, LoopStats, parse

if TYPE_CHECKING:
    from flexsc_loop.loop import Loop

NAME = "/memfd:flexsc_loop (deleted)"
LOOKS = 5  # for counts that belong together


@functools.cache
def _memory_device() -> int:
    """The device that memory files are on, which no mounted file system is."""
    fd = os.memfd_create("flexsc_loop-reader")
    try:
        return os.fstat(fd).st_dev
    finally:
        os.close(fd)


def processes() -> Iterator[int]:
    """Ids of all processes that can be seen."""
    return (int(name) for name in os.listdir("/proc") if name.isdigit())


class Page:
    """An open stats page.  Raises BadPage if it is none, OSError if it can't be read."""

    def __init__(self, pid: int, fd: str) -> None:
        self.pid = pid
        self._name = f"/proc/{pid}/fd/{fd}"
        seen = os.open(self._name, os.O_PATH | os.O_CLOEXEC)
        try:
            what = os.fstat(seen)
            if not stat.S_ISREG(what.st_mode) or what.st_dev != _memory_device() or what.st_size != SIZE:
                raise BadPage("it is no memory file of this size")
            self._fd = os.open(f"/proc/self/fd/{seen}", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            os.close(seen)
        self._file = (what.st_dev, what.st_ino)
        self.key = (pid, what.st_ino)

    @property
    def held(self) -> bool:
        """Whether the process has it still.  What it showed last can be read when the loop, or the process, is gone.

        Also gone is a process that runs another program by now, one whose id another one has, and one into which one
        may look no longer.
        """
        try:
            what = os.stat(self._name)
        except OSError:
            return False
        return (what.st_dev, what.st_ino) == self._file

    def read(self) -> LoopStats:
        """What the loop shows now.  Raises BadPage."""
        for _ in range(LOOKS):
            found = parse(os.pread(self._fd, SIZE + 1, 0), time.clock_gettime_ns(time.CLOCK_MONOTONIC))
            if found.consistent:
                break
        return found

    def close(self) -> None:
        """The page stays what it is."""
        os.close(self._fd)


def _own_id(pid: int) -> int:
    """The id of a process as it knows itself, which is another one in a container; 0 if it is gone."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/status") as file:
        for line in file:
            if line.startswith("NSpid:"):
                return int(line.split()[-1])
    return 0


def open_pages(pid: int) -> list[Page]:
    """The pages of a process that are its own; none if it is gone.  Raises PermissionError.

    A child that was forked without Python's knowledge holds its parent's, too, until it ends.
    """
    found: list[Page] = []
    try:
        names = os.listdir(f"/proc/{pid}/fd")
    except (FileNotFoundError, ProcessLookupError):
        return []
    for name in names:
        try:
            if os.readlink(f"/proc/{pid}/fd/{name}") != NAME:
                continue
            page = Page(pid, name)
        except (BadPage, FileNotFoundError, ProcessLookupError):
            continue
        try:
            mine = page.read().pid == _own_id(pid)
        except BadPage:
            mine = False
        if mine and page.key not in {other.key for other in found}:
            found.append(page)
        else:
            page.close()
    return found


def pages_of(pid: int) -> list[LoopStats]:
    """What the loops of a process show now, in the order in which they were made.

    Works while they hang.  Empty for a process without loops of this package, or with another version's.
    Raises PermissionError for a process of somebody else.
    """
    found = []
    for page in open_pages(pid):
        with contextlib.suppress(BadPage):
            found.append(page.read())
        page.close()
    return sorted(found, key=lambda stats: (stats.made, stats.number))


def thread_state(pid: int, tid: int) -> str:
    """The kernel's letter for what a thread does, see ps(1): R, S, D, and T or t for a stopped one; "" if not known.

    Of the process's first thread where there is none of this id, as for whoever is outside of a container: it is
    stopped together with all others.
    """
    for name in (f"/proc/{pid}/task/{tid}/stat", f"/proc/{pid}/stat"):
        with contextlib.suppress(OSError, IndexError), open(name, encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0]
    return ""


class ThreadTimes(NamedTuple):
    """CPU time and the time of waiting for a CPU of one thread, in seconds so far."""

    cpu: float
    delay: float


def thread_times(pid: int, tid: int) -> ThreadTimes | None:
    """None if there is no such thread: in a container's process, for whoever is outside, ids are others."""
    if not tid:
        return None
    with contextlib.suppress(OSError, ValueError, IndexError), open(f"/proc/{pid}/task/{tid}/schedstat") as file:
        cpu, delay = file.read().split()[:2]
        return ThreadTimes(int(cpu) / NS, int(delay) / NS)
    return None


def read(loop: Loop) -> LoopStats:
    """What a loop of this process has counted until now, from any of its threads, open or closed."""
    return parse(loop._stats_page(), time.clock_gettime_ns(time.CLOCK_MONOTONIC))


def loops_here() -> list[tuple[LoopStats, Loop]]:
    """What the loops of this process have counted, in the order in which they were made, closed ones included.

    Those that a forked child has inherited are its parent's.
    """
    from flexsc_loop.loop import _loops

    while True:
        try:
            found = list(_loops)
            break
        except RuntimeError:
            continue  # another thread has just made one
    mine = [(stats, loop) for loop in found if (stats := read(loop)).pid == os.getpid()]
    return sorted(mine, key=lambda entry: (entry[0].made, entry[0].number))


def own_loops() -> list[Loop]:
    """The loops of this process that are open, in the order in which they were made."""
    return [loop for stats, loop in loops_here() if stats.state != "closed"]
