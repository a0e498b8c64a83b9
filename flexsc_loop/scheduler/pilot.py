"""Floor 2: has a page change hands as the scheduler decides.

Owns: the looks, the lease, the log lines.  Imports: decider, signals, lease.  The loop calls `look` between two turns,
at most once in a window, and never while it sleeps.
"""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import time
from collections import deque
from typing import TYPE_CHECKING, Protocol

from flexsc_loop.scheduler.decider import (
    GATE_WINDOWS,
    MESSAGES_LEAST,
    SECOND,
    WINDOW_NS,
    Decider,
    Decision,
    Load,
    Machine,
    State,
)
from flexsc_loop.scheduler.lease import Lease

if TYPE_CHECKING:
    from flexsc_loop.scheduler.signals import Signals

logger = logging.getLogger("flexsc_loop")
HOME_LOOKS = GATE_WINDOWS


class Hands(Protocol):
    """A page that can change hands."""

    def change_hands(self, cpu: int | None) -> None:
        """Have a syscall thread on `cpu` serve from now on, or the own thread.  Raises OSError, and nothing changes."""

    def let_go(self) -> None:
        """Free what was kept for a syscall thread that is to serve again soon."""

    def thread_id(self) -> int:
        """Of the syscall thread; 0: not known, or there is none."""

    def thread_cpu_ns(self) -> int:
        """CPU time of all its syscall threads so far."""


class Served(Protocol):
    """Where others read who serves; `cpu` is kept up to date."""

    cpu: int | None


class Pilot:
    """Looks, decides and acts for one page."""

    def __init__(
        self, page: Hands, served: Served, signals: Signals | None = None, decider: Decider | None = None
    ) -> None:
        self.decider = decider if decider is not None else Decider()
        self._page, self._served = page, served
        self._signals = signals
        self._lease = Lease()
        self._looked_ns = self._asked_ns = time.monotonic_ns()
        self._ran_on: deque[int] = deque(maxlen=HOME_LOOKS)
        self._messages = self._received = self._thread_ns = 0
        self._usage: tuple[float, float] | None = None
        self._cpu: int | None = None

    @property
    def steers(self) -> bool:
        """Whether it must look in time even if the loop has nothing to do."""
        return self.decider.state is not State.OWN

    @property
    def late_look_ns(self) -> int:
        """A syscall thread that has been so late since the last look is looked at now."""
        return self.decider.late_look_ns

    def look(self, loop_cpu: int, messages: int, received: int, waited: float, late_ns: int = 0) -> int:
        """See who should serve, and have the page change hands.  Returns the time until the next look, in nanoseconds.

        loop_cpu: where the loop's thread runs.  messages, received: how often something came in, and how many bytes, so
        far.  waited: the share of the time since the last look that the loop has waited.  late_ns: for how long of it
        what the syscall thread was given has waited for it.
        """
        now = time.monotonic_ns()
        elapsed = now - self._looked_ns
        came = messages - self._messages
        self._looked_ns, self._messages = now, messages
        self._ran_on.append(loop_cpu)
        before, self._received = self._received, received
        if not self.steers and came * SECOND < MESSAGES_LEAST * elapsed:
            # Not a system call for a loop that has hardly anything to do.
            self._forget()
            self.decider.look(Load(now, elapsed, 0, 0, came), self._never)
            return WINDOW_NS
        load = self._load(now, elapsed, came, received - before, waited, late_ns)
        if load is None:
            return WINDOW_NS
        decision = self.decider.look(load, lambda: self._machine(now))
        return self._act(decision, now, loop_cpu)

    def _never(self) -> Machine:
        raise AssertionError("few came shut the gate")

    def _load(self, now: int, elapsed: int, came: int, received: int, waited: float, late_ns: int) -> Load | None:
        usage = resource.getrusage(resource.RUSAGE_THREAD)
        before, self._usage = self._usage, (usage.ru_utime, usage.ru_stime)
        thread_before = self._thread_ns
        if self._cpu is not None:
            self._thread_ns = self._page.thread_cpu_ns()
        at_work = int(elapsed * (1 - waited))
        if before is None:
            return None
        system = int((usage.ru_stime - before[1]) * SECOND)
        if self._cpu is None:
            # Waiting and making calls is one thing then: what it has used is what it was at work.
            at_work = max(at_work, system + int((usage.ru_utime - before[0]) * SECOND))
        return Load(now, elapsed, min(at_work, elapsed), system, came, received,
                    max(0, self._thread_ns - thread_before), late_ns)

    def _home(self) -> int:
        """Where the loop runs as a rule: for a moment, somebody of higher priority may have it run elsewhere."""
        return max(sorted(set(self._ran_on)), key=self._ran_on.count)

    def _machine(self, now: int) -> Machine:
        if self._signals is None:
            # Only a busy loop needs them.
            from flexsc_loop.scheduler.signals import Signals

            self._signals = Signals()
        tid = self._page.thread_id() if self._cpu is not None else 0
        since, self._asked_ns = self._asked_ns, now
        found, best = self._signals.machine(self._home(), self._cpu, tid, now - since)
        if self._cpu is None and self.decider.wants_cpu:
            # Only of a CPU that nobody else has may a trial speak.
            spare = next((cpu for cpu in best if self._lease.take(cpu)), None)
            found = found._replace(spare=spare)
        return found

    def _act(self, decision: Decision, now: int, loop_cpu: int) -> int:
        if decision.cpu != self._cpu:
            try:
                self._page.change_hands(decision.cpu)
                self._cpu = self._served.cpu = decision.cpu
            except OSError as error:
                decision = self.decider.refuse(now, str(error))
        if self._cpu is not None and self._cpu == loop_cpu:
            _step_aside(loop_cpu)
        if not self.steers:
            self._page.let_go()
        if decision.news is not None:
            logger.info("%s", decision.news)
        if not self.decider.wants_cpu:
            self._lease.drop()
        return decision.next_ns

    def _forget(self) -> None:
        self._usage = None
        self._ran_on.clear()
        if self._signals is not None:
            self._signals.forget()

    def describe(self) -> str:
        """The state, and why it does not change."""
        if self.decider.state is State.OWN:
            return f"own thread: {self.decider.shut_gate}" if self.decider.shut_gate else "own thread"
        if self.decider.state is State.TRIAL:
            return "a trial is under way"
        return f"syscall thread on CPU {self._cpu}"

    def close(self) -> None:
        """The page is gone, or another process's: give the CPU back, close the files."""
        self._lease.drop()
        if self._signals is not None:
            self._signals.close()
            self._signals = None


def _step_aside(cpu: int) -> None:
    """Have this thread run on another CPU than its syscall thread, which cannot leave that.

    It may come back: what it is allowed is what it was before.
    """
    allowed = os.sched_getaffinity(0)
    if allowed != {cpu}:
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, allowed - {cpu})
            os.sched_setaffinity(0, allowed)
