"""What the scheduler would decide of a loop that does nothing but calls of a measured cost."""

from __future__ import annotations

from flexsc_loop.scheduler.decider import SECOND, Decider, Load, Machine, State

LONG_ENOUGH_NS = 10 * SECOND
CPU = 1


def choice(own_ns: float, thread_ns: float) -> State:
    """The scheduler's choice after ten seconds, if a call takes `own_ns` on the own thread, `thread_ns` with another.

    A loop that is never idle, on two CPUs of which nobody else uses the second.  No time passes, nothing is measured.
    """
    decider = Decider()
    machine = Machine(2, 2.0, False, 0.0, 0.0, CPU, 1.0)
    now, done, cpu, elapsed = 0, 0.0, None, 100_000_000
    while now < LONG_ENOUGH_NS or decider.state is State.TRIAL:
        now += elapsed
        before = int(done)
        done += elapsed / (own_ns if cpu is None else thread_ns)
        came = int(done) - before
        thread = 0 if cpu is None else elapsed
        load = Load(now, elapsed, elapsed, elapsed // 2, came, came * 64, thread)
        decision = decider.look(load, lambda: machine)
        cpu, elapsed = decision.cpu, decision.next_ns
    return decider.state
