/* Floor 0: one call on a file, made from beginning to end by a thread that may sleep.
 *
 * The fields are those of an entry (calls.h), with lengths of 64 bits.  Nothing here knows of Python or of threads. */
#ifndef FLEXSC_FILE_JOB_H
#define FLEXSC_FILE_JOB_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

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
    int64_t res;    /* result or -errno */
    void *out;      /* READ_WHOLE: the data, malloced */
    int32_t opened; /* READ_WHOLE: of a large file nothing has been read, and this is its fd; else -1 */
};

/* Make the call; job->res is its result or -errno.  READ and READV end early at the end of the file only; WRITE and WRITEV
 * if there is an error, which is the result if nothing has been written. */
void file_job_make(struct file_job *job, struct flexsc_faults *faults);

/* Nobody will look at the result: free what it holds. */
void file_job_drop(struct file_job *job);

#endif
