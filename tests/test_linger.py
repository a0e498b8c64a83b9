"""SO_LINGER with a time: close(2) waits for the peer then, O_NONBLOCK or not.  The loop does not."""

import asyncio
import socket
import struct
import threading

import pytest
from support import payload, turns

pytestmark = pytest.mark.ours  # asyncio and uvloop wait

#: Longer than a test may take, and so is what is to be sent for what the peer takes without reading.
LINGER = struct.pack("ii", 1, 20)
SIZE = 200_000


class Losing(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
        self.lost = asyncio.get_running_loop().create_future()

    def connection_lost(self, exc):
        self.lost.set_result(exc)


def set_linger(sock):
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER)


def listening():
    sock = socket.socket()
    # Before the connection, so that the peer announces a small window.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.bind(("127.0.0.1", 0))
    sock.listen()
    return sock


def connected(address):
    """A peer that takes little."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect(address)
    return sock


async def connect(loop, how):
    """(transport, peer) of a connection whose socket has been given SO_LINGER in this way."""
    if how in ("asked", "given", "pipe"):
        with listening() as listener:
            if how != "asked":
                sock = socket.create_connection(listener.getsockname())
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * SIZE)
                set_linger(sock)
                as_pipe = how == "pipe"
                transport, _ = await (
                    loop.connect_write_pipe(Losing, sock) if as_pipe else loop.create_connection(Losing, sock=sock)
                )
            else:
                transport, _ = await loop.create_connection(Losing, *listener.getsockname())
                set_linger(transport.get_extra_info("socket"))
            peer, _ = listener.accept()
        return transport, peer
    accepted = loop.create_future()

    class Accepted(Losing):
        def connection_made(self, transport):
            super().connection_made(transport)
            accepted.set_result(transport)

    listener = socket.create_server(("127.0.0.1", 0))
    if how == "listener":
        set_linger(listener)
    server = await loop.create_server(Accepted, sock=listener)
    if how == "server":
        set_linger(server.sockets[0])
    peer = connected(listener.getsockname())
    transport = await accepted
    server.close()
    return transport, peer


class Patient(threading.Thread):
    """Reads what the peer gets, but only when the loop has said that it goes on, or has not for long."""

    def __init__(self, peer):
        super().__init__()
        self.peer, self.goes_on, self.data, self.held_up = peer, threading.Event(), b"", False
        self.start()

    def run(self):
        self.held_up = not self.goes_on.wait(5)
        with self.peer:
            while data := self.peer.recv(1 << 20):
                self.data += data


@pytest.mark.parametrize("end", ["close", "abort"])
@pytest.mark.parametrize("how", ["asked", "given", "pipe", "listener", "server"])
async def test_the_loop_goes_on(loop, how, end):
    transport, peer = await connect(loop, how)
    protocol = transport.get_protocol()
    data = payload(SIZE)
    if how == "asked":
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * SIZE)
    transport.write(data)
    await turns()
    assert transport.get_write_buffer_size() == 0
    reader = Patient(peer)
    getattr(transport, end)()
    assert await protocol.lost is None
    await turns()
    reader.goes_on.set()
    await asyncio.to_thread(reader.join)
    assert not reader.held_up
    assert reader.data == data


async def test_no_time_still_resets(loop):
    """SO_LINGER of 0 s is another matter: what was not sent is dropped, and the peer is told so."""
    with listening() as listener:
        transport, protocol = await loop.create_connection(Losing, *listener.getsockname())
        peer, _ = listener.accept()
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.close()
    assert await protocol.lost is None
    with peer, pytest.raises(ConnectionResetError):
        await asyncio.to_thread(peer.recv, 1)


async def test_the_option_of_a_connection_that_goes_on_is_left_alone(loop):
    """get_extra_info("socket") still has it until the end."""
    with listening() as listener:
        transport, protocol = await loop.create_connection(Losing, *listener.getsockname())
        peer, _ = listener.accept()
    sock = transport.get_extra_info("socket")
    set_linger(sock)
    transport.close()
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8) == LINGER
    assert await protocol.lost is None
    peer.close()
