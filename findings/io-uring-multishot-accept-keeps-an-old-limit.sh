#!/bin/sh
# io_uring: a multishot accept keeps the RLIMIT_NOFILE of the moment at which it was submitted, for as long as it lives.
#
# accept4(2) looks at the limit with each call, and so does a single IORING_OP_ACCEPT, once.  A multishot accept is
# submitted when a server starts and may last for its whole life; it takes the limit along and goes by that: a server that
# starts to listen and then raises its limit (resource.setrlimit, prlimit(1) from outside by its supervisor) goes on to
# fail at the old one with EMFILE, although the same process opens files and accepts by accept4 without trouble.  A limit
# that is lowered is passed in the same way.  No manual page says so.  The remedy is to cancel and submit it anew.
#
# Seen with liburing 2026.3.30 (PyPI), Linux 6.18, x86-64, on 2026-11-28:
#
#   submitted with a limit of 40, raised to 200: multishot accept: EMFILE at fd 40; accept4: fd 40; a new one: fd 41
#   submitted with a limit of 200, lowered to 40: multishot accept: past it, fd 40; accept4: EMFILE
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
import resource
import socket
import sys

from liburing import (
    Cqe, Ring, io_uring_cqe_seen, io_uring_get_sqe, io_uring_prep_multishot_accept, io_uring_queue_exit,
    io_uring_queue_init, io_uring_submit, io_uring_wait_cqe,
)

LOW, HIGH = 40, 200


def limit(number):
    resource.setrlimit(resource.RLIMIT_NOFILE, (number, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))


class Server:
    """A listener with a multishot accept, and a client outside of the limit's reach: in a child."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.ring, self.cqe = Ring(), Cqe()
        try:
            io_uring_queue_init(8, self.ring)
        except OSError as error:
            print("io_uring:", error)
            sys.exit(2)
        self.submit()

    def submit(self):
        io_uring_prep_multishot_accept(io_uring_get_sqe(self.ring), self.listener.fileno())
        io_uring_submit(self.ring)

    def connect(self):
        child = os.fork()
        if child == 0:
            os.close(0)  # room for one, whatever the limit
            client = socket.create_connection(self.listener.getsockname())
            os._exit(0 if client else 1)
        os.waitpid(child, 0)

    def result(self):
        io_uring_wait_cqe(self.ring, self.cqe)
        try:
            return self.cqe[0].res
        except OSError as error:
            return errno.errorcode[error.errno]
        finally:
            io_uring_cqe_seen(self.ring, self.cqe[0])

    def by_accept4(self):
        try:
            return self.listener._accept()[0]
        except OSError as error:
            return errno.errorcode[error.errno]


def fill(number):
    """Use all descriptors below `number`."""
    while (fd := os.open(os.devnull, os.O_RDONLY)) < number - 1:
        pass
    return fd


limit(LOW)
server = Server()
last = fill(LOW)
limit(HIGH)
server.connect()
first = [server.result(), server.by_accept4()]
server.submit()
server.connect()
first.append(server.result())
print(f"submitted with a limit of {LOW}, raised to {HIGH}: multishot accept: {first[0]} at fd {last + 1}; "
      f"accept4: fd {first[1]}; a new one: fd {first[2]}")
for fd in range(LOW, first[2] + 1):
    os.close(fd)

limit(LOW)
server.connect()
second = [server.result()]
server.connect()
second.append(server.by_accept4())
io_uring_queue_exit(server.ring)
print(f"submitted with a limit of {HIGH}, lowered to {LOW}: multishot accept: past it, fd {second[0]}; accept4: {second[1]}")
sys.exit(0 if (first, second) == (["EMFILE", LOW, LOW + 1], [LOW, "EMFILE"]) else 1)
PROGRAM
"$folder/venv/bin/python" "$folder/program.py"
