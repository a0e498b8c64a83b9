"""websockets' own tests of what it has for asyncio, of the version whose source Debian has in full."""

from __future__ import annotations

from tests.suites.debian import from_debian
from tests.suites.projects import PINNED, Project
from tests.suites.runs import Exclusion

#: What a syscall thread sends and receives takes the time of two threads' turns, not two turns of the loop.
TWO_TURNS = """
    test_broadcast_binary test_broadcast_binary_reports_no_errors test_broadcast_skips_closing_connection
    test_broadcast_text test_broadcast_text_reports_no_errors test_broadcast_two_clients test_ping
    test_ping_explicit_binary test_ping_explicit_text test_pong test_pong_explicit_binary test_pong_explicit_text
    test_send_while_send_async_blocked
"""

EXCLUDED = (
    *(
        Exclusion(
            f"tests/asyncio/test_connection.py::*ConnectionTests::{name}",
            "counts on two turns of the loop for a frame to come and be answered, which a syscall thread still sends",
            ways=PINNED,
        )
        for name in TWO_TURNS.split()
    ),
    *(
        Exclusion(
            f"tests/legacy/test_client_server.py::{kind}ClientServerTests::"
            "test_server_shuts_down_gracefully_during_connection_handling",
            "counts on so many turns from the client's close() to the end that the server sees: a poller has to let "
            "go of the client's receive in between",
            ways=("kernel-sqpoll",),
        )
        for kind in ("", "Secure")
    ),
    *(
        Exclusion(
            f"tests/asyncio/test_connection.py::{side}ConnectionTests::test_{end}_address",
            "a mock stands for get_extra_info in asyncio.Transport; this loop's transports have their own",
        )
        for side in ("Client", "Server")
        for end in ("local", "remote")
    ),
    *(
        Exclusion(
            f"tests/legacy/test_client_server.py::{kind}ClientServerTests::test_explicit_socket",
            "counts what a subclass of socket.socket is asked for: this loop asks the kernel for it",
        )
        for kind in ("", "Secure")
    ),
)


SUITE = Project(
    name="websockets",
    version="15.0.1",
    fetch=from_debian(1),
    tests=("tests/asyncio/test_*.py", "tests/legacy/test_*.py"),
    requirements=("python-socks[asyncio]", "werkzeug"),
    # Unless told, a release waits a hundred times longer than its authors do.
    environment={"WEBSOCKETS_TESTS_TIMEOUT_FACTOR": "10"},
    groups={"asyncio": ("asyncio/*.py",)},
    quick=("asyncio/*.py",),
    excluded=EXCLUDED,
)
