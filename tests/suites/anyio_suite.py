"""anyio's own tests, with its asyncio backend.

Its `anyio_backend` fixture runs most tests twice: on the loop that asyncio makes, and on one with eager tasks.
trio's and uvloop's turns are skipped, since neither is installed.
"""

from __future__ import annotations

import socket

from tests.suites.projects import Project, from_source_distribution
from tests.suites.runs import Exclusion


def localhost_has_ipv6() -> bool:
    try:
        return bool(socket.getaddrinfo("localhost", None, socket.AF_INET6))
    except OSError:
        return False


#: A receive is in flight on the socket and has to end first.
ONE_TURN_LATER = tuple(
    Exclusion(
        f"tests/test_sockets.py::{test}*",
        "has the socket closed in the turn after abort(); a datagram endpoint here closes it in the one after that",
    )
    for test in (
        "TestUDPSocket::test_aclose_during_send",
        "TestUDPSocket::test_concurrent_aclose_forcefully_closes_socket",
        "TestUDPSocket::test_aclose_in_cancelled_scope_raises_cancelled_exc",
        "TestConnectedUDPSocket::test_concurrent_aclose_forcefully_closes_socket",
        "TestConnectedUDPSocket::test_aclose_in_cancelled_scope_raises_cancelled_exc",
    )
)

EXCLUDED: tuple[Exclusion, ...] = (
    *ONE_TURN_LATER,
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
