"""Pages and syscall threads: counters, tiny resources, the CPU that a thread runs on."""

import asyncio
import contextlib
import errno
import os
import resource
import select
import socket
import threading
import time
from pathlib import Path

import psutil
import pytest
from support import (
    Echo,
    Recorder,
    Running,
    cpu_list,
    digest,
    echo,
    eventually,
    payload,
    run_python,
    settle,
    spare_cpu,
    thread_names,
    turns,
    unix_pair,
)

KEYS = {
    "turns",
    "submitted",
    "batches",
    "completions",
    "syscalls",
    "wakeups",
    "spins",
    "pool_empty",
    "overflows",
    "in_flight",
    "connections",
    "thread_cpu_ns",
}

#: Each is tiny alone, and then all of them together.
TINY = {
    "two buffers": {"buffers": 2, "buffer_size": 1024},
    "one buffer": {"buffers": 1, "buffer_size": 4096},
    "four entries": {"entries": 4},
    "eight completions": {"entries": 4, "completions": 8},
    "all": {"entries": 4, "completions": 8, "buffers": 2, "buffer_size": 256},
}


# -- counters


@pytest.mark.ours
def test_stats(loop):
    assert isinstance(loop.stats(), dict)
    assert set(loop.stats()) >= KEYS
    assert all(isinstance(value, int) and value >= 0 for value in loop.stats().values())
    before = loop.stats()
    loop.run_until_complete(echo())
    after = loop.stats()
    for key in ("turns", "submitted", "batches", "completions"):
        assert after[key] > before[key], key
    # The far end of what echo() has closed may still be on its way out.
    loop.run_until_complete(settle(lambda: loop.stats()["connections"] == 0))
    loop.stats()["turns"] = -1
    assert loop.stats()["turns"] >= 0
    loop.close()
    assert loop.stats()["in_flight"] == 0


@pytest.mark.ours
async def test_connections_are_counted(loop, connect):
    assert loop.stats()["connections"] == 0
    made = [await connect() for _ in range(5)]
    assert loop.stats()["connections"] == 5
    for transport, protocol, _ in made:
        transport.close()
        await protocol.until_called("lost")
    await turns(3)
    assert loop.stats()["connections"] == 0


@pytest.mark.ours
@pytest.mark.usefixtures("gathering")
async def test_writes_of_a_turn_go_out_together(way, loop, connect):
    made = [await connect() for _ in range(50)]
    await turns(5)
    before = loop.stats()
    for transport, _, _ in made:
        for _ in range(10):
            transport.write(b"x" * 10)
    await turns(2)
    after = loop.stats()
    for _, _, peer in made:
        assert await peer.recv(100) == b"x" * 100
    assert after["submitted"] - before["submitted"] <= 60
    if way.threads == "off":
        assert after["syscalls"] - before["syscalls"] <= 20


@pytest.mark.ours
async def test_a_busy_loop_is_not_woken(loop):
    """call_soon_threadsafe makes a system call only when the loop sleeps."""
    count, done = 0, asyncio.Event()

    def note():
        nonlocal count
        count += 1
        if count == 20_000:
            done.set()

    def storm():
        for _ in range(20_000):
            loop.call_soon_threadsafe(note)

    before = loop.stats()["wakeups"]
    for _ in range(1000):
        loop.call_soon_threadsafe(int)
    assert loop.stats()["wakeups"] == before
    thread = threading.Thread(target=storm)
    thread.start()
    while not done.is_set():
        await asyncio.sleep(0)
    thread.join()
    assert loop.stats()["wakeups"] - before < 10_000


@pytest.mark.ours
async def test_a_sleeping_loop_counts_its_wake_ups(loop):
    before = loop.stats()["wakeups"]
    await asyncio.to_thread(time.sleep, 0.05)
    assert loop.stats()["wakeups"] > before


# -- the thread and its CPU


def syscall_threads(before):
    """Name and CPUs of each thread of the kernel's that is new."""
    found = {}
    for tid, name in thread_names().items():
        if tid not in before:
            status = Path(f"/proc/self/task/{tid}/status").read_text()
            cpus = next(line for line in status.splitlines() if line.startswith("Cpus_allowed_list"))
            found[name] = list(cpu_list(cpus.split(":")[1]))
    return found


@pytest.mark.ours
def test_the_cpu_list_is_obeyed(way, new_loop):
    before = thread_names()
    loop = new_loop()
    loop.run_until_complete(echo())
    found = syscall_threads(before)
    if way.threads == "off":
        assert found == {}
    else:
        ((name, cpus),) = found.items()
        assert cpus == [spare_cpu()]
        if way.pages == "kernel":
            assert name == f"iou-sqp-{os.getpid()}"
    loop.close()


@pytest.mark.ours
@pytest.mark.only(threads="syscall")
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs two CPUs")
def test_a_cpu_outside_the_affinity_mask(way):
    end = run_python(
        f"""
import os
os.sched_setaffinity(0, {{0}})
{way.prelude()}
import test_pages, support
before = support.thread_names()
loop = new_loop()
loop.run_until_complete(support.echo())
print(list(test_pages.syscall_threads(before).values()))
assert os.sched_getaffinity(0) == {{0}}
loop.close()
"""
    )
    assert end.out == f"[[{spare_cpu()}]]\n", end.err


@pytest.mark.ours
@pytest.mark.only(threads="syscall")
def test_threads_on_picks_a_cpu(way):
    import flexsc_loop

    before = thread_names()
    loop = flexsc_loop.new_event_loop(pages=way.pages, threads="on")
    loop.run_until_complete(echo())
    if len(os.sched_getaffinity(0)) > 1:
        ((_, cpus),) = syscall_threads(before).items()
        assert len(cpus) == 1
    loop.close()


@pytest.mark.ours
def test_the_threads_cpu_time_is_told(way, loop):
    loop.run_until_complete(echo(5_000_000))
    spent = loop.stats()["thread_cpu_ns"]
    if way.threads == "off":
        assert spent == 0
    else:
        assert 0 < spent < 60e9


async def test_an_idle_loop_uses_no_cpu(loop):
    """With connections that wait for data, with a server, and with a syscall thread that has to fall asleep."""
    server = await loop.create_server(Echo, "127.0.0.1", 0)
    streams = [await asyncio.open_connection(*server.sockets[0].getsockname()) for _ in range(100)]
    for reader, writer in streams:
        writer.write(b"x")
        await reader.readexactly(1)
    await asyncio.sleep(0.1)
    began = time.process_time()
    await asyncio.sleep(1)
    assert time.process_time() - began < 0.05
    for _, writer in streams:
        writer.close()
        await writer.wait_closed()
    server.close()
    await server.wait_closed()


# -- tiny resources


async def converse(loop, connections, size):
    """Everybody talks at once; nothing may be lost or swapped."""
    server = await loop.create_server(Echo, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    clients = [await loop.create_connection(Recorder, *address) for _ in range(connections)]
    for round_ in range(3):
        for i, (transport, protocol) in enumerate(clients):
            protocol.chunks.clear()
            transport.write(payload(size + i, i + 1000 * round_))
        for i, (_, protocol) in enumerate(clients):
            await protocol.until_received(size + i)
            assert digest(protocol.data) == digest(payload(size + i, i + 1000 * round_))
    for transport, protocol in clients:
        transport.close()
        await protocol.until_called("lost")
    server.close()
    await server.wait_closed()


@pytest.mark.ours
@pytest.mark.parametrize("size", [10, 50_000])
@pytest.mark.parametrize("tiny", TINY.values(), ids=list(TINY))
def test_tiny_resources(new_loop, tiny, size):
    loop = new_loop(**tiny)
    loop.run_until_complete(asyncio.wait_for(converse(loop, 64, size), 40))


async def receive_from_many_at_once(loop):
    pairs = [unix_pair() for _ in range(64)]
    protocols = []
    for ours, _ in pairs:
        ours.setblocking(False)
        _, protocol = await loop.connect_accepted_socket(Recorder, ours)
        protocols.append(protocol)
    await turns(5)
    for i, (_, theirs) in enumerate(pairs):
        theirs.sendall(payload(3000, i))
    for i, protocol in enumerate(protocols):
        await protocol.until_received(3000)
        assert protocol.data == payload(3000, i)
    for protocol in protocols:
        protocol.transport.close()
        await protocol.until_called("lost")
    for _, theirs in pairs:
        theirs.close()


@pytest.mark.ours
def test_an_empty_pool_is_counted(way, new_loop):
    loop = new_loop(buffers=2, buffer_size=1024)
    loop.run_until_complete(asyncio.wait_for(receive_from_many_at_once(loop), 30))
    if way.name == "kernel-own":
        assert loop.stats()["pool_empty"] > 0


@pytest.mark.ours
def test_completions_without_a_place_are_counted(way, new_loop):
    loop = new_loop(entries=4, completions=8)
    loop.run_until_complete(asyncio.wait_for(receive_from_many_at_once(loop), 30))
    if way.name == "kernel-own":
        assert loop.stats()["overflows"] > 0


@pytest.mark.ours
@pytest.mark.parametrize("tiny", TINY.values(), ids=list(TINY))
def test_hundreds_of_operations_at_once(new_loop, tiny):
    loop = new_loop(**tiny)

    async def main():
        pairs = [unix_pair() for _ in range(300)]
        for pair in pairs:
            for sock in pair:
                sock.setblocking(False)
        receiving = [asyncio.ensure_future(loop.sock_recv(ours, 100)) for ours, _ in pairs]
        await turns(3)
        for i, (_, theirs) in enumerate(pairs):
            theirs.send(b"%d" % i)
        assert await asyncio.gather(*receiving) == [b"%d" % i for i in range(300)]
        cancelled = [asyncio.ensure_future(loop.sock_recv(ours, 100)) for ours, _ in pairs]
        await turns(3)
        for task in cancelled:
            task.cancel()
        await asyncio.wait(cancelled)
        sending = [asyncio.ensure_future(loop.sock_sendall(theirs, b"%d" % i)) for i, (_, theirs) in enumerate(pairs)]
        assert await asyncio.gather(*(loop.sock_recv(ours, 100) for ours, _ in pairs)) == [
            b"%d" % i for i in range(300)
        ]
        await asyncio.gather(*sending)
        for pair in pairs:
            for sock in pair:
                sock.close()

    loop.run_until_complete(asyncio.wait_for(main(), 40))


@pytest.mark.ours
def test_tiny_resources_with_paused_readers(new_loop):
    """Buffers of connections that nobody reads from must not stop the others."""
    loop = new_loop(buffers=2, buffer_size=1024)

    async def main():
        pairs = [unix_pair() for _ in range(20)]
        paused = []
        for ours, theirs in pairs:
            ours.setblocking(False)
            transport, protocol = await loop.connect_accepted_socket(Recorder, ours)
            await turns(2)
            theirs.sendall(payload(5000))
            transport.pause_reading()
            paused.append((transport, protocol))
        await asyncio.wait_for(converse(loop, 8, 5000), 20)
        for transport, protocol in paused:
            transport.resume_reading()
            await protocol.until_received(5000)
            assert protocol.data == payload(5000)
            transport.close()
            await protocol.until_called("lost")
        for _, theirs in pairs:
            theirs.close()

    loop.run_until_complete(asyncio.wait_for(main(), 40))


# -- other peoples' limits

LIMITED = """
import os, resource

class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
    def data_received(self, data):
        self.transport.write(data)

async def main():
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Echo, "127.0.0.1", 0)
    open_now = max(map(int, os.listdir("/proc/self/fd")))
    resource.setrlimit(resource.RLIMIT_NOFILE, (open_now + 8, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.create_future()

run(main())
"""


def test_a_server_without_descriptors_recovers(way):
    """EMFILE on accept: nobody is lost, nothing spins, and the server goes on when descriptors are free."""
    with Running(f"{way.prelude()}\n{LIMITED}") as child, contextlib.ExitStack() as stack:
        address = ("127.0.0.1", int(child.line()))
        waiting = [stack.enter_context(socket.create_connection(address, timeout=10)) for _ in range(40)]
        for i, sock in enumerate(waiting):
            sock.sendall(b"%02d" % i)
        process = psutil.Process(child.process.pid)
        time.sleep(0.2)
        before = sum(process.cpu_times()[:2])
        time.sleep(1)
        assert sum(process.cpu_times()[:2]) - before < 0.5
        answered = set()
        end = time.monotonic() + 30
        while waiting:
            assert time.monotonic() < end, f"only {len(answered)} were answered\n{child.stderr()[-2000:]}"
            for sock in select.select(waiting, [], [], 0.1)[0]:
                answered.add(sock.recv(2))
                sock.close()
                waiting.remove(sock)
        assert answered == {b"%02d" % i for i in range(40)}
        with socket.create_connection(address, timeout=10) as sock:
            sock.sendall(b"again")
            assert sock.recv(5) == b"again"
        assert child.process.poll() is None


FORBIDDEN = """
import asyncio.constants, errno, sandbox, socket, sys, threading

error, shared = sys.argv[1], sys.argv[2] == "shared"
asyncio.constants.ACCEPT_RETRY_DELAY = 0.05
loop = new_loop()
reports = []
loop.set_exception_handler(lambda loop, context: reports.append((context["message"], context["exception"].errno)))

class Greeter(asyncio.Protocol):
    def connection_made(self, transport):
        transport.write(b"welcome")
        transport.close()

def forbidden():
    sandbox.block(error, "accept4")
    loop.run_until_complete(asyncio.sleep(0.5))

async def serve():
    if shared:
        return await loop.create_server(Greeter, sock=socket.create_server(("127.0.0.1", 0)))
    return await loop.create_server(Greeter, "127.0.0.1", 0)

async def greeted(client):
    while not (await loop.sock_recv(client, 10)) == b"welcome":
        pass

async def all_greeted():
    await asyncio.wait_for(asyncio.gather(*map(greeted, clients)), 10)

server = loop.run_until_complete(serve())
clients = [socket.create_connection(server.sockets[0].getsockname()) for _ in range(10)]
for client in clients:
    client.setblocking(False)
thread = threading.Thread(target=forbidden)
thread.start()
thread.join()
assert 3 <= len(reports) <= 11, reports
message = "Accept failed on a socket" if error == "EPERM" else "socket.accept() out of system resource"
assert {report[0] for report in reports} == {message}, reports
assert {errno.errorcode[report[1]] for report in reports} == {error}, reports
loop.run_until_complete(all_greeted())
assert len(reports) <= 11, reports
server.close()
loop.close()
for client in clients:
    client.close()
"""


accept_fails = pytest.mark.parametrize("error", ["EPERM", "ENOMEM", "ENOBUFS", "ENFILE"])


@pytest.mark.ours
@accept_fails
def test_a_server_on_a_shared_socket_outlives_failures_of_accept(way, error):
    """A firewall's EPERM, or a machine short of memory: reported, tried again now and then, and nobody is lost.

    The filter holds for one thread: the loop goes on in another one.
    """
    end = run_python(way.prelude() + FORBIDDEN, error, "shared")
    assert end.code == 0, end.err


@pytest.mark.ours
@pytest.mark.only(pages="user", threads="own")
@accept_fails
def test_a_server_outlives_failures_of_accept(way, error):
    """On other pages somebody else accepts, whom the filter does not hold: the kernel, or the syscall thread."""
    end = run_python(way.prelude() + FORBIDDEN, error, "own")
    assert end.code == 0, end.err


async def test_a_listener_that_is_shut_down_is_reported_once(loop, monkeypatch):
    monkeypatch.setattr(asyncio.constants, "ACCEPT_RETRY_DELAY", 0.01)
    reports = []
    loop.set_exception_handler(lambda _, context: reports.append(context["exception"].errno))
    with socket.create_server(("127.0.0.1", 0)) as sock:
        server = await loop.create_server(Recorder, sock=sock)
        sock.shutdown(socket.SHUT_RDWR)
        await settle(lambda: reports)
        await asyncio.sleep(0.1)
        assert reports == [errno.EINVAL]
        server.close()


async def test_no_descriptors_for_a_connection(loop):
    """The limit hits the client's own side: an OSError, nothing worse."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        highest = max(int(name) for name in os.listdir("/proc/self/fd"))
        fillers = []
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 10, hard))
        try:
            with contextlib.suppress(OSError):
                while True:
                    fillers.append(os.dup(0))
            with pytest.raises(OSError):
                await loop.create_connection(Recorder, *listener.getsockname())
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for fd in fillers:
                os.close(fd)
        transport, protocol = await loop.create_connection(Recorder, *listener.getsockname())
        transport.close()
        await protocol.until_called("lost")


async def test_hundreds_of_resets_while_writing(loop):
    protocols = []

    def factory():
        protocols.append(Recorder())
        return protocols[-1]

    server = await loop.create_server(factory, "127.0.0.1", 0, backlog=300)
    address = server.sockets[0].getsockname()
    socks = [socket.create_connection(address) for _ in range(200)]
    await settle(lambda: sum("made" in p.calls for p in protocols) == 200)
    for protocol in protocols:
        protocol.transport.write(payload(100_000))
    for i, sock in enumerate(socks):
        if i % 3:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        if i % 5 == 0:
            await turns(1)
        sock.close()
    for protocol in protocols:
        protocol.transport.write(payload(100_000))
    for protocol in protocols:
        await protocol.until_called("lost")
        assert protocol.calls.count("lost") == 1
        assert protocol.exc is None or isinstance(protocol.exc, ConnectionError)
    server.close()
    await server.wait_closed()


async def test_peers_that_never_read(loop, connect):
    """Their data waits; everybody else goes on; abort() ends it."""
    stuck = []
    for _ in range(20):
        transport, protocol, _ = await connect()
        transport.write(payload(8_000_000))
        stuck.append((transport, protocol))
    for _, protocol in stuck:
        await protocol.until_called("pause")
    await echo(1_000_000)
    for i, (transport, protocol) in enumerate(stuck):
        assert transport.get_write_buffer_size() > 0
        if i % 2:
            transport.close()
            await turns(1)
        transport.abort()
        await protocol.until_called("lost")
        assert protocol.calls == ["made", "pause", "lost"] or protocol.calls == ["made", "pause", "resume", "lost"]


@pytest.mark.ours
def test_a_closing_pipe_goes_on_in_another_thread(loop):
    """A kernel page is replaced then, which ends all waits; what was written before close() must not get lost."""
    out, into = os.pipe()
    data = payload(300_000)

    async def write():
        transport, protocol = await loop.connect_write_pipe(Recorder, open(into, "wb", buffering=0))
        transport.write(data)
        transport.close()
        await turns(5)
        return protocol

    protocol = loop.run_until_complete(write())
    got = bytearray()

    def read():
        while chunk := os.read(out, 65536):
            got.extend(chunk)

    reader = threading.Thread(target=read)
    runner = threading.Thread(
        target=loop.run_until_complete, args=(asyncio.wait_for(protocol.until_called("lost"), 10),)
    )
    runner.start()
    # The pipe stays full until the wait that the other thread has taken over.
    assert eventually(lambda: loop.is_running())
    reader.start()
    for thread in (runner, reader):
        thread.join(15)
    os.close(out)
    assert digest(got) == digest(data)
