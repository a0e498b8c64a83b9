"""CPython's own tests of asyncio, as they come with the interpreter that runs this."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterable
from pathlib import Path

from tests.suites.runs import Exclusion, Part

VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"

#: For `.ci/run`: together about a minute, and most of what this loop does not inherit.
QUICK = ("test_buffered_proto", "test_events", "test_server", "test_sock_lowlevel", "test_streams", "test_sslproto")

SELECTORS = "EPollEventLoopTests again, with another selector"
SELECTOR = "looks into the selector loop: a mock stands for its selector, or is asked what it watches"
QUEUES = "puts handles into the queues of asyncio's own loop, or has it wait on a mock"
SSL_PROTOCOL = "reaches into asyncio's own SSLProtocol; tests/test_tls_contract.py has the same with a slow far end"
NO_WATCHER = "children are awaited without a child watcher"
PYTHON_TASKS = "puts tasks that are written in Python into asyncio's modules; this loop makes those that are not"
NO_FD = "a mock without a descriptor stands for the socket, which no system call can be made for"

EXCLUDED = [
    Exclusion("test_selector_events.*Tests.*", "the selector loop's own internals, with mocks around it"),
    Exclusion("test_proactor_events.*Tests.*", "the internals of the loop for Windows"),
    Exclusion("test_events.PollEventLoopTests.*", SELECTORS),
    Exclusion("test_events.SelectEventLoopTests.*", SELECTORS),
    Exclusion("test_sendfile.PollEventLoopTests.*", SELECTORS),
    Exclusion("test_sendfile.SelectEventLoopTests.*", SELECTORS),
    Exclusion("test_sock_lowlevel.PollEventLoopTests.*", SELECTORS),
    Exclusion("test_sock_lowlevel.SelectEventLoopTests.*", SELECTORS),
    Exclusion("test_events.EPollEventLoopTests.test_internal_fds", SELECTOR),
    Exclusion("test_events.EPollEventLoopTests.test_timeout_rounding", SELECTOR),
    Exclusion("test_base_events.BaseEventLoopTests.test__add_callback_handle", QUEUES),
    Exclusion("test_base_events.BaseEventLoopTests.test__run_once", QUEUES),
    Exclusion("test_base_events.BaseEventLoopTests.test__run_once_schedule_handle", QUEUES),
    Exclusion("test_base_events.BaseEventLoopTests.test__run_once_cancelled_event_cleanup", QUEUES),
    Exclusion("test_base_events.BaseEventLoopTests.test_run_forever_pre_stopped", QUEUES),
    Exclusion("test_base_events.BaseEventLoopTests.test_custom_run_forever_integration", QUEUES),
    Exclusion("test_base_events.BaseEventLoopTests.test_single_selecter_event_callback_after_stopping", SELECTOR),
    Exclusion("test_base_events.BaseEventLoopTests.test_not_implemented", "what a base class lacks, and this loop has"),
    Exclusion("test_base_events.BaseEventLoopWithSelectorTests.test_accept_connection_*", SELECTOR),
    Exclusion("test_sslproto.SslProtoHandshakeTests.test_connection_lost_when_busy", NO_FD, patched=True),
    Exclusion(
        "test_sslproto.*.test_create_connection_ssl_failed_certificate_no_cycles", SSL_PROTOCOL, patched=True
    ),
    Exclusion("test_base_events.BaseEventLoopWithSelectorTests.test_create_connection_ipv6_scope", NO_FD),
    Exclusion("test_base_events.BaseEventLoopTests.test_create_connection_happy_eyeballs", NO_FD, ("3.15", "3.16")),
    Exclusion(
        "test_base_events.BaseEventLoopTests.test_create_connection_happy_eyeballs_ipv4_only", NO_FD, ("3.15", "3.16")
    ),
    Exclusion("test_base_events.BaseEventLoopWithSelectorTests.test_create_connection_no_inet_pton", NO_FD),
    Exclusion("test_base_events.BaseEventLoopWithSelectorTests.test_create_connection_service_name", NO_FD),
    Exclusion("test_base_events.BaseEventLoopWithSelectorTests.test_create_server_soreuseport_only_defined", NO_FD),
    Exclusion("test_base_events.BaseLoopSockSendfileTests.*", "asks for asyncio's BaseSelectorEventLoop by name"),
    Exclusion(
        "test_subprocess.GenericWatcherTests.test_create_subprocess_fails_with_inactive_watcher",
        NO_WATCHER,
        ("3.11", "3.12", "3.13"),
    ),
    Exclusion(
        "test_subprocess.SubprocessFastWatcherTests.*",
        "this child watcher takes the exit status of every child of the process, whoever waits for it",
        ("3.11", "3.12", "3.13"),
    ),
    Exclusion("test_events.TestPyGetEventLoop.*", PYTHON_TASKS, ("3.15", "3.16")),
    Exclusion(
        "test_events.*.test_call_soon_threadsafe_handle_block_*",
        "asks for a private class of asyncio's by name; a handle of this loop does not keep another thread waiting",
        ("3.14", "3.15", "3.16"),
    ),
    Exclusion(
        "test_events.*.test_call_soon_threadsafe_handle_cancel_other_thread",
        "asks for a private class of asyncio's by name; tests/test_loop.py cancels from another thread",
        ("3.14", "3.15", "3.16"),
    ),
    Exclusion("test_graph.TestCallStackPy.*", PYTHON_TASKS, ("3.15", "3.16")),
    Exclusion(
        "test_free_threading.Test*PyFreeThreading.test_all_tasks_from_other_thread_includes_eager_tasks",
        PYTHON_TASKS,
        ("3.15", "3.16"),
    ),
    Exclusion("test_subprocess.*.test_watcher_implementation", NO_WATCHER, ("3.14", "3.15", "3.16")),
    Exclusion(
        "test_subprocess.SubprocessThreadedWatcherTests.test_pid_not_reaped_before_exit_published",
        NO_WATCHER,
        ("3.15", "3.16"),
    ),
    Exclusion(
        "test_unix_events.SelectorEventLoopSignalTests.test_close_on_finalizing",
        "a mock stands for `sys` in asyncio's own module; tests/test_introspection.py has it with a real end",
    ),
    Exclusion(
        "test_unix_events.SelectorEventLoopSignalTests.test_add_signal_handler_*_error*",
        "a mock stands for `signal` in asyncio's own module; tests/test_signals.py has it with real refusals",
    ),
    Exclusion(
        "test_unix_events.SelectorEventLoopUnixSockSendfileTests.test_sock_sendfile_not_available",
        "a mock stands for `os` in asyncio's own module; this loop is for Linux, which has sendfile(2)",
    ),
    Exclusion(
        "test_server_context.*.test_gh140947",
        "asks private names of asyncio's transports whether reading is paused; tests/test_accept.py asks is_reading()",
        ("3.15", "3.16"),
    ),
    Exclusion("test_ssl.TestSSL.test_flush_before_shutdown", SSL_PROTOCOL),
    Exclusion("test_ssl.TestSSL.test_remote_shutdown_receives_trailing_data*", SSL_PROTOCOL),
    Exclusion("test_unix_events.SelectorEventLoopUnixSockSendfileTests.test_sock_sendfile_blocking_error", SELECTOR),
    Exclusion("test_unix_events.SelectorEventLoopUnixSockSendfileTests.test_sock_sendfile_cancel*", SELECTOR),
    Exclusion("test_unix_events.SelectorEventLoopUnixSockSendfileTests.test_sock_sendfile_exception", SELECTOR),
    Exclusion("test_unix_events.SelectorEventLoopUnixSockSendfileTests.test_sock_sendfile_os_error_*", SELECTOR),
]


def command(module: str, loop: str) -> list[str]:
    return [sys.executable, "-W", "default", "-bb", "-m", "tests.suites.cpython_child", module, f"--loop={loop}"]


def parts(quick: bool) -> list[Part]:
    """One part for each module of the suite; raises RuntimeError where the suite is not installed."""
    found = importlib.util.find_spec("test.test_asyncio")
    if found is None or not found.submodule_search_locations:
        debian = f"Debian has it in libpython{VERSION}-testsuite"
        raise RuntimeError(f"the tests of asyncio are not installed with {sys.executable}; {debian}")
    names = sorted(path.stem for path in Path(found.submodule_search_locations[0]).glob("test_*.py"))
    # The longest first, so that they don't run alone at the end.
    names.sort(key=lambda name: name not in ("test_tasks", "test_events", "test_ssl", "test_subprocess"))
    return [
        Part(name, lambda loop, name=name: command(name, loop))  # type: ignore[misc]
        for name in names
        if not quick or name in QUICK
    ]


def modules_of_tests(patterns: Iterable[str]) -> list[str]:
    """Those of Python's own modules of tests that are installed; of those that are folders, each module in them.

    Raises RuntimeError if there are none.
    """
    names = []
    for name in patterns:
        found = importlib.util.find_spec(f"test.{name}")
        if found is None:
            continue
        if not found.submodule_search_locations:
            names.append(name)
        for folder in found.submodule_search_locations or ():
            names += [f"{name}.{path.stem}" for path in sorted(Path(folder).glob("test_*.py"))]
    if not names:
        raise RuntimeError(f"Python's tests are not installed: Debian has them in libpython{VERSION}-testsuite")
    return names


def exclusions() -> list[Exclusion]:
    return [one for one in EXCLUDED if one.holds(VERSION)]
