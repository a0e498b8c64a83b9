"""The runner of the suites that others wrote; the suites themselves with --suites only: `make suites` runs them."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import pytest
from support import ROOT, child_environment


@pytest.fixture
def suites(monkeypatch):
    """The package tests.suites, as `python -m tests.suites` sees it."""
    monkeypatch.syspath_prepend(str(ROOT))
    from tests.suites import report, runs

    return runs, report


FOREIGN = """
import asyncio, os, sys, time, unittest

class Tests(unittest.TestCase):
    def test_a_passes(self): pass
    def test_b_crashes(self): os.kill(os.getpid(), 11) if OURS else None
    def test_c_hangs(self): time.sleep(60) if OURS else None
    def test_d_fails(self): self.assertFalse(OURS)
    def test_e_is_skipped(self): self.skipTest("no") if OURS else None
    def test_f_fails_everywhere(self): self.fail()
    def test_g_is_excluded(self): self.assertFalse(OURS)
    def test_h_is_better(self): self.assertTrue(OURS)
    def test_i_is_unsteady(self):
        if OURS and not os.path.exists("{marker}"):
            open("{marker}", "w").close()
            self.fail()
    def test_j_passes(self): pass

OURS = "ours" in sys.argv
sys.argv.remove("ours" if OURS else "stdlib")
from tests.suites import cpython_child
cpython_child.run(sys.modules[__name__], None)
"""


def test_what_the_runner_makes_of_each_end(suites, tmp_path):
    runs, report = suites
    script = tmp_path / "foreign.py"
    script.write_text(FOREIGN.replace("{marker}", str(tmp_path / "marker")))
    part = runs.Part("foreign", lambda loop: [sys.executable, str(script), loop], test_seconds=2)
    exclusions = [runs.Exclusion("*.test_g_*", "so"), runs.Exclusion("*.test_nothing", "so")]
    found = runs.run_suite([part], ["user-own"], exclusions, 1, lambda line: None)
    tests = {name.rpartition(".test_")[2]: one for name, one in found["user-own"]["foreign"].items()}
    ours = {name: one.ours.outcome for name, one in tests.items()}
    assert ours == {
        "a_passes": "passed",
        "b_crashes": "crashed",
        "c_hangs": "hung",
        "d_fails": "failed",
        "e_is_skipped": "skipped",
        "f_fails_everywhere": "failed",
        "g_is_excluded": "excluded",
        "h_is_better": "passed",
        "i_is_unsteady": "failed",
        "j_passes": "passed",
        runs.END.format("foreign"): "passed",
    }
    assert sorted(name for name, one in tests.items() if one.worse) == [
        "b_crashes",
        "c_hangs",
        "d_fails",
        "e_is_skipped",
    ]
    assert not tests["i_is_unsteady"].steady
    assert report.worse(found) == 4
    assert "test_c_hangs" in tests["c_hangs"].ours.detail  # the stack at its end
    text, unused = report.excluded(found, exclusions)
    assert [one.pattern for one in unused] == ["*.test_nothing"] and "*.test_g_*: so" in text
    # No test has made a loop of ours: a suite that runs on another loop proves nothing.
    assert report.broken(found) == ["user-own: no test has passed on this loop"]
    assert json.dumps(report.as_json(found, exclusions))


def test_a_suite_that_does_not_run_is_no_success(suites):
    runs, report = suites
    part = runs.Part("broken", lambda loop: [sys.executable, "-c", "raise SystemExit(3)"])
    found = runs.run_suite([part], ["user-own"], [], 1, lambda line: None)
    assert len(report.broken(found)) == 2


def test_foreign_tests_run_on_the_loop_that_was_asked_for(way):
    """A small module of CPython's, in each way."""
    pytest.importorskip("test.test_asyncio", reason="this Python has no tests of asyncio")
    command = [sys.executable, "-m", "tests.suites", "cpython", "--part", "test_buffered_proto", "--way", way.name]
    done = subprocess.run(command, cwd=ROOT, env=child_environment(), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nothing worse than on the standard loop" in done.stdout


@pytest.fixture
def project(suites, tmp_path):
    """A project that publishes nothing, and a checkout of it."""
    from tests.suites import projects

    (tmp_path / "tests" / "sub").mkdir(parents=True)
    for name in ("test_one.py", "test_two.py", "sub/test_three.py", "helper.py"):
        (tmp_path / "tests" / name).touch()
    return projects.Project(
        name="nowhere",
        version="1",
        fetch=projects.from_checkout_only,
        groups={"some": ("sub/*.py",)},
        quick=("test_two.py",),
        take=("tests",),
        excluded=(),
    )


def test_parts_of_a_project(project, tmp_path, monkeypatch):
    """Its files are in one part each; the quick part is what is named."""
    monkeypatch.setattr(type(project), "prepare", lambda self, checkout: (checkout, sys.executable))

    def files(part):
        return [word for word in part.command("ours") if word.endswith(".py")]

    assert {part.name: files(part) for part in project.parts(False, tmp_path)} == {
        "some": ["tests/sub/test_three.py"],
        "rest": ["tests/test_one.py", "tests/test_two.py"],
    }
    assert [files(part) for part in project.parts(True, tmp_path)] == [["tests/test_two.py"]]


def test_blocking_code_is_run_in_a_green_thread(project, tmp_path, monkeypatch):
    monkeypatch.setattr(type(project), "prepare", lambda self, checkout: (checkout, sys.executable))
    (part,) = replace(project, green=True).parts(True, tmp_path)
    ours, theirs = part.command("ours"), part.command("stdlib")
    assert ours[1:6] == ["-m", "flexsc_loop", "threads", "-m", "pytest"] and ours[-1] == "--suite-loop=green"
    assert theirs[1:3] == ["-m", "pytest"] and theirs[-1] == "--suite-loop=stdlib"


def test_what_is_taken_from_a_checkout(project, tmp_path):
    project.copy(tmp_path, tmp_path / "taken")
    assert (tmp_path / "taken" / "tests" / "sub" / "test_three.py").exists()


def test_a_suite_that_nobody_publishes_says_where_it_is(project, tmp_path):
    from tests.suites import projects

    with pytest.raises(projects.NotPublished, match="--checkout nowhere=FOLDER"):
        project.fetch(project, tmp_path)


def test_every_suite_has_what_it_names(suites):
    """Names are unique, exclusions have reasons, and a part that CI runs is named."""
    from tests.suites.__main__ import PROJECTS

    for name, one in PROJECTS.items():
        assert one.name == name and one.quick
        assert all(exclusion.reason for exclusion in one.excluded)


FOREIGN_PYTEST = """
import asyncio, os, time

def test_makes_a_loop():
    asyncio.run(asyncio.sleep(0))

def test_hangs(pytestconfig):
    if pytestconfig.option.suite_loop == "ours":
        time.sleep(60)

def test_crashes(pytestconfig):
    if pytestconfig.option.suite_loop == "ours":
        os.abort()
"""


@pytest.mark.timeout(240)  # it starts a dozen Pythons, one after another
def test_what_the_pytest_plugin_writes_down(suites, project, tmp_path, monkeypatch):
    """One that hangs or crashes costs itself alone, and says where it was."""
    runs, _ = suites
    (tmp_path / "tests" / "test_two.py").write_text(FOREIGN_PYTEST)
    monkeypatch.setattr(type(project), "prepare", lambda self, checkout: (checkout, sys.executable))
    (part,) = (replace(part, test_seconds=2) for part in project.parts(True, tmp_path))
    found = runs.run_suite([part], ["user-own"], [], 1, lambda line: None)["user-own"]["tests/test_two.py"]
    ours = {name.rpartition("::")[2]: one.ours for name, one in found.items()}
    assert ours["test_makes_a_loop"].loops == 1
    assert (ours["test_hangs"].outcome, ours["test_crashes"].outcome) == ("hung", "crashed")
    assert "in test_hangs" in ours["test_hangs"].detail
    assert all(not one.theirs.bad for one in found.values())


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    "suite",
    [
        "cpython", "io", "threads", "aiofiles", "aiohttp", "anyio", "websockets", "tornado", "uvicorn", "uvloop",
        "urllib3", "pymysql",
    ],
)  # fmt: skip
def test_suite(request, suite):
    if not request.config.getoption("suites"):
        pytest.skip("takes minutes: ask for it by --suites, or run `make suites`")
    done = subprocess.run([sys.executable, "-m", "tests.suites", suite], cwd=ROOT, env=child_environment())
    assert done.returncode == 0
