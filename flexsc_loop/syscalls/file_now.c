/* Floor 0: calls on files that are made at once if they need wait for nobody. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include "file_now.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "faults.h"
#include "late_calls.h"

/* What the headers of a build machine may be too old for. */
enum {
    MOUNT_ID_UNIQUE = 0x4000,   /* STATX_MNT_ID_UNIQUE, since Linux 6.8 */
    MOUNT_ID_AT = 144,          /* of stx_mnt_id in struct statx */
    NR_OPENAT2 = 437,
    RESOLVE_CACHED_ONLY = 0x20, /* RESOLVE_CACHED, since Linux 5.12 */
#if defined(__aarch64__)
    LARGE_FILE = 0400000,       /* O_LARGEFILE, which open(2) has by itself and openat2(2) has not */
#else
    LARGE_FILE = 0100000,
#endif
};

_Static_assert(sizeof(struct statx) == 256 && offsetof(struct statx, stx_dev_minor) == MOUNT_ID_AT - 4, "kernel ABI");

/* struct open_how of openat2(2). */
struct way_to_open {
    uint64_t flags, mode, resolve;
};

/* ---- where a file is ---- */

/* Source: statfs(2). */
static enum file_place place_of(uint32_t type)
{
    switch (type) {
    case 0x01021994: /* tmpfs */
    case 0x858458f6: /* ramfs */
        return FILE_IN_MEMORY;
    case 0xef53:     /* ext2, ext3, ext4 */
    case 0x58465342: /* XFS */
    case 0x9123683e: /* Btrfs */
    case 0xf2f52010: /* F2FS */
    case 0x794c7630: /* overlayfs, of containers */
        return FILE_ON_DISK;
    }
    return FILE_ELSEWHERE;
}

static enum file_place ask_place(int fd)
{
    struct statfs system;
    return fstatfs(fd, &system) == 0 ? place_of((uint32_t)system.f_type) : FILE_ELSEWHERE;
}

enum file_place file_now_place(struct file_mounts *mounts, int fd, struct statx *about)
{
    const unsigned mask = STATX_BASIC_STATS | MOUNT_ID_UNIQUE;
    about->stx_mask = 0;
    if (late_statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, mask, about) < 0)
        return FILE_ELSEWHERE;
    if (!(about->stx_mask & MOUNT_ID_UNIQUE))
        return ask_place(fd); /* another file system may have got the same number meanwhile */
    uint64_t id;
    memcpy(&id, (char *)about + MOUNT_ID_AT, sizeof id);
    for (int i = 0; i < FILE_MOUNTS; i++)
        if (mounts->ids[i] == id)
            return mounts->places[i];
    enum file_place place = ask_place(fd);
    mounts->ids[mounts->next] = id;
    mounts->places[mounts->next] = (uint8_t)place;
    mounts->next = (mounts->next + 1) % FILE_MOUNTS;
    return place;
}

/* ---- faults on demand ---- */

#ifdef FLEXSC_FAULTS

static struct flexsc_faults *now_faults(void)
{
    static _Thread_local struct faults_of_thread mine;
    return faults_refresh(&mine, FAULT_EINTR | FAULT_EAGAIN | FAULT_SHORT);
}

static bool now_refused(void) { return faults_other_file_call(now_faults()) != 0; }

static ssize_t now_read(int fd, struct iovec *vector, off_t off, int flags)
{
    size_t most = vector->iov_len;
    uint32_t kind = faults_file_call(now_faults(), &most);
    if (kind) {
        errno = faults_errno(kind);
        return -1;
    }
    vector->iov_len = most;
    return late_preadv2(fd, vector, 1, off, flags);
}

#else

static bool now_refused(void) { return false; }

static ssize_t now_read(int fd, struct iovec *vector, off_t off, int flags)
{
    return late_preadv2(fd, vector, 1, off, flags);
}

#endif

/* ---- reading ---- */

int file_now_read(struct file_mounts *mounts, int fd, void *addr, size_t len, uint64_t off, bool plain, size_t *moved)
{
    struct statx about;
    *moved = 0;
    for (;;) {
        struct iovec rest = {(char *)addr + *moved, len - *moved};
        ssize_t n = now_read(fd, &rest, (off_t)(off + *moved), plain ? 0 : RWF_NOWAIT);
        if (n > 0)
            *moved += (size_t)n;
        if (n == 0 || *moved == len)
            return 0;
        if (n > 0 || (n < 0 && errno == EINTR))
            continue;
        if (errno != EOPNOTSUPP || plain)
            return -errno;
        plain = file_now_place(mounts, fd, &about) == FILE_IN_MEMORY;
        if (!plain)
            return -EOPNOTSUPP;
    }
}

/* ---- the way to a file ---- */

/* -EAGAIN also stands for all errors. */
static int open_cached(struct file_mounts *mounts, int folder, const char *path, int flags)
{
    struct way_to_open how = {.flags = (unsigned)(flags | O_CLOEXEC | LARGE_FILE), .resolve = RESOLVE_CACHED_ONLY};
    if (mounts->no_cached_open || now_refused())
        return -EAGAIN;
    if (flags & O_PATH)
        how.flags &= ~(uint64_t)LARGE_FILE;
    int fd = (int)syscall(NR_OPENAT2, folder, path, &how, sizeof how);
    if (fd >= 0)
        return fd;
    /* The kernel, or a filter, does not know it. */
    mounts->no_cached_open = (flags & O_PATH) && (errno == ENOSYS || errno == EINVAL || errno == EPERM);
    return -EAGAIN;
}

/* Have the flag that was there for the open alone taken away. */
static int open_regular(struct file_mounts *mounts, int folder, const char *path, int flags)
{
    /* Whoever holds a lease on it is not waited for. */
    int fd = open_cached(mounts, folder, path, flags | O_NONBLOCK);
    if (fd >= 0 && !(flags & O_NONBLOCK))
        fcntl(fd, F_SETFL, flags & O_NOATIME);
    return fd;
}

int file_now_open(struct file_mounts *mounts, int folder, const char *path, int flags, enum file_place *place,
                  struct statx *about)
{
    if (flags & ~(O_CLOEXEC | O_NOFOLLOW | O_NOCTTY | O_NOATIME | O_NONBLOCK | O_LARGEFILE))
        return -EAGAIN;
    /* A FIFO or a device must not be touched to learn what it is. */
    int found = open_cached(mounts, folder, path, O_PATH | (flags & O_NOFOLLOW));
    if (found < 0)
        return found;
    int fd = -EAGAIN;
    *place = file_now_place(mounts, found, about);
    if (*place != FILE_ELSEWHERE && S_ISREG(about->stx_mode))
        fd = open_regular(mounts, folder, path, flags);
    close(found);
    /* The name may have come to another file in between.  A disk's reads ask whether they wait; memory's do not. */
    if (fd >= 0 && *place == FILE_IN_MEMORY)
        *place = file_now_place(mounts, fd, about);
    return fd;
}

int file_now_stat(struct file_mounts *mounts, int folder, const char *path, int flags, struct statx *about)
{
    if (flags == AT_EMPTY_PATH && *path == 0)
        return file_now_place(mounts, folder, about) != FILE_ELSEWHERE ? 0 : -EAGAIN;
    if (flags & ~AT_SYMLINK_NOFOLLOW)
        return -EAGAIN;
    int found = open_cached(mounts, folder, path, O_PATH | (flags ? O_NOFOLLOW : 0));
    if (found < 0)
        return found;
    enum file_place place = file_now_place(mounts, found, about);
    close(found);
    return place != FILE_ELSEWHERE ? 0 : -EAGAIN;
}

int file_now_close(struct file_mounts *mounts, int fd)
{
    struct statx about;
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || (flags & O_ACCMODE) != O_RDONLY)
        return -EAGAIN;
    if (file_now_place(mounts, fd, &about) == FILE_ELSEWHERE || !S_ISREG(about.stx_mode) || about.stx_nlink == 0)
        return -EAGAIN;
    close(fd);
    return 0;
}
