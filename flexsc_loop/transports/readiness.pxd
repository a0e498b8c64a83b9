from libc.stdint cimport uint32_t

from flexsc_loop.turn.handles cimport Handle
from flexsc_loop.turn.turn cimport Turn


cdef class ReadinessTurn(Turn):
    cdef dict readers, writers       # fd -> Watch

    cdef int forget_watches(self) except -1
    cdef int free_fd(self, object fileobj) except -1
    cdef Handle watch(self, dict watches, object fileobj, uint32_t mask, object callback, tuple args, bint check)
    cdef bint unwatch(self, dict watches, object fileobj, bint check) except -1
