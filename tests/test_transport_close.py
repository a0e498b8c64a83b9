"""How a stream transport ends: once, with the right reason, and with nothing left."""

import asyncio
import gc
import os
import weakref

import pytest
from support import Recorder, digest, payload, shrink, tcp_pair, turns, unix_pair

pytestmark = pytest.mark.usefixtures("kind")


async def test_close(loop, connect):
    transport, protocol, peer = await connect()
    transport.close()
    assert transport.is_closing()
    assert protocol.calls == ["made"]  # told later, not inside close()
    await protocol.until_called("lost")
    assert protocol.exc is None
    assert await peer.recv_all() == b""


async def test_close_sends_what_was_written(loop, connect):
    transport, protocol, peer = await connect(prepare=shrink)
    data = payload(2_000_000)
    transport.write(data)
    transport.close()
    assert transport.is_closing()
    await turns(5)
    assert "lost" not in protocol.calls
    assert digest(await peer.recv_all()) == digest(data)
    await protocol.until_called("lost")
    assert protocol.exc is None
    assert protocol.calls.count("lost") == 1


async def test_write_and_close_in_the_same_turn(loop, connect):
    transport, _, peer = await connect()
    transport.write(b"short ")
    transport.writelines([b"and ", b"sweet"])
    transport.close()
    assert await peer.recv_all() == b"short and sweet"


async def test_abort_drops_what_was_written(loop, connect):
    transport, protocol, peer = await connect(prepare=shrink)
    transport.write(payload(5_000_000))
    await turns(3)
    transport.abort()
    assert transport.is_closing()
    await protocol.until_called("lost")
    assert protocol.exc is None
    try:
        assert len(await peer.recv_all()) < 5_000_000
    except ConnectionResetError:
        pass


async def test_abort_after_close(loop, connect):
    transport, protocol, _ = await connect(prepare=shrink)
    transport.write(payload(5_000_000))
    transport.close()
    await turns(3)
    assert "lost" not in protocol.calls
    transport.abort()
    await protocol.until_called("lost")
    await turns(5)
    assert protocol.calls.count("lost") == 1


ENDINGS = {
    "close, close": ["close", "close"],
    "close, abort": ["close", "abort"],
    "abort, close": ["abort", "close"],
    "abort, abort": ["abort", "abort"],
    "close, peer closes": ["close", "peer.close"],
    "peer closes, close": ["peer.close", "close"],
    "peer closes, turn, close": ["peer.close", "turn", "close"],
    "peer resets, close": ["peer.reset", "close"],
    "peer resets, turn, abort": ["peer.reset", "turn", "abort"],
    "write, peer resets, close": ["write", "peer.reset", "close"],
    "write, close, peer resets": ["write", "close", "peer.reset"],
    "write, turn, close, turn, abort": ["write", "turn", "close", "turn", "abort"],
    "pause, peer closes, close": ["pause", "peer.close", "turn", "close"],
    "eof, close": ["write_eof", "close"],
    "eof, peer closes": ["write_eof", "turn", "peer.close"],
    "eof, abort": ["write", "write_eof", "abort"],
    "peer writes, close": ["peer.write", "close"],
    "peer writes, turn, close": ["peer.write", "turn", "close"],
}


@pytest.mark.parametrize("ending", ENDINGS.values(), ids=list(ENDINGS))
async def test_connection_lost_exactly_once(loop, connect, ending):
    transport, protocol, peer = await connect()
    fd = transport.get_extra_info("socket").fileno()
    target = os.readlink(f"/proc/self/fd/{fd}")
    actions = {
        "close": transport.close,
        "abort": transport.abort,
        "pause": transport.pause_reading,
        "write": lambda: transport.write(payload(3_000_000)),
        "write_eof": transport.write_eof,
        "peer.close": peer.close,
        "peer.reset": peer.reset,
        "peer.write": lambda: peer.send_now(b"hello"),
    }
    for action in ending:
        if action == "turn":
            await turns(2)
        else:
            actions[action]()
    if peer.sock.fileno() >= 0:
        peer.close()
    await protocol.until_called("lost")
    after = list(protocol.calls)
    await turns(10)
    assert protocol.calls == after
    assert protocol.calls.count("made") == protocol.calls.count("lost") == 1
    assert protocol.calls[0] == "made" and protocol.calls[-1] == "lost"
    assert transport.is_closing()
    while target in [os.readlink(f"/proc/self/fd/{n}") for n in os.listdir("/proc/self/fd") if is_open(n)]:
        await asyncio.sleep(0.001)  # a syscall thread closes it in its own time


def is_open(name):
    return os.path.lexists(f"/proc/self/fd/{name}")


@pytest.mark.parametrize("how", ["close", "abort"])
@pytest.mark.parametrize("where", ["connection_made", "data_received", "eof_received", "pause_writing"])
async def test_ending_inside_a_callback(loop, connect, how, where):
    class Ending(Recorder):
        pass

    def end(self, *args):
        getattr(Recorder, where)(self, *args)
        getattr(self.transport, how)()

    setattr(Ending, where, end)
    transport, protocol, peer = await connect(
        Ending, prepare=shrink, before=b"" if where == "pause_writing" else b"early"
    )
    if where == "eof_received":
        peer.sock.shutdown(1)
    if where == "pause_writing":
        transport.write(payload(1_000_000))
        await protocol.until_called("pause")
        if how == "close":
            await peer.recv_all()
    await protocol.until_called("lost")
    seen = list(protocol.calls)
    await turns(5)
    assert protocol.calls == seen
    if where == "connection_made":
        assert protocol.calls == ["made", "lost"]
    assert protocol.exc is None


async def test_no_data_after_close(loop, connect):
    transport, protocol, peer = await connect()
    peer.send_now(b"a")
    await protocol.until_received(1)
    peer.send_now(b"b" * 1000)
    transport.close()
    await protocol.until_called("lost")
    assert protocol.data == b"a"


async def test_the_far_end_sees_a_close_although_a_receive_was_pending(loop, connect):
    transport, _, peer = await connect()
    await asyncio.sleep(0.01)
    reading = asyncio.ensure_future(peer.recv_all())
    await asyncio.sleep(0.01)
    transport.close()
    assert await reading == b""


async def test_the_end_is_seen_without_another_turn(loop, connect, way):
    """The descriptor is closed with connection_lost, or by a syscall thread for which the loop need not run."""
    late = 0
    for _ in range(20):
        transport, protocol, peer = await connect()
        fd = transport.get_extra_info("socket").fileno()
        transport.write(b"x")
        transport.close()
        await protocol.until_called("lost")
        late += is_open(fd)
        assert peer.sock.recv(1) == b"x"
        assert peer.sock.recv(1) == b""
        peer.close()
    assert late == 0 or way.threads not in (None, "off")


async def test_a_slow_close_does_not_stop_others(loop, connect):
    slow, slow_protocol, slow_peer = await connect(prepare=shrink)
    slow.write(payload(2_000_000))
    slow.close()
    for _ in range(20):
        quick, protocol, peer = await connect()
        quick.write(b"x")
        assert await peer.recv(1) == b"x"
        quick.close()
        await protocol.until_called("lost")
    assert "lost" not in slow_protocol.calls
    await slow_peer.recv_all()
    await slow_protocol.until_called("lost")


async def test_closed_transports_and_protocols_are_freed(loop, connect, kind):
    refs = []
    for _ in range(20):
        ours, theirs = tcp_pair() if kind == "tcp" else unix_pair()
        ours.setblocking(False)
        transport, protocol = await loop.connect_accepted_socket(Recorder, ours)
        transport.write(b"x")
        transport.close()
        await protocol.until_called("lost")
        refs += [weakref.ref(transport), weakref.ref(protocol)]
        del transport, protocol
        theirs.close()
    await turns(5)
    gc.collect()
    assert [ref() for ref in refs if ref() is not None] == []


async def test_an_error_in_data_received_closes_the_socket(loop, connect, errors):
    class Broken(Recorder):
        def data_received(self, data):
            raise ZeroDivisionError

    transport, protocol, peer = await connect(Broken, before=b"x")
    transport.write(payload(100))
    await protocol.until_called("lost")
    assert transport.is_closing()
    errors.clear()
    peer.sock.settimeout(5)
    try:
        while await asyncio.to_thread(peer.sock.recv, 1000):
            pass
    except ConnectionResetError:
        pass


async def test_many_short_lives(loop, connect):
    for _ in range(300):
        transport, protocol, peer = await connect()
        transport.write(b"x")
        transport.close()
        await protocol.until_called("lost")
        assert protocol.calls == ["made", "lost"]
        peer.close()


async def test_close_waits_for_a_write_of_one_turn_before(loop, connect):
    transport, protocol, peer = await connect()
    transport.write(b"one")
    await asyncio.sleep(0)
    transport.write(b"two")
    transport.close()
    await protocol.until_called("lost")
    assert await peer.recv_all() == b"onetwo"


@pytest.mark.parametrize("ending", ["close", "abort"])
def test_ended_with_the_last_act_of_a_run(way, loop, ending):
    """The far end notices, although the loop does not run any more."""
    ours, theirs = tcp_pair()
    ours.setblocking(False)

    async def main():
        transport, protocol = await loop.connect_accepted_socket(Recorder, ours)
        getattr(transport, ending)()
        return protocol

    for _ in range(3):
        protocol = loop.run_until_complete(main())
        assert theirs.recv(1) == b""
        assert protocol.calls == ["made", "lost"]
        theirs.close()
        ours, theirs = tcp_pair()
        ours.setblocking(False)
    ours.close()
    theirs.close()


async def test_abort_drops_nothing_that_the_socket_had_room_for(loop, connect):
    """What was written in this very turn has not been dropped by anybody else's loop either."""
    transport, protocol, peer = await connect()
    transport.write(b"last")
    transport.writelines([b" ", b"words"])
    transport.abort()
    await protocol.until_called("lost")
    assert await peer.recv_all() == b"last words"


async def test_connection_lost_stands_in_line(way, loop, connect):
    """After what close() found in line, before what comes later; whether or not the peer had ended."""
    for ended in (False, True):
        transport, protocol, peer = await connect(lambda: Recorder(keep_open=True))
        if ended:
            peer.close()
            await protocol.until_called("eof")
        seen = []
        loop.call_soon(lambda seen=seen, calls=protocol.calls: seen.append("lost" in calls))
        transport.close()
        assert "lost" not in protocol.calls
        await asyncio.sleep(0)
        assert seen == [False]
        if way.threads not in (None, "off"):  # a syscall thread may need longer to let go of the socket
            await protocol.until_called("lost")
        assert protocol.calls[-1] == "lost"


async def test_connection_made_stands_in_line(loop, kind):
    """Whoever is cancelled while the connection is being handed over finds it made, and can close it."""
    ours, theirs = tcp_pair() if kind == "tcp" else unix_pair()
    with theirs:
        ours.setblocking(False)
        protocol = Recorder()
        task = asyncio.ensure_future(loop.connect_accepted_socket(lambda: protocol, ours))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert protocol.calls[:1] == ["made"]
        await protocol.until_called("lost")
        assert await asyncio.to_thread(theirs.recv, 1) == b""


@pytest.mark.parametrize("end", ["close", "abort"])
def test_what_was_closed_in_a_run_ends_in_it(loop, connect, end):
    """No run need follow: somebody may wait for the end elsewhere."""

    async def main():
        transport, protocol, peer = await connect()
        await turns(2)
        getattr(transport, end)()
        await turns(2)
        return protocol, peer

    protocol, peer = loop.run_until_complete(main())
    assert protocol.calls == ["made", "lost"]
    assert peer.sock.recv(1) == b""


@pytest.mark.ours
async def test_resume_writing_goes_to_whoever_was_paused(loop, connect):
    """Not to the protocol that has taken over meanwhile, as TLS does."""
    transport, first, peer = await connect(prepare=shrink)
    second = Recorder()
    transport.write(payload(1_000_000))
    assert first.calls[-1] == "pause"
    transport.set_protocol(second)
    assert len(await peer.recv(1_000_000)) == 1_000_000
    await first.until_called("resume")
    assert second.calls == []


async def test_the_socket_of_a_closed_connection_can_be_asked_for(loop, connect):
    transport, protocol, _ = await connect()
    family = protocol.transport.get_extra_info("socket").family
    other, its_protocol, _ = await connect()
    for one, recorder in ((transport, protocol), (other, its_protocol)):
        one.close()
        await recorder.until_called("lost")
        sock = one.get_extra_info("socket")
        assert (sock.fileno(), sock.family) == (-1, family)


async def test_writes_out_of_resume_writing_after_close(loop, connect):
    """TLS sends its last record so."""

    class Last(Recorder):
        def resume_writing(self):
            super().resume_writing()
            self.transport.write(b"the end")

    transport, protocol, peer = await connect(Last, prepare=shrink)
    data = payload(1_000_000)
    transport.write(data)
    transport.close()
    received = await peer.recv_all()
    assert digest(received) == digest(data + b"the end")
    await protocol.until_called("lost")
    assert protocol.calls == ["made", "pause", "resume", "lost"]
