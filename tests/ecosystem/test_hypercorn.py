"""hypercorn, unmodified: by `install()` in the application's module, and as a library."""

import asyncio
import signal

import pytest
from programs import check_facts, fetch, fetch_json, module
from support import digest, payload

from benchmarks.databases import free_port

pytest.importorskip("hypercorn")

pytestmark = pytest.mark.one_way


@pytest.mark.ours
def test_program(start, way):
    websockets = pytest.importorskip("websockets.sync.client")
    port = free_port()
    program = start(
        *module("hypercorn", "--bind", f"127.0.0.1:{port}", "--workers", 2, "--error-logfile", "-"),
        "apps_installing:plain",
    )
    program.wait_for("the application starts: flexsc_loop.loop.Loop", "Running on", count=2)
    check_facts(fetch_json(port, "/facts"), way)
    body = payload(3_000_000)
    assert fetch(port, "/digest", method="POST", body=body).decode() == digest(body)
    assert fetch(port, "/stream?size=2000000") == payload(2_000_000)
    with websockets.connect(f"ws://127.0.0.1:{port}/", open_timeout=20, max_size=None) as ws:
        for size in (1, 70_000, 1_000_000):
            ws.send(payload(size))
            assert digest(ws.recv(20)) == digest(payload(size))
    assert program.stop(signal.SIGTERM) == 0
    # Once at least: when the first worker has ended, hypercorn ends the others by a signal.
    assert "the application ends" in program.text()
    assert "Traceback" not in program.text(), program.text()


async def test_library_with_http2(loop):
    """Server and client, HTTP/2 without TLS, many streams on one connection."""
    pytest.importorskip("h2")
    httpx = pytest.importorskip("httpx")
    from apps import plain
    from hypercorn.asyncio import serve
    from hypercorn.config import Config

    config = Config()
    port = free_port()
    config.bind = [f"127.0.0.1:{port}"]
    config.errorlog = None
    end = asyncio.Event()
    server = asyncio.create_task(serve(plain, config, shutdown_trigger=end.wait))
    async with httpx.AsyncClient(http1=False, http2=True, base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
        while True:
            try:
                answer = await client.get("/number?n=1")
                break
            except httpx.ConnectError:
                await asyncio.sleep(0.01)
        assert (answer.http_version, answer.text) == ("HTTP/2", "1")
        answers = await asyncio.gather(*(client.get(f"/number?n={n}") for n in range(100)))
        assert [answer.text for answer in answers] == [str(n) for n in range(100)]
        body = payload(500_000)
        assert (await client.post("/digest", content=body)).text == digest(body)
        assert digest((await client.get("/stream?size=500000")).content) == digest(body)
    end.set()
    await asyncio.wait_for(server, 20)
