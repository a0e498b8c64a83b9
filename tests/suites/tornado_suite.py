"""tornado's own tests, which come with its package."""

from __future__ import annotations

from tests.suites.projects import Project
from tests.suites.runs import Exclusion

EXCLUDED = (
    Exclusion(
        "tornado/test/simple_httpclient_test.py::*::test_request_timeout",
        "a first request, its TLS handshake included, has to reach the server within 0.1 s: on a busy machine it fails "
        "on the standard loop, too, and the more so with a syscall thread",
    ),
)

SUITE = Project(
    name="tornado",
    version="6.6.1",
    tests=("tornado/test/*_test.py",),
    # As tornado's runner does it.
    options=("-p", "suites.tornado_plugin", "-o", "python_files=*_test.py", "-o", "python_classes=", "-W", "error",
             "-W", "ignore::ImportWarning", "-W", "ignore::DeprecationWarning",
             "-W", "ignore::PendingDeprecationWarning"),
    environment={"ASYNC_TEST_TIMEOUT": "25"},
    groups={"http": ("*http*_test.py", "web*_test.py", "simple_httpclient_test.py")},
    quick=("iostream_test.py", "tcp*_test.py", "ioloop_test.py", "asyncio_test.py", "websocket_test.py",
           "process_test.py", "simple_httpclient_test.py", "httpserver_test.py"),
    excluded=EXCLUDED,
)  # fmt: skip
