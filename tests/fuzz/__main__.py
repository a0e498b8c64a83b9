"""Runs random programs for some time and says what differs from the standard loop.

    python -m tests.fuzz --minutes 10                       in all four ways, from a seed that is printed
    python -m tests.fuzz --minutes 60 --way kernel-own      in one
    python -m tests.fuzz --way user-own --seed 7 --count 1  program 7 again
    python -m tests.fuzz --way user-own --replay FILE       a program that was kept
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter
from pathlib import Path

from tests.support import WAYS

from . import kinds, operations, runs

#: Programs that fail in the same way and are made smaller; the others are counted only.
OF_A_SORT = 2
#: For how long each of them is.
SHRINKING_S = 60


def tell(text: str) -> None:
    print(text, flush=True)


class Session:
    """One run of the fuzzer."""

    def __init__(self, way: str, args: argparse.Namespace) -> None:
        self.way, self.args = way, args
        self.compare = runs.Comparison(way)
        self.sorts: Counter[str] = Counter()
        self.unsteady = 0

    def one(self, name: str, program: list[operations.Step]) -> None:
        complaints = self.compare.complaints(program)
        if not complaints:
            return
        sort = runs.sort_of(complaints[0])
        if self.sorts[sort] >= OF_A_SORT:
            self.sorts[sort] += 1
            return
        again = [self.compare.complaints(program) for _ in range(3)]
        steady = sum(map(bool, again))
        if not steady:
            self.unsteady += 1
            tell(f"{name}: once, and not in 3 more runs: {complaints[0][:600]}")
        else:
            self.sorts[sort] += 1
            tell(f"{name}: {steady + 1} of 4 runs: {complaints[0][:600]}")
            if not (self.args.replay or self.args.first):
                program = self.smaller(runs.until_it_fails(program, complaints[0]), sort, 1 if steady == 3 else 3)
                complaints = self.compare.complaints(program) or complaints
        path = Path(self.args.keep) / f"{self.way}-{name}.json"
        runs.dump(path, program, complaint=complaints[0][:1000], way=self.way)
        tell(f"  kept in {path}:\n{path.read_text()}")

    def smaller(self, program: list[operations.Step], sort: str, tries: int) -> list[operations.Step]:
        end = time.monotonic() + SHRINKING_S

        def fails(candidate: list[operations.Step]) -> bool:
            for _ in range(tries if time.monotonic() < end else 0):
                if any(runs.sort_of(one) == sort for one in self.compare.complaints(candidate, 0.7)):
                    return True
            return False

        return runs.shrink(program, fails)

    def run(self, seed: int, minutes: float) -> bool:
        """Run programs that were kept, or new ones for so many minutes; returns whether all were as they should be."""
        tell(f"{self.way}: from seed {seed}")
        end, count = time.monotonic() + minutes * 60, 0
        try:
            for path in self.args.replay or ():
                self.one(Path(path).stem, runs.load(Path(path)))
                count += 1
            while not self.args.replay and time.monotonic() < end and count < self.args.count:
                if self.args.first and self.sorts:
                    break
                self.one(str(seed + count), operations.program(seed + count, self.args.length))
                count += 1
                if count % 500 == 0:
                    tell(f"{time.strftime('%H:%M')} {self.way}: {count} programs")
        finally:
            self.compare.stop()
        tell(f"{self.way}: {count} programs; failed once only: {self.unsteady}; failed: {self.sorts.total()}")
        for sort, times in self.sorts.most_common():
            tell(f"  {times} times: {sort}")
        return not self.sorts


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--way", choices=WAYS, action="append", help="all four unless given (may be repeated)")
    parser.add_argument("--minutes", type=float, default=1, help="for all ways together")
    parser.add_argument("--count", type=int, default=10**9, help="no more programs than this")
    parser.add_argument("--seed", type=int, help="of the first program; the next ones have the next numbers")
    parser.add_argument("--length", type=int, default=14, help="steps of a program, about")
    parser.add_argument("--without", action="append", default=[], metavar="NAME", help="leave these operations out")
    parser.add_argument("--only", action="append", default=[], metavar="KIND", help="with things of these kinds only")
    parser.add_argument("--replay", nargs="*", help="programs that were kept, instead of new ones")
    parser.add_argument("--first", action="store_true", help="stop at the first that fails, which is not made smaller")
    parser.add_argument("--keep", default=str(runs.ROOT / "build" / "fuzz"), help="folder for programs that fail")
    args = parser.parse_args()
    assert kinds
    operations.leave_out(args.without)
    operations.keep(args.only)
    seed = args.seed if args.seed is not None else random.SystemRandom().randrange(1 << 32)
    ways = args.way or [name for name, way in WAYS.items() if way.ours and name != "auto"]
    held = [Session(way, args).run(seed, args.minutes / len(ways)) for way in ways]
    sys.exit(not all(held))


if __name__ == "__main__":
    main()
