/* Floor 3: a first-in-first-out queue of pointers that grows as needed. */
#ifndef FLEXSC_QUEUE_H
#define FLEXSC_QUEUE_H

#include <stdbool.h>
#include <stdlib.h>

struct flexsc_queue {
    void **items; /* a ring of mask + 1 places */
    size_t head, tail, mask;
};

static inline size_t queue_count(const struct flexsc_queue *queue)
{
    return queue->tail - queue->head;
}

static inline bool queue_grow(struct flexsc_queue *queue)
{
    size_t count = queue_count(queue);
    size_t room = queue->items ? 2 * (queue->mask + 1) : 256;
    void **items = malloc(room * sizeof *items);
    if (!items)
        return false;
    for (size_t i = 0; i < count; i++)
        items[i] = queue->items[(queue->head + i) & queue->mask];
    free(queue->items);
    *queue = (struct flexsc_queue){items, 0, count, room - 1};
    return true;
}

/* False when there is no memory. */
static inline bool queue_push(struct flexsc_queue *queue, void *item)
{
    if (!queue->items || queue_count(queue) > queue->mask)
        if (!queue_grow(queue))
            return false;
    queue->items[queue->tail++ & queue->mask] = item;
    return true;
}

/* The item `ahead` places behind the first one. */
static inline void *queue_peek(const struct flexsc_queue *queue, size_t ahead)
{
    return queue->items[(queue->head + ahead) & queue->mask];
}

/* Take the first item; the queue must not be empty. */
static inline void *queue_pop(struct flexsc_queue *queue)
{
    return queue->items[queue->head++ & queue->mask];
}

static inline void queue_free(struct flexsc_queue *queue)
{
    free(queue->items);
    *queue = (struct flexsc_queue){0};
}

#endif
