"""Protocols that bring their own buffer."""

import asyncio

import pytest
from support import Recorder, digest, payload, turns


class Buffered(asyncio.BufferedProtocol):
    """Receives into one buffer of a fixed size, over and over."""

    def __init__(self, size=65536):
        self.buffer = bytearray(size)
        self.recorder = Recorder()
        self.hints = set()

    @property
    def transport(self):
        return self.recorder.transport

    @property
    def calls(self):
        return self.recorder.calls

    def connection_made(self, transport):
        self.recorder.connection_made(transport)

    def connection_lost(self, exc):
        self.recorder.connection_lost(exc)

    def eof_received(self):
        return self.recorder.eof_received()

    def pause_writing(self):
        self.recorder.pause_writing()

    def resume_writing(self):
        self.recorder.resume_writing()

    def get_buffer(self, sizehint):
        self.hints.add(sizehint)
        return self.buffer

    def buffer_updated(self, nbytes):
        assert 0 < nbytes <= len(self.buffer)
        self.recorder.data_received(bytes(self.buffer[:nbytes]))


class BufferedEcho(Buffered):
    wrap = memoryview

    def buffer_updated(self, nbytes):
        self.transport.write(self.wrap(self.buffer)[:nbytes])

    def pause_writing(self):
        self.transport.pause_reading()

    def resume_writing(self):
        self.transport.resume_reading()


pytestmark = pytest.mark.usefixtures("kind")


@pytest.mark.parametrize("size", [1, 7, 4096, 65536, 1 << 20])
async def test_content(loop, connect, size):
    _, protocol, peer = await connect(lambda: Buffered(size))
    data = payload(min(400 * size, 4_000_000))
    sending = asyncio.ensure_future(peer.send(data))
    await protocol.recorder.until_received(len(data))
    await sending
    assert digest(protocol.recorder.data) == digest(data)
    assert all(isinstance(hint, int) for hint in protocol.hints)


@pytest.mark.parametrize("size", [100, 65536])
async def test_echo(way, loop, connect, size):
    _, protocol, peer = await connect(lambda: BufferedEcho(size))
    if not way.ours:
        protocol.wrap = bytes  # asyncio may keep a view of the buffer
    data = payload(300_000)
    reading = asyncio.ensure_future(peer.recv(len(data)))
    await peer.send(data)
    assert digest(await reading) == digest(data)


async def test_a_new_buffer_every_time(loop, connect):
    class Fresh(Buffered):
        made = 0

        def get_buffer(self, sizehint):
            self.made += 1
            self.buffer = bytearray(1 + self.made * 37 % 5000)
            return memoryview(self.buffer)

    _, protocol, peer = await connect(Fresh)
    data = payload(500_000)
    sending = asyncio.ensure_future(peer.send(data))
    await protocol.recorder.until_received(len(data))
    await sending
    assert digest(protocol.recorder.data) == digest(data)


async def test_end_of_file(loop, connect):
    transport, protocol, peer = await connect(Buffered)
    peer.send_now(b"bye")
    peer.close()
    await protocol.recorder.until_called("lost")
    assert protocol.calls == ["made", "data", "eof", "lost"]
    assert protocol.recorder.exc is None
    assert transport.is_closing()


async def test_half_open(loop, connect):
    transport, protocol, peer = await connect(Buffered)
    protocol.recorder.keep_open = True
    peer.sock.shutdown(1)
    await protocol.recorder.until_called("eof")
    transport.write(b"answer")
    transport.close()
    assert await peer.recv_all() == b"answer"
    await protocol.recorder.until_called("lost")


async def test_pause_and_resume(loop, connect):
    transport, protocol, peer = await connect(Buffered)
    peer.send_now(b"one")
    await protocol.recorder.until_received(3)
    sent = b"one"
    for i in range(60):
        transport.pause_reading()
        seen = protocol.recorder.received
        piece = payload(40, i)
        peer.send_now(piece)
        sent += piece
        await turns(i % 4)
        assert protocol.recorder.received == seen
        transport.resume_reading()
        await turns(i % 3)
    await protocol.recorder.until_received(len(sent))
    assert protocol.recorder.data == sent


async def test_pause_inside_connection_made(loop, connect):
    class Pausing(Buffered):
        def connection_made(self, transport):
            super().connection_made(transport)
            transport.pause_reading()

    transport, protocol, _ = await connect(Pausing, before=b"early")
    await asyncio.sleep(0.01)
    assert protocol.calls == ["made"]
    transport.resume_reading()
    await protocol.recorder.until_received(5)
    assert protocol.recorder.data == b"early"


@pytest.mark.parametrize("wrong", [b"", bytearray(), b"read only", "text", None, 5], ids=repr)
async def test_an_unusable_buffer_ends_the_connection(loop, connect, errors, wrong):
    class Wrong(Buffered):
        def get_buffer(self, sizehint):
            return wrong

    _, protocol, peer = await connect(Wrong)
    peer.send_now(b"x")
    await protocol.recorder.until_called("lost")
    assert isinstance(protocol.recorder.exc, Exception)
    assert errors
    errors.clear()


@pytest.mark.parametrize("where", ["get_buffer", "buffer_updated", "eof_received"])
async def test_an_error_in_the_protocol_ends_the_connection(loop, connect, errors, where):
    class Broken(Buffered):
        pass

    def fail(self, *args):
        raise ZeroDivisionError("on purpose")

    setattr(Broken, where, fail)
    _, protocol, peer = await connect(Broken)
    peer.sock.shutdown(1) if where == "eof_received" else peer.send_now(b"x")
    await protocol.recorder.until_called("lost")
    assert isinstance(protocol.recorder.exc, ZeroDivisionError)
    assert isinstance(errors[0]["exception"], ZeroDivisionError)
    errors.clear()


async def test_close_inside_buffer_updated(loop, connect):
    class Closing(Buffered):
        def buffer_updated(self, nbytes):
            super().buffer_updated(nbytes)
            self.transport.close()

    _, protocol, peer = await connect(Closing)
    peer.send_now(b"x")
    await protocol.recorder.until_called("lost")
    assert protocol.calls == ["made", "data", "lost"]


async def test_resizing_the_buffer_is_an_error_or_harmless(loop, connect):
    """While the kernel may write into it, the buffer is exported: it cannot move."""
    _, protocol, peer = await connect(Buffered)
    for i in range(30):
        try:
            protocol.buffer.extend(bytes(1 << 16))
            del protocol.buffer[65536:]
        except BufferError:
            pass
        peer.send_now(payload(100, i))
        await protocol.recorder.until_received(100 * (i + 1))
    assert protocol.recorder.data == b"".join(payload(100, i) for i in range(30))


async def test_the_buffer_is_let_go_after_the_end(loop, connect):
    transport, protocol, _ = await connect(Buffered)
    await turns()
    transport.abort()
    await protocol.recorder.until_called("lost")
    protocol.buffer.extend(b"x")


async def test_switching_between_both_sorts_of_protocol(loop, connect):
    transport, first, peer = await connect()
    received = b""
    protocol = first
    for i in range(20):
        data = payload(5000, i)
        peer.send_now(data)
        recorder = getattr(protocol, "recorder", protocol)
        await recorder.until_received(5000)
        received += recorder.data
        protocol = Buffered(1000) if i % 2 == 0 else Recorder()
        getattr(protocol, "recorder", protocol).transport = transport
        transport.set_protocol(protocol)
        await turns(i % 3)
    assert received == b"".join(payload(5000, i) for i in range(20))


async def test_switching_inside_a_callback(loop, connect):
    plain = Recorder()

    class Switching(Buffered):
        def buffer_updated(self, nbytes):
            super().buffer_updated(nbytes)
            plain.transport = self.transport
            self.transport.set_protocol(plain)

    _, protocol, peer = await connect(lambda: Switching(10))
    data = payload(200_000)
    sending = asyncio.ensure_future(peer.send(data))
    await plain.until_received(len(data) - 10)
    await sending
    assert digest(protocol.recorder.data + plain.data) == digest(data)


async def test_many_connections_share_nothing(loop, connect):
    made = [await connect(lambda: Buffered(5000)) for _ in range(50)]
    for i, (_, _, peer) in enumerate(made):
        peer.send_now(payload(3000, i))
    for i, (_, protocol, _) in enumerate(made):
        await protocol.recorder.until_received(3000)
        assert protocol.recorder.data == payload(3000, i)
