"""Who serves a page changes over and over: for how long is the loop held up?  Only for loops of this package."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, NamedTuple

QUIET_NS = 30_000_000
CHANGES_PER_OPENING = 6
NEVER_NS = 3_600_000_000_000


class Change(NamedTuple):
    """kind: what the page went to: "opened" (a thread for which everything was made anew), "thread", "own".

    call_ms: the change itself.  before_ms, after_ms: the longest turn in the 30 ms before and after it.
    """

    kind: str
    call_ms: float
    before_ms: float
    after_ms: float


class Changer:
    """In place of the scheduler: changes, rests, changes back.  Calls `done` with what it has found."""

    steers = True
    late_look_ns = NEVER_NS

    def __init__(self, loop: Any, cpu: int, changes: int, done: Callable[[list[Change]], None]) -> None:
        self._loop, self._cpu, self._wanted, self._done = loop, cpu, changes, done
        self._found: list[Change] = []
        self._turn_began = time.perf_counter()
        self._longest = self._before = self._call = 0.0
        self._changed = self._over = False

    def start(self) -> None:
        """On the loop's thread."""
        self._loop._steer(self)
        self._tick()

    def _tick(self) -> None:
        now = time.perf_counter()
        self._longest = max(self._longest, now - self._turn_began)
        self._turn_began = now
        if not self._over:
            self._loop.call_soon(self._tick)

    def look(self, *_signals: object) -> int:
        """Between two turns: change, or take down what the last change has brought."""
        longest, self._longest = self._longest, 0.0
        if self._changed:
            self._found.append(Change(self._kind(), 1e3 * self._call, 1e3 * self._before, 1e3 * longest))
            self._changed = False
            if len(self._found) % CHANGES_PER_OPENING == 0:
                self._loop.page.let_go()
            if len(self._found) >= self._wanted and len(self._found) % 2 == 0:
                self._end()
                return NEVER_NS
            return QUIET_NS
        self._before = longest
        began = time.perf_counter()
        self._loop.page.change_hands(self._cpu if len(self._found) % 2 == 0 else None)
        self._call = time.perf_counter() - began
        self._changed = True
        return QUIET_NS

    def _kind(self) -> str:
        number = len(self._found)
        return "own" if number % 2 else "opened" if number % CHANGES_PER_OPENING == 0 else "thread"

    def _end(self) -> None:
        self._over = True
        self._loop.page.let_go()
        self._loop.call_soon(self._loop._steer, None)
        self._done(self._found)


def change_hands(loop: asyncio.AbstractEventLoop, cpu: int, changes: int, done: Callable[[list[Change]], None]) -> None:
    """From another thread: measure so many changes."""
    loop.call_soon_threadsafe(Changer(loop, cpu, changes, done).start)
