# cython: language_level=3, cdivision=True
"""Floor 3: the default executor: blocking calls made by other threads, served as a syscall page is.

Owns: the queue of jobs, the threads that work on it (workers.h), and the way of results back into the loop.
Imports: turn, workers.h; concurrent.futures for what programs see.

One worker is active at a time, since more would only fight for the GIL.  The next one is called when the active one
is stuck: when no job has begun or ended for some 100 us, because one blocks or computes for long.  The loop hands the jobs of
a turn over together when all else of that turn is under way, and waits for a moment, as the thread that runs user code
does in FlexSC when it has nothing else to do: short jobs are done then, without a fight for the GIL and without a wake-up.
"""
import os
import threading
import weakref
from asyncio import base_events
from asyncio.exceptions import CancelledError, InvalidStateError
from concurrent import futures
from concurrent.futures import thread as futures_thread

cimport cython
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport int64_t, uint32_t, uint64_t

from flexsc_loop.turn.turn cimport (
    Endpoint, Turn, flexsc_queue, queue_count, queue_free, queue_pop, queue_push,
)


cdef extern from "Python.h":
    PyObject* PyObject_Call(object callable, object args, PyObject* kwargs) except NULL


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

    int64_t crew_now_ns()
    bint worker_order(flexsc_worker* worker, uint32_t orders)
    void worker_wake(flexsc_worker* worker)
    uint32_t worker_orders(flexsc_worker* worker)
    uint32_t worker_stand_by(flexsc_crew* crew, flexsc_worker* me)
    void crew_set_queued(flexsc_crew* crew, size_t count)
    void crew_set_untold(flexsc_crew* crew, bint untold)
    void crew_set_waiting(flexsc_crew* crew, bint waiting)
    void crew_set_stuck_ns(flexsc_crew* crew, uint32_t ns)
    uint32_t crew_stuck_ns(flexsc_crew* crew)
    void crew_linger(flexsc_crew* crew, flexsc_worker* me)
    void crew_call(flexsc_crew* crew, int change)
    uint32_t crew_called(flexsc_crew* crew)
    void crew_progress(flexsc_crew* crew)
    bint crew_keep(flexsc_crew* crew)
    void crew_published(flexsc_crew* crew)
    void crew_release_loop(flexsc_crew* crew)
    await_outcome crew_await(flexsc_crew* crew, flexsc_worker* wake)


cdef enum:
    MOST_WORKERS = 128           # threads at most, if nobody says how many: they are made only when others block
    YIELD_NS = 1_000_000         # a worker lets go of the GIL after so much time with jobs that never do
    MOST_SKIPPED = 255           # hand-overs without a wait, while jobs are known to block


@cython.no_gc
@cython.freelist(256)
cdef class Job:
    """A call to be made by a worker, and then its result.

    Not seen by the garbage collector: it is in the queue or in a worker's hands until it has run, and holds what it
    called no longer then.
    """
    cdef object func, args, kwargs
    cdef object future               # asyncio's if there is `home`, else one of concurrent.futures
    cdef Jobs home                   # the loop's side of it
    cdef object result
    cdef object error
    cdef bint cancelled

    cdef int run(self) except -1:
        """Make the call, unless it was cancelled."""
        cdef object func = self.func, args = self.args, kwargs = self.kwargs
        self.func = self.args = self.kwargs = None
        if self.home is None:
            return self.run_concurrent(func, args, kwargs)
        if self.future.cancelled():
            return 0
        try:
            self.result = call(func, args, kwargs)
        except BaseException as error:
            self.error = error
        func = args = kwargs = None
        return self.home.take_back(self)

    cdef int run_concurrent(self, object func, object args, object kwargs) except -1:
        future = self.future
        self.future = None
        if not future.set_running_or_notify_cancel():
            return 0
        try:
            result = call(func, args, kwargs)
        except BaseException as error:
            func = args = kwargs = None
            future.set_exception(error)
        else:
            func = args = kwargs = None
            future.set_result(result)
        return 0

    cdef int cancel(self) except -1:
        """It was taken out of the queue and will not run."""
        self.func = self.args = self.kwargs = None
        if self.home is None:
            self.future.cancel()
            self.future.set_running_or_notify_cancel()
            return 0
        self.cancelled = True
        return self.home.take_back(self)

    cdef int fail(self, object error) except -1:
        """It was taken out of the queue and can't run."""
        self.func = self.args = self.kwargs = None
        if self.home is None:
            if self.future.set_running_or_notify_cancel():
                self.future.set_exception(error)
            return 0
        self.error = error
        return self.home.take_back(self)

    cdef int deliver(self) except -1:
        """In the loop: complete the future."""
        future = self.future
        error = self.error
        result = self.result
        self.future = self.error = self.result = None
        try:
            if error is not None:
                future.set_exception(as_asyncio_raises(error))
            elif self.cancelled:
                future.cancel()
            else:
                future.set_result(result)
        except InvalidStateError:
            pass  # cancelled meanwhile
        return 0


cdef object call(object func, object args, object kwargs):
    cdef PyObject* result = PyObject_Call(func, args, NULL if kwargs is None else <PyObject*> kwargs)
    value = <object> result
    Py_DECREF(value)
    return value


cdef object as_asyncio_raises(object error):
    """What a future of asyncio can hold in the place of what a job has raised."""
    if isinstance(error, StopIteration):
        stopped = RuntimeError("StopIteration interacts badly with generators and cannot be raised into a Future")
        stopped.__cause__ = error
        return stopped
    if type(error) is futures.CancelledError:
        return CancelledError(*error.args)
    if type(error) is futures.InvalidStateError:
        return InvalidStateError(*error.args)
    return error


cdef class Worker:
    """What its colleagues know of a thread."""
    cdef flexsc_worker words
    cdef uint64_t epoch              # of the crew, when it last joined those who work


cdef class Port:
    """The end of the crew that looks like a queue: what monitors ask, and what the interpreter's exit is told by."""
    cdef Crew crew

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
    cdef Jobs untold                 # has results of which its sleeping loop does not know
    cdef unsigned int generation     # counts forks

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
        if self.count == 0:
            self.hire(ORDER_REST)
        return 0

    cdef int add(self, Job job) except -1:
        if not queue_push(&self.queue, <void*> job):
            raise MemoryError
        Py_INCREF(job)
        crew_set_queued(&self.words, queue_count(&self.queue))
        return 0

    cdef Job take(self):
        cdef void* taken = queue_pop(&self.queue)
        cdef Job job = <Job> taken
        Py_DECREF(job)
        crew_set_queued(&self.words, queue_count(&self.queue))
        return job

    cdef int publish(self) except -1:
        """See to it that what is queued gets done."""
        cdef Worker called = self.prepare()
        if called is not None:
            worker_wake(&called.words)
        return 0

    cdef Worker prepare(self):
        """As `publish`; returns a worker that is still to be woken, or None."""
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
        """Order somebody to work; returns whom it is left to the caller to wake, if anybody."""
        cdef Worker worker = None
        self.running += 1
        self.since = crew_now_ns()
        crew_call(&self.words, 1)
        if self.idle:
            worker = self.idle.pop()
        elif self.watcher is not None:
            worker, self.watcher = self.watcher, None
        else:
            if not self.try_to_hire(ORDER_WORK):
                self.running -= 1
                crew_call(&self.words, -1)
            return None
        worker.epoch = self.epoch
        worker_order(&worker.words, ORDER_WORK)
        return worker

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
        return crew_called(&self.words) == 0 and crew_now_ns() - self.since >= STUCK_NS

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
        cdef bint release = False
        if not at_work and self.watcher is not me:
            self.rest(me)
        while True:
            if at_work:
                self.work(me, generation)
                if generation != self.generation:
                    return 0
                self.running -= 1
                self.tell()
                release = self.running == 0
                if self.ending and queue_count(&self.queue) == 0:
                    crew_release_loop(&self.words)
                    return self.dismiss()
                self.rest(me)
            with nogil:
                if release:
                    crew_release_loop(&self.words)
                worker_stand_by(&self.words, &me.words)
            release = False
            at_work = self.may_work(me)

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
        self.since = crew_now_ns()
        if queue_count(&self.queue) > 1:
            self.watch()
        return True

    cdef int work(self, Worker me, unsigned int generation) except -1:
        """Do jobs until none is left, or until others suffice."""
        cdef Job job
        cdef int64_t yielded = crew_now_ns()
        if me.epoch != self.epoch:
            self.join_again(me)
        while queue_count(&self.queue):
            job = self.take()
            self.since = crew_now_ns()
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
                yielded = crew_now_ns()
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
        return 0

    cdef int tell(self) except -1:
        """Wake the loop if it sleeps and there are results for it."""
        cdef Jobs home = self.untold
        if home is not None:
            self.untold = None
            crew_set_untold(&self.words, False)
            home.rouse()
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
            self.running += 1
            worker.epoch = self.epoch
            crew_call(&self.words, 1)
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
        crew_set_waiting(&self.words, False)
        crew_published(&self.words)


class Executor(futures.ThreadPoolExecutor):
    """A ThreadPoolExecutor whose threads take turns.

    max_workers: how many threads there may be (None: 128; they are started only when the others block), the other
    arguments as those of concurrent.futures.ThreadPoolExecutor, and all that it promises holds.
    """

    def __init__(self, max_workers=None, thread_name_prefix="", initializer=None, initargs=(), **kwargs):
        if max_workers is None:
            max_workers = MOST_WORKERS
        super().__init__(max_workers, thread_name_prefix, initializer, initargs, **kwargs)
        cdef Crew crew = Crew.__new__(Crew)
        crew.owner = weakref.ref(self)
        crew.threads = self._threads
        crew.prefix = self._thread_name_prefix
        crew.initializer = initializer
        crew.initargs = initargs
        crew.most = max_workers
        self._work_queue = crew.port
        self._crew = crew

    def submit(self, fn, /, *args, **kwargs):
        """Have `fn(*args, **kwargs)` called by a worker; returns a concurrent.futures.Future."""
        cdef Crew crew = self._crew
        cdef Job job
        crew.check()
        job = Job.__new__(Job)
        job.func = fn
        job.args = args
        job.kwargs = kwargs or None
        future = job.future = futures.Future()
        crew.add(job)
        crew.publish()
        return future

    def shutdown(self, wait=True, *, cancel_futures=False):
        """Take no more jobs.  wait: return when all are done; cancel_futures: drop those that have not begun."""
        cdef Crew crew = self._crew
        self._shutdown = True
        if cancel_futures:
            crew.cancel_all()
        crew.end()
        if wait:
            joined = set()
            while left := crew.threads - joined:
                for thread in left:
                    thread.join()
                joined |= left

    def _forget(self):
        """This process is a forked child: begin anew, without the parent's threads and jobs."""
        self._crew.forget()

    def __del__(self):
        crew = getattr(self, "_crew", None)
        if crew is not None:
            crew.end()


cdef class Jobs(Endpoint):
    """The loop's side of its default executor: what it hands over, and what comes back."""
    cdef Crew crew
    cdef readonly object executor
    cdef list results
    cdef unsigned int skip, backoff  # hand-overs that are not waited for: still to come, and how many the last time

    def __init__(self, Turn turn, executor):
        self.turn = turn
        self.executor = executor
        self.crew = executor._crew
        self.results = []

    cdef object start(self, object func, tuple args):
        """Have `func(*args)` called; returns an asyncio future."""
        cdef Job job
        self.crew.check()
        job = Job.__new__(Job)
        job.func = func
        job.args = args
        job.home = self
        future = job.future = self.turn.create_future()
        self.crew.add(job)
        if not self.turn.inside or self.turn.sleeping:
            self.crew.publish()
            return future
        self.turn.jobs = self
        if not crew_keep(&self.crew.words):
            self.crew.publish()
        return future

    cdef int flush(self) except -1:
        """Hand the jobs of this turn over, and wait for a moment: the workers need the GIL to do them."""
        cdef Crew crew = self.crew
        cdef Worker called
        cdef flexsc_worker* wake = NULL
        cdef await_outcome outcome
        if queue_count(&crew.queue) == 0:
            crew_published(&crew.words)
            return 0
        if self.skip:
            self.skip -= 1
            return crew.publish()
        crew_set_waiting(&crew.words, True)
        crew_published(&crew.words)
        if crew.running and crew.stuck():
            crew.overtake()
        if crew.running == 0:
            called = crew.call_worker()
            wake = NULL if called is None else &called.words
        if crew.running:
            with nogil:
                outcome = crew_await(&crew.words, wake)
        else:
            outcome = AWAIT_BUSY
        crew_set_waiting(&crew.words, False)
        if outcome == AWAIT_DONE:
            self.backoff = 0
            return 0
        if outcome == AWAIT_STUCK:
            self.backoff = self.skip = min(2 * self.backoff + 1, <unsigned int> MOST_SKIPPED)
            if crew.running and crew.stuck():
                crew.overtake()
        return crew.publish()

    cdef int take_back(self, Job job) except -1:
        """A worker has done a job of ours."""
        if self.turn._closed:
            return 0
        self.results.append(job)
        self.wake_up()
        if self.turn.sleeping and self.crew.untold is None:
            self.crew.untold = self
            crew_set_untold(&self.crew.words, True)
        return 0

    cdef int rouse(self) except -1:
        """There are results."""
        if self.turn.sleeping:
            self.turn.sleeping = False
            self.turn.page.wake()
        return 0

    cdef int run(self, Turn turn) except -1:
        cdef list results = self.results
        self.queued = False
        self.results = []
        for job in results:
            (<Job> job).deliver()
        return 0


class Executors:
    """The part of an event loop that has a default executor."""

    _jobs = None

    def run_in_executor(self, executor, func, *args):
        """Have `func(*args)` called in another thread.  Source: asyncio.loop.run_in_executor."""
        cdef Turn turn = self
        cdef Jobs jobs = self._jobs
        if executor is not None or turn._closed or self._executor_shutdown_called:
            return base_events.BaseEventLoop.run_in_executor(self, executor, func, *args)
        executor = self._default_executor
        if executor is None:
            executor = self._default_executor = Executor(thread_name_prefix="asyncio")
            jobs = self._jobs = Jobs(self, executor)
        if jobs is None or jobs.executor is not executor:
            return base_events.BaseEventLoop.run_in_executor(self, None, func, *args)
        if turn._debug:
            self._check_callback(func, "run_in_executor")
        return jobs.start(func, args)
