#!/bin/sh
# io_uring: cancelling by descriptor takes what was submitted with another descriptor, and misses what was with this one.
#
# IORING_ASYNC_CANCEL_FD is there to "key off 'fd' for cancelation", says linux/io_uring.h.  The kernel compares open files
# instead, at the time of the cancelling.  So a library that has its own dup(2) of a socket or of standard input, the usual
# way to be independent of who else uses it, ends with IORING_ASYNC_CANCEL_ALL what another one has submitted to the same
# ring by the original.  And once the number was closed and is another file's, it finds nothing: the request that was
# submitted with this number goes on, and takes the data.
#
# Seen with liburing 2026.3.30 (PyPI), CPython 3.11.7, Linux 6.18, x86-64, on 2026-11-30; a recv is pending:
#
#   cancelled by a duplicate of its descriptor: 1 cancelled, the recv ECANCELED
#   its number closed, opened as another file, cancelled by that number: 0 cancelled, the recv 5 bytes
#
# Exit status: 0 as described, 1 it has changed, 2 io_uring cannot be had here.
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check liburing==2026.3.30

cat >"$folder/program.py" <<'PROGRAM'
import errno
import os
import socket
import sys

from liburing import (
    IORING_ASYNC_CANCEL_ALL, Cqe, Ring, io_uring_cqe_seen, io_uring_get_sqe, io_uring_prep_cancel_fd,
    io_uring_prep_recv, io_uring_queue_init, io_uring_submit, io_uring_wait_cqe,
)

RECV, CANCEL = 1, 2


class Pending:
    """A recv of `end` that waits."""

    def __init__(self):
        self.end, self.peer = socket.socketpair()
        self.ring, self.cqe, self.room = Ring(), Cqe(), bytearray(10)
        try:
            io_uring_queue_init(4, self.ring)
        except OSError as error:
            print("io_uring:", error)
            sys.exit(2)
        sqe = io_uring_get_sqe(self.ring)
        io_uring_prep_recv(sqe, self.end.fileno(), self.room)
        sqe.user_data = RECV
        io_uring_submit(self.ring)

    def outcome(self, fd):
        """Cancelled by `fd`, how many that were, and what became of the recv, which gets five bytes afterwards."""
        sqe = io_uring_get_sqe(self.ring)
        io_uring_prep_cancel_fd(sqe, fd, IORING_ASYNC_CANCEL_ALL)
        sqe.user_data = CANCEL
        io_uring_submit(self.ring)
        self.peer.send(b"later")
        found = {}
        while len(found) < 2:
            io_uring_wait_cqe(self.ring, self.cqe)
            try:
                result = self.cqe[0].res
            except OSError as error:
                result = errno.errorcode[error.errno]
            found[self.cqe[0].user_data] = result
            io_uring_cqe_seen(self.ring, self.cqe[0])
        return found[CANCEL], found[RECV]


pending = Pending()
duplicate = pending.end.dup()
with_duplicate = pending.outcome(duplicate.fileno())
print(f"cancelled by a duplicate of its descriptor: {with_duplicate[0]} cancelled, the recv {with_duplicate[1]}")

pending = Pending()
number = pending.end.detach()
other, _peer = socket.socketpair()
os.dup2(other.fileno(), number)  # closes it, and opens it as another file
with_number = pending.outcome(number)
print(f"its number closed, opened as another file, cancelled by that number: {with_number[0]} cancelled, "
      f"the recv {with_number[1]} bytes")
sys.exit(0 if (with_duplicate, with_number) == ((1, "ECANCELED"), (0, 5)) else 1)
PROGRAM
"$folder/venv/bin/python" "$folder/program.py"
