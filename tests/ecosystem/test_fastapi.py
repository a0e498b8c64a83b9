"""FastAPI and Starlette, unmodified, on uvicorn."""

import asyncio
import json
from pathlib import Path

import pytest
from programs import check_facts, fetch, fetch_json, module
from support import digest, eventually, payload

from benchmarks.databases import free_port

pytest.importorskip("fastapi")
httpx = pytest.importorskip("httpx")

pytestmark = [pytest.mark.ours, pytest.mark.one_way]

APPLICATION = Path(__file__).with_name("apps_fastapi.py")


def talk_of_the_loop(port, way):
    check_facts(fetch_json(port, "/facts"), way)
    check_facts(fetch_json(port, "/plain/facts"), way)


def talk_requests(port):
    order = json.dumps({"name": "tea", "count": 3}).encode()
    headers = {"content-type": "application/json"}
    assert fetch_json(port, "/order", method="POST", body=order, **headers) == {"name": "TEA", "count": 4}
    url = f"http://127.0.0.1:{port}"
    wrong = httpx.post(f"{url}/order", json={"name": "tea", "count": "many"})
    assert (wrong.status_code, wrong.json()["detail"][0]["loc"]) == (422, ["body", "count"])
    assert wrong.headers["x-middleware"] == "was here"
    content = payload(2_000_000)
    answer = httpx.post(f"{url}/upload", files={"file": ("a.bin", content)}, timeout=20)
    assert answer.json() == {"name": "a.bin", "digest": digest(content)}


def talk_to_functions_that_block(port):
    answer = fetch_json(port, "/blocking")
    assert answer["main"] not in answer["threads"]


def talk_responses(port):
    assert digest(fetch(port, "/download?size=2000000")) == digest(payload(2_000_000))
    assert fetch(port, "/file") == APPLICATION.read_bytes()
    assert fetch(port, f"/static/{APPLICATION.name}") == APPLICATION.read_bytes()
    part = httpx.get(f"http://127.0.0.1:{port}/file", headers={"range": "bytes=10-29"})
    assert (part.status_code, part.content) == (206, APPLICATION.read_bytes()[10:30])
    assert fetch_json(port, "/later") == []  # answered before the task that it has added
    assert eventually(lambda: fetch_json(port, "/later")[:1] == ["async"])


def talk_websocket(port):
    client = pytest.importorskip("websockets.sync.client")
    with client.connect(f"ws://127.0.0.1:{port}/ws", open_timeout=20) as ws:
        for count in range(100):
            ws.send(json.dumps(list(range(count))))
            assert json.loads(ws.recv(20)) == {"sum": sum(range(count))}


def test_an_application(start, way):
    pytest.importorskip("uvicorn")
    port = free_port()
    program = start(
        *module("uvicorn", "--loop", "flexsc_loop:new_event_loop", "--host", "127.0.0.1", "--port", port),
        "apps_fastapi:app",
    )
    program.wait_for("Application startup complete", "Uvicorn running on")
    talk_of_the_loop(port, way)
    talk_requests(port)
    talk_to_functions_that_block(port)
    talk_responses(port)
    talk_websocket(port)
    program.stop()
    assert "Traceback" not in program.text(), program.text()


async def test_without_a_server(loop):
    """httpx calls the application itself, in this loop."""
    from apps_fastapi import app

    transport = httpx.ASGITransport(app)
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://x") as client:
        answers = await asyncio.gather(*(client.post("/order", json={"name": "a", "count": n}) for n in range(20)))
        assert [answer.json()["count"] for answer in answers] == list(range(1, 21))
        assert (await client.get("/facts")).json()["loop"] == "flexsc_loop.loop.Loop"


def test_starlettes_test_client(way):
    testclient = pytest.importorskip("starlette.testclient")
    from apps_fastapi import app

    options = {"loop_factory": way.new_loop}
    with testclient.TestClient(app, backend_options=options) as client:
        check_facts(client.get("/facts").json(), way)
        with client.websocket_connect("/ws") as ws:
            ws.send_json([1, 2, 3])
            assert ws.receive_json() == {"sum": 6}
