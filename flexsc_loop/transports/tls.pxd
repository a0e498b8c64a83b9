from flexsc_loop.transports.tls_core cimport Tls
from flexsc_loop.turn.turn cimport Turn


cdef class Settings:
    cdef object context               # ssl.SSLContext
    cdef bint server_side
    cdef object hostname
    cdef object handshake_timeout, shutdown_timeout      # seconds

    cdef Tls new_tls(self, object protocol, object waiter)
    cdef Tls open(self, Turn turn, int fd, bytes peer, object protocol, object context, object waiter,
                  object server)
