"""The default executor as the loop uses it: asyncio's contract, and workers that take turns."""

import asyncio
import concurrent.futures
import contextvars
import gc
import os
import random
import socket
import sys
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support import eventually, settle, turns

from flexsc_loop.turn.executor import Executor

LIMIT = 20  # seconds after which something that should come is taken not to come


@pytest.fixture(params=["ours", "stdlib"])
def kind(request):
    return {"ours": Executor, "stdlib": ThreadPoolExecutor}[request.param]


@pytest.fixture
def executor(kind):
    """What both promise."""
    with kind(4, thread_name_prefix="test") as made:
        yield made


def spin(flag):
    """Compute, with the GIL, until somebody else sets `flag`."""
    end = time.monotonic() + LIMIT
    while not flag and time.monotonic() < end:
        pass
    return bool(flag)


# ---- run_in_executor


async def test_result_and_arguments(loop):
    assert await loop.run_in_executor(None, divmod, 17, 5) == (3, 2)


async def test_runs_in_a_named_thread_that_is_not_the_loops(loop):
    name, ident = await loop.run_in_executor(None, lambda: (threading.current_thread().name, threading.get_ident()))
    assert name == "asyncio_0"
    assert ident != threading.get_ident()


async def test_is_a_thread_pool_executor_as_asyncios(loop):
    await loop.run_in_executor(None, int)
    assert isinstance(loop._default_executor, ThreadPoolExecutor)
    assert len(loop._default_executor._threads) == 1


async def test_returns_a_future_of_the_loop(loop):
    future = loop.run_in_executor(None, int)
    assert asyncio.isfuture(future) and future.get_loop() is loop
    assert await future == 0


@pytest.mark.parametrize("error", [ValueError("x"), KeyError(1), SystemExit(3), KeyboardInterrupt()])
async def test_exceptions_of_jobs(loop, error):
    def fail():
        raise error

    with pytest.raises(type(error)) as caught:
        await loop.run_in_executor(None, fail)
    assert caught.value is error
    assert "fail" in [entry.name for entry in caught.traceback]


@pytest.mark.ours  # asyncio's own future would never be done on Python 3.11
async def test_stop_iteration(loop):
    with pytest.raises(RuntimeError, match="StopIteration"):
        await loop.run_in_executor(None, next, iter(()))


async def test_errors_of_concurrent_futures_become_asyncios(loop):
    def fail():
        raise concurrent.futures.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await loop.run_in_executor(None, fail)


async def test_not_callable(loop):
    with pytest.raises(TypeError):
        await loop.run_in_executor(None, 5)


async def test_debug_mode_refuses_coroutine_functions(loop):
    loop.set_debug(True)
    with pytest.raises(TypeError, match="coroutines cannot be used with run_in_executor"):
        loop.run_in_executor(None, turns)
    assert await loop.run_in_executor(None, int) == 0


async def test_contexts(loop):
    variable = contextvars.ContextVar("variable", default="default")
    variable.set("caller's")
    assert await loop.run_in_executor(None, variable.get) == "default"
    assert await asyncio.to_thread(variable.get) == "caller's"


@pytest.mark.ours
async def test_starts_in_order(loop):
    started = []
    await asyncio.gather(*[loop.run_in_executor(None, started.append, i) for i in range(2000)])
    assert started == list(range(2000))


@pytest.mark.ours
async def test_jobs_that_block_run_at_the_same_time(loop):
    barrier = threading.Barrier(64)
    places = await asyncio.gather(*[loop.run_in_executor(None, barrier.wait, LIMIT) for _ in range(64)])
    assert sorted(places) == list(range(64))


async def test_jobs_that_compute_do_not_stop_others(loop):
    flag = []
    busy = loop.run_in_executor(None, spin, flag)
    await loop.run_in_executor(None, flag.append, 1)
    assert await busy


@pytest.mark.ours
async def test_short_jobs_share_one_thread(loop):
    for _ in range(50):
        await asyncio.gather(*[loop.run_in_executor(None, int) for _ in range(20)])
    # More than one only where this process was kept from running for long.
    assert len(loop._default_executor._threads) < 20


async def test_a_callback_that_blocks_on_its_job(loop):
    for pause in (0, 0.2):
        await asyncio.sleep(pause)
        event = threading.Event()
        future = loop.run_in_executor(None, event.set)
        assert event.wait(LIMIT)
        await future


async def test_a_callback_that_blocks_on_its_job_beside_a_stuck_one(loop):
    release, event = threading.Event(), threading.Event()
    stuck = loop.run_in_executor(None, release.wait, LIMIT)
    await turns()
    future = loop.run_in_executor(None, event.set)
    assert event.wait(LIMIT)
    release.set()
    await asyncio.gather(stuck, future)


async def test_a_callback_that_computes_until_its_job_is_done(loop):
    await loop.run_in_executor(None, int)
    flag = []
    future = loop.run_in_executor(None, flag.append, 1)
    assert spin(flag)
    await future


def test_before_the_loop_runs(loop):
    event = threading.Event()
    future = loop.run_in_executor(None, event.set)
    assert event.wait(LIMIT)
    loop.run_until_complete(future)


def test_what_was_submitted_last_is_done_although_the_loop_stops(loop):
    event = threading.Event()

    async def main():
        await loop.run_in_executor(None, int)
        loop.run_in_executor(None, event.set)

    loop.run_until_complete(main())
    assert event.wait(LIMIT)
    loop.run_until_complete(asyncio.sleep(0.01))


async def test_jobs_that_need_the_loop(loop):
    async def double(x):
        await asyncio.sleep(0)
        return 2 * x

    def job(x):
        return asyncio.run_coroutine_threadsafe(double(x), loop).result(LIMIT)

    assert await asyncio.gather(*[loop.run_in_executor(None, job, x) for x in range(20)]) == list(range(0, 40, 2))


@pytest.mark.ours
async def test_jobs_that_wait_for_jobs_of_their_own(loop):
    await loop.run_in_executor(None, int)
    own = loop._default_executor

    def fibonacci(n):
        if n < 2:
            return n
        one, two = own.submit(fibonacci, n - 1), own.submit(fibonacci, n - 2)
        return one.result(LIMIT) + two.result(LIMIT)

    assert await loop.run_in_executor(None, fibonacci, 7) == 13


async def test_getaddrinfo_uses_it(loop):
    assert await loop.getaddrinfo("localhost", 80)
    assert loop._default_executor is not None


async def test_references_are_dropped(loop):
    class Thing:
        def method(self, other):
            return other

    thing, other = Thing(), Thing()
    watched = [weakref.ref(thing), weakref.ref(other)]
    await loop.run_in_executor(None, thing.method, other)
    await loop.run_in_executor(None, int)
    del thing, other
    gc.collect()
    assert [reference() for reference in watched] == [None, None]


async def test_serial_jobs_at_all_distances(loop):
    """No wake-up is lost, whatever the workers are about to do when a job comes."""
    rng = random.Random(1)
    for i in range(300):
        if i % 3 == 0:
            await asyncio.sleep(rng.choice([0, 1e-4, 1e-3, 5e-3, 2e-2]))
        job = (time.sleep, rng.choice([0, 1e-5, 1e-4, 3e-4])) if i % 2 else (int,)
        await asyncio.wait_for(loop.run_in_executor(None, *job), LIMIT)


@pytest.mark.ours
def test_jobs_that_block_while_threads_start(way):
    """A thread is ordered to look, and then to work, before it has come that far."""

    async def block(loop):
        barrier = threading.Barrier(32)
        await asyncio.gather(*[loop.run_in_executor(None, barrier.wait, LIMIT / 2) for _ in range(32)])

    for _ in range(20):
        loop = way.new_loop()
        try:
            loop.run_until_complete(block(loop))
            loop.run_until_complete(loop.shutdown_default_executor())
        finally:
            loop.close()


@pytest.fixture
def socket_pair():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


@pytest.mark.ours
async def test_jobs_without_end_leave_the_loop_time_to_look(loop, way, socket_pair):
    """Results are gone on with at once, but not for ever: what arrives meanwhile, and what is due, is told."""
    ours, theirs = socket_pair
    seen = []
    loop.add_reader(ours, lambda: seen.append(ours.recv(100)))
    theirs.send(b"data")
    loop.call_later(0, seen.append, b"timer")
    # A syscall thread may have to wait for its CPU.
    for _ in range(20 if way.name.endswith("own") else 100_000):
        await loop.run_in_executor(None, int)
        if len(seen) == 2:
            break
    loop.remove_reader(ours)
    assert sorted(seen) == [b"data", b"timer"]


@pytest.mark.parametrize("jobs", range(4))
async def test_data_comes_before_the_timer_that_waits_for_it_also_between_jobs(loop, socket_pair, jobs):
    """However late both are, and however many turns the loop has not looked."""
    ours, theirs = socket_pair
    seen = []
    loop.add_reader(ours, lambda: seen.append(ours.recv(100)))
    for _ in range(20):
        for _ in range(jobs):
            await loop.run_in_executor(None, int)
        timer = loop.call_later(0.001, seen.append, "timer")
        theirs.send(b"data")
        time.sleep(0.002)
        while not seen:
            await loop.run_in_executor(None, int)
        timer.cancel()
        assert seen.pop(0) == b"data"
        seen.clear()
    loop.remove_reader(ours)


async def test_serial_jobs_of_system_calls(loop, tmp_path):
    """The loop and the worker hand each other jobs faster than either falls asleep, with pauses of all lengths."""
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 16)
    with path.open("rb") as file:
        for i in range(1000):
            if i % 50 == 0:
                await asyncio.sleep(i / 50 * 1e-5)
            at = i * 7 % 4000
            got = await asyncio.wait_for(loop.run_in_executor(None, os.pread, file.fileno(), 3, at), LIMIT)
            assert got == bytes((at + n) % 256 for n in range(3))


@pytest.mark.ours
async def test_idle_workers_sleep(loop):
    barrier = threading.Barrier(3)
    await asyncio.gather(*[loop.run_in_executor(None, barrier.wait, LIMIT) for _ in range(3)])
    tids = [thread.native_id for thread in loop._default_executor._threads]
    assert tids

    def switches():
        lines = [Path(f"/proc/self/task/{tid}/status").read_text().splitlines() for tid in tids]
        return [line for status in lines for line in status if line.startswith("voluntary")]

    async def quiet():
        before = switches()
        await asyncio.sleep(0.1)
        return before == switches()

    end = time.monotonic() + LIMIT
    while not await quiet():
        assert time.monotonic() < end


# ---- cancelling


async def test_cancel_while_queued(loop, kind):
    ran = []
    started, release = threading.Event(), threading.Event()
    with kind(1) as one:
        loop.set_default_executor(one)
        first = loop.run_in_executor(None, lambda: (started.set(), release.wait(LIMIT)))
        second = loop.run_in_executor(None, ran.append, 2)
        third = loop.run_in_executor(None, ran.append, 3)
        assert started.wait(LIMIT)
        assert second.cancel()
        await turns()
        release.set()
        await asyncio.gather(first, third)
    assert ran == [3] and second.cancelled()


@pytest.mark.ours
async def test_cancel_in_the_turn_of_the_call(loop):
    ran = []
    await loop.run_in_executor(None, int)
    future = loop.run_in_executor(None, ran.append, 1)
    assert future.cancel()
    await loop.run_in_executor(None, ran.append, 2)
    assert ran == [2]


async def test_cancel_of_a_running_job(loop):
    started, release, ended = threading.Event(), threading.Event(), threading.Event()

    def job():
        started.set()
        release.wait(LIMIT)
        ended.set()
        raise ValueError("nobody hears this")

    future = loop.run_in_executor(None, job)
    await loop.run_in_executor(None, started.wait, LIMIT)
    future.cancel()
    with pytest.raises(asyncio.CancelledError):
        await future
    release.set()
    assert await loop.run_in_executor(None, ended.wait, LIMIT)
    await turns(5)


async def test_timeout_around_a_job(loop):
    release = threading.Event()
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(loop.run_in_executor(None, release.wait, LIMIT), 0.01)
    release.set()


async def test_a_future_that_somebody_else_completes(loop):
    release = threading.Event()
    future = loop.run_in_executor(None, release.wait, LIMIT)
    future.cancel()
    release.set()
    assert await loop.run_in_executor(None, int) == 0


# ---- the loop's default


async def test_set_default_executor(loop, kind):
    await loop.run_in_executor(None, int)
    before = loop._default_executor
    with kind(2, thread_name_prefix="mine") as mine:
        loop.set_default_executor(mine)
        name = await loop.run_in_executor(None, lambda: threading.current_thread().name)
        assert name == "mine_0"
        loop.set_default_executor(before)
        name = await loop.run_in_executor(None, lambda: threading.current_thread().name)
        assert name == "asyncio_0"
    with pytest.raises(TypeError):
        loop.set_default_executor(concurrent.futures.Executor())


async def test_another_executor_is_used_when_given(loop, executor):
    assert (await loop.run_in_executor(executor, lambda: threading.current_thread().name)).startswith("test_")
    assert loop._default_executor is None


async def test_the_default_one_may_be_given_by_name(loop):
    await loop.run_in_executor(None, int)
    assert await loop.run_in_executor(loop._default_executor, int) == 0


async def test_shutdown_waits_for_all_jobs(loop):
    done = []
    release = threading.Event()
    futures = [loop.run_in_executor(None, release.wait, LIMIT)]
    futures += [loop.run_in_executor(None, done.append, i) for i in range(100)]
    loop.call_later(0.01, release.set)
    await loop.shutdown_default_executor()
    assert done == list(range(100))
    assert all(future.done() for future in futures)
    with pytest.raises(RuntimeError, match="shutdown"):
        loop.run_in_executor(None, int)
    await loop.shutdown_default_executor()


async def test_shutdown_without_jobs(loop):
    await loop.shutdown_default_executor()
    with pytest.raises(RuntimeError, match="shutdown"):
        loop.run_in_executor(None, int)


@pytest.mark.skipif(sys.version_info < (3, 13), reason="new in Python 3.12, whose first releases wait without limit")
async def test_shutdown_with_a_timeout(loop):
    release = threading.Event()
    future = loop.run_in_executor(None, release.wait, LIMIT)
    with pytest.warns(RuntimeWarning, match="did not finishing joining"):
        await loop.shutdown_default_executor(timeout=0.01)
    release.set()
    assert await future


def test_close_while_a_job_runs(new_loop):
    loop = new_loop()
    started, release, ran = threading.Event(), threading.Event(), []

    async def main():
        loop.run_in_executor(None, lambda: (started.set(), release.wait(LIMIT)))
        loop.run_in_executor(None, ran.append, 1)
        assert started.wait(LIMIT)

    loop.run_until_complete(main())
    loop.close()
    with pytest.raises(RuntimeError, match="closed"):
        loop.run_in_executor(None, int)
    release.set()
    assert eventually(lambda: ran == [1])


def test_a_loop_that_nobody_closes_is_collected(way):
    loop = way.new_loop()
    loop.run_until_complete(loop.run_in_executor(None, int))
    watched = weakref.ref(loop)
    with pytest.warns(ResourceWarning):
        del loop
        gc.collect()
    assert watched() is None


def test_two_loops_in_two_threads(way):
    def run(results):
        loop = way.new_loop()
        try:
            for _ in range(20):
                jobs = [loop.run_in_executor(None, pow, i, 2) for i in range(50)]
                results.append(loop.run_until_complete(asyncio.wait_for(asyncio.gather(*jobs), LIMIT)))
            loop.run_until_complete(loop.shutdown_default_executor())
        finally:
            loop.close()

    results = [[], []]
    threads = [threading.Thread(target=run, args=(mine,)) for mine in results]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [[[i * i for i in range(50)]] * 20] * 2


def test_a_loop_that_moves_to_another_thread(loop):
    loop.run_until_complete(loop.run_in_executor(None, int))
    thread = threading.Thread(target=lambda: loop.run_until_complete(loop.run_in_executor(None, int)))
    thread.start()
    thread.join()
    assert loop.run_until_complete(loop.run_in_executor(None, int)) == 0


async def test_stress_from_the_loop_and_other_threads(loop, soak):
    """Each job is done exactly once, and each result comes back, whoever submits."""
    await loop.run_in_executor(None, int)
    own = loop._default_executor
    counts = [0] * 6

    def job(who):
        if random.random() < 0.02:
            time.sleep(random.choice([0, 1e-4, 1e-3]))
        with lock:
            counts[who] += 1
        return who

    def submitter(who, number):
        pending = []
        for _ in range(number):
            pending.append(own.submit(job, who))
            if random.random() < 0.05:
                assert pending.pop().result(LIMIT) == who
        assert all(future.result(LIMIT) == who for future in pending)

    lock = threading.Lock()
    each = 5000 if soak else 600
    threads = [threading.Thread(target=submitter, args=(who, each)) for who in range(1, 6)]
    for thread in threads:
        thread.start()
    left = each
    while left:
        batch = min(left, random.randint(1, 40))
        left -= batch
        jobs = [loop.run_in_executor(None, job, 0) for _ in range(batch)]
        assert await asyncio.wait_for(asyncio.gather(*jobs), LIMIT) == [0] * batch
    await settle(lambda: not any(thread.is_alive() for thread in threads), LIMIT)
    assert counts == [each] * 6


# ---- threads that can't be had


@pytest.fixture
def no_new_threads(monkeypatch):
    refuse = []
    start = threading.Thread.start

    def maybe(thread):
        if refuse:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", maybe)
    return refuse


@pytest.mark.ours
async def test_no_thread_at_all(loop, no_new_threads):
    ran = []
    no_new_threads.append(1)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        loop.run_in_executor(None, ran.append, 1)
    no_new_threads.clear()
    await loop.run_in_executor(None, ran.append, 2)
    assert ran == [2]


@pytest.mark.ours
async def test_no_second_thread(loop, no_new_threads):
    await loop.run_in_executor(None, int)
    no_new_threads.append(1)
    started, release, ran = threading.Event(), threading.Event(), []
    blocked = loop.run_in_executor(None, lambda: (started.set(), release.wait(LIMIT)))
    others = [loop.run_in_executor(None, ran.append, i) for i in range(5)]
    await settle(started.is_set)
    assert ran == []
    release.set()
    await asyncio.gather(blocked, *others)
    assert ran == list(range(5))
    no_new_threads.clear()


@pytest.mark.ours
async def test_shutdown_that_cancels_jobs_of_the_loop(loop, no_new_threads):
    await loop.run_in_executor(None, int)
    no_new_threads.append(1)
    started, release = threading.Event(), threading.Event()
    first = loop.run_in_executor(None, lambda: (started.set(), release.wait(LIMIT)))
    rest = [loop.run_in_executor(None, int) for _ in range(10)]
    await settle(started.is_set)
    loop._default_executor.shutdown(wait=False, cancel_futures=True)
    await asyncio.wait(rest, timeout=LIMIT)
    assert all(future.cancelled() for future in rest)
    release.set()
    await first
    no_new_threads.clear()
