"""Floor 5: methods of threading.Thread: a thread that a green thread starts is a green one.

Owns: the plain functions.  Imports: green, locks, loop, waiting.
"""

from __future__ import annotations

import _thread
import asyncio
import contextlib
import contextvars
import functools
import os
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from flexsc_loop.loop import Loop
from flexsc_loop.threads import locks
from flexsc_loop.threads.green import GreenThread, current_thread, everybody, tell_unraisable
from flexsc_loop.threads.waiting import in_real_thread, wait, wait_until_done, waited_for

_start = threading.Thread.start
_join = threading.Thread.join
_is_alive = threading.Thread.is_alive
_repr = threading.Thread.__repr__
_get_ident = _thread.get_ident
_count = _thread._count
START_PLAIN = _thread.start_new_thread
SET_LOCK = getattr(threading.Thread, "_set_tstate_lock", None)
# Whether a thread begins with the values of context variables that its starter has: an option of Python 3.14.
INHERITS = bool(getattr(sys.flags, "thread_inherit_context", False))


def get_ident() -> int:
    """Source: threading.get_ident."""
    thread = current_thread()
    return _get_ident() if thread is None or thread.is_main else id(thread)


def count() -> int:
    """Source: _thread._count.  Without the executor's threads: its program has not started them."""
    green = sum(one.started and not one.finished and not one.is_main for one in everybody())
    ours = sum(hasattr(one, "_real") for one in [*threading._active.values()])  # type: ignore[attr-defined]
    return _count() + green - ours


def _real(ident: int) -> int:
    """The number of the real thread that a green one with this number runs in, for what is the kernel's."""
    return next((one.home or _get_ident() for one in everybody() if id(one) == ident), ident)


_pthread_kill = signal.pthread_kill
_cpu_clock = time.pthread_getcpuclockid
_current_frames = sys._current_frames


def pthread_kill(thread_id: int, signalnum: int, /) -> None:
    """Source: signal.pthread_kill."""
    _pthread_kill(_real(thread_id), signalnum)


def cpu_clock(thread_id: int, /) -> int:
    """Source: time.pthread_getcpuclockid."""
    return _cpu_clock(_real(thread_id))


def current_frames() -> dict[int, FrameType]:
    """Source: sys._current_frames.  Those of green threads, too."""
    frames = _current_frames()
    running = current_thread()
    for one in everybody():
        if one is not running and not one.finished and one not in _left_behind and one.frame is not None:
            frames[id(one)] = one.frame
    frames[get_ident()] = sys._getframe(1)
    return frames


class DeleteDummyThread(getattr(threading, "_DeleteDummyThreadOnDel", object)):  # type: ignore[misc]
    """Python 3.12 and later: lives as long as a thread that `threading` did not start.  A green one tells its end."""

    def __init__(self, dummy: Any) -> None:
        thread = current_thread()
        if thread is None:
            super().__init__(dummy)
        else:
            thread.when_over(_forget_dummy)

    def __del__(self, over: Callable[[], bool] = sys.is_finalizing) -> None:
        if hasattr(self, "_tident") and not over():
            super().__del__()


def _forget_dummy(thread: GreenThread) -> None:
    threading._active.pop(id(thread), None)  # type: ignore[attr-defined]


def start(self: Any) -> None:
    """Source: threading.Thread.start."""
    thread = current_thread()
    if thread is None or hasattr(self, "_real"):
        return _start(self)
    if not self._initialized:
        raise RuntimeError("thread.__init__() not called")
    if self._started.is_set() or getattr(self, "_green", None) is not None:
        raise RuntimeError("threads can only be started once")
    with threading._active_limbo_lock:  # type: ignore[attr-defined]
        threading._limbo[self] = self  # type: ignore[attr-defined]
    if getattr(self, "_context", self) is None:  # Python 3.14
        self._context = contextvars.copy_context() if INHERITS else contextvars.Context()
    self._green = GreenThread(
        thread.loop, self._bootstrap, name=self.name, daemon=self.daemon, context=contextvars.Context()
    )
    self._green.start()
    self._started.wait()


def join_thread(self: Any, timeout: float | None = None) -> None:
    """Source: threading.Thread.join."""
    if threading.current_thread() is self:
        raise RuntimeError("cannot join current thread")
    other: GreenThread | None = getattr(self, "_green", None)
    if other is None:
        return _join(self, timeout) if current_thread() is None else _join_real(self, timeout)
    join(other, timeout)


def _join_real(self: Any, timeout: float | None) -> None:
    """A green thread waits for a real one."""
    thread = current_thread()
    if thread is None or not self._started.is_set() or not _is_alive(self):
        return _join(self, timeout)
    in_real_thread(thread, functools.partial(_join, self, timeout))


def join(other: GreenThread, timeout: float | None = None) -> None:
    """Wait for a green thread to end, for `timeout` seconds at most."""
    if other.finished:
        return
    thread = current_thread()
    if thread is None:
        return _join_from_outside(other, timeout)
    other.when_over(lambda _other: thread.go_on(thread.waits))
    until = None if timeout is None else thread.loop.time() + max(timeout, 0)
    while not other.finished:
        left = None if until is None else until - thread.loop.time()
        if left is not None and left <= 0:
            return
        thread.wait(left)


def _join_from_outside(other: GreenThread, timeout: float | None) -> None:
    over = locks.Lock()
    over.acquire()
    other.loop.call_soon_threadsafe(other.when_over, lambda _other: over.release())
    over.acquire(True, -1 if timeout is None else max(timeout, 0))


def is_alive(self: Any) -> bool:
    """Source: threading.Thread.is_alive."""
    other: GreenThread | None = getattr(self, "_green", None)
    if other is None:
        return _is_alive(self)
    return bool(self._started.is_set()) and not other.finished


def describe(self: Any) -> str:
    """Source: threading.Thread.__repr__."""
    other: GreenThread | None = getattr(self, "_green", None)
    if other is None or not other.finished:
        return _repr(self)
    daemon = " daemon" if self.daemon else ""
    return f"<{type(self).__name__}({self.name}, stopped{daemon} {self.ident})>"


@contextlib.contextmanager
def being_main(thread: GreenThread) -> Iterator[None]:
    """To others the program's main thread is over when its green thread is: those that wait for that do not keep it."""
    main: Any = threading.main_thread()
    if threading.current_thread() is not main:
        yield
        return
    vars(main)["_green"] = thread
    try:
        yield
    finally:
        vars(main).pop("_green", None)


def set_lock(self: Any) -> None:
    """Python 3.11 and 3.12: what tells of the end of a real thread."""
    if getattr(self, "_green", None) is None and SET_LOCK is not None:
        SET_LOCK(self)


def start_new_thread(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None, /) -> int:
    """Source: _thread.start_new_thread."""
    thread = current_thread()
    if thread is None:
        return START_PLAIN(function, args, kwargs or {})
    if not callable(function):
        raise TypeError("first arg must be callable")
    if not isinstance(args, tuple):
        raise TypeError("2nd arg must be a tuple")
    if kwargs is not None and not isinstance(kwargs, dict):
        raise TypeError("optional 3rd arg must be a dictionary")
    begun = GreenThread(
        thread.loop, _to_its_end, (function, args, kwargs or {}), daemon=True, context=contextvars.Context()
    )
    begun.start()
    return id(begun)


def _to_its_end(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    try:
        function(*args, **kwargs)
    except SystemExit:
        pass
    except BaseException as error:  # noqa: BLE001  a thread's end
        tell_unraisable(error, function)


start_new_thread._flexsc = True  # type: ignore[attr-defined]


# ---- the end of a program


def end_pools(loop: Any) -> None:
    """As at Python's end: executors of `loop` that nobody has shut down take nothing more, and end with what they have.

    Without their locks: a green thread may hold one, and none runs just now.
    """
    of_threads: Any = sys.modules.get("concurrent.futures.thread")
    of_processes: Any = sys.modules.get("concurrent.futures.process")
    for thread, queue in _of_loop(getattr(of_threads, "_threads_queues", {}), loop):
        executor = thread._args[0]()
        if executor is not None:
            executor._shutdown = True
        queue.put(None)
    for thread, wakeup in _of_loop(getattr(of_processes, "_threads_wakeups", {}), loop):
        executor = thread.executor_reference()
        if executor is not None:
            executor._shutdown_thread = True
        wakeup.wakeup()


def _of_loop(by_thread: Any, loop: Any) -> list[tuple[Any, Any]]:
    found = []
    for thread, value in [*by_thread.items()]:
        green: GreenThread | None = getattr(thread, "_green", None)
        if green is not None and green.loop is loop and not green.finished:
            found.append((thread, value))
    return found


# ---- fork

# The number of a real thread that forks just now -> the threading.Thread that its green thread is.
_forking: dict[int, Any] = {}

# In a forked child: what were main threads in the parent.
_left_behind: list[GreenThread] = []


def _before_fork() -> None:
    thread = current_thread()
    if thread is not None and not thread.is_main:
        _forking[_get_ident()] = threading._active.get(id(thread))  # type: ignore[attr-defined]


def _after_fork() -> None:
    _forking.pop(_get_ident(), None)


def _after_fork_in_child() -> None:
    """The thread that has forked is the child's main thread, and the only one."""
    ident = _get_ident()
    thread = _forking.get(ident)
    _forking.clear()
    for other in everybody():
        if other.is_main:
            _left_behind.append(other)
        elif other is not getattr(thread, "_green", None):
            other.abandon()
    before: Any = threading.main_thread()
    vars(before).pop("_green", None)
    if thread is not None:
        vars(thread).pop("_green", None)
        # By which its end is told.  The one of before is over, as Python 3.11 and 3.12 have just said of this one.
        for name in ("_handle", "_os_thread_handle", "_tstate_lock", "_is_stopped"):
            if hasattr(before, name):
                over: Any = getattr(thread, name)
                if name.endswith("handle"):
                    over = _thread._make_thread_handle(before.ident)  # type: ignore[attr-defined]
                    over._set_done()
                setattr(thread, name, getattr(before, name))
                setattr(before, name, over)
        thread._ident = ident
        threading._main_thread = threading._active[ident] = thread  # type: ignore[attr-defined]


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child)


# ---- asyncio in a green thread


_asyncio_run = asyncio.run
_note_generator: Any = asyncio.BaseEventLoop._asyncgen_firstiter_hook  # type: ignore[attr-defined]


# Python 3.11 does not: there a loop notes each task that it makes.
TELLS_CONTEXT = hasattr(asyncio.Task, "get_context")


class _Run:
    """What a coroutine that asyncio.run was given has begun beside itself."""

    def __init__(self) -> None:
        self.generators: weakref.WeakSet[Any] = weakref.WeakSet()
        self.begun: weakref.WeakSet[asyncio.Task[Any]] = weakref.WeakSet()

    def tasks(self, loop: Any) -> list[asyncio.Task[Any]]:
        """Those that are not done, and that no green thread waits for."""
        begun: list[Any] = [*self.begun]
        if TELLS_CONTEXT:
            every: set[Any] = asyncio.all_tasks(loop)
            begun = [task for task in every if task.get_context().get(_run) is self]
        return [task for task in begun if not task.done() and task not in waited_for]


# Its tasks' contexts are copies of one in which this is set.
_run: contextvars.ContextVar[_Run | None] = contextvars.ContextVar("flexsc_loop.threads.run", default=None)


def note_generator(self: Any, generator: Any) -> None:
    """Source: asyncio.BaseEventLoop._asyncgen_firstiter_hook."""
    _note_generator(self, generator)
    run = _run.get()
    if run is not None:
        run.generators.add(generator)


_create_task: Any = Loop.create_task


def create_task(self: Any, coro: Any, *, name: Any = None, context: contextvars.Context | None = None) -> Any:
    """Source: asyncio.loop.create_task.  For Python 3.11."""
    task = _create_task(self, coro, name=name, context=context)
    run = _run.get() if context is None else context.get(_run)
    if run is not None:
        run.begun.add(task)
    return task


def _other_mode(beneath: bool, wanted: bool | None) -> bool:
    """Whether the loop beneath is not in the debug mode that is wanted, or else is every new loop's."""
    if wanted is None:
        return not beneath and bool(asyncio.coroutines._is_debug_mode())  # type: ignore[attr-defined]
    return beneath != wanted


def asyncio_run(main: Any, *, debug: bool | None = None, **kwargs: Any) -> Any:
    """Source: asyncio.run; in a green thread the coroutine becomes a task of the loop that is running.

    With a loop of its own, if that is asked for, or debug mode is and that loop has another; refused within one.  A
    policy is not asked for one: it says what a thread's loop is, and this thread has one; another kind of loop might
    wait in C, and hold up all others.
    """
    thread = current_thread()
    if (
        thread is None
        or asyncio._get_running_loop() is not None
        or kwargs.get("loop_factory") is not None
        or _other_mode(thread.loop.get_debug(), debug)
        or not asyncio.iscoroutine(main)
    ):
        return _asyncio_run(main, debug=debug, **kwargs)
    run = _Run()
    context = contextvars.copy_context()
    context.run(_run.set, run)
    with _settings_kept(thread.loop):
        try:
            return _as_a_task(thread, asyncio.Task(main, loop=thread.loop, context=context))
        finally:
            wait(_end(run))
            asyncio.set_event_loop(None)  # as after any asyncio.run


# How many coroutines of asyncio.run a loop has, and its task factory and exception handler before the first.
_settings: weakref.WeakKeyDictionary[Loop, tuple[int, Any, Any]] = weakref.WeakKeyDictionary()


@contextlib.contextmanager
def _settings_kept(loop: Loop) -> Iterator[None]:
    """What a coroutine sets was set for a loop of its own, and ends with it: where several overlap, with the last.

    One that began while another's was set must not bring that back when it ends.
    """
    count, factory, handler = _settings.get(loop, (0, loop.get_task_factory(), loop.get_exception_handler()))
    _settings[loop] = count + 1, factory, handler
    try:
        yield
    finally:
        count, _, _ = _settings.pop(loop)
        if count > 1:
            _settings[loop] = count - 1, factory, handler
        else:
            loop.set_task_factory(factory)
            loop.set_exception_handler(handler)


def _as_a_task(thread: GreenThread, task: asyncio.Task[Any]) -> Any:
    """Ctrl-C cancels it, and it may clean up; a second one does not wait for that.  Source: asyncio.Runner.run."""
    interrupted = False
    try:
        wait_until_done(thread, task)
    except KeyboardInterrupt:
        interrupted = task.cancel()
        if not interrupted:
            task.cancelled() or task.exception()  # which would be reported, else, as one that nobody has asked for
            raise
        wait_until_done(thread, task)
    except BaseException:
        task.cancel()
        raise
    try:
        return task.result()
    except asyncio.CancelledError:
        if interrupted and task.uncancel() == 0:
            raise KeyboardInterrupt from None
        raise
    finally:
        del task  # whose error has this frame


async def _end(run: _Run) -> None:
    """Cancel what it has left behind, and close its generators.  Source: asyncio.Runner.close."""
    loop = asyncio.get_running_loop()
    left = run.tasks(loop)
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)
    for task in left:
        if not task.cancelled() and task.exception() is not None:
            loop.call_exception_handler({
                "message": "unhandled exception during asyncio.run() shutdown", "exception": task.exception(),
                "task": task,
            })  # fmt: skip
    for generator in [*run.generators]:
        try:
            await generator.aclose()
        except Exception as error:  # noqa: BLE001  as asyncio does
            loop.call_exception_handler({
                "message": f"an error occurred during closing of asynchronous generator {generator!r}",
                "exception": error, "asyncgen": generator,
            })  # fmt: skip
