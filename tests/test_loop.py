"""Running, stopping and closing, exactly as asyncio does."""

import asyncio
import concurrent.futures
import contextlib
import gc
import os
import signal
import socket
import sys
import threading
import warnings
import weakref

import pytest
from support import echo, turns


def test_is_an_asyncio_loop(loop):
    assert isinstance(loop, asyncio.BaseEventLoop)
    assert isinstance(loop, asyncio.AbstractEventLoop)
    assert not loop.is_running()
    assert not loop.is_closed()
    assert "running=False" in repr(loop) and "closed=False" in repr(loop)


def test_run_until_complete(loop):
    async def main():
        assert loop.is_running()
        assert asyncio.get_running_loop() is loop
        assert "running=True" in repr(loop)
        await asyncio.sleep(0)
        return 5

    assert loop.run_until_complete(main()) == 5
    assert not loop.is_running()
    with pytest.raises(RuntimeError):
        asyncio.get_running_loop()


def test_run_until_complete_passes_the_exception_on(loop):
    async def main():
        raise LookupError("on purpose")

    with pytest.raises(LookupError, match="on purpose"):
        loop.run_until_complete(main())
    assert not loop.is_running()


def test_run_until_complete_of_a_future(loop):
    future = loop.create_future()
    loop.call_soon(future.set_result, 3)
    assert loop.run_until_complete(future) == 3
    assert loop.run_until_complete(future) == 3


def test_run_until_complete_of_something_else(loop):
    with pytest.raises(TypeError):
        loop.run_until_complete(5)


def test_run_until_complete_of_another_loops_future(loop, new_loop):
    other = new_loop()
    future = other.create_future()
    with pytest.raises(ValueError):
        loop.run_until_complete(future)
    assert not loop.is_running()


def test_stop_before_the_future_is_done(loop):
    future = loop.create_future()
    loop.call_soon(loop.stop)
    with pytest.raises(RuntimeError, match="stopped before Future completed"):
        loop.run_until_complete(future)
    future.cancel()
    loop.run_until_complete(turns())


def test_stop_before_run_forever_runs_one_turn(loop):
    seen = []
    loop.call_soon(lambda: (seen.append(1), loop.call_soon(seen.append, 2)))
    loop.stop()
    loop.run_forever()
    assert seen == [1]
    loop.stop()
    loop.run_forever()
    assert seen == [1, 2]


def test_stop_lets_the_turn_finish(loop):
    seen = []
    loop.call_soon(seen.append, 1)
    loop.call_soon(loop.stop)
    loop.call_soon(lambda: (seen.append(2), loop.call_soon(seen.append, 3)))
    loop.run_forever()
    assert seen == [1, 2]
    loop.run_until_complete(turns())
    assert seen == [1, 2, 3]


def test_stop_twice_counts_once(loop):
    loop.call_soon(loop.stop)
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert loop.run_until_complete(asyncio.sleep(0, 7)) == 7


def test_run_forever_many_times(loop):
    for _ in range(200):
        loop.call_soon(loop.stop)
        loop.run_forever()


def test_stop_from_another_thread(loop):
    timer = threading.Timer(0.02, loop.call_soon_threadsafe, (loop.stop,))
    timer.start()
    loop.run_forever()
    timer.join()


def test_nested_runs_are_refused(way, loop, new_loop):
    if not way.ours and sys.version_info >= (3, 13):
        pytest.skip("asyncio's run_forever() cleans up a run that it refused")
    other = new_loop()

    async def main():
        for running in (loop, other):
            with pytest.raises(RuntimeError):
                running.run_forever()
            coroutine = turns()
            with pytest.raises(RuntimeError):
                running.run_until_complete(coroutine)
            coroutine.close()
        assert asyncio.get_running_loop() is loop

    loop.run_until_complete(main())
    other.run_until_complete(turns())


def test_running_from_a_second_thread_is_refused(loop):
    caught = []

    def second():
        try:
            loop.run_forever()
        except RuntimeError as exc:
            caught.append(exc)

    async def main():
        thread = threading.Thread(target=second)
        thread.start()
        while thread.is_alive():
            await asyncio.sleep(0.001)
        thread.join()

    loop.run_until_complete(main())
    assert len(caught) == 1


def test_close(loop):
    loop.close()
    assert loop.is_closed()
    assert "closed=True" in repr(loop)
    loop.close()
    coroutine = turns()
    for call in (
        loop.run_forever,
        lambda: loop.run_until_complete(coroutine),
        lambda: loop.call_soon(print),
        lambda: loop.call_later(1, print),
        lambda: loop.call_at(1, print),
        lambda: loop.call_soon_threadsafe(print),
        lambda: loop.create_task(coroutine),
        lambda: loop.run_in_executor(None, print),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with pytest.raises(RuntimeError):
                call()
    coroutine.close()


def test_close_while_running_is_refused(loop):
    async def main():
        with pytest.raises(RuntimeError):
            loop.close()

    loop.run_until_complete(main())
    assert not loop.is_closed()


def test_close_with_work_left(new_loop):
    for _ in range(20):
        loop = new_loop()
        loop.call_soon(print, "never")
        loop.call_later(0, print, "never")
        loop.call_later(10, print, "never")
        loop.close()


def test_close_with_readers_left(new_loop):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        loop = new_loop()
        loop.add_reader(ours, print)
        loop.add_writer(ours, print)
        loop.close()


def test_close_with_a_pending_task(new_loop, errors):
    loop = new_loop()
    task = loop.create_task(asyncio.sleep(100))
    loop.run_until_complete(turns())
    loop.close()
    del task
    gc.collect()
    assert all("Task was destroyed" in error["message"] for error in errors)
    errors.clear()


def test_an_unclosed_loop_warns(way):
    loop = way.new_loop()
    with pytest.warns(ResourceWarning, match="unclosed event loop"):
        del loop
        gc.collect()


def test_an_unclosed_loop_that_ran_warns_and_leaks_nothing(way):
    loop = way.new_loop()
    loop.run_until_complete(turns())
    with pytest.warns(ResourceWarning, match="unclosed event loop"):
        del loop
        gc.collect()


def test_many_loops_one_after_the_other(way):
    for _ in range(50):
        loop = way.new_loop()
        loop.run_until_complete(turns())
        loop.close()


# What a loop may have been used for.


async def used_for_nothing():
    await asyncio.sleep(0)


async def used_for_streams():
    await echo(1000)


async def used_for_threads():
    await asyncio.to_thread(int)


async def used_for_datagrams():
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0))
    transport.sendto(b"x", transport.get_extra_info("sockname"))
    await turns()
    transport.close()
    await turns()


async def used_for_sockets():
    loop = asyncio.get_running_loop()
    one, two = socket.socketpair()
    with one, two:
        for sock in one, two:
            sock.setblocking(False)
        arrived = asyncio.Event()
        loop.add_reader(two, arrived.set)
        await loop.sock_sendall(one, b"x")
        await arrived.wait()
        loop.remove_reader(two)
        await loop.sock_recv(two, 1)
        waiting = asyncio.ensure_future(loop.sock_recv(two, 1))
        await turns()
        waiting.cancel()
        await asyncio.wait([waiting])


async def used_for_signals():
    loop = asyncio.get_running_loop()
    came = asyncio.Event()
    loop.add_signal_handler(signal.SIGUSR1, came.set)
    os.kill(os.getpid(), signal.SIGUSR1)
    await came.wait()
    loop.remove_signal_handler(signal.SIGUSR1)


async def used_for_a_timer_that_is_left():
    asyncio.get_running_loop().call_later(1000, int)


USES = [value for name, value in list(globals().items()) if name.startswith("used_for_")]


@pytest.mark.parametrize("use", USES, ids=lambda use: use.__name__.removeprefix("used_for_"))
def test_a_closed_loop_is_freed_at_once(way, use):
    def run():
        loop = way.new_loop()
        try:
            loop.run_until_complete(use())
            loop.run_until_complete(loop.shutdown_default_executor())
        finally:
            loop.close()
        return weakref.ref(loop)

    run()
    gc.collect()
    gc.disable()
    try:
        assert run()() is None
    finally:
        gc.enable()


def test_attributes_can_be_set_on_a_loop(loop):
    loop.something_of_a_framework = 1
    assert loop.something_of_a_framework == 1


def test_asyncio_runner(way):
    async def main():
        await asyncio.sleep(0)
        return asyncio.get_running_loop()

    with asyncio.Runner(loop_factory=way.new_loop) as runner:
        loop = runner.run(main())
        assert runner.get_loop() is loop
        runner.run(main())
    assert loop.is_closed()


# -- exception handler


def test_exception_handler(loop):
    seen = []
    loop.set_exception_handler(lambda *args: seen.append(args))
    assert loop.get_exception_handler() is not None
    loop.call_exception_handler({"message": "hello"})
    assert seen == [(loop, {"message": "hello"})]
    with pytest.raises(TypeError):
        loop.set_exception_handler("wrong")
    loop.set_exception_handler(None)
    assert loop.get_exception_handler() is None


def test_default_exception_handler_logs(loop, caplog):
    loop.set_exception_handler(None)
    loop.call_soon(lambda: 1 / 0)
    loop.run_until_complete(turns())
    assert "Exception in callback" in caplog.text
    assert "ZeroDivisionError" in caplog.text


def test_exception_handler_that_fails(loop, caplog):
    def broken(*_):
        raise LookupError("handler failed")

    loop.set_exception_handler(broken)
    loop.call_soon(lambda: 1 / 0)
    loop.run_until_complete(turns())
    assert "handler failed" in caplog.text
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize("exit_type", [KeyboardInterrupt, SystemExit])
def test_exception_handler_that_exits(loop, exit_type):
    def leave(*_):
        raise exit_type

    loop.set_exception_handler(leave)
    loop.call_soon(lambda: 1 / 0)
    with pytest.raises(exit_type):
        loop.run_forever()


def test_a_task_whose_exception_nobody_took(loop, errors):
    async def fail():
        raise LookupError("nobody looks")

    async def main():
        asyncio.ensure_future(fail())
        await turns()

    loop.run_until_complete(main())
    gc.collect()
    (context,) = errors
    assert "never retrieved" in context["message"]
    errors.clear()


# -- async generators


def test_shutdown_of_async_generators(loop):
    closed = []

    async def generate():
        try:
            yield 1
            yield 2
        finally:
            await asyncio.sleep(0)
            closed.append(True)

    generators = []

    async def main():
        generator = generate()
        generators.append(generator)
        await generator.__anext__()

    loop.run_until_complete(main())
    assert not closed
    loop.run_until_complete(loop.shutdown_asyncgens())
    assert closed == [True]


def test_forgotten_async_generator_is_closed(loop):
    closed = []

    async def generate():
        try:
            yield 1
        finally:
            await asyncio.sleep(0)
            closed.append(True)

    async def main():
        async for _ in generate():
            break
        gc.collect()
        await turns(5)
        assert closed == [True]

    loop.run_until_complete(main())


def test_asyncgen_hooks_are_put_back(loop):
    before = sys.get_asyncgen_hooks()

    async def main():
        assert sys.get_asyncgen_hooks() != before

    loop.run_until_complete(main())
    assert sys.get_asyncgen_hooks() == before


# -- executors and name look-up


async def test_executor(loop):
    assert await loop.run_in_executor(None, threading.get_ident) != threading.get_ident()
    results = await asyncio.gather(*(loop.run_in_executor(None, pow, i, 2) for i in range(100)))
    assert results == [i * i for i in range(100)]
    with pytest.raises(ZeroDivisionError):
        await loop.run_in_executor(None, lambda: 1 / 0)
    assert await asyncio.to_thread(lambda: 6) == 6


async def test_own_executor(loop):
    with concurrent.futures.ThreadPoolExecutor(1, "own") as executor:
        name = await loop.run_in_executor(executor, lambda: threading.current_thread().name)
    assert name.startswith("own")


def test_default_executor(loop):
    with pytest.raises(TypeError):
        loop.set_default_executor("wrong")
    executor = concurrent.futures.ThreadPoolExecutor(1, "own")
    loop.set_default_executor(executor)
    name = loop.run_until_complete(loop.run_in_executor(None, lambda: threading.current_thread().name))
    assert name.startswith("own")
    loop.run_until_complete(loop.shutdown_default_executor())
    with pytest.raises(RuntimeError):
        loop.run_until_complete(loop.run_in_executor(None, print))


async def test_results_of_executors_come_promptly_while_the_loop_is_busy(loop):
    busy = True

    async def spin():
        while busy:
            await asyncio.sleep(0)

    spinning = asyncio.ensure_future(spin())
    began = loop.time()
    for _ in range(20):
        await loop.run_in_executor(None, int)
    assert loop.time() - began < 10
    busy = False
    await spinning


async def test_getaddrinfo(loop):
    found = await loop.getaddrinfo("127.0.0.1", 80, type=socket.SOCK_STREAM)
    assert (socket.AF_INET, socket.SOCK_STREAM) == found[0][:2]
    assert found[0][4] == ("127.0.0.1", 80)
    assert (await loop.getnameinfo(("127.0.0.1", 80), socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)) == (
        "127.0.0.1",
        "80",
    )
    with pytest.raises(socket.gaierror):
        await loop.getaddrinfo("name.invalid", 80, flags=socket.AI_NUMERICHOST)


async def test_connecting_to_a_numeric_address_needs_no_thread(loop):
    before = threading.active_count()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        transport, _ = await loop.create_connection(asyncio.Protocol, *listener.getsockname())
        transport.close()
    server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
    server.close()
    await server.wait_closed()
    assert threading.active_count() == before


@pytest.mark.ours
async def test_getaddrinfo_of_a_numeric_address_needs_no_thread(loop):
    before = threading.active_count()
    assert await loop.getaddrinfo("127.0.0.1", 80, type=socket.SOCK_STREAM) == socket.getaddrinfo(
        "127.0.0.1", 80, type=socket.SOCK_STREAM
    )
    with contextlib.suppress(socket.gaierror):
        await loop.getaddrinfo("::1", 80, type=socket.SOCK_STREAM)
    assert threading.active_count() == before


async def test_a_handle_can_be_cancelled_in_another_thread(loop):
    """While the loop is in a callback, and before it comes to the one that is cancelled."""
    ran, made = [], []

    def in_thread():
        made.extend(loop.call_soon_threadsafe(ran.append, number) for number in range(2))
        made[0].cancel()

    thread = threading.Thread(target=in_thread)
    thread.start()
    thread.join()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert ran == [1]
    assert [handle.cancelled() for handle in made] == [True, False]
