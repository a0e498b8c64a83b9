"""Floor 5: a gunicorn worker for WSGI applications: each connection is served by a green thread.

Imports gunicorn, which is not otherwise needed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import ssl
import sys
import threading
import time
import types
from collections.abc import Iterator
from typing import Any

from gunicorn import sock as gunicorn_sock  # type: ignore[import-untyped]
from gunicorn.workers.base_async import AsyncWorker  # type: ignore[import-untyped]

from flexsc_loop import threads
from flexsc_loop.gunicorn import hear_signals
from flexsc_loop.threads import descriptors
from flexsc_loop.threads.green import GreenThread

NOTIFY_S = 1.0  # how often the master hears of us


class _Client(socket.socket):
    """A connection, and whether it may be closed: of its next request no more has come than with the one before."""

    idle = False
    served = False  # a request has come before
    ended = False  # nobody is to wait for more of the next request

    def recv(self, *args: Any) -> bytes:
        """Source: socket.socket.recv."""
        try:
            data = self._what_has_come(args) if self.ended else super().recv(*args)
        except OSError as error:
            if error.errno != errno.EBADF or not self.ended:
                raise
            data = self._what_has_come(args)
        self.idle = False
        return data

    def _what_has_come(self, args: tuple[Any, ...]) -> bytes:
        self.setblocking(False)
        try:
            return super().recv(*args)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return b""
        finally:
            self.setblocking(True)

    def end(self) -> None:
        """Have the client have sent its last, for whoever waits for more of the next request."""
        self.ended = True
        descriptors.closing(self.fileno())


class _TLSClient(_Client, ssl.SSLSocket):
    pass


class FlexSCThreadsWorker(AsyncWorker):  # type: ignore[misc]
    """Serves any WSGI application, up to `worker_connections` connections at once.

    The standard library is patched in the worker's process, before the application is loaded there; with `--preload`
    the application is loaded before, and what it has imported by name goes on to block (a PatchWarning tells).
    """

    def init_process(self) -> None:
        """Patch, make the loop, load the application, and serve.  Does not return before the worker ends."""
        self.main: GreenThread | None = None
        hear_signals(self)
        threads.run(self._serve)

    def _serve(self) -> None:
        self.main = threads.current_thread()
        self.clients: dict[GreenThread | None, _Client] = {}
        self.room = threading.BoundedSemaphore(self.worker_connections)
        self.served = 0
        if self.alive:
            super().init_process()

    def run(self) -> None:
        """Accept until told to stop, then let the connections end, for `graceful_timeout` seconds at most."""
        for listener in self.sockets:
            threads.spawn(self._accept, listener).daemon = True
        while self.alive:
            self._tell_master()
            time.sleep(NOTIFY_S)
        # Those who accept end by that.  What nobody has accepted is for the other workers.
        for listener in self.sockets:
            listener.close()
        until = time.monotonic() + self.cfg.graceful_timeout
        while self.served and time.monotonic() < until:
            for client in list(self.clients.values()):
                if client.idle:
                    client.end()
            self._tell_master()
            time.sleep(0.05)
        if self.served:
            self.log.warning("Worker graceful timeout (pid:%s)", self.pid)

    def _tell_master(self) -> None:
        self.notify()
        if self.ppid != os.getppid():
            self.log.info("Parent changed, shutting down: %s", self)
            sys.exit(0)

    def _accept(self, listener: Any) -> None:
        sock: socket.socket = listener.sock
        # For good: the other workers share it, and may be quicker.  One of them that had it block would have us block.
        sock.setblocking(False)
        # `handle` asks for its name, perhaps when it has been closed.
        name = sock.getsockname()
        named = types.SimpleNamespace(getsockname=lambda: name)
        while self.alive:
            self.room.acquire()
            accepted = self._accept_one(sock)
            if accepted is None:
                self.room.release()
                continue
            self.served += 1
            threads.spawn(self._answer, named, *accepted).daemon = True
            if self.cfg.workers > 1:
                time.sleep(0)  # the other workers take some, too

    def _accept_one(self, sock: socket.socket) -> tuple[socket.socket, Any] | None:
        while self.alive:
            try:
                with contextlib.suppress(BlockingIOError):
                    return sock.accept()
                threads.wait_readable(sock.fileno())
            except OSError as error:
                self._complain(error)
                return None
        return None

    def _complain(self, error: OSError) -> None:
        if self.alive:
            self.log.warning("accept: %s", error)
            time.sleep(0.1)

    def _answer(self, listener: Any, accepted: socket.socket, address: Any) -> None:
        thread = threads.current_thread()
        client = _Client(accepted.family, accepted.type, accepted.proto, fileno=accepted.detach())
        try:
            client.setblocking(True)
            if self.cfg.is_ssl:
                client = self._wrap(client)
            self.clients[thread] = client
            self.handle(listener, client, address)
        except OSError:
            client.close()
        finally:
            self.clients.pop(thread, None)
            self.served -= 1
            self.room.release()

    def _wrap(self, client: socket.socket) -> _TLSClient:
        """Source: gunicorn.sock.ssl_wrap_socket."""
        context = gunicorn_sock.ssl_context(self.cfg)
        context.sslsocket_class = _TLSClient
        wrapped: _TLSClient = context.wrap_socket(
            client, server_side=True, suppress_ragged_eofs=self.cfg.suppress_ragged_eofs,
            do_handshake_on_connect=self.cfg.do_handshake_on_connect,
        )  # fmt: skip
        return wrapped

    @contextlib.contextmanager
    def timeout_ctx(self) -> Iterator[None]:
        """Wait for a request for `keepalive` seconds; then there is none."""
        thread = threads.current_thread()
        assert thread is not None
        client = self.clients[thread]
        timer = thread.loop.call_later(self.cfg.keepalive, client.end)
        client.idle = client.served
        try:
            yield
        finally:
            client.served = True
            client.idle = client.ended = False
            timer.cancel()

    def _end(self, status: int) -> None:
        if self.main is None or threads.current_thread() is self.main:
            sys.exit(status)
        elif self.main.finished:
            self.main.loop.call_soon_threadsafe(sys.exit, status)
        else:
            self.main.throw(SystemExit(status))

    def handle_quit(self, _signal: int, _frame: object) -> None:
        """SIGQUIT, SIGINT: end at once."""
        self.alive = False
        self.cfg.worker_int(self)
        self._end(0)

    def handle_abort(self, _signal: int, _frame: object) -> None:
        """SIGABRT: the master has not heard of us for too long."""
        self.alive = False
        self.cfg.worker_abort(self)
        self._end(1)
