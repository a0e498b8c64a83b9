/* What the C tests share: checks, a little loop over a user page, sockets.
 *
 * Each test of a page runs in own-thread and in pinned mode.  All run under an alarm, and must leave no fd and no thread
 * behind. */
#ifndef USER_PAGE_RIG_H
#define USER_PAGE_RIG_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../../flexsc_loop/syscalls/user_page.h"

enum mode { OWN, PINNED, PINNED_SLEEPY, MODES };
static const char *const mode_names[MODES] = {"own thread", "pinned", "pinned, sleeps at once"};

static jmp_buf test_over;
static pthread_t main_thread;
static char test_name[120];
static _Atomic int helper_failures;

#define CHECK(condition, ...)                                                  \
    do {                                                                       \
        if (!(condition)) {                                                    \
            printf("FAILED %s, line %d: %s: ", test_name, __LINE__, #condition); \
            printf(__VA_ARGS__);                                               \
            printf("\n");                                                      \
            fflush(stdout);                                                    \
            if (pthread_equal(pthread_self(), main_thread))                    \
                longjmp(test_over, 1);                                         \
            helper_failures++;                                                 \
        }                                                                      \
    } while (0)

/* ---- a little loop ---- */

struct rig;

/* One operation: its address is the entry's user_data. */
struct op {
    struct flexsc_entry *entry; /* NULL when its last completion has come */
    int32_t res;                /* of the newest completion */
    uint32_t flags;
    int completions;
    void (*on_completion)(struct rig *rig, struct op *op);
    void *owner;
};

struct rig {
    struct flexsc_page *page;
    enum mode mode;
    int64_t loop_spin_ns; /* with it, OWN mode does not sleep */
    struct flexsc_spin spin;
    struct flexsc_pool_slot *slots;
    unsigned slot_count;
    uint32_t buffer_size;
    char *buffers;
    unsigned reap_most;
};

static inline int64_t rig_now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static inline int rig_start_thread(struct rig *rig) {
    return flexsc_thread_start(rig->page, -1, rig->mode == PINNED_SLEEPY ? 0 : 50000);
}

static inline struct rig rig_open(enum mode mode, unsigned completions) {
    struct rig rig = {.mode = mode, .reap_most = 64, .loop_spin_ns = mode == PINNED ? 5000 : 0};
    rig.page = flexsc_page_open(completions);
    CHECK(rig.page != NULL, "open: %s", strerror(errno));
    if (mode != OWN) {
        int rc = rig_start_thread(&rig);
        CHECK(rc == 0, "thread: %s", strerror(-rc));
    }
    return rig;
}

/* The thread has begun to run: what was submitted may be done before, by the loop. */
static inline int rig_thread_id(struct rig *rig) {
    while (flexsc_thread_id(rig->page) == 0)
        sched_yield();
    return flexsc_thread_id(rig->page);
}

static uint64_t rig_faults; /* calls that a test build has had fail */

static inline void rig_close(struct rig *rig) {
    rig_faults += flexsc_page_faults(rig->page);
    flexsc_page_close(rig->page);
    free(rig->slots);
    free(rig->buffers);
}

static inline char *rig_buffer(struct rig *rig, uint32_t flags) {
    return rig->buffers + (size_t)(flags >> COMPLETION_BUFFER_SHIFT) * rig->buffer_size;
}

static inline void rig_give_buffer(struct rig *rig, unsigned id) {
    uint16_t tail = __atomic_load_n(&rig->slots[0].tail, __ATOMIC_RELAXED);
    struct flexsc_pool_slot *slot = &rig->slots[tail & (rig->slot_count - 1)];
    slot->addr = (uint64_t)(uintptr_t)(rig->buffers + (size_t)id * rig->buffer_size);
    slot->len = rig->buffer_size;
    slot->id = (uint16_t)id;
    __atomic_store_n(&rig->slots[0].tail, (uint16_t)(tail + 1), __ATOMIC_RELEASE);
}

static inline void rig_pool(struct rig *rig, unsigned slots, uint32_t size) {
    rig->slots = calloc(slots, sizeof *rig->slots);
    rig->buffers = malloc((size_t)slots * size);
    rig->slot_count = slots;
    rig->buffer_size = size;
    flexsc_page_set_pool(rig->page, rig->slots, slots);
    for (unsigned i = 0; i < slots; i++)
        rig_give_buffer(rig, i);
}

/* An entry for `op`, to be filled further and submitted. */
static inline struct flexsc_entry *rig_entry(struct rig *rig, struct op *op, uint8_t call, int fd, uint8_t flags) {
    CHECK(op->entry == NULL, "the operation is still under way");
    struct flexsc_entry *entry = flexsc_entry_take(rig->page);
    CHECK(entry != NULL, "no memory");
    op->entry = entry;
    op->completions = 0;
    entry->call = call;
    entry->fd = fd;
    entry->flags = flags;
    entry->off = call == CALL_READ || call == CALL_WRITE ? UINT64_MAX : 0;
    entry->user_data = (uint64_t)(uintptr_t)op;
    return entry;
}

static inline void rig_submit(struct rig *rig, struct op *op, uint8_t call, int fd, uint8_t flags, const void *addr,
                              uint32_t len, uint32_t call_flags) {
    struct flexsc_entry *entry = rig_entry(rig, op, call, fd, flags);
    entry->addr = (uint64_t)(uintptr_t)addr;
    entry->len = len;
    entry->call_flags = call_flags;
    flexsc_page_submit(rig->page, entry);
}

static inline void rig_submit_cancel(struct rig *rig, struct op *op, struct op *target) {
    struct flexsc_entry *entry = rig_entry(rig, op, CALL_CANCEL, -1, 0);
    entry->addr = (uint64_t)(uintptr_t)target;
    entry->off = (uint64_t)(uintptr_t)target->entry;
    flexsc_page_submit(rig->page, entry);
}

static inline void rig_dispatch(struct rig *rig, const struct flexsc_completion *completion) {
    struct op *op = (struct op *)(uintptr_t)completion->user_data;
    CHECK(op != NULL && op->entry != NULL, "a completion (%d) for nothing that is under way", completion->res);
    op->res = completion->res;
    op->flags = completion->flags;
    op->completions++;
    if (!(completion->flags & COMPLETION_MORE)) {
        uint8_t status = atomic_load_explicit(&op->entry->status, memory_order_relaxed);
        CHECK(status == ENTRY_DONE, "status %d at the last completion", status);
        flexsc_entry_give(rig->page, op->entry);
        op->entry = NULL;
    }
    if (op->on_completion != NULL)
        op->on_completion(rig, op);
}

static inline unsigned rig_reap(struct rig *rig) {
    struct flexsc_completion completions[64];
    unsigned n = flexsc_page_reap(rig->page, completions, rig->reap_most);
    for (unsigned i = 0; i < n; i++)
        rig_dispatch(rig, &completions[i]);
    return n;
}

/* One turn; the number of completions. */
static inline unsigned rig_turn(struct rig *rig, int64_t timeout_ns) {
    flexsc_page_publish(rig->page);
    int rc = flexsc_page_wait(rig->page, timeout_ns, rig->loop_spin_ns, &rig->spin);
    CHECK(rc == 0, "the wait failed: %s", strerror(-rc));
    return rig_reap(rig);
}

/* Turns until `op` has ended. */
static inline int32_t rig_await(struct rig *rig, struct op *op) {
    while (op->entry != NULL)
        rig_turn(rig, -1);
    return op->res;
}

/* Turns until `op` has had so many completions. */
static inline void rig_await_count(struct rig *rig, struct op *op, int completions) {
    while (op->completions < completions)
        rig_turn(rig, -1);
}

/* `op` ends with `res`. */
static inline void expect(struct rig *rig, struct op *op, int32_t res) {
    int32_t got = rig_await(rig, op);
    CHECK(got == res, "completed with %d, not %d", got, res);
}

static inline void close_by_entry(struct rig *rig, int fd) {
    struct op op = {0};
    rig_submit(rig, &op, CALL_CLOSE, fd, ENTRY_OWNED, NULL, 0, 0);
    expect(rig, &op, 0);
}

/* Let everything happen that can happen now. */
static inline void rig_calm(struct rig *rig) {
    int64_t end = rig_now_ns() + (rig->mode == OWN ? 0 : 3000000);
    int quiet = 0;
    while (quiet < 3 || rig_now_ns() < end)
        quiet = rig_turn(rig, rig->mode == OWN ? 0 : 500000) == 0 ? quiet + 1 : 0;
}

/* ---- sockets ---- */

static inline void make_pair(int type, int fds[2]) {
    CHECK(socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, fds) == 0, "%s", strerror(errno));
}

static inline int tcp_listen(struct sockaddr_in *address, int backlog) {
    socklen_t size = sizeof *address;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    *address = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    CHECK(fd >= 0 && bind(fd, (struct sockaddr *)address, size) == 0 && listen(fd, backlog) == 0 &&
              getsockname(fd, (struct sockaddr *)address, &size) == 0,
          "%s", strerror(errno));
    return fd;
}

/* fds[0]: accepted, fds[1]: connected. */
static inline void make_tcp_pair(int fds[2]) {
    struct sockaddr_in address;
    int listener = tcp_listen(&address, 8);
    int one = 1;
    fds[1] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK(connect(fds[1], (struct sockaddr *)&address, sizeof address) == 0, "%s", strerror(errno));
    fds[0] = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    CHECK(fds[0] >= 0, "%s", strerror(errno));
    setsockopt(fds[0], IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(fds[1], IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    close(listener);
}

static inline uint32_t next_random(uint32_t *state) {
    uint32_t x = *state;
    x ^= x << 13;
    x ^= x >> 17;
    x ^= x << 5;
    return *state = x;
}

/* Byte `at` of stream `seed`: what is received is compared with this. */
static inline char stream_byte(uint32_t seed, size_t at) {
    uint64_t x = (at + 1) * 0x9e3779b97f4a7c15u + seed * 0xbf58476d1ce4e5b9u;
    return (char)(x >> 40 ^ x >> 17);
}

static inline void stream_fill(char *out, uint32_t seed, size_t from, size_t n) {
    for (size_t i = 0; i < n; i++)
        out[i] = stream_byte(seed, from + i);
}

static inline bool stream_matches(const char *in, uint32_t seed, size_t from, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (in[i] != stream_byte(seed, from + i))
            return false;
    return true;
}

/* ---- running tests ---- */

/* Sanitizers slow things down by an order of magnitude: fewer rounds then. */
static inline int rounds(int plain) {
    const char *divisor = getenv("ROUNDS_DIVISOR");
    int n = plain / (divisor != NULL ? atoi(divisor) : 1);
    return n > 10 ? n : 10;
}

static inline void linger_for(uint32_t pauses) {
    for (volatile uint32_t i = 0; i < pauses; i++)
        ;
}

static int count_dir(const char *path) {
    int n = 0;
    DIR *dir = opendir(path);
    while (dir != NULL && readdir(dir) != NULL)
        n++;
    closedir(dir);
    return n;
}

static inline int count_threads(void) { return count_dir("/proc/self/task"); }

static void on_alarm(int signal_number) {
    (void)signal_number;
    ssize_t rc = write(1, "HANGS ", 6);
    rc = write(1, test_name, strlen(test_name));
    rc = write(1, "\n", 1);
    (void)rc;
    _exit(3);
}

struct test {
    const char *name;
    void (*run)(enum mode mode);
    unsigned modes; /* 1 << enum mode */
};

#define IN_ALL_MODES 7u
#define IN_PINNED_MODES 6u

static inline bool run_test(const struct test *test, enum mode mode) {
    snprintf(test_name, sizeof test_name, "%s (%s)", test->name, mode_names[mode]);
    volatile int fds = count_dir("/proc/self/fd");
    volatile int threads = count_threads();
    int64_t start = rig_now_ns();
    helper_failures = 0;
    alarm(40);
    if (setjmp(test_over) != 0)
        return false;
    test->run(mode);
    alarm(0);
    CHECK(helper_failures == 0, "a helper thread failed");
    CHECK(count_dir("/proc/self/fd") == fds, "%d fds before, %d after", fds, count_dir("/proc/self/fd"));
    /* A joined thread may still be listed for a moment. */
    for (int i = 0; i < 1000 && count_threads() != threads; i++)
        usleep(1000);
    CHECK(count_threads() == threads, "%d threads before, %d after", threads, count_threads());
    if (getenv("VERBOSE") != NULL)
        printf("%6.0f ms  %s\n", (double)(rig_now_ns() - start) / 1e6, test_name);
    return true;
}

static void *nothing(void *argument) { return argument; }

static inline int run_tests(const struct test *tests, size_t count, const char *only) {
    int passed = 0, failed = 0;
    main_thread = pthread_self();
    setvbuf(stdout, NULL, _IOLBF, 0);
    signal(SIGALRM, on_alarm);
    signal(SIGPIPE, SIG_IGN);
    /* The sanitizers' own threads start with our first one: before anything is counted. */
    pthread_t thread;
    pthread_create(&thread, NULL, nothing, NULL);
    pthread_join(thread, NULL);
    usleep(20000);
    for (size_t i = 0; i < count; i++)
        for (enum mode mode = OWN; mode < MODES; mode++)
            if ((tests[i].modes & 1u << mode) && (only == NULL || strstr(tests[i].name, only) != NULL))
                *(run_test(&tests[i], mode) ? &passed : &failed) += 1;
    if (getenv("FLEXSC_FAULTS") != NULL && rig_faults == 0) {
        printf("FAILED: no fault has come\n");
        failed++;
    }
    printf("%d passed, %d failed\n", passed, failed);
    return failed != 0;
}

#define MAIN(tests)                                                                            \
    int main(int argc, char **argv) {                                                          \
        return run_tests(tests, sizeof tests / sizeof tests[0], argc > 1 ? argv[1] : NULL); \
    }

#endif
