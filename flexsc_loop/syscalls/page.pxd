from libc.stdint cimport int32_t, int64_t, uint16_t, uint32_t, uint64_t, uint8_t

from flexsc_loop.syscalls.operation cimport Operation
from flexsc_loop.syscalls.stats cimport flexsc_counts, flexsc_stats


cdef extern from "<errno.h>" nogil:
    enum:
        EAGAIN
        EBADF
        EBUSY
        ECANCELED
        ECONNABORTED
        EINTR
        EMFILE
        ENFILE
        ENOBUFS
        ENOMEM


cdef extern from "calls.h":
    enum:
        CALL_NOP
        CALL_READV
        CALL_WRITEV
        CALL_FSYNC
        CALL_POLL
        CALL_SENDMSG
        CALL_RECVMSG
        CALL_ACCEPT
        CALL_CANCEL
        CALL_CONNECT
        CALL_FALLOCATE
        CALL_OPENAT
        CALL_CLOSE
        CALL_STATX
        CALL_READ
        CALL_WRITE
        CALL_FADVISE
        CALL_SEND
        CALL_RECV
        CALL_SHUTDOWN
        CALL_RENAMEAT
        CALL_UNLINKAT
        CALL_MKDIRAT
        CALL_SYMLINKAT
        CALL_LINKAT
        CALL_FTRUNCATE
        CALL_COPY_RANGE
        CALL_READ_WHOLE
        CALL_READ_REST
        CALL_WRITE_WHOLE
        CALL_FSYNC_DATA
        CALL_HERE
        ENTRY_MULTISHOT
        ENTRY_POOL
        ENTRY_OWNED
        ENTRY_POLL_FIRST
        ENTRY_LINK
        ENTRY_SLEEPS
        COMPLETION_BUFFER
        COMPLETION_MORE
        COMPLETION_NONEMPTY
        COMPLETION_SECOND
        COMPLETION_BY_THREAD
        COMPLETION_ABANDONED
        COMPLETION_PLAIN
        COMPLETION_BUFFER_SHIFT

    struct flexsc_completion:
        uint64_t user_data
        int32_t res
        uint32_t flags

    struct flexsc_pool_slot:
        pass

    struct flexsc_datagram:
        uint32_t name_size
        uint32_t control_size
        uint32_t size
        uint32_t flags


cdef extern from "pool.h":
    struct flexsc_pool:
        flexsc_pool_slot* ring
        uint32_t slots
        uint32_t buffer_size
        uint32_t circulating

    int pool_open(flexsc_pool* pool, uint32_t slots, uint32_t buffer_size)
    void pool_close(flexsc_pool* pool)
    void pool_keep_small(flexsc_pool* pool) noexcept
    char* pool_buffer(const flexsc_pool* pool, uint32_t id) noexcept
    void pool_give(flexsc_pool* pool, uint16_t id) noexcept
    void pool_publish(flexsc_pool* pool) noexcept
    void pool_reset(flexsc_pool* pool) noexcept
    int pool_grow(flexsc_pool* pool, uint32_t least) noexcept


cdef extern from "tick_count.h" nogil:
    uint64_t ticks_now() noexcept
    uint64_t ticks_in_us(uint32_t us) noexcept


cdef extern from "<sched.h>" nogil:
    int sched_getcpu() noexcept


cdef extern from "check.h" nogil:
    void FLEXSC_CHECK(bint condition) noexcept


cdef extern from "faults.h":
    bint FLEXSC_FAULTY

    struct flexsc_faults:
        pass

    void faults_open(flexsc_faults* faults) noexcept
    void faults_close(flexsc_faults* faults) noexcept
    void faults_begin(flexsc_faults* faults, uint64_t user_data, int* call, int fd, void** addr, uint32_t* len,
                      uint32_t* flags) noexcept
    bint faults_strikes(flexsc_faults* faults, uint64_t user_data) noexcept
    int faults_result(flexsc_faults* faults, uint64_t user_data, int res) noexcept
    bint faults_hold_any(const flexsc_faults* faults) noexcept
    uint32_t faults_hold(flexsc_faults* faults, flexsc_completion* batch, uint32_t count, uint32_t room) noexcept
    uint32_t faults_release(flexsc_faults* faults, flexsc_completion* batch, uint32_t room) noexcept
    uint64_t faults_count(const flexsc_faults* faults) noexcept


cdef extern from "file_threads.h" nogil:
    enum:
        FILE_ONCE
        FILE_SLEEPS
        FILE_SPARE
        TRANSFER_MOST
        VECTORS_MOST

    struct file_job:
        file_job* next
        uint64_t user_data
        uint8_t call
        uint8_t how
        bint queued
        int32_t fd
        void* addr
        uint64_t len
        uint64_t off
        uint32_t call_flags
        uint32_t mode
        uint32_t device
        int64_t res
        void* out
        int32_t opened

    struct file_results:
        pass

    struct file_threads:
        pass

    bint file_job_writes(const file_job* job) noexcept
    bint file_job_transfers(const file_job* job) noexcept
    bint file_job_refused(const file_job* job) noexcept
    bint file_job_moved(file_job* job, uint64_t moved) noexcept
    bint file_results_there(const file_results* results) noexcept


cdef extern from "spin.h" nogil:
    struct flexsc_spin:
        uint64_t looks

    int64_t flexsc_now_ns() noexcept
    int64_t spin_worth(const flexsc_spin* spin, uint32_t reaped) noexcept


cdef enum:
    TAGS = 0xF           # bits of user_data that are 0 in an operation's address
    BATCH = 256          # completions copied out at once
    BARRIER_STEP_NS = 1_000_000             # so long a barrier sleeps first, unless a result comes
    BARRIER_STEP_MOST_NS = 64_000_000
    ENDING_STEP_NS = 100_000
    ENDING_LOOKS = 16    # completions of others end a look, too
    BEHIND_US = 50       # so long a syscall thread has to begin with what it was given
    LATE_US = 100_000    # one that has not is not relied upon for so long
    FIRST_BUFFERS = 64   # pool buffers that circulate at first
    FIRST_DATAGRAMS = 16
    DATAGRAM_MOST = 256 * 1024
    # With header and address.  An odd number of cache lines, so that the beginnings of the buffers do not contend for
    # the same places in the cache.
    DATAGRAM_ROOM = DATAGRAM_MOST + 576
    DATAGRAM_SLOTS = 64


cdef class Page:
    cdef flexsc_pool pool
    cdef flexsc_pool datagrams             # large buffers, opened with the first datagram endpoint
    cdef flexsc_pool second_pool, second_datagrams     # likewise, of a second ring
    cdef flexsc_completion* batch
    cdef uint32_t batch_at, batch_end
    cdef void* newest                      # head of the list of operations in flight
    cdef void* mover                       # of them, the next one that another ring may have to carry; NULL: none
    cdef readonly unsigned int in_flight
    cdef readonly unsigned int housekeeping    # of them, the page's own
    cdef readonly uint64_t submitted, completions, pool_empty, stale
    cdef readonly bint eager               # entries are best published at once: another thread serves them
    cdef bint waits_for_room               # a send that finds none waits for that alone; else others have to
    cdef uint32_t direct_most              # up to so many calls at a time are cheaper made than queued
    cdef int server_cpu                    # of the syscall thread; -1: any, or there is none
    cdef bint given                        # it may not have taken all that it was given
    cdef uint64_t given_at                 # ticks when it had, last
    cdef uint64_t late_at                  # ticks when it was found to be behind, last
    cdef uint64_t late_ticks               # for how long it was, since somebody has asked
    cdef uint64_t late_seen                # ticks until when that is counted
    cdef uint64_t direct_calls             # system calls that the loop's thread has made past the page
    cdef readonly int pid
    cdef readonly bint closed
    cdef bint away                         # the loop's thread serves the page just now, without the GIL
    cdef readonly bint bound               # a thread has begun to run the loop
    cdef bint running                      # and has not stopped since
    cdef int64_t spin_ns                   # with a syscall thread: how long the loop looks before it sleeps
    cdef int64_t spin_most
    cdef flexsc_spin spin                  # with the own thread: whether it looks at all
    cdef uint32_t reaped                   # completions of the last turn that waited
    cdef file_threads* threads             # for what blocks; NULL until something does
    cdef file_results* results             # theirs
    cdef unsigned int by_threads  # of those in flight
    cdef uint64_t file_entries             # which calls on files an entry carries: bit numbers are calls
    cdef uint64_t entry_calls              # on files, that entries were given
    cdef uint64_t thread_calls             # that they were given
    cdef flexsc_stats* stats               # the turn's, whose page this is; else NULL
    cdef flexsc_faults faults              # nothing but in builds that test

    # What each kind of page does in its own way.
    cdef int carry(self, Operation op, int call, int fd, void* addr, uint32_t length, uint64_t off,
                   uint32_t call_flags, uint32_t flags) except -1
    cdef int quietly(self, int call, int fd, uint32_t length) except -1
    cdef int close_owned(self, int fd) except -1
    cdef int cancel(self, Operation op) except -1
    cdef int cancel_now(self, Operation op) except -1
    cdef bint begin_gathering(self, size_t count) noexcept
    cdef bint gather(self, Operation op, int fd, const void* data, size_t size) except? -1
    cdef int end_gathering(self) except -1
    cdef bint mine(self) noexcept
    cdef int make_room(self, uint32_t count) except -1
    cdef int publish(self) except -1
    cdef int wait(self, int64_t timeout_ns) except? -1
    cdef int share_datagrams(self) except -1
    cdef bint idle(self, uint64_t now) noexcept
    cdef bint hungry(self) noexcept
    cdef bint asleep(self) noexcept
    cdef uint32_t copy_out(self) noexcept
    cdef void wake(self) noexcept
    cdef int tagged(self, uint64_t user_data) except -1
    cdef void release(self, Operation op) noexcept
    cdef int hang_bell(self) except -1
    cdef int take_bell_down(self) except -1
    cpdef bind(self)
    cpdef leave(self)
    cpdef shut(self)
    cdef void tell(self, flexsc_counts* counts) noexcept
    cpdef int thread_id(self) noexcept
    cpdef int64_t thread_cpu_ns(self) except? -1
    cdef uint64_t faults_met(self) noexcept
    cdef uint64_t file_faults_met(self) noexcept
    cpdef change_hands(self, cpu)
    cpdef let_go(self)

    # What all have in common.
    cdef int open_pool(self, flexsc_pool* pool, uint32_t buffers, uint32_t buffer_size) except -1
    cdef int open_datagrams(self, flexsc_pool* pool) except -1
    cdef int need_datagrams(self) except -1
    cdef int submit(self, Operation op, int call, int fd, void* addr, uint32_t length, uint64_t off,
                    uint32_t call_flags, uint32_t flags) except -1
    cdef int adopt(self, Operation op) except -1
    cdef int unlink(self, Operation op) except -1
    cdef int hand_to_threads(self, Operation op, file_job* job) except -1
    cdef bint take_back(self, Operation op, file_job* job) except -1
    cdef int open_threads(self) except -1
    cdef bint results_there(self) noexcept
    cdef int reap_threads(self) except -1
    cdef int end_by_thread(self, file_job* job) except -1
    cdef int set_bell(self, void (*ring)(void*) noexcept nogil, void* arg) except -1
    cdef int shut_threads(self) except -1
    cdef int abandon(self, Operation op) except -1
    cdef int drop_result(self, file_job* job) except -1
    cdef void giving(self) noexcept
    cdef bint behind(self, uint64_t now) noexcept
    cdef uint64_t lateness(self) noexcept
    cdef bint late(self) noexcept
    cdef uint32_t direct_now(self) noexcept
    cdef int barrier(self) except -1
    cdef int await_end(self, Operation op) except -1
    cdef int reap(self) except -1
    cdef int dispatch(self, flexsc_completion* completion) except -1
    cdef bytes take_buffer(self, int res, uint32_t flags)
    cdef int check(self) except -1
    cdef int refuse_if_away(self) except -1
    cdef int end_with(self, Operation op, int res) except -1
    cdef void tell_common(self, flexsc_counts* counts) noexcept


cdef inline flexsc_pool* stream_pool(Page page, uint32_t flags) noexcept:
    """The pool that the buffer of a completion with these flags is from."""
    return &page.second_pool if flags & COMPLETION_SECOND else &page.pool


cdef inline flexsc_pool* datagram_pool(Page page, uint32_t flags) noexcept:
    return &page.second_datagrams if flags & COMPLETION_SECOND else &page.datagrams
