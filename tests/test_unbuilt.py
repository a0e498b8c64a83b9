"""A checkout that is not built, in the way of an installed package."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support import ROOT

PACKAGE = ROOT / "flexsc_loop"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The sources alone."""
    folder = tmp_path / "checkout"
    shutil.copytree(PACKAGE, folder / "flexsc_loop", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    return folder


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A folder in which the package is installed."""
    folder = tmp_path / "installed"
    shutil.copytree(PACKAGE, folder / "flexsc_loop")
    return folder


def run_in(checkout: Path, *arguments: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Python, in a current folder that shadows what is on its path."""
    environment = {**os.environ, "PYTHONPATH": str(path) if path else "", "PYTHONDONTWRITEBYTECODE": "1"}
    # Without what this environment itself has of the package.
    keep = ["", str(checkout), str(path)]
    preamble = (
        "import os, sys; sys.path[:] = [place for place in sys.path "
        f"if place in {keep!r} or not os.path.exists(os.path.join(place, 'flexsc_loop'))]\n"
    )
    if arguments[0] == "-m":
        source = f"import runpy; sys.argv[:] = {arguments[1:]!r}; runpy.run_module({arguments[1]!r}, None, '__main__')"
    else:
        source = arguments[1]
    return subprocess.run(
        [sys.executable, "-c", preamble + source],
        cwd=checkout,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_installed_package_is_used(checkout, installed):
    end = run_in(
        checkout,
        "-c",
        "import flexsc_loop, flexsc_loop.policy, os\n"
        "from flexsc_loop.transports import stream\n"
        "print(*(os.path.dirname(m.__file__) for m in (flexsc_loop, flexsc_loop.policy, stream)), sep='\\n')\n"
        "assert flexsc_loop is sys.modules['flexsc_loop'] and flexsc_loop.policy.Loop is flexsc_loop.Loop\n"
        "import asyncio\n"
        "assert flexsc_loop.run(asyncio.sleep(0, 5), pages='user') == 5\n",
        path=installed,
    )
    place = installed / "flexsc_loop"
    assert end.stdout.splitlines() == [str(place), str(place), str(place / "transports")], end.stderr
    assert end.returncode == 0


def test_it_is_said(checkout, installed):
    """Once, and where the import stands."""
    end = run_in(checkout, "-c", "import flexsc_loop\nimport flexsc_loop.loop", path=installed)
    assert end.stderr.count("RuntimeWarning") == 1
    assert str(checkout / "flexsc_loop") in end.stderr and str(installed / "flexsc_loop") in end.stderr
    assert "<string>:2:" in end.stderr


def test_info(checkout, installed):
    end = run_in(checkout, "-m", "flexsc_loop", "info", path=installed)
    assert end.returncode == 0, end.stderr
    assert end.stdout.startswith("flexsc_loop ") and "pages:" in end.stdout


def test_an_error_that_helps(checkout):
    end = run_in(checkout, "-c", "import flexsc_loop")
    assert end.returncode == 1
    last = end.stderr.splitlines()[-1]
    assert last.startswith("ImportError: ") and str(checkout) in last
    assert f"-m pip install {checkout}`" in last and "make build" in last


def test_another_checkout_that_is_not_built_does_not_help(checkout, tmp_path):
    shutil.copytree(checkout, tmp_path / "other")
    end = run_in(checkout, "-c", "import flexsc_loop", path=tmp_path / "other")
    assert end.returncode == 1 and "ImportError" in end.stderr


def test_what_is_built_is_used(installed, tmp_path):
    """No look elsewhere, no warning."""
    shutil.copytree(installed, tmp_path / "other")
    end = run_in(installed, "-c", "import flexsc_loop; print(flexsc_loop.__file__)", path=tmp_path / "other")
    assert (end.stdout.strip(), end.stderr) == (str(installed / "flexsc_loop" / "__init__.py"), "")
