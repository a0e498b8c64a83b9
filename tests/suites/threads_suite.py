"""CPython's own tests of what blocks, with the standard library patched and each module's tests in a green thread."""

from __future__ import annotations

import sys

from tests.suites.cpython import VERSION, modules_of_tests
from tests.suites.runs import Exclusion, Part

NAME = "threads"
#: Patterns of modules of `test`; of those that are folders, each module in them.  The longest first.
MODULES = (
    "test_subprocess", "test_socket", "test_concurrent_futures", "test_threading", "test_ssl", "test_asyncio",
    "test_thread", "test_threading_local", "test_queue", "test_socketserver", "test_httplib", "test_httpservers",
    "test_urllib", "test_urllib2", "test_urllib2_localnet", "test_urllib_response", "test_urlparse", "test_wsgiref",
    "test_ftplib", "test_smtplib", "test_poplib", "test_imaplib", "test_xmlrpc", "test_select", "test_selectors",
    "test_context", "test_contextlib", "test_contextlib_async", "test_poll", "test_epoll",
)  # fmt: skip
#: For a short run: what the methods of sockets, locks and selectors are asked for most.
QUICK = ("test_thread", "test_queue", "test_socketserver", "test_selectors", "test_smtplib")

ONE_THREAD = "asks for the kernel's number of each thread: green threads have one in common"
PRIVATE = "puts a function that fails in the place of a private one of `threading`"

EXCLUDED = [
    Exclusion("test.test_select.SelectTestCase.test_disallow_instantiation", "makes a poll object by its class"),
    Exclusion("test.test_subprocess.MiscTests.test__all__", "the module has another object for its private name `io`"),
    Exclusion("test.test_threading.MiscTestCase.test__all__", "`local` is the one in Python, of another module"),
    Exclusion("test.test_threading.ThreadTests.test_various_ops*", ONE_THREAD),
    Exclusion("test.test_threading.ThreadTests.test_PyThreadState_SetAsyncExc", ONE_THREAD),
    Exclusion("test.test_threading.ThreadTests.test_limbo_cleanup", PRIVATE),
    Exclusion("test.test_concurrent_futures.test_process_pool.*.test_python_finalization_error", PRIVATE),
    Exclusion(
        "test.test_threading.InterruptMainTests.test_can_interrupt_tight_loops",
        "the main thread computes and makes no call: others wait until it does",
    ),
    Exclusion(
        "test_runners.RunTests.test_asyncio_run_without_uncancel",
        "makes tasks by a loop of a policy's: asyncio.run makes one of the loop beneath, by that one's factory",
    ),
    Exclusion(
        "test.test_socket.GeneralModuleTests.testRefCountGetNameInfo",
        "counts references in an `except` clause: the frame of the function in its place has one",
    ),
]


def command(module: str, loop: str) -> list[str]:
    return [sys.executable, "-W", "default", "-bb", "-m", "tests.suites.threads_child", module, f"--loop={loop}"]


def parts(quick: bool) -> list[Part]:
    """One part for each module; raises RuntimeError where the tests are not installed."""
    return [
        Part(name, lambda loop, name=name: command(name, loop), seconds=600, test_seconds=30)  # type: ignore[misc]
        for name in modules_of_tests(MODULES)
        if not quick or name in QUICK
    ]


def exclusions() -> list[Exclusion]:
    return [one for one in EXCLUDED if one.holds(VERSION)]
