"""Puts this loop where a foreign test suite expects the standard one.

Suites come by a loop in three manners: by `asyncio.new_event_loop` and what calls it (`asyncio.run`, `Runner`,
`IsolatedAsyncioTestCase`), by the name `asyncio.SelectorEventLoop` (since Python 3.13 also `asyncio.EventLoop`), and by
`BaseEventLoop` with mocks for what a base class lacks.  The first two are replaced for the whole process, before the
suite is imported; the third only in the modules that ask for it, since loops inherit from that class.

The policy is left in place: suites reset it, and the default one makes this loop now.
"""

from __future__ import annotations

import asyncio
from asyncio import base_events, unix_events
from typing import Any

import flexsc_loop


class StandIn(flexsc_loop.Loop):
    """The loop, with the one argument that the selector loop has.  FLEXSC_PAGES and FLEXSC_THREADS choose the way."""

    #: How many have been made; tells which tests have run on it.
    made = 0

    def __init__(self, selector: Any = None) -> None:
        if selector is not None:
            selector.close()
        StandIn.made += 1
        super().__init__()


class Replaced:
    """A module with other values for some of its names, which nobody else sees."""

    def __init__(self, module: Any, **names: Any) -> None:
        self.__dict__.update(names, _module=module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._module, name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self._module, name)


def replace_default_loop() -> None:
    """From here on, whoever asks asyncio for a loop gets this one."""
    policy: Any = unix_events._UnixDefaultEventLoopPolicy  # type: ignore[attr-defined]
    policy._loop_factory = StandIn
    for module in (asyncio, unix_events):
        for name in ("SelectorEventLoop", "EventLoop"):
            if hasattr(module, name):
                setattr(module, name, StandIn)


def replace_base_loop(module: Any) -> None:
    """Have `module` find this loop under the name `BaseEventLoop`."""
    for name, original in (("asyncio", asyncio), ("base_events", base_events)):
        if getattr(module, name, None) is original:
            setattr(module, name, Replaced(original, BaseEventLoop=StandIn))
