"""Any program on this loop: `python -m flexsc_loop app.py`, `-m module`, `-c code`."""

from __future__ import annotations

import os
import py_compile
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import pytest
from support import child_environment

pytestmark = pytest.mark.ours

OURS = "this loop, "
MAKES_A_LOOP = """
import asyncio
async def which():
    loop = asyncio.get_running_loop()
    ours = isinstance(loop, asyncio.SelectorEventLoop) and hasattr(loop, "choice")
    return f"this loop, {loop.choice.kind} page" if ours else "another loop"
"""


def command(*arguments: object, cwd: Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "flexsc_loop", *map(str, arguments)], cwd=cwd, env=child_environment(env),
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False,
    )


def out_of(*arguments: object, cwd: Path, env: dict[str, str] | None = None) -> str:
    end = command(*arguments, cwd=cwd, env=env)
    assert (end.returncode, end.stderr) == (0, ""), end.stderr
    return end.stdout


def python(path: Path, source: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(source))
    return path


# -- whatever way it makes its loop

WAYS = {
    "run": "print(asyncio.run(which()))",
    "Runner": "with asyncio.Runner() as runner: print(runner.run(which()))",
    "new_event_loop": "print(asyncio.new_event_loop().run_until_complete(which()))",
    "SelectorEventLoop": "print(asyncio.SelectorEventLoop().run_until_complete(which()))",
    "with a selector": "import selectors; "
                       "print(asyncio.SelectorEventLoop(selectors.SelectSelector()).run_until_complete(which()))",
    "by name": "from asyncio.unix_events import SelectorEventLoop as L; print(L().run_until_complete(which()))",
    "subclass": "class L(asyncio.SelectorEventLoop): pass\n"
                "print(L().run_until_complete(which()))",
    "EventLoop": "with asyncio.Runner(loop_factory=getattr(asyncio, 'EventLoop', None)) as runner: "
                 "print(runner.run(which()))",
    "IsolatedAsyncioTestCase": "import unittest\nclass T(unittest.IsolatedAsyncioTestCase):\n"
                               "    async def test(self): print(await which())\n"
                               "result = unittest.TestResult(); T('test').run(result); assert result.wasSuccessful()",
}  # fmt: skip
POLICIES = {
    "policy's": "print(asyncio.get_event_loop_policy().new_event_loop().run_until_complete(which()))",
    "default policy": "asyncio.set_event_loop_policy(asyncio.DefaultEventLoopPolicy()); print(asyncio.run(which()))",
    "no policy": "asyncio.set_event_loop_policy(None); print(asyncio.run(which()))",
    "get_event_loop": "asyncio.set_event_loop(asyncio.new_event_loop()); "
                      "print(asyncio.get_event_loop().run_until_complete(which()))",
}  # fmt: skip
UVLOOP = {
    "uvloop.run": "import uvloop; print(uvloop.run(which()))",
    "uvloop.install": "import uvloop; uvloop.install(); print(asyncio.run(which()))",
    "uvloop's policy": "import uvloop; asyncio.set_event_loop_policy(uvloop.EventLoopPolicy()); "
                       "print(asyncio.run(which()))",
    "uvloop's factory": "from uvloop import new_event_loop as new\n"
                        "with asyncio.Runner(loop_factory=new) as runner: print(runner.run(which()))",
    "uvloop.Loop": "import uvloop; print(uvloop.Loop().run_until_complete(which()))",
}  # fmt: skip


OTHERS = {f"{other}{name[6:]}": (other, source.replace("uvloop", other).replace("rloop.Loop", "rloop.RLoop"))
          for name, source in UVLOOP.items() for other in ("uvloop", "rloop")}  # fmt: skip


def check_way(tmp_path: Path, source: str) -> None:
    python(tmp_path / "app.py", f"{MAKES_A_LOOP}\nimport warnings; warnings.simplefilter('ignore')\n{source}")
    assert OURS in out_of("app.py", cwd=tmp_path)


@pytest.mark.parametrize("name", WAYS)
def test_loops_that_asyncio_makes(tmp_path, name):
    check_way(tmp_path, WAYS[name])


@pytest.mark.skipif(sys.version_info >= (3, 16), reason="there are no policies")
@pytest.mark.parametrize("name", POLICIES)
def test_loops_that_policies_make(tmp_path, name):
    check_way(tmp_path, POLICIES[name])


@pytest.mark.parametrize("name", OTHERS)
def test_loops_that_others_make(tmp_path, name):
    other, source = OTHERS[name]
    module = pytest.importorskip(other)
    for function in ("install", "run"):
        if f"{other}.{function}(" in source and not hasattr(module, function):
            pytest.skip(f"{other} has no {function}()")
    check_way(tmp_path, source)


def test_a_missing_uvloop_stays_missing(tmp_path):
    source = "import os, sys; sys.path[:] = [os.path.dirname(os.__file__)]; import uvloop"
    end = command("-c", source, cwd=tmp_path)
    assert end.returncode == 1 and end.stderr.endswith("ModuleNotFoundError: No module named 'uvloop'\n")


# -- as Python itself would run it

REPORT = """
import sys
def report(): pass
main = sys.modules["__main__"]
print(__name__, __spec__ and __spec__.name, sys.argv, sys.path[0], main.report is report)
print(report.__code__.co_filename, type(__builtins__), getattr(__loader__, "__name__", type(__loader__)))
print(*sorted((name, value) for name, value in globals().items()
              if name.startswith("__") and name not in ("__builtins__", "__loader__", "__spec__")))
"""


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    folder = tmp_path.resolve()
    python(folder / "script.py", REPORT)
    python(folder / "inner" / "deep.py", REPORT)
    python(folder / "package" / "__init__.py", "")
    python(folder / "package" / "__main__.py", REPORT)
    python(folder / "package" / "part.py", REPORT)
    python(folder / "folder" / "__main__.py", REPORT)
    py_compile.compile(str(folder / "script.py"), str(folder / "compiled.pyc"))
    with zipfile.ZipFile(folder / "archive.pyz", "w") as archive:
        archive.writestr("__main__.py", REPORT)
    return folder


@pytest.mark.parametrize(
    "arguments",
    [
        ["script.py", "--pages", "x", "-m", "-c", "--", "-h"],
        ["inner/deep.py"],
        ["./script.py"],
        ["inner/../script.py"],
        ["compiled.pyc", "x"],
        ["-", "x"],
        ["-m", "package", "one", "--children"],
        ["-m", "package.part", "-c", "x"],
        ["-m", "script"],
        ["folder", "1"],
        ["./folder/"],
        ["archive.pyz", "1"],
        ["-c", REPORT, "-m", "x"],
    ],
    ids=lambda arguments: arguments[1] if arguments[0] == "-m" else arguments[0],
)
def test_it_sees_what_python_shows_it(programs, arguments):
    plain, ours = ended_with_and_without(arguments, programs, stdin=REPORT)
    assert plain.returncode == 0 and plain.stdout == ours.stdout


def ended_with_and_without(arguments, folder, *, command=(), stdin=""):
    return [
        subprocess.run(
            [sys.executable, *words, *arguments], cwd=folder, env=child_environment(), input=stdin, capture_output=True,
            text=True, timeout=60, check=False)
        for words in ((), ("-m", "flexsc_loop", *command))
    ]  # fmt: skip


def test_what_lies_beside_it_is_found_from_another_folder(tmp_path):
    python(tmp_path / "app.py", "import os; os.chdir('/'); print(open(__file__).read() != '')")
    assert out_of("app.py", cwd=tmp_path) == "True\n"


ENDS = """
import atexit, sys, threading
threading.Thread(target=lambda: (threading.main_thread().join(), print("a thread", file=sys.stderr))).start()
atexit.register(lambda: print("at exit", repr(getattr(sys, "last_value", None)), file=sys.stderr))
def end():
    """


@pytest.mark.parametrize("kind", ["plain", "threads"])
@pytest.mark.parametrize(
    "end",
    [
        "1 / 0",
        "raise LookupError('a') from ValueError('b')",
        "raise KeyboardInterrupt",
        "sys.exit('a message')",
        "sys.exit(7)",
        "sys.excepthook = lambda *_: print('hook', file=sys.stderr); 1 / 0",
        "1 +",
    ],
)
def test_what_ends_it_is_told_as_python_tells_it(tmp_path, kind, end):
    if kind == "threads":
        pytest.importorskip("greenlet")
    python(tmp_path / "app.py", f"{ENDS}{end}\nend()\n")
    plain, ours = ended_with_and_without(["app.py"], tmp_path, command=["threads"] * (kind == "threads"))
    assert (ours.returncode, ours.stderr) == (plain.returncode, plain.stderr)
    plain, ours = ended_with_and_without(["-c", f"{ENDS}{end}\nend()\n"], tmp_path)
    assert (ours.returncode, ours.stderr) == (plain.returncode, plain.stderr)


def test_exceptions_and_exit_codes_pass(tmp_path):
    python(tmp_path / "app.py", "import sys; sys.exit(int(sys.argv[1]) if sys.argv[1:] else None)")
    assert command("app.py", 7, cwd=tmp_path).returncode == 7
    assert command("app.py", cwd=tmp_path).returncode == 0
    end = command("-c", "raise LookupError('from within')", cwd=tmp_path)
    assert end.returncode == 1 and end.stderr.endswith("LookupError: from within\n")
    end = command("-c", "import not_there", cwd=tmp_path)
    assert end.returncode == 1 and end.stderr.endswith("ModuleNotFoundError: No module named 'not_there'\n")


def test_what_ends_a_program_without_stderr_is_not_in_its_output(tmp_path):
    source = "import sys; print('data'); sys.exit('trouble')"
    ended = subprocess.run(
        ["sh", "-c", 'exec "$@" 2>&-', "sh", sys.executable, "-m", "flexsc_loop", "-c", source],
        env=child_environment(), cwd=tmp_path, stdout=subprocess.PIPE, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout) == (1, "data\n")


def test_threads_and_exit_functions_still_see_their_main_module(tmp_path):
    source = """
    import atexit, sys, threading
    done = threading.Event()
    def late():
        done.wait(10)
        print("thread", sys.modules["__main__"].mark)
    mark = "kept"
    threading.Thread(target=late).start()
    atexit.register(lambda: print("exit", sys.modules["__main__"].mark))
    threading._register_atexit(done.set)
    """
    python(tmp_path / "app.py", source)
    assert out_of("app.py", cwd=tmp_path) == "thread kept\nexit kept\n"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["nowhere.py"], "can't open file 'nowhere.py': No such file or directory"),
        (["-m", "nowhere"], "no module named nowhere"),
        (["-m", "nowhere.inside"], "no module named nowhere"),
        (["empty"], "can't find '__main__' module in 'empty'"),
        (["-m", "itertools"], "no code to run in itertools"),
        ([], "what is to be run?"),
        (["-m"], "what is to be run?"),
        (["-c"], "what is to be run?"),
        (["--pages", "paper", "x.py"], "invalid choice: 'paper'"),
        (["--threads", "many", "x.py"], "'many' is not known: use one of auto, off, on"),
        (["info", "--yaml"], "unrecognized arguments: --yaml"),
    ],
    ids=" ".join,
)
def test_what_cannot_be_run_is_said(tmp_path, arguments, complaint):
    (tmp_path / "empty").mkdir()
    end = command(*arguments, cwd=tmp_path)
    assert end.returncode == 2 and complaint in end.stderr and "Traceback" not in end.stderr, end.stderr


# -- settings, children, the rest of the command line


def test_settings_reach_the_program_and_its_children(tmp_path):
    python(tmp_path / "app.py", MAKES_A_LOOP + "import os; print(asyncio.run(which()), os.environ['FLEXSC_THREADS'])")
    assert out_of("--pages", "user", "--threads", "off", "app.py", cwd=tmp_path).endswith("user page off\n")


PARENT = MAKES_A_LOOP + """
import multiprocessing, subprocess, sys
def ask():
    return asyncio.run(which())
if __name__ == "__main__":
    if sys.argv[1:] == ["child"]:
        print(ask())
    else:
        subprocess.run([sys.executable, "app.py", "child"], check=True)
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            print(pool.apply(ask), flush=True)
        print(ask())
"""


@pytest.mark.parametrize("asked", [True, False], ids=["asked for", "not asked for"])
def test_children(tmp_path, asked):
    python(tmp_path / "app.py", PARENT)
    lines = out_of(*["--children"] * asked, "app.py", cwd=tmp_path).splitlines()
    assert [OURS in line for line in lines] == [asked, asked, True]


def test_children_go_on_to_their_own_sitecustomize(tmp_path):
    python(tmp_path / "site" / "sitecustomize.py", "import sys; sys.customized = True")
    source = """
    import subprocess, sys
    code = "import asyncio, sys; print(sys.customized, 'sitecustomize' in sys.modules, asyncio.new_event_loop())"
    sys.stdout.write(subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True).stdout)
    """
    python(tmp_path / "app.py", source)
    before = child_environment()["PYTHONPATH"]
    path = os.pathsep.join([str(tmp_path / "site"), before])
    assert out_of("--children", "app.py", cwd=tmp_path, env={"PYTHONPATH": path}).startswith(
        "True True <SelectorEventLoop")


def test_info_ends_quietly_when_its_reader_does(tmp_path):
    pipe, end = os.pipe()
    os.close(pipe)
    with os.fdopen(end, "wb") as output:
        ended = subprocess.run([sys.executable, "-m", "flexsc_loop", "info"], env=child_environment(), cwd=tmp_path,
                               stdout=output, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert ended.stderr == ""


def test_version(tmp_path):
    import flexsc_loop

    assert out_of("--version", cwd=tmp_path) == f"flexsc_loop {flexsc_loop.__version__}\n"
