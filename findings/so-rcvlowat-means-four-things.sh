#!/bin/sh
# Linux: with SO_RCVLOWAT a recv that has begun sleeps on though enough has come; over AF_UNIX poll does not know of it.
#
# "Since Linux 2.6.28, select(2), poll(2), and epoll(7) indicate a socket as readable only if at least SO_RCVLOWAT bytes
# are available", says socket(7).  Over TCP poll does so.  But a blocking recv that begins when a part is there takes that
# part off the queue, and is not woken before the queue, without what it has, holds the whole amount once more: of a
# record of ten bytes that comes as five and five, the second five do not end the call; its time limit does.  Over AF_UNIX
# the recv is right, and poll and epoll ignore the option: what they call readable would block.  io_uring's IORING_OP_RECV
# returns what it meets, less than the amount, too; if it met nothing, it waits for more than one byte over TCP, and takes
# one over AF_UNIX.
#
# Seen with liburing 2026.3.30 (PyPI), CPython 3.11.7, Linux 6.18, x86-64, on 2026-11-30; SO_RCVLOWAT is 10, SO_RCVTIMEO
# 0.8 s:
#
#   TCP:     5 bytes there: poll no, epoll no, IORING_OP_RECV 5; none there, 1 comes: IORING_OP_RECV waits
#     recv begun with 5, 5 more after 0.1 s: 10 bytes at the time limit; with 0, 5 and 5 more: 10 bytes at once
#   AF_UNIX: 5 bytes there: poll yes, epoll yes, IORING_OP_RECV 5; none there, 1 comes: IORING_OP_RECV 1
#     recv begun with 5, 5 more after 0.1 s: 10 bytes at once; with 0, 5 and 5 more: 10 bytes at once
#
# Exit status: 0 as described, 1 it has changed, 2 io_uring cannot be had here.
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check liburing==2026.3.30

cat >"$folder/program.py" <<'PROGRAM'
import select
import socket
import struct
import sys
import threading
import time

from liburing import (
    Cqe, Ring, io_uring_cqe_seen, io_uring_get_sqe, io_uring_peek_cqe, io_uring_prep_recv, io_uring_queue_exit,
    io_uring_queue_init, io_uring_submit,
)

LOW, LIMIT_US = 10, 800_000


def pair(family):
    if family == socket.AF_UNIX:
        return socket.socketpair()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener.accept()[0], client


def with_low(family):
    end, peer = pair(family)
    end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, LOW)
    end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, LIMIT_US))
    return end, peer


def by_poll(end):
    poll = select.poll()
    poll.register(end, select.POLLIN)
    return "yes" if poll.poll(100) else "no"


def by_epoll(end):
    with select.epoll() as epoll:
        epoll.register(end, select.EPOLLIN)
        return "yes" if epoll.poll(0.1) else "no"


def by_ring(end, peer, later):
    """What IORING_OP_RECV gives within 0.3 s, when `later` comes after it was submitted."""
    ring, cqe, room = Ring(), Cqe(), bytearray(100)
    try:
        io_uring_queue_init(4, ring)
    except OSError as error:
        print("io_uring:", error)
        sys.exit(2)
    io_uring_prep_recv(io_uring_get_sqe(ring), end.fileno(), room)
    io_uring_submit(ring)
    if later:
        peer.send(later)
    found, until = "waits", time.monotonic() + 0.3
    while found == "waits" and time.monotonic() < until:
        time.sleep(0.01)
        try:
            if io_uring_peek_cqe(ring, cqe) != 0:
                continue
        except BlockingIOError:
            continue
        found = str(cqe[0].res)
        io_uring_cqe_seen(ring, cqe[0])
    io_uring_queue_exit(ring)
    return found


def by_recv(family, there, *later):
    """(bytes, when) that a blocking recv returns."""
    end, peer = with_low(family)
    found = []

    def receive():
        begun = time.monotonic()
        size = len(end.recv(100))
        found.append(f"{size} bytes {'at the time limit' if time.monotonic() - begun > LIMIT_US / 1e6 - 0.1 else 'at once'}")

    if there:
        peer.send(bytes(there))
        time.sleep(0.05)
    thread = threading.Thread(target=receive)
    thread.start()
    for size in later:
        time.sleep(0.1)
        peer.send(bytes(size))
    thread.join()
    return found[0]


def main():
    found = []
    for name, family in (("TCP:", socket.AF_INET), ("AF_UNIX:", socket.AF_UNIX)):
        end, peer = with_low(family)
        peer.send(bytes(5))
        time.sleep(0.05)
        first = by_poll(end), by_epoll(end), by_ring(end, peer, b""), by_ring(*with_low(family), b"1")
        second = by_recv(family, 5, 5), by_recv(family, 0, 5, 5)
        print(f"{name:8} 5 bytes there: poll {first[0]}, epoll {first[1]}, IORING_OP_RECV {first[2]}; "
              f"none there, 1 comes: IORING_OP_RECV {first[3]}")
        print(f"  recv begun with 5, 5 more after 0.1 s: {second[0]}; with 0, 5 and 5 more: {second[1]}")
        found.append(first + second)
    return found == [
        ("no", "no", "5", "waits", "10 bytes at the time limit", "10 bytes at once"),
        ("yes", "yes", "5", "1", "10 bytes at once", "10 bytes at once"),
    ]


sys.exit(0 if main() else 1)
PROGRAM
"$folder/venv/bin/python" "$folder/program.py"
