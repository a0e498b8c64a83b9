"""Floor 2: who serves a page: gate, trial, alarm, back-off.

Owns: the decisions, and nothing else.  Imports: nothing of the project.  No clock and no file is read here: what a look
has found is passed in, so that the same looks always lead to the same decisions.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable, Iterable
from typing import NamedTuple

from flexsc_loop.scheduler import NOTHING_COUNTED

MS = 1_000_000
SECOND = 1000 * MS

WINDOW_NS = 100 * MS             # between two looks
TRIAL_WINDOW_NS = 50 * MS
SETTLE_NS = 5 * MS               # after a change of hands nothing is measured for so long
TORN = 4                         # a window that has taken so many times its length tells nothing

GATE_WINDOWS = 5                 # in a row
GATE_WINDOWS_KNOWN = 2           # where a thread has been better lately
BUSY_START, BUSY_KEEP = 0.8, 0.4
SYSTEM_LEAST = 0.10              # share of the busy time in system calls
MESSAGES_LEAST = 1000          # per second
IDLE_LEAST = 0.25                # share of the other CPU that nobody uses
STEAL_MOST = 0.10
QUOTA_LEAST = 2.0                # CPUs: one for the loop, one for the thread

PAIRS = 4
WIN_START, WIN_KEEP = 1.05, 1.0  # a thread must be so much better to be started, or to be kept
THREAD_PRICE = 0.03              # of a CPU's time: what the thread's share counts against it
HOPELESS = 0.75                  # a trial ends at once below that

LATE_MOST_NS = 8 * MS            # of a window
LATE_LOOK_NS = 7 * MS            # the loop asks for a look when it has seen so much more than the trial had
LATE_AGAIN_NS = 4 * MS           # and sooner while the thread is watched
WATCH_MORE = 0.02                # of a window, waited for the CPU more than in the trial: the thread is watched
LATER, MUCH_LATER = 0.05, 0.10   # one that is watched and is so much later goes; or at once
LESS = 0.85                      # of what it did in its trial, if it does less than that
RUN_DELAY_MOST = 0.10            # share of the window that the thread has waited for its CPU
RUN_DELAY_MORE = 0.25            # or so much more than in the trial that it has won all the same
WORSE = 0.9                      # of what the own thread got done: a thread that waits and does less goes
BACKOFF_LEAST_NS, BACKOFF_MOST_NS = SECOND, 300 * SECOND
CALM_NS = 60 * SECOND            # a thread that has served so long has outlived former failures
KNOWN_NS = 300 * SECOND          # how long a trial that was won is remembered
CHECK_LEAST_NS, CHECK_MOST_NS = 30 * SECOND, 300 * SECOND
OTHER_LOAD = 2.0                 # a rate that differs by this factor is another load


class Load(NamedTuple):
    """What the loop knows of the time since the last look.

    time_ns: monotonic.  elapsed_ns: since the last look.  busy_ns: of them, the loop's thread was at work; system_ns:
    in the kernel.  messages, received: how often something came in, and how many bytes.  Both are the same
    whoever serves, as entries and completions are not.  thread_ns: CPU time of the syscall thread.  late_ns: for how
    long what it was given has waited for it to begin.
    """

    time_ns: int
    elapsed_ns: int
    busy_ns: int
    system_ns: int
    messages: int
    received: int = 0
    thread_ns: int = 0
    late_ns: int = 0


class Machine(NamedTuple):
    """What the machine says; it is asked only where that matters.

    cpus: that this process may use.  quota: CPUs' worth of time that it may use.  throttled: whether the cgroup was,
    since the last look.  steal: highest share of time that the hypervisor took from a CPU concerned.  run_delay: share
    of the time that the syscall thread waited for its CPU.  spare: the best CPU for it, None if there is none.  idle:
    the share of that CPU that nobody uses.
    """

    cpus: int
    quota: float
    throttled: bool
    steal: float
    run_delay: float
    spare: int | None
    idle: float


class Waits(NamedTuple):
    """How much a thread that is better all the same has had to wait: shares of the time, late and for its CPU."""

    late: float = 0.0
    run_delay: float = 0.0

    def most(self, other: Waits) -> Waits:
        """The longer of each."""
        return Waits(max(self.late, other.late), max(self.run_delay, other.run_delay))


NO_WAITS = Waits()


class State(enum.Enum):
    """Who serves."""

    OWN = "own thread"
    TRIAL = "trial"
    THREAD = "syscall thread"


class Decision(NamedTuple):
    """What to do until the next look: the CPU of the syscall thread (None: the own thread serves), and when to look.

    news: what was decided, with figures; None for a look.
    """

    cpu: int | None
    next_ns: int
    news: str | None = None


class Step(NamedTuple):
    """A window of a trial: what was done in a second, the thread's time counted against it."""

    threaded: bool
    messages: float
    received: float


#: Each pair has one window of each kind.  Mirrored, so that a load that drifts favours neither.
ORDER = (False, True, True, False, False, True, True, False)


class Decider:
    """Decides over one page.  `look` is called with what has happened since it was called last."""

    def __init__(self) -> None:
        self.state = State.OWN
        self.cpu: int | None = None
        self.counts = dict(NOTHING_COUNTED)
        self.decisions: deque[str] = deque(maxlen=16)
        self.shut_gate = "nothing was looked at yet"
        self._open = self._quiet = 0
        self._backoff = 0
        self._retry_at = 0
        self._failed_as: tuple[int, float, float] | None = None
        self._known_until = 0
        self._since = self._check_at = 0
        self._check_every = CHECK_LEAST_NS
        self._steps: list[Step] = []
        self._own: Step | None = None
        self._threaded: Step | None = None
        self._waits = self._trial_waits = NO_WAITS
        self._watched = False
        self._part: Load | None = None
        self._order: tuple[bool, ...] = ORDER
        self._settling = False
        self._incumbent = State.OWN
        self._candidate = -1

    @property
    def wants_cpu(self) -> bool:
        """Whether a trial may begin soon: the spare CPU that `Machine` names must be to be had."""
        return self.state is not State.OWN or self._open > 0

    @property
    def late_look_ns(self) -> int:
        """When what the thread was given has waited for so long, the next look is made before it is due."""
        if self.state is not State.THREAD:
            return LATE_LOOK_NS
        if self._watched:
            return LATE_AGAIN_NS + int(self._waits.late * WINDOW_NS / 2)
        return LATE_LOOK_NS + int(self._waits.late * WINDOW_NS)

    # ---- one look

    def look(self, load: Load, machine: Callable[[], Machine]) -> Decision:
        """Decide who serves from now on.  `machine` is called at most once, and only by a loop that is busy."""
        if load.elapsed_ns <= 0 or load.busy_ns < 0 or load.elapsed_ns > TORN * WINDOW_NS:
            return self._torn(load)
        if self.state is State.TRIAL:
            return self._try_on(load, machine)
        if self.state is State.THREAD:
            return self._watch(load, machine)
        return self._wait_for_gate(load, machine)

    def refuse(self, time_ns: int, why: str) -> Decision:
        """The thread that `look` asked for is not to be had."""
        self.counts["trials_abandoned"] += self.state is State.TRIAL
        return self._fall_back(time_ns, "", f"no syscall thread: {why}")

    def _stay(self, next_ns: int = WINDOW_NS) -> Decision:
        return Decision(self.cpu, next_ns)

    def _tell(self, cpu: int | None, next_ns: int, news: str) -> Decision:
        self.cpu = cpu
        self.decisions.append(news)
        return Decision(cpu, next_ns, news)

    def _torn(self, load: Load) -> Decision:
        """The clock has jumped, or nobody ran for long: nothing can be said of this time."""
        self._open = 0
        if self.state is State.TRIAL:
            return self._abandon(load.time_ns, "a window was torn")
        if self.state is State.THREAD and load.elapsed_ns > TORN * WINDOW_NS:
            return self._rest(load.time_ns, "the loop had nothing to do")
        return self._stay()

    # ---- the own thread serves: is a trial worth it?

    def _wait_for_gate(self, load: Load, machine: Callable[[], Machine]) -> Decision:
        self.shut_gate = self._why_shut(load, machine)
        if self.shut_gate:
            self._open = 0
            return self._stay()
        self._open += 1
        known = load.time_ns < self._known_until
        if self._open < (GATE_WINDOWS_KNOWN if known else GATE_WINDOWS):
            return self._stay()
        self._open = 0
        if known:
            return self._serve_again(load)
        return self._begin_trial(State.OWN, self._candidate)

    def _why_shut(self, load: Load, machine: Callable[[], Machine]) -> str:
        """Why no trial is worth it; "" if one is.  What costs nothing is looked at first."""
        busy = load.busy_ns / load.elapsed_ns
        rate = load.messages * SECOND / load.elapsed_ns
        if rate < MESSAGES_LEAST:
            return f"{rate:.0f} messages a second are too few"
        if busy < BUSY_START:
            return f"the loop is busy for {busy:.0%} of the time, less than {BUSY_START:.0%}"
        if load.system_ns < SYSTEM_LEAST * load.busy_ns:
            return f"only {load.system_ns / load.busy_ns:.0%} of its time are system calls"
        found = machine()
        shut = self._why_no_cpu(found)
        if shut:
            return shut
        if load.time_ns < self._retry_at and not self._is_other(found, rate):
            return f"the next trial is due in {(self._retry_at - load.time_ns) / SECOND:.1f} s"
        self._candidate = -1 if found.spare is None else found.spare
        return ""

    def _why_no_cpu(self, found: Machine) -> str:
        if found.cpus < 2:
            return "this process may use one CPU only"
        if found.quota < QUOTA_LEAST:
            return f"this process may use {found.quota:.2g} CPUs' worth of time, less than {QUOTA_LEAST:.2g}"
        if found.throttled:
            return "the cgroup is being throttled"
        if found.spare is None:
            return "no CPU is spare: others have taken them"
        if found.idle < IDLE_LEAST:
            return f"CPU {found.spare} is idle for {found.idle:.0%} of the time, less than {IDLE_LEAST:.0%}"
        if found.steal > STEAL_MOST:
            return f"the hypervisor takes {found.steal:.0%} of the CPUs"
        return ""

    def _is_other(self, found: Machine, rate: float) -> bool:
        """Whether what failed was another load, or on another machine: then it says nothing of this one."""
        if self._failed_as is None:
            return False
        cpus, quota, failed_rate = self._failed_as
        same_load = failed_rate <= 0 or 1 / OTHER_LOAD < rate / failed_rate < OTHER_LOAD
        if (cpus, quota) == (found.cpus, found.quota) and same_load:
            return False
        self._backoff = self._retry_at = 0
        self._failed_as = None
        return True

    def _serve_again(self, load: Load) -> Decision:
        self._enter_thread(load.time_ns)
        news = f"syscall thread on CPU {self._candidate}: the loop is busy again, and the thread was better lately"
        return self._tell(self._candidate, WINDOW_NS, news)

    # ---- a trial

    def _begin_trial(self, incumbent: State, cpu: int) -> Decision:
        self.counts["trials"] += 1
        self.state = State.TRIAL
        self._incumbent = incumbent
        self._candidate = cpu
        self._steps = []
        self._part = None
        if incumbent is State.OWN:
            self._own = None
        self._trial_waits = NO_WAITS
        # The incumbent's window comes first: that needs no change of hands.
        self._order = ORDER if incumbent is State.OWN else tuple(not threaded for threaded in ORDER)
        self._settling = False
        return self._to_step()

    def _to_step(self) -> Decision:
        threaded = self._order[len(self._steps)]
        cpu = self._candidate if threaded else None
        self._settling = cpu != self.cpu
        self.cpu = cpu
        return Decision(cpu, SETTLE_NS if self._settling else TRIAL_WINDOW_NS)

    def _try_on(self, load: Load, machine: Callable[[], Machine]) -> Decision:
        if self._settling:
            self._settling = False
            if self.cpu is not None:
                machine()  # what has been counted of the thread so far is no part of the window
            return self._stay(TRIAL_WINDOW_NS)
        load = self._part = load if self._part is None else _together(self._part, load)
        threaded = self._order[len(self._steps)]
        if threaded and load.elapsed_ns < TRIAL_WINDOW_NS and not self._does_less(load, HOPELESS):
            return self._stay(TRIAL_WINDOW_NS - load.elapsed_ns)
        found = machine()
        alarm, what = self._alarm(found, load) if threaded else ("", "")
        if alarm:
            self.counts["trials_lost"] += 1
            return self._fall_back(load.time_ns, alarm, f"own thread: the trial was ended: {what}", found)
        if load.messages == 0 or load.busy_ns < load.elapsed_ns * BUSY_KEEP / 2:
            return self._abandon(load.time_ns, "the loop had less to do")
        self._part = None
        self._steps.append(_measure(threaded, load))
        if threaded:
            self._trial_waits = self._trial_waits.most(_waits(found, load))
        else:
            self._own = self._middle(threaded=False)
        if self._is_hopeless() or len(self._steps) == len(self._order):
            return self._judge(load, found)
        return self._to_step()

    def _ratios(self) -> list[float]:
        """Thread against own thread, pair by pair."""
        pairs = [sorted(self._steps[at : at + 2]) for at in range(0, len(self._steps) - 1, 2)]
        return [_compare(own, thread) for own, thread in pairs]

    def _middle(self, *, threaded: bool) -> Step:
        """What the own thread, or the syscall thread, got done in this trial."""
        steps = [step for step in self._steps if step.threaded == threaded]
        return Step(threaded, _median(step.messages for step in steps), _median(step.received for step in steps))

    def _does_less(self, load: Load, share: float) -> bool:
        """Whether a thread that serves gets less done than that share of what the own thread did, for all we know."""
        return self._own is None or _compare(self._own, _measure(True, load)) < share

    def _is_hopeless(self) -> bool:
        return len(self._steps) == 2 and self._ratios()[0] < HOPELESS

    def _judge(self, load: Load, found: Machine) -> Decision:
        ratios = self._ratios()
        median = _median(ratios)
        better = sum(ratio > 1 for ratio in ratios)
        wanted = WIN_START if self._incumbent is State.OWN else WIN_KEEP
        figures = f"{median:.2f} times what the own thread got done, better in {better} of {len(ratios)} pairs"
        if median >= wanted and (better >= PAIRS - 1 or self._incumbent is State.THREAD):
            self.counts["trials_won"] += 1
            self._waits = self._trial_waits
            self._threaded = self._middle(threaded=True)
            first = self._incumbent is State.OWN
            self._enter_thread(load.time_ns, again=not first)
            return self._tell(self._candidate, WINDOW_NS, f"syscall thread on CPU {self._candidate}: {figures}")
        self.counts["trials_lost"] += 1
        news = f"own thread: a syscall thread on CPU {self._candidate} reached {figures}"
        return self._fall_back(load.time_ns, "", news, found)

    def _abandon(self, time_ns: int, why: str) -> Decision:
        """The trial has told nothing."""
        self.counts["trials_abandoned"] += 1
        self.state = State.OWN
        self._open = 0
        self._retry_at = time_ns + BACKOFF_LEAST_NS
        self._failed_as = None
        return self._tell(None, WINDOW_NS, f"own thread: the trial was given up: {why}")

    # ---- the syscall thread serves

    def _enter_thread(self, time_ns: int, again: bool = False) -> None:
        self.state = State.THREAD
        self._quiet = 0
        self._watched = False
        if not again:
            self._since = time_ns
            self._check_every = CHECK_LEAST_NS
        else:
            self._check_every = min(2 * self._check_every, CHECK_MOST_NS)
        self._check_at = time_ns + self._check_every
        self._known_until = time_ns + KNOWN_NS

    def _watch(self, load: Load, machine: Callable[[], Machine]) -> Decision:
        busy = load.busy_ns / load.elapsed_ns
        self._quiet = self._quiet + 1 if busy < BUSY_KEEP else 0
        if self._quiet >= GATE_WINDOWS:
            return self._rest(load.time_ns, f"the loop is busy for {busy:.0%} of the time, less than {BUSY_KEEP:.0%}")
        if load.messages == 0 and load.thread_ns == 0:
            return self._stay()
        found = machine()
        alarm, what = self._alarm(found, load)
        if alarm:
            return self._fall_back(load.time_ns, alarm, f"own thread: {what}", found)
        waits = _waits(found, load)
        self._watched = waits.late > self._waits.late or waits.run_delay > self._waits.run_delay + WATCH_MORE
        if load.time_ns - self._since > CALM_NS:
            self._backoff = 0
        if load.time_ns >= self._check_at and busy >= BUSY_START and self.cpu is not None:
            return self._begin_trial(State.THREAD, self.cpu)
        return self._stay()

    def _alarm(self, found: Machine, load: Load) -> tuple[str, str]:
        """Which alarm there is, and what it says."""
        waits = self._waits_too_long(found, load)
        if waits[0]:
            return waits
        if found.throttled:
            return "alarms_throttled", "the cgroup was throttled"
        if found.cpus < 2 or found.quota < QUOTA_LEAST:
            left = min(float(found.cpus), found.quota)
            return "alarms_throttled", f"this process may use {left:.2g} CPUs' worth of time now"
        if found.steal > STEAL_MOST:
            return "alarms_steal", f"the hypervisor took {found.steal:.0%} of a CPU"
        return "", ""

    def _waits_too_long(self, found: Machine, load: Load) -> tuple[str, str]:
        """Having to wait is no harm by itself: somebody of higher priority may have the thread's CPU half of the time,
        and what it gets done in the other half may be more than the own thread would.
        """
        trial = self.state is State.TRIAL
        waits, accepted = _waits(found, load), NO_WAITS if trial else self._waits
        if not trial and self._is_later(waits, load):
            return "alarms_late", f"{_late(load)}, longer than in its trial"
        late = load.late_ns > LATE_MOST_NS and waits.late > accepted.late
        delayed = not trial and waits.run_delay > max(RUN_DELAY_MOST, accepted.run_delay)
        much = not trial and waits.run_delay > RUN_DELAY_MORE + accepted.run_delay
        if not (late or delayed) or not (much or self._does_less(load, HOPELESS if trial else WORSE)):
            return "", ""
        if late:
            return "alarms_late", _late(load)
        return "alarms_run_delay", f"the syscall thread waited for its CPU for {found.run_delay:.0%} of the time"

    def _is_later(self, waits: Waits, load: Load) -> bool:
        """Whether somebody has come to the thread's CPU, even if the own thread would get no more done: it is later
        than in the trial, waits no less by the kernel's account, and does less.
        """
        late, delay = waits.late - self._waits.late, waits.run_delay - self._waits.run_delay
        again = self._watched and late > LATER and delay >= 0
        if load.late_ns < LATE_AGAIN_NS or not (again or (late > MUCH_LATER and delay > MUCH_LATER)):
            return False
        return self._threaded is None or _compare(self._threaded, _measure(True, load)) < LESS

    def _rest(self, time_ns: int, why: str) -> Decision:
        """Nothing is wrong with the thread, but there is not enough for it to do."""
        self.counts["rests"] += 1
        self.state = State.OWN
        self._open = self._quiet = 0
        self._known_until = time_ns + KNOWN_NS
        return self._tell(None, WINDOW_NS, f"own thread: {why}")

    def _fall_back(
        self, time_ns: int, alarm: str, news: str, found: Machine | None = None
    ) -> Decision:
        """The thread has failed: no other trial for some time, which is longer each time."""
        if alarm:
            self.counts[alarm] += 1
        self.state = State.OWN
        self._open = self._quiet = 0
        self._known_until = 0
        self._backoff = min(max(2 * self._backoff, BACKOFF_LEAST_NS), BACKOFF_MOST_NS)
        self._retry_at = time_ns + self._backoff
        if found is not None:
            self._failed_as = (found.cpus, found.quota, 0.0 if alarm or self._own is None else self._own.messages)
        else:
            self._failed_as = None
        return self._tell(None, WINDOW_NS, f"{news}; next trial in {self._backoff / SECOND:.0f} s at the earliest")


def _median(values: Iterable[float]) -> float:
    """As of the standard library's `statistics`, which takes longer to load than all of this."""
    ranked = sorted(values)
    half = len(ranked) // 2
    return ranked[half] if len(ranked) % 2 else (ranked[half - 1] + ranked[half]) / 2


def _measure(threaded: bool, load: Load) -> Step:
    per_second = SECOND / (load.elapsed_ns + THREAD_PRICE * load.thread_ns)
    return Step(threaded, load.messages * per_second, load.received * per_second)


def _waits(found: Machine, load: Load) -> Waits:
    return Waits(load.late_ns / load.elapsed_ns, found.run_delay)


def _late(load: Load) -> str:
    window = load.elapsed_ns // MS
    return f"what the syscall thread was given has waited for it for {load.late_ns // MS} of {window} ms"


def _together(one: Load, next_one: Load) -> Load:
    """Two looks' time as one."""
    return Load(next_one.time_ns, *(first + second for first, second in zip(one[1:], next_one[1:], strict=True)))


def _compare(own: Step, thread: Step) -> float:
    """How much more the thread got done.  In small pieces is not more: the bytes count, too."""
    ratio = thread.messages / own.messages
    return min(ratio, thread.received / own.received) if own.received else ratio
