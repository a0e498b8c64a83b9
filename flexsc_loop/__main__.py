"""Runs programs on this loop, and tells what it would use here.

    python -m flexsc_loop info [--json]                      what a loop would use on this machine, and why
    python -m flexsc_loop top [PID...] [--once] [--json]     what the loops of this user's processes do, live
    python -m flexsc_loop [options] app.py ARGUMENTS...      an asyncio program, unchanged, however it makes its loop
    python -m flexsc_loop [options] -m module ARGUMENTS...
    python -m flexsc_loop [options] -c code ARGUMENTS...
    python -m flexsc_loop [options] threads app.py ARGUMENTS...      a blocking program, its threads green; -m, -c, too
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
from collections.abc import Callable
from typing import Any

import flexsc_loop
from flexsc_loop import programs, settings, watchdog
from flexsc_loop.loop import Loop


def describe() -> dict[str, Any]:
    """What `new_event_loop()` would use here, with reasons; the same words as its log line."""
    loop = Loop()
    try:
        choice = loop.choice
        return {
            "version": flexsc_loop.__version__,
            "pages": choice.kind,
            "threads": "own" if choice.cpu is None else "syscall thread",
            "cpu": choice.cpu,
            "state": choice.state,
            "reasons": choice.reasons,
            "decisions": choice.decisions,
            "kernel": platform.release(),
            "cpus_allowed": sorted(os.sched_getaffinity(0)),
            "features": choice.page.features(),
        }
    finally:
        loop.close()


def show(found: dict[str, Any], as_json: bool) -> None:
    """Print what `describe` has found."""
    # Whoever reads has read enough: end as other commands do.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    if as_json:
        print(json.dumps(found, indent=2))
        return
    print(f"flexsc_loop {found['version']} on Linux {found['kernel']}")
    print(f"pages:    {found['pages']}")
    print(f"threads:  {found['threads']}" + ("" if found["cpu"] is None else f" on CPU {found['cpu']}"))
    print(f"state:    {found['state']}")
    for reason in found["reasons"] + found["decisions"]:
        print(f"  - {reason}")
    print(f"features: {', '.join(found['features']) or '-'}")


class _Version(argparse.Action):
    """Shows the version, which is looked for only now."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        print(f"flexsc_loop {flexsc_loop.__version__}")
        parser.exit()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m flexsc_loop", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="%(prog)s [options] (info | top | [threads] (app.py | -m module | -c code)) ...", allow_abbrev=False)
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    parser.add_argument("--pages", choices=settings.PAGES, help="what the program's loops use; sets FLEXSC_PAGES")
    parser.add_argument("--threads", help="who makes their system calls: auto, off, on, a CPU or a list of CPUs; sets "
                        "FLEXSC_THREADS")
    parser.add_argument("--writes", choices=settings.WRITES, help="when what they write is sent; sets FLEXSC_WRITES")
    parser.add_argument("--transports", choices=settings.TRANSPORTS, help="own: its connections are not handed to "
                        "aiofastnet where that is installed; sets FLEXSC_TRANSPORTS")
    parser.add_argument("--watchdog", metavar="SECONDS", help="report turns of their loops that last longer; sets "
                        "FLEXSC_WATCHDOG")
    parser.add_argument("--slow-thread", metavar="SECONDS", help="threads: report a green thread that computes for "
                        "longer; sets FLEXSC_SLOW_THREAD")
    parser.add_argument("--children", action="store_true", help="Python processes that the program starts, too")
    parser.add_argument("-m", dest="module", nargs=argparse.REMAINDER, metavar="module", help="a module to run")
    parser.add_argument("-c", dest="code", nargs=argparse.REMAINDER, metavar="code", help="source code to run")
    parser.add_argument("program", nargs=argparse.REMAINDER, metavar="app.py", help="a file or folder to run")
    return parser


def _info(parser: argparse.ArgumentParser, arguments: list[str]) -> None:
    inner = argparse.ArgumentParser(prog=f"{parser.prog} info")
    inner.add_argument("--json", action="store_true", help="machine-readable")
    asked = inner.parse_args(arguments)
    try:
        found = describe()
    except (OSError, ValueError) as error:
        inner.exit(2, f"{inner.prog}: {error}\n")
    show(found, asked.json)


def _top(parser: argparse.ArgumentParser, arguments: list[str]) -> None:
    from flexsc_loop.insight import top

    # Whoever reads has read enough: end as other commands do.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    parser.exit(top.main(f"{parser.prog} top", arguments))


def main() -> None:
    """The command line."""
    parser = _parser()
    asked = parser.parse_args()
    chosen = {"FLEXSC_PAGES": asked.pages, "FLEXSC_THREADS": asked.threads, "FLEXSC_WRITES": asked.writes,
              "FLEXSC_TRANSPORTS": asked.transports, "FLEXSC_WATCHDOG": asked.watchdog,
              "FLEXSC_SLOW_THREAD": asked.slow_thread}
    os.environ.update({name: value for name, value in chosen.items() if value is not None})
    command = "" if asked.module or asked.code else "".join(asked.program[:1])
    if command == "info":
        return _info(parser, asked.program[1:])
    if command == "top":
        return _top(parser, asked.program[1:])
    if command == "threads":
        asked = parser.parse_args(asked.program[1:])
    run, words = _what_to_run(asked)
    if not words:
        parser.error("what is to be run? info, top, threads, a file, -m module or -c code")
    try:
        settings.read()
        settings.keeps_transports()
        watchdog.wanted()
        watchdog.check(os.environ.get("FLEXSC_SLOW_THREAD"), "FLEXSC_SLOW_THREAD")
    except ValueError as error:
        parser.error(str(error))
    if asked.children:
        programs.take_over_children()
    try:
        if command == "threads":
            _run_green(parser, run, words)
        else:
            programs.take_over()
            programs.run(run, words[0], words[1:])
    except programs.ProgramError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")


def _what_to_run(asked: argparse.Namespace) -> tuple[Callable[[str, list[str]], None], list[str]]:
    if asked.module is not None:
        return programs.run_module, asked.module
    if asked.code is not None:
        return programs.run_command, asked.code
    return programs.run_script, asked.program


def _run_green(parser: argparse.ArgumentParser, run: Callable[[str, list[str]], None], words: list[str]) -> None:
    """A blocking program, its threads green."""
    try:
        from flexsc_loop import threads
    except ImportError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    threads.run_program(run, words[0], words[1:])


if __name__ == "__main__":
    main()
