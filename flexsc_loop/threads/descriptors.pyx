# cython: language_level=3, cdivision=True
"""Floor 5: green threads that wait for a descriptor: for a call on it, or until it is ready; and what becomes of those
whose descriptor is closed.

Owns: who waits for which descriptor.  Imports: green, interest, operation, page.
"""
import os

from cpython.pythread cimport PyThread_get_thread_ident
from libc.errno cimport errno
from libc.stdint cimport uint32_t, uint64_t

from flexsc_loop.syscalls.interest cimport EPOLLIN, EPOLLOUT, Interest
from flexsc_loop.syscalls.operation cimport in_flight
from flexsc_loop.syscalls.page cimport COMPLETION_BUFFER, EBADF, ECANCELED
from flexsc_loop.syscalls.posix_socket cimport poll, pollfd
from flexsc_loop.threads.green cimport GreenThread, breathe, needed
from flexsc_loop.turn.turn cimport Turn

# fd -> the Call that waits on it, or the first of several.
cdef dict calls_on = {}

# fd -> those that wait until it is ready: a set of Ready.
cdef dict readies_on = {}


# ---- calls that are entries of the page


cdef class Call(Operation):
    """One call in flight, and the green thread that waits for it."""

    cdef int complete(self, int res, uint32_t flags) except -1:
        self.res = res
        self.flags = flags
        self.over = True
        if flags & COMPLETION_BUFFER:
            self.kept = self.page.take_buffer(res, flags)
        return self.thread.unpark() if self.thread is not None else 0

    def time_out(self):
        """It has taken as long as it may."""
        self.expired = True
        self.end()

    def end(self):
        """Have it end as cancelled.  In the loop's thread."""
        if in_flight(self) and self.thread is not None:
            self.thread.turn.page.cancel(self)


cdef Call a_call(GreenThread me):
    """One to make a call with."""
    cdef Call op = <Call> me.spare
    me.spare = None
    if op is None:
        op = Call.__new__(Call)
    op.page = me.turn.page
    return op


cdef int done_with(GreenThread me, Call op) except -1:
    """The call is over, unless its thread has left it: then it keeps its memory until it is."""
    if not in_flight(op):
        op.kept = None
        me.spare = op
    return 0


cdef int make(GreenThread me, Call op, int call, int fd, void* addr, uint32_t size, uint64_t off, uint32_t call_flags,
              uint32_t flags, object timeout) except? -1:
    """Have a call made, and wait for it.  What it returns; raises OSError, and TimeoutError after `timeout` seconds.

    The call is over when this returns, unless something was thrown into the thread: its memory is kept until it is.
    """
    cdef Turn turn = me.turn
    timer = None
    op.thread = me
    op.expired = op.gone = False
    op.following = calls_on.get(fd)
    calls_on[fd] = op
    try:
        if timeout is not None:
            timer = turn.call_later(timeout, op.time_out)
        while True:
            op.over = False
            turn.page.submit(op, call, fd, addr, size, off, call_flags, flags)
            if turn.page.eager:
                turn.page.publish()
            while not op.over:
                me.park()
            # Interrupted by a signal, or by a page that was replaced: nothing has been done.
            if op.res != -ECANCELED or op.expired or op.gone or turn.page.closed:
                break
    except BaseException:
        op.thread = None
        if in_flight(op):
            turn.page.cancel(op)
        raise
    finally:
        forget(fd, op)
        if timer is not None:
            timer.cancel()
    op.thread = None
    if op.res == -ECANCELED:
        if op.expired:
            raise TimeoutError("timed out")
        raise OSError(EBADF, "Bad file descriptor")
    return op.res


cdef int forget(int fd, Call op) except -1:
    """The call is over, and waits on `fd` no longer."""
    cdef Call at = calls_on.get(fd)
    if at is op:
        if op.following is None:
            del calls_on[fd]
        else:
            calls_on[fd] = op.following
    else:
        while at is not None and at.following is not op:
            at = at.following
        if at is not None:
            at.following = op.following
    op.following = None
    return 0


cdef int close_calls(int fd) except -1:
    """An fd is about to be closed: whoever has a call on it is told EBADF."""
    cdef Call at = calls_on.get(fd)
    while at is not None:
        if not at.over and at.thread is not None:
            at.gone = True
            if at.thread.home == PyThread_get_thread_ident():
                at.thread.turn.page.cancel_now(at)
            else:
                at.thread.turn.call_soon_threadsafe(at.end)
        at = at.following
    return 0


# ---- descriptors that are to be ready


cdef class Ready(Interest):
    """A green thread that waits until a descriptor is ready."""

    cdef int came(self) except -1:
        self.over = True
        return self.thread.unpark()

    cdef int lost(self) except -1:
        self.over = self.gone = True
        return self.thread.unpark()

    def time_out(self):
        self.expired = True
        self.thread.unpark()

    cdef int close(self) except -1:
        """Its descriptor is about to be closed."""
        if not self.over:
            self.gone = True
            if self.thread.home == PyThread_get_thread_ident():
                self.thread.unpark()
            else:
                self.thread.turn.call_soon_threadsafe(self.thread.poke)
        return 0


cdef bint wait_ready(GreenThread me, int fd, uint32_t mask, object timeout, object within=()) except -1:
    """Wait until `fd` can be read (EPOLLIN) or written (EPOLLOUT).  False: not within `timeout` seconds.

    What is always ready, as regular files are, is so at once.  Raises OSError: EBADF if `fd` is closed meanwhile, or
    one of those `within` it.
    """
    cdef Ready ready = Ready.__new__(Ready)
    cdef Turn turn = me.turn
    timer = None
    ready.thread = me
    ready.fd = fd
    ready.mask = mask
    try:
        turn.interests.add(ready)
    except PermissionError:
        return True
    watch(ready, fd)
    for other in within:
        watch(ready, other)
    try:
        if timeout is not None:
            timer = turn.call_later(timeout, ready.time_out)
        while not ready.over and not ready.expired and not ready.gone:
            me.park()
    finally:
        unwatch(ready, fd)
        for other in within:
            unwatch(ready, other)
        if not ready.over:
            turn.interests.withdraw(ready)
        if timer is not None:
            timer.cancel()
    if ready.gone:
        raise OSError(EBADF, "Bad file descriptor")
    return ready.over


cdef int watch(Ready ready, int fd) except -1:
    """Its wait ends if `fd` is closed."""
    waiting = readies_on.get(fd)
    if waiting is None:
        readies_on[fd] = {ready}
    else:
        waiting.add(ready)
    return 0


cdef int unwatch(Ready ready, int fd) except -1:
    waiting = readies_on.get(fd)
    if waiting is not None:
        waiting.discard(ready)
        if not waiting:
            del readies_on[fd]
    return 0


def wait_readable(int fd, timeout=None, within=()):
    """In a green thread: wait until `fd` can be read.  Returns False after `timeout` seconds in vain.

    Raises OSError (EBADF) if the program closes `fd` meanwhile, or one of those `within` it, if it is an epoll.
    """
    return wait_ready(needed(), fd, EPOLLIN, timeout, within)


def wait_writable(int fd, timeout=None):
    """In a green thread: wait until `fd` can be written.  Returns False after `timeout` seconds in vain."""
    return wait_ready(needed(), fd, EPOLLOUT, timeout)


cdef int wait_for_turn(int fd, uint32_t mask) except -1:
    cdef GreenThread me = needed()
    cdef pollfd asked = pollfd(fd, <short> mask)
    breathe(me)
    while poll(&asked, 1, 0) == 0:
        wait_ready(me, fd, mask, None)
    return 0


def until_readable(int fd):
    """In a green thread: wait until a call that reads `fd` would not wait, made before any other thread runs.

    Others may have been woken for the same, and have been quicker: then this goes on to wait.
    """
    wait_for_turn(fd, EPOLLIN)


def until_writable(int fd):
    """The same for one that writes."""
    wait_for_turn(fd, EPOLLOUT)


# ---- the end of a descriptor


cpdef int closing(int fd) except -1:
    """An fd is about to be closed: whoever waits on it is told EBADF."""
    close_calls(fd)
    for ready in readies_on.pop(fd, ()):
        (<Ready> ready).close()
    return 0


cdef extern from "<sys/signalfd.h>" nogil:
    ctypedef struct sigset_t:
        pass

    enum:
        SFD_NONBLOCK
        SFD_CLOEXEC

    int sigemptyset(sigset_t* signals)
    int sigaddset(sigset_t* signals, int number)
    int signalfd(int fd, const sigset_t* signals, int flags)


def signal_fd(numbers):
    """A descriptor that can be read while one of these signals, which are blocked, is pending.  Raises OSError."""
    cdef sigset_t signals
    cdef int fd
    sigemptyset(&signals)
    for number in numbers:
        if sigaddset(&signals, number) < 0:
            raise ValueError(f"signal number {number} out of range")
    fd = signalfd(-1, &signals, SFD_NONBLOCK | SFD_CLOEXEC)
    if fd < 0:
        raise OSError(errno, os.strerror(errno))
    return fd


def forget_all():
    """In a forked child: those who wait are the parent's."""
    calls_on.clear()
    readies_on.clear()


os.register_at_fork(after_in_child=forget_all)
