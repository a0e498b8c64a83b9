from flexsc_loop.files.buffered cimport Buffered


cdef class BinaryFile(Buffered):
    cdef object ending               # the task that closes the file
