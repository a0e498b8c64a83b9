"""Addresses of datagrams: what the kernel says and what Python's sockets make of it are the same thing."""

import ipaddress
import os
import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexsc_loop.transports.addresses import decoded, encoded

pytestmark = pytest.mark.ours

PORTS = st.integers(0, 65535)


@given(st.ip_addresses(v=4), PORTS)
def test_ipv4(address, port):
    raw = struct.pack("=H", socket.AF_INET) + struct.pack("!H4s8x", port, address.packed)
    assert encoded(socket.AF_INET, (str(address), port)) == raw
    assert decoded(raw) == (str(address), port)


@given(st.ip_addresses(v=6), PORTS, st.integers(0, 0xFFFFF), st.integers(0, 0xFFFFFFFF))
def test_ipv6(address, port, flow, scope):
    raw = (struct.pack("=H", socket.AF_INET6) + struct.pack("!HI16s", port, flow, address.packed)
           + struct.pack("=I", scope))
    assert encoded(socket.AF_INET6, (str(address), port, flow, scope)) == raw
    host, *rest = decoded(raw)
    assert host == socket.inet_ntop(socket.AF_INET6, address.packed)
    assert ipaddress.ip_address(host) == address
    assert rest == [port, flow, scope]
    assert encoded(socket.AF_INET6, (str(address), port)) == raw[:4] + bytes(4) + raw[8:24] + bytes(4)


@given(st.binary(min_size=1, max_size=107).filter(lambda path: 0 not in path))
def test_unix_paths(path):
    raw = struct.pack("=H", socket.AF_UNIX) + path
    assert encoded(socket.AF_UNIX, path) == encoded(socket.AF_UNIX, os.fsdecode(path)) == raw + b"\0"
    assert decoded(raw) == decoded(raw + b"\0") == decoded(raw + b"\0trailing") == os.fsdecode(path)


@given(st.binary(max_size=107))
def test_unix_abstract_names(name):
    raw = struct.pack("=H", socket.AF_UNIX) + b"\0" + name
    assert encoded(socket.AF_UNIX, b"\0" + name) == raw
    assert decoded(raw) == b"\0" + name


@given(
    st.sampled_from([socket.AF_INET, socket.AF_INET6, socket.AF_UNIX, socket.AF_NETLINK]),
    st.one_of(
        st.none(), st.integers(), st.text(max_size=200), st.binary(max_size=200), st.lists(st.integers(), max_size=4),
        st.tuples(st.text(max_size=50), st.integers()),
        st.tuples(st.sampled_from(["", "localhost", "127.1", "::1%lo", "<broadcast>", "1.2.3.4\0", "١.2.3.4"]), PORTS),
        st.tuples(st.sampled_from(["127.0.0.1", "::1"]), st.integers(), st.integers(), st.integers()),
        st.tuples(st.sampled_from(["127.0.0.1", "::1"]), st.one_of(st.booleans(), st.text(max_size=3), st.floats())),
    ),
)
def test_whatever_a_program_may_pass(family, address):
    """It is either understood, and then it comes back as it went in, or left to the socket module."""
    raw = encoded(family, address)
    if raw is None:
        return
    back = decoded(raw)
    if family == socket.AF_UNIX:
        assert os.fsencode(back) == os.fsencode(address)
    else:
        assert ipaddress.ip_address(back[0]) == ipaddress.ip_address(address[0])
        assert back[1 : len(address)] == address[1:]


@given(st.binary(max_size=150))
def test_whatever_the_kernel_may_say(raw):
    back = decoded(raw)
    assert back is None or isinstance(back, (tuple, str, bytes))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3"])
def test_as_the_socket_module(host):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect((host, 9))
        assert decoded(encoded(socket.AF_INET, (host, 9))) == sock.getpeername()


def test_no_name():
    assert decoded(b"") is None
    assert decoded(struct.pack("=H", socket.AF_UNIX)) == ""
    assert decoded(struct.pack("=H", socket.AF_NETLINK) + bytes(10)) is None
