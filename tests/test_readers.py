"""add_reader and add_writer: level-triggered watchers of descriptors."""

import asyncio
import contextvars
import os
import signal
import socket
import struct
import threading
from pathlib import Path

import pytest
from datagrams import udp_socket
from support import settle, sleeps, tcp_pair, turns


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


# -- closed, reused and duplicated descriptors


@pytest.mark.parametrize("side", ["reader", "writer"])
async def test_removed_after_the_socket_was_closed(loop, pair, side):
    """It is found by the object that was registered, and not called any more."""
    ours, theirs = pair
    calls = []
    if side == "writer":
        fill(ours)
    getattr(loop, f"add_{side}")(ours, calls.append, 1)
    await turns(2)
    ours.close()
    assert getattr(loop, f"remove_{side}")(ours) is True
    with pytest.raises(ValueError, match="Invalid file descriptor"):
        getattr(loop, f"remove_{side}")(ours)
    theirs.close()
    await turns(5)
    assert calls == []


async def test_the_peer_sees_the_end_of_a_watched_socket(loop, pair):
    ours, theirs = pair
    loop.add_reader(ours, int)
    loop.add_writer(ours, int)
    await turns(3)
    ours.close()
    assert theirs.recv(1) == b""
    with pytest.raises(BrokenPipeError):
        theirs.send(b"x")


async def test_removing_one_of_two_after_the_socket_was_closed(loop, pair):
    ours, theirs = pair
    calls = []
    loop.add_reader(ours, calls.append, "read")
    loop.add_writer(ours, calls.append, "write")
    number = ours.fileno()
    ours.close()
    with pytest.raises(OSError):
        loop.remove_writer(number)
    assert loop.remove_reader(number) is False
    theirs.close()
    await turns(5)
    assert calls == []


@pytest.mark.ours  # asyncio asks epoll for the file that was there before
async def test_a_number_that_was_closed_while_watched_and_is_another_file_now(loop, pair):
    ours, _ = pair
    calls = []
    loop.add_reader(ours, calls.append, "old")
    loop.add_writer(ours, calls.append, "old")
    number = ours.detach()
    os.close(number)
    new, other = socket.socketpair()
    with new, other:
        assert number in (new.fileno(), other.fileno())
        loop.add_reader(number, calls.append, "new")
        (other if new.fileno() == number else new).send(b"x")
        await settle(lambda: calls)
        assert set(calls) == {"new"}
        assert loop.remove_reader(number)


@pytest.mark.ours  # asyncio's loop spins
@pytest.mark.parametrize("side", ["reader", "writer"])
async def test_closed_while_a_duplicate_keeps_the_file_open(loop, pair, side):
    """epoll goes on reporting the file, and the number by which it could be told to stop is gone."""
    ours, theirs = pair
    others = [socket.socketpair() for _ in range(3)]
    seen = []
    for mine, _ in others:
        loop.add_reader(mine, lambda mine=mine: seen.append(mine.recv(1)))
    getattr(loop, f"add_{side}")(ours, seen.append, "never")
    with ours.dup():
        ours.close()
        assert getattr(loop, f"remove_{side}")(ours)
        theirs.send(b"x")
        await sleeps(loop)
        assert seen == []
        for _, peer in others:
            peer.send(b"y")
        await settle(lambda: len(seen) == 3)
        assert seen == [b"y"] * 3
    for mine, peer in others:
        assert loop.remove_reader(mine)
        mine.close()
        peer.close()


@pytest.mark.ours  # the child's epoll is the parent's
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
async def test_a_child_cannot_end_the_parents_watches(loop, pair):
    ours, theirs = pair
    seen = asyncio.Queue()
    loop.add_reader(ours, lambda: seen.put_nowait(ours.recv(10)))
    await turns(2)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            loop.remove_reader(ours)
            try:
                loop.add_reader(ours, int)
            except RuntimeError:
                status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    theirs.send(b"x")
    assert await seen.get() == b"x"
    assert loop.remove_reader(ours)


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


async def test_a_hang_up_is_news_to_both_sides(loop, pair):
    ours, theirs = pair
    calls = []
    fill(ours)
    loop.add_writer(ours, calls.append, "writer")
    loop.add_reader(ours, calls.append, "reader")
    theirs.close()
    await settle(lambda: set(calls) == {"reader", "writer"})
    assert calls[0] == "reader"
    assert loop.remove_reader(ours) and loop.remove_writer(ours)


async def test_the_reader_of_a_pipe_has_gone(loop, pipe):
    reading, writing = pipe
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


# -- what a callback may do


async def test_replaced_after_it_became_ready(loop):
    """Of two that are ready, the first one replaces the second one's callback: the old one is not called."""
    pairs = [socket.socketpair() for _ in range(2)]
    seen = []

    def first(me):
        seen.append(me)
        for mine, _ in pairs:
            loop.add_reader(mine, second, mine)

    def second(mine):
        seen.append(mine.recv(1))
        loop.remove_reader(mine)

    for i in range(2):
        loop.add_reader(pairs[i][0], first, i)
    for _, theirs in pairs:
        theirs.send(b"x")
    await settle(lambda: len(seen) == 3)
    assert seen[1:] == [b"x", b"x"]
    for ours, theirs in pairs:
        ours.close()
        theirs.close()


@pytest.mark.parametrize("side", ["reader", "writer"])
async def test_a_handle_that_is_cancelled(loop, pair, side):
    """asyncio's own code has handles of readers and writers, and cancels them."""
    ours, theirs = pair
    calls = []
    handle = getattr(loop, f"_add_{side}")(ours.fileno(), calls.append, 1)
    theirs.send(b"x")
    handle.cancel()
    await sleeps(loop)
    assert calls == []
    assert getattr(loop, f"remove_{side}")(ours) is False


@pytest.mark.ours  # asyncio's from Python 3.15 on
@pytest.mark.parametrize("side", ["reader", "writer"])
async def test_context(loop, pair, side):
    ours, theirs = pair
    theirs.send(b"x")
    variable = contextvars.ContextVar("variable", default="default")
    context = contextvars.copy_context()
    context.run(variable.set, "the context's")
    seen = []
    getattr(loop, f"_add_{side}")(ours, lambda: seen.append(variable.get()), context=context)
    await settle(lambda: seen)
    assert getattr(loop, f"_remove_{side}")(ours)
    variable.set("of the call")
    getattr(loop, f"_add_{side}")(ours, lambda: seen.append(variable.get()), context=None)
    await settle(lambda: seen[-1] != "the context's")
    assert seen[-1] == "of the call"
    assert getattr(loop, f"_remove_{side}")(ours)


THROWERS = ["reader", "writer", "other reader", "soon", "timer", "task", "signal handler"]


@pytest.mark.parametrize("exc", [SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize("thrower", THROWERS)
def test_every_watch_works_after_an_exception_has_left_the_loop(loop, pair, thrower, exc):
    """Whoever throws it, while others are ready in the same turn."""
    ours, theirs = pair
    others = [socket.socketpair() for _ in range(4)]
    seen, written = [], []
    armed = False

    def throw():
        nonlocal armed
        if armed:
            armed = False
            raise exc

    def read(sock, what):
        seen.append(sock.recv(10))
        if what == thrower:
            throw()

    def write(sock):
        written.append(1)
        loop.remove_writer(sock)
        if thrower == "writer":
            throw()

    async def task():
        throw()

    async def wait_for_all(count):
        await settle(lambda: len(seen) >= count and len(written) >= count // 5)

    loop.add_reader(ours, read, ours, "reader")
    for mine, _ in others:
        loop.add_reader(mine, read, mine, "other reader")
    for number in range(3):
        armed = True
        for _, peer in others:
            peer.send(b"o")
        theirs.send(b"x")
        loop.add_writer(ours, write, ours)
        if thrower == "soon":
            loop.call_soon(throw)
        elif thrower == "timer":
            loop.call_later(0, throw)
        elif thrower == "task":
            thrown = loop.create_task(task())
        elif thrower == "signal handler":
            signal.signal(signal.SIGUSR1, lambda *_: throw())
            loop.call_soon(os.kill, os.getpid(), signal.SIGUSR1)
        with pytest.raises(exc):
            loop.run_until_complete(wait_for_all(5 * (number + 1)))
        loop.run_until_complete(wait_for_all(5 * (number + 1)))
        if thrower == "task":
            assert thrown.exception() is not None or thrown.cancelled()
    assert sorted(seen) == [b"o"] * 12 + [b"x"] * 3 and len(written) == 3
    signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    for mine, peer in [(ours, theirs), *others]:
        assert loop.remove_reader(mine)
        mine.close()
        peer.close()
    for waiting in asyncio.all_tasks(loop):
        waiting.cancel()
    loop.run_until_complete(turns())


# -- from other threads


@pytest.mark.parametrize("first", [True, False], ids=["the first watch", "one more"])
@pytest.mark.parametrize("side", ["reader", "writer"])
def test_added_by_another_thread_while_the_loop_sleeps(new_loop, pair, side, first):
    """The loop wakes for it: programs start so that keep their sockets in another thread's hands."""
    ours, theirs = pair
    called = threading.Event()
    ready = threading.Event()
    theirs.send(b"x")
    problems = []

    def run_loop():
        # Not the main thread's: that one's watches signals already.
        loop = new_loop(fresh=True)
        elsewhere.append(loop)
        if not first:
            loop.add_reader(theirs, int)
        loop.call_soon(ready.set)
        loop.run_forever()

    elsewhere = []
    thread = threading.Thread(target=run_loop)
    thread.start()
    ready.wait(10)
    loop = elsewhere[0]
    try:
        wait_until_it_sleeps(loop)
        getattr(loop, f"add_{side}")(ours, called.set)
        assert called.wait(10)
        assert getattr(loop, f"remove_{side}")(ours)
        wait_until_it_sleeps(loop)
    except BaseException as problem:
        problems.append(problem)
    finally:
        if not first:
            loop.remove_reader(theirs)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
    assert not problems
    loop.run_until_complete(turns())


def wait_until_it_sleeps(loop):
    """A loop whose thread has made no system call for a while (it counts turns, if it can)."""
    before = None
    while before != (before := loop.stats()["turns"] if hasattr(loop, "stats") else 0):
        threading.Event().wait(0.03)


def test_added_by_another_thread_before_the_loop_runs(loop, pair):
    ours, theirs = pair
    seen = []
    thread = threading.Thread(target=loop.add_reader, args=(ours, lambda: seen.append(ours.recv(10))))
    thread.start()
    thread.join()
    theirs.send(b"x")
    loop.run_until_complete(settle(lambda: seen))
    assert seen == [b"x"]
    assert loop.remove_reader(ours)


def test_added_and_removed_by_several_threads(loop):
    """What each thread adds is called, and nothing that was removed."""
    done = [0] * 4
    wrong = []

    def work(number):
        for _ in range(50):
            ours, theirs = socket.socketpair()
            called = threading.Event()
            loop.add_reader(ours, called.set)
            theirs.send(b"x")
            if not called.wait(10):
                wrong.append("never called")
            loop.remove_reader(ours)
            ours.close()
            theirs.close()
            done[number] += 1

    async def main():
        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            await asyncio.to_thread(thread.join)

    loop.run_until_complete(main())
    assert done == [50] * 4 and not wrong


async def test_nothing_to_do_with_watches_that_are_not_ready(loop, pair):
    ours, _ = pair
    calls = []
    fill(ours)
    loop.add_reader(ours, calls.append, "read")
    loop.add_writer(ours, calls.append, "write")
    await sleeps(loop)
    assert calls == []
    assert loop.remove_reader(ours) and loop.remove_writer(ours)


def test_a_closed_loop_takes_no_watches_and_has_none(loop, pair):
    ours, _ = pair
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
