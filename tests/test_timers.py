"""call_later and call_at."""

import asyncio
import gc
import math
import time
import weakref

import pytest
from support import turns


async def test_call_later_waits(loop):
    began = loop.time()
    fired = asyncio.Event()
    loop.call_later(0.03, fired.set)
    await fired.wait()
    assert 0.029 <= loop.time() - began < 5


async def test_time_goes_with_the_monotonic_clock(loop):
    assert abs(loop.time() - time.monotonic()) < 1
    one, two = loop.time(), loop.time()
    assert isinstance(one, float) and two >= one
    time.sleep(0.01)
    assert loop.time() - two >= 0.0099


async def test_timers_fire_in_the_order_of_their_deadlines(loop):
    seen = []
    done = asyncio.Event()
    now = loop.time()
    for delay in (0.02, 0.005, 0.01, 0.0, 0.015):
        loop.call_at(now + delay, seen.append, delay)
    loop.call_at(now + 0.021, done.set)
    await done.wait()
    assert seen == sorted(seen) and len(seen) == 5


async def test_equal_deadlines_keep_the_order_of_their_calls(way, loop):
    seen = []
    done = asyncio.Event()
    when = loop.time() + 0.01
    count = 500 if way.ours else 2  # asyncio's heap does not promise it for more
    for i in range(count):
        loop.call_at(when, seen.append, i)
    loop.call_at(when + 0.001, done.set)
    await done.wait()
    assert seen == list(range(count))


async def test_due_timers_run_in_the_next_turn(loop):
    seen = []
    for delay in (0, -1, -1000, -math.inf):
        loop.call_later(delay, seen.append, delay)
    loop.call_at(0, seen.append, "long ago")
    await asyncio.sleep(0.002)
    assert len(seen) == 5


async def test_a_due_timer_does_not_make_the_loop_sleep(loop):
    began = time.monotonic()
    left = 500

    def again():
        nonlocal left
        left -= 1
        if left:
            loop.call_later(0, again)
        else:
            done.set()

    done = asyncio.Event()
    loop.call_later(0, again)
    await done.wait()
    assert time.monotonic() - began < 10


async def test_timer_handle(loop):
    now = loop.time()
    handle = loop.call_later(10, print, "never")
    assert isinstance(handle, asyncio.TimerHandle)
    assert now + 10 <= handle.when() <= loop.time() + 10
    assert loop.call_at(now + 3, print).when() == now + 3
    assert isinstance(loop.call_at(int(now) + 3, print).when(), int)
    assert isinstance(loop.call_at(now + 3, print)._when, float)
    assert "print" in repr(handle)
    assert not handle.cancelled()
    handle.cancel()
    assert handle.cancelled()
    handle.cancel()
    later = loop.call_later(20, print)
    earlier = loop.call_later(10, print)
    assert earlier < later and later > earlier and earlier <= later and later >= earlier
    assert earlier != later and earlier == earlier
    assert len({earlier, later}) == 2
    for timer in (earlier, later):
        timer.cancel()


def test_timers_that_are_never_reached_do_not_stop_a_loop_from_ending(loop):
    loop.call_later(100_000, print)
    loop.call_later(1e9, print)
    loop.call_at(loop.time() + 1e15, print)
    loop.call_later(math.inf, print)
    loop.run_until_complete(asyncio.sleep(0.01))


async def test_cancelled_timers_do_not_fire(loop):
    seen = []
    handles = [loop.call_later(0.001 * (i % 10), seen.append, i) for i in range(1000)]
    for i, handle in enumerate(handles):
        if i % 3:
            handle.cancel()
    await asyncio.sleep(0.02)
    assert sorted(seen) == [i for i in range(1000) if i % 3 == 0]


async def test_a_timer_cancels_another_that_is_due_in_the_same_turn(loop):
    seen = []
    when = loop.time() + 0.001
    loop.call_at(when, lambda: second.cancel())
    second = loop.call_at(when + 1e-7, seen.append, "cancelled")
    loop.call_at(when + 2e-7, seen.append, "kept")
    time.sleep(0.002)
    await asyncio.sleep(0.002)
    assert seen == ["kept"]


async def test_cancelled_timers_do_not_stay(loop):
    class Callback:
        def __call__(self):
            raise AssertionError("never")

    refs = []
    for _ in range(100_000):
        handle = loop.call_later(3600, Callback())
        refs.append(weakref.ref(handle))
        handle.cancel()
    del handle
    await turns(5)
    gc.collect()
    assert sum(ref() is not None for ref in refs) < 1000


async def test_cancelled_timers_go_while_others_stay(loop):
    seen = []
    kept = [loop.call_later(3600, seen.append, i) for i in range(200)]
    refs = []
    for _ in range(20_000):
        handle = loop.call_later(1800, seen.append, None)
        refs.append(weakref.ref(handle))
        handle.cancel()
    del handle
    await turns(5)
    gc.collect()
    assert sum(ref() is not None for ref in refs) < 1000
    assert not any(handle.cancelled() for handle in kept)
    for handle in kept:
        handle.cancel()


async def test_a_timer_set_by_a_timer(loop):
    seen = []
    done = asyncio.Event()

    def first():
        seen.append(1)
        loop.call_later(0.001, second)

    def second():
        seen.append(2)
        done.set()

    loop.call_later(0.001, first)
    await done.wait()
    assert seen == [1, 2]


async def test_timers_fire_while_the_loop_is_busy(loop):
    done = False

    def finish():
        nonlocal done
        done = True

    loop.call_later(0.01, finish)
    rounds = 0
    while not done:
        rounds += 1
        await asyncio.sleep(0)
    assert rounds > 1


async def test_sleep_order(loop):
    seen = []

    async def sleeper(delay):
        await asyncio.sleep(delay)
        seen.append(delay)

    await asyncio.gather(*(sleeper(delay / 200) for delay in (5, 1, 4, 2, 3)))
    assert seen == sorted(seen)


async def test_wait_for_and_timeout(loop):
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.Event().wait(), 0.005)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.005):
            await asyncio.Event().wait()
    async with asyncio.timeout(60):
        await asyncio.sleep(0)


def test_misuse(loop):
    with pytest.raises(TypeError):
        loop.call_later("soon", print)
    with pytest.raises(TypeError):
        loop.call_later(None, print)
    with pytest.raises(TypeError):
        loop.call_at(None, print)
    loop.run_until_complete(turns())


def test_a_deadline_is_not_lost_when_the_loop_is_woken_before_it(loop):
    """Readers, threads and signals wake the loop; it must go back to sleep for the rest of the time."""

    async def main():
        began = loop.time()
        sleeping = asyncio.ensure_future(asyncio.sleep(0.1))
        for _ in range(30):
            await loop.run_in_executor(None, time.sleep, 0.001)
        await sleeping
        return loop.time() - began

    assert 0.099 <= loop.run_until_complete(main()) < 10


def test_a_loop_that_waits_for_a_timer_uses_no_cpu(loop):
    loop.run_until_complete(asyncio.sleep(0.05))
    began = time.process_time()
    loop.run_until_complete(asyncio.sleep(0.5))
    assert time.process_time() - began < 0.1


def test_short_timers_do_not_spin(way, loop):
    """A deadline that is rounded down would be polled for until it is due."""
    if not way.ours:
        pytest.skip("needs stats()")

    async def main():
        before = loop.stats()["turns"]
        for _ in range(20):
            await asyncio.sleep(0.0013)
        return loop.stats()["turns"] - before

    assert loop.run_until_complete(main()) < 400
