from flexsc_loop.files.action cimport Action
from flexsc_loop.files.buffered cimport Buffered


cdef class BinaryFile(Buffered):
    cdef object ending               # the task that closes the file

    cdef object all_at_once(self, Action action)
    cdef Action closing(self)
    cdef bint closes_at_once(self) except -1
