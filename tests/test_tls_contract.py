"""asyncio's contract of TLS transports, against a far end that is a plain SSLObject; holds on asyncio's loop too."""

import asyncio
import contextlib
import contextvars
import logging
import socket
import ssl
import sys

import pytest
from support import Recorder, digest, payload, settle, shrink, turns
from tls_support import VERSIONS, Connector, Contexts

pytestmark = pytest.mark.filterwarnings("ignore:unclosed transport:ResourceWarning")


@pytest.fixture(scope="session")
def contexts():
    return Contexts()


@pytest.fixture(params=["server", "client"])
def side(request):
    return request.param


@pytest.fixture(params=VERSIONS)
def version(request):
    return request.param


@pytest.fixture
def connect_tls(loop, contexts, side, version):
    connector = Connector(loop, contexts, side, version)
    yield connector
    connector.clean()
    loop.run_until_complete(turns(5))


class Both(Recorder):
    """Writes back when it has received something."""

    def data_received(self, data):
        super().data_received(data)
        self.transport.write(data)


class Buffered(asyncio.BufferedProtocol):
    """Keeps what comes, in buffers of its own size."""

    def __init__(self, size):
        self.size, self.data, self.calls = size, bytearray(), []
        self.waiters = []
        self.pause_each = False

    def connection_made(self, transport):
        self.transport = transport

    def get_buffer(self, sizehint):
        self.buffer = bytearray(self.size)
        return memoryview(self.buffer)  # asyncio's transport writes into copies of a bytearray's slices

    def buffer_updated(self, nbytes):
        assert 0 < nbytes <= self.size
        self.data += self.buffer[:nbytes]
        self.calls.append(nbytes)
        if self.pause_each:
            self.transport.pause_reading()
            asyncio.get_running_loop().call_later(0.001, self.transport.resume_reading)

    def eof_received(self):
        self.calls.append("eof")

    def connection_lost(self, exc):
        self.calls.append("lost")


async def test_both_directions(connect_tls):
    transport, protocol, peer = await connect_tls(Recorder)
    for size in (1, 100, 16 * 1024, 16 * 1024 + 1, 300_000):
        data = payload(size)
        before = protocol.received
        sending = asyncio.ensure_future(peer.send(data))
        await protocol.until_received(before + size)
        await sending
        assert digest(protocol.data[before:]) == digest(data)
        receiving = asyncio.ensure_future(peer.recv(size))
        transport.write(data)
        assert digest(await receiving) == digest(data)
    assert protocol.calls == ["made", "data"]


async def test_everything_that_can_be_written(connect_tls):
    transport, _, peer = await connect_tls(Recorder)
    changing = bytearray(b"before")
    transport.write(b"")
    transport.write(changing)
    changing[:] = b"after."
    transport.write(memoryview(b"a view"))
    transport.writelines([b"one", bytearray(b"two"), memoryview(b"three")])
    expected = b"before" + b"a view" + b"onetwothree"
    assert await peer.recv(len(expected)) == expected
    for bad in ("text", 3, None, [b"x"]):
        with pytest.raises(TypeError):
            transport.write(bad)


@pytest.mark.ours  # asyncio ends the connection
async def test_a_view_with_gaps(connect_tls):
    transport, _, peer = await connect_tls(Recorder)
    transport.write(memoryview(b"every other")[::2])
    assert await peer.recv(6) == b"every other"[::2]


async def test_many_small_writes_and_a_few_large_ones_stay_in_order(connect_tls):
    transport, _, peer = await connect_tls(Recorder)
    pieces = [payload(size, i) for i, size in enumerate([1, 5, 70_000, 3, 16_384, 40_000, 200_000, 2] * 20)]
    receiving = asyncio.ensure_future(peer.recv(sum(map(len, pieces))))
    for i, piece in enumerate(pieces):
        transport.write(piece)
        if i % 7 == 0:
            await turns(1)
    assert digest(await receiving) == digest(b"".join(pieces))


async def test_no_half_close(connect_tls):
    transport, _, _ = await connect_tls(Recorder)
    assert transport.can_write_eof() is False
    with pytest.raises(NotImplementedError):
        transport.write_eof()


async def test_extra_info(connect_tls, side, version):
    transport, _, peer = await connect_tls(Recorder)
    assert isinstance(transport, asyncio.Transport)
    tls = transport.get_extra_info("ssl_object")
    assert isinstance(tls, ssl.SSLObject)
    assert tls.version() == f"TLSv{version}"
    assert isinstance(transport.get_extra_info("sslcontext"), ssl.SSLContext)
    assert transport.get_extra_info("cipher") == tls.cipher()
    assert transport.get_extra_info("compression") is None
    certificate = transport.get_extra_info("peercert")
    assert ("subjectAltName" in certificate) if side == "client" else not certificate
    assert transport.get_extra_info("peername") == peer.sock.getsockname()
    assert transport.get_extra_info("sockname") == peer.sock.getpeername()
    assert transport.get_extra_info("nothing", "default") == "default"


# -- ends


async def test_close_flushes_and_exchanges_close_notify(connect_tls):
    transport, protocol, peer = await connect_tls(Recorder)
    data = payload(3_000_000)
    transport.write(data)
    transport.close()
    assert transport.is_closing()
    transport.write(b"too late")
    assert digest(await peer.recv_all()) == digest(data)
    assert "lost" not in protocol.calls  # the far end has not answered yet
    await peer.send_raw(peer.close_notify())
    await protocol.until_called("lost")
    assert protocol.exc is None
    assert await asyncio.to_thread(peer.sock.recv, 100) == b""
    assert protocol.calls.count("lost") == 1


@pytest.mark.ours  # asyncio's transport cannot be written to after a second close()
async def test_closing_and_aborting_again_and_again(connect_tls):
    transport, protocol, peer = await connect_tls(Recorder)
    for _ in range(3):
        transport.close()
        transport.write(b"too late")
    assert await peer.recv_all() == b""
    await peer.send_raw(peer.close_notify())
    await protocol.until_called("lost")
    for _ in range(3):
        transport.close()
        transport.abort()
        transport.write(b"too late")
        transport.pause_reading()
        transport.resume_reading()
    assert transport.get_write_buffer_size() == 0
    assert transport.get_extra_info("ssl_object") is not None
    assert protocol.calls.count("lost") == 1


async def test_the_peer_closes(connect_tls):
    transport, protocol, peer = await connect_tls(Recorder)
    await peer.send_raw(peer.encrypt(b"last words") + peer.close_notify())
    await protocol.until_called("lost")
    assert protocol.calls == ["made", "data", "eof", "lost"]
    assert protocol.data == b"last words"
    assert protocol.exc is None
    assert await peer.recv_all() == b""  # ended by a close_notify
    assert transport.is_closing()


async def test_what_was_written_before_the_peer_closed_still_arrives(connect_tls):
    transport, protocol, peer = await connect_tls(Recorder, prepare=shrink)
    data = payload(2_000_000)
    transport.write(data)
    await peer.send_raw(peer.close_notify())
    await protocol.until_called("eof")
    assert digest(await peer.recv_all()) == digest(data)
    await protocol.until_called("lost")
    assert protocol.exc is None


async def test_cut_off(connect_tls):
    """The end of the stream without close_notify is reported as an ordinary end."""
    _, protocol, peer = await connect_tls(Recorder)
    await peer.send(b"half a")
    peer.sock.shutdown(socket.SHUT_WR)
    await protocol.until_called("lost")
    assert protocol.calls == ["made", "data", "eof", "lost"]
    assert protocol.exc is None


async def test_what_was_written_before_the_cut_off_still_arrives(connect_tls):
    transport, protocol, peer = await connect_tls(Recorder, prepare=shrink)
    data = payload(2_000_000)
    transport.write(data)
    peer.sock.shutdown(socket.SHUT_WR)
    await protocol.until_called("eof")
    assert digest(await peer.recv(len(data))) == digest(data)
    await protocol.until_called("lost")
    assert protocol.exc is None


async def test_cut_off_in_the_middle_of_a_record(connect_tls):
    _, protocol, peer = await connect_tls(Recorder)
    await peer.send_raw(peer.encrypt(b"whole") + peer.encrypt(payload(1000))[:500])
    await protocol.until_received(5)
    peer.sock.shutdown(socket.SHUT_WR)
    await protocol.until_called("lost")
    assert protocol.data == b"whole"
    assert protocol.calls == ["made", "data", "eof", "lost"]


async def test_eof_received_may_not_keep_it_open(connect_tls, caplog):
    _, protocol, peer = await connect_tls(lambda: Recorder(keep_open=True))
    with caplog.at_level(logging.WARNING, logger="asyncio"):
        await peer.send_raw(peer.close_notify())
        await protocol.until_called("lost")
    assert "returning true from eof_received() has no effect when using ssl" in caplog.text


async def test_writing_in_eof_received(connect_tls):
    class Polite(Recorder):
        def eof_received(self):
            self.transport.write(b"goodbye")

    _, _, peer = await connect_tls(Polite)
    await peer.send_raw(peer.close_notify())
    assert await peer.recv_all() == b"goodbye"


async def test_reset(connect_tls):
    _, protocol, peer = await connect_tls(Recorder)
    peer.reset()
    await protocol.until_called("lost")
    assert isinstance(protocol.exc, ConnectionResetError)
    assert "eof" not in protocol.calls


async def test_abort(connect_tls):
    transport, protocol, peer = await connect_tls(Recorder, prepare=shrink)
    transport.write(payload(3_000_000))
    transport.abort()
    assert transport.is_closing()
    await protocol.until_called("lost")
    assert protocol.exc is None
    with pytest.raises((EOFError, ConnectionError)):
        await peer.recv_all()


@pytest.mark.skipif(sys.version_info < (3, 13), reason="asyncio's own _force_close() fails before 3.13")
async def test_force_close(connect_tls):
    transport, protocol, _ = await connect_tls(Recorder)
    error = OSError("because")
    transport._force_close(error)
    await protocol.until_called("lost")
    assert protocol.exc is error


async def test_shutdown_timeout(connect_tls):
    """The far end takes everything and never says goodbye."""
    transport, protocol, _ = await connect_tls(Recorder, ssl_shutdown_timeout=0.05)
    transport.close()
    await protocol.until_called("lost")
    assert isinstance(protocol.exc, TimeoutError)
    assert str(protocol.exc) == "SSL shutdown timed out"


async def test_shutdown_timeout_while_the_peer_does_not_read(connect_tls):
    transport, protocol, _ = await connect_tls(Recorder, prepare=shrink, ssl_shutdown_timeout=0.05)
    transport.write(payload(8_000_000))
    transport.close()
    await protocol.until_called("lost")
    assert isinstance(protocol.exc, TimeoutError)


async def test_the_peer_ends_or_resets_during_the_shutdown(connect_tls):
    transport, protocol, peer = await connect_tls(Recorder)
    transport.close()
    assert await peer.recv_all() == b""
    peer.close()
    await protocol.until_called("lost")
    assert protocol.exc is None

    transport, protocol, peer = await connect_tls(Recorder)
    transport.close()
    assert await peer.recv_all() == b""
    peer.reset()
    await protocol.until_called("lost")
    assert isinstance(protocol.exc, ConnectionResetError)


async def test_writes_after_the_end_are_dropped_with_a_warning(connect_tls, caplog):
    transport, protocol, peer = await connect_tls(Recorder)
    peer.reset()
    await protocol.until_called("lost")
    with caplog.at_level(logging.WARNING, logger="asyncio"):
        for _ in range(10):
            transport.write(b"x")
    assert "SSL connection is closed" in caplog.text


# -- errors


async def test_a_broken_record(connect_tls, errors):
    """What cannot be decrypted ends the connection with an SSLError, which is not reported elsewhere."""
    _, protocol, peer = await connect_tls(Recorder)
    record = bytearray(peer.encrypt(payload(100)))
    record[-1] ^= 1
    await peer.send_raw(peer.encrypt(b"good") + bytes(record))
    await protocol.until_called("lost")
    assert isinstance(protocol.exc, ssl.SSLError)
    assert not errors


async def test_bytes_that_are_no_tls(connect_tls):
    _, protocol, peer = await connect_tls(Recorder)
    await peer.send_raw(b"GET / HTTP/1.1\r\n\r\n")
    await protocol.until_called("lost")
    assert isinstance(protocol.exc, ssl.SSLError)


async def test_exceptions_of_the_protocol(connect_tls, errors):
    class Broken(Recorder):
        def data_received(self, data):
            raise LookupError("in data_received")

    _, protocol, peer = await connect_tls(Broken)
    await peer.send(b"x")
    await protocol.until_called("lost")
    assert isinstance(protocol.exc, LookupError)
    (context,) = errors
    errors.clear()
    assert context["message"] == "Fatal error on SSL protocol"
    assert context["exception"] is protocol.exc


async def test_exceptions_of_eof_received(connect_tls, errors):
    class Broken(Recorder):
        def eof_received(self):
            raise LookupError("in eof_received")

    _, protocol, peer = await connect_tls(Broken)
    await peer.send_raw(peer.close_notify())
    await protocol.until_called("lost")
    assert errors[0]["message"] == "Error calling eof_received()"
    errors.clear()


async def test_exceptions_of_connection_made(loop, connect_tls, errors):
    class Broken(Recorder):
        def connection_made(self, transport):
            raise LookupError("in connection_made")

    with pytest.raises(LookupError):
        await connect_tls(Broken)
    assert isinstance(errors[0]["exception"], LookupError)
    errors.clear()


async def test_exceptions_of_pause_and_resume_writing(connect_tls, errors):
    class Broken(Recorder):
        def pause_writing(self):
            raise LookupError("in pause_writing")

        def resume_writing(self):
            raise LookupError("in resume_writing")

    transport, _, peer = await connect_tls(Broken, prepare=shrink)
    total = 0
    while not errors:
        transport.write(bytes(50_000))
        total += 50_000
        await turns(1)
        assert total < 20_000_000
    assert await peer.recv(total) == bytes(total)
    await settle(lambda: len(errors) >= 2)
    messages = [context["message"] for context in errors]
    assert messages[:2] == ["protocol.pause_writing() failed", "protocol.resume_writing() failed"]
    errors.clear()


# -- flow control


async def test_reading_paused_and_resumed(connect_tls):
    transport, protocol, peer = await connect_tls(Recorder)
    transport.pause_reading()
    transport.pause_reading()
    assert not transport.is_reading()
    await peer.send(b"x" * 100_000)
    await asyncio.sleep(0.02)
    assert protocol.received == 0
    transport.resume_reading()
    transport.resume_reading()
    assert transport.is_reading()
    await protocol.until_received(100_000)


@pytest.mark.ours  # asyncio keeps the end of the handshake to itself meanwhile
async def test_reading_paused_in_connection_made(connect_tls):
    transport, protocol, peer = await connect_tls(lambda: Recorder(pause_at_once=True))
    await peer.send(b"early")
    await asyncio.sleep(0.02)
    assert protocol.received == 0
    transport.resume_reading()
    await protocol.until_received(5)


@pytest.mark.ours  # as above
async def test_data_right_behind_the_handshake(loop, contexts):
    """The first data comes with the client's last handshake message, while reading is paused."""
    connector = Connector(loop, contexts, "server", "1.3")
    ours, peer = connector.pair()
    opening = asyncio.ensure_future(connector.open(ours, lambda: Recorder(pause_at_once=True)))
    await turns(2)
    with pytest.raises(ssl.SSLWantReadError):
        peer.tls.do_handshake()
    peer.flush()
    peer.incoming.write(await asyncio.to_thread(peer.sock.recv, 1 << 16))
    peer.tls.do_handshake()
    finished = peer.outgoing.read()
    await peer.send_raw(finished + peer.encrypt(b"first data"))
    transport, protocol = await opening
    await asyncio.sleep(0.01)
    assert protocol.received == 0
    transport.resume_reading()
    await protocol.until_received(10)
    assert protocol.data == b"first data"
    connector.clean()
    await turns(5)


async def test_pausing_while_data_comes(connect_tls):
    class Hesitant(Recorder):
        def data_received(self, data):
            super().data_received(data)
            self.transport.pause_reading()
            asyncio.get_running_loop().call_later(0.001, self.transport.resume_reading)

    _, protocol, peer = await connect_tls(Hesitant)
    data = payload(1_000_000)
    sending = asyncio.ensure_future(peer.send(data))
    await protocol.until_received(len(data))
    await sending
    assert digest(protocol.data) == digest(data)


async def test_the_end_waits_while_reading_is_paused(connect_tls):
    transport, protocol, peer = await connect_tls(Recorder)
    transport.pause_reading()
    await peer.send_raw(peer.encrypt(b"data") + peer.close_notify())
    peer.sock.shutdown(socket.SHUT_WR)
    await asyncio.sleep(0.02)
    assert protocol.calls == ["made"]
    transport.resume_reading()
    await protocol.until_called("eof")
    assert protocol.data == b"data"


async def test_the_end_is_told_when_the_paused_side_closes(connect_tls):
    place = contextvars.ContextVar("place", default="another context")

    class Placed(Recorder):
        def _note(self, name):
            super()._note(f"{name} in {place.get()}")

    place.set("its own context")
    transport, protocol, peer = await connect_tls(Placed)
    transport.pause_reading()
    await peer.send_raw(peer.close_notify())
    await asyncio.sleep(0.02)
    transport.close()
    await protocol.until(lambda: len(protocol.calls) == 3)
    assert protocol.calls == [f"{name} in its own context" for name in ("made", "eof", "lost")]


async def test_a_reset_is_noticed_while_reading_is_paused(connect_tls):
    transport, protocol, peer = await connect_tls(Recorder)
    transport.pause_reading()
    await peer.send(b"data")
    peer.reset()
    await protocol.until_called("lost")
    assert isinstance(protocol.exc, ConnectionResetError)
    assert protocol.calls == ["made", "lost"]


async def test_what_is_kept_while_reading_is_paused_is_bounded(connect_tls):
    transport, protocol, peer = await connect_tls(Recorder, prepare=shrink)
    transport.pause_reading()
    data = payload(4_000_000)
    records, sent = memoryview(peer.encrypt(data)), 0
    peer.sock.setblocking(False)
    for _ in range(100):
        with contextlib.suppress(BlockingIOError):
            sent += peer.sock.send(records[sent:])
        await asyncio.sleep(0.001)
    assert sent < 1_000_000
    assert protocol.received == 0
    transport.resume_reading()
    peer.sock.settimeout(20)
    await asyncio.gather(peer.send_raw(records[sent:]), protocol.until_received(len(data)))
    assert digest(protocol.data) == digest(data)


async def test_the_writer_is_paused_and_resumed(connect_tls):
    transport, protocol, peer = await connect_tls(Recorder, prepare=shrink)
    low, high = transport.get_write_buffer_limits()
    assert (low, high) == (128 * 1024, 512 * 1024)
    total = 0
    while "pause" not in protocol.calls:
        transport.write(bytes(50_000))
        total += 50_000
        await turns(1)
        assert total < 20_000_000
    assert transport.get_write_buffer_size() <= high + 2 * 65536 + 50_000
    assert "resume" not in protocol.calls
    receiving = asyncio.ensure_future(peer.recv(total))
    await protocol.until_called("resume")
    assert await receiving == bytes(total)
    await settle(lambda: transport.get_write_buffer_size() == 0)
    assert protocol.calls.count("pause") == protocol.calls.count("resume")


async def test_limits(connect_tls):
    transport, _, _ = await connect_tls(Recorder)
    transport.set_write_buffer_limits(high=400)
    assert transport.get_write_buffer_limits() == (100, 400)
    transport.set_write_buffer_limits(low=10)
    assert transport.get_write_buffer_limits() == (10, 40)
    with pytest.raises(ValueError, match="must be >="):
        transport.set_write_buffer_limits(high=1, low=2)


# -- protocols


@pytest.mark.parametrize("size", [1, 1000, 16_384, 300_000])
async def test_buffered_protocol(connect_tls, size):
    _, protocol, peer = await connect_tls(lambda: Buffered(size))
    data = payload(5_000 if size == 1 else 500_000)
    sending = asyncio.ensure_future(peer.send(data))
    await settle(lambda: len(protocol.data) >= len(data))
    await sending
    assert digest(protocol.data) == digest(data)
    await peer.send_raw(peer.close_notify())
    await settle(lambda: "lost" in protocol.calls)
    assert protocol.calls[-2:] == ["eof", "lost"]


async def test_buffered_protocol_that_pauses(connect_tls):
    _, protocol, peer = await connect_tls(lambda: Buffered(5000))
    protocol.pause_each = True
    data = payload(200_000)
    sending = asyncio.ensure_future(peer.send(data))
    await settle(lambda: len(protocol.data) >= len(data))
    await sending
    assert digest(protocol.data) == digest(data)


async def test_other_protocol(connect_tls):
    transport, protocol, peer = await connect_tls(Recorder)
    other = Recorder()
    transport.set_protocol(other)
    assert transport.get_protocol() is other
    await peer.send(b"for the other")
    await other.until_received(13)
    buffered = Buffered(100)
    transport.set_protocol(buffered)
    await peer.send(b"for the third")
    await settle(lambda: buffered.data == b"for the third")
    assert protocol.received == 0


# -- what is not data


async def test_tickets_arrive_between_data(loop, contexts):
    """The records with TLS 1.3's tickets look like data."""
    connector = Connector(loop, contexts, "client", "1.3")
    transport, protocol, peer = await connector(Both)
    await peer.send(b"1")
    await protocol.until_received(1)
    assert await peer.recv(1) == b"1"
    assert transport.get_extra_info("ssl_object").session is not None
    connector.clean()
    await turns(5)


async def test_many_records_at_once(connect_tls):
    _, protocol, peer = await connect_tls(Recorder)
    chunks = [peer.encrypt(b"%d" % i) for i in range(50)]
    await peer.send_raw(b"".join(chunks))
    expected = b"".join(b"%d" % i for i in range(50))
    await protocol.until_received(len(expected))
    assert protocol.data == expected


# -- opening


async def test_handshake_timeout(loop, contexts, side):
    connector = Connector(loop, contexts, side, None)
    ours, peer = connector.pair()
    protocol = Recorder()
    with pytest.raises(ConnectionAbortedError, match=r"SSL handshake is taking longer than 0\.05 seconds"):
        await connector.open(ours, lambda: protocol, ssl_handshake_timeout=0.05)
    assert protocol.calls == []
    connector.clean()
    ours.close()
    await turns(5)
    assert peer.sock.fileno() == -1


async def test_the_peer_ends_during_the_handshake(loop, contexts, side):
    for way_to_end in ("close", "reset"):
        connector = Connector(loop, contexts, side, None)
        ours, peer = connector.pair()
        opening = asyncio.ensure_future(connector.open(ours, Recorder))
        await turns(3)
        if side == "client":
            await asyncio.to_thread(peer.sock.recv, 1)
        getattr(peer, way_to_end)()
        with pytest.raises(ConnectionResetError):
            await opening
        connector.clean()
        await turns(5)


async def test_no_common_version(loop, contexts, side):
    connector = Connector(loop, contexts, side, "1.2")
    ours, peer = connector.pair()
    connector.version = "1.3"
    opening = asyncio.ensure_future(connector.open(ours, Recorder))
    with pytest.raises((ssl.SSLError, EOFError, ConnectionError)):
        await peer.handshake()
    peer.sock.close()
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await opening
    connector.clean()
    await turns(5)


@pytest.mark.parametrize("name", ["ssl_handshake_timeout", "ssl_shutdown_timeout"])
@pytest.mark.parametrize("value", [0, -1])
async def test_timeouts_must_be_positive(loop, contexts, side, name, value):
    connector = Connector(loop, contexts, side, None)
    ours, _ = connector.pair()
    with pytest.raises(ValueError, match=f"{name} should be a positive number, got {value}"):
        await connector.open(ours, Recorder, **{name: value})
    ours.close()
    connector.clean()


async def test_default_context_of_a_client(loop, contexts):
    """ssl=True verifies, against the system's authorities."""
    connector = Connector(loop, contexts, "client", None)
    ours, peer = connector.pair()
    opening = asyncio.ensure_future(
        loop.create_connection(Recorder, sock=ours, ssl=True, server_hostname="localhost")
    )
    with pytest.raises((ssl.SSLError, EOFError, ConnectionError)):
        await peer.handshake()
    peer.close()
    with pytest.raises(ssl.SSLCertVerificationError):
        await opening
    await turns(5)
