"""What the tests of TLS share: contexts, and a far end that speaks TLS from worker threads."""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import Any

import trustme
from support import tcp_pair

VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


class Contexts:
    """A server's and a client's context of one authority, of any version."""

    def __init__(self) -> None:
        self.authority = trustme.CA()
        self.certificate = self.authority.issue_cert("localhost", "127.0.0.1")

    def server(self, version: str | None = None) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.certificate.configure_cert(context)
        return limited(context, version)

    def client(self, version: str | None = None) -> ssl.SSLContext:
        context = ssl.create_default_context()
        self.authority.configure_trust(context)
        return limited(context, version)


def limited(context: ssl.SSLContext, version: str | None) -> ssl.SSLContext:
    if version is not None:
        context.minimum_version = context.maximum_version = VERSIONS[version]
    return context


class TlsPeer:
    """The far end of a connection: TLS on a blocking socket, each step when the test says so."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, *, server_side: bool) -> None:
        sock.settimeout(20)
        self.sock = sock
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(
            self.incoming, self.outgoing, server_side=server_side, server_hostname=None if server_side else "localhost"
        )

    def close(self) -> None:
        self.sock.close()

    def reset(self) -> None:
        """Close with RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.sock.close()

    def flush(self) -> None:
        if self.outgoing.pending:
            self.sock.sendall(self.outgoing.read())

    def step(self, call: Any, *args: Any) -> Any:
        """Make a call of the TLS object, with as much of the network as it takes."""
        while True:
            try:
                done = call(*args)
            except ssl.SSLWantReadError:
                self.flush()
                data = self.sock.recv(1 << 18)
                if not data:
                    raise EOFError("the connection ended without close_notify") from None
                self.incoming.write(data)
            else:
                self.flush()
                return done

    async def handshake(self) -> None:
        await asyncio.to_thread(self.step, self.tls.do_handshake)

    def encrypt(self, data: bytes) -> bytes:
        """The records that carry `data`."""
        self.tls.write(data)
        return self.outgoing.read()

    async def send(self, data: bytes) -> None:
        await asyncio.to_thread(self.sock.sendall, self.encrypt(data))

    async def send_raw(self, data: bytes) -> None:
        await asyncio.to_thread(self.sock.sendall, data)

    def close_notify(self) -> bytes:
        """Our close_notify, encrypted and not sent."""
        try:
            self.tls.unwrap()
        except ssl.SSLWantReadError:
            pass
        return self.outgoing.read()

    async def recv(self, count: int) -> bytes:
        """Exactly `count` bytes; fewer only if close_notify comes first."""
        return await asyncio.to_thread(self._recv, count)

    def _recv(self, count: int) -> bytes:
        parts = []
        while count:
            try:
                part = self.step(self.tls.read, min(count, 1 << 16))
            except ssl.SSLZeroReturnError:
                break
            if not part:
                break
            parts.append(part)
            count -= len(part)
        return b"".join(parts)

    async def recv_all(self) -> bytes:
        """All up to close_notify; EOFError when the stream is cut off."""
        return await self.recv(1 << 40)


class Connector:
    """Makes connections between the loop and a `TlsPeer`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, contexts: Contexts, side: str, version: str | None) -> None:
        self.loop, self.contexts, self.side, self.version = loop, contexts, side, version
        self.peers: list[TlsPeer] = []
        self.transports: list[Any] = []

    def pair(self, prepare: Any = None) -> tuple[socket.socket, TlsPeer]:
        ours, theirs = tcp_pair()
        if prepare:
            prepare(ours)
            prepare(theirs)
        server_side = self.side == "client"
        context = (self.contexts.server if server_side else self.contexts.client)(self.version)
        peer = TlsPeer(theirs, context, server_side=server_side)
        self.peers.append(peer)
        ours.setblocking(False)
        return ours, peer

    async def open(self, ours: socket.socket, factory: Any, **options: Any) -> Any:
        """The loop's end; needs the peer's handshake at the same time."""
        if self.side == "server":
            made = await self.loop.connect_accepted_socket(
                factory, ours, ssl=self.contexts.server(self.version), **options
            )
        else:
            made = await self.loop.create_connection(
                factory, sock=ours, ssl=self.contexts.client(self.version), server_hostname="localhost", **options
            )
        self.transports.append(made[0])
        return made

    async def __call__(self, factory: Any, *, prepare: Any = None, **options: Any) -> tuple[Any, Any, TlsPeer]:
        ours, peer = self.pair(prepare)
        made, shaken = await asyncio.gather(
            self.open(ours, factory, **options), peer.handshake(), return_exceptions=True
        )
        for result in (made, shaken):
            if isinstance(result, BaseException):
                raise result
        return *made, peer

    def clean(self) -> None:
        for peer in self.peers:
            peer.close()
        for transport in self.transports:
            # asyncio's transport has nothing to abort any more when it has been lost.
            if getattr(transport, "_ssl_protocol", self) is not None:
                transport.abort()
