"""Green threads that go on for long while all others wait."""

import textwrap

import pytest
from support import run_python
from threads_support import check, program

pytest.importorskip("greenlet")
pytestmark = pytest.mark.ours

TOLD = """
import logging

told = []


class Teller(logging.Handler):
    def emit(self, record):
        told.append(record.getMessage())


logging.getLogger("flexsc_loop").addHandler(Teller())


def computing(enough, seconds=20):
    end = time.monotonic() + seconds
    while not enough() and time.monotonic() < end:
        pass


def of(*words):
    return [text for text in told if all(word in text for word in words)]


def watchers():
    return [thread for thread in threading.enumerate() if thread.name == "flexsc-slow-threads"]

"""


def told(source):
    """A program that hears what is reported."""
    return TOLD + textwrap.dedent(source)


def test_one_is_reported_once_with_its_stack(way):
    check(way, told("""
        threads.patch(slow_thread=0.05)

        def computing_here():
            computing(lambda: of("'hog'"))
            computing(lambda: False, 0.2)

        def main():
            thread = threading.Thread(target=computing_here, name="hog")
            thread.start()
            thread.join()
            assert len(of("'hog'", "in computing_here")) == len(of("'hog'")) == 1, told
            assert "in main" not in of("'hog'")[0], told
            computing(lambda: of("GreenThread 'main'", "in main"))
            assert of("GreenThread 'main'", "in main"), told
    """))  # fmt: skip


def test_one_that_blocks_in_c_is_reported_too(way):
    check(way, told("""
        from flexsc_loop.threads.waiting import _sleep

        threads.patch(slow_thread=0.05)

        def main():
            end = time.monotonic() + 20
            while not of("in main") and time.monotonic() < end:
                _sleep(0.2)
            assert of("in main"), told
    """))  # fmt: skip


def test_whoever_waits_is_not_slow(way):
    """Nor is a loop that has nothing to do."""
    check(way, told("""
        threads.patch(slow_thread=0.1)

        def main():
            thread = in_thread(time.sleep, 0.4)
            thread.join()
            assert not any("in join" in text for text in told), told
            assert threads.current_thread().loop.stats()["switches"] >= 4
    """))  # fmt: skip


def test_nobody_looks_unless_asked(way):
    check(way, told("""
        def main():
            assert not watchers()
            threads.patch(slow_thread=5)
            (first,) = watchers()
            threads.patch()
            assert watchers() == [first]
            threads.patch(slow_thread=0)
            first.join(10)
            assert not watchers()
            raised(ValueError, threads.patch, -1)
            raised(ValueError, threads.patch, "soon")
    """))  # fmt: skip


def test_the_environment_asks_and_a_forked_child_looks_for_itself(way):
    source = told("""
        def slow():
            computing(lambda: of("in slow"))
            assert of("in slow"), told

        def main():
            assert len(watchers()) == 1
            pid = os.fork()
            if pid == 0:
                assert not watchers()
                os._exit(0)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

        threads.run(main)
        pid = os.fork()
        if pid == 0:
            threads.run(slow)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    """)  # fmt: skip
    end = program(way, "import os; os.environ['FLEXSC_SLOW_THREAD'] = '0.05'\n" + source)
    assert (end.code, end.err) == (0, "")


def test_a_setting_that_is_none_is_refused():
    end = run_python("from flexsc_loop import threads; threads.patch()", env={"FLEXSC_SLOW_THREAD": "soon"})
    assert end.code == 1 and "FLEXSC_SLOW_THREAD='soon' is not known" in end.err
    command = "import runpy; runpy.run_module('flexsc_loop', run_name='__main__')"
    end = run_python(command, env={"FLEXSC_SLOW_THREAD": "-1"})
    assert end.code == 2, end.err
