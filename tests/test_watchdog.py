"""Turns that last too long are reported while they do, whoever holds the GIL."""

import signal
import subprocess
import sys
import threading

import pytest
from support import ROOT, Running, check_program, child_environment, eventually, run_python, thread_names

pytestmark = pytest.mark.ours

BLOCKING = """
import ctypes, threading, time
hold = ctypes.PyDLL(None).usleep  # with the GIL

def elsewhere():
    threading.Event().wait()

threading.Thread(target=elsewhere, daemon=True).start()

async def blocking():
    await asyncio.sleep(0.01)
    {block}

async def main():
    loop = asyncio.get_running_loop()
    task = asyncio.create_task(blocking())
    await task
    print(loop.stats()["stalls"])

run(main())
"""


def run_blocking(way, block, patience="0.1"):
    return run_python(
        way.prelude() + BLOCKING.format(block=block), env={"FLEXSC_WATCHDOG": patience} if patience else None)


@pytest.mark.parametrize("block", ["time.sleep(0.5)", "hold(500_000)"], ids=["without the GIL", "with the GIL"])
def test_a_turn_that_lasts(way, block):
    end = run_blocking(way, block)
    assert end.code == 0, end.err
    assert "loop 1 of process" in end.err and ", in blocking\n" in end.err
    assert "in blocking" in end.err and "in elsewhere" in end.err
    # Once, and again after twice the time.
    assert 1 <= int(end.out) <= 3
    assert end.err.count("has been in one turn for") == int(end.out)


@pytest.mark.parametrize("patience", ["", "0", "5"])
def test_a_turn_that_may_last(way, patience):
    end = run_blocking(way, "time.sleep(0.2)", patience)
    assert (end.code, end.out, end.err) == (0, "0\n", "")


def test_sleeping_is_no_turn(way):
    end = run_blocking(way, "await asyncio.sleep(0.4)")
    assert (end.code, end.out, end.err) == (0, "0\n", "")


def watchdogs():
    return [name for name in thread_names().values() if name == "flexsc-watchdog"]


def test_the_setting(new_loop):
    loop = new_loop()
    assert loop.watchdog is None and not watchdogs()
    loop.watchdog = 5
    assert loop.watchdog == 5.0 and eventually(lambda: len(watchdogs()) == 1)
    loop.watchdog = 7
    assert eventually(lambda: len(watchdogs()) == 1)
    loop.watchdog = None
    assert loop.watchdog is None and eventually(lambda: not watchdogs())
    for bad in (-1, "x", float("nan"), float("inf"), 1e-9, []):
        if bad:
            with pytest.raises(ValueError, match="a number of seconds"):
                loop.watchdog = bad
    loop.watchdog = 5
    loop.close()
    assert eventually(lambda: not watchdogs())
    with pytest.raises(RuntimeError, match="closed"):
        loop.watchdog = 5


@pytest.mark.one_way
def test_the_environment(way, monkeypatch):
    monkeypatch.setenv("FLEXSC_WATCHDOG", "soon")
    with pytest.raises(ValueError, match="FLEXSC_WATCHDOG='soon' is not known"):
        way.new_loop()


def test_a_program_without_stderr(way, tmp_path):
    """What it opens gets that number, and is not written to; the turns are counted all the same."""
    source = way.prelude() + """
import os, sys, time
data = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY)
assert data == 2
async def main():
    loop = asyncio.get_running_loop()
    loop.watchdog = 0.1
    time.sleep(0.4)
    print(loop.stats()["stalls"] > 0)
run(main())
"""
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" 2>&-', "sh", sys.executable, "-c", source, str(tmp_path / "data")], text=True,
        stdout=subprocess.PIPE, timeout=60, check=False, env=child_environment(), cwd=ROOT)
    assert (done.returncode, done.stdout) == (0, "True\n")
    assert (tmp_path / "data").read_bytes() == b""


def test_in_another_thread_than_the_main_one(way):
    source = way.prelude() + """
import threading, time
async def main():
    time.sleep(0.4)
thread = threading.Thread(target=lambda: run(main()))
thread.start()
thread.join()
"""
    end = run_python(source, env={"FLEXSC_WATCHDOG": "0.1"})
    assert end.code == 0 and ", in main\n" in end.err, end.err


def test_a_forked_child(way):
    check_program(way, """
import os, time
async def main():
    pass
loop = new_loop()
loop.watchdog = 5
loop.run_until_complete(main())
child = os.fork()
if child == 0:
    other = new_loop()
    other.watchdog = 5
    other.run_until_complete(main())
    other.close()
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
loop.close()
print("done")
""", out="done\n")


def test_signals_are_not_for_its_thread(way):
    """Ctrl-C still wakes the loop's own thread."""
    source = way.prelude() + "async def main():\n    print('there')\n    await asyncio.sleep(30)\nrun(main())\n"
    with Running(source, env={"FLEXSC_WATCHDOG": "5"}) as child:
        assert child.line() == "there"
        child.signal(signal.SIGINT)
        end = child.end()
    assert end.code == -signal.SIGINT and "KeyboardInterrupt" in end.err


def test_loops_that_nobody_closes(way):
    end = run_python(way.prelude() + """
import gc, warnings
warnings.simplefilter("ignore")
for _ in range(20):
    loop = new_loop()
    loop.watchdog = 1
    loop.run_until_complete(asyncio.sleep(0))
    del loop
gc.collect()
print("done")
""")
    assert (end.code, end.out) == (0, "done\n"), end.err
    assert threading.active_count() >= 1
