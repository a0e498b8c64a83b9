"""`python -m flexsc_loop info [--json]`: what a loop would use on this machine, and why."""

from __future__ import annotations

import argparse
import json
import os
import platform
from typing import Any

from flexsc_loop import __version__
from flexsc_loop.loop import Loop


def describe() -> dict[str, Any]:
    """What `new_event_loop()` would use here, with reasons; the same words as its log line."""
    loop = Loop()
    try:
        choice = loop.choice
        return {
            "version": __version__,
            "pages": choice.kind,
            "threads": "own" if choice.cpu is None else "syscall thread",
            "cpu": choice.cpu,
            "reasons": choice.reasons,
            "kernel": platform.release(),
            "cpus_allowed": sorted(os.sched_getaffinity(0)),
            "features": choice.page.features(),
        }
    finally:
        loop.close()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m flexsc_loop", description=__doc__)
    parser.add_argument("command", choices=["info"])
    parser.add_argument("--json", action="store_true", help="machine-readable")
    arguments = parser.parse_args()
    try:
        found = describe()
    except (OSError, ValueError) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    if arguments.json:
        print(json.dumps(found, indent=2))
        return
    print(f"flexsc_loop {found['version']} on Linux {found['kernel']}")
    print(f"pages:    {found['pages']}")
    print(f"threads:  {found['threads']}" + ("" if found["cpu"] is None else f" on CPU {found['cpu']}"))
    for reason in found["reasons"]:
        print(f"  - {reason}")
    print(f"features: {', '.join(found['features']) or '-'}")


if __name__ == "__main__":
    main()
