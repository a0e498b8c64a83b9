/* Floor 0: system calls that C libraries have not had for long, made by their numbers.
 *
 * What is compiled with a new library has to run on the oldest that a wheel promises: musl has had statx, preadv2 and
 * pwritev2 since 1.2.5 only, and glibc since 2.28 and 2.26; copy_file_range glibc has had since 2.27, and gettid since 2.30. */
#ifndef FLEXSC_LATE_CALLS_H
#define FLEXSC_LATE_CALLS_H

#include <stdint.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

_Static_assert(sizeof(long) == 8, "an offset is one argument, and what follows it counts for nothing");

struct statx;

/* Source: readv(2). */
static inline ssize_t late_preadv2(int fd, const struct iovec *vectors, int count, int64_t off, int flags)
{
    return syscall(SYS_preadv2, fd, vectors, count, off, 0L, flags);
}

static inline ssize_t late_pwritev2(int fd, const struct iovec *vectors, int count, int64_t off, int flags)
{
    return syscall(SYS_pwritev2, fd, vectors, count, off, 0L, flags);
}

/* Source: copy_file_range(2). */
static inline ssize_t late_copy_file_range(int from, int64_t *from_off, int to, int64_t *to_off, size_t size,
                                           unsigned flags)
{
    return syscall(SYS_copy_file_range, from, from_off, to, to_off, size, flags);
}

/* Source: statx(2). */
static inline int late_statx(int folder, const char *path, int flags, unsigned mask, struct statx *about)
{
    return (int)syscall(SYS_statx, folder, path, flags, mask, about);
}

/* Source: gettid(2). */
static inline int late_gettid(void)
{
    return (int)syscall(SYS_gettid);
}

#endif
