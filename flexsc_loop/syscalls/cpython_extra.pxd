# Floor 0: what the modules above use of Python's C API and Cython does not bring along, or declares otherwise, once.
# The rest is in cpython.bytes (_PyBytes_Resize), cpython.contextvars, cpython.buffer, cpython.ref and so on.

from cpython.object cimport PyObject


cdef extern from "Python.h":
    # New bytes that nobody else has seen yet: they may be filled, and resized with _PyBytes_Resize.
    PyObject* new_bytes "PyBytes_FromStringAndSize"(const char*, Py_ssize_t) except NULL
    void Py_DECREF_ "Py_DECREF"(PyObject*)
    bint PyUnicode_IS_ASCII(object text) noexcept
    object PyObject_Vectorcall(object callable, PyObject** arguments, size_t count, PyObject* names)
    enum:
        VECTORCALL_OFFSET "PY_VECTORCALL_ARGUMENTS_OFFSET"
