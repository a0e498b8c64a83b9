"""CPython's own tests of asyncio, as they come with the interpreter that runs this."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from tests.suites.runs import Exclusion, Part

VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"

#: For `.ci/run`: together about a minute, and most of what this loop does not inherit.
QUICK = ("test_buffered_proto", "test_events", "test_server", "test_sock_lowlevel", "test_streams", "test_sslproto")

EXCLUDED = [
    Exclusion("test_selector_events.*", "the selector loop's own internals, with mocks for its selector and sockets"),
    Exclusion("test_proactor_events.*", "the internals of the loop for Windows"),
    Exclusion("test_windows_*", "for Windows"),
    Exclusion("test_events.PollEventLoopTests.*", "EPollEventLoopTests again, with another selector"),
    Exclusion("test_events.SelectEventLoopTests.*", "EPollEventLoopTests again, with another selector"),
    Exclusion("test_sendfile.PollEventLoopTests.*", "EPollEventLoopTests again, with another selector"),
    Exclusion("test_sendfile.SelectEventLoopTests.*", "EPollEventLoopTests again, with another selector"),
    Exclusion("test_sock_lowlevel.PollEventLoopTests.*", "EPollEventLoopTests again, with another selector"),
    Exclusion("test_sock_lowlevel.SelectEventLoopTests.*", "EPollEventLoopTests again, with another selector"),
]


def command(module: str, loop: str) -> list[str]:
    return [sys.executable, "-W", "default", "-bb", "-m", "tests.suites.cpython_child", module, f"--loop={loop}"]


def parts(quick: bool) -> list[Part]:
    """One part for each module of the suite; raises RuntimeError where the suite is not installed."""
    found = importlib.util.find_spec("test.test_asyncio")
    if found is None or not found.submodule_search_locations:
        raise RuntimeError(f"this Python has no test.test_asyncio: {sys.executable} (Debian: libpython{VERSION}-testsuite)")
    names = sorted(path.stem for path in Path(found.submodule_search_locations[0]).glob("test_*.py"))
    # The longest first, so that they don't run alone at the end.
    names.sort(key=lambda name: name not in ("test_tasks", "test_events", "test_ssl", "test_subprocess"))
    return [
        Part(name, lambda loop, name=name: command(name, loop))  # type: ignore[misc]
        for name in names
        if not quick or name in QUICK
    ]


def exclusions() -> list[Exclusion]:
    return [one for one in EXCLUDED if one.holds(VERSION)]
