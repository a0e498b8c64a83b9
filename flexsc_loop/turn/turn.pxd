from libc.stdint cimport int64_t, uint64_t

from flexsc_loop.syscalls.page cimport Page


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
    void queue_free(flexsc_queue* queue) noexcept


cdef extern from "timers.h":
    struct flexsc_timer:
        double when
        uint64_t order
        void* handle

    struct flexsc_timers:
        flexsc_timer* heap
        size_t count

    bint timers_push(flexsc_timers* timers, double when, void* handle) noexcept
    void* timers_pop(flexsc_timers* timers) noexcept
    void timers_rebuild(flexsc_timers* timers) noexcept
    void timers_free(flexsc_timers* timers) noexcept


cdef extern from "ticks.h":
    uint64_t ticks_now() noexcept
    uint64_t ticks_in_400_us() noexcept


cdef enum:
    SPARE_HANDLES = 512


cdef class Runnable:
    cdef int run(self, Turn turn) except -1


cdef class Endpoint(Runnable):
    cdef Turn turn
    cdef bint queued                 # stands in the queue of those that have arrived
    cdef bint written                # stands in the list of endpoints to flush
    cdef object __weakref__

    cdef int wake_up(self) except -1
    cdef int wants_flush(self) except -1
    cdef int flush(self) except -1
    cdef bint ending(self) noexcept


cdef class Handle(Runnable):
    cdef readonly Turn _loop
    cdef readonly object _callback
    cdef readonly object _args
    cdef readonly object _context
    cdef readonly bint _cancelled
    cdef public object _source_traceback
    cdef object _repr
    cdef object __weakref__

    cdef int drop(self) except -1
    cdef int remember(self) except -1
    cdef bint debugging(self) noexcept


cdef class TimerHandle(Handle):
    cdef double deadline
    cdef bint whole
    cdef public bint _scheduled


cdef class Turn:
    cdef readonly Page page
    cdef flexsc_queue ready          # Handles to run, each with one reference
    cdef flexsc_queue arrived        # Endpoints that have something to deliver, likewise
    cdef void* spare[SPARE_HANDLES]   # handles that have run and are nobody's, each with one reference
    cdef size_t spare_count
    cdef flexsc_timers timers
    cdef size_t timers_cancelled
    cdef void** dirty                # endpoints to flush, each with one reference
    cdef size_t dirty_count, dirty_room
    cdef bint sparse                 # while flushing: so few endpoints are written to that each may call for itself
    cdef unsigned int prompt         # writes of this turn that were sent at once
    cdef bint heavy                  # much has been written
    cdef uint64_t published_at       # ticks of the last time that entries were handed over
    cdef size_t endings              # endpoints that were closed and have not ended yet
    cdef size_t chains               # of linked sends, in flight
    cdef dict attributes             # the loop's __dict__
    cdef bint replaced_clock         # a subclass has a `time` of its own
    cdef size_t flush_at             # so many written-to endpoints are flushed at once
    cdef Endpoint jobs               # has jobs for other threads, to hand over when all else of this turn is under way
    cdef bint inside                 # in `_run_turns`
    cdef bint sleeping               # under the GIL: the loop's thread has let it go in order to sleep
    cdef public bint _stopping
    cdef public bint _closed
    cdef public bint _debug
    cdef public object _current_handle
    cdef readonly uint64_t turns
    cdef readonly dict owned         # fd -> transport or server that has taken the fd over
    cdef public object _task_factory

    cdef int push(self, Handle handle) except -1
    cdef int push_arrived(self, Endpoint endpoint) except -1
    cdef int one_turn(self) except -1
    cdef int run_arrived(self) except -1
    cdef int run_handles(self) except -1
    cdef int publish_if_due(self) except -1
    cdef int publish_now(self) except -1
    cdef bint at_leisure(self) noexcept
    cdef int send_much(self) except -1
    cdef int send_all(self) except -1
    cdef int run_endings(self) except -1
    cdef int drop_queue(self, flexsc_queue* queue) except -1
    cdef int run_slowly(self, Runnable item) except -1
    cdef int retire(self, Handle handle) except -1
    cdef int due_timers(self) except -1
    cdef int compact_timers(self) except -1
    cdef double now(self) except? -1
    cdef int64_t patience(self) except? -2
    cdef int flush_dirty(self) except -1
    cdef int hand_over(self) except -1
    cdef int let_others_run(self) except -1
    cdef int rouse(self) except -1
    cdef int add_dirty(self, Endpoint endpoint) except -1
    cdef int forget_everything(self) except -1
    cdef TimerHandle at(self, double when, object callback, tuple args, object context)
    cdef Handle soon(self, object callback, tuple args, object context)
    cdef int report(self, object source, object callback, object args) except -1


cdef int call_in(object context, object callback, object argument) except -1
cdef object stack_here()
cdef double monotonic() noexcept nogil
