"""add_reader and add_writer: level-triggered watchers of descriptors."""

import asyncio
import os
import socket
from pathlib import Path

import pytest
from support import settle, tcp_pair, turns


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        yield ours, theirs


@pytest.fixture
def pipe():
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    os.set_blocking(writing, False)
    yield reading, writing
    for fd in (reading, writing):
        try:
            os.close(fd)
        except OSError:
            continue


def fill(sock):
    """Send until the kernel takes no more."""
    total = 0
    while True:
        try:
            total += sock.send(b"x" * 65536)
        except BlockingIOError:
            return total


async def test_reader_of_a_socket(loop, pair):
    ours, theirs = pair
    seen = asyncio.Queue()
    loop.add_reader(ours, lambda: seen.put_nowait(ours.recv(100)))
    theirs.send(b"hello")
    assert await seen.get() == b"hello"
    theirs.send(b"again")
    assert await seen.get() == b"again"
    assert loop.remove_reader(ours) is True
    assert loop.remove_reader(ours) is False
    theirs.send(b"unseen")
    await asyncio.sleep(0.01)
    assert seen.empty()
    assert ours.recv(100) == b"unseen"


async def test_reader_of_a_pipe(loop, pipe):
    reading, writing = pipe
    seen = asyncio.Queue()
    loop.add_reader(reading, lambda *args: seen.put_nowait((args, os.read(reading, 100))), 1, "two")
    os.write(writing, b"hello")
    assert await seen.get() == ((1, "two"), b"hello")
    os.close(writing)
    assert await seen.get() == ((1, "two"), b"")
    assert loop.remove_reader(reading)


async def test_level_triggered(loop, pair):
    """As long as there is something to read, the callback comes every turn."""
    ours, theirs = pair
    data = b""
    done = asyncio.Event()

    def one_byte():
        nonlocal data
        data += ours.recv(1)
        if len(data) == 100:
            done.set()

    loop.add_reader(ours, one_byte)
    theirs.send(bytes(range(100)))
    await done.wait()
    assert data == bytes(range(100))
    calls = 0

    def ignore():
        nonlocal calls
        calls += 1

    loop.add_reader(ours, ignore)
    theirs.send(b"x")
    while calls < 10:
        await asyncio.sleep(0)
    loop.remove_reader(ours)
    seen = calls
    await turns(5)
    assert calls == seen


async def test_a_watcher_that_does_not_read_does_not_starve_the_rest(loop, pair):
    ours, theirs = pair
    theirs.send(b"x")
    loop.add_reader(ours, int)
    await asyncio.sleep(0.01)
    assert await loop.run_in_executor(None, int) == 0
    loop.remove_reader(ours)


async def test_writer(loop, pair):
    ours, theirs = pair
    calls = 0

    def writable():
        nonlocal calls
        calls += 1

    loop.add_writer(ours, writable)
    while calls < 5:
        await asyncio.sleep(0)
    fill(ours)
    await asyncio.sleep(0.01)
    calls = 0
    await asyncio.sleep(0.01)
    assert calls == 0
    while True:
        try:
            theirs.recv(1 << 20)
        except BlockingIOError:
            break
    while not calls:
        await asyncio.sleep(0)
    assert loop.remove_writer(ours) is True
    assert loop.remove_writer(ours) is False


async def test_reader_and_writer_on_one_descriptor(loop, pair):
    ours, theirs = pair
    events = {"read": 0, "write": 0}

    def note(name):
        events[name] += 1

    loop.add_reader(ours, note, "read")
    loop.add_writer(ours, note, "write")
    while events["write"] < 3:
        await asyncio.sleep(0)
    assert events["read"] == 0
    theirs.send(b"x")
    while events["read"] < 3:
        await asyncio.sleep(0)
    assert loop.remove_writer(ours)
    events["read"] = events["write"] = 0
    while events["read"] < 3:
        await asyncio.sleep(0)
    assert events["write"] == 0
    assert loop.remove_reader(ours)
    loop.add_writer(ours, note, "write")
    events["read"] = 0
    while events["write"] < 3:
        await asyncio.sleep(0)
    assert events["read"] == 0
    assert loop.remove_writer(ours)


async def test_replaced_callback(loop, pair):
    ours, theirs = pair
    seen = []
    loop.add_reader(ours, seen.append, "first")
    loop.add_reader(ours, seen.append, "second")
    theirs.send(b"x")
    while len(seen) < 3:
        await asyncio.sleep(0)
    assert set(seen) == {"second"}
    seen.clear()
    loop.add_reader(ours, seen.append, "third")
    while len(seen) < 3:
        await asyncio.sleep(0)
    assert set(seen) == {"third"}
    loop.remove_reader(ours)


async def test_removed_inside_its_callback(loop, pair):
    ours, theirs = pair
    seen = []

    def once():
        seen.append(1)
        assert loop.remove_reader(ours)

    loop.add_reader(ours, once)
    theirs.send(b"x")
    await asyncio.sleep(0.01)
    assert seen == [1]


async def test_removed_after_it_became_ready(loop):
    """Two are ready in the same turn; the first callback removes the second watcher."""
    pairs = [socket.socketpair() for _ in range(2)]
    seen = []

    def first(me, other):
        seen.append(me)
        loop.remove_reader(pairs[other][0])
        loop.remove_reader(pairs[me][0])

    for i in range(2):
        loop.add_reader(pairs[i][0], first, i, 1 - i)
    await turns(3)
    for _, theirs in pairs:
        theirs.send(b"x")
    await asyncio.sleep(0.01)
    assert len(seen) == 1
    for ours, theirs in pairs:
        ours.close()
        theirs.close()


async def test_adding_and_removing_many_times(loop, pair):
    ours, theirs = pair
    seen = []
    for i in range(500):
        loop.add_reader(ours, seen.append, i)
        loop.add_writer(ours, int)
        if i % 7 == 0:
            await asyncio.sleep(0)
        assert loop.remove_reader(ours)
        assert loop.remove_writer(ours)
    assert seen == []
    loop.add_reader(ours, seen.append, "last")
    theirs.send(b"x")
    while not seen:
        await asyncio.sleep(0)
    assert seen[0] == "last"
    loop.remove_reader(ours)


async def test_hang_up_makes_it_readable(loop, pair):
    ours, theirs = pair
    seen = asyncio.Event()
    loop.add_reader(ours, seen.set)
    theirs.close()
    await seen.wait()
    assert ours.recv(1) == b""
    loop.remove_reader(ours)


async def test_error_makes_it_writable(loop):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
    with socket.socket() as sock:
        sock.setblocking(False)
        sock.connect_ex(address)
        seen = asyncio.Event()
        loop.add_writer(sock, seen.set)
        await seen.wait()
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        loop.remove_writer(sock)


async def test_descriptor_reused_after_removal(loop):
    """A new descriptor gets the number of a closed one: nothing of the old watcher may remain."""
    seen = []
    for i in range(100):
        ours, theirs = socket.socketpair()
        loop.add_reader(ours, seen.append, i)
        if i % 3 == 0:
            await asyncio.sleep(0)
        theirs.send(b"x")
        while i not in seen:
            await asyncio.sleep(0)
        assert set(seen) == {i}
        assert loop.remove_reader(ours)
        ours.close()
        theirs.close()
        seen.clear()


async def test_descriptor_reused_at_once(loop):
    ours, theirs = socket.socketpair()
    seen = []
    loop.add_reader(ours, seen.append, "old")
    await turns()
    number = ours.fileno()
    loop.remove_reader(ours)
    ours.close()
    new, other = socket.socketpair()
    assert number in (new.fileno(), other.fileno())
    loop.add_reader(number, seen.append, "new")
    theirs.close()
    await asyncio.sleep(0.01)
    assert seen == []
    (other if new.fileno() == number else new).send(b"x")
    while not seen:
        await asyncio.sleep(0)
    assert set(seen) == {"new"}
    loop.remove_reader(number)
    new.close()
    other.close()


async def test_bad_descriptors(loop):
    for wrong in (-1, "text", None, object()):
        for call in (loop.add_reader, loop.add_writer):
            with pytest.raises((ValueError, TypeError, OSError)):
                call(wrong, print)
        for call in (loop.remove_reader, loop.remove_writer):
            with pytest.raises((ValueError, TypeError)):
                call(wrong)
    sock = socket.socket()
    number = sock.fileno()
    sock.close()
    with pytest.raises(ValueError):
        loop.add_reader(sock, print)
    with pytest.raises(OSError):
        loop.add_reader(number, print)
    assert loop.remove_reader(number) is False
    assert loop.remove_writer(number) is False


async def test_descriptors_by_number_and_by_object_are_the_same(loop, pair):
    ours, _ = pair
    loop.add_reader(ours.fileno(), print)
    assert loop.remove_reader(ours)


async def test_regular_files_are_refused(loop, tmp_path):
    """As epoll does: they are always ready."""
    with open(tmp_path / "file", "w") as file:
        with pytest.raises(PermissionError):
            loop.add_reader(file, print)
        assert loop.remove_reader(file) is False


async def test_descriptors_of_transports_are_refused(loop, connect):
    transport, protocol, peer = await connect()
    sock = transport.get_extra_info("socket")
    number = sock.fileno()
    for call in (loop.add_reader, loop.add_writer):
        with pytest.raises(RuntimeError):
            call(number, print)
        with pytest.raises(RuntimeError):
            call(sock, print)
    for call in (loop.remove_reader, loop.remove_writer):
        with pytest.raises(RuntimeError):
            call(number)
    peer.send_now(b"still works")
    await protocol.until_received(11)


async def test_descriptor_of_a_closed_transport_is_free_again(loop, connect):
    transport, protocol, _ = await connect()
    number = transport.get_extra_info("socket").fileno()
    transport.close()
    await protocol.until_called("lost")
    while Path(f"/proc/self/fd/{number}").exists():
        await asyncio.sleep(0.001)  # a syscall thread closes it in its own time
    socks = [socket.socket() for _ in range(5)]
    assert number in [sock.fileno() for sock in socks]
    loop.add_writer(number, int)
    await turns(3)
    assert loop.remove_writer(number)
    for sock in socks:
        sock.close()


async def test_exception_in_a_callback_is_reported(loop, pair, errors):
    ours, theirs = pair

    def fail():
        ours.recv(1)
        raise ZeroDivisionError

    loop.add_reader(ours, fail)
    for number in range(3):
        theirs.send(b"x")
        await settle(lambda number=number: len(errors) > number)
    assert [type(e["exception"]) for e in errors] == [ZeroDivisionError] * 3
    errors.clear()
    loop.remove_reader(ours)


async def test_many_watchers(loop):
    pairs = [socket.socketpair() for _ in range(300)]
    seen = set()

    def note(i):
        pairs[i][0].recv(1)
        seen.add(i)

    for i, (ours, _) in enumerate(pairs):
        loop.add_reader(ours, note, i)
    for _, theirs in pairs:
        theirs.send(b"x")
    while len(seen) < 300:
        await asyncio.sleep(0)
    for ours, theirs in pairs:
        assert loop.remove_reader(ours)
        ours.close()
        theirs.close()


def test_watchers_live_through_several_runs(loop, pair):
    ours, theirs = pair
    seen = []
    loop.add_reader(ours, lambda: seen.append(ours.recv(10)))
    for i in range(5):
        loop.run_until_complete(turns())
        theirs.send(b"%d" % i)
        loop.run_until_complete(asyncio.sleep(0.005))
    assert seen == [b"0", b"1", b"2", b"3", b"4"]
    loop.remove_reader(ours)


async def test_own_echo_on_watchers(loop):
    """A whole protocol by hand, as libraries do that bring their own transport."""
    ours, theirs = tcp_pair()
    ours.setblocking(False)
    theirs.setblocking(False)
    data, back = os.urandom(2_000_000), bytearray()
    sent = 0
    pending = bytearray()
    done = asyncio.Event()

    def echo_read():
        pending.extend(ours.recv(65536))
        loop.add_writer(ours, echo_write)

    def echo_write():
        del pending[: ours.send(pending)]
        if not pending:
            loop.remove_writer(ours)

    def client_read():
        back.extend(theirs.recv(65536))
        if len(back) == len(data):
            done.set()

    def client_write():
        nonlocal sent
        sent += theirs.send(memoryview(data)[sent : sent + 100_000])
        if sent == len(data):
            loop.remove_writer(theirs)

    loop.add_reader(ours, echo_read)
    loop.add_reader(theirs, client_read)
    loop.add_writer(theirs, client_write)
    await done.wait()
    assert back == data
    loop.remove_reader(ours)
    loop.remove_reader(theirs)
    ours.close()
    theirs.close()
