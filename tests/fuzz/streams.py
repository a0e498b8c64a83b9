"""Stream transports: TCP, Unix sockets, TLS, pipes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import tempfile
import time
from typing import Any

from .operations import LARGE, SMALL, kind, opening, operation
from .peers import Checker, Peer, TlsPeer, piece
from .world import ANY, Exit, Thing, World, family

FLAGS = (False, False, True)
#: Otherwise some writes wait for the turn's end.
WRITES_NOW = os.environ.get("FLEXSC_WRITES") == "now"


def pair(how: str, small: bool) -> tuple[socket.socket, socket.socket]:
    """Two connected sockets that do not block."""
    if how == "unix":
        ours, theirs = socket.socketpair()
    else:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            ours = socket.create_connection(listener.getsockname())
            theirs, _ = listener.accept()
            theirs.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for sock in (ours, theirs):
        sock.setblocking(False)
        # Fixed, so that what fills everything (`LARGE`) always does: the kernel adapts sizes that nobody has set.
        size = 32 * 1024 if small else 200 * 1024
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
    return ours, theirs


class Recorder(asyncio.Protocol):
    """A protocol that writes everything down and does what its thing says."""

    def __init__(self, thing: Stream) -> None:
        self.thing = thing

    def connection_made(self, transport: Any) -> None:
        thing = self.thing
        if thing.log:
            thing.complain("connection_made is not the first call")
        thing.transport = transport
        thing.happen("made")
        if thing.start == "pause":
            transport.pause_reading()
        elif thing.start == "write":
            thing.write(100)

    def data_received(self, data: bytes) -> None:
        thing = self.thing
        if not data or type(data) is not bytes:
            thing.complain(f"data_received({data!r})")
        thing.arrived(data)

    def eof_received(self) -> bool:
        self.thing.end()
        return self.thing.keep_open

    def connection_lost(self, exc: BaseException | None) -> None:
        self.thing.happen("lost", family(exc) if exc else None)
        self.thing.lost = True

    def pause_writing(self) -> None:
        self.thing.writing(False)

    def resume_writing(self) -> None:
        self.thing.writing(True)


class Buffered(Recorder, asyncio.BufferedProtocol):
    """The same with a buffer of its own."""

    def __init__(self, thing: Stream) -> None:
        super().__init__(thing)
        self.buffer = bytearray(3000)

    def get_buffer(self, sizehint: int) -> bytearray:
        return self.buffer

    def buffer_updated(self, count: int) -> None:
        self.thing.arrived(bytes(self.buffer[:count]))

    data_received = None  # type: ignore[assignment]


class Stream(Thing):
    """A transport with a protocol, and its far end."""

    marks = True
    last_words = False  # the far end sends something with its end
    lost = over = told_end = writes_paused = bounced = False
    dead = False  # we have written to a far end that has gone: when that is noticed is free
    # What of the view has become free: the far end's share, both shares, how much the far end had read when it stopped;
    # whether data came before we closed, or before we paused.
    torn = vague = loose = rushed = halted = False
    filing = False  # closed while a file was sent
    limited = False  # its write buffer's limits have been set
    adrift = False  # paused in the step in which the far end ended, which may have been seen before that
    exited_in = -1  # the step in which the protocol ended the loop

    def __init__(self, world: World, slot: int, keep_open: bool, start: str, reaction: str) -> None:
        super().__init__(world, slot)
        self.keep_open, self.start, self.reaction = keep_open, start, reaction
        self.transport: Any = None
        self.peer: Any = None
        self.check = Checker(2 * slot, self.complain)
        self.written = 0
        self.tasks_gave: list[Any] = []

    def gone(self) -> bool:
        return bool(self.transport.is_closing())

    @property
    def received(self) -> int:
        return self.check.count

    def ended(self, name: str, what: Any) -> None:
        """When a task of ours ends, among what the protocol is told, is free."""
        super().ended(name, what)
        self.tasks_gave.append(self.log.pop())

    # ---- what the protocol is told

    def happen(self, *entry: Any) -> None:
        if self.lost:
            self.complain(f"{entry[0]} after connection_lost")
        self.note(*entry)
        if self.marks:
            self.loop.call_soon(self._soon, entry[0])

    def _soon(self, after: str) -> None:
        """Runs before anything else happens to the connection."""
        self.world.noted += 1
        self.log.append(["soon", after])

    def end(self) -> None:
        """The standard loop tells it again when reading is resumed."""
        if self.told_end:
            self.complain("eof_received again")
        else:
            self.told_end = True
            self.happen("eof")

    def arrived(self, data: bytes) -> None:
        if self.lost or self.over:
            self.complain("data after the end")
        if not self.transport.is_reading() and not self.transport.is_closing():
            self.complain("data while paused")
        self.check(data)
        self.happen("data")
        reaction = self.reaction
        if reaction == "echo":
            self.write(len(data), answer=True)
        elif reaction == "bounce":
            self.transport.pause_reading()
            self.bounced = True
            self.loop.call_later(0.001, self._resume)
        elif reaction in ("close", "abort", "raise", "exit"):
            self.reaction = ""
            self.torn = self.vague = self.vague or reaction != "exit"
            if reaction == "raise":
                raise ValueError("from data_received")
            if reaction == "exit":
                self.exited_in = self.world.step
                raise Exit
            getattr(self.transport, reaction)()

    def _resume(self) -> None:
        self.bounced = False
        if not self.transport.is_closing():
            self.transport.resume_reading()

    def writing(self, on: bool) -> None:
        if on is not self.writes_paused:
            self.complain("pause_writing and resume_writing do not take turns")
        self.writes_paused = not on

    # ---- our side

    def write(self, count: int, *, answer: bool = False) -> None:
        if self.active("send_file"):
            return
        self.dead = self.dead or not self.peer.open or self.adrift
        self.vague = self.vague or self._may_have_ended()
        data = piece(self.peer.key + 1, self.written, count)
        before = self._waiting()
        try:
            self.transport.write(data)
        except Exception as exc:
            if not (self.gone() or self.hasty() or answer):  # how often data comes is free
                self.note("write", type(exc).__name__, inside=False)
        else:
            # A transport that is closing takes more as long as something waits.
            if not self.transport.is_closing() or self._waiting() > before:
                self.written += count

    @operation(weight=8, size=(*SMALL, LARGE), times=(1, 1, 1, 3))
    def send(self, size: int, times: int) -> None:
        for _ in range(times):
            self.context.run(self.write, size)

    @operation(weight=2, size=SMALL)
    def send_lines(self, size: int) -> None:
        if self.active("send_file"):
            return
        self.dead = self.dead or not self.peer.open or self.adrift
        self.vague = self.vague or self._may_have_ended()
        data = [piece(self.peer.key + 1, self.written + size * i, size) for i in range(3)]
        if not self.transport.is_closing():
            self.attempt(self.transport.writelines, data)
            self.written += size * 3

    @operation(weight=2, size=(10, 700))
    def send_and_block(self, size: int) -> None:
        """What has been written is sent although the callback goes on and waits for it: if the loop is told so."""
        if self.peer.reading and not (self.active("send_file") or self.transport.is_closing()):
            paused = self.writes_paused
            self.pump()
            self.context.run(self.write, size)
            checked = WRITES_NOW or not self.world.stats
            end = time.monotonic() + (0.3 if checked else 0.01)
            while self.peer.received < self.written and time.monotonic() < end:
                self.pump()
            if checked and not paused and self.peer.received < self.written:
                self.complain("what was written was not sent before the turn's end")

    @operation(weight=2, size=(700, LARGE))
    def send_file(self, size: int) -> None:
        if not self.active("send_file") and not self.transport.is_closing():
            self.dead = self.dead or not self.peer.open or self.adrift or self._may_have_ended()
            self.spawn("send_file", self._send_file(size))

    async def _send_file(self, size: int) -> Any:
        with tempfile.TemporaryFile() as file:
            file.write(piece(self.peer.key + 1, self.written, size))
            file.seek(0)
            self.written += size
            try:
                return await self.loop.sendfile(self.transport, file)
            except (OSError, RuntimeError):
                self.vague = True
                return "failed"

    @operation(weight=1)
    def cancel_send_file(self) -> None:
        """How much has been sent by then is free, so this is the last thing that is sent."""
        if self.active("send_file"):
            self.vague = True
            self.cancel("send_file")
            self.transport.abort()

    @operation()
    def send_eof(self) -> None:
        if self.reaction == "echo" and self.hasty():
            self.vague = True  # an answer to what the far end has just sent comes before it, or never
        self.attempt(self.transport.write_eof)

    @operation(weight=3)
    def close(self) -> None:
        self._tear()
        self.filing = self.filing or self.active("send_file")
        self.attempt(self.transport.close)

    @operation(weight=2)
    def abort(self) -> None:
        self._tear()
        self.torn = True
        self.attempt(self.transport.abort)

    def _tear(self) -> None:
        """Closing with unread data in the kernel resets the connection."""
        if self.received < self.peer.told or self.peer.backlog or self.hasty():
            self.torn = True
        self.rushed = self.rushed or self.hasty()
        self.vague = self.vague or self.active("send_file")  # the standard loop's waits for ever
        self.over = True

    @operation()
    def pause(self) -> None:
        if not self.active("send_file"):  # at its end the standard loop resumes what has been paused meanwhile
            self.halted = self.halted or self.hasty()
            # Reactions that close included: whether there was something to react to is free.
            self.adrift = self.adrift or self._may_have_ended() or (self.hasty() and bool(self.reaction))
            self.dead = self.dead or not self.peer.open
            self.attempt(self.transport.pause_reading)

    @operation()
    def resume(self) -> None:
        if not self.active("send_file"):  # what comes then is a mistake, for the standard loop
            self.halted = self.adrift = False
            self.world.stirred.add(self.slot)  # what has waited comes now, as what the far end does would
            self.attempt(self.transport.resume_reading)

    @operation(weight=1, high=(0, 1000, 100_000))
    def limits(self, high: int) -> None:
        self.limited = True
        self.attempt(lambda: self.transport.set_write_buffer_limits(high=high))

    @operation(weight=1, reaction=("echo", "bounce", "close", "abort", "raise", "exit", ""))
    def react(self, reaction: str) -> None:
        if not self.hasty():
            self.reaction = reaction

    # ---- the far end

    @operation(weight=8, size=(*SMALL, LARGE))
    def peer_send(self, size: int) -> None:
        self._peer_speaks()
        self.peer.send(size)

    @operation(on=(True, False))
    def peer_reads(self, on: bool) -> None:
        self.loose = not on and self.peer.received < self.written  # it stops somewhere
        self.peer.reading = on
        self.peer.pump()

    @operation(weight=2, size=(1, 100, 5000))
    def peer_sips(self, size: int) -> None:
        self.peer.thirst += size
        self.peer.pump()

    @operation(weight=3)
    def peer_shutdown(self) -> None:
        if self.last_words:
            self._peer_speaks()
            self._peer_leaves()
        self.peer.end("shutdown")

    @operation(weight=2)
    def peer_close(self) -> None:
        self.vague = self.vague or self.peer.received < self.written
        self._peer_leaves()
        self.peer.end("close")

    @operation(weight=1)
    def peer_reset(self) -> None:
        self.vague = self.torn = True
        self._peer_leaves()
        self.peer.end("reset")

    @operation(weight=2, size=(1, 100, 2000), how=("shutdown", "close"))
    def peer_sends_and_ends(self, size: int, how: str) -> None:
        """Data and the end arrive together."""
        self._peer_speaks()
        if how == "close":
            self.vague = self.vague or self.peer.received < self.written
            self._peer_leaves()
        self.peer.send(size)
        self.peer.end(how)

    def _peer_speaks(self) -> None:
        """Before the far end sends something: if we are closing, that makes a reset of the end."""
        if self.peer.speaks and self.transport.is_closing():
            self.torn = True

    def _waiting(self) -> int:
        """How much of what was written has not been sent."""
        try:
            return int(self.transport.get_write_buffer_size())
        except AttributeError:
            return 0  # asyncio's, of a TLS connection that is gone

    def _may_have_ended(self) -> bool:
        """Whether an end that has come in this step closes the connection, if it has been seen."""
        return self.hasty() and not (self.peer.speaks or self.keep_open)

    def _peer_leaves(self) -> None:
        """Before the far end goes: with unread data, which resets the connection, it is free what we see first."""
        self.dead = self.dead or self.peer.received < self.written

    # ---- rest

    def pump(self) -> None:
        self.peer.pump()

    def flushed(self) -> bool:
        return bool(self.lost or self.transport is None or not self.transport.get_write_buffer_size())

    def busy(self) -> bool:
        transport = self.transport
        if "send_file" in self.tasks and self.peer.reading:
            return True
        if self.lost or transport is None:
            return bool(self.peer.reading and self.peer.open and not self.peer.ended and transport is not None)
        if transport.is_closing():
            return self.peer.reading or not transport.get_write_buffer_size()
        if transport.get_write_buffer_size() and self.peer.reading and self.peer.open:
            return True
        return bool(self.peer.backlog and transport.is_reading())

    def unfinished(self) -> bool:
        return self.busy() or (self.transport is not None and not self.lost)

    def view(self) -> Any:
        transport = self.transport
        if self.dead or self.adrift:
            return ANY
        return {
            "calls": self._calls(),
            "tasks": ANY if self.vague else self.tasks_gave,
            "received": ANY if self._may_have_received() else self.received,
            "peer": [ANY if self._may_have_sent() else self.peer.received, self._peers_end()],
            "closing": transport.is_closing() if transport else None,
            "reading": self._reads(),
            "buffered": ANY if self.vague or self.torn else self._buffered(),
            "writing": ANY if self.vague or self.torn else self._writes(),
        }

    def _calls(self) -> Any:
        log = self.log
        if self.filing and not self.peer.reading:
            log = [entry for entry in log if "lost" not in entry]
        if self.rushed or self.halted:
            return [entry for entry in log if entry[-1] not in ("data", "eof")]
        return merged(log)

    def _may_have_sent(self) -> bool:
        return self.torn or self.vague or self.loose or self.halted

    def _may_have_received(self) -> bool:
        return self.vague or self.rushed or self.halted

    def _buffered(self) -> Any:
        return bool(self.transport.get_write_buffer_size()) if self.transport and not self.lost else False

    def _writes(self) -> Any:
        return not self.writes_paused

    def _reads(self) -> Any:
        if self.bounced or "send_file" in self.tasks:  # which is paused for; when that ends, `tasks` says
            return ANY
        return self.transport.is_reading() if self.transport else None

    def _peers_end(self) -> Any:
        if not self.peer.open:
            return ANY  # whether it saw our end before its own
        if not (self.torn or self.vague):
            return [bool(self.peer.ended), self.peer.ended]
        # One that reads so much and no more sees the end if that was all.
        return [ANY if self.peer.thirst and not self.peer.reading else bool(self.peer.ended), ANY]

    async def finish(self) -> None:
        self.peer.reading = True
        self.torn = True
        if self.transport is not None and not self.lost:
            self.context.run(self.transport.abort)
        self.peer.pump()

    def dispose(self) -> None:
        self.peer.close()


def merged(log: list[list[Any]]) -> list[list[Any]]:
    """Calls without how the data was cut: what follows data and is the same is left out."""
    found: list[list[Any]] = []
    for entry in log:
        if entry == ["data"] and found[-2:] == [["data"], ["soon", "data"]]:
            continue
        if entry == ["soon", "data"] and found[-1:] == [["soon", "data"]]:
            continue
        if entry == ["data"] and found[-1:] == [["data"]]:
            continue
        found.append(entry)
    return found


SHAPE = {
    "keep_open": FLAGS,
    "start": ("", "", "", "pause", "write"),
    "reaction": ("", "", "", "echo", "bounce", "close", "raise", "exit"),
}


@kind("stream", weight=8)
class Plain(Stream):
    """TCP and Unix sockets."""

    @opening(how=("tcp", "unix"), small=FLAGS, way=("client", "accepted"), buffered=FLAGS, **SHAPE)
    async def open(
        cls, world: World, slot: int, how: str, small: bool, way: str, buffered: bool, **shape: Any
    ) -> Plain:
        self = cls(world, slot, **shape)
        ours, theirs = pair(how, small)
        self.peer = Peer(theirs, 2 * slot, self.complain)
        factory = Buffered if buffered else Recorder
        connect = {
            "client": world.loop.create_unix_connection if how == "unix" else world.loop.create_connection,
            "accepted": lambda factory, sock: world.loop.connect_accepted_socket(factory, sock),
        }[way]
        await world.loop.create_task(connect(lambda: factory(self), sock=ours), context=self.context)
        return self


_contexts: list[ssl.SSLContext] = []


def contexts() -> list[ssl.SSLContext]:
    """A server's and a client's, made once."""
    if not _contexts:
        import trustme

        authority = trustme.CA()
        server, client = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context()
        authority.issue_cert("localhost").configure_cert(server)
        authority.configure_trust(client)
        _contexts.extend([server, client])
    return _contexts


@kind("tls", weight=4)
class Tls(Stream):
    """TLS, on either side."""

    marks = False
    last_words = True
    downloaded = 0
    left_at = -1  # how much we had written when the far end went while we were paused

    def pump(self) -> None:
        """After we have closed, the peer cannot go on sending for long."""
        super().pump()
        if not self.transport.is_closing():
            self.downloaded = self.peer.raw
        elif self.peer.raw - self.downloaded > 4_000_000:
            self.complain("goes on downloading after close()")

    def view(self) -> Any:
        """An end that came with the data out of which the loop was ended is lost on the standard loop, and after one
        that came while we were paused it does nothing until we resume.
        """
        self.dead = self.dead or (self.exited_in == self.world.step and not self.peer.speaks)
        if self.left_at >= 0:
            self.dead = self.dead or self.transport.is_closing() or self.written > self.left_at
        return super().view()

    def busy(self) -> bool:
        if "send_file" in self.tasks and self.peer.reading:
            return True
        if self.transport.is_closing() and not self.lost:
            return bool(self.peer.reading and self.peer.open)
        if self.lost:
            return super().busy()
        unread = self.peer.reading and self.peer.open and not self.peer.ended and self.peer.received < self.written
        return bool(unread or (self.peer.backlog and self.transport.is_reading()))

    def flushed(self) -> bool:
        return self.transport.is_closing() or super().flushed()

    def _calls(self) -> Any:
        """When data came after our close_notify, it may be delivered, and OpenSSL's error may end it.

        An end that comes while a file is sent is an error of its own, on the standard loop.
        """
        if self.filing:
            return [entry[0] for entry in self.log if entry[0] == "made" or (entry[0] == "lost" and self.peer.reading)]
        if self.torn and not self.peer.reading:
            return ANY  # nor does the peer say that it has seen it
        if self.torn:
            return [entry[:1] for entry in merged(self.log) if entry[0] not in ("data", "eof")]
        return super()._calls()

    def _reads(self) -> Any:
        return None if self.transport.is_closing() else super()._reads()

    def _may_have_received(self) -> bool:
        return self.torn or super()._may_have_received()

    def _buffered(self) -> Any:
        return ANY  # with records that nobody has asked for, on the standard loop

    def _writes(self) -> Any:
        return ANY  # the standard loop has two buffers there, and looks at one of them

    def _may_have_ended(self) -> bool:
        return self.hasty() and not self.peer.speaks  # whatever eof_received() returns

    @operation(weight=2, size=(700, LARGE))
    def send_file(self, size: int) -> None:
        if not self.limited:  # the standard loop would wait for the other buffer
            super().send_file(size)

    def _peer_leaves(self) -> None:
        super()._peer_leaves()
        self.dead = self.dead or self.peer.has_unread()
        if not (self.transport.is_closing() or self.transport.is_reading()):
            self.left_at = self.written

    def _tear(self) -> None:
        if self.reaction == "bounce" and self._may_have_ended():
            self.left_at = self.written  # the data that came with the end has paused us
        super()._tear()

    @operation(weight=1)
    def peer_cuts(self) -> None:
        """An end without close_notify."""
        if self.peer.open and not self.peer.shut:
            self._peer_leaves()
            self.peer.shut = True
            with contextlib.suppress(OSError):  # we have reset it
                self.peer.sock.shutdown(socket.SHUT_WR)

    @opening(side=("client", "server"), small=FLAGS, **SHAPE)
    async def open(cls, world: World, slot: int, side: str, small: bool, **shape: Any) -> Tls:
        self = cls(world, slot, **shape)
        ours, theirs = pair("tcp", small)
        server, client = contexts()
        there = client if side == "server" else server
        self.peer = TlsPeer(theirs, 2 * slot, self.complain, there, server_side=side == "client")
        if side == "server":
            making = world.loop.connect_accepted_socket(lambda: Recorder(self), ours, ssl=server)
        else:
            making = world.loop.create_connection(
                lambda: Recorder(self), sock=ours, ssl=client, server_hostname="localhost"
            )
        task = world.loop.create_task(making, context=self.context)
        while not task.done():
            self.peer.pump()
            await asyncio.sleep(0.0005)
        await task
        return self
