# cython: language_level=3, cdivision=True
"""Floor 3: threads that take turns at making blocking calls, as FlexSC's syscall threads do.

Owns: the queue of jobs and the threads that work on it (workers.h).  Imports: turn, to wake a
loop; concurrent.futures.

One worker is active at a time, since more would only fight for the GIL.  The next one is called when the active one is
stuck: when no job has begun or ended for some 100 us, because one blocks or computes for long.
"""
import threading
from concurrent import futures
from concurrent.futures import thread as futures_thread

cimport cython
from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint32_t

from flexsc_loop.syscalls.cpython_extra cimport Py_DECREF_
from flexsc_loop.syscalls.page cimport flexsc_now_ns
from flexsc_loop.turn.handles cimport queue_count, queue_free, queue_put, queue_take
from flexsc_loop.turn.turn cimport Turn


cdef extern from "Python.h":
    PyObject* PyObject_Call(object callable, object args, PyObject* kwargs) except NULL


cdef enum:
    YIELD_NS = 1_000_000         # a worker lets go of the GIL after so much time with jobs that never do


@cython.no_gc
@cython.freelist(256)
cdef class Job:
    """A call to be made by a worker, and the concurrent.futures.Future of its result.

    Not seen by the garbage collector: it is in the queue or in a worker's hands until it has run, and holds what it
    called no longer then.
    """

    cdef int run(self) except -1:
        """Make the call, unless it was cancelled."""
        future = self.future
        self.future = None
        if not future.set_running_or_notify_cancel():
            self.func = self.args = self.kwargs = None
            return 0
        try:
            result = self.call()
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(result)
        return 0

    cdef object call(self):
        cdef object func = self.func, args = self.args, kwargs = self.kwargs
        cdef PyObject* result
        self.func = self.args = self.kwargs = None
        result = PyObject_Call(func, args, NULL if kwargs is None else <PyObject*> kwargs)
        value = <object> result
        Py_DECREF_(result)
        return value

    cdef int cancel(self) except -1:
        """It was taken out of the queue and will not run."""
        self.func = self.args = self.kwargs = None
        self.future.cancel()
        self.future.set_running_or_notify_cancel()
        return 0

    cdef int fail(self, object error) except -1:
        """It was taken out of the queue and can't run."""
        self.func = self.args = self.kwargs = None
        if self.future.set_running_or_notify_cancel():
            self.future.set_exception(error)
        return 0


cdef class Worker:
    """What its colleagues know of a thread."""


cdef class Port:
    """The end of the crew that looks like a queue: what monitors ask, and what the interpreter's exit is told by."""

    def qsize(self):
        """How many jobs wait for a worker."""
        return queue_count(&self.crew.queue)

    def empty(self):
        """Whether no job waits for a worker."""
        return queue_count(&self.crew.queue) == 0

    def put(self, item):
        """The interpreter exits: do what is queued, and end."""
        if item is not None:
            raise TypeError("jobs are submitted to the executor, not put into its queue")
        self.crew.end()


cdef class Crew:
    """The workers of one executor and the jobs that wait for them.  Outlives the executor until all are done.

    Of the threads each is one of these: at work (counted in `running`); overtaken (stuck in a job; it joins those who
    work again when it comes out); the watcher, which looks without the GIL whether those who work get on, and takes
    over if not; idle.
    """
    def __cinit__(self):
        self.idle = []
        self.port = Port.__new__(Port)
        self.port.crew = self
        crew_set_stuck_ns(&self.words, STUCK_NS)

    def __dealloc__(self):
        queue_free(&self.queue)

    # ---- jobs come

    cdef int check(self) except -1:
        """Refuse jobs that nobody would do."""
        if self.broken:
            raise futures_thread.BrokenThreadPool(self.broken)
        if self.ending and not futures_thread._shutdown:
            raise RuntimeError("cannot schedule new futures after shutdown")
        if futures_thread._shutdown:
            raise RuntimeError("cannot schedule new futures after interpreter shutdown")
        return 0

    cdef int add(self, Job job) except -1:
        """Queue a job; `publish` must follow.  The first one starts the first thread, or is refused."""
        queue_put(&self.queue, job)
        crew_set_queued(&self.words, queue_count(&self.queue))
        if self.count == 0:
            self.begin(job)
        return 0

    cdef int begin(self, Job first) except -1:
        self.expect()
        try:
            self.hire(ORDER_WORK)
        except BaseException as error:
            self.expect_no_longer()
            for job in self.take_all():
                if job is not first:  # other threads have come meanwhile
                    (<Job> job).fail(error)
            self.tell()
            raise
        return 0

    cdef Job take(self):
        cdef Job job = <Job> queue_take(&self.queue)
        crew_set_queued(&self.words, queue_count(&self.queue))
        return job

    cdef int publish(self) except -1:
        """See to it that what is queued gets done."""
        cdef Worker called = self.prepare()
        if called is not None:
            worker_order(&called.words, ORDER_WORK)
            worker_wake(&called.words)
        return 0

    cdef Worker prepare(self):
        """As `publish`; returns a worker that is still to be ordered to work, or None."""
        cdef size_t left = queue_count(&self.queue)
        cdef Worker called = None
        crew_published(&self.words)
        if left and self.running and self.stuck():
            self.overtake()
        if left and self.running == 0:
            called = self.call_worker()
            left -= 1
        if left:
            self.watch()
        return called

    # ---- who does them

    cdef Worker call_worker(self):
        """Choose somebody to work; returns whom it is left to the caller to order to, if anybody."""
        cdef Worker worker = None
        self.expect()
        if self.idle:
            worker = self.idle.pop()
        elif self.watcher is not None:
            worker, self.watcher = self.watcher, None
        else:
            if not self.try_to_hire(ORDER_WORK):
                self.expect_no_longer()
            return None
        worker.epoch = self.epoch
        return worker

    cdef int expect(self) except -1:
        """Somebody gets orders to work.  Until he comes nobody is stuck."""
        self.running += 1
        self.since = flexsc_now_ns()
        crew_call(&self.words, 1)
        return 0

    cdef int expect_no_longer(self) except -1:
        self.running -= 1
        crew_call(&self.words, -1)
        return 0

    cdef int watch(self) except -1:
        """Have somebody look whether those who work get on."""
        if self.watcher is None:
            if not self.idle:
                return self.try_to_hire(ORDER_WATCH)
            self.watcher = self.idle.pop()
        if worker_order(&self.watcher.words, ORDER_WATCH):
            worker_wake(&self.watcher.words)
        return 0

    cdef bint try_to_hire(self, uint32_t orders) except -1:
        """Start one more thread.  If that can't be done, whoever comes back from a job goes on with the next."""
        if self.count >= self.most:
            return False
        try:
            self.hire(orders)
        except (RuntimeError, MemoryError, OSError):
            return False
        return True

    cdef int hire(self, uint32_t orders) except -1:
        """Start one more thread.  Raises what threading does if it can't.  Lets go of the GIL meanwhile."""
        cdef Worker worker = Worker.__new__(Worker)
        worker.epoch = self.epoch
        worker_order(&worker.words, orders)
        if orders == ORDER_WATCH:
            self.watcher = worker
        self.count += 1
        try:
            with futures_thread._global_shutdown_lock:
                if futures_thread._shutdown:
                    raise RuntimeError("can't start a new thread at interpreter shutdown")
                thread = threading.Thread(
                    name=f"{self.prefix}_{self.count - 1}", target=self._serve, args=(worker, self.generation))
                # A real one, even where green ones have taken their place (flexsc_loop.threads).
                thread._real = True
                thread.start()
                self.threads.add(thread)
                futures_thread._threads_queues[thread] = self.port
        except BaseException:
            self.count -= 1
            if self.watcher is worker:
                self.watcher = None
            raise
        return 0

    cdef bint stuck(self) noexcept:
        """Whether those who work have not got on for long."""
        return crew_called(&self.words) == 0 and flexsc_now_ns() - self.since >= STUCK_NS

    cdef int overtake(self) except -1:
        """Those who work are stuck: count on them no longer.  The next time look sooner."""
        self.epoch += 1
        self.running = 0
        crew_set_stuck_ns(&self.words, max(crew_stuck_ns(&self.words) // 2, <uint32_t> STUCK_LEAST_NS))
        return 0

    # ---- what a worker does

    def _serve(self, Worker me, unsigned int generation):
        cdef bint at_work = worker_orders(&me.words) == ORDER_WORK
        try:
            if at_work:
                self.arrive(me)
            if self.initializer is None or self.initialize(me):
                self.serve(me, generation, at_work)
        except BaseException:
            futures._base.LOGGER.critical("Exception in worker", exc_info=True)

    cdef int arrive(self, Worker me) except -1:
        """Orders to work have been received."""
        crew_call(&self.words, -1)
        worker_order(&me.words, ORDER_REST)
        return 0

    cdef bint initialize(self, Worker me) except -1:
        """Call the initializer; if that fails, nothing can be done by this crew any more."""
        try:
            self.initializer(*self.initargs)
            return True
        except BaseException:
            futures._base.LOGGER.critical("Exception in initializer:", exc_info=True)
        self.broken = "A thread initializer failed, the thread pool is not usable anymore"
        executor = self.owner()
        if executor is not None:
            executor._broken = self.broken
        self.ending = True
        for job in self.take_all():
            (<Job> job).fail(futures_thread.BrokenThreadPool(self.broken))
        self.tell()
        if self.watcher is me:
            self.watcher = None
        self.dismiss()
        return False

    cdef int serve(self, Worker me, unsigned int generation, bint at_work) except -1:
        # A watcher may have been called while it was started: it is none any more, and has to come before it rests.
        cdef bint release = False, resting = at_work
        while True:
            if at_work:
                self.work(me, generation)
                if generation != self.generation:
                    return 0
                self.running -= 1
                self.tell()
                release = self.running == 0
            if resting:
                if self.ending and queue_count(&self.queue) == 0:
                    crew_release_loop(&self.words)
                    return self.dismiss()
                self.rest(me)
            with nogil:
                if release:
                    crew_release_loop(&self.words)
                    worker_spins(&self.words, &me.words)
                worker_stand_by(&self.words, &me.words)
            release = False
            at_work = resting = self.may_work(me)

    cdef bint may_work(self, Worker me) except -1:
        """Join those who work, if there are such orders or nobody else gets on."""
        cdef bint was_stuck
        if worker_orders(&me.words) == ORDER_WORK:
            self.arrive(me)
            return True
        if queue_count(&self.queue) == 0:
            self.tell()
            return False
        was_stuck = self.running != 0 and self.stuck()
        if self.running and not was_stuck:
            if me is not self.watcher and self.watcher is None and me in self.idle:
                # The loop kept jobs for long, and somebody is at work: see that he gets on.
                self.idle.remove(me)
                self.watcher = me
                worker_order(&me.words, ORDER_WATCH)
            return False
        if me is self.watcher:
            self.watcher = None
        elif me in self.idle:
            self.idle.remove(me)
        else:
            return False
        worker_order(&me.words, ORDER_REST)
        crew_published(&self.words)
        if was_stuck:
            self.tell()
            self.overtake()
        self.running += 1
        me.epoch = self.epoch
        self.since = flexsc_now_ns()
        if queue_count(&self.queue) > 1:
            self.watch()
        return True

    cdef int work(self, Worker me, unsigned int generation) except -1:
        """Do jobs until none is left, or until others suffice."""
        cdef Job job
        cdef int64_t yielded = flexsc_now_ns()
        if me.epoch != self.epoch:
            self.join_again(me)
        while queue_count(&self.queue):
            job = self.take()
            self.since = flexsc_now_ns()
            crew_progress(&self.words)
            try:
                job.run()
            except BaseException:
                futures._base.LOGGER.critical("Exception in worker", exc_info=True)
            job = None
            crew_progress(&self.words)
            if generation != self.generation:
                return 0  # the job has forked, and this is the child
            if me.epoch != self.epoch:
                self.join_again(me)
            elif self.running > 1:
                break
            if self.since - yielded > YIELD_NS:
                with nogil:
                    pass
                yielded = flexsc_now_ns()
        if queue_count(&self.queue) == 0:
            crew_set_stuck_ns(&self.words, STUCK_NS)
        return 0

    cdef int join_again(self, Worker me) except -1:
        """It was overtaken, and is out of that job now."""
        me.epoch = self.epoch
        self.running += 1
        return 0

    cdef int rest(self, Worker me) except -1:
        """Become idle, and look after kept jobs for a while; or become the watcher if one is needed."""
        if queue_count(&self.queue) and self.watcher is None:
            self.watcher = me
            worker_order(&me.words, ORDER_WATCH)
            return 0
        self.idle.append(me)
        crew_linger(&self.words, &me.words)
        if queue_count(&self.queue):
            self.watch()
        return 0

    cdef int tell(self) except -1:
        """Wake the loop if it sleeps and there are results for it."""
        cdef Turn turn = self.untold
        if turn is not None:
            self.untold = None
            crew_set_untold(&self.words, False)
            turn.rouse()
        return 0

    # ---- the end

    cdef list take_all(self):
        cdef list jobs = []
        while queue_count(&self.queue):
            jobs.append(self.take())
        return jobs

    def cancel_all(self):
        """Cancel what is queued."""
        for job in self.take_all():
            (<Job> job).cancel()
        self.tell()

    def end(self):
        """Take no more jobs; threads end when all are done."""
        self.ending = True
        if queue_count(&self.queue):
            self.publish()
        else:
            self.dismiss()

    cdef int dismiss(self) except -1:
        """All is done: let those go who have nothing to do."""
        cdef Worker worker
        if self.watcher is not None:
            self.idle.append(self.watcher)
            self.watcher = None
        while self.idle:
            worker = self.idle.pop()
            self.expect()
            worker.epoch = self.epoch
            worker_order(&worker.words, ORDER_WORK)
            worker_wake(&worker.words)
        return 0

    def forget(self):
        """This process is a forked child: threads and jobs are the parent's."""
        self.generation += 1
        self.take_all()
        self.idle = []
        self.watcher = None
        self.untold = None
        self.count = self.running = 0
        self.threads.clear()
        crew_call(&self.words, -<int> crew_called(&self.words))
        crew_linger(&self.words, NULL)
        crew_set_untold(&self.words, False)
        crew_end_await(&self.words)
        crew_published(&self.words)
