"""aiohttp's own tests, of the version that is installed."""

from __future__ import annotations

from importlib import metadata

from tests.suites.projects import PINNED, Project, from_source_distribution
from tests.suites.runs import Exclusion

EXCLUDED = (
    Exclusion(
        "tests/test_run_app.py::TestShutdown::test_shutdown_close_websockets",
        "cancels the client one turn after the server has ended: a syscall thread is still bringing it the end",
        ways=PINNED,
    ),
    Exclusion(
        "tests/test_client_functional.py::test_aiohttp_request_ssl*",
        "closes the loop so many turns after the server: with a syscall thread both ends of a TLS connection take more "
        "for their farewell",
        ways=("user-pinned",),
    ),
)

SUITE = Project(
    name="aiohttp",
    version=metadata.version("aiohttp"),
    fetch=from_source_distribution,
    take=("tests", "requirements", "pytest.ini"),
    requirements=(
        "gunicorn",
        "-r", "{source}/requirements/test-common.in",
        "-r", "{source}/requirements/runtime-deps.in",
    ),
    tests=("tests/test_*.py",),
    groups={
        "client": ("test_client_*.py", "test_connector.py", "test_proxy*.py", "test_resolver.py", "test_tracing.py"),
        "web": ("test_web_*.py", "test_classbasedview.py", "test_loop.py", "test_run_app.py", "test_test_utils.py",
                "test_worker.py"),
        "benchmarks": ("test_benchmarks_*.py",),
    },
    # Real connections, files, WebSockets, TLS and proxies in both directions.
    quick=("test_client_functional.py", "test_client_ws_functional.py", "test_proxy_functional.py", "test_run_app.py",
           "test_web_functional.py", "test_web_sendfile_functional.py", "test_web_server.py",
           "test_web_websocket_functional.py"),
    options=("-o", "timeout=0", "-m", "not dev_mode and not autobahn and not internal"),
    excluded=EXCLUDED,
)  # fmt: skip
