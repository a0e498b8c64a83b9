# cython: language_level=3, cdivision=True
"""Floor 5: green threads, and how they wait.

Owns: which green thread runs in this thread, and when which one is resumed.  Imports: page, turn; greenlet, by the
table of functions that it exports.  What they wait for is next door: descriptors, locks, sockets.

A green thread is a greenlet that the loop's greenlet, the *hub*, resumes as it delivers to any endpoint.  A call that
would block becomes an entry of the page, or an interest in a descriptor; the thread switches to the next one that is
ready, or back to the hub, and the call's completion has it resumed in the same turn, without a future, a task or a
handle in between.  What the green threads of one turn have asked for is handed over together.
"""
import asyncio
import contextvars
import os
import sys
import time
import weakref
from operator import index

from cpython.object cimport PyObject
from cpython.pycapsule cimport PyCapsule_Import
from cpython.pythread cimport PyThread_get_thread_ident
from cpython.ref cimport _Py_REFCNT
from libc.stdint cimport int64_t, uint32_t, uint64_t

from flexsc_loop.syscalls.kernel_page cimport KernelPage
from flexsc_loop.syscalls.page cimport Page
from flexsc_loop.syscalls.stats cimport stats_less
from flexsc_loop.turn.handles cimport queue_count
from flexsc_loop.turn.turn cimport Endpoint, Turn

try:
    import greenlet
except ImportError:
    raise ImportError("flexsc_loop.threads needs greenlet: python -m pip install 'flexsc_loop[threads]'") from None

cdef extern from "thread_state.h":
    PyObject* running_thread
    PyObject* forking_thread
    ctypedef struct hooks_of_generators:
        pass

    void forget_after_fork()
    hooks_of_generators take_hooks() noexcept
    void give_hooks(hooks_of_generators hooks) noexcept

cdef extern from "tick_count.h" nogil:
    uint64_t ticks_now()
    uint64_t ticks_in_us(uint32_t microseconds)

cdef enum:
    TURN_US = 5000               # as long as the interpreter lets a real thread run: sys.getswitchinterval()
    RESUMED_MOST = 512           # in one turn, past the loop; or as many as are ready when it begins
    FEW = 2                      # so few are ready: what they send is sent when they ask for it
    SHORT_US = 10                # and, on a user page, of those that run for less than that on average
    PAUSE_US = 200               # more than that between two of them is no work
    SLEEP_MOST = 9200000000      # seconds that fit into as many nanoseconds as Python's clocks count

# Positions in greenlet's table.  Source: greenlet.h.
cdef enum:
    GET_CURRENT = 4
    SWITCH = 6
    SET_PARENT = 7

ctypedef object (*current_function)()
ctypedef object (*switch_function)(PyObject* who, PyObject* args, PyObject* kwargs)
ctypedef int (*parent_function)(PyObject* who, PyObject* parent) except -1

cdef void** table = <void**> PyCapsule_Import("greenlet._C_API", 0)
cdef current_function current_greenlet = <current_function> table[GET_CURRENT]
cdef switch_function switch_to = <switch_function> table[SWITCH]
cdef parent_function set_parent = <parent_function> table[SET_PARENT]

# All that there are, those that are over included while somebody holds them: a list that owns none of them.
cdef PyObject* newest = NULL

# Weak references, one to each loop's that has had green threads.
cdef set hubs = set()


cdef GreenThread current():
    """The green thread that runs now, or None."""
    return <GreenThread> running_thread if running_thread != NULL else None


cdef int breathe(GreenThread me) except -1:
    """Let the others run, and the loop, if this one has gone on for long, making calls that need not wait."""
    if ticks_now() - me.since > ticks_in_us(TURN_US):
        me.hub.budget = 0  # who waits for the page, waits for the loop
        me.wake_up()
        me.park()
    return 0


def everybody():
    """All green threads that somebody holds, those that are over included."""
    cdef PyObject* at = newest
    cdef GreenThread thread
    found = []
    while at != NULL:
        # What is being freed just now is not to be brought back.
        if _Py_REFCNT(at) > 0:
            thread = <GreenThread> at
            if thread.turn is not None and thread.who is not None:
                found.append(thread)
        at = (<GreenThread> at).older
    return found


def let_others_run():
    """See `breathe`.  Does nothing outside of green threads."""
    if running_thread != NULL:
        breathe(<GreenThread> running_thread)


def let_next_run():
    """Let those run that are ready, whom the caller has made so just now, say.  Nothing outside of green threads."""
    cdef GreenThread me = current()
    if me is not None:
        me.wake_up()
        me.park()


def current_thread():
    """The green thread that calls this, or None outside of one."""
    return current()


# ---- to asyncio each green thread is a thread of its own: it runs no loop, or one of its own
#
# asyncio's part in C asks the real thread which loop runs.  So that is none while a green thread runs, and the hub's
# again when the hub goes on.

cdef object plain_find_running_loop = asyncio._get_running_loop
cdef object plain_set_running_loop = asyncio._set_running_loop
cdef object swap_current_task = getattr(asyncio.tasks, "_swap_current_task", None)  # Python 3.12


def set_running_loop(loop, /):
    """In a green thread the loop is that one's alone: while the thread waits, others run none, or their own.

    Source: asyncio._set_running_loop.
    """
    cdef GreenThread me = current()
    plain_set_running_loop(loop)
    if me is not None:
        me.inner = loop


def loop_beneath():
    """The loop that runs in this thread, also beneath a green one that is told of none; None: no loop does."""
    cdef GreenThread me = current()
    return plain_find_running_loop() if me is None else me.turn if me.inner is None else me.inner


cdef class Hub:
    """The green threads of one loop, and what they may do in this turn."""

    cdef int begin_turn(self) except -1:
        self.turns = self.turn.turns
        self.began = ticks_now()
        self.batch = queue_count(&self.turn.arrived) + 1
        self.budget = max(self.batch, <size_t> RESUMED_MOST)
        return 0

    cdef bint sends_at_once(self) noexcept:
        """Whether what a thread sends is best sent when it asks for that: with few threads little could go with it.

        A user page would make the same call later.  That is better where threads are long at work: each peer would be
        woken for what one of them sends, and sleep again before the next one sends.
        """
        cdef Page page = self.turn.page
        if page.eager:
            return False
        return self.batch <= FEW or (self.lasts < ticks_in_us(SHORT_US) and not isinstance(page, KernelPage))

    cdef int note_resumption(self, uint64_t now) noexcept:
        """Keep how long threads run before the next one does, on average of some sixteen."""
        cdef uint64_t lasted = min(now - self.resumed, ticks_in_us(PAUSE_US))
        self.resumed = now
        self.lasts += <uint64_t> (<int64_t> (lasted - self.lasts) // 16)
        return 0


cdef Hub hub_of(Turn turn):
    cdef Hub hub = turn.hub
    if hub is None:
        hub = turn.hub = Hub.__new__(Hub)
        hub.turn = turn
        hubs.add(weakref.ref(hub, hubs.discard))
    return hub


# By which ticks are told in seconds: how long a tick is, nobody says.
cdef uint64_t first_ticks = ticks_now()
cdef double first_time = time.monotonic()


cdef object current_frames = sys._current_frames


def running_everywhere(double limit):
    """(thread, how often one was resumed on its loop, for how many seconds it has run since, its frame).

    For each that runs now and has for `limit` seconds.  Can be called in any thread.
    """
    cdef Hub hub
    cdef GreenThread thread
    cdef double lasts
    cdef double tick = (time.monotonic() - first_time) / <double> (ticks_now() - first_ticks)
    frames = None
    found = []
    for reference in [*hubs]:
        hub = reference()
        thread = None if hub is None else hub.running
        if thread is not None:
            # Not before zero: another CPU may be a little behind.
            lasts = <int64_t> (ticks_now() - thread.since) * tick
            if lasts >= limit:
                if frames is None:
                    frames = current_frames()
                found.append((thread, hub.turn.stats.counts.switches, lasts, frames.get(thread.home)))
    return found


cdef class GreenThread(Endpoint):
    """A function that runs beside others on one loop, and may block.

    loop: a flexsc_loop.Loop that runs, or will, in this thread.  `start()` has it begin in the loop's next turn.
    """

    def __init__(self, loop, function, args=(), kwargs=None, *, name=None, daemon=False, context=None):
        if not callable(function):
            raise TypeError(f"a green thread needs something to call, not {function!r}")
        self.turn = <Turn?> loop
        self.hub = hub_of(self.turn)
        self.emptied = -1
        self.function = function
        self.args = tuple(args)
        self.kwargs = kwargs
        self.name = name or getattr(function, "__qualname__", repr(function))
        self.daemon = daemon
        self.who = greenlet.greenlet(_live)
        self.who.gr_context = contextvars.copy_context() if context is None else context

    def __cinit__(self):
        global newest
        self.older = newest
        if newest != NULL:
            (<GreenThread> newest).newer = <PyObject*> self
        newest = <PyObject*> self

    def __dealloc__(self):
        global newest
        if self.newer != NULL:
            (<GreenThread> self.newer).older = self.older
        else:
            newest = self.older
        if self.older != NULL:
            (<GreenThread> self.older).newer = self.newer

    def __repr__(self):
        state = "finished" if self.finished else "waiting" if self.parked else "started" if self.started else "new"
        return f"<GreenThread {self.name!r} {state}>"

    @property
    def loop(self):
        """The loop that it runs on."""
        return self.turn

    @property
    def frame(self):
        """Where it waits; None if it runs, has not begun or is over."""
        return self.who.gr_frame if self.parked else None

    def start(self):
        """Have it begin in the loop's next turn.  In the loop's thread only."""
        if self.started:
            raise RuntimeError("threads can only be started once")
        self.started = True
        self.wake_up()

    def throw(self, error):
        """Raise `error` where it waits, or where it begins."""
        if not self.finished:
            self.thrown = error
            if self.parked or not self.started:
                self.started = True
                self.wake_up()

    def interrupt(self, call):
        """Have `call()` made in it, where it waits, or begins; what that raises is raised there, else it waits on."""
        if self.calls is None:
            self.calls = []
        self.calls.append(call)
        self.unpark()

    def abandon(self):
        """Never resume it again, as happens to daemons at the end of a program."""
        self.finished = True

    def join(self, timeout=None):
        """In another green thread: wait until it is over, for `timeout` seconds at most.

        Returns what its function returned, and raises what that raised; TimeoutError if it goes on for longer.
        """
        cdef GreenThread me = needed()
        if me is self:
            raise RuntimeError("cannot join current thread")
        self.awaited = True
        if not self.finished:
            self.when_over(lambda _over: me.go_on(me.waits))
        until = None if timeout is None else me.turn.time() + timeout
        while not self.finished:
            left = None if until is None else until - me.turn.time()
            if left is not None and left <= 0:
                raise TimeoutError("timed out")
            me.wait(left)
        return self.outcome()

    def outcome(self):
        """What its function returned; raises what that raised.  Once it is over."""
        self.awaited = True
        error = self.error
        try:
            if error is not None:
                raise error
            return self.result
        finally:
            error = self = None

    def when_over(self, callback):
        """Have `callback(self)` called at the end, in this thread; at once if it is over."""
        if self.finished:
            callback(self)
        elif self.joiners is None:
            self.joiners = [callback]
        else:
            self.joiners.append(callback)

    cdef object shown(self):
        return self if self.function is None else self.function

    cdef int run(self, Turn turn) except -1:
        """Resume it; returns when it, or who has run after it, waits and nobody is ready, or is over."""
        global running_thread
        cdef PyObject* before = running_thread
        cdef Hub hub = self.hub
        cdef hooks_of_generators hooks
        self.queued = False
        if self.finished:
            return 0
        who = current_greenlet()
        hub.who = <PyObject*> who
        if hub.turns != turn.turns:
            hub.begin_turn()
        if not self.begun:
            self.begun = True
            self.home = PyThread_get_thread_ident()
            set_parent(<PyObject*> self.who, hub.who)
        plain_set_running_loop(None)
        hooks = take_hooks()
        try:
            self.goes_on()
            switch_to(<PyObject*> self.who, NULL, NULL)
        finally:
            running_thread = before
            hub.running = None
            give_hooks(hooks)
            plain_set_running_loop(turn)
        return 0

    cdef int goes_on(self) except -1:
        """It is the one that runs from now on; whoever calls this switches to it."""
        global running_thread
        self.queued = self.parked = False
        self.since = ticks_now()
        self.hub.note_resumption(self.since)
        self.turn.stats.counts.switches += 1
        self.hub.running = self
        running_thread = <PyObject*> self
        return 0

    cdef int end(self) except -1:
        try:
            if self.error is not None and not self.awaited and not isinstance(self.error, SystemExit):
                # It may have to wait for this, a lock of a log's say, and once it has ended nobody resumes it.
                self.turn.call_exception_handler({
                    "message": f"{self!r} has raised what nobody waits for", "exception": self.error,
                    "green_thread": self,
                })
        finally:
            self.finished = True
            joiners, self.joiners = self.joiners, None
            if joiners is not None:
                for callback in joiners:
                    callback(self)
        return 0

    cdef int cut_short(self) except -1:
        return 0 if self.finished else self.wake_up()

    cdef int park(self) except -1:
        """Go back to the hub until somebody has this thread go on.  To be called in it."""
        if self.thrown is None and self.calls is None:
            self.who = current_greenlet()
            self.parks += 1
            self.parked = True
            if self.inner is None:
                self.leave()
            else:
                self.leave_inner()
        if self.calls is not None:
            self.make_calls()
        if self.thrown is not None:
            error, self.thrown = self.thrown, None
            raise error
        return 0

    cdef int make_calls(self) except -1:
        while self.calls is not None:
            call = self.calls.pop(0)
            if not self.calls:
                self.calls = None  # the call may wait
            call()
        return 0

    cdef int leave(self) except -1:
        """Switch to who is next, past the loop if it is a thread that has a stack.

        Each gets its stack from the hub, so that none stands on another's.
        """
        cdef Hub hub = self.hub
        cdef PyObject* following = hub.who
        if hub.budget and hub.resumed - hub.began < ticks_in_us(TURN_US):
            first = self.turn.first_arrived()
            if type(first) is GreenThread and (<GreenThread> first).begun and not (<GreenThread> first).finished:
                hub.budget -= 1
                self.turn.take_first()
                if first is self:
                    return self.goes_on()
                (<GreenThread> first).goes_on()
                following = <PyObject*> (<GreenThread> first).who
            # Whoever waits must not hold who has gone on instead.
            first = None
        switch_to(following, NULL, NULL)
        return 0

    cdef int leave_inner(self) except -1:
        """Meanwhile neither the loop that runs in this thread is the running one, nor its task, nor are its hooks."""
        loop = self.inner
        cdef hooks_of_generators hooks = take_hooks()
        task = None
        if swap_current_task is not None:
            try:
                task = swap_current_task(loop, None)
            except KeyError:
                pass  # Python 3.12 where there is none
        plain_set_running_loop(None)
        try:
            self.leave()
        finally:
            plain_set_running_loop(loop)
            if task is not None:
                swap_current_task(loop, task)
            give_hooks(hooks)
        return 0

    cdef int unpark(self) except -1:
        return self.wake_up() if self.parked and not self.queued else 0

    def go_on(self, uint64_t parks):
        """Have it go on if it still waits as it did when `parks` was its count.  In the loop's thread."""
        if self.parks == parks:
            self.unpark()

    def poke(self):
        """Have it look anew at what it waits for, if it waits.  In the loop's thread."""
        self.unpark()

    def wait(self, timeout=None):
        """In the thread itself: wait until `go_on` was called with `waits`, or for `timeout` seconds."""
        timer = None
        if timeout is not None:
            timer = self.turn.call_later(timeout, self.go_on, self.parks + 1)
        try:
            self.park()
        finally:
            if timer is not None:
                timer.cancel()

    @property
    def waits(self):
        """Which of its waits this is, or the next one will be, from outside and inside."""
        return self.parks if self.parked else self.parks + 1


def _live():
    """What the greenlet of a green thread runs: all that is on its stack stays there while the thread waits."""
    cdef GreenThread me = current()
    me.turn.stats.counts.green_threads += 1
    try:
        if me.thrown is not None:
            error, me.thrown = me.thrown, None
            raise error
        me.make_calls()
        me.result = me.function(*me.args, **me.kwargs) if me.kwargs else me.function(*me.args)
    except BaseException as error:
        me.error = error
    finally:
        stats_less(&me.turn.stats.counts.green_threads)
        me.function = me.args = me.kwargs = None
    if me.hub.running is me:
        # Else nobody can switch to it any more, and greenlet has ended it.
        me.end()


def forget_all():
    """In a forked child, which is an ordinary process: the others are the parent's, and so are their loops."""
    global forking_thread
    hubs.clear()
    if forking_thread != NULL:
        (<GreenThread> forking_thread).when_over(_stop)
        forking_thread = NULL


def _stop(GreenThread thread):
    thread.turn.stop()


forget_after_fork()
os.register_at_fork(after_in_child=forget_all)


# ---- what nobody waits for


cdef extern from *:
    """
    #if PY_VERSION_HEX >= 0x030D0000
    #define unraisable_in_thread(function) PyErr_FormatUnraisable("Exception ignored in thread started by %R", function)
    #else
    #define unraisable_in_thread(function) _PyErr_WriteUnraisableMsg("in thread started by", function)
    #endif
    """
    void unraisable_in_thread(object function)
    void PyErr_SetObject(object kind, object error)


def tell_unraisable(error, function):
    """Tell sys.unraisablehook what has ended a thread that `function` had been started in."""
    PyErr_SetObject(type(error), error)
    unraisable_in_thread(function)


# ---- for programs


cdef GreenThread needed():
    cdef GreenThread me = current()
    if me is None:
        raise RuntimeError("this has to be called in a green thread")
    return me


cdef object plain_sleep = time.sleep


def sleep(seconds):
    """In a green thread: let the others run for `seconds`.  Source: time.sleep."""
    cdef GreenThread me = needed()
    if type(seconds) is int and not seconds:
        me.wake_up()
        me.park()
        return
    if not isinstance(seconds, (float, int)):
        if hasattr(type(seconds), "__index__"):
            seconds = index(seconds)
        elif sys.version_info >= (3, 15) and hasattr(type(seconds), "__float__"):
            seconds = float(seconds)
        else:
            return plain_sleep(seconds)
    if not 0 <= seconds <= SLEEP_MOST:
        return plain_sleep(seconds)  # which refuses it, in its own words
    if seconds == 0:
        return sleep(0)
    until = me.turn.time() + seconds
    while (left := until - me.turn.time()) > 0:
        me.wait(left)
