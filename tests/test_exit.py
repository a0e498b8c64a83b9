"""The end of the interpreter: the right exit code, and no crash, whatever the loop was doing."""

import signal
import sys

import pytest
from support import check_program, run_python


def test_exit_with_a_loop_running_in_a_daemon_thread(way):
    check_program(
        way,
        """
loop = new_loop()
ready = threading.Event()
def work():
    async def main():
        loop.call_soon(ready.set)
        while True:
            await echo(10_000)
    loop.run_until_complete(main())
threading.Thread(target=work, daemon=True).start()
ready.wait(10)
time.sleep(0.05)
print("leaving", flush=True)
""",
        out="leaving\n",
    )


def test_exit_with_an_idle_loop_in_a_daemon_thread(way):
    check_program(
        way,
        """
loop = new_loop()
ready = threading.Event()
loop.call_soon(ready.set)
threading.Thread(target=loop.run_forever, daemon=True).start()
ready.wait(10)
print("leaving", flush=True)
sys.exit(5)
""",
        code=5,
    )


def test_sys_exit_in_a_callback(way):
    check_program(
        way,
        """
loop = new_loop()
loop.call_soon(sys.exit, 9)
loop.run_forever()
""",
        code=9,
    )


def test_sys_exit_in_a_task_with_open_connections(way):
    check_program(
        way,
        """
async def main():
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Echo, "127.0.0.1", 0)
    streams = [await asyncio.open_connection(*server.sockets[0].getsockname()) for _ in range(10)]
    for reader, writer in streams:
        writer.write(b"x" * 1_000_000)
    await asyncio.sleep(0)
    sys.exit(4)
run(main())
""",
        code=4,
    )


def test_sys_exit_with_a_loop_that_nobody_closes(way):
    check_program(
        way,
        """
async def main():
    loop = asyncio.get_running_loop()
    globals()["server"] = await loop.create_server(Echo, "127.0.0.1", 0)
    globals()["streams"] = [await asyncio.open_connection(*server.sockets[0].getsockname()) for _ in range(10)]
    for reader, writer in streams:
        writer.write(b"x" * 1_000_000)
loop = new_loop()
loop.run_until_complete(main())
loop.call_later(10, print)
print("leaving", flush=True)
sys.exit(3)
""",
        code=3,
        out="leaving\n",
    )


def test_a_loop_in_a_reference_cycle_at_exit(way):
    check_program(
        way,
        """
loop = new_loop()
loop.myself = loop
loop.run_until_complete(echo())
loop.call_later(1000, loop.stop)
""",
    )


def test_loops_that_outlive_their_modules(way):
    """What holds these is taken apart when there is next to nothing left of Python."""
    check_program(way, """
import builtins
builtins.kept, sys.kept = new_loop(), new_loop()
""")


def test_an_uncaught_exception(way):
    end = run_python(f"{way.prelude()}\nasync def main():\n    raise LookupError('on purpose')\nrun(main())")
    assert end.code == 1
    assert end.err.rstrip().endswith("LookupError: on purpose")


def test_running_a_loop_at_exit(way):
    check_program(
        way,
        """
import atexit
loop = new_loop()
loop.run_until_complete(echo())
def last():
    loop.run_until_complete(echo())
    loop.close()
    print("last words", flush=True)
atexit.register(last)
""",
        out="last words\n",
    )


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_program_can_be_killed(way, number):
    check_program(
        way,
        f"""
async def main():
    async def keep_busy():
        while True:
            await echo(10_000)
    tasks = [asyncio.ensure_future(keep_busy()) for _ in range(10)]
    await asyncio.sleep(0.05)
    os.kill(os.getpid(), {int(number)})
    await asyncio.sleep(60)
run(main())
""",
        code=-number,
    )


@pytest.mark.skipif(sys.version_info < (3, 12), reason="loop_factory came with Python 3.12")
def test_asyncio_run_with_a_loop_factory(way):
    check_program(way, "asyncio.run(echo(), loop_factory=new_loop)\nprint('done')", out="done\n")
