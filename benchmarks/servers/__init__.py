"""The workloads as servers.  No line in them knows the loop: ``python -m benchmarks.servers`` chooses it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

Starter = Callable[[str, int], Awaitable[int]]
"""Starts listening on (host, port) in the running loop and returns the port; port 0 lets the kernel choose."""

Client = Callable[[int, int, float, float], Awaitable[dict[str, Any]]]
"""Asks the database on (port) over (connections) for (seconds), after a warm-up of (seconds); returns the figures."""


def clients() -> dict[str, Client]:
    """Programs that ask a database instead of serving, by name."""

    def client(name: str) -> Client:
        async def measure(port: int, connections: int, seconds: float, warmup: float) -> dict[str, Any]:
            from benchmarks.servers import queries

            connect = getattr(queries, f"connect_{name}")
            return await queries.measure(connect, port, connections, seconds, warmup)

        return measure

    return {"asyncpg": client("asyncpg"), "aiomysql": client("aiomysql")}


def starters() -> dict[str, Starter]:
    """Every server by name.  Imports them on demand: the echo servers must not carry aiohttp in their memory."""
    from benchmarks.servers import echo

    async def hello(host: str, port: int) -> int:
        from benchmarks.servers import web

        return await web.start_hello(host, port)

    async def websocket(host: str, port: int) -> int:
        from benchmarks.servers import web

        return await web.start_websocket(host, port)

    async def static(host: str, port: int) -> int:
        from benchmarks.servers import web

        return await web.start_static(host, port)

    async def app(host: str, port: int) -> int:
        from benchmarks.servers import web

        return await web.start_example(host, port)

    async def uvicorn(host: str, port: int) -> int:
        from benchmarks.servers import asgi

        return await asgi.start_hello(host, port)

    async def hello_tls(host: str, port: int) -> int:
        from benchmarks.servers import tls, web

        return await web.start_hello(host, port, tls.server_context())

    async def hello_aiofastnet(host: str, port: int) -> int:
        from benchmarks.servers import web

        return await web.start_hello_aiofastnet(host, port)

    async def hello_tls_aiofastnet(host: str, port: int) -> int:
        from benchmarks.servers import tls, web

        return await web.start_hello_aiofastnet(host, port, tls.server_context())

    async def echo_tls(host: str, port: int) -> int:
        from benchmarks.servers import tls

        return await echo.start_protocol(host, port, tls.server_context())

    return {
        "hello": hello,
        "hello-tls": hello_tls,
        "hello-aiofastnet": hello_aiofastnet,
        "hello-tls-aiofastnet": hello_tls_aiofastnet,
        "echo-tls": echo_tls,
        "uvicorn": uvicorn,
        "app": app,
        "static": static,
        "websocket": websocket,
        "echo": echo.start_protocol,
        "streams": echo.start_streams,
        "sock": echo.start_sock,
        "udp": echo.start_udp,
    }
