/* The user page: sleeping, looking and waking, of the loop and of the thread. */
#include "user_page_rig.h"

/* ---- waking the loop ---- */

static void test_wake_before_sleep(enum mode mode) {
    struct rig rig = rig_open(mode, 64);
    for (int i = rounds(20000); i > 0; i--) {
        flexsc_page_wake(rig.page);
        flexsc_page_wake(rig.page);
        rig_turn(&rig, 0); /* does not sleep, and so does not use the wake up */
        rig_turn(&rig, -1);
    }
    int64_t start = rig_now_ns();
    rig_turn(&rig, 20000000);
    int64_t slept = rig_now_ns() - start;
    CHECK(slept >= 19000000, "an old wake ended a sleep after %ld us", (long)slept / 1000);
    rig_close(&rig);
}

struct waker {
    struct flexsc_page *page;
    _Atomic int asked, seen;
    int rounds;
};

static void *waker_main(void *argument) {
    struct waker *waker = argument;
    uint32_t random = 1;
    for (int i = 1; i <= waker->rounds; i++) {
        atomic_store(&waker->asked, i);
        flexsc_page_wake(waker->page);
        while (atomic_load(&waker->seen) != i)
            sched_yield();
        linger_for(next_random(&random) % 500);
    }
    return NULL;
}

static void test_wake_during_sleep(enum mode mode) {
    struct rig rig = rig_open(mode, 64);
    struct waker waker = {.page = rig.page, .rounds = rounds(20000)};
    pthread_t thread;
    pthread_create(&thread, NULL, waker_main, &waker);
    while (waker.seen != waker.rounds) {
        rig_turn(&rig, -1);
        waker.seen = atomic_load(&waker.asked);
    }
    pthread_join(thread, NULL);
    rig_close(&rig);
}

static void on_signal(int number) { (void)number; }

static void test_signal_ends_sleep(enum mode mode) {
    struct rig rig = rig_open(mode, 64);
    struct sigaction action = {.sa_handler = on_signal};
    struct itimerspec soon = {.it_value.tv_nsec = 5000000};
    timer_t timer;
    sigaction(SIGUSR1, &action, NULL);
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1};
    CHECK(timer_create(CLOCK_MONOTONIC, &event, &timer) == 0, "timer");
    timer_settime(timer, 0, &soon, NULL);
    int rc = flexsc_page_wait(rig.page, -1, rig.loop_spin_ns, &rig.spin);
    CHECK(rc == -EINTR, "returned %d", rc);
    timer_delete(timer);
    rig_close(&rig);
}

static void test_timeouts(enum mode mode) {
    struct rig rig = rig_open(mode, 64);
    const int64_t timeouts[] = {1, 1000, 300000, 2500000, 10000000};
    for (size_t i = 0; i < sizeof timeouts / sizeof *timeouts; i++) {
        int64_t start = rig_now_ns();
        CHECK(rig_turn(&rig, timeouts[i]) == 0, "a completion out of nothing");
        int64_t slept = rig_now_ns() - start;
        CHECK(slept >= timeouts[i] && slept < timeouts[i] + 200000000, "%ld ns became %ld", (long)timeouts[i],
              (long)slept);
    }
    rig_close(&rig);
}

/* ---- looking before a sleep ---- */

/* How many sleeps of `ns` come before the first look; -1 if there is none. */
static int sleeps_before_a_look(struct flexsc_spin *spin, int64_t ns) {
    for (int i = 0; i < 100000; i++) {
        if (spin_worth(spin, 1) > 0)
            return i;
        spin_slept(spin, ns);
    }
    return -1;
}

static void test_when_it_looks(enum mode mode) {
    (void)mode;
    struct flexsc_spin spin = {0};
    CHECK(sleeps_before_a_look(&spin, SPIN_SHORT_NS) == -1, "looks, though every sleep was long");
    CHECK(sleeps_before_a_look(&spin, SPIN_SHORT_NS - 1) == SPIN_AFTER, "short sleeps");
    spin_looked(&spin, true);
    CHECK(spin_worth(&spin, SPIN_FEW) == SPIN_NS, "does not go on looking, though it has found something");
    CHECK(spin_worth(&spin, SPIN_FEW + 1) == 0, "looks after a large batch");
    for (int needed = 2 * SPIN_AFTER; needed <= SPIN_AFTER_MOST; needed *= 2) {
        spin_looked(&spin, false);
        CHECK(sleeps_before_a_look(&spin, 1) == needed, "not %d", needed);
    }
    spin_looked(&spin, false);
    CHECK(sleeps_before_a_look(&spin, 1) == SPIN_AFTER_MOST, "more than the most");
    spin_looked(&spin, true);
    spin_looked(&spin, false);
    CHECK(sleeps_before_a_look(&spin, 1) == 2 * SPIN_AFTER, "what was found has not made it ready to look again");
    for (int i = 0; i < 1000; i++) {
        spin_slept(&spin, i % SPIN_AFTER == 0 ? SPIN_SHORT_NS : 1000);
        CHECK(spin_worth(&spin, 1) == 0, "looks after a long sleep");
    }
}

/* Wakes that come before, while and after the loop looks, in turn with sleeps. */
static void test_wake_while_looking(enum mode mode) {
    struct rig rig = rig_open(mode, 64);
    struct waker waker = {.page = rig.page, .rounds = rounds(20000)};
    uint32_t random = 17;
    pthread_t thread;
    pthread_create(&thread, NULL, waker_main, &waker);
    while (waker.seen != waker.rounds) {
        rig.loop_spin_ns = next_random(&random) % 3 ? next_random(&random) % 3000 : 0;
        rig_turn(&rig, -1);
        waker.seen = atomic_load(&waker.asked);
    }
    pthread_join(thread, NULL);
    rig_close(&rig);
}

static void *writer_main(void *argument) {
    linger_for(300000);
    CHECK(write(*(int *)argument, "abc", 3) == 3, "write");
    return NULL;
}

/* A look that is long enough finds what comes, and ends then. */
static void test_looking_finds(enum mode mode) {
    struct rig rig = rig_open(mode, 64);
    rig.loop_spin_ns = 5000000000;
    for (int i = rounds(100); i > 0; i--) {
        struct op op = {0};
        pthread_t thread;
        int fds[2];
        char in[8];
        make_pair(SOCK_STREAM, fds);
        rig_submit(&rig, &op, CALL_RECV, fds[0], 0, in, 8, 0);
        rig_turn(&rig, 0);
        pthread_create(&thread, NULL, writer_main, &fds[1]);
        int64_t start = rig_now_ns();
        unsigned turns = 0;
        while (op.entry != NULL) {
            rig_turn(&rig, -1);
            turns++;
        }
        CHECK(op.res == 3 && turns <= 2, "got %d after %u looks", op.res, turns);
        CHECK(rig_now_ns() - start < 4000000000, "the look went on");
        pthread_join(thread, NULL);
        close(fds[0]);
        close(fds[1]);
    }
    rig_close(&rig);
}

/* The own thread comes back after a look in vain, and after one that a timer ends: neither early nor asleep. */
static void test_looking_in_vain(enum mode mode) {
    struct rig rig = rig_open(mode, 64);
    rig.loop_spin_ns = 2000000;
    int64_t start = rig_now_ns();
    rig_turn(&rig, -1);
    int64_t looked = rig_now_ns() - start;
    CHECK(looked >= 2000000 && rig.spin.looks == 1 && rig.spin.needed == 2 * SPIN_AFTER, "%ld ns", (long)looked);
    start = rig_now_ns();
    rig_turn(&rig, 1000000);
    looked = rig_now_ns() - start;
    CHECK(looked >= 1000000 && rig.spin.needed == 2 * SPIN_AFTER, "a timer's end was learned from: %ld ns", (long)looked);
    rig_close(&rig);
}

/* ---- waking the thread ---- */

/* The thread is about to fall asleep when the entry comes; it is awaited without a futex, then with one. */
static void test_publish_to_drowsy_thread(enum mode mode) {
    struct rig rig = rig_open(mode, 64);
    uint32_t random = 99;
    for (int i = rounds(30000); i > 0; i--) {
        struct op op = {0};
        linger_for(next_random(&random) % 3000);
        rig_submit(&rig, &op, CALL_NOP, -1, 0, NULL, 0, 0);
        if (i % 2) {
            flexsc_page_publish(rig.page);
            while (rig_reap(&rig) == 0)
                sched_yield();
        } else {
            rig_await(&rig, &op);
        }
        CHECK(op.entry == NULL && op.completions == 1, "%d completions", op.completions);
    }
    rig_close(&rig);
}

/* The result comes while the loop is about to fall asleep. */
static void test_post_to_drowsy_loop(enum mode mode) {
    struct rig rig = rig_open(mode, 64);
    uint32_t random = 101;
    rig.loop_spin_ns = 0;
    for (int i = rounds(60000); i > 0; i--) {
        struct op op = {0};
        rig_submit(&rig, &op, CALL_NOP, -1, 0, NULL, 0, 0);
        flexsc_page_publish(rig.page);
        linger_for(next_random(&random) % 800);
        rig_await(&rig, &op);
    }
    rig_close(&rig);
}

static void count_one(struct rig *rig, struct op *op) {
    (void)rig;
    (*(int *)op->owner)++;
}

/* Far more results than the ring has room for, fetched one by one: the thread stalls, sleeps, goes on. */
static void test_full_ring(enum mode mode) {
    struct rig rig = rig_open(mode, 4);
    struct op *ops = calloc(1000, sizeof *ops);
    uint32_t random = 5;
    rig.reap_most = 1;
    for (int round = rounds(40); round > 0; round--) {
        int ended = 0;
        for (int i = 0; i < 1000; i++) {
            ops[i] = (struct op){.owner = &ended, .on_completion = count_one};
            rig_submit(&rig, &ops[i], CALL_NOP, -1, 0, NULL, 0, 0);
        }
        while (ended < 1000) {
            rig_turn(&rig, -1);
            linger_for(next_random(&random) % 1000);
        }
        for (int i = 0; i < 1000; i++)
            CHECK(ops[i].completions == 1, "%d completions", ops[i].completions);
    }
    CHECK(flexsc_page_counters(rig.page)->overflows > 0, "never full");
    free(ops);
    rig_close(&rig);
}

/* A thread that has no room must neither burn its core nor miss the room when it comes. */
static void test_stalled_thread_sleeps(enum mode mode) {
    struct rig rig = rig_open(mode, 2);
    struct op ops[40] = {{0}}, recv_op = {0};
    int fds[2];
    char in[8];
    make_pair(SOCK_STREAM, fds);
    rig_submit(&rig, &recv_op, CALL_RECV, fds[0], ENTRY_OWNED, in, 8, 0);
    for (int i = 0; i < 40; i++)
        rig_submit(&rig, &ops[i], CALL_NOP, -1, 0, NULL, 0, 0);
    flexsc_page_publish(rig.page);
    usleep(20000);
    int64_t before = flexsc_thread_cpu_ns(rig.page);
    usleep(50000);
    int64_t burnt = flexsc_thread_cpu_ns(rig.page) - before;
    CHECK(burnt < 5000000, "%ld us of CPU in 50 ms", (long)burnt / 1000);
    for (int i = 0; i < 40; i++)
        rig_await(&rig, &ops[i]);
    usleep(20000);
    before = flexsc_thread_cpu_ns(rig.page);
    usleep(50000);
    burnt = flexsc_thread_cpu_ns(rig.page) - before;
    CHECK(burnt < 5000000, "idle, but %ld us of CPU in 50 ms", (long)burnt / 1000);
    CHECK(write(fds[1], "x", 1) == 1 && rig_await(&rig, &recv_op) == 1, "received %d", recv_op.res);
    close(fds[0]);
    close(fds[1]);
    rig_close(&rig);
}

/* cancel_now() with a full ring: its completion is posted later. */
static void test_cancel_now_without_room(enum mode mode) {
    struct rig rig = rig_open(mode, 2);
    for (int round = rounds(500); round > 0; round--) {
        int fds[2];
        char in[8];
        struct op recvs[8] = {{0}}, nops[8] = {{0}};
        make_pair(SOCK_STREAM, fds);
        for (int i = 0; i < 8; i++)
            rig_submit(&rig, &recvs[i], CALL_RECV, fds[0], 0, in, 8, 0);
        for (int i = 0; i < 8; i++)
            rig_submit(&rig, &nops[i], CALL_NOP, -1, 0, NULL, 0, 0);
        if (round % 2)
            flexsc_page_publish(rig.page);
        for (int i = 0; i < 8; i++)
            flexsc_page_cancel_now(rig.page, recvs[i].entry);
        CHECK(write(fds[1], "x", 1) == 1, "write");
        for (int i = 0; i < 8; i++) {
            for (int j = 0; round % 4 < 2 && recvs[i].entry != NULL; j++) {
                CHECK(j < 9, "no room for the completion after %d reaps", j);
                flexsc_page_cancel_now(rig.page, recvs[i].entry);
                rig_reap(&rig);
            }
            int32_t res = rig_await(&rig, &recvs[i]);
            CHECK(res == -ECANCELED, "ended with %d", res);
            rig_await(&rig, &nops[i]);
        }
        close(fds[0]);
        close(fds[1]);
    }
    rig_close(&rig);
}

/* The same with a thread that sleeps because it has nothing to do: it must learn of what waits for room. */
static void test_cancel_now_while_thread_sleeps(enum mode mode) {
    struct rig rig = rig_open(mode, 2);
    for (int round = 0; round < 10; round++) {
        int fds[2];
        char in[8];
        struct op op = {0}, nops[2] = {{0}};
        make_pair(SOCK_STREAM, fds);
        rig_submit(&rig, &op, CALL_RECV, fds[0], 0, in, 8, 0);
        rig_submit(&rig, &nops[0], CALL_NOP, -1, 0, NULL, 0, 0);
        rig_submit(&rig, &nops[1], CALL_NOP, -1, 0, NULL, 0, 0);
        flexsc_page_publish(rig.page);
        while (flexsc_page_counters(rig.page)->completions < 3 * (uint64_t)round + 2)
            usleep(100);
        usleep(3000);
        flexsc_page_cancel_now(rig.page, op.entry);
        CHECK(rig_await(&rig, &op) == -ECANCELED, "ended with %d", op.res);
        CHECK(nops[0].completions == 1 && nops[1].completions == 1, "no-ops");
        close(fds[0]);
        close(fds[1]);
    }
    rig_close(&rig);
}

static const struct test tests[] = {
    {"wake before sleep", test_wake_before_sleep, IN_ALL_MODES},
    {"wake during sleep", test_wake_during_sleep, IN_ALL_MODES},
    {"signal ends sleep", test_signal_ends_sleep, IN_ALL_MODES},
    {"timeouts", test_timeouts, IN_ALL_MODES},
    {"when it looks", test_when_it_looks, 1u << OWN},
    {"wake while looking", test_wake_while_looking, IN_ALL_MODES},
    {"looking finds", test_looking_finds, IN_ALL_MODES},
    {"looking in vain", test_looking_in_vain, 1u << OWN},
    {"publish to a drowsy thread", test_publish_to_drowsy_thread, IN_PINNED_MODES},
    {"post to a drowsy loop", test_post_to_drowsy_loop, IN_PINNED_MODES},
    {"full ring", test_full_ring, IN_ALL_MODES},
    {"stalled thread sleeps", test_stalled_thread_sleeps, IN_PINNED_MODES},
    {"cancel_now without room", test_cancel_now_without_room, IN_ALL_MODES},
    {"cancel_now while the thread sleeps", test_cancel_now_while_thread_sleeps, IN_PINNED_MODES},
};

MAIN(tests)
