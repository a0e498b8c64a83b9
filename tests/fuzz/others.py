"""Watched descriptors that are no sockets; `sock_accept`; datagrams by `sock_*`."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import Any

from .operations import kind, opening, operation
from .streams import FLAGS
from .world import ANY, Thing, World

PLACES = ("/dev/null", "/dev/zero", "/dev/full", "/proc/self/mounts", "/proc/self/status", "/tmp", __file__)


@kind("file", weight=1)
class File(Thing):
    """Descriptors that are no sockets, watched."""

    @opening(path=PLACES)
    def open(cls, world: World, slot: int, path: str) -> File:
        self = cls(world, slot)
        self.fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        return self

    @operation(write=FLAGS)
    async def watch(self, write: bool) -> None:
        what = "writer" if write else "reader"
        self.attempt(getattr(self.loop, f"add_{what}"), self.fd, lambda: None)
        await asyncio.sleep(0)
        self.note("removed", self.attempt(getattr(self.loop, f"remove_{what}"), self.fd), inside=False)

    async def finish(self) -> None:
        os.close(self.fd)


@kind("connecting", weight=3)
class Connecting(Thing):
    """`sock_accept` and `sock_connect`, cancelled; what a cancelled accept leaves is there for the next."""

    @opening()
    def open(cls, world: World, slot: int) -> Connecting:
        self = cls(world, slot)
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=50)
        self.listener.setblocking(False)
        self.clients: list[socket.socket] = []
        self.accepted: list[int] = []
        self.raced = False
        return self

    @operation(weight=8)
    def accept(self) -> None:
        self.spawn("accept", self._accept())

    async def _accept(self) -> Any:
        sock, address = await self.loop.sock_accept(self.listener)
        with sock:
            self._came(address)
        return "accepted"

    def _came(self, address: Any) -> None:
        self.accepted.append(self.ports.index(address[1]) if address else -1)

    @operation(weight=4)
    def cancel_accept(self) -> None:
        self.cancel("accept")

    @operation(weight=8, reset=FLAGS)
    def connect(self, reset: bool) -> None:
        """A plain client, which may be gone again at once."""
        client = socket.create_connection(self.listener.getsockname())
        self.ports = [*getattr(self, "ports", []), client.getsockname()[1]]
        if reset:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            client.close()
        else:
            self.clients.append(client)

    async def mend(self) -> None:
        self.raced = True
        await asyncio.sleep(0)
        await self.cancel_all()
        while True:
            try:
                sock, address = self.listener.accept()
            except BlockingIOError:
                break
            with sock:
                self._came(address)
        # The standard loop may lose one when an accept is cancelled.
        if len(self.accepted) < len(getattr(self, "ports", [])):
            self.complain("a connection is lost")

    def view(self) -> Any:
        calls = ANY if self.raced else self.log
        accepted = ANY if self.raced else self.accepted
        return {"calls": calls, "accepted": accepted, "pending": sorted(self.tasks)}

    async def finish(self) -> None:
        self.listener.close()

    def dispose(self) -> None:
        for client in self.clients:
            client.close()


@kind("datagram sock", weight=3)
class DatagramSock(Thing):
    """`sock_recvfrom` and `sock_sendto`, cancelled; each datagram is there for whoever reads next, in order."""

    @opening(connected=FLAGS)
    def open(cls, world: World, slot: int, connected: bool) -> DatagramSock:
        self = cls(world, slot)
        self.sock, self.peer = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
        for sock in (self.sock, self.peer):
            sock.bind(("127.0.0.1", 0))
            sock.setblocking(False)
        if connected:
            self.sock.connect(self.peer.getsockname())
        self.name = self.peer.getsockname()
        self.sent = self.answered = 0
        self.taken: list[int] = []
        self.came: list[int] = []
        self.raced = self.closed = self.lossy = False
        return self

    @operation(weight=8, count=(1, 1, 3))
    def peer_send(self, count: int) -> None:
        for _ in range(count if not self.closed else 0):
            self.sent += 1
            self.peer.sendto(b"%d" % self.sent, self.sock.getsockname())

    @operation(weight=8, into=FLAGS)
    def recv(self, into: bool) -> None:
        if not self.closed:
            self.spawn("recv", self._recv_into() if into else self._recv())

    async def _recv(self) -> None:
        data, address = await self.loop.sock_recvfrom(self.sock, 100)
        self._took(data, address)

    async def _recv_into(self) -> None:
        buffer = bytearray(100)
        count, address = await self.loop.sock_recvfrom_into(self.sock, buffer)
        self._took(buffer[:count], address)

    def _took(self, data: bytes | bytearray, address: Any) -> None:
        self.taken.append(int(data))
        if address != self.name:
            self.complain(f"a datagram of {address}")

    @operation(weight=5)
    def cancel_recv(self) -> None:
        self.cancel("recv")

    @operation(weight=2)
    def take_by_hand(self) -> None:
        if not self.active("recv"):
            self._by_hand()

    def _by_hand(self) -> None:
        try:
            while True:
                self._took(*self.sock.recvfrom(100))
        except OSError:
            pass

    @operation(weight=4)
    def send(self) -> None:
        if not self.closed and not self.active("send"):
            self.answered += 1
            self.spawn("send", self.loop.sock_sendto(self.sock, b"%d" % self.answered, self.name))

    @operation(weight=1)
    async def close(self) -> None:
        """Calls that wait are cancelled first: on the standard loop they would wait for ever."""
        await self.cancel_all()
        self.closed = True
        self.sock.close()

    async def mend(self) -> None:
        self.raced = True
        await asyncio.sleep(0)
        await self.cancel_all()
        self._by_hand()
        # The standard loop loses what a call had received when it was cancelled.
        self.lossy = self.lossy or (not self.closed and len(self.taken) < self.sent)
        if self.lossy:
            self.complain("a datagram is lost")

    def pump(self) -> None:
        try:
            while True:
                self.came.append(int(self.peer.recv(100)))
        except OSError:
            pass

    def view(self) -> Any:
        racing = self.raced
        return {
            "calls": ANY if racing else self.log,
            "pending": sorted(self.tasks),
            "taken": ANY if self.lossy or (racing and self.closed) else self.taken,
            "came": ANY if racing else self.came,
        }

    async def finish(self) -> None:
        self.sock.close()

    def dispose(self) -> None:
        self.peer.close()
