"""Tasks, futures, task factories; and debug mode."""

import asyncio
import contextvars
import gc
import logging
import sys
import threading
import time

import pytest
from support import turns

VARIABLE = contextvars.ContextVar("VARIABLE", default="outside")


async def test_create_future(loop):
    future = loop.create_future()
    assert isinstance(future, asyncio.Future)
    assert future.get_loop() is loop
    loop.call_soon(future.set_result, 1)
    assert await future == 1


async def test_create_task(loop):
    async def work():
        return asyncio.current_task()

    task = loop.create_task(work(), name="worker")
    assert isinstance(task, asyncio.Task)
    assert task.get_name() == "worker"
    assert task in asyncio.all_tasks(loop)
    assert await task is task
    assert task not in asyncio.all_tasks()
    assert loop.create_task(turns()).get_name().startswith("Task-")
    await turns(5)


async def test_create_task_takes_a_context(loop):
    async def change():
        before = VARIABLE.get()
        VARIABLE.set("task")
        await asyncio.sleep(0)
        return before, VARIABLE.get()

    context = contextvars.copy_context()
    context.run(VARIABLE.set, "own")
    assert await loop.create_task(change(), context=context) == ("own", "task")
    assert context[VARIABLE] == "task"
    assert await loop.create_task(change()) == ("outside", "task")
    assert VARIABLE.get() == "outside"


async def test_create_task_of_something_else(loop):
    with pytest.raises(TypeError):
        loop.create_task(5)


async def test_tasks_run_in_order(loop):
    seen = []

    async def note(i):
        seen.append(i)
        await asyncio.sleep(0)
        seen.append(i + 100)

    await asyncio.gather(*(note(i) for i in range(100)))
    assert seen == list(range(200))


async def test_task_group(loop):
    async def fail():
        await asyncio.sleep(0)
        raise ZeroDivisionError

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(asyncio.sleep(0, i)) for i in range(10)]
    assert [task.result() for task in tasks] == list(range(10))
    with pytest.raises(ExceptionGroup):
        async with asyncio.TaskGroup() as group:
            group.create_task(fail())
            group.create_task(asyncio.sleep(100))


async def test_task_factory(loop):
    made = []

    class Named(asyncio.Task):
        pass

    def factory(loop, coroutine, **kwargs):
        made.append(kwargs)
        return Named(coroutine, loop=loop, **kwargs)

    assert loop.get_task_factory() is None
    loop.set_task_factory(factory)
    assert loop.get_task_factory() is factory
    task = loop.create_task(asyncio.sleep(0, 3), name="x", context=contextvars.copy_context())
    assert isinstance(task, Named)
    assert task.get_name() == "x"
    assert await task == 3
    assert len(made) == 1 and "context" in made[0]
    loop.set_task_factory(None)
    assert type(loop.create_task(turns())) is asyncio.Task
    with pytest.raises(TypeError):
        loop.set_task_factory(5)
    await turns(6)


async def test_a_task_factory_gets_what_the_caller_has_given(loop):
    def factory(loop, coroutine):
        return asyncio.Task(coroutine, loop=loop)

    loop.set_task_factory(factory)
    assert await loop.create_task(asyncio.sleep(0, 3)) == 3
    assert await asyncio.create_task(asyncio.sleep(0, 4)) == 4
    job = asyncio.run_coroutine_threadsafe(asyncio.sleep(0, 5), loop)
    assert await asyncio.wrap_future(job) == 5
    loop.set_task_factory(None)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with Python 3.12")
async def test_eager_tasks(loop):
    seen = []

    async def quick():
        seen.append(asyncio.current_task())
        return 1

    async def slow():
        seen.append("slow begins")
        await asyncio.sleep(0)
        seen.append("slow ends")
        return 2

    loop.set_task_factory(asyncio.eager_task_factory)
    task = loop.create_task(quick(), name="eager")
    assert task.done() and seen == [task]
    slow_task = asyncio.create_task(slow())
    assert seen[-1] == "slow begins" and not slow_task.done()
    assert await slow_task == 2
    assert await asyncio.gather(*(asyncio.create_task(quick()) for _ in range(10))) == [1] * 10
    assert await asyncio.wait_for(slow(), 10) == 2
    async with asyncio.TaskGroup() as group:
        group.create_task(slow())
    loop.set_task_factory(None)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with Python 3.12")
async def test_eager_streams(loop):
    """The server's client callback is a task of the factory too."""
    loop.set_task_factory(asyncio.eager_task_factory)

    async def client(reader, writer):
        writer.write(await reader.readline())
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(client, "127.0.0.1", 0)
    for _ in range(10):
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"line\n")
        assert await reader.read() == b"line\n"
        writer.close()
        await writer.wait_closed()
    server.close()
    await server.wait_closed()
    loop.set_task_factory(None)


async def test_cancelling_tasks(loop):
    async def wait():
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError as exc:
            return exc.args

    task = loop.create_task(wait())
    await asyncio.sleep(0)
    task.cancel("because")
    assert await task == ("because",)
    before = loop.create_task(wait())
    before.cancel()
    with pytest.raises(asyncio.CancelledError):
        await before


def test_all_tasks_from_outside(loop):
    task = loop.create_task(asyncio.sleep(0))
    assert asyncio.all_tasks(loop) == {task}
    loop.run_until_complete(task)
    assert asyncio.all_tasks(loop) == set()


async def test_run_coroutine_threadsafe(loop):
    async def add(a, b):
        await asyncio.sleep(0)
        return a + b

    def ask():
        return asyncio.run_coroutine_threadsafe(add(1, 2), loop).result(20)

    assert await asyncio.to_thread(ask) == 3


async def test_queue_and_locks(loop):
    queue = asyncio.Queue(3)
    lock = asyncio.Lock()
    total = 0

    async def produce():
        for i in range(100):
            await queue.put(i)

    async def consume():
        nonlocal total
        for _ in range(100):
            async with lock:
                total += await queue.get()

    await asyncio.gather(produce(), consume(), produce(), consume())
    assert total == 2 * sum(range(100))


# -- debug mode


def test_debug_switch(loop):
    assert loop.get_debug() in (True, False)
    loop.set_debug(True)
    assert loop.get_debug() is True
    assert "debug=True" in repr(loop)
    loop.set_debug(False)
    assert loop.get_debug() is False


@pytest.mark.parametrize("what", ["callback", "timer", "task", "protocol"])
def test_slow_callbacks_are_logged(loop, connect, caplog, what):
    loop.set_debug(True)
    loop.slow_callback_duration = 0.01

    def slow(*_):
        time.sleep(0.03)

    async def slow_task():
        slow()

    class SlowProtocol(asyncio.Protocol):
        def data_received(self, data):
            slow()
            arrived.set()

    async def main():
        if what == "callback":
            loop.call_soon(slow)
        elif what == "timer":
            loop.call_later(0.001, slow)
            await asyncio.sleep(0.005)
        elif what == "task":
            await loop.create_task(slow_task())
        else:
            _, _, peer = await connect(SlowProtocol)
            peer.send_now(b"x")
            await arrived.wait()
        await turns()

    arrived = asyncio.Event()
    with caplog.at_level(logging.WARNING, logger="asyncio"):
        loop.run_until_complete(main())
    assert "took 0.0" in caplog.text or "took 0." in caplog.text


def test_fast_callbacks_are_not_logged(loop, caplog):
    loop.set_debug(True)
    loop.slow_callback_duration = 5
    with caplog.at_level(logging.WARNING, logger="asyncio"):
        loop.run_until_complete(turns(20))
    assert caplog.text == ""


def test_wrong_thread_is_noticed_in_debug_mode(loop):
    loop.set_debug(True)
    caught = []

    def wrong():
        for call in (
            lambda: loop.call_soon(print),
            lambda: loop.call_later(1, print),
            lambda: loop.call_at(1, print),
        ):
            try:
                call()
            except RuntimeError as exc:
                caught.append(str(exc))
        loop.call_soon_threadsafe(int)

    loop.run_until_complete(asyncio.to_thread(wrong))
    assert len(caught) == 3
    assert "Non-thread-safe operation" in caught[0]


def test_wrong_thread_is_a_matter_of_running_loops_only(loop):
    loop.set_debug(True)
    caught = []

    def schedule():
        try:
            loop.call_soon(int)
        except RuntimeError as exc:
            caught.append(exc)

    thread = threading.Thread(target=schedule)
    thread.start()
    thread.join()
    loop.run_until_complete(turns())
    assert caught == []


def test_errors_tell_where_the_callback_came_from(loop, errors):
    loop.set_debug(True)

    def fail():
        raise ZeroDivisionError

    loop.call_soon(fail)
    loop.call_later(0, fail)
    loop.run_until_complete(asyncio.sleep(0.005))
    assert len(errors) == 2
    for context in errors:
        assert context["source_traceback"][-1].name == "test_errors_tell_where_the_callback_came_from"
    errors.clear()


def test_handles_tell_where_they_were_made(loop):
    loop.set_debug(True)
    handle = loop.call_later(10, print)
    assert "created at" in repr(handle)
    assert __file__.rpartition("/")[2] in repr(handle)
    handle.cancel()


def test_coroutine_origin_tracking(loop):
    before = sys.get_coroutine_origin_tracking_depth()

    async def main():
        return sys.get_coroutine_origin_tracking_depth()

    loop.set_debug(True)
    assert loop.run_until_complete(main()) > 0
    assert sys.get_coroutine_origin_tracking_depth() == before


def test_never_awaited_and_destroyed_tasks_are_reported(loop, errors):
    async def main():
        loop.create_task(never()).set_name("lost")
        await turns()

    async def never():
        await loop.create_future()

    loop.run_until_complete(main())
    gc.collect()
    assert ["destroyed" in error["message"] for error in errors] == [True]
    errors.clear()
    gc.collect()  # from Python 3.14 on, all_tasks() knows it as long as it exists
