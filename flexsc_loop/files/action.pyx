# cython: language_level=3, cdivision=True, binding=False, embedsignature=True, embedsignature.format=clinic
"""Floor 4: what is awaited: a method of a file object that was called, and a call on a file.

Owns: when a method begins (with the first step of whoever awaits it, as a coroutine does), how it ends without a
coroutine where everything can be done at once, and when who awaits a call goes on.  Imports: action.h, at_once,
file_call; of asyncio what its futures promise to tasks.
"""
import warnings
from asyncio.exceptions import CancelledError, InvalidStateError
from contextvars import copy_context

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


# ---- calls on files


@cython.no_gc
cdef class Call(FileCall):
    """A call on a file, to be awaited; what it gives is its value then.

    A task may await it once; to others it is what asyncio's futures are (`asyncio.isfuture`).  Awaiting one that was
    done at once does not suspend.
    """

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        return self.step()

    cdef object step(self):
        if self.late:
            self.late = False
            return None
        if self.over or self.dropped:
            if self.error is None and not self.dropped:
                self.opened = False
                raise StopIteration(self.value)
            self.result()
        if self.blocking:
            raise RuntimeError("await wasn't used with future")
        self.blocking = True
        return self

    @property
    def _asyncio_future_blocking(self):
        return self.blocking

    @_asyncio_future_blocking.setter
    def _asyncio_future_blocking(self, bint value):
        self.blocking = value

    def get_loop(self):
        """The loop that makes the call."""
        return self.home.turn

    @property
    def _loop(self):
        return self.home.turn

    def done(self):
        """Whether it has a result, or was cancelled."""
        return self.over or self.dropped

    def cancelled(self):
        """Whether it was cancelled."""
        return self.dropped

    def result(self):
        """What the call has given.  Raises what it has raised, CancelledError, or InvalidStateError before its end."""
        if self.dropped:
            raise CancelledError() if self.message is None else CancelledError(self.message)
        if not self.over:
            raise InvalidStateError("Result is not ready.")
        if self.error is not None:
            raise self.error
        self.opened = False
        return self.value

    def exception(self):
        """What the call has raised, None if nothing.  Raises CancelledError, or InvalidStateError before its end."""
        if self.dropped or not self.over:
            self.result()
        return self.error

    def cancel(self, msg=None):
        """Wait for it no longer; it is made all the same if it changes anything, or has begun."""
        if self.over or self.dropped:
            return False
        self.dropped = True
        self.message = msg
        self.tell_all()
        self.withdraw()
        return True

    def add_done_callback(self, callback, *, context=None):
        """Have `callback(self)` called when it is done."""
        if self.over or self.dropped:
            self.tell_one(callback, context)
            return
        if context is None:
            context = copy_context()
        if self.callback is None:
            self.callback = callback
            self.context = context
        else:
            if self.more is None:
                self.more = []
            self.more.append((callback, context))

    def remove_done_callback(self, callback):
        """Have it not called; returns how many times it would have been."""
        kept = [pair for pair in ([(self.callback, self.context)] if self.callback is not None else [])
                + (self.more or [])]
        count = len(kept)
        kept = [pair for pair in kept if pair[0] != callback]
        self.callback, self.context = kept.pop(0) if kept else (None, None)
        self.more = kept or None
        return count - len(kept) - (self.callback is not None)

    cdef int tell_one(self, object callback, object context) except -1:
        self.home.turn.soon(callback, (self,), context)
        return 0

    cdef int tell_all(self) except -1:
        callback, self.callback = self.callback, None
        context, self.context = self.context, None
        more, self.more = self.more, None
        if self.home.turn._closed:
            return 0
        if callback is not None:
            self.tell_one(callback, context)
        if more is not None:
            for callback, context in more:
                self.tell_one(callback, context)
        return 0

    cdef int told(self) except -1:
        self.home.ended(self)
        return self.tell_all()


cdef PyObject* call_step(PyObject* awaited) except? NULL:
    cdef Call call = <Call> awaited
    if call.over and not call.late and not call.dropped and call.error is None:
        call.opened = False
        Py_INCREF(call.value)
        flexsc_stop_with(<PyObject*> call.value)
        return NULL
    step = call.step()
    Py_INCREF(step)
    return <PyObject*> step


flexsc_set_next(<PyTypeObject*> Call, call_step)
