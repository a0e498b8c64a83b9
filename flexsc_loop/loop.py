"""Floor 5: the event loop.

Owns: what is set up once per loop, server or connection.  The turn, the transports and the sockets below it do what is
done per message; everything that is rare is asyncio's own code, inherited.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import inspect
import logging
import os
import socket
import ssl
import sys
import warnings
import weakref
from _thread import get_ident
from asyncio import base_events, events
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from flexsc_loop import settings, watchdog
from flexsc_loop.cold import Children, Datagrams, Pipes, Queues, Signals, UnixSockets, numeric, set_nodelay
from flexsc_loop.own_transports import keep_transports
from flexsc_loop.sendfile import Files
from flexsc_loop.syscalls.scheduler import Sizes, choose
from flexsc_loop.transports.listener import Listener
from flexsc_loop.transports.sockets import SocketTurn
from flexsc_loop.transports.stream import Clients, StreamTransport, make_transport
from flexsc_loop.transports.tls import Settings, SSLTransport, make_tls_transport, upgrade
from flexsc_loop.turn.audit import watch_calls
from flexsc_loop.turn.executor import Executors

logger = logging.getLogger("flexsc_loop")

HEAP_KEPT = 1 << 20

if TYPE_CHECKING:
    from flexsc_loop.files.calls import FileCalls

if not getattr(sys, "_is_gil_enabled", lambda: True)():
    # Importing the modules above has switched it on in a free-threaded Python, and Python said so, unless told not to.
    raise ImportError("flexsc_loop needs the GIL: a free-threaded Python must not be run with PYTHON_GIL=0 or -X gil=0")

_loops: weakref.WeakSet[Loop] = weakref.WeakSet()
#: Called with each loop that is closed, when it has counted for the last time.
when_closed: list[Callable[[Loop], None]] = []
_Server: Any = base_events.Server
#: Finds the loop that runs in this thread.  Green threads, which asyncio is told run none, put their own function here.
loop_beneath: Callable[[], asyncio.AbstractEventLoop | None] = events._get_running_loop
_attach_wants_transport = len(inspect.signature(_Server._attach).parameters) > 1


class Loop(
    SocketTurn, Executors, Queues, UnixSockets, Signals, Files, Datagrams, Pipes, Children, asyncio.BaseEventLoop
):
    """An asyncio event loop whose system calls go through a syscall page.

    pages: "auto", "kernel" or "user".  threads: "auto", "off", "on", a CPU, or CPUs such as [1, 3] or "1,3".  writes:
    "auto", "now" or "turn".  See `new_event_loop`.  What is not given comes from FLEXSC_PAGES, FLEXSC_THREADS and
    FLEXSC_WRITES.
    entries, completions, buffers, buffer_size: sizes of the page, powers of two, see `Sizes`.
    Raises ValueError for bad settings, OSError when what was asked for by name can't be had.
    """

    def __init__(
        self, *, pages: settings.Pages | None = None, threads: settings.Threads | None = None,
        writes: settings.Writes | None = None,
        entries: int = 1024, completions: int = 4096, buffers: int = 1024, buffer_size: int = 16384,
    ) -> None:
        wanted = settings.read(pages, threads, writes)
        patience = watchdog.wanted()
        if settings.keeps_transports():
            keep_transports()
        measures = Sizes(entries, completions, buffers, buffer_size)
        measures.check()
        asyncio.BaseEventLoop.__init__(self)
        self._closed = True
        self._transports: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
        self._unix_server_sockets = {}
        self._given_listeners: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self._signal_handlers = {}
        self._signals_told = set()
        self._signal_waits = []
        self._csock = self._ssock = None
        self._pidfds = set()
        self.choice = choose(wanted.pages, wanted.threads, measures)
        self._use_page(self.choice.page, wanted.writes)
        self._told = ""
        self._show_hands()
        if self.choice.pilot is not None:
            self._steer(self.choice.pilot)
        self._closed = False
        self._watchdog: float | None = None
        if patience is not None:
            self.watchdog = patience
        _keep_heap()
        _loops.add(self)
        logger.debug("%s", "; ".join(self.choice.reasons))

    # ---- running

    def run_forever(self) -> None:
        """Run until `stop` is called.  Source: asyncio.loop.run_forever."""
        self._check_closed()
        self._check_running()
        self.page.bind()
        self._set_coroutine_origin_tracking(self._debug)
        hooks = sys.get_asyncgen_hooks()
        self._listen_for_signals()
        try:
            self._thread_id = get_ident()
            sys.set_asyncgen_hooks(firstiter=self._asyncgen_firstiter_hook, finalizer=self._asyncgen_finalizer_hook)
            events._set_running_loop(self)
            self._run_turns()
        finally:
            self._stopping = False
            self._thread_id = None
            events._set_running_loop(None)
            self._set_coroutine_origin_tracking(False)
            sys.set_asyncgen_hooks(*hooks)
            if not self._signal_handlers:
                self._stop_listening_for_signals()
            self.page.leave()

    def close(self) -> None:
        """Free everything.  The loop must not be running.  Source: asyncio.loop.close."""
        if self.is_running():
            raise RuntimeError("Cannot close a running event loop")
        if self._closed:
            return
        if not self.page.closed:
            self._drop_signals()
            self._drop_children()
        asyncio.BaseEventLoop.close(self)
        self._jobs = None
        self._forget_sockets()
        unclosed = [owner for owner in self._all_owners() if isinstance(owner, Listener)]
        names = [repr(listener) for listener in unclosed]
        for listener in unclosed:
            listener.close()
        self.page.shut()
        self._leave_pilot()
        # A transport that nobody holds closes its descriptor now, whoever still holds the loop.
        self._disown_all()
        self._forget_everything()
        for tell in when_closed:
            tell(self)
        # Last, since with -W error these are exceptions.
        for name in names:
            warnings.warn(f"unclosed server {name}", ResourceWarning, source=self, stacklevel=2)

    @functools.cached_property
    def _files(self) -> FileCalls:
        from flexsc_loop.files.calls import FileCalls

        return FileCalls(self)

    def __repr__(self) -> str:
        place = "the own thread" if self.choice.cpu is None else f"a syscall thread on CPU {self.choice.cpu}"
        return (
            f"<{type(self).__name__} running={self.is_running()} closed={self.is_closed()} debug={self.get_debug()} "
            f"{self.choice.kind} page served by {place}>"
        )

    def stats(self) -> dict[str, int]:
        """What the loop has counted since it was made, and what there is now: a number by name.

        The names are those of the stats page (flexsc_loop/README.md, "Insight", has a list with what each means), times
        in nanoseconds, and thread_cpu_ns: CPU time of the syscall thread, 0 without one; trials, alarms and rests: what
        threads="auto" has decided.
        """
        return {**self._counters(), **self.page.thread_counters(), **self.choice.counters()}

    @property
    def watchdog(self) -> float | None:
        """After how many seconds a turn is reported to stderr, with the stacks of all threads; None: never.

        Reported by a thread that needs no GIL, and again each time that the turn has lasted twice as long.  Comes from
        FLEXSC_WATCHDOG.  Setting it raises ValueError for what is no such number, RuntimeError when the loop is closed.
        """
        return self._watchdog

    @watchdog.setter
    def watchdog(self, seconds: float | None) -> None:
        patience = watchdog.check(seconds)
        self._check_closed()
        self._watch_turns(patience or 0, watchdog.stacks_signal() if patience else 0, watchdog.place())
        self._watchdog = patience

    # ---- servers

    if not TYPE_CHECKING:
        # Their arguments and types are those that the running Python's own have.

        @functools.wraps(asyncio.BaseEventLoop.create_server, assigned=())
        async def create_server(self, protocol_factory, host=None, port=None, **options):
            """Serve on a host and port or on a socket that is given.  Source: asyncio.loop.create_server."""
            self._note_given(options.get("sock"))
            return await asyncio.BaseEventLoop.create_server(self, protocol_factory, host, port, **options)

        @functools.wraps(UnixSockets.create_unix_server, assigned=())
        async def create_unix_server(self, protocol_factory, path=None, **options):
            """Serve on a Unix socket: on a path, or one that is given.  Source: asyncio.loop.create_unix_server."""
            self._note_given(options.get("sock"))
            return await UnixSockets.create_unix_server(self, protocol_factory, path, **options)

        @functools.wraps(asyncio.BaseEventLoop.getaddrinfo, assigned=())
        async def getaddrinfo(self, host, port, **options):
            """Look an address up; numeric ones without a thread.  Source: asyncio.loop.getaddrinfo."""
            if numeric(host, port):
                return socket.getaddrinfo(host, port, **options)
            return await asyncio.BaseEventLoop.getaddrinfo(self, host, port, **options)

    def _note_given(self, sock: socket.socket | None) -> None:
        """A socket may be served by other processes as well (gunicorn's workers, say): they share its connections."""
        # Not only socket.socket: gunicorn's wrap one.  What nothing can refer to weakly is a mock.
        with contextlib.suppress(TypeError):
            if sock is not None:
                self._given_listeners.add(sock)

    # ---- what the inherited code calls

    def _check_thread(self) -> None:
        # A green thread has a number of its own, and runs in the loop's thread.
        if self._thread_id != get_ident():
            asyncio.BaseEventLoop._check_thread(self)  # type: ignore[attr-defined]

    def _start_serving(
        self, protocol_factory: Any, sock: socket.socket, sslcontext: Any = None, server: Any = None,
        backlog: int = 100, ssl_handshake_timeout: float | None = None, ssl_shutdown_timeout: float | None = None,
        context: contextvars.Context | None = None,
    ) -> None:
        tls = None
        if sslcontext:
            tls = Settings(sslcontext, True, None, ssl_handshake_timeout, ssl_shutdown_timeout)
        set_nodelay(sock)
        if isinstance(getattr(server, "_clients", None), weakref.WeakSet):
            server._clients = Clients(self, server._clients)
        Listener(self, sock, protocol_factory, tls, server, sock in self._given_listeners, context)

    def _stop_listening(self, fd: int) -> None:
        listener = self._owner_of(fd)
        if isinstance(listener, Listener):
            listener.close()

    def _make_socket_transport(
        self, sock: socket.socket, protocol: Any, waiter: Any = None, *, extra: Any = None, server: Any = None,
        context: contextvars.Context | None = None,
    ) -> Any:
        self._ensure_fd_no_transport(sock)
        set_nodelay(sock)
        return make_transport(self, sock, protocol, waiter, extra, server, context)

    def _make_ssl_transport(
        self, rawsock: socket.socket, protocol: Any, sslcontext: Any, waiter: Any = None, *,
        server_side: bool = False, server_hostname: str | None = None, extra: Any = None, server: Any = None,
        ssl_handshake_timeout: float | None = None, ssl_shutdown_timeout: float | None = None,
        context: contextvars.Context | None = None,
    ) -> Any:
        self._ensure_fd_no_transport(rawsock)
        tls = Settings(sslcontext, server_side, server_hostname, ssl_handshake_timeout, ssl_shutdown_timeout)
        set_nodelay(rawsock)
        return make_tls_transport(self, rawsock, protocol, tls, waiter, extra, server, context)

    async def start_tls(
        self, transport: asyncio.BaseTransport, protocol: asyncio.BaseProtocol, sslcontext: ssl.SSLContext, *,
        server_side: bool = False, server_hostname: str | None = None, ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
    ) -> asyncio.Transport | None:
        """Put TLS on a connection, plain or TLS already.  None if the connection is closed by its owner before the end.

        Source: asyncio.loop.start_tls.
        """
        if not isinstance(transport, (StreamTransport, SSLTransport)):
            return await asyncio.BaseEventLoop.start_tls(
                self, transport, protocol, sslcontext, server_side=server_side, server_hostname=server_hostname,
                ssl_handshake_timeout=ssl_handshake_timeout, ssl_shutdown_timeout=ssl_shutdown_timeout)
        if not isinstance(sslcontext, ssl.SSLContext):
            raise TypeError(f"sslcontext is expected to be an instance of ssl.SSLContext, got {sslcontext!r}")
        tls = Settings(sslcontext, server_side, server_hostname, ssl_handshake_timeout, ssl_shutdown_timeout)
        waiter = self.create_future()
        upgraded = upgrade(transport, protocol, tls, waiter, _read_early(protocol) if server_side else b"")
        if upgraded is None:
            return None
        try:
            alive = await waiter
        except BaseException:
            transport.close()
            raise
        finally:
            del waiter  # it holds its exception, which holds this frame
        return upgraded if alive else None

    def _attach_to(self, server: Any, transport: Any) -> None:
        server._attach(*(transport,) if _attach_wants_transport else ())

    def _detach_from(self, server: Any, transport: Any) -> None:
        server._detach(*(transport,) if _attach_wants_transport else ())

    def _ensure_fd_no_transport(self, fd: Any) -> None:
        fileno = fd if isinstance(fd, int) else fd.fileno()
        transport = self._owner_of(fileno)
        if transport is not None:
            raise RuntimeError(f"File descriptor {fd!r} is used by transport {transport!r}")

    @property
    def _nest_patched(self) -> bool:
        """nest_asyncio and nest_asyncio2 ask for it, then replace what runs a loop by code for asyncio's selectors."""
        if sys._getframe(1).f_globals.get("__name__", "").startswith("nest_asyncio"):
            raise ValueError(f"Can't patch loop of type {type(self)}: it does not wait in a selector")
        raise AttributeError("_nest_patched")

    def _show_hands(self) -> None:
        told = self.choice.told
        if told != self._told:
            self._told = told
            self._show_choice(self.choice.kind, self.choice.cpu, told)

    def _leave_pilot(self) -> None:
        if self.choice.pilot is not None:
            self.choice.pilot.close()

    def _watch_calls(self) -> None:
        _watch_calls()

    def _disown(self) -> None:
        """This process is a forked child: the loop is its parent's."""
        self._disown_page()
        self._leave_pilot()
        self._forget_sockets()
        if self._jobs is not None:
            self._jobs.executor._forget()


def _read_early(protocol: Any) -> bytes:
    """What a stream reader holds already of a peer's TLS that came right behind what was read before."""
    reader = protocol._stream_reader if issubclass(type(protocol), asyncio.StreamReaderProtocol) else None
    if reader is None or not reader._buffer:
        return b""
    early = bytes(reader._buffer)
    reader._buffer.clear()
    return early


def _keep_heap() -> None:
    """Have malloc keep its heap between large messages.

    glibc maps blocks over 128 KiB anew each time and trims the heap's end, until a larger mapped block has been freed
    once: then it adapts (mallopt(3), M_MMAP_THRESHOLD).  Without this each large message costs page faults.
    """
    bytes(HEAP_KEPT)


def _after_fork() -> None:
    for loop in list(_loops):
        loop._disown()


@functools.cache
def _watch_calls() -> None:
    """From now on, before a call that blocks or ends the process, the loop that runs in the thread sends what waits."""
    # Another hook may refuse ours.
    with contextlib.suppress(Exception):
        watch_calls(_before_call)


def _before_call() -> None:
    loop = loop_beneath()
    if isinstance(loop, Loop):
        loop._send_before_call()


os.register_at_fork(after_in_child=_after_fork)
