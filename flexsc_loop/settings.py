"""Floor 5: what the user can set, and how it is read."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias, get_args

#: What may be given as `pages`, `threads` and `writes`: for threads one of THREADS, a CPU, or CPUs, [1, 3] or "1,3".
Pages: TypeAlias = Literal["auto", "kernel", "user"]
Threads: TypeAlias = int | str | Sequence[int]
Writes: TypeAlias = Literal["auto", "now", "turn"]

PAGES = get_args(Pages)
THREADS = ("auto", "off", "on")
WRITES = get_args(Writes)
TRANSPORTS = ("auto", "own")


class Settings(NamedTuple):
    """Which pages to use, who serves them, and when writes are sent.

    pages: "auto", "kernel" or "user".
    threads: "auto", "off", "on", or a tuple of CPU numbers for syscall threads.
    writes: "auto", "now" or "turn".
    """

    pages: str
    threads: str | tuple[int, ...]
    writes: str


def read(pages: Pages | None = None, threads: Threads | None = None, writes: Writes | None = None) -> Settings:
    """Combine arguments and environment: an argument wins over FLEXSC_PAGES, FLEXSC_THREADS and FLEXSC_WRITES.

    Raises ValueError, which lists the good values, for a bad one.
    """
    return Settings(
        _one_of(PAGES, *_given(pages, "pages", "FLEXSC_PAGES")),
        _threads(*_given(threads, "threads", "FLEXSC_THREADS")),
        _one_of(WRITES, *_given(writes, "writes", "FLEXSC_WRITES")),
    )


def keeps_transports() -> bool:
    """Whether FLEXSC_TRANSPORTS asks that connections stay with the loop's own transports.  Raises ValueError."""
    return _one_of(TRANSPORTS, *_given(None, "", "FLEXSC_TRANSPORTS")) == "own"


def _given(argument: object, name: str, variable: str) -> tuple[object, str]:
    """The value to use and how to call it in a message."""
    if argument is not None:
        return argument, name
    return os.environ.get(variable) or "auto", variable


def _one_of(known: tuple[str, ...], value: object, name: str) -> str:
    if isinstance(value, str) and value in known:
        return value
    raise ValueError(f"{name}={value!r} is not known: use one of {', '.join(known)}")


def _threads(value: object, name: str) -> str | tuple[int, ...]:
    if isinstance(value, str) and value in THREADS:
        return value
    online = _online()
    parts = value if isinstance(value, list | tuple) else str(value).split(",")
    try:
        cpus = tuple(int(str(part)) for part in parts)
    except ValueError:
        cpus = ()
    if cpus and all(cpu in online for cpu in cpus):
        return cpus
    raise ValueError(
        f"{name}={value!r} is not known: use one of {', '.join(THREADS)}, "
        f"or a list of CPUs such as 1 or 1,3, out of {', '.join(map(str, sorted(online)))}"
    )


def _online() -> set[int]:
    """The CPUs of this machine, whether or not this process may run on them."""
    try:
        with open("/sys/devices/system/cpu/online") as file:
            text = file.read().strip()
    except OSError:
        return set(range(os.cpu_count() or 1))
    cpus: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        cpus.update(range(int(first), int(last or first) + 1))
    return cpus
