from libc.stdint cimport int64_t, uint32_t, uint64_t

from flexsc_loop.turn.handles cimport flexsc_queue
from flexsc_loop.turn.turn cimport Turn


cdef extern from "workers.h" nogil:
    enum:
        ORDER_REST
        ORDER_WORK
        ORDER_WATCH
        STUCK_NS
        STUCK_LEAST_NS

    enum await_outcome:
        AWAIT_DONE
        AWAIT_STUCK
        AWAIT_BUSY

    struct flexsc_worker:
        pass

    struct flexsc_crew:
        pass

    bint worker_order(flexsc_worker* worker, uint32_t orders)
    bint worker_wake(flexsc_worker* worker)
    void worker_spins(flexsc_crew* crew, flexsc_worker* me)
    uint32_t worker_orders(flexsc_worker* worker)
    uint32_t worker_stand_by(flexsc_crew* crew, flexsc_worker* me)
    void crew_set_queued(flexsc_crew* crew, size_t count)
    void crew_set_untold(flexsc_crew* crew, bint untold)
    void crew_begin_await(flexsc_crew* crew)
    void crew_end_await(flexsc_crew* crew)
    void crew_set_stuck_ns(flexsc_crew* crew, uint32_t ns)
    uint32_t crew_stuck_ns(flexsc_crew* crew)
    void crew_linger(flexsc_crew* crew, flexsc_worker* me)
    void crew_call(flexsc_crew* crew, int change)
    uint32_t crew_called(flexsc_crew* crew)
    void crew_progress(flexsc_crew* crew)
    bint crew_keep(flexsc_crew* crew)
    void crew_published(flexsc_crew* crew)
    void crew_release_loop(flexsc_crew* crew)
    await_outcome crew_await(flexsc_crew* crew, flexsc_worker* worker, size_t jobs)


cdef class Job:
    cdef object func, args, kwargs
    cdef object future

    cdef int run(self) except -1
    cdef int cancel(self) except -1
    cdef int fail(self, object error) except -1
    cdef object call(self)


cdef class Worker:
    cdef flexsc_worker words
    cdef uint64_t epoch              # of the crew, when it last joined those who work


cdef class Port:
    cdef Crew crew


cdef class Crew:
    cdef flexsc_crew words
    cdef flexsc_queue queue          # Jobs, each with one reference
    cdef object owner                # weak reference to the executor
    cdef set threads                 # the executor's
    cdef object prefix, initializer, initargs
    cdef Port port
    cdef list idle                   # Workers, the last one lingers
    cdef Worker watcher
    cdef Py_ssize_t most, count      # threads: how many may be, how many there are
    cdef Py_ssize_t running
    cdef uint64_t epoch              # counts how often those who worked were overtaken
    cdef int64_t since               # when the last job was begun
    cdef bint ending
    cdef object broken
    cdef Turn untold                 # sleeps and does not know that there are results
    cdef unsigned int generation     # counts forks

    cdef int check(self) except -1
    cdef int add(self, Job job) except -1
    cdef int begin(self, Job first) except -1
    cdef Job take(self)
    cdef int publish(self) except -1
    cdef Worker prepare(self)
    cdef Worker call_worker(self)
    cdef int expect(self) except -1
    cdef int expect_no_longer(self) except -1
    cdef int watch(self) except -1
    cdef bint try_to_hire(self, uint32_t orders) except -1
    cdef int hire(self, uint32_t orders) except -1
    cdef bint stuck(self) noexcept
    cdef int overtake(self) except -1
    cdef int arrive(self, Worker me) except -1
    cdef bint initialize(self, Worker me) except -1
    cdef int serve(self, Worker me, unsigned int generation, bint at_work) except -1
    cdef bint may_work(self, Worker me) except -1
    cdef int work(self, Worker me, unsigned int generation) except -1
    cdef int join_again(self, Worker me) except -1
    cdef int rest(self, Worker me) except -1
    cdef int tell(self) except -1
    cdef list take_all(self)
    cdef int dismiss(self) except -1
