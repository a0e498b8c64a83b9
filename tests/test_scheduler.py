"""What the scheduler decides, in simulated worlds: no clock is read here and no thread is started."""

from __future__ import annotations

import functools
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from flexsc_loop.scheduler import decider
from flexsc_loop.scheduler.decider import MS, SECOND, Decider, Load, Machine, State

pytestmark = pytest.mark.ours

ALWAYS = 1e12


def constant(value: float) -> Callable[[float], float]:
    return lambda _: value


@dataclass
class World:
    """A machine and a load, as functions of the time in seconds.

    own, thread: requests a second that the loop gets done when its own thread, or a syscall thread, serves.  offered:
    how many come.  hog: the share of the spare CPU that somebody else takes; the thread waits for so long.  waits: the
    share of the time that it waits for somebody of higher priority, which `thread` includes; late: the share of it that
    the loop notices.
    """

    own: Callable[[float], float] = lambda _: 40_000
    thread: Callable[[float], float] = lambda _: 55_000
    offered: Callable[[float], float] = lambda _: ALWAYS
    hog: Callable[[float], float] = lambda _: 0
    waits: Callable[[float], float] = lambda _: 0
    late: float = 0.0
    steal: Callable[[float], float] = lambda _: 0
    throttled: Callable[[float], bool] = lambda _: False
    quota: Callable[[float], float] = lambda _: float("inf")
    cpus: Callable[[float], int] = lambda _: 2
    spare: Callable[[float], int | None] = lambda _: 1
    system: float = 0.3
    size: Callable[[bool], int] = lambda threaded: 128
    noise: float = 0.0
    seed: int = 1
    clock: Callable[[int], int] = lambda elapsed: elapsed
    decider: Decider = field(default_factory=Decider)

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        self.now = 0
        self.cpu: int | None = None
        self.work = 0.0
        self.best = 0.0
        self.own_work = 0.0
        self.asked = 0
        self.looks = 0
        self.changes: list[tuple[float, int | None]] = []

    def rate(self, threaded: bool, at: float) -> float:
        if not threaded:
            return self.own(at)
        # A thread that has to share its CPU is late with everything.
        return self.thread(at) * (1 - self.hog(at)) ** 2

    def waiting(self, at: float) -> float:
        jitter = 1 + self.noise * self.chance.uniform(-1, 1)
        return min(1.0, self.waits(at) * jitter + self.hog(at))

    def run(self, seconds: float) -> World:
        wait = decider.WINDOW_NS
        end = self.now + int(seconds * SECOND)
        while self.now < end:
            at = self.now / SECOND
            threaded = self.cpu is not None
            share = wait / SECOND
            noise = 1 + self.noise * self.chance.uniform(-1, 1)
            rate = self.rate(threaded, at) * noise
            offered = self.offered(at)
            done = min(rate, offered)
            self.work += done * share
            self.best += min(max(self.rate(True, at), self.rate(False, at)), offered) * share
            self.own_work += min(self.rate(False, at), offered) * share
            self.now += wait
            wait = self.look(at, wait, done, rate)
        return self

    def look(self, at: float, waited: int, done: float, rate: float) -> int:
        busy = int(waited * done / rate)
        system = int(busy * self.system) if self.cpu is None else 0
        count = int(done * waited / SECOND)
        load = Load(self.now, self.clock(waited), busy, system, count, self.size(self.cpu is not None) * count,
                    0 if self.cpu is None else waited,
                    0 if self.cpu is None else int(waited * self.late * self.waits(at)))

        def machine() -> Machine:
            self.asked += 1
            return Machine(self.cpus(at), self.quota(at), self.throttled(at), self.steal(at),
                           self.waiting(at) if self.cpu is not None else 0.0, self.spare(at), 1 - self.hog(at))

        decision = self.decider.look(load, machine)
        self.looks += 1
        if decision.cpu != self.cpu:
            self.changes.append((at, decision.cpu))
        self.cpu = decision.cpu
        return decision.next_ns

    def serves(self, state: State) -> bool:
        return self.decider.state is state

    @property
    def of_best(self) -> float:
        return self.work / self.best

    @property
    def of_own(self) -> float:
        return self.work / self.own_work


# ---- gate and trial

def test_a_thread_that_is_better_is_started_and_kept() -> None:
    world = World().run(60)
    assert world.serves(State.THREAD) and world.cpu == 1
    assert world.of_best > 0.98
    # One trial, and one to see whether that still holds.
    assert world.decider.counts["trials_won"] == world.decider.counts["trials"] == 2
    assert "1.3" in world.decider.decisions[0]


def test_a_thread_that_is_worse_is_tried_ever_less_often() -> None:
    world = World(thread=constant(20_000)).run(600)
    assert world.serves(State.OWN)
    assert world.of_own > 0.995
    assert world.decider.counts["trials_won"] == 0
    assert 5 <= world.decider.counts["trials"] <= 12


@pytest.mark.parametrize("gain", [0.97, 1.0, 1.03])
def test_a_thread_that_is_as_good_is_not_worth_it(gain: float) -> None:
    world = World(thread=constant(40_000 * gain), noise=0.1).run(300)
    assert world.of_best > 0.97
    assert len(world.changes) < 60


def test_the_time_of_the_thread_counts_against_it() -> None:
    """Its CPU is another's for the asking: all of it is worth 3 %."""
    assert World(thread=constant(40_000 * 1.07)).run(20).decider.counts["trials_won"] == 0
    assert World(thread=constant(40_000 * 1.09)).run(20).decider.counts["trials_won"] == 1


def test_what_comes_in_smaller_pieces_is_not_more() -> None:
    world = World(size=lambda threaded: 64 if threaded else 128).run(20)
    assert world.serves(State.OWN) and world.decider.counts["trials_won"] == 0


def test_a_thread_that_is_much_better_half_of_the_time_only_is_not_taken() -> None:
    """In two of four pairs, that is: chance could do that."""
    world = World(thread=lambda at: 52_000 if at < 0.7 else 36_000).run(1.2)
    assert world.serves(State.OWN) and world.decider.counts["trials_lost"] == 1
    assert "better in 2 of 4 pairs" in world.decider.decisions[-1]


def test_a_trial_that_begins_badly_ends_at_once() -> None:
    world = World(thread=constant(12_000)).run(1.0)
    assert world.decider.counts["trials_lost"] == 1
    assert sum(cpu is not None for _, cpu in world.changes) == 1


@pytest.mark.parametrize(("what", "why"), [
    ({"offered": constant(20_000)}, "busy"),
    ({"system": 0.05}, "system calls"),
    ({"cpus": lambda _: 1}, "one CPU"),
    ({"quota": constant(1.0)}, "CPUs' worth"),
    ({"quota": constant(0.5)}, "CPUs' worth"),
    ({"throttled": lambda _: True}, "throttled"),
    ({"spare": lambda _: None}, "no CPU is spare"),
    ({"hog": constant(0.9)}, "idle"),
    ({"steal": constant(0.2)}, "hypervisor"),
    ({"own": constant(300), "thread": constant(500)}, "too few"),
])
def test_no_trial_where_it_cannot_be_worth_it(what: dict[str, object], why: str) -> None:
    world = World(**what).run(30)  # type: ignore[arg-type]
    assert world.changes == []
    assert world.decider.counts["trials"] == 0
    assert why in world.decider.shut_gate
    assert world.of_own == 1


def test_the_machine_is_asked_only_by_a_loop_that_is_busy() -> None:
    assert World(offered=constant(10_000)).run(10).asked == 0
    assert World(system=0.01).run(10).asked == 0


def test_one_look_in_100_ms_except_in_trials() -> None:
    world = World().run(20)
    assert world.looks <= 20 * 10 + 2 * 12


# ---- alarms

def test_a_thread_that_waits_a_little_and_does_less_goes() -> None:
    """Less than the own thread did, though it has to wait for a fifth of the time only."""
    world = World(thread=constant(50_000), hog=lambda at: 0.2 if at >= 10 else 0.0).run(10)
    assert world.serves(State.THREAD)
    world.run(0.2)
    assert world.serves(State.OWN) and world.decider.counts["alarms_run_delay"] == 1


def test_a_thread_that_waits_much_goes_whatever_it_does() -> None:
    world = World(thread=constant(120_000), hog=lambda at: 0.35 if at >= 10 else 0.0).run(10)
    assert world.serves(State.THREAD)
    world.run(0.2)
    assert world.serves(State.OWN) and world.decider.counts["alarms_run_delay"] == 1
    little = World(thread=constant(120_000), hog=lambda at: 0.2 if at >= 10 else 0.0).run(20)
    assert little.serves(State.THREAD)


def test_a_thread_that_begins_to_wait_is_looked_at_sooner() -> None:
    world = World(hog=lambda at: 0.05 if at >= 10 else 0.0).run(10)
    assert world.decider.late_look_ns == decider.LATE_LOOK_NS
    world.run(0.2)
    assert world.serves(State.THREAD)
    assert world.decider.late_look_ns == decider.LATE_AGAIN_NS


@pytest.mark.parametrize(("seconds", "counted"), [(0.55, "trials_abandoned"), (5.0, "rests")])
def test_a_window_that_has_taken_much_too_long_tells_nothing(seconds: float, counted: str) -> None:
    """The process was stopped, say: neither trial nor thread go on as if that had been theirs."""
    world = World().run(seconds)
    assert not world.serves(State.OWN)
    long = Load(world.now + SECOND, SECOND, SECOND // 2, 0, 20_000, 2_560_000, SECOND)
    assert world.decider.look(long, lambda: pytest.fail("the machine was asked")).cpu is None
    assert world.serves(State.OWN) and world.decider.counts[counted] == 1


def test_somebody_takes_the_thread_s_cpu() -> None:
    world = World(hog=lambda at: 0.5 if at >= 10 else 0.0)
    world.run(10)
    assert world.serves(State.THREAD)
    world.run(0.2)
    assert world.serves(State.OWN)
    assert world.decider.counts["alarms_run_delay"] == 1
    assert world.changes[-1][0] <= 10.1


def test_what_the_thread_is_given_waits_for_it() -> None:
    """The loop sees that by itself, and asks for a look before it is due."""
    world = World().run(10)
    assert world.serves(State.THREAD)
    early = Load(world.now + 20 * MS, 20 * MS, 20 * MS, 0, 500, 64_000, 5 * MS, late_ns=10 * MS)
    calm = Machine(2, float("inf"), False, 0.0, 0.0, 1, 1.0)
    assert world.decider.look(early._replace(late_ns=1 * MS), lambda: calm).cpu == 1
    decision = world.decider.look(early, lambda: calm)
    assert decision.cpu is None
    assert world.decider.counts["alarms_late"] == 1
    assert "10 of 20 ms" in str(decision.news)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("late", [0.0, 0.3])
def test_a_thread_that_waits_half_of_the_time_and_is_better_all_the_same(late: float, seed: int) -> None:
    """A load generator of real-time priority has the same CPU: what the thread gets done is what counts."""
    world = World(waits=constant(0.45), late=late, noise=0.05, seed=seed).run(20)
    assert world.serves(State.THREAD), world.decider.decisions
    counts = world.decider.counts
    assert counts["trials_won"] == counts["trials"] == 1
    assert counts["alarms_late"] == counts["alarms_run_delay"] == 0
    assert len(world.changes) == 5  # those of one trial
    # What waits as it did in the trial is no reason to look before it is due.
    assert world.decider.late_look_ns > 0.45 * late * decider.WINDOW_NS


def test_whom_it_waits_for_is_joined_by_a_process_that_spins() -> None:
    world = World(waits=constant(0.45), hog=lambda at: 0.4 if 10 <= at < 15 else 0.0).run(10)
    assert world.serves(State.THREAD)
    world.run(0.2)
    assert world.serves(State.OWN)
    assert world.changes[-1][0] <= 10.1
    assert world.decider.counts["alarms_run_delay"] == 1
    world.run(20)
    assert world.serves(State.THREAD)
    assert world.of_own > 1.0


def served_beside(waits: float, seed: int = 1, late: float = 0.0) -> tuple[Decider, int]:
    """A thread that has won its trial though it waits for somebody of real-time priority, and what time it is."""
    world = World(own=constant(30_000), thread=constant(45_000), waits=constant(waits), late=late / waits, noise=0.05,
                  seed=seed).run(2)
    assert world.serves(State.THREAD)
    return world.decider, world.now


def millisecond_by_millisecond(decides: Decider, now: int, until: int, late: Callable[[int], float],
                               run_delay: Callable[[int], float], rate: Callable[[int], float]) -> int:
    """The loop asks for a look when it is due, or when the thread was late for long enough.

    late, run_delay: shares of the time; rate: messages a second; all of the millisecond.  Returns when it went back to
    the own thread; `until` if it did not.
    """
    began, due, late_ns, waited, messages = now, now + decider.WINDOW_NS, 0.0, 0.0, 0.0
    while now < until:
        now += MS
        late_ns += late(now) * MS
        waited += run_delay(now)
        messages += rate(now) / 1000
        if now < due and late_ns <= decides.late_look_ns:
            continue
        elapsed = now - began
        found = Machine(2, float("inf"), False, 0.0, waited * MS / elapsed, 1, 0.0)
        decision = decides.look(Load(now, elapsed, elapsed * 9 // 10, 0, int(messages), 128 * int(messages),
                                     int(elapsed * (1 - found.run_delay)), int(late_ns)), lambda found=found: found)
        if decision.cpu is None:
            return now
        began, due, late_ns, waited, messages = now, now + decision.next_ns, 0.0, 0.0, 0.0
    return until


def since(time_ns: int, before: float, after: float) -> Callable[[int], float]:
    return lambda at: after if at > time_ns else before


@pytest.mark.parametrize(("accepted", "late", "run_delay", "rate"), [
    (0.0, 0.28, 0.64, 31_000),  # as a kernel page had it
    (0.03, 0.28, 0.64, 31_000),
    (0.03, 0.20, 0.62, 29_000),  # a user page
    (0.05, 0.20, 0.62, 29_000),
    (0.03, 0.45, 0.75, 20_000),
])
def test_a_process_that_spins_beside_a_load_is_noticed_though_as_much_gets_done(
    accepted: float, late: float, run_delay: float, rate: float
) -> None:
    """Within 100 ms, whenever between two looks it begins.  accepted: how late the thread was in its trial."""
    for phase in range(100):
        decides, now = served_beside(0.48, phase, accepted)
        spins = now + 1000 * MS + phase * MS
        back = millisecond_by_millisecond(
            decides, now, spins + SECOND, since(spins, 0.01, late), since(spins, 0.48, run_delay),
            since(spins, 45_000, rate))
        assert spins < back <= spins + 100 * MS, (phase, (back - spins) // MS, decides.decisions)


def test_a_thread_that_is_late_for_a_moment_and_does_as_much_stays() -> None:
    """The look that lateness asks for finds much of it in little time, always: as a user page had it."""
    decides, now = served_beside(0.48)
    for elapsed, late, run_delay, rate in [(97, 2.1, 0.51, 46_000), (29, 4.8, 0.56, 42_000), (97, 1.0, 0.52, 45_000),
                                           (60, 4.3, 0.55, 41_500), (20, 4.1, 0.56, 40_000)]:
        now += elapsed * MS
        found = Machine(2, float("inf"), False, 0.0, run_delay, 1, 0.0)
        load = Load(now, elapsed * MS, elapsed * MS, 0, rate * elapsed // 1000, 128 * rate * elapsed // 1000,
                    elapsed * MS // 2, int(late * MS))
        assert decides.look(load, functools.partial(lambda it: it, found)).cpu == 1, decides.decisions


@pytest.mark.parametrize("seed", range(3))
def test_a_thread_that_is_late_now_and_then_stays(seed: int) -> None:
    """6 ms of a window, somewhat more or less of the CPU: so it is beside a load of real-time priority."""
    decides, now = served_beside(0.48, seed)
    chance = random.Random(seed)
    spells = {now + (i * 400 + chance.randrange(300)) * MS + j * MS for i in range(60) for j in range(6)}
    end = now + 25 * SECOND
    delays = [chance.uniform(0.38, 0.52) for _ in range(300)]  # of each tenth of a second
    assert end == millisecond_by_millisecond(
        decides, now, end, lambda at: float(at in spells), lambda at: delays[(at - now) // (100 * MS)],
        lambda at: chance.uniform(38_000, 47_000)), decides.decisions


def test_a_check_that_is_given_up_leaves_what_the_trial_has_found() -> None:
    """Half of a check tells less of how long a thread may wait than the trial that it has won."""
    decides, now = served_beside(0.48)
    accepted = decides._waits
    assert accepted.run_delay > 0.4
    calm = Machine(2, float("inf"), False, 0.0, 0.0, 1, 1.0)
    while decides.state is not State.TRIAL:
        now += 100 * MS
        decides.look(Load(now, 100 * MS, 100 * MS, 0, 4500, 0, 50 * MS), lambda: calm)
        assert now < 40 * SECOND
    now += 50 * MS
    decision = decides.look(Load(now, 50 * MS, 50 * MS, 10 * MS, 2000, 0, 25 * MS), lambda: calm)
    while decides.state is State.TRIAL:
        now += decision.next_ns
        decision = decides.look(Load(now, decision.next_ns, 0, 0, 0), lambda: calm)
    assert decides.counts["trials_abandoned"] == 1
    assert "given up" in str(decision.news)
    assert decides._waits == accepted


def test_a_load_that_ends_within_a_window_is_no_alarm() -> None:
    """Less is done in it, and the thread has waited; but no longer than it does when it is better."""
    world = World(waits=lambda at: 0.45 if at % 5 < 4.07 else 0.2,
                  offered=lambda at: ALWAYS if at % 5 < 4.05 else 20_000 if at % 5 < 4.2 else 0.0).run(60)
    counts = world.decider.counts
    assert counts["alarms_run_delay"] == counts["alarms_late"] == 0
    assert counts["trials_won"] == counts["trials"] >= 1
    assert counts["rests"] >= 10


def test_a_trial_goes_on_while_the_thread_is_late_with_little_harm_and_ends_when_it_is_beaten() -> None:
    """What the loop notices asks for a look: the window goes on, with all of its time, unless it is lost already."""
    calm = Machine(2, float("inf"), False, 0.0, 0.4, 1, 1.0)

    def in_thread_window() -> tuple[Decider, int]:
        decides, now, wait = Decider(), 0, 100 * MS
        for _ in range(8):
            now += wait
            decision = decides.look(Load(now, wait, wait, wait // 4, 40_000 * wait // SECOND, 0), lambda: calm)
            wait = decision.next_ns
            if decision.cpu is not None and wait == decider.TRIAL_WINDOW_NS:
                break
        assert decides.state is State.TRIAL and decides.cpu == 1
        return decides, now

    def early(now: int, done: int) -> Load:
        return Load(now + 20 * MS, 20 * MS, 20 * MS, 0, done, 0, 5 * MS, late_ns=11 * MS)

    decides, now = in_thread_window()
    goes_on = decides.look(early(now, 1000), lambda: calm)
    assert (goes_on.cpu, goes_on.next_ns) == (1, 30 * MS)
    whole = decides.look(early(now + 20 * MS, 1500)._replace(elapsed_ns=30 * MS), lambda: calm)
    assert whole.cpu == 1 and whole.news is None  # the second pair begins with the thread
    decides, now = in_thread_window()
    ended = decides.look(early(now, 200), lambda: calm)
    assert ended.cpu is None and "the trial was ended" in str(ended.news)
    assert decides.counts["alarms_late"] == decides.counts["trials_lost"] == 1


@pytest.mark.parametrize(("what", "alarm"), [
    ({"throttled": lambda at: at >= 10}, "alarms_throttled"),
    ({"quota": lambda at: 1.0 if at >= 10 else 4.0}, "alarms_throttled"),
    ({"cpus": lambda at: 1 if at >= 10 else 2}, "alarms_throttled"),
    ({"steal": lambda at: 0.3 if at >= 10 else 0.0}, "alarms_steal"),
])
def test_each_alarm_ends_it_within_a_window(what: dict[str, object], alarm: str) -> None:
    world = World(**what).run(10.2)  # type: ignore[arg-type]
    assert world.serves(State.OWN)
    assert world.decider.counts[alarm] == 1
    world.run(20)
    assert world.serves(State.OWN)


def test_a_process_that_spins_for_5_s_and_rests_for_5_s() -> None:
    """Never worse than the own thread by more than the trials cost, and less and less of them."""
    world = World(hog=lambda at: 0.9 if at % 10 < 5 else 0.0).run(300)
    assert world.of_own > 0.95
    assert world.decider.counts["alarms_run_delay"] <= 12
    late = [at for at, _ in world.changes if at > 150]
    assert len(late) <= 30


def test_failures_are_forgotten_when_the_thread_has_served_for_long() -> None:
    world = World(hog=lambda at: 0.9 if at < 20 and at % 2 < 1 else 0.0).run(200)
    assert world.serves(State.THREAD)
    world = World(hog=lambda at: 0.9 if (at < 20 and at % 2 < 1) or 200 < at < 201 else 0.0).run(203)
    assert world.serves(State.THREAD), world.decider.decisions


# ---- loads that change

def test_a_load_for_which_no_thread_would_be_started_keeps_one() -> None:
    """What starts at four fifths of the time ends at two fifths: a load in between changes nothing, whoever serves."""
    world = World(offered=lambda at: ALWAYS if at < 5 else 30_000.0).run(25)
    assert world.serves(State.THREAD) and world.decider.counts["rests"] == 0
    assert World(offered=constant(30_000.0)).run(20).changes == []


def test_a_moment_without_work_is_no_rest() -> None:
    world = World(offered=lambda at: 0.0 if at > 5 and at % 1 < 0.3 else ALWAYS).run(5)
    assert world.serves(State.THREAD)
    before = len(world.changes)
    world.run(20)
    assert world.decider.counts["rests"] == 0 and len(world.changes) == before


def test_a_loop_without_work_has_no_thread() -> None:
    world = World(offered=lambda at: ALWAYS if at < 5 else 0.0).run(5)
    assert world.cpu == 1
    world.run(1)
    assert world.cpu is None
    assert world.decider.counts["rests"] == 1


def test_a_load_that_changes_every_2_s() -> None:
    """Between idle, a tenth and full: the first full phase finds out, the others know."""
    world = World(offered=lambda at: (0.0, 4_000.0, ALWAYS)[int(at / 2) % 3]).run(60)
    assert world.of_best > 0.93
    assert world.decider.counts["trials"] <= 3
    start = World(offered=lambda at: (0.0, 4_000.0, ALWAYS)[int(at / 2) % 3])
    start.run(54)
    work, best = start.work, start.best
    start.run(6)
    assert (start.work - work) / (start.best - best) > 0.95


def test_bursts_shorter_than_the_gate_start_nothing() -> None:
    world = World(offered=lambda at: ALWAYS if at % 1 < 0.3 else 500.0).run(60)
    assert world.decider.counts["trials"] == 0
    assert world.changes == []


def test_a_slow_drift_is_followed() -> None:
    """The thread becomes worse bit by bit, without any alarm: what was won once is tried anew."""
    world = World(thread=lambda at: 55_000 - 60 * at).run(600)
    assert world.serves(State.OWN)
    assert world.of_best > 0.95
    back = World(thread=lambda at: 25_000 + 60 * at).run(900)
    assert back.serves(State.THREAD)


def test_another_load_is_tried_before_the_back_off_is_over() -> None:
    world = World(own=lambda at: 40_000.0 if at < 300 else 10_000.0,
                  thread=lambda at: 30_000.0 if at < 300 else 20_000.0).run(300)
    assert world.serves(State.OWN)
    world.run(3)
    assert world.serves(State.THREAD)


@pytest.mark.parametrize("what", [
    {"quota": lambda at: 2.0 if at < 100 else 4.0},
    {"cpus": lambda at: 2 if at < 100 else 4},
])
def test_other_cpus_or_another_quota_are_tried_before_the_back_off_is_over(what: dict[str, object]) -> None:
    world = World(thread=lambda at: 30_000.0 if at < 100 else 55_000.0, **what).run(100)  # type: ignore[arg-type]
    assert world.serves(State.OWN)
    assert world.decider._retry_at > 110 * SECOND
    world.run(2)
    assert world.serves(State.THREAD)


def test_the_longest_back_off() -> None:
    """Doubled from a second to five minutes, and no more."""
    world = World(thread=constant(10_000)).run(3600)
    trials = [at for at, cpu in world.changes if cpu is not None]
    pauses = [round(later - at) for at, later in itertools.pairwise(trials)]
    assert all(before < after for before, after in itertools.pairwise(pauses[:8]))
    assert max(pauses) in range(300, 303)
    assert pauses[-1] == max(pauses)


def test_noise_does_not_make_it_swing() -> None:
    for seed in range(20):
        world = World(noise=0.3, seed=seed).run(120)
        assert len(world.changes) < 80
        assert world.of_best > 0.85


# ---- clocks that lie

@pytest.mark.parametrize("clock", [
    lambda elapsed: 0,
    lambda elapsed: -elapsed,
    lambda elapsed: elapsed * 1000,
], ids=["stands", "runs backwards", "jumps"])
def test_a_clock_that_lies_starts_nothing(clock: Callable[[int], int]) -> None:
    world = World(clock=clock).run(60)
    assert world.changes == []


def test_a_clock_that_jumps_now_and_then() -> None:
    chance = random.Random(7)
    world = World(clock=lambda elapsed: elapsed * chance.choice([1] * 40 + [-1, 0, 10_000])).run(120)
    # A jump looks like a loop that had nothing to do, which is harmless.
    assert world.of_own > 1.0
    assert world.work > 0


def test_anything_may_come() -> None:
    """Whatever the figures are: no exception, no look that is due at once, no thread without a CPU."""
    chance = random.Random(3)
    for _ in range(200):
        decides = Decider()
        now = 0
        for _ in range(100):
            def any_ns() -> int:
                return chance.choice([-1, 0, 1, MS, 50 * MS, 100 * MS, 500 * MS, 10**15])

            elapsed = chance.choice([any_ns(), 100 * MS])
            now += elapsed
            found = Machine(
                chance.choice([1, 2, 64]), chance.choice([0.0, 1.0, 2.0, float("inf")]), chance.random() < 0.1,
                chance.choice([0.0, 0.5]), chance.choice([0.0, 0.05, 2.0]), chance.choice([None, 1]), chance.random())
            load = Load(now, elapsed, chance.choice([any_ns(), 95 * MS]), any_ns(), chance.choice([0, 1, 10_000]),
                        chance.choice([0, 10**9]), any_ns())
            decision = decides.look(load, functools.partial(lambda it: it, found))
            assert decision.next_ns > 0
            assert (decision.cpu is not None) >= (decides.state is State.THREAD)


# ---- many

def test_workers_that_want_the_same_cpu() -> None:
    """One of four gets it and keeps it; the others go on with their own threads and ask ever less often."""
    holder: list[int] = []
    worlds = [World(cpus=lambda _: 4, spare=lambda _: 3, seed=i) for i in range(4)]
    refusals = 0
    for _ in range(1200):
        for i, world in enumerate(worlds):
            world.run(0.05)
            if world.cpu is None:
                if world.serves(State.OWN) and holder == [i]:
                    holder.clear()
            elif holder not in ([], [i]):
                world.cpu = world.decider.refuse(world.now, "CPU 3 is another loop's").cpu
                refusals += 1
            else:
                holder[:] = [i]
    assert [world.cpu for world in worlds].count(3) == 1
    assert 3 <= refusals <= 30


def test_decisions_over_a_trace_are_deterministic() -> None:
    def story() -> tuple[list[tuple[float, int | None]], list[str]]:
        world = World(noise=0.3, hog=lambda at: 0.5 if at % 7 < 1 else 0.0, seed=5).run(200)
        return world.changes, list(world.decider.decisions)

    assert story() == story()


def test_a_thread_that_cannot_be_had_is_not_asked_for_again_at_once() -> None:
    decides = Decider()
    calm = Machine(2, 4.0, False, 0.0, 0.0, 1, 1.0)

    def look(now: int) -> int | None:
        return decides.look(Load(now, 100 * MS, 95 * MS, 40 * MS, 4000), lambda: calm).cpu

    now = 0
    while look(now) is None:
        now += 100 * MS
        assert now < 2 * SECOND
    assert decides.refuse(now, "no").cpu is None
    assert all(look(now + i * 100 * MS) is None for i in range(1, 10))
    assert "no syscall thread: no" in decides.decisions[-1]
    assert decides.counts["trials_abandoned"] == 1
