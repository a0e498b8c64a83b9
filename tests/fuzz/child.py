"""Runs programs on one kind of loop, a line of JSON in, a line out: `python -m tests.fuzz.child WAY`."""

from __future__ import annotations

import faulthandler
import json
import logging
import os
import sys

from tests.support import WAYS

from . import kinds, world

LIMIT = 60


def main() -> None:
    """Serve until the input ends."""
    assert kinds
    faulthandler.enable()
    logging.disable()
    make = WAYS[sys.argv[1]].new_loop
    with os.fdopen(os.dup(1), "w") as out:
        os.dup2(2, 1)
        for line in sys.stdin:
            asked = json.loads(line)
            faulthandler.dump_traceback_later(LIMIT - 10)
            result = world.run(make, asked["program"], asked["expected"], asked["patience"])
            faulthandler.cancel_dump_traceback_later()
            print(json.dumps(result), file=out, flush=True)


if __name__ == "__main__":
    main()
