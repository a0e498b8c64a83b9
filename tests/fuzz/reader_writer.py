"""asyncio's streams: tasks that read, write, drain and are cancelled."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from .consumer import Consumer
from .operations import LARGE, SMALL, kind, opening, operation
from .peers import Peer
from .streams import FLAGS, pair
from .world import ANY, PATIENCE, World


@kind("reader and writer", weight=4)
class ReaderWriter(Consumer):
    """asyncio's streams on a transport of ours."""

    @opening(how=("tcp", "unix"), small=FLAGS, limit=(100, 1 << 16))
    async def open(cls, world: World, slot: int, how: str, small: bool, limit: int) -> ReaderWriter:
        self = cls(world, slot)
        ours, theirs = pair(how, small)
        self.peer = Peer(theirs, 2 * slot, self.complain)
        connect = asyncio.open_unix_connection if how == "unix" else asyncio.open_connection
        task = world.loop.create_task(connect(sock=ours, limit=limit), context=self.context)
        self.reader, self.writer = await task
        self.eof = False
        return self

    @operation(weight=10, size=(1, 100, 5000))
    def read(self, size: int) -> None:
        self.spawn("read", self._read(size))

    async def _read(self, size: int) -> Any:
        data = await self.reader.read(size)
        self.eof = self.eof or not data
        self.took(data)
        return bool(data)

    @operation(weight=6, size=(1, 100, 5000))
    def read_exactly(self, size: int) -> None:
        self.spawn("read", self._read_exactly(size))

    async def _read_exactly(self, size: int) -> Any:
        try:
            return self.took(await self.reader.readexactly(size))
        except asyncio.IncompleteReadError as exc:
            self.eof = True
            return "only", self.took(exc.partial)

    @operation(weight=3)
    def cancel_read(self) -> None:
        self.cancel("read")

    @operation(weight=8, size=(*SMALL, LARGE))
    def write(self, size: int) -> None:
        if not self.closed and not self.mute:
            self.context.run(self.writer.write, self.next_bytes(size))
            self.spawn("drain", self.writer.drain())

    @operation(weight=2)
    def cancel_drain(self) -> None:
        self.cancel("drain")

    @operation(weight=2)
    def write_eof(self) -> None:
        self.mute = True
        self.attempt(self.writer.write_eof)

    @operation(weight=2)
    def close(self) -> None:
        self.torn = self.torn or self.peer.told > self.check.count
        self.closed = True
        self.context.run(self.writer.close)
        self.spawn("wait_closed", self.writer.wait_closed())

    def view(self) -> Any:
        view = super().view()
        # How much of a stream a read takes depends on how it was cut; what is left is read at the end.
        view["taken"] = ANY
        if self.torn or self.mute:
            view["calls"] = view["pending"] = ANY
        return view

    def busy(self) -> bool:
        transport = self.writer.transport
        if transport.is_closing():
            return bool(self.peer.reading and self.peer.open and not self.peer.ended)
        return bool(transport.get_write_buffer_size() and self.peer.reading and self.peer.open)

    async def mend(self) -> None:
        self.raced = True

    async def finish(self) -> None:
        """All that was sent is there, unless the connection was closed."""
        if not self.closed and not self.torn and self.reader.exception() is None:
            end = time.monotonic() + PATIENCE
            while self.check.count < self.peer.told and not self.eof and time.monotonic() < end:
                self.pump()
                self.started.clear()
                self.spawn("read", self._read(1 << 16))
                await asyncio.sleep(0.0005)
            await self.cancel_all()
            if self.check.count < self.peer.told:
                self.complain(f"{self.peer.told} bytes were sent, {self.check.count} have come")
        self.torn = True
        self.peer.reading = True
        self.attempt(self.writer.transport.abort)
