"""How TLS connections end when the peer does not play along: bounded in time and in bytes."""

import asyncio
import gc
import ssl
import threading
import time
import weakref

import pytest
from support import Leaving, Recorder, digest, payload, run_again, shrink, turns
from test_tls_special import plain_pair
from tls_support import VERSIONS, Connector, Contexts

pytestmark = pytest.mark.filterwarnings("ignore:unclosed transport:ResourceWarning")

ENOUGH = 20 * 1024 * 1024  # what kernels hold for two sockets, and much more than is read after close()
EARLY = 10  # seconds: less than any timeout here that is not meant to pass


@pytest.fixture(scope="session")
def contexts():
    return Contexts()


@pytest.fixture(params=["server", "client"])
def side(request):
    return request.param


@pytest.fixture(params=VERSIONS)
def version(request):
    return request.param


@pytest.fixture
def connect_tls(loop, contexts, side, version):
    connector = Connector(loop, contexts, side, version)
    yield connector
    connector.clean()
    loop.run_until_complete(turns(5))


class Flood:
    """The far end sends without end, from a thread; it may be read from at the same time."""

    def __init__(self, peer, *, size=16 * 1024, pause=0.0, most=1 << 40):
        self.peer, self.size, self.pause, self.most = peer, size, pause, most
        self.lock = threading.Lock()
        self.sent = 0
        self.ended = asyncio.ensure_future(asyncio.to_thread(self._send))

    def _send(self):
        data = payload(self.size)
        while self.sent < self.most:
            with self.lock:
                records = self.peer.encrypt(data)
            try:
                self.peer.sock.sendall(records)
            except OSError as error:
                return type(error)
            self.sent += self.size
            if self.pause:
                time.sleep(self.pause)
        return None

    def read(self, count):
        """`count` bytes that the loop's end has written."""
        parts = []
        while count:
            data = self.peer.sock.recv(1 << 16)
            assert data
            with self.lock:
                self.peer.incoming.write(data)
                while count:
                    try:
                        parts.append(self.peer.tls.read(min(count, 1 << 16)))
                    except ssl.SSLWantReadError:
                        break
                    count -= len(parts[-1])
        return b"".join(parts)


def is_early_end(exc):
    """How a connection ends on which the peer has gone on sending: asyncio's own complains."""
    return exc is None or getattr(exc, "reason", "") == "APPLICATION_DATA_AFTER_CLOSE_NOTIFY"


@pytest.mark.parametrize("paused", [False, True], ids=["reading", "paused"])
async def test_the_peer_goes_on_sending(connect_tls, paused):
    transport, protocol, peer = await connect_tls(Recorder)
    flood = Flood(peer)
    await protocol.until_received(100_000)
    if paused:
        transport.pause_reading()
        await turns(10)
    before, began = protocol.received, time.monotonic()
    transport.close()
    await protocol.until_called("lost")
    assert time.monotonic() - began < EARLY
    assert is_early_end(protocol.exc)
    assert protocol.received == before
    assert await flood.ended in (ConnectionResetError, BrokenPipeError)
    assert flood.sent < ENOUGH


async def test_a_peer_that_sends_little_is_not_listened_to_for_long(connect_tls):
    transport, protocol, peer = await connect_tls(Recorder)
    flood = Flood(peer, size=10, pause=0.05)
    await protocol.until_received(10)
    began = time.monotonic()
    transport.close()
    await protocol.until_called("lost")
    assert time.monotonic() - began < EARLY
    assert is_early_end(protocol.exc)
    await flood.ended


@pytest.mark.ours  # asyncio's transport gives up when something comes
async def test_what_was_written_still_goes_out_while_the_peer_sends(connect_tls):
    transport, protocol, peer = await connect_tls(Recorder, prepare=shrink)
    data = payload(3_000_000)
    transport.write(data)
    transport.close()
    flood = Flood(peer, most=200_000)
    assert digest(await asyncio.to_thread(flood.read, len(data))) == digest(data)
    assert await flood.ended is None
    await peer.send_raw(peer.close_notify())
    await protocol.until_called("lost")
    assert protocol.exc is None and protocol.data == b""


@pytest.mark.ours  # asyncio's transport gives up when something comes
async def test_a_peer_that_only_sends_does_not_hold_what_was_written_for_long(connect_tls):
    transport, protocol, peer = await connect_tls(Recorder, prepare=shrink, ssl_shutdown_timeout=0.1)
    flood = Flood(peer)
    await protocol.until_received(100_000)
    transport.write(payload(8_000_000))
    transport.close()
    await protocol.until_called("lost")
    assert isinstance(protocol.exc, TimeoutError)
    assert await flood.ended in (ConnectionResetError, BrokenPipeError)
    assert flood.sent < ENOUGH


@pytest.mark.ours  # asyncio's transport gives up when something comes
async def test_an_answer_behind_some_data_ends_it_well(connect_tls):
    transport, protocol, peer = await connect_tls(Recorder)
    transport.close()
    await peer.send(payload(50_000))
    assert await peer.recv_all() == b""
    await peer.send_raw(peer.close_notify())
    await protocol.until_called("lost")
    assert protocol.exc is None
    assert protocol.data == b""
    assert await asyncio.to_thread(peer.sock.recv, 100) == b""


@pytest.mark.ours  # asyncio's waits for ever
async def test_a_peer_that_has_ended_and_stops_reading(connect_tls):
    transport, protocol, peer = await connect_tls(Recorder, prepare=shrink, ssl_shutdown_timeout=0.1)
    transport.write(payload(8_000_000))
    await peer.send_raw(peer.close_notify())
    await protocol.until_called("lost")
    assert isinstance(protocol.exc, TimeoutError)


async def test_a_peer_that_has_ended_and_reads_slowly_gets_everything(connect_tls):
    transport, protocol, peer = await connect_tls(Recorder, prepare=shrink, ssl_shutdown_timeout=1)
    data = payload(2_000_000)
    transport.write(data)
    await peer.send_raw(peer.close_notify())
    parts, began = [], time.monotonic()
    for _ in range(20):
        parts.append(await peer.recv(100_000))
        await asyncio.sleep(0.06)
    assert time.monotonic() - began > 1.1
    assert digest(b"".join(parts)) == digest(data)
    await protocol.until_called("lost")
    assert protocol.exc is None


class Endless(asyncio.Protocol):
    """Writes as long as the peer takes it."""

    def __init__(self):
        self.sent, self.ended = 0, asyncio.get_running_loop().create_future()

    def connection_made(self, transport):
        self.transport = transport
        self.may_write = True
        self.resume_writing()

    def pause_writing(self):
        self.may_write = False

    def resume_writing(self):
        self.may_write = True
        self.go_on()

    def go_on(self):
        if self.may_write and not self.transport.is_closing():
            self.transport.write(bytes(16 * 1024))
            self.sent += 16 * 1024
            asyncio.get_running_loop().call_soon(self.go_on)

    def connection_lost(self, exc):
        self.ended.set_result(exc)


async def test_leaving_a_download_early(loop, contexts):
    """Both ends on the loop, and the client a stream reader whose buffer is full."""
    served = []

    def serve():
        served.append(Endless())
        return served[-1]

    server = await loop.create_server(serve, "127.0.0.1", 0, ssl=contexts.server())
    reader, writer = await asyncio.open_connection(
        *server.sockets[0].getsockname(), ssl=contexts.client(), server_hostname="localhost", limit=64 * 1024
    )
    await reader.readexactly(300_000)
    writer.close()
    try:
        await asyncio.wait_for(writer.wait_closed(), EARLY)
    except ssl.SSLError as error:
        assert is_early_end(error)
    await asyncio.wait_for(served[0].ended, EARLY)
    assert served[0].sent < ENOUGH
    server.close()
    await server.wait_closed()


async def test_leaving_a_download_early_in_two_layers(loop, contexts):
    (one, _), (other, _) = await plain_pair(loop)
    outer = await asyncio.gather(
        loop.start_tls(one, asyncio.Protocol(), contexts.server(), server_side=True),
        loop.start_tls(other, asyncio.Protocol(), contexts.client(), server_hostname="localhost"),
    )
    endless, client = Endless(), Recorder()
    inner = await asyncio.gather(
        loop.start_tls(outer[0], endless, contexts.server(), server_side=True),
        loop.start_tls(outer[1], client, contexts.client(), server_hostname="localhost"),
    )
    endless.connection_made(inner[0])
    await client.until_received(100_000)
    inner[1].close()
    await asyncio.wait_for(client.until_called("lost"), EARLY)
    assert is_early_end(client.exc)
    await asyncio.wait_for(endless.ended, EARLY)
    assert endless.sent < ENOUGH
    await turns(10)


@pytest.mark.parametrize("ending", ["close", "abort"])
async def test_ending_the_carrier_while_the_peer_sends(connect_tls, loop, contexts, ending):
    """start_tls() over a connection whose owner ends it below."""
    (one, _), (other, _) = await plain_pair(loop)
    endless, client = Endless(), Recorder()
    upgraded = await asyncio.gather(
        loop.start_tls(one, endless, contexts.server(), server_side=True),
        loop.start_tls(other, client, contexts.client(), server_hostname="localhost"),
    )
    endless.connection_made(upgraded[0])
    await client.until_received(100_000)
    getattr(other, ending)()
    await asyncio.wait_for(client.until_called("lost"), EARLY)
    await asyncio.wait_for(endless.ended, EARLY)
    assert client.exc is None
    assert endless.sent < ENOUGH
    await turns(10)


async def test_aborting_while_it_ends(connect_tls):
    """abort() after close(), in front of a peer that sends and one that says nothing."""
    for sends in (True, False):
        transport, protocol, peer = await connect_tls(Recorder, prepare=shrink)
        flood = Flood(peer, most=1 << 40 if sends else 0)
        transport.write(payload(3_000_000))
        transport.close()
        transport.abort()
        await protocol.until_called("lost")
        assert protocol.exc is None
        assert protocol.calls.count("lost") == 1
        assert await flood.ended in ((ConnectionResetError, BrokenPipeError) if sends else (None,))


async def test_transports_take_attributes(connect_tls):
    transport, protocol, peer = await connect_tls(Recorder)
    written = []
    transport.write = written.append
    transport.my_own = 1
    transport.write(b"seen")
    assert written == [b"seen"] and transport.my_own == 1
    del transport.write
    transport.write(b"sent")
    assert await peer.recv(4) == b"sent"
    reference = weakref.ref(transport)
    assert reference() is transport
    transport.abort()
    await protocol.until_called("lost")
    protocol.transport = None
    gc.collect()


# -- what leaves the loop


class Leaver(Leaving, Recorder):
    """Ends the program once."""


@pytest.mark.ours  # asyncio's TLS forgets what it had not done
@pytest.mark.parametrize("exit", [SystemExit(3), KeyboardInterrupt()], ids=["exit", "interrupt"])
@pytest.mark.parametrize("name", ["made", "data", "eof", "lost", "resume"])
def test_an_exit_out_of_a_callback_leaves_a_connection_that_goes_on(loop, contexts, name, exit):
    """Data and close_notify come together; what was not done when the exit came is done when the loop runs again."""
    connector = Connector(loop, contexts, "client", None)
    ours, peer = connector.pair(shrink)
    protocol = Leaver(name, exit)

    async def talk():
        """Part of the program that is run again as often as it was left."""
        await asyncio.gather(opening, shaking)
        if name == "resume":
            protocol.transport.write(payload(1_000_000))
            assert await peer.recv(1_000_000) == payload(1_000_000)
        await peer.send_raw(peer.encrypt(b"one") + peer.encrypt(b"two") + peer.close_notify())
        assert await peer.recv_all() == b""
        await protocol.until_called("lost")

    opening = loop.create_task(connector.open(ours, lambda: protocol))
    shaking = loop.create_task(peer.handshake())
    assert run_again(loop, talk(), exit) == 1
    assert protocol.data == b"onetwo"
    assert [call for call in protocol.calls if call not in ("pause", "resume")] == ["made", "data", "eof", "lost"]
    connector.clean()
    loop.run_until_complete(turns(5))
