# cython: language_level=3, cdivision=True
"""Floor 5: locks, and a queue, that green threads and real threads can share.

Owns: who waits.  Imports: green.

Beneath each is one of Python's own, so that for real threads nothing is different.  A green thread that finds it taken
(or empty) stands in line here, and whoever releases it (or puts something in) has the first one in line try again.  Who
comes meanwhile may be faster, which saves a switch; but once only: then the first in line is *owed*, and others wait.
"""
import _queue
import _thread
import sys
import types
from collections import deque

cimport cython
from cpython.pythread cimport PyThread_get_thread_ident

from flexsc_loop.threads.green cimport GreenThread, breathe, current

cdef object allocate_plain = _thread.allocate_lock
cdef object PlainRLock = _thread.RLock
cdef object PlainQueue = _queue.SimpleQueue
cdef object Empty = _queue.Empty
cdef object NOTHING = object()
cdef object TIMEOUT_MAX = _thread.TIMEOUT_MAX
cdef str NEGATIVE = f"timeout value must be {'a non-negative number' if sys.version_info >= (3, 13) else 'positive'}"


cdef extern from *:
    """
    #define call_it(kind, name) (((PyTypeObject *) (kind))->tp_name = (name))
    """
    void call_it(object kind, const char* name)


cdef class Line:
    """What threads of both kinds stand in line for."""
    cdef object real                 # what real threads wait for
    cdef object line                 # green threads that wait, the first one first; None while there was none
    cdef bint owed                   # the first one was called, and another one was faster
    cdef object __weakref__

    cdef object attempt(self):
        """What was to be had at once, or NOTHING."""
        raise NotImplementedError

    cdef bint is_there(self) except -1:
        """Whether an attempt may succeed."""
        raise NotImplementedError

    cdef object stand_in_line(self, GreenThread me, object timeout):
        """Wait for an attempt that succeeds, and return what that has given; NOTHING after `timeout` seconds."""
        cdef bint called = False
        until = None if timeout is None else me.turn.time() + timeout
        if self.line is None:
            self.line = deque()
        self.line.append(me)
        try:
            while True:
                if not self.others_first(me):
                    # Another thread may have let it go before we stood there.
                    found = self.attempt()
                    if found is not NOTHING:
                        return found
                    self.owed = called and self.line[0] is me
                left = None if until is None else until - me.turn.time()
                if left is not None and left <= 0:
                    return NOTHING
                me.wait(left)
                called = True
        finally:
            if self.owed and self.line[0] is me:
                self.owed = False
            self.line.remove(me)
            # Whoever was called may have given up, or there is one for the next in line, too.
            if self.is_there():
                self.call_first()

    cdef bint others_first(self, GreenThread me) except -1:
        """Whether the first in line is owed, and another one.  In a forked child it may be one of the parent's."""
        return self.owed and self.line[0] is not me and not (<GreenThread> self.line[0]).finished

    cdef int call_first(self) except -1:
        """Have the first in line try again."""
        cdef GreenThread first
        try:
            first = self.line[0]
        except (IndexError, TypeError):
            return 0
        if first.finished:
            # In a forked child.
            first = next((other for other in self.line if not other.finished), first)
        if first.home == PyThread_get_thread_ident():
            first.unpark()
        else:
            # It may be about to wait, and does not yet: what counts its waits would miss it.
            first.turn.call_soon_threadsafe(first.poke)
        return 0


@cython.final
cdef class Lock(Line):
    """What `threading.Lock()` gives.  Source: threading.Lock."""

    def __cinit__(self):
        self.real = allocate_plain()

    def __init__(self):
        pass  # takes no arguments: without it any are taken

    def __repr__(self):
        state = "locked" if self.real.locked() else "unlocked"
        return f"<{state} _thread.lock object at {id(self):#x}>"

    cdef object attempt(self):
        return True if self.real.acquire(False) else NOTHING

    cdef bint is_there(self) except -1:
        return not self.real.locked()

    cdef bint take(self, bint blocking, object timeout) except -1:
        cdef GreenThread me = current()
        if timeout != -1:
            check_timeout(blocking, timeout)
        if me is None:
            return self.real.acquire(blocking, timeout)
        breathe(me)
        if not (blocking and self.others_first(me)) and self.real.acquire(False):
            return True
        return blocking and self.stand_in_line(me, None if timeout == -1 else timeout) is not NOTHING

    def acquire(self, bint blocking=True, timeout=-1):
        """Take the lock; False if that was not to be had in time.  Source: threading.Lock.acquire."""
        return self.take(blocking, timeout)

    def release(self):
        """Let the lock go.  Raises RuntimeError if it is not taken.  Source: threading.Lock.release."""
        self.real.release()
        if self.line:
            self.call_first()

    def locked(self):
        """Whether somebody has it.  Source: threading.Lock.locked."""
        return self.real.locked()

    def __enter__(self):
        self.take(True, -1)
        return True

    def __exit__(self, *_error):
        self.release()

    def _at_fork_reinit(self):
        self.real = allocate_plain()
        self.line = None
        self.owed = False

    acquire_lock = acquire
    release_lock = release
    locked_lock = locked


cdef int check_timeout(bint blocking, object timeout) except -1:
    """As Python's own locks do."""
    if not blocking:
        raise ValueError("can't specify a timeout for a non-blocking call")
    if timeout < 0:
        raise ValueError(NEGATIVE)
    if timeout > TIMEOUT_MAX:
        raise OverflowError("timeout value is too large")
    return 0


cdef object identity():
    """Who is running: a green thread, or the number of a real one."""
    cdef GreenThread me = current()
    return me if me is not None else PyThread_get_thread_ident()


cdef class RLock:
    """What `threading.RLock()` gives.  Source: threading.RLock."""
    cdef Lock block
    cdef object owner                # see `identity`; None: nobody
    cdef unsigned long count
    cdef object __weakref__

    def __cinit__(self):
        self.block = Lock()

    def __init__(self, *args, **kwargs):
        if args or kwargs:
            PlainRLock(*args, **kwargs)  # says what the running Python says

    def __repr__(self):
        state = "locked" if self.count else "unlocked"
        owner = 0 if self.owner is None else id(self.owner) if isinstance(self.owner, GreenThread) else self.owner
        return f"<{state} _thread.RLock object owner={owner} count={self.count} at {id(self):#x}>"

    cdef bint take(self, bint blocking, object timeout) except -1:
        who = identity()
        if self.owner is not None and self.owner == who:
            self.count += 1
            return True
        if not self.block.take(blocking, timeout):
            return False
        self.owner = who
        self.count = 1
        return True

    def acquire(self, bint blocking=True, timeout=-1):
        """Take the lock, again if it is ours already.  Source: threading.RLock.acquire."""
        return self.take(blocking, timeout)

    def release(self):
        """Undo one `acquire()`.  Raises RuntimeError if it is not ours.  Source: threading.RLock.release."""
        if self.owner is None or self.owner != identity():
            raise RuntimeError("cannot release un-acquired lock")
        self.count -= 1
        if self.count == 0:
            self.owner = None
            self.block.release()

    def locked(self):
        """Whether somebody has it.  Source: threading.RLock.locked (Python 3.14)."""
        return self.count != 0

    def __enter__(self):
        self.take(True, -1)
        return True

    def __exit__(self, *_error):
        self.release()

    # What `threading.Condition` asks of a lock.

    def _is_owned(self):
        return self.owner is not None and self.owner == identity()

    def _recursion_count(self):
        return self.count if self._is_owned() else 0

    def _release_save(self):
        if self.count == 0:
            raise RuntimeError("cannot release un-acquired lock")
        state = (self.count, self.owner)
        self.count = 0
        self.owner = None
        self.block.release()
        return state

    def _acquire_restore(self, state):
        self.block.take(True, -1)
        self.count, self.owner = state

    def _at_fork_reinit(self):
        self.block._at_fork_reinit()
        self.owner = None
        self.count = 0


cdef class SimpleQueue(Line):
    """What `queue.SimpleQueue()` gives: put() never waits, not even in a signal handler.  Source: queue.SimpleQueue."""

    def __cinit__(self):
        self.real = PlainQueue()

    cdef object attempt(self):
        try:
            return self.real.get(False)
        except Empty:
            return NOTHING

    cdef bint is_there(self) except -1:
        return not self.real.empty()

    def put(self, item, block=True, timeout=None):
        """Put something in.  block, timeout: ignored.  Source: queue.SimpleQueue.put."""
        self.real.put(item)
        if self.line:
            self.call_first()

    def put_nowait(self, item):
        """Put something in.  Source: queue.SimpleQueue.put_nowait."""
        self.put(item)

    def get(self, block=True, timeout=None):
        """Take the oldest thing out.  Raises queue.Empty after `timeout` seconds.  Source: queue.SimpleQueue.get."""
        cdef GreenThread me = current()
        if me is not None:
            breathe(me)
        if me is None or not block:
            return self.real.get(block, timeout)
        if timeout is not None and timeout < 0:
            raise ValueError("'timeout' must be a non-negative number")
        found = NOTHING if self.others_first(me) else self.attempt()
        if found is NOTHING:
            found = self.stand_in_line(me, timeout)
        if found is NOTHING:
            raise Empty
        return found

    def get_nowait(self):
        """Take the oldest thing out.  Raises queue.Empty.  Source: queue.SimpleQueue.get_nowait."""
        return self.get(False)

    def empty(self):
        """Whether nothing is in.  Source: queue.SimpleQueue.empty."""
        return self.real.empty()

    def qsize(self):
        """How much is in.  Source: queue.SimpleQueue.qsize."""
        return self.real.qsize()

    __class_getitem__ = classmethod(types.GenericAlias)


def take_names():
    """Have locks bear the names of those in whose place they stand from now on.

    By them programs find out that a lock is one that a signal handler, too, may take (trio does), and pickle finds the
    class, here and in processes with Python's own.
    """
    call_it(Lock, b"_thread.lock" if hasattr(_thread, "lock") else b"_thread.allocate_lock")
    call_it(RLock, b"_thread.RLock")
