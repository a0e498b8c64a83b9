# cython: language_level=3, cdivision=True
"""Floor 4: callbacks for fds that are ready (`add_reader` and `add_writer`), and coroutines that wait for one.

Owns: who is called for which fd.  Imports: interest, operation, turn.
"""
from libc.stdint cimport uint32_t

from flexsc_loop.syscalls.interest cimport EPOLLIN, EPOLLOUT, Interest
from flexsc_loop.syscalls.page cimport EBADF
from flexsc_loop.turn.handles cimport Handle, stack_here
from flexsc_loop.turn.turn cimport Endpoint, Turn


cdef extern from "Python.h":
    object PyContext_CopyCurrent()


cdef class Wait(Interest):
    """What a coroutine awaits until an fd is ready or, without a future, until the next turn.

    However the wait ends, nothing of it is under way afterwards.
    """

    cdef int came(self) except -1:
        if not self.future.done():
            self.future.set_result(None)
        return 0

    cdef int lost(self) except -1:
        if not self.future.done():
            self.future.set_exception(OSError(EBADF, "the descriptor was closed while a call waited on it"))
        return 0

    def __await__(self):
        return self

    def __next__(self):
        if not self.suspended:
            self.suspended = True
            if self.future is not None:
                self.future._asyncio_future_blocking = True
            return self.future
        self.suspended = False
        if self.future is not None:
            self.future.result()
        raise StopIteration

    def throw(self, kind, value=None, traceback=None):
        """The coroutine is cancelled while it waits."""
        self.interests.withdraw(self)
        if isinstance(kind, BaseException):
            raise kind
        raise kind() if value is None else value

    def close(self):
        """The coroutine is dropped while it waits."""
        self.interests.withdraw(self)


cdef Wait wait_until(Turn turn, int fd, uint32_t mask, Wait earlier):
    """A wait for `mask` (EPOLLIN or EPOLLOUT), to be awaited.

    earlier: the wait of the same call that has ended, if the call has found nothing then.  Raises OSError.
    """
    cdef Wait wait = earlier
    if wait is None:
        wait = Wait.__new__(Wait)
        wait.interests = turn.interests
        wait.fd = fd
        wait.mask = mask
    else:
        wait.vain = True
    wait.future = turn.create_future()
    turn.interests.add(wait)
    return wait


cdef Wait next_turn(Turn turn):
    """A wait for the next turn, to be awaited."""
    cdef Wait wait = Wait.__new__(Wait)
    wait.interests = turn.interests
    return wait


cdef class Level(Interest):
    """A watch's place on the interest list."""

    cdef int came(self) except -1:
        return self.watch.wake_up()

    cdef int lost(self) except -1:
        return (<ReadinessTurn> self.watch.turn).drop(self.watch)


cdef class Watch(Endpoint):
    """One callback for one direction of one fd."""

    def __repr__(self):
        """In debug mode, slow callbacks are reported by it."""
        return f"<{'writer' if self.writer else 'reader'} fd={self.fd} {self.handle!r}>"

    cdef object shown(self):
        return self if self.handle is None else self.handle._callback

    cdef int run(self, Turn turn) except -1:
        cdef Handle handle = self.handle
        self.queued = False
        if handle is None:
            return 0
        if handle._cancelled:
            # By somebody who has it from `_add_reader`.
            return (<ReadinessTurn> turn).drop(self)
        return handle.run(turn)

    cdef int cut_short(self) except -1:
        """What is still ready is reported again."""
        return 0

    cdef Level let_go(self):
        """The callback is not called any more.  Returns the watch's place on the interest list."""
        cdef Level place = self.level
        self.handle.drop()
        self.handle = self.level = place.watch = None
        return place


cdef class ReadinessTurn(Turn):
    """The turn, with callbacks for fds that are ready."""

    def __cinit__(self, *args, **kwargs):
        self.readers = {}
        self.writers = {}

    def _arm_interests(self):
        """What another thread has added while this one slept is waited for from now on."""
        self.interests.arm()

    cdef int forget_watches(self) except -1:
        """The loop is closing, or another process's: let go of all callbacks."""
        cdef Watch watch
        for watch in (*self.readers.values(), *self.writers.values()):
            watch.let_go()
        self.readers.clear()
        self.writers.clear()
        self.interests.close()
        return 0

    cdef int fd_of(self, object fileobj, bint free) except? -1:
        """The fd of a file object; of one that has been closed, that with which it was registered.

        The same as in asyncio and its selectors.  free: no transport may own it.  Raises ValueError, RuntimeError.
        """
        cdef Watch watch
        cdef int fd
        try:
            fd = fileobj if isinstance(fileobj, int) else fileobj.fileno()
        except (AttributeError, TypeError, ValueError):
            raise ValueError(f"Invalid file object: {fileobj!r}") from None
        owner = self.owner_of(fd) if free else None
        if owner is not None and not getattr(owner, "is_closing", bool)():
            raise RuntimeError(f"File descriptor {fileobj!r} is used by transport {owner!r}")
        if fd >= 0:
            return fd
        for watch in (*self.readers.values(), *self.writers.values()):
            if watch.fileobj is fileobj:
                return watch.fd
        raise ValueError(f"Invalid file descriptor: {fd}")

    cdef Handle watch(self, bint writer, object fileobj, bint free, object callback, tuple args, object context):
        cdef dict watches = self.writers if writer else self.readers
        cdef Handle handle
        cdef Watch watch, earlier
        cdef Level place
        if self._closed:
            self._check_closed()
        watch = Watch.__new__(Watch)
        watch.fd = self.fd_of(fileobj, free)
        # Without the loop in it: the collector does not see through handles, and this one stays.
        watch.handle = handle = Handle.__new__(Handle)
        handle._callback = callback
        handle._args = args
        handle._context = PyContext_CopyCurrent() if context is None else context
        if self._debug:
            handle._source_traceback = stack_here()
        watch.turn = self
        watch.writer = writer
        watch.fileobj = fileobj
        earlier = watches.pop(watch.fd, None)
        place = Level.__new__(Level) if earlier is None else earlier.let_go()
        place.fd = watch.fd
        place.mask = EPOLLOUT if writer else EPOLLIN
        place.level = True
        place.watch = watch
        watch.level = place
        self.interests.add(place)
        watches[watch.fd] = watch
        if not self.interests.arm():
            self.call_soon_threadsafe(self._arm_interests)
        else:
            # Another thread may have armed it just now: it is handed over when the loop wakes.
            self.rouse()
        return handle

    cdef bint unwatch(self, bint writer, object fileobj, bint free) except -1:
        cdef Watch watch
        if self._closed:
            return False
        watch = (self.writers if writer else self.readers).get(self.fd_of(fileobj, free))
        if watch is None:
            return False
        self.drop(watch)
        return True

    cdef int drop(self, Watch watch) except -1:
        cdef Level place = watch.let_go()
        del (self.writers if watch.writer else self.readers)[watch.fd]
        return self.interests.withdraw(place)

    def add_reader(self, fd, callback, *args):
        """Call `callback(*args)` whenever `fd` can be read, as long as it can.  Source: asyncio.loop.add_reader."""
        self.watch(False, fd, True, callback, args, None)

    def remove_reader(self, fd):
        """Stop that; returns whether there was anything to stop."""
        return self.unwatch(False, fd, True)

    def add_writer(self, fd, callback, *args):
        """Call `callback(*args)` whenever `fd` can be written, as long as it can.  Source: asyncio.loop.add_writer."""
        self.watch(True, fd, True, callback, args, None)

    def remove_writer(self, fd):
        """Stop that; returns whether there was anything to stop."""
        return self.unwatch(True, fd, True)

    def _add_reader(self, fd, callback, *args, context=None):
        return self.watch(False, fd, False, callback, args, context)

    def _remove_reader(self, fd):
        return self.unwatch(False, fd, False)

    def _add_writer(self, fd, callback, *args, context=None):
        return self.watch(True, fd, False, callback, args, context)

    def _remove_writer(self, fd):
        return self.unwatch(True, fd, False)
