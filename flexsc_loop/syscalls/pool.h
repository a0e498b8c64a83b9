/* Floor 0: the pool of receive buffers that one page shares with whoever serves it.
 *
 * A page has one for streams and, once there is a datagram endpoint, another one with larger buffers.
 *
 * Owns: one mapping with the ring of slots in front and the buffers behind it.  Receives take buffers only when data
 * has come, so idle connections hold none.  At first few buffers circulate, so that they stay in the cache;
 * the pool hands out more each time that it ran empty. */
#ifndef FLEXSC_POOL_H
#define FLEXSC_POOL_H

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "calls.h"

struct flexsc_pool {
    struct flexsc_pool_slot *ring;
    char *buffers;
    size_t size; /* of the mapping */
    uint32_t slots, buffer_size;
    uint32_t circulating; /* buffers that have been handed out so far */
    uint16_t tail;
};

static inline int pool_open(struct flexsc_pool *pool, uint32_t slots, uint32_t buffer_size)
{
    size_t ring_size = (slots * sizeof(struct flexsc_pool_slot) + 4095) & ~(size_t)4095;
    memset(pool, 0, sizeof *pool);
    pool->size = ring_size + (size_t)slots * buffer_size;
    void *memory = mmap(NULL, pool->size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return -errno;
    madvise(memory, pool->size, MADV_DONTFORK);
    pool->ring = memory;
    pool->buffers = (char *)memory + ring_size;
    pool->slots = slots;
    pool->buffer_size = buffer_size;
    return 0;
}

/* Memory for what is touched only: most buffers hold much less than they could. */
static inline void pool_keep_small(struct flexsc_pool *pool)
{
    madvise(pool->ring, pool->size, MADV_NOHUGEPAGE);
}

static inline void pool_close(struct flexsc_pool *pool)
{
    if (pool->ring)
        munmap(pool->ring, pool->size);
    pool->ring = NULL;
}

static inline char *pool_buffer(const struct flexsc_pool *pool, uint32_t id)
{
    return pool->buffers + (size_t)id * pool->buffer_size;
}

/* Put a buffer back.  The server sees it after the next pool_publish(). */
static inline void pool_give(struct flexsc_pool *pool, uint16_t id)
{
    struct flexsc_pool_slot *slot = &pool->ring[pool->tail & (pool->slots - 1)];
    slot->addr = (uint64_t)(uintptr_t)pool_buffer(pool, id);
    slot->len = pool->buffer_size;
    slot->id = id;
    pool->tail++;
}

static inline void pool_publish(struct flexsc_pool *pool)
{
    /* Release: the slots are complete before the tail covers them. */
    __atomic_store_n(&pool->ring[0].tail, pool->tail, __ATOMIC_RELEASE);
}

/* Start over with an empty ring and all circulating buffers in it: for a new server that has taken none yet. */
static inline void pool_reset(struct flexsc_pool *pool)
{
    uint32_t circulating = pool->circulating;
    pool->tail = 0;
    for (uint32_t id = 0; id < circulating; id++)
        pool_give(pool, (uint16_t)id);
    pool_publish(pool);
}

/* Let more buffers circulate: twice as many as now, `least` at least.  Returns whether there were any left. */
static inline int pool_grow(struct flexsc_pool *pool, uint32_t least)
{
    uint32_t wanted = pool->circulating * 2 > least ? pool->circulating * 2 : least;
    if (wanted > pool->slots)
        wanted = pool->slots;
    int grew = wanted > pool->circulating;
    while (pool->circulating < wanted)
        pool_give(pool, (uint16_t)pool->circulating++);
    if (grew)
        pool_publish(pool);
    return grew;
}

#endif
