"""sock_recvfrom, sock_recvfrom_into, sock_sendto."""

import asyncio
import os
import random
import socket
import struct
import threading

import pytest
from datagrams import DATAGRAM_SIZES, udp_socket
from support import digest, payload, tcp_pair, turns


@pytest.fixture
def ours():
    with udp_socket(room=4 << 20) as sock:
        sock.setblocking(False)
        yield sock


@pytest.fixture
def theirs():
    with udp_socket() as sock:
        sock.setblocking(False)
        yield sock


async def receive(loop, sock, size, into):
    """One datagram by either method: (data, address)."""
    if not into:
        return await loop.sock_recvfrom(sock, size)
    buffer = bytearray(size)
    count, address = await loop.sock_recvfrom_into(sock, buffer)
    return bytes(buffer[:count]), address


into_or_not = pytest.mark.parametrize("into", [False, True])


@into_or_not
async def test_there_and_back(loop, ours, theirs, into):
    assert await loop.sock_sendto(theirs, b"there", ours.getsockname()) == 5
    assert await receive(loop, ours, 100, into) == (b"there", theirs.getsockname())
    receiving = asyncio.ensure_future(receive(loop, ours, 100, into))
    await turns()
    assert not receiving.done()
    await loop.sock_sendto(theirs, b"again", ours.getsockname())
    assert await receiving == (b"again", theirs.getsockname())


@into_or_not
@pytest.mark.parametrize("size", [0, *DATAGRAM_SIZES])
async def test_sizes(loop, ours, theirs, size, into):
    data = payload(size)
    assert await loop.sock_sendto(theirs, data, ours.getsockname()) == size
    got, address = await receive(loop, ours, 70_000, into)
    assert type(got) is bytes
    assert digest(got) == digest(data)
    assert address == theirs.getsockname()


async def test_part_of_a_datagram(loop, ours, theirs):
    """As with the plain calls, what does not fit is cut, and the next call gets the next datagram."""
    for data in (b"abcdef", b"ghijkl", b"mnopqr", b"next"):
        await loop.sock_sendto(theirs, data, ours.getsockname())
    assert (await loop.sock_recvfrom(ours, 3))[0] == b"abc"
    buffer = bytearray(10)
    assert (await loop.sock_recvfrom_into(ours, buffer, 2))[0] == 2
    assert buffer == b"gh" + bytes(8)
    assert (await loop.sock_recvfrom_into(ours, memoryview(buffer)[4:8]))[0] == 4
    assert buffer == b"gh\0\0mnop\0\0"
    assert (await loop.sock_recvfrom(ours, 100))[0] == b"next"
    buffer.extend(b"not exported any more")


async def test_receive_into_other_buffers(loop, ours, theirs):
    import array

    numbers = array.array("B", bytes(8))
    await loop.sock_sendto(theirs, b"12345", ours.getsockname())
    assert (await loop.sock_recvfrom_into(ours, numbers))[0] == 5
    assert numbers.tobytes() == b"12345\0\0\0"
    await loop.sock_sendto(theirs, memoryview(numbers)[:3], ours.getsockname())
    assert (await loop.sock_recvfrom(ours, 10))[0] == b"123"


async def test_ipv6(loop):
    with udp_socket(socket.AF_INET6, ("::1", 0)) as one, udp_socket(socket.AF_INET6, ("::1", 0)) as two:
        one.setblocking(False)
        two.setblocking(False)
        await loop.sock_sendto(two, b"x", one.getsockname())
        assert await loop.sock_recvfrom(one, 10) == (b"x", two.getsockname())
        await loop.sock_sendto(one, b"y", two.getsockname()[:2])
        assert await loop.sock_recvfrom_into(two, bytearray(10)) == (1, one.getsockname())


async def test_unix(loop, tmp_path):
    path = str(tmp_path / "one")
    name = f"\0flexsc-sock-{os.getpid()}"
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as two,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as nameless,
    ):
        for sock in (one, two, nameless):
            sock.setblocking(False)
        one.bind(path)
        two.bind(name)
        await loop.sock_sendto(one, b"x", name)
        assert await loop.sock_recvfrom(two, 10) == (b"x", path)
        await loop.sock_sendto(two, b"y", path)
        assert await loop.sock_recvfrom(one, 10) == (b"y", name.encode())
        await loop.sock_sendto(nameless, b"z", path)
        assert await loop.sock_recvfrom(one, 10) == (b"z", None)


async def test_a_stream(loop):
    """The calls are made for datagrams, and work on a connection as the plain ones do."""
    one, two = tcp_pair()
    with one, two:
        one.setblocking(False)
        two.setblocking(False)
        receiving = asyncio.ensure_future(loop.sock_recvfrom(one, 3))
        await turns()
        await loop.sock_sendall(two, b"hello")
        assert await receiving == (b"hel", None)
        assert await loop.sock_recvfrom_into(one, bytearray(10)) == (2, None)
        receiving = asyncio.ensure_future(loop.sock_recvfrom(one, 100))
        await turns()
        two.close()
        assert await receiving == (b"", None)


async def test_another_kind_of_socket(loop):
    with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, socket.NETLINK_ROUTE) as sock:
        sock.setblocking(False)
        receiving = asyncio.ensure_future(loop.sock_recvfrom(sock, 65_536))
        await turns()
        request = struct.pack("=LHHLLBxHiLL", 32, 18, 0x301, 7, 0, 0, 0, 0, 0, 0)
        assert await loop.sock_sendto(sock, request, (0, 0)) == 32
        data, address = await receiving
        assert struct.unpack_from("=LHHL", data)[3] == 7
        assert address == (0, 0)


async def test_a_name_for_an_address(loop, ours, theirs):
    await loop.sock_sendto(theirs, b"x", ("localhost", ours.getsockname()[1]))
    assert await loop.sock_recvfrom(ours, 10) == (b"x", theirs.getsockname())


async def test_wrong_arguments(loop, ours, theirs):
    with pytest.raises(ValueError, match="negative buffersize"):
        await loop.sock_recvfrom(ours, -1)
    with pytest.raises(ValueError, match="negative buffersize"):
        await loop.sock_recvfrom_into(ours, bytearray(5), -1)
    with pytest.raises(ValueError, match="greater than the length"):
        await loop.sock_recvfrom_into(ours, bytearray(5), 6)
    with pytest.raises(TypeError):
        await loop.sock_recvfrom_into(ours, b"constant")
    with pytest.raises(TypeError):
        await loop.sock_sendto(ours, "text", theirs.getsockname())
    with pytest.raises(TypeError):
        await loop.sock_sendto(ours, b"x", "nonsense")
    with pytest.raises(OverflowError):
        await loop.sock_sendto(ours, b"x", ("127.0.0.1", 70_000))
    with pytest.raises(OSError, match=r"too (long|large)"):
        await loop.sock_sendto(ours, bytes(65_508), theirs.getsockname())


def test_blocking_sockets_are_refused_in_debug_mode(loop, ours, theirs):
    loop.set_debug(True)
    ours.settimeout(5)

    async def main():
        for call in (
            loop.sock_recvfrom(ours, 1), loop.sock_recvfrom_into(ours, bytearray(1)),
            loop.sock_sendto(ours, b"x", theirs.getsockname()),
        ):
            with pytest.raises(ValueError, match="non-blocking"):
                await call

    loop.run_until_complete(main())


async def test_closed_sockets(loop):
    sock = udp_socket()
    sock.setblocking(False)
    sock.close()
    for call in (
        loop.sock_recvfrom(sock, 1), loop.sock_recvfrom_into(sock, bytearray(1)),
        loop.sock_sendto(sock, b"x", ("127.0.0.1", 9)),
    ):
        with pytest.raises(OSError):
            await call


async def test_a_socket_of_a_transport_is_refused(loop):
    transport, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0))
    sock = transport.get_extra_info("socket")._sock
    with pytest.raises(RuntimeError, match="is used by transport"):
        await loop.sock_recvfrom(sock, 10)
    transport.close()
    await turns(5)


@into_or_not
async def test_connection_refused(loop, theirs, into):
    with udp_socket() as gone:
        address = gone.getsockname()
    theirs.connect(address)
    receiving = asyncio.ensure_future(receive(loop, theirs, 10, into))
    await turns()
    theirs.send(b"x")
    with pytest.raises(ConnectionRefusedError):
        await receiving
    with udp_socket(address=address) as back:
        await loop.sock_sendall(theirs, b"y")
        assert (await asyncio.to_thread(back.recvfrom, 10))[0] == b"y"


async def test_a_full_receiver_makes_senders_wait(loop, tmp_path):
    path = str(tmp_path / "socket")
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender,
    ):
        receiver.bind(path)
        receiver.settimeout(20)
        sender.setblocking(False)
        got = []

        async def send_all():
            for i in range(100):
                assert await loop.sock_sendto(sender, payload(40, i), path) == 40

        sending = asyncio.ensure_future(send_all())
        await asyncio.sleep(0.01)
        assert not sending.done()
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending

        def read_all():
            while receiver.recv(100) != b"end":
                got.append(1)

        reading = threading.Thread(target=read_all)
        reading.start()
        await send_all()
        await loop.sock_sendto(sender, b"end", path)
        await asyncio.to_thread(reading.join)
        assert len(got) >= 100


# -- cancelling


@pytest.mark.ours  # asyncio loses what came just before the cancel
@into_or_not
async def test_a_cancelled_call_loses_nothing(loop, ours, theirs, into):
    """Whenever it is cancelled: each datagram comes once, whole, with its address, in order."""
    chance = random.Random(5)
    received = []
    sent = 0
    while sent < 200:
        receiving = asyncio.ensure_future(receive(loop, ours, 2000, into))
        await turns(chance.randrange(3))
        for _ in range(chance.randrange(3)):
            theirs.sendto(payload(sent % 1500, sent), ours.getsockname())
            sent += 1
        await turns(chance.randrange(4))
        receiving.cancel()
        try:
            received.append(await receiving)
        except asyncio.CancelledError:
            pass
    while len(received) < sent:
        received.append(await receive(loop, ours, 2000, chance.random() < 0.5))
    assert received == [(payload(i % 1500, i), theirs.getsockname()) for i in range(sent)]


async def test_what_a_cancelled_call_leaves_is_there_for_the_next_one(loop, ours, theirs):
    """Cut to size, one at a time, as for any other call."""
    for _ in range(3):
        for data in (b"first one", b"", b"second one"):
            receiving = asyncio.ensure_future(loop.sock_recvfrom(ours, 100))
            await turns(2)
            theirs.sendto(data, ours.getsockname())
            loop.call_soon(receiving.cancel)
            try:
                assert await receiving == (data, theirs.getsockname())
                theirs.sendto(data, ours.getsockname())
            except asyncio.CancelledError:
                pass
            assert await loop.sock_recvfrom(ours, 5) == (data[:5], theirs.getsockname())
        receiving = asyncio.ensure_future(loop.sock_recvfrom(ours, 100))
        await turns(4)
        assert not receiving.done()
        receiving.cancel()
        await turns(2)


async def test_a_cancelled_call_leaves_the_buffer_alone(loop, ours, theirs):
    buffer = bytearray(10)
    receiving = asyncio.ensure_future(loop.sock_recvfrom_into(ours, buffer))
    await turns()
    receiving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await receiving
    theirs.sendto(b"x", ours.getsockname())
    assert (await loop.sock_recvfrom(ours, 10))[0] == b"x"
    assert buffer == bytes(10)
    buffer.extend(b"free")


async def test_the_socket_may_be_closed_right_after_a_cancel(loop, theirs):
    for i in range(50):
        sock = udp_socket()
        sock.setblocking(False)
        fd = sock.fileno()
        receiving = asyncio.ensure_future(loop.sock_recvfrom(sock, 10))
        await turns(i % 4)
        receiving.cancel()
        await asyncio.wait([receiving])
        sock.close()
        with udp_socket() as other:
            other.setblocking(False)
            assert other.fileno() == fd
            theirs.sendto(b"%d" % i, other.getsockname())
            await turns(2)
            assert other.recv(10) == b"%d" % i


@into_or_not
async def test_wait_for(loop, ours, theirs, into):
    for i in range(5):
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(receive(loop, ours, 10, into), 0.002)
        theirs.sendto(b"%d" % i, ours.getsockname())
        assert (await receive(loop, ours, 10, into))[0] == b"%d" % i


# -- many at once


async def test_echo(loop, ours):
    """One server task, many clients: every datagram comes back to its own client."""

    async def serve():
        while True:
            data, address = await loop.sock_recvfrom(ours, 2000)
            await loop.sock_sendto(ours, data, address)

    async def ask(number):
        with udp_socket() as sock:
            sock.setblocking(False)
            for i in range(30):
                data = payload(10 + number, i)
                await loop.sock_sendto(sock, data, ours.getsockname())
                assert await loop.sock_recvfrom(sock, 2000) == (data, ours.getsockname())

    serving = asyncio.ensure_future(serve())
    await asyncio.gather(*(ask(number) for number in range(30)))
    serving.cancel()
    await asyncio.wait([serving])
