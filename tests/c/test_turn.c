/* The turn's queue and timers against simple models, and the words between workers and a loop with a thread on each
 * side.  Every hand-over of plain data here is one that ThreadSanitizer must find ordered. */
#include "user_page_rig.h"

#include <sys/prctl.h>

#include "../../flexsc_loop/turn/queue.h"
#include "../../flexsc_loop/turn/timers.h"
#include "../../flexsc_loop/turn/workers.h"

#define ONCE (1u << OWN)
#define MODE enum mode mode __attribute__((unused))

static void *as_item(size_t number) { return (void *)(uintptr_t)(number + 1); }

static void test_queue(MODE) {
    struct flexsc_queue queue = {0};
    size_t in = 0, out = 0;
    uint32_t seed = 1;
    for (int burst = rounds(20000); burst > 0; burst--) {
        for (size_t pushes = next_random(&seed) % 40; pushes > 0; pushes--)
            CHECK(queue_push(&queue, as_item(in++)), "no memory");
        CHECK(queue_count(&queue) == in - out, "%zu", queue_count(&queue));
        if (in > out)
            CHECK(queue_peek(&queue, in - out - 1) == as_item(in - 1), "the last one");
        for (size_t pops = next_random(&seed) % 40; pops > 0 && out < in; pops--, out++)
            CHECK(queue_peek(&queue, 0) == as_item(out) && queue_pop(&queue) == as_item(out), "%zu", out);
    }
    queue_free(&queue);
}

/* The model: which timer is next, found by looking at all of them. */
struct model {
    double when[4096];
    size_t count;
};

static size_t model_next(const struct model *model) {
    size_t best = SIZE_MAX;
    for (size_t i = 0; i < model->count; i++)
        if (model->when[i] >= 0 && (best == SIZE_MAX || model->when[i] < model->when[best]))
            best = i;
    return best;
}

static void pop_and_compare(struct flexsc_timers *timers, struct model *model) {
    size_t next = model_next(model);
    CHECK(timers_pop(timers) == as_item(next), "not timer %zu", next);
    model->when[next] = -1;
}

/* As the loop does with cancelled timers. */
static void take_out_thirds(struct flexsc_timers *timers, struct model *model, uint32_t *seed) {
    size_t kept = 0;
    for (size_t i = 0; i < timers->count; i++)
        if (next_random(seed) % 3 == 0)
            model->when[(uintptr_t)timers->heap[i].handle - 1] = -1;
        else
            timers->heap[kept++] = timers->heap[i];
    timers->count = kept;
    timers_rebuild(timers);
}

static void test_timers(MODE) {
    static struct model model;
    for (uint32_t trial = 1; trial <= 8; trial++) {
        struct flexsc_timers timers = {0};
        uint32_t seed = trial;
        model.count = 0;
        while (model.count < 1000) {
            /* Few different deadlines: equal ones must leave in the order in which they came. */
            model.when[model.count] = next_random(&seed) % 50;
            CHECK(timers_push(&timers, model.when[model.count], as_item(model.count)), "no memory");
            model.count++;
            if (next_random(&seed) % 3 == 0)
                pop_and_compare(&timers, &model);
            if (model.count % 300 == 0)
                take_out_thirds(&timers, &model, &seed);
        }
        while (timers.count > 0)
            pop_and_compare(&timers, &model);
        CHECK(model_next(&model) == SIZE_MAX, "timer %zu is lost", model_next(&model));
        timers_free(&timers);
    }
}

struct shop {
    struct flexsc_crew crew;
    struct flexsc_worker worker;
    _Atomic bool closing;
    int job, result; /* plain: ordered by the words */
    _Atomic uint32_t returned; /* what standing by ended with, + 1; or the round that is over */
    _Atomic uint32_t round, begun;
    uint32_t rounds;
};

/* Does one job for each order to work. */
static void *works(void *argument) {
    struct shop *shop = argument;
    for (;;) {
        worker_stand_by(&shop->crew, &shop->worker);
        crew_call(&shop->crew, -1);
        worker_order(&shop->worker, ORDER_REST);
        if (atomic_load(&shop->closing))
            return NULL;
        crew_progress(&shop->crew);
        shop->result = shop->job + 1;
        atomic_store(&shop->returned, (uint32_t)shop->job);
        crew_release_loop(&shop->crew);
    }
}

static void order_work(struct shop *shop) {
    crew_call(&shop->crew, 1);
    CHECK(worker_order(&shop->worker, ORDER_WORK), "it rests");
}

/* The loop gives a job, waits for it, and reads the result. */
static void test_jobs(MODE) {
    struct shop shop = {.crew.stuck_ns = STUCK_NS};
    pthread_t thread;
    pthread_create(&thread, NULL, works, &shop);
    for (int i = rounds(20000); i > 0; i--) {
        shop.job = i;
        crew_begin_await(&shop.crew);
        crew_call(&shop.crew, 1);
        crew_await(&shop.crew, &shop.worker, 1);
        crew_end_await(&shop.crew);
        /* On a busy machine the worker may come late, and its word that the batch is done during the next one. */
        while (atomic_load(&shop.returned) != (uint32_t)i)
            sched_yield();
        CHECK(shop.result == i + 1, "job %d: %d", i, shop.result);
    }
    atomic_store(&shop.closing, true);
    order_work(&shop);
    worker_wake(&shop.worker);
    pthread_join(thread, NULL);
}

static void test_awaiting_those_who_do_not_come(MODE) {
    struct shop shop = {0};
    crew_begin_await(&shop.crew);
    CHECK(crew_await(&shop.crew, &shop.worker, 1) == AWAIT_STUCK, "nobody makes progress");
    crew_call(&shop.crew, 1);
    int64_t began = flexsc_now_ns();
    crew_begin_await(&shop.crew);
    CHECK(crew_await(&shop.crew, NULL, 1) == AWAIT_BUSY, "somebody was called and has not come yet");
    CHECK(flexsc_now_ns() - began >= (int64_t)AWAIT_STEPS * STUCK_NS, "given up at once");
    crew_begin_await(&shop.crew);
    crew_release_loop(&shop.crew);
    CHECK(crew_await(&shop.crew, NULL, 1) == AWAIT_DONE, "released");
}

static void *lingers(void *argument) {
    struct shop *shop = argument;
    atomic_store(&shop->returned, 1 + (worker_lingers(&shop->crew, &shop->worker) ? 1u : 0u));
    return NULL;
}

/* A job that the loop keeps because somebody looks for it is found, however late it is kept. */
static void test_kept_jobs_are_found(MODE) {
    uint32_t seed = 5;
    for (int i = rounds(2000); i > 0; i--) {
        struct shop shop = {0};
        pthread_t thread;
        crew_linger(&shop.crew, &shop.worker);
        pthread_create(&thread, NULL, lingers, &shop);
        linger_for(next_random(&seed) % 20000);
        worker_order(&shop.worker, ORDER_WATCH);
        worker_wake(&shop.worker);
        linger_for(next_random(&seed) % 20000);
        bool relied = crew_keep(&shop.crew);
        pthread_join(thread, NULL);
        CHECK(!relied || atomic_load(&shop.returned) == 2, "a job was kept and nobody saw it");
    }
}

static void *stands_by(void *argument) {
    struct shop *shop = argument;
    atomic_store(&shop->returned, 1 + worker_stand_by(&shop->crew, &shop->worker));
    return NULL;
}

static void await_word(_Atomic uint32_t *word, uint32_t value) {
    while (atomic_load(word) != value)
        sched_yield();
}

/* Watches once in each round, until what is queued is stuck. */
static void *watches(void *argument) {
    struct shop *shop = argument;
    /* So that it looks at once and the two meet within some microseconds. */
    prctl(PR_SET_TIMERSLACK, 1);
    for (uint32_t round = 1; round <= shop->rounds; round++) {
        await_word(&shop->round, round);
        atomic_store(&shop->begun, round);
        if (worker_stand_by(&shop->crew, &shop->worker) != ORDER_WATCH)
            helper_failures++;
        atomic_store(&shop->returned, round);
    }
    return NULL;
}

/* Whoever queues a job and sees a watcher may rely on it, even if it was just about to rest. */
static void test_a_watcher_sees_what_is_queued(MODE) {
    struct shop shop = {.rounds = (uint32_t)rounds(60000)};
    pthread_t thread;
    uint32_t seed = 9, pauses = 1000;
    pthread_create(&thread, NULL, watches, &shop);
    for (uint32_t round = 1; round <= shop.rounds; round++) {
        crew_set_queued(&shop.crew, 0);
        worker_order(&shop.worker, ORDER_WATCH);
        atomic_store(&shop.round, round);
        await_word(&shop.begun, round);
        linger_for(pauses);
        crew_set_queued(&shop.crew, 1);
        bool rests = worker_orders(&shop.worker) == ORDER_REST;
        if (rests && worker_order(&shop.worker, ORDER_WATCH))
            worker_wake(&shop.worker);
        /* Come just when it decides. */
        uint32_t step = next_random(&seed) % 64;
        pauses = !rests ? pauses + step : pauses > step ? pauses - step : 0;
        await_word(&shop.returned, round);
    }
    pthread_join(thread, NULL);
}

/* A watcher is quiet while those who work get on, and leaves when it is told to work. */
static void test_a_watcher_is_patient(MODE) {
    struct shop shop = {.crew = {.stuck_ns = 100000000, .queued = 1}, .worker.orders = ORDER_WATCH};
    pthread_t thread;
    pthread_create(&thread, NULL, stands_by, &shop);
    for (int i = 0; i < 150; i++) {
        crew_progress(&shop.crew);
        usleep(2000);
    }
    CHECK(atomic_load(&shop.returned) == 0, "said to be stuck: %u", atomic_load(&shop.returned));
    CHECK(worker_order(&shop.worker, ORDER_WORK), "it watched");
    worker_wake(&shop.worker);
    pthread_join(thread, NULL);
    CHECK(atomic_load(&shop.returned) == 1 + ORDER_WORK, "%u", atomic_load(&shop.returned));
}

static const struct test tests[] = {
    {"queue", test_queue, ONCE},
    {"timers", test_timers, ONCE},
    {"jobs", test_jobs, ONCE},
    {"awaiting those who do not come", test_awaiting_those_who_do_not_come, ONCE},
    {"kept jobs are found", test_kept_jobs_are_found, ONCE},
    {"a watcher sees what is queued", test_a_watcher_sees_what_is_queued, ONCE},
    {"a watcher is patient", test_a_watcher_is_patient, ONCE},
};

MAIN(tests)
