"""anyio's own tests, with its asyncio backend.

Its `anyio_backend` fixture runs most tests twice: on the loop that asyncio makes, and on one with eager tasks.
trio's and uvloop's turns are skipped, since neither is installed.
"""

from __future__ import annotations

import socket

from tests.suites.projects import PINNED, Project, from_source_distribution
from tests.suites.runs import Exclusion


def localhost_has_ipv6() -> bool:
    try:
        return bool(socket.getaddrinfo("localhost", None, socket.AF_INET6))
    except OSError:
        return False


EXCLUDED: tuple[Exclusion, ...] = (
    Exclusion(
        "tests/test_sockets.py::TestTCPStream::test_reset_during_send*",
        "takes a task that waits for the syscall thread to send for one that waits for a full socket",
        ways=PINNED,
    ),
    *([] if localhost_has_ipv6() else [Exclusion("*ipv6*", "localhost has no IPv6 address on this machine")]),
)

SUITE = Project(
    name="anyio",
    version="4.16.0",
    fetch=from_source_distribution,
    requirements=("blockbuster", "exceptiongroup", "hypothesis", "psutil", "pytest-mock", "pytest-timeout", "trustme",
                  "truststore"),
    groups={"sockets": ("test_sockets.py",), "streams": ("streams/*.py",)},
    quick=("test_sockets.py", "test_subprocesses.py", "test_signals.py", "streams/test_tls.py"),
    excluded=EXCLUDED,
)  # fmt: skip
