"""sendfile over TLS: the bytes, the file's position, cancels."""

import asyncio
import gzip
import ssl

import pytest
from support import Recorder, digest, payload, settle, turns

trustme = pytest.importorskip("trustme")

LARGE = 8 * 1024 * 1024


@pytest.fixture(scope="module")
def contexts():
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return server, client


@pytest.fixture
def tls_pair(loop, contexts):
    """Makes a TLS server that reads all; returns the client's transport, its protocol, and what the server got."""
    server_context, client_context = contexts
    servers = []

    async def make():
        theirs = Recorder()
        server = await loop.create_server(lambda: theirs, "127.0.0.1", 0, ssl=server_context)
        servers.append(server)
        transport, ours = await loop.create_connection(
            Recorder, *server.sockets[0].getsockname(), ssl=client_context, server_hostname="localhost"
        )
        return transport, ours, theirs

    yield make
    for server in servers:
        server.close()


@pytest.mark.parametrize("size", [1, 100_000, LARGE])
@pytest.mark.parametrize("offset", [0, 1])
async def test_tls(loop, tls_pair, make_file, size, offset):
    transport, ours, theirs = await tls_pair()
    file, data = make_file(size + offset)
    transport.write(b"head")
    assert await loop.sendfile(transport, file, offset) == size
    transport.write(b"tail")
    await theirs.until_received(size + 8)
    assert digest(theirs.data) == digest(b"head" + data[offset:] + b"tail")
    assert file.tell() == offset + size
    assert transport.get_protocol() is ours
    theirs.transport.write(b"back")
    await ours.until_received(4)
    transport.close()
    await ours.until_called("lost")
    await theirs.until_called("lost")


async def test_tls_without_fallback(loop, tls_pair, make_file):
    transport, ours, theirs = await tls_pair()
    file, _ = make_file(10)
    with pytest.raises(RuntimeError):
        await loop.sendfile(transport, file, fallback=False)
    transport.close()
    await ours.until_called("lost")
    await theirs.until_called("lost")


async def test_tls_cancel(loop, tls_pair, make_file):
    """What was sent is the beginning, and the connection goes on."""
    transport, ours, theirs = await tls_pair()
    file, data = make_file(4 * LARGE)
    await theirs.until_called("made")
    theirs.transport.pause_reading()
    sending = asyncio.ensure_future(loop.sendfile(transport, file))
    await settle(lambda: transport.get_write_buffer_size() > 0)
    await turns(10)
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    sent = file.tell()
    assert sent < len(data)
    assert transport.get_protocol() is ours
    transport.write(b"tail")
    theirs.transport.resume_reading()
    await theirs.until_received(sent + 4)
    assert digest(theirs.data) == digest(data[:sent] + b"tail")
    transport.close()
    await ours.until_called("lost")
    await theirs.until_called("lost")


async def test_tls_sends_what_a_file_object_reads(loop, tls_pair, tmp_path):
    """A compressed file's object reads what it decompresses, whatever its descriptor holds."""
    transport, ours, theirs = await tls_pair()
    data = payload(1000) * 500
    with gzip.open(tmp_path / "data.gz", "wb") as file:
        file.write(data)
    with gzip.open(tmp_path / "data.gz", "rb") as file:
        assert await loop.sendfile(transport, file) == len(data)
    await theirs.until_received(len(data))
    assert digest(theirs.data) == digest(data)
    transport.close()
    await ours.until_called("lost")
    await theirs.until_called("lost")
