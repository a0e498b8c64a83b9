from libc.stdint cimport int64_t, uint64_t, uint8_t

from flexsc_loop.syscalls.interest cimport InterestList
from flexsc_loop.syscalls.operation cimport Operation
from flexsc_loop.syscalls.page cimport Page
from flexsc_loop.syscalls.stats cimport flexsc_stats
from flexsc_loop.turn.handles cimport flexsc_queue
from flexsc_loop.turn.timers cimport Timers


cdef extern from "watchdog.h":
    struct flexsc_watchdog:
        pass

    flexsc_watchdog* watchdog_start(flexsc_stats* stats, int64_t limit_ns, int signal, int fd) noexcept
    void watchdog_stop(flexsc_watchdog* dog) noexcept


cdef class Endpoint(Operation):
    cdef Turn turn
    cdef uint8_t queued              # stands in the queue of those that have arrived
    cdef uint8_t written             # stands in the list of endpoints to flush
    cdef object __weakref__

    cdef int run(self, Turn turn) except -1
    cdef int cut_short(self) except -1
    cdef int wake_up(self) except -1
    cdef int wants_flush(self) except -1
    cdef int flush(self) except -1
    cdef object shown(self)
    cdef bint ending(self) noexcept


cdef class Turn(Timers):
    cdef readonly Page page
    cdef readonly InterestList interests     # waits on descriptors that the loop does not own
    cdef flexsc_queue arrived        # Endpoints that have something to deliver, likewise
    cdef void** dirty                # endpoints to flush, each with one reference
    cdef size_t dirty_count, dirty_room
    cdef bint sparse                 # while flushing: so few endpoints are written to that each may call for itself
    cdef unsigned int prompt         # writes of this turn that were sent at once
    cdef bint flushing               # in `flush_dirty`
    cdef bint heavy                  # much has been written
    cdef bint warned                 # is told of calls that block, from now on
    cdef bint always_at_once         # each write is sent when it is made: the program wants it so
    cdef uint64_t credit, credit_most    # ticks with nothing to do, to be spent on sending when a write is made
    cdef uint64_t published_at       # ticks of the last time that entries were handed over
    cdef size_t endings              # endpoints that were closed and have not ended yet
    cdef size_t chains               # of linked sends, in flight
    cdef size_t flush_at             # so many written-to endpoints are flushed at once
    cdef object pilot                # decides who serves the page; None: that is settled
    cdef uint64_t look_at, looked_at     # ticks of its next look, and of the last one
    cdef uint64_t late_most              # a syscall thread that is so late, in ticks, is looked at now
    cdef bint steered                # it must look even if nothing happens
    cdef uint64_t waited             # ticks since its last look in which the loop could have slept
    cdef object hub                  # of green threads; None: there were none
    cdef Endpoint jobs               # has jobs for other threads, to hand over when all else of this turn is under way
    cdef unsigned job_rounds         # so many turns in a row have gone on with what such jobs have given
    cdef bint inside                 # in `_run_turns`,
    cdef unsigned long runner        # by this thread
    cdef bint sleeping               # under the GIL: the loop's thread has let it go in order to sleep
    cdef public bint _stopping
    cdef readonly uint64_t turns
    cdef flexsc_watchdog* watchdog   # NULL: there is none
    cdef list owners                 # by fd: the transport or server that has taken it over, or None
    cdef list spare_sends            # operations that have sent: one that is used again is in the cache
    cdef bytes last_name, last_peer  # sockaddrs of the latest connection: those of the next one are often the same
    cdef public object _task_factory

    cdef object owner_of(self, int fd)
    cdef int own(self, int fd, object owner) except -1
    cdef int push_arrived(self, Endpoint endpoint) except -1
    cdef void end_watchdog(self) noexcept
    cdef int one_turn(self) except -1
    cdef int run_all(self) except -1
    cdef int run_arrived(self, size_t count) except -1
    cdef Endpoint first_arrived(self)
    cdef int take_first(self) except -1
    cdef int run_endpoint(self, Endpoint endpoint) except -1
    cdef int run_endpoint_slowly(self, Endpoint endpoint) except -1
    cdef int drop_endpoints(self) except -1
    cdef int publish_if_due(self) except -1
    cdef int publish_now(self) except -1
    cdef bint sends_at_once(self, bint alone) except? False
    cdef bint at_leisure(self) noexcept
    cdef int send_much(self) except -1
    cdef int send_all(self) except -1
    cdef int run_endings(self) except -1
    cdef int64_t patience(self) except? -2
    cdef int flush_dirty(self, bint plainly=*) except -1
    cdef bint hand_over(self) except -1
    cdef int consult(self, uint64_t now) except -1
    cdef int let_others_run(self) except -1
    cdef int rouse(self) except -1
    cdef int add_dirty(self, Endpoint endpoint) except -1
