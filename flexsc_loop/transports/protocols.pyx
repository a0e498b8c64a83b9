# cython: language_level=3, cdivision=True
"""Floor 4: endpoints with a protocol: what those of pipes and datagrams are told, and when.

Owns: nothing.  Imports: handles, turn.

connection_made and connection_lost stand in line with the callbacks, as in asyncio: after those that were due already,
before others.
"""
from cpython.contextvars cimport PyContext_CopyCurrent

from flexsc_loop.transports.connection cimport call_for, marks
from flexsc_loop.turn.handles cimport call_in
from flexsc_loop.turn.turn cimport Endpoint


cdef enum:
    HIGH_WATER = 64 * 1024


cdef class ProtocolEndpoint(Endpoint):
    """An endpoint and the protocol that is told what happens there.  The transport's `_go_on` calls `go_on`."""

    def __cinit__(self):
        self.high = HIGH_WATER
        self.low = HIGH_WATER // 4

    cdef object shown(self):
        return self if self.protocol is None else self.protocol

    cdef int begin(self, object facade, object protocol, object waiter) except -1:
        """Have connection_made called, and then `waiter` told."""
        self.facade = facade
        self.protocol = protocol
        self.waiter = waiter
        self.context = PyContext_CopyCurrent()
        self.fresh = True
        return self.stand_in_line()

    cdef int stand_in_line(self) except -1:
        if self.in_line or self.turn.page.closed:
            return 0
        if self.turn._debug:
            self.turn._check_thread()
        self.in_line = True
        self.turn.soon(self.facade._go_on, (), None)
        return 0

    cdef int go_on(self) except -1:
        """What stands in line is due."""
        cdef bint done = False
        self.in_line = False
        if self.state == CLOSING and self.turn.page.eager:
            self.await_ends()
        try:
            self.run(self.turn)
            done = True
        finally:
            if not done:
                self.cut_short()
        return 0

    cdef int await_ends(self) except -1:
        """Give a syscall thread a moment to end what is in flight."""
        return 0

    cdef int introduce(self) except -1:
        """connection_made, then whoever waits for the endpoint, and in the next turn what there is to do."""
        self.fresh = False
        self.wake_up()
        try:
            self.tell_of("connection_made", self.facade)
        finally:
            waiter, self.waiter = self.waiter, None
            if waiter is not None and not waiter.done():
                waiter.set_result(None)
        return 0

    cdef int tell(self, str name) except -1:
        """Call the protocol's method of that name in its context; what it raises is reported."""
        try:
            call_for(self.context, getattr(self.protocol, name))
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self.complain(f"Exception in callback {name}", error)
        return 0

    cdef int tell_of(self, str name, object argument) except -1:
        """The same with an argument."""
        try:
            call_in(self.context, getattr(self.protocol, name), argument)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self.complain(f"Exception in callback {name}", error)
        return 0

    cdef int complain(self, str message, object error) except -1:
        self.turn.call_exception_handler({
            "message": message, "exception": error, "transport": self.facade, "protocol": self.protocol})
        return 0

    # ---- flow control

    cdef int pause_if_much(self) except -1:
        if self.protocol_paused or self.unsent <= self.high:
            return 0
        self.protocol_paused = True
        try:
            self.protocol.pause_writing()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self.complain("protocol.pause_writing() failed", error)
        return 0

    cdef int resume_if_little(self) except -1:
        if not self.protocol_paused or self.unsent > self.low:
            return 0
        self.protocol_paused = False
        try:
            call_for(self.context, self.protocol.resume_writing)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self.complain("protocol.resume_writing() failed", error)
        return 0

    cdef int set_limits(self, object high, object low) except -1:
        self.high, self.low = marks(high, low, HIGH_WATER // 1024)
        return self.pause_if_much()
