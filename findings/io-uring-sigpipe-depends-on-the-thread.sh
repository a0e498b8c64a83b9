#!/bin/sh
# io_uring: whether a write to a pipe without reader sends SIGPIPE is up to who makes the call; a splice never does.
#
# write(2) and splice(2) send SIGPIPE along with EPIPE, which is how a program in a pipeline ends when the next one has: it
# need not look at results.  IORING_OP_WRITE does so if the kernel makes the call while it is submitted.  With
# IOSQE_ASYNC, and on a ring with IORING_SETUP_SQPOLL, one of the kernel's own threads makes it, and the signal goes
# nowhere.  IORING_OP_SPLICE sends none on any of these rings: a filter that is moved to it does not end any more with the
# program that reads from it, unless it looks at each result.
#
# Seen with liburing 2026.3.30 (PyPI), CPython 3.11.7, Linux 6.18, x86-64, on 2026-11-30:
#
#   write(2): EPIPE and SIGPIPE; splice(2): EPIPE and SIGPIPE
#   plain:       IORING_OP_WRITE EPIPE and SIGPIPE, IORING_OP_SPLICE EPIPE alone
#   IOSQE_ASYNC: IORING_OP_WRITE EPIPE alone, IORING_OP_SPLICE EPIPE alone
#   SQPOLL:      IORING_OP_WRITE EPIPE alone, IORING_OP_SPLICE EPIPE alone
#
# Exit status: 0 as described, 1 it has changed, 2 io_uring cannot be had here.
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check liburing==2026.3.30

cat >"$folder/program.py" <<'PROGRAM'
import ctypes
import errno
import os
import signal
import sys
import time

from liburing import (
    IORING_SETUP_SQPOLL, IOSQE_ASYNC, Cqe, Ring, io_uring_cqe_seen, io_uring_get_sqe, io_uring_prep_splice,
    io_uring_prep_write, io_uring_queue_exit, io_uring_queue_init, io_uring_submit, io_uring_wait_cqe,
)

signals = []
signal.signal(signal.SIGPIPE, lambda *_: signals.append("SIGPIPE"))
libc = ctypes.CDLL(None, use_errno=True)


def without_reader():
    reader, writer = os.pipe()
    os.close(reader)
    return writer


def with_data():
    reader, writer = os.pipe()
    os.write(writer, b"data")
    return reader


def told(error):
    """The error's name, and whether there was a signal within 0.1 s."""
    time.sleep(0.1)
    answer = f"{error} {'and ' + ' '.join(signals) if signals else 'alone'}"
    signals.clear()
    return answer


def by_write():
    try:
        return told(os.write(without_reader(), b"data"))
    except BrokenPipeError:
        return told("EPIPE")


def by_splice():
    count = libc.splice(with_data(), None, without_reader(), None, ctypes.c_size_t(4), 0)
    return told(errno.errorcode[ctypes.get_errno()] if count < 0 else count)


class Way:
    def __init__(self, setup, flags):
        self.ring, self.cqe, self.flags = Ring(), Cqe(), flags
        try:
            io_uring_queue_init(8, self.ring, setup)
        except OSError as error:
            print("io_uring:", error)
            sys.exit(2)

    def result(self, prepare, *arguments):
        sqe = io_uring_get_sqe(self.ring)
        prepare(sqe, *arguments)
        sqe.flags |= self.flags
        io_uring_submit(self.ring)
        io_uring_wait_cqe(self.ring, self.cqe)
        try:
            answer = self.cqe[0].res
        except OSError as error:
            answer = errno.errorcode[error.errno]
        io_uring_cqe_seen(self.ring, self.cqe[0])
        return told(answer)

    def results(self):
        by_write = self.result(io_uring_prep_write, without_reader(), b"data", 0)
        by_splice = self.result(io_uring_prep_splice, with_data(), -1, without_reader(), -1, 4, 0)
        io_uring_queue_exit(self.ring)
        return by_write, by_splice


found = [(by_write(), by_splice())]
print(f"write(2): {found[0][0]}; splice(2): {found[0][1]}")
for name, setup, flags in (("plain", 0, 0), ("IOSQE_ASYNC", 0, IOSQE_ASYNC), ("SQPOLL", IORING_SETUP_SQPOLL, 0)):
    found.append(Way(setup, flags).results())
    print(f"{name + ':':12} IORING_OP_WRITE {found[-1][0]}, IORING_OP_SPLICE {found[-1][1]}")
signalled, alone = "EPIPE and SIGPIPE", "EPIPE alone"
expected = [(signalled, signalled), (signalled, alone), (alone, alone), (alone, alone)]
sys.exit(0 if found == expected else 1)
PROGRAM
"$folder/venv/bin/python" "$folder/program.py"
