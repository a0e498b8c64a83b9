"""aiohttp servers: one route that returns a short text, a WebSocket echo, and the example application."""

from __future__ import annotations

import ssl
import tempfile
from pathlib import Path

from aiohttp import WSMsgType, web

_FOLDER = web.AppKey("folder", tempfile.TemporaryDirectory)


async def _serve(app: web.Application, host: str, port: int, context: ssl.SSLContext | None = None) -> int:
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, host, port, backlog=1024, ssl_context=context).start()
    return int(runner.addresses[0][1])


async def _hello(_request: web.Request) -> web.Response:
    return web.Response(text="Hello, world!")


def hello_app() -> web.Application:
    """One route that returns a short text."""
    app = web.Application()
    app.router.add_get("/", _hello)
    return app


async def start_hello(host: str, port: int, context: ssl.SSLContext | None = None) -> int:
    return await _serve(hello_app(), host, port, context)


async def _websocket(request: web.Request) -> web.WebSocketResponse:
    ws = web.WebSocketResponse()
    await ws.prepare(request)
    async for message in ws:
        if message.type is WSMsgType.BINARY:
            await ws.send_bytes(message.data)
        elif message.type is WSMsgType.TEXT:
            await ws.send_str(message.data)
    return ws


async def start_websocket(host: str, port: int) -> int:
    app = web.Application()
    app.router.add_get("/", _websocket)
    return await _serve(app, host, port)


STATIC_BYTES = (1024, 4096, 1 << 20)


async def start_static(host: str, port: int) -> int:
    """Static files named by their size in bytes."""
    folder = tempfile.TemporaryDirectory()
    for size in STATIC_BYTES:
        Path(folder.name, str(size)).write_bytes(bytes(range(256)) * (size // 256))
    app = web.Application()
    app.router.add_static("/", folder.name)
    app[_FOLDER] = folder
    return await _serve(app, host, port)


async def start_example(host: str, port: int) -> int:
    from examples.aiohttp_app import make_app

    return await _serve(make_app(), host, port)
