/* Log-linear histogram of nanoseconds (as HdrHistogram): 128 buckets for each power of two, 0.8 % wide at most. */
#ifndef FLEXSC_LOAD_HISTOGRAM_H
#define FLEXSC_LOAD_HISTOGRAM_H

#include <stdint.h>

#define HIST_BITS 7
#define HIST_SUB (1u << HIST_BITS)
#define HIST_BUCKETS (HIST_SUB * (64 - HIST_BITS + 1))

struct histogram {
    uint64_t count, sum, min, max;
    uint64_t buckets[HIST_BUCKETS];
};

static inline uint32_t hist_index(uint64_t value)
{
    if (value < HIST_SUB)
        return (uint32_t)value;
    uint32_t shift = (uint32_t)(63 - __builtin_clzll(value)) - HIST_BITS;
    return (shift << HIST_BITS) + (uint32_t)(value >> shift);
}

/* The middle of a bucket. */
static inline uint64_t hist_value(uint32_t index)
{
    if (index < 2 * HIST_SUB)
        return index;
    uint32_t shift = (index >> HIST_BITS) - 1;
    uint64_t low = (uint64_t)(HIST_SUB + (index & (HIST_SUB - 1))) << shift;
    return low + ((1ull << shift) >> 1);
}

static inline void hist_add(struct histogram *h, uint64_t value)
{
    if (h->count == 0 || value < h->min)
        h->min = value;
    if (value > h->max)
        h->max = value;
    h->count++;
    h->sum += value;
    h->buckets[hist_index(value)]++;
}

/* The value that `share` (0..1) of all values do not exceed; 0 for an empty histogram. */
static inline uint64_t hist_quantile(const struct histogram *h, double share)
{
    uint64_t wanted = (uint64_t)(share * (double)h->count + 0.5), seen = 0;
    if (wanted < 1)
        wanted = 1;
    for (uint32_t i = 0; i < HIST_BUCKETS; i++) {
        seen += h->buckets[i];
        if (seen >= wanted) {
            uint64_t value = hist_value(i);
            return value > h->max ? h->max : value < h->min ? h->min : value;
        }
    }
    return h->max;
}

#endif
