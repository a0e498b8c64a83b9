"""Fixtures of tests that have calls fail, for builds with faults on demand (`tests/faulty.sh`).

A fault is drawn by seed, for about one in so many system calls that a page's or a file's thread makes (`calls`), and
operations and completions of either page (`results`).
"""

import asyncio
import errno
import os
from collections import Counter

import pytest

EINTR, EAGAIN, ENOBUFS, ENOMEM, ECANCELED, SHORT, LATE = (1 << i for i in range(7))

#: What the program must not notice.
QUIET = {
    "eintr": EINTR,
    "eagain": EAGAIN,
    "ecanceled": ECANCELED,
    "short": SHORT,
    "late": LATE,
    "all of them": EINTR | EAGAIN | ECANCELED | SHORT | LATE,
}
#: What it may be told of, as the standard loop would.
TOLD = {"enobufs": ENOBUFS, "enomem": ENOMEM}
TOLD_ERRNO = {errno.ENOBUFS, errno.ENOMEM}

#: How many faults have come so far in which module of tests and way to run.
CAME: Counter[tuple[str, str, int]] = Counter()

SEEDS = range(int(os.environ.get("FAULT_SEEDS", "3")))
ONE_IN = 3


@pytest.fixture
def faulty(request, way, new_loop, monkeypatch):
    """A loop with faults of these kinds."""
    made = []

    def make(kinds, seed, one_in=ONE_IN):
        monkeypatch.setenv("FLEXSC_FAULTS", f"{seed} {one_in} {kinds} {kinds}")
        loop = new_loop(fresh=True)
        if "faults" not in loop.stats():
            pytest.skip("built without faults on demand: use tests/faulty.sh")
        made.append((kinds, loop))
        return loop

    yield make
    for kinds, loop in made:
        CAME[request.module.__name__, way.name, kinds] += loop.stats()["faults"]


@pytest.fixture(params=QUIET.values(), ids=list(QUIET))
def quiet(request):
    return request.param


@pytest.fixture(params=TOLD.values(), ids=list(TOLD))
def told(request):
    return request.param


every_seed = pytest.mark.parametrize("seed", SEEDS)


def run(loop, coroutine, seconds=20):
    return loop.run_until_complete(asyncio.wait_for(coroutine, seconds))


def never_came(module):
    """Kinds of faults, and the way to run, that the tests of this module have asked for and not met."""
    return [key for key, count in CAME.items() if key[0] == module and count == 0]
