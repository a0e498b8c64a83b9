cdef class Mode:
    cdef readonly str text
    cdef readonly int flags              # for open(2)
    cdef readonly bint binary, creating, appending, truncated, updating, can_read, can_write


cdef class Coding:
    cdef object info                 # what the registry of codecs says of the encoding
    cdef object encoding, errors
    cdef object encoder, decoder     # what makes them; None where the file is not written, not read
    cdef str newline                 # where lines end when they are read; None: at any of the three
    cdef str written_newline         # what is written for "\\n"; None: itself
    cdef bint universal, translating

    cdef object new_decoder(self)


cdef Mode mode_of(object text)
cdef int check_encodable(str text) except -1
cdef Coding coding_of(object encoding, object errors, object newline, bint reads, bint writes)
