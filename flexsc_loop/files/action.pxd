from cpython.object cimport PyObject, PyTypeObject
from libc.stdint cimport int64_t

from flexsc_loop.files.at_once cimport AtOnce
from flexsc_loop.syscalls.file_call cimport FileCall

cdef extern from "action.h":
    void flexsc_stop_with(PyObject* value)
    void flexsc_set_next(PyTypeObject* type, PyObject* (*next)(PyObject*) except? NULL)


cdef enum action_state:
    NEW
    RUNNING
    OVER


cdef enum:
    RETURNED = 0                     # PYGEN_RETURN
    YIELDED = 1                      # PYGEN_NEXT


# Begins what was asked for: gives the result, or leaves in `action.running` the coroutine that will.
ctypedef object (*beginning)(Action action)


cdef class Action:
    cdef object file
    cdef object argument             # of the call
    cdef Py_ssize_t size             # likewise, where it is a number
    cdef int64_t offset              # and a second one
    cdef object running              # the coroutine that goes on where it could not be done at once
    cdef beginning begin
    cdef action_state state

    cdef int advance(self, object value, PyObject** result) except -1
    cdef int finish(self) except -1


cdef class Answer:
    cdef object value


cdef class Call(FileCall):
    cdef AtOnce home                 # what makes it
    cdef int fd, other_fd            # that it uses and that must not be closed meanwhile, or -1
    cdef bint late                   # done at once, but its task waits for the next turn
    cdef bint dropped                # cancelled
    cdef object message              # of the cancellation
    cdef object callback             # to be called when it is done, and its context
    cdef object context
    cdef list more                   # (callback, context) of others
    cdef bint blocking

    cdef object step(self)
    cdef int tell_all(self) except -1
    cdef int tell_one(self, object callback, object context) except -1


cdef Action act(object file, beginning begin, object argument, Py_ssize_t size)
cdef Answer known(object value)

# The way that `await` takes: for flexsc_set_next().
cdef PyObject* next_step(PyObject* action) except? NULL
