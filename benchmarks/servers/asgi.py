"""A bare ASGI application on uvicorn with httptools."""

from __future__ import annotations

import asyncio
from typing import Any

BODY = b"Hello, world!"
HEADERS = [(b"content-type", b"text/plain"), (b"content-length", str(len(BODY)).encode())]

_kept: list[asyncio.Task[None]] = []


async def _hello(_scope: Any, _receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": BODY})


async def start_hello(host: str, port: int) -> int:
    import uvicorn

    config = uvicorn.Config(
        _hello, host=host, port=port, backlog=1024, http="httptools", ws="none", lifespan="off", loop="none",
        log_level="warning", access_log=False,
    )  # fmt: skip
    server = uvicorn.Server(config)
    _kept.append(asyncio.get_running_loop().create_task(server.serve()))
    while not server.started:
        await asyncio.sleep(0.01)
    return int(server.servers[0].sockets[0].getsockname()[1])
