/* Floor 0: one call on a file, made from beginning to end by a thread that may sleep.
 *
 * The fields are those of an entry (calls.h), with lengths of 64 bits.  Nothing here knows of Python or of threads. */
#ifndef FLEXSC_FILE_JOB_H
#define FLEXSC_FILE_JOB_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "calls.h"
#include "faults.h"

enum file_how {
    FILE_ONCE = 1 << 0,   /* READ, WRITE: one system call; else on and on until all is done, an error or the end */
    FILE_SLEEPS = 1 << 1, /* will wait for a device or a peer: it takes no core meanwhile */
    FILE_SPARE = 1 << 2,  /* has no effect but its result: need not be begun if nobody wants that any more */
};

struct file_job {
    struct file_job *next;
    struct file_job **at; /* in the queue: what points to this one */
    uint64_t user_data;
    uint8_t call; /* enum flexsc_call */
    uint8_t how;
    bool queued; /* file_threads' */
    int32_t fd;
    void *addr;
    uint64_t len;
    uint64_t off;
    uint32_t call_flags;
    uint32_t mode;
    uint32_t device; /* READ: the device that has begun it already, and does many at a time; 0: the call begins it */
    int64_t res;    /* result or -errno */
    void *out;      /* READ_WHOLE: the data, malloced */
    int32_t opened; /* READ_WHOLE: of a large file nothing has been read, and this is its fd; else -1 */
};

enum {
    TRANSFER_MOST = 0x7ffff000, /* bytes: the kernel cuts what is longer */
    VECTORS_MOST = 1024,        /* IOV_MAX */
};

static inline bool file_job_writes(const struct file_job *job)
{
    return job->call == CALL_WRITE || job->call == CALL_WRITEV;
}

/* Whether it goes on where it stopped, if it did so early. */
static inline bool file_job_transfers(const struct file_job *job)
{
    return file_job_writes(job) || job->call == CALL_READ || job->call == CALL_READV;
}

/* Whether a transfer at an offset would be refused, as one of a pipe is: a ring takes no notice of the offset then.  Moves
 * nothing, and waits for nobody. */
static inline bool file_job_refused(const struct file_job *job)
{
    if (job->off == CALL_HERE)
        return false;
    return (file_job_writes(job) ? pwritev(job->fd, NULL, 0, (off_t)job->off) : preadv(job->fd, NULL, 0, (off_t)job->off)) < 0;
}

/* Leave out of the vectors what has been moved.  Returns how many vectors are done with. */
static inline uint64_t file_vectors_skip(struct iovec *vectors, uint64_t count, size_t moved)
{
    uint64_t done = 0;
    while (done < count && moved >= vectors[done].iov_len)
        moved -= vectors[done++].iov_len;
    if (moved && done < count) {
        vectors[done].iov_base = (char *)vectors[done].iov_base + moved;
        vectors[done].iov_len -= moved;
    }
    return done;
}

/* So many bytes of a transfer have been moved: leave the rest to be done.  Whether there is one. */
static inline bool file_job_moved(struct file_job *job, uint64_t moved)
{
    uint64_t done = moved;
    if (job->off != CALL_HERE)
        job->off += moved;
    if (job->call == CALL_READV || job->call == CALL_WRITEV) {
        done = file_vectors_skip(job->addr, job->len, moved);
        job->addr = (struct iovec *)job->addr + done;
    } else {
        job->addr = (char *)job->addr + done;
    }
    job->len -= done;
    return job->len != 0;
}

/* Make the call; job->res is its result or -errno.  READ and READV end early at the end of the file only; WRITE and WRITEV
 * if there is an error, which is the result if nothing has been written. */
void file_job_make(struct file_job *job, struct flexsc_faults *faults);

/* The same for a READ if all of it is in the page cache.  False: it is still to be made. */
bool file_job_read_now(struct file_job *job);

/* Nobody will look at the result: free what it holds. */
void file_job_drop(struct file_job *job);

#endif
