/* What the user page itself costs: no-ops, and echoes over socket pairs.  Not a test: prints figures. */
#include "user_page_rig.h"

static int64_t cpu_ns(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static void reap_nops(struct rig *rig, int n) {
    struct flexsc_completion completions[64];
    while (n > 0) {
        unsigned got = flexsc_page_reap(rig->page, completions, 64);
        for (unsigned i = 0; i < got; i++)
            flexsc_entry_give(rig->page, (struct flexsc_entry *)(uintptr_t)completions[i].user_data);
        n -= (int)got;
        if (got == 0 && rig->mode != OWN)
            flexsc_page_wait(rig->page, -1, 1000000, &rig->spin);
    }
}

static void bench_nops(enum mode mode, int batch) {
    struct rig rig = rig_open(mode, 4096);
    int count = 2000000 / (batch == 1 && mode != OWN ? 10 : 1);
    if (mode != OWN) {
        flexsc_thread_stop(rig.page);
        flexsc_thread_start(rig.page, 1, 2000000);
    }
    int64_t start = rig_now_ns();
    for (int done = 0; done < count; done += batch) {
        for (int i = 0; i < batch; i++) {
            struct flexsc_entry *entry = flexsc_entry_take(rig.page);
            entry->call = CALL_NOP;
            entry->user_data = (uint64_t)(uintptr_t)entry;
            flexsc_page_submit(rig.page, entry);
        }
        if (mode == OWN)
            flexsc_page_serve(rig.page, 0);
        else
            flexsc_page_publish(rig.page);
        reap_nops(&rig, batch);
    }
    double ns = (double)(rig_now_ns() - start) / count;
    const struct flexsc_counters *counters = flexsc_page_counters(rig.page);
    printf("no-op, %-10s batch %3d: %7.1f ns per entry, %.3f + %.3f system calls\n", mode == OWN ? "own," : "pinned,",
           batch, ns, (double)counters->loop_syscalls / count, (double)counters->server_syscalls / count);
    rig_close(&rig);
}

static void on_echo(struct rig *rig, struct op *op) {
    struct op *send_op = op->owner;
    rig_give_buffer(rig, op->flags >> COMPLETION_BUFFER_SHIFT);
    rig_submit(rig, send_op, CALL_SEND, (int)(intptr_t)send_op->owner, ENTRY_OWNED, rig->buffers, 64, 0);
}

/* All peers send, the page echoes, all peers receive. */
static void bench_echo(enum mode mode, int connections, bool tcp) {
    struct rig rig = rig_open(mode, 4096);
    struct op *recvs = calloc((size_t)connections, sizeof *recvs), *sends = calloc((size_t)connections, sizeof *sends);
    int *peers = calloc((size_t)connections, sizeof *peers), turns = 20000 / connections;
    char data[64] = {0};
    int64_t spent = 0, wall = 0;
    uint64_t calls = 0, server_calls = 0;
    rig_pool(&rig, 256, 4096);
    if (mode != OWN) {
        flexsc_thread_stop(rig.page);
        flexsc_thread_start(rig.page, 1, 2000000);
    }
    for (int i = 0; i < connections; i++) {
        int fds[2];
        (tcp ? make_tcp_pair(fds) : make_pair(SOCK_STREAM, fds));
        peers[i] = fds[1];
        sends[i].owner = (void *)(intptr_t)fds[0];
        recvs[i].owner = &sends[i];
        recvs[i].on_completion = on_echo;
        rig_submit(&rig, &recvs[i], CALL_RECV, fds[0], ENTRY_OWNED | ENTRY_MULTISHOT | ENTRY_POOL | ENTRY_POLL_FIRST,
                   NULL, 0, 0);
    }
    rig_calm(&rig);
    const struct flexsc_counters *counters = flexsc_page_counters(rig.page);
    for (int turn = 0; turn < turns; turn++) {
        for (int i = 0; i < connections; i++)
            CHECK(write(peers[i], data, sizeof data) == sizeof data, "write");
        int left = 2 * connections;
        uint64_t before = counters->loop_syscalls, server_before = counters->server_syscalls;
        int64_t start = cpu_ns(CLOCK_THREAD_CPUTIME_ID), wall_start = rig_now_ns();
        rig.loop_spin_ns = 1000000;
        while (left > 0)
            left -= (int)rig_turn(&rig, -1);
        spent += cpu_ns(CLOCK_THREAD_CPUTIME_ID) - start;
        wall += rig_now_ns() - wall_start;
        calls += counters->loop_syscalls - before;
        server_calls += counters->server_syscalls - server_before;
        for (int i = 0; i < connections; i++)
            CHECK(read(peers[i], data, sizeof data) == sizeof data, "read");
    }
    double n = (double)turns * connections;
    printf("echo, %s %-10s %3d connections: %6.0f ns (%.0f ns CPU of the loop), %.3f + %.3f system calls\n",
           tcp ? "tcp, " : "unix,", mode == OWN ? "own," : "pinned,", connections, (double)wall / n, (double)spent / n,
           (double)calls / n, (double)server_calls / n);
    for (int i = 0; i < connections; i++) {
        close(peers[i]);
        close((int)(intptr_t)sends[i].owner);
    }
    rig_close(&rig);
    free(recvs);
    free(sends);
    free(peers);
}

int main(void) {
    cpu_set_t first;
    CPU_ZERO(&first);
    CPU_SET(0, &first);
    sched_setaffinity(0, sizeof first, &first);
    main_thread = pthread_self();
    if (setjmp(test_over) != 0)
        return 1;
    for (enum mode mode = OWN; mode <= PINNED; mode++) {
        const int batches[] = {1, 8, 64, 512};
        for (int i = 0; i < 4; i++)
            bench_nops(mode, batches[i]);
        const int connections[] = {1, 8, 64};
        for (int i = 0; i < 3; i++) {
            bench_echo(mode, connections[i], false);
            bench_echo(mode, connections[i], true);
        }
    }
    return 0;
}
