/* File threads: every job is done once, few threads for what is quick, one more for each that sleeps, none left at the end. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "../../flexsc_loop/syscalls/file_threads.h"

enum { MOST = 64, SECOND_NS = 1000000000 };

static int passed, failed;
static bool sound;

#define CHECK(condition)                                                     \
    do {                                                                     \
        if (!(condition)) {                                                  \
            printf("FAILED %s, line %d: %s\n", __func__, __LINE__, #condition); \
            sound = false;                                                   \
        }                                                                    \
    } while (0)

static unsigned rounds(unsigned count)
{
    const char *divisor = getenv("ROUNDS_DIVISOR");
    unsigned by = divisor ? (unsigned)atoi(divisor) : 1;
    return count / by ? count / by : 1;
}

/* ---- the owner's side ---- */

static sem_t rung;

static void ring(void *arg)
{
    (void)arg;
    sem_post(&rung);
}

static struct file_threads *opened(unsigned cores, unsigned most)
{
    struct file_threads *threads = file_threads_open(cores, most, 50);
    CHECK(threads != NULL);
    while (sem_trywait(&rung) == 0) {
    }
    file_threads_set_bell(threads, ring, NULL);
    return threads;
}

/* All results that come until there are `count` of them, in a list.  The bell has to ring for each new list. */
static struct file_job *await_results(struct file_threads *threads, unsigned count)
{
    struct file_job *all = NULL, **end = &all;
    while (count) {
        sem_wait(&rung);
        *end = file_threads_take(threads);
        for (; *end; end = &(*end)->next)
            count--;
    }
    return all;
}

static void close_well(struct file_threads *threads)
{
    CHECK(file_threads_close(threads, 20ll * SECOND_NS));
    CHECK(!file_results_there(file_threads_results(threads)));
    file_threads_free(threads);
}

static struct file_job stat_job(uint64_t number, struct statx *about)
{
    return (struct file_job){.call = CALL_STATX, .fd = AT_FDCWD, .addr = "/", .len = STATX_BASIC_STATS,
                             .off = (uint64_t)(uintptr_t)about, .user_data = number, .opened = -1};
}

static struct file_job read_job(int fd, char *byte, uint64_t number)
{
    return (struct file_job){.call = CALL_READ, .fd = fd, .addr = byte, .len = 1, .off = CALL_HERE,
                             .how = FILE_ONCE | FILE_SLEEPS | FILE_SPARE, .user_data = number, .opened = -1};
}

/* ---- tests ---- */

static void each_job_is_done_once(void)
{
    unsigned count = rounds(20000);
    struct file_threads *threads = opened(2, MOST);
    struct file_job *jobs = calloc(count, sizeof *jobs);
    struct statx *abouts = calloc(count, sizeof *abouts);
    for (unsigned i = 0; i < count; i++) {
        jobs[i] = stat_job(i, &abouts[i]);
        CHECK(file_threads_queue(threads, &jobs[i]) == 0);
    }
    unsigned char *seen = calloc(count, 1);
    for (struct file_job *job = await_results(threads, count); job; job = job->next) {
        CHECK(job->res == 0 && !seen[job->user_data]++);
        CHECK(S_ISDIR(abouts[job->user_data].stx_mode));
    }
    /* They do not sleep: as many threads as cores do them, and perhaps one that looks on.  A busy machine may have one
     * seem asleep that only waits for its core. */
    CHECK(file_threads_count(threads) < MOST);
    close_well(threads);
    free(jobs);
    free(abouts);
    free(seen);
}

static void who_sleeps_is_not_waited_for(void)
{
    enum { SLEEPERS = 16 };
    struct file_threads *threads = opened(1, MOST);
    struct file_job sleeping[SLEEPERS], quick;
    struct statx about;
    char bytes[SLEEPERS];
    int pipes[SLEEPERS][2];
    for (int i = 0; i < SLEEPERS; i++) {
        CHECK(pipe2(pipes[i], O_CLOEXEC) == 0);
        sleeping[i] = read_job(pipes[i][0], &bytes[i], (uint64_t)i);
        /* Half of them do not say that they sleep: that has to be seen. */
        if (i % 2)
            sleeping[i].how &= (uint8_t)~FILE_SLEEPS;
        CHECK(file_threads_queue(threads, &sleeping[i]) == 0);
    }
    quick = stat_job(SLEEPERS, &about);
    CHECK(file_threads_queue(threads, &quick) == 0);
    CHECK(await_results(threads, 1) == &quick && quick.res == 0);
    for (int i = 0; i < SLEEPERS; i++)
        CHECK(write(pipes[i][1], "x", 1) == 1);
    for (struct file_job *job = await_results(threads, SLEEPERS); job; job = job->next)
        CHECK(job->res == 1 && bytes[job->user_data] == 'x');
    close_well(threads);
    for (int i = 0; i < SLEEPERS; i++) {
        close(pipes[i][0]);
        close(pipes[i][1]);
    }
}

static void what_nobody_has_begun_can_be_withdrawn(void)
{
    int ends[2];
    char bytes[2];
    struct statx about;
    struct file_threads *threads = opened(1, 1);
    CHECK(pipe2(ends, O_CLOEXEC) == 0);
    struct file_job first = read_job(ends[0], &bytes[0], 1), second = read_job(ends[0], &bytes[1], 2);
    struct file_job last = stat_job(3, &about);
    CHECK(file_threads_queue(threads, &first) == 0);
    CHECK(file_threads_queue(threads, &second) == 0);
    CHECK(file_threads_queue(threads, &last) == 0);
    /* The one thread there is has begun the first, or will. */
    CHECK(file_threads_withdraw(threads, &second));
    CHECK(!file_threads_withdraw(threads, &second));
    CHECK(write(ends[1], "x", 1) == 1);
    struct file_job *done = await_results(threads, 2);
    CHECK(done == &first && done->next == &last && first.res == 1);
    CHECK(!file_threads_withdraw(threads, &first));
    close_well(threads);
    close(ends[0]);
    close(ends[1]);
}

static void withdrawn_or_done_never_both(void)
{
    unsigned count = rounds(5000), withdrawn = 0;
    struct file_threads *threads = opened(2, MOST);
    struct file_job *jobs = calloc(count, sizeof *jobs);
    struct statx *abouts = calloc(count, sizeof *abouts);
    unsigned char *gone = calloc(count, 1);
    for (unsigned i = 0; i < count; i++) {
        jobs[i] = stat_job(i, &abouts[i]);
        CHECK(file_threads_queue(threads, &jobs[i]) == 0);
        unsigned other = i / 2;
        if (!gone[other] && file_threads_withdraw(threads, &jobs[other]))
            gone[other] = 1, withdrawn++;
    }
    for (struct file_job *job = await_results(threads, count - withdrawn); job; job = job->next)
        CHECK(!gone[job->user_data]++);
    close_well(threads);
    free(jobs);
    free(abouts);
    free(gone);
}

static void the_end_of_one_who_is_stuck(void)
{
    /* What belongs to the threads stays where it is for ever: neither memory nor descriptors on this stack. */
    static struct file_job stuck, queued;
    static char bytes[2];
    static int ends[2];
    struct file_threads *threads = opened(1, 1);
    CHECK(pipe2(ends, O_CLOEXEC) == 0);
    stuck = read_job(ends[0], &bytes[0], 1);
    queued = (struct file_job){.call = CALL_OPENAT, .fd = AT_FDCWD, .addr = "/dev/null", .call_flags = O_RDONLY, .opened = -1};
    CHECK(file_threads_queue(threads, &stuck) == 0);
    CHECK(file_threads_queue(threads, &queued) == 0);
    CHECK(!file_threads_close(threads, 1000000));
    CHECK(file_threads_take(threads) == NULL);
    file_threads_free(threads);
    /* It gets on, then does what is queued, drops both results, and goes.  main() sees that no thread and no fd is left. */
    CHECK(write(ends[1], "x", 1) == 1);
}

static void closing_waits_for_what_is_queued(void)
{
    char path[] = "/tmp/flexsc-file-threads-XXXXXX";
    int fd = mkstemp(path);
    CHECK(fd >= 0);
    enum { WRITES = 200 };
    static struct file_job jobs[WRITES];
    struct file_threads *threads = opened(2, MOST);
    for (int i = 0; i < WRITES; i++) {
        jobs[i] = (struct file_job){.call = CALL_WRITE, .fd = fd, .addr = "0123456789", .len = 10,
                                    .off = (uint64_t)i * 10, .opened = -1};
        CHECK(file_threads_queue(threads, &jobs[i]) == 0);
    }
    CHECK(file_threads_close(threads, 20ll * SECOND_NS));
    int count = 0;
    for (struct file_job *job = file_threads_take(threads); job; job = job->next)
        count += job->res == 10;
    CHECK(count == WRITES && lseek(fd, 0, SEEK_END) == WRITES * 10);
    file_threads_free(threads);
    close(fd);
    unlink(path);
}

static void idle_threads_end(void)
{
    struct statx about;
    struct file_threads *threads = opened(2, MOST);
    struct file_job job = stat_job(0, &about);
    CHECK(file_threads_queue(threads, &job) == 0);
    await_results(threads, 1);
    while (file_threads_count(threads)) /* the alarm ends this */
        sched_yield();
    CHECK(file_threads_queue(threads, &job) == 0);
    await_results(threads, 1);
    close_well(threads);
}

/* ---- what is left ---- */

enum { FILE_BYTES = 4096 };

static int numbered_file(void)
{
    char bytes[FILE_BYTES];
    for (int i = 0; i < FILE_BYTES; i++)
        bytes[i] = (char)(i % 251);
    FILE *file = tmpfile();
    CHECK(file && fwrite(bytes, 1, sizeof bytes, file) == sizeof bytes && fflush(file) == 0);
    int fd = dup(fileno(file));
    fclose(file);
    return fd;
}

static struct file_job begun_job(int fd, char *byte, uint64_t number, uint32_t device)
{
    return (struct file_job){.call = CALL_READ, .fd = fd, .addr = byte, .len = 1, .off = number % FILE_BYTES,
                             .device = device, .how = FILE_SLEEPS | FILE_SPARE, .user_data = number, .opened = -1};
}

/* Each thread waits for all reads of a device, and no read is lost when there are too many devices or reads. */
static void one_waits_for_what_a_device_has_begun(void)
{
    enum { BEGUN = 120, TOO_MANY = 1000 };
    static struct file_job jobs[TOO_MANY];
    static char bytes[TOO_MANY];
    int fd = numbered_file();
    for (uint32_t devices = 1; devices <= 64; devices *= 4) {
        struct file_threads *threads = opened(2, MOST);
        unsigned count = devices < 8 ? BEGUN : TOO_MANY;
        for (unsigned i = 0; i < count; i++) {
            bytes[i] = -1;
            jobs[i] = begun_job(fd, &bytes[i], i, 1 + i % devices);
            CHECK(file_threads_queue(threads, &jobs[i]) == 0);
        }
        CHECK(devices > 8 || file_threads_count(threads) <= devices);
        for (struct file_job *job = await_results(threads, count); job; job = job->next)
            CHECK(job->res == 1 && bytes[job->user_data] == (char)(job->user_data % FILE_BYTES % 251));
        close_well(threads);
    }
    close(fd);
}

static void what_a_device_has_begun_can_be_withdrawn(void)
{
    enum { BEGUN = 100 };
    struct file_threads *threads = opened(1, 1);
    struct file_job waiting, jobs[BEGUN];
    char byte, bytes[BEGUN];
    int fd = numbered_file(), pipe[2];
    CHECK(pipe2(pipe, O_CLOEXEC) == 0);
    waiting = read_job(pipe[0], &byte, BEGUN);
    CHECK(file_threads_queue(threads, &waiting) == 0);
    /* There is but one thread, and it sleeps or is about to, unless it takes what comes next: then that is done. */
    unsigned done = 1;
    for (unsigned i = 0; i < BEGUN; i++) {
        jobs[i] = begun_job(fd, &bytes[i], i, 1);
        CHECK(file_threads_queue(threads, &jobs[i]) == 0);
    }
    for (unsigned i = 0; i < BEGUN; i += 2)
        done += !file_threads_withdraw(threads, &jobs[i]);
    CHECK(write(pipe[1], "x", 1) == 1);
    for (struct file_job *job = await_results(threads, done + BEGUN / 2); job; job = job->next)
        CHECK(job->res == 1);
    close_well(threads);
    close(pipe[0]);
    close(pipe[1]);
    close(fd);
}

/* Those that come later, and those behind it, get threads of their own. */
static void one_that_takes_long_holds_no_others_up(void)
{
    enum { BEGUN = 12 };
    struct file_threads *threads = opened(2, MOST);
    struct file_job stuck, jobs[BEGUN];
    char byte, bytes[BEGUN];
    int fd = numbered_file(), pipe[2];
    CHECK(pipe2(pipe, O_CLOEXEC) == 0);
    stuck = read_job(pipe[0], &byte, BEGUN);
    stuck.device = 1;
    CHECK(file_threads_queue(threads, &stuck) == 0);
    for (unsigned i = 0; i < BEGUN; i++) {
        if (i == BEGUN - 1) {
            struct timespec long_enough = {.tv_nsec = 200000000};
            nanosleep(&long_enough, NULL);
        }
        jobs[i] = begun_job(fd, &bytes[i], i, 1);
        CHECK(file_threads_queue(threads, &jobs[i]) == 0);
    }
    for (struct file_job *job = await_results(threads, BEGUN); job; job = job->next)
        CHECK(job->res == 1 && job->user_data < BEGUN);
    CHECK(write(pipe[1], "x", 1) == 1);
    CHECK(await_results(threads, 1)->user_data == BEGUN);
    close_well(threads);
    close(pipe[0]);
    close(pipe[1]);
    close(fd);
}

static int entries_of(const char *folder)
{
    int count = 0;
    DIR *entries = opendir(folder);
    while (readdir(entries))
        count++;
    closedir(entries);
    return count;
}

static void *nothing(void *arg) { return arg; }

/* ThreadSanitizer has a thread of its own, from the first one on. */
static void begin_threads(void)
{
    pthread_t first;
    pthread_create(&first, NULL, nothing, NULL);
    pthread_join(first, NULL);
}

static void run(const char *name, void (*test)(void))
{
    int fds = entries_of("/proc/self/fd"), threads = entries_of("/proc/self/task");
    sound = true;
    test();
    bool stuck = test == the_end_of_one_who_is_stuck;
    while (entries_of("/proc/self/task") > threads) /* detached ones need a moment to be gone */
        sched_yield();
    sound = sound && entries_of("/proc/self/fd") == fds + 2 * stuck;
    printf("%s: %s\n", name, sound ? "ok" : "FAILED");
    sound ? passed++ : failed++;
}

int main(void)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    alarm(90);
    sem_init(&rung, 0, 0);
    begin_threads();
    run("each job is done once", each_job_is_done_once);
    run("who sleeps is not waited for", who_sleeps_is_not_waited_for);
    run("what nobody has begun can be withdrawn", what_nobody_has_begun_can_be_withdrawn);
    run("withdrawn or done, never both", withdrawn_or_done_never_both);
    run("the end of one who is stuck", the_end_of_one_who_is_stuck);
    run("closing waits for what is queued", closing_waits_for_what_is_queued);
    run("idle threads end", idle_threads_end);
    run("one waits for what a device has begun", one_waits_for_what_a_device_has_begun);
    run("what a device has begun can be withdrawn", what_a_device_has_begun_can_be_withdrawn);
    run("one that takes long holds no others up", one_that_takes_long_holds_no_others_up);
    printf("%d passed, %d failed\n", passed, failed);
    return failed != 0;
}
