# cython: language_level=3, cdivision=True, binding=False, embedsignature=True, embedsignature.format=clinic
"""Floor 4: what a method of a file object returns: the call that was asked for, to be awaited.

Owns: when it begins (with the first step of whoever awaits it, as a coroutine does), and how it ends without a
coroutine where everything can be done at once.  Imports: nothing of the package.
"""
import warnings

cimport cython
from cpython.object cimport PyObject, PyTypeObject
from cpython.ref cimport Py_DECREF, Py_INCREF


cdef extern from "Python.h":
    int PyIter_Send(object iterator, object value, PyObject** result) except? -1


@cython.freelist(64)
cdef class Action:
    """A call on a file object: awaited as a coroutine is, once."""

    def __dealloc__(self):
        if self.state == NEW and self.begin != NULL:
            warnings.warn("a call on a file was never awaited, and never made", RuntimeWarning, stacklevel=1)

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        return self.send(None)

    def send(self, value, /):
        """Go on.  Source: collections.abc.Coroutine."""
        cdef PyObject* result = NULL
        if self.advance(value, &result) == YIELDED:
            answer = <object> result
            Py_DECREF(answer)
            return answer
        answer = <object> result
        Py_DECREF(answer)
        raise StopIteration(answer)

    def throw(self, *error):
        """Raise an exception in it.  Source: collections.abc.Coroutine."""
        if self.running is None:
            self.finish()
            if len(error) == 1 and isinstance(error[0], BaseException):
                raise error[0]
            raise error[0](*error[1:2])
        try:
            return self.running.throw(*error)
        except BaseException:
            self.finish()
            raise

    def close(self):
        """Give it up.  Source: collections.abc.Coroutine."""
        running = self.running
        self.finish()
        if running is not None:
            running.close()

    cdef int advance(self, object value, PyObject** result) except -1:
        cdef int how
        if self.state == NEW:
            if self.begin == NULL:
                raise RuntimeError("there is no call to be made")
            self.state = RUNNING
            try:
                answer = self.begin(self)
            except BaseException:
                self.finish()
                raise
            if self.running is None:
                self.finish()
                Py_INCREF(answer)
                result[0] = <PyObject*> answer
                return RETURNED
        elif self.state == OVER:
            raise RuntimeError("a call on a file can't be awaited twice")
        try:
            how = PyIter_Send(self.running, value, result)
        except BaseException:
            self.finish()
            raise
        if how == RETURNED:
            self.finish()
        return how

    cdef int finish(self) except -1:
        self.state = OVER
        self.file = self.argument = self.running = None
        return 0


@cython.freelist(16)
cdef class Answer:
    """What is known without a call: true or false by itself, and awaited."""

    def __bool__(self):
        return bool(self.value)

    def __eq__(self, other):
        return self.value == (other.value if isinstance(other, Answer) else other)

    def __hash__(self):
        return hash(self.value)

    def __repr__(self):
        return repr(self.value)

    def __await__(self):
        return _give(self.value)


def _give(value):
    return value
    yield


cdef Action act(object file, beginning begin, object argument, Py_ssize_t size):
    """A call to be made when it is awaited."""
    cdef Action action = Action.__new__(Action)
    action.file = file
    action.begin = begin
    action.argument = argument
    action.size = size
    return action


cdef Answer known(object value):
    cdef Answer answer = Answer.__new__(Answer)
    answer.value = value
    return answer


cdef PyObject* next_step(PyObject* action) except? NULL:
    cdef PyObject* result = NULL
    if (<Action> action).advance(None, &result) == YIELDED:
        return result
    flexsc_stop_with(result)
    return NULL


flexsc_set_next(<PyTypeObject*> Action, next_step)
