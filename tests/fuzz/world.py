"""Running a program: the things that it makes, rest after each step, views, and that nothing is left at the end."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import json
import os
import time
import traceback
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

from .operations import TABLE, Step

#: Set in the context of each thing to its number; 0 elsewhere.
LABEL: contextvars.ContextVar[int] = contextvars.ContextVar("LABEL", default=0)

#: Stands for what may differ.
ANY = "?"

#: How long this loop may take to what the standard loop has reached.  Only a failure takes so long.
PATIENCE = 3.0
#: Turns that a loop may make in `IDLE` seconds in which nothing happens; and for how many times as long it may go on
#: with what changes no view, such as data for a far end that has gone.
IDLE, IDLE_TURNS, IDLE_TIMES = 0.003, 15, 100


class Exit(SystemExit):
    """Raised by callbacks, through `run_forever`."""


class Thing:
    """What operations work on: has a context of its own, a log, and a view."""

    def gone(self) -> bool:
        """Whether what its methods raise does not matter any more."""
        return False

    def __init__(self, world: World, slot: int) -> None:
        self.world, self.slot, self.loop = world, slot, world.loop
        self.label = slot + 1
        self.context = contextvars.copy_context()
        self.context.run(LABEL.set, self.label)
        self.log: list[list[Any]] = []
        self.results: list[list[Any]] = []
        self.tasks: dict[str, asyncio.Task[Any]] = {}
        self.started: dict[str, int] = {}

    def note(self, *entry: Any, inside: bool = True) -> None:
        """Write down a call, which has to run in the thing's context; not `inside`: what a call of ours gave."""
        self.world.noted += 1
        if inside and LABEL.get() != self.label:
            self.complain(f"{entry[0]} runs in the context of {LABEL.get()}")
        (self.log if inside else self.results).append(list(entry))

    def complain(self, text: str) -> None:
        self.world.complaints.append(f"{type(self).__name__} {self.slot}: {text}")

    def attempt(self, call: Callable[..., Any], *args: Any) -> Any:
        """Make a call in the thing's context; what it raises is written down."""
        try:
            return self.context.run(call, *args)
        except Exception as exc:
            if not self.gone() and not self.hasty():
                self.note(call.__name__, type(exc).__name__, inside=False)

    def spawn(self, name: str, work: Coroutine[Any, Any, Any]) -> None:
        """Start a task of this name, unless one runs or has been started in this step: when it ended is free."""
        if self.active(name):
            work.close()
            return
        self.started[name] = self.world.step

        async def run() -> None:
            try:
                what = await work
            except asyncio.CancelledError:
                what = "cancelled"
            except Exception as exc:
                what = family(exc)
            self.ended(name, what)

        task = self.loop.create_task(run(), context=self.context)
        self.tasks[name] = task
        task.add_done_callback(lambda _: self.tasks.pop(name, None))

    def ended(self, name: str, what: Any) -> None:
        """What a task gave."""
        self.note(name, what)

    def active(self, name: str) -> bool:
        return name in self.tasks or self.started.get(name) == self.world.step

    def cancel(self, name: str) -> None:
        if task := self.tasks.get(name):
            task.cancel()

    async def cancel_all(self, *names: str) -> None:
        """Cancel these tasks, or all, and wait for them."""
        tasks = [task for name, task in self.tasks.items() if not names or name in names]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=PATIENCE)

    def pump(self) -> None:
        """Let the far end do what it can."""

    def hasty(self) -> bool:
        """Whether the far end has acted in this step: what we do now may come before that is seen, or after."""
        return self.slot in self.world.stirred

    def flushed(self) -> bool:
        """Whether all that was written has been sent."""
        return True

    def busy(self) -> bool:
        """Whether something is on its way that will get there."""
        return False

    def unfinished(self) -> bool:
        """Whether something is left to wait for after `finish`."""
        return self.busy()

    def view(self) -> Any:
        return {"calls": self.log}

    def whole_view(self) -> Any:
        """With what our own calls gave, in their order."""
        view = self.view()
        return {"results": self.results, **view} if isinstance(view, dict) else view

    async def mend(self) -> None:
        """After several operations in one step: bring what may differ back to what must be equal."""

    async def finish(self) -> None:
        """End everything in an orderly way."""

    def dispose(self) -> None:
        """Close what belongs to the harness."""


def family(exc: BaseException) -> str:
    """The name of an exception; the network's errors have one."""
    return "OSError" if isinstance(exc, (ConnectionError, TimeoutError)) else type(exc).__name__


def same(one: Any, other: Any) -> bool:
    """Whether two views are equal up to what may differ."""
    if one == ANY or other == ANY:
        return True
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return bool(one == other)


class World:
    """Runs one program on one loop.  `expected`: the standard loop's views, or None on that loop itself."""

    def __init__(
        self, make: Callable[[], Any], program: list[Step], expected: dict[str, Any] | None, patience: float
    ) -> None:
        self.loop = make()
        self.patience = patience
        self.program, self.expected = program, expected
        self.things: dict[int, Thing] = {}
        self.noted = self.step = 0
        self.stirred: set[int] = set()
        self.complaints: list[str] = []
        self.reports: list[str] = []
        self.views: list[Any] = []
        self.stats = getattr(self.loop, "stats", None)
        self.loop.set_exception_handler(self._report)

    def _report(self, _: Any, context: dict[str, Any]) -> None:
        exc = context.get("exception")
        self.reports.append(f"{' '.join(context['message'].split()[:2])}: {type(exc).__name__ if exc else ''}")

    def run(self) -> dict[str, Any]:
        """Run the program to its end; returns what is to be compared, and what is wrong in itself."""
        main = self.loop.create_task(self._play())
        self._run(main)
        if self.expected is None or not self.complaints:
            self._run(self.loop.create_task(self._finish()))
        self.things.clear()
        try:
            self.loop.close()
        except Exception:
            self.complaints.append(f"close() raises: {traceback.format_exc()}")
        return {"views": self.views, "reports": sorted(set(self.reports)), "complaints": self.complaints}

    def _run(self, task: asyncio.Task[Any]) -> None:
        for _ in range(100):
            try:
                self.loop.run_until_complete(task)
                return
            except Exit:
                pass

    async def _play(self) -> None:
        for number, step in enumerate(self.program):
            self.step = number
            self.stirred.clear()
            for place, (name, slot, arguments) in enumerate(step):
                if place and ".peer_" in name:
                    await self._flush()
                await self._operate(name, slot, arguments)
                if ".peer_" in name:
                    self.stirred.add(slot)
            if len(step) > 1:
                await self._mend({slot for _, slot, _ in step})
            if not await self._rest(number):
                return

    async def _operate(self, name: str, slot: int, arguments: dict[str, Any]) -> None:
        if name == "turns":
            for _ in range(arguments["count"]):
                await asyncio.sleep(0)
            return
        operation = TABLE[name]
        thing_type = operation_class(name)
        thing = self.things.get(slot)
        if operation.opens:
            if thing is None:
                made = getattr(thing_type, operation.call)(self, slot, **arguments)
                made = await made if isinstance(made, Awaitable) else made
                if made is not None:
                    self.things[slot] = made
        elif isinstance(thing, thing_type):
            done = getattr(thing, operation.call)(**arguments)
            if isinstance(done, Awaitable):
                await done

    async def _flush(self) -> None:
        """What has been written leaves first: at the end of the turn, or when the syscall thread can."""
        for _ in range(10):
            await asyncio.sleep(0)
            if all(thing.flushed() for thing in self.things.values()):
                return
            await asyncio.sleep(0.0005)

    async def _mend(self, slots: set[int]) -> None:
        for slot in slots & self.things.keys():
            await self.things[slot].mend()

    def pump(self) -> None:
        for thing in self.things.values():
            thing.pump()

    def view(self) -> dict[str, Any]:
        return {str(slot): thing.whole_view() for slot, thing in self.things.items()}

    async def _rest(self, number: int) -> bool:
        """Wait for the end of what the step has caused; returns whether to go on."""
        if self.expected is None:
            if not await self.settle():
                return False
            self.views.append(json.loads(json.dumps(self.view())))
            return True
        if number >= len(self.expected["views"]):
            return False
        wanted = self.expected["views"][number]
        end = time.monotonic() + self.patience
        while not same(self.view(), wanted):
            if time.monotonic() > end:
                self.complaints.append(f"step {number}: {self._difference(wanted)}")
                return False
            self.pump()
            await asyncio.sleep(0.0005)
        await self._idle(number)
        self.pump()  # what is on its way and changes no view
        if not same(self.view(), wanted):
            self.complaints.append(f"step {number}, a moment later: {self._difference(wanted)}")
        return not self.complaints

    def _difference(self, wanted: dict[str, Any]) -> str:
        """The first thing whose view is another one than `wanted`."""
        view = self.view()
        for slot in wanted:
            if not same(view.get(slot), wanted[slot]):
                name = type(self.things[int(slot)]).__name__ if int(slot) in self.things else "no"
                return f"{name} {slot}{difference(view.get(slot), wanted[slot])}"
        return f"things: {sorted(view)}, and on the standard loop {sorted(wanted)}"

    async def settle(self) -> bool:
        """Until nothing has happened for a while; false if that never ends."""
        end, quiet, before = time.monotonic() + PATIENCE / 2, 0, None
        while quiet < 5 and time.monotonic() < end:
            self.pump()
            await asyncio.sleep(0.0005)
            now = self.noted, [(str(thing.whole_view()), thing.busy()) for thing in self.things.values()]
            quiet = quiet + 1 if now == before and not any(busy for _, busy in now[1]) else 0
            before = now
        return quiet >= 5

    async def _idle(self, number: int) -> None:
        """Nothing is to be done: the loop sleeps, as soon as what is still on its way has come."""
        for left in reversed(range(IDLE_TIMES)):
            before = self.stats() if self.stats else {}
            await asyncio.sleep(IDLE)
            made = {key: self.stats()[key] - before[key] for key in before}
            if not before or max(made["turns"], made["syscalls"]) < IDLE_TURNS:
                return
            if not left:
                self.complaints.append(f"step {number}: the loop spins: {made}")
            self.pump()

    async def _finish(self) -> None:
        for thing in self.things.values():
            await thing.cancel_all()
            await thing.finish()
        end = time.monotonic() + PATIENCE
        while any(thing.unfinished() for thing in self.things.values()) and time.monotonic() < end:
            self.pump()
            await asyncio.sleep(0.0005)
        for thing in self.things.values():
            if thing.unfinished():
                thing.complain(f"does not end: {thing.view()}")
            thing.dispose()
        await self.loop.shutdown_default_executor()
        left = asyncio.all_tasks(self.loop) - {asyncio.current_task()}
        if left:
            self.complaints.append(f"tasks left: {left}")
        while self.stats and (self.stats()["connections"] or self.stats()["in_flight"] > FIRST):
            if time.monotonic() > end + 1:
                self.complaints.append(f"left: {self.stats()}")
                break
            await asyncio.sleep(0.001)


#: Operations in flight on a loop without anything to do: its own wake-up, and signals.
FIRST = 2


def operation_class(name: str) -> type:
    from .operations import KINDS

    return KINDS[TABLE[name].kind].thing


def difference(got: Any, wanted: Any, path: str = "") -> str:
    """Where two views differ."""
    if isinstance(got, dict) and isinstance(wanted, dict) and got.keys() == wanted.keys():
        for key in got:
            if not same(got[key], wanted[key]):
                return difference(got[key], wanted[key], f"{path}/{key}")
    if isinstance(got, list) and isinstance(wanted, list):
        for number in range(max(len(got), len(wanted))):
            one, other = (both[number] if number < len(both) else "nothing" for both in (got, wanted))
            if not same(one, other):
                return f"{path}/{number}: {one}, and on the standard loop {other}; before that {got[:number]}"
    return f"{path}: {got}, and on the standard loop {wanted}"


def descriptors() -> dict[int, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue
    return found


def threads() -> set[int]:
    found = set()
    for tid in os.listdir("/proc/self/task"):
        try:
            name = Path(f"/proc/self/task/{tid}/comm").read_text()
        except OSError:
            continue
        if not name.startswith("iou-wrk"):
            found.add(int(tid))
    return found


def run(
    make: Callable[[], Any], program: list[Step], expected: dict[str, Any] | None = None, patience: float = PATIENCE
) -> dict[str, Any]:
    """Run a program on a loop that `make` makes; descriptors and threads have to be the same afterwards."""
    fds, tids = descriptors(), threads()
    world = World(make, program, expected, patience)
    result = world.run()
    stopped = bool(world.complaints)
    del world
    end = time.monotonic() + PATIENCE
    while True:
        more = {fd: what for fd, what in descriptors().items() if fds.get(fd) != what}
        more_threads = threads() - tids
        if (not more and not more_threads) or stopped:
            break
        if time.monotonic() > end:
            result["complaints"].append(f"leaked: {more} {more_threads}")
            break
        gc.collect()
        time.sleep(0.001)
    if expected is not None:
        result["complaints"] = [one for one in result["complaints"] if one not in expected["complaints"]]
        more_reports = [one for one in result["reports"] if one not in expected["reports"]]
        if more_reports:
            result["complaints"].append(f"reported: {more_reports}")
    return result
