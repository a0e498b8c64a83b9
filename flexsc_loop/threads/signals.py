"""Floor 5: signal handlers, which a program's main thread calls, also where that is a green one.

Owns: which green thread that is.  Imports: green.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from flexsc_loop.threads.green import GreenThread, current_thread, let_next_run

_signal = signal.signal
_getsignal = signal.getsignal
_set_wakeup_fd = signal.set_wakeup_fd

_state: dict[str, GreenThread | None] = {"main": None}


class Handler:
    """In the place of a program's own: has the main thread call that, where it waits, as if nobody else ran here."""

    def __init__(self, plain: Callable[[int, FrameType | None], object]) -> None:
        self.plain = plain

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Source: signal.signal."""
        main = _state["main"]
        if main is None or main.finished or current_thread() is main:
            self.plain(number, frame)
            return

        def call() -> None:
            self.plain(number, sys._getframe(1))

        main.interrupt(call)
        let_next_run()


def _as_set(handler: Any) -> Any:
    return handler.plain if isinstance(handler, Handler) else handler


def _in_main_only(name: str) -> None:
    thread = current_thread()
    if thread is not None and not thread.is_main:
        raise ValueError(f"{name} only works in main thread of the main interpreter")


def set_handler(signalnum: int, handler: Any) -> Any:
    """Source: signal.signal."""
    _in_main_only("signal")
    # What a loop sets for itself, beneath green threads, is called at once.
    beneath = current_thread() is None and asyncio._get_running_loop() is not None
    if callable(handler) and not beneath and not isinstance(handler, Handler):
        handler = Handler(handler)
    return _as_set(_signal(signalnum, handler))


def get_handler(signalnum: int) -> Any:
    """Source: signal.getsignal."""
    return _as_set(_getsignal(signalnum))


def set_wakeup_fd(fd: int, /, **options: Any) -> int:
    """Source: signal.set_wakeup_fd.  The loop beneath is not to be seen, and asks again when nobody does any more."""
    _in_main_only("set_wakeup_fd")
    before = _set_wakeup_fd(fd, **options)
    thread = current_thread()
    if thread is None:
        return before
    ours = thread.loop._csock
    if fd == -1:
        thread.loop._ask_for_signals()
    return -1 if ours is not None and before == ours.fileno() else before


@contextlib.contextmanager
def heard_by(thread: GreenThread) -> Iterator[None]:
    """`thread` is the program's main thread meanwhile, or who takes its place: Ctrl-C is for it, too."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = _state["main"]
    _state["main"] = thread
    ctrl_c = _getsignal(signal.SIGINT) is signal.default_int_handler
    if ctrl_c:
        _signal(signal.SIGINT, Handler(signal.default_int_handler))
    try:
        yield
    finally:
        _state["main"] = before
        if ctrl_c and get_handler(signal.SIGINT) is signal.default_int_handler:
            _signal(signal.SIGINT, signal.default_int_handler)


def _forget() -> None:
    _state["main"] = None


# A forked child is an ordinary process.
os.register_at_fork(after_in_child=_forget)
