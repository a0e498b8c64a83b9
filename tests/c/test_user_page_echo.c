/* The user page under load: many connections echo random data, every byte is compared.
 *
 * The server is a little loop over the page, the client a thread that uses poll(2). */
#include "user_page_rig.h"

enum { CONNECTIONS = 24 };

struct setup {
    unsigned completions, buffers;
    uint32_t buffer_size;
    bool tcp, owned, vectored;
    size_t bytes; /* per connection */
};

/* ---- the server ---- */

struct server;

struct connection {
    struct server *server;
    struct op recv, send, close;
    int fd;
    uint8_t flags;
    char *data; /* received, not sent yet: from `sent` to `got` */
    size_t got, sending, sent;
    bool ended;
    struct iovec iovs[2];
    struct msghdr msg;
};

struct server {
    const struct setup *setup;
    struct connection connections[CONNECTIONS];
    int open;
    int empty_pools;
};

static void start_recv(struct rig *rig, struct connection *connection) {
    rig_submit(rig, &connection->recv, CALL_RECV, connection->fd,
               (uint8_t)(connection->flags | ENTRY_MULTISHOT | ENTRY_POOL), NULL, 0, 0);
}

static void start_send(struct rig *rig, struct connection *connection) {
    size_t n = connection->got - connection->sent;
    if (connection->send.entry != NULL || n == 0)
        return;
    char *from = connection->data + connection->sent;
    connection->sending = n;
    if (connection->server->setup->vectored) {
        connection->iovs[0] = (struct iovec){from, n / 3};
        connection->iovs[1] = (struct iovec){from + n / 3, n - n / 3};
        connection->msg = (struct msghdr){.msg_iov = connection->iovs, .msg_iovlen = 2};
        rig_submit(rig, &connection->send, CALL_SENDMSG, connection->fd, connection->flags, &connection->msg, 0, 0);
    } else {
        rig_submit(rig, &connection->send, CALL_SEND, connection->fd, connection->flags, from, (uint32_t)n, 0);
    }
}

static void close_if_over(struct rig *rig, struct connection *connection) {
    if (connection->ended && connection->sent == connection->got && connection->close.entry == NULL)
        rig_submit(rig, &connection->close, CALL_CLOSE, connection->fd, ENTRY_OWNED, NULL, 0, 0);
}

static void on_recv(struct rig *rig, struct op *op) {
    struct connection *connection = op->owner;
    if (op->flags & COMPLETION_BUFFER) {
        CHECK(connection->got + (size_t)op->res <= connection->server->setup->bytes, "too much data");
        memcpy(connection->data + connection->got, rig_buffer(rig, op->flags), (size_t)op->res);
        connection->got += (size_t)op->res;
        rig_give_buffer(rig, op->flags >> COMPLETION_BUFFER_SHIFT);
        start_send(rig, connection);
    } else if (op->res == -ENOBUFS) {
        connection->server->empty_pools++;
        start_recv(rig, connection);
    } else {
        CHECK(op->res == 0, "receive: %s", strerror(-op->res));
        connection->ended = true;
        close_if_over(rig, connection);
    }
}

static void on_send(struct rig *rig, struct op *op) {
    struct connection *connection = op->owner;
    CHECK(op->res == (int32_t)connection->sending, "sent %d of %zu", op->res, connection->sending);
    connection->sent += connection->sending;
    start_send(rig, connection);
    close_if_over(rig, connection);
}

static void on_close(struct rig *rig, struct op *op) {
    struct connection *connection = op->owner;
    (void)rig;
    CHECK(op->res == 0, "close: %d", op->res);
    connection->server->open--;
    free(connection->data);
}

static void serve(struct rig *rig, const struct setup *setup, const int *fds) {
    struct server *server = calloc(1, sizeof *server);
    server->setup = setup;
    server->open = CONNECTIONS;
    for (int i = 0; i < CONNECTIONS; i++) {
        struct connection *connection = &server->connections[i];
        connection->server = server;
        connection->fd = fds[i];
        connection->flags = setup->owned ? ENTRY_OWNED : 0;
        connection->data = malloc(setup->bytes);
        connection->recv = (struct op){.owner = connection, .on_completion = on_recv};
        connection->send = (struct op){.owner = connection, .on_completion = on_send};
        connection->close = (struct op){.owner = connection, .on_completion = on_close};
        start_recv(rig, connection);
    }
    while (server->open > 0)
        rig_turn(rig, -1);
    const struct flexsc_counters *counters = flexsc_page_counters(rig->page);
    CHECK((uint64_t)server->empty_pools == counters->pool_empty, "%d, %lu", server->empty_pools,
          counters->pool_empty);
    free(server);
}

/* ---- the client ---- */

struct client {
    int fds[CONNECTIONS];
    const struct setup *setup;
};

static bool client_moves(const struct setup *setup, struct pollfd *peer, int i, size_t *sent, size_t *got,
                         uint32_t *random) {
    char data[9000];
    if (peer->revents & POLLOUT && *sent < setup->bytes) {
        size_t n = 1 + next_random(random) % (next_random(random) % 4 == 0 ? sizeof data : 300);
        n = n < setup->bytes - *sent ? n : setup->bytes - *sent;
        stream_fill(data, (uint32_t)i, *sent, n);
        ssize_t done = send(peer->fd, data, n, MSG_DONTWAIT);
        CHECK(done > 0 || errno == EAGAIN, "client sends: %s", strerror(errno));
        *sent += done > 0 ? (size_t)done : 0;
        if (*sent == setup->bytes) {
            shutdown(peer->fd, SHUT_WR);
            peer->events = POLLIN;
        }
    }
    if (peer->revents & (POLLIN | POLLHUP | POLLERR)) {
        ssize_t n = recv(peer->fd, data, 1 + next_random(random) % sizeof data, MSG_DONTWAIT);
        CHECK(n >= 0 || errno == EAGAIN, "client receives: %s", strerror(errno));
        if (n == 0 || (n < 0 && errno != EAGAIN)) {
            CHECK(*got == setup->bytes, "connection %d: %zu of %zu bytes came back", i, *got, setup->bytes);
            return false;
        }
        CHECK(n < 0 || stream_matches(data, (uint32_t)i, *got, (size_t)n), "connection %d: wrong data near %zu", i, *got);
        *got += n > 0 ? (size_t)n : 0;
    }
    return true;
}

static void *client_main(void *argument) {
    struct client *client = argument;
    struct pollfd peers[CONNECTIONS];
    size_t sent[CONNECTIONS] = {0}, got[CONNECTIONS] = {0};
    uint32_t random = 2463534242u;
    int open = CONNECTIONS;
    for (int i = 0; i < CONNECTIONS; i++)
        peers[i] = (struct pollfd){.fd = client->fds[i], .events = POLLIN | POLLOUT};
    while (open > 0) {
        if (poll(peers, CONNECTIONS, -1) < 0)
            continue;
        for (int i = 0; i < CONNECTIONS; i++) {
            if (peers[i].revents == 0 || client_moves(client->setup, &peers[i], i, &sent[i], &got[i], &random))
                continue;
            close(peers[i].fd);
            peers[i].fd = -1;
            open--;
        }
    }
    return NULL;
}

static void echo(enum mode mode, const struct setup *setup) {
    struct rig rig = rig_open(mode, setup->completions);
    struct client client = {.setup = setup};
    int servers[CONNECTIONS];
    pthread_t thread;
    rig_pool(&rig, setup->buffers, setup->buffer_size);
    for (int i = 0; i < CONNECTIONS; i++) {
        int fds[2];
        (setup->tcp ? make_tcp_pair(fds) : make_pair(SOCK_STREAM, fds));
        servers[i] = fds[0];
        client.fds[i] = fds[1];
    }
    pthread_create(&thread, NULL, client_main, &client);
    serve(&rig, setup, servers);
    pthread_join(thread, NULL);
    if (setup->completions <= 4 && mode != OWN) {
        /* With an own thread the ring is emptied after each pass, here it fills up. */
        CHECK(flexsc_page_counters(rig.page)->overflows > 0, "the ring was never full");
    }
    rig_close(&rig);
}

static void test_echo_tcp(enum mode mode) {
    echo(mode, &(struct setup){1024, 64, 4096, .tcp = true, .owned = true, .bytes = 200000});
}

static void test_echo_tcp_vectored(enum mode mode) {
    echo(mode, &(struct setup){1024, 16, 1000, .tcp = true, .owned = true, .vectored = true, .bytes = 100000});
}

static void test_echo_unix(enum mode mode) {
    echo(mode, &(struct setup){1024, 64, 4096, .owned = true, .bytes = 100000});
}

static void test_echo_shared_fds(enum mode mode) {
    echo(mode, &(struct setup){1024, 64, 4096, .tcp = true, .bytes = 50000});
}

static void test_echo_tiny_pool(enum mode mode) {
    echo(mode, &(struct setup){64, 2, 100, .tcp = true, .owned = true, .bytes = 30000});
}

static void test_echo_tiny_ring(enum mode mode) {
    echo(mode, &(struct setup){4, 16, 512, .tcp = true, .owned = true, .bytes = 50000});
}

static const struct test tests[] = {
    {"echo, TCP", test_echo_tcp, IN_ALL_MODES},
    {"echo, TCP, vectored sends", test_echo_tcp_vectored, IN_ALL_MODES},
    {"echo, Unix sockets", test_echo_unix, IN_ALL_MODES},
    {"echo, fds that are not owned", test_echo_shared_fds, IN_ALL_MODES},
    {"echo, pool of 2 buffers", test_echo_tiny_pool, IN_ALL_MODES},
    {"echo, ring of 4 completions", test_echo_tiny_ring, IN_ALL_MODES},
};

MAIN(tests)
