"""How a server takes connections: their context and address; cancelling, exits and lack of descriptors meanwhile."""

import asyncio
import contextlib
import contextvars
import decimal
import os
import resource
import socket
import struct
import sys
import time
from asyncio import constants

import pytest
from support import Recorder, turns
from tls_support import Contexts

PLACE = contextvars.ContextVar("PLACE", default="nowhere")
RESET = struct.pack("ii", 1, 0)


@pytest.fixture(scope="module")
def contexts():
    return Contexts()


@pytest.fixture(params=["tcp", "given", "unix", "tls"])
def serving(request, loop, contexts, tmp_path):
    """Makes servers of one kind: (server, address, options of a client's connection)."""

    async def serve(factory):
        if request.param == "unix":
            path = str(tmp_path / "socket")
            return await loop.create_unix_server(factory, path), path, {}
        if request.param == "given":
            server = await loop.create_server(factory, sock=socket.create_server(("127.0.0.1", 0)))
        elif request.param == "tls":
            server = await loop.create_server(factory, "127.0.0.1", 0, ssl=contexts.server())
            return server, server.sockets[0].getsockname(), {"ssl": contexts.client(), "server_hostname": "localhost"}
        else:
            server = await loop.create_server(factory, "127.0.0.1", 0)
        return server, server.sockets[0].getsockname(), {}

    return serve


async def connect(address, options):
    if isinstance(address, str):
        return await asyncio.open_unix_connection(address)
    return await asyncio.open_connection(*address, **options)


async def shut(server):
    server.close()
    await server.wait_closed()


# ---- contexts


async def test_who_resumes_reading_does_not_lend_its_context(way, loop, serving):
    if not way.ours and sys.version_info < (3, 15):
        pytest.skip("asyncio calls in the context of who has resumed reading")
    seen = {}
    ended = loop.create_future()

    class Protocol(asyncio.Protocol):
        def connection_made(self, transport):
            self.transport = transport

        def data_received(self, data):
            seen[data] = PLACE.get()
            self.transport.pause_reading()
            self.task = asyncio.ensure_future(self.answer(data))

        async def answer(self, data):
            PLACE.set("task")
            while self.transport.is_reading():
                await asyncio.sleep(0)
            self.transport.resume_reading()
            self.transport.write(data)

        def connection_lost(self, error):
            seen["lost"] = PLACE.get()
            ended.set_result(None)

    PLACE.set("server")
    server, address, options = await serving(Protocol)
    reader, writer = await connect(address, options)
    for data in (b"one", b"two"):
        writer.write(data)
        assert await reader.readexactly(3) == data
    writer.close()
    await ended
    assert seen == {b"one": "server", b"two": "server", "lost": "server"}
    await shut(server)


async def test_connections_run_in_the_context_in_which_the_server_was_made(loop, serving):
    seen = []

    def see(where):
        seen.append((where, PLACE.get(), decimal.getcontext().prec))

    class Protocol(Recorder):
        def __init__(self):
            super().__init__()
            see("factory")

        def _note(self, name):
            super()._note(name)
            see(name)

        def data_received(self, data):
            super().data_received(data)
            loop.call_soon(see, "callback")

    async def make():
        PLACE.set("server")
        decimal.getcontext().prec = 7
        return await serving(Protocol)

    server, address, options = await loop.create_task(make())
    for _ in range(2):
        seen.clear()
        _, writer = await connect(address, options)
        writer.write(b"data")
        while "callback" not in [where for where, *_ in seen]:
            await asyncio.sleep(0.001)
        writer.close()
        await writer.wait_closed()
        while seen[-1][0] != "lost":
            await asyncio.sleep(0.001)
        assert [where for where, *_ in seen] == ["factory", "made", "data", "callback", "eof", "lost"]
        assert {(place, prec) for _, place, prec in seen} == {("server", 7)}
    await shut(server)


async def test_stream_handlers_run_in_that_context(loop):
    async def handle(_reader, writer):
        writer.write(f"{PLACE.get()} {decimal.Decimal(1) / 3}".encode())
        PLACE.set("handler")
        writer.close()

    async def make():
        PLACE.set("server")
        decimal.getcontext().prec = 5
        return await asyncio.start_server(handle, "127.0.0.1", 0)

    server = await loop.create_task(make())
    for _ in range(2):
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        assert await reader.read() == b"server 0.33333"
        writer.close()
        await writer.wait_closed()
    await shut(server)


async def test_each_connection_has_a_copy(loop):
    """What one sets, others do not see."""
    seen = []

    class Protocol(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            seen.append(PLACE.get())
            PLACE.set(f"connection {len(seen)}")

    PLACE.set("server")
    server = await loop.create_server(Protocol, "127.0.0.1", 0)
    for _ in range(3):
        _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.close()
        await writer.wait_closed()
    while len(seen) < 3:
        await asyncio.sleep(0.001)
    assert seen == ["server"] * 3
    assert PLACE.get() == "server"
    await shut(server)


@pytest.mark.ours  # of asyncio's loops those of Python 3.15 and later
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
async def test_a_context_that_is_given(loop, contexts, tls):
    """asyncio of Python 3.15 passes the server's context, and that of whoever opens a connection."""
    seen = []

    class Protocol(Recorder):
        def _note(self, name):
            super()._note(name)
            seen.append((name, PLACE.get()))

    context = contextvars.copy_context()
    context.run(PLACE.set, "given")
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    if tls:
        transport = loop._make_ssl_transport(
            ours, Protocol(), contexts.client(), server_hostname="localhost", context=context)
        transport.abort()
        theirs.close()
        await turns(5)
        return
    loop._make_socket_transport(ours, Protocol(), context=context)
    theirs.send(b"data")
    theirs.close()
    while len(seen) < 4:
        await asyncio.sleep(0.001)
    assert seen == [("made", "given"), ("data", "given"), ("eof", "given"), ("lost", "given")]


# ---- addresses


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("shared", [False, True], ids=["own", "shared"])
@pytest.mark.parametrize("before", [b"", b"hello"], ids=["reset", "data and reset"])
async def test_the_address_of_a_peer_that_is_gone_again(loop, family, shared, before):
    protocol = Recorder()
    listener = socket.create_server(("::1" if family == socket.AF_INET6 else "127.0.0.1", 0), family=family)
    address = listener.getsockname()
    if shared:
        server = await loop.create_server(lambda: protocol, sock=listener)
    else:
        listener.close()
        server = await loop.create_server(lambda: protocol, *address[:2])
    await turns(3)
    with socket.socket(family) as sock:
        sock.connect(address)
        name = sock.getsockname()
        sock.sendall(before)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    await protocol.until_called("lost")
    assert protocol.calls[0] == "made"
    assert protocol.transport.get_extra_info("peername") == name
    assert protocol.transport.get_extra_info("sockname") == address
    await shut(server)


# ---- all tasks are cancelled and the loop is stopped meanwhile


def cancel_and_stop(loop):
    for task in asyncio.all_tasks(loop):
        task.cancel()
    loop.stop()


def run_until_stopped(loop, factory, call=None, **options):
    """Serve, let a client connect, `call()`, and run until stopped; then the server's end must come."""
    server = loop.run_until_complete(loop.create_server(factory, "127.0.0.1", 0, **options))
    with socket.create_connection(server.sockets[0].getsockname(), timeout=10):
        limit = loop.call_later(10, loop.stop)
        if call:
            call()
        loop.run_forever()
        limit.cancel()
        server.close()
        loop.run_until_complete(asyncio.wait_for(server.wait_closed(), 10))


@pytest.mark.parametrize("where", ["factory", "made"])
def test_everything_is_cancelled_while_a_connection_is_accepted(loop, where):
    """A connection that nobody looks after yet is ended, and does not keep the server from ending."""
    begun = []

    async def serve_it():
        begun.append(1)

    class Protocol(Recorder):
        def __init__(self):
            super().__init__()
            if where == "factory":
                loop.call_soon_threadsafe(cancel_and_stop, loop)

        def connection_made(self, transport):
            if where == "made":
                loop.call_soon_threadsafe(cancel_and_stop, loop)
            self.task = loop.create_task(serve_it())
            super().connection_made(transport)

    run_until_stopped(loop, Protocol)
    if where == "made":
        assert begun == []


def test_everything_is_cancelled_in_the_turn_in_which_somebody_connects(loop):
    made = []

    class Protocol(Recorder):
        def __init__(self):
            super().__init__()
            made.append(self)

    run_until_stopped(loop, Protocol, lambda: loop.call_soon(loop.call_soon, cancel_and_stop, loop))
    assert all(protocol.calls == ["made", "lost"] for protocol in made)


def test_everything_is_cancelled_during_a_handshake(loop, contexts):
    began = time.monotonic()
    run_until_stopped(loop, Recorder, lambda: loop.call_later(0.02, cancel_and_stop, loop), ssl=contexts.server())
    assert time.monotonic() - began < 9


async def test_the_task_of_a_connection_ends(loop, serving):
    before = asyncio.all_tasks()
    protocol = Recorder()
    server, address, options = await serving(lambda: protocol)
    _, writer = await connect(address, options)
    await protocol.until_called("made")
    await turns(3)
    assert asyncio.all_tasks() == before
    writer.close()
    await protocol.until_called("lost")
    await shut(server)


@pytest.mark.parametrize("where", ["factory", "made", "data", "eof", "lost"])
@pytest.mark.parametrize("exit_type", [SystemExit, KeyboardInterrupt])
def test_an_exit_out_of_a_connection_leaves_the_server_whole(loop, way, where, exit_type):
    if where == "factory" and not way.ours:
        pytest.skip("asyncio keeps the socket")
    made = []

    class Protocol(Recorder):
        def __init__(self):
            super().__init__()
            made.append(self)
            self.leave("factory")

        def _note(self, name):
            super()._note(name)
            self.leave(name)

        def leave(self, here):
            if here == where and self is made[0] and not left:
                left.append(here)
                raise exit_type(3)

    left = []
    server = loop.run_until_complete(loop.create_server(Protocol, "127.0.0.1", 0))
    address = server.sockets[0].getsockname()
    socks = [socket.create_connection(address, timeout=10) for _ in range(3)]
    for sock in socks:
        sock.sendall(b"data")
        sock.shutdown(socket.SHUT_WR)

    async def until_all_is_over():
        while len(made) < 3 or any("lost" not in protocol.calls for protocol in made[where == "factory" :]):
            await asyncio.sleep(0.001)

    over = loop.create_task(asyncio.wait_for(until_all_is_over(), 10))
    with pytest.raises(exit_type):
        loop.run_until_complete(over)
    loop.run_until_complete(over)
    for protocol in made[where == "factory" :]:
        assert protocol.data == b"data"
        assert [call for call in ("made", "data", "eof", "lost") if call in protocol.calls] == [
            "made", "data", "eof", "lost"]  # fmt: skip
    for sock in socks:
        with sock:
            if sock is not socks[0] or where != "factory":
                assert sock.recv(1) == b""
    loop.run_until_complete(shut(server))


# ---- no descriptors are left


@contextlib.contextmanager
def few_descriptors():
    """This process may open few more; gives a context in which it has used them up."""

    @contextlib.contextmanager
    def use_up():
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(OSError):
                while True:
                    stack.callback(os.close, os.dup(lowest))
            yield

    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.open(os.devnull, os.O_RDONLY)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + 20, limits[1]))
    try:
        yield use_up
    finally:
        os.close(lowest)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


async def test_the_limit_of_open_files_is_lowered_while_serving(loop, errors, monkeypatch):
    monkeypatch.setattr(constants, "ACCEPT_RETRY_DELAY", 0.1)
    protocol = Recorder()
    server = await loop.create_server(lambda: protocol, "127.0.0.1", 0)
    await turns(3)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    address = server.sockets[0].getsockname()
    with socket.socket() as sock:
        lowest = os.dup(0)
        os.close(lowest)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, limits[1]))
        try:
            sock.connect(address)
            while not errors:
                await asyncio.sleep(0.001)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert {context["message"] for context in errors} == {"socket.accept() out of system resource"}
        errors.clear()
        await asyncio.wait_for(protocol.until_called("made"), 10)
    await protocol.until_called("lost")
    await shut(server)


async def test_the_limit_of_open_files_is_raised_while_serving(loop):
    protocols = []

    def factory():
        protocols.append(Recorder())
        return protocols[-1]

    with few_descriptors() as use_up:
        server = await loop.create_server(factory, "127.0.0.1", 0)
        await turns(3)
        with use_up():
            limits = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (limits[0] + 20, limits[1]))
            with socket.create_connection(server.sockets[0].getsockname()) as sock:
                while not protocols:
                    await asyncio.sleep(0.001)
                await protocols[0].until_called("made")
                sock.sendall(b"data")
            await protocols[0].until_called("lost")
            assert protocols[0].data == b"data"
    await shut(server)


@pytest.mark.parametrize("shared", [False, True], ids=["own", "shared"])
def test_no_descriptors_left(loop, way, errors, monkeypatch, shared):
    """The failure is reported, not again and again, and those who wait are served when there are descriptors again."""
    monkeypatch.setattr(constants, "ACCEPT_RETRY_DELAY", 0.1)
    protocol = Recorder()

    async def serve():
        if shared:
            return await loop.create_server(lambda: protocol, sock=socket.create_server(("127.0.0.1", 0)))
        return await loop.create_server(lambda: protocol, "127.0.0.1", 0)

    async def until_reported():
        while not errors:
            await asyncio.sleep(0.001)

    with socket.socket() as sock, few_descriptors() as use_up:
        server = loop.run_until_complete(serve())
        loop.run_until_complete(turns(3))
        with use_up():
            sock.connect(server.sockets[0].getsockname())
            loop.run_until_complete(asyncio.wait_for(until_reported(), 10))
        reported = list(errors)
        errors.clear()
        assert {context["message"] for context in reported} == {"socket.accept() out of system resource"}
        if way.ours:
            assert len(reported) == 1
        assert "socket" in reported[0]
        assert isinstance(reported[0]["exception"], OSError)
        loop.run_until_complete(asyncio.wait_for(protocol.until_called("made"), 10))
    loop.run_until_complete(protocol.until_called("lost"))
    loop.run_until_complete(shut(server))
