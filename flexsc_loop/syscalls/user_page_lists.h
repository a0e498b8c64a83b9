/* Floor 0, private to user_page*: counting, and the lists on which the server keeps entries. */
#ifndef FLEXSC_USER_PAGE_LISTS_H
#define FLEXSC_USER_PAGE_LISTS_H

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>

#include "check.h"
#include "user_page_entry.h"

#define HIDDEN __attribute__((visibility("hidden")))
#define CACHE_LINE 64

/* On which list an entry is (its `where`). */
enum where { NOWHERE, IN_FRESH, IN_READERS, IN_WRITERS, IN_POLLERS, IN_SPILL };

static inline void count(_Atomic uint64_t *counter) {
    /* One writer: no need for a locked add. */
    atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + 1, memory_order_relaxed);
}

static inline uint8_t status_of(const struct flexsc_entry *entry) {
    return atomic_load_explicit(&entry->status, memory_order_relaxed);
}

/* The first entry's `prev` is the last one, the last one's `next` is NULL. */
static inline void list_push(struct flexsc_entry **list, struct flexsc_entry *entry, enum where where) {
    struct flexsc_entry *first = *list;
    FLEXSC_CHECK(entry->where == NOWHERE);
    entry->where = (uint8_t)where;
    entry->next = NULL;
    if (first == NULL) {
        entry->prev = entry;
        *list = entry;
    } else {
        entry->prev = first->prev;
        first->prev->next = entry;
        first->prev = entry;
    }
}

static inline void list_remove(struct flexsc_entry **list, struct flexsc_entry *entry) {
    FLEXSC_CHECK(entry->where != NOWHERE && *list != NULL);
    if (*list == entry) {
        *list = entry->next;
        if (entry->next != NULL)
            entry->next->prev = entry->prev;
    } else {
        entry->prev->next = entry->next;
        if (entry->next != NULL)
            entry->next->prev = entry->prev;
        else
            (*list)->prev = entry->prev;
    }
    entry->where = NOWHERE;
}

static inline int32_t sent_so_far(const struct flexsc_entry *entry) {
    return entry->done < INT32_MAX ? (int32_t)entry->done : INT32_MAX;
}

/* The result of an entry that is ended from outside: cancelled, or its fd was closed. */
static inline int32_t cut_short(const struct flexsc_entry *entry) {
    bool sent = (entry->call == CALL_SEND || entry->call == CALL_SENDMSG) && entry->done != 0;
    return sent ? sent_so_far(entry) : -ECANCELED;
}

#endif
