"""Green threads: how they begin, wait and end, and what async code has to do with them."""

import subprocess
import sys

import pytest
from support import ROOT, child_environment, run_python
from threads_support import check, program

pytest.importorskip("greenlet")
pytestmark = pytest.mark.ours


def test_what_main_returns_and_raises(way):
    check(way, """
        def main():
            pass

        assert threads.run(lambda a, b: a + b, 3, 4) == 7
        error = raised(ZeroDivisionError, threads.run, lambda: 1 / 0)
        assert error.__traceback__.tb_next is not None
        assert raised(SystemExit, threads.run, lambda: sys.exit(3)).code == 3
    """)  # fmt: skip


def test_many_wait_at_once(way):
    check(way, """
        def main():
            begin, seen = time.monotonic(), Collected()
            begun = [in_thread(lambda i: (time.sleep(0.2), seen(i)), i) for i in range(500)]
            for thread in begun:
                thread.join()
            assert sorted(seen) == list(range(500)) and time.monotonic() - begin < 20
    """)  # fmt: skip


def test_short_sleeps_end_in_order_and_zero_lets_others_run(way):
    check(way, """
        def main():
            seen = Collected()
            begun = [in_thread(lambda s: (time.sleep(s / 50), seen(s)), s) for s in (3, 1, 2)]
            for thread in begun:
                thread.join()
            assert seen == [1, 2, 3]
            seen.clear()
            other = in_thread(seen, "other")
            time.sleep(0)
            seen("main")
            other.join()
            assert seen == ["other", "main"]
            assert str(raised(ValueError, time.sleep, -1)) == "sleep length must be non-negative"
    """)  # fmt: skip


@pytest.mark.parametrize("where", ["time.sleep(30)", "threading.Lock().acquire() and lock.acquire()", "ours.recv(1)"])
def test_ctrl_c_is_raised_where_main_waits(way, where):
    end = program(way, f"""
        def main():
            ours, theirs = tcp_pair()
            lock = threading.Lock()
            lock.acquire()
            threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
            try:
                {where}
            except KeyboardInterrupt:
                sys.stdout.write("interrupted\\n")
                raise
            finally:
                sys.stdout.write("finally\\n")

        threads.run(main)
    """)  # fmt: skip
    assert end.out == "interrupted\nfinally\n" and "KeyboardInterrupt" in end.err and end.code == -2, end


def test_who_is_no_daemon_is_waited_for_and_who_is_one_is_not(way):
    end = program(way, """
        def main():
            in_thread(lambda: (time.sleep(0.1), sys.stdout.write("waited for\\n")))
            threading.Thread(target=lambda: (time.sleep(20), sys.stdout.write("daemon\\n")), daemon=True).start()

        threads.run(main)
        sys.stdout.write("done\\n")
    """)  # fmt: skip
    assert (end.code, end.out, end.err) == (0, "waited for\ndone\n", "")


def test_threads_that_others_start_late_are_waited_for_and_those_never_started_are_not(way):
    check(way, """
        done = Collected()

        def grandchild():
            time.sleep(0.1)
            done("grandchild")

        def child():
            time.sleep(0.1)
            in_thread(grandchild)
            done("child")

        def first():
            never.append(threads.GreenThread(threads.current_thread().loop, time.sleep, (60,)))
            in_thread(child)

        never = []
        threads.run(first)
        assert done == ["child", "grandchild"], done
        assert not never[0].started
        main = int
    """)  # fmt: skip


def test_executors_that_nobody_shuts_down_do_not_hold_the_end_up(way):
    """What they were given is done first; the next run may use new ones."""
    end = program(way, """
        from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

        kept, done = [], Collected()

        def main(kinds):
            kept.extend(kind(1) for kind in kinds)
            for pool in kept[-len(kinds):]:
                assert pool.submit(abs, -5).result() == 5
            kept[-1].submit(lambda: (time.sleep(0.1), done(1)))

        threads.run(main, [ProcessPoolExecutor, ThreadPoolExecutor])
        threads.run(main, [ThreadPoolExecutor])
        assert done == [1, 1], done
        sys.stdout.write("done\\n")
    """)  # fmt: skip
    assert (end.code, end.out, end.err) == (0, "done\n", "")


def test_a_thread_that_is_waited_for_may_do_what_it_likes(way):
    """Executors look names up and wait for children; other real threads have executors, too."""
    check(way, """
        import concurrent.futures
        import subprocess
        import threading
        from flexsc_loop.threads.starting import START_PLAIN

        done, answer, ended = Collected(), [], threading.Event()

        def elsewhere():
            with concurrent.futures.ThreadPoolExecutor(1) as pool:
                answer.append(pool.submit(abs, -5).result())
            ended.set()

        def other():
            time.sleep(0.1)
            done(bool(socket.getaddrinfo("localhost", 80)))
            child = subprocess.Popen(["true"])
            done(os.waitpid(-1, 0) == (child.pid, 0))
            child.returncode = 0
            START_PLAIN(elsewhere, ())
            done(ended.wait(20))

        threads.run(lambda: threading.Thread(target=other).start())
        assert done == [True] * 3 and answer == [5], (done, answer)
        main = int
    """)  # fmt: skip


def test_each_has_a_context_of_its_own(way):
    check(way, """
        import contextvars

        variable = contextvars.ContextVar("variable", default="none")

        def main():
            variable.set("main")
            seen = Collected()

            def other(name):
                seen(variable.get())
                variable.set(name)
                time.sleep(0.01)
                seen(variable.get())

            begun = [threads.spawn(other, name) for name in "ab"]
            variable.set("changed")
            while not all(thread.finished for thread in begun):
                time.sleep(0.01)
            assert seen == ["main", "main", "a", "b"] and variable.get() == "changed"
    """)  # fmt: skip


def test_errors_being_handled_are_each_thread_s_own(way):
    check(way, """
        def main():
            def fail(name):
                try:
                    raise KeyError(name)
                except KeyError:
                    time.sleep(0.01)
                    assert sys.exc_info()[1].args == (name,)
                assert sys.exc_info() == (None, None, None)
                seen(name)

            seen = Collected()
            for thread in [in_thread(fail, name) for name in "abc"]:
                thread.join()
            assert sorted(seen) == ["a", "b", "c"]
    """)  # fmt: skip


def test_deep_stacks(way):
    check(way, """
        def main():
            def deep(n):
                if n == 0:
                    time.sleep(0.001)
                    return 0
                return 1 + deep(n - 1)

            seen = Collected()
            for thread in [in_thread(lambda: seen(deep(400))) for _ in range(20)]:
                thread.join()
            assert seen == [400] * 20
    """)  # fmt: skip


def test_blocking_code_in_async_code_and_the_other_way_round(way):
    check(way, """
        import asyncio
        import flexsc_loop

        def blocking(n):
            time.sleep(0.05)
            return threads.wait(asyncio.sleep(0.01, n)) + 1

        async def many():
            begin = time.monotonic()
            found = await asyncio.gather(*(threads.call(blocking, n) for n in range(50)))
            assert found == list(range(1, 51)) and time.monotonic() - begin < 2
            try:
                await threads.call(lambda: 1 / 0)
            except ZeroDivisionError:
                return "raised"

        def main():
            pass

        assert flexsc_loop.run(many()) == "raised"
    """)  # fmt: skip


def test_a_cancelled_task_cancels_the_blocking_code(way):
    check(way, """
        import asyncio
        import flexsc_loop

        seen = Collected()

        def blocking():
            try:
                time.sleep(30)
            except asyncio.CancelledError:
                seen("cancelled")
                raise
            finally:
                time.sleep(0.01)
                seen("cleaned up")

        async def main_async():
            task = asyncio.ensure_future(threads.call(blocking))
            await asyncio.sleep(0.01)
            task.cancel()
            try:
                await task
            except asyncio.CancelledError:
                seen("task")

        def main():
            pass

        flexsc_loop.run(main_async())
        assert seen == ["cancelled", "cleaned up", "task"], seen
    """)  # fmt: skip


def test_asyncio_run_in_a_green_thread(way):
    check(way, """
        import asyncio

        async def both():
            return await asyncio.gather(asyncio.sleep(0.01, 1), asyncio.to_thread(lambda: time.sleep(0.01) or 2))

        def main():
            other = in_thread(time.sleep, 0.02)
            assert asyncio.run(both()) == [1, 2]
            raised((ValueError, TypeError), asyncio.run, 5)
            other.join()
    """)  # fmt: skip


def test_blocking_code_sees_no_running_loop(way):
    check(way, """
        import asyncio
        from asyncio import get_running_loop

        def main():
            for find in (get_running_loop, asyncio.get_running_loop, asyncio.events.get_running_loop):
                assert str(raised(RuntimeError, find)) == "no running event loop"
            assert asyncio._get_running_loop() is None

            async def running():
                await asyncio.sleep(0)
                return asyncio.get_running_loop(), asyncio._get_running_loop(), get_running_loop()

            assert set(asyncio.run(running())) == {threads.current_thread().loop}
    """)  # fmt: skip


def test_wait_and_spawn_outside_are_refused():
    end = run_python("""
        from flexsc_loop import threads
        for call in (lambda: threads.wait(None), lambda: threads.spawn(print), lambda: threads.wait_readable(0)):
            try:
                call()
            except RuntimeError as error:
                print(error)
    """)
    assert end.code == 0 and len(end.out.splitlines()) == 3, end


def test_errors_that_nobody_waits_for_are_reported(way):
    check(way, """
        def main():
            loop = threads.current_thread().loop
            told = Collected()
            loop.set_exception_handler(lambda _loop, context: told(context))

            def fail(*args):
                time.sleep(0.01)
                raise KeyError(*args)

            alone = threads.spawn(fail, "alone")
            joined = threads.spawn(fail, "joined")
            assert raised(KeyError, joined.join).args == ("joined",)
            in_thread(lambda: None).join()
            threads.spawn(sys.exit, 3)
            while not told:
                time.sleep(0.001)
            assert [(each["green_thread"], each["exception"]) for each in told] == [(alone, alone.error)]
            assert "fail" in told[0]["message"] and raised(KeyError, alone.join).args == ("alone",)
            assert len(told) == 1

        async def calls():
            try:
                await threads.call(lambda: 1 / 0)
            except ZeroDivisionError:
                loop.set_exception_handler(lambda _loop, context: late(context["exception"]))
                threads.spawn(lambda: [][1])
                await asyncio.sleep(0.01)

        import asyncio, flexsc_loop

        late = Collected()
        loop = flexsc_loop.new_event_loop()
        loop.run_until_complete(calls())
        loop.close()
        assert [type(error) for error in late] == [IndexError]
    """)  # fmt: skip


def test_one_that_fails_after_main_is_reported_too(way):
    end = program(way, """
        def fail():
            time.sleep(0.05)
            raise KeyError("late")

        threads.run(lambda: threads.spawn(fail) and None)
    """)  # fmt: skip
    assert end.code == 0 and "KeyError: 'late'" in end.err and "fail" in end.err, end


def test_who_logs_what_it_has_raised_may_wait_meanwhile(way):
    """As where a log's lock is taken after 5 ms without a switch."""
    end = program(way, """
        import logging

        class Slow(logging.StreamHandler):
            def emit(self, record):
                time.sleep(0.02)
                super().emit(record)

        logging.basicConfig(handlers=[Slow()])

        def fail():
            raise KeyError("late")

        threads.run(lambda: threads.spawn(fail) and None)
    """)  # fmt: skip
    assert end.code == 0 and "KeyError: 'late'" in end.err and "fail" in end.err, end


def test_joining(way):
    check(way, """
        def main():
            thread = threads.spawn(lambda: time.sleep(0.05) or 5)
            raised(TimeoutError, thread.join, 0.001)
            seen = Collected()
            others = [threads.spawn(lambda: seen(thread.join())) for _ in range(3)]
            assert thread.join(20) == 5 and thread.join() == 5
            for other in others:
                other.join()
            assert seen == [5] * 3
            assert "current" in str(raised(RuntimeError, threads.current_thread().join))
            assert "green thread" in str(asyncio.run(asyncio.to_thread(raised, RuntimeError, thread.join)))

        import asyncio
    """)  # fmt: skip


def test_stacks_of_those_that_wait(way):
    check(way, """
        import io

        def waits_here():
            time.sleep(0.2)

        def main():
            thread = in_thread(waits_here)
            time.sleep(0.01)
            out = io.StringIO()
            threads.dump(out)
            assert "in waits_here" in out.getvalue()
            assert "<GreenThread 'Thread-1 (waits_here)' waiting>" in out.getvalue()
            thread.join()
    """)  # fmt: skip


@pytest.mark.parametrize("state", ["time.sleep(0.3)", "computing()"])
def test_stacks_on_a_signal(way, state):
    check(way, f"""
        import io

        def waits_here():
            time.sleep(20)

        def computing():
            end = time.monotonic() + 20
            while not out.getvalue() and time.monotonic() < end:
                pass

        def main():
            thread = threading.Thread(target=waits_here, daemon=True)
            thread.start()
            threads.dump_on(signal.SIGUSR1, out)
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGUSR1))
            {state}
            text = out.getvalue()
            assert "in waits_here" in text and "<GreenThread 'main' " in text and "in main" in text, text
            assert "in {state.split("(")[0].split(".")[-1]}" in text, text

        out = io.StringIO()
    """)  # fmt: skip


def test_the_running_one_is_in_a_dump_and_in_faulthandler_s(way):
    check(way, """
        import faulthandler, io, tempfile

        def main():
            out = io.StringIO()
            threads.dump(out)
            assert "<GreenThread 'main' started>" in out.getvalue() and "in main" in out.getvalue()
            with tempfile.TemporaryFile("w+") as file:
                faulthandler.dump_traceback(file)
                file.seek(0)
                assert " in main" in file.read()
    """)  # fmt: skip


def test_free_threaded_builds_are_refused():
    end = run_python("""
        import sysconfig
        plain = sysconfig.get_config_var
        sysconfig.get_config_var = lambda name: 1 if name == "Py_GIL_DISABLED" else plain(name)
        import flexsc_loop.threads
    """)
    assert end.code == 1 and "needs a Python with the GIL" in end.err.splitlines()[-1], end.err


def test_a_forked_child_is_an_ordinary_process(way):
    check(way, """
        def main():
            lock = threading.Lock()
            others = in_thread(time.sleep, 0.1)
            child = os.fork()
            if child == 0:
                with lock:
                    time.sleep(0.01)
                ours, theirs = tcp_pair()
                ours.sendall(b"x")
                os._exit(7 if theirs.recv(1) == b"x" else 1)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
            others.join()
    """)  # fmt: skip


def test_a_child_is_forked_by_a_thread_that_has_gone_on_for_long(way):
    check(way, """
        def main():
            end = time.monotonic() + 0.02  # longer than a green thread goes on without letting the others run
            while time.monotonic() < end:
                pass
            child = os.fork()
            if child == 0:
                os._exit(3)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
    """)  # fmt: skip


def test_a_forked_child_may_go_on_to_its_end(way):
    end = program(way, """
        def main():
            child = os.fork()
            sys.stdout.write("child\\n" if child == 0 else "")
            if child == 0:
                return 5
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 5
            return 6

        sys.exit(threads.run(main))
    """)  # fmt: skip
    assert (end.code, end.out, end.err) == (6, "child\n", ""), end


def test_a_thread_that_forks_is_its_child_s_main_thread(way):
    """Whether or not it has been started by `threading`; and whatever it computes before, it goes on in the child."""
    end = program(way, """
        def forks(ended, other):
            here, local = threading.current_thread(), threading.local()
            local.name = "kept"
            until = time.perf_counter() + 0.01
            while time.perf_counter() < until:
                pass
            child = os.fork()
            if child == 0:
                if ended is None:
                    assert here is threading.current_thread() is threading.main_thread()
                    assert here.is_alive() and here.ident == threading.get_ident() and local.name == "kept"
                    assert threading.enumerate() == [here], threading.enumerate()
                assert not other.is_alive()
                in_thread(time.sleep, 0.01).join()
                sys.stdout.write("child\\n")
                return
            assert os.waitpid(child, 0) == (child, 0)
            if ended is not None:
                ended.release()

        def main():
            go = threading.Event()
            other = in_thread(go.wait)
            in_thread(forks, None, other).join()
            ended = threading.Lock()
            ended.acquire()
            _thread.start_new_thread(forks, (ended, other))
            ended.acquire()
            assert other.is_alive()
            go.set()
            other.join()

        import _thread
        threads.run(main)
        sys.stdout.write("parent\\n")
    """)  # fmt: skip
    assert (end.code, end.out, end.err) == (0, "child\nchild\nparent\n", ""), end


def test_names_imported_too_early_are_told_of():
    end = run_python("""
        from time import sleep
        import warnings
        from flexsc_loop import threads
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            threads.patch()
            threads.patch()
        assert [warning.category for warning in told] == [threads.PatchWarning], told
        assert "__main__.sleep" in str(told[0].message), told[0].message
    """)
    assert end.code == 0, end.err


def test_without_greenlet_the_remedy_is_named():
    end = run_python("""
        import importlib.abc, sys

        class Missing(importlib.abc.MetaPathFinder):
            def find_spec(self, name, path=None, target=None):
                if name == "greenlet":
                    raise ModuleNotFoundError(name)

        sys.meta_path.insert(0, Missing())
        import flexsc_loop.threads
    """)
    assert "flexsc_loop[threads]" in end.err.splitlines()[-1], end.err


def test_what_many_ask_for_goes_out_in_batches():
    end = run_python("""
        import flexsc_loop.threads
        flexsc_loop.threads.patch()
        import socket, threading
        from flexsc_loop import threads

        ROUNDS, PAIRS = 50, 64

        def echo(sock):
            while data := sock.recv(1000):
                sock.sendall(data)

        def ask(sock):
            for _ in range(ROUNDS):
                sock.sendall(b"x" * 100)
                assert len(sock.recv(1000)) == 100
            sock.close()

        def main():
            pairs = [socket.socketpair() for _ in range(PAIRS)]
            begun = [threading.Thread(target=ask, args=(a,)) for a, _ in pairs]
            begun += [threading.Thread(target=echo, args=(b,)) for _, b in pairs]
            before = threads.current_thread().loop.stats()
            for thread in begun:
                thread.start()
            for thread in begun:
                thread.join()
            after = threads.current_thread().loop.stats()
            print((after["syscalls"] - before["syscalls"]) / (ROUNDS * PAIRS))

        threads.run(main, threads="off")
    """)
    assert end.code == 0, end.err
    assert float(end.out) < 1, end.out


# ---- by command


def test_programs_by_command(way, tmp_path):
    path = tmp_path / "app.py"
    path.write_text(
        "import sys, threading, time\n"
        "def work():\n    time.sleep(0.01)\n    print(sys.argv[1:], threading.current_thread().name)\n"
        "thread = threading.Thread(target=work, name='green')\nthread.start()\nthread.join()\n"
        "from flexsc_loop import threads\nassert threads.current_thread().is_main\nraise SystemExit(5)\n"
    )
    for words in ([str(path)], ["-m", "app"]):
        done = subprocess.run(
            [sys.executable, "-m", "flexsc_loop", "threads", *words, "one", "--two"],
            env=child_environment({**way.environment(), "PYTHONPATH": f"{ROOT}:{tmp_path}"}), cwd=tmp_path,
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=30,
        )  # fmt: skip
        assert (done.returncode, done.stdout, done.stderr) == (5, "['one', '--two'] green\n", "")


def test_running_again_and_again_leaves_nothing_in_the_way_of_imports(way):
    end = program(way, """
        threads.run(lambda: None)
        before = list(sys.meta_path)
        for _ in range(3):
            threads.run(lambda: None)
        assert sys.meta_path == before, sys.meta_path
    """)
    assert (end.code, end.err) == (0, "")
