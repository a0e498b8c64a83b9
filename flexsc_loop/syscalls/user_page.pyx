# cython: language_level=3, cdivision=True
"""Floor 1: entries in our own memory, for where io_uring is not to be had.

Owns: the user page (user_page.h).  Imports: user_page.h, page, operation.

Served by the loop's own thread (non-blocking calls made back to back once a turn, epoll for readiness) or by a pinned
thread that never holds the GIL.
"""
import os

from posix.unistd cimport getpid

from flexsc_loop.syscalls.operation cimport Operation
from flexsc_loop.syscalls.page cimport (
    BATCH, BEHIND_US, CALL_CANCEL, CALL_CLOSE, COMPLETION_PLAIN, EINTR, ENTRY_OWNED, FIRST_BUFFERS, Page, faults_count,
    faults_hold_any, pool_close, pool_grow, sched_getcpu, spin_worth, ticks_in_us, ticks_now,
)
from flexsc_loop.syscalls.stats cimport flexsc_counts


cdef enum:
    SPIN_NS = 1_000_000          # the pinned thread sleeps after so much idleness
    LOOKS = 16                   # busy turns that look at epoll after something has been done or has come; then only
    LOOK_EVERY_US = 50           # when so much time has passed
    GATHER_LEAST = 4             # fewer sends than that are not worth gathering
    GATHERED = 1                 # user_data of an operation whose send is gathered
    SILENT = 1                   # lowest bit of user_data: nobody waits; the rest is the entry to give back


cdef void ring_bell(void* page) noexcept nogil:
    """A file thread, without the GIL: there are results."""
    flexsc_page_wake(<flexsc_page*> page)


cdef class UserPage(Page):
    """A page in our own memory: `completions` places for results, as many entries as are needed.

    cpu: None for the loop's own thread, else the CPU of the pinned thread (-1: any).
    Raises OSError when memory, fds or the CPU are not to be had.
    """

    def __init__(self, *, uint32_t entries, uint32_t completions, uint32_t buffers, uint32_t buffer_size, cpu=None):
        self.cpu = cpu
        self.gathered = []
        self.eager = cpu is not None
        self.server_cpu = cpu if cpu is not None else -1
        self.waits_for_room = True
        # Served by the loop's own thread, each entry is a call all the same.
        self.direct_most = 0 if self.eager else <uint32_t> -1
        self.spin_most = self.spin_ns = 50_000
        self.open_pool(&self.pool, buffers, buffer_size)
        self.user = flexsc_page_open(completions)
        if self.user == NULL:
            self.closed = True
            raise OSError(12, "no memory or no fds for a user page")
        flexsc_page_set_pool(self.user, self.pool.ring, self.pool.slots)
        pool_grow(&self.pool, FIRST_BUFFERS)

    def __dealloc__(self):
        if self.user != NULL:
            flexsc_page_close(self.user)
        if self.pid == getpid():
            send_batch_close(&self.sends)

    cdef int share_datagrams(self) except -1:
        flexsc_page_set_datagram_pool(self.user, self.datagrams.ring, self.datagrams.slots)
        return 0

    def disown(self):
        Page.disown(self)
        if self.user != NULL:
            # In a forked child this closes copies of fds and nothing else.
            flexsc_page_close(self.user)
            self.user = NULL
            self.started = False

    cpdef bind(self):
        """Start the pinned thread, if there is to be one: with the loop's first run, not before."""
        cdef int res
        self.check()
        self.bound = True
        if self.eager and not self.started:
            res = flexsc_thread_start(self.user, self.cpu, SPIN_NS)
            if res < 0:
                raise OSError(-res, f"no syscall thread on CPU {self.cpu}: {os.strerror(-res)}")
            self.started = True

    cpdef change_hands(self, cpu):
        cdef int res = 0
        self.check()
        if self.started:
            flexsc_thread_stop(self.user)
            # What it has not served is ours now.
            self.unpublished += 1
            self.looks = LOOKS
        if cpu is not None:
            res = flexsc_thread_start(self.user, cpu, SPIN_NS)
        self.started = self.eager = cpu is not None and res == 0
        self.cpu = cpu if self.started else None
        self.server_cpu = cpu if self.started else -1
        self.given = False
        self.direct_most = 0 if self.eager else <uint32_t> -1
        if res < 0:
            raise OSError(-res, f"no syscall thread on CPU {cpu}: {os.strerror(-res)}")

    cdef int carry(self, Operation op, int call, int fd, void* addr, uint32_t length, uint64_t off,
                   uint32_t call_flags, uint32_t flags) except -1:
        cdef flexsc_entry* entry = flexsc_entry_take(self.user)
        if entry == NULL:
            raise MemoryError
        op.place = <uint64_t> <void*> entry
        entry.call = call
        entry.flags = flags
        entry.fd = fd
        entry.addr = <uint64_t> addr
        entry.len = length
        entry.off = off
        entry.call_flags = call_flags
        entry.user_data = op.user_data
        flexsc_page_submit(self.user, entry)
        self.unpublished += 1
        return 0

    cdef int silently(self, int call, int fd, uint32_t length, uint64_t addr, uint64_t off) except -1:
        self.refuse_if_away()
        cdef flexsc_entry* entry = flexsc_entry_take(self.user)
        if entry == NULL:
            raise MemoryError
        entry.call = call
        entry.flags = ENTRY_OWNED
        entry.fd = fd
        entry.len = length
        entry.addr = addr
        entry.off = off
        entry.user_data = <uint64_t> <void*> entry | SILENT
        flexsc_page_submit(self.user, entry)
        self.unpublished += 1
        self.submitted += 1
        return 0

    cdef int quietly(self, int call, int fd, uint32_t length) except -1:
        return self.silently(call, fd, length, 0, 0)

    cdef int close_owned(self, int fd) except -1:
        self.refuse_if_away()
        if flexsc_page_close_fd(self.user, fd):
            return 0
        self.quietly(CALL_CLOSE, fd, 0)
        return self.publish()

    cdef int cancel(self, Operation op) except -1:
        if op.user_data == 0 or self.closed:
            return 0
        self.refuse_if_away()
        if not self.eager or self.late():
            flexsc_page_cancel_now(self.user, <flexsc_entry*> op.place)
            return 0
        return self.silently(CALL_CANCEL, -1, 0, op.user_data, op.place)

    cdef int cancel_now(self, Operation op) except -1:
        cdef uint64_t ended = op.user_data
        if ended == 0 or self.closed:
            return 0
        self.refuse_if_away()
        # More than once only if the completion did not fit into a full ring.
        while op.user_data == ended:
            flexsc_page_cancel_now(self.user, <flexsc_entry*> op.place)
            if self.reap() == 0 and not faults_hold_any(&self.faults):
                break
        return 0

    cdef bint begin_gathering(self, size_t count) noexcept:
        self.gathering = count >= GATHER_LEAST and not self.eager and not self.closed and send_batch_ready(&self.sends)
        return self.gathering

    cdef bint gather(self, Operation op, int fd, const void* data, size_t size) except? -1:
        if not self.gathering:
            return False
        self.gathered.append(op)
        op.user_data = GATHERED
        send_batch_add(&self.sends, fd, data, size)
        if self.sends.count == SEND_BATCH_MOST:
            self.send_gathered()
        return True

    cdef int end_gathering(self) except -1:
        self.gathering = False
        return self.send_gathered() if self.sends.count else 0

    cdef int send_gathered(self) except -1:
        cdef list gathered = self.gathered
        cdef bint gathering = self.gathering
        cdef Operation op
        cdef int i = 0
        self.gathered = []
        self.direct_calls += send_batch_go(&self.sends)
        # Whoever sends more now does so at once: the results must not change meanwhile.
        self.gathering = False
        for op in gathered:
            op.user_data = 0
        for op in gathered:
            op.complete(self.sends.results[i], COMPLETION_PLAIN)
            i += 1
        self.gathering = gathering
        return 0

    cdef int give(self) except -1:
        """Publish to the pinned thread; with the GIL, because other threads may submit without it being refused."""
        if self.unpublished:
            self.giving()
        self.unpublished = 0
        flexsc_page_publish(self.user)
        return 0

    cdef int help(self) except -1:
        """Make the calls that the pinned thread should have begun."""
        with nogil:
            flexsc_page_help(self.user)
        return 0

    cdef int publish(self) except -1:
        if self.unpublished == 0:
            return 0
        if self.started:
            self.give()
            return self.help() if self.behind(ticks_now()) else 0
        self.unpublished = 0
        self.away = True
        with nogil:
            flexsc_page_serve(self.user, 0)
        self.away = False
        return 0

    cdef int wait(self, int64_t timeout_ns) except? -1:
        cdef int64_t spin_ns = self.spin_ns if self.started else spin_worth(&self.spin, self.reaped)
        cdef bint busy = self.unpublished != 0 or timeout_ns != 0 or self.direct_calls != self.calls_seen
        cdef int res
        if self.results_there() or faults_hold_any(&self.faults):
            timeout_ns = 0
        if self.started:
            self.give()
            if timeout_ns == 0:
                return self.help() if self.behind(ticks_now()) else 0
            if sched_getcpu() == self.server_cpu:
                # To look is to keep the thread from working.
                spin_ns = 0
        self.unpublished = 0
        self.away = not self.started
        with nogil:
            res = flexsc_page_wait(self.user, timeout_ns, spin_ns, &self.spin)
        self.away = False
        self.looked_at = ticks_now()
        if self.started:
            self.late_ticks += ticks_in_us(<uint32_t> (flexsc_page_starved_ns(self.user) // 1000))
        if self.started and counted_helps(self.user) != self.helps:
            self.late_ticks += (counted_helps(self.user) - self.helps) * ticks_in_us(BEHIND_US)
            self.helps = counted_helps(self.user)
            self.late_at = self.looked_at
        self.calls_seen = self.direct_calls
        if busy or flexsc_page_has_completions(self.user):
            self.looks = LOOKS
        if res < 0 and res != -EINTR:
            raise OSError(-res, os.strerror(-res))
        return res == -EINTR

    cdef bint idle(self, uint64_t now) noexcept:
        if (self.unpublished or flexsc_page_has_completions(self.user) or self.results_there()
                or faults_hold_any(&self.faults)):
            return False
        if self.started:
            return not self.behind(now)
        if self.looks or self.direct_calls != self.calls_seen:
            self.looks -= self.looks != 0
            return False
        return now - self.looked_at < ticks_in_us(LOOK_EVERY_US)

    cdef bint hungry(self) noexcept:
        return flexsc_page_all_begun(self.user)

    cdef bint asleep(self) noexcept:
        return self.started and flexsc_page_thread_sleeps(self.user)

    cdef uint32_t copy_out(self) noexcept:
        cdef uint32_t count = flexsc_page_reap(self.user, self.batch, BATCH)
        cdef uint32_t i
        for i in range(count):
            if self.batch[i].user_data & SILENT:
                flexsc_entry_give(self.user, <flexsc_entry*> (self.batch[i].user_data & ~<uint64_t> SILENT))
        return count

    cdef void release(self, Operation op) noexcept:
        if op.place != 0:
            flexsc_entry_give(self.user, <flexsc_entry*> op.place)
            op.place = 0

    cdef int hang_bell(self) except -1:
        return self.set_bell(ring_bell, self.user)

    cdef void wake(self) noexcept:
        if not self.closed:
            self.woken += 1
            flexsc_page_wake(self.user)

    cpdef shut(self):
        if self.closed:
            return
        self.closed = True
        if self.pid != getpid():
            return
        self.shut_threads()
        flexsc_thread_stop(self.user)
        self.started = False
        cdef void* at = self.newest
        while at != NULL:
            flexsc_page_cancel_now(self.user, <flexsc_entry*> (<Operation> at).place)
            at = (<Operation> at).following
        # What was queued without a reader (closes above all) is still to be done.
        while True:
            flexsc_page_serve(self.user, 0)
            if self.reap() == 0 and not faults_hold_any(&self.faults):
                break
        send_batch_close(&self.sends)
        if self.stats != NULL:
            self.tell(&self.stats.counts)
        self.last_cpu_ns = self.thread_cpu_ns()
        self.last_faults = flexsc_page_faults(self.user)
        flexsc_page_close(self.user)
        self.user = NULL
        pool_close(&self.pool)
        pool_close(&self.datagrams)

    cdef void tell(self, flexsc_counts* counts) noexcept:
        self.tell_common(counts)
        if self.user == NULL:
            return
        counts.batches = counted_batches(self.user)
        counts.syscalls = counted_loop_syscalls(self.user) + self.direct_calls
        counts.wakeups = self.woken + counted_wakeups(self.user)
        counts.overflows = counted_overflows(self.user)

    cpdef int thread_id(self) noexcept:
        return flexsc_thread_id(self.user) if self.started else 0

    cpdef int64_t thread_cpu_ns(self) except? -1:
        return self.last_cpu_ns if self.user == NULL else flexsc_thread_cpu_ns(self.user)

    cdef uint64_t faults_met(self) noexcept:
        cdef uint64_t served = self.last_faults if self.user == NULL else flexsc_page_faults(self.user)
        return faults_count(&self.faults) + self.file_faults_met() + served
