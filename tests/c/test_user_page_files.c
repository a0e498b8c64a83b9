/* The user page: reads and writes, polls, connections, and how things are ended. */
#include "user_page_rig.h"

static void test_read_write(enum mode mode) {
    struct rig rig = rig_open(mode, 64);
    for (int kind = 0; kind < 4; kind++) {
        bool nonblocking = kind & 1;
        uint8_t flags = kind & 2 ? ENTRY_OWNED : 0;
        struct op op = {0};
        uint64_t value = 0, one = 1;
        int event = eventfd(0, EFD_CLOEXEC | (nonblocking ? EFD_NONBLOCK : 0));
        rig_submit(&rig, &op, CALL_READ, event, flags, &value, 8, 0);
        rig_calm(&rig);
        CHECK(op.entry != NULL, "completed without an event");
        CHECK(write(event, &one, 8) == 8, "write");
        expect(&rig, &op, 8);
        rig_submit(&rig, &op, CALL_WRITE, event, flags, &one, 8, 0);
        expect(&rig, &op, 8);
        rig_submit(&rig, &op, CALL_READ, event, flags, &value, 8, 0);
        expect(&rig, &op, 8);
        close_by_entry(&rig, event);

        int fds[2];
        char in[64], *big = calloc(1, 1 << 20);
        CHECK(pipe2(fds, O_CLOEXEC | (nonblocking ? O_NONBLOCK : 0)) == 0, "pipe");
        for (int i = 0; i < 3; i++) {
            rig_submit(&rig, &op, CALL_READ, fds[0], flags, in, sizeof in, 0);
            rig_calm(&rig);
            CHECK(op.entry != NULL, "completed without data: %d", op.res);
            CHECK(write(fds[1], "pipe", 4) == 4, "write");
            expect(&rig, &op, 4);
        }
        rig_submit(&rig, &op, CALL_WRITE, fds[1], flags, big, 1 << 20, 0);
        int32_t written = rig_await(&rig, &op);
        CHECK(written > 0 && written < 1 << 20, "wrote %d", written);
        while (op.res != -EAGAIN && op.entry == NULL) {
            rig_submit(&rig, &op, CALL_WRITE, fds[1], flags, big, 4096, 0);
            rig_calm(&rig);
        }
        CHECK(op.entry != NULL, "a full pipe: %d", op.res);
        for (int i = 0; i < 8; i++)
            CHECK(read(fds[0], big, 4096) > 0, "read");
        CHECK(rig_await(&rig, &op) > 0, "wrote %d", op.res);
        close_by_entry(&rig, fds[0]);
        rig_submit(&rig, &op, CALL_WRITE, fds[1], flags, "x", 1, 0);
        expect(&rig, &op, -EPIPE);
        close_by_entry(&rig, fds[1]);
        free(big);
    }
    rig_close(&rig);
}

static int temporary_file(void) {
    char path[] = "/tmp/user_page_XXXXXX";
    int fd = mkostemp(path, O_CLOEXEC);
    CHECK(fd >= 0 && unlink(path) == 0, "%s", strerror(errno));
    return fd;
}

static void test_poll(enum mode mode) {
    struct rig rig = rig_open(mode, 64);
    for (int owned = 0; owned < 2; owned++) {
        uint8_t flags = owned ? ENTRY_OWNED : 0;
        int fds[2];
        char in[8];
        struct op op = {0}, other = {0};
        make_pair(SOCK_STREAM, fds);
        /* Level: ready as long as there is data, however often it is asked. */
        for (int i = 0; i < 5; i++) {
            rig_submit(&rig, &op, CALL_POLL, fds[0], flags, NULL, 0, POLLIN);
            rig_calm(&rig);
            CHECK(op.entry != NULL, "ready without data: %x", op.res);
            CHECK(write(fds[1], "x", 1) == 1, "write");
            expect(&rig, &op, POLLIN);
            for (int j = 0; j < 3; j++) {
                rig_submit(&rig, &op, CALL_POLL, fds[0], flags, NULL, 0, POLLIN | POLLOUT);
                if (mode == OWN) {
                    flexsc_page_serve(rig.page, 0);
                    CHECK(flexsc_page_has_completions(rig.page), "not in this serve");
                }
                expect(&rig, &op, POLLIN | POLLOUT);
            }
            CHECK(read(fds[0], in, 8) == 1, "read");
        }
        /* Two waiters, one event each. */
        rig_submit(&rig, &op, CALL_POLL, fds[0], flags, NULL, 0, POLLIN);
        rig_submit(&rig, &other, CALL_POLL, fds[0], flags, NULL, 0, POLLOUT);
        expect(&rig, &other, POLLOUT);
        rig_calm(&rig);
        CHECK(op.entry != NULL, "ready without data: %x", op.res);
        CHECK(write(fds[1], "x", 1) == 1, "write");
        expect(&rig, &op, POLLIN);
        /* Hang-up is reported unasked. */
        rig_submit(&rig, &op, CALL_POLL, fds[0], flags, NULL, 0, 0);
        rig_calm(&rig);
        CHECK(op.entry != NULL, "ready: %x", op.res);
        close(fds[1]);
        expect(&rig, &op, POLLHUP);
        close_by_entry(&rig, fds[0]);

        int file = temporary_file();
        rig_submit(&rig, &op, CALL_POLL, file, flags, NULL, 0, POLLIN);
        if (mode == OWN) {
            flexsc_page_serve(rig.page, 0);
            CHECK(flexsc_page_has_completions(rig.page), "not in this serve");
        }
        expect(&rig, &op, POLLIN);
        rig_submit(&rig, &op, CALL_POLL, file, flags, NULL, 0, POLLIN | POLLOUT);
        expect(&rig, &op, POLLIN | POLLOUT);
        rig_submit(&rig, &op, CALL_WRITE, file, flags, "text", 4, 0);
        expect(&rig, &op, 4);
        rig_submit(&rig, &op, CALL_READ, file, (uint8_t)(flags | ENTRY_POLL_FIRST), in, 4, 0);
        expect(&rig, &op, 0);
        close_by_entry(&rig, file);
    }
    rig_close(&rig);
}

/* A poll that goes on tells of each event once, and misses none. */
static void test_poll_again_and_again(enum mode mode) {
    struct rig rig = rig_open(mode, 64);
    struct op op = {0};
    char in[8];
    int fds[2];
    make_pair(SOCK_STREAM, fds);
    CHECK(write(fds[1], "x", 1) == 1, "write");
    rig_submit(&rig, &op, CALL_POLL, fds[0], ENTRY_OWNED | ENTRY_MULTISHOT, NULL, 0, POLLIN | POLLRDHUP);
    for (int i = 1; i <= 20; i++) {
        rig_await_count(&rig, &op, i);
        rig_calm(&rig);
        CHECK(op.entry != NULL && op.completions == i, "%d completions for %d events", op.completions, i);
        CHECK(op.res & POLLIN, "%x", op.res);
        /* Now and then the data stays where it is: what comes on top of it is an event all the same. */
        if (i % 3 != 0)
            while (recv(fds[0], in, sizeof in, MSG_DONTWAIT) > 0)
                continue;
        CHECK(write(fds[1], "x", 1) == 1, "write");
    }
    rig_await_count(&rig, &op, 21);
    close(fds[1]);
    rig_await_count(&rig, &op, 22);
    CHECK(op.res & POLLRDHUP, "the end was not told: %x", op.res);
    struct op cancel = {0};
    rig_submit_cancel(&rig, &cancel, &op);
    expect(&rig, &cancel, 0);
    expect(&rig, &op, -ECANCELED);
    close_by_entry(&rig, fds[0]);
    rig_close(&rig);
}

static void count_accepted(struct rig *rig, struct op *op) {
    (void)rig;
    if (op->res >= 0 && (op->flags & COMPLETION_MORE)) {
        close(op->res);
        (*(int *)op->owner)++;
    }
}

static void test_accept(enum mode mode) {
    struct rig rig = rig_open(mode, 64);
    struct sockaddr_in address;
    int listener = tcp_listen(&address, 1000), clients[200], accepted = 0;
    struct op op = {0}, single = {0};
    fcntl(listener, F_SETFL, O_NONBLOCK);
    op.owner = &accepted;
    op.on_completion = count_accepted;
    rig_submit(&rig, &op, CALL_ACCEPT, listener, ENTRY_OWNED | ENTRY_MULTISHOT, NULL, 0, SOCK_NONBLOCK | SOCK_CLOEXEC);
    for (int i = 0; i < 200; i++) {
        clients[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        CHECK(connect(clients[i], (struct sockaddr *)&address, sizeof address) == 0, "%s", strerror(errno));
        if (i == 50)
            rig_calm(&rig);
    }
    while (accepted < 200)
        rig_turn(&rig, -1);
    for (int i = 0; i < 200; i++)
        close(clients[i]);
    CHECK(op.entry != NULL, "ended with %d", op.res);
    struct op cancel = {0};
    rig_submit_cancel(&rig, &cancel, &op);
    expect(&rig, &cancel, 0);
    expect(&rig, &op, -ECANCELED);
    rig_submit(&rig, &single, CALL_ACCEPT, listener, ENTRY_OWNED, NULL, 0, SOCK_CLOEXEC);
    rig_calm(&rig);
    int client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK(connect(client, (struct sockaddr *)&address, sizeof address) == 0, "%s", strerror(errno));
    int fd = rig_await(&rig, &single);
    CHECK(fd >= 0 && single.flags == 0, "accepted %d", fd);
    close(fd);
    close(client);
    close_by_entry(&rig, listener);
    rig_close(&rig);
}

static void test_accept_without_fds(enum mode mode) {
    struct rig rig = rig_open(mode, 64);
    struct sockaddr_in address;
    int listener = tcp_listen(&address, 100), clients[6], accepted = 0;
    struct op op = {.owner = &accepted, .on_completion = count_accepted};
    fcntl(listener, F_SETFL, O_NONBLOCK);
    for (int i = 0; i < 6; i++) {
        clients[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        CHECK(connect(clients[i], (struct sockaddr *)&address, sizeof address) == 0, "%s", strerror(errno));
    }
    struct rlimit before, tight;
    getrlimit(RLIMIT_NOFILE, &before);
    tight = before;
    int next = dup(listener);
    close(next);
    tight.rlim_cur = (rlim_t)next;
    setrlimit(RLIMIT_NOFILE, &tight);
    rig_submit(&rig, &op, CALL_ACCEPT, listener, ENTRY_OWNED | ENTRY_MULTISHOT, NULL, 0, SOCK_CLOEXEC);
    while (op.entry != NULL)
        rig_turn(&rig, -1);
    setrlimit(RLIMIT_NOFILE, &before);
    CHECK(op.res == -EMFILE && op.flags == 0, "ended with %d", op.res);
    CHECK(accepted == 0, "accepted %d", accepted);
    rig_submit(&rig, &op, CALL_ACCEPT, listener, ENTRY_OWNED | ENTRY_MULTISHOT, NULL, 0, SOCK_CLOEXEC);
    while (accepted < 6)
        rig_turn(&rig, -1);
    for (int i = 0; i < 6; i++)
        close(clients[i]);
    close_by_entry(&rig, listener);
    expect(&rig, &op, -ECANCELED);
    rig_close(&rig);
}

static void submit_connect(struct rig *rig, struct op *op, int fd, uint8_t flags, const void *address, size_t size) {
    struct flexsc_entry *entry = rig_entry(rig, op, CALL_CONNECT, fd, flags);
    entry->addr = (uint64_t)(uintptr_t)address;
    entry->off = size;
    flexsc_page_submit(rig->page, entry);
}

static void test_connect(enum mode mode) {
    struct rig rig = rig_open(mode, 64);
    struct op op = {0};
    for (int round = 0; round < 10; round++) {
        uint8_t flags = (uint8_t)((round & 1 ? ENTRY_OWNED : 0) | (round & 2 ? ENTRY_POLL_FIRST : 0));
        struct sockaddr_in address;
        int listener = tcp_listen(&address, 10);
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        /* epoll knows the socket already, and as hung up. */
        rig_submit(&rig, &op, CALL_POLL, fd, flags, NULL, 0, POLLOUT);
        expect(&rig, &op, POLLOUT | POLLHUP);
        submit_connect(&rig, &op, fd, flags, &address, sizeof address);
        expect(&rig, &op, 0);
        int peer = accept(listener, NULL, NULL);
        char in[4];
        struct op recv_op = {0};
        rig_submit(&rig, &recv_op, CALL_RECV, fd, flags, in, 4, 0);
        CHECK(write(peer, "hey", 3) == 3, "write");
        expect(&rig, &recv_op, 3);
        /* After a connect without waiting Linux says 0 once more before it says EISCONN. */
        connect(fd, (struct sockaddr *)&address, sizeof address);
        submit_connect(&rig, &op, fd, flags, &address, sizeof address);
        expect(&rig, &op, -EISCONN);
        close_by_entry(&rig, fd);
        close(peer);
        close(listener);
        fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        submit_connect(&rig, &op, fd, flags, &address, sizeof address);
        expect(&rig, &op, -ECONNREFUSED);
        close_by_entry(&rig, fd);
    }
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    snprintf(name.sun_path + 1, sizeof name.sun_path - 1, "user-page-test-%d", getpid());
    int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), fds[3];
    CHECK(bind(listener, (struct sockaddr *)&name, sizeof name) == 0 && listen(listener, 0) == 0, "bind");
    for (int i = 0; i < 3; i++) {
        fds[i] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        submit_connect(&rig, &op, fds[i], ENTRY_OWNED, &name, sizeof name);
        int32_t res = rig_await(&rig, &op);
        CHECK(res == (i == 0 ? 0 : -EAGAIN), "connect %d: %d", i, res);
    }
    for (int i = 0; i < 3; i++)
        close_by_entry(&rig, fds[i]);
    close(listener);
    rig_close(&rig);
}

static void test_cancel(enum mode mode) {
    struct rig rig = rig_open(mode, 64);
    int fds[2];
    char in[8];
    struct op op = {0}, cancel = {0};
    make_pair(SOCK_STREAM, fds);
    for (int i = 0; i < 3; i++) {
        rig_submit(&rig, &op, CALL_RECV, fds[0], ENTRY_OWNED, in, 8, 0);
        if (i == 1)
            rig_calm(&rig);
        struct flexsc_entry *entry = op.entry;
        rig_submit_cancel(&rig, &cancel, &op);
        expect(&rig, &cancel, 0);
        expect(&rig, &op, -ECANCELED);
        /* Nothing there any more: by pointer, by user_data. */
        struct flexsc_entry *again = rig_entry(&rig, &cancel, CALL_CANCEL, -1, 0);
        again->addr = (uint64_t)(uintptr_t)&op;
        again->off = (uint64_t)(uintptr_t)entry;
        flexsc_page_submit(rig.page, again);
        expect(&rig, &cancel, -ENOENT);
    }
    rig_submit(&rig, &op, CALL_RECV, fds[0], ENTRY_OWNED, in, 8, 0);
    struct flexsc_entry *wrong = rig_entry(&rig, &cancel, CALL_CANCEL, -1, 0);
    wrong->addr = 12345;
    wrong->off = (uint64_t)(uintptr_t)op.entry;
    flexsc_page_submit(rig.page, wrong);
    expect(&rig, &cancel, -ENOENT);
    CHECK(write(fds[1], "xy", 2) == 2, "write");
    expect(&rig, &op, 2);
    /* A send that has got some way says how far. */
    char *big = calloc(1, 4 << 20);
    rig_submit(&rig, &op, CALL_SEND, fds[0], ENTRY_OWNED, big, 4 << 20, 0);
    rig_calm(&rig);
    rig_submit_cancel(&rig, &cancel, &op);
    expect(&rig, &cancel, 0);
    rig_await(&rig, &op);
    CHECK(op.res > 0 && op.res < 4 << 20, "sent %d", op.res);
    size_t sent = (size_t)op.res, got = 0;
    while (got < sent)
        got += (size_t)read(fds[1], big, 65536);
    /* And one that has not even started says so; before it is published, too. */
    rig_submit(&rig, &op, CALL_RECV, fds[0], ENTRY_OWNED, in, 8, 0);
    flexsc_page_cancel_now(rig.page, op.entry);
    CHECK(write(fds[1], "z", 1) == 1, "write");
    expect(&rig, &op, -ECANCELED);
    rig_submit(&rig, &op, CALL_RECV, fds[0], ENTRY_OWNED, in, 8, 0);
    expect(&rig, &op, 1);
    close_by_entry(&rig, fds[0]);
    close(fds[1]);
    free(big);
    rig_close(&rig);
}

static void test_close_ends_waiters(enum mode mode) {
    struct rig rig = rig_open(mode, 4);
    for (int round = 0; round < 20; round++) {
        int fds[2];
        char in[8], *big = calloc(1, 4 << 20);
        struct op ops[8] = {{0}}, closing = {0};
        make_pair(SOCK_STREAM, fds);
        for (int i = 0; i < 3; i++)
            rig_submit(&rig, &ops[i], CALL_RECV, fds[0], ENTRY_OWNED, in, 8, 0);
        for (int i = 3; i < 5; i++)
            rig_submit(&rig, &ops[i], CALL_SEND, fds[0], ENTRY_OWNED, big, 4 << 20, 0);
        for (int i = 5; i < 8; i++)
            rig_submit(&rig, &ops[i], CALL_POLL, fds[0], ENTRY_OWNED, NULL, 0, POLLIN);
        if (round & 1)
            rig_calm(&rig);
        rig_submit(&rig, &closing, CALL_CLOSE, fds[0], ENTRY_OWNED, NULL, 0, 0);
        expect(&rig, &closing, 0);
        for (int i = 0; i < 8; i++)
            if (i == 3)
                CHECK(rig_await(&rig, &ops[i]) > 0, "a send under way: %d", ops[i].res);
            else
                expect(&rig, &ops[i], -ECANCELED);
        CHECK(fcntl(fds[0], F_GETFD) < 0, "not closed");
        close(fds[1]);
        free(big);
    }
    rig_close(&rig);
}

static void test_shutdown(enum mode mode) {
    struct rig rig = rig_open(mode, 64);
    int fds[2];
    char in[8];
    struct op op = {0}, recv_op = {0};
    make_tcp_pair(fds);
    rig_submit(&rig, &recv_op, CALL_RECV, fds[1], ENTRY_OWNED, in, 8, 0);
    rig_submit(&rig, &op, CALL_SHUTDOWN, fds[0], ENTRY_OWNED, NULL, SHUT_WR, 0);
    expect(&rig, &op, 0);
    expect(&rig, &recv_op, 0);
    close_by_entry(&rig, fds[0]);
    close_by_entry(&rig, fds[1]);
    rig_close(&rig);
}

static const struct test tests[] = {
    {"read and write", test_read_write, IN_ALL_MODES},
    {"poll", test_poll, IN_ALL_MODES},
    {"poll again and again", test_poll_again_and_again, IN_ALL_MODES},
    {"accept", test_accept, IN_ALL_MODES},
    {"accept without fds", test_accept_without_fds, IN_ALL_MODES},
    {"connect", test_connect, IN_ALL_MODES},
    {"cancel", test_cancel, IN_ALL_MODES},
    {"close ends waiters", test_close_ends_waiters, IN_ALL_MODES},
    {"shutdown", test_shutdown, IN_ALL_MODES},
};

MAIN(tests)
