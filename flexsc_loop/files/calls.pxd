from libc.stdint cimport int64_t, uint32_t, uint64_t

from flexsc_loop.files.action cimport Call
from flexsc_loop.files.at_once cimport AtOnce, file_about


cdef int c_int(object number) except? -1


cdef class FileCalls(AtOnce):
    cdef dict busy                   # fd -> calls in flight on it
    cdef dict closing                # fd -> the close that waits for them

    cdef Call new_call(self, int fd)
    cdef Call path_call(self, object path)
    cdef Call two_paths(self, object src, object dst)
    cdef object start(self, Call call)
    cdef object start_on(self, Call call, int other_fd)
    cdef object refuse(self, Call call, int error)
    cdef object end_at_once(self, Call call, int64_t res)
    cdef object known_at_once(self, object value)
    cdef object read_bytes(self, int fd, Py_ssize_t size, int64_t offset, bint plain, bint patient,
                           uint32_t device)
    cdef object read_later(self, Call call, int res, size_t moved, uint32_t device)
    cdef Call open_described(self, object path, int flags, int mode, int* opened, file_about* about)
    cdef bint close_at_once(self, int fd, uint64_t opened_in) except -1
    cdef object start_stat(self, Call call, int fd)
    cdef int take_fd(self, int fd) except -1
    cdef int give_fd(self, int fd) except -1
