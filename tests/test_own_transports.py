"""Who a program's connections belong to where a package would take them from every loop: `keep_transports`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support import child_environment

pytestmark = pytest.mark.ours

PACKAGES = {
    "aiofastnet.py": "",
    "aiohttp/__init__.py": "from aiohttp import web_runner",
    "aiohttp/web_runner.py": "try:\n    import aiofastnet\nexcept ImportError:\n    aiofastnet = None\n",
    "others.py": "import aiofastnet\n",
}
SHOW = "\nfrom aiohttp import web_runner\nprint('theirs' if web_runner.aiofastnet else 'own')\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Stands in for both packages, as far as it matters who has imported whom."""
    for name, source in PACKAGES.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(source)
    return tmp_path


def run(folder: Path, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    environment = child_environment(env)
    environment["PYTHONPATH"] = f"{folder}:{environment['PYTHONPATH']}"
    return subprocess.run([sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True,
                          timeout=60, check=False)


def shown(folder: Path, *words: str, **env: str) -> str:
    done = run(folder, *words, **env)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


MAKE = "import flexsc_loop; flexsc_loop.new_event_loop().close()"
MAKE_BY_ASYNCIO = "import asyncio; asyncio.new_event_loop().close()"


def test_unless_asked_nothing_is_touched(folder):
    assert shown(folder, "-c", MAKE + SHOW) == "theirs"
    assert shown(folder, "-m", "flexsc_loop", "-c", MAKE_BY_ASYNCIO + SHOW) == "theirs"


@pytest.mark.parametrize("before", ["", "import aiohttp; "], ids=["before aiohttp", "after aiohttp"])
def test_the_function(folder, before):
    assert shown(folder, "-c", before + "import flexsc_loop; flexsc_loop.keep_transports()" + SHOW) == "own"


@pytest.mark.parametrize("before", ["", "import aiohttp; "], ids=["before aiohttp", "after aiohttp"])
def test_the_environment_is_asked_when_a_loop_is_made(folder, before):
    assert shown(folder, "-c", before + MAKE + SHOW, FLEXSC_TRANSPORTS="own") == "own"
    assert shown(folder, "-c", before + MAKE + SHOW, FLEXSC_TRANSPORTS="auto") == "theirs"


def test_the_command_line(folder):
    assert shown(folder, "-m", "flexsc_loop", "--transports", "own", "-c", MAKE_BY_ASYNCIO + SHOW) == "own"


def test_other_packages_modules_are_left_alone(folder):
    code = "import others, flexsc_loop; flexsc_loop.keep_transports(); print(others.aiofastnet)"
    assert "aiofastnet.py" in shown(folder, "-c", code)


def test_it_is_missing_as_if_it_were_not_installed(folder):
    code = "import flexsc_loop; flexsc_loop.keep_transports(); flexsc_loop.keep_transports(); import aiofastnet"
    assert "ModuleNotFoundError: import of aiofastnet halted" in run(folder, "-c", code).stderr


def test_a_bad_value_is_said(folder):
    done = run(folder, "-c", MAKE, FLEXSC_TRANSPORTS="mine")
    assert "ValueError: FLEXSC_TRANSPORTS='mine' is not known: use one of auto, own" in done.stderr
    done = run(folder, "-m", "flexsc_loop", "-c", "pass", FLEXSC_TRANSPORTS="mine")
    assert done.returncode == 2 and "use one of auto, own" in done.stderr and "Traceback" not in done.stderr
