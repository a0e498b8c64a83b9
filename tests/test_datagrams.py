"""Datagram endpoints: asyncio's contract, and that nothing is lost, cut or put out of order."""

import asyncio
import errno
import os
import random
import socket
import struct
import sys
import time

import pytest
from datagrams import DATAGRAM_SIZES, LOCAL, EchoTalker, Talker, make_room, name_of, room_for_small_ones, udp_socket
from support import digest, payload, settle, turns

#: Before 3.13 asyncio's sendto() dropped empty datagrams.
STDLIB_DROPS_EMPTY = sys.version_info < (3, 13)


# -- there and back


async def test_there_and_back(way, loop, endpoint, plain):
    transport, protocol = await endpoint()
    assert protocol.calls == ["made"]
    assert protocol.transport is transport
    if way.ours or sys.version_info >= (3, 13):
        assert isinstance(transport, asyncio.DatagramTransport)
    plain.sendto(b"ping", name_of(transport))
    await protocol.until_received(1)
    assert protocol.datagrams == [(b"ping", plain.getsockname())]
    transport.sendto(b"pong", plain.getsockname())
    assert await asyncio.to_thread(plain.recvfrom, 100) == (b"pong", name_of(transport))


@pytest.mark.parametrize("connected", [False, True])
@pytest.mark.parametrize("size", DATAGRAM_SIZES)
async def test_sizes(loop, endpoint, plain, size, connected):
    """None is cut, not even the largest."""
    if connected:
        transport, protocol = await endpoint(local_addr=LOCAL, remote_addr=plain.getsockname())
    else:
        transport, protocol = await endpoint()
    data = payload(size)
    plain.sendto(data, name_of(transport))
    await protocol.until_received(1)
    assert digest(protocol.payloads[0]) == digest(data)
    transport.sendto(data, None if connected else plain.getsockname())
    assert digest(await asyncio.to_thread(plain.recv, 1 << 17)) == digest(data)


async def test_empty_ones_are_received(loop, endpoint, plain):
    transport, protocol = await endpoint()
    for data in (b"", b"a", b"", b"", b"b"):
        plain.sendto(data, name_of(transport))
    await protocol.until_received(5)
    assert protocol.payloads == [b"", b"a", b"", b"", b"b"]


async def test_empty_ones_are_sent(way, loop, endpoint, plain):
    if not way.ours and STDLIB_DROPS_EMPTY:
        pytest.skip("asyncio drops them")
    transport, _ = await endpoint()
    for data in (b"", b"a", b"", b"", b"b"):
        transport.sendto(data, plain.getsockname())
    assert [await asyncio.to_thread(plain.recv, 10) for _ in range(5)] == [b"", b"a", b"", b"", b"b"]


async def test_ipv6(loop, endpoint):
    with udp_socket(socket.AF_INET6, ("::1", 0)) as plain:
        transport, protocol = await endpoint(local_addr=("::1", 0))
        assert len(name_of(transport)) == 4
        plain.sendto(b"x" * 65_000, name_of(transport))
        await protocol.until_received(1)
        data, address = protocol.datagrams[0]
        assert (len(data), address) == (65_000, plain.getsockname())
        for form in (address, address[:2], address[:3]):
            transport.sendto(b"y", form)
            assert await asyncio.to_thread(plain.recvfrom, 10) == (b"y", name_of(transport))


async def test_ipv6_scope(loop, endpoint):
    """A link-local address comes with the number of its interface, and is sent to with it."""
    found = [line.split() for line in open("/proc/net/if_inet6") if line.startswith("fe80")]
    if not found:
        pytest.skip("no link-local address")
    raw, index = found[0][0], int(found[0][1], 16)
    address = (socket.inet_ntop(socket.AF_INET6, bytes.fromhex(raw)), 0, 0, index)
    with udp_socket(socket.AF_INET6, address) as plain:
        sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        sock.bind(address)
        transport, protocol = await endpoint(sock=sock)
        transport.sendto(b"x", plain.getsockname())
        assert await asyncio.to_thread(plain.recvfrom, 10) == (b"x", name_of(transport))
        plain.sendto(b"y", name_of(transport))
        await protocol.until_received(1)
        assert protocol.datagrams == [(b"y", plain.getsockname())]


async def test_an_ipv6_socket_for_both(loop, endpoint, plain):
    sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    sock.bind(("::", 0))
    transport, protocol = await endpoint(sock=sock)
    plain.sendto(b"x", ("127.0.0.1", name_of(transport)[1]))
    await protocol.until_received(1)
    assert protocol.datagrams == [(b"x", ("::ffff:127.0.0.1", plain.getsockname()[1], 0, 0))]
    transport.sendto(b"y", protocol.datagrams[0][1])
    assert (await asyncio.to_thread(plain.recvfrom, 10))[0] == b"y"


async def test_many_peers(loop, endpoint):
    """Each address is the one that the kernel named, however many there are."""
    transport, protocol = await endpoint(EchoTalker)
    make_room(transport.get_extra_info("socket"), 4 << 20)
    socks = [udp_socket() for _ in range(700)]
    try:
        for number in range(3):
            for i, sock in enumerate(socks):
                sock.sendto(b"%d %d" % (number, i), name_of(transport))
                if i % 50 == 49:
                    await protocol.until_received(number * 700 + i + 1)
        for number in range(3):
            for i, sock in enumerate(socks):
                data = b"%d %d" % (number, i)
                assert protocol.datagrams[number * 700 + i] == (data, sock.getsockname())
                assert await asyncio.to_thread(sock.recvfrom, 100) == (data, name_of(transport))
    finally:
        for sock in socks:
            sock.close()


async def test_addresses_are_plain_tuples(loop, endpoint, plain):
    transport, protocol = await endpoint()
    for _ in range(2):
        plain.sendto(b"x", name_of(transport))
    await protocol.until_received(2)
    for _, address in protocol.datagrams:
        assert type(address) is tuple and type(address[0]) is str and type(address[1]) is int


# -- connected or not


async def test_connected(loop, endpoint, plain):
    transport, protocol = await endpoint(remote_addr=plain.getsockname())
    assert transport.get_extra_info("peername") == plain.getsockname()
    for address in (None, plain.getsockname()):
        transport.sendto(b"x", address)
        data, source = await asyncio.to_thread(plain.recvfrom, 10)
        assert (data, source) == (b"x", name_of(transport))
    with pytest.raises(ValueError, match="Invalid address"):
        transport.sendto(b"x", ("127.0.0.1", 1))
    with udp_socket() as stranger:
        stranger.sendto(b"no", name_of(transport))
    plain.sendto(b"yes", name_of(transport))
    await protocol.until_received(1)
    assert protocol.datagrams == [(b"yes", plain.getsockname())]


async def test_a_connected_socket_of_the_callers(loop, endpoint, plain):
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.connect(plain.getsockname())
    transport, _ = await endpoint(sock=sock)
    assert transport.get_extra_info("peername") == plain.getsockname()
    transport.sendto(b"x")
    assert (await asyncio.to_thread(plain.recvfrom, 10))[0] == b"x"


async def test_without_a_destination_the_endpoint_ends(loop, endpoint, errors):
    transport, protocol = await endpoint()
    transport.sendto(b"x")
    await protocol.until_called("lost")
    assert isinstance(protocol.exc, TypeError)
    (context,) = errors
    errors.clear()
    assert context["exception"] is protocol.exc
    assert context["transport"] is transport
    assert context["protocol"] is protocol


@pytest.mark.parametrize(
    "address, expected",
    [("nonsense", TypeError), (("127.0.0.1", 70000), OverflowError), (("127.0.0.1",), TypeError),
     (("127.0.0.1", "5"), TypeError), ((5, 5), TypeError)],
)
async def test_wrong_addresses(loop, endpoint, errors, address, expected):
    transport, protocol = await endpoint()
    transport.sendto(b"x", address)
    await protocol.until_called("lost")
    assert isinstance(protocol.exc, expected)
    assert [context["exception"] for context in errors] == [protocol.exc]
    errors.clear()


async def test_what_only_the_socket_module_understands(loop, endpoint, plain):
    """Names are looked up, and order is kept among them and numeric addresses."""
    transport, _ = await endpoint()
    port = plain.getsockname()[1]
    hosts = ["127.0.0.1", "localhost", b"127.0.0.1", "127.1", "127.0.0.1", "", bytearray(b"127.0.0.1")]
    for i, host in enumerate(hosts * 3):
        transport.sendto(b"%d" % i, (host, port))
    for i in range(len(hosts) * 3):
        assert (await asyncio.to_thread(plain.recv, 10)) == b"%d" % i


async def test_an_address_of_another_family(loop, endpoint, plain):
    transport, protocol = await endpoint()
    transport.sendto(b"x", ("::1", 9))
    transport.sendto(b"y", plain.getsockname())
    await protocol.until(lambda: protocol.errors)
    assert isinstance(protocol.errors[0], socket.gaierror)
    assert await asyncio.to_thread(plain.recv, 10) == b"y"


@pytest.mark.parametrize("data", ["text", 5, None, [b"x"]])
async def test_wrong_data(loop, endpoint, data):
    transport, _ = await endpoint()
    with pytest.raises(TypeError, match="data argument must be a bytes-like object"):
        transport.sendto(data, LOCAL)


async def test_kinds_of_data(way, loop, endpoint, plain):
    transport, _ = await endpoint(remote_addr=plain.getsockname())
    changing = bytearray(b"before")
    transport.sendto(changing)
    changing[:] = b"after!"
    transport.sendto(memoryview(b"abcdef")[::2] if way.ours else b"ace")  # asyncio fails for it
    transport.sendto(memoryview(changing)[1:3])
    del changing[:]
    got = [await asyncio.to_thread(plain.recv, 100) for _ in range(3)]
    assert got == [b"before", b"ace", b"ft"]


# -- options of create_datagram_endpoint


async def test_reuse_port(loop, endpoint):
    first, _ = await endpoint(local_addr=LOCAL, reuse_port=True)
    second, _ = await endpoint(local_addr=name_of(first), reuse_port=True)
    assert name_of(first) == name_of(second)
    with pytest.raises(OSError, match=r"ddress (already )?in use"):
        await endpoint(local_addr=name_of(first))


async def test_broadcast(loop, endpoint):
    receiver, received = await endpoint(local_addr=("0.0.0.0", 0))
    address = ("127.255.255.255", name_of(receiver)[1])
    refused, protocol = await endpoint()
    refused.sendto(b"no", address)
    await protocol.until(lambda: protocol.errors)
    assert isinstance(protocol.errors[0], PermissionError)
    allowed, _ = await endpoint(local_addr=LOCAL, allow_broadcast=True)
    allowed.sendto(b"yes", address)
    await received.until_received(1)
    assert received.datagrams == [(b"yes", name_of(allowed))]
    towards, protocol = await endpoint(remote_addr=address, allow_broadcast=True)
    assert towards.get_extra_info("peername") is None
    towards.sendto(b"all")
    towards.sendto(b"all", address)
    with pytest.raises(ValueError, match="Invalid address"):
        towards.sendto(b"x", LOCAL)
    await received.until_received(3)
    assert received.payloads == [b"yes", b"all", b"all"]


async def test_multicast(loop, endpoint):
    group = "239.255.77.77"
    receiver, protocol = await endpoint(local_addr=("0.0.0.0", 0))
    sock = receiver.get_extra_info("socket")
    membership = struct.pack("4s4s", socket.inet_aton(group), socket.inet_aton("127.0.0.1"))
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
    sender, _ = await endpoint()
    sender.get_extra_info("socket").setsockopt(
        socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
    sender.sendto(b"hello", (group, name_of(receiver)[1]))
    await protocol.until_received(1)
    assert protocol.datagrams == [(b"hello", name_of(sender))]
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_DROP_MEMBERSHIP, membership)


async def test_extra_info(loop, endpoint):
    transport, _ = await endpoint()
    sock = transport.get_extra_info("socket")
    assert sock.fileno() >= 0
    assert sock.type == socket.SOCK_DGRAM
    assert sock.getsockname() == name_of(transport)
    assert transport.get_extra_info("peername") is None
    assert transport.get_extra_info("nothing") is None
    assert transport.get_extra_info("nothing", 5) == 5


async def test_the_fd_belongs_to_the_transport(loop, endpoint):
    transport, _ = await endpoint()
    with pytest.raises(RuntimeError, match="is used by transport"):
        loop.add_reader(transport.get_extra_info("socket").fileno(), print)


async def test_another_kind_of_socket(loop, endpoint):
    """Families with addresses of their own work, too."""
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, socket.NETLINK_ROUTE)
    transport, protocol = await endpoint(sock=sock)
    request_links, dump = 18, 0x301
    transport.sendto(struct.pack("=LHHLLBxHiLL", 32, request_links, dump, 7, 0, 0, 0, 0, 0, 0), (0, 0))
    await protocol.until_received(1)
    data, address = protocol.datagrams[0]
    assert struct.unpack_from("=LHHL", data)[3] == 7
    assert address == (0, 0)


# -- bursts


async def test_a_burst_in(loop, endpoint, plain):
    """Whatever fits into the socket's buffer arrives, in order."""
    transport, protocol = await endpoint()
    sock = transport.get_extra_info("socket")
    make_room(sock, 4 << 20)
    count = room_for_small_ones(sock)
    expected = [payload(i % 300, i) for i in range(count)]
    for _ in range(3):
        for data in expected:
            plain.sendto(data, name_of(transport))
        await protocol.until_received(count)
        assert digest(b"|".join(protocol.payloads)) == digest(b"|".join(expected))
        protocol.datagrams.clear()


async def test_a_burst_of_large_ones_in(loop, endpoint, plain):
    transport, protocol = await endpoint()
    make_room(transport.get_extra_info("socket"), 16 << 20)
    if transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) < (16 << 20):
        pytest.skip("the kernel does not allow a large buffer")
    expected = [payload(65_507 - i, i) for i in range(100)]
    for data in expected:
        plain.sendto(data, name_of(transport))
    await protocol.until_received(100)
    assert [digest(data) for data in protocol.payloads] == [digest(data) for data in expected]


@pytest.mark.parametrize("connected", [False, True])
async def test_a_burst_out(loop, endpoint, plain, connected):
    """Sent in one turn, all arrive, in order."""
    count = room_for_small_ones(plain)
    options = {"remote_addr": plain.getsockname()} if connected else {"local_addr": LOCAL}
    transport, protocol = await endpoint(**options)
    expected = [payload(1 + i % 300, i) for i in range(count)]
    for _ in range(3):
        for data in expected:
            transport.sendto(data, None if connected else plain.getsockname())
        got = [await asyncio.to_thread(plain.recv, 1000) for _ in expected]
        assert digest(b"|".join(got)) == digest(b"|".join(expected))
    assert transport.get_write_buffer_size() == 0
    assert not protocol.errors


async def test_echo_of_bursts(loop, endpoint):
    server, _ = await endpoint(EchoTalker)
    clients = [await endpoint(remote_addr=name_of(server)) for _ in range(20)]
    make_room(server.get_extra_info("socket"), 4 << 20)
    for number in range(10):
        for i, (transport, protocol) in enumerate(clients):
            for k in range(10):
                transport.sendto(payload(100 + i, 1000 * number + k))
            protocol.datagrams.clear()
        for i, (_, protocol) in enumerate(clients):
            await protocol.until_received(10)
            assert protocol.payloads == [payload(100 + i, 1000 * number + k) for k in range(10)]


async def test_a_slow_handler_does_not_hold_up_others(loop, endpoint, plain):
    order = []

    class Slow(Talker):
        def datagram_received(self, data, addr):
            time.sleep(0.001)
            order.append("slow")
            super().datagram_received(data, addr)

    class Quick(Talker):
        def datagram_received(self, data, addr):
            order.append("quick")
            super().datagram_received(data, addr)

    slow, slow_protocol = await endpoint(Slow)
    quick, protocol = await endpoint(Quick)
    for _ in range(60):
        plain.sendto(b"x", name_of(slow))
    plain.sendto(b"x", name_of(quick))
    await protocol.until_received(1)
    await slow_protocol.until_received(60)
    assert order.index("quick") < 50


# -- Unix sockets


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "socket")


async def test_unix_paths(loop, endpoint, path):
    first, protocol = await endpoint(local_addr=path, family=socket.AF_UNIX)
    second, other = await endpoint(local_addr=path + "2", family=socket.AF_UNIX)
    assert name_of(first) == path
    second.sendto(b"x", path)
    await protocol.until_received(1)
    assert protocol.datagrams == [(b"x", path + "2")]
    first.sendto(b"y", protocol.datagrams[0][1])
    first.sendto(b"z", os.fsencode(path + "2"))
    await other.until_received(2)
    assert other.datagrams == [(b"y", path), (b"z", path)]


async def test_unix_abstract_names(loop, endpoint):
    name = f"\0flexsc-datagrams-{os.getpid()}"
    first, protocol = await endpoint(local_addr=name, family=socket.AF_UNIX)
    second, other = await endpoint(local_addr=name + "2", family=socket.AF_UNIX)
    assert name_of(first) == name.encode()
    second.sendto(b"x", name)
    await protocol.until_received(1)
    assert protocol.datagrams == [(b"x", (name + "2").encode())]
    first.sendto(b"y", protocol.datagrams[0][1])
    await other.until_received(1)
    assert other.datagrams == [(b"y", name.encode())]


async def test_unix_senders_without_a_name(loop, endpoint, path):
    _transport, protocol = await endpoint(local_addr=path, family=socket.AF_UNIX)
    connected, _ = await endpoint(remote_addr=path, family=socket.AF_UNIX)
    assert connected.get_extra_info("peername") == path
    connected.sendto(b"x")
    connected.sendto(b"y", path)
    await protocol.until_received(2)
    assert protocol.datagrams == [(b"x", None), (b"y", None)]


async def test_unix_pair(way, loop, endpoint):
    if not way.ours:
        pytest.skip("asyncio takes a connected socket without a name for one that is not connected")
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    theirs.settimeout(20)
    with theirs:
        transport, protocol = await endpoint(sock=ours)
        theirs.send(b"x")
        await protocol.until_received(1)
        assert protocol.datagrams == [(b"x", None)]
        transport.sendto(b"y")
        assert await asyncio.to_thread(theirs.recv, 10) == b"y"


@pytest.mark.parametrize("size", [65_536, 100_000, 200_000])
async def test_large_unix_datagrams(loop, endpoint, path, size):
    _transport, protocol = await endpoint(local_addr=path, family=socket.AF_UNIX)
    sender, _ = await endpoint(remote_addr=path, family=socket.AF_UNIX)
    sender.sendto(payload(size))
    await protocol.until_received(1)
    assert digest(protocol.payloads[0]) == digest(payload(size))


@pytest.mark.ours
async def test_none_is_cut_silently(loop, endpoint, path):
    """One that is too large for any buffer is reported, and those around it arrive."""
    _transport, protocol = await endpoint(local_addr=path, family=socket.AF_UNIX)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        so_sndbufforce = 32
        try:
            sock.setsockopt(socket.SOL_SOCKET, so_sndbufforce, 1 << 20)
        except PermissionError:
            pytest.skip("needs the right to make large buffers")
        sock.connect(path)
        for size in (1, 256 * 1024, 300_000, 2):
            sock.send(bytes(size))
    await protocol.until(lambda: len(protocol.calls) == 5)
    assert protocol.calls.count("error") == 1
    assert [len(data) for data in protocol.payloads] == [1, 256 * 1024, 2]
    assert protocol.errors[0].errno == errno.EMSGSIZE


async def test_unix_errors(loop, endpoint, path):
    transport, protocol = await endpoint(local_addr=path, family=socket.AF_UNIX)
    for address, kind in ((path + "-nobody", FileNotFoundError), ("x" * 200, OSError)):
        transport.sendto(b"x", address)
        await protocol.until(lambda: protocol.errors)
        assert isinstance(protocol.errors.pop(), kind)
    other, other_protocol = await endpoint(local_addr=path + "2", family=socket.AF_UNIX)
    connected, protocol = await endpoint(remote_addr=path + "2", family=socket.AF_UNIX)
    other.close()
    await other_protocol.until_called("lost")
    connected.sendto(b"x")
    await protocol.until(lambda: protocol.errors)
    assert isinstance(protocol.errors.pop(), ConnectionRefusedError)


@pytest.mark.parametrize("connected", [False, True])
async def test_a_slow_unix_receiver_gets_all(way, loop, endpoint, path, connected):
    """A Unix socket's queue is short: senders have to wait, and nothing is lost or overtaken."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as plain:
        plain.bind(path)
        plain.settimeout(20)
        options = {"remote_addr": path} if connected else {"local_addr": path + "2"}
        transport, protocol = await endpoint(family=socket.AF_UNIX, **options)
        expected = [payload(50 + i % 1000, i) for i in range(300)]
        for data in expected:
            transport.sendto(data, None if connected else path)
        await turns(3)
        assert transport.get_write_buffer_size() > 0
        got = []

        def read_all():
            while len(got) < len(expected):
                got.append(plain.recv(10_000))

        await asyncio.to_thread(read_all)
        assert got == expected
        if way.ours:  # asyncio of Python 3.13.0 forgets the headers
            await settle(lambda: transport.get_write_buffer_size() == 0)
        assert not protocol.errors


async def test_addresses_that_interfere(loop, endpoint, plain, errors):
    """A port whose conversion to a number sends, or ends the endpoint, does no harm."""

    class Port:
        def __init__(self, action):
            self.action = action

        def __index__(self):
            self.action()
            return plain.getsockname()[1]

    transport, protocol = await endpoint()

    def send_many():
        for i in range(300):
            transport.sendto(b"%d" % i, plain.getsockname())

    transport.sendto(b"first", ("127.0.0.1", Port(send_many)))
    await settle(lambda: transport.get_write_buffer_size() == 0)
    expected = [b"first", *(b"%d" % i for i in range(300))]
    got = [await asyncio.to_thread(plain.recv, 10) for _ in expected]
    assert sorted(got) == sorted(expected)  # asyncio sends the inner ones first
    transport.sendto(b"last", ("127.0.0.1", Port(transport.abort)))
    await protocol.until_called("lost")
    errors.clear()


@pytest.mark.parametrize("seed", range(5))
async def test_nothing_is_lost_among_many(loop, endpoint, tmp_path, seed):
    """Endpoints that send to each other as they like, and stop reading for a while: each gets all, in order."""
    chance = random.Random(seed)
    paths = [str(tmp_path / str(i)) for i in range(6)]
    ends = [await endpoint(local_addr=path, family=socket.AF_UNIX) for path in paths]
    sent = {(source, target): [] for source in paths for target in paths}
    for number in range(150):
        source = chance.randrange(6)
        for _ in range(chance.randrange(1, 12)):
            target = chance.choice(paths)
            data = payload(chance.choice([0, 1, 100, 5000, 20_000]), number)
            if data or sys.version_info >= (3, 13):
                sent[paths[source], target].append(digest(data))
                ends[source][0].sendto(data, target)
        transport = chance.choice(ends)[0]
        chance.choice([transport.pause_reading, transport.resume_reading])()
        await turns(chance.randrange(3))
    for transport, _ in ends:
        transport.resume_reading()
    for target, (_, protocol) in zip(paths, ends, strict=True):
        await protocol.until_received(sum(len(sent[source, target]) for source in paths))
        for source in paths:
            assert [digest(data) for data, name in protocol.datagrams if name == source] == sent[source, target]
    assert not any(protocol.errors for _, protocol in ends)
