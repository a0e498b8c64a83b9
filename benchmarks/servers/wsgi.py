"""WSGI applications under gunicorn, with one worker: plain threads, gevent's greenlets, or ours.

No line of the applications knows which; gunicorn's worker class makes the choice.
"""

from __future__ import annotations

import functools
import importlib
import os
import queue
import signal
from collections.abc import Callable, Iterable
from typing import Any

from benchmarks.databases import DATABASE, PASSWORD, USER
from benchmarks.errors import BenchmarkError
from benchmarks.servers.blocking import start_real_thread

HELLO = b"Hello, world!\n"
PLAIN_THREADS = 64  # of gunicorn's gthread worker: it has a pool, not a thread for each connection
CONNECTIONS_MOST = 4096
POOL = 16
DATABASE_PORT = "FLEXSC_BENCHMARK_DATABASE_PORT"
KEEP_ALIVE_S = 75

StartResponse = Callable[[str, list[tuple[str, str]]], Any]
Application = Callable[[dict[str, Any], StartResponse], Iterable[bytes]]

WORKERS = {"threads": "gthread", "gevent": "gevent", "flexsc": "flexsc_loop.gunicorn.FlexSCThreadsWorker"}


def _answer(start_response: StartResponse, body: bytes) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


def bare() -> Application:
    """The least that answers."""

    def application(_environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        return _answer(start_response, HELLO)

    return application


def flask() -> Application:
    """Flask's own first example."""
    module = importlib.import_module("flask")
    application = module.Flask("hello")

    application.add_url_rule("/", view_func=HELLO.decode, endpoint="hello")
    return application  # type: ignore[no-any-return]


def mysql() -> Application:
    """A query for each request, on one of sixteen connections that all requests share."""
    pymysql = importlib.import_module("pymysql")
    port = int(os.environ[DATABASE_PORT])

    @functools.cache
    def pool() -> queue.LifoQueue[Any]:
        connections: queue.LifoQueue[Any] = queue.LifoQueue()
        for _ in range(POOL):
            connections.put(pymysql.connect(host="127.0.0.1", port=port, user=USER, password=PASSWORD, db=DATABASE))
        return connections

    def application(_environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        connection = pool().get()
        try:
            with connection.cursor() as cursor:
                cursor.execute("select 1")
                (value,) = cursor.fetchone()
        finally:
            pool().put(connection)
        return _answer(start_response, str(value).encode())

    pool()
    return application


SERVERS: dict[str, Callable[[], Application]] = {"wsgi": bare, "wsgi-flask": flask, "wsgi-mysql": mysql}


def serve(
    workload: str, choice: str, address: tuple[str, int], ways: tuple[str | None, str | None],
    started: Callable[[int, int], None],
) -> None:  # fmt: skip
    """Serve until standard input ends.  ways: pages and threads.  started: called in the worker, with port and pid.

    Raises BenchmarkError for a choice that runs no blocking code.
    """
    if choice not in WORKERS:
        raise BenchmarkError(f"{choice} does not run blocking code; choose from {', '.join(WORKERS)}")
    for name, value in zip(("FLEXSC_PAGES", "FLEXSC_THREADS"), ways, strict=True):
        if value is not None:
            os.environ[name] = value
    try:
        arbiter_module, base = (importlib.import_module(f"gunicorn.{name}") for name in ("arbiter", "app.base"))
    except ImportError as error:
        raise BenchmarkError(f"gunicorn: {error}") from error

    def ready(worker: Any) -> None:
        started(worker.sockets[0].getsockname()[1], os.getpid())

    class Served(base.BaseApplication):  # type: ignore[misc, name-defined]
        def load_config(self) -> None:
            settings = {
                "bind": f"{address[0]}:{address[1]}", "workers": 1, "worker_class": WORKERS[choice],
                "threads": PLAIN_THREADS if choice == "threads" else 1, "worker_connections": CONNECTIONS_MOST,
                "keepalive": KEEP_ALIVE_S, "post_worker_init": ready, "loglevel": "critical", "backlog": 1024,
                "control_socket_disable": True,
            }  # fmt: skip
            for name, value in settings.items():
                if name in self.cfg.settings:
                    self.cfg.set(name, value)

        def load(self) -> Application:
            return SERVERS[workload]()

    arbiter = arbiter_module.Arbiter(Served())
    start_real_thread(_end_with_stdin, (arbiter,))
    arbiter.run()


def _end_with_stdin(arbiter: Any) -> None:
    """The end of the input ends the worker, and this process."""
    while os.read(0, 1024):
        pass
    for pid in list(arbiter.WORKERS):
        os.kill(pid, signal.SIGKILL)
    os._exit(0)
