/* Floor 0: syscall threads for calls that may sleep. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include "file_threads.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "check.h"

enum {
    STACK_BYTES = 256 * 1024,
    LOOK_LEAST_NS = 100000,  /* the watcher looks so often whether those at work get on, */
    LOOK_MOST_NS = 2000000,  /* and each time half as often as long as they do */
    USED_MOST_NS = 20000,    /* who has used no more CPU time between two looks sleeps */
    DEVICES = 8,             /* whose reads are waited for together */
    BEGUN_MOST = 128,        /* reads of a device that wait so, */
    BATCH_PART = 8,          /* and the part of them that is waited for at a time */
    BATCH_MOST = BEGUN_MOST / BATCH_PART,
    HELD_NS = 100000,        /* results are held back no longer than that */
    STUCK_NS = 50000000,     /* a read that takes longer holds no others up that come later */
};

enum worker_state {
    WORKER_CALLED,   /* woken, or started, and not there yet */
    WORKER_HERE,     /* about to look at the queue */
    WORKER_IDLE,
    WORKER_WATCHING,
    WORKER_WORKING,  /* takes a core */
    WORKER_SLEEPING, /* in a job that takes none */
};

struct worker {
    struct worker *next;     /* in the list of all */
    struct worker *idle;     /* in that of the idle, who came last first */
    struct file_threads *threads;
    pthread_t thread;
    pthread_cond_t called;
    enum worker_state state;
    uint64_t jobs;           /* begun */
    uint64_t jobs_seen;      /* by the watcher */
    int64_t used_ns;         /* CPU time then */
    struct flexsc_faults faults;
};

struct queue {
    struct file_job *oldest, **end;
    size_t count;
};

/* Reads that it has begun. */
struct device {
    uint32_t number;
    bool attended;           /* a worker waits for them */
    int64_t waits_since;     /* for those that it waits for now */
    struct queue begun;
};

struct file_threads {
    pthread_mutex_t lock;    /* of all that follows, but for the bell's */
    pthread_cond_t ended;
    struct queue queue;
    struct device devices[DEVICES];
    struct worker *all, *idle, *watcher;
    unsigned cores, most, idle_ms;
    unsigned count;          /* threads */
    unsigned called;         /* of them, woken or started, and not there yet */
    unsigned working;
    bool ending;             /* end when there is nothing to do */
    bool abandoned;          /* nobody takes results any more */
    uint64_t faults;         /* that those who work have met */
    struct file_results results;

    pthread_mutex_t bell_lock;
    void (*ring)(void *);
    void *arg;
};

static int64_t now_ns(clockid_t clock)
{
    struct timespec now;
    return clock_gettime(clock, &now) == 0 ? now.tv_sec * 1000000000ll + now.tv_nsec : 0;
}

static void init_timed_cond(pthread_cond_t *cond)
{
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(cond, &monotonic);
    pthread_condattr_destroy(&monotonic);
}

/* With the lock held.  0 or ETIMEDOUT. */
static int timed_wait(struct file_threads *threads, pthread_cond_t *cond, int64_t ns)
{
    int64_t until = now_ns(CLOCK_MONOTONIC) + ns;
    struct timespec deadline = {.tv_sec = until / 1000000000, .tv_nsec = until % 1000000000};
    return pthread_cond_timedwait(cond, &threads->lock, &deadline);
}

static int64_t cpu_ns_of(pthread_t thread)
{
    clockid_t clock;
    return pthread_getcpuclockid(thread, &clock) == 0 ? now_ns(clock) : 0;
}

/* ---- queues; with the lock held ---- */

static void init_queue(struct queue *queue) { queue->end = &queue->oldest; }

static void push(struct queue *queue, struct file_job *job)
{
    job->next = NULL;
    job->at = queue->end;
    job->queued = true;
    *queue->end = job;
    queue->end = &job->next;
    queue->count++;
}

static void take_out(struct queue *queue, struct file_job *job)
{
    *job->at = job->next;
    if (job->next)
        job->next->at = job->at;
    else
        queue->end = job->at;
    job->queued = false;
    queue->count--;
}

/* Where its reads are waited for, or one that is free; NULL: nowhere. */
static struct device *device_of(struct file_threads *threads, uint32_t number)
{
    struct device *unused = NULL;
    for (struct device *device = threads->devices; device < threads->devices + DEVICES; device++) {
        bool used = device->attended || device->begun.count;
        if (used && device->number == number)
            return device;
        if (!used)
            unused = device;
    }
    if (unused)
        unused->number = number;
    return unused;
}

static bool stuck(const struct device *device)
{
    return device->attended && now_ns(CLOCK_MONOTONIC) - device->waits_since > STUCK_NS;
}

/* Its reads need a thread each after all. */
static void give_up(struct file_threads *threads, struct device *device)
{
    while (device->begun.count) {
        struct file_job *job = device->begun.oldest;
        take_out(&device->begun, job);
        job->device = 0;
        push(&threads->queue, job);
    }
}

static void push_anywhere(struct file_threads *threads, struct file_job *job)
{
    struct device *device = job->device ? device_of(threads, job->device) : NULL;
    if (device && stuck(device)) {
        give_up(threads, device);
        device = NULL;
    }
    if (!device || device->begun.count >= BEGUN_MOST)
        job->device = 0;
    push(job->device ? &device->begun : &threads->queue, job);
}

static void take_out_anywhere(struct file_threads *threads, struct file_job *job)
{
    take_out(job->device ? &device_of(threads, job->device)->begun : &threads->queue, job);
}

/* One with reads that nobody waits for. */
static struct device *unattended(struct file_threads *threads)
{
    for (struct device *device = threads->devices; device < threads->devices + DEVICES; device++)
        if (device->begun.count && !device->attended)
            return device;
    return NULL;
}

/* Whether one more may begin what is next in the queue, those counted who have been called for it. */
static bool may_begin(const struct file_threads *threads, unsigned called)
{
    const struct file_job *next = threads->queue.oldest;
    return next && ((next->how & FILE_SLEEPS) || threads->working + called < threads->cores);
}

/* ---- who works; with the lock held ---- */

static void *work(void *arg);

static int hire(struct file_threads *threads)
{
    struct worker *worker = calloc(1, sizeof *worker);
    pthread_attr_t attributes;
    sigset_t all, before;
    if (!worker)
        return -ENOMEM;
    worker->threads = threads;
    init_timed_cond(&worker->called);
    faults_open(&worker->faults);
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(&worker->thread, &attributes, work, worker);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    if (error) {
        pthread_cond_destroy(&worker->called);
        faults_close(&worker->faults);
        free(worker);
        return -error;
    }
    worker->next = threads->all;
    threads->all = worker;
    threads->count++;
    threads->called++;
    return 0;
}

/* Have one more thread look at the queue. */
static int call_one(struct file_threads *threads)
{
    struct worker *worker = threads->idle;
    if (worker)
        threads->idle = worker->idle;
    else if (threads->watcher)
        worker = threads->watcher;
    else
        return threads->count < threads->most ? hire(threads) : 0;
    if (worker == threads->watcher)
        threads->watcher = NULL;
    worker->state = WORKER_CALLED;
    threads->called++;
    pthread_cond_signal(&worker->called);
    return 0;
}

/* See to it that what is queued gets done: by those at work, by one more, or by the watcher when they are stuck. */
static int see_to_queue(struct file_threads *threads)
{
    if (!threads->called && unattended(threads))
        return call_one(threads);
    if (threads->queue.count <= threads->called)
        return 0;
    if (may_begin(threads, threads->called) || (!threads->watcher && !threads->called))
        return call_one(threads);
    return 0;
}

/* Whether a worker sleeps in its call: it has been at it for a whole look and used no CPU. */
static bool sleeps(struct worker *worker)
{
    int64_t used = cpu_ns_of(worker->thread);
    bool same = worker->jobs == worker->jobs_seen;
    bool idle = used - worker->used_ns <= USED_MOST_NS;
    worker->jobs_seen = worker->jobs;
    worker->used_ns = used;
    return same && idle;
}

/* Whether somebody at work was found asleep, and counts no longer. */
static bool find_sleepers(struct file_threads *threads)
{
    bool found = false;
    for (struct worker *worker = threads->all; worker; worker = worker->next)
        if (worker->state == WORKER_WORKING && sleeps(worker)) {
            worker->state = WORKER_SLEEPING;
            threads->working--;
            found = true;
        }
    return found;
}

/* Somebody has called this worker, who is here now. */
static void come(struct file_threads *threads, struct worker *me)
{
    FLEXSC_CHECK(me->state == WORKER_CALLED && threads->called > 0);
    threads->called--;
    me->state = WORKER_HERE;
}

/* There is something to do, but enough are at it: look whether they get on, until one does not or there is nothing left. */
static void watch(struct file_threads *threads, struct worker *me)
{
    int64_t pause = LOOK_LEAST_NS;
    threads->watcher = me;
    me->state = WORKER_WATCHING;
    find_sleepers(threads); /* remembers where they are */
    while (threads->queue.oldest && !may_begin(threads, threads->called)) {
        timed_wait(threads, &me->called, pause);
        if (me->state == WORKER_CALLED) {
            come(threads, me);
            return;
        }
        if (find_sleepers(threads))
            break;
        pause = 2 * pause < LOOK_MOST_NS ? 2 * pause : LOOK_MOST_NS;
    }
    threads->watcher = NULL;
    me->state = WORKER_HERE;
}

static void leave_idle(struct file_threads *threads, struct worker *me)
{
    struct worker **at = &threads->idle;
    while (*at != me)
        at = &(*at)->idle;
    *at = me->idle;
    me->state = WORKER_HERE;
}

/* Wait to be called.  False: there was nothing to do for long, or there will not be. */
static bool idle(struct file_threads *threads, struct worker *me)
{
    int waited = 0;
    me->state = WORKER_IDLE;
    me->idle = threads->idle;
    threads->idle = me;
    while (me->state == WORKER_IDLE && waited != ETIMEDOUT && !threads->ending)
        waited = timed_wait(threads, &me->called, threads->idle_ms * 1000000ll);
    if (me->state == WORKER_CALLED) {
        come(threads, me);
        return true;
    }
    leave_idle(threads, me);
    return false;
}

/* Nothing can be begun now.  False: end. */
static bool rest(struct file_threads *threads, struct worker *me)
{
    if (threads->queue.oldest && !threads->watcher) {
        watch(threads, me);
        return true;
    }
    return !threads->ending && idle(threads, me);
}

static struct file_job *take(struct file_threads *threads, struct worker *me)
{
    if (!may_begin(threads, 0))
        return NULL;
    struct file_job *job = threads->queue.oldest;
    take_out(&threads->queue, job);
    me->jobs++;
    me->state = job->how & FILE_SLEEPS ? WORKER_SLEEPING : WORKER_WORKING;
    threads->working += me->state == WORKER_WORKING;
    return job;
}

/* Whether the owner is to be told. */
static bool give_result(struct file_threads *threads, struct worker *me, struct file_job *job)
{
    threads->working -= me->state == WORKER_WORKING;
    me->state = WORKER_HERE;
    threads->faults += faults_take_count(&me->faults);
    if (threads->abandoned) {
        file_job_drop(job);
        return false;
    }
    struct file_job *before = atomic_load_explicit(&threads->results.newest, memory_order_relaxed);
    do
        job->next = before;
    /* Release: who takes the list sees the result.  Sequentially consistent, since who rings the bell looks next whether the
     * owner sleeps, who announces that and looks here once more. */
    while (!atomic_compare_exchange_weak(&threads->results.newest, &before, job));
    return before == NULL;
}

static void tell(struct file_threads *threads)
{
    pthread_mutex_lock(&threads->bell_lock);
    if (threads->ring)
        threads->ring(threads->arg);
    pthread_mutex_unlock(&threads->bell_lock);
}

/* ---- reads that a device has begun ---- */

/* The oldest of them, an eighth of all; with the lock held. */
static size_t take_batch(struct device *device, struct file_job **batch)
{
    size_t most = device->begun.count / BATCH_PART;
    size_t count = 0;
    do {
        batch[count] = device->begun.oldest;
        take_out(&device->begun, batch[count]);
    } while (++count < most);
    FLEXSC_CHECK(count <= BATCH_MOST);
    return count;
}

/* Wait for the youngest: the others are there then, most of the time. */
static void make_batch(struct file_threads *threads, struct worker *me, struct file_job **batch, size_t count)
{
    int64_t held_since = 0;
    bool untold = false;
    for (size_t i = 0; i < count; i++) {
        struct file_job *job = batch[i ? i - 1 : count - 1];
        bool there = i > 0 && file_job_read_now(job);
        if (untold && (!there || now_ns(CLOCK_MONOTONIC) - held_since > HELD_NS)) {
            tell(threads);
            untold = false;
        }
        if (!there)
            file_job_make(job, &me->faults);
        pthread_mutex_lock(&threads->lock);
        bool first = give_result(threads, me, job);
        pthread_mutex_unlock(&threads->lock);
        if (first && !untold)
            held_since = now_ns(CLOCK_MONOTONIC);
        untold |= first;
    }
    if (untold)
        tell(threads);
}

/* Wait for all that a device has begun; with the lock held, which is let go meanwhile. */
static void attend(struct file_threads *threads, struct worker *me, struct device *device)
{
    struct file_job *batch[BATCH_MOST];
    device->attended = true;
    see_to_queue(threads);
    while (device->begun.count) {
        size_t count = take_batch(device, batch);
        device->waits_since = now_ns(CLOCK_MONOTONIC);
        pthread_mutex_unlock(&threads->lock);
        make_batch(threads, me, batch, count);
        pthread_mutex_lock(&threads->lock);
    }
    device->attended = false;
}

static void destroy(struct file_threads *threads)
{
    FLEXSC_CHECK(threads->count == 0 && threads->queue.count == 0 && !unattended(threads));
    pthread_cond_destroy(&threads->ended);
    pthread_mutex_destroy(&threads->bell_lock);
    pthread_mutex_destroy(&threads->lock);
    free(threads);
}

/* With the lock held, which is let go for good. */
static void end(struct file_threads *threads, struct worker *me)
{
    struct worker **at = &threads->all;
    while (*at != me)
        at = &(*at)->next;
    *at = me->next;
    threads->count--;
    bool last = threads->count == 0;
    bool orphan = last && threads->abandoned;
    if (last)
        pthread_cond_signal(&threads->ended);
    pthread_mutex_unlock(&threads->lock);
    pthread_cond_destroy(&me->called);
    faults_close(&me->faults);
    free(me);
    if (orphan)
        destroy(threads);
}

/* With the lock held, which is let go meanwhile. */
static void do_job(struct file_threads *threads, struct worker *me, struct file_job *job)
{
    see_to_queue(threads);
    pthread_mutex_unlock(&threads->lock);
    file_job_make(job, &me->faults);
    pthread_mutex_lock(&threads->lock);
    if (!give_result(threads, me, job))
        return;
    pthread_mutex_unlock(&threads->lock);
    tell(threads);
    pthread_mutex_lock(&threads->lock);
}

static void *work(void *arg)
{
    struct worker *me = arg;
    struct file_threads *threads = me->threads;
    pthread_setname_np(pthread_self(), "flexsc-file");
    pthread_mutex_lock(&threads->lock);
    come(threads, me);
    for (;;) {
        struct device *device = unattended(threads);
        struct file_job *job = device ? NULL : take(threads, me);
        if (device)
            attend(threads, me, device);
        else if (job)
            do_job(threads, me, job);
        else if (!rest(threads, me))
            break;
    }
    end(threads, me);
    return NULL;
}

/* ---- the owner's side ---- */

static unsigned cores_allowed(void)
{
    cpu_set_t allowed;
    return sched_getaffinity(0, sizeof allowed, &allowed) == 0 ? (unsigned)CPU_COUNT(&allowed) : 1;
}

struct file_threads *file_threads_open(unsigned cores, unsigned most, unsigned idle_ms)
{
    struct file_threads *threads = calloc(1, sizeof *threads);
    if (!threads)
        return NULL;
    pthread_mutex_init(&threads->lock, NULL);
    pthread_mutex_init(&threads->bell_lock, NULL);
    init_timed_cond(&threads->ended);
    init_queue(&threads->queue);
    for (int i = 0; i < DEVICES; i++)
        init_queue(&threads->devices[i].begun);
    threads->cores = cores ? cores : cores_allowed();
    threads->most = most;
    threads->idle_ms = idle_ms;
    return threads;
}

void file_threads_set_bell(struct file_threads *threads, void (*ring)(void *), void *arg)
{
    pthread_mutex_lock(&threads->bell_lock);
    threads->ring = ring;
    threads->arg = arg;
    pthread_mutex_unlock(&threads->bell_lock);
}

int file_threads_queue(struct file_threads *threads, struct file_job *job)
{
    pthread_mutex_lock(&threads->lock);
    FLEXSC_CHECK(!threads->ending);
    push_anywhere(threads, job);
    int error = see_to_queue(threads);
    if (error && threads->count)
        error = 0;
    if (error)
        take_out_anywhere(threads, job);
    pthread_mutex_unlock(&threads->lock);
    return error;
}

bool file_threads_withdraw(struct file_threads *threads, struct file_job *job)
{
    pthread_mutex_lock(&threads->lock);
    bool queued = job->queued;
    if (queued)
        take_out_anywhere(threads, job);
    pthread_mutex_unlock(&threads->lock);
    return queued;
}

struct file_results *file_threads_results(struct file_threads *threads) { return &threads->results; }

struct file_job *file_threads_take(struct file_threads *threads)
{
    /* Acquire: the results are written before the list holds them. */
    struct file_job *newest = atomic_exchange(&threads->results.newest, NULL);
    struct file_job *oldest = NULL;
    while (newest) {
        struct file_job *before = newest->next;
        newest->next = oldest;
        oldest = newest;
        newest = before;
    }
    return oldest;
}

unsigned file_threads_count(struct file_threads *threads)
{
    pthread_mutex_lock(&threads->lock);
    unsigned count = threads->count;
    pthread_mutex_unlock(&threads->lock);
    return count;
}

uint64_t file_threads_faults(struct file_threads *threads)
{
    pthread_mutex_lock(&threads->lock);
    uint64_t count = threads->faults;
    pthread_mutex_unlock(&threads->lock);
    return count;
}

bool file_threads_close(struct file_threads *threads, int64_t patience_ns)
{
    int64_t until = now_ns(CLOCK_MONOTONIC) + patience_ns;
    file_threads_set_bell(threads, NULL, NULL);
    pthread_mutex_lock(&threads->lock);
    threads->ending = true;
    for (struct worker *worker = threads->idle; worker; worker = worker->idle)
        pthread_cond_signal(&worker->called);
    while (threads->count) {
        int64_t left = until - now_ns(CLOCK_MONOTONIC);
        if (left <= 0)
            break;
        timed_wait(threads, &threads->ended, left);
    }
    bool ended = threads->count == 0;
    pthread_mutex_unlock(&threads->lock);
    return ended;
}

void file_threads_free(struct file_threads *threads)
{
    pthread_mutex_lock(&threads->lock);
    FLEXSC_CHECK(threads->ending);
    threads->abandoned = true;
    struct file_job *job = file_threads_take(threads);
    while (job) {
        struct file_job *next = job->next;
        file_job_drop(job);
        job = next;
    }
    bool ended = threads->count == 0;
    pthread_mutex_unlock(&threads->lock);
    if (ended)
        destroy(threads);
}
