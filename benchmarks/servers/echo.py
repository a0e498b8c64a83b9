"""Echo servers on each of asyncio's layers: protocol, streams, plain sockets, datagrams."""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import Any

CHUNK = 65536
BACKLOG = 1024

_kept: list[object] = []
"""Servers, transports and tasks that must live as long as the process."""


def _port(sock: Any) -> int:
    return int(sock.getsockname()[1])


class EchoProtocol(asyncio.Protocol):
    """Writes back what it receives.  Holds its connection when nothing comes: the idle workloads use it too."""

    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


async def start_protocol(host: str, port: int, context: ssl.SSLContext | None = None) -> int:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(EchoProtocol, host, port, backlog=BACKLOG, ssl=context)
    _kept.append(server)
    return _port(server.sockets[0])


async def _echo_streams(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(CHUNK):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass  # the load generator hung up; there is nobody left to tell
    finally:
        writer.close()


async def start_streams(host: str, port: int) -> int:
    server = await asyncio.start_server(_echo_streams, host, port, backlog=BACKLOG)
    _kept.append(server)
    return _port(server.sockets[0])


async def _echo_sock(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    with sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            while data := await loop.sock_recv(sock, CHUNK):
                await loop.sock_sendall(sock, data)
        except ConnectionError:
            pass  # the load generator hung up; there is nobody left to tell


async def _accept(listener: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    tasks: set[asyncio.Task[None]] = set()
    while True:
        sock, _ = await loop.sock_accept(listener)
        sock.setblocking(False)
        task = loop.create_task(_echo_sock(sock))
        tasks.add(task)
        task.add_done_callback(tasks.discard)


async def start_sock(host: str, port: int) -> int:
    listener = socket.create_server((host, port), backlog=BACKLOG)
    listener.setblocking(False)
    _kept.append(asyncio.get_running_loop().create_task(_accept(listener)))
    return _port(listener)


class EchoDatagrams(asyncio.DatagramProtocol):
    """Sends each datagram back to where it came from."""

    transport: asyncio.DatagramTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        self.transport.sendto(data, addr)


async def start_udp(host: str, port: int) -> int:
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(EchoDatagrams, local_addr=(host, port))
    _kept.append(transport)
    return int(transport.get_extra_info("sockname")[1])
