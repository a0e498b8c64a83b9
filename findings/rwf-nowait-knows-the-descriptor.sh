#!/bin/sh
# Linux: RWF_NOWAIT depends on how a descriptor was made: a pipe takes it, the same pipe opened again refuses it.
#
# preadv2(2) with RWF_NOWAIT reads what is there and answers EAGAIN if that is nothing, also where the descriptor has no
# O_NONBLOCK: exactly what is needed for pipes and sockets that are shared with other processes, whose O_NONBLOCK is theirs as
# well.  It works on both ends of a pipe and on sockets.  But whether it does is a property of the open file, not of
# what lies behind: the very pipe, opened once more by /proc/self/fd or /dev/stdin, as programs do to have an open file of
# their own, answers EOPNOTSUPP, as every FIFO does, and the error is the same as for "not known here".  Files behave
# the other way about from what one would think, too: on tmpfs and in a memfd, where no read ever waits for a disk, both
# reading and writing so is refused; /dev/zero takes it.  The manual page knows none of these.
#
# Seen with CPython 3.11.7, Linux 6.18, x86-64, on 2026-11-30:
#
#   pipe, empty:                      read EAGAIN, write 4
#   the same pipe, opened again:      read EOPNOTSUPP, write EOPNOTSUPP
#   pipe, full, without O_NONBLOCK:   write EAGAIN
#   FIFO:                             read EOPNOTSUPP, write EOPNOTSUPP
#   socket, empty:                    read EAGAIN, write 4
#   memfd:                            read EOPNOTSUPP, write EOPNOTSUPP
#   /dev/zero:                        read 4
#
# Exit status: 0 as described, 1 it has changed.
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

cat >"$folder/program.py" <<'PROGRAM'
import ctypes
import errno
import os
import socket
import sys

libc = ctypes.CDLL(None, use_errno=True)


class Vector(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]


def tried(call, fd):
    data = ctypes.create_string_buffer(b"abcd", 4)
    vector = Vector(ctypes.addressof(data), 4)
    ctypes.set_errno(0)
    count = call(fd, ctypes.byref(vector), 1, ctypes.c_long(-1), os.RWF_NOWAIT)
    name = errno.errorcode[ctypes.get_errno()] if count < 0 else str(count)
    return "EOPNOTSUPP" if name == "ENOTSUP" else name


def read(fd):
    return "read " + tried(libc.preadv2, fd)


def write(fd):
    return "write " + tried(libc.pwritev2, fd)


found = []


def tell(name, *outcomes):
    found.append(outcomes)
    print(f"{name + ':':33} {', '.join(outcomes)}")


reader, writer = os.pipe()
tell("pipe, empty", read(reader), write(writer))
again = os.open(f"/proc/self/fd/{reader}", os.O_RDONLY), os.open(f"/proc/self/fd/{writer}", os.O_WRONLY)
tell("the same pipe, opened again", read(again[0]), write(again[1]))
os.set_blocking(writer, False)
try:
    while True:
        os.write(writer, bytes(4096))
except BlockingIOError:
    os.set_blocking(writer, True)
tell("pipe, full, without O_NONBLOCK", write(writer))
os.mkfifo(sys.argv[1])
fifo = os.open(sys.argv[1], os.O_RDWR)
tell("FIFO", read(fifo), write(fifo))
end, _other = socket.socketpair()
tell("socket, empty", read(end.fileno()), write(end.fileno()))
memory = os.memfd_create("memory")
tell("memfd", read(memory), write(memory))
tell("/dev/zero", read(os.open("/dev/zero", os.O_RDONLY)))

works, refused = ("read EAGAIN", "write 4"), ("read EOPNOTSUPP", "write EOPNOTSUPP")
expected = [works, refused, ("write EAGAIN",), refused, works, refused, ("read 4",)]
sys.exit(0 if found == expected else 1)
PROGRAM
python3 "$folder/program.py" "$folder/fifo"
