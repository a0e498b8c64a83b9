from libc.stdint cimport int64_t, uint64_t

from flexsc_loop.files.action cimport Action
from flexsc_loop.files.at_once cimport file_about
from flexsc_loop.files.file cimport File
from flexsc_loop.files.mode cimport Mode


cdef enum:
    NO_BUFFER_CHUNK = 8192           # an unbuffered file is read in such pieces where its lines are asked for


cdef class Buffered(File):
    cdef bytes ahead                 # what was read, of which `taken` bytes were given out
    cdef bytearray unwritten         # what was written and is not in the file yet: it ends at the position
    cdef Py_ssize_t taken
    cdef Py_ssize_t buffer_size      # 0: unbuffered
    cdef int64_t position            # where the next byte is read or written, if calls carry offsets
    cdef int64_t size_hint           # the file's size, when it was last heard of
    cdef uint64_t opened_in          # the turn in which closing it was seen to wait for nobody, or 0
    cdef bint truncated              # by being opened, if io's `mode` says so
    cdef bint in_order               # the last read began where the one before had ended

    cdef int set_up(self, object calls, object loop, int fd, object name, Mode mode, const file_about* about,
                    Py_ssize_t buffer_size, bint shared, bint closefd) except -1
    cdef int check_reading(self, str what) except -1
    cdef int check_writing(self, str what) except -1
    cdef Py_ssize_t there(self) noexcept
    cdef bytes take(self, Py_ssize_t size)
    cdef int keep(self, bytes data) except -1
    cdef int forget(self) except -1
    cdef bytes give_all(self, bytes data)
    cdef Py_ssize_t pass_over(self, Py_ssize_t filled) except -1
    cdef bint may_fill(self, Py_ssize_t size) noexcept
    cdef Py_ssize_t chunk(self, Py_ssize_t wanted) noexcept
    cdef Py_ssize_t line_end(self, Py_ssize_t start, Py_ssize_t limit) except -1
    cdef bytes line_there(self, Py_ssize_t limit)
    cdef bint takes(self, Py_ssize_t size) noexcept
    cdef int accept(self, bytes data) except -1
    cdef int moved(self, Py_ssize_t size) except -1
    cdef object where(self)
    cdef int jump(self, int64_t target) except -1
    cdef object write_through(self, Action action, bytes data)
    cdef int tell_unheard(self, int error) except -1
    cdef int write_now(self) except -1


cdef list lines_of(bytes data)
cdef Py_ssize_t lines_size(bytes data, Py_ssize_t start, Py_ssize_t hint) except -1
cdef object room(object buffer, str what)
cdef bytes plain_bytes(object data)
