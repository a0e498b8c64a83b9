/* The user page: what receives and sends complete with, and when. */
#include "user_page_rig.h"

#define MULTI (ENTRY_MULTISHOT | ENTRY_POOL)

static void test_simple_calls(enum mode mode) {
    struct rig rig = rig_open(mode, 64);
    struct op op = {0}, ops[200] = {{0}};
    rig_submit(&rig, &op, CALL_NOP, -1, 0, NULL, 0, 0);
    expect(&rig, &op, 0);
    rig_submit(&rig, &op, 99, -1, 0, NULL, 0, 0);
    expect(&rig, &op, -EINVAL);
    const uint8_t calls[] = {CALL_POLL, CALL_RECV, CALL_SEND, CALL_CLOSE, CALL_ACCEPT, CALL_READ, CALL_SHUTDOWN};
    for (size_t i = 0; i < sizeof calls; i++)
        for (uint8_t flags = 0; flags <= ENTRY_POLL_FIRST; flags = (uint8_t)(flags + ENTRY_POLL_FIRST)) {
            char byte;
            rig_submit(&rig, &op, calls[i], -1, flags, &byte, 1, POLLIN);
            expect(&rig, &op, -EBADF);
            rig_submit(&rig, &op, calls[i], 1000000, flags, &byte, 1, POLLIN);
            expect(&rig, &op, -EBADF);
            rig_submit(&rig, &op, calls[i], 999, flags, &byte, 1, POLLIN);
            expect(&rig, &op, -EBADF);
        }
    for (int i = 0; i < 200; i++)
        rig_submit(&rig, &ops[i], CALL_NOP, -1, 0, NULL, 0, 0);
    for (int i = 0; i < 200; i++)
        expect(&rig, &ops[i], 0);
    const struct flexsc_counters *counters = flexsc_page_counters(rig.page);
    CHECK(counters->submitted == counters->completions, "%lu entries, %lu completions", counters->submitted,
          counters->completions);
    rig_close(&rig);
}

static void test_recv(enum mode mode) {
    struct rig rig = rig_open(mode, 64);
    for (int owned = 0; owned < 2; owned++)
        for (int first = 0; first < 2; first++) {
            uint8_t flags = (uint8_t)((owned ? ENTRY_OWNED : 0) | (first ? ENTRY_POLL_FIRST : 0));
            int fds[2];
            char in[16];
            struct op op = {0};
            (owned ? make_tcp_pair(fds) : make_pair(SOCK_STREAM, fds));
            CHECK(write(fds[1], "abc", 3) == 3, "write");
            rig_submit(&rig, &op, CALL_RECV, fds[0], flags, in, 3, MSG_WAITALL);
            expect(&rig, &op, 3);
            CHECK(memcmp(in, "abc", 3) == 0 && (op.flags & COMPLETION_NONEMPTY), "flags %x", op.flags);
            rig_submit(&rig, &op, CALL_RECV, fds[0], flags, in, 16, 0);
            rig_calm(&rig);
            CHECK(op.entry != NULL, "completed without data: %d", op.res);
            CHECK(write(fds[1], "defg", 4) == 4, "write");
            expect(&rig, &op, 4);
            CHECK(op.flags == 0, "flags %x", op.flags);
            CHECK(write(fds[1], "hijkl", 5) == 5, "write");
            rig_submit(&rig, &op, CALL_RECV, fds[0], flags, in, 2, 0);
            expect(&rig, &op, 2);
            rig_submit(&rig, &op, CALL_RECV, fds[0], flags, in, 16, 0);
            expect(&rig, &op, 3);
            rig_submit(&rig, &op, CALL_RECV, fds[0], flags, in, 16, 0);
            rig_calm(&rig);
            shutdown(fds[1], SHUT_WR);
            expect(&rig, &op, 0);
            rig_submit(&rig, &op, CALL_RECV, fds[0], flags, in, 16, 0);
            expect(&rig, &op, 0);
            close_by_entry(&rig, fds[0]);
            close(fds[1]);
        }
    rig_close(&rig);
}

/* Numbers far apart: the table of fds grows. */
static void test_high_numbers(enum mode mode) {
    struct rig rig = rig_open(mode, 64);
    const int lowest[] = {9000, 300, 19000, 5000};
    for (int i = 0; i < 4; i++) {
        int fds[2];
        char in[4];
        struct op op = {0};
        make_pair(SOCK_STREAM, fds);
        int high = fcntl(fds[0], F_DUPFD_CLOEXEC, lowest[i]);
        close(fds[0]);
        if (high < 0) { /* ulimit -n */
            close(fds[1]);
            continue;
        }
        rig_submit(&rig, &op, CALL_RECV, high, ENTRY_OWNED, in, 4, 0);
        rig_calm(&rig);
        CHECK(write(fds[1], "high", 4) == 4, "write");
        expect(&rig, &op, 4);
        close_by_entry(&rig, high);
        close(fds[1]);
    }
    rig_close(&rig);
}

static void test_recvmsg(enum mode mode) {
    struct rig rig = rig_open(mode, 64);
    int fds[2];
    char in[16];
    struct iovec iov = {in, sizeof in};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    struct op op = {0};
    make_pair(SOCK_DGRAM, fds);
    for (int i = 0; i < 3; i++) {
        rig_submit(&rig, &op, CALL_RECVMSG, fds[0], ENTRY_OWNED, &msg, 0, 0);
        rig_calm(&rig);
        CHECK(send(fds[1], "ab", 2, 0) == 2 && send(fds[1], "c", 1, 0) == 1, "send");
        expect(&rig, &op, 2);
        rig_submit(&rig, &op, CALL_RECVMSG, fds[0], ENTRY_OWNED, &msg, 0, 0);
        expect(&rig, &op, 1);
    }
    close_by_entry(&rig, fds[0]);
    close(fds[1]);
    rig_close(&rig);
}

/* Checks datagrams: the n-th one holds n % 50 bytes n, but those that `cut` says are longer than a buffer. */
struct post_box {
    struct op op;
    struct sockaddr_in sender;
    unsigned count, cut;
};

static void post_box_on_completion(struct rig *rig, struct op *op) {
    struct post_box *box = op->owner;
    if (!(op->flags & COMPLETION_BUFFER))
        return;
    const char *buffer = rig_buffer(rig, op->flags);
    struct flexsc_datagram head;
    memcpy(&head, buffer, sizeof head);
    const char *name = buffer + sizeof head, *data = name + sizeof box->sender;
    CHECK(head.name_size == sizeof box->sender && memcmp(name, &box->sender, 8) == 0, "a wrong sender");
    bool cut = box->count == box->cut;
    CHECK(!(head.flags & MSG_TRUNC) == !cut, "flags %x", head.flags);
    CHECK(cut || head.size == box->count % 50, "%u bytes", head.size);
    for (unsigned i = 0; i < head.size && !cut; i++)
        CHECK(data[i] == (char)box->count, "wrong data");
    box->count++;
    rig_give_buffer(rig, op->flags >> COMPLETION_BUFFER_SHIFT);
}

static void test_datagrams_into_a_pool(enum mode mode) {
    struct rig rig = rig_open(mode, 16);
    struct post_box box = {.op.on_completion = post_box_on_completion, .cut = 70};
    struct msghdr header = {.msg_namelen = sizeof box.sender};
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    char out[200];
    int in = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0), from = socket(AF_INET, SOCK_DGRAM, 0);
    rig_pool(&rig, 8, 128);
    flexsc_page_set_datagram_pool(rig.page, rig.slots, rig.slot_count);
    CHECK(bind(in, (struct sockaddr *)&address, size) == 0 && bind(from, (struct sockaddr *)&address, size) == 0, "bind");
    CHECK(getsockname(in, (struct sockaddr *)&address, &size) == 0, "name");
    CHECK(getsockname(from, (struct sockaddr *)&box.sender, &size) == 0, "name");
    box.op.owner = &box;
    for (unsigned n = 0, burst = 0; n < 600; burst++) {
        unsigned end = n + 1 + burst % 40;
        for (; n < end; n++) {
            size_t bytes = n == box.cut ? sizeof out : n % 50;
            memset(out, (char)n, sizeof out);
            CHECK(sendto(from, out, bytes, 0, (struct sockaddr *)&address, sizeof address) == (ssize_t)bytes, "send");
        }
        while (box.count < n) {
            if (box.op.entry == NULL) {
                CHECK(burst == 0 || box.op.res == -ENOBUFS, "ended with %d", box.op.res);
                rig_submit(&rig, &box.op, CALL_RECVMSG, in, MULTI | ENTRY_OWNED, &header, 1, 0);
            }
            rig_turn(&rig, -1);
        }
        if (burst % 3 == 0)
            rig_calm(&rig);
    }
    close_by_entry(&rig, in);
    close(from);
    rig_close(&rig);
}

/* Collects what a multishot receive brings. */
struct sink {
    struct op op;
    char data[4096];
    size_t size;
};

static void sink_on_completion(struct rig *rig, struct op *op) {
    struct sink *sink = op->owner;
    if (!(op->flags & COMPLETION_BUFFER))
        return;
    CHECK(op->res > 0 && sink->size + (size_t)op->res <= sizeof sink->data, "res %d", op->res);
    memcpy(sink->data + sink->size, rig_buffer(rig, op->flags), (size_t)op->res);
    sink->size += (size_t)op->res;
    rig_give_buffer(rig, op->flags >> COMPLETION_BUFFER_SHIFT);
}

static void sink_start(struct rig *rig, struct sink *sink, int fd, uint8_t flags) {
    memset(sink, 0, sizeof *sink);
    sink->op.owner = sink;
    sink->op.on_completion = sink_on_completion;
    rig_submit(rig, &sink->op, CALL_RECV, fd, flags, NULL, 0, 0);
}

static void sink_await(struct rig *rig, struct sink *sink, const char *text) {
    size_t size = strlen(text);
    while (sink->size < size)
        rig_turn(rig, -1);
    CHECK(sink->size == size && memcmp(sink->data, text, size) == 0, "got %.*s", (int)sink->size, sink->data);
    sink->size = 0;
}

static void test_multishot_recv(enum mode mode) {
    struct rig rig = rig_open(mode, 64);
    rig_pool(&rig, 8, 8);
    for (int kind = 0; kind < 4; kind++) {
        uint8_t flags = (uint8_t)(MULTI | (kind & 1 ? ENTRY_OWNED : 0));
        int fds[2];
        struct sink sink;
        (kind & 2 ? make_tcp_pair(fds) : make_pair(SOCK_STREAM, fds));
        CHECK(write(fds[1], "first", 5) == 5, "write");
        sink_start(&rig, &sink, fds[0], flags);
        sink_await(&rig, &sink, "first");
        rig_calm(&rig);
        for (int i = 0; i < 20; i++) {
            CHECK(write(fds[1], "again", 5) == 5, "write");
            sink_await(&rig, &sink, "again");
        }
        CHECK(write(fds[1], "exactly8", 8) == 8, "write");
        sink_await(&rig, &sink, "exactly8");
        CHECK((sink.op.flags & (COMPLETION_NONEMPTY | COMPLETION_MORE)) == (COMPLETION_NONEMPTY | COMPLETION_MORE),
              "flags %x", sink.op.flags);
        const char *text = "much longer than a buffer, and longer than all of the buffers of the pool together";
        CHECK(write(fds[1], text, strlen(text)) > 0, "write");
        size_t got = 0;
        while (got < strlen(text)) {
            rig_turn(&rig, -1);
            got = sink.size;
            if (sink.op.entry == NULL) {
                CHECK(sink.op.res == -ENOBUFS, "ended with %d", sink.op.res);
                rig_submit(&rig, &sink.op, CALL_RECV, fds[0], flags, NULL, 0, 0);
            }
        }
        sink_await(&rig, &sink, text);
        CHECK(write(fds[1], "bye", 3) == 3, "write");
        close(fds[1]);
        if (sink.op.entry == NULL)
            rig_submit(&rig, &sink.op, CALL_RECV, fds[0], flags, NULL, 0, 0);
        expect(&rig, &sink.op, 0);
        CHECK(!(sink.op.flags & COMPLETION_BUFFER), "flags %x", sink.op.flags);
        sink_await(&rig, &sink, "bye");
        close_by_entry(&rig, fds[0]);
    }
    rig_close(&rig);
}

/* More buffers than the pool's 16-bit counters can tell apart. */
static void test_pool_counters_wrap(enum mode mode) {
    struct rig rig = rig_open(mode, 256);
    int fds[2];
    struct sink sink;
    char out[60] = {0};
    rig_pool(&rig, 64, 1);
    make_pair(SOCK_STREAM, fds);
    sink_start(&rig, &sink, fds[0], MULTI | ENTRY_OWNED);
    for (int i = 0; i < 70000 / 60; i++) {
        memset(out, 'a' + i % 26, sizeof out);
        CHECK(write(fds[1], out, sizeof out) == sizeof out, "write");
        while (sink.size < sizeof out)
            rig_turn(&rig, -1);
        CHECK(memcmp(sink.data, out, sizeof out) == 0, "wrong data in round %d", i);
        sink.size = 0;
    }
    CHECK(sink.op.completions > 65536, "%d buffers", sink.op.completions);
    close_by_entry(&rig, fds[0]);
    expect(&rig, &sink.op, -ECANCELED);
    close(fds[1]);
    rig_close(&rig);
}

/* A short read that does not mean empty: datagrams, a message with an fd before another, urgent data. */
static void test_short_reads_with_more_behind(enum mode mode) {
    struct rig rig = rig_open(mode, 64);
    rig_pool(&rig, 64, 64);
    for (int round = 0; round < 20; round++) {
        int fds[2];
        struct sink sink;
        make_pair(SOCK_DGRAM, fds);
        sink_start(&rig, &sink, fds[0], MULTI | ENTRY_OWNED);
        rig_calm(&rig);
        for (int i = 0; i < 3; i++) {
            CHECK(send(fds[1], "one", 3, 0) == 3 && send(fds[1], "two", 3, 0) == 3, "send");
            sink_await(&rig, &sink, "onetwo");
        }
        close_by_entry(&rig, fds[0]);
        expect(&rig, &sink.op, -ECANCELED);
        close(fds[1]);

        make_pair(SOCK_STREAM, fds);
        sink_start(&rig, &sink, fds[0], MULTI | ENTRY_OWNED);
        rig_calm(&rig);
        char control[CMSG_SPACE(sizeof(int))] = {0};
        struct iovec iov = {(char *)"one", 3};
        struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
        struct cmsghdr *rights = CMSG_FIRSTHDR(&msg);
        rights->cmsg_level = SOL_SOCKET;
        rights->cmsg_type = SCM_RIGHTS;
        rights->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(rights), &fds[1], sizeof(int));
        CHECK(sendmsg(fds[1], &msg, 0) == 3 && send(fds[1], "two", 3, 0) == 3, "%s", strerror(errno));
        sink_await(&rig, &sink, "onetwo");
        close_by_entry(&rig, fds[0]);
        expect(&rig, &sink.op, -ECANCELED);
        close(fds[1]);

        make_tcp_pair(fds);
        sink_start(&rig, &sink, fds[0], MULTI | ENTRY_OWNED);
        rig_calm(&rig);
        CHECK(send(fds[1], "one", 3, MSG_MORE) == 3 && send(fds[1], "!", 1, MSG_OOB) == 1 &&
                  send(fds[1], "two", 3, 0) == 3,
              "%s", strerror(errno));
        sink_await(&rig, &sink, "onetwo");
        close_by_entry(&rig, fds[0]);
        expect(&rig, &sink.op, -ECANCELED);
        close(fds[1]);
    }
    rig_close(&rig);
}

static void test_reset(enum mode mode) {
    struct rig rig = rig_open(mode, 64);
    rig_pool(&rig, 8, 64);
    for (int parked = 0; parked < 2; parked++) {
        int fds[2];
        struct sink sink;
        struct linger linger = {1, 0};
        make_tcp_pair(fds);
        setsockopt(fds[1], SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
        if (!parked)
            close(fds[1]);
        sink_start(&rig, &sink, fds[0], MULTI | ENTRY_OWNED);
        if (parked) {
            rig_calm(&rig);
            CHECK(sink.op.entry != NULL, "ended with %d", sink.op.res);
            close(fds[1]);
        }
        expect(&rig, &sink.op, -ECONNRESET);
        struct op op = {0};
        rig_submit(&rig, &op, CALL_SEND, fds[0], ENTRY_OWNED, "x", 1, 0);
        expect(&rig, &op, -EPIPE);
        close_by_entry(&rig, fds[0]);
    }
    rig_close(&rig);
}

/* A sender parked when its peer resets. */
static void test_send_fails_midway(enum mode mode) {
    struct rig rig = rig_open(mode, 64);
    int fds[2];
    size_t size = 8 << 20;
    char *data = calloc(1, size);
    struct op op = {0};
    make_tcp_pair(fds);
    rig_submit(&rig, &op, CALL_SEND, fds[0], ENTRY_OWNED, data, (uint32_t)size, 0);
    rig_calm(&rig);
    CHECK(op.entry != NULL, "sent %d at once", op.res);
    struct linger linger = {1, 0};
    setsockopt(fds[1], SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
    close(fds[1]);
    expect(&rig, &op, -ECONNRESET);
    close_by_entry(&rig, fds[0]);
    free(data);
    rig_close(&rig);
}

struct reader {
    int fd;
    size_t size;
    uint32_t seed;
    size_t got;
};

static void *slow_reader(void *argument) {
    struct reader *reader = argument;
    char in[5000];
    for (int i = 0; reader->got < reader->size; i++) {
        ssize_t n = read(reader->fd, in, sizeof in);
        CHECK(n > 0, "read: %s", strerror(errno));
        if (n <= 0)
            return NULL;
        CHECK(stream_matches(in, reader->seed, reader->got, (size_t)n), "wrong data near %zu", reader->got);
        reader->got += (size_t)n;
        if (i % 16 == 0)
            usleep(200);
    }
    return NULL;
}

static void test_short_sends(enum mode mode) {
    struct rig rig = rig_open(mode, 64);
    for (int kind = 0; kind < 8; kind++) {
        bool owned = kind & 1, tcp = kind & 2, vectored = kind & 4;
        size_t size = 600000;
        char *data = malloc(size);
        int fds[2], small = 2000;
        struct op op = {0}, second = {0};
        struct iovec iovs[300];
        struct msghdr msg = {.msg_iov = iovs};
        (tcp ? make_tcp_pair(fds) : make_pair(SOCK_STREAM, fds));
        setsockopt(fds[0], SOL_SOCKET, SO_SNDBUF, &small, sizeof small);
        /* Not on TCP: loopback segments are larger than such a window, and then timers set the pace. */
        if (!tcp)
            setsockopt(fds[1], SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
        stream_fill(data, 7, 0, size);
        struct reader reader = {.fd = fds[1], .size = size, .seed = 7};
        pthread_t thread;
        pthread_create(&thread, NULL, slow_reader, &reader);
        /* The last 5 bytes are a second send: it must not overtake. */
        size_t part = size - 5, at = 0;
        for (int i = 0; vectored && i < 300; i++) {
            size_t n = i == 299 ? part - at : i % 7 == 0 ? 0 : (size_t)(i * 13 % 4000);
            iovs[msg.msg_iovlen++] = (struct iovec){data + at, n};
            at += n;
        }
        uint8_t flags = owned ? ENTRY_OWNED : 0;
        if (vectored)
            rig_submit(&rig, &op, CALL_SENDMSG, fds[0], flags, &msg, 0, MSG_WAITALL);
        else
            rig_submit(&rig, &op, CALL_SEND, fds[0], flags, data, (uint32_t)part, MSG_WAITALL);
        rig_submit(&rig, &second, CALL_SEND, fds[0], flags, data + part, 5, 0);
        expect(&rig, &op, (int32_t)part);
        expect(&rig, &second, 5);
        pthread_join(thread, NULL);
        CHECK(reader.got == size, "%zu of %zu bytes", reader.got, size);
        close_by_entry(&rig, fds[0]);
        close(fds[1]);
        free(data);
    }
    rig_close(&rig);
}

/* The first send waits for room, room comes, and then a second one is submitted. */
static void test_sends_keep_their_order(enum mode mode) {
    struct rig rig = rig_open(mode, 64);
    size_t size = 1 << 20;
    char *data = malloc(size + 5), *in = malloc(size + 5);
    stream_fill(data, 9, 0, size + 5);
    for (int owned = 0; owned < 2; owned++) {
        int fds[2];
        struct op op = {0}, second = {0};
        size_t got = 0;
        make_pair(SOCK_STREAM, fds);
        rig_submit(&rig, &op, CALL_SEND, fds[0], owned ? ENTRY_OWNED : 0, data, (uint32_t)size, 0);
        rig_calm(&rig);
        for (ssize_t n; (n = recv(fds[1], in + got, size, MSG_DONTWAIT)) > 0;)
            got += (size_t)n;
        rig_submit(&rig, &second, CALL_SEND, fds[0], owned ? ENTRY_OWNED : 0, data + size, 5, 0);
        while (got < size + 5) {
            rig_turn(&rig, 0);
            ssize_t n = recv(fds[1], in + got, size + 5 - got, MSG_DONTWAIT);
            got += n > 0 ? (size_t)n : 0;
        }
        CHECK(stream_matches(in, 9, 0, size + 5), "out of order");
        expect(&rig, &op, (int32_t)size);
        expect(&rig, &second, 5);
        close_by_entry(&rig, fds[0]);
        close(fds[1]);
    }
    free(data);
    free(in);
    rig_close(&rig);
}

static const struct test tests[] = {
    {"simple calls", test_simple_calls, IN_ALL_MODES},
    {"recv", test_recv, IN_ALL_MODES},
    {"high numbers", test_high_numbers, IN_ALL_MODES},
    {"recvmsg", test_recvmsg, IN_ALL_MODES},
    {"datagrams into a pool", test_datagrams_into_a_pool, IN_ALL_MODES},
    {"multishot recv", test_multishot_recv, IN_ALL_MODES},
    {"pool counters wrap", test_pool_counters_wrap, IN_ALL_MODES},
    {"short reads with more behind", test_short_reads_with_more_behind, IN_ALL_MODES},
    {"reset", test_reset, IN_ALL_MODES},
    {"send fails midway", test_send_fails_midway, IN_ALL_MODES},
    {"short sends", test_short_sends, IN_ALL_MODES},
    {"sends keep their order", test_sends_keep_their_order, IN_ALL_MODES},
};

MAIN(tests)
