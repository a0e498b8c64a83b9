# cython: language_level=3, cdivision=True
"""Floor 1: the interest list: who waits for the readiness of descriptors that anybody may close.

Owns: an epoll instance.  Imports: page, operation.

A poll or a receive that io_uring has in flight keeps its file open, whoever closes the descriptor: the peer never sees
the end.  It also ends with events that nobody asked for; RDHUP, above all, ends each wait for room at once as soon as
the peer has shut down its sending side.  epoll does neither.  So what is not the loop's own waits here, what the page
waits for is the epoll instance, and one look at that (`epoll_wait`, without waiting) finds all that is ready.

Epoll knows a registration by file and number.  It goes when the file goes, which is not when the number is closed if a
child or a duplicate has the file open, too.  So no wait relies on what was registered before it: it tells epoll anew,
and learns that the number is another file's by now.  There are three kinds of registrations:

- for one report, after which it is silent: a wait;
- for edges: a wait that was told, called, and found nothing.  A socket with something in its error queue is reported
  for ever otherwise;
- for the level: what is to be told as long as the fd is ready.
"""
import os

cimport cython
from libc.errno cimport EEXIST, ENOENT, errno
from libc.stdint cimport uint32_t, uint64_t
from posix.unistd cimport close as close_fd

from flexsc_loop.syscalls.operation cimport Operation
from flexsc_loop.syscalls.page cimport CALL_POLL, Page

cdef enum:
    LASTING = 0x80000000         # in a report: the registration is not for one report only
    EVENTS = EPOLLIN | EPOLLOUT
    TRIES = 3


cdef class Interest:
    """Somebody who waits until an fd can be read or written."""

    cdef int came(self) except -1:
        """The fd is ready, or has an error.  Bookkeeping only, no user code.

        Off the list by now, unless for the level.
        """
        return 0

    cdef int lost(self) except -1:
        """The number is another file's now.  Bookkeeping only.  It is off the list."""
        return 0


cdef bint covers(uint32_t armed, uint32_t wanted) noexcept:
    """Whether what epoll was told is enough.  Reporting more than is wanted does harm only if it has no end."""
    if (armed & EVENTS & wanted) != wanted & EVENTS:
        return False
    if wanted & EPOLLONESHOT:
        return armed & (EPOLLONESHOT | EPOLLET) != 0
    return armed & EPOLLET != 0 if wanted & EPOLLET else armed == wanted


cdef class Number:
    """A descriptor number, and who waits for the file there."""

    cdef uint32_t wanted(self) noexcept:
        """What epoll is to report, and how."""
        cdef Interest at = self.first
        cdef uint32_t events = 0
        cdef bint level = False, vain = False
        while at is not None:
            events |= at.mask
            level |= at.level
            vain |= at.vain
            at = at.following
        if events == 0 or level:
            return events
        return events | (EPOLLET if vain else EPOLLONESHOT)

    cdef int append(self, Interest interest) except -1:
        cdef Interest at = self.first
        interest.listed = True
        interest.following = None
        if at is None:
            self.first = interest
            return 0
        while at.following is not None:
            at = at.following
        at.following = interest
        return 0

    cdef int remove(self, Interest interest) except -1:
        cdef Interest at = self.first
        interest.listed = False
        if at is interest:
            self.first = interest.following
        else:
            while at.following is not interest:
                at = at.following
            at.following = interest.following
        interest.following = None
        return 0


cdef class Look(Operation):
    """The page's poll of the epoll instance, in flight as long as somebody waits."""

    cdef int complete(self, int res, uint32_t flags) except -1:
        cdef InterestList interests
        if self.interests == NULL:
            return 0
        interests = <InterestList> self.interests
        if interests.epoll_fd < 0 or interests.page.closed:
            return 0
        try:
            return interests.look()
        finally:
            interests.arm()


@cython.no_gc_clear  # the poll, which the page may hold for longer, has to be told
cdef class InterestList:
    """All that one loop waits for on descriptors of others."""

    def __cinit__(self, Page page not None):
        self.page = page
        self.epoll_fd = -1
        self.numbers = {}
        self.poll = Look.__new__(Look)
        self.poll.interests = <void*> self
        self.poll.retractable = True

    def __dealloc__(self):
        if self.poll is not None:
            self.poll.interests = NULL
        if self.epoll_fd >= 0:
            close_fd(self.epoll_fd)

    cdef int add(self, Interest interest) except -1:
        """Have `interest` told, or told anew.  Raises OSError: PermissionError for files that are never waited for."""
        cdef Number number
        cdef int error
        if self.epoll_fd < 0:
            self.open()
        self.arm()
        number = self.numbers.get(interest.fd)
        if number is None:
            number = Number.__new__(Number)
            number.fd = interest.fd
            self.numbers[interest.fd] = number
        if not interest.listed:
            self.link(number, interest)
        if interest.vain and covers(number.armed, number.wanted()):
            return 0
        error = self.tell(number, interest)
        if error:
            if interest.listed:
                self.unlink(number, interest)
            if number.first is None:
                del self.numbers[interest.fd]
            raise OSError(error, os.strerror(error))
        return 0

    cdef int withdraw(self, Interest interest) except -1:
        """Take `interest` off the list, if it is on it.  Nobody's fd is touched for it afterwards.

        Raises OSError if others wait on the same fd in vain, because it was closed.
        """
        cdef Number number
        cdef uint32_t wanted
        cdef int error
        if not interest.listed:
            return 0
        number = self.numbers[interest.fd]
        self.unlink(number, interest)
        wanted = number.wanted()
        if wanted == 0:
            self.take_out(number)
            return 0
        if number.armed & (EPOLLONESHOT | EPOLLET) or number.armed == wanted:
            return 0
        error = self.tell(number, None)
        if error:
            self.evict(number, None)
            raise OSError(error, os.strerror(error))
        return 0

    cdef bint arm(self) except -1:
        """Have the page poll for reports.  False: not from here, the loop's thread is at the page without the GIL."""
        if self.poll.user_data != 0 or self.page.closed or self.epoll_fd < 0:
            return True
        if self.page.away:
            return False
        self.page.submit(self.poll, CALL_POLL, self.epoll_fd, NULL, 0, 0, EPOLLIN, 0)
        if not self.counted:
            self.counted = True
            self.page.housekeeping += 1
        return True

    cdef int open(self) except -1:
        self.page.check()
        self.epoll_fd = epoll_create1(EPOLL_CLOEXEC)
        if self.epoll_fd < 0:
            raise OSError(errno, os.strerror(errno))
        return 0

    cdef int link(self, Number number, Interest interest) except -1:
        number.append(interest)
        self.waiting += 1
        return 0

    cdef int unlink(self, Number number, Interest interest) except -1:
        number.remove(interest)
        self.waiting -= 1
        return 0

    # ---- telling epoll

    cdef int tell(self, Number number, Interest newcomer) except -1:
        """Register what is wanted.  Returns 0 or an errno."""
        cdef int error = 0
        for _ in range(TRIES):
            if not number.registered:
                # Whoever is on the list already has waited for another file.
                self.evict(number, newcomer)
            if number.first is None:
                return 0
            error = self.register(number)
            if error == 0:
                return 0
            # ENOENT: the number is another file's by now.  EEXIST: its file has had the number before.
            number.registered = error == EEXIST
            number.armed = 0
            if error != ENOENT and error != EEXIST:
                break
        return error

    cdef int register(self, Number number) except -1:
        cdef epoll_event event
        cdef int op = EPOLL_CTL_MOD
        if not number.registered:
            op = EPOLL_CTL_ADD
            number.generation += 1
        event.events = number.wanted()
        event.data.u64 = <uint64_t> number.generation << 32 | <uint32_t> number.fd
        if not event.events & EPOLLONESHOT:
            event.data.u64 |= <uint32_t> LASTING
        self.page.direct_calls += 1
        if epoll_ctl(self.epoll_fd, op, number.fd, &event) != 0:
            return errno
        number.registered = True
        number.armed = event.events
        return 0

    cdef int evict(self, Number number, Interest newcomer) except -1:
        """Take all but the newcomer off the list."""
        cdef Interest at = number.first, following
        while at is not None:
            following = at.following
            if at is not newcomer:
                self.unlink(number, at)
                at.lost()
            at = following
        return 0

    cdef bint take_out(self, Number number) noexcept:
        """Nobody waits any more.  Returns whether nothing will be reported.

        What has had its one report is silent, and stays registered for the next wait.
        """
        if number.armed == 0:
            return True
        number.registered = False
        number.armed = 0
        self.page.direct_calls += 1
        return epoll_ctl(self.epoll_fd, EPOLL_CTL_DEL, number.fd, NULL) == 0

    # ---- what epoll reports

    cdef int look(self) except -1:
        """Tell those whose fds are ready."""
        cdef int at
        self.looked = True
        if self.at == self.count:
            self.at = self.count = 0
            self.page.direct_calls += 1
            at = epoll_wait(self.epoll_fd, self.events, EVENTS_PER_LOOK, 0)
            if at < 0:
                raise OSError(errno, os.strerror(errno))
            self.count = at
        # If somebody's call_soon() fails, the others are told with the next look.
        while self.at < self.count:
            at = self.at
            self.at += 1
            self.mark(&self.events[at])
        if self.stray:
            self.renew()
        return 0

    cdef int look_for_oneself(self) except -1:
        """Look without waiting for the page's poll, unless that has come since the last time.

        A busy loop would learn of what is ready only when a syscall thread, which has a core to wait for, has told it.
        """
        if self.waiting and not self.looked:
            self.look()
        self.looked = False
        return 0

    cdef int mark(self, epoll_event* event) except -1:
        cdef uint32_t data = <uint32_t> event.data.u64
        cdef Number number = self.numbers.get(<int> (data & ~<uint32_t> LASTING))
        cdef bint told = False
        cdef uint32_t wanted
        if number is None or not number.registered or number.generation != event.data.u64 >> 32:
            self.stray |= data & <uint32_t> LASTING != 0
            return 0
        if number.armed & EPOLLONESHOT:
            number.armed = 0
        # As in asyncio: an error or a hang-up is news to both sides.
        if event.events & ~<uint32_t> EPOLLOUT:
            told |= self.inform(number, EPOLLIN)
        if event.events & ~<uint32_t> EPOLLIN:
            told |= self.inform(number, EPOLLOUT)
        wanted = number.wanted()
        if wanted and not covers(number.armed, wanted):
            self.tell(number, None)
        elif wanted == 0 and not told and not self.take_out(number):
            self.stray = True
        return 0

    cdef bint inform(self, Number number, uint32_t side) except -1:
        """Tell all that wait on one side.  Returns whether there was anybody."""
        cdef Interest at = number.first, following
        cdef bint told = False
        while at is not None:
            following = at.following
            if at.mask & side:
                told = True
                if not at.level:
                    self.unlink(number, at)
                at.came()
            at = following
        return told

    cdef int renew(self) except -1:
        """Leave behind what is reported without end and cannot be taken out, its number being closed or another file's.

        In this order, so that it works if no more descriptors are to be had.
        """
        cdef Number number
        cdef list kept = []
        self.stray = False
        for number in self.numbers.values():
            # Whoever waits for a file that has gone from its number is not to be told of the next one there.
            if (number.registered and number.first is not None
                    and epoll_ctl(self.epoll_fd, EPOLL_CTL_DEL, number.fd, NULL) == 0):
                kept.append(number)
            number.registered = False
            number.armed = 0
        close_fd(self.epoll_fd)
        self.epoll_fd = -1
        self.open()
        for number in kept:
            self.register(number)
        return 0

    cpdef close(self):
        """The loop has been closed, or is another process's.  After the page: that polls the epoll instance."""
        cdef Number number
        for number in self.numbers.values():
            while number.first is not None:
                self.unlink(number, number.first)
        self.numbers.clear()
        self.at = self.count = 0
        if self.epoll_fd >= 0:
            close_fd(self.epoll_fd)
            self.epoll_fd = -1
