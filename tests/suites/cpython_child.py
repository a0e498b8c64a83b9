"""Runs one module of test.test_asyncio in a process of its own: `python -m tests.suites.cpython_child --help`."""

from __future__ import annotations

import argparse
import faulthandler
import importlib
import time
import traceback
import unittest
from collections.abc import Iterator
from typing import Any

from tests.suites.records import Choice, Outcome, Result, Writer, add_arguments

#: Modules whose mock loop, where it needs no virtual clock, is no part of what they test.
WITHOUT_MOCK_LOOP = ("test_base_events", "test_futures", "test_tasks")
#: Modules that make a `BaseEventLoop` and give it what it lacks.
WITH_BASE_LOOP = ("test_base_events", "test_pep492", "test_runners")


def use_this_loop(module_name: str) -> Any:
    """Import a module of the suite so that its tests run on this loop; returns the class that counts loops."""
    from tests.suites import stand_in

    stand_in.replace_default_loop()
    module = importlib.import_module(f"test.test_asyncio.{module_name}")
    if module_name in WITH_BASE_LOOP:
        stand_in.replace_base_loop(module)
    if module_name in WITHOUT_MOCK_LOOP:
        replace_mock_loop(stand_in.StandIn)
    return stand_in.StandIn


def replace_mock_loop(factory: Any) -> None:
    """Have `new_test_loop()` make a real loop; `new_test_loop(generator)` still makes one with a clock of its own."""
    case: Any = importlib.import_module("test.test_asyncio.utils").TestCase
    make_mock = case.new_test_loop

    def new_test_loop(self: Any, gen: Any = None) -> Any:
        if gen is not None:
            return make_mock(self, gen)
        loop = factory()
        self.set_event_loop(loop)
        return loop

    case.new_test_loop = new_test_loop


class Recording(unittest.TestResult):
    """Writes each test's end down, and kills the process when a test takes too long."""

    def __init__(self, writer: Writer, limit: float, counter: Any) -> None:
        super().__init__()
        self.writer, self.limit, self.counter = writer, limit, counter
        self.outcome: Outcome = "passed"
        self.detail = ""
        self.began = 0.0
        self.loops_before = 0
        self.in_test = False

    def startTest(self, test: unittest.TestCase) -> None:
        super().startTest(test)
        self.outcome, self.detail = "passed", ""
        self.began = time.monotonic()
        self.loops_before = self.counter.made if self.counter else 0
        self.in_test = True
        self.writer.start(name_of(test))
        faulthandler.dump_traceback_later(self.limit, exit=True)

    def stopTest(self, test: unittest.TestCase) -> None:
        super().stopTest(test)
        faulthandler.cancel_dump_traceback_later()
        self.in_test = False
        loops = self.counter.made - self.loops_before if self.counter else 0
        self.writer.end(
            Result(name_of(test), self.outcome, round(time.monotonic() - self.began, 3), loops, self.detail)
        )

    def _bad(self, test: Any, error: Any) -> None:
        detail = "".join(traceback.format_exception(*error))
        self.outcome, self.detail = "failed", self.detail + detail
        if not self.in_test:  # setUpClass, tearDownModule and the like
            self.writer.end(Result(str(test), "failed", detail=detail))

    def addError(self, test: Any, err: Any) -> None:
        self._bad(test, err)

    def addFailure(self, test: Any, err: Any) -> None:
        self._bad(test, err)

    def addSubTest(self, test: Any, subtest: Any, err: Any) -> None:
        if err is not None:
            self._bad(test, err)

    def addSkip(self, test: Any, reason: str) -> None:
        if self.in_test:
            self.outcome, self.detail = "skipped", reason

    def addUnexpectedSuccess(self, test: Any) -> None:
        self.outcome, self.detail = "failed", "passed unexpectedly"


def name_of(test: unittest.TestCase) -> str:
    return test.id().removeprefix("test.test_asyncio.")


def flat(suite: Any) -> Iterator[unittest.TestCase]:
    for part in suite:
        if isinstance(part, unittest.TestSuite):
            yield from flat(part)
        else:
            yield part


def run(module: Any, counter: Any, args: argparse.Namespace | None = None) -> None:
    """Run a module's tests as the command line says, and write each one's end down.  counter.made: loops of ours."""
    if args is None:
        parser = argparse.ArgumentParser()
        add_arguments(parser)
        args = parser.parse_args()
    chosen, writer = Choice(args), Writer(args.record)
    loaded = flat(unittest.defaultTestLoader.loadTestsFromModule(module))
    tests = [test for test in loaded if chosen.wants(name_of(test), writer)]
    unittest.TestSuite(tests).run(Recording(writer, args.limit, counter))
    # The interpreter's end is tested, too: a thread or a loop that keeps the process from ending shows here.
    faulthandler.dump_traceback_later(args.limit, exit=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("module", help="test_events, …")
    parser.add_argument("--loop", choices=("ours", "stdlib"), required=True)
    add_arguments(parser)
    args = parser.parse_args()
    try:
        counter = use_this_loop(args.module) if args.loop == "ours" else None
        module = importlib.import_module(f"test.test_asyncio.{args.module}")
    except unittest.SkipTest as reason:
        Writer(args.record).end(Result(f"{args.module}.<all>", "skipped", detail=str(reason)))
    else:
        run(module, counter, args)


if __name__ == "__main__":
    main()
