"""The workloads as the load generator sees them: which server, which kind of load, which size."""

from __future__ import annotations

from dataclasses import dataclass, replace

from benchmarks.errors import BenchmarkError


@dataclass(frozen=True)
class Workload:
    """`server` is a name of ``benchmarks.servers``; `mode` one of the load generator's; `size` in bytes."""

    name: str
    server: str
    mode: str
    title: str
    path: str = "/"
    connections: int = 64
    size: int = 128
    rate: float = 0.0
    tls: bool = False
    database: str = ""
    """Whom the measured program asks, instead of being asked: ``postgresql``, ``mariadb``, or ``http``."""
    behind: str = ""
    """Which database the measured program asks to answer: ``mariadb``."""

    def varied(self, *, connections: int | None = None, size: int | None = None, rate: float | None = None) -> Workload:
        """The same with other parameters; None leaves one as it is."""
        given = {"connections": connections, "size": size, "rate": rate}
        changes = {key: value for key, value in given.items() if value is not None}
        return replace(self, **changes)  # type: ignore[arg-type]

    @property
    def label(self) -> str:
        """What is run, with its parameters."""
        parts = [self.title]
        if self.mode in ("echo", "ws", "udp"):
            parts.append(_size(self.size))
        parts.append(f"{self.connections} connection{'s' if self.connections > 1 else ''}")
        if self.rate:
            parts.append(f"open loop at {self.rate:,.0f}/s")
        return ", ".join(parts)


def _size(size: int) -> str:
    for unit, name in ((1 << 20, "MiB"), (1 << 10, "KiB")):
        if size % unit == 0:
            return f"{size // unit} {name}"
    return f"{size} B"


_ALL = (
    Workload("hello", "hello", "http", "aiohttp hello"),
    Workload("hello-close", "hello", "http-close", "aiohttp hello, Connection: close"),
    Workload("static", "static", "http", "aiohttp static file of 4 KiB", path="/4096"),
    Workload("app-json", "app", "http", "example application, JSON", path="/json"),
    Workload("app-static", "app", "http", "example application, static file", path="/static/index.html"),
    Workload("app-download", "app", "http", "example application, download of 1 MiB", path="/download?bytes=1048576"),
    Workload("static-large", "static", "http", "aiohttp static file of 1 MiB", path="/1048576", connections=8),
    Workload("websocket", "websocket", "ws", "aiohttp WebSocket echo"),
    Workload("echo", "echo", "echo", "protocol echo"),
    Workload("echo-large", "echo", "echo", "protocol echo", connections=8, size=100 * 1024),
    Workload("hello-tls", "hello-tls", "http", "aiohttp hello over TLS", tls=True),
    Workload("hello-aiofastnet", "hello-aiofastnet", "http", "aiohttp hello through aiofastnet"),
    Workload("hello-tls-aiofastnet", "hello-tls-aiofastnet", "http", "aiohttp hello over TLS through aiofastnet",
             tls=True),
    Workload("echo-tls", "echo-tls", "echo", "protocol echo over TLS", tls=True),
    Workload("echo-tls-large", "echo-tls", "echo", "protocol echo over TLS", connections=8, size=1 << 20, tls=True),
    Workload("streams", "streams", "echo", "streams echo"),
    Workload("sock", "sock", "echo", "sock_recv/sock_sendall echo"),
    Workload("uvicorn", "uvicorn", "http", "uvicorn + httptools hello"),
    Workload("asyncpg", "asyncpg", "query", "asyncpg `select 1`", connections=16, database="postgresql"),
    Workload("aiomysql", "aiomysql", "query", "aiomysql `select 1`", connections=16, database="mariadb"),
    Workload("blocking-echo", "blocking-echo", "echo", "blocking echo (socketserver, unmodified)"),
    Workload("blocking-http", "blocking-http", "http", "http.server's ThreadingHTTPServer, 1 KiB"),
    Workload("wsgi", "wsgi", "http", "a bare WSGI callable under gunicorn"),
    Workload("wsgi-flask", "wsgi-flask", "http", "Flask hello under gunicorn"),
    Workload("wsgi-mysql", "wsgi-mysql", "http", "WSGI with a PyMySQL query for each request, under gunicorn",
             behind="mariadb"),
    Workload("blocking-requests", "blocking-requests", "query", "`requests.get` of 1 KiB, a thread for each",
             database="http"),
    Workload("udp", "udp", "udp", "UDP echo"),
)

WORKLOADS = {workload.name: workload for workload in _ALL}


def workload(name: str) -> Workload:
    """The workload of that name; BenchmarkError, listing all, when there is none."""
    try:
        return WORKLOADS[name]
    except KeyError:
        raise BenchmarkError(f"unknown workload {name!r}; choose from {', '.join(WORKLOADS)}") from None
