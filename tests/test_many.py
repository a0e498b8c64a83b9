"""Several loops in one process."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
from typing import Any

import pytest
from support import Echo, Way

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
    asyncio.run(main(0))
