"""fork, exec, multiprocessing, and several threads."""

import asyncio
import threading

import pytest
from support import Echo, check_program, echo, echo_in_a_new_loop, turns

# -- fork


def test_an_inherited_loop_refuses_to_run(way):
    """asyncio lets it run, and both processes then steal each other's events."""
    refusal = """
    for call in (loop.run_forever, lambda: loop.run_until_complete(echo())):
        try:
            call()
        except RuntimeError as exc:
            assert "fork" in str(exc), exc
        else:
            os._exit(3)
"""
    check_program(
        way,
        f"""
loop = new_loop()
loop.run_until_complete(echo())
pid = os.fork()
if not pid:
    {refusal.strip() if way.ours else "pass"}
    new = new_loop()
    new.run_until_complete(echo())
    new.close()
    os._exit(0)
assert code_of(pid) == 0
loop.run_until_complete(echo())
loop.close()
""",
    )


def test_fork_inside_a_running_loop(way):
    """The child makes a loop of its own; the parent's connections go on as if nothing had been."""
    check_program(
        way,
        """
async def main():
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Echo, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    for i in range(5):
        writer.write(b"before")
        assert await reader.readexactly(6) == b"before"
        pid = os.fork()
        if not pid:
            new = new_loop()
            new.run_until_complete(echo())
            new.close()
            os._exit(0)
        assert await asyncio.to_thread(code_of, pid) == 0
        writer.write(b"after")
        assert await reader.readexactly(5) == b"after"
        await echo()
    writer.close()
    server.close()
    print("done")

run(main())
""",
        out="done\n",
    )


@pytest.mark.ours  # asyncio takes the parent's descriptors out of the shared epoll
def test_closing_an_inherited_loop_does_not_hurt_the_parent(way):
    check_program(
        way,
        """
import gc
loop = new_loop()
server = loop.run_until_complete(loop.create_server(Echo, "127.0.0.1", 0))
address = server.sockets[0].getsockname()
async def connect():
    reader, writer = await asyncio.open_connection(*address)
    writer.write(b"before")
    assert await reader.readexactly(6) == b"before"
    return reader, writer
async def ask(reader, writer):
    writer.write(b"after")
    assert await reader.readexactly(5) == b"after"
reader, writer = loop.run_until_complete(connect())
pid = os.fork()
if not pid:
    loop.close()
    del reader, writer, server, loop
    gc.collect()
    os._exit(0)
assert code_of(pid) == 0
loop.run_until_complete(ask(reader, writer))
loop.run_until_complete(asyncio.to_thread(int))
loop.run_until_complete(echo())
writer.close()
server.close()
loop.run_until_complete(server.wait_closed())
loop.close()
""",
    )


@pytest.mark.ours
def test_a_child_that_leaves_through_the_running_loop(way):
    """sys.exit() in the child unwinds through the loop that belongs to the parent."""
    check_program(
        way,
        """
async def main():
    loop = asyncio.get_running_loop()
    await echo()
    pid = os.fork()
    if not pid:
        sys.stderr = open(os.devnull, "w")
        sys.exit(7)
    assert await asyncio.to_thread(code_of, pid) == 7
    await echo()
    print("done")

loop = new_loop()
try:
    loop.run_until_complete(main())
finally:
    loop.close()
""",
        out="done\n",
    )


@pytest.mark.ours  # asyncio goes on, on the parent's own epoll
@pytest.mark.parametrize("how", ["await asyncio.sleep(0.01)", "await asyncio.sleep(0)", "loop.stop()"])
def test_a_child_that_comes_back_to_the_running_loop(way, how):
    """The loop's memory is the parent's alone: the child is told so, and does not crash."""
    check_program(
        way,
        f"""
async def main():
    loop = asyncio.get_running_loop()
    await echo()
    pid = os.fork()
    if not pid:
        sys.stderr = open(os.devnull, "w")
        {how}
    assert await asyncio.to_thread(code_of, pid) == 1
    await echo()
    print("done")

loop = new_loop()
try:
    loop.run_until_complete(main())
finally:
    loop.close()
""",
        out="done\n",
    )


@pytest.mark.ours
@pytest.mark.parametrize("how", ["write", "return"])
def test_a_child_that_comes_back_from_a_delivery(way, how):
    """What has arrived for others in the same turn is delivered to the child, too: they share nothing but the past."""
    check_program(
        way,
        f"""
import socket
pid = None

class Forking(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
    def data_received(self, data):
        global pid
        if pid is None:
            pid = os.fork()
            if not pid:
                sys.stderr = open(os.devnull, "w")
                if {how == "write"}:
                    self.transport.write(b"x")

async def main():
    loop = asyncio.get_running_loop()
    pairs = [socket.socketpair() for _ in range(3)]
    for near, far in pairs:
        near.setblocking(False)
        await loop.connect_accepted_socket(Forking, near)
        far.send(b"hello")
    while pid is None:
        await asyncio.sleep(0)
    assert await asyncio.to_thread(code_of, pid) == 1
    await echo()
    for near, far in pairs:
        far.close()
    print("done")

loop = new_loop()
try:
    loop.run_until_complete(main())
finally:
    loop.close()
""",
        out="done\n",
    )


def test_exec_leaves_nothing_open(way):
    """Rings, epoll and event descriptors are close-on-exec."""
    check_program(
        way,
        """
import subprocess
async def main():
    await echo()
    code = "import os; print([os.readlink(f'/proc/self/fd/{n}') for n in (3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)"
    code += " if os.path.lexists(f'/proc/self/fd/{n}')])"
    process = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", code], close_fds=False, capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    # The listing's own descriptors are gone or regular; nothing anonymous, no socket may remain.
    assert "anon_inode" not in process.stdout and "socket" not in process.stdout, process.stdout
    print("done")
run(main())
""",
        out="done\n",
    )


def test_posix_spawn_and_popen_under_load(way):
    check_program(
        way,
        """
import subprocess
async def main():
    async def keep_busy():
        while True:
            await echo(1000)
    busy = asyncio.ensure_future(keep_busy())
    for _ in range(5):
        done = await asyncio.to_thread(subprocess.run, ["/bin/true"])
        assert done.returncode == 0
    busy.cancel()
    try:
        await busy
    except asyncio.CancelledError:
        print("done")
run(main())
""",
        out="done\n",
    )


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_multiprocessing(way, method):
    check_program(
        way,
        f"""
import multiprocessing
from support import echo_in_a_new_loop
async def main():
    await echo()
    context = multiprocessing.get_context({method!r})
    processes = [context.Process(target=echo_in_a_new_loop, args=({way.name!r},)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        await asyncio.to_thread(process.join)
    assert [process.exitcode for process in processes] == [0, 0], processes
    await echo()
    print("done")
if __name__ == "__main__":
    run(main())
""",
        out="done\n",
    )


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_process_pool(way, method):
    check_program(
        way,
        f"""
import concurrent.futures, multiprocessing
async def main():
    context = multiprocessing.get_context({method!r})
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as pool:
        loop = asyncio.get_running_loop()
        results = await asyncio.gather(*(loop.run_in_executor(pool, pow, i, 2) for i in range(10)))
    assert results == [i * i for i in range(10)]
    print("done")
if __name__ == "__main__":
    run(main())
""",
        out="done\n",
    )


# -- threads


def test_several_loops_in_several_threads(way):
    failed = []

    def work():
        try:
            for _ in range(5):
                echo_in_a_new_loop(way.name)
        except BaseException as exc:
            failed.append(exc)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(50)
    assert not failed
    assert not any(thread.is_alive() for thread in threads)


def in_a_thread(call):
    result = []

    def work():
        try:
            result.append(call())
        except BaseException as exc:
            result.append(exc)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(30)
    assert not thread.is_alive()
    return result[0]


def test_created_in_one_thread_and_run_in_another(new_loop):
    loop = new_loop(fresh=True)
    assert in_a_thread(lambda: loop.run_until_complete(echo())) is None
    loop.close()


def test_run_in_one_thread_and_later_in_another(new_loop):
    loop = new_loop()
    for _ in range(3):
        loop.run_until_complete(echo())
        assert in_a_thread(lambda: loop.run_until_complete(echo())) is None
    loop.close()


def test_connections_move_with_their_loop(new_loop):
    """What one thread's run left in flight, another thread's run receives."""
    loop = new_loop()

    async def begin():
        server = await loop.create_server(Echo, "127.0.0.1", 0)
        return server, *await asyncio.open_connection(*server.sockets[0].getsockname())

    async def ask(data):
        writer.write(data)
        return await reader.readexactly(len(data))

    async def end():
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()

    server, reader, writer = loop.run_until_complete(begin())
    for i in range(4):
        assert in_a_thread(lambda i=i: loop.run_until_complete(ask(b"thread %d" % i))) == b"thread %d" % i
        assert loop.run_until_complete(ask(b"main %d" % i)) == b"main %d" % i
    writer.write(b"written outside")
    assert in_a_thread(lambda: loop.run_until_complete(reader.readexactly(15))) == b"written outside"
    loop.run_until_complete(end())


def test_closed_in_another_thread(new_loop):
    loop = new_loop()
    loop.run_until_complete(turns())
    assert in_a_thread(loop.close) is None
    assert loop.is_closed()


def test_the_thread_of_the_last_run_is_gone(new_loop):
    loop = new_loop(fresh=True)
    for _ in range(5):
        assert in_a_thread(lambda: loop.run_until_complete(echo())) is None
    loop.run_until_complete(echo())


def test_calls_between_loops(new_loop):
    """Each loop wakes the other one, thousands of times."""
    one, two = new_loop(), new_loop()
    left = 3000

    def there():
        two.call_soon_threadsafe(back)

    def back():
        nonlocal left
        left -= 1
        if left:
            one.call_soon_threadsafe(there)
        else:
            one.call_soon_threadsafe(one.stop)
            two.stop()

    thread = threading.Thread(target=two.run_forever)
    thread.start()
    one.call_soon(there)
    one.run_forever()
    thread.join(20)
    assert left == 0 and not thread.is_alive()
