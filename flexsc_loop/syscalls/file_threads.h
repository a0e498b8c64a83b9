/* Floor 0: syscall threads for calls that may sleep: those on files.
 *
 * In FlexSC a page has as many syscall threads as entries, and one of them is active per core: when it blocks, the next takes
 * over.  Here likewise: a thread takes one job at a time; as many jobs are being done as there are cores, besides those that are
 * known to sleep, and those that are seen to: who makes no progress and uses no CPU does not count.  Threads are started only when
 * they are needed, and end after some idleness.  They hold no lock of the interpreter's and call nothing of it.
 *
 * Reads that a device has begun already (file_job.device) need no thread each: one waits for all of a device's, for an eighth of
 * them at a time, so that the owner is woken once for many where there are many, and nobody waits much longer than by himself.
 * When one takes very long, those that come later, and those behind it, get a thread each as any other job.
 *
 * Two sides: one owner (the loop's thread) queues jobs and takes results; the threads do the rest.  A job belongs to the threads
 * from file_threads_queue() until it is among the results or was withdrawn. */
#ifndef FLEXSC_FILE_THREADS_H
#define FLEXSC_FILE_THREADS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "file_job.h"

/* What the owner looks at between two calls. */
struct file_results {
    _Atomic(struct file_job *) newest;
};

struct file_threads;

/* cores: how many jobs that do not sleep are done at a time, 0: as many as this thread may use.  most: how many threads there
 * may be.  idle_ms: they end after so much idleness.  NULL with errno when there is no memory. */
struct file_threads *file_threads_open(unsigned cores, unsigned most, unsigned idle_ms);

/* From now on `ring(arg)` is called, by any thread, when there are results where there were none; NULL: nothing is called, and
 * when this returns nobody is in the former `ring` any more. */
void file_threads_set_bell(struct file_threads *threads, void (*ring)(void *), void *arg);

/* Have a job done.  0, or -errno when there is no thread and none can be started. */
int file_threads_queue(struct file_threads *threads, struct file_job *job);

/* Take a job back that nobody has begun.  Whether that was so; if not, its result comes. */
bool file_threads_withdraw(struct file_threads *threads, struct file_job *job);

struct file_results *file_threads_results(struct file_threads *threads);

static inline bool file_results_there(const struct file_results *results)
{
    return atomic_load_explicit(&results->newest, memory_order_relaxed) != NULL;
}

/* All jobs that are done, those done first first. */
struct file_job *file_threads_take(struct file_threads *threads);

/* How many threads there are now. */
unsigned file_threads_count(struct file_threads *threads);

/* How many faults there have been, where there are any (faults.h). */
uint64_t file_threads_faults(struct file_threads *threads);

/* Wait until all that was queued is done and the threads have ended, for no longer than patience_ns.  Whether that was so.  The
 * results are still to be taken, and then file_threads_free() called. */
bool file_threads_close(struct file_threads *threads, int64_t patience_ns);

/* The last that the owner does, after file_threads_close(): results that were not taken are dropped.
 *
 * If threads have not ended, what is queued is done all the same, as long as the process lives; the results are dropped, and with
 * the last one `threads` itself.  The jobs, and what they point to, must stay where they are for ever. */
void file_threads_free(struct file_threads *threads);

#endif
