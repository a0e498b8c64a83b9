"""Watchers of descriptors that are closed or reused, callbacks that change watches, other threads."""

import asyncio
import contextvars
import os
import signal
import socket
import threading

import pytest
from support import fill, settle, sleeps, turns

# -- closed, reused and duplicated descriptors


@pytest.mark.parametrize("side", ["reader", "writer"])
async def test_removed_after_the_socket_was_closed(loop, quick_pair, side):
    """It is found by the object that was registered, and not called any more."""
    ours, theirs = quick_pair
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


async def test_the_peer_sees_the_end_of_a_watched_socket(loop, quick_pair):
    ours, theirs = quick_pair
    loop.add_reader(ours, int)
    loop.add_writer(ours, int)
    await turns(3)
    ours.close()
    assert theirs.recv(1) == b""
    with pytest.raises(BrokenPipeError):
        theirs.send(b"x")


async def test_removing_one_of_two_after_the_socket_was_closed(loop, quick_pair):
    ours, theirs = quick_pair
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
async def test_a_number_that_was_closed_while_watched_and_is_another_file_now(loop, quick_pair):
    ours, _ = quick_pair
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
async def test_closed_while_a_duplicate_keeps_the_file_open(loop, quick_pair, side):
    """epoll goes on reporting the file, and the number by which it could be told to stop is gone."""
    ours, theirs = quick_pair
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
async def test_a_child_cannot_end_the_parents_watches(loop, quick_pair):
    ours, theirs = quick_pair
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
async def test_a_handle_that_is_cancelled(loop, quick_pair, side):
    """asyncio's own code has handles of readers and writers, and cancels them."""
    ours, theirs = quick_pair
    calls = []
    handle = getattr(loop, f"_add_{side}")(ours.fileno(), calls.append, 1)
    theirs.send(b"x")
    handle.cancel()
    await sleeps(loop)
    assert calls == []
    assert getattr(loop, f"remove_{side}")(ours) is False


@pytest.mark.ours  # asyncio's from Python 3.15 on
@pytest.mark.parametrize("side", ["reader", "writer"])
async def test_context(loop, quick_pair, side):
    ours, theirs = quick_pair
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
def test_every_watch_works_after_an_exception_has_left_the_loop(loop, quick_pair, thrower, exc):
    """Whoever throws it, while others are ready in the same turn."""
    ours, theirs = quick_pair
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
def test_added_by_another_thread_while_the_loop_sleeps(new_loop, quick_pair, side, first):
    """The loop wakes for it: programs start so that keep their sockets in another thread's hands."""
    ours, theirs = quick_pair
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


def test_added_by_another_thread_before_the_loop_runs(loop, quick_pair):
    ours, theirs = quick_pair
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
