"""Floor 5: a gunicorn worker for WSGI applications: each connection is served by a green thread.

Imports gunicorn, which is not otherwise needed.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from gunicorn import sock as gunicorn_sock  # type: ignore[import-untyped]
from gunicorn.workers.base_async import AsyncWorker  # type: ignore[import-untyped]

from flexsc_loop import threads
from flexsc_loop.threads.green import GreenThread

NOTIFY_S = 1.0  # how often the master hears of us


class _Over(BaseException):
    """A connection has been idle for long enough."""


class FlexSCThreadsWorker(AsyncWorker):  # type: ignore[misc]
    """Serves any WSGI application, up to `worker_connections` connections at once.

    The standard library is patched in the worker's process, before the application is loaded there; with `--preload`
    the application is loaded before, and what it has imported by name goes on to block (a PatchWarning tells).
    """

    def init_process(self) -> None:
        """Patch, make the loop, load the application, and serve.  Does not return before the worker ends."""
        threads.run(self._serve)

    def _serve(self) -> None:
        thread = threads.current_thread()
        assert thread is not None
        self.main: GreenThread = thread
        self.idle: set[GreenThread] = set()
        self.room = threading.BoundedSemaphore(self.worker_connections)
        self.served = 0
        super().init_process()

    def run(self) -> None:
        """Accept until told to stop, then let the connections end, for `graceful_timeout` seconds at most."""
        acceptors = [threads.spawn(self._accept, listener) for listener in self.sockets]
        for acceptor in acceptors:
            acceptor.daemon = True
        while self.alive:
            self._tell_master()
            time.sleep(NOTIFY_S)
        for acceptor in acceptors:
            acceptor.throw(_Over())
        for listener in self.sockets:
            listener.close()
        until = time.monotonic() + self.cfg.graceful_timeout
        while self.served and time.monotonic() < until:
            for thread in list(self.idle):
                thread.throw(_Over())
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
        sock.setblocking(True)
        with contextlib.suppress(_Over):
            while self.alive:
                self.room.acquire()
                try:
                    client, address = sock.accept()
                except OSError as error:
                    self.room.release()
                    self.log.warning("accept: %s", error)
                    time.sleep(0.1)
                    continue
                self.served += 1
                threads.spawn(self._answer, listener, client, address).daemon = True
                if self.cfg.workers > 1:
                    time.sleep(0)  # the other workers take some, too

    def _answer(self, listener: Any, client: socket.socket, address: Any) -> None:
        try:
            client.setblocking(True)
            if self.cfg.is_ssl:
                client = gunicorn_sock.ssl_wrap_socket(client, self.cfg)
            self.handle(listener, client, address)
        except (_Over, OSError):
            client.close()
        finally:
            self.served -= 1
            self.room.release()

    @contextlib.contextmanager
    def timeout_ctx(self) -> Iterator[None]:
        """Wait for a request for `keepalive` seconds; then there is none."""
        thread = threads.current_thread()
        assert thread is not None
        over = _Over()
        timer = thread.loop.call_later(self.cfg.keepalive, thread.throw, over)
        self.idle.add(thread)
        try:
            yield
        except _Over:
            pass
        finally:
            self.idle.discard(thread)
            timer.cancel()
            thread.forgive(over)

    def handle_quit(self, _signal: int, _frame: object) -> None:
        """SIGQUIT, SIGINT: end at once."""
        self.alive = False
        self.cfg.worker_int(self)
        self.main.throw(SystemExit(0))

    def handle_abort(self, _signal: int, _frame: object) -> None:
        """SIGABRT: the master has not heard of us for too long."""
        self.alive = False
        self.cfg.worker_abort(self)
        self.main.throw(SystemExit(1))
