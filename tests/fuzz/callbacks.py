"""Callbacks and timers: their order and their contexts; other threads; a loop that is stopped and run again."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from typing import Any

from .operations import kind, opening, operation
from .world import LABEL, Exit, Thing, World


@kind("callbacks", weight=2)
class Callbacks(Thing):
    """Callbacks, in the order in which they ran."""

    @opening()
    def open(cls, world: World, slot: int) -> Callbacks:
        self = cls(world, slot)
        self.number = 0
        self.handles: list[Any] = []
        return self

    def _next(self) -> int:
        self.number += 1
        return self.number

    def ran(self, number: int, again: int = 0) -> None:
        self.note("ran", number, again)
        if again:
            self.loop.call_soon(self.ran, number, again - 1)

    @operation(weight=6, again=(0, 1, 3))
    def soon(self, again: int) -> None:
        self.handles.append(self.attempt(self.loop.call_soon, self.ran, self._next(), again))

    @operation(weight=3)
    def soon_elsewhere(self) -> None:
        """In a context that is given."""
        context = contextvars.copy_context()
        context.run(LABEL.set, self.label)
        self.loop.call_soon(self.ran, self._next(), context=context)

    @operation(weight=3, delay=(-1, 0, 0.001, 0.002))
    def later(self, delay: float) -> None:
        self.handles.append(self.attempt(self.loop.call_later, delay, self.ran, self._next()))

    @operation(weight=2)
    def cancel_last(self) -> None:
        if self.handles:
            self.handles.pop().cancel()

    @operation(weight=2)
    def from_a_thread(self) -> None:
        call = self.context.copy().run, self.loop.call_soon_threadsafe, self.ran, self._next()
        thread = threading.Thread(target=call[0], args=call[1:])
        thread.start()
        thread.join()

    @operation(weight=2)
    async def in_executor(self) -> None:
        number = self._next()
        self.note("executor", await self.loop.run_in_executor(None, lambda: number), inside=False)

    @operation(weight=1)
    def leave(self) -> None:
        """Out of the loop by an exception; it is run again."""
        self.loop.call_soon(self._leave)

    def _leave(self) -> None:
        raise Exit

    @operation(weight=1)
    def fail(self) -> None:
        self.loop.call_soon(lambda: 1 / 0)

    @operation(weight=3, turns=(0, 1, 3))
    def task(self, turns: int) -> None:
        self.spawn("task", self._task(turns))

    async def _task(self, turns: int) -> str:
        for number in range(turns):
            await asyncio.sleep(0)
            self.note("task", number)
        return "ended"

    @operation(weight=2)
    def cancel_task(self) -> None:
        self.cancel("task")

    def view(self) -> Any:
        # Timers against other callbacks are a matter of time.
        return {"calls": sorted(self.log, key=str)}
