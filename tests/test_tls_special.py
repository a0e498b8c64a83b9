"""What is rare in TLS: key updates, renegotiation, TLS in TLS, upgrades, and openssl's own client and server."""

import asyncio
import gc
import shutil
import socket
import ssl
import warnings
from asyncio import sslproto

import pytest
from support import Echo, Recorder, digest, payload, settle, tcp_pair, turns
from tls_support import Connector, Contexts

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")


@pytest.fixture(scope="session")
def contexts():
    return Contexts()


@pytest.fixture
def pem(contexts, tmp_path):
    """Files of the certificate with its key, and of the authority."""
    certificate = tmp_path / "certificate.pem"
    blobs = [contexts.certificate.private_key_pem, *contexts.certificate.cert_chain_pems]
    certificate.write_bytes(b"".join(blob.bytes() for blob in blobs))
    return str(certificate)


class OpenSsl:
    """An `openssl s_client` or `s_server`, driven through its standard input."""

    def __init__(self, process):
        self.process = process
        self.seen = b""

    @classmethod
    async def start(cls, *arguments):
        return cls(
            await asyncio.create_subprocess_exec(
                "openssl",
                *arguments,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
            )
        )

    def say(self, line):
        self.process.stdin.write(line + b"\n")

    async def until(self, words):
        while words not in self.seen:
            more = await self.process.stdout.read(4096)
            assert more, self.seen.decode(errors="replace")
            self.seen += more
        self.seen = self.seen.partition(words)[2]

    async def stop(self):
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()
        self.process._transport.close()


@needs_openssl
async def test_key_updates_from_a_client(loop, contexts):
    protocols = []

    def factory():
        protocols.append(EchoRecorder())
        return protocols[-1]

    server = await loop.create_server(factory, "127.0.0.1", 0, ssl=contexts.server("1.3"))
    client = await OpenSsl.start("s_client", "-tls1_3", "-connect", address_of(server))
    await client.until(b"Verify return code")
    for i, command in enumerate((b"K", b"k", b"K", b"K")):
        client.say(b"before %d" % i)
        await client.until(b"before %d" % i)
        client.say(command)
        await client.until(b"KEYUPDATE")
        client.say(b"after %d" % i)
        await client.until(b"after %d" % i)
    client.say(b"Q")
    await protocols[0].until_called("lost")
    assert protocols[0].exc is None
    assert b"".join(b"before %d\nafter %d\n" % (i, i) for i in range(4)) == protocols[0].data
    await client.stop()
    server.close()
    await server.wait_closed()
    await turns(5)


@needs_openssl
async def test_key_updates_from_a_server(loop, contexts, pem):
    port = free_port()
    server = await OpenSsl.start("s_server", "-tls1_3", "-accept", f"127.0.0.1:{port}", "-cert", pem, "-key", pem)
    await server.until(b"ACCEPT")
    transport, protocol = await loop.create_connection(
        Recorder, "127.0.0.1", port, ssl=contexts.client(), server_hostname="localhost"
    )
    for i in range(3):
        server.say(b"K")
        for ping in (b"ping", b"again"):  # when it has answered twice, it has seen the command
            transport.write(ping + b"\n")
            await server.until(ping)
        server.say(b"message %d" % i)
        await protocol.until(lambda i=i: b"message %d\n" % i in protocol.data)
        transport.write(b"answer %d\n" % i)
        await server.until(b"answer %d" % i)
    transport.close()
    await protocol.until_called("lost")
    assert protocol.exc is None
    await server.stop()
    await turns(5)


@needs_openssl
async def test_renegotiation_asked_for_by_a_client_is_refused(loop, contexts):
    server = await loop.create_server(EchoRecorder, "127.0.0.1", 0, ssl=contexts.server("1.2"))
    client = await OpenSsl.start("s_client", "-tls1_2", "-connect", address_of(server))
    await client.until(b"Verify return code")
    client.say(b"hello")
    await client.until(b"hello")
    client.say(b"R")
    await client.until(b"no renegotiation")
    await client.stop()
    server.close()
    await server.wait_closed()
    await turns(5)


@needs_openssl
async def test_renegotiation_asked_for_by_a_server(loop, contexts, pem):
    """In the middle of data in both directions."""
    port = free_port()
    server = await OpenSsl.start("s_server", "-tls1_2", "-accept", f"127.0.0.1:{port}", "-cert", pem, "-key", pem)
    await server.until(b"ACCEPT")
    transport, protocol = await loop.create_connection(
        Recorder, "127.0.0.1", port, ssl=contexts.client(), server_hostname="localhost"
    )
    for i in range(3):
        server.say(b"r")
        transport.write(b"during %d\n" % i)
        await server.until(b"during %d" % i)
        server.say(b"message %d" % i)
        await protocol.until(lambda i=i: b"message %d\n" % i in protocol.data)
    transport.close()
    await protocol.until_called("lost")
    await server.stop()
    await turns(5)


class EchoRecorder(Recorder):
    def data_received(self, data):
        super().data_received(data)
        self.transport.write(data)


def address_of(server):
    host, port = server.sockets[0].getsockname()
    return f"{host}:{port}"


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


# -- sessions


@pytest.mark.parametrize("version", ["1.2", "1.3"])
async def test_a_session_is_resumed(loop, contexts, version):
    server = await loop.create_server(EchoRecorder, "127.0.0.1", 0, ssl=contexts.server(version))
    context = contexts.client(version)
    session = None
    for number in range(3):
        # asyncio has no argument for a session, so a blocking client in a thread asks for it.
        resumed, session = await asyncio.to_thread(
            talk, context, server.sockets[0].getsockname(), session
        )
        assert resumed == (number > 0)
    server.close()
    await server.wait_closed()
    await turns(5)


def talk(context, address, session):
    with socket.create_connection(address, timeout=20) as raw:
        with context.wrap_socket(raw, server_hostname="localhost", session=session) as tls:
            tls.sendall(b"hello")
            assert tls.recv(100) == b"hello"
            resumed, session = tls.session_reused, tls.session
            tls.unwrap()
            return resumed, session


# -- upgrades


class Upgrader(asyncio.Protocol):
    """In the clear until told to upgrade."""

    def __init__(self):
        self.data = b""
        self.lost = None

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.data += data

    def connection_lost(self, exc):
        self.lost = [exc]


async def plain_pair(loop, factory=Upgrader):
    ours, theirs = tcp_pair()
    ours.setblocking(False)
    theirs.setblocking(False)
    one = await loop.connect_accepted_socket(factory, ours)
    other = await loop.connect_accepted_socket(factory, theirs)
    return one, other


async def test_tls_in_tls(loop, contexts):
    """Two layers, as behind an https proxy; both directions, much data, and the end."""
    (one, _), (other, _) = await plain_pair(loop)
    outer = await asyncio.gather(
        loop.start_tls(one, Upgrader(), contexts.server(), server_side=True),
        loop.start_tls(other, Upgrader(), contexts.client(), server_hostname="localhost"),
    )
    inside, client = EchoRecorder(), Recorder()
    inner = await asyncio.gather(
        loop.start_tls(outer[0], inside, contexts.server("1.2"), server_side=True),
        loop.start_tls(outer[1], client, contexts.client(), server_hostname="localhost"),
    )
    inside.transport, client.transport = inner
    assert inner[1].get_extra_info("ssl_object").version() == "TLSv1.2"
    assert outer[1].get_extra_info("ssl_object").version() == "TLSv1.3"
    for size in (1, 20_000, 3_000_000):
        before = client.received
        inner[1].write(payload(size))
        await client.until_received(before + size)
        assert digest(client.data[before:]) == digest(payload(size))
    inner[1].pause_reading()
    inner[1].write(b"x" * 50_000)
    before = client.received
    await asyncio.sleep(0.02)
    assert client.received == before
    inner[1].resume_reading()
    await client.until_received(before + 50_000)
    inner[1].close()
    await client.until_called("lost")
    await inside.until_called("lost")
    assert client.exc is None and inside.exc is None
    await turns(10)
    assert one.is_closing() and other.is_closing()


@pytest.mark.ours  # asyncio of most Python versions loses what a StreamReader has read
async def test_data_before_the_upgrade_is_not_lost(loop, contexts):
    """The client's first message comes together with the last words in the clear."""
    connector = Connector(loop, contexts, "server", None)
    ours, peer = connector.pair()
    with pytest.raises(ssl.SSLWantReadError):
        peer.tls.do_handshake()
    reader, writers = asyncio.StreamReader(), []
    protocol = asyncio.StreamReaderProtocol(reader, lambda _, writer: writers.append(writer))
    _transport, _ = await loop.connect_accepted_socket(lambda: protocol, ours)
    await peer.send_raw(b"PROXY header\r\n" + peer.outgoing.read())
    assert await reader.readline() == b"PROXY header\r\n"
    await settle(lambda: reader._buffer)
    shaking = asyncio.ensure_future(peer.handshake())
    await writers[0].start_tls(contexts.server())
    await shaking
    await peer.send(b"over TLS\n")
    assert await reader.readline() == b"over TLS\n"
    writers[0].transport.abort()
    connector.clean()
    await turns(5)


async def test_upgrade_while_reading_was_paused_and_data_waits(loop, contexts):
    connector = Connector(loop, contexts, "server", None)
    ours, peer = connector.pair()
    with pytest.raises(ssl.SSLWantReadError):
        peer.tls.do_handshake()
    transport, plain = await loop.connect_accepted_socket(Upgrader, ours)
    transport.pause_reading()
    await peer.send_raw(peer.outgoing.read())
    await asyncio.sleep(0.02)
    assert plain.data == b""
    protocol = Recorder()
    shaking = asyncio.ensure_future(peer.handshake())
    upgraded = await loop.start_tls(transport, protocol, contexts.server(), server_side=True)
    await shaking
    await peer.send(b"hello")
    await protocol.until_received(5)
    assert protocol.calls == ["data"]  # connection_made is the caller's
    upgraded.abort()
    connector.clean()
    await turns(5)


async def test_what_was_written_before_the_upgrade_goes_first(loop, contexts):
    connector = Connector(loop, contexts, "server", None)
    ours, peer = connector.pair()
    transport, _ = await loop.connect_accepted_socket(Upgrader, ours)
    transport.write(b"clear " * 50_000)
    upgrading = asyncio.ensure_future(loop.start_tls(transport, Recorder(), contexts.server(), server_side=True))
    clear = b""
    while len(clear) < 300_000:
        clear += await asyncio.to_thread(peer.sock.recv, 300_000 - len(clear))
    assert clear == b"clear " * 50_000
    await peer.handshake()
    (await upgrading).abort()
    connector.clean()
    await turns(5)


async def test_the_upgraded_protocol_hears_of_the_end(loop, contexts):
    connector = Connector(loop, contexts, "server", None)
    ours, peer = connector.pair()
    transport, protocol = await loop.connect_accepted_socket(Upgrader, ours)
    upgrading = asyncio.ensure_future(loop.start_tls(transport, protocol, contexts.server(), server_side=True))
    await turns(3)
    await peer.send_raw(b"this is no TLS at all\r\n")
    with pytest.raises(ssl.SSLError):
        await upgrading
    await settle(lambda: protocol.lost)
    assert isinstance(protocol.lost[0], ssl.SSLError)
    connector.clean()
    await turns(5)


async def test_upgrade_of_a_closed_connection_gives_none(loop, contexts, connect):
    transport, protocol, _ = await connect()
    transport.close()
    assert await loop.start_tls(transport, protocol, contexts.client(), server_hostname="localhost") is None


@pytest.mark.ours  # asyncio begins a handshake, which nobody answers
async def test_upgrade_of_a_lost_connection_gives_none(loop, contexts, connect):
    transport, protocol, _ = await connect()
    transport.close()
    await protocol.until_called("lost")
    assert await loop.start_tls(transport, protocol, contexts.client(), server_hostname="localhost") is None


@pytest.mark.ours  # asyncio begins a handshake, which nobody answers
async def test_upgrade_of_a_connection_that_was_reset_says_so(loop, contexts, connect):
    transport, protocol, peer = await connect()
    peer.reset()
    await protocol.until_called("lost")
    with pytest.raises(ConnectionResetError):
        await loop.start_tls(transport, protocol, contexts.client(), server_hostname="localhost")


async def test_upgrade_of_a_connection_closed_meanwhile_gives_none(loop, contexts, connect):
    transport, protocol, _ = await connect()
    upgrading = asyncio.ensure_future(
        loop.start_tls(transport, protocol, contexts.client(), server_hostname="localhost")
    )
    await turns(5)
    transport.close()
    assert await asyncio.wait_for(upgrading, 5) is None


async def test_the_context_is_where_programs_look_for_it(loop, contexts):
    connector = Connector(loop, contexts, "server", None)
    ours, peer = connector.pair()
    context = contexts.server()
    transport, protocol = await loop.connect_accepted_socket(Upgrader, ours)
    upgrading = asyncio.ensure_future(loop.start_tls(transport, protocol, context, server_side=True))
    await peer.handshake()
    transport = await upgrading
    assert getattr(transport, "_ssl_protocol", transport)._sslcontext is context
    transport.abort()
    connector.clean()
    await turns(5)


class Foreign(asyncio.Transport):
    """A transport of somebody else, on top of one of the loop's."""

    _start_tls_compatible = True

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def __getattr__(self, name):
        return getattr(self.inner, name)


PASSED_ON = ("write", "close", "abort", "is_closing", "pause_reading", "resume_reading", "is_reading", "set_protocol",
             "get_protocol", "get_extra_info", "get_write_buffer_size")
for _name in PASSED_ON:
    setattr(Foreign, _name, lambda self, *args, _name=_name: getattr(self.inner, _name)(*args))


async def test_upgrade_of_somebody_elses_transport(loop, contexts):
    (one, _), (other, _) = await plain_pair(loop)
    inside, client = EchoRecorder(), Recorder()
    server_end, client_end = await asyncio.gather(
        loop.start_tls(Foreign(one), inside, contexts.server(), server_side=True),
        loop.start_tls(other, client, contexts.client(), server_hostname="localhost"),
    )
    assert isinstance(server_end, sslproto._SSLProtocolTransport)
    inside.transport = server_end
    client_end.write(payload(500_000))
    await client.until_received(500_000)
    assert digest(client.data) == digest(payload(500_000))
    client_end.close()
    await client.until_called("lost")
    await turns(10)
    server_end.abort()
    await turns(5)


# -- introspection


@pytest.mark.ours
async def test_repr_tells_phase_and_version(loop, contexts):
    connector = Connector(loop, contexts, "server", "1.3")
    transport, protocol, peer = await connector(Recorder)
    assert repr(transport).startswith("<SSLTransport open fd=")
    assert "TLSv1.3 read=polling" in repr(transport)
    transport.close()
    assert "flushing" in repr(transport)
    await peer.send_raw(peer.close_notify())
    await protocol.until_called("lost")
    assert repr(transport).startswith("<SSLTransport closed fd=-1")
    connector.clean()


@pytest.mark.ours
def test_an_unclosed_transport_is_reported(way, contexts):
    loop = way.new_loop()

    async def leave_open(loop):
        ours, theirs = tcp_pair()
        context = contexts.client()
        opening = asyncio.ensure_future(
            loop.create_connection(Recorder, sock=ours, ssl=context, server_hostname="localhost")
        )
        theirs.setblocking(False)
        await loop.connect_accepted_socket(Echo, theirs, ssl=contexts.server())
        await opening

    loop.run_until_complete(leave_open(loop))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loop.close()
        del loop
        gc.collect()
    assert any("unclosed transport <SSLTransport open" in str(warning.message) for warning in caught)


async def test_nothing_keeps_a_closed_connection(loop, contexts):
    """No cycle is left for the collector: handshake and shutdown timers hold nothing."""
    connector = Connector(loop, contexts, "server", None)
    transport, protocol, peer = await connector(Recorder)
    transport.close()
    await peer.send_raw(peer.close_notify())
    await protocol.until_called("lost")
    await turns(5)
    assert transport.get_protocol() is None
    connector.clean()


async def test_limits_of_what_is_kept_while_reading_is_paused(loop, contexts):
    transport, protocol, peer = await Connector(loop, contexts, "client", None)(Recorder)
    assert transport.get_read_buffer_limits() == (64 * 1024, 256 * 1024)
    transport.set_read_buffer_limits(high=40_000)
    assert transport.get_read_buffer_limits() == (10_000, 40_000)
    with pytest.raises(ValueError, match="must be >="):
        transport.set_read_buffer_limits(high=1, low=2)
    transport.pause_reading()
    sending = asyncio.ensure_future(peer.send(payload(5_000_000)))
    await settle(lambda: transport.get_read_buffer_size() >= 40_000)
    await asyncio.sleep(0.05)
    assert transport.get_read_buffer_size() < 600_000
    transport.resume_reading()
    await protocol.until_received(5_000_000)
    await sending
    assert digest(protocol.data) == digest(payload(5_000_000))
    transport.abort()
    peer.close()
