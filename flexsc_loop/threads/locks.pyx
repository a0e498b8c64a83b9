# cython: language_level=3, cdivision=True
"""Floor 5: locks that green threads and real threads can share.

Owns: who waits.  Imports: green.

Beneath each is a lock of Python's own, so that for real threads nothing is different.  A green thread that finds it
taken stands in line here, and whoever releases it has the first one in line try again.
"""
import _thread
from collections import deque

from cpython.pythread cimport PyThread_get_thread_ident

from flexsc_loop.threads.green cimport GreenThread, breathe, current

cdef object allocate_plain = _thread.allocate_lock
cdef object TIMEOUT_MAX = _thread.TIMEOUT_MAX


cdef class Lock:
    """What `threading.Lock()` gives.  Source: threading.Lock."""
    cdef object real                 # the lock proper
    cdef object line                 # green threads that wait, the first one first; None while there was none
    cdef object __weakref__

    def __cinit__(self):
        self.real = allocate_plain()

    def __repr__(self):
        state = "locked" if self.real.locked() else "unlocked"
        return f"<{state} flexsc_loop.threads.Lock object at {id(self):#x}>"

    cdef bint take(self, bint blocking, object timeout) except -1:
        cdef GreenThread me = current()
        if me is not None:
            breathe(me)
        if self.real.acquire(False):
            if not blocking and timeout != -1:
                self.real.release()
                raise ValueError("can't specify a timeout for a non-blocking call")
            return True
        if not blocking:
            if timeout != -1:
                raise ValueError("can't specify a timeout for a non-blocking call")
            return False
        if me is None:
            return self.real.acquire(True, timeout)
        if timeout != -1 and (timeout < 0 or timeout > TIMEOUT_MAX):
            return self.real.acquire(True, timeout)  # says what is wrong with it
        return self.stand_in_line(me, timeout)

    cdef bint stand_in_line(self, GreenThread me, object timeout) except -1:
        cdef bint taken = False
        until = None if timeout == -1 else me.turn.time() + timeout
        if self.line is None:
            self.line = deque()
        self.line.append(me)
        try:
            # Another thread may have released it before we stood there.
            while not self.real.acquire(False):
                left = None if until is None else until - me.turn.time()
                if left is not None and left <= 0:
                    return False
                me.wait(left)
            taken = True
            return True
        finally:
            self.line.remove(me)
            if not taken and not self.real.locked():
                self.call_first()

    cdef int call_first(self) except -1:
        """Have the first in line try again."""
        cdef GreenThread first
        try:
            first = self.line[0]
        except IndexError:
            return 0
        if first.home == PyThread_get_thread_ident():
            first.unpark()
        else:
            # It may be about to wait, and does not yet: what counts its waits would miss it.
            first.turn.call_soon_threadsafe(first.poke)
        return 0

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

    acquire_lock = acquire
    release_lock = release
    locked_lock = locked


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

    def __repr__(self):
        state = "locked" if self.count else "unlocked"
        return f"<{state} flexsc_loop.threads.RLock object owner={self.owner!r} count={self.count} at {id(self):#x}>"

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
