/* What a call costs in a batch: plain, and through each kind of page, served on the same core and on another.
 *
 *   batches SERVER_CPU THREAD_CPU ROUNDS    (THREAD_CPU -1: no other core)
 *
 * The call is recv(2) of 64 bytes with MSG_PEEK from a Unix socket in which they lie: a real call that copies and takes
 * a socket's lock, that never has to wait, and that leaves everything as it was, so that all can make it without end and
 * nobody else has to run.  Prints a line of JSON for each sample; all ways take turns. */
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "uring_setup.h"
#include "uring_turn.h"
#include "user_page.h"

enum { WORK_NS = 500 }; /* about what the call takes */
enum { BYTES = 64, BATCH_MOST = 1024, KERNEL_IDLE_MS = 1, RING = 2048, PRIORITY = 10 };
enum { TIMED_CALLS = 64, TIMED = 31, TIMED_ASLEEP = 9, WARM_UPS = 3, ALL_ASLEEP_US = 5000 };
enum { AWAKE_SPIN_NS = 2000000, LOOP_SPIN_NS = 50000, SLEEP_LIMIT_NS = 100000000 };

enum way { PLAIN, KERNEL_SAME, USER_SAME, KERNEL_OTHER, USER_OTHER, KERNEL_ASLEEP, USER_ASLEEP, WAYS };
static const char *const names[WAYS] = {"plain",      "kernel-same",   "user-same",  "kernel-other",
                                        "user-other", "kernel-asleep", "user-asleep"};

static struct {
    int fd;
    int64_t work_ns; /* for each call: what the caller does after posting a batch, and before it looks for results */
    char buffers[BATCH_MOST][BYTES];
    struct uring rings[WAYS];
    struct flexsc_page *pages[WAYS];
    struct flexsc_spin spin;
} all;

static void die(const char *what, int error)
{
    fprintf(stderr, "batches: %s: %s\n", what, strerror(error));
    exit(1);
}

static bool is_kernel(enum way way) { return way == KERNEL_SAME || way == KERNEL_OTHER || way == KERNEL_ASLEEP; }

static void work(int batch)
{
    if (all.work_ns == 0)
        return;
    int64_t end = flexsc_now_ns() + batch * all.work_ns;
    while (flexsc_now_ns() < end)
        spin_relax();
}

static void plain(int batch)
{
    work(batch);
    for (int i = 0; i < batch; i++)
        if (recv(all.fd, all.buffers[i], BYTES, MSG_PEEK) != BYTES)
            die("recv", errno);
}

static void check(const struct flexsc_completion *done, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        if (done[i].res != BYTES)
            die("a call on a page", done[i].res < 0 ? -done[i].res : EIO);
}

static void kernel(struct uring *ring, int batch)
{
    struct flexsc_completion done[64];
    for (int i = 0; i < batch; i++) {
        struct uring_sqe *sqe = uring_next_sqe(ring);
        sqe->opcode = CALL_RECV;
        sqe->fd = all.fd;
        sqe->addr = (uint64_t)(uintptr_t)all.buffers[i];
        sqe->len = BYTES;
        sqe->op_flags = MSG_PEEK;
    }
    int published = uring_polled(ring) ? uring_publish(ring) : 0;
    if (published < 0)
        die("io_uring_enter", -published);
    work(batch);
    for (int left = batch; left > 0;) {
        enum uring_found found;
        int res = uring_polled(ring) ? uring_wait_polled(ring, -1, LOOP_SPIN_NS, &all.spin, &found)
                                     : uring_wait_own(ring, -1, 0, &all.spin);
        if (res < 0 && res != -EINTR)
            die("io_uring_enter", -res);
        for (uint32_t n; (n = uring_reap(ring, done, 64)) > 0; left -= (int)n)
            check(done, n);
    }
}

static void user(struct flexsc_page *page, bool same, int batch)
{
    struct flexsc_completion done[64];
    for (int i = 0; i < batch; i++) {
        struct flexsc_entry *entry = flexsc_entry_take(page);
        if (!entry)
            die("an entry", ENOMEM);
        entry->call = CALL_RECV;
        entry->flags = ENTRY_OWNED;
        entry->fd = all.fd;
        entry->addr = (uint64_t)(uintptr_t)all.buffers[i];
        entry->len = BYTES;
        entry->call_flags = MSG_PEEK;
        entry->user_data = (uint64_t)(uintptr_t)entry;
        flexsc_page_submit(page, entry);
    }
    if (!same)
        flexsc_page_publish(page);
    work(batch);
    for (int left = batch; left > 0;) {
        int res = same ? flexsc_page_serve(page, -1) : flexsc_page_wait(page, -1, LOOP_SPIN_NS, &all.spin);
        if (res < 0 && res != -EINTR)
            die("the user page", -res);
        for (unsigned n; (n = flexsc_page_reap(page, done, 64)) > 0; left -= (int)n) {
            check(done, n);
            for (unsigned i = 0; i < n; i++)
                flexsc_entry_give(page, (struct flexsc_entry *)(uintptr_t)done[i].user_data);
        }
    }
}

static bool sleeps(enum way way)
{
    return is_kernel(way) ? uring_poller_sleeps(&all.rings[way]) : flexsc_page_thread_sleeps(all.pages[way]);
}

static void wait_until_asleep(enum way way)
{
    int64_t end = flexsc_now_ns() + SLEEP_LIMIT_NS;
    while (!sleeps(way) && flexsc_now_ns() < end)
        usleep(50);
}

static void one_batch(enum way way, int batch)
{
    if (way == PLAIN)
        plain(batch);
    else if (is_kernel(way))
        kernel(&all.rings[way], batch);
    else
        user(all.pages[way], way == USER_SAME, batch);
}

static int by_size(const void *one, const void *two)
{
    int64_t a = *(const int64_t *)one, b = *(const int64_t *)two;
    return (a > b) - (a < b);
}

/* Nanoseconds for each call, from its being put on the page until its result has been read.  Small batches are timed
 * several at a time, so that the clock is not what is measured; the median does not see who came between. */
static double sample(enum way way, int batch)
{
    bool asleep = way == KERNEL_ASLEEP || way == USER_ASLEEP;
    int timed = asleep ? TIMED_ASLEEP : TIMED, together = asleep || batch >= TIMED_CALLS ? 1 : TIMED_CALLS / batch;
    int64_t spent[TIMED];
    usleep(ALL_ASLEEP_US);  /* the threads of other ways are, and their CPU is free */
    for (int i = 0; i < WARM_UPS; i++)
        one_batch(way, batch);
    for (int i = 0; i < timed; i++) {
        if (asleep)
            wait_until_asleep(way);
        int64_t start = flexsc_now_ns();
        for (int j = 0; j < together; j++)
            one_batch(way, batch);
        spent[i] = flexsc_now_ns() - start;
    }
    qsort(spent, (size_t)timed, sizeof *spent, by_size);
    return (double)spent[timed / 2] / ((double)together * batch);
}

/* A kernel page may be forbidden here: then it is left out, and says why. */
static bool open_way(enum way way, int thread_cpu)
{
    bool other = way >= KERNEL_OTHER, asleep = way >= KERNEL_ASLEEP;
    int res = 0;
    if (way == PLAIN)
        return true;
    if (other && thread_cpu < 0)
        return false;
    if (is_kernel(way)) {
        uint32_t idle = asleep ? KERNEL_IDLE_MS : AWAKE_SPIN_NS / 1000000;
        res = uring_open(&all.rings[way], RING, 2 * RING, other ? thread_cpu : URING_NO_POLLER, idle, URING_SHARES_NONE);
        if (res == 0)
            res = uring_enable(&all.rings[way]);
    } else {
        all.pages[way] = flexsc_page_open(2 * RING);
        res = all.pages[way] ? 0 : -errno;
        if (res == 0 && other)
            res = flexsc_thread_start(all.pages[way], thread_cpu, asleep ? 0 : AWAKE_SPIN_NS);
    }
    if (res < 0)
        printf("{\"way\":\"%s\",\"error\":\"%s\"}\n", names[way], strerror(-res));
    return res == 0;
}

static void close_way(enum way way)
{
    if (is_kernel(way))
        uring_close(&all.rings[way]);
    else if (way != PLAIN)
        flexsc_page_close(all.pages[way]);
}

static void pin(int cpu)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET((size_t)cpu, &set);
    if (sched_setaffinity(0, sizeof set, &set) < 0)
        die("pinning", errno);
}

/* A sample of each of the first `count` ways that are open. */
static void one_turn(const bool *open, int round, int batch, int64_t work_ns, int count)
{
    all.work_ns = work_ns;
    for (int i = 0; i < count; i++) {
        enum way way = (enum way)(round % 2 ? count - 1 - i : i);
        if (open[way])
            printf("{\"batch\":%d,\"way\":\"%s\",\"work\":%lld,\"ns\":%.1f}\n", batch, names[way],
                   (long long)work_ns, sample(way, batch));
    }
}

/* Where it is permitted, for this thread and those that it starts: nobody else is to be measured. */
static void go_real_time(void)
{
    struct sched_param param = {.sched_priority = PRIORITY};
    if (sched_setscheduler(0, SCHED_FIFO, &param) < 0)
        puts("{\"way\":\"plain\",\"note\":\"without real-time priority (not permitted here; root has it)\"}");
}

int main(int argc, char **argv)
{
    int pair[2];
    bool open[WAYS];
    if (argc != 4) {
        fputs("usage: batches SERVER_CPU THREAD_CPU ROUNDS\n", stderr);
        return 2;
    }
    int rounds = atoi(argv[3]);
    pin(atoi(argv[1]));
    go_real_time();
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair) < 0 || write(pair[1], all.buffers[0], BYTES) != BYTES)
        die("socketpair", errno);
    all.fd = pair[0];
    for (enum way way = PLAIN; way < WAYS; way++)
        open[way] = open_way(way, atoi(argv[2]));
    for (int round = 0; round < rounds; round++)
        for (int batch = 1; batch <= BATCH_MOST; batch *= 2) {
            one_turn(open, round, batch, 0, WAYS);
            one_turn(open, round, batch, WORK_NS, KERNEL_ASLEEP);
        }
    for (enum way way = PLAIN; way < WAYS; way++)
        if (open[way])
            close_way(way);
    return fflush(stdout) == 0 ? 0 : 1;
}
