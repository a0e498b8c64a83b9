"""Runs one module of CPython's tests of files in a process of its own: `python -m tests.suites.io_child --help`.

Its classes open files by `self.open`: in those that test the built-in one, that is replaced by this package's.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import types
import unittest
from collections.abc import Iterator
from typing import Any

import flexsc_loop
from tests.suites import cpython_child
from tests.suites.records import Result, Writer, add_arguments


class Opened:
    """A file of this package for code that awaits nothing: each call runs a loop until its result is there."""

    #: How many have been opened; tells which tests have had one.
    made = 0
    loop: Any = None

    def __init__(self, file: Any) -> None:
        self._file = file

    @classmethod
    def open(cls, *arguments: Any, **options: Any) -> Opened:
        """As the built-in open()."""
        if cls.loop is None:
            cls.loop = flexsc_loop.new_event_loop()
        cls.made += 1
        return cls(cls.result(flexsc_loop.open, *arguments, **options))

    @classmethod
    def result(cls, function: Any, *arguments: Any, **options: Any) -> Any:
        async def call() -> Any:
            found = function(*arguments, **options)
            return await found if hasattr(found, "__await__") else found

        return cls.loop.run_until_complete(call())

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._file, name)
        if name == "buffer":
            return Opened(found)
        return (lambda *given, **options: self.result(found, *given, **options)) if callable(found) else found

    def __enter__(self) -> Opened:
        self.result(self._file.__aenter__)
        return self

    def __exit__(self, *error: object) -> None:
        self.result(self._file.__aexit__, *error)

    def __iter__(self) -> Iterator[Any]:
        if self.closed:
            raise ValueError("I/O operation on closed file.")
        return self

    def __next__(self) -> Any:
        try:
            return self.result(self._file.__anext__)
        except StopAsyncIteration:
            raise StopIteration from None

    def __repr__(self) -> str:
        return repr(self._file)


def opens(case: type) -> bool:
    """Whether a class of tests opens files by `self.open`, and not with the implementation in Python."""
    own = [one for one in case.__mro__ if one.__module__ == case.__module__]
    return not case.__name__.startswith("Py") and any("self.open(" in inspect.getsource(one) for one in own)


def chosen(module: types.ModuleType, ours: bool) -> types.ModuleType:
    """A module whose tests are those of `module` that open files, with our `open` if `ours`."""

    def load_tests(loader: unittest.TestLoader, *_: object) -> unittest.TestSuite:
        tests = [test for test in cpython_child.flat(loader.loadTestsFromModule(module)) if opens(type(test))]
        for case in {type(test) for test in tests} if ours else ():
            case.open = staticmethod(Opened.open)  # type: ignore[attr-defined]
        return unittest.TestSuite(tests)

    found = types.ModuleType(module.__name__)
    found.load_tests = load_tests  # type: ignore[attr-defined]
    for name in ("setUpModule", "tearDownModule"):
        if hasattr(module, name):
            setattr(found, name, getattr(module, name))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("module", help="test_io, …")
    parser.add_argument("--loop", choices=("ours", "stdlib"), required=True)
    add_arguments(parser)
    args = parser.parse_args()
    ours = args.loop == "ours"
    try:
        module = importlib.import_module(f"test.{args.module}")
    except unittest.SkipTest as reason:
        Writer(args.record).end(Result(f"{args.module}.<all>", "skipped", detail=str(reason)))
    else:
        cpython_child.run(chosen(module, ours), Opened if ours else None, args)
    if Opened.loop is not None:
        Opened.loop.close()


if __name__ == "__main__":
    main()
