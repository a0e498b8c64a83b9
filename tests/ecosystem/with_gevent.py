"""Asks a loop for another thread, with gevent's patches: all of them, or all but those of threads and queues."""

import sys

from gevent import monkey

monkey.patch_all(**{} if sys.argv[1] == "green" else {"thread": False, "queue": False})

import asyncio  # noqa: E402 - gevent wants to be the first
import time  # noqa: E402
from concurrent.futures import ThreadPoolExecutor  # noqa: E402

import flexsc_loop  # noqa: E402


async def ask(what):
    try:
        return await asyncio.wait_for(what, 20)
    except RuntimeError as error:
        return str(error)


async def main():
    loop = asyncio.get_running_loop()
    print(type(loop).__module__, flush=True)
    print(await ask(asyncio.to_thread(lambda: 42)))
    print(await ask(loop.run_in_executor(ThreadPoolExecutor(1), lambda: 43)) if sys.argv[1] == "real" else "")
    print(len(await asyncio.gather(*(ask(asyncio.to_thread(time.sleep, 0.01)) for _ in range(5)))))
    answer = await ask(loop.getaddrinfo("localhost", 80))
    print(answer if isinstance(answer, str) else "found")
    await asyncio.sleep(0.01)


with asyncio.Runner(loop_factory=flexsc_loop.new_event_loop) as runner:
    runner.run(main())
