from libc.stdint cimport int64_t, uint32_t, uint64_t

from flexsc_loop.syscalls.operation cimport Operation
from flexsc_loop.syscalls.page cimport EAGAIN, EBUSY, EINTR, Page, flexsc_completion, flexsc_pool, flexsc_spin


cdef extern from "uring.h":
    struct uring_sqe:
        unsigned char opcode
        unsigned char flags
        unsigned short ioprio
        int fd
        uint64_t off
        uint64_t addr
        uint32_t len
        uint32_t op_flags
        uint64_t user_data
        unsigned short buf_group

    struct uring:
        int fd
        int wake_fd
        uint32_t setup_flags
        uint32_t features
        bint enabled
        uint32_t sq_entries
        uint32_t cq_entries
        uint32_t sq_mask
        uint32_t sqe_tail
        uint32_t sqe_published
        uring_sqe* sqes
        void* sq_head
        uint64_t syscalls
        uint64_t overflows
        uint64_t wakeups
        uint64_t batches

    struct uring_buf_reg:
        uint64_t ring_addr
        uint32_t ring_entries
        unsigned short bgid

    enum:
        URING_REGISTER_PBUF_RING
        URING_SQE_BUFFER_SELECT
        URING_SQE_LINK
        URING_SQE_ASYNC
        URING_SQE_CQE_SKIP_SUCCESS
        URING_RECVSEND_POLL_FIRST
        URING_RECV_MULTISHOT
        URING_ACCEPT_MULTISHOT
        URING_POLL_MULTISHOT
        URING_FEAT_NO_IOWAIT
        URING_CANCEL_ALL
        URING_CANCEL_ANY

    bint uring_polled(const uring* ring) noexcept
    int uring_sys_register(uring* ring, unsigned opcode, const void* arg, unsigned count) noexcept


cdef extern from "uring_setup.h":
    enum:
        URING_NO_POLLER
        URING_SHARES_NONE

    int uring_open(uring* ring, uint32_t entries, uint32_t completions, int poller_cpu, uint32_t idle_ms,
                   int share) nogil
    void uring_close(uring* ring) nogil
    void uring_close_fds(uring* ring) nogil
    int uring_enable(uring* ring) nogil


cdef extern from "uring_user.h":
    bint uring_user_changed(uring* ring) noexcept


cdef extern from "uring_turn.h":
    uring_sqe* uring_next_sqe(uring* ring) noexcept
    uint32_t uring_unpublished(const uring* ring) noexcept
    bint uring_all_taken(const uring* ring) noexcept
    uint32_t uring_room(const uring* ring) noexcept
    bint uring_has_completions(const uring* ring) noexcept nogil
    bint uring_wants_enter(const uring* ring) noexcept nogil
    uint32_t uring_reap(uring* ring, flexsc_completion* out, uint32_t most) noexcept
    int uring_publish(uring* ring) noexcept nogil
    int uring_make_room(uring* ring) noexcept nogil
    int uring_wait_own(uring* ring, int64_t timeout_ns, int64_t spin_ns, flexsc_spin* spin) noexcept nogil
    bint uring_poller_sleeps(const uring* ring) noexcept
    enum uring_found:
        URING_SOMETHING
        URING_BEHIND
    int uring_wait_polled(uring* ring, int64_t timeout_ns, int64_t spin_ns, flexsc_spin* spin,
                          uring_found* found) noexcept nogil
    bint uring_wake(uring* ring) noexcept nogil


cdef extern from "late_calls.h":
    int gettid "late_gettid"() noexcept


cdef extern from *:
    """
    #include <time.h>

    /* CPU time in nanoseconds of a thread of this process, 0 if there is none with this id. */
    static inline int64_t flexsc_cpu_ns_of(int tid)
    {
        struct timespec cpu;
        clockid_t clock = (clockid_t)(~(unsigned)tid << 3 | 6); /* as the kernel numbers the clocks of threads */
        return clock_gettime(clock, &cpu) == 0 ? cpu.tv_sec * 1000000000ll + cpu.tv_nsec : 0;
    }
    """
    int64_t cpu_ns_of "flexsc_cpu_ns_of"(int tid) noexcept


cdef enum:
    DIRECT_MOST = 2              # more sends than that are cheaper in one io_uring_enter
    SPIN_NS = 50_000             # so long the loop looks for what a poller has done
    PATIENCE_NS = 1_000_000_000  # how long the kernel may take to end what was cancelled
    STREAMS = 0                  # numbers of a ring's two pools of receive buffers
    DATAGRAMS = 1


cdef inline int raise_unless_passing(int res) except -1:
    """What io_uring_enter says and another try does not.

    EAGAIN: no memory just now; EBUSY: the completion ring has overflowed and wants to be reaped first.
    """
    if res < 0 and res != -EINTR and res != -EAGAIN and res != -EBUSY:
        raise OSError(-res, "io_uring_enter")
    return 0


cdef class WakeRead(Operation):
    cdef KernelPage page
    cdef uring* ring
    cdef uint64_t count
    cdef bint retired                      # its ring is about to be gone

    cdef int prepare(self) except -1


cdef class KernelPage(Page):
    cdef object __weakref__
    cdef uring first
    cdef uring* ring                       # the one that is filled
    cdef readonly int poller_cpu           # or URING_NO_POLLER, or -1: any
    cdef readonly bint halved              # there was no memory for a ring of the size that was asked for
    cdef uint32_t entries, capacity
    cdef uint64_t wakeups
    cdef int poller                        # the poller's thread id, 0: none
    cdef int64_t past_cpu_ns               # CPU time of pollers that are gone
    cdef int owner                         # thread that the ring is bound to
    cdef object waker
    cdef dict cancelling                   # user_data -> operation that the kernel has been asked to end

    cdef uring_sqe* next_sqe(self, uring* ring) except NULL
    cdef int set_up(self, uring* ring, int cpu) except -1
    cdef int open_ring(self) except -1
    cdef int shared_poller(self, int cpu) except? -2
    cdef WakeRead keep_read(self, uring* ring)
    cdef int await_room(self, uring* ring) except -1
    cdef uring* carrier(self, Operation op) noexcept
    cdef int register_pool(self, uring* ring, flexsc_pool* pool, int group) except -1
    cdef int register_pools(self, uring* ring) except -1
    cdef int share_pools(self) except -1
    cdef int reset_pools(self) except -1
    cdef int queue_cancel(self, Operation op, uint64_t user_data) except -1
    cdef bint unpublished(self, Operation op) noexcept
    cdef int wait_polled(self, int64_t timeout_ns) noexcept nogil
    cdef int move(self) except -1
    cdef int give_up(self, Operation op) except -1
    cdef int change_user(self) except -1
    cdef list operations(self)
    cdef int poller_fd(self) noexcept
    cdef int find_poller(self) except -1
    cdef int await_poller(self) except -1
    cdef int forget_poller(self) except -1
    cdef int close_unpublished(self) except -1
    cdef list last_results(self)
    cdef int cancel_all(self) except -1
    cdef int await_files(self) except -1
    cdef int queue_cancel_all(self) except -1
