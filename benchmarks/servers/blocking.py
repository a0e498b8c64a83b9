"""Servers of the standard library that block, a thread for each connection: real threads, gevent's or ours.

No line in them knows which; `run` makes the choice.
"""

from __future__ import annotations

import _thread
import http.server
import importlib
import json
import os
import socketserver
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from benchmarks.errors import BenchmarkError
from benchmarks.servers.figures import percentiles

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


CLIENT = "blocking-requests"
"""A program that asks an HTTP server instead of being one."""


class Asking:
    """Threads that get a page again and again; counts and times within a window, which begins after the warm-up."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.over = False
        self.latencies: list[int] = []
        self.errors: list[str] = []

    def client(self) -> None:
        """One thread: a connection for each request, as `requests.get` makes them."""
        get = importlib.import_module("requests").get
        while not self.over:
            began = time.perf_counter_ns()
            try:
                if len(get(self.url, timeout=10).content) != len(FILE):
                    raise BenchmarkError("another page came than was to come")
            except Exception as error:  # noqa: BLE001 - whatever went wrong is counted and told
                self.errors.append(f"{type(error).__name__}: {error}")
                return
            self.latencies.append(time.perf_counter_ns() - began)

    def window(self, seconds: float, warmup: float) -> dict[str, Any]:
        """The figures, named as the load generator's are."""
        time.sleep(warmup)
        total, self.latencies = len(self.latencies), []
        before = time.perf_counter_ns(), time.thread_time_ns(), time.process_time_ns()
        time.sleep(seconds)
        after = time.perf_counter_ns(), time.thread_time_ns(), time.process_time_ns()
        seen = self.latencies
        self.over, self.latencies = True, []
        wall, thread, process = (end - start for start, end in zip(before, after, strict=True))
        return {"requests": len(seen), "rate": len(seen) / wall * 1e9, "server_main_ns": thread,
                "server_cpu_ns": process, "latency_us": percentiles(sorted(seen)), "total_requests": total + len(seen),
                "errors": {"requests": len(self.errors)}}  # fmt: skip


def ask(port: int, connections: int, seconds: float, warmup: float) -> dict[str, Any]:
    """What the load generator would print of a server, of this program as a client."""
    asking = Asking(f"http://127.0.0.1:{port}/{len(FILE)}")
    threads = [threading.Thread(target=asking.client) for _ in range(connections)]
    for thread in threads:
        thread.start()
    found = asking.window(seconds, warmup)
    for thread in threads:
        thread.join()
    return found


def ask_as_told(answer: Callable[[Any], None]) -> None:
    """A window for each line of standard input; the input's end ends the process.  Blocks while nothing is to do."""
    for line in sys.stdin:
        answer(None if line.strip() == "stats" else ask(**json.loads(line)))
    os._exit(0)


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
