"""The ready queue: call_soon, call_soon_threadsafe, handles, contexts, exceptions in callbacks."""

import asyncio
import contextvars
import copy
import gc
import pickle
import threading
import time
import weakref

import pytest
from support import Recorder, eventually, settle, turns

VARIABLE = contextvars.ContextVar("VARIABLE", default="outside")


async def test_call_soon_keeps_order(loop):
    seen = []
    for i in range(1000):
        loop.call_soon(seen.append, i)
    await asyncio.sleep(0)
    assert seen == list(range(1000))


async def test_call_soon_runs_in_the_next_turn(loop):
    seen = []

    def outer():
        seen.append("outer")
        loop.call_soon(seen.append, "inner")

    loop.call_soon(outer)
    loop.call_soon(seen.append, "second")
    await asyncio.sleep(0)
    assert seen == ["outer", "second"]
    await asyncio.sleep(0)
    assert seen == ["outer", "second", "inner"]


async def test_call_soon_passes_arguments(loop):
    seen = []
    for count in range(12):
        loop.call_soon(lambda *args: seen.append(args), *range(count))
    await asyncio.sleep(0)
    assert seen == [tuple(range(count)) for count in range(12)]


@pytest.mark.ours
async def test_a_handle_is_not_pickled(loop):
    """Not by the old protocols either, which take the word of its `__class__` for what it is."""
    for handle in (loop.call_soon(int), loop.call_later(100, int)):
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            with pytest.raises(TypeError, match="cannot pickle"):
                pickle.dumps(handle, protocol)
        with pytest.raises(TypeError, match="cannot pickle"):
            copy.copy(handle)
        handle.cancel()


async def test_handle(loop):
    seen = []
    handle = loop.call_soon(seen.append, 1)
    assert isinstance(handle, asyncio.Handle)
    assert not handle.cancelled()
    assert "append" in repr(handle)
    handle.cancel()
    handle.cancel()
    assert handle.cancelled()
    assert "cancelled" in repr(handle)
    await turns()
    assert seen == []


async def test_cancel_after_the_call_and_inside_it(loop):
    seen = []
    handle = loop.call_soon(lambda: (seen.append(1), handle.cancel()))
    await asyncio.sleep(0)
    handle.cancel()
    assert seen == [1]


async def test_a_callback_cancels_the_next_one(loop):
    seen = []
    handles = []
    handles.append(loop.call_soon(lambda: handles[1].cancel()))
    handles.append(loop.call_soon(seen.append, "cancelled"))
    loop.call_soon(seen.append, "kept")
    await asyncio.sleep(0)
    assert seen == ["kept"]


async def test_cancelled_handle_lets_its_arguments_go(loop):
    class Thing:
        pass

    thing = Thing()
    ref = weakref.ref(thing)
    handle = loop.call_soon(lambda _: None, thing)
    timer = loop.call_later(1000, lambda _: None, thing)
    handle.cancel()
    timer.cancel()
    del thing
    gc.collect()
    assert ref() is None


async def test_finished_handle_lets_its_arguments_go(loop):
    class Thing:
        pass

    thing = Thing()
    ref = weakref.ref(thing)
    loop.call_soon(lambda _: None, thing)
    loop.call_later(0, lambda _: None, thing)
    del thing
    await asyncio.sleep(0.01)
    gc.collect()
    assert ref() is None


def test_call_soon_of_a_coroutine_function_is_refused_in_debug_mode(loop):
    async def wrong():
        raise AssertionError("never run")

    loop.set_debug(True)
    for call in (loop.call_soon, loop.call_soon_threadsafe, lambda f: loop.call_later(1, f)):
        with pytest.raises(TypeError):
            call(wrong)
        with pytest.raises(TypeError):
            call(5)


def test_an_object_that_cannot_be_called_does_not_hurt_the_loop(loop, errors):
    try:
        loop.call_soon(5)
    except TypeError:
        pass
    loop.run_until_complete(turns())
    errors.clear()


# -- from other threads


def test_threadsafe_wakes_a_sleeping_loop(loop):
    began = time.monotonic()

    async def main():
        woken = asyncio.Event()
        thread = threading.Thread(target=lambda: (time.sleep(0.05), loop.call_soon_threadsafe(woken.set)))
        thread.start()
        await woken.wait()
        thread.join()

    loop.run_until_complete(asyncio.wait_for(main(), 30))
    assert time.monotonic() - began < 10


def test_threadsafe_while_the_loop_is_busy(loop):
    seen = []
    go_on = True

    def spin():
        if go_on:
            loop.call_soon(spin)

    async def main():
        nonlocal go_on
        loop.call_soon(spin)
        threads = [threading.Thread(target=lambda i=i: loop.call_soon_threadsafe(seen.append, i)) for i in range(20)]
        for thread in threads:
            thread.start()
        while len(seen) < 20:
            await asyncio.sleep(0)
        for thread in threads:
            thread.join()
        go_on = False

    loop.run_until_complete(asyncio.wait_for(main(), 30))
    assert sorted(seen) == list(range(20))


def test_threadsafe_storm(loop):
    each, count = 25_000, 4
    seen = {i: [] for i in range(count)}
    done = asyncio.Event()

    def note(thread, i):
        seen[thread].append(i)
        if sum(len(s) for s in seen.values()) == each * count if i == each - 1 else False:
            done.set()

    def storm(thread):
        for i in range(each):
            loop.call_soon_threadsafe(note, thread, i)

    async def main():
        threads = [threading.Thread(target=storm, args=(i,)) for i in range(count)]
        for thread in threads:
            thread.start()
        await done.wait()
        for thread in threads:
            thread.join()

    loop.run_until_complete(asyncio.wait_for(main(), 50))
    for numbers in seen.values():
        assert numbers == list(range(each))


def test_threadsafe_ping_pong_loses_no_wake_up(loop):
    """One call at a time, at a moment when the loop just goes to sleep: a lost wake-up hangs here."""
    rounds = 3000
    answered = threading.Semaphore(0)
    failed = []

    def caller():
        for _ in range(rounds):
            loop.call_soon_threadsafe(answered.release)
            if not answered.acquire(timeout=10):
                failed.append("lost")
                break
        loop.call_soon_threadsafe(loop.stop)

    thread = threading.Thread(target=caller)
    thread.start()
    loop.run_forever()
    thread.join()
    assert not failed


def test_threadsafe_before_the_loop_runs(loop):
    seen = []
    thread = threading.Thread(target=lambda: loop.call_soon_threadsafe(seen.append, 1))
    thread.start()
    thread.join()
    loop.call_soon_threadsafe(seen.append, 2)
    assert seen == []
    loop.run_until_complete(turns())
    assert seen == [1, 2]


def test_threadsafe_from_the_loops_own_thread(loop):
    seen = []

    async def main():
        loop.call_soon_threadsafe(seen.append, 1)
        loop.call_soon(seen.append, 2)
        loop.call_soon_threadsafe(seen.append, 3)
        await turns(2)

    loop.run_until_complete(main())
    assert seen == [1, 2, 3]


def test_threadsafe_on_a_closed_loop(loop):
    loop.close()
    caught = []

    def call():
        try:
            loop.call_soon_threadsafe(print)
        except RuntimeError as exc:
            caught.append(exc)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    assert len(caught) == 1


def test_closing_while_other_threads_call(new_loop):
    """The last moment of a loop: a RuntimeError or nothing, never a crash."""
    for _ in range(20):
        loop = new_loop()
        ready, stop = threading.Event(), threading.Event()

        def hammer(loop=loop, ready=ready, stop=stop):
            with pytest.raises(RuntimeError):
                while not stop.is_set():
                    loop.call_soon_threadsafe(int)
                    ready.set()

        threads = [threading.Thread(target=hammer) for _ in range(2)]
        try:
            for thread in threads:
                thread.start()
            assert ready.wait(10)
            loop.run_until_complete(turns(5))
            loop.close()
            for thread in threads:
                thread.join(10)
                assert not thread.is_alive()
        finally:
            # A failure must not leave a thread behind that fills the memory.
            stop.set()


async def test_threadsafe_handles_can_be_cancelled_from_their_thread(loop):
    seen = []
    begun, end = threading.Event(), threading.Event()

    def caller():
        handle = loop.call_soon_threadsafe(seen.append, 1)
        handle.cancel()
        begun.set()
        end.wait(10)

    thread = threading.Thread(target=caller)
    thread.start()
    begun.wait(10)
    await turns(5)
    end.set()
    thread.join()
    assert seen == []


# -- contexts


async def test_callbacks_run_in_the_context_they_were_made_in(loop):
    seen = []

    def note():
        seen.append(VARIABLE.get())
        VARIABLE.set("changed by a callback")

    VARIABLE.set("inside")
    own = contextvars.copy_context()
    own.run(VARIABLE.set, "own")
    loop.call_soon(note)
    loop.call_soon(note, context=own)
    loop.call_soon_threadsafe(note)
    loop.call_soon_threadsafe(note, context=own)
    loop.call_later(0, note)
    loop.call_at(loop.time(), note, context=own)
    VARIABLE.set("later")
    await asyncio.sleep(0.01)
    assert seen == [
        "inside",
        "own",
        "inside",
        "changed by a callback",
        "inside",
        "changed by a callback",
    ] or sorted(seen) == sorted(["inside", "own", "inside", "inside"] + ["changed by a callback"] * 2)
    assert VARIABLE.get() == "later"
    assert own[VARIABLE] == "changed by a callback"


async def test_reader_and_writer_contexts(loop, connect):
    _, _, peer = await connect()
    seen = []
    done = asyncio.Event()
    VARIABLE.set("writer")

    def writable():
        seen.append(VARIABLE.get())
        loop.remove_writer(peer.sock)
        done.set()

    loop.add_writer(peer.sock, writable)
    VARIABLE.set("later")
    await done.wait()
    assert seen == ["writer"]


async def test_protocols_run_in_the_context_of_their_maker(loop, connect):
    class Noting(Recorder):
        seen: list[str]

        def connection_made(self, transport):
            self.seen = [VARIABLE.get()]
            super().connection_made(transport)

        def data_received(self, data):
            self.seen.append(VARIABLE.get())
            super().data_received(data)

        def connection_lost(self, exc):
            self.seen.append(VARIABLE.get())
            super().connection_lost(exc)

    VARIABLE.set("maker")
    transport, protocol, peer = await connect(Noting)
    VARIABLE.set("later")
    peer.send_now(b"x")
    await protocol.until_received(1)
    transport.close()
    await protocol.until_called("lost")
    assert protocol.seen[:2] == ["maker", "maker"]


async def test_nested_use_of_a_context_is_reported_not_fatal(loop, errors):
    context = contextvars.copy_context()
    seen = []

    def inside():
        loop.call_soon(seen.append, 1, context=context)

    context.run(inside)
    await asyncio.sleep(0)
    assert seen == [1]


# -- exceptions


async def test_an_exception_in_a_callback_is_reported_and_the_loop_goes_on(loop, errors):
    seen = []
    loop.call_soon(lambda: 1 / 0)
    loop.call_soon(seen.append, 1)
    await asyncio.sleep(0)
    assert seen == [1]
    (context,) = errors
    assert isinstance(context["exception"], ZeroDivisionError)
    assert "Exception in callback" in context["message"]
    assert isinstance(context["handle"], asyncio.Handle)
    errors.clear()


@pytest.mark.parametrize("exit_type", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("how", ["call_soon", "call_later", "call_soon_threadsafe", "task"])
def test_exits_leave_run_forever_and_it_can_be_run_again(loop, exit_type, how):
    def leave():
        raise exit_type("on purpose")

    async def leave_task():
        leave()

    tasks = []
    if how == "call_later":
        loop.call_later(0.001, leave)
    elif how == "task":
        tasks.append(loop.create_task(leave_task()))
    else:
        getattr(loop, how)(leave)
    seen = []
    loop.call_soon(seen.append, 1)
    with pytest.raises(exit_type, match="on purpose"):
        loop.run_forever()
    assert not loop.is_running()
    loop.run_until_complete(turns())
    assert seen == [1]
    for task in tasks:
        with pytest.raises(exit_type):
            task.result()


def test_an_exit_keeps_the_callbacks_after_it(loop):
    seen = []
    loop.call_soon(seen.append, 1)
    loop.call_soon(lambda: (_ for _ in ()).throw(SystemExit))
    for i in range(2, 50):
        loop.call_soon(seen.append, i)
    with pytest.raises(SystemExit):
        loop.run_forever()
    loop.run_until_complete(turns())
    assert seen == list(range(1, 50))


def test_other_threads_get_their_turn_while_the_loop_is_busy(loop):
    progress = 0
    stop = threading.Event()

    def work():
        nonlocal progress
        while not stop.is_set():
            progress += 1

    thread = threading.Thread(target=work)
    thread.start()

    async def main():
        while progress < 1000:
            await asyncio.sleep(0)

    try:
        loop.run_until_complete(asyncio.wait_for(main(), 30))
    finally:
        stop.set()
        thread.join()
    assert eventually(lambda: not thread.is_alive())


class Notes(asyncio.Protocol):
    """Writes down what it hears, and has a callback run for each."""

    def __init__(self, loop, seen, name):
        self.loop, self.seen, self.name = loop, seen, name

    def data_received(self, data):
        self.seen.append(f"data for {self.name}")
        self.loop.call_soon(self.seen.append, f"callback of {self.name}")

    def connection_lost(self, exc):
        self.seen.append(f"{self.name} lost")


async def test_all_that_has_arrived_is_delivered_before_what_it_makes_due(loop, connect):
    seen = []
    for_one, _, one = await connect()
    for_two, _, two = await connect()
    for_one.set_protocol(Notes(loop, seen, "one"))
    for_two.set_protocol(Notes(loop, seen, "two"))
    await turns(3)
    one.send_now(b"x")
    two.send_now(b"x")
    time.sleep(0.05)  # both arrive in the next turn
    await settle(lambda: len(seen) == 4)
    assert {*seen[:2]} == {"data for one", "data for two"}


async def close_as_another_receives(loop, connect):
    """Close one of two connections as data arrives at the other: what happens, in its order."""
    seen = []
    closes, _, _ = await connect()
    receives, _, peer = await connect()
    closes.set_protocol(Notes(loop, seen, "one"))
    receives.set_protocol(Notes(loop, seen, "two"))
    await turns(3)

    def close():
        closes.close()
        loop.call_soon(later)

    def later():
        seen.append("later")

    peer.send_now(b"x")
    time.sleep(0.05)
    loop.call_soon(close)
    await settle(lambda: {"one lost", "later", "data for two"} <= {*seen})
    return seen


async def test_a_connection_is_lost_before_later_callbacks_whatever_arrives(way, loop, connect):
    # A poller that gets no CPU does not end its receiving within the moment that it is given: then another try counts.
    for _ in range(20 if way.name == "kernel-sqpoll" else 1):
        seen = await close_as_another_receives(loop, connect)
        if seen.index("one lost") < seen.index("later"):
            break
    assert seen.index("one lost") < seen.index("later")
