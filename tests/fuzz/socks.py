"""`sock_*`, readers and writers on one connection, and what a cancelled call leaves to the next one."""

from __future__ import annotations

import asyncio
import tempfile
import time
from typing import Any

from .consumer import Consumer
from .operations import LARGE, SMALL, kind, opening, operation
from .peers import Peer, piece
from .streams import FLAGS, pair
from .world import ANY, PATIENCE, Exit, World


@kind("sock", weight=8)
class Sock(Consumer):
    """A socket for `sock_recv`, `sock_sendall`, `add_reader` and `add_writer`, and for plain calls."""

    @opening(how=("tcp", "unix"), small=FLAGS)
    def open(cls, world: World, slot: int, how: str, small: bool) -> Sock:
        self = cls(world, slot)
        self.sock, theirs = pair(how, small)
        self.peer = Peer(theirs, 2 * slot, self.complain)
        self.watching = self.eof = self.by_hand = self.large = self.lossy = False
        self.numbered = False  # registered while a call waited: the standard loop knows it by its number then
        return self

    # ---- calls

    @operation(weight=10, size=(1, 100, 5000), into=FLAGS)
    def recv(self, size: int, into: bool) -> None:
        if not self.watching and not self.closed:
            self.spawn("recv", self._recv_into(size) if into else self._recv(size))

    async def _recv(self, size: int) -> Any:
        return self._took(await self.loop.sock_recv(self.sock, size))

    async def _recv_into(self, size: int) -> Any:
        buffer = bytearray(size)
        return self._took(buffer[: await self.loop.sock_recv_into(self.sock, buffer)])

    def _took(self, data: bytes | bytearray) -> Any:
        self.eof = self.eof or not data
        return self.took(data)

    @operation(weight=8, size=(*SMALL, LARGE))
    def sendall(self, size: int) -> None:
        if not self.mute and not self.closed and not self.active("sendall"):
            self.large = size == LARGE
            self.spawn("sendall", self.loop.sock_sendall(self.sock, self.next_bytes(size)))

    @operation(weight=3, size=(700, LARGE))
    def sendfile(self, size: int) -> None:
        if not self.mute and not self.closed and not self.active("sendall"):
            self.large = True
            self.spawn("sendall", self._sendfile(self.next_bytes(size)))

    async def _sendfile(self, data: bytes) -> None:
        with tempfile.TemporaryFile() as file:
            file.write(data)
            file.seek(0)
            await self.loop.sock_sendfile(self.sock, file)

    @operation(weight=4)
    def wait_both_ways(self) -> None:
        """For room and for data, on one descriptor."""
        self.peer_reads(False)
        self.sendall(LARGE)
        self.recv(100, False)

    @operation(weight=6)
    def cancel_recv(self) -> None:
        self.cancel("recv")

    @operation(weight=3)
    def cancel_sendall(self) -> None:
        if self.active("sendall"):
            self.mute = True
            self.cancel("sendall")

    @operation(weight=3)
    def take_by_hand(self) -> None:
        if not self.active("recv"):
            self.note("by hand", self._all_by_hand(), inside=False)

    def _all_by_hand(self) -> int:
        """All that the far end has to send: how much of it stands in the kernel is free."""
        count, end = 0, time.monotonic() + PATIENCE
        while self.check.count < self.peer.told and not (self.eof or self.closed) and time.monotonic() < end:
            self.pump()
            more = self._by_hand()
            count += more
            if not more and not self.peer.open:
                break
        return count

    def _by_hand(self) -> int:
        count = 0
        try:
            while data := self.sock.recv(1 << 16):
                count += self.took(data)
            self.eof = True
        except OSError:
            pass
        return count

    # ---- readers and writers

    def _calls_wait(self) -> bool:
        return self.active("recv") or self.active("sendall")

    @operation(weight=3, action=("", "", "remove", "exit"))
    def add_reader(self, action: str) -> None:
        if not self.active("recv"):
            self.watching = True
            self.numbered = self.numbered or self._calls_wait()
            self.attempt(self.loop.add_reader, self.sock, self._readable, action)

    def _readable(self, action: str) -> None:
        before = self.check.count
        if not self.watching:
            self.complain("a reader is called that was removed")
        self._by_hand()
        # How much of a stream that goes on has come by then is free.
        self.lossy = self.lossy or (action == "remove" and self.peer.backlog > 0)
        if self.eof or action == "remove":
            self.loop.remove_reader(self.sock)
            self.watching = False
        self.note("readable", inside=True)
        del self.log[-1]
        if action == "exit" and self.check.count > before:
            raise Exit

    @operation(weight=3)
    def remove_reader(self) -> None:
        if self.watching:
            self.watching = False
            self.note("removed", self.attempt(self.loop.remove_reader, self.sock), inside=False)

    @operation(weight=3, fill=FLAGS)
    def add_writer(self, fill: bool) -> None:
        if not self.active("sendall") and not self.closed:
            self.numbered = self.numbered or self._calls_wait()
            self.attempt(self.loop.add_writer, self.sock, self._fill if fill else self._writable)

    def _writable(self) -> None:
        self.note("writable")
        self.loop.remove_writer(self.sock)

    def _fill(self) -> None:
        if not self.fill():
            self.loop.remove_writer(self.sock)

    @operation(weight=2)
    def fill(self) -> bool:
        """Send by hand until nothing fits any more; false if nothing ever will."""
        if self.active("sendall") or self.closed or (self.mute and not self.by_hand):
            return False
        self.mute = self.by_hand = True
        try:
            while self.written < 40_000_000:
                self.written += self.sock.send(piece(self.peer.key + 1, self.written, 1 << 16))
        except BlockingIOError:
            return True
        except OSError:
            pass
        return False

    @operation(weight=2, remove=FLAGS)
    async def close(self, remove: bool) -> None:
        """Close the socket under whatever waits on it; take registrations back afterwards."""
        if self.closed:
            return
        self.closed = True
        self.torn = self.torn or self.peer.told > self.check.count or self.active("recv")
        self.mute = self.mute or (self.active("sendall") and self.large)
        waiting, self.watching = self.watching, False
        number = self.sock.fileno()
        self.sock.close()
        if self.tasks:
            # On the standard loop the call goes on to wait, and so would one on the next socket with this number.
            self.keep_number(number)
        if remove:
            await asyncio.sleep(0)
        before = len(self.results)
        for _ in range(2):
            self.note("removed", self.attempt(self.loop.remove_reader, self.sock), waiting, inside=False)
        self.attempt(self.loop.remove_writer, self.sock)
        if self.numbered:
            del self.results[before:]
        if remove:
            await self.cancel_all()

    def busy(self) -> bool:
        if self.closed:
            return bool(self.peer.reading and self.peer.open and not self.peer.ended)
        unread = self.peer.received < self.written and not (self.mute or self.peer.ended)
        sending = ("sendall" in self.tasks or unread) and self.peer.reading and self.peer.open
        return bool(sending or (self.peer.backlog and self.watching))

    async def mend(self) -> None:
        """Whether a call or its cancellation won is free: end all calls, and read what is there for the next reader."""
        self.raced = True
        for _ in range(5):
            self.pump()
            await asyncio.sleep(0)
        await self.cancel_all(*(() if self.closed else ("recv",)))
        if self.closed or self.watching:
            return
        end = time.monotonic() + PATIENCE
        while self.check.count < self.peer.told and self.peer.open and not self.eof and time.monotonic() < end:
            self.pump()
            self._by_hand()
            await asyncio.sleep(0)
        # The standard loop loses what a call had received when it was cancelled.
        if self.check.count < self.peer.told and self.peer.open:
            self.lossy = True
            self.complain("bytes are lost")

    def view(self) -> Any:
        view = super().view()
        return {**view, "taken": ANY} if self.lossy else view

    async def finish(self) -> None:
        if not self.closed:
            self.loop.remove_reader(self.sock)
            self.loop.remove_writer(self.sock)
            self.sock.close()
            self.closed = True
