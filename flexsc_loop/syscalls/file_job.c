/* Floor 0: making the calls on files. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include "file_job.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "check.h"
#include "late_calls.h"

enum {
    TRIES_MOST = 100,   /* of a call that says EINTR or EAGAIN though it need not */
    WHOLE_LEAST = 4096, /* room for a file that does not say its size */
};

static int64_t result_of(int64_t res) { return res < 0 ? -errno : res; }

/* ---- reading and writing ---- */

static int64_t transfer_once(const struct file_job *job, const struct iovec *vectors, int count, uint64_t off)
{
    int flags = (int)job->call_flags;
    return result_of(file_job_writes(job) ? late_pwritev2(job->fd, vectors, count, (int64_t)off, flags)
                                          : late_preadv2(job->fd, vectors, count, (int64_t)off, flags));
}

/* The same with a fault now and then: the call fails, or moves less. */
static int64_t transfer_or_fault(const struct file_job *job, struct iovec *vectors, int count, uint64_t off,
                                 struct flexsc_faults *faults)
{
    size_t most = SIZE_MAX;
    if (FLEXSC_FAULTY && !(job->how & FILE_ONCE)) {
        uint32_t kind = faults_file_call(faults, &most);
        if (kind)
            return -faults_errno(kind);
        if (most < vectors[0].iov_len) {
            struct iovec less = {vectors[0].iov_base, most};
            return transfer_once(job, &less, 1, off);
        }
    }
    return transfer_once(job, vectors, count, off);
}

/* Wait until a non-blocking fd is worth another try. */
static void await_ready(const struct file_job *job)
{
    struct pollfd ready = {.fd = job->fd, .events = file_job_writes(job) ? POLLOUT : POLLIN};
    poll(&ready, 1, -1);
}

/* One successful call, or an error that stands. */
static int64_t transfer_some(const struct file_job *job, struct iovec *vectors, int count, uint64_t off,
                             struct flexsc_faults *faults)
{
    int64_t n;
    for (int tries = 0; tries < TRIES_MOST; tries++) {
        n = transfer_or_fault(job, vectors, count, off, faults);
        if (n == -EAGAIN && (job->how & FILE_ONCE))
            await_ready(job);
        else if (n != -EINTR && n != -EAGAIN)
            break;
    }
    return n;
}

static int64_t transfer(struct file_job *job, struct iovec *vectors, int count, struct flexsc_faults *faults)
{
    int64_t moved = 0;
    int done = (int)file_vectors_skip(vectors, (uint64_t)count, 0); /* empty ones */
    do {
        int some = count - done < VECTORS_MOST ? count - done : VECTORS_MOST;
        uint64_t off = job->off == CALL_HERE ? CALL_HERE : job->off + (uint64_t)moved;
        int64_t n = transfer_some(job, vectors + done, some, off, faults);
        if (n < 0)
            /* What was read before an error is not told: it would seem to be the end of the file. */
            return moved && file_job_writes(job) ? moved : n;
        FLEXSC_CHECK(n <= TRANSFER_MOST);
        moved += n;
        if (n == 0 || (job->how & FILE_ONCE))
            break;
        done += (int)file_vectors_skip(vectors + done, (uint64_t)(count - done), (size_t)n);
    } while (done < count);
    return moved;
}

static int64_t transfer_one(struct file_job *job, struct flexsc_faults *faults)
{
    struct iovec vector = {job->addr, job->len};
    return transfer(job, &vector, 1, faults);
}

/* ---- whole files ---- */

static int64_t open_path(const struct file_job *job, uint32_t mode, struct flexsc_faults *faults)
{
    int64_t fd;
    do {
        uint32_t kind = faults_other_file_call(faults);
        fd = kind ? -faults_errno(kind) : result_of(openat(job->fd, job->addr, (int)job->call_flags, mode));
    } while (fd == -EINTR);
    return fd;
}

/* Read from `fd` until its end into memory that grows. */
static int64_t read_to_end(struct file_job *job, int fd, size_t room, struct flexsc_faults *faults)
{
    struct file_job read = {.call = CALL_READ, .fd = fd, .off = CALL_HERE};
    size_t size = 0;
    job->out = malloc(room);
    while (job->out) {
        read.addr = (char *)job->out + size;
        read.len = room - size;
        int64_t n = transfer_one(&read, faults);
        if (n < 0)
            return n;
        size += (size_t)n;
        if (size < room)
            return (int64_t)size;
        room *= 2;
        void *more = realloc(job->out, room);
        if (!more)
            break;
        job->out = more;
    }
    return -ENOMEM;
}

static int64_t read_whole(struct file_job *job, struct flexsc_faults *faults)
{
    struct stat about;
    int fd = (int)open_path(job, 0, faults);
    if (fd < 0)
        return fd;
    int64_t res = result_of(fstat(fd, &about));
    if (res == 0 && S_ISDIR(about.st_mode))
        res = -EISDIR;
    if (res == 0 && S_ISREG(about.st_mode) && (uint64_t)about.st_size > job->len) {
        job->opened = fd;
        return about.st_size;
    }
    if (res == 0)
        res = read_to_end(job, fd, about.st_size > 0 ? (size_t)about.st_size + 1 : WHOLE_LEAST, faults);
    close(fd);
    if (res < 0) {
        free(job->out);
        job->out = NULL;
    }
    return res;
}

static int64_t write_whole(struct file_job *job, struct flexsc_faults *faults)
{
    int fd = (int)open_path(job, job->mode, faults);
    if (fd < 0)
        return fd;
    struct file_job write = {.call = CALL_WRITE, .fd = fd, .addr = (void *)(uintptr_t)job->off, .len = job->len,
                             .off = CALL_HERE};
    int64_t res = 0, moved = 0;
    /* What went before an error is not told: the file is not what was asked for. */
    while (moved < (int64_t)job->len && (res = transfer_one(&write, faults)) > 0) {
        moved += res;
        write.addr = (char *)write.addr + res;
        write.len -= (uint64_t)res;
    }
    if (res >= 0)
        res = moved == (int64_t)job->len ? moved : -EIO;
    /* Some file systems tell only now that there was no room; EINTR means closed all the same. */
    int64_t closed = result_of(close(fd));
    return res >= 0 && closed < 0 && closed != -EINTR ? closed : res;
}

/* The rest of a large file, into memory of its size and some more: if that is filled the file has grown. */
static int64_t read_rest(struct file_job *job, struct flexsc_faults *faults)
{
    struct file_job read = {.call = CALL_READ, .fd = job->fd, .addr = job->addr, .len = job->len, .off = CALL_HERE};
    int64_t n = transfer_one(&read, faults);
    if (n != (int64_t)job->len)
        close(job->fd);
    return n;
}

/* ---- the other calls ---- */

static int64_t advise(const struct file_job *job)
{
    return -posix_fadvise(job->fd, (off_t)job->off, (off_t)job->len, (int)job->call_flags);
}

static int64_t copy_range(const struct file_job *job, struct flexsc_faults *faults)
{
    size_t most = job->len;
    uint32_t kind = faults_file_call(faults, &most);
    if (kind && kind != FAULT_EAGAIN) /* which it never says */
        return -faults_errno(kind);
    int64_t from = (int64_t)job->off, to = (int64_t)(uintptr_t)job->addr;
    return result_of(late_copy_file_range(job->fd, job->off == CALL_HERE ? NULL : &from, (int)job->call_flags,
                                          to == -1 ? NULL : &to, most, 0));
}

static int64_t close_fd(const struct file_job *job)
{
    int64_t res = result_of(close(job->fd));
    return res == -EINTR ? 0 : res; /* it is closed */
}

static int64_t synchronise(const struct file_job *job)
{
    return result_of(job->call_flags & CALL_FSYNC_DATA ? fdatasync(job->fd) : fsync(job->fd));
}

static int64_t make_call(const struct file_job *job, struct flexsc_faults *faults)
{
    const char *path = job->addr, *other = (const char *)(uintptr_t)job->off;
    int fd = job->fd, flags = (int)job->call_flags;
    switch (job->call) {
    case CALL_FSYNC:
        return synchronise(job);
    case CALL_FALLOCATE:
        return result_of(fallocate(fd, (int)job->len, (off_t)job->off, (off_t)(uintptr_t)job->addr));
    case CALL_OPENAT:
        return open_path(job, (uint32_t)job->len, faults);
    case CALL_CLOSE:
        return close_fd(job);
    case CALL_STATX:
        return result_of(late_statx(fd, path, flags, (unsigned)job->len, (struct statx *)(uintptr_t)job->off));
    case CALL_FADVISE:
        return advise(job);
    case CALL_RENAMEAT:
        return result_of(renameat(fd, path, (int)job->len, other));
    case CALL_UNLINKAT:
        return result_of(unlinkat(fd, path, flags));
    case CALL_MKDIRAT:
        return result_of(mkdirat(fd, path, (mode_t)job->len));
    case CALL_SYMLINKAT:
        return result_of(symlinkat(path, fd, other));
    case CALL_LINKAT:
        return result_of(linkat(fd, path, (int)job->len, other, flags));
    case CALL_FTRUNCATE:
        return result_of(ftruncate(fd, (off_t)job->off));
    case CALL_COPY_RANGE:
        return copy_range(job, faults);
    }
    return -ENOSYS;
}

/* The same, unless it has a fault. */
static int64_t make_or_fault(const struct file_job *job, struct flexsc_faults *faults)
{
    bool own = job->call == CALL_CLOSE || job->call == CALL_OPENAT || job->call == CALL_COPY_RANGE;
    uint32_t kind = own ? 0 : faults_other_file_call(faults);
    return kind ? -faults_errno(kind) : make_call(job, faults);
}

void file_job_make(struct file_job *job, struct flexsc_faults *faults)
{
    int tries = 0;
    switch (job->call) {
    case CALL_READ:
    case CALL_WRITE:
        job->res = transfer_one(job, faults);
        break;
    case CALL_READV:
    case CALL_WRITEV:
        job->res = transfer(job, job->addr, (int)job->len, faults);
        break;
    case CALL_READ_WHOLE:
        job->res = read_whole(job, faults);
        break;
    case CALL_READ_REST:
        job->res = read_rest(job, faults);
        break;
    case CALL_WRITE_WHOLE:
        job->res = write_whole(job, faults);
        break;
    default:
        do
            job->res = make_or_fault(job, faults);
        while (job->res == -EINTR && ++tries < TRIES_MOST);
    }
    faults_pause(faults);
}

bool file_job_read_now(struct file_job *job)
{
    struct iovec vector = {job->addr, job->len};
    job->res = late_preadv2(job->fd, &vector, 1, (int64_t)job->off, RWF_NOWAIT);
    return job->res == (int64_t)job->len;
}

void file_job_drop(struct file_job *job)
{
    if (job->call == CALL_OPENAT && job->res >= 0)
        close((int)job->res);
    if (job->call == CALL_READ_WHOLE && job->opened >= 0)
        close(job->opened);
    if (job->call == CALL_READ_REST && job->res == (int64_t)job->len)
        close(job->fd);
    if (job->call == CALL_READ_WHOLE)
        free(job->out);
    job->out = NULL;
    job->opened = -1;
}
