"""The workloads as servers.  No line in them knows the loop: ``python -m benchmarks.servers`` chooses it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

Starter = Callable[[str, int], Awaitable[int]]
"""Starts listening on (host, port) in the running loop and returns the port; port 0 lets the kernel choose."""


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

    async def hello_tls(host: str, port: int) -> int:
        from benchmarks.servers import tls, web

        return await web.start_hello(host, port, tls.server_context())

    async def echo_tls(host: str, port: int) -> int:
        from benchmarks.servers import tls

        return await echo.start_protocol(host, port, tls.server_context())

    return {
        "hello": hello,
        "hello-tls": hello_tls,
        "echo-tls": echo_tls,
        "app": app,
        "static": static,
        "websocket": websocket,
        "echo": echo.start_protocol,
        "streams": echo.start_streams,
        "sock": echo.start_sock,
        "udp": echo.start_udp,
    }
