/* Floor 0: the pinned thread: serves a user page from another core, as a FlexSC syscall thread does.
 *
 * It holds the guard while it makes a bounded number of non-blocking calls, never while it looks for work or sleeps.  It looks for
 * work for `spin_ns` after the last piece of work, then it announces its sleep and sleeps in epoll, where parked
 * fds and the doorbell wake it. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include "user_page_service.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <string.h>

#include "late_calls.h"
#include "user_page_os.h"

enum {
    CALLS_PER_HOLD = 64, /* before the thread lets go of the guard */
    LOOKS_PER_TIME = 16, /* in vain, before it asks what time it is */
    WANT_LOOKS = 200,    /* before it sleeps until nobody wants the guard */
};

enum { CPUS_KNOWN = 1024 };

/* How many threads of this process are pinned to each CPU. */
static _Atomic int threads_on[CPUS_KNOWN];

/* A forked child has none of them. */
static void none_in_child(void) {
    memset(threads_on, 0, sizeof threads_on);
}

__attribute__((constructor)) static void watch_forks(void) {
    pthread_atfork(NULL, NULL, none_in_child);
}

static void count_on_cpu(const struct flexsc_page *page, int more) {
    if (page->cpu >= 0 && page->cpu < CPUS_KNOWN)
        atomic_fetch_add_explicit(&threads_on[page->cpu], more, memory_order_relaxed);
}

/* ---- the thread's own side ---- */

/* Between two looks for work.  Another page's thread on the same CPU may have some, and is not to wait until this one has
 * looked for its slice of time. */
static void look_again(const struct flexsc_page *page) {
    if (page->cpu >= 0 && page->cpu < CPUS_KNOWN &&
        atomic_load_explicit(&threads_on[page->cpu], memory_order_relaxed) > 1)
        sched_yield();
    else
        cpu_pause();
}

static void thread_locks(struct flexsc_page *page) {
    for (int i = 0; guard_is_wanted(page); i++) {
        uint32_t wanted = WANT_LOOP;
        if (i < WANT_LOOKS)
            cpu_pause();
        else if (atomic_load(&page->want) == WANT_LOOP_THREAD_SLEEPS ||
                 atomic_compare_exchange_strong(&page->want, &wanted, WANT_LOOP_THREAD_SLEEPS))
            futex_wait(&page->want, WANT_LOOP_THREAD_SLEEPS, -1, &page->results.counters.server_syscalls);
    }
    guard_lock(page, &page->results.counters.server_syscalls);
}

static void thread_unlocks(struct flexsc_page *page) { guard_unlock(page, &page->results.counters.server_syscalls); }

static int thread_looks(struct flexsc_page *page, int64_t timeout_ns) {
    return fds_look(&page->fds, timeout_ns, &page->results.counters.server_syscalls);
}

/* Whether what the thread is about to wait for has come. */
static bool sleep_is_over(struct flexsc_page *page, enum thread_state state) {
    if (atomic_load(&page->stop))
        return true;
    if (state == THREAD_ASLEEP)
        return atomic_load(&page->inbox) != NULL;
    return page->results.posted - atomic_load(&page->results.head) < page->results.size;
}

/* Under the guard, after a pass that found nothing to do.  Lets go of the guard.  Returns the number of events. */
static int thread_sleeps(struct flexsc_page *page) {
    enum thread_state state = page->results.held_back ? THREAD_STALLED : THREAD_ASLEEP;
    atomic_store(&page->thread_state, state);
    /* The announcement must be visible before we look once more at what we wait for: the loop changes that first
     * and looks at the announcement afterwards. */
    atomic_thread_fence(memory_order_seq_cst);
    bool over = sleep_is_over(page, state);
    thread_unlocks(page);
    int n = over ? 0 : thread_looks(page, -1);
    atomic_store(&page->thread_state, THREAD_AWAKE);
    return n;
}

/* What the thread knows of the page while it does not hold the guard. */
struct view {
    int events;         /* that epoll has told of and nobody has marked yet; or -errno */
    bool parked;        /* entries wait on fds: epoll is worth a look */
    bool left;          /* the last pass has left something to do */
    bool held_back;     /* for want of room for results, of which nobody tells who is awake */
    int64_t idle_since; /* 0: not idle */
    unsigned looks;
};

static bool is_touched(const struct flexsc_page *page) {
    return atomic_load_explicit(&page->inbox, memory_order_relaxed) != NULL ||
           atomic_load_explicit(&page->touched, memory_order_relaxed) != 0;
}

/* Whether it has been idle for so long that it had better sleep. */
static bool is_tired(const struct flexsc_page *page, struct view *view) {
    if (view->idle_since != 0 && ++view->looks % LOOKS_PER_TIME != 0)
        return false;
    int64_t now = flexsc_now_ns();
    if (view->idle_since == 0)
        view->idle_since = now;
    return now - view->idle_since >= page->spin_ns;
}

static void mark_events(struct flexsc_page *page, struct view *view) {
    if (view->events > 0)
        fds_mark(&page->fds, view->events);
    view->events = 0;
}

/* Under the guard: what epoll has told of, new entries, ready fds.  Whether there was anything to do. */
static bool serve(struct flexsc_page *page, struct view *view) {
    struct results *results = &page->results;
    bool news = view->events > 0;
    results_begin_pass(results);
    /* Before we look: what the loop does after this is news again. */
    atomic_store_explicit(&page->touched, 0, memory_order_relaxed);
    mark_events(page, view);
    bool worked = service_run_fresh(page);
    worked |= service_run_ready(page);
    view->held_back = results->held_back;
    /* While the ring is full, there is nothing that can be done. */
    view->left = !view->held_back && (page->fresh != NULL || results->spill != NULL || page->fds.ready.count != 0);
    view->parked = page->fds.parked > 0;
    return worked || results_posted_in_pass(results) || (news && !view->held_back);
}

/* One pass, then sleep if that is wanted and there was nothing to do. */
static void pass(struct flexsc_page *page, struct view *view, bool tired) {
    thread_locks(page);
    bool worked = serve(page, view) || view->left || guard_is_wanted(page);
    bool posts = results_posted_in_pass(&page->results);
    if (!posts)
        atomic_fetch_add_explicit(&page->vain_passes, 1, memory_order_relaxed);
    if (worked)
        view->idle_since = 0;
    if (tired && !worked) {
        view->events = thread_sleeps(page);
        if (!view->held_back)
            view->idle_since = 0;
    } else {
        thread_unlocks(page);
    }
    if (posts)
        results_wake_loop(&page->results);
}

/* Inbox and epoll are looked at without the guard: the loop may want to serve while this thread has lost its CPU. */
static void thread_serves(struct flexsc_page *page) {
    struct view view = {.left = true};
    while (!atomic_load_explicit(&page->stop, memory_order_acquire)) {
        if (view.parked && view.events <= 0)
            view.events = thread_looks(page, 0);
        bool news = view.events > 0 || view.left || is_touched(page);
        bool tired = !news && is_tired(page, &view);
        if (news || tired || view.held_back)
            pass(page, &view, tired);
        else
            look_again(page);
    }
    /* Whoever serves next is not told again. */
    mark_events(page, &view);
}

/* Linux takes a mask of any size; the CPU may lie outside the mask that we have inherited. */
static int pin(pthread_t thread, int cpu) {
    if (cpu < 0)
        return 0;
    cpu_set_t *set = CPU_ALLOC((size_t)cpu + 1);
    if (set == NULL)
        return -ENOMEM;
    size_t size = CPU_ALLOC_SIZE((size_t)cpu + 1);
    CPU_ZERO_S(size, set);
    CPU_SET_S((size_t)cpu, size, set);
    int rc = -pthread_setaffinity_np(thread, size, set);
    CPU_FREE(set);
    return rc;
}

static void wait_until_placed(struct flexsc_page *page) {
    while (atomic_load(&page->held) != 0)
        futex_wait(&page->held, 1, -1, &page->results.counters.server_syscalls);
}

static void *thread_main(void *argument) {
    struct flexsc_page *page = argument;
    wait_until_placed(page);
    pthread_setname_np(pthread_self(), "flexsc-page");
    atomic_store(&page->tid, late_gettid());
    thread_serves(page);
    wait_until_placed(page);
    struct timespec cpu = {0};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &cpu);
    atomic_fetch_add(&page->past_cpu_ns, (int64_t)cpu.tv_sec * 1000000000 + cpu.tv_nsec);
    return NULL;
}

/* ---- the loop's side ---- */

/* Until the thread is released it does nothing: on the loop's CPU it would keep the loop from going on, by looking for work. */
static void hold(struct flexsc_page *page) { atomic_store(&page->held, 1); }

static void release(struct flexsc_page *page) {
    atomic_store(&page->held, 0);
    futex_wake(&page->held, &page->results.counters.loop_syscalls);
}

static int create_with_signals_blocked(struct flexsc_page *page) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int rc = pthread_create(&page->thread, NULL, thread_main, page);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return -rc;
}

static void join(struct flexsc_page *page) {
    pthread_join(page->thread, NULL);
    count_on_cpu(page, -1);
    page->pinned = false;
    page->budget = UINT32_MAX;
    page->results.syscalls = &page->results.counters.loop_syscalls;
    atomic_store(&page->tid, 0);
    atomic_store(&page->thread_state, THREAD_AWAKE);
}

int flexsc_thread_start(struct flexsc_page *page, int cpu, int64_t spin_ns) {
    if (page->pinned)
        return -EALREADY;
    page->spin_ns = spin_ns;
    page->cpu = cpu;
    page->pinned = true;
    page->budget = CALLS_PER_HOLD;
    page->results.syscalls = &page->results.counters.server_syscalls;
    atomic_store(&page->stop, 0);
    count_on_cpu(page, 1);
    hold(page);
    int rc = create_with_signals_blocked(page);
    if (rc == 0) {
        /* From here, because the loop does not wait until a CPU that may be busy lets the thread begin. */
        rc = pin(page->thread, cpu);
        release(page);
        if (rc != 0)
            flexsc_thread_stop(page);
        return rc;
    }
    count_on_cpu(page, -1);
    page->pinned = false;
    page->budget = UINT32_MAX;
    page->results.syscalls = &page->results.counters.loop_syscalls;
    return rc;
}

void flexsc_thread_stop(struct flexsc_page *page) {
    if (!page->pinned)
        return;
    /* Whoever keeps the thread from its CPU must not keep us waiting: it ends on ours, which is free while we do.  Held
     * meanwhile: of a thread that has ended the C library knows no number, and pins whoever asks. */
    hold(page);
    atomic_store(&page->stop, 1);
    ring_doorbell(page);
    pin(page->thread, sched_getcpu());
    release(page);
    join(page);
}

int64_t flexsc_thread_cpu_ns(const struct flexsc_page *page) {
    int64_t past = atomic_load(&page->past_cpu_ns);
    clockid_t clock;
    struct timespec cpu;
    if (!page->pinned || pthread_getcpuclockid(page->thread, &clock) != 0 || clock_gettime(clock, &cpu) != 0)
        return past;
    return past + (int64_t)cpu.tv_sec * 1000000000 + cpu.tv_nsec;
}

int flexsc_thread_id(const struct flexsc_page *page) { return atomic_load(&page->tid); }
