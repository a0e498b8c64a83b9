#!/bin/sh
# io_uring: a poll for POLLOUT alone ends at once, with nothing to write to, when the peer has shut down its sending side.
#
# A full socket whose peer will send no more, but still reads, is not writable.  Asked for POLLOUT, poll(2) and epoll(7)
# wait.  IORING_OP_POLL_ADD with the same mask completes at once: its result is POLLRDHUP, which nobody asked for, without
# POLLOUT.  The kernel adds POLLRDHUP to every mask that io_uring polls with, as poll(2) adds POLLERR and POLLHUP; no
# manual page says so.  A server that waits for POLLOUT with it, as it would with epoll, and submits again while it has
# more to send, spins for as long as the client likes.  Plain IORING_OP_SEND has the same poll inside.
#
# Seen with liburing 2026.3.30 (PyPI), Linux 6.18, x86-64, on 2026-11-28:
#
#   asked for: POLLOUT (0x4)
#   poll(2): nothing within 0.2 s
#   epoll:   nothing within 0.2 s
#   io_uring IORING_OP_POLL_ADD: 0x2000
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
import sys
import time

from liburing import (
    Cqe, Ring, io_uring_get_sqe, io_uring_peek_cqe, io_uring_prep_poll_add, io_uring_queue_exit, io_uring_queue_init,
    io_uring_submit,
)

POLLRDHUP = 0x2000

ours, peers = socket.socketpair()
ours.setblocking(False)
try:
    while True:
        ours.send(bytes(65536))
except BlockingIOError:
    pass
peers.shutdown(socket.SHUT_WR)

print(f"asked for: POLLOUT ({select.POLLOUT:#x})")
poll = select.poll()
poll.register(ours, select.POLLOUT)
by_poll = poll.poll(200)
print("poll(2):", by_poll or "nothing within 0.2 s")
with select.epoll() as epoll:
    epoll.register(ours, select.EPOLLOUT)
    by_epoll = epoll.poll(0.2)
print("epoll:  ", by_epoll or "nothing within 0.2 s")

ring, cqe = Ring(), Cqe()
try:
    io_uring_queue_init(8, ring)
except OSError as error:
    print("io_uring:", error)
    sys.exit(2)
io_uring_prep_poll_add(io_uring_get_sqe(ring), ours.fileno(), select.POLLOUT)
io_uring_submit(ring)
time.sleep(0.2)
try:
    io_uring_peek_cqe(ring, cqe)
    by_ring = cqe[0].res
except BlockingIOError:
    by_ring = None
print("io_uring IORING_OP_POLL_ADD:", "nothing within 0.2 s" if by_ring is None else hex(by_ring))
io_uring_queue_exit(ring)
sys.exit(0 if (by_poll, by_epoll, by_ring) == ([], [], POLLRDHUP) else 1)
PROGRAM
"$folder/venv/bin/python" "$folder/program.py"
