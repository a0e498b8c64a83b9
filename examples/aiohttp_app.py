"""A small but real aiohttp application, run by the stock ``web.run_app`` on the FlexSC loop.

    pip install "flexsc_loop[examples]"
    python examples/aiohttp_app.py --port 8080

Then try:

    curl localhost:8080/json
    curl -X POST -H 'Content-Type: application/json' -d '{"name": "you"}' localhost:8080/json
    curl localhost:8080/static/index.html           # in a browser: a chat over WebSocket
    curl --data-binary @/bin/ls localhost:8080/upload  # its SHA-256, computed while the body arrives
    curl -o /dev/null 'localhost:8080/download?bytes=100000000'
    curl -T /bin/ls localhost:8080/files/ls         # written to disk and hashed as it arrives
    curl -o /dev/null localhost:8080/files/ls       # served from disk
    curl localhost:8080/metrics                     # for Prometheus; grafana_dashboard.json beside this shows it

``/ws`` echoes WebSocket messages, ``/chat`` hands them to everyone who is connected.
Nothing below knows on which loop it runs, except the one line that makes the loop, and the metrics.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import orjson
from aiohttp import WSMsgType, web

import flexsc_loop
from flexsc_loop import files

try:
    import prometheus_client

    from flexsc_loop import prometheus
except ImportError:
    prometheus = None  # type: ignore[assignment]

STATIC = Path(__file__).parent / "static"
CHUNK = bytes(range(256)) * 256
MAX_DOWNLOAD = 1 << 40

ROOM = web.AppKey("room", set[web.WebSocketResponse])
FOLDER = web.AppKey("folder", Path)

routes = web.RouteTableDef()


def json_response(content: object, *, status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(content), status=status, content_type="application/json")


@routes.get("/")
async def index(_request: web.Request) -> web.Response:
    return web.Response(text="Hello, world!\n")


@routes.get("/json")
async def get_json(_request: web.Request) -> web.Response:
    return json_response({"message": "Hello, world!", "time": datetime.now(UTC)})


@routes.post("/json")
async def post_json(request: web.Request) -> web.Response:
    """Gives back what was sent, with its keys sorted."""
    try:
        content = orjson.loads(await request.read())
    except orjson.JSONDecodeError as error:
        return json_response({"error": f"not JSON: {error}"}, status=400)
    return web.Response(body=orjson.dumps(content, option=orjson.OPT_SORT_KEYS), content_type="application/json")


@routes.get("/ws")
async def echo(request: web.Request) -> web.WebSocketResponse:
    ws = web.WebSocketResponse()
    await ws.prepare(request)
    async for message in ws:
        if message.type is WSMsgType.TEXT:
            await ws.send_str(message.data)
        elif message.type is WSMsgType.BINARY:
            await ws.send_bytes(message.data)
    return ws


@routes.get("/chat")
async def chat(request: web.Request) -> web.WebSocketResponse:
    """Every text goes to everyone in the room, the sender too."""
    ws = web.WebSocketResponse(heartbeat=30)
    await ws.prepare(request)
    room = request.app[ROOM]
    room.add(ws)
    try:
        async for message in ws:
            if message.type is WSMsgType.TEXT:
                sent = [other.send_str(message.data) for other in room]
                await asyncio.gather(*sent, return_exceptions=True)
    finally:
        room.discard(ws)
    return ws


@routes.post("/upload")
async def upload(request: web.Request) -> web.Response:
    """Hashes a body of any size as it streams in; none of it is kept."""
    digest = hashlib.sha256()
    size = 0
    async for chunk in request.content.iter_any():
        digest.update(chunk)
        size += len(chunk)
    return json_response({"bytes": size, "sha256": digest.hexdigest()})


@routes.get("/download")
async def download(request: web.Request) -> web.StreamResponse:
    """Streams ``?bytes=N`` bytes (1 MiB if not given), a chunk at a time."""
    try:
        left = int(request.query.get("bytes", 1 << 20))
    except ValueError:
        left = -1
    if not 0 <= left <= MAX_DOWNLOAD:
        raise web.HTTPBadRequest(text=f"bytes must be a number from 0 to {MAX_DOWNLOAD}\n")
    response = web.StreamResponse(headers={"Content-Type": "application/octet-stream"})
    response.content_length = left
    await response.prepare(request)
    while left:
        chunk = CHUNK[:left]
        await response.write(chunk)
        left -= len(chunk)
    await response.write_eof()
    return response


@routes.put("/files/{name}")
async def put_file(request: web.Request) -> web.Response:
    """Writes a body of any size to disk and hashes it; what was there is replaced when all has arrived."""
    path = request.app[FOLDER] / file_name(request)
    arriving = path.with_name(f".{uuid4().hex}")
    digest = hashlib.sha256()
    try:
        async with flexsc_loop.open(arriving, "xb") as file:
            async for chunk in request.content.iter_any():
                digest.update(chunk)
                await file.write(chunk)
            size = await file.tell()
        await files.replace(arriving, path)
    except BaseException:
        await files.unlink(arriving)
        raise
    return json_response({"bytes": size, "sha256": digest.hexdigest()})


@routes.get("/files/{name}")
async def get_file(request: web.Request) -> web.StreamResponse:
    """Serves a file from disk, a piece at a time."""
    try:
        file = await flexsc_loop.open(request.app[FOLDER] / file_name(request), "rb", buffering=0)
    except FileNotFoundError:
        raise web.HTTPNotFound from None
    async with file:
        response = web.StreamResponse(headers={"Content-Type": "application/octet-stream"})
        response.content_length = (await file.stat()).st_size
        await response.prepare(request)
        while chunk := await file.read(1 << 18):
            await response.write(chunk)
        await response.write_eof()
        return response


@routes.get("/metrics")
async def metrics(_request: web.Request) -> web.Response:
    """What the loop counts, as Prometheus wants it."""
    if prometheus is None:
        raise web.HTTPNotImplemented(text="there is no prometheus_client: pip install prometheus_client\n")
    registry = prometheus_client.CollectorRegistry()
    prometheus.register(registry)
    return web.Response(body=prometheus_client.generate_latest(registry),
                        headers={"Content-Type": prometheus_client.CONTENT_TYPE_LATEST})


def file_name(request: web.Request) -> str:
    name = request.match_info["name"]
    if "/" in name or "\0" in name or name.startswith("."):
        raise web.HTTPBadRequest(text="not a file's name\n")
    return name


async def keep_files(app: web.Application) -> AsyncIterator[None]:
    """A folder for what is uploaded, for as long as the application runs."""
    async with files.TemporaryDirectory() as folder:
        app[FOLDER] = Path(folder)
        yield


async def close_room(app: web.Application) -> None:
    room = app[ROOM]
    for ws in list(room):
        await ws.close(message=b"server shutdown")


def make_app() -> web.Application:
    app = web.Application(client_max_size=1 << 40)
    app[ROOM] = set()
    app.add_routes(routes)
    app.router.add_static("/static", STATIC)
    app.on_shutdown.append(close_room)
    app.cleanup_ctx.append(keep_files)
    return app


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080)
    args = parser.parse_args()

    web.run_app(make_app(), host=args.host, port=args.port, loop=flexsc_loop.new_event_loop())


if __name__ == "__main__":
    main()
