"""Floor 5: what loops did between two looks.

Owns: the open pages of all processes that are watched.  Imports: reader, layout.
"""

from __future__ import annotations

import contextlib
import functools
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from flexsc_loop.insight.layout import BadPage, Histogram, LoopStats
from flexsc_loop.insight.reader import Page, ThreadTimes, open_pages, processes, thread_state, thread_times

#: Counters whose rates are told, by name.
RATES = ("turns", "callbacks", "deliveries", "syscalls", "bytes_in", "bytes_out", "messages_in", "messages_out",
         "accepts", "jobs_done", "files_at_once", "files_queued", "files_by_threads")
GAUGES = ("streams", "tls", "listeners", "datagrams", "pipes", "ready", "timers", "in_flight", "green_threads")
SEARCH_EVERY = 5.0  # seconds: to look through all processes costs more than all else
LONG_TURN = 0.1  # seconds, from which on a turn is said to block


@dataclass(frozen=True)
class View:
    """One loop at one look: what it shows, and what has changed since the look before (None: it is the first).

    thread_state: of the thread that runs the loop, the kernel's letter.
    """

    stats: LoopStats
    before: LoopStats | None
    command: str
    loop_thread: tuple[ThreadTimes, ThreadTimes] | None
    syscall_thread: tuple[ThreadTimes, ThreadTimes] | None
    pid: int
    thread_state: str = ""

    @property
    def seconds(self) -> float:
        """Between the two looks, or since the loop was made."""
        return max(1e-9, self.stats.age if self.before is None else self.stats.at - self.before.at)

    def change(self, name: str) -> float:
        """How much a counter has grown; never less than 0."""
        return max(0.0, self.stats.counts[name] - (0 if self.before is None else self.before.counts[name]))

    def rate(self, name: str) -> float:
        """The same for a second."""
        return self.change(name) / self.seconds

    @property
    def busy(self) -> float:
        """The share of the time in which the loop was not asleep, a turn that goes on included."""
        turn = min(self.stats.since, self.seconds) if self.stats.state == "running" else 0.0
        return min(1.0, (self.change("busy") + self.change("in_calls") + turn) / self.seconds)

    def per_batch(self, name: str) -> float:
        """How many "submitted" entries, or "completions", there were for each batch that was handed over."""
        return self.change(name) / max(1.0, self.change("batches"))

    @property
    def blocked(self) -> float:
        """For how many seconds a turn has lasted, if that is long; else 0."""
        return self.stats.since if self.stats.state == "running" and self.stats.since >= LONG_TURN else 0.0

    @property
    def halted(self) -> bool:
        """Whether a signal or a debugger has stopped the process, so that whatever it does, it does not go on."""
        return self.thread_state in ("T", "t")

    @functools.cached_property
    def turn(self) -> Histogram:
        """How long turns took."""
        return self.stats.turn if self.before is None else self.stats.turn_after(self.before)

    @functools.cached_property
    def lag(self) -> Histogram:
        """How long, at most, what turns found to do had waited."""
        return self.stats.lag if self.before is None else self.stats.lag_after(self.before)

    def share(self, which: str) -> tuple[float, float] | None:
        """CPU time, and waiting for a CPU, of "loop_thread" or "syscall_thread", as shares of the time."""
        pair: tuple[ThreadTimes, ThreadTimes] | None = getattr(self, which)
        if pair is None or self.before is None:
            return None
        return ((pair[1].cpu - pair[0].cpu) / self.seconds, (pair[1].delay - pair[0].delay) / self.seconds)

    def data(self) -> dict[str, Any]:
        """Everything as plain data, for programs.  Times in seconds."""
        stats = self.stats
        quantiles = ((0.5, "p50"), (0.99, "p99"), (1.0, "max"))
        return {
            "pid": self.pid, "command": self.command, "loop": stats.number, "thread": stats.thread,
            "pages": stats.pages, "syscall_thread": stats.syscall_thread if stats.threads else None, "cpu": stats.cpu,
            "reason": stats.reason, "python": stats.python, "age": stats.age, "state": stats.state,
            "since": stats.since, "running": stats.running, "blocked": self.blocked, "thread_state": self.thread_state,
            "seconds": self.seconds, "busy": self.busy,
            "turn": {name: self.turn.quantile(share) for share, name in quantiles},
            "lag": {name: self.lag.quantile(share) for share, name in quantiles},
            "rates": {name: self.rate(name) for name in RATES},
            "batch": {"entries": self.per_batch("submitted"), "completions": self.per_batch("completions")},
            "now": {name: stats.counts[name] for name in GAUGES},
            "totals": dict(stats.counts),
            "loop_thread": self.share("loop_thread"), "syscall_thread_time": self.share("syscall_thread"),
        }


def command_of(pid: int) -> str:
    """What a process runs, in few words."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as file:
        words = [word.decode("utf-8", "replace") for word in file.read(4096).split(b"\0") if word]
        if words:
            text = " ".join([os.path.basename(words[0]), *words[1:]])
            return "".join(sign if sign.isprintable() else "?" for sign in text)
    return "?"


def _is_gone(pid: int) -> bool:
    """Whether a process has ended, also if nobody has waited for it yet."""
    try:
        os.readlink(f"/proc/{pid}/exe")
    except PermissionError:
        return False
    except OSError:
        return True
    return False


class Watch:
    """Looks at loops again and again.

    pids: of the processes whose loops are watched; none: of all that may be looked into.  match: what the command line
    holds of those that are told of.
    """

    def __init__(self, pids: Iterable[int] = (), match: str = "") -> None:
        self._pids = frozenset(pids)
        self._match = match
        self._pages: dict[tuple[int, int], Page] = {}
        self._last: dict[tuple[int, int], LoopStats] = {}
        self._threads: dict[tuple[int, int], ThreadTimes] = {}
        self._commands: dict[int, str] = {}
        self._searched = -SEARCH_EVERY

    def look(self) -> list[View]:
        """All loops that there are now, in the order of their processes.  Raises PermissionError for one of `pids`."""
        if time.monotonic() - self._searched >= SEARCH_EVERY or not self._pages:
            self._search()
        found = []
        for key, page in list(self._pages.items()):
            view = self._view(key, page)
            if view is None:
                self._drop(key)
            else:
                found.append(view)
        return sorted(found, key=lambda view: (view.pid, view.stats.number))

    @property
    def ended(self) -> bool:
        """Whether the processes that are watched are gone."""
        return bool(self._pids) and all(_is_gone(pid) for pid in self._pids)

    def close(self) -> None:
        """Look no longer."""
        for key in list(self._pages):
            self._drop(key)

    def _search(self) -> None:
        self._searched = time.monotonic()
        for pid in self._pids or processes():
            try:
                pages = open_pages(pid)
            except PermissionError:
                if self._pids:
                    raise
                continue
            if pages:
                self._commands[pid] = command_of(pid)  # which may be another one than before
            for page in pages:
                if page.key in self._pages or self._match not in self._commands[pid]:
                    page.close()
                else:
                    self._pages[page.key] = page
        there = {page.pid for page in self._pages.values()}
        self._commands = {pid: command for pid, command in self._commands.items() if pid in there}
        self._threads = {key: times for key, times in self._threads.items() if key[0] in there}

    def _view(self, key: tuple[int, int], page: Page) -> View | None:
        """None if the loop is gone: what a killed process has shown last stands in the page still."""
        try:
            stats = page.read()
        except (BadPage, OSError):
            return None
        if stats.state == "closed" or not page.held:
            return None
        before, self._last[key] = self._last.get(key), stats
        return View(stats, before, self._commands[page.pid], self._pair(page.pid, stats.thread),
                    self._pair(page.pid, stats.syscall_thread), page.pid, thread_state(page.pid, stats.thread))

    def _pair(self, pid: int, tid: int) -> tuple[ThreadTimes, ThreadTimes] | None:
        now = thread_times(pid, tid)
        if now is None:
            return None
        before = self._threads.get((pid, tid), now)
        self._threads[pid, tid] = now
        return before, now

    def _drop(self, key: tuple[int, int]) -> None:
        self._pages.pop(key).close()
        self._last.pop(key, None)


def peers(pid: int) -> Iterable[tuple[str, int]]:
    """Addresses of the other ends of a process's TCP connections, the most frequent first, and how many there are."""
    inodes = set()
    with contextlib.suppress(OSError):
        for name in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                inodes.add(os.readlink(f"/proc/{pid}/fd/{name}"))
    found: dict[str, int] = {}
    for family in ("tcp", "tcp6"):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/net/{family}") as file:
            next(file, None)
            for line in file:
                words = line.split()
                if len(words) > 9 and words[3] == "01" and f"socket:[{words[9]}]" in inodes:
                    address = _address(words[2].partition(":")[0])
                    found[address] = found.get(address, 0) + 1
    return sorted(found.items(), key=lambda item: -item[1])


def _address(text: str) -> str:
    """What /proc/net writes as words in the machine's order."""
    import ipaddress

    words = [int(text[at : at + 8], 16).to_bytes(4, "little") for at in range(0, len(text), 8)]
    address = ipaddress.ip_address(b"".join(words))
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)
