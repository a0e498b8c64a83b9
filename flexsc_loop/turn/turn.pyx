# cython: language_level=3, cdivision=True, binding=False
"""Floor 3: one turn of the loop.

Owns: handles, timers, the ready queue, the order of things within a turn.  Imports: page; of asyncio only what makes
its messages the same.

One turn: flush endpoints that were written to -> publish, and wait only if nothing is ready -> reap everything ->
due timers -> run callbacks that are due -> deliver what has arrived -> run the callbacks that this has made due.
"""
import sys
from asyncio import base_events, events, format_helpers, futures, tasks

cimport cython
from cpython.exc cimport PyErr_CheckSignals
from cpython.mem cimport PyMem_Free, PyMem_Realloc
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.math cimport ceil
from libc.stdint cimport int64_t, uint32_t

from flexsc_loop.syscalls.page cimport Page


cdef extern from "Python.h":
    object PyContext_CopyCurrent()
    unsigned long PyThread_get_thread_ident()
    int PyContext_Enter(object context) except -1
    int enter_context "PyContext_Enter"(object context) noexcept
    int PyContext_Exit(object context) except -1
    PyObject* PyObject_Call(object callable, object args, PyObject* kwargs)
    Py_ssize_t Py_REFCNT(object)
    PyObject* PyObject_CallOneArg(object callable, object argument)
    void Py_DECREF_ "Py_DECREF"(PyObject*)


cdef extern from "<sched.h>" nogil:
    int sched_yield()


cdef extern from "<time.h>" nogil:
    struct timespec:
        long tv_sec
        long tv_nsec
    int clock_gettime(int clock, timespec* now)
    int nanosleep(const timespec* wanted, timespec* left)
    enum: CLOCK_MONOTONIC


cdef extern from *:
    """
    static inline int has_weakrefs(PyObject *object)
    {
        return *(PyObject **)((char *)object + Py_TYPE(object)->tp_weaklistoffset) != NULL;
    }
    """
    bint has_weakrefs(object) noexcept


cdef enum:
    HELD_HERE = 1                # references to a handle that only the function running it has
    TIMERS_WORTH_COMPACTING = 100
    THREAD_BACKLOG = 512         # callbacks that another thread may add before it lets the loop run
    THREAD_BACKLOG_LATE = 16384  # so many, and the loop does not get to run
    STORM_PAUSE_NS = 200_000
    OWN_FLUSH_AT = 64            # own thread: a turn that has written to so many endpoints publishes early
    PROMPT_MOST = 2              # so many writes of a turn may be sent at once; more are better sent together
    THREAD_FLUSH_AT = 16         # likewise with a syscall thread that is busy; one that is not gets them one by one


cdef object Future = futures.Future
cdef object Task = tasks.Task
cdef double LONGEST_SLEEP = 24 * 3600.0
cdef double CLOCK_RESOLUTION = 1e-9
cdef double SEND_ALL_S = 0.05  # so long a loop that stops lets what waits for earlier sends go out


cdef double monotonic() noexcept nogil:
    """Seconds of the clock that asyncio's loops use."""
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <double> now.tv_sec + 1e-9 * <double> now.tv_nsec


cdef int call_in(object context, object callback, object argument) except -1:
    """Call `callback(argument)` in `context`."""
    cdef PyObject* result
    PyContext_Enter(context)
    result = PyObject_CallOneArg(callback, argument)
    PyContext_Exit(context)
    if result == NULL:
        return -1
    Py_DECREF_(result)
    return 0


cdef int raised() except -1:
    """Turn the error that C code has set into an exception here."""
    return -1


cdef str describe(object callback, object args, bint debug):
    """Name a callback as asyncio does in its messages."""
    if sys.version_info >= (3, 13):
        return format_helpers._format_callback_source(callback, args, debug=debug)
    return format_helpers._format_callback_source(callback, args)


cdef object stack_here():
    """The caller's stack, for `source_traceback`.  This module's own functions have no Python frames."""
    return format_helpers.extract_stack(sys._getframe(0))


cdef class Runnable:
    """What can stand in the ready queue."""

    cdef int run(self, Turn turn) except -1:
        """Do it.  What user code raises is reported, and only SystemExit and KeyboardInterrupt pass through."""
        return 0


cdef class Endpoint(Runnable):
    """Something that has operations in flight and user code to call when they complete."""

    cdef int wake_up(self) except -1:
        """Have `run` called in this turn: completions have left something to deliver."""
        if not self.queued:
            self.queued = True
            self.turn.push_arrived(self)
        return 0

    cdef int wants_flush(self) except -1:
        """Have `flush` called at the end of this turn."""
        if not self.written:
            self.written = True
            self.turn.add_dirty(self)
        return 0

    cdef int flush(self) except -1:
        """Submit what has been written since the last flush."""
        return 0

    cdef bint ending(self) noexcept:
        """Whether the only thing left to do is to end."""
        return False


@cython.no_gc
cdef class Handle(Runnable):
    """A callback in the ready queue; what `call_soon` returns.  The same as asyncio.Handle.

    Not seen by the garbage collector: a handle is in the loop's hands until it has run or was cancelled, and holds
    neither callback nor arguments afterwards, so no cycle goes through it.
    """

    cdef int run(self, Turn turn) except -1:
        cdef PyObject* result
        if self._cancelled:
            return 0
        callback = self._callback
        args = self._args
        context = self._context
        if enter_context(context) < 0:
            return turn.report(self, callback, args)
        result = PyObject_Call(callback, args, NULL)
        PyContext_Exit(context)
        if result != NULL:
            Py_DECREF_(result)
            return 0
        return turn.report(self, callback, args)

    cdef int drop(self) except -1:
        self._cancelled = True
        self._callback = None
        self._args = None
        return 0

    cdef int remember(self) except -1:
        """Debug mode, it has run: keep what to show of it, but not what it was called with."""
        if Py_REFCNT(self) > HELD_HERE and self._repr is None:
            self._repr = repr(self)
        self._callback = self._args = None
        return 0

    cdef bint debugging(self) noexcept:
        return self._loop is not None and self._loop._debug

    def cancel(self):
        """Keep the callback from being called.  Without effect once it has been."""
        if not self._cancelled:
            if self.debugging():
                self._repr = repr(self)
            self.drop()

    @property
    def __class__(self):
        # A C type can't inherit from asyncio.Handle; isinstance() asks here.
        return events.Handle

    def cancelled(self):
        """Whether `cancel` has been called."""
        return self._cancelled

    def get_context(self):
        """The contextvars.Context in which the callback runs."""
        return self._context

    def _run(self):
        if self._loop is not None:
            self.run(self._loop)

    def _repr_info(self):
        info = [type(self).__name__]
        if self._cancelled:
            info.append("cancelled")
        if self._callback is not None:
            info.append(describe(self._callback, self._args, self.debugging()))
        if self._source_traceback:
            frame = self._source_traceback[-1]
            info.append(f"created at {frame[0]}:{frame[1]}")
        return info

    def __repr__(self):
        if self._repr is not None:
            return self._repr
        return "<{}>".format(" ".join(self._repr_info()))


@cython.no_gc
cdef class TimerHandle(Handle):
    """A callback with a deadline; what `call_later` and `call_at` return.  The same as asyncio.TimerHandle."""

    cdef int drop(self) except -1:
        if self._scheduled:
            self._loop.timers_cancelled += 1
        return Handle.drop(self)

    @property
    def __class__(self):
        return events.TimerHandle

    def when(self):
        """The deadline in seconds of the loop's clock."""
        return self._when

    @property
    def _when(self):
        # As it was given: programs round deadlines up to whole seconds, and look for it.
        return int(self.deadline) if self.whole else self.deadline

    def _repr_info(self):
        info = Handle._repr_info(self)
        info.insert(2 if self._cancelled else 1, f"when={self._when}")
        return info

    def __hash__(self):
        return hash(self.deadline)

    def __richcmp__(self, other, int how):
        if not isinstance(other, TimerHandle):
            return NotImplemented
        cdef TimerHandle one = self, two = other
        if how in (0, 1):
            return one.deadline < two.deadline or (how == 1 and one.deadline == two.deadline)
        if how in (4, 5):
            return one.deadline > two.deadline or (how == 5 and one.deadline == two.deadline)
        same = (one.deadline == two.deadline and one._callback == two._callback and one._args == two._args
                and one._cancelled == two._cancelled)
        return same if how == 2 else not same


cdef class Turn:
    """What of an event loop runs once per turn.  `Loop` adds everything else."""

    def __cinit__(self, *args, **kwargs):
        self._closed = True  # until there is a page
        self.owned = {}

    def __dealloc__(self):
        self.forget_everything()
        queue_free(&self.ready)
        queue_free(&self.arrived)
        PyMem_Free(self.dirty)
        timers_free(&self.timers)

    def _use_page(self, Page page):
        self.page = page
        self.attributes = self.__dict__
        self.replaced_clock = type(self).time is not Turn.time
        self.flush_at = THREAD_FLUSH_AT if page.eager else OWN_FLUSH_AT

    def _forget_everything(self):
        self.forget_everything()

    cdef int forget_everything(self) except -1:
        """Drop all that waits to be run or flushed."""
        cdef Handle handle
        self.jobs = None
        self.drop_queue(&self.ready)
        self.drop_queue(&self.arrived)
        while self.timers.count:
            handle = <Handle> timers_pop(&self.timers)
            (<TimerHandle> handle)._scheduled = False
            handle._callback = handle._args = None
            Py_DECREF(handle)
        while self.spare_count:
            self.spare_count -= 1
            item = <object> self.spare[self.spare_count]
            Py_DECREF(item)
        while self.dirty_count:
            self.dirty_count -= 1
            item = <object> self.dirty[self.dirty_count]
            Py_DECREF(item)
        return 0

    cdef int drop_queue(self, flexsc_queue* queue) except -1:
        cdef void* taken
        while queue_count(queue):
            taken = queue_pop(queue)
            item = <object> taken
            Py_DECREF(item)
            if isinstance(item, Handle):
                (<Handle> item)._callback = (<Handle> item)._args = None
        return 0

    # ---- what is ready to run

    cdef int push(self, Handle handle) except -1:
        """Have a callback run in this turn or, if this turn's are being run already, in the next."""
        if not queue_push(&self.ready, <void*> handle):
            raise MemoryError
        Py_INCREF(handle)
        return 0

    cdef int push_arrived(self, Endpoint endpoint) except -1:
        if not queue_push(&self.arrived, <void*> endpoint):
            raise MemoryError
        Py_INCREF(endpoint)
        return 0

    cdef int run_arrived(self) except -1:
        """Run the callbacks that are due, then deliver what has arrived, then run what the deliveries have made due.

        In batches, because a program's code is larger than a CPU's first cache: parsing many requests and then
        answering them was measured up to a quarter faster than parsing and answering them one by one.
        """
        cdef size_t count = queue_count(&self.arrived)
        cdef size_t left
        cdef Endpoint endpoint
        cdef void* taken
        if queue_count(&self.ready):
            self.run_handles()
        left = queue_count(&self.ready)
        while count and queue_count(&self.arrived):
            count -= 1
            taken = queue_pop(&self.arrived)
            endpoint = <Endpoint> taken
            Py_DECREF(endpoint)
            if self._debug:
                self.run_slowly(endpoint)
            else:
                endpoint.run(self)
            self.publish_if_due()
        # What callbacks have made due waits for the next turn, and so does all after it, whatever has arrived.  A turn
        # after which the loop stops runs nothing that it has made due itself.
        if left == 0 and queue_count(&self.ready) and not self._stopping:
            self.run_handles()
        return 0

    cdef int run_handles(self) except -1:
        """Run what stands in the queue now; what is added meanwhile waits."""
        cdef size_t count = queue_count(&self.ready)
        cdef Handle handle
        cdef void* taken
        while count and queue_count(&self.ready):
            count -= 1
            taken = queue_pop(&self.ready)
            handle = <Handle> taken
            Py_DECREF(handle)
            if self._debug:
                self.run_slowly(handle)
                handle.remember()
            else:
                handle.run(self)
                if type(handle) is Handle:
                    self.retire(handle)
                else:
                    handle._callback = handle._args = None
            self.publish_if_due()
        return 0

    cdef int publish_if_due(self) except -1:
        """No reply waits for many others, a slow handler or much data; with an idle syscall thread, for nothing."""
        if self.dirty_count == 0:
            return 0
        if self.heavy:
            self.send_much()
        elif (self.dirty_count >= self.flush_at or ticks_now() - self.published_at > ticks_in_400_us()
                or (self.page.eager and self.page.hungry())):
            self.publish_now()
        return 0

    cdef bint at_leisure(self) noexcept:
        """Whether what is written now may as well be sent now: nobody else has written in this turn, or is about to.

        Not with a syscall thread, which would be given the first of several writes and the others only when it is done.
        """
        if not self.inside or self.dirty_count or queue_count(&self.arrived) or self.page.closed or self.page.away:
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
        self.heavy = False
        self.flush_dirty()
        self.page.publish()
        self.published_at = ticks_now()
        return 0

    cdef int retire(self, Handle handle) except -1:
        """A handle that has run: use it again if nobody else holds it."""
        handle._callback = handle._args = None
        if (Py_REFCNT(handle) == HELD_HERE and self.spare_count < SPARE_HANDLES and not has_weakrefs(handle)
                and handle._source_traceback is None and handle._repr is None):
            handle._context = handle._loop = None
            handle._cancelled = False
            Py_INCREF(handle)
            self.spare[self.spare_count] = <void*> handle
            self.spare_count += 1
        return 0

    cdef int run_slowly(self, Runnable item) except -1:
        """Debug mode: run, and complain when that took long."""
        cdef double start = monotonic()
        # asyncio's exception handler asks it for the place that it comes from.
        self._current_handle = item if isinstance(item, Handle) else None
        try:
            item.run(self)
        finally:
            self._current_handle = None
        took = monotonic() - start
        if took >= self.slow_callback_duration:
            named = base_events._format_handle(item) if isinstance(item, Handle) else repr(item)
            base_events.logger.warning("Executing %s took %.3f seconds", named, took)
        return 0

    cdef int report(self, object source, object callback, object args) except -1:
        """Hand the error that a callback has just raised to the exception handler."""
        try:
            raised()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            context = {
                "message": f"Exception in callback {describe(callback, args, self._debug)}",
                "exception": error,
                "handle": source,
            }
            if isinstance(source, Handle) and (<Handle> source)._source_traceback:
                context["source_traceback"] = (<Handle> source)._source_traceback
            self.call_exception_handler(context)
        return 0

    # ---- endpoints to flush

    cdef int add_dirty(self, Endpoint endpoint) except -1:
        cdef void** bigger
        if self.dirty_count == self.dirty_room:
            bigger = <void**> PyMem_Realloc(self.dirty, (2 * self.dirty_room + 64) * sizeof(void*))
            if bigger == NULL:
                raise MemoryError
            self.dirty = bigger
            self.dirty_room = 2 * self.dirty_room + 64
        Py_INCREF(endpoint)
        self.dirty[self.dirty_count] = <void*> endpoint
        self.dirty_count += 1
        return 0

    cdef int flush_dirty(self) except -1:
        cdef size_t at = 0, i
        cdef Endpoint endpoint
        self.sparse = self.dirty_count <= self.page.direct_most
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
            self.sparse = False
            # Only after an error is anything left to move down.
            for i in range(self.dirty_count - at):
                self.dirty[i] = self.dirty[at + i]
            self.dirty_count -= at
        return 0

    cdef int hand_over(self) except -1:
        """Jobs for other threads go last: whoever does them gets the GIL for a moment."""
        cdef Endpoint jobs = self.jobs
        self.jobs = None
        if not self.page.closed:
            self.page.publish()
        jobs.flush()
        return 0

    # ---- timers

    cdef double now(self) except? -1:
        """The loop's clock, which tests replace: by `loop.time = …`, or in a class of their own."""
        if self.replaced_clock or (self.attributes is not None and "time" in self.attributes):
            return self.time()
        return monotonic()

    cdef int due_timers(self) except -1:
        """Move timers whose time has come to the ready queue."""
        cdef TimerHandle handle
        cdef double now
        if self.timers_cancelled > TIMERS_WORTH_COMPACTING and 2 * self.timers_cancelled > self.timers.count:
            self.compact_timers()
        if self.timers.count == 0:
            return 0
        now = self.now() + CLOCK_RESOLUTION
        while self.timers.count and self.timers.heap[0].when <= now:
            handle = <TimerHandle> timers_pop(&self.timers)
            handle._scheduled = False
            if handle._cancelled:
                self.timers_cancelled -= 1
            else:
                self.push(handle)
            Py_DECREF(handle)
        return 0

    cdef int compact_timers(self) except -1:
        """Take cancelled timers out of the heap, all at once."""
        cdef size_t kept = 0, i
        cdef TimerHandle handle
        cdef size_t count = self.timers.count
        # Let go of after the heap is in order: what goes with a context may run code, and that set timers.
        cdef list dropped = []
        for i in range(count):
            handle = <TimerHandle> self.timers.heap[i].handle
            if handle._cancelled:
                handle._scheduled = False
                dropped.append(handle)
                Py_DECREF(handle)
            else:
                self.timers.heap[kept] = self.timers.heap[i]
                kept += 1
        self.timers.count = kept
        self.timers_cancelled = 0
        timers_rebuild(&self.timers)
        return 0

    cdef int64_t patience(self) except? -2:
        """How long the loop may sleep, in nanoseconds: 0 not at all, -1 without limit."""
        cdef double left
        if queue_count(&self.ready) or queue_count(&self.arrived) or self._stopping:
            return 0
        if self.timers.count == 0:
            return -1
        left = self.timers.heap[0].when - self.now()
        if left <= 0 or queue_count(&self.ready):
            # A clock in Python may let another thread run, and that one call `call_soon_threadsafe`.
            return 0
        if left > LONGEST_SLEEP:
            left = LONGEST_SLEEP
        return <int64_t> ceil(left * 1e9)

    # ---- the turn

    cdef int one_turn(self) except -1:
        cdef int64_t patience
        self.turns += 1
        self.prompt = 0
        if self.dirty_count:
            self.flush_dirty()
        if self.jobs is not None:
            self.hand_over()
        PyErr_CheckSignals()
        patience = self.patience()
        if patience != 0 or not self.page.idle():
            self.sleeping = patience != 0
            try:
                self.page.wait(patience)
            finally:
                self.sleeping = False
            self.page.reaped = self.page.reap()
            PyErr_CheckSignals()
        self.published_at = ticks_now()
        self.due_timers()
        return self.run_arrived()

    def _run_once(self):
        """One turn, for those who call this instead of `run_forever`."""
        self.page.bind()
        self.one_turn()

    def _run_turns(self):
        """Run turns until `_stopping` is set.  What was written goes out even if no further turn comes."""
        self.inside = True
        try:
            while True:
                self.one_turn()
                if self._stopping:
                    break
        finally:
            self.inside = False
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
        cdef void* taken
        while count and queue_count(&self.arrived):
            count -= 1
            taken = queue_pop(&self.arrived)
            endpoint = <Endpoint> taken
            Py_DECREF(endpoint)
            if endpoint.ending():
                endpoint.run(self)
            else:
                self.push_arrived(endpoint)
        return 0

    def _waiting_handles(self):
        """The handles in the ready queue, and those of the timers; for debuggers."""
        cdef size_t at
        return ([<object> self.ready.items[at & self.ready.mask] for at in range(self.ready.head, self.ready.tail)],
                [<object> self.timers.heap[at].handle for at in range(self.timers.count)])

    # ---- what asyncio calls

    cdef Handle soon(self, object callback, tuple args, object context):
        cdef Handle handle
        if self.spare_count:
            self.spare_count -= 1
            handle = <Handle> self.spare[self.spare_count]
            Py_DECREF(handle)
        else:
            handle = Handle.__new__(Handle)
        handle._loop = self
        handle._callback = callback
        handle._args = args
        handle._context = PyContext_CopyCurrent() if context is None else context
        self.push(handle)
        return handle

    def call_soon(self, callback, *args, context=None):
        """Have `callback(*args)` called in the next turn.  Source: asyncio.loop.call_soon."""
        cdef Handle handle
        if self._closed:
            self._check_closed()
        if self._debug:
            self._check_thread()
            self._check_callback(callback, "call_soon")
            handle = self.soon(callback, args, context)
            handle._source_traceback = stack_here()
            return handle
        return self.soon(callback, args, context)

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

    cdef TimerHandle at(self, double when, object callback, tuple args, object context):
        cdef TimerHandle handle = TimerHandle.__new__(TimerHandle)
        if self._closed:
            self._check_closed()
        handle._loop = self
        handle._callback = callback
        handle._args = args
        handle._context = PyContext_CopyCurrent() if context is None else context
        handle.deadline = when
        if not timers_push(&self.timers, when, <void*> handle):
            raise MemoryError
        Py_INCREF(handle)
        handle._scheduled = True
        if self._debug:
            handle._source_traceback = stack_here()
        return handle

    def call_later(self, delay, callback, *args, context=None):
        """Have `callback(*args)` called after `delay` seconds.  Source: asyncio.loop.call_later."""
        if delay is None:
            raise TypeError("delay must not be None")
        if self._debug:
            self._check_thread()
            self._check_callback(callback, "call_later")
        return self.at(self.now() + <double> delay, callback, args, context)

    def call_at(self, when, callback, *args, context=None):
        """Have `callback(*args)` called when the loop's clock shows `when`.  Source: asyncio.loop.call_at."""
        if when is None:
            raise TypeError("when cannot be None")
        if self._debug:
            self._check_thread()
            self._check_callback(callback, "call_at")
        cdef TimerHandle handle = self.at(<double> when, callback, args, context)
        handle.whole = isinstance(when, int)
        return handle

    def _timer_handle_cancelled(self, handle):
        """asyncio's own timer handles would call this; ours count for themselves."""

    def time(self):
        """Seconds of the loop's clock, CLOCK_MONOTONIC."""
        return monotonic()

    def get_debug(self):
        """Whether debug mode is on."""
        return self._debug

    def create_future(self):
        """A future of this loop."""
        return Future(loop=self)

    def create_task(self, coro, *, name=None, context=None, **kwargs):
        """Run a coroutine in a task.  Source: asyncio.loop.create_task."""
        if self._closed:
            self._check_closed()
        if self._task_factory is not None:
            return base_events.BaseEventLoop.create_task(self, coro, name=name, context=context, **kwargs)
        if kwargs:
            return Task(coro, loop=self, name=name, context=context, **kwargs)
        if context is None:
            return Task(coro, loop=self, name=name)
        return Task(coro, loop=self, name=name, context=context)
