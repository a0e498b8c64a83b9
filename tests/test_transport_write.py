"""The writing half of a stream transport."""

import array
import asyncio
import logging
import mmap
import socket
import time

import pytest
from support import SIZES, Recorder, check_program, digest, payload, shrink, turns

pytestmark = pytest.mark.usefixtures("kind")


async def test_is_an_asyncio_transport(loop, connect):
    transport, protocol, _ = await connect()
    assert isinstance(transport, asyncio.Transport)
    assert transport.get_protocol() is protocol
    assert protocol.calls == ["made"]
    assert not transport.is_closing()
    assert transport.is_reading()


async def test_write_arrives(loop, connect):
    transport, _, peer = await connect()
    transport.write(b"hello")
    assert await peer.recv(5) == b"hello"


async def test_writes_of_one_turn_arrive_in_order(loop, connect):
    transport, _, peer = await connect()
    parts = [payload(size) for size in (1, 100, 3, 5000, 0, 7, 70_000, 1)]
    for part in parts:
        transport.write(part)
    expected = b"".join(parts)
    assert digest(await peer.recv(len(expected))) == digest(expected)


async def test_writes_of_many_turns_arrive_in_order(loop, connect):
    transport, _, peer = await connect()
    reading = asyncio.ensure_future(peer.recv(200_000))
    for i in range(2000):
        transport.write(payload(100, i))
        if i % 3 == 0:
            await asyncio.sleep(0)
    assert digest(await reading) == digest(b"".join(payload(100, i) for i in range(2000)))


@pytest.mark.parametrize(("size", "seconds"), [(10, 0.005), (40_000, 0)], ids=["slow handler", "much data"])
async def test_what_was_written_leaves_before_the_next_callback(loop, connect, size, seconds):
    transport, _, peer = await connect()
    received = loop.create_future()

    def write():
        transport.write(payload(size))
        time.sleep(seconds)

    def block_until_it_came():
        received.set_result(peer.recv_blocking(size))

    loop.call_soon(write)
    loop.call_soon(block_until_it_came)
    assert digest(await received) == digest(payload(size))


async def test_empty_write_sends_nothing(loop, connect):
    transport, protocol, peer = await connect()
    transport.write(b"")
    transport.writelines([])
    transport.writelines([b"", b""])
    assert transport.get_write_buffer_size() == 0
    transport.write(b"x")
    assert await peer.recv(1) == b"x"
    assert protocol.calls == ["made"]


async def test_write_inside_connection_made_and_data_received(loop, connect):
    class Greeter(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            transport.write(b"hi ")

        def data_received(self, data):
            super().data_received(data)
            self.transport.write(b"got " + data)

    _, _, peer = await connect(Greeter)
    assert await peer.recv(3) == b"hi "
    peer.send_now(b"that")
    assert await peer.recv(8) == b"got that"


@pytest.mark.parametrize("wrap", [bytes, bytearray, lambda b: memoryview(b), lambda b: memoryview(bytearray(b))])
async def test_write_takes_any_bytes(loop, connect, wrap):
    transport, _, peer = await connect()
    transport.write(wrap(b"spam"))
    transport.writelines([wrap(b"eggs"), wrap(b"ham")])
    assert await peer.recv(11) == b"spameggsham"


async def test_write_takes_wider_items(loop, connect):
    transport, _, peer = await connect()
    numbers = array.array("I", range(10))
    transport.write(memoryview(numbers))
    assert await peer.recv(40) == numbers.tobytes()


@pytest.mark.parametrize("size", [10, 4096, 100_000, 4_000_000])
@pytest.mark.parametrize("wrap", [lambda b: b, memoryview], ids=["bytearray", "memoryview"])
async def test_changing_a_buffer_after_write_changes_nothing(way, loop, connect, size, wrap):
    if not way.ours and size > 10_000:
        pytest.skip("asyncio keeps a view of what it could not send at once")
    transport, _, peer = await connect()
    reading = asyncio.ensure_future(peer.recv(2 * size))
    first, second = payload(size, 1), payload(size, 2)
    changing = bytearray(first)
    transport.write(wrap(changing))
    changing[:] = second
    transport.write(wrap(changing))
    changing[:] = bytes(size)
    assert digest(await reading) == digest(first + second)


async def test_changing_a_buffer_after_writelines_changes_nothing(loop, connect):
    transport, _, peer = await connect()
    parts = [bytearray(b"a" * 100), bytearray(b"b" * 100)]
    transport.writelines(parts)
    for part in parts:
        part[:] = b"\0" * 100
    assert await peer.recv(200) == b"a" * 100 + b"b" * 100


async def test_a_written_bytearray_can_be_resized(way, loop, connect):
    if not way.ours:
        pytest.skip("asyncio may keep a view of it")
    transport, _, peer = await connect()
    changing = bytearray(payload(3_000_000))
    transport.write(changing)
    changing.clear()
    changing.extend(b"else")
    assert digest(await peer.recv(3_000_000)) == digest(payload(3_000_000))


@pytest.mark.parametrize("wrong", ["text", 5, None, ["list"], object()], ids=lambda v: type(v).__name__)
async def test_write_of_something_else_is_a_type_error(loop, connect, wrong):
    transport, _, peer = await connect()
    with pytest.raises(TypeError):
        transport.write(wrong)
    with pytest.raises(TypeError):
        transport.writelines([b"never sent", wrong])
    transport.write(b"still here")
    assert (await peer.recv(10)) == b"still here"


@pytest.mark.parametrize("count", [1, 2, 16, 1024, 1025, 5000])
async def test_writelines_keeps_order(loop, connect, count):
    transport, _, peer = await connect()
    parts = [payload(1 + i % 50, i) for i in range(count)]
    transport.writelines(iter(parts))
    expected = b"".join(parts)
    assert digest(await peer.recv(len(expected))) == digest(expected)


async def test_writelines_takes_all_that_has_a_buffer(loop, connect):
    """It always did, other than write()."""
    transport, _, peer = await connect()
    with mmap.mmap(-1, mmap.PAGESIZE) as mapped:
        mapped[:6] = b"mapped"
        transport.writelines([array.array("B", b"array"), mapped, b"bytes"])
        assert await peer.recv(10 + mmap.PAGESIZE) == b"array" + mapped[:] + b"bytes"
    transport.writelines(())


async def test_writelines_between_writes(loop, connect):
    transport, _, peer = await connect()
    transport.write(b"1")
    transport.writelines([b"2", bytearray(b"3"), memoryview(b"4")])
    transport.write(b"5")
    await asyncio.sleep(0)
    transport.writelines([b"6"])
    assert await peer.recv(6) == b"123456"


@pytest.mark.parametrize("size", SIZES)
async def test_large_writes_arrive_whole(loop, connect, size):
    transport, _, peer = await connect()
    data = payload(size)
    transport.write(data)
    assert digest(await peer.recv(size)) == digest(data)


async def test_large_write_through_small_kernel_buffers(loop, connect):
    transport, _, peer = await connect(prepare=shrink)
    data = payload(1_000_000)
    transport.writelines([data[i : i + 9999] for i in range(0, len(data), 9999)])
    assert digest(await peer.recv(len(data))) == digest(data)


# -- flow control


async def test_default_limits(loop, connect):
    transport, _, _ = await connect()
    assert transport.get_write_buffer_limits() == (16 * 1024, 64 * 1024)
    assert transport.get_write_buffer_size() == 0


async def test_setting_limits(loop, connect):
    transport, _, _ = await connect()
    transport.set_write_buffer_limits(high=1000)
    assert transport.get_write_buffer_limits() == (250, 1000)
    transport.set_write_buffer_limits(low=100)
    assert transport.get_write_buffer_limits() == (100, 400)
    transport.set_write_buffer_limits(high=0)
    assert transport.get_write_buffer_limits() == (0, 0)
    transport.set_write_buffer_limits(high=10, low=5)
    assert transport.get_write_buffer_limits() == (5, 10)
    transport.set_write_buffer_limits()
    assert transport.get_write_buffer_limits() == (16 * 1024, 64 * 1024)
    for high, low in ((10, 20), (5, -1)):
        with pytest.raises(ValueError):
            transport.set_write_buffer_limits(high=high, low=low)
    for without_end in (10**30, 1e30):
        transport.set_write_buffer_limits(high=without_end, low=5)
        transport.write(b"x")
        assert transport.get_write_buffer_limits()[1] > 1e18


async def test_pause_and_resume_writing(loop, connect):
    transport, protocol, peer = await connect(prepare=shrink)
    transport.set_write_buffer_limits(high=50_000, low=10_000)
    data = payload(3_000_000)
    transport.write(data)
    await protocol.until_called("pause")
    assert transport.get_write_buffer_size() > 50_000
    transport.write(b"more")
    await turns(5)
    assert protocol.calls.count("pause") == 1
    assert "resume" not in protocol.calls
    reading = asyncio.ensure_future(peer.recv(len(data) + 4))
    await protocol.until_called("resume")
    assert transport.get_write_buffer_size() <= 10_000
    assert digest(await reading) == digest(data + b"more")
    assert protocol.calls == ["made", "pause", "resume"]
    await turns(5)
    assert transport.get_write_buffer_size() == 0


async def test_pausing_again_and_again(loop, connect):
    transport, protocol, peer = await connect(prepare=shrink)
    transport.set_write_buffer_limits(high=10_000, low=0)
    for i in range(1, 6):
        data = payload(400_000, i)
        transport.write(data)
        await protocol.until(lambda i=i: protocol.calls.count("pause") == i)
        reading = asyncio.ensure_future(peer.recv(len(data)))
        await protocol.until(lambda i=i: protocol.calls.count("resume") == i)
        assert digest(await reading) == digest(data)
    assert protocol.calls == ["made"] + ["pause", "resume"] * 5


async def test_high_limit_of_zero_pauses_whenever_something_waits(loop, connect):
    transport, protocol, peer = await connect(prepare=shrink)
    transport.set_write_buffer_limits(high=0)
    transport.write(payload(1_000_000))
    await protocol.until_called("pause")
    reading = asyncio.ensure_future(peer.recv(1_000_000))
    await protocol.until_called("resume")
    assert transport.get_write_buffer_size() == 0
    await reading


async def test_writelines_counts_against_the_limit(way, loop, connect):
    if not way.writelines_works:
        pytest.skip("asyncio's writelines() does not pause")
    transport, protocol, peer = await connect(prepare=shrink)
    transport.writelines([payload(10_000, i) for i in range(200)])
    await protocol.until_called("pause")
    assert transport.get_write_buffer_size() > 64 * 1024
    assert digest(await peer.recv(2_000_000)) == digest(b"".join(payload(10_000, i) for i in range(200)))
    await protocol.until_called("resume")


async def test_errors_in_pause_and_resume_writing_are_reported(loop, connect, errors):
    class Broken(Recorder):
        def pause_writing(self):
            super().pause_writing()
            raise RuntimeError("no pause")

        def resume_writing(self):
            super().resume_writing()
            raise RuntimeError("no resume")

    transport, protocol, peer = await connect(Broken, prepare=shrink)
    data = payload(2_000_000)
    transport.write(data)
    await protocol.until_called("pause")
    assert digest(await peer.recv(len(data))) == digest(data)
    await protocol.until_called("resume")
    await turns()
    assert [str(e["exception"]) for e in errors] == ["no pause", "no resume"]
    errors.clear()
    assert not transport.is_closing()


async def test_writing_from_resume_writing(loop, connect):
    class Pump(Recorder):
        left = 21

        def pump(self):
            while self.left and self.calls[-1] != "pause":
                self.left -= 1
                self.transport.write(payload(300_000, self.left))
            if not self.left:
                self.transport.write_eof()

        def resume_writing(self):
            super().resume_writing()
            self.pump()

    _, protocol, peer = await connect(Pump, prepare=shrink)
    protocol.pump()
    expected = b"".join(payload(300_000, i) for i in range(20, -1, -1))
    assert digest(await peer.recv_all()) == digest(expected)


async def test_buffer_size_counts_what_is_unsent(loop, connect):
    transport, _, peer = await connect(prepare=shrink)
    transport.write(payload(2_000_000))
    transport.write(payload(1_000_000))
    before = transport.get_write_buffer_size()
    assert 2_000_000 < before <= 3_000_000
    await peer.recv(1_500_000)
    assert transport.get_write_buffer_size() < before
    await peer.recv(1_500_000)


# -- end of file


async def test_resumes_at_the_low_mark(connect):
    """Not only when all has gone: a peer that reads a part and rests leaves the protocol free to write."""
    left = []

    class Protocol(Recorder):
        def resume_writing(self):
            super().resume_writing()
            left.append(self.transport.get_write_buffer_size())

    transport, _, peer = await connect(Protocol, prepare=shrink)
    transport.set_write_buffer_limits(high=1_000_000, low=900_000)
    transport.write(bytes(2_000_000))
    while not left:
        await peer.recv(10_000)
    assert 500_000 < left[0] <= 900_000
    transport.abort()


async def test_write_eof_comes_after_the_data(loop, connect):
    transport, protocol, peer = await connect()
    assert transport.can_write_eof()
    data = payload(1_500_000)
    transport.write(data)
    transport.write_eof()
    transport.write_eof()
    assert digest(await peer.recv_all()) == digest(data)
    peer.send_now(b"still listening")
    await protocol.until_received(15)
    assert not transport.is_closing()


async def test_write_after_write_eof_is_an_error(loop, connect):
    transport, _, peer = await connect()
    transport.write_eof()
    with pytest.raises(RuntimeError):
        transport.write(b"x")
    with pytest.raises(RuntimeError):
        transport.writelines([b"x"])
    assert await peer.recv_all() == b""


async def test_write_eof_at_once(loop, connect):
    transport, _, peer = await connect()
    transport.write_eof()
    assert await peer.recv_all() == b""
    transport.close()
    transport.write_eof()


async def test_write_eof_after_a_reset_that_nobody_has_read(connect):
    transport, protocol, peer = await connect()
    transport.pause_reading()
    peer.reset()
    if transport.get_extra_info("socket").family == socket.AF_UNIX:
        transport.write_eof()
    else:
        with pytest.raises(OSError, match="not connected"):
            transport.write_eof()
        transport.write_eof()
    transport.abort()
    await protocol.until_called("lost")


async def test_write_eof_then_close(loop, connect):
    transport, protocol, peer = await connect(prepare=shrink)
    data = payload(500_000)
    transport.write(data)
    transport.write_eof()
    transport.close()
    assert digest(await peer.recv_all()) == digest(data)
    await protocol.until_called("lost")
    assert protocol.exc is None


# -- writing where nobody reads any more


async def test_write_after_close_is_quiet(way, loop, connect, caplog):
    transport, protocol, peer = await connect()
    transport.write(b"before")
    await turns()
    transport.close()
    with caplog.at_level(logging.WARNING, logger="asyncio"):
        for _ in range(20):
            transport.write(b"after")
    assert "socket.send() raised exception" in caplog.text
    await protocol.until_called("lost")
    transport.write(b"after")
    if way.writelines_works:
        transport.writelines([b"after"])
    assert await peer.recv_all() == b"before"
    assert protocol.calls == ["made", "lost"]


async def test_write_after_a_lost_connection_is_quiet(loop, connect):
    transport, protocol, peer = await connect()
    peer.close()
    await protocol.until_called("lost")
    for _ in range(10):
        transport.write(b"x" * 1000)
    await turns()
    assert protocol.calls.count("lost") == 1


async def test_broken_pipe_ends_the_connection(loop, connect):
    transport, protocol, peer = await connect(lambda: Recorder(keep_open=True))
    peer.close()
    await protocol.until_called("eof")
    while not transport.is_closing():
        transport.write(b"x" * 1000)
        await asyncio.sleep(0)
    await protocol.until_called("lost")
    assert isinstance(protocol.exc, (BrokenPipeError, ConnectionResetError))
    assert protocol.calls.count("lost") == 1


async def test_a_peer_that_resets_during_a_large_write(loop, connect):
    transport, protocol, peer = await connect(prepare=shrink)
    transport.write(payload(5_000_000))
    await peer.recv(10_000)
    peer.reset()
    await protocol.until_called("lost")
    assert protocol.exc is None or isinstance(protocol.exc, (BrokenPipeError, ConnectionResetError))
    assert protocol.calls.count("lost") == 1
    assert transport.is_closing()


# -- information


async def test_extra_info(loop, connect, kind):
    transport, _, peer = await connect()
    sock = transport.get_extra_info("socket")
    assert sock.family == peer.sock.family
    assert sock.type == socket.SOCK_STREAM
    assert sock.getsockname() == peer.sock.getpeername()
    assert sock.fileno() >= 0
    if kind == "tcp":
        assert transport.get_extra_info("peername") == peer.sock.getsockname()
        assert transport.get_extra_info("sockname") == peer.sock.getpeername()
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    assert transport.get_extra_info("nothing") is None
    assert transport.get_extra_info("nothing", 5) == 5


async def test_repr_in_every_state(loop, connect):
    transport, protocol, peer = await connect(prepare=shrink)
    assert repr(transport)
    transport.write(payload(1_000_000))
    assert repr(transport)
    transport.pause_reading()
    assert repr(transport)
    transport.close()
    assert repr(transport)
    await peer.recv_all()
    await protocol.until_called("lost")
    assert repr(transport)


async def test_transport_is_usable_as_a_key_and_takes_weak_references(loop, connect):
    import weakref

    transport, _, _ = await connect()
    assert {transport: 1}[transport] == 1
    assert weakref.ref(transport)() is transport


async def test_one_turn_writes_to_many_of_all_kinds(loop, connect):
    """To peers that read, that do not, that have gone: each is served as if it had been alone."""
    await turns(3)
    reading = [await connect() for _ in range(10)]
    full = [await connect(prepare=shrink) for _ in range(10)]
    gone = [await connect() for _ in range(10)]
    large = payload(2_000_000)
    for _, _, peer in gone:
        peer.reset()
    for number, (transport, _, _) in enumerate(reading):
        transport.write(b"%d" % number)
    for number, (transport, _, _) in enumerate(full):
        transport.write(large[number:])
    for transport, _, _ in gone:
        transport.write(b"x")
    for transport, protocol, _ in gone:
        # The reset has come, or the write meets it: never more than this.
        transport.write(b"y")
        await protocol.until_called("lost")
        assert protocol.exc is None or isinstance(protocol.exc, (ConnectionResetError, BrokenPipeError))
    for number, (_, _, peer) in enumerate(reading):
        assert await peer.recv(1) == b"%d" % number
    for number, (transport, _, peer) in enumerate(full):
        assert transport.get_write_buffer_size() > 0
        assert digest(await peer.recv(len(large) - number)) == digest(large[number:])


@pytest.mark.ours
def test_writes_of_a_turn_to_peers_that_have_gone_raise_no_signal(way):
    """Not even where the program has SIGPIPE at its default, which ends a process."""
    check_program(
        way,
        """
import asyncio, signal, socket
signal.signal(signal.SIGPIPE, signal.SIG_DFL)

async def main():
    loop = asyncio.get_running_loop()
    pairs = [socket.socketpair() for _ in range(20)]
    made = []
    for ours, _ in pairs:
        ours.setblocking(False)
        made.append((await loop.connect_accepted_socket(asyncio.Protocol, ours))[0])
    for _, theirs in pairs:
        theirs.shutdown(socket.SHUT_RD)
    for transport in made:
        transport.write(b"x")
    await asyncio.sleep(0.05)
    for transport in made:
        transport.abort()
    await asyncio.sleep(0.01)
    print("alive")

loop = new_loop()
loop.run_until_complete(main())
loop.close()
""",
        out="alive\n",
    )
