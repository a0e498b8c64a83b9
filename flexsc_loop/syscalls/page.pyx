# cython: language_level=3, cdivision=True
"""Floor 1: what the two kinds of pages have in common.

Owns: the references to operations in flight, the pool of receive buffers, the batch of completions that is being
walked.  Imports: operation, calls.h, pool.h.
"""
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.ref cimport Py_DECREF, Py_INCREF
from posix.unistd cimport getpid

from flexsc_loop.syscalls.operation cimport stamp


cdef extern from "file_threads.h" nogil:
    file_threads* file_threads_open(unsigned cores, unsigned most, unsigned idle_ms)
    void file_threads_set_bell(file_threads* threads, void (*ring)(void*) noexcept nogil, void* arg) noexcept
    int file_threads_queue(file_threads* threads, file_job* job) noexcept
    bint file_threads_withdraw(file_threads* threads, file_job* job) noexcept
    file_results* file_threads_results(file_threads* threads) noexcept
    file_job* file_threads_take(file_threads* threads) noexcept
    uint64_t file_threads_faults(file_threads* threads) noexcept
    bint file_threads_close(file_threads* threads, int64_t patience_ns) noexcept
    void file_threads_free(file_threads* threads) noexcept
    void file_job_drop(file_job* job) noexcept


cdef extern from "<errno.h>" nogil:
    enum:
        EOPNOTSUPP


cdef enum:
    THREADS_MOST = 128           # that sleep in calls on files at the same time
    THREADS_PATIENCE_NS = 1_000_000_000     # how long a loop that is closed waits for them
    THREADS_IDLE_MS = 5000       # they end after so much idleness


cdef class Page:
    """An array of entries that one loop fills and its own thread or a syscall thread serves."""

    def __cinit__(self):
        self.pid = getpid()
        self.batch = <flexsc_completion*> PyMem_Malloc(BATCH * sizeof(flexsc_completion))
        if self.batch == NULL:
            raise MemoryError
        self.server_cpu = -1
        faults_open(&self.faults)

    def __dealloc__(self):
        PyMem_Free(self.batch)
        faults_close(&self.faults)
        if self.pid == getpid():
            if self.threads != NULL:
                file_threads_close(self.threads, 0)
                file_threads_free(self.threads)
            pool_close(&self.pool)
            pool_close(&self.datagrams)
            pool_close(&self.second_pool)
            pool_close(&self.second_datagrams)

    cdef int open_pool(self, flexsc_pool* pool, uint32_t buffers, uint32_t buffer_size) except -1:
        cdef int res = pool_open(pool, buffers, buffer_size)
        if res < 0:
            raise OSError(-res, f"no memory for {buffers} receive buffers of {buffer_size} bytes")
        return 0

    cdef int open_datagrams(self, flexsc_pool* pool) except -1:
        """A pool of large buffers, of which each holds a datagram and its sender's address."""
        self.open_pool(pool, DATAGRAM_SLOTS, DATAGRAM_ROOM)
        pool_keep_small(pool)
        pool_grow(pool, FIRST_DATAGRAMS)
        return 0

    cdef int need_datagrams(self) except -1:
        """Have the pool of large buffers that multishot CALL_RECVMSG takes."""
        if self.datagrams.ring != NULL:
            return 0
        self.open_datagrams(&self.datagrams)
        try:
            self.share_datagrams()
        except BaseException:
            pool_close(&self.datagrams)
            raise
        return 0

    cdef int check(self) except -1:
        """Refuse to touch a page that is closed, or that belongs to the parent of this process."""
        if self.pid != getpid():
            raise RuntimeError("this event loop belongs to the parent process: a forked child must make a new one")
        if self.closed:
            raise RuntimeError("the page is closed")
        return 0

    def disown(self):
        """This process is a forked child: never touch what is the parent's."""
        self.closed = True
        # The threads are the parent's.
        self.threads = NULL
        self.results = NULL

    def features(self):
        """Names of optional things that this page has."""
        return []

    cdef int refuse_if_away(self) except -1:
        """Another thread must not touch the entries while the loop's thread is at them."""
        if self.away:
            raise RuntimeError("the event loop was used from another thread; only call_soon_threadsafe may be")
        return 0

    cdef int submit(self, Operation op, int call, int fd, void* addr, uint32_t length, uint64_t off,
                    uint32_t call_flags, uint32_t flags) except -1:
        """Queue `op`; the page holds a reference until its last completion."""
        if op.user_data != 0:
            raise RuntimeError(f"{op!r} is in flight already")
        if self.closed:
            self.check()
        self.refuse_if_away()
        stamp(op)
        faults_begin(&self.faults, op.user_data, &call, fd, &addr, &length, &flags)
        try:
            self.carry(op, call, fd, addr, length, off, call_flags, flags)
        except BaseException:
            op.user_data = 0
            raise
        return self.adopt(op)

    cdef int adopt(self, Operation op) except -1:
        """The operation is in flight from here on."""
        Py_INCREF(op)
        op.following = self.newest
        op.previous = NULL
        if self.newest != NULL:
            FLEXSC_CHECK((<Operation> self.newest).previous == NULL)
            (<Operation> self.newest).previous = <void*> op
        self.newest = <void*> op
        self.in_flight += 1
        self.submitted += 1
        return 0

    cdef int dispatch(self, flexsc_completion* completion) except -1:
        """Give one completion to its operation; with the last one, drop the page's reference."""
        cdef void* address = <void*> (completion.user_data & 0xFFFFFFFFFFFFull)
        cdef Operation op
        cdef int res = completion.res
        self.completions += 1
        if completion.user_data & TAGS:
            return self.tagged(completion.user_data)
        if address == NULL:
            return 0
        op = <Operation> address
        if op.user_data != completion.user_data:
            self.stale += 1
            return 0
        FLEXSC_CHECK(self.in_flight > 0 and op.generation == completion.user_data >> 48)
        if completion.flags & COMPLETION_MORE:
            if faults_strikes(&self.faults, op.user_data):
                self.cancel(op)
            op.complete(completion.res, completion.flags)
            return 0
        self.unlink(op)
        self.release(op)
        res = faults_result(&self.faults, op.user_data, res)
        op.user_data = 0
        if op.withdrawn:
            op.withdrawn = False
            res = -ECANCELED
        elif res == -EINTR:
            # Nothing has been done, and whoever has not cancelled it submits it anew, as with a page that was replaced.
            res = -ECANCELED
        try:
            op.complete(res, completion.flags)
        finally:
            Py_DECREF(op)
        return 0

    cdef int unlink(self, Operation op) except -1:
        """The operation is in flight no longer."""
        FLEXSC_CHECK((op.previous == NULL) == (self.newest == <void*> op))
        if op.previous != NULL:
            FLEXSC_CHECK((<Operation> op.previous).following == <void*> op)
            (<Operation> op.previous).following = op.following
        else:
            self.newest = op.following
        if op.following != NULL:
            (<Operation> op.following).previous = op.previous
        if self.mover == <void*> op:
            self.mover = op.following
        op.previous = op.following = NULL
        self.in_flight -= 1
        if op.by_thread:
            op.by_thread = False
            self.by_threads -= 1
        FLEXSC_CHECK((self.in_flight == 0) == (self.newest == NULL))
        return 0

    # ---- calls that a file thread makes

    cdef int open_threads(self) except -1:
        self.threads = file_threads_open(0, THREADS_MOST, THREADS_IDLE_MS)
        if self.threads == NULL:
            raise MemoryError
        self.results = file_threads_results(self.threads)
        return self.hang_bell()

    cdef int hand_to_threads(self, Operation op, file_job* job) except -1:
        """Have a file thread make a call that may sleep; the page holds a reference to `op` until its completion.

        That has COMPLETION_BY_THREAD, and the result is in the job, which must stay where it is until then.
        Raises OSError if there is no thread.
        """
        cdef int res
        if op.user_data != 0:
            raise RuntimeError(f"{op!r} is in flight already")
        if self.closed or self.threads == NULL:
            self.check()
            self.open_threads()
        stamp(op)
        job.user_data = op.user_data
        res = file_threads_queue(self.threads, job)
        if res < 0:
            op.user_data = 0
            raise OSError(-res, "no thread for a call on a file")
        self.thread_calls += 1
        self.by_threads += 1
        op.by_thread = True
        return self.adopt(op)

    cdef bint take_back(self, Operation op, file_job* job) except -1:
        """End an operation with -ECANCELED if its call has not begun; whether that was so."""
        if op.user_data == 0 or not op.by_thread or not file_threads_withdraw(self.threads, job):
            return False
        job.res = -ECANCELED
        self.end_by_thread(job)
        return True

    cdef int end_by_thread(self, file_job* job) except -1:
        cdef flexsc_completion completion
        completion.user_data = job.user_data
        completion.res = 0
        completion.flags = COMPLETION_BY_THREAD
        return self.dispatch(&completion)

    cdef bint results_there(self) noexcept:
        """Whether file threads have results that nobody has taken."""
        return self.results != NULL and file_results_there(self.results)

    cdef int reap_threads(self) except -1:
        """Give the results of file threads to their operations.  Returns how many there were."""
        cdef file_job* job = file_threads_take(self.threads)
        cdef file_job* following
        cdef int count = 0
        while job != NULL:
            following = job.next
            self.end_by_thread(job)
            job = following
            count += 1
        return count

    cdef int drop_result(self, file_job* job) except -1:
        """Nobody wants what the call has brought."""
        file_job_drop(job)
        return 0

    cdef int shut_threads(self) except -1:
        """Wait for the calls that are being made.

        One that takes longer is done all the same as long as the process lives, but its operation ends now.
        """
        cdef void* at
        cdef Operation op
        if self.threads == NULL:
            return 0
        with nogil:
            file_threads_close(self.threads, THREADS_PATIENCE_NS)
        self.reap_threads()
        self.results = NULL
        file_threads_free(self.threads)
        self.threads = NULL
        at = self.newest
        while at != NULL and self.by_threads:
            op = <Operation> at
            at = op.following
            if op.by_thread:
                self.abandon(op)
        return 0

    cdef int abandon(self, Operation op) except -1:
        """End an operation whose memory is still in use.  The page's reference to it is never dropped."""
        self.unlink(op)
        op.user_data = 0
        return op.complete(-ECANCELED, COMPLETION_ABANDONED)

    # ---- a syscall thread that has to wait for its CPU

    cdef void giving(self) noexcept:
        """Entries are about to be published to the syscall thread."""
        if not self.given or self.hungry():
            self.given = True
            self.given_at = ticks_now()

    cdef bint behind(self, uint64_t now) noexcept:
        """Whether the syscall thread should have begun with what it was given."""
        self.given = self.given and not self.hungry()
        if not self.given or <int64_t> (now - self.given_at) <= <int64_t> ticks_in_us(BEHIND_US):
            return False
        self.late_at = now
        self.late_ticks += now - max(self.late_seen, self.given_at)
        self.late_seen = now
        return True

    cdef uint64_t lateness(self) noexcept:
        """For how many ticks what the syscall thread was given has waited for it, since this was asked last."""
        cdef uint64_t ticks = self.late_ticks
        self.late_ticks = 0
        return ticks

    cdef bint late(self) noexcept:
        """Whether what the syscall thread is given now may have to wait.

        It sleeps, or this thread has its CPU, or it was behind just now.
        """
        cdef uint64_t now = ticks_now()
        return (self.asleep() or sched_getcpu() == self.server_cpu or self.behind(now)
                or now - self.late_at < ticks_in_us(LATE_US))

    cdef uint32_t direct_now(self) noexcept:
        """Up to how many calls at a time are better made now than queued."""
        if not self.eager:
            return self.direct_most
        # On the syscall thread's CPU nobody else sends while this thread runs.
        return <uint32_t> -1 if sched_getcpu() == self.server_cpu else 0

    cdef int barrier(self) except -1:
        """Return when the server has dealt with all that was queued before, the release of closed files included.

        Twice, because a poller releases files after the round in which it has closed them.  For rare things.
        """
        cdef Operation mark = Operation.__new__(Operation)
        cdef int64_t step = BARRIER_STEP_NS
        if not self.mine():
            return 0
        for _ in range(2):
            self.submit(mark, CALL_NOP, -1, NULL, 0, 0, 0, 0)
            while mark.user_data != 0:
                # A server that gets no CPU is not asked a thousand times a second whether it has had some.
                self.wait(step)
                step = min(2 * step, BARRIER_STEP_MOST_NS)
                self.reap()
        return 0

    cdef int await_end(self, Operation op) except -1:
        """Give a syscall thread a moment to end an operation that was cancelled a turn ago."""
        if self.mine():
            for _ in range(ENDING_LOOKS):
                if op.user_data == 0:
                    break
                self.wait(ENDING_STEP_NS)
                self.reap()
        return 0

    cdef int end_with(self, Operation op, int res) except -1:
        """Give `op` its last completion ourselves: whoever served it is gone."""
        cdef flexsc_completion completion
        completion.user_data = op.user_data
        completion.res = res
        completion.flags = 0
        return self.dispatch(&completion)

    cdef int reap(self) except -1:
        """Copy completions out, advance the head, then give each to its operation.  Returns how many there were."""
        cdef int count = 0
        cdef uint32_t at
        while True:
            if self.batch_at == self.batch_end:
                self.batch_at = 0
                self.batch_end = 0
                self.batch_end = faults_hold(&self.faults, self.batch, self.copy_out(), BATCH)
                if self.batch_end == 0:
                    break
            while self.batch_at < self.batch_end:
                at = self.batch_at
                self.batch_at += 1
                count += 1
                self.dispatch(&self.batch[at])
            if count >= 16 * BATCH:
                break
        if self.results_there():
            count += self.reap_threads()
        if count and self.pool.ring != NULL:
            pool_publish(&self.pool)
            if self.datagrams.ring != NULL:
                pool_publish(&self.datagrams)
            if self.second_pool.ring != NULL:
                pool_publish(&self.second_pool)
            if self.second_datagrams.ring != NULL:
                pool_publish(&self.second_datagrams)
        return count

    cdef bytes take_buffer(self, int res, uint32_t flags):
        """The `res` bytes that a receive put into a pool buffer; the buffer goes back to the pool."""
        cdef uint32_t id = flags >> COMPLETION_BUFFER_SHIFT
        cdef flexsc_pool* pool = stream_pool(self, flags)
        cdef bytes data = PyBytes_FromStringAndSize(pool_buffer(pool, id), res)
        pool_give(pool, id)
        return data

    cdef int carry(self, Operation op, int call, int fd, void* addr, uint32_t length, uint64_t off,
                   uint32_t call_flags, uint32_t flags) except -1:
        """Fill an entry for `op`."""
        return 0

    cdef int quietly(self, int call, int fd, uint32_t length) except -1:
        """Queue a CALL_CLOSE or CALL_SHUTDOWN that nobody waits for."""
        return 0

    cdef int close_owned(self, int fd) except -1:
        """Close an owned fd on which nothing is in flight: now, or by a syscall thread that is at work just then."""
        return 0

    cdef int cancel(self, Operation op) except -1:
        """Ask for the end of `op`, whose fd only this loop closes.  Its last completion comes later."""
        return 0

    cdef int cancel_now(self, Operation op) except -1:
        """End `op`: when this returns it has had its last completion, and anybody may close its fd.

        What it brings is what it had done until then.  Outside of a run there may be no server to end it; then it is
        only sure not to touch its fd any more.
        """
        return 0

    cdef int share_datagrams(self) except -1:
        """Tell the server of the pool of large buffers."""
        return 0

    cdef bint begin_gathering(self, size_t count) noexcept:
        """About `count` plain sends are to come: gather them, to make them together, if that has an advantage here."""
        return False

    cdef bint gather(self, Operation op, int fd, const void* data, size_t size) except? -1:
        """Whether a plain send for `op` is gathered.  If so, `op.complete` is called with COMPLETION_PLAIN soon."""
        return False

    cdef int end_gathering(self) except -1:
        """Make the sends that were gathered."""
        return 0

    cdef bint mine(self) noexcept:
        """Whether this thread may wait for completions now."""
        return self.bound

    cdef int make_room(self, uint32_t count) except -1:
        """Make sure that the next `count` entries, linked ones, are handed over together."""
        return 0

    cdef int publish(self) except -1:
        """Hand over what is queued, without waiting for results."""
        return 0

    cdef int wait(self, int64_t timeout_ns) except? -1:
        """Publish and wait for a completion.  0 never sleeps, -1 sleeps without limit.

        Returns 1 when a signal ended the sleep, else 0.
        """
        return 0

    cdef bint idle(self, uint64_t now) noexcept:
        """Whether neither entries wait for the server nor completions for the loop, as far as a look at memory says.

        now: `ticks_now()`.  Where memory does not tell of what has come, False once in a while.
        """
        return True

    cdef bint hungry(self) noexcept:
        """Whether the syscall thread has taken everything that it was given so far."""
        return True

    cdef bint asleep(self) noexcept:
        """Whether the syscall thread has to be woken up first, as far as a look without a barrier tells."""
        return False

    cdef uint32_t copy_out(self) noexcept:
        """Fill the batch; returns how many completions there were."""
        return 0

    cdef void wake(self) noexcept:
        """End the loop's sleep.  Any thread."""

    cdef int tagged(self, uint64_t user_data) except -1:
        """A completion of an entry that is no operation: a close, a cancel."""
        return 0

    cdef int hang_bell(self) except -1:
        """Let file threads end the loop's sleep."""
        return 0

    cdef int set_bell(self, void (*ring)(void*) noexcept nogil, void* arg) except -1:
        if self.threads != NULL:
            file_threads_set_bell(self.threads, ring, arg)
        return 0

    cdef int take_bell_down(self) except -1:
        """And no longer: when this returns no thread is about to."""
        return self.set_bell(NULL, NULL)

    cdef void release(self, Operation op) noexcept:
        """The operation has had its last completion."""

    cpdef bind(self):
        """Called by the thread that runs the loop, each time that it starts to."""
        self.check()

    cpdef leave(self):
        """Called by the thread that runs the loop, each time that it stops to: another thread may run it next."""

    cpdef shut(self):
        """End all operations, take their completions, and free the page.  A page of another process is left alone."""

    cpdef change_hands(self, cpu):
        """Have a syscall thread on `cpu` serve from now on, or (None) the own thread.  Between two turns only.

        Raises OSError if there is no such thread to be had; then the own thread serves.
        """
        raise OSError(EOPNOTSUPP, "this page keeps whoever serves it")

    cpdef let_go(self):
        """The own thread serves, and is to do so for longer: free what was kept for a syscall thread."""

    # ---- what is counted

    cdef void tell(self, flexsc_counts* counts) noexcept:
        """Put into `counts` what the page has counted since it was opened."""

    cdef void tell_common(self, flexsc_counts* counts) noexcept:
        counts.submitted = self.submitted
        counts.completions = self.completions
        counts.spins = self.spin.looks
        counts.pool_empty = self.pool_empty
        counts.in_flight = self.in_flight - (0 if self.closed else self.housekeeping)
        counts.files_by_threads = self.thread_calls
        counts.files_queued = self.entry_calls
        counts.pool_buffers = self.pool.circulating
        counts.pool_most = self.pool.slots

    cpdef int thread_id(self) noexcept:
        """Of the syscall thread; 0 without one, and while it is not known."""
        return 0

    cpdef int64_t thread_cpu_ns(self) except? -1:
        """CPU time of the syscall thread so far, and of those before it."""
        return 0

    cdef uint64_t faults_met(self) noexcept:
        """How many calls have failed because a test wanted it."""
        return faults_count(&self.faults) + self.file_faults_met()

    cdef uint64_t file_faults_met(self) noexcept:
        """Of them, those of calls on files that threads have made."""
        return 0 if self.threads == NULL else file_threads_faults(self.threads)

    def thread_counters(self):
        """What is not worth being counted in each turn; for `loop.stats()`."""
        found = {"thread_cpu_ns": self.thread_cpu_ns()}
        if FLEXSC_FAULTY:
            found["faults"] = self.faults_met()
        return found
