/* Floor 3: numbers that are given again: each one is the least, from 1, that nobody has.  In C, since one is given back
 * where a loop dies, also at the end of a program, when there is no Python left to call. */
#ifndef FLEXSC_NUMBERS_H
#define FLEXSC_NUMBERS_H

#include <stdint.h>
#include <stdlib.h>

struct flexsc_numbers {
    uint64_t *taken; /* number N is bit N - 1 */
    uint32_t words;
};

/* 0 when there is no memory. */
static inline uint32_t numbers_take(struct flexsc_numbers *numbers)
{
    uint32_t word = 0;
    while (word < numbers->words && numbers->taken[word] == UINT64_MAX)
        word++;
    if (word == numbers->words) {
        uint64_t *taken = realloc(numbers->taken, (word + 1) * sizeof *taken);
        if (!taken)
            return 0;
        taken[word] = 0;
        *numbers = (struct flexsc_numbers){taken, word + 1};
    }
    uint32_t bit = (uint32_t)__builtin_ctzll(~numbers->taken[word]);
    numbers->taken[word] |= UINT64_C(1) << bit;
    return word * 64 + bit + 1;
}

static inline void numbers_give(struct flexsc_numbers *numbers, uint32_t number)
{
    numbers->taken[(number - 1) / 64] &= ~(UINT64_C(1) << (number - 1) % 64);
}

#endif
