/* Floor 0: calls on files that are made at once if they need wait for nobody: no disk, no network, no other process.
 *
 * Reads ask the kernel (RWF_NOWAIT), and so does the way to a file (RESOLVE_CACHED).  What the kernel has no flag for is made
 * where it is known to wait for nobody: on file systems that are named in file_now.c.
 *
 * -EAGAIN means everywhere: nothing has been done, let somebody make the call who may sleep. */
#ifndef FLEXSC_FILE_NOW_H
#define FLEXSC_FILE_NOW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct statx;

enum file_place {
    FILE_ELSEWHERE, /* a network, a process, a device: whatever is not known */
    FILE_ON_DISK,
    FILE_IN_MEMORY, /* refuses RWF_NOWAIT, though nothing there waits */
};

enum { FILE_MOUNTS = 8 };

/* What is known of file systems; zeroed at first.  One thread uses it. */
struct file_mounts {
    uint64_t ids[FILE_MOUNTS]; /* that the kernel never gives twice */
    uint8_t places[FILE_MOUNTS];
    uint8_t next;
    bool no_cached_open;
};

/* Where an open file is; fills *about, as of now if nobody has to be asked for that.  An error leaves its stx_mask 0. */
enum file_place file_now_place(struct file_mounts *mounts, int fd, struct statx *about);

/* Read until `len` bytes are there, the file ends or one would have to wait.  *moved says how many there are.  0, -EAGAIN
 * (with what was moved), -EOPNOTSUPP where the kernel can't tell whether one has to wait, or another -errno.  plain: the file is
 * known to be FILE_IN_MEMORY. */
int file_now_read(struct file_mounts *mounts, int fd, void *addr, size_t len, uint64_t off, bool plain, size_t *moved);

/* Open a regular file for reading; gives its descriptor, or -EAGAIN.  Errors are left to who may sleep.  *place and *about tell
 * where it is and what; on a disk they are of the name a moment before. */
int file_now_open(struct file_mounts *mounts, int folder, const char *path, int flags, enum file_place *place,
                  struct statx *about);

/* 0 or -EAGAIN.  flags: AT_*. */
int file_now_stat(struct file_mounts *mounts, int folder, const char *path, int flags, struct statx *about);

/* Close a regular file that was opened for reading and has a name still: nothing is written, nothing freed.  0 or -EAGAIN. */
int file_now_close(struct file_mounts *mounts, int fd);

#endif
