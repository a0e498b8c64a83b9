# cython: language_level=3, cdivision=True
"""Floor 1: entries of an io_uring ring.

Owns: the ring's fd and its mappings, the wake-up eventfd.  Imports: uring*.h, page, operation.

Served by the loop's own thread (one `io_uring_enter` a turn submits and waits; SINGLE_ISSUER + DEFER_TASKRUN) or by the
kernel's poller (SQPOLL), pinned to a CPU.
"""
import weakref

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memset
from cpython.ref cimport Py_INCREF
from posix.unistd cimport close as close_fd, getpid, usleep

from flexsc_loop.syscalls.operation cimport Operation
from flexsc_loop.syscalls.page cimport (
    BATCH, CALL_ACCEPT, CALL_CANCEL, CALL_CLOSE, CALL_FADVISE, CALL_FALLOCATE, CALL_FSYNC, CALL_FTRUNCATE,
    CALL_LINKAT, CALL_MKDIRAT, CALL_NOP, CALL_OPENAT, CALL_POLL, CALL_READ, CALL_READV, CALL_RECVMSG, CALL_RENAMEAT,
    CALL_STATX, CALL_SYMLINKAT, CALL_UNLINKAT, CALL_WRITE, CALL_WRITEV, COMPLETION_MORE, ECANCELED,
    EINTR, ENOMEM, ENTRY_LINK, ENTRY_MULTISHOT, ENTRY_POLL_FIRST, ENTRY_POOL, ENTRY_SLEEPS, FIRST_BUFFERS, Page,
    faults_hold_any, faults_release, flexsc_completion, flexsc_now_ns, flexsc_pool, pool_close, pool_grow, pool_reset,
    spin_worth, sched_getcpu, ticks_now,
)
from flexsc_loop.syscalls.stats cimport flexsc_counts


cdef extern from "<errno.h>" nogil:
    enum:
        ESTALE

# Of this process, those with a poller on a certain CPU, weakly: whoever opens another one there shares it.
cdef list polled_pages = []

cdef enum:
    IDLE_MS = 2                  # the poller sleeps after so much idleness
    POLLER_LOOKS = 16            # a new poller on a busy CPU does not run at once
    POLLER_STEP_US = 100
    CANCEL_STEP_NS = 1_000_000
    CANCEL = 2                   # in user_data: a cancel of the operation that the rest names
    SILENT = 1                   # user_data of entries that nobody waits for


# Calls on files that entries carry, which takes less CPU time than a thread of ours for each of them: all that a ring
# has but CLOSE.  If that were interrupted, nobody could tell whether it has to be made again.  What the kernel turns
# out not to have, a page takes out.
cdef uint64_t FILE_ENTRIES = 0
for _call in (CALL_READ, CALL_READV, CALL_WRITE, CALL_WRITEV, CALL_FSYNC, CALL_FALLOCATE, CALL_OPENAT, CALL_STATX,
              CALL_FADVISE, CALL_RENAMEAT, CALL_UNLINKAT, CALL_MKDIRAT, CALL_SYMLINKAT, CALL_LINKAT, CALL_FTRUNCATE):
    FILE_ENTRIES |= <uint64_t> 1 << <int> _call


cdef void ring_bell(void* ring) noexcept nogil:
    """A file thread, without the GIL: there are results."""
    uring_wake(<uring*> ring)


cdef class WakeRead(Operation):
    """Keeps a read on the wake-up eventfd in flight, so that another thread can end the loop's sleep."""

    cdef int prepare(self) except -1:
        # On this ring, whichever the page fills now.
        cdef uring* filled = self.page.ring
        self.page.ring = self.ring
        try:
            return self.page.submit(self, CALL_READ, self.ring.wake_fd, &self.count, sizeof(self.count),
                                    <uint64_t> -1, 0, 0)
        finally:
            self.page.ring = filled

    cdef int complete(self, int res, uint32_t flags) except -1:
        if not self.retired and not self.page.closed:
            self.prepare()
        return 0


cdef class KernelPage(Page):
    """A page that the kernel serves: `entries` SQEs, `completions` CQEs.

    cpu: None for the loop's own thread, else the CPU of the poller (-1: any).
    Raises OSError when the kernel refuses; its errno says why (EPERM, ENOSYS, ENOMEM, EINVAL, EOPNOTSUPP).
    """

    def __cinit__(self, *args, **kwargs):
        self.ring = &self.first
        self.first.fd = self.first.wake_fd = -1

    def __init__(self, *, uint32_t entries, uint32_t completions, uint32_t buffers, uint32_t buffer_size, cpu=None):
        self.cancelling = {}
        self.poller_cpu = URING_NO_POLLER if cpu is None else cpu
        self.eager = cpu is not None
        self.server_cpu = cpu if cpu is not None else -1
        self.direct_most = 0 if self.eager else DIRECT_MOST
        self.spin_most = SPIN_NS if self.eager else 0
        self.spin_ns = self.spin_most
        self.file_entries = FILE_ENTRIES
        self.entries = entries
        self.capacity = completions
        self.open_pool(&self.pool, buffers, buffer_size)
        self.open_ring()
        self.housekeeping = 1
        pool_grow(&self.pool, FIRST_BUFFERS)
        self.share_pools()

    def __dealloc__(self):
        if self.pid == getpid():
            uring_close(&self.first)
        else:
            uring_close_fds(&self.first)

    cdef int set_up(self, uring* ring, int cpu) except -1:
        """Open a ring, of half the size if there is no memory for more."""
        cdef int share = self.shared_poller(cpu)
        cdef int res = uring_open(ring, self.entries, self.capacity, cpu, IDLE_MS, share)
        self.halved = res == -ENOMEM
        if self.halved:
            res = uring_open(ring, max(self.entries // 2, 1), max(self.capacity // 2, 2), cpu, IDLE_MS, share)
        if res < 0:
            raise OSError(-res, "io_uring_setup")
        if cpu >= 0 and self.poller_cpu == cpu:
            polled_pages[:] = [weakly for weakly in polled_pages if weakly() not in (None, self)]
            polled_pages.append(weakref.ref(self))
        return 0

    cdef int shared_poller(self, int cpu) except? -2:
        """The fd of another loop's ring whose poller is pinned to this CPU; URING_SHARES_NONE: there is none.

        Two pollers of one process on one CPU would keep each other from working while they look for work.
        """
        cdef KernelPage other
        if cpu < 0 or self.poller_cpu != cpu:
            return URING_SHARES_NONE
        for weakly in polled_pages:
            other = weakly()
            if (other is not None and other is not self and other.poller_cpu == cpu and not other.closed
                    and other.pid == getpid()):
                return other.ring.fd
        return URING_SHARES_NONE

    cdef int open_ring(self) except -1:
        try:
            self.set_up(self.ring, self.poller_cpu)
        except OSError:
            self.closed = True
            raise
        self.await_poller()
        self.owner = 0
        self.waker = self.keep_read(self.ring)
        return 0

    cdef WakeRead keep_read(self, uring* ring):
        """Have a read in flight on the ring's wake-up eventfd, again and again."""
        cdef WakeRead waker = WakeRead()
        waker.page = self
        waker.ring = ring
        waker.retractable = True
        waker.prepare()
        return waker

    cdef int register_pools(self, uring* ring) except -1:
        self.register_pool(ring, &self.pool, STREAMS)
        if self.datagrams.ring != NULL:
            self.register_pool(ring, &self.datagrams, DATAGRAMS)
        return 0

    cdef int share_pools(self) except -1:
        """Let the ring receive into the page's buffers; it is closed if that can't be had."""
        try:
            self.register_pools(self.ring)
        except OSError:
            uring_close(self.ring)
            self.closed = True
            raise
        return 0

    cdef int register_pool(self, uring* ring, flexsc_pool* pool, int group) except -1:
        cdef uring_buf_reg reg
        memset(&reg, 0, sizeof(reg))
        reg.ring_addr = <uint64_t> <void*> pool.ring
        reg.ring_entries = pool.slots
        reg.bgid = group
        cdef int res = uring_sys_register(ring, URING_REGISTER_PBUF_RING, &reg, 1)
        if res < 0:
            raise OSError(-res, "io_uring_register of the receive buffers")
        return 0

    cdef int share_datagrams(self) except -1:
        return self.register_pool(self.ring, &self.datagrams, DATAGRAMS)

    cdef uring_sqe* next_sqe(self, uring* ring) except NULL:
        cdef uring_sqe* sqe
        self.refuse_if_away()
        sqe = uring_next_sqe(ring)
        while sqe == NULL:
            self.await_room(ring)
            sqe = uring_next_sqe(ring)
        return sqe

    cdef int await_room(self, uring* ring) except -1:
        """The submission queue is too full: hand over what is in it."""
        cdef int res
        if not ring.enabled:
            self.bind()
        with nogil:
            res = uring_make_room(ring)
        return raise_unless_passing(res)

    cdef uring* carrier(self, Operation op) noexcept:
        """The ring that `op` is in flight on."""
        return self.ring

    cdef int make_room(self, uint32_t count) except -1:
        while uring_room(self.ring) < min(count, self.ring.sq_entries):
            self.await_room(self.ring)
        return 0

    cdef int carry(self, Operation op, int call, int fd, void* addr, uint32_t length, uint64_t off,
                   uint32_t call_flags, uint32_t flags) except -1:
        cdef uring_sqe* sqe = self.next_sqe(self.ring)
        op.place = self.ring.sqe_tail - 1
        sqe.opcode = call
        sqe.fd = fd
        sqe.addr = <uint64_t> addr
        sqe.len = length
        sqe.off = off
        sqe.op_flags = call_flags
        sqe.user_data = op.user_data
        if flags & ENTRY_MULTISHOT and call == CALL_POLL:
            sqe.len = URING_POLL_MULTISHOT
        elif flags & ENTRY_MULTISHOT:
            sqe.ioprio = URING_ACCEPT_MULTISHOT if call == CALL_ACCEPT else URING_RECV_MULTISHOT
        if flags & ENTRY_POLL_FIRST:
            sqe.ioprio |= URING_RECVSEND_POLL_FIRST
        if flags & ENTRY_POOL:
            sqe.flags = URING_SQE_BUFFER_SELECT
            sqe.buf_group = DATAGRAMS if call == CALL_RECVMSG else STREAMS
        if flags & ENTRY_LINK:
            sqe.flags |= URING_SQE_LINK
        if flags & ENTRY_SLEEPS:
            sqe.flags |= URING_SQE_ASYNC
        return 0

    cdef int quietly(self, int call, int fd, uint32_t length) except -1:
        cdef uring_sqe* sqe = self.next_sqe(self.ring)
        sqe.opcode = call
        sqe.fd = fd
        sqe.len = length
        sqe.user_data = SILENT
        sqe.flags = URING_SQE_CQE_SKIP_SUCCESS
        self.submitted += 1
        return 0

    cdef int close_owned(self, int fd) except -1:
        # The end of a connection is a tenth of the work for a short one: a poller that has time does it.
        if self.eager and self.mine() and not self.late():
            self.quietly(CALL_CLOSE, fd, 0)
            return self.publish()
        self.direct_calls += 1
        close_fd(fd)
        return 0

    cdef int cancel(self, Operation op) except -1:
        cdef uring* ring
        cdef uring_sqe* sqe
        if op.user_data == 0 or self.closed:
            return 0
        if self.unpublished(op):
            ring = self.carrier(op)
            sqe = &ring.sqes[op.place & ring.sq_mask]
            memset(sqe, 0, sizeof(uring_sqe))
            sqe.opcode = CALL_NOP
            sqe.user_data = op.user_data
            op.withdrawn = True
            return 0
        self.cancelling[op.user_data] = op
        return self.queue_cancel(op, op.user_data)

    cdef int queue_cancel(self, Operation op, uint64_t user_data) except -1:
        """Ask the kernel to end an operation.  Only a failure is reported, and then `tagged` sees it."""
        cdef uring_sqe* sqe = self.next_sqe(self.carrier(op))
        sqe.opcode = CALL_CANCEL
        sqe.fd = -1
        sqe.addr = user_data
        sqe.user_data = user_data | CANCEL
        sqe.flags = URING_SQE_CQE_SKIP_SUCCESS
        self.submitted += 1
        return 0

    cdef int tagged(self, uint64_t user_data) except -1:
        """A cancel has failed.  An operation that is just then between two tries is not found: ask again.

        Not where a disk is at it, which does not listen.
        """
        cdef uint64_t target = user_data & ~<uint64_t> CANCEL
        cdef Operation op
        if user_data & CANCEL and not self.closed:
            op = self.cancelling.get(target)
            if op is not None and not op.on_file:
                self.queue_cancel(op, target)
        return 0

    cdef void release(self, Operation op) noexcept:
        if self.cancelling:
            self.cancelling.pop(op.user_data, None)

    cdef bint unpublished(self, Operation op) noexcept:
        """Whether the SQE of `op` still lies on our side only."""
        cdef const uring* ring = self.carrier(op)
        return (<uint32_t> (op.place - ring.sqe_published) < uring_unpublished(ring)
                and ring.sqes[op.place & ring.sq_mask].user_data == op.user_data)

    cdef int cancel_now(self, Operation op) except -1:
        if op.user_data == 0 or self.closed:
            return 0
        self.cancel(op)
        if not self.mine():
            return 0
        while op.user_data != 0 and not op.withdrawn:
            self.wait(CANCEL_STEP_NS)
            self.reap()
        return 0

    cdef bint mine(self) noexcept:
        return self.ring.enabled and (self.eager or self.owner == gettid())

    cdef int publish(self) except -1:
        cdef int res
        if not self.ring.enabled or uring_unpublished(self.ring) == 0:
            return 0
        if self.eager:
            self.giving()
            res = uring_publish(self.ring)
        else:
            self.away = True
            with nogil:
                res = uring_publish(self.ring)
            self.away = False
        return raise_unless_passing(res)

    cdef int wait(self, int64_t timeout_ns) except? -1:
        cdef int res
        if self.results_there() or faults_hold_any(&self.faults):
            timeout_ns = 0
        if self.eager and uring_unpublished(self.ring):
            self.giving()
        self.away = True
        with nogil:
            if self.eager:
                res = self.wait_polled(timeout_ns)
            else:
                res = uring_wait_own(self.ring, timeout_ns, spin_worth(&self.spin, self.reaped), &self.spin)
        self.away = False
        if res == -EINTR:
            return 1
        if res == -ESTALE:
            return self.change_user()
        return raise_unless_passing(res)

    cdef int wait_polled(self, int64_t timeout_ns) noexcept nogil:
        """Look for completions as long as that tends to find some; hardly at all while the loop is idle."""
        cdef uring_found found = URING_SOMETHING
        cdef int64_t before = 0 if timeout_ns == 0 else flexsc_now_ns()
        # On the poller's own CPU, to look is to keep it from working.
        cdef int64_t spin_ns = 0 if timeout_ns == 0 or sched_getcpu() == self.server_cpu else self.spin_ns
        cdef uint64_t began = ticks_now()
        cdef int res = uring_wait_polled(self.ring, timeout_ns, spin_ns, &self.spin, &found)
        if spin_ns == 0:
            return res
        if found == URING_BEHIND:
            self.late_seen = ticks_now()
            self.late_ticks += self.late_seen - began
            if spin_ns == self.spin_most:
                self.late_at = self.late_seen
        if found == URING_SOMETHING or flexsc_now_ns() - before < 2 * self.spin_most:
            self.spin_ns = self.spin_most
        else:
            self.spin_ns //= 2
        return res

    cdef bint idle(self, uint64_t now) noexcept:
        if self.given:
            self.behind(now)
        return (uring_unpublished(self.ring) == 0 and not uring_has_completions(self.ring)
                and not uring_wants_enter(self.ring) and not self.results_there()
                and not faults_hold_any(&self.faults))

    cdef bint hungry(self) noexcept:
        return uring_all_taken(self.ring)

    cdef bint asleep(self) noexcept:
        return self.eager and uring_poller_sleeps(self.ring)

    cdef uint32_t copy_out(self) noexcept:
        return uring_reap(self.ring, self.batch, BATCH)

    cdef void wake(self) noexcept:
        if not self.closed and uring_wake(self.ring):
            self.wakeups += 1

    cpdef bind(self):
        """Make this thread the ring's owner.  A ring that another thread (or user) owned is replaced by a new one."""
        cdef int here = gettid()
        cdef bint changed
        cdef int res
        self.check()
        changed = self.eager and uring_user_changed(self.ring)
        if self.ring.enabled and (self.owner != here or changed):
            self.move()
        if not self.ring.enabled:
            res = uring_enable(self.ring)
            if res < 0:
                raise OSError(-res, "io_uring_register to enable the ring")
            self.owner = here
            self.bound = True
        self.running = True

    cdef int change_user(self) except -1:
        """This thread acts for another user now.  The poller must, too, and only a new one does."""
        if not self.closed:
            self.move()
            self.bind()
        return 0

    cdef int hang_bell(self) except -1:
        return self.set_bell(ring_bell, self.ring)

    cdef int move(self) except -1:
        """Give up the ring for a new one.  What was in flight ends with -ECANCELED, and its owner submits it anew."""
        self.close_unpublished()
        cdef list left = [(op, (<Operation> op).user_data) for op in self.operations()]
        cdef list held = self.last_results()
        self.forget_poller()
        self.take_bell_down()
        cdef uring old = self.ring[0]
        cdef flexsc_completion completion
        try:
            (<WakeRead> self.waker).retired = True
            self.open_ring()
            self.hang_bell()
            for completion in held:
                self.dispatch(&completion)
            for op, user_data in left:
                if (<Operation> op).user_data == user_data:
                    self.give_up(op)
        finally:
            uring_close(&old)
        self.reset_pools()
        return self.share_pools()

    cdef int reset_pools(self) except -1:
        """A ring is gone: all its buffers are free."""
        pool_reset(&self.pool)
        if self.datagrams.ring != NULL:
            pool_reset(&self.datagrams)
        return 0

    cdef int give_up(self, Operation op) except -1:
        """The ring that carries it is about to be gone."""
        return self.abandon(op) if op.on_file and not self.unpublished(op) else self.end_with(op, -ECANCELED)

    cdef int close_unpublished(self) except -1:
        """Close the fds whose CALL_CLOSE will never reach the kernel."""
        cdef uring_sqe* sqe
        cdef uint32_t at
        for at in range(self.ring.sqe_published, self.ring.sqe_tail):
            sqe = &self.ring.sqes[at & self.ring.sq_mask]
            if sqe.opcode == CALL_CLOSE:
                close_fd(sqe.fd)
                sqe.opcode = CALL_NOP
        return 0

    cdef list last_results(self):
        """The results that this ring still yields; those of a ring that this thread may enter are all."""
        cdef list held = []
        cdef int64_t until = flexsc_now_ns() + PATIENCE_NS
        cdef uint32_t ended = 0, count, i
        if self.eager:
            self.queue_cancel_all()
        while True:
            # First what is left of a batch that is being walked.
            count = self.batch_end - self.batch_at
            if count == 0:
                self.batch_at = 0
                count = self.batch_end = faults_release(&self.faults, self.batch, BATCH)
                if count == 0:
                    count = self.batch_end = self.copy_out()
            for i in range(self.batch_at, self.batch_end):
                held.append(self.batch[i])
                ended += not self.batch[i].flags & COMPLETION_MORE and self.batch[i].user_data > SILENT
            self.batch_at = self.batch_end
            if count == 0 and (not self.eager or ended >= self.in_flight - self.by_threads or flexsc_now_ns() > until):
                return held
            if count == 0:
                self.wait(1_000_000)

    cdef list operations(self):
        """Those that the ring carries."""
        cdef list found = []
        cdef void* at = self.newest
        while at != NULL:
            if not (<Operation> at).by_thread:
                found.append(<Operation> at)
            at = (<Operation> at).following
        return found

    cdef int await_files(self) except -1:
        """Let calls on files come to their end, as those that file threads make do."""
        cdef int64_t until = flexsc_now_ns() + PATIENCE_NS
        while any([(<Operation> op).on_file for op in self.operations()]) and flexsc_now_ns() < until:
            self.wait(1_000_000)
            self.reap()
        return 0

    cdef int cancel_all(self) except -1:
        """Have the kernel end everything, and take the results.  For the thread that may enter the ring."""
        cdef int64_t until = flexsc_now_ns() + PATIENCE_NS
        self.queue_cancel_all()
        while self.in_flight and flexsc_now_ns() < until:
            self.wait(1_000_000)
            self.reap()
        return 0

    cdef int queue_cancel_all(self) except -1:
        cdef uring_sqe* sqe = self.next_sqe(self.ring)
        sqe.opcode = CALL_CANCEL
        sqe.fd = -1
        sqe.op_flags = URING_CANCEL_ALL | URING_CANCEL_ANY
        sqe.user_data = SILENT
        return 0

    cpdef leave(self):
        cdef int64_t until = flexsc_now_ns() + PATIENCE_NS
        cdef list sends
        self.running = False
        if self.eager or self.closed or self.pid != getpid():
            return
        # Only this thread can learn how far a send has come.  Calls on files go on in threads, or end here.
        sends = [op for op in self.operations() if not (<Operation> op).retractable]
        for op in sends:
            self.cancel(op)
        while sends and flexsc_now_ns() < until:
            self.wait(1_000_000)
            self.reap()
            sends = [op for op in sends if (<Operation> op).user_data and not self.unpublished(op)]

    cpdef shut(self):
        if self.closed:
            return
        self.closed = True
        if self.pid != getpid():
            return
        self.shut_threads()
        if self.mine():
            self.await_files()
            self.cancel_all()
        self.close_unpublished()
        self.reap()
        self.forget_poller()
        if self.mine() and self.in_flight:
            # The kernel has not let go in time (never seen): what it may still touch must outlive the ring.
            for op in self.operations():
                Py_INCREF(op)
            uring_close(self.ring)
            self.pool.ring = self.datagrams.ring = NULL
            return
        for op in self.operations():
            self.give_up(op)
        self.waker = None
        uring_close(self.ring)
        pool_close(&self.pool)
        pool_close(&self.datagrams)

    def disown(self):
        Page.disown(self)
        self.poller = 0
        # The mappings are not inherited.  An open copy of the ring would keep the parent's files open after its end.
        uring_close_fds(&self.first)

    def features(self):
        names = ["multishot receive", "multishot accept", "buffer ring"]
        names.append("poller (SQPOLL)" if self.eager else "deferred task work")
        if self.ring.features & URING_FEAT_NO_IOWAIT:
            names.append("no iowait")
        return names

    cdef void tell(self, flexsc_counts* counts) noexcept:
        self.tell_common(counts)
        counts.batches = self.ring.batches
        counts.syscalls = self.ring.syscalls + self.direct_calls
        counts.wakeups = self.wakeups + self.ring.wakeups
        counts.overflows = self.ring.overflows

    cpdef int thread_id(self) noexcept:
        return self.poller

    cdef int poller_fd(self) noexcept:
        """Of the ring that has a poller; -1: there is none."""
        return self.ring.fd if self.eager else -1

    cdef int find_poller(self) except -1:
        """The thread id of the poller, which the ring's fdinfo tells; 0 without one, and while it is not told.

        Asked when the ring is new: after a change of the user /proc may be closed to us.  Until the poller has run for
        the first time, fdinfo names the thread that made the ring instead: hence the look at the name.
        """
        cdef int fd = self.poller_fd()
        if fd < 0:
            return 0
        try:
            with open(f"/proc/self/fdinfo/{fd}") as file:
                found = [int(line.split()[1]) for line in file if line.startswith("SqThread:")]
            if not found or found[0] <= 0:
                return 0
            with open(f"/proc/self/task/{found[0]}/comm") as file:
                return found[0] if file.read().startswith("iou-sqp") else 0
        except (OSError, ValueError):
            return 0

    cdef int await_poller(self) except -1:
        """Find the poller of a new ring, which needs a moment to come up."""
        for _ in range(POLLER_LOOKS if self.eager else 0):
            self.poller = self.find_poller()
            if self.poller:
                break
            with nogil:
                usleep(POLLER_STEP_US)
        return 0

    cpdef int64_t thread_cpu_ns(self) except? -1:
        """CPU time of the poller so far, and of those before it."""
        if not self.poller:
            self.poller = self.find_poller()
        return self.past_cpu_ns + (cpu_ns_of(self.poller) if self.poller else 0)

    cdef int forget_poller(self) except -1:
        """Its ring is about to be closed."""
        self.past_cpu_ns = self.thread_cpu_ns()
        self.poller = 0
        return 0
