"""Servers of the standard library that block, a thread for each connection: real threads, gevent's or ours.

No line in them knows which; `run` makes the choice.
"""

from __future__ import annotations

import _thread
import http.server
import importlib
import os
import socketserver
import sys
from collections.abc import Callable
from typing import Any

from benchmarks.errors import BenchmarkError

RECEIVE = 4096  # bytes
FILE = b"x" * 1024

# Before anybody replaces it: what reads standard input blocks, and must not block green threads.
start_real_thread = _thread.start_new_thread


class Echo(socketserver.BaseRequestHandler):
    """Sends back what it gets."""

    def handle(self) -> None:
        """Until the peer's end."""
        while data := self.request.recv(RECEIVE):
            self.request.sendall(data)


class Hello(http.server.BaseHTTPRequestHandler):
    """Answers each request with 1 KiB."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1

    def do_GET(self) -> None:
        """Source: http.server."""
        self.send_response(200)
        self.send_header("Content-Length", str(len(FILE)))
        self.end_headers()
        self.wfile.write(FILE)

    def log_message(self, *_args: Any) -> None:
        """Nothing is logged, whoever serves."""


class EchoServer(socketserver.ThreadingTCPServer):
    """Unmodified, but for the number of those that may wait to be accepted."""

    request_queue_size = 1024
    daemon_threads = True
    allow_reuse_address = True


class HelloServer(http.server.ThreadingHTTPServer):
    """Likewise."""

    request_queue_size = 1024


SERVERS: dict[str, tuple[type[socketserver.BaseServer], type[socketserver.BaseRequestHandler]]] = {
    "blocking-echo": (EchoServer, Echo),
    "blocking-http": (HelloServer, Hello),
}
CHOICES = ("threads", "gevent", "flexsc")


def serve(workload: str, host: str, port: int, started: Callable[[int], None]) -> None:
    """Serve until the process is ended.  started: called with the port."""
    kind, handler = SERVERS[workload]
    server: Any = kind((host, port), handler)
    started(server.server_address[1])
    server.serve_forever()


def run(choice: str, main: Callable[[], None], pages: str | None, threads: str | None) -> None:
    """Run `main` with the threads of `choice`.  Raises BenchmarkError for one that does not run blocking code."""
    if choice not in CHOICES:
        raise BenchmarkError(f"{choice} does not run blocking code; choose from {', '.join(CHOICES)}")
    try:
        if choice == "gevent":
            importlib.import_module("gevent.monkey").patch_all()
        green = importlib.import_module("flexsc_loop.threads") if choice == "flexsc" else None
    except ImportError as error:
        raise BenchmarkError(f"{choice}: {error}") from error
    if green is None:
        main()
    else:
        green.run(main, pages=pages, threads=threads)


def end_with_stdin(answer: Callable[[Any], None]) -> None:
    """In a real thread: nobody counts here but the kernel; the end of the input ends the process."""

    def obey() -> None:
        for line in sys.stdin:
            if line.strip() == "stats":
                answer(None)
        os._exit(0)

    start_real_thread(obey, ())
