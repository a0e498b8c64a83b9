#!/bin/sh
# Linux: SO_PEERNAME knows a TCP peer after its reset, when getpeername(2) does not, but fails if the buffer is too large.
#
# getsockopt(2) with a buffer larger than the option cuts the length down, that is what its length argument is for, and
# getpeername(2) does likewise.  SO_PEERNAME alone answers EINVAL as soon as the buffer is one byte larger than the
# address of the socket's family, and takes any smaller one, which it fills without a word about what is missing.  So the
# one buffer that everybody has at hand, a sockaddr_storage of 128 bytes, never works, connected or not, and it looks as
# if TCP did not have the option.  With the exact size (16 for IPv4, 28 for IPv6) it tells the address of a peer that has
# already gone with RST, for which getpeername(2) answers ENOTCONN: what a server needs to log who it was.  It is in no
# manual page.
#
# Seen with CPython 3.11.7 and psutil 7.2.2 (PyPI), Linux 6.18, x86-64, on 2026-11-28:
#
#   AF_INET   after a reset: getpeername ENOTCONN, psutil knows no connection, SO_PEERNAME 16 bytes: the peer, 17: EINVAL, 128: EINVAL
#   AF_INET6  after a reset: getpeername ENOTCONN, psutil knows no connection, SO_PEERNAME 28 bytes: the peer, 29: EINVAL, 128: EINVAL
#   AF_INET   connected: SO_PEERNAME 16 bytes: the peer, 128: EINVAL; SO_TYPE with 128 bytes: 4 bytes
#
# Exit status: 0 as described, 1 it has changed.
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check psutil==7.2.2

cat >"$folder/program.py" <<'PROGRAM'
import errno
import os
import socket
import struct
import sys

import psutil

SO_PEERNAME = 28
SIZES = {socket.AF_INET: 16, socket.AF_INET6: 28}


def pair(family):
    with socket.socket(family) as listener:
        listener.bind(("127.0.0.1" if family == socket.AF_INET else "::1", 0))
        listener.listen()
        client = socket.socket(family)
        client.connect(listener.getsockname())
        return client, listener.accept()[0]


def asked(sock, size, client):
    try:
        answer = sock.getsockopt(socket.SOL_SOCKET, SO_PEERNAME, size)
    except OSError as error:
        return errno.errorcode[error.errno]
    return "the peer" if struct.unpack_from("!H", answer, 2)[0] == client[1] else answer.hex()


def by_getpeername(sock):
    try:
        return str(sock.getpeername())
    except OSError as error:
        return errno.errorcode[error.errno]


as_described = True
for family, size in SIZES.items():
    client, server = pair(family)
    name = client.getsockname()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    try:
        server.recv(1)
    except ConnectionResetError:
        pass
    seen = [each.raddr for each in psutil.Process(os.getpid()).net_connections() if each.fd == server.fileno() and each.raddr]
    found = [by_getpeername(server), *(asked(server, room, name) for room in (size, size + 1, 128))]
    print(f"{family.name:9} after a reset: getpeername {found[0]}, psutil knows {seen or 'no connection'}, "
          f"SO_PEERNAME {size} bytes: {found[1]}, {size + 1}: {found[2]}, 128: {found[3]}")
    as_described &= found == ["ENOTCONN", "the peer", "EINVAL", "EINVAL"] and not seen

client, server = pair(socket.AF_INET)
exact, roomy = (asked(server, room, client.getsockname()) for room in (16, 128))
other = len(server.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE, 128))
print(f"AF_INET   connected: SO_PEERNAME 16 bytes: {exact}, 128: {roomy}; SO_TYPE with 128 bytes: {other} bytes")
as_described &= (exact, roomy, other) == ("the peer", "EINVAL", 4)
sys.exit(0 if as_described else 1)
PROGRAM
"$folder/venv/bin/python" "$folder/program.py"
