"""Programs for green threads: each in a process of its own, since patching is for good."""

import textwrap

from support import run_python

BEFORE = """
import flexsc_loop.threads
flexsc_loop.threads.patch()
import contextlib, os, signal, socket, sys, threading, time, warnings
warnings.filterwarnings("ignore", ".*multi-threaded, use of fork", DeprecationWarning)
from flexsc_loop import threads


class Collected(list):
    def __call__(self, value):
        self.append(value)


def in_thread(function, *args):
    thread = threading.Thread(target=function, args=args)
    thread.start()
    return thread


def raised(kind, function, *args):
    try:
        function(*args)
    except kind as error:
        return error
    raise AssertionError(f"no {kind}")


def tcp_pair():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        return client, listener.accept()[0]
"""
SIDE_BY_SIDE = """
def side_by_side(count, function):
    seen = Collected()
    for thread in [in_thread(lambda i=i: seen(function(i))) for i in range(count)]:
        thread.join()
    return seen
"""
AFTER = """
sys.stdout.write("done\\n")
"""


def program(way, source, *args, timeout=30, env=None):
    """Run `source`, which ends by itself, on loops of `way`.  How it ended."""
    env = {**way.environment(), **(env or {})}
    return run_python(BEFORE + textwrap.dedent(source), *args, env=env, timeout=timeout)


def check(way, source, timeout=30):
    """Run a `main()` as a green thread; it has to return."""
    end = program(way, textwrap.dedent(source) + "\nthreads.run(main)\n" + AFTER, timeout=timeout)
    assert (end.code, end.out, end.err) == (0, "done\n", ""), f"{end.code}\n{end.out}\n{end.err}"
