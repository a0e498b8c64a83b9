/* Floor 0: the calls that an entry can carry, the same numbers on every kind of page.
 *
 * The values are io_uring's opcodes and flags (kernel ABI, asserted in uring.h), so that an operation is
 * prepared once and does not know which kind of page will carry it. */
#ifndef FLEXSC_CALLS_H
#define FLEXSC_CALLS_H

#include <stdint.h>

enum flexsc_call {
    CALL_NOP = 0,
    CALL_READV = 1,    /* addr: struct iovec *, len: how many; off as with READ; call_flags: RWF_* */
    CALL_WRITEV = 2,
    CALL_FSYNC = 3,    /* call_flags: CALL_FSYNC_DATA for fdatasync */
    CALL_POLL = 6,     /* call_flags: poll mask */
    CALL_SENDMSG = 9,  /* addr: struct msghdr *, call_flags: MSG_* */
    CALL_RECVMSG = 10, /* likewise; from a pool: addr's msg_namelen is the room for the name */
    CALL_ACCEPT = 13,  /* call_flags: SOCK_NONBLOCK | SOCK_CLOEXEC */
    CALL_CANCEL = 14,  /* addr: user_data of the operation to end */
    CALL_CONNECT = 16, /* addr: struct sockaddr *, off: its length */
    CALL_FALLOCATE = 17, /* off; addr: the length, as a number; len: mode */
    CALL_OPENAT = 18,  /* fd: of the folder; addr: path; len: mode; call_flags: O_* */
    CALL_CLOSE = 19,
    CALL_STATX = 21,   /* fd, addr; len: STATX_*; off: struct statx *; call_flags: AT_* */
    CALL_READ = 22,    /* addr, len; off: ~0 for "at the current position" */
    CALL_WRITE = 23,
    CALL_FADVISE = 24, /* off, len, call_flags: POSIX_FADV_* */
    CALL_SEND = 26,    /* addr, len, call_flags: MSG_* */
    CALL_RECV = 27,
    CALL_SHUTDOWN = 34, /* len: SHUT_* */
    CALL_RENAMEAT = 35,  /* fd, addr: from; len: fd of the other folder; off: to; call_flags: RENAME_* */
    CALL_UNLINKAT = 36,  /* fd, addr, call_flags: AT_* */
    CALL_MKDIRAT = 37,   /* fd, addr, len: mode */
    CALL_SYMLINKAT = 38, /* addr: what it points to; fd, off: where it is */
    CALL_LINKAT = 39,    /* as RENAMEAT; call_flags: AT_* */
    CALL_FTRUNCATE = 55, /* off: the new size */
    /* What no ring has, for file threads only. */
    CALL_COPY_RANGE = 200, /* fd, off: from; call_flags: the other fd; addr: offset in it, as a number; len */
    CALL_READ_WHOLE = 201,  /* fd, addr: path; call_flags: O_*; len: the size from which on it is left to others */
    CALL_READ_REST = 203, /* fd, addr, len; closes the fd when it has come to the end of the file */
    CALL_WRITE_WHOLE = 202, /* likewise, and off: the data, len: its size, mode */
};

enum { CALL_FSYNC_DATA = 1 };

/* `off` for the current position, or where there is none. */
#define CALL_HERE UINT64_MAX

/* Entry flags: how a call is to be served. */
enum {
    ENTRY_MULTISHOT = 1 << 0,  /* RECV, RECVMSG, ACCEPT: complete again and again until an error or the end;
                                * POLL of an owned fd: at each new event, as edge-triggered epoll tells them */
    ENTRY_POOL = 1 << 1,       /* RECV, multishot RECVMSG: take buffers from the page's pool when data is there */
    ENTRY_OWNED = 1 << 2,      /* nobody but a CALL_CLOSE entry of this page closes the fd */
    ENTRY_POLL_FIRST = 1 << 3, /* the caller expects EAGAIN: wait for readiness before the first try */
    ENTRY_LINK = 1 << 4,       /* the next entry begins when this one is done; if this one fails, it is cancelled */
    ENTRY_SLEEPS = 1 << 5,     /* kernel pages: never made by whoever hands the entry over, not even the first try */
};

/* One result.  The same 16 bytes as io_uring's CQE. */
struct flexsc_completion {
    uint64_t user_data;
    int32_t res;    /* the call's result, or -errno */
    uint32_t flags; /* COMPLETION_*; the buffer's number from bit 16 on */
};

enum {
    COMPLETION_BUFFER = 1 << 0,   /* a pool buffer holds the data */
    COMPLETION_MORE = 1 << 1,     /* the operation goes on: more completions follow */
    COMPLETION_NONEMPTY = 1 << 2, /* RECV: the socket holds more data already */
    COMPLETION_SECOND = 1 << 12, /* from a page's second ring, which has receive buffers of its own */
    COMPLETION_BY_THREAD = 1 << 13, /* of a file job: the result is there, in 64 bits */
    COMPLETION_ABANDONED = 1 << 14, /* whoever serves it does not end: the loop does, and the memory stays for ever */
    COMPLETION_PLAIN = 1 << 15, /* not from the page: of a plain call that was made together with others */
    COMPLETION_BUFFER_SHIFT = 16,
};

_Static_assert(sizeof(struct flexsc_completion) == 16, "the layout of io_uring's CQE");

/* What a RECVMSG puts in front of a datagram in a pool buffer: this, then msg_namelen bytes for the sender's address,
 * then the payload.  The same as io_uring's io_uring_recvmsg_out. */
struct flexsc_datagram {
    uint32_t name_size;
    uint32_t control_size;
    uint32_t size;  /* of the payload */
    uint32_t flags; /* MSG_TRUNC: there was more than fits */
};

_Static_assert(sizeof(struct flexsc_datagram) == 16, "the layout of io_uring's io_uring_recvmsg_out");

/* The pool of receive buffers: a ring that the loop fills at its tail and the server empties at its head.
 * The same layout as io_uring's provided-buffer ring, so that one pool serves either kind of page.
 * The tail overlays the `resv` field of slot 0. */
struct flexsc_pool_slot {
    uint64_t addr;
    uint32_t len;
    uint16_t id;
    uint16_t tail;
};

_Static_assert(sizeof(struct flexsc_pool_slot) == 16, "the layout of io_uring's buffer ring");

#endif
