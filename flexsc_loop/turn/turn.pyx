# cython: language_level=3, cdivision=True, binding=False, embedsignature=True, embedsignature.format=clinic
"""Floor 3: one turn of the loop.

Owns: the order of things within a turn, which endpoints have something to deliver or to send.  Imports: handles,
timers, page, operation; of asyncio only futures and tasks.

One turn: flush endpoints that were written to -> publish, and wait only if nothing is ready -> reap everything ->
run callbacks that are due -> deliver what has arrived -> due timers -> run the callbacks that deliveries have made due.
"""
from asyncio import base_events, futures, tasks

from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.exc cimport PyErr_CheckSignals
from cpython.mem cimport PyMem_Free, PyMem_Realloc
from cpython.object cimport PyObject
from cpython.pythread cimport PyThread_get_thread_ident
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport int64_t, uint32_t, uint64_t

from flexsc_loop.syscalls.interest cimport InterestList
from flexsc_loop.syscalls.page cimport Page, ticks_in_us, ticks_now
from flexsc_loop.syscalls.stats cimport (
    FLEXSC_STATS_CLOSED, FLEXSC_STATS_RUNNING, FLEXSC_STATS_STOPPED, flexsc_stats_page, probe_publish,
    probe_sleep, stats_copy, stats_copy_due, stats_disown, stats_hide, stats_no_endpoints, stats_sleep_begins,
    stats_state, stats_tick_ns, stats_turn_begins, stats_turn_ends,
)
from flexsc_loop.turn.handles cimport (
    Handle, monotonic, queue_count, queue_free, queue_peek, queue_put, queue_take, running_is, running_key, stack_here,
)
from flexsc_loop.turn.timers cimport Timers


cdef extern from "late_calls.h":
    int gettid "late_gettid"() noexcept


cdef extern from "<sched.h>" nogil:
    int sched_getcpu()
    int sched_yield()


cdef extern from "<time.h>" nogil:
    struct timespec:
        long tv_sec
        long tv_nsec
    int nanosleep(const timespec* wanted, timespec* left)


cdef enum:
    THREAD_BACKLOG = 512         # callbacks that another thread may add before it lets the loop run
    THREAD_BACKLOG_LATE = 16384  # so many, and the loop does not get to run
    JOB_ROUNDS = 2               # so many turns in a row do: of many requests, each of several jobs, more stay together
    STORM_PAUSE_NS = 200_000
    OWN_FLUSH_AT = 64            # own thread: a turn that has written to so many endpoints publishes early
    PROMPT_MOST = 2              # so many writes of a turn may be sent at once; more are better sent together
    THREAD_FLUSH_AT = 16         # likewise with a syscall thread that is busy; one that is not gets them one by one
    LONG_TURN_US = 400           # after so much time of a turn what was written goes out early
    AT_ONCE_US = 1000            # a loop that has had nothing to do for so long may send one write when it is made
    QUIET_US = 250               # likewise in a turn that has brought little: there are not many to gather from
    QUIET_MOST = 2               # completions
    IDLE_MOST_US = 64_000        # so much idle time is saved up
    FIRST_LOOK_US = 100_000      # at who should serve
    STEERED_NS = 50_000_000      # so long a loop sleeps at most while that may have to change
    DIRTY_ROOM = 64              # places for endpoints to flush, at first


cdef object Future = futures.Future
cdef object Task = tasks.Task
cdef double SEND_ALL_S = 0.05  # so long a loop that stops lets what waits for earlier sends go out


cdef class Endpoint(Operation):
    """Something that has operations in flight and user code to call when they complete.

    It is an operation itself, for those of which one is in flight nearly all the time.
    """

    cdef int run(self, Turn turn) except -1:
        """Deliver.  What user code raises is reported, and only SystemExit and KeyboardInterrupt pass through."""
        return 0

    def __call__(self):
        """Deliver, where a tool wants to see each callback."""
        self.run(self.turn)

    cdef int cut_short(self) except -1:
        """`run` was left by an exit: have what was not done yet done when the loop runs again."""
        return self.wake_up()

    cdef int wake_up(self) except -1:
        """Have `run` called in this turn: completions have left something to deliver."""
        if not self.queued and not self.turn._closed:
            self.queued = True
            self.turn.push_arrived(self)
        return 0

    cdef int wants_flush(self) except -1:
        """Have `flush` called at the end of this turn."""
        if not self.written and not self.turn._closed:
            self.written = True
            self.turn.add_dirty(self)
        return 0

    cdef int flush(self) except -1:
        """Submit what has been written since the last flush."""
        return 0

    cdef object shown(self):
        """What is run, by `run`: something whose name tells."""
        return self

    cdef bint ending(self) noexcept:
        """Whether the only thing left to do is to end."""
        return False


cdef inline int delivers_to(Turn turn, Endpoint endpoint) except -1:
    """Count a delivery, and show whoever looks from outside that it goes on."""
    turn.stats.counts.deliveries += 1
    shown = endpoint.shown()
    running_is(&turn.stats, &turn.names, running_key(&turn.fields, <PyObject*> shown))
    return 0


cdef class Turn(Timers):
    """What of an event loop runs once per turn.  `Loop` adds everything else."""

    def __cinit__(self, *args, **kwargs):
        self.owners = []
        self.spare_sends = []

    def __dealloc__(self):
        self.end_watchdog()
        self.drop_endpoints()
        queue_free(&self.arrived)
        PyMem_Free(self.dirty)

    def _use_page(self, Page page, str writes):
        self.page = page
        page.stats = &self.stats
        self.learn()
        self.always_at_once = writes == "now"
        self.credit_most = ticks_in_us(IDLE_MOST_US) if writes == "auto" else 0
        self.credit = self.credit_most
        self.interests = InterestList.__new__(InterestList, page)
        self.attributes = self.__dict__
        self.replaced_clock = type(self).time is not Turn.time
        self.flush_at = THREAD_FLUSH_AT if page.eager else OWN_FLUSH_AT

    def _steer(self, pilot):
        """From now on `pilot` says who serves the page; None: whoever does so now goes on."""
        self.pilot = pilot
        self.steered = False
        self.looked_at = ticks_now()
        self.look_at = self.looked_at + ticks_in_us(FIRST_LOOK_US)
        self.late_most = <uint64_t> -1

    def _forget_everything(self):
        """The loop is closed: let go of all that waits to be run or flushed."""
        self.jobs = None
        self.end_watchdog()
        self.spare_sends = []
        self.drop_handles()
        self.drop_timers()
        self.drop_endpoints()
        self.count()
        stats_no_endpoints(&self.stats)
        stats_state(&self.stats, FLEXSC_STATS_CLOSED, 0)
        stats_hide(&self.stats)
        self.free_number()

    cdef int drop_endpoints(self) except -1:
        while queue_count(&self.arrived):
            queue_take(&self.arrived)
        while self.dirty_count:
            self.dirty_count -= 1
            endpoint = <object> self.dirty[self.dirty_count]
            Py_DECREF(endpoint)
        return 0

    # ---- descriptors that have been taken over

    cdef object owner_of(self, int fd):
        """The transport or server that has taken a descriptor over, or None."""
        return self.owners[fd] if 0 <= fd < len(self.owners) else None

    cdef int own(self, int fd, object owner) except -1:
        """`owner` has taken it over; None: nobody any more."""
        if owner is not None:
            while len(self.owners) <= fd:
                self.owners.append(None)
        if fd < len(self.owners):
            self.owners[fd] = owner
        return 0

    def _owner_of(self, int fd):
        return self.owner_of(fd)

    def _all_owners(self):
        return [owner for owner in self.owners if owner is not None]

    def _disown_all(self):
        self.owners = []

    # ---- endpoints that have something to deliver

    cdef int push_arrived(self, Endpoint endpoint) except -1:
        return queue_put(&self.arrived, endpoint)

    cdef int run_all(self) except -1:
        """Run the callbacks that are due, deliver what has arrived, run timers, then what the deliveries have made due.

        In batches, because a program's code is larger than a CPU's first cache: parsing many requests and then
        answering them was measured up to a quarter faster than parsing and answering them one by one.
        """
        cdef size_t count = queue_count(&self.arrived)
        cdef size_t left, made
        if queue_count(&self.ready):
            self.run_handles(&self.ready, queue_count(&self.ready))
        left = queue_count(&self.ready)
        if count:
            self.run_arrived(count)
        made = queue_count(&self.ready)
        if queue_count(&self.due):
            self.run_handles(&self.due, queue_count(&self.due))
        # What callbacks have made due waits for the next turn, and so does all after it, whatever has arrived.  A turn
        # after which the loop stops runs nothing that it has made due itself.
        if left == 0 and made and not self._stopping:
            self.run_handles(&self.ready, made)
        return 0

    cdef int run_arrived(self, size_t count) except -1:
        """Deliver what has arrived at `count` endpoints."""
        cdef Endpoint endpoint
        while count and queue_count(&self.arrived):
            count -= 1
            endpoint = <Endpoint> queue_take(&self.arrived)
            self.run_endpoint(endpoint)
            self.ran()
        return 0

    cdef Endpoint first_arrived(self):
        """Who is next, for one of its kind to deliver to it, past this loop; None: that is not possible."""
        cdef void* first
        if queue_count(&self.arrived) == 0 or self.dirty_count or self._debug or self.instrumented:
            return None
        first = queue_peek(&self.arrived, 0)
        return <Endpoint> first

    cdef int take_first(self) except -1:
        """Take `first_arrived()` off the queue: whoever calls this delivers to it."""
        return delivers_to(self, <Endpoint> queue_take(&self.arrived))

    cdef int run_endpoint(self, Endpoint endpoint) except -1:
        cdef bint done = False
        delivers_to(self, endpoint)
        try:
            if self._debug or self.instrumented:
                self.run_endpoint_slowly(endpoint)
            else:
                endpoint.run(self)
            done = True
        finally:
            if not done:
                endpoint.cut_short()
        return 0

    cdef int run_endpoint_slowly(self, Endpoint endpoint) except -1:
        """Run as tools and debug mode want it."""
        cdef double start = monotonic()
        if self.run_instead is None:
            endpoint.run(self)
        else:
            self.run_instead(self.new_handle(endpoint, (), None))
        if self._debug:
            self.complain_if_slow(start, endpoint)
        return 0

    cdef int ran(self) except -1:
        return self.publish_if_due() if self.dirty_count else 0

    cdef int publish_if_due(self) except -1:
        """No reply waits for many others, a slow handler or much data; with an idle syscall thread, for nothing."""
        if self.page.closed:
            return 0
        if self.heavy:
            self.send_much()
        elif (self.dirty_count >= self.flush_at or ticks_now() - self.published_at > ticks_in_us(LONG_TURN_US)
                or (self.page.eager and self.page.hungry())):
            self.publish_now()
        return 0

    cdef bint sends_at_once(self, bint alone) except? False:
        """Whether what is written now is sent now, so that it has gone whatever the callback does next.

        A callback may go on to block until the peer has answered, or to end the process, and nobody else sends for it.
        What many write goes together, since parsing many requests, answering them all and sending all answers takes up
        to a quarter less time than one by one; that matters only to a loop that is busy.  So the time in which it had
        nothing to do is spent on writes that are sent when they are made.
        alone: as far as one can tell, nothing else is to be sent with it.
        """
        cdef uint64_t price
        if self.page.closed or self.page.away:
            return False
        if self.always_at_once:
            return True
        if alone and self.at_leisure():
            self.prompt += 1
            return True
        price = ticks_in_us(QUIET_US if self.page.reaped <= QUIET_MOST else AT_ONCE_US)
        if self.credit < price:
            if not self.warned:
                self.warned = True
                self._watch_calls()
            return False
        self.credit -= price
        return True

    def _watch_calls(self):
        """From now on, have `_send_before_call` called before calls that are known to block or to end the process."""

    def _send_before_call(self):
        """In the loop's thread, within a callback: have the kernel take what waits for the end of the turn."""
        if self.page.closed or self.page.away or self.flushing:
            return
        self.flush_dirty(True)
        if self.page.eager:
            # What the thread was given goes first, then what has waited for that.
            self.sparse = True
            try:
                self.page.publish()
                self.page.barrier()
            finally:
                self.sparse = False

    cdef bint at_leisure(self) noexcept:
        """Whether what is written now may as well be sent now: nobody else has written in this turn, or is about to.

        Not with a syscall thread, which would be given the first of several writes and the others only when it is done.
        """
        if not self.inside or self.dirty_count or queue_count(&self.arrived):
            return False
        return self.prompt < min(self.page.direct_most, <uint32_t> PROMPT_MOST)

    cdef int send_much(self) except -1:
        """Send now, and free what has been sent, so that the next takes its place in the cache."""
        if self.dirty_count <= self.page.direct_most:
            self.heavy = False
            return self.flush_dirty()
        self.publish_now()
        self.page.reap()
        return 0

    cdef int publish_now(self) except -1:
        cdef uint64_t before = ticks_now()
        self.heavy = False
        self.flush_dirty()
        self.page.publish()
        self.published_at = ticks_now()
        self.stats.turn_in_calls += self.published_at - before
        return 0

    # ---- endpoints to flush

    cdef int add_dirty(self, Endpoint endpoint) except -1:
        cdef void** bigger
        cdef size_t room
        if self.dirty_count == self.dirty_room:
            room = max(2 * self.dirty_room, <size_t> DIRTY_ROOM)
            bigger = <void**> PyMem_Realloc(self.dirty, room * sizeof(void*))
            if bigger == NULL:
                raise MemoryError
            self.dirty = bigger
            self.dirty_room = room
        Py_INCREF(endpoint)
        self.dirty[self.dirty_count] = <void*> endpoint
        self.dirty_count += 1
        return 0

    cdef int flush_dirty(self, bint plainly=False) except -1:
        """Have each send what it has; `plainly`: by a call of its own, whatever that costs."""
        cdef size_t at = 0, i
        cdef Endpoint endpoint
        cdef bint gathers = False
        probe_publish(self.stats.page.number, self.dirty_count)
        self.sparse = plainly or (self.dirty_count != 0 and self.dirty_count <= self.page.direct_now())
        self.flushing = True
        if self.sparse and self.dirty_count > 1:
            gathers = self.page.begin_gathering(self.dirty_count)
        try:
            while at < self.dirty_count:
                endpoint = <Endpoint> self.dirty[at]
                at += 1
                endpoint.written = False
                try:
                    endpoint.flush()
                finally:
                    Py_DECREF(endpoint)
        finally:
            if gathers:
                self.page.end_gathering()
            self.sparse = self.flushing = False
            # Only after an error is anything left to move down.
            for i in range(self.dirty_count - at):
                self.dirty[i] = self.dirty[at + i]
            self.dirty_count -= at
        return 0

    cdef bint hand_over(self) except -1:
        """Jobs go last: who does them gets the GIL for a moment.  Whether the turn goes on with their results alone."""
        cdef Endpoint jobs = self.jobs
        self.jobs = None
        if not self.page.closed:
            self.page.publish()
        jobs.flush()
        self.job_rounds += 1
        return queue_count(&self.arrived) != 0 and not self._stopping and self.job_rounds <= JOB_ROUNDS

    # ---- the turn

    cdef int64_t patience(self) except? -2:
        """How long the loop may sleep, in nanoseconds: 0 not at all, -1 without limit."""
        if queue_count(&self.arrived) or self._stopping:
            return 0
        return self.until_timer()

    cdef int one_turn(self) except -1:
        cdef int64_t patience
        cdef bint goes_on            # with what jobs have given, before anybody looks what else has come
        cdef uint64_t now = ticks_now(), ended = now, before = now
        if self.page.closed:
            # A forked child that has come back to its parent's loop.
            self.page.check()
        self.turns += 1
        stats_turn_ends(&self.stats, now)
        self.prompt = 0
        if self.dirty_count:
            self.flush_dirty()
        goes_on = self.jobs is not None and self.hand_over()
        PyErr_CheckSignals()
        patience = self.patience()
        if self.steered and (patience < 0 or patience > STEERED_NS):
            patience = STEERED_NS
        if goes_on:
            now = ticks_now()
        elif patience != 0 or not self.page.idle(now):
            self.sleeping = patience != 0
            if patience != 0:
                before = ticks_now()
                self.count()
                stats_sleep_begins(&self.stats, ended, before)
                probe_sleep(self.stats.page.number, patience)
            try:
                self.page.wait(patience)
            finally:
                self.sleeping = False
            self.page.reaped = self.page.reap()
            PyErr_CheckSignals()
            now = ticks_now()
            if patience != 0:
                self.credit = min(self.credit_most, self.credit + now - before)
                self.waited += now - before
        if self.pilot is not None and (now >= self.look_at or self.page.late_ticks > self.late_most):
            self.consult(now)
        if self.page.eager:
            self.interests.look_for_oneself()
        self.published_at = now
        self.look_for_tools()
        # Who sets a time-out takes it back when the data comes: what has arrived is told first, however late it is.
        self.late = 0
        if not goes_on:
            self.job_rounds = 0
            self.due_timers(queue_count(&self.arrived) != 0)
        stats_turn_begins(&self.stats, before, now, patience != 0, self.late)
        if stats_copy_due(&self.stats, now):
            self.count()
            stats_copy(&self.stats, now)
        return self.run_all()

    cdef void count(self) noexcept:
        """Bring the counts up to date."""
        self.stats.counts.turns = self.turns
        self.stats.counts.ready = queue_count(&self.ready) + queue_count(&self.due)
        self.stats.counts.timers = self.timers.count
        if self.page is not None:
            self.page.tell(&self.stats.counts)
            if self.page.eager and not self.page.closed:
                # It has a number only when it has begun, which may be within a run.
                self.stats.page.syscall_thread = self.page.thread_id()

    cdef int consult(self, uint64_t now) except -1:
        """Have the pilot look who should serve."""
        cdef uint64_t next_ns
        cdef bint eager = self.page.eager
        waited = min(1.0, self.waited / <double> max(1, now - self.looked_at))
        self.waited = 0
        next_ns = self.pilot.look(
            sched_getcpu(), self.stats.counts.messages_in, self.stats.counts.bytes_in, waited,
            int(self.page.lateness() * stats_tick_ns(&self.stats)))
        self.steered = self.pilot.steers
        self.late_most = ticks_in_us(<uint32_t> (self.pilot.late_look_ns // 1000))
        self.stats.page.syscall_thread = self.page.thread_id()
        if self.page.eager != eager:
            self.flush_at = THREAD_FLUSH_AT if self.page.eager else OWN_FLUSH_AT
        self._show_hands()
        self.looked_at = ticks_now()
        self.look_at = self.looked_at + ticks_in_us(<uint32_t> (next_ns // 1000))
        return 0

    def _run_once(self):
        """One turn, for those who call this instead of `run_forever`."""
        self.page.bind()
        self.one_turn()

    def _run_turns(self):
        """Run turns until `_stopping` is set.  What was written goes out even if no further turn comes."""
        self.inside = True
        self.stats.page.syscall_thread = self.page.thread_id()
        stats_state(&self.stats, FLEXSC_STATS_RUNNING, gettid())
        try:
            while True:
                self.one_turn()
                if self._stopping:
                    break
        finally:
            self.inside = False
            self.count()
            stats_state(&self.stats, FLEXSC_STATS_STOPPED, 0)
            if self.jobs is not None:
                self.hand_over()
            if not self.page.closed:
                self.flush_dirty()
                self.page.publish()
                if self.page.eager or self.endings:
                    self.send_all()
        if self.endings and not self.page.closed:
            # What was closed in this run ends in it, if it need not wait for a peer: no other turn may ever come.
            self.run_endings()

    cdef int send_all(self) except -1:
        """Have all that was written tried before the loop may be closed, what waits for earlier sends included.

        A barrier does not wait for all of a chain: what is linked is done later than what was queued after it, and
        never as long as a socket is full.
        """
        cdef double until = monotonic() + SEND_ALL_S
        self.page.barrier()
        while (self.dirty_count or self.chains) and monotonic() < until:
            self.flush_dirty()
            self.page.publish()
            self.page.barrier()
        return 0

    cdef int run_endings(self) except -1:
        """Let what was closed end, if it is ready to."""
        cdef size_t count = queue_count(&self.arrived)
        cdef Endpoint endpoint
        while count and queue_count(&self.arrived):
            count -= 1
            endpoint = <Endpoint> queue_take(&self.arrived)
            if endpoint.ending():
                self.run_endpoint(endpoint)
            else:
                self.push_arrived(endpoint)
        # What was closed in the last turn waits for the next one, which is now.
        self.turns += 1
        return self.run_endings_in_line()

    def _waiting_handles(self):
        """The handles in the ready queue, and those of the timers; for debuggers."""
        cdef size_t at
        return ([<object> self.ready.items[at & self.ready.mask] for at in range(self.ready.head, self.ready.tail)]
                + [<object> self.due.items[at & self.due.mask] for at in range(self.due.head, self.due.tail)],
                [<object> self.timers.heap[at].handle for at in range(self.timers.count)])

    # ---- what can be looked at

    def _show_hands(self):
        """Tell who looks at the stats page who serves this one, where that, or why, is another than it was."""

    def _watch_turns(self, double seconds, int signal, int fd):
        """Have turns that last longer reported to `fd`, with the stacks that `signal` brings; 0 seconds: no longer."""
        self.end_watchdog()
        if seconds > 0:
            self.watchdog = watchdog_start(&self.stats, <int64_t> (seconds * 1e9), signal, fd)
            if self.watchdog == NULL:
                raise RuntimeError("can't start a thread for the watchdog")

    cdef void end_watchdog(self) noexcept:
        if self.watchdog != NULL:
            watchdog_stop(self.watchdog)
            self.watchdog = NULL

    def _disown_page(self):
        """This process is a forked child: the pages are its parent's."""
        self.watchdog = NULL  # its thread is the parent's
        stats_disown(&self.stats)
        self.page.disown()

    def _stats_page(self):
        """A copy of the stats page, with what has been counted until now."""
        if not self.page.closed:
            self.count()
            stats_copy(&self.stats, ticks_now())
        return PyBytes_FromStringAndSize(<char*> self.stats.page, sizeof(flexsc_stats_page))

    # ---- what asyncio calls

    def call_soon_threadsafe(self, callback, *args, context=None):
        """As `call_soon`, from any thread; wakes the loop only if it sleeps."""
        cdef Handle handle
        if self._closed:
            self._check_closed()
        if self._debug:
            self._check_callback(callback, "call_soon_threadsafe")
        handle = self.soon(callback, args, context)
        if self._debug:
            handle._source_traceback = stack_here()
        if self.sleeping:
            self.sleeping = False
            self.page.wake()
        elif (self.ready.tail & (THREAD_BACKLOG - 1)) == 0 and queue_count(&self.ready) >= THREAD_BACKLOG:
            self.let_others_run()
        return handle

    cdef int let_others_run(self) except -1:
        """A storm from another thread: let the loop work it off while it is still in the caches.

        Else more would pile up until the interpreter switches threads (5 ms).  Who waits for the GIL is woken too late,
        though, if it is free for a moment only; again and again, with bad luck: then for longer than waking takes.
        """
        cdef timespec pause
        cdef bint late = queue_count(&self.ready) >= THREAD_BACKLOG_LATE
        late = late and self._thread_id != PyThread_get_thread_ident()
        pause.tv_sec = 0
        pause.tv_nsec = STORM_PAUSE_NS
        with nogil:
            if late:
                nanosleep(&pause, NULL)
            else:
                sched_yield()
        return 0

    cdef int rouse(self) except -1:
        """Another thread has brought something: wake the loop if it sleeps."""
        if self.sleeping:
            self.sleeping = False
            self.page.wake()
        return 0

    def create_future(self):
        """A future of this loop."""
        return Future(loop=self)

    def create_task(self, coro, *, name=None, context=None, **kwargs):
        """Run a coroutine in a task.  Source: asyncio.loop.create_task."""
        if self._closed:
            self._check_closed()
        if self._task_factory is not None:
            # From Python 3.14 on, a factory gets what the caller has given, and need not know of anything else.
            if name is not None:
                kwargs["name"] = name
            if context is not None:
                kwargs["context"] = context
            return base_events.BaseEventLoop.create_task(self, coro, **kwargs)
        if kwargs:
            return Task(coro, loop=self, name=name, context=context, **kwargs)
        if context is None:
            return Task(coro, loop=self, name=name)
        return Task(coro, loop=self, name=name, context=context)
