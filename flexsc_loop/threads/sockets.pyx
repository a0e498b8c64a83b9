# cython: language_level=3, cdivision=True
"""Floor 5: the methods of sockets, for green threads.

Owns: nothing.  Imports: descriptors, green, kernel_page, page.

Each is a method for `socket.socket`: called in a green thread it makes the call on the page, anywhere else it is what
it always was.  `gettimeout()` means what it does in blocking programs: None waits for ever, 0 never waits.
"""
import _socket
import os

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, _PyBytes_Resize
from cpython.object cimport PyObject, PyObject_TypeCheck, PyTypeObject
from cpython.ref cimport Py_XDECREF
from libc.errno cimport EINPROGRESS, errno
from libc.stdint cimport int64_t, uint32_t

from flexsc_loop.syscalls.cpython_extra cimport new_bytes
from flexsc_loop.syscalls.interest cimport EPOLLIN, EPOLLOUT
from flexsc_loop.syscalls.kernel_page cimport KernelPage
from flexsc_loop.syscalls.page cimport (
    CALL_RECV, CALL_SEND, COMPLETION_NONEMPTY, EAGAIN, EBADF, EINTR, ENOBUFS, ENTRY_POLL_FIRST, ENTRY_POOL,
    FIRST_BUFFERS, pool_grow, stream_pool,
)
from flexsc_loop.syscalls.posix_socket cimport MSG_DONTWAIT, MSG_NOSIGNAL, MSG_WAITALL
from flexsc_loop.syscalls.posix_socket cimport send as plainly_send
from flexsc_loop.threads.green import let_others_run

from flexsc_loop.threads.descriptors cimport Call, a_call, closing, done_with, make, wait_ready
from flexsc_loop.threads.green cimport GreenThread, breathe, current

cdef extern from "<sys/socket.h>" nogil:
    enum:
        SOL_SOCKET
        SO_ERROR
        AF_INET
        AF_INET6
        SOCK_STREAM
        MSG_PEEK

cdef extern from "socket_fields.h":
    struct socket_fields:
        int fd
        int type
        int64_t timeout_ns

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


# ---- what a socket is


cdef bint layout_is_known() except -1:
    """Whether the socket objects of this Python are laid out as socket_fields.h says."""
    sock = plain(_socket.AF_INET, _socket.SOCK_DGRAM)
    try:
        fields = <socket_fields*> <void*> sock
        sock.settimeout(None)
        if fields.fd != sock.fileno() or fields.type != _socket.SOCK_DGRAM or fields.timeout_ns >= 0:
            return False
        sock.settimeout(1.25)
        return fields.timeout_ns == 1_250_000_000
    finally:
        sock.close()


cdef bint known = layout_is_known()
cdef object NO_WAIT = object()       # in place of a time-out: the call never waits


cdef int fd_of(object sock) except? -1:
    return (<socket_fields*> <void*> sock).fd if known else fileno_of(sock)


cdef bint is_stream(object sock) except -1:
    return ((<socket_fields*> <void*> sock).type if known else sock.type) == SOCK_STREAM


cdef object patience(GreenThread me, object sock):
    """How long a call on `sock` may wait: seconds, or None for ever.  NO_WAIT: the plain method is to be called."""
    cdef int64_t ns
    if me is None or not PyObject_TypeCheck(sock, <PyTypeObject*> plain):
        return NO_WAIT
    if known:
        ns = (<socket_fields*> <void*> sock).timeout_ns
        if ns < 0:
            return None
        if ns == 0 and type(sock) is plain_class:
            return NO_WAIT
    timeout = timeout_in(sock)
    return NO_WAIT if timeout == 0 else timeout


# ---- receiving


cdef Py_ssize_t call_to_receive(GreenThread me, Call op, int fd, char* target, Py_ssize_t size, int flags, uint32_t how,
                                object timeout) except -1:
    """recv(2); the number of bytes."""
    cdef bint all_of_it = flags & MSG_WAITALL and not flags & MSG_PEEK and timeout is None
    cdef Py_ssize_t done = 0
    cdef int res
    if flags == 0 and me.emptied == fd:
        # There was no more at the last time.  A user page tries all the same, since by then there mostly is.
        how |= ENTRY_POLL_FIRST
    while True:
        res = make(me, op, CALL_RECV, fd, target + done, <uint32_t> (size - done), 0, <uint32_t> flags, how, timeout)
        if res > 0:
            done += res
            if not all_of_it or done == size:
                break
        elif res == -ENOBUFS:
            pool_grow(stream_pool(op.page, op.flags), FIRST_BUFFERS)
        elif res < 0 and done == 0:
            raise_error(-res)
        else:
            break
    me.emptied = fd if isinstance(op.page, KernelPage) and not op.flags & COMPLETION_NONEMPTY else -1
    return done


cdef bytes receive_pooled(GreenThread me, int fd, Py_ssize_t size, object timeout):
    """Receive into a buffer that is taken when there is something to put into it."""
    cdef Call op = a_call(me)
    try:
        size = min(size, <Py_ssize_t> op.page.pool.buffer_size)
        size = call_to_receive(me, op, fd, NULL, size, 0, ENTRY_POOL, timeout)
        me.filled = <uint32_t> size == op.page.pool.buffer_size
        return b"" if op.kept is None else op.kept
    finally:
        done_with(me, op)


cdef bytes receive(GreenThread me, int fd, Py_ssize_t size, int flags, object timeout):
    """Receive into new bytes."""
    cdef PyObject* target = new_bytes(NULL, size)
    cdef Call op = a_call(me)
    cdef Py_ssize_t res
    try:
        op.kept = <object> target
        res = call_to_receive(me, op, fd, PyBytes_AS_STRING(<bytes> target), size, flags, 0, timeout)
        me.filled = res == size
        op.kept = None  # for bytes that two hold are not made smaller
        if res < size:
            _PyBytes_Resize(&target, res)
        return <bytes> target
    finally:
        done_with(me, op)
        Py_XDECREF(target)


def recv(self, bufsize, int flags=0, /):
    """Receive up to bufsize bytes.  Source: socket.socket.recv."""
    cdef GreenThread me = current()
    cdef Py_ssize_t size
    timeout = patience(me, self)
    size = 0 if timeout is NO_WAIT else bufsize
    if size <= 0 or never_waits(flags, timeout):
        let_others_run()
        return plain_recv(self, bufsize, flags)
    if flags == 0 and not me.filled and is_stream(self):
        return receive_pooled(me, fd_of(self), size, timeout)
    return receive(me, fd_of(self), min(size, <Py_ssize_t> RECEIVE_MOST), flags, timeout)


def recv_into(self, buffer, nbytes=0, int flags=0):
    """Receive into a buffer.  Source: socket.socket.recv_into."""
    cdef GreenThread me = current()
    cdef Py_buffer view
    cdef Py_ssize_t size
    cdef Call op
    timeout = patience(me, self)
    if timeout is NO_WAIT or never_waits(flags, timeout):
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
        op = a_call(me)
        op.kept = memoryview(buffer)
        try:
            return call_to_receive(me, op, fd_of(self), <char*> view.buf, min(size, <Py_ssize_t> SEND_MOST), flags, 0,
                                   timeout)
        finally:
            done_with(me, op)
    finally:
        PyBuffer_Release(&view)


# ---- sending


cdef Py_ssize_t send_some(GreenThread me, object sock, Py_buffer* view, Py_ssize_t done, int flags,
                          object timeout) except -1:
    """send(2) what follows the first `done` bytes: all, if there is no time-out."""
    cdef Call op
    cdef char* data = <char*> view.buf + done
    cdef Py_ssize_t size = min(view.len - done, <Py_ssize_t> SEND_MOST)
    cdef Py_ssize_t res
    cdef int fd = fd_of(sock)
    if me.hub.sends_at_once():
        breathe(me)
        me.turn.page.direct_calls += 1
        res = plainly_send(fd, data, size, flags | MSG_DONTWAIT | MSG_NOSIGNAL)
        if res >= 0:
            return res
        if errno != EAGAIN and errno != EINTR:
            raise_error(errno)
    if timeout is None:
        flags |= MSG_WAITALL
    op = a_call(me)
    op.kept = memoryview(<object> view.obj)
    try:
        res = make(me, op, CALL_SEND, fd, data, <uint32_t> size, 0, <uint32_t> (flags | MSG_NOSIGNAL), 0, timeout)
    finally:
        done_with(me, op)
    return res if res >= 0 else raise_error(<int> -res)


cdef Py_ssize_t send_all(GreenThread me, object sock, object data, int flags, object timeout) except -1:
    """Send all of `data`."""
    cdef Py_buffer view
    cdef Py_ssize_t done = 0
    until = None if timeout is None else me.turn.time() + timeout
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        while True:
            done += send_some(me, sock, &view, done, flags, timeout)
            if done >= view.len:
                return done
            if until is not None:
                timeout = max(0.0, until - me.turn.time())
    finally:
        PyBuffer_Release(&view)


def send(self, data, int flags=0, /):
    """Send bytes: all of them, if there is no time-out.  Source: socket.socket.send."""
    cdef GreenThread me = current()
    cdef Py_buffer view
    timeout = patience(me, self)
    if timeout is NO_WAIT or never_waits(flags, timeout):
        let_others_run()
        return plain_send(self, data, flags)
    if timeout is None:
        return send_all(me, self, data, flags, timeout)
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        return send_some(me, self, &view, 0, flags, timeout)
    finally:
        PyBuffer_Release(&view)


def sendall(self, data, int flags=0, /):
    """Send all bytes.  Source: socket.socket.sendall."""
    cdef GreenThread me = current()
    timeout = patience(me, self)
    if timeout is NO_WAIT or never_waits(flags, timeout):
        return plain_sendall(self, data, flags)
    send_all(me, self, data, flags, timeout)


cpdef bint never_waits(int flags, object timeout) noexcept:
    """Whether a call returns at once.  On a socket with a time-out it waits for that before."""
    return flags & MSG_DONTWAIT and timeout is None


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
    cdef int fd = fd_of(sock)
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
    cdef int fd = fd_of(sock)
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
    try:
        error = connecting(me, self, address)
    except (TypeError, OverflowError):
        return plain_connect(self, address)  # which refuses it, too, in its own name
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
    cdef int error, fd = fd_of(sock)
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
