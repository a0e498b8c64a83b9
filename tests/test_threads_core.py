"""Green threads: how they switch, receive and send, whatever their number and whatever becomes of them."""

import textwrap

import pytest
from sandbox import io_uring_blocked
from support import WAYS
from threads_support import check

pytest.importorskip("greenlet")
pytestmark = pytest.mark.ours

PING = """
def ping(there, back, rounds):
    for number in range(20):
        there.sendall(bytes([number]))
        rounds(back.recv(1))
        time.sleep(0.001)

"""


def test_threads_that_never_wait_for_long_hold_nobody_up(way):
    """Who is ready again at once is switched to past the loop, which has its turn all the same."""
    check(way, PING + textwrap.dedent("""
        def main():
            ours, theirs = tcp_pair()
            over, rounds = threading.Event(), Collected()

            def busy():
                while not over.is_set():
                    time.sleep(0)

            def count():
                ping(theirs, ours, rounds)
                over.set()

            begun = [in_thread(busy) for _ in range(3)] + [in_thread(count)]
            for thread in begun:
                thread.join(20)
            assert over.is_set() and rounds == [bytes([number]) for number in range(20)]
    """))  # fmt: skip


def test_who_polls_without_end_lets_the_loop_have_its_turn(way):
    """One that finds something ready each time goes on for 5 ms; then all others are due, and the loop."""
    check(way, PING + textwrap.dedent("""
        import select

        def main():
            ours, theirs = tcp_pair()
            over, rounds = threading.Event(), Collected()

            def busy():
                while not over.is_set():
                    select.select([], [ours], [])

            def echo():
                while data := theirs.recv(1):
                    theirs.sendall(data)

            def count():
                ping(ours, ours, rounds)
                ours.shutdown(socket.SHUT_WR)

            others = [in_thread(echo), in_thread(count)]
            spinning = in_thread(busy)
            for thread in others:
                thread.join(20)
            over.set()
            spinning.join()
            assert rounds == [bytes([number]) for number in range(20)], rounds
    """))  # fmt: skip


@pytest.mark.skipif(io_uring_blocked(), reason="io_uring is blocked on this machine")
def test_who_waits_is_passed_by_once_only(way):
    """Of two that want the same again and again each has it half of the time, though the other one is always faster."""
    check(way, """
        import queue

        def share(once):
            had = [0, 0]

            def want(number):
                while sum(had) < 400 and once():
                    had[number] += 1
                    time.sleep(0)

            threads = [in_thread(want, number) for number in (0, 1)]
            for thread in threads:
                thread.join(20)
            assert min(had) > 150, had

        def held(lock):
            def once():
                with lock:
                    time.sleep(0)
                return True

            return once

        def main():
            share(held(threading.Lock()))
            share(held(threading.RLock()))
            items = queue.SimpleQueue()

            def put():
                for _ in range(400):
                    items.put(True)
                    time.sleep(0)
                items.put(False)
                items.put(False)

            putting = in_thread(put)
            share(items.get)
            putting.join(20)
            # Who gives up, or does not wait, is owed nothing.
            lock = threading.Lock()
            lock.acquire()
            waits = in_thread(lock.acquire, True, 0.05)
            time.sleep(0.01)
            lock.release()
            assert lock.acquire(False)
            time.sleep(0.02)
            assert not lock.acquire(False)
            waits.join(20)
            lock.release()
            assert lock.acquire(timeout=1)
            lock.release()
    """)


def test_more_receive_at_once_than_the_second_ring_has_buffers():
    """They are its own: those of the first ring are of no use to it."""
    check(WAYS["kernel-changing"], """
        def main():
            loop = threads.current_thread().loop
            pairs = [tcp_pair() for _ in range(300)]
            loop.page.change_hands(max(os.sched_getaffinity(0)))
            before = loop.stats()["pool_buffers"]
            received = Collected()
            begun = [in_thread(lambda ours=ours: received(ours.recv(16384))) for ours, _ in pairs]
            time.sleep(0.05)
            for _, theirs in pairs:
                theirs.setblocking(False)
                theirs.send(b"x" * 1000)
            for thread in begun:
                thread.join(10)
            assert received == [b"x" * 1000] * 300, len(received)
            assert loop.stats()["pool_buffers"] == before
            for pair in pairs:
                for end in pair:
                    end.close()
    """)  # fmt: skip


def test_two_that_wake_each_other_hold_nobody_up(way):
    check(way, """
        def main():
            mine, yours, slept = threading.Semaphore(0), threading.Semaphore(1), threading.Event()

            def pass_on(get, give):
                while not slept.is_set():
                    get.acquire()
                    give.release()

            def sleeper():
                time.sleep(0.05)
                slept.set()

            begun = [in_thread(pass_on, mine, yours), in_thread(pass_on, yours, mine), in_thread(sleeper)]
            begun[2].join(20)
            assert slept.is_set()
            mine.release()
            yours.release()
            for thread in begun:
                thread.join(20)
                assert not thread.is_alive()
    """)  # fmt: skip


@pytest.mark.parametrize("ask", [1, 100, 4096, 65536, 1 << 20])
def test_what_comes_is_received_in_order_whatever_is_asked_for(way, ask):
    """Little and much, in pieces that fill what was asked for and in pieces that don't, with and without a time-out."""
    check(way, f"""
        def main():
            pieces = [bytes([n % 251]) * size for n, size in enumerate((1, 100, 4096, 4096, 20000, 3, 300000, 5, 9))]
            if {ask} < 100:
                pieces = [piece[:500] for piece in pieces]
            for timeout in (None, 30):
                ours, theirs = tcp_pair()
                ours.settimeout(timeout)
                theirs.settimeout(timeout)
                seen = Collected()

                def reader():
                    while data := ours.recv({ask}):
                        assert len(data) <= {ask} and type(data) is bytes
                        seen(data)

                thread = in_thread(reader)
                for piece in pieces:
                    theirs.sendall(piece)
                    time.sleep(0)
                theirs.close()
                thread.join(30)
                assert b"".join(seen) == b"".join(pieces)
    """)  # fmt: skip


def test_datagrams_keep_their_bounds(way):
    check(way, """
        def main():
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
            for size in (10, 5000, 1, 0, 3):
                theirs.send(b"d" * size)
            assert [len(ours.recv(4096)) for _ in range(5)] == [10, 4096, 1, 0, 3]
    """)  # fmt: skip


def test_flags_mean_what_they_mean(way):
    check(way, """
        def main():
            ours, theirs = tcp_pair()
            raised(BlockingIOError, ours.recv, 10, socket.MSG_DONTWAIT)
            raised(BlockingIOError, ours.recv_into, bytearray(10), 10, socket.MSG_DONTWAIT)
            theirs.sendall(b"peeked")
            assert ours.recv(4096, socket.MSG_PEEK) == b"peeked" and ours.recv(4096) == b"peeked"
            late = in_thread(lambda: (time.sleep(0.01), theirs.sendall(b"de")))
            theirs.sendall(b"abc")
            assert ours.recv(5, socket.MSG_WAITALL) == b"abcde"
            late.join()
            theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            filled = 0
            try:
                while True:
                    filled += theirs.send(b"x" * 65536, socket.MSG_DONTWAIT)
            except BlockingIOError:
                pass
            assert filled and len(ours.recv(100)) == 100
    """)  # fmt: skip


def test_a_full_socket_takes_part_of_what_is_sent_in_time(way):
    """As a plain socket does: with a time-out send() is content with a part, and without one it goes on."""
    check(way, """
        def main():
            ours, theirs = tcp_pair()
            data = bytes(range(256)) * 40000
            theirs.settimeout(0.2)
            sent = theirs.send(data)
            assert 0 < sent < len(data)
            raised(TimeoutError, lambda: [theirs.send(data) for _ in range(100)])
            ours.close()
            theirs.close()
            ours, theirs = tcp_pair()
            got = Collected()

            def reader():
                while len(b"".join(got)) < len(data):
                    got(ours.recv(1 << 20))

            thread = in_thread(reader)
            assert theirs.send(data) == len(data)
            thread.join(30)
            assert b"".join(got) == data
    """)  # fmt: skip


def test_what_was_thrown_into_a_call_takes_nothing_from_the_next(way):
    """The memory of a call that was left is not the next one's, and what one socket had is not expected of another."""
    check(way, """
        def main():
            ours, theirs = tcp_pair()

            class Enough(Exception):
                pass

            def reader():
                raised(Enough, ours.recv, 4096)
                pairs = [tcp_pair() for _ in range(5)]
                for number, (mine, yours) in enumerate(pairs):
                    yours.sendall(bytes([number]) * 10)
                    assert mine.recv(4096) == bytes([number]) * 10
                    mine.close()
                    yours.close()
                raised(OSError, mine.recv, 4096)
                return True

            thread = threads.spawn(reader)
            time.sleep(0.02)
            thread.throw(Enough())
            for _ in range(500):
                if thread.finished:
                    break
                time.sleep(0.01)
            assert thread.result is True, thread.error
    """)  # fmt: skip


def test_what_is_no_socket_is_refused(way):
    check(way, """
        import errno

        def main():
            for method in (socket.socket.recv, socket.socket.send, socket.socket.sendall, socket.socket.recv_into):
                raised(TypeError, method, object(), b"")
            closed, _other = tcp_pair()
            closed.close()
            for call in (lambda: closed.recv(4096), lambda: closed.send(b"x"), lambda: closed.sendall(b"x"),
                         lambda: closed.recv_into(bytearray(1))):
                assert raised(OSError, call).errno == errno.EBADF
    """)  # fmt: skip


def test_fifty_thousand(way):
    """All wait at once, and each is switched to again."""
    check(way, """
        def main():
            gate, seen = threading.Event(), Collected()

            def wait(number):
                gate.wait()
                seen(number)

            begun = [threads.spawn(wait, number) for number in range(50_000)]
            time.sleep(0)
            gate.set()
            for thread in begun:
                thread.join()
            assert sorted(seen) == list(range(50_000))
    """, timeout=120)  # fmt: skip


def test_deep_stacks_and_collections_while_others_run(way):
    """Each has a stack of its own, however deep in Python and in C, and what it holds is seen by the collector."""
    check(way, """
        import functools, gc, weakref

        class Node:
            pass

        def deep(left, key):
            if left:
                return functools.reduce(lambda _a, b: deep(b, key), [0, left - 1])
            node = Node()
            node.itself, node.key = node, key
            for _ in range(3):
                time.sleep(0)
                gc.collect(0)
            assert node.itself.key == key
            alive.add(node)
            return key

        alive = weakref.WeakSet()

        def main():
            begun = [threads.spawn(deep, 20 + 5 * (number % 10), number) for number in range(40)]
            assert [thread.join() for thread in begun] == list(range(40))
            del begun
            gc.collect()
            assert not alive
    """)  # fmt: skip


def test_errors_that_hold_themselves_are_each_threads_own(way):
    """sys.exc_info() is its own while others raise theirs, and nothing of it stays."""
    check(way, """
        import gc, weakref

        class Mine(Exception):
            pass

        alive = weakref.WeakSet()

        def fail(number):
            try:
                raise Mine(number)
            except Mine as error:
                error.itself = error
                alive.add(error)
                for _ in range(5):
                    time.sleep(0)
                    assert sys.exc_info()[1].args == (number,)
                try:
                    raise ValueError(number)
                except ValueError as other:
                    time.sleep(0)
                    assert other.__context__ is error and sys.exc_info()[1] is other
            assert sys.exc_info() == (None, None, None)
            raise Mine(-number)

        def main():
            begun = [threads.spawn(fail, number) for number in range(50)]
            for thread in begun:
                thread.awaited = True
            for number, thread in enumerate(begun):
                assert raised(Mine, thread.join).args == (-number,)
            del begun, thread
            gc.collect()
            assert not alive
    """)  # fmt: skip
