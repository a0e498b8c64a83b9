#!/bin/sh
# io_uring: how many of a ring's calls may sleep at once is up to the first ring that its thread ever made.
#
# Calls that must sleep (opening, fsync, reads that miss the page cache) are made by workers.  io_uring_setup(2) makes a
# pool of them for the thread, not for the ring, and the pool has as many for calls on files as the thread's *first* ring
# has submission entries, four for each CPU at most.  All rings that the thread makes later use that pool as it is: one
# of 4096 entries behind one of a single entry has one worker.  A small ring of some library, made first, and closed since,
# is enough.  IORING_REGISTER_IOWQ_MAX_WORKERS "provides a way to change the count per ring", says io_uring_register(2);
# it changes the pool: set by one ring, it holds for all others of that thread, for those that it makes later, and when
# the ring by which it was set is gone.  A ring of another thread is not concerned.
#
# Seen with liburing 2026.3.30 (PyPI), Linux 6.18, x86-64, 2 CPUs, on 2026-11-29; eight FIFOs are opened that have no
# other end, each open sleeps in a worker:
#
#   first ring of 1 entry:                 a ring of 64 has a limit of 1, opens that sleep: 1 of 8
#   first ring of 64 entries:              a ring of 64 has a limit of 8, opens that sleep: 8 of 8
#   limit of 3 by another ring, closed:    a ring of 64 has a limit of 3, opens that sleep: 3 of 8
#   the same, set in another thread:       a ring of 64 has a limit of 8, opens that sleep: 8 of 8
#
# Exit status: 0 as described, 1 it has changed, 2 io_uring cannot be had here.
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check liburing==2026.3.30

cat >"$folder/program.py" <<'PROGRAM'
import ctypes
import os
import sys
import threading
import time
from pathlib import Path

from liburing import (
    IOSQE_ASYNC, Ring, io_uring_get_sqe, io_uring_prep_open, io_uring_queue_exit, io_uring_queue_init,
    io_uring_submit,
)

OPENS = 8
IO_URING_REGISTER, IORING_REGISTER_IOWQ_MAX_WORKERS = 427, 19  # the numbers are the same on every processor
folder = Path(sys.argv[1])


def ring_of(entries):
    ring = Ring()
    try:
        io_uring_queue_init(entries, ring)
    except OSError as error:
        print("io_uring:", error)
        os._exit(2)
    return ring


def limit(ring, most=0):
    """Of calls on files, and set to `most`, 0: left as it is."""
    values = (ctypes.c_uint * 2)(most, 0)
    assert ctypes.CDLL(None).syscall(IO_URING_REGISTER, ring.ring_fd, IORING_REGISTER_IOWQ_MAX_WORKERS, values, 2) == 0
    return values[0]


def first_of_one():
    io_uring_queue_exit(ring_of(1))
    return ring_of(64)


def first_of_64():
    return ring_of(64)


def limited_by_another():
    ring, other = ring_of(64), ring_of(64)
    limit(other, 3)
    io_uring_queue_exit(other)
    return ring


def limited_in_another_thread():
    ring = ring_of(64)
    thread = threading.Thread(target=limited_by_another)
    thread.start()
    thread.join()
    return ring


def workers():
    names = [(task / "comm").read_text() for task in Path("/proc/self/task").iterdir()]
    return sum(name.startswith("iou-wrk") for name in names)


def opens_that_sleep(ring):
    for fifo in range(OPENS):
        sqe = io_uring_get_sqe(ring)
        io_uring_prep_open(sqe, str(folder / str(fifo)), os.O_RDONLY)
        sqe.flags = IOSQE_ASYNC
        io_uring_submit(ring)
    found, since = workers(), time.monotonic()
    while time.monotonic() - since < 0.5:  # until no more have come for so long
        time.sleep(0.02)
        if workers() != found:
            found, since = workers(), time.monotonic()
    return found


def in_a_process_of_its_own(made):
    """The limit that the ring which `made` returns has, and how many opens sleep at once."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        ring = made()
        os.write(writer, f"{limit(ring)} {opens_that_sleep(ring)}".encode())
        os._exit(0)
    os.close(writer)
    with open(reader) as answers:
        answer = answers.read()
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 2:
        sys.exit(2)
    return tuple(map(int, answer.split()))


for fifo in range(OPENS):
    os.mkfifo(folder / str(fifo))
usual = min(64, 4 * os.cpu_count())
as_described = True
for name, made, expected in (
    ("first ring of 1 entry:", first_of_one, 1),
    ("first ring of 64 entries:", first_of_64, usual),
    ("limit of 3 by another ring, closed:", limited_by_another, 3),
    ("the same, set in another thread:", limited_in_another_thread, usual),
):
    found, slept = in_a_process_of_its_own(made)
    print(f"{name:38} a ring of 64 has a limit of {found}, opens that sleep: {slept} of {OPENS}")
    as_described &= (found, slept) == (expected, min(expected, OPENS))
sys.exit(0 if as_described else 1)
PROGRAM
"$folder/venv/bin/python" "$folder/program.py" "$folder"
