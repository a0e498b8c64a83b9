"""Servers: the context that connections run in, peers' names, clients that have gone again, and the end."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from .operations import kind, opening, operation
from .streams import FLAGS
from .world import Thing, World


class Connection(asyncio.Protocol):
    """One connection of a server."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.log: list[Any] = []
        server.note("factory")
        server.log.pop()

    def happen(self, *entry: Any) -> None:
        self.server.note(*entry)
        self.log.append(self.server.log.pop())
        self.server.loop.call_soon(self.happened, entry[0])

    def happened(self, name: str) -> None:
        self.server.world.noted += 1
        self.log.append(["soon", name])

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        name = transport.get_extra_info("peername")
        port = name[1] if name else None
        number = self.server.ports.index(port) if port in self.server.ports else None
        self.server.connections[number] = self
        self.happen("made", number)

    def data_received(self, data: bytes) -> None:
        if self.log[-1] != ["data"]:
            self.happen("data")
        self.transport.write(data)

    def eof_received(self) -> None:
        self.happen("eof")

    def connection_lost(self, exc: BaseException | None) -> None:
        self.happen("lost")


@kind("server", weight=4)
class Server(Thing):
    """A server, and plain clients of it."""

    @opening(streams=FLAGS, given=FLAGS)
    async def open(cls, world: World, slot: int, streams: bool, given: bool) -> Server:
        self = cls(world, slot)
        self.connections: dict[int | None, Any] = {}
        self.ports: list[int] = []
        self.clients: dict[int, socket.socket] = {}
        self.answers: dict[int, int] = {}
        self.resets: set[int] = set()
        self.came_in: dict[int, int] = {}  # in which step
        self.unsure: set[int] = set()  # whether they were accepted
        where: dict[str, Any] = {"host": "127.0.0.1", "port": 0}
        if given:
            where = {"sock": socket.create_server(("127.0.0.1", 0), backlog=50)}
        if streams:
            making = asyncio.start_server(self.handle, **where)
        else:
            making = world.loop.create_server(lambda: Connection(self), **where)
        self.server = await world.loop.create_task(making, context=self.context)
        self.address = self.server.sockets[0].getsockname()
        return self

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A connection of `start_server`."""
        name = writer.get_extra_info("peername")
        number = self.ports.index(name[1]) if name else None
        self.note("handler")
        self.connections[number] = connection = [self.log.pop()]
        try:
            while data := await reader.read(1000):
                writer.write(data)
                await writer.drain()
            connection.append("eof")
        except OSError:
            connection.append("eof")
        finally:
            writer.close()

    @operation(weight=6, sends=(0, 100), then=("", "shutdown", "close", "reset"))
    def connect(self, sends: int, then: str) -> None:
        try:
            client = socket.create_connection(self.address)
        except OSError as exc:
            self.note("connect", type(exc).__name__, inside=False)
            return
        number = len(self.ports)
        self.ports.append(client.getsockname()[1])
        self.clients[number] = client
        self.answers[number] = 0
        self.came_in[number] = self.world.step
        client.sendall(b"x" * sends)
        client.setblocking(False)
        if then:
            self.end(number, then)

    @operation(weight=4, which=range(4), how=("shutdown", "close", "reset"))
    def client_ends(self, which: int, how: str) -> None:
        if which in self.clients:
            self.end(which, how)

    def end(self, number: int, how: str) -> None:
        if how == "shutdown":
            try:
                self.clients[number].shutdown(socket.SHUT_WR)
            except OSError:
                pass
            return
        client = self.clients.pop(number)
        self.resets.add(number)
        if how == "reset":
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.close()

    @operation(weight=3, which=range(4))
    def client_sends(self, which: int) -> None:
        if which in self.clients:
            try:
                self.clients[which].send(b"x" * 50)
            except OSError:
                pass

    @operation(weight=1)
    def close(self) -> None:
        self.unsure |= {number for number, step in self.came_in.items() if step == self.world.step}
        self.attempt(self.server.close)

    @operation(weight=1)
    def wait_closed(self) -> None:
        self.spawn("wait_closed", self.server.wait_closed())

    def pump(self) -> None:
        for number, client in self.clients.items():
            try:
                self.answers[number] += len(client.recv(1 << 16))
            except OSError:
                pass

    def view(self) -> Any:
        seen = [number for number in self.connections if number not in self.unsure]
        return {
            "calls": self.log,
            "connections": {str(number): self._seen(number) for number in seen},
            "answers": [count for number, count in self.answers.items() if number not in self.resets | self.unsure],
            "pending": sorted(self.tasks),
        }

    def _seen(self, number: int | None) -> Any:
        """What one connection was told; of one that was reset, that it was there and has gone."""
        connection = self.connections[number]
        log = connection if isinstance(connection, list) else connection.log
        return [log[0], log[-1]] if number in self.resets else log

    def busy(self) -> bool:
        return False

    async def finish(self) -> None:
        self.server.close()
        for client in self.clients.values():
            client.close()
        self.clients.clear()
        await asyncio.wait_for(self.server.wait_closed(), 3)
