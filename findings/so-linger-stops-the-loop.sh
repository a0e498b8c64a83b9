#!/bin/sh
# asyncio, uvloop, io_uring: close() of a socket with SO_LINGER stops the whole loop, O_NONBLOCK or not; told is nothing.
#
# Linux waits in close(2) for as long as the option says, also where no other call on the socket would ever wait: a
# transport whose peer has stopped reading stops its loop, with all other connections, for so long.  shutdown(2), which
# would not return either, says socket(7), returns at once.  close() returns 0 when the time has run out, too, and what was
# left is still sent afterwards: the wait has told nothing and changed nothing.  IORING_OP_CLOSE, there so that nobody
# waits, has the one who submits it wait within io_uring_enter(2), and does not with IOSQE_ASYNC.
#
# Seen with liburing 2026.3.30, uvloop 0.23.0 (PyPI), CPython 3.11.7, Linux 6.18, x86-64, on 2026-11-30; SO_LINGER is 1 s,
# the socket has O_NONBLOCK, its buffer is full, and the peer does not read:
#
#   close(): 1.0 s, no error, the peer has the rest afterwards; shutdown(): 0.0 s
#   IORING_OP_CLOSE: io_uring_enter 1.0 s, result 0; with IOSQE_ASYNC: io_uring_enter 0.0 s, result 0
#   asyncio: transport.close(): a timer of another task is 1.0 s late
#   uvloop:  transport.close(): a timer of another task is 1.0 s late
#
# Exit status: 0 as described, 1 it has changed, 2 io_uring cannot be had here.
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check liburing==2026.3.30 uvloop==0.23.0

cat >"$folder/program.py" <<'PROGRAM'
import asyncio
import socket
import struct
import sys
import time

import uvloop
from liburing import (
    IOSQE_ASYNC, Cqe, Ring, io_uring_get_sqe, io_uring_prep_close, io_uring_queue_exit, io_uring_queue_init,
    io_uring_submit, io_uring_wait_cqe,
)

LINGER_S = 1


def full():
    """A socket that has SO_LINGER and O_NONBLOCK and no room for more, how much it has taken, its peer."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        peer = socket.create_connection(listener.getsockname(), timeout=5)
        sock, _ = listener.accept()
    sock.setblocking(False)
    taken = 0
    try:
        while True:
            taken += sock.send(bytes(65536))
    except BlockingIOError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, LINGER_S))
        return sock, taken, peer


def seconds(call):
    begun = time.monotonic()
    call()
    return time.monotonic() - begun


def by_close():
    sock, taken, peer = full()
    waited = seconds(sock.close)
    while data := peer.recv(1 << 20):
        taken -= len(data)
    return waited, taken == 0


def by_shutdown():
    sock, _, peer = full()
    waited = seconds(lambda: sock.shutdown(socket.SHUT_WR))
    peer.close()
    return waited


def by_ring(flags):
    """(seconds in io_uring_enter, the result)."""
    sock, _, _peer = full()
    ring, cqe = Ring(), Cqe()
    try:
        io_uring_queue_init(4, ring)
    except OSError as error:
        print("io_uring:", error)
        sys.exit(2)
    sqe = io_uring_get_sqe(ring)
    io_uring_prep_close(sqe, sock.detach())
    sqe.flags |= flags
    waited = seconds(lambda: io_uring_submit(ring))
    io_uring_wait_cqe(ring, cqe)
    result = cqe[0].res
    io_uring_queue_exit(ring)
    return waited, result


async def by_transport():
    """How late a timer is, of those that were due meanwhile."""
    sock, _, peer = full()
    transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=sock)
    late = 0

    async def timers():
        nonlocal late
        for _ in range(20):
            due = time.monotonic() + 0.02
            await asyncio.sleep(0.02)
            late = max(late, time.monotonic() - due)

    other = asyncio.create_task(timers())
    await asyncio.sleep(0.1)
    transport.close()
    await other
    peer.close()
    return late


def waits(duration):
    return LINGER_S - 0.2 < duration < LINGER_S + 0.8


closed, shut = by_close(), by_shutdown()
print(f"close(): {closed[0]:.1f} s, no error, {'the peer has the rest afterwards' if closed[1] else 'the rest is lost'}; "
      f"shutdown(): {shut:.1f} s")
plain, by_worker = by_ring(0), by_ring(IOSQE_ASYNC)
print(f"IORING_OP_CLOSE: io_uring_enter {plain[0]:.1f} s, result {plain[1]}; "
      f"with IOSQE_ASYNC: io_uring_enter {by_worker[0]:.1f} s, result {by_worker[1]}")
lates = []
for name, new_loop in (("asyncio", asyncio.new_event_loop), ("uvloop", uvloop.new_event_loop)):
    lates.append(new_loop().run_until_complete(by_transport()))
    print(f"{name + ':':8} transport.close(): a timer of another task is {lates[-1]:.1f} s late")
as_described = (
    all(map(waits, (closed[0], plain[0], *lates))) and closed[1]
    and max(shut, by_worker[0]) < 0.2 and plain[1] == by_worker[1] == 0
)
sys.exit(0 if as_described else 1)
PROGRAM
"$folder/venv/bin/python" "$folder/program.py"
