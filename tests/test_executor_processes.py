"""The default executor in children and at the exit of the interpreter; CPython's own tests of it."""

import importlib.util

import pytest
from support import ROOT, check_program, run_python

FORK = """
async def main():
    loop = asyncio.get_running_loop()
    await asyncio.gather(*[loop.run_in_executor(None, time.sleep, 0.001) for _ in range(5)])

def in_a_child():
    run(main())

loop = new_loop()
loop.run_until_complete(main())
"""


def test_a_child_makes_its_own(way):
    check_program(
        way,
        FORK
        + """
pid = os.fork()
if pid == 0:
    in_a_child()
    os._exit(7)
assert code_of(pid) == 7
loop.run_until_complete(main())
loop.run_until_complete(loop.shutdown_default_executor())
loop.close()
""",
    )


@pytest.mark.ours
def test_an_inherited_one_starts_anew_in_a_child(way):
    check_program(
        way,
        FORK
        + """
executor = loop._default_executor
release = threading.Event()
loop.run_in_executor(None, release.wait, 30)
pid = os.fork()
if pid == 0:
    assert executor.submit(pow, 2, 5).result(20) == 32
    executor.shutdown()
    os._exit(7)
assert code_of(pid) == 7
release.set()
loop.run_until_complete(main())
loop.run_until_complete(loop.shutdown_default_executor())
loop.close()
""",
    )


def test_a_job_that_forks(way):
    check_program(
        way,
        FORK
        + """
def fork():
    pid = os.fork()
    if pid == 0:
        os._exit(5)
    return code_of(pid)

assert loop.run_until_complete(loop.run_in_executor(None, fork)) == 5
loop.run_until_complete(main())
loop.close()
""",
    )


@pytest.mark.parametrize("close", [True, False])
def test_the_exit_of_the_interpreter_waits_for_queued_jobs(way, close):
    end = check_program(
        way,
        f"""
def job(i):
    time.sleep(0.002)
    os.write(1, b"%d." % i)

async def submit():
    loop = asyncio.get_running_loop()
    for i in range(20):
        loop.run_in_executor(None, job, i)

loop = new_loop()
loop.run_until_complete(submit())
if {close}:
    loop.close()
""",
    )
    assert sorted(map(int, end.out.strip(".").split("."))) == list(range(20))


def test_submitting_while_the_interpreter_exits(way):
    end = check_program(
        way,
        """
import atexit
loop = new_loop()
loop.run_until_complete(loop.run_in_executor(None, int))

@atexit.register
def last():
    try:
        loop.run_in_executor(None, int)
    except RuntimeError as error:
        print(error)
    loop.close()
""",
    )
    assert "shutdown" in end.out


def test_exit_with_an_executor_in_use_by_a_daemon_thread(way):
    check_program(
        way,
        """
loop = new_loop()
def serve():
    async def main():
        while True:
            await loop.run_in_executor(None, int)
    try:
        loop.run_until_complete(main())
    except RuntimeError:
        pass
threading.Thread(target=serve, daemon=True).start()
time.sleep(0.05)
""",
    )


@pytest.mark.skipif(
    importlib.util.find_spec("test.test_concurrent_futures") is None, reason="this Python comes without its own tests"
)
@pytest.mark.timeout(180)
def test_cpythons_own_tests(soak):
    """All of CPython's tests of ThreadPoolExecutor, but for what is different on purpose."""
    end = run_python(CPYTHONS_TESTS, str(ROOT), *(["all"] if soak else []), timeout=170)
    assert end.code == 0, end.err
    assert "OK" in end.err


CPYTHONS_TESTS = """
import importlib, os, sys, unittest

root, everything = sys.argv[1], sys.argv[2:]
import flexsc_loop.turn.executor
from flexsc_loop.turn.executor import Executor

#: test_default_workers: there may be more threads, since they are made only when the others block.
#: test_saturation, test_threads_terminate: for the same reason threads do not all exist at once.
DIFFERENT = {"test_default_workers", "test_saturation", "test_threads_terminate"}
modules = ["test_init", "test_shutdown", "test_thread_pool"]
if everything:
    modules += ["test_as_completed", "test_wait", "executor"]
suite = unittest.TestSuite()

def tests(suite):
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            yield from tests(test)
        else:
            yield test

util = importlib.import_module("test.test_concurrent_futures.util")
util.ThreadPoolMixin.executor_type = Executor
for name in modules:
    module = importlib.import_module("test.test_concurrent_futures." + name)
    real = getattr(module, "assert_python_ok", None)
    if real:
        # Programs that these tests run import the executor by its name.
        replacement = f"import sys; sys.path.insert(0, {root!r}); from flexsc_loop.turn.executor import Executor"
        module.assert_python_ok = lambda *args, real=real: real(
            *[arg.replace("from concurrent.futures import Executor", replacement) for arg in args])
    for test in tests(unittest.defaultTestLoader.loadTestsFromModule(module)):
        if type(test).__name__.startswith("ThreadPool") and test._testMethodName not in DIFFERENT:
            suite.addTest(test)
assert suite.countTestCases() > 10
sys.exit(not unittest.TextTestRunner().run(suite).wasSuccessful())
"""
