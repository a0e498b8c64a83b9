"""What programs do rarely, or wrong: it costs them an error message, never the loop or somebody else's bytes."""

import asyncio
import contextlib
import contextvars
import gc
import io
import mmap
import os
import socket
import ssl
import threading

import pytest
from datagrams import LOCAL, Talker
from support import Recorder, digest, payload, settle, tcp_pair, turns
from test_buffered_protocol import Buffered
from tls_support import Contexts, TlsPeer


def serve(loop, factory, **options):
    return loop.create_server(factory, "127.0.0.1", 0, **options)


def address_of(server):
    return server.sockets[0].getsockname()


class Greeter:
    """Says something and cannot listen."""

    def connection_made(self, transport):
        self.transport = transport
        transport.write(b"hello")

    def connection_lost(self, exc):
        pass

    def eof_received(self):
        pass


async def test_a_factory_that_makes_no_protocol_costs_its_connection_only(loop, errors):
    """The descriptor is closed once: the next connection gets its number, and keeps it."""
    factories = iter([lambda: None, Recorder])
    protocols = []

    def factory():
        protocols.append(next(factories)())
        return protocols[-1]

    server = await serve(loop, factory)
    with socket.create_connection(address_of(server), timeout=5) as refused:
        refused.setblocking(False)
        assert await loop.sock_recv(refused, 1) == b""
        await settle(lambda: errors)
        assert errors.pop()["message"] == "Error on transport creation for incoming connection"
        with socket.create_connection(address_of(server), timeout=5) as accepted:
            await settle(lambda: len(protocols) == 2 and protocols[1].transport)
            gc.collect()
            accepted.sendall(b"still mine")
            await protocols[1].until_received(10)
            protocols[1].transport.close()
            await protocols[1].until_called("lost")
    server.close()


async def test_a_socket_stays_the_callers_when_its_protocol_is_none(loop):
    ours, theirs = tcp_pair()
    with ours, theirs:
        ours.setblocking(False)
        with pytest.raises(AttributeError):
            await loop.connect_accepted_socket(lambda: None, ours)
        gc.collect()
        if ours.fileno() >= 0:
            theirs.sendall(b"x")
            assert await loop.sock_recv(ours, 1) == b"x"


async def test_a_protocol_that_only_writes(loop, errors):
    protocols = []

    def factory():
        protocols.append(Greeter())
        return protocols[-1]

    server = await serve(loop, factory)
    with socket.create_connection(address_of(server), timeout=5) as client:
        client.setblocking(False)
        assert await loop.sock_recv(client, 5) == b"hello"
        await loop.sock_sendall(client, b"?")
        await settle(lambda: errors)
        assert isinstance(errors.pop()["exception"], AttributeError)
        assert await loop.sock_recv(client, 5) == b""
    server.close()


async def test_a_datagram_protocol_that_only_sends(loop, errors, endpoint, plain):
    class Sender:
        connection_made = connection_lost = error_received = lambda self, _argument: None

    transport, _ = await endpoint(Sender)
    plain.sendto(b"?", transport.get_extra_info("sockname"))
    await settle(lambda: errors)
    assert isinstance(errors.pop()["exception"], AttributeError)
    other, talker = await endpoint(Talker)
    plain.sendto(b"!", other.get_extra_info("sockname"))
    await settle(lambda: talker.datagrams)


async def test_the_rest_goes_to_the_next_buffered_protocol(loop, connect):
    """The first one takes a header and hands over; what has come with the header is not its any more."""

    class Header(Buffered):
        def __init__(self, successor):
            super().__init__(4)
            self.successor = successor

        def buffer_updated(self, nbytes):
            super().buffer_updated(nbytes)
            self.transport.set_protocol(self.successor)

    body = Buffered()
    _, header, _peer = await connect(lambda: Header(body), before=b"headBODY")
    await settle(lambda: body.recorder.received == 4)
    assert (header.recorder.data, body.recorder.data) == (b"head", b"BODY")


@pytest.mark.parametrize("room", [1000, 100_000, 1 << 20])
async def test_a_buffered_protocol_is_given_large_messages_in_its_own_buffer(loop, connect, room):
    """Whole, in order, and with changes of size on the way."""
    _, protocol, peer = await connect(lambda: Buffered(room))
    messages = [payload(size, seed) for seed, size in enumerate([3 << 20, 10, 100, 1 << 20, *([7] * 20), 2 << 20])]
    for message in messages:
        await peer.send(message)
    whole = b"".join(messages)
    await protocol.recorder.until_received(len(whole))
    assert digest(protocol.recorder.data) == digest(whole)


async def test_a_buffered_protocol_that_raises_during_large_messages(loop, connect, errors):
    class Limited(Buffered):
        def buffer_updated(self, nbytes):
            super().buffer_updated(nbytes)
            if self.recorder.received > 1 << 20:
                raise ValueError("too much")

    _, protocol, peer = await connect(Limited)
    sending = asyncio.ensure_future(peer.send(payload(4 << 20)))
    await protocol.recorder.until_called("lost")
    assert isinstance(errors.pop()["exception"], ValueError)
    with contextlib.suppress(OSError):
        await sending


async def test_order_is_kept_while_reads_change_between_large_and_small(loop, connect):
    """A syscall thread receives small reads, and the loop's thread large ones: never both at once."""
    _, protocol, peer = await connect()
    sizes = [256 * 1024, *([40] * 12), 64 * 1024, *([20_000] * 4), *([1] * 9)] * 40
    whole = payload(sum(sizes), 5)

    def send():
        at = 0
        for size in sizes:
            peer.sock.sendall(whole[at : at + size])
            at += size

    await asyncio.gather(asyncio.to_thread(send), protocol.until_received(len(whole)))
    assert digest(protocol.data) == digest(whole)


async def test_many_small_segments_while_the_protocol_is_busy(loop, connect):
    """A syscall thread receives one by one what comes meanwhile; nothing is lost when it is told to stop."""
    busy = threading.Event()

    class Busy(Recorder):
        def data_received(self, data):
            super().data_received(data)
            busy.wait(10)

    _, protocol, peer = await connect(Busy)
    whole = payload(3000, 3)

    def send():
        for at in range(len(whole)):
            peer.sock.sendall(whole[at : at + 1])
        busy.set()

    await asyncio.gather(asyncio.to_thread(send), protocol.until_received(len(whole)))
    assert protocol.data == whole


async def test_an_error_in_a_tls_protocol_that_was_paused_from_the_start(loop, errors):
    """What has come with the peer's handshake is delivered later, out of the usual way."""

    class Failing(Recorder):
        def data_received(self, data):
            super().data_received(data)
            raise ValueError("no")

    protocols = []

    def factory():
        protocols.append(Failing(pause_at_once=True))
        return protocols[-1]

    contexts = Contexts()
    server = await serve(loop, factory, ssl=contexts.server("1.3"))
    peer = TlsPeer(socket.create_connection(address_of(server)), contexts.client("1.3"), server_side=False)
    try:

        def shake_and_ask():
            while True:
                try:
                    peer.tls.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    peer.flush()
                    peer.incoming.write(peer.sock.recv(1 << 18))
            # One segment: the end of the handshake and the first request.
            peer.tls.write(b"request")
            peer.flush()

        await asyncio.to_thread(shake_and_ask)
        await settle(lambda: protocols and protocols[0].transport)
        await turns(5)
        protocols[0].transport.resume_reading()
        await protocols[0].until_called("lost")
        assert protocols[0].data == b"request"
        assert isinstance(errors.pop()["exception"], ValueError)
    finally:
        peer.close()
    server.close()


async def test_a_tls_server_that_its_own_factory_closes_still_speaks_tls(loop):
    contexts = Contexts()
    protocols = []

    def once():
        server.close()
        protocols.append(Recorder())
        return protocols[-1]

    server = await serve(loop, once, ssl=contexts.server())
    peer = TlsPeer(socket.create_connection(address_of(server)), contexts.client(), server_side=False)
    try:
        await peer.handshake()
        await settle(lambda: protocols and protocols[0].transport)
        protocols[0].transport.write(b"secret")
        assert await peer.recv(6) == b"secret"
        protocols[0].transport.abort()
        await protocols[0].until_called("lost")
    finally:
        peer.close()


async def test_sendfile_of_other_files_on_a_transport_that_is_paused_already(loop, connect):
    transport, protocol, peer = await connect()
    before = payload(8 << 20, 1)
    transport.write(before)
    assert "pause" in protocol.calls
    content = payload(3 << 20, 2)
    sending = asyncio.ensure_future(loop.sendfile(transport, io.BytesIO(content)))
    received = await peer.recv(len(before) + len(content))
    assert digest(received) == digest(before + content)
    assert await sending == len(content)
    await protocol.until(lambda: protocol.calls.count("resume") == 1)
    await turns(3)
    assert protocol.calls.count("resume") == 1


@pytest.mark.ours
def test_a_pipe_goes_on_when_another_thread_runs_the_loop(loop):
    """A kernel page is made anew then, and what waited in the old one waits again."""
    read_fd, write_fd = os.pipe()
    protocol = Recorder()
    transport, _ = loop.run_until_complete(loop.connect_write_pipe(lambda: protocol, os.fdopen(write_fd, "wb", 0)))

    def elsewhere():
        async def write():
            transport.write(b"from the other thread")
            await turns(5)

        loop.run_until_complete(write())

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert os.read(read_fd, 100) == b"from the other thread"
    assert protocol.calls == ["made"]
    transport.close()
    loop.run_until_complete(protocol.until_called("lost"))
    os.close(read_fd)


def test_a_callback_in_a_context_that_is_in_use_is_reported(loop, errors, caplog):
    """From Python 3.12 on the handler of exceptions runs in the same context: then the log has both."""
    context = contextvars.copy_context()

    async def main():
        loop.call_soon(print, context=context)
        await turns(3)
        return "still running"

    assert context.run(loop.run_until_complete, main()) == "still running"
    reported = repr([error["exception"] for error in errors]) + caplog.text
    errors.clear()
    assert "is already entered" in reported


def test_what_is_no_context_is_reported(loop, errors):
    async def main():
        loop.call_soon(print, context="none")
        await turns(3)
        return "still running"

    assert loop.run_until_complete(main()) == "still running"
    assert isinstance(errors.pop()["exception"], (TypeError, AttributeError))


def test_tls_goes_by_the_loops_clock(loop, monkeypatch):
    """With a clock of another era, handshakes are neither late at once nor never."""
    real = loop.time
    monkeypatch.setattr(loop, "time", lambda: real() + 1e6, raising=False)
    contexts = Contexts()

    async def shake():
        server = await serve(loop, Recorder, ssl=contexts.server())
        peer = TlsPeer(socket.create_connection(address_of(server)), contexts.client(), server_side=False)
        await peer.handshake()
        peer.close()
        server.close()

    async def keep_silent():
        server = await serve(loop, Recorder, ssl=contexts.server(), ssl_handshake_timeout=0.05)
        with socket.create_connection(address_of(server)) as mute:
            mute.setblocking(False)
            assert await loop.sock_recv(mute, 1) == b""
        server.close()
        await turns(5)

    loop.run_until_complete(asyncio.wait_for(shake(), 20))
    loop.run_until_complete(asyncio.wait_for(keep_silent(), 20))
    loop.run_until_complete(turns(5))


@pytest.mark.ours
def test_timers_that_are_set_before_the_first_run_go_by_the_clock_of_the_class(way):
    import flexsc_loop

    class Elsewhen(flexsc_loop.Loop):
        def time(self):
            return super().time() + 1e6

    loop = Elsewhen(pages=way.pages, threads=way.threads)
    try:
        done = loop.create_future()
        handle = loop.call_later(0.01, done.set_result, None)
        assert handle.when() > 1e6
        loop.run_until_complete(asyncio.wait_for(done, 5))
    finally:
        loop.close()


async def test_a_receive_of_four_gigabytes_is_no_end_of_the_stream(loop):
    ours, theirs = tcp_pair()
    with ours, theirs, mmap.mmap(-1, 1 << 32) as room:
        ours.setblocking(False)
        theirs.sendall(b"four")
        assert await loop.sock_recv_into(ours, room) == 4
        assert room[:4] == b"four"


async def test_what_a_cancelled_receive_has_brought_goes_to_the_transport(loop):
    """Whoever takes over the socket gets all that has come, from the first byte."""
    for size in range(1, 30):
        ours, theirs = tcp_pair()
        ours.setblocking(False)
        with theirs:
            receiving = asyncio.ensure_future(loop.sock_recv(ours, 1))
            await asyncio.sleep(0)
            theirs.sendall(b"x" * size)
            if size % 2:
                await turns(1)
            receiving.cancel()
            done, _ = await asyncio.wait([receiving])
            seen = b"" if receiving.cancelled() else done.pop().result()
            transport, protocol = await loop.create_connection(Recorder, sock=ours)
            await protocol.until_received(size - len(seen))
            assert seen + protocol.data == b"x" * size
            transport.abort()
            await protocol.until_called("lost")


async def test_timers_set_while_cancelled_ones_are_cleared_away(loop):
    """A context that goes with its timer may run code, and that may set timers."""
    later = []

    class Sets:
        def __del__(self):
            later.append(loop.call_later(0, done.append, len(later)))

    done = []
    variable = contextvars.ContextVar("variable")
    handles = []
    for _ in range(300):
        context = contextvars.Context()
        context.run(variable.set, Sets())
        handles.append(loop.call_later(60, print, context=context))
        del context
    kept = loop.call_later(60, print)
    for handle in handles:
        handle.cancel()
    del handle
    handles.clear()
    await settle(lambda: len(done) == 300)
    kept.cancel()


async def test_a_socket_has_one_transport(loop):
    ours, theirs = tcp_pair()
    transport, protocol = await loop.create_connection(Recorder, sock=ours)
    for again in (
        loop.create_connection(Recorder, sock=ours),
        loop.create_connection(Recorder, sock=ours, ssl=ssl.create_default_context(), server_hostname="x"),
        loop.connect_accepted_socket(Recorder, ours),
    ):
        with pytest.raises(RuntimeError, match="is used by transport"):
            await again
    theirs.send(b"x")
    await protocol.until_received(1)
    transport.close()
    await protocol.until_called("lost")
    assert theirs.recv(1) == b""
    theirs.close()


async def test_a_datagram_socket_has_one_transport(loop):
    ours = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    ours.bind(LOCAL)
    transport, protocol = await loop.create_datagram_endpoint(Talker, sock=ours)
    with pytest.raises(RuntimeError, match="is used by transport"):
        await loop.create_datagram_endpoint(Talker, sock=ours)
    transport.sendto(b"x", transport.get_extra_info("sockname"))
    await protocol.until_received(1)
    transport.close()
    await protocol.until_called("lost")


async def test_the_descriptor_of_a_transport_that_closes_is_nobodys(loop, connect):
    transport, protocol, _ = await connect()
    fd = transport.get_extra_info("socket").fileno()
    with pytest.raises(RuntimeError, match="is used by transport"):
        loop.remove_reader(fd)
    transport.close()
    assert not loop.remove_reader(fd) and not loop.remove_writer(fd)
    loop.add_writer(fd, lambda: None)
    assert loop.remove_writer(fd)
    await protocol.until_called("lost")


def test_a_transport_that_outlives_its_loop(new_loop):
    loop = new_loop()
    ours, theirs = tcp_pair()
    transport, protocol = loop.run_until_complete(loop.create_connection(Recorder, sock=ours))
    loop.close()
    transport.write(b"last ")
    transport.writelines([b"wo", b"rds"])
    with contextlib.suppress(RuntimeError):  # asyncio says that the loop is closed
        transport.close()
    assert theirs.recv(100) == b"last words"
    with pytest.warns(ResourceWarning):
        del transport, protocol, ours
        gc.collect()
    assert theirs.recv(100) == b""
    theirs.close()


@pytest.mark.ours  # asyncio's own can't be ended any more then
@pytest.mark.parametrize("how", ["close", "abort"])
async def test_to_close_from_another_thread_is_refused_in_debug_mode(loop, connect, pipe, endpoint, how):
    stream, _, _ = await connect()
    datagrams, _ = await endpoint()
    write_pipe, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, pipe[1])
    loop.set_debug(True)
    for transport in (stream, datagrams, write_pipe):
        with pytest.raises(RuntimeError, match="Non-thread-safe"):
            await asyncio.to_thread(getattr(transport, how))
    loop.set_debug(False)
    for transport in (stream, datagrams, write_pipe):
        transport.abort()
