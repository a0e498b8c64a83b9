"""asyncio in threads: which loop runs, which is set, and what asyncio.run leaves behind."""

import asyncio
import contextvars
import sys
import threading
import time
import warnings

warnings.simplefilter("ignore")
sys.unraisablehook = lambda told: print("unraisable:", told.exc_value)
variable = contextvars.ContextVar("variable", default=0)


def told(what, function, *args, **kwargs):
    try:
        print(what, "->", function(*args, **kwargs))
    except BaseException as error:
        print(what, "!!", type(error).__name__, error)


def in_thread(function, *args):
    thread = threading.Thread(target=function, args=args, name="other")
    thread.start()
    thread.join()


async def several():
    loop = asyncio.get_running_loop()
    print(loop is asyncio.get_event_loop() is asyncio._get_running_loop(), asyncio.current_task() is not None)
    print(await asyncio.gather(asyncio.sleep(0.01, 1), asyncio.to_thread(lambda: (time.sleep(0.01), 2)[1])))
    print(await loop.run_in_executor(None, threading.current_thread) is threading.current_thread())
    future = asyncio.Future()
    loop.call_later(0.01, future.set_result, "future")
    print(await future, future.get_loop() is loop)
    async with asyncio.timeout(5):
        async with asyncio.TaskGroup() as group:
            one = group.create_task(asyncio.sleep(0.01, "grouped"))
    print(one.result())
    try:
        async with asyncio.timeout(0.01):
            await asyncio.sleep(5)
    except TimeoutError:
        print("timeout")
    variable.set(5)
    return "result"


def which():
    told("running", asyncio.get_running_loop)
    print(asyncio._get_running_loop())
    told("task", asyncio.current_task)
    told("all", asyncio.all_tasks)
    told("task", lambda: asyncio.create_task(None))


def set_loops():
    told("none", asyncio.get_event_loop)
    told("none", asyncio.Future)
    told("none", asyncio.Task, None)
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    print(asyncio.get_event_loop() is loop, asyncio.Future().get_loop() is loop)
    print(loop.run_until_complete(several()), loop.is_running())
    asyncio.set_event_loop(None)
    told("none", asyncio.get_event_loop)
    loop.close()


def running():
    print(asyncio.run(several()), variable.get())
    told("afterwards", asyncio.get_event_loop)
    told("twice", lambda: asyncio.run(nested()))
    told("kind", asyncio.run, 5)

    async def failing():
        await asyncio.sleep(0.01)
        raise LookupError("failed")

    told("fails", lambda: asyncio.run(failing()))
    told("debug", lambda: asyncio.run(debugging(), debug=True))


async def debugging():
    return asyncio.get_running_loop().get_debug()


async def nested():
    coroutine = several()
    try:
        asyncio.run(coroutine)
    finally:
        coroutine.close()


async def numbers():
    try:
        yield 1
        yield 2
    finally:
        await asyncio.sleep(0)
        print("generator closed")


async def worker(name):
    try:
        await asyncio.sleep(30)
    except asyncio.CancelledError:
        await asyncio.sleep(0.01)
        print(name, "cancelled")
        raise


async def leaving():
    global kept
    print("kept", await anext(kept := numbers()))
    global task
    task = asyncio.create_task(worker("worker"), name="worker")
    await asyncio.sleep(0)
    return "left"


def leftovers():
    print(asyncio.run(leaving()))
    print(task.cancelled(), task.done(), task.get_name())
    with asyncio.Runner() as runner:
        print(runner.run(leaving()), runner.run(leaving()))


async def exiting():
    await asyncio.sleep(0.01)
    sys.exit("out of a task")


async def generating():
    return [number async for number in numbers()]


def by_hand():
    """A coroutine and a generator that no loop runs."""
    try:
        several().send(None)
    except RuntimeError as error:
        print(error)
    begun = numbers()
    try:
        begun.asend(None).send(None)
    except StopIteration as stop:
        print(stop.value)
    print(sys.get_asyncgen_hooks())


async def with_factories():
    loop = asyncio.get_running_loop()
    found = loop.get_task_factory(), loop.get_exception_handler()
    loop.set_exception_handler(lambda _loop, _context: None)
    if sys.version_info >= (3, 12):
        loop.set_task_factory(asyncio.eager_task_factory)
    return *found, await asyncio.create_task(several())


def factories():
    """What one run has set for its loop is not the next one's."""
    print(asyncio.run(with_factories()), asyncio.run(with_factories()))


for part in (which, set_loops, running, leftovers, by_hand, factories):
    print(f"-- {part.__name__}")
    part() if part is not set_loops else None
    in_thread(part)
told("exit", lambda: asyncio.run(exiting()))
in_thread(lambda: told("exit", lambda: asyncio.run(exiting())))
in_thread(lambda: asyncio.run(exiting()))
print(asyncio.run(generating()))
if sys.version_info < (3, 14):
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    print(asyncio.get_event_loop().run_until_complete(several()))
    loop.close()
print("end")
