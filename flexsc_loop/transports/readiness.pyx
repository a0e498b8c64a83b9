# cython: language_level=3, cdivision=True
"""Floor 4: callbacks for fds that are ready: `add_reader` and `add_writer`.

Owns: polls on fds that anybody may close.  Imports: page, operation, turn.

So that a fd can be closed and its number reused right after a callback was removed, that ends the poll before it
returns (`cancel_now`).
"""
import os
import stat

cimport cython
from libc.stdint cimport uint32_t

from flexsc_loop.syscalls.operation cimport Operation
from flexsc_loop.syscalls.page cimport CALL_POLL, ECANCELED
from flexsc_loop.turn.handles cimport Handle, stack_here
from flexsc_loop.turn.turn cimport Endpoint, Turn


cdef extern from "Python.h":
    object PyContext_CopyCurrent()

cdef extern from "<poll.h>" nogil:
    enum:
        POLLIN
        POLLOUT
        POLLPRI
        POLLRDHUP


cdef class Poll(Operation):
    """Waits once until a fd is ready; armed again after each call of the callback, which makes it level-triggered."""
    cdef void* watch                 # borrowed: a loop that nobody closes can be collected with its watches

    cdef int prepare(self) except -1:
        cdef Watch watch = <Watch> self.watch
        return watch.turn.page.submit(self, CALL_POLL, watch.fd, NULL, 0, 0, watch.mask, 0)

    cdef int complete(self, int res, uint32_t flags) except -1:
        if self.watch == NULL:
            return 0
        return (<Watch> self.watch).ready(res)


@cython.no_gc_clear
cdef class Watch(Endpoint):
    """One callback for one direction of one fd."""
    cdef int fd
    cdef uint32_t mask
    cdef Handle handle
    cdef Poll poll
    cdef bint lost                   # the fd can't be polled any more

    def __repr__(self):
        """In debug mode, slow callbacks are reported by it."""
        what = "reader" if self.mask & POLLIN else "writer"
        return f"<{what} fd={self.fd} {self.handle!r}>"

    cdef int ready(self, int res) except -1:
        """The poll's completion.  Bookkeeping only."""
        if res == -ECANCELED:
            # Whoever cancels detaches the poll first, so this is a page that is being replaced.
            return 0 if self.turn.page.closed else self.poll.prepare()
        self.lost = res < 0
        return self.wake_up()

    cdef int run(self, Turn turn) except -1:
        cdef Handle handle = self.handle
        self.queued = False
        if handle is None or handle._cancelled:
            return 0
        handle.run(turn)
        return self.cut_short()

    cdef int cut_short(self) except -1:
        if self.handle is not None and not self.lost and self.poll.user_data == 0:
            self.poll.prepare()
        return 0

    cdef int arm(self) except -1:
        self.poll = Poll.__new__(Poll)
        self.poll.watch = <void*> self
        self.poll.retractable = True
        return self.poll.prepare()

    def __dealloc__(self):
        if self.poll is not None:
            self.poll.watch = NULL

    cdef int disarm(self) except -1:
        self.turn.page.refuse_if_away()
        poll, self.poll = self.poll, None
        if poll is None:
            return 0
        self.handle.drop()
        self.handle = None
        (<Poll> poll).watch = NULL
        return self.turn.page.cancel_now(poll)


cdef Watch watch_fd(Turn turn, int fd, uint32_t mask, Handle handle):
    cdef Watch watch = Watch.__new__(Watch)
    watch.turn = turn
    watch.fd = fd
    watch.mask = mask
    watch.handle = handle
    watch.arm()
    return watch


cdef class ReadinessTurn(Turn):
    """The turn, with callbacks for fds that are ready."""

    def __cinit__(self, *args, **kwargs):
        self.readers = {}
        self.writers = {}

    def _count_housekeeping(self, int change):
        """Operations that the loop itself needs are not counted among those in flight."""
        self.page.housekeeping += change

    cdef int forget_watches(self) except -1:
        """The loop is closing: let go of all callbacks."""
        for watch in [*self.readers.values(), *self.writers.values()]:
            (<Watch> watch).disarm()
        self.readers.clear()
        self.writers.clear()
        return 0

    cdef int free_fd(self, object fileobj) except -1:
        """The fd of a file object that no transport owns."""
        cdef int fd
        if isinstance(fileobj, int):
            fd = fileobj
        else:
            try:
                fd = fileobj.fileno()
            except (AttributeError, TypeError, ValueError):
                raise ValueError(f"Invalid file object: {fileobj!r}") from None
        if fd < 0:
            raise ValueError(f"Invalid file descriptor: {fd}")
        transport = self.owned.get(fd)
        if transport is not None:
            raise RuntimeError(f"File descriptor {fd!r} is used by transport {transport!r}")
        return fd

    cdef Handle watch(self, dict watches, object fileobj, uint32_t mask, object callback, tuple args, bint check):
        cdef Handle handle
        cdef Watch watch
        cdef int fd
        if self._closed:
            self._check_closed()
        fd = self.free_fd(fileobj) if check else fileobj
        if stat.S_ISREG(os.fstat(fd).st_mode):
            raise PermissionError(1, "a regular file cannot be polled")
        # Without the loop in it: the collector does not see through handles, and this one stays.
        handle = Handle.__new__(Handle)
        handle._callback = callback
        handle._args = args
        handle._context = PyContext_CopyCurrent()
        if self._debug:
            handle._source_traceback = stack_here()
        if fd in watches:
            (<Watch> watches[fd]).disarm()
        watches[fd] = watch_fd(self, fd, mask, handle)
        return handle

    cdef bint unwatch(self, dict watches, object fileobj, bint check) except -1:
        cdef Watch watch
        if self._closed:
            return False
        fd = self.free_fd(fileobj) if check else fileobj
        watch = watches.get(fd)
        if watch is None:
            return False
        watch.disarm()
        del watches[fd]
        return True

    def add_reader(self, fd, callback, *args):
        """Call `callback(*args)` whenever `fd` can be read, as long as it can.  Source: asyncio.loop.add_reader."""
        self.watch(self.readers, fd, POLLIN | POLLPRI | POLLRDHUP, callback, args, True)

    def remove_reader(self, fd):
        """Stop that; returns whether there was anything to stop."""
        return self.unwatch(self.readers, fd, True)

    def add_writer(self, fd, callback, *args):
        """Call `callback(*args)` whenever `fd` can be written, as long as it can.  Source: asyncio.loop.add_writer."""
        self.watch(self.writers, fd, POLLOUT, callback, args, True)

    def remove_writer(self, fd):
        """Stop that; returns whether there was anything to stop."""
        return self.unwatch(self.writers, fd, True)

    def _add_reader(self, fd, callback, *args):
        return self.watch(self.readers, fd, POLLIN | POLLPRI | POLLRDHUP, callback, args, False)

    def _remove_reader(self, fd):
        return self.unwatch(self.readers, fd, False)

    def _add_writer(self, fd, callback, *args):
        return self.watch(self.writers, fd, POLLOUT, callback, args, False)

    def _remove_writer(self, fd):
        return self.unwatch(self.writers, fd, False)
