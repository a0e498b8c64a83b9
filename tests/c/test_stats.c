/* The stats page: its histograms against a model, and what is left of it when there is no memfd, after fork and close. */
#include "user_page_rig.h"

#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "../../flexsc_loop/syscalls/stats.h"

#define ONCE (1u << OWN)
#define MODE enum mode mode __attribute__((unused))

static void test_buckets(MODE) {
    CHECK(histogram_least(0) == 0, "the first bucket");
    for (uint32_t bucket = 0; bucket < FLEXSC_STATS_BUCKETS; bucket++) {
        uint64_t least = histogram_least(bucket), next = histogram_least(bucket + 1);
        CHECK(histogram_bucket(least) == bucket && histogram_bucket(next - 1) == bucket, "bucket %u", bucket);
        CHECK(bucket < 128 ? next == least + 1 : (double)(next - least) <= 0.02 * (double)least, "width of %u", bucket);
    }
    CHECK(histogram_bucket(histogram_least(FLEXSC_STATS_BUCKETS)) == FLEXSC_STATS_BUCKETS - 1, "too large");
    CHECK(histogram_bucket(UINT64_MAX) == FLEXSC_STATS_BUCKETS - 1, "far too large");
}

static void test_adding(MODE) {
    static struct flexsc_histogram histogram;
    uint64_t total = 0, most = 0, count = 0;
    uint32_t seed = 1;
    int values = rounds(20000);
    for (int i = 0; i < values; i++) {
        uint64_t value = (uint64_t)next_random(&seed) << next_random(&seed) % 8;
        histogram_add(&histogram, value);
        total += value;
        most = value > most ? value : most;
    }
    for (uint32_t i = 0; i < FLEXSC_STATS_BUCKETS; i++)
        count += histogram.buckets[i];
    CHECK(count == (uint64_t)values && histogram.total == total && histogram.most == most, "%d values", values);
}

static void test_a_page(MODE) {
    struct flexsc_stats stats;
    struct stat status;
    CHECK(stats_open(&stats, 7) && stats.fd >= 0, "no page");
    CHECK(fstat(stats.fd, &status) == 0 && status.st_size == sizeof *stats.page, "its size");
    CHECK(ftruncate(stats.fd, 0) < 0 && errno == EPERM, "it can be cut");
    CHECK(stats.page->number == 7 && stats.page->pid == getpid(), "its head");
    CHECK(memcmp(stats.page->magic, FLEXSC_STATS_MAGIC, 8) == 0, "its magic");
    stats.counts.bytes_in = 99;
    stats_state(&stats, FLEXSC_STATS_RUNNING, 5);
    struct flexsc_stats_page copy;
    CHECK(pread(stats.fd, &copy, sizeof copy, 0) == sizeof copy, "can't be read");
    CHECK(copy.counts.bytes_in == 99 && copy.sequence % 2 == 0 && copy.thread == 5, "what is read");
    stats_hide(&stats);
    stats_state(&stats, FLEXSC_STATS_CLOSED, 0);
    CHECK(stats.fd == -1 && stats.page->state == FLEXSC_STATS_CLOSED, "closed");
    stats_close(&stats);
}

/* Where a memfd is not to be had everything goes on, unseen. */
static void test_no_descriptor(MODE) {
    struct flexsc_stats stats;
    struct rlimit before, none;
    getrlimit(RLIMIT_NOFILE, &before);
    none = before;
    none.rlim_cur = 0;
    setrlimit(RLIMIT_NOFILE, &none);
    bool opened = stats_open(&stats, 1);
    setrlimit(RLIMIT_NOFILE, &before);
    CHECK(opened && stats.fd == -1, "fd %d", stats.fd);
    stats_turn_begins(&stats, 1, 2, false, 0);
    stats_close(&stats);
}

static void test_a_forked_child(MODE) {
    struct flexsc_stats stats;
    CHECK(stats_open(&stats, 1), "no page");
    stats.counts.turns = 1;
    stats_copy(&stats, ticks_now());
    pid_t child = fork();
    if (child == 0) {
        stats_disown(&stats);
        stats.counts.turns = 2;
        stats_copy(&stats, ticks_now());
        _exit(stats.fd == -1 && stats.page->counts.turns == 2 ? 0 : 1);
    }
    int status = -1;
    waitpid(child, &status, 0);
    CHECK(status == 0, "the child: %x", status);
    CHECK(stats.page->counts.turns == 1, "the child has written into its parent's page");
    stats_close(&stats);
}

/* Where the time of a turn goes. */
static void test_a_turn(MODE) {
    struct flexsc_stats stats;
    CHECK(stats_open(&stats, 1), "no page");
    struct flexsc_stats_page *page = stats.page;
    uint64_t start = ticks_now() + 1000;
    stats_turn_begins(&stats, start, start + 10, false, 0);
    CHECK(page->state == FLEXSC_STATS_RUNNING && page->turn_began == start + 10, "began");
    stats.turn_in_calls = 30;
    stats_turn_ends(&stats, start + 110);
    stats_sleep_begins(&stats, start + 110, start + 120);
    CHECK(page->state == FLEXSC_STATS_ASLEEP && page->counts.busy == 70 && page->counts.in_calls == 50, "busy %llu",
          (unsigned long long)page->counts.busy);
    stats_turn_begins(&stats, start + 120, start + 1120, true, 0);
    CHECK(stats.counts.asleep == 1000 && page->lag.buckets[0] == 2, "slept");
    stats_turn_ends(&stats, start + 1220);
    stats_turn_ends(&stats, start + 9999); /* has ended */
    CHECK(page->turn.total == 200 && page->turn.buckets[100] == 2, "two turns of 100 ticks");
    /* It has not slept: what it finds may have come just after the last look. */
    stats_turn_begins(&stats, start + 1220, start + 1220, false, 0);
    CHECK(page->lag.buckets[100] == 1, "lag of a busy loop");
    stats_turn_ends(&stats, start + 1000); /* the clock of another CPU */
    CHECK(page->turn.buckets[0] == 1, "a turn that ended before it began");
    stats_turn_begins(&stats, start, start + 2000, true, 1.0);
    double lag = (double)page->lag.most * stats_tick_ns(&stats);
    CHECK(lag > 0.5e9 && lag < 2e9, "lag of a late timer: %f ns", lag);
    stats_close(&stats);
}

static const struct test tests[] = {
    {"buckets", test_buckets, ONCE},
    {"adding", test_adding, ONCE},
    {"a page", test_a_page, ONCE},
    {"no descriptor", test_no_descriptor, ONCE},
    {"a forked child", test_a_forked_child, ONCE},
    {"a turn", test_a_turn, ONCE},
};

MAIN(tests)
