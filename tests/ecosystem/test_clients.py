"""httpx, aiohttp's client and websockets, unmodified, with a server that runs on asyncio's own loop."""

import asyncio
import hashlib

import pytest
from programs import fetch_json, module, serve
from support import digest, payload

from benchmarks.databases import free_port

pytest.importorskip("uvicorn")


@pytest.fixture(scope="module")
def port(tmp_path_factory):
    log = tmp_path_factory.mktemp("server") / "log"
    port = free_port()
    command = module("uvicorn", "--loop", "asyncio", "--host", "127.0.0.1", "--port", port, "--ws", "websockets")
    with serve([*command, "--ws-max-size", "100000000", "apps:plain"], log) as program:
        program.wait_for("Application startup complete", "Uvicorn running on")
        assert fetch_json(port, "/facts")["loop"].startswith("asyncio.")
        yield port


async def parts_of(data, size=50_000):
    for at in range(0, len(data), size):
        yield data[at : at + size]


async def test_httpx(loop, port):
    httpx = pytest.importorskip("httpx")
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
        answers = await asyncio.gather(*(client.get(f"/number?n={n}") for n in range(200)))
        assert [answer.text for answer in answers] == [str(n) for n in range(200)]
        body = payload(2_000_000)
        assert (await client.post("/digest", content=body)).text == digest(body)
        assert (await client.post("/digest", content=parts_of(body))).text == digest(body)
        seen = hashlib.blake2b(digest_size=16)
        async with client.stream("GET", "/stream?size=2000000") as answer:
            async for part in answer.aiter_bytes():
                seen.update(part)
        assert seen.hexdigest() == digest(body)
        assert (await client.get("/nowhere")).status_code == 404
        with pytest.raises(httpx.ReadTimeout):
            await client.get("/slow?seconds=20", timeout=0.1)
        async with client.stream("GET", "/endless") as answer:  # given up in the middle
            async for _ in answer.aiter_bytes():
                break
        assert (await client.get("/number?n=7")).text == "7"


async def test_aiohttp(loop, port):
    aiohttp = pytest.importorskip("aiohttp")
    limit = aiohttp.ClientTimeout(total=20)
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}", timeout=limit) as client:

        async def number(n):
            async with client.get(f"/number?n={n}") as answer:
                return await answer.text()

        assert await asyncio.gather(*(number(n) for n in range(200))) == [str(n) for n in range(200)]
        body = payload(2_000_000)
        for data in (body, parts_of(body)):
            async with client.post("/digest", data=data) as answer:
                assert await answer.text() == digest(body)
        seen = hashlib.blake2b(digest_size=16)
        async with client.get("/stream?size=2000000") as answer:
            async for part in answer.content.iter_any():
                seen.update(part)
        assert seen.hexdigest() == digest(body)
        with pytest.raises(asyncio.TimeoutError):
            await client.get("/slow?seconds=20", timeout=aiohttp.ClientTimeout(total=0.1))
        async with client.ws_connect("/") as ws:
            for size in (1, 70_000, 1_000_000):
                await ws.send_bytes(payload(size))
                assert digest(await ws.receive_bytes()) == digest(payload(size))
            await ws.send_str("close")
            assert (await ws.receive()).type is aiohttp.WSMsgType.CLOSE
            assert ws.close_code == 4321


async def test_websockets(loop, port):
    client = pytest.importorskip("websockets.asyncio.client")
    from websockets.exceptions import ConnectionClosed

    async with client.connect(f"ws://127.0.0.1:{port}/", max_size=None, open_timeout=20) as ws:
        for size in (1, 125, 126, 65535, 65536, 3_000_000):
            await ws.send(payload(size))
            assert digest(await ws.recv()) == digest(payload(size))
        await ws.send(parts_of(payload(500_000)))  # one message in fragments
        assert digest(await ws.recv()) == digest(payload(500_000))
        latency = await (await ws.ping())
        assert latency > 0

        async def talk():
            for number in range(300):
                await ws.send(f"message {number}")

        talking = asyncio.create_task(talk())
        assert [await ws.recv() for _ in range(300)] == [f"MESSAGE {number}" for number in range(300)]
        await talking
        await ws.send("close")
        with pytest.raises(ConnectionClosed) as caught:
            await ws.recv()
        assert caught.value.rcvd.code == 4321


async def test_websockets_server(loop):
    server = pytest.importorskip("websockets.asyncio.server")
    client = pytest.importorskip("websockets.asyncio.client")

    async def echo(ws):
        async for message in ws:
            await ws.send(message)

    async with server.serve(echo, "127.0.0.1", 0, max_size=None) as served:
        port = served.sockets[0].getsockname()[1]

        async def talk(number):
            async with client.connect(f"ws://127.0.0.1:{port}/", max_size=None, open_timeout=20) as ws:
                for size in (1, 1000, 100_000):
                    await ws.send(payload(size, number))
                    assert await ws.recv() == payload(size, number)

        await asyncio.gather(*(talk(number) for number in range(20)))
