/* Command line of the load generator. */
#define _GNU_SOURCE
#include "load.h"
#include "tls.h"

#include <arpa/inet.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

static const char USAGE[] =
    "usage: load --mode http|http-close|echo|ws|udp (--port N [--host ADDRESS] | --unix PATH) [options]\n"
    "  --tls              over TLS, nothing is verified (http, echo, ws)\n"
    "  --path PATH        what to ask for (http, http-close, ws; default /)\n"
    "  --size BYTES       message size (echo, ws, udp; default 128)\n"
    "  --connections N    each with one request outstanding (default 64)\n"
    "  --seconds S        measured window (default 3)\n"
    "  --warmup S         load before the window (default 0.5)\n"
    "  --timeout S        until a request has failed (default 5)\n"
    "  --rate R           open loop: R requests a second in all, latency from the intended time; 0: closed loop\n"
    "  --cpu N            pin to CPU N\n"
    "  --fifo PRIORITY    real-time priority 1 to 99, if that is permitted\n"
    "  --server-pid PID   also measure the CPU time of this process in the window\n"
    "  --counters FD,...  also read these inherited perf_event descriptors at both ends of the window\n"
    "Sends to loopback addresses only.  Prints one line of JSON.\n";

__attribute__((noreturn, format(printf, 1, 2))) static void refuse(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fputs("load: ", stderr);
    vfprintf(stderr, format, args);
    va_end(args);
    fputs("\ntry: load --help\n", stderr);
    exit(2);
}

static double number(const char *name, const char *text, double low, double high)
{
    char *end;
    double value = strtod(text, &end);
    if (end == text || *end || !(value >= low && value <= high))
        refuse("--%s %s: expected a number from %g to %g", name, text, low, high);
    return value;
}

static void set_mode(struct options *o, const char *name)
{
    static const char *const names[] = {"http", "http-close", "echo", "ws", "udp"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(name, names[i]) == 0) {
            o->mode = (enum mode)i;
            o->mode_name = names[i];
            return;
        }
    refuse("--mode %s: expected http, http-close, echo, ws or udp", name);
}

static void set_counters(struct options *o, char *list)
{
    for (char *word = strtok(list, ","); word; word = strtok(NULL, ",")) {
        if (o->counter_count == MAX_COUNTERS)
            refuse("--counters: at most %d", MAX_COUNTERS);
        o->counters[o->counter_count++] = (int)number("counters", word, 0, 1e6);
    }
}

static void check(const struct options *o)
{
    struct in_addr v4;
    struct in6_addr v6;
    if (!o->mode_name)
        refuse("--mode is missing");
    if (!o->unix_path && !o->port)
        refuse("--port or --unix is missing");
    if (o->unix_path && o->mode == MODE_UDP)
        refuse("--unix does not go with --mode udp");
    if (o->tls && (o->mode == MODE_UDP || o->mode == MODE_HTTP_CLOSE))
        refuse("--tls does not go with --mode %s", o->mode_name);
    if (o->tls && !tls_is_built_in())
        refuse("--tls: built without OpenSSL (apt-get install libssl-dev, then compile with -DLOAD_TLS -lssl -lcrypto)");
    if (o->unix_path && strlen(o->unix_path) >= sizeof ((struct sockaddr_un *)0)->sun_path)
        refuse("--unix: the path is too long");
    bool loopback = (inet_pton(AF_INET, o->host, &v4) == 1 && ntohl(v4.s_addr) >> 24 == 127) ||
                    (inet_pton(AF_INET6, o->host, &v6) == 1 && IN6_IS_ADDR_LOOPBACK(&v6));
    if (!loopback)
        refuse("--host %s: only loopback addresses (127.0.0.0/8 and ::1) are allowed", o->host);
    if (o->size < 1)
        refuse("--size: at least 1 byte");
    if (o->mode == MODE_UDP && o->size > 65507)
        refuse("--size: a datagram holds at most 65507 bytes");
    if (o->path[0] != '/' || strpbrk(o->path, " \r\n"))
        refuse("--path %s: must begin with / and hold no blanks", o->path);
}

enum { OPT_MODE = 1, OPT_HOST, OPT_PORT, OPT_UNIX, OPT_PATH, OPT_SIZE, OPT_CONNECTIONS, OPT_SECONDS, OPT_WARMUP,
       OPT_TIMEOUT, OPT_RATE, OPT_CPU, OPT_FIFO, OPT_PID, OPT_COUNTERS, OPT_TLS, OPT_HELP };

static const struct option LONG[] = {
    {"mode", 1, 0, OPT_MODE}, {"host", 1, 0, OPT_HOST}, {"port", 1, 0, OPT_PORT}, {"unix", 1, 0, OPT_UNIX},
    {"path", 1, 0, OPT_PATH}, {"size", 1, 0, OPT_SIZE}, {"connections", 1, 0, OPT_CONNECTIONS},
    {"seconds", 1, 0, OPT_SECONDS}, {"warmup", 1, 0, OPT_WARMUP}, {"timeout", 1, 0, OPT_TIMEOUT},
    {"rate", 1, 0, OPT_RATE}, {"cpu", 1, 0, OPT_CPU}, {"fifo", 1, 0, OPT_FIFO}, {"server-pid", 1, 0, OPT_PID},
    {"counters", 1, 0, OPT_COUNTERS}, {"tls", 0, 0, OPT_TLS},
    {"help", 0, 0, OPT_HELP}, {0, 0, 0, 0},
};

static void take(struct options *o, int which, char *value)
{
    switch (which) {
    case OPT_MODE: set_mode(o, value); break;
    case OPT_HOST: o->host = value; break;
    case OPT_PORT: o->port = (int)number("port", value, 1, 65535); break;
    case OPT_UNIX: o->unix_path = value; break;
    case OPT_PATH: o->path = value; break;
    case OPT_SIZE: o->size = (size_t)number("size", value, 1, 1 << 30); break;
    case OPT_CONNECTIONS: o->connections = (int)number("connections", value, 1, 100000); break;
    case OPT_SECONDS: o->seconds = number("seconds", value, 0.01, 3600); break;
    case OPT_WARMUP: o->warmup = number("warmup", value, 0, 600); break;
    case OPT_TIMEOUT: o->timeout = number("timeout", value, 0.01, 600); break;
    case OPT_RATE: o->rate = number("rate", value, 0, 1e7); break;
    case OPT_CPU: o->cpu = (int)number("cpu", value, 0, 1023); break;
    case OPT_FIFO: o->fifo = (int)number("fifo", value, 0, 99); break;
    case OPT_PID: o->server_pid = (int)number("server-pid", value, 1, 1 << 30); break;
    case OPT_COUNTERS: set_counters(o, value); break;
    case OPT_TLS: o->tls = true; break;
    case OPT_HELP: fputs(USAGE, stdout); exit(0);
    default: exit((fputs(USAGE, stderr), 2));
    }
}

void options_parse(struct options *o, int argc, char **argv)
{
    int which;
    *o = (struct options){.host = "127.0.0.1", .path = "/", .connections = 64, .size = 128, .seconds = 3,
                          .warmup = 0.5, .timeout = 5, .cpu = -1};
    while ((which = getopt_long(argc, argv, "", LONG, NULL)) != -1)
        take(o, which, optarg);
    if (optind < argc)
        refuse("unexpected argument: %s", argv[optind]);
    check(o);
}
