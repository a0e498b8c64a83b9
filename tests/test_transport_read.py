"""The reading half of a stream transport."""

import asyncio
import contextlib

import pytest
from support import SIZES, Echo, Recorder, digest, payload, turns

pytestmark = pytest.mark.usefixtures("kind")


async def test_data_arrives(loop, connect):
    _, protocol, peer = await connect()
    peer.send_now(b"hello")
    await protocol.until_received(5)
    assert protocol.data == b"hello"


async def test_data_sent_before_the_transport_existed(loop, connect):
    _, protocol, _ = await connect(before=b"early")
    await protocol.until_received(5)
    assert protocol.calls == ["made", "data"]


@pytest.mark.parametrize("size", SIZES)
async def test_large_data_arrives_whole(loop, connect, size):
    _, protocol, peer = await connect()
    data = payload(size)
    await peer.send(data)
    await protocol.until_received(size)
    assert digest(protocol.data) == digest(data)


@pytest.mark.parametrize("size", SIZES)
async def test_echo(loop, connect, size):
    _, _, peer = await connect(Echo)
    data = payload(size)
    reading = asyncio.ensure_future(peer.recv(size))
    await peer.send(data)
    assert digest(await reading) == digest(data)


async def test_sizes_that_change_all_the_time(loop, connect):
    _, _, peer = await connect(Echo)
    for i, size in enumerate([1, 100_000, 1, 1, 300_000, 17, 65_536, 65_536, 65_536, 2, 1_000_000, 1, 4096]):
        data = payload(size, i)
        reading = asyncio.ensure_future(peer.recv(size))
        await peer.send(data)
        assert digest(await reading) == digest(data)


async def test_one_call_for_each_turn(loop, connect):
    """Draining one connection greedily would starve the tasks."""
    calls_in_turn = worst = 0

    class Counting(Recorder):
        def data_received(self, data):
            nonlocal calls_in_turn
            calls_in_turn += 1
            super().data_received(data)

    _, protocol, peer = await connect(Counting)
    sending = asyncio.ensure_future(peer.send(payload(4_000_000)))
    while protocol.received < 4_000_000:
        await asyncio.sleep(0)
        worst, calls_in_turn = max(worst, calls_in_turn), 0
    await sending
    assert worst == 1


# -- pausing


async def test_pause_inside_connection_made(loop, connect):
    transport, protocol, peer = await connect(lambda: Recorder(pause_at_once=True), before=b"early ")
    assert not transport.is_reading()
    peer.send_now(b"late")
    await asyncio.sleep(0.02)
    assert protocol.calls == ["made"]
    transport.resume_reading()
    assert transport.is_reading()
    await protocol.until_received(10)
    assert protocol.data == b"early late"


async def test_nothing_arrives_while_paused(loop, connect):
    transport, protocol, peer = await connect()
    peer.send_now(b"one")
    await protocol.until_received(3)
    transport.pause_reading()
    assert not transport.is_reading()
    peer.send_now(b"two")
    await asyncio.sleep(0.02)
    assert protocol.data == b"one"
    transport.resume_reading()
    await protocol.until_received(6)
    assert protocol.data == b"onetwo"


async def test_pause_right_after_data_was_sent(loop, connect):
    """What is already on its way to the protocol is kept as well."""
    transport, protocol, peer = await connect()
    sent = b""
    for i in range(100):
        piece = payload(50, i)
        peer.send_now(piece)
        sent += piece
        await turns(i % 4)
        transport.pause_reading()
        seen = protocol.received
        await turns(i % 3)
        assert protocol.received == seen
        transport.resume_reading()
    await protocol.until_received(len(sent))
    assert protocol.data == sent


async def test_pause_inside_data_received(loop, connect):
    class OneByOne(Recorder):
        def data_received(self, data):
            assert self.transport.is_reading()
            super().data_received(data)
            self.transport.pause_reading()
            asyncio.get_running_loop().call_soon(self.transport.resume_reading)

    _, protocol, peer = await connect(OneByOne)
    data = payload(2_000_000)
    sending = asyncio.ensure_future(peer.send(data))
    await protocol.until_received(len(data))
    await sending
    assert digest(protocol.data) == digest(data)


async def test_pausing_twice_and_resuming_twice(loop, connect):
    transport, protocol, peer = await connect()
    transport.resume_reading()
    transport.pause_reading()
    transport.pause_reading()
    transport.resume_reading()
    transport.resume_reading()
    peer.send_now(b"x")
    await protocol.until_received(1)
    assert protocol.data == b"x"


async def test_pause_and_resume_many_times_in_one_turn(loop, connect):
    transport, protocol, peer = await connect()
    peer.send_now(b"abc")
    for _ in range(200):
        transport.pause_reading()
        transport.resume_reading()
    await protocol.until_received(3)
    peer.send_now(b"def")
    await protocol.until_received(6)
    assert protocol.data == b"abcdef"


async def test_paused_reading_holds_the_sender_back(loop, connect):
    transport, protocol, peer = await connect()
    transport.pause_reading()
    peer.sock.setblocking(False)
    sent = 0
    block = bytes(1 << 16)
    while sent < 64 << 20:
        try:
            sent += peer.sock.send(block)
        except BlockingIOError:
            await asyncio.sleep(0.02)
            with contextlib.suppress(BlockingIOError):
                sent += peer.sock.send(block)
                continue
            break
    assert sent < 64 << 20
    assert protocol.received == 0
    transport.resume_reading()
    await protocol.until_received(sent)
    assert protocol.received == sent


async def test_end_of_file_while_paused_waits(loop, connect):
    transport, protocol, peer = await connect()
    transport.pause_reading()
    peer.send_now(b"last words")
    peer.close()
    await asyncio.sleep(0.02)
    assert protocol.calls == ["made"]
    transport.resume_reading()
    await protocol.until_called("lost")
    assert protocol.calls == ["made", "data", "eof", "lost"]
    assert protocol.data == b"last words"


async def test_close_while_paused(loop, connect):
    transport, protocol, peer = await connect()
    transport.pause_reading()
    peer.send_now(b"never seen")
    await turns()
    transport.close()
    await protocol.until_called("lost")
    assert protocol.calls == ["made", "lost"]


async def test_reading_state_after_close(loop, connect):
    transport, protocol, _ = await connect()
    transport.close()
    assert not transport.is_reading()
    transport.pause_reading()
    transport.resume_reading()
    assert not transport.is_reading()
    await protocol.until_called("lost")
    transport.pause_reading()
    transport.resume_reading()
    assert not transport.is_reading()


# -- end of file


async def test_end_of_file_closes(loop, connect):
    transport, protocol, peer = await connect()
    peer.send_now(b"bye")
    peer.close()
    await protocol.until_called("lost")
    assert protocol.calls == ["made", "data", "eof", "lost"]
    assert protocol.exc is None
    assert transport.is_closing()


async def test_end_of_file_that_keeps_the_other_half_open(loop, connect):
    transport, protocol, peer = await connect(lambda: Recorder(keep_open=True))
    peer.send_now(b"question")
    peer.sock.shutdown(1)
    await protocol.until_called("eof")
    assert not transport.is_closing()
    await turns()
    answer = payload(1_000_000)
    transport.write(answer)
    transport.close()
    assert digest(await peer.recv_all()) == digest(answer)
    await protocol.until_called("lost")
    assert protocol.calls.count("eof") == 1
    assert protocol.exc is None


async def test_end_of_file_flushes_what_was_written(loop, connect):
    class Answer(Recorder):
        def eof_received(self):
            self.transport.write(payload(1_000_000))
            return super().eof_received()

    _, protocol, peer = await connect(Answer)
    peer.sock.shutdown(1)
    assert digest(await peer.recv_all()) == digest(payload(1_000_000))
    await protocol.until_called("lost")
    assert protocol.exc is None


async def test_both_halves_closed_one_after_the_other(loop, connect):
    transport, protocol, peer = await connect(lambda: Recorder(keep_open=True))
    transport.write_eof()
    assert await peer.recv_all() == b""
    peer.send_now(b"rest")
    peer.sock.shutdown(1)
    await protocol.until_called("eof")
    assert protocol.data == b"rest"
    transport.close()
    await protocol.until_called("lost")


@pytest.mark.parametrize("kind", ["tcp"])
async def test_reset(loop, connect, kind):
    """Unix sockets know no reset by SO_LINGER."""
    _, protocol, peer = await connect()
    await turns()
    peer.reset()
    await protocol.until_called("lost")
    assert isinstance(protocol.exc, ConnectionResetError)
    assert protocol.calls == ["made", "lost"]


# -- protocols


async def test_set_protocol(loop, connect):
    transport, first, peer = await connect()
    peer.send_now(b"one")
    await first.until_received(3)
    second = Recorder()
    second.transport = transport
    transport.set_protocol(second)
    assert transport.get_protocol() is second
    peer.send_now(b"two")
    await second.until_received(3)
    transport.close()
    await second.until_called("lost")
    assert first.calls == ["made", "data"]
    assert second.calls == ["data", "lost"]


async def test_set_protocol_inside_data_received(loop, connect):
    second = Recorder()

    class Switching(Recorder):
        def data_received(self, data):
            super().data_received(data)
            self.transport.set_protocol(second)

    _, first, peer = await connect(Switching)
    peer.send_now(b"a")
    await first.until_received(1)
    await peer.send(payload(500_000))
    await second.until_received(500_000)
    assert first.data == b"a"
    assert digest(second.data) == digest(payload(500_000))


async def test_set_protocol_while_paused(loop, connect):
    transport, first, peer = await connect()
    transport.pause_reading()
    peer.send_now(b"for the second")
    await asyncio.sleep(0.01)
    second = Recorder()
    transport.set_protocol(second)
    transport.resume_reading()
    await second.until_received(14)
    assert first.received == 0


@pytest.mark.parametrize("name", ["data_received", "eof_received"])
async def test_an_error_in_the_protocol_ends_the_connection(loop, connect, errors, name):
    class Broken(Recorder):
        pass

    def fail(self, *args):
        raise ZeroDivisionError("on purpose")

    setattr(Broken, name, fail)
    _, protocol, peer = await connect(Broken)
    peer.send_now(b"x") if name == "data_received" else peer.sock.shutdown(1)
    await protocol.until_called("lost")
    assert isinstance(protocol.exc, ZeroDivisionError)
    assert isinstance(errors[0]["exception"], ZeroDivisionError)
    assert errors[0]["protocol"] is protocol
    assert "transport" in errors[0]
    errors.clear()


async def test_an_error_in_connection_lost_is_reported(loop, connect, errors):
    class Broken(Recorder):
        def connection_lost(self, exc):
            super().connection_lost(exc)
            raise ZeroDivisionError("on purpose")

    transport, protocol, peer = await connect(Broken)
    transport.close()
    await protocol.until_called("lost")
    await turns()
    assert [type(e["exception"]) for e in errors] == [ZeroDivisionError]
    errors.clear()
    assert await peer.recv_all() == b""


@pytest.mark.parametrize("exit_type", [KeyboardInterrupt, SystemExit])
def test_exits_leave_the_loop(loop, connect, exit_type):
    class Leaving(Recorder):
        def data_received(self, data):
            super().data_received(data)
            raise exit_type("on purpose")

    _, protocol, peer = loop.run_until_complete(connect(Leaving))
    peer.send_now(b"x")
    with pytest.raises(exit_type, match="on purpose"):
        loop.run_forever()
    loop.run_until_complete(turns())
    assert protocol.data == b"x"


async def test_many_connections_keep_their_bytes_apart(loop, connect):
    made = [await connect(Echo) for _ in range(60)]

    async def talk(peer, seed):
        for i in range(4):
            data = payload(20_000 + seed, seed * 10 + i)
            reading = asyncio.ensure_future(peer.recv(len(data)))
            await peer.send(data)
            assert digest(await reading) == digest(data)

    for i in range(0, 60, 2):
        await asyncio.gather(talk(made[i][2], i), talk(made[i + 1][2], i + 1))


def test_data_that_arrives_while_the_loop_stands_still(loop, connect):
    _, protocol, peer = loop.run_until_complete(connect())
    loop.run_until_complete(turns(20))
    peer.send_now(b"while you slept")
    loop.run_until_complete(protocol.until_received(15))
    assert protocol.data == b"while you slept"
