"""Floor 5: how programs come by a loop."""

from __future__ import annotations

import asyncio
import functools
import warnings
from asyncio import events
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from flexsc_loop import settings
from flexsc_loop.loop import Loop
from flexsc_loop.settings import Pages, Threads, Writes

T = TypeVar("T")

if TYPE_CHECKING:
    from asyncio import DefaultEventLoopPolicy as _Base
else:
    with warnings.catch_warnings():
        # Python 3.14 deprecates policies and 3.16 has none.
        warnings.simplefilter("ignore", DeprecationWarning)
        _Base = getattr(asyncio, "DefaultEventLoopPolicy", object)

NO_POLICIES = (
    "this Python has no event loop policies: use loop_factory=flexsc_loop.new_event_loop, "
    "or flexsc_loop.install() for the loops that others make"
)


class FlexSCPolicy(_Base):
    """Makes every new event loop a FlexSC loop: `asyncio.set_event_loop_policy(flexsc_loop.FlexSCPolicy())`.

    pages, threads, writes: as for `new_event_loop`.
    Raises ValueError for unknown values, and RuntimeError where Python has no policies any more (3.16).
    """

    def __init__(
        self, *, pages: Pages | None = None, threads: Threads | None = None, writes: Writes | None = None
    ) -> None:
        if _Base is object:
            raise RuntimeError(NO_POLICIES)
        settings.read(pages, threads, writes)
        super().__init__()
        self._pages, self._threads, self._writes = pages, threads, writes

    def _loop_factory(self) -> Loop:
        return Loop(pages=self._pages, threads=self._threads, writes=self._writes)


def new_event_loop(
    *, pages: Pages | None = None, threads: Threads | None = None, writes: Writes | None = None
) -> Loop:
    """A new loop.

    pages: "auto" (default), "kernel" (io_uring) or "user" (our own memory).
    threads: "off": the loop's own thread makes the system calls; "on": a syscall thread on a spare CPU does; or a CPU
        such as 1, or a list of CPUs such as [1, 3] or "1,3", for it; "auto" (default): the own thread, until a trial
        has shown that a syscall thread gets more done.
    writes: "now": each write is sent when it is made, as far as the socket has room; "turn": what one turn has written
        is sent together at its end; "auto" (default): the first as long as the loop has idle time, then the second.
    What is not given comes from FLEXSC_PAGES, FLEXSC_THREADS and FLEXSC_WRITES.  Raises ValueError for unknown values,
    OSError when a kernel page is asked for by name and can't be had.
    """
    return Loop(pages=pages, threads=threads, writes=writes)


def install(*, pages: Pages | None = None, threads: Threads | None = None, writes: Writes | None = None) -> None:
    """Make this the loop of the whole process; for servers that choose theirs through the policy.

    pages, threads, writes: as for `new_event_loop`.  Raises ValueError for unknown values.
    Where Python has no policies any more (3.16), what it makes loops with is replaced: `asyncio.EventLoop`, and
    `asyncio.new_event_loop`, which `asyncio.run` calls without a loop_factory.
    """
    if _Base is object:
        settings.read(pages, threads, writes)
        # By name, because Python 3.11 and 3.12 have no asyncio.EventLoop to check this against.
        make = functools.partial(new_event_loop, pages=pages, threads=threads, writes=writes)
        vars(asyncio)["EventLoop"] = Loop if pages is threads is writes is None else make
        asyncio.new_event_loop = events.new_event_loop = make
        return
    policy = FlexSCPolicy(pages=pages, threads=threads, writes=writes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        asyncio.set_event_loop_policy(policy)


def run(
    main: Coroutine[Any, Any, T],
    *,
    debug: bool | None = None,
    pages: Pages | None = None,
    threads: Threads | None = None,
    writes: Writes | None = None,
) -> T:
    """Run a coroutine as `asyncio.run` does, on a new FlexSC loop, and return its result.

    debug: as for `asyncio.run`.  pages, threads, writes: as for `new_event_loop`, and it raises what that does;
    RuntimeError where a loop runs in this thread already.  Source: asyncio.run.
    """
    if asyncio._get_running_loop() is not None:
        raise RuntimeError("flexsc_loop.run() cannot be called from a running event loop")

    def make() -> Loop:
        return new_event_loop(pages=pages, threads=threads, writes=writes)

    with asyncio.Runner(debug=debug, loop_factory=make) as runner:
        return runner.run(main)
