"""What a connection holds on which nothing happens, counted by Python's allocator: the same in each run."""

import asyncio
import gc
import socket
import tracemalloc

import pytest
from support import settle

COUNT = 300
IDLE_MOST = 565
"""Bytes, the protocol of 32 and a number for the descriptor included: 515 on Python 3.13, 540 to 551 on 3.11."""
TALKED_MOST = 600


class Silent(asyncio.Protocol):
    """Counts connections and bytes, and holds nothing."""

    __slots__ = ()
    made = received = lost = 0

    def connection_made(self, transport):
        Silent.made += 1

    def data_received(self, data):
        Silent.received += len(data)

    def connection_lost(self, exc):
        Silent.lost += 1


class Answering(Silent):
    """Writes back what comes."""

    __slots__ = ("transport",)

    def connection_made(self, transport):
        self.transport = transport
        super().connection_made(transport)

    def data_received(self, data):
        self.transport.write(data)
        super().data_received(data)


def traced():
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


async def grown(loop, family, address, protocol, talk):
    """Bytes that each of COUNT accepted connections adds; talk: after a message to and fro on each."""
    Silent.made = Silent.received = Silent.lost = 0
    make = loop.create_unix_server if family == socket.AF_UNIX else loop.create_server
    server = await make(protocol, *address, backlog=COUNT)
    name = server.sockets[0].getsockname()
    clients = [socket.socket(family) for _ in range(COUNT + 1)]
    try:
        clients[0].connect(name)
        await settle(lambda: Silent.made == 1)
        for client in clients[1:]:
            client.connect(name)
        tracemalloc.start()
        try:
            before, sent = traced(), loop.stats()["bytes_out"]
            await settle(lambda: Silent.made == COUNT + 1)
            if talk:
                for client in clients[1:]:
                    client.sendall(b"x" * 100)
                await settle(lambda: Silent.received == COUNT * 100)
                # Only then have all sends ended.
                await settle(lambda: loop.stats()["bytes_out"] - sent == COUNT * 100)
            each = (traced() - before) / COUNT
        finally:
            tracemalloc.stop()
    finally:
        for client in clients:
            client.close()
    await settle(lambda: Silent.lost == COUNT + 1)
    server.close()
    await server.wait_closed()
    return each


@pytest.mark.parametrize("family", ["tcp", "unix"])
async def test_memory_of_an_idle_connection(loop, way, tmp_path, family):
    if not way.ours:
        pytest.skip("of this package's own objects")
    where = (socket.AF_INET, ("127.0.0.1", 0)) if family == "tcp" else (socket.AF_UNIX, (str(tmp_path / "s"),))
    assert await grown(loop, *where, Silent, talk=False) <= IDLE_MOST
    assert await grown(loop, *where, Answering, talk=True) <= TALKED_MOST
