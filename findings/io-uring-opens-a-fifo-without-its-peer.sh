#!/bin/sh
# io_uring: OPENAT of a FIFO does not wait for the other end, as openat(2) does; with IOSQE_ASYNC it does.
#
# "Issue the equivalent of an openat(2) system call", says io_uring_enter(2).  To see whether an open would have to sleep,
# the kernel tries it with O_NONBLOCK first, and takes what comes of that for the answer unless it is EAGAIN.  But to a FIFO
# O_NONBLOCK does not mean that the call would have slept: a reader is let in though there is no writer, and gets the end
# of a stream that has never begun, and a writer is refused with ENXIO, an error that openat(2) without O_NONBLOCK knows
# for other things only.  The descriptor that comes of it does not have O_NONBLOCK, so nothing shows what happened.  With
# IOSQE_ASYNC, which is said to be about where a call is made only, there is no such first try, and the open sleeps until
# the other end comes.
#
# Seen with liburing 2026.3.30 (PyPI), Linux 6.18, x86-64, on 2026-11-29:
#
#   to read:  openat waits; OPENAT open at once, O_NONBLOCK not set, read gives b''; OPENAT, IOSQE_ASYNC: waits
#   to write: openat waits; OPENAT ENXIO at once; OPENAT, IOSQE_ASYNC: waits
#
# Exit status: 0 as described, 1 it has changed, 2 io_uring cannot be had here.
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check liburing==2026.3.30

cat >"$folder/program.py" <<'PROGRAM'
import errno
import fcntl
import os
import select
import sys

from liburing import (
    IOSQE_ASYNC, Cqe, Ring, io_uring_get_sqe, io_uring_prep_open, io_uring_queue_init, io_uring_submit,
    io_uring_wait_cqe,
)

fifo = sys.argv[1]


def by_openat(flags):
    return os.open(fifo, flags)


def by_ring(flags, sqe_flags=0):
    ring, cqe = Ring(), Cqe()
    try:
        io_uring_queue_init(8, ring)
    except OSError as error:
        print("io_uring:", error)
        os._exit(2)
    sqe = io_uring_get_sqe(ring)
    io_uring_prep_open(sqe, fifo, flags)
    sqe.flags = sqe_flags
    io_uring_submit(ring)
    io_uring_wait_cqe(ring, cqe)
    return cqe[0].res  # raises, if it is an error


def by_worker(flags):
    return by_ring(flags, IOSQE_ASYNC)


def outcome(way, flags):
    """What comes of an open within a second, tried by a child, since nothing else ends one that waits."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            fd = way(flags)
            told = "open at once, O_NONBLOCK " + ("set" if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_NONBLOCK else "not set")
            if flags == os.O_RDONLY:
                told += f", read gives {os.read(fd, 1)!r}"
        except OSError as error:
            told = errno.errorcode[error.errno] + " at once"
        os.write(writer, told.encode())
        os._exit(0)
    os.close(writer)
    if not select.select([reader], [], [], 1)[0]:
        os.kill(child, 9)
    told = os.read(reader, 1000).decode() or "waits"
    os.close(reader)
    if os.waitpid(child, 0)[1] == 2 << 8:
        sys.exit(2)
    return told


os.mkfifo(fifo)
found = []
for name, flags in (("to read: ", os.O_RDONLY), ("to write:", os.O_WRONLY)):
    found += [outcome(by_openat, flags), outcome(by_ring, flags), outcome(by_worker, flags)]
    print(f"{name} openat {found[-3]}; OPENAT {found[-2]}; OPENAT, IOSQE_ASYNC: {found[-1]}")
expected = [
    "waits", "open at once, O_NONBLOCK not set, read gives b''", "waits",
    "waits", "ENXIO at once", "waits",
]
sys.exit(0 if found == expected else 1)
PROGRAM
"$folder/venv/bin/python" "$folder/program.py" "$folder/fifo"
