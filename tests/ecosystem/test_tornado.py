"""Tornado, unmodified: server, client and WebSocket on this loop."""

import asyncio
import json

import pytest
from facts import facts
from support import digest, payload

pytest.importorskip("tornado")

pytestmark = pytest.mark.one_way


def application():
    from tornado.web import Application, RequestHandler, stream_request_body
    from tornado.websocket import WebSocketHandler

    class Facts(RequestHandler):
        async def get(self):
            await asyncio.sleep(0)
            self.write(facts())

    class Digest(RequestHandler):
        def post(self):
            self.write(digest(self.request.body))

    @stream_request_body
    class Count(RequestHandler):
        def initialize(self):
            self.size = 0

        async def data_received(self, chunk):
            await asyncio.sleep(0)
            self.size += len(chunk)

        def post(self):
            self.write(str(self.size))

    class Stream(RequestHandler):
        async def get(self, size):
            data = payload(int(size))
            for at in range(0, len(data), 50_000):
                self.write(data[at : at + 50_000])
                await self.flush()

    class Echo(WebSocketHandler):
        async def on_message(self, message):
            await self.write_message(message, binary=isinstance(message, bytes))

    return Application(
        [("/facts", Facts), ("/digest", Digest), ("/count", Count), (r"/stream/(\d+)", Stream), ("/ws", Echo)],
        websocket_max_message_size=1 << 24,
    )


@pytest.fixture
def tornado(loop):
    from tornado.httpclient import AsyncHTTPClient
    from tornado.httpserver import HTTPServer
    from tornado.netutil import bind_sockets

    class Running:
        async def __aenter__(self):
            self.server = HTTPServer(application(), max_buffer_size=1 << 24)
            sockets = bind_sockets(0, "127.0.0.1")
            self.server.add_sockets(sockets)
            self.url = f"127.0.0.1:{sockets[0].getsockname()[1]}"
            self.client = AsyncHTTPClient(force_instance=True, max_body_size=1 << 24)
            return self

        async def __aexit__(self, *_):
            self.client.close()
            self.server.stop()
            await self.server.close_all_connections()

        async def fetch(self, path, **more):
            headers = {"content-type": "application/octet-stream"}
            answer = await self.client.fetch(f"http://{self.url}{path}", headers=headers, **more)
            return answer.body

    return Running()


async def test_http(loop, tornado, way):
    async with tornado:
        if way.ours:
            assert json.loads(await tornado.fetch("/facts"))["loop"] == "flexsc_loop.loop.Loop"
        body = payload(3_000_000)
        assert (await tornado.fetch("/digest", method="POST", body=body)).decode() == digest(body)
        assert await tornado.fetch("/count", method="POST", body=body) == b"3000000"
        assert await tornado.fetch("/stream/3000000") == body
        answers = await asyncio.gather(*(tornado.fetch(f"/stream/{n}") for n in range(100)))
        assert answers == [payload(n) for n in range(100)]


async def test_websocket(loop, tornado):
    from tornado.websocket import websocket_connect

    async with tornado:
        ws = await websocket_connect(f"ws://{tornado.url}/ws", max_message_size=1 << 24)
        for size in (1, 70_000, 3_000_000):
            await ws.write_message(payload(size), binary=True)
            assert digest(await ws.read_message()) == digest(payload(size))
        for number in range(200):
            await ws.write_message(f"message {number}")
        assert [await ws.read_message() for _ in range(200)] == [f"message {number}" for number in range(200)]
        ws.close()
        assert await ws.read_message() is None


async def test_streams_and_the_clock(loop):
    """IOStream uses add_reader and add_writer; IOLoop's timers are the loop's."""
    from tornado.ioloop import IOLoop, PeriodicCallback
    from tornado.iostream import StreamClosedError
    from tornado.tcpclient import TCPClient
    from tornado.tcpserver import TCPServer

    class Echo(TCPServer):
        async def handle_stream(self, stream, address):
            try:
                while True:
                    await stream.write(await stream.read_until(b"\n"))
            except StreamClosedError:
                pass

    server = Echo()
    server.listen(0, "127.0.0.1")
    port = next(iter(server._sockets.values())).getsockname()[1]
    stream = await TCPClient().connect("127.0.0.1", port)
    for size in (1, 1000, 1_000_000):
        line = payload(size).replace(b"\n", b" ") + b"\n"
        await stream.write(line)
        assert await stream.read_until(b"\n") == line
    stream.close()
    server.stop()
    ticks = []
    ticked = asyncio.Event()

    def tick():
        ticks.append(loop.time())
        if len(ticks) == 3:
            ticked.set()

    clock = PeriodicCallback(tick, 10)
    clock.start()
    await ticked.wait()
    clock.stop()
    assert IOLoop.current().asyncio_loop is loop
    assert await IOLoop.current().run_in_executor(None, sum, [1, 2]) == 3
