"""uvloop's own tests, with the loop under test in uvloop's place: those of asyncio's loop and those of uvloop's."""

from __future__ import annotations

from tests.suites.projects import Project, from_source_distribution
from tests.suites.runs import Exclusion

EXCLUDED: tuple[Exclusion, ...] = ()

SUITE = Project(
    name="uvloop",
    version="0.23.0",
    fetch=from_source_distribution,
    requirements=("aiohttp", "psutil", "pyOpenSSL", "cryptography"),
    options=("-p", "suites.uvloop_plugin"),
    groups={"tcp": ("test_tcp.py",)},
    quick=("test_tcp.py", "test_unix.py", "test_udp.py", "test_pipes.py", "test_sockets.py", "test_signals.py"),
    excluded=EXCLUDED,
)
