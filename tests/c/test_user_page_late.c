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

static const struct test tests[] = {
    {"close here and now", test_close_here_and_now, IN_ALL_MODES},
    {"close while the thread sleeps", test_close_while_thread_sleeps, IN_PINNED_MODES},
    {"close with a late thread", test_close_with_a_late_thread, 1u << OWN},
};

MAIN(tests)
