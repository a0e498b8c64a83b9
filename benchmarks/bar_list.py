"""The bars that this project has set itself, as data: what is measured, and what is wanted of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Kind(Enum):
    """How a bar is measured."""

    LOAD = "load"
    CALLS = "system calls under load"
    OPEN_LOOP = "open loop at a tenth of uvloop's peak"
    MICRO = "micro-benchmark"
    IDLE_CPU = "CPU of an idle loop"
    MEMORY = "memory per idle connection"


@dataclass(frozen=True)
class Want:
    """``at least`` or ``at most`` a value: times another loop's figure, or (against None) the figure itself."""

    value: float
    against: str | None = "uvloop"
    at_most: bool = False
    unit: str = "×"

    def met(self, measured: float) -> bool:
        return measured <= self.value if self.at_most else measured >= self.value

    def __str__(self) -> str:
        text = f"{'≤' if self.at_most else '≥'} {self.value:.2f}{self.unit}"
        return f"{text} {self.against}" if self.against else text


@dataclass(frozen=True)
class Bar:
    """One row: `own` is wanted of the loop's own thread on either page, `pinned` of a pinned syscall thread.

    Nothing wanted means that the figure is only reported; `pinned` None that it is not even measured.  With `best_page`
    the better one of the two pages has to meet what is wanted of a pinned thread, else each of them.
    """

    name: str
    title: str
    kind: Kind
    own: tuple[Want, ...] = ()
    pinned: tuple[Want, ...] | None = ()
    own_kernel: tuple[Want, ...] | None = None
    """Instead of `own`, where only the kernel page's is wanted; the user page's is reported."""
    workload: str = ""
    connections: int | None = None
    bench: str = ""
    python: str = "3.11"
    references: tuple[str, ...] = ("uvloop",)
    best_page: bool = False


_LOADS = (
    Bar("hello", "aiohttp hello, 64 connections", Kind.LOAD, (Want(1.20),), (Want(1.50),), workload="hello"),
    Bar(
        "hello-3.13",
        "the same on Python 3.13",
        Kind.LOAD,
        (Want(1.35),),
        (Want(1.80),),
        workload="hello",
        python="3.13",
    ),
    Bar(
        "hello-1",
        "the same, 1 connection",
        Kind.LOAD,
        (Want(1.00),),
        (Want(1.30),),
        workload="hello",
        connections=1,
        best_page=True,
    ),
    Bar(
        "hello-512",
        "the same, 512 connections",
        Kind.LOAD,
        (Want(1.30), Want(1.00, "rloop")),
        (Want(1.50),),
        workload="hello",
        connections=512,
        references=("uvloop", "rloop"),
    ),
    Bar(
        "echo",
        "protocol echo 128 B, 64 connections",
        Kind.LOAD,
        (Want(1.15), Want(1.05, "rloop")),
        workload="echo",
        references=("uvloop", "rloop"),
    ),
    Bar(
        "echo-large",
        "protocol echo 100 KiB, 8 connections",
        Kind.LOAD,
        (Want(1.15), Want(1.00, "rloop"), Want(1.00, "asyncio")),
        workload="echo-large",
        references=("uvloop", "rloop", "asyncio"),
    ),
    Bar(
        "streams",
        "streams echo 128 B, 64 connections",
        Kind.LOAD,
        (Want(1.15), Want(1.00, "rloop")),
        workload="streams",
        references=("uvloop", "rloop"),
    ),
    Bar(
        "sock",
        "sock_recv/sock_sendall echo, 64 connections",
        Kind.LOAD,
        (Want(1.60), Want(1.00, "rloop")),
        workload="sock",
        references=("uvloop", "rloop"),
    ),
    Bar(
        "udp",
        "UDP echo 128 B, 32 peers",
        Kind.LOAD,
        (Want(1.40), Want(1.00, "rloop")),
        workload="udp",
        connections=32,
        references=("uvloop", "rloop"),
    ),
    Bar(
        "websocket",
        "aiohttp WebSocket echo 128 B, 64 connections",
        Kind.LOAD,
        (Want(1.12),),
        (Want(1.40),),
        workload="websocket",
    ),
    Bar(
        "hello-tls",
        "aiohttp https hello, 64 connections",
        Kind.LOAD,
        (Want(1.25), Want(1.00, "aiofastnet")),
        (Want(1.50),),
        workload="hello-tls",
        references=("uvloop", "aiofastnet"),
    ),
    Bar(
        "tls-bulk",
        "protocol echo over TLS 1 MiB, 8 connections",
        Kind.LOAD,
        (Want(1.15),),
        workload="echo-tls-large",
    ),
    Bar(
        "close",
        "aiohttp with Connection: close, 64 connections",
        Kind.LOAD,
        (Want(1.35), Want(1.00, "rloop")),
        workload="hello-close",
        references=("uvloop", "rloop"),
    ),
    Bar(
        "static-large",
        "aiohttp static file of 1 MiB, 8 connections",
        Kind.LOAD,
        (Want(1.40), Want(1.10, "asyncio")),
        workload="static-large",
        references=("uvloop", "asyncio"),
    ),
    Bar(
        "static-large-64",
        "the same, 64 connections",
        Kind.LOAD,
        (Want(2.00), Want(1.10, "asyncio")),
        workload="static-large",
        connections=64,
        references=("uvloop", "asyncio"),
    ),
    Bar("static", "aiohttp static file 4 KiB, 64 connections", Kind.LOAD, (Want(2.00),), workload="static"),
    Bar(
        "uvicorn",
        "uvicorn + httptools hello, 64 connections",
        Kind.LOAD,
        (Want(1.20), Want(1.00, "rloop")),
        (Want(1.50),),
        workload="uvicorn",
        references=("uvloop", "rloop"),
    ),
    Bar("asyncpg", "asyncpg `select 1`, 16 connections", Kind.LOAD, (Want(1.15),), (Want(1.30),), workload="asyncpg"),
    Bar(
        "aiomysql", "aiomysql `select 1`, 16 connections", Kind.LOAD, (Want(1.15),), (Want(1.30),), workload="aiomysql"
    ),
)


def _micro(bench: str, *wants: Want) -> Bar:
    name = bench.replace(",", "").replace(" ", "-")
    return Bar(name, bench, Kind.MICRO, wants, None, bench=bench, references=("uvloop", "rloop"))


_MICROS = (
    _micro("call_soon chain", Want(1.00, "rloop")),
    _micro("call_soon bulk", Want(1.00, "rloop")),
    _micro("call_later fired", Want(1.00, "rloop")),
    _micro("call_later cancelled", Want(1.00, "rloop")),
    _micro("call_soon_threadsafe", Want(1.00, "rloop")),
    _micro("create_task and await", Want(1.20)),
    _micro("sleep(0)", Want(1.40)),
    _micro("gather of 200", Want(1.00)),
    _micro("spawn, 20 at a time", Want(1.20)),
    _micro("pipe, 64 KiB writes", Want(1.20)),
    _micro("pipe through cat"),
    _micro("run_in_executor serial", Want(1.20)),
    _micro("run_in_executor 64 at a time", Want(2.00)),
)


def _calls(version: str) -> Bar:
    at_most = {"against": None, "at_most": True, "unit": ""}
    return Bar(
        f"calls-{version}",
        f"system calls of the loop's thread per aiohttp request, 64 connections, Python {version}",
        Kind.CALLS,
        pinned=(Want(0.02, **at_most),),  # type: ignore[arg-type]
        own_kernel=(Want(0.2, **at_most),),  # type: ignore[arg-type]
        workload="hello",
        python=version,
    )


_OTHERS = (
    # CPython 3.11's asyncio.get_running_loop() makes a getpid() call, which no loop can avoid; 3.12's does not.
    _calls("3.11"),
    _calls("3.13"),
    Bar(
        "p99",
        "p99 at 10 % of uvloop's peak rate, open loop, aiohttp hello, 64 connections",
        Kind.OPEN_LOOP,
        (Want(1.0, at_most=True),),
        (Want(0.8, at_most=True),),
        workload="hello",
    ),
    Bar(
        "idle-cpu",
        "CPU of an idle loop with 1,000 idle connections over 10 s",
        Kind.IDLE_CPU,
        (Want(0.1, None, at_most=True, unit=" %"),),
        (Want(0.1, None, at_most=True, unit=" %"),),
    ),
    Bar(
        "memory",
        "resident memory per idle TCP connection at 5,000 connections",
        Kind.MEMORY,
        (Want(0.8, at_most=True),),
        (Want(0.8, at_most=True),),
    ),
)

BARS = (*_LOADS, *_MICROS, *_OTHERS)
