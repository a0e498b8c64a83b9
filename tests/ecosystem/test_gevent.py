"""gevent's patches of the standard library, and what needs a thread."""

import sys
from pathlib import Path

import pytest

pytest.importorskip("gevent")

pytestmark = pytest.mark.ours
PROGRAM = Path(__file__).with_name("with_gevent.py")


def said(start, threads):
    program = start(sys.executable, str(PROGRAM), threads)
    assert program.end(30) == 0, program.text()
    return program.text().splitlines()


def test_green_threads_are_refused_at_once(start):
    """They would never run, and neither would time-outs."""
    lines = said(start, "green")
    assert "patch_all(thread=False, queue=False)" in lines[1] and "patch_all(thread=False, queue=False)" in lines[4]
    assert [lines[0], lines[2], lines[3]] == ["flexsc_loop.loop", "", "5"]


def test_all_else_may_be_patched(start):
    assert said(start, "real") == ["flexsc_loop.loop", "42", "43", "5", "found"]
