/* Floor 3: a thread that looks whether a turn lasts too long, and reports it while it does.
 *
 * It never asks for the GIL, which the turn may hold.  It sees what stands in the stats page, writes a line to stderr,
 * and has the stacks of all threads written by Python's faulthandler, which does so on a signal, without the GIL: this
 * thread sends that signal to itself, so that no other thread is disturbed. */
#ifndef FLEXSC_WATCHDOG_H
#define FLEXSC_WATCHDOG_H

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "stats.h"

enum {
    WATCHDOG_LOOKS = 8, /* within the time that a turn may last */
    WATCHDOG_LEAST_NS = 1000000,
    WATCHDOG_MOST_NS = 250000000,
};

struct flexsc_watchdog {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t end;
    bool ending;
    struct flexsc_stats *stats;
    int64_t limit_ns;
    int signal; /* on which the stacks are written; 0: they are not */
    int fd;
    uint64_t reported; /* when the turn began that was reported last */
    int64_t again_ns;  /* after so much of it, it is reported again */
};

/* How long the turn has lasted that goes on now; 0: none does. */
static inline int64_t watchdog_turn_ns(const struct flexsc_watchdog *dog, uint64_t *began)
{
    const struct flexsc_stats_page *page = dog->stats->page;
    *began = __atomic_load_n(&page->turn_began, __ATOMIC_RELAXED);
    if (__atomic_load_n(&page->state, __ATOMIC_RELAXED) != FLEXSC_STATS_RUNNING)
        return 0;
    return (int64_t)((double)stats_since(*began, ticks_now()) * stats_tick_ns(dog->stats));
}

static inline void watchdog_report(struct flexsc_watchdog *dog, int64_t lasts_ns)
{
    const struct flexsc_stats_page *page = dog->stats->page;
    uint32_t running = __atomic_load_n(&page->running, __ATOMIC_RELAXED);
    char line[FLEXSC_STATS_NAME_SIZE + 160], name[FLEXSC_STATS_NAME_SIZE] = "nothing known";
    if (running && running <= FLEXSC_STATS_NAMES)
        memcpy(name, page->names[running - 1], sizeof name);
    name[sizeof name - 1] = 0;
    int length = snprintf(line, sizeof line, "flexsc_loop: loop %u of process %d has been in one turn for %.3f s, in %s\n",
                          page->number, page->pid, (double)lasts_ns / 1e9, name);
    __atomic_fetch_add(&dog->stats->counts.stalls, 1, __ATOMIC_RELAXED);
    if (write(dog->fd, line, (size_t)length) < 0)
        return; /* there is nobody to tell */
    if (dog->signal)
        pthread_kill(pthread_self(), dog->signal);
}

static inline void watchdog_look(struct flexsc_watchdog *dog)
{
    uint64_t began;
    int64_t lasts_ns = watchdog_turn_ns(dog, &began);
    if (lasts_ns < dog->limit_ns || (began == dog->reported && lasts_ns < dog->again_ns))
        return;
    dog->reported = began;
    dog->again_ns = 2 * lasts_ns; /* a turn that never ends does not fill the disk */
    watchdog_report(dog, lasts_ns);
}

static inline void *watchdog_run(void *arg)
{
    struct flexsc_watchdog *dog = arg;
    int64_t pause_ns = dog->limit_ns / WATCHDOG_LOOKS;
    pause_ns = pause_ns < WATCHDOG_LEAST_NS ? WATCHDOG_LEAST_NS : pause_ns;
    pause_ns = pause_ns > WATCHDOG_MOST_NS ? WATCHDOG_MOST_NS : pause_ns;
    prctl(PR_SET_NAME, "flexsc-watchdog");
    pthread_mutex_lock(&dog->lock);
    while (!dog->ending) {
        struct timespec until;
        int64_t at = flexsc_now_ns() + pause_ns;
        until.tv_sec = at / 1000000000;
        until.tv_nsec = at % 1000000000;
        if (pthread_cond_timedwait(&dog->end, &dog->lock, &until) == ETIMEDOUT)
            watchdog_look(dog);
    }
    pthread_mutex_unlock(&dog->lock);
    return NULL;
}

/* Report turns of more than `limit_ns` to `fd`.  Returns NULL when there is no memory or no thread. */
static inline struct flexsc_watchdog *watchdog_start(struct flexsc_stats *stats, int64_t limit_ns, int signal, int fd)
{
    struct flexsc_watchdog *dog = calloc(1, sizeof *dog);
    if (!dog)
        return NULL;
    dog->stats = stats;
    dog->limit_ns = limit_ns;
    dog->signal = signal;
    dog->fd = fd;
    pthread_mutex_init(&dog->lock, NULL);
    pthread_condattr_t clock;
    pthread_condattr_init(&clock);
    pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    pthread_cond_init(&dog->end, &clock);
    pthread_condattr_destroy(&clock);
    /* Signals are for Python's own threads. */
    sigset_t all, before;
    sigfillset(&all);
    if (signal)
        sigdelset(&all, signal);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(&dog->thread, NULL, watchdog_run, dog);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error) {
        free(dog);
        return NULL;
    }
    return dog;
}

static inline void watchdog_stop(struct flexsc_watchdog *dog)
{
    pthread_mutex_lock(&dog->lock);
    dog->ending = true;
    pthread_cond_signal(&dog->end);
    pthread_mutex_unlock(&dog->lock);
    pthread_join(dog->thread, NULL);
    pthread_cond_destroy(&dog->end);
    pthread_mutex_destroy(&dog->lock);
    free(dog);
}

#endif
