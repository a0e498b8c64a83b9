"""Floor 5: rare and slow things, most of them asyncio's own code on our readiness and our calls.

What runs once per server, child or signal gains nothing from being written anew, and inherits the arguments that each
Python version has.  Source: asyncio.unix_events.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import functools
import inspect
import os
import signal
import socket
import sys
import termios
import threading
import warnings
import weakref
from asyncio import selector_events, unix_events
from asyncio.log import logger
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVarTuple, cast

from flexsc_loop.transports.datagram import make_datagram_transport, suitable
from flexsc_loop.transports.pipe import make_read_pipe, make_write_pipe
from flexsc_loop.turn.turn import Turn

_Unix: Any = unix_events._UnixSelectorEventLoop
_Ts = TypeVarTuple("_Ts")

if TYPE_CHECKING:

    class _Host(asyncio.BaseEventLoop):
        """What these classes and `Loop` use of asyncio's loop and of `SocketTurn`, and typeshed does not declare."""

        _thread_id: int | None
        _asyncgen_firstiter_hook: Any
        _asyncgen_finalizer_hook: Any

        def _check_closed(self) -> None: ...
        def _check_running(self) -> None: ...
        def _set_coroutine_origin_tracking(self, enabled: bool) -> None: ...
        def _check_sendfile_params(self, sock: Any, file: Any, offset: int, count: int | None) -> None: ...
        def _waiting_handles(self) -> tuple[list[Any], list[Any]]: ...
        def _add_reader(self, fd: Any, callback: Callable[[*_Ts], Any], *args: *_Ts) -> Any: ...
        def _remove_reader(self, fd: Any) -> bool: ...
        def _remove_writer(self, fd: int) -> bool: ...
        def _stop_listening(self, fd: int) -> None: ...
        def _ensure_fd_no_transport(self, fd: Any) -> None: ...
else:
    _Host = object


class Queues(_Host):
    """What tools that look into asyncio's loop find: copies.  asyncio's own queues are not used, nor missed."""

    @property
    def _ready(self) -> list[Any]:
        """Handles of the callbacks that wait for their turn."""
        return self._waiting_handles()[0]

    @_ready.setter
    def _ready(self, queue: Any) -> None: ...

    @property
    def _scheduled(self) -> list[Any]:
        """Handles of the timers, cancelled ones included."""
        return self._waiting_handles()[1]

    @_scheduled.setter
    def _scheduled(self, heap: Any) -> None: ...


class UnixSockets(_Host):
    """Servers and connections on Unix sockets."""

    _unix_server_sockets: dict[socket.socket, int]

    if not TYPE_CHECKING:
        create_unix_connection = _Unix.create_unix_connection
        create_unix_server = _Unix.create_unix_server

    def _stop_serving(self, sock: socket.socket) -> None:
        if sock in self._unix_server_sockets:
            _Unix._stop_serving(_SocketFiles(self), sock)
        else:
            self._stop_listening(sock.fileno())
            sock.close()


class _SocketFiles(_Unix):  # type: ignore[misc]
    """What asyncio's own `_stop_serving` needs to know of a loop.

    It looks at a server's file and removes it, from within the loop.  Tools that report calls that block know that of
    the function by its name, so it is that function that does it here too.
    """

    _closed = True

    def __init__(self, loop: UnixSockets) -> None:  # it is no loop
        self._unix_server_sockets = loop._unix_server_sockets
        self._remove_reader = loop._stop_listening


def _read_signals_of(reference: weakref.ref[Any]) -> None:
    loop = reference()
    if loop is not None:
        loop._read_signals()


class _Handler:
    """What Python calls for a signal, in the main thread: the loop looks which callback is due."""

    def __init__(self, loop: Signals) -> None:
        self._loop = weakref.ref(loop)  # Python keeps handlers for ever

    def __call__(self, number: int, _frame: Any) -> None:
        loop = self._loop()
        if loop is not None and not loop.is_closed():
            loop._signal_came(number)


class Signals(_Host):
    """Signals wake the loop through a socket pair, Python's own handlers (Ctrl-C above all) as well as the loop's.

    Without it, a signal that comes just before the loop falls asleep would be seen only after the sleep.  Which
    signals came is read from the socket, so that the loop's callback is called even while the program has put a handler
    of its own over the loop's.  What Python's handlers tell fills the gaps: the socket may be full, or the signals of
    this process be told to somebody else.
    """

    _signal_handlers: dict[int, Any]
    _signals_told: set[int]
    _signal_waits: list[Callable[[], object]]  # each is called once, when any signal has come that Python handles
    _csock: socket.socket | None
    _ssock: socket.socket | None

    _check_signal = _Unix._check_signal
    _handle_signal = _Unix._handle_signal

    def add_signal_handler(self, sig: int, callback: Callable[[*_Ts], Any], *args: *_Ts) -> None:
        """Call `callback(*args)` in the loop when signal `sig` comes.  Source: asyncio.loop.add_signal_handler."""
        if asyncio.iscoroutine(callback) or inspect.iscoroutinefunction(callback):
            raise TypeError("coroutines cannot be used with add_signal_handler()")
        self._check_signal(sig)
        self._check_closed()
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("signal handlers can only be added in the main thread")
        self._open_signal_sockets()
        assert self._csock is not None
        self._signal_handlers[sig] = asyncio.Handle(callback, args, self)
        try:
            signal.signal(sig, _Handler(self))
        except OSError as error:
            del self._signal_handlers[sig]
            if error.errno == errno.EINVAL:
                raise RuntimeError(f"sig {sig} cannot be caught") from None
            raise
        # System calls go on after the signal instead of failing.
        signal.siginterrupt(sig, False)
        signal.set_wakeup_fd(self._csock.fileno(), warn_on_full_buffer=False)

    def remove_signal_handler(self, sig: int) -> bool:
        """Restore the default; returns whether there was a handler.  Source: asyncio.loop.remove_signal_handler."""
        removed: bool = _Unix.remove_signal_handler(self, sig)
        if self.is_running() and not self._signal_handlers:
            self._listen_for_signals()
        return removed

    def _listen_for_signals(self) -> None:
        """Have signals wake this loop, if it runs in the main thread and nobody else asked for them."""
        if threading.current_thread() is not threading.main_thread():
            return
        self._open_signal_sockets()
        self._ask_for_signals()

    def _ask_for_signals(self) -> bool:
        """Have signals told to our socket, unless they are to somebody else's.  Returns whether they were already."""
        assert self._csock is not None
        ours = self._csock.fileno()
        before = signal.set_wakeup_fd(ours, warn_on_full_buffer=False)
        if before not in (-1, ours):
            # Unless whoever asked for it has closed it since.
            with contextlib.suppress(OSError, ValueError):
                signal.set_wakeup_fd(before)
        return before == ours

    def _stop_listening_for_signals(self) -> None:
        """A run has ended, or the loop is closing: nobody must write to the socket any more."""
        if self._csock is not None and threading.current_thread() is threading.main_thread():
            before, ours = signal.set_wakeup_fd(-1), self._csock.fileno()
            # The collector may have closed ours first.
            if ours >= 0 and before not in (-1, ours):
                signal.set_wakeup_fd(before)

    def _open_signal_sockets(self) -> None:
        if self._csock is None:
            self._ssock, self._csock = socket.socketpair()
            self._ssock.setblocking(False)
            self._csock.setblocking(False)
            # Weakly, so that a loop that nobody closes can be collected.
            self._add_reader(self._ssock, _read_signals_of, weakref.ref(self))

    def _close_signal_sockets(self) -> None:
        if self._csock is not None and self._ssock is not None:
            self._stop_listening_for_signals()
            self._remove_reader(self._ssock)
            self._ssock.close()
            self._csock.close()
            self._ssock = self._csock = None

    def _signal_came(self, number: int) -> None:
        """Python has called the loop's handler: no news if the socket says so as well, now or in a moment."""
        if number in self._signal_handlers and not (self._ask_for_signals() and self._has_room_for_signals()):
            self._signals_told.add(number)
            self.call_soon_threadsafe(self._read_signals)

    def _has_room_for_signals(self) -> bool:
        """Whether the socket has surely taken the latest: it does so up to its limit, and this is a quarter of that."""
        assert self._csock is not None
        answer = fcntl.ioctl(self._csock.fileno(), termios.TIOCOUTQ, bytes(4))
        return 4 * int.from_bytes(answer, sys.byteorder) < self._csock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)

    def _read_signals(self) -> None:
        """Have the callbacks called for what the socket tells, and then for what only Python's handlers have told."""
        with contextlib.suppress(BlockingIOError, InterruptedError):
            while self._ssock is not None and (numbers := self._ssock.recv(4096)):
                for number in numbers:
                    self._signals_told.discard(number)
                    self._handle_signal(number)
        while self._signals_told:
            self._handle_signal(self._signals_told.pop())
        waits, self._signal_waits = self._signal_waits, []
        for came in waits:
            came()

    def _add_callback(self, handle: Any) -> None:
        if not handle._cancelled:
            self.call_soon(handle._run)

    def _add_callback_signalsafe(self, handle: Any) -> None:
        if not handle._cancelled:
            self.call_soon_threadsafe(handle._run)

    def _drop_signals(self) -> None:
        """The loop is closing."""
        if not sys.is_finalizing():
            for sig in list(self._signal_handlers):
                self.remove_signal_handler(sig)
        elif self._signal_handlers:
            # Too late to remove them; asyncio's words.
            warnings.warn(
                f"Closing the loop {self!r} on interpreter shutdown stage, skipping signal handlers removal",
                ResourceWarning,
                source=self,
                stacklevel=3,
            )
            self._signal_handlers.clear()
        self._close_signal_sockets()


class Datagrams(_Host):
    """Datagram endpoints: our own transport; for rare families, netlink for example, asyncio's on our readiness."""

    def _make_datagram_transport(
        self, sock: socket.socket, protocol: Any, address: Any = None, waiter: Any = None, extra: Any = None
    ) -> Any:
        self._ensure_fd_no_transport(sock)
        if suitable(sock):
            return make_datagram_transport(cast(Turn, self), sock, protocol, address, waiter, extra)
        return selector_events._SelectorDatagramTransport(  # type: ignore[attr-defined]
            self, sock, protocol, address, waiter, extra
        )


class Pipes(_Host):
    """Transports for pipes and what can be used like them."""

    def _make_read_pipe_transport(self, pipe: Any, protocol: Any, waiter: Any = None, extra: Any = None) -> Any:
        turn: Any = self
        return make_read_pipe(turn, pipe, protocol, waiter, extra)

    def _make_write_pipe_transport(self, pipe: Any, protocol: Any, waiter: Any = None, extra: Any = None) -> Any:
        turn: Any = self
        return make_write_pipe(turn, pipe, protocol, waiter, extra)


class _ChildTransport(unix_events._UnixSubprocessTransport):  # type: ignore[misc, name-defined]
    """A child.  It writes to two pipes and ends, in this order, but each of the three is seen on its own, in any order.

    asyncio sees in one look nearly always what has come together, and tells an end last.  A syscall thread may be late
    with some of it: so what lies in the pipes is read before an end is told.
    """

    _pipes: dict[int, Any]

    def _read_now(self) -> None:
        for fd in (1, 2):
            end = self._pipes.get(fd)
            if end is not None:
                end.pipe._read_now()

    def _pipe_connection_lost(self, fd: int, exc: BaseException | None) -> None:
        self._read_now()
        super()._pipe_connection_lost(fd, exc)


class Children(_Host):
    """Subprocesses.  A pidfd says when a child has ended: no SIGCHLD handler, no thread, any thread's loop.

    Where the kernel gives no pidfd (an old one, a sandbox, no descriptors left), a thread waits for the child.
    """

    _pidfds: set[int]

    async def _make_subprocess_transport(
        self, protocol: Any, args: Any, shell: bool, stdin: Any, stdout: Any, stderr: Any, bufsize: int,
        extra: Any = None, **kwargs: Any,
    ) -> Any:
        waiter = self.create_future()
        transport = _ChildTransport(
            self, protocol, args, shell, stdin, stdout, stderr, bufsize, waiter=waiter, extra=extra, **kwargs
        )
        self._watch_child(transport, waiter)
        try:
            await waiter
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException:
            transport.close()
            await transport._wait()
            raise
        return transport

    def _watch_child(self, transport: Any, connected: asyncio.Future[Any]) -> None:
        pid = transport.get_pid()
        process = transport.get_extra_info("subprocess")
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            arguments = (pid, process, transport, connected)
            threading.Thread(target=self._wait_in_thread, args=arguments, name=f"waitpid-{pid}", daemon=True).start()
            return
        self._pidfds.add(pidfd)
        self._add_reader(pidfd, self._pidfd_ready, pid, process, pidfd, transport, connected)

    def _pidfd_ready(self, pid: int, process: Any, pidfd: int, transport: Any, connected: asyncio.Future[Any]) -> None:
        self._drop_pidfd(pidfd)
        self._child_ended(transport, connected, functools.partial(exit_code, pid, process))

    def _wait_in_thread(self, pid: int, process: Any, transport: Any, connected: asyncio.Future[Any]) -> None:
        code = exit_code(pid, process)
        try:
            self.call_soon_threadsafe(self._child_ended, transport, connected, lambda: code)
        except RuntimeError:
            logger.warning("Loop %r that handles pid %r is closed", self, pid)

    def _child_ended(self, transport: Any, connected: asyncio.Future[Any], code: Callable[[], int]) -> None:
        """Have its end told after what it had written by then, and after whoever waits for that has run."""
        if not connected.done():
            connected.add_done_callback(lambda _: self._child_ended(transport, connected, code))
            return
        transport._read_now()
        self.call_soon(self._tell_end, transport, code)

    def _tell_end(self, transport: Any, code: Callable[[], int]) -> None:
        transport._process_exited(code())

    def _drop_pidfd(self, pidfd: int) -> None:
        self._pidfds.discard(pidfd)
        self._remove_reader(pidfd)
        os.close(pidfd)

    def _drop_children(self) -> None:
        """The loop is closing: nobody waits for its children any more."""
        for pidfd in list(self._pidfds):
            self._drop_pidfd(pidfd)


def exit_code(pid: int, process: Any) -> int:
    """Wait for a child that is ours to wait for; 255 if somebody else has done so and kept the result."""
    try:
        _, status = os.waitpid(pid, 0)
    except ChildProcessError:
        # The transport's own close() looks after the child, too, and then the process object knows.
        code: int | None = process.returncode
        if code is None:
            logger.warning("child process pid %d exit status already read: will report returncode 255", pid)
            code = 255
        return code
    return os.waitstatus_to_exitcode(status)


def set_nodelay(sock: socket.socket) -> None:
    """Switch Nagle's algorithm off on a TCP socket; sockets accepted from it inherit that."""
    internet = sock.family in (socket.AF_INET, socket.AF_INET6) and sock.type == socket.SOCK_STREAM
    if internet and sock.proto in (0, socket.IPPROTO_TCP):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def numeric(host: Any, port: Any) -> bool:
    """Whether an address needs no look-up."""
    if isinstance(host, bytes):
        host = host.decode("ascii", "replace")
    if isinstance(port, (str, bytes)) and port and not port.isdigit():
        return False
    if host is None or host == "":
        return True
    if not isinstance(host, str):
        return False
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host.partition("%")[0])
            return True
        except (OSError, ValueError):
            continue
    return False

