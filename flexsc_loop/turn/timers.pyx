# cython: language_level=3, cdivision=True, binding=False, embedsignature=True, embedsignature.format=clinic
"""Floor 3: callbacks with a deadline.

Owns: the heap of timers, the loop's clock.  Imports: handles.
"""
from cpython.contextvars cimport PyContext_CopyCurrent
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.math cimport ceil
from libc.stdint cimport int64_t

from flexsc_loop.turn.handles cimport (
    Callbacks, Handle, TimerHandle, monotonic, queue_count, queue_free, queue_put, queue_take, stack_here,
)


cdef enum:
    WORTH_COMPACTING = 100       # cancelled timers
    NO_TIMER = -1                # what `until_timer` says


cdef double LONGEST_SLEEP = 24 * 3600.0
cdef double CLOCK_RESOLUTION = 1e-9
cdef double NS_PER_SECOND = 1e9


cdef class Timers(Callbacks):
    """The ready queue, and timers that move there when their time has come."""

    def __dealloc__(self):
        self.drop_timers()
        timers_free(&self.timers)
        queue_free(&self.due)

    cdef int drop_timers(self) except -1:
        cdef TimerHandle handle
        while self.timers.count:
            handle = <TimerHandle> timers_pop(&self.timers)
            handle._scheduled = False
            handle._callback = handle._args = None
            Py_DECREF(handle)
        while queue_count(&self.due):
            handle = <TimerHandle> queue_take(&self.due)
            handle._callback = handle._args = None
        return 0

    cdef double now(self) except? -1:
        """The loop's clock, which tests replace: by `loop.time = …`, or in a class of their own."""
        if self.replaced_clock or (self.attributes is not None and "time" in self.attributes):
            return self.time()
        return monotonic()

    cdef int due_timers(self, bint later) except -1:
        """Move timers whose time has come to the ready queue; `later`: to that of those whose turn comes later."""
        cdef TimerHandle handle
        cdef double now
        self.late = 0
        while queue_count(&self.due):
            # An exit has left the turn before.
            self.push(<Handle> queue_take(&self.due))
        if self.timers_cancelled > WORTH_COMPACTING and 2 * self.timers_cancelled > self.timers.count:
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
                if self.late == 0:
                    self.late = now - handle.deadline
                self.stats.counts.timers_run += 1
                queue_put(&self.due, handle) if later else self.push(handle)
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

    cdef int64_t until_timer(self) except? -2:
        """Nanoseconds until a timer or a callback is due: 0 for now, -1 if there is none."""
        cdef double left
        if queue_count(&self.ready) or queue_count(&self.due):
            return 0
        if self.timers.count == 0:
            return NO_TIMER
        left = self.timers.heap[0].when - self.now()
        if left <= 0 or queue_count(&self.ready):
            # A clock in Python may let another thread run, and that one call `call_soon_threadsafe`.
            return 0
        return <int64_t> ceil(min(left, LONGEST_SLEEP) * NS_PER_SECOND)

    # ---- what asyncio calls

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
