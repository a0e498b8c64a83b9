"""Event loops that run in green threads, while the one beneath goes on."""

import sys

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


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.skipif(sys.version_info >= (3, 16), reason="there are no policies")
def test_asyncio_run_does_not_ask_the_policy_for_a_loop(way):
    """Which would be one that waits by itself; whoever wants it says so."""
    check(way, WORK + """
warnings.simplefilter("ignore", DeprecationWarning)


def main():
    asked = Collected()

    class Policy(asyncio.DefaultEventLoopPolicy):
        def new_event_loop(self):
            asked(1)
            return asyncio.SelectorEventLoop()

    before = asyncio.get_event_loop_policy()
    asyncio.set_event_loop_policy(Policy())
    try:
        assert asyncio.run(work()) is threads.current_thread().loop and not asked
        with asyncio.Runner() as runner:
            assert type(runner.run(work())) is asyncio.SelectorEventLoop and asked == [1]
    finally:
        asyncio.set_event_loop_policy(before)
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
    assert asyncio.get_event_loop() is asyncio.get_running_loop() is asyncio.Future().get_loop()
    return asyncio.get_running_loop()


def of_its_own():
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    time.sleep(0.01)  # the others set theirs
    assert asyncio.get_event_loop() is loop is asyncio.Future().get_loop()
    assert loop.run_until_complete(inside()) is loop
    asyncio.set_event_loop(None)
    raised(RuntimeError, asyncio.get_event_loop)
    loop.close()


def thread():
    raised(RuntimeError, asyncio.get_event_loop)
    raised(RuntimeError, asyncio.Future)
    raised(RuntimeError, asyncio.current_task)
    of_its_own()


def main():
    beneath = threads.current_thread().loop
    assert threads.wait(inside()) is beneath
    for one in [in_thread(thread) for _ in range(3)]:
        one.join()
    of_its_own()
    assert asyncio.run(inside()) is beneath
    raised(RuntimeError, asyncio.get_event_loop)  # as after any asyncio.run
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        assert runner.run(inside()) is runner.get_loop()
""")  # fmt: skip


def test_what_asyncio_run_leaves_behind_is_ended(way):
    check(way, WORK + """
log = Collected()


async def endless(name):
    try:
        await asyncio.sleep(30)
    finally:
        await asyncio.sleep(0.01)
        log(name)


async def numbers():
    try:
        yield 1
    finally:
        await asyncio.sleep(0)
        log("generator")


async def leaves():
    generator = numbers()
    await anext(generator)
    task = asyncio.create_task(endless("cancelled"))
    await asyncio.sleep(0)
    return generator, task


async def goes_on(finished):
    async for number in numbers():
        await finished
    return number


def main():
    loop = threads.current_thread().loop
    finished = loop.create_future()
    other = Collected()
    beside = [in_thread(lambda: other(asyncio.run(goes_on(finished)))),
              in_thread(lambda: other(threads.wait(goes_on(finished))))]
    time.sleep(0.01)
    generator, task = asyncio.run(leaves())
    assert log == ["cancelled", "generator"] and task.cancelled(), log
    finished.set_result(None)
    for one in beside:
        one.join()
    assert other == [1, 1]
""")  # fmt: skip


def test_debug_mode(way):
    """Of one asyncio.run; and of the loop beneath, in which a green thread counts as the loop's own."""
    check(way, WORK + """
async def in_debug_mode():
    time.sleep(0.01)
    return asyncio.get_running_loop().get_debug()


def thread():
    time.sleep(0.01)
    assert threading.Event().wait(0.01) is False
    return threads.wait(in_debug_mode())


def main():
    assert asyncio.run(in_debug_mode(), debug=True) and not asyncio.run(in_debug_mode(), debug=False)
    assert not asyncio.run(in_debug_mode())
    threads.current_thread().loop.set_debug(True)
    seen = Collected()
    for one in [in_thread(lambda: seen(thread())) for _ in range(3)]:
        one.join()
    assert seen == [True] * 3 and asyncio.run(in_debug_mode())
    threads.current_thread().loop.set_debug(False)
""")  # fmt: skip


def test_what_overlapping_runs_set_ends_with_the_last_of_them(way):
    check(way, WORK + """
def factory(loop, coro, **kwargs):
    return asyncio.Task(coro, loop=loop, **kwargs)


async def sets(then):
    loop = asyncio.get_running_loop()
    loop.set_task_factory(factory)
    loop.set_exception_handler(lambda _loop, _context: None)
    begun.set()
    await asyncio.to_thread(then.wait)


async def waits(then):
    await asyncio.to_thread(then.wait)


def main():
    global begun
    loop = threads.current_thread().loop
    for first in (0, 1):  # to end
        begun, ends = threading.Event(), [threading.Event(), threading.Event()]
        setting = in_thread(asyncio.run, sets(ends[0]))
        begun.wait()
        other = in_thread(asyncio.run, waits(ends[1]))
        time.sleep(0)
        both = [setting, other]
        for which in (first, 1 - first):
            ends[which].set()
            both[which].join()
        assert (loop.get_task_factory(), loop.get_exception_handler()) == (None, None), first
""")  # fmt: skip


def test_what_ends_a_task_ends_the_thread_that_waits_for_it(way):
    check(way, WORK + """
async def exits():
    await asyncio.sleep(0.01)
    sys.exit(5)


def main():
    log = Collected()
    for run in (asyncio.run, threads.wait):
        in_thread(lambda: (log(raised(SystemExit, run, exits()).code), time.sleep(0.01), log("goes on"))).join()
        assert raised(SystemExit, run, exits()).code == 5
    assert log == [5, "goes on"] * 2, log
""")  # fmt: skip


def test_futures_of_a_loop_that_nobody_runs(way):
    check(way, WORK + """
def main():
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    if sys.version_info < (3, 14):
        assert threads.wait(asyncio.gather(running(), running())) == [loop, loop]
    assert threads.wait(loop.create_task(running())) is loop
    loop.close()
""")  # fmt: skip


def test_asynchronous_generators_of_blocking_code_are_no_loop_s(way):
    check(way, WORK + """
async def numbers():
    yield 1


def main():
    assert sys.get_asyncgen_hooks() == (None, None)
    time.sleep(0.01)
    begun = numbers()
    raised(StopIteration, begun.asend(None).send, None)
    assert sys.get_asyncgen_hooks() == (None, None)
    assert begun not in threads.current_thread().loop._asyncgens
""")  # fmt: skip
