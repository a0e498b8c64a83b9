"""What a look of the scheduler costs a busy loop: this process's own files are read, nothing is decided."""

from __future__ import annotations

import time

from flexsc_loop.scheduler.decider import SECOND, WINDOW_NS, Decider, Decision, Load, Machine
from flexsc_loop.scheduler.pilot import Pilot

LOOKS = 1000
PERCENT_MOST = 0.5


class _Page:
    def change_hands(self, cpu: int | None) -> None:
        pass

    def let_go(self) -> None:
        pass

    def thread_id(self) -> int:
        return 0

    def thread_cpu_ns(self) -> int:
        return 0


class _Served:
    cpu: int | None = None


class _Curious(Decider):
    """Always wants to know what the machine says, as a loop does for which a trial may be worth it."""

    def look(self, load: Load, machine: object) -> Decision:
        assert callable(machine)
        found = machine()
        assert isinstance(found, Machine)
        return Decision(None, WINDOW_NS)


def measure() -> float:
    """CPU time of one look, in nanoseconds."""
    pilot = Pilot(_Page(), _Served(), decider=_Curious())
    messages = 0
    began = 0
    for number in range(-LOOKS // 10, LOOKS):
        if number == 0:
            began = time.thread_time_ns()
        messages += 1_000_000
        pilot.look(0, messages, messages, 0.0)
    spent = (time.thread_time_ns() - began) / LOOKS
    pilot.close()
    return spent


def percent(look_ns: float) -> float:
    """Of a CPU, for a loop that is busy all the time."""
    return 100 * look_ns / SECOND * (SECOND / WINDOW_NS)
