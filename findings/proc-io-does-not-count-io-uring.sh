#!/bin/sh
# Linux, psutil: /proc/PID/io counts neither what io_uring reads and writes nor splice(2) nor recv and send.
#
# Its rchar is "the sum of bytes which this process passed to read(2) and similar system calls", says proc(5); psutil has
# it as read_chars.  sendfile(2) and copy_file_range(2) between files are counted, in both directions; splice(2) by way of
# a pipe, to the same end, is not.  Of a socket read(2) is counted and recv(2) is not.  And IORING_OP_READ and
# IORING_OP_WRITE are not: a program that moves from read(2) to them looks idle to whatever charts these numbers, and one
# that counts its work by them, or a test that limits it, passes with nought.
#
# Seen with psutil 7.2.2, liburing 2026.3.30 (PyPI), CPython 3.11.7, Linux 6.18, x86-64, on 2026-11-30; 64 KiB are moved
# each time:
#
#   pread(2), pwrite(2):              read_chars 65536, write_chars 65536
#   IORING_OP_READ, IORING_OP_WRITE:  read_chars 0, write_chars 0
#   sendfile(2):                      read_chars 65536, write_chars 65536
#   copy_file_range(2):               read_chars 65536, write_chars 65536
#   splice(2), twice:                 read_chars 0, write_chars 0
#   write(2), read(2) of a socket:    read_chars 65536, write_chars 65536
#   send(2), recv(2):                 read_chars 0, write_chars 0
#
# Exit status: 0 as described, 1 it has changed, 2 io_uring cannot be had here.
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check liburing==2026.3.30 psutil==7.2.2

cat >"$folder/program.py" <<'PROGRAM'
import ctypes
import os
import socket
import sys

import psutil
from liburing import (
    Cqe, Ring, io_uring_cqe_seen, io_uring_get_sqe, io_uring_prep_read, io_uring_prep_write, io_uring_queue_init,
    io_uring_submit, io_uring_wait_cqe,
)

SIZE = 1 << 16
process, libc = psutil.Process(), ctypes.CDLL(None)
data = bytes(SIZE)
source = os.open(os.path.join(sys.argv[1], "source"), os.O_RDWR | os.O_CREAT)
target = os.open(os.path.join(sys.argv[1], "target"), os.O_RDWR | os.O_CREAT)
os.write(source, data)
reader, writer = os.pipe()  # 64 KiB fit into it
end, peer = socket.socketpair()
ring, cqe = Ring(), Cqe()
try:
    io_uring_queue_init(4, ring)
except OSError as error:
    print("io_uring:", error)
    sys.exit(2)


def by_calls():
    return len(os.pread(source, SIZE, 0)), os.pwrite(target, data, 0)


def result(prepare, fd, memory):
    prepare(io_uring_get_sqe(ring), fd, memory, 0)
    io_uring_submit(ring)
    io_uring_wait_cqe(ring, cqe)
    moved = cqe[0].res
    io_uring_cqe_seen(ring, cqe[0])
    return moved


def by_ring():
    return result(io_uring_prep_read, source, bytearray(SIZE)), result(io_uring_prep_write, target, data)


def by_sendfile():
    os.lseek(target, 0, os.SEEK_SET)
    return (os.sendfile(target, source, 0, SIZE),)


def by_copy_file_range():
    return (os.copy_file_range(source, target, SIZE, 0, 0),)


def by_splice():
    at = ctypes.c_longlong(0)
    first = libc.splice(source, ctypes.byref(at), writer, None, ctypes.c_size_t(SIZE), 0)
    at.value = 0
    return first, libc.splice(reader, None, target, ctypes.byref(at), ctypes.c_size_t(SIZE), 0)


def by_write_and_read():
    return os.write(end.fileno(), data), len(os.read(peer.fileno(), SIZE))


def by_send_and_recv():
    return end.send(data), len(peer.recv(SIZE))


def counted(call):
    before = process.io_counters()
    moved = call()
    after = process.io_counters()
    assert set(moved) == {SIZE}, moved
    return after.read_chars - before.read_chars, after.write_chars - before.write_chars


own = counted(lambda: (SIZE,))[0] - 100  # what reading /proc reads, a few digits more or less; below it is rounded down
as_described = True
for name, call, expected in (
    ("pread(2), pwrite(2)", by_calls, SIZE),
    ("IORING_OP_READ, IORING_OP_WRITE", by_ring, 0),
    ("sendfile(2)", by_sendfile, SIZE),
    ("copy_file_range(2)", by_copy_file_range, SIZE),
    ("splice(2), twice", by_splice, 0),
    ("write(2), read(2) of a socket", by_write_and_read, SIZE),
    ("send(2), recv(2)", by_send_and_recv, 0),
):
    chars = counted(call)
    found = (chars[0] - own) // 1024 * 1024, chars[1]
    print(f"{name + ':':33} read_chars {found[0]}, write_chars {found[1]}")
    as_described &= found == (expected, expected)
sys.exit(0 if as_described else 1)
PROGRAM
"$folder/venv/bin/python" "$folder/program.py" "$folder"
