"""pytest-asyncio's two ways to choose a loop, and anyio's: each in a pytest of its own, with a suite of its own."""

import sys

import pytest
from programs import module

pytestmark = [pytest.mark.ours, pytest.mark.one_way]

TESTS = """
import asyncio

import flexsc_loop
import pytest


async def serve(reader, writer):
    writer.write(await reader.readline())
    writer.close()


@pytest.fixture
def number():
    return 5


{decorated}
async def server():
    assert type(asyncio.get_running_loop()) is flexsc_loop.Loop
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()


@pytest.mark.{mark}
async def test_loop(number):
    assert type(asyncio.get_running_loop()) is flexsc_loop.Loop
    assert await asyncio.sleep(0.001, number) == 5


@pytest.mark.{mark}
async def test_streams(server):
    reader, writer = await asyncio.open_connection(*server)
    writer.write(b"hello\\n")
    assert await reader.read() == b"hello\\n"
    writer.close()
    await writer.wait_closed()


@pytest.mark.{mark}
@pytest.mark.xfail(raises=ZeroDivisionError, strict=True)
async def test_failure():
    await asyncio.sleep(0)
    1 / 0


def test_without_a_loop(number):
    assert number == 5
"""

POLICY = """
import flexsc_loop, pytest

@pytest.fixture(scope="session")
def event_loop_policy():
    return flexsc_loop.FlexSCPolicy()
"""

FACTORIES = """
import flexsc_loop

def pytest_asyncio_loop_factories(config, item):
    return {"flexsc": flexsc_loop.new_event_loop}
"""

BACKEND = """
import flexsc_loop, pytest

@pytest.fixture(scope="module")
def anyio_backend():
    return "asyncio", {"loop_factory": flexsc_loop.new_event_loop}
"""


def run_suite(start, tmp_path, conftest, mark, decorated, *options):
    (tmp_path / "conftest.py").write_text(conftest)
    (tmp_path / "test_suite.py").write_text(TESTS.format(mark=mark, decorated=decorated))
    program = start(
        *module("pytest", "-q", "-p", "no:cacheprovider", "--rootdir", tmp_path, "-c", "/dev/null", *options, tmp_path)
    )
    code = program.end()
    assert code == 0, program.text()
    assert "3 passed, 1 xfailed" in program.text()


def test_asyncio_by_policy(start, tmp_path):
    pytest.importorskip("pytest_asyncio")
    quiet = ["-W", "ignore::DeprecationWarning"]
    run_suite(start, tmp_path, POLICY, "asyncio", "@pytest.fixture", "-o", "asyncio_mode=auto", *quiet)


@pytest.mark.parametrize("mode", ["strict", "auto"])
def test_asyncio_by_factory(start, tmp_path, mode):
    plugin = pytest.importorskip("pytest_asyncio.plugin")
    if not hasattr(plugin.PytestAsyncioSpecs, "pytest_asyncio_loop_factories"):
        pytest.skip("this pytest-asyncio has no such hook yet")
    decorated = "import pytest_asyncio\n\n@pytest_asyncio.fixture"
    run_suite(start, tmp_path, FACTORIES, "asyncio", decorated, "-o", f"asyncio_mode={mode}")


def test_anyio(start, tmp_path):
    pytest.importorskip("anyio")
    run_suite(start, tmp_path, BACKEND, "anyio", "@pytest.fixture", "-p", "no:asyncio")


def test_a_debugging_run_without_warnings(start, tmp_path):
    """Developer mode, and each warning an error."""
    pytest.importorskip("pytest_asyncio")
    (tmp_path / "conftest.py").write_text(FACTORIES)
    (tmp_path / "test_suite.py").write_text(TESTS.format(mark="asyncio", decorated="@pytest.fixture"))
    program = start(
        sys.executable, "-X", "dev", "-W", "error", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", "/dev/null",
        "--rootdir", str(tmp_path), "-o", "asyncio_mode=auto", "-o", "asyncio_default_fixture_loop_scope=function",
        str(tmp_path),
    )  # fmt: skip
    assert program.end() == 0, program.text()
    assert "3 passed, 1 xfailed" in program.text()
