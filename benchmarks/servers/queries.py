"""Clients of databases.  Here the measured program asks: many connections, each with one query under way."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

from benchmarks.databases import DATABASE, PASSWORD, USER
from benchmarks.errors import BenchmarkError
from benchmarks.servers.figures import percentiles

HOST = "127.0.0.1"

Query = Callable[[], Awaitable[int]]
Connect = Callable[[AsyncExitStack, int], Awaitable[Query]]
"""Opens a connection to the database on a port; the stack closes it.  Returns what runs `select 1`."""


async def connect_asyncpg(stack: AsyncExitStack, port: int) -> Query:
    import asyncpg  # type: ignore[import-untyped]

    connection = await asyncpg.connect(
        host=HOST, port=port, user=USER, password=PASSWORD, database=DATABASE, ssl=False
    )
    stack.push_async_callback(connection.close)

    async def query() -> int:
        return int(await connection.fetchval("select 1"))

    return query


async def connect_aiomysql(stack: AsyncExitStack, port: int) -> Query:
    import aiomysql  # type: ignore[import-untyped]

    connection = await aiomysql.connect(host=HOST, port=port, user=USER, password=PASSWORD, db=DATABASE)
    stack.push_async_callback(connection.ensure_closed)
    cursor = await connection.cursor()
    stack.push_async_callback(cursor.close)

    async def query() -> int:
        await cursor.execute("select 1")
        (value,) = await cursor.fetchone()
        return int(value)

    return query


class Run:
    """Queries for a while; counts, latencies and CPU time within the window, which begins after the warm-up."""

    def __init__(self) -> None:
        self.ended = False
        self.latencies: list[int] = []
        self.total = 0

    def mark(self) -> tuple[int, int, int]:
        """The time, and the CPU time of this thread and of the process, in nanoseconds."""
        return time.perf_counter_ns(), time.thread_time_ns(), time.process_time_ns()

    async def client(self, query: Query) -> None:
        while not self.ended:
            started = time.perf_counter_ns()
            if await query() != 1:
                raise BenchmarkError("select 1 gave something else")
            self.latencies.append(time.perf_counter_ns() - started)

    async def window(self, seconds: float, warmup: float) -> dict[str, Any]:
        await asyncio.sleep(warmup)
        self.total = len(self.latencies)
        self.latencies = []
        before = self.mark()
        await asyncio.sleep(seconds)
        after = self.mark()
        seen = sorted(self.latencies)
        self.ended = True
        wall, thread, process = (end - start for start, end in zip(before, after, strict=True))
        return {"requests": len(seen), "rate": len(seen) / wall * 1e9, "server_main_ns": thread,
                "server_cpu_ns": process, "latency_us": percentiles(seen), "errors": {}}


async def measure(connect: Connect, port: int, connections: int, seconds: float, warmup: float) -> dict[str, Any]:
    """What the load generator would print of a server, of this program as a client."""
    async with AsyncExitStack() as stack:
        queries = [await connect(stack, port) for _ in range(connections)]
        run = Run()
        async with asyncio.TaskGroup() as group:
            clients = [group.create_task(run.client(query)) for query in queries]
            result = await run.window(seconds, warmup)
        assert all(client.done() for client in clients)
        return {**result, "total_requests": run.total + len(run.latencies)}
