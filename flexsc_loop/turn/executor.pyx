# cython: language_level=3, cdivision=True
"""Floor 3: the default executor: blocking calls made by other threads, served as a syscall page is.

Owns: the way of jobs from the loop to the crew, and of results back.  Imports: turn, crew; concurrent.futures for what
programs see; of asyncio what its executors are.

The loop hands the jobs of a turn over together when all else of that turn is under way, and waits for a moment, as the
thread that runs user code does in FlexSC when it has nothing else to do: short jobs are done then, without a fight for
the GIL and without a wake-up.
"""
import _thread
import weakref
from asyncio import base_events
from asyncio.exceptions import CancelledError, InvalidStateError
from concurrent import futures
from types import BuiltinFunctionType

cimport cython
from libc.stdint cimport uint64_t

from flexsc_loop.syscalls.page cimport ticks_now
from flexsc_loop.turn.crew cimport (
    AWAIT_BUSY, AWAIT_DONE, AWAIT_STUCK, Crew, Job, Worker, await_outcome, crew_await, crew_begin_await, crew_end_await,
    crew_keep, crew_published, crew_set_untold, flexsc_worker,
)
from flexsc_loop.turn.handles cimport queue_count
from flexsc_loop.turn.turn cimport Endpoint, Turn


cdef enum:
    MOST_WORKERS = 128           # threads at most, if nobody says how many: they are made only when others block
    MOST_SKIPPED = 255           # hand-overs without a wait, while jobs are known to block


@cython.no_gc
cdef class LoopJob(Job):
    """A job with an asyncio future, which is completed in the loop."""
    cdef Jobs home
    cdef object result
    cdef object error
    cdef bint cancelled
    cdef uint64_t since              # ticks of its submission, then how many it has waited

    cdef int run(self) except -1:
        self.since = ticks_now() - self.since
        if self.future.cancelled():
            self.func = self.args = None
            return 0
        try:
            self.result = self.call()
        except BaseException as error:
            self.error = error
        return self.home.take_back(self)

    cdef int cancel(self) except -1:
        self.func = self.args = None
        self.cancelled = True
        return self.home.take_back(self)

    cdef int fail(self, object error) except -1:
        self.func = self.args = None
        self.error = error
        return self.home.take_back(self)

    cdef int deliver(self) except -1:
        """In the loop: complete the future."""
        self.home.turn.stats.counts.jobs_done += 1
        if not self.cancelled:
            self.home.turn.stats.counts.job_wait += self.since
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
        cdef LoopJob job
        self.crew.check()
        job = LoopJob.__new__(LoopJob)
        job.func = func
        job.args = args
        job.home = self
        job.since = ticks_now()
        future = job.future = self.turn.create_future()
        self.crew.add(job)
        self.turn.stats.counts.jobs += 1
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
        cdef size_t jobs = queue_count(&crew.queue)
        cdef await_outcome outcome
        if jobs == 0:
            crew_published(&crew.words)
            return 0
        if self.skip:
            self.skip -= 1
            return crew.publish()
        crew_begin_await(&crew.words)
        crew_published(&crew.words)
        if crew.running == 0:
            called = crew.call_worker()
            wake = NULL if called is None else &called.words
        if crew.running:
            with nogil:
                outcome = crew_await(&crew.words, wake, jobs)
        else:
            outcome = AWAIT_BUSY
        crew_end_await(&crew.words)
        if outcome == AWAIT_DONE:
            self.backoff = 0
        elif outcome == AWAIT_STUCK:
            self.backoff = self.skip = min(2 * self.backoff + 1, <unsigned int> MOST_SKIPPED)
            if crew.running and crew.stuck():
                crew.overtake()
        # Also when all was said to be done: that may have been a late word about an earlier batch.
        return crew.publish()

    cdef int take_back(self, LoopJob job) except -1:
        """A worker has done a job of ours."""
        if self.turn._closed:
            return 0
        self.results.append(job)
        self.wake_up()
        if self.turn.sleeping and self.crew.untold is None:
            self.crew.untold = self.turn
            crew_set_untold(&self.crew.words, True)
        return 0

    cdef int run(self, Turn turn) except -1:
        cdef list results = self.results
        self.queued = False
        self.results = []
        for job in results:
            (<LoopJob> job).deliver()
        return 0


cdef int refuse_green_threads() except -1:
    """A green thread runs only while the one that it shares a thread with waits in a selector: this loop never does.

    Ours (flexsc_loop.threads) are another matter: to the loop they start real ones.
    """
    if type(_thread.start_new_thread) is not BuiltinFunctionType and not hasattr(_thread.start_new_thread, "_flexsc"):
        raise RuntimeError(
            "threads have been replaced by green ones (gevent's monkey.patch_all(), say), which never run while this "
            "loop does: call patch_all(thread=False, queue=False), or run asyncio's own loop")
    return 0


class Executors:
    """The part of an event loop that has a default executor."""

    _jobs = None

    def run_in_executor(self, executor, func, *args):
        """Have `func(*args)` called in another thread.  Source: asyncio.loop.run_in_executor.

        Raises RuntimeError if threads have been replaced by green ones, which would never run.
        """
        cdef Turn turn = self
        cdef Jobs jobs = self._jobs
        refuse_green_threads()
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
