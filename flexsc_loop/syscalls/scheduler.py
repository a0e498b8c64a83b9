"""Floor 2: which kind of page, served by whom, on which CPU, and why.

Owns: the choice and its reasons.  Imports: kernel_page, changing_page, user_page.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from flexsc_loop.scheduler import NOTHING_COUNTED
from flexsc_loop.syscalls.changing_page import ChangingKernelPage
from flexsc_loop.syscalls.kernel_page import KernelPage
from flexsc_loop.syscalls.page import Page
from flexsc_loop.syscalls.user_page import UserPage

if TYPE_CHECKING:
    from flexsc_loop.scheduler.pilot import Pilot

Kind = TypeVar("Kind", KernelPage, UserPage)

REFUSALS = {
    errno.EPERM: "io_uring is blocked: by a seccomp filter (containers do that) or by kernel.io_uring_disabled",
    errno.EACCES: "io_uring is blocked by a security policy",
    errno.ENOSYS: "this kernel has no io_uring, or a seccomp filter hides it",
    errno.ENOMEM: "not enough lockable memory for a ring: raise ulimit -l",
    errno.EINVAL: "this kernel's io_uring is too old: 6.1 or later is needed",
    errno.EOPNOTSUPP: "this kernel's io_uring lacks what is needed: 6.1 or later has it",
    errno.EMFILE: "too many open files",
}


class Sizes(NamedTuple):
    """How large a page is made; all are powers of two.

    entries: places for calls in a kernel page (a user page grows as needed).
    completions: places for results.
    buffers, buffer_size: the pool for receives, its number of buffers and their size in bytes.
    """

    entries: int
    completions: int
    buffers: int
    buffer_size: int

    def check(self) -> None:
        """Raise ValueError for what no page can be made of."""
        for name, most in (("entries", 32768), ("completions", 65536), ("buffers", 32768), ("buffer_size", 1 << 20)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1 or value > most or value & (value - 1):
                raise ValueError(f"{name}={value!r} must be a power of two from 1 to {most}")
        least = max(2, self.entries)
        if self.completions < least:
            raise ValueError(f"completions={self.completions!r} must be at least {least}: one for each of the entries")


class Choice:
    """What was chosen: `page`, its kind ("kernel" or "user"), the CPU of its syscall thread (None: no thread), and why.

    With threads="auto" `pilot` goes on to decide, and `cpu` is what holds now.
    """

    def __init__(self, page: Page, kind: str, cpu: int | None, reasons: list[str]) -> None:
        self.page = page
        self.kind = kind
        self.cpu = cpu
        self.reasons = reasons
        self.pilot: Pilot | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.kind} page, {self.state}: {'; '.join(self.reasons)}>"

    @property
    def state(self) -> str:
        """Who serves now, and why that does not change."""
        if self.pilot is not None:
            return self.pilot.describe()
        return "own thread" if self.cpu is None else f"syscall thread on CPU {self.cpu}"

    @property
    def decisions(self) -> list[str]:
        """The last decisions of threads="auto", oldest first, with their figures."""
        return list(self.pilot.decider.decisions) if self.pilot is not None else []

    @property
    def told(self) -> str:
        """In one line, for who looks from outside: who serves, what was decided last, and why this page was chosen."""
        return "; ".join([*([self.state] if self.pilot is not None else []), *self.decisions[-1:], *self.reasons])

    def counters(self) -> dict[str, int]:
        """How often what was decided."""
        return dict(self.pilot.decider.counts if self.pilot is not None else NOTHING_COUNTED)


def choose(pages: str, threads: str | tuple[int, ...], sizes: Sizes) -> Choice:
    """Open a page as asked for; "auto" falls back to what can be had, and says so in the reasons.

    Raises OSError or RuntimeError with cause and remedy when something asked for by name can't be had.
    """
    reasons: list[str] = []
    cpu = _cpu_for(threads, reasons)
    if pages != "user":
        try:
            page = _open(ChangingKernelPage if threads == "auto" else KernelPage, sizes, cpu)
            reasons.append("kernel page: io_uring works here" if pages == "auto" else "kernel page: asked for")
            if page.halved:
                reasons.append(f"of half the size, {max(sizes.entries // 2, 1)} entries: {REFUSALS[errno.ENOMEM]}")
            return _steered(Choice(page, "kernel", cpu, reasons), threads)
        except OSError as error:
            cause = f"{REFUSALS.get(error.errno or 0, 'io_uring could not be set up')} ({error})"
            if pages == "kernel":
                raise OSError(error.errno, f"no kernel page: {cause}; pages='auto' or 'user' works without") from error
            reasons.append(f"no kernel page: {cause}")
    reasons.append("user page: works everywhere" if pages == "auto" else "user page: asked for")
    return _steered(Choice(_open(UserPage, sizes, cpu), "user", cpu, reasons), threads)


def _steered(choice: Choice, threads: str | tuple[int, ...]) -> Choice:
    """With threads="auto": somebody who decides while the loop runs, where the page can change hands."""
    if threads == "auto":
        choice.reasons.append("own thread at first: a syscall thread is tried when the loop is busy and a CPU is idle")
        # Other loops need none of it.
        from flexsc_loop.scheduler.pilot import Pilot

        choice.pilot = Pilot(choice.page, choice)
    return choice


def _open(kind: type[Kind], sizes: Sizes, cpu: int | None) -> Kind:
    return kind(
        entries=sizes.entries, completions=sizes.completions, buffers=sizes.buffers, buffer_size=sizes.buffer_size,
        cpu=cpu,
    )


def _cpu_for(threads: str | tuple[int, ...], reasons: list[str]) -> int | None:
    """The CPU for a syscall thread; None for the loop's own thread."""
    if threads == "off":
        reasons.append("own thread: asked for")
        return None
    if threads == "auto":
        return None
    if not isinstance(threads, str):
        cpu = _least_used(threads)
        reasons.append(f"syscall thread on CPU {cpu}: asked for")
        return cpu
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < 2:
        reasons.append(f"own thread: this process may only use CPU {allowed[0]}, and a syscall thread that shares "
                       "its CPU is slower than none; name a CPU to have one all the same")
        return None
    cpu = _least_used(tuple(reversed(allowed[1:])))
    reasons.append(f"syscall thread on CPU {cpu}: asked for one, and this CPU is spare")
    return cpu


def _least_used(cpus: tuple[int, ...]) -> int:
    """The first CPU with the fewest syscall threads of this process on it."""
    counts = dict.fromkeys(cpus, 0)
    for _, cpu in _syscall_threads():
        if cpu in counts:
            counts[cpu] += 1
    return min(cpus, key=lambda cpu: counts[cpu])


def _syscall_threads() -> list[tuple[str, int]]:
    """Name and CPU of each syscall thread of this process that is pinned to one CPU."""
    found = []
    for task in os.listdir("/proc/self/task"):
        try:
            with open(f"/proc/self/task/{task}/status") as file:
                lines = dict(line.split(":", 1) for line in file if ":" in line)
        except OSError:
            continue
        name, allowed = lines["Name"].strip(), lines["Cpus_allowed_list"].strip()
        if name.startswith(("iou-sqp-", "flexsc-page")) and allowed.isdigit():
            found.append((name, int(allowed)))
    return found
