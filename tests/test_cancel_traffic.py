"""The fuzzer of test_cancel on what is not a stream connection: datagrams, files, pipes and children."""

import asyncio
import ipaddress
import itertools
import os
import random
import signal
import socket
from asyncio.subprocess import PIPE

import pytest
from datagrams import LOCAL, EchoTalker, Talker, name_of
from fuzzer import Fuzzer, check_errors, run_fuzzer, tag
from support import Recorder, turns

FILE_TAG = tag(7)
FILE_TAGS = 40_000


class Intake(asyncio.Protocol):
    """Takes as much of the file as a tag announces, and gives the announcement back when all has come."""

    def __init__(self):
        self.got = bytearray()

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.got += data
        if len(self.got) < 16:
            return
        count = int(self.got[:15])
        if len(self.got) >= 16 + count:
            assert self.got[16:] == (FILE_TAG * FILE_TAGS)[:count], "not what stands in the file"
            self.transport.write(bytes(self.got[:16]))
            self.got.clear()


class Traffic(Fuzzer):
    """Datagrams, files, pipes and children."""

    async def start(self):
        await super().start()
        self.addresses = itertools.count(1)
        self.endpoint, _ = await self.loop.create_datagram_endpoint(EchoTalker, local_addr=LOCAL)
        self.udp_address = name_of(self.endpoint)
        self.intake = await self.loop.create_server(Intake, "127.0.0.1", 0, backlog=200)
        self.path = self.folder / "file"
        self.path.write_bytes(FILE_TAG * FILE_TAGS)

    async def stop(self):
        self.endpoint.close()
        await super().stop()
        await self.stop_servers(self.intake)

    def file(self):
        return self.keep(open(self.path, "rb"))

    # -- datagrams

    async def talk(self, transport, receiver):
        """Send a few datagrams, which must reach `receiver`, each once and whole."""
        sent = [self.next_tag() * self.chance.choice([1, 2, 60, 100]) for _ in range(self.chance.randrange(1, 9))]
        for data in sent:
            transport.sendto(data)
        await receiver.until_received(len(sent))
        assert sorted(receiver.payloads) == sent, "datagrams of another endpoint"

    def own_address(self):
        """An address that nobody has had: what is still on the way to another socket cannot come here."""
        return str(ipaddress.ip_address("127.1.0.0") + next(self.addresses)), 0

    def udp_sock(self):
        sock = self.sock(kind=socket.SOCK_DGRAM)
        sock.bind(self.own_address())
        return sock

    async def datagram_endpoint(self):
        transport, protocol = await self.loop.create_datagram_endpoint(
            Talker, local_addr=self.own_address(), remote_addr=self.udp_address
        )
        self.keep(transport)
        await self.talk(transport, protocol)
        transport.close()
        await protocol.until_called("lost")

    async def datagram_endpoint_of_a_socket(self):
        socks = [self.udp_sock(), self.udp_sock()]
        ends = []
        socks[0].connect(socks[1].getsockname())
        socks[1].connect(socks[0].getsockname())
        for sock in socks:
            transport, protocol = await self.loop.create_datagram_endpoint(Talker, sock=sock)
            self.things.remove(sock)
            self.keep(transport)
            ends.append((transport, protocol))
        await self.talk(ends[0][0], ends[1][1])
        ends[0][0].abort()
        await ends[0][1].until_called("lost")

    async def sock_datagrams(self):
        sock = self.udp_sock()
        for _ in range(4):
            mine = self.next_tag() * self.chance.choice([1, 10, 90])
            assert await self.loop.sock_sendto(sock, mine, self.udp_address) == len(mine)
            if self.chance.random() < 0.5:
                assert await self.loop.sock_recvfrom(sock, 2000) == (mine, self.udp_address)
            else:
                buffer = bytearray(2000)
                assert await self.loop.sock_recvfrom_into(sock, buffer) == (len(mine), self.udp_address)
                assert buffer.startswith(mine), "datagrams of another socket"

    async def sock_recvfrom_once_more(self):
        """What a cancelled receive has brought is there for the next one."""
        sock = self.udp_sock()
        for _ in range(4):
            mine = self.next_tag()
            await self.loop.sock_sendto(sock, mine, self.udp_address)
            receiving = asyncio.ensure_future(self.loop.sock_recvfrom(sock, 100))
            try:
                await turns(self.chance.randrange(6))
            finally:
                receiving.cancel()
                await asyncio.wait([receiving])
            got = await self.loop.sock_recvfrom(sock, 100) if receiving.cancelled() else receiving.result()
            assert got == (mine, self.udp_address), "a datagram was lost, or another one came"

    # -- files

    def stretch(self):
        """Where a part of the file begins, how long it is, and what it holds."""
        offset = 16 * self.chance.choice([0, 1, FILE_TAGS // 2])
        count = self.chance.choice([1, 1000, 70_000, 16 * FILE_TAGS - offset])
        return offset, count, (FILE_TAG * FILE_TAGS)[:count]

    async def sock_sendfile(self):
        sock, file = self.sock(), self.file()
        await self.loop.sock_connect(sock, self.address)
        offset, count, content = self.stretch()
        sending = asyncio.ensure_future(self.loop.sock_sendfile(sock, file, offset, count))
        try:
            back = bytearray()
            while len(back) < count:
                back += await self.loop.sock_recv(sock, 100_000)
            assert back == content, "bytes of another connection"
            assert await sending == count
        finally:
            sending.cancel()
            await asyncio.wait([sending])

    async def sendfile(self):
        file = self.file()
        reader, writer = await asyncio.open_connection(*self.intake.sockets[0].getsockname())
        self.keep(writer)
        for _ in range(2):
            offset, count, _ = self.stretch()
            writer.write(tag(count))
            assert await self.loop.sendfile(writer.transport, file, offset, count) == count
            assert await reader.readexactly(16) == tag(count), "bytes of another connection"
        writer.close()
        await writer.wait_closed()

    # -- pipes and children

    async def pipes(self):
        files = [self.keep(open(fd, mode, buffering=0)) for fd, mode in zip(os.pipe(), ("rb", "wb"), strict=True)]
        reading, reader = await self.loop.connect_read_pipe(Recorder, files[0])
        self.things.remove(files[0])
        self.keep(reading)
        writing, _ = await self.loop.connect_write_pipe(Recorder, files[1])
        self.things.remove(files[1])
        self.keep(writing)
        mine = self.next_tag() * self.chance.choice([1, 100, 20_000])
        writing.write(mine)
        writing.close()
        await reader.until_called("lost")
        assert reader.data == mine, "bytes of another pipe"

    async def child(self, *command, **streams):
        return self.keep(await asyncio.create_subprocess_exec(*command, **streams))

    async def communicate(self):
        process = await self.child("cat", stdin=PIPE, stdout=PIPE)
        mine = self.next_tag() * self.chance.choice([1, 100, 20_000])
        assert await process.communicate(mine) == (mine, None), "bytes of another child"
        assert process.returncode == 0

    async def child_that_ends(self):
        code = self.chance.randrange(100)
        process = await self.child("sh", "-c", f"exit {code}")
        assert await process.wait() == code, "the end of another child"

    async def child_that_is_killed(self):
        process = await self.child("cat", stdin=PIPE, stdout=PIPE)
        mine = self.next_tag()
        process.stdin.write(mine)
        assert await process.stdout.readexactly(16) == mine, "bytes of another child"
        process.kill()
        assert await process.wait() == -signal.SIGKILL

    SCENARIOS = [
        datagram_endpoint,
        datagram_endpoint_of_a_socket,
        sock_datagrams,
        sock_sendfile,
        sendfile,
        pipes,
        communicate,
        child_that_ends,
        child_that_is_killed,
    ]
    OURS = [sock_recvfrom_once_more]  # asyncio loses a datagram that came just before the cancellation


def case(scenario):
    return pytest.param(scenario, id=scenario.__name__, marks=[pytest.mark.ours] if scenario in Traffic.OURS else [])


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("scenario", [case(scenario) for scenario in Traffic.SCENARIOS + Traffic.OURS])
async def test_cancelled_anywhere(loop, errors, seed, soak, tmp_path, scenario):
    await run_fuzzer(Traffic(loop, random.Random(seed), tmp_path), seed, [scenario], 30 if soak else 0.4)
    check_errors(errors)


@pytest.mark.slow
@pytest.mark.timeout(400)
async def test_cancelled_anywhere_all_mixed(way, loop, errors, seed, soak, tmp_path):
    host = Traffic(loop, random.Random(seed), tmp_path)
    await run_fuzzer(host, seed, host.SCENARIOS + (host.OURS if way.ours else []), 60 if soak else 3, workers=4)
    check_errors(errors)
