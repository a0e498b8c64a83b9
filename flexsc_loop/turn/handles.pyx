# cython: language_level=3, cdivision=True, binding=False, embedsignature=True, embedsignature.format=clinic
"""Floor 3: callbacks that are due, in their order.

Owns: the ready queue, the handles that stand in it, what happens to an error of a callback, and what is counted and
shown of the loop.  Imports: stats; of asyncio only what makes its messages the same.
"""
import functools
import sys
from asyncio import base_events, events, format_helpers, tasks
from types import FunctionType

cimport cython
from cpython.contextvars cimport PyContext_CopyCurrent, PyContext_Enter, PyContext_Exit
from cpython.object cimport Py_EQ, Py_GE, Py_GT, Py_LE, Py_LT, PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport uint64_t

from flexsc_loop.syscalls.cpython_extra cimport Py_DECREF_, VECTORCALL_OFFSET
from flexsc_loop.syscalls.stats cimport (
    flexsc_counts, stats_close, stats_count_name, stats_open, stats_text, stats_tick_ns,
)


cdef extern from "Python.h":
    int enter_context "PyContext_Enter"(object context) noexcept
    PyObject* PyObject_Call(object callable, object args, PyObject* kwargs)
    Py_ssize_t Py_REFCNT(object)
    PyObject* PyObject_CallOneArg(object callable, object argument)
    PyObject* vectorcall "PyObject_Vectorcall"(object callable, PyObject** arguments, size_t count, PyObject* names)


cdef extern from "<time.h>" nogil:
    struct timespec:
        long tv_sec
        long tv_nsec
    int clock_gettime(int clock, timespec* now)
    enum: CLOCK_MONOTONIC


cdef extern from *:
    """
    static inline int has_weakrefs(PyObject *object)
    {
        return *(PyObject **)((char *)object + Py_TYPE(object)->tp_weaklistoffset) != NULL;
    }

    /* Another number whenever an attribute of the class, or of one that it inherits from, has been replaced; 0: ask. */
    static inline unsigned int version_of(PyObject *type)
    {
        return ((PyTypeObject *)type)->tp_version_tag;
    }
    """
    bint has_weakrefs(object) noexcept
    unsigned int version_of(object) noexcept


cdef enum:
    HELD_HERE = 1                # references to a handle that only the function running it has


cdef dict SHOWN_AS = {
    "busy": "busy_ns", "asleep": "asleep_ns", "in_calls": "in_calls_ns", "job_wait": "job_wait_ns",
    "streams": "connections",
}
cdef str python_version = sys.version.partition(" ")[0]
# Of this process's loops.  A number is given again, so that what is told by number does not become more and more
# where a program makes a loop for each of its jobs.
cdef flexsc_numbers numbers
cdef object BaseHandle = events.Handle
cdef object BaseTimerHandle = events.TimerHandle


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


cdef int call_method_in(object context, object function, object instance, object argument) except -1:
    """Call `function(instance, argument)` in `context`."""
    cdef PyObject* arguments[3]
    cdef PyObject* result
    arguments[0] = NULL
    arguments[1] = <PyObject*> instance
    arguments[2] = <PyObject*> argument
    PyContext_Enter(context)
    result = vectorcall(function, &arguments[1], 2 | VECTORCALL_OFFSET, NULL)
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


cdef object replaced_run(object handle_class):
    """What somebody has put in the place of the `_run` of asyncio's class, or None."""
    run = handle_class._run
    if type(run) is FunctionType and run.__globals__ is vars(events):
        return None
    return run


@cython.no_gc
cdef class Handle:
    """A callback in the ready queue; what `call_soon` returns.  The same as asyncio.Handle.

    Not seen by the garbage collector: a handle is in the loop's hands until it has run or was cancelled, and holds
    neither callback nor arguments afterwards, so no cycle goes through it.
    """

    cdef int run(self, Callbacks loop) except -1:
        """Call back.  An error is reported; only SystemExit and KeyboardInterrupt pass through."""
        cdef PyObject* result
        if self._cancelled:
            return 0
        callback = self._callback
        args = self._args
        context = self._context
        if enter_context(context) < 0:
            return loop.report(self, callback, args)
        result = PyObject_Call(callback, args, NULL)
        PyContext_Exit(context)
        if result != NULL:
            Py_DECREF_(result)
            return 0
        return loop.report(self, callback, args)

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
        return BaseHandle

    def __reduce__(self):
        raise TypeError(f"cannot pickle {type(self).__name__!r} instances")

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
        return BaseTimerHandle

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
        if how == Py_LT or how == Py_LE:
            return one.deadline < two.deadline or (how == Py_LE and one.deadline == two.deadline)
        if how == Py_GT or how == Py_GE:
            return one.deadline > two.deadline or (how == Py_GE and one.deadline == two.deadline)
        same = (one.deadline == two.deadline and one._callback == two._callback and one._args == two._args
                and one._cancelled == two._cancelled)
        return same if how == Py_EQ else not same


@cython.no_gc
cdef class EndingHandle(Handle):
    """The end of an endpoint, in line with the callbacks."""


class _Steps:
    """As much of a loop as a task needs that never runs."""

    def get_debug(self):
        return False

    def call_soon(self, callback, *args, context=None):
        self.first = callback


cdef class Callbacks:
    """The ready queue, and the running of what stands in it."""

    def __cinit__(self, *args, **kwargs):
        self._closed = True  # until there is a page
        self.times = {}
        self.number = numbers_take(&numbers)
        if not self.number or not stats_open(&self.stats, self.number):
            raise MemoryError

    def __dealloc__(self):
        self.free_number()
        self.drop_handles()
        queue_free(&self.ready)
        running_forget(&self.names)
        stats_close(&self.stats)

    cdef void free_number(self) noexcept:
        """The loop is closed: another one may have its number."""
        if self.number:
            numbers_give(&numbers, self.number)
            self.number = 0

    cdef int learn(self) except -1:
        """Find out how to see what a task runs, and a partial calls; see running.h."""
        # One of Python's own kind, which those of this module are not; the name is nobody else's.
        coro = tasks.sleep(0)
        coro.__qualname__ = name = "".join(["kno", "wn"])
        steps = _Steps()
        task = tasks.Task(coro, loop=steps, name="known")
        task._log_destroy_pending = False
        running_learn(&self.fields, <PyObject*> steps.first, <PyObject*> task, <PyObject*> coro, <PyObject*> name)
        partial = functools.partial(steps.call_soon)
        running_learn_partial(&self.fields, <PyObject*> partial, <PyObject*> partial.func)
        steps.first = None
        del task
        coro.close()
        return 0

    cdef int push(self, Handle handle) except -1:
        """Have a callback run in this turn or, if this turn's are being run already, in the next."""
        return queue_put(&self.ready, handle)

    cdef int run_handles(self, flexsc_queue* queue, size_t count) except -1:
        """Run the first `count` in the queue."""
        cdef Handle handle
        while count and queue_count(queue):
            count -= 1
            handle = <Handle> queue_take(queue)
            self.stats.counts.callbacks += 1
            running_is(&self.stats, &self.names, running_key(&self.fields, <PyObject*> handle._callback))
            if self._debug or self.instrumented:
                self.run_slowly(handle)
            else:
                handle.run(self)
                if type(handle) is Handle:
                    self.retire(handle)
                else:
                    handle._callback = handle._args = None
            self.ran()
        return 0

    cdef int ran(self) except -1:
        """Called after each callback."""
        return 0

    cdef int run_slowly(self, Handle handle) except -1:
        """Run as tools and debug mode want it."""
        cdef double start = monotonic()
        cdef object instead = self.run_timer_instead if type(handle) is TimerHandle else self.run_instead
        # asyncio's exception handler asks it for the place that it comes from.
        self._current_handle = handle if self._debug else None
        try:
            if instead is None:
                handle.run(self)
            elif not handle._cancelled:
                instead(handle)
        finally:
            self._current_handle = None
        if self._debug:
            self.complain_if_slow(start, handle)
            return handle.remember()
        handle._callback = handle._args = None
        return 0

    cdef int complain_if_slow(self, double start, object what) except -1:
        took = monotonic() - start
        if took >= self.slow_callback_duration:
            named = base_events._format_handle(what) if isinstance(what, Handle) else repr(what)
            base_events.logger.warning("Executing %s took %.3f seconds", named, took)
        return 0

    cdef int look_for_tools(self) except -1:
        """Some replace asyncio.Handle._run to see each callback.  Asked for each turn: it costs a comparison."""
        cdef unsigned int version = version_of(BaseTimerHandle)
        if version == self.run_version and version != 0:
            return 0
        self.run_instead = replaced_run(BaseHandle)
        self.run_timer_instead = replaced_run(BaseTimerHandle)
        self.instrumented = self.run_instead is not None or self.run_timer_instead is not None
        self.run_version = version_of(BaseTimerHandle)
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

    cdef int report(self, object source, object callback, object args) except -1:
        """Hand the error that a callback has just raised to the exception handler."""
        try:
            raised()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            if isinstance(error.__context__, (SystemExit, KeyboardInterrupt)) and events._get_running_loop() is None:
                # In a forked child.  There, since Python 3.14, leaving the task fails, and hides why it was left.
                raise error.__context__
            context = {
                "message": f"Exception in callback {describe(callback, args, self._debug)}",
                "exception": error,
                "handle": source,
            }
            if isinstance(source, Handle) and (<Handle> source)._source_traceback:
                context["source_traceback"] = (<Handle> source)._source_traceback
            self.call_exception_handler(context)
        return 0

    cdef int drop_handles(self) except -1:
        """Let go of what waits to be run, and of what has."""
        while queue_count(&self.ready):
            handle = queue_take(&self.ready)
            (<Handle> handle)._callback = (<Handle> handle)._args = None
        while self.spare_count:
            self.spare_count -= 1
            handle = <object> self.spare[self.spare_count]
            Py_DECREF(handle)
        return 0

    # ---- what can be looked at

    cdef void count(self) noexcept:
        """Bring the counts up to date."""

    def _show_choice(self, str pages, cpu, str reason):
        """Tell who looks at the stats page what serves this loop, and why."""
        page = self.stats.page
        page.cpu = -2 if cpu is None else cpu
        stats_text(page.pages, sizeof(page.pages), pages.encode())
        stats_text(page.python, sizeof(page.python), python_version.encode())
        stats_text(page.reason, sizeof(page.reason), reason.encode(errors="replace"))

    def _counters(self):
        """What has been counted, for `loop.stats()`."""
        cdef size_t at
        cdef dict found = {}
        cdef const uint64_t* counts = <const uint64_t*> &self.stats.counts
        self.count()
        for at in range(sizeof(flexsc_counts) // sizeof(uint64_t)):
            name = stats_count_name(at).decode()
            shown = SHOWN_AS.get(name, name)
            value = counts[at]
            if shown.endswith("_ns"):
                # How long a tick is becomes known better and better, but no time may shrink.
                value = max(int(value * stats_tick_ns(&self.stats)), self.times.get(shown, 0))
                self.times[shown] = value
            found[shown] = value
        return found

    # ---- what asyncio calls

    cdef Handle new_handle(self, object callback, tuple args, object context):
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
        return handle

    cdef int soon_end(self, object callback) except -1:
        """As `soon`, for the end of an endpoint: it may also be called when the loop stops."""
        cdef EndingHandle handle = EndingHandle.__new__(EndingHandle)
        handle._loop = self
        handle._callback = callback
        handle._args = ()
        handle._context = PyContext_CopyCurrent()
        return self.push(handle)

    cdef int run_endings_in_line(self) except -1:
        """The loop stops: run the ends of endpoints that have no other callback before them."""
        cdef size_t count = queue_count(&self.ready)
        cdef Handle handle
        while count and queue_count(&self.ready) and type(<Handle> queue_peek(&self.ready, 0)) is EndingHandle:
            count -= 1
            handle = <Handle> queue_take(&self.ready)
            handle.run(self)
            handle._callback = handle._args = None
        return 0

    cdef Handle soon(self, object callback, tuple args, object context):
        cdef Handle handle = self.new_handle(callback, args, context)
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

    def get_debug(self):
        """Whether debug mode is on."""
        return self._debug
