/* Floor 0: assertions for builds that test: they are compiled in with -DFLEXSC_CHECKS, and are nothing otherwise.
 *
 * What the filler of an entry promises, its server asserts, and back. */
#ifndef FLEXSC_CHECK_H
#define FLEXSC_CHECK_H

#ifdef FLEXSC_CHECKS

#include <stdio.h>
#include <stdlib.h>

#define FLEXSC_CHECK(condition) ((condition) ? (void)0 : flexsc_check_failed(#condition, __FILE__, __LINE__))

static inline void flexsc_check_failed(const char *condition, const char *file, int line)
{
    fprintf(stderr, "%s:%d: this does not hold: %s\n", file, line, condition);
    abort();
}

#else

/* Neither evaluated nor unused. */
#define FLEXSC_CHECK(condition) ((void)sizeof(!(condition)))

#endif

#endif
