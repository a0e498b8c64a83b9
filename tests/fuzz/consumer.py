"""What things have in common whose end is read by calls instead of a protocol."""

from __future__ import annotations

import os
from typing import Any

from .operations import LARGE, SMALL, operation
from .peers import Checker, piece
from .world import ANY, Thing, World


class Consumer(Thing):
    """Our end of a connection, which is read by calls."""

    def __init__(self, world: World, slot: int) -> None:
        super().__init__(world, slot)
        self.peer: Any = None
        self.check = Checker(2 * slot, self.complain)
        self.written = 0
        self.kept = -1
        self.torn = self.closed = self.mute = self.raced = self.loose = False

    def pump(self) -> None:
        self.peer.pump()

    def took(self, data: bytes | bytearray | memoryview) -> int:
        return self.check(data)

    def next_bytes(self, count: int) -> bytes:
        data = piece(self.peer.key + 1, self.written, count)
        self.written += count
        return data

    def view(self) -> Any:
        return {
            "results": ANY if self.raced else self.results,
            "calls": ANY if self.raced else sorted(self.log, key=str),
            "taken": ANY if self.raced and self.closed else self.check.count,
            "pending": ANY if self.raced else sorted(self.tasks),
            "peer": [ANY if self.torn or self.mute or self.loose else self.peer.received, bool(self.peer.ended)],
        }

    def dispose(self) -> None:
        self.peer.close()
        if self.kept >= 0:
            os.close(self.kept)

    def keep_number(self, number: int) -> None:
        """Leave the number of what was closed to nobody else."""
        null = os.open(os.devnull, os.O_RDONLY)
        if null != number:
            os.dup2(null, number, inheritable=False)
            os.close(null)
        self.kept = number

    # ---- the far end

    @operation(weight=9, size=(*SMALL, LARGE))
    def peer_send(self, size: int) -> None:
        self.torn = self.torn or self.closed
        self.peer.send(size)

    @operation(weight=3, on=(True, False))
    def peer_reads(self, on: bool) -> None:
        self.loose = not on and self.peer.received < self.written  # it stops somewhere
        self.peer.reading = on
        self.peer.pump()

    @operation(weight=3)
    def peer_shutdown(self) -> None:
        self.peer.end("shutdown")

    @operation(weight=1)
    def peer_close(self) -> None:
        self.torn = True
        self.peer.end("close")
