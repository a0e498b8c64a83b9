/* Floor 3: a binary heap of timers, the earliest on top; equal deadlines leave in the order in which they came. */
#ifndef FLEXSC_TIMERS_H
#define FLEXSC_TIMERS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

struct flexsc_timer {
    double when; /* seconds of CLOCK_MONOTONIC */
    uint64_t order;
    void *handle;
};

struct flexsc_timers {
    struct flexsc_timer *heap;
    size_t count, room;
    uint64_t next_order;
};

static inline bool timer_before(const struct flexsc_timer *a, const struct flexsc_timer *b)
{
    return a->when < b->when || (a->when == b->when && a->order < b->order);
}

static inline void timers_sift_up(struct flexsc_timers *timers, size_t at)
{
    struct flexsc_timer moving = timers->heap[at];
    while (at > 0) {
        size_t parent = (at - 1) / 2;
        if (!timer_before(&moving, &timers->heap[parent]))
            break;
        timers->heap[at] = timers->heap[parent];
        at = parent;
    }
    timers->heap[at] = moving;
}

static inline void timers_sift_down(struct flexsc_timers *timers, size_t at)
{
    struct flexsc_timer moving = timers->heap[at];
    for (;;) {
        size_t child = 2 * at + 1;
        if (child >= timers->count)
            break;
        if (child + 1 < timers->count && timer_before(&timers->heap[child + 1], &timers->heap[child]))
            child++;
        if (!timer_before(&timers->heap[child], &moving))
            break;
        timers->heap[at] = timers->heap[child];
        at = child;
    }
    timers->heap[at] = moving;
}

/* False when there is no memory. */
static inline bool timers_push(struct flexsc_timers *timers, double when, void *handle)
{
    if (timers->count == timers->room) {
        size_t room = timers->room ? timers->room * 2 : 64;
        struct flexsc_timer *heap = realloc(timers->heap, room * sizeof *heap);
        if (!heap)
            return false;
        timers->heap = heap;
        timers->room = room;
    }
    timers->heap[timers->count] = (struct flexsc_timer){when, timers->next_order++, handle};
    timers_sift_up(timers, timers->count++);
    return true;
}

/* Take the earliest off the heap, which must not be empty. */
static inline void *timers_pop(struct flexsc_timers *timers)
{
    void *handle = timers->heap[0].handle;
    timers->heap[0] = timers->heap[--timers->count];
    if (timers->count)
        timers_sift_down(timers, 0);
    return handle;
}

/* Restore the order after entries have been taken out of the middle. */
static inline void timers_rebuild(struct flexsc_timers *timers)
{
    for (size_t at = timers->count / 2; at-- > 0;)
        timers_sift_down(timers, at);
}

static inline void timers_free(struct flexsc_timers *timers)
{
    free(timers->heap);
    timers->heap = NULL;
    timers->count = timers->room = 0;
}

#endif
