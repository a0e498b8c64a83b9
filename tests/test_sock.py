"""sock_recv, sock_recv_into, sock_sendall, sock_accept, sock_connect."""

import array
import asyncio
import os
import random
import socket
import struct

import pytest
from datagrams import udp_socket
from support import SIZES, Running, digest, payload, settle, shrink, sleeps, tcp_pair, turns, unix_pair


@pytest.fixture
def pair(kind):
    ours, theirs = tcp_pair() if kind == "tcp" else unix_pair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        yield ours, theirs


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0)) as sock:
        sock.setblocking(False)
        yield sock


async def receive(loop, sock, count):
    parts = []
    while count:
        part = await loop.sock_recv(sock, min(count, 1 << 18))
        assert part, "the stream ended early"
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


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
    with pytest.raises((TypeError, BufferError)):
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


# -- what a cancelled call leaves behind


async def by_call(loop, sock):
    return await loop.sock_recv(sock, 100)


async def by_plain_call(loop, sock):
    return sock.recv(100)


async def by_looking(loop, sock):
    return sock.recv(100, socket.MSG_PEEK)


async def by_reader(loop, sock):
    readable = asyncio.Event()
    loop.add_reader(sock, readable.set)
    await readable.wait()
    loop.remove_reader(sock)
    return sock.recv(100)


async def by_duplicate(loop, sock):
    with sock.dup() as other:
        other.setblocking(False)
        return await loop.sock_recv(other, 100)


async def by_another_object(loop, sock):
    with socket.socket(fileno=sock.detach()) as other:
        return await loop.sock_recv(other, 100)


async def by_thread(loop, sock):
    sock.settimeout(10)
    return await asyncio.to_thread(sock.recv, 100)


async def by_transport(loop, sock):
    reader, writer = await asyncio.open_connection(sock=sock)
    data = await reader.read(100)
    writer.close()
    await writer.wait_closed()
    return data


async def by_child(loop, sock):
    child = await asyncio.create_subprocess_exec(
        "head", "-c", "5", stdin=sock.fileno(), stdout=asyncio.subprocess.PIPE)
    sock.setblocking(True)
    return (await child.communicate())[0]


TAKERS = [
    by_call, by_plain_call, by_looking, by_reader, by_duplicate, by_another_object, by_thread, by_transport, by_child]


@pytest.mark.parametrize("before", [True, False], ids=["data first", "cancel first"])
@pytest.mark.parametrize("taker", TAKERS, ids=lambda taker: taker.__name__)
async def test_whoever_reads_next_gets_what_came_for_a_cancelled_call(loop, pair, taker, before):
    """Nothing leaves the kernel for a call that is being cancelled."""
    ours, theirs = pair
    receiving = asyncio.ensure_future(loop.sock_recv(ours, 100))
    await turns(3)
    if before:
        theirs.send(b"first")
    receiving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await receiving
    if not before:
        theirs.send(b"first")
    assert await taker(loop, ours) == b"first"


@pytest.mark.ours
async def test_order_around_a_cancelled_call(loop, pair):
    ours, theirs = pair
    for when in range(1, 6):
        first = asyncio.ensure_future(loop.sock_recv(ours, 1))
        await turns(3)
        loop.call_soon(theirs.send, b"1")
        await turns(when)
        first.cancel()
        theirs.send(b"2")
        try:
            got = [await first]
        except asyncio.CancelledError:
            got = []
        while len(got) < 2:
            got.append(await loop.sock_recv(ours, 1))
        assert got == [b"1", b"2"], when


async def test_a_cancelled_accept_leaves_the_connection_to_others(loop, listener):
    accepting = asyncio.ensure_future(loop.sock_accept(listener))
    await turns(3)
    with socket.create_connection(listener.getsockname()) as client:
        accepting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await accepting
        conn, address = listener.accept()
        assert address == client.getsockname()
        conn.close()


@pytest.mark.ours  # asyncio's future goes on waiting
async def test_a_task_that_is_dropped_while_it_waits(loop, pair):
    """A coroutine that is closed, not cancelled, ends its wait, too."""
    ours, theirs = pair
    call = loop.sock_recv(ours, 100)
    call.send(None)
    call.close()
    theirs.send(b"x")
    await sleeps(loop)
    assert ours.recv(100) == b"x"


# -- at once


async def test_sendall_has_sent_when_it_could(loop, pair):
    """Whatever happens to the socket in the same turn."""
    ours, theirs = pair
    sending = asyncio.ensure_future(loop.sock_sendall(ours, b"hi"))
    loop.call_soon(ours.close)
    await sending
    assert theirs.recv(10) == b"hi"


async def test_recv_has_received_when_it_could(loop, pair):
    ours, theirs = pair
    for data in (b"there already", b"and more"):
        theirs.send(data)
        receiving = asyncio.ensure_future(loop.sock_recv(ours, 100))
        if data == b"and more":
            loop.call_soon(ours.close)
        assert await receiving == data


async def test_calls_that_need_not_wait_take_no_turn(loop, pair):
    ours, theirs = pair
    turn = loop.stats()["turns"] if hasattr(loop, "stats") else None
    await loop.sock_sendall(theirs, b"hello")
    assert await loop.sock_recv(ours, 10) == b"hello"
    if turn is not None:
        assert loop.stats()["turns"] == turn


# -- accepting


async def test_accepting_a_connection_that_has_been_reset(loop, listener):
    """The address comes with the connection: later nobody knows it."""
    client = socket.create_connection(listener.getsockname())
    address = client.getsockname()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    conn, peer = await loop.sock_accept(listener)
    assert peer == address
    with conn, pytest.raises(ConnectionResetError):
        await loop.sock_recv(conn, 1)


async def test_accepting_on_a_unix_socket(loop, tmp_path):
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind(path)
        server.listen()
        server.setblocking(False)
        client.connect(path)
        conn, peer = await loop.sock_accept(server)
        assert peer == ""
        conn.close()


# -- closed under a call


@pytest.mark.parametrize("call", ["sock_recv", "sock_recv_into", "sock_recvfrom", "sock_sendall"])
async def test_the_peer_sees_the_end_of_a_socket_that_is_waited_for(loop, pair, call):
    ours, theirs = pair
    shrink(ours)
    argument = {"sock_recv_into": bytearray(10), "sock_sendall": bytes(3_000_000)}.get(call, 10)
    waiting = asyncio.ensure_future(getattr(loop, call)(ours, argument))
    await turns(5)
    assert not waiting.done()
    ours.close()
    while theirs.recv(1 << 20):
        pass
    await sleeps(loop)
    waiting.cancel()
    await asyncio.wait([waiting])


async def test_the_port_of_a_listener_that_is_waited_for_is_free_when_it_is_closed(loop, listener):
    address = listener.getsockname()
    accepting = asyncio.ensure_future(loop.sock_accept(listener))
    await turns(3)
    listener.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)
    with socket.create_server(address):
        accepting.cancel()
        await asyncio.wait([accepting])


@pytest.mark.ours  # on asyncio's loop the second call waits for ever
async def test_a_number_that_is_another_socket_now(loop, pair):
    """What waited on the old socket ends, and gets nothing of the new one's."""
    ours, _ = pair
    old = asyncio.ensure_future(loop.sock_recv(ours, 10))
    await turns(3)
    number = ours.fileno()
    ours.close()
    new, peer = socket.socketpair()
    if peer.fileno() == number:
        new, peer = peer, new
    with new, peer:
        assert new.fileno() == number
        new.setblocking(False)
        receiving = asyncio.ensure_future(loop.sock_recv(new, 10))
        await turns(3)
        peer.send(b"new")
        assert await receiving == b"new"
        with pytest.raises(OSError, match="closed while a call waited"):
            await old


async def test_a_descriptor_put_in_the_place_of_another(loop, pair):
    """os.dup2() over a socket that has been waited for: the next call waits for what is there now."""
    ours, theirs = pair
    for i in range(3):
        receiving = asyncio.ensure_future(loop.sock_recv(ours, 10))
        await turns(3)
        theirs.send(b"%d" % i)
        assert await receiving == b"%d" % i
        new, peer = socket.socketpair()
        with new, peer:
            new.setblocking(False)
            os.dup2(new.fileno(), ours.fileno())
            receiving = asyncio.ensure_future(loop.sock_recv(ours, 10))
            await turns(3)
            peer.send(b"other")
            assert await receiving == b"other"
            back, theirs = socket.socketpair()
            with back:
                back.setblocking(False)
                os.dup2(back.fileno(), ours.fileno())
    theirs.close()


# -- nothing spins


async def test_sending_to_a_peer_that_has_shut_down_its_side_and_does_not_read(loop, pair):
    ours, theirs = pair
    shrink(ours)
    shrink(theirs)
    data = payload(600_000)
    sending = asyncio.ensure_future(loop.sock_sendall(ours, data))
    await turns(3)
    theirs.shutdown(socket.SHUT_WR)
    assert await loop.sock_recv(ours, 10) == b""
    await sleeps(loop)
    received = bytearray()
    while len(received) < len(data):
        try:
            received += theirs.recv(5000)
        except BlockingIOError:
            await asyncio.sleep(0.001)
    await sending
    assert received == data


async def test_a_socket_that_is_read_by_somebody_else(loop, pair):
    ours, theirs = pair
    receiving = asyncio.ensure_future(loop.sock_recv(ours, 10))
    await turns(3)
    for _ in range(3):
        theirs.send(b"taken away")
        assert ours.recv(100) == b"taken away"
        await sleeps(loop, 0.05)
    theirs.send(b"x")
    assert await receiving == b"x"


@pytest.mark.ours  # asyncio's loop spins
async def test_a_socket_with_something_in_its_error_queue(loop):
    """It is reported for ever, and is not readable for all that."""
    with udp_socket() as sock, udp_socket() as gone:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_IP, 11, 1)  # IP_RECVERR
        address = gone.getsockname()
        sock.connect(address)
        gone.close()
        sock.send(b"x")
        with pytest.raises(ConnectionRefusedError):
            await loop.sock_recv(sock, 10)
        for _ in range(3):
            receiving = asyncio.ensure_future(loop.sock_recv(sock, 10))
            await turns(5)
            await sleeps(loop)
            with udp_socket(address=address) as back:
                back.sendto(b"x", sock.getsockname())
                assert await receiving == b"x"


# -- several kinds of use of one socket


async def test_a_reader_beside_a_send_that_waits(loop, pair):
    """Neither disturbs the other, and when the send is done nobody hears that the socket can be written."""
    ours, theirs = pair
    shrink(ours)
    seen = []
    loop.add_reader(ours, lambda: seen.append(ours.recv(100)))
    data = payload(600_000)
    sending = asyncio.ensure_future(loop.sock_sendall(ours, data))
    await turns(3)
    assert not sending.done()
    theirs.send(b"one")
    await settle(lambda: seen == [b"one"])
    assert digest(await receive(loop, theirs, len(data))) == digest(data)
    await sending
    await sleeps(loop)
    theirs.send(b"two")
    await settle(lambda: seen == [b"one", b"two"])
    assert loop.remove_reader(ours)


@pytest.mark.ours  # in asyncio, the call takes the reader's place
async def test_a_reader_beside_a_receive(loop, pair):
    ours, theirs = pair
    calls = []
    receiving = asyncio.ensure_future(loop.sock_recv(ours, 10))
    await turns(3)
    loop.add_reader(ours, calls.append, 1)
    theirs.send(b"x")
    assert await receiving == b"x"
    assert calls
    await turns(2)
    calls.clear()
    await sleeps(loop)
    assert not calls
    assert loop.remove_reader(ours)
    receiving = asyncio.ensure_future(loop.sock_recv(ours, 10))
    await turns(3)
    theirs.send(b"y")
    assert await receiving == b"y"


async def test_both_directions_wait(loop, pair):
    """One end is full and empty at once: each event wakes its own call, and the other one goes on waiting."""
    ours, theirs = pair
    shrink(ours)
    data = payload(600_000)
    sending = asyncio.ensure_future(loop.sock_sendall(ours, data))
    await turns(3)
    for i in range(5):
        receiving = asyncio.ensure_future(loop.sock_recv(ours, 10))
        await turns(3)
        theirs.send(b"%d" % i)
        assert await receiving == b"%d" % i
        assert not sending.done()
    assert digest(await receive(loop, theirs, len(data))) == digest(data)
    await sending


async def test_a_socket_of_another_class_is_called_by_its_methods(loop):
    class Reversing(socket.socket):
        def recv(self, *args):
            return super().recv(*args)[::-1]

        def recv_into(self, *args):
            count = super().recv_into(*args)
            args[0][:count] = args[0][:count][::-1]
            return count

        def send(self, data, *args):
            return super().send(bytes(data)[:2], *args)

    plain, theirs = socket.socketpair()
    with Reversing(fileno=plain.detach()) as ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        receiving = asyncio.ensure_future(loop.sock_recv(ours, 10))
        await turns(3)
        theirs.send(b"abc")
        assert await receiving == b"cba"
        buffer = bytearray(3)
        theirs.send(b"abc")
        assert await loop.sock_recv_into(ours, buffer) == 3
        assert buffer == b"cba"
        await loop.sock_sendall(ours, b"in pieces")
        assert await receive(loop, theirs, 9) == b"in pieces"


@pytest.mark.ours  # asyncio takes their number for their size
async def test_items_of_several_bytes(loop, pair):
    ours, theirs = pair
    numbers = array.array("i", range(100_000))
    shrink(ours)
    sending = asyncio.ensure_future(loop.sock_sendall(ours, numbers))
    assert await receive(loop, theirs, 400_000) == numbers.tobytes()
    await sending


@pytest.mark.parametrize("size", [100, 4096, 5000, 70_000, 300_000, 1 << 24])
async def test_results_keep_what_came(loop, pair, size):
    """Whatever becomes of the buffer that was received into."""
    ours, theirs = pair
    kept = []
    for count in (1, 50, 4096, 4097, 60_000, 1, 4097, 0):
        data = payload(count)
        theirs.send(data)
        got = b""
        while len(got) < count:
            part = await loop.sock_recv(ours, size)
            assert 0 < len(part) <= size
            got += part
        kept.append((got, data))
    assert all(got == data for got, data in kept)


# -- many sockets at once


async def echo_all(loop, count, rounds):
    """As many echo servers as clients, each with one message under way: a busy turn sends much."""
    pairs = [tcp_pair() for _ in range(count)]

    async def serve(sock):
        while data := await loop.sock_recv(sock, 65536):
            await loop.sock_sendall(sock, data)
        sock.shutdown(socket.SHUT_WR)

    async def ask(number, sock):
        for i in range(rounds):
            data = payload(20 + number, i)
            await loop.sock_sendall(sock, data)
            assert await receive(loop, sock, len(data)) == data
        sock.shutdown(socket.SHUT_WR)
        assert await loop.sock_recv(sock, 1) == b""

    for pair in pairs:
        for sock in pair:
            sock.setblocking(False)
    serving = [asyncio.ensure_future(serve(ours)) for ours, _ in pairs]
    await asyncio.gather(*(ask(number, theirs) for number, (_, theirs) in enumerate(pairs)))
    await asyncio.gather(*serving)
    for ours, theirs in pairs:
        theirs.close()
        ours.close()


async def test_many_echos(loop):
    await echo_all(loop, 100, 20)


DEEDS = {
    "nothing": lambda sock: None,
    "close": socket.socket.close,
    "shutdown": lambda sock: sock.shutdown(socket.SHUT_WR),
    "plain send": lambda sock: sock.send(b" and more"),
    "detach": lambda sock: os.close(sock.detach()),
}


@pytest.mark.parametrize("deed", DEEDS.values(), ids=list(DEEDS))
async def test_whatever_follows_in_a_turn_that_sends_much(loop, deed):
    """The kernel has all that sock_sendall() was given when that returns, in order."""
    pairs = [tcp_pair() for _ in range(100)]
    sending = []
    for ours, _ in pairs:
        ours.setblocking(False)
        sending.append(asyncio.ensure_future(loop.sock_sendall(ours, b"sent")))
        loop.call_soon(deed, ours)
    await asyncio.gather(*sending)
    expected = b"sent and more" if deed is DEEDS["plain send"] else b"sent"
    for ours, theirs in pairs:
        ours.close()
        with theirs:
            got = b""
            while part := theirs.recv(100):
                got += part
            assert got == expected


def test_a_process_that_ends_in_a_turn_that_sends_much(way):
    """os._exit() right after the calls: everything arrives."""
    program = f"""{way.prelude()}
import os, socket

async def main():
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        theirs = [socket.create_connection(listener.getsockname()) for _ in range(40)]
        ours = [listener.accept()[0] for _ in theirs]
    child = os.fork()
    if child:
        for sock in ours:
            sock.close()
        print([sock.recv(10) for sock in theirs].count(b"answer"), os.waitpid(child, 0)[1])
        os._exit(0)
    for sock in theirs:
        sock.close()

    async def answer(sock):
        sock.setblocking(False)
        await loop.sock_sendall(sock, b"answer")
        if sock is ours[-1]:
            os._exit(0)

    new = new_loop()
    asyncio._set_running_loop(None)
    asyncio.set_event_loop(new)
    loop = new
    new.run_until_complete(asyncio.gather(*map(answer, ours)))

asyncio.run(main())
"""
    with Running(program) as child:
        assert child.line() == "40 0"


async def test_options_of_a_socket_are_left_alone(loop):
    pairs = [tcp_pair() for _ in range(20)]
    for ours, _ in pairs:
        ours.setblocking(False)
        ours.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 0)
    await asyncio.gather(*(loop.sock_sendall(ours, b"x") for ours, _ in pairs))
    await turns(2)
    for ours, theirs in pairs:
        assert theirs.recv(10) == b"x"
        assert ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 0
        assert ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_CORK) == 0
        ours.close()
        theirs.close()


@pytest.mark.ours
async def test_sends_of_a_turn_wait_for_its_end_and_no_longer(loop):
    """Who has to wait is sent to before the loop goes on to other turns, without any further call."""
    pairs = [tcp_pair() for _ in range(30)]
    for ours, theirs in pairs:
        ours.setblocking(False)
        theirs.setblocking(False)
    sending = asyncio.gather(*(loop.sock_sendall(ours, b"x") for ours, _ in pairs))
    await sending
    await turns(2)
    assert [theirs.recv(10) for _, theirs in pairs] == [b"x"] * 30
    for pair in pairs:
        for sock in pair:
            sock.close()


async def test_peers_that_answer_at_once_and_then_do_not(loop, pair):
    """What a loop believes of its peers costs nothing when it turns out wrong."""
    ours, theirs = pair

    async def answer():
        while data := await loop.sock_recv(theirs, 100):
            await loop.sock_sendall(theirs, data)

    answering = asyncio.ensure_future(answer())
    for i in range(200):
        await loop.sock_sendall(ours, b"%d" % i)
        assert await loop.sock_recv(ours, 100) == b"%d" % i
    answering.cancel()
    await asyncio.wait([answering])
    receiving = asyncio.ensure_future(loop.sock_recv(ours, 100))
    await turns(3)
    await sleeps(loop)
    receiving.cancel()
    await asyncio.wait([receiving])
    theirs.send(b"later")
    assert await loop.sock_recv(ours, 100) == b"later"
