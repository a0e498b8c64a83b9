"""What the project promises about itself: README, layout, documented and typed public names, the scripts."""

import ast
import importlib
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support import ROOT, child_environment, run_python

import flexsc_loop

README = ROOT / "README.md"
PACKAGE = ROOT / "flexsc_loop"
AT_THE_TOP = {
    "LICENSE", "Makefile", "README.md", "benchmarks", "examples", "findings", "flexsc_loop", "pyproject.toml",
    "setup.cfg", "tests",
}

pytestmark = pytest.mark.skipif(not README.exists(), reason="not a checkout: the README is not here")


def section(title, document=README):
    """The lines under one heading of a document, the README as a rule."""
    text = document.read_text()
    start = text.index(f"\n## {title}\n")
    end = text.find("\n## ", start + 4)
    return text[start : end if end >= 0 else None].splitlines()


def rows(title, document=README):
    """The cells of the one table under a heading, without its head."""
    table = [line for line in section(title, document) if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table[2:]]


def code(cell):
    return re.findall(r"`([^`]+)`", cell)


def one_liners():
    """What the README's table of one-liners says: (with what, each line in its cell)."""
    return {row[0]: code(row[1]) for row in rows("Use it")}


# ---- the README's code runs

BEFORE = """
import asyncio
import flexsc_loop

seen = []

async def main():
    seen.append(type(asyncio.get_running_loop()))
"""
AFTER = """
assert seen == [flexsc_loop.Loop], seen
print("done")
"""


def check(source, **more):
    end = run_python(f"{BEFORE}\n{source}\n{AFTER}", **more)
    assert (end.code, end.out) == (0, "done\n"), end.err


@pytest.mark.skipif(sys.version_info < (3, 12), reason="asyncio.run has no loop_factory")
def test_loop_factory():
    check(*one_liners()["Python 3.12 and later"])


def test_runner():
    check(*one_liners()["Python 3.11 and later"])


def test_run():
    check(*one_liners()["the short way"])


@pytest.mark.parametrize("which", [0, 1], ids=["policy", "install"])
def test_policy(which):
    lines = one_liners()["policies (deprecated by Python 3.14)"]
    assert len(lines) == 2
    check(f"{lines[which]}\nasyncio.run(main())")


def test_aiohttp():
    pytest.importorskip("aiohttp")
    (line,) = one_liners()["aiohttp"]
    check(
        f"""
from aiohttp import web

def leave():
    raise web.GracefulExit

async def on_startup(app):
    await main()
    asyncio.get_running_loop().call_soon(leave)

app = web.Application()
app.on_startup.append(on_startup)
web_run_app = web.run_app
web.run_app = lambda app, loop: web_run_app(app, loop=loop, host="127.0.0.1", port=0, print=None)
{line}
"""
    )


def test_anyio():
    pytest.importorskip("anyio")
    check(f"import anyio\n{one_liners()['anyio'][0]}")


@pytest.mark.skipif(sys.version_info < (3, 13), reason="unittest has no loop_factory")
def test_unittest():
    line = one_liners()["unittest (Python 3.13)"][0]
    check(
        f"""
import unittest

class Test(unittest.IsolatedAsyncioTestCase):
    {line}

    async def test(self):
        await main()

assert unittest.main(argv=["test"], exit=False).result.wasSuccessful()
"""
    )


def test_the_lines_for_other_programs_name_what_exists():
    import flexsc_loop

    for line in one_liners().values():
        for name in re.findall(r"flexsc_loop[.:](\w+)", " ".join(line)):
            module = (PACKAGE / f"{name}.py").exists() or (PACKAGE / name / "__init__.py").exists()
            assert name in flexsc_loop.__all__ or module, line


# ---- what the README says is so


def test_counters(new_loop):
    documented = {name for row in rows("Insight", PACKAGE / "README.md") for name in code(row[0])}
    loop = new_loop()
    assert documented == set(loop.stats())
    assert all(isinstance(value, int) for value in loop.stats().values())


def test_sizes():
    from flexsc_loop.syscalls.scheduler import Sizes

    text = " ".join(section("Settings"))
    parameters = inspect.signature(flexsc_loop.Loop).parameters
    for name in Sizes._fields:
        assert re.search(rf"`{name}` \({parameters[name].default} ", text), name


def test_settings():
    from flexsc_loop import settings

    text = "\n".join(section("Settings"))
    for value in (*settings.PAGES, *settings.THREADS, *settings.WRITES):
        assert f"`{value}`" in text
    for name in ("FLEXSC_PAGES", "FLEXSC_THREADS", "FLEXSC_WRITES"):
        assert name in text


# ---- layout


def tracked():
    done = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    if done.returncode != 0 or not done.stdout:
        pytest.skip("not a git checkout")
    return [name for name in done.stdout.split("\0") if name]


def test_nothing_else_lies_at_the_top():
    top = {name.split("/")[0] for name in tracked()}
    assert {name for name in top if not name.startswith(".")} <= AT_THE_TOP


def test_nothing_built_is_tracked():
    built = re.compile(r"\.(so|o|pyc|egg-info|log)(/|$)|(^|/)(build|__pycache__|\.venv)/")
    assert [name for name in tracked() if built.search(name)] == []


def test_no_tests_in_the_package():
    assert [path for path in PACKAGE.rglob("*") if "test" in path.name.lower()] == []


# ---- public names

COMPILED = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts) for path in sorted(PACKAGE.rglob("*.pyx"))
]


def public(names):
    return {name for name in names if not name.startswith("_")}


def stubbed(module):
    """The classes and functions in a module's stub."""
    tree = ast.parse((ROOT / Path(*module.split("."))).with_suffix(".pyi").read_text())
    kinds = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    return {node.name: node for node in tree.body if isinstance(node, kinds)}


def typed_names(cls):
    """What the stubs of a compiled class and of its bases declare."""
    names = set()
    for base in cls.__mro__:
        if base.__module__ in COMPILED:
            body = stubbed(base.__module__)[base.__name__].body
            names |= {node.name for node in body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
            names |= {node.target.id for node in body if isinstance(node, ast.AnnAssign)}
    return names


def test_the_package_is_marked_as_typed():
    assert (PACKAGE / "py.typed").exists()


def test_exports():
    import flexsc_loop

    assert set(flexsc_loop.__all__) == {
        "FlexSCPolicy", "Loop", "files", "install", "keep_transports", "new_event_loop", "open", "run", "run_many"}
    for name in flexsc_loop.__all__:
        assert inspect.getdoc(getattr(flexsc_loop, name)), name


def test_exported_functions_are_typed():
    import flexsc_loop

    for name in ("install", "new_event_loop", "open", "run"):
        function = getattr(flexsc_loop, name)
        parameters = inspect.signature(function).parameters
        assert set(function.__annotations__) == {*parameters, "return"}, name


def test_public_methods_are_documented():
    """Ours, that is; what is inherited is documented where it comes from."""
    import flexsc_loop

    missing = []
    for cls in flexsc_loop.Loop.__mro__:
        if cls.__module__.startswith("flexsc_loop"):
            for name in public(vars(cls)):
                member = vars(cls)[name]
                ours = inspect.isroutine(member) and getattr(member, "__module__", None) in (None, cls.__module__)
                if ours and not member.__doc__:
                    missing.append(f"{cls.__module__}.{cls.__name__}.{name}")
    assert missing == []


@pytest.mark.parametrize("name", COMPILED)
def test_compiled_classes_have_docstrings_and_stubs(name):
    module = importlib.import_module(name)
    own = {
        key: value
        for key, value in vars(module).items()
        if getattr(value, "__module__", None) == name and not key.startswith("_") and callable(value)
    }
    assert set(own) == set(stubbed(name))
    for key, value in own.items():
        assert value.__doc__, f"{name}.{key}"
        if inspect.isclass(value):
            assert public(vars(value)) <= typed_names(value), f"{name}.{key}"


# ---- scripts


@pytest.mark.parametrize("script", ["venv", "test", "lint", "run", "unstable"])
def test_scripts_are_sound(script):
    path = ROOT / ".ci" / script
    if not path.exists():
        pytest.skip("not a checkout")
    assert os.access(path, os.X_OK)
    shell = "bash" if "bash" in path.read_text().splitlines()[0] else "sh"
    subprocess.run([shell, "-n", path], check=True, stdin=subprocess.DEVNULL)


def find(version, **environment):
    return subprocess.run(
        [ROOT / ".ci" / "venv", "find", version],
        env=child_environment(environment),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.skipif(not (ROOT / ".ci").exists(), reason="not a checkout")
def test_finding_pythons(tmp_path):
    """One that does not run is passed over; one that is not there is a failure without a word."""
    missing = find("3.99")
    assert (missing.returncode, missing.stdout, missing.stderr) == (1, "", "")
    shim = tmp_path / "python3.98"
    shim.write_text("#!/bin/sh\necho 'not this one' >&2\nexit 127\n")
    shim.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    assert find("3.98", PATH=path).returncode == 1
    good = tmp_path / "versions" / "3.98.1" / "bin" / "python3.98"
    good.parent.mkdir(parents=True)
    good.write_text('#!/bin/sh\n[ "$1" = -c ] && echo 3.98\nexit 0\n')
    good.chmod(0o755)
    found = find("3.98", PATH=path, PYENV_ROOT=str(tmp_path))
    assert (found.returncode, found.stdout.strip()) == (0, str(good))
