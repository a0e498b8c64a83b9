"""Unix sockets: servers and connections."""

import asyncio
import os
import socket
import stat
import sys

import pytest
from support import Echo, Recorder, digest, payload, turns


async def shut(server):
    server.close()
    await server.wait_closed()


async def ask(loop, path, data=b"ping"):
    transport, protocol = await loop.create_unix_connection(Recorder, path)
    transport.write(data)
    await protocol.until_received(len(data))
    transport.close()
    await protocol.until_called("lost")
    return protocol.data


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "socket")


async def test_path(loop, path):
    server = await loop.create_unix_server(Echo, path)
    assert stat.S_ISSOCK(os.stat(path).st_mode)
    assert server.sockets[0].getsockname() == path
    assert await ask(loop, path) == b"ping"
    assert digest(await ask(loop, path, payload(3_000_000))) == digest(payload(3_000_000))
    await shut(server)
    assert os.path.exists(path) == (sys.version_info < (3, 13))


@pytest.mark.skipif(sys.version_info < (3, 13), reason="the file stays")
async def test_asyncios_own_code_removes_the_file(loop, path, monkeypatch):
    # Tools that report calls that block within a loop know the places in asyncio that make some.
    server = await loop.create_unix_server(Echo, path)
    seen = {"stat": [], "unlink": []}

    def watch(name, function):
        def call(target, *args, **options):
            if target == path:
                caller = sys._getframe(1).f_code
                seen[name].append((caller.co_filename, caller.co_name))
            return function(target, *args, **options)

        monkeypatch.setattr(os, name, call)

    for name in seen:
        watch(name, getattr(os, name))
    await shut(server)
    own = [(asyncio.unix_events.__file__, "_stop_serving")]
    assert seen == {"stat": own, "unlink": own}
    monkeypatch.undo()
    assert not os.path.exists(path)


async def test_path_like_objects(loop, tmp_path):
    path = tmp_path / "socket"
    server = await loop.create_unix_server(Echo, path)
    assert await ask(loop, path) == b"ping"
    await shut(server)


async def test_abstract_name(loop):
    name = f"\0flexsc-test-{os.getpid()}"
    server = await loop.create_unix_server(Echo, name)
    assert await ask(loop, name) == b"ping"
    await shut(server)


async def test_stale_socket_file_is_replaced(loop, path):
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(path)
    server = await loop.create_unix_server(Echo, path)
    assert await ask(loop, path) == b"ping"
    await shut(server)


async def test_another_kind_of_file_is_not_replaced(loop, path):
    with open(path, "w") as file:
        file.write("precious")
    with pytest.raises(OSError):
        await loop.create_unix_server(Echo, path)
    with open(path) as file:
        assert file.read() == "precious"


async def test_server_on_a_socket(loop, path):
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(path)
    server = await loop.create_unix_server(Echo, sock=sock)
    assert await ask(loop, path) == b"ping"
    await shut(server)


async def test_connection_on_a_socket(loop, path):
    server = await loop.create_unix_server(Echo, path)
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(path)
    sock.setblocking(False)
    transport, protocol = await loop.create_unix_connection(Recorder, sock=sock)
    transport.write(b"x")
    await protocol.until_received(1)
    assert transport.get_extra_info("peername") == path
    transport.close()
    await protocol.until_called("lost")
    await shut(server)


async def test_errors(loop, path):
    with pytest.raises(FileNotFoundError):
        await loop.create_unix_connection(Recorder, path)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(path)
        with pytest.raises(ConnectionRefusedError):
            await loop.create_unix_connection(Recorder, path)
    with pytest.raises(ValueError):
        await loop.create_unix_connection(Recorder)
    with pytest.raises(ValueError):
        await loop.create_unix_server(Echo)
    with socket.socket() as tcp:
        with pytest.raises(ValueError):
            await loop.create_unix_connection(Recorder, sock=tcp)
        with pytest.raises(ValueError):
            await loop.create_unix_server(Echo, sock=tcp)


async def test_not_serving_at_first(loop, path):
    server = await loop.create_unix_server(Echo, path, start_serving=False)
    with pytest.raises(ConnectionRefusedError):
        await loop.create_unix_connection(Recorder, path)
    await server.start_serving()
    assert await ask(loop, path) == b"ping"
    await shut(server)


async def test_many_connections(loop, path):
    server = await loop.create_unix_server(Echo, path, backlog=300)
    answers = await asyncio.gather(*(ask(loop, path, payload(1000 + i, i)) for i in range(200)))
    assert [digest(answer) for answer in answers] == [digest(payload(1000 + i, i)) for i in range(200)]
    await shut(server)


async def test_cancelled_connection_leaves_nothing(loop, path):
    """A full backlog: connect() gives EAGAIN for a Unix socket; whatever the loop makes of it, nothing leaks."""
    with socket.socket(socket.AF_UNIX) as full:
        full.bind(path)
        full.listen(0)
        filler = socket.socket(socket.AF_UNIX)
        filler.setblocking(False)
        filler.connect(path)
        for i in range(6):
            connecting = asyncio.ensure_future(loop.create_unix_connection(Recorder, path))
            await turns(i)
            connecting.cancel()
            try:
                transport, protocol = await connecting
            except (asyncio.CancelledError, BlockingIOError):
                continue
            transport.abort()
            await protocol.until_called("lost")
        filler.close()
