"""Signal handlers, and Ctrl-C in a busy and in an idle loop."""

import asyncio
import os
import signal
import threading
import time

import pytest
from support import Running, run_python, settle, turns


@pytest.fixture(autouse=True)
def handlers():
    """Signals must be handled after the test as they were before."""
    numbers = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP, signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in numbers}
    wakeup = signal.set_wakeup_fd(-1)
    yield
    assert signal.set_wakeup_fd(wakeup) == -1
    assert {number: signal.getsignal(number) for number in numbers} == before


def kill(number):
    os.kill(os.getpid(), number)


async def test_handler(loop):
    seen = asyncio.Queue()
    loop.add_signal_handler(signal.SIGUSR1, seen.put_nowait, "usr1")
    kill(signal.SIGUSR1)
    assert await seen.get() == "usr1"
    assert loop.remove_signal_handler(signal.SIGUSR1) is True
    assert loop.remove_signal_handler(signal.SIGUSR1) is False


async def test_signal_wakes_a_sleeping_loop(loop):
    seen = asyncio.Event()
    loop.add_signal_handler(signal.SIGUSR1, seen.set)
    timer = threading.Timer(0.05, kill, (signal.SIGUSR1,))
    timer.start()
    await asyncio.wait_for(seen.wait(), 20)
    timer.join()
    loop.remove_signal_handler(signal.SIGUSR1)


async def test_signal_wakes_a_sleeping_loop_by_a_plain_handler(loop):
    """Without a handler of the loop, Python's own handlers still run soon."""
    seen = []
    before = signal.signal(signal.SIGUSR1, lambda *_: seen.append(1))
    timer = threading.Timer(0.05, kill, (signal.SIGUSR1,))
    timer.start()
    began = loop.time()
    while not seen and loop.time() - began < 5:
        await asyncio.sleep(0.1)
    assert seen
    timer.join()
    signal.signal(signal.SIGUSR1, before)


@pytest.mark.ours  # asyncio misses a signal that comes while it goes to sleep
async def test_plain_handlers_run_whenever_the_signal_comes(loop):
    """Python's handlers need the loop's thread: it must wake up, in whichever thread the signal arrives."""
    seen = asyncio.Event()
    before = signal.signal(signal.SIGUSR1, lambda *_: loop.call_soon_threadsafe(seen.set))
    go = threading.Semaphore(0)
    rounds = 300

    def killer():
        for _ in range(rounds):
            go.acquire()
            kill(signal.SIGUSR1)

    thread = threading.Thread(target=killer)
    thread.start()
    for _ in range(rounds):
        go.release()
        await asyncio.wait_for(seen.wait(), 10)
        seen.clear()
    thread.join()
    signal.signal(signal.SIGUSR1, before)


async def test_signal_while_the_loop_is_busy(loop):
    seen = []
    loop.add_signal_handler(signal.SIGUSR1, seen.append, 1)
    kill(signal.SIGUSR1)
    while not seen:
        await asyncio.sleep(0)
    loop.remove_signal_handler(signal.SIGUSR1)


async def test_replaced_handler(loop):
    seen = []
    loop.add_signal_handler(signal.SIGUSR1, seen.append, "first")
    loop.add_signal_handler(signal.SIGUSR1, seen.append, "second")
    kill(signal.SIGUSR1)
    while not seen:
        await asyncio.sleep(0)
    assert seen == ["second"]
    loop.remove_signal_handler(signal.SIGUSR1)


async def test_mixed_bursts(loop):
    """Each kind of signal that was raised is seen at least once afterwards."""
    counts = {signal.SIGUSR1: 0, signal.SIGUSR2: 0, signal.SIGHUP: 0}

    def count(number):
        counts[number] += 1

    for number in counts:
        loop.add_signal_handler(number, count, number)
    for i in range(50):
        before = dict(counts)
        for number in counts:
            for _ in range(1 + i % 7):
                kill(number)
        if i % 2:
            await turns(i % 5)
        while any(counts[number] == before[number] for number in counts):
            await asyncio.sleep(0)
    for number in counts:
        assert loop.remove_signal_handler(number)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the wake-up pipe may be full
async def test_burst_larger_than_a_pipe(loop):
    count = 0

    def note():
        nonlocal count
        count += 1

    loop.add_signal_handler(signal.SIGUSR1, note)
    for _ in range(20_000):
        kill(signal.SIGUSR1)
    while not count:
        await asyncio.sleep(0)
    before = count
    await turns(10)
    kill(signal.SIGUSR1)
    while count == before:
        await asyncio.sleep(0)
    loop.remove_signal_handler(signal.SIGUSR1)


@pytest.mark.ours  # asyncio loses what finds no room in its socket
async def test_no_kind_is_lost_when_the_wake_up_socket_is_full(loop):
    seen = set()
    rare = (signal.SIGUSR2, signal.SIGHUP, signal.SIGTERM, signal.SIGINT)
    for number in (signal.SIGUSR1, *rare):
        loop.add_signal_handler(number, seen.add, number)
    for _ in range(10):
        seen.clear()
        for _ in range(3000):
            kill(signal.SIGUSR1)
        for number in rare:
            kill(number)
        while seen != {signal.SIGUSR1, *rare}:
            await asyncio.sleep(0)
    for number in (signal.SIGUSR1, *rare):
        loop.remove_signal_handler(number)


@pytest.mark.ours  # asyncio learns of signals from its own wake-up descriptor only
@pytest.mark.parametrize("when", ["before", "after"])
async def test_somebody_elses_wakeup_fd(loop, when):
    seen = asyncio.Queue()
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    if when == "before":
        signal.set_wakeup_fd(writing)
    loop.add_signal_handler(signal.SIGUSR1, seen.put_nowait, 1)
    if when == "after":
        signal.set_wakeup_fd(writing)
    for _ in range(20):
        kill(signal.SIGUSR1)
        assert await asyncio.wait_for(seen.get(), 10) == 1
    loop.remove_signal_handler(signal.SIGUSR1)
    os.close(reading)
    os.close(writing)


# -- handlers of the program's own over the loop's


async def test_a_handler_over_the_loops_does_not_silence_it(loop):
    seen = []
    loop.add_signal_handler(signal.SIGUSR1, seen.append, "loop's")
    for _ in range(3):
        before = signal.signal(signal.SIGUSR1, lambda *_: seen.append("own"))
        kill(signal.SIGUSR1)
        await settle(lambda: len(seen) == 2)
        signal.signal(signal.SIGUSR1, before)
        kill(signal.SIGUSR1)
        await settle(lambda: len(seen) == 3)
        await turns(5)
        assert seen == ["own", "loop's", "loop's"]
        seen.clear()
    assert loop.remove_signal_handler(signal.SIGUSR1)


async def test_a_signal_that_came_while_another_handler_lay_over_it(loop):
    """It is put back before the loop has had time to look, as by programs that take signals for a moment."""
    seen = []
    loop.add_signal_handler(signal.SIGUSR1, seen.append, "loop's")
    before = signal.signal(signal.SIGUSR1, lambda *_: seen.append("own"))
    kill(signal.SIGUSR1)
    signal.signal(signal.SIGUSR1, before)
    await settle(lambda: len(seen) == 2)
    await turns(5)
    assert seen == ["own", "loop's"]
    loop.remove_signal_handler(signal.SIGUSR1)


async def test_removing_a_handler_that_lies_below_another(loop):
    seen = []
    loop.add_signal_handler(signal.SIGUSR1, seen.append, "loop's")
    loops = signal.signal(signal.SIGUSR1, lambda *_: seen.append("own"))
    kill(signal.SIGUSR1)
    assert loop.remove_signal_handler(signal.SIGUSR1)
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL
    signal.signal(signal.SIGUSR1, loops)  # as a context manager does that knows nothing of the removal
    kill(signal.SIGUSR1)
    await turns(10)
    assert seen == ["own"]
    signal.signal(signal.SIGUSR1, signal.SIG_DFL)


async def test_signals_captured_for_a_while_and_raised_again(loop):
    """uvicorn's way: its own handlers while it serves, then the old ones, and what came is raised once more."""
    seen, captured, stop = [], [], asyncio.Event()

    def note(number, _):
        captured.append(number)
        loop.call_soon_threadsafe(stop.set)

    numbers = (signal.SIGTERM, signal.SIGUSR1)
    for number in numbers:
        loop.add_signal_handler(number, seen.append, number)
    for number in numbers:
        originals = {each: signal.signal(each, note) for each in numbers}
        kill(number)
        await stop.wait()
        stop.clear()
        for each, handler in originals.items():
            signal.signal(each, handler)
        for each in reversed(captured):
            signal.raise_signal(each)
        await settle(lambda: len(seen) == 2)
        await turns(5)
        assert captured == [number] and seen == [number, number]
        captured.clear()
        seen.clear()
    for number in numbers:
        assert loop.remove_signal_handler(number)


@pytest.mark.parametrize("over", [False, True], ids=["alone", "under another"])
async def test_each_signal_calls_once(loop, over):
    """From this thread and to another one, several in one turn: neither fewer calls nor more."""
    count, told = 0, []

    def note():
        nonlocal count
        count += 1

    loop.add_signal_handler(signal.SIGUSR1, note)
    before = signal.signal(signal.SIGUSR1, lambda *_: told.append(1)) if over else None
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    for number in range(1, 101):
        for _ in range(number % 3):
            kill(signal.SIGUSR1)
        sent = sum(each % 3 for each in range(1, number + 1)) + number
        signal.pthread_kill(thread.ident, signal.SIGUSR1)
        await settle(lambda sent=sent: count >= sent)
        await turns(3)
        assert count == sent
    done.set()
    thread.join()
    assert bool(told) is over
    if over:
        signal.signal(signal.SIGUSR1, before)
    loop.remove_signal_handler(signal.SIGUSR1)


@pytest.mark.ours  # asyncio's loops take the wake-up descriptor from each other
def test_several_loops_in_turn(new_loop):
    loops = [new_loop() for _ in range(3)]
    numbers = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)
    seen = {number: [] for number in numbers}
    for loop, number in zip(loops, numbers, strict=True):
        loop.add_signal_handler(number, seen[number].append, number)
    for _ in range(3):
        for loop, number in zip(loops, numbers, strict=True):
            for each in numbers:
                kill(each)
            loop.run_until_complete(settle(lambda came=seen[number]: came))
            assert set(seen[number]) == {number}
            seen[number].clear()
    for loop, number in zip(loops, numbers, strict=True):
        assert loop.remove_signal_handler(number)


def test_a_wakeup_fd_that_was_set_before_stays(new_loop):
    """A loop without handlers leaves it alone, and Python's handlers run all the same."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing)
    loop = new_loop()
    timer = threading.Timer(0.05, kill, (signal.SIGINT,))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        loop.run_forever()
    timer.join()
    assert os.read(reading, 10) == bytes([signal.SIGINT])
    assert signal.set_wakeup_fd(-1) == writing
    os.close(reading)
    os.close(writing)


async def test_a_cancelled_handle_takes_its_handler_away(loop):
    """What asyncio's own code does when a handle was cancelled under its hands."""
    loop.add_signal_handler(signal.SIGUSR1, print)
    loop._signal_handlers[signal.SIGUSR1].cancel()
    kill(signal.SIGUSR1)
    while signal.SIGUSR1 in loop._signal_handlers:
        await asyncio.sleep(0)
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL


async def test_exception_in_a_handler_is_reported(loop, errors):
    done = asyncio.Event()

    def fail():
        done.set()
        raise ZeroDivisionError

    loop.add_signal_handler(signal.SIGUSR1, fail)
    kill(signal.SIGUSR1)
    await done.wait()
    await turns()
    assert [type(e["exception"]) for e in errors] == [ZeroDivisionError]
    errors.clear()
    loop.remove_signal_handler(signal.SIGUSR1)


@pytest.mark.parametrize("exit_type", [KeyboardInterrupt, SystemExit])
def test_a_handler_may_end_the_loop(loop, exit_type):
    def leave():
        raise exit_type

    loop.add_signal_handler(signal.SIGUSR1, leave)
    kill(signal.SIGUSR1)
    with pytest.raises(exit_type):
        loop.run_forever()
    loop.remove_signal_handler(signal.SIGUSR1)


async def test_wrong_arguments(loop):
    with pytest.raises(TypeError):
        loop.add_signal_handler("SIGUSR1", print)
    for number in (-1, 1000, 0):
        with pytest.raises(ValueError):
            loop.add_signal_handler(number, print)
        with pytest.raises(ValueError):
            loop.remove_signal_handler(number)
    for number in (signal.SIGKILL, signal.SIGSTOP):
        with pytest.raises(RuntimeError):
            loop.add_signal_handler(number, print)
    with pytest.raises(TypeError):
        loop.add_signal_handler(signal.SIGUSR1, turns)


def test_other_threads_are_refused(new_loop):
    caught = []

    def work():
        loop = new_loop()
        try:
            loop.add_signal_handler(signal.SIGUSR1, print)
        except RuntimeError as exc:
            caught.append(exc)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert len(caught) == 1


def test_close_removes_handlers(new_loop):
    loop = new_loop()
    loop.add_signal_handler(signal.SIGUSR1, print)
    loop.add_signal_handler(signal.SIGINT, print)
    loop.run_until_complete(turns())
    loop.close()


def test_sigint_handler(loop):
    seen = []

    async def main():
        loop.add_signal_handler(signal.SIGINT, seen.append, "int")
        kill(signal.SIGINT)
        while not seen:
            await asyncio.sleep(0)
        loop.remove_signal_handler(signal.SIGINT)

    loop.run_until_complete(main())
    assert seen == ["int"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_keyboard_interrupt_leaves_a_sleeping_loop_usable(loop):
    timer = threading.Timer(0.05, kill, (signal.SIGINT,))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        loop.run_forever()
    timer.join()
    assert loop.run_until_complete(asyncio.sleep(0.001, 5)) == 5


# -- Ctrl-C in a program of its own

IDLE = """
async def main():
    try:
        print("ready", flush=True)
        await asyncio.sleep(1000)
    finally:
        print("cleaned up", flush=True)
"""

BUSY = """
async def main():
    try:
        print("ready", flush=True)
        while True:
            await asyncio.sleep(0)
    finally:
        print("cleaned up", flush=True)
"""

SERVING = """
async def main():
    async def client(reader, writer):
        try:
            while data := await reader.read(1000):
                writer.write(data)
        except asyncio.CancelledError:
            pass
        writer.close()
    server = await asyncio.start_server(client, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    try:
        print("ready", flush=True)
        while True:
            writer.write(b"x")
            await reader.readexactly(1)
    finally:
        writer.close()
        server.close()
        print("cleaned up", flush=True)
"""

CALLBACK = """
async def main():
    loop = asyncio.get_running_loop()
    def spin():
        loop.call_soon(spin)
    spin()
    try:
        print("ready", flush=True)
        await asyncio.Event().wait()
    finally:
        print("cleaned up", flush=True)
"""

RUNNERS = {
    "run": "run(main())",
    "runner": "with asyncio.Runner(loop_factory=new_loop) as runner: runner.run(main())",
}


@pytest.mark.parametrize("runner", RUNNERS.values(), ids=list(RUNNERS))
@pytest.mark.parametrize("program", [IDLE, BUSY, SERVING, CALLBACK], ids=["idle", "busy", "serving", "callback"])
def test_ctrl_c(way, program, runner):
    source = (
        f"{way.prelude()}\n{program}\ntry:\n    {runner}\n"
        "except KeyboardInterrupt:\n    print('interrupted', flush=True)\n"
    )
    with Running(source) as child:
        assert child.line() == "ready"
        if not way.ours:
            time.sleep(0.1)  # asyncio misses a Ctrl-C that comes while it goes to sleep
        child.signal(signal.SIGINT)
        end = child.end()
    assert end.out.split("\n")[:2] == ["cleaned up", "interrupted"]
    assert end.code == 0
    assert end.err == ""


def test_ctrl_c_that_nobody_catches(way):
    with Running(f"{way.prelude()}\n{IDLE}\nrun(main())") as child:
        assert child.line() == "ready"
        if not way.ours:
            time.sleep(0.1)
        child.signal(signal.SIGINT)
        end = child.end()
    assert end.code == -signal.SIGINT
    assert end.err.rstrip().endswith("KeyboardInterrupt")


def test_sigterm_kills_without_a_handler(way):
    with Running(f"{way.prelude()}\n{BUSY}\nrun(main())") as child:
        assert child.line() == "ready"
        child.signal(signal.SIGTERM)
        assert child.end().code == -signal.SIGTERM


def test_a_signal_wakes_the_loop_of_a_program_many_times(way):
    """One signal at a time, at any moment of the turn: a lost one hangs here."""
    source = f"""
{way.prelude()}
import os, signal, threading

async def main():
    loop = asyncio.get_running_loop()
    seen = asyncio.Event()
    loop.add_signal_handler(signal.SIGUSR1, seen.set)
    for i in range(300):
        threading.Thread(target=os.kill, args=(os.getpid(), signal.SIGUSR1)).start()
        await asyncio.wait_for(seen.wait(), 10)
        seen.clear()
    print("done")

run(main())
"""
    end = run_python(source)
    assert (end.code, end.out) == (0, "done\n"), end.err


@pytest.mark.ours
def test_a_closed_wakeup_fd_of_somebody_else(loop):
    """Left behind by a program that has closed its socket: no reason not to run."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write)
    os.close(write)
    os.close(read)
    loop.run_until_complete(turns())
    assert signal.set_wakeup_fd(-1) == -1


def test_the_wakeup_fd_is_given_back_before_it_is_closed(loop):
    """Also by a loop whose handlers outlive a run, and are removed in the next one."""

    async def add():
        loop.add_signal_handler(signal.SIGUSR1, int)

    async def remove():
        loop.remove_signal_handler(signal.SIGUSR1)

    loop.run_until_complete(add())
    loop.run_until_complete(remove())
    assert signal.set_wakeup_fd(-1) == -1
    loop.run_until_complete(add())
    loop.close()
    assert signal.set_wakeup_fd(-1) == -1


@pytest.mark.ours
def test_a_loop_whose_sockets_were_collected_first_can_be_closed(new_loop):
    """At the interpreter's end the collector finds the loop and its sockets in any order."""
    loop = new_loop()
    loop.run_until_complete(asyncio.sleep(0))
    loop.add_signal_handler(signal.SIGUSR1, print)
    loop._ssock.close()
    loop._csock.close()
    loop.close()
    assert signal.set_wakeup_fd(-1) == -1
