"""What datagram endpoints promise about time, as in asyncio: when a datagram leaves, which callback comes first."""

import asyncio
import gc
import socket
import weakref

import pytest
from datagrams import LOCAL, TOO_LARGE, Talker, udp_socket
from support import Leaving, run_again, settle, turns


@pytest.fixture
def peer():
    with udp_socket() as sock:
        sock.setblocking(False)
        yield sock


def to(peer, connected):
    return {"remote_addr": peer.getsockname()} if connected else {"local_addr": LOCAL}


# -- sending


@pytest.mark.parametrize("connected", [False, True])
async def test_the_first_datagrams_of_a_turn_leave_at_once(way, loop, endpoint, peer, connected):
    """Within the callback that sends them: it may go on to block."""
    transport, _ = await endpoint(**to(peer, connected))
    address = None if connected else peer.getsockname()
    await turns(5)
    for number in range(3):
        transport.sendto(b"%d" % number, address)
        if way.threads in (None, "off"):
            assert peer.recv(10) == b"%d" % number
    assert transport.get_write_buffer_size() == 0 or way.threads not in (None, "off")


@pytest.mark.ours
@pytest.mark.usefixtures("gathering")
async def test_a_burst_leaves_in_few_calls_and_in_order(way, loop, endpoint, peer):
    by_thread = way.threads not in (None, "off")  # the loop's own calls then depend on how long that takes
    transport, _ = await endpoint(remote_addr=peer.getsockname())
    await turns(5)
    before = loop.stats()["syscalls"]
    for number in range(100):
        transport.sendto(b"%d" % number)
    await settle(lambda: transport.get_write_buffer_size() == 0)
    calls = loop.stats()["syscalls"] - before
    assert [peer.recv(10) for _ in range(100)] == [b"%d" % number for number in range(100)]
    # Errors of a connected socket are told once, so each datagram has a call of its own.
    assert calls < 130 or by_thread

    other, _ = await endpoint(local_addr=LOCAL)
    before = loop.stats()["syscalls"]
    for number in range(100):
        other.sendto(b"%d" % number, peer.getsockname())
    await settle(lambda: other.get_write_buffer_size() == 0)
    calls = loop.stats()["syscalls"] - before
    assert [peer.recv(10) for _ in range(100)] == [b"%d" % number for number in range(100)]
    assert calls < 30 or by_thread


def test_sending_outside_of_a_run(way, new_loop, peer):
    loop = new_loop()
    transport, _ = loop.run_until_complete(loop.create_datagram_endpoint(Talker, local_addr=LOCAL))
    for number in range(10):
        transport.sendto(b"%d" % number, peer.getsockname())
    if way.threads not in (None, "off"):
        loop.run_until_complete(settle(lambda: transport.get_write_buffer_size() == 0))
    assert [peer.recv(10) for _ in range(10)] == [b"%d" % number for number in range(10)]
    transport.abort()
    loop.run_until_complete(turns(5))


@pytest.mark.parametrize("end", ["close", "abort"])
async def test_an_unconnected_endpoint_sends_until_it_is_lost(loop, endpoint, peer, end):
    """As asyncio's, whose sockets are still open then; a connected one does not."""
    transport, protocol = await endpoint(local_addr=LOCAL)
    connected, other = await endpoint(remote_addr=peer.getsockname())
    getattr(transport, end)()
    getattr(connected, end)()
    transport.sendto(b"goodbye", peer.getsockname())
    connected.sendto(b"unheard")
    await settle(lambda: "lost" in protocol.calls and "lost" in other.calls)
    assert peer.recv(100) == b"goodbye"
    with pytest.raises(BlockingIOError):
        peer.recv(100)


@pytest.mark.only(threads="own")
async def test_errors_are_told_within_the_call(loop, endpoint, peer):
    """A syscall thread sends later."""
    transport, protocol = await endpoint(local_addr=LOCAL)
    transport.sendto(b"x" * TOO_LARGE, peer.getsockname())
    assert len(protocol.errors) == 1
    transport.sendto(b"x", ("255.255.255.255", 9))
    assert [type(error) for error in protocol.errors] == [OSError, PermissionError]
    transport.sendto(b"fine", peer.getsockname())
    assert peer.recv(10) == b"fine"


async def test_an_error_of_error_received_is_reported(loop, endpoint, peer, errors):
    class Failing(Talker):
        def error_received(self, exc):
            super().error_received(exc)
            raise ZeroDivisionError

    transport, protocol = await endpoint(Failing, local_addr=LOCAL)
    try:
        transport.sendto(b"x" * TOO_LARGE, peer.getsockname())
    except ZeroDivisionError:
        pass  # asyncio lets it through
    await settle(lambda: protocol.errors)
    await turns(5)
    assert all(isinstance(each["exception"], ZeroDivisionError) for each in errors)
    errors.clear()


async def test_transports_take_attributes(loop, endpoint, peer):
    transport, _ = await endpoint(local_addr=LOCAL)
    sent = []
    transport.sendto = lambda *what: sent.append(what)
    transport.my_own = 5
    transport.sendto(b"seen", peer.getsockname())
    assert sent == [(b"seen", peer.getsockname())] and transport.my_own == 5
    del transport.sendto
    transport.sendto(b"sent", peer.getsockname())
    await settle(lambda: transport.get_write_buffer_size() == 0)
    assert peer.recv(10) == b"sent"
    assert weakref.ref(transport)() is transport
    gc.collect()


# -- the order of callbacks


class Noting(asyncio.DatagramProtocol):
    """Writes down each call, and has a mark called soon in it."""

    def __init__(self):
        self.calls = []

    def note(self, name):
        self.calls.append(name)
        asyncio.get_running_loop().call_soon(self.calls.append, f"after {name}")

    def connection_made(self, transport):
        self.note("made")

    def datagram_received(self, data, addr):
        self.note(data.decode())

    def connection_lost(self, exc):
        self.note("lost")


async def test_whoever_opens_goes_on_before_anything_is_delivered(loop, endpoint):
    server, _ = await endpoint(local_addr=LOCAL)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(LOCAL)
        sock.setblocking(False)
        server.sendto(b"early", sock.getsockname())
        await settle(lambda: server.get_write_buffer_size() == 0)
        transport, protocol = await endpoint(Noting, sock=sock.dup())
    assert protocol.calls[0] == "made" and "early" not in protocol.calls
    transport.pause_reading()
    await turns(10)
    assert "early" not in protocol.calls
    transport.resume_reading()
    await settle(lambda: "early" in protocol.calls)


@pytest.mark.parametrize("end", ["close", "abort"])
async def test_connection_lost_stands_in_line(way, loop, endpoint, end):
    transport, protocol = await endpoint(Noting, local_addr=LOCAL)
    await turns(5)
    protocol.calls.clear()
    loop.call_soon(protocol.calls.append, "before")
    getattr(transport, end)()
    loop.call_soon(protocol.calls.append, "behind")
    assert protocol.calls == []
    await settle(lambda: "after lost" in protocol.calls)
    assert protocol.calls[0] == "before"
    if way.threads in (None, "off"):
        assert protocol.calls == ["before", "lost", "behind", "after lost"]


async def test_connection_lost_comes_behind_what_a_delivery_has_called_soon(loop, endpoint, peer):
    class Closing(Noting):
        def datagram_received(self, data, addr):
            super().datagram_received(data, addr)
            transport.close()

    transport, protocol = await endpoint(Closing, local_addr=LOCAL)
    for _ in range(3):
        peer.sendto(b"data", transport.get_extra_info("sockname"))
    await settle(lambda: "after lost" in protocol.calls)
    assert protocol.calls == ["made", "after made", "data", "after data", "lost", "after lost"]


# -- what leaves the loop


class Leaver(Leaving, Talker):
    """Ends the program once."""


@pytest.mark.parametrize("exit", [SystemExit(3), KeyboardInterrupt()], ids=["exit", "interrupt"])
@pytest.mark.parametrize("name", ["made", "data", "error", "lost"])
@pytest.mark.ours  # asyncio's loop does not tell the waiter
def test_an_exit_leaves_an_endpoint_that_goes_on(new_loop, peer, name, exit):
    loop = new_loop()
    protocol = Leaver(name, exit)

    async def talk():
        transport, _ = await loop.create_datagram_endpoint(lambda: protocol, local_addr=LOCAL)
        for number in range(6):
            peer.sendto(b"%d" % number, transport.get_extra_info("sockname"))
        await protocol.until_received(6)
        loop.call_soon(transport.sendto, b"x" * TOO_LARGE, peer.getsockname())
        await protocol.until_called("error")
        transport.sendto(b"fine", peer.getsockname())
        transport.close()
        await protocol.until_called("lost")

    assert run_again(loop, talk(), exit) == 1
    assert protocol.payloads == [b"%d" % number for number in range(6)]
    assert peer.recv(10) == b"fine"


class Asked(asyncio.DatagramProtocol):
    """Keeps what is answered for whoever waits, and drops the rest."""

    def __init__(self):
        self.waiter = None
        self.dropped = []

    def datagram_received(self, data, addr):
        if self.waiter is None or self.waiter.done():
            self.dropped.append(data)
        else:
            self.waiter.set_result(data)

    def ask(self):
        self.waiter = asyncio.get_running_loop().create_future()
        return self.waiter


async def test_a_task_that_waits_for_a_datagram_goes_on_before_the_next_one(loop, endpoint, plain):
    transport, protocol = await endpoint(Asked)
    waiter = protocol.ask()
    await turns(5)
    for number in range(200):
        plain.sendto(b"%d" % number, transport.get_extra_info("sockname"))
    for number in range(200):
        assert await waiter == b"%d" % number
        waiter = protocol.ask()
    assert protocol.dropped == []


async def test_what_a_datagram_has_called_soon_runs_before_the_next_one(loop, endpoint, plain):
    class Calling(Talker):
        def datagram_received(self, data, addr):
            super().datagram_received(data, addr)
            loop.call_soon(self.calls.append, "soon")

    transport, protocol = await endpoint(Calling)
    for number in range(20):
        plain.sendto(b"%d" % number, transport.get_extra_info("sockname"))
    await protocol.until_received(20)
    await turns(2)
    assert protocol.calls == ["made"] + 20 * ["data", "soon"]
    assert protocol.payloads == [b"%d" % number for number in range(20)]
