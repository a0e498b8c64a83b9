"""CPython's own tests of files, with this package's `open`, awaited call by call, in the place of the built-in one."""

from __future__ import annotations

import sys

from tests.suites.cpython import VERSION, modules_of_tests
from tests.suites.runs import Exclusion, Part

NAME = "io"
#: Those that open files by `self.open`; newer versions have test_io as a folder.
MODULES = ("test_io", "test_file", "test_univnewlines", "test_largefile", "test_bufio")

THREADS = "threads share one file: a file belongs to its loop, and a loop to its thread"
WAITS = "counts on a non-blocking file that gives None or BlockingIOError: these wait"
INSIDE = "looks at Python's own file inside: there is none"

EXCLUDED = [
    Exclusion("*test_threads*", THREADS),
    Exclusion("*daemon_threads*", "threads of a process that ends, without files"),
    Exclusion("*test_nonblock_pipe_write*", WAITS),
    Exclusion("*.CIOTest.test_closefd_attr", INSIDE),
    Exclusion("*.CMiscIOTest.test_attributes", INSIDE),
    Exclusion("*.CTextIOWrapperTest.test_seeking_too", "sets a private attribute of TextIOWrapper"),
    Exclusion("*.CIOTest.test_flush_error_on_close", "puts a function that fails in the place of a method"),
    Exclusion("*.CMiscIOTest.test_abc_inheritance*", "these files are none of io's: their methods are awaited"),
    Exclusion("*.CTextIOWrapperTest.test_telling", "expects that tell() fails during an iteration: here it works"),
    Exclusion("*.TestCopyfile.*", "copies 2 GB by shutil, without this package's files"),
    Exclusion("*.TestSocketSendfile.*", "sends 2 GB by socket.sendfile, which takes a minute"),
    Exclusion(
        "*.CLargeFileTest.test_lseek",
        "moves the position of the descriptor below: one that was opened by its path has its own here",
    ),
]


def command(module: str, loop: str) -> list[str]:
    return [sys.executable, "-W", "default", "-m", "tests.suites.io_child", module, f"--loop={loop}"]


def parts(quick: bool) -> list[Part]:
    """One part for each module; raises RuntimeError where the tests are not installed."""
    return [
        Part(name, lambda loop, name=name: command(name, loop))  # type: ignore[misc]
        for name in modules_of_tests(MODULES)
        if not quick or name in MODULES[1:3]
    ]


def exclusions() -> list[Exclusion]:
    return [one for one in EXCLUDED if one.holds(VERSION)]
