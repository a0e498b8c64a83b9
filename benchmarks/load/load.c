/* A load generator for the benchmarks: HTTP/1.1, raw echo, WebSocket echo and UDP echo over loopback.
 *
 * Closed loop: every connection always has one request outstanding.  Open loop (--rate): requests are due at evenly
 * spaced times whatever the server does, and latency counts from the time a request was due, so a server that stalls
 * pays for every request that it kept waiting.
 */
#define _GNU_SOURCE
#include "histogram.h"
#include "load.h"
#include "tls.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

const char *const failure_names[F_COUNT] = {"connect", "read", "write", "closed", "timeout", "status", "content", "unsent"};

/* Whatever happens, this process ends. */
static void limit_lifetime(const struct options *o)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    signal(SIGPIPE, SIG_IGN);
    alarm((unsigned)(o->warmup + o->seconds + 3 * o->timeout) + 10);
}

static void raise_file_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

static bool pin(const struct options *o)
{
    if (o->cpu < 0)
        return false;
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET((size_t)o->cpu, &set);
    return sched_setaffinity(0, sizeof set, &set) == 0;
}

static bool go_real_time(const struct options *o)
{
    struct sched_param param = {.sched_priority = o->fifo};
    return o->fifo > 0 && sched_setscheduler(0, SCHED_FIFO, &param) == 0;
}

static void print_latencies(const struct histogram *h)
{
    static const struct { const char *name; double share; } points[] = {
        {"p50", 0.5}, {"p90", 0.9}, {"p99", 0.99}, {"p99.9", 0.999}};
    double mean = h->count ? (double)h->sum / (double)h->count / 1e3 : 0;
    printf("\"latency_us\":{\"min\":%.3f,\"mean\":%.3f", (double)h->min / 1e3, mean);
    for (size_t i = 0; i < sizeof points / sizeof *points; i++)
        printf(",\"%s\":%.3f", points[i].name, (double)hist_quantile(h, points[i].share) / 1e3);
    printf(",\"max\":%.3f}", (double)h->max / 1e3);
}

static void print_result(const struct options *o, const struct result *r, bool pinned, bool real_time)
{
    double seconds = (double)(r->end.at_ns - r->begin.at_ns) / 1e9;
    printf("{\"mode\":\"%s\",\"connections\":%d,\"size\":%zu,\"offered_rate\":%.3f,\"seconds\":%.6f,"
           "\"requests\":%llu,\"total_requests\":%llu,\"rate\":%.3f,\"bytes\":%llu,\"reconnects\":%llu,\"unserved\":%llu,",
           o->mode_name, o->connections, o->size, o->rate, seconds, (unsigned long long)r->requests,
           (unsigned long long)r->total, (double)r->requests / seconds, (unsigned long long)r->bytes,
           (unsigned long long)r->reconnects, (unsigned long long)r->unserved);
    printf("\"errors\":{");
    for (int i = 0; i < F_COUNT; i++)
        printf("%s\"%s\":%llu", i ? "," : "", failure_names[i], (unsigned long long)r->failures[i]);
    printf("},");
    print_latencies(r->latencies);
    printf(",\"load_busy\":%.4f,\"pinned\":%s,\"real_time\":%s",
           (double)(r->end.own_cpu_ns - r->begin.own_cpu_ns) / 1e9 / seconds, pinned ? "true" : "false",
           real_time ? "true" : "false");
    if (o->server_pid)
        printf(",\"server_cpu_ns\":%llu,\"server_main_ns\":%llu",
               (unsigned long long)(r->end.server_cpu_ns - r->begin.server_cpu_ns),
               (unsigned long long)(r->end.server_main_ns - r->begin.server_main_ns));
    if (o->counter_count) {
        printf(",\"counters\":[");
        for (int i = 0; i < o->counter_count; i++)
            printf("%s%llu", i ? "," : "", (unsigned long long)(r->end.counters[i] - r->begin.counters[i]));
        printf("]");
    }
    printf("}\n");
}

int main(int argc, char **argv)
{
    struct options options;
    struct messages messages;
    struct result result = {0};
    options_parse(&options, argc, argv);
    limit_lifetime(&options);
    raise_file_limit();
    messages_build(&messages, &options);
    result.latencies = calloc(1, sizeof *result.latencies);
    if (!result.latencies) {
        fputs("load: out of memory\n", stderr);
        return 1;
    }
    if (options.tls && !tls_set_up()) {
        fputs("load: OpenSSL cannot be set up\n", stderr);
        return 1;
    }
    bool pinned = pin(&options), real_time = go_real_time(&options);
    if (engine_run(&options, &messages, &result) < 0)
        return 1;
    print_result(&options, &result, pinned, real_time);
    return fflush(stdout) == 0 ? 0 : 1;
}
