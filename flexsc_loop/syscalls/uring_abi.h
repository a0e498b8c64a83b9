/* Floor 0: what the kernel and this program agree on about io_uring: structs, numbers, layouts.
 *
 * Written here instead of taken from <linux/io_uring.h>, because the headers that distributions ship are often
 * older than the kernel that runs.  Source: io_uring_setup(2), io_uring_enter(2), io_uring_register(2). */
#ifndef FLEXSC_URING_ABI_H
#define FLEXSC_URING_ABI_H

#include <stddef.h>
#include <stdint.h>

#include "calls.h"

#define URING_NR_SETUP 425
#define URING_NR_ENTER 426
#define URING_NR_REGISTER 427

struct uring_sqe {
    uint8_t opcode;
    uint8_t flags;
    uint16_t ioprio;
    int32_t fd;
    uint64_t off;
    uint64_t addr;
    uint32_t len;
    uint32_t op_flags;
    uint64_t user_data;
    uint16_t buf_group;
    uint16_t personality;
    int32_t splice_fd_in;
    uint64_t addr3;
    uint64_t pad;
};

struct uring_sq_offsets {
    uint32_t head, tail, ring_mask, ring_entries, flags, dropped, array, resv1;
    uint64_t user_addr;
};

struct uring_cq_offsets {
    uint32_t head, tail, ring_mask, ring_entries, overflow, cqes, flags, resv1;
    uint64_t user_addr;
};

struct uring_params {
    uint32_t sq_entries, cq_entries, flags, sq_thread_cpu, sq_thread_idle, features, wq_fd, resv[3];
    struct uring_sq_offsets sq_off;
    struct uring_cq_offsets cq_off;
};

struct uring_timespec {
    int64_t tv_sec;
    int64_t tv_nsec;
};

struct uring_enter_arg {
    uint64_t sigmask;
    uint32_t sigmask_sz;
    uint32_t min_wait_usec;
    uint64_t ts;
};

struct uring_buf_reg {
    uint64_t ring_addr;
    uint32_t ring_entries;
    uint16_t bgid;
    uint16_t flags;
    uint64_t resv[3];
};

_Static_assert(sizeof(struct uring_sqe) == 64, "kernel ABI");
_Static_assert(offsetof(struct uring_sqe, user_data) == 32, "kernel ABI");
_Static_assert(sizeof(struct uring_params) == 120, "kernel ABI");
_Static_assert(sizeof(struct uring_enter_arg) == 24, "kernel ABI");
_Static_assert(sizeof(struct uring_buf_reg) == 40, "kernel ABI");

enum { /* io_uring_setup */
    URING_SETUP_SQPOLL = 1u << 1,
    URING_SETUP_SQ_AFF = 1u << 2,
    URING_SETUP_CQSIZE = 1u << 3,
    URING_SETUP_CLAMP = 1u << 4,
    URING_SETUP_ATTACH_WQ = 1u << 5,
    URING_SETUP_R_DISABLED = 1u << 6,
    URING_SETUP_SUBMIT_ALL = 1u << 7,
    URING_SETUP_TASKRUN_FLAG = 1u << 9,
    URING_SETUP_SINGLE_ISSUER = 1u << 12,
    URING_SETUP_DEFER_TASKRUN = 1u << 13,
    URING_SETUP_NO_SQARRAY = 1u << 16,
};

enum { /* params.features */
    URING_FEAT_SINGLE_MMAP = 1u << 0,
    URING_FEAT_NODROP = 1u << 1,
    URING_FEAT_EXT_ARG = 1u << 8,
    URING_FEAT_NO_IOWAIT = 1u << 17,
};

enum { /* io_uring_enter */
    URING_ENTER_GETEVENTS = 1u << 0,
    URING_ENTER_SQ_WAKEUP = 1u << 1,
    URING_ENTER_SQ_WAIT = 1u << 2,
    URING_ENTER_EXT_ARG = 1u << 3,
    URING_ENTER_NO_IOWAIT = 1u << 7,
};

enum { /* sq ring flags */
    URING_SQ_NEED_WAKEUP = 1u << 0,
    URING_SQ_CQ_OVERFLOW = 1u << 1,
    URING_SQ_TASKRUN = 1u << 2,
};

enum { /* cq ring flags: written by us */
    URING_CQ_EVENTFD_DISABLED = 1u << 0,
};

enum { /* io_uring_register */
    URING_REGISTER_EVENTFD = 4,
    URING_UNREGISTER_EVENTFD = 5,
    URING_REGISTER_ENABLE_RINGS = 12,
    URING_REGISTER_IOWQ_MAX_WORKERS = 19, /* two uint32_t: for files, for all else; 0: as before */
    URING_REGISTER_PBUF_RING = 22,
};

enum { /* sqe.flags */
    URING_SQE_LINK = 1u << 2,
    URING_SQE_ASYNC = 1u << 4,
    URING_SQE_BUFFER_SELECT = 1u << 5,
    URING_SQE_CQE_SKIP_SUCCESS = 1u << 6,
};

enum { /* sqe.ioprio of receive, send and accept */
    URING_RECVSEND_POLL_FIRST = 1u << 0,
    URING_RECV_MULTISHOT = 1u << 1,
    URING_ACCEPT_MULTISHOT = 1u << 0,
    URING_POLL_MULTISHOT = 1u << 0, /* in `len` */
};

enum { /* sqe.op_flags of a cancel */
    URING_CANCEL_ALL = 1u << 0,
    URING_CANCEL_ANY = 1u << 2,
};

#define URING_OFF_SQ_RING 0ull
#define URING_OFF_SQES 0x10000000ull

#endif
