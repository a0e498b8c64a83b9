#!/bin/sh
# glibc, musl: pthread_setaffinity_np of a thread that has ended pins the caller, and says that it has succeeded.
#
# A joinable thread's pthread_t is valid until it is joined, also when its function has returned.  By then the kernel has
# cleared the thread's number (CLONE_CHILD_CLEARTID), and pthread_setaffinity_np hands that number, 0, to
# sched_setaffinity(2), for which 0 is the caller.  So a program that moves its workers, and comes a moment too late for one
# of them, pins the thread that does the moving; what that one starts later inherits it, and a server that has lost all but
# one CPU without a word is found days later.  pthread_getaffinity_np likewise tells the caller's CPUs as the worker's.
# pthread_getschedparam and pthread_setschedparam, asked of the same thread, answer ESRCH.
#
# Seen with glibc 2.36 (Debian 12) and 2.43 (Debian unstable), CPython 3.11 and ctypes, psutil 7.2.2 (PyPI), Linux 6.18,
# x86-64, on 2026-11-29; a program linked with musl 1.2.5 does the same:
#
#   pthread_getschedparam of the ended thread: ESRCH
#   pthread_getaffinity_np of the ended thread: 0, the caller's CPUs
#   pthread_setaffinity_np of the ended thread to one CPU: 0, the caller has that one CPU from then on
#
# Needs a machine, or an affinity, of two CPUs.  Exit status: 0 as described, 1 it has changed.
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check psutil==7.2.2

cat >"$folder/program.py" <<'PROGRAM'
import ctypes
import errno
import platform
import sys
import time

import psutil

libc = ctypes.CDLL(None)
Mask = ctypes.c_ulong * 16
me = psutil.Process()


def answer(code, more=""):
    return f"{errno.errorcode[code] if code else 0}{more}"


def mask_of(cpus):
    mask = Mask()
    for cpu in cpus:
        mask[cpu // 64] |= 1 << cpu % 64
    return mask


def cpus_of(mask):
    return [cpu for cpu in range(1024) if mask[cpu // 64] >> cpu % 64 & 1]


def ended_thread():
    """A thread whose function was labs(0): it has ended, and nobody has joined it."""
    thread, others = ctypes.c_ulong(), me.num_threads()
    assert libc.pthread_create(ctypes.byref(thread), None, libc.labs, None) == 0
    deadline = time.monotonic() + 10
    while me.num_threads() != others and time.monotonic() < deadline:
        time.sleep(0.01)
    return thread


before = me.cpu_affinity()
if len(before) < 2:
    sys.exit("this needs two CPUs")
thread, policy, parameters = ended_thread(), ctypes.c_int(), (ctypes.c_int * 16)()

asked = libc.pthread_getschedparam(thread, ctypes.byref(policy), parameters)
mask = Mask()
got = libc.pthread_getaffinity_np(thread, ctypes.sizeof(mask), mask)
same = ", the caller's CPUs" if cpus_of(mask) == before else ""
one = before[-1:]
was_set = libc.pthread_setaffinity_np(thread, ctypes.sizeof(mask), mask_of(one))
pinned = ", the caller has that one CPU from then on" if me.cpu_affinity() == one else ""
libc.pthread_join(thread, None)

lines = [
    f"pthread_getschedparam of the ended thread: {answer(asked)}",
    f"pthread_getaffinity_np of the ended thread: {answer(got, same)}",
    f"pthread_setaffinity_np of the ended thread to one CPU: {answer(was_set, pinned)}",
]
print(*platform.libc_ver(), "Linux", platform.release())
print(*lines, sep="\n")
wanted = [
    "pthread_getschedparam of the ended thread: ESRCH",
    "pthread_getaffinity_np of the ended thread: 0, the caller's CPUs",
    "pthread_setaffinity_np of the ended thread to one CPU: 0, the caller has that one CPU from then on",
]
sys.exit(0 if lines == wanted else "it has changed")
PROGRAM
"$folder/venv/bin/python" "$folder/program.py"
