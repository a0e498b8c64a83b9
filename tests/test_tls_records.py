"""TLS whose ciphertext is cut anywhere: nothing may depend on where a receive ends."""

import asyncio
import random
import ssl

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import Recorder, digest, payload, turns
from test_tls_contract import Buffered
from tls_support import VERSIONS, Connector, Contexts


@pytest.fixture(scope="session")
def contexts():
    return Contexts()


def cut(data, sizes):
    """`data` in pieces of these sizes, over and over."""
    at, i = 0, 0
    while at < len(data):
        yield data[at : at + sizes[i % len(sizes)]]
        at += sizes[i % len(sizes)]
        i += 1


async def trickle(transport_turns, peer, data, sizes):
    """Send `data` in pieces, the loop having time to receive each."""
    for piece in cut(data, sizes):
        peer.sock.sendall(piece)
        await turns(transport_turns)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("sizes", [[1], [5], [4, 1, 7], [6, 3000], [16_406], [16_405, 1], [100_000]], ids=str)
@pytest.mark.parametrize("buffered", [False, True], ids=["data_received", "get_buffer"])
async def test_cut_in_pieces(loop, contexts, version, sizes, buffered):
    connector = Connector(loop, contexts, "server", version)
    _, protocol, peer = await connector(lambda: Buffered(3000) if buffered else Recorder())
    small = max(sizes) < 100
    messages = [payload(size, i) for i, size in enumerate([1, 2, 300] if small else [1, 16_384, 16_385, 70_000, 3])]
    wire = b"".join(peer.encrypt(message) for message in messages)
    expected = b"".join(messages)
    await trickle(2, peer, wire + peer.close_notify(), sizes)
    while "lost" not in protocol.calls:
        await asyncio.sleep(0.001)
    assert digest(protocol.data) == digest(expected)
    connector.clean()
    await turns(5)


@pytest.mark.parametrize("side", ["server", "client"])
@pytest.mark.parametrize("version", VERSIONS)
async def test_the_handshake_byte_by_byte(loop, contexts, side, version):
    connector = Connector(loop, contexts, side, version)
    ours, peer = connector.pair()
    opening = asyncio.ensure_future(connector.open(ours, Recorder))
    peer.sock.settimeout(0)
    while not opening.done():
        try:
            peer.tls.do_handshake()
        except ssl.SSLWantReadError:
            pass
        for byte in cut(peer.outgoing.read(), [1]):
            peer.sock.sendall(byte)
            await turns(1)
        await turns(2)
        try:
            peer.incoming.write(peer.sock.recv(1 << 16))
        except BlockingIOError:
            await asyncio.sleep(0)
    transport, protocol = await opening
    peer.sock.settimeout(20)
    await peer.handshake()
    await peer.send(b"hello")
    await protocol.until_received(5)
    transport.write(b"world")
    assert await peer.recv(5) == b"world"
    connector.clean()
    await turns(5)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    messages=st.lists(st.integers(1, 40_000), min_size=1, max_size=8),
    sizes=st.lists(st.integers(1, 50_000), min_size=1, max_size=6),
    version=st.sampled_from(list(VERSIONS)),
    room=st.sampled_from([0, 0, 700, 16_384, 100_000]),
    seed=st.integers(0, 1000),
)
@pytest.mark.timeout(120)
def test_any_messages_cut_anywhere(loop, contexts, messages, sizes, version, room, seed):
    """Both directions at once; the far end's bytes arrive in pieces, while reading is paused at random."""

    async def scenario():
        chance = random.Random(seed)
        connector = Connector(loop, contexts, "server", version)
        transport, protocol, peer = await connector(lambda: Buffered(room) if room else Recorder())
        sent = [payload(size, seed + i) for i, size in enumerate(messages)]
        wire = b"".join(peer.encrypt(message) for message in sent)
        limited = [max(size, len(wire) // 300) for size in sizes]
        back = [payload(size, seed - i) for i, size in enumerate(reversed(messages))]
        receiving = asyncio.ensure_future(peer.recv(sum(map(len, back))))
        for i, piece in enumerate(cut(wire, limited)):
            await peer.send_raw(piece)
            if chance.random() < 0.2:
                transport.pause_reading()
            if chance.random() < 0.5:
                await turns(chance.randrange(3))
            if chance.random() < 0.7:
                transport.resume_reading()
            if i < len(back):
                transport.write(back[i])
        for late in back[i + 1 :]:
            transport.write(late)
        transport.resume_reading()
        expected = b"".join(sent)
        while len(protocol.data) < len(expected):
            await asyncio.sleep(0.001)
        assert digest(protocol.data) == digest(expected)
        assert digest(await receiving) == digest(b"".join(back))
        connector.clean()
        await turns(5)

    loop.run_until_complete(asyncio.wait_for(scenario(), 30))


async def test_a_slow_peer_bounds_what_is_kept(loop, contexts):
    """A relay between a fast sender and a peer that does not read: both ends are paused, nothing piles up."""
    connector = Connector(loop, contexts, "server", None)
    source_transport, source, fast = await connector(lambda: Relay())
    sink_transport, sink, slow = await connector(lambda: Relay())
    source.other, sink.other = sink_transport, source_transport
    data = payload(20_000_000)
    sending = asyncio.ensure_future(fast.send(data))
    most = 0
    for _ in range(100):
        await asyncio.sleep(0.002)
        most = max(most, sink_transport.get_write_buffer_size())
    assert not sending.done()
    assert not source_transport.is_reading()
    assert most < 2_500_000  # the limit, and what one delivery brings
    received = await slow.recv(len(data))
    await sending
    assert digest(received) == digest(data)
    connector.clean()
    await turns(5)


class Relay(Recorder):
    """Passes everything on, and pauses the source while the sink is full."""

    other = None

    def data_received(self, data):
        self.other.write(data)

    def pause_writing(self):
        self.other.pause_reading()

    def resume_writing(self):
        self.other.resume_reading()


class CountingReads:
    """What an ssl.SSLObject is made of, with its reads counted, and those that found nothing to read."""

    def __init__(self, inner):
        self.inner = inner
        self.reads = self.dry = 0

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def read(self, *args):
        self.reads += 1
        try:
            return self.inner.read(*args)
        except ssl.SSLWantReadError:
            self.dry += 1
            raise


def count_reads(context, counters):
    """Have the reads of all connections of `context` counted.  A subclass of SSLObject would be read in another way."""
    wrap_bio = context.wrap_bio

    def counted(*args, **options):
        tls = wrap_bio(*args, **options)
        tls._sslobj = CountingReads(tls._sslobj)
        counters.append(tls._sslobj)
        return tls

    context.wrap_bio = counted
    return context


@pytest.mark.ours
@pytest.mark.parametrize("version", VERSIONS)
async def test_no_read_fails_in_the_steady_state(loop, contexts, version):
    """The loop knows how many records have come; no SSLWantReadError has to tell it that it was the last."""
    counters = []
    most = 1 << 20  # a stream that holds so much does not pause: what comes meanwhile would be read to its end

    async def echo(reader, writer):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
        writer.close()

    server_context = count_reads(contexts.server(version), counters)
    server = await asyncio.start_server(echo, "127.0.0.1", 0, ssl=server_context, limit=most)
    client_context = count_reads(contexts.client(version), counters)
    address = server.sockets[0].getsockname()
    reader, writer = await asyncio.open_connection(*address, ssl=client_context, limit=most)

    async def talk(sizes):
        for number, size in enumerate(sizes):
            data = payload(size, number)
            writer.write(data)
            assert digest(await reader.readexactly(size)) == digest(data)

    await talk([1, 1])  # what the handshake leaves behind comes with the first data
    before = [(end.reads, end.dry) for end in counters]
    sizes = [1, 100, 5000, 16_383, 16_384, 16_385, 100_000, most] * 5
    await talk(sizes)
    assert len(counters) == 2
    for end, (reads, dry) in zip(counters, before, strict=True):
        assert end.reads - reads >= len(sizes)
        assert end.dry == dry
    writer.close()
    await writer.wait_closed()
    server.close()
    await server.wait_closed()
