from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t, uint8_t

from flexsc_loop.syscalls.operation cimport Operation
from flexsc_loop.syscalls.page cimport Page, flexsc_completion, flexsc_pool_slot, flexsc_spin


cdef extern from "user_page.h":
    struct flexsc_entry:
        uint8_t call
        uint8_t flags
        int32_t fd
        uint64_t addr
        uint64_t off
        uint32_t len
        uint32_t call_flags
        uint64_t user_data

    struct flexsc_page:
        pass

    flexsc_page* flexsc_page_open(unsigned completions) nogil
    void flexsc_page_close(flexsc_page* page) nogil
    void flexsc_page_set_pool(flexsc_page* page, flexsc_pool_slot* ring, unsigned slots)
    void flexsc_page_set_datagram_pool(flexsc_page* page, flexsc_pool_slot* ring, unsigned slots)
    flexsc_entry* flexsc_entry_take(flexsc_page* page) noexcept
    void flexsc_entry_give(flexsc_page* page, flexsc_entry* entry) noexcept
    void flexsc_page_submit(flexsc_page* page, flexsc_entry* entry) noexcept
    void flexsc_page_publish(flexsc_page* page) noexcept nogil
    int flexsc_page_serve(flexsc_page* page, int64_t timeout_ns) noexcept nogil
    int flexsc_page_wait(flexsc_page* page, int64_t timeout_ns, int64_t spin_ns, flexsc_spin* spin) noexcept nogil
    void flexsc_page_wake(flexsc_page* page) noexcept nogil
    unsigned flexsc_page_reap(flexsc_page* page, flexsc_completion* out, unsigned most) noexcept
    int64_t flexsc_page_starved_ns(flexsc_page* page) noexcept nogil
    bint flexsc_page_help(flexsc_page* page) noexcept nogil
    bint flexsc_page_all_begun(const flexsc_page* page) noexcept
    bint flexsc_page_has_completions(const flexsc_page* page) noexcept
    void flexsc_page_cancel_now(flexsc_page* page, flexsc_entry* entry) noexcept nogil
    bint flexsc_page_thread_sleeps(const flexsc_page* page) noexcept nogil
    bint flexsc_page_close_fd(flexsc_page* page, int fd) noexcept nogil
    int flexsc_thread_start(flexsc_page* page, int cpu, int64_t spin_ns) nogil
    void flexsc_thread_stop(flexsc_page* page) noexcept nogil
    int64_t flexsc_thread_cpu_ns(const flexsc_page* page)
    int flexsc_thread_id(const flexsc_page* page) noexcept
    uint64_t flexsc_page_faults(const flexsc_page* page)


cdef extern from *:
    """
    #include "user_page.h"
    #define COUNTER(name) \\
        static inline uint64_t counted_##name(const struct flexsc_page *page) \\
        { return atomic_load_explicit(&flexsc_page_counters(page)->name, memory_order_relaxed); }
    COUNTER(batches)
    COUNTER(loop_syscalls)
    COUNTER(wakeups)
    COUNTER(helps)
    COUNTER(overflows)
    """
    uint64_t counted_batches(const flexsc_page* page)
    uint64_t counted_loop_syscalls(const flexsc_page* page)
    uint64_t counted_wakeups(const flexsc_page* page)
    uint64_t counted_helps(const flexsc_page* page)
    uint64_t counted_overflows(const flexsc_page* page)


cdef extern from "send_batch.h":
    enum:
        SEND_BATCH_MOST

    struct send_batch:
        uint32_t count
        int32_t results[1]

    void send_batch_close(send_batch* batch) noexcept
    bint send_batch_ready(send_batch* batch) noexcept
    void send_batch_add(send_batch* batch, int fd, const void* data, size_t size) noexcept
    uint32_t send_batch_go(send_batch* batch) noexcept


cdef class UserPage(Page):
    cdef flexsc_page* user
    cdef readonly object cpu               # of the pinned thread; None: the loop's own thread serves
    cdef bint started
    cdef uint64_t woken
    cdef int64_t last_cpu_ns                # of the pinned thread, once the page is shut
    cdef uint64_t last_faults
    cdef send_batch sends                  # plain sends that are gathered, and for whom
    cdef list gathered
    cdef bint gathering
    cdef uint32_t unpublished
    cdef uint32_t looks                    # busy turns that still look at epoll, whatever the time
    cdef uint64_t looked_at                # ticks of the last look
    cdef uint64_t helps                    # times that the loop's thread had to help, as far as has been seen
    cdef uint64_t calls_seen               # direct calls until then

    cdef int give(self) except -1
    cdef int help(self) except -1
    cdef int send_gathered(self) except -1
    cdef int silently(self, int call, int fd, uint32_t length, uint64_t addr, uint64_t off) except -1
