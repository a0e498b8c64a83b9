"""A fuzzer that cancels at every await, under load; the seed is printed and can be given by --seed."""

import asyncio
import random
import socket
import ssl

import pytest
import trustme
from fuzzer import Fuzzer, Tagged, check_errors, run_fuzzer
from support import Recorder, payload, turns


@pytest.fixture(scope="session")
def contexts():
    """TLS contexts of a server and a client."""
    authority = trustme.CA()
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost", "127.0.0.1").configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return server, client


class Connections(Fuzzer):
    """Streams and their sockets."""

    def __init__(self, loop, seed, folder, contexts):
        super().__init__(loop, random.Random(seed), folder)
        self.path = str(folder / "socket")
        self.server_context, self.client_context = contexts

    async def start(self):
        await super().start()
        self.unix_server = await self.loop.create_unix_server(Tagged, self.path, backlog=200)
        self.tls_server = await self.loop.create_server(Tagged, "127.0.0.1", 0, ssl=self.server_context)

    async def stop(self):
        await super().stop()
        await self.stop_servers(self.unix_server, self.tls_server)

    async def connect(self):
        reader, writer = await asyncio.open_connection(*self.address)
        self.keep(writer)
        await self.verify(reader, writer)
        writer.close()
        await writer.wait_closed()

    async def connect_socket(self):
        sock = self.sock()
        await self.loop.sock_connect(sock, self.address)
        transport, protocol = await self.loop.create_connection(Recorder, sock=sock)
        self.things.remove(sock)
        self.keep(transport)
        mine = self.next_tag()
        transport.write(mine)
        await protocol.until_received(16)
        assert protocol.data == mine, "bytes of another connection"
        transport.close()
        await protocol.until_called("lost")

    async def connect_unix(self):
        reader, writer = await asyncio.open_unix_connection(self.path)
        self.keep(writer)
        await self.verify(reader, writer)
        writer.close()
        await writer.wait_closed()

    async def connect_tls(self):
        reader, writer = await asyncio.open_connection(
            *self.tls_server.sockets[0].getsockname(), ssl=self.client_context
        )
        self.keep(writer)
        await self.verify(reader, writer)
        writer.close()
        await writer.wait_closed()

    async def start_tls(self):
        reader, writer = await asyncio.open_connection(*self.tls_server.sockets[0].getsockname())
        self.keep(writer)
        await writer.start_tls(self.client_context, server_hostname="localhost")
        self.keep(writer.transport)
        await self.verify(reader, writer)
        writer.close()
        await writer.wait_closed()

    async def sock_calls(self):
        sock = self.sock()
        await self.loop.sock_connect(sock, self.address)
        mine = self.next_tag()
        for _ in range(5):
            await self.loop.sock_sendall(sock, mine * self.chance.choice([2, 10, 1000]))
            back = await self.loop.sock_recv(sock, 16)
            assert back in mine * 2 + mine[: len(back)], "bytes of another connection"
            buffer = bytearray(160)
            count = await self.loop.sock_recv_into(sock, buffer)
            assert bytes(buffer[:count]) in mine * 12, "bytes of another connection"

    async def sock_accept(self):
        sock = self.sock()
        listener = self.keep(socket.create_server(("127.0.0.1", 0)))
        listener.setblocking(False)
        accepting = asyncio.ensure_future(self.loop.sock_accept(listener))
        try:
            await self.loop.sock_connect(sock, listener.getsockname())
            conn, _ = await accepting
        finally:
            accepting.cancel()
            await asyncio.wait([accepting])
            if not accepting.cancelled():
                self.keep(accepting.result()[0])
        mine = self.next_tag()
        await self.loop.sock_sendall(conn, mine)
        assert await self.loop.sock_recv(sock, 16) == mine, "bytes of another connection"

    async def serve(self):
        # A cancelled create_server() would leave its server to nobody, in asyncio too.
        creating = self.keep(asyncio.ensure_future(self.loop.create_server(Tagged, "127.0.0.1", 0)))
        await asyncio.wait([creating])
        server = creating.result()
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        self.keep(writer)
        await self.verify(reader, writer)
        server.close()
        writer.close()
        await writer.wait_closed()
        await server.wait_closed()

    async def half_closed(self):
        reader, writer = await asyncio.open_connection(*self.address)
        self.keep(writer)
        mine = self.next_tag()
        writer.write(mine * 20_000)
        writer.write_eof()
        total = 0
        while back := await reader.read(16_000):
            position = total % 16
            assert back == (mine * 1002)[position : position + len(back)], "bytes of another connection"
            total += len(back)

    async def give_up_at_once(self):
        await asyncio.wait_for(asyncio.open_connection(*self.address), 1e-6)

    SCENARIOS = [
        connect,
        connect_socket,
        connect_unix,
        connect_tls,
        start_tls,
        sock_calls,
        sock_accept,
        serve,
        half_closed,
        give_up_at_once,
    ]


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("scenario", Connections.SCENARIOS, ids=lambda function: function.__name__)
async def test_cancelled_anywhere(way, loop, contexts, errors, seed, soak, tmp_path, scenario):
    await run_fuzzer(Connections(loop, seed, tmp_path, contexts), seed, [scenario], 30 if soak else 0.4)
    check_errors(errors)


@pytest.mark.slow
@pytest.mark.timeout(400)
async def test_cancelled_anywhere_all_mixed(way, loop, contexts, errors, seed, soak, tmp_path):
    host = Connections(loop, seed, tmp_path, contexts)
    await run_fuzzer(host, seed, host.SCENARIOS, 60 if soak else 3, workers=4)
    check_errors(errors)


async def test_cancelled_connection_with_a_socket_closes_it_once(loop, connect):
    """The descriptor of a cancelled create_connection(sock=) is free for others, who must keep it."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as listener:
        for i in range(60):
            sock = socket.create_connection(listener.getsockname())
            sock.setblocking(False)
            task = asyncio.ensure_future(loop.create_connection(Recorder, sock=sock))
            await turns(i % 4)
            task.cancel()
            try:
                transport, _ = await task
            except asyncio.CancelledError:
                sock.close()
            else:
                transport.abort()
            await turns(i % 3)
            new, other = socket.socketpair()
            await turns(4)
            other.send(payload(10, i))
            assert new.recv(10) == payload(10, i)
            new.close()
            other.close()
            accepted, _ = listener.accept()
            accepted.close()
