"""Pipe transports."""

from __future__ import annotations

import os
from typing import Any

from .operations import kind, opening
from .peers import Peer, Pipe
from .streams import Recorder, Stream
from .world import ANY, World


@kind("read pipe", weight=3)
class ReadPipe(Stream):
    """What `connect_read_pipe` makes; the far end writes."""

    send = send_lines = send_file = cancel_send_file = send_and_block = send_eof = limits = None
    peer_reads = peer_sips = None

    @opening(start=("", "", "pause"), reaction=("", "", "bounce", "close", "raise", "exit"))
    async def open(cls, world: World, slot: int, **shape: Any) -> ReadPipe:
        self = cls(world, slot, keep_open=False, **shape)
        ours, theirs = os.pipe()
        self.peer = Peer(Pipe(theirs), 2 * slot, self.complain)
        self.peer.reading = False
        making = world.loop.connect_read_pipe(lambda: Recorder(self), open(ours, "rb", 0))
        await world.loop.create_task(making, context=self.context)
        return self

    def flushed(self) -> bool:
        return True

    def abort(self) -> None:  # read pipes have none
        self.close()

    def busy(self) -> bool:
        if self.transport.is_closing():
            return not self.lost
        return bool(self.peer.backlog and self.transport.is_reading())

    def view(self) -> Any:
        return {
            "calls": ANY if self.vague or (self.halted and not self.peer.speaks) else self._calls(),
            "received": ANY if self.rushed or self.halted or self.vague else self.received,
        }

    async def finish(self) -> None:
        self.context.run(self.transport.close)


@kind("write pipe", weight=3)
class WritePipe(Stream):
    """What `connect_write_pipe` makes; the far end reads."""

    send_lines = send_file = cancel_send_file = pause = resume = react = None
    peer_send = peer_sends_and_ends = peer_shutdown = peer_reset = None

    @opening(start=("", "", "write"))
    async def open(cls, world: World, slot: int, start: str) -> WritePipe:
        self = cls(world, slot, keep_open=False, start=start, reaction="")
        theirs, ours = os.pipe()
        self.peer = Peer(Pipe(theirs), 2 * slot, self.complain)
        making = world.loop.connect_write_pipe(lambda: Recorder(self), open(ours, "wb", 0))
        await world.loop.create_task(making, context=self.context)
        return self

    def busy(self) -> bool:
        if self.transport.is_closing() and not self.lost:
            return not self.transport.get_write_buffer_size() or self.peer.reading
        return bool(self.transport.get_write_buffer_size() and self.peer.reading and self.peer.open)

    def _reads(self) -> Any:
        return None

