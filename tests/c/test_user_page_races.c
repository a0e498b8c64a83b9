/* The user page: cancelling, reusing, ending and stopping against a peer that acts at the same time. */
#include "user_page_rig.h"

/* ---- cancelling while data arrives ---- */

struct sender {
    int fd;
    size_t size;
    uint32_t seed;
    _Atomic size_t received; /* the receiver's progress */
    _Atomic int canceled;
};

/* Let the receiver catch up and, if it wants to, cancel a receive that has nothing to receive. */
static void wait_for_receiver(struct sender *sender, size_t at) {
    int canceled = sender->canceled;
    while (sender->received < at && helper_failures == 0)
        usleep(100);
    for (int i = 0; i < 50 && sender->canceled == canceled; i++)
        usleep(100);
}

static void *sender_main(void *argument) {
    struct sender *sender = argument;
    char out[64];
    uint32_t random = 17;
    for (size_t at = 0; at < sender->size;) {
        size_t n = 1 + next_random(&random) % sizeof out;
        n = n < sender->size - at ? n : sender->size - at;
        stream_fill(out, sender->seed, at, n);
        ssize_t done = send(sender->fd, out, n, 0);
        CHECK(done == (ssize_t)n, "send: %s", strerror(errno));
        if (done < 0)
            break;
        at += (size_t)done;
        if (at / (sender->size / 20) != (at - (size_t)done) / (sender->size / 20))
            wait_for_receiver(sender, at);
        linger_for(next_random(&random) % 4000);
    }
    shutdown(sender->fd, SHUT_WR);
    return NULL;
}

/* Receive a stream while every second receive is cancelled: nothing lost, nothing twice, nothing written late. */
static void cancel_race(enum mode mode, bool now, uint8_t flags) {
    struct rig rig = rig_open(mode, 64);
    int fds[2];
    char in[128];
    uint32_t random = 4711;
    size_t got = 0;
    struct op op = {0}, cancel = {0};
    make_tcp_pair(fds);
    struct sender sender = {.fd = fds[1], .size = (size_t)rounds(200000), .seed = 3};
    pthread_t thread;
    pthread_create(&thread, NULL, sender_main, &sender);
    for (;;) {
        rig_submit(&rig, &op, CALL_RECV, fds[0], flags, in, sizeof in, 0);
        flexsc_page_publish(rig.page);
        if (next_random(&random) % 2) {
            linger_for(next_random(&random) % 5000);
            if (now && op.entry != NULL) {
                flexsc_page_cancel_now(rig.page, op.entry);
                char before[sizeof in];
                memcpy(before, in, sizeof in);
                linger_for(300);
                CHECK(memcmp(before, in, sizeof in) == 0, "the buffer was written after cancel_now");
            } else if (!now) {
                rig_submit_cancel(&rig, &cancel, &op);
                rig_await(&rig, &cancel);
                CHECK(cancel.res == 0 || cancel.res == -ENOENT, "cancel: %d", cancel.res);
            }
        }
        int32_t res = rig_await(&rig, &op);
        if (res == 0)
            break;
        sender.canceled += res == -ECANCELED;
        CHECK(res > 0 || res == -ECANCELED, "received %d", res);
        CHECK(res < 0 || stream_matches(in, 3, got, (size_t)res), "wrong data near %zu", got);
        got += res > 0 ? (size_t)res : 0;
        sender.received = got;
    }
    CHECK(got == sender.size, "%zu of %zu bytes", got, sender.size);
    CHECK(sender.canceled > 0, "nothing was ever cancelled");
    pthread_join(thread, NULL);
    rig_submit(&rig, &op, CALL_CLOSE, fds[0], flags, NULL, 0, 0);
    rig_await(&rig, &op);
    close(fds[1]);
    rig_close(&rig);
}

static void test_cancel_now_race(enum mode mode) { cancel_race(mode, true, 0); }
static void test_cancel_now_race_owned(enum mode mode) { cancel_race(mode, true, ENTRY_OWNED); }
static void test_cancel_call_race(enum mode mode) { cancel_race(mode, false, ENTRY_OWNED); }

/* ---- cancel_now leaves nothing open ---- */

enum { OVER_BUFFERS = 16, OVER_SIZE = 100, POISON = 0x5a };

static bool poisoned(const char *from, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (from[i] != POISON)
            return false;
    return true;
}

/* Cancel at a moment of chance, or as soon as the entry is said to be done. */
static void cancel_some_time(struct rig *rig, struct op *op, uint32_t random) {
    if (random % 2)
        linger_for(random / 2 % 3000);
    for (int i = 0; random % 2 == 0 && i < 3000; i++)
        if (atomic_load_explicit(&op->entry->status, memory_order_relaxed) == ENTRY_DONE)
            break;
    flexsc_page_cancel_now(rig->page, op->entry);
    rig_reap(rig);
    CHECK(op->entry == NULL, "cancel_now has returned, and its completion is not there");
}

/* One thread sends a stream and receives it, cancelling most receives: each is over, with what it has received, when
 * the cancel returns.  Bytes stay in order, none is lost, no buffer is written to later. */
static void test_over_after_cancel_now(enum mode mode) {
    struct rig rig = rig_open(mode, 64);
    static char buffers[OVER_BUFFERS][OVER_SIZE];
    int fds[2];
    char out[150];
    uint32_t random = 23;
    size_t sent = 0, got = 0;
    int canceled = 0, received = 0;
    struct op op = {0};
    make_pair(SOCK_STREAM, fds);
    memset(buffers, POISON, sizeof buffers);
    int count = rounds(60000);
    for (int round = 0; round < count || got < sent; round++) {
        char *in = buffers[round % OVER_BUFFERS];
        CHECK(poisoned(in, OVER_SIZE), "an old buffer was written to after its receive was over");
        rig_submit(&rig, &op, CALL_RECV, fds[0], 0, in, OVER_SIZE, 0);
        if (next_random(&random) % 4) {
            if (mode == OWN)
                rig_turn(&rig, 0);
            else
                flexsc_page_publish(rig.page);
        }
        size_t n = round < count ? 1 + next_random(&random) % sizeof out : 0;
        stream_fill(out, 8, sent, n);
        ssize_t done = send(fds[1], out, n, MSG_DONTWAIT);
        CHECK(done == (ssize_t)n || (done < 0 && errno == EAGAIN), "send: %s", strerror(errno));
        sent += done > 0 ? (size_t)done : 0;
        if (op.entry != NULL && next_random(&random) % 3)
            cancel_some_time(&rig, &op, next_random(&random));
        else if (op.entry != NULL && sent == got)
            cancel_some_time(&rig, &op, 1);
        for (int64_t end = rig_now_ns() + 5000000000; op.entry != NULL; rig_turn(&rig, 100000000))
            CHECK(rig_now_ns() < end, "no data, but there are %zu bytes in the socket", sent - got);
        CHECK(op.res > 0 || op.res == -ECANCELED, "received %d", op.res);
        size_t length = op.res > 0 ? (size_t)op.res : 0;
        CHECK(stream_matches(in, 8, got, length), "wrong data near %zu", got);
        CHECK(poisoned(in + length, OVER_SIZE - length), "written behind the %zu bytes received", length);
        memset(in, POISON, OVER_SIZE);
        got += length;
        canceled += length == 0;
        received += length != 0;
    }
    CHECK(got == sent && canceled > 0 && received > 0, "%zu of %zu bytes, %d cancelled, %d received", got, sent, canceled,
          received);
    CHECK(poisoned(buffers[0], sizeof buffers), "an old buffer was written to after its receive was over");
    close(fds[0]);
    close(fds[1]);
    rig_close(&rig);
}

/* ---- numbers that become other files ---- */

/* A waiter is ended, its fd closed behind the page's back, the number reused at once. */
static void test_reused_number(enum mode mode) {
    struct rig rig = rig_open(mode, 64);
    uint32_t random = 31;
    for (int round = rounds(4000); round > 0; round--) {
        int fds[2], again[2];
        char in[8];
        struct op op = {0}, poll_op = {0};
        make_pair(SOCK_STREAM, fds);
        rig_submit(&rig, &op, CALL_RECV, fds[0], 0, in, 8, 0);
        rig_submit(&rig, &poll_op, CALL_POLL, fds[0], 0, NULL, 0, POLLIN);
        rig_turn(&rig, 0);
        linger_for(next_random(&random) % 2000);
        if (round % 2)
            CHECK(write(fds[1], "old", 3) == 3, "write");
        flexsc_page_cancel_now(rig.page, op.entry != NULL ? op.entry : poll_op.entry);
        if (poll_op.entry != NULL)
            flexsc_page_cancel_now(rig.page, poll_op.entry);
        int copy = round % 3 == 0 ? fcntl(fds[0], F_DUPFD_CLOEXEC, 100) : -1; /* keeps the old file in epoll */
        close(fds[0]);
        close(fds[1]);
        make_pair(SOCK_STREAM, again);
        CHECK(again[0] == fds[0], "another number");
        rig_await(&rig, &op);
        rig_await(&rig, &poll_op);
        rig_submit(&rig, &poll_op, CALL_POLL, again[0], 0, NULL, 0, POLLIN);
        rig_turn(&rig, 0);
        rig_turn(&rig, 1000);
        CHECK(poll_op.entry != NULL, "an event of the old file: %x", poll_op.res);
        CHECK(write(again[1], "new", 3) == 3, "write");
        CHECK(rig_await(&rig, &poll_op) == POLLIN, "event %x", poll_op.res);
        rig_submit(&rig, &op, CALL_RECV, again[0], 0, in, 8, 0);
        CHECK(rig_await(&rig, &op) == 3 && memcmp(in, "new", 3) == 0, "got %d", op.res);
        close(again[0]);
        close(again[1]);
        if (copy >= 0)
            close(copy);
    }
    rig_close(&rig);
}

/* The same number in turn owned (closed by an entry), not owned (closed directly), owned, ... */
static void test_owned_and_not_owned(enum mode mode) {
    struct rig rig = rig_open(mode, 64);
    int number = -1;
    for (int round = 0; round < rounds(3000); round++) {
        uint8_t flags = round % 2 ? ENTRY_OWNED : 0;
        int fds[2];
        char in[8];
        struct op op = {0}, closing = {0};
        (round % 4 < 2 ? make_pair(SOCK_STREAM, fds) : make_tcp_pair(fds));
        number = number < 0 ? fds[0] : number;
        rig_submit(&rig, &op, CALL_RECV, fds[0], flags, in, 8, 0);
        rig_turn(&rig, 0);
        CHECK(write(fds[1], "abc", 3) == 3, "write");
        CHECK(rig_await(&rig, &op) == 3, "got %d", op.res);
        rig_submit(&rig, &op, CALL_RECV, fds[0], flags, in, 8, 0);
        rig_turn(&rig, 0);
        if (flags) {
            rig_submit(&rig, &closing, CALL_CLOSE, fds[0], flags, NULL, 0, 0);
            CHECK(rig_await(&rig, &closing) == 0, "close: %d", closing.res);
        } else {
            flexsc_page_cancel_now(rig.page, op.entry);
            close(fds[0]);
        }
        CHECK(rig_await(&rig, &op) == -ECANCELED, "ended with %d", op.res);
        close(fds[1]);
    }
    rig_close(&rig);
}

/* An fd whose owner gives it away: owned receives first, then others, then owned again. */
static void test_changing_hands(enum mode mode) {
    struct rig rig = rig_open(mode, 64);
    for (int round = rounds(500); round > 0; round--) {
        int fds[2];
        char in[8];
        struct op op = {0}, other = {0};
        make_tcp_pair(fds);
        for (int i = 0; i < 6; i++) {
            rig_submit(&rig, &op, CALL_RECV, fds[0], i % 2 ? ENTRY_OWNED : 0, in, 8, 0);
            rig_turn(&rig, 0);
            if (i > 3)
                rig_submit(&rig, &other, CALL_POLL, fds[0], i % 2 ? 0 : ENTRY_OWNED, NULL, 0, POLLPRI);
            CHECK(write(fds[1], "abc", 3) == 3, "write");
            CHECK(rig_await(&rig, &op) == 3, "got %d", op.res);
            if (other.entry != NULL) {
                flexsc_page_cancel_now(rig.page, other.entry);
                CHECK(rig_await(&rig, &other) == -ECANCELED, "ended with %d", other.res);
            }
        }
        rig_submit(&rig, &op, CALL_CLOSE, fds[0], ENTRY_OWNED, NULL, 0, 0);
        rig_await(&rig, &op);
        close(fds[1]);
    }
    rig_close(&rig);
}

/* ---- the end of a stream ---- */

struct ender {
    int fd;
    int how;
    uint32_t delay;
};

static void *ender_main(void *argument) {
    struct ender *ender = argument;
    linger_for(ender->delay);
    CHECK(send(ender->fd, "data", 4, 0) == 4, "%s", strerror(errno));
    if (ender->how == 1)
        linger_for(ender->delay * 3);
    if (ender->how == 2)
        shutdown(ender->fd, SHUT_WR);
    else
        close(ender->fd);
    return NULL;
}

struct tally {
    size_t got;
    bool ended;
};

static void on_stream(struct rig *rig, struct op *op) {
    struct tally *tally = op->owner;
    CHECK(!tally->ended, "data after the end");
    if (op->flags & COMPLETION_BUFFER) {
        tally->got += (size_t)op->res;
        rig_give_buffer(rig, op->flags >> COMPLETION_BUFFER_SHIFT);
    } else {
        CHECK(op->res == 0, "ended with %d", op->res);
        tally->ended = true;
    }
}

/* The end comes with the data, right after it, or a little later: it is always seen. */
static void test_end_of_stream(enum mode mode) {
    struct rig rig = rig_open(mode, 64);
    uint32_t random = 77;
    rig_pool(&rig, 8, 64);
    for (int round = rounds(3000); round > 0; round--) {
        int fds[2];
        struct tally tally = {0};
        struct op op = {.owner = &tally, .on_completion = on_stream}, closing = {0};
        (round % 4 ? make_tcp_pair(fds) : make_pair(SOCK_STREAM, fds));
        struct ender ender = {.fd = fds[1], .how = round % 3, .delay = next_random(&random) % 4000};
        pthread_t thread;
        rig_submit(&rig, &op, CALL_RECV, fds[0], ENTRY_OWNED | ENTRY_MULTISHOT | ENTRY_POOL, NULL, 0, 0);
        if (round % 2)
            rig_turn(&rig, 0);
        pthread_create(&thread, NULL, ender_main, &ender);
        while (!tally.ended)
            rig_turn(&rig, -1);
        CHECK(tally.got == 4, "%zu bytes", tally.got);
        pthread_join(thread, NULL);
        rig_submit(&rig, &closing, CALL_CLOSE, fds[0], ENTRY_OWNED, NULL, 0, 0);
        rig_await(&rig, &closing);
        if (ender.how == 2)
            close(fds[1]);
    }
    rig_close(&rig);
}

/* ---- starting and stopping ---- */

static void test_start_and_stop(enum mode mode) {
    struct rig rig = rig_open(mode, 64);
    int fds[2];
    char in[8];
    struct op op = {0};
    make_tcp_pair(fds);
    int64_t cpu = 0;
    for (int round = rounds(400); round > 0; round--) {
        rig_submit(&rig, &op, CALL_RECV, fds[0], ENTRY_OWNED, in, 8, 0);
        if (round % 3)
            rig_turn(&rig, 0);
        flexsc_thread_stop(rig.page);
        CHECK(flexsc_thread_id(rig.page) == 0, "a thread still");
        int64_t now = flexsc_thread_cpu_ns(rig.page);
        CHECK(now >= cpu, "CPU time went back");
        cpu = now;
        rig.mode = OWN;
        if (round % 2) {
            CHECK(write(fds[1], "own", 3) == 3, "write");
            CHECK(rig_await(&rig, &op) == 3, "got %d", op.res);
            rig_submit(&rig, &op, CALL_RECV, fds[0], ENTRY_OWNED, in, 8, 0);
            rig_turn(&rig, 0);
        }
        rig.mode = mode;
        CHECK(rig_start_thread(&rig) == 0, "start");
        CHECK(write(fds[1], "thread", 6) == 6, "write");
        CHECK(rig_await(&rig, &op) == 6, "got %d", op.res);
        rig_thread_id(&rig);
    }
    /* Entries parked on the page when it goes. */
    rig_submit(&rig, &op, CALL_RECV, fds[0], ENTRY_OWNED, in, 8, 0);
    rig_turn(&rig, 0);
    rig_close(&rig);
    close(fds[0]);
    close(fds[1]);
}

static void test_close_with_waiters(enum mode mode) {
    for (int round = rounds(100); round > 0; round--) {
        struct rig rig = rig_open(mode, 4);
        int fds[2];
        char in[8];
        struct op ops[600] = {{0}};
        make_pair(SOCK_STREAM, fds);
        for (int i = 0; i < 600; i++)
            rig_submit(&rig, &ops[i], i % 3 ? CALL_RECV : CALL_NOP, fds[i % 2], i % 5 ? ENTRY_OWNED : 0, in, 8, 0);
        if (round % 3)
            flexsc_page_publish(rig.page);
        if (round % 3 == 1)
            rig_turn(&rig, 0);
        rig_close(&rig);
        close(fds[0]);
        close(fds[1]);
    }
}

/* A child has none of the page's memory; what it may do is close its copy. */
static void test_fork(enum mode mode) {
    struct rig rig = rig_open(mode, 64);
    int fds[2], status;
    char in[8];
    struct op op = {0};
    make_pair(SOCK_STREAM, fds);
    rig_submit(&rig, &op, CALL_RECV, fds[0], ENTRY_OWNED, in, 8, 0);
    rig_turn(&rig, 1000000);
    pid_t child = fork();
    if (child == 0) {
        int before = count_dir("/proc/self/fd");
        flexsc_page_close(rig.page);
        _exit(count_dir("/proc/self/fd") == before - 2 ? 0 : 1);
    }
    CHECK(child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0,
          "the child ended with %x", status);
    CHECK(write(fds[1], "x", 1) == 1 && rig_await(&rig, &op) == 1, "received %d", op.res);
    close(fds[0]);
    close(fds[1]);
    rig_close(&rig);
}

static void test_pinning(enum mode mode) {
    struct rig rig = rig_open(OWN, 64);
    CHECK(flexsc_thread_start(rig.page, 100000, 0) == -EINVAL, "a CPU that does not exist");
    CHECK(flexsc_thread_id(rig.page) == 0, "a thread");
    CHECK(flexsc_thread_start(rig.page, 0, 0) == 0, "CPU 0");
    rig.mode = mode;
    struct op op = {0};
    rig_submit(&rig, &op, CALL_NOP, -1, 0, NULL, 0, 0);
    CHECK(rig_await(&rig, &op) == 0, "got %d", op.res);
    char path[64], name[32] = "";
    snprintf(path, sizeof path, "/proc/self/task/%d/comm", rig_thread_id(&rig));
    FILE *file = fopen(path, "r");
    CHECK(file != NULL && fgets(name, sizeof name, file) != NULL && strcmp(name, "flexsc-page\n") == 0, "name %s", name);
    fclose(file);
    cpu_set_t set;
    CHECK(sched_getaffinity(flexsc_thread_id(rig.page), sizeof set, &set) == 0 && CPU_COUNT(&set) == 1 &&
              CPU_ISSET(0, &set),
          "not pinned");
    CHECK(flexsc_thread_start(rig.page, 0, 0) < 0, "two threads");
    rig_close(&rig);
}

enum { CROWD = 4 };

struct member {
    pthread_t loop;
    int cpu;
    unsigned seed;
    enum mode mode;
};

/* A loop whose page's thread comes and goes, on the CPU of the others' threads. */
static void *live_in_crowd(void *argument) {
    struct member *member = argument;
    uint32_t random = member->seed;
    struct rig rig = rig_open(OWN, 16);
    struct op recv = {0}, send = {0};
    char in[8];
    int fds[2];
    make_pair(SOCK_STREAM, fds);
    for (int round = rounds(4000); round > 0; round--) {
        if (next_random(&random) % 32 == 0) {
            flexsc_thread_stop(rig.page);
            if (next_random(&random) % 4 != 0)
                CHECK(flexsc_thread_start(rig.page, member->cpu, member->mode == PINNED ? 200000 : 0) == 0, "no thread");
        }
        rig_submit(&rig, &recv, CALL_RECV, fds[0], ENTRY_OWNED, in, sizeof in, 0);
        rig_submit(&rig, &send, CALL_SEND, fds[1], ENTRY_OWNED, "in turn", 7, 0);
        expect(&rig, &send, 7);
        expect(&rig, &recv, 7);
    }
    close_by_entry(&rig, fds[0]);
    close_by_entry(&rig, fds[1]);
    flexsc_page_close(rig.page);
    return NULL;
}

/* Threads of several pages share a CPU: each page is served, whoever comes and goes. */
static void test_crowd(enum mode mode) {
    struct member members[CROWD];
    cpu_set_t allowed;
    int cpu = 0;
    sched_getaffinity(0, sizeof allowed, &allowed);
    while (!CPU_ISSET(cpu, &allowed))
        cpu++;
    for (unsigned i = 0; i < CROWD; i++) {
        members[i] = (struct member){.cpu = cpu, .seed = i + 1, .mode = mode};
        CHECK(pthread_create(&members[i].loop, NULL, live_in_crowd, &members[i]) == 0, "no thread for a loop");
    }
    for (int i = 0; i < CROWD; i++)
        pthread_join(members[i].loop, NULL);
}

static const struct test tests[] = {
    {"cancel_now while data arrives", test_cancel_now_race, IN_ALL_MODES},
    {"cancel_now while data arrives, owned", test_cancel_now_race_owned, IN_ALL_MODES},
    {"cancel call while data arrives", test_cancel_call_race, IN_ALL_MODES},
    {"over after cancel_now", test_over_after_cancel_now, IN_ALL_MODES},
    {"reused number", test_reused_number, IN_ALL_MODES},
    {"owned and not owned", test_owned_and_not_owned, IN_ALL_MODES},
    {"changing hands", test_changing_hands, IN_ALL_MODES},
    {"end of stream", test_end_of_stream, IN_ALL_MODES},
    {"start and stop", test_start_and_stop, IN_PINNED_MODES},
    {"close with waiters", test_close_with_waiters, IN_ALL_MODES},
    {"fork", test_fork, IN_ALL_MODES},
    {"a crowd on one CPU", test_crowd, IN_PINNED_MODES},
    {"pinning", test_pinning, 1u << PINNED_SLEEPY},
};

MAIN(tests)
