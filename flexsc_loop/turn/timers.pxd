from libc.stdint cimport int64_t, uint64_t

from flexsc_loop.turn.handles cimport Callbacks, TimerHandle, flexsc_queue


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


cdef class Timers(Callbacks):
    cdef double late                 # seconds that the earliest of those which were due has waited
    cdef flexsc_timers timers        # TimerHandles, each with one reference
    cdef flexsc_queue due            # those whose turn comes after what has arrived, likewise
    cdef dict attributes             # the loop's __dict__
    cdef bint replaced_clock         # a subclass has a `time` of its own

    cdef double now(self) except? -1
    cdef int due_timers(self, bint later) except -1
    cdef int compact_timers(self) except -1
    cdef int64_t until_timer(self) except? -2
    cdef TimerHandle at(self, double when, object callback, tuple args, object context)
    cdef int drop_timers(self) except -1
