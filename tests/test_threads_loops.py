"""Event loops that run in green threads, while the one beneath goes on."""

import pytest
from threads_support import check

pytest.importorskip("greenlet")
pytestmark = pytest.mark.ours

WORK = """
import asyncio


async def work():
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    await asyncio.sleep(0.01)
    time.sleep(0.01)  # the others run
    assert asyncio.get_running_loop() is asyncio._get_running_loop() is loop and asyncio.current_task() is task
    assert await loop.run_in_executor(None, lambda: (time.sleep(0.01), 5)[1]) == 5
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(b"question")
    assert await reader.read() == b"question"
    writer.close()
    server.close()
    return loop


async def answer(reader, writer):
    writer.write(await reader.read(100))
    writer.close()


def in_loop(make):
    loop = make()
    try:
        assert loop.run_until_complete(work()) is loop
    finally:
        loop.close()


def outside():
    raised(RuntimeError, asyncio.get_running_loop)
    outer = threads.wait(running())
    assert outer is threads.current_thread().loop
    return outer


async def running():
    await asyncio.sleep(0)
    return asyncio.get_running_loop()


"""


@pytest.mark.parametrize("make", ["asyncio.SelectorEventLoop", "flexsc_loop.new_event_loop"])
def test_one_in_each_thread(way, make):
    check(way, WORK + f"""
def main():
    seen = Collected()

    def thread():
        outside()
        in_loop({make})
        seen(outside())

    for one in [in_thread(thread) for _ in range(3)] + [in_thread(outside) for _ in range(3)]:
        one.join()
    in_loop({make})
    assert seen == [outside()] * 3, seen
""")  # fmt: skip


def test_runners(way):
    check(way, WORK + """
def main():
    with asyncio.Runner() as runner:
        loop = runner.run(work())
        assert runner.run(work()) is loop is not outside()
    if sys.version_info >= (3, 12):
        assert isinstance(asyncio.run(work(), loop_factory=asyncio.SelectorEventLoop), asyncio.SelectorEventLoop)
    outside()
""")  # fmt: skip


def test_one_within_another_is_refused(way):
    check(way, WORK + """
async def outer():
    inner = running()
    error = raised(RuntimeError, asyncio.run, inner)
    inner.close()
    assert "cannot be called from a running event loop" in str(error)


def main():
    with asyncio.Runner() as runner:
        runner.run(outer())
    outside()
""")  # fmt: skip


def test_asynchronous_generators_are_closed_by_the_loop_that_began_them(way):
    check(way, WORK + """
closed = []


async def numbers(name):
    try:
        while True:
            yield 1
    finally:
        closed.append((name, asyncio.get_running_loop()))


async def begun(name):
    generator = numbers(name)
    await anext(generator)
    time.sleep(0.02)
    return generator


def main():
    with asyncio.Runner() as runner:
        other = Collected()
        thread = in_thread(lambda: (time.sleep(0.01), other(threads.wait(begun("outer")))))
        kept = runner.run(begun("inner"))
        inner = runner.get_loop()
        thread.join()
    assert closed == [("inner", inner)], closed
    del kept
""")  # fmt: skip


def test_blocking_code_in_a_loop_of_a_green_thread_s_own(way):
    check(way, WORK + """
def blocking(loop):
    time.sleep(0.01)
    assert threads.current_thread().loop is loop
    ours, theirs = tcp_pair()
    other = threads.spawn(theirs.sendall, b"abc")
    assert ours.recv(10) == b"abc"
    other.join()
    return threads.wait(running())


async def calling():
    loop = asyncio.get_running_loop()
    assert await threads.call(blocking, loop) is loop
    spawned = threads.spawn(blocking, loop)
    assert spawned.loop is loop
    while not spawned.finished:
        await asyncio.sleep(0.01)
    assert spawned.result is loop


async def refused():
    refusal = "need a flexsc_loop.Loop"
    assert refusal in str(raised(RuntimeError, threads.spawn, blocking))
    try:
        await threads.call(blocking, None)
    except RuntimeError as error:
        assert refusal in str(error)
    else:
        raise AssertionError("not refused")


def main():
    other = in_thread(lambda: [time.sleep(0.01) for _ in range(10)])
    with asyncio.Runner(loop_factory=flexsc_loop.new_event_loop) as runner:
        runner.run(calling())
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        runner.run(refused())
    assert threads.spawn(outside).join() is outside()
    other.join()
""")  # fmt: skip


def test_what_async_code_has_written_goes_out_before_blocking_code_blocks(way):
    """In C, where nobody sees it but an audit hook, which is told of some calls."""
    check(way, """
import asyncio, _socket, select


def block(writer, theirs):
    waits, sent = select.poll(), 0
    waits.register(theirs, select.POLLIN)
    while sent < 100_000:
        writer.write(b"x")
        sent += 1
        if not waits.poll(0):
            break  # what follows is sent with the rest of this turn
        _socket.socket.recv(theirs, 1)
    writer.write(b"question")
    os.kill(os.getpid(), 0)  # of which the hook is told
    found = b""
    while not found.endswith(b"question"):
        found += _socket.socket.recv(theirs, 100)


async def work():
    ours, theirs = tcp_pair()
    theirs.settimeout(5)
    _reader, writer = await asyncio.open_connection(sock=ours)
    await threads.call(block, writer, theirs)
    writer.close()
    theirs.close()


def main():
    threads.wait(work())
""")  # fmt: skip


def test_ctrl_c_cancels_what_asyncio_run_runs(way):
    check(way, """
import asyncio


async def interrupted(log):
    signal.raise_signal(signal.SIGINT)
    try:
        await asyncio.sleep(20)
    finally:
        await asyncio.sleep(0.01)
        log("cleaned up")


async def stubborn():
    try:
        await interrupted(Collected())
    except asyncio.CancelledError:
        return 5


async def at_last():
    signal.raise_signal(signal.SIGINT)
    return 6


async def cancelled():
    asyncio.current_task().cancel()
    await asyncio.sleep(20)


def main():
    log = Collected()
    raised(KeyboardInterrupt, lambda: asyncio.run(interrupted(log)))
    assert log == ["cleaned up"]
    assert asyncio.run(stubborn()) == 5
    raised(asyncio.CancelledError, lambda: asyncio.run(cancelled()))
    raised(KeyboardInterrupt, lambda: asyncio.run(at_last()))
""")  # fmt: skip


def test_which_loop_blocking_code_finds(way):
    check(way, WORK + """
async def inside():
    assert asyncio.get_event_loop() is asyncio.get_running_loop()


def main():
    beneath = threads.current_thread().loop
    assert asyncio.get_event_loop() is beneath
    threads.wait(inside())
    asyncio.set_event_loop(None)
    raised(RuntimeError, asyncio.get_event_loop)
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        runner.run(inside())
""")  # fmt: skip
