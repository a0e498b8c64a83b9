/* Floor 0: an entry of a user page, and what a page counts: what both sides and all layers of a page share. */
#ifndef FLEXSC_USER_PAGE_ENTRY_H
#define FLEXSC_USER_PAGE_ENTRY_H

#include <stdatomic.h>
#include <stdint.h>

#include "calls.h"

enum flexsc_status { ENTRY_FREE, ENTRY_SUBMITTED, ENTRY_BUSY, ENTRY_DONE };

/* One call: number, arguments, status.  Its result is posted as a completion.  One cache line. */
struct flexsc_entry {
    uint8_t call;           /* enum flexsc_call */
    uint8_t flags;          /* ENTRY_* */
    _Atomic uint8_t status; /* enum flexsc_status */
    uint8_t where;          /* server: on which list the entry is */
    int32_t fd;
    uint64_t addr;
    uint64_t off;
    uint32_t len;
    uint32_t call_flags;
    uint64_t user_data;
    uint64_t done;             /* server: bytes sent so far */
    struct flexsc_entry *next; /* list of submitted, parked, ready or free entries */
    struct flexsc_entry *prev; /* server: makes removal from a parked or ready list O(1) */
};

_Static_assert(sizeof(struct flexsc_entry) == 64, "an entry is one cache line");

/* What the page has counted since it was opened.  Each field has one writer; the loop's and the server's lie on
 * different cache lines. */
struct flexsc_counters {
    _Alignas(64) _Atomic uint64_t submitted; /* loop: entries */
    _Atomic uint64_t batches;                /* loop: publishes that carried at least one entry */
    _Atomic uint64_t loop_syscalls;          /* system calls made by the loop's thread, all of them */
    _Atomic uint64_t wakeups;                /* loop: times that it woke the sleeping thread */
    _Atomic uint64_t helps;                  /* loop: times that it made calls which the thread had not begun */
    _Alignas(64) _Atomic uint64_t completions; /* server */
    _Atomic uint64_t server_syscalls;          /* system calls made by the pinned thread */
    _Atomic uint64_t pool_empty;               /* server: receives that ended with ENOBUFS */
    _Atomic uint64_t overflows; /* server: times that it had to hold work back, the completion ring being full */
};

#endif
