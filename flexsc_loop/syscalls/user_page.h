/* Floor 0: the user page.  Entries and completions in our own memory, and the engine that serves them.
 *
 * Owns: the entries, the completion ring, an epoll instance, the pinned thread.  Knows nothing of Python.
 *
 * Two sides touch a page.  The *loop* (producer) takes entries, fills, submits and publishes them, and reaps
 * completions.  The *server* makes the calls.  It is the loop's own thread inside flexsc_page_serve(), or a
 * pinned thread.  One page has one loop and one server at a time.
 *
 * An entry's status goes FREE -> SUBMITTED (loop) -> BUSY (server) -> DONE (server) -> FREE (loop), as in the
 * FlexSC paper, section 3.1.  The loop gives the entry back when it has reaped its last completion: the one
 * without COMPLETION_MORE.
 *
 * All calls are made without blocking.  One that would block is parked on its fd until epoll reports the fd
 * ready.  Sends go on until everything has been sent (or an error comes), however often the socket is full.
 *
 * The engine is made of layers, each of which calls only those below it:
 *   user_page_loop.c     the loop's side: entries, publishing, waiting, cancelling
 *   user_page_thread.c   the pinned thread
 *   user_page_service.c  one pass of whoever serves; the guard
 *   user_page_calls.c    making the calls
 *   user_page_fds.c      who waits on which fd; epoll
 *   user_page_results.c  completions, and waking the loop */
#ifndef FLEXSC_USER_PAGE_H
#define FLEXSC_USER_PAGE_H

#include <stdbool.h>
#include <stdint.h>

#include "calls.h"
#include "spin.h"
#include "user_page_entry.h"

struct flexsc_page;

/* Open a page whose completion ring has `completions` slots (a power of two).  NULL with errno on failure.
 * The memory is not inherited over fork (MADV_DONTFORK), the fds are close-on-exec. */
struct flexsc_page *flexsc_page_open(unsigned completions);

/* Stop the thread if there is one, free everything.  Fds of entries stay open: they are the loop's.
 * In a forked child this closes the child's copies of the page's fds, and is all that may be called there. */
void flexsc_page_close(struct flexsc_page *page);

/* The pool for ENTRY_POOL: `slots` (a power of two) places at `ring`.  Call before the first receive. */
void flexsc_page_set_pool(struct flexsc_page *page, struct flexsc_pool_slot *ring, unsigned slots);

/* Likewise the pool that a multishot CALL_RECVMSG takes its buffers from; call before the first of them. */
void flexsc_page_set_datagram_pool(struct flexsc_page *page, struct flexsc_pool_slot *ring, unsigned slots);

/* ---- the loop's side ---- */

/* A FREE entry, zeroed but for its status; NULL when there is no memory.  More memory is taken as needed. */
struct flexsc_entry *flexsc_entry_take(struct flexsc_page *page);

/* Give back a DONE entry (or one taken and never submitted). */
void flexsc_entry_give(struct flexsc_page *page, struct flexsc_entry *entry);

/* Add a filled entry to those that the next publish hands over.  The server sees nothing yet. */
void flexsc_page_submit(struct flexsc_page *page, struct flexsc_entry *entry);

/* Hand all submitted entries to the server, in order.  Wakes the pinned thread only if it sleeps. */
void flexsc_page_publish(struct flexsc_page *page);

/* Whether there is a pinned thread and it sleeps, as far as a look without a barrier tells. */
bool flexsc_page_thread_sleeps(const struct flexsc_page *page);

/* Whether the server has begun all published entries. */
bool flexsc_page_all_begun(const struct flexsc_page *page);

/* With a pinned thread, which may have to wait for its CPU: begin what has been published and it has not begun, in its
 * order and up to so many calls as the thread makes at once, unless it is at work just now.  Whether that was done.
 * It touches what is the server's only: others may submit meanwhile. */
bool flexsc_page_help(struct flexsc_page *page);

/* Wait until a completion is there, or flexsc_page_wake() was called since the last wait, or the time is
 * over: `timeout_ns` 0 never sleeps, -1 sleeps without limit.  Looks for up to `spin_ns` before it sleeps.  The own
 * thread publishes, makes the calls, asks epoll, posts completions and sleeps in epoll; if it is to look, it only looks,
 * and `spin` learns from that.  With a pinned thread it helps after looking in vain, and sleeps on a futex; others may
 * submit meanwhile.
 * Returns 0, or -EINTR when a signal ended the sleep, or another -errno of epoll_wait. */
int flexsc_page_wait(struct flexsc_page *page, int64_t timeout_ns, int64_t spin_ns, struct flexsc_spin *spin);

/* For how long the loop has slept meanwhile for a pinned thread that did not get its CPU, since this was asked last. */
int64_t flexsc_page_starved_ns(struct flexsc_page *page);

/* Publish, and the same without looking first. */
int flexsc_page_serve(struct flexsc_page *page, int64_t timeout_ns);

/* End a sleep of the loop in flexsc_page_wait(), now or the next one.  Any thread. */
void flexsc_page_wake(struct flexsc_page *page);

/* Copy up to `most` completions out and advance the head.  Returns how many. */
unsigned flexsc_page_reap(struct flexsc_page *page, struct flexsc_completion *out, unsigned most);

/* Whether flexsc_page_reap() would return any. */
bool flexsc_page_has_completions(const struct flexsc_page *page);

/* End `entry` before this function returns: it will not touch its fd or its memory afterwards, and its last completion
 * is there to be reaped: the call's result if it was DONE already, else -ECANCELED or the number of bytes already sent.
 * Only a completion that does not fit into the ring is posted later: by the server, or by another cancel_now of the
 * same entry after a reap.  For fds that others may close; for an owned fd a CALL_CANCEL entry does the same without
 * waiting for the pinned thread.  An entry that was not published yet is published by this, and so are those before
 * it. */
void flexsc_page_cancel_now(struct flexsc_page *page, struct flexsc_entry *entry);

/* Close an owned fd on which nothing is in flight, here and now: a pinned thread may have to wait for its CPU.  False: it
 * is at work just now, and whoever closes hands it a CALL_CLOSE. */
bool flexsc_page_close_fd(struct flexsc_page *page, int fd);

/* ---- the pinned thread ---- */

/* Start the thread on `cpu` (-1: no pinning).  It blocks all signals.  It looks for work for `spin_ns` after the last
 * piece of work, then sleeps.  Returns 0 or -errno, e.g. -EINVAL for a CPU that does not exist.  Does not wait for the
 * thread to run: it may be started and stopped at any time between two waits. */
int flexsc_thread_start(struct flexsc_page *page, int cpu, int64_t spin_ns);

/* Stop and join the thread.  What it has not served stays on the page. */
void flexsc_thread_stop(struct flexsc_page *page);

/* CPU time in nanoseconds of the page's thread so far, those stopped earlier included; its thread id (0: none, or it has
 * not run yet). */
int64_t flexsc_thread_cpu_ns(const struct flexsc_page *page);
int flexsc_thread_id(const struct flexsc_page *page);

const struct flexsc_counters *flexsc_page_counters(const struct flexsc_page *page);

/* How many system calls a test has had fail (faults.h). */
uint64_t flexsc_page_faults(const struct flexsc_page *page);

#endif
