"""sock_* calls: what a cancelled one leaves behind, and sockets that are closed and replaced under one."""

import asyncio
import os
import socket
import struct

import pytest
from support import shrink, sleeps, turns

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
