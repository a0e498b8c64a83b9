"""TLS on all sorts of streams; start_tls on both sides."""

import asyncio
import contextlib
import gc
import socket
import ssl
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import trustme
from support import Echo, Recorder, digest, payload, turns

SIZES = [1, 4096, 16 * 1024 - 1, 16 * 1024 + 1, 256 * 1024 + 1, 1024 * 1024, 8 * 1024 * 1024]


@pytest.fixture(scope="session")
def authority():
    return trustme.CA()


@pytest.fixture(scope="session")
def server_context(authority):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost", "127.0.0.1").configure_cert(context)
    return context


@pytest.fixture(scope="session")
def client_context(authority):
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@pytest.fixture
def echo(loop, kind, server_context, client_context, tmp_path):
    """An echo server over TLS, and how to connect to it."""

    class Server:
        async def __aenter__(self):
            if kind == "tcp":
                self.server = await loop.create_server(Echo, "127.0.0.1", 0, ssl=server_context)
            else:
                self.server = await loop.create_unix_server(Echo, str(tmp_path / "tls"), ssl=server_context)
            return self

        async def __aexit__(self, *_):
            self.server.close()
            await self.server.wait_closed()

        async def connect(self, context=client_context, **options):
            address = self.server.sockets[0].getsockname()
            if kind == "tcp":
                return await loop.create_connection(Recorder, *address, ssl=context, **options)
            options.setdefault("server_hostname", "localhost")
            return await loop.create_unix_connection(Recorder, address, ssl=context, **options)

    return Server()


async def finish(transport, protocol):
    transport.close()
    await protocol.until_called("lost")
    assert protocol.calls.count("lost") == 1


@pytest.mark.parametrize("size", SIZES)
async def test_echo(loop, echo, size):
    async with echo:
        transport, protocol = await echo.connect()
        data = payload(size)
        transport.write(data)
        await protocol.until_received(size)
        assert digest(protocol.data) == digest(data)
        await finish(transport, protocol)
        assert protocol.exc is None


async def test_many_connections(loop, echo):
    async def client(number):
        transport, protocol = await echo.connect()
        data = payload(5000 + number, number)
        transport.write(data[:1000])
        await turns(number % 4)
        transport.writelines([data[1000:2000], data[2000:]])
        await protocol.until_received(len(data))
        assert protocol.data == data
        await finish(transport, protocol)

    async with echo:
        await asyncio.gather(*(client(i) for i in range(30)))


async def test_extra_info(loop, echo):
    async with echo:
        transport, protocol = await echo.connect()
        assert isinstance(transport, asyncio.Transport)
        assert isinstance(transport.get_extra_info("ssl_object"), ssl.SSLObject)
        assert transport.get_extra_info("sslcontext") is not None
        assert transport.get_extra_info("cipher")
        assert transport.get_extra_info("peercert")["subjectAltName"]
        assert transport.get_extra_info("socket").fileno() >= 0
        assert transport.get_extra_info("peername") == echo.server.sockets[0].getsockname()
        assert not transport.can_write_eof()
        await finish(transport, protocol)


async def test_pause_and_resume_reading(loop, echo):
    async with echo:
        transport, protocol = await echo.connect()
        transport.pause_reading()
        transport.write(payload(500_000))
        await asyncio.sleep(0.03)
        assert protocol.received == 0
        transport.resume_reading()
        await protocol.until_received(500_000)
        assert digest(protocol.data) == digest(payload(500_000))
        await finish(transport, protocol)


async def test_abort(loop, echo):
    async with echo:
        transport, protocol = await echo.connect()
        transport.write(payload(3_000_000))
        transport.abort()
        await protocol.until_called("lost")
        assert protocol.calls.count("lost") == 1


async def test_wrong_name_and_unknown_authority(loop, echo, errors):
    async with echo:
        with pytest.raises(ssl.SSLCertVerificationError):
            await echo.connect(server_hostname="elsewhere.test")
        with pytest.raises(ssl.SSLCertVerificationError):
            await echo.connect(ssl.create_default_context())
        transport, protocol = await echo.connect()
        await finish(transport, protocol)
    errors.clear()


async def test_a_client_that_speaks_no_tls(loop, server_context, errors):
    server = await loop.create_server(Echo, "127.0.0.1", 0, ssl=server_context)
    address = server.sockets[0].getsockname()
    for greeting in (b"GET / HTTP/1.0\r\n\r\n", b""):
        reader, writer = await asyncio.open_connection(*address)
        writer.write(greeting)
        if not greeting:
            writer.write_eof()
        try:
            await reader.read()
        except ConnectionError:
            pass
        writer.close()
    server.close()
    await server.wait_closed()
    errors.clear()


async def test_handshake_timeout(loop, client_context):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        with pytest.raises(ConnectionAbortedError):
            await loop.create_connection(
                Recorder,
                *silent.getsockname(),
                ssl=client_context,
                ssl_handshake_timeout=0.05,
            )


async def test_cancelled_handshake_leaves_nothing(loop, client_context):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        for i in range(8):
            connecting = asyncio.ensure_future(
                loop.create_connection(Recorder, *silent.getsockname(), ssl=client_context)
            )
            await turns(i)
            connecting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await connecting
        await turns(5)


async def test_streams(loop, server_context, client_context):
    async def serve(reader, writer):
        while line := await reader.readline():
            writer.write(line.upper())
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=server_context)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname(), ssl=client_context)
    for i in range(100):
        writer.write(b"line %d\n" % i)
        await writer.drain()
        assert await reader.readline() == b"LINE %d\n" % i
    writer.close()
    await writer.wait_closed()
    server.close()
    await server.wait_closed()


async def test_accepted_socket(loop, server_context, client_context):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        connecting = asyncio.ensure_future(
            loop.create_connection(Recorder, *listener.getsockname(), ssl=client_context)
        )
        await turns(5)
        sock, _ = await asyncio.to_thread(listener.accept)
    sock.setblocking(False)
    inner, _ = await loop.connect_accepted_socket(Echo, sock, ssl=server_context)
    transport, protocol = await connecting
    transport.write(b"hello")
    await protocol.until_received(5)
    await finish(transport, protocol)
    inner.close()


class PatientEcho(Echo):
    """An echo whose first data may come before it is told its transport."""

    early = b""

    def connection_made(self, transport):
        super().connection_made(transport)
        transport.write(self.early)

    def data_received(self, data):
        if self.transport is None:
            self.early += data
        else:
            super().data_received(data)


class UpgradingServer(asyncio.Protocol):
    """Answers in the clear; on `STARTTLS` it goes on with TLS and echoes."""

    def __init__(self, loop, context, done):
        self.loop, self.context, self.done = loop, context, done

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        if data == b"STARTTLS":
            self.transport.write(b"READY")
            self.task = self.loop.create_task(self.upgrade())
        else:
            self.transport.write(b"clear " + data)

    async def upgrade(self):
        echo = PatientEcho()
        tls = await self.loop.start_tls(self.transport, echo, self.context, server_side=True)
        echo.connection_made(tls)
        self.done.set_result(tls)


@pytest.mark.parametrize("size", [10, 1_000_000])
async def test_start_tls_on_both_sides(loop, server_context, client_context, size):
    done = loop.create_future()
    server = await loop.create_server(lambda: UpgradingServer(loop, server_context, done), "127.0.0.1", 0)
    plain, protocol = await loop.create_connection(Recorder, *server.sockets[0].getsockname())
    plain.write(b"hi")
    await protocol.until_received(8)
    assert protocol.data == b"clear hi"
    plain.write(b"STARTTLS")
    await protocol.until_received(13)
    inner = Recorder()
    tls = await loop.start_tls(plain, inner, client_context, server_hostname="localhost")
    inner.transport = tls
    assert tls.get_extra_info("ssl_object") is not None
    tls.write(payload(size))
    await inner.until_received(size)
    assert digest(inner.data) == digest(payload(size))
    await finish(tls, inner)
    (await done).close()
    server.close()
    await server.wait_closed()
    await turns(5)


async def test_stream_writer_start_tls(loop, server_context, client_context):
    async def serve(reader, writer):
        writer.write(await reader.readexactly(5))
        await writer.drain()
        await writer.start_tls(server_context)
        writer.write(await reader.readexactly(6))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(b"clear")
    assert await reader.readexactly(5) == b"clear"
    await writer.start_tls(client_context, server_hostname="localhost")
    writer.write(b"secret")
    assert await reader.readexactly(6) == b"secret"
    writer.close()
    try:
        await writer.wait_closed()
    except ssl.SSLError:
        pass
    server.close()
    await server.wait_closed()


async def test_start_tls_that_fails(loop, client_context):
    """The far end hangs up in the middle of the handshake."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        transport, _ = await loop.create_connection(Recorder, *listener.getsockname())
        sock, _ = listener.accept()
        starting = asyncio.ensure_future(
            loop.start_tls(transport, Recorder(), client_context, server_hostname="localhost")
        )
        await turns(3)
        sock.close()
        with pytest.raises((ConnectionError, ssl.SSLError)):
            await starting
    transport.abort()
    await turns(3)


@pytest.mark.ours  # asyncio's own from Python 3.15 on
def test_start_tls_with_a_certificate_that_is_refused_leaves_no_cycle(new_loop, server_context):
    loop = new_loop()
    seen = []

    def serve():
        sock, _ = listener.accept()
        with sock, contextlib.suppress(OSError):
            server_context.wrap_socket(sock, server_side=True).close()

    async def connect():
        transport, protocol = await loop.create_connection(asyncio.Protocol, *listener.getsockname())
        seen.append(weakref.ref(transport))
        with contextlib.suppress(ssl.SSLCertVerificationError):
            await loop.start_tls(transport, protocol, ssl.create_default_context(), server_hostname="localhost")
            raise AssertionError("the certificate was accepted")

    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as far_end:
        serving = far_end.submit(serve)
        gc.disable()
        try:
            loop.run_until_complete(connect())
            assert seen[0]() is None
        finally:
            gc.enable()
        serving.result()


async def test_start_tls_wants_a_context(loop, connect):
    transport, _, _ = await connect()
    with pytest.raises(TypeError):
        await loop.start_tls(transport, Recorder(), None)
