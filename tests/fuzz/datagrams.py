"""Datagram endpoints."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from .operations import kind, opening, operation
from .streams import FLAGS
from .world import ANY, Thing, World, family


class Talker(asyncio.DatagramProtocol):
    """Writes down what an endpoint calls."""

    def __init__(self, thing: Endpoint) -> None:
        self.thing = thing

    def connection_made(self, transport: Any) -> None:
        self.thing.transport = transport
        self.thing.happen("made")

    def datagram_received(self, data: bytes, address: Any) -> None:
        self.thing.happen("datagram", data.hex()[:20], len(data), address == self.thing.name)
        if self.thing.echo:
            self.thing.transport.sendto(data, address)

    def error_received(self, exc: Exception) -> None:
        self.thing.errors.add(family(exc))

    def connection_lost(self, exc: BaseException | None) -> None:
        self.thing.happen("lost", family(exc) if exc else None)
        self.thing.lost = True


@kind("datagrams", weight=4)
class Endpoint(Thing):
    """An endpoint and a plain socket to talk to.  So few datagrams that none is lost."""

    @opening(connected=FLAGS, echo=FLAGS)
    async def open(cls, world: World, slot: int, connected: bool, echo: bool) -> Endpoint:
        self = cls(world, slot)
        self.echo, self.connected, self.lost = echo, connected, False
        self.errors: set[str] = set()
        self.number = 0
        self.peer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.peer.bind(("127.0.0.1", 0))
        self.peer.setblocking(False)
        self.name = self.peer.getsockname()
        self.came: list[Any] = []
        self.aborted = self.raced = self.rushed = self.late = self.unsure = False
        where = {"remote_addr": self.name} if connected else {"local_addr": ("127.0.0.1", 0)}
        making = world.loop.create_datagram_endpoint(lambda: Talker(self), **where)
        await world.loop.create_task(making, context=self.context)
        self.address = self.transport.get_extra_info("sockname")
        return self

    def gone(self) -> bool:
        return bool(self.transport.is_closing())

    def happen(self, *entry: Any) -> None:
        if self.lost:
            self.complain(f"{entry[0]} after connection_lost")
        self.note(*entry)
        if entry[0] != "datagram":
            self.loop.call_soon(self.log.append, ["soon", entry[0]])

    def _next(self, size: int) -> bytes:
        self.number += 1
        return (b"%06d" % self.number * (size // 6 + 1))[:size]

    @operation(weight=8, size=(1, 6, 500, 1472, 9000, 65507, 65508), count=(1, 1, 3))
    def send(self, size: int, count: int) -> None:
        self.late = self.late or self.transport.is_closing()
        for _ in range(count if size < 10_000 else 1):
            self.attempt(self.transport.sendto, self._next(size), None if self.connected else self.name)

    @operation(weight=1)
    def send_nowhere(self) -> None:
        """An address that this endpoint cannot send to."""
        self.late = self.late or self.transport.is_closing()
        self.attempt(self.transport.sendto, b"x", ("127.0.0.1", 9) if self.connected else ("255.255.255.255", 9))

    @operation(weight=8, size=(0, 1, 6, 500, 9000, 65507), count=(1, 1, 3))
    def peer_send(self, size: int, count: int) -> None:
        for _ in range(count if size < 10_000 else 1):
            try:
                self.peer.sendto(self._next(size), self.address)
            except OSError:
                pass

    @operation(weight=1)
    def peer_close(self) -> None:
        """What is sent there comes back as an error."""
        self.unsure = self.unsure or (self.echo and self.hasty())  # which answers were sent by now is free
        self.peer.close()

    @operation(weight=1)
    def close(self) -> None:
        self.rushed = self.rushed or self.hasty()
        self.attempt(self.transport.close)

    @operation(weight=1)
    def abort(self) -> None:
        self.aborted = True
        self.rushed = self.rushed or self.hasty()
        self.attempt(self.transport.abort)

    def pump(self) -> None:
        while self.peer.fileno() >= 0:
            try:
                data = self.peer.recv(1 << 17)
            except BlockingIOError:
                return
            except OSError:
                continue
            self.came.append([data.hex()[:20], len(data)])

    def view(self) -> Any:
        unsure = self.late or self.aborted or self.unsure
        return {
            "calls": [entry for entry in self.log if entry[0] != "datagram" or not self.rushed],
            "errors": ANY if unsure or self.rushed else sorted(self.errors),
            "peer": ANY if unsure or (self.echo and self.rushed) else sorted(self.came) if self.raced else self.came,
            "closing": self.transport.is_closing(),
        }

    def flushed(self) -> bool:
        return bool(self.lost or not self.transport.get_write_buffer_size())

    async def mend(self) -> None:
        """What is sent and what is sent back may overtake each other."""
        self.raced = True

    def busy(self) -> bool:
        return self.transport.is_closing() and not self.lost

    async def finish(self) -> None:
        self.context.run(self.transport.close)

    def dispose(self) -> None:
        self.peer.close()
