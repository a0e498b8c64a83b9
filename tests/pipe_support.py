"""What the tests of pipes share: the two ends of every kind of pipe, and what reads and writes them in threads."""

import asyncio
import os
import pty
import socket
import tty

SIZES = [1, 4095, 4096, 65535, 65536, 65537, 256 * 1024 + 1, 3_000_000]


class Writer(asyncio.BaseProtocol):
    """Writes down what a write pipe's transport calls."""

    def __init__(self):
        self.calls = []
        self.exc = None
        self.lost = asyncio.get_running_loop().create_future()
        self.may_write = asyncio.Event()
        self.may_write.set()

    def connection_made(self, transport):
        self.transport = transport
        self.calls.append("made")

    def connection_lost(self, exc):
        self.calls.append("lost")
        self.exc = exc
        self.lost.set_result(None)

    def pause_writing(self):
        self.calls.append("pause")
        self.may_write.clear()

    def resume_writing(self):
        self.calls.append("resume")
        self.may_write.set()


def make_pair(kind, folder):
    """(file to read, file to write) of one pipe."""
    if kind == "pipe":
        reading, writing = os.pipe()
    elif kind == "fifo":
        path = folder / "fifo"
        os.mkfifo(path)
        reading = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        writing = os.open(path, os.O_WRONLY)
    elif kind == "socket":
        return socket.socketpair()
    else:
        writing, reading = pty.openpty()
        tty.setraw(reading)
    return open(reading, "rb", 0), open(writing, "wb", 0)


def read_exactly(fd, count):
    parts = []
    while count:
        part = os.read(fd, min(count, 1 << 16))
        if not part:
            break
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def write_all(fd, data):
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def fd_of(end):
    """A copy of the descriptor: what it leads to stays open while a thread uses it."""
    return os.dup(end.fileno())


async def in_thread(function, end, *args):
    """`function(fd, *args)` in a thread, on a copy of the end's descriptor."""
    fd = fd_of(end)
    try:
        return await asyncio.to_thread(function, fd, *args)
    finally:
        os.close(fd)
