from libc.stdint cimport uint32_t

from flexsc_loop.syscalls.interest cimport Interest, InterestList
from flexsc_loop.turn.handles cimport Handle
from flexsc_loop.turn.turn cimport Endpoint, Turn


cdef class Wait(Interest):
    cdef InterestList interests
    cdef object future               # None: only for a turn
    cdef bint suspended


cdef class Level(Interest):
    cdef Watch watch


cdef class Watch(Endpoint):
    cdef int fd
    cdef bint writer
    cdef object fileobj              # what was registered: found by it again when it has been closed
    cdef Handle handle
    cdef Level level

    cdef Level let_go(self)


cdef class ReadinessTurn(Turn):
    cdef dict readers, writers       # fd -> Watch

    cdef int forget_watches(self) except -1
    cdef int fd_of(self, object fileobj, bint free) except? -1
    cdef Handle watch(self, bint writer, object fileobj, bint free, object callback, tuple args, object context)
    cdef bint unwatch(self, bint writer, object fileobj, bint free) except -1
    cdef int drop(self, Watch watch) except -1


cdef Wait wait_until(Turn turn, int fd, uint32_t mask, Wait earlier)
cdef Wait next_turn(Turn turn)
