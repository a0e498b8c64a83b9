"""Fixtures of all tests: the loop in each of its ways, and the proof that nothing leaked."""

from __future__ import annotations

import asyncio
import gc
import inspect
import os
import random
import socket
import tempfile
import time
import zlib
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from datagrams import LOCAL, Talker, udp_socket
from pipe_support import make_pair
from sandbox import io_uring_blocked
from support import (
    WAYS,
    Peer,
    Recorder,
    Way,
    hear_signals,
    open_fds,
    payload,
    restless,
    tcp_pair,
    thread_names,
    turns,
    unix_pair,
)

import flexsc_loop

# No test is timed: how long an example takes is up to what else runs on the machine.
hypothesis.settings.register_profile("untimed", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("untimed")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("flexsc_loop")
    group.addoption("--stdlib", action="store_true", help="run the tests on asyncio's own loop")
    group.addoption("--way", action="append", choices=sorted(WAYS), help="run in this way only (may be repeated)")
    group.addoption("--spread", action="store_true", help="run each test in one of the four ways only, not in all")
    group.addoption("--brief", action="store_true", help="run the tests in ecosystem/ in one way only")
    group.addoption("--soak", action="store_true", help="run the long tests in full length")
    group.addoption("--suites", action="store_true", help="run the test suites that others wrote")
    group.addoption("--seed", type=int, help="the seed that a failed run of a fuzzer or a soak printed")


def pytest_configure(config: pytest.Config) -> None:
    for line in (
        "ours: tests something that asyncio's own loop does not have",
        "slow: long; in full length only with --soak",
        "soak: repeats what it does; with --spread it does so with one set of arguments",
        "one_way: runs in one way only: the default one, or the first that --way names",
        "only(pages=None, threads=None): runs with such pages (kernel, user), served by such a thread (own, syscall)",
        "restless: leaves the loop with something to do, which the test says why",
    ):
        config.addinivalue_line("markers", line)
    if not config.getoption("stdlib"):  # asyncio's own transports sometimes fail in __del__
        config.addinivalue_line("filterwarnings", "error::pytest.PytestUnraisableExceptionWarning")
    config.addinivalue_line("filterwarnings", "error::pytest.PytestUnhandledThreadExceptionWarning")
    # What is tested are this loop's transports, whatever is installed.
    flexsc_loop.keep_transports()


def chosen_ways(config: pytest.Config, *, one: bool = False) -> list[str]:
    if config.getoption("stdlib"):
        return ["stdlib"]
    given = config.getoption("way")
    if one:
        return (given or ["auto"])[:1]
    return given or [name for name, way in WAYS.items() if way.ours and name != "auto" and not way.restless_hands]


def is_meant(way: Way, pages: str | None = None, threads: str | None = None) -> bool:
    """Whether a test whose mark `only` has these arguments is for this way, or for asyncio's loop."""
    served = "own" if way.threads == "off" else "syscall"
    return not way.ours or (pages in (None, way.pages) and threads in (None, served))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "way" in metafunc.fixturenames:
        brief = metafunc.config.getoption("brief") or metafunc.config.getoption("spread")
        one = metafunc.definition.get_closest_marker("one_way") is not None
        one = one or (brief and "ecosystem" in metafunc.definition.path.parts)
        if only := metafunc.definition.get_closest_marker("only"):
            ways = [name for name in chosen_ways(metafunc.config) if is_meant(WAYS[name], **only.kwargs)]
            ways = ways[:1] if one else ways
        else:
            ways = chosen_ways(metafunc.config, one=one)
        if metafunc.config.getoption("spread") and ways:
            # The same one each time.
            ways = [ways[chance(metafunc.definition.nodeid) % len(ways)]]
        metafunc.parametrize("way", ways, indirect=True)


def pytest_collection_finish() -> None:
    """What is there by now, thousands of tests, stays to the end: no collection has to look at it again."""
    gc.collect()
    gc.freeze()


def chance(name: str) -> int:
    """A number for a test that is the same in each run, and in each process of a run."""
    return zlib.crc32(name.encode())


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("spread"):
        # Of a soak one set of arguments, the same each time.
        chosen: dict[str, pytest.Item] = {}
        for item in items:
            if item.get_closest_marker("soak"):
                name = item.nodeid.partition("[")[0]
                chosen[name] = min(chosen.get(name, item), item, key=lambda one: chance(one.nodeid))
        left = [item for item in items if chosen.get(item.nodeid.partition("[")[0], item) is not item]
        config.hook.pytest_deselected(items=left)
        items[:] = [item for item in items if item not in left]
    if "stdlib" not in chosen_ways(config):
        return
    skip = pytest.mark.skip(reason="not a part of asyncio's own loop")
    for item in items:
        if item.get_closest_marker("ours"):
            item.add_marker(skip)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Coroutine tests that ask for `loop` run in it."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj) or "loop" not in pyfuncitem.funcargs:
        return None
    if pyfuncitem.get_closest_marker("asyncio"):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    mark = pyfuncitem.get_closest_marker("timeout")
    limit = mark.args[0] - 5 if mark and mark.args else 30
    loop = pyfuncitem.funcargs["loop"]
    loop.run_until_complete(asyncio.wait_for(pyfuncitem.obj(**arguments), limit))
    if not pyfuncitem.get_closest_marker("restless"):
        complaint = restless(loop)  # with all the connections that the test has left open
        assert not complaint, complaint
    return True


hear_signals()


@pytest.fixture
def way(request: pytest.FixtureRequest) -> Way:
    chosen = WAYS[request.param]
    if chosen.pages == "kernel" and io_uring_blocked():
        pytest.skip("io_uring is blocked on this machine")
    return chosen


@pytest.fixture
def soak(request: pytest.FixtureRequest) -> bool:
    return request.config.getoption("soak")


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """Where a test's chance begins; printed, so that pytest shows it with a failure."""
    seed = request.config.getoption("seed") or random.SystemRandom().randrange(1, 1 << 32)
    print(f"seed {seed}")
    return seed


@pytest.fixture(autouse=True)
def leaks() -> Iterator[None]:
    """Descriptors and threads must be the same after the test as before."""
    fds, threads = open_fds(), thread_names()
    asyncio.set_event_loop(None)
    yield
    end = time.monotonic() + 3
    while True:
        more_fds = {fd: what for fd, what in open_fds().items() if fds.get(fd) != what}
        more_threads = {tid: name for tid, name in thread_names().items() if tid not in threads}
        if not more_fds and not more_threads:
            return
        if time.monotonic() > end:
            break
        # The kernel ends a poller when it finds the time to; all else may wait for its garbage to be collected.
        if more_fds or any(not name.startswith("iou-sqp-") for name in more_threads.values()):
            gc.collect()
        time.sleep(0.005)
    pytest.fail(f"leaked descriptors {more_fds}, threads {more_threads}")


@pytest.fixture
def errors() -> list[dict[str, Any]]:
    """What reached the loop's exception handler; a test that expects something empties it."""
    return []


@pytest.fixture
def new_loop(way: Way, leaks: None, errors: list[dict[str, Any]]) -> Iterator[Callable[..., Any]]:
    """A factory of loops of this way; they are checked and closed after the test."""
    made: list[tuple[asyncio.AbstractEventLoop, int | None]] = []

    def make(*, fresh: bool = False, **sizes: int) -> asyncio.AbstractEventLoop:
        loop = way.new_loop(**sizes)
        loop.set_exception_handler(lambda _, context: errors.append(context))
        if not fresh:
            loop.run_until_complete(turns())
        made.append((loop, loop.stats()["in_flight"] if way.ours and not fresh else None))
        return loop

    yield make
    complaints = [complaint for loop, idle in made for complaint in finish(loop, idle)]
    complaints += [f"exception handler called: {context}" for context in errors]
    assert not complaints, "\n".join(complaints)


@pytest.fixture
def loop(new_loop: Callable[..., Any]) -> asyncio.AbstractEventLoop:
    return new_loop()


def finish(loop: asyncio.AbstractEventLoop, idle: int | None) -> list[str]:
    """Close `loop`; say what it still held.  `idle`: its operations in flight when it was new."""
    if loop.is_closed():
        return []
    complaints = []
    tasks = asyncio.all_tasks(loop)
    if tasks:
        complaints.append(f"tasks left: {tasks}")
        for task in tasks:
            task.cancel()
        loop.run_until_complete(asyncio.wait(tasks, timeout=2))
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.run_until_complete(loop.shutdown_default_executor())
    if idle is not None:
        left, end = None, 0.0
        while True:
            loop.run_until_complete(asyncio.sleep(0.001))
            stats = loop.stats()
            if stats["in_flight"] <= idle and stats["connections"] == 0:
                break
            if left != (left := (stats["in_flight"], stats["connections"])):
                end = time.monotonic() + 3  # however long a thousand take on a busy machine: what stays is a leak
            if time.monotonic() > end:
                complaints.append(f"in flight before: {idle}; after: {stats}")
                break
            gc.collect()
        complaints += filter(None, [restless(loop)])
    loop.close()
    return complaints


@pytest.fixture(params=["tcp", "unix"])
def kind(request: pytest.FixtureRequest) -> str:
    """Which sort of stream socket `connect` makes."""
    return request.param


@pytest.fixture
def connect(
    loop: asyncio.AbstractEventLoop, request: pytest.FixtureRequest
) -> Iterator[Callable[..., Awaitable[tuple[Any, Any, Peer]]]]:
    """Makes (transport, protocol, far end) of one connection; all are gone after the test."""
    kind = request.getfixturevalue("kind") if "kind" in request.fixturenames else "tcp"
    transports: list[Any] = []
    peers: list[Peer] = []

    async def make(factory: Callable[[], Any] = Recorder, *, prepare: Any = None, before: bytes = b"") -> Any:
        ours, theirs = tcp_pair() if kind == "tcp" else unix_pair()
        if prepare:
            prepare(ours)
            prepare(theirs)
        peer = Peer(theirs)
        peers.append(peer)
        if before:
            peer.send_now(before)
        ours.setblocking(False)
        transport, protocol = await loop.connect_accepted_socket(factory, ours)
        transports.append(transport)
        return transport, protocol, peer

    yield make
    for peer in peers:
        peer.close()
    if not loop.is_closed():
        for transport in transports:
            if getattr(transport, "_loop", loop) is not None:  # asyncio's abort() fails after the end
                transport.abort()
        loop.run_until_complete(turns(5))


@pytest.fixture
def endpoint(loop: asyncio.AbstractEventLoop) -> Iterator[Callable[..., Awaitable[tuple[Any, Any]]]]:
    """Opens datagram endpoints; all are gone after the test."""
    transports: list[Any] = []

    async def make(factory: Callable[[], Any] = Talker, **options: Any) -> tuple[Any, Any]:
        if not options:
            options = {"local_addr": LOCAL}
        transport, protocol = await loop.create_datagram_endpoint(factory, **options)
        transports.append(transport)
        return transport, protocol

    yield make
    if not loop.is_closed():
        for transport in transports:
            if not transport.is_closing() or getattr(transport, "_loop", loop) is not None:
                transport.abort()
        loop.run_until_complete(turns(8))


@pytest.fixture
def plain() -> Iterator[socket.socket]:
    """A plain datagram socket to talk to."""
    with udp_socket(room=4 << 20) as sock:
        yield sock


@pytest.fixture
def gathering(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loops send what a turn has written together, as busy ones do: for `usefixtures`, which comes before `loop`."""
    monkeypatch.setenv("FLEXSC_WRITES", "turn")


@pytest.fixture
def no_flexsc_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("FLEXSC_"):
            monkeypatch.delenv(name)


@pytest.fixture
def pair(kind: str) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two non-blocking sockets that are connected."""
    ours, theirs = tcp_pair() if kind == "tcp" else unix_pair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        yield ours, theirs


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """A non-blocking socket that listens."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        sock.setblocking(False)
        yield sock


@pytest.fixture(params=["pipe", "fifo", "socket", "terminal"])
def ends(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Any, Any]]:
    """The two ends of every kind of pipe, blocking; what a test has not closed is closed afterwards."""
    reading, writing = make_pair(request.param, tmp_path)
    os.set_blocking(reading.fileno(), True)
    yield reading, writing
    reading.close()
    writing.close()


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[tuple[Any, Any]]:
    """The two ends of a pipe, blocking."""
    reading, writing = make_pair("pipe", tmp_path)
    yield reading, writing
    reading.close()
    writing.close()


@pytest.fixture
def make_file(tmp_path: Path) -> Iterator[Callable[..., tuple[Any, bytes]]]:
    """Makes an open file of so many bytes; returns it and its content."""
    opened: list[Any] = []

    def make(size: int, **options: Any) -> tuple[Any, bytes]:
        data = payload(size)
        path = tmp_path / f"{len(opened)}"
        path.write_bytes(data)
        opened.append(path.open("rb", **options))
        return opened[-1], data

    yield make
    for file in opened:
        file.close()


@pytest.fixture
def quick_pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two sockets that are connected and do not block; nobody closes them before the test's end but the test."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        yield ours, theirs


@pytest.fixture
def quick_pipe() -> Iterator[tuple[int, int]]:
    """The descriptors of a pipe that do not block, to read from and to write to; the test may close them."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    os.set_blocking(writing, False)
    yield reading, writing
    for fd in (reading, writing):
        try:
            os.close(fd)
        except OSError:
            continue


# ---- files


@pytest.fixture(params=["/var/tmp", "/dev/shm"])
def folder(request: pytest.FixtureRequest) -> Iterator[str]:
    """The path of a folder, on a disk and in memory, where all is done at once, which hides what waits."""
    if not os.access(request.param, os.W_OK):
        pytest.skip(f"{request.param} can't be written to")
    with tempfile.TemporaryDirectory(dir=request.param) as name:
        yield name


@pytest.fixture
def files(loop: asyncio.AbstractEventLoop) -> Any:
    """The loop's calls on files."""
    return loop._files  # type: ignore[attr-defined]


@pytest.fixture
def fifo(tmp_path: Path) -> str:
    """The path of a FIFO that nobody has opened."""
    path = str(tmp_path / "fifo")
    os.mkfifo(path)
    return path
