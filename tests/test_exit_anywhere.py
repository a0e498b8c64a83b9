"""SystemExit and KeyboardInterrupt at any point leave `run_forever`, and the loop whole: nothing due is lost.

A mixture of activities, each step of which is a point at which an exit may be raised.  It is raised at the first point,
then (in a new loop) at the second, and so on; after it the loop is run again, and all must have happened as without it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading

import pytest
from support import turns


class Story:
    """What has happened, and the exit that is to come out of one step of it."""

    def __init__(self, exit_at: int | None, exit_type: type[BaseException]) -> None:
        self.exit_at, self.exit_type = exit_at, exit_type
        self.points = 0
        self.steps: dict[str, list[object]] = {}

    def step(self, who: str, what: object = None) -> None:
        self.steps.setdefault(who, []).append(what)
        self.points += 1
        if self.points == self.exit_at:
            raise self.exit_type("on purpose")

    def run(self, loop, until) -> None:
        """Run the loop until `until()`, again after an exit."""

        def look():
            if until():
                loop.stop()
            else:
                loop.call_later(0.001, look)

        loop.call_soon(look)
        for _ in range(3):
            try:
                loop.run_forever()
            except self.exit_type:
                continue
            if until():
                return
        raise AssertionError(f"the loop ended before the story: {self.steps}")


def callbacks(loop, story):
    """Chains of callbacks and timers, made due by callbacks, other threads, futures and the executor."""

    def chain(who, left):
        if left:
            loop.call_soon(chain, who, left - 1)
        story.step(who, left)

    def timers(who, left):
        if left:
            loop.call_later(0.0005, timers, who, left - 1)
        story.step(who, left)

    async def task(who):
        for i in range(3):
            await asyncio.sleep(0)
            story.steps.setdefault(who, []).append(i)

    for who in "one", "two":
        loop.call_soon(chain, who, 3)
    for who in "slow", "slower":
        loop.call_later(0.0005, timers, who, 3)
    loop.call_at(loop.time(), story.step, "at once")
    job = loop.run_in_executor(None, int)
    job.add_done_callback(lambda done: story.step("job", done.result()))
    future = loop.create_future()
    future.add_done_callback(lambda done: story.step("future", done.result()))
    loop.call_soon(future.set_result, 1)
    tasks = [loop.create_task(task("task"))]
    thread = threading.Thread(target=lambda: [loop.call_soon_threadsafe(story.step, "thread", i) for i in range(5)])
    thread.start()
    wanted = {
        "one": [3, 2, 1, 0], "two": [3, 2, 1, 0], "slow": [3, 2, 1, 0], "slower": [3, 2, 1, 0], "at once": [None],
        "job": [0], "future": [1], "task": [0, 1, 2], "thread": list(range(5)),
    }  # fmt: skip

    def end():
        thread.join()
        assert all(task.done() for task in tasks)
        loop.run_until_complete(loop.shutdown_default_executor())

    return wanted, end


def signals(loop, story):
    def handler(who, left):
        if left:
            os.kill(os.getpid(), signal.SIGUSR1)
        story.step(who, left)

    left = iter((2, 1, 0))
    loop.add_signal_handler(signal.SIGUSR1, lambda: handler("signal", next(left)))
    os.kill(os.getpid(), signal.SIGUSR1)
    return {"signal": [2, 1, 0]}, lambda: loop.remove_signal_handler(signal.SIGUSR1)


def children(loop, story):
    """Protocols of a child's pipes, and of its end."""

    class Child(asyncio.SubprocessProtocol):
        def connection_made(self, transport):
            self.transport = transport
            story.step("made")

        def pipe_data_received(self, fd, data):
            story.step("data", data)

        def process_exited(self):
            story.step("exited")

        def connection_lost(self, exc):
            story.step("lost", exc)
            self.transport.close()

    task = loop.create_task(loop.subprocess_exec(Child, "/bin/echo", "hello", stdin=None, stderr=None))

    def end():
        transport, _ = task.result()
        assert transport.get_returncode() == 0

    return {"made": [None], "data": [b"hello\n"], "exited": [None], "lost": [None]}, end


def connections(loop, story):
    """Servers: connections that are made while others are; what they bring; their ends."""

    class Server(asyncio.Protocol):
        def connection_made(self, transport):
            self.transport = transport
            self.number = None
            story.step("made")

        def data_received(self, data):
            self.number = data
            self.transport.write(data)
            story.step(f"data {data}", data)

        def eof_received(self):
            if f"eof {self.number}" not in story.steps:  # the standard loop tells it again after an exit
                story.step(f"eof {self.number}")

        def connection_lost(self, exc):
            story.step(f"lost {self.number}", exc)

    server = loop.run_until_complete(loop.create_server(Server, "127.0.0.1", 0))
    peers = [socket.create_connection(server.sockets[0].getsockname()) for _ in range(3)]
    for number, peer in enumerate(peers):
        peer.send(b"%d" % number)
        peer.shutdown(socket.SHUT_WR)
    wanted = {"made": [None] * 3}
    for number in b"0", b"1", b"2":
        wanted |= {f"data {number}": [number], f"eof {number}": [None], f"lost {number}": [None]}

    def end():
        for number, peer in enumerate(peers):
            with peer:
                peer.settimeout(5)
                assert peer.recv(10) == b"%d" % number
                assert peer.recv(10) == b""
        server.close()
        loop.run_until_complete(server.wait_closed())

    return wanted, end


def datagrams(loop, story):
    class Receiver(asyncio.DatagramProtocol):
        def datagram_received(self, data, addr):
            if data == b"4":
                loop.call_soon(transport.close)
            story.step("data", data)

        def connection_lost(self, exc):
            story.step("lost", exc)

    transport, _ = loop.run_until_complete(loop.create_datagram_endpoint(Receiver, local_addr=("127.0.0.1", 0)))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for i in range(5):
            sender.sendto(b"%d" % i, transport.get_extra_info("sockname"))
    return {"data": [b"%d" % i for i in range(5)], "lost": [None]}, lambda: None


def readers(loop, story):
    one, two = socket.socketpair()

    def read():
        story.step("read", two.recv(1))

    two.setblocking(False)
    loop.add_reader(two, read)
    one.send(b"abc")

    def end():
        loop.remove_reader(two)
        one.close()
        two.close()

    return {"read": [b"a", b"b", b"c"]}, end


def count(steps):
    return sum(map(len, steps.values()))


@pytest.mark.parametrize("exit_type", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("scene", [callbacks, signals, children, connections, datagrams, readers])
def test_nothing_is_lost(new_loop, scene, exit_type):
    exit_at = None
    while True:
        loop = new_loop()
        story = Story(exit_at, exit_type)
        wanted, end = scene(loop, story)
        story.run(loop, lambda story=story, wanted=wanted: count(story.steps) >= count(wanted))
        loop.run_until_complete(turns())
        end()
        assert story.steps == wanted, exit_at
        loop.close()
        if exit_at is not None and exit_at >= story.points:
            return
        exit_at = 1 if exit_at is None else exit_at + 1
