"""aiohttp's own tests, of the version that is installed: its source distribution, in an environment of its own.

Both are fetched by pip and kept under build/suites: the first run of a version needs a package index.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import tempfile
from importlib import metadata
from pathlib import Path

from tests.suites.runs import Exclusion, Part
from tests.support import ROOT

VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"

#: Which test modules make up which part; the rest is "rest".
GROUPS = {
    "client": ("test_client_*", "test_connector", "test_proxy*", "test_resolver", "test_tracing"),
    "web": ("test_web_*", "test_classbasedview", "test_loop", "test_run_app", "test_test_utils", "test_worker"),
    "benchmarks": ("test_benchmarks_*",),
}
#: For `.ci/run`: real connections, files, WebSockets, TLS and proxies in both directions.
QUICK = ("test_client_functional", "test_client_ws_functional", "test_proxy_functional", "test_run_app",
         "test_web_functional", "test_web_sendfile_functional", "test_web_server",
         "test_web_websocket_functional")  # fmt: skip

#: close() while a syscall thread is still sending the response: connection_lost follows when it has been sent, not a
#: fixed number of turns later.
LATER = tuple(
    Exclusion(
        f"tests/test_run_app.py::TestShutdown::{name}",
        "counts on an end within so many turns of close(), while a syscall thread still sends the response",
        ways=("kernel-sqpoll", "user-pinned"),
    )
    for name in (
        "test_shutdown_wait_for_handler",
        "test_shutdown_timeout_not_reached",
        "test_shutdown_new_conn_rejected",
        "test_shutdown_close_websockets",
    )
)

EXCLUDED: list[Exclusion] = [
    *LATER,
    Exclusion(
        "tests/test_client_functional.py::test_upload_tracker_progress*",
        "samples a counter from a task that starts when the response has come: earlier or later than the count with a "
        "syscall thread",
        ways=("kernel-sqpoll", "user-pinned"),
    ),
]


def exclusions() -> list[Exclusion]:
    return [one for one in EXCLUDED if one.holds(VERSION)]


def parts(quick: bool) -> list[Part]:
    """Parts that run test modules of one kind; fetches what is not here yet.  Raises RuntimeError when it can't."""
    folder, python = prepare()
    left = {path.stem: path for path in sorted((folder / "tests").glob("test_*.py"))}
    if quick:
        return [part("quick", python, folder, [left[name] for name in QUICK if name in left])]
    made = []
    for name, patterns in GROUPS.items():
        chosen = [stem for stem, path in left.items() if any(path.match(f"{pattern}.py") for pattern in patterns)]
        made.append(part(name, python, folder, [left.pop(stem) for stem in chosen]))
    return [*made, part("rest", python, folder, [*left.values()])]


def part(name: str, python: Path, folder: Path, paths: list[Path]) -> Part:
    files = [str(path.relative_to(folder)) for path in paths]
    options = [
        "-q", "-p", "tests.suites.aiohttp_plugin", "-p", "no:cacheprovider",
        # Without coverage, and without pytest's own limits: the plugin's ends the process.
        "-o", "addopts=", "-o", "timeout=0", "-o", "faulthandler_timeout=0",
        "-m", "not dev_mode and not autobahn and not internal",
    ]  # fmt: skip

    def command(loop: str) -> list[str]:
        return [str(python), "-m", "pytest", *options, *files, f"--suite-loop={loop}"]

    return Part(name, command, seconds=900, cwd=folder)


def prepare() -> tuple[Path, Path]:
    """The folder with the tests, and a Python that has what they need."""
    version = metadata.version("aiohttp")
    base = ROOT / "build" / "suites" / f"aiohttp-{version}-python{VERSION}"
    folder, python = base / "source", base / "venv" / "bin" / "python"
    if not (base / "complete").exists():
        shutil.rmtree(base, ignore_errors=True)
        base.mkdir(parents=True)
        try:
            fetch(version, folder)
            make_environment(version, base / "venv", folder / "requirements")
        except subprocess.CalledProcessError as error:
            raise RuntimeError(f"aiohttp's tests can't be had: {error.cmd} said:\n{error.output[-2000:]}") from error
        (base / "complete").touch()
    return folder, python


def run(*command: object) -> None:
    subprocess.run([*map(str, command)], check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def fetch(version: str, folder: Path) -> None:
    """Take out of the source distribution what the tests need, and not the package itself: that comes as a wheel."""
    with tempfile.TemporaryDirectory() as temporary:
        run(sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary=aiohttp", f"aiohttp=={version}",
            "--dest", temporary)  # fmt: skip
        (archive,) = Path(temporary).glob("aiohttp-*.tar.gz")
        with tarfile.open(archive) as tar:
            tar.extractall(temporary, filter="data")
        source = Path(temporary, f"aiohttp-{version}")
        for name in ("tests", "requirements", "pytest.ini"):
            if (source / name).is_dir():
                shutil.copytree(source / name, folder / name)
            else:
                shutil.copy(source / name, folder / name)


def make_environment(version: str, venv: Path, requirements: Path) -> None:
    run(sys.executable, "-m", "venv", venv)
    run(venv / "bin" / "python", "-m", "pip", "install", "--quiet", f"aiohttp=={version}", "gunicorn",
        "-r", requirements / "test-common.in", "-r", requirements / "runtime-deps.in")  # fmt: skip
