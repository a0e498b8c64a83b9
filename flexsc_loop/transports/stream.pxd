from libc.stdint cimport uint16_t, uint32_t

from flexsc_loop.transports.reading cimport Reading
from flexsc_loop.turn.turn cimport Turn


cdef class Stream(Reading):
    cdef bint introduced              # connection_made has been called
    cdef bint may_linger              # SO_LINGER may have been set by other ways than the socket object
    cdef uint32_t closed_in           # low bits of the turn in which it was closed or aborted
    cdef object waiter                # future of whoever opens the connection
    cdef object server
    cdef object sock                  # socket object, made when somebody asks
    cdef dict extra
    cdef uint32_t peer_host           # IPv4: the peer's address and port, as the kernel has them
    cdef uint16_t peer_port           # 0: it is in `peer`
    cdef bytes peer, name             # raw sockaddrs

    cdef int start(self) except -1
    cdef int introduce(self) except -1
    cdef int end_soon(self) except -1
    cdef int lose(self) except -1
    cdef int let_go(self) except -1
    cdef object socket_object(self)
    cdef object address(self, bytes raw, str ask, object default)
    cdef object extra_info(self, object name, object default)


cdef Stream open_stream(Turn turn, int fd, object sock, object protocol, object context, object waiter, object server,
                        bytes peer, dict extra)
