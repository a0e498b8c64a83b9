"""A loop that was held up: what has arrived meanwhile is told before the time-outs that its coming takes back."""

import asyncio
import contextlib
import os
import socket
import time

import pytest
from datagrams import LOCAL
from support import Recorder, fill, tcp_pair, turns, unix_pair

KINDS = ["tcp", "unix", "end", "datagram", "pipe", "reader", "writer"]


class Calling(Recorder):
    """Calls `came` for data, or for the end if `for_end`."""

    def __init__(self, came, for_end=False):
        super().__init__()
        self.came, self.for_end = came, for_end

    def data_received(self, data):
        self.came()

    def datagram_received(self, data, address):
        self.came()

    def error_received(self, exc):
        raise exc

    def eof_received(self):
        if self.for_end:
            self.came()


async def watched_stream(loop, kind, came):
    ours, theirs = unix_pair() if kind == "unix" else tcp_pair()
    ours.setblocking(False)
    transport, _ = await loop.connect_accepted_socket(lambda: Calling(came, kind == "end"), ours)
    return (lambda: theirs.shutdown(socket.SHUT_WR) if kind == "end" else theirs.send(b"x")), [transport, theirs]


async def watched_datagrams(loop, kind, came):
    transport, _ = await loop.create_datagram_endpoint(lambda: Calling(came), local_addr=LOCAL)
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    return (lambda: sender.sendto(b"x", transport.get_extra_info("sockname"))), [transport, sender]


async def watched_pipe(loop, kind, came):
    reading, writing = (open(fd, mode, 0) for fd, mode in zip(os.pipe(), ("rb", "wb"), strict=True))
    transport, _ = await loop.connect_read_pipe(lambda: Calling(came), reading)
    return (lambda: writing.write(b"x")), [transport, writing]


async def watched_socket(loop, kind, came):
    ours, theirs = unix_pair()
    ours.setblocking(False)
    if kind == "reader":
        loop.add_reader(ours, lambda: (loop.remove_reader(ours), came()))
        return (lambda: theirs.send(b"x")), [ours, theirs]
    fill(ours)
    loop.add_writer(ours, lambda: (loop.remove_writer(ours), came()))

    def take():
        theirs.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while theirs.recv(1 << 20):
                pass

    return take, [ours, theirs]


WATCHED = {"datagram": watched_datagrams, "pipe": watched_pipe, "reader": watched_socket, "writer": watched_socket}


def attempts(way):
    """A syscall thread may have to wait for its CPU for longer than the loop is held up."""
    return range(1 if way.threads in (None, "off") else 10)


async def arrives_late(loop, kind):
    """What is told when both have come while the loop was held up: something to be told, and its time-out."""
    seen = []
    timer = None

    def came():
        seen.append("came")
        timer.cancel()

    arrive, to_close = await WATCHED.get(kind, watched_stream)(loop, kind, came)
    await turns(3)
    timer = loop.call_later(0.005, seen.append, "timed out")
    await turns(1)
    arrive()
    time.sleep(0.05)
    await asyncio.sleep(0.02)
    for each in to_close:
        each.close()
    await turns(3)
    return seen


@pytest.mark.parametrize("kind", KINDS)
async def test_what_has_arrived_takes_back_its_time_out(way, loop, kind):
    for _ in attempts(way):
        seen = await arrives_late(loop, kind)
        if seen == ["came"]:
            break
    assert seen == ["came"]


async def order_of_a_late_turn(loop):
    seen = []
    ours, theirs = unix_pair()
    ours.setblocking(False)

    def note(name):
        seen.append(name)
        loop.call_soon(seen.append, f"soon after the {name}")

    loop.add_reader(ours, lambda: (ours.recv(1), note("reader")))
    loop.call_later(0.005, note, "timer")
    await turns(1)
    theirs.send(b"x")
    time.sleep(0.05)
    loop.call_soon(note, "callback")
    await asyncio.sleep(0.02)
    loop.remove_reader(ours)
    ours.close()
    theirs.close()
    return seen


async def test_the_order_of_a_turn(way, loop):
    """Callbacks that are due, what has arrived, timers; and then what these have made due, in the same order."""
    names = ["callback", "reader", "timer"]
    expected = names + [f"soon after the {name}" for name in names]
    for _ in attempts(way):
        seen = await order_of_a_late_turn(loop)
        if seen == expected:
            break
    assert seen == expected


def test_timers_that_an_exit_has_left_behind_run_when_the_loop_runs_again(loop):
    ours, theirs = unix_pair()
    ours.setblocking(False)
    seen = []

    def leave():
        ours.recv(1)
        raise KeyboardInterrupt

    async def main():
        loop.add_reader(ours, leave)
        for name in ("one", "two"):
            loop.call_later(0.005, seen.append, name)
        await turns(1)
        theirs.send(b"x")
        time.sleep(0.05)
        await asyncio.sleep(5)

    task = loop.create_task(main())
    with pytest.raises(KeyboardInterrupt):
        loop.run_until_complete(task)
    loop.run_until_complete(asyncio.sleep(0))
    loop.remove_reader(ours)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        loop.run_until_complete(task)
    ours.close()
    theirs.close()
    assert seen == ["one", "two"]
