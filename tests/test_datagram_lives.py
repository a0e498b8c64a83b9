"""Datagram endpoints: errors, flow control, how they end, and what goes on around them."""

import asyncio
import contextvars
import errno
import gc
import socket
import sys
import threading
import warnings
import weakref

import pytest
from datagrams import LOCAL, TOO_LARGE, EchoTalker, Talker, name_of, udp_socket
from support import check_program, settle, turns


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "socket")


# -- errors


async def test_connection_refused(loop, endpoint):
    """An error of the network is told and ends nothing."""
    with udp_socket() as plain:
        address = plain.getsockname()
    transport, protocol = await endpoint(remote_addr=address)
    transport.sendto(b"x")
    await protocol.until(lambda: protocol.errors)
    assert isinstance(protocol.errors[0], ConnectionRefusedError)
    assert not transport.is_closing()
    with udp_socket(address=address) as plain:
        transport.sendto(b"y")
        assert await asyncio.to_thread(plain.recv, 10) == b"y"
        plain.sendto(b"z", name_of(transport))
        await protocol.until_received(1)
    for _ in range(5):
        before = len(protocol.errors)
        transport.sendto(b"x")
        await protocol.until(lambda before=before: len(protocol.errors) > before)
    assert {type(error) for error in protocol.errors} == {ConnectionRefusedError}


async def test_an_error_that_has_come_is_not_told_after_close(loop, endpoint):
    """As little as a datagram would be."""
    with udp_socket() as plain:
        address = plain.getsockname()
    transport, protocol = await endpoint(remote_addr=address)
    transport.sendto(b"x")
    await turns(1)  # the error has come, perhaps; its turn to be told is the next one
    transport.close()
    await protocol.until_called("lost")
    assert protocol.calls == ["made", "lost"]


async def test_an_error_that_comes_while_paused_is_told_when_resumed(loop, endpoint):
    with udp_socket() as plain:
        address = plain.getsockname()
    transport, protocol = await endpoint(remote_addr=address)
    transport.pause_reading()
    transport.sendto(b"x")
    await turns(20)
    assert protocol.calls == ["made"]
    transport.resume_reading()
    await protocol.until_called("error")
    assert [type(error) for error in protocol.errors] == [ConnectionRefusedError]


async def test_a_datagram_too_large_to_send(loop, endpoint, plain):
    """It is reported; those before and after it go out."""
    transport, protocol = await endpoint()
    for data in (b"before", bytes(TOO_LARGE), b"after"):
        transport.sendto(data, plain.getsockname())
    await protocol.until(lambda: protocol.errors)
    assert protocol.errors[0].errno == errno.EMSGSIZE
    assert await asyncio.to_thread(plain.recv, 10) == b"before"
    assert await asyncio.to_thread(plain.recv, 10) == b"after"
    assert transport.get_write_buffer_size() == 0


async def test_many_errors_among_good_ones(loop, endpoint, plain):
    transport, protocol = await endpoint()
    for i in range(100):
        transport.sendto(b"%d" % i, plain.getsockname())
        transport.sendto(bytes(TOO_LARGE), plain.getsockname())
    for i in range(100):
        assert await asyncio.to_thread(plain.recv, 10) == b"%d" % i
    await protocol.until(lambda: len(protocol.errors) == 100)


@pytest.mark.parametrize("where", ["made", "data", "error"])
async def test_exceptions_of_the_protocol(loop, endpoint, plain, errors, where):
    """They go to the exception handler, and the endpoint goes on."""

    class Broken(Talker):
        def connection_made(self, transport):
            super().connection_made(transport)
            if where == "made":
                raise ZeroDivisionError

        def datagram_received(self, data, addr):
            super().datagram_received(data, addr)
            if where == "data":
                raise ZeroDivisionError

        def error_received(self, exc):
            super().error_received(exc)
            raise ZeroDivisionError

    transport, protocol = await endpoint(Broken, local_addr=LOCAL, remote_addr=plain.getsockname())
    if where == "error":
        address = plain.getsockname()
        plain.close()
        for number in range(3):
            transport.sendto(b"x")
            await protocol.until(lambda number=number: len(protocol.errors) > number)
        plain = udp_socket(address=address)
    else:
        for _ in range(3):
            plain.sendto(b"x", name_of(transport))
        await protocol.until_received(3)
    await turns()
    assert {type(context["exception"]) for context in errors} == {ZeroDivisionError}
    assert len(errors) == {"made": 1, "data": 3, "error": 3}[where]
    errors.clear()
    with plain:
        before = len(protocol.datagrams)
        plain.sendto(b"more", name_of(transport))
        await protocol.until_received(before + 1)
        errors.clear()
    assert not transport.is_closing()


# -- flow control


@pytest.fixture
def full(endpoint, path):
    """An endpoint whose receiver does not read: (transport, protocol, the receiver)."""
    receivers = []

    async def make(**limits):
        plain = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        plain.bind(path)
        plain.settimeout(20)
        receivers.append(plain)
        transport, protocol = await endpoint(remote_addr=path, family=socket.AF_UNIX)
        transport.set_write_buffer_limits(**limits)
        while transport.get_write_buffer_size() == 0:
            transport.sendto(b"filler")
            await turns(4)
        return transport, protocol, plain

    yield make
    for plain in receivers:
        plain.close()


async def test_pause_and_resume(loop, full):
    transport, protocol, plain = await full(high=1000, low=500)
    header = 8 if sys.version_info >= (3, 13) else 0
    assert transport.get_write_buffer_size() == len(b"filler") + header
    transport.sendto(bytes(900 - 6 - 2 * header))
    assert transport.get_write_buffer_size() == 900
    assert "pause" not in protocol.calls
    transport.sendto(bytes(101 - header))
    assert transport.get_write_buffer_size() == 1001
    assert protocol.calls[-1] == "pause"
    await turns(5)
    assert "resume" not in protocol.calls

    def drain(count):
        for _ in range(count):
            plain.recv(2000)

    await asyncio.to_thread(drain, 3)
    await protocol.until_called("resume")
    assert transport.get_write_buffer_size() <= 500
    assert protocol.calls.count("pause") == protocol.calls.count("resume") == 1


async def test_write_buffer_limits(loop, endpoint):
    transport, _ = await endpoint()
    assert transport.get_write_buffer_limits() == (16 * 1024, 64 * 1024)
    transport.set_write_buffer_limits(high=100)
    assert transport.get_write_buffer_limits() == (25, 100)
    transport.set_write_buffer_limits(low=100)
    assert transport.get_write_buffer_limits() == (100, 400)
    transport.set_write_buffer_limits(high=0)
    assert transport.get_write_buffer_limits() == (0, 0)
    for wrong in ({"high": 1, "low": 2}, {"high": -1}):
        with pytest.raises(ValueError, match="high"):
            transport.set_write_buffer_limits(**wrong)


async def test_a_free_socket_never_pauses(loop, endpoint, plain):
    """Only what the kernel does not take counts."""
    transport, protocol = await endpoint(remote_addr=plain.getsockname())
    transport.set_write_buffer_limits(high=100_000)
    for _ in range(30):
        transport.sendto(bytes(3000))
    await turns(3)
    assert "pause" not in protocol.calls
    for _ in range(30):
        await asyncio.to_thread(plain.recv, 5000)
    await settle(lambda: transport.get_write_buffer_size() == 0)


async def test_pause_writing_that_fails(loop, full, errors):
    transport, protocol, _ = await full(high=50)

    def fail():
        raise ZeroDivisionError

    protocol.pause_writing = fail
    transport.sendto(bytes(100))
    assert [type(context["exception"]) for context in errors] == [ZeroDivisionError]
    errors.clear()


async def test_pause_reading(loop, endpoint, plain):
    transport, protocol = await endpoint()
    assert transport.is_reading()
    transport.pause_reading()
    transport.pause_reading()
    assert not transport.is_reading()
    for i in range(100):
        plain.sendto(b"%d" % i, name_of(transport))
    await asyncio.sleep(0.02)
    assert protocol.payloads == []
    transport.resume_reading()
    await protocol.until_received(100)
    assert protocol.payloads == [b"%d" % i for i in range(100)]


async def test_pause_reading_in_a_callback(loop, endpoint, plain):
    class OneByOne(Talker):
        def datagram_received(self, data, addr):
            assert self.transport.is_reading()
            super().datagram_received(data, addr)
            self.transport.pause_reading()

    transport, protocol = await endpoint(OneByOne)
    for i in range(50):
        plain.sendto(b"%d" % i, name_of(transport))
    for i in range(50):
        await protocol.until_received(i + 1)
        await turns(2)
        assert len(protocol.datagrams) == i + 1
        transport.resume_reading()
    assert protocol.payloads == [b"%d" % i for i in range(50)]


# -- ending


async def test_close(loop, endpoint):
    transport, protocol = await endpoint()
    transport.close()
    assert transport.is_closing()
    assert protocol.calls == ["made"]
    await protocol.until_called("lost")
    assert protocol.exc is None
    transport.close()
    await turns(5)
    assert protocol.calls == ["made", "lost"]


async def test_close_sends_what_is_queued(loop, full):
    transport, protocol, plain = await full()
    for i in range(20):
        transport.sendto(b"%d" % i)
    transport.close()
    await turns(5)
    assert "lost" not in protocol.calls

    def read():
        while (data := plain.recv(100)) == b"filler":
            pass
        return [data] + [plain.recv(100) for _ in range(19)]

    assert await asyncio.to_thread(read) == [b"%d" % i for i in range(20)]
    await protocol.until_called("lost")
    assert protocol.exc is None


async def test_send_and_close_in_the_same_turn(loop, endpoint, plain):
    transport, protocol = await endpoint()
    for i in range(10):
        transport.sendto(b"%d" % i, plain.getsockname())
    transport.close()
    assert [await asyncio.to_thread(plain.recv, 10) for _ in range(10)] == [b"%d" % i for i in range(10)]
    await protocol.until_called("lost")


@pytest.mark.parametrize("close_first", [False, True])
async def test_abort_drops_what_is_queued(loop, full, close_first):
    transport, protocol, plain = await full()
    transport.set_write_buffer_limits(high=0)
    transport.sendto(b"dropped")
    if close_first:
        transport.close()
    transport.abort()
    transport.abort()
    await protocol.until_called("lost")
    assert protocol.exc is None
    assert protocol.calls[-2:] == ["pause", "lost"]
    plain.setblocking(False)
    seen = set()
    with pytest.raises(BlockingIOError):
        while True:
            seen.add(plain.recv(100))
    assert seen == {b"filler"}


@pytest.mark.parametrize("how", ["close", "abort"])
@pytest.mark.parametrize("where", ["made", "data", "error"])
async def test_ending_inside_a_callback(loop, endpoint, plain, how, where):
    class Ends(Talker):
        def _note(self, name):
            super()._note(name)
            if name == where:
                getattr(self.transport, how)()

    transport, protocol = await endpoint(Ends)
    if where == "data":
        for _ in range(20):
            plain.sendto(b"x", name_of(transport))
    elif where == "error":
        transport.sendto(bytes(TOO_LARGE), plain.getsockname())
    await protocol.until_called("lost")
    await turns(3)
    assert protocol.calls == ["made", *([where] if where != "made" else []), "lost"]
    assert protocol.exc is None


async def test_sending_after_the_end(loop, endpoint, plain, caplog):
    transport, protocol = await endpoint(remote_addr=plain.getsockname())
    transport.abort()
    for _ in range(10):
        transport.sendto(b"x")
    await protocol.until_called("lost")
    assert caplog.text.count("socket.send() raised exception.") == 10 - 5 + 1
    plain.setblocking(False)
    with pytest.raises(BlockingIOError):
        plain.recv(10)


async def test_set_protocol(loop, endpoint, plain):
    transport, protocol = await endpoint()
    assert transport.get_protocol() is protocol
    other = Talker()
    transport.set_protocol(other)
    assert transport.get_protocol() is other
    plain.sendto(b"x", name_of(transport))
    await other.until_received(1)
    transport.close()
    await other.until_called("lost")
    assert protocol.calls == ["made"]


async def test_the_address_is_free_after_connection_lost(loop, endpoint):
    transport, protocol = await endpoint()
    for _ in range(30):
        address = name_of(transport)
        transport.close()
        await protocol.until_called("lost")
        transport, protocol = await endpoint(local_addr=address)


async def test_closed_transports_and_protocols_are_freed(loop, endpoint, plain):
    refs = []
    for _ in range(20):
        transport, protocol = await loop.create_datagram_endpoint(EchoTalker, local_addr=LOCAL)
        plain.sendto(b"x", name_of(transport))
        await protocol.until_received(1)
        transport.close()
        await protocol.until_called("lost")
        refs += [weakref.ref(transport), weakref.ref(protocol)]
        del transport, protocol
    await turns(5)
    gc.collect()
    assert [ref() for ref in refs if ref() is not None] == []


async def test_a_cancelled_creation_leaves_nothing(loop):
    protocols = []

    def factory():
        protocols.append(Talker())
        return protocols[-1]

    for i in range(20):
        task = asyncio.ensure_future(loop.create_datagram_endpoint(factory, local_addr=LOCAL))
        await turns(i % 5)
        task.cancel()
        try:
            transport, _ = await task
        except asyncio.CancelledError:
            continue
        transport.close()
    await settle(lambda: all(protocol.calls in ([], ["made", "lost"]) for protocol in protocols))


async def test_repr(loop, endpoint):
    transport, protocol = await endpoint()
    await turns()
    fd = transport.get_extra_info("socket").fileno()
    assert "DatagramTransport" in repr(transport)
    assert f"fd={fd}" in repr(transport)
    assert "read=polling" in repr(transport)
    assert "bufsize=0" in repr(transport)
    transport.close()
    assert "closing" in repr(transport)
    await protocol.until_called("lost")
    assert "closed" in repr(transport)


def test_an_unclosed_transport_warns(way, new_loop):
    loop = new_loop()
    transport, _ = loop.run_until_complete(loop.create_datagram_endpoint(Talker, local_addr=LOCAL))
    loop.close()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del transport, _
        gc.collect()
    assert any(issubclass(warning.category, ResourceWarning) and "unclosed transport" in str(warning.message)
               for warning in caught)


def test_the_loop_closes_with_endpoints_open(new_loop, plain):
    """With datagrams on their way in and out, nothing crashes and no descriptor stays."""
    loop = new_loop()

    async def main():
        transport, protocol = await loop.create_datagram_endpoint(EchoTalker, local_addr=LOCAL)
        for _ in range(30):
            plain.sendto(b"x", name_of(transport))
        await protocol.until_received(1)
        transport.sendto(b"last", plain.getsockname())
        return transport

    transport = loop.run_until_complete(main())
    loop.close()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        del transport
        gc.collect()
    seen = []
    while b"last" not in seen:
        seen.append(plain.recv(100))


# -- surroundings


async def test_context(loop, endpoint, plain):
    variable = contextvars.ContextVar("variable", default="outside")
    seen = []

    class Looks(Talker):
        def _note(self, name):
            seen.append((name, variable.get()))
            super()._note(name)

    variable.set("inside")
    transport, protocol = await endpoint(Looks)
    variable.set("changed")
    plain.sendto(b"x", name_of(transport))
    await protocol.until_received(1)
    assert seen == [("made", "inside"), ("data", "inside")]


def test_debug_mode(new_loop, plain):
    loop = new_loop()
    loop.set_debug(True)

    async def main():
        transport, protocol = await loop.create_datagram_endpoint(EchoTalker, local_addr=LOCAL)
        plain.sendto(b"x", name_of(transport))
        await protocol.until_received(1)
        assert (await asyncio.to_thread(plain.recv, 10)) == b"x"
        transport.close()
        await protocol.until_called("lost")

    loop.run_until_complete(main())


def test_endpoints_move_with_their_loop(new_loop, plain):
    """Run in one thread, then in another: nothing that came or was sent meanwhile is lost."""
    loop = new_loop()
    transport, protocol = loop.run_until_complete(loop.create_datagram_endpoint(EchoTalker, local_addr=LOCAL))
    failures = []

    def visit(first):
        try:
            loop.run_until_complete(protocol.until_received(first + 20))
        except BaseException as exc:
            failures.append(exc)

    for number in range(4):
        for i in range(20):
            plain.sendto(b"%d" % (20 * number + i), name_of(transport))
        thread = threading.Thread(target=visit, args=(20 * number,))
        thread.start()
        thread.join()
        assert not failures
    loop.run_until_complete(turns())
    expected = [b"%d" % i for i in range(80)]
    assert protocol.payloads == expected
    assert [plain.recv(10) for _ in range(80)] == expected
    transport.close()
    loop.run_until_complete(protocol.until_called("lost"))


@pytest.mark.ours
def test_a_forked_child_leaves_the_parents_endpoint_alone(way):
    check_program(
        way,
        """
        import asyncio
        class Echo(asyncio.DatagramProtocol):
            def connection_made(self, transport):
                self.transport = transport
            def datagram_received(self, data, addr):
                self.transport.sendto(data, addr)

        def ask(address):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.settimeout(10)
                sock.sendto(b"x", address)
                return sock

        async def main():
            loop = asyncio.get_running_loop()
            transport, _ = await loop.create_datagram_endpoint(Echo, local_addr=("127.0.0.1", 0))
            address = transport.get_extra_info("sockname")
            pid = os.fork()
            if pid == 0:
                asyncio._set_running_loop(None)
                try:
                    transport.sendto(b"x", address)
                    transport.abort()
                except RuntimeError:
                    pass
                os._exit(0)
            assert code_of(pid) == 0
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.settimeout(10)
                sock.sendto(b"hello", address)
                assert await asyncio.to_thread(sock.recv, 10) == b"hello"
            transport.close()
            await asyncio.sleep(0.01)

        run(main())
        """.replace("\n        ", "\n"),
    )


@pytest.mark.ours
@pytest.mark.usefixtures("gathering")
async def test_counters(way, loop, endpoint, plain):
    """To a busy loop the datagrams of a turn cost one call on its own thread, and none with a syscall thread."""
    transport, _protocol = await endpoint()
    await turns(5)
    before = loop.stats()
    for _ in range(64):
        transport.sendto(b"x", plain.getsockname())
    await settle(lambda: transport.get_write_buffer_size() == 0)
    after = loop.stats()
    if way.threads == "off":
        assert after["syscalls"] - before["syscalls"] < 30
        assert after["submitted"] - before["submitted"] < 10
    else:
        assert after["submitted"] - before["submitted"] >= 64
