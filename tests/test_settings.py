"""Settings, the policy, and what `info` says."""

import asyncio
import json
import os
import subprocess
import sys
import sysconfig
import textwrap
import warnings

import pytest
from sandbox import io_uring_blocked
from support import ROOT, child_environment, run_python, spare_cpu

pytestmark = [pytest.mark.ours, pytest.mark.usefixtures("no_flexsc_environment")]


@pytest.fixture
def flexsc_loop():
    import flexsc_loop

    return flexsc_loop


def skip_if_blocked(pages):
    if pages == "kernel" and io_uring_blocked():
        pytest.skip("io_uring is blocked on this machine")


@pytest.mark.parametrize("wrong", ["Kernel page", "none", "epoll", 5])
def test_wrong_pages(flexsc_loop, wrong):
    with pytest.raises(ValueError) as caught:
        flexsc_loop.new_event_loop(pages=wrong)
    for good in ("auto", "kernel", "user"):
        assert good in str(caught.value)


@pytest.mark.parametrize(
    "wrong", ["maybe", "1,", ",", "-1", "1;2", "one", "1.5", "1-", True, [], [True], [0, "x"], [0.5]]
)
def test_wrong_threads(flexsc_loop, wrong):
    with pytest.raises(ValueError) as caught:
        flexsc_loop.new_event_loop(threads=wrong)
    for good in ("auto", "off", "on"):
        assert good in str(caught.value)


def test_lists_of_cpus(flexsc_loop):
    read = flexsc_loop.loop.settings.read
    for given in ("0", 0, [0], (0,), ["0"]):
        assert read(threads=given).threads == (0,)
    assert read(threads=[0, 0]).threads == read(threads="0,0").threads == (0, 0)


@pytest.mark.parametrize("wrong", [{"pages": "epoll"}, {"threads": "maybe"}, {"writes": "never"}])
def test_a_policy_with_a_wrong_setting_is_refused_at_once(flexsc_loop, wrong):
    for make in (flexsc_loop.FlexSCPolicy, flexsc_loop.install):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            make(**wrong)


def test_modules_need_no_import_of_their_own():
    end = run_python(
        """
        import flexsc_loop, sys
        for name in ("files", "opentelemetry", "prometheus", "threads"):
            assert f"flexsc_loop.{name}" not in sys.modules, name
            assert getattr(flexsc_loop, name) is sys.modules[f"flexsc_loop.{name}"]
        try:
            flexsc_loop.nothing
        except AttributeError as error:
            print(error)
        """
    )
    assert end.out == "module 'flexsc_loop' has no attribute 'nothing'\n", end.err


def test_a_cpu_that_does_not_exist(flexsc_loop):
    for pages in ("kernel", "user"):
        with pytest.raises((ValueError, OSError)):
            flexsc_loop.new_event_loop(pages=pages, threads="100000").close()


@pytest.mark.parametrize("name", ["FLEXSC_PAGES", "FLEXSC_THREADS", "FLEXSC_WRITES"])
def test_wrong_environment(flexsc_loop, monkeypatch, name):
    monkeypatch.setenv(name, "wrong")
    with pytest.raises(ValueError, match=name):
        flexsc_loop.new_event_loop()


def test_arguments_come_before_the_environment(flexsc_loop, monkeypatch):
    monkeypatch.setenv("FLEXSC_PAGES", "wrong")
    monkeypatch.setenv("FLEXSC_THREADS", "wrong")
    loop = flexsc_loop.new_event_loop(pages="user", threads="off")
    assert loop.run_until_complete(asyncio.sleep(0, 5)) == 5
    loop.close()


def test_empty_environment_means_default(flexsc_loop, monkeypatch):
    monkeypatch.setenv("FLEXSC_PAGES", "")
    monkeypatch.setenv("FLEXSC_THREADS", "")
    flexsc_loop.new_event_loop().close()


@pytest.mark.parametrize("pages", ["auto", "kernel", "user", None])
@pytest.mark.parametrize("threads", ["auto", "off", "on", "0", str(spare_cpu()), f"0,{spare_cpu()}", None])
def test_every_good_setting(flexsc_loop, pages, threads):
    skip_if_blocked(pages)
    loop = flexsc_loop.new_event_loop(pages=pages, threads=threads)
    assert isinstance(loop, flexsc_loop.Loop)
    assert loop.run_until_complete(asyncio.sleep(0.001, 5)) == 5
    loop.close()


def test_arguments_by_position_are_refused(flexsc_loop):
    with pytest.raises(TypeError):
        flexsc_loop.new_event_loop("user")


def test_public_names(flexsc_loop):
    for name in ("FlexSCPolicy", "new_event_loop", "install", "run", "Loop"):
        assert name in flexsc_loop.__all__
        assert getattr(flexsc_loop, name).__doc__
    assert issubclass(flexsc_loop.Loop, asyncio.BaseEventLoop)


@pytest.mark.skipif(sys.version_info >= (3, 16), reason="there are no policies any more")
def test_policy(flexsc_loop):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        policy = flexsc_loop.FlexSCPolicy()
        loop = policy.new_event_loop()
        assert isinstance(loop, flexsc_loop.Loop)
        loop.close()
        before = asyncio.get_event_loop_policy()
        asyncio.set_event_loop_policy(policy)
        try:
            loop = asyncio.new_event_loop()
            assert isinstance(loop, flexsc_loop.Loop)
            loop.close()

            async def main():
                return type(asyncio.get_running_loop())

            assert asyncio.run(main()) is flexsc_loop.Loop
        finally:
            asyncio.set_event_loop_policy(before)


def test_install():
    end = run_python(
        """
        import asyncio, flexsc_loop
        flexsc_loop.install()
        async def main():
            return isinstance(asyncio.get_running_loop(), flexsc_loop.Loop)
        print(asyncio.run(main()))
        """
    )
    assert end.out == "True\n", end.err


def test_install_takes_settings():
    end = run_python(
        """
        import asyncio, flexsc_loop
        flexsc_loop.install(pages="user", threads="off", writes="now")
        async def main():
            return asyncio.get_running_loop().choice.kind
        print(asyncio.run(main()))
        """
    )
    assert end.out == "user\n", end.err


#: What Python 3.16 makes of asyncio: no policies, one current loop per thread, and EventLoop for new ones.
WITHOUT_POLICIES = """
import asyncio, threading
from asyncio import events
for module in (asyncio, events):
    for name in [name for name in vars(module) if "olicy" in name or name == "__getattr__"]:
        delattr(module, name)
events._event_loop_policy = None  # for its own handler of forks
current = threading.local()
if not hasattr(asyncio, "EventLoop"):
    asyncio.EventLoop = asyncio.SelectorEventLoop
def get_event_loop():
    return events._get_running_loop() or current.loop
def set_event_loop(loop):
    current.loop = loop
def new_event_loop():
    return asyncio.EventLoop()
for function in (get_event_loop, set_event_loop, new_event_loop):
    setattr(asyncio, function.__name__, function)
    setattr(events, function.__name__, function)

import flexsc_loop

async def main():
    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    assert await reader.read() == b"hello"
    writer.close()
    server.close()
    ours = type(asyncio.get_running_loop()) is flexsc_loop.Loop
    if ours:  # this Python's own loop still asks its policy for children
        process = await asyncio.create_subprocess_exec("true")
        assert await process.wait() == 0
    return ours

async def greet(reader, writer):
    writer.write(b"hello")
    writer.close()
"""


def without_policies(source):
    end = run_python(f"{WITHOUT_POLICIES}\n{textwrap.dedent(source)}")
    assert (end.out, end.err) == ("done\n", "")


def test_without_policies_everything_else_works():
    without_policies(
        """
        assert flexsc_loop.run(main())
        with asyncio.Runner(loop_factory=flexsc_loop.new_event_loop) as runner:
            assert runner.run(main())
        assert not asyncio.run(main())
        print("done")
        """
    )


def test_without_policies_the_policy_says_so():
    without_policies(
        """
        try:
            flexsc_loop.FlexSCPolicy()
        except RuntimeError as error:
            assert "no event loop policies" in str(error) and "loop_factory" in str(error)
            print("done")
        """
    )


def test_without_policies_install_takes_settings():
    without_policies(
        """
        flexsc_loop.install(pages="user", threads="off")
        for loop in (asyncio.new_event_loop(), asyncio.EventLoop()):
            assert loop.choice.kind == "user"
            loop.close()
        print("done")
        """
    )


def test_without_policies_install_works():
    without_policies(
        """
        flexsc_loop.install()
        assert asyncio.run(main())
        with asyncio.Runner() as runner:
            assert runner.run(main())
        for loop in (asyncio.new_event_loop(), asyncio.EventLoop()):
            asyncio.set_event_loop(loop)
            assert asyncio.get_event_loop() is loop and type(loop) is flexsc_loop.Loop
            loop.close()
        import unittest
        class Test(unittest.IsolatedAsyncioTestCase):
            async def test(self):
                assert await main()
        done = unittest.TestResult()
        Test("test").run(done)
        assert done.wasSuccessful(), done.failures + done.errors
        print("done")
        """
    )


@pytest.mark.skipif(sys.version_info < (3, 13), reason="there are no free-threaded builds")
def test_without_the_gil_the_import_is_refused():
    end = run_python(
        """
        import sys
        sys._is_gil_enabled = lambda: False
        import flexsc_loop
        """
    )
    assert end.code == 1
    assert end.err.splitlines()[-1].startswith("ImportError: flexsc_loop needs the GIL")


@pytest.mark.skipif(not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="not a free-threaded build")
def test_a_free_threaded_build_switches_its_gil_on():
    source = "import sys, flexsc_loop, asyncio; print(sys._is_gil_enabled(), flexsc_loop.run(asyncio.sleep(0, 5)))"
    end = run_python(source)
    assert end.out == "True 5\n" and "GIL" in end.err and "flexsc_loop" in end.err
    end = run_python(source, env={"PYTHON_GIL": "0"})
    assert end.code == 1 and "ImportError: flexsc_loop needs the GIL" in end.err


IN_A_SUBINTERPRETER = """
import sys, flexsc_loop
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters
made = interpreters.create(*sys.argv[1:])
try:
    error = interpreters.run_string(made, "import flexsc_loop")
except interpreters.RunFailedError as failed:
    error = failed
print(getattr(error, "formatted", error))
interpreters.destroy(made)
print(flexsc_loop.run(asyncio.sleep(0, 5)))
"""


@pytest.mark.parametrize("kind", ["isolated", "legacy"] if sys.version_info >= (3, 13) else [None])
def test_in_a_subinterpreter_the_import_is_refused(kind):
    end = run_python("import asyncio\n" + IN_A_SUBINTERPRETER, *[kind] if kind else [])
    error, after = end.out.splitlines()
    assert "ImportError" in error and after == "5", end.out
    shares_the_gil = kind == "legacy" if kind else sys.version_info < (3, 12)
    said = "Interpreter change detected" if shares_the_gil else "does not support loading in subinterpreters"
    assert said in error


@pytest.mark.skipif(sys.version_info < (3, 14), reason="there is no such executor")
def test_an_executor_of_subinterpreters():
    end = run_python(
        """
        import asyncio, math
        from concurrent.futures import InterpreterPoolExecutor
        import flexsc_loop
        async def main():
            with InterpreterPoolExecutor(2) as pool:
                return await asyncio.get_running_loop().run_in_executor(pool, math.factorial, 5)
        print(flexsc_loop.run(main()))
        """
    )
    assert (end.code, end.out) == (0, "120\n"), end.err


def test_import_changes_nothing():
    end = run_python(
        """
        import asyncio
        before = dict(vars(asyncio)), dict(vars(asyncio.events))
        import flexsc_loop
        assert (dict(vars(asyncio)), dict(vars(asyncio.events))) == before
        print(type(asyncio.new_event_loop()).__module__)
        """
    )
    assert end.out.startswith("asyncio"), end.err


def test_files_are_loaded_when_they_are_asked_for():
    end = run_python(
        """
        import sys
        import flexsc_loop
        flexsc_loop.new_event_loop(threads="off").close()
        rare = ["flexsc_loop.files", "tempfile", "flexsc_loop.scheduler.pilot", "statistics", "flexsc_loop.threads"]
        print([name for name in rare if name in sys.modules])
        from flexsc_loop import *
        import flexsc_loop.files as module
        print(flexsc_loop.files is files is module, flexsc_loop.open is open is module.open)
        try:
            flexsc_loop.nothing
        except AttributeError as error:
            print(error)
        """
    )
    assert end.out.splitlines() == ["[]", "True True", "module 'flexsc_loop' has no attribute 'nothing'"], end.err


def test_run(flexsc_loop):
    async def main():
        loop = asyncio.get_running_loop()
        assert isinstance(loop, flexsc_loop.Loop)
        return loop.get_debug()

    assert flexsc_loop.run(main()) is False
    assert flexsc_loop.run(main(), debug=True) is True
    assert flexsc_loop.run(main(), pages="user", threads="off") is False
    with pytest.raises((TypeError, ValueError)):
        flexsc_loop.run(5)


def test_run_refuses_to_nest(flexsc_loop):
    async def main():
        inner = asyncio.sleep(0)
        with pytest.raises(RuntimeError):
            flexsc_loop.run(inner)
        inner.close()

    flexsc_loop.run(main())


def test_run_cancels_what_is_left(flexsc_loop):
    seen = []

    async def left():
        try:
            await asyncio.sleep(100)
        finally:
            await asyncio.sleep(0)
            seen.append("cancelled")

    async def main():
        seen.append(asyncio.ensure_future(left()))
        await asyncio.sleep(0)

    flexsc_loop.run(main())
    assert seen[1] == "cancelled"


@pytest.mark.parametrize(("pages", "threads"), [("kernel", "off"), ("user", "off"), ("user", str(spare_cpu()))])
def test_environment_is_obeyed(pages, threads):
    skip_if_blocked(pages)
    told = info(FLEXSC_PAGES=pages, FLEXSC_THREADS=threads)
    assert told["pages"] == pages
    if threads == "off":
        assert told["cpu"] is None
    else:
        assert spare_cpu() == told["cpu"] or spare_cpu() in told["cpu"]


def info(*options, **environment):
    done = subprocess.run(
        [sys.executable, "-m", "flexsc_loop", "info", "--json", *options],
        env=child_environment(environment),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_info_as_json():
    told = info()
    assert set(told) >= {"pages", "threads", "cpu", "reasons", "kernel", "features"}
    assert told["pages"] in ("kernel", "user")
    assert told["reasons"]
    assert os.uname().release in json.dumps(told["kernel"])


def test_info_for_people():
    done = subprocess.run(
        [sys.executable, "-m", "flexsc_loop", "info"],
        env=child_environment(),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    assert "page" in done.stdout


def test_info_with_a_wrong_setting():
    done = subprocess.run(
        [sys.executable, "-m", "flexsc_loop", "info"],
        env=child_environment({"FLEXSC_PAGES": "wrong"}),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode != 0
    assert "wrong" in done.stderr and "kernel" in done.stderr
    assert "Traceback" not in done.stderr


WRONG = [{"entries": 3}, {"entries": 0}, {"buffers": -2}, {"completions": "8"}, {"completions": 512}]


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_wrong_sizes(flexsc_loop, wrong):
    with pytest.raises((ValueError, TypeError)):
        flexsc_loop.Loop(pages="user", threads="off", **wrong)
