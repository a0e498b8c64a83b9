"""Blocking programs, each run with plain threads and with green ones: they print the same, and end alike."""

import functools
import subprocess
import sys

import pytest
from support import ROOT, child_environment

pytest.importorskip("greenlet")
pytestmark = pytest.mark.ours

FOLDER = ROOT / "tests" / "blocking"
# Seen with 3.12.1: "can't create new thread at interpreter shutdown", while it waits for threads that want to.
NO_MORE_THREADS = pytest.mark.skipif(sys.version_info[:2] == (3, 12), reason="plain threads start no others at the end")


def run(words, environment):
    """Its exit code, and what it says; of tracebacks all but the frames."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", *words], env=child_environment(environment), cwd=FOLDER,
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    told = [line for line in done.stderr.splitlines() if not line.startswith(" ")]
    return done.returncode, done.stdout.splitlines(), told


@functools.cache
def plain(*words):
    return run(words, {})


@pytest.mark.parametrize(
    "words",
    [
        ["sockets.py"], ["waiting.py"], ["signalling.py"], ["primitives.py"], ["library.py"], ["loops.py"],
        ["main_thread.py"],
        *(pytest.param(["ending.py", how], marks=NO_MORE_THREADS) for how in (
            "well", "error", "exit", "thread", "interrupt",
        )),
        *(["processes.py", kind] for kind in ("os", "fork", "spawn", "forkserver")),
    ],
    ids="-".join,
)  # fmt: skip
def test_green_threads_are_threads(way, words):
    code, told, errors = run(["-m", "flexsc_loop", "threads", *words], way.environment())
    assert told == plain(*words)[1]
    assert (code, errors) == (plain(*words)[0], plain(*words)[2])
