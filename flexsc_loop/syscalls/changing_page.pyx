# cython: language_level=3, cdivision=True
"""Floor 1: a kernel page that can change hands while it runs.

Owns: a second ring, with a poller.  Imports: kernel_page, page, operation, uring*.h.

A ring cannot change hands: who serves it is settled when it is made, and what is best for the own thread
(DEFER_TASKRUN) is not to be had with a poller.  So there are two.  From a change on, all that is new goes to the other
ring.  What the former one carries and may be taken back without loss (receives, accepts, polls) is cancelled, some of
it each turn, and its owners submit it anew, as they do whenever it ends.  Sends and calls on files come to their end
where they are.  Each ring has receive buffers of its own.  While the loop sleeps in one ring, the other rings its bell:
the wake-up eventfd of each is registered as the eventfd of the other.
"""
import os

from libc.stdint cimport int64_t, uint32_t, uint64_t
from posix.unistd cimport getpid

from flexsc_loop.syscalls.kernel_page cimport (
    DATAGRAMS, DIRECT_MOST, PATIENCE_NS, SPIN_NS, STREAMS, URING_NO_POLLER, KernelPage, WakeRead, gettid,
    raise_unless_passing, uring, uring_all_taken, uring_close, uring_close_fds, uring_enable, uring_has_completions,
    uring_publish, uring_reap, uring_room, uring_sys_register, uring_unpublished, uring_user_changed, uring_wants_enter,
)
from flexsc_loop.syscalls.operation cimport Operation
from flexsc_loop.syscalls.page cimport (
    BATCH, COMPLETION_SECOND, FIRST_BUFFERS, flexsc_now_ns, pool_close, pool_grow, sched_getcpu, ticks_in_us, ticks_now,
)
from flexsc_loop.syscalls.stats cimport flexsc_counts


cdef extern from "uring_turn.h" nogil:
    int uring_enter_timed(uring* ring, uint32_t submit, uint32_t wait, int64_t timeout_ns) noexcept
    uint32_t uring_advance_tail(uring* ring) noexcept
    void uring_set_bell(uring* ring, bint rings) noexcept

cdef extern from "uring_abi.h":
    enum:
        URING_REGISTER_EVENTFD
        URING_UNREGISTER_EVENTFD

cdef enum:
    FIRST = 1
    SECOND = 2
    MOVES = 32                   # operations that are moved in a turn
    LOOKS_AT_ONCE = 1024         # operations that are looked at for that
    STUCK_US = 500               # so long a poller may take to end what was cancelled
    TAKING_STEP_NS = 50_000
    HURRY_NS = 1_000_000         # so long the loop sleeps at most until it has


cdef class ChangingKernelPage(KernelPage):
    """A page that the kernel serves, in the loop's own thread at first.

    Raises OSError as KernelPage does.
    """

    def __cinit__(self, *args, **kwargs):
        self.second.fd = self.second.wake_fd = -1

    def __dealloc__(self):
        if self.pid == getpid():
            uring_close(&self.second)
        else:
            uring_close_fds(&self.second)

    def disown(self):
        KernelPage.disown(self)
        uring_close_fds(&self.second)

    # ---- which ring carries what

    cdef int number(self, const uring* ring) noexcept:
        return FIRST if ring is &self.first else SECOND

    cdef uring* carrier(self, Operation op) noexcept:
        return &self.second if op.ring == SECOND else &self.first

    cdef int carry(self, Operation op, int call, int fd, void* addr, uint32_t length, uint64_t off,
                   uint32_t call_flags, uint32_t flags) except -1:
        KernelPage.carry(self, op, call, fd, addr, length, off, call_flags, flags)
        op.ring = self.number(self.ring)
        self.carried[op.ring] += 1
        return 0

    cdef void release(self, Operation op) noexcept:
        KernelPage.release(self, op)
        if op.ring:
            self.carried[op.ring] -= 1
            op.ring = 0
            if op is self.second_waker and self.second_waker.retired:
                self.second_waker = None
                self.housekeeping -= 1
            if self.former != NULL:
                self.progress_at = ticks_now()

    cdef uint32_t copy_out(self) noexcept:
        cdef uint32_t count = 0, i
        cdef uring* ring = self.ring
        if self.former != NULL:
            # First: nothing may overtake what was asked for before.
            count = uring_reap(self.former, self.batch, BATCH)
            if count:
                ring = self.former
        if count == 0:
            count = uring_reap(ring, self.batch, BATCH)
        if ring is &self.second:
            for i in range(count):
                self.batch[i].flags |= COMPLETION_SECOND
        return count

    # ---- the second ring

    cdef int open_second(self, int cpu) except -1:
        cdef int res
        self.set_up(&self.second, cpu)
        self.poller = 0
        self.second_cpu = cpu
        self.hurried = self.going = False
        try:
            res = uring_enable(&self.second)
            if res < 0:
                raise OSError(-res, "io_uring_register to enable the ring")
            self.open_pool(&self.second_pool, self.pool.slots, self.pool.buffer_size)
            pool_grow(&self.second_pool, FIRST_BUFFERS)
            self.register_pool(&self.second, &self.second_pool, STREAMS)
            if self.datagrams.ring != NULL:
                self.share_second()
            self.register_bells()
        except OSError:
            self.close_second()
            raise
        self.former = &self.second
        return 0

    cdef int keep_awake(self) except -1:
        """Have the second ring's read on its eventfd in flight."""
        if self.second_waker is None:
            self.second_waker = self.keep_read(&self.second)
            self.housekeeping += 1
        else:
            self.second_waker.retired = False
        return 0

    cdef int share_second(self) except -1:
        """Have large buffers for datagrams, too."""
        self.open_datagrams(&self.second_datagrams)
        return self.register_pool(&self.second, &self.second_datagrams, DATAGRAMS)

    cdef int share_datagrams(self) except -1:
        self.register_pool(&self.first, &self.datagrams, DATAGRAMS)
        if self.second.fd >= 0:
            self.share_second()
        return 0

    cdef int register_bells(self) except -1:
        cdef int res
        uring_set_bell(self.ring, False)
        res = uring_sys_register(&self.first, URING_REGISTER_EVENTFD, &self.second.wake_fd, 1)
        if res == 0:
            res = uring_sys_register(&self.second, URING_REGISTER_EVENTFD, &self.first.wake_fd, 1)
        if res < 0:
            raise OSError(-res, "io_uring_register of an eventfd")
        return 0

    cdef int close_second(self) except -1:
        if self.second.fd < 0:
            return 0
        if self.second_waker is not None:
            self.second_waker.retired = True
        if self.carried[SECOND]:
            for op in self.operations():
                if (<Operation> op).ring == SECOND:
                    self.give_up(op)
        self.carried[SECOND] = 0
        self.forget_poller()
        if self.first.fd >= 0:
            uring_sys_register(&self.first, URING_UNREGISTER_EVENTFD, NULL, 0)
        uring_close(&self.second)
        pool_close(&self.second_pool)
        pool_close(&self.second_datagrams)
        self.former = NULL
        self.mover = NULL
        self.going = self.hurried = False
        return 0

    cdef int poller_fd(self) noexcept:
        return self.second.fd

    cpdef int thread_id(self) noexcept:
        if not self.poller and self.ring is &self.second:
            self.poller = self.find_poller()
        return self.poller

    # ---- changing hands

    cpdef change_hands(self, cpu):
        self.check()
        if not self.first.enabled or self.owner != gettid():
            self.bind()
        if cpu is None or cpu != self.second_cpu or self.second.fd < 0:
            if self.ring is &self.second:
                self.have_taken()
                self.fill(&self.first)
        if cpu is None:
            return
        if self.second.fd >= 0 and cpu != self.second_cpu:
            self.finish()
            self.close_second()
        if self.second.fd < 0:
            try:
                self.open_second(cpu)
            except OSError as error:
                raise OSError(error.errno, f"no syscall thread on CPU {cpu}: {error.strerror}") from error
        if self.ring is &self.first:
            self.publish()
            if self.hurried:
                self.pin_poller(cpu)
                self.hurried = False
            self.keep_awake()
            self.fill(&self.second)

    cdef int fill(self, uring* ring) except -1:
        """From now on, what is new goes to this ring."""
        self.former = self.ring
        self.ring = ring
        uring_set_bell(ring, False)
        uring_set_bell(self.former, True)
        self.eager = ring is &self.second
        self.server_cpu = self.second_cpu if self.eager else -1
        self.direct_most = 0 if self.eager else DIRECT_MOST
        self.spin_ns = self.spin_most = SPIN_NS if self.eager else 0
        self.given = self.going = False
        if self.threads != NULL:
            self.take_bell_down()
            self.hang_bell()
        self.mover = self.newest
        self.progress_at = ticks_now()
        return 0

    cpdef let_go(self):
        if self.second.fd >= 0 and self.ring is &self.first and not self.going and not self.closed:
            self.retire()
            self.mover = self.newest

    cdef int retire(self) except -1:
        """The second ring is to be closed."""
        self.going = True
        if self.second_waker is not None:
            self.second_waker.retired = True
        return 0

    cdef int have_taken(self) except -1:
        """Let the poller begin with all that it was given: what is new must not overtake that."""
        cdef int64_t until = flexsc_now_ns() + PATIENCE_NS
        self.publish()
        while not uring_all_taken(&self.second) and flexsc_now_ns() < until:
            if self.hurry():
                self.away = True
                with nogil:
                    uring_enter_timed(&self.second, 0, 1 << 30, TAKING_STEP_NS)
                self.away = False
        return 0

    cdef int pin_poller(self, int cpu) except -1:
        """Have the poller run there; where the kernel does not let it be moved it stays."""
        if not self.poller:
            self.poller = self.find_poller()
        if self.poller:
            try:
                os.sched_setaffinity(self.poller, (cpu,))
            except OSError:
                pass
        return 0

    cdef int hurry(self) except -1:
        """Somebody else may have the poller's CPU, for however long: this one is free while the loop waits for it.

        Returns whether it is time to wait.
        """
        if ticks_now() - self.progress_at >= ticks_in_us(STUCK_US):
            # Again and again: a poller that has only begun to run goes to its own CPU first.
            self.hurried = True
            self.pin_poller(sched_getcpu())
            self.progress_at = ticks_now()
        return self.hurried

    # ---- the former ring

    cdef int64_t tend(self, int64_t timeout_ns) except? -2:
        """See to the former ring.  Returns how long the loop may sleep."""
        if self.mover != NULL:
            self.move_some()
        self.enter_former()
        if self.former is &self.second:
            if self.cancelling and not self.hurry() or self.going:
                timeout_ns = HURRY_NS if timeout_ns < 0 else min(timeout_ns, <int64_t> HURRY_NS)
            if self.going and self.carried[SECOND] == 0 and self.mover == NULL:
                self.close_second()
                return timeout_ns
        return 0 if self.mover != NULL or uring_has_completions(self.former) else timeout_ns

    cdef int enter_former(self) except -1:
        """Hand over what was filled, and fetch what only an enter brings."""
        cdef uring* former = self.former
        cdef bint polled = former is &self.second
        cdef int res
        if not uring_unpublished(former) and not uring_wants_enter(former):
            return 0
        self.away = True
        with nogil:
            if polled:
                res = uring_publish(former)
            else:
                res = uring_enter_timed(former, uring_advance_tail(former), 0, 0)
        self.away = False
        return raise_unless_passing(res)

    cdef int move_some(self) except -1:
        """Ask for the end of some of what the former ring carries."""
        cdef Operation op
        cdef unsigned int looked = 0, asked = 0
        while (self.mover != NULL and asked < MOVES and looked < LOOKS_AT_ONCE
                and uring_room(self.former)):
            op = <Operation> self.mover
            self.mover = op.following
            looked += 1
            if self.moves(op):
                self.cancel(op)
                asked += 1
        return 0

    cdef bint moves(self, Operation op) noexcept:
        if op.ring != self.number(self.former) or op.withdrawn or op.user_data in self.cancelling:
            return False
        if op is self.second_waker:
            return self.going
        return op is not self.waker and (op.retractable or (self.going and not op.on_file))

    cdef int finish(self) except -1:
        """Have the former ring carry nothing any more but calls on files, at most for PATIENCE_NS."""
        cdef int64_t until = flexsc_now_ns() + PATIENCE_NS
        cdef bint polled = self.former is &self.second
        if polled:
            self.retire()
        elif self.carried[FIRST] <= 1:
            return 0
        self.going = True
        self.mover = self.newest
        while self.former != NULL and flexsc_now_ns() < until:
            if self.mover == NULL and not any([self.stays(op) for op in self.operations()]):
                break
            self.wait(HURRY_NS)
            self.reap()
        if not polled:
            self.going = False
        elif self.carried[SECOND] == 0:
            self.close_second()
        return 0

    cdef bint stays(self, Operation op) noexcept:
        """Whether the former ring still carries it, though it need not."""
        return (self.former != NULL and op.ring == self.number(self.former) and op is not self.waker
                and not op.on_file)

    # ---- what KernelPage does with one ring

    cdef int wait(self, int64_t timeout_ns) except? -1:
        if self.former != NULL:
            timeout_ns = self.tend(timeout_ns)
        return KernelPage.wait(self, timeout_ns)

    cdef bint idle(self, uint64_t now) noexcept:
        if self.former != NULL and (self.mover != NULL or self.going or uring_unpublished(self.former)
                                    or uring_has_completions(self.former) or uring_wants_enter(self.former)):
            return False
        return KernelPage.idle(self, now)

    cdef int barrier(self) except -1:
        # What was cancelled on the former ring holds its files until it has ended.
        if self.former != NULL and self.mine() and (self.mover != NULL or self.cancelling):
            self.finish()
        return KernelPage.barrier(self)

    cpdef bind(self):
        self.check()
        if self.ring is &self.second:
            if self.owner != gettid():
                self.renew_first()
            if uring_user_changed(&self.second):
                self.change_user()
            self.running = self.bound = True
        else:
            KernelPage.bind(self)

    cdef int change_user(self) except -1:
        cdef int cpu = self.second_cpu
        if self.closed or self.ring is not &self.second:
            return 0
        self.change_hands(None)
        self.finish()
        self.close_second()
        try:
            self.change_hands(cpu)
        except OSError:
            pass  # the own thread serves, then
        return 0

    cdef int abandon_first(self) except -1:
        """Only the thread that ran the loop before may enter the first ring, which carries calls on files at most."""
        cdef Operation op
        self.reap()
        (<WakeRead> self.waker).retired = True
        for op in self.operations():
            if op.ring == FIRST:
                self.give_up(op)
        self.carried[FIRST] = 0
        uring_close(&self.first)
        # It would go on to ring the bell of the one that is closed.
        uring_sys_register(&self.second, URING_UNREGISTER_EVENTFD, NULL, 0)
        return 0

    cdef int renew_first(self) except -1:
        self.abandon_first()
        self.set_up(&self.first, URING_NO_POLLER)
        self.owner = 0
        self.waker = self.keep_read(&self.first)
        self.reset_pools()
        self.register_pools(&self.first)
        self.register_bells()
        uring_set_bell(&self.first, True)
        cdef int res = uring_enable(&self.first)
        if res < 0:
            raise OSError(-res, "io_uring_register to enable the ring")
        self.owner = gettid()
        return 0

    cdef int move(self) except -1:
        if self.second.fd < 0:
            return KernelPage.move(self)
        # A run leaves one ring behind, unless the poller could not end in time.
        self.fill(&self.second)
        self.renew_first()
        self.fill(&self.first)
        self.finish()
        return self.close_second()

    cpdef leave(self):
        if self.former != NULL and not self.closed and self.pid == getpid() and self.mine():
            self.finish()
        KernelPage.leave(self)

    cpdef shut(self):
        if not self.closed and self.pid == getpid() and self.second.fd >= 0:
            if self.owner == gettid():
                self.change_hands(None)
                self.finish()
                self.close_second()
            else:
                if self.ring is &self.first:
                    self.fill(&self.second)
                self.abandon_first()
                self.former = NULL
        KernelPage.shut(self)
        if self.pid == getpid():
            uring_close(&self.second)
            pool_close(&self.second_pool)
            pool_close(&self.second_datagrams)

    def features(self):
        return KernelPage.features(self) + ["a second ring for trials"]

    cdef void tell(self, flexsc_counts* counts) noexcept:
        KernelPage.tell(self, counts)
        cdef uring* other = &self.first if self.ring is &self.second else &self.second
        counts.batches += other.batches
        counts.syscalls += other.syscalls
        counts.wakeups += other.wakeups
        counts.overflows += other.overflows
