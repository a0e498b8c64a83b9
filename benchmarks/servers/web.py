"""aiohttp servers: one route that returns a short text, a WebSocket echo, and the example application."""

from __future__ import annotations

import asyncio
import importlib
import ssl
import tempfile
from pathlib import Path

from aiohttp import WSMsgType, web, web_fileresponse, web_runner

from benchmarks.errors import BenchmarkError

# From 3.15 on aiohttp hands its connections to aiofastnet where that is installed; here each loop shows its own.
for _module in (web_fileresponse, web_runner):
    vars(_module)["aiofastnet"] = None

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


async def start_hello_aiofastnet(host: str, port: int, context: ssl.SSLContext | None = None) -> int:
    """The same, its connections being aiofastnet's on any loop: what aiohttp 3.15 does where that is installed."""
    try:
        aiofastnet = importlib.import_module("aiofastnet")
    except ImportError as error:
        raise BenchmarkError(f"aiofastnet cannot be imported: {error}") from error
    runner = web.AppRunner(hello_app())
    await runner.setup()
    loop = asyncio.get_running_loop()
    server = await aiofastnet.create_server(loop, runner.server, host, port, ssl=context, backlog=1024)
    return int(server.sockets[0].getsockname()[1])


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
