"""aiohttp servers: one route that returns a short text, a WebSocket echo, and the example application."""

from __future__ import annotations

from pathlib import Path

from aiohttp import WSMsgType, web

STATIC_FOLDER = Path(__file__).parent.parent / "build" / "static"
STATIC_SIZES = {"4k": 4 * 1024, "1m": 1024 * 1024}


async def _serve(app: web.Application, host: str, port: int) -> int:
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, host, port, backlog=1024).start()
    return int(runner.addresses[0][1])


async def _hello(_request: web.Request) -> web.Response:
    return web.Response(text="Hello, world!")


async def start_hello(host: str, port: int) -> int:
    app = web.Application()
    app.router.add_get("/", _hello)
    return await _serve(app, host, port)


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


async def start_example(host: str, port: int) -> int:
    from examples.aiohttp_app import make_app

    return await _serve(make_app(), host, port)


async def start_static(host: str, port: int) -> int:
    """Files of the sizes above under /static, served by aiohttp's own static route."""
    STATIC_FOLDER.mkdir(parents=True, exist_ok=True)
    for name, size in STATIC_SIZES.items():
        (STATIC_FOLDER / name).write_bytes(bytes(range(256)) * (size // 256))
    app = web.Application()
    app.router.add_static("/static", STATIC_FOLDER)
    return await _serve(app, host, port)
