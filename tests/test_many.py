"""Several loops in one process."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
from typing import Any

import pytest
from support import Echo, Way, thread_names

import flexsc_loop

pytestmark = pytest.mark.ours


def run_many(way: Way, factory: Any, **options: Any) -> list[Any]:
    return flexsc_loop.run_many(factory, pages=way.pages, threads=way.threads, **options)


def test_each_in_a_loop_and_a_thread_of_its_own(way: Way) -> None:
    together = threading.Barrier(3)

    async def main(number: int) -> tuple[int, int, int]:
        await asyncio.get_running_loop().run_in_executor(None, together.wait)
        return number, id(asyncio.get_running_loop()), threading.get_ident()

    found = run_many(way, main, loops=3)
    assert [number for number, _, _ in found] == [0, 1, 2]
    assert len({loop for _, loop, _ in found}) == len({thread for _, _, thread in found}) == 3


def test_one_for_each_cpu_unless_said_otherwise(way: Way) -> None:
    async def main(number: int) -> int:
        return number

    assert run_many(way, main) == list(range(len(os.sched_getaffinity(0))))


def test_they_share_an_address(way: Way) -> None:
    """Whoever has accepted a connection serves it, and all are served."""
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        holder.bind(("127.0.0.1", 0))
        port = holder.getsockname()[1]
        listening = threading.Barrier(3)

        async def main(number: int) -> int:
            loop = asyncio.get_running_loop()
            if number == 2:
                await loop.run_in_executor(None, listening.wait)
                for _ in range(40):
                    reader, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.write(b"hello" * 1000)
                    assert await reader.readexactly(5000) == b"hello" * 1000
                    writer.close()
                    await writer.wait_closed()
                for other, ended in over:
                    other.call_soon_threadsafe(ended.set)
                return 0
            ended = asyncio.Event()
            over.append((loop, ended))
            served = 0

            class Counting(Echo):
                def connection_made(self, transport: Any) -> None:
                    nonlocal served
                    served += 1
                    super().connection_made(transport)

            async with await loop.create_server(Counting, "127.0.0.1", port, reuse_port=True):
                await loop.run_in_executor(None, listening.wait)
                await ended.wait()
            return served

        over: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []
        served = run_many(way, main, loops=3)
    assert sum(served) == 40


def test_the_first_failure_ends_all(way: Way) -> None:
    ended = []

    async def main(number: int) -> None:
        if number == 1:
            raise ZeroDivisionError("loop 1")
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(number)

    with pytest.raises(ZeroDivisionError, match="loop 1"):
        run_many(way, main, loops=2)
    assert ended in ([], [0])  # 0 may not even have begun


def test_what_cannot_be_opened_is_raised() -> None:
    async def main(number: int) -> None:
        await asyncio.Event().wait()

    with pytest.raises(ValueError, match="pages"):
        flexsc_loop.run_many(main, loops=2, pages="none")


def test_a_factory_that_fails(way: Way) -> None:
    def factory(number: int) -> Any:
        raise LookupError(number)

    with pytest.raises(LookupError):
        run_many(way, factory, loops=1)


def test_an_interrupt_ends_all(way: Way) -> None:
    def interrupt() -> None:
        os.kill(os.getpid(), signal.SIGINT)

    async def main(number: int) -> None:
        loop = asyncio.get_running_loop()
        if number == 0:
            loop.call_later(0.05, interrupt)
        await asyncio.Event().wait()

    with pytest.raises(KeyboardInterrupt):
        run_many(way, main, loops=2)


def test_misuse() -> None:
    async def main(number: int) -> None:
        with pytest.raises(RuntimeError, match="running event loop"):
            flexsc_loop.run_many(main, loops=1)

    with pytest.raises(ValueError, match="at least 1"):
        flexsc_loop.run_many(main, loops=0)
    with pytest.raises(TypeError, match="loops='2' must be a number"):
        flexsc_loop.run_many(main, loops="2")
    with pytest.raises(TypeError, match="needs a function"):
        flexsc_loop.run_many("main")
    asyncio.run(main(0))


async def echoes() -> Any:
    """A function that has something echoed on this loop."""
    loop = asyncio.get_running_loop()
    mine, its = socket.socketpair()
    await loop.create_connection(Echo, sock=its)
    reader, writer = await asyncio.open_connection(sock=mine)

    async def echo() -> None:
        writer.write(b"hello" * 100)
        assert await reader.readexactly(500) == b"hello" * 100

    return echo


def run_in_thread(way: Way, main: Any, failures: list[BaseException], closed: threading.Event) -> threading.Thread:
    def run() -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: new_loop(way)) as runner:
                runner.run(main())
        except BaseException as error:  # told by whoever waits for the thread
            failures.append(error)
        closed.set()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def new_loop(way: Way) -> Any:
    return flexsc_loop.new_event_loop(pages=way.pages, threads=way.threads)


@pytest.mark.parametrize("order", [(0, 1), (1, 0), (2, 0, 3, 1), (3, 2, 1, 0)], ids=str)
def test_their_syscall_threads_have_one_cpu_and_they_end_in_any_order(way: Way, order: tuple[int, ...]) -> None:
    """Those that go on are served all the same.  Of kernel pages, one poller serves all on a CPU."""
    closed = [threading.Event() for _ in order]
    all_run = threading.Barrier(len(order))
    pollers: list[int] = []
    failures: list[BaseException] = []

    async def main(number: int) -> None:
        echo = await echoes()
        await echo()
        await asyncio.get_running_loop().run_in_executor(None, all_run.wait)
        pollers.append(sum(name.startswith("iou-sqp-") for name in thread_names().values()))
        await asyncio.get_running_loop().run_in_executor(None, all_run.wait)
        for earlier in order[: order.index(number)]:
            while not closed[earlier].is_set():
                await echo()
        for _ in range(20):
            await echo()

    threads = [run_in_thread(way, lambda number=number: main(number), failures, closed[number])
               for number in range(len(order))]
    for thread in threads:
        thread.join(30)
    assert failures == []
    if way.name == "kernel-sqpoll":
        assert set(pollers) == {1}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_child_has_a_syscall_thread_of_its_own(way: Way) -> None:
    """It shares nothing with the loops of its parent, which go on."""
    failures: list[BaseException] = []
    ends, runs = threading.Event(), threading.Barrier(3)

    async def main() -> None:
        echo = await echoes()
        await echo()
        await asyncio.get_running_loop().run_in_executor(None, runs.wait)
        while not ends.is_set():
            await echo()

    async def child() -> None:
        echo = await echoes()
        for _ in range(20):
            await echo()

    threads = [run_in_thread(way, main, failures, threading.Event()) for _ in range(2)]
    runs.wait(30)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            with asyncio.Runner(loop_factory=lambda: new_loop(way)) as runner:
                runner.run(child())
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    ends.set()
    for thread in threads:
        thread.join(30)
    assert failures == []
