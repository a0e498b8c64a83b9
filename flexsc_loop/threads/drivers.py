"""Floor 5: modules that wait in C unless told how else to: database drivers, pyOpenSSL, semaphores of processes.

Owns: who is told when a module has been imported.  Imports: descriptors, green, waiting.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import os
import select
import sys
import time
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from flexsc_loop.threads import descriptors
from flexsc_loop.threads.green import current_thread
from flexsc_loop.threads.waiting import in_place_of

_poll: Any = select.poll


class _Importing(importlib.abc.MetaPathFinder):
    """Calls `then(module)` as soon as the module `name` has been imported, once."""

    def __init__(self, name: str, then: Callable[[Any], None]) -> None:
        self.name, self.then = name, then

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Source: importlib.abc.MetaPathFinder.find_spec."""
        if fullname != self.name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        loader: Any = None if spec is None else spec.loader
        if loader is None:
            return spec
        plain = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            plain(module)
            self.then(module)

        loader.exec_module = exec_module
        return spec


def _once_imported(name: str, then: Callable[[Any], None]) -> None:
    module = sys.modules.get(name)
    if module is not None:
        then(module)
    elif not any(isinstance(one, _Importing) and one.name == name for one in sys.meta_path):
        sys.meta_path.insert(0, _Importing(name, then))


def wait_for_psycopg2(connection: Any) -> None:
    """A wait callback for psycopg2.  In a green thread others run meanwhile.

    Source: psycopg2.extensions.set_wait_callback.
    """
    while state := connection.poll():
        writes = state == 2  # POLL_WRITE; 1 is POLL_READ
        if current_thread() is not None:
            (descriptors.wait_writable if writes else descriptors.wait_readable)(connection.fileno())
        else:
            poll = _poll()
            poll.register(connection.fileno(), select.POLLOUT if writes else select.POLLIN)
            poll.poll()


def _tell_psycopg2(module: Any) -> None:
    if module.extensions.get_wait_callback() is None:
        module.extensions.set_wait_callback(wait_for_psycopg2)


def _tell_psycopg(module: Any) -> None:
    module.wait = getattr(module, "wait_poll", module.wait_selector)


def tell_psycopg() -> None:
    """Have psycopg 3 wait in Python, as it does where it has no part in C."""
    _once_imported("psycopg.waiting", _tell_psycopg)


def tell_psycopg2() -> None:
    """Have psycopg2 wait by a callback of ours, unless there is one.  COPY and large objects do not work with any."""
    _once_imported("psycopg2", _tell_psycopg2)


# ---- pyOpenSSL, whose connections read and write their sockets in C


def _waits_for_its_socket(module: Any, plain: Any) -> Any:
    """A method of OpenSSL.SSL.Connection: tried until it need not wait.  A socket with a time-out never waits in it."""

    @in_place_of(plain)
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        if current_thread() is None or self._socket is None or not os.get_blocking(fd := self.fileno()):
            return plain(self, *args, **kwargs)
        wait: Callable[[int], bool]
        while True:
            os.set_blocking(fd, False)
            try:
                return plain(self, *args, **kwargs)
            except module.WantReadError:
                wait = descriptors.wait_readable
            except module.WantWriteError:
                wait = descriptors.wait_writable
            finally:
                os.set_blocking(fd, True)
            wait(fd)

    return method


TLS_PIECE = 16384  # bytes of one record


def _send_all(self: Any, buf: Any, flags: int = 0) -> int:
    """Source: OpenSSL.SSL.Connection.sendall."""
    view = memoryview(buf.encode() if isinstance(buf, str) else buf).cast("B")
    done = 0
    while done < len(view):
        done += self.send(view[done : done + TLS_PIECE], flags)
    return done


def _tell_pyopenssl(module: Any) -> None:
    connection = module.Connection
    for name in ("do_handshake", "recv", "recv_into", "send", "shutdown"):
        setattr(connection, name, _waits_for_its_socket(module, getattr(connection, name)))
    connection.read, connection.write, connection.sendall = connection.recv, connection.send, _send_all


def tell_pyopenssl() -> None:
    """Have its connections wait for their sockets in Python."""
    _once_imported("OpenSSL.SSL", _tell_pyopenssl)


# ---- multiprocessing's locks, semaphores, conditions and events

LOOK_FIRST_S, LOOK_LAST_S = 0.0005, 0.01
RECURSIVE = 0  # a kind of semaphore.  Source: multiprocessing.synchronize.RECURSIVE_MUTEX.


class _Semaphore:
    """Takes one that other processes may hold, which tell nobody: a green thread looks again and again.

    The kernel does not know of green threads: which of them has a recursive one is kept here.
    """

    def __init__(self, plain: Any) -> None:
        self.plain = plain
        self.owner: Any = None

    def attempt(self) -> bool:
        thread = current_thread()
        if self.plain.kind == RECURSIVE and self.plain._is_mine() and self.owner is not thread:
            return False
        taken: bool = self.plain.acquire(False)
        if taken:
            self.owner = thread
        return taken

    def acquire(self, block: bool = True, timeout: float | None = None) -> bool:
        """Source: multiprocessing.Semaphore.acquire."""
        thread = current_thread()
        if thread is None:
            return self.plain.acquire(block, timeout)  # type: ignore[no-any-return]
        until = None if timeout is None else time.monotonic() + timeout
        pause = LOOK_FIRST_S
        while not self.attempt():
            left = LOOK_LAST_S if until is None else until - time.monotonic()
            if not block or left <= 0:
                return False
            thread.wait(min(pause, left))
            pause = min(2 * pause, LOOK_LAST_S)
        return True


def _tell_synchronize(module: Any) -> None:
    plain = module.SemLock._make_methods

    def make_methods(self: Any) -> None:
        plain(self)
        self.acquire = _Semaphore(self._semlock).acquire

    def enter(self: Any) -> bool:
        return self.acquire()  # type: ignore[no-any-return]

    module.SemLock._make_methods, module.SemLock.__enter__ = make_methods, enter


def tell_multiprocessing() -> None:
    """Have its semaphores let other green threads run while one waits for them."""
    _once_imported("multiprocessing.synchronize", _tell_synchronize)
