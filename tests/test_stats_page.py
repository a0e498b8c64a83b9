"""The stats page: what it counts, that it can be read whatever the loop does, and that a reader believes nothing."""

import asyncio
import contextlib
import os
import random
import re
import signal
import socket
import ssl
import struct
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import Recorder, Running, eventually, run_python, settle, turns, unix_pair
from tls_support import Contexts

from flexsc_loop.insight import layout, pages_of, read, reader

pytestmark = pytest.mark.ours

KINDS = ("streams", "tls", "listeners", "datagrams", "pipes")
HEADER = Path(layout.__file__).parent.parent / "syscalls" / "stats_page.h"


def kinds(loop):
    return {name: count for name in KINDS if (count := read(loop).counts[name])}


# ---- the layout


def fields(macro):
    text = HEADER.read_text()
    body = text[text.index(f"#define {macro}(X)") :].partition("\n\n")[0]
    return tuple(re.findall(r"X\((\w+)\)", body.partition("\n")[2]))


def test_the_layout_is_that_of_the_header(new_loop):
    assert fields("FLEXSC_STATS_COUNTERS") == layout.COUNTERS
    assert fields("FLEXSC_STATS_GAUGES") == layout.GAUGES
    text = HEADER.read_text()
    assert f"FLEXSC_STATS_VERSION = {layout.VERSION}," in text
    assert f"counts) == {layout.COUNTS_AT}," in text
    assert len(new_loop()._stats_page()) == layout.SIZE


def test_buckets():
    for bucket in range(128, layout.BUCKETS):
        assert layout.least(bucket + 1) - layout.least(bucket) <= 0.02 * layout.least(bucket)
    assert [layout.least(bucket) for bucket in range(129)] == list(range(129))


# ---- what it says


async def test_traffic(loop, connect):
    before = read(loop).counts
    transport, protocol, peer = await connect()
    assert kinds(loop) == {"streams": 1}
    transport.write(b"x" * 1000)
    assert await peer.recv(1000)
    await peer.send(b"y" * 3000)
    await protocol.until_received(3000)
    transport.close()
    await protocol.until_called("lost")
    await turns()
    after = read(loop).counts
    assert (after["bytes_out"] - before["bytes_out"], after["bytes_in"] - before["bytes_in"]) == (1000, 3000)
    assert after["messages_in"] > before["messages_in"] and after["messages_out"] > before["messages_out"]
    assert kinds(loop) == {}


async def test_calls_on_the_callers_sockets(loop):
    one, two = unix_pair()
    with one, two:
        one.setblocking(False)
        two.setblocking(False)
        before = read(loop).counts
        await loop.sock_sendall(one, b"x" * 100)
        assert await loop.sock_recv(two, 100) == b"x" * 100
        after = read(loop).counts
    assert (after["bytes_out"] - before["bytes_out"], after["bytes_in"] - before["bytes_in"]) == (100, 100)


async def test_kinds_of_endpoints(loop):
    server = await loop.create_server(Recorder, "127.0.0.1", 0)
    assert kinds(loop) == {"listeners": 1}
    client, _ = await loop.create_connection(Recorder, *server.sockets[0].getsockname())
    await settle(lambda: kinds(loop) == {"listeners": 1, "streams": 2})
    assert read(loop).counts["accepts"] == 1
    talker, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0))
    talker.sendto(b"1234567", talker.get_extra_info("sockname"))
    await settle(lambda: read(loop).counts["bytes_in"] == 7)
    assert read(loop).counts["bytes_out"] == 7
    reading, writing = (open(end, mode, buffering=0) for end, mode in zip(os.pipe(), ("rb", "wb"), strict=True))
    source, reader_protocol = await loop.connect_read_pipe(Recorder, reading)
    sink, _ = await loop.connect_write_pipe(Recorder, writing)
    assert kinds(loop) == {"listeners": 1, "streams": 2, "datagrams": 1, "pipes": 2}
    sink.write(b"12345")
    await reader_protocol.until_received(5)
    assert (read(loop).counts["bytes_in"], read(loop).counts["bytes_out"]) == (12, 12)
    for transport in (client, talker, source, sink):
        transport.close()
    server.close()
    await server.wait_closed()
    await settle(lambda: kinds(loop) == {})


async def test_tls(loop):
    certificates = Contexts()
    server = await loop.create_server(Recorder, "127.0.0.1", 0, ssl=certificates.server())
    transport, protocol = await loop.create_connection(
        Recorder, *server.sockets[0].getsockname(), ssl=certificates.client(), server_hostname="localhost")
    await settle(lambda: kinds(loop) == {"listeners": 1, "streams": 2, "tls": 2})
    transport.close()
    await protocol.until_called("lost")
    server.close()
    await server.wait_closed()
    await settle(lambda: kinds(loop) == {})
    with contextlib.suppress(OSError, ssl.SSLError):
        await loop.create_connection(Recorder, "127.0.0.1", 1, ssl=certificates.client())
    assert kinds(loop) == {}


async def test_jobs(loop):
    gate = threading.Event()
    jobs = [loop.run_in_executor(None, gate.wait) for _ in range(3)]
    await turns()
    assert (read(loop).counts["jobs"], read(loop).counts["jobs_done"]) == (3, 0)
    gate.set()
    await asyncio.gather(*jobs)
    counts = read(loop).counts
    assert (counts["jobs"], counts["jobs_done"]) == (3, 3)
    assert counts["job_wait"] >= 0


async def test_where_time_goes(loop):
    before = read(loop)
    await asyncio.sleep(0.05)
    slept = read(loop)
    assert slept.counts["asleep"] - before.counts["asleep"] >= 0.04
    threading.Event().wait(0.05)
    await turns()
    after = read(loop)
    assert after.counts["busy"] - slept.counts["busy"] >= 0.04
    assert after.turn_after(slept).most >= 0.04
    assert after.turn_after(slept).count == after.counts["turns"] - slept.counts["turns"]
    assert after.turn_total >= 0.04 and after.lag_total >= 0.04


async def test_lag_is_how_late_things_are(loop):
    before = read(loop)
    loop.call_later(0.001, turns_of_nothing)
    threading.Event().wait(0.06)
    await asyncio.sleep(0.002)
    lag = read(loop).lag_after(before)
    assert lag.most >= 0.05
    assert lag.quantile(0.5) < lag.most


def turns_of_nothing():
    pass


async def test_stats_says_the_same(loop):
    stats, page = loop.stats(), read(loop)
    for name in layout.COUNTERS:
        if name not in layout.TIMES and name not in ("syscalls", "batches", "completions", "submitted", "wakeups"):
            assert stats[name] == page.counts[name], name
    assert stats["connections"] == page.counts["streams"]
    assert abs(stats["asleep_ns"] / 1e9 - page.counts["asleep"]) <= 0.01 * page.counts["asleep"] + 1e-4


def test_what_serves_the_loop(way, new_loop):
    loop = new_loop(fresh=True)

    async def told():
        # A thread has a number when it has run for the first time, which may be within the only run that there is.
        while way.threads != "off" and not pages_of(os.getpid())[-1].syscall_thread:
            await asyncio.sleep(0.01)

    loop.run_until_complete(asyncio.wait_for(told(), 10))
    page = read(loop)
    assert (page.pages, page.threads) == (way.pages, way.threads != "off")
    assert page.thread == threading.get_native_id()
    assert page.reason
    if way.threads != "off":
        assert page.cpu == int(way.threads)
        names = os.listdir("/proc/self/task")
        assert str(page.syscall_thread) in names and page.syscall_thread != page.thread


def test_states(new_loop):
    loop = new_loop(fresh=True)
    assert read(loop).state == "new"
    loop.run_until_complete(turns())
    assert read(loop).state == "stopped"
    seen = []

    async def look():
        thread = threading.Thread(target=lambda: seen.append(eventually(lambda: state() == "asleep")))
        thread.start()
        await loop.run_in_executor(None, thread.join)
        seen.append(read(loop).state)

    def state():
        (page,) = (page for page in pages_of(os.getpid()) if page.number == read(loop).number)
        return page.state

    loop.run_until_complete(look())
    assert seen == [True, "running"]
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
    assert read(loop).state == "closed"


def test_green_threads(way):
    """They are counted, and the one that runs is named after its function."""
    pytest.importorskip("greenlet")
    source = way.prelude() + """
import os
from flexsc_loop import threads
from flexsc_loop.insight import pages_of, read

seen = []

def looking():
    (page,) = pages_of(os.getpid())
    seen.append((page.running, read(loop).counts["green_threads"]))

async def main():
    global loop
    loop = asyncio.get_running_loop()
    await threads.call(looking)
    await asyncio.sleep(0)
    print(seen, read(loop).counts["green_threads"])

run(main())
"""
    end = run_python(source)
    assert (end.code, end.out) == (0, "[('looking', 1)] 0\n"), end.err


# ---- from outside

HANGING = """
import ctypes, threading, socket
hang = ctypes.PyDLL(None).sleep  # holds the GIL

class Protocol(asyncio.Protocol):
    def data_received(self, data):
        print("hangs")
        hang(30)

class Case:
    def method(self):
        Protocol().data_received(b"")

def function():
    Protocol().data_received(b"")

async def coroutine():
    Protocol().data_received(b"")

async def waiting():
    await asyncio.sleep(0.01)
    Protocol().data_received(b"")

async def main():
    loop = asyncio.get_running_loop()
    one, two = socket.socketpair()
    one.send(b"x")
    await asyncio.sleep(0)
    {start}
    await asyncio.sleep(60)

loop = new_loop()
loop.run_until_complete(main())
"""


@pytest.mark.parametrize(
    "start, name",
    [
        ("loop.call_soon(function)", "function"),
        ("loop.call_later(0.001, Case().method)", "Case.method"),
        ("loop.call_soon(functools.partial(Case().method))", "Case.method"),
        ("task = asyncio.create_task(coroutine())", "coroutine"),
        ("task = asyncio.create_task(waiting())", "waiting"),
        ("await loop.create_connection(Protocol, sock=two)", "Protocol"),
        ("loop.add_reader(two, function)", "function"),
    ],
)
def test_a_loop_that_hangs(way, start, name):
    with Running(way.prelude() + HANGING.format(start=start)) as child:
        assert child.line() == "hangs"
        (page,) = pages_of(child.process.pid)
        assert (page.state, page.running, page.pid) == ("running", name, child.process.pid)
        assert eventually(lambda: pages_of(child.process.pid)[0].since > 0.05)


def shared_memory_files():
    """Those on this machine, without semaphores, which other programs make while a test runs."""
    names = os.listdir("/dev/shm") if os.path.isdir("/dev/shm") else []
    return {name for name in names if not name.startswith("sem.")}


def test_nothing_is_left_behind(way):
    source = way.prelude() + "loop = new_loop()\nprint('there')\nloop.run_forever()\n"
    before = shared_memory_files()
    with Running(source) as child:
        assert child.line() == "there"
        assert eventually(lambda: [page.state for page in pages_of(child.process.pid)] == ["asleep"])
        (held,) = reader.open_pages(child.process.pid)
        child.signal(signal.SIGKILL)
        child.end()
        assert pages_of(child.process.pid) == []
        # Whoever had it open still sees what it said last.
        assert held.read().state == "asleep"
        held.close()
    assert before == shared_memory_files()


def test_several_loops(way, new_loop):
    loops = [new_loop() for _ in range(3)]
    numbers = [read(loop).number for loop in loops]
    assert numbers == sorted(set(numbers))
    ends = [loop.create_future() for loop in loops]
    threads = [threading.Thread(target=loop.run_until_complete, args=(end,))
               for loop, end in zip(loops, ends, strict=True)]
    for thread in threads:
        thread.start()

    def mine():
        return [page for page in pages_of(os.getpid()) if page.number in numbers]

    assert eventually(lambda: [page.state for page in mine()] == ["asleep"] * 3)
    assert {page.thread for page in mine()} == {thread.native_id for thread in threads}
    for loop, end in zip(loops, ends, strict=True):
        loop.call_soon_threadsafe(end.set_result, None)
    for thread in threads:
        thread.join()
    loops[1].close()
    assert [page.number for page in mine()] == [numbers[0], numbers[2]]


def test_a_forked_child(way):
    source = way.prelude() + """
import os
from flexsc_loop.insight import pages_of, read
loop = new_loop()
loop.run_until_complete(asyncio.sleep(0))
turns = read(loop).counts["turns"]
child = os.fork()
if child == 0:
    assert pages_of(os.getpid()) == []
    other = new_loop()
    other.run_until_complete(asyncio.sleep(0.01))
    assert [page.number for page in pages_of(os.getpid())] == [read(other).number]
    assert pages_of(os.getppid())[0].counts["turns"] == turns
    other.close()
    assert read(loop).counts["turns"] >= 0
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert read(loop).counts["turns"] == turns
(page,) = pages_of(os.getpid())
assert page.counts["turns"] == turns and page.pid == os.getpid()
loop.close()
print("done")
"""
    end = run_python(source)
    assert (end.code, end.out) == (0, "done\n"), end.err


def test_a_child_that_python_has_not_forked(way):
    """It holds the parent's pages, and they are not taken for its own."""
    source = way.prelude() + """
import ctypes, os
from flexsc_loop.insight import pages_of
loop = new_loop()
child = ctypes.CDLL(None).fork()
if child == 0:
    os._exit(len(pages_of(os.getpid())))
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
print(len(pages_of(os.getpid())))
"""
    end = run_python(source)
    assert (end.code, end.out) == (0, "1\n"), end.err


# ---- nothing is believed


@pytest.fixture
def memfd():
    made = []

    def make(content, name="flexsc_loop"):
        fd = os.memfd_create(name)
        made.append(fd)
        os.write(fd, content)
        return fd

    yield make
    for fd in made:
        os.close(fd)


def good_page(loop):
    return bytearray(loop._stats_page())


@pytest.mark.one_way
def test_memory_files_that_are_no_pages(loop, memfd):
    before = len(pages_of(os.getpid()))
    chance = random.Random(1)
    memfd(b"")
    memfd(bytes(layout.SIZE))
    memfd(chance.randbytes(layout.SIZE))
    memfd(good_page(loop)[:-1])
    memfd(good_page(loop) + b"x")
    memfd(good_page(loop), "something_else")
    for at, value in ((8, 2), (12, 1), (16, os.getpid() + 1), (36, 99)):  # version, size, pid, state
        page = good_page(loop)
        struct.pack_into("=I", page, at, value)
        memfd(page)
    assert len(pages_of(os.getpid())) == before
    memfd(good_page(loop))
    assert len(pages_of(os.getpid())) == before + 1


@pytest.mark.one_way
def test_what_is_no_memory_file_is_not_opened(loop, tmp_path):
    """Whatever its name says: to open a FIFO, a device or a file on a network may take for ever."""
    os.mkfifo(tmp_path / "fifo")
    fifo = os.open(tmp_path / "fifo", os.O_RDWR)
    (tmp_path / "file").write_bytes(good_page(loop))
    file = os.open(tmp_path / "file", os.O_RDONLY)
    one, two = socket.socketpair()
    try:
        for fd in (fifo, file, one.fileno(), 1):
            with pytest.raises(layout.BadPage):
                reader.Page(os.getpid(), str(fd))
    finally:
        os.close(fifo)
        os.close(file)
        one.close()
        two.close()


@pytest.mark.one_way
def test_texts_lose_what_a_terminal_obeys(loop):
    page = good_page(loop)
    struct.pack_into("=II", page, 36, 1, 1)  # running, the first name
    evil = b"\x1b]0;title\x07\x1b[31m\xff\n\xe2\x80\xae" + b"x" * 200
    page[layout.NAMES_AT : layout.NAMES_AT + layout.NAME_SIZE] = evil[: layout.NAME_SIZE]
    name = layout.parse(bytes(page), 0).running
    assert name.isprintable() and len(name) <= layout.NAME_SIZE and "x" in name


HEAD_AND_COUNTS = layout.NAMES_AT


@given(st.binary(min_size=HEAD_AND_COUNTS - 16, max_size=HEAD_AND_COUNTS - 16), st.integers(0, 4))
def test_any_numbers_are_understood(content, state):
    """Nothing but a number comes of a number, however large or absurd."""
    head = struct.pack("=8sII", layout.MAGIC, layout.VERSION, layout.SIZE)
    page = bytearray(head + content + bytes(layout.SIZE - HEAD_AND_COUNTS))
    struct.pack_into("=I", page, 36, state)
    page[layout.TURN_AT + 16 : layout.TURN_AT + 16 + len(content)] = content
    found = layout.parse(bytes(page), 10**12)
    assert found.since >= 0 and found.age >= 0 and all(count >= 0 for count in found.counts.values())
    assert found.turn.quantile(0.99) <= found.turn.most
    assert found.turn.below((0.001, 1.0, 1e9))[-1] <= found.turn.count


@pytest.mark.one_way
def test_processes_that_are_gone():
    assert pages_of(1 << 30) == []
    assert os.getpid() in set(reader.processes())
