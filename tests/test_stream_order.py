"""The order of a connection's callbacks, and the turns between them: each stands for an event of its own.

What a callback of the protocol has called soon runs before the next one is called, whatever has arrived meanwhile.
"""

import asyncio
import socket

import pytest
from support import Recorder, turns

pytestmark = pytest.mark.usefixtures("kind")


class Marking(Recorder):
    """Puts a mark in line with the callbacks for whatever the transport calls."""

    def _note(self, name):
        super()._note(name)
        asyncio.get_running_loop().call_soon(super()._note, f"after {name}")


class MarkingBuffered(asyncio.BufferedProtocol):
    """The same, with a buffer of its own."""

    def __init__(self):
        self.buffer = bytearray(1 << 16)
        self.recorder = Marking()
        self.calls = self.recorder.calls
        for name in "connection_made", "eof_received", "connection_lost", "pause_writing", "resume_writing":
            setattr(self, name, getattr(self.recorder, name))

    def get_buffer(self, sizehint):
        return self.buffer

    def buffer_updated(self, nbytes):
        self.recorder.data_received(bytes(self.buffer[:nbytes]))

    async def until_called(self, name):
        await self.recorder.until_called(name)

    async def until_received(self, count):
        await self.recorder.until_received(count)


@pytest.fixture(params=[Marking, MarkingBuffered])
def factory(request):
    return request.param


def in_order(*names):
    return [call for name in names for call in (name, f"after {name}")]


async def seen(protocol):
    """Everything that was called, with what it has called soon."""
    await protocol.until_called("lost")
    await turns(3)
    return protocol.calls


async def test_data_then_the_end(connect, factory):
    for _ in range(5):
        _, protocol, peer = await connect(factory)
        await turns(3)
        peer.send_now(b"data")
        peer.close()
        assert await seen(protocol) == in_order("made", "data", "eof", "lost")


async def test_data_then_the_end_that_came_before_the_connection_was_made(connect, factory):
    for _ in range(5):
        _, protocol, peer = await connect(factory, before=b"data")
        peer.close()
        assert await seen(protocol) == in_order("made", "data", "eof", "lost")


async def test_much_data_then_the_end(connect, factory):
    """Read straight into large bytes, or into the protocol's buffer."""
    _, protocol, peer = await connect(factory)
    await peer.send(bytes(2 << 20))
    await protocol.until_received(2 << 20)
    await turns(3)
    protocol.calls.clear()
    peer.send_now(bytes(1 << 15))
    peer.close()
    calls = await seen(protocol)
    assert calls[-4:] == in_order("eof", "lost")
    assert calls[-5] == "after data"


@pytest.mark.parametrize("kind", ["tcp"])
async def test_data_then_a_reset(connect, factory, kind):
    """Unix sockets have no resets."""
    _, protocol, peer = await connect(factory)
    await turns(3)
    peer.send_now(b"data")
    peer.reset()
    calls = await seen(protocol)
    if "data" in calls:
        assert calls == in_order("made", "data", "lost")
    else:
        assert calls == in_order("made", "lost")


async def test_a_task_that_waits_for_data_goes_on_before_the_end(connect):
    """A broker's kind of handler: what it does with the data is seen by whoever handles the end."""

    class Waking(Recorder):
        def connection_made(self, transport):
            self.arrived = asyncio.Event()
            self.handled = []
            super().connection_made(transport)

        def data_received(self, data):
            super().data_received(data)
            self.arrived.set()

        def eof_received(self):
            self.handled.append("eof")
            return super().eof_received()

    async def handle(protocol):
        await protocol.arrived.wait()
        protocol.handled.append("data")

    loop = asyncio.get_running_loop()
    for _ in range(5):
        _, protocol, peer = await connect(Waking)
        task = loop.create_task(handle(protocol))
        await turns(3)
        peer.send_now(b"data")
        peer.close()
        await protocol.until_called("lost")
        await task
        assert protocol.handled == ["data", "eof"]


async def test_reading_is_paused_by_the_data_before_the_end(connect):
    """Neither the end nor an error is told to who does not want to read."""

    class Pausing(Marking):
        def data_received(self, data):
            super().data_received(data)
            self.transport.pause_reading()

    transport, protocol, peer = await connect(Pausing)
    await turns(3)
    peer.send_now(b"data")
    peer.close()
    await protocol.until_called("data")
    await asyncio.sleep(0.02)
    assert protocol.calls == in_order("made", "data")
    transport.resume_reading()
    asyncio.get_running_loop().call_soon(protocol.calls.append, "after resume")
    assert await seen(protocol) == [*in_order("made", "data"), "after resume", *in_order("eof", "lost")]


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "data comes just then"])
async def test_what_is_called_soon_with_resume_runs_before_the_data(connect, factory, busy):
    loop = asyncio.get_running_loop()
    transport, protocol, peer = await connect(factory)
    await turns(3)
    for _ in range(5):
        transport.pause_reading()
        protocol.calls.clear()
        if not busy:
            peer.send_now(b"data")
            await asyncio.sleep(0.005)
        resumed = loop.create_future()

        def resume(resumed=resumed):
            if busy:
                peer.send_now(b"data")
            transport.resume_reading()
            loop.call_soon(protocol.calls.append, "after resume")
            resumed.set_result(None)

        loop.call_soon(resume)
        await resumed
        await protocol.until_called("after data")
        assert protocol.calls == ["after resume", *in_order("data")]


async def test_closed_by_the_data(connect):
    class Closing(Marking):
        def data_received(self, data):
            super().data_received(data)
            self.transport.close()

    _, protocol, peer = await connect(Closing)
    await turns(3)
    peer.send_now(b"data")
    assert await seen(protocol) == in_order("made", "data", "lost")


async def test_the_end_of_a_connection_that_stays_open_for_writing(connect):
    transport, protocol, peer = await connect(lambda: Marking(keep_open=True))
    await turns(3)
    peer.send_now(b"data")
    peer.sock.shutdown(socket.SHUT_WR)
    await protocol.until_called("after eof")
    assert protocol.calls == in_order("made", "data", "eof")
    transport.write(b"more")
    transport.close()
    assert await seen(protocol) == in_order("made", "data", "eof", "lost")
    assert await peer.recv_all() == b"more"


async def test_the_end_is_told_once(connect):
    """However often reading is paused and resumed, and however much was read before."""
    transport, protocol, peer = await connect(lambda: Recorder(keep_open=True))
    await peer.send(bytes(1 << 20))
    await protocol.until_received(1 << 20)
    peer.sock.shutdown(socket.SHUT_WR)
    await protocol.until_called("eof")
    for _ in range(3):
        if transport.is_reading():
            transport.pause_reading()
        await turns(3)
    await asyncio.sleep(0.005)
    assert protocol.calls.count("eof") == 1
    transport.abort()
    await protocol.until_called("lost")
