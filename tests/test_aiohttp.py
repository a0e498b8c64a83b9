"""An unmodified aiohttp, server and client, on the loop."""

import asyncio
import contextlib
import hashlib
import signal
import socket
import threading
import urllib.request

import aiohttp
import orjson
import pytest
from aiohttp import web
from support import Running, digest, payload


async def hello(request):
    return web.Response(text="hello")


async def json(request):
    asked = orjson.loads(await request.read())
    return web.Response(body=orjson.dumps({"sum": sum(asked["numbers"])}), content_type="application/json")


async def websocket(request):
    ws = web.WebSocketResponse()
    await ws.prepare(request)
    async for message in ws:
        if message.type is aiohttp.WSMsgType.TEXT:
            await ws.send_str(message.data.upper())
        elif message.type is aiohttp.WSMsgType.BINARY:
            await ws.send_bytes(message.data)
    return ws


async def upload(request):
    seen = hashlib.blake2b(digest_size=16)
    async for chunk in request.content.iter_chunked(50_000):
        seen.update(chunk)
    return web.Response(text=seen.hexdigest())


async def download(request):
    response = web.StreamResponse()
    await response.prepare(request)
    data = payload(int(request.query["size"]))
    for start in range(0, len(data), 100_000):
        await response.write(data[start : start + 100_000])
    await response.write_eof()
    return response


async def fail(request):
    raise web.HTTPGone()


@pytest.fixture
def site(loop, tmp_path):
    """A running application and its address."""
    (tmp_path / "file.bin").write_bytes(payload(1_000_000))

    class Site:
        async def __aenter__(self):
            app = web.Application(client_max_size=1 << 30)
            app.router.add_get("/", hello)
            app.router.add_post("/json", json)
            app.router.add_get("/ws", websocket)
            app.router.add_post("/upload", upload)
            app.router.add_get("/download", download)
            app.router.add_get("/gone", fail)
            app.router.add_static("/static", tmp_path)
            self.runner = web.AppRunner(app, handle_signals=False)
            await self.runner.setup()
            tcp = web.TCPSite(self.runner, "127.0.0.1", 0)
            await tcp.start()
            host, port = self.runner.addresses[0][:2]
            self.url = f"http://{host}:{port}"
            unix = web.UnixSite(self.runner, str(tmp_path / "socket"))
            await unix.start()
            self.client = aiohttp.ClientSession()
            return self

        async def __aexit__(self, *_):
            await self.client.close()
            await self.runner.cleanup()

    return Site()


async def test_hello(loop, site):
    async with site:
        for _ in range(100):
            async with site.client.get(site.url) as response:
                assert response.status == 200
                assert await response.text() == "hello"


async def test_concurrent_clients(loop, site):
    async def client(number):
        for i in range(10):
            numbers = [number, i, number * i]
            async with site.client.post(f"{site.url}/json", data=orjson.dumps({"numbers": numbers})) as response:
                assert orjson.loads(await response.read()) == {"sum": sum(numbers)}

    async with site:
        await asyncio.gather(*(client(i) for i in range(64)))


async def test_keep_alive_and_connection_close(loop, site):
    async with site:
        host, port = site.url[7:].split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        request = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"
        for _ in range(5):
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200")
            assert await reader.readexactly(5) == b"hello"
        writer.write(request * 20)  # pipelined
        for _ in range(20):
            await reader.readuntil(b"\r\n\r\n")
            assert await reader.readexactly(5) == b"hello"
        writer.write(request.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        assert (await reader.read()).endswith(b"hello")
        writer.close()
        await writer.wait_closed()
        for _ in range(30):
            async with site.client.get(site.url, headers={"Connection": "close"}) as response:
                assert await response.text() == "hello"


async def test_errors(loop, site):
    async with site:
        async with site.client.get(f"{site.url}/gone") as response:
            assert response.status == 410
        async with site.client.get(f"{site.url}/nothing") as response:
            assert response.status == 404


@pytest.mark.parametrize("size", [1, 70_000, 1_000_000])
async def test_websocket(loop, site, size):
    async with site, site.client.ws_connect(f"{site.url}/ws", max_msg_size=0) as ws:
        for i in range(10):
            await ws.send_str("word")
            assert (await ws.receive(10)).data == "WORD"
            data = payload(size, i)
            await ws.send_bytes(data)
            message = await ws.receive(10)
            if message.type is aiohttp.WSMsgType.CLOSE:  # the server's limit for one message
                assert size > 70_000
                break
            assert digest(message.data) == digest(data)
        await ws.close()


@pytest.mark.parametrize("size", [0, 1, 100_000, 5_000_000])
async def test_streaming(loop, site, size):
    async with site:
        data = payload(size)

        async def parts():
            for start in range(0, size, 99_999):
                yield data[start : start + 99_999]

        async with site.client.post(f"{site.url}/upload", data=parts()) as response:
            assert await response.text() == digest(data)
        async with site.client.get(f"{site.url}/download?size={size}") as response:
            assert digest(await response.read()) == digest(data)


async def test_static_file_with_ranges(loop, site):
    data = payload(1_000_000)
    async with site:
        address = f"{site.url}/static/file.bin"
        async with site.client.get(address) as response:
            assert digest(await response.read()) == digest(data)
            changed = response.headers["Last-Modified"]
        for low, high in ((0, 0), (0, 99), (5000, 700_000), (999_999, 999_999)):
            async with site.client.get(address, headers={"Range": f"bytes={low}-{high}"}) as response:
                assert response.status == 206
                assert digest(await response.read()) == digest(data[low : high + 1])
        async with site.client.get(address, headers={"Range": "bytes=-10"}) as response:
            assert await response.read() == data[-10:]
        async with site.client.get(address, headers={"If-Modified-Since": changed}) as response:
            assert response.status == 304
        downloads = [site.client.get(address) for _ in range(20)]
        for response in await asyncio.gather(*downloads):
            assert digest(await response.read()) == digest(data)


async def test_unix_socket(loop, site, tmp_path):
    async with site:
        connector = aiohttp.UnixConnector(str(tmp_path / "socket"))
        async with aiohttp.ClientSession(connector=connector) as session:
            async with session.get("http://any/") as response:
                assert await response.text() == "hello"


async def test_clients_that_hang_up(loop, site):
    """In the middle of a download, of an upload, and of a request."""
    async with site:
        host, port = site.url[7:].split(":")
        for request in (
            b"GET /download?size=5000000 HTTP/1.1\r\nHost: x\r\n\r\n",
            b"POST /upload HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n" + bytes(100_000),
            b"GET / HT",
        ):
            for _ in range(5):
                reader, writer = await asyncio.open_connection(host, int(port))
                writer.write(request)
                await writer.drain()
                if request.startswith(b"GET /download"):
                    await reader.readexactly(1000)
                writer.transport.abort()
        async with site.client.get(site.url) as response:
            assert await response.text() == "hello"


async def test_cancelled_requests(loop, site):
    """As when users close their browser: no answer may reach another request."""
    async with site:

        async def ask(size):
            async with site.client.get(f"{site.url}/download?size={size}") as response:
                return await response.read()

        for i in range(60):
            task = asyncio.ensure_future(ask(200_000))
            await asyncio.sleep(0.0003 * (i % 12))
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                assert digest(await task) == digest(payload(200_000))
            assert digest(await ask(1000 + i)) == digest(payload(1000 + i))


async def test_client_timeout(loop):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        host, port = silent.getsockname()
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=0.05)) as session:
            with pytest.raises(TimeoutError):
                await session.get(f"http://{host}:{port}/")


SERVER = """
from aiohttp import web

async def hello(request):
    return web.Response(text="hello")

async def slow(request):
    print("working", flush=True)
    await asyncio.sleep(0.3)
    return web.Response(text="slow but sure")

async def cleaned(app):
    print("cleaned up", flush=True)

async def started(app):
    loop = asyncio.get_running_loop()
    loop.call_later(0.05, print, type(loop).__module__)

app = web.Application()
app.router.add_get("/", hello)
app.router.add_get("/slow", slow)
app.on_cleanup.append(cleaned)
app.on_startup.append(started)
web.run_app(app, host="127.0.0.1", port=PORT, print=None, loop=new_loop(), handler_cancellation=False)
print("over", flush=True)
"""


def unused_port():
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return sock.getsockname()[1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_run_app_ends_gracefully(way, number):
    port = unused_port()
    with Running(f"{way.prelude()}\n{SERVER.replace('PORT', str(port))}") as child:
        module = child.line()
        assert module.startswith("flexsc_loop" if way.ours else "asyncio")
        url = f"http://127.0.0.1:{port}"
        with urllib.request.urlopen(url, timeout=10) as response:
            assert response.read() == b"hello"
        answers = []

        def ask():
            with urllib.request.urlopen(url + "/slow", timeout=10) as response:
                answers.append(response.read())

        thread = threading.Thread(target=ask)
        thread.start()
        assert child.line() == "working"
        child.signal(number)
        thread.join(20)
        end = child.end()
    assert answers == [b"slow but sure"]
    assert end.out.split() == ["cleaned", "up", "over"]
    assert end.code == 0
    assert end.err == ""
