"""The executor as one of concurrent.futures: the contract of ThreadPoolExecutor."""

import concurrent.futures
import gc
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import eventually

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


def test_submit(executor):
    assert executor.submit(pow, 2, exp=5).result(LIMIT) == 32
    with pytest.raises(ZeroDivisionError):
        executor.submit(divmod, 1, 0).result(LIMIT)


def test_map_wait_and_as_completed(executor):
    assert list(executor.map(pow, range(10), [2] * 10)) == [i * i for i in range(10)]
    futures = [executor.submit(pow, i, 2) for i in range(10)]
    assert {future.result() for future in concurrent.futures.as_completed(futures, LIMIT)} == {i * i for i in range(10)}
    assert concurrent.futures.wait(futures, LIMIT).done == set(futures)


def test_result_with_a_timeout(executor):
    release = threading.Event()
    future = executor.submit(release.wait, LIMIT)
    with pytest.raises(concurrent.futures.TimeoutError):
        future.result(0.01)
    release.set()
    assert future.result(LIMIT)


def test_done_callbacks(executor):
    called = threading.Event()
    future = executor.submit(int)
    future.add_done_callback(lambda _: called.set())
    assert called.wait(LIMIT)


def test_cancel(kind):
    release, started = threading.Event(), threading.Event()
    with kind(1) as one:
        running = one.submit(lambda: (started.set(), release.wait(LIMIT)))
        assert started.wait(LIMIT)
        queued = one.submit(int)
        assert not running.cancel() and running.running()
        assert queued.cancel() and queued.cancelled()
        release.set()
    assert running.done()


def test_no_more_threads_than_allowed(kind):
    """Exactly as many jobs run at once as there may be threads."""
    lock, now, most = threading.Lock(), [0], [0]
    barrier = threading.Barrier(3)

    def job():
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        barrier.wait(LIMIT)
        with lock:
            now[0] -= 1

    with kind(3) as three:
        for future in [three.submit(job) for _ in range(30)]:
            future.result(LIMIT)
        assert most == [3] and len(three._threads) == 3


def test_threads_and_queue_as_monitors_see_them(kind):
    release = threading.Event()
    with kind(1, thread_name_prefix="seen") as one:
        first = one.submit(release.wait, LIMIT)
        assert eventually(first.running)
        rest = [one.submit(int) for _ in range(5)]
        assert one._work_queue.qsize() == 5 and not one._work_queue.empty()
        assert [thread.name for thread in one._threads] == ["seen_0"]
        assert one._max_workers == 1
        release.set()
        assert concurrent.futures.wait([first, *rest], LIMIT).not_done == set()
        assert one._work_queue.empty()


@pytest.mark.parametrize("arguments", [{"max_workers": 0}, {"max_workers": -1}])
def test_bad_numbers_of_workers(kind, arguments):
    with pytest.raises(ValueError):
        kind(**arguments)


def test_bad_initializer(kind):
    with pytest.raises(TypeError):
        kind(initializer=5)


def test_initializer(kind):
    local = threading.local()
    with kind(2, initializer=lambda value: setattr(local, "value", value), initargs=(7,)) as made:
        assert list(made.map(lambda _: local.value, range(20))) == [7] * 20


def test_failing_initializer(kind, caplog):
    def fail():
        raise ValueError("no")

    with kind(2, initializer=fail) as made:
        with pytest.raises(concurrent.futures.BrokenExecutor):
            made.submit(int).result(LIMIT)
        assert eventually(lambda: made._broken)
        with pytest.raises(concurrent.futures.BrokenExecutor):
            made.submit(int)
    assert "Exception in initializer" in caplog.text


def test_slow_initializer_holds_up_only_its_own_thread(kind):
    release, threads = threading.Event(), []

    def begin():
        threads.append(1)
        if len(threads) == 1:
            release.wait(LIMIT)

    with kind(2, initializer=begin) as made:
        futures = [made.submit(int), made.submit(release.set)]
        assert concurrent.futures.wait(futures, LIMIT).not_done == set()


def test_shutdown_waits(kind):
    done = []
    made = kind(2)
    for i in range(50):
        made.submit(done.append, i)
    made.shutdown()
    assert sorted(done) == list(range(50))
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        made.submit(int)
    made.shutdown()
    assert not any(thread.is_alive() for thread in made._threads)


def test_shutdown_without_waiting(kind):
    release = threading.Event()
    made = kind(2)
    futures = [made.submit(release.wait, LIMIT) for _ in range(10)]
    made.shutdown(wait=False)
    assert not all(future.done() for future in futures)
    release.set()
    assert concurrent.futures.wait(futures, LIMIT).not_done == set()


def test_shutdown_that_cancels(kind):
    release, started = threading.Event(), threading.Event()
    made = kind(1)
    first = made.submit(lambda: (started.set(), release.wait(LIMIT)))
    assert started.wait(LIMIT)
    rest = [made.submit(int) for _ in range(10)]
    made.shutdown(wait=False, cancel_futures=True)
    assert all(future.cancelled() for future in rest)
    release.set()
    made.shutdown()
    assert first.done() and not first.cancelled()
    if kind is Executor:  # the standard library's leaves those who wait() for them waiting
        assert concurrent.futures.wait(rest, LIMIT).not_done == set()


def test_shutdown_inside_a_job(kind):
    made = kind(2)
    assert made.submit(made.shutdown, wait=False).result(LIMIT) is None
    with pytest.raises(RuntimeError):
        made.submit(int)


def test_shutdown_of_one_that_was_never_used(kind):
    kind().shutdown()


def test_an_executor_that_is_dropped_does_its_jobs_and_ends(kind):
    done = []
    made = kind(1)
    futures = [made.submit(done.append, i) for i in range(20)]
    threads = list(made._threads)
    del made
    gc.collect()
    assert concurrent.futures.wait(futures, LIMIT).not_done == set()
    assert done == list(range(20))
    for thread in threads:
        thread.join(LIMIT)
        assert not thread.is_alive()


def test_idle_threads_are_used_again(executor):
    for _ in range(50):
        executor.submit(int).result(LIMIT)
    assert len(executor._threads) <= 4


operations = st.lists(
    st.one_of(
        st.tuples(st.just("short"), st.just(0)),
        st.tuples(st.just("block"), st.integers(0, 3)),
        st.tuples(st.just("release"), st.integers(0, 3)),
        st.tuples(st.just("cancel"), st.integers(0, 30)),
        st.tuples(st.just("pause"), st.sampled_from([0.0, 1e-4, 1e-3])),
    ),
    max_size=40,
)


@settings(max_examples=60)
@given(operations, st.integers(1, 5), st.sampled_from(["wait", "leave", "cancel"]))
@pytest.mark.parametrize("chosen", [Executor, ThreadPoolExecutor])
def test_any_sequence(chosen, steps, workers, ending):
    """Whatever is done, each job that was not cancelled runs once and yields its result; a cancelled one never runs."""
    made = chosen(workers)
    events = [threading.Event() for _ in range(4)]
    ran, futures = [], []

    def job(number, event):
        ran.append(number)
        if event is not None:
            assert event.wait(LIMIT)
        return -number

    for what, value in steps:
        if what == "short":
            futures.append(made.submit(job, len(futures), None))
        elif what == "block":
            futures.append(made.submit(job, len(futures), events[value]))
        elif what == "release":
            events[value].set()
        elif what == "cancel" and futures:
            futures[value % len(futures)].cancel()
        elif what == "pause":
            time.sleep(value)
    if ending != "wait":
        made.shutdown(wait=False, cancel_futures=ending == "cancel")
    for event in events:
        event.set()
    made.shutdown()
    cancelled = {number for number, future in enumerate(futures) if future.cancelled()}
    assert sorted(ran) == sorted(set(range(len(futures))) - cancelled)
    assert all(future.result(0) == -number for number, future in enumerate(futures) if number not in cancelled)
    assert not any(thread.is_alive() for thread in made._threads)
