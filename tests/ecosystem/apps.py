"""ASGI applications without a framework, for real servers to serve."""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
import time
from typing import Any
from urllib.parse import parse_qs

from facts import facts
from support import payload

CHUNK = 64 * 1024

counters = {"disconnects": 0, "produced": 0}


async def read_body(receive: Any) -> bytes:
    parts, more = [], True
    while more:
        message = await receive()
        assert message["type"] == "http.request", message
        parts.append(message.get("body", b""))
        more = message.get("more_body", False)
    return b"".join(parts)


async def answer(send: Any, body: bytes) -> None:
    headers = [(b"content-type", b"application/octet-stream"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def stream(send: Any, size: int) -> None:
    """`payload(size)` in chunks."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    data = payload(size)
    for at in range(0, size, CHUNK):
        await send({"type": "http.response.body", "body": data[at : at + CHUNK], "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def endless(receive: Any, send: Any) -> None:
    """Sends until the client goes away."""

    async def produce() -> None:
        while True:
            await send({"type": "http.response.body", "body": bytes(CHUNK), "more_body": True})
            counters["produced"] += CHUNK
            await asyncio.sleep(0)  # uvicorn drops what comes after the client has gone, at once

    await send({"type": "http.response.start", "status": 200, "headers": []})
    producer = asyncio.create_task(produce())
    while (await receive())["type"] != "http.disconnect":
        pass
    producer.cancel()
    counters["disconnects"] += 1


async def http(scope: dict[str, Any], receive: Any, send: Any) -> None:
    query = {name: values[0] for name, values in parse_qs(scope["query_string"].decode()).items()}
    match scope["path"]:
        case "/facts":
            await answer(send, json.dumps(facts()).encode())
        case "/counters":
            await answer(send, json.dumps(counters).encode())
        case "/digest":
            body = await read_body(receive)
            await answer(send, hashlib.blake2b(body, digest_size=16).hexdigest().encode())
        case "/number":
            await answer(send, query["n"].encode())
        case "/stream":
            await stream(send, int(query["size"]))
        case "/endless":
            await endless(receive, send)
        case "/slow":
            print("slow request has come", file=sys.stderr, flush=True)
            await asyncio.sleep(float(query["seconds"]))
            await answer(send, b"slow, but done")
        case "/block":
            time.sleep(float(query["seconds"]))
            await answer(send, b"blocked, but done")
        case _:
            await send({"type": "http.response.start", "status": 404, "headers": []})
            await send({"type": "http.response.body", "body": b"not here"})


async def websocket(receive: Any, send: Any) -> None:
    """Text comes back in capitals, bytes as they are; the word `close` closes."""
    assert (await receive())["type"] == "websocket.connect"
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        text = message.get("text")
        if text == "close":
            await send({"type": "websocket.close", "code": 4321, "reason": "as asked"})
            return
        if text is not None:
            await send({"type": "websocket.send", "text": text.upper()})
        else:
            await send({"type": "websocket.send", "bytes": message["bytes"]})


async def lifespan(receive: Any, send: Any) -> None:
    await receive()
    print("the application starts:", facts()["loop"], file=sys.stderr, flush=True)
    await send({"type": "lifespan.startup.complete"})
    await receive()
    print("the application ends", file=sys.stderr, flush=True)
    await send({"type": "lifespan.shutdown.complete"})


async def plain(scope: dict[str, Any], receive: Any, send: Any) -> None:
    match scope["type"]:
        case "lifespan":
            await lifespan(receive, send)
        case "http":
            await http(scope, receive, send)
        case "websocket":
            await websocket(receive, send)
