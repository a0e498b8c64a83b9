"""sock_recv, sock_recv_into, sock_sendall, sock_accept, sock_connect."""

import asyncio
import os
import random
import socket

import pytest
from support import SIZES, digest, payload, receive, shrink, tcp_pair, turns, unix_pair


async def test_recv_and_sendall(loop, pair):
    ours, theirs = pair
    assert await loop.sock_sendall(theirs, b"hello") is None
    data = await loop.sock_recv(ours, 100)
    assert type(data) is bytes and data == b"hello"
    receiving = asyncio.ensure_future(loop.sock_recv(ours, 3))
    await turns()
    await loop.sock_sendall(theirs, b"world")
    assert await receiving == b"wor"
    assert await loop.sock_recv(ours, 3) == b"ld"


async def test_recv_at_the_end(loop, pair):
    ours, theirs = pair
    receiving = asyncio.ensure_future(loop.sock_recv(ours, 10))
    await turns()
    theirs.close()
    assert await receiving == b""
    assert await loop.sock_recv(ours, 10) == b""


async def test_recv_of_nothing(loop, pair):
    ours, theirs = pair
    theirs.send(b"x")
    assert await loop.sock_recv(ours, 0) == b""
    assert await loop.sock_recv(ours, 1) == b"x"


async def test_recv_into(loop, pair):
    ours, theirs = pair
    buffer = bytearray(10)
    receiving = asyncio.ensure_future(loop.sock_recv_into(ours, buffer))
    await turns()
    await loop.sock_sendall(theirs, b"hello")
    assert await receiving == 5
    assert buffer == b"hello\0\0\0\0\0"
    await loop.sock_sendall(theirs, b"abc")
    assert await loop.sock_recv_into(ours, memoryview(buffer)[5:]) == 3
    assert buffer == b"helloabc\0\0"
    buffer.extend(b"not exported any more")
    theirs.close()
    assert await loop.sock_recv_into(ours, bytearray(4)) == 0


async def test_receiving_nothing_waits_for_nothing(loop, pair):
    ours, _ = pair
    assert await asyncio.wait_for(loop.sock_recv(ours, 0), 5) == b""
    assert await asyncio.wait_for(loop.sock_recv_into(ours, bytearray()), 5) == 0
    assert await asyncio.wait_for(loop.sock_recv_into(ours, memoryview(bytearray(4))[4:]), 5) == 0


@pytest.mark.parametrize("size", SIZES)
async def test_sizes(loop, pair, size):
    ours, theirs = pair
    data = payload(size)
    sending = asyncio.ensure_future(loop.sock_sendall(theirs, data))
    assert digest(await receive(loop, ours, size)) == digest(data)
    await sending


@pytest.mark.parametrize("wrap", [bytes, bytearray, memoryview])
async def test_sendall_to_a_slow_reader(loop, pair, wrap):
    ours, theirs = pair
    shrink(ours)
    shrink(theirs)
    data = payload(600_000)
    sending = asyncio.ensure_future(loop.sock_sendall(theirs, wrap(data)))
    await asyncio.sleep(0.01)
    assert not sending.done()
    assert digest(await receive(loop, ours, len(data))) == digest(data)
    await sending


async def test_sendall_of_nothing(loop, pair):
    ours, theirs = pair
    await loop.sock_sendall(theirs, b"")
    await loop.sock_sendall(theirs, b"x")
    assert await loop.sock_recv(ours, 10) == b"x"


async def test_sendall_to_nobody(loop, pair):
    ours, theirs = pair
    ours.close()
    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        for _ in range(1000):
            await loop.sock_sendall(theirs, b"x" * 1000)


async def test_echo(loop, pair):
    ours, theirs = pair

    async def echo():
        while data := await loop.sock_recv(ours, 1 << 16):
            await loop.sock_sendall(ours, data)

    echoing = asyncio.ensure_future(echo())
    for i in range(300):
        data = payload(1 + i * 7, i)
        await loop.sock_sendall(theirs, data)
        assert await receive(loop, theirs, len(data)) == data
    theirs.close()
    await echoing


async def test_accept(loop, listener):
    accepting = asyncio.ensure_future(loop.sock_accept(listener))
    await turns()
    assert not accepting.done()
    with socket.create_connection(listener.getsockname()) as client:
        conn, address = await accepting
        with conn:
            assert isinstance(conn, socket.socket)
            assert conn.gettimeout() == 0
            assert not conn.get_inheritable()
            assert address == client.getsockname() == conn.getpeername()
            client.sendall(b"x")
            assert await loop.sock_recv(conn, 1) == b"x"


async def test_accept_many(loop, listener):
    clients = [socket.create_connection(listener.getsockname()) for _ in range(50)]
    seen = set()
    for _ in clients:
        conn, address = await loop.sock_accept(listener)
        seen.add(address)
        conn.close()
    assert seen == {client.getsockname() for client in clients}
    for client in clients:
        client.close()


async def test_connect(loop, listener):
    with socket.socket() as sock:
        sock.setblocking(False)
        assert await loop.sock_connect(sock, listener.getsockname()) is None
        assert sock.getpeername() == listener.getsockname()


async def test_connect_refused(loop, listener):
    address = listener.getsockname()
    listener.close()
    with socket.socket() as sock:
        sock.setblocking(False)
        with pytest.raises(ConnectionRefusedError):
            await loop.sock_connect(sock, address)


async def test_connect_by_name(loop, listener):
    with socket.socket() as sock:
        sock.setblocking(False)
        await loop.sock_connect(sock, ("localhost", listener.getsockname()[1]))


async def test_connect_to_a_unix_socket(loop, tmp_path):
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as sock:
        server.bind(path)
        server.listen()
        sock.setblocking(False)
        await loop.sock_connect(sock, path)
        assert sock.getpeername() == path
    with socket.socket(socket.AF_UNIX) as sock:
        sock.setblocking(False)
        with pytest.raises(FileNotFoundError):
            await loop.sock_connect(sock, path + "-not-here")
        with pytest.raises(ConnectionRefusedError):
            await loop.sock_connect(sock, path)


async def test_wrong_addresses(loop):
    with socket.socket() as sock:
        sock.setblocking(False)
        for wrong in (None, 5, "text", (), ("127.0.0.1",), ("127.0.0.1", 1 << 20)):
            with pytest.raises((TypeError, ValueError, OSError, OverflowError)):
                await loop.sock_connect(sock, wrong)


def test_blocking_sockets_are_refused_in_debug_mode(loop, listener):
    loop.set_debug(True)

    async def main():
        with socket.socket() as sock:
            for call in (
                lambda: loop.sock_recv(sock, 1),
                lambda: loop.sock_recv_into(sock, bytearray(1)),
                lambda: loop.sock_sendall(sock, b"x"),
                lambda: loop.sock_accept(sock),
                lambda: loop.sock_connect(sock, listener.getsockname()),
            ):
                with pytest.raises(ValueError):
                    await call()

    loop.run_until_complete(main())


async def test_closed_sockets(loop, listener):
    sock = socket.socket()
    sock.close()
    for call in (
        lambda: loop.sock_recv(sock, 1),
        lambda: loop.sock_recv_into(sock, bytearray(1)),
        lambda: loop.sock_sendall(sock, b"x"),
        lambda: loop.sock_accept(sock),
        lambda: loop.sock_connect(sock, listener.getsockname()),
    ):
        with pytest.raises((OSError, ValueError)):
            await call()


async def test_wrong_arguments(loop, pair):
    ours, _ = pair
    with pytest.raises((TypeError, ValueError)):
        await loop.sock_recv(ours, "ten")
    with pytest.raises((TypeError, ValueError)):
        await loop.sock_recv(ours, -1)
    with pytest.raises(TypeError):
        await loop.sock_recv_into(ours, b"read only")
    with pytest.raises(TypeError):
        await loop.sock_sendall(ours, "text")
    with pytest.raises((TypeError, AttributeError)):
        await loop.sock_recv(None, 1)


async def test_reset(loop):
    ours, theirs = tcp_pair()
    ours.setblocking(False)
    receiving = asyncio.ensure_future(loop.sock_recv(ours, 10))
    await turns()
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    theirs.close()
    with pytest.raises(ConnectionResetError):
        await receiving
    ours.close()


# -- cancellation


@pytest.mark.ours  # asyncio's call has received already when its task is cancelled in the same turn
@pytest.mark.parametrize("into", [False, True], ids=["recv", "recv_into"])
async def test_cancelled_recv_loses_no_data(loop, pair, into):
    """A receive is cancelled at every moment there is; what it did not give must come from the next one."""
    ours, theirs = pair
    chance = random.Random(5)
    data = payload(60_000)
    received = bytearray()
    sent = 0
    buffer = bytearray(100)

    async def receive_some():
        if not into:
            return await loop.sock_recv(ours, 100)
        return bytes(buffer[: await loop.sock_recv_into(ours, buffer)])

    while len(received) < len(data):
        receiving = asyncio.ensure_future(receive_some())
        await turns(chance.randrange(4))
        if sent < len(data):
            try:
                sent += theirs.send(data[sent : sent + chance.randrange(1, 150)])
            except BlockingIOError:
                pass  # a syscall thread that lags behind
        await turns(chance.randrange(4))
        if chance.random() < 0.7 and sent < len(data):
            receiving.cancel()
        try:
            received += await receiving
        except asyncio.CancelledError:
            if asyncio.current_task().cancelling():  # the test itself is out of time
                raise
    assert received == data


async def test_cancelled_recv_leaves_the_buffer_alone(loop, pair):
    ours, theirs = pair
    buffer = bytearray(100)
    receiving = asyncio.ensure_future(loop.sock_recv_into(ours, buffer))
    await turns(2)
    receiving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await receiving
    theirs.send(b"must not land in the old buffer")
    assert await loop.sock_recv(ours, 100) == b"must not land in the old buffer"
    assert buffer == bytes(100)


async def test_cancelled_recv_then_another_call_outside_the_loop(loop, pair):
    """Once the cancellation is through, the socket belongs to its owner again."""
    ours, theirs = pair
    for i in range(50):
        receiving = asyncio.ensure_future(loop.sock_recv(ours, 100))
        await turns(i % 4)
        receiving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await receiving
        theirs.send(b"%d" % i)
        assert await loop.sock_recv(ours, 100) == b"%d" % i


async def test_cancelled_sendall_does_not_send_more(loop, pair):
    ours, theirs = pair
    shrink(theirs)
    data = payload(2_000_000)
    sending = asyncio.ensure_future(loop.sock_sendall(theirs, data))
    await asyncio.sleep(0.01)
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    theirs.shutdown(socket.SHUT_WR)
    received = b""
    while part := await loop.sock_recv(ours, 1 << 18):
        received += part
    assert len(received) < len(data)
    assert data.startswith(received)


async def test_cancelled_accept_loses_no_connection(loop, listener):
    """A connection that came in meanwhile waits for the next accept."""
    clients = []
    accepted = []
    for i in range(60):
        accepting = asyncio.ensure_future(loop.sock_accept(listener))
        await turns(i % 4)
        clients.append(socket.create_connection(listener.getsockname(), timeout=10))
        await turns(i % 3)
        accepting.cancel()
        try:
            accepted.append(await accepting)
        except asyncio.CancelledError:
            pass
    while len(accepted) < len(clients):
        accepted.append(await asyncio.wait_for(loop.sock_accept(listener), 10))
    assert {address for _, address in accepted} == {client.getsockname() for client in clients}
    for conn, _ in accepted:
        conn.close()
    for client in clients:
        client.close()


async def test_cancelled_connect(loop, listener):
    for i in range(20):
        sock = socket.socket()
        sock.setblocking(False)
        connecting = asyncio.ensure_future(loop.sock_connect(sock, listener.getsockname()))
        await turns(i % 3)
        connecting.cancel()
        try:
            await connecting
        except asyncio.CancelledError:
            pass
        sock.close()
    await turns(3)


# -- several at once


async def test_reading_and_writing_at_once(loop, pair):
    ours, theirs = pair
    data = payload(3_000_000)

    async def both(sock):
        sending = asyncio.ensure_future(loop.sock_sendall(sock, data))
        back = await receive(loop, sock, len(data))
        await sending
        return digest(back)

    assert await asyncio.gather(both(ours), both(theirs)) == [digest(data)] * 2


@pytest.mark.ours  # asyncio's second watcher replaces the first, which then waits for ever
async def test_two_receives_at_once(loop, pair):
    """Whatever order they finish in: each byte goes to exactly one of them."""
    ours, theirs = pair
    one = asyncio.ensure_future(loop.sock_recv(ours, 3))
    two = asyncio.ensure_future(loop.sock_recv(ours, 3))
    await turns(3)
    theirs.send(b"abcdef")
    assert sorted(await asyncio.gather(one, two)) == [b"abc", b"def"]


@pytest.mark.ours
async def test_two_accepts_at_once(loop, listener):
    accepting = [asyncio.ensure_future(loop.sock_accept(listener)) for _ in range(2)]
    await turns(3)
    clients = [socket.create_connection(listener.getsockname()) for _ in range(2)]
    accepted = await asyncio.gather(*accepting)
    assert {address for _, address in accepted} == {client.getsockname() for client in clients}
    for sock in [conn for conn, _ in accepted] + clients:
        sock.close()


async def test_many_sockets_keep_their_bytes_apart(loop):
    async def talk(number):
        ours, theirs = unix_pair()
        with ours, theirs:
            ours.setblocking(False)
            theirs.setblocking(False)
            for i in range(20):
                data = b"%d:%d:" % (number, i) + os.urandom(50)
                await loop.sock_sendall(ours, data)
                assert await receive(loop, theirs, len(data)) == data

    await asyncio.gather(*(talk(i) for i in range(100)))


@pytest.mark.parametrize("size", [1, 1000, 300_000])
async def test_closing_the_socket_under_a_receive(loop, pair, size):
    """A misuse: it may end in any way but a crash, a hang of the loop, or bytes of somebody else."""
    ours, theirs = pair
    receiving = asyncio.ensure_future(loop.sock_recv(ours, size))
    await turns(3)
    ours.close()
    theirs.close()
    new_ours, new_theirs = socket.socketpair()
    new_ours.setblocking(False)
    new_theirs.send(b"for the new one")
    assert await loop.sock_recv(new_ours, 100) == b"for the new one"
    receiving.cancel()
    try:
        assert await receiving == b""
    except (asyncio.CancelledError, OSError):
        pass
    new_ours.close()
    new_theirs.close()


@pytest.mark.parametrize("first", ["data", "room"])
async def test_both_directions_wait_on_one_socket(loop, pair, first):
    """What comes for one of them leaves the other one waiting, and told when it is its turn."""
    ours, theirs = pair
    data = payload(8_000_000)
    sending = asyncio.ensure_future(loop.sock_sendall(ours, data))
    receiving = asyncio.ensure_future(loop.sock_recv(ours, 100))
    await asyncio.sleep(0.01)
    assert not sending.done() and not receiving.done()
    for what in ("data", "room") if first == "data" else ("room", "data"):
        if what == "data":
            await loop.sock_sendall(theirs, b"data")
            assert await receiving == b"data"
            assert first == "room" or not sending.done()
        else:
            came = bytearray()
            while len(came) < len(data):
                came += await loop.sock_recv(theirs, 1 << 20)
            await sending
            assert digest(came) == digest(data)
            assert first == "data" or not receiving.done()
