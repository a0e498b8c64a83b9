"""The fuzzer's machinery: scenarios are cancelled anywhere, under load; canaries sit on each freed descriptor."""

import asyncio
import copy
import io
import os
import random
import socket
import time

from support import turns


class Canaries:
    """Descriptors opened where others were just closed: a second close of the old number kills one of them."""

    def __init__(self):
        self.birds = []

    def release(self, count=3):
        """Look after all birds, replace the oldest."""
        for fd, identity in self.birds:
            assert self.identity(fd) == identity, f"descriptor {fd} was closed by somebody else"
        while len(self.birds) > 12:
            os.close(self.birds.pop(0)[0])
        for _ in range(count):
            one, two = socket.socketpair()
            for fd in (one.detach(), two.detach()):
                self.birds.append((fd, self.identity(fd)))

    @staticmethod
    def identity(fd):
        try:
            return os.fstat(fd).st_ino
        except OSError:
            return None

    def close(self):
        for fd, identity in self.birds:
            assert self.identity(fd) == identity, f"descriptor {fd} was closed by somebody else"
            os.close(fd)


class Tagged(asyncio.Protocol):
    """A server whose connections must each carry one tag only, over and over."""

    TAG = 16

    def __init__(self):
        self.seen = bytearray()

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        position = len(self.seen) % self.TAG
        if len(self.seen) < self.TAG:
            self.seen += data[: self.TAG]
        tag = bytes(self.seen[: self.TAG])
        if len(tag) == self.TAG:
            expected = (tag * (len(data) // self.TAG + 2))[position : position + len(data)]
            assert data == expected, "bytes of another connection"
            self.seen[self.TAG :] = bytes((position + len(data)) % self.TAG)
        self.transport.write(data)

    def pause_writing(self):
        self.transport.pause_reading()

    def resume_writing(self):
        self.transport.resume_reading()


def tag(number):
    return b"%015d|" % number


class Fuzzer:
    """Runs scenarios; each is one coroutine that may be cancelled anywhere, and leaves its things to `clean`."""

    def __init__(self, loop, chance, folder):
        self.loop, self.chance, self.folder = loop, chance, folder
        self.number = 0
        self.things = []

    def worker(self, number, chance):
        """Another one that uses the same servers."""
        other = copy.copy(self)
        other.number, other.chance, other.things = number * 10**9, chance, []
        return other

    async def start(self):
        self.server = await self.loop.create_server(Tagged, "127.0.0.1", 0, backlog=200)
        self.address = self.server.sockets[0].getsockname()

    async def stop(self):
        await self.stop_servers(self.server)

    @staticmethod
    async def stop_servers(*servers):
        for server in servers:
            server.close()
            await server.wait_closed()

    def keep(self, thing):
        self.things.append(thing)
        return thing

    def next_tag(self):
        self.number += 1
        return tag(self.number)

    def sock(self, family=socket.AF_INET, kind=socket.SOCK_STREAM):
        sock = self.keep(socket.socket(family, kind))
        sock.setblocking(False)
        return sock

    async def clean(self):
        """Close everything that a scenario left, in a random way."""
        while self.things:
            thing = self.things.pop()
            if isinstance(thing, (socket.socket, io.IOBase)):
                thing.close()
            elif isinstance(thing, asyncio.Future):
                (await thing).close()
            elif isinstance(thing, asyncio.StreamWriter):
                self.end(thing.transport)
            elif isinstance(thing, asyncio.BaseTransport):
                self.end(thing)
            elif isinstance(thing, asyncio.subprocess.Process):
                thing._transport.close()
                await thing.wait()

    def end(self, transport):
        if self.chance.random() < 0.5 and hasattr(transport, "abort"):
            if getattr(transport, "_loop", self.loop) is not None:  # asyncio's abort() fails after the end
                transport.abort()
        else:
            transport.close()

    async def verify(self, reader, writer, count=2000):
        """Talk on a connection; only our own tag may come back."""
        mine = self.next_tag()
        count = self.chance.randrange(1, count)
        writer.write(mine * count)
        await writer.drain()
        assert await reader.readexactly(16 * count) == mine * count, "bytes of another connection"

    async def once(self, scenario):
        """Run one scenario and cancel it after a random while, or not at all."""
        task = asyncio.ensure_future(scenario(self))
        if self.chance.random() < 0.9:
            for _ in range(self.chance.choice([0, 1, 2, 3, 4, 5, 6, 8, 10, 15, 25, 40])):
                if task.done():
                    break
                await asyncio.sleep(0)
            if self.chance.random() < 0.2:
                await asyncio.sleep(self.chance.random() * 0.003)
            task.cancel()
            if self.chance.random() < 0.1:
                await turns(1)
                task.cancel()
        done, _ = await asyncio.wait([task], timeout=15)
        assert done, f"{scenario.__name__} hangs: {task.get_stack()}"
        # Errors of the network may follow from the cancellation; anything else may not.
        if not task.cancelled() and task.exception():
            assert isinstance(task.exception(), (OSError, EOFError, TimeoutError)), task.exception()


async def background(fuzzer, stop, seed):
    """Load whose bytes are checked all the time."""
    mine = tag(10**14 + seed)
    reader, writer = await asyncio.open_connection(*fuzzer.address)
    while not stop.is_set():
        count = 1 + seed * 37
        writer.write(mine * count)
        assert await reader.readexactly(16 * count) == mine * count, "bytes of another connection"
    writer.close()
    await writer.wait_closed()


async def run_fuzzer(host, seed, scenarios, seconds, workers=1):
    """Run scenarios of `host` for some time, a random one after the other, in so many workers."""
    await host.start()
    stop = asyncio.Event()
    load = [asyncio.ensure_future(background(host, stop, i)) for i in range(4)]
    canaries = Canaries()
    deadline = time.monotonic() + seconds

    async def work(number):
        fuzzer = host.worker(number, random.Random(seed + number))
        while time.monotonic() < deadline:
            await fuzzer.once(fuzzer.chance.choice(scenarios))
            await fuzzer.clean()
            canaries.release()
            for task in load:
                assert not task.done(), task.exception()

    try:
        await asyncio.gather(*(work(number + 1) for number in range(workers)))
        await turns(10)
    finally:
        stop.set()
        await asyncio.gather(*load)
        canaries.close()
    await host.stop()


def check_errors(errors):
    """A cancelled handshake may be reported; lost or swapped bytes and broken protocols may not."""
    for context in errors:
        exception = context.get("exception")
        assert exception is None or isinstance(exception, OSError), context
    errors.clear()
