"""Cancelling and ending TLS connections in every turn of their beginning: nobody's connection goes on."""

import asyncio
import ssl

import pytest
from support import Echo, Recorder, open_fds, settle, turns
from tls_support import Connector, Contexts

TURNS = range(21)


@pytest.fixture(scope="session")
def contexts():
    return Contexts()


class Leftovers:
    """What the loop holds; must be the same again soon after each try."""

    def __init__(self, way, loop):
        self.way, self.loop = way, loop
        self.before = self.now()

    def now(self):
        stats = self.loop.stats() if self.way.ours else {"in_flight": 0, "connections": 0}
        return stats["in_flight"], stats["connections"], sorted(open_fds())

    async def no_connections(self, what):
        """The far ends are still open."""
        try:
            await settle(lambda: self.now()[:2] == self.before[:2], 5)
        except AssertionError:
            pytest.fail(f"{what}: {self.before[:2]} became {self.now()[:2]}")

    async def none(self, what):
        try:
            await settle(lambda: self.now() == self.before, 5)
        except AssertionError:
            pytest.fail(f"{what}: {self.before} became {self.now()}")


async def cancelled_after(count, coroutine):
    """Run for `count` turns, then cancel; the result if it was there by then, else None."""
    task = asyncio.ensure_future(coroutine)
    await turns(count)
    task.cancel()
    try:
        return await task
    except (asyncio.CancelledError, ConnectionError):
        return None


@pytest.mark.ours  # asyncio leaks the connection if it is cancelled before connection_made
async def test_connecting_is_cancelled(way, loop, contexts):
    server = await loop.create_server(Echo, "127.0.0.1", 0, ssl=contexts.server())
    address = server.sockets[0].getsockname()
    context = contexts.client()
    await turns(3)
    leftovers = Leftovers(way, loop)
    for count in TURNS:
        protocol = Recorder()
        made = await cancelled_after(
            count, loop.create_connection(lambda: protocol, *address, ssl=context)  # noqa: B023
        )
        if made is not None:
            made[0].close()
        await leftovers.none(f"cancelled after {count} turns")
        assert protocol.calls.count("made") == protocol.calls.count("lost")
    server.close()
    await server.wait_closed()


async def be_polite(peer):
    """The far end does everything right, and leaves it to the loop's end to close the connection."""
    try:
        await peer.handshake()
        await peer.recv_all()
        await peer.send_raw(peer.close_notify())
    except (OSError, EOFError):
        pass


@pytest.mark.ours
async def test_opening_over_a_connected_socket_is_cancelled(way, loop, contexts):
    """No look-up and no connect before, so that the cancellation comes between any two steps of the beginning.

    The first turn is the one between the transport's creation and connection_made, where asyncio's close() has no
    effect: its handshake goes on, and nobody owns the connection.
    """
    for side in ("client", "server"):
        leftovers = Leftovers(way, loop)
        for count in TURNS:
            connector = Connector(loop, contexts, side, None)
            ours, peer = connector.pair()
            polite = asyncio.ensure_future(be_polite(peer))
            await turns(2)
            protocol = Recorder()
            made = await cancelled_after(count, connector.open(ours, lambda: protocol))  # noqa: B023
            if made is not None:
                made[0].close()
            elif count == 0:
                ours.close()  # it was never taken over
            await leftovers.no_connections(f"{side}, cancelled after {count} turns")
            assert protocol.calls.count("made") == protocol.calls.count("lost")
            await polite
            connector.clean()
            del ours, peer, connector, made
            await leftovers.none(f"{side}, cancelled after {count} turns")


@pytest.mark.ours
@pytest.mark.parametrize("who", ["client", "server"])
async def test_upgrading_is_cancelled(way, loop, contexts, who):
    """start_tls of one side is cancelled; the other side must notice."""
    server_context, client_context = contexts.server(), contexts.client()
    arrived = []

    class Plain(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            arrived.append(self)

    server = await loop.create_server(Plain, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    await turns(3)
    leftovers = Leftovers(way, loop)
    for count in TURNS:
        transport, client = await loop.create_connection(Recorder, *address)
        await settle(lambda: arrived)
        inside = arrived.pop()
        one = loop.start_tls(transport, client, client_context, server_hostname="localhost")
        other = loop.start_tls(inside.transport, inside, server_context, server_side=True)
        patient = asyncio.ensure_future(other if who == "client" else one)
        upgraded = await cancelled_after(count, one if who == "client" else other)
        if upgraded is not None:
            upgraded.close()
        else:
            (transport if who == "client" else inside.transport).close()
        try:
            await patient
        except (OSError, ssl.SSLError):
            pass
        await leftovers.none(f"{who} cancelled after {count} turns")
        for protocol in (client, inside):
            assert protocol.calls.count("made") == protocol.calls.count("lost") == 1
    server.close()
    await server.wait_closed()


@pytest.mark.parametrize("ending", ["close", "abort", "write and close"])
async def test_a_server_ends_in_connection_made(way, loop, contexts, ending):
    class Brief(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            if ending == "write and close":
                transport.write(b"goodbye")
            transport.abort() if ending == "abort" else transport.close()

    served = []

    def factory():
        served.append(Brief())
        return served[-1]

    server = await loop.create_server(factory, "127.0.0.1", 0, ssl=contexts.server())
    await turns(3)
    leftovers = Leftovers(way, loop)
    for _ in range(5):
        protocol = Recorder()
        try:
            await loop.create_connection(
                lambda: protocol, *server.sockets[0].getsockname(), ssl=contexts.client()  # noqa: B023
            )
            await protocol.until_called("lost")
        except ConnectionError:
            assert ending == "abort"
        if ending == "write and close":
            assert protocol.data == b"goodbye"
        await leftovers.none(ending)
        await served[-1].until_called("lost")
        assert served[-1].calls[0] == "made" and served[-1].calls[-1] == "lost"
    server.close()
    await server.wait_closed()


@pytest.mark.ours
async def test_a_server_closes_while_handshakes_go_on(way, loop, contexts):
    leftovers = Leftovers(way, loop)
    for count in TURNS:
        server = await loop.create_server(Echo, "127.0.0.1", 0, ssl=contexts.server())
        opening = asyncio.ensure_future(
            loop.create_connection(Recorder, *server.sockets[0].getsockname(), ssl=contexts.client())
        )
        await turns(count)
        server.close()
        try:
            transport, _ = await opening
            transport.close()
        except ConnectionError:
            pass
        await server.wait_closed()
        await leftovers.none(f"closed after {count} turns")


@pytest.mark.ours
@pytest.mark.parametrize("ending", ["close", "abort"])
async def test_the_carrier_is_closed(way, loop, contexts, ending):
    """Somebody closes the transport below at any time after the upgrade began; what was written still goes out."""
    for count in TURNS:
        connector = Connector(loop, contexts, "server", None)
        ours, peer = connector.pair()
        transport, protocol = await loop.connect_accepted_socket(Recorder, ours)
        shaking = asyncio.ensure_future(peer.handshake())
        upgrading = asyncio.ensure_future(loop.start_tls(transport, protocol, contexts.server(), server_side=True))
        await turns(count)
        if count == TURNS[-1]:
            (await upgrading).write(b"last words")
            await shaking
        getattr(transport, ending)()
        if count == TURNS[-1] and ending == "close":
            assert await peer.recv_all() == b"last words"
        try:
            await upgrading
        except ConnectionError:
            pass
        try:
            await shaking
        except (OSError, EOFError):
            pass
        await protocol.until_called("lost")
        assert protocol.calls.count("lost") == 1
        connector.clean()
        await turns(3)


@pytest.mark.parametrize("side", ["server", "client"])
@pytest.mark.parametrize("ending", ["reset", "close"])
async def test_the_peer_vanishes_within_the_handshake(way, loop, contexts, side, ending):
    """After any number of bytes of its first message."""
    leftovers = Leftovers(way, loop)
    for count in (0, 1, 4, 5, 6, 50, 100, 200):
        connector = Connector(loop, contexts, side, None)
        ours, peer = connector.pair()
        opening = asyncio.ensure_future(connector.open(ours, Recorder))
        if side == "client":
            peer.incoming.write(await asyncio.to_thread(peer.sock.recv, 1 << 16))
        with pytest.raises(ssl.SSLWantReadError):
            peer.tls.do_handshake()
        await peer.send_raw(peer.outgoing.read()[:count])
        await turns(2)
        getattr(peer, ending)()
        with pytest.raises((ConnectionError, ssl.SSLError)):
            await opening
        connector.clean()
        ours.close()
        del ours, peer, connector, opening
        await leftovers.none(f"after {count} bytes")


async def test_the_waiting_task_hears_of_the_abort(way, loop, contexts):
    """The transport is aborted while a drain waits."""
    connector = Connector(loop, contexts, "server", None)
    ours, peer = connector.pair()
    shaking = asyncio.ensure_future(peer.handshake())
    reader = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(reader)
    transport, _ = await connector.open(ours, lambda: protocol)
    await shaking
    writer = asyncio.StreamWriter(transport, protocol, reader, loop)
    draining = None
    for _ in range(1000):
        writer.write(bytes(100_000))
        draining = asyncio.ensure_future(writer.drain())
        await turns(2)
        if not draining.done():
            break
    assert not draining.done()
    transport.abort()
    await draining
    connector.clean()
    await turns(5)
