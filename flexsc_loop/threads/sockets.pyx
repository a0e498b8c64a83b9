# cython: language_level=3, cdivision=True
"""Floor 5: the methods of sockets, for green threads.

Owns: nothing.  Imports: green, page, addresses.

Each is a method for `socket.socket`: called in a green thread it makes the call on the page, anywhere else it is what
it always was.  `gettimeout()` means what it does in blocking programs: None waits for ever, 0 never waits.
"""
import _socket
import os

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint32_t

from flexsc_loop.syscalls.interest cimport EPOLLIN, EPOLLOUT
from flexsc_loop.syscalls.page cimport CALL_RECV, CALL_SEND, EAGAIN, EBADF, EINTR
from flexsc_loop.syscalls.posix_socket cimport MSG_NOSIGNAL, MSG_WAITALL
from flexsc_loop.threads.green import let_others_run

from flexsc_loop.threads.green cimport Call, GreenThread, breathe, closing, current, make, wait_ready

cdef extern from "<errno.h>" nogil:
    enum:
        EINPROGRESS

cdef extern from "<sys/socket.h>" nogil:
    enum:
        SOL_SOCKET
        SO_ERROR
        AF_INET
        AF_INET6

cdef enum:
    RECEIVE_MOST = 64 * 1024     # bytes: more than that is never received into one new object
    SEND_MOST = 1 << 30

cdef object plain = _socket.socket
cdef object plain_recv = _socket.socket.recv
cdef object plain_recv_into = _socket.socket.recv_into
cdef object plain_send = _socket.socket.send
cdef object plain_sendall = _socket.socket.sendall
cdef object timeout_of = _socket.socket.gettimeout
cdef object fileno_of = _socket.socket.fileno


def recv(self, bufsize, int flags=0, /):
    """Receive up to bufsize bytes.  Source: socket.socket.recv."""
    cdef GreenThread me = current()
    cdef Py_ssize_t size
    cdef bytes data
    cdef Call op
    cdef int res
    if me is None:
        return plain_recv(self, bufsize, flags)
    timeout = timeout_in(self)
    size = bufsize
    if size <= 0 or timeout == 0:
        breathe(me)
        return plain_recv(self, bufsize, flags)
    size = min(size, <Py_ssize_t> RECEIVE_MOST)
    data = PyBytes_FromStringAndSize(NULL, size)
    op = Call.__new__(Call)
    op.kept = data
    res = make(me, op, CALL_RECV, fileno_of(self), PyBytes_AS_STRING(data), <uint32_t> size, 0, <uint32_t> flags, 0,
               timeout)
    op.kept = None
    if res < 0:
        raise_error(-res)
    return data[:res]


def recv_into(self, buffer, nbytes=0, int flags=0):
    """Receive into a buffer.  Source: socket.socket.recv_into."""
    cdef GreenThread me = current()
    cdef Py_buffer view
    cdef Py_ssize_t size
    cdef Call op
    cdef int res
    timeout = None if me is None else timeout_in(self)
    if me is None or timeout == 0:
        let_others_run()
        return plain_recv_into(self, buffer, nbytes, flags)
    size = nbytes
    if size < 0:
        raise ValueError("negative buffersize in recv_into")
    PyObject_GetBuffer(buffer, &view, PyBUF_WRITABLE)
    try:
        if size == 0:
            size = view.len
        if size > view.len:
            raise ValueError("nbytes is greater than the length of the buffer")
        if size == 0:
            return plain_recv_into(self, buffer, nbytes, flags)
        op = Call.__new__(Call)
        op.kept = memoryview(buffer)
        res = make(me, op, CALL_RECV, fileno_of(self), view.buf, <uint32_t> min(size, <Py_ssize_t> SEND_MOST), 0,
                   <uint32_t> flags, 0, timeout)
        op.kept = None
        if res < 0:
            raise_error(-res)
        return res
    finally:
        PyBuffer_Release(&view)


cdef Py_ssize_t send_all(GreenThread me, object sock, object data, int flags, object timeout) except -1:
    """Send all of `data`."""
    cdef Py_buffer view
    cdef Py_ssize_t done = 0
    cdef Call op
    cdef int res, fd = fileno_of(sock)
    until = None if timeout is None else me.turn.time() + timeout
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        op = Call.__new__(Call)
        op.kept = memoryview(data)
        while True:
            res = make(me, op, CALL_SEND, fd, <char*> view.buf + done,
                       <uint32_t> min(view.len - done, <Py_ssize_t> SEND_MOST), 0,
                       <uint32_t> (flags | MSG_NOSIGNAL | MSG_WAITALL), 0, timeout)
            if res < 0:
                raise_error(-res)
            done += res
            if done >= view.len:
                break
            if until is not None:
                timeout = max(0.0, until - me.turn.time())
        op.kept = None
        return done
    finally:
        PyBuffer_Release(&view)


def send(self, data, int flags=0, /):
    """Send bytes, all of them, as a blocking socket does.  Source: socket.socket.send."""
    cdef GreenThread me = current()
    timeout = None if me is None else timeout_in(self)
    if me is None or timeout == 0:
        let_others_run()
        return plain_send(self, data, flags)
    return send_all(me, self, data, flags, timeout)


def sendall(self, data, int flags=0, /):
    """Send all bytes.  Source: socket.socket.sendall."""
    cdef GreenThread me = current()
    timeout = None if me is None else timeout_in(self)
    if me is None or timeout == 0:
        return plain_sendall(self, data, flags)
    send_all(me, self, data, flags, timeout)


cdef int raise_error(int error) except -1:
    raise OSError(error, os.strerror(error))


# ---- calls that are made by the socket itself, as soon as it is ready


def timeout_in(sock):
    """How long a call on this socket may wait in a green thread: seconds, or None.  0: it never waits."""
    timeout = timeout_of(sock)
    if timeout == 0 and type(sock) is not plain_class:
        return sock.gettimeout()
    return timeout


def attempt(GreenThread me not None, sock, method, args, bint writes):
    """Call `method(sock, *args)` until it need not wait.  For what is called without a flag that keeps it from waiting.

    Raises TimeoutError.
    """
    cdef int fd = fileno_of(sock)
    timeout = timeout_in(sock)
    if timeout == 0 or fd < 0:
        return method(sock, *args)
    until = None if timeout is None else me.turn.time() + timeout
    while True:
        try:
            return at_once(sock, method, args)
        except (BlockingIOError, InterruptedError):
            pass
        if until is not None:
            timeout = until - me.turn.time()
        if timeout is not None and timeout <= 0 or not wait_ready(me, fd, EPOLLOUT if writes else EPOLLIN, timeout):
            raise TimeoutError("timed out")


cdef object at_once(object sock, object method, tuple args):
    """What `method(sock, *args)` gives if it does not wait, whatever the socket's time-out.  Raises BlockingIOError."""
    cdef int fd = fileno_of(sock)
    timeout = timeout_of(sock)
    if timeout == 0:
        return method(sock, *args)
    set_timeout(sock, 0.0)
    try:
        return method(sock, *args)
    finally:
        if fileno_of(sock) == fd:
            set_timeout(sock, timeout)


cdef object plain_class = None
cdef object set_timeout = _socket.socket.settimeout
cdef object plain_connect = _socket.socket.connect
cdef object plain_connect_ex = _socket.socket.connect_ex


def know_class(cls):
    """Which class has no timeouts of its own."""
    global plain_class
    plain_class = cls


def connect(self, address, /):
    """Connect.  Source: socket.socket.connect."""
    cdef GreenThread me = current()
    cdef int error
    if me is None or timeout_in(self) == 0:
        return plain_connect(self, address)
    error = connecting(me, self, address)
    if error:
        raise_error(error)


def connect_ex(self, address, /):
    """Connect; returns an errno.  Source: socket.socket.connect_ex."""
    cdef GreenThread me = current()
    if me is None or timeout_in(self) == 0:
        return plain_connect_ex(self, address)
    try:
        return connecting(me, self, address)
    except TimeoutError:
        return EAGAIN
    except OSError as error:
        if error.errno != EBADF:
            raise
        return EBADF


cdef int connecting(GreenThread me, object sock, object address) except -1:
    """Connect; an errno, 0 for success."""
    cdef int error, fd = fileno_of(sock)
    timeout = timeout_in(sock)
    address = resolved(sock, address)
    error = at_once(sock, plain_connect_ex, (address,))
    if error == EINPROGRESS or error == EINTR:
        if not wait_ready(me, fd, EPOLLOUT, timeout):
            raise TimeoutError("timed out")
        error = plain.getsockopt(sock, SOL_SOCKET, SO_ERROR)
    elif error == EAGAIN:
        # A Unix socket whose listener has no room: there is nothing to wait for.
        error = connect_unix(me, sock, address, timeout)
    return error


cdef int connect_unix(GreenThread me, object sock, object address, object timeout) except -1:
    cdef int error = EAGAIN
    cdef double pause = 0.001
    until = None if timeout is None else me.turn.time() + timeout
    while error == EAGAIN:
        if until is not None and me.turn.time() >= until:
            raise TimeoutError("timed out")
        me.wait(pause)
        pause = min(2 * pause, 0.05)
        error = at_once(sock, plain_connect_ex, (address,))
    return error


cdef object resolver = None


def resolve_with(function):
    """`function(family, kind, address)` gives an address without a name in it, without blocking."""
    global resolver
    resolver = function


cpdef object resolved(object sock, object address):
    """An address without a name in it, which the socket would look up, and block meanwhile."""
    if resolver is None or not isinstance(address, tuple) or len(address) < 2 or not isinstance(address[0], str):
        return address
    if sock.family not in (AF_INET, AF_INET6):
        return address
    return resolver(sock.family, sock.type, address)


def close_waits(sock):
    """A socket is about to be closed: whoever waits on it gets EBADF."""
    closing(fileno_of(sock))
