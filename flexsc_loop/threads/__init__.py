"""Green threads for blocking code: many calls wait at once on one loop, and go out in batches.

    flexsc_loop.threads.patch()                    at the top of a program, before its other imports
    flexsc_loop.threads.run(main, *args)           a blocking program, its threads green
    await flexsc_loop.threads.call(function, ...)  in async code: blocking code, without an executor
    flexsc_loop.threads.wait(awaitable)            in blocking code: what async code gives

`python -m flexsc_loop threads app.py` runs a program unchanged.  README.md in this folder says what cooperates.  Needs
greenlet (the extra `threads`).
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import contextvars
import os
import signal
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, ParamSpec, TextIO, TypeVar

if sysconfig.get_config_var("Py_GIL_DISABLED"):
    raise ImportError("flexsc_loop.threads needs a Python with the GIL: greenlets are not to be trusted in this build")

from flexsc_loop import loop as _loops
from flexsc_loop.loop import Loop
from flexsc_loop.policy import new_event_loop
from flexsc_loop.programs import tell_error
from flexsc_loop.settings import Pages, Threads, Writes
from flexsc_loop.threads import signals
from flexsc_loop.threads.descriptors import wait_readable, wait_writable
from flexsc_loop.threads.drivers import tell_psycopg2
from flexsc_loop.threads.green import GreenThread, current_thread, everybody, loop_beneath, sleep
from flexsc_loop.threads.locks import Lock, RLock
from flexsc_loop.threads.patching import PatchWarning, is_patched, patch
from flexsc_loop.threads.starting import being_main, end_pools, join
from flexsc_loop.threads.waiting import is_waited_for, wait

__all__ = [
    "GreenThread", "Lock", "PatchWarning", "RLock", "call", "current_thread", "dump", "dump_on", "is_patched", "patch",
    "run", "sleep", "spawn", "wait", "wait_readable", "wait_writable",
]  # fmt: skip

P = ParamSpec("P")
T = TypeVar("T")

_loops.loop_beneath = loop_beneath


def _loop_here() -> Loop:
    # A loop of its own that runs in a green thread, the one beneath, or that of async code.
    loop = loop_beneath() or asyncio.get_running_loop()
    if not isinstance(loop, Loop):
        raise RuntimeError(f"green threads need a flexsc_loop.Loop, and {loop!r} is running")
    return loop


def spawn(function: Callable[P, Any], *args: P.args, **kwargs: P.kwargs) -> GreenThread:
    """Have `function(*args, **kwargs)` begin as a green thread, in the next turn of the loop that runs here.

    What it raises is reported to the loop's exception handler, unless somebody waits in its `join()` by then;
    SystemExit only ends it.  Raises RuntimeError outside of a loop of this package.
    """
    loop = _loop_here()
    thread = GreenThread(loop, function, args, kwargs)
    thread.start()
    return thread


async def call(function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Run blocking code as a green thread of the running loop, and wait for what it returns.

    Instead of an executor, for what waits rather than computes.  Patches the standard library first, if nobody has.
    If the task is cancelled while it waits, so is the blocking code: CancelledError is raised where it waits.
    """
    if not is_patched():
        patch()
    loop = _loop_here()
    future: asyncio.Future[None] = loop.create_future()
    thread = GreenThread(loop, function, args, kwargs)

    def over(_thread: GreenThread) -> None:
        if not future.done():
            future.set_result(None)

    thread.awaited = True
    thread.when_over(over)
    thread.start()
    while not thread.finished:
        try:
            await asyncio.shield(future)
        except asyncio.CancelledError as error:
            if thread.finished:
                raise
            thread.throw(error)
    return thread.outcome()  # type: ignore[no-any-return]


def run(
    main: Callable[..., T], *args: Any, pages: Pages | None = None, threads: Threads | None = None,
    writes: Writes | None = None, slow_thread: float | None = None,
) -> T:  # fmt: skip
    """Run a blocking program: `main(*args)` as a green thread, on a loop of its own, with the standard library patched.

    Returns what it returns, and raises what it raises, when it and all green threads are over that are no daemons.
    pages, threads, writes: as for `new_event_loop`; slow_thread: as for `patch`.  Ctrl-C is a KeyboardInterrupt in
    `main`, which calls the handlers of other signals, too.
    """
    patch(slow_thread)
    tell_psycopg2()
    with _new_loop(pages, threads, writes) as loop:
        return _run_on(loop, _main_thread(loop, main, args), _join_others)  # type: ignore[no-any-return]


def run_program(main: Callable[..., object], *args: Any) -> None:
    """As `run()`, with what Python does at the end of a process: errors are told, and `atexit`'s functions called.

    These may need daemons, which run on meanwhile (that of a `logging.handlers.QueueListener`, say).
    """
    patch()
    tell_psycopg2()
    with _new_loop(None, None, None) as loop:
        _run_on(loop, _main_thread(loop, _telling, (main, *args)), _end_program)


@contextlib.contextmanager
def _new_loop(pages: Pages | None, threads: Threads | None, writes: Writes | None) -> Iterator[Loop]:
    loop = new_event_loop(pages=pages, threads=threads, writes=writes)
    try:
        yield loop
    finally:
        for thread in everybody():
            if thread.loop is loop:
                thread.abandon()
        loop.close()


def _main_thread(loop: Loop, main: Callable[..., Any], args: tuple[Any, ...]) -> GreenThread:
    thread = GreenThread(loop, main, args, name="main", context=contextvars.copy_context())
    thread.is_main = thread.awaited = True
    return thread


def _run_on(loop: Loop, thread: GreenThread, end: Callable[[Loop], None]) -> Any:
    pid = os.getpid()
    with being_main(thread):
        _run_until(loop, thread)
        if os.getpid() == pid:
            last = _main_thread(loop, end, (loop,))
            _run_until(loop, last)
            if os.getpid() == pid:
                loop.run_until_complete(loop.shutdown_asyncgens())
                loop.run_until_complete(loop.shutdown_default_executor())
            last.outcome()
    return thread.outcome()


def _join_others(loop: Loop) -> None:
    """As at the end of any program: wait for the threads that are no daemons, those that they start included."""

    def others() -> list[GreenThread]:
        return [
            one for one in everybody()
            if one.loop is loop and one.started and not (one.finished or one.daemon or one.is_main)
        ]  # fmt: skip

    while left := others():
        end_pools(loop)
        join(left[0])


def _telling(main: Callable[..., object], *args: Any) -> None:
    """Tell of an error while the thread is not over: one that is, and gives way to others, would not be resumed."""
    try:
        main(*args)
    except BaseException as error:
        tell_error(error)
        raise


def _end_program(loop: Loop) -> None:
    try:
        _join_others(loop)
    finally:
        atexit._run_exitfuncs()


def _run_until(loop: Loop, thread: GreenThread) -> None:
    """Run a main thread to its end."""
    pid = os.getpid()
    thread.when_over(lambda _thread: loop.stop())
    thread.start()
    with signals.heard_by(thread):
        while not thread.finished:
            try:
                loop.run_forever()
            except BaseException as error:
                if os.getpid() == pid:
                    # Out of a signal handler that was set before: for the main thread, as ever.
                    if is_waited_for(error):
                        continue
                    if thread.finished:
                        raise
                    thread.throw(error)
            if os.getpid() != pid and not thread.finished:
                # A forked child whose function is over: the loop is its parent's.
                raise SystemExit(0)


def dump(file: TextIO | None = None) -> None:
    """Write the stacks of all green threads, and of the caller, to `file`, or to standard error."""
    _dump(file or sys.stderr, sys._getframe(1))


def _dump(file: TextIO, frame: FrameType | None) -> None:
    running = current_thread()
    for thread in sorted(everybody(), key=lambda thread: thread.name):
        if thread.finished:
            continue
        print(repr(thread), file=file)
        stack = frame if thread is running else thread.frame
        if stack is not None:
            traceback.print_stack(stack, file=file)


def dump_on(number: int = signal.SIGUSR1, file: TextIO | None = None) -> None:
    """Have the signal `number` write what `dump()` does, whatever runs then.  In Python's main thread only.

    What computes in C is interrupted only when that returns: for such, see `faulthandler.register`.  Raises ValueError
    outside of the main thread.
    """
    signal.signal(number, lambda _number, frame: _dump(file or sys.stderr, frame))
