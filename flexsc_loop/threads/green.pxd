from cpython.object cimport PyObject
from libc.stdint cimport uint64_t

from flexsc_loop.syscalls.operation cimport Operation
from flexsc_loop.turn.turn cimport Endpoint, Turn


cdef class Hub:
    cdef object __weakref__
    cdef Turn turn
    cdef PyObject* who               # borrowed: the greenlet that runs the loop
    cdef GreenThread running         # the thread that runs now
    cdef uint64_t turns              # the turn of which the following tell
    cdef uint64_t began              # ticks: when it did
    cdef size_t budget               # so many more may be switched to past the loop
    cdef size_t batch                # so many were ready when it began
    cdef uint64_t resumed            # ticks: when the last one was
    cdef uint64_t lasts              # ticks that a thread runs before the next one does, on average

    cdef int begin_turn(self) except -1
    cdef bint sends_at_once(self) noexcept
    cdef int note_resumption(self, uint64_t now) noexcept


cdef class GreenThread(Endpoint):
    cdef Hub hub
    cdef PyObject* older             # neighbours in the list of all, which owns none
    cdef PyObject* newer
    cdef object function, args, kwargs
    cdef object inner                # an event loop that runs in this thread, or None
    cdef object who                  # the greenlet to go on with: ours, or one that our program has made
    cdef object thrown               # to be raised where it waits
    cdef list calls                  # to be made in it where it waits, or None
    cdef object joiners              # futures-like callbacks to call at the end, or None
    cdef uint64_t parks              # how often it has waited
    cdef readonly unsigned long home         # the number of the real thread that it runs in
    cdef uint64_t since              # ticks: when it was resumed
    cdef bint begun                  # has a stack
    cdef bint parked
    cdef public bint awaited         # somebody has asked, or will, what it returned or raised
    cdef Operation spare             # for the next call: see descriptors.a_call
    cdef int emptied                 # the socket that its last receive has emptied; -1: none
    cdef bint filled                 # its last receive has filled what it was given
    cdef readonly bint started, finished
    cdef readonly object result, error
    cdef public object name
    cdef public bint daemon
    cdef public bint is_main         # its program's main thread: has the real thread's number

    cdef int park(self) except -1
    cdef int leave(self) except -1
    cdef int leave_inner(self) except -1
    cdef int goes_on(self) except -1
    cdef int make_calls(self) except -1
    cdef int unpark(self) except -1
    cdef int end(self) except -1


cdef GreenThread current()
cdef int breathe(GreenThread me) except -1
cdef GreenThread needed()
