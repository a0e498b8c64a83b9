/* Floor 0: many sends on different sockets in one system call, for where io_uring is not to be had: Linux's older
 * asynchronous I/O (io_submit(2)) makes a write to a socket at once, and its results lie in memory that we can read.
 *
 * Source: io_setup(2), io_submit(2).  The layout of the ring of results is not documented but has been the same since
 * 2003, and tools rely on it; it says itself whether it can be read. */
#ifndef FLEXSC_SEND_BATCH_H
#define FLEXSC_SEND_BATCH_H

#include <errno.h>
#include <linux/aio_abi.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
    SEND_BATCH_MOST = 64,
    SEND_BATCH_MAGIC = (int)0xa10a10a1, /* of a ring of results */
    SEND_NOWAIT = 0x00000008,           /* RWF_NOWAIT */
    SEND_NOSIGNAL = 0x00000100,         /* RWF_NOSIGNAL, Linux 6.18 */
};

struct send_batch_ring {
    uint32_t id, slots, head, tail, magic, compatible, incompatible, header_size;
    struct io_event events[];
};

_Static_assert(sizeof(struct send_batch_ring) == 32, "kernel ABI");

struct send_batch {
    aio_context_t context;
    bool refused; /* no such calls here, or not for sockets */
    bool signals; /* a kernel without RWF_NOSIGNAL */
    uint32_t count;
    struct iocb calls[SEND_BATCH_MOST];
    int32_t results[SEND_BATCH_MOST]; /* bytes or -errno */
};

static inline void send_batch_close(struct send_batch *batch)
{
    if (batch->context)
        syscall(SYS_io_destroy, batch->context);
    batch->context = 0;
}

/* Whether a batch can be sent now. */
static inline bool send_batch_ready(struct send_batch *batch)
{
    if (!batch->context && !batch->refused)
        batch->refused = syscall(SYS_io_setup, SEND_BATCH_MOST, &batch->context) != 0;
    if (!batch->context)
        return false;
    const struct send_batch_ring *ring = (const struct send_batch_ring *)batch->context;
    if (ring->magic != (uint32_t)SEND_BATCH_MAGIC || ring->incompatible != 0 || ring->header_size != sizeof *ring)
        batch->refused = true;
    struct sigaction pipe;
    /* A write to a connection that is gone must not kill the process. */
    if (batch->signals && (sigaction(SIGPIPE, NULL, &pipe) != 0 || pipe.sa_handler != SIG_IGN))
        return false;
    return !batch->refused;
}

static inline void send_batch_add(struct send_batch *batch, int fd, const void *data, size_t size)
{
    struct iocb *call = &batch->calls[batch->count];
    memset(call, 0, sizeof *call);
    call->aio_data = batch->count;
    call->aio_lio_opcode = IOCB_CMD_PWRITE;
    call->aio_rw_flags = SEND_NOWAIT | (batch->signals ? 0 : SEND_NOSIGNAL);
    call->aio_fildes = (uint32_t)fd;
    call->aio_buf = (uint64_t)(uintptr_t)data;
    call->aio_nbytes = size;
    batch->count++;
}

/* Take the results that are there; returns how many. */
static inline uint32_t send_batch_take(struct send_batch *batch)
{
    struct send_batch_ring *ring = (struct send_batch_ring *)batch->context;
    uint32_t head = ring->head, taken = 0;
    /* Acquire: the results below the tail are complete. */
    for (; head != __atomic_load_n(&ring->tail, __ATOMIC_ACQUIRE); taken++) {
        const struct io_event *event = &ring->events[head];
        batch->results[event->data] = (int32_t)event->res;
        head = (head + 1) % ring->slots;
        /* Release: a slot has been read before the kernel may fill it again. */
        __atomic_store_n(&ring->head, head, __ATOMIC_RELEASE);
    }
    return taken;
}

/* Make the calls that were added.  Their results are in `results`; what the kernel has not taken has -EAGAIN.  Returns
 * the number of system calls. */
static inline uint32_t send_batch_go(struct send_batch *batch)
{
    struct iocb *calls[SEND_BATCH_MOST];
    uint32_t count = batch->count, calls_made = 1, taken;
    for (uint32_t i = 0; i < count; i++) {
        calls[i] = &batch->calls[i];
        batch->results[i] = -EAGAIN;
    }
    batch->count = 0;
    long submitted = syscall(SYS_io_submit, batch->context, (long)count, calls);
    if (submitted < 0 && errno == EOPNOTSUPP && !batch->signals)
        batch->signals = true;
    else if (submitted < 0 && errno != EAGAIN && errno != EBADF)
        batch->refused = true;
    if (submitted <= 0)
        return calls_made;
    for (taken = send_batch_take(batch); taken < (uint32_t)submitted; taken += send_batch_take(batch)) {
        /* Never seen on Linux, where a write to a socket does not wait; then these are under way. */
        struct timespec nap = {.tv_nsec = 100000};
        syscall(SYS_io_getevents, batch->context, 0L, 0L, NULL, &nap);
        calls_made++;
    }
    return calls_made;
}

#endif
