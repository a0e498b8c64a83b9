from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF
from libc.stdint cimport uint32_t

from flexsc_loop.syscalls.stats cimport flexsc_stats


cdef extern from "running.h":
    struct flexsc_names:
        pass

    struct flexsc_fields:
        pass

    struct flexsc_running:
        pass

    void running_learn(flexsc_fields* fields, PyObject* step, PyObject* task, PyObject* coro, PyObject* name) noexcept
    void running_learn_partial(flexsc_fields* fields, PyObject* partial, PyObject* function) noexcept
    flexsc_running running_key(const flexsc_fields* fields, PyObject* callback) noexcept
    void running_is(flexsc_stats* stats, flexsc_names* names, flexsc_running what) noexcept
    void running_forget(flexsc_names* names) noexcept


cdef extern from "queue.h":
    struct flexsc_queue:
        void** items
        size_t head
        size_t tail
        size_t mask

    size_t queue_count(const flexsc_queue* queue) noexcept
    bint queue_push(flexsc_queue* queue, void* item) noexcept
    void* queue_peek(const flexsc_queue* queue, size_t ahead) noexcept
    void* queue_pop(flexsc_queue* queue) noexcept
    object queue_take "queue_pop"(flexsc_queue* queue)   # with the reference that it had
    void queue_free(flexsc_queue* queue) noexcept


cdef extern from "numbers.h":
    struct flexsc_numbers:
        pass

    uint32_t numbers_take(flexsc_numbers* numbers) noexcept
    void numbers_give(flexsc_numbers* numbers, uint32_t number) noexcept


cdef enum:
    SPARE_HANDLES = 512


cdef class Handle:
    cdef readonly Callbacks _loop
    cdef readonly object _callback
    cdef readonly object _args
    cdef readonly object _context
    cdef readonly bint _cancelled
    cdef public object _source_traceback
    cdef object _repr
    cdef object __weakref__

    cdef int run(self, Callbacks loop) except -1
    cdef int drop(self) except -1
    cdef int remember(self) except -1
    cdef bint debugging(self) noexcept


cdef class TimerHandle(Handle):
    cdef double deadline
    cdef bint whole
    cdef public bint _scheduled


cdef class EndingHandle(Handle):
    pass


cdef class Callbacks:
    cdef flexsc_stats stats            # what can be looked at while the loop runs
    cdef uint32_t number               # which no other loop has; 0: none any more
    cdef flexsc_names names            # of callbacks, in the stats page
    cdef flexsc_fields fields          # what is known of tasks and partials
    cdef flexsc_queue ready            # Handles to run, each with one reference
    cdef void* spare[SPARE_HANDLES]    # handles that have run and are nobody's, each with one reference
    cdef size_t spare_count
    cdef dict times                    # that `loop.stats()` has told of
    cdef size_t timers_cancelled       # of those that are scheduled
    cdef bint instrumented             # one of the two that follow is not None
    cdef object run_instead            # what a tool has put in the place of asyncio.Handle._run; None: nothing
    cdef object run_timer_instead      # likewise asyncio.TimerHandle._run
    cdef unsigned int run_version      # of asyncio.TimerHandle when it was looked for
    cdef public bint _closed
    cdef public bint _debug
    cdef public object _current_handle

    cdef void free_number(self) noexcept
    cdef int learn(self) except -1
    cdef void count(self) noexcept
    cdef int push(self, Handle handle) except -1
    cdef int run_handles(self, flexsc_queue* queue, size_t count) except -1
    cdef int ran(self) except -1
    cdef int run_slowly(self, Handle handle) except -1
    cdef int complain_if_slow(self, double start, object what) except -1
    cdef int look_for_tools(self) except -1
    cdef int retire(self, Handle handle) except -1
    cdef int soon_end(self, object callback) except -1
    cdef int run_endings_in_line(self) except -1
    cdef Handle new_handle(self, object callback, tuple args, object context)
    cdef Handle soon(self, object callback, tuple args, object context)
    cdef int report(self, object source, object callback, object args) except -1
    cdef int drop_handles(self) except -1


cdef inline int queue_put(flexsc_queue* queue, object item) except -1:
    """Add an object, with a reference to it."""
    if not queue_push(queue, <void*> item):
        raise MemoryError
    Py_INCREF(item)
    return 0


cdef int call_in(object context, object callback, object argument) except -1
cdef int call_method_in(object context, object function, object instance, object argument) except -1
cdef object stack_here()
cdef double monotonic() noexcept nogil
