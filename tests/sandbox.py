"""Seccomp filters for child processes of the tests: what happens to io_uring's calls, to accept4() and to preadv2().

The numbers of io_uring's calls are the same on all architectures.  Of an argument the filters see the 32 bits at its
address: the lower ones, on a little-endian machine.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct

CALLS = {"setup": 425, "enter": 426, "register": 427, "accept4": 242 if platform.machine() == "aarch64" else 288}

PR_SET_NO_NEW_PRIVS = 38
PR_SET_SECCOMP = 22
SECCOMP_MODE_FILTER = 2
SECCOMP_RET_KILL_PROCESS = 0x80000000
SECCOMP_RET_ERRNO = 0x00050000
SECCOMP_RET_ALLOW = 0x7FFF0000
BPF_LOAD_WORD_ABSOLUTE = 0x20
BPF_JUMP_IF_EQUAL = 0x15
BPF_JUMP_IF_GREATER = 0x25
BPF_RETURN = 0x06
FIRST_ARGUMENT = 16  # its place in struct seccomp_data
SIXTH_ARGUMENT = FIRST_ARGUMENT + 5 * 8
PREADV2 = 286 if platform.machine() == "aarch64" else 327


class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p)]


def block(what: str, calls: str = "setup,enter,register") -> None:
    """From now on, `calls` of this thread give the error `what` (a name of errno), or `KILL` the process."""
    numbers = [CALLS[name] for name in calls.split(",")]
    verdict = verdict_of(what)
    instructions = [(BPF_LOAD_WORD_ABSOLUTE, 0, 0, 0)]
    for left, number in zip(range(len(numbers), 0, -1), numbers, strict=True):
        instructions.append((BPF_JUMP_IF_EQUAL, left, 0, number))
    instructions += [(BPF_RETURN, 0, 0, SECCOMP_RET_ALLOW), (BPF_RETURN, 0, 0, verdict)]
    install(instructions)


def block_reads_without_waiting(what: str, fd: int) -> None:
    """From now on, this thread cannot read descriptor `fd` with RWF_NOWAIT; `what` as above."""
    install(
        [
            (BPF_LOAD_WORD_ABSOLUTE, 0, 0, 0),
            (BPF_JUMP_IF_EQUAL, 0, 5, PREADV2),
            (BPF_LOAD_WORD_ABSOLUTE, 0, 0, FIRST_ARGUMENT),
            (BPF_JUMP_IF_EQUAL, 0, 3, fd),
            (BPF_LOAD_WORD_ABSOLUTE, 0, 0, SIXTH_ARGUMENT),
            (BPF_JUMP_IF_EQUAL, 0, 1, os.RWF_NOWAIT),
            (BPF_RETURN, 0, 0, verdict_of(what)),
            (BPF_RETURN, 0, 0, SECCOMP_RET_ALLOW),
        ]
    )


def verdict_of(what: str) -> int:
    return SECCOMP_RET_KILL_PROCESS if what == "KILL" else SECCOMP_RET_ERRNO | getattr(errno, what)


def limit_rings(entries: int) -> None:
    """From now on, this thread finds no memory (ENOMEM) for a ring of more than `entries`."""
    install(
        [
            (BPF_LOAD_WORD_ABSOLUTE, 0, 0, 0),
            (BPF_JUMP_IF_EQUAL, 0, 3, CALLS["setup"]),
            (BPF_LOAD_WORD_ABSOLUTE, 0, 0, FIRST_ARGUMENT),
            (BPF_JUMP_IF_GREATER, 0, 1, entries),
            (BPF_RETURN, 0, 0, SECCOMP_RET_ERRNO | errno.ENOMEM),
            (BPF_RETURN, 0, 0, SECCOMP_RET_ALLOW),
        ]
    )


def install(instructions: list[tuple[int, int, int, int]]) -> None:
    """Give this thread a filter of BPF instructions."""
    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in instructions)
    program = Program(len(instructions), code)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_NO_NEW_PRIVS)")
    if libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_SECCOMP)")


def try_setup() -> int:
    """The error number of an io_uring_setup() with senseless arguments."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall(CALLS["setup"], 0, None)
    return ctypes.get_errno()


def io_uring_blocked() -> bool:
    """Whether this process may not make a kernel page."""
    return try_setup() in (errno.ENOSYS, errno.EPERM)
