/* Shared types of the load generator.
 *
 * One thread, one epoll, N connections with at most one request outstanding each.  It stands for the other machine
 * of a benchmark, so it does as little as it can per request: one send, one receive, one look at the clock.
 */
#ifndef FLEXSC_LOAD_H
#define FLEXSC_LOAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#define NS_PER_S 1000000000ull
#define MAX_COUNTERS 64
#define MAX_VARIANTS 16
/* Echoes from this size on are counted but not copied out of the kernel, except one in BULK_CHECK, which is compared: so
 * that the load generator stays faster than the servers. */
#define BULK_BYTES 16384
#define BULK_CHECK 16

enum mode { MODE_HTTP, MODE_HTTP_CLOSE, MODE_ECHO, MODE_WS, MODE_UDP };

struct options {
    enum mode mode;
    const char *mode_name;
    const char *host;      /* a loopback address */
    const char *unix_path; /* a Unix socket instead of host and port */
    const char *path;      /* HTTP and WebSocket: what to ask for */
    int port;
    bool tls;
    int connections;
    size_t size;           /* bytes of an echoed message */
    double seconds;        /* the measured window */
    double warmup;         /* seconds of load before the window */
    double timeout;        /* seconds until a request or a connect counts as failed */
    double rate;           /* requests a second in all; 0: closed loop */
    int cpu;               /* pin to this CPU; -1: do not */
    int fifo;              /* real-time priority; 0: none */
    int server_pid;        /* whose CPU time is read at both ends of the window; 0: nobody's */
    int counters[MAX_COUNTERS]; /* inherited perf_event file descriptors, read at both ends of the window */
    int counter_count;
};

/* Fills `o` from the command line; on bad input prints one line to stderr and exits with status 2. */
void options_parse(struct options *o, int argc, char **argv);

/* What the bytes received so far say about the outstanding request. */
enum verdict {
    V_MORE,   /* incomplete */
    V_DONE,   /* complete and right */
    V_STATUS, /* complete, but an HTTP status of 400 or more, or not the one expected */
    V_BROKEN, /* not what was to come: malformed, too much, or other bytes than were sent */
};

/* Incremental HTTP/1.1 response parser (RFC 9112): content-length, chunked, or body until the end of the stream. */
struct http_parser {
    enum { H_HEAD, H_LENGTH, H_SIZE, H_SIZE_LINE, H_CHUNK, H_CHUNK_END, H_TRAILER, H_UNTIL_EOF, H_DONE } state;
    uint64_t left;     /* bytes of the body or chunk still to come */
    int status;
    bool close;        /* the server will close the connection */
    uint32_t line;     /* bytes of the trailer line, or of the CRLF after a chunk, seen so far */
    uint32_t head_len; /* bytes gathered of a head that comes in several reads */
    uint32_t gathered; /* length of the finished head, if it came in several reads, else 0 */
    char *head;        /* its bytes; allocated on first need */
};

void http_reset(struct http_parser *p);
void http_free(struct http_parser *p);
enum verdict http_feed(struct http_parser *p, const char *bytes, size_t n);
/* The stream has ended: is that the end of the response? */
enum verdict http_eof(struct http_parser *p);
/* Whether one of the lines after the first begins with `line` (in any case). */
bool http_has_line(const char *bytes, size_t n, const char *line);

/* What is sent and what must come back; several variants, so that stale or crossed replies are noticed. */
struct messages {
    int variants;
    const char *out[MAX_VARIANTS];
    size_t out_len;
    const char *expect[MAX_VARIANTS]; /* NULL: an HTTP response */
    size_t expect_len;
    const char *handshake;            /* WebSocket only */
    size_t handshake_len;
    bool bulk;                        /* long echoes, of which only one in BULK_CHECK is compared */
};

extern const char WS_ACCEPT_LINE[];
void messages_build(struct messages *m, const struct options *o);

/* What is known of the server (and of us) at one end of the window. */
struct snapshot {
    uint64_t at_ns;
    uint64_t own_cpu_ns;
    uint64_t server_cpu_ns;  /* all threads, those that have ended and the kernel's poller included */
    uint64_t server_main_ns; /* the thread whose id is the process's */
    uint64_t counters[MAX_COUNTERS];
};

enum failure { F_CONNECT, F_READ, F_WRITE, F_CLOSED, F_TIMEOUT, F_STATUS, F_CONTENT, F_UNSENT, F_COUNT };

struct histogram;

struct result {
    uint64_t requests;  /* completed well within the window */
    uint64_t total;     /* completed well, the warm-up included */
    uint64_t bytes;     /* received within the window */
    uint64_t reconnects;
    uint64_t unserved;  /* connections that never got a reply, in a closed loop: there should be none */
    uint64_t failures[F_COUNT];
    struct snapshot begin, end;
    struct histogram *latencies;
};

extern const char *const failure_names[F_COUNT];

/* Runs the load; returns 0, or -1 (with a line on stderr) when no connection could be set up. */
int engine_run(const struct options *o, const struct messages *m, struct result *r);

uint64_t now_ns(void);

#endif
