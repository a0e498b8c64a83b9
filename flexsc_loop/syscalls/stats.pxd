"""Floor 0: what Cython code uses of stats.h."""
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t


cdef extern from "stats.h" nogil:
    enum:
        FLEXSC_STATS_RUNNING
        FLEXSC_STATS_STOPPED
        FLEXSC_STATS_CLOSED

    struct flexsc_counts:
        uint64_t turns, callbacks, deliveries, timers_run, busy, asleep, in_calls
        uint64_t submitted, batches, completions, syscalls, wakeups, spins, pool_empty, overflows
        uint64_t bytes_in, bytes_out, messages_in, messages_out, accepts
        uint64_t jobs, jobs_done, job_wait
        uint64_t files_at_once, files_queued, files_by_threads, file_bytes_read, file_bytes_written
        uint64_t stalls, switches
        uint64_t ready, timers, in_flight, streams, tls, listeners, datagrams, pipes, pool_buffers, pool_most
        uint64_t green_threads

    struct flexsc_stats_page:
        uint32_t number
        int32_t thread
        int32_t syscall_thread, cpu
        uint32_t size
        char pages[8]
        char python[16]
        char reason[256]

    struct flexsc_stats:
        flexsc_stats_page* page
        flexsc_counts counts
        uint64_t turn_in_calls

    const char* stats_count_name(size_t at) noexcept
    bint stats_open(flexsc_stats* stats, uint32_t number) noexcept
    void stats_hide(flexsc_stats* stats) noexcept
    void stats_disown(flexsc_stats* stats) noexcept
    void stats_close(flexsc_stats* stats) noexcept
    void stats_text(char* to, size_t size, const char* text) noexcept
    void stats_copy(flexsc_stats* stats, uint64_t now) noexcept
    bint stats_copy_due(const flexsc_stats* stats, uint64_t now) noexcept
    double stats_tick_ns(const flexsc_stats* stats) noexcept
    void stats_turn_ends(flexsc_stats* stats, uint64_t now) noexcept
    void stats_sleep_begins(flexsc_stats* stats, uint64_t ended, uint64_t now) noexcept
    void stats_turn_begins(flexsc_stats* stats, uint64_t began, uint64_t now, bint slept, double late) noexcept
    void stats_received(flexsc_stats* stats, ssize_t size) noexcept
    void stats_sent(flexsc_stats* stats, ssize_t size) noexcept
    void stats_less(uint64_t* gauge) noexcept
    void stats_no_endpoints(flexsc_stats* stats) noexcept
    void stats_state(flexsc_stats* stats, uint32_t state, int32_t thread) noexcept


cdef extern from "probe.h" nogil:
    void probe_sleep(uint64_t loop, int64_t most_ns) noexcept
    void probe_publish(uint64_t loop, uint64_t endpoints) noexcept
