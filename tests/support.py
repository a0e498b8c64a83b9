"""What several test modules share: the ways to run, recording protocols, peers, child processes."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent

#: Sizes around every limit of pages, pool buffers and direct reads.
SIZES = [
    1,
    4095,
    4096,
    4097,
    16 * 1024 - 1,
    16 * 1024,
    16 * 1024 + 1,
    64 * 1024 - 1,
    64 * 1024,
    64 * 1024 + 1,
    256 * 1024 - 1,
    256 * 1024,
    256 * 1024 + 1,
    1024 * 1024,
    8 * 1024 * 1024,
]


def spare_cpu() -> int:
    """The CPU that pinned syscall threads of the tests use."""
    return max(os.sched_getaffinity(0))


@dataclass(frozen=True)
class Way:
    """One way to run a loop: which page, served by whom; or the stdlib's loop."""

    name: str
    pages: str | None = None
    threads: str | None = None
    restless_hands: bool = False  # the page changes hands again and again

    @property
    def ours(self) -> bool:
        return self.pages is not None

    @property
    def writelines_works(self) -> bool:
        """Whether writelines() keeps its promises; asyncio's of Python 3.12 does not pause and may stop sending."""
        return self.ours or sys.version_info < (3, 12)

    def new_loop(self, **sizes: int) -> asyncio.AbstractEventLoop:
        """A new loop of this way; `sizes` are Loop's knobs for tiny resources."""
        if not self.ours:
            return asyncio.new_event_loop()
        import flexsc_loop

        if sizes:
            loop = flexsc_loop.Loop(pages=self.pages, threads=self.threads, **sizes)
        else:
            loop = flexsc_loop.new_event_loop(pages=self.pages, threads=self.threads)
        if self.restless_hands:
            loop.changer = HandChanger(loop)
            loop._steer(loop.changer)
        return loop

    def prelude(self) -> str:
        """Source lines that give a child process `new_loop()` and `run(main)`."""
        if not self.ours:
            return "import asyncio\nnew_loop = asyncio.new_event_loop\nrun = asyncio.run\n"
        return textwrap.dedent(
            f"""
            import asyncio, functools, flexsc_loop
            new_loop = functools.partial(flexsc_loop.new_event_loop, pages={self.pages!r}, threads={self.threads!r})
            run = functools.partial(flexsc_loop.run, pages={self.pages!r}, threads={self.threads!r})
            """
        )

    def environment(self) -> dict[str, str]:
        """The same choice as environment variables."""
        return {"FLEXSC_PAGES": self.pages, "FLEXSC_THREADS": self.threads} if self.ours else {}


class HandChanger:
    """Decides anew every millisecond, in place of the scheduler, that somebody else is to serve the page."""

    steers = True
    late_look_ns = 3_600_000_000_000

    def __init__(self, loop: Any, every_ns: int = 1_000_000) -> None:
        self.loop, self.every_ns = loop, every_ns
        self.changes = 0
        self.longest = 0.0

    def look(self, *_signals: object) -> int:
        self.changes += 1
        began = time.perf_counter()
        self.loop.page.change_hands(spare_cpu() if self.changes % 2 else None)
        if self.changes % 6 == 0:
            self.loop.page.let_go()
        self.longest = max(self.longest, time.perf_counter() - began)
        return self.every_ns


WAYS = {
    "auto": Way("auto", "auto", "auto"),
    "kernel-own": Way("kernel-own", "kernel", "off"),
    "kernel-sqpoll": Way("kernel-sqpoll", "kernel", str(spare_cpu())),
    "user-own": Way("user-own", "user", "off"),
    "user-pinned": Way("user-pinned", "user", str(spare_cpu())),
    "user-changing": Way("user-changing", "user", "off", restless_hands=True),
    "kernel-changing": Way("kernel-changing", "kernel", "auto", restless_hands=True),
    "stdlib": Way("stdlib"),
}


def open_fds() -> dict[int, str]:
    """Every open descriptor of this process and what it leads to."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:  # the listing's own descriptor
            continue
    return found


def thread_names() -> dict[int, str]:
    """Every kernel-visible thread; idle workers, which the kernel keeps for seconds, are left out."""
    found = {}
    for tid in os.listdir("/proc/self/task"):
        try:
            name = Path(f"/proc/self/task/{tid}/comm").read_text().strip()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if not name.startswith("iou-wrk"):
            found[int(tid)] = name
    return found


def eventually(predicate: Callable[[], Any], seconds: float = 5.0) -> bool:
    """True as soon as `predicate()` is, looked at again and again from outside any loop."""
    end = time.monotonic() + seconds
    while not predicate():
        if time.monotonic() > end:
            return False
        time.sleep(0.005)
    return True


async def turns(count: int = 3) -> None:
    """Let the loop go round `count` times."""
    for _ in range(count):
        await asyncio.sleep(0)


async def settle(predicate: Callable[[], Any], seconds: float = 10.0) -> None:
    """Wait inside the loop for something that no event reports (a counter of the kernel, say)."""
    end = time.monotonic() + seconds
    while not predicate():
        assert time.monotonic() < end, "did not come true in time"
        await asyncio.sleep(0.005)


#: What counts as sleep: in so many seconds so few turns and system calls, and less than half of them on a CPU.  A loop
#: whose poller gets no CPU looks some times, ever more rarely, whether it has had some as a run ends, and each time
#: at who the user is, which takes six calls: less than one in a millisecond, as long as that lasts.
WINDOW, TURNS, CALLS = 0.002, 10, 20
#: To look wakes the syscall thread, which then looks for work for some milliseconds: the next window is twice as long.
LONGEST_WINDOW = 0.1


def restless(loop: Any, seconds: float = 2.0) -> str | None:
    """What keeps a loop that has nothing to do from sleeping; None as soon as it and its syscall thread sleep."""
    if loop.is_closed() or not hasattr(loop, "stats") or loop.is_running():
        return None
    if hasattr(loop, "changer"):
        loop._steer(None)  # it has something to do as long as its page changes hands
    end = time.monotonic() + seconds
    window = WINDOW
    while True:
        before, cpu, start = loop.stats(), time.thread_time_ns(), time.monotonic_ns()
        loop.run_until_complete(asyncio.sleep(window))
        window = min(2 * window, LONGEST_WINDOW)
        after, cpu, span = loop.stats(), time.thread_time_ns() - cpu, time.monotonic_ns() - start
        made = {key: after[key] - before[key] for key in ("turns", "syscalls", "thread_cpu_ns")}
        few = max(CALLS, span // 1_000_000)
        if made["turns"] <= TURNS and made["syscalls"] <= few and max(cpu, made["thread_cpu_ns"]) < span / 2:
            return None
        if time.monotonic() > end:
            return f"the loop does not sleep: in {span} ns {made}, and {cpu} ns of its thread's CPU time"


async def sleeps(loop: asyncio.AbstractEventLoop, seconds: float = 0.15) -> None:
    """Assert that the loop has nothing to do: a busy one would go round thousands of times."""
    begun, cpu = turns_of(loop), time.process_time()
    await asyncio.sleep(seconds)
    if begun is None:
        assert time.process_time() - cpu < 0.7 * seconds
    else:
        assert turns_of(loop) - begun < 20


def turns_of(loop: Any) -> int | None:
    """How often the loop has gone round; None if it does not count."""
    return loop.stats()["turns"] if hasattr(loop, "stats") else None


def hear_signals() -> None:
    """Undo what keeps a program from them: the tests of signals need what one in the foreground has."""
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # by nohup(1)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # by shells, which start background jobs so
        signal.signal(signal.SIGINT, signal.default_int_handler)


def name_of(*values: object) -> str:
    """What to call a test with these arguments: short, and the same in each process, whatever lies at which address."""
    return re.sub(r" at 0x\w+", "", " ".join(map(str, values))).replace("\0", "0")[:60]


def payload(size: int, seed: int = 0) -> bytes:
    """`size` bytes that differ everywhere, the same for the same seed."""
    return random.Random(size * 1_000_003 + seed).randbytes(size)


def digest(data: bytes | bytearray | memoryview) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def run_again(loop: asyncio.AbstractEventLoop, coroutine: Any, exit: BaseException) -> int:
    """Run `loop` until the coroutine has ended, again whenever `exit` has left it; returns how often that was."""
    task, left = loop.create_task(coroutine), 0
    while not task.done():
        try:
            loop.run_until_complete(asyncio.wait([task], timeout=10))
        except type(exit) as error:
            assert error is exit
            left += 1
        else:
            assert task.done(), "the program waits for ever"
    task.result()
    return left


class Recorder(asyncio.Protocol):
    """Writes down what the transport calls, in order."""

    def __init__(self, *, keep_open: bool = False, pause_at_once: bool = False) -> None:
        self.transport: Any = None
        self.calls: list[str] = []
        self.chunks: list[bytes] = []
        self.exc: BaseException | None = None
        self.keep_open = keep_open
        self.pause_at_once = pause_at_once
        self._waiters: list[asyncio.Future[None]] = []

    @property
    def data(self) -> bytes:
        return b"".join(self.chunks)

    @property
    def received(self) -> int:
        return sum(map(len, self.chunks))

    def _note(self, name: str) -> None:
        if name != "data" or not self.calls or self.calls[-1] != "data":
            self.calls.append(name)
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def until(self, predicate: Callable[[], Any]) -> None:
        """Wait until `predicate()` is true, looking after each call of the transport."""
        while not predicate():
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter

    async def until_called(self, name: str) -> None:
        await self.until(lambda: name in self.calls)

    async def until_received(self, count: int) -> None:
        await self.until(lambda: self.received >= count)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        if self.pause_at_once:
            self.transport.pause_reading()
        self._note("made")

    def data_received(self, data: bytes) -> None:
        assert isinstance(data, bytes) and data
        self.chunks.append(data)
        self._note("data")

    def eof_received(self) -> bool:
        self._note("eof")
        return self.keep_open

    def connection_lost(self, exc: BaseException | None) -> None:
        self.exc = exc
        self._note("lost")

    def pause_writing(self) -> None:
        self._note("pause")

    def resume_writing(self) -> None:
        self._note("resume")


class Leaving:
    """Before a protocol that notes its calls: ends the program once, in the call of that name."""

    def __init__(self, name: str, exit: BaseException) -> None:
        super().__init__()
        self.name: str | None = name
        self.exit = exit

    def _note(self, name: str) -> None:
        super()._note(name)  # type: ignore[misc]
        if name == self.name:
            self.name = None
            raise self.exit


class Echo(asyncio.Protocol):
    """Sends everything back; stops reading while the peer does not take it.  Sets `over` at the connection's end."""

    transport: Any = None

    def __init__(self, over: asyncio.Event | None = None) -> None:
        self.over = over

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)

    def connection_lost(self, exc: BaseException | None) -> None:
        if self.over is not None:
            self.over.set()

    def pause_writing(self) -> None:
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        self.transport.resume_reading()


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """Two ends of one TCP connection, blocking, with a time limit."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname(), timeout=20)
        theirs, _ = listener.accept()
    theirs.settimeout(20)
    ours.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    theirs.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return ours, theirs


def unix_pair() -> tuple[socket.socket, socket.socket]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    ours.settimeout(20)
    theirs.settimeout(20)
    return ours, theirs


async def receive(loop: asyncio.AbstractEventLoop, sock: socket.socket, count: int) -> bytes:
    """Exactly `count` bytes, by sock_recv."""
    parts = []
    while count:
        part = await loop.sock_recv(sock, min(count, 1 << 18))
        assert part, "the stream ended early"
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def shrink(sock: socket.socket) -> None:
    """Make the kernel hold little for this socket; much less and TCP crawls for want of a window."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32 * 1024)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32 * 1024)


def fill(sock: socket.socket) -> int:
    """Send until the kernel takes no more; returns how many bytes that was."""
    total = 0
    while True:
        try:
            total += sock.send(b"x" * 65536)
        except BlockingIOError:
            return total


class Peer:
    """The far end of a connection: a blocking socket, used from worker threads only."""

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(20)
        self.sock = sock

    def close(self) -> None:
        self.sock.close()

    def reset(self) -> None:
        """Close with RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.sock.close()

    def send_now(self, data: bytes) -> None:
        """Send what surely fits into the kernel's buffers."""
        self.sock.sendall(data)

    async def send(self, data: bytes) -> None:
        await asyncio.to_thread(self.sock.sendall, data)

    async def recv(self, count: int) -> bytes:
        """Exactly `count` bytes; fewer only at the end of the stream."""
        return await asyncio.to_thread(self.recv_blocking, count)

    def recv_blocking(self, count: int) -> bytes:
        parts = []
        while count:
            part = self.sock.recv(min(count, 1 << 20))
            if not part:
                break
            parts.append(part)
            count -= len(part)
        return b"".join(parts)

    async def recv_all(self) -> bytes:
        return await self.recv(1 << 40)


@dataclass
class Child:
    """How a child process ended."""

    code: int
    out: str
    err: str


def child_environment(extra: dict[str, str] | None = None) -> dict[str, str]:
    env = {k: v for k, v in os.environ.items() if not k.startswith("FLEXSC_") and k != "PYTHONASYNCIODEBUG"}
    paths = [str(ROOT), str(ROOT / "tests"), env.get("PYTHONPATH", "")]
    env["PYTHONPATH"] = os.pathsep.join(p for p in paths if p)
    env["PYTHONFAULTHANDLER"] = "1"
    env.update(extra or {})
    return env


def run_python(source: str, *args: str, env: dict[str, str] | None = None, timeout: float = 30) -> Child:
    """Run `source` in a fresh interpreter to its end."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(source), *args],
        env=child_environment(env),
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    return Child(done.returncode, done.stdout, done.stderr)


class Running:
    """A fresh interpreter that runs `source` and tells by lines on stdout how far it is."""

    def __init__(self, source: str, *args: str, env: dict[str, str] | None = None) -> None:
        self.errors = tempfile.TemporaryFile("w+")  # a pipe that nobody empties would stop the child
        self.process = subprocess.Popen(
            [sys.executable, "-u", "-c", textwrap.dedent(source), *args],
            env=child_environment(env),
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
        )
        self._guard = threading.Timer(40, self.process.kill)
        self._guard.start()

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        self._guard.cancel()
        self._guard.join()
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()
        self.errors.close()

    def stderr(self) -> str:
        self.errors.seek(0)
        return self.errors.read()

    def line(self) -> str:
        text = self.process.stdout.readline()
        if not text:
            raise AssertionError(f"child ended early: {self.process.wait()}\n{self.stderr()}")
        return text.strip()

    def signal(self, number: int = signal.SIGINT) -> None:
        self.process.send_signal(number)

    def end(self, timeout: float = 20) -> Child:
        out, _ = self.process.communicate(timeout=timeout)
        return Child(self.process.returncode, out, self.stderr())


def cpu_list(text: str) -> Iterator[int]:
    """The CPUs that a kernel list such as `0-2,5` names."""
    for part in text.strip().split(","):
        low, _, high = part.partition("-")
        yield from range(int(low), int(high or low) + 1)


async def echo(size: int = 300_000) -> None:
    """A server, a client, one large message there and back; no connection is left."""
    loop = asyncio.get_running_loop()
    over = asyncio.Event()
    server = await loop.create_server(lambda: Echo(over), "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    data = payload(size)
    writer.write(data)
    assert digest(await reader.readexactly(size)) == digest(data)
    writer.close()
    await writer.wait_closed()
    # Python 3.11's Server.wait_closed() waits for no connection.
    await over.wait()
    server.close()
    await server.wait_closed()


def echo_in_a_new_loop(name: str) -> None:
    """What a child process or a thread does: make a loop of the way `name`, use it, close it."""
    loop = WAYS[name].new_loop()
    try:
        loop.run_until_complete(echo())
    finally:
        loop.close()


#: What the programs of test_processes and test_exit begin with.
PROGRAM = """
import os, sys, socket, threading, time

class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
    def data_received(self, data):
        self.transport.write(data)

async def echo(size=300_000):
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Echo, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    data = bytes(range(250)) * (size // 250)
    writer.write(data)
    assert await reader.readexactly(len(data)) == data
    writer.close()
    await writer.wait_closed()
    server.close()
    await server.wait_closed()

def code_of(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
"""


def check_program(way: Way, source: str, *, code: int = 0, out: str | None = None, timeout: float = 40) -> Child:
    """Run `source` after PROGRAM; it must end with `code` and without a crash."""
    end = run_python(f"{way.prelude()}\n{PROGRAM}\n{source}", timeout=timeout)
    assert end.code == code, f"{end.code}\n{end.out}\n{end.err}"
    for trouble in ("Fatal Python error", "Segmentation", "Exception ignored", "Error in sys.excepthook"):
        assert trouble not in end.err, end.err
    if out is not None:
        assert end.out == out, end.err
    return end
