"""add_reader and add_writer: level-triggered watchers of descriptors."""

import asyncio
import os
import socket
import struct
from pathlib import Path

import pytest
from datagrams import udp_socket
from support import fill, settle, sleeps, tcp_pair, turns


async def test_reader_of_a_socket(loop, quick_pair):
    ours, theirs = quick_pair
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


async def test_reader_of_a_pipe(loop, quick_pipe):
    reading, writing = quick_pipe
    seen = asyncio.Queue()
    loop.add_reader(reading, lambda *args: seen.put_nowait((args, os.read(reading, 100))), 1, "two")
    os.write(writing, b"hello")
    assert await seen.get() == ((1, "two"), b"hello")
    os.close(writing)
    assert await seen.get() == ((1, "two"), b"")
    assert loop.remove_reader(reading)


async def test_level_triggered(loop, quick_pair):
    """As long as there is something to read, the callback comes every turn."""
    ours, theirs = quick_pair
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


async def test_a_watcher_that_does_not_read_does_not_starve_the_rest(loop, quick_pair):
    ours, theirs = quick_pair
    theirs.send(b"x")
    loop.add_reader(ours, int)
    await asyncio.sleep(0.01)
    assert await loop.run_in_executor(None, int) == 0
    loop.remove_reader(ours)


async def test_writer(loop, quick_pair):
    ours, theirs = quick_pair
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


async def test_reader_and_writer_on_one_descriptor(loop, quick_pair):
    ours, theirs = quick_pair
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


async def test_replaced_callback(loop, quick_pair):
    ours, theirs = quick_pair
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


async def test_removed_inside_its_callback(loop, quick_pair):
    ours, theirs = quick_pair
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


async def test_adding_and_removing_many_times(loop, quick_pair):
    ours, theirs = quick_pair
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


async def test_hang_up_makes_it_readable(loop, quick_pair):
    ours, theirs = quick_pair
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


async def test_descriptors_by_number_and_by_object_are_the_same(loop, quick_pair):
    ours, _ = quick_pair
    loop.add_reader(ours.fileno(), print)
    assert loop.remove_reader(ours)


@pytest.mark.parametrize("path", ["/dev/null", "/dev/zero", "/dev/full", "/tmp", __file__, "/proc/self/status"])
async def test_what_is_always_ready_is_refused(loop, path):
    """As epoll does.  Programs learn so that their standard input is no terminal."""
    fd = os.open(path, os.O_RDONLY)
    for add, remove in ((loop.add_reader, loop.remove_reader), (loop.add_writer, loop.remove_writer)):
        with pytest.raises(PermissionError):
            add(fd, print)
        assert remove(fd) is False
    os.close(fd)


@pytest.mark.parametrize("path", ["/dev/ptmx", "/proc/self/mounts"])
async def test_other_files_than_sockets_and_pipes(loop, path):
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    loop.add_reader(fd, int)
    await turns(2)
    assert loop.remove_reader(fd)
    os.close(fd)


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


async def test_exception_in_a_callback_is_reported(loop, quick_pair, errors):
    ours, theirs = quick_pair

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


def test_watchers_live_through_several_runs(loop, quick_pair):
    ours, theirs = quick_pair
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


# -- which events


@pytest.mark.parametrize("make", [tcp_pair, socket.socketpair])
async def test_a_writer_of_a_peer_that_has_shut_down_its_side(loop, make):
    """That can be read, not written."""
    ours, theirs = make()
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        calls = []
        while fill(ours):
            await asyncio.sleep(0.01)
        loop.add_writer(ours, calls.append, 1)
        theirs.shutdown(socket.SHUT_WR)
        await sleeps(loop)
        assert calls == []
        while not calls:
            theirs.recv(1 << 20)
            await asyncio.sleep(0.001)
        assert loop.remove_writer(ours)


async def test_urgent_data_is_nothing_to_read(loop):
    ours, theirs = tcp_pair()
    with ours, theirs:
        seen = asyncio.Queue()
        loop.add_reader(ours, lambda: seen.put_nowait(ours.recv(10)))
        theirs.send(b"!", socket.MSG_OOB)
        await sleeps(loop)
        assert seen.empty()
        theirs.send(b"x")
        assert await seen.get() == b"x"
        assert loop.remove_reader(ours)


async def test_a_hang_up_is_news_to_both_sides(loop, quick_pair):
    ours, theirs = quick_pair
    calls = []
    fill(ours)
    loop.add_writer(ours, calls.append, "writer")
    loop.add_reader(ours, calls.append, "reader")
    theirs.close()
    await settle(lambda: set(calls) == {"reader", "writer"})
    assert calls[0] == "reader"
    assert loop.remove_reader(ours) and loop.remove_writer(ours)


async def test_the_reader_of_a_pipe_has_gone(loop, quick_pipe):
    reading, writing = quick_pipe
    calls = []
    while True:
        try:
            os.write(writing, bytes(65536))
        except BlockingIOError:
            break
    loop.add_writer(writing, calls.append, 1)
    await turns(3)
    assert calls == []
    os.close(reading)
    await settle(lambda: calls)
    assert loop.remove_writer(writing)


async def test_an_error_queue_is_reported_until_it_is_read(loop):
    """Level-triggered, like all else."""
    with udp_socket() as sock, udp_socket() as gone:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_IP, 11, 1)  # IP_RECVERR
        sock.connect(gone.getsockname())
        gone.close()
        sock.send(b"x")
        calls = []
        loop.add_reader(sock, calls.append, 1)
        await settle(lambda: len(calls) > 3)
        with pytest.raises(ConnectionRefusedError):
            sock.recv(10)
        sock.recvmsg(10, 500, socket.MSG_ERRQUEUE)
        await turns(2)
        calls.clear()
        await sleeps(loop)
        assert calls == []
        assert loop.remove_reader(sock)


# -- rest, many, none


async def test_nothing_to_do_with_watches_that_are_not_ready(loop, quick_pair):
    ours, _ = quick_pair
    calls = []
    fill(ours)
    loop.add_reader(ours, calls.append, "read")
    loop.add_writer(ours, calls.append, "write")
    await sleeps(loop)
    assert calls == []
    assert loop.remove_reader(ours) and loop.remove_writer(ours)


def test_a_closed_loop_takes_no_watches_and_has_none(loop, quick_pair):
    ours, _ = quick_pair
    loop.add_reader(ours, int)
    loop.run_until_complete(turns())
    loop.close()
    assert loop.remove_reader(ours) is False
    with pytest.raises(RuntimeError):
        loop.add_reader(ours, int)


async def test_more_ready_at_once_than_one_look_brings(loop):
    pairs = [socket.socketpair() for _ in range(600)]
    seen = []
    for mine, _ in pairs:
        loop.add_reader(mine, lambda mine=mine: seen.append(struct.unpack("=i", mine.recv(4))[0]))
    for number, (_, peer) in enumerate(pairs):
        peer.send(struct.pack("=i", number))
    await settle(lambda: len(seen) == 600)
    assert sorted(seen) == list(range(600))
    for mine, peer in pairs:
        assert loop.remove_reader(mine)
        mine.close()
        peer.close()
