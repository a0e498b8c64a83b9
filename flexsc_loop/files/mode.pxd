cdef class Mode:
    cdef readonly str text
    cdef readonly int flags              # for open(2)
    cdef readonly bint binary, creating, appending, truncated, updating, can_read, can_write


cdef Mode mode_of(object text)
cdef int check_encodable(str text) except -1
