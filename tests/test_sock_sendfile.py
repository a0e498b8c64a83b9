"""sock_sendfile: the bytes, the file's position, cancels, peers that misbehave."""

import asyncio
import io
import socket

import pytest
from support import Peer, digest, payload, shrink, tcp_pair, turns
from test_sendfile import LARGE, SIZES


@pytest.fixture
def sock_pair():
    """A non-blocking socket, and the far end of its connection."""
    ours, theirs = tcp_pair()
    ours.setblocking(False)
    peer = Peer(theirs)
    yield ours, peer
    ours.close()
    peer.close()


@pytest.mark.parametrize("size", [0, *SIZES])
async def test_sock_sendfile(loop, sock_pair, make_file, size):
    sock, peer = sock_pair
    file, data = make_file(size)
    receiving = asyncio.ensure_future(peer.recv(size))
    assert await loop.sock_sendfile(sock, file) == size
    assert digest(await receiving) == digest(data)
    assert file.tell() == size


async def test_sock_sendfile_part(loop, sock_pair, make_file):
    sock, peer = sock_pair
    file, data = make_file(LARGE)
    receiving = asyncio.ensure_future(peer.recv(LARGE - 3000))
    assert await loop.sock_sendfile(sock, file, 1000, LARGE - 3000) == LARGE - 3000
    assert digest(await receiving) == digest(data[1000:-2000])
    assert file.tell() == LARGE - 2000


async def test_sock_sendfile_fallback(loop, sock_pair):
    sock, peer = sock_pair
    data = payload(1_000_000)
    receiving = asyncio.ensure_future(peer.recv(len(data) - 9))
    file = io.BytesIO(data)
    assert await loop.sock_sendfile(sock, file, 9) == len(data) - 9
    assert digest(await receiving) == digest(data[9:])
    assert file.tell() == len(data)
    with pytest.raises(asyncio.SendfileNotAvailableError):
        await loop.sock_sendfile(sock, file, fallback=False)


@pytest.mark.ours  # after a cancel asyncio leaves the position where it was
async def test_sock_sendfile_cancel(loop, sock_pair, make_file):
    """After the cancel the socket is nobody's: it can be closed and its number used again."""
    sock, peer = sock_pair
    shrink(sock)
    file, data = make_file(LARGE)
    sending = asyncio.ensure_future(loop.sock_sendfile(sock, file))
    await turns(5)
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    sent = file.tell()
    assert 0 < sent < LARGE
    sock.close()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert digest(await peer.recv_all()) == digest(data[:sent])
        theirs.setblocking(False)
        with pytest.raises(BlockingIOError):
            theirs.recv(1)


@pytest.mark.ours  # after a cancel asyncio leaves the position where it was
async def test_sock_sendfile_goes_on_after_a_cancel(loop, sock_pair, make_file):
    sock, peer = sock_pair
    shrink(sock)
    file, data = make_file(LARGE)
    sending = asyncio.ensure_future(loop.sock_sendfile(sock, file))
    await turns(5)
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    receiving = asyncio.ensure_future(peer.recv(LARGE))
    await loop.sock_sendfile(sock, file, file.tell())
    assert digest(await receiving) == digest(data)


async def test_sock_sendfile_peer_vanishes(loop, sock_pair, make_file):
    sock, peer = sock_pair
    shrink(sock)
    file, _ = make_file(LARGE)
    sending = asyncio.ensure_future(loop.sock_sendfile(sock, file))
    await turns(5)
    peer.reset()
    with pytest.raises(ConnectionError):
        await sending


async def test_sock_sendfile_wrong_arguments(loop, sock_pair, make_file):
    sock, _ = sock_pair
    file, _ = make_file(10)
    for offset, count, error in [(-1, None, ValueError), (0, 0, ValueError), ("0", None, TypeError)]:
        with pytest.raises(error):
            await loop.sock_sendfile(sock, file, offset, count)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        datagrams.setblocking(False)
        with pytest.raises(ValueError, match="SOCK_STREAM"):
            await loop.sock_sendfile(datagrams, file)


async def test_sock_sendfile_to_a_socket_that_is_not_connected(loop, make_file):
    file, _ = make_file(100)
    with socket.socket() as sock:
        sock.setblocking(False)
        with pytest.raises(OSError):
            await loop.sock_sendfile(sock, file)
