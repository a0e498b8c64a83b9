"""Floor 5: tells of green threads that go on for long while all others wait.

Owns: the real thread that looks.  Imports: green, watchdog.
"""

from __future__ import annotations

import logging
import os
import threading
import traceback

from flexsc_loop import watchdog
from flexsc_loop.threads import green

VARIABLE = "FLEXSC_SLOW_THREAD"

logger = logging.getLogger("flexsc_loop")


class Watcher:
    """Looks at the green threads of all loops of this process, from a real thread, which dies with the process.

    limit: seconds that one may go on.  It is reported once, until it is resumed anew.
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self._reported: dict[green.GreenThread, int] = {}
        self._over = threading.Event()
        self.thread = threading.Thread(name="flexsc-slow-threads", target=self._watch, daemon=True)
        self.thread._real = True  # type: ignore[attr-defined]  # even where green ones have taken its place
        self.thread.start()

    def end(self) -> None:
        """Look no more."""
        self._over.set()

    def _watch(self) -> None:
        while not self._over.wait(self.limit / 2):
            self._look()

    def _look(self) -> None:
        slow = green.running_everywhere(self.limit)
        before, self._reported = self._reported, {thread: resumed for thread, resumed, _, _ in slow}
        for thread, resumed, lasts, frame in slow:
            if before.get(thread) != resumed:
                stack = "".join(traceback.format_stack(frame)) if frame is not None else ""
                logger.warning("%r has gone on for %.3f s, and all others wait:\n%s", thread, lasts, stack)


_state: dict[str, Watcher | None] = {"watcher": None}


def wanted(limit: float | None) -> float | None:
    """What is asked for: as for `patch`.  None: not to look.  Raises ValueError."""
    if limit is not None:
        return watchdog.check(limit, "slow_thread")
    return watchdog.check(os.environ.get(VARIABLE), VARIABLE)


def watch(limit: float | None) -> None:
    """Look from now on, with this limit; None: no more."""
    before = _state["watcher"]
    if before is not None:
        before.end()
    _state["watcher"] = None if limit is None else Watcher(limit)


def go_on() -> None:
    """Look on, if that was asked for: in a forked child nobody does yet."""
    before = _state["watcher"]
    if before is not None and not before.thread.is_alive():
        _state["watcher"] = Watcher(before.limit)
