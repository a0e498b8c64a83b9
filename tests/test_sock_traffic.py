"""sock_* calls side by side: with readers, with each other, on many sockets; and nothing spins."""

import array
import asyncio
import os
import socket

import pytest
from datagrams import udp_socket
from support import Running, digest, payload, receive, settle, shrink, sleeps, tcp_pair, turns

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
