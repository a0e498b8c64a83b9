"""What the tests of datagrams share: a recording protocol, sockets, the endpoints that a test opens."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

LOCAL = ("127.0.0.1", 0)
#: Payload sizes around limits of buffers; the last one is the largest that UDP over IPv4 can carry.
DATAGRAM_SIZES = [1, 2, 511, 512, 1472, 1473, 4096, 16 * 1024 - 1, 16 * 1024, 16 * 1024 + 1, 40_000, 65_506, 65_507]

#: UDP over IPv4 carries one byte less.
TOO_LARGE = 65_508


class Talker(asyncio.DatagramProtocol):
    """Writes down what the transport calls, in order."""

    def __init__(self) -> None:
        self.transport: Any = None
        self.calls: list[str] = []
        self.datagrams: list[tuple[bytes, Any]] = []
        self.errors: list[Exception] = []
        self.exc: BaseException | None = None
        self._waiters: list[asyncio.Future[None]] = []

    @property
    def payloads(self) -> list[bytes]:
        return [data for data, _ in self.datagrams]

    def _note(self, name: str) -> None:
        self.calls.append(name)
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def until(self, predicate: Callable[[], Any]) -> None:
        """Wait until `predicate()` is true, looking after each call of the transport."""
        while not predicate():
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter

    async def until_received(self, count: int) -> None:
        await self.until(lambda: len(self.datagrams) >= count)

    async def until_called(self, name: str) -> None:
        await self.until(lambda: name in self.calls)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self._note("made")

    def datagram_received(self, data: bytes, addr: Any) -> None:
        assert type(data) is bytes
        self.datagrams.append((data, addr))
        self._note("data")

    def error_received(self, exc: Exception) -> None:
        self.errors.append(exc)
        self._note("error")

    def connection_lost(self, exc: BaseException | None) -> None:
        self.exc = exc
        self._note("lost")

    def pause_writing(self) -> None:
        self._note("pause")

    def resume_writing(self) -> None:
        self._note("resume")


class EchoTalker(Talker):
    """Sends everything back to where it came from."""

    def datagram_received(self, data: bytes, addr: Any) -> None:
        super().datagram_received(data, addr)
        self.transport.sendto(data, addr)


def udp_socket(family: int = socket.AF_INET, address: Any = LOCAL, room: int | None = None) -> socket.socket:
    """A plain blocking socket, bound, with a time limit; `room` bytes of receive buffer even beyond the limit."""
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.settimeout(20)
    sock.bind(address)
    if room:
        make_room(sock, room)
    return sock


def make_room(sock: socket.socket, size: int) -> None:
    """Have the kernel hold up to `size` bytes that nobody has received, as far as it lets us."""
    so_rcvbufforce = 33
    try:
        sock.setsockopt(socket.SOL_SOCKET, so_rcvbufforce, size)
    except OSError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)


def room_for_small_ones(sock: socket.socket) -> int:
    """How many small datagrams the socket's receive buffer holds for sure.  Each takes up to about 1 KiB of it."""
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2048


def name_of(transport: Any) -> Any:
    """The address of an endpoint."""
    return transport.get_extra_info("sockname")
