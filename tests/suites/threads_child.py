"""Runs one module of CPython's tests in a process of its own: `python -m tests.suites.threads_child --help`.

With `--loop=ours` the standard library is patched first, and the tests run in a green thread.
"""

import sys

if "--loop=ours" in sys.argv:
    from flexsc_loop import threads
    from flexsc_loop.threads import patching

    threads.patch()

import argparse
import importlib
import queue
import unittest
from collections.abc import Callable
from typing import Any

from test import support
from test.support import import_helper

from tests.suites import cpython_child
from tests.suites.records import Result, Writer, add_arguments

#: What tests may take: no minutes, no gigabytes, no display.  Some say "network" and mean this machine only.
RESOURCES = {"subprocess": None, "cpu": None, "network": None}


def patch_what_is_imported_afresh() -> None:
    """Tests import copies of modules beside those that are patched: these are patched, too."""
    plain = import_helper.import_fresh_module

    def import_fresh_module(name: str, *args: Any, **options: Any) -> Any:
        module = plain(name, *args, **options)
        for patched, key, instead in [*patching.names(), (queue, "Empty", queue.Empty)]:
            if module is not None and patched.__name__ == name and hasattr(module, key):
                setattr(module, key, instead)
        return module

    import_helper.import_fresh_module = import_fresh_module


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("module", help="test_socket, …")
    parser.add_argument("--loop", choices=("ours", "stdlib"), required=True)
    add_arguments(parser)
    args = parser.parse_args()
    support.use_resources = RESOURCES
    looks = None
    if args.loop == "ours":
        from tests.suites.in_green import Looks

        patch_what_is_imported_afresh()
        looks = Looks()

    def run() -> None:
        try:
            module = importlib.import_module(f"test.{args.module}")
        except unittest.SkipTest as reason:
            Writer(args.record).end(Result(f"test.{args.module}.<all>", "skipped", detail=str(reason)))
        else:
            cpython_child.run(module, looks, args)

    start: Callable[[Callable[[], None]], None] = threads.run if args.loop == "ours" else lambda function: function()
    start(run)


if __name__ == "__main__":
    main()
