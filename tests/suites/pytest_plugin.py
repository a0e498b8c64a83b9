"""A pytest plugin: puts this loop in the place of the standard one, and writes down how each test ends."""

from __future__ import annotations

import argparse
import faulthandler
import gc
import os
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from .records import Choice, Outcome, Result, Writer, add_arguments


class Options(argparse.ArgumentParser):
    """Gives pytest the options that `add_arguments` names."""

    def __init__(self, group: Any) -> None:
        super().__init__()
        self.group = group

    def add_argument(self, *names: Any, required: bool = False, **settings: Any) -> Any:
        return self.group.addoption(*names, **settings) if hasattr(self, "group") else None


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("suites")
    group.addoption("--suite-loop", choices=("ours", "stdlib", "green"), required=True)
    add_arguments(Options(group))


class Recorder:
    """Writes each test's end down, and ends the process when a test takes too long."""

    def __init__(self, config: pytest.Config, counter: Any) -> None:
        self.choice, self.writer = Choice(config.option), Writer(config.option.record)
        self.limit: float = config.option.limit
        self.counter = counter
        # pytest puts another file in the place of descriptor 2 while a test runs.
        self.stderr = open(os.dup(2), "w")
        self.outcome: Outcome = "passed"
        self.detail = ""

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        wanted = [item for item in items if self.choice.wants(item.nodeid, self.writer)]
        config.hook.pytest_deselected(items=[item for item in items if item not in set(wanted)])
        items[:] = wanted

    def pytest_collection_finish(self) -> None:
        # aiohttp's fixtures collect garbage after each test; all that is here now need not be looked at each time.
        gc.collect()
        gc.freeze()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self.outcome, self.detail = "passed", ""
        self.writer.start(item.nodeid)
        made = self.counter.made if self.counter else 0
        began = time.monotonic()
        faulthandler.dump_traceback_later(self.limit, exit=True, file=self.stderr)
        try:
            return (yield)
        finally:
            faulthandler.cancel_dump_traceback_later()
            loops = self.counter.made - made if self.counter else 0
            seconds = round(time.monotonic() - began, 3)
            self.writer.end(Result(item.nodeid, self.outcome, seconds, loops, self.detail))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.outcome, self.detail = "failed", self.detail + report.longreprtext
        elif report.skipped and not hasattr(report, "wasxfail") and self.outcome == "passed":
            self.outcome, self.detail = "skipped", str(report.longrepr)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.writer.end(Result(report.nodeid, "failed", detail=report.longreprtext))


def pytest_configure(config: pytest.Config) -> None:
    counter = None
    if config.option.suite_loop == "ours":
        from . import stand_in

        stand_in.replace_default_loop()
        counter = stand_in.StandIn
    elif config.option.suite_loop == "green":
        from .in_green import Looks

        counter = Looks()
    config.pluginmanager.register(Recorder(config, counter), "suite-recorder")


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Failures are written down one by one; the exit status says whether the session itself went well."""
    if exitstatus in (pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED):
        session.exitstatus = pytest.ExitCode.OK
    sys.stderr.flush()
