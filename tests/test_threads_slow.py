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
            computing(lambda: of("'hog'", "in computing_here"))
            computing(lambda: False, 0.2)

        def main():
            thread = threading.Thread(target=computing_here, name="hog")
            thread.start()
            thread.join()
            # It may have been slow to begin, too, beside much else.
            assert len(of("'hog'", "in computing_here")) == 1, told
            assert not of("'hog'", "in main"), told
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
            assert not of("in _run_until"), told
            assert threads.current_thread().loop.stats()["switches"] >= 4
    """))  # fmt: skip


def test_seconds_are_seconds(way):
    check(way, """
        from flexsc_loop.threads.green import running_everywhere

        def main():
            times = [time.monotonic()]
            time.sleep(0.01)
            times.append(time.monotonic())
            while time.monotonic() < times[1] + 0.5:
                pass
            times.append(time.monotonic())
            ((thread, _, lasts, frame),) = running_everywhere(0.25)
            times.append(time.monotonic())
            assert thread is threads.current_thread() and frame is sys._getframe()
            assert 0.9 * (times[2] - times[1]) <= lasts <= 1.1 * (times[3] - times[0]), (times, lasts)
            assert running_everywhere(2 * lasts + 60) == []
    """)  # fmt: skip


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
    end = program(way, source, env={"FLEXSC_SLOW_THREAD": "0.05"})
    assert (end.code, end.err) == (0, "")


def test_a_forked_child_reports_nobody_of_its_parent(way):
    end = program(way, told("""
        threads.patch(slow_thread=0.05)
        running, over = threading.Event(), []

        def hog():
            running.set()
            computing(lambda: over)

        def begin():
            threading.Thread(target=hog, name="hog").start()

        def in_child():
            told.clear()
            time.sleep(0.3)
            assert not of("'hog'"), told

        thread = in_thread(threads.run, begin)
        running.wait()
        pid = os.fork()
        if pid == 0:
            threads.run(in_child)
            os._exit(0)
        over.append(1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        thread.join()
    """))  # fmt: skip
    assert (end.code, end.err) == (0, "")


def test_who_wants_nobody_to_look_any_more_has_the_last_word(way):
    end = program(way, told("""
        (watcher,) = watchers()
        threads.patch(slow_thread=0)
        watcher.join(10)
        threads.run(lambda: time.sleep(0.01))
        assert not watchers()
    """), env={"FLEXSC_SLOW_THREAD": "5"})  # fmt: skip
    assert (end.code, end.err) == (0, "")


def test_a_setting_that_is_none_is_refused():
    end = run_python("from flexsc_loop import threads; threads.patch()", env={"FLEXSC_SLOW_THREAD": "soon"})
    assert end.code == 1 and "FLEXSC_SLOW_THREAD='soon' is not known" in end.err
    command = "import runpy; runpy.run_module('flexsc_loop', run_name='__main__')"
    end = run_python(command, env={"FLEXSC_SLOW_THREAD": "-1"})
    assert end.code == 2, end.err
