/* The user page: what the loop does itself, because its thread has to wait for a CPU. */
#include "user_page_rig.h"

#include "../../flexsc_loop/syscalls/user_page_service.h"

/* A page whose thread never runs. */
static struct rig open_late(void) {
    struct rig rig = rig_open(OWN, 64);
    rig.page->pinned = true;
    rig.page->results.syscalls = &rig.page->results.counters.server_syscalls;
    return rig;
}

static void close_late(struct rig *rig) {
    rig->page->pinned = false;
    rig->page->results.syscalls = &rig->page->results.counters.loop_syscalls;
    rig_close(rig);
}

static bool has_ended(int fd) {
    char in[1];
    return recv(fd, in, sizeof in, MSG_DONTWAIT) == 0;
}

/* ---- closing ---- */

/* Owned and registered with epoll, its receive ended by a cancel. */
static void use_and_cancel(struct rig *rig, int fds[2]) {
    struct op op = {0}, cancel = {0};
    char in[8];
    rig_submit(rig, &op, CALL_RECV, fds[0], ENTRY_OWNED, in, sizeof in, 0);
    rig_turn(rig, 0);
    CHECK(write(fds[1], "abc", 3) == 3, "write");
    expect(rig, &op, 3);
    rig_submit(rig, &op, CALL_RECV, fds[0], ENTRY_OWNED, in, sizeof in, 0);
    rig_turn(rig, 0);
    rig_submit_cancel(rig, &cancel, &op);
    rig_await(rig, &cancel);
    expect(rig, &op, -ECANCELED);
}

/* The peer sees the end, and the number is free and knows nothing of its earlier life. */
static void test_close_here_and_now(enum mode mode) {
    struct rig rig = rig_open(mode, 64);
    int closed = 0, count = rounds(2000), number = -1;
    for (int round = 0; round < count; round++) {
        int fds[2];
        make_pair(SOCK_STREAM, fds);
        number = number < 0 ? fds[0] : number;
        CHECK(fds[0] == number, "descriptor %d, not %d: one was left open", fds[0], number);
        use_and_cancel(&rig, fds);
        if (flexsc_page_close_fd(rig.page, fds[0])) {
            CHECK(has_ended(fds[1]), "the peer sees no end");
            closed++;
        } else {
            CHECK(mode != OWN, "the thread, which there is not, was at work");
            close_by_entry(&rig, fds[0]);
        }
        close(fds[1]);
    }
    CHECK(closed > 0 && (mode != OWN || closed == count), "%d of %d", closed, count);
    rig_close(&rig);
}

/* Who is asleep is not woken up for it. */
static void test_close_while_thread_sleeps(enum mode mode) {
    struct rig rig = rig_open(mode, 64);
    const struct flexsc_counters *counters = flexsc_page_counters(rig.page);
    for (int round = rounds(200); round > 0; round--) {
        int fds[2];
        make_pair(SOCK_STREAM, fds);
        use_and_cancel(&rig, fds);
        uint64_t wakeups = counters->wakeups;
        /* It announces its sleep under the guard, and may find that an old ring of the doorbell has ended it. */
        do {
            while (atomic_load(&rig.page->thread_state) != THREAD_ASLEEP)
                sched_yield();
        } while (!flexsc_page_close_fd(rig.page, fds[0]));
        CHECK(has_ended(fds[1]), "the peer sees no end");
        CHECK(counters->wakeups == wakeups, "the thread was woken up");
        close(fds[1]);
    }
    rig_close(&rig);
}

/* A thread that does not run is not waited for; one that has lost its CPU at work cannot be helped. */
static void test_close_with_a_late_thread(enum mode mode) {
    (void)mode;
    struct rig rig = open_late();
    int fds[2];
    make_pair(SOCK_STREAM, fds);
    guard_lock(rig.page, &rig.page->results.counters.server_syscalls);
    CHECK(!flexsc_page_close_fd(rig.page, fds[0]), "closed under another's guard");
    guard_unlock(rig.page, &rig.page->results.counters.server_syscalls);
    CHECK(!has_ended(fds[1]), "closed");
    uint64_t calls = flexsc_page_counters(rig.page)->loop_syscalls;
    CHECK(flexsc_page_close_fd(rig.page, fds[0]), "not closed");
    CHECK(has_ended(fds[1]), "the peer sees no end");
    CHECK(flexsc_page_counters(rig.page)->loop_syscalls == calls + 1, "not counted as a call of the loop");
    CHECK(flexsc_page_counters(rig.page)->server_syscalls == 0, "counted as a call of the thread");
    close(fds[1]);
    close_late(&rig);
}

/* ---- helping ---- */

/* What has been published is done by the loop; what it had taken from the inbox already, for a cancel, too. */
static void test_help_a_late_thread(enum mode mode) {
    (void)mode;
    struct rig rig = open_late();
    const struct flexsc_counters *counters = flexsc_page_counters(rig.page);
    struct op send = {0}, recv = {0}, nops[2] = {{0}};
    int fds[2];
    char in[8];
    make_pair(SOCK_STREAM, fds);
    CHECK(!flexsc_page_help(rig.page), "helped with nothing");
    rig_submit(&rig, &send, CALL_SEND, fds[0], ENTRY_OWNED, "abc", 3, 0);
    flexsc_page_publish(rig.page);
    CHECK(!flexsc_page_all_begun(rig.page), "begun by nobody");
    guard_lock(rig.page, &rig.page->results.counters.server_syscalls);
    CHECK(!flexsc_page_help(rig.page), "helped under another's guard");
    guard_unlock(rig.page, &rig.page->results.counters.server_syscalls);
    CHECK(flexsc_page_help(rig.page), "no help");
    CHECK(flexsc_page_all_begun(rig.page) && counters->helps == 1, "%lu helps", (unsigned long)counters->helps);
    CHECK(read(fds[1], in, 8) == 3 && rig_reap(&rig) == 1 && send.res == 3, "sent %d", send.res);

    rig_submit(&rig, &nops[0], CALL_NOP, -1, 0, NULL, 0, 0);
    rig_submit(&rig, &recv, CALL_RECV, fds[0], 0, in, 8, 0);
    rig_submit(&rig, &nops[1], CALL_NOP, -1, 0, NULL, 0, 0);
    flexsc_page_publish(rig.page);
    flexsc_page_cancel_now(rig.page, recv.entry);
    CHECK(rig_reap(&rig) == 1 && recv.res == -ECANCELED, "ended with %d", recv.res);
    CHECK(!flexsc_page_all_begun(rig.page), "the rest is forgotten");
    CHECK(flexsc_page_help(rig.page) && rig_reap(&rig) == 2, "the rest was not done");
    CHECK(counters->server_syscalls == 0 && counters->loop_syscalls > 0, "the loop's calls are counted as the thread's");
    close(fds[0]);
    close(fds[1]);
    close_late(&rig);
}

/* The loop would sleep for ever if it only waited. */
static void test_help_before_a_sleep(enum mode mode) {
    (void)mode;
    struct rig rig = open_late();
    struct op op = {0};
    const int64_t looks[] = {0, 20000};
    for (int i = 0; i < 2; i++) {
        rig.loop_spin_ns = looks[i];
        rig_submit(&rig, &op, CALL_NOP, -1, 0, NULL, 0, 0);
        CHECK(rig_turn(&rig, -1) == 1 && op.entry == NULL, "not done");
    }
    CHECK(flexsc_page_counters(rig.page)->helps == 2, "not by helping");
    close_late(&rig);
}

/* A sleep for a thread that says it is awake and does nothing counts, less the time that it may look for work; one for a
 * thread that sleeps does not: there is nothing for it to do. */
static void test_starved(enum mode mode) {
    (void)mode;
    struct rig rig = open_late();
    const int64_t nap = 20000000, spin = 5000000;
    rig.page->spin_ns = spin;
    rig_turn(&rig, nap);
    int64_t starved = flexsc_page_starved_ns(rig.page);
    CHECK(starved >= nap - spin - nap / 10, "starved for %ld ns", (long)starved);
    CHECK(flexsc_page_starved_ns(rig.page) == 0, "told twice");
    atomic_store(&rig.page->thread_state, THREAD_ASLEEP);
    rig_turn(&rig, nap);
    CHECK(flexsc_page_starved_ns(rig.page) == 0, "by a thread that had nothing to do");
    close_late(&rig);
}

enum { LONG_SEND = 1 << 26, BITE = 1 << 12 };

static void *read_bit_by_bit(void *fd) {
    static char in[BITE];
    for (size_t left = LONG_SEND; left > 0;) {
        ssize_t got = read(*(int *)fd, in, sizeof in);
        CHECK(got > 0, "read: %s", strerror(errno));
        if (got <= 0)
            break;
        left -= (size_t)got;
    }
    return NULL;
}

/* A sleep for a thread that is at work and has nothing to tell of yet: its peer takes a long send bit by bit. */
static void test_not_starved_by_work(enum mode mode) {
    (void)mode;
    struct rig rig = rig_open(OWN, 64);
    static char out[LONG_SEND];
    struct op send = {0};
    pthread_t reader;
    int fds[2];
    make_pair(SOCK_STREAM, fds);
    CHECK(flexsc_thread_start(rig.page, -1, 10000000) == 0, "thread");
    rig.mode = PINNED;
    rig_submit(&rig, &send, CALL_SEND, fds[0], ENTRY_OWNED, out, sizeof out, MSG_WAITALL);
    CHECK(pthread_create(&reader, NULL, read_bit_by_bit, &fds[1]) == 0, "reader");
    expect(&rig, &send, LONG_SEND);
    pthread_join(reader, NULL);
    int64_t starved = flexsc_page_starved_ns(rig.page);
    CHECK(starved == 0, "starved for %ld ns", (long)starved);
    close_by_entry(&rig, fds[0]);
    close(fds[1]);
    rig_close(&rig);
}

enum { STREAM_SENDS = 8, SEND_SIZE = 50 };

/* The loop helps at any moment, while the thread is at work, about to sleep, asleep: all is done once and in order. */
static void test_help_races(enum mode mode) {
    struct rig rig = rig_open(mode, 16);
    static char out[STREAM_SENDS][SEND_SIZE], in[STREAM_SENDS * SEND_SIZE];
    struct op sends[STREAM_SENDS] = {{0}};
    struct op nop = {0};
    uint32_t random = 41;
    size_t sent = 0;
    int fds[2];
    make_pair(SOCK_STREAM, fds);
    for (int round = rounds(20000); round > 0; round--) {
        unsigned count = 1 + next_random(&random) % STREAM_SENDS;
        size_t before = sent;
        for (unsigned i = 0; i < count; i++, sent += SEND_SIZE) {
            stream_fill(out[i], 6, sent, SEND_SIZE);
            rig_submit(&rig, &sends[i], CALL_SEND, fds[0], ENTRY_OWNED, out[i], SEND_SIZE, 0);
            if (next_random(&random) % 2)
                flexsc_page_publish(rig.page);
            linger_for(next_random(&random) % 400);
            if (next_random(&random) % 2)
                flexsc_page_help(rig.page);
            if (next_random(&random) % 8 == 0 && nop.entry == NULL)
                rig_submit(&rig, &nop, CALL_NOP, -1, 0, NULL, 0, 0);
        }
        if (next_random(&random) % 4 == 0 && nop.entry != NULL)
            flexsc_page_cancel_now(rig.page, nop.entry);
        for (unsigned i = 0; i < count; i++) {
            CHECK(rig_await(&rig, &sends[i]) == SEND_SIZE, "sent %d", sends[i].res);
            CHECK(sends[i].completions == 1, "%d completions", sends[i].completions);
        }
        ssize_t got = recv(fds[1], in, count * SEND_SIZE, MSG_DONTWAIT);
        CHECK(got == (ssize_t)(count * SEND_SIZE) && stream_matches(in, 6, before, (size_t)got), "%zd wrong bytes", got);
        if (next_random(&random) % 64 == 0)
            usleep(100);
    }
    rig_await(&rig, &nop);
    CHECK(flexsc_page_counters(rig.page)->helps > 0, "no help was ever needed");
    close_by_entry(&rig, fds[0]);
    close(fds[1]);
    rig_close(&rig);
}

/* A ring without room, which the loop that helps cannot go on without: the thread does, or the next help. */
static void test_help_without_room(enum mode mode) {
    struct rig rig = rig_open(mode, 4);
    struct op ops[40] = {{0}};
    for (int round = rounds(2000); round > 0; round--) {
        for (int i = 0; i < 40; i++)
            rig_submit(&rig, &ops[i], CALL_NOP, -1, 0, NULL, 0, 0);
        flexsc_page_publish(rig.page);
        if (round % 2)
            linger_for((uint32_t)round % 512);
        flexsc_page_help(rig.page);
        for (int i = 0; i < 40; i++)
            expect(&rig, &ops[i], 0);
    }
    rig_close(&rig);
}

static const struct test tests[] = {
    {"close here and now", test_close_here_and_now, IN_ALL_MODES},
    {"close while the thread sleeps", test_close_while_thread_sleeps, IN_PINNED_MODES},
    {"close with a late thread", test_close_with_a_late_thread, 1u << OWN},
    {"help a late thread", test_help_a_late_thread, 1u << OWN},
    {"help before a sleep", test_help_before_a_sleep, 1u << OWN},
    {"starved", test_starved, 1u << OWN},
    {"not starved by work", test_not_starved_by_work, 1u << OWN},
    {"help races", test_help_races, IN_PINNED_MODES},
    {"help without room", test_help_without_room, IN_PINNED_MODES},
};

MAIN(tests)
