/* Floor 0, private to user_page*: what several layers need of the system: memory, futexes, a pause. */
#ifndef FLEXSC_USER_PAGE_OS_H
#define FLEXSC_USER_PAGE_OS_H

#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "user_page_lists.h"

/* Zeroed memory that a forked child does not inherit.  NULL with errno. */
static inline void *map_memory(size_t size) {
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return NULL;
    if (madvise(memory, size, MADV_DONTFORK) != 0) {
        int error = errno;
        munmap(memory, size);
        errno = error;
        return NULL;
    }
    return memory;
}

static inline struct timespec timespec_of(int64_t ns) {
    return (struct timespec){.tv_sec = ns / 1000000000, .tv_nsec = ns % 1000000000};
}

/* Sleep while *word == value.  0, or -errno: -EAGAIN when it was another value, -ETIMEDOUT, -EINTR.  Both count the
 * system call in `syscalls`. */
static inline int futex_wait(_Atomic uint32_t *word, uint32_t value, int64_t timeout_ns, _Atomic uint64_t *syscalls) {
    count(syscalls);
    struct timespec timeout = timespec_of(timeout_ns);
    long rc = syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, timeout_ns < 0 ? NULL : &timeout, NULL, 0);
    return rc < 0 ? -errno : 0;
}

static inline void futex_wake(_Atomic uint32_t *word, _Atomic uint64_t *syscalls) {
    count(syscalls);
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

static inline void cpu_pause(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb" ::: "memory");
#endif
}

#endif
