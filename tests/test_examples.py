"""The programs of examples/, as a user starts them."""

import asyncio
import hashlib
import inspect
import json
import signal
import subprocess
import sys

import aiohttp
import psutil
import pytest
from support import ROOT, child_environment, digest, payload

pytestmark = [pytest.mark.ours]

EXAMPLES = ROOT / "examples"
ECHOES = ["echo_protocol.py", "echo_streams.py"]

#: Older versions do, as if it were an error, when a program ends with connections open.
ASYNCIO_REPORTS_CANCELLED_HANDLERS = "task.cancelled()" not in inspect.getsource(
    asyncio.StreamReaderProtocol.connection_made
)


class Program:
    """An example that runs on a free port."""

    def __init__(self, name, way, errors):
        self.errors = errors
        self.process = subprocess.Popen(
            [sys.executable, "-u", str(EXAMPLES / name), "--port", "0"],
            env=child_environment(way.environment()),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors.open("wb"),
            text=True,
        )
        self.first_line = self.process.stdout.readline()
        listening = [c for c in psutil.Process(self.process.pid).net_connections("tcp") if c.status == "LISTEN"]
        assert len(listening) == 1, errors.read_text()
        self.address = tuple(listening[0].laddr)

    def end(self, number):
        """Ask the program to end; its exit code, and what it has printed since it began."""
        self.process.send_signal(number)
        out, _ = self.process.communicate(timeout=20)
        return self.process.returncode, out, self.errors.read_text()


@pytest.fixture
def start(way, tmp_path):
    programs = []

    def make(name):
        programs.append(Program(name, way, tmp_path / "errors"))
        return programs[-1]

    yield make
    for program in programs:
        if program.process.poll() is None:
            program.process.kill()
        program.process.communicate()


async def echoed(address, size):
    reader, writer = await asyncio.open_connection(*address)
    data = payload(size)
    writer.write(data)
    assert digest(await reader.readexactly(size)) == digest(data)
    return reader, writer


async def end_of_stream(reader, writer):
    """End our side, and see the other one end."""
    writer.write_eof()
    assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize("name", ECHOES)
async def test_echo(loop, start, name):
    program = start(name)
    assert program.first_line == f"listening on {program.address}\n"
    streams = await asyncio.gather(*(echoed(program.address, size) for size in (1, 1000, 3_000_000)))
    for stream in streams:
        await end_of_stream(*stream)
    assert program.end(signal.SIGINT) == (0, "bye\n", "")


@pytest.mark.parametrize("name", ECHOES)
async def test_echo_ends_with_connections_open(loop, start, name):
    program = start(name)
    stream = await echoed(program.address, 10)
    # From Python 3.12 on a server that ends waits for its connections.
    ending = asyncio.ensure_future(asyncio.to_thread(program.end, signal.SIGINT))
    await end_of_stream(*stream)
    code, out, errors = await ending
    assert (code, out) == (0, "bye\n")
    if errors:
        assert name == "echo_streams.py" and ASYNCIO_REPORTS_CANCELLED_HANDLERS, errors
        assert errors.startswith("Exception in callback StreamReaderProtocol.connection_made.<locals>.callback")
        assert errors.count("Exception in callback") == 1 and errors.endswith("CancelledError\n")


@pytest.fixture
def application(start):
    program = start("aiohttp_app.py")
    program.url = "http://{}:{}".format(*program.address)
    return program


async def test_application_json(loop, application):
    async with aiohttp.ClientSession(application.url) as session:
        async with session.get("/") as response:
            assert await response.text() == "Hello, world!\n"
        async with session.get("/json") as response:
            assert (await response.json())["message"] == "Hello, world!"
        async with session.post("/json", json={"b": [1, None], "a": "ü"}) as response:
            assert await response.text() == '{"a":"ü","b":[1,null]}'
        async with session.post("/json", data=b"{") as response:
            assert response.status == 400
            assert "not JSON" in json.loads(await response.text())["error"]


async def test_application_metrics(loop, application):
    pytest.importorskip("prometheus_client")
    async with aiohttp.ClientSession(application.url) as session, session.get("/metrics") as response:
        text = await response.text()
    assert response.status == 200 and response.content_type == "text/plain"
    assert 'flexsc_accepts_total{loop="1"' in text and "asyncio_eventloop_delay_seconds_bucket" in text


async def test_application_static_files(loop, application):
    async with aiohttp.ClientSession(application.url) as session:
        for path in (EXAMPLES / "static").iterdir():
            async with session.get(f"/static/{path.name}") as response:
                assert await response.read() == path.read_bytes()
        async with session.get("/static/none.html") as response:
            assert response.status == 404


async def test_application_streams(loop, application):
    data = payload(5_000_001)

    async def pieces():
        for start in range(0, len(data), 70_000):
            yield data[start : start + 70_000]

    async with aiohttp.ClientSession(application.url) as session:
        async with session.post("/upload", data=pieces()) as response:
            assert await response.json() == {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        async with session.get("/download", params={"bytes": 3_000_001}) as response:
            assert response.content_length == 3_000_001
            assert digest(await response.read()) == digest((bytes(range(256)) * 11719)[:3_000_001])
        async with session.get("/download", params={"bytes": "many"}) as response:
            assert response.status == 400


async def test_application_files(loop, application):
    """What is uploaded to disk is what is downloaded from there, of any size, also several at once."""
    contents = {f"file{size}": payload(size) for size in (0, 1, 70_000, 3_000_001)}

    async def there_and_back(session, name, data):
        async with session.put(f"/files/{name}", data=data) as response:
            assert await response.json() == {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        async with session.get(f"/files/{name}") as response:
            assert response.content_length == len(data)
            assert digest(await response.read()) == digest(data)

    async with aiohttp.ClientSession(application.url) as session:
        await asyncio.gather(*(there_and_back(session, name, data) for name, data in contents.items()))
        await there_and_back(session, "file1", b"in place of the other")
        async with session.get("/files/none") as response:
            assert response.status == 404
        async with session.put("/files/.hidden", data=b"x") as response:
            assert response.status == 400


async def test_application_websockets(loop, application):
    async with aiohttp.ClientSession(application.url) as session:
        async with session.ws_connect("/ws") as ws:
            await ws.send_str("hello")
            assert await ws.receive_str() == "hello"
            await ws.send_bytes(payload(300_000))
            assert digest(await ws.receive_bytes()) == digest(payload(300_000))
        async with session.ws_connect("/chat") as one, session.ws_connect("/chat") as two:
            await one.send_str("to all")
            assert [await one.receive_str(), await two.receive_str()] == ["to all", "to all"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_application_ends(loop, application, number):
    """Who is connected is told, and the program ends as it should."""
    async with aiohttp.ClientSession(application.url) as session, session.ws_connect("/chat") as ws:
        await ws.send_str("here")
        assert await ws.receive_str() == "here"
        ending = asyncio.ensure_future(asyncio.to_thread(application.end, number))
        message = await ws.receive()
        assert (message.type, message.extra) == (aiohttp.WSMsgType.CLOSE, "server shutdown")
        code, _, errors = await ending
        assert (code, errors) == (0, "")
