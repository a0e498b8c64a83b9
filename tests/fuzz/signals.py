"""Signal handlers of the loop, others put over them, and back."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

from .operations import kind, opening, operation
from .world import Thing, World


@kind("signal", weight=2)
class Signal(Thing):
    """One signal; things of this kind share two of them."""

    @opening()
    def open(cls, world: World, slot: int) -> Signal | None:
        free = {signal.SIGUSR1, signal.SIGUSR2} - {one.number for one in world.things.values() if isinstance(one, cls)}
        if not free:
            return None
        self = cls(world, slot)
        self.number = min(free)
        self.before: Any = signal.signal(self.number, signal.SIG_IGN)
        self.saved: Any = signal.SIG_IGN
        self.sent_in = -1
        return self

    @operation(weight=6)
    async def add(self) -> None:
        # Whether a handler is called for what came just before is free.
        while self.sent_in == self.world.step and self.loop.time() < self.sent_at + 0.003:
            await asyncio.sleep(0)
        self.attempt(self.loop.add_signal_handler, self.number, self._called)

    def _called(self) -> None:
        self.note("called")

    @operation(weight=8, times=(1, 1, 2, 5))
    def send(self, times: int = 1) -> None:
        self.sent_in, self.sent_at = self.world.step, self.loop.time()
        for _ in range(times):
            signal.raise_signal(self.number)

    @operation(weight=3)
    def remove(self) -> None:
        self.note("removed", self.attempt(self.loop.remove_signal_handler, self.number), inside=False)
        if signal.getsignal(self.number) is signal.SIG_DFL:  # the next one would end the process
            signal.signal(self.number, signal.SIG_IGN)

    @operation(weight=3)
    def put_over(self) -> None:
        """As programs do for a while."""
        before = signal.signal(self.number, self._over)
        if before != self._over:
            self.saved = before

    def _over(self, *_: Any) -> None:
        self.log.append(["the one over it"])
        self.world.noted += 1

    @operation(weight=3)
    def put_back(self) -> None:
        signal.signal(self.number, self.saved)

    async def finish(self) -> None:
        self.loop.remove_signal_handler(self.number)
        signal.signal(self.number, self.before)
