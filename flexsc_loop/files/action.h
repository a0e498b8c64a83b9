/* Floor 4: how an object that is awaited gives its result to whoever awaits it. */
#ifndef FLEXSC_FILES_ACTION_H
#define FLEXSC_FILES_ACTION_H

#include <Python.h>

/* End an iteration, with a value, which is taken over: NULL follows, which says None by itself.  StopIteration is made by
 * hand where PyErr_SetObject would take the value apart. */
static inline void flexsc_stop_with(PyObject *value)
{
    if (value == Py_None) {
        Py_DECREF(value);
        return;
    }
    if (PyTuple_Check(value) || PyExceptionInstance_Check(value)) {
        PyObject *stop = PyObject_CallOneArg(PyExc_StopIteration, value);
        if (stop != NULL) {
            PyErr_SetObject(PyExc_StopIteration, stop);
            Py_DECREF(stop);
        }
    } else {
        PyErr_SetObject(PyExc_StopIteration, value);
    }
    Py_DECREF(value);
}

/* The way that `await` takes: without the traceback entry that Cython adds wherever an exception leaves a function. */
static void flexsc_set_next(PyTypeObject *type, PyObject *(*next)(PyObject *))
{
    type->tp_iternext = next;
    PyType_Modified(type);
}

#endif
