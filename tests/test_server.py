"""create_server, create_connection, connect_accepted_socket over TCP."""

import asyncio
import contextlib
import errno
import os
import resource
import signal
import socket
import sys

import pytest
from support import Echo, Recorder, payload, tcp_pair, turns


def has_ipv6():
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


ipv6 = pytest.mark.skipif(not has_ipv6(), reason="no IPv6 loopback address here")


async def ask(address, data=b"ping", **options):
    reader, writer = await asyncio.open_connection(*address[:2], **options)
    writer.write(data)
    back = await reader.readexactly(len(data))
    writer.close()
    await writer.wait_closed()
    return back


async def echoed(reader, writer):
    writer.write(b"a")
    return await reader.readexactly(1) == b"a"


async def shut(server):
    server.close()
    await server.wait_closed()


def unused_port():
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return sock.getsockname()[1]


# -- servers


async def test_server(loop):
    server = await loop.create_server(Echo, "127.0.0.1", 0)
    assert isinstance(server, asyncio.AbstractServer)
    assert server.is_serving()
    assert server.get_loop() is loop
    (sock,) = server.sockets
    assert sock.family == socket.AF_INET
    assert await ask(sock.getsockname()) == b"ping"
    await shut(server)
    assert not server.is_serving()
    assert tuple(server.sockets) == ()
    with pytest.raises(OSError):
        await asyncio.open_connection(*("127.0.0.1", unused_port()))


async def test_closed_server_refuses(loop):
    server = await loop.create_server(Echo, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    assert await ask(address) == b"ping"
    await shut(server)
    await turns(5)
    with pytest.raises(ConnectionRefusedError):
        await loop.create_connection(Recorder, *address)
    server.close()


async def test_port_is_free_again_after_close(loop):
    server = await loop.create_server(Echo, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    for _ in range(10):
        assert await ask(address) == b"ping"
        server.close()
        await server.wait_closed()
        await turns(5)
        server = await loop.create_server(Echo, *address)
    await shut(server)


async def test_connections_outlive_their_server(loop):
    server = await loop.create_server(Echo, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(b"a")
    assert await reader.readexactly(1) == b"a"
    server.close()
    await turns(5)
    writer.write(b"b")
    assert await reader.readexactly(1) == b"b"
    writer.close()
    await writer.wait_closed()
    await server.wait_closed()


@pytest.mark.skipif(sys.version_info < (3, 13), reason="came with Python 3.13")
@pytest.mark.parametrize("how", ["close_clients", "abort_clients"])
async def test_closing_clients(loop, how):
    server = await loop.create_server(Echo, "127.0.0.1", 0)
    streams = [await asyncio.open_connection(*server.sockets[0].getsockname()) for _ in range(5)]
    for reader, writer in streams:
        writer.write(b"a")
        assert await reader.readexactly(1) == b"a"
    server.close()
    getattr(server, how)()
    for reader, writer in streams:
        try:
            assert await reader.read() == b""
        except ConnectionResetError:
            assert how == "abort_clients"
        writer.close()
    await server.wait_closed()


class Stranger:
    """Somebody else's transport, of which a server is told."""

    closed = False

    def close(self):
        self.closed = True


@pytest.mark.skipif(sys.version_info < (3, 13), reason="came with Python 3.13")
async def test_clients_of_one_server_of_several(loop):
    servers = [await loop.create_server(Echo, "127.0.0.1", 0) for _ in range(2)]
    streams = []
    for server in servers * 3:
        streams.append(await asyncio.open_connection(*server.sockets[0].getsockname()))
        assert await echoed(*streams[-1])
    assert [len(server._clients) for server in servers] == [3, 3]
    stranger, other = Stranger(), Stranger()
    for transport in stranger, other:
        servers[0]._attach(transport)
    transport = None
    assert len(servers[0]._clients) == 5 and stranger in servers[0]._clients
    servers[0]._detach(other)
    assert len(set(servers[0]._clients)) == 4 and servers[0]._clients.copy().isdisjoint(servers[1]._clients)
    servers[0].close_clients()
    assert stranger.closed and not other.closed
    for at, (reader, writer) in enumerate(streams):
        if at % 2 == 0:
            assert await reader.read() == b""
        else:
            assert await echoed(reader, writer)
        writer.close()
    for server in servers:
        server.close()
    await servers[1].wait_closed()
    waiting = asyncio.ensure_future(servers[0].wait_closed())
    await turns(5)
    assert not waiting.done()
    servers[0]._detach(stranger)
    await waiting


@pytest.mark.skipif(sys.version_info < (3, 13), reason="came with Python 3.13")
async def test_a_transport_that_only_its_server_knows_is_forgotten(loop):
    server = await loop.create_server(Echo, "127.0.0.1", 0)
    server._attach(Stranger())
    assert len(server._clients) == 0
    await shut(server)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="waits for nothing before Python 3.12")
async def test_wait_closed_waits_for_connections(loop):
    server = await loop.create_server(Echo, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(b"a")
    await reader.readexactly(1)
    server.close()
    waiting = asyncio.ensure_future(server.wait_closed())
    await turns(10)
    assert not waiting.done()
    writer.close()
    await waiting


async def test_not_serving_at_first(loop):
    server = await loop.create_server(Echo, "127.0.0.1", 0, start_serving=False)
    address = server.sockets[0].getsockname()
    assert not server.is_serving()
    with pytest.raises(ConnectionRefusedError):
        await loop.create_connection(Recorder, *address)
    await server.start_serving()
    await server.start_serving()
    assert server.is_serving()
    assert await ask(address) == b"ping"
    await shut(server)


async def test_closing_a_server_that_never_served(loop):
    server = await loop.create_server(Echo, "127.0.0.1", 0, start_serving=False)
    await shut(server)


async def test_serve_forever(loop):
    server = await loop.create_server(Echo, "127.0.0.1", 0)
    serving = asyncio.ensure_future(server.serve_forever())
    await turns()
    with pytest.raises(RuntimeError):
        await server.serve_forever()
    assert await ask(server.sockets[0].getsockname()) == b"ping"
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
    assert not server.is_serving()
    with pytest.raises(RuntimeError):
        await server.serve_forever()


async def test_server_as_context_manager(loop):
    async with await loop.create_server(Echo, "127.0.0.1", 0) as server:
        assert await ask(server.sockets[0].getsockname()) == b"ping"
    assert not server.is_serving()


async def test_several_addresses(loop):
    server = await loop.create_server(Echo, ["127.0.0.1", "127.0.0.2"], unused_port())
    assert len(server.sockets) == 2
    for sock in server.sockets:
        assert await ask(sock.getsockname()) == b"ping"
    await shut(server)


@ipv6
async def test_ipv6(loop):
    server = await loop.create_server(Recorder, "::1", 0)
    transport, protocol = await loop.create_connection(Recorder, *server.sockets[0].getsockname()[:2])
    assert transport.get_extra_info("peername")[0] == "::1"
    assert len(transport.get_extra_info("peername")) == 4
    transport.close()
    await protocol.until_called("lost")
    await shut(server)


async def test_port_in_use(loop):
    server = await loop.create_server(Echo, "127.0.0.1", 0)
    with pytest.raises(OSError) as caught:
        await loop.create_server(Echo, *server.sockets[0].getsockname())
    assert caught.value.errno == errno.EADDRINUSE
    assert await ask(server.sockets[0].getsockname()) == b"ping"
    await shut(server)


async def test_reuse_port(loop):
    one = await loop.create_server(Echo, "127.0.0.1", 0, reuse_port=True)
    two = await loop.create_server(Echo, *one.sockets[0].getsockname(), reuse_port=True)
    for _ in range(20):
        assert await ask(one.sockets[0].getsockname()) == b"ping"
    await shut(one)
    await shut(two)


async def test_server_on_a_socket(loop):
    sock = socket.create_server(("127.0.0.1", 0))
    server = await loop.create_server(Echo, sock=sock)
    assert await ask(sock.getsockname()) == b"ping"
    await shut(server)
    assert sock.fileno() == -1


async def test_wrong_arguments(loop):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagram:
        with pytest.raises(ValueError):
            await loop.create_server(Echo, sock=datagram)
        with pytest.raises(ValueError):
            await loop.create_connection(Recorder, sock=datagram)
        with pytest.raises(ValueError):
            await loop.create_server(Echo, "127.0.0.1", 0, sock=datagram)
    with pytest.raises(ValueError):
        await loop.create_server(Echo)
    with pytest.raises(ValueError):
        await loop.create_connection(Recorder)
    with pytest.raises(TypeError):
        await loop.create_server(Echo, "127.0.0.1", 0, ssl=True)
    with pytest.raises(ValueError):
        await loop.create_connection(Recorder, "127.0.0.1", 1, server_hostname="x")


async def test_backlog_bursts(loop):
    server = await loop.create_server(Echo, "127.0.0.1", 0, backlog=64)
    address = server.sockets[0].getsockname()
    assert await asyncio.gather(*(ask(address, b"%d" % i) for i in range(50))) == [b"%d" % i for i in range(50)]
    await shut(server)


async def test_connections_that_are_gone_before_they_are_accepted(loop):
    server = await loop.create_server(Recorder, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    for _ in range(20):
        socks = [socket.create_connection(address) for _ in range(5)]
        for sock in socks:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            sock.close()
        await turns(3)
    await shut(server)


async def test_close_with_connections_waiting_to_be_accepted(loop):
    """The loop stands still while they come in; closing leaves nothing open."""
    for _ in range(10):
        server = await loop.create_server(Recorder, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        await turns(3)
        socks = [socket.create_connection(address, timeout=10) for _ in range(5)]
        server.close()
        await turns(5)
        for sock in socks:
            sock.close()
        await server.wait_closed()


@pytest.mark.ours  # asyncio says nothing and keeps the socket
async def test_a_failing_protocol_factory_does_not_stop_the_server(loop, errors):
    made = []

    def factory():
        made.append(1)
        if len(made) == 1:
            raise ZeroDivisionError("on purpose")
        return Echo()

    server = await loop.create_server(factory, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    _, lost = await loop.create_connection(Recorder, *address)
    for _ in range(5):
        assert await ask(address) == b"ping"
    await lost.until_called("lost")
    assert isinstance(errors[0]["exception"], ZeroDivisionError)
    errors.clear()
    await shut(server)


async def test_each_accepted_connection_has_its_own_protocol(loop):
    protocols = []

    def factory():
        protocols.append(Recorder())
        return protocols[-1]

    server = await loop.create_server(factory, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    socks = [socket.create_connection(address) for _ in range(20)]
    for i, sock in enumerate(socks):
        sock.sendall(b"%d" % i)
        sock.close()
    while len(protocols) < 20:
        await asyncio.sleep(0.001)
    for protocol in protocols:
        await protocol.until_called("lost")
        assert protocol.calls == ["made", "data", "eof", "lost"]
    assert sorted(int(protocol.data) for protocol in protocols) == list(range(20))
    for protocol in protocols:
        assert protocol.transport.get_extra_info("sockname") == address
        assert protocol.transport.get_extra_info("peername")[0] == "127.0.0.1"
    await shut(server)


# -- connections


async def test_connection(loop):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        transport, protocol = await loop.create_connection(Recorder, *listener.getsockname())
        assert isinstance(transport, asyncio.Transport)
        assert protocol.calls == ["made"]
        peer, address = listener.accept()
    assert transport.get_extra_info("sockname") == address
    assert transport.get_extra_info("peername") == peer.getsockname()
    assert transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    with peer:
        peer.sendall(b"hello")
        await protocol.until_received(5)
        transport.write(b"hi")
        await turns(5)
        assert peer.recv(2) == b"hi"
        transport.close()
        await protocol.until_called("lost")


async def test_refused(loop):
    with pytest.raises(ConnectionRefusedError):
        await loop.create_connection(Recorder, "127.0.0.1", unused_port())


@pytest.mark.skipif(sys.version_info < (3, 12), reason="came with Python 3.12")
async def test_all_errors(loop):
    with pytest.raises(ExceptionGroup):
        await loop.create_connection(Recorder, "127.0.0.1", unused_port(), all_errors=True)


async def test_connection_on_a_connected_socket(loop):
    ours, theirs = tcp_pair()
    ours.setblocking(False)
    transport, protocol = await loop.create_connection(Recorder, sock=ours)
    theirs.sendall(b"x")
    await protocol.until_received(1)
    theirs.close()
    await protocol.until_called("lost")
    assert transport.is_closing()


async def test_local_address(loop):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = unused_port()
        transport, protocol = await loop.create_connection(
            Recorder, *listener.getsockname(), local_addr=("127.0.0.1", port)
        )
        assert transport.get_extra_info("sockname") == ("127.0.0.1", port)
        transport.abort()
        await protocol.until_called("lost")
        with pytest.raises(OSError):
            await loop.create_connection(Recorder, *listener.getsockname(), local_addr=("192.0.2.1", 0))


async def test_happy_eyeballs(loop, monkeypatch):
    """The first address refuses, the second one answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        good, bad = listener.getsockname(), ("127.0.0.1", unused_port())

        async def two_addresses(*args, **kwargs):
            return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", a) for a in (bad, good)]

        monkeypatch.setattr(loop, "getaddrinfo", two_addresses)
        for options in ({}, {"happy_eyeballs_delay": 0.05}, {"happy_eyeballs_delay": 0.05, "interleave": 1}):
            transport, protocol = await loop.create_connection(Recorder, "two.test", 80, **options)
            assert transport.get_extra_info("peername") == good
            transport.abort()
            await protocol.until_called("lost")


async def test_happy_eyeballs_with_an_address_that_never_answers(loop, monkeypatch):
    """A full backlog swallows the first attempt; the second one wins, and the first leaves nothing behind."""
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        fillers = fill_backlog(full)
        addresses = (full.getsockname(), listener.getsockname())

        async def two_addresses(*args, **kwargs):
            return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", a) for a in addresses]

        monkeypatch.setattr(loop, "getaddrinfo", two_addresses)
        transport, protocol = await loop.create_connection(Recorder, "two.test", 80, happy_eyeballs_delay=0.02)
        assert transport.get_extra_info("peername") == listener.getsockname()
        transport.abort()
        await protocol.until_called("lost")
        for sock in fillers:
            sock.close()


def fill_backlog(listener):
    """Connect until the kernel stops answering."""
    fillers = []
    for _ in range(4):
        sock = socket.socket()
        sock.setblocking(False)
        sock.connect_ex(listener.getsockname())
        fillers.append(sock)
    return fillers


async def test_cancelled_connection_leaves_nothing(loop):
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        fillers = fill_backlog(full)
        for i in range(6):
            connecting = asyncio.ensure_future(loop.create_connection(Recorder, *full.getsockname()))
            await turns(i)
            connecting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await connecting
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(loop.create_connection(Recorder, *full.getsockname()), 0.02)
        for sock in fillers:
            sock.close()


async def test_name_that_does_not_exist(loop):
    with pytest.raises(socket.gaierror):
        await loop.create_connection(Recorder, "127.0.0.1.", 80, flags=socket.AI_NUMERICHOST)


async def test_localhost_by_name(loop):
    server = await loop.create_server(Echo, "localhost", 0, family=socket.AF_INET)
    port = server.sockets[0].getsockname()[1]
    assert await ask(("localhost", port), family=socket.AF_INET) == b"ping"
    await shut(server)


# -- accepted sockets


async def test_accepted_socket(loop):
    ours, theirs = tcp_pair()
    ours.setblocking(False)
    transport, protocol = await loop.connect_accepted_socket(Recorder, ours)
    assert protocol.calls == ["made"]
    assert transport.get_extra_info("peername") == theirs.getsockname()
    theirs.sendall(b"x")
    await protocol.until_received(1)
    transport.close()
    await protocol.until_called("lost")
    assert theirs.recv(1) == b""
    theirs.close()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagram:
        with pytest.raises(ValueError):
            await loop.connect_accepted_socket(Recorder, datagram)


async def test_a_failing_factory_for_an_accepted_socket(loop):
    def factory():
        raise ZeroDivisionError("on purpose")

    ours, theirs = tcp_pair()
    ours.setblocking(False)
    with pytest.raises(ZeroDivisionError):
        await loop.connect_accepted_socket(factory, ours)
    ours.close()
    theirs.close()


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_UNIX])
async def test_a_closed_connection_tells_of_its_socket_when_no_descriptor_is_left(loop, family, tmp_path):
    there = Recorder()
    if family == socket.AF_UNIX:
        server = await loop.create_unix_server(lambda: there, tmp_path / "socket")
        transport, _ = await loop.create_unix_connection(Recorder, tmp_path / "socket")
    else:
        server = await loop.create_server(lambda: there, "127.0.0.1", 0)
        transport, _ = await loop.create_connection(Recorder, *server.sockets[0].getsockname())
    transport.close()
    await there.until_called("lost")
    await shut(server)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        sock = there.transport.get_extra_info("socket")
        assert (sock.fileno(), sock.family, sock.type) == (-1, family, socket.SOCK_STREAM)
        assert "fd=-1" in repr(sock)
        asked = lambda: sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)  # noqa: E731
        for ask in asked, sock.getsockname, sock.getpeername:
            with pytest.raises(OSError) as caught:
                ask()
            assert caught.value.errno == errno.EBADF, ask
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


async def test_keep_alive_option(loop):
    server = await loop.create_server(Recorder, "127.0.0.1", 0)
    transport, protocol = await loop.create_connection(Recorder, *server.sockets[0].getsockname())
    sock = transport.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    transport.write(payload(1000))
    transport.close()
    await protocol.until_called("lost")
    await shut(server)


async def test_thousand_connections_at_once(loop):
    server = await loop.create_server(Echo, "127.0.0.1", 0, backlog=2000)
    address = server.sockets[0].getsockname()
    streams = await asyncio.gather(*(asyncio.open_connection(*address) for _ in range(1000)))
    for i, (_, writer) in enumerate(streams):
        writer.write(b"%04d" % i)
    for i, (reader, writer) in enumerate(streams):
        assert await reader.readexactly(4) == b"%04d" % i
        writer.close()
    await asyncio.gather(*(writer.wait_closed() for _, writer in streams))
    await shut(server)


def answer_pids(loop, listener, blocked, release):
    """A forked worker: answers `pid` to everything; to `block` only when `release` is written to."""

    class Worker(asyncio.Protocol):
        def connection_made(self, transport):
            self.transport = transport

        def data_received(self, data):
            if data == b"block":
                os.write(blocked, b"!")
                os.read(release, 1)
            self.transport.write(str(os.getpid()).encode())
            self.transport.close()

    async def main():
        await loop.create_server(Worker, sock=listener)
        os.write(blocked, b"?")
        await asyncio.sleep(30)

    loop.run_until_complete(main())


def test_processes_that_share_a_listener_do_not_take_what_they_cannot_serve(way):
    def ask(what):
        with socket.create_connection(address, timeout=10) as sock:
            sock.sendall(what)
            return int(sock.recv(100))

    blocked, told = os.pipe()
    release, releases = os.pipe()
    with contextlib.ExitStack() as stack:
        for fd in (blocked, told, release, releases):
            stack.callback(os.close, fd)
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=100))
        address = listener.getsockname()
        workers = []
        for _ in range(2):
            pid = os.fork()
            if pid == 0:
                try:
                    answer_pids(way.new_loop(), listener, told, release)
                finally:
                    os._exit(1)
            workers.append(pid)
            stack.callback(os.waitpid, pid, 0)
            stack.callback(os.kill, pid, signal.SIGKILL)
        assert [os.read(blocked, 1) for _ in workers] == [b"?", b"?"]
        with socket.create_connection(address, timeout=10) as slow:
            slow.sendall(b"block")
            assert os.read(blocked, 1) == b"!"
            answers = {ask(b"hello") for _ in range(50)}
            assert len(answers) == 1
            os.write(releases, b"!")
            assert {int(slow.recv(100))} | answers == set(workers)
