"""The aiohttp application that gunicorn serves."""

from __future__ import annotations

import asyncio
import os
import sys

from aiohttp import WSMsgType, web
from facts import facts
from support import digest

import flexsc_loop

if "LOOP_IN_THE_MASTER" in os.environ:
    # With --preload: the workers inherit it, and its file descriptors.
    inherited = flexsc_loop.new_event_loop()
    asyncio.set_event_loop(inherited)
    inherited.run_until_complete(asyncio.sleep(0))


async def tell(_request: web.Request) -> web.Response:
    return web.json_response(facts())


async def take(request: web.Request) -> web.Response:
    return web.Response(text=digest(await request.read()))


async def wait(request: web.Request) -> web.Response:
    print("slow request has come", file=sys.stderr, flush=True)
    await asyncio.sleep(float(request.query["seconds"]))
    return web.json_response(facts())


async def child(_request: web.Request) -> web.Response:
    """The worker has taken gunicorn's handlers over: its children are its own."""
    process = await asyncio.create_subprocess_exec("sh", "-c", "exit 7")
    return web.json_response(await process.wait())


async def echo(request: web.Request) -> web.WebSocketResponse:
    ws = web.WebSocketResponse()
    await ws.prepare(request)
    async for message in ws:
        if message.type is WSMsgType.BINARY:
            await ws.send_bytes(message.data)
    return ws


async def make() -> web.Application:
    app = web.Application(client_max_size=1 << 24)
    app.router.add_get("/facts", tell)
    app.router.add_post("/digest", take)
    app.router.add_get("/slow", wait)
    app.router.add_get("/child", child)
    app.router.add_get("/ws", echo)
    return app
