"""Floor 5: the setting of the watchdog, and the signal on which Python writes all stacks.

What watches is a thread in C (turn/watchdog.h), which needs no GIL.
"""

from __future__ import annotations

import faulthandler
import functools
import math
import os
import signal
import sys

STDERR = 2
LEAST, MOST = 0.001, 86400.0
VARIABLE = "FLEXSC_WATCHDOG"


def check(seconds: object, name: str = "watchdog") -> float | None:
    """A setting: after how many seconds a turn is reported; None and 0 for never.  Raises ValueError."""
    try:
        value = float(seconds or 0)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        value = math.nan
    if value == 0:
        return None
    if not LEAST <= value <= MOST:
        raise ValueError(f"{name}={seconds!r} is not known: use a number of seconds from {LEAST} to {MOST:.0f}, or 0")
    return value


def wanted() -> float | None:
    """What the environment says.  Raises ValueError."""
    return check(os.environ.get(VARIABLE), VARIABLE)


def place() -> int:
    """The descriptor to which is reported; -1 in a program that was started without stderr.

    There the number 2 is what the program has opened since, a file of its data for all that is known.
    """
    return STDERR if sys.__stderr__ is not None else -1


@functools.cache
def stacks_signal() -> int:
    """A signal that nobody uses, and on which all stacks are written to stderr from now on; 0 if there is none."""
    if place() < 0:
        return 0
    for number in range(signal.SIGRTMAX - 1, signal.SIGRTMIN, -1):
        if signal.getsignal(number) is signal.SIG_DFL:
            faulthandler.register(number, file=STDERR, all_threads=True, chain=False)
            return number
    return 0
