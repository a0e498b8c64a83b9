"""A process that changes its user or its groups: what goes through the page goes out in the new one's name."""

import os

import pytest
from support import check_program

pytestmark = [
    pytest.mark.ours,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root may become somebody else"),
]

PRELUDE = """
import errno, os, socket, struct, tempfile, time

NOBODY = 65534
loop = new_loop()
ours, theirs = socket.socketpair()
theirs.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
for sock in (ours, theirs):
    sock.setblocking(False)

def name():
    '''User and group of whoever sent the next byte; None if it has not come.'''
    try:
        data, ancillary, _, _ = theirs.recvmsg(1, 100)
    except BlockingIOError:
        return None
    assert data == b"x"
    ((_, _, credentials),) = ancillary
    return struct.unpack("3i", credentials)[1:]

async def send_as():
    '''Send a byte through the page; returns who sent it.'''
    transport.write(b"x")
    while (found := name()) is None:
        await asyncio.sleep(0.001)
    return found

async def open_transport():
    return (await loop.connect_accepted_socket(asyncio.Protocol, ours))[0]

transport = loop.run_until_complete(open_transport())
"""

BETWEEN_RUNS = """
assert loop.run_until_complete(send_as()) == (0, 0)
os.setresgid(NOBODY, NOBODY, 0)
assert loop.run_until_complete(send_as()) == (0, NOBODY)
os.setresuid(NOBODY, NOBODY, 0)
assert loop.run_until_complete(send_as()) == (NOBODY, NOBODY)
os.setresuid(0, 0, 0)
os.setresgid(0, 0, 0)
assert loop.run_until_complete(send_as()) == (0, 0)
"""

#: A server that drops what it may do once it listens: it sleeps until the next event.
BEFORE_A_SLEEP = """
async def main():
    assert await send_as() == (0, 0)
    os.setresgid(NOBODY, NOBODY, 0)
    await asyncio.sleep(0.01)
    assert await send_as() == (0, NOBODY)
    os.setresuid(NOBODY, NOBODY, 0)
    await asyncio.sleep(0.01)
    assert await send_as() == (NOBODY, NOBODY)
    os.setresuid(0, 0, 0)
    await asyncio.sleep(0.01)
    assert await send_as() == (0, NOBODY)

loop.run_until_complete(main())
"""

#: It has been asleep for longer than it takes to forget who the user was.
RIGHT_BEFORE_A_SLEEP = """
async def main():
    for user in (NOBODY, 0, NOBODY):
        assert await send_as()
        os.setresuid(user, user, 0)
        loop.call_later(0.05, woken.set)
        await woken.wait()
        woken.clear()
        assert await send_as() == (user, 0)

woken = asyncio.Event()
loop.run_until_complete(main())
"""

WITHOUT_A_SLEEP = """
async def main():
    assert await send_as() == (0, 0)
    os.setresuid(NOBODY, NOBODY, 0)
    end = time.monotonic() + 20
    sender = None
    while sender != (NOBODY, 0):
        assert time.monotonic() < end, sender
        transport.write(b"x")
        await asyncio.sleep(0)
        sender = name() or sender

loop.run_until_complete(main())
"""

#: Everything that is under way goes on in the new ring.
IN_FLIGHT = """
class Echoes(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
    def data_received(self, data):
        self.transport.write(data)

async def client(address, number):
    reader, writer = await asyncio.open_connection(*address)
    for round in range(60):
        data = bytes([number, round]) * 5000
        writer.write(data)
        assert await reader.readexactly(len(data)) == data
        if round % 10 == 0:
            await asyncio.sleep(0.002)
    writer.close()
    await writer.wait_closed()

async def change():
    for user in (NOBODY, 0) * 5:
        os.seteuid(user)
        await asyncio.sleep(0.01)

async def main():
    server = await loop.create_server(Echoes, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    await asyncio.wait_for(asyncio.gather(change(), *(client(address, number) for number in range(16))), 30)
    server.close()
    await server.wait_closed()

loop.run_until_complete(main())
"""

#: A datagram socket that only root may write to.
FORBIDDEN_SOCKET = """
class Talker(asyncio.DatagramProtocol):
    def __init__(self):
        self.errors = []
    def error_received(self, error):
        self.errors.append(error.errno)

async def main(path):
    endpoint, talker = await loop.create_datagram_endpoint(Talker, family=socket.AF_UNIX)
    endpoint.sendto(b"x", path)
    await asyncio.sleep(0.01)
    assert receiver.recv(1) == b"x"
    os.seteuid(NOBODY)
    await asyncio.sleep(0.01)
    endpoint.sendto(b"x", path)
    await asyncio.sleep(0.05)
    assert talker.errors == [errno.EACCES], talker.errors
    endpoint.close()
    await asyncio.sleep(0.01)

with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
    os.chmod(folder, 0o711)
    path = folder + "/socket"
    receiver.bind(path)
    receiver.settimeout(10)
    os.chmod(path, 0o600)
    loop.run_until_complete(main(path))
    os.seteuid(0)
"""

END = """
transport.close()
loop.run_until_complete(asyncio.sleep(0.01))
loop.close()
theirs.close()
"""


@pytest.mark.parametrize(
    "program",
    [BETWEEN_RUNS, BEFORE_A_SLEEP, RIGHT_BEFORE_A_SLEEP, WITHOUT_A_SLEEP, IN_FLIGHT, FORBIDDEN_SOCKET],
    ids=["between runs", "before a sleep", "right before a sleep", "without a sleep", "in flight", "forbidden socket"],
)
def test_a_change_of_the_user(way, program):
    check_program(way, PRELUDE + program + END)


@pytest.mark.only(pages="kernel", threads="syscall")
def test_a_change_of_the_supplementary_groups(way):
    """The poller is a thread of this process: what the kernel says of it is what its calls are allowed."""
    check_program(
        way,
        PRELUDE
        + """
import contextlib

def pollers():
    '''The supplementary groups of each poller; an old one is listed until the kernel has ended it.'''
    found = []
    for task in os.listdir("/proc/self/task"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError), open(f"/proc/self/task/{task}/status") as file:
            status = dict(line.split(":", 1) for line in file)
            if status["Name"].strip().startswith("iou-sqp-"):
                found.append(status["Groups"].split())
    return found

async def main():
    for groups in ([4321, 4322], []):
        os.setgroups(groups)
        end = time.monotonic() + 10
        while pollers() != [[str(group) for group in groups]]:
            assert time.monotonic() < end, pollers()
            await asyncio.sleep(0.01)

loop.run_until_complete(main())
"""
        + END,
    )
