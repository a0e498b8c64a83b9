"""Floor 5: several loops in one process, each in a thread of its own."""

from __future__ import annotations

import asyncio
import logging
import operator
import os
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from flexsc_loop.policy import new_event_loop
from flexsc_loop.settings import Pages, Threads, Writes

T = TypeVar("T")
logger = logging.getLogger("flexsc_loop")


class _Crew:
    """The loops that run, and what has become of them."""

    def __init__(self, count: int) -> None:
        self.results: list[Any] = [None] * count
        self.errors: list[BaseException] = []
        self._lock = threading.Lock()
        self._tasks: dict[asyncio.Task[Any], asyncio.AbstractEventLoop] = {}
        self._ending = False

    async def run(self, number: int, main: Coroutine[Any, Any, Any]) -> None:
        """One loop's program.  The first that fails ends the others."""
        task = asyncio.ensure_future(main)
        with self._lock:
            self._tasks[task] = asyncio.get_running_loop()
            ending = self._ending
        if ending:
            task.cancel()
        try:
            self.results[number] = await task
        except BaseException as error:  # noqa: BLE001 - whoever waits for all of them raises it
            if not (self._ending and isinstance(error, asyncio.CancelledError)):
                self.fail(error)
        finally:
            with self._lock:
                del self._tasks[task]

    def fail(self, error: BaseException) -> None:
        with self._lock:
            self.errors.append(error)
        self.end()

    def end(self) -> None:
        """Cancel what still runs.  Any thread."""
        with self._lock:
            self._ending = True
            for task, loop in self._tasks.items():
                loop.call_soon_threadsafe(task.cancel)


def run_many(
    factory: Callable[[int], Coroutine[Any, Any, T]],
    *,
    loops: int | None = None,
    debug: bool | None = None,
    pages: Pages | None = None,
    threads: Threads | None = None,
    writes: Writes | None = None,
) -> list[T]:
    """Run `factory(0)`, `factory(1)`, … each in a loop and a thread of its own, until all have ended.

    factory: called in each thread, with its loop's number; returns a coroutine.  Servers in it share one address with
    `create_server(..., reuse_port=True)`: the kernel spreads the connections (SO_REUSEPORT, socket(7)).
    loops: how many; None: one for each CPU that this process may use.  debug, pages, threads, writes: as for `run`.
    Returns what the coroutines have returned, in order.  The first exception cancels the other coroutines, and is
    raised when these have ended; so does Ctrl-C, with KeyboardInterrupt.  Raises ValueError for less than one loop,
    TypeError for what is no number or no function, and RuntimeError in a running loop.

    One loop at a time runs Python, since this package needs the GIL: what runs side by side is what is done without it,
    system calls above all.  Signals go to the main thread, which only waits: no loop can handle
    them with `add_signal_handler`.
    """
    if not callable(factory):
        raise TypeError(f"run_many() needs a function of a loop's number that returns a coroutine, got {factory!r}")
    try:
        count = len(os.sched_getaffinity(0)) if loops is None else operator.index(loops)
    except TypeError:
        raise TypeError(f"loops={loops!r} must be a number") from None
    if count < 1:
        raise ValueError(f"loops={loops!r} must be at least 1")
    if asyncio._get_running_loop() is not None:
        raise RuntimeError("flexsc_loop.run_many() cannot be called from a running event loop")
    crew = _Crew(count)

    def run_one(number: int) -> None:
        try:
            with asyncio.Runner(
                debug=debug, loop_factory=lambda: new_event_loop(pages=pages, threads=threads, writes=writes)
            ) as runner:
                runner.get_loop()
                runner.run(crew.run(number, factory(number)))
        except BaseException as error:  # noqa: BLE001 - likewise: a loop that is not to be had, or an exit
            crew.fail(error)

    if count > 1:
        logger.info("%d loops share the GIL: one at a time runs Python, only system calls go on side by side", count)
    running = [
        threading.Thread(target=run_one, args=(number,), name=f"flexsc-loop-{number}") for number in range(count)]
    _start_and_wait(running, crew)
    if crew.errors:
        raise crew.errors[0]
    return crew.results


def _start_and_wait(running: list[threading.Thread], crew: _Crew) -> None:
    """An interrupt of this thread ends the others first."""
    started = []
    try:
        for thread in running:
            thread.start()
            started.append(thread)
        for thread in started:
            thread.join()
    except BaseException:
        crew.end()
        for thread in started:
            thread.join()
        raise
