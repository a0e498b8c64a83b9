/* Connections, epoll and the phases of a run: set up, warm up, measure, drain. */
#define _GNU_SOURCE
#include "histogram.h"
#include "load.h"
#include "tls.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define BATCH 512
#define BUFFER_BYTES (256u << 10)
#define TICK_NS (50u * 1000000u)
#define CONNECTS_AT_ONCE 256   /* more would not fit into a listener's backlog: connects dropped there wait a second */
#define CONNECTIONS_PER_SOURCE 8192

enum state {
    C_CLOSED,     /* no socket; the next tick tries again */
    C_CONNECTING,
    C_TLS,        /* TLS handshake */
    C_HANDSHAKE,  /* WebSocket upgrade sent */
    C_FREE,       /* ready for a request */
    C_BUSY,       /* one request outstanding */
};

struct conn {
    int fd;
    struct tls *tls;      /* NULL: in the clear */
    enum state state;
    bool wants_out;       /* EPOLLOUT is on: something is left to send */
    uint32_t turn;        /* chooses the message variant */
    bool served;          /* has had a reply */
    uint64_t start_ns;    /* when the outstanding request or connect began, or was due */
    const char *out;
    size_t out_left;
    const char *expect;
    size_t expect_left;
    struct http_parser http;
    struct conn *next_free;
};

enum phase { P_SETUP, P_WARMUP, P_MEASURE, P_DRAIN };

struct engine {
    const struct options *o;
    const struct messages *m;
    struct result *r;
    struct conn *conns;
    struct conn *free; /* open loop, and before the start: connections without a request */
    int epoll, timer, schedstat;
    int set_up, busy;
    int opened;                 /* connections that have been tried for the first time, in their order */
    enum phase phase;
    clockid_t server_clock;
    uint64_t timeout_ns, next_tick_ns;
    uint64_t started_ns, window_start_ns, window_end_ns;
    uint64_t due_index, due_ns; /* open loop: the next request and the time it is due */
    uint64_t armed_ns;          /* what the timer is set to */
    struct sockaddr_storage address;
    socklen_t address_len;
    char buffer[BUFFER_BYTES];
};

uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}

static uint64_t clock_ns(clockid_t clock)
{
    struct timespec t = {0};
    clock_gettime(clock, &t);
    return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}

static void snapshot_take(struct engine *e, struct snapshot *s)
{
    char text[64] = "";
    s->own_cpu_ns = clock_ns(CLOCK_THREAD_CPUTIME_ID);
    for (int i = 0; i < e->o->counter_count; i++)
        if (read(e->o->counters[i], &s->counters[i], 8) != 8)
            s->counters[i] = 0;
    if (e->o->server_pid)
        s->server_cpu_ns = clock_ns(e->server_clock);
    if (e->schedstat >= 0 && pread(e->schedstat, text, sizeof text - 1, 0) > 0)
        s->server_main_ns = strtoull(text, NULL, 10);
    s->at_ns = now_ns();
}

static void watch(struct engine *e, struct conn *c, int operation, bool out)
{
    struct epoll_event event = {.events = EPOLLIN | (out ? EPOLLOUT : 0u), .data.ptr = c};
    c->wants_out = out;
    epoll_ctl(e->epoll, operation, c->fd, &event);
}

static void conn_close(struct conn *c)
{
    tls_close(c->tls);
    c->tls = NULL;
    if (c->fd >= 0)
        close(c->fd);
    c->fd = -1;
    c->wants_out = false;
}

/* A free connection that is given up must leave the list, else it would be used again. */
static void unlink_free(struct engine *e, struct conn *c)
{
    for (struct conn **at = &e->free; *at; at = &(*at)->next_free)
        if (*at == c) {
            *at = c->next_free;
            return;
        }
}

/* The connection is given up; the next tick opens it anew, so that a dead server is not hammered. */
static void conn_fail(struct engine *e, struct conn *c, enum failure why)
{
    if (c->state == C_BUSY)
        e->busy--;
    if (c->state == C_FREE)
        unlink_free(e, c);
    e->r->failures[why]++;
    conn_close(c);
    c->state = C_CLOSED;
}

/* Many connections, run after run, would use up the ports of one address: each run has addresses of its own. */
static void bind_source(const struct engine *e, const struct conn *c)
{
    if (e->address.ss_family != AF_INET || e->o->connections <= CONNECTIONS_PER_SOURCE / 2)
        return;
    int on = 1;
    uint32_t run = (uint32_t)getpid() % 65000, number = (uint32_t)((c - e->conns) / CONNECTIONS_PER_SOURCE);
    struct sockaddr_in source = {.sin_family = AF_INET};
    source.sin_addr.s_addr = htonl(0x7f000000u | (1 + number) << 16 | (run + 1));
    setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
    bind(c->fd, (struct sockaddr *)&source, sizeof source);
}

static bool conn_open(struct engine *e, struct conn *c)
{
    int type = (e->o->mode == MODE_UDP ? SOCK_DGRAM : SOCK_STREAM) | SOCK_NONBLOCK | SOCK_CLOEXEC, on = 1;
    c->fd = socket(e->address.ss_family, type, 0);
    if (c->fd < 0)
        return false;
    if (e->address.ss_family != AF_UNIX && e->o->mode != MODE_UDP)
        setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    bind_source(e, c);
    if (connect(c->fd, (struct sockaddr *)&e->address, e->address_len) < 0 && errno != EINPROGRESS) {
        conn_close(c);
        return false;
    }
    return true;
}

/* Sends what is left; false when the connection failed. */
static bool conn_send(struct engine *e, struct conn *c)
{
    while (c->out_left) {
        ssize_t n = c->tls ? tls_send(c->tls, c->out, c->out_left) : send(c->fd, c->out, c->out_left, MSG_NOSIGNAL);
        if (n < 0) {
            if (errno == EINTR)
                continue;
            if (errno != EAGAIN) {
                conn_fail(e, c, errno == ECONNREFUSED ? F_CONNECT : F_WRITE);
                return false;
            }
            if (!c->wants_out)
                watch(e, c, EPOLL_CTL_MOD, true);
            return true;
        }
        c->out += n;
        c->out_left -= (size_t)n;
    }
    int flushed = c->tls ? tls_flush(c->tls) : 1;
    if (flushed < 0) {
        conn_fail(e, c, F_WRITE);
        return false;
    }
    if (c->wants_out != !flushed)
        watch(e, c, EPOLL_CTL_MOD, !flushed);
    return true;
}

static void request_start(struct engine *e, struct conn *c, uint64_t start_ns)
{
    const struct messages *m = e->m;
    int variant = (int)(c->turn++ % (uint32_t)m->variants);
    c->state = C_BUSY;
    c->start_ns = start_ns;
    c->out = m->out[variant];
    c->out_left = m->out_len;
    c->expect = m->expect[variant];
    c->expect_left = m->expect_len;
    e->busy++;
    if (!c->expect)
        http_reset(&c->http);
    if (c->fd < 0) {
        if (!conn_open(e, c)) {
            conn_fail(e, c, F_CONNECT);
            return;
        }
        watch(e, c, EPOLL_CTL_ADD, false);
    }
    conn_send(e, c);
}

static uint64_t due_time(const struct engine *e, uint64_t index)
{
    return e->started_ns + (uint64_t)((double)index * 1e9 / e->o->rate);
}

static bool has_due(const struct engine *e, uint64_t now)
{
    return e->due_ns <= now && e->due_ns < e->window_end_ns;
}

/* The connection is idle: what next? */
static void conn_ready(struct engine *e, struct conn *c, uint64_t now)
{
    bool closed_loop = e->o->rate == 0;
    if (closed_loop && (e->phase == P_WARMUP || e->phase == P_MEASURE)) {
        request_start(e, c, now);
    } else if (!closed_loop && e->phase != P_SETUP && has_due(e, now)) {
        uint64_t due = e->due_ns;
        e->due_ns = due_time(e, ++e->due_index);
        request_start(e, c, due);
    } else {
        c->state = C_FREE;
        c->next_free = e->free;
        e->free = c;
    }
}

static void request_done(struct engine *e, struct conn *c)
{
    uint64_t now = now_ns();
    bool counts = e->o->rate == 0 ? e->phase == P_MEASURE : c->start_ns >= e->window_start_ns;
    e->busy--;
    c->served = true;
    e->r->total++;
    if (counts) {
        e->r->requests++;
        hist_add(e->r->latencies, now > c->start_ns ? now - c->start_ns : 0);
    }
    if (e->o->mode == MODE_HTTP_CLOSE) {
        conn_close(c);
    } else if (!c->expect && c->http.close) {
        e->r->reconnects++;
        conn_close(c);
    }
    conn_ready(e, c, now);
}

/* Whether the bytes of this reply are only counted, never copied (MSG_TRUNC, tcp(7)). */
static bool skips_content(const struct engine *e, const struct conn *c)
{
    return e->m->bulk && c->state == C_BUSY && c->turn % BULK_CHECK != 0;
}

static enum verdict exchange_feed(struct engine *e, struct conn *c, size_t n)
{
    if (!c->expect)
        return http_feed(&c->http, e->buffer, n);
    if (n > c->expect_left || (!skips_content(e, c) && memcmp(e->buffer, c->expect, n) != 0))
        return V_BROKEN;
    c->expect += n;
    c->expect_left -= n;
    return c->expect_left ? V_MORE : V_DONE;
}

static void conn_connected(struct engine *e, struct conn *c)
{
    e->set_up++;
    conn_ready(e, c, now_ns());
}

static void handshake_received(struct engine *e, struct conn *c, size_t n)
{
    enum verdict verdict = http_feed(&c->http, e->buffer, n);
    if (verdict == V_MORE)
        return;
    const char *head = c->http.gathered ? c->http.head : e->buffer;
    bool accepted = http_has_line(head, c->http.gathered ? c->http.gathered : n, WS_ACCEPT_LINE);
    if (verdict != V_DONE || c->http.status != 101 || !accepted)
        conn_fail(e, c, verdict == V_BROKEN ? F_CONTENT : F_STATUS);
    else
        conn_connected(e, c);
}

static void stream_ended(struct engine *e, struct conn *c)
{
    bool http = c->state == C_BUSY && !c->expect;
    enum verdict verdict = http ? http_eof(&c->http) : V_BROKEN;
    if (verdict == V_DONE)
        request_done(e, c);
    else
        conn_fail(e, c, verdict == V_STATUS ? F_STATUS : F_CLOSED);
}

/* One receive; false when there is nothing more to receive, or the connection has failed. */
static bool conn_receive_once(struct engine *e, struct conn *c)
{
    bool skip = skips_content(e, c) && !c->tls;
    size_t room = skip ? c->expect_left + 1 : sizeof e->buffer;
    ssize_t n = c->tls ? tls_recv(c->tls, e->buffer, room) : recv(c->fd, e->buffer, room, skip ? MSG_TRUNC : 0);
    if (n < 0) {
        if (errno != EAGAIN && errno != EINTR)
            conn_fail(e, c, errno == ECONNREFUSED ? F_CONNECT : F_READ);
        return false;
    }
    if (n == 0) {
        stream_ended(e, c);
        return false;
    }
    if (c->state == C_HANDSHAKE) {
        handshake_received(e, c, (size_t)n);
        return true;
    }
    if (e->phase == P_MEASURE)
        e->r->bytes += (uint64_t)n;
    enum verdict verdict = c->state == C_BUSY ? exchange_feed(e, c, (size_t)n) : V_BROKEN;
    if (verdict == V_DONE && e->o->mode == MODE_HTTP_CLOSE)
        return true; /* the cycle ends when the server has closed */
    if (verdict == V_DONE)
        request_done(e, c);
    else if (verdict != V_MORE)
        conn_fail(e, c, verdict == V_STATUS ? F_STATUS : F_CONTENT);
    return true;
}

static void conn_receive(struct engine *e, struct conn *c)
{
    /* What TLS has taken from the socket already, epoll does not tell. */
    while (conn_receive_once(e, c) && c->tls && tls_holds(c->tls))
        ;
}

static void conn_try_open(struct engine *e, struct conn *c, uint64_t now)
{
    c->start_ns = now;
    if (e->o->mode == MODE_HTTP_CLOSE) {
        conn_connected(e, c);
    } else if (conn_open(e, c)) {
        c->state = C_CONNECTING;
        watch(e, c, EPOLL_CTL_ADD, true);
    } else {
        e->r->failures[F_CONNECT]++;
    }
}

/* Bytes can be exchanged: ask for a WebSocket first, or begin. */
static void conn_usable(struct engine *e, struct conn *c)
{
    if (e->o->mode != MODE_WS) {
        conn_connected(e, c);
        return;
    }
    c->state = C_HANDSHAKE;
    c->out = e->m->handshake;
    c->out_left = e->m->handshake_len;
    http_reset(&c->http);
    conn_send(e, c);
}

static void conn_shake(struct engine *e, struct conn *c)
{
    int res = tls_handshake(c->tls);
    if (res < 0)
        conn_fail(e, c, F_CONNECT);
    else if (res > 0)
        conn_usable(e, c);
}

static void conn_opened(struct engine *e, struct conn *c)
{
    int error = 0;
    socklen_t len = sizeof error;
    getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &len);
    if (error) {
        conn_fail(e, c, F_CONNECT);
        return;
    }
    watch(e, c, EPOLL_CTL_MOD, false);
    if (!e->o->tls) {
        conn_usable(e, c);
        return;
    }
    c->state = C_TLS;
    c->tls = tls_open(c->fd);
    if (c->tls)
        conn_shake(e, c);
    else
        conn_fail(e, c, F_CONNECT);
}

static void conn_event(struct engine *e, struct conn *c, uint32_t events)
{
    if (c->state == C_CONNECTING) {
        conn_opened(e, c);
        return;
    }
    if (c->state == C_TLS) {
        conn_shake(e, c);
        return;
    }
    if ((events & EPOLLOUT) && !conn_send(e, c))
        return;
    if (events & (EPOLLIN | EPOLLHUP | EPOLLERR))
        conn_receive(e, c);
}

static void tick(struct engine *e, uint64_t now)
{
    e->next_tick_ns = now + TICK_NS;
    for (int i = 0; i < e->opened; i++) {
        struct conn *c = &e->conns[i];
        if (c->state == C_CLOSED)
            conn_try_open(e, c, now);
        else if (c->state != C_FREE && now > c->start_ns && now - c->start_ns > e->timeout_ns)
            conn_fail(e, c, c->state == C_BUSY ? F_TIMEOUT : F_CONNECT);
    }
}

static void fire_due(struct engine *e, uint64_t now)
{
    while (e->free && has_due(e, now)) {
        struct conn *c = e->free;
        e->free = c->next_free;
        conn_ready(e, c, now);
    }
    if (e->free && e->due_ns < e->window_end_ns && e->armed_ns != e->due_ns) {
        e->armed_ns = e->due_ns;
        struct itimerspec at = {.it_value = {(time_t)(e->due_ns / NS_PER_S), (long)(e->due_ns % NS_PER_S)}};
        timerfd_settime(e->timer, TFD_TIMER_ABSTIME, &at, NULL);
    }
}

static void begin_load(struct engine *e, uint64_t now)
{
    e->started_ns = now;
    e->window_start_ns = now + (uint64_t)(e->o->warmup * 1e9);
    e->window_end_ns = e->window_start_ns + (uint64_t)(e->o->seconds * 1e9);
    e->phase = P_WARMUP;
    e->due_ns = e->o->rate ? due_time(e, 0) : UINT64_MAX;
    struct conn *waiting = e->free;
    e->free = NULL;
    while (waiting) {
        struct conn *c = waiting;
        waiting = c->next_free;
        conn_ready(e, c, now);
    }
}

/* Moves to the next phase when its time has come; false: the run is over. */
static bool advance(struct engine *e, uint64_t now)
{
    if (e->phase == P_WARMUP && now >= e->window_start_ns) {
        snapshot_take(e, &e->r->begin);
        e->phase = P_MEASURE;
    }
    if (e->phase == P_MEASURE && now >= e->window_end_ns) {
        snapshot_take(e, &e->r->end);
        e->phase = P_DRAIN;
    }
    if (e->phase != P_DRAIN)
        return true;
    bool open_loop = e->o->rate > 0;
    return open_loop && (e->busy || has_due(e, now)) && now < e->window_end_ns + e->timeout_ns;
}

/* Milliseconds that epoll may sleep: until the next tick or the next phase. */
static int sleep_ms(const struct engine *e, uint64_t now)
{
    uint64_t until = e->next_tick_ns;
    uint64_t edge = e->phase == P_WARMUP ? e->window_start_ns : e->phase == P_MEASURE ? e->window_end_ns : until;
    if (edge < until)
        until = edge;
    return until <= now ? 0 : (int)((until - now + 999999) / 1000000);
}

static void turn(struct engine *e, uint64_t now)
{
    struct epoll_event events[BATCH];
    int n = epoll_wait(e->epoll, events, BATCH, sleep_ms(e, now));
    for (int i = 0; i < n; i++) {
        struct conn *c = events[i].data.ptr;
        if (!c)
            continue; /* the timer, edge-triggered: its only purpose was to wake us */
        /* A free connection may have something to receive, too: a TLS session ticket.  It stays free. */
        conn_event(e, c, events[i].events);
    }
}

/* Connections that are tried for the first time, not all at once. */
static void open_more(struct engine *e, uint64_t now)
{
    while (e->opened < e->o->connections && e->opened - e->set_up < CONNECTS_AT_ONCE)
        conn_try_open(e, &e->conns[e->opened++], now);
}

static int set_up(struct engine *e)
{
    uint64_t now = now_ns(), deadline = now + e->timeout_ns;
    while (e->set_up < e->o->connections && (now = now_ns()) < deadline) {
        open_more(e, now);
        if (now >= e->next_tick_ns)
            tick(e, now);
        turn(e, now);
    }
    e->opened = e->o->connections;
    if (e->set_up > 0)
        return 0;
    fprintf(stderr, "load: no connection to %s port %d could be made within %g s\n",
            e->o->unix_path ? e->o->unix_path : e->o->host, e->o->port, e->o->timeout);
    return -1;
}

static void run_phases(struct engine *e)
{
    uint64_t now = now_ns();
    begin_load(e, now);
    while (advance(e, now)) {
        if (e->o->rate > 0)
            fire_due(e, now);
        if (now >= e->next_tick_ns)
            tick(e, now);
        turn(e, now);
        now = now_ns();
    }
    if (e->o->rate > 0) { /* requests that were due but never got an answer must not be forgotten */
        e->r->failures[F_UNSENT] += (uint64_t)e->busy;
        for (; e->due_ns < e->window_end_ns; e->due_ns = due_time(e, ++e->due_index))
            e->r->failures[F_UNSENT]++;
    }
}

static void set_address(struct engine *e)
{
    struct sockaddr_in *v4 = (struct sockaddr_in *)&e->address;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&e->address;
    struct sockaddr_un *local = (struct sockaddr_un *)&e->address;
    if (e->o->unix_path) {
        local->sun_family = AF_UNIX;
        strcpy(local->sun_path, e->o->unix_path);
        e->address_len = sizeof *local;
    } else if (inet_pton(AF_INET, e->o->host, &v4->sin_addr) == 1) {
        v4->sin_family = AF_INET;
        v4->sin_port = htons((uint16_t)e->o->port);
        e->address_len = sizeof *v4;
    } else {
        inet_pton(AF_INET6, e->o->host, &v6->sin6_addr);
        v6->sin6_family = AF_INET6;
        v6->sin6_port = htons((uint16_t)e->o->port);
        e->address_len = sizeof *v6;
    }
}

static int prepare(struct engine *e)
{
    char path[64];
    struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.ptr = NULL};
    e->timeout_ns = (uint64_t)(e->o->timeout * 1e9);
    e->schedstat = -1;
    e->epoll = epoll_create1(EPOLL_CLOEXEC);
    e->timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    if (e->epoll < 0 || e->timer < 0 || epoll_ctl(e->epoll, EPOLL_CTL_ADD, e->timer, &event) < 0) {
        perror("load: epoll");
        return -1;
    }
    for (int i = 0; i < e->o->connections; i++)
        e->conns[i].fd = -1;
    set_address(e);
    if (e->o->server_pid) {
        snprintf(path, sizeof path, "/proc/%d/task/%d/schedstat", e->o->server_pid, e->o->server_pid);
        e->schedstat = open(path, O_RDONLY | O_CLOEXEC);
        if (clock_getcpuclockid(e->o->server_pid, &e->server_clock) != 0) {
            fprintf(stderr, "load: there is no process %d\n", e->o->server_pid);
            return -1;
        }
    }
    return 0;
}

int engine_run(const struct options *o, const struct messages *m, struct result *r)
{
    struct engine *e = calloc(1, sizeof *e);
    if (!e || !(e->conns = calloc((size_t)o->connections, sizeof *e->conns))) {
        fputs("load: out of memory\n", stderr);
        return -1;
    }
    e->o = o;
    e->m = m;
    e->r = r;
    if (prepare(e) < 0 || set_up(e) < 0)
        return -1;
    run_phases(e);
    for (int i = 0; i < o->connections; i++) {
        r->unserved += o->rate == 0 && !e->conns[i].served;
        conn_close(&e->conns[i]);
        http_free(&e->conns[i].http);
    }
    free(e->conns);
    free(e);
    return 0;
}
