"""Other processes of green programs: multiprocessing of each kind, and signals that end one whatever it does."""

import signal
import subprocess
import sys

import pytest
from support import ROOT, child_environment
from threads_support import BEFORE

pytest.importorskip("greenlet")
pytestmark = pytest.mark.ours

WORKERS = """
import flexsc_loop.threads
flexsc_loop.threads.patch()
import multiprocessing, sys, threading, time, warnings
from concurrent.futures import ProcessPoolExecutor
from flexsc_loop import threads

warnings.filterwarnings("ignore", ".*multi-threaded, use of fork", DeprecationWarning)


def twice(number):
    time.sleep(0.01)
    return 2 * number


def put(queue, numbers):
    for number in numbers:
        queue.put(twice(number))


def main():
    context = multiprocessing.get_context(sys.argv[1])
    going_on = threading.Event()
    other = threading.Thread(target=lambda: (time.sleep(0.01), going_on.set()))
    other.start()
    queue = context.SimpleQueue()
    child = context.Process(target=put, args=(queue, [1, 2]))
    child.start()
    child.join()
    assert child.exitcode == 0 and [queue.get(), queue.get()] == [2, 4]
    other.join()
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        assert list(pool.map(twice, range(5))) == [0, 2, 4, 6, 8]
    print("done", flush=True)


if __name__ == "__main__":
    threads.run(main)
"""


@pytest.mark.parametrize("kind", ["fork", "forkserver", "spawn"])
def test_multiprocessing(way, tmp_path, kind):
    path = tmp_path / "program.py"
    path.write_text(WORKERS)
    end = subprocess.run(
        [sys.executable, str(path), kind], env=child_environment(way.environment()), cwd=ROOT, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (end.returncode, end.stdout) == (0, "done\n"), end.stderr


STATES = {
    "all_wait": "threading.Thread(target=time.sleep, args=(60,), daemon=True).start(); ready(); time.sleep(60)",
    "one_computes": "ready(); [None for _ in iter(int, 1)]",
    "in_a_lock": "lock = threading.Lock(); lock.acquire(); ready(); lock.acquire()",
    "in_a_join": "thread = threading.Thread(target=time.sleep, args=(60,), daemon=True); thread.start(); ready(); "
                 "thread.join()",
    "in_recv": "ours, theirs = socket.socketpair(); ready(); ours.recv(1)",
    "in_the_executor": "import asyncio; from flexsc_loop.threads.waiting import _sleep; ready(); "
                       "threads.wait(asyncio.to_thread(_sleep, 1))",
}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("state", list(STATES))
def test_signals_end_it_in_any_state(way, state, number):
    source = BEFORE + f"""
def ready():
    print("ready", flush=True)

def main():
    try:
        {STATES[state]}
    except KeyboardInterrupt:
        print("interrupted", flush=True)
        raise

threads.run(main)
"""
    child = subprocess.Popen(
        [sys.executable, "-c", source], env=child_environment(way.environment()), cwd=ROOT, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert child.stdout is not None and child.stdout.readline() == "ready\n"
        child.send_signal(number)
        out, err = child.communicate(timeout=30)
    finally:
        child.kill()
        child.wait()
    assert child.returncode == -number, err
    assert out == ("interrupted\n" if number == signal.SIGINT else ""), err
