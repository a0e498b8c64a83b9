"""Fixtures of the tests with other people's programs: real servers, and the proof that no process is left behind."""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from programs import Program, module
from support import Way, eventually

from benchmarks import databases

PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans(yes: bool) -> None:
    """Whether a process whose parent has gone becomes a child of this one, so that it is seen."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, int(yes), 0, 0, 0)


def children() -> set[psutil.Process]:
    return set(psutil.Process().children())


def has_ended(child: psutil.Process) -> bool:
    """Whether it has; takes an orphan's exit status, which nobody else would."""
    try:
        child.wait(0)
    except psutil.TimeoutExpired:
        return False
    return True


@pytest.fixture(autouse=True)
def no_process_is_left() -> Iterator[None]:
    """What a test has started must have ended with it; orphans may take a moment."""
    before = children()
    adopt_orphans(True)
    yield
    gone = eventually(lambda: not {child for child in children() - before if not has_ended(child)}, 5)
    left = children() - before
    complaint = [child.as_dict(["pid", "status", "cmdline"]) for child in left]
    for child in left:
        child.kill()
    adopt_orphans(False)
    assert gone, f"processes left: {complaint}"


def database(make: Callable[..., AbstractContextManager[databases.Database]], **options: Any) -> Iterator[Any]:
    with ExitStack() as stack:
        try:
            server = stack.enter_context(make(**options))
        except databases.NotInstalledError as error:
            pytest.skip(str(error))
        yield server


@pytest.fixture(scope="session")
def authority() -> Any:
    """A certificate authority for servers on the loopback."""
    return pytest.importorskip("trustme").CA()


@pytest.fixture(scope="session")
def certificate(authority: Any) -> databases.Certificate:
    issued = authority.issue_cert("127.0.0.1", "localhost")
    chain = b"".join(blob.bytes() for blob in issued.cert_chain_pems)
    return databases.Certificate(issued.private_key_pem.bytes().decode(), chain.decode())


@pytest.fixture(scope="module")
def postgresql(certificate: databases.Certificate) -> Iterator[databases.Database]:
    yield from database(databases.postgresql, certificate=certificate)


@pytest.fixture(scope="module")
def mariadb(certificate: databases.Certificate) -> Iterator[databases.Database]:
    yield from database(databases.mariadb, certificate=certificate)


@pytest.fixture(scope="module")
def redis_server() -> Iterator[databases.Database]:
    yield from database(databases.redis)


@pytest.fixture
def start(way: Way, tmp_path: Path) -> Iterator[Callable[..., Program]]:
    """Starts programs whose loops, if they are ours, run in this way; all have ended after the test."""
    with ExitStack() as stack:

        def make(*command: str, env: dict[str, str] | None = None, pass_fds: Sequence[int] = ()) -> Program:
            log = tmp_path / f"log-{time.monotonic_ns()}"
            return stack.enter_context(Program(command, log, {**way.environment(), **(env or {})}, pass_fds))

        yield make


@pytest.fixture
def gunicorn(start: Callable[..., Program]) -> Callable[..., tuple[Program, int]]:
    """Starts gunicorn with the worker whose connections are green threads; the program, and its port."""

    def run(*arguments: Any, app: str = "apps_wsgi:bare", env: dict[str, str] | None = None) -> tuple[Program, int]:
        port = databases.free_port()
        program = start(
            *module("gunicorn", "-k", "flexsc_loop.gunicorn.FlexSCThreadsWorker", "-b", f"127.0.0.1:{port}",
                    "--no-control-socket", "-c", "gunicorn_tells.py", "--graceful-timeout", 15, *arguments, app),
            env=env,
        )  # fmt: skip
        program.wait_for("Booting worker with pid")
        return program, port

    return run
